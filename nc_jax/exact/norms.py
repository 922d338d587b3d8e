"""Norms and margins of Rangamani's square-loss theory in closed form.

The model is `NormalizedReLUNet`, whose loss s Σ ‖ρf − y‖² + λρ² has no ½. Norms are ρ, the product
of the layers' Frobenius norms; margins f̄_n = y_n f(x_n) are of the normalised network.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

from ..checks import check_integer, check_number
from ..precision import widened
from ..problems.reduction import check_reduction


class StuckMargins(NamedTuple):
    """The minimum over ρ where some samples are stuck at a margin (Rangamani, lemma 2).

    Attributes:
        norm: ρ at the minimum.
        objective: L at the minimum.
        gap: 1 − ρ/ρ₀, by which the outputs of the stuck samples miss their targets.
        margin_difference: 1/ρ − 1/ρ₀, by which the margins of the other samples are larger.

    Example:

        >>> stuck = nc.exact.stuck_margins(2.0, 0.25, num_samples=12, num_stuck=6)
        >>> round(float(stuck.margin_difference), 6)
        1.0
    """

    norm: Float[Array, ""]
    objective: Float[Array, ""]
    gap: Float[Array, ""]
    margin_difference: Float[Array, ""]


def logistic_norm(
    time: Real[ArrayLike, "*times"],
    *,
    start: Float[ArrayLike, ""],
    alignment: Float[ArrayLike, ""],
    second_moment: Float[ArrayLike, ""],
) -> Float[Array, "*times"]:
    """ρ(t) of two unnormalised layers of equal norm with constant margins (eq. 51, L = 2).

    ρ' = 4ρ(A − Bρ) is logistic: ρ = (A/B)/(1 + ((A/B)/ρ₀ − 1)e^(−4At)), for the summed loss. For
    the mean loss replace t by t/N.

    Args:
        time: t >= 0 of any shape.
        start: ρ₀ > 0.
        alignment: A = Σ f̄_n > 0.
        second_moment: B = Σ f̄_n² > 0.

    Returns: ρ with the shape of `time`.

    Raises: ValueError for a negative time, or for another argument that is not positive.

    Example: the norm rises from ρ₀ to A/B.

        >>> time = jnp.array([0.0, 20.0])
        >>> norm = nc.exact.logistic_norm(time, start=0.01, alignment=2.0, second_moment=1.0)
        >>> np.asarray(norm).round(6).tolist()
        [0.01, 2.0]
    """
    check_number("time", time)
    _check_growth(start, alignment, second_moment)
    time = widened(time)
    start, alignment, second_moment = (
        jnp.asarray(value, time.dtype) for value in (start, alignment, second_moment)
    )
    passed = 4 * alignment * time
    # Numerator and denominator are divided by e^(4At), which would overflow.
    return start / (jnp.exp(-passed) - start * second_moment / alignment * jnp.expm1(-passed))


def norm_time(
    norm: Real[ArrayLike, "*norms"],
    *,
    start: Float[ArrayLike, ""],
    alignment: Float[ArrayLike, ""],
    second_moment: Float[ArrayLike, ""],
    num_layers: int,
) -> Float[Array, "*norms"]:
    """Time at which ρ' = 2Lρ^(2−2/L)(A − Bρ) of any number of layers reaches ρ (eq. 51).

    With u = ρ^(1/L), R = (A/B)^(1/L), v = u/R and the L-th roots of unity ω,
    2At = (u₀^(2−L) − u^(2−L))/(L−2) − R^(2−L)/L [Re Σ_ω ω² log(1 − v/ω)] from v₀ to v, because
    A/(u^(L−1)(A − Bu^L)) = u^(1−L) + Bu/(A − Bu^L). The first term is log(u/u₀) for L = 2, and
    absent for L = 1. For ρ far above A/B the two terms almost cancel: a share A/(Bρ) of each is
    left.

    Args:
        norm: ρ > 0 of any shape, on the same side of A/B as ρ₀.
        start, alignment, second_moment: as for `logistic_norm`.
        num_layers: L >= 1.

    Returns: t of the summed loss with the shape of `norm`: ∞ at A/B, NaN on the other side of A/B,
    and negative for norms that the flow has before the start.

    Raises: ValueError for an argument that is not positive, or fewer than 1 layer.

    Example: the inverse of `logistic_norm`.

        >>> flow = {"start": 0.01, "alignment": 2.0, "second_moment": 1.0}
        >>> norm = nc.exact.logistic_norm(0.5, **flow)
        >>> round(float(nc.exact.norm_time(norm, **flow, num_layers=2)), 6)
        0.5
    """
    check_number("norm", norm, above_zero=True)
    _check_growth(start, alignment, second_moment)
    check_integer("num_layers", num_layers)
    norm = widened(norm)
    start, alignment, second_moment = (
        jnp.asarray(value, norm.dtype) for value in (start, alignment, second_moment)
    )
    # u, u₀ and R of the docstring.
    values = norm, start, alignment / second_moment
    u, u0, limit = (value ** (1 / num_layers) for value in values)
    # The first integral, of u^(1−L). For one layer it cancels against a part of the second.
    if num_layers == 1:
        rise = jnp.zeros_like(u)
    elif num_layers == 2:
        rise = jnp.log(u / u0)
    else:
        rise = (u0 ** (2 - num_layers) - u ** (2 - num_layers)) / (num_layers - 2)
    # The root ω = 1 enters by the ratio of both ends: on different sides of the limit the ratio is
    # negative, so that its logarithm is NaN, as it should be.
    logs = jnp.log((limit - u) / (limit - u0))
    logs += _complex_roots(u / limit, num_layers) - _complex_roots(u0 / limit, num_layers)
    return (rise - limit ** (2 - num_layers) / num_layers * logs) / (2 * alignment)


def normalized_norm(
    time: Real[ArrayLike, "*times"],
    *,
    start: Float[ArrayLike, ""],
    mean_margin: Float[ArrayLike, ""],
    second_moment: Float[ArrayLike, ""],
    decay: Float[ArrayLike, ""],
) -> Float[Array, "*times"]:
    """ρ(t) of normalised layers with constant margins, the solution of the linear equation 8.

    ρ' = 2(μ − ρ(M + λ)) gives ρ = ρ_eq + (ρ₀ − ρ_eq)e^(−2(M+λ)t) with ρ_eq = μ/(M + λ) (eq. 11),
    for the mean loss. For the summed loss give Nμ and NM.

    Args:
        time: t >= 0 of any shape.
        start: ρ₀ >= 0.
        mean_margin: μ = (1/N) Σ f̄_n, of any sign.
        second_moment: M = (1/N) Σ f̄_n² > 0.
        decay: λ >= 0.

    Returns: ρ with the shape of `time`.

    Raises: ValueError for M that is not positive, or a time, start or decay that is negative.

    Example: the norm of an aligned network tends to 1/(1 + λ).

        >>> time = jnp.array([0.0, 20.0])
        >>> norm = nc.exact.normalized_norm(
        ...     time, start=0.1, mean_margin=1.0, second_moment=1.0, decay=0.25
        ... )
        >>> np.asarray(norm).round(6).tolist()
        [0.1, 0.8]
    """
    for name, value in (("time", time), ("start", start), ("decay", decay)):
        check_number(name, value)
    check_number("mean_margin", mean_margin, signed=True)
    check_number("second_moment", second_moment, above_zero=True)
    time = widened(time)
    start, mean_margin, rate = (
        jnp.asarray(value, time.dtype) for value in (start, mean_margin, second_moment + decay)
    )
    return mean_margin / rate + (start - mean_margin / rate) * jnp.exp(-2 * rate * time)


def stuck_margins(
    smallest_norm: Float[ArrayLike, ""],
    decay: Float[ArrayLike, ""],
    num_samples: int,
    num_stuck: int,
    *,
    reduction: Literal["mean", "sum"] = "mean",
) -> StuckMargins:
    """The least loss over ρ where M samples have f̄ = 1/ρ₀ and the others interpolate (lemma 2).

    L = s Σ (1 − ρf̄)² + λρ² has M terms (1 − ρ/ρ₀)² that are not 0, so that with λ_e = λ/s
    ρ = ρ₀/(1 + λ_e ρ₀²/M), L = λρ₀²/(1 + λ_e ρ₀²/M) (eqs. 42, 43), 1 − ρ/ρ₀ = λ_e ρ₀²/(M + λ_e ρ₀²)
    and 1/ρ − 1/ρ₀ = λ_e ρ₀/M. M = N is the first case of the lemma, with equal margins and the
    larger loss. The paper prints the gap 1 − ρ₀/ρ = λρ₀, with the ratio inverted.

    Args:
        smallest_norm: ρ₀ > 0, at which the stuck samples would be interpolated.
        decay: λ >= 0.
        num_samples: N.
        num_stuck: M.
        reduction: "mean" for s = 1/N, "sum" for s = 1.

    Raises: ValueError for M outside 1 … N, ρ₀ that is not positive, a negative λ, or an unknown
    reduction.

    Example:

        >>> stuck = nc.exact.stuck_margins(2.0, 0.25, num_samples=12, num_stuck=12)
        >>> float(stuck.norm), float(stuck.objective), float(stuck.gap)
        (1.0, 0.5, 0.5)
    """
    check_number("smallest_norm", smallest_norm, above_zero=True)
    check_number("decay", decay)
    check_integer("num_samples", num_samples)
    check_integer("num_stuck", num_stuck, most=num_samples)
    check_reduction(reduction)
    smallest_norm = widened(smallest_norm)
    decay = jnp.asarray(decay, smallest_norm.dtype)
    share = (num_samples if reduction == "mean" else 1) / num_stuck  # λ_e/(Mλ)
    excess = share * decay * smallest_norm**2
    difference = share * decay * smallest_norm
    return StuckMargins(
        norm=smallest_norm / (1 + excess),
        objective=decay * smallest_norm**2 / (1 + excess),
        gap=excess / (1 + excess),
        # If all samples are stuck (M = N), there are no other margins to differ from.
        margin_difference=difference if num_stuck < num_samples else jnp.zeros_like(difference),
    )


def _complex_roots(v: Float[Array, "*norms"], num_layers: int) -> Float[Array, "*norms"]:
    """Re Σ ω² log(1 − v/ω) over the roots of unity ω = e^(iθ) ≠ 1, in real arithmetic."""

    def term(angle: Float[Array, ""]) -> Float[Array, "*norms"]:
        # log|1 − v/ω|, by log1p, which is accurate for small v too.
        modulus = jnp.log1p(v**2 - 2 * v * jnp.cos(angle)) / 2
        argument = jnp.arctan2(v * jnp.sin(angle), 1 - v * jnp.cos(angle))
        return jnp.cos(2 * angle) * modulus - jnp.sin(2 * angle) * argument

    angles = jnp.asarray(2 * np.pi * np.arange(1, num_layers) / num_layers, v.dtype)
    return jnp.sum(jax.vmap(term)(angles), axis=0)


def _check_growth(
    start: Float[ArrayLike, ""],
    alignment: Float[ArrayLike, ""],
    second_moment: Float[ArrayLike, ""],
) -> None:
    """Refuse a start norm, an A or a B that is not positive."""
    values = (("start", start), ("alignment", alignment), ("second_moment", second_moment))
    for name, value in values:
        check_number(name, value, above_zero=True)
