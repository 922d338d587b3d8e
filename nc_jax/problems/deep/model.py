"""Unconstrained features with further layers between them and the logits."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from ...lanes import is_small
from ...losses import CrossEntropy, Loss
from ...measures import (
    Invariant,
    classifier_sum,
    collapse_metrics,
    margin_metrics,
    separation_of,
)
from ...precision import largest_exponent, widened
from ...starts import checked_norm, gaussian_directions
from ...state import LastLayer
from ..base import check_shapes
from ..labelled import AbstractLabelled
from ..penalties import log_with_penalty
from ..relu.propagation import (
    Activation,
    Arithmetic,
    arithmetic_of_lanes,
    propagate,
    remedy_of_kinks,
)
from ..unconstrained import UnconstrainedFeatures
from .arguments import check_activation, decays_of, widths_of
from .decay import Decays, all_equal, is_absent, less_decay, penalty
from .observables import layer_measures, neighbour_balance, singular_values
from .state import DeepFeatures, pull_back_products, remaining_products


class DeepUnconstrainedFeatures(AbstractLabelled):
    """Loss of Z = σ(…σ(H W_1ᵀ)…)W_Lᵀ over free features H and matrices W_l.

    L(H, W_1, ..., W_L) = s Σ_i ℓ(z_i, y_i) + λ_0/2 ‖H‖² + Σ_l λ_l/2 ‖W_l‖², with s = 1/N for
    reduction "mean" and 1 for "sum". H is (N, d_0), W_l is (d_l, d_{l−1}), W_L is (K, d_{L−1}). The
    features are free of sign: σ is applied between layers only. With one width d it is
    `UnconstrainedFeatures(class_sizes, d)`.

    Args:
        class_sizes: samples of each class, in class-major order; unequal sizes are allowed.
        widths: (d_0, ..., d_{L−1}), the dimension of the features and of every hidden layer.
        loss: a `nc_jax.losses.Loss`, as for `UnconstrainedFeatures`.
        reduction: "mean" or "sum".
        activation: σ, None for the linear net, or a function such as `jax.nn.relu` and
            `SmoothReLU()`. Pass the same object in every call: a new one is compiled anew.
        weight_decay: one λ for every factor, or m = L + 1 numbers, that of the features first.

    Raises: ValueError as `UnconstrainedFeatures`, for no width or a width < 1, another number of λ
    than factors, or an activation that is no function.

    Example: three factors, and log 3 at a state of zeros.

        >>> problem = nc.DeepUnconstrainedFeatures((2, 2, 3), widths=(4, 6))
        >>> state = problem.init(jax.random.key(0), norm=0.0)
        >>> problem.depth, [weight.shape for weight in state.weights]
        (3, [(6, 4), (3, 6)])
        >>> round(float(problem.objective(state)), 6)
        1.098612
    """

    # The loss of two factors: (H, W_L…W_1) of the linear net, else (σ(…σ(H W_1ᵀ)…), W_L).
    free: UnconstrainedFeatures
    widths: tuple[int, ...] = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)
    weight_decay: Decays
    _created_with_one: bool = eqx.field(static=True, repr=False)

    # A claim: the objective and its flow are those of the equation in the docstring of this class.
    is_deep: ClassVar[bool] = True

    _claims: ClassVar[tuple[str, ...]] = ("is_deep",)
    _formulas: ClassVar[tuple[str, ...]] = ("labels", "loss_scale", *AbstractLabelled._formulas)

    def __init__(
        self,
        class_sizes: Sequence[int],
        widths: Sequence[int],
        *,
        loss: Loss = CrossEntropy(),
        reduction: Literal["mean", "sum"] = "mean",
        activation: Activation = None,
        weight_decay: float | Float[Array, "..."] | Sequence[Any] = 0.0,
    ):
        self.widths = widths_of(widths)
        check_activation(activation, self.widths[-1])
        self.activation = activation
        width = self.widths[0] if self.is_linear else self.widths[-1]
        self.free = UnconstrainedFeatures(class_sizes, width, loss=loss, reduction=reduction)
        self.weight_decay = decays_of(weight_decay, self.depth)
        self._created_with_one = all_equal(self.weight_decay, False)

    @property
    def has_one_decay(self) -> bool:
        """Whether all factors are known to have one λ, as `WeightDecay.balanced`."""
        return all_equal(self.weight_decay, self._created_with_one)

    @property
    def depth(self) -> int:
        """m, the number of factors: the features and L matrices."""
        return len(self.widths) + 1

    @property
    def is_linear(self) -> bool:
        """Whether there is no activation, or no hidden layer that would have one."""
        return self.activation is None or self.depth == 2

    def init(
        self,
        key: Key[Array, ""],
        norm: Float[ArrayLike, ""] = 1.0,
        *,
        dtype: DTypeLike = float,
    ) -> DeepFeatures:
        """Gaussian factors, each scaled to the Frobenius norm `norm`.

        Args: `key` from `jax.random.key`; `dtype` defaults to JAX's default float. Run i of a
        series uses `jax.random.fold_in(key, i)`. Its start has the same bits alone and in a batch.

        Raises: ValueError for a raw (untyped) key or a norm that is negative or not finite.
        """
        scale = checked_norm(key, norm, dtype)
        features, *weights = gaussian_directions(
            jax.random.split(key, self.depth), self._shapes, jnp.full(self.depth, scale)
        )
        return DeepFeatures(features, tuple(weights))

    def layers(self, state: DeepFeatures) -> tuple[LastLayer, ...]:
        """The inputs of every layer with its matrix as their classifier, (H, W_1) first."""
        check_shapes(self, state, name="state")
        features, *weights = state.factors()
        layers = [LastLayer(features, weights[0])]
        for before, after in itertools.pairwise(weights):
            features, _ = propagate(features, (before,), self.activation)
            layers.append(LastLayer(features, after))
        return tuple(layers)

    def last_layer(self, state: DeepFeatures) -> LastLayer:
        """The inputs of the last layer, and W_L as their classifier, which metrics read."""
        check_shapes(self, state, name="state")
        features, *hidden, last = state.factors()
        return LastLayer(propagate(features, hidden, self.activation)[0], last)

    def objective(self, state: DeepFeatures) -> Float[Array, ""]:
        """L, scalar."""
        data = self.free.objective(self._two_factors(state))
        return data if self._undecayed else data + self.penalty(state)

    def log_summed_loss(self, state: DeepFeatures) -> Float[Array, ""]:
        """log Σ_i ℓ_i, finite where the loss underflows to 0; without 1/N and penalty."""
        return self.free.log_summed_loss(self._two_factors(state))

    def log_objective(self, state: DeepFeatures) -> Float[Array, ""]:
        """log L, finite where L underflows to 0; −inf where L is 0."""
        data = self.free.log_objective(self._two_factors(state))
        return data if self._undecayed else log_with_penalty(data, self.penalty(state))

    def penalty(self, state: DeepFeatures) -> Float[Array, ""]:
        """λ_0/2 ‖H‖² + Σ_l λ_l/2 ‖W_l‖², scalar."""
        return penalty(self.weight_decay, state)

    def gradient(self, state: DeepFeatures) -> DeepFeatures:
        """∇L: for the linear net RA + λ_0 H and (W_L…W_{l+1})ᵀ RᵀH (W_{l−1}…W_1)ᵀ + λ_l W_l.

        A = W_L…W_1 and R = ∂L/∂Z of shape (N, K).
        """
        return jax.tree.map(jnp.negative, self.scaled_descent(state, 0.0))

    def scaled_descent(self, state: DeepFeatures, log_scale: Float[ArrayLike, ""]) -> DeepFeatures:
        """e^log_scale · (−∇L), exponents added before `exp`: of order 1 however small ∇L is."""
        check_shapes(self, state, name="state")
        state = widened(state)
        return self._descent(state, log_scale, self.free.scaled_descent, Arithmetic())

    def scaled_descent_lanes(
        self, states: DeepFeatures, log_scale: Float[ArrayLike, ""]
    ) -> DeepFeatures:
        """`scaled_descent` of S states, the last axis: (N, d_0, S) and (d_l, d_{l−1}, S).

        Small matrix products are written as sums over lanes. A subclass with another field uses the
        default, one state of a `jax.vmap` for each lane.
        """
        sizes = [rows * columns for rows, columns in self._shapes[1:]]
        if not (self.is_deep and is_small(self.num_samples, *sizes)):
            return super().scaled_descent_lanes(states, log_scale)
        arithmetic = arithmetic_of_lanes(states.features)
        return self._descent(states, log_scale, self.free.scaled_descent_lanes, arithmetic)

    def _descent(
        self,
        state: DeepFeatures,
        log_scale: Float[ArrayLike, ""],
        descent_of: Callable[[LastLayer, Float[ArrayLike, ""]], LastLayer],
        arithmetic: Arithmetic,
    ) -> DeepFeatures:
        """`scaled_descent` from that of the loss of two factors; further axes may be lanes."""
        features, weights = state.features, state.weights
        # By `unflatten`, because `LastLayer` refuses the third axis of lanes.
        pair = jax.tree.structure(self.free.state_shapes())
        if self.is_linear:
            # One product of the size of the samples, N K d_0, and a cost that does not depend on N
            # for the layers. Products from the features on would take N d_l d_{l−1} for each layer.
            remaining = remaining_products(weights, arithmetic)
            slope = descent_of(jax.tree.unflatten(pair, [features, remaining[0]]), log_scale)
            of_features = slope.features
            of_weights = pull_back_products(weights, remaining, slope.classifier, arithmetic)
        else:
            inputs, pull_back = propagate(
                features, weights[:-1], self.activation, arithmetic=arithmetic
            )
            slope = descent_of(jax.tree.unflatten(pair, [inputs, weights[-1]]), log_scale)
            of_features, hidden = pull_back(slope.features)
            of_weights = (*hidden, slope.classifier)
        descent = jax.tree.unflatten(jax.tree.structure(state), [of_features, *of_weights])
        return less_decay(self.weight_decay, descent, state, log_scale)

    def observe(self, state: DeepFeatures) -> dict[str, Float[Array, "..."]]:
        """Objective, all measures of the last layer, and those of every layer, (L,).

        Keys: `objective`, `log_objective`; those of `metrics.collapse_metrics` and
        `metrics.margin_metrics` of the last layer; `factor_norms` (m,) of H and all W_l;
        `classifier_sum_norm` where it is an invariant, and `neighbour_balance_norm` (L,);
        `layer_nc1`, `layer_nc2`, `layer_cdnv` and `layer_effective_rank` (L,) of the inputs of
        every layer, `layer_singular_values` (L, K) of every W_l, and for the linear net `layer_nc3`
        (L,). Cross-entropy without decay and activation adds `separation_value`.
        """
        last, squares = self.last_layer(state), state.squared_norms()
        observed = {
            "objective": self.objective(state),
            "log_objective": self.log_objective(state),
            **collapse_metrics(last, self.labels),
            **margin_metrics(last, self.labels),
            "factor_norms": jnp.sqrt(squares),
            **self._of_layers(state),
        }
        for name, invariant in self.invariants(state).items():
            # One norm for each entry of the scale, as in `metrics.drift`.
            parts = invariant.value.reshape(*invariant.scale.shape, -1)
            observed[f"{name}_norm"] = jnp.linalg.norm(parts, axis=-1)
        if is_deep_linear(self) and self.loss.is_cross_entropy and self._undecayed:
            observed["separation_value"] = separation_of(
                jnp.sum(squares), observed["margin_min"], depth=self.depth
            )
        return observed

    def _of_layers(self, state: DeepFeatures) -> dict[str, Float[Array, "..."]]:
        """Observables of every layer."""
        features, weights = [layer.features for layer in self.layers(state)], state.factors()[1:]
        classifiers = remaining_products(weights) if self.is_linear else None
        return {
            **layer_measures(features, self.labels, self.num_classes, classifiers=classifiers),
            "layer_singular_values": singular_values(weights, self.num_classes),
        }

    def invariants(self, state: DeepFeatures) -> dict[str, Invariant]:
        """`neighbour_balance`, and `classifier_sum` for a loss that is `shift_invariant`.

        `neighbour_balance` is W_1ᵀW_1 − HᵀH and W_{l+1}ᵀW_{l+1} − W_l W_lᵀ for l = 1..L−1, with
        rows and columns of zeros up to the largest width: (L, w, w). Each has its own drift. The
        rate of a pair is 2λ where both factors have one λ, and NaN, as is its drift, where they
        have different λ. With an activation all pairs but the first are conserved on their diagonal
        only, for a homogeneous activation; of `SmoothReLU` to its width. Their other entries are 0.
        """
        check_shapes(self, state, name="state")
        invariants = {}
        if not self.is_deep:
            return invariants
        invariants["neighbour_balance"] = neighbour_balance(
            state, self.weight_decay, units_alone=not self.is_linear
        )
        if self.loss.shift_invariant:
            rate = self.weight_decay[-1]
            invariants["classifier_sum"] = classifier_sum(self.last_layer(state), rate=rate)
        return invariants

    @property
    def comes_to_rest(self) -> bool:
        """False for a loss that is `finite_at_any_scale`, without decay."""
        return not (self.loss.finite_at_any_scale and self._undecayed)

    @property
    def remedy_of_jumps(self) -> str:
        """`SmoothReLU` for an activation with kinks; empty for the linear net."""
        return "" if self.is_linear else remedy_of_kinks(self.activation)

    def largest_log_scale(self, dtype: DTypeLike) -> float:
        """Infinite for a flow that does not come to rest, else log of the largest number."""
        if not self.comes_to_rest:
            return np.inf
        return largest_exponent(dtype)

    def state_shapes(self) -> DeepFeatures:
        """H and every W_l as `jax.ShapeDtypeStruct`s."""
        # Written by hand, since every call of an objective or a gradient checks shapes.
        dtype = jnp.result_type(float)
        leaves = [jax.ShapeDtypeStruct(shape, dtype) for shape in self._shapes]
        return jax.tree.unflatten(_structure(self.depth), leaves)

    @property
    def _shapes(self) -> tuple[tuple[int, int], ...]:
        """Shapes of all factors."""
        sizes = (*self.widths, self.num_classes)
        weights = [(after, before) for before, after in itertools.pairwise(sizes)]
        return ((self.num_samples, self.widths[0]), *weights)

    @property
    def _undecayed(self) -> bool:
        """Whether every λ is known to be 0."""
        return all(map(is_absent, self.weight_decay))

    def _two_factors(self, state: DeepFeatures) -> LastLayer:
        """The state of `free` with the logits of this state."""
        check_shapes(self, state, name="state")
        return state.end_to_end() if self.is_linear else self.last_layer(state)


@functools.cache
def _structure(depth: int) -> Any:
    """The structure of a state, a `PyTreeDef`, of so many factors."""

    # Under `eval_shape`, so that the arrays are not computed.
    def state() -> DeepFeatures:
        row = jnp.zeros((1, 1))
        return DeepFeatures(row, (row,) * (depth - 1))

    return jax.tree.structure(jax.eval_shape(state))


def is_deep_linear(problem: object) -> TypeGuard[DeepUnconstrainedFeatures]:
    """Whether what is proved of `DeepUnconstrainedFeatures` without activation holds for a problem.

    Example:

        >>> from nc_jax.problems import is_deep_linear
        >>> is_deep_linear(nc.DeepUnconstrainedFeatures((2, 2), (3, 3)))
        True
    """
    return isinstance(problem, DeepUnconstrainedFeatures) and problem.is_deep and problem.is_linear
