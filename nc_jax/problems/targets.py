"""Free features whose samples have a row of targets: labels, probabilities or real numbers."""

from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal, TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key, Real

from ..checks import check_integer, check_number, is_traced, shown
from ..losses import SoftCrossEntropy, TargetLoss
from ..measures import Invariant, balance, classifier_sum
from ..measures.targets import label_set_metrics, regression_metrics, soft_label_metrics
from ..precision import largest_exponent, widened
from ..state import LastLayer
from .base import AbstractProblem, check_shapes
from .reduction import loss_scale_of
from .unconstrained import UnconstrainedFeatures, WeightDecay, is_unconstrained
from .unconstrained.decay import descent_of, log_with_decay
from .unconstrained.gradients import pull_back
from .unconstrained.last_layers import check_options, gaussian_layer


def label_sets(sets: Sequence[Iterable[int]], num_classes: int) -> Float[np.ndarray, "N K"]:
    """Targets (N, K) of samples with several labels: 1 at each label of a sample, 0 elsewhere.

    Args:
        sets: the labels of each sample, integers in 0..K−1 without repetition.
        num_classes: K.

    Raises: ValueError for a label that is no integer in 0..K−1, or occurs twice in a sample.

    Example:

        >>> nc.problems.label_sets([(0,), (1, 2)], 3).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]
    """
    check_integer("num_classes", num_classes, least=2)
    targets = np.zeros((len(sets), num_classes))
    for i, labels in enumerate(sets):
        if isinstance(labels, str) or not isinstance(labels, Iterable):
            raise ValueError(
                f"sets[{i}] = {shown(labels)}: give the labels of a sample, as (0, 2)."
            )
        for label in labels:
            k = check_integer(f"label in sets[{i}]", label, least=0, most=num_classes - 1)
            if targets[i, k]:
                raise ValueError(f"sets[{i}] has the label {k} twice: give each label once.")
            targets[i, k] = 1
    return targets


class FreeFeatures(AbstractProblem):
    """Loss of WH + b 1ᵀ over free H, W and b, where each sample has a row of targets y_i.

    L(W, H, b) = s Σ_i ℓ(z_i, y_i) + λ_W/2 ‖W‖² + λ_H/2 ‖H‖² + λ_b/2 ‖b‖², with s = 1/N for
    reduction "mean" and 1 for "sum", as for `UnconstrainedFeatures`, whose samples have one class
    each. With `losses.PickAllLabels()` samples have one or more labels (Li et al. 2023), with
    `losses.SoftCrossEntropy()` each row is a distribution over labels (Zhao et al. 2024), with
    `losses.HalfSquaredDistance()` the model is a regression (Andriopoulos et al. 2024).

    A problem that holds arrays is no static argument of `jax.jit`. Use
    `eqx.filter_jit(problem.gradient)`, or `jax.jit` of a function that closes over the problem.

    Args:
        targets: (N, C) real numbers; `label_sets` writes those of `PickAllLabels`.
        feature_dim: d.
        loss: `losses.PickAllLabels()`, `losses.SoftCrossEntropy()`,
            `losses.HalfSquaredDistance()`, or another `nc_jax.losses.TargetLoss`.
        reduction: "mean" or "sum".
        bias: whether the state has a bias.
        weight_decay: the λ of each part of the state. The decay of the features is not divided by
            N: a term λ/(2N) ‖H‖², as in some papers on regression, is `features=λ/N`.

    Raises: ValueError for targets that are not finite, have not two axes or do not suit the loss,
    feature_dim < 1, an unknown reduction, or a loss or weight decay of another kind.

    Example: at a state of zeros, two labels of three cost 2 log 3, and one label log 3.

        >>> targets = nc.problems.label_sets([(0,), (1, 2)], 3)
        >>> problem = nc.problems.FreeFeatures(targets, 4, loss=nc.losses.PickAllLabels())
        >>> state = problem.init(jax.random.key(0), norm=0.0)
        >>> bool(jnp.allclose(problem.objective(state), 1.5 * jnp.log(3.0)))
        True
    """

    # Targets are a leaf of the pytree, because static fields must be hashable and arrays are not.
    targets: Float[Array, "N C"]
    feature_dim: int = eqx.field(static=True)
    loss: TargetLoss
    reduction: Literal["mean", "sum"] = eqx.field(static=True)
    bias: bool = eqx.field(static=True)
    weight_decay: WeightDecay

    # A claim: the objective and its flow are those of the equation in the docstring of this class.
    has_free_features: ClassVar[bool] = True

    _claims: ClassVar[tuple[str, ...]] = ("has_free_features",)
    _formulas: ClassVar[tuple[str, ...]] = ("loss_scale", *AbstractProblem._formulas)

    def __init__(
        self,
        targets: Real[ArrayLike, "N C"],
        feature_dim: int,
        *,
        loss: TargetLoss,
        reduction: Literal["mean", "sum"] = "mean",
        bias: bool = False,
        weight_decay: WeightDecay = WeightDecay(),
    ):
        check_number("targets", targets, signed=True)
        if np.ndim(targets) != 2:
            raise ValueError(
                f"targets have shape {np.shape(targets)}: give (N, C), a row for each sample."
            )
        # Concrete also where the problem is created in traced code: closed forms read the targets.
        with jax.ensure_compile_time_eval():
            self.targets = jnp.asarray(targets, float)
        self.feature_dim = check_integer("feature_dim", feature_dim)
        self.loss = loss
        self.reduction = reduction
        self.bias = bias
        self.weight_decay = weight_decay

    def __check_init__(self):
        if not isinstance(self.loss, TargetLoss):
            raise ValueError(
                f"loss = {shown(self.loss)}: give PickAllLabels(), HalfSquaredDistance() or "
                "another TargetLoss of nc_jax.losses."
            )
        check_options(self.bias, self.weight_decay, self.reduction)
        if self.weight_decay.per_class:
            raise ValueError(
                "weight decay has a number for each class: these samples have no classes; give one "
                "number λ_W and one λ_H."
            )
        self.loss.check_targets(self.targets)

    @property
    def num_samples(self) -> int:
        """N."""
        return self.targets.shape[0]

    @property
    def num_outputs(self) -> int:
        """C, the number of targets of each sample, and of rows of the classifier."""
        return self.targets.shape[1]

    @property
    def loss_scale(self) -> float:
        """s in L = s Σ ℓ: 1/N for the mean, 1 for the sum."""
        return loss_scale_of(self.reduction, self.num_samples)

    def init(
        self,
        key: Key[Array, ""],
        norm: Float[ArrayLike, ""] = 1.0,
        *,
        dtype: DTypeLike = float,
    ) -> LastLayer:
        """Gaussian features and classifier, scaled to ‖W‖_F = ‖H‖_F = norm; bias 0.

        Raises: ValueError for a raw (untyped) key or a norm that is negative or not finite.
        """
        return gaussian_layer(
            key, norm, num_rows=(self.num_samples, self.num_outputs), feature_dim=self.feature_dim,
            bias=self.bias, dtype=dtype,
        )  # fmt: skip

    def objective(self, state: LastLayer) -> Float[Array, ""]:
        """L(W, H, b), scalar."""
        targets = self._targets_for(state)
        data = self.loss_scale * jnp.sum(self.loss.value(state.logits(), targets))
        return data if self.weight_decay.absent else data + self.weight_decay.penalty(state)

    def log_objective(self, state: LastLayer) -> Float[Array, ""]:
        """log L(W, H, b); −inf where L is 0."""
        targets = self._targets_for(state)
        data = jax.nn.logsumexp(self.loss.log_value(state.logits(), targets))
        data += np.log(self.loss_scale).item()
        return log_with_decay(self.weight_decay, data, state)

    def gradient(self, state: LastLayer) -> LastLayer:
        """∇L = (RᵀH + λ_W W, RW + λ_H H, Rᵀ1 + λ_b b), R = ∂L/∂Z of shape (N, C)."""
        return jax.tree.map(jnp.negative, self.scaled_descent(state, 0.0))

    def scaled_descent(self, state: LastLayer, log_scale: Float[ArrayLike, ""]) -> LastLayer:
        """e^log_scale · (−∇L), with the exponents of the loss added before `exp`."""
        targets = self._targets_for(state)
        # `item`: a Python float does not promote float32, and a float64 of NumPy does.
        total_scale = log_scale + np.log(self.loss_scale).item()

        def residual(outputs, targets):
            return self.loss.scaled_gradient(outputs, targets, total_scale)

        gradient = pull_back(state, targets, residual)
        return descent_of(self.weight_decay, gradient, state, log_scale)

    def observe(self, state: LastLayer) -> dict[str, Float[Array, ""]]:
        """Objective, norms, and the measures of label sets or of regression, as scalars.

        Keys: `objective`, `log_objective`, `squared_norm`; `balance_norm` and
        `classifier_sum_norm` where these are invariants. With targets that are label sets also
        `margin_min`, `margin_mean`, `zhu_nc2` and `label_sum_gap`; with soft labels `excess_loss`,
        `log_excess_loss`, `in_support_gap`, `out_of_support_margin` and `support_cosine`; with
        others `andriopoulos_nrc1` to `andriopoulos_nrc3`. `metrics.regression_collapse` has further
        measures of a final state.
        """
        targets = self._targets_for(state)
        observed = {
            "objective": self.objective(state),
            "log_objective": self.log_objective(state),
            "squared_norm": state.squared_norm(),
        }
        for name, invariant in self.invariants(state).items():
            observed[f"{name}_norm"] = jnp.linalg.norm(invariant.value)
        if self.loss.needs_label_sets:
            return {**observed, **label_set_metrics(state, targets > 0)}
        if self.loss.is_soft_cross_entropy:
            return {**observed, **self._excess(state), **soft_label_metrics(state, targets)}
        return {**observed, **regression_metrics(state, targets)}

    def _excess(self, state: LastLayer) -> dict[str, Float[Array, ""]]:
        """The loss of soft labels less their entropy, without cancellation, and its logarithm."""
        assert isinstance(self.loss, SoftCrossEntropy)
        logits, targets = state.logits(), self._targets_for(state)
        log_excess = jax.nn.logsumexp(self.loss.log_excess(logits, targets))
        return {
            "excess_loss": self.loss_scale * jnp.sum(self.loss.excess(logits, targets)),
            "log_excess_loss": log_excess + np.log(self.loss_scale).item(),
        }

    def invariants(self, state: LastLayer) -> dict[str, Invariant]:
        """`balance` if λ_W = λ_H, and `classifier_sum` for a loss that is `shift_invariant`.

        They decay at the rates 2λ_W and λ_W, and are conserved without a decay.
        """
        decay = self.weight_decay
        invariants = {}
        if not self.has_free_features:
            return invariants
        if decay.balanced:
            invariants["balance"] = balance(state, rate=2 * decay.common)
        if self.loss.shift_invariant:
            invariants["classifier_sum"] = classifier_sum(state, rate=decay.classifier)
        return invariants

    @property
    def comes_to_rest(self) -> bool:
        """False without decay for a loss `finite_at_any_scale`, and for supports with a 0.

        A support is the set of labels of a sample, or of those with p > 0. A 0 lets logits grow
        without limit.
        """
        grows = self.loss.finite_at_any_scale or self._has_zeros
        return not (grows and self.weight_decay.absent)

    @property
    def is_stiff_in_log_time(self) -> bool:
        """True without decay for supports with a 0, unless every support is a single label.

        The logits of a support relax to log p_j/p_k, or to equal logits for label sets, while those
        off it fall as −log t. Of traced targets nothing is known, and True is the safe answer.
        """
        if self.comes_to_rest or not self._has_supports:
            return False
        if is_traced(self.targets):
            return True
        return bool(np.any(np.count_nonzero(np.asarray(self.targets), axis=1) > 1))

    @property
    def _has_supports(self) -> bool:
        """Whether targets are probabilities of labels, or sets of labels."""
        return self.loss.is_soft_cross_entropy or self.loss.is_pick_all_labels

    @property
    def _has_zeros(self) -> bool:
        """Whether the targets have supports, some of them with a 0, or are unknown."""
        if not self._has_supports:
            return False
        return is_traced(self.targets) or bool(np.any(np.asarray(self.targets) == 0))

    def largest_log_scale(self, dtype: DTypeLike) -> float:
        """Infinite for a flow without a limit, log of the largest number for one at rest.

        For a flow that is stiff in log time it is −log eps, t = 4·10^15 in float64: beyond, the
        deviation of the logits of a support, which is of order 1/t, is below their rounding errors,
        and the number of steps grows with t (docs/solvers.md).
        """
        if self.is_stiff_in_log_time:
            return -np.log(np.finfo(dtype).eps).item()
        if not self.comes_to_rest:
            return np.inf
        return largest_exponent(dtype)

    def _targets_for(self, state: LastLayer) -> Float[Array, "N C"]:
        """The targets in the dtype of a state of the right shapes, which they would promote."""
        check_shapes(self, state, name="state")
        return self.targets.astype(widened(state).classifier.dtype)


def has_free_features(problem: object) -> TypeGuard[UnconstrainedFeatures | FreeFeatures]:
    """Whether the state is free features and a classifier, and the loss depends on WH + b 1ᵀ alone.

    Example:

        >>> from nc_jax.problems import has_free_features
        >>> has_free_features(nc.ulpm(3, 4, 2)), has_free_features(nc.LinearizedMixon(3, 4, 2))
        (True, False)
    """
    free_targets = isinstance(problem, FreeFeatures) and problem.has_free_features
    return free_targets or is_unconstrained(problem)
