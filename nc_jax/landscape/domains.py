"""Domains: where a state may move, which decides what its gradient and its Hessian are.

A problem without a wrapper means the whole space of its states, or the product of unit spheres for
a problem of unit rows (`NormalizedFeatures`). `OnSphere(problem)` means the sphere
‖W‖_F² + ‖H‖_F² = ρ² through the state, on which Ji's theorems 3.3 and 3.4 hold. Functions of this
package take either, and call `domain_of` once.

`log_scale` s everywhere means e^s L instead of L, formed in log space where the loss allows it: at
the end of a long flow losses are below 1e-100, and their Hessians underflow. Choose s close to
−log L. For s far above, the loss limits its exponents, and the result is no derivative of e^s L.
"""

import abc
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from ..checks import check_number
from ..geometry import tangent_to_rows
from ..precision import widened
from ..preconditions import check_gradient_flow
from ..problems import AbstractProblem, check_like, check_problem, check_shapes
from ..state import LastLayer
from .curvature import AbstractCurvature, LinearMap


class AbstractDomain(AbstractCurvature):
    """A problem with the set in which its states move.

    Attributes:
        problem: gives the objective L.
        fixes_norm: whether ‖W‖² + ‖H‖² is constant, so that of all linear maps of feature space
            only rotations remain within the set.
    """

    problem: AbstractProblem
    fixes_norm: ClassVar[bool]

    @abc.abstractmethod
    def gradient(self, state: PyTree, log_scale: Float[ArrayLike, ""]) -> PyTree:
        """∇(e^log_scale L) along the set."""

    @abc.abstractmethod
    def hessian(self, state: PyTree, log_scale: Float[ArrayLike, ""]) -> LinearMap:
        """Hessian of e^log_scale L along the set, as a function of a direction.

        The gradient is linearised once, so that a product costs about one gradient.
        """

    @abc.abstractmethod
    def project(self, state: PyTree, direction: PyTree) -> PyTree:
        """Orthogonal projection of a direction onto the tangent space of the set."""

    def check_state(self, state: PyTree) -> None:
        """Raise ValueError for a state of another shape than the problem's."""
        check_shapes(self.problem, state, name="state")

    @abc.abstractmethod
    def steps(self, state: PyTree, num_steps: int) -> Float[Array, " S"]:
        """Step sizes for `move` in geometric progression, from 1e-8 to the largest useful one."""

    @abc.abstractmethod
    def move(self, state: PyTree, direction: PyTree, step: Float[Array, ""]) -> PyTree:
        """The state after a step along a unit direction, within the set."""


class WholeSpace(AbstractDomain):
    """The whole space of the states of a problem."""

    fixes_norm: ClassVar[bool] = False

    def gradient(self, state: PyTree, log_scale: Float[ArrayLike, ""]) -> PyTree:
        """e^log_scale ∇L."""
        return jax.tree.map(jnp.negative, descent_at(self.problem, state, log_scale))

    def hessian(self, state: PyTree, log_scale: Float[ArrayLike, ""]) -> LinearMap:
        """e^log_scale ∇²L."""
        # The derivative of −e^s ∇L, and not the second derivative of the objective: the former is
        # computed in log space and does not underflow.
        _, push = jax.linearize(lambda x: descent_at(self.problem, x, log_scale), state)
        return lambda direction: jax.tree.map(jnp.negative, push(direction))

    def project(self, state: PyTree, direction: PyTree) -> PyTree:
        """The direction."""
        return direction

    def steps(self, state: PyTree, num_steps: int) -> Float[Array, " S"]:
        """Lengths, up to 100 times max(‖x‖, 1)."""
        length = jnp.maximum(optax.tree.norm(state), 1)
        return jnp.asarray(np.geomspace(1e-8, 100, num_steps), length.dtype) * length

    def move(self, state: PyTree, direction: PyTree, step: Float[Array, ""]) -> PyTree:
        """Along the straight line."""
        return optax.tree.add_scale(state, step, direction)


class OnSphere(AbstractDomain):
    """A problem restricted to the sphere ‖W‖_F² + ‖H‖_F² = ρ² through a state (Ji, section 3.2).

    Functions of `nc_jax.landscape` take it in the place of the problem. Gradient and Hessian are
    Riemannian: P∇L, and P(∇²L − λ)P with λ = ⟨∇L, θ⟩/ρ², θ = (W, H) and P the projection off θ. The
    Hessian is then the second derivative of L along great circles, also where ∇L is not radial. A
    bias is not part of the sphere and moves freely.

    Raises: ValueError for what is no problem; the functions that take it, for a state that is no
    `LastLayer`.

    Example: Ji's example 3.1 is no critical point in the space, and a saddle on its sphere.

        >>> problem, state = nc.ulpm(4, 4, 1), nc.exact.example_3_1()
        >>> nc.landscape.classify(problem, state).kind
        'not critical'
        >>> nc.landscape.classify(nc.landscape.OnSphere(problem), state).kind
        'strict saddle'
    """

    fixes_norm: ClassVar[bool] = True

    def __check_init__(self):
        check_problem(self.problem)

    @property
    def codimension(self) -> int:
        """1: the direction of the state."""
        return 1

    def gradient(self, state: PyTree, log_scale: Float[ArrayLike, ""]) -> LastLayer:
        """e^log_scale P∇L."""
        return self.gradient_and_multiplier(state, log_scale)[0]

    def gradient_and_multiplier(
        self, state: PyTree, log_scale: Float[ArrayLike, ""]
    ) -> tuple[LastLayer, Float[Array, ""]]:
        """P∇L and λ, both of e^log_scale L."""
        _check_on_sphere(state)
        gradient = jax.tree.map(jnp.negative, descent_at(self.problem, state, log_scale))
        return project_onto_tangent(state, gradient), _multiplier(state, gradient)

    def hessian(self, state: PyTree, log_scale: Float[ArrayLike, ""]) -> LinearMap:
        """e^log_scale P(∇²L − λ)P."""
        _check_on_sphere(state)
        # One linearisation gives the descent, from which λ follows, and its derivative.
        descent, push = jax.linearize(lambda x: descent_at(self.problem, x, log_scale), state)
        multiplier = _multiplier(state, jax.tree.map(jnp.negative, descent))

        def apply(direction: LastLayer) -> LastLayer:
            tangent = project_onto_tangent(state, direction)
            # The term in λ is the curvature of the sphere, which has no part along the bias.
            curved = optax.tree.add_scale(push(tangent), multiplier, _radial(tangent))
            return project_onto_tangent(state, jax.tree.map(jnp.negative, curved))

        return apply

    def project(self, state: LastLayer, direction: LastLayer) -> LastLayer:
        """P times the direction."""
        return project_onto_tangent(state, direction)

    def steps(self, state: LastLayer, num_steps: int) -> Float[Array, " S"]:
        """Angles in radians, up to π."""
        dtype = jnp.sqrt(state.squared_norm()).dtype
        return jnp.asarray(np.geomspace(1e-8, np.pi, num_steps), dtype)

    def move(self, state: LastLayer, direction: LastLayer, step: Float[Array, ""]) -> LastLayer:
        """Along the great circle; a bias moves straight, by ρ times the angle."""
        radius = jnp.sqrt(state.squared_norm())
        turned = optax.tree.scale(jnp.cos(step), state)
        turned = optax.tree.add_scale(turned, jnp.sin(step) * radius, direction)
        if state.bias is None or direction.bias is None:
            return turned
        # The lines above have turned the bias too, which is not part of the sphere: replace it.
        bias = state.bias + step * radius * direction.bias
        return LastLayer(turned.features, turned.classifier, bias)


class OnUnitRows(AbstractDomain):
    """The product of the unit spheres of all rows, for a problem with `has_unit_rows`.

    `domain_of` chooses it, because such a problem is defined on this set alone. The Hessian of L on
    a submanifold is P D(grad L) P, with P the projection onto the tangent space and D the
    derivative of any smooth field that is the Riemannian gradient on the submanifold. The flow of
    the problem is minus such a field, so that no second formula of the Hessian is needed.
    """

    fixes_norm: ClassVar[bool] = True

    @property
    def codimension(self) -> int:
        """The number of rows, each of which has one direction off its sphere."""
        return sum(rows.shape[0] for rows in jax.tree.leaves(self.problem.state_shapes()))

    def gradient(self, state: PyTree, log_scale: Float[ArrayLike, ""]) -> PyTree:
        """e^log_scale times the Riemannian gradient."""
        return jax.tree.map(jnp.negative, _scaled_descent(self.problem, state, log_scale))

    def hessian(self, state: PyTree, log_scale: Float[ArrayLike, ""]) -> LinearMap:
        """e^log_scale times the Riemannian Hessian."""
        _, push = jax.linearize(lambda x: _scaled_descent(self.problem, x, log_scale), state)

        def apply(direction: PyTree) -> PyTree:
            turned = push(self.project(state, direction))
            return self.project(state, jax.tree.map(jnp.negative, turned))

        return apply

    def project(self, state: PyTree, direction: PyTree) -> PyTree:
        """The direction with the part along each row removed."""
        return jax.tree.map(tangent_to_rows, state, direction)

    def steps(self, state: PyTree, num_steps: int) -> Float[Array, " S"]:
        """Lengths of the path of all rows together, in radians, up to π for each row."""
        dtype = jnp.result_type(jax.tree.leaves(state)[0])
        largest = np.pi * np.sqrt(self.codimension)
        return jnp.asarray(np.geomspace(1e-8, largest, num_steps), dtype)

    def move(self, state: PyTree, direction: PyTree, step: Float[Array, ""]) -> PyTree:
        """Each row along its great circle, by the step times the length of its direction."""

        def turn(rows: Float[Array, "M d"], along: Float[Array, "M d"]) -> Float[Array, "M d"]:
            angle = step * jnp.linalg.norm(along, axis=1, keepdims=True)
            # sin(sa)/a, which is s where a row does not move.
            return jnp.cos(angle) * rows + step * jnp.sinc(angle / np.pi) * along

        return jax.tree.map(turn, state, direction)


def check_direction(state: PyTree, direction: PyTree) -> None:
    """Raise ValueError unless a direction has the structure and the shapes of a state."""
    check_like(
        state,
        direction,
        name="direction",
        owner="the state",
        advice="give one for each of its arrays.",
    )


def domain_of(problem: AbstractProblem | OnSphere) -> WholeSpace | OnSphere | OnUnitRows:
    """The domain of an argument: an `OnSphere` itself, or that on which a problem is defined.

    Raises: ValueError for an argument that is neither.
    """
    if isinstance(problem, OnSphere):
        return problem
    check_problem(problem)
    return OnUnitRows(problem) if problem.has_unit_rows else WholeSpace(problem)


def curvature_of(problem: AbstractProblem | AbstractCurvature) -> AbstractCurvature:
    """The curvature of an argument: a curvature itself, or the whole space for a problem.

    Raises: ValueError for an argument that is neither.
    """
    return problem if isinstance(problem, AbstractCurvature) else domain_of(problem)


def descent_at(problem: AbstractProblem, state: PyTree, log_scale: Float[ArrayLike, ""]) -> PyTree:
    """e^log_scale (−∇L), with the scale in the state's dtype.

    Raises: ValueError for a problem whose flow is not −∇L in the coordinates of the state: its
    linearisation is no Hessian, and the signs of its eigenvalues have no meaning.
    """
    check_gradient_flow(problem)
    return _scaled_descent(problem, state, log_scale)


def _scaled_descent(
    problem: AbstractProblem, state: PyTree, log_scale: Float[ArrayLike, ""]
) -> PyTree:
    check_number("log_scale", log_scale, scalar=True, signed=True)
    state = widened(state)
    # In the state's dtype, since a float64 scale would promote the gradient of a float32 state.
    return problem.scaled_descent(state, jnp.asarray(log_scale, jax.tree.leaves(state)[0].dtype))


def sphere_gradient(
    problem: AbstractProblem, state: LastLayer, *, log_scale: Float[ArrayLike, ""] = 0.0
) -> tuple[LastLayer, Float[Array, ""]]:
    """∇L minus its radial part λ(W, H), and the multiplier λ = ⟨∇L, θ⟩/ρ², θ = (W, H).

    At critical points on the sphere the first is 0.

    Args: `log_scale` s for e^s L.

    Raises: ValueError for a state that is no `LastLayer` of the problem.

    Example: at Ji's example 3.1 the gradient is radial, −2/(1 + e²) W.

        >>> tangential, multiplier = nc.landscape.sphere_gradient(
        ...     nc.ulpm(4, 4, 1), nc.exact.example_3_1()
        ... )
        >>> bool(jnp.allclose(tangential.classifier, 0))
        True
        >>> bool(jnp.allclose(multiplier, -2 / (1 + jnp.exp(2))))
        True
    """
    _check_on_sphere(state)
    return OnSphere(problem).gradient_and_multiplier(widened(state), log_scale)


def project_onto_tangent(state: LastLayer, direction: LastLayer) -> LastLayer:
    """The direction minus its part along (W, H): tangent to the sphere (Ji, definition 3.1).

    Raises: ValueError for a state that is no `LastLayer`.

    Example:

        >>> state = nc.exact.example_3_1()
        >>> bool(jnp.allclose(nc.landscape.project_onto_tangent(state, state).features, 0))
        True
    """
    state, direction = widened((state, direction))
    return optax.tree.add_scale(direction, -_multiplier(state, direction), _radial(state))


def _multiplier(state: LastLayer, gradient: LastLayer) -> Float[Array, ""]:
    """⟨gradient, θ⟩/‖θ‖² for θ = (W, H)."""
    radial = _radial(state)
    return jnp.asarray(optax.tree.vdot(radial, gradient) / radial.squared_norm())


def _check_on_sphere(state: object) -> None:
    if not isinstance(state, LastLayer):
        raise ValueError(
            f"state is of type {type(state).__name__}: the sphere of ‖W‖² + ‖H‖² needs a LastLayer."
        )


def _radial(state: LastLayer) -> LastLayer:
    """θ = (W, H), the normal of the sphere, as a state with zero bias."""
    _check_on_sphere(state)
    bias = None if state.bias is None else jnp.zeros_like(state.bias)
    return LastLayer(state.features, state.classifier, bias)
