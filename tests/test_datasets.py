import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

import nc_jax as nc
from nc_jax import metrics, storage
from nc_jax.trajectory import state_names

PROBLEM = nc.ulpm(3, 4, 2)
TIMES = np.array([0.0, 1.0, 2.0])


def observe(state):
    return {"squared_norm": state.squared_norm()}


def run(norm: jax.Array | float = 1.0, max_steps=1000):
    start = PROBLEM.init(jax.random.key(0), norm)
    return nc.gradient_flow(
        PROBLEM, start, TIMES, observe=observe, throw=False, max_steps=max_steps
    )


def descent(**options):
    start = PROBLEM.init(jax.random.key(0))
    saves = np.array([0, 1, 4])
    return nc.gradient_descent(
        PROBLEM, start, optax.sgd(0.1), 5, save_steps=saves, observe=observe, **options
    )


def test_the_axis_of_a_flow_is_time():
    dataset = storage.to_dataset(run())
    assert dataset["squared_norm"].dims == dataset["log_time"].dims == ("time",)
    assert set(dataset.coords) == {"log_time"}
    np.testing.assert_array_equal(dataset["log_time"], TIMES)


def test_the_axis_of_a_descent_is_its_steps():
    dataset = storage.to_dataset(descent())
    assert dataset["squared_norm"].dims == ("step",)
    assert set(dataset.coords) == {"step"}
    assert dataset["step"].dtype.kind == "i"
    np.testing.assert_array_equal(dataset["step"], [0, 1, 4])
    assert dataset["num_steps"] == 5
    assert "final_log_time" not in dataset


def test_a_descent_with_scaled_time_has_the_axis_of_a_flow():
    dataset = storage.to_dataset(descent().with_time_scaled(0.5))
    assert dataset["squared_norm"].dims == ("time",)
    np.testing.assert_allclose(np.expm1(dataset["log_time"]), [0, 0.5, 2], rtol=1e-12)
    np.testing.assert_allclose(np.expm1(dataset["final_log_time"]), 2.5, rtol=1e-12)


@pytest.mark.parametrize("make", [run, lambda: descent(save_states=True)], ids=["flow", "descent"])
def test_every_variable_and_coordinate_has_a_long_name_and_units(make):
    dataset = storage.to_dataset(make())
    for name, variable in dataset.variables.items():
        assert variable.attrs["units"] == "1", name
        assert len(variable.attrs["long_name"]) > 3, name
    assert dataset["squared_norm"].attrs["long_name"] == metrics.EQUATIONS["squared_norm"]


def test_attributes_of_a_variable_that_are_there_stay_and_the_argument_is_not_changed():
    plain = xr.Dataset({"norm": ("epoch", [1.0, 2.0], {"units": "m"})}, coords={"epoch": [1, 2]})
    described = storage.with_attributes(plain, long_names={"norm": "length of the classifier"})
    assert described["norm"].attrs == {"long_name": "length of the classifier", "units": "m"}
    assert described["epoch"].attrs == {"long_name": "epochs of training", "units": "1"}
    assert plain["norm"].attrs == {"units": "m"}
    assert plain["epoch"].attrs == {}
    assert storage.variable_attributes("my_measure")["long_name"] == "my measure"


def test_a_batch_is_labelled_by_seed_and_failures_by_message():
    batch = jax.vmap(run)(jnp.array([1.0, jnp.nan]))
    dataset = storage.to_dataset(batch)
    assert dataset["squared_norm"].dims == ("seed", "time")
    ended = [dataset["result"].attrs[str(code)] for code in dataset["result"].values]
    assert ended[0] == ""
    assert "Nonfinite" in ended[1]


def test_a_data_set_records_that_the_step_limit_was_reached():
    dataset = storage.to_dataset(run(max_steps=2))
    assert "maximum number" in dataset["result"].attrs[str(dataset["result"].item())]


def test_runs_with_different_save_times_are_refused():
    def at(times):
        return nc.gradient_flow(PROBLEM, PROBLEM.init(jax.random.key(0)), times, observe=observe)

    batch = jax.vmap(at)(jnp.array([[1.0, 2.0], [1.0, 3.0]]))
    with pytest.raises(ValueError, match="log_time differs"):
        storage.to_dataset(batch)


def test_an_observable_that_is_an_array_has_named_dimensions():
    def norms(state):
        return {"norms": jax.numpy.linalg.norm(state.features, axis=1)}

    single = nc.gradient_flow(PROBLEM, PROBLEM.init(jax.random.key(0)), TIMES, observe=norms)
    assert storage.to_dataset(single)["norms"].dims == ("time", "norms_dim_0")
    batch = jax.tree.map(lambda leaf: jax.numpy.stack([leaf, leaf]), single)
    named = storage.to_dataset(batch, dims={"norms": ["sample"]})
    assert named["norms"].dims == ("seed", "time", "sample")
    assert named["norms"].shape == (2, 3, 6)
    with pytest.raises(ValueError, match=r"dims\['norm'\]: no such observable; there are"):
        storage.to_dataset(single, dims={"norm": ["a"]})
    with pytest.raises(ValueError, match=r"dims\['norms'\] = \['a', 'b'\]: norms has 1 axes"):
        storage.to_dataset(single, dims={"norms": ["a", "b"]})


def test_a_data_set_without_states_says_so():
    with pytest.raises(ValueError, match="has no state_features, state_classifier; run with save_"):
        storage.states(storage.to_dataset(run()), PROBLEM.init(jax.random.key(0)))


def test_states_of_any_structure_have_names():
    state = {"a": (np.zeros(2), np.zeros(3)), "b": [np.zeros(1)]}
    assert state_names(state) == ["state_a_0", "state_a_1", "state_b_0"]
    assert state_names(np.zeros(2)) == ["state"]
    assert state_names(None) == []


def test_an_observable_with_the_name_of_a_state_is_refused():
    def named(state):
        return {"state_features": state.squared_norm()}

    traj = nc.gradient_descent(
        PROBLEM, PROBLEM.init(jax.random.key(0)), optax.sgd(0.1), 1, observe=named, save_states=True
    )
    with pytest.raises(ValueError, match="the name 'state_features' is that of a saved state"):
        storage.to_dataset(traj)
