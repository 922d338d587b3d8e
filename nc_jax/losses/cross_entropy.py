"""Softmax cross-entropy of class labels."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Integer, Real

from ..geometry import membership
from ..lanes import reduce_classes
from .base import Loss
from .logits import (
    balance_label,
    capped_exp,
    checked,
    log_odds_against,
    log_softplus,
    one_hot,
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
        logits, labels = checked(logits, labels)
        # softplus(x) = log(1 + e^x) neither overflows, nor rounds 1 + e^x to 1 where e^x is small.
        return jax.nn.softplus(log_odds_against(logits, labels))

    def log_value(
        self, logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, " N"]:
        """log ℓ_i, shape (N,); finite where ℓ_i underflows to 0."""
        logits, labels = checked(logits, labels)
        return log_softplus(log_odds_against(logits, labels))

    def gradient(
        self, logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, "N K"]:
        """∂ℓ_i/∂z_i = softmax(z_i) − onehot(y_i), shape (N, K)."""
        logits, labels = checked(logits, labels)
        at_label = membership(labels, logits.shape[1])
        # Shifted by the largest logit, so that no exponential overflows.
        weights = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
        normalizer = jnp.sum(weights, axis=1, keepdims=True)
        return balance_label(jnp.where(at_label, 0, weights) / normalizer, at_label)

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
        logits, labels = checked(logits, labels)
        at_label = one_hot(logits, labels)
        # The shift by the largest logit cancels in the result, and so does its derivative.
        largest = jax.lax.stop_gradient(reduce_classes(jnp.maximum, logits))
        label_logit = reduce_classes(jnp.add, jnp.where(at_label, logits, 0))
        log_scale = jnp.asarray(log_scale, logits.dtype)
        # A positive scale is added to the exponents, where it cancels large differences of logits.
        # A negative one multiplies the result: `total` would otherwise underflow, and with it its
        # part of the normaliser.
        raised = jnp.maximum(log_scale, 0)
        others = jnp.where(at_label, 0, capped_exp(raised + (logits - largest)))
        total = reduce_classes(jnp.add, others)
        # Σ_j e^(z_j − max), computed from exponentials that exist already. That is one `exp` for
        # each entry, the largest cost of a flow; logsumexp would need a second one.
        normalizer = jnp.exp(label_logit - largest) + jnp.exp(-raised) * total
        # The exact sum is at least 1. It is smaller where entries are capped, or by rounding, and
        # is then raised to 1 by adding a constant: the derivative of a maximum would be 0 there.
        normalizer += jax.lax.stop_gradient(jnp.maximum(1 - normalizer, 0))
        residual = others - jnp.where(at_label, total, 0)
        return jnp.exp(log_scale - raised) * residual / normalizer
