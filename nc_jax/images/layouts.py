"""Names of sets as people write them, and where their files lie in the folders people have."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from . import idx

NAMES = ("digits", "mnist-5000", "mnist", "fashion-mnist", "kmnist", "cifar10")

# By the name without what is neither letter nor digit, in small letters.
_STANDARD = {
    **{name.replace("-", ""): name for name in NAMES},
    "fmnist": "fashion-mnist",
    "kuzushijimnist": "kmnist",
}
# Folders between the given one and CIFAR-10's batches: none, that of the archive, one more.
_DEPTHS = ("", "*/", "*/*/")


def standard_name(name: str) -> str:
    """The name of a set in `NAMES`, given in capitals or as papers write it; others unchanged.

    Example: `standard_name("CIFAR-10")` is "cifar10", `standard_name("FashionMNIST")`
    "fashion-mnist".
    """
    return _STANDARD.get("".join(filter(str.isalnum, name)).lower(), name)


def find_idx(name: str, folder: Path, file: str) -> tuple[Path, bytes] | None:
    """One of a set's four IDX files below a folder, with its content uncompressed; None without.

    Folders named as the set, and their `raw`, are searched before the given one: torchvision's
    root holds several sets under the same file names. In each place the file may have its
    published name or `train-images.idx3-ubyte`, be compressed by gzip, lie in a folder of its
    name, or be an array of KMNIST's or Keras's npz files, whose content as IDX is returned.
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
    """CIFAR-10's files of some batches, in a folder or up to two deeper; None without the first.

    The Python version comes before the binary one, and what lies less deep before the rest.
    """
    for depth in _DEPTHS:
        for suffix in ("", ".bin"):
            first = sorted(filter(Path.is_file, folder.glob(f"{depth}{batches[0]}{suffix}")))
            if first:
                return [first[0].with_name(f"{batch}{suffix}") for batch in batches]
    return None


def _places(name: str, folder: Path) -> Iterator[Path]:
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
    """Files in which an array may be, and its name there."""
    split = "train" if file.startswith("train") else "test"
    images = "images" in file
    # KMNIST's: one file for each array. Keras's: all four in one, which may be given itself.
    yield place / f"{name}-{split}-{'imgs' if images else 'labels'}.npz", "arr_0"
    key = f"{'x' if images else 'y'}_{split}"
    for path in (place, place / f"{name}.npz", place / f"{name.replace('-', '_')}.npz"):
        if path.suffix == ".npz":
            yield path, key


def _read_npz(path: Path, key: str) -> UInt8[np.ndarray, "..."]:
    try:
        # Of a file that is no archive NumPy leaves open what it has opened itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            array = arrays[key]
    # TypeError: an array by itself, as `np.save` writes it, is no archive.
    except (KeyError, TypeError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}: no array {key} can be read from it ({reason}); fetch it again."
        ) from None
    if array.dtype != np.uint8 or array.ndim not in (1, 3):
        raise ValueError(
            f"{path}: {key} is {array.dtype} of shape {array.shape}; give the published file, of "
            "uint8 in (N, 28, 28) and (N,)."
        )
    return array
