"""Saddles between the origin and the minimum in closed form, with weight decay or on a sphere.

Without weight decay the saddles of Zhu's model exist on every sphere ‖W‖_F² + ‖H‖_F² = ρ²: ρ fixes
the logit gap, which weight decay fixes by τ = √(λ_W λ_H)/(s√n) otherwise.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from ..checks import check_integer, check_key
from ..errors import ArgumentError
from ..geometry import simplex_etf
from ..precision import check_dtype, matmul
from ..preconditions import check_below_threshold, check_sphere
from ..problems import UnconstrainedFeatures
from ..state import LastLayer
from .regularized import DecayRatios, aligned_state, decay_ratios


def grouped_saddle(
    problem: UnconstrainedFeatures,
    groups: int,
    *,
    radius: Float[ArrayLike, ""] | None = None,
    key: Key[Array, ""] | None = None,
    dtype: DTypeLike = float,
) -> LastLayer:
    """The critical point at a simplex ETF of m = `groups` points, each shared by K/m classes.

    Its logit gap is log(m/τ − (m−1)), and ‖∂L/∂Z‖₂ = s√n as at the origin (derived; not in Zhu).
    With m = K it is the minimum.

    Args:
        groups: m, a divisor of K from 2 on.
        radius: ρ of the sphere, for a problem without weight decay; None for one with decay.
        key: rotates the simplex at random.
        dtype: of the state.

    Raises: ValueError for m that does not divide K, d < m−1, τ >= 1, unbalanced classes, another
    loss than cross-entropy, a radius with weight decay, or no radius without.

    Example:

        >>> problem = nc.zhu(4, 4, 1, 5e-3)
        >>> state = nc.exact.grouped_saddle(problem, 2)
        >>> gradient = problem.gradient(state)
        >>> bool(jnp.linalg.norm(gradient.classifier) < 1e-12)
        True
        >>> nc.landscape.classify(problem, state).kind
        'strict saddle'
    """
    ratios = _ratios(problem, radius)
    classes = problem.num_classes
    check_integer("groups", groups, least=2, most=classes)
    if classes % groups:
        raise ValueError(f"groups = {groups}: give a divisor of num_classes = {classes} from 2 on.")
    frame = jnp.repeat(
        simplex_etf(groups, problem.feature_dim, key=key, dtype=dtype), classes // groups, 0
    )
    if ratios is None:
        return _state_on_sphere(problem, frame, radius)
    gap = math.log(groups / check_below_threshold(ratios.threshold) - (groups - 1))
    squared_row = gap * (groups - 1) / groups / ratios.features
    return aligned_state(problem, math.sqrt(squared_row) * frame, ratios.features)


def paired_saddle(
    problem: UnconstrainedFeatures,
    *,
    radius: Float[ArrayLike, ""] | None = None,
    key: Key[Array, ""] | None = None,
    dtype: DTypeLike = float,
) -> LastLayer:
    """The critical point where classes come in opposite pairs: w = ±r e_j, j = 1 … K/2.

    For K = 4 and ρ = 4 it is Ji's example 3.1 up to rotation. The logit z at the label solves
    1 − 2 sinh z/(2 cosh z + K − 2) = τ, a quadratic in e^z. It is a minimum for K = 2 only.

    Args and errors: as `grouped_saddle`; ValueError for odd K or d < K/2.

    Example: the margin of Ji's example 3.1.

        >>> problem = nc.ulpm(4, 4, 1)
        >>> state = nc.exact.paired_saddle(problem, radius=4.0)
        >>> np.asarray(nc.metrics.sample_margins(state, problem.labels)).round(6).tolist()
        [2.0, 2.0, 2.0, 2.0]
    """
    ratios = _ratios(problem, radius)
    check_dtype(dtype)
    classes, dim = problem.num_classes, problem.feature_dim
    if classes % 2 or dim < classes // 2:
        raise ArgumentError(
            f"num_classes = {classes}, feature_dim = {dim}: pairs need an even number of classes "
            "and half as many dimensions.",
            "num_classes",
            "feature_dim",
        )
    # Rows e_1, −e_1, e_2, −e_2, …
    signs = jnp.asarray(np.kron(np.eye(classes // 2, dim), [[1.0], [-1.0]]), dtype)
    if key is not None:
        check_key(key)
        signs = matmul(signs, jax.random.orthogonal(key, dim, dtype=dtype))
    if ratios is None:
        return _state_on_sphere(problem, signs, radius)
    ratio = check_below_threshold(ratios.threshold)
    # The one positive root x = e^z of τx² − (K−2)(1−τ)x − (2−τ) = 0.
    linear = (classes - 2) * (1 - ratio)
    odds = (linear + math.sqrt(linear**2 + 4 * ratio * (2 - ratio))) / (2 * ratio)
    classifier = math.sqrt(math.log(odds) / ratios.features) * signs
    return aligned_state(problem, classifier, ratios.features)


def subset_saddle(
    problem: UnconstrainedFeatures,
    active: int,
    *,
    radius: Float[ArrayLike, ""] | None = None,
    key: Key[Array, ""] | None = None,
    dtype: DTypeLike = float,
) -> LastLayer:
    """The critical point where the first m classes have collapsed, and the rows of others are zero.

    The m active classes form a simplex ETF. A bias has one value on the active classes and one on
    the others, with mean zero. Gap and bias are the root of two scalar equations, found by a dogleg
    iteration (derived; not in Zhu).

    Args and errors: as `grouped_saddle`, with `active` = m from 2 to K−1; ValueError where there is
    no such point, and for a radius with a bias.

    Example:

        >>> state = nc.exact.subset_saddle(nc.ulpm(3, 4, 1), 2, radius=2.0)
        >>> np.linalg.norm(state.classifier, axis=1).round(6).tolist()
        [1.0, 1.0, 0.0]
    """
    ratios = _ratios(problem, radius)
    classes = problem.num_classes
    active = check_integer("active", active, least=2, most=classes - 1)
    frame = simplex_etf(active, problem.feature_dim, key=key, dtype=dtype)
    frame = jnp.pad(frame, ((0, classes - active), (0, 0)))
    if ratios is None:
        return _state_on_sphere(problem, frame, radius)
    gap, offset = _subset_gap(problem, active, check_below_threshold(ratios.threshold), ratios.size)
    squared_row = gap * (active - 1) / active / ratios.features
    state = aligned_state(problem, math.sqrt(squared_row) * frame, ratios.features)
    if state.bias is None:
        return state
    # `offset` is the bias of an inactive class less that of an active one; the mean bias is 0,
    # since adding a constant changes nothing but a penalty.
    inactive = jnp.arange(classes) >= active
    bias = jnp.where(inactive, active * offset, -(classes - active) * offset) / classes
    return LastLayer(state.features, state.classifier, bias.astype(dtype))


def _ratios(
    problem: UnconstrainedFeatures, radius: Float[ArrayLike, ""] | None
) -> DecayRatios | None:
    """The ratios of a problem with decay, None on a sphere; preconditions of both are checked."""
    if radius is None:
        return decay_ratios(problem)
    check_sphere(problem, radius)
    return None


def _subset_gap(
    problem: UnconstrainedFeatures, active: int, ratio: float, size: int
) -> tuple[float, float]:
    """Logit gap of the active classes, and the offset of the others' bias."""
    # As arrays, since Equinox compiles anew for every other Python float.
    settings = (ratio, problem.loss_scale * size, problem.weight_decay.bias)
    gap, offset, residual = (
        float(x)
        for x in _solve_subset(
            active, problem.num_classes, problem.bias, *map(jnp.asarray, settings)
        )
    )
    # A NaN, and the root gap = 0 of the origin, are refused too.
    if not (residual < 1e-6 and gap > 0):
        raise ValueError(
            f"active = {active}: no such critical point was found at this weight decay. "
            "Lower the decay."
        )
    return gap, offset


@eqx.filter_jit
def _solve_subset(
    active: int,
    classes: int,
    bias: bool,
    ratio: Float[Array, ""],
    size: Float[Array, ""],
    decay: Float[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """Root (gap, offset) of the stationarity conditions, and the residual there."""
    inactive = classes - active

    def residuals(unknowns: Float[Array, "2"], args: None) -> Float[Array, "2"]:
        del args
        gap, offset = unknowns
        # At an active sample, exponentials of logits relative to that of a wrong active class:
        # e^gap at the label, 1 at the other active classes, and `weight` at each inactive one.
        weight = jnp.exp(gap / active + offset)
        sum_at_active = jnp.exp(gap) + active - 1 + inactive * weight
        # At an inactive sample the features are zero, and the logits are the biases.
        sum_at_inactive = active + inactive * jnp.exp(offset)
        contrast = 1 - (jnp.exp(gap) - 1) / sum_at_active - ratio
        # The probabilities of an inactive class, summed over one sample of each class, minus 1.
        excess = active * weight / sum_at_active + inactive * jnp.exp(offset) / sum_at_inactive - 1
        on_bias = size * excess + decay * active * offset / classes
        return jnp.stack([contrast, on_bias if bias else offset])

    # Start at the approximate gap of a model with the active classes only and no bias.
    start = jnp.stack([jnp.log(active / ratio), jnp.zeros_like(ratio)])
    # `throw=False`: the caller checks the residual, and raises an error that names the fix.
    solution = optimistix.root_find(
        residuals, optimistix.Dogleg(1e-13, 1e-13), start, throw=False, max_steps=500
    )
    largest = jnp.max(jnp.abs(residuals(solution.value, None)))
    return solution.value[0], solution.value[1], largest


def _state_on_sphere(
    problem: UnconstrainedFeatures, frame: Float[Array, "K d"], radius: Float[ArrayLike, ""] | None
) -> LastLayer:
    """The state whose classifier is a multiple of the frame, with ‖W‖_F = ‖H‖_F = ρ/√2."""
    length = jnp.asarray(radius, frame.dtype) / math.sqrt(2)
    ratio = 1 / math.sqrt(problem.class_sizes[0])
    return aligned_state(problem, length / jnp.linalg.norm(frame) * frame, ratio)
