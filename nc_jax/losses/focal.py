"""Focal loss, cross-entropy with less weight on samples that are classified well."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Integer, Real

from ..checks import check_number
from ..lanes import reduce_classes
from ..precision import weak_scalar
from .base import Loss
from .logits import (
    balance_label,
    capped_exp,
    checked,
    log_odds_against,
    log_softplus,
    one_hot,
)


class Focal(Loss):
    """Focal loss ℓ(z, y) = −(1 − p)^γ log p, p = softmax(z)_y (Lin et al. 2017).

    With the log-odds o = log Σ_{j≠y} e^(z_j − z_y) = log((1 − p)/p), the derivatives are
    ∂ℓ/∂z_y = −D and ∂ℓ/∂z_j = D e^(z_j − z_y − o) for j ≠ y, D = (1 − p)^(γ+1) − γp(1 − p)^γ log p.
    They are computed from o in log space, which neither underflows for p → 1 nor loses digits for
    p → 0. D is positive but has its maximum at a p > 0, so that the loss is not convex. Along flows
    without weight decay the logit gap grows as (log t)/(γ+1).

    Args:
        exponent: γ >= 0; γ = 0 is cross-entropy. An array is an argument of compiled programs, and
            can be swept under `jax.vmap`.

    Raises: ValueError for γ that is negative or not finite; the value of a traced γ is not checked.

    Example: at p = 1/2 the loss is 2^−γ log 2. It underflows to 0 at a gap of 800, where its
    logarithm is −(γ+1) 800.

        >>> loss, labels = nc.Focal(2.0), jnp.array([0, 0])
        >>> logits = jnp.array([[0.0, 0.0], [800.0, 0.0]])
        >>> loss.value(logits, labels).round(6).tolist(), loss.log_value(logits, labels)[1].item()
        ([0.173287, 0.0], -2400.0)
    """

    exponent: float | Float[Array, ""]

    finite_at_any_scale: ClassVar[bool] = True
    shift_invariant: ClassVar[bool] = True
    is_focal: ClassVar[bool] = True
    accepts_lanes: ClassVar[bool] = True

    def __init__(self, exponent: float | Float[Array, ""]):
        check_number("exponent", exponent, scalar=True)
        self.exponent = weak_scalar(exponent)

    def value(
        self, logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, " N"]:
        """ℓ_i, shape (N,)."""
        logits, labels = checked(logits, labels)
        odds = log_odds_against(logits, labels)
        return jnp.exp(self._exponent(odds) * _log_error(odds)) * jax.nn.softplus(odds)

    def log_value(
        self, logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, " N"]:
        """log ℓ_i, shape (N,); finite where ℓ_i underflows to 0."""
        logits, labels = checked(logits, labels)
        odds = log_odds_against(logits, labels)
        return self._exponent(odds) * _log_error(odds) + log_softplus(odds)

    def gradient(
        self, logits: Real[Array, "N K *lanes"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, "N K *lanes"]:
        """∂ℓ_i/∂z_i, shape of the logits."""
        return self.scaled_gradient(logits, labels, 0.0)

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
        label_logit = reduce_classes(jnp.add, jnp.where(at_label, logits, 0))
        others = jnp.where(at_label, -jnp.inf, logits)
        # The shift by the largest of the other logits cancels, and so does its derivative.
        largest = jax.lax.stop_gradient(reduce_classes(jnp.maximum, others))
        weights = jnp.exp(others - largest)
        total = reduce_classes(jnp.add, weights)
        odds = largest - label_logit + jnp.log(total)
        size = capped_exp(jnp.asarray(log_scale, logits.dtype) + self.log_slope(odds))
        return balance_label(size * weights / total, at_label)

    def log_slope(self, odds: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """log D = log dℓ/do at log-odds o = log((1 − p)/p), with the shape and dtype of o.

        D = (1 − p)^(γ+1) (1 + γr) with r = −p (log p)/(1 − p), which is from 0 to 1.

        Example: D = 1 − p for γ = 0, here at p = 1/2.

            >>> float(jnp.exp(nc.Focal(0.0).log_slope(jnp.array(0.0)))).__round__(6)
            0.5
        """
        exponent = self._exponent(odds)
        ratio = jnp.exp(log_softplus(odds) - odds)
        return (exponent + 1) * _log_error(odds) + jnp.log1p(exponent * ratio)

    def _exponent(self, odds: Float[Array, "..."]) -> Float[Array, ""]:
        """γ in the dtype of the log-odds, which a float64 γ would promote."""
        return jnp.asarray(self.exponent, odds.dtype)


def _log_error(odds: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(1 − p) at log-odds o = log((1 − p)/p)."""
    return -jax.nn.softplus(-odds)
