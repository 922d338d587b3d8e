"""Gradient descent as a differential equation of second order."""

from typing import Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key, PyTree

from ..checks import check_number
from ..measures import Invariant
from ..precision import largest_exponent, weak_scalar
from .base import AbstractProblem, check_problem

Problem = TypeVar("Problem", bound=AbstractProblem)


class Moving(eqx.Module):
    """A state and its velocity, both in the structure of the state of a problem."""

    position: PyTree
    velocity: PyTree


class GradientDescentODE(AbstractProblem, Generic[Problem]):
    """(η/2) x'' + x' = −F(x), the equation of descent at rate η (Rangamani, section 5).

    −F is the flow of the problem: F = ∇L, or the part of ∇L along the constraints. For the initial
    velocity x'(0) = −F(x(0)) of `start`, x(kη) differs from k steps of descent by O(η²), and from
    the flow by O(η). Started at rest, it differs from descent by O(η). On the constraints of a
    `NormalizedReLUNet` the left side is (η/2)(V'' + ‖V'‖²V) + V'. This conserves ‖V‖ = 1, where the
    paper's equations (24) and (25) let it grow, and describes descent with V scaled to norm 1 after
    every step.

    The fast modes decay at the rate 2/η. An explicit solver therefore takes steps of about η, and
    `Kvaerno5` longer ones. The state is `Moving`. Observables are those of the problem at the
    position, and `speed` = ‖x'‖. The equation descends no function: `objective` is L at the
    position, and `gradient` is minus the field.

    Args:
        problem: the problem that is descended.
        rate: η > 0, a number or a scalar array (which compiles once for all η).

    Raises: ValueError for a rate that is not finite and above 0.

    Example: a start moves with the velocity of the flow.

        >>> problem = nc.ulpm(3, 4, 2)
        >>> equation = nc.GradientDescentODE(problem, 0.01)
        >>> moving = equation.init(jax.random.key(0))
        >>> velocity = problem.scaled_descent(moving.position, 0.0)
        >>> bool(jnp.allclose(moving.velocity.features, velocity.features))
        True
    """

    problem: Problem
    rate: float | Float[Array, ""]

    def __init__(self, problem: Problem, rate: float | Float[Array, ""]):
        check_problem(problem)
        check_number("rate", rate, above_zero=True, scalar=True)
        self.problem = problem
        self.rate = weak_scalar(rate)

    def start(self, position: PyTree) -> Moving:
        """A state of the problem with the velocity of the problem's flow."""
        return Moving(position, self.problem.scaled_descent(position, 0.0))

    def init(self, key: Key[Array, ""]) -> Moving:
        """A random start of the problem with the velocity of the problem's flow."""
        return self.start(self.problem.init(key))

    def objective(self, state: Moving) -> Float[Array, ""]:
        """L at the position."""
        return self.problem.objective(state.position)

    def gradient(self, state: Moving) -> Moving:
        """Minus the field (x', x''): x'' is −(2/η)(F + x') plus the acceleration of `retract`."""
        descent = self.problem.scaled_descent(state.position, 0.0)
        # The acceleration that stays on the constraints at this velocity: −‖V'‖²V on a sphere, and
        # 0 without constraints.
        curvature = _second_derivative(self.problem.retract, state.position, state.velocity)
        deceleration = jax.tree.map(
            lambda v, d, c: (v - d) * (2 / self.rate) - c, state.velocity, descent, curvature
        )
        return Moving(jax.tree.map(jnp.negative, state.velocity), deceleration)

    def scaled_descent(self, state: Moving, log_scale: Float[ArrayLike, ""]) -> Moving:
        """e^log_scale times the field."""
        scale = jnp.exp(log_scale)
        return jax.tree.map(lambda leaf: -scale * leaf, self.gradient(state))

    def retract(self, state: Moving) -> Moving:
        """The position on the constraints, and the velocity along them."""
        # The derivative of `retract` removes the part of the velocity that leaves the constraints.
        position, velocity = jax.jvp(self.problem.retract, (state.position,), (state.velocity,))
        return Moving(position, velocity)

    def observe(self, state: Moving) -> dict[str, Float[Array, "..."]]:
        """The observables of the problem at the position, and `speed` = ‖x'‖."""
        squares = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(state.velocity)]
        return {**self.problem.observe(state.position), "speed": jnp.sqrt(sum(squares))}

    def invariants(self, state: Moving) -> dict[str, Invariant]:
        """`direction_norms` of a normalised net; descent conserves no other invariant."""
        of_flow = self.problem.invariants(state.position)
        return {name: x for name, x in of_flow.items() if name == "direction_norms"}

    @property
    def is_gradient_flow(self) -> bool:
        """False: the equation is of second order."""
        return False

    def largest_log_scale(self, dtype: DTypeLike) -> float:
        """Log of the dtype's largest number."""
        return largest_exponent(dtype)


def _second_derivative(function, position: PyTree, velocity: PyTree) -> PyTree:
    """d²/ds² of function(position + s·velocity) at s = 0."""

    # Forward mode twice gives the one direction that is needed; a Hessian would be far larger.
    def derivative(position: PyTree) -> PyTree:
        return jax.jvp(function, (position,), (velocity,))[1]

    return jax.jvp(derivative, (position,), (velocity,))[1]
