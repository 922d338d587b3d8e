"""The state of a deep unconstrained-features model: features and the matrices of all layers."""

import itertools

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from ...precision import widened
from ...state import LastLayer
from ..relu.propagation import Arithmetic, propagate, transposed


class DeepFeatures(eqx.Module):
    """Free features H and the matrices W_1, ..., W_L of the layers on them.

    Attributes:
        features: (N, d_0).
        weights: W_l (d_l, d_{l−1}) of each layer; the last has K rows.

    Example: the logits are H W_1ᵀ ... W_Lᵀ.

        >>> state = nc.DeepFeatures(jnp.array([[1.0, 2.0]]), (2 * jnp.eye(2), jnp.ones((3, 2))))
        >>> state.logits().tolist()
        [[6.0, 6.0, 6.0]]
    """

    features: Real[Array, "N _"]
    weights: tuple[Real[Array, "_ _"], ...]

    def factors(self) -> tuple[Float[Array, "_ _"], ...]:
        """(H, W_1, ..., W_L)."""
        state = widened(self)
        return state.features, *state.weights

    def end_to_end(self) -> LastLayer:
        """H with the one classifier W_L…W_1, whose logits are those of the linear net."""
        features, *weights = self.factors()
        return LastLayer(features, remaining_products(tuple(weights))[0])

    def logits(self) -> Float[Array, "N K"]:
        """Z = H W_1ᵀ … W_Lᵀ of the net without an activation, (N, K)."""
        return self.end_to_end().logits()

    def last_layer(self) -> LastLayer:
        """Inputs H W_1ᵀ … W_{L−1}ᵀ of the last layer of the linear net, and W_L."""
        features, *weights = self.factors()
        return LastLayer(propagate(features, weights[:-1], None)[0], weights[-1])

    def squared_norms(self) -> Float[Array, " m"]:
        """‖H‖_F², ‖W_1‖_F², ..., ‖W_L‖_F²."""
        return jnp.stack([jnp.sum(factor**2) for factor in self.factors()])


def remaining_products(
    weights: tuple[Float[Array, "_ _ *lanes"], ...], arithmetic: Arithmetic = Arithmetic()
) -> tuple[Float[Array, "K _ *lanes"], ...]:
    """W_L…W_l of every layer l = 1..L, (K, d_{l−1}).

    The products begin at the last layer, so that each has K rows only.
    """
    product, hold = arithmetic

    def before(rows: Array, weight: Array) -> Array:
        return hold(product(rows, weight))

    return tuple(itertools.accumulate(reversed(weights), before))[::-1]


def pull_back_products(
    weights: tuple[Float[Array, "_ _ *lanes"], ...],
    remaining: tuple[Float[Array, "K _ *lanes"], ...],
    slope: Float[Array, "K _ *lanes"],
    arithmetic: Arithmetic,
) -> tuple[Float[Array, "_ _ *lanes"], ...]:
    """Slopes in every W_l from that in A = W_L…W_1: (W_L…W_{l+1})ᵀ (∂f/∂A) (W_{l−1}…W_1)ᵀ.

    Args: `remaining` products of these weights.
    """
    product, hold = arithmetic

    def after(rows: Array, weight: Array) -> Array:
        return hold(product(rows, transposed(weight)))

    # (∂f/∂A)(W_{l−1}…W_1)ᵀ of every layer, (K, d_{l−1}).
    rows = tuple(itertools.accumulate(weights[:-1], after, initial=hold(slope)))
    pairs = zip(remaining[1:], rows[:-1], strict=True)
    return *(product(transposed(left), right) for left, right in pairs), rows[-1]
