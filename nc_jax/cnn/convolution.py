"""Convolution and pooling with PyTorch's conventions, in the fastest form for the platform."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float


def convolve(
    images: Float[Array, "B H W C"], kernel: Float[Array, "kh kw C D"], stride: int, padding: int
) -> Float[Array, "B h w D"]:
    """Cross-correlation with zero padding: PyTorch's Conv2d without a bias.

    It has derivatives of every order, in forward and in reverse mode. On a CPU XLA computes a
    convolution as a product of patches, close to PyTorch's speed, if its axes have the order of
    this signature. Outside of loops XLA transposes other convolutions into that order. Inside of a
    loop, such as `lax.scan`, it does not, and the gradients that JAX derives of that
    convolution then run entry by entry: a ResNet18 trains at a quarter of the speed. So do the
    grouped convolutions that `vmap` forms of a batch of kernels. Therefore the convolution and its
    two gradients are primitives here, whose programs for a CPU have that order.

    Args:
        images: batch of images or maps.
        kernel: weights of height kh and width kw.
        stride: step along both axes.
        padding: number of zeros added on each side of both axes.

    Returns shape (B, h, w, D) with h = (H + 2 padding − kh) // stride + 1, and w likewise.

    Raises: ValueError for a kernel that is larger than the padded images.

    Example:
        >>> from nc_jax import cnn
        >>> image, mean = jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)) / 9
        >>> cnn.convolve(image, mean, stride=1, padding=0).shape
        (1, 2, 2, 1)
    """
    sides, taps = images.shape[1:3], kernel.shape[:2]
    if any(k > side + 2 * padding for side, k in zip(sides, taps, strict=True)):
        raise ValueError(
            f"kernel of {taps[0]} x {taps[1]} does not fit into images of {sides[0]} x {sides[1]} "
            f"with padding = {padding}: use more padding or less pooling."
        )
    # Rows and columns of the kernel that are multiplied by padding only are cut off: for maps of
    # one pixel these are 8 of 9 entries of a 3 x 3 kernel. The cut is the same on all four sides,
    # hence `max(sides)`, and at stride 1 the output of a kernel of 2 padding + 1 keeps its size.
    unused = max(0, padding + 1 - max(sides)) if stride == 1 else 0
    if unused and taps == (2 * padding + 1,) * 2:
        kernel, padding = kernel[unused:-unused, unused:-unused], padding - unused
    (height, width), (rows, columns) = sides, kernel.shape[:2]
    window = _Window((height, width), (rows, columns), stride, padding)
    return _CONVOLUTION.bind(images, kernel, window=window)


class _Window(NamedTuple):
    """The sizes that a convolution and its gradients share, apart from batch and channels.

    Attributes:
        sides: height and width of the images.
        taps: height and width of the kernel.
        stride, padding: as in `convolve`.
    """

    sides: tuple[int, int]
    taps: tuple[int, int]
    stride: int
    padding: int

    @property
    def around(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Numbers of zeros before and after, for both axes."""
        one = (self.padding, self.padding)
        return one, one

    @property
    def outputs(self) -> tuple[int, int]:
        """Height and width of the result."""
        h, w = (
            (side + 2 * self.padding - taps) // self.stride + 1
            for side, taps in zip(self.sides, self.taps, strict=True)
        )
        return h, w

    @property
    def as_patches(self) -> bool:
        """Whether one product of explicit patches is faster on a CPU than XLA's convolution.

        For stride 1 it is faster if a patch is a single pixel, or if the images are smaller than
        the kernel: XLA then exchanges images and kernel, and their axes lose the fast order. For
        larger strides it is always faster: XLA's gradient of a strided convolution inserts zeros
        between the entries of its operand and multiplies by them too.
        """
        small = any(side < taps for side, taps in zip(self.sides, self.taps, strict=True))
        return self.stride > 1 or self.taps == (1, 1) or small


# The convolution y = x ∗ k is bilinear, and so are its gradients (y, k) → x and (x, y) → k. The
# derivative of each of the three with respect to an operand is the same map again, and the
# transpose of that derivative is one of the other two. The three are therefore closed under
# differentiation, in both modes and at every order.
#
# A function below with the ending `_plain` leaves the order of the axes to XLA.


def _convolution(images: Array, kernel: Array, *, window: _Window) -> Array:
    if not window.as_patches:
        return _convolution_plain(images, kernel, window=window)
    outputs = kernel.shape[-1]
    patches = _patches(images, window)
    product = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, outputs)
    return product.reshape(*patches.shape[:3], outputs)


def _convolution_plain(images: Array, kernel: Array, *, window: _Window) -> Array:
    return _correlate(images, kernel, window.around, stride=window.stride)


def _gradient_of_images(slopes: Array, kernel: Array, *, window: _Window) -> Array:
    """Gradient of the images from that of the result, `slopes`."""
    if window.as_patches:
        return _sum_of_patches(slopes, kernel, window)
    # The correlation of the slopes with the kernel rotated by 180 degrees. Padding of taps − 1
    # would be the full correlation; the gradient of the padding is left out.
    rotated = kernel[::-1, ::-1].swapaxes(2, 3)
    around = [(taps - 1 - window.padding, taps - 1 - window.padding) for taps in window.taps]
    return _correlate(slopes, rotated, around)


def _gradient_of_images_plain(slopes: Array, kernel: Array, *, window: _Window) -> Array:
    like = jax.ShapeDtypeStruct((len(slopes), *window.sides, kernel.shape[2]), slopes.dtype)
    transpose = jax.linear_transpose(
        lambda images: _convolution_plain(images, kernel, window=window), like
    )
    return transpose(slopes)[0]


def _gradient_of_kernel(images: Array, slopes: Array, *, window: _Window) -> Array:
    """Gradient of the kernel from that of the result, `slopes`."""
    if window.as_patches:
        patches = _patches(images, window)
        flat = patches.reshape(-1, patches.shape[-1]).T @ slopes.reshape(-1, slopes.shape[-1])
        return flat.reshape(*window.taps, images.shape[-1], slopes.shape[-1])
    # The correlation of the images with the slopes: the channels of the images are its batch axis,
    # and the batch axis is its input channels.
    kernel = _correlate(images.transpose(3, 1, 2, 0), slopes.transpose(1, 2, 0, 3), window.around)
    return kernel.transpose(1, 2, 0, 3)


def _gradient_of_kernel_plain(images: Array, slopes: Array, *, window: _Window) -> Array:
    like = jax.ShapeDtypeStruct((*window.taps, images.shape[3], slopes.shape[3]), slopes.dtype)
    transpose = jax.linear_transpose(
        lambda kernel: _convolution_plain(images, kernel, window=window), like
    )
    return transpose(slopes)[0]


def _patches(images: Array, window: _Window) -> Array:
    """The input of each output entry, shape (B, h, w, kh kw C)."""
    images = jnp.pad(images, ((0, 0), *window.around, (0, 0)))
    (h, w), stride = window.outputs, window.stride
    # Slices, one for each entry of the kernel: `jax.lax.conv_general_dilated_patches` is itself a
    # convolution, with a kernel of zeros and ones.
    shifted = [
        images[:, i : i + (h - 1) * stride + 1 : stride, j : j + (w - 1) * stride + 1 : stride]
        for i, j in itertools.product(*map(range, window.taps))
    ]
    return jnp.concatenate(shifted, axis=-1)


def _sum_of_patches(slopes: Array, kernel: Array, window: _Window) -> Array:
    """The gradient of each pixel, which is the sum of those of all patches that contain it.

    The pixels are divided into phases, by their row and column modulo the stride, and the sum is
    computed for each phase separately: the entry (i, j) of the kernel contributes to the phase
    (i, j) modulo the stride alone. In this way no array with zeros between its entries is formed;
    `jax.vjp` of strided slices forms one for each entry of the kernel.
    """
    (sides, taps, stride, padding), (h, w) = window, window.outputs
    count, (channels, outputs) = len(slopes), kernel.shape[2:]
    of_patches = slopes.reshape(-1, outputs) @ kernel.reshape(-1, outputs).T
    of_patches = of_patches.reshape(count, h, w, *taps, channels)
    # Largest shift, in rows and columns of a phase, between a patch and one of its pixels.
    last = [(k - 1) // stride for k in taps]

    def phase(row: int, column: int) -> Array:
        total = jnp.zeros((count, h + last[0], w + last[1], channels), of_patches.dtype)
        for i in range(row, taps[0], stride):
            for j in range(column, taps[1], stride):
                down, right = i // stride, j // stride
                around = ((0, 0), (down, last[0] - down), (right, last[1] - right), (0, 0))
                total += jnp.pad(of_patches[:, :, :, i, j], around)
        return total

    # Interleave the phases to the rows and columns of the padded images.
    phases = jnp.stack(
        [jnp.stack([phase(a, b) for b in range(stride)], 3) for a in range(stride)], 2
    )
    rows, columns = phases.shape[1] * stride, phases.shape[3] * stride
    padded = phases.reshape(count, rows, columns, channels)
    # Negative widths remove the padding, which `jnp.pad` would refuse. Positive ones add zeros, the
    # gradient of the last rows and columns, which no patch contains.
    return jax.lax.pad(
        padded, jnp.zeros((), padded.dtype),
        ((0, 0, 0), (-padding, padding + sides[0] - rows, 0),
         (-padding, padding + sides[1] - columns, 0), (0, 0, 0)),
    )  # fmt: skip


def _correlate(
    images: Array, kernel: Array, padding: Sequence[tuple[int, int]], stride: int = 1
) -> Array:
    """XLA's convolution of NHWC images with an HWIO kernel; negative padding crops the images."""
    # The CPU's fast kernels need this order of axes: see `convolve`.
    return jax.lax.conv_general_dilated(
        images, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _primitive(
    name: str,
    plain: Callable[..., Array],
    on_cpu: Callable[..., Array],
    free_axes: tuple[tuple[int, int], tuple[int, int]],
) -> Primitive:
    """A primitive of two operands with a general program and one for CPUs, and its `vmap`.

    Args:
        free_axes: for each operand, its axis over which the result is not summed, and the place of
            this axis in the result.
    """
    primitive = Primitive(name)

    def shape(*operands: jax.core.ShapedArray, window: _Window) -> jax.core.ShapedArray:
        result = jax.eval_shape(functools.partial(plain, window=window), *operands)
        return jax.core.ShapedArray(result.shape, result.dtype)

    def batched(operands: Sequence[Array], axes: Sequence[int | None], *, window: _Window):
        operands = [
            operand if axis is None else jnp.moveaxis(operand, axis, 0)
            for operand, axis in zip(operands, axes, strict=True)
        ]
        one = functools.partial(primitive.bind, window=window)
        if None not in axes:
            # A loop, since the grouped convolution that `vmap` forms is slow on a CPU.
            return jax.lax.platform_dependent(
                *operands,
                cpu=lambda *both: jax.lax.map(lambda pair: one(*pair), both),
                default=jax.vmap(functools.partial(plain, window=window)),
            ), 0
        # One operand is the same for all: the batch becomes part of the free axis of the other.
        place = axes.index(None) ^ 1
        axis, axis_of_result = free_axes[place]
        count = len(operands[place])
        operands[place] = _joined(operands[place], axis)
        result = one(*operands)
        sizes = list(result.shape)
        sizes[axis_of_result : axis_of_result + 1] = [count, sizes[axis_of_result] // count]
        return result.reshape(sizes), axis_of_result

    primitive.def_abstract_eval(shape)
    primitive.def_impl(jax.jit(primitive.bind, static_argnames="window"))
    # The rule for a platform is chosen when a program is lowered: the device that will run it is
    # not known while it is traced, so that a Python `if` on the backend could choose wrongly.
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=False))
    mlir.register_lowering(
        primitive, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu"
    )
    batching.primitive_batchers[primitive] = batched
    return primitive


def _joined(operand: Array, axis: int) -> Array:
    """The operand with its first axis joined to its axis of this number (without the first)."""
    moved = jnp.moveaxis(operand, 0, axis)
    sizes = list(moved.shape)
    sizes[axis : axis + 2] = [sizes[axis] * sizes[axis + 1]]
    return moved.reshape(sizes)


_CONVOLUTION = _primitive(
    "convolution", _convolution_plain, _convolution, free_axes=((0, 0), (3, 3))
)
_OF_IMAGES = _primitive(
    "gradient_of_images", _gradient_of_images_plain, _gradient_of_images,
    free_axes=((0, 0), (2, 3)),
)  # fmt: skip
_OF_KERNEL = _primitive(
    "gradient_of_kernel", _gradient_of_kernel_plain, _gradient_of_kernel,
    free_axes=((3, 2), (3, 3)),
)  # fmt: skip


# Each rule receives the cotangent of the result and both operands, and returns the cotangent of the
# first or of the second operand. The operand that it does not use is the one differentiated.
ad.defbilinear(
    _CONVOLUTION,
    lambda slopes, images, kernel, window: _OF_IMAGES.bind(slopes, kernel, window=window),
    lambda slopes, images, kernel, window: _OF_KERNEL.bind(images, slopes, window=window),
)
ad.defbilinear(
    _OF_IMAGES,
    lambda images, slopes, kernel, window: _CONVOLUTION.bind(images, kernel, window=window),
    lambda images, slopes, kernel, window: _OF_KERNEL.bind(images, slopes, window=window),
)
ad.defbilinear(
    _OF_KERNEL,
    lambda kernel, images, slopes, window: _OF_IMAGES.bind(slopes, kernel, window=window),
    lambda kernel, images, slopes, window: _CONVOLUTION.bind(images, kernel, window=window),
)


def halve(images: Float[Array, "B H W C"], taps: int) -> Float[Array, "B h w C"]:
    """Maximum over taps x taps windows at stride 2: PyTorch's MaxPool2d, which halves the sides.

    Shape (B, ⌈H/2⌉, ⌈W/2⌉, C). Windows of 2 are those of `ceil_mode=True`, windows of 3 those with
    padding 1. Among equal pixels the first receives the gradient; a window with a NaN gives NaN.

    XLA's gradient of window reductions takes a tenth of the time of a ResNet18 on a CPU. There the
    maximum is therefore computed by comparing strided slices one after another, whose gradient
    takes a twelfth of that.

    Example:
        >>> from nc_jax.cnn.convolution import halve
        >>> halve(jnp.arange(9.0).reshape(1, 3, 3, 1), taps=2)[0, :, :, 0].tolist()
        [[4.0, 5.0], [7.0, 8.0]]
    """
    before, sides = (taps - 1) // 2, images.shape[1:3]
    h, w = ((side + 1) // 2 for side in sides)
    # Padding by minus infinity is never the maximum of a window that contains a pixel. It is a
    # NumPy constant, because JAX differentiates `reduce_window` only where it knows the initial
    # value.
    lowest = np.asarray(-np.inf, images.dtype)
    around = [
        (before, 2 * (half - 1) + taps - before - side)
        for half, side in zip((h, w), sides, strict=True)
    ]

    def windows(images: Array) -> Array:
        return jax.lax.reduce_window(
            images, lowest, jax.lax.max, (1, taps, taps, 1), (1, 2, 2, 1),
            ((0, 0), *around, (0, 0)),
        )  # fmt: skip

    def slices(images: Array) -> Array:
        padded = jnp.pad(images, ((0, 0), *around, (0, 0)), constant_values=lowest)
        first, *others = [
            padded[:, i : i + 2 * h - 1 : 2, j : j + 2 * w - 1 : 2]
            for i, j in itertools.product(range(taps), range(taps))
        ]
        # `jnp.maximum` would divide the gradient between equal pixels; PyTorch gives it to the
        # first. A comparison with NaN is false, so that NaN needs its test.
        for other in others:
            first = jnp.where((other > first) | jnp.isnan(other), other, first)
        return first

    return jax.lax.platform_dependent(images, cpu=slices, default=windows)
