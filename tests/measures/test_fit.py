"""Accuracy, margins, losses and the parts of the square loss against their definitions."""

import mpmath
import numpy as np
import pytest
from feature_sets import DIGITS, KINDS, class_means, feature_set, pseudo_inverse
from hypothesis import given, settings, strategies as st
from tolerances import rounding

import nc_jax as nc
from nc_jax.geometry import simplex_etf
from nc_jax.measures import MEASURES

SEEDS = st.integers(0, 2**32 - 1)
PARTS = ("han_loss_nc1", "han_loss_nc23", "han_loss_perp")
NAMES = [
    name
    for name in MEASURES
    if name.removesuffix("_by_class").removesuffix("_min").removesuffix("_mean")
    in {
        "accuracy", "ncc_accuracy", "margin", "cosine_margin", "zhou_cosine_margin",
        "cross_entropy", "squared_error",
    }
]  # fmt: skip


def margins(scores, labels):
    others = np.where(np.eye(scores.shape[1], dtype=bool)[labels], -np.inf, scores)
    return scores[np.arange(len(labels)), labels] - others.max(axis=1)


def cosines(features, classifier):
    norms = np.linalg.norm(features, axis=1)[:, None] * np.linalg.norm(classifier, axis=1)
    return features @ classifier.T / norms


def per_sample(features, labels, classifier, bias):
    """The quantity of each sample that a measure is the mean, or the smallest, of."""
    means = np.stack([features[labels == c].mean(axis=0) for c in range(len(classifier))])
    distances = np.linalg.norm(features[:, None] - means, axis=2)
    logits = features @ classifier.T + bias
    targets = np.eye(len(classifier))[labels]
    log_sums = np.log(np.sum(np.exp(logits), axis=1))
    around = cosines(features - means.mean(axis=0), classifier - classifier.mean(axis=0))
    return {
        "accuracy": logits.argmax(axis=1) == labels,
        "ncc_accuracy": distances.argmin(axis=1) == labels,
        "margin": margins(logits, labels),
        "cosine_margin": margins(cosines(features, classifier), labels),
        "zhou_cosine_margin": margins(around, labels),
        "cross_entropy": log_sums - np.sum(logits * targets, axis=1),
        "squared_error": np.sum((logits - targets) ** 2, axis=1) / 2,
    }


def value_of(name, samples, labels):
    by_class = name.endswith("_by_class")
    stem = name.removesuffix("_by_class")
    reduce = np.min if stem.endswith("_min") else np.mean
    values = samples[stem.removesuffix("_min").removesuffix("_mean")]
    if by_class:
        return [reduce(values[labels == c]) for c in np.unique(labels)]
    return reduce(values)


@pytest.mark.parametrize("kind", ["unequal classes", "one sample a class", "balanced"])
@settings(max_examples=5)
@given(seed=SEEDS)
def test_means_over_samples_are_those_of_their_definitions(kind, seed):
    features, labels, classifier, bias = feature_set(kind, seed)
    found = nc.metrics.measure(features, labels, classifier, bias, names=NAMES)
    samples = per_sample(features, labels, classifier, bias)
    assert len(found) == 20
    for name, value in found.items():
        expected = value_of(name, samples, labels)
        np.testing.assert_allclose(value, expected, rtol=rounding(), atol=rounding(), err_msg=name)


def test_nearest_means_are_found_far_from_the_origin():
    """Distances of 1e-6 at an offset of 1e3, of which ‖h‖² would leave no digit."""
    features, labels, *_ = feature_set("deep collapse")
    rng = np.random.default_rng(0)
    near = 1e3 + 1e-6 * rng.normal(size=features.shape)
    found = nc.metrics.measure(near, labels, names=("ncc_accuracy", "ncc_accuracy_by_class"))
    means = np.stack([near[labels == c].mean(axis=0) for c in range(4)])
    correct = np.linalg.norm(near[:, None] - means, axis=2).argmin(axis=1) == labels
    assert found["ncc_accuracy"] == pytest.approx(correct.mean(), rel=rounding())
    by_class = [correct[labels == c].mean() for c in range(4)]
    np.testing.assert_allclose(found["ncc_accuracy_by_class"], by_class, rtol=rounding())


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3])
def test_a_tiny_cross_entropy_has_a_relative_accuracy(scale):
    """log(1 + 2 e^(−1.5 s)) at a simplex of three classes, far below the rounding of 1."""
    etf = np.asarray(simplex_etf(3, 2))
    etf = etf / np.linalg.norm(etf[0])
    found = nc.metrics.measure(scale * etf, np.arange(3), etf, names=("cross_entropy",))
    with mpmath.workdps(DIGITS):
        expected = mpmath.log1p(2 * mpmath.exp(-mpmath.mpf(1.5) * scale))
        # The exponent is rounded to eps of itself.
        bound = rounding() * max(scale, 1)
        assert abs(found["cross_entropy"] - expected) <= bound * expected + mpmath.mpf(1e-308)


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_the_cosine_margin_of_a_simplex_is_the_largest(shift):
    etf = np.asarray(simplex_etf(4, 5))
    found = nc.metrics.measure(
        etf.repeat(2, axis=0) + shift, np.arange(4).repeat(2), etf + shift, names=NAMES
    )
    for name in ("zhou_cosine_margin", "zhou_cosine_margin_min", "zhou_cosine_margin_by_class"):
        np.testing.assert_allclose(found[name], 4 / 3, rtol=rounding())
    for name in ("cosine_margin_mean", "cosine_margin_min"):
        if shift == 0:
            assert found[name] == pytest.approx(4 / 3, rel=rounding())
        else:
            assert found[name] < 4 / 3


def loss_parts(features, labels, classifier, bias):
    """Parts of the square loss of least squares by the pseudo-inverse of (h, 1), in mpmath."""
    exact = mpmath.matrix(features.tolist())
    number, ones = exact.rows, mpmath.ones(exact.rows, 1)
    mean = ones.T * exact / number
    targets = mpmath.matrix(np.eye(labels.max() + 1)[labels].tolist())
    shares = ones.T * targets / number
    weights = pseudo_inverse(exact - ones * mean) * (targets - ones * shares)
    offset = shares - mean * weights
    means = class_means(features, labels)
    of_class = mpmath.matrix([[means[int(c), j] for j in range(means.cols)] for c in labels])

    def half_mean_square(matrix):
        return mpmath.fsum(value**2 for value in matrix) / (2 * number)

    given = mpmath.matrix(classifier.T.tolist())
    given_offset = mpmath.matrix([bias.tolist()])
    return {
        "han_loss_nc1": half_mean_square((exact - of_class) * weights),
        "han_loss_nc23": half_mean_square(of_class * weights + ones * offset - targets),
        "han_loss_perp": half_mean_square(
            exact * (given - weights) + ones * (given_offset - offset)
        ),
        "squared_error": half_mean_square(exact * given + ones * given_offset - targets),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_the_square_loss_are_those_of_their_definitions(kind):
    features, labels, classifier, bias = feature_set(kind)
    names = (*PARTS, "han_loss_ls", "squared_error")
    found = nc.metrics.measure(features, labels, classifier, bias, names=names)
    with mpmath.workdps(DIGITS):
        exact = loss_parts(features, labels, classifier, bias)
        total = mpmath.fsum(exact[name] for name in PARTS)
        assert abs(total / exact["squared_error"] - 1) < mpmath.mpf(10) ** (20 - DIGITS)
    expected = {name: float(value) for name, value in exact.items()}
    # Features lie in directions that the condition number makes as uncertain.
    centred = features - features.mean(axis=0)
    singular = np.linalg.svd(centred, compute_uv=False)
    condition = singular[0] / singular[singular > 1e-13 * singular[0]][-1]
    for name in (*PARTS, "squared_error"):
        np.testing.assert_allclose(
            found[name], expected[name], rtol=rounding() * condition, atol=rounding() ** 2,
            err_msg=name,
        )  # fmt: skip
    parts = sum(found[name] for name in PARTS)
    np.testing.assert_allclose(parts, found["squared_error"], rtol=rounding())
    assert found["han_loss_ls"] == found["han_loss_nc1"] + found["han_loss_nc23"]


@given(seed=SEEDS)
def test_the_part_off_the_central_path_vanishes_for_the_classifier_of_least_squares(seed):
    features, labels, *_ = feature_set("unequal classes", seed)
    columns = np.concatenate([features, np.ones((len(labels), 1))], axis=1)
    solution = np.linalg.lstsq(columns, np.eye(4)[labels], rcond=None)[0].T
    found = nc.metrics.measure(
        features, labels, solution[:, :-1], solution[:, -1],
        names=("han_loss_perp", "han_loss_ls", "squared_error"),
    )  # fmt: skip
    assert found["han_loss_perp"] <= rounding() ** 2 * np.linalg.cond(columns) ** 2
    np.testing.assert_allclose(found["han_loss_ls"], found["squared_error"], rtol=rounding())


@given(seed=SEEDS)
def test_the_loss_of_least_squares_is_invariant_under_affine_maps(seed):
    features, labels, *_ = feature_set("unequal classes", seed)
    rng = np.random.default_rng(seed)
    linear, shift = rng.normal(size=(6, 6)), rng.normal(size=6)
    names = ("han_loss_nc1", "han_loss_nc23")
    found = nc.metrics.measure(features, labels, names=names)
    mapped = nc.metrics.measure(features @ linear + shift, labels, names=names)
    bound = rounding() * np.linalg.cond(linear) ** 2
    for name in names:
        np.testing.assert_allclose(mapped[name], found[name], rtol=bound, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_separation_value_is_the_squared_norm_over_twice_the_least_margin(kind):
    features, labels, classifier, bias = feature_set(kind)
    smallest = margins(features @ classifier.T + bias, labels).min()
    squared = np.sum(features**2) + np.sum(classifier**2)
    expected = squared / (2 * smallest) if smallest > 0 else np.inf
    found = nc.metrics.measure(features, labels, classifier, bias, names=["separation_value"])
    # A margin is a difference of logits, of which a small one loses digits.
    size = np.abs(features @ classifier.T).max() + np.abs(bias).max()
    lost = size / abs(smallest)
    np.testing.assert_allclose(found["separation_value"], expected, rtol=lost * rounding())


@given(seed=SEEDS)
def test_separation_value_is_at_least_that_of_the_simplex_and_is_attained_there(seed):
    rng, n = np.random.default_rng(seed), 3
    frame = np.asarray(simplex_etf(4, 5))
    labels = np.repeat(np.arange(4), n)
    for noise in (0.0, 0.1):
        classifier = frame + noise * rng.normal(size=frame.shape)
        features = classifier[labels] / np.sqrt(n) + noise * rng.normal(size=(4 * n, 5))
        found = nc.metrics.measure(features, labels, classifier, names=["separation_value"])
        value, least = found["separation_value"], 3 * np.sqrt(n)
        assert value >= least * (1 - rounding())
        assert noise or value <= least * (1 + rounding())
