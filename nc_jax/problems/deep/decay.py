"""Weight decay of every factor of a deep model."""

import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ...precision import widened
from ..unconstrained.decay import known_equal
from .state import DeepFeatures

# A λ for each factor, that of the features first. A number is part of the compiled program, and a
# scalar array an argument of it.
Decays = tuple[float | Float[Array, ""], ...]


def all_equal(decays: Decays, created_equal: bool) -> bool:
    """Whether the λ of all factors are known to be equal."""
    pairs = itertools.pairwise(decays)
    return all(known_equal(*pair, created_equal=created_equal) for pair in pairs)


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
