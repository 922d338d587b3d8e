"""The type of every image set, and the function that builds it from bytes."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from ..errors import ArgumentError

Split = Literal["train", "test"]


class ImageSet(NamedTuple):
    """Images with their labels.

    Attributes:
        images: (N, H, W) gray values or (N, H, W, C) colours, float32; in [0, 1] as loaded.
        labels: (N,) class of each image, int32, in 0..len(classes)−1.
        classes: names of the classes.

    Example:
        >>> from nc_jax import images
        >>> images.ImageSet(np.zeros((2, 4, 4)), np.array([0, 1]), ("cat", "dog")).classes
        ('cat', 'dog')
    """

    images: Float[np.ndarray, "N H W *C"]
    labels: Int[np.ndarray, " N"]
    classes: tuple[str, ...]


def check_split(split: str) -> None:
    """Raise ValueError unless it is one of `Split`."""
    if split not in ("train", "test"):
        raise ArgumentError(f"split = {split!r}: give 'train' or 'test'.", "split")


def from_bytes(
    pixels: UInt8[np.ndarray, "N H W *C"], labels: UInt8[np.ndarray, " N"], classes: tuple[str, ...]
) -> ImageSet:
    """The image set of pixels 0..255, scaled to [0, 1], with their labels."""
    # CIFAR-10's pixels are a transposed view. To bring them into the order of memory as bytes takes
    # a seventh of the time that it takes as floats.
    images = np.divide(np.ascontiguousarray(pixels), np.float32(255), dtype=np.float32)
    return ImageSet(images, labels.astype(np.int32), classes)
