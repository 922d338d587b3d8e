"""Domains: problems without a Hessian are refused, by what they state and not by their class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from landscape_points import random_state

import nc_jax as nc
from nc_jax import landscape
from nc_jax.landscape import OnSphere
from nc_jax.problems import AbstractProblem


class Bowl(AbstractProblem):
    """A user's problem without constraints: L(x) = x₀² + 3x₁²/2, with Hessian diag(2, 3)."""

    def init(self, key):
        return jax.random.normal(key, (2,))

    def objective(self, state):
        return state[0] ** 2 + 3 * state[1] ** 2 / 2

    def gradient(self, state):
        return jnp.stack([2 * state[0], 3 * state[1]])

    def scaled_descent(self, state, log_scale):
        return -jnp.exp(log_scale) * self.gradient(state)

    def observe(self, state):
        return {"objective": self.objective(state)}

    def invariants(self, state):
        del state
        return {}

    def largest_log_scale(self, dtype):
        return np.log(np.finfo(dtype).max).item()


class BowlOnCircle(Bowl):
    """The same objective on the unit circle: a constraint, and a flow along it."""

    def scaled_descent(self, state, log_scale):
        descent = super().scaled_descent(state, log_scale)
        return descent - jnp.vdot(state, descent) * state

    def retract(self, state):
        return state / jnp.linalg.norm(state)


class Rotating(Bowl):
    """A flow that is minus the gradient of no function, as the user states."""

    is_gradient_flow = False  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    def scaled_descent(self, state, log_scale):
        return jnp.exp(log_scale) * jnp.stack([state[1], -state[0]])


def test_a_users_problem_without_constraints_has_its_hessian():
    state = jnp.array([0.3, -0.4])
    np.testing.assert_allclose(landscape.dense_hessian(Bowl(), state), np.diag([2.0, 3.0]))
    found = landscape.classify(Bowl(), jnp.zeros(2))
    assert found.kind == "minimum"
    assert int(found.symmetries) == 0
    np.testing.assert_allclose(found.eigenvalue, 2)


NO_HESSIAN = {
    "a user's problem with constraints": BowlOnCircle(),
    "a user's problem that is no gradient flow": Rotating(),
    "a linearised flow": nc.LinearizedMixon(3, 4, 2),
    "layers on spheres": nc.NormalizedReLUNet(np.eye(2), np.array([1.0, -1.0]), (2,)),
    "an equation of second order": nc.GradientDescentODE(nc.ulpm(3, 4, 2), 0.1),
    "descent in the maximum norm": nc.problems.SignFlow(nc.ulpm(3, 4, 2)),
}


@pytest.mark.parametrize("name", NO_HESSIAN)
@pytest.mark.parametrize(
    "function", [landscape.dense_hessian, landscape.classify, landscape.extreme_eigenpairs]
)
def test_a_problem_that_has_no_hessian_is_refused(function, name):
    problem = NO_HESSIAN[name]
    kind = type(problem).__name__
    with pytest.raises(ValueError, match=f"{kind} with is_gradient_flow = False") as error:
        function(problem, problem.init(jax.random.key(0)))
    assert "\n" not in str(error.value)


def test_a_sphere_refuses_states_that_are_no_last_layer():
    with pytest.raises(ValueError, match=r"the sphere of .* needs a LastLayer"):
        landscape.dense_hessian(OnSphere(Bowl()), jnp.ones(2))


def test_steps_on_a_sphere_stay_on_it_and_a_straight_step_leaves_it():
    problem = nc.ulpm(3, 4, 2)
    state, sphere = random_state(problem, 0), OnSphere(problem)
    along = landscape.project_onto_tangent(state, random_state(problem, 1))
    unit = jax.tree.map(lambda leaf: leaf / jnp.sqrt(along.squared_norm()), along)
    moved = sphere.move(state, unit, jnp.array(0.7))
    np.testing.assert_allclose(moved.squared_norm(), state.squared_norm(), rtol=1e-12)
    straight = landscape.domains.WholeSpace(problem).move(state, unit, jnp.array(0.7))
    np.testing.assert_allclose(straight.squared_norm(), state.squared_norm() + 0.49, rtol=1e-12)
