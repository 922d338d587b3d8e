import dataclasses

import diffrax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import rounding

import nc_jax as nc


def trajectory(log_time, **observables):
    return nc.Trajectory(
        log_time=jnp.asarray(log_time),
        observables={name: jnp.asarray(values) for name, values in observables.items()},
        final=None,
        final_log_time=jnp.asarray(log_time)[..., -1],
        states=None,
        result=diffrax.RESULTS.successful,  # pyright: ignore[reportArgumentType]
        num_steps=jnp.ones(np.shape(log_time)[:-1], int),
    )


@pytest.mark.parametrize("power", [-1.0, -0.5, 2.0])
def test_exponent_of_a_pure_power_is_exact(power):
    # A different power before the window must not count.
    log_time = np.linspace(0, 2000, 50)
    values = np.where(log_time < 100, 7.0, 3 * np.maximum(log_time, 1) ** power)
    run = trajectory(log_time, measure=values)
    np.testing.assert_allclose(run.decay_exponent("measure", 100), power, rtol=rounding())


def test_exponents_of_a_batch():
    log_time = np.tile(np.linspace(1, 9, 20), (2, 1))
    run = trajectory(log_time, measure=np.stack([log_time[0] ** -1.0, log_time[0] ** -2.0]))
    np.testing.assert_allclose(run.decay_exponent("measure", 2.0), [-1, -2], rtol=rounding())


def test_scaling_time_multiplies_all_times():
    run = trajectory(np.log1p([0.0, 3.0, 10.0])).with_time_scaled(0.5)
    np.testing.assert_allclose(np.expm1(run.log_time), [0, 1.5, 5], rtol=rounding())
    np.testing.assert_allclose(np.expm1(run.final_log_time), 5, rtol=rounding())


def test_scaled_time_leaves_the_axis_of_steps():
    run = dataclasses.replace(trajectory(np.log1p([0.0, 3.0])), steps=jnp.array([0, 3]))
    assert run.axis.dim == run.axis.coordinate == "step"
    np.testing.assert_array_equal(run.axis.common_values(), [0, 3])
    scaled = run.with_time_scaled(2.0)
    assert scaled.steps is None
    assert (scaled.axis.dim, scaled.axis.coordinate) == ("time", "log_time")
    np.testing.assert_allclose(np.expm1(scaled.axis.common_values()), [0, 6], rtol=rounding())


def test_exponent_leaves_out_time_zero_and_says_when_it_has_no_data():
    log_time = np.array([0.0, 1.0, 2.0, 4.0])
    run = trajectory(log_time, measure=np.array([9.0, 1.0, 0.5, 0.25]))
    np.testing.assert_allclose(run.decay_exponent("measure", 0.0), -1, rtol=rounding())
    assert np.isnan(run.decay_exponent("measure", 3.0))
