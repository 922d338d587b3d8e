"""Cosines, angles and coherence of class means and of classifiers, and statistics over pairs.

Class means are centred by the mean μ_G of the class means, M_c = μ_c − μ_G, so that no formula here
depends on class sizes; w̃_c = w_c − mean_c w_c. At collapse all cosines are −1/(K−1).
"""

import math

from .pairs import max_over_pairs, min_over_pairs, variance_over_pairs
from .registry import measure_of
from .statistics import CENTERED, CLASSIFIER, MEANS, Array, Statistics


@measure_of("std_{c≠c'} cos(M_c, M_c'), std over pairs (Papyan, Han, Donoho 2020)", default=False)
def papyan_feature_cosine_std(s: Statistics) -> Array:
    """0 where the centred class means are equiangular, as at collapse."""
    return s.xp.sqrt(variance_over_pairs(s, s.cosines[MEANS]))


@measure_of(
    "std_{c≠c'} cos(w_c, w_c'), std over pairs (Papyan, Han, Donoho 2020)",
    needs=("classifier",), default=False,
)  # fmt: skip
def papyan_classifier_cosine_std(s: Statistics) -> Array:
    """0 where the classifiers are equiangular, as at collapse."""
    return s.xp.sqrt(variance_over_pairs(s, s.cosines[CLASSIFIER]))


@measure_of("cos(M_c, M_c')", dims=("class", "other_class"), default=False)
def feature_cosine_by_pair(s: Statistics) -> Array:
    """−1/(K−1) for all c ≠ c' at collapse."""
    return s.cosines[MEANS]


@measure_of(
    "cos(w_c, w_c')", needs=("classifier",), dims=("class", "other_class"), default=False
)  # fmt: skip
def classifier_cosine_by_pair(s: Statistics) -> Array:
    """−1/(K−1) for all c ≠ c' at collapse."""
    return s.cosines[CLASSIFIER]


@measure_of("min_{c≠c'} cos(M_c, M_c')")
def feature_cosine_min(s: Statistics) -> Array:
    """−1/(K−1) at collapse, and at most this for any class means."""
    return min_over_pairs(s, s.cosines[MEANS])


@measure_of("max_{c≠c'} cos(M_c, M_c')")
def feature_cosine_max(s: Statistics) -> Array:
    """−1/(K−1) at collapse, and at least this for any class means."""
    return max_over_pairs(s, s.cosines[MEANS])


@measure_of("min_{c≠c'} cos(w_c, w_c')", needs=("classifier",), default=False)
def classifier_cosine_min(s: Statistics) -> Array:
    """−1/(K−1) at collapse."""
    return min_over_pairs(s, s.cosines[CLASSIFIER])


@measure_of("max_{c≠c'} cos(w_c, w_c')", needs=("classifier",), default=False)
def classifier_cosine_max(s: Statistics) -> Array:
    """−1/(K−1) at collapse, and at least this for any classifiers."""
    return max_over_pairs(s, s.cosines[CLASSIFIER])


@measure_of("max_{c≠c'} |cos(M_c, M_c')| (mutual coherence)", default=False)
def feature_coherence(s: Statistics) -> Array:
    """1/(K−1) at collapse."""
    return max_over_pairs(s, s.xp.abs(s.cosines[MEANS]))


@measure_of("max_{c≠c'} |cos(w_c, w_c')| (mutual coherence)", needs=("classifier",), default=False)
def classifier_coherence(s: Statistics) -> Array:
    """1/(K−1) at collapse."""
    return max_over_pairs(s, s.xp.abs(s.cosines[CLASSIFIER]))


def _welch_bound(s: Statistics) -> float:
    """Smallest coherence of K unit vectors in r = min(d, K−1) dimensions (Welch 1974)."""
    rank = min(s.dim, s.num_classes - 1)
    return math.sqrt((s.num_classes - rank) / (rank * (s.num_classes - 1)))


@measure_of(
    "max_{c≠c'} |cos(M_c, M_c')| − √((K−r)/(r(K−1))), r = min(d, K−1) (Welch 1974)", default=False
)
def feature_welch_gap(s: Statistics) -> Array:
    """0 for an equiangular tight frame, such as a simplex ETF; positive for all others."""
    return feature_coherence(s) - _welch_bound(s)


@measure_of(
    "max_{c≠c'} |cos(w̃_c, w̃_c')| − √((K−r)/(r(K−1))), r = min(d, K−1) (Welch 1974)",
    needs=("classifier",), default=False,
)  # fmt: skip
def classifier_welch_gap(s: Statistics) -> Array:
    """0 for an equiangular tight frame of centred classifiers; positive for all others."""
    return max_over_pairs(s, s.xp.abs(s.cosines[CENTERED])) - _welch_bound(s)


@measure_of("min_{c≠c'} of the angle between M_c and M_c', in radians", default=False)
def feature_angle_min(s: Statistics) -> Array:
    """arccos(−1/(K−1)) at collapse, which is the largest possible."""
    return min_over_pairs(s, s.feature_angles)


@measure_of("max_{c≠c'} of the angle between M_c and M_c', in radians", default=False)
def feature_angle_max(s: Statistics) -> Array:
    """arccos(−1/(K−1)) at collapse."""
    return max_over_pairs(s, s.feature_angles)


@measure_of("std_{c≠c'} of the angle between M_c and M_c', in radians", default=False)
def feature_angle_std(s: Statistics) -> Array:
    """0 where the centred class means are equiangular, as at collapse."""
    return s.xp.sqrt(variance_over_pairs(s, s.feature_angles))


@measure_of(
    "min_{c≠c'} of the angle between w_c and w_c', in radians", needs=("classifier",), default=False
)
def classifier_angle_min(s: Statistics) -> Array:
    """arccos(−1/(K−1)) at collapse, which is the largest possible."""
    return min_over_pairs(s, s.classifier_angles)


@measure_of(
    "max_{c≠c'} of the angle between w_c and w_c', in radians", needs=("classifier",), default=False
)
def classifier_angle_max(s: Statistics) -> Array:
    """arccos(−1/(K−1)) at collapse."""
    return max_over_pairs(s, s.classifier_angles)


@measure_of(
    "std_{c≠c'} of the angle between w_c and w_c', in radians", needs=("classifier",), default=False
)
def classifier_angle_std(s: Statistics) -> Array:
    """0 where the classifiers are equiangular, as at collapse."""
    return s.xp.sqrt(variance_over_pairs(s, s.classifier_angles))
