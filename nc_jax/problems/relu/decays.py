"""What the weight decay of a ReLU net penalises."""

import abc
import math
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .layers import Layers


class AbstractDecayTarget(eqx.Module):
    """A function of the squared norms ρ_k² = ‖W_k‖² of the layers, which λ multiplies.

    Attributes:
        is_whole_norm: the penalty is λρ², as in equation 11 and lemma 9.
        decays_each_weight: every weight decays at the rate 2λ, so that differences of squared
            weights decay at the rate 4λ.
    """

    is_whole_norm: ClassVar[bool] = False
    decays_each_weight: ClassVar[bool] = False

    @abc.abstractmethod
    def penalty(self, state: Layers) -> Float[Array, ""]:
        """The penalty for λ = 1."""

    @abc.abstractmethod
    def rates(self, state: Layers, scale: Float[ArrayLike, ""]) -> list[Float[ArrayLike, ""]]:
        """`scale` times the derivative of the penalty in each ρ_k²."""


class WholeNorm(AbstractDecayTarget):
    """λρ² with ρ = Π_k ρ_k, the norm of the whole net (Rangamani, eq. 3).

    Example:

        >>> state = nc.Layers((jnp.array([[2.0]]), jnp.array([[3.0]])))
        >>> float(nc.problems.relu.WholeNorm().penalty(state))
        36.0
    """

    is_whole_norm: ClassVar[bool] = True

    def penalty(self, state: Layers) -> Float[Array, ""]:
        """Π_k ρ_k²."""
        return jnp.asarray(math.prod(state.squared_norms()))

    def rates(self, state: Layers, scale: Float[ArrayLike, ""]) -> list[Float[ArrayLike, ""]]:
        """Products of the other ρ_j²: a quotient ρ²/ρ_k² would be NaN where a norm is 0."""
        # For a single layer the product is empty, and 1.
        squares = state.squared_norms()
        return [scale * math.prod(squares[:k] + squares[k + 1 :]) for k in range(len(squares))]


class EachLayer(AbstractDecayTarget):
    """λ Σ_k ‖W_k‖_F², the decay of every weight that training code has.

    Example:

        >>> state = nc.Layers((jnp.array([[2.0]]), jnp.array([[3.0]])))
        >>> float(nc.problems.relu.EachLayer().penalty(state))
        13.0
    """

    decays_each_weight: ClassVar[bool] = True

    def penalty(self, state: Layers) -> Float[Array, ""]:
        """Σ_k ρ_k²."""
        return jnp.asarray(sum(state.squared_norms()))

    def rates(self, state: Layers, scale: Float[ArrayLike, ""]) -> list[Float[ArrayLike, ""]]:
        """1 for every layer."""
        return [scale] * len(state.matrices)
