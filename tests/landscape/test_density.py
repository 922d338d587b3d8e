"""Densities of eigenvalues."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from landscape_points import DECAY, FREE, origin, random_state
from tolerances import rounding

import nc_jax as nc
from nc_jax import landscape

ZHU = nc.zhu(4, 6, 5, FREE)


@pytest.mark.parametrize("on_sphere", [False, True])
def test_quadrature_has_the_moments_of_the_spectrum(on_sphere):
    problem = nc.ulpm(3, 5, 4)
    state = random_state(problem, 2)
    domain = landscape.OnSphere(problem) if on_sphere else problem
    exact = np.linalg.eigvalsh(landscape.dense_hessian(domain, state))
    if on_sphere:
        exact = np.delete(exact, np.abs(exact).argmin())
    found = landscape.spectral_density(domain, state, jax.random.key(0), num_probes=200)
    weights, nodes = np.asarray(found.weights), np.asarray(found.nodes)
    np.testing.assert_allclose(np.sum(weights, axis=1), 1, rtol=rounding())
    for power in (1, 2, 3):
        moments = np.sum(weights * nodes**power, axis=1)
        error = moments.std(ddof=1) / np.sqrt(len(moments))
        # Four standard errors of a mean over 200 seeded probes.
        assert abs(moments.mean() - np.mean(exact**power)) < 4 * error


def test_density_is_that_of_the_smoothed_spectrum_within_its_error_bars():
    problem = nc.zhu(4, 6, 5, DECAY)
    state = random_state(problem, 2)
    exact = np.linalg.eigvalsh(landscape.dense_hessian(problem, state))
    found = landscape.spectral_density(
        problem, state, jax.random.key(1), num_probes=64, num_steps=80, width=5e-3
    )
    grid, smoothed = np.asarray(found.grid), np.asarray(found.density)
    density = scipy.stats.norm.pdf(grid[:, None], exact, 5e-3).mean(axis=1)
    deviation = (smoothed - density) / (np.asarray(found.standard_error) + 1e-6 * density.max())
    # Of 401 correlated points none is off by six, and most are within two.
    assert np.abs(deviation).max() < 6
    assert np.mean(np.abs(deviation) < 2) > 0.8
    np.testing.assert_allclose(np.sum(smoothed) * (grid[1] - grid[0]), 1, rtol=1e-3)


def test_density_of_few_distinct_eigenvalues_is_exact():
    # At the origin the Krylov space is exhausted in six steps; each probe's nodes are eigenvalues.
    values, counts = nc.exact.origin_eigenvalues(nc.zhu(4, 6, 5, DECAY))
    found = landscape.spectral_density(
        nc.zhu(4, 6, 5, DECAY), origin(ZHU), jax.random.key(0), num_steps=20, num_probes=400
    )
    weights, nodes = np.asarray(found.weights), np.asarray(found.nodes)
    nearest = np.min(np.abs(nodes[:, :, None] - np.asarray(values)), axis=2)
    assert np.max(np.where(weights > 1e-20, nearest, 0)) < 1e-9
    for value, count in zip(values, counts, strict=True):
        shares = np.sum(np.where(np.abs(nodes - value) < 1e-9, weights, 0), axis=1)
        error = np.std(shares) / 20
        assert abs(np.mean(shares) - count / counts.sum()) < 4 * error


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda s: landscape.spectral_density(ZHU, s, jax.random.key(0), num_probes=1),
            "num_probes = 1: give an integer >= 2",
        ),
        (
            lambda s: landscape.spectral_density(ZHU, s, jax.random.key(0), num_steps=0),
            "num_steps = 0",
        ),
    ],
)
def test_invalid_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_state(ZHU, 0))


@pytest.mark.parametrize(("dtype", "size"), [("float64", 1e-200), ("float32", 1e-30)])
def test_spectra_of_tiny_hessians_are_those_of_their_multiples(dtype, size):
    """e^s L has e^s times the eigenvalues: squares of 1e-200 and 1e-30 are no floats."""
    problem = nc.zhu(3, 4, 2, DECAY)
    state = jax.tree.map(lambda leaf: leaf.astype(dtype), random_state(problem, 2))
    key, width = jax.random.key(1), 0.01
    plain, tiny = (
        landscape.spectral_density(
            problem,
            state,
            key,
            num_probes=4,
            num_steps=20,
            width=width * factor,
            log_scale=np.log(factor),
        )
        for factor in (1.0, size)
    )
    tolerance = rounding(dtype, operations=1000)
    for name in ("density", "standard_error"):
        scaled, expected = size * np.asarray(getattr(tiny, name), float), getattr(plain, name)
        np.testing.assert_allclose(scaled, expected, atol=tolerance * np.max(plain.density))
    np.testing.assert_allclose(np.asarray(tiny.grid, float) / size, plain.grid, atol=tolerance)

    exact = np.linalg.eigvalsh(np.asarray(landscape.dense_hessian(problem, state), float))
    found = landscape.extreme_eigenpairs(problem, state, num=2, log_scale=np.log(size))
    assert found.converged
    np.testing.assert_allclose(np.asarray(found.values, float) / size, exact[:2], atol=tolerance)
    assert np.all(np.asarray(found.residuals, float) > 0)


def test_a_hessian_of_zeros_has_a_density_at_zero():
    problem = nc.ulpm(3, 2, 1)
    found = landscape.spectral_density(
        problem, nc.exact.collapsed_state(problem, 2000.0), jax.random.key(0)
    )
    assert jnp.all(jnp.isfinite(found.density))
    assert abs(found.grid[jnp.argmax(found.density)]) < 1e-6
