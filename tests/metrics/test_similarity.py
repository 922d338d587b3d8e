"""CKA against its definition by (N, N) kernels, in 50 digits."""

import jax
import mpmath
import numpy as np
import pytest
from feature_sets import DIGITS
from hypothesis import given, settings, strategies as st
from tolerances import rounding

from nc_jax.metrics import cka

SEEDS = st.integers(0, 2**32 - 1)


def random_pair(seed, shape=(11, 4, 3), offset=0.0, scale=1.0):
    count, left, right = shape
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(count, 2))
    return tuple(
        offset + scale * (shared @ rng.normal(size=(2, dim)) + rng.normal(size=(count, dim)))
        for dim in (left, right)
    )


def kernel_of(features):
    exact = mpmath.matrix(features.tolist())
    return exact * exact.T


def total(matrix):
    return mpmath.fsum(matrix)


def hsic(left, right):
    """tr(K H L H), H = I − 11ᵀ/N (Gretton et al. 2005)."""
    count = left.rows
    centring = mpmath.eye(count) - mpmath.ones(count, count) / count
    product = left * centring * right * centring
    return mpmath.fsum(product[i, i] for i in range(count))


def unbiased_hsic(left, right):
    """The U-statistic, of kernels without their diagonals (Song et al. 2012, equation 5)."""
    count = left.rows
    off = [k - mpmath.diag([k[i, i] for i in range(count)]) for k in (left, right)]
    product = off[0] * off[1]
    trace = mpmath.fsum(product[i, i] for i in range(count))
    pairs = total(off[0]) * total(off[1]) / ((count - 1) * (count - 2))
    return (trace + pairs - 2 * total(product) / (count - 2)) / (count * (count - 3))


def by_definition(features, other, estimate):
    with mpmath.workdps(DIGITS):
        left, right = kernel_of(features), kernel_of(other)
        norms = mpmath.sqrt(estimate(left, left)) * mpmath.sqrt(estimate(right, right))
        return float(estimate(left, right) / norms)


@pytest.mark.parametrize(("debiased", "estimate"), [(False, hsic), (True, unbiased_hsic)])
@pytest.mark.parametrize(
    ("shape", "offset", "scale"),
    [((11, 4, 3), 0.0, 1.0), ((9, 12, 2), 0.0, 1.0), ((11, 4, 3), 1e3, 1.0),
     ((11, 4, 3), 1e3, 1e-6), ((4, 2, 2), 0.0, 1.0)],
)  # fmt: skip
def test_cka_is_that_of_its_definition(shape, offset, scale, debiased, estimate):
    features, other = random_pair(0, shape, offset, scale)
    expected = by_definition(features, other, estimate)
    found = cka(features, other, debiased=debiased)
    np.testing.assert_allclose(found, expected, rtol=10 * rounding(), atol=10 * rounding())


@settings(max_examples=10)
@given(seed=SEEDS, scale=st.floats(1e-3, 1e3))
@pytest.mark.parametrize("debiased", [False, True])
def test_cka_does_not_depend_on_rotation_scale_shift_and_order(debiased, seed, scale):
    features, other = random_pair(seed)
    rng = np.random.default_rng(seed)
    turn, order = np.linalg.qr(rng.normal(size=(4, 4)))[0], rng.permutation(11)
    found = cka(features, other, debiased=debiased)
    moved = cka((scale * features @ turn + 3)[order], other[order], debiased=debiased)
    swapped = cka(other, features, debiased=debiased)
    for value in (moved, swapped):
        np.testing.assert_allclose(value, found, rtol=1e3 * rounding(), atol=1e3 * rounding())


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_of_features_with_themselves_is_one_and_of_uncorrelated_ones_zero(debiased):
    features, _ = random_pair(1)
    np.testing.assert_allclose(cka(features, 5 - features, debiased=debiased), 1, rtol=rounding())
    axes = np.array([[1.0], [1.0], [-1.0], [-1.0]]), np.array([[1.0], [-1.0], [1.0], [-1.0]])
    if not debiased:
        assert cka(*axes) == 0


def test_debiased_cka_of_independent_features_is_near_zero_where_the_other_is_not():
    features, other = (np.random.default_rng(seed).normal(size=(40, 200)) for seed in (1, 2))
    assert cka(features, other) > 0.7
    assert abs(cka(features, other, debiased=True)) < 0.1


def test_batches_and_formats_give_the_same():
    features, other = (x.astype("float32") for x in random_pair(2))
    for debiased in (False, True):
        whole = cka(features.astype(float), other.astype(float), debiased=debiased)
        small = cka(jax.numpy.asarray(features), other.tolist(), debiased=debiased, batch_size=3)
        np.testing.assert_allclose(small, whole, rtol=rounding())


def test_arrays_on_disk_are_read_in_slices(tmp_path):
    features, other = random_pair(3, (700, 4, 3))
    paths = [tmp_path / "features.npy", tmp_path / "other.npy"]
    for path, array in zip(paths, (features, other), strict=True):
        np.save(path, array)
    stored = [np.load(path, mmap_mode="r") for path in paths]
    for debiased in (False, True):
        found = cka(*stored, debiased=debiased, batch_size=128)
        np.testing.assert_allclose(found, cka(features, other, debiased=debiased), rtol=rounding())


def test_constant_features_have_no_similarity():
    assert np.isnan(cka(np.ones((5, 2)), np.eye(5)))
    assert np.isnan(cka(np.ones((5, 2)), np.eye(5), debiased=True))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.ones((5, 2)), np.ones((4, 2))), {}, "other_features have 4 rows for 5 samples"),
        ((np.full((5, 2), np.nan), np.ones((5, 2))), {}, "features have NaN, infinities or"),
        ((np.ones((5, 2)), np.ones((5, 2))), {"batch_size": 0}, "batch_size = 0: give an integer"),
        ((np.ones(5), np.ones((5, 2))), {}, "features have shape"),
        ((np.ones((3, 2)), np.ones((3, 2))), {"debiased": True}, "features have 3 samples"),
        ((np.ones((3, 2)), np.array([["a"]] * 3)), {}, "other_features: dtype <U1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message) as error:
        cka(*arguments, **options)
    assert "\n" not in str(error.value)
