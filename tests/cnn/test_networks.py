"""Sizes, starts and dtypes of the networks; `test_torch_networks` has what they compute."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tolerances import rounding

from nc_jax import cnn
from nc_jax.cnn.layers import Conv, Head, norm

SMALL = 0.125


def abstract(make):
    """A network without its numbers."""
    return nnx.eval_shape(lambda: make(nnx.Rngs(0)))


def started(make, seed=0):
    """A network, built by one program."""
    graph = nnx.graphdef(abstract(make))
    return nnx.merge(
        graph, jax.jit(lambda key: nnx.state(make(nnx.Rngs(key))))(jax.random.key(seed))
    )


def num_parameters(make):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(abstract(make), nnx.Param)))


def resnet(**options):
    return lambda rngs: cnn.ResNet(3, 10, **options, rngs=rngs)


@pytest.mark.parametrize(
    ("depth", "usual", "fixed_dim", "percent"),
    [(18, 11_181_642, 8_867_542, 20.70), (50, 23_528_522, 22_481_110, 4.45)],
)
def test_resnets_have_the_parameters_of_zhu_section_4_3(depth, usual, fixed_dim, percent):
    assert num_parameters(resnet(depth=depth)) == usual
    found = num_parameters(resnet(depth=depth, feature_dim=10))
    assert found == fixed_dim
    assert round(100 * (1 - found / usual), 2) == percent


def test_a_fixed_classifier_is_no_parameter():
    assert num_parameters(resnet(feature_dim=10, etf=True)) == 8_867_542 - 10 * 10


def test_vgg_and_convnet_have_the_parameters_of_their_formulas():
    widths = (3, *(w for w in (64, 128, 256, 512, 512) for _ in range(2)))
    kernels = sum(9 * a * b for a, b in itertools.pairwise(widths))
    normalisation, head = 2 * sum(widths[1:]), 512 * 10 + 10
    assert num_parameters(lambda rngs: cnn.VGG(3, 10, rngs=rngs)) == kernels + normalisation + head
    found = num_parameters(lambda rngs: cnn.ConvNet(1, 10, widths=(5, 6, 7), bias=False, rngs=rngs))
    assert found == 9 * (1 * 5 + 5 * 6 + 6 * 7) + 7 * 10


def features_of_size(network):
    """Shapes of the features of two images, by their sides."""
    graph, state = nnx.split(network)

    def features(state, images):
        return nnx.merge(graph, state)(images, train=False).features

    def of(height, width):
        images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
        return jax.eval_shape(features, state, images).shape

    return of


# A power of two, one less and one more, and the sides of the published sets.
SOME, ALL = (4, 5, 7, 8, 9, 28, 31, 32, 33), tuple(range(4, 34))


@pytest.mark.parametrize(
    ("make", "dim", "sides"),
    [
        (lambda rngs: cnn.ConvNet(3, 10, rngs=rngs), 128, SOME),
        (lambda rngs: cnn.VGG(3, 10, rngs=rngs), 512, SOME),
        (resnet(), 512, SOME),
        (resnet(stem=cnn.CIFARStem()), 512, (4, 7)),
        (resnet(depth=50), 2048, (4, 7)),
        pytest.param(lambda rngs: cnn.ConvNet(3, 10, rngs=rngs), 128, ALL, marks=pytest.mark.slow),
        pytest.param(lambda rngs: cnn.VGG(3, 10, rngs=rngs), 512, ALL, marks=pytest.mark.slow),
        pytest.param(resnet(), 512, ALL, marks=pytest.mark.slow),
        pytest.param(resnet(stem=cnn.CIFARStem()), 512, ALL, marks=pytest.mark.slow),
        pytest.param(resnet(depth=50), 2048, ALL, marks=pytest.mark.slow),
    ],
    ids=[
        "convnet", "vgg", "resnet18", "resnet18-3x3", "resnet50",
        "convnet-all", "vgg-all", "resnet18-all", "resnet18-3x3-all", "resnet50-all",
    ],
)  # fmt: skip
def test_images_of_every_size_have_features(make, dim, sides):
    of = features_of_size(abstract(make))
    for side in sides:
        assert of(side, side) == (2, dim), side
    assert of(5, 9) == (2, dim)


def test_every_weight_matrix_starts_at_the_norm_asked_for():
    network = started(lambda rngs: cnn.ConvNet(3, 5, widths=(4, 16), weight_norm=0.3, rngs=rngs))
    matrices = [layer.kernel[...] for layer in network.convolutions]
    matrices.append(network.head.classifier[...])
    for matrix in matrices:
        np.testing.assert_allclose(np.linalg.norm(matrix), 0.3, rtol=rounding("float32"))
    # Normalisation has no parameters: kernels, the classifier and its bias are all.
    assert len(jax.tree.leaves(nnx.state(network, nnx.Param))) == 2 + 2
    # Directions are independent and Gaussian: the kurtosis of uniform entries would be 1.8.
    entries = np.array(matrices[1]).ravel() / np.std(matrices[1])
    assert abs(np.mean(entries**4) - 3) < 5 * math.sqrt(96 / entries.size)
    assert abs(np.mean(entries)) < 5 / math.sqrt(entries.size)


def test_convolutions_start_as_torchvision_and_the_head_as_pytorch():
    conv, head = started(
        lambda rngs: nnx.List([Conv(16, 32, 3, rngs=rngs), Head(64, 50, rngs=rngs)])
    )
    kernel = np.array(conv.kernel[...])
    # Five standard errors; by inputs in place of outputs it would be off by √2.
    expected = math.sqrt(2 / (9 * 32))
    assert abs(np.std(kernel) / expected - 1) < 5 / math.sqrt(2 * kernel.size)
    for matrix in (head.classifier[...], head.bias[...]):
        assert np.max(np.abs(matrix)) <= 1 / 8
        # Uniform: the largest of n is within 10/n of the bound but for e^-10.
        assert np.max(np.abs(matrix)) > (1 - 10 / matrix.size) / 8
        assert abs(np.mean(matrix)) < 5 / (8 * math.sqrt(3 * matrix.size))


def test_networks_of_different_keys_have_different_parameters():
    def leaves(key):
        return jax.tree.leaves(nnx.to_pure_dict(nnx.state(Head(4, 3, rngs=nnx.Rngs(key)))))

    started = jax.jit(leaves)
    one, same, other = (started(jax.random.key(seed)) for seed in (0, 0, 1))
    for a, b, c in zip(one, same, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.any(a == c)


def test_running_statistics_move_a_tenth_of_the_way_to_those_of_the_batch():
    graph, state = nnx.split(abstract(lambda rngs: norm(3, jnp.float32, rngs)))
    rng = np.random.default_rng(0)
    mean, var = rng.normal(size=3), rng.uniform(0.5, 2, size=3)
    maps = rng.normal(2, 3, size=(4, 2, 5, 3)).astype(np.float32)
    variables = {"mean": mean, "var": var, "scale": np.ones(3), "bias": np.zeros(3)}
    nnx.replace_by_pure_dict(
        state, {name: jnp.asarray(value, jnp.float32) for name, value in variables.items()}
    )

    @jax.jit
    def run(state):
        layer = nnx.merge(graph, state)
        normalised = layer(jnp.asarray(maps), use_running_average=False)
        return normalised, layer.mean[...], layer.var[...]

    normalised, new_mean, new_var = run(state)
    axes, tolerance = (0, 1, 2), rounding("float32")
    batch_mean, batch_var = maps.mean(axes, np.float64), maps.var(axes, np.float64)
    np.testing.assert_allclose(new_mean, 0.9 * mean + 0.1 * batch_mean, rtol=tolerance)
    # The variance is ÷n; with n = 40 the unbiased one would be 2.5 % larger.
    np.testing.assert_allclose(new_var, 0.9 * var + 0.1 * batch_var, rtol=tolerance)
    expected = (maps - batch_mean) / np.sqrt(batch_var + 1e-5)
    np.testing.assert_allclose(normalised, expected, atol=tolerance)


def test_bfloat16_is_the_dtype_of_the_body_only():
    images = jnp.asarray(np.random.default_rng(1).normal(size=(3, 8, 8, 2)), jnp.float32)

    @jax.jit
    def run(key):
        """Last layer and variables, before and after a pass, in either dtype."""
        networks = [
            cnn.ConvNet(2, 3, widths=(8,), dtype=dtype, rngs=nnx.Rngs(key))
            for dtype in (jnp.bfloat16, jnp.float32)
        ]
        before = [nnx.to_pure_dict(nnx.state(network)) for network in networks]
        layers = [network(images, train=True) for network in networks]
        after = [nnx.to_pure_dict(nnx.state(network)) for network in networks]
        return layers, before, after

    (layer, whole), before, after = run(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves((before, after))} == {np.dtype(np.float32)}
    assert layer.features.dtype == layer.logits().dtype == np.float32
    # Eight bits: close, but not what float32 gives.
    for mine, expected in (
        (layer.features, whole.features),
        (after[0]["norms"][0]["mean"], after[1]["norms"][0]["mean"]),
    ):
        error = np.max(np.abs(mine - expected)) / np.max(np.abs(expected))
        assert 2**-14 < error < 2**-4


def test_a_mean_is_taken_in_float32():
    """Of 4096 bfloat16 numbers near 1: summed in bfloat16 the sum would stop at 256."""

    class Flat(cnn.Network):
        def features(self, images, train):
            return images

    network = started(lambda rngs: Flat(jnp.bfloat16, Head(1, 2, rngs=rngs)))
    images = jnp.full((1, 64, 64, 1), 1 + 2**-7, jnp.float32)
    graph, state = nnx.split(network)
    features = jax.jit(lambda state: nnx.merge(graph, state)(images, train=False).features)(state)
    np.testing.assert_array_equal(features, 1 + 2**-7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (resnet(depth=34), r"depth = 34: give one of \[18, 50\]"),
        (resnet(width=0), "width = 0: give a finite number > 0"),
        (resnet(feature_dim=0), "feature_dim = 0: give an integer >= 1"),
        (
            lambda rngs: cnn.ConvNet(3, 10, widths=(8,), etf=True, rngs=rngs),
            "feature_dim = 8: a simplex ETF of 10 classes needs",
        ),
        (lambda rngs: cnn.ConvNet(1, 3, widths=(), rngs=rngs), r"widths = \(\): give one or more"),
        (
            lambda rngs: cnn.ConvNet(1, 3, widths=(2, 0), rngs=rngs),
            r"widths\[1\] = 0: give an integer",
        ),
        (lambda rngs: cnn.ConvNet(0, 3, rngs=rngs), "channels = 0: give an integer >= 1"),
        (lambda rngs: cnn.ConvNet(1, 0, rngs=rngs), "num_classes = 0: give an integer >= 1"),
        (lambda rngs: cnn.ConvNet(1, 3, weight_norm=0.0, rngs=rngs), "weight_norm = 0"),
        (lambda rngs: cnn.VGG(1, 3, width=-1.0, rngs=rngs), "width = -1.0: give a finite"),
        (lambda rngs: cnn.VGG(1, 3, feature_dim=0, rngs=rngs), "feature_dim = 0: give an integer"),
    ],
)
def test_invalid_network_arguments_are_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        abstract(make)
    assert "\n" not in str(error.value)
