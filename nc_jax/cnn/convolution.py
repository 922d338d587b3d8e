"""Convolution of images, as PyTorch means it, by what is fastest where it runs."""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(
    images: Float[Array, "B H W C"], kernel: Float[Array, "kh kw C D"], stride: int, padding: int
) -> Float[Array, "B h w D"]:
    """Cross-correlation with zeros around, PyTorch's Conv2d without a bias; for reverse mode.

    On a CPU XLA multiplies patches, at PyTorch's speed, where axes are in the order of this
    signature. It brings other convolutions into that order, but not inside of a loop such as
    `lax.scan`: there those that `jax.vjp` makes run entry by entry. On maps of 16 x 16 with 128
    channels, value and gradients took 10 times as long as written here. So do convolutions in
    groups, which vmap makes of kernels side by side: on a CPU they go in turn.

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
    plain = _plain(stride, padding)
    on_cpu = _patches_product(stride, padding) if _as_patches(kernel, stride) else plain
    on_cpu = jax.custom_batching.sequential_vmap(on_cpu)
    return jax.lax.platform_dependent(images, kernel, cpu=on_cpu, default=plain)


def _forward(
    images: Array, kernel: Array, stride: int, padding: int
) -> tuple[Array, tuple[Array, Array]]:
    return convolve(images, kernel, stride, padding), (images, kernel)


def _backward(
    stride: int, padding: int, operands: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    images, kernel = operands
    default = functools.partial(_gradients, _plain(stride, padding))
    if _as_patches(kernel, stride):
        on_cpu = functools.partial(_gradients, _patches_product(stride, padding))
    else:
        on_cpu = functools.partial(_ordered_gradients, padding=padding)
    on_cpu = jax.custom_batching.sequential_vmap(on_cpu)
    return jax.lax.platform_dependent(images, kernel, cotangent, cpu=on_cpu, default=default)


convolve.defvjp(_forward, _backward)


def _as_patches(kernel: Array, stride: int) -> bool:
    """Whether patches laid out for one product are faster than XLA's convolution.

    Without a stride they are where a patch is a pixel; with one, everywhere: the gradients of a
    convolution with a stride spread its operands with zeros and multiply those too. An epoch of
    the strided ConvNet on images of 8 x 8 took a tenth of the time.
    """
    return stride > 1 or kernel.shape[:2] == (1, 1)


def _patches_product(stride: int, padding: int) -> Callable[[Array, Array], Array]:
    def product(images: Array, kernel: Array) -> Array:
        (count, height, width, _), (*taps, _, outputs) = images.shape, kernel.shape
        h, w = (
            (side + 2 * padding - k) // stride + 1
            for side, k in zip((height, width), taps, strict=True)
        )
        images = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        shifted = [
            images[:, i : i + (h - 1) * stride + 1 : stride, j : j + (w - 1) * stride + 1 : stride]
            for i, j in itertools.product(*map(range, taps))
        ]
        patches = jnp.concatenate(shifted, axis=-1).reshape(count * h * w, -1)
        return (patches @ kernel.reshape(-1, outputs)).reshape(count, h, w, outputs)

    return product


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
    """The same without a stride, as correlations whose axes are in order.

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
