"""Roots of monotone functions, by bisection in operations that can be mapped and traced."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

# Halvings of a bracket: beyond the rounding of float64 for every bracket of this package.
_HALVINGS = 100


def last_below(
    below: Callable[[Float[Array, "*shape"]], Bool[Array, "*shape"]],
    lower: Float[Array, "*shape"],
    upper: Float[Array, "*shape"],
) -> Float[Array, "*shape"]:
    """For each entry the x at which a condition changes from true to false, by bisection.

    The condition is true from `lower` up to that x, and false from there up to `upper`. Returns
    `lower` where it is false everywhere, and `upper` where it is true everywhere.
    """

    def halve(_: ArrayLike, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        lower, upper = ends
        middle = lower + (upper - lower) / 2
        holds = below(middle)
        return jnp.where(holds, middle, lower), jnp.where(holds, upper, middle)

    # Not optimistix.Bisection, which refuses a bracket without a change of sign.
    return jax.lax.fori_loop(0, _HALVINGS, halve, (lower, upper))[0]
