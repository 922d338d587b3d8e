import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from jax.flatten_util import ravel_pytree
from numpy.polynomial import chebyshev
from tolerances import rounding, second_order_integration

import nc_jax as nc
from nc_jax.dynamics import rkc

ULPM = nc.ulpm(5, 20, 10)
SMALL = nc.ulpm(3, 4, 2)


def start_of(problem, seed=0, norm=1.0, dtype="float64"):
    return problem.init(jax.random.fold_in(jax.random.key(0), seed), norm, dtype=dtype)


def log_log_times(decades, num):
    return np.log1p(nc.log_times(decades, num))


def stage_polynomial(z, stages):
    """P_s(z) as the stages compute it: one step of size 1 on y' = zy."""
    zero, one = jnp.zeros_like(stages), jnp.ones_like(stages)
    return 1 + rkc._stages(lambda t, y: z * y, zero, one, jnp.ones_like(z), z, stages)


POLYNOMIAL = jax.jit(stage_polynomial)


def closed_form(z, stages):
    """a_s + b_s T_s(w0 + w1 z) by NumPy's Chebyshev series, of which nothing above is used."""
    series = chebyshev.Chebyshev.basis(stages)
    w0 = 1 + 2 / 13 / stages**2
    first, second = series.deriv(1)(w0), series.deriv(2)(w0)
    b = second / first**2
    return 1 - b * series(w0) + b * series(w0 + first / second * z)


@pytest.mark.parametrize("stages", [2, 3, 5, 8, 21, 55])
def test_the_stages_give_the_chebyshev_polynomial(stages):
    z = np.linspace(-rkc._REACH * (stages**2 - 1), 0.1, 200)
    got = POLYNOMIAL(z, jnp.asarray(float(stages)))
    # T_s loses s² roundings, in NumPy and in the stages alike.
    np.testing.assert_allclose(got, closed_form(z, stages), rtol=0, atol=rounding() * stages**2)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(("dtype", "most"), [("float64", 500), ("float32", 200)])
def test_every_number_of_stages_is_stable_to_its_reach(dtype, most):
    # The last is beyond the reach.
    share = -np.concatenate([np.linspace(0, 0.02, 400), np.linspace(0.02, 1, 4001), [1.3]])
    for stages in range(2, most + 1):
        reach = rkc._REACH * (stages**2 - 1)
        values = np.abs(POLYNOMIAL((reach * share).astype(dtype), np.asarray(stages, dtype)))
        values, beyond = values[:-1], values[-1]
        assert values.max() <= 1 + rounding(dtype) * stages, stages
        # Modes well inside are damped; beyond the reach nothing holds.
        assert values[share[:-1] < -10 / reach].max(initial=0) < 0.96, stages
        assert not beyond <= 1, stages  # NaN where it overflows


@jax.jit
def derivatives_at_zero(stages):
    """P_s and its first three derivatives."""
    derivatives = [lambda z: stage_polynomial(z, stages)]
    for _ in range(3):
        derivatives.append(jax.jacfwd(derivatives[-1]))
    return [derivative(jnp.zeros(())) for derivative in derivatives]


@pytest.mark.parametrize("stages", [2, 5, 40, 300])
def test_a_step_is_right_to_second_order_and_no_further(stages):
    # P_s = 1 + z + z²/2 + c z³ with c short of 1/6.
    *exact, third = derivatives_at_zero(jnp.asarray(float(stages)))
    np.testing.assert_allclose(exact, 1, rtol=rounding() * stages**2)
    assert third < 0.9


@jax.jit
def errors_of_fixed_steps(step):
    """At t = 1, against tan t, which its own slope keeps from, and e^sin t."""

    def field(t, y, args):
        del args
        return {"tan": 1 + y["tan"] * jnp.tan(t), "exp": jnp.cos(t) * y["exp"]}

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field), nc.RKC(), 0.0, 1.0, step,
        {"tan": jnp.zeros(3), "exp": jnp.ones(())}, max_steps=200,
    )  # fmt: skip
    assert solution.ys is not None
    tan, exp = solution.ys["tan"][0, 0], solution.ys["exp"][0]
    return jnp.abs(jnp.stack([tan / math.tan(1) - 1, exp / math.exp(math.sin(1)) - 1]))


def test_fixed_steps_converge_at_second_order():
    steps = np.array([10, 20, 40, 80, 160])
    errors = np.array([errors_of_fixed_steps(1 / n) for n in steps])
    for slope in np.polyfit(np.log(steps), np.log(errors), 1)[0]:
        assert -2.1 < slope < -1.9


@jax.jit
def one_step(h, stiffness):
    """The last component is exp(-t); a fast one at rest beside it only asks for stages."""
    term = diffrax.ODETerm(lambda t, y, args: -y * jnp.stack([stiffness, 1.0]))
    solver, start = nc.RKC(), jnp.array([0.0, 1.0])
    state = solver.init(term, 0.0, h, start, None)
    end, estimate, _, _, _ = solver.step(term, 0.0, h, start, None, state, False)
    assert estimate is not None
    return jnp.abs(estimate[1]), jnp.abs(end[1] - jnp.exp(-h))


@pytest.mark.parametrize("stiffness", [0.0, 400.0])
def test_the_estimate_follows_the_error_of_a_step(stiffness):
    steps = np.array([0.2, 0.1, 0.05])
    measured = [one_step(h, np.asarray(stiffness)) for h in steps]
    estimates, errors = np.array(measured).T
    assert np.all((estimates > errors) & (estimates < 3 * errors))
    assert abs(np.polyfit(np.log(steps), np.log(estimates), 1)[0] - 3) < 0.2


def far_observe(state):
    collapse = nc.metrics.collapse_metrics(state, ULPM.labels)
    return {
        **{name: value for name, value in collapse.items() if name.startswith("ji_")},
        **sizes(state),
    }


def sizes(state):
    return {
        "log_objective": ULPM.log_objective(state),
        "squared_norm": state.squared_norm(),
        "margin": jnp.min(nc.metrics.sample_margins(state, ULPM.labels)),
    }


def far_run(start, times, clock, solver, rtol, observe=far_observe):
    return nc.gradient_flow(
        ULPM, start, times, clock=clock, solver=solver, rtol=rtol, atol=rtol / 100, observe=observe
    )


@pytest.fixture(scope="module")
def by_tsit5():
    times = nc.log_times(1000, 41)
    return far_run(start_of(ULPM), times, nc.LogTime(), diffrax.Tsit5(), rtol=1e-9)


@pytest.mark.parametrize("rtol", [1e-4, 1e-6])
def test_agrees_with_tsit5_in_log_time_at_ten_to_the_thousand(by_tsit5, rtol):
    times = log_log_times(1000, 41)
    result = far_run(start_of(ULPM), times, nc.LogLogTime(), nc.RKC(), rtol)
    np.testing.assert_allclose(result.log_time, by_tsit5.log_time, rtol=rounding())
    for name, values in result.observables.items():
        if name.endswith("_drift"):
            assert values.max() < second_order_integration(rtol), name
        else:
            np.testing.assert_allclose(
                values, by_tsit5.observables[name], rtol=second_order_integration(rtol)
            )


def test_the_simplex_ray_is_exact_to_ten_to_the_million():
    start = eqx.filter_jit(nc.exact.collapsed_state)(ULPM, 0.5, key=jax.random.key(1))
    times = log_log_times(1e6, 41)
    recorded = far_run(start, times, nc.LogLogTime(), nc.RKC(), 1e-5).observables
    expected = eqx.filter_jit(nc.exact.collapsed_gap)(ULPM, 0.5, np.expm1(times))
    np.testing.assert_allclose(recorded["margin"], expected, rtol=second_order_integration(1e-5))


def test_collapse_goes_on_to_ten_to_the_million():
    # Theory's slopes over three decades of log t beyond 10^1000; spread off all classifiers never
    # moves, so that within-class variation has -1/2.
    result = far_run(start_of(ULPM), log_log_times(1e6, 101), nc.LogLogTime(), nc.RKC(), 1e-5)
    for name, values in result.observables.items():
        if name.startswith("ji_"):
            expected = -0.5 if name == "ji_within_class_variation" else -1.0
            exponent = result.decay_exponent(name, 1e3 * math.log(10))
            assert abs(exponent - expected) < 0.02, name
        elif name.endswith("_drift"):
            assert values.max() < second_order_integration(1e-5), name


def test_cost_grows_as_the_square_root_of_log_t():
    evaluations = 0

    def tick():
        nonlocal evaluations
        evaluations += 1

    def field(u, state, args):
        del args
        jax.debug.callback(tick)
        return SMALL.scaled_descent(state, nc.LogLogTime().log_rate(u))

    @jax.jit
    def run(decades):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field), nc.RKC(), 0.0, jnp.log1p(decades * math.log(10)), None,
            start_of(SMALL), max_steps=10_000, adjoint=diffrax.ForwardMode(),
            stepsize_controller=diffrax.PIDController(1e-4, 1e-6, pcoeff=0.4, icoeff=0.3),
        ).ys  # fmt: skip

    counts, decades = [], np.geomspace(3e4, 3e6, 5)
    for horizon in decades:
        evaluations = 0
        jax.block_until_ready(run(horizon))
        jax.effects_barrier()
        counts.append(evaluations)
    slope = np.polyfit(np.log(decades), np.log(counts), 1)[0]
    assert 0.4 < slope < 0.6


def test_a_late_start_is_followed_from_its_saddle_to_collapse():
    # At d = K this one leaves its saddle between t = 10^1000 and 10^2000.
    problem = nc.ulpm(5, 5, 10)

    def observe(state):
        collapse = nc.metrics.collapse_metrics(state, problem.labels)
        return {"gap": collapse["ji_feature_cosine_gap"]}

    times = np.log1p(np.array([100, 1000, 2000, 10_000]) * math.log(10))
    gap = nc.gradient_flow(
        problem, start_of(problem, 161), times, clock=nc.LogLogTime(), solver=nc.RKC(), rtol=1e-5,
        atol=1e-7, observe=observe,
    ).observables["gap"]  # fmt: skip
    assert gap[0] > 0.1
    assert gap[1] > 1e-3
    assert gap[2] < 1e-5
    # From there as 1/log t.
    np.testing.assert_allclose(gap[3] / gap[2], 1 / 5, rtol=0.01)


@eqx.filter_jit
def radii(problem, start, clock, stop, samples=30):
    """Estimated and true spectral radius at steps of a run, densest at its beginning."""

    def field(u, state, args):
        del args
        return problem.scaled_descent(state, clock.log_rate(u))

    term = diffrax.ODETerm(field)
    solution = diffrax.diffeqsolve(
        term, nc.RKC(), 0.0, stop, None, start, saveat=diffrax.SaveAt(t0=True, steps=True),
        stepsize_controller=diffrax.PIDController(1e-5, 1e-7), max_steps=1024,
        adjoint=diffrax.ForwardMode(),
    )  # fmt: skip
    times, states = solution.ts, solution.ys
    assert times is not None
    reached = jnp.sum(jnp.isfinite(times))
    _, unravel = ravel_pytree(start)

    def estimate(vector, at):
        u, state = at
        _, radius, vector = rkc._spectral_radius(lambda y: field(u, y, None), state, vector)
        return vector, radius

    # What follows the last step is NaN and left out.
    first = nc.RKC().init(term, times[0], stop, start, None)
    _, estimated = jax.lax.scan(estimate, first, (times, states))

    def true(u, state):
        flat, _ = ravel_pytree(state)
        jacobian = jax.jacfwd(lambda x: ravel_pytree(field(u, unravel(x), None))[0])(flat)
        return jnp.max(jnp.abs(jnp.linalg.eigvalsh(jacobian)))

    shares = jnp.linspace(0, 1, samples)
    chosen = jnp.clip(jnp.round(reached.astype(float) ** shares).astype(int), 1, reached) - 1
    exact = jax.lax.map(
        lambda at: true(*at), (times[chosen], jax.tree.map(lambda leaf: leaf[chosen], states))
    )
    return estimated[chosen], exact, chosen, reached


@pytest.mark.parametrize(
    ("problem", "clock", "stop"),
    [
        (nc.ulpm(4, 8, 4), nc.LogLogTime(), 10.0),
        (nc.ulpm(4, 4, 4), nc.LogLogTime(), 10.0),
        (nc.zhu(4, 8, 4, 0.005), nc.RealTime(), 1e4),
        (nc.mixon(3, 15, 3), nc.RealTime(), 100.0),
    ],
)
def test_the_estimated_spectral_radius_is_within_its_margin(problem, clock, stop):
    estimated, exact, chosen, reached = radii(problem, start_of(problem), clock, stop)
    assert chosen[0] == 0
    assert reached < 1024
    assert chosen[-1] == reached - 1
    ratio = np.asarray(estimated / exact)
    assert ratio.min() * rkc._RADIUS_MARGIN > 1
    assert ratio.max() < 1 + rounding()


@jax.jit
def three_modes(begin, end, start, constant, quartic, target):
    """y' = −(constant + quartic t⁴)(y − target cos t) with step control, of three modes."""

    def field(t, y, args):
        del args
        return -(constant + quartic * t**4) * (y - target * jnp.cos(t))

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field), nc.RKC(), begin, end, None, start,
        stepsize_controller=diffrax.PIDController(1e-5, 1e-7), max_steps=4000,
    )  # fmt: skip
    assert solution.ys is not None
    return solution.ys[0], solution.stats


def test_a_mode_that_becomes_dominant_is_detected():
    # Two decoupled rates that cross at t = 1; before, the vector loses the second.
    constant, quartic = np.array([1e4, 0.0, 1e4]), np.array([0.0, 1e4, 0.0])
    end, stats = three_modes(0.0, 3.0, np.ones(3), constant, quartic, 1.0)
    assert stats["num_rejected_steps"] < stats["num_steps"] / 4
    np.testing.assert_allclose(end, math.cos(3), rtol=second_order_integration(1e-5))


def nothing(state):
    return {}


def log_objective(state):
    return {"log_objective": SMALL.log_objective(state)}


def small_run(times, solver, rtol, seed=0):
    return nc.gradient_flow(
        SMALL,
        start_of(SMALL, seed),
        times,
        clock=nc.LogLogTime(),
        solver=solver,
        rtol=rtol,
        atol=rtol / 100,
        observe=log_objective,
    )


def test_a_step_beyond_the_largest_number_of_stages_is_shortened():
    times = log_log_times(1000, 2)
    short, free = (small_run(times, solver, 1e-4) for solver in (nc.RKC(max_stages=6), nc.RKC()))
    assert short.num_steps > 1.5 * free.num_steps
    np.testing.assert_allclose(
        short.observables["log_objective"],
        free.observables["log_objective"],
        rtol=second_order_integration(1e-4),
    )


def test_an_unstable_constant_step_ends_with_dt_min_reached():
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: -1e4 * y), nc.RKC(max_stages=10), 0.0, 1.0, 0.1,
        jnp.ones(2), throw=False,
    )  # fmt: skip
    assert solution.result == diffrax.RESULTS.dt_min_reached


@pytest.mark.parametrize("max_stages", [4, 0, -1])
def test_too_few_stages_are_refused(max_stages):
    with pytest.raises(ValueError, match=f"max_stages = {max_stages}: give an integer >= 5"):
        nc.RKC(max_stages)


@jax.jit
def small_lanes(starts, times, rtol):
    def run(start):
        return nc.gradient_flow(
            SMALL, start, times, clock=nc.LogLogTime(), solver=nc.RKC(), rtol=rtol, atol=rtol / 100,
            observe=log_objective,
        )  # fmt: skip

    return jax.vmap(run)(starts)


def test_batch_equals_single_runs():
    def run(seed):
        return small_run(log_log_times(1e4, 3), nc.RKC(), 1e-5, seed)

    starts = jax.vmap(lambda seed: start_of(SMALL, seed))(np.arange(4))
    batch = small_lanes(starts, log_log_times(1e4, 3), 1e-5)
    for seed in range(4):
        alone = run(seed)
        # Rounding decides a rejection now and then, and with it the errors of the steps after.
        np.testing.assert_allclose(
            batch.observables["log_objective"][seed],
            alone.observables["log_objective"],
            rtol=second_order_integration(1e-5),
        )
        assert abs(alone.num_steps - batch.num_steps[seed]) <= 0.05 * alone.num_steps


@pytest.mark.parametrize("problem", [nc.zhu(3, 5, 4, 0.01), nc.mixon(3, 5, 4)])
def test_at_rest_the_steps_grow_with_time(problem):
    # An explicit method goes on taking a step every few units of time, for stability's sake.
    start = start_of(problem)
    flat, unravel = ravel_pytree(start)

    def run(stop):
        return nc.gradient_flow(
            problem, start, np.array([stop]), clock=nc.RealTime(), solver=nc.RKC(), rtol=1e-5,
            atol=1e-7, observe=nothing,
        )  # fmt: skip

    field = jax.jit(lambda x: ravel_pytree(problem.vector_field(0.0, unravel(x), None))[0])
    soon, late = run(1e3), run(1e6)
    assert late.num_steps < soon.num_steps + 100
    final, _ = ravel_pytree(late.final)
    assert np.sum(np.square(field(final))) < 1e-10 * np.sum(np.square(final))
    exact = scipy.integrate.solve_ivp(
        lambda t, x: np.asarray(field(x)), (0, 1e3), np.asarray(flat), "LSODA", rtol=1e-8,
        atol=1e-10,
    ).y[:, -1]  # fmt: skip
    gap = ravel_pytree(soon.final)[0] - exact
    bound = second_order_integration(1e-5)
    assert np.sum(gap**2) < bound**2 * np.sum(exact**2)


def test_float32_reaches_ten_to_the_ten_thousand():
    start = start_of(ULPM, dtype="float32")
    double = jax.tree.map(lambda leaf: leaf.astype("float64"), start)
    times = log_log_times(1e4, 5)
    result = far_run(start, times, nc.LogLogTime(), nc.RKC(), 1e-4, sizes)
    true = far_run(double, times, nc.LogLogTime(), nc.RKC(), 1e-6)
    assert result.final.features.dtype == jnp.float32
    for name in ("log_objective", "squared_norm", "margin"):
        np.testing.assert_allclose(
            result.observables[name], true.observables[name], rtol=second_order_integration(1e-4)
        )


def test_memory_of_a_step_is_below_ten_states():
    problem = nc.ulpm(5, 50, 20)
    start = start_of(problem)

    def step(state, stages):
        def field(t, y):
            return problem.vector_field(t, y, None)

        zero, one = jnp.zeros(()), jnp.ones(())
        return rkc._stages(field, zero, one, state, field(zero, state), stages)

    memory = jax.jit(step).lower(start, jnp.asarray(100.0)).compile().memory_analysis()
    assert memory is not None
    state_bytes = 8 * (100 + 5) * 50
    assert memory.temp_size_in_bytes < 10 * state_bytes


def test_forward_derivatives_match_finite_differences():
    def norm(scale):
        # Observed as elsewhere, so that the runs beside the derivative compile nothing.
        state = jax.tree.map(lambda leaf: scale * leaf, start_of(SMALL))
        traj = nc.gradient_flow(
            SMALL,
            state,
            log_log_times(10, 2),
            clock=nc.LogLogTime(),
            solver=nc.RKC(),
            rtol=1e-6,
            atol=1e-8,
            observe=log_objective,
        )
        return traj.final.squared_norm()

    _, slope = jax.jvp(norm, (jnp.asarray(1.0),), (jnp.asarray(1.0),))
    difference = (norm(jnp.asarray(1.01)) - norm(jnp.asarray(0.99))) / 0.02
    np.testing.assert_allclose(slope, difference, rtol=1e-2)


def test_times_that_float32_cannot_resolve_are_refused():
    with pytest.raises(
        ValueError, match=r"float32 resolves to 0\.3 only: end earlier, or use float64"
    ):
        nc.gradient_flow(
            SMALL, start_of(SMALL, dtype="float32"), log_log_times(1e6, 3), clock=nc.LogLogTime(),
            solver=nc.RKC(),
        )  # fmt: skip


def test_time_may_run_backwards():
    end, _ = three_modes(1.0, 0.0, np.full(3, math.e), -np.ones(3), np.zeros(3), 0.0)
    np.testing.assert_allclose(end, 1, rtol=second_order_integration(1e-5))


def test_a_field_of_zero_stays_where_it_is():
    start = np.arange(3.0)
    end, _ = three_modes(0.0, 1.0, start, np.zeros(3), np.zeros(3), 0.0)
    np.testing.assert_array_equal(end, start)


def test_a_nan_lane_ends_alone():
    starts = jax.vmap(lambda norm: start_of(SMALL, norm=norm))(np.array([1.0, np.nan, 1.0, 2.0]))
    traj = small_lanes(starts, log_log_times(100, 3), 1e-4)
    np.testing.assert_array_equal(traj.succeeded, [True, False, True, True])
    finite = np.isfinite(traj.observables["log_objective"])
    assert finite[[0, 2, 3]].all()


def test_times_of_another_clock_are_refused():
    message = r"u = 2302.59, where dt/du of LogLogTime\(\) overflows float64"
    with pytest.raises(ValueError, match=message):
        nc.gradient_flow(
            SMALL, start_of(SMALL), nc.log_times(1000, 3), clock=nc.LogLogTime(), solver=nc.RKC()
        )


def test_dense_output_with_constant_steps_is_the_slow_solution():
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: -100 * (y - jnp.cos(t))), nc.RKC(), 0.0, 1.0, 0.05,
        jnp.ones(2), saveat=diffrax.SaveAt(dense=True),
    )  # fmt: skip
    t = 0.77
    # The slow part of the solution; the transient of rate 100 is gone.
    expected = (1e4 * math.cos(t) + 100 * math.sin(t)) / (1e4 + 1)
    np.testing.assert_allclose(solution.evaluate(t), expected, rtol=1e-3)


def test_the_error_of_an_explicit_solver_in_log_log_time_suggests_rkc():
    with pytest.raises(RuntimeError, match=r"give it solver=nc_jax\.RKC\(\)"):
        nc.gradient_flow(
            SMALL, start_of(SMALL), log_log_times(1e4, 2), clock=nc.LogLogTime(), observe=nothing,
            max_steps=300,
        )  # fmt: skip
