"""Random starts have the same bits alone, in a batch and in any program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import rounding

import nc_jax as nc
from nc_jax.starts import gaussian_direction, gaussian_directions


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_random_direction_has_the_same_bits_in_every_program(dtype):
    # Large enough for sums in another order to differ.
    keys, shape, norm = jax.random.split(jax.random.key(0), 5), (25, 13), jnp.asarray(2.7, dtype)
    alone = np.stack([gaussian_direction(key, shape, norm) for key in keys])
    assert alone.dtype == dtype

    def used(key, norm):
        direction = gaussian_direction(key, shape, norm)
        # A sum that a compiler would contract with the product before it.
        return direction, 1 + direction, jnp.sum(3 * direction)

    one = jax.jit(jax.vmap(lambda key: gaussian_direction(key, shape, norm)))(keys[:1])
    np.testing.assert_array_equal(one, alone[:1])
    several = jax.jit(jax.vmap(used))(keys, jnp.full(5, norm))
    single = jax.jit(lambda key: used(key, norm))(keys[3])
    for found, expected in ((several, alone), (single, alone[3])):
        np.testing.assert_array_equal(found[0], expected)
        np.testing.assert_array_equal(found[1], 1 + expected)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=(1, 2)), norm, rtol=rounding(dtype))


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("largest", [(25, 13), (100, 90)], ids=["one loop", "separately"])
def test_directions_of_several_shapes_are_those_of_each_alone(largest):
    shapes, norms = (largest, (1, 1), (7, 13), (4, 2)), jnp.asarray([1.0, 2.0, 0.5, 3.0])
    keys = jax.random.split(jax.random.key(0), 4)
    together = gaussian_directions(keys, shapes, norms)
    for direction, key, shape, norm in zip(together, keys, shapes, norms, strict=True):
        np.testing.assert_array_equal(direction, gaussian_direction(key, shape, norm))


def test_a_random_direction_of_norm_zero_is_zero():
    direction = gaussian_direction(jax.random.key(1), (3, 2), jnp.zeros(()))
    np.testing.assert_array_equal(direction, np.zeros((3, 2)))


def test_a_start_has_a_derivative_in_reverse():
    problem, key = nc.ulpm(3, 4, 2), jax.random.key(0)

    def objective(norm):
        return problem.objective(problem.init(key, norm))

    _, expected = jax.jvp(objective, (1.0,), (1.0,))
    np.testing.assert_allclose(jax.grad(objective)(1.0), expected, rtol=rounding())
