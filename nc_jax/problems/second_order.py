"""Gradient descent as a differential equation of second order."""

from typing import Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key, PyTree

from ..checks import check_number
from ..metrics import Invariant
from ..precision import weak_scalar
from .base import AbstractProblem, check_problem

Problem = TypeVar("Problem", bound=AbstractProblem)


class Moving(eqx.Module):
    """A state with its velocity, both in the structure of the problem's state."""

    position: PyTree
    velocity: PyTree


class GradientDescentODE(AbstractProblem, Generic[Problem]):
    """(η/2) x'' + x' = −F(x), the equation of descent at rate η (Rangamani, section 5).

    −F is the problem's flow: F = ∇L, or its part along the constraints. With x'(0) = −F(x(0)), as
    `start` has it, x(kη) is k steps of descent to O(η²), and the flow to O(η); started at rest, it
    is O(η) from descent. On constraints (those of a `NormalizedReLUNet`) the left side is
    (η/2)(V'' + ‖V'‖²V) + V', which keeps ‖V‖ = 1 where the paper's equations (24) and (25) let it
    grow, and is the equation of descent whose every step is scaled back to the sphere.

    Its fast modes decay at 2/η, so that an explicit solver takes steps of about η; `Kvaerno5` takes
    longer ones. The state is `Moving`; observables are those of the problem at the position, with
    `speed` = ‖x'‖. It descends no function of its own: `objective` is L at the position, `gradient`
    minus the field.

    Args:
        problem: what is descended.
        rate: η > 0, a number or a scalar array (which compiles once for all η).

    Raises: ValueError for a rate that is not finite and above 0.

    Example:

        ode = GradientDescentODE(problem, 0.01)
        gradient_flow(ode, ode.start(start), jnp.linspace(0, 5, 51), RealTime())
    """

    problem: Problem
    rate: float | Float[Array, ""]

    def __init__(self, problem: Problem, rate: float | Float[Array, ""]):
        check_problem(problem)
        check_number("rate", rate, above_zero=True, scalar=True)
        self.problem = problem
        self.rate = weak_scalar(rate)

    def start(self, position: PyTree) -> Moving:
        """A state of the problem, moving at the velocity of its flow."""
        return Moving(position, self.problem.scaled_descent(position, 0.0))

    def init(self, key: Key[Array, ""]) -> Moving:
        """A random start of the problem, moving at the velocity of its flow."""
        return self.start(self.problem.init(key))

    def objective(self, state: Moving) -> Float[Array, ""]:
        """L at the position."""
        return self.problem.objective(state.position)

    def gradient(self, state: Moving) -> Moving:
        """Minus the field (x', x'') with x'' = −(2/η)(F + x') and what keeps the constraints."""
        descent = self.problem.scaled_descent(state.position, 0.0)
        bend = _second_derivative(self.problem.retract, state.position, state.velocity)
        slowing = jax.tree.map(
            lambda v, d, b: (v - d) * (2 / self.rate) - b, state.velocity, descent, bend
        )
        return Moving(jax.tree.map(jnp.negative, state.velocity), slowing)

    def scaled_descent(self, state: Moving, log_scale: Float[ArrayLike, ""]) -> Moving:
        """e^log_scale times the field."""
        scale = jnp.exp(log_scale)
        return jax.tree.map(lambda leaf: -scale * leaf, self.gradient(state))

    def retract(self, state: Moving) -> Moving:
        """The position on its constraints, and the velocity along them."""
        position, velocity = jax.jvp(self.problem.retract, (state.position,), (state.velocity,))
        return Moving(position, velocity)

    def observe(self, state: Moving) -> dict[str, Float[Array, "..."]]:
        """What the problem observes at the position, and `speed` = ‖x'‖."""
        squares = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(state.velocity)]
        return {**self.problem.observe(state.position), "speed": jnp.sqrt(sum(squares))}

    def invariants(self, state: Moving) -> dict[str, Invariant]:
        """`direction_norms` of a normalised net; what else its flow keeps, descent does not."""
        kept = self.problem.invariants(state.position)
        return {name: x for name, x in kept.items() if name == "direction_norms"}

    def largest_log_scale(self, dtype: DTypeLike) -> float:
        """Log of the dtype's largest number."""
        return np.log(np.finfo(dtype).max).item()


def _second_derivative(function, position: PyTree, velocity: PyTree) -> PyTree:
    """d²/ds² of function(position + s·velocity) at s = 0."""

    def derivative(position: PyTree) -> PyTree:
        return jax.jvp(function, (position,), (velocity,))[1]

    return jax.jvp(derivative, (position,), (velocity,))[1]
