"""Principal angles between the spans of centred class means and centred classifiers."""

import math

from .registry import measure_of
from .statistics import Array, Statistics


def _basis(s: Statistics, rows: Array) -> tuple[Array, Array]:
    """Orthonormal rows that span those of a matrix, 0 beyond its rank, and the rank."""
    _, singular, right = s.xp.linalg.svd(rows, full_matrices=False)
    in_span = s.above_rounding(singular, rows)
    return s.xp.where(in_span[:, None], right, 0.0), s.xp.sum(s.xp.where(in_span, 1, 0))


def _sines(s: Statistics, smaller: Array, rank: Array, larger: Array) -> Array:
    """Sines of the angles of one span to another of at least its dimension, smallest first."""
    outside = smaller - (smaller @ larger.T) @ larger
    # Once more: the first projection leaves rounding errors along the larger span.
    outside = outside - (outside @ larger.T) @ larger
    found = s.xp.linalg.svd(outside, full_matrices=False, compute_uv=False)
    # Rows beyond the rank have singular values 0, which are no angles: they are sorted to the end.
    return s.xp.sort(s.xp.where(s.xp.arange(len(found)) < rank, found, 2.0))


def _principal_angles(s: Statistics) -> tuple[Array, Array]:
    """Angles, smallest first, and whether each exists: the smaller rank is their number.

    Angles below π/4 are computed from sines, and others from cosines: arccos loses half of the
    digits at 0 (Knyazev, Argentati 2002).
    """
    means, rank = _basis(s, s.contrasts)
    classifiers, other_rank = _basis(s, s.classifier_contrasts)
    found = s.xp.linalg.svd(means @ classifiers.T, full_matrices=False, compute_uv=False)
    cosines = s.xp.clip(found, 0.0, 1.0)
    sines = s.xp.where(
        rank <= other_rank,
        _sines(s, means, rank, classifiers),
        _sines(s, classifiers, other_rank, means),
    )
    number = s.xp.where(rank <= other_rank, rank, other_rank)
    small = s.xp.arcsin(s.xp.clip(sines, 0.0, 1.0))
    angles = s.xp.where(cosines > math.sqrt(0.5), small, s.xp.arccos(cosines))
    return angles, s.xp.arange(len(cosines)) < number


@measure_of(
    "mean principal angle between the spans of M_c and w̃_c, in radians (Björck, Golub 1973)",
    needs=("classifier",), default=False,
)  # fmt: skip
def bjorck_principal_angle_mean(s: Statistics) -> Array:
    """0 where centred class means and classifiers span the same space, π/2 where orthogonal."""
    angles, exist = s.once(_principal_angles)
    return s.xp.sum(s.xp.where(exist, angles, 0.0)) / s.xp.sum(
        s.xp.asarray(exist, dtype=angles.dtype)
    )


@measure_of(
    "largest principal angle between the spans of M_c and w̃_c, in radians (Björck, Golub 1973)",
    needs=("classifier",), default=False,
)  # fmt: skip
def bjorck_principal_angle_max(s: Statistics) -> Array:
    """0 where centred class means and classifiers span the same space; NaN where one spans none."""
    angles, exist = s.once(_principal_angles)
    largest = s.xp.max(s.xp.where(exist, angles, 0.0), initial=0.0)
    return s.xp.where(s.xp.any(exist), largest, math.nan)


@measure_of(
    "mean cosine of the principal angles between the spans of M_c and w̃_c (Rangamani et al. 2023)",
    needs=("classifier",),
    default=False,
)
def rangamani_principal_cosine(s: Statistics) -> Array:
    """1 where centred class means and classifiers span the same space."""
    angles, exist = s.once(_principal_angles)
    cosines = s.xp.where(exist, s.xp.cos(angles), 0.0)
    return s.xp.sum(cosines) / s.xp.sum(s.xp.asarray(exist, dtype=angles.dtype))
