"""The minimum of cross-entropy with decay and features H >= 0 (Dang et al. 2024; proof derived).

The features of different classes are nonzero in different coordinates, so that mean features are
orthogonal. The logit gap of class k depends on numbers of class k alone; where it is 0, so are w_k
and h_ki. With t_k = (K e_k − 1)/(K−1), the unit vectors e_k, and orthonormal u_k >= 0, the minimum
is h_ki = m_k u_k and W = Σ_k v_k t_k u_kᵀ with numbers m_k, v_k >= 0 (`nonnegative_minimizer`).

It is a global minimum for d >= K (derived). Let H_j and W_j be column j of H and W, and
c = √(λ_W λ_H). The least penalty Σ_j c ‖H_j‖‖W_j‖ over all H >= 0 and W with the logits Z is a
convex function of Z. By its dual, Z is optimal if ‖Rᵀh‖ <= c for all unit h >= 0, R = −∂L/∂Z, with
equality at the H_j. This holds, since the residuals r_k t_k of different classes have negative
inner products.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float

from ..preconditions import check_nonnegative
from ..problems import NonnegativeFeatures
from ..state import LastLayer
from .powers import power_or_zero
from .seli import check_class_sizes
from .unequal import class_numbers


def nonnegative_threshold(problem: NonnegativeFeatures) -> Float[Array, " K"]:
    """√(K/(K−1)) τ_k, τ_k = √(λ_W λ_H,k/n_k)/(s ω_k): w_k and h_ki are 0 iff it is 1 or more.

    For the mean loss without weights it is 1 or more iff n_k <= N² λ_W λ_H K/(K−1). Without the
    constraint H >= 0 the number is τ_k itself (`class_decay_ratios`), and where it is 1 or more the
    classifiers of equal classes coincide but need not be 0.

    Raises: ValueError for another loss than cross-entropy, a bias, d < K, or no decay.

    Example:

        >>> decay = nc.WeightDecay(classifier=0.028, features=0.028)
        >>> problem = nc.problems.NonnegativeFeatures((20, 10, 5, 1), 4, weight_decay=decay)
        >>> np.asarray(nc.exact.nonnegative_threshold(problem)).round(3).tolist()
        [0.26, 0.368, 0.521, 1.164]
    """
    check_nonnegative(problem)
    numbers = class_numbers(problem)
    classes = problem.num_classes
    return np.sqrt(classes / (classes - 1)).item() * numbers.slopes / numbers.loss


def nonnegative_gaps(problem: NonnegativeFeatures) -> Float[Array, " K"]:
    """Logit gap z_y − z_j of every class at the minimum: log((K−1)(α_k/κ_k − 1)), 0 if negative.

    α_k = s ω_k n_k and κ_k = √(λ_W λ_H,k n_k (K−1)/K). For the mean loss without weights it is
    log(√(K(K−1)n_k/(λ_W λ_H))/N − (K−1)).

    Raises: as `nonnegative_threshold`.

    Example:

        >>> decay = nc.WeightDecay(classifier=2e-3, features=2e-3)
        >>> problem = nc.problems.NonnegativeFeatures((20, 10, 5, 1), 4, weight_decay=decay)
        >>> np.asarray(nc.exact.nonnegative_gaps(problem)).round(6).tolist()
        [5.357368, 5.00492, 4.64998, 3.80916]
    """
    # α/κ = K/((K−1)·threshold), so that (K−1)(α/κ − 1) = K/threshold − (K−1), which is 1 at the
    # threshold 1. For larger ones the gap is 0.
    threshold, classes = jnp.minimum(nonnegative_threshold(problem), 1), problem.num_classes
    over = classes / threshold
    return jnp.log(over - (classes - 1))


def nonnegative_minimum(problem: NonnegativeFeatures) -> Float[Array, ""]:
    """Σ_k α_k log(1 + (K−1) e^(−gap_k)) + κ_k gap_k, the least value of the objective.

    Raises: as `nonnegative_threshold`.

    Example:

        >>> decay = nc.WeightDecay(classifier=2e-3, features=2e-3)
        >>> problem = nc.problems.NonnegativeFeatures((20, 10, 5, 1), 4, weight_decay=decay)
        >>> round(float(nc.exact.nonnegative_minimum(problem)), 10)
        0.1125668557
    """
    gaps, numbers, classes = nonnegative_gaps(problem), class_numbers(problem), problem.num_classes
    slopes = np.sqrt((classes - 1) / classes).item() * numbers.slopes
    return jnp.sum(
        numbers.loss * jax.nn.softplus(np.log(classes - 1).item() - gaps) + slopes * gaps
    )


def nonnegative_minimizer(problem: NonnegativeFeatures, *, dtype: DTypeLike = float) -> LastLayer:
    """A state at `nonnegative_minimum`: u_k is coordinate k, h_ki = m_k u_k, W = Σ_k v_k t_k u_kᵀ.

    The t_k are (K e_k − 1)/(K−1), m_k² = ‖h_k‖² = √(λ_W (K−1)/(λ_H n_k K)) gap_k and
    v_k² = √(λ_H n_k (K−1)/(λ_W K)) gap_k (K−1)/K.

    Raises: as `nonnegative_threshold`.

    Example:

        >>> decay = nc.WeightDecay(classifier=2e-3, features=2e-3)
        >>> problem = nc.problems.NonnegativeFeatures((20, 10, 5, 1), 4, weight_decay=decay)
        >>> state = nc.exact.nonnegative_minimizer(problem)
        >>> bool(jnp.allclose(problem.objective(state), nc.exact.nonnegative_minimum(problem)))
        True
    """
    gaps, numbers = jnp.asarray(nonnegative_gaps(problem), dtype), class_numbers(problem, dtype)
    classes, dim = problem.num_classes, problem.feature_dim
    share = (classes - 1) / classes
    # gap = m v K/(K−1), and at the minimum the penalties λ_W/2 v² K/(K−1) and λ_H n/2 m² are equal.
    ratio = jnp.sqrt(numbers.classifier / numbers.features / share)  # m/v
    size = power_or_zero(gaps * share / ratio, 0.5)  # v
    contrasts = (classes * jnp.eye(classes, dtype=dtype) - 1) / (classes - 1)
    pad = ((0, 0), (0, dim - classes))
    means = jnp.pad(jnp.diag(ratio * size), pad)
    return LastLayer(means[problem.labels], jnp.pad(contrasts * size[None], pad))


def nonnegative_separation_value(class_sizes: tuple[int, ...]) -> float:
    """V = Σ_k √(n_k (K−1)/K), the least ½‖W‖² + ½‖H‖² with all margins >= 1 and H >= 0 (derived).

    For d >= K. Without H >= 0 the least value is smaller, `seli(class_sizes).value`. The summed
    cross-entropy L of the projected flow without decay has L t log t → V/2 (measured).

    Raises: ValueError for sizes that are no integers >= 1, or fewer than two.

    Example:

        >>> round(nc.exact.nonnegative_separation_value((4, 2, 1)), 10)
        3.6041902812
    """
    sizes = check_class_sizes(class_sizes)
    classes = len(sizes)
    return float(np.sum(np.sqrt(np.array(sizes) * (classes - 1) / classes)))
