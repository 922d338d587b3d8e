"""One-against-rest distances against closed forms and a search over all faces."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from measures.definitions import measured
from tolerances import rounding

from nc_jax.geometry import simplex_etf
from nc_jax.measures import MEASURES, Statistics

NAMES = ["jiang_gnc2", "jiang_gnc2_by_class"]


def distances(classifier):
    found = measured(np.eye(*classifier.shape), np.arange(len(classifier)), classifier, names=NAMES)
    np.testing.assert_array_equal(found["jiang_gnc2"], found["jiang_gnc2_by_class"].min())
    return found["jiang_gnc2_by_class"]


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_a_simplex(num_classes):
    found = distances(7 * np.asarray(simplex_etf(num_classes, 9)))
    np.testing.assert_allclose(found, num_classes / (num_classes - 1), rtol=rounding())


@pytest.mark.parametrize("num_classes", [3, 5, 24])
def test_a_regular_polygon(num_classes):
    angles = 2 * np.pi * np.arange(num_classes) / num_classes
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # The nearest point of the others is the middle of the two neighbours.
    expected = 1 - np.cos(2 * np.pi / num_classes)
    np.testing.assert_allclose(distances(corners), expected, rtol=rounding(operations=1000))


@pytest.mark.parametrize("dim", [2, 3, 8])
def test_a_cross_polytope(dim):
    # The opposite corners of the other axes have the middle 0.
    corners = np.concatenate([np.eye(dim), -np.eye(dim)])
    np.testing.assert_allclose(distances(corners), 1, rtol=rounding())


def nearest_by_search(points):
    """Least distance of 0 from the affine hull of a subset, where its weights are positive."""
    least = np.inf
    for size in range(1, len(points) + 1):
        for subset in itertools.combinations(points, size):
            rows = np.array(subset)
            system = np.block([[rows @ rows.T, np.ones((size, 1))], [np.ones((1, size)), 0]])
            solution = np.linalg.lstsq(system, np.eye(size + 1)[size])[0]
            if np.all(solution[:-1] >= -rounding()):
                least = min(least, np.linalg.norm(solution[:-1] @ rows))
    return least


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(2, 5))
def test_random_classifiers(seed, num_classes, dim):
    rows = np.random.default_rng(seed).normal(size=(num_classes, dim))
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = [
        nearest_by_search(np.delete(units, c, axis=0) - units[c]) for c in range(num_classes)
    ]
    found, rtol = distances(rows), rounding(operations=10_000)
    np.testing.assert_allclose(found, np.array(expected), rtol=rtol, atol=rounding())


def test_equal_classifiers_are_at_distance_zero():
    found = distances(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_allclose(found[:2], 0, atol=rounding())
    np.testing.assert_allclose(found[2], np.sqrt(2), rtol=rounding())


def test_a_classifier_of_zeros_has_no_direction():
    assert np.isnan(distances(np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]]))).all()


def test_a_traced_classifier_is_refused():
    @jax.jit
    def traced(classifier):
        s = Statistics(jnp.ones(3), jnp.zeros(2), classifier, jnp.zeros(3), classifier=classifier)
        return MEASURES["jiang_gnc2"].compute(s)

    with pytest.raises(ValueError, match=r"^classifier is traced: .* outside of jax\.jit\."):
        traced(jnp.ones((3, 2)))
