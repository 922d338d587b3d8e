"""Convolution and pooling of images, as PyTorch means them, by what is fastest where they run."""

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
    """Cross-correlation with zeros around, PyTorch's Conv2d without a bias; for reverse mode.

    On a CPU XLA multiplies patches, near PyTorch's speed, where axes are in the order of this
    signature. It brings other convolutions into that order, but not inside of a loop such as
    `lax.scan`: there those that `jax.vjp` makes run entry by entry, and ResNet18 trained at a
    quarter of the speed. So do convolutions in groups, which vmap makes of kernels side by side: on
    a CPU they go in turn.

    Args: `stride` and `padding` of both axes.

    Returns shape (B, h, w, D), with h = (H + 2 padding − kh) // stride + 1 and so w.

    Raises: ValueError for a kernel that does not fit into the padded images.

    Example: `convolve(images, kernel, stride=1, padding=1)` keeps the size of maps for 3 x 3.
    """
    sides, taps = images.shape[1:3], kernel.shape[:2]
    if any(k > side + 2 * padding for side, k in zip(sides, taps, strict=True)):
        raise ValueError(
            f"kernel of {taps[0]} x {taps[1]} does not fit into images of {sides[0]} x {sides[1]} "
            f"with padding = {padding}: pad more or pool less."
        )
    # Taps that see nothing but zeros: 8 of 9 where maps have shrunk to one pixel.
    blind = max(0, padding + 1 - max(sides)) if stride == 1 else 0
    if blind and taps == (2 * padding + 1,) * 2:
        kernel, padding = kernel[blind:-blind, blind:-blind], padding - blind
    return _convolve(images, kernel, stride, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(images: Array, kernel: Array, stride: int, padding: int) -> Array:
    plain = _plain(stride, padding)
    on_cpu = plain
    if _as_patches(images, kernel, stride):
        on_cpu = functools.partial(_patches_product, stride=stride, padding=padding)
    on_cpu = jax.custom_batching.sequential_vmap(on_cpu)
    return jax.lax.platform_dependent(images, kernel, cpu=on_cpu, default=plain)


def _forward(
    images: Array, kernel: Array, stride: int, padding: int
) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(images, kernel, stride, padding), (images, kernel)


def _backward(
    stride: int, padding: int, operands: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
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
    """Whether patches laid out for one product are faster than XLA's convolution.

    Without a stride they are where a patch is a pixel, and where images are smaller than the
    kernel: XLA swaps the two then, out of order. With a stride they are everywhere: gradients of
    convolutions spread their operands with zeros and multiply those too.
    """
    small = any(side < taps for side, taps in zip(images.shape[1:3], kernel.shape[:2], strict=True))
    return stride > 1 or kernel.shape[:2] == (1, 1) or small


def _patches_product(images: Array, kernel: Array, stride: int, padding: int) -> Array:
    outputs = kernel.shape[-1]
    patches = _patches(images, kernel.shape[:2], stride, padding)
    product = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, outputs)
    return product.reshape(*patches.shape[:3], outputs)


def _patches(images: Array, taps: Sequence[int], stride: int, padding: int) -> Array:
    """What each output sees, shape (B, h, w, kh kw C)."""
    images = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    h, w = ((side - k) // stride + 1 for side, k in zip(images.shape[1:3], taps, strict=True))
    shifted = [
        images[:, i : i + (h - 1) * stride + 1 : stride, j : j + (w - 1) * stride + 1 : stride]
        for i, j in itertools.product(*map(range, taps))
    ]
    return jnp.concatenate(shifted, axis=-1)


def _patches_gradients(
    images: Array, kernel: Array, cotangent: Array, stride: int, padding: int
) -> tuple[Array, Array]:
    """Gradients of images and kernel by two products.

    Patches are put back phase by phase: rows and columns that leave the same rest by the stride
    come from few taps, without the zeros between them that `jax.vjp` of slices makes for each tap.
    """
    (count, height, width, channels), (*taps, _, outputs) = images.shape, kernel.shape
    patches = _patches(images, taps, stride, padding)
    h, w = patches.shape[1:3]
    slopes = cotangent.reshape(-1, outputs)
    of_kernel = patches.reshape(-1, patches.shape[-1]).T @ slopes
    of_patches = (slopes @ kernel.reshape(-1, outputs).T).reshape(count, h, w, *taps, channels)
    last = [(k - 1) // stride for k in taps]

    def phase(row: int, column: int) -> Array:
        total = jnp.zeros((count, h + last[0], w + last[1], channels), of_patches.dtype)
        for i in range(row, taps[0], stride):
            for j in range(column, taps[1], stride):
                down, right = i // stride, j // stride
                around = ((0, 0), (down, last[0] - down), (right, last[1] - right), (0, 0))
                total += jnp.pad(of_patches[:, :, :, i, j], around)
        return total

    phases = jnp.stack(
        [jnp.stack([phase(a, b) for b in range(stride)], 3) for a in range(stride)], 2
    )
    rows, columns = phases.shape[1] * stride, phases.shape[3] * stride
    padded = phases.reshape(count, rows, columns, channels)
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
    """Gradients of both without a stride, as correlations whose axes are in order.

    Of images: the cotangent with the kernel upside down. Of the kernel: channels of the images as a
    batch, with the cotangent as a kernel.
    """
    upside_down = kernel[::-1, ::-1].swapaxes(2, 3)
    around = [(taps - 1 - padding, taps - 1 - padding) for taps in kernel.shape[:2]]
    of_images = _correlate(cotangent, upside_down, around)
    of_kernel = _correlate(
        images.transpose(3, 1, 2, 0), cotangent.transpose(1, 2, 0, 3), [(padding, padding)] * 2
    )
    return of_images, of_kernel.transpose(1, 2, 0, 3)


def _correlate(
    images: Array, kernel: Array, padding: Sequence[tuple[int, int]], stride: int = 1
) -> Array:
    """Negative padding crops."""
    return jax.lax.conv_general_dilated(
        images, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def halve(images: Float[Array, "B H W C"], taps: int) -> Float[Array, "B h w C"]:
    """Greatest of taps x taps pixels around every second one, PyTorch's MaxPool2d of stride 2.

    Shape (B, ⌈H/2⌉, ⌈W/2⌉, C): two taps are those of `ceil_mode=True`, three have padding 1. Of
    equal pixels the first has the gradient, and NaN is the greatest.

    On a CPU the gradient that XLA has for windows takes a tenth of ResNet18's time, and that of
    slices compared in turn a twelfth as long.

    Example: `halve(images, taps=2)`.
    """
    before, sides = (taps - 1) // 2, images.shape[1:3]
    h, w = ((side + 1) // 2 for side in sides)
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
        for other in others:
            first = jnp.where((other > first) | jnp.isnan(other), other, first)
        return first

    return jax.lax.platform_dependent(images, cpu=slices, default=windows)
