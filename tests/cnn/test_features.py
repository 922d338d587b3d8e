"""The last layer of one network on many images, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from linear_network import DIM, NUM_CLASSES, SIDE, two_layers, two_layers_with_a_fixed_classifier
from tolerances import rounding

from nc_jax import cnn
from nc_jax.cnn import evaluation

# Two batches of 9 images, the second of them padded.
IMAGES = np.random.default_rng(0).normal(size=(14, SIDE, SIDE, 1))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(evaluation, "_BATCH", 9)


@pytest.mark.parametrize("make", [two_layers, two_layers_with_a_fixed_classifier])
def test_features_of_all_images_are_those_of_numpy(make):
    network = make(nnx.Rngs(0))
    layer = cnn.last_layer(network, IMAGES)
    expected = IMAGES.reshape(14, -1) @ np.array(network.kernel[...], float)
    atol = rounding("float32") * np.max(np.abs(expected))
    np.testing.assert_allclose(layer.features, expected, rtol=0, atol=atol)
    np.testing.assert_array_equal(layer.classifier, network.head.classifier[...])
    np.testing.assert_array_equal(layer.bias, network.head.bias[...])
    assert {leaf.dtype for leaf in jax.tree.leaves(layer)} == {np.dtype("float64")}


def test_features_are_computed_in_the_dtype_of_the_network():
    """Of float32 images of 1 + 2^-20, a network in bfloat16 reads 1."""
    network = cnn.ConvNet(1, 2, widths=(3,), dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    near, one = (cnn.last_layer(network, np.full((2, 4, 4, 1), x)) for x in (1 + 2**-20, 1.0))
    np.testing.assert_array_equal(near.features, one.features)


def test_without_x64_the_last_layer_is_in_float32():
    with jax.enable_x64(False):
        layer = cnn.last_layer(two_layers(nnx.Rngs(0)), IMAGES)
    assert layer.features.shape == (14, DIM)
    assert {leaf.dtype for leaf in jax.tree.leaves(layer)} == {np.dtype("float32")}


def test_running_statistics_are_used_and_stay():
    network = cnn.ConvNet(1, NUM_CLASSES, widths=(3,), rngs=nnx.Rngs(0))
    network.norms[0].mean[...] = jnp.arange(3, dtype=jnp.float32)
    before = cnn.to_torch(network)
    alone, together = cnn.last_layer(network, IMAGES[:1]), cnn.last_layer(network, IMAGES)
    atol = rounding("float32") * np.max(np.abs(together.features))
    np.testing.assert_allclose(alone.features[0], together.features[0], rtol=0, atol=atol)
    shifted = cnn.to_torch(network)
    for name, value in before.items():
        np.testing.assert_array_equal(shifted[name], value)


def test_no_images_are_refused():
    with pytest.raises(
        ValueError, match=r"images have shape \(0, 2, 2, 1\): give one or more, \(N"
    ):
        cnn.last_layer(two_layers(nnx.Rngs(0)), IMAGES[:0])
