"""Measures of features with a row of targets each: sets of labels, soft labels, regression."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..geometry import above_rounding, center, simplex_gram
from ..precision import matmul, widened
from ..state import LastLayer


def label_set_metrics(
    state: LastLayer, at_labels: Bool[Array, "N K"]
) -> dict[str, Float[Array, ""]]:
    """Measures of collapse for samples with sets of labels S_i (after Li et al. 2023).

    - `margin_min`, `margin_mean`: of min_{k ∈ S} z_k − max_{j ∉ S} z_j, which is Ji's margin for
      samples with one label;
    - `zhu_nc2`: ‖WWᵀ/‖WWᵀ‖_F − E‖_F, which is 0 where the classifiers are a simplex ETF;
    - `label_sum_gap`: 1 − mean_i cos(h_i, Σ_{k ∈ S_i} w̃_k) with w̃_k = w_k − mean_c w_c, which is 0
      where every feature is parallel to the sum of the classifiers of its labels.

    Args: `at_labels` (N, K), True at the labels of each sample; every row has both values.

    Example: a simplex of K = 3 classes, with two labels for the last sample.

        >>> from nc_jax.measures.targets import label_set_metrics
        >>> frame = nc.geometry.simplex_etf(3, 2)
        >>> at_labels = jnp.array([[True, False, False], [True, True, False]])
        >>> state = nc.LastLayer(at_labels.astype(float) @ frame, frame)
        >>> found = label_set_metrics(state, at_labels)
        >>> float(found["margin_min"].round(6)), float(found["label_sum_gap"].round(6))
        (1.5, 0.0)
    """
    state = widened(state)
    logits, classifier = state.logits(), state.classifier
    inside = jnp.min(jnp.where(at_labels, logits, jnp.inf), axis=1)
    margins = inside - jnp.max(jnp.where(at_labels, -jnp.inf, logits), axis=1)
    gram = matmul(classifier, classifier.T)
    distance = gram / jnp.linalg.norm(gram) - simplex_gram(len(gram), dtype=gram.dtype)
    sums = matmul(at_labels.astype(classifier.dtype), center(classifier))
    lengths = jnp.linalg.norm(sums, axis=1) * jnp.linalg.norm(state.features, axis=1)
    cosines = jnp.sum(sums * state.features, axis=1) / lengths
    return {
        "margin_min": jnp.min(margins),
        "margin_mean": jnp.mean(margins),
        "zhu_nc2": jnp.linalg.norm(distance),
        "label_sum_gap": 1 - jnp.mean(cosines),
    }


def soft_label_metrics(
    state: LastLayer, targets: Float[Array, "N K"]
) -> dict[str, Float[Array, ""]]:
    """Measures of samples whose targets are probabilities p, with supports S_i = {p_i > 0}.

    - `in_support_gap`: max_i (max_S − min_S)(z_k − log p_k), which is 0 where logits of a support
      differ by log p_j/p_k;
    - `out_of_support_margin`: min_i (log Σ_{k ∈ S} e^z_k − max_{j ∉ S} z_j) over rows with a zero,
      which is Ji's margin for samples with one label; infinite without a zero;
    - `support_cosine`: cosine of the centred logits and 1_S − |S|/K, the max-margin part wherever
      `exact.soft_label_limit` has it in closed form.

    Args: `targets` (N, K), rows of probabilities.

    Example: two labels of three, with the right difference and a margin of 4 + log 2.

        >>> from nc_jax.measures.targets import soft_label_metrics
        >>> state = nc.LastLayer(jnp.array([[0.0, 0.0, -4.0]]), jnp.eye(3))
        >>> found = soft_label_metrics(state, jnp.array([[0.5, 0.5, 0.0]]))
        >>> {name: float(value.round(4)) for name, value in found.items()}
        {'in_support_gap': 0.0, 'out_of_support_margin': 4.6931, 'support_cosine': 1.0}
    """
    state, targets = widened((state, targets))
    logits, support = state.logits(), targets > 0
    offsets = logits - jnp.log(jnp.where(support, targets, 1))
    largest = jnp.max(jnp.where(support, offsets, -jnp.inf), axis=1)
    least = jnp.min(jnp.where(support, offsets, jnp.inf), axis=1)
    inside = jax.nn.logsumexp(jnp.where(support, logits, -jnp.inf), axis=1)
    outside = jnp.max(jnp.where(support, -jnp.inf, logits), axis=1)
    # `center` subtracts the mean of rows; here every row loses its mean.
    frame, centred = center(support.astype(logits.dtype).T), center(logits.T)
    norms = jnp.linalg.norm(frame) * jnp.linalg.norm(centred)
    return {
        "in_support_gap": jnp.max(largest - least),
        "out_of_support_margin": jnp.min(inside - outside),
        "support_cosine": jnp.sum(frame * centred) / norms,
    }


def regression_metrics(
    state: LastLayer, targets: Float[Array, "N m"]
) -> dict[str, Float[Array, ""]]:
    """The three measures of Andriopoulos et al. 2024 of a state, for flows.

    `metrics.regression_collapse` has their equations and further measures, of any features. Here
    all samples are in memory, and the functions run under jit.

    Example: features on the line that the weights span.

        >>> from nc_jax.measures.targets import regression_metrics
        >>> features, weights = jnp.array([[1.0, 2.0], [-2.0, -4.0]]), jnp.array([[1.0, 2.0]])
        >>> found = regression_metrics(nc.LastLayer(features, weights), features @ weights.T)
        >>> {name: bool(jnp.abs(value) < 1e-12) for name, value in found.items()}
        {'andriopoulos_nrc1': True, 'andriopoulos_nrc2': True, 'andriopoulos_nrc3': True}
    """
    state, targets = widened((state, targets))
    features, number = state.features, targets.shape[1]
    _, _, components = jnp.linalg.svd(center(features), full_matrices=False)
    _, sizes, rows = jnp.linalg.svd(state.classifier, full_matrices=False)
    spanning = above_rounding(sizes, state.classifier.shape)
    return {
        "andriopoulos_nrc1": _share_outside(features, components[:number]),
        "andriopoulos_nrc2": _share_outside(features, jnp.where(spanning[:, None], rows, 0)),
        "andriopoulos_nrc3": _gram_distance(state.classifier, center(targets)),
    }


def _share_outside(features: Float[Array, "N d"], rows: Float[Array, "r d"]) -> Float[Array, ""]:
    """mean_i ‖h_i − P h_i‖²/‖h_i‖², P the projection onto orthonormal rows."""
    outside = features - matmul(matmul(features, rows.T), rows)
    return jnp.mean(jnp.sum(outside**2, axis=1) / jnp.sum(features**2, axis=1))


def _gram_distance(
    classifier: Float[Array, "m d"], centred: Float[Array, "N m"]
) -> Float[Array, ""]:
    """min over t of ‖A/‖A‖ − (S − tI)/‖S − tI‖‖², A = WWᵀ, S² the covariance of the targets.

    The cosine (⟨A, S⟩ − t tr A)/(‖A‖ ‖S − tI‖) has one stationary point, so that its maximum is
    there or at an end of the range of t, from 0 to the least eigenvalue of S.
    """
    count, number = centred.shape
    squares, directions = jnp.linalg.eigh(matmul(centred.T, centred) / count)
    deviations = jnp.sqrt(jnp.maximum(squares, 0))
    root = matmul(directions * deviations[None], directions.T)
    gram = matmul(classifier, classifier.T)
    product, trace, first = jnp.sum(gram * root), jnp.trace(gram), jnp.sum(deviations)
    second = jnp.sum(deviations**2)
    stationary = (product * first - trace * second) / (product * number - trace * first)
    ends = jnp.stack([jnp.zeros_like(first), deviations[0]])
    shifts = jnp.append(ends, jnp.clip(stationary, 0, deviations[0]))
    shifted = root[None] - shifts[:, None, None] * jnp.eye(number, dtype=root.dtype)[None]
    norms = jnp.linalg.norm(shifted, axis=(1, 2), keepdims=True)
    gaps = (gram / jnp.linalg.norm(gram))[None] - shifted / norms
    # S − tI is 0 at the end of the range where all deviations are equal, as for one target.
    return jnp.nanmin(jnp.sum(gaps**2, axis=(1, 2)))
