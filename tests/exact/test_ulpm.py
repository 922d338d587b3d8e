import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from tolerances import rounding

import nc_jax as nc


def reference_gap(problem, start, log_time):
    """The same implicit equation at 40 digits."""
    with mpmath.workdps(40):
        size, classes = problem.class_sizes[0], problem.num_classes
        start = mpmath.mpf(start)
        elapsed = mpmath.expm1(mpmath.mpf(log_time)) * mpmath.mpf(problem.loss_scale)
        elapsed *= 2 * classes * mpmath.sqrt(size)

        def excess(gap):
            passed = mpmath.ei(gap) - mpmath.ei(start) + (classes - 1) * mpmath.log(gap / start)
            return mpmath.log(passed) - mpmath.log(elapsed)

        ends = (start * (1 + mpmath.mpf(10) ** -30), start + mpmath.mpf(log_time) + 40)
        return float(mpmath.findroot(excess, ends, solver="anderson", maxsteps=500, verify=False))


@pytest.mark.parametrize(
    ("problem", "start"),
    [
        (nc.ulpm(5, 20, 10), 0.5),
        (nc.ulpm(3, 2, 1), 1e-3),
        (nc.ulpm(2, 4, 3, reduction="mean"), 50.0),
    ],
)
def test_gap_solves_the_implicit_equation(problem, start):
    # From t = 10^0.1 on: earlier the gap from 50 has not moved by a rounding error.
    times = nc.log_times(10_000, 9, start_log10=0.1 if start < 10 else 25)
    expected = [reference_gap(problem, start, u) for u in times]
    np.testing.assert_allclose(
        nc.exact.collapsed_gap(problem, start, times), expected, rtol=rounding(operations=10)
    )


def test_gap_moves_at_the_rate_of_the_scalar_equation():
    # dq/dt = 2K√n q/(e^q + K - 1), by central differences of the solution.
    problem, t, h = nc.ulpm(5, 20, 10), 0.3, 1e-5
    before, now, after = nc.exact.collapsed_gap(problem, 0.5, np.log1p([t - h, t, t + h]))
    rate = 2 * 5 * math.sqrt(10) * now / (jnp.exp(now) + 4)
    # Error h² q'''/6, with q''' of the order of the cube of the rate 10.
    np.testing.assert_allclose((after - before) / (2 * h), rate, rtol=1e3 * h**2 + rounding() / h)


def test_gap_at_time_zero_is_the_start():
    gap = nc.exact.collapsed_gap(nc.ulpm(3, 4, 2), 0.7, 0.0)
    np.testing.assert_allclose(gap, 0.7, rtol=rounding(operations=2))


@pytest.mark.parametrize("dim", [4, 5, 9])
def test_collapsed_state_is_balanced_and_has_the_gap(dim):
    problem = nc.ulpm(5, dim, 3)
    state = nc.exact.collapsed_state(problem, 2.0, key=jax.random.key(3))
    logits = np.asarray(state.logits())
    others = logits[np.arange(5)[None, :] != problem.labels[:, None]].reshape(15, 4)
    at_label = logits[np.arange(15), problem.labels]
    np.testing.assert_allclose(at_label[:, None] - others, 2.0, rtol=rounding())
    balance = problem.invariants(state)["balance"]
    assert jnp.abs(balance.value).max() < rounding() * balance.scale


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.exact.collapsed_state(nc.ulpm(5, 3, 1), 1.0), "feature_dim = 3"),
        (lambda: nc.exact.collapsed_state(nc.ulpm(3, 3, 1), -1.0), "gap = -1"),
        (
            lambda: nc.exact.collapsed_state(nc.UnconstrainedFeatures((1, 2), 3), 1.0),
            r"class_sizes = \(1, 2\)",
        ),
        (lambda: nc.exact.collapsed_gap(nc.ulpm(3, 3, 1), 0.0, 1.0), "start_gap = 0"),
        (lambda: nc.exact.collapsed_gap(nc.mixon(3, 3, 1), 1.0, 1.0), "SquaredError"),
        (lambda: nc.exact.collapsed_gap(nc.zhu(3, 3, 1, 0.1), 1.0, 1.0), "weight decay"),
    ],
)
def test_a_model_without_the_closed_form_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_loss_on_the_ray_tends_to_one_over_t_log_t():
    # Ji, lemma B.3 corrected: L t log t -> √n (K-1)/2, here at t = 10^(10^6).
    problem, log_time = nc.ulpm(5, 20, 10), 1e6 * math.log(10)
    gap = nc.exact.collapsed_gap(problem, 0.5, log_time)
    log_loss = problem.log_objective(nc.exact.collapsed_state(problem, gap))
    log_ratio = log_loss + log_time + math.log(log_time) - math.log(math.sqrt(10) * (5 - 1) / 2)
    # The approach is (log log t + const)/log t; log L of size 10^6 rounds too.
    assert abs(log_ratio) < 2 * math.log(log_time) / log_time + rounding() * log_time


def test_gap_is_right_from_the_tiniest_start():
    problem = nc.ulpm(3, 2, 1)
    for log_time in (1e-3, 1.0):
        expected = reference_gap(problem, 1e-20, log_time)
        gap = nc.exact.collapsed_gap(problem, 1e-20, log_time)
        np.testing.assert_allclose(gap, expected, rtol=rounding(operations=10))


def test_time_may_be_an_integer():
    problem = nc.ulpm(3, 4, 2)
    assert nc.exact.collapsed_gap(problem, 0.5, 5) == nc.exact.collapsed_gap(problem, 0.5, 5.0)
