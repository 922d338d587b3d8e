"""Geometry of unequal classes: the simplex-encoded labels (SELI), and distances from it.

Let class k have n_k samples, D = diag(n_k), P = I − 11ᵀ/K, and Y be the one-hot labels. Among all
logits with margins >= 1 those of the least nuclear norm are Ẑ = YP (Thrampoulidis et al. 2022).
Their factors of least norm have WWᵀ = (PDP)^½, and class means with MMᵀ = (PDP)^(+½). For classes
of one size both are multiples of P, as for a simplex ETF.
"""

from .registry import measure_of
from .statistics import CLASSIFIER, MEANS, Array, Statistics


def label_factors(counts: Array) -> tuple[Array, Array, Array]:
    """U (K, K−1), σ (K−1,) and V (K, K−1) of D^½P = UσVᵀ, σ descending; PDP = Vσ²Vᵀ.

    Computed from D^½P and not from PDP: rounding would make the eigenvalue 0 of PDP 1e-16, and its
    square root 1e-8. The smallest of the K singular values is 0, with the right singular vector
    1/√K, and is left out.

    Args: `counts` n_k > 0, (K,) floats of NumPy or JAX; the results are arrays of that library.
    """
    xp, num_classes = counts.__array_namespace__(), len(counts)
    projector = xp.eye(num_classes, dtype=counts.dtype) - 1 / num_classes
    left, singular, right = xp.linalg.svd(xp.sqrt(counts)[:, None] * projector)
    return left[:, :-1], singular[:-1], right[:-1].T


def _gram_gap(s: Statistics, gram: Array, power: int) -> Array:
    """‖G/tr G − R/tr R‖_F for R = (PDP)^(power/2), power = ±1."""
    _, singular, right = label_factors(s.counts)
    values = singular**power
    reference = (right * values[None]) @ right.T / values.sum()
    # Class sizes are constants in float64 where features may have float32.
    reference = s.xp.asarray(reference, dtype=gram.dtype)
    return s.xp.linalg.matrix_norm(gram / s.xp.linalg.trace(gram) - reference)


@measure_of(
    "‖WWᵀ/tr(WWᵀ) − (PDP)^½/tr (PDP)^½‖_F, D = diag(n_c), P = I − 11ᵀ/K (geometry of Thrampoulidis "
    "et al. 2022)",
    needs=("classifier",), default=False,
)  # fmt: skip
def seli_classifier_gap(s: Statistics) -> Array:
    """0 at the limit of cross-entropy without decay, a simplex ETF for classes of one size."""
    return _gram_gap(s, s.grams[CLASSIFIER], 1)


@measure_of(
    "‖MMᵀ/tr(MMᵀ) − (PDP)^(+½)/tr (PDP)^(+½)‖_F with rows M_c, D = diag(n_c), P = I − 11ᵀ/K "
    "(geometry of Thrampoulidis et al. 2022)",
    default=False,
)
def seli_mean_gap(s: Statistics) -> Array:
    """0 at the limit of cross-entropy without decay, a simplex ETF for classes of one size."""
    return _gram_gap(s, s.grams[MEANS], -1)


@measure_of(
    "min_q ‖ZP − qYP‖_F/‖ZP‖_F, Z the logits, Y one-hot labels, P = I − 11ᵀ/K (geometry of "
    "Thrampoulidis et al. 2022)",
    needs=("classifier", "covariance"), default=False,
)  # fmt: skip
def seli_logit_gap(s: Statistics) -> Array:
    """0 where the logits of all samples are one positive multiple of centred one-hot labels."""
    xp, rows = s.xp, s.centered_classifier
    # P W h_i splits into the class mean and a deviation. The squares of both are added, so that no
    # small difference of large numbers is formed.
    within = xp.sum((rows @ s.sums["covariance"]) * rows)
    logits = s.uncentered @ rows.T
    if s.bias is not None:
        logits = logits + (s.bias - xp.mean(s.bias))[None]
    projector = xp.eye(s.num_classes, dtype=logits.dtype) - 1 / s.num_classes
    counts = xp.asarray(s.counts, dtype=logits.dtype)[:, None]
    # Least squares: ⟨ZP, YP⟩/‖YP‖².
    size = xp.sum(counts * logits * projector) / xp.sum(counts * projector**2)
    missing = within + xp.sum(counts * (logits - size * projector) ** 2)
    return xp.sqrt(missing / (within + xp.sum(counts * logits**2)))
