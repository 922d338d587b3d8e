import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from landscape_points import DECAY, flat, random_state
from tolerances import rounding

import nc_jax as nc
from nc_jax import landscape

PROBLEMS = {
    "ulpm": nc.ulpm(3, 4, 2),
    "mean, unbalanced": nc.UnconstrainedFeatures((1, 3, 2), 2),
    "zhu": nc.zhu(3, 4, 2, DECAY),
    "mixon": nc.mixon(3, 2, 2),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_hessian_is_that_of_the_objective_by_autodiff(name):
    problem = PROBLEMS[name]
    state = random_state(problem, 0)
    vector, unravel = ravel_pytree(state)
    expected = jax.jit(jax.hessian(lambda v: problem.objective(unravel(v))))(vector)
    found = landscape.dense_hessian(problem, state)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=rounding() * scale)
    direction = random_state(problem, 1)
    product = landscape.hessian_vector_product(problem, state, direction)
    image = expected @ flat(direction)
    np.testing.assert_allclose(flat(product), image, rtol=0, atol=rounding() * np.abs(image).max())


TANGENT = jax.jit(landscape.project_onto_tangent)


@pytest.mark.parametrize("name", ["ulpm", "mean, unbalanced"])
def test_on_the_sphere_it_is_the_second_derivative_along_great_circles(name):
    problem = PROBLEMS[name]
    state = random_state(problem, 2, norm=1.5)
    hessian = np.asarray(landscape.dense_hessian(landscape.OnSphere(problem), state))
    radius = np.linalg.norm(flat(state))

    @jax.jit
    def second_derivative(unit):
        def along(angle):
            point = jax.tree.map(
                lambda x, d: jnp.cos(angle) * x + radius * jnp.sin(angle) * d, state, unit
            )
            return problem.objective(point)

        return jax.grad(jax.grad(along))(0.0)

    for seed in (3, 4):
        tangent = TANGENT(state, random_state(problem, seed))
        assert abs(flat(tangent) @ flat(state)) < rounding() * np.linalg.norm(flat(tangent))
        length = np.linalg.norm(flat(tangent))
        unit = jax.tree.map(lambda x, n=length: jnp.asarray(np.asarray(x) / n), tangent)
        expected = second_derivative(unit) / radius**2
        np.testing.assert_allclose(flat(unit) @ hessian @ flat(unit), expected, rtol=rounding())
    # The normal is in the kernel.
    assert np.abs(hessian @ flat(state)).max() < rounding() * np.abs(hessian).max()


def test_a_log_scale_multiplies_and_outlives_underflow():
    problem = PROBLEMS["ulpm"]
    state = random_state(problem, 5)

    def hessian(state, log_scale):
        # The scale is an argument of the program, which all scales share.
        return np.asarray(landscape.dense_hessian(problem, state, log_scale=jnp.asarray(log_scale)))

    plain, scaled = np.asarray(landscape.dense_hessian(problem, state)), hessian(state, 3.0)
    np.testing.assert_allclose(
        scaled, np.exp(3) * plain, rtol=0, atol=rounding() * np.abs(scaled).max()
    )
    # On the collapsed ray at a gap q, all entries of e^q ∇²L/q² are of order 1.
    far = nc.exact.collapsed_state(problem, 3000.0)
    assert np.abs(landscape.dense_hessian(problem, far)).max() == 0
    largest = np.abs(hessian(far, 3000.0)).max()
    assert 1e-3 < largest / 3000 < 10


def test_the_gradient_on_the_sphere_is_tangent_and_leaves_the_multiplier():
    problem = PROBLEMS["ulpm"]
    state = random_state(problem, 6)
    tangential, multiplier = jax.jit(lambda s: landscape.sphere_gradient(problem, s))(state)
    whole = flat(tangential) + float(multiplier) * flat(state)
    expected = flat(jax.jit(jax.grad(problem.objective))(state))
    np.testing.assert_allclose(whole, expected, rtol=0, atol=rounding() * np.abs(expected).max())
    assert abs(flat(tangential) @ flat(state)) < rounding() * np.linalg.norm(expected)
