"""Selection of images by class, and labels drawn at random."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ..errors import ArgumentError
from .image_set import ImageSet


def choose_classes(
    data: ImageSet, classes: Sequence[int], *, samples_per_class: int | None = None
) -> ImageSet:
    """The images of some classes, in the order of the set; class `classes[i]` gets the label i.

    Args:
        data: the image set.
        classes: labels of the classes, each once.
        samples_per_class: number of images of each class, the first ones; None for all.

    Raises: ValueError for what is no image set, a class that does not exist or is given twice, more
    samples than a class has, or labels outside 0..len(data.classes)−1.

    Example:
        >>> from nc_jax import images
        >>> chosen = images.choose_classes(images.load_digits(), (3, 8), samples_per_class=30)
        >>> chosen.images.shape, chosen.classes
        ((60, 8, 8), ('3', '8'))
    """
    # Imported in functions, here and below, because `checks` imports JAX: `import nc_jax.images`
    # would take seconds.
    from ..checks import check_integer

    _check_set(data)
    last = len(data.classes) - 1
    given = list(classes) if isinstance(classes, Iterable) else [classes]
    chosen = [
        check_integer(f"classes[{i}]", label, least=0, most=last) for i, label in enumerate(given)
    ]
    if not 0 < len(chosen) == len(set(chosen)):
        raise ArgumentError(f"classes = {given}: give one or more, each once.", "classes")
    if samples_per_class is not None:
        samples_per_class = check_integer("samples_per_class", samples_per_class)
    rows = np.sort(np.concatenate([_first(data, label, samples_per_class) for label in chosen]))
    # The place of each label among the chosen ones; a row has one True.
    labels = np.argmax(data.labels[rows, None] == np.asarray(chosen), axis=1).astype(np.int32)
    return ImageSet(data.images[rows], labels, tuple(data.classes[label] for label in chosen))


def random_labels(data: ImageSet, share: float, seed: int) -> ImageSet:
    """The same images with a share of the labels drawn at random (Zhu, section 4.2).

    round(share N) images are drawn without replacement. For each of them a class is drawn uniformly
    from all classes; it equals the old class with probability 1/len(classes). The generator is
    NumPy's PCG64.

    Args:
        data: the image set. Labels −1, of images without a class, are accepted.
        share: share of the labels that are drawn, from 0 to 1.
        seed: seed of the generator, an integer >= 0.

    Raises: ValueError for what is no image set, a share outside [0, 1], a seed that is no integer
    >= 0, or labels that are neither −1 nor in 0..len(data.classes)−1.

    Example:
        >>> from nc_jax import images
        >>> digits = images.load_digits()
        >>> changed = images.random_labels(digits, 0.5, seed=0).labels != digits.labels
        >>> round(float(changed.mean()), 2)  # half of the labels, nine in ten of them changed
        0.45
    """
    from ..checks import check_integer, check_number

    _check_set(data, ignore_index=-1)
    check_number("share", share, scalar=True)
    if share > 1:
        raise ArgumentError(
            f"share = {share}: give the share of labels to draw, from 0 to 1.", "share"
        )
    seed = check_integer("seed", seed, least=0)
    # A named generator: `np.random.default_rng` may become another one in a later NumPy.
    generator = np.random.Generator(np.random.PCG64(seed))
    count = round(share * len(data.labels))
    rows = generator.choice(len(data.labels), count, replace=False)
    labels = data.labels.copy()
    labels[rows] = generator.integers(len(data.classes), size=count)
    return data._replace(labels=labels)


def two_classes(
    data: ImageSet, negative: int, positive: int, *, num_samples: int | None = None
) -> tuple[Float[np.ndarray, "N d"], Float[np.ndarray, " N"]]:
    """Images of two classes as inputs (N, d) with targets ±1 (N,), in the order of the set.

    Args:
        data: the image set.
        negative: label of the class with target −1.
        positive: label of the class with target +1.
        num_samples: number of images, an even number: the first num_samples / 2 of each class.
            None for all.

    Raises: as `choose_classes`, and ValueError for an odd number of samples.

    Example:
        >>> from nc_jax import images
        >>> inputs, targets = images.two_classes(images.load_digits(), 3, 8, num_samples=60)
        >>> inputs.shape, float(targets.sum())
        ((60, 64), 0.0)
    """
    from ..checks import check_integer

    if num_samples is not None and check_integer("num_samples", num_samples) % 2:
        raise ArgumentError(
            f"num_samples = {num_samples}: give an even number, half for each class.", "num_samples"
        )
    each = None if num_samples is None else num_samples // 2
    inputs, one_hot = several_classes(data, (negative, positive), samples_per_class=each)
    return inputs, one_hot[:, 1] - one_hot[:, 0]


def several_classes(
    data: ImageSet, classes: Sequence[int], *, samples_per_class: int | None = None
) -> tuple[Float[np.ndarray, "N d"], Float[np.ndarray, "N C"]]:
    """Images of some classes as inputs (N, d) with one-hot targets (N, C), in the set's order.

    Args: as `choose_classes`.

    Raises: as `choose_classes`.

    Example:
        >>> from nc_jax import images
        >>> digits = images.load_digits()
        >>> inputs, targets = images.several_classes(digits, (0, 1, 2), samples_per_class=20)
        >>> inputs.shape, targets.sum(axis=0).tolist()
        ((60, 64), [20.0, 20.0, 20.0])
    """
    chosen = choose_classes(data, classes, samples_per_class=samples_per_class)
    inputs = chosen.images.reshape(len(chosen.images), -1).astype(np.float64)
    return inputs, np.eye(len(chosen.classes))[chosen.labels]


def _check_set(data: Any, *, ignore_index: int | None = None) -> None:
    """Raise ValueError for what is no image set, or one whose labels are not its classes."""
    from ..checks import check_kind
    from ..labels import check_labels

    check_kind("data", data, ImageSet, "images.load('digits')")
    check_labels(data.labels, len(data.classes), len(data.images), ignore_index=ignore_index)


def _first(data: ImageSet, label: int, count: int | None) -> Int[np.ndarray, " n"]:
    """Rows of the first `count` images of a class, or of all."""
    rows = np.flatnonzero(data.labels == label)
    if not len(rows):
        raise ArgumentError(f"class {label}: the set has no image of it; leave it out.", "classes")
    if count is not None and count > len(rows):
        raise ArgumentError(
            f"{count} samples of class {label}: it has {len(rows)} images; "
            f"give at most {len(rows)}.",
            "samples_per_class",
        )
    return rows[:count]
