"""Variability within classes: trace ratios, NC1 of Zhu's code and of each class, VCI, CDNV, Fisher.

Σ_W = (1/N) Σ_i (h_i − μ_{y_i})(h_i − μ_{y_i})ᵀ weights samples and Σ_B = MᵀM/K weights classes,
with rows M_c = μ_c − μ_G around the mean μ_G of the class means. Where a formula has the mean μ_S
of all samples, its equation says so; both means are equal for classes of one size.
"""

from ..checks import check_number
from .classical import cdnv_terms
from .registry import Measure, measure_of
from .statistics import MEANS, Array, Statistics


def _within(s: Statistics) -> Array:
    """tr Σ_W."""
    return s.xp.sum(s.scatter) / s.count


def _between(s: Statistics) -> Array:
    """tr Σ_B."""
    return s.xp.sum(s.centered**2) / s.num_classes


def _between_samples(s: Statistics) -> Array:
    """Σ_c n_c ‖μ_c − μ_S‖², which with the scatter gives Σ_i ‖h_i − μ_S‖²."""
    return s.xp.sum(s.counts * s.xp.sum(s.centered_by_samples**2, axis=1))


@measure_of("tr Σ_W / tr Σ_B, Σ_B around μ_G (Tirer, Huang, Niles-Weed 2023)")
def tirer_nc1(s: Statistics) -> Array:
    """0 where the features of every class coincide, ∞ where the class means do."""
    return _within(s) / _between(s)


@measure_of("Σ_i ‖h_i − μ_{y_i}‖² / Σ_i ‖h_i − μ_S‖², μ_S the mean of all samples")
def within_share(s: Statistics) -> Array:
    """0 where the features of every class coincide, 1 where the class means do."""
    scatter = s.xp.sum(s.scatter)
    return scatter / (scatter + _between_samples(s))


@measure_of("Σ_c n_c ‖μ_c − μ_S‖² / Σ_i ‖h_i − μ_S‖², μ_S the mean of all samples", default=False)
def between_share(s: Statistics) -> Array:
    """1 where the features of every class coincide, 0 where the class means do."""
    between = _between_samples(s)
    return between / (s.xp.sum(s.scatter) + between)


@measure_of(
    "tr(Σ_W^c Σ_B⁺), Σ_W^c = mean_{y_i=c} (h_i − μ_c)(h_i − μ_c)ᵀ, Σ_B around μ_G "
    "(terms of papyan_nc1, which is their mean with weights n_c/N)",
    needs=("whitened",), dims=("class",), default=False,
)  # fmt: skip
def papyan_nc1_by_class(s: Statistics) -> Array:
    """0 for a class whose features coincide."""
    return s.sums["whitened"] / s.counts


@measure_of(
    "tr(Σ_W Σ_B⁺)/K, Σ_B = (1/K) Σ_c (μ_c − μ_S)(μ_c − μ_S)ᵀ, μ_S the mean of all samples "
    "(Zhu, code)",
    needs=("whitened_by_samples",), default=False,
)  # fmt: skip
def zhu_nc1_sample_mean(s: Statistics) -> Array:
    """0 where the features of every class coincide; at most zhu_nc1."""
    return s.total("whitened_by_samples") / (s.count * s.num_classes)


@measure_of("v_c = mean_{y_i=c} ‖h_i − μ_c‖²", dims=("class",), default=False)
def within_class_variance_by_class(s: Statistics) -> Array:
    """0 for a class whose features coincide."""
    return s.variances


@measure_of("mean_{y_i=c} ‖h_i − μ_c‖² / ‖μ_c − μ_G‖²", dims=("class",), default=False)
def relative_variance_by_class(s: Statistics) -> Array:
    """0 for a class whose features coincide, ∞ for one whose mean is μ_G."""
    return s.variances / s.norms[MEANS] ** 2


def cdnv_power(exponent: float) -> Measure:
    """CDNV with a power q of the squared distances of class means, as the measure `cdnv_power_q`.

    mean_{c≠c'} (v_c + v_c')/(2 ‖μ_c − μ_c'‖^{2q}), v_c = mean_{y_i=c} ‖h_i − μ_c‖². q = 1 is
    `cdnv` (Galanti, György, Hutter 2022), q = 2 `wu_cdnv` (Wu, Papyan 2024). For q ≠ 1 the value
    depends on the scale of the features.

    Args: `exponent` is q, above 0.

    Raises: ValueError for an exponent that is not a finite number above 0.

    Example: two classes with variance 1 each, at distance 2.

        >>> features, labels = np.array([[-1.0], [1.0], [1.0], [3.0]]), np.array([0, 0, 1, 1])
        >>> dict(nc.metrics.measure(features, labels, names=[nc.metrics.cdnv_power(3)]))
        {'cdnv_power_3': 0.015625}
    """
    check_number("exponent", exponent, above_zero=True, scalar=True)
    exponent = float(exponent)
    return Measure(
        f"cdnv_power_{exponent:g}",
        f"mean_{{c≠c'}} (v_c + v_c')/(2‖μ_c − μ_c'‖^(2·{exponent:g}))",
        lambda s: s.mean_over_pairs(cdnv_terms(s, exponent)),
        default=False,
    )


@measure_of(
    "mean_{c≠c'} (v_c + v_c')/(2‖μ_c − μ_c'‖⁴), v_c = mean_{y_i=c} ‖h_i − μ_c‖² "
    "(Wu, Papyan 2024)",
    default=False,
)  # fmt: skip
def wu_cdnv(s: Statistics) -> Array:
    """0 where the features of every class coincide; depends on the scale of the features."""
    return s.mean_over_pairs(cdnv_terms(s, 2))


@measure_of("tr Σ_B / tr Σ_W, Σ_B around μ_G (ratio of Fisher by traces)", default=False)
def fisher_ratio(s: Statistics) -> Array:
    """∞ where the features of every class coincide, 0 where the class means do."""
    return _between(s) / _within(s)


@measure_of(
    "1 − tr((Σ_W + Σ_B)⁺ Σ_B)/rank Σ_B, Σ_B around μ_G (Xu, Liu 2023)",
    needs=("covariance",), default=False,
)  # fmt: skip
def xu_vci(s: Statistics) -> Array:
    """0 where the features of every class coincide, near 1 where they vary more than the means.

    With G and Λ of `Statistics.within_given_rest` it is tr(G (G + Λ)^{-1})/r. No number is
    subtracted from 1, so that small values are accurate.
    """
    xp = s.xp
    _, within, between = s.within_given_rest
    present = between > 0
    # Rows and columns scaled to a unit diagonal, so that directions of very different variance do
    # not lose digits to each other.
    total = xp.linalg.diagonal(within) + between
    scale = xp.where(present, 1 / xp.sqrt(xp.where(present, total, 1.0)), 0.0)
    scaled = scale[:, None] * within * scale[None]
    diagonal = xp.where(present, between * scale**2, 1.0)
    identity = xp.eye(len(between), dtype=scaled.dtype)
    shares = xp.linalg.solve(scaled + diagonal[:, None] * identity, scaled)
    return xp.maximum(xp.trace(shares), 0.0) / xp.sum(present.astype(scaled.dtype))


def _discriminant(s: Statistics) -> tuple[Array, Array]:
    """Matrix with the eigenvalues of Σ_W^{-1} Σ_B, and whether all of them are finite."""
    xp = s.xp
    variances, within, between = s.within_given_rest
    present, diagonal = between > 0, xp.linalg.diagonal(within)
    rounding = s.dim * float(xp.finfo(within.dtype).eps)
    known = xp.where(present, diagonal > rounding * variances, True)
    usable = present & known
    scale = xp.where(usable, 1 / xp.sqrt(xp.where(usable, diagonal, 1.0)), 0.0)
    identity = xp.eye(len(between), dtype=within.dtype)
    scaled = scale[:, None] * within * scale[None]
    scaled = scaled + xp.where(usable, 0.0, 1.0)[:, None] * identity
    values, axes = xp.linalg.eigh(scaled)
    known = known & (values > rounding)
    inverse_roots = 1 / xp.sqrt(xp.where(values > rounding, values, 1.0))
    roots = xp.sqrt(between) * scale
    halves = inverse_roots[:, None] * (axes.T * roots[None])
    return halves.T @ halves, xp.all(known)


@measure_of(
    "λ_max(Σ_W^{-1} Σ_B) = max_x xᵀΣ_B x / xᵀΣ_W x, Σ_B around μ_G (Fisher 1936)",
    needs=("covariance",), default=False,
)  # fmt: skip
def fisher_ratio_max(s: Statistics) -> Array:
    """∞ where the class means differ in a direction in which the features of no class vary."""
    matrix, finite = _discriminant(s)
    return s.xp.where(finite, s.xp.linalg.eigvalsh(matrix)[-1], s.xp.inf)


@measure_of(
    "tr(Σ_W^{-1} Σ_B), Σ_B around μ_G (for classes of one size the trace of Lawley and Hotelling)",
    needs=("covariance",), default=False,
)  # fmt: skip
def fisher_discriminant(s: Statistics) -> Array:
    """∞ where the class means differ in a direction in which the features of no class vary."""
    matrix, finite = _discriminant(s)
    return s.xp.where(finite, s.xp.trace(matrix), s.xp.inf)
