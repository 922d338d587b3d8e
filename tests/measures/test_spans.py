"""Principal angles against their definition in 50 digits and SciPy."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.linalg
from feature_sets import DIGITS, KINDS, centred, class_means, feature_set
from hypothesis import given, strategies as st
from tolerances import rounding

import nc_jax as nc
from nc_jax.measures import MEASURES, Statistics

SEEDS = st.integers(0, 2**32 - 1)
NAMES = ("bjorck_principal_angle_mean", "bjorck_principal_angle_max", "rangamani_principal_cosine")


def measured(features, labels, classifier):
    found = nc.metrics.measure(features, labels, classifier, names=NAMES)
    return np.array([found[name] for name in NAMES], float)


def basis(matrix):
    """Orthonormal columns in the span of the rows of a matrix of mpmath."""
    _, singular, right = mpmath.svd_r(matrix, full_matrices=True)
    rank = sum(value > singular[0] * mpmath.mpf(10) ** -30 for value in singular)
    return right[:rank, :].T


def angles_in_high_precision(features, labels, classifier):
    left = basis(centred(class_means(features, labels)))
    right = basis(centred(mpmath.matrix(classifier.tolist())))
    product = left.T * right
    wide = product if product.rows >= product.cols else product.T
    cosines = mpmath.svd_r(wide, compute_uv=False)
    return [mpmath.acos(min(value, mpmath.mpf(1))) for value in cosines]


@pytest.mark.parametrize("kind", KINDS)
def test_angles_are_those_of_their_definition(kind):
    features, labels, classifier, _ = feature_set(kind)
    with mpmath.workdps(DIGITS):
        angles = angles_in_high_precision(features, labels, classifier)
        number = len(angles)
        cosines = mpmath.fsum(mpmath.cos(a) for a in angles) / number
        expected = [float(v) for v in (mpmath.fsum(angles) / number, max(angles), cosines)]
    np.testing.assert_allclose(
        measured(features, labels, classifier), expected, rtol=rounding(), atol=rounding()
    )


@given(seed=SEEDS, power=st.integers(-12, -1))
def test_small_angles_have_a_relative_accuracy(seed, power):
    """Class means in a plane that is turned by a small angle: arccos would give 1e-8 at best."""
    angle, rng = 10.0**power, np.random.default_rng(seed)
    plane = rng.normal(size=(3, 2))
    plane -= plane.mean(axis=0)
    turned = plane @ np.array([[np.cos(angle), np.sin(angle), 0, 0], [0, 0, 1, 0]])
    means = plane @ np.array([[1.0, 0, 0, 0], [0, 0, 1, 0]])
    # A common turn of both hides no axis.
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    mean, largest, cosine = measured(means @ turn, np.arange(3), turned @ turn)
    # The plane has a condition number, by which rounding of its entries tilts it.
    condition = np.linalg.cond(plane)
    bound = rounding() * condition
    np.testing.assert_allclose([mean, largest], [angle / 2, angle], rtol=bound, atol=bound)
    np.testing.assert_allclose(cosine, (1 + np.cos(angle)) / 2, rtol=bound)


@given(seed=SEEDS)
def test_angles_of_other_numbers_of_dimensions_are_those_of_scipy(seed):
    """Class means that coincide span fewer dimensions than the classifiers, and the reverse."""
    rng = np.random.default_rng(seed)
    narrow, wide = rng.normal(size=(5, 7)), rng.normal(size=(5, 7))
    narrow[3:] = narrow[2]
    spans = [scipy.linalg.orth((m - m.mean(axis=0)).T, rcond=1e-10) for m in (narrow, wide)]
    assert [span.shape[1] for span in spans] == [2, 4]
    angles = scipy.linalg.subspace_angles(*spans)
    expected = [np.mean(angles), np.max(angles), np.mean(np.cos(angles))]
    for features, classifier in ((narrow, wide), (wide, narrow)):
        found = measured(features, np.arange(5), classifier)
        np.testing.assert_allclose(found, expected, rtol=1e3 * rounding())


def test_equal_spans_have_the_angle_0_and_orthogonal_ones_a_right_angle():
    rows = np.random.default_rng(1).normal(size=(4, 3)) @ np.eye(3, 8)
    mix = np.random.default_rng(2).normal(size=(3, 3))
    same = np.concatenate([rows[:, :3] @ mix, np.zeros((4, 5))], axis=1)
    np.testing.assert_allclose(measured(rows, np.arange(4), same), [0, 0, 1], atol=rounding())
    other = np.roll(rows, 4, axis=1)
    right = [np.pi / 2, np.pi / 2, 0]
    np.testing.assert_allclose(measured(rows, np.arange(4), other), right, atol=rounding())


def test_means_that_coincide_have_no_angle():
    found = measured(np.ones((6, 3)), np.arange(6) % 2, np.eye(2, 3))
    assert np.isnan(found).all()


def test_angles_compile_in_float32():
    rng = np.random.default_rng(0)
    means, classifier = rng.normal(size=(2, 4, 6))
    arrays = np.full(4, 5.0), np.zeros(6), means, np.ones(4), classifier

    def angles(counts, origin, means, scatter, classifier):
        s = Statistics(counts, origin, means, scatter, classifier=classifier)
        return [MEASURES[name].compute(s) for name in NAMES]

    found = jax.jit(angles)(*(jnp.asarray(a, "float32") for a in arrays))
    assert {value.dtype for value in found} == {np.dtype("float32")}
    np.testing.assert_allclose(found, angles(*arrays), rtol=rounding("float32"))
