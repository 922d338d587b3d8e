"""Explicit directions out of critical points that are no minima (Ji, thm 3.4; Zhu, thm 3.2).

Both proofs rest on the top singular pair (u, v) of G = ∂L/∂Z and a unit vector a with Wa = 0 and
Hᵀa = 0 (in the papers' notation): along dW = x·u aᵀ, dH = −y·a vᵀ the logits stay as they are to
first order, and the loss falls to second. The best x and y are the lower eigenvector of a 2 x 2
matrix; the papers' choices are among them.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Int

from ..checks import check_integer
from ..display import named, summary
from ..precision import widened
from ..problems import UnconstrainedFeatures, check_like, check_shapes, check_unconstrained
from ..state import LastLayer
from .duality import top_singular_pair
from .hessian import (
    Linear,
    hessian_operator,
    project_onto_tangent,
    safe_norm,
    sphere_gradient,
)
from .kkt import check_homogeneous

CASES = (
    "optimal", "gradient", "zero multiplier", "positive multiplier", "null vector", "none known",
)  # fmt: skip
_OPTIMAL, _GRADIENT, _ZERO, _POSITIVE, _NULL, _UNKNOWN = range(6)


class DescentDirection(eqx.Module):
    """A unit direction in which the loss falls; under vmap every array gains leading axes.

    Attributes:
        direction: the unit direction; NaN in the cases "optimal", where there is none, and
            "none known".
        code: index into `CASES`; `case` is its name.
        slope: first derivative along it, <= 0.
        curvature: second derivative, on the sphere that along the great circle.
        spectral_norm: ‖G‖₂.
        multiplier: λ of ∇L = λ(W, H) + tangential part; without a sphere −√(λ_W λ_H).
    """

    direction: LastLayer
    code: Int[Array, "*batch"]
    slope: Float[Array, "*batch"]
    curvature: Float[Array, "*batch"]
    spectral_norm: Float[Array, "*batch"]
    multiplier: Float[Array, "*batch"]

    def __repr__(self) -> str:
        return summary(self, case=named(self.code, CASES), code=None)

    @property
    def case(self) -> str | np.ndarray:
        """Name of the case; an array of names for a batch."""
        names = np.array(CASES)[np.asarray(self.code)]
        return str(names) if names.ndim == 0 else names


@jax.debug_nans(False)  # Some of its results are NaN where there is none.
@eqx.filter_jit
def tangent_descent_direction(
    problem: UnconstrainedFeatures, state: LastLayer, log_scale: Float[ArrayLike, ""] = 0.0
) -> DescentDirection:
    """A direction tangent to the sphere in which the loss falls (Ji, theorem 3.4).

    One exists unless the state is collapsed with ‖W‖_F = ‖H‖_F. Which case of the proof gives it:

    | `case` | state | direction | on the sphere |
    |---|---|---|---|
    | gradient | ∇L not radial | −(∇L − λθ) | slope −‖∇L − λθ‖ |
    | zero multiplier | ∇L = 0 | x·u aᵀ, −y·a vᵀ, any unit a (the printed proof fails, E14) | < 0 |
    | positive multiplier | ∇L = λθ, λ > 0 | (W, −H) (missing in print, E15) | −2λ |
    | null vector | λ < 0, abs(λ) < ‖G‖₂ | (u aᵀ, −a vᵀ)/√2, Wa = 0, Hᵀa = 0 | −(‖G‖₂ − abs(λ)) |
    | optimal | λ < 0, abs(λ) = ‖G‖₂ | none | – |
    | none known | d < K−1, where there may be other minima; NaN, or the zero state | – | – |

    These are told apart to √eps of ‖G‖₂. Slopes and curvatures are those of e^log_scale L.

    Raises: ValueError for a problem with bias, weight decay or another loss than cross-entropy.

    Example: `tangent_descent_direction(ulpm(4, 4, 1), exact.example_3_1()).case`.
    """
    check_homogeneous(problem)
    check_shapes(problem, state, "state")
    state = widened(state)
    gradient, multiplier = sphere_gradient(problem, state, log_scale)
    apply = hessian_operator(problem, state, True, log_scale)
    sigma, paired = _singular_direction(problem, state, apply, log_scale)
    small = jnp.sqrt(jnp.finfo(sigma.dtype).eps) * sigma
    code = jnp.select(
        [
            safe_norm(gradient) > small * jnp.sqrt(state.squared_norm()),
            jnp.abs(multiplier) <= small,
            multiplier > 0,
            sigma + multiplier > small,
            sigma + multiplier <= small,
        ],
        [_GRADIENT, _ZERO, _POSITIVE, _NULL, _OPTIMAL],
        _UNKNOWN,
    )
    unbalanced = LastLayer(-state.features, state.classifier)
    chosen = jax.tree.map(
        lambda *leaves: jnp.select([code == _GRADIENT, code == _POSITIVE], leaves[:-1], leaves[-1]),
        gradient, unbalanced, paired,
    )  # fmt: skip
    return _finish(project_onto_tangent(state, chosen), gradient, apply, code, sigma, multiplier)


@jax.debug_nans(False)  # Some of its results are NaN where there is none.
@eqx.filter_jit
def escape_direction(problem: UnconstrainedFeatures, state: LastLayer) -> DescentDirection:
    """A direction in which the regularised loss falls (Zhu, theorem 3.2, as repaired).

    −∇L where that is not zero ("gradient"); at a critical point with ‖G‖₂ > √(λ_W λ_H) the pair
    above ("null vector"), of curvature (λ_W + λ_H)/2 − √((λ_W − λ_H)²/4 + ‖G‖₂²) or less; "optimal"
    where ‖G‖₂ <= √(λ_W λ_H), a global minimum. d >= K−1 is all it needs (the paper asks d > K),
    since critical points of rank d = K−1 are global; d >= K under squared error. Below that there
    may be other minima, with no null vector: "none known".

    Raises: ValueError for a problem that is no `UnconstrainedFeatures`, or a state of another
    shape.

    Example: `escape_direction(problem, exact.grouped_saddle(problem, 2)).curvature`.
    """
    check_unconstrained(problem)
    check_shapes(problem, state, "state")
    state = widened(state)
    gradient, decay = problem.gradient(state), problem.weight_decay
    apply = hessian_operator(problem, state)
    sigma, paired = _singular_direction(problem, state, apply, 0.0)
    threshold = jnp.sqrt(jnp.asarray(decay.classifier * decay.features, sigma.dtype))
    small = jnp.sqrt(jnp.finfo(sigma.dtype).eps) * jnp.maximum(sigma, threshold)
    size = jnp.maximum(safe_norm(state), 1)
    code = jnp.select(
        [
            safe_norm(gradient) > small * size,
            sigma - threshold > small,
            sigma - threshold <= small,
        ],
        [_GRADIENT, _NULL, _OPTIMAL],
        _UNKNOWN,
    )
    chosen = optax.tree.where(code == _GRADIENT, gradient, paired)
    return _finish(chosen, gradient, apply, code, sigma, -threshold)


@eqx.filter_jit
def descent_range(
    problem: UnconstrainedFeatures,
    state: LastLayer,
    direction: LastLayer,
    on_sphere: bool = False,
    num_steps: int = 600,
) -> Float[Array, ""]:
    """How far along a unit direction the loss is below its start, measured on a grid of steps.

    The largest step of the grid at which the loss is lower and up to which it is nowhere higher, 0
    if it is not at the first. Steps are even in their logarithm, from 1e-8 to 100 times max(‖x‖, 1)
    along the straight line, or angles from 1e-8 to π along the great circle of (W, H), ρ to the
    radian; a bias moves straight with them.

    Raises: ValueError for a state or a direction of another shape, or no steps.

    Example: `descent_range(problem, state, found.direction, on_sphere=True)`.
    """
    check_unconstrained(problem)
    check_shapes(problem, state, "state")
    check_like(state, direction, "direction", "the state", "give one for each of its arrays.")
    num_steps = check_integer("num_steps", num_steps)
    state, direction = widened((state, direction))
    length, radius = jnp.maximum(optax.tree.norm(state), 1), jnp.sqrt(state.squared_norm())
    steps = jnp.asarray(np.geomspace(1e-8, np.pi if on_sphere else 100, num_steps), length.dtype)
    steps = steps if on_sphere else steps * length

    def moved(step: Float[Array, ""]) -> LastLayer:
        if not on_sphere:
            return optax.tree.add_scale(state, step, direction)
        turned = optax.tree.scale(jnp.cos(step), state)
        turned = optax.tree.add_scale(turned, jnp.sin(step) * radius, direction)
        if state.bias is None or direction.bias is None:
            return turned
        bias = state.bias + step * radius * direction.bias
        return LastLayer(turned.features, turned.classifier, bias)

    start = problem.log_objective(state)
    change = jax.lax.map(lambda step: problem.log_objective(moved(step)) - start, steps)
    # Rounding errors of log L are those of the logits.
    noise = 10 * jnp.finfo(change.dtype).eps * jnp.maximum(jnp.max(jnp.abs(state.logits())), 1)
    not_yet_above = jnp.cumsum(change > noise) == 0
    return jnp.max(jnp.where(not_yet_above & (change < -noise), steps, 0))


def _singular_direction(
    problem: UnconstrainedFeatures,
    state: LastLayer,
    apply: Linear,
    log_scale: Float[ArrayLike, ""],
) -> tuple[Float[Array, ""], LastLayer]:
    """‖G‖₂, and the direction of least curvature in the span of (u aᵀ, 0) and (0, −a vᵀ)."""
    total_scale = log_scale + np.log(problem.loss_scale).item()
    residual = problem.loss.scaled_gradient(state.logits(), problem.labels, total_scale)
    sigma, left, right = top_singular_pair(residual)
    # An SVD, since Gram matrices know null vectors to √eps only; rows of zeros make it give all d.
    stacked = jnp.concatenate([state.classifier, state.features])
    stacked = jnp.pad(stacked, ((0, max(0, stacked.shape[1] - stacked.shape[0])), (0, 0)))
    null = jnp.linalg.svd(stacked, full_matrices=False)[2][-1]
    zero = jax.tree.map(jnp.zeros_like, state)
    pair = (
        LastLayer(zero.features, jnp.outer(left, null), zero.bias),
        LastLayer(-jnp.outer(right, null), zero.classifier, zero.bias),
    )
    compressed = jnp.stack(
        [jnp.stack([optax.tree.vdot(other, apply(one)) for other in pair]) for one in pair]
    )
    _, vectors = jnp.linalg.eigh(compressed)
    shares = vectors[:, 0]
    combined = optax.tree.add_scale(optax.tree.scale(shares[0], pair[0]), shares[1], pair[1])
    return sigma, combined


def _finish(
    direction: LastLayer,
    gradient: LastLayer,
    apply: Linear,
    code: Int[Array, ""],
    sigma: Float[Array, ""],
    multiplier: Float[Array, ""],
) -> DescentDirection:
    """Of unit length, downhill, with its derivatives."""
    length = safe_norm(direction)
    # What the proof promises of null vectors is checked: without one there is no descent.
    curvature = optax.tree.vdot(direction, apply(direction)) / length**2
    needs_curvature = (code == _NULL) | (code == _ZERO)
    code = jnp.where(needs_curvature & ~(curvature < 0), _UNKNOWN, code)
    slope = jnp.asarray(optax.tree.vdot(gradient, direction))
    sign = jnp.where(slope > 0, -1, 1).astype(length.dtype)
    factor = jnp.where((code == _OPTIMAL) | (code == _UNKNOWN), jnp.nan, sign / length)
    direction = optax.tree.scale(factor, direction)
    return DescentDirection(
        direction=direction,
        code=code,
        slope=jnp.asarray(optax.tree.vdot(gradient, direction)),
        curvature=jnp.asarray(optax.tree.vdot(direction, apply(direction))),
        spectral_norm=sigma,
        multiplier=multiplier,
    )
