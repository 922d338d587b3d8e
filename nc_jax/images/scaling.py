"""Scaling of images, by statistics of the training set or of all sets together."""

import numpy as np
from jaxtyping import Float

from .image_set import ImageSet


def normalize(train: ImageSet, *others: ImageSet) -> tuple[ImageSet, ...]:
    """Subtract the mean of each channel and divide by its standard deviation (Zhu, section 4).

    Mean and deviation are those of the training images, over all images and pixels.

    Args:
        train: the training set.
        others: further sets, such as the test set, scaled by the same numbers.

    Returns the sets in the order given, with images (N, H, W, C) in float32, C = 1 for gray images.

    Raises: ValueError for sets with different numbers of channels, or a constant channel.

    Example:
        >>> from nc_jax import images
        >>> train, test = images.normalize(images.load("digits"), images.load("digits", "test"))
        >>> train.images.shape, round(float(train.images.std()), 5)
        ((1438, 8, 8, 1), 1.0)
    """
    parts = [_with_channels(data.images) for data in (train, *others)]
    channels = [part.shape[-1] for part in parts]
    if len(set(channels)) > 1:
        raise ValueError(f"sets have {channels} channels: give sets with the same number.")
    # The sum is computed in float64, because a sum of millions of pixels in float32 would lose
    # digits; the images stay float32.
    mean = parts[0].mean(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
    parts = [part - mean for part in parts]
    # Squares of the centred images: E[x²] − E[x]² would lose digits where the mean is large.
    deviation = np.sqrt(np.mean(np.square(parts[0]), axis=(0, 1, 2), dtype=np.float64))
    if not np.all(deviation > 0):
        raise ValueError(
            f"train: its channels have standard deviations {deviation}; give images whose channels "
            "all vary."
        )
    scaled = [part / deviation.astype(np.float32) for part in parts]
    return tuple(
        data._replace(images=part) for data, part in zip((train, *others), scaled, strict=True)
    )


def within_unit_ball(train: ImageSet, *others: ImageSet) -> tuple[ImageSet, ...]:
    """Divide all images by the largest norm of an image in any of the sets, as `unit_ball` does.

    Returns the sets in the order given, with images of unchanged shapes.

    Raises: as `unit_ball`.

    Example:
        >>> from nc_jax import images
        >>> [digits] = images.within_unit_ball(images.load("digits"))
        >>> round(float(np.linalg.norm(digits.images.reshape(1438, -1), axis=1).max()), 5)
        1.0
    """
    sets = (train, *others)
    flat = unit_ball(*(data.images.reshape(len(data.images), -1) for data in sets))
    return tuple(
        data._replace(images=part.reshape(data.images.shape))
        for data, part in zip(sets, flat, strict=True)
    )


def unit_ball(
    inputs: Float[np.ndarray, "_ d"], *others: Float[np.ndarray, "_ d"]
) -> tuple[Float[np.ndarray, "_ d"], ...]:
    """Divide inputs by the largest norm of any of them, so that ‖x‖ <= 1 (Rangamani, section 3.2).

    Returns the arrays (N, d) in the order given.

    Raises: ValueError for inputs that are all zero, or not finite.

    Example:
        >>> from nc_jax import images
        >>> training, test = images.unit_ball(np.array([[3.0, 4.0]]), np.array([[1.0, 0.0]]))
        >>> training.tolist(), test.tolist()
        ([[0.6, 0.8]], [[0.2, 0.0]])
    """
    parts = (inputs, *others)
    # NumPy's maximum is NaN if a norm is NaN, which the next line refuses; Python's `max` may lose
    # it. `initial` is for a set without images.
    largest = np.max([np.linalg.norm(part, axis=1).max(initial=0) for part in parts])
    if not 0 < largest < np.inf:
        raise ValueError(
            f"inputs: the largest norm is {largest}; give finite inputs, not all zero."
        )
    return tuple(part / largest for part in parts)


def _with_channels(images: Float[np.ndarray, "N H W *C"]) -> Float[np.ndarray, "N H W _"]:
    return images if images.ndim == 4 else images[..., None]
