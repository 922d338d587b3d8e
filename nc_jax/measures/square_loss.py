"""Least-squares classifiers, and the parts of the square loss with weight decay.

The loss is L = ½ mean_i ‖W h_i + b − e_{y_i}‖² + l/2 (‖W‖² + ‖b‖²) over N samples. Han, Papyan and
Donoho (2022) split it into three parts, of which two depend on the features alone. Their classes
have one size; here the sizes are arbitrary (derived).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Integer, Real

from ..checks import check_integer, check_matrix, check_number, is_traced
from ..labels import check_labels
from ..precision import matmul, widened
from ..state import LastLayer, check_last_layer
from . import fit
from .statistics import Statistics
from .streaming import class_means, class_moments


class SquareLossParts(NamedTuple):
    """The parts of L = L_NC1 + L_NC2/3 + L_⊥ (Han, Papyan, Donoho 2022), scalars.

    Attributes:
        nc1: ½[tr W_LS(Σ_W + l I)W_LSᵀ + l ‖b_LS‖²], with the least-squares classifier W_LS, b_LS.
        nc23: ½ mean_i ‖W_LS μ_{y_i} + b_LS − e_{y_i}‖².
        perp: ½ tr Δ A Δᵀ for Δ = (W − W_LS, b − b_LS), with the mean A of (h, 1)(h, 1)ᵀ, plus l I.

    Example: see `square_loss_parts`.

        >>> nc.metrics.SquareLossParts(*jnp.ones(3)).perp.tolist()
        1.0
    """

    nc1: Float[Array, ""]
    nc23: Float[Array, ""]
    perp: Float[Array, ""]


def least_squares_layer(
    features: Real[ArrayLike, "N d"],
    labels: Integer[ArrayLike, " N"],
    num_classes: int,
    *,
    weight_decay: Float[ArrayLike, ""] = 0.0,
) -> LastLayer:
    """The classifier W_LS and bias b_LS that minimise L on these features, with the features.

    W_LS = diag(p)(M − 1 mᵀ/(1+l))(Σ_W + Σ_B + l/(1+l) m mᵀ + l I)⁺ and b_LS = (p − W_LS m)/(1+l),
    with p_c = n_c/N, class means M (K, d) and m = mean_i h_i (Han, Papyan, Donoho 2022, for classes
    of one size; derived here for any sizes). Without decay W_LS is the solution of least norm. On
    the central path of Han et al. the classifier is W_LS at all times.

    Args:
        features: (N, d).
        labels: (N,) integers in 0..K−1, in any order, with a sample of each class.
        num_classes: K.
        weight_decay: l >= 0, of W and b.

    Returns: a `LastLayer`, on which every measure can be evaluated.

    Raises: ValueError for other labels, features without two axes, or a negative decay.

    Example: two points on a line are fitted exactly.

        >>> state = nc.metrics.least_squares_layer(jnp.array([[2.0], [4.0]]), np.arange(2), 2)
        >>> np.allclose(state.classifier, [[-0.5], [0.5]]), np.allclose(state.bias, [2.0, -1.0])
        (True, True)
    """
    s, features, decay = _statistics(features, labels, num_classes, weight_decay)
    if decay is not None:
        solution = _solve(_ridge_root(s, decay), _ridge_targets(s))
        return LastLayer(features, solution[:-1].T, solution[-1])
    shares, root = s.counts / s.count, jnp.sqrt(s.counts)
    centred = root[:, None] * (jnp.eye(s.num_classes, dtype=root.dtype) - shares[None])
    targets = jnp.concatenate([jnp.zeros((s.dim, s.num_classes), root.dtype), centred])
    classifier = _solve(s.total_root, targets).T
    return LastLayer(features, classifier, shares - matmul(classifier, s.sample_mean + s.origin))


def square_loss_parts(
    state: LastLayer,
    labels: Integer[ArrayLike, " N"],
    *,
    weight_decay: Float[ArrayLike, ""] = 0.0,
) -> SquareLossParts:
    """L_NC1, L_NC2/3 and L_⊥ of the mean square loss with decay l (Han, Papyan, Donoho 2022).

    L = ½ mean_i ‖W h_i + b − e_{y_i}‖² + l/2 (‖W‖² + ‖b‖²) is their sum, for classes of any sizes
    (derived); a missing bias counts as 0. L_NC1 and L_NC2/3 depend on the features alone, and
    L_⊥ >= 0 is 0 exactly where the classifier is that of `least_squares_layer`. Without decay the
    parts are the measures `han_loss_nc1`, `han_loss_nc23` and `han_loss_perp`.

    Args:
        state: features (N, d), classifier (K, d) and bias (K,) or None.
        labels: (N,) integers in 0..K−1, in any order, with a sample of each class.
        weight_decay: l >= 0, of W and b.

    Raises: ValueError for other labels, a state of another kind, or a negative decay.

    Example: the parts add up to the objective of the model with this decay.

        >>> decay = nc.WeightDecay(classifier=0.1, bias=0.1)
        >>> problem = nc.UnconstrainedFeatures(
        ...     (2, 3), 4, loss=nc.SquaredError(), bias=True, weight_decay=decay
        ... )
        >>> state = problem.init(jax.random.key(0))
        >>> parts = nc.metrics.square_loss_parts(state, problem.labels, weight_decay=0.1)
        >>> bool(jnp.allclose(sum(parts), problem.objective(state), rtol=1e-14))
        True
    """
    check_last_layer(state)
    state = widened(state)
    classes = state.classifier.shape[0]
    s, _, decay = _statistics(state.features, labels, classes, weight_decay, state)
    if decay is None:
        # The formulas of `fit` are written for NumPy too, and name no precision.
        with jax.default_matmul_precision("highest"):
            parts = fit.han_loss_nc1(s), fit.han_loss_nc23(s), fit.han_loss_perp(s)
        return SquareLossParts(*parts)
    root, targets = _ridge_root(s, decay), _ridge_targets(s)
    basis = _basis(root)[0]
    fitted = matmul(basis, matmul(basis.T, targets))
    bias = jnp.zeros(classes, root.dtype) if state.bias is None else state.bias
    gap = matmul(root, jnp.concatenate([state.classifier, bias[:, None]], axis=1).T) - fitted
    within, means, penalty = jnp.split(fitted, [s.dim, s.dim + classes])
    residual = means - targets[s.dim : s.dim + classes]
    nc1 = jnp.sum(within**2) + jnp.sum(penalty**2)
    return SquareLossParts(
        *(part / (2 * s.count) for part in (nc1, jnp.sum(residual**2), jnp.sum(gap**2)))
    )


def _statistics(
    features: Real[ArrayLike, "N d"],
    labels: Integer[ArrayLike, " N"],
    num_classes: int,
    weight_decay: Float[ArrayLike, ""],
    state: LastLayer | None = None,
) -> tuple[Statistics, Float[Array, "N d"], Float[Array, ""] | None]:
    """The statistics of checked features, the features, and the decay or None for the number 0."""
    check_matrix("features", features, "(N, d)")
    check_number("weight_decay", weight_decay, scalar=True)
    num_classes = check_integer("num_classes", num_classes, least=2)
    features = widened(features)
    labels = check_labels(labels, num_classes, len(features), every_class=True)
    # One of the features is subtracted, so that a large common offset causes no rounding errors.
    origin = features[0]
    centred = features - origin[None]
    moments = class_moments(centred, labels, num_classes)
    means = class_means(moments)
    within = centred - means[jnp.asarray(labels)]
    s = Statistics(
        moments.counts,
        origin,
        means,
        moments.scatter,
        {"covariance": matmul(within.T, within)},
        classifier=None if state is None else state.classifier,
        bias=None if state is None else state.bias,
    )
    absent = not is_traced(weight_decay) and weight_decay == 0
    return s, features, None if absent else jnp.asarray(weight_decay, features.dtype)


def _ridge_root(s: Statistics, decay: Float[Array, ""]) -> Float[Array, "r p"]:
    """A with AᵀA = Σ_i (h_i, 1)(h_i, 1)ᵀ + N l I, shape (2d+K+1, d+1)."""
    weights = jnp.concatenate([jnp.zeros(s.dim, decay.dtype), jnp.sqrt(s.counts)])
    data = jnp.concatenate([s.uncentered_root, weights[:, None]], axis=1)
    return jnp.concatenate(
        [data, jnp.sqrt(s.count * decay) * jnp.eye(s.dim + 1, dtype=decay.dtype)]
    )


def _ridge_targets(s: Statistics) -> Float[Array, "r K"]:
    """Rows √n_c e_c at the class means and 0 elsewhere, the targets of `_ridge_root`."""
    return jnp.pad(jnp.diag(jnp.sqrt(s.counts)), ((s.dim, s.dim + 1), (0, 0)))


def _basis(
    matrix: Float[Array, "r p"],
) -> tuple[Float[Array, "r q"], Float[Array, " q"], Float[Array, "q p"]]:
    """U, 1/σ and Vᵀ of the singular values above rounding, and zeros for all others."""
    left, singular, right = jnp.linalg.svd(matrix, full_matrices=False)
    above = singular > max(matrix.shape) * jnp.finfo(matrix.dtype).eps * singular[0]
    inverse = jnp.where(above, 1 / jnp.where(above, singular, 1), 0)
    return jnp.where(above[None], left, 0), inverse, right


def _solve(matrix: Float[Array, "r p"], targets: Float[Array, "r K"]) -> Float[Array, "p K"]:
    """The least-squares solution X of least norm of A X = T."""
    left, inverse, right = _basis(matrix)
    return matmul(right.T, inverse[:, None] * matmul(left.T, targets))
