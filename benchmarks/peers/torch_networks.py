"""The networks of `nc_jax.cnn` written in PyTorch, for benchmarks and as references of tests.

The layers of the ResNet have the names of torchvision, those of the others the names in nc_jax, so
that each network loads what `nc_jax.cnn.to_torch` returns. Activations are computed in place, as is
usual in PyTorch where memory and time matter.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional


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

    def linear(self) -> nn.Linear:
        """The last layer."""
        return self.head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        return self.linear()(functional.adaptive_avg_pool2d(self.features(images), 1).flatten(1))


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
    """A basic block or a bottleneck, with a projection where the shape changes."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int, bottleneck: bool):
        super().__init__()
        self.depth = 3 if bottleneck else 2
        if bottleneck:
            self.conv1, self.bn1 = convolution(inputs, width, 1), batch_norm(width)
            self.conv2, self.bn2 = convolution(width, width, 3, stride=stride), batch_norm(width)
            self.conv3, self.bn3 = convolution(width, outputs, 1), batch_norm(outputs)
        else:
            self.conv1, self.bn1 = convolution(inputs, width, 3, stride=stride), batch_norm(width)
            self.conv2, self.bn2 = convolution(width, outputs, 3), batch_norm(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            projection = convolution(inputs, outputs, 1, stride=stride)
            self.downsample = nn.Sequential(projection, batch_norm(outputs))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps of the block."""
        maps = self.bn1(self.conv1(images))
        maps = self.bn2(self.conv2(maps.relu_()))
        if self.depth == 3:
            maps = self.bn3(self.conv3(maps.relu_()))
        return (maps + (images if self.downsample is None else self.downsample(images))).relu_()


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
        self.conv1 = convolution(channels, widths[0], stem, stride=2 if self.pooled else 1)
        self.bn1 = batch_norm(widths[0])
        inputs = widths[0]
        for stage, (count, width) in enumerate(zip(counts, widths, strict=False)):
            blocks = []
            for place in range(count):
                outputs = expansion * width
                if feature_dim and (stage, place) == (len(counts) - 1, count - 1):
                    outputs = feature_dim
                stride = 2 if stage > 0 and place == 0 else 1
                blocks.append(Block(inputs, width, outputs, stride, bottleneck))
                inputs = outputs
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.num_stages = len(counts)
        self.fc = nn.Linear(inputs, num_classes)

    def linear(self) -> nn.Linear:
        """The last layer."""
        return self.fc

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Maps of the last block."""
        images = self.bn1(self.conv1(images)).relu_()
        if self.pooled:
            images = functional.max_pool2d(images, 3, 2, 1)
        for stage in range(self.num_stages):
            images = self.get_submodule(f"layer{stage + 1}")(images)
        return images


def load(network: nn.Module, variables: Mapping[str, np.ndarray]) -> None:
    """Copy the variables of a network of nc_jax, from `nc_jax.cnn.to_torch`, into a network."""
    network.load_state_dict({name: torch.from_numpy(value) for name, value in variables.items()})


def counterpart(kind: str, variables: Mapping[str, np.ndarray]) -> Classifier:
    """The 'ConvNet', 'VGG' or 'ResNet' (of depth 18) that has these variables."""
    if kind == "ResNet":
        size = variables["conv1.weight"].shape
        widths = [variables[f"layer{stage}.0.conv1.weight"].shape[0] for stage in (1, 2, 3, 4)]
        num_classes, feature_dim = variables["fc.weight"].shape
        network = ResNet(
            size[1], num_classes, depth=18, stem=size[-1], widths=widths, counts=(2, 2, 2, 2),
            feature_dim=feature_dim,
        )  # fmt: skip
    else:
        count = sum(name.startswith("convolutions.") for name in variables)
        shapes = [variables[f"convolutions.{i}.weight"].shape for i in range(count)]
        outputs = [shape[0] for shape in shapes]
        make, widths = (VGG, outputs[::2]) if kind == "VGG" else (ConvNet, outputs)
        network = make(shapes[0][1], len(variables["head.weight"]), widths)
    load(network, variables)
    return network
