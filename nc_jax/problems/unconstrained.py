"""Unconstrained-features models: last-layer features move as freely as the classifier."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int, Integer, Key

from ..capabilities import is_unchanged
from ..checks import check_integer, check_kind, check_number, is_traced, shown
from ..labels import check_labels, class_sizes
from ..lanes import formed, is_small, product
from ..losses import (
    CrossEntropy,
    Loss,
    SquaredError,
    check_derivatives,
    check_loss,
    has_formulas_of,
)
from ..metrics import (
    Invariant,
    balance,
    classifier_sum,
    collapse_metrics,
    gamma_tilde,
    margin_metrics,
    max_margin,
)
from ..precision import weak_scalar, widened
from ..state import LastLayer, check_last_layer
from .base import AbstractProblem, random_directions, start_norm

# Entries of the logits held at a time: a few megabytes, which a processor's cache can hold.
_LOGITS_AT_ONCE = 1 << 20


# Samples of every class: one number for all, or one for each.
ClassSizes = int | np.integer | Sequence[int] | Int[np.ndarray, " K"]


class WeightDecay(eqx.Module):
    """Penalty λ_W/2 ‖W‖_F² + λ_H/2 ‖H‖_F² + λ_b/2 ‖b‖² (Zhu, eq. 3); never divided by N.

    Numbers are part of the compiled program; a scalar array is an argument of it, so that λ can be
    swept under vmap or changed without compiling anew. `balanced` says that λ_W = λ_H was known
    when the object was made.

    Raises: ValueError for a negative or non-finite λ.

    Example: `WeightDecay(classifier=5e-4, features=5e-4)`.
    """

    classifier: float | Float[Array, ""]
    features: float | Float[Array, ""]
    bias: float | Float[Array, ""]
    balanced: bool = eqx.field(static=True)

    def __init__(
        self,
        classifier: float | Float[Array, ""] = 0.0,
        features: float | Float[Array, ""] = 0.0,
        bias: float | Float[Array, ""] = 0.0,
    ):
        for name, value in (("classifier", classifier), ("features", features), ("bias", bias)):
            check_number(f"weight decay {name}", value, scalar=True)
        self.classifier = weak_scalar(classifier)
        self.features = weak_scalar(features)
        self.bias = weak_scalar(bias)
        # Decided here: one tracer given twice is two once it has crossed a jit.
        known = not (is_traced(classifier) or is_traced(features))
        self.balanced = classifier is features or (known and bool(classifier == features))

    @property
    def absent(self) -> bool:
        """Whether every λ is known to be 0 now; unlike `balanced` it must not outlive a change."""
        decays = (self.classifier, self.features, self.bias)
        return all(isinstance(x, float) and x == 0 for x in decays)


class UnconstrainedFeatures(AbstractProblem):
    """Loss of WH + b 1ᵀ over free features H, classifier W and bias b (Ji 2.3; Mixon 2; Zhu 3).

    L(W, H, b) = s Σ_i ℓ(z_i, y_i) + λ_W/2 ‖W‖² + λ_H/2 ‖H‖² + λ_b/2 ‖b‖² with s = 1/N for
    reduction "mean" and 1 for "sum". Samples are in class-major order: `problem_for` sorts a state,
    such as the features of a network, and gives its problem.

    Args:
        class_sizes: samples of each class; unequal sizes are allowed.
        feature_dim: d.
        loss: `CrossEntropy()`, `SquaredError()`, or any `losses.Loss`, which a subclass of
            `losses.AbstractLoss` is that has a `value`.
        reduction: "mean" or "sum". k descent steps at rate η on the mean are time ηk/N of the sum.
        bias: whether the state has one.
        weight_decay: λ's of the penalty.

    Raises: ValueError for fewer than 2 classes, an empty class, feature_dim < 1, sizes that are no
    integers, an unknown reduction, or a loss or weight decay of another kind.

    Example:

        problem = UnconstrainedFeatures(class_sizes=(10, 10, 10), feature_dim=4)
        state = problem.init(jax.random.key(0))
        problem.objective(state)
    """

    class_sizes: tuple[int, ...] = eqx.field(static=True)
    feature_dim: int = eqx.field(static=True)
    loss: Loss
    reduction: Literal["mean", "sum"] = eqx.field(static=True)
    bias: bool = eqx.field(static=True)
    weight_decay: WeightDecay

    def __init__(
        self,
        class_sizes: Sequence[int],
        feature_dim: int,
        loss: Loss = CrossEntropy(),
        reduction: Literal["mean", "sum"] = "mean",
        bias: bool = False,
        weight_decay: WeightDecay = WeightDecay(),
    ):
        self.class_sizes = _sizes("class_sizes", class_sizes)
        # Before the dimension, for which K - 1 = 0 may have been given.
        if self.num_classes < 2:
            raise ValueError(f"num_classes = {self.num_classes}: collapse needs 2 or more classes.")
        self.feature_dim = check_integer("feature_dim", feature_dim)
        self.loss = loss
        self.reduction = reduction
        self.bias = bias
        self.weight_decay = weight_decay

    def __check_init__(self):
        check_loss(self.loss, self.num_samples, self.num_classes)
        check_derivatives(self.loss)
        check_kind("bias", self.bias, (bool, np.bool_), "True")
        decay = "WeightDecay(classifier=5e-4, features=5e-4)"
        check_kind("weight_decay", self.weight_decay, WeightDecay, decay)
        if self.reduction not in ("mean", "sum"):
            raise ValueError(f"reduction = {self.reduction!r}: give 'mean' or 'sum'.")

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_sizes)

    @property
    def num_samples(self) -> int:
        """N, over all classes."""
        return sum(self.class_sizes)

    @property
    def samples_per_class(self) -> int | None:
        """n if all classes have one size, else None."""
        return self.class_sizes[0] if len(set(self.class_sizes)) == 1 else None

    @property
    def labels(self) -> Int[np.ndarray, " N"]:
        """Class of each row of the features, (N,) int32; a NumPy array, concrete under jit."""
        return np.repeat(np.arange(self.num_classes, dtype=np.int32), self.class_sizes)

    @property
    def loss_scale(self) -> float:
        """s in L = s Σ ℓ: 1/N for the mean, 1 for the sum."""
        return 1 / self.num_samples if self.reduction == "mean" else 1.0

    def init(
        self,
        key: Key[Array, ""],
        norm: Float[ArrayLike, ""] = 1.0,
        dtype: DTypeLike = float,
    ) -> LastLayer:
        """Gaussian directions scaled to ‖W‖_F = ‖H‖_F = norm, bias 0.

        Args: `key` from `jax.random.key`; `dtype` defaults to JAX's default float. Run i of a
        series uses `jax.random.fold_in(key, i)`, and has the same bits alone and in a batch.

        Raises: ValueError for a raw (untyped) key or a norm that is negative or not finite.
        """
        scale = start_norm(key, norm, dtype)
        rows = (self.num_samples, self.num_classes)
        features, classifier = random_directions(
            jax.random.split(key),
            tuple((count, self.feature_dim) for count in rows),
            jnp.full(2, scale),
        )
        bias = jnp.zeros(self.num_classes, scale.dtype) if self.bias else None
        return LastLayer(features, classifier, bias)

    def objective(self, state: LastLayer) -> Float[Array, ""]:
        """L(W, H, b), scalar."""
        self.check_state(state)
        data = self.loss_scale * jnp.sum(self.loss.value(state.logits(), self.labels))
        return data if self.weight_decay.absent else data + self._penalty(state)

    def log_summed_loss(self, state: LastLayer) -> Float[Array, ""]:
        """log Σ_i ℓ_i, finite long after the loss has underflowed; no 1/N, no penalty."""
        self.check_state(state)
        return jax.nn.logsumexp(self.loss.log_value(state.logits(), self.labels))

    def log_objective(self, state: LastLayer) -> Float[Array, ""]:
        """log L(W, H, b), finite long after L has underflowed; −inf where L is 0."""
        return self._log_objective(self.log_summed_loss(state), state)

    def gradient(self, state: LastLayer) -> LastLayer:
        """∇L = (RᵀH + λ_W W, RW + λ_H H, Rᵀ1 + λ_b b), R = ∂L/∂Z of shape (N, K)."""
        self.check_state(state)

        def residual(logits, labels):
            return self.loss_scale * self.loss.gradient(logits, labels)

        return self._add_decay(_pull_back(state, self.labels, residual), state, 1.0)

    def scaled_descent(self, state: LastLayer, log_scale: Float[ArrayLike, ""]) -> LastLayer:
        """e^log_scale · (−∇L), formed in log space: of order 1 however small ∇L is."""
        self.check_state(state)
        total_scale = log_scale + np.log(self.loss_scale).item()

        def residual(logits, labels):
            return self.loss.scaled_gradient(logits, labels, total_scale)

        gradient = _pull_back(state, self.labels, residual)
        return self._scaled_descent_of(gradient, state, log_scale)

    def scaled_descent_lanes(self, states: LastLayer, log_scale: Float[ArrayLike, ""]) -> LastLayer:
        """`scaled_descent` of states beside each other, (N, d, S), (K, d, S) and (K, S).

        Products that are small are written out as sums over lanes; of a subclass with another field
        the default.
        """
        small = is_small(self.num_samples, self.num_classes * self.feature_dim)
        if not (small and is_unconstrained(self)):
            return super().scaled_descent_lanes(states, log_scale)
        features, classifier = states.features, states.classifier
        logits = product(features, classifier.swapaxes(0, 1))
        logits = formed(logits if states.bias is None else logits + states.bias[None], features)
        total_scale = log_scale + np.log(self.loss_scale).item()
        written_for_lanes = any(
            has_formulas_of(self.loss, kind) for kind in (CrossEntropy, SquaredError)
        )
        scaled_gradient = self.loss.scaled_gradient
        if not written_for_lanes:
            scaled_gradient = jax.vmap(scaled_gradient, (-1, None, None), -1)
        residual = formed(scaled_gradient(logits, self.labels, total_scale), features)
        gradients = [product(residual, classifier), product(residual.swapaxes(0, 1), features)]
        if states.bias is not None:
            gradients.append(jnp.sum(residual, axis=0))
        gradient = jax.tree.unflatten(jax.tree.structure(states), gradients)
        return self._scaled_descent_of(gradient, states, log_scale)

    def observe(self, state: LastLayer) -> dict[str, Float[Array, ""]]:
        """Scalars of a state: objective, every collapse metric, margins, norms of the invariants.

        Keys: `objective`, `log_objective`; those of `metrics.collapse_metrics` and
        `metrics.margin_metrics`; `balance_norm` = ‖WᵀW − HHᵀ‖_F where that is an invariant, and
        `classifier_sum_norm` likewise. Cross-entropy without bias adds `gamma_tilde`, and with
        balanced classes `max_margin_ratio` = q_min over its bound of Ji's theorem 3.1, at most 1.
        """
        log_summed_loss = self.log_summed_loss(state)
        observed = {
            "objective": self.objective(state),
            "log_objective": self._log_objective(log_summed_loss, state),
            **collapse_metrics(state, self.labels),
            **margin_metrics(state, self.labels),
        }
        for name, invariant in self.invariants(state).items():
            observed[f"{name}_norm"] = jnp.linalg.norm(invariant.value)
        of_cross_entropy = is_unconstrained(self) and has_formulas_of(self.loss, CrossEntropy)
        if of_cross_entropy and not self.bias:
            squared_norm = observed["squared_norm"]
            observed["gamma_tilde"] = gamma_tilde(log_summed_loss, squared_norm)
            if self.samples_per_class is not None:
                bound = max_margin(squared_norm, self.num_classes, self.samples_per_class)
                observed["max_margin_ratio"] = observed["margin_min"] / bound
        return observed

    def invariants(self, state: LastLayer) -> dict[str, Invariant]:
        """What the flow keeps: `balance` if λ_W = λ_H, `classifier_sum` for cross-entropy."""
        decay = self.weight_decay
        kept = {}
        if not is_unconstrained(self):
            return kept
        if decay.balanced:
            kept["balance"] = balance(state, 2 * decay.classifier)
        if has_formulas_of(self.loss, CrossEntropy):
            kept["classifier_sum"] = classifier_sum(state, decay.classifier)
        return kept

    @property
    def comes_to_rest(self) -> bool:
        """Not pure cross-entropy, whose norm grows for ever."""
        return not (self.loss.finite_at_any_scale and self.weight_decay.absent)

    def largest_log_scale(self, dtype: DTypeLike) -> float:
        """Infinite for pure cross-entropy; else log of the dtype's largest number."""
        if not self.comes_to_rest:
            return np.inf
        return np.log(np.finfo(dtype).max).item()

    def check_state(self, state: LastLayer) -> None:
        """Raise ValueError for what is no state of this problem; costs a compiled call nothing."""
        check_last_layer(state)
        wanted = (self.num_samples, self.feature_dim), (self.num_classes, self.feature_dim)
        if (state.features.shape, state.classifier.shape) != wanted:
            raise ValueError(
                f"state: features and classifier have shapes {state.features.shape} and "
                f"{state.classifier.shape} where the problem has {wanted[0]} and {wanted[1]}; pass "
                "a state like problem.init(key)."
            )
        if (state.bias is not None) != self.bias:
            lack, other = ("no", "has one") if self.bias else ("a", "has none")
            raise ValueError(
                f"state has {lack} bias where the problem {other}; pass a state like "
                "problem.init(key)."
            )

    def _log_objective(
        self, log_summed_loss: Float[Array, ""], state: LastLayer
    ) -> Float[Array, ""]:
        data = log_summed_loss + np.log(self.loss_scale).item()
        if self.weight_decay.absent:
            return data
        return jnp.logaddexp(data, jnp.log(self._penalty(state)))

    def _penalty(self, state: LastLayer) -> Float[Array, ""]:
        decay, state = self.weight_decay, widened(state)
        penalty = decay.classifier * jnp.sum(state.classifier**2)
        penalty += decay.features * jnp.sum(state.features**2)
        if state.bias is not None:
            penalty += decay.bias * jnp.sum(state.bias**2)
        return penalty / 2

    def _scaled_descent_of(
        self, gradient: LastLayer, state: LastLayer, log_scale: Float[ArrayLike, ""]
    ) -> LastLayer:
        """Minus the scaled gradient of the data term and the decay, scaled here."""
        scale = 1.0 if self.weight_decay.absent else jnp.exp(log_scale)
        return jax.tree.map(jnp.negative, self._add_decay(gradient, state, scale))

    def _add_decay(
        self, gradient: LastLayer, state: LastLayer, scale: Float[ArrayLike, ""]
    ) -> LastLayer:
        """Gradient of the data term plus `scale` times that of the penalty."""
        decay = self.weight_decay
        if decay.absent:
            return gradient
        leaves, structure = jax.tree.flatten(widened(state))
        rates = [decay.features, decay.classifier, decay.bias][: len(leaves)]
        decays = [scale * rate * leaf for rate, leaf in zip(rates, leaves, strict=True)]
        return jax.tree.map(jnp.add, gradient, jax.tree.unflatten(structure, decays))


def is_unconstrained(problem: object) -> TypeGuard[UnconstrainedFeatures]:
    """Whether what is known of `UnconstrainedFeatures` holds for a problem.

    True for its instances, and for a subclass only if that replaces none of what defines the model;
    it may observe more.
    """
    return is_unchanged(problem, UnconstrainedFeatures, _MODEL)


# What the objective of `UnconstrainedFeatures` and its derivatives consist of.
_MODEL = (
    "labels", "loss_scale", "objective", "gradient", "scaled_descent",
    "_penalty", "_add_decay", "_scaled_descent_of",
)  # fmt: skip


def _pull_back(
    state: LastLayer,
    labels: Int[np.ndarray, " N"],
    residual: Callable[[Float[Array, "B K"], Int[Array, " B"]], Float[Array, "B K"]],
) -> LastLayer:
    """Gradient in the state of a loss with this residual ∂L/∂Z.

    Samples are taken some at a time: logits of all of them, written and read from memory for every
    operation of the residual, take as long as the products.
    """

    def of(features: Float[Array, "B d"], labels: Int[Array, " B"]) -> LastLayer:
        some = LastLayer(features, state.classifier, state.bias)
        return some.pull_back(residual(some.logits(), labels))

    num_samples, num_classes = state.features.shape[0], state.classifier.shape[0]
    parts = -(-num_samples * num_classes // _LOGITS_AT_ONCE)
    rows = num_samples // parts
    cut = parts * rows
    if parts == 1:
        return of(state.features, jnp.asarray(labels))

    def add(last: tuple[Array, Array | None], some: tuple[Array, Array]):
        part = of(*some)
        return jax.tree.map(jnp.add, last, (part.classifier, part.bias)), part.features

    rest = of(state.features[cut:], jnp.asarray(labels[cut:]))
    split = state.features[:cut].reshape(parts, rows, -1), labels[:cut].reshape(parts, rows)
    (classifier, bias), features = jax.lax.scan(
        add, (rest.classifier, rest.bias), jax.tree.map(jnp.asarray, split)
    )
    features = jnp.concatenate([features.reshape(cut, -1), rest.features])
    return LastLayer(features, classifier, bias)


def problem_for(
    state: LastLayer,
    labels: Integer[ArrayLike, " N"],
    *,
    loss: Loss = CrossEntropy(),
    reduction: Literal["mean", "sum"] = "mean",
    weight_decay: WeightDecay = WeightDecay(),
) -> tuple[UnconstrainedFeatures, LastLayer]:
    """The model that a state with samples in any order is of, and the state in the model's order.

    Features of a network come in the order of its data set, while rows of a state are class by
    class in an `UnconstrainedFeatures`, its flows and `nc_jax.landscape`. A state does not say
    which order it has: another one gives another objective without an error. Here the rows are
    sorted by class, and those of a class stay in their order: row i is `features[order[i]]` with
    `order = np.argsort(labels, kind="stable")`.

    Args:
        state: features (N, d), classifier (K, d) and bias (K,) or None, of any real dtype; half
            precision and integers are converted as by `precision.widened`.
        labels: (N,) concrete integers in 0..K−1, in any order, at least one of each class.
        loss, reduction, weight_decay: of the model, as for `UnconstrainedFeatures`.

    Returns: the problem, with a bias if the state has one, and the sorted state.

    Raises: ValueError for what is no `LastLayer` of one state, labels that are traced or do not
    name a class of 0..K−1 for each feature, or a class without samples.

    Example:

        layer = run.network()(data.images, train=False)
        problem, state = problem_for(layer, data.labels, weight_decay=WeightDecay(5e-4, 5e-4))
        landscape.classify(problem, state).kind
    """
    check_last_layer(state)
    num_classes = state.classifier.shape[0]
    labels = check_labels(labels, num_classes, len(state.features), every_class=True)
    if is_traced(labels):
        raise ValueError("labels are traced: their class sizes are unknown; close over the labels.")
    state, order = widened(state), np.argsort(np.asarray(labels), kind="stable")
    problem = UnconstrainedFeatures(
        class_sizes(labels, num_classes), state.features.shape[1], loss, reduction,
        state.bias is not None, weight_decay,
    )  # fmt: skip
    return problem, LastLayer(state.features[order], state.classifier, state.bias)


def ulpm(
    num_classes: int,
    feature_dim: int,
    samples_per_class: ClassSizes,
    reduction: Literal["mean", "sum"] = "sum",
) -> UnconstrainedFeatures:
    """The unconstrained layer-peeled model of Ji (eq. 2.3): cross-entropy, no bias, no decay.

    Args: `samples_per_class` one size for all classes, or one of each: `[20] * 3 + [5] * 2`.

    Raises: as `UnconstrainedFeatures`, and for another number of sizes than of classes.

    Example: `ulpm(5, 20, 10)` is the model of the paper's figure 2.
    """
    sizes = _sizes_of(num_classes, samples_per_class)
    return UnconstrainedFeatures(sizes, feature_dim, CrossEntropy(), reduction)


def mixon(
    num_classes: int, feature_dim: int, samples_per_class: ClassSizes
) -> UnconstrainedFeatures:
    """Mixon's model (section 2): R(H, W, b) = ½‖WH + b1ᵀ − I⊗1ᵀ‖_F², summed, with bias.

    Args and errors: as for `ulpm`. The `mixon_*` metrics and the closed forms need equal classes.

    Example: `mixon(3, 15, 3)` is the model of the paper's figures.
    """
    sizes = _sizes_of(num_classes, samples_per_class)
    return UnconstrainedFeatures(sizes, feature_dim, SquaredError(), "sum", bias=True)


def zhu(
    num_classes: int,
    feature_dim: int,
    samples_per_class: ClassSizes,
    weight_decay: WeightDecay | float | Float[Array, ""],
) -> UnconstrainedFeatures:
    """Zhu's regularised model (eq. 3): mean cross-entropy, bias, weight decay.

    A number is taken as one λ for classifier, features and bias.

    Args and errors: as for `ulpm`.

    Example: `zhu(10, 64, 100, WeightDecay(classifier=5e-4, features=5e-4, bias=0.0))`.
    """
    if not isinstance(weight_decay, WeightDecay):
        check_number("weight_decay", weight_decay, scalar=True)
        weight_decay = WeightDecay(weight_decay, weight_decay, weight_decay)
    sizes = _sizes_of(num_classes, samples_per_class)
    return UnconstrainedFeatures(sizes, feature_dim, CrossEntropy(), "mean", True, weight_decay)


def _sizes_of(num_classes: int, samples_per_class: ClassSizes) -> tuple[int, ...]:
    """Samples of each class."""
    count = check_integer("num_classes", num_classes)
    if not np.ndim(samples_per_class):  # pyright: ignore[reportArgumentType]
        return (check_integer("samples_per_class", samples_per_class),) * count
    sizes = _sizes("samples_per_class", samples_per_class)
    if len(sizes) != count:
        raise ValueError(
            f"samples_per_class has {len(sizes)} sizes and num_classes = {count}: give one size "
            "for each class, or one integer for all."
        )
    return sizes


def _sizes(name: str, sizes: object) -> tuple[int, ...]:
    """Integers >= 1."""
    if isinstance(sizes, str) or not isinstance(sizes, Iterable) or np.ndim(sizes) != 1:  # pyright: ignore[reportArgumentType]
        raise ValueError(f"{name} = {shown(sizes)}: give the samples of each class, as (10, 10).")
    return tuple(check_integer(f"{name}[{i}]", size) for i, size in enumerate(sizes))


def check_unconstrained(problem: object) -> None:
    """Raise ValueError for what is no `UnconstrainedFeatures`, or a subclass of another model."""
    if not is_unconstrained(problem):
        raise ValueError(
            f"problem is of type {type(problem).__name__}: give an UnconstrainedFeatures, such as "
            "nc_jax.ulpm(...), mixon(...) or zhu(...)."
        )
