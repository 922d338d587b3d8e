"""Dimensions of features, class means and classifiers, from singular values σ_1 ≥ σ_2 ≥ ...

Collapsed class means span K−1 dimensions, and so do collapsed features around their mean. Where the
equation says "centred", the mean of the rows is subtracted before: μ_S of all samples for features,
and μ_G for class means. Classifiers are never centred. The singular values of features weight each
class by its size, those of class means do not.

Singular values of features come from the covariance within classes. Deviations from class means
therefore count in the directions in which they are above √(d eps) of the largest, 3e-7 for d = 512.
"""

from .registry import measure_of
from .statistics import CLASSIFIER, MEANS, Array, Statistics

# Garrido's constant, by which the logarithm of a share of 0 is finite.
_FLOOR = 1e-7


def _singular_values(s: Statistics, matrix: Array) -> Array:
    return s.xp.linalg.svd(matrix, full_matrices=False, compute_uv=False)


def _of_features(s: Statistics) -> Array:
    return _singular_values(s, s.total_root)


def _of_uncentered_features(s: Statistics) -> Array:
    return _singular_values(s, s.uncentered_root)


def _of_class_means(s: Statistics) -> Array:
    return _singular_values(s, s.contrasts)


def _of_classifier(s: Statistics) -> Array:
    return _singular_values(s, s.classifier)


def _entropy(s: Statistics, shares: Array) -> Array:
    """−Σ p log p, with 0 log 0 = 0."""
    positive = shares > 0
    logs = s.xp.log(s.xp.where(positive, shares, 1.0))
    # A share of 0/0 stays NaN in the product.
    return -s.xp.sum(shares * logs)


def _effective_rank(s: Statistics, singular: Array) -> Array:
    return s.xp.exp(_entropy(s, singular / s.xp.sum(singular)))


def _stable_rank(s: Statistics, singular: Array) -> Array:
    return s.xp.sum((singular / s.xp.max(singular, initial=0.0)) ** 2)


def _participation_ratio(s: Statistics, gram: Array) -> Array:
    """(tr G)²/tr(G²) of a Gram matrix, which has the squared singular values as eigenvalues."""
    scaled = gram / s.xp.linalg.trace(gram)
    return 1 / s.xp.sum(scaled**2)


def _numerical_rank(s: Statistics, singular: Array, size: Array | int) -> Array:
    eps = float(s.xp.finfo(singular.dtype).eps)
    floor = size * eps * s.xp.max(singular, initial=0.0)
    return s.xp.sum(s.xp.asarray(singular > floor, dtype=singular.dtype))


def _largest_size(s: Statistics) -> Array:
    """max(N, d), the longer side of the matrix of features."""
    return s.xp.where(s.count > s.dim, s.count, float(s.dim))


@measure_of(
    "exp(−Σ p log p), p = σ/Σσ of centred features (Roy, Vetterli 2007)",
    needs=("covariance",), default=False,
)  # fmt: skip
def roy_effective_rank_features(s: Statistics) -> Array:
    """K−1 where features are class means that form a simplex, of classes of one size."""
    return _effective_rank(s, s.once(_of_features))


@measure_of("exp(−Σ p log p), p = σ/Σσ of centred class means (Roy, Vetterli 2007)", default=False)
def roy_effective_rank_class_means(s: Statistics) -> Array:
    """K−1 for a simplex."""
    return _effective_rank(s, s.once(_of_class_means))


@measure_of(
    "exp(−Σ p log p), p = σ/Σσ of W (Roy, Vetterli 2007)", needs=("classifier",), default=False
)
def roy_effective_rank_classifier(s: Statistics) -> Array:
    """K−1 for a simplex with mean 0."""
    return _effective_rank(s, s.once(_of_classifier))


@measure_of(
    "exp(−Σ p log p), p_j = σ_j/Σσ + 1e-7, j ≤ min(N, d), of features that are not centred "
    "(Garrido, Balestriero, Najman, LeCun 2023, RankMe)",
    needs=("covariance",),
    default=False,
)
def garrido_rankme(s: Statistics) -> Array:
    """Up to K for collapsed features, and a little above by the 1e-7.

    K−1 where they are a simplex of mean 0, of classes of one size.
    """
    singular = s.once(_of_uncentered_features)
    exist = s.xp.arange(s.dim, dtype=singular.dtype) < s.count
    shares = s.xp.where(exist, singular / s.xp.sum(singular) + _FLOOR, 0.0)
    return s.xp.exp(_entropy(s, shares))


@measure_of(
    "‖H‖_F²/‖H‖₂² of centred features (Rudelson, Vershynin 2007)",
    needs=("covariance",), default=False,
)  # fmt: skip
def rudelson_stable_rank_features(s: Statistics) -> Array:
    """K−1 where features are class means that form a simplex, of classes of one size."""
    return _stable_rank(s, s.once(_of_features))


@measure_of("‖M‖_F²/‖M‖₂² of centred class means (Rudelson, Vershynin 2007)", default=False)
def rudelson_stable_rank_class_means(s: Statistics) -> Array:
    """K−1 for a simplex."""
    return _stable_rank(s, s.once(_of_class_means))


@measure_of("‖W‖_F²/‖W‖₂² (Rudelson, Vershynin 2007)", needs=("classifier",), default=False)
def rudelson_stable_rank_classifier(s: Statistics) -> Array:
    """K−1 for a simplex with mean 0."""
    return _stable_rank(s, s.once(_of_classifier))


@measure_of(
    "(tr C)²/tr(C²), C = covariance of all features (Gao et al. 2017)",
    needs=("covariance",), default=False,
)  # fmt: skip
def gao_participation_ratio_features(s: Statistics) -> Array:
    """K−1 where features are class means that form a simplex, of classes of one size."""
    rows = s.xp.sqrt(s.counts)[:, None] * s.centered_by_samples
    return _participation_ratio(s, s.sums["covariance"] + rows.T @ rows)


@measure_of("(Σσ²)²/Σσ⁴ of centred class means (Gao et al. 2017)")
def gao_participation_ratio_class_means(s: Statistics) -> Array:
    """K−1 for a simplex."""
    return _participation_ratio(s, s.grams[MEANS])


@measure_of("(Σσ²)²/Σσ⁴ of W (Gao et al. 2017)", needs=("classifier",))
def gao_participation_ratio_classifier(s: Statistics) -> Array:
    """K−1 for a simplex with mean 0."""
    return _participation_ratio(s, s.grams[CLASSIFIER])


@measure_of(
    "number of σ above max(N, d)·eps·σ_1 of centred features (Golub, Van Loan 2013)",
    needs=("covariance",), default=False,
)  # fmt: skip
def numerical_rank_features(s: Statistics) -> Array:
    """K−1 where the features of every class coincide and class means are affinely independent.

    Directions count from the covariance: deviations within classes below √(d eps) of the largest
    are 0, although their σ may be above max(N, d)·eps·σ_1.
    """
    return _numerical_rank(s, s.once(_of_features), _largest_size(s))


@measure_of(
    "number of σ above max(K, d)·eps·σ_1 of centred class means (Golub, Van Loan 2013)",
    default=False,
)
def numerical_rank_class_means(s: Statistics) -> Array:
    """K−1 for affinely independent class means, as at collapse."""
    return _numerical_rank(s, s.once(_of_class_means), max(s.num_classes, s.dim))


@measure_of(
    "number of σ above max(K, d)·eps·σ_1 of W (Golub, Van Loan 2013)",
    needs=("classifier",), default=False,
)  # fmt: skip
def numerical_rank_classifier(s: Statistics) -> Array:
    """K−1 for a simplex with mean 0."""
    return _numerical_rank(s, s.once(_of_classifier), max(s.num_classes, s.dim))
