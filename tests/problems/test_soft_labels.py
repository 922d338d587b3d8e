"""Flows with soft labels: the stiff solver against BDF of SciPy, laws of late times, refusals."""

import itertools

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from tolerances import integration, rounding

import nc_jax as nc
from nc_jax.problems import FreeFeatures

SOFT = nc.losses.SoftCrossEntropy()
PAIRS = np.zeros((6, 4))
for row, pair in zip(PAIRS, itertools.combinations(range(4), 2), strict=True):
    row[list(pair)] = (0.7, 0.3)
PROBLEM = FreeFeatures(PAIRS, 3, loss=SOFT, reduction="sum")
LIMIT = nc.exact.soft_label_limit(PAIRS)
SETS = FreeFeatures((PAIRS > 0).astype(float), 3, loss=nc.losses.PickAllLabels(), reduction="sum")
START = PROBLEM.init(jax.random.key(0))
TIMES = np.log1p([1e2, 1e5, 1e8, 1e12, 4e15])
RTOL = 1e-7


def observe(state):
    return {**PROBLEM.observe(state), "logits": state.logits(), "cosine": LIMIT.cosine(state)}


@pytest.fixture(scope="module")
def flow():
    """One run of the default solver to the largest time of float64."""
    return nc.gradient_flow(PROBLEM, START, TIMES, rtol=RTOL, atol=1e-9, observe=observe)


def test_the_limit_of_pairs_has_the_reference_numbers(flow):
    seen = {name: np.asarray(values) for name, values in flow.observables.items()}
    logits = seen["logits"][1]
    assert logits[0, 0] - logits[0, 1] == pytest.approx(0.847298, abs=1e-6)
    # The start differs from that of the reference, 0.99921, by 1e-5 at this time.
    assert seen["cosine"][1] == pytest.approx(0.99921, abs=3e-5)
    np.testing.assert_allclose(seen["cosine"], seen["support_cosine"], rtol=rounding())
    assert seen["in_support_gap"][1] < 1e-6
    # The deviation falls as 1/(t log t), down to rounding.
    assert seen["in_support_gap"][3] < 1e-12


def test_steps_grow_slowly_and_the_invariants_stay(flow):
    assert flow.result == diffrax.RESULTS.successful
    assert int(flow.num_steps) < 600
    for name in ("balance_drift", "classifier_sum_drift"):
        assert np.all(np.asarray(flow.observables[name]) < integration(RTOL))


def test_the_excess_follows_the_law_of_late_times(flow):
    log_excess = np.asarray(flow.observables["log_excess_loss"])
    difference = log_excess - np.asarray(nc.exact.late_loss(LIMIT.value, TIMES))
    # The corrections are of order 1/log t, with a coefficient of 0.2 here.
    assert np.all(np.abs(difference * TIMES)[1:] < 0.3)
    np.testing.assert_allclose(
        np.exp(log_excess)[:4], np.asarray(flow.observables["excess_loss"])[:4], rtol=1e-12
    )
    gap = np.asarray(nc.exact.late_gap(TIMES))
    logits = np.asarray(flow.observables["logits"])
    logits = logits - logits.mean(axis=2, keepdims=True)
    for q, found in zip(gap[1:], logits[1:], strict=True):
        # The constants C leave an error of order 1/q; without them it would be 0.6.
        assert np.max(np.abs(found - LIMIT.logits(q))) < 1.5 / q


def test_it_is_the_flow_of_scipy_s_bdf(flow):
    integrate = pytest.importorskip("scipy.integrate")
    start, unravel = ravel_pytree(START)

    @jax.jit
    def field(u, x):
        return ravel_pytree(PROBLEM.scaled_descent(unravel(x), u))[0]

    jacobian = jax.jit(lambda u, x: jax.jacfwd(lambda x: field(u, x))(x))
    found = integrate.solve_ivp(
        lambda u, x: np.asarray(field(u, x)), (0, TIMES[2]), np.asarray(start), method="BDF",
        t_eval=TIMES[:3], jac=lambda u, x: np.asarray(jacobian(u, x)), rtol=1e-8, atol=1e-10,
    )  # fmt: skip
    for column, logits in zip(found.y.T, flow.observables["logits"], strict=False):
        expected = unravel(jnp.asarray(column)).logits()
        np.testing.assert_allclose(logits, expected, rtol=integration(RTOL), atol=1e-6)


def test_float32_takes_few_steps_to_its_largest_time(flow):
    start = jax.tree.map(lambda x: x.astype(jnp.float32), START)
    names = ("support_cosine", "log_excess_loss")
    found = nc.gradient_flow(PROBLEM, start, np.log1p([1e5, 5e6]), observe=names, max_steps=300)
    for name in names:
        value, expected = found.observables[name][0], flow.observables[name][1]
        np.testing.assert_allclose(value, expected, rtol=integration(1e-5))


def test_in_t_the_default_is_explicit_and_agrees(flow):
    in_time = nc.Flow(PROBLEM, np.array([1e2]), clock=nc.RealTime(), observe=observe, rtol=1e-8)
    assert isinstance(in_time.solver, diffrax.Tsit5)
    found = in_time(START).observables["logits"][0]
    np.testing.assert_allclose(flow.observables["logits"][0], found, atol=integration(RTOL))


def test_one_hot_rows_flow_as_cross_entropy_to_any_time():
    classes = nc.UnconstrainedFeatures((2, 1, 1), 3, reduction="sum")
    problem = FreeFeatures(np.eye(3)[classes.labels], 3, loss=SOFT, reduction="sum")
    assert not problem.is_stiff_in_log_time
    times, start = nc.log_times(100, 3), classes.init(jax.random.key(1))
    found, expected = (
        nc.gradient_flow(p, start, times, observe=("log_objective", "squared_norm"))
        for p in (problem, classes)
    )
    for name, values in found.observables.items():
        np.testing.assert_allclose(values, expected.observables[name], rtol=integration(1e-8))


def test_what_is_stiff_and_what_comes_to_rest():
    decay = nc.WeightDecay(classifier=0.1, features=0.1)
    smoothed = 0.7 * np.eye(3) + 0.1
    rest = FreeFeatures(smoothed, 3, loss=SOFT)
    assert (rest.comes_to_rest, rest.is_stiff_in_log_time) == (True, False)
    assert (PROBLEM.comes_to_rest, PROBLEM.is_stiff_in_log_time) == (False, True)
    decayed = FreeFeatures(PAIRS, 3, loss=SOFT, weight_decay=decay)
    assert (decayed.comes_to_rest, decayed.is_stiff_in_log_time) == (True, False)
    for other in (nc.ulpm(3, 4, 2), nc.mixon(3, 4, 2), rest, decayed):
        assert isinstance(nc.Flow(other, TIMES).solver, diffrax.Tsit5)
    assert isinstance(nc.Flow(PROBLEM, TIMES).solver, diffrax.Kvaerno5)
    # As an argument of a jit, targets are unknown, and the safe answer is given.
    assert eqx.filter_jit(lambda p: p.is_stiff_in_log_time)(rest)


def test_label_sets_are_as_stiff_as_soft_labels_with_the_same_supports():
    pick, decay = nc.losses.PickAllLabels(), nc.WeightDecay(classifier=0.1, features=0.1)
    single = FreeFeatures(np.eye(3), 3, loss=pick)
    mixed = FreeFeatures(nc.problems.label_sets([(0,), (1, 2)], 3), 3, loss=pick)
    decayed = FreeFeatures(SETS.targets, 3, loss=pick, weight_decay=decay)
    expected = (False, True), (False, False), (False, True), (True, False)
    for problem, claims in zip((SETS, single, mixed, decayed), expected, strict=True):
        assert (problem.comes_to_rest, problem.is_stiff_in_log_time) == claims
    assert isinstance(nc.Flow(SETS, TIMES).solver, diffrax.Kvaerno5)


def in_support_gap(state):
    """The largest difference of two logits of one label set."""
    low, high = (
        fold(jnp.where(SETS.targets > 0, state.logits(), bound), axis=1)
        for fold, bound in ((jnp.min, jnp.inf), (jnp.max, -jnp.inf))
    )
    return jnp.max(high - low)


def test_a_flow_of_label_sets_relaxes_within_and_grows_without_limit():
    def observe(state):
        return {"gap": in_support_gap(state), **SETS.observe(state)}

    flow = nc.gradient_flow(SETS, START, TIMES, rtol=RTOL, atol=1e-9, observe=observe)
    seen = {name: np.asarray(values) for name, values in flow.observables.items()}
    assert int(flow.num_steps) < 600
    assert seen["gap"][1] < 1e-4
    assert seen["gap"][2] < 1e-7
    assert seen["gap"][4] < 1e-12
    # The gap q to the other labels solves q' = 2q e^(−q) for s = 1 and y/m: here m t is the time.
    late = np.asarray(nc.exact.late_gap(TIMES + np.log(2)))
    assert np.all(np.abs(seen["margin_min"][1:] / late[1:] - 1) < 0.1)
    # ‖W‖² + ‖H‖² grows as 2V q, with V that of the supports.
    growth = np.diff(seen["squared_norm"][1:]) / np.diff(late[1:])
    np.testing.assert_allclose(growth, 2 * LIMIT.value, rtol=0.02)


def test_a_flow_of_label_sets_is_that_of_scipy_s_bdf():
    """The field is here the derivative of −Σ_S log softmax(z), which no formula of the loss is."""
    integrate = pytest.importorskip("scipy.integrate")
    start, unravel = ravel_pytree(START)

    def objective(x):
        return -jnp.sum(SETS.targets * jax.nn.log_softmax(unravel(x).logits(), axis=1))

    field = jax.jit(lambda u, x: -jnp.exp(u) * jax.grad(objective)(x))
    jacobian = jax.jit(lambda u, x: -jnp.exp(u) * jax.hessian(objective)(x))
    times = np.log1p([1e1, 1e3, 1e5])
    found = integrate.solve_ivp(
        lambda u, x: np.asarray(field(u, x)), (0, times[-1]), np.asarray(start), method="BDF",
        t_eval=times, jac=lambda u, x: np.asarray(jacobian(u, x)), rtol=1e-8, atol=1e-10,
    )  # fmt: skip
    flow = nc.gradient_flow(
        SETS, START, times, rtol=RTOL, atol=1e-9, observe=lambda state: {"logits": state.logits()}
    )
    for column, logits in zip(found.y.T, flow.observables["logits"], strict=True):
        expected = unravel(jnp.asarray(column)).logits()
        np.testing.assert_allclose(logits, expected, rtol=integration(RTOL), atol=1e-6)


def test_single_label_sets_flow_as_cross_entropy_to_any_time():
    classes = nc.UnconstrainedFeatures((2, 1, 1), 3, reduction="sum")
    targets = np.eye(3)[classes.labels]
    problem = FreeFeatures(targets, 3, loss=nc.losses.PickAllLabels(), reduction="sum")
    times, start = nc.log_times(400, 3), classes.init(jax.random.key(1))
    names = ("log_objective", "squared_norm")
    found, expected = (nc.gradient_flow(p, start, times, observe=names) for p in (problem, classes))
    for name, values in found.observables.items():
        np.testing.assert_allclose(values, expected.observables[name], rtol=integration(1e-8))


def test_a_batch_has_the_results_of_single_runs_and_runs_fail_alone():
    starts = jax.vmap(PROBLEM.init)(jax.random.split(jax.random.key(2), 4))
    names = ("log_excess_loss", "squared_norm")
    flow = nc.Flow(PROBLEM, TIMES[:3], rtol=1e-6, atol=1e-8, observe=names, max_steps=400)
    batch = flow.batch(starts)
    single = [flow(jax.tree.map(lambda leaf, i=i: leaf[i], starts)) for i in range(4)]
    assert batch.num_steps.tolist() == [int(run.num_steps) for run in single]
    for name in names:
        expected = np.stack([run.observables[name] for run in single])
        np.testing.assert_allclose(batch.observables[name], expected, rtol=1e-9)

    # A start of norm 1e200 overflows in its first step. Its neighbours are not affected.
    huge = jax.tree.map(lambda leaf: leaf.at[1].multiply(1e200), starts)
    failed = flow.batch(huge, throw=False)
    assert failed.succeeded.tolist() == [True, False, True, True]
    for name in names:
        np.testing.assert_allclose(
            failed.observables[name][::2], batch.observables[name][::2], rtol=1e-9
        )
    with pytest.raises(RuntimeError, match="1 of 4 runs failed"):
        flow.batch(huge)


def test_full_supports_rest_at_log_p():
    targets = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    problem = FreeFeatures(targets, 3, loss=SOFT, reduction="sum")
    flow = nc.gradient_flow(
        problem, problem.init(jax.random.key(0)), np.array([300.0]), clock=nc.RealTime(),
        observe=("in_support_gap", "excess_loss", "out_of_support_margin"),
    )  # fmt: skip
    assert flow.observables["in_support_gap"][0] < 1e-5
    assert flow.observables["excess_loss"][0] < 1e-10
    assert flow.observables["out_of_support_margin"][0] == np.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.Flow(PROBLEM, TIMES, solver=diffrax.Dopri8()), "solver = Dopri8.* about t ste"),
        (
            lambda: nc.gradient_flow(PROBLEM, START, np.log1p([1e17])),
            r"exceeds 36.0: beyond, the relaxing modes.* t = 4e\+15 at the latest. The save times",
        ),
        (
            lambda: nc.gradient_flow(PROBLEM, START, nc.log_times(1000, 3)),
            r"exceeds 36.0: beyond, the relaxing modes.* t = 4e\+15 at the latest. The save times",
        ),
        (
            lambda: nc.gradient_flow(
                SETS, START, np.log1p(nc.log_times(1000, 3)), clock=nc.LogLogTime()
            ),
            r"exceeds 36.0: beyond, the relaxing modes.* t = 4e\+15 at the latest. The save times",
        ),
        (lambda: nc.Flow(PROBLEM, TIMES).batch(START.classifier[0, 0]), r"shape \(\): give one"),
        (lambda: nc.Flow(SETS, TIMES, solver=diffrax.Tsit5()), "solver = Tsit5.* about t steps"),
    ],
)
def test_what_cannot_be_integrated_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
