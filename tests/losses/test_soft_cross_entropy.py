"""Cross-entropy of probabilities against SciPy, PyTorch, mpmath, autodiff and its special cases."""

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

SOFT = nc.losses.SoftCrossEntropy()
SEEDS = st.integers(0, 2**32 - 1)


def draw(seed, scale=3.0) -> tuple[np.ndarray, np.ndarray]:
    """Outputs (6, 4), and probabilities of 1 to 4 labels in each row."""
    rng = np.random.default_rng(seed)
    targets = np.zeros((6, 4))
    for row in targets:
        labels = rng.choice(4, size=rng.integers(1, 5), replace=False)
        row[labels] = rng.dirichlet(np.ones(len(labels)))
    return scale * rng.normal(size=(6, 4)), targets


@eqx.filter_jit
def evaluate(outputs, targets, log_scale: Any = 0.0):
    return {
        "value": SOFT.value(outputs, targets),
        "log_value": SOFT.log_value(outputs, targets),
        "excess": SOFT.excess(outputs, targets),
        "log_excess": SOFT.log_excess(outputs, targets),
        "gradient": SOFT.scaled_gradient(outputs, targets, log_scale),
        "autodiff": jax.grad(lambda z: jnp.sum(SOFT.value(z, targets)))(outputs),
    }


@eqx.filter_jit
def hessian_of(outputs, targets):
    return jax.jacfwd(lambda z: SOFT.scaled_gradient(z, targets, 0.0))(outputs)


@given(seed=SEEDS, log_scale=st.floats(-20, 20))
def test_values_and_derivatives_are_those_of_the_formula(seed, log_scale):
    outputs, targets = draw(seed)
    found = evaluate(jnp.asarray(outputs), jnp.asarray(targets), jnp.asarray(log_scale))
    log_p = outputs - logsumexp(outputs, axis=1, keepdims=True)
    value = -np.sum(targets * log_p, axis=1)
    entropy = -np.sum(targets * np.log(np.where(targets > 0, targets, 1)), axis=1)
    tolerance = rounding()
    np.testing.assert_allclose(found["value"], value, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(found["excess"], value - entropy, rtol=tolerance, atol=tolerance)
    for name in ("value", "excess"):
        np.testing.assert_allclose(np.exp(found[f"log_{name}"]), found[name], rtol=tolerance)
    gradient = np.exp(log_p) - targets
    np.testing.assert_allclose(found["autodiff"], gradient, atol=tolerance)
    scale = np.exp(log_scale)
    np.testing.assert_allclose(found["gradient"], scale * gradient, atol=tolerance * scale)
    p = np.exp(log_p)
    hessian = np.einsum("ik,kl,ij->ikjl", p, np.eye(4), np.eye(6)) - np.einsum(
        "ik,il,ij->ikjl", p, p, np.eye(6)
    )
    found = hessian_of(jnp.asarray(outputs), jnp.asarray(targets))
    np.testing.assert_allclose(found, hessian, atol=tolerance)


@pytest.mark.parametrize("gap", [3.0, 40.0, 600.0, 1e5])
def test_of_one_hot_rows_it_is_cross_entropy_to_full_precision_at_any_scale(gap):
    outputs = jnp.array([[gap, 0.0, 1.0, -2.0], [0.0, 0.5, gap, 1.0]])
    labels, cross_entropy = np.array([0, 2]), nc.CrossEntropy()
    found = evaluate(outputs, jnp.eye(4)[labels], gap)
    tolerance = rounding(operations=100 + int(2 * gap))
    for name in ("value", "excess"):
        expected = cross_entropy.value(outputs, labels)
        np.testing.assert_allclose(found[name], expected, rtol=tolerance)
        expected = cross_entropy.log_value(outputs, labels)
        np.testing.assert_allclose(found[f"log_{name}"], expected, rtol=rounding())
    expected = cross_entropy.scaled_gradient(outputs, labels, gap)
    np.testing.assert_allclose(found["gradient"], expected, rtol=tolerance)


def test_of_smoothed_rows_it_is_label_smoothing_and_of_label_sets_pick_all_labels():
    outputs, _ = draw(2)
    labels, smoothing = np.array([0, 1, 2, 3, 0, 1]), nc.LabelSmoothing(0.3)
    found = evaluate(jnp.asarray(outputs), 0.7 * jnp.eye(4)[labels] + 0.3 / 4)
    expected = smoothing.value(jnp.asarray(outputs), labels)
    np.testing.assert_allclose(found["value"], expected, rtol=rounding())
    expected = smoothing.gradient(jnp.asarray(outputs), labels)
    np.testing.assert_allclose(found["gradient"], expected, atol=rounding())
    sets = nc.problems.label_sets([(0,), (0, 1), (1, 2, 3), (2, 3), (3,), (0, 2)], 4)
    sizes, pick = sets.sum(axis=1), nc.losses.PickAllLabels()
    found = evaluate(jnp.asarray(outputs), jnp.asarray(sets / sizes[:, None]))
    expected = pick.value(jnp.asarray(outputs), jnp.asarray(sets)) / sizes
    np.testing.assert_allclose(found["value"], expected, rtol=rounding())


@pytest.mark.parametrize("deviation", [1e-6, 1e-3, 0.1, 0.3, 3.0])
def test_the_excess_has_all_digits_where_the_loss_is_at_its_entropy(deviation):
    mpmath = pytest.importorskip("mpmath")
    targets = np.array([[0.7, 0.3, 0.0]])
    outputs = np.array([[np.log(0.7) + deviation, np.log(0.3), -60.0]])
    found = evaluate(jnp.asarray(outputs), jnp.asarray(targets))
    with mpmath.workdps(60):
        z, p = (list(map(mpmath.mpf, map(float, x[0]))) for x in (outputs, targets))
        total = mpmath.log(sum(mpmath.exp(x) for x in z))
        # 0.7 + 0.3 in floats is not 1 to 60 digits: the loss divides by the sum.
        p = [x / sum(p) for x in p]
        exact = sum(p[k] * (mpmath.log(p[k]) - z[k] + total) for k in (0, 1))
    # The logits are rounded to eps, and so is δ.
    np.testing.assert_allclose(found["excess"], float(exact), rtol=rounding() / deviation)
    assert np.all(found["excess"] > 0)


def test_rows_of_the_gradient_sum_to_0_at_a_large_scale():
    _, targets = draw(5)
    log_p = np.log(np.where(targets > 0, targets, 1e-15))
    gradient = np.asarray(evaluate(jnp.asarray(log_p), jnp.asarray(targets), 34.0)["gradient"])
    largest = np.max(np.abs(gradient), axis=1)
    assert np.all(np.abs(gradient.sum(axis=1)) <= rounding() * largest)


def test_float32_and_torch():
    outputs, targets = draw(3)
    double = evaluate(jnp.asarray(outputs), jnp.asarray(targets))
    single = evaluate(*(jnp.asarray(x, jnp.float32) for x in (outputs, targets)))
    for low, high in zip(single.values(), double.values(), strict=True):
        assert low.dtype == jnp.float32
        tolerance = rounding("float32")
        np.testing.assert_allclose(low, high, rtol=tolerance, atol=tolerance)
    torch = pytest.importorskip("torch")
    z = torch.tensor(outputs, requires_grad=True)
    losses = torch.nn.functional.cross_entropy(z, torch.tensor(targets), reduction="none")
    losses.sum().backward()
    np.testing.assert_allclose(double["value"], losses.detach().numpy(), rtol=rounding())
    np.testing.assert_allclose(double["gradient"], z.grad.numpy(), atol=rounding())


@pytest.mark.parametrize(
    "row", [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.5, 0.4, 0.0], [1.5, -0.5, 0.0]]
)
def test_rows_that_are_no_probabilities_are_refused(row):
    with pytest.raises(ValueError, match=r"row 1 has sum .* needs probabilities") as refused:
        SOFT.check_targets(jnp.array([[1.0, 0.0, 0.0], row]))
    assert "\n" not in str(refused.value)


def test_logarithms_of_one_hot_rows_have_derivatives():
    """d log L = dL/L; the part within a support of one class is 0, and its logarithm −∞."""
    logits, targets = jnp.array([[1.0, 2.0, 0.5]]), jnp.array([[1.0, 0.0, 0.0]])
    slope = jax.grad(lambda z: SOFT.value(z, targets)[0])(logits) / SOFT.value(logits, targets)
    for log_of in (SOFT.log_value, SOFT.log_excess):
        found = jax.grad(lambda z, f=log_of: f(z, targets)[0])(logits)
        np.testing.assert_allclose(found, slope, rtol=rounding())
