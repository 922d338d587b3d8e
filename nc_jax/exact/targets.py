"""Minima of models with a row of targets for each sample: label sets and regression (derived).

Both losses are convex functions of the logits Z. The least penalty over all W and H with HWᵀ = Z is
√(λ_W λ_H) ‖Z‖_*. Hence Z is a global minimum if ‖−∂L/∂Z‖₂ <= √(λ_W λ_H), and if −∂L/∂Z maps each
right singular vector v of Z to √(λ_W λ_H) u, with the left singular vector u.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Key

from ..checks import check_key
from ..geometry import simplex_etf
from ..precision import matmul
from ..preconditions import check_dimension, check_pick_all_labels, check_regression
from ..problems import FreeFeatures
from ..state import LastLayer
from .powers import power_or_zero
from .roots import falling_root


def pick_all_labels_minimizer(
    problem: FreeFeatures, *, key: Key[Array, ""] | None = None, dtype: DTypeLike = float
) -> LastLayer:
    """A global minimum of pick-all-labels cross-entropy with decay (Li et al. 2023; derived).

    Let every label, and every pair of labels, occur equally often among the N_m samples with m
    labels. Then the classifiers are a simplex ETF with ‖w_k‖² = ω. The feature of a sample with the
    label set S of m labels is h = β_m Σ_{k ∈ S} w_k, and the logits of its labels exceed all others
    by g_m = β_m ωK/(K−1).
    The g_m solve s/(m e^g + K − m) = (λ_H/ω) g (K−1)/K², and
    ω² = (λ_H/λ_W) Σ_m N_m g_m² m(K−m)(K−1)/K³. For s² Σ_m N_m m(K−m)/(K(K−1)) <= λ_W λ_H
    W and H are 0. The bias is 0.

    Args:
        problem: with targets that are balanced as above, d >= K−1, and decay of W and H.
        key: rotates the simplex at random; None for no rotation.
        dtype: dtype of the state that is returned.

    Raises: ValueError for another loss, targets that are not balanced or traced, d < K−1, or λ_W or
    λ_H that are 0.

    Example: the features of two labels are parallel to the sum of those of one label.

        >>> sets = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
        >>> problem = nc.problems.FreeFeatures(
        ...     nc.problems.label_sets(sets, 3), 2, loss=nc.losses.PickAllLabels(),
        ...     weight_decay=nc.WeightDecay(classifier=4e-3, features=3e-3),
        ... )
        >>> state = nc.exact.pick_all_labels_minimizer(problem)
        >>> h, total = state.features[3], state.features[0] + state.features[1]
        >>> bool(jnp.isclose(h @ total, jnp.linalg.norm(h) * jnp.linalg.norm(total)))
        True
    """
    counts = check_pick_all_labels(problem)
    gaps, squared_row = _label_set_minimum(problem, counts)
    classes = problem.num_outputs
    frame = simplex_etf(classes, problem.feature_dim, key=key, dtype=dtype)
    row = power_or_zero(jnp.asarray(squared_row, dtype), 0.5)
    # β_m √ω = g_m (K−1)/(K√ω), the factor of the unit rows of the simplex; 0 at the origin.
    factors = jnp.asarray(gaps, dtype) * ((classes - 1) / classes)
    factors = jnp.where(row > 0, factors / jnp.where(row > 0, row, 1), 0)
    targets = np.asarray(problem.targets)
    kinds = np.searchsorted(list(counts), targets.sum(axis=1))
    features = factors[kinds][:, None] * matmul(jnp.asarray(targets, dtype), frame)
    bias = jnp.zeros(classes, dtype) if problem.bias else None
    return LastLayer(features, row * frame, bias)


def pick_all_labels_minimum(problem: FreeFeatures) -> Float[Array, ""]:
    """Value at `pick_all_labels_minimizer`: s Σ_m N_m m log(m + (K−m)e^−g_m) + λ_W Kω.

    The penalties of W and of H are equal, λ_W Kω/2 each.

    Raises: as `pick_all_labels_minimizer`.

    Example:

        >>> targets, decay = np.eye(3), nc.WeightDecay(classifier=1e-2, features=1e-2)
        >>> problem = nc.problems.FreeFeatures(
        ...     targets, 3, loss=nc.losses.PickAllLabels(), weight_decay=decay
        ... )
        >>> one_label = nc.UnconstrainedFeatures((1, 1, 1), 3, weight_decay=decay)
        >>> value = nc.exact.pick_all_labels_minimum(problem)
        >>> bool(jnp.isclose(value, nc.exact.regularized_minimum(one_label)))
        True
    """
    counts = check_pick_all_labels(problem)
    gaps, squared_row = _label_set_minimum(problem, counts)
    classes = problem.num_outputs
    labels, samples = (jnp.array(list(x), float) for x in (counts, counts.values()))
    data = jnp.sum(samples * labels * jnp.log(labels + (classes - labels) * jnp.exp(-gaps)))
    return problem.loss_scale * data + problem.weight_decay.classifier * classes * squared_row


def regression_minimizer(
    problem: FreeFeatures, *, key: Key[Array, ""] | None = None, dtype: DTypeLike = float
) -> LastLayer:
    """A global minimum of regression with decay (Andriopoulos et al. 2024; any size derived).

    Let Y be the targets, minus their mean if there is a bias, and σ_j, u_j, v_j the d largest
    singular values of Y with their left and right singular vectors. Then Z = Σ_j z_j u_j v_jᵀ with
    z_j = max(σ_j − √(λ_W λ_H)/s, 0), and WWᵀ = √(λ_H/λ_W) Σ_j z_j v_j v_jᵀ. The bias is the mean of
    the targets. For the mean loss, λ_H = λ/N and d at least the number of targets,
    WWᵀ = √(λ/λ_W) [Σ_Y^(1/2) − √(λ_W λ) I]_+, with the covariance Σ_Y of the targets; [·]_+ sets
    negative eigenvalues to 0.

    Args:
        problem: with `HalfSquaredDistance`, any targets and feature_dim, and decay of W and H.
        key: rotates feature space at random; None for no rotation.
        dtype: dtype of the state that is returned.

    Raises: ValueError for another loss, λ_W or λ_H that are 0, or a bias with a decay.

    Example: singular values 2 and 1 of the targets, lowered by √(λ_W λ_H)/s = 1/2.

        >>> problem = nc.problems.FreeFeatures(
        ...     np.diag([2.0, 1.0]), 2, loss=nc.losses.HalfSquaredDistance(), reduction="sum",
        ...     weight_decay=nc.WeightDecay(classifier=0.5, features=0.5),
        ... )
        >>> np.asarray(nc.exact.regression_minimizer(problem).logits()).round(6).tolist()
        [[1.5, 0.0], [0.0, 0.5]]
    """
    check_regression(problem)
    targets, mean = _centred(problem)
    left, sizes, right = jnp.linalg.svd(targets, full_matrices=False)
    dim, decay = problem.feature_dim, problem.weight_decay
    rank = min(dim, len(sizes))
    lowered = jnp.maximum(sizes[:rank] - _lowering(problem), 0)
    # λ_W WᵀW = λ_H HᵀH at every critical point, which determines both factors of Z.
    scale = (jnp.asarray(decay.features, float) / decay.classifier) ** 0.25
    roots = power_or_zero(lowered, 0.5)
    features = left[:, :rank] * (roots / scale)[None]
    classifier = right[:rank].T * (roots * scale)[None]
    basis = jnp.eye(rank, dim, dtype=dtype)
    if key is not None:
        check_key(key)
        basis = jax.random.orthogonal(key, dim, dtype=dtype)[:rank]
    return LastLayer(
        matmul(features.astype(dtype), basis),
        matmul(classifier.astype(dtype), basis),
        mean.astype(dtype) if problem.bias else None,
    )


def regression_minimum(problem: FreeFeatures) -> Float[Array, ""]:
    """Value at `regression_minimizer`: the sum over j of cσ_j − c²/(2s), or of sσ_j²/2.

    The first where σ_j > c/s and j <= d, the second for all others. c = √(λ_W λ_H), and σ_j are the
    singular values of the targets, minus their mean if there is a bias, in descending order.

    Raises: as `regression_minimizer`.

    Example: (2/2 − 1/8) + (1/2 − 1/8) for the singular values 2 and 1, c = 1/2.

        >>> problem = nc.problems.FreeFeatures(
        ...     np.diag([2.0, 1.0]), 2, loss=nc.losses.HalfSquaredDistance(), reduction="sum",
        ...     weight_decay=nc.WeightDecay(classifier=0.5, features=0.5),
        ... )
        >>> float(nc.exact.regression_minimum(problem))
        1.25
    """
    check_regression(problem)
    sizes = jnp.linalg.svd(_centred(problem)[0], compute_uv=False)
    lowering, scale = _lowering(problem), problem.loss_scale
    reached = (sizes > lowering) & (np.arange(len(sizes)) < problem.feature_dim)
    return scale * jnp.sum(jnp.where(reached, lowering * sizes - lowering**2 / 2, sizes**2 / 2))


def _label_set_minimum(
    problem: FreeFeatures, counts: dict[int, int]
) -> tuple[Float[Array, " M"], Float[Array, ""]]:
    """The gaps g_m, in the order of `counts`, and ω = ‖w_k‖²; all 0 at the origin."""
    classes, decay, s = problem.num_outputs, problem.weight_decay, problem.loss_scale
    check_dimension(problem, classes - 1)
    labels, samples = (jnp.array(list(x), float) for x in (counts, counts.values()))
    product = jnp.asarray(decay.classifier * decay.features, float)
    # Σ_m weight_m g_m² is ω² λ_W/λ_H at the minimum.
    weights = samples * labels * (classes - labels) * (classes - 1) / classes**3

    def gaps_at(log_rate: Float[Array, ""]) -> Float[Array, " M"]:
        """The g_m with g (m e^g + K − m) = C for ν = λ_H/ω and C = sK²/((K−1)ν)."""
        target = s * classes**2 / (classes - 1) * jnp.exp(-log_rate)
        upper = jnp.full(len(labels), jnp.log1p(target))
        # g <= log(1 + C), hence e^g <= 1 + C.
        lower = target / (labels * target + classes)
        return falling_root(
            lambda g: target - g * (labels * jnp.exp(g) + classes - labels), lower, upper
        )

    def size_at(log_rate: Float[Array, ""]) -> Float[Array, ""]:
        """ν² Σ_m weight_m g_m², which increases with ν, and is λ_W λ_H at the minimum."""
        return jnp.sum(weights * (jnp.exp(log_rate) * gaps_at(log_rate)) ** 2)

    # ν g_m is of the order of `middle`, and the g_m are from 1e-17 to 1e3 where they are not 0.
    middle = jnp.log(product / jnp.sum(weights)) / 2
    log_rate = falling_root(lambda x: product - size_at(x), middle - 10, middle + 40)
    gaps = gaps_at(log_rate)
    largest = s**2 * jnp.sum(samples * labels * (classes - labels)) / (classes * (classes - 1))
    present = product < largest
    gaps = jnp.where(present, gaps, 0)
    return gaps, jnp.where(present, decay.features * jnp.exp(-log_rate), 0)


def _centred(problem: FreeFeatures) -> tuple[Float[Array, "N C"], Float[Array, " C"]]:
    """The targets less their mean if there is a bias, and the mean."""
    mean = jnp.mean(problem.targets, axis=0)
    return (problem.targets - mean[None] if problem.bias else problem.targets), mean


def _lowering(problem: FreeFeatures) -> Float[Array, ""]:
    """√(λ_W λ_H)/s, by which the singular values of the targets are lowered."""
    decay = problem.weight_decay
    return jnp.sqrt(jnp.asarray(decay.classifier * decay.features, float)) / problem.loss_scale
