"""Recorded measures against NumPy and mpmath, and how deep a collapse they resolve."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
from flax import nnx
from linear_network import DIM, NUM_CLASSES, SIDE, two_layers, two_layers_with_a_fixed_classifier
from tolerances import rounding

import nc_jax as nc
from nc_jax import cnn, metrics
from nc_jax.cnn import evaluation, training

NUM_SAMPLES = 14 * NUM_CLASSES
LABELS = np.random.default_rng(5).permutation(np.arange(NUM_SAMPLES, dtype=np.int32) % NUM_CLASSES)
UNEVEN = np.where(np.arange(NUM_SAMPLES) == 0, (LABELS[0] + 1) % NUM_CLASSES, LABELS)
UNEVEN = UNEVEN.astype(np.int32)
# Of features, from 0: ReLU makes them positive.
OFFSET = 3.0


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Of 9: the last has 6 samples and 3 of padding."""
    monkeypatch.setattr(evaluation, "_BATCH", 9)


def test_batches_hold_each_sample_once_in_order():
    rows, labels = evaluation.batches(jnp.asarray(LABELS))
    assert rows.shape == labels.shape == (5, 9)
    there = np.array(labels) >= 0
    np.testing.assert_array_equal(np.array(rows)[there], np.arange(NUM_SAMPLES))
    np.testing.assert_array_equal(np.array(labels)[there], LABELS)
    # Padding can be gathered.
    assert np.max(rows) < NUM_SAMPLES
    rows, labels = evaluation.batches(jnp.asarray(LABELS[:7]))
    assert rows.shape == (1, 7)


def collapsed(depth, dtype="float32", offset=0.0):
    """Features of a class together but for `depth` of their size, far from 0, and a head."""
    rng = np.random.default_rng(0)
    means, noise = rng.normal(size=(NUM_CLASSES, DIM)), rng.normal(size=(NUM_SAMPLES, DIM))
    features = (offset + means[LABELS] + depth * noise).astype(np.float32)
    classifier, bias = rng.normal(size=(NUM_CLASSES, DIM)), rng.normal(size=NUM_CLASSES)
    arrays = features, classifier.astype(np.float32), bias.astype(np.float32)
    return nc.LastLayer(*(jnp.asarray(array, dtype) for array in arrays))


def streamed(layer):
    """Metrics of a float32 layer by way of batches, in the widest float."""
    moments, sums = evaluation.statistics(layer, jnp.asarray(LABELS))
    classifier, bias = (x.astype(moments.means.dtype) for x in (layer.classifier, layer.bias))
    return metrics.collapse_from_statistics(moments, sums, classifier, bias=bias, balanced=True)


all_at_once = jax.jit(lambda layer: metrics.collapse_metrics(layer, LABELS))


def exact_within(layer):
    """`zhu_nc1` and `ji_within_class_variation` of these very features, in 50 digits."""
    with mpmath.workdps(50):
        h = mpmath.matrix(np.array(layer.features, np.float64).tolist())
        rows = [np.flatnonzero(c == LABELS) for c in range(NUM_CLASSES)]
        mean = [
            mpmath.matrix(
                [[mpmath.fsum(h[int(i), j] for i in mine) / len(mine) for j in range(DIM)]]
            )
            for mine in rows
        ]
        center = (mean[0] + mean[1] + mean[2]) / NUM_CLASSES
        m = mpmath.matrix([[*(mu - center)] for mu in mean])
        deviations = [h[i, :] - mean[int(LABELS[i])] for i in range(NUM_SAMPLES)]
        # Σ_B⁺ = K M⁺M⁺ᵀ, M⁺ = Mᵀ(MMᵀ)⁺, and (MMᵀ + 11ᵀ)⁻¹ = (MMᵀ)⁺ + 11ᵀ/K².
        ones = mpmath.ones(NUM_CLASSES)
        gram = mpmath.inverse(m * m.T + ones) - ones / NUM_CLASSES**2
        whitened = [gram * m * d.T for d in deviations]
        zhu = mpmath.fsum(x**2 for w in whitened for x in w) / NUM_SAMPLES
        within = mpmath.fsum(mpmath.norm(d) for d in deviations)
        around = mpmath.fsum(mpmath.norm(h[i, :] - center) for i in range(NUM_SAMPLES))
        return {"zhu_nc1": float(zhu), "ji_within_class_variation": float(within / around)}


def test_metrics_of_deep_collapse_are_those_of_all_features_at_once():
    """Features in float32, a millionth of their size apart: float64 statistics keep ten digits."""
    depth = 1e-6
    layer = collapsed(depth)
    found = jax.jit(streamed)(layer)
    wide = collapsed(depth, "float64")
    whole = all_at_once(wide)
    assert found.keys() == whole.keys()
    # Deviations are rounded as the features are, whose size is 1/depth of them.
    tolerance = rounding(operations=int(100 / depth))
    for name, value in whole.items():
        assert found[name].dtype == np.float64
        np.testing.assert_allclose(found[name], value, rtol=tolerance, err_msg=name)
    for name, value in exact_within(layer).items():
        np.testing.assert_allclose(found[name], value, rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_statistics_of_half_precision_features_are_computed_in_float64(dtype):
    layer = collapsed(0.1, dtype, OFFSET)
    found = jax.jit(streamed)(layer)
    for name, value in exact_within(layer).items():
        assert found[name].dtype == np.float64
        np.testing.assert_allclose(found[name], value, rtol=rounding(), err_msg=name)


def test_without_float64_metrics_are_accurate_to_the_rounding_of_class_means():
    """A class mean is a float32 number, half an ulp from the true one; its sum would be further.

    Relative to the spread, that is what may be wrong with a distance from it.
    """
    ulp = np.spacing(np.float32(OFFSET))
    with jax.enable_x64(False):
        run = jax.jit(streamed)
        for depth in (1e-3, 1e-5, 1e-6):
            layer = collapsed(depth, offset=OFFSET)
            found = run(layer)
            tolerance = rounding("float32") + ulp / 2 / depth
            for name, value in exact_within(layer).items():
                assert found[name].dtype == np.float32
                error = f"{name} at {depth}"
                np.testing.assert_allclose(found[name], value, rtol=tolerance, err_msg=error)


def begin(make, num_samples=NUM_SAMPLES):
    graph = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    optimizer = optax.with_extra_args_support(optax.sgd(0.1))
    settings = training.TrainingSettings(
        graph, optimizer, nc.CrossEntropy(), 0.1, None, None, num_samples
    )
    start = jax.jit(lambda key: training.start(make, optimizer, key))
    return settings, start(jax.random.key(0))


def samples(labels, seed, side=2, channels=1):
    images = np.random.default_rng(seed).normal(size=(len(labels), side, side, channels))
    return training.Samples(jnp.asarray(images, jnp.float32), jnp.asarray(labels))


def by_hand(theta, data):
    """Logits, and mean cross-entropy, accuracy and margins of them."""
    kernel, classifier, bias = theta
    images, labels = np.array(data.images, np.float64), np.array(data.labels)
    z = images.reshape(len(labels), -1) @ kernel @ classifier.T + bias
    true = z[np.arange(len(labels)), labels]
    others = np.where(np.eye(NUM_CLASSES, dtype=bool)[labels], -np.inf, z)
    loss = np.mean(np.log(np.sum(np.exp(z - true[:, None]), axis=1)))
    return loss, np.mean(np.argmax(z, axis=1) == labels), true - others.max(axis=1)


def assert_measured(measured, data, test, kernel, classifier, bias):
    """Losses, accuracies, margins and the product of norms; gives their names."""
    theta = [np.array(x, np.float64) for x in (kernel, classifier, bias)]
    loss, accuracy, margins = by_hand(theta, data)
    expected = {
        "train_loss": loss, "train_accuracy": accuracy, "margins": margins,
        "margin_min": margins.min(), "margin_mean": margins.mean(),
        # Of kernel and classifier, fixed or not; a bias is no matrix.
        "norm_product": np.linalg.norm(theta[0]) * np.linalg.norm(theta[1]),
    }  # fmt: skip
    if test is not None:
        expected["test_loss"], expected["test_accuracy"], _ = by_hand(theta, test)
    # A guess would pass were all samples right, or all wrong.
    assert 0 < accuracy < 1
    for name, value in expected.items():
        atol = rounding("float32") * np.max(np.abs(value))
        np.testing.assert_allclose(measured[name], value, rtol=0, atol=atol, err_msg=name)
    return expected.keys()


def test_all_measures_are_those_of_numpy():
    settings, state = begin(two_layers)
    data, test = samples(LABELS, 1), samples(LABELS[:20], 2)
    measured, loss = jax.jit(lambda s: evaluation.record(settings, s, data, test, True))(state)
    assert loss == measured["train_loss"]
    theta = state.params["kernel"], *(state.params["head"][x] for x in ("classifier", "bias"))
    names = assert_measured(measured, data, test, *theta)
    features = np.array(data.images, np.float64).reshape(-1, SIDE**2) @ np.array(theta[0], float)
    head = (jnp.asarray(x, jnp.float64) for x in theta[1:])
    whole = all_at_once(nc.LastLayer(jnp.asarray(features), *head))
    assert measured.keys() == whole.keys() | names
    for name, value in whole.items():
        atol = rounding("float32", 1000) * max(1, abs(value))
        np.testing.assert_allclose(measured[name], value, rtol=0, atol=atol, err_msg=name)


def test_a_fixed_classifier_and_classes_of_two_sizes_are_measured(monkeypatch):
    settings, state = begin(two_layers_with_a_fixed_classifier)
    data = samples(UNEVEN, 1)
    names, _ = jax.eval_shape(lambda s: evaluation.record(settings, s, data, None, False), state)
    assert "zhu_nc1" in names
    assert "mixon_snc1" not in names
    monkeypatch.setattr(evaluation, "collapse_from_statistics", lambda *_, **__: {})
    measured, _ = jax.jit(lambda s: evaluation.record(settings, s, data, None, False))(state)
    theta = state.params["kernel"], state.rest["head"]["classifier"], state.params["head"]["bias"]
    # Without test images there are no measures of them.
    assert measured.keys() == assert_measured(measured, data, None, *theta)


def test_features_are_read_under_running_statistics():
    """So that those of a sample do not depend on its neighbours, nor on how batches are cut."""
    settings, state = begin(_convnet)
    [norm] = jax.tree.leaves(state.rest["norms"], is_leaf=lambda x: "mean" in x)
    norm["mean"], norm["var"] = jnp.arange(4, dtype=jnp.float32), 1 + jnp.arange(4.0).astype("f")
    images = np.random.default_rng(3).normal(size=(NUM_SAMPLES, 4, 4, 1)).astype(np.float32)
    last_layer = jax.jit(functools.partial(evaluation.last_layer, settings))

    def features_of(images):
        data = training.Samples(jnp.asarray(images), jnp.asarray(LABELS))
        return np.array(last_layer(state, data).features)

    features = features_of(images)
    assert features.shape == (NUM_SAMPLES, 4)
    assert np.all(features.std(axis=0) > 0)
    atol = rounding("float32") * np.max(np.abs(features))
    np.testing.assert_allclose(features_of(images[::-1])[::-1], features, atol=atol)
    others = np.concatenate([images[:1], 3 * images[1:]])
    np.testing.assert_array_equal(features_of(others)[0], features[0])
    # By the running mean and variance of the one normalisation there is.
    [layer] = jax.tree.leaves(state.params["convolutions"])
    padded, kernel = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))), np.array(layer)
    raw = sum(
        padded[:, i : i + 3 : 2, j : j + 3 : 2] @ kernel[i, j] for i in range(3) for j in range(3)
    )
    expected = (np.maximum(raw, 0) - norm["mean"]) / np.sqrt(norm["var"] + 1e-5)
    np.testing.assert_allclose(features, expected.mean((1, 2)), atol=atol)


def _convnet(rngs):
    return cnn.ConvNet(1, NUM_CLASSES, widths=(4,), rngs=rngs)
