"""The measures of Ji, Zhu, Papyan, Galanti and Mixon, as functions of `Statistics`.

M_c = μ_c − μ_G are class means centred by their mean, w̃_c = w_c − mean_c w_c,
E = (I − 11ᵀ/K)/√(K−1). Each formula runs in NumPy, and in JAX under jit in the dtype of a state.
"""

import math

from .arrangement import distance_to_gram, simplex_target
from .pairs import off_diagonal
from .registry import measure_of
from .statistics import CENTERED, CLASSIFIER, MEANS, Array, Statistics


def _variation(s: Statistics, kind: int) -> Array:
    """Standard deviation over mean of the norms of one kind of vectors."""
    norms = s.norms[kind]
    average = s.xp.mean(norms)
    # xp.std handles complex numbers too, and takes twice as many operations in JAX.
    return s.xp.sqrt(s.xp.mean((norms - average) ** 2)) / average


def _unbiased(s: Statistics) -> float:
    return math.sqrt(s.num_classes / (s.num_classes - 1))


def _cosine_gap(s: Statistics, kind: int) -> Array:
    """Mean distance of the cosines of one kind of vectors from those of a simplex."""
    return s.mean_over_pairs(s.xp.abs(s.cosines[kind] + 1 / (s.num_classes - 1)))


@measure_of("std_c ‖M_c‖ / mean_c ‖M_c‖ (Ji, section 2.1)")
def ji_feature_norm_variation(s: Statistics) -> Array:
    """0 at collapse, where all centred class means have one length."""
    return _variation(s, MEANS)


@measure_of("std_c ‖w̃_c‖ / mean_c ‖w̃_c‖ (Ji, appendix D)", needs=("classifier",))
def ji_classifier_norm_variation(s: Statistics) -> Array:
    """0 at collapse, where all centred classifiers have one length."""
    return _variation(s, CENTERED)


@measure_of(
    "mean_i ‖h_i − μ_{y_i}‖ / mean_i ‖h_i − μ_G‖ (Ji, section 2.1)",
    needs=("within", "around_global"),
)
def ji_within_class_variation(s: Statistics) -> Array:
    """0 where the features of every class coincide, 1 where the class means do."""
    return s.total("within") / s.total("around_global")


@measure_of("mean_{c≠c'} |cos(M_c, M_c') + 1/(K−1)| (Ji, section 2.1)")
def ji_feature_cosine_gap(s: Statistics) -> Array:
    """0 at collapse."""
    return _cosine_gap(s, MEANS)


@measure_of("mean_{c≠c'} |cos(w̃_c, w̃_c') + 1/(K−1)| (Ji, appendix D)", needs=("classifier",))
def ji_classifier_cosine_gap(s: Statistics) -> Array:
    """0 at collapse."""
    return _cosine_gap(s, CENTERED)


@measure_of("mean_c ‖M_c/‖M_c‖ − w̃_c/‖w̃_c‖‖ (Ji, appendix D)", needs=("classifier",))
def ji_self_duality(s: Statistics) -> Array:
    """0 where each centred classifier is parallel to its centred class mean."""
    means, centered = s.vectors[MEANS], s.vectors[CENTERED]
    gaps = means / s.norms[MEANS][:, None] - centered / s.norms[CENTERED][:, None]
    return s.xp.mean(s.xp.sqrt(s.xp.sum(gaps**2, axis=1)))


@measure_of("tr(Σ_W Σ_B⁺)/K (Zhu, section 4)", needs=("whitened",))
def zhu_nc1(s: Statistics) -> Array:
    """0 where the features of every class coincide.

    A contrast of class means below rounding counts as absent: where two class means coincide this
    is that of the other contrasts, not infinite.
    """
    return papyan_nc1(s) / s.num_classes


@measure_of("‖WWᵀ/‖WWᵀ‖_F − E‖_F (Zhu, section 4)", needs=("classifier",))
def zhu_nc2(s: Statistics) -> Array:
    """0 where the classifiers are a simplex ETF with mean 0."""
    return distance_to_gram(s, s.grams[CLASSIFIER], simplex_target(s))


@measure_of("‖WMᵀ/‖WMᵀ‖_F − E‖_F with rows M_c (Zhu, section 4)", needs=("classifier",))
def zhu_nc3(s: Statistics) -> Array:
    """0 where the products of classifiers and class means are those of a simplex ETF."""
    return distance_to_gram(s, s.classifier @ s.centered.T, simplex_target(s))


@measure_of("‖W μ_G + b‖₂ (Zhu, section 4)", needs=("classifier",))
def zhu_nc4(s: Statistics) -> Array:
    """0 where all logits vanish at the mean of the class means."""
    return s.xp.linalg.vector_norm(s.logits_at(s.global_mean))


@measure_of("tr(Σ_W Σ_B⁺) (Papyan, Han, Donoho 2020)", needs=("whitened",))
def papyan_nc1(s: Statistics) -> Array:
    """0 where the features of every class coincide.

    A contrast of class means below rounding counts as absent: where two class means coincide this
    is that of the other contrasts, not infinite.
    """
    return s.total("whitened") / s.count


@measure_of("std_c ‖M_c‖ / mean_c ‖M_c‖, std over K−1 (Papyan, Han, Donoho 2020)")
def papyan_feature_equinorm(s: Statistics) -> Array:
    """0 at collapse."""
    return _unbiased(s) * _variation(s, MEANS)


@measure_of(
    "std_c ‖w_c‖ / mean_c ‖w_c‖, std over K−1 (Papyan, Han, Donoho 2020)", needs=("classifier",)
)
def papyan_classifier_equinorm(s: Statistics) -> Array:
    """0 where all classifiers have one length."""
    return _unbiased(s) * _variation(s, CLASSIFIER)


@measure_of(
    "mean_{c≠c'} |cos(w_c, w_c') + 1/(K−1)| (Papyan, Han, Donoho 2020)", needs=("classifier",)
)
def papyan_classifier_cosine_gap(s: Statistics) -> Array:
    """0 where all cosines between classifiers are −1/(K−1)."""
    return _cosine_gap(s, CLASSIFIER)


@measure_of(
    "‖W/‖W‖_F − M/‖M‖_F‖_F² with rows M_c (Papyan, Han, Donoho 2020)", needs=("classifier",)
)
def papyan_self_duality(s: Statistics) -> Array:
    """0 where W is a positive multiple of M, 4 where it is a negative one."""
    means, classifier = s.vectors[MEANS], s.vectors[CLASSIFIER]
    norm = s.xp.linalg.vector_norm
    gap = classifier / norm(s.norms[CLASSIFIER]) - means / norm(s.norms[MEANS])
    return s.xp.sum(gap**2)


@measure_of(
    "share of samples with argmin_c ‖h_i − μ_c‖ ≠ argmax_c z_ic (Papyan, Han, Donoho 2020)",
    needs=("classifier", "mismatches"),
)
def papyan_ncc_mismatch(s: Statistics) -> Array:
    """0 where the nearest class mean and the largest logit name the same class everywhere."""
    return s.total("mismatches") / s.count


def cdnv_terms(s: Statistics, exponent: float) -> Array:
    """(v_c + v_c')/(2‖μ_c − μ_c'‖^{2q}) with the exponent q, (K, K); no meaning for c = c'."""
    # A distance of 1 in the place of 0, whose division would make gradients NaN.
    distances = off_diagonal(s, s.squared_distances, 1.0)
    return (s.variances[:, None] + s.variances[None]) / (2 * distances**exponent)


@measure_of(
    "mean_{c≠c'} (v_c + v_c')/(2‖μ_c − μ_c'‖²), v_c = mean_{y_i=c} ‖h_i − μ_c‖² "
    "(Galanti, György, Hutter 2022)"
)
def cdnv(s: Statistics) -> Array:
    """0 where the features of every class coincide."""
    return s.mean_over_pairs(cdnv_terms(s, 1))


@measure_of(
    "(v_c + v_c')/(2‖μ_c − μ_c'‖²) of each pair c, c' (Galanti, György, Hutter 2022)",
    dims=("class", "other_class"),
)
def cdnv_by_pair(s: Statistics) -> Array:
    """0 for two classes whose features coincide with their means; NaN for c = c'."""
    return off_diagonal(s, cdnv_terms(s, 1), math.nan)


def _size(s: Statistics) -> Array:
    """√n of balanced classes, each of which has n samples."""
    return s.xp.sqrt(s.counts[0])


def _implied(s: Statistics) -> Array:
    """√n μ_c, (K, d): the classifiers that the class means imply, since they are W/√n on S."""
    return _size(s) * s.uncentered


def _bias(s: Statistics) -> Array:
    """The bias; a missing one counts as 0."""
    return s.xp.zeros(s.num_classes, dtype=s.means.dtype) if s.bias is None else s.bias


@measure_of("‖WWᵀ − √n(I − 11ᵀ/K)‖_F (Mixon, SNC1)", needs=("classifier", "balanced"))
def mixon_snc1(s: Statistics) -> Array:
    """0 at strong collapse."""
    gram = s.grams[CLASSIFIER]
    projector = s.xp.eye(s.num_classes, dtype=gram.dtype) - 1 / s.num_classes
    return s.xp.linalg.matrix_norm(gram - _size(s) * projector)


@measure_of("‖H − (W⊗1_n)ᵀ/√n‖_F / ‖H‖_F (Mixon, SNC2)", needs=("classifier", "balanced"))
def mixon_snc2(s: Statistics) -> Array:
    """0 at strong collapse."""
    implied, scatter = _implied(s), s.xp.sum(s.scatter)
    gap = s.xp.sum((implied - s.classifier) ** 2)
    return s.xp.sqrt((scatter + gap) / (scatter + s.xp.sum(implied**2)))


@measure_of("‖b − 1/K‖₂ (Mixon, SNC3)", needs=("classifier", "balanced"))
def mixon_snc3(s: Statistics) -> Array:
    """0 at strong collapse; a missing bias counts as 0."""
    return s.xp.linalg.vector_norm(_bias(s) - 1 / s.num_classes)


@measure_of(
    "‖Z − Π_S Z‖ / ‖Z‖ for Z = (H, W, b) (Mixon, theorem 3)", needs=("classifier", "balanced")
)
def mixon_distance_to_s(s: Statistics) -> Array:
    """0 on Mixon's invariant subspace S."""
    implied, bias, scatter = _implied(s), _bias(s), s.xp.sum(s.scatter)
    terms = s.xp.stack([implied, s.classifier, implied - s.classifier])
    features, weights, gap = s.xp.sum(terms**2, axis=(1, 2))
    # Π_S replaces both the implied and the actual W by the centred average of the two. That removes
    # half of their difference from each, and the mean over the classes from their average.
    shared = s.num_classes * s.xp.sum(s.xp.mean(implied + s.classifier, axis=0) ** 2)
    off_s = scatter + (gap + shared) / 2 + s.xp.sum((bias - s.xp.mean(bias)) ** 2)
    return s.xp.sqrt(off_s / (scatter + features + weights + s.xp.sum(bias**2)))
