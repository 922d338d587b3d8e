"""Exact flow of Ji's model from a balanced start on the simplex ETF.

Such a start is a collapsed point with ‖W‖_F = ‖H‖_F: W = √(gap (K−1)√n/K) M for a simplex ETF M
with unit rows, and h_ki = w_k/√n. The flow stays on the ray through this point, so that one number
describes the state: the logit gap q = z_y − z_j, which is the margin of every sample. It solves

    dq/dt = 2K√n q/(e^q + K − 1)   for the summed loss,

so that 2K√n t = Ei(q) − Ei(q₀) + (K−1) log(q/q₀). For the mean loss replace t by t/N.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from ..checks import check_number
from ..geometry import simplex_etf
from ..precision import widened
from ..preconditions import check_balanced, check_undecayed_cross_entropy
from ..problems import UnconstrainedFeatures
from ..state import LastLayer

# The series Ei(q) = e^q/q Σ k!/q^k diverges, but from q = 40 on its terms fall below 1e-16 of the
# first one before they grow, so that 30 terms give all digits.
_ASYMPTOTIC_FROM = 40.0
_ASYMPTOTIC_TERMS = 30


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
    check_number("start_gap", start_gap, above_zero=True)
    check_number("log_time", log_time)
    log_time = widened(log_time)
    start = jnp.asarray(start_gap, log_time.dtype)
    classes = problem.num_classes
    rate = math.log(2 * classes * math.sqrt(size) * problem.loss_scale)

    def solve(log_time: Float[Array, ""]) -> Float[Array, ""]:
        # log t = u + log(1 − e^−u) for u = log(1 + t).
        log_target = rate + log_time + jnp.log(-jnp.expm1(-log_time))

        # e^q/q outgrows the target at the upper end, since (e^q − e^q₀)/q bounds Ei from below.
        reach = jnp.logaddexp(log_target, 0.0)
        upper = start + reach + 2 * jnp.log(2 + start + reach)

        def halve(_: ArrayLike, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            lower, upper = ends
            # The interval is halved in log q, since q₀ may be 20 orders of magnitude below the
            # root; square roots are taken one by one, since the product may overflow.
            middle = jnp.sqrt(lower) * jnp.sqrt(upper)
            # A rounding error below 0 makes the logarithm NaN; the comparison then says False,
            # which is right, since q is then next to q₀.
            beyond = _log_elapsed(middle, start, classes) > log_target
            return jnp.where(beyond, lower, middle), jnp.where(beyond, middle, upper)

        # Newton's method overshoots, as the logarithm tends to −∞ at q₀, and optimistix.Bisection
        # refuses a bracket whose lower end has the value −∞ or NaN. 80 halvings reach rounding.
        return jax.lax.fori_loop(0, 80, halve, (start, upper))[1]

    return jnp.vectorize(solve)(log_time)


def _log_elapsed(gap: Float[Array, ""], start: Float[Array, ""], classes: int) -> Float[Array, ""]:
    """log(Ei(q) − Ei(q₀) + (K−1) log(q/q₀)), with the factor e^q split off against overflow."""
    ei = _scaled_ei(gap) - jnp.exp(start - gap) * _scaled_ei(start)
    return gap + jnp.log(ei + (classes - 1) * jnp.exp(-gap) * jnp.log(gap / start))


def _scaled_ei(q: Float[Array, ""]) -> Float[Array, ""]:
    """e^−q Ei(q) for q > 0, without overflow."""
    # `where` computes both branches, so that each argument is limited to the range of its branch.
    small = jnp.minimum(q, _ASYMPTOTIC_FROM)
    inverse = 1 / jnp.maximum(q, _ASYMPTOTIC_FROM)
    # Σ k!/q^k by Horner's scheme, from the last term to the first.
    series = jnp.ones_like(q)
    for k in range(_ASYMPTOTIC_TERMS, 0, -1):
        series = 1 + k * inverse * series
    return jnp.where(
        q < _ASYMPTOTIC_FROM, jnp.exp(-small) * jax.scipy.special.expi(small), inverse * series
    )
