"""Networks with the weights of their twins in PyTorch, where PyTorch is installed."""

import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tolerances import rounding

import nc_jax as nc
from nc_jax import cnn
from nc_jax.cnn import networks

torch = pytest.importorskip("torch")
torch_networks = importlib.import_module("peers.torch_networks")
functional = torch.nn.functional


def filled(tree, seed, dtype):
    """Random numbers: scales and variances about 1, matrices as He starts them."""
    rng = np.random.default_rng(seed)

    def numbers(path, leaf):
        name = re.findall(r"\w+", jax.tree_util.keystr(path))[-1]
        if name in ("scale", "var"):
            drawn = rng.uniform(0.5, 1.5, leaf.shape)
        elif name in ("bias", "mean"):
            drawn = rng.normal(0, 0.2, leaf.shape)
        else:
            inputs = leaf.shape[1] if name == "classifier" else np.prod(leaf.shape[:-1])
            drawn = rng.normal(0, (2 / inputs) ** 0.5, leaf.shape)
        return jnp.asarray(drawn, dtype)

    return jax.tree_util.tree_map_with_path(numbers, tree)


def theirs(twin, variables, images, labels, train):
    """Logits, gradients, buffers after the pass, and numbers under each statistic."""
    torch_networks.load(twin, variables)
    counts = {}

    def counted(name):
        def hook(module, inputs):
            counts[name] = inputs[0].numel() // inputs[0].shape[1]

        return hook

    for name, module in twin.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(counted(name))
    twin.train(train)
    twin.zero_grad()
    logits = twin(torch.tensor(images.transpose(0, 3, 1, 2)))
    functional.cross_entropy(logits, torch.tensor(labels, dtype=torch.long)).backward()
    gradients = {name: p.grad.numpy() for name, p in twin.named_parameters()}
    buffers = {name: b.numpy() for name, b in twin.named_buffers() if "num_batches" not in name}
    return logits.detach().numpy(), gradients, buffers, counts


def assert_alike(make, twin, side, batch=8, modes=(True, False), gradients=True, dtype="float32"):
    """Logits, running statistics and gradients, in train mode (True) and in eval mode.

    To the bars of float32 in either dtype: in float32 the rounding of both sides (2e-5 in PyTorch's
    batch norm with channels last) and ReLUs at their kinks decide on deep nets.
    """
    twin = twin.to(getattr(torch, dtype))
    network = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    graph, params, rest = nnx.split(network, nnx.Param, ...)
    params = filled(nnx.to_pure_dict(params), 1, dtype)
    rest = filled(nnx.to_pure_dict(rest), 2, dtype)
    rng = np.random.default_rng(3)
    images = rng.normal(size=(batch, side, side, 3)).astype(dtype)
    labels = np.arange(batch, dtype=np.int32) % twin.linear().out_features

    def of(params, train):
        network = nnx.merge(graph, params, rest)
        logits = network(jnp.asarray(images), train=train).logits()
        moved = nnx.to_pure_dict(nnx.state(network, nnx.Not(nnx.Param)))
        return jnp.mean(nc.CrossEntropy().value(logits, labels)), (logits, moved)

    def named(params, rest):
        return cnn.to_torch(nnx.merge(graph, params, rest))

    run = jax.jit(jax.value_and_grad(of, has_aux=True) if gradients else of, static_argnums=1)
    before = named(params, rest)
    for train in modes:
        expected, their_gradients, buffers, counts = theirs(twin, before, images, labels, train)
        found = run(params, train)
        (_, (logits, moved)), gradient = found if gradients else (found, None)
        scale = np.max(np.abs(expected))
        np.testing.assert_allclose(logits, expected, rtol=0, atol=rounding("float32") * scale)
        assert_statistics_alike(before, named(params, moved), buffers, counts, train)
        if gradients:
            # A gradient has the structure of the parameters.
            assert_gradients_alike(named(gradient, rest), their_gradients)


def assert_gradients_alike(mine, theirs):
    largest = max(np.max(np.abs(value)) for value in theirs.values())
    for name, value in theirs.items():
        # Where a gradient all but vanishes, rounding is that of the others.
        scale = max(np.max(np.abs(value)), 1e-3 * largest)
        atol = rounding("float32", 1000) * scale
        np.testing.assert_allclose(mine[name], value, rtol=0, atol=atol, err_msg=name)


def assert_statistics_alike(before, mine, buffers, counts, train):
    """Means as theirs; variances move by (n−1)/n of theirs, which are unbiased."""
    for name, value in buffers.items():
        module, kind = name.rsplit(".", 1)
        if not train:
            np.testing.assert_array_equal(mine[name], before[name])
            continue
        share = 1 if kind == "running_mean" else (counts[module] - 1) / counts[module]
        expected = 0.9 * before[name] + share * (value - 0.9 * before[name])
        # A mean of maps of both signs is rounded as the maps are, which have spread 1 or so.
        atol = rounding("float32", 1000) * np.max(np.abs(value))
        np.testing.assert_allclose(mine[name], expected, rtol=0, atol=atol, err_msg=name)


# By the size of the kernel.
STEMS = {7: cnn.ImageNetStem(), 3: cnn.CIFARStem()}


def resnet(depth, stem, width=0.125, feature_dim=None, classes=4, counts=None, dtype="float32"):
    def make(rngs):
        return cnn.ResNet(
            3,
            classes,
            depth=depth,
            stem=STEMS[stem],
            width=width,
            feature_dim=feature_dim,
            dtype=jnp.dtype(dtype),
            rngs=rngs,
        )

    if counts is None:
        counts = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]
    widths = [round(w * width) for w in (64, 128, 256, 512)]
    twin = torch_networks.ResNet(
        3, classes, depth=depth, stem=stem, widths=widths, counts=counts,
        feature_dim=feature_dim,
    )  # fmt: skip
    return make, twin


def vgg():
    widths = (4, 8, 16, 32, 32)
    return lambda rngs: cnn.VGG(3, 4, width=1 / 16, rngs=rngs), torch_networks.VGG(3, 4, widths)


def test_convnet():
    widths = (4, 6, 8)
    assert_alike(
        lambda rngs: cnn.ConvNet(3, 4, widths=widths, rngs=rngs),
        torch_networks.ConvNet(3, 4, widths),
        9,
    )


# Compilation takes a minute for all of a network's gradient: by default that of short ones, and the
# logits of long ones.
@pytest.mark.parametrize(("depth", "stem"), [(18, 7), (50, 3)])
def test_short_resnet(monkeypatch, depth, stem):
    """A block at the resolution of the one before, and one at half of it."""
    counts = (1, 1)
    monkeypatch.setitem(networks._BLOCKS, depth, (networks._BLOCKS[depth][0], counts))
    assert_alike(*resnet(depth, stem, feature_dim=5, counts=counts), 16, modes=(True,))


def test_logits_of_resnet18():
    assert_alike(*resnet(18, 3, feature_dim=5), 16, modes=(False,), gradients=False)


def test_logits_of_vgg():
    # Odd maps are pooled with their border.
    assert_alike(*vgg(), 9, modes=(False,), gradients=False)


@pytest.mark.slow
@pytest.mark.parametrize("stem", [3, 7])
@pytest.mark.parametrize("depth", [18, 50])
def test_resnet(depth, stem):
    dtype = "float32" if depth == 18 else "float64"
    assert_alike(*resnet(depth, stem, dtype=dtype), 16, dtype=dtype)


@pytest.mark.slow
def test_vgg():
    assert_alike(*vgg(), 9)


@pytest.mark.slow
def test_resnet18_of_full_width():
    assert_alike(*resnet(18, 3, 1.0, classes=10), 32, gradients=False)
    assert_alike(*resnet(18, 3, 1.0, classes=10, dtype="float64"), 32, dtype="float64")
