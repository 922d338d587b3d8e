"""The files of a store, byte by byte, and folders in which a process can change nothing more."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink")
# Folders with the number of changes that they still allow.
_locked: dict[Path, int] = {}
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
    with killed_after(folder, 0):
        with pytest.raises(PermissionError):
            (folder / "probe").touch()
        yield


@contextlib.contextmanager
def killed_after(folder: Path, changes: int) -> Iterator[None]:
    """A folder whose files are as if this process were killed after a number of changes.

    Each later change raises PermissionError, also those by which code would clean up after itself.
    """
    _install_hook()
    _locked[folder] = changes
    try:
        yield
    finally:
        del _locked[folder]


def _refuse_changes(event: str, arguments: tuple) -> None:
    if not _locked or not (event == "open" or event in _CHANGES):
        return
    paths = arguments[:2] if event in ("os.rename", "os.link", "os.symlink") else arguments[:1]
    reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    for path in paths:
        if reads or not isinstance(path, (str, os.PathLike)):
            continue
        for folder, left in _locked.items():
            if not Path(path).is_relative_to(folder):
                continue
            if left == 0:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
            _locked[folder] = left - 1


def assert_same_files(path: Path, files: dict[str, bytes]) -> None:
    """The files below a folder, byte by byte, with a message that names the files that differ."""
    found = files_of(path)
    differing = [name for name in {**files, **found} if found.get(name) != files.get(name)]
    assert not differing, f"{path} differs in {differing}"


def _install_hook() -> None:
    # Once a process: a hook cannot be removed.
    global _installed
    if not _installed:
        sys.addaudithook(_refuse_changes)
        _installed = True
