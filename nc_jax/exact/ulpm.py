"""Exact flow of Ji's model from a balanced start on the simplex ETF.

Such a start is a collapsed point with ‖W‖_F = ‖H‖_F: W = √(gap (K−1)√n/K) M for a simplex ETF M
with unit rows, and h_ki = w_k/√n. The flow stays on the ray through this point, so that one number
describes the state: the logit gap q = z_y − z_j, which is the margin of every sample. It solves

    dq/dt = 2K√n q/(e^q + K − 1)   for the summed loss,

so that 2K√n t = Ei(q) − Ei(q₀) + (K−1) log(q/q₀). For the mean loss replace t by t/N.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from ..checks import check_number
from ..geometry import simplex_etf
from ..precision import widened
from ..preconditions import check_balanced, check_undecayed_cross_entropy
from ..problems import UnconstrainedFeatures
from ..state import LastLayer
from .late import gap_after


def collapsed_state(
    problem: UnconstrainedFeatures,
    gap: Float[ArrayLike, ""],
    *,
    key: Key[Array, ""] | None = None,
    dtype: DTypeLike = float,
) -> LastLayer:
    """Collapsed point on the simplex ETF with ‖W‖_F = ‖H‖_F and a given logit gap.

    Among states of its norm it has the largest margin (Ji, theorem 3.1) and the smallest
    cross-entropy (Ji, theorem 3.3). A bias, where the problem has one, is zero.

    Args:
        problem: with classes of one size; any loss and decay.
        gap: q = z_y − z_j, the same for all samples and wrong classes.
        key: rotates the simplex at random; None gives a fixed orientation.
        dtype: of the state.

    Raises: ValueError for unbalanced classes, d < K−1, or a gap that is negative or not finite.

    Example:

        >>> problem = nc.ulpm(3, 4, 2)
        >>> state = nc.exact.collapsed_state(problem, gap=0.5)
        >>> np.asarray(nc.metrics.sample_margins(state, problem.labels)).round(6).tolist()
        [0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    """
    size = check_balanced(problem)
    check_number("gap", gap, scalar=True)
    return simplex_point(problem, size, gap, key=key, dtype=dtype)


def simplex_point(
    problem: UnconstrainedFeatures,
    size: int,
    gap: Float[ArrayLike, ""],
    *,
    key: Key[Array, ""] | None,
    dtype: DTypeLike,
) -> LastLayer:
    """`collapsed_state` of a problem whose classes are checked to have this size."""
    frame = simplex_etf(problem.num_classes, problem.feature_dim, key=key, dtype=dtype)
    squared_row = jnp.asarray(gap, dtype) * ((problem.num_classes - 1) / problem.num_classes)
    classifier = jnp.sqrt(squared_row * math.sqrt(size)) * frame
    return LastLayer(
        features=jnp.repeat(classifier / math.sqrt(size), size, axis=0),
        classifier=classifier,
        bias=jnp.zeros(problem.num_classes, dtype) if problem.bias else None,
    )


def collapsed_gap(
    problem: UnconstrainedFeatures,
    start_gap: Float[ArrayLike, ""],
    log_time: Float[ArrayLike, "*times"],
) -> Float[Array, "*times"]:
    """Logit gap q at times given as log(1 + t), along the flow from `collapsed_state`.

    The root of 2K√n t = Ei(q) − Ei(q₀) + (K−1) log(q/q₀) (derived; not in Ji), found in log space
    by bisection to rounding, for t up to e^(10^15). Where q − q₀ is below rounding it is q₀.

    Args:
        problem: balanced cross-entropy without weight decay.
        start_gap: q₀ > 0, the gap at t = 0.
        log_time: log(1 + t) of any shape, with t in units of the problem's loss.

    Returns: q with the shape and dtype of `log_time` (float32 at least).

    Raises: ValueError for another problem, or a start gap that is not positive.

    Example: between t = 10^100 and t = 10^1000 the gap grows tenfold, as log t does.

        >>> log_time = np.log(10) * np.array([100.0, 1000.0])
        >>> np.asarray(nc.exact.collapsed_gap(nc.ulpm(3, 4, 2), 0.5, log_time)).round(2).tolist()
        [237.86, 2312.47]
    """
    size = check_undecayed_cross_entropy(problem)
    check_number("start_gap", start_gap, above_zero=True, scalar=True)
    check_number("log_time", log_time)
    log_time = widened(log_time)
    start = jnp.asarray(start_gap, log_time.dtype)
    classes = problem.num_classes
    rate = math.log(2 * classes * math.sqrt(size) * problem.loss_scale)
    return gap_after(log_time, rate, start, classes - 1)
