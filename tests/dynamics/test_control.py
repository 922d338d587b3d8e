"""Step-size controllers of a caller against closed forms, plain descent and the default control."""

import re

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
import pytest
from compilation_counts import counted, lines_of
from tolerances import integration, rounding, second_order_integration

import nc_jax as nc
from nc_jax.problems import AbstractProblem

# Theorem 2 of Mixon has its solution in closed form.
PROBLEM = nc.LinearizedMixon(3, 4, 2)
START = PROBLEM.init(jax.random.key(0), 0.3)
TIMES = np.array([0.5, 1.0, 2.0])
EXACT = nc.exact.linearized_solution(PROBLEM, START, TIMES)
RTOL, ATOL = 1e-7, 1e-10
INTEGRAL = diffrax.PIDController(RTOL, ATOL)
PROPORTIONAL_INTEGRAL = diffrax.PIDController(RTOL, ATOL, pcoeff=0.4, icoeff=0.3)
CONTROLLERS = {
    "I": INTEGRAL,
    "PI": PROPORTIONAL_INTEGRAL,
    "PID": diffrax.PIDController(RTOL, ATOL, pcoeff=0.1, icoeff=0.3, dcoeff=0.05),
    "greatest step": diffrax.PIDController(RTOL, ATOL, dtmax=0.05),
    "norm": diffrax.PIDController(RTOL, ATOL, norm=optimistix.max_norm),
    "clip": diffrax.ClipStepSizeController(INTEGRAL, step_ts=[0.123, 1.7]),
}


def nothing(state):
    return {}


def flow_of(controller, problem: AbstractProblem = PROBLEM, times=TIMES, **options):
    options = {"observe": nothing, "save_states": True, **options}
    return nc.Flow(problem, times, clock=nc.RealTime(), stepsize_controller=controller, **options)


def features_of(traj):
    assert traj.states is not None
    return traj.states.features


def error_of(traj, exact=EXACT):
    size = np.max(np.abs(exact.features))
    found = np.asarray(features_of(traj), float)
    return float(np.max(np.abs(found - exact.features)) / size)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_any_controller_reaches_the_exact_solution(name):
    traj = flow_of(CONTROLLERS[name])(START)
    assert error_of(traj) < integration(RTOL)


@pytest.mark.parametrize(
    ("solver", "tolerance"),
    [(nc.RKC(), second_order_integration(RTOL)), (diffrax.Kvaerno5(), integration(RTOL))],
    ids=["RKC", "Kvaerno5"],
)
def test_stabilised_and_implicit_solvers_take_a_controller(solver, tolerance):
    assert error_of(flow_of(PROPORTIONAL_INTEGRAL, solver=solver)(START)) < tolerance


def test_integral_control_is_the_default():
    by_default = flow_of(None, rtol=RTOL, atol=ATOL)(START)
    given = flow_of(INTEGRAL)(START)
    assert given.num_steps == by_default.num_steps
    np.testing.assert_array_equal(features_of(given), features_of(by_default))


def test_coefficients_change_the_steps():
    steps = [flow_of(CONTROLLERS[name])(START).num_steps for name in ("I", "PI", "greatest step")]
    assert steps[0] != steps[1]
    assert steps[2] >= TIMES[-1] / 0.05


def test_a_clipped_controller_steps_to_its_times():
    ends = np.linspace(0.01, 1.99, 100)
    controller = diffrax.ClipStepSizeController(INTEGRAL, step_ts=jnp.asarray(ends))
    assert flow_of(INTEGRAL)(START).num_steps < 100
    assert flow_of(controller)(START).num_steps >= 101


def test_euler_steps_of_fixed_length_are_gradient_descent():
    problem = nc.ulpm(3, 4, 2)
    start, rate, num_steps = problem.init(jax.random.key(1)), 0.03, 50
    steps = diffrax.StepTo(np.linspace(0, rate * num_steps, num_steps + 1))
    flow = flow_of(steps, problem, np.array([rate * num_steps]), solver=diffrax.Euler())
    traj = flow(start)
    descent = nc.gradient_descent(problem, start, optax.sgd(rate), num_steps, observe=nothing)
    assert traj.num_steps == num_steps
    np.testing.assert_allclose(
        traj.final.features, descent.final.features, rtol=0, atol=rounding(operations=1000)
    )
    assert traj.final_log_time == pytest.approx(np.log1p(rate * num_steps))


@pytest.mark.parametrize(("solver", "order"), [(diffrax.Heun(), 2), (diffrax.Bosh3(), 3)])
def test_errors_of_prescribed_steps_fall_with_the_order_of_the_solver(solver, order):
    def error(num_steps):
        steps = diffrax.StepTo(jnp.linspace(0, TIMES[-1], num_steps + 1))
        traj = flow_of(steps, solver=solver)(START)
        assert traj.num_steps == num_steps
        return error_of(traj)

    assert np.log2(error(100) / error(200)) == pytest.approx(order, abs=0.1)


def test_prescribed_steps_that_are_too_long_end_in_the_result():
    problem = nc.mixon(3, 4, 2)
    steps = diffrax.StepTo(np.linspace(0, 4000, 401))
    flow = flow_of(steps, problem, np.array([4000.0]), solver=diffrax.Euler())
    traj = flow(problem.init(jax.random.key(0)), throw=False)
    assert traj.result == diffrax.RESULTS.nonfinite


STARTS = jax.vmap(lambda norm: PROBLEM.init(jax.random.key(0), norm))(jnp.array([0.3, 1.0, 2.0]))


@pytest.mark.parametrize("name", ["PI", "norm", "clip"])
def test_common_steps_of_a_batch_follow_the_worst_run(name):
    flow = flow_of(CONTROLLERS[name])
    shared = flow_of(CONTROLLERS[name], shared_steps=True)
    batch, lanes = flow.batch(STARTS), jax.vmap(shared)(STARTS)
    exact = jax.vmap(lambda start: nc.exact.linearized_solution(PROBLEM, start, TIMES))(STARTS)
    for traj in (batch, lanes):
        assert error_of(traj, exact) < integration(RTOL)
        assert len(set(np.asarray(traj.num_steps).tolist())) == 1
    # Rounding apart, both take the steps of one control by the largest norm.
    assert abs(int(batch.num_steps[0]) - int(lanes.num_steps[0])) <= 1
    alone = max(
        int(flow(jax.tree.map(lambda leaf, i=i: leaf[i], STARTS)).num_steps) for i in range(3)
    )
    assert batch.num_steps[0] >= alone - 1


def test_prescribed_steps_are_common_to_a_batch():
    flow = flow_of(diffrax.StepTo(np.linspace(0, 2, 41)))
    batch = flow.batch(STARTS)
    np.testing.assert_array_equal(batch.num_steps, 40)
    one = flow(jax.tree.map(lambda leaf: leaf[1], STARTS))
    np.testing.assert_allclose(features_of(batch)[1], features_of(one), rtol=rounding())


def test_other_numbers_of_a_controller_compile_nothing():
    def run(rtol, pcoeff, seed):
        start = PROBLEM.init(jax.random.key(seed), 0.3)
        control = diffrax.PIDController(rtol, ATOL, pcoeff=pcoeff, icoeff=0.3)
        flow_of(control)(start)
        flow_of(diffrax.StepTo(np.linspace(0, 2, 11) ** (1 + pcoeff) / 2**pcoeff))(start)

    run(1e-6, 0.4, 0)
    with counted() as counts:
        run(1e-5, 0.3, 1)
    assert counts.compiled == 0


@pytest.mark.parametrize("name", [*CONTROLLERS, "steps"])
def test_no_controller_calls_the_host(name):
    controller = {**CONTROLLERS, "steps": diffrax.StepTo(np.linspace(0, 2, 11))}[name]
    lines = lines_of(flow_of(controller), START)
    assert not any("callback" in line for line in lines)


def test_tolerances_may_be_swept_under_vmap():
    def error(rtol):
        traj = flow_of(diffrax.PIDController(rtol, 1e-3 * rtol))(START, throw=False)
        return jnp.max(jnp.abs(features_of(traj) - EXACT.features))

    loose, tight = jax.jit(jax.vmap(error))(jnp.array([1e-3, 1e-8]))
    assert tight < integration(1e-8) < loose


def test_the_dtype_of_a_run_is_that_of_its_start_whatever_the_controller():
    start = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), START)
    controller = diffrax.PIDController(jnp.asarray(1e-4), jnp.asarray(1e-6), pcoeff=0.3)
    traj = flow_of(
        diffrax.ClipStepSizeController(controller, step_ts=jnp.array([0.2], jnp.float64))
    )(start)
    assert features_of(traj).dtype == jnp.float32
    assert error_of(traj) < integration(1e-4)


def test_a_field_that_is_nan_ends_a_run_with_any_controller():
    class Undefined(nc.LinearizedMixon):
        def scaled_descent(self, state, log_scale):
            return jax.tree.map(lambda leaf: leaf * jnp.nan, state)

    problem = Undefined(3, 4, 2)  # pyright: ignore[reportCallIssue]
    traj = flow_of(PROPORTIONAL_INTEGRAL, problem)(START, throw=False)
    assert not traj.succeeded
    assert traj.num_steps < 2000


class Halving(diffrax.AbstractStepSizeController):
    """A controller of a user: each step is half of what is left, the last is the rest."""

    stop: float
    shortest: float

    def wrap(self, direction):
        return self

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        return t0 + (t1 - t0) / 2, None

    def adapt_step_size(
        self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state
    ):
        rest = self.stop - t1
        following = jnp.where(rest < self.shortest, self.stop, t1 + rest / 2)
        return True, t1, following, False, None, diffrax.RESULTS.successful


def test_a_controller_of_the_user_chooses_the_steps():
    # 1, 1/2, ... 1/128 are left after the steps, then 1/256 is the rest that is taken at once.
    flow = flow_of(Halving(2.0, 0.01), save_states=False)
    assert flow(START).num_steps == 9
    message = "batch: a stepsize_controller Halving may choose"
    with pytest.raises(ValueError, match=message) as caught:
        flow.batch(STARTS)
    assert "\n" not in str(caught.value)


def test_another_controller_is_another_run_of_a_store(tmp_path):
    def at(times):
        return flow_of(diffrax.StepTo(times))(START, path=tmp_path / "flow")

    first = at(np.linspace(0, 2, 11))
    again = at(np.linspace(0, 2, 11))
    np.testing.assert_array_equal(features_of(first), features_of(again))
    with pytest.raises(ValueError, match="controller_arrays = "):
        at(np.linspace(0, np.sqrt(2), 11) ** 2)


STEPS = diffrax.StepTo(np.linspace(0, 2, 11))
JUMP = diffrax.ClipStepSizeController(INTEGRAL, jump_ts=jnp.array([0.5]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: flow_of(INTEGRAL, rtol=1e-6), "rtol = 1e-06 with a stepsize_controller: leave"),
        (lambda: flow_of(INTEGRAL, atol=1e-6), "atol = 1e-06 with a stepsize_controller: leave"),
        (lambda: flow_of(INTEGRAL, min_step=0.1), "min_step = 0.1 with a stepsize_controller"),
        (lambda: flow_of(diffrax.ConstantStepSize()), "a flow has no dt0 to be its step; give"),
        (
            lambda: flow_of(STEPS, times=np.array([3.0])),
            "StepTo runs from 0 to 2, the flow from 0 to 3",
        ),
        (lambda: flow_of(diffrax.StepTo([0.0, 1.0, 1.0, 2.0])), "do not increase at index 2"),
        (lambda: flow_of(STEPS, solver=diffrax.Kvaerno5()), "has no tolerances for the root find"),
        (lambda: flow_of(INTEGRAL, solver=diffrax.Euler()), "Euler() estimates no error: give"),
        (lambda: flow_of(diffrax.PIDController(0.0, 1e-6)), "stepsize_controller.rtol = 0.0"),
        (lambda: flow_of(diffrax.PIDController(1e-6, -1.0)), "stepsize_controller.atol = -1.0"),
        (lambda: flow_of(diffrax.PIDController(1e-17, 1e-9))(START), "rtol = 1e-17: float64 hold"),
        (lambda: flow_of(JUMP)(START), "ClipStepSizeController with jumps of the field"),
    ],
)
def test_invalid_controllers_are_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        make()
    assert "\n" not in str(caught.value)
