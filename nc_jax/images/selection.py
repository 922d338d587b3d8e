"""Which images, and under which labels."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from .image_set import ImageSet


def choose_classes(
    data: ImageSet, classes: Sequence[int], samples_per_class: int | None = None
) -> ImageSet:
    """The images of some classes only, the first of each, in order; class `classes[i]` becomes i.

    Args: `samples_per_class`; None means all there are.

    Raises: ValueError for a class that is none, one given twice, more samples than there are, or
    labels that are not of 0..len(data.classes)−1.

    Example: `choose_classes(load_digits(), (3, 8), 30).classes` is ("3", "8").
    """
    # Here and below, since it brings JAX.
    from ..labels import check_labels

    check_labels(data.labels, len(data.classes), len(data.images))
    if not 0 < len(classes) == len(set(classes)):
        raise ValueError(f"classes = {list(classes)}: give one or more, each once.")
    rows = np.sort(np.concatenate([_first(data, c, samples_per_class) for c in classes]))
    labels = np.argmax(data.labels[rows, None] == np.asarray(classes), axis=1).astype(np.int32)
    return ImageSet(data.images[rows], labels, tuple(data.classes[c] for c in classes))


def random_labels(data: ImageSet, share: float, seed: int) -> ImageSet:
    """The same images, round(share N) of them with a class drawn at random (Zhu, section 4.2).

    The rows are drawn without replacement, the classes uniformly from all, so that a drawn class
    may be the old one: at share 1 one in len(classes) keeps it. The draws are NumPy's PCG64.

    Raises: ValueError for a share outside [0, 1], a seed below 0, or labels that are neither of
    0..len(data.classes)−1 nor −1, for images without a class.

    Example: `random_labels(load_digits(), 0.5, seed=0)`.
    """
    from ..labels import check_labels

    check_labels(data.labels, len(data.classes), len(data.images), ignore_index=-1)
    if not 0 <= share <= 1:
        raise ValueError(f"share = {share}: give the share of labels to draw, from 0 to 1.")
    if seed < 0:
        raise ValueError(f"seed = {seed}: give an integer >= 0.")
    generator = np.random.Generator(np.random.PCG64(seed))
    count = round(share * len(data.labels))
    rows = generator.choice(len(data.labels), count, replace=False)
    labels = data.labels.copy()
    labels[rows] = generator.integers(len(data.classes), size=count)
    return data._replace(labels=labels)


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
    chosen = choose_classes(data, classes, samples_per_class)
    inputs = chosen.images.reshape(len(chosen.images), -1).astype(np.float64)
    return inputs, np.eye(len(classes))[chosen.labels]


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
