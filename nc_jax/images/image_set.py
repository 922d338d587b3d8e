"""What every image set is, wherever it comes from."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

Split = Literal["train", "test"]


class ImageSet(NamedTuple):
    """Images with their classes.

    Attributes:
        images: (N, H, W) gray values or (N, H, W, C) colours, float32; in [0, 1] as loaded.
        labels: (N,) classes, int32, in 0..len(classes)−1.
        classes: names.
    """

    images: Float[np.ndarray, "N H W *C"]
    labels: Int[np.ndarray, " N"]
    classes: tuple[str, ...]


def check_split(split: str) -> None:
    """Raise ValueError unless it is one of `Split`."""
    if split not in ("train", "test"):
        raise ValueError(f"split = {split!r}: give 'train' or 'test'.")


def from_bytes(
    pixels: UInt8[np.ndarray, "N H W *C"], labels: UInt8[np.ndarray, " N"], classes: tuple[str, ...]
) -> ImageSet:
    """The set of pixels 0..255 and labels that are known to belong together."""
    # Bytes are put in order before they are floats: CIFAR-10 takes a seventh of the time.
    images = np.divide(np.ascontiguousarray(pixels), np.float32(255), dtype=np.float32)
    return ImageSet(images, labels.astype(np.int32), classes)
