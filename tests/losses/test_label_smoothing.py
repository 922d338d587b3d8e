"""Label smoothing against its definition, PyTorch, and the end of its flow."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.special import logsumexp
from tolerances import integration, rounding

import nc_jax as nc

SEEDS = st.integers(0, 2**32 - 1)


def draw(seed, scale=3.0):
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(5, 4)), rng.integers(0, 4, size=5)


def by_definition(logits, labels, smoothing):
    """−Σ q log p and p − q, written with the targets q."""
    targets = (1 - smoothing) * np.eye(4)[labels] + smoothing / 4
    log_p = logits - logsumexp(logits, axis=1, keepdims=True)
    return -np.sum(targets * log_p, axis=1), np.exp(log_p) - targets


@eqx.filter_jit
def evaluate(smoothing, logits, labels, log_scale: Any = 0.0):
    loss = nc.LabelSmoothing(smoothing)
    return (
        loss.value(logits, labels),
        loss.gradient(logits, labels),
        loss.scaled_gradient(logits, labels, log_scale),
    )


@given(seed=SEEDS, smoothing=st.floats(0, 0.99), log_scale=st.floats(-20, 20))
def test_value_and_gradients_are_those_of_smoothed_targets(seed, smoothing, log_scale):
    logits, labels = draw(seed)
    value, gradient, scaled = evaluate(
        jnp.asarray(smoothing), jnp.asarray(logits), labels, jnp.asarray(log_scale)
    )
    expected, slope = by_definition(logits, labels, smoothing)
    # The reference subtracts logits of order 10.
    np.testing.assert_allclose(value, expected, rtol=rounding(), atol=rounding())
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=rounding())
    np.testing.assert_allclose(scaled, np.exp(log_scale) * np.asarray(gradient), rtol=rounding())
    assert np.all(np.abs(np.sum(gradient, axis=1)) < rounding(operations=10))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_extreme_logits_give_the_linear_loss_of_their_size(sign):
    logits = jnp.array([[sign * 1e5, 0.0, 0.0, 0.0]])
    value, gradient, _ = evaluate(0.1, logits, np.array([0]))
    # For z_y → ∞: α (z_y − mean z). For z_y → −∞: −z_y + log 3 + α (z_y − mean z).
    expected = 0.1 * 0.75 * sign * 1e5 + (0 if sign > 0 else 1e5 + math.log(3))
    np.testing.assert_allclose(value, [expected], rtol=rounding())
    p = np.array([1, 0, 0, 0]) if sign > 0 else np.array([0, 1, 1, 1]) / 3
    np.testing.assert_allclose(
        gradient[0], p - [0.925, 0.025, 0.025, 0.025], rtol=0, atol=rounding()
    )


def test_float32_logits_stay_float32_also_with_a_float64_smoothing():
    logits, labels = draw(0)
    double = evaluate(jnp.asarray(0.2), jnp.asarray(logits), labels)
    single = evaluate(jnp.asarray(0.2), jnp.asarray(logits, jnp.float32), labels)
    for low, high in zip(single, double, strict=True):
        assert low.dtype == jnp.float32
        np.testing.assert_allclose(low, high, rtol=rounding("float32"), atol=rounding("float32"))


def test_without_smoothing_it_is_cross_entropy():
    logits, labels = draw(1)
    value, gradient, _ = evaluate(0.0, jnp.asarray(logits), labels)
    np.testing.assert_array_equal(value, nc.CrossEntropy().value(jnp.asarray(logits), labels))
    np.testing.assert_allclose(
        gradient, nc.CrossEntropy().gradient(jnp.asarray(logits), labels), atol=rounding()
    )


@pytest.mark.parametrize("smoothing", [0.05, 0.3])
def test_agrees_with_torch(smoothing):
    torch = pytest.importorskip("torch")
    logits, labels = draw(2)
    z = torch.tensor(logits, requires_grad=True)
    losses = torch.nn.functional.cross_entropy(
        z, torch.tensor(labels), label_smoothing=smoothing, reduction="none"
    )
    losses.sum().backward()
    value, gradient, _ = evaluate(smoothing, jnp.asarray(logits), labels)
    np.testing.assert_allclose(value, losses.detach().numpy(), rtol=rounding())
    np.testing.assert_allclose(gradient, z.grad.numpy(), atol=rounding())


def test_the_smoothing_can_be_mapped_and_lanes_are_systems():
    logits, labels = draw(3)
    smoothings = jnp.array([0.0, 0.2, 0.7])
    mapped = jax.vmap(lambda a: nc.LabelSmoothing(a).gradient(jnp.asarray(logits), labels))
    for smoothing, found in zip(smoothings, mapped(smoothings), strict=True):
        _, expected = by_definition(logits, labels, float(smoothing))
        np.testing.assert_allclose(found, expected, atol=rounding())
    lanes = jnp.stack([jnp.asarray(logits), 2 * jnp.asarray(logits)], axis=-1)
    together = nc.LabelSmoothing(0.2).scaled_gradient_of_lanes(lanes, labels, 1.0)
    for i in range(2):
        alone = nc.LabelSmoothing(0.2).scaled_gradient(lanes[..., i], labels, 1.0)
        np.testing.assert_allclose(together[..., i], alone, rtol=rounding())


def test_the_flow_rests_at_the_finite_gap_at_an_exponential_rate():
    problem = nc.UnconstrainedFeatures((3, 3, 3, 3), 5, loss=nc.LabelSmoothing(0.1))
    problem = eqx.tree_at(lambda p: p.loss.smoothing, problem, 0.1)
    assert problem.comes_to_rest
    assert problem.largest_log_scale("float64") < 710
    start = problem.init(jax.random.key(0), norm=2.0)
    times = np.log1p([0.0, 400.0, 1200.0])
    names = ("margin_min", "margin_mean", "classifier_sum_drift", "balance_drift")
    flow = nc.gradient_flow(problem, start, times, rtol=1e-9, observe=names).observables
    gap = math.log(4 / 0.1 - 3)
    assert abs(gap - 3.6109179126) < 1e-10
    early, late = np.abs(np.asarray(flow["margin_min"])[1:] - gap)
    # Exponential in t: a rate of 0.01 or more. A decay as 1/t would be 3 times smaller.
    assert late < 1e-3 * early + 1e-6
    np.testing.assert_allclose(flow["margin_mean"][-1], gap, rtol=1e-5)
    assert flow["classifier_sum_drift"][-1] < integration(1e-9)
    assert flow["balance_drift"][-1] < integration(1e-9)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, 1.5, float("nan")])
def test_a_smoothing_out_of_range_is_refused_in_one_line(smoothing):
    with pytest.raises(ValueError, match="smoothing = ") as refused:
        nc.LabelSmoothing(smoothing)
    assert "\n" not in str(refused.value)
