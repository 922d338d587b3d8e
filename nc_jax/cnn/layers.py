"""What the networks are made of: convolution, batch normalisation, the last layer."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer, variance_scaling
from jaxtyping import Array, DTypeLike, Float, Key

from ..geometry import simplex_etf
from ..problems.base import random_direction
from ..state import LastLayer
from .convolution import convolve

# He's start for ReLU, by outputs, as torchvision starts its ResNets and VGGs.
HE = variance_scaling(2.0, "fan_out", "normal")
# PyTorch's for linear layers: uniform in ±1/√(inputs).
_UNIFORM = variance_scaling(1 / 3, "fan_in", "uniform", in_axis=-1, out_axis=-2)


class FixedClassifier(nnx.Variable):
    """A classifier that no optimiser sees, being no `nnx.Param`."""


class Conv(nnx.Module):
    """Convolution without bias: NHWC images, a (k, k, in, out) kernel, PyTorch's padding.

    Without bias since batch normalisation follows, which takes it away again.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        stride: int = 1,
        init: Initializer = HE,
        *,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(init(rngs.params(), (size, size, inputs, outputs), jnp.float32))
        self.stride = stride

    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        """In the dtype of the images."""
        kernel = self.kernel[...].astype(images.dtype)
        return convolve(images, kernel, self.stride, padding=kernel.shape[0] // 2)


def norm(channels: int, dtype: DTypeLike, rngs: nnx.Rngs, affine: bool = True) -> nnx.BatchNorm:
    """Batch normalisation, ε = 1e-5; running statistics keep 0.9 of themselves at each step.

    The running variance is that of the batch, ÷n. (PyTorch puts in the unbiased one, ÷(n−1).)
    Statistics are taken in float32 whatever the dtype.
    """
    return nnx.BatchNorm(
        channels, momentum=0.9, epsilon=1e-5, dtype=dtype, use_bias=affine, use_scale=affine,
        rngs=rngs,
    )  # fmt: skip


class Head(nnx.Module):
    """The last layer z = Wh + b: learned, or with W a fixed simplex ETF (Zhu, section 4.3).

    A fixed W has unit rows and is the frame of Zhu's footnote 15 up to a rotation of features; the
    bias is learned all the same, as theirs is.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        etf: bool = False,
        bias: bool = True,
        init: Initializer = _UNIFORM,
        *,
        rngs: nnx.Rngs,
    ):
        learned = nnx.Param(init(rngs.params(), (classes, features), jnp.float32))
        frame = FixedClassifier(simplex_etf(classes, features, dtype=jnp.float32)) if etf else None
        self.classifier = learned if frame is None else frame
        limit = features**-0.5
        start = jax.random.uniform(rngs.params(), (classes,), jnp.float32, -limit, limit)
        self.bias = nnx.Param(start) if bias else nnx.data(None)

    def __call__(self, features: Float[Array, "B d"]) -> LastLayer:
        """The state that metrics read."""
        bias = None if self.bias is None else self.bias[...]
        return LastLayer(features, self.classifier[...], bias)


def of_norm(length: float) -> Initializer:
    """Gaussian, scaled to a Frobenius norm (Rangamani, section 7)."""
    return functools.partial(_of_norm, length=length)


def _of_norm(
    key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike, length: float
) -> Float[Array, "..."]:
    direction = random_direction(key, (shape[0], math.prod(shape[1:])), jnp.asarray(length, dtype))
    return direction.reshape(shape)
