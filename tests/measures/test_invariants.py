import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from tolerances import rounding

import nc_jax as nc
from nc_jax.metrics import Invariant, balance, classifier_sum, drift

SEEDS = st.integers(0, 2**32 - 1)


def random_state(seed):
    rng = np.random.default_rng(seed)
    h, w, b = rng.normal(size=(6, 2)), rng.normal(size=(3, 2)), rng.normal(size=3)
    return nc.LastLayer(jnp.asarray(h), jnp.asarray(w), jnp.asarray(b))


@given(SEEDS)
def test_balance_is_the_difference_of_the_gram_matrices(seed):
    state = random_state(seed)
    w, h = np.asarray(state.classifier), np.asarray(state.features)
    conserved = balance(state, rate=0.25)
    expected = sum(np.outer(row, row) for row in w) - sum(np.outer(row, row) for row in h)
    np.testing.assert_allclose(conserved.value, expected, atol=rounding())
    np.testing.assert_allclose(conserved.scale, np.sum(w**2) + np.sum(h**2), rtol=rounding())
    assert conserved.rate == 0.25
    assert balance(state).rate == 0


@given(SEEDS)
def test_classifier_sum_is_the_sum_over_classes(seed):
    state = random_state(seed)
    w = np.asarray(state.classifier)
    conserved = classifier_sum(state, rate=0.5)
    np.testing.assert_allclose(conserved.value, w[0] + w[1] + w[2], atol=rounding())
    np.testing.assert_allclose(conserved.scale, np.sqrt(np.sum(w**2)), rtol=rounding())
    assert conserved.rate == 0.5
    assert classifier_sum(state).rate == 0


def invariant(value, scale=1.0, rate=0.0) -> Invariant:
    return Invariant(jnp.asarray(value), jnp.asarray(scale), rate)


@given(seed=SEEDS, rate=st.floats(0, 3), time=st.floats(0, 10), scale=st.floats(0.1, 100))
def test_drift_is_the_distance_from_exact_decay_over_the_scale(seed, rate, time, scale):
    start, now = np.random.default_rng(seed).normal(size=(2, 3, 3))
    found = drift(
        invariant(start, scale, rate), invariant(now, 7 * scale, rate), np.log1p(time).item()
    )
    entries = now - np.exp(-rate * time) * start
    expected = np.sqrt(np.sum(entries**2)) / scale
    # log(1+t) and back magnifies rounding by t, the exponent by rate·t.
    np.testing.assert_allclose(found, expected, rtol=rounding(operations=10_000))


@given(seed=SEEDS, rate=st.floats(0, 3), time=st.floats(0, 10))
def test_exact_decay_has_no_drift(seed, rate, time):
    start = np.random.default_rng(seed).normal(size=4)
    now = np.exp(-rate * time) * start
    found = drift(invariant(start, 2.0, rate), invariant(now, 2.0, rate), np.log1p(time).item())
    # As above; e^(−rate·t) is at most 1.
    assert found <= rounding(operations=10_000)


@pytest.mark.parametrize("log_time", [800.0, 1e6])
def test_time_that_overflows_leaves_the_drift_of_a_conserved_quantity_right(log_time):
    start, now = invariant([3.0, 4.0], 2.0), invariant([3.0, 5.0], 2.0)
    np.testing.assert_allclose(drift(start, now, log_time), 0.5, rtol=rounding())
    assert drift(start, start, log_time) == 0


def test_time_that_overflows_lets_a_decaying_quantity_vanish():
    start, now = invariant([3.0, 4.0], 2.0, 0.1), invariant([0.0, 0.5], 2.0, 0.1)
    np.testing.assert_allclose(drift(start, now, 800.0), 0.25, rtol=rounding())


def test_drift_is_absolute_where_the_scale_is_zero():
    start, now = invariant([0.0, 0.0], 0.0), invariant([3.0, 4.0], 5.0)
    np.testing.assert_allclose(drift(start, now, 1.0), 5.0, rtol=rounding())


def test_drift_of_float32_quantities_is_float32():
    start = Invariant(jnp.ones(2, jnp.float32), jnp.float32(1), 0.5)
    found = drift(start, start, 1.0)
    assert found.dtype == jnp.float32
    expected = np.sqrt(2) * (1 - np.exp(-0.5 * np.expm1(1.0)))
    np.testing.assert_allclose(found, expected, rtol=rounding("float32"))
