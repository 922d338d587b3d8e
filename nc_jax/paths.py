"""How a path that a user gives is read, the same at every function that takes one."""

import os
import re
from pathlib import Path

# As in s3://bucket/run.zarr, also after pathlib has removed a slash, and simplecache::s3://...
# One letter is a drive of Windows.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:[/:]")


def local_path(path: str | os.PathLike[str], name: str = "path") -> Path:
    """A path of the local file system, with the home folder in the place of `~` or `~user`.

    Every function of the package that takes a path reads it with this function, so that what one
    writes the others find. A folder whose name begins with `~` is given as `./~name`. The result
    may be read again: nothing changes then.

    Args: `name` of the argument, for the message.

    Raises: ValueError for a URL, an empty path, what is no path, or a home that is not known.

    Example: `local_path("~/results/flow.zarr")`.
    """
    if not isinstance(path, (str, os.PathLike)) or not isinstance(text := os.fspath(path), str):
        raise ValueError(f"{name} = {path!r}: give a path as text or as pathlib.Path.")
    if not text or "\0" in text:
        raise ValueError(f"{name} = {text!r}: give a path that is not empty and has no null byte.")
    if _URL.match(text):
        raise ValueError(
            f"{name} = {text!r}: is a URL; give a path of the local file system, such as "
            "'results/run.zarr'."
        )
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise ValueError(
            f"{name} = {text!r}: there is no such home folder; give ./{text} for a path in the "
            "current folder."
        )
    # pathlib removes the ./ of ./~name, which would be a home when it is read again.
    local = Path(expanded)
    return local.absolute() if str(local).startswith("~") else local
