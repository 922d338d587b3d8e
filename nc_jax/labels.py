"""The check of class labels that every function with labels calls."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Integer

from .checks import check_unmasked, is_traced


def check_labels(
    labels: object,
    num_classes: int,
    num_samples: int,
    *,
    every_class: bool = False,
    ignore_index: int | None = None,
    name: str = "labels",
) -> Integer[Array | np.ndarray, " N"]:
    """The labels as an array, checked to be one class of 0..K−1 for each sample.

    Shape and dtype are also checked under tracing, values only where they are concrete.

    Args:
        every_class: whether each class must have a sample, as class means require.
        ignore_index: a label outside of 0..K−1 that marks rows to leave out, such as padding; None
            where there is no such label.
        name: name of the argument in the message.

    Raises: ValueError for labels of another shape or length, labels that are no integers, a label
    outside of 0..K−1, a class without samples where `every_class` is set, or an `ignore_index` that
    is a class.

    Example:

        >>> from nc_jax.labels import check_labels
        >>> check_labels([0, 3], num_classes=3, num_samples=2)
        Traceback (most recent call last):
        ValueError: labels hold 3 in row 1: give integers in 0..2, the rows of the classifier. ...
    """
    # Before the conversion, in which a masked array loses its mask.
    check_unmasked(name, labels)
    # Other arrays stay arrays of NumPy, whose values are known under jit too.
    array = labels if isinstance(labels, jax.Array) else np.asarray(labels)
    if array.ndim != 1:
        example = "problem.labels"
        if array.ndim == 2:
            example = "np.ravel(labels)" if 1 in array.shape else "np.argmax(labels, axis=1)"
        raise ValueError(
            f"{name} have shape {array.shape}: give the class of each sample, of shape "
            f"({num_samples},), such as {example}."
        )
    if len(array) != num_samples:
        raise ValueError(
            f"{name} have {len(array)} entries for {num_samples} samples: give one label for each."
        )
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(
            f"{name} have dtype {array.dtype}: give integers in 0..{num_classes - 1}, such as "
            "labels.astype(int)."
        )
    if ignore_index is not None and 0 <= ignore_index < num_classes:
        raise ValueError(
            f"ignore_index = {ignore_index} is one of the classes 0..{num_classes - 1}: give a "
            "label outside of them, such as -1 or -100."
        )
    if not is_traced(array):
        _check_values(name, np.asarray(array), num_classes, every_class, ignore_index)
    return array


def class_sizes(labels: Integer[ArrayLike, " N"], num_classes: int) -> tuple[int, ...]:
    """Number of samples of each class, for concrete labels that are checked already."""
    # `bincount` does not take uint64.
    return tuple(np.bincount(np.asarray(labels, np.int64), minlength=num_classes).tolist())


def _check_values(
    name: str,
    labels: Integer[np.ndarray, " N"],
    num_classes: int,
    every_class: bool,
    ignore_index: int | None,
) -> None:
    """The part of `check_labels` that reads the values of concrete labels."""
    ignored = np.zeros(labels.shape, bool) if ignore_index is None else labels == ignore_index
    outside = ((labels < 0) | (labels >= num_classes)) & ~ignored
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(
            f"{name} hold {labels[row]} in row {row}: give integers in 0..{num_classes - 1}, the "
            f"rows of the classifier. {_advice(labels, num_classes)}"
        )
    if every_class:
        sizes = class_sizes(labels[~ignored], num_classes)
        if min(sizes) == 0:
            raise ValueError(
                f"{name}: class {sizes.index(0)} of {num_classes} has no samples; give integers in "
                f"0..{num_classes - 1} that name every row of the classifier."
            )


def _advice(labels: Integer[np.ndarray, " N"], num_classes: int) -> str:
    """Advice for the most likely cause of labels that do not name a class."""
    if labels.min() >= 1 and labels.max() == num_classes:
        return "They count from 1: subtract 1."
    if labels.min() < 0 and labels.max() < num_classes:
        return "Leave samples without a class out first: rows = labels >= 0."
    return f"Labels up to {labels.max()} need a classifier of {int(labels.max()) + 1} rows."
