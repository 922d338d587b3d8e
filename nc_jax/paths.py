"""Convert the paths that users give: one function for all functions that take a path."""

import os
import re
from pathlib import Path

# Matches s3://bucket/run.zarr, also with one slash, as pathlib writes it, and simplecache::s3://...
# At least two characters before the colon: a single letter is a drive of Windows.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:[/:]")


def local_path(path: str | os.PathLike[str], *, name: str = "path") -> Path:
    """Convert a path to one of the local file system, with `~` or `~user` as the home folder.

    Every function of the package that takes a path converts it with this function, so that all of
    them find the same file. Give a folder whose name begins with `~` as `./~name`. A second
    conversion changes nothing.

    Args:
        path: text or an `os.PathLike`.
        name: of the argument, for the message.

    Raises: ValueError for a URL, an empty path, a value that is no path, or a home folder that does
    not exist.

    Example:

        >>> import pathlib
        >>> from nc_jax.paths import local_path
        >>> local_path("~/results/flow.zarr") == pathlib.Path.home() / "results" / "flow.zarr"
        True
    """
    # `fspath` of an `os.PathLike` may return bytes, which are refused too.
    if not isinstance(path, (str, os.PathLike)) or not isinstance(text := os.fspath(path), str):
        raise ValueError(f"{name} = {path!r}: give a path as text or as pathlib.Path.")
    if not text or "\0" in text:
        raise ValueError(f"{name} = {text!r}: give a path that is not empty and has no null byte.")
    if _URL.match(text):
        raise ValueError(
            f"{name} = {text!r}: is a URL; give a path of the local file system, such as "
            "'results/run.zarr'."
        )
    # `expanduser` leaves `~user` as it is where there is no such user; `pathlib` would raise a
    # RuntimeError.
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise ValueError(
            f"{name} = {text!r}: there is no such home folder; give ./{text} for a path in the "
            "current folder."
        )
    # pathlib removes the ./ of ./~name, and a second conversion would take ~name for a home folder.
    local = Path(expanded)
    return local.absolute() if str(local).startswith("~") else local
