"""Checks of logits and labels, and operations on logits that several losses share."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Integer, Real

from ..checks import check_arrays
from ..geometry import membership, split_at_label
from ..labels import check_labels
from ..lanes import reduce_classes
from ..precision import widened


def checked(
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


def paired(
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


def one_hot(
    logits: Float[Array, "N K *lanes"], labels: Integer[ArrayLike, " N"]
) -> Bool[Array, "N K *ones"]:
    """One-hot labels as booleans, with an axis of size 1 for each axis of lanes."""
    at_label = membership(labels, logits.shape[1])
    return at_label.reshape(*at_label.shape, *[1] * (logits.ndim - 2))


def capped_exp(exponents: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """e^x, at most the square root of the largest number of the dtype.

    In a trial step that is far too long, e^x would overflow. With the cap the step is still
    rejected, and the estimate of its error is finite, which the step control needs.
    """
    # The square root, because sums and products of entries near the largest number overflow.
    cap = np.log(np.finfo(jnp.result_type(exponents)).max).item() / 2
    return jnp.exp(jnp.minimum(exponents, cap))


@jax.jit  # So that a program with a loss and its logarithm traces this once.
def log_odds_against(
    logits: Float[Array, "N K"], labels: Integer[ArrayLike, " N"]
) -> Float[Array, " N"]:
    """log Σ_{j≠y} e^(z_j − z_y), shape (N,)."""
    label_logit, others = split_at_label(logits, labels)
    return jax.nn.logsumexp(others, axis=1) - label_logit


def log_softplus(odds: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log log(1 + e^x), the log of the cross-entropy at log-odds x; finite where that underflows.

    Below log(eps) it equals x to rounding, while e^x may be 0 and its log −∞.
    """
    floor = np.log(np.finfo(odds.dtype).eps).item()
    # `maximum` avoids this log in the branch that is not chosen: its derivative would be NaN.
    return jnp.where(odds < floor, odds, jnp.log(jax.nn.softplus(jnp.maximum(odds, floor))))


def balance_label(
    others: Float[Array, "N K *lanes"], at_label: Bool[Array, "N K *ones"]
) -> Float[Array, "N K *lanes"]:
    """Put minus the sum of a row at its label, where the row is 0."""
    return others - jnp.where(at_label, reduce_classes(jnp.add, others), 0)
