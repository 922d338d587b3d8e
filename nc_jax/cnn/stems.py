"""Stems of residual networks: the layers between the images and the first block."""

import abc
import dataclasses

import jax
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from .convolution import halve
from .layers import Conv, norm


class Stem(nnx.Module):
    """A convolution, batch normalisation and ReLU, with pooling or without."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: int,
        stride: int,
        pooled: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        # Another order of these layers would give them other random numbers.
        self.convolution = Conv(inputs, outputs, size, stride=stride, rngs=rngs)
        self.norm = norm(outputs, dtype, rngs)
        self.pooled = pooled

    def __call__(self, images: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w c"]:
        """Maps for the first block."""
        maps = self.norm(self.convolution(images), use_running_average=not train)
        maps = jax.nn.relu(maps)
        return halve(maps, 3) if self.pooled else maps


class AbstractStem(abc.ABC):
    """The choice of a stem for `ResNet`. A subclass builds the layers.

    Example:
        >>> from flax import nnx
        >>> from nc_jax import cnn
        >>> from nc_jax.cnn.layers import Conv
        >>> class Patches(cnn.AbstractStem):
        ...     def build(self, inputs, outputs, *, dtype, rngs):
        ...         layer = Conv(inputs, outputs, 5, stride=5, rngs=rngs)
        ...         return lambda images, train: layer(images)
        >>> layers = Patches().build(3, 8, dtype=jnp.float32, rngs=nnx.Rngs(0))
        >>> layers(jnp.ones((1, 15, 15, 3)), train=False).shape
        (1, 3, 3, 8)
    """

    @abc.abstractmethod
    def build(self, inputs: int, outputs: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Module:
        """Layers from images with `inputs` channels to maps with `outputs` channels.

        The layers are called as `layers(images, train)`; with `train=True` they normalise by the
        statistics of the batch.
        """


@dataclasses.dataclass(frozen=True)
class ImageNetStem(AbstractStem):
    """A 7 x 7 convolution of stride 2 and max-pooling of stride 2, for large images (He et al.).

    Maps have a quarter of the height and width of the images. Ji et al. and Zhu et al. use it for
    images of 28 x 28 and 32 x 32 pixels too.

    Example:
        >>> from nc_jax import cnn
        >>> from flax import nnx
        >>> layers = cnn.ImageNetStem().build(3, 8, dtype=jnp.float32, rngs=nnx.Rngs(0))
        >>> layers(jnp.ones((1, 32, 32, 3), jnp.float32), train=False).shape
        (1, 8, 8, 8)
    """

    def build(self, inputs: int, outputs: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> Stem:
        """The layers, called as `layers(images, train)`."""
        return Stem(inputs, outputs, size=7, stride=2, pooled=True, dtype=dtype, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class CIFARStem(AbstractStem):
    """A 3 x 3 convolution of stride 1 without pooling, for images of about 32 x 32 pixels.

    Maps have the height and width of the images.

    Example:
        >>> from nc_jax import cnn
        >>> from flax import nnx
        >>> layers = cnn.CIFARStem().build(3, 8, dtype=jnp.float32, rngs=nnx.Rngs(0))
        >>> layers(jnp.ones((1, 32, 32, 3), jnp.float32), train=False).shape
        (1, 32, 32, 8)
    """

    def build(self, inputs: int, outputs: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> Stem:
        """The layers, called as `layers(images, train)`."""
        return Stem(inputs, outputs, size=3, stride=1, pooled=False, dtype=dtype, rngs=rngs)
