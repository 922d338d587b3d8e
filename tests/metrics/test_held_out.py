"""Held-out data against its definitions, in plain NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tolerances import rounding

import nc_jax as nc
from nc_jax.geometry import simplex_etf

SEEDS = st.integers(0, 2**32 - 1)
SIZES, TEST_SIZES, DIM = (3, 6, 4), (2, 1, 5), 5


def random_sets(seed, offset=0.0, spread=1.0):
    """Training data, held-out data around other means, classifier and bias."""
    rng = np.random.default_rng(seed)
    labels, test_labels = (
        rng.permutation(np.repeat(np.arange(3), sizes)) for sizes in (SIZES, TEST_SIZES)
    )
    means = offset + rng.normal(size=(3, DIM))
    features, test_features = (
        means[y] + spread * rng.normal(size=(len(y), DIM)) for y in (labels, test_labels)
    )
    classifier, bias = rng.normal(size=(3, DIM)), rng.normal(size=3)
    return (features, labels, test_features, test_labels), (classifier, bias)


def means_of(features, labels):
    return np.stack([features[labels == c].mean(axis=0) for c in range(3)])


def by_definition(features, labels, test_features, test_labels, classifier, bias):
    means = means_of(features, labels)
    centred = means - means.mean(axis=0)
    inverse = np.linalg.pinv(centred.T @ centred / 3, rcond=1e-10)
    found = {}
    for kind, h, y in (("train", features, labels), ("test", test_features, test_labels)):
        nearest = np.linalg.norm(h[:, None] - means, axis=2).argmin(axis=1) == y
        correct = (h @ classifier.T + bias).argmax(axis=1) == y
        around = h - means[y]
        mine = means_of(h, y)
        variances = np.array([np.mean(np.sum((h[y == c] - mine[c]) ** 2, 1)) for c in range(3)])
        found |= {
            f"{kind}_ncc_accuracy": nearest.mean(),
            f"{kind}_ncc_accuracy_by_class": [nearest[y == c].mean() for c in range(3)],
            f"{kind}_accuracy": correct.mean(),
            f"{kind}_accuracy_by_class": [correct[y == c].mean() for c in range(3)],
            f"{kind}_nc1": np.einsum("ij,jk,ik->", around, inverse, around) / len(y),
            f"{kind}_cdnv": np.mean(
                [
                    (variances[a] + variances[b]) / (2 * np.sum((mine[a] - mine[b]) ** 2))
                    for a, b in ((0, 1), (0, 2), (1, 2))
                ]
            ),
        }
    shift = means_of(test_features, test_labels) - means
    return {**found, "test_mean_shift": np.sum(shift**2) / np.sum(centred**2)}


@pytest.mark.parametrize("offset", [0.0, 1e3])
@settings(max_examples=10)
@given(seed=SEEDS)
def test_held_out_measures_are_those_of_their_definitions(offset, seed):
    sets, (classifier, bias) = random_sets(seed, offset)
    found = nc.metrics.held_out(*sets, classifier, bias)
    # The definitions are computed around 0, where the features are rounded to eps · offset.
    features, labels, test_features, test_labels = sets
    expected = by_definition(
        features - offset, labels, test_features - offset, test_labels,
        classifier, bias + classifier @ np.full(DIM, offset),
    )  # fmt: skip
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name], value, rtol=1e3 * rounding() * (1 + offset), err_msg=name
        )


def test_training_data_held_out_have_the_measures_of_training_data():
    (features, labels, *_), (classifier, bias) = random_sets(0)
    found = nc.metrics.held_out(features, labels, features, labels, classifier, bias)
    whole = nc.metrics.measure(features, labels, classifier, bias)
    for name in ("ncc_accuracy", "accuracy", "cdnv", "accuracy_by_class"):
        np.testing.assert_allclose(found[f"test_{name}"], whole[name], rtol=rounding())
        np.testing.assert_allclose(found[f"train_{name}"], whole[name], rtol=rounding())
    np.testing.assert_allclose(found["test_nc1"], whole["papyan_nc1"], rtol=rounding())
    assert found["test_mean_shift"] == 0


@pytest.mark.parametrize("shift", [1e-9, 0.25])
def test_weak_test_collapse_is_not_strong(shift):
    """Held-out features that collapse to points at a distance from the means of training data."""
    etf, labels = np.asarray(simplex_etf(4, 6)), np.arange(4).repeat(3)
    directions = np.roll(etf, 1, axis=0)
    moved = etf + shift * directions
    found = nc.metrics.held_out(etf[labels], labels, moved[labels], labels)
    assert found["train_nc1"] == found["test_cdnv"] == found["train_cdnv"] == 0
    # Σ_B of the simplex is a multiple of the projection onto its span, (1/K)(K/(K−1)) ‖M_c‖² I.
    squared = shift**2 * 3
    bound = rounding() / shift
    np.testing.assert_allclose(found["test_nc1"], squared, rtol=bound)
    np.testing.assert_allclose(found["test_mean_shift"], shift**2, rtol=bound)
    assert found["test_ncc_accuracy"] == 1


def test_classes_of_held_out_data_are_matched_by_name():
    (features, labels, test_features, test_labels), _ = random_sets(1)
    names = np.array(["cat", "dog", "bird"])
    order = np.array([1, 2, 0])  # the classes in the order of the alphabet: bird, cat, dog
    by_name = nc.metrics.held_out(features, names[labels], test_features, names[test_labels])
    by_number = nc.metrics.held_out(features, order[labels], test_features, order[test_labels])
    assert by_name.class_names == ("bird", "cat", "dog")
    assert by_name.dims["test_ncc_accuracy_by_class"] == ("class",)
    np.testing.assert_array_equal(by_name.counts, np.bincount(order[labels]))
    for name, value in by_number.items():
        np.testing.assert_array_equal(by_name[name], value, err_msg=name)


def test_batches_and_formats_give_the_same():
    sets, (classifier, bias) = random_sets(2)
    whole = nc.metrics.held_out(*sets, classifier, bias)
    small = nc.metrics.held_out(*sets, classifier, bias, batch_size=3)
    pieces = [[(h[i : i + 4], y[i : i + 4]) for i in range(0, len(y), 4)]
              for h, y in (sets[:2], sets[2:])]  # fmt: skip
    streamed = nc.metrics.held_out(pieces[0], None, pieces[1], None, classifier, bias)
    for name, value in whole.items():
        for other in (small, streamed):
            np.testing.assert_allclose(other[name], value, rtol=rounding(), err_msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: (*s[:2], s[2][:, :3], s[3]), "test_features have 3 columns, and features 5"),
        (
            lambda s: (*s[:3], np.zeros(len(s[3]), int)),
            "test_labels: no samples of 1, 2 among the classes of the training data 0, 1, 2",
        ),
        (lambda s: (*s[:3], s[3][1:]), r"^test_labels have \d+ entries for \d+ samples"),
        (lambda s: (*s[:3], None), "^test_labels are missing for test_features of shape"),
        (lambda s: (*s[:3], s[3] + 0.5), r"^test_labels hold \d.5 in row 0"),
        (lambda s: (*s[:2], s[2][0], s[3]), r"^test_features have shape \(5,\)"),
        (lambda s: (*s[:2], np.nan * s[2], s[3]), "^test_features of class 0, 1, 2 have NaN"),
        (lambda s: (*s[:2], s[2], s[3] + 1), "^test_labels hold 3 in row"),
        (lambda s: (iter([s[:2]]), None, *s[2:]), "features: an iterator can be read once"),
        (lambda s: (*s[:2], iter([s[2:]]), None), "test_features: an iterator can be read once"),
    ],
)
def test_data_that_do_not_fit_are_refused(change, message):
    sets, _ = random_sets(3)
    with pytest.raises(ValueError, match=message) as error:
        nc.metrics.held_out(*change(sets))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", [0, 2])
def test_a_loader_whose_second_pass_has_other_samples_is_refused(place):
    sets, _ = random_sets(4)
    features, labels = sets[place : place + 2]
    passes = iter((labels, np.roll(labels, 1)[: len(labels) - 1]))

    def batches():
        codes = next(passes)
        return iter([(features[: len(codes)], codes)])

    changed = (*sets[:place], batches, None, *sets[place + 2 :])
    name = "test_features" if place else "features"
    with pytest.raises(ValueError, match=f"^{name}: the second pass has .* the same each time"):
        nc.metrics.held_out(*changed)
