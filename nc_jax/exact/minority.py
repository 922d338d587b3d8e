"""Minority collapse: the minimum of cross-entropy for two groups of classes of unequal size.

There are K_A majority classes of R·n samples and K_B minority classes of n samples. From some
imbalance R0 on the classifiers of all minority classes coincide at the minimum (Fang et al. 2021
prove it for R → ∞). By symmetry and convexity four numbers a, b, p and r determine the logits
(K, K) of the classes at the minimum (derived). They are the sum of

    a (I − J/K_A) in the block of the majority, b (I − J/K_B) in that of the minority,
    and p v in each row of the majority, −r v in each row of the minority.

J is a matrix of ones. The vector v has 1/K_A at the majority and −1/K_B at the minority classes.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, DTypeLike, Float, Key

from ..checks import check_integer, check_known, check_number
from ..preconditions import check_two_groups
from ..problems import UnconstrainedFeatures
from ..state import LastLayer
from .roots import falling_root
from .unequal import class_numbers, least_penalty_state


class MinorityMinimum(NamedTuple):
    """The minimum of cross-entropy with decay for two groups of classes.

    Attributes:
        majority_contrast: a = z_y − z_j for two majority classes y and j.
        minority_contrast: b, the same for two minority classes; 0 where their classifiers coincide.
        majority_offset, minority_offset: p and r, factors of the contrast v between the groups.
        value: of the objective.

    Example: the classifiers of the two minority classes coincide.

        >>> decay = nc.WeightDecay(classifier=0.1, features=0.1)
        >>> problem = nc.UnconstrainedFeatures((9, 9, 1, 1), 4, weight_decay=decay)
        >>> float(nc.exact.minority_minimum(problem).minority_contrast)
        0.0
    """

    majority_contrast: Float[Array, ""]
    minority_contrast: Float[Array, ""]
    majority_offset: Float[Array, ""]
    minority_offset: Float[Array, ""]
    value: Float[Array, ""]


class _Groups(NamedTuple):
    """Number of classes, α and κ of one class (`ClassNumbers`), of majority and of minority."""

    counts: tuple[int, int]
    loss: tuple[Float[Array, ""], Float[Array, ""]]
    slopes: tuple[Float[Array, ""], Float[Array, ""]]

    @property
    def coupling(self) -> float:
        """μ = 1/K_A + 1/K_B, the squared norm of the contrast between the groups."""
        return 1 / self.counts[0] + 1 / self.counts[1]


def minority_threshold(
    num_majority: int,
    num_minority: int,
    minority_size: int,
    *,
    decay_product: Float[ArrayLike, "*batch"],
) -> Float[Array, "*batch"]:
    """R0 = (1/√(n_B λ_W λ_H) − K_B)/K_A, from which on minority classifiers coincide (derived).

    For the mean cross-entropy with decay. They coincide if and only if n_B <= N² λ_W λ_H, with
    N = n_B (K_A R + K_B). If R0 < 1, this holds at R = 1 too, where every classifier is 0.
    `class_decay_ratios` has the condition for other weights of the classes.

    Args: `num_majority` K_A; `num_minority` K_B, 2 or more; `minority_size` n_B; `decay_product`
    λ_W λ_H.

    Raises: ValueError for counts that are too small, or a product that is not positive.

    Example:

        >>> round(float(nc.exact.minority_threshold(5, 5, 500, decay_product=5e-4**2)), 8)
        16.88854382
    """
    check_integer("num_majority", num_majority)
    check_integer("num_minority", num_minority, least=2)
    check_integer("minority_size", minority_size)
    check_number("decay_product", decay_product, above_zero=True)
    reach = 1 / jnp.sqrt(minority_size * jnp.asarray(decay_product))
    return (reach - num_minority) / num_majority


def layer_peeled_threshold(
    num_majority: int,
    num_minority: int,
    *,
    classifier_energy: float | Float[Array, ""],
    feature_energy: float | Float[Array, ""],
) -> float:
    """R0 of the layer-peeled model of Fang et al. (2021), exact (derived; theirs is R → ∞).

    The model has the constraints (1/K) Σ_k ‖w_k‖² <= E_W and (1/K) Σ_k (1/n_k) Σ_i ‖h_ki‖² <= E_H
    and no decay: ‖X‖_* <= K √(E_W E_H) for the logits X (K, K) of the classes. With the multiplier
    c of this constraint minority classifiers coincide iff c >= 1/(K_A R + K_B). R0 is the R at
    which the minimum for c = 1/(K_A R + K_B) has exactly the nuclear norm K √(E_W E_H). The minimum
    under the constraints is also that with the decays λ_W = c √(E_H/E_W) and
    λ_H,k = c √(E_W/E_H)/n_k.

    Args: `num_majority` K_A; `num_minority` K_B, 2 or more; the energies E_W and E_H.

    Raises: ValueError for counts that are too small, or an energy that is not positive or traced.

    Example:

        >>> threshold = nc.exact.layer_peeled_threshold
        >>> round(threshold(5, 5, classifier_energy=1.0, feature_energy=5.0), 6)
        12.192447
    """
    check_integer("num_majority", num_majority)
    check_integer("num_minority", num_minority, least=2)
    check_number("classifier_energy", classifier_energy, above_zero=True, scalar=True)
    check_number("feature_energy", feature_energy, above_zero=True, scalar=True)
    check_known("classifier_energy", classifier_energy, "the bracket of the root")
    check_known("feature_energy", feature_energy, "the bracket of the root")
    counts = num_majority, num_minority
    bound = sum(counts) * math.sqrt(float(classifier_energy) * float(feature_energy))

    @jax.jit
    def excess(log_imbalance: Float[ArrayLike, ""]) -> Float[Array, ""]:
        # α_B = c = 1 here: the minimum does not depend on the unit of the objective.
        one = jnp.ones(())
        groups = _Groups(counts, (jnp.exp(log_imbalance), one), (one, one))
        return _penalty(groups, *_four_numbers(groups)) - bound

    # At R = 1 every logit is 0, so that the excess is negative. The norm grows as K_A log R.
    upper = 1.0
    while excess(upper) < 0:
        upper *= 2
    from scipy.optimize import root_scalar  # A dependency of JAX, which takes 0.2 s to import.

    found = root_scalar(
        lambda x: float(excess(x)), bracket=(0.0, upper), method="brentq", xtol=1e-13
    )
    return math.exp(found.root)


def minority_minimum(problem: UnconstrainedFeatures) -> MinorityMinimum:
    """The minimum of cross-entropy with decay for classes of two sizes, as four numbers (derived).

    f(a, b, p, r) = Σ_g K_g α_g ℓ_g + Σ_g K_g' κ_g a_g + √(K_A κ_A² p² + K_B κ_B² r²) √μ with
    K_g' = K_g − 1, the groups g = A (majority) and B (minority), a_A = a, a_B = b, α = s ω n and
    κ = √(n λ_W λ_H) of a class, μ = 1/K_A + 1/K_B, and
    ℓ_A = log(1 + (K_A−1) e^(−a) + K_B e^(−a(1−1/K_A) − pμ)), likewise ℓ_B with b and r. The
    equations ∂f/∂a = 0 and ∂f/∂b = 0 are linear in the softmax probabilities. One equation for the
    ratio p κ_A/(r κ_B) remains, which bisection solves.

    Args: `problem` with d >= K−1 and without bias. Class weights and a λ_H for each class are
    allowed where they are equal within each group.

    Raises: ValueError for another loss, a bias, no decay, other than two class sizes, numbers that
    differ within a group, or d < K−1.

    Example:

        >>> decay = nc.WeightDecay(classifier=1e-3, features=2e-3)
        >>> sizes = (40,) * 3 + (5,) * 4
        >>> problem = nc.UnconstrainedFeatures(sizes, 7, weight_decay=decay)
        >>> minimum = nc.exact.minority_minimum(problem)
        >>> round(float(minimum.value), 10), round(float(minimum.minority_contrast), 6)
        (0.2071790743, 4.067035)
    """
    groups = _groups_of(problem)
    numbers = _four_numbers(groups)
    return MinorityMinimum(*numbers, value=_objective(groups, *numbers))


def minority_minimizer(
    problem: UnconstrainedFeatures, *, key: Key[Array, ""] | None = None, dtype: DTypeLike = float
) -> LastLayer:
    """A state at `minority_minimum`, unique up to rotations of feature space.

    Args: `key` rotates the state at random; `dtype` of the state.

    Raises: as `minority_minimum`.

    Example:

        >>> decay = nc.WeightDecay(classifier=0.1, features=0.1)
        >>> problem = nc.UnconstrainedFeatures((9, 9, 1, 1), 4, weight_decay=decay)
        >>> state = nc.exact.minority_minimizer(problem)
        >>> minimum = nc.exact.minority_minimum(problem)
        >>> bool(jnp.allclose(problem.objective(state), minimum.value))
        True
    """
    minimum = minority_minimum(problem)
    a, b, p, r = (jnp.asarray(number, dtype) for number in minimum[:4])
    majority = jnp.asarray(_majority(problem))
    share = 1 / jnp.where(majority, jnp.sum(majority), jnp.sum(~majority)).astype(dtype)
    same = majority[:, None] == majority[None]
    within = jnp.eye(len(share), dtype=dtype) - share[None]
    contrast = jnp.where(majority, a, b)[:, None] * jnp.where(same, within, 0)
    between = jnp.where(majority, share, -share)
    offsets = jnp.where(majority, p, -r)
    return least_penalty_state(problem, contrast + offsets[:, None] * between[None], key=key)


def _majority(problem: UnconstrainedFeatures) -> Bool[np.ndarray, " K"]:
    sizes = np.array(problem.class_sizes)
    return sizes == sizes.max()


def _groups_of(problem: UnconstrainedFeatures) -> _Groups:
    check_two_groups(problem)
    numbers, majority = class_numbers(problem), _majority(problem)
    firsts = int(np.argmax(majority)), int(np.argmin(majority))
    loss = numbers.loss[firsts[0]], numbers.loss[firsts[1]]
    slopes = numbers.slopes[firsts[0]], numbers.slopes[firsts[1]]
    return _Groups((int(majority.sum()), int((~majority).sum())), loss, slopes)


# Outside of a jit every call would compile the loops of the bisection anew.
@eqx.filter_jit
def _four_numbers(groups: _Groups) -> tuple[Float[Array, ""], ...]:
    """(a, b, p, r) at the minimum.

    With x the probability of another class of the group and y of a class of the other group,
    stationarity in a is K_A x + K_B y = min(τ_A, 1). In p and r it is y = bound · cos θ for the
    majority and y = bound · sin θ for the minority, with tan θ = √K_B κ_B r/(√K_A κ_A p).
    """
    (k_a, k_b), mu = groups.counts, groups.coupling
    tau_a, tau_b = (
        # A group of one class has no contrast, and its value of τ is not used.
        jnp.minimum(slope / loss, 1.0) if count > 1 else jnp.ones(())
        for count, slope, loss in zip(groups.counts, groups.slopes, groups.loss, strict=True)
    )
    most_a = groups.slopes[0] / (groups.loss[0] * k_b * math.sqrt(k_a * mu))
    most_b = groups.slopes[1] / (groups.loss[1] * k_a * math.sqrt(k_b * mu))
    scale_a, scale_b = math.sqrt(k_a) * groups.slopes[0], math.sqrt(k_b) * groups.slopes[1]

    def ends(log_tangent: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        # Logistic functions of 2 log tan θ, accurate at both ends.
        cosine = jnp.sqrt(jax.nn.sigmoid(-2 * log_tangent))
        sine = jnp.sqrt(jax.nn.sigmoid(2 * log_tangent))
        return _offset(most_a * cosine, tau_a, k_a, k_b), _offset(most_b * sine, tau_b, k_b, k_a)

    def remaining(log_tangent: Float[Array, ""]) -> Float[Array, ""]:
        p, r = ends(log_tangent)
        # p increases with θ and r decreases: tan θ < scale_b r/(scale_a p) below the root.
        return scale_b * r - scale_a * p * jnp.exp(log_tangent)

    # tan θ is the ratio of two numbers whose logarithms are below 50.
    reach = jnp.full_like(tau_a, 50)
    angle = falling_root(remaining, -reach, reach)
    p, r = ends(angle)
    separated = (p > 0) & (r > 0)
    log_y_a = jnp.log(most_a) + 0.5 * jax.nn.log_sigmoid(-2 * angle)
    log_y_b = jnp.log(most_b) + 0.5 * jax.nn.log_sigmoid(2 * angle)
    # Without a contrast between the groups, the probability of the other group is that of p = 0.
    y_a = jnp.where(separated, jnp.exp(log_y_a), _without_offset(tau_a, k_a, k_b))
    y_b = jnp.where(separated, jnp.exp(log_y_b), _without_offset(tau_b, k_b, k_a))
    a, b = _contrast(y_a, tau_a, k_a, k_b), _contrast(y_b, tau_b, k_b, k_a)
    return a, b, jnp.where(separated, p, 0), jnp.where(separated, r, 0)


def _probabilities(
    other: Float[Array, ""], tau: Float[Array, ""], count: int, other_count: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Probability of the label, and x of another class of its group, from y of the other group."""
    label = 1 - (count - 1) / count * tau - other_count * other / count
    # Too large a y would give a negative probability. The logarithm of 1e-30 in its place makes the
    # offset negative, which is the right side of the bisection.
    same = jnp.maximum(tau - other_count * other, 1e-30) / count
    return jnp.maximum(label, 1e-30), same


def _offset(
    other: Float[Array, ""], tau: Float[Array, ""], count: int, other_count: int
) -> Float[Array, ""]:
    """p of the logits with these probabilities."""
    label, same = _probabilities(other, tau, count, other_count)
    log_gap = jnp.log(label) / count + (1 - 1 / count) * jnp.log(same) - jnp.log(other)
    return log_gap / (1 / count + 1 / other_count)


def _contrast(
    other: Float[Array, ""], tau: Float[Array, ""], count: int, other_count: int
) -> Float[Array, ""]:
    """a = log(label/same) of both probabilities, 0 for τ = 1; 0 for a group of one class."""
    if count == 1:
        return jnp.zeros_like(tau)
    # label − same = 1 − τ, whatever y is.
    _, same = _probabilities(other, tau, count, other_count)
    return jnp.log1p((1 - tau) / same)


def _without_offset(tau: Float[Array, ""], count: int, other_count: int) -> Float[Array, ""]:
    """y for p = 0."""

    def offset(log_other: Float[Array, ""]) -> Float[Array, ""]:
        return _offset(jnp.exp(log_other), tau, count, other_count)

    return jnp.exp(falling_root(offset, jnp.full_like(tau, -200), jnp.zeros_like(tau)))


def _penalty(
    groups: _Groups,
    a: Float[Array, ""],
    b: Float[Array, ""],
    p: Float[Array, ""],
    r: Float[Array, ""],
) -> Float[Array, ""]:
    (k_a, k_b), (of_a, of_b) = groups.counts, groups.slopes
    between = jnp.hypot(math.sqrt(k_a) * of_a * p, math.sqrt(k_b) * of_b * r)
    within = of_a * a * (k_a - 1) + of_b * b * (k_b - 1)
    return within + between * math.sqrt(groups.coupling)


def _objective(
    groups: _Groups,
    a: Float[Array, ""],
    b: Float[Array, ""],
    p: Float[Array, ""],
    r: Float[Array, ""],
) -> Float[Array, ""]:
    total = _penalty(groups, a, b, p, r)
    (k_a, k_b), mu = groups.counts, groups.coupling
    for count, others, loss, gap, offset in (
        (k_a, k_b, groups.loss[0], a, p),
        (k_b, k_a, groups.loss[1], b, r),
    ):
        to_others = jnp.log(others) - gap * (1 - 1 / count) - offset * mu
        odds = to_others if count == 1 else jnp.logaddexp(jnp.log(count - 1) - gap, to_others)
        total += count * loss * jax.nn.softplus(odds)
    return total
