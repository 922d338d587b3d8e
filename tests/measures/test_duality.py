"""Duality at collapse of classes of different sizes, and of classifiers at one angle."""

import jax
import numpy as np
import pytest
from measures.definitions import measured
from tolerances import rounding

import nc_jax as nc
from nc_jax.geometry import simplex_etf

SIZES = {
    "equal": [3, 3, 3, 3],
    "steps of 10 to 1": [10] * 5 + [1] * 5,
    "training set of MNIST": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
}


@pytest.mark.parametrize("case", SIZES)
def test_values_of_the_mean_of_all_samples_at_collapse(case):
    sizes = np.array(SIZES[case])
    num_classes = len(sizes)
    frame = np.asarray(simplex_etf(num_classes, num_classes))
    labels = np.repeat(np.arange(num_classes), sizes)
    names = ["zhu_nc3", "zhu_nc3_sample_mean", "zhou_nc3_sample_mean", "zhu_nc4_sample_mean"]
    found = measured(frame[labels], labels, 2 * frame, names=names)
    # WMᵀ around μ_S is K/(K−1) (I − 11ᵀ/K − q1ᵀ) for q = p − 1/K, the shares of the classes less
    # 1/K. Both terms are orthogonal, of squared norms K − 1 and K‖q‖².
    excess = sizes / sizes.sum() - 1 / num_classes
    squared = np.sum(excess**2)
    share = (num_classes - 1) / (num_classes - 1 + num_classes * squared)
    expected = np.sqrt(2 - 2 * np.sqrt(share))
    tolerance = {"rtol": np.sqrt(rounding()), "atol": rounding()}
    assert found["zhu_nc3"] < rounding()
    np.testing.assert_allclose(found["zhu_nc3_sample_mean"], expected, **tolerance)
    np.testing.assert_allclose(found["zhou_nc3_sample_mean"], expected, **tolerance)
    norm = 2 * num_classes / (num_classes - 1) * np.sqrt(squared)
    np.testing.assert_allclose(found["zhu_nc4_sample_mean"], norm, **tolerance)


@pytest.mark.parametrize("angle", [1e-8, 1e-3, 1.0, 2.0])
def test_classifiers_at_one_angle_with_the_class_means_are_uniform(angle):
    frame = np.asarray(simplex_etf(4, 5))
    # Orthogonal to all class means, which span the first three coordinates.
    classifier = np.cos(angle) * frame + np.sin(angle) * np.eye(5)[4]
    names = ["wu_uniform_duality", "cosine_duality", "self_duality", "jiang_gnc3"]
    found = measured(frame, np.arange(4), classifier, names=names)
    assert found["wu_uniform_duality"] < rounding()
    np.testing.assert_allclose(found["cosine_duality"], np.cos(angle), rtol=rounding())
    np.testing.assert_allclose(found["self_duality"], 2 * np.sin(angle / 2), rtol=rounding())
    np.testing.assert_allclose(found["jiang_gnc3"], 2 * np.sin(angle / 2) ** 2, rtol=rounding())


def test_shares_of_the_mean_classifier():
    rows = np.ones((3, 1)) * np.array([[3.0, 4.0]])
    features = np.random.default_rng(0).normal(size=(3, 2))
    found = measured(features, np.arange(3), rows, names=["zhao_nc0", "nc0_share"])
    np.testing.assert_allclose(list(found.values()), [3 * 25, 1], rtol=rounding())


def test_a_missing_bias_counts_as_zero():
    rng = np.random.default_rng(0)
    features, classifier = rng.normal(size=(2, 4, 3))
    names = ["zhu_nc4", "zhu_nc4_no_bias", "zhu_nc4_sample_mean"]
    found = measured(features, np.arange(4), classifier, names=names)
    expected = np.linalg.norm(classifier @ features.mean(0))
    np.testing.assert_allclose(list(found.values()), 3 * [expected], rtol=rounding())


PARTS = ["self_duality_classifier_part", "self_duality_feature_part", "self_duality_logit_part"]


@pytest.mark.parametrize(("classes", "dim", "size"), [(5, 3, 1), (7, 3, 3), (6, 3, 2), (8, 5, 1)])
def test_at_a_code_the_logits_alone_part_classifier_and_means(classes, dim, size):
    problem = nc.ulpm(classes, dim, size)
    value, state = nc.exact.best_known_code(problem, key=jax.random.key(0))
    found = measured(state.features, problem.labels, state.classifier, names=PARTS)
    assert found[PARTS[0]] < rounding()
    assert found[PARTS[1]] < rounding()
    trace = np.trace(np.asarray(state.logits())[::size]) * np.sqrt(size)
    expected = np.sqrt(max(2 - 2 * trace / value, 0))
    np.testing.assert_allclose(found[PARTS[2]], expected, rtol=1e-9, atol=1e-7)


def test_a_map_that_leaves_the_logits_changes_the_parts_of_both_factors_alone():
    _, state = nc.exact.best_known_code(nc.ulpm(5, 3, 1))
    stretch = np.diag([1.3, 1.0, 0.8])
    features, classifier = state.features @ stretch, state.classifier @ np.linalg.inv(stretch)
    labels = np.arange(5)
    found = measured(features, labels, classifier, names=PARTS)
    before = measured(state.features, labels, state.classifier, names=PARTS)
    np.testing.assert_allclose(found[PARTS[2]], before[PARTS[2]], rtol=rounding())
    assert min(found[PARTS[0]], found[PARTS[1]]) > 0.05
    # The triangle inequality of the three steps from W̄ to the balanced factors to m̄.
    units = [x / np.linalg.norm(x) for x in (classifier, features)]
    assert np.linalg.norm(units[0] - units[1]) <= sum(found.values())


def test_a_mean_classifier_belongs_to_the_part_of_the_classifier():
    _, state = nc.exact.best_known_code(nc.ulpm(6, 3, 1))
    shifted = state.classifier + np.array([0.1, 0.0, 0.0])
    found = measured(state.features, np.arange(6), shifted, names=PARTS)
    assert found[PARTS[2]] < rounding()
    assert found[PARTS[0]] > 0.05
