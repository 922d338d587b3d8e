"""The normalised flow of a linear network of two layers on one sample, in closed form.

This is the flow of `NormalizedReLUNet` with Lagrange normalisation, the identity as activation and
without decay, on samples with the same x = y_n x_n (derived; Rangamani has it without a solution).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ..checks import check_arrays, check_kind, check_number, is_traced
from ..precision import matmul, widened
from ..problems import Layers
from .roots import falling_root

# Nodes and weights of the tanh-sinh rule on (0, 1). Its error is below rounding for the integrand
# of `linear_time`. They are NumPy arrays: JAX arrays would be float32 if x64 is switched on later.
_SPACING = 1 / 16


_GRID = _SPACING * np.arange(-56, 57)


_NODES = 1 / (1 + np.exp(-np.pi * np.sinh(_GRID)))


# The reversed nodes are 1 − node, since the grid is symmetric. A subtraction would lose the digits
# of 1 − node near the right end.
_NODE_WEIGHTS = _SPACING * np.pi * np.cosh(_GRID) * _NODES * _NODES[::-1]


def linear_path(
    start: Layers, sample: Float[ArrayLike, " d"], progress: Float[ArrayLike, "*points"]
) -> Layers:
    """The normalised flow of a linear net of two layers, without decay, on one sample (derived).

    With b = v_2ᵀ, P = V_1 x, output f and the new time ds = 2ρ(1 − ρf) dt the flow is
    V_1' = bxᵀ − fV_1, b' = P − fb, ρ' = f/ρ. Up to a common factor 1/α it is linear, P' = b and
    b' = P, with V_1 constant on the complement of x. Hence α = ‖b‖ = ‖cosh(s) b₀ + sinh(s) P₀‖ and
    f = ⟨b, P⟩/α², and α' = fα gives ρ² = ρ₀² + 2 log α: the norm grows only as far as the layers
    align.

    Args:
        start: (ρ; V_1, V_2) of shapes (1,), (h, d), (1, h) with ‖V_k‖_F = 1 and ρ > 0.
        sample: x = y_n x_n of norm 1, the same for all samples n.
        progress: s of any shape, from 0 to `linear_limit`, which is negative for ρ₀f₀ > 1.

    Returns: states with the leading axes of `progress`; NaN for s beyond a point where ρ is 0.

    Raises: ValueError for a start or sample of another shape or norm.

    Example: the flow ends where the output is ρf = 1.

        >>> x = np.array([0.6, 0.8])
        >>> first, second = np.array([[0.6, 0.8], [0.0, 0.0]]), np.array([[0.6, 0.8]])
        >>> start = nc.Layers((jnp.asarray(first), jnp.asarray(second)), jnp.array([1.0]))
        >>> end = nc.exact.linear_path(start, x, nc.exact.linear_limit(start, x))
        >>> round(float((end.norms * (end.matrices[1] @ end.matrices[0] @ x))[0]), 6)
        1.0
    """
    modes = _modes(start, sample)
    check_number("progress", progress, signed=True)
    progress = jnp.asarray(progress, modes.growing.dtype)
    x = jnp.asarray(sample, modes.growing.dtype)

    def at(s: Float[Array, ""]) -> Layers:
        # b, P and V_1 are divided by e^s. The factor cancels in the quotients by `length`.
        fading = jnp.exp(-2 * s) * modes.fading
        length = jnp.linalg.norm(modes.growing + fading)
        first = jnp.outer(modes.growing - fading, x) + jnp.exp(-s) * modes.across
        second = (modes.growing + fading)[None]
        norm, _ = _norm_and_output(modes, s)
        return Layers((first / length, second / length), norm[None])

    # `vmap` takes one axis, so that `progress` of any shape is flattened first.
    states = jax.vmap(at)(progress.reshape(-1))
    return jax.tree.map(lambda leaf: leaf.reshape(*progress.shape, *leaf.shape[1:]), states)


def linear_limit(start: Layers, sample: Float[ArrayLike, " d"]) -> Float[Array, ""]:
    """The s at which the flow of `linear_path` stops, where ρf = 1.

    ρf increases where it is positive, since f' = 1 + ‖P/α‖² − 2f² >= 1 − f²: there is one root,
    which bisection finds to rounding. ρ at the root depends on the start: without decay the flow
    ends where it first interpolates, and not at the largest margin f = 1, ρ = 1. The function can
    be differentiated with respect to the start.

    Args and errors: as `linear_path`; ValueError where ρ falls to 0 before f has risen to 0 (a
    traced start gives NaN).

    Example: an aligned start at f = 1 has ρ² = ρ₀² + 2s, so that ρ = 1 at s = (1 − ρ₀²)/2.

        >>> x, aligned = np.array([1.0, 0.0]), jnp.array([[1.0, 0.0], [0.0, 0.0]])
        >>> start = nc.Layers((aligned, aligned[:1]), jnp.array([0.5]))
        >>> round(float(nc.exact.linear_limit(start, x)), 6)
        0.375
    """
    modes = _modes(start, sample)
    # Bounds of the root have no part in its derivative, and log 0 would make it NaN.
    known = jax.lax.stop_gradient(modes)
    growing, fading = jnp.sum(known.growing**2), jnp.sum(known.fading**2)
    bottom = jnp.log(fading / growing) / 4  # where α is least and f changes its sign
    # If ρ² is negative at the bottom, ρ is NaN there and the comparison is False.
    reached = _norm_and_output(known, jnp.maximum(bottom, 0))[0] > 0
    if not is_traced(reached) and not bool(reached):
        raise ValueError(
            f"start: norm {modes.norm:.3g} falls to 0 before the output turns positive; "
            "start from a larger norm."
        )

    def remaining(s: Float[Array, ""]) -> Float[Array, ""]:
        norm, output = _norm_and_output(modes, s)
        # Where ρ² < 0 the norm is NaN: such s are below the root.
        return jnp.where(norm >= 0, 1 - norm * output, 1)

    # Forward from the bottom f >= tanh, so that ρ² >= 2 log cosh, and ρf > 1 from a distance of 2
    # on. Backward ρ² <= ρ₀² − 2|s| + 2 log 2, and ρf = 1 requires ρ >= 1. This bounds the root.
    ends = jnp.maximum(bottom, -(known.norm**2) / 2 - 1), jnp.maximum(bottom, 0) + 2
    return jnp.where(reached, falling_root(remaining, *ends), jnp.nan)


def linear_time(
    start: Layers, sample: Float[ArrayLike, " d"], progress: Float[ArrayLike, "*points"]
) -> Float[Array, "*points"]:
    """The time t = ∫ ds/(2ρ(1 − ρf)) at which the flow of `linear_path` is at s, for the mean loss.

    The integrand is smooth as a function of log(s* − s), where s* is the limit. A tanh-sinh rule
    integrates it to rounding unless ρ comes close to 0. Near the limit t has the relative accuracy
    of s* − s. For the summed loss replace t by Nt.

    Args and errors: as `linear_limit`. Returns t with the shape of `progress`: ∞ at the limit, NaN
    beyond.

    Example:

        >>> x, aligned = np.array([1.0, 0.0]), jnp.array([[1.0, 0.0], [0.0, 0.0]])
        >>> start = nc.Layers((aligned, aligned[:1]), jnp.array([0.5]))
        >>> time = nc.exact.linear_time(start, x, jnp.array([0.0, 0.25, 0.375]))
        >>> np.asarray(time).round(4).tolist()
        [0.0, 0.6585, inf]
    """
    modes, limit = _modes(start, sample), linear_limit(start, sample)
    check_number("progress", progress, signed=True)
    progress = jnp.asarray(progress, limit.dtype)
    # The variable of integration is v, where s = s_max · (1 − e^(−v)) and s_max is `limit`; v runs
    # from 0 to `span`.
    span = -jnp.log1p(-progress / limit)[..., None]
    nodes, weights = _last_axis(_NODES, span), _last_axis(_NODE_WEIGHTS, span)
    # ds/dv = s_max − s is computed from v, since the subtraction loses digits near the limit.
    s, remaining = -limit * jnp.expm1(-span * nodes), limit * jnp.exp(-span * nodes)
    norm, output = _norm_and_output(modes, s)
    integral = span[..., 0] * jnp.sum(
        weights * remaining / (2 * norm * (1 - norm * output)), axis=-1
    )
    # The limit is a root, which is known to rounding.
    rounding = 4 * jnp.finfo(limit.dtype).eps * jnp.abs(limit)
    return jnp.where(jnp.abs(progress - limit) <= rounding, jnp.inf, integral)


class _Modes(NamedTuple):
    """A start of the linear flow, split into the modes of P' = b and b' = P.

    b = e^s growing + e^(−s) fading and P = e^s growing − e^(−s) fading, both up to the factor 1/α.
    `across` is the part of V_1 orthogonal to the sample, and `norm` is ρ₀.
    """

    growing: Float[Array, " h"]
    fading: Float[Array, " h"]
    across: Float[Array, "h d"]
    norm: Float[Array, ""]


def _modes(start: Layers, sample: Float[ArrayLike, " d"]) -> _Modes:
    check_kind("start", start, Layers, "NormalizedReLUNet(..., widths=(h,)).init(key)")
    check_arrays("start", start)
    start = widened(start)
    check_number("sample", sample, signed=True)
    if np.ndim(sample) != 1:
        raise ValueError(f"sample has shape {np.shape(sample)}: give one dimension of inputs.")
    shapes = [matrix.shape for matrix in start.matrices]
    dim = np.shape(sample)[0]
    if start.norms is None or len(start.norms) != 1 or shapes != [shapes[0], (1, shapes[0][0])]:
        raise ValueError(
            f"start has matrices of shapes {shapes} and norms {start.norms}: give one norm, (h, d) "
            "and (1, h), as NormalizedReLUNet(..., widths=(h,)).init(key) does."
        )
    if shapes[0][1] != dim:
        raise ValueError(
            f"sample has {dim} entries where the start's first layer reads {shapes[0][1]}."
        )
    first, second = start.matrices
    x = jnp.asarray(sample, first.dtype)
    for name, value in (("sample", x), ("start: V_1", first), ("start: V_2", second)):
        length = jnp.linalg.norm(value)
        # "Not below" in the place of "above", so that a NaN is refused too.
        if not is_traced(length) and not abs(length - 1) < 1e-5:
            raise ValueError(f"{name} has norm {length:.6g}: scale it to 1.")
    check_number("start: norm", start.norms, above_zero=True)
    output, along = second[0], matmul(first, x)
    return _Modes(
        growing=(output + along) / 2,
        fading=(output - along) / 2,
        across=first - jnp.outer(along, x),
        norm=start.norms[0],
    )


def _norm_and_output(
    modes: _Modes, s: Float[Array, "*points"]
) -> tuple[Float[Array, "*points"], Float[Array, "*points"]]:
    """ρ = √(ρ₀² + 2 log α) and f at s."""
    growing, fading = jnp.sum(modes.growing**2), jnp.sum(modes.fading**2)
    # `both` is α²/e^(2s). Without a fading part its factor e^(−4s) may overflow, and is left out.
    shrunk = jnp.exp(-2 * jnp.where(fading > 0, s, 0))
    both = growing + shrunk**2 * fading + 2 * shrunk * jnp.sum(modes.growing * modes.fading)
    # Near the start α is near 1, and log α is computed from α² − 1, so that ρ is accurate for a
    # small ρ₀ too. `where` computes both branches, so that s is clipped: expm1 would overflow.
    clipped = jnp.clip(s, -0.5, 0.5)
    change = growing * jnp.expm1(2 * clipped) + fading * jnp.expm1(-2 * clipped)
    growth = jnp.where(jnp.abs(s) < 0.5, jnp.log1p(change), 2 * s + jnp.log(both))
    return jnp.sqrt(modes.norm**2 + growth), (growing - shrunk**2 * fading) / both


def _last_axis(
    values: Float[np.ndarray, " n"], like: Float[Array, "... 1"]
) -> Float[Array, "... n"]:
    """The values along the last axis of an array with as many axes as `like`.

    The axes are explicit, so that the function works under `jax_numpy_rank_promotion="raise"`.
    """
    return jnp.asarray(np.expand_dims(values, tuple(range(like.ndim - 1))), like.dtype)
