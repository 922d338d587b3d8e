"""Late times of cross-entropy without decay: one scalar equation for the loss of every run.

The separation problem is min ½ρ², ρ² = ‖W‖² + ‖H‖², with all margins z_y − z_c >= 1. A flow
converges in direction to a critical point of this problem; let V be its value ½ρ². Late in the flow
the state is √q times this point, all margins are q up to constants, and the summed loss L is
V e^(−q). Since the logits are homogeneous of degree 2 in the state,
d(½ρ²)/dt = V dq/dt = 2q·V e^(−q) (derived), so that

    dq/dt = 2q e^(−q),   Ei(q) − Ei(q₀) = 2t,   log L = log V − q.

Here Ei is the exponential integral and q₀ = q(0). A loss that falls as e^(−kz) with the margin z,
such as the focal loss with k = γ + 1, has dq/dt = 2q e^(−kq), Ei(kq) − Ei(kq₀) = 2t and
L = (V/k) e^(−kq). `late_geometry` has the constants by which the margins differ from q. For the
loss s Σℓ, such as the mean with s = 1/N, replace t by st and L by L/s.

With m factors of the logits, and the value V of ½Σ‖factors‖² at margins 1, the logits are
homogeneous of degree m in the state, ½Σ‖factors‖² is V q^(2/m), and the residuals sum to
(2V/m) e^(−kq). Hence (derived)

    dq/dt = m q^(2−2/m) e^(−kq),   L = (2V/(mk)) e^(−kq),   L t (log t)^(2−2/m) → 2V k^(−2/m)/m².

∫ e^q q^(−p) dq with p = 2 − 2/m takes the place of Ei.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ..checks import check_integer, check_number
from ..precision import widened
from .roots import falling_root

# The root of Ei, so that the constant in Ei(kq) = 2t + const is 0.
ROOT_OF_EI = 0.37250741078136663

# The series Ei(q) = e^q/q Σ k!/q^k diverges, but from q = 40 on its terms fall below 1e-16 of the
# first one before they grow, so that 30 terms give all digits.
_ASYMPTOTIC_FROM = 40.0
_ASYMPTOTIC_TERMS = 30

# The same of ∫ e^q q^(−p) dq with 1 < p < 2, whose terms are larger by a factor up to k + 1. Below,
# the power series needs this many terms.
_POWER_ASYMPTOTIC_FROM = 50.0
_POWER_ASYMPTOTIC_TERMS = 40
_POWER_SERIES_TERMS = 200


def late_gap(
    log_time: Float[ArrayLike, "*times"],
    *,
    start_gap: Float[ArrayLike, ""] | None = None,
    tail: Float[ArrayLike, ""] = 1.0,
    loss_scale: Float[ArrayLike, ""] = 1.0,
    depth: int = 2,
) -> Float[Array, "*times"]:
    """q(t), the root of Ei(kq) − Ei(kq₀) = 2st: the logit gap late in any flow (derived).

    With m factors it is the root of ∫ e^(kq) q^(2/m−2) dq = mst from q₀ on.

    The start has little influence: q₀ changes q(t) by about Ei(kq₀)/(2st). The root is found in log
    space by bisection to rounding, for t up to e^(10^15).

    Args:
        log_time: log(1 + t) of any shape, with t in units of the problem's loss.
        start_gap: q₀ > 0 at t = 0; None for the q₀ with Ei(kq₀) = 0, or with the root of the power
            series of the other integral.
        tail: k of a loss that falls as e^(−kz) with the gap z; 1 for cross-entropy.
        loss_scale: s in L = s Σℓ, `problem.loss_scale`: 1 for the sum, 1/N for the mean.
        depth: m, the number of factors of the logits; 2 for free features and a classifier.

    Returns: q with the shape and dtype of `log_time` (float32 at least).

    Raises: ValueError for a start gap, tail or scale that is not positive, or depth < 2.

    Example: q is log t + log(2 log t) up to terms of log log t/log t.

        >>> log_time = np.log(10) * np.array([1e2, 1e5])
        >>> np.asarray(nc.exact.late_gap(log_time)).round(3).tolist()
        [236.413, 230271.549]
    """
    check_number("log_time", log_time)
    check_number("tail", tail, above_zero=True, scalar=True)
    check_number("loss_scale", loss_scale, above_zero=True, scalar=True)
    depth = check_integer("depth", depth, least=2)
    log_time = widened(jnp.asarray(log_time))
    tail, scale = (jnp.asarray(number, log_time.dtype) for number in (tail, loss_scale))
    if start_gap is None:
        start = jnp.asarray(_root_of_integral(depth), log_time.dtype)
    else:
        check_number("start_gap", start_gap, above_zero=True, scalar=True)
        start = tail * jnp.asarray(start_gap, log_time.dtype)
    rate = math.log(depth) + jnp.log(scale) - (1 - 2 / depth) * jnp.log(tail)
    return gap_after(log_time, rate, start, 0.0, depth) / tail


def late_loss(
    value: Float[ArrayLike, ""],
    log_time: Float[ArrayLike, "*times"],
    *,
    start_gap: Float[ArrayLike, ""] | None = None,
    tail: Float[ArrayLike, ""] = 1.0,
    loss_scale: Float[ArrayLike, ""] = 1.0,
    depth: int = 2,
) -> Float[Array, "*times"]:
    """log L = log(sV/k) − kq(t), up to O(1/log t), where a flow converges to a point of value V.

    Hence L t log t → V/(2k), but slowly: at t = 10^100 the product is several per cent below its
    limit, while this formula is accurate to about 1 %. With m factors it is log(2sV/(mk)) − kq(t),
    and L t (log t)^(2−2/m) → 2V k^(−2/m)/m². It holds for every critical point, optimal
    or not, so that the loss of a run identifies the point to which the run converges (derived).

    Args:
        value: V > 0, such as `seli(class_sizes, depth=depth).value`.
        log_time, start_gap, tail, loss_scale, depth: as in `late_gap`.

    Returns: log L with the shape and dtype of `log_time` (float32 at least).

    Raises: ValueError for a value, start gap, tail or scale that is not positive, or depth < 2.

    Example: the exact flow on the simplex ETF, where V is (K−1)√n, at t = 10^1000.

        >>> problem, log_time = nc.ulpm(3, 4, 2), 1000 * np.log(10)
        >>> gap = nc.exact.collapsed_gap(problem, 0.5, log_time)
        >>> log_loss = problem.log_objective(nc.exact.collapsed_state(problem, gap))
        >>> predicted = nc.exact.late_loss(2 * np.sqrt(2), log_time)
        >>> print(round(float(log_loss), 3), round(float(predicted), 3))
        -2309.984 -2309.984
    """
    check_number("value", value, above_zero=True, scalar=True)
    gap = late_gap(log_time, start_gap=start_gap, tail=tail, loss_scale=loss_scale, depth=depth)
    value, tail, scale = (jnp.asarray(number, gap.dtype) for number in (value, tail, loss_scale))
    return jnp.log(scale) + jnp.log(value) + math.log(2 / depth) - jnp.log(tail) - tail * gap


@functools.partial(jax.jit, static_argnames=("others", "depth"))  # Once, and not in each call.
def gap_after(
    log_time: Float[Array, "*times"],
    log_rate: Float[ArrayLike, ""],
    start: Float[Array, ""],
    others: float,
    depth: int = 2,
) -> Float[Array, "*times"]:
    """The root q > q₀ of ∫ (e^q + others) q^(2/m−2) dq = e^log_rate t from q₀ on, at log(1 + t).

    For m = 2 the integral is Ei(q) − Ei(q₀) + others · log(q/q₀).
    """
    return _root(log_time, jnp.asarray(log_rate, log_time.dtype), start, others, depth)


# Not `roots.falling_root`: the interval is halved in log q, and this rule holds at t = 0 too, where
# the logarithm of the equation is −∞.
@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _root(
    log_time: Float[Array, "*times"],
    log_rate: Float[Array, ""],
    start: Float[Array, ""],
    others: float,
    depth: int,
) -> Float[Array, "*times"]:
    """`gap_after`, by bisection."""

    def solve(log_time: Float[Array, ""]) -> Float[Array, ""]:
        # log t = u + log(1 − e^−u) for u = log(1 + t).
        log_target = log_rate + log_time + jnp.log(-jnp.expm1(-log_time))

        # e^q/q² outgrows the target at the upper end, since (e^q − e^q₀)/q^p, p < 2, bounds the
        # integral from below.
        reach = jnp.logaddexp(log_target, 0.0)
        upper = start + reach + 4 * jnp.log(2 + start + reach)

        def halve(_: ArrayLike, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            lower, upper = ends
            # The interval is halved in log q, since q₀ may be 20 orders of magnitude below the
            # root; square roots are taken one by one, since the product may overflow.
            middle = jnp.sqrt(lower) * jnp.sqrt(upper)
            # A rounding error below 0 makes the logarithm NaN; the comparison then says False,
            # which is right, since q is then next to q₀.
            beyond = _log_elapsed(middle, start, others, depth) > log_target
            return jnp.where(beyond, lower, middle), jnp.where(beyond, middle, upper)

        # Newton's method overshoots, as the logarithm tends to −∞ at q₀, and optimistix.Bisection
        # refuses a bracket whose lower end has the value −∞ or NaN. 80 halvings reach rounding.
        return jax.lax.fori_loop(0, 80, halve, (start, upper))[1]

    return jnp.vectorize(solve)(log_time)


@_root.defjvp
def _(
    others: float, depth: int, primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[Array, Array]:
    """The derivatives of the root, which bisection does not have, from both sides of its equation.

    All are divided by e^q, which may overflow.
    """
    log_time, log_rate, start = primals
    gap, p = _root(*primals, others, depth), 2 - 2 / depth
    of_time, of_rate, of_start = tangents
    grown = jnp.exp(log_rate + log_time - gap)
    change = grown * (of_time - jnp.expm1(-log_time) * of_rate)
    change += (jnp.exp(start - gap) + others * jnp.exp(-gap)) * start**-p * of_start
    return gap, change * gap**p / (1 + others * jnp.exp(-gap))


def _log_elapsed(
    gap: Float[Array, ""], start: Float[Array, ""], others: float, depth: int
) -> Float[Array, ""]:
    """log ∫ (e^q + others) q^(2/m−2) dq, with the factor e^q split off against overflow."""
    k = 1 - 2 / depth
    grown = _scaled_integral(gap, depth) - jnp.exp(start - gap) * _scaled_integral(start, depth)
    slow = jnp.log(gap / start) if depth == 2 else (start**-k - gap**-k) / k
    return gap + jnp.log(grown + others * jnp.exp(-gap) * slow)


def _scaled_integral(q: Float[Array, ""], depth: int) -> Float[Array, ""]:
    """e^−q ∫ e^q q^(−p) dq for q > 0 and p = 2 − 2/m, without overflow; e^−q Ei(q) for m = 2.

    The integral is Σ_j q^(j−k)/(j! (j − k)) with k = 1 − 2/m, and for large q asymptotically
    e^q q^(−p) Σ_j p(p+1)...(p+j−1)/q^j. The two differ by a constant, which is below rounding from
    q = 50 on.
    """
    if depth == 2:
        return _scaled_ei(q)
    k, p = 1 - 2 / depth, 2 - 2 / depth
    # As in `_scaled_ei`, each argument is limited to the range of its branch.
    small = jnp.minimum(q, _POWER_ASYMPTOTIC_FROM)
    inverse = 1 / jnp.maximum(q, _POWER_ASYMPTOTIC_FROM)

    def add(i: ArrayLike, total: Float[Array, ""]) -> Float[Array, ""]:
        j = jnp.asarray(_POWER_SERIES_TERMS - i, q.dtype)
        return 1 / (j - 1 - k) + small / j * total

    # Horner's scheme: all terms but the first are positive, so that no digit cancels for q > 1.
    total = jax.lax.fori_loop(0, _POWER_SERIES_TERMS, add, jnp.zeros_like(q))
    series = jnp.ones_like(q)
    for j in range(_POWER_ASYMPTOTIC_TERMS, 0, -1):
        series = 1 + (p + j - 1) * inverse * series
    near, far = jnp.exp(-small) * small**-k * total, inverse**p * series
    return jnp.where(q < _POWER_ASYMPTOTIC_FROM, near, far)


@functools.cache
def _root_of_integral(depth: int) -> float:
    """The q at which the power series of `_scaled_integral` is 0."""
    if depth == 2:
        return ROOT_OF_EI
    with jax.ensure_compile_time_eval():
        return falling_root(
            lambda q: -_scaled_integral(q, depth), jnp.asarray(1e-3), jnp.asarray(5.0)
        ).item()


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
