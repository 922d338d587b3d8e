import functools
import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest
import scipy.integrate
import scipy.special
from tolerances import integration, rounding

import nc_jax as nc

ULPM = nc.ulpm(5, 20, 10)
DECAY = nc.WeightDecay(classifier=0.02, features=0.02, bias=0.02)
CASES = {
    "sum": nc.ulpm(3, 4, 2),
    "mean": nc.ulpm(3, 4, 2, reduction="mean"),
    "unbalanced": nc.UnconstrainedFeatures((1, 4, 2), 5, reduction="sum"),
    "bias": nc.UnconstrainedFeatures((2, 2, 2), 4, bias=True),
    "unbalanced bias mean": nc.UnconstrainedFeatures((3, 1, 2), 4, bias=True),
    "decay": nc.UnconstrainedFeatures((2, 2, 2), 4, reduction="sum", bias=True, weight_decay=DECAY),
    "unbalanced decay mean": nc.UnconstrainedFeatures(
        (4, 2, 1), 3, weight_decay=nc.WeightDecay(classifier=0.01, features=0.03)
    ),
    "square": nc.mixon(3, 5, 2),
    "square unbalanced mean decay": nc.UnconstrainedFeatures(
        (1, 4, 2), 5, loss=nc.SquaredError(), bias=True, weight_decay=DECAY
    ),
}


def start_of(problem, seed=0, norm=1.0, dtype="float64"):
    return problem.init(jax.random.fold_in(jax.random.key(0), seed), norm, dtype=dtype)


def no_observables(state):
    """For runs that are judged by their states: nothing else is compiled."""
    return {}


@functools.cache  # another function would compile another program
def objective_of(problem):
    return lambda state: {"log_objective": problem.log_objective(state)}


# One operation after the other, each of theirs is a program of its own.
collapsed_state = eqx.filter_jit(nc.exact.collapsed_state)
collapsed_gap = eqx.filter_jit(nc.exact.collapsed_gap)


def reference(problem, start, log_times):
    """SciPy's DOP853 at rtol 1e-12 in log time, on a field written anew in NumPy."""
    n, d, k = problem.num_samples, problem.feature_dim, problem.num_classes
    labels = np.eye(k)[np.repeat(np.arange(k), problem.class_sizes)]
    decay = problem.weight_decay
    mean = 1 / n if problem.reduction == "mean" else 1.0
    biased = start.bias is not None

    def unpack(x):
        h, w, b = np.split(x, [n * d, n * d + k * d])
        return h.reshape(n, d), w.reshape(k, d), b if biased else np.zeros(k)

    def field(u, x):
        h, w, b = unpack(x)
        z = h @ w.T + b
        if isinstance(problem.loss, nc.CrossEntropy):
            z = scipy.special.softmax(z, axis=1)
        g = mean * (z - labels)
        parts = [g @ w + decay.features * h, g.T @ h + decay.classifier * w]
        parts += [g.sum(axis=0) + decay.bias * b] if biased else []
        return -np.exp(u) * np.concatenate([part.ravel() for part in parts])

    x0 = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(start)])
    solution = scipy.integrate.solve_ivp(
        field, (0, log_times[-1]), x0, "DOP853", log_times, rtol=1e-12, atol=1e-14
    )
    return solution.y.T


def flat_states(states):
    leaves = jax.tree.leaves(states)
    return np.concatenate([np.reshape(leaf, (leaf.shape[0], -1)) for leaf in leaves], axis=1)


@pytest.mark.parametrize("name", CASES)
def test_log_clock_agrees_with_scipy(name):
    problem = CASES[name]
    start, times = start_of(problem, norm=2.0), nc.log_times(2.5, 8, start_log10=-1)
    traj = nc.gradient_flow(
        problem, start, times, rtol=1e-9, atol=1e-11, observe=no_observables, save_states=True
    )
    expected = reference(problem, start, times)
    error = np.linalg.norm(flat_states(traj.states) - expected, axis=1)
    assert np.all(error <= 1e-7 * np.linalg.norm(expected, axis=1))
    assert np.all(error <= integration(1e-9) * np.linalg.norm(expected, axis=1))


def test_clocks_agree():
    problem = CASES["unbalanced"]
    start, times = start_of(problem), np.array([0.1, 1.0, 30.0])
    in_real_time = nc.gradient_flow(
        problem, start, times, clock=nc.RealTime(), observe=no_observables, save_states=True
    )
    in_log_time = nc.gradient_flow(
        problem, start, np.log1p(times), observe=no_observables, save_states=True
    )
    np.testing.assert_allclose(in_real_time.log_time, in_log_time.log_time, rtol=rounding())
    a, b = flat_states(in_real_time.states), flat_states(in_log_time.states)
    assert np.linalg.norm(a - b) <= integration(1e-8) * np.linalg.norm(b)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_flow_on_the_simplex_ray_is_the_exact_one(reduction):
    # To t = 10^1000, against the closed form: 2K√n t = Ei(q) - Ei(q0) + (K-1) log(q/q0).
    problem = nc.ulpm(5, 20, 10, reduction=reduction)
    times = nc.log_times(1000, 40)
    start = collapsed_state(problem, 0.5, key=jax.random.key(1))
    margins = ("margin_min", "margin_mean")
    # The summed loss shares the program of `far_flow`, which observes everything.
    observe = None if reduction == "sum" else margins
    traj = nc.gradient_flow(problem, start, times, rtol=1e-9, atol=1e-11, observe=observe)
    expected = collapsed_gap(problem, 0.5, times)
    for margin in margins:
        np.testing.assert_allclose(traj.observables[margin], expected, rtol=integration(1e-9))


RAY_TIMES = nc.log_times(3, 4)
GAP_ON_THE_RAY = collapsed_gap(CASES["sum"], 0.5, RAY_TIMES)


def error_and_steps(solver, rtol):
    """Error of the margin on the simplex ray to t = 10^3, and the steps taken."""
    problem = CASES["sum"]
    start = collapsed_state(problem, 0.5, key=jax.random.key(0))
    traj = nc.gradient_flow(
        problem, start, RAY_TIMES, solver=solver, rtol=rtol, atol=rtol / 100,
        observe=no_observables, save_states=True,
    )  # fmt: skip
    assert traj.states is not None
    features, classifier = np.asarray(traj.states.features), np.asarray(traj.states.classifier)
    logits = np.einsum("tnd,tkd->tnk", features, classifier)
    at_label = np.eye(3, dtype=bool)[problem.labels]
    margin = np.min(
        logits[:, at_label] - np.max(np.where(at_label, -np.inf, logits), axis=2), axis=1
    )
    return np.max(np.abs(margin / GAP_ON_THE_RAY - 1)), traj.num_steps


@pytest.mark.parametrize(("solver", "order"), [(diffrax.Bosh3(), 3), (diffrax.Tsit5(), 5)])
def test_error_falls_with_the_order_of_the_solver(solver, order):
    # Over the tolerances, error ~ (number of steps)^-order; the closed form is the truth.
    rtols = np.geomspace(1e-10, 1e-6, 5) if order == 3 else np.geomspace(1e-12, 1e-6, 7)
    error, steps = np.array([error_and_steps(solver, rtol) for rtol in rtols]).T
    slope = np.polyfit(np.log(steps), np.log(error), 1)[0]
    assert -order - 0.5 < slope < -order + 0.5


def test_implicit_solver_reaches_the_exact_solution():
    error, _ = error_and_steps(diffrax.Kvaerno5(), 1e-8)
    assert error <= integration(1e-8)


@pytest.fixture(scope="module")
def far_flow():
    """K=5, d=20, n=10 from a Gaussian start to t = 10^1000, with everything observed."""
    return nc.gradient_flow(ULPM, start_of(ULPM), nc.log_times(1000, 201), rtol=1e-8, atol=1e-10)


def test_a_flow_to_late_times_is_finite_and_conserves_its_invariants(far_flow):
    recorded = dict(far_flow.observables)
    # The separation value is infinite until all samples are separated.
    separated = np.asarray(recorded["margin_min"]) > 0
    np.testing.assert_array_equal(np.isfinite(recorded.pop("separation_value")), separated)
    for name, values in recorded.items():
        assert np.all(np.isfinite(values)), name
    assert np.max(far_flow.observables["balance_drift"]) < 1e-6
    assert np.max(far_flow.observables["classifier_sum_drift"]) < 1e-6


@pytest.mark.parametrize(
    ("name", "exponent"),
    [
        ("ji_feature_norm_variation", -1),
        ("ji_classifier_norm_variation", -1),
        ("ji_feature_cosine_gap", -1),
        ("ji_classifier_cosine_gap", -1),
        ("ji_self_duality", -1),
        ("ji_within_class_variation", -0.5),
        ("papyan_classifier_cosine_gap", -0.5),
    ],
)
def test_measures_fall_as_powers_of_log_t(far_flow, name, exponent):
    # Ji reports -1; spread orthogonal to all classifiers, and their sum, never move: -1/2.
    assert abs(far_flow.decay_exponent(name, 100 * math.log(10)) - exponent) < 0.05


def test_norm_and_smoothed_margin_rise_once_the_loss_is_below_log_2(far_flow):
    # Ji, lemma B.2, with (B.8) and theorem 3.1 beside it.
    recorded = {name: np.asarray(values) for name, values in far_flow.observables.items()}
    below = recorded["log_objective"] < math.log(math.log(2))
    assert 100 < below.sum() < below.size
    for name in ("squared_norm", "gamma_tilde"):
        values = recorded[name][below]
        assert np.all(np.diff(values) > -rounding() * values[1:]), name
    assert np.all(recorded["margin_min"][below] > 0)
    assert np.all(recorded["gamma_tilde"][below] <= recorded["normalized_margin"][below])
    assert np.all(recorded["max_margin_ratio"] <= 1 + rounding())


def log_ratio_to_limit(log_objective, log_time):
    """log of L t log t over its limit √n (K-1)/2 for K=5, n=10 (Ji, lemma B.3 corrected)."""
    return log_objective + log_time + np.log(log_time) - math.log(math.sqrt(10) * (5 - 1) / 2)


def test_loss_tends_to_one_over_t_log_t(far_flow):
    log_time = np.asarray(far_flow.log_time)
    ratio = log_ratio_to_limit(np.asarray(far_flow.observables["log_objective"]), log_time)
    decades = [np.abs(log_time - d * math.log(10)).argmin() for d in (30, 100, 300, 1000)]
    gaps = np.abs(ratio[decades])
    assert np.all(np.diff(gaps) < 0)
    # The gap is (log log t + const)/log t to leading order.
    assert gaps[-1] < 2 * np.log(log_time[-1]) / log_time[-1]


def test_objective_never_rises(far_flow):
    log_objective = np.asarray(far_flow.observables["log_objective"])
    assert np.all(np.diff(log_objective) < 0)


def test_the_loss_follows_its_limit_to_ten_to_the_ten_thousand():
    times = nc.log_times(10_000, 11)
    # With everything observed, as `far_flow`, whose program this is.
    traj = nc.gradient_flow(ULPM, start_of(ULPM), times, rtol=1e-6, atol=1e-8)
    ratio = log_ratio_to_limit(traj.observables["log_objective"], times)
    # Beside the approach to the limit, log L carries the margin's error, rtol times log t.
    bound = 2 * np.log(times[-1]) / times[-1] + integration(1e-6) * times[-1]
    assert abs(ratio[-1]) < bound


def test_equal_decay_lets_the_invariants_decay():
    # WᵀW - HHᵀ falls as e^(-2λt) and Σ_c w_c as e^(-λt): by e^-6 and e^-3 here.
    problem = nc.UnconstrainedFeatures(
        (2, 3, 1), 4, reduction="sum", weight_decay=nc.WeightDecay(classifier=0.1, features=0.1)
    )
    start = start_of(problem, norm=2.0)
    norms = {name: f"{name}_norm" for name in problem.invariants(start)}

    def observe(state):
        invariants = problem.invariants(state)
        return {norm: jnp.linalg.norm(invariants[name].value) for name, norm in norms.items()}

    times = np.array([3.0, 30.0])
    traj = nc.gradient_flow(problem, start, times, clock=nc.RealTime(), observe=observe)
    invariants = problem.invariants(start)
    for name, rate in (("balance", 0.2), ("classifier_sum", 0.1)):
        recorded = traj.observables[f"{name}_norm"]
        expected = np.linalg.norm(invariants[name].value) * np.exp(-rate * times)
        np.testing.assert_allclose(recorded, expected, rtol=integration(1e-8) * math.exp(6))
        assert np.max(traj.observables[f"{name}_drift"]) < integration(1e-8)


def test_drift_grows_with_the_tolerance():
    def drift(rtol):
        # The program of `far_flow`.
        traj = nc.gradient_flow(ULPM, start_of(ULPM), nc.log_times(3, 3), rtol=rtol, atol=rtol)
        return traj.observables["balance_drift"][-1]

    assert drift(1e-2) > 100 * drift(1e-8)


LANES = CASES["unbalanced"]


@jax.jit
def lanes(starts, times, rtols):
    """A batch of runs, each with another tolerance."""

    def run(start, rtol):
        return nc.gradient_flow(
            LANES, start, times, rtol=rtol, atol=rtol / 100, observe=no_observables,
            save_states=True,
        )  # fmt: skip

    return jax.vmap(run)(starts, rtols)


LOG_OBJECTIVES = jax.jit(jax.vmap(LANES.log_objective))


def test_batch_equals_single_runs():
    times, starts = nc.log_times(20, 5), [start_of(LANES, seed) for seed in range(3)]
    batch = lanes(jax.tree.map(lambda *x: jnp.stack(x), *starts), times, np.full(3, 1e-8))
    assert batch.log_time.shape == (3, 5)
    for seed in range(3):
        alone = nc.gradient_flow(
            LANES, starts[seed], times, observe=no_observables, save_states=True
        )
        assert alone.num_steps == batch.num_steps[seed]
        # Batched products round differently, and each of some hundred steps passes that on.
        np.testing.assert_allclose(
            LOG_OBJECTIVES(jax.tree.map(lambda leaf, seed=seed: leaf[seed], batch.states)),
            LOG_OBJECTIVES(alone.states),
            rtol=rounding(operations=10_000),
        )


def test_float32_is_right_to_its_stated_accuracy():
    # Default rtol 1e-5; the measures of collapse, differences of numbers of order 1, are right to
    # that absolutely. To t = 10^100, from one start.
    single = start_of(ULPM, dtype="float32")
    double = jax.tree.map(lambda leaf: leaf.astype("float64"), single)
    times = nc.log_times(100, 21)
    result, true = (nc.gradient_flow(ULPM, start, times) for start in (single, double))
    assert {leaf.dtype for leaf in result.observables.values()} == {jnp.dtype("float32")}
    assert result.final.features.dtype == jnp.float32
    for name in ("log_objective", "squared_norm", "margin_min", "gamma_tilde"):
        np.testing.assert_allclose(
            result.observables[name], true.observables[name], rtol=integration(1e-5)
        )
    for name in result.observables:
        if name.startswith(("ji_", "zhu_", "papyan_self", "mixon_snc2")):
            np.testing.assert_allclose(
                result.observables[name], true.observables[name], atol=integration(1e-5)
            )


def test_second_call_of_the_same_shapes_does_not_retrace():
    traces = []

    def observe(state):
        traces.append(state)
        return {"norm": state.squared_norm()}

    def run(seed, rtol, decades):
        problem = nc.ulpm(3, 4, 2)
        times = nc.log_times(decades, 4)
        return nc.gradient_flow(problem, start_of(problem, seed), times, rtol=rtol, observe=observe)

    run(0, 1e-6, 2)
    first = len(traces)
    assert first > 0
    run(1, 1e-8, 3)
    assert len(traces) == first


def test_memory_grows_with_observables_not_with_states():
    problem = nc.ulpm(5, 50, 20)

    def size(num, save_states):
        def run(state, times):
            return nc.gradient_flow(
                problem, state, times, solver=diffrax.Heun(), observe=objective_of(problem),
                save_states=save_states,
            )  # fmt: skip

        shapes = jax.jit(run).lower(start_of(problem), jnp.asarray(nc.log_times(3, num)))
        memory = shapes.compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes + memory.output_size_in_bytes

    state_bytes = 8 * (100 + 5) * 50
    assert size(200, False) - size(100, False) < 0.1 * 100 * state_bytes
    assert size(200, True) - size(100, True) >= 100 * state_bytes


def test_states_are_saved_on_request():
    problem = CASES["sum"]
    times, start = np.array([0.0, 1.0]), start_of(problem)
    traj = nc.gradient_flow(problem, start, times, observe=no_observables, save_states=True)
    assert traj.states is not None
    for saved, expected in ((0, start), (1, traj.final)):
        np.testing.assert_allclose(
            traj.states.features[saved], expected.features, rtol=rounding(operations=1000)
        )
    bare = nc.gradient_flow(problem, start, times, observe=no_observables)
    assert bare.states is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"save_at": np.array([1.0, 1.0])}, "does not increase at index 1"),
        ({"save_at": np.array([2.0, 1.0])}, "does not increase at index 1"),
        ({"save_at": np.array([-1.0, 1.0])}, "runs from -1"),
        ({"save_at": np.array([0.0])}, "end after 0"),
        ({"save_at": np.array([])}, r"shape \(0,\)"),
        ({"save_at": np.array([1.0, np.nan])}, "save_at = nan"),
        ({"rtol": 1e-17}, "rtol = 1e-17"),
        ({"rtol": math.nan}, "rtol = nan"),
        ({"atol": -1.0}, "atol = -1"),
        ({"problem": nc.mixon(3, 4, 2), "save_at": np.array([1.0, 800.0])}, "log.dt/du. = 800"),
    ],
)
def test_bad_input_is_one_line_that_names_the_value(change, message):
    setting = {"problem": nc.ulpm(3, 4, 2), "save_at": np.array([1.0, 2.0]), **change}
    problem = setting.pop("problem")
    with pytest.raises(ValueError, match=message) as caught:
        nc.gradient_flow(problem, start_of(problem), **setting)
    assert "\n" not in str(caught.value)


def test_tolerance_float32_cannot_hold_is_refused():
    problem = CASES["sum"]
    with pytest.raises(ValueError, match="use float64"):
        nc.gradient_flow(problem, start_of(problem, dtype="float32"), np.array([1.0]), rtol=1e-8)


def test_times_that_coincide_in_float32_are_refused():
    problem = CASES["sum"]
    with pytest.raises(ValueError, match="in float32"):
        nc.gradient_flow(problem, start_of(problem, dtype="float32"), np.array([1.0, 1.0 + 1e-12]))


def test_nan_in_the_start_is_refused():
    problem = CASES["sum"]
    start = start_of(problem)
    bad = nc.LastLayer(start.features.at[2, 1].set(np.nan), start.classifier)
    with pytest.raises(ValueError, match="features has 1 of 24 entries NaN"):
        nc.gradient_flow(problem, bad, np.array([1.0]))


def test_a_nan_lane_ends_at_once_and_alone():
    starts = jax.vmap(lambda norm: start_of(LANES, norm=norm))(np.array([1.0, np.nan, 1.0]))
    traj = lanes(starts, np.arange(1.0, 6.0), np.full(3, 1e-8))
    np.testing.assert_array_equal(traj.succeeded, [True, False, True])
    assert traj.num_steps[1] == 0
    for leaf in jax.tree.leaves(traj.states):
        assert np.all(np.isnan(leaf[1]))
        assert np.all(np.isfinite(leaf[::2]))
    nonfinite = jax.tree.map(lambda code: code[1], traj.result)
    assert "Nonfinite" in diffrax.RESULTS[nonfinite]


def test_step_limit_raises_one_line_or_ends_in_the_result():
    problem = CASES["sum"]
    setting = {"max_steps": 4, "observe": objective_of(problem)}
    times = np.array([0.01, 5.0])
    with pytest.raises(RuntimeError, match="after 4 steps: The maximum number of solver steps"):
        nc.gradient_flow(problem, start_of(problem), times, **setting)
    traj = nc.gradient_flow(problem, start_of(problem), times, throw=False, **setting)
    assert not traj.succeeded
    values = traj.observables["log_objective"]
    assert np.isfinite(values[0])
    assert np.isnan(values[1])


def test_overflow_in_a_trial_step_is_survived():
    # From this start the first trial steps leave the range of float64.
    problem = nc.ulpm(3, 4, 2)
    start = nc.LastLayer(*(1e3 * leaf for leaf in jax.tree.leaves(start_of(problem))))
    traj = nc.gradient_flow(problem, start, nc.log_times(50, 5), observe=objective_of(problem))
    assert traj.succeeded


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: nc.LastLayer(s.features, jnp.ones((4, 4))), r"classifier has shape \(4, 4\)"),
        (lambda s: nc.LastLayer(s.features[:1], s.classifier), r"features has shape \(1, 4\)"),
        (lambda s: nc.LastLayer(s.features, s.classifier, jnp.ones(3)), "where the problem has"),
        (
            lambda s: nc.LastLayer(s.features, s.classifier.astype("float32")),
            r"dtypes \['float32', 'float64'\]",
        ),
    ],
)
def test_a_start_of_another_problem_is_refused(change, message):
    problem = CASES["sum"]
    with pytest.raises(ValueError, match=message):
        nc.gradient_flow(problem, change(start_of(problem)), np.array([1.0]))


def test_a_finite_start_without_a_finite_field_ends_soon():
    # Logits of 1e400 overflow. Without a smallest step this would halve steps for ever.
    problem = CASES["sum"]
    traj = nc.gradient_flow(
        problem, start_of(problem, norm=1e200), np.array([1.0]), observe=no_observables, throw=False
    )
    assert not traj.succeeded
    assert traj.num_steps < 1000


def test_decay_may_be_an_array_and_its_drift_stays_small():
    def run(decay):
        problem = nc.zhu(3, 4, 2, nc.WeightDecay(classifier=decay, features=decay))
        traj = nc.gradient_flow(
            problem, start_of(problem), np.array([0.5, 5.0]), clock=nc.RealTime(),
            observe=("log_objective", "balance_drift"),
        )  # fmt: skip
        return traj.observables

    swept = jax.vmap(run)(jnp.array([0.0, 0.05]))
    assert np.max(swept["balance_drift"]) < integration(1e-8)
    np.testing.assert_allclose(
        swept["log_objective"][1], run(0.05)["log_objective"], rtol=integration(1e-8)
    )


def test_tolerances_can_be_swept_under_vmap():
    starts = jax.vmap(lambda _: start_of(LANES))(np.arange(3))
    loose, middle, tight = lanes(
        starts, np.arange(1.0, 6.0), np.array([1e-4, 1e-7, 1e-9])
    ).num_steps
    assert loose < middle < tight


def test_the_error_of_a_flow_at_rest_in_log_time_suggests_real_time():
    problem = CASES["decay"]
    with pytest.raises(RuntimeError, match=r"use RealTime\(\)"):
        nc.gradient_flow(
            problem, start_of(problem), nc.log_times(12, 2), observe=no_observables,
            save_states=True, max_steps=500,
        )  # fmt: skip


AT_REST = diffrax.Event(diffrax.steady_state_event(rtol=0.0, atol=1e-6))


def objective(state):
    return {"objective": nc.mixon(3, 5, 2).objective(state)}


def test_a_steady_state_ends_the_run_with_success():
    problem, times = nc.mixon(3, 5, 2), np.linspace(0, 1000, 1001)
    start = start_of(problem, seed=1)
    traj = nc.gradient_flow(
        problem, start, times, clock=nc.RealTime(), observe=objective, event=AT_REST
    )
    assert bool(traj.succeeded)
    assert traj.result == diffrax.RESULTS.event_occurred
    speed = flat_states(jax.tree.map(lambda leaf: leaf[None], problem.gradient(traj.final)))
    assert np.sqrt(np.mean(speed**2)) < 1e-6
    # Recorded to where it ended, as by a run without the event.
    ended = float(np.expm1(traj.final_log_time))
    assert 1 < ended < 500
    values = np.asarray(traj.observables["objective"])
    np.testing.assert_array_equal(np.isfinite(values), times <= ended)
    whole = nc.gradient_flow(problem, start, times, clock=nc.RealTime(), observe=objective)
    assert float(whole.final_log_time) == pytest.approx(np.log1p(1000))
    np.testing.assert_array_equal(
        values[times <= ended], whole.observables["objective"][times <= ended]
    )


def test_each_lane_ends_at_its_event_or_failure():
    problem = nc.mixon(3, 5, 2)

    def run(norm, factor):
        start = jax.tree.map(lambda leaf: factor * leaf, problem.init(jax.random.key(1), norm))
        return nc.gradient_flow(
            problem, start, np.array([1.0, 8.0]), clock=nc.RealTime(), observe=no_observables,
            event=AT_REST,
        )  # fmt: skip

    # Comes to rest at a saddle that it has yet to leave, is NaN, is still on its way at the end.
    traj = jax.vmap(run)(jnp.array([1e-40, 1.0, 1e-3]), jnp.array([1.0, jnp.nan, 1.0]))
    np.testing.assert_array_equal(traj.succeeded, [True, False, True])
    outcomes = (
        diffrax.RESULTS.event_occurred, diffrax.RESULTS.nonfinite, diffrax.RESULTS.successful
    )  # fmt: skip
    for lane, outcome in enumerate(outcomes):
        of_this_kind = jax.vmap(lambda result, kind=outcome: result == kind)(traj.result)
        np.testing.assert_array_equal(of_this_kind, np.arange(3) == lane)
    assert np.expm1(traj.final_log_time[0]) < 5
    np.testing.assert_allclose(np.expm1(traj.final_log_time[2]), 8, rtol=rounding())


def test_an_event_may_be_found_exactly():
    problem = nc.mixon(3, 5, 2)

    def level(t, y, args, **kwargs):
        return problem.objective(y) - 0.25

    event = diffrax.Event(level, optimistix.Newton(rtol=1e-10, atol=1e-10))
    traj = nc.gradient_flow(
        problem, start_of(problem), np.array([100.0]), clock=nc.RealTime(), observe=no_observables,
        event=event,
    )  # fmt: skip
    np.testing.assert_allclose(problem.objective(traj.final), 0.25, rtol=1e-6)


class Power(nc.problems.AbstractProblem):
    """x' = x^p: from 1 it leaves every bound at t = 1/(p − 1)."""

    power: float

    def init(self, key):
        return jnp.ones(1)

    def objective(self, state):
        return -jnp.sum(state ** (self.power + 1)) / (self.power + 1)

    def gradient(self, state):
        return -(state**self.power)

    def scaled_descent(self, state, log_scale):
        return jnp.exp(log_scale) * state**self.power

    def observe(self, state):
        return {"x": state[0]}

    def invariants(self, state):
        return {}

    def largest_log_scale(self, dtype):
        return math.log(np.finfo(dtype).max)


@pytest.mark.parametrize(("power", "dtype"), [(2.0, "float64"), (3.0, "float64"), (2.0, "float32")])
def test_a_solution_that_leaves_every_bound_ends_the_run_at_its_time(power, dtype):
    flow = nc.Flow(Power(power), np.array([0.25, 2.0]), clock=nc.RealTime())
    traj = flow(jnp.ones(1, dtype), throw=False)
    assert traj.result == diffrax.RESULTS.dt_min_reached
    assert traj.num_steps < 3000
    rtol = 1e-8 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(
        np.expm1(traj.final_log_time), 1 / (power - 1), rtol=integration(rtol)
    )
    # x^(1−p) = 1 − (p − 1)t.
    exact = (1 - (power - 1) * 0.25) ** (1 / (1 - power))
    np.testing.assert_allclose(traj.observables["x"][0], exact, rtol=integration(rtol))
    assert np.isnan(traj.observables["x"][1])


def test_the_error_names_the_time_at_which_a_solution_leaves_every_bound():
    with pytest.raises(RuntimeError, match="failed at t = 1 after") as error:
        nc.Flow(Power(2.0), np.array([0.25, 2.0]), clock=nc.RealTime())(jnp.ones(1))
    assert "the step size fell below the spacing of float64" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("save_at", "end"), [([500.0, 1000.0], "t = 10^434.294"), ([1.0, 3.0], "t = 19.0855")]
)
def test_a_run_given_up_in_log_time_says_where_its_save_times_end(save_at, end):
    problem = CASES["sum"]
    flow = nc.Flow(problem, np.array(save_at), observe=("log_objective",), max_steps=4)
    with pytest.raises(RuntimeError, match=r"numpy\.log1p") as error:
        flow(start_of(problem))
    assert f"The save times end at {end}; if that is not intended" in str(error.value)


def test_names_of_observables_are_those_of_the_run_whatever_the_problem():
    """Checked when a flow is built, in a jit and a vmap too, where the decay is unknown."""

    def run(decay):
        problem = nc.zhu(3, 4, 2, nc.WeightDecay(classifier=decay, features=decay))
        flow = nc.Flow(
            problem, np.array([0.5]), clock=nc.RealTime(), observe=("balance_drift", "mixon_snc1")
        )
        return flow(start_of(problem)).observables

    observed = jax.eval_shape(jax.vmap(run), jnp.array([0.1, 0.2]))
    assert list(observed) == ["balance_drift", "mixon_snc1"]
