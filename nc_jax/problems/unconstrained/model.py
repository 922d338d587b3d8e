"""Unconstrained-features models: last-layer features move as freely as the classifier."""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int, Key

from ...checks import check_integer
from ...errors import ArgumentError
from ...lanes import formed, is_small, product
from ...losses import CrossEntropy, Loss, check_loss
from ...measures import (
    Invariant,
    balance,
    classifier_sum,
    collapse_metrics,
    gamma_tilde,
    imbalance_metrics,
    margin_metrics,
    max_margin,
    separation_of,
)
from ...precision import largest_exponent
from ...state import LastLayer
from ..base import check_shapes
from ..classed import AbstractClassed
from ..reduction import loss_scale_of
from .decay import WeightDecay, descent_of, log_with_decay, of_rows
from .gradients import pull_back
from .last_layers import check_options, gaussian_layer
from .sizes import (
    OfClasses,
    check_one_for_each_class,
    check_sizes,
    is_of_classes,
    numbers_of_classes,
)


class UnconstrainedFeatures(AbstractClassed):
    """Loss of WH + b 1ᵀ over free features H, classifier W and bias b (Ji 2.3; Mixon 2; Zhu 3).

    L(W, H, b) = s Σ_i ω_{y_i} ℓ(z_i, y_i) + λ_W/2 ‖W‖² + λ_H/2 ‖H‖² + λ_b/2 ‖b‖² with s = 1/N for
    reduction "mean" and 1 for "sum", and ω = 1 without class weights. Samples are in class-major
    order. `problem_for` sorts a state, such as the features of a network, into this order.

    Args:
        class_sizes: samples of each class; unequal sizes are allowed.
        feature_dim: d.
        loss: `CrossEntropy()`, `SquaredError()`, `LabelSmoothing(...)`, `Focal(...)`, or an
            instance of another subclass of `nc_jax.losses.Loss`.
        reduction: "mean" or "sum". k descent steps at rate η on the mean are time ηk/N of the sum.
        bias: whether the state has a bias.
        weight_decay: the λ of each part of the state, one number or one for each class.
        class_weights: K numbers ω_k > 0, or None. They are not divided by their sum. Functions
            whose theorem assumes a loss without weights refuse them, also if all ω are equal.

    Raises: ValueError for fewer than 2 classes, an empty class, feature_dim < 1, sizes that are no
    integers, an unknown reduction, a loss or weight decay of another kind, or another number of
    weights than classes.

    Example: at a state of zeros all classes have probability 1/K, and the loss is log 3.

        >>> problem = nc.UnconstrainedFeatures(class_sizes=(2, 2, 3), feature_dim=4)
        >>> state = problem.init(jax.random.key(0), norm=0.0)
        >>> state.features.shape, round(float(problem.objective(state)), 6)
        ((7, 4), 1.098612)

    Weights N/(K n_k) give every class the same total weight:

        >>> problem = nc.UnconstrainedFeatures((8, 2), 4, class_weights=(10 / 16, 10 / 4))
        >>> problem.class_weights
        (0.625, 2.5)
    """

    # Static fields decide the shapes and the structure of a program. Numbers that are not static,
    # such as a λ, can change without a new compilation.
    class_sizes: tuple[int, ...] = eqx.field(static=True)
    feature_dim: int = eqx.field(static=True)
    loss: Loss
    reduction: Literal["mean", "sum"] = eqx.field(static=True)
    bias: bool = eqx.field(static=True)
    weight_decay: WeightDecay
    # With a default for subclasses that assign the fields in an `__init__` of their own.
    class_weights: tuple[Any, ...] | Float[Array, "..."] | None = None

    # A claim: the objective and its flow are those of the equation in the docstring of this class.
    has_free_features: ClassVar[bool] = True

    _claims: ClassVar[tuple[str, ...]] = ("has_free_features",)
    _formulas: ClassVar[tuple[str, ...]] = ("labels", "loss_scale", *AbstractClassed._formulas)

    def __init__(
        self,
        class_sizes: Sequence[int],
        feature_dim: int,
        *,
        loss: Loss = CrossEntropy(),
        reduction: Literal["mean", "sum"] = "mean",
        bias: bool = False,
        weight_decay: WeightDecay = WeightDecay(),
        class_weights: OfClasses | None = None,
    ):
        self.class_sizes = check_sizes("class_sizes", class_sizes)
        # Checked before the dimension: a caller with K = 1 may pass the dimension K - 1 = 0, and
        # the message should be about K.
        if self.num_classes < 2:
            message = f"num_classes = {self.num_classes}: collapse needs 2 or more classes."
            raise ArgumentError(message, "num_classes")
        self.feature_dim = check_integer("feature_dim", feature_dim)
        self.loss = loss
        self.reduction = reduction
        self.bias = bias
        self.weight_decay = weight_decay
        self.class_weights = (
            None
            if class_weights is None
            else numbers_of_classes("class_weights", class_weights, above_zero=True)
        )

    def __check_init__(self):
        # Equinox also calls this for a subclass with another `__init__`.
        check_loss(self.loss, self.num_samples, self.num_classes)
        check_options(self.bias, self.weight_decay, self.reduction)
        numbers = {
            "class_weights": self.class_weights,
            "weight decay classifier": self.weight_decay.classifier,
            "weight decay features": self.weight_decay.features,
        }
        for name, values in numbers.items():
            check_one_for_each_class(name, values, self.num_classes)

    @property
    def samples_per_class(self) -> int | None:
        """n if all classes have one size, else None."""
        return self.class_sizes[0] if len(set(self.class_sizes)) == 1 else None

    @property
    def loss_scale(self) -> float:
        """s in L = s Σ ℓ: 1/N for the mean, 1 for the sum."""
        return loss_scale_of(self.reduction, self.num_samples)

    @property
    def treats_classes_alike(self) -> bool:
        """Whether there are no class weights, and no decay with a number for each class."""
        return self.class_weights is None and not self.weight_decay.per_class

    def init(
        self,
        key: Key[Array, ""],
        norm: Float[ArrayLike, ""] = 1.0,
        *,
        dtype: DTypeLike = float,
    ) -> LastLayer:
        """Gaussian features and classifier, scaled to ‖W‖_F = ‖H‖_F = norm; bias 0.

        Args: `key` from `jax.random.key`; `dtype` defaults to JAX's default float. Run i of a
        series uses `jax.random.fold_in(key, i)`. Its start has the same bits alone and in a batch.

        Raises: ValueError for a raw (untyped) key or a norm that is negative or not finite.
        """
        return gaussian_layer(
            key, norm, num_rows=(self.num_samples, self.num_classes), feature_dim=self.feature_dim,
            bias=self.bias, dtype=dtype,
        )  # fmt: skip

    def objective(self, state: LastLayer) -> Float[Array, ""]:
        """L(W, H, b), scalar."""
        check_shapes(self, state, name="state")
        values = self._weighted(self.loss.value(state.logits(), self.labels), self.labels)
        data = self.loss_scale * jnp.sum(values)
        decay = self.weight_decay
        return data if decay.absent else data + decay.penalty(state, self.labels)

    def log_summed_loss(self, state: LastLayer) -> Float[Array, ""]:
        """log Σ_i ω_{y_i} ℓ_i, finite where the loss underflows to 0; without 1/N and penalty."""
        check_shapes(self, state, name="state")
        log_values = self.loss.log_value(state.logits(), self.labels)
        if self.class_weights is not None:
            log_values += jnp.log(self._weights_of(self.labels, log_values.dtype))
        return jax.nn.logsumexp(log_values)

    def log_objective(self, state: LastLayer) -> Float[Array, ""]:
        """log L(W, H, b), finite where L underflows to 0; −inf where L is 0."""
        return self._log_objective(self.log_summed_loss(state), state)

    def gradient(self, state: LastLayer) -> LastLayer:
        """∇L = (RᵀH + λ_W W, RW + λ_H H, Rᵀ1 + λ_b b), R = ∂L/∂Z of shape (N, K)."""
        check_shapes(self, state, name="state")

        def residual(logits, labels):
            return self._weighted(self.loss_scale * self.loss.gradient(logits, labels), labels)

        gradient = pull_back(state, self.labels, residual)
        return self.weight_decay.add_to_gradient(gradient, state, 1.0, self.labels)

    def scaled_descent(self, state: LastLayer, log_scale: Float[ArrayLike, ""]) -> LastLayer:
        """e^log_scale · (−∇L), exponents added before `exp`: of order 1 however small ∇L is."""
        check_shapes(self, state, name="state")
        # `item`: a Python float does not promote float32, and a float64 of NumPy does.
        total_scale = log_scale + np.log(self.loss_scale).item()

        def residual(logits, labels):
            # Multiplied and not added to the exponent, which is one number for all samples.
            return self._weighted(self.loss.scaled_gradient(logits, labels, total_scale), labels)

        gradient = pull_back(state, self.labels, residual)
        return descent_of(self.weight_decay, gradient, state, log_scale, self.labels)

    def scaled_descent_lanes(self, states: LastLayer, log_scale: Float[ArrayLike, ""]) -> LastLayer:
        """`scaled_descent` of S states, the last axis: (N, d, S), (K, d, S), (K, S).

        Small matrix products are written as sums over lanes. A subclass with another field uses the
        default, one state of a `jax.vmap` for each lane.
        """
        if not (self.sums_over_lanes and is_unconstrained(self)):
            return super().scaled_descent_lanes(states, log_scale)
        return self.descent_of_lanes(states, log_scale)

    @property
    def sums_over_lanes(self) -> bool:
        """Whether the matrices are so small that sums over lanes are faster than products."""
        # The longest sum has N terms. The classifier, the right factor of two of the products, has
        # K d numbers.
        return is_small(self.num_samples, self.num_classes * self.feature_dim)

    def descent_of_lanes(self, states: LastLayer, log_scale: Float[ArrayLike, ""]) -> LastLayer:
        """e^log_scale · (−∇L) of S states, the last axis, with products as sums over lanes."""
        features, classifier = states.features, states.classifier
        logits = product(features, classifier.swapaxes(0, 1))
        # Logits and residual have several readers. Without `formed`, XLA computes their sums again
        # for each reader: 4.3 µs a run and not 1.8 (docs/sweeps.md).
        logits = formed(logits if states.bias is None else logits + states.bias[None], features)
        total_scale = log_scale + np.log(self.loss_scale).item()
        residual = self.loss.scaled_gradient_of_lanes(logits, self.labels, total_scale)
        residual = formed(self._weighted(residual, self.labels), features)
        # In the order of the fields of `LastLayer`, for `unflatten`.
        gradients = [product(residual, classifier), product(residual.swapaxes(0, 1), features)]
        if states.bias is not None:
            gradients.append(jnp.sum(residual, axis=0))
        gradient = jax.tree.unflatten(jax.tree.structure(states), gradients)
        return descent_of(self.weight_decay, gradient, states, log_scale, self.labels)

    def observe(self, state: LastLayer) -> dict[str, Float[Array, ""]]:
        """Objective, every collapse metric, margins and norms of the invariants, as scalars.

        Keys: `objective`, `log_objective`; those of `metrics.collapse_metrics` and
        `metrics.margin_metrics`; `balance_norm` = ‖WᵀW − HᵀH‖_F and `classifier_sum_norm` where
        these are invariants. Cross-entropy without bias adds `gamma_tilde`, and for classes of one
        size `max_margin_ratio`, q_min over its bound of Ji's theorem 3.1, which is at most 1. If
        there is no decay either, it adds `separation_value`, and for unequal classes and d >= K−1
        `seli_classifier_gap`, `seli_mean_gap`, `seli_logit_gap` and `logit_offset_spread`, which
        compare the state with the simplex-encoded labels. With class weights, or a decay for each
        class, all observables from `gamma_tilde` on are left out: their theorems assume neither.
        """
        # Computed once: both `log_objective` and `gamma_tilde` need it.
        log_summed_loss = self.log_summed_loss(state)
        observed = {
            "objective": self.objective(state),
            "log_objective": self._log_objective(log_summed_loss, state),
            **collapse_metrics(state, self.labels),
            **margin_metrics(state, self.labels),
        }
        for name, invariant in self.invariants(state).items():
            observed[f"{name}_norm"] = jnp.linalg.norm(invariant.value)
        plain = is_unconstrained(self) and self.treats_classes_alike
        if plain and self.loss.is_cross_entropy and not self.bias:
            squared_norm = observed["squared_norm"]
            observed["gamma_tilde"] = gamma_tilde(log_summed_loss, squared_norm)
            if self.samples_per_class is not None:
                bound = max_margin(squared_norm, self.num_classes, self.samples_per_class)
                observed["max_margin_ratio"] = observed["margin_min"] / bound
            if self.weight_decay.absent:
                observed |= self._separation(state, squared_norm, observed["margin_min"])
        return observed

    def _separation(
        self, state: LastLayer, squared_norm: Float[Array, ""], margin: Float[Array, ""]
    ) -> dict[str, Float[Array, ""]]:
        """`separation_value`, and for unequal classes the distances from SELI."""
        found = {"separation_value": separation_of(squared_norm, margin)}
        # For classes of one size the limit is a simplex ETF, and the collapse metrics measure that.
        if self.samples_per_class is None and self.feature_dim >= self.num_classes - 1:
            found |= imbalance_metrics(state, self.labels, self.class_sizes)
        return found

    def invariants(self, state: LastLayer) -> dict[str, Invariant]:
        """`balance` if λ_W = λ_H, and `classifier_sum` for a loss that is `shift_invariant`.

        They decay at the rates 2λ_W and λ_W, and are conserved without a decay. Class weights do
        not change this. If λ_W has K numbers, there is no invariant; if λ_H has, no `balance`.
        """
        decay = self.weight_decay
        invariants = {}
        if not is_unconstrained(self):
            return invariants
        if decay.balanced:
            invariants["balance"] = balance(state, rate=2 * decay.common)
        if self.loss.shift_invariant and not is_of_classes(decay.classifier):
            invariants["classifier_sum"] = classifier_sum(state, rate=decay.classifier)
        return invariants

    @property
    def comes_to_rest(self) -> bool:
        """False for cross-entropy or focal loss without decay, whose norm grows without bound."""
        return not (self.loss.finite_at_any_scale and self.weight_decay.absent)

    def largest_log_scale(self, dtype: DTypeLike) -> float:
        """Infinite for a flow that does not come to rest, else log of the largest number."""
        if not self.comes_to_rest:
            return np.inf
        return largest_exponent(dtype)

    def state_shapes(self) -> LastLayer:
        """Features (N, d), classifier (K, d) and bias (K,) or None, as `jax.ShapeDtypeStruct`s."""
        # Written by hand, because every call of an objective or a gradient checks shapes: a trace
        # of `init`, as in the base class, takes 30 times as long.
        rows = (self.num_samples, self.num_classes)
        shapes = [(count, self.feature_dim) for count in rows]
        bias_shapes = [(self.num_classes,)] if self.bias else []
        dtype = jnp.result_type(float)
        leaves = [jax.ShapeDtypeStruct(shape, dtype) for shape in [*shapes, *bias_shapes]]
        return jax.tree.unflatten(_structure(self.bias), leaves)

    def _log_objective(
        self, log_summed_loss: Float[Array, ""], state: LastLayer
    ) -> Float[Array, ""]:
        data = log_summed_loss + np.log(self.loss_scale).item()
        return log_with_decay(self.weight_decay, data, state, self.labels)

    def _weighted(
        self, values: Float[Array, "B *axes"], labels: Int[ArrayLike, " B"]
    ) -> Float[Array, "B *axes"]:
        """Values of samples times the weights of their classes; unchanged without weights."""
        if self.class_weights is None:
            return values
        return of_rows(self._weights_of(labels, values.dtype), values) * values

    def _weights_of(self, labels: Int[ArrayLike, " B"], dtype: DTypeLike) -> Float[Array, " B"]:
        """ω of the class of each sample."""
        return jnp.asarray(self.class_weights, dtype)[labels]


@functools.cache
def _structure(bias: bool) -> Any:
    """The structure of a state, a `PyTreeDef`, with a bias or without."""

    # Under `eval_shape`, so that the arrays are not computed.
    def state() -> LastLayer:
        row = jnp.zeros((1, 1))
        return LastLayer(row, row, row[0] if bias else None)

    return jax.tree.structure(jax.eval_shape(state))


def is_unconstrained(problem: object) -> TypeGuard[UnconstrainedFeatures]:
    """Whether what is proved of `UnconstrainedFeatures` holds for a problem.

    True for instances of the class, and of a subclass that replaces no formula of the model. A
    subclass may record more observables.
    """
    return isinstance(problem, UnconstrainedFeatures) and problem.has_free_features


def check_unconstrained(problem: object) -> None:
    """Raise ValueError unless what is proved of `UnconstrainedFeatures` holds for a problem."""
    if not is_unconstrained(problem):
        raise ValueError(
            f"problem is of type {type(problem).__name__}: give an UnconstrainedFeatures, such as "
            "nc_jax.ulpm(...), mixon(...) or zhu(...)."
        )
