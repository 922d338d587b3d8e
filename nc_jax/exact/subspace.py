"""Mixon's flow on the invariant subspace S in closed form, and its limit (theorem 3).

On S = {H = (W⊗1_n)ᵀ/√n, 1ᵀW = 0, b ∈ span 1} the flow changes the singular values of W and the mean
of b, each independently of the others. Times are t, not log(1 + t), in units of the summed loss.
"""

import math

import jax
import jax.numpy as jnp
import optimistix
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from ..checks import is_traced
from ..geometry import above_rounding, center, project_onto_S
from ..precision import matmul
from ..preconditions import check_mixon
from ..problems import UnconstrainedFeatures
from ..state import LastLayer
from .states import at_times, checked_state, nan_where
from .ulpm import simplex_point

# Largest accepted distance from S, relative to the norm, in units of eps. The rounding errors of a
# long flow are of this size.
_OFF_S = 1000


def subspace_solution(
    problem: UnconstrainedFeatures, state0: LastLayer, t: Float[ArrayLike, "*times"]
) -> LastLayer:
    """The full flow from a start on S, in closed form (Mixon, theorem 3 b).

    Singular vectors of W are constant, the squared singular values are logistic,
    σ(t)² = √n/(1 + (√n/σ₀² − 1)e^(−2√n t)), and b(t) = (1 − αe^(−Knt))/K · 1 with
    α = 1 − K mean(b₀). A σ₀ that is zero to rounding counts as zero and stays zero: otherwise
    e^(√n t) would amplify rounding errors to order 1 by √n t = 37, as it does in an integration.

    Args:
        problem: `mixon(...)`.
        state0: start on S.
        t: times of the summed loss, finite and >= 0, of any shape; for the limit see
            `subspace_limit`.

    Returns: a state whose leaves have the leading axes of `t`.

    Raises: ValueError for a start off S (a traced one gives NaN), a problem that is not `mixon`'s,
    or a negative time.

    Example:

        >>> problem = nc.mixon(3, 4, 4)
        >>> start = nc.geometry.project_onto_S(problem.init(jax.random.key(0)), problem.labels)
        >>> state = nc.exact.subspace_solution(problem, start, jnp.array([0.0, 20.0]))
        >>> np.linalg.svd(state.classifier[1], compute_uv=False).round(6).tolist()
        [1.414214, 1.414214, 0.0]
    """
    start, mean_bias = _on_s(problem, state0)
    left, singular, right = _decompose(start.classifier)
    root = math.sqrt(problem.class_sizes[0])
    # σ₀ as a share of its limit n^(1/4). A zero is replaced by 1, since its quotient would be 0/0.
    share = jnp.where(singular > 0, singular, 1) / math.sqrt(root)

    def solution(t: Float[Array, ""]) -> LastLayer:
        # σ(t) = σ₀/√(e^(−2√n t) + share²(1 − e^(−2√n t))). Both squares are computed in units of
        # the larger number, since σ₀ may be 1e-200, whose square underflows. `unit` cancels, so
        # that it needs no derivative.
        shrunk = jnp.exp(-root * t)
        unit = jax.lax.stop_gradient(jnp.maximum(shrunk, share))
        squared = (shrunk / unit) ** 2 - (share / unit) ** 2 * jnp.expm1(-2 * root * t)
        now = jnp.where(singular > 0, singular / unit / jnp.sqrt(squared), 0)
        # α e^(−Knt), the distance of the sum of the biases from 1.
        gap = (1 - problem.num_classes * mean_bias) * jnp.exp(-problem.num_samples * t)
        return _state_on_s(problem, matmul(left * now[None], right), 1 - gap)

    return at_times(solution, t, start)


def subspace_limit(problem: UnconstrainedFeatures, state0: LastLayer) -> LastLayer:
    """Limit of the flow from a start on S: W = n^(1/4) U Vᵀ of W₀, b = 1/K (Mixon, theorem 3 c).

    WWᵀ = √n(I − Π) with Π the projection onto ker W₀ᵀ: strong collapse if rank W₀ = K−1, the
    largest rank on S. The rank is counted as in `subspace_solution`.

    Raises: ValueError for a start off S (a traced one gives NaN), or a problem that is not
    `mixon`'s.

    Example:

        >>> problem = nc.mixon(3, 4, 4)
        >>> start = nc.geometry.project_onto_S(problem.init(jax.random.key(0)), problem.labels)
        >>> limit = nc.exact.subspace_limit(problem, start)
        >>> bool(problem.objective(limit) < 1e-20)
        True
    """
    start, _ = _on_s(problem, state0)
    left, singular, right = _decompose(start.classifier)
    # 0 · singular has the dtype of the state, which two Python numbers would not.
    limit = jnp.where(singular > 0, problem.class_sizes[0] ** 0.25, 0 * singular)
    return _state_on_s(problem, matmul(left * limit[None], right), jnp.ones_like(singular[0]))


def subspace_objective(problem: UnconstrainedFeatures, state: LastLayer) -> Float[Array, ""]:
    """R = ½‖WWᵀ − √n(I − 11ᵀ/K)‖_F² + (Kn/2)‖b − 1/K‖² of a state on S (Mixon, lemma 4).

    On S the risk measures the distance from strong collapse, (SNC1) and (SNC3).

    Raises: ValueError for a state off S (a traced one gives NaN), or a problem that is not
    `mixon`'s.

    Example:

        >>> problem = nc.mixon(3, 4, 4)
        >>> state = nc.geometry.project_onto_S(problem.init(jax.random.key(0)), problem.labels)
        >>> risk = nc.exact.subspace_objective(problem, state)
        >>> bool(jnp.allclose(risk, problem.objective(state)))
        True
    """
    state, mean_bias = _on_s(problem, state)
    classes, root = problem.num_classes, math.sqrt(problem.class_sizes[0])
    gram = matmul(state.classifier, state.classifier.T)
    target = root * center(jnp.eye(classes, dtype=gram.dtype))
    off_bias = classes * (mean_bias - 1 / classes) ** 2
    return (jnp.sum((gram - target) ** 2) + problem.num_samples * off_bias) / 2


def strong_collapse(
    problem: UnconstrainedFeatures, *, key: Key[Array, ""] | None = None, dtype: DTypeLike = float
) -> LastLayer:
    """A strongly collapsed point (SNC1-3), rotated at random by `key` (Mixon, section 2).

    It is the collapsed state of logit gap 1 with b = 1/K: a global minimum with R = 0 (lemma 1).
    There ‖w_c‖² = √n(1 − 1/K) and ‖μ_c‖² = (1 − 1/K)/√n.

    Raises: ValueError for a problem that is not `mixon`'s, or d < K−1.

    Example:

        >>> problem = nc.mixon(3, 4, 4)
        >>> state = nc.exact.strong_collapse(problem, key=jax.random.key(0))
        >>> bool(problem.objective(state) < 1e-20)
        True
        >>> round(float(nc.metrics.zhu_nc4(state, problem.labels)) ** 2, 6)  # 1/K
        0.333333
    """
    size = check_mixon(problem)
    state = simplex_point(problem, size, 1.0, key=key, dtype=dtype)
    bias = jnp.full(problem.num_classes, 1 / problem.num_classes, dtype)
    return LastLayer(state.features, state.classifier, bias)


def _on_s(problem: UnconstrainedFeatures, state: LastLayer) -> tuple[LastLayer, Float[Array, ""]]:
    """The projection onto S, and the mean bias; ValueError or NaN if the state is not on S."""
    check_mixon(problem)
    state = checked_state(problem, state)
    if state.bias is None:
        raise ValueError("state: has no bias; give one like problem.init(key).")
    projected = project_onto_S(state, problem.labels)
    # In units of the largest entry, since squares of tiny entries underflow.
    largest = optimistix.max_norm(state)
    unit = jnp.where(largest > 0, largest, 1)
    whole, off = (
        optimistix.two_norm(jax.tree.map(lambda leaf: leaf / unit, part))
        for part in (state, jax.tree.map(jnp.subtract, state, projected))
    )
    distance = off / jnp.maximum(whole, 1)  # the zero state, of norm 0, is on S
    allowed = _OFF_S * jnp.finfo(distance.dtype).eps
    # "Not within" in the place of "beyond", so that a NaN is refused too.
    if not is_traced(distance) and not distance <= allowed:
        raise ValueError(
            f"state: lies off S by {distance:.3g} of its norm, where {allowed:.1g} is allowed: on "
            "S a feature is the row of the classifier of its class over √n; "
            "start from nc_jax.geometry.project_onto_S(state, problem.labels)."
        )
    return nan_where(distance > allowed, projected), jnp.mean(state.bias)


def _state_on_s(
    problem: UnconstrainedFeatures, classifier: Float[Array, "K d"], bias_sum: Float[Array, ""]
) -> LastLayer:
    """The state on S with this classifier and b = bias_sum/K · 1."""
    means = classifier / math.sqrt(problem.class_sizes[0])
    bias = jnp.full(problem.num_classes, bias_sum / problem.num_classes)
    return LastLayer(means[problem.labels], classifier, bias)


def _decompose(
    classifier: Float[Array, "K d"],
) -> tuple[Float[Array, "K r"], Float[Array, " r"], Float[Array, "r d"]]:
    """U, σ, Vᵀ of W₀, with singular values that are rounding errors set to zero."""
    left, singular, right = jnp.linalg.svd(classifier, full_matrices=False)
    return left, jnp.where(above_rounding(singular, classifier.shape), singular, 0), right
