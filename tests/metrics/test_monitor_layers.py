"""`measure_layers` in two passes over a loader, against `measure` of the features of each layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from tolerances import rounding

from nc_jax import metrics

SEEDS = st.integers(0, 2**32 - 1)
CLASSES = 3


def network(seed: int):
    """Weights of two layers, the classifier and its bias."""
    rng = np.random.default_rng(seed)
    shapes = (5, 8), (8, 4), (CLASSES, 4), (CLASSES,)
    return [rng.normal(size=shape) for shape in shapes]


def batches_of(seed: int, sizes):
    rng = np.random.default_rng(seed)
    # Every class occurs in the first batch.
    labels = np.concatenate([np.arange(CLASSES), rng.integers(0, CLASSES, sum(sizes) - CLASSES)])
    inputs = rng.normal(size=(len(labels), 5)) + labels[:, None]
    cuts = np.cumsum(sizes)[:-1]
    return list(zip(np.split(inputs, cuts), np.split(labels, cuts), strict=True))


BATCHES = batches_of(0, [12, 6])


@given(seed=SEEDS, sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_every_layer_has_the_measures_of_all_its_features(seed, sizes):
    first, second, classifier, bias = network(seed)
    sizes = [CLASSES, *sizes]
    batches = batches_of(seed, sizes)

    def to_features(inputs):
        hidden = np.maximum(inputs @ first, 0)
        return {"hidden": hidden, "last": hidden @ second}

    names = ["zhu_nc1", "ncc_accuracy", "ji_within_class_variation"]
    heads = ["papyan_ncc_mismatch", "cross_entropy"]
    found = metrics.measure_layers(
        batches, to_features, classifier, bias, num_classes=CLASSES, names=names + heads
    )
    inputs, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
    layers = to_features(inputs)
    expected = {
        "hidden": metrics.measure(layers["hidden"], labels, names=names),
        "last": metrics.measure(layers["last"], labels, classifier, bias, names=names + heads),
    }
    assert list(found) == ["hidden", "last"]
    for layer, values in expected.items():
        assert found[layer].keys() == values.keys()
        np.testing.assert_array_equal(found[layer].counts, values.counts)
        for name, value in values.items():
            tolerance = rounding(operations=10**4)
            np.testing.assert_allclose(found[layer][name], value, rtol=tolerance, err_msg=name)


def test_the_nearest_class_mean_is_that_of_numpy():
    first, second, *_ = network(0)
    batches = batches_of(0, [30, 17, 30])
    found = metrics.measure_layers(
        batches, lambda x: {"a": x @ first, "b": x @ first @ second}, num_classes=CLASSES
    )
    inputs, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
    for layer, features in {"a": inputs @ first, "b": inputs @ first @ second}.items():
        means = np.stack([features[labels == c].mean(axis=0) for c in range(CLASSES)])
        distances = np.linalg.norm(features[:, None] - means[None], axis=2)
        assert found[layer]["ncc_accuracy"] == np.mean(distances.argmin(axis=1) == labels)


def test_one_layer_without_a_name_has_the_measures_of_measure():
    first, *_ = network(1)
    batches = batches_of(1, [8, 8])
    found = metrics.measure_layers(batches, lambda x: jnp.asarray(x @ first), num_classes=CLASSES)
    inputs, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
    expected = metrics.measure(inputs @ first, labels)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(found["cdnv"], expected["cdnv"], rtol=rounding())


def test_a_hidden_layer_has_no_measure_of_logits():
    share = metrics.Measure("share", "", lambda s: s.total("correct") / s.count, ("correct",))
    found = metrics.measure_layers(
        BATCHES, lambda x: {"a": x, "b": x}, np.eye(CLASSES, 5), num_classes=CLASSES, names=[share]
    )
    assert {layer: list(values) for layer, values in found.items()} == {"a": [], "b": ["share"]}


def test_a_layer_that_is_not_finite_has_numbers_that_are_nan():
    def to_features(inputs):
        return {"a": np.log(np.minimum(inputs, 0)), "b": inputs}

    with np.errstate(all="ignore"):
        found = metrics.measure_layers(
            BATCHES, to_features, num_classes=CLASSES, names=["papyan_nc1", "cdnv"]
        )
    expected = metrics.measure(BATCHES, names=list(found["b"]))
    assert np.isnan(list(found["a"].values())).all()
    for name, value in expected.items():
        np.testing.assert_allclose(found["b"][name], value, rtol=rounding(operations=10**4))


def test_its_result_is_a_row_of_a_monitor():
    batches, monitor = batches_of(2, [20]), metrics.Monitor(CLASSES)
    found = metrics.measure_layers(
        batches, lambda x: {"x": x, "y": x[:, :3]}, num_classes=CLASSES, names=["ncc_accuracy"]
    )
    monitor.record(found, epoch=3)
    data = monitor.dataset["ncc_accuracy"]
    assert data.sel(layer="y", epoch=3).item() == found["y"]["ncc_accuracy"]


class Changing:
    """A loader that gives other samples in every pass."""

    def __init__(self):
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        return iter(batches_of(0, [20])[: self.passes] + batches_of(0, [4])[: self.passes - 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run(iter(BATCHES), lambda x: x), "give pairs .* that can be read twice"),
        (lambda run: run([], lambda x: x), "batches are empty"),
        (lambda run: run(BATCHES, abs, class_names=["a", "b"]), "2 names for 3 classes"),
        (lambda run: run(BATCHES, lambda x: x[:, 0]), r"features have shape \(12,\): give two"),
        (lambda run: run(Changing(), lambda x: x), r"second pass has .* that are the same each"),
        (lambda run: run(BATCHES, lambda x: x, np.ones((5, 3))), r"kernel \(d, K\) is transposed"),
        (lambda run: run(BATCHES, jax.jit(lambda x: {"a": x}), names=["zhu_nc3"]), "a classifier"),
        (lambda run: run([(x[y > 0], y[y > 0]) for x, y in BATCHES], abs), "no samples of 0 among"),
    ],
)
def test_mistakes_are_refused_in_one_line(call, message):
    def run(*arguments, **options):
        return metrics.measure_layers(*arguments, num_classes=CLASSES, **options)

    with pytest.raises(ValueError, match=message) as error:
        call(run)
    assert "\n" not in str(error.value)
