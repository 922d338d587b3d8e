"""Balanced factors of collapsed logits, and the penalty of m factors."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from tolerances import rounding

import nc_jax as nc

KEY = jax.random.key(3)
SIZES, LOGITS = (5, 2, 1), np.random.default_rng(0).normal(size=(3, 3))


def penalty_of(factors, decays):
    return (
        sum(rate * np.sum(np.asarray(f) ** 2) for f, rate in zip(factors, decays, strict=True)) / 2
    )


@pytest.mark.parametrize(
    ("widths", "decays"),
    [((4,), (0.3, 0.1)), ((3, 5), (0.02, 0.03, 0.025)), ((6, 3, 4), (1.0, 1e-4, 2.0, 0.1))],
)
@pytest.mark.parametrize("key", [None, KEY])
def test_the_factors_have_the_logits_the_balance_and_the_penalty(widths, decays, key):
    state = nc.exact.factored_state(LOGITS, SIZES, widths, weight_decay=decays, key=key)
    rows = np.repeat(LOGITS, SIZES, axis=0)
    np.testing.assert_allclose(state.logits(), rows, atol=rounding())
    factors = state.factors()
    found = nc.exact.deep_penalty(np.linalg.svd(rows, compute_uv=False), decays)
    np.testing.assert_allclose(penalty_of(factors, decays), found, rtol=rounding())
    # λ_{i+1} W_{i+1}ᵀ W_{i+1} = λ_i W_i W_iᵀ, and for the features H in the place of W_iᵀ.
    before = decays[0] * factors[0].T @ factors[0]
    for rate, factor in zip(decays[1:], factors[1:], strict=True):
        np.testing.assert_allclose(rate * factor.T @ factor, before, atol=rounding())
        before = rate * factor @ factor.T


@given(seed=st.integers(0, 10**6), size=st.sampled_from([1e-3, 0.3, 2.0]))
@hypothesis.settings(max_examples=15)
def test_other_factors_of_the_same_logits_have_a_larger_penalty(seed, size):
    rng, decays = np.random.default_rng(seed), (0.02, 0.5, 0.1)
    state = nc.exact.factored_state(LOGITS, SIZES, (4, 4), weight_decay=decays)
    features, *weights = map(np.asarray, state.factors())
    for position in range(2):
        change = np.eye(4) + size * rng.normal(size=(4, 4))
        if position == 0:
            features = features @ np.linalg.inv(change)
        else:
            weights[0] = np.linalg.inv(change.T) @ weights[0]
        weights[position] = weights[position] @ change.T if position == 0 else weights[1] @ change.T
    np.testing.assert_allclose(features @ weights[0].T @ weights[1].T, state.logits(), atol=1e-6)
    least = float(nc.exact.deep_penalty(np.linalg.svd(state.logits(), compute_uv=False), decays))
    assert penalty_of((features, *weights), decays) > least * (1 - rounding())


def test_two_factors_have_the_nuclear_norm():
    values = np.array([3.0, 0.5])
    found = nc.exact.deep_penalty(values, (0.04, 0.01))
    np.testing.assert_allclose(found, 0.02 * 3.5, rtol=rounding())
    batch = nc.exact.deep_penalty(np.stack([values, 2 * values]), (0.04, 0.01))
    np.testing.assert_allclose(batch, [found, 2 * found], rtol=rounding())


def test_diagonal_logits_have_nonnegative_factors_and_low_rank_fits_small_widths():
    diagonal = np.diag([2.0, 0.0, 0.5])
    state = nc.exact.factored_state(diagonal, SIZES, (4, 2))
    assert all(bool(jnp.all(factor >= 0)) for factor in state.factors())
    relu = nc.DeepUnconstrainedFeatures(SIZES, (4, 2), activation=jax.nn.relu)
    np.testing.assert_allclose(
        relu.last_layer(state).logits(), np.repeat(diagonal, SIZES, axis=0), atol=rounding()
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_state_has_the_dtype_of_the_logits_and_may_be_traced(dtype):
    logits = jnp.asarray(LOGITS, dtype)
    make = lambda scale: nc.exact.factored_state(scale * logits, SIZES, (3, 4))  # noqa: E731
    states = jax.jit(jax.vmap(make))(jnp.asarray([1.0, 2.0], dtype))
    assert {leaf.dtype for leaf in jax.tree.leaves(states)} == {jnp.dtype(dtype)}
    expected = np.repeat(2 * LOGITS, SIZES, axis=0)
    second = jax.tree.map(lambda leaf: leaf[1], states)
    np.testing.assert_allclose(second.logits(), expected, atol=10 * rounding(dtype))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: nc.exact.deep_penalty(np.ones(2), (0.1,)),
            r"weight_decay = \(0.1,\): give 2 or more",
        ),
        (lambda: nc.exact.deep_penalty(np.array([-1.0]), (0.1, 0.1)), "singular_values = -1.0"),
        (lambda: nc.exact.factored_state(LOGITS, SIZES, (3, 2)), r"widths = \(3, 2\)"),
        (lambda: nc.exact.factored_state(LOGITS, SIZES, ()), r"widths = \(\)"),
        (lambda: nc.exact.factored_state(LOGITS, (1, 1), (3,)), r"shape \(3, 3\)"),
        (
            lambda: nc.exact.factored_state(LOGITS, SIZES, (3,), weight_decay=(0.1, 0.0)),
            r"weight_decay\[1\] = 0",
        ),
    ],
)
def test_what_has_no_factors_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_states_of_codes_have_derivatives_by_the_gap():
    """Every factor grows as q^(1/m); a decomposition of the simplex would have NaN."""
    states = (nc.exact.deep_code(4, 3).deep_state, nc.exact.seli((2, 1, 1), depth=3).deep_state)
    for state in states:
        slope = jax.jacfwd(lambda q, f=state: f((4, 4), q))(2.0)
        for found, factor in zip(slope.factors(), state((4, 4), 2.0).factors(), strict=True):
            np.testing.assert_allclose(found, factor / 6, rtol=rounding(), atol=1e-15)


def test_one_decay_is_that_of_every_factor():
    # With equal decays every two neighbouring factors have one Gram matrix.
    factors = nc.exact.factored_state(LOGITS, SIZES, (4, 5), weight_decay=0.3).factors()
    before = factors[0].T @ factors[0]
    for factor in factors[1:]:
        np.testing.assert_allclose(factor.T @ factor, before, atol=rounding())
        before = factor @ factor.T
