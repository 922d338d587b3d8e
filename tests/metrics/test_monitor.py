"""A Monitor over batches against `measure` of all samples, its rows on disk, and its refusals."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation_counts import counted
from hypothesis import given, strategies as st
from store_files import files_of
from tolerances import rounding

import nc_jax as nc
from nc_jax import metrics, storage

SEEDS = st.integers(0, 2**32 - 1)
CLASSES, DIM = 3, 4
SINGLE = ["zhu_nc1", "cdnv", "cdnv_by_pair", "ji_feature_cosine_gap", "zhu_nc3", "zhu_nc4"]


def samples(seed: int, count: int = 40, dim: int = DIM):
    """Features around random means, labels in random order with every class, and a head."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % CLASSES)
    features = rng.normal(size=(CLASSES, dim))[labels] + 0.3 * rng.normal(size=(count, dim))
    return features, labels, rng.normal(size=(CLASSES, dim)), rng.normal(size=CLASSES)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # The one-pass form of NC1 sums in another order.
        np.testing.assert_allclose(found[name], value, rtol=rounding(operations=1000), err_msg=name)


@given(seed=SEEDS, cuts=st.lists(st.integers(1, 39), max_size=5))
def test_batches_of_any_sizes_and_orders_give_the_measures_of_all_samples(seed, cuts):
    features, labels, classifier, bias = samples(seed)
    monitor = metrics.Monitor(CLASSES, names=SINGLE)
    parts = np.split(np.arange(len(labels)), sorted(set(cuts)))
    for part in np.random.default_rng(seed).permutation(len(parts)):
        monitor.update(features[parts[part]], labels[parts[part]])
    found = monitor.result(classifier, bias)
    assert_same(found, metrics.measure(features, labels, classifier, bias, names=SINGLE))
    # The arrays of pairs are in the data set too.
    assert monitor.dataset["cdnv_by_pair"].dims == ("epoch", "class", "other_class")


def test_each_epoch_begins_anew():
    monitor = metrics.Monitor(CLASSES, names=["cdnv", "zhu_nc1"])
    for seed in (0, 1):
        features, labels, *_ = samples(seed)
        monitor.update(features, labels)
        expected = metrics.measure(features, labels, names=["cdnv", "zhu_nc1"])
        assert_same(monitor.result(), expected)
    assert monitor.dataset["epoch"].values.tolist() == [1, 2]
    assert repr(monitor) == "Monitor(3 classes, 2 epochs)"


def test_the_default_is_every_single_number_that_one_pass_gives():
    features, labels, classifier, bias = samples(0)
    monitor = metrics.Monitor(CLASSES)
    monitor.update(features, labels)
    found = monitor.result(classifier, bias)
    expected = metrics.measure(features, labels, classifier, bias)
    single = {name for name, value in expected.items() if np.ndim(value) == 0}
    two_passes = {"ji_within_class_variation", "papyan_ncc_mismatch"}
    assert {"zhu_nc1", "zhu_nc2", "zhu_nc3", "cdnv"} <= found.keys() <= single - two_passes
    assert_same(found, {name: expected[name] for name in found})
    # Without a classifier the measures that need one are left out.
    monitor.update(features, labels)
    assert monitor.result(epoch=7).keys() == metrics.measure(features, labels).keys() & found.keys()
    assert np.isnan(monitor.dataset["zhu_nc3"].sel(epoch=7))


def test_every_measure_of_one_pass_can_be_computed():
    features, labels, classifier, bias = samples(0, count=30)
    monitor = metrics.Monitor(CLASSES, names="all")
    monitor.update(features, labels)
    found = monitor.result(classifier, bias)
    assert {"cdnv_by_pair", "mixon_snc1"} <= found.keys()
    expected = metrics.measure(features, labels, classifier, bias, names=list(found))
    for name, value in expected.items():
        # Ranks come from the eigenvalues of the covariance in both.
        np.testing.assert_allclose(
            found[name], value, rtol=rounding(operations=10**5), err_msg=name
        )


def test_layers_have_their_own_measures_and_the_last_one_those_of_the_classifier():
    first, labels, *_ = samples(0, dim=6)
    last, _, classifier, bias = samples(1)
    names = ["zhu_nc1", "cdnv_by_pair", "zhu_nc3"]
    monitor = metrics.Monitor(CLASSES, names=names, class_names=("cat", "dog", "owl"))
    for rows in (slice(0, 25), slice(25, None)):
        layers = {"first": first[rows], "last": last[rows]}
        monitor.update(layers, np.array(["cat", "dog", "owl"])[labels[rows]])
    found = monitor.result(classifier, bias, train_loss=0.25)
    assert_same(found["first"], metrics.measure(first, labels, names=names[:2]))
    assert_same(found["last"], metrics.measure(last, labels, classifier, bias, names=names))
    data = monitor.dataset
    assert data["zhu_nc1"].dims == ("epoch", "layer")
    assert np.isnan(data["zhu_nc3"].sel(layer="first"))
    assert data["zhu_nc3"].sel(layer="last").item() == found["last"]["zhu_nc3"]
    pair = {"class": "owl", "other_class": "cat", "layer": "first", "epoch": 1}
    assert data["cdnv_by_pair"].sel(pair).item() == found["first"]["cdnv_by_pair"][2, 0]
    assert data["train_loss"].dims == ("epoch",)
    assert metrics.scalars(found) == {
        "first/zhu_nc1": found["first"]["zhu_nc1"],
        "last/zhu_nc1": found["last"]["zhu_nc1"],
        "last/zhu_nc3": found["last"]["zhu_nc3"],
    }


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8"])
def test_features_of_any_dtype_are_summed_in_float64(dtype):
    features, labels, *_ = samples(3)
    given = jnp.asarray(100 * features).astype(dtype)
    expected = metrics.measure(np.asarray(given).astype(float), labels, names=["cdnv", "zhu_nc1"])
    arrays = [given, np.asarray(given)]
    if dtype == "float32":
        arrays += [arrays[1].astype(">f4"), arrays[1].astype(np.longdouble), arrays[1].tolist()]
    for array in arrays:
        monitor = metrics.Monitor(CLASSES, names=["cdnv", "zhu_nc1"])
        monitor.update(array, labels)
        assert_same(monitor.result(), expected)


def test_arrays_may_be_changed_in_place_after_an_update():
    features, labels, *_ = samples(4, count=64, dim=64)
    expected = metrics.measure(features, labels, names=["cdnv"])
    monitor = metrics.Monitor(CLASSES, names=["cdnv"])
    for rows in (slice(0, 32), slice(32, 64)):
        batch = np.array(features[rows])
        monitor.update(batch, labels[rows])
        batch[:] = np.nan
    assert_same(monitor.result(), expected)


def test_rows_with_the_ignored_label_are_left_out():
    features, labels, *_ = samples(5)
    monitor = metrics.Monitor(CLASSES, names=["cdnv"], ignore_index=-1)
    monitor.update(np.pad(features, ((3, 0), (0, 0))), np.pad(labels, (3, 0), constant_values=-1))
    assert_same(monitor.result(), metrics.measure(features, labels, names=["cdnv"]))


def test_a_second_epoch_compiles_nothing():
    features, labels, classifier, bias = samples(6, count=90, dim=5)
    monitor = metrics.Monitor(CLASSES)

    def epoch():
        # The last batch is smaller.
        for start in range(0, 90, 32):
            part = slice(start, start + 32)
            monitor.update({"a": features[part], "b": features[part]}, labels[part])
        monitor.result(classifier, bias)

    epoch()
    with counted() as counts:
        epoch()
    assert counts.compiled == 0
    # Two layers of one width share the program, and so do batches of another size.
    with counted() as counts:
        monitor.update({"a": features[:3], "b": features[:3]}, labels[:3])
    assert counts.compiled == 0


def test_features_that_are_not_finite_give_a_row_of_nan_and_the_training_continues():
    features, labels, classifier, _ = samples(7)
    monitor = metrics.Monitor(CLASSES, names=SINGLE)
    diverged = features.copy()
    diverged[3, 1] = np.inf
    monitor.update(diverged, labels)
    assert all(np.isnan(value) for value in monitor.result(classifier).values())
    monitor.update(features, labels)
    assert np.isfinite(monitor.result(classifier)["zhu_nc1"])
    assert np.isnan(monitor.dataset["zhu_nc1"].values).tolist() == [True, False]


def test_measures_of_two_passes_are_recorded_beside_scalars_of_any_kind():
    features, labels, classifier, bias = samples(8)
    monitor = metrics.Monitor(CLASSES)
    values = metrics.measure(features, labels, classifier, bias)
    assert monitor.record(values, train_loss=jnp.float32(0.5)) is values
    monitor.record(values, test_accuracy=np.float64(1.0))
    data = monitor.dataset
    found = data["ji_within_class_variation"].values
    np.testing.assert_array_equal(found, 2 * [values["ji_within_class_variation"]])
    np.testing.assert_array_equal(data["train_loss"], [0.5, np.nan])
    np.testing.assert_array_equal(data["test_accuracy"], [np.nan, 1.0])
    equation = metrics.MEASURES["zhu_nc1"].equation
    assert data["zhu_nc1"].attrs == {"long_name": equation, "units": "1"}


def test_a_measure_of_the_user_is_among_the_names():
    size = metrics.Measure("mean_norm", "mean_c ‖M_c‖", lambda s: s.xp.mean(s.norms[0]))
    features, labels, *_ = samples(9)
    monitor = metrics.Monitor(CLASSES, names=[size])
    monitor.update(features, labels)
    means = np.stack([features[labels == c].mean(axis=0) for c in range(CLASSES)])
    expected = np.linalg.norm(means - means.mean(axis=0), axis=1).mean()
    np.testing.assert_allclose(monitor.result()["mean_norm"], expected, rtol=rounding())
    assert monitor.dataset["mean_norm"].attrs["long_name"] == "mean_c ‖M_c‖"


def test_the_store_is_the_data_set_after_each_row(tmp_path):
    path = tmp_path / "run.zarr"
    monitor = metrics.Monitor(CLASSES, path=path, class_names=["a", "b", "c"])
    for seed in range(3):
        features, labels, classifier, _ = samples(seed)
        monitor.update({"x": features, "y": 2 * features}, labels)
        monitor.result(classifier, epoch=5 * seed, train_loss=seed)
        assert storage.load(path).identical(monitor.dataset)
    stored = storage.load(path)
    assert stored["layer"].values.tolist() == ["x", "y"]
    assert stored["epoch"].values.tolist() == [0, 5, 10]


def test_a_monitor_with_the_path_of_another_one_adds_to_its_rows(tmp_path):
    names = ["cdnv", "cdnv_by_pair", "zhu_nc3"]
    whole = metrics.Monitor(CLASSES, names=names)
    for seed in range(3):
        features, labels, classifier, _ = samples(seed)
        # As in a new process for each epoch.
        for monitor in (whole, metrics.Monitor(CLASSES, names=names, path=tmp_path / "run.zarr")):
            monitor.update({"x": features, "y": features}, labels)
            monitor.result(classifier, train_loss=seed)
    stored = storage.load(tmp_path / "run.zarr")
    assert stored["train_loss"].values.tolist() == [0, 1, 2]
    assert stored.identical(whole.dataset)


def test_a_repeated_epoch_replaces_its_row_and_later_ones(tmp_path):
    monitor = metrics.Monitor(CLASSES, path=tmp_path / "run.zarr")
    for epoch, loss in ((1, 3.0), (2, 2.0), (3, 1.0), (2, 7.0)):
        monitor.record({"cdnv": loss}, epoch=epoch)
    assert storage.load(tmp_path / "run.zarr")["cdnv"].values.tolist() == [3.0, 7.0]


def test_other_names_or_classes_are_refused(tmp_path):
    path = tmp_path / "run.zarr"
    metrics.Monitor(CLASSES, names=["cdnv"], path=path).record({"cdnv": 1.0})
    before = files_of(path)
    for arguments, differing in (
        ({"names": ["zhu_nc1"]}, r"names = \['cdnv'\], not \['zhu_nc1'\]"),
        ({}, r"names = \['cdnv'\], not 'default'"),
        ({"names": ["cdnv"], "class_names": ["a", "b", "c"]}, r"class_names = \[0, 1, 2\]"),
    ):
        with pytest.raises(ValueError, match=differing):
            metrics.Monitor(CLASSES, path=path, **arguments)
    with pytest.raises(ValueError, match="num_classes = 3, not 4: give another path"):
        metrics.Monitor(4, names=["cdnv"], path=path)
    flow = storage.to_dataset(flow_of_two_times())
    storage.save(flow, tmp_path / "flow.zarr")
    with pytest.raises(ValueError, match="kind = None, not 'monitor'"):
        metrics.Monitor(CLASSES, path=tmp_path / "flow.zarr")
    (tmp_path / "notes").mkdir()
    with pytest.raises(FileExistsError, match="not a Zarr store"):
        metrics.Monitor(CLASSES, path=tmp_path / "notes")
    assert files_of(path) == before


def test_two_monitors_do_not_overwrite_each_other(tmp_path):
    first, second = (metrics.Monitor(CLASSES, path=tmp_path / "run.zarr") for _ in range(2))
    first.record({"cdnv": 1.0})
    with pytest.raises(RuntimeError, match=r"has 1 rows, not the 0 of this Monitor"):
        second.record({"cdnv": 2.0})
    assert second.dataset.sizes["epoch"] == 0
    assert storage.load(tmp_path / "run.zarr")["cdnv"].values.tolist() == [1.0]


def test_a_kill_loses_no_row_that_was_returned(tmp_path):
    path = tmp_path / "run.zarr"
    command = [sys.executable, str(Path(__file__).parent / "monitor_process.py"), str(path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(nc.__file__).parent.parent)}
    begun = 0
    for kills in range(2):
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            # After some rows, and during the write of the next.
            for _ in range(2 + kills):
                begun = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
        stored = storage.load(path)
        epochs = stored["epoch"].values.tolist()
        assert epochs == list(range(1, len(epochs) + 1))
        assert begun <= epochs[-1] <= begun + 2
        np.testing.assert_array_equal(stored["cdnv"], 1 / np.array(epochs))


def flow_of_two_times():
    problem = nc.ulpm(2, 2, 1)
    return nc.gradient_flow(
        problem, problem.init(jax.random.key(0)), np.array([0.0, 1.0]), observe=("margin_min",)
    )


def updated(features, labels, **arguments):
    monitor = metrics.Monitor(CLASSES, **arguments)
    monitor.update(features, labels)
    return monitor


X, Y, W, B = samples(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.Monitor(1), "num_classes = 1: give an integer >= 2"),
        (lambda: metrics.Monitor(3, names=["zhu_nc11"]), "'zhu_nc11' is none of .*zhu_nc1"),
        (lambda: metrics.Monitor(3, names="zhu_nc1"), "give a list of names"),
        (
            lambda: metrics.Monitor(3, names=["ji_within_class_variation"]),
            r"needs within, which one pass does not give.*monitor.record\(metrics.measure",
        ),
        (lambda: metrics.Monitor(3, class_names=["a"]), "1 names for 3 classes"),
        (
            lambda: updated(X, Y + 1),
            r"labels hold 3 in row \d+: give integers in 0..2, the classes; where they count from "
            "1, subtract 1.",
        ),
        (lambda: updated(X, Y[:-1]), "labels have 39 entries for 40 samples"),
        (lambda: updated(X[0], Y), r"features have shape \(4,\): give two axes, \(N, d\)"),
        (lambda: updated(X.reshape(40, 2, 2, 1), Y), r"means over the other axes"),
        (lambda: updated({}, Y), "features have no layer"),
        (lambda: updated({"a": X, "b": X[:3]}, Y), "40 in 'a', 3 in 'b': give as many samples"),
        (lambda: updated(X, Y).update(X[:, :3], Y), "3 columns, those before 4: give one width"),
        (
            lambda: updated({"a": X}, Y).update({"b": X}, Y),
            "'b', and those before a dict of the layers 'a'",
        ),
        (
            lambda: updated({"a": X, "b": X}, Y).update(X, Y),
            "features are one array, and those before a dict of the layers 'a', 'b': give the same",
        ),
        (lambda: updated(np.zeros((3, 20000)), Y[:3]), "20000 columns: .* 3 GiB; average over"),
        (lambda: metrics.Monitor(3).result(), r"no samples since .* call update\(features, labels"),
        (
            lambda: updated(X[Y < 2], Y[Y < 2]).result(),
            r"no samples of 2 among .* \(counts .*, 0\)",
        ),
        (
            lambda: updated(X[Y < 2], Y[Y < 2], class_names=["a", "b", "owl"]).result(),
            "no samples of 'owl' among class_names 'a', 'b', 'owl' .*: give samples of each",
        ),
        (lambda: updated(X, Y).result(W.T), r"give \(3, 4\), .*a kernel \(d, K\) is transposed"),
        (lambda: updated(X, Y).result(W[:2]), r"classifier has shape \(2, 4\): give \(3, 4\)"),
        (lambda: updated(X, Y).result(W, B[:2]), r"bias has shape \(2,\): give \(3,\)"),
        (lambda: updated(X, Y).result(None, B), "bias without a classifier"),
        (lambda: updated(X, Y, names=["zhu_nc4"]).result(), "zhu_nc4 needs a classifier"),
        (lambda: updated(X, Y, names=["mixon_snc1"]).result(W), "classes of one size"),
        (lambda: updated(X, Y).result(zhu_nc1=1.0), "zhu_nc1 = 1.0: is a name of the data set"),
        (lambda: updated(X, Y).result(layer=1.0), "layer = 1.0: is a name of the data set"),
        (lambda: updated(X, Y).result(loss=np.ones(2)), "loss = ndarray .*: give one number"),
        (lambda: updated(X, Y).result(epoch=-1), "epoch = -1: give an integer >= 0"),
        (
            lambda: jax.jit(lambda x: updated(x, Y).result())(X),
            "features are traced by jit.*return them from the compiled function",
        ),
    ],
)
def test_mistakes_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_refused_result_keeps_the_samples():
    monitor = updated(X, Y)
    with pytest.raises(ValueError, match="transposed"):
        monitor.result(W.T, B)
    expected = metrics.measure(X, Y, W, B, names=["zhu_nc3"])["zhu_nc3"]
    np.testing.assert_allclose(monitor.result(W, B)["zhu_nc3"], expected, rtol=rounding())


def test_a_refused_batch_fixes_neither_layers_nor_widths():
    monitor = metrics.Monitor(CLASSES, names=["cdnv"])
    with pytest.raises(ValueError, match="labels hold 3"):
        monitor.update({"a": X[:, :2]}, Y + 1)
    monitor.update(X, Y)
    assert_same(monitor.result(), metrics.measure(X, Y, names=["cdnv"]))


def test_rows_of_other_layers_or_shapes_are_refused():
    monitor = metrics.Monitor(CLASSES)
    monitor.record({"a": {"cdnv": 1.0}, "b": {"cdnv": 2.0}})
    with pytest.raises(ValueError, match="layers a: rows before have a, b"):
        monitor.record({"a": {"cdnv": 1.0}})
    with pytest.raises(ValueError, match=r"rows before have a, b"):
        monitor.record({"cdnv": 1.0})
    mixed = metrics.Monitor(CLASSES)
    mixed.record({"size": 1.0})
    with pytest.raises(ValueError, match=r"size has shape \(3,\): rows before have \(\)"):
        mixed.record({"size": np.ones(3)})
