"""Weight decay of every factor of a deep model."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ...checks import is_traced
from ...precision import widened
from .state import DeepFeatures

# A λ for each factor, that of the features first. A number is part of the compiled program, and a
# scalar array an argument of it.
Decays = tuple[float | Float[Array, ""], ...]


def known_equal(decays: Sequence[Any]) -> tuple[bool, ...]:
    """Whether the λ of every two neighbouring factors are known to be equal."""
    return tuple(_known_equal(*pair) for pair in itertools.pairwise(decays))


def _known_equal(first: Any, second: Any) -> bool:
    if first is second:
        return True
    # By NumPy: under jit `==` of two concrete arrays of JAX would be traced.
    concrete = not (is_traced(first) or is_traced(second))
    return concrete and np.asarray(first).item() == np.asarray(second).item()


def is_absent(rate: float | Float[Array, ""]) -> bool:
    """Whether a λ is the number 0; an array of value 0 counts as present, as in `WeightDecay`."""
    return isinstance(rate, float) and rate == 0


def in_dtype_of(rate: float | Float[Array, ""], factor: Array) -> float | Float[Array, ""]:
    """A λ that does not promote a factor."""
    return rate.astype(factor.dtype) if isinstance(rate, jax.Array) else rate


def penalty(decays: Decays, state: DeepFeatures) -> Float[Array, ""]:
    """Σ λ/2 ‖factor‖², without the terms whose λ is absent."""
    squares = zip(decays, state.squared_norms(), strict=True)
    terms = [in_dtype_of(rate, square) * square for rate, square in squares if not is_absent(rate)]
    return jnp.asarray(sum(terms)) / 2


def less_decay(
    decays: Decays, descent: DeepFeatures, state: DeepFeatures, log_scale: Float[ArrayLike, ""]
) -> DeepFeatures:
    """A descent minus e^log_scale λ times each factor. Further axes of the arrays may be lanes."""
    # Without a decay the scale may overflow to infinity, and infinity times 0 is NaN.
    if all(map(is_absent, decays)):
        return descent
    scale, (slopes, structure) = jnp.exp(log_scale), jax.tree.flatten(descent)
    terms = zip(slopes, decays, jax.tree.leaves(widened(state)), strict=True)
    return jax.tree.unflatten(
        structure,
        [
            slope if is_absent(rate) else slope - scale * in_dtype_of(rate, factor) * factor
            for slope, rate, factor in terms
        ],
    )
