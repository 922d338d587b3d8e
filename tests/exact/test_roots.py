"""Roots by bisection and their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import rounding

import nc_jax as nc
from nc_jax.exact.powers import power_or_zero, singular_value_decomposition
from nc_jax.exact.roots import falling_root


def cube_roots(values):
    """Entry by entry, from a bracket that depends on the values."""
    return falling_root(lambda x: values - x**3, jnp.zeros_like(values), 1 + values)


@pytest.mark.parametrize("jacobian", [jax.jacfwd, jax.jacrev], ids=["forward", "reverse"])
def test_entries_have_their_own_roots_and_derivatives_under_jit_and_vmap(jacobian):
    values = jnp.array([[1.0, 8.0], [27.0, 0.125]])
    np.testing.assert_allclose(cube_roots(values), np.cbrt(values), rtol=rounding())
    slopes = jax.jit(jax.vmap(jacobian(cube_roots)))(values)
    expected = np.cbrt(values) ** -2 / 3
    np.testing.assert_allclose(slopes, expected[..., None] * np.eye(2), rtol=rounding())


@pytest.mark.parametrize("outer", [jax.jacfwd, jax.jacrev], ids=["forward", "reverse"])
def test_second_derivatives(outer):
    curvature = outer(jax.grad(lambda value: cube_roots(value)))(8.0)
    np.testing.assert_allclose(curvature, -2 / 9 * 8 ** (-5 / 3), rtol=rounding())


@pytest.mark.parametrize("slope_of", [jax.grad, jax.jacfwd], ids=["reverse", "forward"])
def test_without_a_change_of_sign_the_derivative_is_that_of_the_end(slope_of):
    def end(theta, sign):
        theta = jnp.asarray(theta)
        return falling_root(lambda x: sign * (1 + x**0.5 + theta), 0 * theta, 3 * theta)

    np.testing.assert_array_equal([end(2.0, 1.0), end(2.0, -1.0)], [6.0, 0.0])
    np.testing.assert_array_equal([slope_of(end)(2.0, 1.0), slope_of(end)(2.0, -1.0)], [3.0, 0.0])


@pytest.mark.parametrize("slope_of", [jax.grad, jax.jacfwd], ids=["reverse", "forward"])
def test_a_root_that_the_caller_discards_leaves_no_nan(slope_of):
    # A double root, and a square root with an infinite slope at the end of the bracket.
    for function in (lambda x, theta: -((x - theta) ** 2), lambda x, theta: -theta - x**0.5):

        def kept(theta, function=function):
            root = falling_root(lambda x: function(x, theta), jnp.zeros(()), 2 * theta)
            return jnp.where(theta > 0, theta**2, root)

        np.testing.assert_array_equal(slope_of(kept)(3.0), 6.0)


@pytest.mark.parametrize("slope_of", [jax.grad, jax.jacfwd], ids=["reverse", "forward"])
def test_flows_leave_their_start_with_the_velocity_of_the_field(slope_of):
    # At t = 0 the logarithm of the time is −∞.
    start, classes, size = 0.7, 3, 4
    path = slope_of(nc.exact.central_path, argnums=(0, 1))
    by_start, by_time = path(start, 0.0, num_classes=classes, samples_per_class=size)
    velocity = start / (size * (classes + start**2) ** 2)
    np.testing.assert_allclose([by_start, by_time], [1, velocity], rtol=rounding())
    for depth in (2, 3):
        mode = slope_of(nc.exact.aligned_mode, argnums=(0, 1))
        by_time, by_start = mode(0.0, 0.2, 1.5, depth)
        velocity = depth * 0.2 ** (2 - 2 / depth) * 1.3
        np.testing.assert_allclose([by_time, by_start], [velocity, 1], rtol=rounding())


@pytest.mark.parametrize("exponent", [0.5, 1 / 3, 2 / 3])
def test_powers_have_the_derivative_zero_at_zero(exponent):
    value, slope = jax.vmap(jax.value_and_grad(lambda x: power_or_zero(x, exponent)))(
        jnp.array([0.0, 2.0])
    )
    np.testing.assert_allclose(value, [0, 2**exponent], rtol=rounding())
    np.testing.assert_allclose(slope, [0, exponent * 2 ** (exponent - 1)], rtol=rounding())


def test_singular_vectors_have_derivatives_where_singular_values_are_equal():
    # x changes the third singular value alone, and turns its vectors with those of the others.
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]

    def square_root(x):
        angle = jnp.stack([jnp.zeros(()), x, jnp.zeros(())])
        turn = jax.scipy.linalg.expm(jnp.cross(jnp.eye(3), jnp.broadcast_to(angle, (3, 3))))
        matrix = rotation @ turn @ jnp.diag(jnp.stack([2.0 + x, 2.0 + x, 1.0])) @ turn.T
        _, singular, right = singular_value_decomposition(matrix)
        return (right.T * singular[None] ** 0.5) @ right

    points = 0.3 + 1e-3 * np.array([-2, -1, 1, 2])
    differences = np.tensordot([1, -8, 8, -1], np.stack([square_root(x) for x in points]), 1)
    for jacobian in (jax.jacfwd, jax.jacrev):
        found = jacobian(square_root)(jnp.asarray(0.3))
        np.testing.assert_allclose(found, differences / 12e-3, atol=1e-10)
