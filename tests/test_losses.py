from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.special import logsumexp
from tolerances import rounding

import nc_jax as nc
from nc_jax.losses import Loss

LOSSES = [nc.CrossEntropy(), nc.SquaredError()]
SHAPES = st.sampled_from([(1, 2), (5, 4)])
SEEDS = st.integers(0, 2**32 - 1)


class Smoothed(Loss):
    """Label smoothing from `value` alone."""

    smoothing: float = 0.1

    def value(self, logits, labels):
        log_p = jax.nn.log_softmax(logits, axis=1)
        at_label = jnp.take_along_axis(log_p, jnp.asarray(labels)[:, None], axis=1)[:, 0]
        return -(1 - self.smoothing) * at_label - self.smoothing * jnp.mean(log_p, axis=1)


class Evaluated(NamedTuple):
    value: jax.Array
    log_value: jax.Array
    gradient: jax.Array
    scaled_gradient: jax.Array


@eqx.filter_jit
def evaluate_compiled(loss, logits, labels, log_scale) -> Evaluated:
    return Evaluated(
        loss.value(logits, labels),
        loss.log_value(logits, labels),
        loss.gradient(logits, labels),
        loss.scaled_gradient(logits, labels, log_scale),
    )


def evaluate(loss, logits, labels, log_scale=0.0) -> Evaluated:
    """Everything at once, compiled once a shape."""
    logits = jnp.asarray(logits)
    scale = jnp.asarray(log_scale, logits.dtype)
    return evaluate_compiled(loss, logits, jnp.asarray(labels), scale)


def random_logits(seed, shape, scale=1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=shape), rng.integers(0, shape[1], size=shape[0])


def cross_entropy_in_mpmath(logits: np.ndarray, label: int):
    with mpmath.workdps(50):
        z = [mpmath.mpf(float(entry)) for entry in logits]
        odds = [mpmath.exp(z[j] - z[label]) for j in range(len(z)) if j != label]
        return mpmath.log1p(mpmath.fsum(odds))


def scaled_residual_in_mpmath(logits: np.ndarray, label: int, log_scale: float) -> np.ndarray:
    """e^s (softmax(z) − onehot(y))."""
    with mpmath.workdps(50):
        z = [mpmath.mpf(float(entry)) for entry in logits]
        log_sum = max(z) + mpmath.log(mpmath.fsum(mpmath.exp(entry - max(z)) for entry in z))
        rows = [mpmath.exp(mpmath.mpf(log_scale) + entry - log_sum) for entry in z]
        rows[label] = -mpmath.fsum(row for j, row in enumerate(rows) if j != label)
        return np.array(rows, dtype=float)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_losses_fulfil_the_protocol(loss):
    assert isinstance(loss, Loss)


@given(seed=SEEDS, shape=SHAPES, scale=st.sampled_from([1e-3, 1.0, 30.0]))
def test_cross_entropy_is_minus_the_log_of_softmax_at_the_label(seed, shape, scale):
    logits, labels = random_logits(seed, shape, scale)
    value = evaluate(nc.CrossEntropy(), logits, labels).value
    exact = [float(cross_entropy_in_mpmath(z, y)) for z, y in zip(logits, labels, strict=True)]
    # The exponents are rounded at their own size.
    np.testing.assert_allclose(value, exact, rtol=rounding(operations=20 * (1 + int(scale))))
    by_scipy = logsumexp(logits, axis=1) - logits[np.arange(shape[0]), labels]
    np.testing.assert_allclose(value, by_scipy, rtol=0, atol=rounding() * (1 + scale))


@given(seed=SEEDS, shape=SHAPES)
def test_squared_error_is_half_the_squared_distance_to_the_one_hot_label(seed, shape):
    logits, labels = random_logits(seed, shape)
    expected = [
        sum((logits[i, j] - (j == labels[i])) ** 2 for j in range(shape[1])) / 2
        for i in range(shape[0])
    ]
    found = evaluate(nc.SquaredError(), logits, labels)
    np.testing.assert_allclose(found.value, expected, rtol=rounding())
    np.testing.assert_allclose(found.log_value, np.log(expected), rtol=rounding(), atol=rounding())


def test_log_squared_error_is_minus_infinity_at_an_exact_fit():
    log_value = evaluate(nc.SquaredError(), [[0.0, 1.0, 0.0]], [1]).log_value
    np.testing.assert_array_equal(log_value, [-np.inf])


@eqx.filter_jit
def autodiff(loss, logits, labels):
    return jax.grad(lambda z: jnp.sum(loss.value(z, labels)))(logits)


@given(seed=SEEDS, shape=SHAPES, loss=st.sampled_from(LOSSES))
def test_gradient_is_the_derivative_of_the_value(seed, shape, loss):
    logits, labels = random_logits(seed, shape, 3.0)
    by_autodiff = autodiff(loss, jnp.asarray(logits), jnp.asarray(labels))
    gradient = evaluate(loss, logits, labels).gradient
    np.testing.assert_allclose(gradient, by_autodiff, rtol=rounding(), atol=rounding())


@given(seed=SEEDS, shape=SHAPES, loss=st.sampled_from(LOSSES), log_scale=st.floats(-20, 20))
def test_scaled_gradient_is_the_gradient_times_the_scale(seed, shape, loss, log_scale):
    logits, labels = random_logits(seed, shape, 3.0)
    found = evaluate(loss, logits, labels, log_scale)
    expected = np.exp(log_scale) * found.gradient
    np.testing.assert_allclose(found.scaled_gradient, expected, rtol=rounding())


@pytest.mark.parametrize(
    ("logits", "label", "log_scale"),
    [
        ([2000.0, 0.0, -1.0], 0, 2000.0),
        ([0.0, 2000.0, 1.0, -3.0], 1, 1999.5),
        ([1e5, 0.0, 3.0], 0, 1e5),
        ([-1e5, 0.0, -2.0], 1, 0.0),
        ([5.0, 1e5, 1e5 - 1], 1, -1.0),
        ([700.0, 0.0], 0, 1000.0),
    ],
)
def test_scaled_cross_entropy_gradient_outlives_the_underflow_of_probabilities(
    logits, label, log_scale
):
    scaled = evaluate(nc.CrossEntropy(), [logits], [label], log_scale).scaled_gradient
    exact = scaled_residual_in_mpmath(np.array(logits), label, log_scale)
    assert np.any(exact != 0)
    # The exponent is a difference of numbers of this size, each rounded.
    size = max(1, *np.abs(logits), abs(log_scale))
    np.testing.assert_allclose(scaled[0], exact, rtol=rounding(operations=int(4 * size)))


@given(seed=SEEDS, gap=st.floats(1, 1e5), shift=st.floats(-5, 5))
def test_scaled_cross_entropy_gradient_is_right_at_any_gap(seed, gap, shift):
    logits, labels = random_logits(seed, (5, 4))
    logits[np.arange(5), labels] += gap
    log_scale = gap + shift
    scaled = evaluate(nc.CrossEntropy(), logits, labels, log_scale).scaled_gradient
    exact = [
        scaled_residual_in_mpmath(z, y, log_scale) for z, y in zip(logits, labels, strict=True)
    ]
    # The exponents are rounded at the size of the gap.
    np.testing.assert_allclose(scaled, exact, rtol=rounding(operations=int(10 * (10 + gap))))


def test_an_overflowing_scale_leaves_the_cross_entropy_gradient_finite():
    logits, labels = random_logits(0, (5, 4))
    scaled = evaluate(nc.CrossEntropy(), logits, labels, 1e7).scaled_gradient
    assert np.all(np.isfinite(scaled))
    assert np.all(np.abs(scaled) > np.finfo(float).max ** 0.49)


@given(seed=SEEDS, scale=st.sampled_from([1e-3, 1.0, 50.0]), log_scale=st.floats(-5, 100))
def test_rows_of_the_cross_entropy_gradient_sum_to_zero(seed, scale, log_scale):
    logits, labels = random_logits(seed, (5, 4), scale)
    found = evaluate(nc.CrossEntropy(), logits, labels, log_scale)
    for gradient in (found.gradient, found.scaled_gradient):
        sizes = np.sum(np.abs(gradient), axis=1)
        assert np.all(np.abs(np.sum(gradient, axis=1)) <= rounding(operations=10) * sizes)


def test_cross_entropy_gradient_at_the_label_keeps_relative_precision():
    logits = np.array([[50.0, 0.0, 1.0]])
    gradient = evaluate(nc.CrossEntropy(), logits, [0]).gradient
    exact = scaled_residual_in_mpmath(logits[0], 0, 0.0)
    assert exact[0] > -1e-20
    np.testing.assert_allclose(gradient[0], exact, rtol=rounding())


@pytest.mark.parametrize("gap", [-1e4, -5.0, 0.0, 10.0, 22.0, 35.0, 37.0, 37.1, 40.0, 800.0, 1e5])
def test_log_cross_entropy_holds_before_and_after_the_value_underflows(gap):
    logits = np.array([[gap, 0.0, 0.5]])
    log_value = evaluate(nc.CrossEntropy(), logits, [0]).log_value
    exact = float(mpmath.log(cross_entropy_in_mpmath(logits[0], 0)))
    np.testing.assert_allclose(log_value, [exact], rtol=rounding())


def test_log_cross_entropy_is_known_where_the_value_is_zero():
    found = evaluate(nc.CrossEntropy(), [[800.0, 0.0]], [0])
    np.testing.assert_array_equal(found.value, [0.0])
    np.testing.assert_allclose(found.log_value, [-800.0], rtol=rounding())


@pytest.mark.parametrize("gap", [0.0, 10.0, 16.8, 17.0, 20.0, 200.0])
def test_log_cross_entropy_of_float32_logits_is_right_to_float32(gap):
    logits = np.array([[gap, 0.0, 0.5]], np.float32)
    log_value = evaluate(nc.CrossEntropy(), logits, [0]).log_value
    exact = float(mpmath.log(cross_entropy_in_mpmath(logits[0], 0)))
    np.testing.assert_allclose(log_value, [exact], rtol=rounding("float32"))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_losses_keep_float32(loss):
    logits, labels = random_logits(1, (5, 4))
    single = evaluate(loss, logits.astype(np.float32), labels, 2.0)
    double = evaluate(loss, logits, labels, 2.0)
    # Logits rounded to float32 move a result by that much of their own size.
    tolerance = rounding("float32")
    for low, high in zip(single, double, strict=True):
        assert low.dtype == jnp.float32
        np.testing.assert_allclose(low, high, rtol=tolerance, atol=tolerance)
    assert loss.scaled_gradient(jnp.zeros((5, 4), jnp.float32), labels, 2.0).dtype == jnp.float32


@given(seed=SEEDS, shape=SHAPES, log_scale=st.floats(-20, 20))
def test_a_loss_of_value_alone_has_its_logarithm_and_gradients(seed, shape, log_scale):
    logits, labels = random_logits(seed, shape, 3.0)
    found = evaluate(Smoothed(), logits, labels, log_scale)
    # By hand: CE with targets q is −q·log p, and its gradient p − q.
    targets = np.full(shape, 0.1 / shape[1])
    targets[np.arange(shape[0]), labels] += 0.9
    log_p = logits - logsumexp(logits, axis=1, keepdims=True)
    value, gradient = -np.sum(targets * log_p, axis=1), np.exp(log_p) - targets
    np.testing.assert_allclose(found.value, value, rtol=rounding())
    np.testing.assert_allclose(found.log_value, np.log(value), rtol=rounding(), atol=rounding())
    np.testing.assert_allclose(found.gradient, gradient, rtol=0, atol=rounding())
    scaled = np.exp(log_scale) * gradient
    atol = rounding() * np.exp(log_scale)
    np.testing.assert_allclose(found.scaled_gradient, scaled, rtol=0, atol=atol)


def test_a_loss_of_value_alone_makes_a_problem_whose_batches_are_its_flows():
    problem = nc.UnconstrainedFeatures((2, 2, 2), 3, loss=Smoothed())
    starts = jax.vmap(problem.init)(jax.random.split(jax.random.key(0), 2))
    states = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), starts)
    lanes = problem.scaled_descent_lanes(states, 0.5)
    one = jax.tree.map(lambda x: x[1], starts)
    by_autodiff = jax.grad(problem.objective)(one)
    expected = jax.tree.map(lambda x: -np.exp(0.5) * np.asarray(x), by_autodiff)
    for found in (problem.scaled_descent(one, 0.5), jax.tree.map(lambda x: x[..., 1], lanes)):
        for leaf, like in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(leaf, like, rtol=0, atol=rounding())


class OwnCrossEntropy(Loss):
    """Cross-entropy as users write it."""

    shift_invariant = True

    def value(self, logits, labels):
        log_p = jax.nn.log_softmax(logits, axis=1)
        return -jnp.take_along_axis(log_p, jnp.asarray(labels)[:, None], axis=1)[:, 0]


@pytest.mark.parametrize("margin", [1.0, 30.0, 36.0, 40.0, 100.0, 600.0])
def test_the_gradient_by_differentiation_keeps_its_digits_at_large_margins(margin):
    logits = jnp.array([[margin, 0.0, -0.5], [0.3, margin, -margin]])
    labels = jnp.array([0, 1])
    exact = nc.CrossEntropy().scaled_gradient(logits, labels, jnp.zeros(()))
    found = OwnCrossEntropy().gradient(logits, labels)
    np.testing.assert_allclose(found, exact, rtol=rounding(jnp.float64, 100), atol=0)


def test_a_flow_of_a_loss_from_its_value_is_that_of_cross_entropy_at_large_margins():
    own = nc.UnconstrainedFeatures((2, 2, 2), 4, loss=OwnCrossEntropy(), reduction="sum")
    start, names = own.init(jax.random.key(0)), ("margin_min", "classifier_sum_drift")
    found, exact = (
        nc.gradient_flow(problem, start, nc.log_times(60, 3), observe=names).observables
        for problem in (own, nc.ulpm(3, 4, 2))
    )
    assert exact["margin_min"][-1] > 100
    np.testing.assert_allclose(found["margin_min"], exact["margin_min"], rtol=1e-6)
    assert found["classifier_sum_drift"][-1] < 1e-10
