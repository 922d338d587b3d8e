"""Logarithms of objectives with a decay, also one that is an array of value 0."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import rounding

import nc_jax as nc
from nc_jax.problems.penalties import log_with_penalty

KEY = jax.random.key(0)


def decayed(decay):
    return nc.WeightDecay(classifier=decay, features=decay, bias=decay)


def deep(decay):
    return nc.DeepUnconstrainedFeatures((2, 1), (3, 3), weight_decay=decay)


def net(decay):
    inputs, targets = np.eye(2), np.array([1.0, -1.0])
    return nc.NormalizedReLUNet(inputs, targets, (2,), weight_decay=decay)


def targets(decay):
    loss = nc.losses.HalfSquaredDistance()
    return nc.problems.FreeFeatures(
        np.array([[1.0, 0.5], [0.2, 2.0]]), 2, loss=loss, weight_decay=decayed(decay)
    )


# Every problem with a decay, by a function of it.
PROBLEMS = {
    "free": lambda decay: nc.UnconstrainedFeatures((2, 1), 2, weight_decay=decayed(decay)),
    "nonnegative": lambda decay: nc.problems.NonnegativeFeatures(
        (2, 1), 2, weight_decay=decayed(decay)
    ),
    "deep": deep,
    "targets": targets,
    "end to end": lambda decay: nc.problems.EndToEnd((2, 1), 3, weight_decay=decay),
    "net": net,
}


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_log_objective_has_the_derivatives_of_the_logarithm(name, decay):
    """dL/L by the state and by λ, of an objective that has no logarithm in it."""
    problem_of = PROBLEMS[name]
    start = problem_of(0.1).init(KEY)

    def log_objective(state, decay):
        return problem_of(decay).log_objective(state)

    def objective(state, decay):
        return problem_of(decay).objective(state)

    arguments = start, jnp.asarray(decay)
    value, slopes = jax.jit(jax.value_and_grad(objective, argnums=(0, 1)))(*arguments)
    found = jax.jit(jax.grad(log_objective, argnums=(0, 1)))(*arguments)
    (found, _), (slopes, _) = map(jax.flatten_util.ravel_pytree, (found, slopes))
    assert np.any(slopes[:-1] != 0)
    assert slopes[-1] > 0
    np.testing.assert_allclose(found, slopes / value, rtol=rounding(), atol=rounding())


def test_derivatives_are_finite_where_the_loss_underflows():
    """At a penalty 0 that does not change with x, the derivative is that of the loss alone."""

    def log_loss(x):
        return log_with_penalty(-2000 * x, jnp.zeros(()) * x)

    for slope_of in (jax.grad, jax.jacfwd):
        np.testing.assert_array_equal(slope_of(log_loss)(1.0), -2000)
    assert jnp.isneginf(log_with_penalty(jnp.asarray(-jnp.inf), jnp.zeros(())))


def test_second_derivatives_are_those_of_the_logarithm():
    point = jnp.array([np.log(4.0), 0.0])
    found = jax.hessian(lambda x: log_with_penalty(x[0], x[1]))(point)
    # Of log(e^a + p): [[p e^a, −e^a], [−e^a, −1]] / (e^a + p)².
    np.testing.assert_allclose(found, [[0, -0.25], [-0.25, -1 / 16]], atol=rounding())
