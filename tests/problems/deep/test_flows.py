"""Flows of deep unconstrained features: invariants, activations, and every way to run them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tolerances import integration, rounding

import nc_jax as nc

KEY = jax.random.key(0)
Deep = nc.DeepUnconstrainedFeatures
DRIFTS = ("neighbour_balance_drift", "classifier_sum_drift")
RTOL = 1e-9


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_invariants_are_conserved_to_far_times(depth):
    problem = Deep((2, 1, 1), (4, 3, 2, 3)[: depth - 1], reduction="sum")
    times = nc.log_times(100, 4)
    flow = nc.gradient_flow(
        problem, problem.init(KEY, norm=2.0), times, rtol=RTOL,
        observe=(*DRIFTS, "log_objective", "margin_min"),
    )  # fmt: skip
    drift = flow.observables["neighbour_balance_drift"]
    assert drift.shape == (len(times), depth - 1)
    # Relative to the norms at the start, which grow by the root of the margin.
    growth = np.asarray(flow.observables["margin_min"])[-1]
    assert np.max(drift) < growth * integration(RTOL)
    assert np.max(flow.observables["classifier_sum_drift"]) < growth * integration(RTOL)
    # L t (log t)^(2−2/m) is of order 1: the field does not underflow at any depth.
    assert abs(flow.observables["log_objective"][-1] + flow.log_time[-1]) < 15


def test_a_pair_with_one_decay_decays_and_another_has_no_drift():
    problem = Deep((2, 1, 2), (3, 3, 3), weight_decay=(0.1, 0.1, 0.0, 0.0))
    start = problem.init(KEY, norm=2.0)
    flow = nc.gradient_flow(
        problem, start, np.log1p([0.0, 5.0]), rtol=RTOL,
        observe=(*DRIFTS, "neighbour_balance_norm"),
    )  # fmt: skip
    drift = np.asarray(flow.observables["neighbour_balance_drift"])
    assert np.all(np.isnan(drift[:, 1]))
    assert np.all(drift[:, [0, 2]] < integration(RTOL))
    assert np.all(np.asarray(flow.observables["classifier_sum_drift"]) < integration(RTOL))
    norms = np.asarray(flow.observables["neighbour_balance_norm"])
    np.testing.assert_allclose(norms[1, 0], np.exp(-2 * 0.1 * 5.0) * norms[0, 0], rtol=1e-7)
    np.testing.assert_allclose(norms[1, 2], norms[0, 2], rtol=1e-7)


def test_a_rounded_relu_conserves_the_balance_of_units_to_its_width():
    drifts = []
    for width in (1e-2, 1e-3):
        problem = Deep((2, 1, 2), (3, 4, 3), activation=nc.SmoothReLU(width=width), reduction="sum")
        flow = nc.gradient_flow(
            problem, problem.init(KEY, norm=3.0), np.log1p([0.0, 3.0]),
            rtol=1e-8, solver=nc.RKC(), observe=DRIFTS,
        )  # fmt: skip
        drifts.append(np.asarray(flow.observables["neighbour_balance_drift"])[-1])
        assert flow.observables["classifier_sum_drift"][-1] < integration(1e-8)
    # H and W_1 are neighbours without an activation between them.
    assert max(drifts[0][0], drifts[1][0]) < integration(1e-8)
    assert np.all(drifts[1][1:] < 0.02)
    assert np.all(drifts[1][1:] < 0.3 * drifts[0][1:])


def test_a_relu_flow_with_a_least_step_is_that_of_a_rounded_relu():
    def run(activation, **options):
        problem = Deep((2, 2), (3, 4), activation=activation, weight_decay=0.01, reduction="sum")
        return nc.gradient_flow(
            problem, problem.init(KEY, norm=2.0), np.log1p([0.0, 4.0]),
            observe=("objective", "margin_min", *DRIFTS), **options,
        ).observables  # fmt: skip

    kinks = run(jax.nn.relu, rtol=1e-4, min_step=0.01, solver=nc.RKC())
    smooth = run(nc.SmoothReLU(width=1e-5), rtol=1e-6)
    assert kinks["objective"][1] < kinks["objective"][0] / 5
    for name in ("objective", "margin_min"):
        np.testing.assert_allclose(kinks[name], smooth[name], rtol=1e-3)
    assert np.max(kinks["neighbour_balance_drift"]) < 1e-3


def test_batches_and_descents_run_a_deep_model():
    problem = Deep((2, 1), (3, 2), weight_decay=0.05)
    starts = jax.vmap(problem.init)(jax.random.split(KEY, 3))
    second = jax.tree.map(lambda x: x[1], starts)
    flow = nc.Flow(problem, np.log1p([0.0, 5.0]), rtol=RTOL, observe=("objective",))
    batch = np.asarray(flow.batch(starts).observables["objective"])
    alone = np.asarray(flow(second).observables["objective"])
    np.testing.assert_allclose(batch[1], alone, rtol=integration(RTOL))
    descent = nc.gradient_descent(
        problem, second, optax.sgd(1e-3), 5000, save_steps=np.array([5000]), observe=("objective",)
    )
    # Euler's error is of the order of the step size.
    np.testing.assert_allclose(descent.observables["objective"][-1], alone[-1], rtol=1e-3)


def test_a_sweep_over_a_decay_is_its_single_runs():
    def run(key, decay):
        swept = Deep((2, 1), (3, 2), weight_decay=decay)
        flow = nc.Flow(swept, np.log1p([0.0, 5.0]), rtol=RTOL, observe=("layer_cdnv",))
        return flow, swept.init(key)

    data = nc.sweep(run, 2, grid={"decay": [0.01, 0.05]}, progress=False)
    assert data["layer_cdnv"].dims == ("decay", "seed", "time", "layer")
    flow, start = run(jax.random.fold_in(KEY, 1), 0.05)
    expected = flow(start).observables["layer_cdnv"]
    found = data["layer_cdnv"].sel(decay=0.05, seed=1)
    np.testing.assert_allclose(found, expected, rtol=10 * integration(RTOL))


def test_a_run_is_stored_with_its_layers_and_states(tmp_path):
    from nc_jax import storage

    problem = Deep((2, 1), (3, 2), reduction="sum")
    flow = nc.gradient_flow(
        problem, problem.init(KEY), np.array([0.0, 1.0]), save_states=True,
        observe=("layer_singular_values", "factor_norms", "neighbour_balance_drift"),
    )  # fmt: skip
    storage.save(storage.to_dataset(flow), tmp_path / "run.zarr")
    data = storage.load(tmp_path / "run.zarr")
    assert data["layer_singular_values"].dims == ("time", "layer", "singular_value")
    assert data["factor_norms"].dims == ("time", "factor")
    assert data["neighbour_balance_drift"].dims == ("time", "layer")
    like = problem.state_shapes()
    states = storage.states(data, like)
    for found, expected in zip(*map(jax.tree.leaves, (states, flow.states)), strict=True):
        np.testing.assert_array_equal(found, expected)
    last = jax.tree.map(lambda x: jnp.asarray(x)[-1], states)
    np.testing.assert_allclose(
        jnp.sqrt(last.squared_norms()), data["factor_norms"][-1], rtol=rounding()
    )
