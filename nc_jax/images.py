"""Image sets from disk, checked before they are used: shape, range, checksum.

Files are read in the formats they are published in. Nothing is downloaded.
"""

import gzip
import hashlib
import math
import zlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

Split = Literal["train", "test"]

# Where Debian's package dataset-fashion-mnist puts the files.
_FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip
# SHA-256 of the files uncompressed: mirrors compress them anew.
_FASHION_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_GZIP_MAGIC = b"\x1f\x8b"
# Two zeros, 08 for unsigned bytes, the number of axes.
_IDX_MAGIC = tuple(bytes((0, 0, 0x08, axes)) for axes in range(1, 5))


class ImageSet(NamedTuple):
    """Images with their classes.

    Attributes:
        images: (N, H, W) gray values or (N, H, W, C) colours in [0, 1], float32.
        labels: (N,) classes, int32, in 0..len(classes)−1.
        classes: names.
    """

    images: Float[np.ndarray, "N H W *C"]
    labels: Int[np.ndarray, " N"]
    classes: tuple[str, ...]


def load_digits(split: Split = "train") -> ImageSet:
    """The 1797 handwritten digits of 8 x 8 pixels that come with scikit-learn.

    They have no split of their own: every fifth is a test image. The rule is fixed, and draws
    nothing, so that everyone's test images are the same.

    Raises: ModuleNotFoundError without scikit-learn; ValueError for another split.

    Example: `load_digits().images` is (1438, 8, 8).
    """
    _check_split(split)
    try:
        from sklearn import datasets
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "load_digits needs scikit-learn: pip install 'nc_jax[images]'"
        ) from None
    pixels, labels = map(np.asarray, datasets.load_digits(return_X_y=True))
    chosen = (np.arange(len(labels)) % 5 == 4) == (split == "test")
    images = (pixels[chosen] / 16).astype(np.float32).reshape(-1, 8, 8)
    return ImageSet(images, labels[chosen].astype(np.int32), tuple("0123456789"))


def load_fashion_mnist(
    split: Split = "train", folder: str | PathLike[str] | None = None
) -> ImageSet:
    """Fashion-MNIST, 28 x 28 pixels, 60 000 training or 10 000 test images, from its IDX files.

    Args: `folder` holds them under their published names, compressed or not; None means where
    Debian's package dataset-fashion-mnist puts them.

    Raises: FileNotFoundError where they are not; ValueError for a file that is not the published
    one, or another split.

    Example: `load_fashion_mnist("test").labels`.
    """
    _check_split(split)
    folder = _FASHION_MNIST_FOLDER if folder is None else Path(folder)
    prefix = "train" if split == "train" else "t10k"
    images, labels = (
        _published(folder, f"{prefix}-{part}-ubyte") for part in ("images-idx3", "labels-idx1")
    )
    return _image_set(images, labels, _FASHION_MNIST_CLASSES)


def load_idx(
    images: str | PathLike[str], labels: str | PathLike[str], classes: Sequence[str]
) -> ImageSet:
    """A pair of IDX files, the format of MNIST and its kin, compressed or not.

    Raises: FileNotFoundError; ValueError for files that are no IDX files of bytes, are cut short or
    go on after their end, or do not belong together.

    Example: `load_idx("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "0123456789")`.
    """
    return _image_set(read_idx(images), read_idx(labels), tuple(classes))


def read_idx(path: str | PathLike[str]) -> UInt8[np.ndarray, "..."]:
    """The array of one IDX file of unsigned bytes, compressed by gzip or not; read-only.

    Raises: as `load_idx`.

    Example: `read_idx("t10k-images-idx3-ubyte.gz").shape` is (10000, 28, 28).
    """
    return _parse_idx(Path(path), _read(Path(path)))


def two_classes(
    data: ImageSet, negative: int, positive: int, num_samples: int | None = None
) -> tuple[Float[np.ndarray, "N d"], Float[np.ndarray, " N"]]:
    """Flat inputs (N, d) and targets ±1 (N,) of two classes, the first half of each, in order.

    Args: `num_samples` of both together, an even number; None means all there are.

    Raises: ValueError for a class that is none, one given twice, or more samples than there are.

    Example: `two_classes(load_digits(), 3, 8, 60)`.
    """
    if num_samples is not None and num_samples % 2:
        raise ValueError(f"num_samples = {num_samples}: give an even number, half for each class.")
    each = None if num_samples is None else num_samples // 2
    inputs, one_hot = several_classes(data, (negative, positive), each)
    return inputs, one_hot[:, 1] - one_hot[:, 0]


def several_classes(
    data: ImageSet, classes: Sequence[int], samples_per_class: int | None = None
) -> tuple[Float[np.ndarray, "N d"], Float[np.ndarray, "N C"]]:
    """Flat inputs (N, d) and one-hot targets (N, C) of some classes, the first of each, in order.

    Args: `samples_per_class`; None means all there are.

    Raises: as `two_classes`.

    Example: `several_classes(load_digits(), (0, 1, 2), 20)`.
    """
    if not 0 < len(classes) == len(set(classes)):
        raise ValueError(f"classes = {list(classes)}: give one or more, each once.")
    rows = np.sort(np.concatenate([_first(data, c, samples_per_class) for c in classes]))
    inputs = data.images[rows].reshape(len(rows), -1).astype(np.float64)
    return inputs, (data.labels[rows, None] == np.asarray(classes)).astype(np.float64)


def unit_ball(
    inputs: Float[np.ndarray, "_ d"], *others: Float[np.ndarray, "_ d"]
) -> tuple[Float[np.ndarray, "_ d"], ...]:
    """Inputs over the largest norm among all of them, so that ‖x‖ <= 1 (Rangamani, section 3.2).

    Returns as many arrays as given, (N, d) each.

    Raises: ValueError for inputs that are all zero, or not finite.

    Example: `training, test = unit_ball(training, test)`.
    """
    parts = (inputs, *others)
    largest = np.max([np.linalg.norm(part, axis=1).max(initial=0) for part in parts])
    if not 0 < largest < np.inf:
        raise ValueError(f"inputs: the largest norm is {largest}; give finite ones, not all zero.")
    return tuple(part / largest for part in parts)


def _check_split(split: str) -> None:
    if split not in ("train", "test"):
        raise ValueError(f"split = {split!r}: give 'train' or 'test'.")


def _first(data: ImageSet, label: int, count: int | None) -> Int[np.ndarray, " n"]:
    """Rows of the first `count` images of a class, or of all."""
    rows = np.flatnonzero(data.labels == label)
    if not len(rows):
        raise ValueError(
            f"class {label}: no image is of it; give one of 0..{len(data.classes) - 1}."
        )
    if count is not None and not 1 <= count <= len(rows):
        raise ValueError(
            f"{count} samples of class {label}: it has {len(rows)}; give 1 to as many."
        )
    return rows[:count]


def _published(folder: Path, name: str) -> UInt8[np.ndarray, "..."]:
    """The array of one of Fashion-MNIST's files, which has to be the published one."""
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{folder}: no {name} or {name}.gz there; install Debian's package "
            "dataset-fashion-mnist, or give the folder that holds the four IDX files."
        )
    content, published = _read(path), _FASHION_MNIST_SHA256[name]
    found = hashlib.sha256(content).hexdigest()
    if found != published:
        raise ValueError(
            f"{path}: SHA-256 of its content is {found[:12]}… and that of Fashion-MNIST "
            f"{published[:12]}…; give the published file."
        )
    return _parse_idx(path, content)


def _read(path: Path) -> bytes:
    """The content of a file, uncompressed."""
    content = path.read_bytes()
    if not content.startswith(_GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip file ({error}); fetch it again.") from None


def _parse_idx(path: Path, content: bytes) -> UInt8[np.ndarray, "..."]:
    """IDX: the magic number, the length of each axis, the values."""
    if not content.startswith(_IDX_MAGIC):
        raise ValueError(
            f"{path}: begins with {content[:4].hex(' ') or 'nothing'}; give an IDX file of "
            "unsigned bytes, which begins with 00 00 08 and the number of axes, 01 to 04."
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(
            f"{path}: ends in its header, after {len(content)} of {start} bytes; fetch it again."
        )
    # Python's integers: the product of four lengths can pass 2^64.
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    described = f"{' x '.join(map(str, shape))} = {math.prod(shape)}"
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"{path}: has {len(content) - start} bytes after its header, which says {described}; "
            "fetch it again."
        )
    if 0 in shape:
        raise ValueError(f"{path}: has no values, {described}; give a file that does.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _image_set(
    images: UInt8[np.ndarray, "..."], labels: UInt8[np.ndarray, "..."], classes: tuple[str, ...]
) -> ImageSet:
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise ValueError(
            f"images of shape {images.shape} with labels of shape {labels.shape}: give files of "
            "(N, H, W) and (N,)."
        )
    if labels.max() >= len(classes):
        raise ValueError(
            f"labels go to {labels.max()} with {len(classes)} classes: give a name for each."
        )
    return ImageSet(images.astype(np.float32) / 255, labels.astype(np.int32), classes)
