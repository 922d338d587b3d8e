"""Networks from images to the last layer: the ones that the papers train.

A network takes images (B, H, W, C) and gives a `LastLayer`: features (B, d), classifier and bias.
Its logits are `network(images, train=False).logits()`. With `train=True` batch statistics normalise
and move the running ones.
"""

import abc
import itertools
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, DTypeLike, Float

from ..checks import check_integer, check_number
from ..state import LastLayer
from .convolution import halve
from .layers import Conv, Head, norm, of_norm


class Network(nnx.Module):
    """Images to features, and a head on them."""

    def __init__(self, dtype: DTypeLike, head: Head):
        self.dtype = dtype
        self.head = head

    @abc.abstractmethod
    def features(self, images: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w d"]:
        """Maps of the last block, which their mean over the image turns into features."""

    def __call__(self, images: Float[ArrayLike, "B H W C"], train: bool) -> LastLayer:
        """Last layer, in the dtype of its parameters whatever the body computes in."""
        # Flax takes statistics of bfloat16 in float32, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            maps = self.features(jnp.asarray(images, self.dtype), train)
        return self.head(jnp.mean(maps.astype(self.head.classifier[...].dtype), axis=(1, 2)))


class ConvNet(Network):
    """Three 3 x 3 convolutions and a last layer (Rangamani, section 7): each ReLU, then normalised.

    Normalisation has no parameters. The paper gives neither stride nor pooling: here every
    convolution halves the image, and the features are the mean of the last maps, so that the net is
    as homogeneous as theirs.

    Args:
        channels: of the images.
        num_classes: K.
        widths: channels of each convolution; the last is d.
        weight_norm: Frobenius norm of every weight matrix at the start, as the paper sets it; None
            for He's start.
        etf, bias: of the head.
        dtype: of the convolutions; bfloat16 for accelerators.
        rngs: `nnx.Rngs(key)`.

    Example: `ConvNet(1, 10, rngs=nnx.Rngs(0))(images, train=False).logits()`.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        widths: tuple[int, ...] = (32, 64, 128),
        weight_norm: float | None = None,
        etf: bool = False,
        bias: bool = True,
        dtype: DTypeLike = jnp.float32,
        *,
        rngs: nnx.Rngs,
    ):
        _check_counts(channels=channels, num_classes=num_classes, **_numbered("widths", widths))
        if weight_norm is not None:
            check_number("weight_norm", weight_norm, above_zero=True)
        start = {} if weight_norm is None else {"init": of_norm(weight_norm)}
        pairs = list(itertools.pairwise((channels, *widths)))
        self.convolutions = nnx.List([Conv(a, b, 3, 2, **start, rngs=rngs) for a, b in pairs])
        self.norms = nnx.List([norm(b, dtype, rngs, affine=False) for _, b in pairs])
        super().__init__(dtype, Head(widths[-1], num_classes, etf, bias, **start, rngs=rngs))

    def features(self, images: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w d"]:
        """Maps of the last convolution."""
        for convolution, normalise in zip(self.convolutions, self.norms, strict=True):
            images = normalise(jax.nn.relu(convolution(images)), use_running_average=not train)
        return images


class VGG(Network):
    """VGG13 with batch normalisation: five pairs of 3 x 3 convolutions, each pooled (Ji, app. D).

    Made for 32 x 32 images; smaller ones are pooled with their border kept, down to 1 x 1. One
    linear layer follows, as in the CIFAR versions of VGG.

    Args: as `ConvNet`; `width` multiplies all channels, `feature_dim` is d, 512·width if None.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        width: float = 1.0,
        feature_dim: int | None = None,
        etf: bool = False,
        bias: bool = True,
        dtype: DTypeLike = jnp.float32,
        *,
        rngs: nnx.Rngs,
    ):
        widths = [_scaled(base, width) for base in (64, 128, 256, 512, 512) for _ in range(2)]
        widths[-1] = widths[-1] if feature_dim is None else feature_dim
        _check_counts(channels=channels, num_classes=num_classes, feature_dim=widths[-1])
        pairs = list(itertools.pairwise((channels, *widths)))
        self.convolutions = nnx.List([Conv(a, b, 3, rngs=rngs) for a, b in pairs])
        self.norms = nnx.List([norm(b, dtype, rngs) for _, b in pairs])
        super().__init__(dtype, Head(widths[-1], num_classes, etf, bias, rngs=rngs))

    def features(self, images: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w d"]:
        """Maps after the last pooling."""
        for i, (convolution, normalise) in enumerate(
            zip(self.convolutions, self.norms, strict=True)
        ):
            images = jax.nn.relu(normalise(convolution(images), use_running_average=not train))
            if i % 2:
                images = halve(images, 2)
        return images


class Basic(nnx.Module):
    """Two 3 x 3 convolutions and a skip; outputs max(0, ·)."""

    expansion: ClassVar[int] = 1

    def __init__(
        self, inputs: int, width: int, outputs: int, stride: int, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.layers = nnx.List([
            Conv(inputs, width, 3, stride, rngs=rngs), Conv(width, outputs, 3, rngs=rngs),
        ])  # fmt: skip
        self.norms = nnx.List([norm(channels, dtype, rngs) for channels in (width, outputs)])
        self.skip = _skip(inputs, outputs, stride, dtype, rngs)

    def __call__(self, images: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w d"]:
        """Maps of the block."""
        return _residual(self, images, train)


class Bottleneck(nnx.Module):
    """Convolutions of 1 x 1, 3 x 3 (strided) and 1 x 1, and a skip; outputs max(0, ·)."""

    expansion: ClassVar[int] = 4

    def __init__(
        self, inputs: int, width: int, outputs: int, stride: int, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.layers = nnx.List([
            Conv(inputs, width, 1, rngs=rngs), Conv(width, width, 3, stride, rngs=rngs),
            Conv(width, outputs, 1, rngs=rngs),
        ])  # fmt: skip
        self.norms = nnx.List([norm(channels, dtype, rngs) for channels in (width, width, outputs)])
        self.skip = _skip(inputs, outputs, stride, dtype, rngs)

    def __call__(self, images: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w d"]:
        """Maps of the block."""
        return _residual(self, images, train)


_BLOCKS = {18: (Basic, (2, 2, 2, 2)), 50: (Bottleneck, (3, 4, 6, 3))}


class ResNet(Network):
    """ResNet18 or ResNet50 (He et al. 2016, stride on the 3 x 3 as torchvision has it).

    With `feature_dim` the outputs of the last block alone change, with a projection on its skip:
    d = K so is what Zhu et al. train in section 4.3.

    Args:
        channels: of the images.
        num_classes: K.
        depth: 18 or 50.
        stem: "7x7", strided and pooled, of ImageNet, or "3x3" for small images.
        width: multiplies all channels.
        feature_dim: d; None for 512·width, of ResNet50 2048·width.
        etf, bias: of the head.
        dtype: of all but the head; bfloat16 for accelerators.
        rngs: `nnx.Rngs(key)`.

    Raises: ValueError for another depth or stem, or a count under 1.

    Example: `ResNet(3, 10, depth=50, feature_dim=10, etf=True, rngs=nnx.Rngs(0))`.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        depth: int = 18,
        stem: Literal["7x7", "3x3"] = "7x7",
        width: float = 1.0,
        feature_dim: int | None = None,
        etf: bool = False,
        bias: bool = True,
        dtype: DTypeLike = jnp.float32,
        *,
        rngs: nnx.Rngs,
    ):
        if depth not in _BLOCKS:
            raise ValueError(f"depth = {depth}: give one of {sorted(_BLOCKS)}.")
        if stem not in ("7x7", "3x3"):
            raise ValueError(f"stem = {stem!r}: give '7x7' or '3x3'.")
        block, counts = _BLOCKS[depth]
        widths = [_scaled(base, width) for base in (64, 128, 256, 512)]
        feature_dim = block.expansion * widths[-1] if feature_dim is None else feature_dim
        _check_counts(channels=channels, num_classes=num_classes, feature_dim=feature_dim)
        self.pooled = stem == "7x7"
        size, stride = (7, 2) if self.pooled else (3, 1)
        self.stem = Conv(channels, widths[0], size, stride, rngs=rngs)
        self.stem_norm = norm(widths[0], dtype, rngs)
        plan = [
            (stage, 2 if stage and not place else 1)
            for stage, count in enumerate(counts)
            for place in range(count)
        ]
        outputs = [block.expansion * widths[stage] for stage, _ in plan]
        outputs[-1] = feature_dim
        self.blocks = nnx.List([
            block(before, widths[stage], after, stride, dtype, rngs)
            for (stage, stride), before, after in zip(
                plan, [widths[0], *outputs[:-1]], outputs, strict=True
            )
        ])  # fmt: skip
        super().__init__(dtype, Head(feature_dim, num_classes, etf, bias, rngs=rngs))

    def features(self, images: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w d"]:
        """Maps of the last block."""
        images = self.stem_norm(self.stem(images), use_running_average=not train)
        images = jax.nn.relu(images)
        if self.pooled:
            images = halve(images, 3)
        for block in self.blocks:
            images = block(images, train)
        return images


def _residual(
    block: Basic | Bottleneck, images: Float[Array, "B H W C"], train: bool
) -> Float[Array, "B h w d"]:
    """Convolutions normalised, ReLU between them and after the skip is added."""
    maps = images
    for i, (layer, normalise) in enumerate(zip(block.layers, block.norms, strict=True)):
        maps = normalise(layer(jax.nn.relu(maps) if i else maps), use_running_average=not train)
    if block.skip is not None:
        layer, normalise = block.skip
        images = normalise(layer(images), use_running_average=not train)
    return jax.nn.relu(maps + images)


def _skip(
    inputs: int, outputs: int, stride: int, dtype: DTypeLike, rngs: nnx.Rngs
) -> Sequence[Any] | None:
    """A normalised 1 x 1 convolution where the shape changes, else nothing."""
    if stride == 1 and inputs == outputs:
        return None
    return nnx.List([Conv(inputs, outputs, 1, stride, rngs=rngs), norm(outputs, dtype, rngs)])


def _scaled(channels: int, width: float) -> int:
    check_number("width", width, above_zero=True)
    return max(1, round(channels * width))


def _numbered(name: str, values: tuple[int, ...]) -> dict[str, int]:
    if not values:
        raise ValueError(f"{name} = {values}: give one or more.")
    return {f"{name}[{i}]": value for i, value in enumerate(values)}


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        check_integer(name, count)
