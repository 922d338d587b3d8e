"""Scales of inputs, taken from the training set or from all sets together."""

import numpy as np
from jaxtyping import Float

from .image_set import ImageSet


def normalize(train: ImageSet, *others: ImageSet) -> tuple[ImageSet, ...]:
    """Sets less the training images' mean and over their deviation, channel by channel (Zhu).

    Returns as many sets as given, their images (N, H, W, C) float32, with C = 1 of gray ones.

    Raises: ValueError for sets of other channels, or a channel that does not vary.

    Example: `train, test = normalize(load_digits("train"), load_digits("test"))`.
    """
    parts = [_with_channels(data.images) for data in (train, *others)]
    channels = [part.shape[-1] for part in parts]
    if len(set(channels)) > 1:
        raise ValueError(f"sets of {channels} channels: give all the same.")
    # Sums of millions of pixels, in float64; the images themselves stay float32.
    mean = parts[0].mean(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
    parts = [part - mean for part in parts]
    deviation = np.sqrt(np.mean(np.square(parts[0]), axis=(0, 1, 2), dtype=np.float64))
    if not np.all(deviation > 0):
        raise ValueError(
            f"train: standard deviations {deviation} of its channels; give images that vary."
        )
    scaled = [part / deviation.astype(np.float32) for part in parts]
    return tuple(
        data._replace(images=part) for data, part in zip((train, *others), scaled, strict=True)
    )


def within_unit_ball(train: ImageSet, *others: ImageSet) -> tuple[ImageSet, ...]:
    """Sets over the largest norm of an image among all of them: `unit_ball` of image sets.

    Returns as many sets as given, their images of the same shapes.

    Raises: as `unit_ball`.

    Example: `train, test = within_unit_ball(load_digits("train"), load_digits("test"))`.
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


def _with_channels(images: Float[np.ndarray, "N H W *C"]) -> Float[np.ndarray, "N H W _"]:
    return images if images.ndim == 4 else images[..., None]
