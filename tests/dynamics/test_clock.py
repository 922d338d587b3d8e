import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import rounding

import nc_jax as nc


@pytest.mark.parametrize("clock", [nc.RealTime(), nc.LogTime(), nc.LogLogTime()])
def test_rate_is_the_derivative_of_time(clock):
    # d log(1+t)/du = (dt/du)/(1+t).
    for u in (0.0, 0.3, 5.0):
        log_time, slope = jax.value_and_grad(clock.log_time)(u)
        expected = jnp.exp(clock.log_rate(jnp.asarray(u)) - log_time)
        np.testing.assert_allclose(slope, expected, rtol=rounding())


@pytest.mark.parametrize("clock", [nc.RealTime(), nc.LogTime(), nc.LogLogTime()])
def test_clock_starts_at_time_zero(clock):
    assert clock.log_time(jnp.asarray(0.0)) == 0


def test_log_times_are_even_in_log_t():
    times = nc.log_times(3, 6, start_log10=-2)
    np.testing.assert_allclose(np.expm1(times), 10.0 ** np.arange(-2, 4), rtol=rounding())


def test_log_times_reach_where_t_overflows():
    times = nc.log_times(1_000_000, 5)
    assert np.all(np.diff(times) > 0)
    np.testing.assert_allclose(times[-1], 1e6 * math.log(10), rtol=rounding())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((3, 0), "num = 0"), ((-3, 5), "stop_log10 = -3"), ((math.inf, 5), "stop_log10 = inf")],
)
def test_log_times_refuse_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        nc.log_times(*arguments)
