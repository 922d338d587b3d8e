"""Zhu's regularised model in closed form: its minimum, and its Hessian at the origin.

With balanced classes everything depends on τ = √(λ_W λ_H)/(s√n), s the loss's scale, which is
K√(nλ_W λ_H) for the mean loss. For τ < 1 the minimum is neural collapse and the origin a saddle,
for τ >= 1 the origin is the minimum (a hypothesis that theorem 3.1 leaves out).
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int, Key

from ..geometry import simplex_etf
from ..preconditions import (
    bias_is_free,
    check_below_threshold,
    check_cross_entropy,
    check_decayed_cross_entropy,
    check_dimension,
)
from ..problems import UnconstrainedFeatures
from ..state import LastLayer
from .powers import power_or_zero


class DecayRatios(NamedTuple):
    """The numbers of a balanced model with weight decay that its critical points depend on.

    Attributes:
        size: n, samples of each class.
        threshold: τ = √(λ_W λ_H)/(s√n), below 1 where there is more than the origin.
        features: √(λ_W/(λ_H n)), the factor in h_ki = factor · w_k at every critical point.
    """

    size: int
    threshold: Float[Array, ""]
    features: Float[Array, ""]


def decay_ratios(problem: UnconstrainedFeatures) -> DecayRatios:
    """The ratios of a problem, once the preconditions of Zhu's theorem 3.1 are checked."""
    return ratios_of(problem, check_decayed_cross_entropy(problem))


def ratios_of(problem: UnconstrainedFeatures, size: int) -> DecayRatios:
    """The ratios of a problem whose classes are checked to have this size."""
    decay = problem.weight_decay
    # `jnp.sqrt` and not `math.sqrt`, since a weight decay may be traced.
    product = jnp.sqrt(jnp.asarray(decay.classifier * decay.features))
    return DecayRatios(
        size=size,
        threshold=product / (problem.loss_scale * math.sqrt(size)),
        features=jnp.sqrt(jnp.asarray(decay.classifier / decay.features) / size),
    )


def regularized_minimizer(
    problem: UnconstrainedFeatures, *, key: Key[Array, ""] | None = None, dtype: DTypeLike = float
) -> LastLayer:
    """A global minimum of cross-entropy with weight decay (Zhu, theorem 3.1, in closed form).

    With K classes of n samples and τ = √(λ_W λ_H)/(s√n), where s is 1/N for the mean loss and 1 for
    the sum: if τ < 1, the rows w_k are a simplex ETF with ‖w_k‖² = a (K−1)/K √(λ_H n/λ_W) and the
    logit gap a = log(K/τ − (K−1)), and every feature of class k is √(λ_W/(λ_H n)) w_k. If τ >= 1,
    everything is 0. The bias is 0; if λ_b = 0, the same number added to every entry of the bias
    leaves the loss unchanged.

    Args:
        problem: balanced cross-entropy with weight decay.
        key: rotates the simplex at random; None for no rotation.
        dtype: dtype of the state that is returned.

    Raises: ValueError for unbalanced classes, d < K−1, another loss than cross-entropy, or λ_W or
    λ_H that are 0.

    Example:

        >>> problem = nc.zhu(3, 4, 2, 5e-3)
        >>> state = nc.exact.regularized_minimizer(problem)
        >>> gap = np.log(3 / (3 * np.sqrt(2) * 5e-3) - 2)
        >>> np.allclose(nc.metrics.sample_margins(state, problem.labels), gap)
        True
    """
    ratios = decay_ratios(problem)
    gap = _minimum_gap(problem, ratios)
    return state_of_gap(problem, gap, ratios.features, key=key, dtype=dtype)


def regularized_minimum(problem: UnconstrainedFeatures) -> Float[Array, ""]:
    """Value at `regularized_minimizer`: sN log(1 + (K−1)e^(−a)) + (K−1)√(nλ_W λ_H) a.

    For τ >= 1, where a = 0, it is sN log K.

    Raises: as `regularized_minimizer`.

    Example:

        >>> problem = nc.zhu(3, 4, 2, 5e-3)
        >>> state = nc.exact.regularized_minimizer(problem)
        >>> value = nc.exact.regularized_minimum(problem)
        >>> print(round(float(value), 6), round(float(problem.objective(state)), 6))
        0.08407 0.08407
    """
    ratios = decay_ratios(problem)
    return value_of_gap(problem, ratios.size, _minimum_gap(problem, ratios))


def minimum_nullity(problem: UnconstrainedFeatures) -> int:
    """Zero eigenvalues of the Hessian at the minimum for τ < 1: (K−1)(2d−K)/2, + 1 if λ_b = 0.

    Their eigenvectors are rotations of feature space and a constant bias: the minimum is unique up
    to these.

    Raises: ValueError for τ >= 1, and as `regularized_minimizer`.

    Example:

        >>> nc.exact.minimum_nullity(nc.zhu(3, 4, 2, 5e-3))
        5
    """
    ratios = decay_ratios(problem)
    classes, dim = problem.num_classes, problem.feature_dim
    check_dimension(problem, classes - 1)
    check_below_threshold(ratios.threshold)
    return (classes - 1) * (2 * dim - classes) // 2 + int(bias_is_free(problem))


def origin_eigenvalues(
    problem: UnconstrainedFeatures,
) -> tuple[Float[Array, " m"], Int[np.ndarray, " m"]]:
    """Eigenvalues of the Hessian at W = H = b = 0, and their multiplicities (derived; not in Zhu).

    | eigenvalue | times |
    |---|---|
    | (λ_W + λ_H)/2 ∓ √((λ_W − λ_H)²/4 + s²n) | d(K−1) each |
    | λ_W | d |
    | λ_H | d(N − K + 1) |
    | sn + λ_b; λ_b (with a bias) | K−1; 1 |

    The first is negative exactly for τ < 1. The table holds without decay too.

    Raises: ValueError for unbalanced classes or another loss than cross-entropy.

    Example: the eigenvalue √n of the summed loss without decay, 2 here, is the rate of escape.

        >>> values, multiplicities = nc.exact.origin_eigenvalues(nc.ulpm(3, 4, 4))
        >>> values.tolist(), multiplicities.tolist()
        ([-2.0, 2.0, 0.0, 0.0], [8, 8, 4, 40])
    """
    size = check_cross_entropy(problem)
    classes, dim = problem.num_classes, problem.feature_dim
    decay, scale = problem.weight_decay, problem.loss_scale
    middle = jnp.asarray(decay.classifier + decay.features) / 2
    half = jnp.sqrt(jnp.asarray(decay.classifier - decay.features) ** 2 / 4 + scale**2 * size)
    # In feature space the Hessian is a 2 x 2 matrix of W and H for each of the K−1 contrasts of
    # classes, and diagonal on what the classes have in common and on within-class deviations.
    values = [middle - half, middle + half, decay.classifier, decay.features]
    counts = [dim * (classes - 1)] * 2 + [dim, dim * (problem.num_samples - classes + 1)]
    if problem.bias:
        values += [scale * size + decay.bias, decay.bias]
        counts += [classes - 1, 1]
    # One dtype for all, since a decay may be a Python float or an array.
    return jnp.stack([jnp.asarray(value, half.dtype) for value in values]), np.array(counts)


def state_of_gap(
    problem: UnconstrainedFeatures,
    gap: Float[Array, ""],
    ratio: Float[ArrayLike, ""],
    *,
    key: Key[Array, ""] | None,
    dtype: DTypeLike,
) -> LastLayer:
    """The collapsed state with this logit gap, on a simplex ETF, and h_ki = ratio · w_k."""
    gap, ratio, classes = jnp.asarray(gap, dtype), jnp.asarray(ratio, dtype), problem.num_classes
    frame = simplex_etf(classes, problem.feature_dim, key=key, dtype=dtype)
    squared_row = gap * (classes - 1) / classes / ratio
    return aligned_state(problem, power_or_zero(squared_row, 0.5) * frame, ratio)


def value_of_gap(
    problem: UnconstrainedFeatures, size: int, gap: Float[Array, ""]
) -> Float[Array, ""]:
    """L at a collapsed state whose scales of W and H are optimal: sNℓ + (K−1)√(nλ_W λ_H) a."""
    decay, classes = problem.weight_decay, problem.num_classes
    # The penalty of a collapsed state is linear in its gap.
    slope = jnp.sqrt(jnp.asarray(size * (decay.classifier * decay.features)))
    logits = jnp.zeros((1, classes), gap.dtype).at[0, 0].set(gap)
    data = problem.loss.value(logits, np.array([0]))[0]
    return problem.loss_scale * problem.num_samples * data + (classes - 1) * slope * gap


def aligned_state(
    problem: UnconstrainedFeatures, classifier: Float[Array, "K d"], ratio: Float[ArrayLike, ""]
) -> LastLayer:
    """The state with zero bias and h_ki = ratio · w_k, which holds at every critical point."""
    features = jnp.asarray(ratio * classifier)[problem.labels]
    bias = jnp.zeros(problem.num_classes, classifier.dtype) if problem.bias else None
    return LastLayer(features, classifier, bias)


def _minimum_gap(problem: UnconstrainedFeatures, ratios: DecayRatios) -> Float[Array, ""]:
    """a = log(K/τ − (K−1)), or 0 for τ >= 1."""
    classes = problem.num_classes
    check_dimension(problem, classes - 1)
    # A minimum in the place of a branch, so that the weight decay may be traced.
    return jnp.log(classes / jnp.minimum(ratios.threshold, 1) - (classes - 1))
