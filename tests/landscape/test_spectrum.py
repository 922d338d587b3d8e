import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from landscape.points import DECAY, FREE, flat, minimizer, origin, random_state, stacked
from tolerances import rounding

import nc_jax as nc
from nc_jax import landscape
from nc_jax.landscape import spectrum

ZHU = nc.zhu(4, 6, 5, FREE)


def dense_end(problem, state, num, end, on_sphere=False):
    values = np.linalg.eigvalsh(landscape.dense_hessian(problem, state, on_sphere))
    if on_sphere:
        values = np.delete(values, np.abs(values).argmin())  # the normal
    return values[:num] if end == "smallest" else values[::-1][:num]


@pytest.mark.parametrize("end", ["smallest", "largest"])
@pytest.mark.parametrize("place", ["origin", "minimum", "random", "sphere"])
def test_extreme_eigenpairs_are_those_of_the_dense_matrix(place, end):
    # Multiplicities of 18 at the origin and of 13 at the minimum included.
    on_sphere = place == "sphere"
    problem = nc.ulpm(4, 6, 5) if on_sphere else ZHU
    state = {
        "origin": lambda: origin(problem),
        "minimum": lambda: minimizer(problem),
        "random": lambda: random_state(problem, 1),
        "sphere": lambda: random_state(problem, 1),
    }[place]()
    num = 20 if place == "origin" else 4
    found = landscape.extreme_eigenpairs(problem, state, num, end, on_sphere=on_sphere)
    expected = dense_end(problem, state, num, end, on_sphere)
    assert found.converged
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-8)
    hessian = np.asarray(landscape.dense_hessian(problem, state, on_sphere))
    on_host = jax.tree.map(np.asarray, found.vectors)
    vectors = np.stack([flat(jax.tree.map(lambda x, i=i: x[i], on_host)) for i in range(num)])
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(num), atol=rounding())
    residuals = np.linalg.norm(
        vectors @ hessian - np.asarray(found.values)[:, None] * vectors, axis=1
    )
    np.testing.assert_allclose(found.residuals, residuals, rtol=1e-3, atol=rounding())
    # An eigenvalue lies within the residual of each value.
    assert np.all(np.abs(found.values - expected) <= found.residuals + rounding())


@pytest.mark.slow
def test_states_of_two_thousand_numbers():
    problem = nc.zhu(10, 18, 10, DECAY)
    state = random_state(problem, 3, norm=6.0)
    assert flat(state).size == 1990
    expected = np.linalg.eigvalsh(landscape.dense_hessian(problem, state))
    smallest = landscape.extreme_eigenpairs(problem, state, 5)
    largest = landscape.extreme_eigenpairs(problem, state, 5, "largest")
    assert smallest.converged
    assert largest.converged
    np.testing.assert_allclose(smallest.values, expected[:5], rtol=0, atol=1e-8)
    np.testing.assert_allclose(largest.values, expected[::-1][:5], rtol=0, atol=1e-8)


def test_a_small_basis_is_enough_and_says_what_it_cost():
    state = random_state(ZHU, 4)
    small = landscape.extreme_eigenpairs(ZHU, state, 1, basis_size=8)
    large = landscape.extreme_eigenpairs(ZHU, state, 1)
    np.testing.assert_allclose(small.values, large.values, rtol=0, atol=1e-8)
    assert small.converged
    assert small.num_products > large.num_products


def test_a_search_cut_short_says_so_and_keeps_its_residual():
    state = random_state(ZHU, 4)
    cut = landscape.extreme_eigenpairs(ZHU, state, 1, basis_size=4, max_restarts=2)
    assert not cut.converged
    error = abs(float(cut.values[0]) - dense_end(ZHU, state, 1, "smallest")[0])
    assert 1e-8 < error <= float(cut.residuals[0])


def test_all_eigenpairs_can_be_asked_for():
    problem = nc.ulpm(2, 2, 1)
    state = random_state(problem, 0)
    found = landscape.extreme_eigenpairs(problem, state, 8)
    np.testing.assert_allclose(found.values, dense_end(problem, state, 8, "smallest"), atol=1e-12)


def test_memory_is_the_basis_and_a_dozen_vectors():
    problem = nc.zhu(10, 100, 99, DECAY)
    state = random_state(problem, 0)
    size = flat(state).size

    def run(state):
        return landscape.extreme_eigenpairs(problem, state, 1, basis_size=24)

    memory = jax.jit(run).lower(state).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes / 8 / size < 24 + 16


def test_eigenpairs_under_vmap_are_those_of_single_states():
    states = [random_state(ZHU, seed) for seed in range(3)]
    search = jax.jit(jax.vmap(lambda s: landscape.extreme_eigenpairs(ZHU, s, 2)))
    batch = search(stacked(states))
    for i, state in enumerate(states):
        expected = dense_end(ZHU, state, 2, "smallest")
        np.testing.assert_allclose(batch.values[i], expected, rtol=0, atol=1e-8)


def test_float32_is_kept_and_converges_to_its_precision():
    state = jax.tree.map(lambda x: x.astype("float32"), random_state(ZHU, 1))
    found = landscape.extreme_eigenpairs(ZHU, state, 2)
    assert found.values.dtype == jnp.float32
    assert found.converged
    np.testing.assert_allclose(
        found.values, dense_end(ZHU, random_state(ZHU, 1), 2, "smallest"), atol=1e-5
    )


@pytest.mark.parametrize("on_sphere", [False, True])
def test_quadrature_has_the_moments_of_the_spectrum(on_sphere):
    problem = nc.ulpm(3, 5, 4)
    state = random_state(problem, 2)
    exact = np.linalg.eigvalsh(landscape.dense_hessian(problem, state, on_sphere))
    if on_sphere:
        exact = np.delete(exact, np.abs(exact).argmin())
    found = landscape.spectral_density(
        problem, state, jax.random.key(0), num_probes=200, on_sphere=on_sphere
    )
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


def test_a_change_of_state_does_not_compile_anew():
    traces = []

    class Counting(nc.UnconstrainedFeatures):
        def scaled_descent(self, state, log_scale):
            traces.append(1)
            return super().scaled_descent(state, log_scale)

    problem = Counting((2, 2, 2), 3, nc.CrossEntropy(), "sum", False, nc.WeightDecay())
    landscape.extreme_eigenpairs(problem, random_state(problem, 0))
    first = len(traces)
    landscape.extreme_eigenpairs(problem, random_state(problem, 1))
    assert len(traces) == first > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda s: landscape.extreme_eigenpairs(ZHU, s, 0),
            "num = 0: give an integer from 1 to 148",
        ),
        (lambda s: landscape.extreme_eigenpairs(ZHU, s, 149), "num = 149"),
        (lambda s: landscape.extreme_eigenpairs(ZHU, s, 5, basis_size=5), "basis_size = 5: .* 7"),
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
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_state(ZHU, 0))


def test_lanczos_stays_in_the_range_of_the_projection():
    # diag(0..19) off the span of the first three unit vectors: the smallest left is 3.
    diagonal = jnp.arange(20.0)
    keep = jnp.where(diagonal < 3, 0.0, 1.0)
    found = eqx.filter_jit(spectrum.lanczos)(
        lambda v: diagonal * v, lambda v: keep * v, 2, diagonal, 1e-10, 10, 50, jax.random.key(0)
    )
    np.testing.assert_allclose(found.values, [3, 4], atol=1e-8)


@jax.jit
def of_diagonal(values, key):
    return spectrum.lanczos(lambda v: values * v, lambda v: v, 2, values, 3.7e-10, 28, 3000, key)


@pytest.mark.parametrize("seed", range(4))
def test_a_copy_inside_a_tight_cluster_is_not_missed(seed):
    values = np.concatenate([np.zeros(2), 1e-6 * np.arange(1.0, 40), np.linspace(0.5, 1, 300)])
    found = of_diagonal(jnp.asarray(values), jax.random.key(seed))
    assert found.converged
    np.testing.assert_allclose(found.values, 0, atol=1e-8)


@pytest.mark.parametrize(("dtype", "size"), [("float64", 1e-200), ("float32", 1e-30)])
def test_spectra_of_tiny_hessians_are_those_of_their_multiples(dtype, size):
    """e^s L has e^s times the eigenvalues: squares of 1e-200 and 1e-30 are no floats."""
    problem = nc.zhu(3, 4, 2, DECAY)
    state = jax.tree.map(lambda leaf: leaf.astype(dtype), random_state(problem, 2))
    key, width = jax.random.key(1), 0.01
    plain, tiny = (
        landscape.spectral_density(
            problem, state, key, 4, 20, width=width * factor, log_scale=np.log(factor)
        )
        for factor in (1.0, size)
    )
    tolerance = rounding(dtype, operations=1000)
    for name in ("density", "standard_error"):
        scaled, expected = size * np.asarray(getattr(tiny, name), float), getattr(plain, name)
        np.testing.assert_allclose(scaled, expected, atol=tolerance * np.max(plain.density))
    np.testing.assert_allclose(np.asarray(tiny.grid, float) / size, plain.grid, atol=tolerance)

    exact = np.linalg.eigvalsh(np.asarray(landscape.dense_hessian(problem, state), float))
    found = landscape.extreme_eigenpairs(problem, state, 2, log_scale=np.log(size))
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
