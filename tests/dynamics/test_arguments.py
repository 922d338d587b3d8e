"""What the error of a run that fails says about its cause."""

import functools
import re

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nc_jax as nc
from nc_jax.problems import ContrastiveFeatures, FreeFeatures, NonnegativeFeatures, SignFlow
from nc_jax.problems.relu.propagation import remedy_of_kinks

KEY = jax.random.key(0)
SMOOTH = r"Probable cause: the field jumps.*; give activation=nc_jax.SmoothReLU\(\) and solver=nc_"
LARGER = r"Probable cause: the field jumps.*; give larger rtol and atol, or a min_step\. "
LATE = r"give LogLogTime\(\), with log\(1 \+ log\(1 \+ t\)\), and solver=nc_jax.RKC\(\)\. The save"
CONTRAST = functools.partial(ContrastiveFeatures, (2, 2), 3, temperature=0.5)
SIGNS = np.array([1.0, -1.0, 1.0])
SOFT = FreeFeatures(
    np.array([[0.7, 0.3, 0.0], [0.0, 0.0, 1.0]]), 3, loss=nc.losses.SoftCrossEntropy()
)


def deep(activation, **options):
    return nc.DeepUnconstrainedFeatures((2, 2), (3, 3), activation=activation, **options)


@pytest.mark.parametrize(
    ("problem", "clock", "present", "absent"),
    [
        (deep(jax.nn.relu), nc.LogTime(), (SMOOTH, LATE), "ever stiffer"),
        (deep(jax.nn.relu, weight_decay=0.1), nc.RealTime(), (SMOOTH, "Tsit5.. takes"), "LogLog"),
        (deep(nc.SmoothReLU()), nc.LogTime(), (LATE,), "jumps"),
        (deep(None), nc.LogTime(), (LATE,), "jumps"),
        (nc.NormalizedReLUNet(np.eye(3), SIGNS, widths=(4,)), nc.RealTime(), (SMOOTH,), "LogLog"),
        (NonnegativeFeatures((1, 1), 2), nc.LogTime(), (LARGER,), "Smooth"),
        (CONTRAST(nonnegative=True), nc.RealTime(), (LARGER,), "Smooth"),
        (CONTRAST(), nc.RealTime(), ("solver=nc_jax.RKC",), "jumps"),
        (SOFT, nc.RealTime(), (r"about t steps: give LogTime\(\)",), "jumps"),
        (nc.mixon(3, 4, 2), nc.LogTime(), (r"use RealTime\(\)",), "jumps"),
    ],
)
def test_a_run_with_too_many_steps_names_the_cause_and_the_remedy(problem, clock, present, absent):
    flow = nc.Flow(problem, np.array([5.0]), clock=clock, observe=("objective",), max_steps=3)
    with pytest.raises(RuntimeError, match=r"failed at .* maximum number of solver steps") as error:
        flow(problem.init(KEY))
    assert "\n" not in str(error.value)
    for text in present:
        assert re.search(text, str(error.value))
    assert absent not in str(error.value)


def test_where_the_field_jumps_for_good_larger_steps_are_the_remedy():
    problem = SignFlow(nc.ulpm(3, 4, 2))
    flow = nc.Flow(problem, np.array([5.0]), clock=nc.RealTime(), min_step=1e-3, max_steps=3)
    with pytest.raises(RuntimeError, match=r"jumps.*; give a larger min_step, or fixed steps"):
        flow(problem.init(KEY))


def test_a_step_that_becomes_zero_at_a_kink_names_the_remedy():
    # Euler's error estimate at a kink does not fall with the step where it is below the tolerance.
    problem = deep(jax.nn.relu)
    controller = diffrax.PIDController(1e-5, 1e-7, dtmin=1e-2, force_dtmin=False)
    flow = nc.Flow(problem, np.array([5.0]), stepsize_controller=controller)
    with pytest.raises(RuntimeError, match=r"step size fell below.*SmoothReLU"):
        flow(problem.init(KEY, 30.0))


@pytest.mark.parametrize(
    "activation",
    [jax.nn.relu, jax.nn.relu6, jax.nn.leaky_relu, jax.nn.hard_tanh, jnp.abs, jax.nn.hard_sigmoid],
)
def test_activations_with_kinks_are_known(activation):
    assert "SmoothReLU" in remedy_of_kinks(activation)


@pytest.mark.parametrize(
    "activation", [None, jnp.tanh, jax.nn.gelu, jax.nn.softplus, nc.SmoothReLU(width=1e-8)]
)
def test_smooth_activations_have_no_remedy(activation):
    assert remedy_of_kinks(activation) == ""


def test_a_small_start_takes_few_steps_in_log_log_time():
    # The first trial step is long, and dt/du at its end exceeds the largest float.
    problem = nc.DeepUnconstrainedFeatures((1,) * 4, (4,) * 4, reduction="sum")
    start = problem.init(KEY, 0.05)
    flow = nc.Flow(
        problem, np.log1p(nc.log_times(1, 1)), clock=nc.LogLogTime(), solver=nc.RKC(), rtol=1e-4,
        atol=1e-6, observe=("objective",),
    )  # fmt: skip
    assert int(flow(start).num_steps) < 50
