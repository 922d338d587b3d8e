"""Roots by bisection, in operations that can be mapped, traced and differentiated."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

# Halvings of a bracket: beyond the rounding of float64 for every bracket of this package.
_HALVINGS = 100


def falling_root(
    function: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]],
    lower: Float[Array, "*shape"],
    upper: Float[Array, "*shape"],
) -> Float[Array, "*shape"]:
    """For each entry the x at which a function falls from positive to negative, by bisection.

    Entry i of f(x) depends on entry i of x alone. Returns `lower` where f is negative there, and
    `upper` where f is positive there. The root has the derivative −(∂f/∂θ)/(∂f/∂x) in all that f
    closes over, forward and in reverse (implicit function theorem); an end has that of the end.
    Where ∂f/∂x is 0 the derivative is infinite: a huge number, so that 0 times it is 0 where the
    caller discards the entry.

    Example: the square root of θ = 9, and its derivative 1/6.

        >>> from nc_jax.exact.roots import falling_root
        >>> root = lambda theta: falling_root(lambda x: theta - x**2, jnp.zeros(()), theta)
        >>> value, slope = jax.value_and_grad(root)(9.0)
        >>> round(float(value), 12), round(float(slope), 12)
        (3.0, 0.166666666667)
    """
    is_below, is_above = function(lower) < 0, function(upper) > 0

    def bisected(function: Callable[[Array], Array], _: Array) -> Array:
        def halve(_: ArrayLike, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            lower, upper = ends
            middle = lower + (upper - lower) / 2
            holds = function(middle) > 0
            return jnp.where(holds, middle, lower), jnp.where(holds, upper, middle)

        # Not optimistix.Bisection, which refuses a bracket without a change of sign.
        root = jax.lax.fori_loop(0, _HALVINGS, halve, (lower, upper))[0]
        # Where an end is returned, the derivatives of f are taken inside of the bracket: at an end
        # they may be infinite, and 0 times infinity is NaN.
        return jnp.where(is_below | is_above, lower + (upper - lower) / 2, root)

    # Bisection is a loop of comparisons, whose derivative is that of a bound and not of the root.
    root = jax.lax.custom_root(function, lower, bisected, _divided_by_slope)
    return jnp.where(is_below, lower, jnp.where(is_above, upper, root))


def _divided_by_slope(linear: Callable[[Array], Array], value: Array) -> Array:
    """The x with slope · x = value, where the slope of each entry is that of `linear`."""
    slope = linear(jnp.ones_like(value))
    has_slope = jnp.abs(slope) > 0  # False for NaN.
    inverse = 1 / jnp.where(has_slope, slope, 1)
    return value * jnp.where(has_slope, inverse, jnp.finfo(value.dtype).max)
