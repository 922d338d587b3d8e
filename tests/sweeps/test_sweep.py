"""Sweeps against single runs, against themselves in other portions, and against being killed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from store_files import files_of
from tolerances import integration, rounding

import nc_jax as nc
from nc_jax import progress, storage
from nc_jax.checks import is_traced
from nc_jax.storage.batches import BatchStore

RTOL = 1e-7
TIMES = np.concatenate([[0.0], nc.log_times(3, 3)])


def observe(state):
    return {"margin": jnp.min(state.logits()), "features": state.features}


def run(key, feature_dim=4, norm=1.0, shared=True, max_steps=1000):
    problem = nc.ulpm(3, feature_dim, 2)
    start = problem.init(key, norm)
    return nc.gradient_flow(
        problem, start, TIMES, rtol=RTOL, atol=1e-2 * RTOL, observe=observe, throw=False,
        shared_steps=shared, max_steps=max_steps,
    )  # fmt: skip


separate_steps = functools.partial(run, shared=False)
sweep = functools.partial(nc.sweep, progress=False)


@functools.cache
def small():
    return sweep(run, 10)


@pytest.mark.parametrize("stepping", [run, separate_steps], ids=["shared", "own"])
def test_a_sweep_is_its_single_runs(stepping):
    dataset = sweep(stepping, 10)
    assert np.all(dataset["shared_steps"] == (stepping is run))
    for seed in range(10):
        single = stepping(jax.random.fold_in(jax.random.key(0), seed))
        starts = dataset["features"].sel(seed=seed).isel(time=0)
        np.testing.assert_array_equal(starts, single.observables["features"][0])
        tolerance = integration(RTOL) if stepping is run else rounding(operations=1000)
        for name, values in single.observables.items():
            found = dataset[name].sel(seed=seed)
            np.testing.assert_allclose(found, values, rtol=tolerance, atol=tolerance)
        assert stepping is run or dataset["num_steps"].sel(seed=seed) == single.num_steps


def test_common_steps_are_at_least_those_of_any_run():
    separate = sweep(separate_steps, 10)["num_steps"].values
    common = small()["num_steps"].values
    assert len(set(separate)) > 1
    # Lanes of a block have one count; rejections may save a step here and there.
    assert len(set(common[:8])) == 1
    assert common.max() >= separate.max() - 2


def test_failed_runs_are_recorded_and_do_not_affect_the_others():
    # Seed 3 starts at NaN, seed 5 so far out that it meets the step limit; both are in one block.
    def hard(key):
        problem = nc.ulpm(3, 4, 2)
        bad = jax.random.fold_in(jax.random.key(0), 3)
        far = jax.random.fold_in(jax.random.key(0), 5)
        start = problem.init(key)
        factor = jnp.where(key == bad, jnp.nan, jnp.where(key == far, 300.0, 1.0))
        start = jax.tree.map(lambda leaf: factor * leaf, start)
        return nc.gradient_flow(
            problem, start, TIMES, rtol=RTOL, observe=observe, throw=False, shared_steps=True,
            max_steps=60,
        )  # fmt: skip

    dataset = sweep(hard, 8)
    fine = small()
    messages = [dataset["result"].attrs[str(code)] for code in dataset["result"].values]
    assert "ERROR" not in messages
    assert "Nonfinite" in messages[3]
    assert "maximum number" in messages[5]
    assert np.all(np.isnan(dataset["margin"].sel(seed=3)))
    for seed in set(range(8)) - {3, 5}:
        assert messages[seed] == ""
        np.testing.assert_allclose(
            dataset["margin"].sel(seed=seed), fine["margin"].sel(seed=seed), rtol=integration(RTOL)
        )
    assert not np.any(dataset["shared_steps"].sel(seed=[3, 5]))


def test_a_short_sweep_writes_nothing(capfd):
    nc.sweep(functools.partial(run, shared=False, max_steps=5), 3)
    assert capfd.readouterr().err == ""


def test_the_closing_line_counts_failed_runs(capfd, monkeypatch):
    # The bar appears at once, as it would after a minute.
    monkeypatch.setattr(progress, "_FILE_SECONDS", 0.0)
    nc.sweep(functools.partial(run, shared=False, max_steps=5), 3)
    assert "3 runs: 3 The maximum number of solver steps was reached" in capfd.readouterr().err
    nc.sweep(separate_steps, 3)
    assert "3 runs: 3 reached their end." in capfd.readouterr().err


def test_floats_of_a_grid_share_one_compilation():
    traced = []

    def counted(key, norm, samples):
        traced.append(is_traced(norm))
        problem = nc.ulpm(3, 4, samples)
        return nc.gradient_flow(
            problem, problem.init(key, norm), TIMES, rtol=RTOL, observe=margin_only
        )

    grid = {"norm": [0.5, 1, 2.0], "samples": [2, 3]}
    dataset = sweep(counted, 3, grid=grid)
    # Once for the shapes, then once for each number of samples; the checks have the floats.
    assert sum(traced) == 3
    assert dataset["margin"].dims == ("norm", "samples", "seed", "time")
    np.testing.assert_array_equal(dataset["norm"], [0.5, 1, 2])
    single = counted(jax.random.fold_in(jax.random.key(0), 2), 2.0, 3)
    np.testing.assert_allclose(
        dataset["margin"].sel(norm=2, samples=3, seed=2), single.observables["margin"],
        rtol=rounding(operations=1000),
    )  # fmt: skip


def margin_only(state):
    return {"margin": jnp.min(state.logits())}


def test_observables_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"run: \['features'\] are not the same in all settings"):
        sweep(separate_steps, 2, grid={"feature_dim": [3, 4]})


def same_data(one, other):
    for name in one.variables:
        np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=name)
        assert one[name].dims == other[name].dims


def test_data_do_not_depend_on_the_batch_size(tmp_path):
    same_data(small(), sweep(run, 10, batch_size=8))
    same_data(small(), sweep(run, 10, path=tmp_path / "a"))
    # Of other seeds around them, runs with steps of their own differ by rounding alone.
    picked = sweep(separate_steps, seeds=[7, 2])
    whole = sweep(separate_steps, 10)
    np.testing.assert_array_equal(
        picked["features"].isel(time=0), whole["features"].sel(seed=[7, 2]).isel(time=0)
    )
    np.testing.assert_allclose(
        picked["margin"], whole["margin"].sel(seed=[7, 2]), rtol=rounding(operations=1000)
    )


def stop_after(monkeypatch, batches):
    """Raise in the place of a kill, once so many batches are written."""
    written = iter(range(batches))
    whole = BatchStore.write

    def write(self, part, region):
        if next(written, None) is None:
            # All variables but the last, as a kill may leave it.
            del part["result"]
            with pytest.raises(KeyError):
                whole(self, part, region)
            raise KeyboardInterrupt
        whole(self, part, region)

    monkeypatch.setattr(BatchStore, "write", write)


@pytest.mark.parametrize("batches", [0, 3])
def test_an_interrupted_sweep_resumes_to_the_same_bytes(tmp_path, monkeypatch, batches):
    grid = {"norm": [1.0, 2.0]}
    sweep(separate_steps, 6, grid=grid, batch_size=3, path=tmp_path / "whole")
    with monkeypatch.context() as context:
        stop_after(context, batches)
        with pytest.raises(KeyboardInterrupt):
            sweep(separate_steps, 6, grid=grid, batch_size=3, path=tmp_path / "ended")
    assert np.sum(storage.load(tmp_path / "ended")["result"] != storage.NOT_RUN) == 3 * batches
    dataset = sweep(separate_steps, 6, grid=grid, batch_size=3, path=tmp_path / "ended")
    assert files_of(tmp_path / "ended") == files_of(tmp_path / "whole")
    same_data(dataset, sweep(separate_steps, 6, grid=grid))


def test_a_finished_sweep_is_read_and_not_run(tmp_path, monkeypatch):
    first = sweep(separate_steps, 3, path=tmp_path / "a")
    monkeypatch.setattr("nc_jax.sweeps.programs.BatchPrograms.compute", None)
    same_data(first, sweep(separate_steps, 3, path=tmp_path / "a"))


def test_a_store_of_another_sweep_is_refused_with_the_keys_that_differ(tmp_path):
    path = tmp_path / "a"
    sweep(separate_steps, 3, path=path, grid={"norm": [1.0]})
    before = files_of(path)
    with pytest.raises(ValueError, match=r"grid.norm = \[1.0\] there, \[1\] here"):
        sweep(separate_steps, 3, path=path, grid={"norm": [1]})
    with pytest.raises(ValueError, match=r"dims = norm, seed there, seed here; grid.norm"):
        sweep(separate_steps, 3, path=path)
    with pytest.raises(ValueError, match=r"run\.max_steps = 1000 there, 7 here"):
        sweep(functools.partial(separate_steps, max_steps=7), 3, path=path, grid={"norm": [1.0]})
    with pytest.raises(
        ValueError, match=r"key = threefry2x32 \[0, 0\] there, threefry2x32 \[0, 1\] here"
    ):
        sweep(separate_steps, 3, path=path, grid={"norm": [1.0]}, key=jax.random.key(1))
    assert files_of(path) == before
    fresh = sweep(separate_steps, 3, path=path, grid={"norm": [2.0]}, resume=False)
    assert fresh.sizes["seed"] == 3
    assert fresh.attrs["grid.norm"] == "[2.0]"
    assert storage.load(path)["norm"].values.tolist() == [2.0]


def bend(state):
    return jax.tree.map(lambda leaf: 2 * leaf, state)


def bent(key):
    problem = nc.ulpm(3, 4, 2)
    return nc.gradient_flow(problem, bend(problem.init(key)), TIMES, observe=margin_only)


def test_a_change_of_code_is_noticed(tmp_path, monkeypatch):
    # Names and values stay as they are: the program alone tells.
    sweep(bent, 2, path=tmp_path / "a")
    monkeypatch.setitem(globals(), "bend", lambda state: state)
    with pytest.raises(ValueError, match="holds another sweep: program = "):
        sweep(bent, 2, path=tmp_path / "a")


def test_a_path_without_a_sweep_is_not_replaced(tmp_path):
    storage.save(storage.to_dataset(separate_steps(jax.random.key(0))), tmp_path / "flow")
    with pytest.raises(ValueError, match="holds no sweep"):
        sweep(separate_steps, 2, path=tmp_path / "flow")
    (tmp_path / "thesis").mkdir()
    for resume in (True, False):
        with pytest.raises(FileExistsError, match="not a Zarr store"):
            sweep(separate_steps, 2, path=tmp_path / "thesis", resume=resume)


def with_mode(key, mode, norm):
    problem = nc.ulpm(3, 4, 2)
    start = bend(problem.init(key, norm)) if mode == "bent" else problem.init(key, norm)
    return nc.gradient_flow(problem, start, TIMES, observe=margin_only)


def test_a_change_of_a_setting_or_of_the_order_of_a_grid_is_refused(tmp_path, monkeypatch):
    grid = {"mode": ["plain", "bent"], "norm": [1.0, 2.0]}
    sweep(with_mode, 2, path=tmp_path / "a", grid=grid)
    turned = dict(reversed(grid.items()))
    with pytest.raises(ValueError, match="dims = mode, norm, seed there, norm, mode, seed here"):
        sweep(with_mode, 2, path=tmp_path / "a", grid=turned)
    monkeypatch.setitem(globals(), "bend", lambda state: state)
    with pytest.raises(ValueError, match=r"holds another sweep: program of \{'mode': 'bent'"):
        sweep(with_mode, 2, path=tmp_path / "a", grid=grid)


def test_a_grid_may_mix_floats_and_none():
    def maybe(key, norm):
        problem = nc.ulpm(3, 4, 2)
        start = problem.init(key, 1.0 if norm is None else norm)
        return nc.gradient_flow(problem, start, TIMES, observe=margin_only)

    margins = sweep(maybe, 2, grid={"norm": [None, 0.5, 1.0]})["margin"]
    np.testing.assert_array_equal(margins["norm"], ["None", "0.5", "1.0"])
    np.testing.assert_allclose(margins[0], margins[2], rtol=rounding(operations=1000))
    assert np.all(margins[0] != margins[1])


@pytest.mark.parametrize("name", ["num_steps", "log_time", "norm", "a/b"])
def test_names_that_a_data_set_cannot_hold_are_refused(name):
    def named(key, norm):
        problem = nc.ulpm(3, 4, 2)
        observe = lambda state: {name: jnp.min(state.logits())}  # noqa: E731
        return nc.gradient_flow(problem, problem.init(key, norm), TIMES, observe=observe)

    with pytest.raises(ValueError, match=f"the name '{name}' is taken"):
        sweep(named, 2, grid={"norm": [1.0]})


def test_what_a_killed_process_left_beside_a_store_is_removed(tmp_path):
    (tmp_path / ".a.nc_jax-killed00" / "fresh").mkdir(parents=True)
    sweep(separate_steps, 2, path=tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.nc_jax-lock", "a"]


def test_two_processes_do_not_write_one_store(tmp_path):
    with (
        storage.writing(tmp_path / "a"),
        pytest.raises(RuntimeError, match="another process is writing there"),
    ):
        sweep(separate_steps, 2, path=tmp_path / "a")
    sweep(separate_steps, 2, path=tmp_path / "a")


def test_settings_that_are_no_numbers_are_labels(tmp_path):
    def with_reduction(key, reduction):
        problem = nc.ulpm(3, 4, 2, reduction=reduction)
        return nc.gradient_flow(problem, problem.init(key), TIMES, observe=margin_only)

    grid = {"reduction": ["sum", "mean"]}
    memory = sweep(with_reduction, 2, grid=grid)
    sweep(with_reduction, 2, grid=grid, path=tmp_path / "a")
    loaded = storage.load(tmp_path / "a")
    same_data(memory, loaded)
    for name in memory.variables:
        assert memory[name].attrs == loaded[name].attrs
        assert memory[name].attrs["units"] == "1"
    assert memory["reduction"].attrs["long_name"] == "reduction, a setting of the sweep"
    slow, fast = (loaded["margin"].sel(reduction=name, seed=0)[-1] for name in ("mean", "sum"))
    assert fast < slow  # the least logit, which falls


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give one of them"),
        ({"num_seeds": 3, "seeds": [1]}, "give one of them"),
        ({"num_seeds": 0}, "num_seeds = 0: give an integer >= 1"),
        ({"seeds": [1, 1]}, "different integers"),
        ({"seeds": [-1]}, "from 0 to"),
        ({"num_seeds": 2, "batch_size": 0}, "batch_size = 0"),
        ({"num_seeds": 2, "grid": {"seed": [1]}}, "rename the setting"),
        ({"num_seeds": 2, "grid": {"norm": []}}, "one or more different values"),
        ({"num_seeds": 2, "grid": {"norm": [1.0, 1.0]}}, "one or more different values"),
        ({"num_seeds": 2, "grid": {"norm": [1, 1.0]}}, "one or more different values"),
        ({"num_seeds": 2, "grid": {"width": [1]}}, "got an unexpected keyword argument 'width'"),
    ],
)
def test_arguments_that_make_no_sweep_are_refused(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        sweep(separate_steps, **arguments)


def as_trajectory(key, decay=0.1, norm=1.0):
    problem = nc.zhu(3, 4, 2, decay)
    return nc.gradient_flow(problem, problem.init(key, norm), TIMES, clock=nc.RealTime())


def as_flow_and_start(key, decay=0.1, norm=1.0):
    problem = nc.zhu(3, 4, 2, decay)
    return nc.Flow(problem, TIMES, clock=nc.RealTime()), problem.init(key, norm)


def as_flow_start_and_data(key, decay=0.1, norm=1.0):
    flow, start = as_flow_and_start(key, decay, norm)
    return (
        nc.Flow(flow.problem, TIMES, clock=nc.RealTime(), observe=lambda s, d: {"d": d}),
        start,
        1.0,
    )


def as_flow(key, decay=0.1, rtol=1e-6):
    return nc.Flow(nc.zhu(3, 4, 2, decay), TIMES, clock=nc.RealTime(), rtol=rtol)


def as_descent(key, decay=0.1, norm=1.0):
    problem = nc.zhu(3, 4, 2, decay)
    return nc.gradient_descent(problem, problem.init(key, norm), optax.sgd(0.1), 2)


def test_a_sweep_of_descents_has_the_axis_of_its_steps(tmp_path):
    single = storage.to_dataset(as_descent(jax.random.fold_in(jax.random.key(0), 1)))
    for path in (None, tmp_path / "a"):
        data = sweep(as_descent, 2, path=path)
        assert set(data.variables) == {*single.variables, "seed", "shared_steps"}
        np.testing.assert_array_equal(data["step"], [0, 1, 2])
        for name in single.variables:
            found = data[name] if name == "step" else data[name].sel(seed=1)
            assert found.dims == single[name].dims
            np.testing.assert_allclose(found, single[name], rtol=rounding(operations=1000))
            assert found.attrs["long_name"] == single[name].attrs["long_name"]


@pytest.mark.parametrize(
    ("run", "grid"),
    [
        (run, {name: values})
        for run in (as_trajectory, as_flow_and_start, as_flow_start_and_data, as_descent)
        for name in ("decay", "norm")
        for values in ([0.1, -0.1], [1.0, np.inf], [0.1, np.nan], [-0.1])
    ]
    + [
        (as_flow, {"decay": [0.1, -0.1]}),
        (as_flow, {"rtol": [1e-6, 1e-20]}),
        (as_flow, {"rtol": [1e-6, 0.0]}),
        (as_flow_and_start, {"decay": [0.0, 0.1], "norm": [1.0, -1.0]}),
        (as_flow_and_start, {"decay": np.array([0.1, -0.1])}),
        (as_flow_and_start, {"decay": [jnp.array(0.1), np.array(-0.1)]}),
        (as_flow_and_start, {"norm": [np.float32(1.0), np.float32(np.nan)]}),
    ],
)
def test_a_grid_is_checked_as_a_single_run_is(tmp_path, run, grid):
    with pytest.raises(ValueError, match=r"grid|give a finite number >= 0|rtol") as caught:
        sweep(run, 2, grid=grid, path=tmp_path / "a")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a").exists()


def test_every_pair_of_settings_is_checked():
    def ordered(key, low, high):
        if not is_traced(low) and low > high:
            raise ValueError(f"low = {low}: give a number below high = {high}.")
        return as_flow_and_start(key, low)

    with pytest.raises(
        ValueError, match=r"grid: run refuses \{'low': 0.3, 'high': 0.2\}: low = 0.3"
    ):
        sweep(ordered, 2, grid={"low": [0.1, 0.3], "high": [0.2, 0.4]})


def with_plain_norm(key, norm, single):
    return single(key, norm=float(norm))


def test_a_run_that_cannot_be_traced_is_refused():
    for run in (as_trajectory, as_flow_and_start):
        with pytest.raises(
            ValueError, match=r"grid: floats are traced, and run fails with traced \['norm'\]"
        ):
            sweep(functools.partial(with_plain_norm, single=run), 2, grid={"norm": [1.0]})
