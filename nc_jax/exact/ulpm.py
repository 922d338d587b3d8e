"""Exact flow of Ji's model from a balanced start on the simplex ETF.

Such a start is a collapsed point with ‖W‖_F = ‖H‖_F: W = √(gap (K−1)√n/K) M for a simplex ETF M
with unit rows, and h_ki = w_k/√n. The flow stays on this ray, and one number remains, the logit
gap q = z_y − z_j (the margin, equal for all samples):

    dq/dt = 2K√n q/(e^q + K − 1)   for the summed loss,

so 2K√n t = Ei(q) − Ei(q₀) + (K−1) log(q/q₀). With the mean loss t counts 1/N as much.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from ..checks import check_number
from ..geometry import simplex_etf
from ..losses import CrossEntropy, has_formulas_of
from ..precision import widened
from ..problems import UnconstrainedFeatures, check_unconstrained
from ..state import LastLayer

# Ei(q) = e^q/q Σ k!/q^k diverges, but its smallest term at q = 40 is under 1e-16 of the first.
_ASYMPTOTIC_FROM = 40.0
_ASYMPTOTIC_TERMS = 30


def collapsed_state(
    problem: UnconstrainedFeatures,
    gap: Float[ArrayLike, ""],
    key: Key[Array, ""] | None = None,
    dtype: DTypeLike = float,
) -> LastLayer:
    """Collapsed point on the simplex ETF with ‖W‖_F = ‖H‖_F and this logit gap.

    It attains the largest margin at its norm (Ji, theorem 3.1) and the smallest loss (theorem 3.3).
    A bias, where the problem has one, is zero. `key` turns the frame randomly.

    Raises: ValueError for unbalanced classes, d < K−1, or a gap that is negative or not finite.

    Example: `collapsed_state(ulpm(5, 20, 10), gap=0.5)`.
    """
    size = class_size(problem)
    check_number("gap", gap, scalar=True)
    frame = simplex_etf(problem.num_classes, problem.feature_dim, key, dtype)
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

    The root of 2K√n t = Ei(q) − Ei(q₀) + (K−1) log(q/q₀), solved in log space by bisection to
    rounding; any t up to e^(10^15) will do. For t so small that q − q₀ is under rounding, q₀.

    Args: `start_gap` q₀ > 0. The result has the dtype of `log_time`, float32 at least.

    Raises: ValueError unless the problem is balanced cross-entropy without weight decay, or for a
    start gap that is not positive.

    Example: `collapsed_gap(ulpm(5, 20, 10), 0.5, log_times(1000, 5))`.
    """
    size = class_size(problem)
    if not has_formulas_of(problem.loss, CrossEntropy) or not problem.weight_decay.absent:
        raise ValueError(
            f"collapsed_gap needs CrossEntropy without weight decay, got {problem.loss} with "
            f"{problem.weight_decay}."
        )
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
            # Halved in log q, since q₀ may be 20 orders below the end; √ apart, against overflow.
            middle = jnp.sqrt(lower) * jnp.sqrt(upper)
            # NaN, from a rounding error below 0 under the log, is on the low side.
            beyond = _log_elapsed(middle, start, classes) > log_target
            return jnp.where(beyond, lower, middle), jnp.where(beyond, middle, upper)

        # Newton overshoots, as log elapsed runs to −∞ at q₀; optimistix.Bisection refuses a
        # bracket whose lower end is that −∞, or NaN. 80 halvings reach rounding from any bracket.
        return jax.lax.fori_loop(0, 80, halve, (start, upper))[1]

    return jnp.vectorize(solve)(log_time)


def _log_elapsed(gap: Float[Array, ""], start: Float[Array, ""], classes: int) -> Float[Array, ""]:
    """log(Ei(q) − Ei(q₀) + (K−1) log(q/q₀)), with e^q taken out before anything overflows."""
    ei = _scaled_ei(gap) - jnp.exp(start - gap) * _scaled_ei(start)
    return gap + jnp.log(ei + (classes - 1) * jnp.exp(-gap) * jnp.log(gap / start))


def _scaled_ei(q: Float[Array, ""]) -> Float[Array, ""]:
    """e^−q Ei(q) for q > 0, without overflow."""
    small = jnp.minimum(q, _ASYMPTOTIC_FROM)
    inverse = 1 / jnp.maximum(q, _ASYMPTOTIC_FROM)
    series = jnp.ones_like(q)
    for k in range(_ASYMPTOTIC_TERMS, 0, -1):
        series = 1 + k * inverse * series
    return jnp.where(
        q < _ASYMPTOTIC_FROM, jnp.exp(-small) * jax.scipy.special.expi(small), inverse * series
    )


def class_size(problem: UnconstrainedFeatures) -> int:
    """n, where all classes have one size; others are refused, and so are other models."""
    check_unconstrained(problem)
    if problem.samples_per_class is None:
        raise ValueError(
            f"class_sizes = {problem.class_sizes}: the closed form needs classes of one size."
        )
    return problem.samples_per_class
