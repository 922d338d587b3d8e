"""Checks of the numbers of samples that classes have."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from ...checks import check_integer, shown

# Numbers of samples: one number for all classes, or one number for each class.
ClassSizes = int | np.integer | Sequence[int] | Int[np.ndarray, " K"]


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
