"""Measures of neural collapse, every published variant under its own name.

Papers use one name for different quantities ('NC1' differs by a factor K, 'NC4' means two things),
so a key starts with the paper that defines it. M_c = μ_c − μ_G are class means centred by their
own mean, w̃_c = w_c − mean_c w_c, E = (I − 11ᵀ/K)/√(K−1).
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Integer, Real

from ..checks import check_matrix, is_traced
from ..geometry import (
    center,
    common_class_size,
    off_diagonal_mean,
    simplex_gram,
    squared_distances,
)
from ..labels import check_labels
from ..precision import matmul, widened
from ..state import LastLayer, check_last_layer
from .streaming import ClassMoments, Spread, class_means, class_moments, spread


def collapse_metrics(
    state: LastLayer, labels: Integer[ArrayLike, " N"]
) -> dict[str, Float[Array, ""]]:
    """Every collapse metric of a state, as scalars in its dtype, or float32 for half precision.

    | key | definition |
    |---|---|
    | `ji_feature_norm_variation`, `ji_classifier_norm_variation` | std/mean of ‖M_c‖; of ‖w̃_c‖ |
    | `ji_within_class_variation` | mean_i ‖h_i − μ_{y_i}‖ / mean_i ‖h_i − μ_G‖ |
    | `ji_feature_cosine_gap`, `ji_classifier_cosine_gap` | mean of abs(cos(M_c, M_c') + 1/(K−1)); of w̃ |
    | `ji_self_duality` | mean_c ‖M_c/‖M_c‖ − w̃_c/‖w̃_c‖‖ |
    | `zhu_nc1` | tr(Σ_W Σ_B⁺)/K |
    | `zhu_nc2`, `zhu_nc3` | ‖WWᵀ/‖WWᵀ‖_F − E‖_F; ‖WM/‖WM‖_F − E‖_F |
    | `zhu_nc4` | ‖W μ_G + b‖₂ |
    | `papyan_nc1` | tr(Σ_W Σ_B⁺) |
    | `papyan_feature_equinorm`, `papyan_classifier_equinorm` | unbiased std over mean of ‖M_c‖; of ‖w_c‖ |
    | `papyan_classifier_cosine_gap` | as `ji_classifier_cosine_gap` with w_c uncentred |
    | `papyan_self_duality` | ‖Wᵀ/‖W‖_F − M/‖M‖_F‖_F² |
    | `papyan_ncc_mismatch` | share of samples where nearest class mean ≠ argmax logit |
    | `cdnv` | mean over pairs of (v_c + v_c')/(2‖μ_c − μ_c'‖²) |
    | `mixon_snc1` | ‖WWᵀ − √n(I − 11ᵀ/K)‖_F |
    | `mixon_snc2` | ‖H − (W⊗1_n)ᵀ/√n‖_F/‖H‖_F |
    | `mixon_snc3` | ‖b − 1/K‖₂ |
    | `mixon_distance_to_s` | ‖Z − Π_S Z‖_E/‖Z‖_E |

    The `mixon_*` keys need classes of one size n. They are present when `labels` is a concrete
    array with balanced classes, and absent when it is not balanced or is traced. A ratio of two
    zeros is NaN; the pseudo-inverse of Σ_B = 0 is 0, so the NC1 of coinciding means is 0.

    Args: `labels` (N,) integers in 0..K−1, in any order.

    Raises: ValueError for concrete labels that are not so, or of which a class is missing; of traced
    ones shape and dtype are checked, and a missing class gives NaN.

    Example: `collapse_metrics(state, problem.labels)["zhu_nc1"]`; over a batch of states,
    `jax.vmap(lambda s: collapse_metrics(s, problem.labels))(states)`.
    """
    check_last_layer(state)
    state, num_classes = widened(state), state.classifier.shape[0]
    if num_classes < 2:
        raise ValueError(
            "state: the classifier has 1 row, for 1 class: collapse needs 2 or more classes; a "
            "single output z stands for the logits (-z/2, z/2)."
        )
    labels = check_labels(labels, num_classes, len(state.features), every_class=True)
    moments = class_moments(state.features, labels, num_classes)
    sums = spread(state.features, labels, moments, state.classifier, state.bias)
    # Decided by concrete labels: which keys there are cannot depend on a traced value.
    balanced = not is_traced(labels) and common_class_size(labels, num_classes) is not None
    return collapse_from_statistics(moments, sums, state.classifier, state.bias, balanced)


def collapse_from_statistics(
    moments: ClassMoments,
    sums: Spread,
    classifier: Real[Array, "K d"],
    bias: Real[Array, " K"] | None = None,
    balanced: bool = False,
) -> dict[str, Float[Array, ""]]:
    """The metrics of `collapse_metrics` from streamed statistics: see `metrics.streaming`.

    `balanced` says that all classes have one size, which adds the `mixon_*` keys.

    Raises: ValueError for `balanced` with concrete counts that differ.

    Example, over batches of a data set that does not fit memory:

        moments = functools.reduce(merge_moments, (class_moments(h, y, K) for h, y in batches))
        sums = functools.reduce(merge_spreads, (spread(h, y, moments, W, b) for h, y in batches))
        collapse_from_statistics(moments, sums, W, b)
    """
    check_matrix("classifier", classifier, "(K, d)")
    moments, sums, classifier, bias = widened((moments, sums, classifier, bias))
    if balanced and not is_traced(moments.counts):
        counts = np.asarray(moments.counts)
        if np.any(counts != counts[0]):
            raise ValueError(
                f"balanced = True: classes have {counts.astype(int).tolist()} samples; leave it out."
            )
    means = class_means(moments)
    centered = center(means)
    # What is measured of each of three sets of vectors is computed of all three at once.
    vectors = jnp.stack([centered, center(classifier), classifier])
    norms = jnp.linalg.norm(vectors, axis=2)
    grams = matmul(vectors, vectors.swapaxes(1, 2))
    metrics = {
        **_variability(moments, sums, centered),
        **_equal_norms(norms),
        **_equal_angles(grams / (norms[:, :, None] * norms[:, None])),
        **_self_duality(vectors, norms),
        "zhu_nc2": _distance_to_simplex(grams[2]),
        "zhu_nc3": _distance_to_simplex(matmul(classifier, centered.T)),
        "zhu_nc4": _offset(classifier, jnp.mean(means, axis=0), bias),
    }
    if balanced:
        metrics |= _mixon(moments, classifier, bias, grams[2])
    return metrics


def _variability(
    moments: ClassMoments, sums: Spread, means: Float[Array, "K d"]
) -> dict[str, Float[Array, ""]]:
    """What is measured of the features around their class means."""
    nc1 = sums.whitened / sums.count
    variances = moments.scatter / moments.counts
    pairs = (variances[:, None] + variances[None]) / (2 * squared_distances(means))
    return {
        "ji_within_class_variation": sums.within / sums.around_global,
        "zhu_nc1": nc1 / means.shape[0],
        "papyan_nc1": nc1,
        "papyan_ncc_mismatch": sums.mismatches / sums.count,
        "cdnv": off_diagonal_mean(pairs),
    }


def _equal_norms(norms: Float[Array, "3 K"]) -> dict[str, Float[Array, ""]]:
    """Deviations of norms from their mean: of M_c, w̃_c and w_c."""
    num_classes = norms.shape[1]
    average = jnp.mean(norms, axis=1, keepdims=True)
    # jnp.std takes twice as many operations, for complex numbers.
    deviations = jnp.sqrt(jnp.mean((norms - average) ** 2, axis=1))
    means, centered, uncentered = deviations / average[:, 0]
    unbiased = np.sqrt(num_classes / (num_classes - 1)).item()
    return {
        "ji_feature_norm_variation": means,
        "ji_classifier_norm_variation": centered,
        "papyan_feature_equinorm": unbiased * means,
        "papyan_classifier_equinorm": unbiased * uncentered,
    }


def _equal_angles(cosines: Float[Array, "3 K K"]) -> dict[str, Float[Array, ""]]:
    """Deviations of cosines from those of a simplex: between M_c, between w̃_c, between w_c."""
    gaps = jnp.abs(cosines + 1 / (cosines.shape[1] - 1))
    means, centered, uncentered = off_diagonal_mean(gaps)
    return {
        "ji_feature_cosine_gap": means,
        "ji_classifier_cosine_gap": centered,
        "papyan_classifier_cosine_gap": uncentered,
    }


def _self_duality(
    vectors: Float[Array, "3 K d"], norms: Float[Array, "3 K"]
) -> dict[str, Float[Array, ""]]:
    """How far classifiers are from class means: each, centred, and all together, uncentred."""
    means, centered, uncentered = vectors
    each = means / norms[0, :, None] - centered / norms[1, :, None]
    together = uncentered / jnp.linalg.norm(norms[2]) - means / jnp.linalg.norm(norms[0])
    return {
        "ji_self_duality": jnp.mean(jnp.linalg.norm(each, axis=1)),
        "papyan_self_duality": jnp.sum(together**2),
    }


def _offset(
    classifier: Float[Array, "K d"],
    global_mean: Float[Array, " d"],
    bias: Float[Array, " K"] | None,
) -> Float[Array, ""]:
    """The logits' norm at the global mean."""
    logits = matmul(classifier, global_mean)
    return jnp.linalg.norm(logits if bias is None else logits + bias)


def _mixon(
    moments: ClassMoments,
    classifier: Float[Array, "K d"],
    bias: Float[Array, " K"] | None,
    gram: Float[Array, "K K"],
) -> dict[str, Float[Array, ""]]:
    """Strong-collapse errors (Mixon, SNC1-3 and figure 2), from class means and scatters alone."""
    num_classes = classifier.shape[0]
    bias = jnp.zeros(num_classes, classifier.dtype) if bias is None else bias
    root = jnp.sqrt(moments.counts[0])
    target = root * (jnp.eye(num_classes, dtype=gram.dtype) - 1 / num_classes)
    # On S features are (W⊗1_n)ᵀ/√n: the W that the class means stand for, and H with its scatter.
    implied, scatter = root * moments.means, jnp.sum(moments.scatter)
    terms = jnp.stack([implied, classifier, implied - classifier])
    features, weights, gap = jnp.sum(terms**2, axis=(1, 2))
    # Π_S replaces both W by their average without its mean. To it goes half the gap from each, and
    # the mean of both.
    shared = num_classes * jnp.sum(jnp.mean(implied + classifier, axis=0) ** 2)
    off_s = scatter + (gap + shared) / 2 + jnp.sum((bias - jnp.mean(bias)) ** 2)
    return {
        "mixon_snc1": jnp.linalg.norm(gram - target),
        "mixon_snc2": jnp.sqrt((scatter + gap) / (scatter + features)),
        "mixon_snc3": jnp.linalg.norm(bias - 1 / num_classes),
        "mixon_distance_to_s": jnp.sqrt(off_s / (scatter + features + weights + jnp.sum(bias**2))),
    }


def _distance_to_simplex(matrix: Float[Array, "K K"]) -> Float[Array, ""]:
    target = simplex_gram(matrix.shape[0], matrix.dtype)
    return jnp.linalg.norm(matrix / jnp.linalg.norm(matrix) - target)
