"""Spellings of the sets' names, and where common folder layouts have the sets' files."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from . import idx

NAMES = ("digits", "mnist-5000", "mnist", "fashion-mnist", "kmnist", "cifar10")

# Names by a spelling that has small letters and digits only.
_STANDARD = {
    **{name.replace("-", ""): name for name in NAMES},
    "fmnist": "fashion-mnist",
    "kuzushijimnist": "kmnist",
}
# Patterns of the folders between the given one and CIFAR-10's batches: no folder; the folder in the
# archive; and in addition a folder that is named after the archive.
_DEPTHS = ("", "*/", "*/*/")


def standard_name(name: str) -> str:
    """The entry of `NAMES` for another spelling of it; any other name is returned unchanged.

    Example:
        >>> from nc_jax import images
        >>> images.standard_name("CIFAR-10"), images.standard_name("FashionMNIST")
        ('cifar10', 'fashion-mnist')
    """
    return _STANDARD.get("".join(filter(str.isalnum, name)).lower(), name)


def find_idx(name: str, folder: Path, file: str) -> tuple[Path, bytes] | None:
    """The path and the uncompressed content of one of a set's IDX files; None if there is none.

    Folders with the set's name and folders `raw` in them are searched before the given folder,
    since torchvision's root contains several sets with the same file names. In each place the file
    may have its published name or one such as `train-images.idx3-ubyte`, be compressed by gzip, or
    be in a folder of the same name. It may also be an array in an npz file of KMNIST or Keras; this
    array is returned in the IDX format, so that its checksum can be compared.
    """
    for place in _places(name, folder):
        for path in _idx_paths(place, file):
            if path.is_file():
                return path, idx.read(path)
        for path, key in _npz_arrays(name, place, file):
            if path.is_file():
                return path, idx.content_of(_read_npz(path, key))
    return None


def find_cifar10(folder: Path, batches: tuple[str, ...]) -> list[Path] | None:
    """The files of some batches of CIFAR-10, at most two folders deep.

    A file in fewer folders is preferred, and at the same depth the Python version. The result is
    None if the first batch is not found; the others need not exist.
    """
    for depth in _DEPTHS:
        for suffix in ("", ".bin"):
            first = sorted(filter(Path.is_file, folder.glob(f"{depth}{batches[0]}{suffix}")))
            if first:
                return [first[0].with_name(f"{batch}{suffix}") for batch in batches]
    return None


def _places(name: str, folder: Path) -> Iterator[Path]:
    """Folders to search, in this order."""
    below = sorted(folder.iterdir()) if folder.is_dir() else []
    named = [path for path in below if standard_name(path.name) == name and path.is_dir()]
    for place in [*named, folder]:
        yield place / "raw"
        yield place


def _idx_paths(place: Path, file: str) -> Iterator[Path]:
    dotted = file.replace("-idx", ".idx")
    for name in (file, dotted):
        yield place / name
        yield place / f"{name}.gz"
        yield place / name / name


def _npz_arrays(name: str, place: Path, file: str) -> Iterator[tuple[Path, str]]:
    """npz files that may contain an array, with the name of the array in them."""
    split = "train" if file.startswith("train") else "test"
    images = "images" in file
    # KMNIST publishes one file for each array. Keras has all four arrays in one file, and a user
    # may give the path of this file in the place of a folder.
    yield place / f"{name}-{split}-{'imgs' if images else 'labels'}.npz", "arr_0"
    key = f"{'x' if images else 'y'}_{split}"
    for path in (place, place / f"{name}.npz", place / f"{name.replace('-', '_')}.npz"):
        if path.suffix == ".npz":
            yield path, key


def _read_npz(path: Path, key: str) -> UInt8[np.ndarray, "..."]:
    try:
        # The file is opened here, because NumPy leaves a file open that turns out to be no archive.
        # Pickled arrays are refused, since they could execute code.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            array = arrays[key]
    # A file of `np.save` contains one array without a name: `with` raises TypeError for an array.
    except (KeyError, TypeError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}: no array {key} can be read from it ({reason}); download it again."
        ) from None
    if array.dtype != np.uint8 or array.ndim not in (1, 3):
        raise ValueError(
            f"{path}: {key} is {array.dtype} of shape {array.shape}; give the published file, of "
            "uint8 in (N, 28, 28) and (N,)."
        )
    return array
