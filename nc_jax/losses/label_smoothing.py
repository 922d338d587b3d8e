"""Cross-entropy of smoothed labels."""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Integer, Real

from ..checks import check_number, is_traced
from ..errors import ArgumentError
from ..precision import weak_scalar
from .base import Loss
from .cross_entropy import CrossEntropy
from .logits import balance_label, checked, one_hot


class LabelSmoothing(Loss):
    """Cross-entropy −Σ_k q_k log p_k of targets q = (1 − α) onehot(y) + α/K (Szegedy et al. 2016).

    For α > 0 the least value is the entropy of the targets, at logit gaps z_y − z_j that all equal
    log(K/α − (K−1)). A flow without weight decay therefore converges, at an exponential rate in t,
    to logits of that gap. Integrate it in t (`RealTime`): in log t it is stiff, and
    `finite_at_any_scale` is False. For α = 0 give `CrossEntropy()`, whose flow can be integrated to
    any time.

    Args:
        smoothing: α, a number with 0 <= α < 1; an array is an argument of compiled programs, and
            can be swept under `jax.vmap`.

    Raises: ValueError for α outside of 0 <= α < 1; the value of a traced α is not checked.

    Example: the gradient is 0 at the gap log(K/α − (K−1)), here of K = 3 classes.

        >>> loss = nc.LabelSmoothing(0.3)
        >>> logits = jnp.array([[np.log(3 / 0.3 - 2), 0.0, 0.0]])
        >>> bool(jnp.allclose(loss.gradient(logits, jnp.array([0])), 0))
        True
        >>> round(float(loss.value(logits, jnp.array([0]))[0]), 6)  # the entropy of 0.8, 0.1, 0.1
        0.639032
    """

    smoothing: float | Float[Array, ""]

    shift_invariant: ClassVar[bool] = True
    is_label_smoothing: ClassVar[bool] = True
    accepts_lanes: ClassVar[bool] = True

    def __init__(self, smoothing: float | Float[Array, ""]):
        check_number("smoothing", smoothing, scalar=True)
        if not is_traced(smoothing) and float(np.asarray(smoothing)) >= 1:
            message = f"smoothing = {smoothing}: give a number >= 0 and below 1."
            raise ArgumentError(message, "smoothing")
        self.smoothing = weak_scalar(smoothing)

    def value(
        self, logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, " N"]:
        """ℓ_i = −log softmax(z_i)_{y_i} + α (z_{i,y_i} − mean_k z_ik), shape (N,)."""
        logits, labels = checked(logits, labels)
        at_label = one_hot(logits, labels)
        label_logit = jnp.sum(jnp.where(at_label, logits, 0), axis=1)
        excess = label_logit - jnp.mean(logits, axis=1)
        return CrossEntropy().value(logits, labels) + self._smoothing(logits) * excess

    def gradient(
        self, logits: Real[Array, "N K *lanes"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, "N K *lanes"]:
        """∂ℓ_i/∂z_i = softmax(z_i) − q_i, shape of the logits.

        Axes after the classes are lanes: systems with the same labels.
        """
        logits, labels = checked(logits, labels)
        at_label = one_hot(logits, labels)
        residual = CrossEntropy().scaled_gradient(logits, labels, 0.0)
        others = residual - self._smoothing(logits) / logits.shape[1]
        # From the other entries, so that every row sums to 0 to rounding.
        return balance_label(jnp.where(at_label, 0, others), at_label)

    def _smoothing(self, logits: Float[Array, "..."]) -> Float[Array, ""]:
        """α in the dtype of the logits, which a float64 α would promote."""
        return jnp.asarray(self.smoothing, logits.dtype)
