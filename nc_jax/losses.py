"""Losses of logits, with gradients that stay finite when probabilities underflow.

A gradient flow in a transformed time needs e^s ∇L with s as large as 10^6: every loss therefore
gives its gradient scaled (`scaled_gradient`, in log space where the loss allows it), those of
classes plain as well (`gradient`, for descent).

Results are in the dtype of the logits, in float32 for logits of half precision. Labels are integers
(N,) in 0..K−1; others raise a ValueError, of traced ones those of another shape or dtype.
"""

import abc
from typing import ClassVar, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Integer, Real

from .capabilities import inherited_beside, is_unchanged
from .checks import check_arrays, shown
from .geometry import membership, split_at_label
from .labels import check_labels
from .lanes import reduce_classes
from .precision import widened


@runtime_checkable
class Loss(Protocol):
    """What a problem asks of a loss; any Equinox module with these members will do.

    `AbstractLoss` forms all of them from `value`.

    All take logits (N, K) and labels (N,) and work sample by sample. `finite_at_any_scale` says
    that `scaled_gradient` is of order 1 along the flow however large its scale.
    """

    finite_at_any_scale: ClassVar[bool]

    def value(
        self, logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, " N"]:
        """ℓ(z_i, y_i)."""
        ...

    def log_value(
        self, logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, " N"]:
        """log ℓ(z_i, y_i)."""
        ...

    def gradient(
        self, logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, "N K"]:
        """∂ℓ/∂z at (z_i, y_i)."""
        ...

    def scaled_gradient(
        self,
        logits: Real[Array, "N K"],
        labels: Integer[ArrayLike, " N"],
        log_scale: Float[ArrayLike, ""],
    ) -> Float[Array, "N K"]:
        """e^log_scale ∂ℓ/∂z."""
        ...


class AbstractLoss(eqx.Module):
    """A loss of logits and labels from its `value` alone; the rest follows by differentiation.

    A subclass writes `value`, out of operations that JAX can differentiate, in which the loss of a
    sample depends on its logits alone. A loss that underflows, as cross-entropy does, writes
    `log_value` and `scaled_gradient` too, in log space, and sets `finite_at_any_scale = True`: that
    carries a flow beyond t = 10^308, and is more than differentiation can know.

    Example: label smoothing, in docs/extending.md.
    """

    finite_at_any_scale: ClassVar[bool] = False

    @abc.abstractmethod
    def value(
        self, logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, " N"]:
        """ℓ(z_i, y_i), shape (N,)."""

    def log_value(
        self, logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, " N"]:
        """log ℓ_i, shape (N,); −inf where the loss is 0 or underflows."""
        return jnp.log(self.value(logits, labels))

    def gradient(
        self, logits: Real[Array, "N K *lanes"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, "N K *lanes"]:
        """∂ℓ_i/∂z_i, shape of the logits."""
        logits = widened(logits)
        return jax.grad(lambda logits: jnp.sum(self.value(logits, labels)))(logits)

    def scaled_gradient(
        self,
        logits: Real[Array, "N K *lanes"],
        labels: Integer[ArrayLike, " N"],
        log_scale: Float[ArrayLike, ""],
    ) -> Float[Array, "N K *lanes"]:
        """e^log_scale ∂ℓ_i/∂z_i, shape of the logits; overflows with the scale."""
        return jnp.exp(log_scale) * self.gradient(logits, labels)


def check_loss(loss: object, num_samples: int, num_classes: int) -> None:
    """Raise ValueError for what is no loss of so many logits and labels, and say what it lacks."""
    members = ("value", "log_value", "gradient", "scaled_gradient", "finite_at_any_scale")
    missing = [name for name in members if not hasattr(loss, name)]
    if isinstance(loss, type) or "value" in missing:
        raise ValueError(f"loss = {shown(loss)}: give an instance, such as CrossEntropy().")
    if missing:
        raise ValueError(
            f"loss = {shown(loss)} has no {', '.join(missing)}: write them, or derive its class "
            "from nc_jax.losses.AbstractLoss, which forms them from `value`."
        )
    if type(loss) in (CrossEntropy, SquaredError):
        return
    assert isinstance(loss, Loss)
    logits = jax.ShapeDtypeStruct((num_samples, num_classes), jnp.result_type(float))
    labels = jax.ShapeDtypeStruct((num_samples,), np.int32)
    shape = jax.eval_shape(loss.value, logits, labels).shape
    if shape != (num_samples,):
        raise ValueError(
            f"loss = {shown(loss)}: its value has shape {shape} for {num_samples} samples; return "
            f"the loss of each sample, shape ({num_samples},), without a sum or a mean."
        )


class CrossEntropy(AbstractLoss):
    """Softmax cross-entropy ℓ(z, y) = −log softmax(z)_y (Ji, eqs. 2.3 and 3.2), unscaled.

    P − Y is never formed by subtraction: its entry at the label is minus the sum of the others,
    so it keeps full relative precision however small it is.

    Example: `CrossEntropy().value(jnp.zeros((1, 3)), jnp.array([0]))` gives log 3.
    """

    finite_at_any_scale: ClassVar[bool] = True

    def value(
        self, logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, " N"]:
        """ℓ_i = log(1 + Σ_{j≠y} e^(z_j − z_y)) (Ji, eq. 3.2), shape (N,)."""
        logits, labels = _checked(logits, labels)
        return jax.nn.softplus(_log_odds_against(logits, labels))

    def log_value(
        self, logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, " N"]:
        """log ℓ_i, finite long after ℓ_i has underflowed, shape (N,)."""
        logits, labels = _checked(logits, labels)
        odds = _log_odds_against(logits, labels)
        # Below log(eps), log(log(1 + e^x)) = x to rounding, and e^x may be zero.
        floor = np.log(np.finfo(odds.dtype).eps).item()
        return jnp.where(odds < floor, odds, jnp.log(jax.nn.softplus(jnp.maximum(odds, floor))))

    def gradient(
        self, logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, "N K"]:
        """∂ℓ_i/∂z_i = softmax(z_i) − onehot(y_i), shape (N, K)."""
        logits, labels = _checked(logits, labels)
        at_label = membership(labels, logits.shape[1])
        weights = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
        normalizer = jnp.sum(weights, axis=1, keepdims=True)
        return _balance_label(jnp.where(at_label, 0, weights) / normalizer, at_label)

    def scaled_gradient(
        self,
        logits: Real[Array, "N K *lanes"],
        labels: Integer[ArrayLike, " N"],
        log_scale: Float[ArrayLike, ""],
    ) -> Float[Array, "N K *lanes"]:
        """e^log_scale ∂ℓ_i/∂z_i with the exponents summed before `exp`, shape of the logits.

        Entries are capped at the square root of the dtype's largest number. Axes after the classes
        are those of problems beside each other.
        """
        logits, labels = _checked(logits, labels)
        at_label = _at_label(logits, labels)
        largest = jax.lax.stop_gradient(reduce_classes(jnp.maximum, logits))
        own = reduce_classes(jnp.add, jnp.where(at_label, logits, 0))
        log_scale = jnp.asarray(log_scale, logits.dtype)
        raised = jnp.maximum(log_scale, 0)
        others = jnp.where(at_label, 0, _capped_exp(raised + (logits - largest)))
        total = reduce_classes(jnp.add, others)
        # Σ_j e^(z_j − max) from the exponentials at hand: one `exp` an entry, which is what a flow
        # spends most on, where logsumexp takes a second. Below 1 it is where entries were capped
        # or by rounding; a plain maximum would lose the derivative there.
        normalizer = jnp.exp(own - largest) + jnp.exp(-raised) * total
        normalizer += jax.lax.stop_gradient(jnp.maximum(1 - normalizer, 0))
        residual = others - jnp.where(at_label, total, 0)
        return jnp.exp(log_scale - raised) * residual / normalizer


class SquaredError(AbstractLoss):
    """Half squared error ℓ(z, y) = ½‖z − onehot(y)‖² (Mixon, section 2; Zhu's MSE runs).

    Example: `SquaredError().value(jnp.zeros((1, 3)), jnp.array([0]))` gives ½.
    """

    def value(
        self, logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, " N"]:
        """ℓ_i, shape (N,)."""
        return jnp.sum(self.gradient(logits, labels) ** 2, axis=1) / 2

    def gradient(
        self, logits: Real[Array, "N K *lanes"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, "N K *lanes"]:
        """∂ℓ_i/∂z_i = z_i − onehot(y_i), shape of the logits.

        Axes after the classes are those of problems beside each other.
        """
        logits, labels = _checked(logits, labels)
        return logits - _at_label(logits, labels).astype(logits.dtype)


class SquaredDistance(eqx.Module):
    """Squared distance of outputs from targets ℓ(z, y) = ‖z − y‖² (Rangamani, eq. 1); no ½.

    Targets are numbers, where those of `SquaredError` are classes: ±1 for a single output, one-hot
    rows or any others for several.

    Example: `SquaredDistance().value(jnp.zeros((1, 1)), jnp.ones((1, 1)))` gives 1.
    """

    finite_at_any_scale: ClassVar[bool] = False

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


class Exponential(eqx.Module):
    """Exponential loss ℓ(z, y) = e^(−yz) of one output with y = ±1 (Rangamani, appendix J.2).

    Example: `Exponential().value(jnp.zeros((1, 1)), jnp.ones((1, 1)))` gives 1.
    """

    finite_at_any_scale: ClassVar[bool] = True

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
        """e^log_scale ∂ℓ_i/∂z_i with the exponents summed before `exp`, shape (N, 1).

        Entries are capped at the square root of the dtype's largest number.
        """
        outputs, targets = _paired(outputs, targets)
        exponents = log_scale + self.log_value(outputs, targets)
        return -targets * _capped_exp(exponents)[:, None]


def has_formulas_of(loss: object, kind: type) -> bool:
    """Whether what is proved of a loss of this package, such as `CrossEntropy`, holds for a loss.

    True for its instances, and for a subclass only if that replaces none of its formulas.
    """
    return is_unchanged(loss, kind, [name for name in _FORMULAS if hasattr(kind, name)])


def check_derivatives(loss: Loss) -> None:
    """Raise ValueError for a loss with a `value` of its class and inherited derivatives of another.

    A subclass of `CrossEntropy` that replaces `value` alone would be descended along the gradient
    of `CrossEntropy`.
    """
    members = (*_FORMULAS, "finite_at_any_scale")
    inherited = inherited_beside(type(loss), "value", members)
    if inherited:
        kind = type(loss).__name__
        raise ValueError(
            f"loss = {loss!r}: {kind} replaces the value of its parent but not "
            f"{', '.join(inherited)}; define these in {kind} too."
        )


# What a loss computes; those of targets that are no classes have no plain gradient.
_FORMULAS = ("value", "log_value", "gradient", "scaled_gradient")


def _checked(
    logits: Real[Array, "N K *lanes"], labels: Integer[ArrayLike, " N"]
) -> tuple[Float[Array, "N K *lanes"], Integer[Array | np.ndarray, " N"]]:
    """Logits in a dtype to compute in, and their labels, one class of 0..K−1 for each row."""
    check_arrays("logits", logits)
    if np.ndim(logits) < 2:
        raise ValueError(f"logits have shape {np.shape(logits)}: give (N, K), a row a sample.")
    num_samples, num_classes = np.shape(logits)[:2]
    return widened(logits), check_labels(labels, num_classes, num_samples)


def _paired(
    outputs: Real[Array, "N C"], targets: Real[Array, "N C"]
) -> tuple[Float[Array, "N C"], Float[Array, "N C"]]:
    """Both in one dtype to compute in; of other shapes, they would be broadcast in silence."""
    check_arrays("outputs", outputs)
    check_arrays("targets", targets)
    if np.shape(outputs) != np.shape(targets):
        raise ValueError(
            f"outputs have shape {np.shape(outputs)} and targets {np.shape(targets)}: give both as "
            "(N, C), such as targets[:, None] for one output."
        )
    return widened((outputs, targets))


def _at_label(
    logits: Float[Array, "N K *lanes"], labels: Integer[ArrayLike, " N"]
) -> Bool[Array, "N K *ones"]:
    """One-hot labels, to be broadcast against the logits."""
    at_label = membership(labels, logits.shape[1])
    return at_label.reshape(*at_label.shape, *[1] * (logits.ndim - 2))


def _capped_exp(exponents: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """e^x, at most the square root of the dtype's largest number.

    A trial step far too long sends an exponent past overflow. Capped, the step is still rejected,
    and the error estimate stays a number that the step control can use.
    """
    cap = np.log(np.finfo(jnp.result_type(exponents)).max).item() / 2
    return jnp.exp(jnp.minimum(exponents, cap))


@jax.jit  # Traced once for a loss and its logarithm.
def _log_odds_against(
    logits: Float[Array, "N K"], labels: Integer[ArrayLike, " N"]
) -> Float[Array, " N"]:
    """log Σ_{j≠y} e^(z_j − z_y), shape (N,)."""
    own, others = split_at_label(logits, labels)
    return jax.nn.logsumexp(others, axis=1) - own


def _balance_label(
    others: Float[Array, "N K"], at_label: Bool[Array, "N K"]
) -> Float[Array, "N K"]:
    """Put minus the row sum at the label of a residual that is zero there."""
    return others - jnp.where(at_label, jnp.sum(others, axis=1, keepdims=True), 0)
