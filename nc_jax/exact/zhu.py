"""Zhu's regularised model in closed form: its minimum, its origin, and saddles between them.

With balanced classes everything depends on τ = √(λ_W λ_H)/(s√n), s the loss's scale, which is
K√(nλ_W λ_H) for the mean loss: below 1 the minimum is neural collapse and the origin a saddle, from
1 on the origin is the minimum (a hypothesis that theorem 3.1 leaves out). Without weight decay the
same saddles exist on every sphere ‖W‖_F² + ‖H‖_F² = ρ², with τ in the place of the unknown.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int, Key

from ..checks import check_integer, check_key, check_number, is_traced
from ..geometry import simplex_etf
from ..losses import CrossEntropy, has_formulas_of
from ..precision import check_dtype, matmul
from ..problems import UnconstrainedFeatures, check_unconstrained
from ..state import LastLayer
from .ulpm import class_size


def regularized_minimizer(
    problem: UnconstrainedFeatures, key: Key[Array, ""] | None = None, dtype: DTypeLike = float
) -> LastLayer:
    """A global minimum of cross-entropy with weight decay (Zhu, theorem 3.1, in closed form).

    For τ < 1 a simplex ETF of logit gap a = log(K/τ − (K−1)) with h_ki = √(λ_W/(λ_H n)) w_k and
    ‖w_k‖² = a (K−1)/K √(λ_H n/λ_W); from τ = 1 on the origin. The bias is 0, where λ_b = 0 one
    choice of many. `key` turns the frame at random.

    Raises: ValueError for unbalanced classes, d < K−1, another loss than cross-entropy, or λ_W or
    λ_H that are 0.

    Example: `regularized_minimizer(zhu(10, 64, 100, 5e-4), jax.random.key(0))`.
    """
    check_unconstrained(problem)
    frame = simplex_etf(problem.num_classes, problem.feature_dim, key, dtype)
    gap = jnp.asarray(_collapse_gap(problem), dtype)
    squared_row = gap * (problem.num_classes - 1) / problem.num_classes / _feature_ratio(problem)
    return _balanced_state(problem, jnp.sqrt(squared_row) * frame)


def regularized_minimum(problem: UnconstrainedFeatures) -> Float[Array, ""]:
    """Value at `regularized_minimizer`: sN log(1 + (K−1)e^(−a)) + (K−1)√(nλ_W λ_H) a.

    sN log K from τ = 1 on, where a = 0.

    Raises: as `regularized_minimizer`.

    Example: `regularized_minimum(zhu(10, 64, 100, 5e-4))`.
    """
    gap, classes = jnp.asarray(_collapse_gap(problem)), problem.num_classes
    size = class_size(problem)
    decay = jnp.sqrt(jnp.asarray(size * _decay_product(problem)))
    data = jax.nn.softplus(jnp.log(jnp.asarray(classes - 1, gap.dtype)) - gap)
    return problem.loss_scale * problem.num_samples * data + (classes - 1) * decay * gap


def minimum_nullity(problem: UnconstrainedFeatures) -> int:
    """Zero eigenvalues of the Hessian at the minimum for τ < 1: (K−1)(2d−K)/2, + 1 if λ_b = 0.

    They are rotations of feature space and a constant bias: the minimum is unique up to these.

    Raises: ValueError for τ >= 1, and as `regularized_minimizer`.

    Example: `minimum_nullity(zhu(10, 64, 100, 5e-4))`.
    """
    _collapse_gap(problem)  # for its checks
    _check_below_threshold(problem)
    classes, dim = problem.num_classes, problem.feature_dim
    free = problem.bias and problem.weight_decay.bias == 0
    return (classes - 1) * (2 * dim - classes) // 2 + int(free)


def origin_eigenvalues(
    problem: UnconstrainedFeatures,
) -> tuple[Float[Array, " m"], Int[np.ndarray, " m"]]:
    """Eigenvalues of the Hessian at W = H = b = 0, and their multiplicities (derived; not in Zhu).

    | eigenvalue | times |
    |---|---|
    | (λ_W + λ_H)/2 ∓ √((λ_W − λ_H)²/4 + s²n) | d(K−1) each |
    | λ_W | d |
    | λ_H | d(N − K + 1) |
    | sn + λ_b; λ_b (with a bias) | K−1; 1 |

    The first is negative exactly for τ < 1. Holds without decay too.

    Raises: ValueError for unbalanced classes or another loss than cross-entropy.

    Example: `values, multiplicities = origin_eigenvalues(zhu(10, 64, 100, 5e-4))`.
    """
    _check_loss(problem)
    size, classes, dim = class_size(problem), problem.num_classes, problem.feature_dim
    decay, scale = problem.weight_decay, problem.loss_scale
    middle = jnp.asarray(decay.classifier + decay.features) / 2
    half = jnp.sqrt(jnp.asarray(decay.classifier - decay.features) ** 2 / 4 + scale**2 * size)
    values = [middle - half, middle + half, decay.classifier, decay.features]
    counts = [dim * (classes - 1)] * 2 + [dim, dim * (problem.num_samples - classes + 1)]
    if problem.bias:
        values += [scale * size + decay.bias, decay.bias]
        counts += [classes - 1, 1]
    return jnp.stack([jnp.asarray(value, half.dtype) for value in values]), np.array(counts)


def grouped_saddle(
    problem: UnconstrainedFeatures,
    groups: int,
    radius: Float[ArrayLike, ""] | None = None,
    key: Key[Array, ""] | None = None,
    dtype: DTypeLike = float,
) -> LastLayer:
    """The critical point where classes share `groups` points: a simplex ETF of m groups of K/m.

    Its logit gap is log(m/τ − (m−1)), and ‖∂L/∂Z‖₂ = s√n, that of the origin. With m = K it is the
    minimum.

    Args:
        groups: m, a divisor of K from 2 on.
        radius: ρ of the sphere, for a problem without weight decay; None with.
        key: turns it at random.

    Raises: ValueError for m that does not divide K, d < m−1, τ >= 1, unbalanced classes, another
    loss than cross-entropy, or a radius with weight decay or none without.

    Example: `grouped_saddle(zhu(4, 6, 5, 5e-3), 2)`.
    """
    check_unconstrained(problem)
    classes = problem.num_classes
    check_integer("groups", groups, least=2, most=classes)
    if classes % groups:
        raise ValueError(f"groups = {groups}: give a divisor of num_classes = {classes} from 2 on.")
    frame = jnp.repeat(simplex_etf(groups, problem.feature_dim, key, dtype), classes // groups, 0)
    if radius is not None:
        return _on_sphere(problem, frame, radius)
    ratio = _check_below_threshold(problem)
    gap = math.log(groups / ratio - (groups - 1))
    squared_row = gap * (groups - 1) / groups / _feature_ratio(problem)
    return _balanced_state(problem, math.sqrt(squared_row) * frame)


def paired_saddle(
    problem: UnconstrainedFeatures,
    radius: Float[ArrayLike, ""] | None = None,
    key: Key[Array, ""] | None = None,
    dtype: DTypeLike = float,
) -> LastLayer:
    """The critical point where classes come in opposite pairs: w = ±r e_j, j = 1 … K/2.

    Ji's example 3.1 for K = 4 at ρ = 4, up to rotation. The logit z of the own class solves
    1 − 2 sinh z/(2 cosh z + K − 2) = τ, a quadratic in e^z. It is a minimum for K = 2 only.

    Args and errors: as `grouped_saddle`; ValueError for odd K or d < K/2.

    Example: `paired_saddle(ulpm(4, 4, 1), radius=4.0)`.
    """
    check_unconstrained(problem)
    check_dtype(dtype)
    classes, dim = problem.num_classes, problem.feature_dim
    if classes % 2 or dim < classes // 2:
        raise ValueError(
            f"num_classes = {classes}, feature_dim = {dim}: pairs need an even number of classes "
            "and half as many dimensions."
        )
    signs = jnp.asarray(np.kron(np.eye(classes // 2, dim), [[1.0], [-1.0]]), dtype)
    if key is not None:
        check_key(key)
        signs = matmul(signs, jax.random.orthogonal(key, dim, dtype=dtype))
    if radius is not None:
        return _on_sphere(problem, signs, radius)
    ratio = _check_below_threshold(problem)
    linear = (classes - 2) * (1 - ratio)
    odds = (linear + math.sqrt(linear**2 + 4 * ratio * (2 - ratio))) / (2 * ratio)
    return _balanced_state(problem, math.sqrt(math.log(odds) / _feature_ratio(problem)) * signs)


def subset_saddle(
    problem: UnconstrainedFeatures,
    active: int,
    radius: Float[ArrayLike, ""] | None = None,
    key: Key[Array, ""] | None = None,
    dtype: DTypeLike = float,
) -> LastLayer:
    """The critical point where the first m classes have collapsed, and the others are zero.

    The active ones form a simplex ETF; where there is a bias it is one number on each side, of mean
    zero. Gap and bias are the root of two scalar equations, found by a dogleg iteration.

    Args and errors: as `grouped_saddle`, m from 2 to K−1; ValueError where there is no such point,
    and for a radius with a bias.

    Example: `subset_saddle(zhu(4, 6, 5, 5e-3), 3)`.
    """
    check_unconstrained(problem)
    classes = problem.num_classes
    active = check_integer("active", active, least=2, most=classes - 1)
    frame = simplex_etf(active, problem.feature_dim, key, dtype)
    frame = jnp.pad(frame, ((0, classes - active), (0, 0)))
    if radius is not None:
        return _on_sphere(problem, frame, radius)
    gap, offset = _subset_gap(problem, active)
    squared_row = gap * (active - 1) / active / _feature_ratio(problem)
    state = _balanced_state(problem, math.sqrt(squared_row) * frame)
    if state.bias is None:
        return state
    # `offset` is how far the bias of the inactive lies above that of the active.
    inactive = jnp.arange(classes) >= active
    bias = jnp.where(inactive, active * offset, -(classes - active) * offset) / classes
    return LastLayer(state.features, state.classifier, bias.astype(dtype))


def _subset_gap(problem: UnconstrainedFeatures, active: int) -> tuple[float, float]:
    """Logit gap of the active classes, and the offset of the others' bias."""
    ratio, size = _check_below_threshold(problem), problem.loss_scale * class_size(problem)
    settings = (ratio, size, problem.weight_decay.bias)
    gap, offset, left = (
        float(x)
        for x in _solve_subset(
            active, problem.num_classes, problem.bias, *map(jnp.asarray, settings)
        )
    )
    if not (left < 1e-6 and gap > 0):
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
    """Root (gap, offset) of the stationarity conditions, and the residual left there."""
    rest = classes - active

    def residuals(unknowns: Float[Array, "2"], args: None) -> Float[Array, "2"]:
        del args
        gap, offset = unknowns
        above = jnp.exp(gap / active + offset)  # of an inactive logit, at an active sample
        at_active = jnp.exp(gap) + active - 1 + rest * above
        at_rest = active + rest * jnp.exp(offset)
        contrast = 1 - (jnp.exp(gap) - 1) / at_active - ratio
        share = active * above / at_active + rest * jnp.exp(offset) / at_rest - 1
        on_bias = size * share + decay * active * offset / classes
        return jnp.stack([contrast, on_bias if bias else offset])

    start = jnp.stack([jnp.log(active / ratio), jnp.zeros_like(ratio)])
    solution = optimistix.root_find(
        residuals, optimistix.Dogleg(1e-13, 1e-13), start, throw=False, max_steps=500
    )
    left = jnp.max(jnp.abs(residuals(solution.value, None)))
    return solution.value[0], solution.value[1], left


def _balanced_state(problem: UnconstrainedFeatures, classifier: Float[Array, "K d"]) -> LastLayer:
    """The state with h_ki = √(λ_W/(λ_H n)) w_k, which every critical point has, and zero bias."""
    features = jnp.asarray(_feature_ratio(problem) * classifier)[problem.labels]
    bias = jnp.zeros(problem.num_classes, classifier.dtype) if problem.bias else None
    return LastLayer(features, classifier, bias)


def _on_sphere(
    problem: UnconstrainedFeatures, frame: Float[Array, "K d"], radius: Float[ArrayLike, ""]
) -> LastLayer:
    """The state whose classifier is a multiple of the frame, with ‖W‖_F = ‖H‖_F = ρ/√2."""
    _check_loss(problem)
    check_number("radius", radius, scalar=True)
    if problem.bias or not problem.weight_decay.absent:
        raise ValueError(
            f"radius = {radius}: the sphere is for problems without bias and weight decay, "
            "nc_jax.ulpm(...); leave it out."
        )
    length = jnp.asarray(radius, frame.dtype) / math.sqrt(2)
    classifier = length / jnp.linalg.norm(frame) * frame
    features = (classifier / math.sqrt(class_size(problem)))[problem.labels]
    return LastLayer(features, classifier)


def _collapse_gap(problem: UnconstrainedFeatures) -> Float[Array, ""]:
    """a = log(K/τ − (K−1)), or 0 from τ = 1 on."""
    check_unconstrained(problem)
    classes = problem.num_classes
    if problem.feature_dim < classes - 1:
        raise ValueError(
            f"feature_dim = {problem.feature_dim}: the minimum has a closed form for at least "
            f"num_classes - 1 = {classes - 1} dimensions."
        )
    ratio = jnp.minimum(jnp.asarray(_decay_ratio(problem)), 1)
    return jnp.log(classes / ratio - (classes - 1))


def _decay_ratio(problem: UnconstrainedFeatures) -> Float[Array, ""]:
    """τ = √(λ_W λ_H)/(s√n)."""
    size = class_size(problem)
    return jnp.sqrt(jnp.asarray(_decay_product(problem))) / (problem.loss_scale * math.sqrt(size))


def _decay_product(problem: UnconstrainedFeatures) -> float | Float[Array, ""]:
    _check_loss(problem)
    decay = problem.weight_decay
    for name in ("classifier", "features"):
        value = getattr(decay, name)
        if not is_traced(value) and not value > 0:
            raise ValueError(
                f"weight decay {name} = {value}: critical points of a finite size need numbers "
                "> 0; without decay give the radius of a sphere where there is one to give."
            )
    return decay.classifier * decay.features


def _feature_ratio(problem: UnconstrainedFeatures) -> Float[Array, ""]:
    """√(λ_W/(λ_H n)), features over classifiers at every critical point."""
    decay = problem.weight_decay
    return jnp.sqrt(jnp.asarray(decay.classifier / decay.features) / class_size(problem))


def _check_below_threshold(problem: UnconstrainedFeatures) -> float:
    """τ, where it is below 1."""
    traced = _decay_ratio(problem)
    if is_traced(traced):
        raise ValueError(
            "weight decay is traced: saddles are built for known numbers; close over them."
        )
    ratio = float(traced)
    if ratio >= 1:
        raise ValueError(
            f"weight decay: √(λ_W λ_H)/(s√n) = {ratio:.3g}, which is K√(nλ_W λ_H) for the mean "
            "loss; below 1 there are critical points besides the origin. Lower the decay."
        )
    return ratio


def _check_loss(problem: UnconstrainedFeatures) -> None:
    check_unconstrained(problem)
    if not has_formulas_of(problem.loss, CrossEntropy):
        raise ValueError(f"problem has {problem.loss}: these are points of CrossEntropy().")
