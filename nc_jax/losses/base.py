"""The classes that all losses derive from: of class labels, and of rows of targets."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Integer, Real

from ..capabilities import inherited_beside, void_inherited_claims
from ..checks import shown
from ..precision import widened


class AbstractSampleLoss(eqx.Module):
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


class Loss(AbstractSampleLoss):
    """A loss of logits (N, K) and labels (N,), one number for each sample.

    A subclass writes `value`, in operations that JAX can differentiate, where the loss of a sample
    depends on the logits of this sample alone. The logarithm and the gradients follow by
    differentiation. In float64 a `value` that is formed by `log_softmax` is 0 from a margin of 36
    on. Its gradient keeps all digits up to a margin of 700, if the loss is `shift_invariant`. A
    loss that is to be exact beyond writes `log_value` and `scaled_gradient` too, in log space, and
    sets `finite_at_any_scale = True`: that carries a flow beyond t = 10^308.

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
        is_label_smoothing: the formula of `LabelSmoothing`; `smoothing` is its α. The closed form
            `exact.smoothed_minimizer` then holds.
        is_focal: the formula of `Focal`; `exponent` is its γ, and it has `log_slope`. The closed
            form `exact.focal_minimizer` then holds.
        accepts_lanes: `scaled_gradient` takes logits (N, K, S) of S systems. Batches of flows then
            need no `jax.vmap` of it.

    Raises: ValueError for an instance of a subclass that replaces the `value` of its parent, but
    inherits derivatives of the parent.

    Example: cross-entropy at a temperature, here 1/2.

        >>> class Tempered(nc.losses.Loss):
        ...     shift_invariant = True
        ...     temperature: float = 0.5
        ...
        ...     def value(self, logits, labels):
        ...         log_p = jax.nn.log_softmax(logits / self.temperature, axis=1)
        ...         return -jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
        >>> loss = Tempered()
        >>> round(float(loss.value(jnp.log(jnp.array([[2.0, 1.0, 1.0]])), jnp.array([0]))[0]), 4)
        0.4055
    """

    shift_invariant: ClassVar[bool] = False
    is_cross_entropy: ClassVar[bool] = False
    is_squared_error: ClassVar[bool] = False
    is_label_smoothing: ClassVar[bool] = False
    is_focal: ClassVar[bool] = False
    accepts_lanes: ClassVar[bool] = False

    _claims: ClassVar[tuple[str, ...]] = (
        "finite_at_any_scale",
        "shift_invariant",
        "is_cross_entropy",
        "is_squared_error",
        "is_label_smoothing",
        "is_focal",
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
        gradient = jax.grad(lambda logits: jnp.sum(self.value(logits, labels)))(logits)
        if not self.shift_invariant:
            return gradient
        # The entries of a sample sum to 0. Differentiation forms that of the label as p − 1, which
        # is rounding from a margin of 36 on, while the others have all digits until they underflow.
        labels = jnp.asarray(labels)
        classes = jnp.arange(logits.shape[1], dtype=labels.dtype)
        is_label = jnp.expand_dims(labels[:, None] == classes, tuple(range(2, logits.ndim)))
        others = jnp.where(is_label, 0, gradient)
        return jnp.where(is_label, -jnp.sum(others, axis=1, keepdims=True), gradient)

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
