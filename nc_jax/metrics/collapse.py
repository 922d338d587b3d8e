"""Measures of neural collapse, every published variant under its own name.

Papers use one name for different quantities ('NC1' differs by a factor K, 'NC4' means two things),
so a key starts with the paper that defines it. M_c = μ_c − μ_G are class means centred by their
own mean, w̃_c = w_c − mean_c w_c, E = (I − 11ᵀ/K)/√(K−1).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Integer

from ..checks import is_traced
from ..geometry import center, common_class_size, cosines, off_diagonal_mean, simplex_gram
from ..precision import matmul
from ..state import LastLayer
from .streaming import ClassMoments, Spread, class_means, class_moments, spread


def collapse_metrics(
    state: LastLayer, labels: Integer[ArrayLike, " N"]
) -> dict[str, Float[Array, ""]]:
    """Every collapse metric of a state, as scalars in its dtype.

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

    Raises: ValueError for concrete labels with an empty class; traced ones give NaN there.

    Example: `collapse_metrics(state, problem.labels)["zhu_nc1"]`; over a batch of states,
    `jax.vmap(lambda s: collapse_metrics(s, problem.labels))(states)`.
    """
    moments = class_moments(state.features, labels, state.classifier.shape[0])
    sums = spread(state.features, labels, moments, state.classifier, state.bias)
    # Decided by concrete labels: which keys there are cannot depend on a traced value.
    balanced = not is_traced(labels) and (
        common_class_size(labels, state.classifier.shape[0]) is not None
    )
    return collapse_from_statistics(moments, sums, state.classifier, state.bias, balanced)


def collapse_from_statistics(
    moments: ClassMoments,
    sums: Spread,
    classifier: Float[Array, "K d"],
    bias: Float[Array, " K"] | None = None,
    balanced: bool = False,
) -> dict[str, Float[Array, ""]]:
    """The metrics of `collapse_metrics` from streamed statistics: see `metrics.streaming`.

    `balanced` says that all classes have one size, which adds the `mixon_*` keys.

    Example, over batches of a data set that does not fit memory:

        moments = functools.reduce(merge_moments, (class_moments(h, y, K) for h, y in batches))
        sums = functools.reduce(merge_spreads, (spread(h, y, moments, W, b) for h, y in batches))
        collapse_from_statistics(moments, sums, W, b)
    """
    moments = ClassMoments(moments.counts, class_means(moments), moments.scatter)
    metrics = {**_ji(moments, sums, classifier), **_zhu_and_papyan(moments, sums, classifier, bias)}
    if balanced:
        metrics |= _mixon(moments, classifier, bias)
    return metrics


def _ji(
    moments: ClassMoments, sums: Spread, classifier: Float[Array, "K d"]
) -> dict[str, Float[Array, ""]]:
    means, weights = center(moments.means), center(classifier)
    mean_norms, weight_norms = jnp.linalg.norm(means, axis=1), jnp.linalg.norm(weights, axis=1)
    misalignment = means / mean_norms[:, None] - weights / weight_norms[:, None]
    return {
        "ji_feature_norm_variation": jnp.std(mean_norms) / jnp.mean(mean_norms),
        "ji_classifier_norm_variation": jnp.std(weight_norms) / jnp.mean(weight_norms),
        "ji_within_class_variation": sums.within / sums.around_global,
        "ji_feature_cosine_gap": _cosine_gap(means),
        "ji_classifier_cosine_gap": _cosine_gap(weights),
        "ji_self_duality": jnp.mean(jnp.linalg.norm(misalignment, axis=1)),
    }


def _zhu_and_papyan(
    moments: ClassMoments,
    sums: Spread,
    classifier: Float[Array, "K d"],
    bias: Float[Array, " K"] | None,
) -> dict[str, Float[Array, ""]]:
    num_classes = classifier.shape[0]
    means = center(moments.means)
    mean_norms = jnp.linalg.norm(means, axis=1)
    weight_norms = jnp.linalg.norm(classifier, axis=1)
    nc1 = sums.whitened / sums.count
    offset = matmul(classifier, jnp.mean(moments.means, axis=0))
    duality_gap = classifier / jnp.linalg.norm(classifier) - means / jnp.linalg.norm(means)
    variances = moments.scatter / moments.counts
    # By differences, a class at a time: from the Gram matrix close means would cancel, and all
    # differences at once would take K²d numbers.
    squared_distances = jax.lax.map(lambda mean: jnp.sum((means - mean) ** 2, axis=1), means)
    return {
        "zhu_nc1": nc1 / num_classes,
        "zhu_nc2": _distance_to_simplex(matmul(classifier, classifier.T)),
        "zhu_nc3": _distance_to_simplex(matmul(classifier, means.T)),
        "zhu_nc4": jnp.linalg.norm(offset if bias is None else offset + bias),
        "papyan_nc1": nc1,
        "papyan_feature_equinorm": jnp.std(mean_norms, ddof=1) / jnp.mean(mean_norms),
        "papyan_classifier_equinorm": jnp.std(weight_norms, ddof=1) / jnp.mean(weight_norms),
        "papyan_classifier_cosine_gap": _cosine_gap(classifier),
        "papyan_self_duality": jnp.sum(duality_gap**2),
        "papyan_ncc_mismatch": sums.mismatches / sums.count,
        "cdnv": off_diagonal_mean((variances[:, None] + variances) / (2 * squared_distances)),
    }


def _mixon(
    moments: ClassMoments, classifier: Float[Array, "K d"], bias: Float[Array, " K"] | None
) -> dict[str, Float[Array, ""]]:
    """Strong-collapse errors (Mixon, SNC1-3 and figure 2), from class means and scatters alone."""
    num_classes = classifier.shape[0]
    bias = jnp.zeros(num_classes, classifier.dtype) if bias is None else bias
    size = moments.counts[0]
    scatter = jnp.sum(moments.scatter)
    features_squared = scatter + size * jnp.sum(moments.means**2)

    def features_from(classifier: Float[Array, "K d"]) -> Float[Array, ""]:
        """‖H − (W⊗1_n)ᵀ/√n‖_F² for this W."""
        return scatter + size * jnp.sum((moments.means - classifier / jnp.sqrt(size)) ** 2)

    gram = matmul(classifier, classifier.T)
    target = jnp.sqrt(size) * (jnp.eye(num_classes, dtype=gram.dtype) - 1 / num_classes)
    # Π_S keeps the centred average of W and of the classifier that H stands for on S.
    on_s = center(classifier + jnp.sqrt(size) * moments.means) / 2
    off_s = features_from(on_s) + jnp.sum((classifier - on_s) ** 2)
    off_s += jnp.sum((bias - jnp.mean(bias)) ** 2)
    total = features_squared + jnp.sum(classifier**2) + jnp.sum(bias**2)
    return {
        "mixon_snc1": jnp.linalg.norm(gram - target),
        "mixon_snc2": jnp.sqrt(features_from(classifier) / features_squared),
        "mixon_snc3": jnp.linalg.norm(bias - 1 / num_classes),
        "mixon_distance_to_s": jnp.sqrt(off_s / total),
    }


def _cosine_gap(vectors: Float[Array, "K d"]) -> Float[Array, ""]:
    return off_diagonal_mean(jnp.abs(cosines(vectors) + 1 / (vectors.shape[0] - 1)))


def _distance_to_simplex(matrix: Float[Array, "K K"]) -> Float[Array, ""]:
    target = simplex_gram(matrix.shape[0], matrix.dtype)
    return jnp.linalg.norm(matrix / jnp.linalg.norm(matrix) - target)
