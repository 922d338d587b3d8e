"""Convolution and pooling against their definitions in NumPy, and what they are compiled to."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import rounding

from nc_jax.cnn import convolution
from nc_jax.cnn.convolution import convolve, halve

SHAPES = {  # images (B, H, W, C), kernel (kh, kw, C, D), stride, padding
    "3 x 3": ((2, 6, 6, 3), (3, 3, 3, 4), 1, 1),
    "no padding": ((2, 5, 8, 3), (3, 3, 3, 2), 1, 0),
    "more padding than taps": ((1, 3, 4, 2), (3, 3, 2, 3), 1, 3),
    "halved": ((2, 8, 7, 3), (3, 3, 3, 4), 2, 1),
    "rows that no window reads": ((2, 10, 9, 2), (3, 3, 2, 3), 3, 0),
    "stem": ((2, 9, 12, 1), (7, 7, 1, 3), 2, 3),
    "kernel as large as the images": ((2, 4, 5, 3), (4, 5, 3, 2), 1, 0),
    "stride as large as the kernel": ((2, 7, 6, 2), (2, 2, 2, 3), 2, 0),
    "stride larger than the kernel": ((2, 8, 8, 2), (2, 2, 2, 3), 3, 1),
    "one pixel": ((3, 1, 1, 4), (3, 3, 4, 2), 1, 1),
    "taps that see nothing": ((2, 2, 1, 3), (7, 7, 3, 2), 1, 3),
    "images smaller than the kernel": ((2, 2, 2, 3), (3, 3, 3, 4), 1, 1),
    "pointwise": ((2, 4, 3, 5), (1, 1, 5, 4), 1, 0),
    "pointwise, halved": ((2, 6, 5, 3), (1, 1, 3, 4), 2, 0),
    "pointwise, padded": ((2, 4, 5, 3), (1, 1, 3, 4), 2, 1),
}


def defined(images, kernel, stride, padding):
    """Value by the definition, and the function from cotangents to gradients."""
    around = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    h, w = (
        (size - taps) // stride + 1
        for size, taps in zip(around.shape[1:3], kernel.shape[:2], strict=True)
    )
    read = {
        (i, j): np.s_[
            :, i : i + (h - 1) * stride + 1 : stride, j : j + (w - 1) * stride + 1 : stride
        ]
        for i, j in itertools.product(*map(range, kernel.shape[:2]))
    }
    value = np.sum([around[window] @ kernel[tap] for tap, window in read.items()], axis=0)

    def gradients(cotangent):
        of_around, of_kernel = np.zeros_like(around), np.zeros_like(kernel)
        for tap, window in read.items():
            of_around[window] += cotangent @ kernel[tap].T
            of_kernel[tap] = np.einsum("bhwc,bhwd->cd", around[window], cotangent)
        height, width = images.shape[1:3]
        return of_around[:, padding : padding + height, padding : padding + width], of_kernel

    return value, gradients


def drawn(shape, kernel_shape, stride, padding, seed=0):
    """Images, kernel and cotangent in float64."""
    rng = np.random.default_rng(seed)
    images, kernel = rng.normal(size=shape), rng.normal(size=kernel_shape)
    return images, kernel, rng.normal(size=defined(images, kernel, stride, padding)[0].shape)


def computed(images, kernel, cotangent, stride, padding):
    """Value and both gradients."""
    value, pull = jax.vjp(lambda x, k: convolve(x, k, stride, padding), images, kernel)
    return value, *pull(cotangent)


@functools.cache
def compiled(stride, padding):
    return jax.jit(lambda x, kernel, cotangent: computed(x, kernel, cotangent, stride, padding))


@pytest.mark.parametrize("case", SHAPES.values(), ids=SHAPES.keys())
def test_value_and_gradients_are_those_of_the_definition(case):
    images, kernel, cotangent = drawn(*case)
    value, gradients = defined(images, kernel, *case[2:])
    for result, expected in zip(
        compiled(*case[2:])(images, kernel, cotangent),
        (value, *gradients(cotangent)),
        strict=True,
    ):
        assert result.dtype == jnp.float64
        np.testing.assert_allclose(result, expected, rtol=0, atol=rounding() * abs(expected).max())


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("3 x 3", jnp.float32), ("halved", jnp.float32), ("3 x 3", jnp.bfloat16)],
)
def test_errors_are_bounded_by_the_rounding_of_each_term(name, dtype):
    """Sums of n products err by no more than n ε Σ|products|."""
    case = SHAPES[name]
    rounded = [jnp.asarray(operand, dtype) for operand in drawn(*case)]
    images, kernel, cotangent = (np.asarray(operand, np.float64) for operand in rounded)
    value, gradients = defined(images, kernel, *case[2:])
    sizes, sizes_of_gradients = defined(abs(images), abs(kernel), *case[2:])
    terms = max(kernel[..., 0].size, kernel[..., 0, :].size, cotangent[..., 0].size)
    for result, expected, size in zip(
        compiled(*case[2:])(*rounded),
        (value, *gradients(cotangent)),
        (sizes, *sizes_of_gradients(abs(cotangent))),
        strict=True,
    ):
        assert result.dtype == dtype
        bound = terms * float(jnp.finfo(dtype).eps) * size
        assert np.all(abs(np.asarray(result, np.float64) - expected) <= bound)


@pytest.mark.parametrize("name", ["3 x 3", "halved"])
@pytest.mark.parametrize("axes", list(itertools.product((0, None), repeat=3))[:-1], ids=str)
def test_any_operands_may_be_batched(name, axes):
    """Images, kernel and cotangent, each batched or the same for all members."""
    case = SHAPES[name]
    members = [drawn(*case, seed) for seed in range(3)]
    stacked = [np.stack(operands) for operands in zip(*members, strict=True)]
    given = [x if axis == 0 else x[0] for x, axis in zip(stacked, axes, strict=True)]
    results = jax.jit(jax.vmap(compiled(*case[2:]), axes))(*given)
    for i in range(3):
        images, kernel, cotangent = (
            x[i] if axis == 0 else x for x, axis in zip(given, axes, strict=True)
        )
        value, gradients = defined(images, kernel, *case[2:])
        for result, expected in zip(results, (value, *gradients(cotangent)), strict=True):
            np.testing.assert_allclose(result[i], expected, rtol=0, atol=rounding() * 10)


@pytest.mark.parametrize("name", ["3 x 3", "halved"])
def test_gradient_of_a_batch_is_the_batch_of_gradients(name):
    """With `vmap` inside of the derivative, which then differentiates the loop over kernels."""
    case = SHAPES[name]
    members = [drawn(*case, seed) for seed in range(2)]
    images, kernels, cotangents = (np.stack(x) for x in zip(*members, strict=True))

    def total(images, kernels):
        values = jax.vmap(lambda x, k: convolve(x, k, *case[2:]))(images, kernels)
        return jnp.sum(values * cotangents)

    of_images, of_kernels = jax.jit(jax.grad(total, argnums=(0, 1)))(images, kernels)
    for i, (image, kernel, cotangent) in enumerate(members):
        expected = defined(image, kernel, *case[2:])[1](cotangent)
        for result, wanted in zip((of_images[i], of_kernels[i]), expected, strict=True):
            np.testing.assert_allclose(result, wanted, rtol=0, atol=rounding() * 10)


@pytest.mark.parametrize("case", SHAPES.values(), ids=SHAPES.keys())
def test_programs_for_other_platforms_are_those_of_the_definition(case):
    """These forms can be computed on a CPU too, where `convolve` has others."""
    images, kernel, cotangent = drawn(*case)
    window = convolution._Window(images.shape[1:3], kernel.shape[:2], *case[2:])

    @jax.jit
    def plain(images, kernel, cotangent):
        return (
            convolution._convolution_plain(images, kernel, window=window),
            convolution._gradient_of_images_plain(cotangent, kernel, window=window),
            convolution._gradient_of_kernel_plain(images, cotangent, window=window),
        )

    value, gradients = defined(images, kernel, *case[2:])
    for result, expected in zip(
        plain(images, kernel, cotangent), (value, *gradients(cotangent)), strict=True
    ):
        np.testing.assert_allclose(result, expected, rtol=0, atol=rounding() * abs(expected).max())


@pytest.mark.parametrize("case", SHAPES.values(), ids=SHAPES.keys())
def test_fourth_derivative_along_a_line_is_that_of_the_quartic_polynomial(case):
    """With both operands moving, ‖x ∗ k‖² is of degree four in t: 24 ‖dx ∗ dk‖² is the derivative.

    Forward and reverse mode take turns, in both orders.
    """
    stride, padding = case[2:]
    operands, directions = drawn(*case)[:2], drawn(*case, seed=1)[:2]

    def norm(t):
        images, kernel = (x + t * dx for x, dx in zip(operands, directions, strict=True))
        return jnp.sum(jnp.square(convolve(images, kernel, stride, padding)))

    derivatives = [
        jax.jacfwd(jax.grad(jax.jacfwd(jax.grad(norm)))),
        jax.grad(jax.jacfwd(jax.grad(jax.jacfwd(norm)))),
    ]
    expected = 24 * np.sum(np.square(defined(*directions, *case[2:])[0]))
    for derivative in jax.jit(lambda t: [d(t) for d in derivatives])(0.5):
        np.testing.assert_allclose(derivative, expected, rtol=rounding(operations=1000))


@pytest.mark.parametrize("name", ["3 x 3", "halved", "images smaller than the kernel"])
def test_hessian_vector_products_are_those_of_the_definition(name):
    """Of f = Σ y³/6, whose gradient is the gradient of the operands at the cotangent y²/2."""
    case = SHAPES[name]
    (images, kernel, _), (dx, dk, _) = drawn(*case), drawn(*case, seed=1)
    value, gradients = defined(images, kernel, *case[2:])
    change = defined(dx, kernel, *case[2:])[0] + defined(images, dk, *case[2:])[0]
    # The product rule: the cotangent changes by y dy, and the other operand by its direction.
    moved = gradients(value * change)
    expected = (
        moved[0] + defined(images, dk, *case[2:])[1](value**2 / 2)[0],
        moved[1] + defined(dx, kernel, *case[2:])[1](value**2 / 2)[1],
    )

    def gradient(images, kernel):
        return jax.grad(lambda x, k: jnp.sum(convolve(x, k, *case[2:]) ** 3) / 6, argnums=(0, 1))(
            images, kernel
        )

    def along(images, kernel):
        ours = gradient(images, kernel)
        return jnp.vdot(ours[0], dx) + jnp.vdot(ours[1], dk)

    products = jax.jit(
        lambda *at: (jax.jvp(gradient, at, (dx, dk))[1], jax.grad(along, argnums=(0, 1))(*at))
    )
    for found in products(images, kernel):
        for result, wanted in zip(found, expected, strict=True):
            atol = rounding() * abs(wanted).max()
            np.testing.assert_allclose(result, wanted, rtol=0, atol=atol)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of what CPUs run")
@pytest.mark.parametrize("name", ["3 x 3", "halved", "images smaller than the kernel"])
def test_loops_on_a_cpu_compile_to_the_fast_form_without_a_conditional(name, optimized):
    case = SHAPES[name]

    def loss(images, kernel):
        return jnp.sum(jnp.square(convolve(images, kernel, *case[2:])))

    def step(operands, _):
        return jax.grad(loss, (0, 1))(*operands), None

    def run(operands):
        return jax.lax.scan(jax.vmap(step, (0, None)), operands, None, length=2)[0]

    start = [np.stack([operand] * 2).astype(np.float32) for operand in drawn(*case)[:2]]
    text = jax.jit(run).lower(tuple(start)).compile().as_text()
    assert text is not None
    lines = text.splitlines()
    assert not any(" conditional(" in line for line in lines)
    convolutions = [line for line in lines if " convolution(" in line]
    assert len(convolutions) == (3 if name == "3 x 3" else 0)
    for line in convolutions:
        assert "dim_labels=b01f_01io->b01f" in line
        assert "feature_group_count" not in line
        assert "rhs_reversal" not in line


def test_kernel_larger_than_padded_images_is_refused():
    with pytest.raises(ValueError, match="kernel of 3 x 3 does not fit into images of 2 x 4"):
        convolve(jnp.zeros((1, 2, 4, 1)), jnp.zeros((3, 3, 1, 1)), 1, 0)


def greatest(images, taps):
    """(value, row, column) of the greatest pixel of each window; the first of equal ones."""
    height, width = images.shape
    before = (taps - 1) // 2
    for h in range(0, height, 2):
        for w in range(0, width, 2):
            pixels = [
                (images[i, j], i, j)
                for i in range(max(h - before, 0), min(h - before + taps, height))
                for j in range(max(w - before, 0), min(w - before + taps, width))
            ]
            yield max(pixels, key=lambda pixel: pixel[0])


HALVE = jax.jit(halve, static_argnums=1)


@functools.partial(jax.jit, static_argnums=2)
def pulled(images, cotangent, taps):
    """The cotangent's image under the transpose of the derivative."""
    return jax.vjp(lambda x: halve(x, taps), images)[1](cotangent)


@pytest.mark.parametrize("taps", [2, 3])
@pytest.mark.parametrize("shape", [(4, 6), (5, 8), (7, 7), (1, 2)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pooling_and_its_gradient_are_those_of_the_greatest_pixels(taps, shape, dtype):
    """Of few values, so that many pixels are equal, and all below 0, the padding of others."""
    rng = np.random.default_rng(0)
    images = rng.integers(-4, 0, (2, *shape, 3)).astype(dtype)
    value = np.asarray(HALVE(images, taps))
    cotangent = rng.integers(1, 9, value.shape).astype(dtype)
    (gradient,) = pulled(images, cotangent, taps)
    gradient = np.asarray(gradient)
    for n, c in itertools.product(range(2), range(3)):
        pixels = list(greatest(images[n, :, :, c], taps))
        expected = np.zeros(shape)
        for (_, i, j), slope in zip(pixels, cotangent[n, :, :, c].ravel(), strict=True):
            expected[i, j] += slope
        assert value[n, :, :, c].ravel().tolist() == [pixel[0] for pixel in pixels]
        np.testing.assert_array_equal(gradient[n, :, :, c], expected)


@pytest.mark.parametrize("at", [(0, 0), (1, 1), (3, 2)])
def test_pooling_hides_no_nan(at):
    images = np.ones((1, 4, 4, 1))
    images[0, *at, 0] = np.nan
    assert np.sum(np.isnan(HALVE(images, 2))) == 1
    assert np.sum(np.isnan(HALVE(images, 3))) >= 1


@pytest.mark.parametrize("taps", [2, 3])
def test_second_derivatives_of_pooling_are_those_of_the_greatest_pixels(taps):
    """Of Σ m³/6 over the greatest pixels m, whose Hessian is diagonal with the entries m."""
    rng = np.random.default_rng(0)
    images, direction = rng.normal(size=(2, 2, 5, 4, 3))
    expected = np.zeros_like(images)
    for n, c in itertools.product(range(2), range(3)):
        for pixel, i, j in greatest(images[n, :, :, c], taps):
            expected[n, i, j, c] += pixel * direction[n, i, j, c]

    def gradient(images):
        return jax.grad(lambda x: jnp.sum(halve(x, taps) ** 3) / 6)(images)

    @jax.jit
    def products(images):
        along = jax.grad(lambda x: jnp.vdot(gradient(x), direction))
        return jax.jvp(gradient, (images,), (direction,))[1], along(images)

    for result in products(images):
        np.testing.assert_allclose(result, expected, rtol=rounding())
