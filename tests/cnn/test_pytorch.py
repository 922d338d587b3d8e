"""State dicts of PyTorch read and written; `test_torch_networks` has gradients and statistics."""

import importlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from linear_network import DIM, NUM_CLASSES, SIDE, two_layers
from tolerances import rounding

import nc_jax as nc
from nc_jax import cnn, images
from nc_jax.cnn.layers import FixedClassifier
from nc_jax.errors import ArgumentError

STATISTICS = ("weight", "bias", "running_mean", "running_var")
# Channels at the end of each stage of a narrow ResNet.
NARROW = (8, 16, 32, 64)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def twins(torch):
    """The networks in PyTorch, the ResNet with the names of torchvision."""
    return importlib.import_module("peers.torch_networks")


def without_weights(make):
    """A network that is built without numbers, which takes less time."""
    return nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))


def resnet(classes=4, dtype="float32", width=0.125, **options):
    return without_weights(
        lambda rngs: cnn.ResNet(
            3, classes, width=width, dtype=jnp.dtype(dtype), rngs=rngs, **options
        )
    )


def convnet(widths=(4, 6), classes=3, dtype="float32", **options):
    return without_weights(
        lambda rngs: cnn.ConvNet(
            2, classes, widths=widths, dtype=jnp.dtype(dtype), rngs=rngs, **options
        )
    )


def torchvision_shapes(blocks, convolutions, expansion, width, classes):
    """Names and shapes of torchvision's ResNets, by rows of its blocks."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (width, 3, 7, 7)}

    def normalised(name, channels):
        shapes.update({f"{name}.{variable}": (channels,) for variable in STATISTICS})

    normalised("bn1", width)
    inputs = width
    for stage, count in enumerate(blocks):
        inner, outputs = width * 2**stage, expansion * width * 2**stage
        for place in range(count):
            block = f"layer{stage + 1}.{place}"
            channels = (inputs, *[inner] * (len(convolutions) - 1), outputs)
            for i, (size, (a, b)) in enumerate(
                zip(convolutions, itertools.pairwise(channels), strict=True)
            ):
                shapes[f"{block}.conv{i + 1}.weight"] = (b, a, size, size)
                normalised(f"{block}.bn{i + 1}", b)
            if place == 0 and (stage > 0 or inputs != outputs):
                shapes[f"{block}.downsample.0.weight"] = (outputs, inputs, 1, 1)
                normalised(f"{block}.downsample.1", outputs)
            inputs = outputs
    return {**shapes, "fc.weight": (classes, inputs), "fc.bias": (classes,)}


RESNET18 = torchvision_shapes((2, 2, 2, 2), (3, 3), 1, 64, 1000)
RESNET50 = torchvision_shapes((3, 4, 6, 3), (1, 3, 1), 4, 64, 1000)
CONVNET = {
    "convolutions.0.weight": (4, 2, 3, 3), "convolutions.1.weight": (6, 4, 3, 3),
    "norms.0.running_mean": (4,), "norms.0.running_var": (4,),
    "norms.1.running_mean": (6,), "norms.1.running_var": (6,),
    "head.weight": (3, 6), "head.bias": (3,),
}  # fmt: skip


def drawn(shapes, seed=0, dtype="float32"):
    """Random numbers of these shapes: He's weights, and statistics that are not the defaults."""
    rng, numbers = np.random.default_rng(seed), {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            value = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        elif name.endswith(("weight", "var")):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.normal(0, 0.2, shape)
        numbers[name] = value.astype(dtype)
    return numbers


def assert_equal_to_the_bit(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize(
    ("depth", "shapes", "entries", "normalisations"),
    [(18, RESNET18, 122, 20), (50, RESNET50, 320, 53)],
)
def test_resnets_have_the_names_and_shapes_of_torchvision(depth, shapes, entries, normalisations):
    # torchvision also has a counter of batches for each normalisation.
    assert len(shapes) + normalisations == entries
    zeros = {name: np.zeros(shape, "float32") for name, shape in shapes.items()}
    found = cnn.to_torch(cnn.from_torch(resnet(1000, width=1, depth=depth), zeros))
    assert {name: value.shape for name, value in found.items()} == shapes


@pytest.mark.parametrize(
    ("network", "shapes"),
    [(resnet, torchvision_shapes((2, 2, 2, 2), (3, 3), 1, 8, 4)), (convnet, CONVNET)],
    ids=["resnet18", "convnet"],
)
def test_weights_come_back_to_the_bit(network, shapes):
    weights = drawn(shapes)
    loaded = cnn.from_torch(network(), weights)
    found = cnn.to_torch(loaded)
    assert_equal_to_the_bit(found, weights)
    assert_equal_to_the_bit(cnn.to_torch(cnn.from_torch(network(), found)), weights)
    # As `torch.from_numpy` and the files of safetensors need them.
    assert all(value.flags.c_contiguous and value.flags.writeable for value in found.values())


def test_vgg_comes_back_to_the_bit():
    network = without_weights(lambda rngs: cnn.VGG(3, 4, width=1 / 16, rngs=rngs))
    names = [f"convolutions.{i}.weight" for i in range(10)]
    names += [f"norms.{i}.{variable}" for i in range(10) for variable in STATISTICS]
    widths = (3, *(w for w in (4, 8, 16, 32, 32) for _ in range(2)))
    kernels = [(b, a, 3, 3) for a, b in itertools.pairwise(widths)]
    rows = [(width,) for width in widths[1:] for _ in STATISTICS]
    shapes = dict(zip(names, kernels + rows, strict=True))
    weights = drawn({**shapes, "head.weight": (4, 32), "head.bias": (4,)})
    assert_equal_to_the_bit(cnn.to_torch(cnn.from_torch(network, weights)), weights)


@pytest.mark.parametrize("dtype", ["float16", jnp.bfloat16, "float64"])
def test_half_precision_is_widened_and_float64_stays(dtype):
    weights = drawn(CONVNET, dtype=dtype)
    wide = "float64" if dtype == "float64" else "float32"
    expected = {name: value.astype(wide) for name, value in weights.items()}
    assert_equal_to_the_bit(cnn.to_torch(cnn.from_torch(convnet(), weights)), expected)


def test_one_entry_in_float64_widens_all():
    weights = drawn(CONVNET)
    weights["head.bias"] = weights["head.bias"].astype("float64")
    found = cnn.to_torch(cnn.from_torch(convnet(), weights))
    assert_equal_to_the_bit(found, {name: v.astype("float64") for name, v in weights.items()})


def test_without_x64_float64_becomes_float32():
    with jax.enable_x64(False):
        found = cnn.to_torch(cnn.from_torch(convnet(), drawn(CONVNET, dtype="float64")))
    expected = {name: v.astype("float32") for name, v in drawn(CONVNET, dtype="float64").items()}
    assert_equal_to_the_bit(found, expected)


def test_a_state_dict_that_changes_later_changes_no_network():
    weights = drawn(CONVNET)
    loaded = cnn.from_torch(convnet(), weights)
    for value in cnn.to_torch(loaded).values():
        value += 1
    for value in weights.values():
        value += 1
    assert_equal_to_the_bit(cnn.to_torch(loaded), drawn(CONVNET))
    again = cnn.from_torch(loaded, weights)
    assert_equal_to_the_bit(cnn.to_torch(again), weights)
    assert_equal_to_the_bit(cnn.to_torch(loaded), drawn(CONVNET))


def test_a_fixed_classifier_is_that_of_the_state_dict_and_stays_fixed():
    weights = drawn({name: CONVNET[name] for name in CONVNET if name != "head.bias"})
    loaded = cnn.from_torch(convnet(etf=True, bias=False), weights)
    assert isinstance(loaded.head.classifier, FixedClassifier)
    assert loaded.head.bias is None
    assert_equal_to_the_bit(cnn.to_torch(loaded), weights)
    # Two kernels are all that an optimiser would change.
    assert len(jax.tree.leaves(nnx.state(loaded, nnx.Param))) == 2


def narrow_resnet18(**changes):
    """Weights of torchvision's ResNet18 with an eighth of its channels."""
    return drawn(torchvision_shapes((2, 2, 2, 2), (3, 3), 1, 8, 4)) | changes


def renamed(change):
    return {change(name): value for name, value in narrow_resnet18().items()}


def without(*names):
    return {name: value for name, value in narrow_resnet18().items() if name not in names}


OTHER_CLASSES = narrow_resnet18(**drawn({"fc.weight": (7, 64), "fc.bias": (7,)}))
CIFAR = narrow_resnet18(**drawn({"conv1.weight": (8, 1, 3, 3)}))
WIDER = drawn(torchvision_shapes((2, 2, 2, 2), (3, 3), 1, 16, 4))
DEEPER = drawn(torchvision_shapes((3, 4, 6, 3), (1, 3, 1), 4, 8, 4))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            OTHER_CLASSES,
            "state_dict['fc.bias'] has shape (7,) where this ResNet has (4,): build the network "
            "with num_classes=7.",
        ),
        (
            CIFAR,
            "state_dict['conv1.weight'] has shape (8, 1, 3, 3) where this ResNet has (8, 3, 7, 7): "
            "build the network with stem=cnn.CIFARStem(), channels=1.",
        ),
        (WIDER, "build the network with width=0.25, feature_dim=128."),
        (
            DEEPER,
            "state_dict has 165 names ('layer1.0.conv3.weight', 'layer1.0.bn3.weight', "
            "'layer1.0.bn3.bias', ...) that this ResNet does not have: build the network with "
            "depth=50, feature_dim=256.",
        ),
        (
            without("fc.bias"),
            "state_dict lacks 1 name ('fc.bias') of this ResNet: build the network with "
            "bias=False.",
        ),
        (
            without("bn1.weight", "bn1.bias"),
            "state_dict lacks 2 names ('bn1.bias', 'bn1.weight') of this ResNet: give the state "
            "dict of the same network, with the names of cnn.to_torch(network).",
        ),
        (renamed(lambda name: f"model.{name}"), "remove 'model.' from the beginning of its names."),
        (
            renamed(lambda name: name.replace("downsample", "shortcut")),
            " of this ResNet and has 15 names ('layer2.0.shortcut.0.weight', ",
        ),
        ({"epoch": 3, "model": narrow_resnet18()}, "state_dict['model'] is a dict: give the inner"),
        ({}, "state_dict lacks 102 names ("),
        (
            narrow_resnet18(**{"fc.bias": np.ones(4, int)}),
            "state_dict['fc.bias'] has dtype int64: give floating-point numbers",
        ),
        (narrow_resnet18(**{"fc.bias": np.ones(4, complex)}), "has dtype complex128: give float"),
        (narrow_resnet18(**{"fc.bias": None}), "state_dict['fc.bias'] = None: give an instance of"),
    ],
    ids=[
        "classes", "stem", "width", "depth", "bias", "missing", "prefix", "renamed", "checkpoint",
        "empty", "integers", "complex", "none",
    ],
)  # fmt: skip
def test_other_state_dicts_are_refused_in_one_line(weights, message):
    with pytest.raises(ArgumentError) as error:
        cnn.from_torch(resnet(), weights)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.arguments == ("state_dict",)


def test_errors_name_the_widths_of_a_convnet_and_a_prefix():
    other = without_weights(lambda rngs: cnn.ConvNet(1, 3, widths=(5,), rngs=rngs))
    with pytest.raises(ValueError, match=r"with widths=\(4, 6\), channels=2"):
        cnn.from_torch(other, drawn(CONVNET))
    with pytest.raises(ValueError, match=r"remove 'net\.' from the beginning of its names"):
        cnn.from_torch(convnet(), {f"net.{name}": v for name, v in drawn(CONVNET).items()})


def test_a_network_without_weights_is_not_written():
    with pytest.raises(ValueError, match=r"ConvNet\(...\) is .* has no weights: give it those of"):
        cnn.to_torch(convnet())


def test_kernels_of_a_network_of_a_user_are_transposed():
    weights = drawn({"weight": (DIM, SIDE**2), "head.weight": (NUM_CLASSES, DIM)})
    weights["head.bias"] = np.zeros(NUM_CLASSES, "float32")
    loaded = cnn.from_torch(without_weights(two_layers), weights)
    kernel = nnx.to_pure_dict(nnx.state(loaded))["kernel"]
    np.testing.assert_array_equal(kernel, weights["weight"].T)
    assert_equal_to_the_bit(cnn.to_torch(loaded), weights)


def loaded_twin(torch, twin, weights):
    """A network in PyTorch with these weights, for evaluation, in their dtype."""
    twin.to(next(torch.from_numpy(value) for value in weights.values()).dtype)
    twin.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return twin.eval()


def assert_logits_alike(torch, network, twin, channels, dtype, side=16):
    """Logits of a network with the weights of its twin, which are random, and those of the twin."""
    shapes = {
        name: tuple(value.shape)
        for name, value in twin.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    twin = loaded_twin(torch, twin, drawn(shapes, dtype=dtype))
    pixels = np.random.default_rng(1).normal(size=(5, side, side, channels)).astype(dtype)
    with torch.no_grad():
        expected = twin(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
    layer = cnn.last_layer(cnn.from_torch(network, twin.state_dict()), pixels)
    scale = np.max(np.abs(expected))
    assert np.min(np.std(expected, axis=0)) > 1e-3 * scale
    np.testing.assert_allclose(layer.logits(), expected, rtol=0, atol=rounding(dtype) * scale)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("depth", "stem", "size", "counts"),
    [
        (18, cnn.ImageNetStem(), 7, (2, 2, 2, 2)),
        (18, cnn.CIFARStem(), 3, (2, 2, 2, 2)),
        (50, cnn.ImageNetStem(), 7, (3, 4, 6, 3)),
    ],
)
def test_logits_of_resnets_are_those_of_pytorch(torch, twins, depth, stem, size, counts, dtype):
    twin = twins.ResNet(3, 4, depth=depth, stem=size, widths=NARROW, counts=counts)
    assert_logits_alike(torch, resnet(depth=depth, stem=stem, dtype=dtype), twin, 3, dtype, side=32)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logits_of_the_convnet_are_those_of_pytorch(torch, twins, dtype):
    assert_logits_alike(torch, convnet(dtype=dtype), twins.ConvNet(2, 3, (4, 6)), 2, dtype)


@pytest.mark.slow
def test_logits_of_resnet18_of_full_width_are_those_of_pytorch(torch, twins):
    twin = twins.ResNet(3, 1000, depth=18, stem=7, widths=(64, 128, 256, 512), counts=(2, 2, 2, 2))
    assert_logits_alike(torch, resnet(1000, width=1), twin, 3, "float32", side=64)


def test_wrapped_modules_and_every_kind_of_tensor_are_read(torch, twins):
    twin = twins.ConvNet(2, 3, (4, 6))
    twin.load_state_dict({n: torch.from_numpy(v) for n, v in drawn(CONVNET).items()})
    compiled = torch.compile(twin, backend="eager")
    variants = [
        # With counters, and parameters that need a gradient.
        twin.state_dict(keep_vars=True),
        torch.nn.DataParallel(twin).state_dict(),
        compiled.state_dict(),
        torch.nn.DataParallel(compiled).state_dict(),
        {name: value.numpy() for name, value in twin.state_dict().items()},
        {name: jnp.asarray(value.numpy()) for name, value in twin.state_dict().items()},
        # Kernels with another order of axes in memory, which PyTorch changes in place.
        twin.to(memory_format=torch.channels_last).state_dict(),
    ]
    for state_dict in variants:
        assert_equal_to_the_bit(cnn.to_torch(cnn.from_torch(convnet(), state_dict)), drawn(CONVNET))
    for dtype in (torch.float16, torch.bfloat16):
        halved = {name: value.to(dtype) for name, value in twin.state_dict().items()}
        expected = {name: value.float().numpy() for name, value in halved.items()}
        found = cnn.to_torch(cnn.from_torch(convnet(), halved))
        assert_equal_to_the_bit(found, {name: expected[name] for name in found})


def test_integers_of_pytorch_are_refused(torch):
    weights = {name: torch.from_numpy(value) for name, value in drawn(CONVNET).items()}
    weights["head.bias"] = weights["head.bias"].to(torch.int8)
    with pytest.raises(ValueError, match=r"'head.bias'\] has dtype torch.int8: give floating"):
        cnn.from_torch(convnet(), weights)


def test_a_later_step_in_pytorch_does_not_change_the_network(torch, twins):
    twin = twins.ConvNet(2, 3, (4, 6))
    loaded = cnn.from_torch(convnet(), twin.state_dict())
    before = cnn.to_torch(loaded)
    with torch.no_grad():
        for value in (*twin.parameters(), *twin.buffers()):
            value.add_(1)
    assert_equal_to_the_bit(cnn.to_torch(loaded), before)


LABELS = np.random.default_rng(3).permutation(np.arange(24) % 3)
PIXELS = np.random.default_rng(4).normal(size=(24, 8, 8, 2)).astype("float32")


@pytest.fixture(scope="module")
def trained(torch, twins):
    """A ConvNet after 20 steps of PyTorch's SGD on random images."""
    torch.manual_seed(0)
    twin = twins.ConvNet(2, 3, (4, 6))
    optimizer = torch.optim.SGD(twin.parameters(), 0.1, momentum=0.9)
    pixels, labels = torch.from_numpy(PIXELS).permute(0, 3, 1, 2), torch.from_numpy(LABELS)
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(twin(pixels), labels).backward()
        optimizer.step()
    return twin.eval()


def nc1(features):
    """tr(Σ_W Σ_B⁺)/K of features in float64 (Zhu, section 4)."""
    means = np.array([features[c == LABELS].mean(axis=0) for c in range(3)])
    within, between = features - means[LABELS], means - means.mean(axis=0)
    covariances = within.T @ within / len(features), between.T @ between / 3
    return np.trace(covariances[0] @ np.linalg.pinv(covariances[1], rcond=1e-10)) / 3


def test_a_network_trained_in_pytorch_is_measured_and_classified(torch, trained, monkeypatch):
    # Three batches, of which the last is padded.
    monkeypatch.setattr(cnn.evaluation, "_BATCH", 9)
    with torch.no_grad():
        maps = trained.features(torch.from_numpy(PIXELS).permute(0, 3, 1, 2))
    features = maps.mean((2, 3)).double()
    layer = cnn.last_layer(cnn.from_torch(convnet(), trained.state_dict()), PIXELS)
    # Features in float32, whose differences from class means have lost a few digits.
    tolerance = rounding("float32", 1000)
    np.testing.assert_allclose(layer.features, features, rtol=0, atol=tolerance)
    found = nc.metrics.collapse_metrics(layer, LABELS)["zhu_nc1"]
    np.testing.assert_allclose(found, nc1(features.numpy()), rtol=tolerance)
    # Loss and gradient of the model at the state are those of autograd.
    h, w, b = (
        value.detach().double().requires_grad_()
        for value in (features, trained.head.weight, trained.head.bias)
    )
    loss = torch.nn.functional.cross_entropy(h @ w.T + b, torch.from_numpy(LABELS))
    decayed = loss + 5e-4 / 2 * (w**2).sum() + 1e-5 / 2 * (h**2).sum()
    gradient = torch.cat([g.ravel() for g in torch.autograd.grad(decayed, (h, w, b))])
    decay = nc.WeightDecay(classifier=5e-4, features=1e-5)
    problem, state = nc.problem_for(layer, LABELS, weight_decay=decay)
    np.testing.assert_allclose(problem.objective(state), decayed.item(), rtol=tolerance)
    point = nc.landscape.classify(problem, state)
    assert point.kind == "not critical"
    np.testing.assert_allclose(point.gradient_norm, gradient.norm(), rtol=tolerance)


def test_a_training_starts_from_weights_of_pytorch(trained):
    weights = trained.state_dict()
    data = images.ImageSet(PIXELS, LABELS, ("a", "b", "c"))
    here = cnn.train(
        lambda rngs: cnn.from_torch(cnn.ConvNet(2, 3, widths=(4, 6), rngs=rngs), weights),
        data,
        optax.sgd(0.0),
        1,
        batch_size=None,
        observe=("zhu_nc1", "train_loss"),
    )
    layer = cnn.last_layer(cnn.from_torch(convnet(), weights), PIXELS)
    measured = here.data["zhu_nc1"].values[0, 0]
    expected = nc.metrics.zhu_nc1(layer, LABELS)
    np.testing.assert_allclose(measured, expected, rtol=rounding("float32"))
    loss = np.mean(nc.CrossEntropy().value(layer.logits(), LABELS))
    np.testing.assert_allclose(here.data["train_loss"].values[0, 0], loss, rtol=rounding("float32"))
