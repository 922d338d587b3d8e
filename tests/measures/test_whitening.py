import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tolerances import rounding

import nc_jax as nc
from nc_jax.geometry import center, simplex_etf
from nc_jax.measures.statistics import contrasts_of
from nc_jax.measures.streaming import _MOST_CLASSES, _orthogonal_rows, _whitening

SEEDS = st.integers(0, 2**32 - 1)
# More dimensions than classes, as many or fewer; odd and even; the least there are.
SHAPES = [(2, 7), (3, 2), (5, 20), (6, 5), (10, 4)]
whitening = jax.jit(_whitening)
orthogonal_rows = jax.jit(_orthogonal_rows)


def centred(seed, shape, dtype="float64"):
    means = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    return means - np.mean(means, axis=0, dtype=dtype)


def by_lapack(means):
    """K (MᵀM)⁺ and the condition number of M, of rank K−1 or d."""
    means = np.asarray(means, "float64")
    rank = min(means.shape[0] - 1, means.shape[1])
    _, singular, right = np.linalg.svd(means, full_matrices=False)
    vectors = right[:rank].T / singular[:rank]
    return len(means) * vectors @ vectors.T, singular[0] / singular[rank - 1]


def in_high_precision(means):
    """K (MᵀM)⁺ = K Mᵀ(MMᵀ + 11ᵀ/K)⁻² M at rank K−1, where 1 is all that M leaves out."""
    size = len(means)
    exact = mpmath.matrix(means)
    mean = mpmath.ones(1, size) * exact / size
    exact -= mpmath.ones(size, 1) * mean
    inverse = (exact * exact.T + mpmath.ones(size, size) / size) ** -1
    return size * exact.T * inverse * inverse * exact


def to_numpy(matrix):
    return np.array(matrix.tolist(), "float64")


def squared(found):
    found = np.asarray(found, "float64")
    return found @ found.T


def assert_same(found, expected, rtol):
    distance = np.linalg.norm(found - expected)
    assert distance <= rtol * np.linalg.norm(expected)


@pytest.mark.parametrize(("dtype", "decades"), [("float64", 150), ("float32", 15)])
@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=10)
@given(seed=SEEDS, data=st.data())
def test_whitening_squared_is_the_pseudo_inverse_at_every_scale(shape, dtype, decades, seed, data):
    scale = 10.0 ** data.draw(st.integers(-decades, decades))
    means = centred(seed, shape, dtype)
    scaled = means * np.asarray(scale, dtype)
    found = whitening(jnp.asarray(scaled))
    assert found.dtype == dtype
    assert found.shape == (shape[1], shape[0] - 1)
    expected, condition = by_lapack(means)
    assert_same(
        squared(np.asarray(found, "float64") * scale), expected, rounding(dtype, 30) * condition
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=10)
@given(seed=SEEDS)
def test_rotated_rows_are_orthogonal_and_as_long_as_the_singular_values(shape, dtype, seed):
    matrix = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    rows = np.asarray(orthogonal_rows(jnp.asarray(matrix)), "float64")
    _, singular, _ = np.linalg.svd(matrix.astype("float64"))
    lengths = np.sort(np.linalg.norm(rows, axis=1))[::-1]
    # To the longest, as LAPACK's; rows beyond the rank are rounding.
    bound = rounding(dtype, 30) * singular[0]
    np.testing.assert_allclose(lengths[: singular.size], singular, rtol=0, atol=bound)
    assert np.all(lengths[singular.size :] <= bound)
    long = rows[np.linalg.norm(rows, axis=1) > bound]
    unit = long / np.linalg.norm(long, axis=1, keepdims=True)
    np.testing.assert_allclose(unit @ unit.T, np.eye(len(long)), atol=rounding(dtype))
    # A rotation on the left leaves NᵀN.
    gram = matrix.T.astype("float64") @ matrix.astype("float64")
    assert_same(rows.T @ rows, gram, rounding(dtype))


@pytest.mark.parametrize("along", ["classes", "dimensions"])
def test_singular_values_far_apart_are_right_to_the_condition_number(along):
    steps = np.random.default_rng(4).normal(size=(5, 20))
    grades = np.logspace(0, -9, 5)[:, None] if along == "classes" else np.logspace(0, -20, 20)
    means = center(jnp.asarray(steps * grades))
    with mpmath.workdps(80):
        expected = to_numpy(in_high_precision(np.asarray(means)))
    _, condition = by_lapack(means)
    assert condition > 1e3
    assert_same(squared(whitening(means)), expected, rounding() * condition)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("same", "rank"), [(2, 3), (3, 2), (4, 1), (5, 0)])
@pytest.mark.parametrize("far", [0.0, 100.0])
def test_means_that_coincide_leave_as_many_directions_as_differ(same, rank, far, dtype):
    means = np.random.default_rng(same).normal(size=(5, 20)).astype(dtype)
    means[-same:] = means[-1]
    # Of two values only, so that with an offset the subtraction of a mean still leaves rounding.
    means = np.round(means * 8) / 8 + np.asarray(far, dtype)
    found = np.asarray(whitening(center(jnp.asarray(means))))
    exact = means.astype("float64")
    exact -= np.mean(exact, axis=0)
    expected = 5 * np.linalg.pinv(exact, rcond=1e-4) @ np.linalg.pinv(exact, rcond=1e-4).T
    assert_same(squared(found), expected, rounding(dtype, 1000) * (1 + far))
    assert np.sum(np.any(found != 0, axis=0)) == rank


def test_no_means_differ_among_zeros_or_in_one_class():
    np.testing.assert_array_equal(whitening(jnp.zeros((5, 20))), np.zeros((20, 4)))
    assert whitening(jnp.ones((1, 3))).shape == (3, 0)


def test_a_common_offset_of_all_rows_is_not_whitened():
    """The rounding of the global mean: a K-th direction that no threshold would take away."""
    means = centred(5, (5, 20))
    shared = np.random.default_rng(6).normal(size=20)
    expected, condition = by_lapack(means)
    assert_same(squared(whitening(jnp.asarray(means + shared))), expected, rounding() * condition)
    rows = np.asarray(contrasts_of(jnp.asarray(means + shared)))
    np.testing.assert_allclose(rows.T @ rows, means.T @ means, atol=rounding())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_nan_terminates_and_affects_no_other_lane(bad):
    means = jnp.stack([jnp.asarray(centred(seed, (5, 20))) for seed in range(3)])
    found = jax.jit(jax.vmap(_whitening))(means.at[1, 2, 3].set(bad))
    assert np.all(np.isnan(found[1]))
    for lane in (0, 2):
        expected, condition = by_lapack(means[lane])
        assert_same(squared(found[lane]), expected, rounding() * condition)


@pytest.mark.parametrize("shape", [(_MOST_CLASSES, 6), (_MOST_CLASSES + 1, 6)])
def test_many_classes_are_whitened_by_rotations_or_by_lapack_alike(shape):
    means = jnp.asarray(centred(7, shape))
    expected, condition = by_lapack(means)
    assert_same(squared(whitening(means)), expected, rounding() * condition)
    calls = "custom_call @" in jax.jit(_whitening).lower(means).as_text()
    assert calls == (shape[0] > _MOST_CLASSES)


@pytest.mark.parametrize("start", ["generic", "collapsed"])
@pytest.mark.parametrize("dim", [3, 6])
def test_derivative_is_that_of_the_pseudo_inverse_also_where_singular_values_coincide(start, dim):
    rng = np.random.default_rng(8)
    means = np.asarray(simplex_etf(4, dim)) if start == "collapsed" else rng.normal(size=(4, dim))
    step, weights = rng.normal(size=(4, dim)), rng.normal(size=(dim, dim))
    weights = weights + weights.T

    def weighted(means):
        found = _whitening(center(means))
        return jnp.sum(weights * (found @ found.T))

    with mpmath.workdps(60):
        forth, back = (
            in_high_precision(
                mpmath.matrix(means) + sign * mpmath.mpf("1e-20") * mpmath.matrix(step)
            )
            for sign in (1, -1)
        )
        slope = to_numpy((forth - back) / mpmath.mpf("2e-20"))
    expected = np.sum(weights * slope)
    _, condition = by_lapack(np.asarray(center(jnp.asarray(means))))
    bound = rounding() * condition**2 * np.linalg.norm(weights) * np.linalg.norm(slope)
    forward = jax.jit(lambda x, v: jax.jvp(weighted, (x,), (v,))[1])
    reverse = jax.jit(jax.grad(weighted))
    np.testing.assert_allclose(forward(jnp.asarray(means), jnp.asarray(step)), expected, atol=bound)
    np.testing.assert_allclose(np.sum(reverse(jnp.asarray(means)) * step), expected, atol=bound)


def test_a_batch_of_observations_makes_no_call_to_a_library():
    """Two at once can wedge XLA's CPU runtime, so that a sweep would have to use one core."""
    problem = nc.ulpm(5, 20, 10)
    states = jax.vmap(problem.init)(jax.random.split(jax.random.key(0), 16))
    lowered = jax.jit(jax.vmap(problem.observe)).lower(states).as_text()
    assert "stablehlo.while" in lowered
    assert "custom_call @" not in lowered
    assert "stablehlo.fft" not in lowered
