"""Losses of logits, with gradients that stay finite when probabilities underflow.

A gradient flow in a transformed time needs e^s ∇L with s as large as 10^6. Every loss therefore
gives its gradient times e^s (`scaled_gradient`, in log space where the loss allows it). A loss of
class labels gives the plain gradient too (`gradient`), which descent uses.

Results have the dtype of the logits, and float32 for logits of half precision. Labels are integers
(N,) in 0..K−1. Others raise a ValueError; of traced labels only shape and dtype are checked.

A loss states what has been proved of it as class attributes, such as `shift_invariant`. Theorems,
invariants and closed forms ask for these attributes, and never for a class.
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Integer, Real

from .capabilities import inherited_beside, void_inherited_claims
from .checks import check_arrays, shown
from .geometry import membership, split_at_label
from .labels import check_labels
from .lanes import reduce_classes
from .precision import widened


class _AbstractSampleLoss(eqx.Module):
    """Base of all losses: the names of their claims, and of the formulas that these are about."""

    finite_at_any_scale: ClassVar[bool] = False

    _claims: ClassVar[tuple[str, ...]] = ("finite_at_any_scale",)
    _formulas: ClassVar[tuple[str, ...]] = ("value", "log_value", "scaled_gradient")

    def __init_subclass__(cls, **options: object) -> None:
        """Set the claims of a parent to False where a subclass replaces one of its formulas."""
        super().__init_subclass__(**options)
        void_inherited_claims(cls, cls._claims, cls._formulas)

    def __check_init__(self):
        """Refuse a loss that has a new value but the gradient of its parent."""
        inherited = inherited_beside(type(self), "value", self._formulas)
        if inherited:
            kind = type(self).__name__
            raise ValueError(
                f"loss = {shown(self)}: {kind} replaces the value of its parent but not "
                f"{', '.join(inherited)}; define these in {kind} too."
            )


class Loss(_AbstractSampleLoss):
    """A loss of logits (N, K) and labels (N,), one number for each sample.

    A subclass writes `value`, in operations that JAX can differentiate, where the loss of a sample
    depends on the logits of this sample alone. The logarithm and the gradients follow by
    differentiation. A loss that underflows, as cross-entropy does, writes `log_value` and
    `scaled_gradient` too, in log space, and sets `finite_at_any_scale = True`: that carries a flow
    beyond t = 10^308, where the derivative of `value` is 0.

    Class attributes state what holds for a loss. All are False by default. A subclass that replaces
    a formula (`value`, `log_value`, `gradient` or `scaled_gradient`) loses the claims of its parent
    unless it states them again.

    Attributes:
        finite_at_any_scale: `scaled_gradient` stays of order 1 along the flow, whatever its scale.
            Flows then pass t = 10^308.
        shift_invariant: ℓ(z + a1, y) = ℓ(z, y) for every number a, so that Σ_k ∂ℓ/∂z_k = 0. The
            flow then conserves Σ_c w_c, and a bias without decay has a direction in which nothing
            changes.
        is_cross_entropy: ℓ(z, y) = −log softmax(z)_y. `gamma_tilde`, the theorems of Ji and the
            closed forms of Ji and Zhu then hold.
        is_squared_error: ℓ(z, y) = ½‖z − onehot(y)‖². The closed forms of Mixon and Rangamani then
            hold.
        accepts_lanes: `scaled_gradient` takes logits (N, K, S) of S systems. Batches of flows then
            need no `jax.vmap` of it.

    Raises: ValueError for an instance of a subclass that replaces the `value` of its parent, but
    inherits derivatives of the parent.

    Example: label smoothing, whose least value is the entropy of the smoothed targets.

        >>> class SmoothedCrossEntropy(nc.losses.Loss):
        ...     shift_invariant = True
        ...     smoothing: float = 0.3
        ...
        ...     def value(self, logits, labels):
        ...         log_p = jax.nn.log_softmax(logits, axis=1)
        ...         targets = (1 - self.smoothing) * jax.nn.one_hot(labels, 3) + self.smoothing / 3
        ...         return -jnp.sum(targets * log_p, axis=1)
        >>> loss = SmoothedCrossEntropy()
        >>> round(float(loss.value(jnp.log(jnp.array([[0.8, 0.1, 0.1]])), jnp.array([0]))[0]), 4)
        0.639
    """

    shift_invariant: ClassVar[bool] = False
    is_cross_entropy: ClassVar[bool] = False
    is_squared_error: ClassVar[bool] = False
    accepts_lanes: ClassVar[bool] = False

    _claims: ClassVar[tuple[str, ...]] = (
        "finite_at_any_scale",
        "shift_invariant",
        "is_cross_entropy",
        "is_squared_error",
        "accepts_lanes",
    )
    _formulas: ClassVar[tuple[str, ...]] = ("value", "log_value", "gradient", "scaled_gradient")

    @abc.abstractmethod
    def value(
        self, logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, " N"]:
        """ℓ(z_i, y_i), shape (N,)."""

    def log_value(
        self, logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, " N"]:
        """log ℓ(z_i, y_i), shape (N,); −inf where the loss is 0 or underflows."""
        return jnp.log(self.value(logits, labels))

    def gradient(
        self, logits: Real[Array, "N K *lanes"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, "N K *lanes"]:
        """∂ℓ_i/∂z_i, shape of the logits."""
        logits = widened(logits)
        # The gradient of the sum has that of each sample in its row, because the loss of a sample
        # depends on the logits of this sample alone. No Jacobian and no `jax.vmap` is needed.
        return jax.grad(lambda logits: jnp.sum(self.value(logits, labels)))(logits)

    def scaled_gradient(
        self,
        logits: Real[Array, "N K *lanes"],
        labels: Integer[ArrayLike, " N"],
        log_scale: Float[ArrayLike, ""],
    ) -> Float[Array, "N K *lanes"]:
        """e^log_scale ∂ℓ_i/∂z_i, shape of the logits; overflows with the scale."""
        return jnp.exp(log_scale) * self.gradient(logits, labels)

    def scaled_gradient_of_lanes(
        self,
        logits: Real[Array, "N K S"],
        labels: Integer[ArrayLike, " N"],
        log_scale: Float[ArrayLike, ""],
    ) -> Float[Array, "N K S"]:
        """`scaled_gradient` of S systems with the same labels, one lane of the last axis each.

        A loss for which `accepts_lanes` is True computes all lanes at once. Other losses are
        mapped over the lanes by `jax.vmap`.
        """
        if self.accepts_lanes:
            return self.scaled_gradient(logits, labels, log_scale)
        return jax.vmap(self.scaled_gradient, (-1, None, None), -1)(logits, labels, log_scale)


def check_loss(loss: object, num_samples: int, num_classes: int) -> None:
    """Raise ValueError unless this is a loss with one value for each of so many samples."""
    if not isinstance(loss, Loss):
        raise ValueError(
            f"loss = {shown(loss)}: give an instance of CrossEntropy, SquaredError or another "
            "class derived from nc_jax.losses.Loss, such as CrossEntropy()."
        )
    if loss.is_cross_entropy or loss.is_squared_error:
        return  # A known formula needs no trace, which would delay the start of a script.
    logits = jax.ShapeDtypeStruct((num_samples, num_classes), jnp.result_type(float))
    labels = jax.ShapeDtypeStruct((num_samples,), np.int32)
    shape = jax.eval_shape(loss.value, logits, labels).shape
    if shape != (num_samples,):
        raise ValueError(
            f"loss = {shown(loss)}: its value has shape {shape} for {num_samples} samples; return "
            f"the loss of each sample, shape ({num_samples},), without a sum or a mean."
        )


class CrossEntropy(Loss):
    """Softmax cross-entropy ℓ(z, y) = −log softmax(z)_y (Ji, eqs. 2.3 and 3.2).

    The residual P − Y is not computed by a subtraction. Its entry at the label is minus the sum of
    the other entries, so that it has full relative precision however small it is.

    Example: of equal logits of K = 3 classes the loss is log 3, and the gradient p − onehot(y).

        >>> loss, logits, labels = nc.CrossEntropy(), jnp.zeros((1, 3)), jnp.array([0])
        >>> np.round(loss.value(logits, labels), 4)
        Array([1.0986], dtype=float64)
        >>> np.round(loss.gradient(logits, labels), 4)
        Array([[-0.6667,  0.3333,  0.3333]], dtype=float64)
    """

    finite_at_any_scale: ClassVar[bool] = True
    shift_invariant: ClassVar[bool] = True
    is_cross_entropy: ClassVar[bool] = True
    accepts_lanes: ClassVar[bool] = True

    def value(
        self, logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, " N"]:
        """ℓ_i = log(1 + Σ_{j≠y} e^(z_j − z_y)) (Ji, eq. 3.2), shape (N,)."""
        logits, labels = _checked(logits, labels)
        # softplus(x) = log(1 + e^x) neither overflows, nor rounds 1 + e^x to 1 where e^x is small.
        return jax.nn.softplus(_log_odds_against(logits, labels))

    def log_value(
        self, logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, " N"]:
        """log ℓ_i, shape (N,); finite where ℓ_i underflows to 0."""
        logits, labels = _checked(logits, labels)
        odds = _log_odds_against(logits, labels)
        # Below log(eps), log(log(1 + e^x)) equals x to rounding, while e^x may be 0 and its log −∞.
        # `maximum` avoids this log in the branch that is not chosen: its derivative would be NaN.
        floor = np.log(np.finfo(odds.dtype).eps).item()
        return jnp.where(odds < floor, odds, jnp.log(jax.nn.softplus(jnp.maximum(odds, floor))))

    def gradient(
        self, logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, "N K"]:
        """∂ℓ_i/∂z_i = softmax(z_i) − onehot(y_i), shape (N, K)."""
        logits, labels = _checked(logits, labels)
        at_label = membership(labels, logits.shape[1])
        # Shifted by the largest logit, so that no exponential overflows.
        weights = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
        normalizer = jnp.sum(weights, axis=1, keepdims=True)
        return _balance_label(jnp.where(at_label, 0, weights) / normalizer, at_label)

    def scaled_gradient(
        self,
        logits: Real[Array, "N K *lanes"],
        labels: Integer[ArrayLike, " N"],
        log_scale: Float[ArrayLike, ""],
    ) -> Float[Array, "N K *lanes"]:
        """e^log_scale ∂ℓ_i/∂z_i with the exponents added before `exp`, shape of the logits.

        Entries are at most the square root of the largest number of the dtype. Axes after the
        classes are lanes: systems with the same labels.
        """
        logits, labels = _checked(logits, labels)
        at_label = _one_hot(logits, labels)
        # The shift by the largest logit cancels in the result, and so does its derivative.
        largest = jax.lax.stop_gradient(reduce_classes(jnp.maximum, logits))
        label_logit = reduce_classes(jnp.add, jnp.where(at_label, logits, 0))
        log_scale = jnp.asarray(log_scale, logits.dtype)
        # A positive scale is added to the exponents, where it cancels large differences of logits.
        # A negative one multiplies the result: `total` would otherwise underflow, and with it its
        # part of the normaliser.
        raised = jnp.maximum(log_scale, 0)
        others = jnp.where(at_label, 0, _capped_exp(raised + (logits - largest)))
        total = reduce_classes(jnp.add, others)
        # Σ_j e^(z_j − max), computed from exponentials that exist already. That is one `exp` for
        # each entry, the largest cost of a flow; logsumexp would need a second one.
        normalizer = jnp.exp(label_logit - largest) + jnp.exp(-raised) * total
        # The exact sum is at least 1. It is smaller where entries are capped, or by rounding, and
        # is then raised to 1 by adding a constant: the derivative of a maximum would be 0 there.
        normalizer += jax.lax.stop_gradient(jnp.maximum(1 - normalizer, 0))
        residual = others - jnp.where(at_label, total, 0)
        return jnp.exp(log_scale - raised) * residual / normalizer


class SquaredError(Loss):
    """Half squared error ℓ(z, y) = ½‖z − onehot(y)‖² (Mixon, section 2; Zhu's MSE runs).

    Example:

        >>> nc.SquaredError().value(jnp.zeros((1, 3)), jnp.array([0])).tolist()
        [0.5]
    """

    is_squared_error: ClassVar[bool] = True
    accepts_lanes: ClassVar[bool] = True

    def value(
        self, logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, " N"]:
        """ℓ_i, shape (N,)."""
        return jnp.sum(self.gradient(logits, labels) ** 2, axis=1) / 2

    def gradient(
        self, logits: Real[Array, "N K *lanes"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, "N K *lanes"]:
        """∂ℓ_i/∂z_i = z_i − onehot(y_i), shape of the logits.

        Axes after the classes are lanes: systems with the same labels.
        """
        logits, labels = _checked(logits, labels)
        return logits - _one_hot(logits, labels).astype(logits.dtype)


class TargetLoss(_AbstractSampleLoss):
    """A loss of outputs (N, C) and targets (N, C), one number for each sample.

    Targets are real numbers, where those of a `Loss` are classes: ±1 for a single output, one-hot
    rows or any others for several outputs. A subclass writes three formulas and states its claims,
    as a `Loss` does.

    Attributes:
        finite_at_any_scale: as for a `Loss`.
        is_squared_distance: ℓ(z, y) = ‖z − y‖². The equations of Rangamani for ρ then hold.
        needs_single_output: outputs and targets have shape (N, 1), with targets ±1.

    Example: `SquaredDistance` and `Exponential`.

        >>> issubclass(nc.SquaredDistance, nc.losses.TargetLoss)
        True
        >>> isinstance(nc.Exponential(), nc.losses.TargetLoss)
        True
    """

    is_squared_distance: ClassVar[bool] = False
    needs_single_output: ClassVar[bool] = False

    # `needs_single_output` is not a claim but a condition on shapes, which a subclass inherits.
    _claims: ClassVar[tuple[str, ...]] = ("finite_at_any_scale", "is_squared_distance")

    @abc.abstractmethod
    def value(self, outputs: Real[Array, "N C"], targets: Real[Array, "N C"]) -> Float[Array, " N"]:
        """ℓ(z_i, y_i), shape (N,)."""

    @abc.abstractmethod
    def log_value(
        self, outputs: Real[Array, "N C"], targets: Real[Array, "N C"]
    ) -> Float[Array, " N"]:
        """log ℓ(z_i, y_i), shape (N,)."""

    @abc.abstractmethod
    def scaled_gradient(
        self,
        outputs: Real[Array, "N C"],
        targets: Real[Array, "N C"],
        log_scale: Float[ArrayLike, ""],
    ) -> Float[Array, "N C"]:
        """e^log_scale ∂ℓ_i/∂z_i, shape (N, C)."""


class SquaredDistance(TargetLoss):
    """Squared distance of outputs from targets ℓ(z, y) = ‖z − y‖² (Rangamani, eq. 1), without ½.

    Example:

        >>> nc.SquaredDistance().value(jnp.zeros((1, 1)), jnp.ones((1, 1))).tolist()
        [1.0]
    """

    is_squared_distance: ClassVar[bool] = True

    def value(self, outputs: Real[Array, "N C"], targets: Real[Array, "N C"]) -> Float[Array, " N"]:
        """ℓ_i, shape (N,)."""
        outputs, targets = _paired(outputs, targets)
        return jnp.sum((outputs - targets) ** 2, axis=1)

    def log_value(
        self, outputs: Real[Array, "N C"], targets: Real[Array, "N C"]
    ) -> Float[Array, " N"]:
        """log ℓ_i, shape (N,); −inf at an exact fit."""
        return jnp.log(self.value(outputs, targets))

    def scaled_gradient(
        self,
        outputs: Real[Array, "N C"],
        targets: Real[Array, "N C"],
        log_scale: Float[ArrayLike, ""],
    ) -> Float[Array, "N C"]:
        """e^log_scale ∂ℓ_i/∂z_i, shape (N, C); overflows with the scale."""
        outputs, targets = _paired(outputs, targets)
        return 2 * jnp.exp(log_scale) * (outputs - targets)


class Exponential(TargetLoss):
    """Exponential loss ℓ(z, y) = e^(−yz) of one output with y = ±1 (Rangamani, appendix J.2).

    Example: the loss underflows to 0 at a margin of 800, where its logarithm is −800.

        >>> loss, outputs, targets = nc.Exponential(), jnp.array([[800.0]]), jnp.ones((1, 1))
        >>> loss.value(outputs, targets).tolist(), loss.log_value(outputs, targets).tolist()
        ([0.0], [-800.0])
    """

    finite_at_any_scale: ClassVar[bool] = True
    needs_single_output: ClassVar[bool] = True

    def value(self, outputs: Real[Array, "N 1"], targets: Real[Array, "N 1"]) -> Float[Array, " N"]:
        """ℓ_i, shape (N,)."""
        return jnp.exp(self.log_value(outputs, targets))

    def log_value(
        self, outputs: Real[Array, "N 1"], targets: Real[Array, "N 1"]
    ) -> Float[Array, " N"]:
        """log ℓ_i = −y_i z_i, shape (N,)."""
        outputs, targets = _paired(outputs, targets)
        return -jnp.sum(targets * outputs, axis=1)

    def scaled_gradient(
        self,
        outputs: Real[Array, "N 1"],
        targets: Real[Array, "N 1"],
        log_scale: Float[ArrayLike, ""],
    ) -> Float[Array, "N 1"]:
        """e^log_scale ∂ℓ_i/∂z_i with the exponents added before `exp`, shape (N, 1).

        Entries are at most the square root of the largest number of the dtype.
        """
        outputs, targets = _paired(outputs, targets)
        exponents = log_scale + self.log_value(outputs, targets)
        return -targets * _capped_exp(exponents)[:, None]


def _checked(
    logits: Real[Array, "N K *lanes"], labels: Integer[ArrayLike, " N"]
) -> tuple[Float[Array, "N K *lanes"], Integer[Array | np.ndarray, " N"]]:
    """The logits in a dtype to compute in, and the labels, checked to be classes of 0..K−1."""
    check_arrays("logits", logits)
    if np.ndim(logits) < 2:
        raise ValueError(
            f"logits have shape {np.shape(logits)}: give (N, K), one row for each sample."
        )
    num_samples, num_classes = np.shape(logits)[:2]
    return widened(logits), check_labels(labels, num_classes, num_samples)


def _paired(
    outputs: Real[Array, "N C"], targets: Real[Array, "N C"]
) -> tuple[Float[Array, "N C"], Float[Array, "N C"]]:
    """Outputs and targets in one dtype to compute in; ValueError unless their shapes agree."""
    check_arrays("outputs", outputs)
    check_arrays("targets", targets)
    # Targets of shape (N,) would broadcast against outputs (N, 1) to (N, N) without an error.
    if np.shape(outputs) != np.shape(targets):
        raise ValueError(
            f"outputs have shape {np.shape(outputs)} and targets {np.shape(targets)}: give both as "
            "(N, C), such as targets[:, None] for one output."
        )
    return widened((outputs, targets))


def _one_hot(
    logits: Float[Array, "N K *lanes"], labels: Integer[ArrayLike, " N"]
) -> Bool[Array, "N K *ones"]:
    """One-hot labels as booleans, with an axis of size 1 for each axis of lanes."""
    at_label = membership(labels, logits.shape[1])
    return at_label.reshape(*at_label.shape, *[1] * (logits.ndim - 2))


def _capped_exp(exponents: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """e^x, at most the square root of the largest number of the dtype.

    In a trial step that is far too long, e^x would overflow. With the cap the step is still
    rejected, and the estimate of its error is finite, which the step control needs.
    """
    # The square root, because sums and products of entries near the largest number overflow.
    cap = np.log(np.finfo(jnp.result_type(exponents)).max).item() / 2
    return jnp.exp(jnp.minimum(exponents, cap))


@jax.jit  # So that a program with a loss and its logarithm traces this once.
def _log_odds_against(
    logits: Float[Array, "N K"], labels: Integer[ArrayLike, " N"]
) -> Float[Array, " N"]:
    """log Σ_{j≠y} e^(z_j − z_y), shape (N,)."""
    label_logit, others = split_at_label(logits, labels)
    return jax.nn.logsumexp(others, axis=1) - label_logit


def _balance_label(
    others: Float[Array, "N K"], at_label: Bool[Array, "N K"]
) -> Float[Array, "N K"]:
    """Put minus the sum of a row at its label, where the row is 0."""
    return others - jnp.where(at_label, jnp.sum(others, axis=1, keepdims=True), 0)
