"""Kernel energies over pairs of directions: generalised collapse to a uniform arrangement (GNC2).

u_c = M_c/‖M_c‖ are the directions of the class means centred by the mean μ_G of the class means,
δ_cc' = ‖u_c − u_c'‖, and means and variances are over the pairs c ≠ c'. No formula here depends on
class sizes. A simplex ETF has δ² = 2K/(K−1) for all pairs, and for K ≤ d+1 the least energy.

The Riesz kernel δ^{−s} with s = d − 2 underflows in float32 for d = 512 and δ > 1.2, and in float64
for d = 4096 and δ > 1.2. Every arrangement then has energy 0 and variance 0, as if it were uniform.
Here the logarithm of the energy is computed from s log δ, relative to its largest term.
"""

import math

from ..checks import check_number
from ..errors import ArgumentError
from .pairs import min_over_pairs, off_diagonal, variance_over_pairs
from .registry import Measure, measure_of
from .statistics import Array, Statistics


def _distances(s: Statistics) -> Array:
    """δ_cc', (K, K)."""
    return s.xp.sqrt(s.feature_chords)


def _log_inverse(s: Statistics, chords: Array) -> Array:
    """log(1/δ_cc'), (K, K), with 0 on the diagonal."""
    return -s.xp.log(off_diagonal(s, chords, 1.0)) / 2


@measure_of("mean_{c≠c'} δ_cc' = ‖M_c/‖M_c‖ − M_c'/‖M_c'‖‖", default=False)
def feature_distance_mean(s: Statistics) -> Array:
    """√(2K/(K−1)) for a simplex ETF, the largest possible."""
    return s.mean_over_pairs(_distances(s))


@measure_of("var_{c≠c'} δ_cc' = ‖M_c/‖M_c‖ − M_c'/‖M_c'‖‖", default=False)
def feature_distance_variance(s: Statistics) -> Array:
    """0 where all pairs of centred class means have one angle."""
    return variance_over_pairs(s, _distances(s))


@measure_of(
    "min_{c≠c'} δ_cc' = ‖M_c/‖M_c‖ − M_c'/‖M_c'‖‖ (distance of Tammes)", default=False
)  # fmt: skip
def feature_distance_min(s: Statistics) -> Array:
    """√(2K/(K−1)) for a simplex ETF, the largest possible."""
    return s.xp.sqrt(min_over_pairs(s, s.feature_chords))


@measure_of(
    "min_{c≠c'} ‖w_c/‖w_c‖ − w_c'/‖w_c'‖‖ (distance of Tammes)",
    needs=("classifier",), default=False,
)  # fmt: skip
def classifier_distance_min(s: Statistics) -> Array:
    """√(2K/(K−1)) for a simplex ETF, the largest possible."""
    return s.xp.sqrt(min_over_pairs(s, s.classifier_chords))


@measure_of("‖μ_c − μ_c'‖", dims=("class", "other_class"), default=False)
def feature_distance_by_pair(s: Statistics) -> Array:
    """All equal for c ≠ c' at collapse; of the class means themselves, not of directions."""
    return s.xp.sqrt(s.squared_distances)


@measure_of("mean_{c≠c'} log(1/δ_cc'), δ of M_c/‖M_c‖ (Liu et al. 2023)")
def liu_log_energy(s: Statistics) -> Array:
    """−log(2K/(K−1))/2 for a simplex ETF, the least possible; ∞ where two directions coincide."""
    return s.mean_over_pairs(_log_inverse(s, s.feature_chords))


@measure_of(
    "var_{c≠c'} log(1/δ_cc'), δ of M_c/‖M_c‖ (kernel of Liu et al. 2023)", default=False
)  # fmt: skip
def liu_log_variance(s: Statistics) -> Array:
    """0 where all pairs of centred class means have one angle."""
    return variance_over_pairs(s, _log_inverse(s, s.feature_chords))


@measure_of(
    "mean_{c≠c'} log(1/‖w_c/‖w_c‖ − w_c'/‖w_c'‖‖) (Liu et al. 2023)",
    needs=("classifier",), default=False,
)  # fmt: skip
def liu_classifier_log_energy(s: Statistics) -> Array:
    """−log(2K/(K−1))/2 for a simplex ETF, the least possible; ∞ where two directions coincide."""
    return s.mean_over_pairs(_log_inverse(s, s.classifier_chords))


def _relative_kernel(s: Statistics, power: float) -> tuple[Array, Array]:
    """δ^{−s} of each pair over its largest value, (K, K), and the logarithm of that value."""
    xp = s.xp
    # For c = c' the kernel is 0: relative to a small largest value 1 would overflow, and make
    # gradients NaN.
    logs = off_diagonal(s, power * _log_inverse(s, s.feature_chords), -math.inf)
    largest = xp.max(logs)
    # ∞ for directions that coincide: the values relative to it would be NaN.
    finite = xp.where(xp.isfinite(largest), largest, 0.0)
    return xp.exp(logs - finite), finite


def _log_energy(s: Statistics, power: float) -> Array:
    relative, largest = _relative_kernel(s, power)
    return largest + s.xp.log(s.mean_over_pairs(relative))


def _variation(s: Statistics, power: float) -> Array:
    relative, _ = _relative_kernel(s, power)
    return s.xp.sqrt(variance_over_pairs(s, relative)) / s.mean_over_pairs(relative)


@measure_of(
    "log mean_{c≠c'} δ_cc'^{−s}, s = d − 2, δ of M_c/‖M_c‖ (Liu et al. 2023; s of Wu, code)",
    default=False,
)
def wu_riesz_log_energy(s: Statistics) -> Array:
    """−(s/2) log(2K/(K−1)) for a simplex ETF, the least possible for s > 0; always 0 for d = 2."""
    return _log_energy(s, float(s.dim - 2))


@measure_of(
    "std_{c≠c'} k / mean_{c≠c'} k, k = δ_cc'^{−s}, s = d − 2, δ of M_c/‖M_c‖ (k of Wu, code)",
    default=False,
)
def wu_riesz_variation(s: Statistics) -> Array:
    """0 where all pairs of centred class means have one angle; always 0 for d = 2, where s = 0."""
    return _variation(s, float(s.dim - 2))


def riesz_log_energy(s: float) -> Measure:
    """Logarithm of the mean Riesz kernel between directions of class means, as a measure.

    log mean_{c≠c'} δ_cc'^{−s}, δ_cc' = ‖M_c/‖M_c‖ − M_c'/‖M_c'‖‖ (Liu et al. 2023). The energy of
    the paper is its exponential, with the sign of s. It is computed without the powers, which
    underflow for the s = d − 2 of other packages.

    Args: `s` is the exponent, any finite number but 0. In place of s = 0 there is `liu_log_energy`.

    Raises: ValueError for an s that is 0 or not a finite number.

    Example: two classes are at distance δ = 2 whatever their means are.

        >>> features, labels = np.array([[-1.0], [1.0], [1.0], [3.0]]), np.array([0, 0, 1, 1])
        >>> dict(nc.metrics.measure(features, labels, names=[nc.metrics.riesz_log_energy(1)]))
        {'riesz_log_energy_1': -0.693147...}
    """
    power = _exponent(s)
    return Measure(
        f"riesz_log_energy_{power:g}",
        f"log mean_{{c≠c'}} δ_cc'^(−s), s = {power:g}, δ of M_c/‖M_c‖ (Liu et al. 2023)",
        lambda statistics: _log_energy(statistics, power),
        default=False,
    )


def riesz_distance(s: float) -> Measure:
    """Distance of equal Riesz energy between directions of class means, as a measure.

    (mean_{c≠c'} δ_cc'^{−s})^{−1/s}: the distance at which all pairs would have the energy of
    `riesz_log_energy`. It lies between the least and the largest δ for every s, tends to the
    geometric mean for s → 0, and to the least δ for s → ∞.

    Args: `s` is the exponent, any finite number but 0.

    Raises: ValueError for an s that is 0 or not a finite number.

    Example: two classes are at distance δ = 2 whatever their means are.

        >>> features, labels = np.array([[-1.0], [1.0], [1.0], [3.0]]), np.array([0, 0, 1, 1])
        >>> dict(nc.metrics.measure(features, labels, names=[nc.metrics.riesz_distance(510)]))
        {'riesz_distance_510': 2.0}
    """
    power = _exponent(s)
    return Measure(
        f"riesz_distance_{power:g}",
        f"(mean_{{c≠c'}} δ_cc'^(−s))^(−1/s), s = {power:g}, δ of M_c/‖M_c‖",
        lambda statistics: statistics.xp.exp(_log_energy(statistics, power) / -power),
        default=False,
    )


def riesz_variation(s: float) -> Measure:
    """Standard deviation over mean of the Riesz kernel between directions of class means.

    std_{c≠c'} k / mean_{c≠c'} k of k = δ_cc'^{−s}; 0 where all pairs have one angle, as for a
    simplex ETF. The variance itself underflows for large s.

    Args: `s` is the exponent, any finite number but 0.

    Raises: ValueError for an s that is 0 or not a finite number.

    Example: two classes are one pair.

        >>> features, labels = np.array([[-1.0], [1.0], [1.0], [3.0]]), np.array([0, 0, 1, 1])
        >>> dict(nc.metrics.measure(features, labels, names=[nc.metrics.riesz_variation(1)]))
        {'riesz_variation_1': 0.0}
    """
    power = _exponent(s)
    return Measure(
        f"riesz_variation_{power:g}",
        f"std_{{c≠c'}} k / mean_{{c≠c'}} k, k = δ_cc'^(−s), s = {power:g}, δ of M_c/‖M_c‖",
        lambda statistics: _variation(statistics, power),
        default=False,
    )


def _exponent(s: float) -> float:
    check_number("s", s, signed=True, scalar=True)
    if s == 0:
        raise ArgumentError("s = 0: give a number other than 0, or use liu_log_energy.", "s")
    return float(s)
