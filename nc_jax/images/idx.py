"""IDX files, the format of MNIST and sets like it, compressed by gzip or not."""

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
# An IDX file begins with two zeros, 08 for unsigned bytes, and the number of axes.
_IDX_MAGIC = tuple(bytes((0, 0, 0x08, axes)) for axes in range(1, 5))


def load_idx(
    images: str | PathLike[str], labels: str | PathLike[str], classes: Sequence[str]
) -> ImageSet:
    """The image set of two IDX files, the format of MNIST, compressed by gzip or not.

    Args:
        images: file with an array (N, H, W).
        labels: file with an array (N,).
        classes: name of each class.

    Raises: FileNotFoundError for a missing file; ValueError for a file that is no IDX file of
    unsigned bytes or has another length than its header states, or for two files of different
    numbers of samples.

    Example:
        >>> from nc_jax import images
        >>> one = [0, 0, 0, 1]  # the length of an axis
        >>> (folder / "images").write_bytes(bytes([0, 0, 8, 3, *one, *one, *one, 51]))
        17
        >>> (folder / "labels").write_bytes(bytes([0, 0, 8, 1, *one, 2]))
        9
        >>> data = images.load_idx(folder / "images", folder / "labels", "abc")
        >>> data.images.tolist(), data.labels.tolist()
        ([[[0.20000000298023224]]], [2])
    """
    return pair(read_idx(images), read_idx(labels), tuple(classes))


def read_idx(path: str | PathLike[str]) -> UInt8[np.ndarray, "..."]:
    """The array of an IDX file of unsigned bytes, compressed by gzip or not; it is read-only.

    Raises: as `load_idx`.

    Example:
        >>> from nc_jax import images
        >>> (folder / "labels").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 5]))
        10
        >>> images.read_idx(folder / "labels")
        array([7, 5], dtype=uint8)
    """
    where = local_path(path)
    return parse(where, read(where))


def read(path: Path) -> bytes:
    """The content of a file, uncompressed if it begins as a gzip file."""
    content = path.read_bytes()
    if not content.startswith(_GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip file ({error}); download it again.") from None


def parse(path: Path, content: bytes) -> UInt8[np.ndarray, "..."]:
    """The array in the content of an IDX file: magic number, length of each axis, values."""
    if not content.startswith(_IDX_MAGIC):
        raise ValueError(
            f"{path}: begins with {content[:4].hex(' ') or 'nothing'}; give an IDX file of "
            "unsigned bytes, which begins with 00 00 08 and the number of axes, 01 to 04."
        )
    # The magic number has 4 bytes, of which the last is the number of axes, and each length has 4.
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(
            f"{path}: ends in its header, after {len(content)} of {start} bytes; download it again."
        )
    # Python's integers, since the product of four lengths can exceed 2^64 and wrap around in
    # NumPy's.
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    described = f"{' x '.join(map(str, shape))} = {math.prod(shape)}"
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"{path}: has {len(content) - start} bytes after a header that asks for {described}; "
            "download it again."
        )
    if 0 in shape:
        raise ValueError(f"{path}: has no values, {described}; give a file that has some.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def content_of(array: UInt8[np.ndarray, "..."]) -> bytes:
    """The content of an IDX file with this array."""
    header = bytes((0, 0, 0x08, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


def pair(
    images: UInt8[np.ndarray, "..."], labels: UInt8[np.ndarray, "..."], classes: tuple[str, ...]
) -> ImageSet:
    """The image set of the arrays of two files, if their shapes match."""
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
