"""Closed forms of VCI and Fisher ratios at any depth of collapse; identities of NC1 and CDNV."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from measures.definitions import measured
from tolerances import rounding

import nc_jax as nc
from nc_jax.geometry import simplex_etf
from nc_jax.measures import MEASURES, Statistics
from nc_jax.metrics import cdnv_power

FISHER = ("fisher_ratio_max", "fisher_discriminant")
SEEDS = st.integers(0, 2**32 - 1)


def around_a_simplex(num_classes, directions, radius):
    """Two samples of each class at ± each row of `directions`, times √m radius, around the means.

    Σ_W is radius² times the sum of the m rows' outer products.
    """
    count, dim = directions.shape
    frame = np.asarray(simplex_etf(num_classes, dim))
    offsets = np.sqrt(count) * radius * np.concatenate([directions, -directions])
    features = (frame[:, None] + offsets[None]).reshape(-1, dim)
    return features, np.repeat(np.arange(num_classes), 2 * count)


@pytest.mark.parametrize("radius", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize(("num_classes", "dim"), [(2, 1), (4, 3), (4, 7)])
def test_isotropic_features_around_a_simplex(num_classes, dim, radius):
    features, labels = around_a_simplex(num_classes, np.eye(dim), radius)
    found = measured(features, labels, names=["xu_vci", *FISHER])
    # Σ_B has the eigenvalue 1/(K−1) K−1 times, and Σ_W = radius² I. Features of size 1 have
    # rounding errors of 1e-16, relative to the radius.
    ratio = 1 / (num_classes - 1) / radius**2
    tolerance = rounding() / radius
    np.testing.assert_allclose(found["xu_vci"], 1 / (1 + ratio), rtol=tolerance)
    np.testing.assert_allclose(found["fisher_ratio_max"], ratio, rtol=tolerance)
    np.testing.assert_allclose(
        found["fisher_discriminant"], (num_classes - 1) * ratio, rtol=tolerance
    )


def test_features_that_vary_outside_of_the_class_means_have_no_vci():
    features, labels = around_a_simplex(3, np.eye(6)[2:], 1e3)
    found = measured(features, labels, names=["xu_vci", *FISHER])
    assert found["xu_vci"] == 0
    assert found["fisher_ratio_max"] == found["fisher_discriminant"] == np.inf


def test_only_the_directions_with_variation_count():
    # One of the two directions of the class means has variation, in which λ is 1/2.
    features, labels = around_a_simplex(3, np.eye(6)[[0, 3, 5]], 1.0)
    found = measured(features, labels, names=["xu_vci", *FISHER])
    np.testing.assert_allclose(found["xu_vci"], 1 / (1 + 1 / 2) / 2, rtol=rounding())
    assert found["fisher_ratio_max"] == found["fisher_discriminant"] == np.inf


def test_variation_that_other_directions_predict_does_not_count():
    # All variation is along e_1 + e_6: e_6 predicts that along e_1.
    direction = np.eye(6)[[0]] + np.eye(6)[[5]]
    features, labels = around_a_simplex(3, direction, 1.0)
    found = measured(features, labels, names=["xu_vci", "papyan_nc1"])
    np.testing.assert_allclose(found["xu_vci"], 0, atol=rounding())
    np.testing.assert_allclose(found["papyan_nc1"], 2, rtol=rounding())


def random_features(seed, sizes=(7, 3, 9, 6), dim=5):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    means = rng.normal(size=(len(sizes), dim))
    return means[labels] + rng.normal(size=(len(labels), dim)), labels


@given(SEEDS)
def test_vci_does_not_depend_on_linear_coordinates(seed):
    features, labels = random_features(seed)
    matrix = np.random.default_rng(seed).normal(size=(5, 5))
    tolerance = rounding(operations=int(100 * np.linalg.cond(matrix) ** 2))
    names = ["xu_vci", *FISHER]
    expected = measured(features, labels, names=names)
    found = measured(features @ matrix, labels, names=names)
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], rtol=tolerance, err_msg=name)


@given(SEEDS)
def test_vci_is_at_most_the_mean_of_the_ratios_of_nc1(seed):
    features, labels = random_features(seed)
    found = measured(features, labels, names=["xu_vci", "papyan_nc1"])
    assert 0 < found["xu_vci"] <= found["papyan_nc1"] / 3
    assert found["xu_vci"] < 1


@pytest.mark.parametrize("contrast", [1e-3, 1e-6])
def test_class_means_that_nearly_lie_on_a_line(contrast):
    # λ of the two directions differ by contrast², and VCI is the mean of two closed forms.
    features, labels = around_a_simplex(3, np.eye(2), 1.0)
    scale = np.array([1.0, contrast])
    frame = np.asarray(simplex_etf(3, 2))[labels]
    found = measured(features - frame + frame * scale, labels, names=["xu_vci"])["xu_vci"]
    # Class means are sums of numbers of size 1, with rounding errors relative to the contrast.
    tolerance = rounding() / contrast
    np.testing.assert_allclose(found, np.mean(1 / (1 + scale**2 / 2)), rtol=tolerance)


def test_nc1_is_the_mean_over_samples_of_that_of_the_classes():
    features, labels = random_features(0)
    found = measured(features, labels, names=["papyan_nc1", "papyan_nc1_by_class"])
    mean = np.bincount(labels) / len(labels) @ found["papyan_nc1_by_class"]
    np.testing.assert_allclose(mean, found["papyan_nc1"], rtol=rounding())


@given(SEEDS)
def test_nc1_around_the_mean_of_all_samples_is_smaller(seed):
    # Σ_B around μ_S is Σ_B around μ_G plus an outer product.
    features, labels = random_features(seed)
    found = measured(features, labels, names=["zhu_nc1", "zhu_nc1_sample_mean"])
    assert found["zhu_nc1_sample_mean"] < found["zhu_nc1"]


def test_shares_of_the_total_scatter():
    features, labels = random_features(0)
    found = measured(features, labels, names=["within_share", "between_share"])
    assert abs(found["within_share"] + found["between_share"] - 1) < rounding()


def test_powers_of_cdnv():
    features, labels = random_features(0)
    found = measured(
        features, labels, names=["cdnv", "wu_cdnv", cdnv_power(1), cdnv_power(2), cdnv_power(0.5)]
    )
    np.testing.assert_allclose(found["cdnv_power_1"], found["cdnv"], rtol=rounding())
    np.testing.assert_allclose(found["cdnv_power_2"], found["wu_cdnv"], rtol=rounding())
    means = np.array([features[labels == c].mean(0) for c in range(4)])
    v = [np.mean(np.sum((features[labels == c] - means[c]) ** 2, 1)) for c in range(4)]
    terms = [
        (v[c] + v[k]) / (2 * np.linalg.norm(means[c] - means[k]))
        for c in range(4)
        for k in range(c)
    ]
    np.testing.assert_allclose(found["cdnv_power_0.5"], np.mean(terms), rtol=rounding())


@pytest.mark.parametrize("exponent", [0, -1, np.inf, np.nan])
def test_an_exponent_is_a_number_above_zero(exponent):
    with pytest.raises(ValueError, match=r"^exponent .*give a finite number > 0"):
        cdnv_power(exponent)


def test_cdnv_of_distances_of_zero_on_the_diagonal_has_finite_gradients():
    features, labels = random_features(0)

    def power(features):
        moments = nc.metrics.class_moments(features, labels, 4)
        zero = jnp.zeros(features.shape[1])
        s = Statistics(moments.counts, zero, moments.means, moments.scatter)
        return MEASURES["wu_cdnv"].compute(s)

    assert np.isfinite(jax.grad(power)(jnp.asarray(features))).all()
