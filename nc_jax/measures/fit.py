"""Accuracy, margins and losses of a classifier on its samples, and the parts of the square loss.

z_i = W h_i + b are the logits of sample i; a missing bias counts as 0.
"""

from .registry import measure_of
from .statistics import CLASSIFIER, Array, Statistics

_BY_CLASS = ("class",)


def _mean(s: Statistics, name: str) -> Array:
    """Mean over all samples."""
    return s.total(name) / s.count


def _class_means(s: Statistics, name: str) -> Array:
    """Mean over the samples of each class."""
    return s.sums[name] / s.counts


@measure_of("share of samples with argmax_c z_ic = y_i", needs=("classifier", "correct"))
def accuracy(s: Statistics) -> Array:
    """1 where the largest logit is that of the class, for every sample."""
    return _mean(s, "correct")


@measure_of(
    "share of the samples of each class with argmax_c z_ic = y_i",
    needs=("classifier", "correct"), dims=_BY_CLASS,
)  # fmt: skip
def accuracy_by_class(s: Statistics) -> Array:
    """1 where the largest logit is that of the class."""
    return _class_means(s, "correct")


@measure_of(
    "share of samples with argmin_c ‖h_i − μ_c‖ = y_i (Papyan, Han, Donoho 2020)",
    needs=("center_errors",),
)
def ncc_accuracy(s: Statistics) -> Array:
    """1 where every sample is nearest to the mean of its class."""
    return 1 - _mean(s, "center_errors")


@measure_of(
    "share of the samples of each class with argmin_c ‖h_i − μ_c‖ = y_i (Papyan, Han, Donoho 2020)",
    needs=("center_errors",),
    dims=_BY_CLASS,
)
def ncc_accuracy_by_class(s: Statistics) -> Array:
    """1 where every sample is nearest to the mean of its class."""
    return 1 - _class_means(s, "center_errors")


@measure_of("mean_i (z_{i,y_i} − max_{j≠y_i} z_ij)", needs=("classifier", "margin"))
def margin_mean(s: Statistics) -> Array:
    """Mean margin of the logits."""
    return _mean(s, "margin")


@measure_of(
    "mean over the samples of each class of z_{i,y_i} − max_{j≠y_i} z_ij",
    needs=("classifier", "margin"), dims=_BY_CLASS,
)  # fmt: skip
def margin_mean_by_class(s: Statistics) -> Array:
    """Mean margin of each class."""
    return _class_means(s, "margin")


@measure_of("q_min = min_i (z_{i,y_i} − max_{j≠y_i} z_ij)", needs=("classifier", "margin_min"))
def margin_min(s: Statistics) -> Array:
    """Above 0 where every sample is classified correctly."""
    return s.xp.min(s.sums["margin_min"])


@measure_of(
    "V = (‖W‖_F² + ‖H‖_F²)/(2 q_min), ∞ for q_min <= 0 (Ji, section 3.1, inverse of 2q_min/ρ²)",
    needs=("classifier", "margin_min"), default=False,
)  # fmt: skip
def separation_value(s: Statistics) -> Array:
    """At least min ½‖W‖² + ½‖H‖² with all margins >= 1, (K−1)√n for classes of one size."""
    smallest = margin_min(s)
    squared = s.xp.sum(s.counts * s.xp.sum(s.uncentered**2, axis=1)) + s.xp.sum(s.scatter)
    squared = squared + s.xp.sum(s.norms[CLASSIFIER] ** 2)
    value = squared / (2 * s.xp.where(smallest > 0, smallest, 1.0))
    return s.xp.where(smallest > 0, value, s.xp.inf)


@measure_of(
    "min over the samples of each class of z_{i,y_i} − max_{j≠y_i} z_ij",
    needs=("classifier", "margin_min"), dims=_BY_CLASS,
)  # fmt: skip
def margin_min_by_class(s: Statistics) -> Array:
    """Above 0 where every sample of the class is classified correctly."""
    return s.sums["margin_min"]


@measure_of(
    "mean_i (c_{i,y_i} − max_{j≠y_i} c_ij), c_ij = cos(w_j, h_i)",
    needs=("classifier", "cosine_margin"),
    default=False,
)
def cosine_margin_mean(s: Statistics) -> Array:
    """K/(K−1) at collapse with features and classifiers of mean 0."""
    return _mean(s, "cosine_margin")


@measure_of(
    "mean over the samples of each class of c_{i,y_i} − max_{j≠y_i} c_ij, c_ij = cos(w_j, h_i)",
    needs=("classifier", "cosine_margin"), dims=_BY_CLASS, default=False,
)  # fmt: skip
def cosine_margin_mean_by_class(s: Statistics) -> Array:
    """K/(K−1) at collapse with features and classifiers of mean 0."""
    return _class_means(s, "cosine_margin")


@measure_of(
    "min_i (c_{i,y_i} − max_{j≠y_i} c_ij), c_ij = cos(w_j, h_i)",
    needs=("classifier", "cosine_margin_min"),
    default=False,
)
def cosine_margin_min(s: Statistics) -> Array:
    """K/(K−1) at collapse with features and classifiers of mean 0."""
    return s.xp.min(s.sums["cosine_margin_min"])


@measure_of(
    "min over the samples of each class of c_{i,y_i} − max_{j≠y_i} c_ij, c_ij = cos(w_j, h_i)",
    needs=("classifier", "cosine_margin_min"), dims=_BY_CLASS, default=False,
)  # fmt: skip
def cosine_margin_min_by_class(s: Statistics) -> Array:
    """K/(K−1) at collapse with features and classifiers of mean 0."""
    return s.sums["cosine_margin_min"]


@measure_of(
    "mean_i (c_{i,y_i} − max_{j≠y_i} c_ij), c_ij = cos(w̃_j, h_i − μ_G) (Zhou et al. 2022)",
    needs=("classifier", "centered_cosine_margin"),
    default=False,
)
def zhou_cosine_margin(s: Statistics) -> Array:
    """K/(K−1) at collapse, also for features and classifiers whose mean is not 0."""
    return _mean(s, "centered_cosine_margin")


@measure_of(
    "mean over the samples of each class of c_{i,y_i} − max_{j≠y_i} c_ij, "
    "c_ij = cos(w̃_j, h_i − μ_G) (Zhou et al. 2022)",
    needs=("classifier", "centered_cosine_margin"),
    dims=_BY_CLASS,
    default=False,
)
def zhou_cosine_margin_by_class(s: Statistics) -> Array:
    """K/(K−1) at collapse."""
    return _class_means(s, "centered_cosine_margin")


@measure_of(
    "min_i (c_{i,y_i} − max_{j≠y_i} c_ij), c_ij = cos(w̃_j, h_i − μ_G) (Zhou et al. 2022)",
    needs=("classifier", "centered_cosine_margin_min"),
    default=False,
)
def zhou_cosine_margin_min(s: Statistics) -> Array:
    """K/(K−1) at collapse, also for features and classifiers whose mean is not 0."""
    return s.xp.min(s.sums["centered_cosine_margin_min"])


@measure_of(
    "min over the samples of each class of c_{i,y_i} − max_{j≠y_i} c_ij, "
    "c_ij = cos(w̃_j, h_i − μ_G) (Zhou et al. 2022)",
    needs=("classifier", "centered_cosine_margin_min"),
    dims=_BY_CLASS,
    default=False,
)
def zhou_cosine_margin_min_by_class(s: Statistics) -> Array:
    """K/(K−1) at collapse."""
    return s.sums["centered_cosine_margin_min"]


@measure_of("mean_i −log softmax(z_i)_{y_i}", needs=("classifier", "cross_entropy"))
def cross_entropy(s: Statistics) -> Array:
    """Mean cross-entropy of the logits."""
    return _mean(s, "cross_entropy")


@measure_of(
    "mean of −log softmax(z_i)_{y_i} over the samples of each class",
    needs=("classifier", "cross_entropy"), dims=_BY_CLASS,
)  # fmt: skip
def cross_entropy_by_class(s: Statistics) -> Array:
    """Mean cross-entropy of each class."""
    return _class_means(s, "cross_entropy")


@measure_of("mean_i ‖z_i − e_{y_i}‖²/2", needs=("classifier", "squared_error"))
def squared_error(s: Statistics) -> Array:
    """Mean square loss of the logits; `han_loss_ls` plus `han_loss_perp`."""
    return _mean(s, "squared_error")


@measure_of(
    "mean of ‖z_i − e_{y_i}‖²/2 over the samples of each class",
    needs=("classifier", "squared_error"), dims=_BY_CLASS,
)  # fmt: skip
def squared_error_by_class(s: Statistics) -> Array:
    """Mean square loss of each class."""
    return _class_means(s, "squared_error")


def _centred_targets(s: Statistics) -> Array:
    """Rows √n_c (e_c − p), p_c = n_c/N: the targets of the class means in `total_root`."""
    root, shares = s.xp.sqrt(s.counts), s.counts / s.count
    return root[:, None] * (s.xp.eye(s.num_classes, dtype=root.dtype) - shares[None])


def _fitted(s: Statistics) -> Array:
    """A W_LSᵀ, (d+K, K), with A = `total_root` and the least-squares classifier W_LS.

    W_LS minimises the square loss of the features, together with the bias b_LS = p − W_LS mean h:
    W_LSᵀ = A⁺ (0; T), T the centred targets. The product needs an orthonormal basis of A only, so
    that nothing is divided by singular values that collapse makes small.
    """
    basis, singular, _ = s.xp.linalg.svd(s.total_root, full_matrices=False)
    basis = s.xp.where(s.above_rounding(singular, s.total_root)[None], basis, 0.0)
    return basis @ (basis[s.dim :].T @ _centred_targets(s))


def _within_part(s: Statistics) -> Array:
    return s.xp.sum(s.once(_fitted)[: s.dim] ** 2) / (2 * s.count)


def _between_part(s: Statistics) -> Array:
    return s.xp.sum((s.once(_fitted)[s.dim :] - _centred_targets(s)) ** 2) / (2 * s.count)


@measure_of(
    "½ tr(W_LS Σ_W W_LSᵀ), W_LS the classifier of least squares (Han, Papyan, Donoho 2022)",
    needs=("covariance",), default=False,
)  # fmt: skip
def han_loss_nc1(s: Statistics) -> Array:
    """0 where the features of every class coincide."""
    return _within_part(s)


@measure_of(
    "½ mean_i ‖W_LS μ_{y_i} + b_LS − e_{y_i}‖² (Han, Papyan, Donoho 2022)",
    needs=("covariance",), default=False,
)  # fmt: skip
def han_loss_nc23(s: Statistics) -> Array:
    """0 where the features of every class coincide and class means are affinely independent."""
    return _between_part(s)


@measure_of(
    "min_{W,b} mean_i ‖W h_i + b − e_{y_i}‖²/2, han_loss_nc1 + han_loss_nc23 "
    "(Han, Papyan, Donoho 2022)",
    needs=("covariance",),
    default=False,
)
def han_loss_ls(s: Statistics) -> Array:
    """The square loss of the classifier of least squares on these features."""
    return _within_part(s) + _between_part(s)


@measure_of(
    "L_⊥ = mean_i ‖(W − W_LS) h_i + b − b_LS‖²/2 (Han, Papyan, Donoho 2022)",
    needs=("classifier", "covariance"), default=False,
)  # fmt: skip
def han_loss_perp(s: Statistics) -> Array:
    """0 on the central path, where the classifier is the one of least squares."""
    gap = (s.classifier @ s.total_root.T).T - s.once(_fitted)
    # At the mean of all samples the logits of W_LS, b_LS are p, since b_LS = p − W_LS mean h.
    mean_gap = s.logits_at(s.origin + s.sample_mean) - s.counts / s.count
    return (s.xp.sum(gap**2) / s.count + s.xp.sum(mean_gap**2)) / 2
