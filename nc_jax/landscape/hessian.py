"""Second derivatives of an objective: products, dense matrices, and their form on the sphere.

The sphere is ‖W‖_F² + ‖H‖_F² = ρ² through the state, on which Ji's theorems 3.3 and 3.4 live; a
bias is free on it. `log_scale` s everywhere means e^s L instead of L, formed in log space where the
loss allows it: states from the far end of a flow, of losses under 1e-100 or so, have Hessians that
underflow. s is to be about −log L: far above, the loss's own cap on exponents is what one sees.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import optimistix
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float, PyTree

from ..checks import check_number
from ..precision import widened
from ..problems import (
    AbstractProblem,
    GradientDescentODE,
    NormalizedReLUNet,
    check_like,
    check_shapes,
)
from ..state import LastLayer

Linear = Callable[[PyTree], PyTree]


@eqx.filter_jit
def hessian_vector_product(
    problem: AbstractProblem,
    state: PyTree,
    direction: PyTree,
    on_sphere: bool = False,
    log_scale: Float[ArrayLike, ""] = 0.0,
) -> PyTree:
    """∇²L(x)·D, or on the sphere the Riemannian P(∇²L − λ)P·D with λ = ⟨∇L, θ⟩/ρ², θ = (W, H).

    P removes the component along θ. The Riemannian Hessian is the second derivative of L along
    great circles; at points where ∇L is not radial too. Memory of a few states. A state of half
    precision is taken in float32, here and in all of this package.

    Raises: ValueError for a state or a direction of another shape, or `on_sphere` with a state that
    is no `LastLayer`.

    Example: `hessian_vector_product(problem, state, direction)`.
    """
    check_shapes(problem, state, "state")
    check_like(state, direction, "direction", "the state", "give one for each of its arrays.")
    state, direction = widened((state, direction))
    return hessian_operator(problem, state, on_sphere, log_scale)(direction)


def hessian_operator(
    problem: AbstractProblem,
    state: PyTree,
    on_sphere: bool = False,
    log_scale: Float[ArrayLike, ""] = 0.0,
) -> Linear:
    """`hessian_vector_product` as a function of the direction, the gradient linearised once.

    At a state that is checked and in a dtype to compute in.
    """
    descent, push = jax.linearize(lambda x: descent_at(problem, x, log_scale), state)
    if not on_sphere:
        return lambda direction: jax.tree.map(jnp.negative, push(direction))
    multiplier = _multiplier(state, jax.tree.map(jnp.negative, descent))

    def apply(direction: LastLayer) -> LastLayer:
        tangent = project_onto_tangent(state, direction)
        curved = optax.tree.add_scale(push(tangent), multiplier, _without_bias(tangent))
        return project_onto_tangent(state, jax.tree.map(jnp.negative, curved))

    return apply


def descent_at(problem: AbstractProblem, state: PyTree, log_scale: Float[ArrayLike, ""]) -> PyTree:
    """e^log_scale (−∇L), with the scale in the state's dtype.

    Raises: ValueError for a problem whose flow is not −∇L in flat coordinates: its linearisation is
    no Hessian, and signs of its eigenvalues tell nothing.
    """
    if isinstance(problem, GradientDescentODE):
        raise ValueError("problem is a GradientDescentODE: give the problem that it descends.")
    if isinstance(problem, NormalizedReLUNet) and problem.normalization != "none":
        raise ValueError(
            f"normalization = {problem.normalization!r}: its flow is on spheres or in a metric, "
            "where no Hessian is taken; give the net with normalization='none'."
        )
    check_number("log_scale", log_scale, scalar=True, signed=True)
    state = widened(state)
    return problem.scaled_descent(state, jnp.asarray(log_scale, jax.tree.leaves(state)[0].dtype))


def safe_norm(tree: PyTree) -> Float[Array, ""]:
    """‖x‖ in units of its largest entry, whose square may not be a float."""
    largest = optimistix.max_norm(tree)
    unit = jnp.where(largest > 0, largest, 1)
    return largest * optax.tree.norm(jax.tree.map(lambda leaf: leaf / unit, tree))


@eqx.filter_jit
def dense_hessian(
    problem: AbstractProblem,
    state: PyTree,
    on_sphere: bool = False,
    log_scale: Float[ArrayLike, ""] = 0.0,
) -> Float[Array, "n n"]:
    """The Hessian as a symmetric matrix, in the order of `jax.flatten_util.ravel_pytree(state)`.

    That is features, classifier, bias, each row by row. On the sphere it has one eigenvalue 0 more,
    along the state itself. For states of up to some thousand numbers n.

    Example: `jnp.linalg.eigvalsh(dense_hessian(problem, state))`.
    """
    check_shapes(problem, state, "state")
    state = widened(state)
    flat, unravel = ravel_pytree(state)
    apply = hessian_operator(problem, state, on_sphere, log_scale)
    rows = jax.vmap(lambda row: ravel_pytree(apply(unravel(row)))[0])(
        jnp.eye(flat.size, dtype=flat.dtype)
    )
    return (rows + rows.T) / 2


def sphere_gradient(
    problem: AbstractProblem, state: LastLayer, log_scale: Float[ArrayLike, ""] = 0.0
) -> tuple[LastLayer, Float[Array, ""]]:
    """∇L less its radial part λ(W, H), and λ = ⟨∇L, θ⟩/ρ²; critical points have the first 0."""
    _check_on_sphere(state)
    state = widened(state)
    gradient = jax.tree.map(jnp.negative, descent_at(problem, state, log_scale))
    return project_onto_tangent(state, gradient), _multiplier(state, gradient)


def project_onto_tangent(state: LastLayer, direction: LastLayer) -> LastLayer:
    """The direction less its part along (W, H): tangent to the sphere (Ji, definition 3.1).

    Raises: ValueError for a state that is no `LastLayer`.
    """
    state, direction = widened((state, direction))
    return optax.tree.add_scale(direction, -_multiplier(state, direction), _without_bias(state))


def _multiplier(state: LastLayer, gradient: LastLayer) -> Float[Array, ""]:
    radial = _without_bias(state)
    return jnp.asarray(optax.tree.vdot(radial, gradient) / radial.squared_norm())


def _check_on_sphere(state: object) -> None:
    if not isinstance(state, LastLayer):
        raise ValueError(
            f"state is of type {type(state).__name__}: the sphere of ‖W‖² + ‖H‖² needs a LastLayer."
        )


def _without_bias(state: LastLayer) -> LastLayer:
    _check_on_sphere(state)
    bias = None if state.bias is None else jnp.zeros_like(state.bias)
    return LastLayer(state.features, state.classifier, bias)
