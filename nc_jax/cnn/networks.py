"""The networks that the papers train.

A network takes images (B, H, W, C) and returns a `LastLayer`: features (B, d), classifier and bias.
Its logits are `network(images, train=False).logits()`. With `train=True` maps are normalised by the
statistics of the batch, which also update the running statistics.
"""

import abc
import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, DTypeLike, Float

from ..checks import check_integer, check_kind, check_number
from ..state import LastLayer
from .convolution import halve
from .layers import Conv, Head, norm, of_norm
from .stems import AbstractStem, ImageNetStem


class Network(nnx.Module):
    """A network with a last layer; a subclass defines the maps that become its features.

    A subclass sets its layers in `__init__`, calls `super().__init__(dtype, head)` and defines
    `features`.

    Args:
        dtype: dtype to which images are converted and in which all layers but the head compute.
        head: the last layer.

    Example:
        >>> from flax import nnx
        >>> from nc_jax import cnn
        >>> from nc_jax.cnn.layers import Head
        >>> class Pixels(cnn.Network):
        ...     def features(self, images, train):
        ...         return images
        >>> network = Pixels(jnp.float32, Head(3, 10, rngs=nnx.Rngs(0)))
        >>> network(jnp.ones((2, 8, 8, 3)), train=False)
        LastLayer(features=f32[2,3], classifier=f32[10,3], bias=f32[10])
    """

    def __init__(self, dtype: DTypeLike, head: Head):
        self.dtype = dtype
        self.head = head

    @abc.abstractmethod
    def features(self, images: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w d"]:
        """Maps (B, h, w, d), whose means over height and width are the features (B, d)."""

    def __call__(self, images: Float[ArrayLike, "B H W C"], train: bool) -> LastLayer:
        """The last layer for these images, in the dtype of the head's parameters."""
        # Flax computes the statistics of bfloat16 maps in float32. This promotes dtypes, which is
        # an error where the user has set jax_numpy_dtype_promotion to "strict".
        with jax.numpy_dtype_promotion("standard"):
            maps = self.features(jnp.asarray(images, self.dtype), train)
        # Maps are converted before the mean is computed: a mean in bfloat16 would lose digits.
        return self.head(jnp.mean(maps.astype(self.head.classifier[...].dtype), axis=(1, 2)))


class ConvNet(Network):
    """3 x 3 convolutions, each followed by ReLU and batch normalisation (Rangamani, section 7).

    Batch normalisation has no parameters. The paper states neither stride nor pooling. Here each
    convolution has stride 2, and features are means of the last maps, so that the output is
    homogeneous in the parameters of each layer, as in the paper.

    Args:
        channels: number of channels of the images.
        num_classes: K.
        widths: number of channels of each convolution; the last is d.
        weight_norm: Frobenius norm of every weight matrix at the start, as in the paper; None for
            He's initialisation.
        etf: whether the classifier is a fixed simplex ETF instead of a parameter.
        bias: whether the last layer has a bias.
        dtype: dtype of the convolutions, such as bfloat16 on accelerators.
        rngs: random streams that draw the parameters.

    Raises: ValueError for a count below 1 or a norm that is not positive.

    Example:
        >>> from nc_jax import cnn
        >>> from flax import nnx
        >>> network = cnn.ConvNet(1, 10, widths=(4,), rngs=nnx.Rngs(0))
        >>> network(jnp.ones((2, 8, 8, 1)), train=False).logits().shape
        (2, 10)
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        widths: tuple[int, ...] = (32, 64, 128),
        weight_norm: float | None = None,
        etf: bool = False,
        bias: bool = True,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        _check_counts(channels=channels, num_classes=num_classes, **_numbered("widths", widths))
        if weight_norm is not None:
            check_number("weight_norm", weight_norm, above_zero=True)
        # The paper sets the norm of all weight matrices, the classifier among them.
        start = {} if weight_norm is None else {"init": of_norm(weight_norm)}
        pairs = list(itertools.pairwise((channels, *widths)))
        self.convolutions = nnx.List(
            [Conv(a, b, 3, stride=2, **start, rngs=rngs) for a, b in pairs]
        )
        self.norms = nnx.List([norm(b, dtype, rngs, affine=False) for _, b in pairs])
        super().__init__(
            dtype, Head(widths[-1], num_classes, etf=etf, bias=bias, **start, rngs=rngs)
        )

    def features(self, images: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w d"]:
        """Maps of the last convolution."""
        for convolution, normalise in zip(self.convolutions, self.norms, strict=True):
            images = normalise(jax.nn.relu(convolution(images)), use_running_average=not train)
        return images


class VGG(Network):
    """VGG13 with batch normalisation: five pairs of 3 x 3 convolutions, each pooled (Ji, app. D).

    For images of 32 x 32 pixels. Pooling of an odd side includes the border, so that smaller images
    are reduced to 1 x 1 at the least. One linear layer follows, as in versions of VGG for CIFAR.

    Args:
        channels: number of channels of the images.
        num_classes: K.
        width: factor of the number of channels of all layers.
        feature_dim: d; None for 512·width.
        etf: whether the classifier is a fixed simplex ETF instead of a parameter.
        bias: whether the last layer has a bias.
        dtype: dtype of all but the head, such as bfloat16 on accelerators.
        rngs: random streams that draw the parameters.

    Raises: ValueError for a count below 1 or a width that is not positive.

    Example:
        >>> from nc_jax import cnn
        >>> from flax import nnx
        >>> network = nnx.eval_shape(lambda: cnn.VGG(3, 10, rngs=nnx.Rngs(0)))
        >>> len(network.convolutions), network.head.classifier.shape
        (10, (10, 512))
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        width: float = 1.0,
        feature_dim: int | None = None,
        etf: bool = False,
        bias: bool = True,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        widths = [_scaled(base, width) for base in (64, 128, 256, 512, 512) for _ in range(2)]
        # `feature_dim` changes the last convolution alone, since its output channels are the
        # features.
        widths[-1] = widths[-1] if feature_dim is None else feature_dim
        _check_counts(channels=channels, num_classes=num_classes, feature_dim=widths[-1])
        pairs = list(itertools.pairwise((channels, *widths)))
        self.convolutions = nnx.List([Conv(a, b, 3, rngs=rngs) for a, b in pairs])
        self.norms = nnx.List([norm(b, dtype, rngs) for _, b in pairs])
        super().__init__(dtype, Head(widths[-1], num_classes, etf=etf, bias=bias, rngs=rngs))

    def features(self, images: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w d"]:
        """Maps after the last pooling."""
        for i, (convolution, normalise) in enumerate(
            zip(self.convolutions, self.norms, strict=True)
        ):
            images = jax.nn.relu(normalise(convolution(images), use_running_average=not train))
            # After every second convolution.
            if i % 2:
                images = halve(images, 2)
        return images


class Basic(nnx.Module):
    """A residual block of two 3 x 3 convolutions, which ends in a ReLU."""

    expansion: ClassVar[int] = 1

    def __init__(
        self, inputs: int, width: int, outputs: int, stride: int, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.layers = nnx.List([
            Conv(inputs, width, 3, stride=stride, rngs=rngs), Conv(width, outputs, 3, rngs=rngs),
        ])  # fmt: skip
        self.norms = nnx.List([norm(channels, dtype, rngs) for channels in (width, outputs)])
        self.skip = _skip(inputs, outputs, stride, dtype, rngs)

    def __call__(self, images: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w d"]:
        """Maps of the block."""
        return _residual(self, images, train)


class Bottleneck(nnx.Module):
    """A residual block of 1 x 1, 3 x 3 (with the stride) and 1 x 1 convolutions, ending in a ReLU.

    `expansion` is the ratio of its output channels to those of its 3 x 3 convolution.
    """

    expansion: ClassVar[int] = 4

    def __init__(
        self, inputs: int, width: int, outputs: int, stride: int, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.layers = nnx.List([
            Conv(inputs, width, 1, rngs=rngs), Conv(width, width, 3, stride=stride, rngs=rngs),
            Conv(width, outputs, 1, rngs=rngs),
        ])  # fmt: skip
        self.norms = nnx.List([norm(channels, dtype, rngs) for channels in (width, width, outputs)])
        self.skip = _skip(inputs, outputs, stride, dtype, rngs)

    def __call__(self, images: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w d"]:
        """Maps of the block."""
        return _residual(self, images, train)


_BLOCKS = {18: (Basic, (2, 2, 2, 2)), 50: (Bottleneck, (3, 4, 6, 3))}


class ResNet(Network):
    """ResNet18 or ResNet50 (He et al. 2016), with the stride on 3 x 3 convolutions as torchvision.

    `feature_dim` changes the output channels of the last block alone, whose skip connection then is
    a projection. Zhu et al. train d = K in this way (section 4.3).

    Args:
        channels: number of channels of the images.
        num_classes: K.
        depth: 18 or 50.
        stem: layers before the first block: `ImageNetStem()`, `CIFARStem()` or another subclass of
            `AbstractStem`.
        width: factor of the number of channels of all layers.
        feature_dim: d; None for 512·width, or 2048·width for ResNet50.
        etf: whether the classifier is a fixed simplex ETF instead of a parameter.
        bias: whether the last layer has a bias.
        dtype: dtype of all but the head, such as bfloat16 on accelerators.
        rngs: random streams that draw the parameters.

    Raises: ValueError for another depth, a stem that is no `AbstractStem`, a count below 1 or a
    width that is not positive.

    Example:
        >>> from nc_jax import cnn
        >>> from flax import nnx
        >>> build = lambda: cnn.ResNet(3, 10, feature_dim=10, rngs=nnx.Rngs(0))
        >>> parameters = jax.tree.leaves(nnx.state(nnx.eval_shape(build), nnx.Param))
        >>> sum(parameter.size for parameter in parameters)
        8867542
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        depth: int = 18,
        stem: AbstractStem = ImageNetStem(),
        width: float = 1.0,
        feature_dim: int | None = None,
        etf: bool = False,
        bias: bool = True,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if depth not in _BLOCKS:
            raise ValueError(f"depth = {depth}: give one of {sorted(_BLOCKS)}.")
        check_kind("stem", stem, AbstractStem, "cnn.ImageNetStem() or cnn.CIFARStem()")
        block, counts = _BLOCKS[depth]
        widths = [_scaled(base, width) for base in (64, 128, 256, 512)]
        feature_dim = block.expansion * widths[-1] if feature_dim is None else feature_dim
        _check_counts(channels=channels, num_classes=num_classes, feature_dim=feature_dim)
        self.stem = stem.build(channels, widths[0], dtype=dtype, rngs=rngs)
        # The first block of stages 2, 3 and 4 has stride 2 and halves the maps.
        plan = [
            (stage, 2 if stage and not place else 1)
            for stage, count in enumerate(counts)
            for place in range(count)
        ]
        outputs = [block.expansion * widths[stage] for stage, _ in plan]
        # `feature_dim` changes the last block alone, as in Zhu et al.: all layers below are those
        # of the usual ResNet.
        outputs[-1] = feature_dim
        self.blocks = nnx.List([
            block(before, widths[stage], after, stride, dtype, rngs)
            for (stage, stride), before, after in zip(
                plan, [widths[0], *outputs[:-1]], outputs, strict=True
            )
        ])  # fmt: skip
        super().__init__(dtype, Head(feature_dim, num_classes, etf=etf, bias=bias, rngs=rngs))

    def features(self, images: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w d"]:
        """Maps of the last block."""
        images = self.stem(images, train)
        for block in self.blocks:
            images = block(images, train)
        return images


def _residual(
    block: Basic | Bottleneck, images: Float[Array, "B H W C"], train: bool
) -> Float[Array, "B h w d"]:
    """Normalised convolutions with ReLU between them, plus the skip connection, then ReLU."""
    maps = images
    for i, (layer, normalise) in enumerate(zip(block.layers, block.norms, strict=True)):
        # The input of a block is the output of a ReLU (or of the stem) already.
        maps = normalise(layer(jax.nn.relu(maps) if i else maps), use_running_average=not train)
    if block.skip is not None:
        layer, normalise = block.skip
        images = normalise(layer(images), use_running_average=not train)
    return jax.nn.relu(maps + images)


def _skip(
    inputs: int, outputs: int, stride: int, dtype: DTypeLike, rngs: nnx.Rngs
) -> Sequence[Any] | None:
    """A normalised 1 x 1 convolution if the block changes the shape of its maps, else None."""
    # Wherever the shapes allow it the skip connection is the identity, which has no parameters and
    # no rounding error.
    if stride == 1 and inputs == outputs:
        return None
    return nnx.List(
        [Conv(inputs, outputs, 1, stride=stride, rngs=rngs), norm(outputs, dtype, rngs)]
    )


def _scaled(channels: int, width: float) -> int:
    check_number("width", width, above_zero=True)
    # A small factor would round a layer to no channels.
    return max(1, round(channels * width))


def _numbered(name: str, values: tuple[int, ...]) -> dict[str, int]:
    if not values:
        raise ValueError(f"{name} = {values}: give one or more.")
    return {f"{name}[{i}]": value for i, value in enumerate(values)}


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        check_integer(name, count)
