"""Cross-entropy of samples with several labels, summed over these labels."""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Real

from .logits import paired
from .soft_cross_entropy import SoftCrossEntropy
from .targets import TargetLoss


class PickAllLabels(TargetLoss):
    """Pick-all-labels cross-entropy −Σ_{k ∈ S} log softmax(z)_k of the labels S (Li et al. 2023).

    Targets have 1 at each label of the sample and 0 elsewhere. With m labels it is m times the
    `SoftCrossEntropy` of the probabilities y/m. The least value is m log m, which is approached
    where the logits of the labels are equal and exceed all others. With one label per sample this
    is cross-entropy, also beyond t = 10^308. `finite_at_any_scale` is False: where m > 1 the logits
    of the labels become equal at a rate that does not fall with t, which is stiff in log t.

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
        """ℓ_i = −Σ_{k ∈ S} log softmax(z_i)_k, shape (N,)."""
        logits, shares, counts = _read(outputs, targets)
        return counts[:, 0] * _SOFT.value(logits, shares)

    def log_value(
        self, outputs: Real[Array, "N K"], targets: Real[Array, "N K"]
    ) -> Float[Array, " N"]:
        """log ℓ_i, shape (N,); of a single label finite where ℓ_i underflows to 0."""
        logits, shares, counts = _read(outputs, targets)
        return jnp.log(counts[:, 0]) + _SOFT.log_value(logits, shares)

    def scaled_gradient(
        self,
        outputs: Real[Array, "N K"],
        targets: Real[Array, "N K"],
        log_scale: Float[ArrayLike, ""],
    ) -> Float[Array, "N K"]:
        """e^log_scale (m softmax(z_i) − y_i), shape (N, K), with exponents added before `exp`."""
        logits, shares, counts = _read(outputs, targets)
        return counts * _SOFT.scaled_gradient(logits, shares, log_scale)


_SOFT = SoftCrossEntropy()


def _read(
    outputs: Real[Array, "N K"], targets: Real[Array, "N K"]
) -> tuple[Float[Array, "N K"], Float[Array, "N K"], Float[Array, "N 1"]]:
    """Logits, probabilities y/m and m, in the dtype of the logits."""
    logits, targets = paired(outputs, targets)
    at_labels = (targets > 0).astype(logits.dtype)
    counts = jnp.sum(at_labels, axis=1, keepdims=True)
    return logits, at_labels / counts, counts
