"""Checks of numbers that classes have: samples, and weights."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from ...checks import check_integer, check_number, shown
from ...errors import ArgumentError
from ...precision import weak_scalar

# Numbers of samples: one number for all classes, or one number for each class.
ClassSizes = int | np.integer | Sequence[int] | Int[np.ndarray, " K"]
# A real number for each class: an array, or a sequence whose entries may be traced.
OfClasses = Float[Array, " K"] | Float[np.ndarray, " K"] | Sequence[Any]


def check_sizes(name: str, sizes: object) -> tuple[int, ...]:
    """The sizes as integers; ValueError unless each is an integer of 1 or more."""
    if isinstance(sizes, str) or not isinstance(sizes, Iterable) or np.ndim(sizes) != 1:  # pyright: ignore[reportArgumentType]
        raise ValueError(f"{name} = {shown(sizes)}: give the samples of each class, as (10, 10).")
    return tuple(check_integer(f"{name}[{i}]", size) for i, size in enumerate(sizes))


def sizes_of(num_classes: int, samples_per_class: ClassSizes) -> tuple[int, ...]:
    """Samples of each class, from one size for all classes or one for each."""
    count = check_integer("num_classes", num_classes)
    if not np.ndim(samples_per_class):  # pyright: ignore[reportArgumentType]
        return (check_integer("samples_per_class", samples_per_class),) * count
    sizes = check_sizes("samples_per_class", samples_per_class)
    if len(sizes) != count:
        raise ValueError(
            f"samples_per_class has {len(sizes)} sizes and num_classes = {count}: give one size "
            "for each class, or one integer for all."
        )
    return sizes


def is_of_classes(value: Any) -> bool:
    """Whether a value has a number for each class, and is not one number for all."""
    # Without `np.ndim` of a tuple, whose entries may be traced.
    return isinstance(value, (list, tuple)) or np.ndim(value) > 0


def numbers_of_classes(
    name: str, values: OfClasses, *, above_zero: bool = False
) -> tuple[Any, ...] | Float[Array, " K"]:
    """A number for each class; ValueError unless all are finite and >= 0, or > 0.

    Returns: a JAX array unchanged, and a tuple for other sequences. In compiled programs arrays are
    arguments, and Python numbers are constants.
    """
    if isinstance(values, (str, dict)):
        raise ArgumentError(f"{name} = {shown(values)}: give a number for each class.", name)
    if not isinstance(values, (list, tuple)) and np.ndim(values) != 1:
        raise ArgumentError(
            f"{name} has shape {np.shape(values)}: give a number for each class, and sweep under "
            "jax.vmap.",
            name,
        )
    if isinstance(values, jax.Array):
        check_number(name, values, above_zero=above_zero)
        return values
    for i, value in enumerate(values):
        check_number(f"{name}[{i}]", value, above_zero=above_zero, scalar=True)
    return tuple(weak_scalar(value) for value in values)


def check_one_for_each_class(name: str, values: Any, num_classes: int) -> None:
    """Raise ValueError for numbers of classes that are more or fewer than K."""
    if is_of_classes(values) and len(values) != num_classes:
        raise ArgumentError(
            f"{name} has {len(values)} numbers and class_sizes {num_classes}: give one for each "
            "class; sweep one number under jax.vmap.",
            name,
        )
