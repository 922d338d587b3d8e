"""The flow of the square loss from a balanced start in closed form, by a Riccati equation.

Without a bias and with one λ for W and H, L = s/2 ‖HWᵀ − Y‖² + λ/2 (‖W‖² + ‖H‖²), where s is 1 for
the sum and 1/N for the mean. Where WᵀW = HᵀH, which the flow preserves, the matrix Q = [H; W] of
N + K rows moves by Q' = AQ − (s/2) QQᵀQ with A = s [[0, Y], [Yᵀ, 0]] − λI. Times are t, not
log(1 + t).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from ..checks import is_traced
from ..geometry import above_rounding
from ..measures import balance
from ..precision import matmul
from ..preconditions import check_balanced_square_loss, check_unconstrained
from ..problems import UnconstrainedFeatures
from ..starts import checked_norm
from ..state import LastLayer
from .states import at_times, checked_state, nan_where

# Largest accepted imbalance relative to ‖W‖² + ‖H‖², in units of eps: rounding errors of a long
# flow are of this size.
_UNBALANCED = 1000
# The largest growth e^x of a mode within one application of the formula. The matrix that is
# inverted then has a condition number of about e^(2x), so that no digit is lost.
_LOG_GROWTH = 1.0
# Largest time, in units of the inverse rate of the fastest mode. By then all modes whose rate is
# above 1/2000 of the fastest one have converged to rounding.
_LONGEST = 1e5


class _Modes(NamedTuple):
    """Q in the eigenvectors of A: a row for each, with its eigenvalue."""

    growing: Float[Array, "K r"]  # (√n_k μ_k + w_k)/√2, eigenvalue s√n_k − λ
    falling: Float[Array, "K r"]  # (√n_k μ_k − w_k)/√2, eigenvalue −s√n_k − λ
    within: Float[Array, "m r"]  # within-class deviations, eigenvalue −λ


def square_loss_flow(
    problem: UnconstrainedFeatures, state0: LastLayer, t: Float[ArrayLike, "*times"]
) -> LastLayer:
    """The flow of the square loss from any start with WᵀW = HᵀH (Fukumizu 1998; Braun et al. 2022).

    QQᵀ(t) = e^(At) Q₀ [I + s Q₀ᵀ (∫₀ᵗ e^(2Au) du) Q₀]^(−1) Q₀ᵀ e^(At) with Q = [H; W], for classes
    of any sizes and any d. A has the eigenvalues ±s√n_k − λ, and −λ on deviations of features from
    their class means (derived for s and λ; the sources have the sum without decay).

    The formula gives Q up to a rotation of feature space, which changes no logit, norm, angle or
    measure. The result has the rotation of a product of symmetric square roots of the bracket. It
    is near that of the flow, and equal to it where the start lies along class vectors, as on the
    subspace S of Mixon et al.

    Args:
        problem: square loss without a bias, λ_W = λ_H, reduction "sum" or "mean".
        state0: balanced start, such as `balanced_start(problem, key)`. A feature direction in which
            it is zero to rounding counts as zero: it would otherwise grow from a rounding error.
        t: times, finite and >= 0, of any shape, in units of the problem's loss. For times beyond
            10^5/(s√n − λ), n the largest class size, the state at 10^5/(s√n − λ) is returned.

    Returns: a state whose leaves have the leading axes of `t`. Its derivatives are forward only
    (`jax.jvp`, `jax.jacfwd`), since the length of a loop depends on the time.

    Raises: ValueError for another loss, a bias, λ_W ≠ λ_H, or a start that is not balanced (traced
    ones give NaN), or a negative time.

    Example: ‖w_k‖² grows at the rate 2√n_k, for the larger class first, and tends to √n_k.

        >>> problem = nc.UnconstrainedFeatures(
        ...     (9, 1), 2, loss=nc.SquaredError(), reduction="sum"
        ... )
        >>> start = nc.exact.balanced_start(problem, jax.random.key(0), 1e-4)
        >>> state = nc.exact.square_loss_flow(problem, start, jnp.array([6.0, 60.0]))
        >>> np.sum(state.classifier**2, axis=-1).round(3).tolist()  # √9 and √1 at the end
        [[3.0, 0.0], [3.0, 1.0]]
    """
    check_balanced_square_loss(problem)
    start = _balanced(problem, state0)
    sizes, scale = np.asarray(problem.class_sizes), problem.loss_scale
    # Python floats do not promote a float32 state.
    roots = jnp.asarray(np.sqrt(sizes), start.classifier.dtype)
    decay = jnp.asarray(problem.weight_decay.common, roots.dtype)
    # The number of parts of the time would turn a decay that is NaN into a state that is none.
    start = nan_where(jnp.isnan(decay), start)
    modes, basis, within, used = _modes_of(problem, start, roots)
    rates = _Modes(scale * roots - decay, -scale * roots - decay, -decay[None])
    fastest = jnp.maximum(jnp.max(rates.growing), 0)

    def solution(t: Float[Array, ""]) -> LastLayer:
        growth = jnp.minimum(fastest * t, _LONGEST)
        count = jnp.maximum(jnp.ceil(growth / _LOG_GROWTH), 1)
        # Only where the growth is limited, since t may be long where all modes fall.
        time = jnp.where(fastest * t > _LONGEST, _LONGEST / jnp.maximum(fastest, 1e-30), t) / count

        # The formula is applied to parts of the time. Applied once, e^(At) would overflow, and the
        # bracket would lose the modes that are e^(−37) of the fastest one.
        def part(_, now: _Modes) -> _Modes:
            return _advance(now, rates, time, scale, used)

        now = jax.lax.fori_loop(0, count.astype(jnp.int32), part, modes)
        means = (now.growing + now.falling) / (math.sqrt(2) * roots[:, None])
        features = means[problem.labels] + matmul(within, now.within)
        classifier = (now.growing - now.falling) / math.sqrt(2)
        return LastLayer(matmul(features, basis), matmul(classifier, basis))

    return at_times(solution, t, start)


def balanced_start(
    problem: UnconstrainedFeatures,
    key: Key[Array, ""],
    norm: Float[ArrayLike, ""] = 1.0,
    *,
    dtype: DTypeLike = float,
) -> LastLayer:
    """A random start with WᵀW = HᵀH: a Gaussian W of this norm, and H = OW with OᵀO = I.

    O (N, K) is uniform over matrices with orthonormal columns, so that features of a class differ.
    A bias is 0. The flow preserves the balance if λ_W = λ_H, with any loss of the logits.

    Args: as `problem.init`.

    Raises: ValueError for a raw key or a norm that is negative or not finite.

    Example:

        >>> problem = nc.UnconstrainedFeatures((3, 2), 4)
        >>> start = nc.exact.balanced_start(problem, jax.random.key(0), 0.1)
        >>> bool(jnp.allclose(nc.metrics.balance(start).value, 0))
        True
    """
    check_unconstrained(problem)
    checked_norm(key, norm, dtype)
    for_classifier, for_features = jax.random.split(key)
    start = problem.init(for_classifier, norm, dtype=dtype)
    columns = jax.random.orthogonal(
        for_features, problem.num_samples, dtype=start.classifier.dtype, m=problem.num_classes
    )
    return LastLayer(matmul(columns, start.classifier), start.classifier, start.bias)


def _balanced(problem: UnconstrainedFeatures, state: LastLayer) -> LastLayer:
    """The state in a dtype to compute in; ValueError or NaN if it is not balanced."""
    state = checked_state(problem, state)
    if state.bias is not None:
        raise ValueError("state: has a bias; give one like problem.init(key).")
    # In units of the largest entry, since squares of tiny entries underflow.
    largest = optimistix.max_norm(state)
    unit = jnp.where(largest > 0, largest, 1)
    scaled = jax.tree.map(lambda leaf: leaf / unit, state)
    norm = jnp.maximum(scaled.squared_norm(), 1)  # the zero state, of norm 0, is balanced
    imbalance = jnp.linalg.norm(balance(scaled).value) / norm
    allowed = _UNBALANCED * jnp.finfo(imbalance.dtype).eps
    # "Not within" in the place of "beyond", so that a NaN is refused too.
    if not is_traced(imbalance) and not imbalance <= allowed:
        raise ValueError(
            f"state: ‖WᵀW − HᵀH‖ is {imbalance:.3g} of ‖W‖² + ‖H‖², where {allowed:.1g} is "
            "allowed: the closed form is for balanced starts, such as "
            "nc_jax.exact.balanced_start(problem, key)."
        )
    return nan_where(imbalance > allowed, state)


def _modes_of(
    problem: UnconstrainedFeatures, state: LastLayer, roots: Float[Array, " K"]
) -> tuple[_Modes, Float[Array, "r d"], Float[Array, "N m"], Float[Array, " r"]]:
    """Modes; bases of feature space and of the deviations; which directions are above rounding."""
    labels, classes = problem.labels, problem.num_classes
    means = jax.ops.segment_sum(state.features, labels, classes) / roots[:, None] ** 2
    # N rows of deviations are replaced by d at most, since one e^(−λt) multiplies all of them.
    within, reduced = jnp.linalg.qr(state.features - means[labels])
    scaled = roots[:, None] * means
    rows = _Modes(
        (scaled + state.classifier) / math.sqrt(2),
        (scaled - state.classifier) / math.sqrt(2),
        reduced,
    )
    whole = jnp.concatenate(rows)
    left, singular, right = jnp.linalg.svd(whole, full_matrices=False)
    # Rounding errors off the row space of the start would grow to order 1.
    used = above_rounding(singular, whole.shape).astype(singular.dtype)
    coordinates = left * (singular * used)[None]
    growing, falling, deviations = jnp.split(coordinates, [classes, 2 * classes])
    return _Modes(growing, falling, deviations), right, within, used


def _advance(
    modes: _Modes,
    rates: _Modes,
    time: Float[Array, ""],
    scale: float,
    used: Float[Array, " r"],
) -> _Modes:
    """e^(At) Q [I + s Qᵀ (∫₀ᵗ e^(2Au) du) Q]^(−1/2) with the symmetric square root."""
    bracket = jnp.eye(len(used), dtype=used.dtype)
    for rows, rate in zip(modes, rates, strict=True):
        # (e^(2at) − 1)/2a, which is t for a = 0.
        exponent = 2 * rate * time
        safe = jnp.where(exponent == 0, 1, exponent)
        elapsed = time * jnp.where(exponent == 0, 1, jnp.expm1(safe) / safe)
        bracket = bracket + scale * matmul(rows.T, elapsed[:, None] * rows)
    values, vectors = jnp.linalg.eigh(bracket)
    # Masked, so that a column that is zero stays zero.
    root = matmul(vectors / jnp.sqrt(values)[None], vectors.T) * used[None]
    return _Modes(
        *(
            jnp.exp(rate * time)[:, None] * matmul(rows, root)
            for rows, rate in zip(modes, rates, strict=True)
        )
    )
