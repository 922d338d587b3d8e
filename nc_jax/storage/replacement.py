"""Atomic replacement of a store, and the lock that excludes a second writer."""

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock

from ..paths import local_path

# Beside a store `name` there may be a file `.name.nc_jax-lock`, and folders `.name.nc_jax-` with
# eight random characters. None of these characters is a dot, so that the part before the last dot
# names the one store that the file or folder belongs to. A store with such a name is refused.
_MARK = ".nc_jax-"
_RESERVED = re.compile(r"\..*\.nc_jax-[a-z0-9_]+", re.DOTALL)
# The errors of filelock where another process removes the folder of the lock at the same time. The
# second error comes from a mkdir that finds the folder, and a moment later does not find it.
_FOLDER_REMOVED = (FileNotFoundError, FileExistsError)


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether there is a Zarr store at this path.

    Raises: ValueError for a URL or an empty path.

    Example:

        >>> nc.storage.is_store("no/such/store.zarr")
        False
    """
    # Every store of Zarr's format 3 has this file.
    return (local_path(path) / "zarr.json").is_file()


def check_replaceable(path: Path) -> None:
    """Refuse a path for a store where something else exists, or within another store.

    Raises: FileExistsError.

    Example:

        >>> (folder / "thesis").mkdir()
        >>> nc.storage.check_replaceable(folder / "thesis")
        Traceback (most recent call last):
        FileExistsError: .../thesis exists and is not a Zarr store: give another path.
    """
    for parent in path.absolute().parents:
        if is_store(parent):
            raise FileExistsError(
                f"{path} lies within the Zarr store {parent}, which is replaced as a whole: give a "
                "path outside of it."
            )
    if _is_something_else(path):
        raise FileExistsError(f"{path} exists and is not a Zarr store: give another path.")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write a store at; after the block, move that store to `path`.

    If the block raises, the store at `path` stays as it is.
    """
    check_replaceable(path)
    target = _target(path)
    with _errors_name(path), contextlib.ExitStack() as stack:
        _make_folder(target.parent)
        _remove_abandoned(target)
        # A store is a folder of many files, and only a rename is atomic. The new store is written
        # beside the target, since a rename from another disk is not possible.
        scratch = _locked_scratch(target, stack)
        try:
            yield scratch / "fresh"
            _put_in_place(scratch, target)
        finally:
            # The lock is released after the removal: it shows other processes that the writer of
            # the folder is alive.
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Hold the lock of the store at `path`; the system releases the lock of a killed process.

    Raises: RuntimeError if another process holds it; OSError if nothing can be written there.

    Example:

        >>> with nc.storage.writing(folder / "flow.zarr"):
        ...     with nc.storage.writing(folder / "flow.zarr"):
        ...         pass
        Traceback (most recent call last):
        RuntimeError: ...: another process is writing there; wait for it or give another path.
    """
    target = _target(path)
    lock = target.parent / f".{target.name}{_MARK}lock"
    with contextlib.ExitStack() as stack:
        with _errors_name(path):
            _make_folder(target.parent)
            # Opened first, since FileLock takes some errors of the system for a lock that another
            # process holds.
            lock.open("ab").close()
            try:
                stack.enter_context(filelock.FileLock(lock, blocking=False))
            except filelock.Timeout:
                raise RuntimeError(
                    f"{path}: another process is writing there; wait for it or give another path."
                ) from None
            _remove_abandoned(target)
        yield


def _is_something_else(path: Path) -> bool:
    """Whether `path` holds something that is not a store; other processes may replace a store."""
    while True:
        before = _identity(path)
        if before is None or is_store(path):
            return False
        # Another process that replaces a store moves the old one away and then the new one there.
        # The answer of `is_store` counts only if the folder has been the same before and after it.
        if _identity(path) == before:
            return True


def _identity(path: Path) -> tuple[int, int] | None:
    """The device and inode of what is at `path`; None if there is nothing."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def _locked_scratch(target: Path, stack: contextlib.ExitStack) -> Path:
    """A new folder beside the target, with a lock in it that `stack` holds."""
    while True:
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}{_MARK}"))
        # Between the creation of the lock file and the lock on it, another writer may remove the
        # folder as abandoned. Then this process creates another folder.
        with contextlib.suppress(*_FOLDER_REMOVED), contextlib.ExitStack() as attempt:
            attempt.enter_context(filelock.FileLock(scratch / "lock"))
            # The lock of a file that was removed excludes nobody.
            if (scratch / "lock").exists():
                stack.push(attempt.pop_all())
                return scratch


def _put_in_place(scratch: Path, target: Path) -> None:
    """Move `fresh` to the target and the store there to `stale`; on an error move it back."""
    fresh, stale = scratch / "fresh", scratch / "stale"
    # Two renames, since a rename does not replace a folder that has files in it.
    while True:
        if target.exists():
            with contextlib.suppress(FileNotFoundError):  # another process has moved it
                target.rename(stale)
        try:
            fresh.rename(target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                # Another process has moved a store there between the two renames. It is replaced
                # too, and the place for the old store must be free.
                shutil.rmtree(stale, ignore_errors=True)
                continue
            if stale.exists():
                stale.rename(target)
            raise
        return


def _remove_abandoned(target: Path) -> None:
    """Complete a replacement that a killed process has begun, and remove its folder."""
    for scratch in target.parent.iterdir():
        belongs = scratch.name.rpartition(".")[0] == f".{target.name}"
        if not (belongs and _RESERVED.fullmatch(scratch.name) and scratch.is_dir()):
            continue
        # A writer that is at work holds the lock (Timeout). A writer that ends removes its folder,
        # possibly while this loop reads it (the other errors).
        with contextlib.suppress(*_FOLDER_REMOVED, filelock.Timeout):
            if not any(scratch.iterdir()):
                continue  # its writer has created it and is about to lock it
            with filelock.FileLock(scratch / "lock", blocking=False):
                # The writer was killed between the two renames, when there is no store at the
                # target; its new store was complete.
                if not target.exists() and (scratch / "stale").exists():
                    (scratch / "fresh").rename(target)
                shutil.rmtree(scratch, ignore_errors=True)


def _target(path: Path) -> Path:
    """The path with links followed, so that all processes use one name for a store."""
    # A rename would move the link, and not the store that it leads to.
    target = Path(os.path.realpath(path))
    if _RESERVED.fullmatch(target.name):
        raise ValueError(
            f"path = {path}: names with '{_MARK}' are reserved for temporary files; give another "
            "name."
        )
    return target


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        # There is a file in the place of the folder. Python's error says that the file exists, not
        # that it is no folder.
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error


@contextlib.contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Convert errors of the system, so that they name the user's path and not a temporary one."""
    try:
        yield
    except OSError as error:
        # An error with a message alone, which is not of the system, has no number.
        if error.errno is None:
            raise
        raise OSError(
            error.errno,
            f"cannot write there ({os.strerror(error.errno)}); give a path that can be written",
            str(path),
        ) from None
