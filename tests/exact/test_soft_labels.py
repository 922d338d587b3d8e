"""Limit of soft labels: reference numbers, certificates, SLSQP, SELI, and states."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tolerances import rounding

import nc_jax as nc
from nc_jax.exact import seli, soft_label_limit

PAIRS = np.zeros((6, 4))
for row, pair in zip(PAIRS, itertools.combinations(range(4), 2), strict=True):
    row[list(pair)] = (0.7, 0.3)


def uniform(sets, num_classes):
    targets = nc.problems.label_sets(sets, num_classes)
    return targets / targets.sum(axis=1, keepdims=True)


def check_certificate(limit, tolerance):
    """Feasible logits and multipliers, by conditions that are written here again."""
    logits, supports, multipliers = limit.max_margin, limit.supports, limit.multipliers
    level = np.where(supports, logits, 0).sum(axis=1) / supports.sum(axis=1)
    assert np.max(np.where(supports, np.abs(logits - level[:, None]), 0)) < 1e-12
    margins = np.where(supports, np.inf, level[:, None] - logits)
    assert np.min(margins) > 1 - 1e-12
    assert np.min(multipliers) >= 0
    # ‖L‖_* >= Σλ for a dual point; here its entries on the supports are only known to exist.
    norm = np.linalg.norm(logits, "nuc")
    assert norm == pytest.approx(limit.value, rel=1e-12)
    assert multipliers.sum() == pytest.approx(norm, rel=tolerance)
    assert -1e-12 < limit.gap <= tolerance


def test_all_pairs_of_four_classes():
    limit = soft_label_limit(PAIRS)
    np.testing.assert_allclose(limit.singular_values, np.sqrt(2) * np.ones(3), rtol=rounding())
    assert limit.value == pytest.approx(4.2426406871, abs=1e-10)
    np.testing.assert_allclose(limit.max_margin, (PAIRS > 0) - 0.5, atol=rounding())
    np.testing.assert_allclose(limit.multipliers, np.where(PAIRS > 0, 0, 0.35355339), atol=1e-8)
    assert limit.is_closed_form
    assert limit.is_unique
    check_certificate(limit, 1e-12)
    inside = np.where(PAIRS > 0, limit.in_support_logits, 0)
    assert inside.max() - inside.min() == pytest.approx(0.847298, abs=1e-6)


@pytest.mark.parametrize("sizes", [(4, 2, 1), (10, 10, 1, 1), (1, 1)])
def test_of_one_hot_rows_it_is_seli(sizes):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    limit, expected = soft_label_limit(np.eye(len(sizes))[labels]), seli(sizes)
    assert limit.value == pytest.approx(expected.value, rel=1e-12)
    np.testing.assert_allclose(limit.max_margin, expected.logits[labels], atol=1e-12)
    np.testing.assert_allclose(limit.multipliers, expected.multipliers[labels], atol=1e-12)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_supports_have_a_certificate(seed):
    rng = np.random.default_rng(seed)
    num_classes = int(rng.integers(3, 8))
    sets = [
        tuple(map(int, rng.choice(num_classes, size=rng.integers(1, num_classes), replace=False)))
        for _ in range(int(rng.integers(2, 12)))
    ]
    check_certificate(soft_label_limit(uniform(sets, num_classes)), 1e-9)


FEW = uniform([(0, 1, 2), (3, 4), (0, 4), (1,), (2, 3, 4)], 5)


def test_the_value_is_that_of_slsqp_over_factors():
    optimize = pytest.importorskip("scipy.optimize")
    limit, supports = soft_label_limit(FEW), FEW > 0
    assert not limit.is_closed_form
    (num_samples, num_classes), dim = FEW.shape, 5
    pairs = [(i, np.flatnonzero(s), np.flatnonzero(~s)) for i, s in enumerate(supports)]

    def logits(x):
        factors = x.reshape(num_samples + num_classes, dim)
        return factors[:num_samples] @ factors[num_samples:].T

    def equal(x):
        z = logits(x)
        return np.concatenate([z[i, inside[1:]] - z[i, inside[0]] for i, inside, _ in pairs])

    def margins(x):
        z = logits(x)
        return np.concatenate([z[i, inside[0]] - z[i, outside] - 1 for i, inside, outside in pairs])

    found = [
        optimize.minimize(
            lambda x: x @ x / 2,
            np.random.default_rng(seed).normal(size=(num_samples + num_classes) * dim),
            jac=lambda x: x,
            method="SLSQP",
            constraints=[{"type": "eq", "fun": equal}, {"type": "ineq", "fun": margins}],
            options={"maxiter": 500, "ftol": 1e-12},
        ).fun
        for seed in range(2)
    ]
    # Random starts may end at the origin of a mode; none may be below the certified value.
    assert min(found) > limit.value - 1e-6
    assert min(found) == pytest.approx(limit.value, rel=1e-6)


def test_copies_of_a_sample_count_as_one_longer_row():
    copies = np.concatenate([FEW, FEW[:2], FEW[:1]])
    limit = soft_label_limit(copies)
    check_certificate(limit, 1e-9)
    np.testing.assert_allclose(limit.max_margin[0], limit.max_margin[5], atol=rounding())
    assert limit.value > soft_label_limit(FEW).value


def test_a_state_has_its_logits_and_the_loss_of_its_gap():
    limit, loss = soft_label_limit(PAIRS), nc.losses.SoftCrossEntropy()
    state = limit.state(4, gap=40.0)
    np.testing.assert_allclose(state.logits(), limit.logits(40.0), atol=1e-12)
    balance = state.classifier.T @ state.classifier - state.features.T @ state.features
    np.testing.assert_allclose(balance, 0, atol=1e-11)
    excess = jnp.sum(loss.excess(state.logits(), jnp.asarray(PAIRS)))
    assert float(jnp.log(excess)) == pytest.approx(np.log(limit.value) - 40, abs=1e-9)
    assert state.features.shape == (6, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft_label_limit(np.full((2, 2), 0.5)), "no entry 0: the flow comes to rest"),
        (lambda: soft_label_limit(np.eye(3) * 2), "needs probabilities"),
        (lambda: soft_label_limit(PAIRS).state(2), "have rank 3; give at least 3"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
