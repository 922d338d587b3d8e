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

    Raises: ValueError for other labels; traced ones are checked for shape and dtype.

    Example:

        >>> state = nc.LastLayer(features=2 * jnp.eye(3), classifier=jnp.eye(3))
        >>> nc.metrics.sample_margins(state, jnp.array([0, 1, 1])).tolist()
        [2.0, 2.0, -2.0]
    """
    check_last_layer(state)
    return logit_margins(state.logits(), labels)


def logit_margins(
    logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
) -> Float[Array, " N"]:
    """`sample_margins` of any class scores (N, K), such as a network's logits; shape (N,).

    Args and errors: those of `sample_margins`.

    Example:

        >>> nc.metrics.logit_margins(jnp.array([[3.0, 1.0, 0.0]]), jnp.array([0])).tolist()
        [2.0]
    """
    check_matrix("logits", logits, "(N, K)")
    logits = widened(logits)
    labels = check_labels(labels, logits.shape[1], logits.shape[0])
    at_label, others = split_at_label(logits, labels)
    return at_label - jnp.max(others, axis=1)


def margin_metrics(
    state: LastLayer, labels: Integer[ArrayLike, " N"]
) -> dict[str, Float[Array, ""]]:
    """Smallest and mean margin, squared norm, and normalised margin of a state.

    `margin_min` is Ji's q_min and `margin_mean` the average over samples; `squared_norm` is
    ρ² = ‖W‖² + ‖H‖², and `normalized_margin` is q_min/ρ². Without a bias, and for classes of one
    size, the last is at most `max_margin` of ρ² = 1.

    Args and errors: those of `sample_margins`.

    Example:

        >>> state = nc.LastLayer(features=2 * jnp.eye(2), classifier=jnp.eye(2))
        >>> found = nc.metrics.margin_metrics(state, jnp.arange(2))
        >>> {name: float(value) for name, value in found.items()}
        {'margin_min': 2.0, 'margin_mean': 2.0, 'squared_norm': 10.0, 'normalized_margin': 0.2}
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

    Args:
        squared_norm: ρ², of any shape.
        num_classes: K.
        samples_per_class: n.

    Raises: ValueError for fewer than 2 classes, no samples, or a negative squared norm.

    Example:

        >>> float(nc.metrics.max_margin(4.0, num_classes=3, samples_per_class=4))
        0.5
    """
    check_integer("num_classes", num_classes, least=2)
    check_integer("samples_per_class", samples_per_class)
    check_number("squared_norm", squared_norm)
    divisor = 2 * (num_classes - 1) * np.sqrt(samples_per_class)
    # A Python float: NumPy's scalar is a float64, which would promote a float32 array.
    return widened(squared_norm) / divisor.item()


def gamma_tilde(
    log_summed_loss: Real[ArrayLike, "*batch"], squared_norm: Real[ArrayLike, "*batch"]
) -> Float[Array, "*batch"]:
    """γ̃ = −log(e^L − 1)/ρ², the smoothed normalised margin of the summed loss L (Ji, app. B).

    γ̃ <= q_min/ρ² (B.8), and along the flow γ̃ does not decrease once L < log 2 (lemma B.2). Its
    limit is 1/(2(K−1)√n).

    Args:
        log_summed_loss: log L, which is finite where L underflows; not divided by N.
        squared_norm: ρ² = ‖W‖² + ‖H‖².

    Example: for a tiny loss γ̃ is −log L/ρ².

        >>> float(nc.metrics.gamma_tilde(-1e5, 2e5))
        0.5
    """
    log_loss, squared_norm = widened((log_summed_loss, squared_norm))
    # log(e^L − 1) = L + log(1 − e^−L) for L >= eps. Below eps it is log L to rounding, and the
    # formula would fail where L underflows: L is limited to eps, and log L − log eps is added.
    floor = np.log(np.finfo(log_loss.dtype).eps).item()
    loss = jnp.exp(jnp.maximum(log_loss, floor))
    log_expm1 = loss + jnp.log(-jnp.expm1(-loss)) + jnp.minimum(log_loss - floor, 0)
    return -log_expm1 / squared_norm
