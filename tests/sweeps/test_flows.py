"""Sweeps of flows as values: blocks with common steps against runs that step alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation_counts import lines_of
from tolerances import integration, rounding

import nc_jax as nc
from nc_jax import storage
from nc_jax.sweeps.plan import make_plan
from nc_jax.sweeps.programs import block_of_runs

RTOL = 1e-7
PROBLEM = nc.ulpm(3, 4, 2)
FLOW = nc.Flow(PROBLEM, nc.log_times(4, 3), rtol=RTOL, observe=("margin_min", "balance_drift"))
SEEDS = 6


def start_of(seed):
    return PROBLEM.init(jax.random.fold_in(jax.random.key(0), seed))


def sweep(run, **options):
    return nc.sweep(run, SEEDS, progress=False, **options)


def with_start(key):
    return FLOW, PROBLEM.init(key)


def flow_alone(key):
    del key
    return FLOW


@pytest.mark.parametrize("run", [FLOW, flow_alone, with_start], ids=["flow", "made", "start"])
def test_a_sweep_of_a_flow_is_its_single_runs_with_common_steps(run):
    data = sweep(run)
    assert np.all(data["shared_steps"])
    assert data["num_steps"][:4].std() == 0  # those of a block
    for seed in range(SEEDS):
        single = FLOW(start_of(seed))
        for name in ("margin_min", "balance_drift"):
            np.testing.assert_allclose(
                data[name].sel(seed=seed), single.observables[name],
                rtol=integration(RTOL), atol=integration(RTOL),
            )  # fmt: skip


def test_observers_have_data_of_their_run():
    def observe(state, shift):
        return {"shifted": shift + 0 * state.squared_norm()}

    def run(key):
        return (
            nc.Flow(PROBLEM, FLOW.save_at, observe=observe),
            PROBLEM.init(key),
            jnp.sum(jax.random.uniform(key)),
        )

    data = sweep(run)["shifted"]
    expected = [jax.random.uniform(jax.random.fold_in(jax.random.key(0), i)) for i in range(SEEDS)]
    np.testing.assert_array_equal(data, np.tile(np.array(expected)[:, None], 3))


def test_floats_of_a_grid_reach_flow_and_start():
    def run(key, norm, decay):
        problem = nc.zhu(3, 4, 2, decay)
        flow = nc.Flow(problem, np.array([1.0, 5.0]), clock=nc.RealTime(), observe=("margin_min",))
        return flow, problem.init(key, norm)

    data = sweep(run, grid={"norm": [0.5, 2.0], "decay": [0.01, 0.1]})["margin_min"]
    flow, start = run(jax.random.fold_in(jax.random.key(0), 2), 2.0, 0.1)
    np.testing.assert_allclose(
        data.sel(norm=2.0, decay=0.1, seed=2), flow(start).observables["margin_min"],
        rtol=integration(1e-8),
    )  # fmt: skip


def test_a_failed_run_among_common_steps_is_computed_again_alone():
    def run(key):
        start = PROBLEM.init(key)
        bad = key == jax.random.fold_in(jax.random.key(0), 3)
        return FLOW, jax.tree.map(lambda leaf: jnp.where(bad, jnp.nan, leaf), start)

    data = sweep(run)
    fine = np.arange(SEEDS) != 3
    assert np.all(np.isfinite(data["margin_min"][fine]))
    assert np.all(np.isnan(data["margin_min"][3]))
    assert np.all(data["result"][fine] == 0)


def test_saved_states_of_a_block_are_variables(tmp_path):
    flow = nc.Flow(PROBLEM, FLOW.save_at, rtol=RTOL, observe=("margin_min",), save_states=True)
    data = sweep(flow, path=tmp_path / "a")
    found = storage.states(data, start_of(0))
    assert found.features.shape == (SEEDS, 3, 6, 4)
    margins = jax.vmap(jax.vmap(lambda state: nc.metrics.sample_margins(state, PROBLEM.labels)))
    np.testing.assert_allclose(
        data["margin_min"], np.min(margins(jax.tree.map(jnp.asarray, found)), axis=-1),
        rtol=rounding(operations=100),
    )  # fmt: skip


def test_a_finished_store_is_read_and_another_flow_refused(tmp_path):
    whole = sweep(FLOW, path=tmp_path / "a")
    np.testing.assert_array_equal(
        sweep(FLOW, path=tmp_path / "a")["margin_min"], whole["margin_min"]
    )
    other = nc.Flow(PROBLEM, FLOW.save_at, rtol=1e-6, observe=FLOW.observe)
    with pytest.raises(ValueError, match="holds another sweep: run = "):
        sweep(other, path=tmp_path / "a")


def test_a_block_has_one_copy_of_the_observables_and_no_callback():
    def marked(state):
        return {"marked": jnp.sum(jax.lax.cbrt(state.features))}

    flow = nc.Flow(PROBLEM, FLOW.save_at, observe=marked)
    plan = make_plan(
        flow, 4, seeds=None, grid={}, key=jax.random.key(0), batch_size=None, mesh=None
    )
    block = block_of_runs(plan, plan.cells[0])
    lines = lines_of(lambda seeds: block(seeds, {}), np.arange(4))
    assert sum("stablehlo.cbrt" in line for line in lines) == 1
    assert not any("callback" in line for line in lines)


def of_each_seed(key):
    problem = nc.zhu(3, 4, 2, jax.random.uniform(key))
    return nc.Flow(problem, np.array([1.0]), clock=nc.RealTime()), problem.init(jax.random.key(0))


@pytest.mark.parametrize(
    ("run", "options", "message"),
    [
        (of_each_seed, {}, "run: the flow depends on the key"),
        (FLOW, {"grid": {"norm": [1.0]}}, "a Flow takes no settings"),
        (lambda key: (FLOW, 1, 2, 3), {}, "run returns"),
        (lambda key: 3.0, {}, "run returns"),
    ],
    ids=["key", "grid", "many", "number"],
)
def test_invalid_runs_are_refused_in_one_line(run, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        sweep(run, **options)
    assert "\n" not in str(caught.value)
