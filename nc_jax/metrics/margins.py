"""Margins of the last layer (Ji, section 3.1 and appendix B)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Integer, Real

from ..checks import check_integer, check_matrix, check_number
from ..geometry import split_at_label
from ..labels import check_labels
from ..precision import widened
from ..state import LastLayer, check_last_layer


def sample_margins(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> Float[Array, " N"]:
    """q_i = z_{i,y_i} − max_{j≠y_i} z_{i,j} (Ji, before theorem 3.1), shape (N,); bias included.

    Args: `labels` (N,) integers in 0..K−1, in any order.

    Raises: ValueError for labels that are not so; under tracing for their shape and dtype.
    """
    check_last_layer(state)
    return logit_margins(state.logits(), labels)


def logit_margins(
    logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
) -> Float[Array, " N"]:
    """`sample_margins` of class scores (N, K), wherever they come from; shape (N,)."""
    check_matrix("logits", logits, "(N, K)")
    logits = widened(logits)
    labels = check_labels(labels, logits.shape[1], logits.shape[0])
    own, others = split_at_label(logits, labels)
    return own - jnp.max(others, axis=1)


def margin_metrics(
    state: LastLayer, labels: Integer[ArrayLike, " N"]
) -> dict[str, Float[Array, ""]]:
    """Margins over the samples.

    `margin_min` is Ji's q_min and `margin_mean` the average; `squared_norm` is ρ² = ‖W‖² + ‖H‖²
    and `normalized_margin` is q_min/ρ², which the flow of homogeneous models drives up.

    Args and errors: those of `sample_margins`.

    Example: `margin_metrics(state, problem.labels)["margin_min"]`.
    """
    margins = sample_margins(state, labels)
    smallest, squared_norm = jnp.min(margins), state.squared_norm()
    return {
        "margin_min": smallest,
        "margin_mean": jnp.mean(margins),
        "squared_norm": squared_norm,
        "normalized_margin": smallest / squared_norm,
    }


def max_margin(
    squared_norm: Real[ArrayLike, "*batch"], num_classes: int, samples_per_class: int
) -> Float[Array, "*batch"]:
    """Largest q_min at this ρ² = ‖W‖² + ‖H‖²: ρ²/(2(K−1)√n) (Ji, theorem 3.1), bias-free.

    Attained exactly at collapse with ‖W‖_F = ‖H‖_F, for balanced classes and d >= K−1.
    """
    check_integer("num_classes", num_classes, least=2)
    check_integer("samples_per_class", samples_per_class)
    check_number("squared_norm", squared_norm)
    divisor = 2 * (num_classes - 1) * np.sqrt(samples_per_class)
    return widened(squared_norm) / divisor.item()


def gamma_tilde(
    log_summed_loss: Real[ArrayLike, "*batch"], squared_norm: Real[ArrayLike, "*batch"]
) -> Float[Array, "*batch"]:
    """γ̃ = −log(e^L − 1)/ρ², the smoothed normalised margin of the summed loss L (Ji, app. B).

    Takes log L, so it holds long after L has underflowed. γ̃ <= q_min/ρ² (B.8), and γ̃ never falls
    along the flow once L < log 2 (lemma B.2). It tends to 1/(2(K−1)√n).
    """
    log_loss, squared_norm = widened((log_summed_loss, squared_norm))
    # log(e^L − 1) = L + log(1 − e^−L) for L >= eps; below, log L to rounding, and L may be zero.
    floor = np.log(np.finfo(log_loss.dtype).eps).item()
    loss = jnp.exp(jnp.maximum(log_loss, floor))
    log_expm1 = loss + jnp.log(-jnp.expm1(-loss)) + jnp.minimum(log_loss - floor, 0)
    return -log_expm1 / squared_norm
