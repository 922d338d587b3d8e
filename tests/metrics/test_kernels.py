"""Kernels of wide networks by integration and by finite networks; their collapse by features."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.integrate
from feature_sets import KINDS, feature_set
from hypothesis import given, settings, strategies as st
from tolerances import rounding

from nc_jax.metrics import kernel_nc1, nngp_kernel, ntk_kernel

SEEDS = st.integers(0, 2**32 - 1)
VARIANCES = [(2.0, 0.0), (1.5, 0.3), (2.0, 1.0)]


def feature_nc1(features, labels):
    means = np.stack([features[labels == c].mean(axis=0) for c in np.unique(labels)])
    within = np.mean(np.sum((features - means[labels]) ** 2, axis=1))
    return within / np.mean(np.sum((means - means.mean(axis=0)) ** 2, axis=1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_collapse_of_a_kernel_is_that_of_its_features(kind):
    features, labels, *_ = feature_set(kind)
    kernel = features @ features.T
    found, expected = kernel_nc1(kernel, labels), feature_nc1(features, labels)
    # The entries of the kernel are rounded to eps of the largest.
    between = np.mean(np.sum((features - features.mean(axis=0)) ** 2, axis=1))
    bound = rounding() * np.max(np.abs(kernel)) / between
    np.testing.assert_allclose(found, expected, rtol=rounding(), atol=bound)
    np.testing.assert_allclose(kernel_nc1(3 * kernel + 5, labels), found, rtol=1e-6, atol=2 * bound)


@settings(max_examples=20)
@given(seed=SEEDS)
def test_the_collapse_of_a_kernel_depends_neither_on_order_nor_on_names(seed):
    features, labels, *_ = feature_set("unequal classes", seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    names = np.array(["d", "a", "c", "b"])
    found = kernel_nc1(features @ features.T, labels)
    moved = kernel_nc1(features[order] @ features[order].T, names[labels[order]].tolist())
    np.testing.assert_allclose(moved, found, rtol=rounding())
    # Any function of single samples that is added leaves the differences of features.
    shifts = rng.normal(size=len(labels))
    shifted = features @ features.T + shifts[:, None] + shifts
    np.testing.assert_allclose(kernel_nc1(shifted, labels), found, rtol=10 * rounding())


def test_a_kernel_is_read_exactly_in_float32_and_left_unchanged():
    features, labels, *_ = feature_set("balanced")
    kernel = (features @ features.T).astype("float32")
    before = kernel.copy()
    found = kernel_nc1(kernel, labels)
    np.testing.assert_allclose(found, kernel_nc1(kernel.astype(float), labels), rtol=rounding())
    np.testing.assert_array_equal(kernel, before)
    assert kernel_nc1(jnp.asarray(kernel), labels) == found


def test_kernels_of_classes_that_coincide():
    labels = [0, 0, 1, 1]
    collapsed = np.kron(np.eye(2), np.ones((2, 2)))
    assert kernel_nc1(collapsed, labels) == 0
    assert (
        kernel_nc1(np.array([[1.0, -1], [-1, 1]])[[0, 1, 0, 1]][:, [0, 1, 0, 1]], labels) == np.inf
    )
    assert np.isnan(kernel_nc1(np.ones((4, 4)), labels))


def expectations(k_xx, k_xy, k_yy):
    """E relu(u) relu(v) and P(u > 0, v > 0) of Gaussians by integration over the angle.

    With u = a·cos φ·r and v = b·cos(φ − t)·r the radius r gives ∫ r³ exp(−r²/2) dr = 2.
    """
    t = np.arccos(np.clip(k_xy / np.sqrt(k_xx * k_yy), -1, 1))
    both = (t - np.pi / 2, np.pi / 2)  # where both cosines are positive
    value, _ = scipy.integrate.quad(lambda p: np.cos(p) * np.cos(p - t), *both, epsabs=1e-13)
    return np.sqrt(k_xx * k_yy) * value / np.pi, (np.pi - t) / (2 * np.pi)


def by_integration(x, y, depth, weight, bias):
    k_xx, k_xy, k_yy = (bias + weight * np.dot(a, b) / len(a) for a, b in ((x, x), (x, y), (y, y)))
    tangent = k_xy
    for _ in range(depth):
        value, slope = expectations(k_xx, k_xy, k_yy)
        k_xx, k_yy = (bias + weight * expectations(k, k, k)[0] for k in (k_xx, k_yy))
        k_xy = bias + weight * value
        tangent = k_xy + weight * tangent * slope
    return k_xy, tangent


@pytest.mark.parametrize(("weight", "bias"), VARIANCES)
@pytest.mark.parametrize("depth", [0, 1, 2, 5])
def test_kernels_are_those_of_a_recursion_by_integration(depth, weight, bias):
    inputs = np.random.default_rng(depth).normal(size=(4, 3))
    inputs[3] = -inputs[2]
    options = {"weight_variance": weight, "bias_variance": bias}
    found = [kernel(inputs, depth, **options) for kernel in (nngp_kernel, ntk_kernel)]
    for i in range(4):
        for j in range(4):
            expected = by_integration(inputs[i], inputs[j], depth, weight, bias)
            # arccos in the integration has an error of √eps at equal and at opposite inputs.
            bound = 1e-7 if i == j or {i, j} == {2, 3} else 1e-11
            np.testing.assert_allclose([k[i, j] for k in found], expected, rtol=bound, atol=bound)


@pytest.mark.parametrize(("weight", "bias"), VARIANCES)
def test_kernels_of_inputs_that_are_close_are_accurate(weight, bias):
    """At a distance of 1e-7 the arc cosine of a cosine in float64 has lost half of its digits."""
    first = np.array([0.6, -0.8, 0.5])
    inputs = np.stack([first, first + np.array([1e-7, 2e-7, -1e-7])])
    with mpmath.workdps(50):
        x, y = ([mpmath.mpf(float(v)) for v in row] for row in inputs)
        k_xx, k_xy, k_yy = (
            bias + weight * mpmath.fdot(a, b) / mpmath.mpf(3) for a, b in ((x, x), (x, y), (y, y))
        )
        tangent = k_xy
        for _ in range(3):
            norm = mpmath.sqrt(k_xx * k_yy)
            t = mpmath.acos(k_xy / norm)
            slope = (mpmath.pi - t) / (2 * mpmath.pi)
            k_xy = bias + weight * norm * (mpmath.sin(t) / (2 * mpmath.pi) + slope * mpmath.cos(t))
            k_xx, k_yy = (bias + weight * k / 2 for k in (k_xx, k_yy))
            tangent = k_xy + weight * tangent * slope
        expected = float(k_xy), float(tangent)
    options = {"weight_variance": weight, "bias_variance": bias}
    found = [kernel(inputs, 3, **options)[0, 1] for kernel in (nngp_kernel, ntk_kernel)]
    np.testing.assert_allclose(found, expected, rtol=rounding())


def test_kernels_are_those_of_a_wide_network():
    """Θ = Σ ∂f(x) ∂f(x') over the parameters of a finite network, of which one is drawn."""
    width, depth, weight, bias = 2000, 2, 1.7, 0.4
    keys = jax.random.split(jax.random.key(0), 2 * (depth + 1))
    sizes = [3, *[width] * depth, 1]
    parameters = [
        (jax.random.normal(keys[2 * i], sizes[i : i + 2]), jax.random.normal(keys[2 * i + 1], (b,)))
        for i, b in enumerate(sizes[1:])
    ]

    def network(parameters, x):
        for i, (matrix, shift) in enumerate(parameters):
            x = x if i == 0 else jax.nn.relu(x)
            x = np.sqrt(weight / len(x)) * x @ matrix + np.sqrt(bias) * shift
        return x[0], x

    inputs = jax.random.normal(jax.random.key(1), (4, 3))

    @jax.jit
    def tangent_kernel(inputs):
        gradients = jax.vmap(jax.grad(lambda p, x: network(p, x)[0]), (None, 0))(parameters, inputs)
        return sum(
            leaf.reshape(4, -1) @ leaf.reshape(4, -1).T for leaf in jax.tree.leaves(gradients)
        )

    options = {"weight_variance": weight, "bias_variance": bias}
    expected = ntk_kernel(np.asarray(inputs), depth, **options)
    # The relative deviation of a sum of `width` terms.
    bound = 10 / np.sqrt(width)
    np.testing.assert_allclose(tangent_kernel(inputs), expected, rtol=bound)


def test_he_scaling_keeps_the_lengths_and_depth_makes_all_inputs_alike():
    inputs = np.random.default_rng(2).normal(size=(6, 4))
    first, deep = nngp_kernel(inputs, 0), nngp_kernel(inputs, 60)
    np.testing.assert_allclose(np.diagonal(deep), np.diagonal(first), rtol=rounding())
    lengths = np.sqrt(np.diagonal(deep))
    cosines = deep / np.outer(lengths, lengths)
    assert np.min(cosines) > 0.98
    assert np.min(np.linalg.eigvalsh(nngp_kernel(inputs, 3))) > 0
    # With σ_w² = 2 each layer adds the kernel of the layer to the diagonal of Θ.
    np.testing.assert_allclose(
        np.diagonal(ntk_kernel(inputs, 3)), 4 * np.diagonal(first), rtol=rounding()
    )


def test_an_input_of_zeros_has_the_kernel_of_the_biases():
    inputs = np.array([[0.0, 0.0], [1.0, 2.0]])
    np.testing.assert_array_equal(nngp_kernel(inputs, 2)[0], 0)
    np.testing.assert_array_equal(ntk_kernel(inputs, 2)[0], 0)


def test_the_collapse_of_outputs_is_that_of_the_last_features():
    rng = np.random.default_rng(3)
    labels = np.arange(3).repeat(4)
    inputs = rng.normal(size=(3, 5))[labels] + 0.3 * rng.normal(size=(12, 5))
    outputs = nngp_kernel(inputs, 2, weight_variance=1.5, bias_variance=0.5)
    hidden = (outputs - 0.5) / 1.5
    np.testing.assert_allclose(
        kernel_nc1(outputs, labels), kernel_nc1(hidden, labels), rtol=10 * rounding()
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernel_nc1(np.ones((4, 3)), [0, 0, 1, 1]), r"kernel has shape \(4, 3\)"),
        (lambda: kernel_nc1(np.ones(4), [0, 0, 1, 1]), "kernel has shape"),
        (lambda: kernel_nc1(np.eye(4), [0, 1]), "labels have 2 entries for 4 samples"),
        (lambda: kernel_nc1(np.eye(4), [0, 0, 0, 0]), "all 4 samples are of class 0"),
        (lambda: nngp_kernel(np.ones(4), 1), "inputs have shape"),
        (lambda: nngp_kernel(np.ones((4, 2)), -1), "depth = -1: give an integer >= 0"),
        (lambda: ntk_kernel(np.ones((4, 2)), 1, weight_variance=0.0), "weight_variance = 0.0"),
        (lambda: ntk_kernel(np.ones((4, 2)), 1, bias_variance=-1.0), "bias_variance = -1.0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
