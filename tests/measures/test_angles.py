"""Angles near 0 and π, bounds of cosines, and frames that reach the bound of Welch."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from measures.definitions import measured
from tolerances import rounding


def of_classifiers(name, rows):
    features = np.random.default_rng(0).normal(size=rows.shape)
    return measured(features, np.arange(len(rows)), rows, names=[name])[name]


@pytest.mark.parametrize("angle", [1e-12, 1e-8, 1e-3, 1.0])
def test_small_angles_and_those_near_pi(angle):
    rows = np.array([[1.0, 0.0], [2 * np.cos(angle), 2 * np.sin(angle)], [-3.0, 0.0]])
    # Coordinates near 1 have rounding errors of 1e-16, which change the second, of size `angle`,
    # by their square only.
    found = of_classifiers("classifier_angle_min", rows)
    np.testing.assert_allclose(found, min(angle, np.pi - angle), rtol=rounding())
    assert of_classifiers("classifier_angle_max", rows) == np.pi
    opposite = of_classifiers("classifier_angle_max", rows * [[1.0], [-1.0], [-1.0]])
    np.testing.assert_allclose(np.pi - opposite, min(angle, np.pi - angle), atol=rounding())


def test_class_means_of_two_classes_are_opposite():
    features = np.random.default_rng(0).normal(size=(8, 5))
    names = ["feature_angle_min", "feature_angle_max", "feature_cosine_max"]
    found = measured(features, np.repeat([0, 1], 4), names=names)
    np.testing.assert_allclose(list(found.values()), [np.pi, np.pi, -1], rtol=rounding())


@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.integers(1, 5))
def test_bounds_of_cosines(seed, num_classes, dim):
    means = np.random.default_rng(seed).normal(size=(num_classes, dim))
    names = [
        "feature_cosine_min",
        "feature_cosine_max",
        "feature_welch_gap",
        "classifier_welch_gap",
    ]
    found = measured(means, np.arange(num_classes), means**3, names=names)
    bound = -1 / (num_classes - 1)
    assert found["feature_cosine_min"] <= bound + rounding()
    assert found["feature_cosine_max"] >= bound - rounding()
    assert found["feature_welch_gap"] >= -rounding()
    assert found["classifier_welch_gap"] >= -rounding()


def equiangular_tight_frame():
    """16 unit vectors in 6 dimensions with mean 0 and cosines ±1/3.

    Their Gram matrix is I + (J − I − 2A)/3 for the graph of the fields of a 4 × 4 board that share
    neither row nor column, which is strongly regular.
    """
    row, column = np.divmod(np.arange(16), 4)
    adjacent = (row[:, None] != row) & (column[:, None] != column)
    gram = np.eye(16) + (1 - np.eye(16) - 2 * adjacent) / 3
    values, vectors = np.linalg.eigh(gram)
    return vectors[:, -6:] * np.sqrt(values[-6:])


def test_an_equiangular_tight_frame_of_many_vectors_reaches_the_bound():
    frame = equiangular_tight_frame()
    names = ["feature_welch_gap", "classifier_welch_gap", "feature_coherence"]
    found = measured(frame, np.arange(16), 2 * frame, names=names)
    np.testing.assert_allclose(list(found.values()), [0, 0, 1 / 3], atol=rounding())
