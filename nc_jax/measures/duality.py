"""Duality of classifiers and class means (NC3), logits at the mean (NC4), mean classifier (NC0).

M_c = μ_c − μ_G with the mean μ_G of the class means, w̃_c = w_c − mean_c w_c, and
E = (I − 11ᵀ/K)/√(K−1). Measures `_sample_mean` have the mean μ_S = Σ_c (n_c/N) μ_c of all samples
in the place of μ_G. For classes of different sizes they are not 0 at collapse: μ_S is not at the
centre of the simplex.
"""

from .arrangement import distance_to_gram, orthogonal_target, simplex_target
from .registry import measure_of
from .statistics import CENTERED, CLASSIFIER, Array, Statistics


@measure_of(
    "‖WMᵀ/‖WMᵀ‖_F − E‖_F with rows μ_c − μ_S, μ_S the mean of all samples (Zhu, code)",
    needs=("classifier",), default=False,
)  # fmt: skip
def zhu_nc3_sample_mean(s: Statistics) -> Array:
    """0 at collapse of classes of one size; above 0 at collapse of others."""
    return distance_to_gram(s, s.classifier @ s.centered_by_samples.T, simplex_target(s))


@measure_of("‖W̃Mᵀ/‖W̃Mᵀ‖_F − E‖_F with rows w̃_c, M_c (Zhou et al. 2022)", needs=("classifier",))
def zhou_nc3(s: Statistics) -> Array:
    """0 where the products of centred classifiers and class means are those of a simplex ETF."""
    return distance_to_gram(s, s.centered_classifier @ s.centered.T, simplex_target(s))


@measure_of(
    "‖W̃Mᵀ/‖W̃Mᵀ‖_F − E‖_F with rows w̃_c, μ_c − μ_S, μ_S the mean of all samples "
    "(Zhou et al. 2022, code)",
    needs=("classifier",), default=False,
)  # fmt: skip
def zhou_nc3_sample_mean(s: Statistics) -> Array:
    """0 at collapse of classes of one size; above 0 at collapse of others."""
    products = s.centered_classifier @ s.centered_by_samples.T
    return distance_to_gram(s, products, simplex_target(s))


@measure_of(
    "‖WUᵀ/‖WUᵀ‖_F − E‖_F with rows μ_c, not centred (Yaras et al. 2022, code)",
    needs=("classifier",), default=False,
)  # fmt: skip
def yaras_nc3(s: Statistics) -> Array:
    """0 at collapse with μ_G = 0."""
    return distance_to_gram(s, s.classifier @ s.uncentered.T, simplex_target(s))


@measure_of(
    "‖WUᵀ/‖WUᵀ‖_F − I/√K‖_F with rows μ_c, not centred (Tirer, Bruna 2022)",
    needs=("classifier",), default=False,
)  # fmt: skip
def tirer_nc3_orthogonal(s: Statistics) -> Array:
    """0 where ⟨w_c, μ_c'⟩ is 0 for c ≠ c', and one positive number for all c = c'."""
    return distance_to_gram(s, s.classifier @ s.uncentered.T, orthogonal_target(s))


def _gaps(s: Statistics, means: Array, kind: int) -> Array:
    """Squared distances of the directions of means and of one kind of classifiers, (K,).

    They are 2 − 2 cos of the angles, with full relative precision for small angles.
    """
    units = means / s.xp.sqrt(s.xp.sum(means**2, axis=1))[:, None]
    return s.xp.sum((s.directions[kind] - units) ** 2, axis=1)


@measure_of("‖M_c/‖M_c‖ − w_c/‖w_c‖‖", needs=("classifier",), dims=("class",), default=False)
def self_duality_by_class(s: Statistics) -> Array:
    """0 where the classifier is parallel to its centred class mean, 2 where it is antiparallel."""
    return s.xp.sqrt(_gaps(s, s.centered, CLASSIFIER))


@measure_of("mean_c ‖M_c/‖M_c‖ − w_c/‖w_c‖‖", needs=("classifier",), default=False)
def self_duality(s: Statistics) -> Array:
    """0 where each classifier is parallel to its centred class mean."""
    return s.xp.mean(self_duality_by_class(s))


@measure_of(
    "‖M_c/‖M_c‖ − w̃_c/‖w̃_c‖‖ (terms of ji_self_duality)",
    needs=("classifier",), dims=("class",), default=False,
)  # fmt: skip
def ji_self_duality_by_class(s: Statistics) -> Array:
    """0 where the centred classifier is parallel to its centred class mean."""
    return s.xp.sqrt(_gaps(s, s.centered, CENTERED))


@measure_of("cos(w_c, M_c)", needs=("classifier",), dims=("class",), default=False)
def cosine_duality_by_class(s: Statistics) -> Array:
    """1 where the classifier is parallel to its centred class mean."""
    return 1 - _gaps(s, s.centered, CLASSIFIER) / 2


@measure_of("mean_c cos(w_c, M_c)", needs=("classifier",))
def cosine_duality(s: Statistics) -> Array:
    """1 where each classifier is parallel to its centred class mean."""
    return s.xp.mean(cosine_duality_by_class(s))


@measure_of(
    "mean_c (1 − cos(w_c, μ_c − μ_S)), μ_S the mean of all samples (Jiang et al. 2024, GNC3, "
    "who divide features by their norms first)",
    needs=("classifier",), default=False,
)  # fmt: skip
def jiang_gnc3(s: Statistics) -> Array:
    """0 at collapse of classes of one size. For the value of the paper give h_i/‖h_i‖."""
    return s.xp.mean(_gaps(s, s.centered_by_samples, CLASSIFIER)) / 2


@measure_of(
    "std_c cos(w_c, M_c) / mean_c cos(w_c, M_c), std over K (Wu, Papyan 2024)",
    needs=("classifier",),
)
def wu_uniform_duality(s: Statistics) -> Array:
    """0 where all classifiers have one angle with their centred class mean."""
    # From 1 − cos, so that the deviations of cosines near 1 are accurate.
    gaps = _gaps(s, s.centered, CLASSIFIER) / 2
    average = s.xp.mean(gaps)
    return s.xp.sqrt(s.xp.mean((gaps - average) ** 2)) / (1 - average)


def _products(s: Statistics) -> Array:
    return s.xp.sum(s.classifier * s.centered, axis=1)


@measure_of("⟨w_c, M_c⟩", needs=("classifier",), dims=("class",), default=False)
def duality_product_by_class(s: Statistics) -> Array:
    """All equal at collapse."""
    return _products(s)


@measure_of(
    "var_c ⟨w_c, M_c⟩, over K−1 (Wu, code: similarities without cosines)",
    needs=("classifier",), default=False,
)  # fmt: skip
def wu_product_variance(s: Statistics) -> Array:
    """0 at collapse; depends on the scales of features and classifier."""
    products = _products(s)
    deviations = products - s.xp.mean(products)
    return s.xp.sum(deviations**2) / (s.num_classes - 1)


def _balanced_parts(s: Statistics) -> tuple[Array, Array, Array]:
    """Distances of W and of √n_c μ_c from their balanced form, and between its two factors.

    The balanced form of the centred logits X = U S Vᵀ has the factors V S^{1/2} Q and U S^{1/2} Q,
    where Q has orthonormal rows and minimises the distances to W and to √n_c μ_c. The logits are
    centred because cross-entropy depends on centred logits alone. Near collapse uncentred logits
    have a further singular value that is the square of a small number; its square root would have
    lost half of its digits.
    """
    norm = s.xp.linalg.vector_norm(s.classifier)
    classifier = s.classifier / norm
    means = s.xp.sqrt(s.counts)[:, None] * s.uncentered
    means = means / s.xp.linalg.vector_norm(means)
    products = means @ (s.centered_classifier / norm).T
    left, singular, right = s.xp.linalg.svd(products, full_matrices=False)
    rank = min(s.num_classes, s.dim)
    # The root of a rounding error of 1e-16 would be 1e-8.
    valid = s.above_rounding(singular, products)
    roots = s.xp.sqrt(s.xp.where(valid, singular, 0.0))[None, :rank]
    of_means, of_classifier = left[:, :rank] * roots, right.T[:, :rank] * roots
    first, _, second = s.xp.linalg.svd(
        of_classifier.T @ classifier + of_means.T @ means, full_matrices=False
    )
    rotation = first @ second
    return (
        s.xp.linalg.vector_norm(classifier - of_classifier @ rotation),
        s.xp.linalg.vector_norm(means - of_means @ rotation),
        s.xp.linalg.vector_norm(of_classifier - of_means) / s.xp.linalg.vector_norm(roots),
    )


@measure_of(
    "‖W̄ − V S^{½} Q‖_F, W̄ = W/‖W‖_F, m̄ with rows ∝ √n_c μ_c and ‖m̄‖_F = 1, m̄W̄ᵀ(I − 11ᵀ/K) = "
    "U S Vᵀ, Q of orthonormal rows nearest to W̄ and m̄",
    needs=("classifier",), default=False,
)  # fmt: skip
def self_duality_classifier_part(s: Statistics) -> Array:
    """0 where the classifier is the balanced factor of the centred logits.

    This holds at every critical point of the separation problem. The part also contains the mean
    classifier, on which cross-entropy does not depend.
    """
    return s.once(_balanced_parts)[0]


@measure_of("‖m̄ − U S^{½} Q‖_F, the same for class means", needs=("classifier",), default=False)
def self_duality_feature_part(s: Statistics) -> Array:
    """0 where the class means are the balanced factor of the centred logits."""
    return s.once(_balanced_parts)[1]


@measure_of(
    "‖(V − U) S^{½}‖_F/‖S^{½}‖_F, which depends on the centred logits alone",
    needs=("classifier",), default=False,
)  # fmt: skip
def self_duality_logit_part(s: Statistics) -> Array:
    """0 where the logits of class means are symmetric with no negative eigenvalue.

    The distance ‖W̄ − m̄‖_F is at most the sum of the three parts, and equal to this one where the
    two others are 0.
    """
    return s.once(_balanced_parts)[2]


@measure_of(
    "‖W μ_S + b‖₂, μ_S the mean of all samples (Zhu, code)", needs=("classifier",), default=False
)
def zhu_nc4_sample_mean(s: Statistics) -> Array:
    """0 where all logits vanish at the mean of all samples."""
    return s.xp.linalg.vector_norm(s.logits_at(s.origin + s.sample_mean))


@measure_of("‖W μ_G‖₂ (zhu_nc4 without the bias)", needs=("classifier",), default=False)
def zhu_nc4_no_bias(s: Statistics) -> Array:
    """0 where all logits less their bias vanish at the mean of the class means."""
    return s.xp.linalg.vector_norm(s.classifier @ s.global_mean)


@measure_of(
    "⟨w_c, μ_G⟩ + b_c (entries of zhu_nc4)",
    needs=("classifier",), dims=("class",), default=False,
)  # fmt: skip
def global_logit_by_class(s: Statistics) -> Array:
    """0 for each class where zhu_nc4 is 0."""
    return s.logits_at(s.global_mean)


@measure_of("‖Σ_c w_c‖²/K (Zhao et al. 2026)", needs=("classifier",))
def zhao_nc0(s: Statistics) -> Array:
    """0 where the classifiers have mean 0; depends on the scale of the classifier."""
    return s.num_classes * s.xp.sum(s.xp.mean(s.classifier, axis=0) ** 2)


@measure_of("‖Σ_c w_c‖²/(K ‖W‖_F²)", needs=("classifier",), default=False)
def nc0_share(s: Statistics) -> Array:
    """0 where the classifiers have mean 0, 1 where all are equal."""
    return zhao_nc0(s) / s.xp.sum(s.vectors[CLASSIFIER] ** 2)
