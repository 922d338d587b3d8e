"""Measures of unequal classes as functions of a state, at and beside the optimum of separation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from tolerances import rounding

import nc_jax as nc
from nc_jax import metrics

SIZES = [(4, 2, 1), (10, 10, 1, 1), (3, 3)]
GAPS = ("seli_classifier_gap", "seli_mean_gap", "seli_logit_gap")


def labels_of(sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


def random_state(sizes, dim, seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    shapes = (sum(sizes), dim), (len(sizes), dim)
    return nc.LastLayer(*(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("gap", [1e-3, 1.0, 1e5])
def test_all_measures_have_their_limit_at_the_optimum(sizes, gap):
    seli = nc.exact.seli(sizes)
    state, labels = seli.state(len(sizes), gap, key=jax.random.key(1)), labels_of(sizes)
    for name in GAPS:
        assert getattr(metrics, name)(state, labels) < rounding()
    np.testing.assert_allclose(metrics.separation_value(state, labels), seli.value, rtol=rounding())


@given(seed=st.integers(0, 1000), sizes=st.sampled_from(SIZES))
def test_no_state_is_below_the_optimum_of_separation(seed, sizes):
    seli, labels = nc.exact.seli(sizes), labels_of(sizes)
    near = seli.state(3, 1.0)
    other = random_state(sizes, 3, seed)
    state = jax.tree.map(lambda a, b: a + 0.1 * b, near, other)
    assert metrics.separation_value(state, labels) > seli.value


def test_a_state_that_separates_no_classes_has_an_infinite_value():
    state = nc.LastLayer(jnp.eye(2), -jnp.eye(2))
    assert metrics.separation_value(state, np.arange(2)) == np.inf


@pytest.mark.parametrize("sizes", [(4, 2, 1), (1, 5, 2, 2)])
def test_states_have_the_measures_of_features(sizes):
    state, labels = random_state(sizes, 5, 3), labels_of(sizes)
    order = np.random.default_rng(0).permutation(len(labels))
    features = np.asarray(state.features)
    names = [*GAPS, "separation_value"]
    expected = metrics.measure(features, labels, np.asarray(state.classifier), names=names)
    shuffled = nc.LastLayer(state.features[order], state.classifier)
    for name in names:
        found = getattr(metrics, name)(shuffled, labels[order])
        np.testing.assert_allclose(found, expected[name], rtol=rounding(operations=1000))


def test_offset_spread_is_the_largest_difference_of_offset_margins():
    sizes = (3, 2, 1)
    state, labels = random_state(sizes, 4, 5), labels_of(sizes)
    logits, multipliers = np.asarray(state.logits()), nc.exact.seli(sizes).multipliers
    offsets = [
        logits[i, y] - logits[i, c] + np.log(multipliers[y, c])
        for i, y in enumerate(labels)
        for c in range(3)
        if c != y
    ]
    found = metrics.logit_offset_spread(state, labels)
    np.testing.assert_allclose(found, max(offsets) - min(offsets), rtol=rounding())
    # Equal multipliers of equal classes add nothing.
    equal, labels = random_state((2, 2, 2), 4, 6), labels_of((2, 2, 2))
    logits = np.asarray(equal.logits())
    margins = logits[np.arange(6), labels][:, None] - logits
    wrong = labels[:, None] != np.arange(3)
    np.testing.assert_allclose(
        metrics.logit_offset_spread(equal, labels), np.ptp(margins[wrong]), rtol=rounding()
    )


@pytest.mark.parametrize("name", [*GAPS, "logit_offset_spread", "separation_value"])
def test_measures_take_traced_labels_and_float32(name):
    sizes = (4, 2, 1)
    seli, labels = nc.exact.seli(sizes), labels_of(sizes)
    state = jax.tree.map(lambda a, b: a + 0.05 * b, seli.state(3), random_state(sizes, 3, 0))
    measure = getattr(metrics, name)
    expected = measure(state, labels)
    np.testing.assert_allclose(jax.jit(measure)(state, labels), expected, rtol=rounding())
    single = measure(jax.tree.map(lambda leaf: leaf.astype(np.float32), state), labels)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, expected, rtol=rounding("float32", operations=300))


def test_value_from_the_loss_is_that_of_the_late_law():
    log_time = np.array([1e3, 1e6, 1e9])
    log_loss = nc.exact.late_loss(6.5, log_time)
    found = metrics.separation_value_from_loss(log_loss, log_time)
    # Relative error log(2 log t)/log t, and that of e^(log L + log t).
    tolerance = np.log(2 * log_time) / log_time + rounding() * log_time
    assert np.all(np.abs(found / 6.5 - 1) < tolerance)


def test_a_flow_of_unequal_classes_records_them_and_one_of_equal_classes_the_value():
    names = {*GAPS, "logit_offset_spread", "separation_value"}
    unequal = nc.ulpm(3, 2, (4, 2, 1))
    state, labels = unequal.init(jax.random.key(0)), unequal.labels
    observed = jax.jit(unequal.observe)(state)
    assert names < set(observed)
    for name in names:
        np.testing.assert_allclose(
            observed[name], getattr(metrics, name)(state, labels), rtol=rounding()
        )
    # No simplex-encoded labels in one dimension, and no limit with decay, bias or another loss.
    assert names & set(nc.ulpm(3, 1, (4, 2, 1)).observables()) == {"separation_value"}
    assert names & set(nc.ulpm(3, 2, 2).observables()) == {"separation_value"}
    decay = nc.WeightDecay(classifier=0.1, features=0.1)
    for other in (
        nc.UnconstrainedFeatures((4, 2, 1), 2, loss=nc.SquaredError()),
        nc.UnconstrainedFeatures((4, 2, 1), 2, bias=True),
        nc.UnconstrainedFeatures((4, 2, 1), 2, class_weights=(1.0, 2.0, 4.0)),
        nc.UnconstrainedFeatures((4, 2, 1), 2, weight_decay=decay),
    ):
        assert not names & set(other.observables())
