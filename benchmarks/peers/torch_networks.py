"""The networks of `nc_jax.cnn` written in PyTorch, for benchmarks and as references of tests.

The layers have the same names as in nc_jax, so that the arrays of a network of nc_jax can be loaded
into its counterpart here under the names that `torch_variables` gives them. Activations are
computed in place, as is usual in PyTorch where memory and time matter.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

# PyTorch's names of nc_jax's variables, where they differ.
NAMES = {
    "kernel": "weight", "scale": "weight", "classifier": "weight",
    "mean": "running_mean", "var": "running_var",
}  # fmt: skip


def convolution(inputs: int, outputs: int, size: int, *, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias; at stride 1 its padding preserves the height and width."""
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


def batch_norm(channels: int, *, affine: bool = True) -> nn.BatchNorm2d:
    """Batch normalisation with PyTorch's defaults, which are those of nc_jax too.

    PyTorch's momentum 0.1 is the weight of the new value, Flax's 0.9 that of the old one.
    """
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1, affine=affine)


class Classifier(nn.Module):
    """Features averaged over their map, and a linear head."""

    head: nn.Linear
    features: Callable[[torch.Tensor], torch.Tensor]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        return self.head(functional.adaptive_avg_pool2d(self.features(images), 1).flatten(1))


class ConvNet(Classifier):
    """Strided 3 x 3 convolutions, each followed by ReLU and normalisation."""

    def __init__(self, channels: int, num_classes: int, widths: Sequence[int]):
        super().__init__()
        pairs = list(itertools.pairwise((channels, *widths)))
        self.convolutions = nn.ModuleList(convolution(a, b, 3, stride=2) for a, b in pairs)
        self.norms = nn.ModuleList(batch_norm(b, affine=False) for b in widths)
        self.head = nn.Linear(widths[-1], num_classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Maps of the last convolution."""
        for layer, normalise in zip(self.convolutions, self.norms, strict=True):
            images = normalise(layer(images).relu_())
        return images


class VGG(Classifier):
    """Pairs of 3 x 3 convolutions, each pair followed by pooling.

    `widths` has the number of channels of each pair.
    """

    def __init__(self, channels: int, num_classes: int, widths: Sequence[int]):
        super().__init__()
        outputs = [width for width in widths for _ in range(2)]
        pairs = list(itertools.pairwise((channels, *outputs)))
        self.convolutions = nn.ModuleList(convolution(a, b, 3) for a, b in pairs)
        self.norms = nn.ModuleList(batch_norm(b) for b in outputs)
        self.head = nn.Linear(widths[-1], num_classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Maps after the last pooling."""
        layers = list(zip(self.convolutions, self.norms, strict=True))
        for pair in zip(layers[::2], layers[1::2], strict=True):
            for layer, normalise in pair:
                images = normalise(layer(images)).relu_()
            images = functional.max_pool2d(images, 2, ceil_mode=True)
        return images


class Block(nn.Module):
    """Convolutions and a skip."""

    def __init__(
        self, layers: Iterable[nn.Module], norms: Iterable[nn.Module], skip: nn.Module | None
    ):
        super().__init__()
        self.layers, self.norms, self.skip = nn.ModuleList(layers), nn.ModuleList(norms), skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps of the block."""
        # The input of a block is the output of a ReLU already.
        maps = images
        for i, (layer, normalise) in enumerate(zip(self.layers, self.norms, strict=True)):
            maps = normalise(layer(maps if i == 0 else maps.relu_()))
        return (maps + (images if self.skip is None else self.skip(images))).relu_()


def block(inputs: int, width: int, outputs: int, stride: int, bottleneck: bool) -> Block:
    """A basic block or a bottleneck, with a projection where the shape changes."""
    skip = None
    if stride != 1 or inputs != outputs:
        skip = nn.Sequential(convolution(inputs, outputs, 1, stride=stride), batch_norm(outputs))
    if bottleneck:
        layers = [
            convolution(inputs, width, 1), convolution(width, width, 3, stride=stride),
            convolution(width, outputs, 1),
        ]  # fmt: skip
        return Block(layers, map(batch_norm, (width, width, outputs)), skip)
    layers = [convolution(inputs, width, 3, stride=stride), convolution(width, outputs, 3)]
    return Block(layers, map(batch_norm, (width, outputs)), skip)


class ResNet(Classifier):
    """ResNet18, ResNet50, or shorter ones.

    Args: `stem` is the size of the first convolution, 7 (strided and pooled) or 3; `widths` and
    `counts` have an entry for each stage; `feature_dim` replaces the outputs of the last block.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        depth: int,
        stem: int,
        widths: Sequence[int],
        counts: Sequence[int],
        feature_dim: int | None = None,
    ):
        super().__init__()
        bottleneck = depth >= 50
        expansion = 4 if bottleneck else 1
        self.pooled = stem == 7
        first = convolution(channels, widths[0], stem, stride=2 if self.pooled else 1)
        self.stem = nn.ModuleDict({"convolution": first, "norm": batch_norm(widths[0])})
        blocks, inputs = [], widths[0]
        for stage, (count, width) in enumerate(zip(counts, widths, strict=False)):
            for place in range(count):
                outputs = expansion * width
                if feature_dim and (stage, place) == (len(counts) - 1, count - 1):
                    outputs = feature_dim
                stride = 2 if stage > 0 and place == 0 else 1
                blocks.append(block(inputs, width, outputs, stride, bottleneck))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(inputs, num_classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Maps of the last block."""
        images = self.stem["norm"](self.stem["convolution"](images)).relu_()
        if self.pooled:
            images = functional.max_pool2d(images, 3, 2, 1)
        for residual in self.blocks:
            images = residual(images)
        return images


def torch_variables(tree: Any) -> dict[str, np.ndarray]:
    """Variables of a network of nc_jax under PyTorch's names, kernels with outputs first."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {}
    for path, leaf in flat:
        *modules, name = re.findall(r"\w+", jax.tree_util.keystr(path))
        array = np.array(leaf)
        # From (height, width, inputs, outputs) to (outputs, inputs, height, width).
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        named[".".join((*modules, NAMES.get(str(name), str(name))))] = array
    return named


def load(network: nn.Module, variables: Mapping[str, np.ndarray]) -> None:
    """Copy variables into a network; only counters of batches, which Flax lacks, may be absent."""
    state = {name: torch.tensor(value) for name, value in variables.items()}
    found = network.load_state_dict(state, strict=False)
    assert not found.unexpected_keys, found.unexpected_keys
    assert all("num_batches" in key for key in found.missing_keys), found.missing_keys


def counterpart(kind: str, variables: Mapping[str, np.ndarray]) -> Classifier:
    """The 'ConvNet', 'VGG' or 'ResNet' (of depth 18) that has these variables."""
    num_classes, feature_dim = variables["head.weight"].shape
    if kind == "ResNet":
        size = variables["stem.convolution.weight"].shape
        widths = [variables[f"blocks.{2 * stage}.layers.0.weight"].shape[0] for stage in range(4)]
        network = ResNet(
            size[1], num_classes, depth=18, stem=size[-1], widths=widths, counts=(2, 2, 2, 2),
            feature_dim=feature_dim,
        )  # fmt: skip
    else:
        count = sum(name.startswith("convolutions.") for name in variables)
        shapes = [variables[f"convolutions.{i}.weight"].shape for i in range(count)]
        outputs = [shape[0] for shape in shapes]
        make, widths = (VGG, outputs[::2]) if kind == "VGG" else (ConvNet, outputs)
        network = make(shapes[0][1], num_classes, widths)
    load(network, variables)
    return network
