"""Results that are filled in portions: in memory and on disk, with the same calls and outcome."""

import numpy as np
import pytest
from store_files import assert_same_files, files_of, killed_after, read_only

from nc_jax.storage.batches import NOT_RUN
from nc_jax.storage.results import InMemory, Layout, ResultVariable, results_at

TIMES = {"log_time": (("time",), np.array([0.0, 1.0]))}


def layout(rates=("low", "high"), seeds=(0, 1, 2)):
    variables = {
        "value": ResultVariable(("time",), (2,), np.dtype("float64")),
        "result": ResultVariable((), (), np.dtype("int32")),
    }
    return Layout({"rate": list(rates), "seed": list(seeds)}, variables, (1, 2), {"rate": "a rate"})


def accept(store):
    del store


def describe(labels, stored):
    return {"labels": str(dict(labels)), "calls": int(str(stored.get("calls", 0))) + 1}


def at(path, wanted, *, resume=True):
    return results_at(path, wanted, describe, check=accept, resume=resume)


def write(results, wanted, rates, seeds):
    """Write the values 10 seed + index of the rate + time of some runs."""
    names = list(wanted.labels["rate"])
    values = [[[10 * s + len(r) + t for t in (0, 1)] for s in seeds] for r in rates]
    part = {"value": np.array(values, float), "result": np.zeros((len(rates), len(seeds)), "int32")}
    places = [
        np.array([names.index(rate) for rate in rates]),
        np.array([list(wanted.labels["seed"]).index(seed) for seed in seeds]),
    ]
    results.write(places, part, coordinates=TIMES)


@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
def test_written_runs_are_read_and_missing_runs_are_marked(tmp_path, on_disk):
    wanted = layout()

    def check_filled(results):
        assert not results.written().any()
        assert results.coordinate("log_time") is None
        write(results, wanted, ["high"], [2, 0])
        np.testing.assert_array_equal(
            results.written(), [[False, False, False], [True, False, True]]
        )
        np.testing.assert_array_equal(results.coordinate("log_time"), [0.0, 1.0])
        data = results.dataset().load()
        assert data["value"].dims == ("rate", "seed", "time")
        np.testing.assert_array_equal(data["value"].sel(rate="high", seed=2), [24.0, 25.0])
        np.testing.assert_array_equal(data["value"].sel(rate="high", seed=0), [4.0, 5.0])
        assert np.isnan(data["value"].sel(rate="low")).all()
        np.testing.assert_array_equal(data["result"].sel(rate="low"), 3 * [NOT_RUN])
        assert data["rate"].attrs == {"long_name": "a rate", "units": "1"}
        assert data["result"].attrs["0"] == ""

    if on_disk:
        with at(tmp_path / "a", wanted) as results:
            check_filled(results)
    else:
        check_filled(InMemory(wanted, {}))


def test_results_in_memory_and_on_disk_give_the_same_data_set(tmp_path):
    wanted = layout()
    memory = InMemory(wanted, describe(wanted.labels, {}))
    with at(tmp_path / "a", wanted) as disk:
        for results in (memory, disk):
            write(results, wanted, ["low", "high"], [0, 1])
            write(results, wanted, ["low"], [2])
        assert disk.dataset().load().identical(memory.dataset())


def test_a_store_grows_and_keeps_its_results(tmp_path):
    first = layout(["high"], [0, 1])
    with at(tmp_path / "a", first) as results:
        write(results, first, ["high"], [0, 1])
    more = layout(["low", "high"], [5, 1])
    with at(tmp_path / "a", more) as results:
        np.testing.assert_array_equal(results.written(), [[False, False], [False, True]])
        write(results, more, ["low"], [5, 1])
        data = results.dataset().load()
        stored = results_at(tmp_path / "a", layout(["high", "low"], [0, 1, 5]), describe,
                            check=accept, resume=True)  # fmt: skip
    # In the order of the call, whatever the order in the store.
    assert data["rate"].values.tolist() == ["low", "high"]
    assert data["seed"].values.tolist() == [5, 1]
    np.testing.assert_array_equal(data["value"].sel(rate="low", seed=5), [53.0, 54.0])
    np.testing.assert_array_equal(data["value"].sel(rate="high", seed=1), [14.0, 15.0])
    with stored as results:
        np.testing.assert_array_equal(results.written(), [[True, True, False], [False, True, True]])
        attributes = results.dataset().attrs
    assert attributes["calls"] == 2
    assert attributes["labels"] == "{'rate': ['high', 'low'], 'seed': [0, 1, 5]}"


def test_without_resume_a_store_is_replaced_at_the_first_write(tmp_path):
    wanted = layout()
    with at(tmp_path / "a", wanted) as results:
        write(results, wanted, ["low"], [0])
    before = files_of(tmp_path / "a")
    with at(tmp_path / "a", wanted, resume=False) as results:
        assert results.is_new
        assert not results.written().any()
        assert files_of(tmp_path / "a") == before
        write(results, wanted, ["high"], [1])
        np.testing.assert_array_equal(
            results.written(), [[False, False, False], [False, True, False]]
        )


def test_a_complete_store_needs_no_lock_and_no_right_to_write(tmp_path):
    wanted = layout()
    with at(tmp_path / "a", wanted) as results:
        write(results, wanted, ["low", "high"], [0, 1, 2])
        # A second process finds the lock where something is left to compute, and only there.
        with at(tmp_path / "a", wanted) as second:
            assert second.written().all()
        with (
            pytest.raises(RuntimeError, match="another process is writing there"),
            at(tmp_path / "a", layout(seeds=[7])),
        ):
            pass
    with read_only(tmp_path), at(tmp_path / "a", wanted) as results:
        assert results.dataset().sizes["seed"] == 3


def test_a_store_that_the_check_refuses_stays_as_it_is(tmp_path):
    wanted = layout()
    with at(tmp_path / "a", wanted) as results:
        write(results, wanted, ["low"], [0])
    before = files_of(tmp_path / "a")

    def refuse(store):
        raise ValueError(f"labels = {store.attributes['labels']}")

    with (
        pytest.raises(ValueError, match=r"labels = \{'rate'"),
        results_at(tmp_path / "a", wanted, describe, check=refuse, resume=True),
    ):
        pass
    assert files_of(tmp_path / "a") == before


def fill(path, wanted):
    """Write what is missing, one rate at a time."""
    with at(path, wanted) as results:
        for rate, written in zip(wanted.labels["rate"], results.written(), strict=True):
            if not written.all():
                write(results, wanted, [rate], wanted.labels["seed"])


def test_a_process_may_be_killed_before_any_change_of_a_file(tmp_path):
    wanted = layout()
    fill(tmp_path / "whole", wanted)
    files, changes = files_of(tmp_path / "whole"), 0
    while True:
        path = tmp_path / str(changes) / "a"
        path.parent.mkdir()
        try:
            with killed_after(path.parent, changes):
                fill(path, wanted)
            break
        except (OSError, RuntimeError):
            fill(path, wanted)
            assert_same_files(path, files)
        changes += 1
    # Else the hook saw nothing of what Zarr does.
    assert changes > len(files)
