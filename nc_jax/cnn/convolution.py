"""Convolution and pooling with PyTorch's conventions, in the fastest form for the platform."""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def convolve(
    images: Float[Array, "B H W C"], kernel: Float[Array, "kh kw C D"], stride: int, padding: int
) -> Float[Array, "B h w D"]:
    """Cross-correlation with zero padding: PyTorch's Conv2d without a bias.

    It has a reverse-mode derivative only. On a CPU XLA computes a convolution as a product of
    patches, close to PyTorch's speed, if its axes have the order of this signature. Outside of
    loops XLA transposes other convolutions into that order. Inside of a loop, such as `lax.scan`,
    it does not, and the gradients that `jax.vjp` writes then run entry by entry: a ResNet18 trains
    at a quarter of the speed. So do the grouped convolutions that `vmap` forms of a batch of
    kernels. Therefore the gradients are written out here in that order, and a batch of kernels is
    computed one kernel after another on a CPU.

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
    return _convolve(images, kernel, stride, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(images: Array, kernel: Array, stride: int, padding: int) -> Array:
    # `platform_dependent` chooses when the program is lowered: the device that will run it is not
    # known while it is traced, so that a Python `if` on the backend could choose wrongly.
    plain = _plain(stride, padding)
    on_cpu = plain
    if _as_patches(images, kernel, stride):
        on_cpu = functools.partial(_patches_product, stride=stride, padding=padding)
    # Under `vmap` a loop over the batch: the grouped convolution that `vmap` forms is slow on a
    # CPU.
    on_cpu = jax.custom_batching.sequential_vmap(on_cpu)
    return jax.lax.platform_dependent(images, kernel, cpu=on_cpu, default=plain)


def _forward(
    images: Array, kernel: Array, stride: int, padding: int
) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(images, kernel, stride, padding), (images, kernel)


def _backward(
    stride: int, padding: int, operands: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    # `custom_vjp` passes the arguments of `nondiff_argnums` first.
    images, kernel = operands
    default = functools.partial(_gradients, _plain(stride, padding))
    if _as_patches(images, kernel, stride):
        on_cpu = functools.partial(_patches_gradients, stride=stride, padding=padding)
    else:
        on_cpu = functools.partial(_ordered_gradients, padding=padding)
    on_cpu = jax.custom_batching.sequential_vmap(on_cpu)
    return jax.lax.platform_dependent(images, kernel, cotangent, cpu=on_cpu, default=default)


_convolve.defvjp(_forward, _backward)


def _as_patches(images: Array, kernel: Array, stride: int) -> bool:
    """Whether one product of explicit patches is faster on a CPU than XLA's convolution.

    For stride 1 it is faster if a patch is a single pixel, or if the images are smaller than the
    kernel: XLA then exchanges images and kernel, and their axes lose the fast order. For larger
    strides it is always faster: XLA's gradient of a strided convolution inserts zeros between the
    entries of its operand and multiplies by them too.
    """
    small = any(side < taps for side, taps in zip(images.shape[1:3], kernel.shape[:2], strict=True))
    return stride > 1 or kernel.shape[:2] == (1, 1) or small


def _patches_product(images: Array, kernel: Array, stride: int, padding: int) -> Array:
    outputs = kernel.shape[-1]
    patches = _patches(images, kernel.shape[:2], stride, padding)
    product = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, outputs)
    return product.reshape(*patches.shape[:3], outputs)


def _patches(images: Array, taps: Sequence[int], stride: int, padding: int) -> Array:
    """The input of each output entry, shape (B, h, w, kh kw C)."""
    images = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    h, w = ((side - k) // stride + 1 for side, k in zip(images.shape[1:3], taps, strict=True))
    # Slices, one for each entry of the kernel: `jax.lax.conv_general_dilated_patches` is itself a
    # convolution, with a kernel of zeros and ones.
    shifted = [
        images[:, i : i + (h - 1) * stride + 1 : stride, j : j + (w - 1) * stride + 1 : stride]
        for i, j in itertools.product(*map(range, taps))
    ]
    return jnp.concatenate(shifted, axis=-1)


def _patches_gradients(
    images: Array, kernel: Array, cotangent: Array, stride: int, padding: int
) -> tuple[Array, Array]:
    """Gradients of images and kernel by two products.

    The gradient of a pixel is the sum of the gradients of all patches that contain it. The pixels
    are divided into phases, by their row and column modulo the stride, and the sum is computed for
    each phase separately: the entry (i, j) of the kernel contributes to the phase (i, j) modulo the
    stride alone. In this way no array with zeros between its entries is formed; `jax.vjp` of
    strided slices forms one for each entry of the kernel.
    """
    (count, height, width, channels), (*taps, _, outputs) = images.shape, kernel.shape
    patches = _patches(images, taps, stride, padding)
    h, w = patches.shape[1:3]
    slopes = cotangent.reshape(-1, outputs)
    of_kernel = patches.reshape(-1, patches.shape[-1]).T @ slopes
    of_patches = (slopes @ kernel.reshape(-1, outputs).T).reshape(count, h, w, *taps, channels)
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
    of_images = jax.lax.pad(
        padded, jnp.zeros((), padded.dtype),
        ((0, 0, 0), (-padding, padding + height - rows, 0),
         (-padding, padding + width - columns, 0), (0, 0, 0)),
    )  # fmt: skip
    return of_images, of_kernel.reshape(kernel.shape)


def _plain(stride: int, padding: int) -> Callable[[Array, Array], Array]:
    around = ((padding, padding),) * 2
    return functools.partial(_correlate, padding=around, stride=stride)


def _gradients(
    function: Callable[[Array, Array], Array], images: Array, kernel: Array, cotangent: Array
) -> tuple[Array, Array]:
    return jax.vjp(function, images, kernel)[1](cotangent)


def _ordered_gradients(
    images: Array, kernel: Array, cotangent: Array, padding: int
) -> tuple[Array, Array]:
    """Gradients for stride 1, as correlations whose axes are in the fast order.

    The gradient of the images is the correlation of the cotangent with the kernel rotated by 180
    degrees. The gradient of the kernel is the correlation of the images with the cotangent: the
    channels of the images are its batch axis, and the batch axis is its input channels.
    """
    # Padding of taps − 1 would be the full correlation; the gradient of the padding is left out.
    rotated = kernel[::-1, ::-1].swapaxes(2, 3)
    around = [(taps - 1 - padding, taps - 1 - padding) for taps in kernel.shape[:2]]
    of_images = _correlate(cotangent, rotated, around)
    of_kernel = _correlate(
        images.transpose(3, 1, 2, 0), cotangent.transpose(1, 2, 0, 3), [(padding, padding)] * 2
    )
    return of_images, of_kernel.transpose(1, 2, 0, 3)


def _correlate(
    images: Array, kernel: Array, padding: Sequence[tuple[int, int]], stride: int = 1
) -> Array:
    """XLA's convolution of NHWC images with an HWIO kernel; negative padding crops the images."""
    # The CPU's fast kernels need this order of axes: see `convolve`.
    return jax.lax.conv_general_dilated(
        images, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
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
