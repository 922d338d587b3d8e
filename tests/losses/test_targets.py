"""Losses of rows of targets against PyTorch, autodiff and cross-entropy."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.special import logsumexp
from tolerances import rounding

import nc_jax as nc

SEEDS = st.integers(0, 2**32 - 1)
PICK, HALF = nc.losses.PickAllLabels(), nc.losses.HalfSquaredDistance()


def draw(seed, scale=3.0) -> tuple[np.ndarray, np.ndarray]:
    """Outputs (6, 4), and targets with 1 to 3 labels in each row."""
    rng = np.random.default_rng(seed)
    targets = np.zeros((6, 4))
    for row in targets:
        row[rng.choice(4, size=rng.integers(1, 4), replace=False)] = 1
    return scale * rng.normal(size=(6, 4)), targets


@eqx.filter_jit
def evaluate(loss, outputs, targets, log_scale: Any = 0.0):
    return (
        loss.value(outputs, targets),
        loss.log_value(outputs, targets),
        loss.scaled_gradient(outputs, targets, log_scale),
        jax.grad(lambda z: jnp.sum(loss.value(z, targets)))(outputs),
    )


@given(seed=SEEDS, log_scale=st.floats(-20, 20))
def test_pick_all_labels_is_the_sum_of_cross_entropies_of_the_labels(seed, log_scale):
    outputs, targets = draw(seed)
    value, log_value, scaled, by_autodiff = evaluate(
        PICK, jnp.asarray(outputs), jnp.asarray(targets), jnp.asarray(log_scale)
    )
    log_p = outputs - logsumexp(outputs, axis=1, keepdims=True)
    expected = -np.sum(targets * log_p, axis=1)
    np.testing.assert_allclose(value, expected, rtol=rounding(), atol=rounding())
    np.testing.assert_allclose(log_value, np.log(value), rtol=rounding())
    gradient = targets.sum(axis=1, keepdims=True) * np.exp(log_p) - targets
    np.testing.assert_allclose(by_autodiff, gradient, atol=rounding())
    np.testing.assert_allclose(
        scaled, np.exp(log_scale) * gradient, rtol=0, atol=rounding() * np.exp(log_scale)
    )


@given(seed=SEEDS)
def test_half_squared_distance_and_its_derivatives(seed):
    outputs, targets = draw(seed)
    value, log_value, scaled, by_autodiff = evaluate(
        HALF, jnp.asarray(outputs), jnp.asarray(targets), jnp.asarray(1.0)
    )
    np.testing.assert_allclose(value, np.sum((outputs - targets) ** 2, axis=1) / 2, rtol=rounding())
    np.testing.assert_allclose(log_value, np.log(value), rtol=rounding(), atol=rounding())
    np.testing.assert_allclose(by_autodiff, outputs - targets, rtol=rounding())
    np.testing.assert_allclose(scaled, np.e * (outputs - targets), rtol=rounding())


@pytest.mark.parametrize("gap", [3.0, 40.0, 600.0])
def test_of_one_label_pick_all_labels_is_cross_entropy_to_full_precision(gap):
    outputs = jnp.array([[gap, 0.0, 1.0, -2.0], [0.0, 0.5, gap, 1.0]])
    labels = np.array([0, 2])
    value, log_value, gradient, _ = evaluate(PICK, outputs, jnp.eye(4)[labels])
    loss = nc.CrossEntropy()
    np.testing.assert_allclose(value, loss.value(outputs, labels), rtol=rounding())
    np.testing.assert_allclose(log_value, loss.log_value(outputs, labels), rtol=rounding())
    # The exponents are rounded at the size of the gap.
    tolerance = rounding(operations=100 + int(gap))
    np.testing.assert_allclose(gradient, loss.gradient(outputs, labels), rtol=tolerance)


def test_extreme_logits_and_float32():
    outputs = np.array([[1e5, 1e5, 0.0, -1e5], [-1e5, 0.0, 0.0, 1e5]])
    targets = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    value, _, gradient, by_autodiff = evaluate(PICK, jnp.asarray(outputs), jnp.asarray(targets))
    np.testing.assert_allclose(value, [2 * np.log(2), 3e5], rtol=rounding())
    for found in (gradient, by_autodiff):
        np.testing.assert_allclose(found, [[0, 0, 0, 0], [-1, -1, 0, 2]], atol=rounding())
    outputs, targets = draw(0)
    for loss in (PICK, HALF):
        double = evaluate(loss, jnp.asarray(outputs), jnp.asarray(targets))
        single = evaluate(loss, *(jnp.asarray(x, jnp.float32) for x in (outputs, targets)))
        for low, high in zip(single, double, strict=True):
            assert low.dtype == jnp.float32
            tolerance = rounding("float32")
            np.testing.assert_allclose(low, high, rtol=tolerance, atol=tolerance)


def test_both_agree_with_torch():
    torch = pytest.importorskip("torch")
    outputs, targets = draw(1)
    for loss in (PICK, HALF):
        z, y = torch.tensor(outputs, requires_grad=True), torch.tensor(targets)
        if loss is PICK:
            # PyTorch's cross-entropy of targets that are no probabilities sums over the classes.
            losses = torch.nn.functional.cross_entropy(z, y, reduction="none")
        else:
            losses = torch.nn.functional.mse_loss(z, y, reduction="none").sum(dim=1) / 2
        losses.sum().backward()
        value, _, gradient, _ = evaluate(loss, jnp.asarray(outputs), jnp.asarray(targets))
        np.testing.assert_allclose(value, losses.detach().numpy(), rtol=rounding())
        np.testing.assert_allclose(gradient, z.grad.numpy(), atol=rounding())


@pytest.mark.parametrize(
    "row", [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.5, 0.0], [1.0, -1.0, 0.0], [2.0, 0.0, 0.0]]
)
def test_targets_that_are_no_label_sets_are_refused(row):
    with pytest.raises(ValueError, match=r"row 1 = .* needs 1 at the labels"):
        PICK.check_targets(jnp.array([[1.0, 0.0, 0.0], row]))
