"""Layers of the networks: convolution, batch normalisation, the last layer."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer, variance_scaling
from jaxtyping import Array, DTypeLike, Float, Key

from ..checks import check_kind
from ..geometry import simplex_etf
from ..starts import gaussian_direction
from ..state import LastLayer
from .convolution import convolve

# He's initialisation for ReLU, scaled by the number of outputs ("fan_out"), as in torchvision's
# ResNets and VGGs.
HE = variance_scaling(2.0, "fan_out", "normal")
# PyTorch's initialisation of linear layers: uniform in ±1/√(inputs), whose variance is 1/(3
# inputs). The axes are those of a classifier (outputs, inputs).
_UNIFORM = variance_scaling(1 / 3, "fan_in", "uniform", in_axis=-1, out_axis=-2)


class FixedClassifier(nnx.Variable):
    """A classifier that is not trained, since only an `nnx.Param` is passed to the optimiser."""


class Conv(nnx.Module):
    """Convolution of NHWC images with a (k, k, in, out) kernel and padding k // 2, without bias.

    There is no bias, because the batch normalisation after each convolution would subtract it.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        stride: int = 1,
        init: Initializer = HE,
        rngs: nnx.Rngs,
    ):
        # Every network begins with a convolution, so that one check serves them all.
        check_kind("rngs", rngs, nnx.Rngs, "flax.nnx.Rngs(0)")
        self.kernel = nnx.Param(init(rngs.params(), (size, size, inputs, outputs), jnp.float32))
        self.stride = stride

    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        """Maps in the dtype of the images."""
        kernel = self.kernel[...].astype(images.dtype)
        inputs = kernel.shape[2]
        if images.shape[-1] != inputs:
            raise ValueError(
                f"images have shape {images.shape}: the convolution takes {inputs} channels in the "
                "last axis; give (N, H, W, C)."
            )
        return convolve(images, kernel, self.stride, padding=kernel.shape[0] // 2)


def norm(channels: int, dtype: DTypeLike, rngs: nnx.Rngs, *, affine: bool = True) -> nnx.BatchNorm:
    """Batch normalisation with ε = 1e-5 and running statistics of momentum 0.9.

    A step replaces a running statistic r by 0.9 r + 0.1 b, where b is the statistic of the batch.
    The variance of the batch is divided by n (for running statistics PyTorch divides by n−1).
    Statistics are computed in float32 for every dtype.
    """
    return nnx.BatchNorm(
        channels, momentum=0.9, epsilon=1e-5, dtype=dtype, use_bias=affine, use_scale=affine,
        rngs=rngs,
    )  # fmt: skip


class Head(nnx.Module):
    """The last layer z = Wh + b, with W trained or fixed to a simplex ETF (Zhu, section 4.3).

    A fixed W has rows of norm 1 and equals that of Zhu's footnote 15 up to a rotation of the
    features. The bias is trained in both cases, as in Zhu et al.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        etf: bool = False,
        bias: bool = True,
        init: Initializer = _UNIFORM,
        rngs: nnx.Rngs,
    ):
        # The matrix is drawn for a fixed classifier too, so that the parameters that are drawn
        # after it do not depend on `etf`.
        trained = nnx.Param(init(rngs.params(), (classes, features), jnp.float32))
        frame = FixedClassifier(simplex_etf(classes, features, dtype=jnp.float32)) if etf else None
        self.classifier = trained if frame is None else frame
        limit = features**-0.5
        start = jax.random.uniform(rngs.params(), (classes,), jnp.float32, -limit, limit)
        self.bias = nnx.Param(start) if bias else nnx.data(None)

    def __call__(self, features: Float[Array, "B d"]) -> LastLayer:
        """The state of which metrics are computed."""
        bias = None if self.bias is None else self.bias[...]
        return LastLayer(features, self.classifier[...], bias)


def of_norm(length: float) -> Initializer:
    """Initialisation by a Gaussian matrix scaled to a Frobenius norm (Rangamani, section 7)."""
    return functools.partial(_of_norm, length=length)


def _of_norm(
    key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike, length: float
) -> Float[Array, "..."]:
    direction = gaussian_direction(
        key, (shape[0], math.prod(shape[1:])), jnp.asarray(length, dtype)
    )
    return direction.reshape(shape)
