"""Explicit directions of descent at critical points that are no minima (Ji, 3.4; Zhu, 3.2).

Both proofs use the top singular pair (u, v) of G = ∂L/∂Z and a unit vector a with Wa = 0 and
Hᵀa = 0 (in the papers' notation). Along dW = x·u aᵀ, dH = −y·a vᵀ the logits are constant to first
order, and the loss decreases to second order. The best (x, y) is the eigenvector of a 2 x 2 matrix
for its smaller eigenvalue; the papers use fixed values.
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
from ..preconditions import check_homogeneous, check_unconstrained, check_uniform
from ..problems import NormalizedFeatures, UnconstrainedFeatures, check_shapes, is_normalized
from ..state import LastLayer
from .curvature import LinearMap
from .domains import OnSphere, WholeSpace, check_direction, domain_of
from .duality import top_singular_pair
from .lanczos import safe_norm

CASES = (
    "optimal", "gradient", "zero multiplier", "positive multiplier", "null vector", "none known",
)  # fmt: skip
_OPTIMAL, _GRADIENT, _ZERO, _POSITIVE, _NULL, _UNKNOWN = range(6)


class DescentDirection(eqx.Module):
    """A unit direction in which the loss decreases; under vmap every array gains leading axes.

    Attributes:
        direction: the unit direction; NaN in the cases "optimal", where there is none, and
            "none known".
        code: index into `CASES`; `case` is its name.
        slope: first derivative along it, <= 0.
        curvature: second derivative along it, on the sphere along the great circle.
        spectral_norm: ‖G‖₂.
        multiplier: λ of ∇L = λ(W, H) + tangential part; without a sphere −√(λ_W λ_H).

    Example: ‖G‖₂ is larger than abs(λ) where the loss decreases along a null vector.

        >>> problem = nc.zhu(4, 4, 1, 5e-3)
        >>> found = nc.landscape.escape_direction(problem, nc.exact.grouped_saddle(problem, 2))
        >>> bool(found.spectral_norm > -found.multiplier)
        True
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


@jax.debug_nans(False)  # NaN is a result: there is no direction at an optimum.
@eqx.filter_jit
def tangent_descent_direction(
    problem: UnconstrainedFeatures, state: LastLayer, *, log_scale: Float[ArrayLike, ""] = 0.0
) -> DescentDirection:
    """A direction tangent to the sphere in which the loss decreases (Ji, theorem 3.4).

    One exists unless the state is collapsed with ‖W‖_F = ‖H‖_F. The cases of the proof:

    | `case` | state | direction | on the sphere |
    |---|---|---|---|
    | gradient | ∇L not radial | −(∇L − λθ) | slope −‖∇L − λθ‖ |
    | zero multiplier | ∇L = 0 | x·u aᵀ, −y·a vᵀ, any unit a (the printed proof fails, E14) | < 0 |
    | positive multiplier | ∇L = λθ, λ > 0 | (W, −H) (missing in print, E15) | −2λ |
    | null vector | λ < 0, abs(λ) < ‖G‖₂ | (u aᵀ, −a vᵀ)/√2, Wa = 0, Hᵀa = 0 | −(‖G‖₂ − abs(λ)) |
    | optimal | λ < 0, abs(λ) = ‖G‖₂ | none | – |
    | none known | d < K−1, where there may be other minima; NaN, or the zero state | – | – |

    Quantities below √eps ‖G‖₂ count as zero. The last column has the slope or the curvature of
    e^log_scale L. `problem` is the problem itself, not `OnSphere(problem)`.

    Raises: ValueError for a problem with bias, weight decay or another loss than cross-entropy.

    Example:

        >>> problem, state = nc.ulpm(4, 4, 1), nc.exact.example_3_1()
        >>> found = nc.landscape.tangent_descent_direction(problem, state)
        >>> found.case, bool(found.curvature < 0)
        ('null vector', True)
    """
    check_homogeneous(problem)
    check_shapes(problem, state, name="state")
    state = widened(state)
    sphere = OnSphere(problem)
    gradient, multiplier = sphere.gradient_and_multiplier(state, log_scale)
    apply = sphere.hessian(state, log_scale)
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
        # For NaN all comparisons are False, which leaves the default.
        [_GRADIENT, _ZERO, _POSITIVE, _NULL, _OPTIMAL],
        _UNKNOWN,
    )
    unbalanced = LastLayer(-state.features, state.classifier)
    chosen = jax.tree.map(
        lambda *leaves: jnp.select([code == _GRADIENT, code == _POSITIVE], leaves[:-1], leaves[-1]),
        gradient, unbalanced, paired,
    )  # fmt: skip
    tangent = sphere.project(state, chosen)
    return _normalized(tangent, gradient, apply, code, sigma, multiplier)


@jax.debug_nans(False)  # NaN is a result: there is no direction at an optimum.
@eqx.filter_jit
def escape_direction(problem: UnconstrainedFeatures, state: LastLayer) -> DescentDirection:
    """A direction in which the regularised loss decreases (Zhu, theorem 3.2, repaired).

    | `case` | state | direction |
    |---|---|---|
    | gradient | ∇L ≠ 0 | −∇L |
    | null vector | critical, ‖G‖₂ > √(λ_W λ_H) | (x·u aᵀ, −y·a vᵀ), Wa = 0, Hᵀa = 0 |
    | optimal | ‖G‖₂ <= √(λ_W λ_H), a global minimum | none |
    | none known | no null vector a | none |

    The curvature along the null vector is (λ_W + λ_H)/2 − √((λ_W − λ_H)²/4 + ‖G‖₂²) or less. Such a
    vector exists for d >= K−1 (the paper asks d > K), since critical points of rank d = K−1 are
    global minima, and for d >= K under squared error. In fewer dimensions there may be other
    minima.

    Raises: ValueError for a problem that is no `UnconstrainedFeatures`, weights of classes, or a
    state of another shape.

    Example:

        >>> problem = nc.zhu(4, 4, 1, 5e-3)
        >>> found = nc.landscape.escape_direction(problem, nc.exact.grouped_saddle(problem, 2))
        >>> found.case, bool(found.curvature < 0)
        ('null vector', True)
    """
    check_uniform(problem)
    check_shapes(problem, state, name="state")
    state = widened(state)
    gradient, decay = problem.gradient(state), problem.weight_decay
    apply = WholeSpace(problem).hessian(state, 0.0)
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
    return _normalized(chosen, gradient, apply, code, sigma, -threshold)


@eqx.filter_jit
def descent_range(
    problem: UnconstrainedFeatures | NormalizedFeatures | OnSphere,
    state: LastLayer,
    direction: LastLayer,
    *,
    num_steps: int = 600,
) -> Float[Array, ""]:
    """Largest step along a unit direction up to which the loss is below its value at the state.

    The loss is evaluated on a grid of steps in geometric progression. The result is the largest
    step at which the loss is lower, with no higher loss at any smaller step; 0 if there is none.
    Steps are lengths from 1e-8 to 100 times max(‖x‖, 1) along the straight line, and for
    `OnSphere(problem)` angles in radians from 1e-8 to π along the great circle of (W, H), while a
    bias moves straight, by ρ times the angle. In a `NormalizedFeatures` each row moves along its
    great circle, and steps are lengths of the path of all rows up to π√(N+K).

    Raises: ValueError for a state or a direction of another shape, or no steps.

    Example: from Ji's example 3.1 along its direction of descent.

        >>> problem, state = nc.ulpm(4, 4, 1), nc.exact.example_3_1()
        >>> found = nc.landscape.tangent_descent_direction(problem, state)
        >>> sphere = nc.landscape.OnSphere(problem)
        >>> reach = nc.landscape.descent_range(sphere, state, found.direction)
        >>> 0.5 < float(reach) < 3.15
        True
    """
    domain = domain_of(problem)
    model = domain.problem
    if not is_normalized(model):
        check_unconstrained(model)
        # For type checkers: the line above has refused other problems.
        assert isinstance(model, UnconstrainedFeatures)
    check_shapes(model, state, name="state")
    check_direction(state, direction)
    num_steps = check_integer("num_steps", num_steps)
    state, direction = widened((state, direction))
    steps, start = domain.steps(state, num_steps), model.log_objective(state)

    def log_change(step: Float[Array, ""]) -> Float[Array, ""]:
        return model.log_objective(domain.move(state, direction, step)) - start

    change = jax.lax.map(log_change, steps)
    # A change counts if it exceeds the rounding errors of log L, which are of the size of those of
    # the logits.
    noise = 10 * jnp.finfo(change.dtype).eps * jnp.maximum(jnp.max(jnp.abs(state.logits())), 1)
    not_yet_above = jnp.cumsum(change > noise) == 0
    return jnp.max(jnp.where(not_yet_above & (change < -noise), steps, 0))


def _singular_direction(
    problem: UnconstrainedFeatures,
    state: LastLayer,
    apply: LinearMap,
    log_scale: Float[ArrayLike, ""],
) -> tuple[Float[Array, ""], LastLayer]:
    """‖G‖₂, and the direction of least curvature in the span of (u aᵀ, 0) and (0, −a vᵀ)."""
    total_scale = log_scale + np.log(problem.loss_scale).item()
    residual = problem.loss.scaled_gradient(state.logits(), problem.labels, total_scale)
    sigma, left, right = top_singular_pair(residual)
    # An SVD, since null vectors of the Gram matrix are accurate to √eps only. Rows of zeros make
    # the reduced SVD return all d right singular vectors. A full SVD would also form all N+K left
    # ones.
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
    shares = vectors[:, 0]  # (x, y)
    combined = optax.tree.add_scale(optax.tree.scale(shares[0], pair[0]), shares[1], pair[1])
    return sigma, combined


def _normalized(
    direction: LastLayer,
    gradient: LastLayer,
    apply: LinearMap,
    code: Int[Array, ""],
    sigma: Float[Array, ""],
    multiplier: Float[Array, ""],
) -> DescentDirection:
    """The direction with unit length and descending sign, and the derivatives along it."""
    length = safe_norm(direction)
    # If no null vector exists, the proof does not apply, and the curvature may be positive. "Not
    # negative" in the place of "positive" includes NaN.
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
