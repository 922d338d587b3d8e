"""Variables in which a ReLU net is descended, and the flow that descent has in them.

A parametrisation decides which variables the state has, which of them stay on spheres, and hence
the flow: descent in other variables is another flow of the net. P_k projects onto the tangent space
of the sphere ‖V_k‖_F = 1.

| parametrisation | state | flow |
|---|---|---|
| `Lagrange` | (ρ, V_1…V_L) | ρ' = −∂L/∂ρ, V_k' = −P_k ∂L/∂V_k (eqs. 6, 7), where ρ_L = ρ |
| `WeightNormalization` | (ρ_1…ρ_L, V_1…V_L) | ρ_k' = −∂L/∂ρ_k, V_k' = −P_k ∂L/∂V_k (app. J.1) |
| `UsualPractice` | (V_1…V_{L−1}, W_L) | V_k' = −P_k ∂L/∂V_k, W_L' = −∂L/∂W_L (eqs. 70, 71) |
| `Cartesian` | (W_1…W_L) | W_k' = −∂L/∂W_k (eq. 48) |
| `Polar` | (ρ_1…ρ_L, V_1…V_L) | the flow of `Cartesian` in W_k = ρ_k V_k (eqs. 15, 16, 46, 47) |

Equations are those of Rangamani et al.
"""

import abc
from collections.abc import Sequence
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .layers import Layers, inner, tangent

# Slopes are ∂(s Σ ℓ)/∂W_k of every layer, rates are 2 ∂(penalty)/∂‖W_k‖² of every layer. The factor
# 2 is that of ∂‖W‖²/∂W = 2W.
Slopes = Sequence[Float[Array, "_ _"]]
Rates = Sequence[Float[ArrayLike, ""]]


class AbstractParametrization(eqx.Module):
    """The variables of a net's state, their constraints, and the flow in them.

    Attributes:
        is_gradient_flow: the flow is −∇L in the coordinates of the state.
        has_multipliers: the paper has equations for the multipliers ν_k of the constraints. The
            norm ρ of the net is then that of one layer.
        has_single_norm: ρ is the only norm of the state, as lemma 9 requires.
        balances_layers: the differences ‖W_k‖² − ‖W_{k+1}‖² are conserved without decay (lemma 10).
        balances_units: without decay the squared norm of the weights into a hidden unit, minus that
            of the weights out of it, is conserved.
        divides_by_norm: the field is infinite where a norm is 0.
    """

    is_gradient_flow: ClassVar[bool] = False
    has_multipliers: ClassVar[bool] = False
    has_single_norm: ClassVar[bool] = False
    balances_layers: ClassVar[bool] = False
    balances_units: ClassVar[bool] = False
    divides_by_norm: ClassVar[bool] = False

    @abc.abstractmethod
    def on_spheres(self, num_layers: int) -> tuple[bool, ...]:
        """Whether each matrix of the state has Frobenius norm 1."""

    @abc.abstractmethod
    def num_norms(self, num_layers: int) -> int:
        """Number of norms ρ_k in the state, those of the last layers."""

    @abc.abstractmethod
    def gradient(self, state: Layers, slopes: Slopes, rates: Rates) -> Layers:
        """Minus the velocity of the state, from derivatives in the weights W_k.

        Args: `slopes` ∂(s Σ ℓ)/∂W_k without the decay, and `rates` 2 ∂(penalty)/∂‖W_k‖², so that
        slopes[k] + rates[k] W_k is ∂L/∂W_k.
        """

    def multipliers(self, state: Layers, slopes: Slopes, rates: Rates) -> Float[Array, " c"]:
        """ν_k of the constraints ‖V_k‖² = 1 that have an equation in the paper, shape (c,)."""
        del slopes, rates
        return jnp.zeros(0, state.matrices[0].dtype)


class Lagrange(AbstractParametrization):
    """All layers on spheres by Lagrange multipliers, times one norm ρ (Rangamani, eqs. 6, 7).

    Example: the state has L directions and one norm.

        >>> inputs, signs = np.eye(2), np.array([1.0, -1.0])
        >>> net = nc.NormalizedReLUNet(
        ...     inputs, signs, (4,), parametrization=nc.problems.relu.Lagrange()
        ... )
        >>> state = net.init(jax.random.key(0), norm=0.5)
        >>> state.norms.tolist(), [matrix.shape for matrix in state.matrices]
        ([0.5], [(4, 2), (1, 4)])
    """

    has_multipliers: ClassVar[bool] = True
    has_single_norm: ClassVar[bool] = True

    def on_spheres(self, num_layers: int) -> tuple[bool, ...]:
        """True for every layer."""
        return (True,) * num_layers

    def num_norms(self, num_layers: int) -> int:
        """1."""
        del num_layers
        return 1

    def gradient(self, state: Layers, slopes: Slopes, rates: Rates) -> Layers:
        """(∂L/∂ρ, P_k ∂L/∂V_k)."""
        return _gradient_in_norms(state, slopes, rates)

    def multipliers(self, state: Layers, slopes: Slopes, rates: Rates) -> Float[Array, " c"]:
        """ν_k = ½⟨V_k, −∂L/∂V_k⟩/‖V_k‖² of all L layers (eq. 5)."""
        # The penalty is a function of ρ, a separate variable: its derivative in V_k is 0.
        del rates
        return jnp.stack(_alignments(state, slopes)) / 2


class WeightNormalization(AbstractParametrization):
    """Norm and direction of every layer as separate variables (Rangamani, appendix J.1).

    Example:

        >>> nc.problems.relu.WeightNormalization().num_norms(3)
        3
    """

    balances_layers: ClassVar[bool] = True

    def on_spheres(self, num_layers: int) -> tuple[bool, ...]:
        """True for every layer."""
        return (True,) * num_layers

    def num_norms(self, num_layers: int) -> int:
        """L."""
        return num_layers

    def gradient(self, state: Layers, slopes: Slopes, rates: Rates) -> Layers:
        """(∂L/∂ρ_k, P_k ∂L/∂V_k)."""
        return _gradient_in_norms(state, slopes, rates)


class UsualPractice(AbstractParametrization):
    """All layers but the last on spheres, as with batch normalisation (Rangamani, eqs. 69 to 71).

    Example:

        >>> nc.problems.relu.UsualPractice().on_spheres(3)
        (True, True, False)
    """

    has_multipliers: ClassVar[bool] = True

    def on_spheres(self, num_layers: int) -> tuple[bool, ...]:
        """True for every layer but the last."""
        return (True,) * (num_layers - 1) + (False,)

    def num_norms(self, num_layers: int) -> int:
        """0."""
        del num_layers
        return 0

    def gradient(self, state: Layers, slopes: Slopes, rates: Rates) -> Layers:
        """(P_k ∂L/∂V_k, ∂L/∂W_L)."""
        return _gradient_in_weights(state, slopes, rates, self.on_spheres(len(slopes)))

    def multipliers(self, state: Layers, slopes: Slopes, rates: Rates) -> Float[Array, " c"]:
        """ν_k of the first L − 1 layers, less the rate of the decay (eq. 69)."""
        hidden = zip(_alignments(state, slopes)[:-1], rates[:-1], strict=True)
        return jnp.stack([alignment - rate for alignment, rate in hidden]) / 2


class Cartesian(AbstractParametrization):
    """The weights themselves, without normalisation (Rangamani, eq. 48).

    Example:

        >>> nc.problems.relu.Cartesian().on_spheres(3)
        (False, False, False)
    """

    is_gradient_flow: ClassVar[bool] = True
    balances_layers: ClassVar[bool] = True
    balances_units: ClassVar[bool] = True

    def on_spheres(self, num_layers: int) -> tuple[bool, ...]:
        """False for every layer."""
        return (False,) * num_layers

    def num_norms(self, num_layers: int) -> int:
        """0."""
        del num_layers
        return 0

    def gradient(self, state: Layers, slopes: Slopes, rates: Rates) -> Layers:
        """∂L/∂W_k."""
        return _gradient_in_weights(state, slopes, rates, self.on_spheres(len(slopes)))


class Polar(AbstractParametrization):
    """Norms and directions of weights that follow the flow of `Cartesian` (eqs. 15, 16, 46, 47).

    Example: the same weights have the same flow, d(ρV)/dt = ρ'V + ρV' = W'.

        >>> inputs, signs = np.eye(2), np.array([1.0, -1.0])
        >>> relu = nc.problems.relu
        >>> polar = nc.NormalizedReLUNet(inputs, signs, (), parametrization=relu.Polar())
        >>> cartesian = nc.NormalizedReLUNet(inputs, signs, (), parametrization=relu.Cartesian())
        >>> state = nc.Layers((jnp.array([[0.6, 0.8]]),), jnp.array([2.0]))
        >>> slope = polar.scaled_descent(state, 0.0)
        >>> velocity = slope.norms[0] * state.matrices[0] + 2.0 * slope.matrices[0]
        >>> of_weights = cartesian.scaled_descent(nc.Layers(state.weights()), 0.0)
        >>> bool(jnp.allclose(velocity, of_weights.matrices[0]))
        True
    """

    balances_layers: ClassVar[bool] = True
    balances_units: ClassVar[bool] = True
    divides_by_norm: ClassVar[bool] = True

    def on_spheres(self, num_layers: int) -> tuple[bool, ...]:
        """True for every layer."""
        return (True,) * num_layers

    def num_norms(self, num_layers: int) -> int:
        """L."""
        return num_layers

    def gradient(self, state: Layers, slopes: Slopes, rates: Rates) -> Layers:
        """(⟨∂L/∂W_k, V_k⟩, P_k ∂L/∂W_k /ρ_k)."""
        return _gradient_in_norms(state, slopes, rates, over_norm=True)


def _gradient_in_weights(
    state: Layers, slopes: Slopes, rates: Rates, on_spheres: Sequence[bool]
) -> Layers:
    """Derivatives in the matrices, along the spheres of those that have one."""
    full = [g + rate * w for g, rate, w in zip(slopes, rates, state.matrices, strict=True)]
    parts = zip(full, state.matrices, on_spheres, strict=True)
    return Layers(tuple(tangent(g, w) if on_sphere else g for g, w, on_sphere in parts))


def _gradient_in_norms(
    state: Layers, slopes: Slopes, rates: Rates, *, over_norm: bool = False
) -> Layers:
    """Derivatives in norms and directions.

    ∂/∂V_k is ρ_k ∂/∂W_k; with `over_norm` the slope is divided by ρ_k, as for `Polar`.
    """
    assert state.norms is not None
    radii = state.radii()
    # The slope is scaled before `tangent`, whose pull to the sphere must not change sign with ρ_k.
    # The decay is parallel to V_k, and has no part along the sphere.
    turns = [
        tangent(g / rho if over_norm else rho * g, v)
        for g, v, rho in zip(slopes, state.matrices, radii, strict=True)
    ]
    along = [
        inner(g, v) + rate * rho
        for g, v, rate, rho in zip(slopes, state.matrices, rates, radii, strict=True)
    ]
    # The norms of a state are those of its last layers; the other ρ_k are 1 and constant.
    return Layers(tuple(turns), jnp.stack(along[-len(state.norms) :]))


def _alignments(state: Layers, slopes: Slopes) -> list[Float[Array, ""]]:
    """⟨V_k, −∂(s Σ ℓ)/∂V_k⟩/‖V_k‖² of every layer."""
    # ⟨V_k, ∂/∂V_k⟩ = ⟨W_k, ∂/∂W_k⟩, because W_k = ρ_k V_k.
    return [
        -inner(slope, weight) / inner(v, v)
        for slope, weight, v in zip(slopes, state.weights(), state.matrices, strict=True)
    ]
