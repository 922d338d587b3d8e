import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tolerances import rounding

import nc_jax as nc
from nc_jax.dynamics import descent as descents


def start_of(problem, seed=0, norm=1.0):
    return problem.init(jax.random.fold_in(jax.random.key(0), seed), norm)


def no_observables(state):
    return {}


def squared_norm(state):
    return {"squared_norm": state.squared_norm()}


# Another transformation compiles another descent, though its numbers be the same.
SGD = optax.sgd(0.5)


def heavy_ball(problem, state, rate, momentum, steps):
    """Softmax descent with momentum on the mean loss, written anew in NumPy."""
    h, w = np.array(state.features), np.array(state.classifier)
    labels = np.eye(problem.num_classes)[problem.labels]
    velocity_h, velocity_w = np.zeros_like(h), np.zeros_like(w)
    for _ in range(steps):
        weights = np.exp(h @ w.T)
        g = (weights / weights.sum(axis=1, keepdims=True) - labels) / len(h)
        velocity_h = momentum * velocity_h + g @ w
        velocity_w = momentum * velocity_w + g.T @ h
        h, w = h - rate * velocity_h, w - rate * velocity_w
    return h, w


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_descent_is_the_textbook_loop(momentum):
    problem = nc.ulpm(3, 4, 2, reduction="mean")
    start = start_of(problem)
    optimizer = optax.sgd(0.5, momentum=momentum)
    traj = nc.gradient_descent(problem, start, optimizer, 200, observe=no_observables)
    h, w = heavy_ball(problem, start, 0.5, momentum, 200)
    tolerance = rounding(operations=1000)
    np.testing.assert_allclose(traj.final.features, h, rtol=0, atol=tolerance * np.abs(h).max())
    np.testing.assert_allclose(traj.final.classifier, w, rtol=0, atol=tolerance * np.abs(w).max())


def test_saves_are_at_their_steps():
    problem = nc.ulpm(3, 4, 2, reduction="mean")
    saves = np.array([0, 1, 7, 30])
    traj = nc.gradient_descent(
        problem,
        start_of(problem),
        SGD,
        40,
        save_steps=saves,
        observe=squared_norm,
        save_states=True,
    )
    np.testing.assert_allclose(traj.log_time, np.log1p(saves), rtol=rounding())
    np.testing.assert_array_equal(traj.steps, saves)
    assert traj.num_steps == 40
    assert traj.states is not None
    for i, step in enumerate(saves):
        h, w = heavy_ball(problem, start_of(problem), 0.5, 0.0, step)
        expected = np.sum(h**2) + np.sum(w**2)
        np.testing.assert_allclose(
            traj.observables["squared_norm"][i], expected, rtol=rounding(operations=1000)
        )
        np.testing.assert_allclose(traj.states.classifier[i], w, atol=rounding(operations=1000))


def test_small_steps_follow_the_flow_to_first_order():
    # k steps at rate η on the mean loss are time ηk/N of the summed loss; the error is O(η).
    problem = nc.ulpm(3, 4, 2)
    start = start_of(problem, norm=2.0)
    flow = nc.gradient_flow(problem, start, np.log1p([2.0]), rtol=1e-10, observe=no_observables)

    steps, mean = np.array([200, 400, 800, 1600]), nc.ulpm(3, 4, 2, reduction="mean")

    @jax.jit
    def at_rate(rate):
        # With the rate an argument, one program; of each rate one of the saves is read.
        return nc.gradient_descent(
            mean,
            start,
            optax.sgd(rate),
            1600,
            save_steps=steps,
            observe=no_observables,
            save_states=True,
        )

    errors = []
    for i, count in enumerate(steps):
        descent = at_rate(2.0 * problem.num_samples / count)
        scaled = descent.with_time_scaled(2.0 / count)
        np.testing.assert_allclose(scaled.log_time[i], math.log(3), rtol=rounding())
        errors.append(jnp.linalg.norm(descent.states.features[i] - flow.final.features))
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(slope + 1) < 0.05


def test_lbfgs_with_line_search_reaches_the_regularised_minimum(monkeypatch):
    # A line search is long to compile, and a loop unrolled by hand has several.
    monkeypatch.setattr(descents, "_UNROLL", 1)
    # Zhu, theorem 3.1 in closed form: with c = √(n λ_W λ_H) and gap a = log(1/c - (K-1)),
    # f* = log(1 + (K-1) e^-a) + (K-1) c a.
    classes, size, decay = 4, 3, nc.WeightDecay(classifier=5e-3, features=2e-3, bias=1e-2)
    problem = nc.zhu(classes, 6, size, decay)
    c = math.sqrt(size * 5e-3 * 2e-3)
    gap = math.log(1 / c - (classes - 1))
    minimum = math.log1p((classes - 1) * math.exp(-gap)) + (classes - 1) * c * gap
    traj = nc.gradient_descent(
        problem, start_of(problem), optax.lbfgs(), 200, save_steps=np.array([200]),
        observe=lambda state: {"objective": problem.objective(state)},
    )  # fmt: skip
    np.testing.assert_allclose(traj.observables["objective"][-1], minimum, rtol=1e-12)


def test_descent_breaks_the_invariant_of_the_flow_and_records_the_drift():
    problem, optimizer = nc.ulpm(3, 4, 2, reduction="mean"), optax.sgd(2.0)
    start = start_of(problem)
    traj = nc.gradient_descent(
        problem,
        start,
        optimizer,
        50,
        save_steps=np.array([50]),
        observe=no_observables,
        save_states=True,
    )
    final = jax.tree.map(lambda leaf: np.asarray(leaf[-1]), traj.states)
    before = np.asarray(start.classifier).T @ start.classifier
    before -= np.asarray(start.features).T @ start.features
    after = final.classifier.T @ final.classifier - final.features.T @ final.features
    expected = np.linalg.norm(after - before) / start.squared_norm()
    assert expected > 1e-3
    np.testing.assert_allclose(traj.observables["balance_drift"][-1], expected, rtol=1e-9)


def test_divergence_ends_in_the_result_or_raises_one_line():
    problem = nc.mixon(3, 4, 2)
    setting = {"optimizer": optax.sgd(50.0), "num_steps": 200, "observe": squared_norm}
    with pytest.raises(RuntimeError, match="Nonfinite"):
        nc.gradient_descent(problem, start_of(problem), **setting)
    traj = nc.gradient_descent(problem, start_of(problem), throw=False, **setting)
    assert not traj.succeeded


def test_batch_equals_single_runs():
    problem, saves = nc.ulpm(3, 4, 2, reduction="mean"), np.array([0, 1, 10, 100])

    def run(start):
        return nc.gradient_descent(
            problem, start, SGD, 100, save_steps=saves, observe=squared_norm, save_states=True
        )

    starts = [start_of(problem, seed) for seed in range(3)]
    batch = jax.jit(jax.vmap(run))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts))
    for seed in range(3):
        np.testing.assert_allclose(
            batch.observables["squared_norm"][seed],
            run(starts[seed]).observables["squared_norm"],
            rtol=rounding(operations=1000),
        )


def test_second_call_of_the_same_shapes_does_not_retrace():
    traces = []

    def observe(state):
        traces.append(state)
        return {}

    problem, optimizer = nc.ulpm(3, 4, 2, reduction="mean"), optax.sgd(0.5)
    saves = np.array([0, 10])
    nc.gradient_descent(
        problem, start_of(problem), optimizer, 10, save_steps=saves, observe=observe
    )
    first = len(traces)
    assert first > 0
    nc.gradient_descent(
        problem, start_of(problem, 1), optimizer, 30, save_steps=saves + 5, observe=observe
    )
    assert len(traces) == first


def test_default_saves_are_spread_over_the_logarithm():
    steps = nc.log_steps(100_000)
    assert steps[0] == 0
    assert steps[-1] == 100_000
    assert np.all(np.diff(steps) > 0)
    assert np.max(np.diff(np.log1p(steps))) <= math.log(2)


@pytest.mark.parametrize(
    ("num_steps", "save_steps", "message"),
    [
        (0, None, "num_steps = 0"),
        (5, np.array([1, 1]), "strictly increasing"),
        (5, np.array([0, 6]), r"in 0\.\.5"),
        (5, np.array([-1, 3]), r"in 0\.\.5"),
        (5, np.array([], int), r"shape \(0,\)"),
    ],
)
def test_bad_steps_are_one_line_that_names_the_value(num_steps, save_steps, message):
    problem = nc.ulpm(3, 4, 2)
    with pytest.raises(ValueError, match=message):
        nc.gradient_descent(
            problem, start_of(problem), optax.sgd(0.1), num_steps, save_steps=save_steps
        )


def test_nan_in_the_start_is_refused():
    problem = nc.ulpm(3, 4, 2)
    bad = jax.tree.map(lambda leaf: leaf * np.nan, start_of(problem))
    with pytest.raises(ValueError, match="features has 24 of 24 entries NaN"):
        nc.gradient_descent(problem, bad, optax.sgd(0.1), 5)


def powers_of_the_start(optimizer, num_steps):
    """Median powers of the start's norm, 1e-2 to 1e-6, that Mixon's errors fall with."""
    problem, norms = nc.mixon(3, 15, 3), 10.0 ** -np.arange(2, 7)

    def run(seed, norm):
        start, last = start_of(problem, seed, norm), np.array([num_steps])
        return nc.gradient_descent(
            problem, start, optimizer, num_steps, save_steps=last, observe=no_observables
        ).final

    ends = jax.jit(jax.vmap(jax.vmap(run, (0, None)), (None, 0)))(np.arange(10), norms)
    logs = {name: np.log(values) for name, values in collapse_errors(ends).items()}
    return {k: np.median(np.polyfit(np.log(norms), v, 1)[0]) for k, v in logs.items()}


@jax.jit
def collapse_errors(states):
    """Mixon's errors over the two leading axes of the states."""

    def errors(state):
        metrics = nc.metrics.collapse_metrics(state, nc.mixon(3, 15, 3).labels)
        return {name: value for name, value in metrics.items() if name.startswith("mixon")}

    return jax.vmap(jax.vmap(errors))(states)


def test_momentum_slows_the_decay_of_the_part_that_limits_snc1():
    # The part of a start in E1-, of eigenvalue -√N, is all that decays in the linear phase, which
    # lasts until that in E1+ is of order 1: SNC1 ~ ε^p, p = 1 + log(1/|r-|)/log(r+) if below the 2
    # of the flow, r± the growth a step, r² - (1 + β ± η√N) r + β = 0.
    rate, momentum = 0.01, 0.9
    growth = [
        max(abs(np.roots([1, -(1 + momentum + sign * rate * math.sqrt(3)), momentum])))
        for sign in (1, -1)
    ]
    expected = 1 + math.log(1 / growth[1]) / math.log(growth[0])
    assert 1.5 < expected < 1.6
    powers = powers_of_the_start(optax.sgd(rate, momentum), 1600)
    assert abs(powers["mixon_snc1"] - expected) < 0.05
    for name in ("mixon_snc2", "mixon_snc3", "mixon_distance_to_s"):
        assert abs(powers[name] - 1) < 0.02


def test_adam_interpolates_without_strong_collapse():
    # Its steps have one size however small the start: nothing is left to vanish with it.
    powers = powers_of_the_start(optax.adam(0.01), 3000)
    assert max(abs(power) for power in powers.values()) < 0.1


def test_names_choose_what_descent_records():
    problem = nc.ulpm(3, 4, 2)
    start = problem.init(jax.random.key(0))
    whole = nc.gradient_descent(problem, start, SGD, 5)
    names = ("margin_min", "balance_drift")
    some = nc.gradient_descent(problem, start, SGD, 5, observe=names)
    assert set(some.observables) == set(names)
    for name in names:
        np.testing.assert_array_equal(some.observables[name], whole.observables[name])
