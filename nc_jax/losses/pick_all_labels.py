"""Cross-entropy of samples with several labels, summed over these labels."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from .logits import paired
from .targets import TargetLoss


class PickAllLabels(TargetLoss):
    """Pick-all-labels cross-entropy −Σ_{k ∈ S} log softmax(z)_k of the labels S (Li et al. 2023).

    Targets have 1 at each label of the sample and 0 elsewhere. With m labels the least value is
    m log m, which is approached where the logits of the labels are equal and exceed all others.
    With one label per sample this is cross-entropy. `finite_at_any_scale` is False: where m > 1 the
    logits of the labels become equal at an exponential rate in t, which is stiff in log t.

    Example: three equal logits have p = 1/3 each. Two labels cost 2 log 3, and the gradient is
    2p − y.

        >>> loss, logits = nc.losses.PickAllLabels(), jnp.zeros((1, 3))
        >>> targets = jnp.array([[1.0, 1.0, 0.0]])
        >>> loss.value(logits, targets).round(4).tolist()
        [2.1972]
        >>> np.round(loss.scaled_gradient(logits, targets, 0.0), 4)
        Array([[-0.3333, -0.3333,  0.6667]], dtype=float64)
    """

    shift_invariant: ClassVar[bool] = True
    is_pick_all_labels: ClassVar[bool] = True
    needs_label_sets: ClassVar[bool] = True

    def value(self, outputs: Real[Array, "N K"], targets: Real[Array, "N K"]) -> Float[Array, " N"]:
        """ℓ_i = −m log P(S) + Σ_{k ∈ S} (log Σ_{l ∈ S} e^z_l − z_k), P(S) = Σ_{k ∈ S} p_k, (N,)."""
        logits, at_labels = self._read(outputs, targets)
        inside = jax.nn.logsumexp(jnp.where(at_labels, logits, -jnp.inf), axis=1, keepdims=True)
        # −log P(S) as a softplus of log-odds, which neither overflows nor rounds P(S) to 1.
        missed = jax.nn.softplus(_log_odds_outside(logits, at_labels, inside))
        return jnp.sum(jnp.where(at_labels, missed + (inside - logits), 0), axis=1)

    def log_value(
        self, outputs: Real[Array, "N K"], targets: Real[Array, "N K"]
    ) -> Float[Array, " N"]:
        """log ℓ_i, shape (N,); −inf where ℓ_i underflows, which needs a single label."""
        return jnp.log(self.value(outputs, targets))

    def scaled_gradient(
        self,
        outputs: Real[Array, "N K"],
        targets: Real[Array, "N K"],
        log_scale: Float[ArrayLike, ""],
    ) -> Float[Array, "N K"]:
        """e^log_scale (m softmax(z_i) − y_i), shape (N, K); overflows with the scale.

        With u the softmax over the labels alone, m p_k − 1 = (m u_k − 1) − m u_k (1 − P(S)). For a
        single label, where u = 1, this has full relative precision however close P(S) is to 1.
        """
        logits, at_labels = self._read(outputs, targets)
        inside = jax.nn.logsumexp(jnp.where(at_labels, logits, -jnp.inf), axis=1, keepdims=True)
        odds = _log_odds_outside(logits, at_labels, inside)
        count = jnp.sum(at_labels, axis=1, keepdims=True).astype(logits.dtype)
        share = count * jnp.exp(jnp.where(at_labels, logits - inside, -jnp.inf))
        missed = jax.nn.sigmoid(odds)
        others = count * jax.nn.softmax(logits, axis=1)
        residual = jnp.where(at_labels, (share - 1) - share * missed, others)
        return jnp.exp(jnp.asarray(log_scale, logits.dtype)) * residual

    def _read(
        self, outputs: Real[Array, "N K"], targets: Real[Array, "N K"]
    ) -> tuple[Float[Array, "N K"], Bool[Array, "N K"]]:
        """The logits less the largest logit of a label, and where the labels are.

        The shift changes neither the loss nor its derivatives. Without it, the logarithms of sums
        would be rounded at the size of the logits.
        """
        logits, targets = paired(outputs, targets)
        at_labels = targets > 0
        largest = jnp.max(jnp.where(at_labels, logits, -jnp.inf), axis=1, keepdims=True)
        return logits - jax.lax.stop_gradient(largest), at_labels


def _log_odds_outside(
    logits: Float[Array, "N K"], at_labels: Bool[Array, "N K"], inside: Float[Array, "N 1"]
) -> Float[Array, "N 1"]:
    """log((1 − P(S))/P(S)), P(S) the probability of the labels; `inside` is log Σ_S e^z."""
    outside = jnp.where(at_labels, -jnp.inf, logits)
    return jax.nn.logsumexp(outside, axis=1, keepdims=True) - inside
