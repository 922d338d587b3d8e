"""Distances of class means and classifiers from ideal frames, and variation of their norms.

Class means are centred by the mean μ_G of the class means, M_c = μ_c − μ_G, unless a formula says
otherwise; w̃_c = w_c − mean_c w_c, E = (I − 11ᵀ/K)/√(K−1). No formula here depends on class sizes.
At collapse the M_c are a simplex ETF: equal norms, all cosines −1/(K−1).
"""

import math

from .registry import measure_of
from .statistics import CENTERED, CLASSIFIER, MEANS, Array, Statistics


def distance_to_gram(s: Statistics, matrix: Array, target: Array) -> Array:
    """‖A/‖A‖_F − T‖_F of a (K, K) matrix A and a target T of Frobenius norm 1."""
    norm = s.xp.linalg.matrix_norm
    # Products of numbers of size 1e-100 have squares that underflow.
    matrix = matrix / s.xp.max(s.xp.abs(matrix))
    return norm(matrix / norm(matrix) - target)


def simplex_target(s: Statistics) -> Array:
    """E = (I − 11ᵀ/K)/√(K−1)."""
    identity = s.xp.eye(s.num_classes, dtype=s.means.dtype)
    return (identity - 1 / s.num_classes) / math.sqrt(s.num_classes - 1)


def orthogonal_target(s: Statistics) -> Array:
    """I/√K."""
    return s.xp.eye(s.num_classes, dtype=s.means.dtype) / math.sqrt(s.num_classes)


# Distances from a simplex ETF and from an orthogonal frame.


@measure_of("‖MMᵀ/‖MMᵀ‖_F − E‖_F with rows M_c (Kothapalli 2023)")
def kothapalli_nc2(s: Statistics) -> Array:
    """0 where the centred class means are a simplex ETF."""
    return distance_to_gram(s, s.grams[MEANS], simplex_target(s))


@measure_of(
    "‖W̃W̃ᵀ/‖W̃W̃ᵀ‖_F − E‖_F with rows w̃_c (Zhou et al. 2022)", needs=("classifier",)
)  # fmt: skip
def zhou_nc2(s: Statistics) -> Array:
    """0 where the centred classifiers are a simplex ETF."""
    return distance_to_gram(s, s.grams[CENTERED], simplex_target(s))


@measure_of(
    "‖UUᵀ/‖UUᵀ‖_F − I/√K‖_F with rows μ_c, not centred (Tirer, Bruna 2022)", default=False
)  # fmt: skip
def tirer_nc2_orthogonal(s: Statistics) -> Array:
    """0 where the class means are an orthogonal frame, as for the square loss without bias."""
    return distance_to_gram(s, s.uncentered @ s.uncentered.T, orthogonal_target(s))


@measure_of(
    "‖WWᵀ/‖WWᵀ‖_F − I/√K‖_F (Tirer, Bruna 2022)", needs=("classifier",), default=False
)  # fmt: skip
def tirer_nc2_orthogonal_classifier(s: Statistics) -> Array:
    """0 where the classifiers are an orthogonal frame."""
    return distance_to_gram(s, s.grams[CLASSIFIER], orthogonal_target(s))


@measure_of("mean_{c≠c'} |cos(μ_c, μ_c')|, means not centred", default=False)
def feature_orthogonality_gap(s: Statistics) -> Array:
    """0 where the class means are orthogonal, of any lengths; 1 where they are parallel."""
    units = s.uncentered / s.xp.sqrt(s.xp.sum(s.uncentered**2, axis=1))[:, None]
    return s.mean_over_pairs(s.xp.abs(units @ units.T))


@measure_of("mean_{c≠c'} |cos(w_c, w_c')|", needs=("classifier",), default=False)
def classifier_orthogonality_gap(s: Statistics) -> Array:
    """0 where the classifiers are orthogonal, of any lengths; 1 where they are parallel."""
    return s.mean_over_pairs(s.xp.abs(s.cosines[CLASSIFIER]))


def _distance_to_frames(s: Statistics, rows: Array, centered: Array) -> Array:
    """min over P with PᵀP = I of ‖Yᵀ/‖Y‖_F − PE‖_F² for Y (K, d) with centred rows.

    With the singular values σ_j of the centred Y it is Σ_j (σ_j − 1/√(K−1))² plus the squared norm
    of the mean part, after division by ‖Y‖_F². The equal form 2 − 2 Σ_j σ_j/√(K−1) would subtract
    numbers that agree at collapse.
    """
    rank, xp = s.num_classes - 1, s.xp
    norm = xp.linalg.matrix_norm(rows)
    singular = xp.linalg.svdvals(centered)[:rank] / norm
    gaps = xp.sum((singular - 1 / math.sqrt(rank)) ** 2)
    mean_part = xp.linalg.matrix_norm(rows - centered) / norm
    # For d < K−1 the remaining singular values are 0: the frame is in a space of more dimensions.
    return gaps + mean_part**2 + (rank - len(singular)) / rank


@measure_of(
    "min_{PᵀP=I} ‖Mᵀ/‖M‖_F − PE‖_F² with rows M_c (Markou, Ajanthan, Gould 2024)", default=False
)
def markou_feature_etf_distance(s: Statistics) -> Array:
    """0 where the centred class means are a simplex ETF; at most 2."""
    # M itself has no mean part but rounding errors.
    return _distance_to_frames(s, s.centered, s.centered)


@measure_of(
    "min_{PᵀP=I} ‖Wᵀ/‖W‖_F − PE‖_F² (Markou, Ajanthan, Gould 2024)",
    needs=("classifier",), default=False,
)  # fmt: skip
def markou_classifier_etf_distance(s: Statistics) -> Array:
    """0 where the classifiers are a simplex ETF with mean 0; at most 2."""
    return _distance_to_frames(s, s.classifier, s.centered_classifier)


# Norms.


@measure_of("‖M_c‖", dims=("class",), default=False)
def feature_norm_by_class(s: Statistics) -> Array:
    """All equal at collapse."""
    return s.norms[MEANS]


@measure_of("‖w_c‖", needs=("classifier",), dims=("class",), default=False)
def classifier_norm_by_class(s: Statistics) -> Array:
    """All equal at collapse."""
    return s.norms[CLASSIFIER]


@measure_of("min_c ‖M_c‖ / mean_c ‖M_c‖", default=False)
def feature_norm_min(s: Statistics) -> Array:
    """1 at collapse, where all centred class means have one length."""
    return s.xp.min(s.norms[MEANS]) / s.xp.mean(s.norms[MEANS])


@measure_of("max_c ‖M_c‖ / mean_c ‖M_c‖", default=False)
def feature_norm_max(s: Statistics) -> Array:
    """1 at collapse, where all centred class means have one length."""
    return s.xp.max(s.norms[MEANS]) / s.xp.mean(s.norms[MEANS])


@measure_of("min_c ‖w_c‖ / mean_c ‖w_c‖", needs=("classifier",), default=False)
def classifier_norm_min(s: Statistics) -> Array:
    """1 where all classifiers have one length."""
    return s.xp.min(s.norms[CLASSIFIER]) / s.xp.mean(s.norms[CLASSIFIER])


@measure_of("max_c ‖w_c‖ / mean_c ‖w_c‖", needs=("classifier",), default=False)
def classifier_norm_max(s: Statistics) -> Array:
    """1 where all classifiers have one length."""
    return s.xp.max(s.norms[CLASSIFIER]) / s.xp.mean(s.norms[CLASSIFIER])


def _log_norm_moments(s: Statistics) -> tuple[Array, Array]:
    """Mean and standard deviation of log ‖M_c‖ over the classes."""
    logs = s.xp.log(s.norms[MEANS])
    average = s.xp.mean(logs)
    return average, s.xp.sqrt(s.xp.mean((logs - average) ** 2))


@measure_of("std_c log ‖M_c‖, std over K (numerator of wu_equinorm)", default=False)
def log_norm_std(s: Statistics) -> Array:
    """0 at collapse; independent of the scale of the features."""
    return _log_norm_moments(s)[1]


@measure_of("std_c log ‖M_c‖ / mean_c log ‖M_c‖, std over K (Wu, Papyan 2024)", default=False)
def wu_equinorm(s: Statistics) -> Array:
    """0 at collapse; depends on the scale of the features, and is ∞ where mean_c log ‖M_c‖ = 0.

    At collapse with norms of 1 it is 0/0, NaN. `log_norm_std` has no such exception.
    """
    average, deviation = _log_norm_moments(s)
    return deviation / average
