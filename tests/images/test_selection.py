import numpy as np
import pytest
from hypothesis import given, strategies as st

from nc_jax import images

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 4)).astype(np.uint8)
LABELS = np.array([0, 1, 2, 1, 0, 1], np.int32)
SET = images.ImageSet(PIXELS.astype(np.float32) / 255, LABELS, ("a", "b", "c"))


def test_classes_are_chosen_in_order():
    inputs, targets = images.two_classes(SET, 1, 0)
    rows = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(targets, [1, -1, -1, 1, -1])
    np.testing.assert_allclose(inputs, PIXELS[rows].reshape(5, 12) / 255, rtol=1e-6)
    inputs, targets = images.two_classes(SET, 0, 1, num_samples=4)
    np.testing.assert_array_equal(targets, [-1, 1, 1, -1])
    inputs, one_hot = images.several_classes(SET, (2, 0, 1), samples_per_class=1)
    np.testing.assert_array_equal(one_hot, [[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    np.testing.assert_allclose(inputs[2], PIXELS[2].ravel() / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: images.two_classes(SET, 0, 3), r"classes\[1\] = 3: give an integer from 0 to 2"),
        (lambda: images.two_classes(SET, 1, 1), "give one or more, each once"),
        (
            lambda: images.two_classes(SET, 0, 1, num_samples=3),
            "num_samples = 3: give an even number",
        ),
        (lambda: images.two_classes(SET, 0, 1, num_samples=6), "3 samples of class 0: it has 2"),
        (
            lambda: images.several_classes(SET, (0, 1), samples_per_class=0),
            "samples_per_class = 0: give an integer >= 1",
        ),
        (lambda: images.choose_classes(SET, ()), r"classes = \[\]: give one or more, each once"),
        (lambda: images.random_labels(SET, 1.1, 0), r"share = 1\.1: give the share of labels"),
        (lambda: images.random_labels(SET, float("nan"), 0), "share = nan"),
        (lambda: images.random_labels(SET, -0.1, 0), r"share = -0\.1: give a finite number >= 0"),
        (lambda: images.random_labels(SET, 0.5, -1), "seed = -1: give an integer >= 0"),
        (
            lambda: images.choose_classes(SET._replace(labels=0 * LABELS), (0, 1)),
            "class 1: the set has no image of it; leave it out",
        ),
    ],
)
def test_invalid_selections_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@given(st.permutations([0, 1, 2]), st.integers(1, 3), st.sampled_from([None, 1]))
def test_chosen_classes_keep_their_images_and_names(order, count, each):
    chosen = images.choose_classes(SET, order[:count], samples_per_class=each)
    assert chosen.classes == tuple("abc"[c] for c in order[:count])
    assert chosen.labels.dtype == np.int32
    rows = [int(np.flatnonzero(np.all(SET.images == x, axis=(1, 2)))[0]) for x in chosen.images]
    assert rows == sorted(rows)
    np.testing.assert_array_equal(np.asarray(order)[chosen.labels], LABELS[rows])
    expected = [each or int(np.sum(c == LABELS)) for c in order[:count]]
    assert np.bincount(chosen.labels).tolist() == expected


@given(st.integers(0, 2**32), st.floats(0, 1), st.integers(1, 40), st.integers(2, 50))
def test_random_labels_are_of_the_share_given_and_the_same_for_a_seed(seed, share, count, classes):
    # Labels outside all classes, so that every draw shows.
    marked = np.full(count, -1, np.int32)
    data = images.ImageSet(np.zeros((count, 1, 1), np.float32), marked, ("c",) * classes)
    found = images.random_labels(data, share, seed)
    drawn = found.labels != -1
    assert drawn.sum() == round(share * count)
    assert np.all((found.labels[drawn] >= 0) & (found.labels[drawn] < classes))
    assert found.labels.dtype == np.int32
    assert found.images is data.images
    np.testing.assert_array_equal(data.labels, -1)
    np.testing.assert_array_equal(found.labels, images.random_labels(data, share, seed).labels)


def test_random_labels_are_uniform_over_all_classes():
    labels = np.zeros(20_000, np.int32)
    data = images.ImageSet(np.zeros((20_000, 1, 1), np.float32), labels, tuple("abcde"))
    found = images.random_labels(data, 1, seed=1).labels
    # Five standard deviations of a binomial of 1/5.
    np.testing.assert_allclose(np.bincount(found) / 20_000, 0.2, atol=5 * 0.0028)
    assert np.any(found != images.random_labels(data, 1, seed=2).labels)
