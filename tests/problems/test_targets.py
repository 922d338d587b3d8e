"""Free features with a row of targets each: gradients, invariants, flows, landscape, sweeps."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from tolerances import integration, rounding

import nc_jax as nc
from nc_jax.problems import FreeFeatures, label_sets

SETS = [(0,), (1,), (2,), (3,), (0, 1), (2, 3), (0, 2, 3)]
PICK, HALF = nc.losses.PickAllLabels(), nc.losses.HalfSquaredDistance()
TARGETS = label_sets(SETS, 4)
REAL = np.array([[np.sin(i), np.cos(2 * i), i / 10] for i in range(8)])
DECAY = nc.WeightDecay(classifier=0.03, features=0.03, bias=0.02)
PROBLEMS = {
    "labels": FreeFeatures(TARGETS, 5, loss=PICK, weight_decay=DECAY, bias=True),
    "labels, sum": FreeFeatures(TARGETS, 3, loss=PICK, reduction="sum"),
    "regression": FreeFeatures(REAL, 4, loss=HALF, weight_decay=DECAY, bias=True),
    "regression, sum": FreeFeatures(REAL, 2, loss=HALF, reduction="sum"),
}
KEY = jax.random.key(0)


@eqx.filter_jit
def evaluate(problem, state):
    return (
        problem.gradient(state),
        jax.grad(problem.objective)(state),
        problem.scaled_descent(state, 0.7),
        problem.objective(state),
        problem.log_objective(state),
    )


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_gradient_descent_and_logarithm_are_those_of_the_objective(name, dtype):
    problem = PROBLEMS[name]
    state = problem.init(KEY, norm=2.0, dtype=dtype)
    if problem.bias:
        shift = jnp.linspace(-1, 1, problem.num_outputs, dtype=dtype)
        state = eqx.tree_at(lambda s: s.bias, state, shift)
    gradient, by_autodiff, descent, value, log_value = evaluate(problem, state)
    assert value.dtype == log_value.dtype == dtype
    np.testing.assert_allclose(jnp.exp(log_value), value, rtol=rounding(dtype))
    for found, expected, scaled in zip(
        *map(jax.tree.leaves, (gradient, by_autodiff, descent)), strict=True
    ):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, atol=rounding(dtype))
        np.testing.assert_allclose(scaled, -np.exp(0.7) * np.asarray(found), atol=rounding(dtype))


def test_with_one_label_per_sample_it_is_the_unconstrained_features_model():
    classes = nc.UnconstrainedFeatures((2, 1, 3), 4, weight_decay=DECAY, bias=True)
    sets = [(int(y),) for y in classes.labels]
    problem = FreeFeatures(label_sets(sets, 3), 4, loss=PICK, weight_decay=DECAY, bias=True)
    state = classes.init(KEY, norm=2.0)
    np.testing.assert_array_equal(ravel_pytree(problem.init(KEY, 2.0))[0], ravel_pytree(state)[0])
    np.testing.assert_allclose(problem.objective(state), classes.objective(state), rtol=rounding())
    for found, expected in zip(
        *(jax.tree.leaves(p.gradient(state)) for p in (problem, classes)), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=rounding())
    shared = set(problem.observables()) & set(classes.observables())
    assert {"margin_min", "margin_mean", "zhu_nc2", "squared_norm", "balance_norm"} <= shared
    ours, theirs = problem.observe(state), classes.observe(state)
    for name in shared - {name for name in shared if name.endswith("_drift")}:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=rounding(), atol=rounding())


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_flow_lowers_the_objective_and_keeps_its_invariants(name):
    problem, rtol = PROBLEMS[name], 1e-9
    times = np.log1p([0.0, 1.0, 10.0, 100.0])
    flow = nc.gradient_flow(problem, problem.init(KEY), times, rtol=rtol)
    objective = np.asarray(flow.observables["objective"])
    assert np.all(np.diff(objective) < 0)
    drifts = [key for key in flow.observables if key.endswith("_drift")]
    assert len(drifts) == 1 + problem.loss.shift_invariant
    for key in drifts:
        assert np.all(np.asarray(flow.observables[key]) < integration(rtol))


def test_a_batch_of_flows_is_its_flows_and_descent_goes_the_same_way():
    problem = PROBLEMS["labels"]
    starts = jax.vmap(problem.init)(jax.random.split(KEY, 3))
    flow = nc.Flow(problem, np.log1p([0.0, 5.0]), rtol=1e-9, observe=("objective",))
    batch = np.asarray(flow.batch(starts).observables["objective"])
    alone = flow(jax.tree.map(lambda x: x[1], starts)).observables["objective"]
    np.testing.assert_allclose(batch[1], alone, rtol=integration(1e-9))
    descent = nc.gradient_descent(
        problem, jax.tree.map(lambda x: x[1], starts), optax.sgd(1e-3), 5000,
        save_steps=np.array([5000]), observe=("objective",),
    )  # fmt: skip
    # Euler's error is of the order of the step size.
    np.testing.assert_allclose(descent.observables["objective"][-1], alone[-1], rtol=1e-3)


def test_a_sweep_over_a_decay_is_its_single_runs():
    times = np.log1p([0.0, 3.0])

    def flow_of(decay):
        both = nc.WeightDecay(classifier=decay, features=decay)
        problem = FreeFeatures(TARGETS, 4, loss=PICK, weight_decay=both)
        return nc.Flow(problem, times, rtol=1e-8, observe=("objective",))

    def run(key, decay):
        flow = flow_of(decay)
        return flow, flow.problem.init(key)

    data = nc.sweep(run, 2, grid={"decay": [0.01, 0.05]}, progress=False)
    start = flow_of(0.05).problem.init(jax.random.fold_in(KEY, 1))
    alone = flow_of(0.05)(start).observables["objective"]
    found = data["objective"].sel(decay=0.05, seed=1)
    np.testing.assert_allclose(found, alone, rtol=integration(1e-8))


def test_a_minimum_is_classified_up_to_its_rotations():
    sets = [(k,) for k in range(3)] + [(0, 1), (0, 2), (1, 2)]
    decay = nc.WeightDecay(classifier=0.02, features=0.02)
    problem = FreeFeatures(label_sets(sets, 3), 3, loss=PICK, weight_decay=decay, bias=True)
    state = nc.exact.pick_all_labels_minimizer(problem)
    found = nc.landscape.classify(problem, state)
    # Rotations in d = 3 of a state of rank 2, and the common shift of a free bias.
    assert (found.kind, int(found.symmetries)) == ("minimum", 3 + 1)
    origin = jax.tree.map(jnp.zeros_like, state)
    assert nc.landscape.classify(problem, origin).kind == "strict saddle"


def test_measures_of_regression_are_those_of_metrics():
    problem = FreeFeatures(REAL, 5, loss=HALF)
    state = problem.init(jax.random.key(3))
    expected = nc.metrics.regression_collapse(state.features, REAL, state.classifier)
    observed = problem.observe(state)
    for name in ("andriopoulos_nrc1", "andriopoulos_nrc2", "andriopoulos_nrc3"):
        np.testing.assert_allclose(observed[name], expected[name], rtol=1e-10)


def test_many_samples_are_computed_in_parts():
    targets = np.tile(TARGETS, (40_000, 1))  # 1.1 million logits, more than one part
    problem = FreeFeatures(targets, 2, loss=PICK)
    state = problem.init(KEY, norm=30.0)
    residual = PICK.scaled_gradient(state.logits(), problem.targets, 0.0) / len(targets)
    expected = state.pull_back(residual)
    found = problem.gradient(state)
    for ours, like in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, like, rtol=1e-10, atol=1e-15)


class Doubled(FreeFeatures):
    """Another objective with the claims of the parent voided."""

    def objective(self, state):
        return 2 * super().objective(state)

    def gradient(self, state):
        return jax.tree.map(lambda x: 2 * x, super().gradient(state))

    def scaled_descent(self, state, log_scale):
        return super().scaled_descent(state, log_scale + np.log(2.0).item())


def test_a_subclass_with_another_objective_loses_the_invariants():
    problem = Doubled(TARGETS, 4, loss=PICK)  # pyright: ignore[reportCallIssue]
    assert not problem.has_free_features
    assert not problem.invariants(problem.init(KEY))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FreeFeatures(REAL, 4, loss=PICK), "row 1 = .* needs 1 at the labels"),
        (lambda: FreeFeatures(REAL, 4, loss=nc.Exponential()), "needs one column of ±1"),
        (lambda: FreeFeatures(TARGETS, 0, loss=PICK), "feature_dim = 0"),
        (
            lambda: FreeFeatures(
                TARGETS, 4, loss=PICK, weight_decay=nc.WeightDecay(classifier=(0.1,) * 4)
            ),
            "a number for each class: these samples have no classes",
        ),
        (lambda: FreeFeatures(TARGETS * np.nan, 4, loss=HALF), "targets = nan"),
        (lambda: label_sets([(0, 3)], 3), "give an integer from 0 to 2"),
        (lambda: label_sets([(0, 0)], 3), "the label 0 twice"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
