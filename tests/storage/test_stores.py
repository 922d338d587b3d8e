import importlib.metadata
import os
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from jaxtyping import TypeCheckError
from tolerances import rounding

import nc_jax as nc
from nc_jax import datasets, storage

PROBLEM = nc.ulpm(3, 4, 2)
TIMES = np.array([0.0, 1.0, 2.0])


def observe(state):
    return {"squared_norm": state.squared_norm()}


def run(norm: jax.Array | float = 1.0, max_steps=1000):
    start = PROBLEM.init(jax.random.key(0), norm)
    return nc.gradient_flow(
        PROBLEM, start, TIMES, observe=observe, throw=False, max_steps=max_steps
    )


def test_a_store_gives_back_what_was_saved(tmp_path):
    traj = run()
    dataset = storage.to_dataset(traj, attributes={"K": 3, "seed": 0})
    storage.save(dataset, tmp_path / "flow.zarr")
    loaded = storage.load(tmp_path / "flow.zarr")
    assert loaded.identical(dataset)
    np.testing.assert_array_equal(loaded["squared_norm"], traj.observables["squared_norm"])
    np.testing.assert_array_equal(loaded["log_time"], TIMES)
    assert loaded.attrs["K"] == 3
    assert {"version_jax", "version_nc_jax", "device"} <= set(loaded.attrs)


def test_saving_again_replaces_the_store_and_leaves_nothing_beside_it(tmp_path):
    for norm in (1.0, 2.0):
        storage.save(storage.to_dataset(run(norm)), tmp_path / "flow.zarr")
    loaded = storage.load(tmp_path / "flow.zarr")
    np.testing.assert_allclose(loaded["squared_norm"][0], 8.0)
    assert os.listdir(tmp_path) == ["flow.zarr"]


def test_a_failed_write_leaves_the_old_store_whole(tmp_path, monkeypatch):
    path = tmp_path / "flow.zarr"
    old = storage.to_dataset(run())
    storage.save(old, path)

    def fail(self, store, **options):
        os.makedirs(store)
        raise OSError("disk full")

    monkeypatch.setattr(type(old), "to_zarr", fail)
    with pytest.raises(OSError, match="disk full"):
        storage.save(storage.to_dataset(run(2.0)), path)
    assert os.listdir(tmp_path) == ["flow.zarr"]
    assert storage.load(path).identical(old)


def test_what_is_not_a_store_is_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not a Zarr store"):
        storage.save(storage.to_dataset(run()), tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").exists()


def test_loading_an_absent_store_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Zarr store there"):
        storage.load(tmp_path / "absent.zarr")


def test_batch_axes_have_the_names_they_are_given(tmp_path):
    batch = jax.vmap(jax.vmap(run))(jnp.ones((2, 3)))
    with pytest.raises(
        ValueError, match=r"runs = \('seed',\): the trajectory has batch shape \(2, 3\)"
    ):
        storage.to_dataset(batch)
    labelled = storage.to_dataset(batch, runs=("norm", "seed"))
    assert labelled["num_steps"].dims == labelled["final_log_time"].dims == ("norm", "seed")
    np.testing.assert_array_equal(labelled["final_log_time"], batch.final_log_time)
    storage.save(labelled, tmp_path / "flow.zarr")
    assert storage.load(tmp_path / "flow.zarr").identical(labelled)


def test_a_trajectory_is_saved_as_its_data_set(tmp_path):
    traj = run()
    storage.save(traj, tmp_path / "flow.zarr")
    assert storage.load(tmp_path / "flow.zarr").identical(storage.to_dataset(traj))


@pytest.mark.parametrize("value", [3.0, {"a": 1}, xr.DataArray(np.zeros(2)), PROBLEM])
def test_saving_anything_but_a_data_set_is_refused(tmp_path, value):
    save: Any = storage.save
    with pytest.raises((ValueError, TypeCheckError), match=r"dataset|type-checking"):
        save(value, tmp_path / "a")


@pytest.mark.parametrize(
    "attributes", [{"p": Path("a")}, {"p": {1, 2}}, {"p": [1, Path("a")]}, {"p": jax.numpy.ones(2)}]
)
def test_attributes_that_a_store_cannot_hold_are_refused(tmp_path, attributes):
    traj = run()
    with pytest.raises(ValueError, match=r"attributes: 'p' = .*; give texts, numbers") as caught:
        storage.to_dataset(traj, attributes=attributes)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="attributes: 'p'"):
        storage.save(storage.to_dataset(traj).assign_attrs(attributes), tmp_path / "a")


def test_attributes_that_a_store_can_hold_come_back(tmp_path):
    given = {"a": 1, "b": 0.5, "c": "text", "d": [1, 2], "e": True}
    numpy = {"f": np.float32(0.5), "g": np.int64(3), "h": np.arange(2)}
    storage.save(storage.to_dataset(run(), attributes={**given, **numpy}), tmp_path / "a")
    found = storage.load(tmp_path / "a").attrs
    assert found.items() >= {**given, "f": 0.5, "g": 3, "h": [0, 1]}.items()


def test_xarray_opens_a_store_without_a_warning(tmp_path):
    storage.save(storage.to_dataset(run(max_steps=2)), tmp_path / "a")
    storage.save(storage.to_dataset(run()), tmp_path / "b", arrays={"beside": np.arange(3)})
    for name in ("a", "b"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = xr.open_zarr(tmp_path / name).load()
        assert found.identical(storage.load(tmp_path / name))


@pytest.mark.parametrize("problem", [PROBLEM, nc.mixon(3, 4, 2)], ids=["ulpm", "bias"])
def test_saved_states_are_variables_and_come_back(tmp_path, problem):
    start = problem.init(jax.random.key(0))
    traj = nc.gradient_descent(
        problem,
        start,
        optax.sgd(0.1),
        3,
        save_steps=np.array([0, 1, 3]),
        observe=observe,
        save_states=True,
    )
    storage.save(storage.to_dataset(traj), tmp_path / "a")
    loaded = storage.load(tmp_path / "a")
    assert loaded["state_features"].dims == (
        "step", "state_features_dim_0", "state_features_dim_1",
    )  # fmt: skip
    assert ("state_bias" in loaded) == (start.bias is not None)
    found = storage.states(loaded, start)
    assert jax.tree.structure(found) == jax.tree.structure(start)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(traj.states), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found.features[-1], traj.final.features)
    np.testing.assert_allclose(
        np.sum(found.features**2, (1, 2)) + np.sum(found.classifier**2, (1, 2)),
        loaded["squared_norm"], rtol=rounding(operations=100),
    )  # fmt: skip


def test_a_checkout_that_is_not_installed_has_its_version(monkeypatch):
    def version(name):
        if name == "nc_jax":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(datasets, "version", version)
    found = storage.provenance()
    assert found["version_nc_jax"] == nc.__version__
    assert found["version_jax"] == "1.2.3"


def test_coordinates_of_texts_are_read_as_they_were_saved(tmp_path):
    layers = ("layer", ["first", "last"], {"long_name": "layer of the network"})
    data = xr.Dataset({"cdnv": ("layer", [2.0, 1.0])}, {"layer": layers})
    # Zarr warns of its format for texts, and warnings are errors here.
    storage.save(data, tmp_path / "layers.zarr")
    assert storage.load(tmp_path / "layers.zarr").identical(data)
