"""Widths, decays and activation of a deep model, as a user gives them."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from ...checks import check_integer, check_number, shown
from ...errors import ArgumentError
from ...precision import weak_scalar
from ..unconstrained.decay import WeightDecay
from .decay import Decays


def widths_of(widths: Any, num_factors: int | None = None) -> tuple[int, ...]:
    """Dimensions of the features and of every hidden layer, as integers; ValueError for others.

    Args: `num_factors`, m where it is known. There are then m − 1 widths, else one or more.
    """
    found = tuple(widths) if _is_series(widths) else ()
    count = None if num_factors is None else num_factors - 1
    if not found or len(found) != (count or len(found)):
        number = "one or more" if count is None else f"{count} for {num_factors} factors"
        raise ArgumentError(
            f"widths = {shown(widths)}: give {number}, that of the features first, as "
            f"{(8,) * (count or 2)}.",
            "widths",
        )
    return tuple(check_integer(f"widths[{i}]", width) for i, width in enumerate(found))


def decays_of(values: Any, num_factors: int | None = None, *, above_zero: bool = False) -> Decays:
    """A λ for each factor, from one number for all or one for each; ValueError for others.

    Args:
        values: numbers >= 0, or > 0 with `above_zero`.
        num_factors: m where it is known. Else the factors are as many as the numbers, 2 or more.
    """
    name, axes = "weight_decay", _axes(values)
    several = axes == 1
    if several:
        accepted = 2 <= len(values) == (num_factors or len(values))
    else:
        accepted = bool(num_factors) and axes == 0
    if not accepted:
        given = f"has shape {np.shape(values)}" if axes > 1 else f"= {shown(values)}"
        number = f"one number, or {num_factors}" if num_factors else "2 or more numbers"
        fix = f"give {number} with that of the features first"
        raise ArgumentError(
            f"{name} {given}: {fix}{'; sweep under jax.vmap' if axes > 1 else ''}.", name
        )
    if not several:
        check_number(name, values, scalar=True, above_zero=above_zero)
        return (weak_scalar(values),) * (num_factors or 0)
    for i, value in enumerate(values):
        check_number(f"{name}[{i}]", value, scalar=True, above_zero=above_zero)
    return tuple(weak_scalar(value) for value in values)


def _is_series(values: Any) -> bool:
    """Whether these are values in a row, of any kind that can be iterated over."""
    is_text = isinstance(values, str)
    return isinstance(values, Iterable) and not is_text and getattr(values, "ndim", 1) == 1


def _axes(values: Any) -> int:
    """The number of axes; −1 for a `WeightDecay`, which has no λ for each factor."""
    # Without `np.ndim` of a tuple, whose entries may be traced.
    if isinstance(values, (list, tuple)):
        return 1
    return -1 if isinstance(values, WeightDecay) else getattr(values, "ndim", 0)


def check_activation(activation: Callable[..., Any] | None, width: int) -> None:
    """Require None, or a function that gives an array of the shape of its argument."""
    if activation is None:
        return
    given = f"activation = {shown(activation)}"
    if not callable(activation):
        raise ArgumentError(f"{given}: give None or a function, such as jax.nn.relu.", "activation")
    rows = jax.ShapeDtypeStruct((2, width), np.float32)
    try:
        found = jax.eval_shape(lambda x: activation(x), rows)  # a ufunc has no weak reference
    except jax.errors.TracerArrayConversionError:
        raise ArgumentError(
            f"{given} takes no array of JAX: give a function of JAX, such as jax.nn.relu or "
            "jax.numpy.tanh.",
            "activation",
        ) from None
    if not isinstance(found, jax.ShapeDtypeStruct):
        what = f"a {type(found).__name__}"
    elif found.shape != rows.shape:
        what = f"shape {found.shape} for {rows.shape}"
    else:
        return
    raise ArgumentError(
        f"activation gives {what}: give a function of each entry, such as jax.nn.relu.",
        "activation",
    )
