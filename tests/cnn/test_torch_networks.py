"""Networks with the weights of their twins in PyTorch, where PyTorch is installed."""

import itertools
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
functional = torch.nn.functional
# Names of our variables in PyTorch's.
NAMES = {
    "kernel": "weight", "scale": "weight", "classifier": "weight",
    "mean": "running_mean", "var": "running_var",
}  # fmt: skip


def conv(inputs, outputs, size, stride=1):
    return torch.nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


def batch_norm(channels, affine=True):
    return torch.nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1, affine=affine)


def modules(items):
    return torch.nn.ModuleList(items)


class Twin(torch.nn.Module):
    def forward(self, images):
        return self.head(self.features(images).mean((2, 3)))


class ConvNet(Twin):
    def __init__(self, channels, classes, widths):
        super().__init__()
        inputs = (channels, *widths[:-1])
        self.convolutions = modules(conv(a, b, 3, 2) for a, b in zip(inputs, widths, strict=True))
        self.norms = modules(batch_norm(b, affine=False) for b in widths)
        self.head = torch.nn.Linear(widths[-1], classes)

    def features(self, x):
        for layer, normalise in zip(self.convolutions, self.norms, strict=True):
            x = normalise(layer(x).relu())
        return x


class VGG(Twin):
    def __init__(self, channels, classes, widths):
        super().__init__()
        widths = [channels, *(w for w in widths for _ in range(2))]
        self.convolutions = modules(conv(a, b, 3) for a, b in itertools.pairwise(widths))
        self.norms = modules(batch_norm(b) for b in widths[1:])
        self.head = torch.nn.Linear(widths[-1], classes)

    def features(self, x):
        layers = list(zip(self.convolutions, self.norms, strict=True))
        for first, second in zip(layers[::2], layers[1::2], strict=True):
            for layer, normalise in (first, second):
                x = normalise(layer(x)).relu()
            x = functional.max_pool2d(x, 2, ceil_mode=True)
        return x


class Block(torch.nn.Module):
    def __init__(self, layers, norms, skip):
        super().__init__()
        self.layers, self.norms, self.skip = modules(layers), modules(norms), skip

    def forward(self, x):
        y = x
        for i, (layer, normalise) in enumerate(zip(self.layers, self.norms, strict=True)):
            y = normalise(layer(y if i == 0 else y.relu()))
        return (y + (x if self.skip is None else self.skip(x))).relu()


def block(inputs, width, outputs, stride, bottleneck):
    skip = None
    if stride != 1 or inputs != outputs:
        skip = torch.nn.Sequential(conv(inputs, outputs, 1, stride), batch_norm(outputs))
    if bottleneck:
        layers = conv(inputs, width, 1), conv(width, width, 3, stride), conv(width, outputs, 1)
        return Block(layers, map(batch_norm, (width, width, outputs)), skip)
    layers = conv(inputs, width, 3, stride), conv(width, outputs, 3)
    return Block(layers, map(batch_norm, (width, outputs)), skip)


class ResNet(Twin):
    def __init__(self, channels, classes, depth, stem, widths, counts, feature_dim=None):
        super().__init__()
        bottleneck = depth >= 50
        expansion = 4 if bottleneck else 1
        self.pooled = stem == 7
        self.stem = conv(channels, widths[0], stem, 2 if self.pooled else 1)
        self.stem_norm = batch_norm(widths[0])
        blocks, inputs = [], widths[0]
        for stage, (count, width) in enumerate(zip(counts, widths, strict=False)):
            for place in range(count):
                outputs = expansion * width
                if feature_dim and (stage, place) == (len(counts) - 1, count - 1):
                    outputs = feature_dim
                stride = 2 if stage > 0 and place == 0 else 1
                blocks.append(block(inputs, width, outputs, stride, bottleneck))
                inputs = outputs
        self.blocks = modules(blocks)
        self.head = torch.nn.Linear(inputs, classes)

    def features(self, x):
        x = self.stem_norm(self.stem(x)).relu()
        if self.pooled:
            x = functional.max_pool2d(x, 3, 2, 1)
        for each in self.blocks:
            x = each(x)
        return x


def by_their_names(tree):
    """Our variables under PyTorch's names, kernels with outputs first."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {}
    for path, leaf in flat:
        *modules, name = re.findall(r"\w+", jax.tree_util.keystr(path))
        array = np.array(leaf)
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        named[".".join((*modules, NAMES.get(str(name), str(name))))] = array
    return named


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
    state = {name: torch.tensor(value) for name, value in variables.items()}
    found = twin.load_state_dict(state, strict=False)
    assert not found.unexpected_keys
    assert all("num_batches" in key for key in found.missing_keys), found.missing_keys
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
    labels = np.arange(batch, dtype=np.int32) % twin.head.out_features

    def of(params, train):
        network = nnx.merge(graph, params, rest)
        logits = network(jnp.asarray(images), train=train).logits()
        moved = nnx.to_pure_dict(nnx.state(network, nnx.Not(nnx.Param)))
        return jnp.mean(nc.CrossEntropy().value(logits, labels)), (logits, moved)

    run = jax.jit(jax.value_and_grad(of, has_aux=True) if gradients else of, static_argnums=1)
    for train in modes:
        variables = by_their_names(params) | by_their_names(rest)
        expected, their_gradients, buffers, counts = theirs(twin, variables, images, labels, train)
        found = run(params, train)
        (_, (logits, moved)), gradient = found if gradients else (found, None)
        scale = np.max(np.abs(expected))
        np.testing.assert_allclose(logits, expected, rtol=0, atol=rounding("float32") * scale)
        assert_statistics_alike(by_their_names(rest), by_their_names(moved), buffers, counts, train)
        if gradients:
            assert_gradients_alike(by_their_names(gradient), their_gradients)


def assert_gradients_alike(mine, theirs):
    assert mine.keys() == theirs.keys()
    largest = max(np.max(np.abs(value)) for value in theirs.values())
    for name, value in theirs.items():
        # Where a gradient all but vanishes, rounding is that of the others.
        scale = max(np.max(np.abs(value)), 1e-3 * largest)
        atol = rounding("float32", 1000) * scale
        np.testing.assert_allclose(mine[name], value, rtol=0, atol=atol, err_msg=name)


def assert_statistics_alike(before, mine, buffers, counts, train):
    """Means as theirs; variances move by (n−1)/n of theirs, which are unbiased."""
    assert mine.keys() == buffers.keys()
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


def resnet(depth, stem, width=0.125, feature_dim=None, classes=4, counts=None, dtype="float32"):
    def make(rngs):
        return cnn.ResNet(
            3, classes, depth, stem, width, feature_dim, dtype=jnp.dtype(dtype), rngs=rngs
        )

    if counts is None:
        counts = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]
    widths = [round(w * width) for w in (64, 128, 256, 512)]
    return make, ResNet(3, classes, depth, int(stem[0]), widths, counts, feature_dim)


def vgg():
    widths = (4, 8, 16, 32, 32)
    return lambda rngs: cnn.VGG(3, 4, 1 / 16, rngs=rngs), VGG(3, 4, widths)


def test_convnet():
    widths = (4, 6, 8)
    assert_alike(lambda rngs: cnn.ConvNet(3, 4, widths, rngs=rngs), ConvNet(3, 4, widths), 9)


# Compilation takes a minute for all of a network's gradient: by default that of short ones, and the
# logits of long ones.
@pytest.mark.parametrize(("depth", "stem"), [(18, "7x7"), (50, "3x3")])
def test_short_resnet(monkeypatch, depth, stem):
    """A block at the resolution of the one before, and one at half of it."""
    counts = (1, 1)
    monkeypatch.setitem(networks._BLOCKS, depth, (networks._BLOCKS[depth][0], counts))
    assert_alike(*resnet(depth, stem, feature_dim=5, counts=counts), 16, modes=(True,))


def test_logits_of_resnet18():
    assert_alike(*resnet(18, "3x3", feature_dim=5), 16, modes=(False,), gradients=False)


def test_logits_of_vgg():
    # Odd maps are pooled with their border.
    assert_alike(*vgg(), 9, modes=(False,), gradients=False)


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["3x3", "7x7"])
@pytest.mark.parametrize("depth", [18, 50])
def test_resnet(depth, stem):
    dtype = "float32" if depth == 18 else "float64"
    assert_alike(*resnet(depth, stem, dtype=dtype), 16, dtype=dtype)


@pytest.mark.slow
def test_vgg():
    assert_alike(*vgg(), 9)


@pytest.mark.slow
def test_resnet18_of_full_width():
    assert_alike(*resnet(18, "3x3", 1.0, classes=10), 32, gradients=False)
    assert_alike(*resnet(18, "3x3", 1.0, classes=10, dtype="float64"), 32, dtype="float64")
