"""Cross-entropy of samples whose targets are probabilities, such as those of a next token."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from ..checks import is_traced
from .logits import capped_exp, log_softplus, paired
from .targets import TargetLoss

# Accepted distance of the sum of a row from 1: rounding of rows in float32. Formulas divide by the
# sum, so that this distance is no error of the loss.
_LARGEST_EXCESS = 1e-6
# Terms of the series of e^x − 1 − x, and the |x| up to which they have all digits of float64.
_TERMS, _SERIES_UP_TO = 12, 0.2


class SoftCrossEntropy(TargetLoss):
    """Cross-entropy −Σ_k p_k log softmax(z)_k with a distribution p over labels (Zhao et al. 2024).

    Targets are rows of probabilities. The least value is their entropy −Σ p log p. It is attained
    where no p is 0. A zero lets the logits grow without limit: those of the support S = {p > 0}
    tend to differ by log p_j/p_k, and exceed all others by ever more. `excess` is the loss less the
    entropy, without cancellation.

    On one-hot rows it equals `CrossEntropy`, also beyond t = 10^308. On smoothed rows it equals
    `LabelSmoothing`, and on label sets divided by their sizes m it is `PickAllLabels` divided by m.
    `finite_at_any_scale` is False: the logits of a support relax at a rate that does not fall with
    t, which is stiff in log t.

    Example: at equal logits of K = 3 classes the loss is log 3, and the gradient 1/3 − p.

        >>> loss, targets = nc.losses.SoftCrossEntropy(), jnp.array([[0.75, 0.25, 0.0]])
        >>> round(float(loss.value(jnp.zeros((1, 3)), targets)[0]), 4)
        1.0986
        >>> np.round(loss.scaled_gradient(jnp.zeros((1, 3)), targets, 0.0), 4)
        Array([[-0.4167,  0.0833,  0.3333]], dtype=float64)
    """

    shift_invariant: ClassVar[bool] = True
    is_soft_cross_entropy: ClassVar[bool] = True

    def check_targets(self, targets: Float[Array, "N C"]) -> None:
        """Raise ValueError for a row that is no probability; traced values are not checked."""
        if is_traced(targets):
            return
        known = np.asarray(targets)
        sums = np.sum(known, axis=1)
        allowed = np.all(known >= 0, axis=1) & (np.abs(sums - 1) <= _LARGEST_EXCESS)
        if not np.all(allowed):
            row = int(np.argmin(allowed))
            raise ValueError(
                f"targets: row {row} has sum {sums[row]:.8g} and least entry "
                f"{np.min(known[row]):.3g}: SoftCrossEntropy needs probabilities, entries >= 0 of "
                "sum 1; divide each row by its sum."
            )

    def value(self, outputs: Real[Array, "N K"], targets: Real[Array, "N K"]) -> Float[Array, " N"]:
        """ℓ_i = −log P(S) + Σ_{k ∈ S} p_k (log Σ_{l ∈ S} e^z_l − z_k), shape (N,)."""
        row = _read(outputs, targets)
        # −log P(S) as a softplus of log-odds, which neither overflows nor rounds P(S) to 1.
        return jax.nn.softplus(row.odds[:, 0]) + row.cross_entropy_within()

    def log_value(
        self, outputs: Real[Array, "N K"], targets: Real[Array, "N K"]
    ) -> Float[Array, " N"]:
        """log ℓ_i, shape (N,); of one-hot rows finite where ℓ_i underflows to 0."""
        row = _read(outputs, targets)
        return jnp.logaddexp(log_softplus(row.odds[:, 0]), _log(row.cross_entropy_within()))

    def excess(
        self, outputs: Real[Array, "N K"], targets: Real[Array, "N K"]
    ) -> Float[Array, " N"]:
        """ℓ_i + Σ_k p_k log p_k, the divergence KL(p ‖ softmax(z)), to full precision; (N,).

        With u the softmax over the support alone it is −log P(S) + Σ_S p_k (e^δ_k − 1 − δ_k),
        δ_k = log u_k − log p_k: no term is negative, so that nothing cancels.

        Example: the loss rounds the excess off, from an excess of 1e-16 on.

            >>> loss, targets = nc.losses.SoftCrossEntropy(), jnp.array([[0.5, 0.5, 0.0]])
            >>> print(f"{float(loss.excess(jnp.array([[0.0, 0.0, -50.0]]), targets)[0]):.4e}")
            9.6437e-23
        """
        row = _read(outputs, targets)
        return jax.nn.softplus(row.odds[:, 0]) + row.divergence_within()

    def log_excess(
        self, outputs: Real[Array, "N K"], targets: Real[Array, "N K"]
    ) -> Float[Array, " N"]:
        """log of `excess`, shape (N,); −inf at a minimum.

        Example:

            >>> loss, targets = nc.losses.SoftCrossEntropy(), jnp.array([[0.5, 0.5, 0.0]])
            >>> round(float(loss.log_excess(jnp.array([[0.0, 0.0, -800.0]]), targets)[0]), 4)
            -800.6931
        """
        row = _read(outputs, targets)
        return jnp.logaddexp(log_softplus(row.odds[:, 0]), _log(row.divergence_within()))

    def scaled_gradient(
        self,
        outputs: Real[Array, "N K"],
        targets: Real[Array, "N K"],
        log_scale: Float[ArrayLike, ""],
    ) -> Float[Array, "N K"]:
        """e^log_scale (softmax(z_i) − p_i), shape (N, K), with the exponents added before `exp`.

        With u the softmax over the support S alone, the entries on S are (u_k − p_k) −
        u_k (1 − P(S)). The first part is p_k (e^δ_k − 1), the second minus a share of the other
        entries, so that every row sums to 0 to the rounding of its largest entry.
        """
        row = _read(outputs, targets)
        log_scale = jnp.asarray(log_scale, row.logits.dtype)
        # log Σ_k e^z_k, from log Σ_S e^z_k.
        normalizer = row.inside + jax.nn.softplus(row.odds)
        others = jnp.where(row.support, 0, capped_exp(log_scale + (row.logits - normalizer)))
        within = row.shares * jnp.expm1(row.deviation)
        # Exactly 0 in exact arithmetic. The rounding error of this sum, times e^log_scale, would
        # move Σ_c w_c, along which no part of the flow restores it.
        within = within - row.shares * jnp.sum(within, axis=1, keepdims=True)
        missed = row.softmax_within() * jnp.sum(others, axis=1, keepdims=True)
        return capped_exp(log_scale) * within + (others - missed)


class _Rows(NamedTuple):
    """Logits less the largest one of the support S, and what the formulas read of them.

    `shares` are p, `inside` is log Σ_S e^z, `odds` the log-odds log((1 − P(S))/P(S)) of the other
    classes, −inf where there are none, and `deviation` is δ_k = log u_k − log p_k on S, 0 off it.
    """

    logits: Float[Array, "N K"]
    support: Bool[Array, "N K"]
    shares: Float[Array, "N K"]
    inside: Float[Array, "N 1"]
    odds: Float[Array, "N 1"]
    deviation: Float[Array, "N K"]

    def softmax_within(self) -> Float[Array, "N K"]:
        """u: softmax over the support, 0 off it."""
        return jnp.where(self.support, jnp.exp(self.logits - self.inside), 0)

    def cross_entropy_within(self) -> Float[Array, " N"]:
        """−Σ p log u."""
        return jnp.sum(jnp.where(self.support, self.shares * (self.inside - self.logits), 0), 1)

    def divergence_within(self) -> Float[Array, " N"]:
        """KL(p ‖ u)."""
        return jnp.sum(self.shares * _exp_less_line(self.deviation), axis=1)


def _read(outputs: Real[Array, "N K"], targets: Real[Array, "N K"]) -> _Rows:
    """Outputs and targets, read for the formulas."""
    logits, targets = paired(outputs, targets)
    support = targets > 0
    shares = targets / jnp.sum(targets, axis=1, keepdims=True)
    largest = jnp.max(jnp.where(support, logits, -jnp.inf), axis=1, keepdims=True)
    # The shift changes neither the loss nor its derivatives. Without it, the logarithms of sums
    # would be rounded at the size of the logits.
    logits = logits - jax.lax.stop_gradient(largest)
    inside = jax.nn.logsumexp(jnp.where(support, logits, -jnp.inf), axis=1, keepdims=True)
    # A sum without a term has a derivative that is NaN, also where `where` leaves it out.
    full = jnp.all(support, axis=1, keepdims=True)
    outside = jnp.where(support & ~full, -jnp.inf, logits)
    odds = jax.nn.logsumexp(outside, axis=1, keepdims=True) - inside
    deviation = (logits - inside) - jnp.log(jnp.where(support, shares, 1))
    return _Rows(
        logits=logits,
        support=support,
        shares=shares,
        inside=inside,
        odds=jnp.where(full, -jnp.inf, odds),
        deviation=jnp.where(support, deviation, 0),
    )


def _log(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log x, −inf at 0 with the derivative 0: that of `jnp.log` would make 0 · ∞, which is NaN."""
    return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1)), -jnp.inf)


def _exp_less_line(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """e^x − 1 − x, at least 0, without cancellation near 0."""
    near = jnp.abs(x) < _SERIES_UP_TO
    small = jnp.where(near, x, 0)
    series = jnp.ones_like(x)
    for k in range(_TERMS, 2, -1):
        series = 1 + small / k * series
    return jnp.where(near, small**2 / 2 * series, jnp.expm1(x) - x)
