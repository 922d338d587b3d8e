"""IDX files, the format of MNIST and its kin, compressed by gzip or not."""

import gzip
import math
import zlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ..paths import local_path
from .image_set import ImageSet, from_bytes

_GZIP_MAGIC = b"\x1f\x8b"
# Two zeros, 08 for unsigned bytes, the number of axes.
_IDX_MAGIC = tuple(bytes((0, 0, 0x08, axes)) for axes in range(1, 5))


def load_idx(
    images: str | PathLike[str], labels: str | PathLike[str], classes: Sequence[str]
) -> ImageSet:
    """A pair of IDX files, the format of MNIST and its kin, compressed or not.

    Raises: FileNotFoundError; ValueError for files that are no IDX files of bytes, are cut short or
    go on after their end, or do not belong together.

    Example: `load_idx("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "0123456789")`.
    """
    return pair(read_idx(images), read_idx(labels), tuple(classes))


def read_idx(path: str | PathLike[str]) -> UInt8[np.ndarray, "..."]:
    """The array of one IDX file of unsigned bytes, compressed by gzip or not; read-only.

    Raises: as `load_idx`.

    Example: `read_idx("t10k-images-idx3-ubyte.gz").shape` is (10000, 28, 28).
    """
    where = local_path(path)
    return parse(where, read(where))


def read(path: Path) -> bytes:
    """The content of a file, uncompressed."""
    content = path.read_bytes()
    if not content.startswith(_GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip file ({error}); fetch it again.") from None


def parse(path: Path, content: bytes) -> UInt8[np.ndarray, "..."]:
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


def content_of(array: UInt8[np.ndarray, "..."]) -> bytes:
    """What an IDX file of an array holds."""
    header = bytes((0, 0, 0x08, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


def pair(
    images: UInt8[np.ndarray, "..."], labels: UInt8[np.ndarray, "..."], classes: tuple[str, ...]
) -> ImageSet:
    """The set of the arrays of two files, if they belong together."""
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise ValueError(
            f"images of shape {images.shape} with labels of shape {labels.shape}: give files of "
            "(N, H, W) and (N,)."
        )
    if labels.max() >= len(classes):
        raise ValueError(
            f"labels go to {labels.max()} with {len(classes)} classes: give a name for each."
        )
    return from_bytes(images, labels, classes)
