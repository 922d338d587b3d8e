"""Distances from the nearest frame against a search, and in fewer dimensions than a frame has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from measures.definitions import measured
from tolerances import rounding

from nc_jax.geometry import simplex_etf
from nc_jax.measures import MEASURES, Statistics

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS)
def test_no_frame_is_nearer_than_the_nearest(seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(4, 5))
    found = measured(rows, np.arange(4), rows, names=["markou_classifier_etf_distance"])
    least = found["markou_classifier_etf_distance"]
    units = rows / np.linalg.norm(rows)
    target = (np.eye(4) - 1 / 4) / np.sqrt(3)
    # The polar factor of Yᵀ(I − 11ᵀ/K), and frames near it and far from it.
    left, _, right = np.linalg.svd(units.T @ (np.eye(4) - 1 / 4), full_matrices=False)
    nearest = left @ right

    def distance(frame):
        return np.sum((units.T - frame @ target) ** 2)

    np.testing.assert_allclose(distance(nearest), least, rtol=rounding())
    for size in (1e-3, 0.1, 10.0):
        other, _ = np.linalg.qr(nearest + size * rng.normal(size=nearest.shape))
        signs = np.sign(np.sum(other * nearest, axis=0))
        assert distance(other * signs) >= least - rounding()


@pytest.mark.parametrize("dim", [1, 2, 3, 6])
def test_a_simplex_in_fewer_dimensions_than_it_has(dim):
    # d of the K − 1 equal singular values are left: their share of the norm grows by (K−1)/d.
    num_classes = 5
    rows = np.asarray(simplex_etf(num_classes, max(dim, num_classes - 1)))[:, :dim]
    rank = min(dim, num_classes - 1)
    found = measured(rows, np.arange(num_classes), rows, names=["markou_feature_etf_distance"])
    expected = 2 - 2 * np.sqrt(rank / (num_classes - 1))
    np.testing.assert_allclose(
        found["markou_feature_etf_distance"], expected, rtol=rounding(), atol=rounding()
    )


@pytest.mark.parametrize("scale", [1e-140, 1e-100, 1e60])
def test_units_in_which_squares_of_products_underflow(scale):
    rows = np.random.default_rng(0).normal(size=(4, 5))
    names = ["kothapalli_nc2", "zhou_nc2", "zhou_nc3", "tirer_nc2_orthogonal"]
    expected = measured(rows, np.arange(4), rows**3, names=names)
    found = measured(scale * rows, np.arange(4), scale * rows**3, names=names)
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], rtol=rounding(), err_msg=name)


def test_class_means_that_coincide_have_no_arrangement():
    names = ["kothapalli_nc2", "markou_feature_etf_distance", "feature_norm_min", "log_norm_std"]
    found = measured(np.ones((4, 3)), np.repeat([0, 1], 2), names=names)
    assert np.isnan(list(found.values())).all()


def test_distances_of_frames_have_gradients_away_from_collapse():
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)))

    def distance(means):
        s = Statistics(jnp.ones(4), jnp.zeros(5), means, jnp.zeros(4))
        return MEASURES["kothapalli_nc2"].compute(s)

    change = jnp.asarray(np.random.default_rng(1).normal(size=(4, 5)))
    step = 1e-6
    numeric = (distance(rows + step * change) - distance(rows - step * change)) / (2 * step)
    np.testing.assert_allclose(
        jnp.vdot(jax.grad(distance)(rows), change), numeric, rtol=np.sqrt(rounding())
    )
