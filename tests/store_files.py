"""The files of a store, for comparisons byte by byte, and folders that cannot be written."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink")
# Folders that are read-only now.
_locked: list[Path] = []
_installed = False


def files_of(path: Path) -> dict[str, bytes]:
    """Content of every file below a folder, by its relative path."""
    return {
        str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder in which this process cannot write.

    By a hook of Python's, since permissions do not stop root, and another user might not be able to
    read the packages.
    """
    _install_hook()
    _locked.append(folder)
    try:
        with pytest.raises(PermissionError):
            (folder / "probe").touch()
        yield
    finally:
        _locked.remove(folder)


def _refuse_changes(event: str, arguments: tuple) -> None:
    if not _locked or not (event == "open" or event in _CHANGES):
        return
    paths = arguments[:2] if event in ("os.rename", "os.link", "os.symlink") else arguments[:1]
    reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    for path in paths:
        if reads or not isinstance(path, (str, os.PathLike)):
            continue
        if any(Path(path).is_relative_to(folder) for folder in _locked):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))


def _install_hook() -> None:
    # Once a process: a hook cannot be removed.
    global _installed
    if not _installed:
        sys.addaudithook(_refuse_changes)
        _installed = True
