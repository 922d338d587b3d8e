"""Every measure of five modules against its definition, in JAX, and under its symmetries."""

import functools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from measures import definitions
from measures.definitions import measured
from tolerances import rounding

from nc_jax.geometry import simplex_etf
from nc_jax.measures import (
    MEASURES,
    Statistics,
    angles,
    arrangement,
    duality,
    imbalance,
    kernels,
    variability,
)

MODULES = (variability, arrangement, angles, kernels, duality, imbalance)
NAMES = {
    module.__name__.rpartition(".")[2]: [
        name for name, m in MEASURES.items() if m.compute.__module__ == module.__name__
    ]
    for module in MODULES
}
ALL = [name for names in NAMES.values() for name in names]
# Class sizes, dimension, spread, offset of all features.
CASES = {
    "random": ((4, 4, 4), 6, 1.0, 0.0),
    "spread 1e-2": ((4, 4, 4), 6, 1e-2, 0.0),
    "spread 1e-5": ((4, 4, 4), 6, 1e-5, 0.0),
    "spread 1e-9": ((6, 6, 6, 6), 5, 1e-9, 0.0),
    "spread 1e-5 far from 0": ((4, 4, 4), 6, 1e-5, 1e3),
    "two classes": ((5, 5), 3, 1e-3, 0.0),
    "more classes than dimensions": ((3,) * 6, 2, 1.0, 0.0),
    "as many dimensions as a simplex has": ((5,) * 5, 4, 1e-3, 0.0),
    "unequal classes": ((1, 9, 3, 2), 5, 1e-2, 0.0),
    "one sample a class": ((1,) * 4, 6, 1e-2, 0.0),
}
SIZES = {"balanced": (3, 3, 3, 3), "unequal": (1, 4, 2, 5)}
# Measures that change with the unit of features and classifier.
SCALED = {
    "within_class_variance_by_class", "wu_cdnv", "feature_norm_by_class",
    "classifier_norm_by_class", "wu_equinorm", "feature_distance_by_pair",
    "duality_product_by_class", "wu_product_variance", "zhu_nc4_sample_mean", "zhu_nc4_no_bias",
    "global_logit_by_class", "zhao_nc0", "seli_logit_gap",
}  # fmt: skip
# Measures with class means that are not centred.
FROM_ZERO = {
    "tirer_nc2_orthogonal", "feature_orthogonality_gap", "yaras_nc3", "tirer_nc3_orthogonal",
        "seli_logit_gap",
    "zhu_nc4_sample_mean", "zhu_nc4_no_bias", "global_logit_by_class",
    "self_duality_classifier_part", "self_duality_feature_part", "self_duality_logit_part",
}  # fmt: skip
# Values at collapse onto a simplex ETF of unit rows, with classifiers twice as long and no bias.
COLLAPSED = {
    "between_share": lambda k: 1,
    "fisher_ratio": lambda k: np.inf,
    "fisher_ratio_max": lambda k: np.inf,
    "fisher_discriminant": lambda k: np.inf,
    "tirer_nc2_orthogonal": lambda k: np.sqrt(2 - 2 * np.sqrt((k - 1) / k)),
    "tirer_nc2_orthogonal_classifier": lambda k: np.sqrt(2 - 2 * np.sqrt((k - 1) / k)),
    "tirer_nc3_orthogonal": lambda k: np.sqrt(2 - 2 * np.sqrt((k - 1) / k)),
    "feature_orthogonality_gap": lambda k: 1 / (k - 1),
    "classifier_orthogonality_gap": lambda k: 1 / (k - 1),
    "feature_norm_by_class": lambda k: np.ones(k),
    "classifier_norm_by_class": lambda k: np.full(k, 2),
    "feature_norm_min": lambda k: 1,
    "feature_norm_max": lambda k: 1,
    "classifier_norm_min": lambda k: 1,
    "classifier_norm_max": lambda k: 1,
    "feature_cosine_by_pair": lambda k: k / (k - 1) * np.eye(k) - 1 / (k - 1),
    "classifier_cosine_by_pair": lambda k: k / (k - 1) * np.eye(k) - 1 / (k - 1),
    "feature_cosine_min": lambda k: -1 / (k - 1),
    "feature_cosine_max": lambda k: -1 / (k - 1),
    "classifier_cosine_min": lambda k: -1 / (k - 1),
    "classifier_cosine_max": lambda k: -1 / (k - 1),
    "feature_coherence": lambda k: 1 / (k - 1),
    "classifier_coherence": lambda k: 1 / (k - 1),
    "feature_angle_min": lambda k: np.arccos(-1 / (k - 1)),
    "feature_angle_max": lambda k: np.arccos(-1 / (k - 1)),
    "classifier_angle_min": lambda k: np.arccos(-1 / (k - 1)),
    "classifier_angle_max": lambda k: np.arccos(-1 / (k - 1)),
    "feature_distance_mean": lambda k: np.sqrt(2 * k / (k - 1)),
    "feature_distance_min": lambda k: np.sqrt(2 * k / (k - 1)),
    "classifier_distance_min": lambda k: np.sqrt(2 * k / (k - 1)),
    "feature_distance_by_pair": lambda k: np.sqrt(2 * k / (k - 1)) * (1 - np.eye(k)),
    "liu_log_energy": lambda k: -np.log(2 * k / (k - 1)) / 2,
    "liu_classifier_log_energy": lambda k: -np.log(2 * k / (k - 1)) / 2,
    "wu_riesz_log_energy": lambda k: -(DIM - 2) / 2 * np.log(2 * k / (k - 1)),
    "cosine_duality_by_class": lambda k: np.ones(k),
    "cosine_duality": lambda k: 1,
    "duality_product_by_class": lambda k: np.full(k, 2),
}
DIM = 12
# Rounding errors of random class means, whose pseudo-inverse has a condition number of 1e4 at most.
RANDOM = rounding(operations=1_000_000)


def sample(sizes, dim, spread, offset, seed=0):
    """Features, labels, classifier and bias at a distance `spread` from collapse."""
    num_classes = len(sizes)
    rng = np.random.default_rng([seed, num_classes, dim])
    labels = rng.permutation(np.repeat(np.arange(num_classes), sizes))
    means = rng.normal(size=(num_classes, dim))
    if dim >= num_classes - 1:
        means = np.asarray(simplex_etf(num_classes, dim)) + spread * means
    features = offset + means[labels] + spread * rng.normal(size=(len(labels), dim))
    classifier = means + spread * rng.normal(size=means.shape)
    return features, labels, classifier, rng.normal(size=num_classes)


@functools.cache
def results(module, case):
    """Values of the definitions and of the package."""
    data = sample(*CASES[case])
    with mp.workdps(definitions.DIGITS):
        expected = getattr(definitions, module)(definitions.Definitions(*data))
    return expected, measured(*data, names=NAMES[module])


@pytest.mark.parametrize("module", NAMES)
@pytest.mark.parametrize("case", CASES)
def test_measures_equal_their_definitions(case, module):
    expected, found = results(module, case)
    assert set(expected) == set(found)
    _, _, spread, _ = CASES[case]
    # Numbers that vanish at collapse are differences of size `spread` of numbers of size 1.
    tolerance = rounding(operations=300) / spread
    for name, exact in expected.items():
        exact = np.vectorize(float)(exact)
        # Gaps that vanish by symmetry, as those of two classes, vanish to rounding.
        atol = np.where(np.abs(exact) < 1e-30, tolerance, 0)
        with np.errstate(invalid="ignore"):  # ∞ − ∞
            error = np.abs(found[name] - exact)
        fine = (found[name] == exact) | (error <= atol + tolerance * np.abs(exact))
        assert np.all(fine), (name, found[name], exact)


def statistics(features, labels, classifier, bias, dtype):
    """Sums of NumPy in float64, rounded to a dtype."""
    counts = np.bincount(labels).astype(float)
    means = np.array([features[labels == c].mean(0) for c in range(len(counts))])
    deviations = features - means[labels]

    def by_class(values):
        return np.bincount(labels, values)

    def whitened(center):
        inverse = np.linalg.pinv((means - center).T @ (means - center) / len(means), hermitian=True)
        return by_class(np.einsum("ni,ij,nj->n", deviations, inverse, deviations))

    sums = {
        "covariance": deviations.T @ deviations,
        "whitened": whitened(means.mean(0)),
        "whitened_by_samples": whitened(features.mean(0)),
    }
    arrays = counts, 0 * means[0], means, by_class(np.sum(deviations**2, axis=1))
    arrays = *arrays, sums, classifier, bias
    return jax.tree.map(lambda x: x.astype(dtype), arrays)


def evaluated(arrays):
    *positional, classifier, bias = arrays
    s = Statistics(*positional, classifier=classifier, bias=bias)
    return {name: MEASURES[name].compute(s) for name in ALL}


# In the same dtype as the arrays; strict promotion and no promotion of ranks, as in all tests.
@functools.cache
def in_jax_and_numpy(sizes, dim):
    data = sample(sizes, dim, 1.0, 0.0)
    with np.errstate(all="ignore"):
        expected = evaluated(statistics(*data, np.float64))
    with jax.numpy_rank_promotion("raise"):
        found = jax.jit(evaluated)(jax.tree.map(jnp.asarray, statistics(*data, np.float32)))
    return found, expected


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("case", [((3, 5, 7, 6), 5), ((9, 8, 9, 9, 8), 2)], ids=["K<d", "K>d"])
def test_measures_in_jax_are_those_of_numpy_to_float32(case, name):
    found, expected = (values[name] for values in in_jax_and_numpy(*case))
    assert found.dtype == jnp.float32
    assert found.shape == np.shape(expected)
    tolerance = rounding("float32", operations=300)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


seeds = st.integers(0, 2**32 - 1)


def assert_equal(found, expected):
    """Equal values of random class means."""
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=RANDOM, atol=RANDOM, err_msg=name)


def permuted(value, order):
    """Values of classes in another order of the classes."""
    value = np.asarray(value)
    return value[np.ix_(*(order,) * value.ndim)] if value.ndim else value


@given(seeds, st.sampled_from(list(SIZES)))
def test_measures_do_not_depend_on_coordinates_or_order(seed, sizes):
    features, labels, classifier, bias = sample(SIZES[sizes], 5, 1.0, 0.0, seed)
    expected = measured(features, labels, classifier, bias, names=ALL)
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    order, samples = rng.permutation(4), rng.permutation(len(labels))
    found = measured(
        (features @ rotation)[samples],
        np.argsort(order)[labels][samples],
        (classifier @ rotation)[order],
        bias[order],
        names=ALL,
    )
    assert_equal(found, {name: permuted(value, order) for name, value in expected.items()})


@given(seeds, st.sampled_from([1e-100, 1e-3, 7.0, 1e60]))
def test_measures_do_not_depend_on_units(seed, scale):
    names = [name for name in ALL if name not in SCALED]
    features, labels, classifier, bias = sample(SIZES["unequal"], 5, 1.0, 0.0, seed)
    expected = measured(features, labels, classifier, bias, names=names)
    found = measured(scale * features, labels, 3 * scale * classifier, bias, names=names)
    assert_equal(found, expected)


@given(seeds)
def test_measures_around_a_mean_do_not_depend_on_the_origin(seed):
    names = [name for name in ALL if name not in FROM_ZERO]
    features, labels, classifier, bias = sample(SIZES["unequal"], 5, 1.0, 0.0, seed)
    shift = np.random.default_rng(seed).normal(size=5)
    expected = measured(features, labels, classifier, bias, names=names)
    found = measured(features + shift, labels, classifier, bias, names=names)
    assert_equal(found, expected)


@given(seeds)
def test_both_means_are_equal_for_classes_of_one_size(seed):
    data = sample(SIZES["balanced"], 5, 1.0, 0.0, seed)
    of_samples = [name for name in MEASURES if name.endswith("_sample_mean")]
    assert len(of_samples) == 4
    for name in of_samples:
        plain = name.removesuffix("_sample_mean")
        found = measured(*data, names=[name, plain])
        np.testing.assert_allclose(found[name], found[plain], rtol=RANDOM, err_msg=name)


@pytest.mark.parametrize("num_classes", [2, 3, 10, DIM + 1])
def test_values_at_collapse(num_classes):
    key = jax.random.key(num_classes)
    frame = np.asarray(simplex_etf(num_classes, DIM, key=key))
    labels = np.repeat(np.arange(num_classes), 3)
    found = measured(frame[labels], labels, 2 * frame, np.zeros(num_classes), names=ALL)
    # Logarithms of norms of 1 have mean 0, by which `wu_equinorm` divides.
    scaled = measured(3 * frame[labels], labels, frame, None, names=["wu_equinorm"])
    for name, value in {**found, **scaled}.items():
        expected = COLLAPSED[name](num_classes) if name in COLLAPSED else np.zeros_like(value)
        np.testing.assert_allclose(value, expected, rtol=rounding(), atol=rounding(), err_msg=name)


@pytest.mark.parametrize("num_classes", [2, 4, DIM])
def test_values_at_an_orthogonal_frame(num_classes):
    rng = np.random.default_rng(num_classes)
    frame = np.linalg.qr(rng.normal(size=(DIM, num_classes)))[0].T
    labels = np.repeat(np.arange(num_classes), 2)
    names = [
        "tirer_nc2_orthogonal", "tirer_nc2_orthogonal_classifier", "tirer_nc3_orthogonal",
        "feature_orthogonality_gap", "classifier_orthogonality_gap",
        # The class means less their mean are a simplex ETF.
        "kothapalli_nc2", "zhou_nc2", "zhou_nc3", "markou_feature_etf_distance",
    ]  # fmt: skip
    found = measured(5 * frame[labels], labels, 0.3 * frame, None, names=names)
    for name, value in found.items():
        np.testing.assert_allclose(value, 0, atol=rounding(), err_msg=name)
