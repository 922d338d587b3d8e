"""`measure` against references with 50 digits, for features of any dtype, depth and offset."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, strategies as st
from metrics.references import references
from tolerances import rounding

import nc_jax as nc
from nc_jax.metrics.passes import Batch, add_moments, no_moments

# Class sizes, dimension, spread within the classes, offset of all features, dtype.
CASES = {
    "random": ((4, 4, 4), 6, 1.0, 0.0, "float64"),
    "spread 1e-2": ((4, 4, 4), 6, 1e-2, 0.0, "float64"),
    "spread 1e-5": ((4, 4, 4), 6, 1e-5, 0.0, "float64"),
    "spread 1e-9": ((4, 4, 4), 6, 1e-9, 0.0, "float64"),
    "spread 1e-9 far from 0": ((4, 4, 4), 6, 1e-9, 1e3, "float64"),
    "two classes": ((5, 5), 3, 1e-3, 0.0, "float64"),
    "fewer dimensions than classes": ((3,) * 9, 4, 0.3, 0.0, "float64"),
    "unequal classes": ((1, 9, 3, 2, 5), 8, 0.3, 0.0, "float64"),
    "one sample a class": ((1,) * 6, 9, 0.5, 0.0, "float64"),
    "float32": ((4, 4, 4), 6, 1e-2, 0.0, "float32"),
    "float32 far from 0": ((4, 4, 4), 6, 1e-2, 1e3, "float32"),
    "float32, spread of the last bits": ((4, 4, 4), 6, 1e-7, 0.0, "float32"),
    "float16": ((4, 4, 4), 6, 1e-2, 0.0, "float16"),
    "float16 with squares that overflow": ((4, 4, 4), 6, 1.0, 1e3, "float16"),
    "bfloat16": ((4, 4, 4), 6, 1e-1, 0.0, "bfloat16"),
    "means closer than samples": ((40, 40, 40), 6, 1e3, 0.0, "float64"),
    "means closer than samples, unequal": ((9, 40, 25), 6, 1e3, 0.0, "float32"),
    "100 classes": ((2,) * 100, 20, 1e-2, 0.0, "float32"),
    "1000 classes": ((1, 2) * 500, 3, 1e-2, 0.0, "float32"),
}


def sample(sizes, dim, spread, offset, dtype):
    rng = np.random.default_rng([len(sizes), dim])
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    means = rng.normal(size=(len(sizes), dim))
    features = offset + means[labels] + spread * rng.normal(size=(len(labels), dim))
    classifier = means + 0.1 * rng.normal(size=means.shape)
    to_dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    return features.astype(to_dtype), labels, classifier, rng.normal(size=len(sizes))


def conditioning(features, labels, classifier) -> float:
    """How much rounding grows: the distance of two class means over their size, or Σ_B⁺."""
    wide = features.astype(float)
    means = np.array([wide[labels == c].mean(axis=0) for c in range(len(classifier))])
    centered = means - means.mean(axis=0)
    singular = np.linalg.svd(centered, compute_uv=False)[: min(len(means) - 1, wide.shape[1])]
    return (singular[0] / singular[-1]) ** 2


@pytest.mark.parametrize("case", CASES)
def test_measures_are_right_to_rounding(case):
    features, labels, classifier, bias = sample(*CASES[case])
    expected = references(features, labels, classifier, bias)
    found = nc.metrics.measure(features, labels, classifier, bias)
    tolerance = rounding(operations=int(100 + 10 * conditioning(features, labels, classifier)))
    for name, value in expected.items():
        # Gaps that vanish by symmetry, as those of two classes, vanish to rounding.
        atol = rounding() if float(value) < 1e-12 else 0
        np.testing.assert_allclose(
            found[name], float(value), rtol=tolerance, atol=atol, err_msg=name
        )


@pytest.mark.parametrize("enabled", [True, False])
def test_measures_are_computed_in_float64_whatever_jax_is_set_to(enabled):
    features, labels, classifier, bias = sample(*CASES["spread 1e-9"])
    expected = references(features, labels, classifier, bias)
    with jax.enable_x64(enabled):
        found = nc.metrics.measure(features, labels, classifier, bias)
        assert jnp.zeros(1).dtype == (np.float64 if enabled else np.float32)
    tolerance = rounding(operations=int(100 + 10 * conditioning(features, labels, classifier)))
    np.testing.assert_allclose(found["cdnv"], float(expected["cdnv"]), rtol=tolerance)


def test_samples_that_coincide_have_no_variation():
    features = np.repeat(np.array([[0.1, 0.7], [0.3, -1e3]]), 7, axis=0)
    found = nc.metrics.measure(features, np.repeat([0, 1], 7))
    assert found["papyan_nc1"] == found["cdnv"] == found["ji_within_class_variation"] == 0.0


def test_rows_that_are_left_out_may_hold_nan():
    features, labels, *_ = sample(*CASES["random"])
    padded = np.concatenate([features, np.full((2, features.shape[1]), np.nan)])
    left_out = Batch(padded, np.append(labels, [-1, -1]))
    found = add_moments(no_moments(3, features.shape[1], covariance=True), left_out)
    expected = add_moments(
        no_moments(3, features.shape[1], covariance=True), Batch(features, labels)
    )
    assert found.covariance is not None
    assert expected.covariance is not None
    assert np.isfinite(found.covariance).all()
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=rounding())
    np.testing.assert_array_equal(found.counts, expected.counts)


@given(seed=st.integers(0, 2**32 - 1), num_classes=st.integers(2, 6), more=st.integers(0, 4))
def test_nc1_has_no_direction_beyond_the_contrasts_of_the_classes(seed, num_classes, more):
    """Labels without a relation to the features: rounding exceeds no contrast, but comes close."""
    rng, dim = np.random.default_rng(seed), num_classes + more
    labels = np.arange(50 * num_classes) % num_classes
    features = np.maximum(rng.normal(size=(len(labels), dim)), 0)
    means = np.array([features[labels == c].mean(axis=0) for c in range(num_classes)])
    centered, deviations = means - means.mean(axis=0), features - means[labels]
    # Rank K − 1 by construction: the largest singular values.
    _, singular, right = np.linalg.svd(centered, full_matrices=False)
    rank = num_classes - 1
    inverse = right[:rank].T / singular[:rank]
    expected = num_classes * np.sum((deviations @ inverse) ** 2) / len(labels)
    found = nc.metrics.measure(features, labels, names=["papyan_nc1", "zhu_nc1_sample_mean"])
    tolerance = rounding(operations=int(100 + 10 * (singular[0] / singular[rank - 1]) ** 2))
    np.testing.assert_allclose(found["papyan_nc1"], expected, rtol=tolerance)
    # For classes of one size both means are the same.
    np.testing.assert_allclose(found["zhu_nc1_sample_mean"], expected / num_classes, rtol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_contrasts_that_are_rounding_errors_count_as_absent(dtype):
    rng = np.random.default_rng(0)
    half, labels = rng.normal(size=(50, 4)), np.repeat(np.arange(3), 100)
    samples = np.concatenate([half, -half])
    # All class means are equal, then those of two classes: along the first axis the means 1, 1, -2.
    equal = np.concatenate([samples, samples, samples]).astype(dtype)
    assert nc.metrics.measure(equal, labels, names=["zhu_nc1"])["zhu_nc1"] == 0
    first = np.eye(4)[0]
    two = np.concatenate([samples + x * first for x in (1, 1, -2)]).astype(dtype)
    found = nc.metrics.measure(two, labels, names=["zhu_nc1"])["zhu_nc1"]
    # Σ_B = diag(2, 0, 0, 0).
    expected = np.mean(samples[:, 0] ** 2) / 2 / 3
    np.testing.assert_allclose(found, expected, rtol=rounding(dtype))
