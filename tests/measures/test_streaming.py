from functools import reduce

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from compilation_counts import counted
from hypothesis import given, strategies as st
from tolerances import rounding

import nc_jax as nc
from nc_jax import metrics

class_moments = eqx.filter_jit(metrics.class_moments)
merge_moments = eqx.filter_jit(metrics.merge_moments)
spread = eqx.filter_jit(metrics.spread)
merge_spreads = eqx.filter_jit(metrics.merge_spreads)
collapse_from_statistics = eqx.filter_jit(metrics.collapse_from_statistics)

NUM_CLASSES, DIM, SAMPLES = 3, 4, 12
SEEDS = st.integers(0, 2**32 - 1)
# Small batches lack some classes.
BATCHINGS = st.sampled_from([(6, 6), (1, 5, 1, 5), (5, 6, 1), (1,) * 12])
BALANCED = np.array([2, 1, 1, 0, 2, 0, 0, 1, 2, 1, 0, 2])
UNBALANCED = np.array([2, 1, 1, 0, 2, 2, 0, 1, 2, 1, 2, 2])

whole_metrics = {
    balanced: eqx.filter_jit(lambda state, y=labels: metrics.collapse_metrics(state, y))
    for balanced, labels in [(True, BALANCED), (False, UNBALANCED)]
}


def random_samples(seed, labels=None):
    rng = np.random.default_rng(seed)
    if labels is None:
        labels = rng.integers(0, NUM_CLASSES, SAMPLES)
    return rng.normal(size=(SAMPLES, DIM)), labels


def split(features, labels, sizes):
    cuts = np.cumsum(sizes)[:-1]
    return list(zip(np.split(features, cuts), np.split(labels, cuts), strict=True))


def moments_of(batches):
    return reduce(
        merge_moments, (class_moments(jnp.asarray(h), y, NUM_CLASSES) for h, y in batches)
    )


def assert_moments_are_those_of(moments, features, labels, rtol):
    for c in range(NUM_CLASSES):
        mine = features[labels == c]
        assert moments.counts[c] == len(mine)
        if len(mine) == 0:
            continue
        mean = np.sum(mine, axis=0) / len(mine)
        scatter = sum(np.sum((h - mean) ** 2) for h in mine)
        np.testing.assert_allclose(moments.means[c], mean, rtol=rtol, atol=rtol)
        np.testing.assert_allclose(moments.scatter[c], scatter, rtol=rtol, atol=rtol)


def assert_close(left, right, rtol):
    assert set(left) == set(right)
    for key in left:
        np.testing.assert_allclose(left[key], right[key], rtol=rtol, atol=rtol, err_msg=key)


@given(seed=SEEDS, sizes=BATCHINGS)
def test_merged_moments_are_those_of_the_whole(seed, sizes):
    features, labels = random_samples(seed)
    batches = split(features, labels, sizes)
    rng = np.random.default_rng(seed)
    shuffled = [batches[i] for i in rng.permutation(len(batches))]
    assert_moments_are_those_of(moments_of(shuffled), features, labels, rounding())


@given(seed=SEEDS)
def test_merging_groups_of_batches_is_merging_batches(seed):
    features, labels = random_samples(seed)
    a, b, c, d = split(features, labels, (5, 1, 1, 5))
    tree = merge_moments(moments_of([a, b]), moments_of([c, d]))
    assert_moments_are_those_of(tree, features, labels, rounding())


def test_a_class_without_samples_weighs_nothing():
    features, labels = random_samples(0)
    only_zero = class_moments(jnp.asarray(features), np.zeros(SAMPLES, int), NUM_CLASSES)
    np.testing.assert_array_equal(only_zero.counts, [SAMPLES, 0, 0])
    np.testing.assert_array_equal(only_zero.scatter[1:], 0)
    nothing = class_moments(jnp.full((SAMPLES, DIM), 7.0), np.full(SAMPLES, -1), NUM_CLASSES)
    moments = class_moments(jnp.asarray(features), labels, NUM_CLASSES)
    for merged in (merge_moments(nothing, moments), merge_moments(moments, nothing)):
        assert_moments_are_those_of(merged, features, labels, rounding())


@given(seed=SEEDS, sizes=BATCHINGS)
def test_chan_merge_holds_at_deep_collapse_far_from_the_origin(seed, sizes):
    """A spread of 1e-6 of the mean: E[h²] − μ² would keep four digits of the scatter."""
    steps, labels = random_samples(seed, UNBALANCED)
    offset, depth = 1e3, 1e-6
    features = offset + depth * offset * steps
    merged = moments_of(split(features, labels, sizes))
    exact_steps = features - offset  # Exact: the two are within a factor of two (Sterbenz).
    for c in range(NUM_CLASSES):
        mine = exact_steps[labels == c]
        scatter = np.sum((mine - np.mean(mine, axis=0)) ** 2)
        # Means are rounded at the size of the offset, which is 1/depth times the spread.
        tolerance = rounding(operations=int(100 / depth))
        np.testing.assert_allclose(merged.scatter[c], scatter, rtol=tolerance)


def test_rows_with_label_minus_one_are_padding():
    features, labels = random_samples(2, BALANCED)
    classifier, bias = jnp.asarray(random_samples(3)[0][:NUM_CLASSES]), jnp.arange(3.0)
    padded = jnp.concatenate([jnp.asarray(features), jnp.full((4, DIM), 1e3)])
    padded_labels = np.concatenate([labels, np.full(4, -1)])
    moments = class_moments(padded, padded_labels, NUM_CLASSES)
    assert_moments_are_those_of(moments, features, labels, rounding())
    sums = spread(padded, padded_labels, moments, classifier, bias=bias)
    assert sums.count == SAMPLES
    found = collapse_from_statistics(moments, sums, classifier, bias=bias, balanced=True)
    state = nc.LastLayer(jnp.asarray(features), classifier, bias)
    assert_close(found, whole_metrics[True](state), rounding(operations=1000))


@pytest.mark.parametrize(
    ("labels", "balanced", "with_bias"), [(BALANCED, True, True), (UNBALANCED, False, False)]
)
@given(seed=SEEDS, sizes=BATCHINGS)
def test_streamed_metrics_are_those_of_the_whole_state(seed, sizes, labels, balanced, with_bias):
    features, _ = random_samples(seed)
    rng = np.random.default_rng([seed, 1])
    classifier = jnp.asarray(rng.normal(size=(NUM_CLASSES, DIM)))
    bias = jnp.asarray(rng.normal(size=NUM_CLASSES)) if with_bias else None
    batches = split(features, labels, sizes)
    moments = moments_of(batches)
    sums = reduce(
        merge_spreads,
        (spread(jnp.asarray(h), y, moments, classifier, bias=bias) for h, y in batches),
    )
    found = collapse_from_statistics(moments, sums, classifier, bias=bias, balanced=balanced)
    state = nc.LastLayer(jnp.asarray(features), classifier, bias)
    # Σ_B⁺ magnifies rounding by the squared condition number of the class means.
    centered = np.asarray(moments.means) - np.mean(moments.means, axis=0)
    singular = np.linalg.svd(centered, compute_uv=False)
    condition = (singular[0] / singular[NUM_CLASSES - 2]) ** 2
    tolerance = rounding(operations=int(100 + 100 * condition))
    assert_close(found, whole_metrics[balanced](state), tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics_keep_the_dtype_of_the_features(dtype):
    features, labels = random_samples(1)
    h, w = jnp.asarray(features, dtype), jnp.ones((NUM_CLASSES, DIM), dtype)
    moments = class_moments(h, labels, NUM_CLASSES)
    sums = spread(h, labels, merge_moments(moments, moments), w)
    for leaf in (moments.counts, moments.means, moments.scatter, sums.within, sums.whitened):
        assert leaf.dtype == dtype


def test_batches_outside_of_jit_share_their_programs_and_one_whitening():
    features, labels = random_samples(4, UNBALANCED)
    classifier = jnp.asarray(random_samples(5)[0][:NUM_CLASSES])
    batches = [(jnp.asarray(h), y) for h, y in split(features, labels, (4, 4, 4))]

    def streamed():
        moments = moments_of(batches)
        once = metrics.whitening(moments)
        parts = (metrics.spread(h, y, moments, classifier, whitening=once) for h, y in batches)
        sums = reduce(merge_spreads, parts)
        return metrics.collapse_from_statistics(moments, sums, classifier)

    streamed()
    with counted() as counts:
        found = streamed()
    assert counts.compiled == 0
    state = nc.LastLayer(jnp.asarray(features), classifier)
    expected = metrics.collapse_metrics(state, labels)
    assert_close(found, {name: expected[name] for name in found}, rounding(operations=10_000))
