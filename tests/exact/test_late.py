"""The late law of the loss against its equation with 50 digits and against flows."""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.integrate
from compilation_counts import counted
from tolerances import rounding

import nc_jax as nc


def reference_gap(log_time, start, tail, scale):
    """The root of Ei(kq) − Ei(kq₀) = 2st with 50 digits."""
    with mpmath.workdps(50):
        start, tail = mpmath.mpf(start), mpmath.mpf(tail)
        target = 2 * mpmath.mpf(scale) * mpmath.expm1(mpmath.mpf(log_time))

        def excess(gap):
            passed = mpmath.ei(tail * gap) - mpmath.ei(tail * start)
            return mpmath.log(passed) - mpmath.log(target)

        ends = (start * (1 + mpmath.mpf(10) ** -30), start + mpmath.mpf(log_time) / tail + 40)
        return float(mpmath.findroot(excess, ends, solver="anderson", maxsteps=500, verify=False))


@pytest.mark.parametrize(
    ("start", "tail", "scale"), [(1.0, 1.0, 1.0), (0.3, 3.0, 1 / 22), (5.0, 1.5, 1.0)]
)
def test_gap_solves_its_equation(start, tail, scale):
    times = np.log(10) * np.array([1.5, 5.0, 20.0, 300.0, 1e4, 1e5])
    expected = [reference_gap(u, start, tail, scale) for u in times]
    found = nc.exact.late_gap(times, start_gap=start, tail=tail, loss_scale=scale)
    np.testing.assert_allclose(found, expected, rtol=rounding(operations=20))


def test_without_a_start_the_exponential_integral_is_twice_the_time():
    for log_time in (0.5, 3.0, 30.0):
        gap = float(nc.exact.late_gap(log_time))
        np.testing.assert_allclose(
            float(mpmath.ei(gap)), 2 * math.expm1(log_time), rtol=rounding(operations=100)
        )


def test_gap_at_time_zero_is_the_start():
    found = nc.exact.late_gap(0.0, start_gap=0.7, tail=2.0)
    np.testing.assert_allclose(found, 0.7, rtol=rounding(operations=4))


def test_gap_grows_at_the_rate_of_its_equation():
    # dq/dt = 2s q e^(−kq), by central differences.
    t, h, tail, scale = 40.0, 1e-3, 2.0, 0.25
    ends = nc.exact.late_gap(
        np.log1p([t - h, t, t + h]), start_gap=0.5, tail=tail, loss_scale=scale
    )
    rate = 2 * scale * ends[1] * np.exp(-tail * ends[1])
    np.testing.assert_allclose((ends[2] - ends[0]) / (2 * h), rate, rtol=h**2 + rounding() / h)


def test_gap_and_loss_are_traced_batched_and_in_float32():
    times = jnp.array([10.0, 1e3, 1e6], jnp.float32)
    wide = np.asarray(times, float)
    together = jax.jit(nc.exact.late_gap)(times)
    one_by_one = jax.vmap(nc.exact.late_gap)(times)
    assert together.dtype == one_by_one.dtype == jnp.float32
    np.testing.assert_array_equal(together, one_by_one)
    single = rounding("float32", operations=5)
    np.testing.assert_allclose(together, nc.exact.late_gap(wide), rtol=single)
    values = jnp.array([1.0, 6.5, 30.0])
    losses = jax.jit(jax.vmap(lambda v: nc.exact.late_loss(v, wide)))(values)
    assert losses.shape == (3, 3)
    np.testing.assert_allclose(losses[1] - losses[0], math.log(6.5), rtol=1e6 * rounding())
    assert nc.exact.late_loss(jnp.float32(2.0), times).dtype == jnp.float32


@pytest.mark.parametrize("tail", [1.0, 3.0])
def test_loss_times_t_log_t_tends_to_the_value_over_twice_the_tail(tail):
    value, log_time = 6.5, np.log(10) * np.array([1e3, 1e6, 1e9])
    log_loss = nc.exact.late_loss(value, log_time, tail=tail)
    log_ratio = log_loss + log_time + np.log(log_time) - math.log(value / (2 * tail))
    # The approach is log(2 log t)/log t; a loss of e^(−10^9) is rounded too.
    assert np.all(np.abs(log_ratio) < np.log(2 * log_time) / log_time + rounding() * log_time)


def test_a_repeated_call_compiles_nothing():
    first = nc.exact.late_gap(np.array([10.0, 20.0]))
    with counted() as counts:
        found = nc.exact.late_gap(np.array([30.0, 20.0]))
    assert counts.compiled == 0
    assert found[1] == first[1]


def test_the_mean_loss_runs_more_slowly_and_is_divided_by_the_samples():
    log_time = 1e3
    mean = nc.exact.late_loss(2.0, log_time, loss_scale=0.1)
    summed = nc.exact.late_loss(2.0, log_time + math.log(0.1))
    np.testing.assert_allclose(mean, summed + math.log(0.1), rtol=rounding())


def test_the_late_law_is_right_on_the_exact_flow_to_the_collapsed_ray():
    # Equal classes: V = (K−1)√n, and the exact law of the balanced ray has a further logarithm,
    # (K−1) log q, which is e^(−q) of the rest.
    problem = nc.ulpm(4, 3, 6)
    log_time = np.log(10) * np.array([20.0, 300.0, 1e5])
    gap = nc.exact.collapsed_gap(problem, 0.5, log_time)
    exact = math.log(24 * 3) - gap
    late = nc.exact.late_loss(3 * math.sqrt(6), log_time)
    # log L = log V − q, and q solves the equation with e^(−q) in the place of λ e^(−gap).
    shift = np.log(24 * 3) - math.log(3 * math.sqrt(6))
    assert np.all(np.abs(exact - late) < 2 * shift / log_time + rounding() * log_time)


@pytest.mark.parametrize("tail", [1.0, 2.0, 4.0])
def test_a_loss_that_falls_k_times_as_fast_has_the_late_law_of_its_tail(tail):
    # ℓ(z) = softplus(−z)^k of two classes with n samples: V = √n, and on the balanced ray
    # V dz/dt = 2z · (−dL/dz), here in log t by SciPy.
    samples, value = 6, math.sqrt(3)

    def slope(log_time, z):
        odds = math.log(np.logaddexp(0, -z[0]))
        log_rate = math.log(2 * z[0] * samples * tail / value) + (tail - 1) * odds
        return [math.exp(log_time + log_rate - np.logaddexp(0, z[0]))]

    ends = np.array([50.0, 200.0])
    run = scipy.integrate.solve_ivp(
        slope, (-5, 200), [0.5], "BDF", t_eval=ends, rtol=1e-8, atol=1e-10
    )
    log_loss = math.log(samples) + tail * np.log(np.logaddexp(0, -run.y[0]))
    error = log_loss - np.asarray(nc.exact.late_loss(value, ends, tail=tail))
    assert np.all(np.abs(error) < 4 / ends)
    # Another tail would change log L by log((k+1)/k).
    other = log_loss - np.asarray(nc.exact.late_loss(value, ends, tail=tail + 1))
    assert abs(other[1]) > 10 * abs(error[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.exact.late_gap(1.0, start_gap=0.0), "start_gap = 0"),
        (lambda: nc.exact.late_gap(1.0, tail=-1.0), "tail = -1"),
        (lambda: nc.exact.late_gap(-1.0), "log_time = -1"),
        (lambda: nc.exact.late_loss(0.0, 1.0), "value = 0"),
    ],
)
def test_what_has_no_late_law_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
