"""Distances of a state from the optimum of the separation problem, for classes of any sizes.

The problem is min ½‖W‖² + ½‖H‖² with all margins >= 1. Along flows of cross-entropy without decay
that converge in direction to its optimum, `separation_value` and 2 L t log t of the summed loss L
tend to its value V. For d >= K−1 the optimum has the geometry of `exact.seli`; its formulas are in
`measures.imbalance`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Integer, Real

from ..checks import check_integer, is_traced
from ..geometry import membership
from ..labels import check_labels, class_sizes
from ..precision import widened
from ..state import LastLayer, check_last_layer
from .imbalance import label_factors
from .margins import sample_margins
from .registry import MEASURES
from .statistics import Statistics
from .streaming import class_means, class_moments


def separation_value(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> Float[Array, ""]:
    """(‖W‖² + ‖H‖²)/(2 q_min), an upper bound of V = min ½‖W‖² + ½‖H‖² with all margins >= 1.

    Equal to V exactly at a multiple of an optimum, and infinite where q_min <= 0. Along the flow of
    cross-entropy without bias and decay it tends to the value at the critical point to which the
    flow converges, V or more (derived).

    Args: `labels` (N,) integers in 0..K−1, in any order.

    Raises: ValueError for other labels; traced ones are checked for shape and dtype.

    Example:

        >>> seli = nc.exact.seli((2, 1, 1))
        >>> found = nc.metrics.separation_value(seli.state(2, gap=3.0), np.array([0, 0, 1, 2]))
        >>> round(float(found) / seli.value, 6)
        1.0
    """
    smallest = jnp.min(sample_margins(state, labels))
    return separation_of(state.squared_norm(), smallest)


def separation_of(
    squared_norm: Float[Array, ""], smallest_margin: Float[Array, ""], *, depth: int = 2
) -> Float[Array, ""]:
    """ρ²/(2 q_min^(2/m)) of m factors with squared norms ρ² in all, infinite where q_min <= 0.

    The logits are homogeneous of degree m in the factors, so that the scaled factors whose smallest
    margin is 1 have ½ρ² of this value.
    """
    separated = smallest_margin > 0
    root = jnp.where(separated, smallest_margin, 1) ** (2 / depth)
    value = squared_norm / (2 * root)
    return jnp.where(separated, value, jnp.inf)


def separation_value_from_loss(
    log_loss: Real[ArrayLike, "*batch"], log_time: Real[ArrayLike, "*batch"], *, depth: int = 2
) -> Float[Array, "*batch"]:
    """2 L t log t of the summed cross-entropy L, which tends to V along the flow (derived).

    For classes of one size V = (K−1)√n (Ji, lemma B.3 corrected). The product is below V by a share
    of about log(2 log t)/log t. To compare a loss at finite t with a value V use `exact.late_loss`,
    whose error is several times smaller. With m factors it is (m²/2) L t (log t)^(2−2/m).

    Args:
        log_loss: log L, which is finite where L underflows; not divided by N.
        log_time: log(1 + t) > 0.
        depth: m >= 2, the number of factors of the logits.

    Raises: ValueError for depth < 2.

    Example: the loss of a balanced flow with V = 2√2 at t = 10^10000.

        >>> log_time = 10_000 * np.log(10)
        >>> log_loss = nc.exact.late_loss(2 * np.sqrt(2), log_time)
        >>> found = nc.metrics.separation_value_from_loss(log_loss, log_time)
        >>> print(round(float(found) / (2 * np.sqrt(2)), 4))
        0.9996
    """
    depth = check_integer("depth", depth, least=2)
    log_loss, log_time = (jnp.asarray(x) for x in widened((log_loss, log_time)))
    # log t = u + log(1 − e^−u) for u = log(1 + t).
    log_t = log_time + jnp.log(-jnp.expm1(-log_time))
    return depth**2 / 2 * jnp.exp(log_loss + log_t) * log_t ** (2 - 2 / depth)


def logit_offset_spread(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> Float[Array, ""]:
    """max − min of z_iy − z_ic + log λ_yc over samples and wrong classes c (derived).

    λ are the multipliers of `exact.seli`, the entries of −(PDP)^(+½) off its diagonal. Along the
    flow of cross-entropy without bias and decay the margins are q − log λ up to O(1/log t), with
    one q for all, so that this spread tends to 0 as 1/log t from every start. At minima with weight
    decay it tends to 0 as the decay does.

    Args and errors: those of `separation_value`, with a sample of every class.

    Example: if all margins are equal, the spread is max log λ − min log λ.

        >>> seli = nc.exact.seli((10, 10, 1, 1))
        >>> labels = np.repeat(np.arange(4), (10, 10, 1, 1))
        >>> round(float(nc.metrics.logit_offset_spread(seli.state(3), labels)), 4)
        2.033
    """
    return _evaluated("logit_offset_spread", *_checked(state, labels))


def seli_classifier_gap(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> Float[Array, ""]:
    """‖WWᵀ/tr(WWᵀ) − A/tr A‖_F, A = (PDP)^½ (geometry of Thrampoulidis et al. 2022).

    0 at the limit of the flow of unequal classes, where `zhu_nc2` is not. A is `classifier_gram` of
    `exact.seli`.

    Args and errors: those of `separation_value`, with a sample of every class.

    Example:

        >>> state, labels = nc.exact.seli((3, 1, 1)).state(2), np.array([0, 0, 0, 1, 2])
        >>> round(float(nc.metrics.seli_classifier_gap(state, labels)), 9)
        0.0
        >>> round(float(nc.metrics.zhu_nc2(state, labels)), 3)
        0.205
    """
    return _evaluated("seli_classifier_gap", *_checked(state, labels))


def seli_mean_gap(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> Float[Array, ""]:
    """‖MMᵀ/tr(MMᵀ) − A⁺/tr A⁺‖_F with rows M_c, A = (PDP)^½ (Thrampoulidis et al. 2022).

    0 at the limit of the flow of unequal classes. A⁺ is `mean_gram` of `exact.seli`.

    Args and errors: those of `separation_value`, with a sample of every class.

    Example:

        >>> state, labels = nc.exact.seli((3, 1, 1)).state(2), np.array([0, 0, 0, 1, 2])
        >>> round(float(nc.metrics.seli_mean_gap(state, labels)), 9)
        0.0
    """
    return _evaluated("seli_mean_gap", *_checked(state, labels))


def seli_logit_gap(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> Float[Array, ""]:
    """min_q ‖ZP − qYP‖_F/‖ZP‖_F of the logits Z (geometry of Thrampoulidis et al. 2022).

    0 where all margins of all samples are equal, for any class sizes.

    Args and errors: those of `separation_value`, with a sample of every class.

    Example:

        >>> state, labels = nc.exact.seli((3, 1, 1)).state(2), np.array([0, 0, 0, 1, 2])
        >>> round(float(nc.metrics.seli_logit_gap(state, labels)), 9)
        0.0
    """
    return _evaluated("seli_logit_gap", *_checked(state, labels))


OF_UNEQUAL_CLASSES = (
    "seli_classifier_gap", "seli_mean_gap", "seli_logit_gap", "logit_offset_spread",
)  # fmt: skip


def imbalance_metrics(
    state: LastLayer, labels: Integer[np.ndarray, " N"], sizes: tuple[int, ...]
) -> dict[str, Float[Array, ""]]:
    """The measures of unequal classes that a flow records, for concrete labels of these sizes."""
    return {
        name: _evaluated(name, state, jnp.asarray(labels), sizes) for name in OF_UNEQUAL_CLASSES
    }


def _checked(
    state: LastLayer, labels: Integer[ArrayLike, " N"]
) -> tuple[LastLayer, Integer[Array, " N"], tuple[int, ...] | None]:
    """State and labels to compute with, and the class sizes of concrete labels."""
    check_last_layer(state)
    state, num_classes = widened(state), state.classifier.shape[0]
    labels = check_labels(labels, num_classes, len(state.features), every_class=True)
    sizes = None if is_traced(labels) else class_sizes(labels, num_classes)
    return state, jnp.asarray(labels), sizes


# Name and class sizes are static: nothing else is computed, and the reference is a constant.
@functools.partial(jax.jit, static_argnums=(0, 3))
def _evaluated(
    name: str,
    state: LastLayer,
    labels: Integer[Array, " N"],
    sizes: tuple[int, ...] | None,
) -> Float[Array, ""]:
    num_classes = state.classifier.shape[0]
    moments = class_moments(state.features, labels, num_classes)
    counts = moments.counts if sizes is None else np.array(sizes, float)
    if name == "logit_offset_spread":
        return _offset_spread(state, labels, counts)
    if name == "seli_logit_gap":
        return _logit_gap(state, labels)
    means = class_means(moments)
    statistics = Statistics(
        counts, jnp.zeros_like(means[0]), means, moments.scatter, classifier=state.classifier
    )
    with jax.default_matmul_precision("highest"):
        return MEASURES[name].compute(statistics)


def _offset_spread(
    state: LastLayer, labels: Integer[Array, " N"], counts: Float[Array | np.ndarray, " K"]
) -> Float[Array, ""]:
    logits = state.logits()
    _, singular, right = label_factors(counts)
    log_multipliers = abs((right / singular[None]) @ right.T)
    xp = log_multipliers.__array_namespace__()
    of_sample = jnp.asarray(xp.log(log_multipliers), logits.dtype)[labels]
    at_label = membership(labels, logits.shape[1])
    label_logit = jnp.sum(jnp.where(at_label, logits, 0), axis=1, keepdims=True)
    offsets = label_logit - logits + of_sample
    largest = jnp.max(jnp.where(at_label, -jnp.inf, offsets))
    return largest - jnp.min(jnp.where(at_label, jnp.inf, offsets))


def _logit_gap(state: LastLayer, labels: Integer[Array, " N"]) -> Float[Array, ""]:
    """From the logits of samples, which a flow has, and not from a (d, d) covariance."""
    logits = state.logits()
    centered = logits - jnp.mean(logits, axis=1, keepdims=True)
    target = membership(labels, logits.shape[1]).astype(logits.dtype) - 1 / logits.shape[1]
    size = jnp.sum(centered * target) / jnp.sum(target**2)
    return jnp.linalg.norm(centered - size * target) / jnp.linalg.norm(centered)
