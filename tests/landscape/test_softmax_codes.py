"""The second-order certificate of softmax codes: where it holds, and beside these points."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import nc_jax as nc
from nc_jax.landscape import code_certificate

# K = 5 is a continuum; 19 has one row that is free to move, and 20 two; 23 has flat directions.
WITHOUT = (5, 19, 20, 23)


def rows_of(classes, dim=3):
    return nc.exact.softmax_code(classes, dim).directions


@pytest.mark.parametrize("classes", range(3, 25))
def test_the_certificate_holds_at_rigid_codes_in_three_dimensions(classes):
    found = code_certificate(rows_of(classes))
    assert found.holds is (classes not in WITHOUT)
    np.testing.assert_allclose(found.value, nc.exact.softmax_code(classes, 3).value, rtol=1e-12)
    assert found.stationarity < 1e-10
    np.testing.assert_allclose(found.multipliers.sum(), 1, rtol=1e-9)
    assert found.multipliers.min() >= 0
    assert not found.multipliers[~found.active].any()
    # Nowhere does the smallest margin rise to second order.
    assert found.curvatures[0] < 1e-7
    flat = int(np.sum(np.abs(found.curvatures) < 1e-7))
    assert found.rotations == 3
    assert (flat == 3) is (classes not in WITHOUT)


@pytest.mark.parametrize("classes", range(9, 17))
def test_the_certificate_holds_at_the_codes_in_four_dimensions(classes):
    found = code_certificate(rows_of(classes, 4))
    assert found.holds
    assert found.rotations == 6
    np.testing.assert_allclose(found.value, nc.exact.softmax_code(classes, 4).value, rtol=1e-12)


@pytest.mark.parametrize(("classes", "free"), [(19, 1), (20, 2), (18, 0)])
def test_rows_without_an_active_margin_are_free(classes, free):
    """Rattlers: neither h_k nor w_k is part of an active margin."""
    active = code_certificate(rows_of(classes)).active
    slack = ~(active.any(axis=0) | active.any(axis=1))
    assert slack.sum() == free


@pytest.mark.parametrize(("classes", "dim"), [(4, 3), (6, 2), (5, 4), (6, 3), (3, 5), (10, 5)])
def test_closed_form_codes_have_the_certificate_where_they_are_isolated(classes, dim):
    found = code_certificate(rows_of(classes, dim))
    assert found.holds
    rank = min(classes - 1, dim)
    assert found.rotations == rank * (2 * dim - rank - 1) // 2


@pytest.mark.parametrize(("classes", "dim"), [(6, 4), (7, 5)])
def test_codes_between_d_plus_2_and_2d_are_no_isolated_maxima(classes, dim):
    """Simplex and pairs: every part of a cross-polytope has the value 1 too."""
    found = code_certificate(rows_of(classes, dim))
    assert found.stationarity < 1e-10
    assert not found.holds


@pytest.mark.parametrize("classes", [4, 7, 12, 16])
@pytest.mark.parametrize("size", [1e-5, 1e-2])
def test_the_certificate_fails_beside_the_codes(classes, size):
    rows = np.array(rows_of(classes))
    moved = rows.copy()
    moved[0] += size * np.array([0.3, -0.5, 0.7])
    assert not code_certificate(jnp.asarray(moved)).holds
    assert not code_certificate(rows_of(classes), jnp.asarray(moved)).holds


def test_the_certificate_fails_at_a_stationary_point_that_is_no_maximum():
    """Five of six points of a hexagon: the remaining gap leaves room for larger angles."""
    angles = 2 * np.pi * np.arange(5) / 6
    assert not code_certificate(jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], 1))).holds
    # The pentagonal bipyramid has the value 1 − cos 72°, below that of the best code of 7.
    turns = 2 * np.pi * np.arange(5) / 5
    ring = np.stack([np.cos(turns), np.sin(turns), 0 * turns], axis=1)
    found = code_certificate(jnp.asarray(np.concatenate([ring, [[0, 0, 1], [0, 0, -1]]])))
    np.testing.assert_allclose(found.value, 1 - np.cos(2 * np.pi / 5), rtol=1e-12)
    assert not found.holds


@pytest.mark.parametrize("classes", [8, 13])
def test_the_margins_of_certified_codes_fall_in_random_directions(classes):
    """Independent of multipliers: the smallest margin along geodesics off the rotations."""
    rows = np.asarray(rows_of(classes))
    value, rng = code_certificate(rows_of(classes)).value, np.random.default_rng(1)
    for _ in range(20):
        moved = np.stack([rows, rows]) + 1e-3 * rng.normal(size=(2, *rows.shape))
        moved /= np.linalg.norm(moved, axis=2, keepdims=True)
        features, classifier = moved
        margins = np.sum(features * classifier, 1, keepdims=True) - features @ classifier.T
        assert margins[~np.eye(classes, dtype=bool)].min() < value


def test_rotations_and_scales_do_not_change_the_certificate():
    rows, turn = np.asarray(rows_of(10)), Rotation.from_rotvec([0.3, -0.5, 1.1]).as_matrix()
    found = code_certificate(jnp.asarray(rows))
    turned = code_certificate(jnp.asarray(3 * rows @ turn.T), jnp.asarray(0.1 * rows @ turn.T))
    assert turned.holds
    np.testing.assert_allclose(turned.curvatures, found.curvatures, atol=1e-7)


@pytest.mark.parametrize("classes", [7, 10, 22])
def test_codes_in_float32_have_the_certificate_at_a_larger_tolerance(classes):
    rows = nc.exact.softmax_code(classes, 3, dtype=np.float32).directions
    assert code_certificate(rows, tolerance=1e-5).holds
