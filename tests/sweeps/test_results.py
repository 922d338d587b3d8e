"""Stores of sweeps that grow, that are read by others, and that cannot be written."""

import importlib.util
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from store_files import files_of, read_only

import nc_jax as nc
from nc_jax import storage
from nc_jax.storage.batches import BatchStore
from nc_jax.sweeps.programs import BatchPrograms

OPTIMIZER = optax.sgd(0.1)


def run(key, norm=1.0, samples=2):
    """Two steps of descent, which are compiled in no time."""
    problem = nc.ulpm(3, 4, samples)
    start = problem.init(key, norm)
    return nc.gradient_descent(problem, start, OPTIMIZER, 2, observe=observe)


def observe(state):
    return {"margin": jnp.min(state.logits()), "norms": jnp.linalg.norm(state.classifier, axis=1)}


def sweep(*arguments, **options):
    return nc.sweep(*arguments, progress=False, **options)


@pytest.fixture
def computed(monkeypatch):
    """Setting and seeds of every call that computes."""
    calls, compute = [], BatchPrograms.compute

    def counted(self, cell, seeds):
        calls.append((tuple(cell.setting.values()), tuple(seeds.tolist())))
        return compute(self, cell, seeds)

    monkeypatch.setattr(BatchPrograms, "compute", counted)
    return calls


def assert_same_data(found, expected):
    assert set(found.variables) == set(expected.variables)
    for name in expected.variables:
        assert found[name].dims == expected[name].dims
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_more_seeds_are_added_and_end_in_the_bytes_of_one_call(tmp_path, computed):
    first = sweep(run, 4, batch_size=4, path=tmp_path / "a")
    del computed[:]
    found = sweep(run, 12, batch_size=4, path=tmp_path / "a")
    assert computed == [((), (4, 5, 6, 7)), ((), (8, 9, 10, 11))]
    whole = sweep(run, 12, batch_size=4, path=tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert_same_data(found, whole)
    assert found.attrs == whole.attrs
    # Read from the store now, and no other than before.
    assert_same_data(first, whole.isel(seed=slice(4)))


def test_more_values_are_added_and_what_is_there_stays(tmp_path, computed):
    path = tmp_path / "a"
    first = sweep(run, 3, grid={"norm": [1.0, 2.0], "samples": [2]}, path=path, batch_size=2)
    del computed[:]
    grid = {"norm": [0.5, 2.0, 1.0], "samples": [3, 2]}
    found = sweep(run, seeds=[5, 0, 1, 2], grid=grid, path=path)
    assert sorted(computed) == sorted(
        [((norm, 3), (5, 0, 1, 2)) for norm in grid["norm"]]
        + [((0.5, 2), (5, 0, 1, 2)), ((1.0, 2), (5,)), ((2.0, 2), (5,))]
    )
    assert_same_data(found, sweep(run, seeds=[5, 0, 1, 2], grid=grid))
    stored = storage.load(path)
    assert_same_data(first, stored.isel(norm=slice(2), samples=slice(1), seed=slice(3)))
    # What was there is first along each axis.
    assert stored["norm"].values.tolist() == [1.0, 2.0, 0.5]
    assert stored["samples"].values.tolist() == [2, 3]
    assert stored["seed"].values.tolist() == [0, 1, 2, 5]
    assert np.all(stored["result"] == 0)
    assert stored.attrs["seeds"] == "[0, 1, 2, 5]"
    assert found.attrs["seeds"] == "[5, 0, 1, 2]"
    assert found.attrs["grid.norm"] == "[0.5, 2.0, 1.0]"


def test_texts_are_added_as_numbers_are(tmp_path):
    def named(key, reduction):
        problem = nc.ulpm(3, 4, 2, reduction=reduction)
        return nc.gradient_descent(problem, problem.init(key), OPTIMIZER, 2, observe=observe)

    sweep(named, 2, grid={"reduction": ["sum"]}, path=tmp_path / "a")
    both = {"reduction": ["mean", "sum"]}
    assert_same_data(sweep(named, 2, grid=both, path=tmp_path / "a"), sweep(named, 2, grid=both))
    assert storage.load(tmp_path / "a")["reduction"].values.tolist() == ["sum", "mean"]


def test_a_part_of_a_store_is_read_and_not_computed(tmp_path, computed):
    grid = {"norm": [1.0, 2.0]}
    sweep(run, 6, grid=grid, path=tmp_path / "a")
    before = files_of(tmp_path / "a")
    del computed[:]
    part = sweep(run, seeds=[4, 1], grid={"norm": [2.0]}, path=tmp_path / "a")
    assert computed == []
    assert files_of(tmp_path / "a") == before
    whole = storage.load(tmp_path / "a")
    assert_same_data(part, whole.isel(norm=[1], seed=[4, 1]))
    assert part.attrs["seeds"] == "[4, 1]"


def test_runs_that_no_call_has_asked_for_are_marked(tmp_path):
    sweep(run, 2, grid={"norm": [1.0]}, path=tmp_path / "a")
    sweep(run, seeds=[7], grid={"norm": [2.0]}, path=tmp_path / "a")
    there = storage.load(tmp_path / "a")["result"] != storage.NOT_RUN
    np.testing.assert_array_equal(there, [[True, True, False], [False, False, True]])


def test_an_interrupted_extension_resumes_to_the_same_bytes(tmp_path, monkeypatch):
    path = tmp_path / "a"
    sweep(run, 4, batch_size=4, path=path)
    write, calls = BatchStore.write, iter(range(1))

    def write_once(self, part, region):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        write(self, part, region)

    with monkeypatch.context() as context:
        context.setattr(BatchStore, "write", write_once)
        with pytest.raises(KeyboardInterrupt):
            sweep(run, 12, batch_size=4, path=path)
    there = storage.load(path)["result"] != storage.NOT_RUN
    np.testing.assert_array_equal(there, np.arange(12) < 8)
    sweep(run, 12, batch_size=4, path=path)
    sweep(run, 12, batch_size=4, path=tmp_path / "b")
    assert files_of(path) == files_of(tmp_path / "b")


def test_other_code_for_a_setting_that_is_there_is_refused(tmp_path, monkeypatch):
    sweep(run, 2, grid={"samples": [2]}, path=tmp_path / "a")
    monkeypatch.setitem(globals(), "observe", lambda state: {**observe_twice(state)})
    before = files_of(tmp_path / "a")
    with pytest.raises(ValueError, match=r"holds another sweep: program of \{'samples': 2\}"):
        sweep(run, 3, grid={"samples": [3, 2]}, path=tmp_path / "a")
    assert files_of(tmp_path / "a") == before


def observe_twice(state, observe=observe):
    return {name: 2 * value for name, value in observe(state).items()}


def test_other_observables_for_other_settings_are_refused(tmp_path):
    def observed(key, dim):
        problem = nc.ulpm(3, dim, 2)
        features = lambda state: {"features": state.features}  # noqa: E731
        return nc.gradient_descent(problem, problem.init(key), OPTIMIZER, 2, observe=features)

    sweep(observed, 2, grid={"dim": [4]}, path=tmp_path / "a")
    with pytest.raises(ValueError, match=r"variables = .*features float64\[3, 6, 4\].* there"):
        sweep(observed, 2, grid={"dim": [5]}, path=tmp_path / "a")


SCRIPT = """
import jax.numpy as jnp
import optax
import nc_jax as nc

class Rate:
    def __init__(self, value):
        self.value = value

RATE, OPTIMIZER = Rate(0.5), optax.sgd(0.1)

def run(key):
    problem = nc.ulpm(3, 4, 2)
    start = problem.init(key, RATE.value)
    return nc.gradient_descent(problem, start, OPTIMIZER, 2, observe=observe)

def observe(state):
    return {"margin": jnp.min(state.logits())}
"""


def test_a_function_is_the_same_in_a_script_and_imported(tmp_path, computed):
    file = tmp_path / "runs_of_mine.py"
    file.write_text(SCRIPT)
    spec = importlib.util.spec_from_file_location("package.runs_of_mine", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    script = runpy.run_path(str(file), run_name="__main__")
    assert script["run"].__module__ == "__main__"
    sweep(script["run"], 2, path=tmp_path / "a")
    del computed[:]
    sweep(module.run, 2, path=tmp_path / "a")
    assert computed == []
    sweep(module.run, 3, path=tmp_path / "a")
    sweep(script["run"], 3, path=tmp_path / "a")
    assert computed == [((), (2,))]


def test_a_finished_sweep_is_read_where_nothing_can_be_written(tmp_path, computed):
    whole = sweep(run, 3, path=tmp_path / "a")
    del computed[:]
    (tmp_path / ".a.nc_jax-lock").unlink()
    with read_only(tmp_path):
        assert_same_data(sweep(run, 3, path=tmp_path / "a"), whole)
        assert_same_data(sweep(run, 2, path=tmp_path / "a"), whole.isel(seed=[0, 1]))
        with pytest.raises(PermissionError, match="cannot write there") as caught:
            sweep(run, 4, path=tmp_path / "a")
        assert caught.value.filename == str(tmp_path / "a")
        with pytest.raises(ValueError, match="holds another sweep"):
            sweep(run, 3, path=tmp_path / "a", key=jax.random.key(1))
    assert computed == []


def test_a_finished_sweep_is_read_while_another_process_holds_the_lock(tmp_path):
    whole = sweep(run, 3, path=tmp_path / "a")
    with storage.writing(tmp_path / "a"):
        assert_same_data(sweep(run, 3, path=tmp_path / "a"), whole)
        with pytest.raises(RuntimeError, match="another process is writing there"):
            sweep(run, 4, path=tmp_path / "a")


def test_a_finished_flow_is_read_where_nothing_can_be_written(tmp_path):
    problem = nc.ulpm(3, 4, 2)
    start = problem.init(jax.random.key(0))
    flow = nc.Flow(problem, np.array([0.0, 1.0]), observe=("margin_min",))
    whole = flow(start, path=tmp_path / "a")
    (tmp_path / ".a.nc_jax-lock").unlink()
    with read_only(tmp_path):
        found = flow(start, path=tmp_path / "a")
        with pytest.raises(PermissionError, match="cannot write there"):
            flow(start, path=tmp_path / "b")
    np.testing.assert_array_equal(found.observables["margin_min"], whole.observables["margin_min"])
    np.testing.assert_array_equal(found.final.features, whole.final.features)


def test_a_store_is_opened_by_xarray_without_a_warning(tmp_path):
    data = sweep(run, 3, grid={"norm": [1.0]}, path=tmp_path / "a", batch_size=2)
    sweep(run, 5, grid={"norm": [1.0, 2.0]}, path=tmp_path / "a")
    # Warnings are errors here.
    found = xr.open_zarr(tmp_path / "a").load()
    assert found.identical(storage.load(tmp_path / "a"))
    assert found["result"].attrs == data["result"].attrs
