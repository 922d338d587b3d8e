"""Download of published files; a file is stored only if its checksum is the published one."""

import tarfile
import textwrap
from pathlib import Path
from types import ModuleType

from .published import PUBLISHED


def cache_folder(name: str) -> Path:
    """The folder of a set in the user's cache, for downloads without a `folder`.

    Raises: ModuleNotFoundError without pooch.
    """
    return Path(_pooch().os_cache("nc_jax")) / name


def fetch(name: str, folder: Path) -> None:
    """Download a set's published files into a folder, except those that are there without damage.

    Raises: ModuleNotFoundError without pooch; OSError where no address has the published file.
    """
    published = PUBLISHED[name]
    for file, md5 in published.files.items():
        _fetch_file(published.addresses, file, md5, folder)
        if published.members:
            with tarfile.open(folder / file) as archive:
                # With the filter "data" Python refuses members that would lie outside of the
                # folder.
                members = [archive.getmember(member) for member in published.members]
                archive.extractall(folder, members, filter="data")


def _fetch_file(addresses: tuple[str, ...], file: str, md5: str, folder: Path) -> None:
    """Download a file. Pooch checks its MD5 and only then moves it into the folder."""
    pooch = _pooch()
    from requests import RequestException  # pooch depends on it

    failures = []
    for address in addresses:
        try:
            pooch.retrieve(address + file, f"md5:{md5}", file, folder, progressbar=True)
            return
        # Pooch raises ValueError for a file with another checksum; the next address is tried then.
        except (RequestException, ValueError) as error:
            cause = error.args[0] if error.args else type(error).__name__
            # For a failed connection the cause lists all attempts; its `reason` is the short error.
            reason = str(getattr(cause, "reason", cause))
            failures.append(f"{address}{file}: {textwrap.shorten(reason, 200, placeholder='…')}")
    raise OSError(f"{'; '.join(failures)}; download {file} by hand into {folder}.")


def _pooch() -> ModuleType:
    try:
        import pooch
    except ModuleNotFoundError:
        raise ModuleNotFoundError("download=True needs pooch: pip install 'nc_jax[cnn]'") from None
    return pooch
