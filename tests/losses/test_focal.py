"""Focal loss against its definition at 60 digits, PyTorch, and the flow on the collapsed ray."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.integrate
from hypothesis import given, strategies as st
from tolerances import integration, rounding

import nc_jax as nc

SEEDS = st.integers(0, 2**32 - 1)
EXPONENTS = [0.0, 0.4, 1.0, 2.0, 5.0]


def draw(seed, scale=3.0, shape=(5, 4)):
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=shape), rng.integers(0, shape[1], size=shape[0])


def in_mpmath(logits, label, exponent, log_scale=0.0):
    """log ℓ and e^s ∂ℓ/∂z = e^s p_j [(1−p)^γ − γ p (1−p)^(γ−1) log p], p = p_y, of one sample."""
    with mpmath.workdps(60):
        z = [mpmath.mpf(float(x)) for x in logits]
        gamma, scale = mpmath.mpf(exponent), mpmath.mpf(log_scale)
        others = mpmath.fsum(mpmath.exp(z[j] - z[label]) for j in range(len(z)) if j != label)
        p, error = 1 / (1 + others), others / (1 + others)
        minus_log_p = mpmath.log1p(others)
        log_value = gamma * mpmath.log(error) + mpmath.log(minus_log_p)
        factor = error**gamma + gamma * p * error ** (gamma - 1) * minus_log_p
        row = [mpmath.exp(scale + z[j] - z[label]) * p * factor for j in range(len(z))]
        row[label] = -mpmath.fsum(x for j, x in enumerate(row) if j != label)
        return float(log_value), np.array(row, dtype=float)


@eqx.filter_jit
def evaluate(exponent, logits, labels, log_scale: Any = 0.0):
    loss = nc.Focal(exponent)
    return (
        loss.value(logits, labels),
        loss.log_value(logits, labels),
        loss.gradient(logits, labels),
        loss.scaled_gradient(logits, labels, log_scale),
    )


@given(seed=SEEDS, exponent=st.sampled_from(EXPONENTS), log_scale=st.floats(-20, 20))
def test_value_logarithm_and_gradients_are_those_of_the_definition(seed, exponent, log_scale):
    logits, labels = draw(seed)
    value, log_value, gradient, scaled = evaluate(
        jnp.asarray(exponent), jnp.asarray(logits), labels, jnp.asarray(log_scale)
    )
    for i in range(5):
        log_exact, row = in_mpmath(logits[i], labels[i], exponent)
        np.testing.assert_allclose(log_value[i], log_exact, rtol=rounding(), atol=rounding())
        np.testing.assert_allclose(value[i], np.exp(log_exact), rtol=rounding(operations=400))
        np.testing.assert_allclose(gradient[i], row, rtol=rounding(operations=400))
        expected = np.exp(log_scale) * row
        np.testing.assert_allclose(scaled[i], expected, rtol=rounding(operations=500))


@given(seed=SEEDS, exponent=st.floats(0, 6))
def test_gradient_is_the_derivative_of_the_value_and_rows_sum_to_zero(seed, exponent):
    logits, labels = draw(seed)
    _, _, gradient, _ = evaluate(jnp.asarray(exponent), jnp.asarray(logits), labels)
    by_autodiff = autodiff(jnp.asarray(exponent), jnp.asarray(logits), labels)
    sizes = np.max(np.abs(gradient), axis=1, keepdims=True)
    np.testing.assert_allclose(gradient / sizes, by_autodiff / sizes, atol=rounding(operations=500))
    assert np.all(np.abs(np.sum(gradient, axis=1)) <= rounding(operations=10) * sizes[:, 0])


@eqx.filter_jit
def autodiff(exponent, logits, labels):
    return jax.grad(lambda z: jnp.sum(nc.Focal(exponent).value(z, labels)))(logits)


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("gap", [1e5, 2000.0, 800.0, 40.0, 36.0, -36.0, -40.0, -800.0, -1e5])
def test_logarithm_and_scaled_gradient_hold_where_probabilities_underflow(exponent, gap):
    logits = np.array([gap, 0.0, 0.5, -2.0])
    log_scale = max((exponent + 1) * gap, 0.0)
    _, log_value, _, scaled = evaluate(
        exponent, jnp.asarray(logits[None]), np.array([0]), log_scale
    )
    log_exact, row = in_mpmath(logits, 0, exponent, log_scale)
    # The exponent is a difference of numbers of this size, each rounded.
    tolerance = rounding(operations=int(20 + 4 * abs(log_scale) + 4 * abs(gap)))
    np.testing.assert_allclose(log_value, [log_exact], rtol=rounding())
    np.testing.assert_allclose(scaled[0], row, rtol=tolerance)


def test_exponent_zero_is_cross_entropy():
    logits, labels = draw(1)
    logits = jnp.asarray(logits)
    ours = evaluate(0.0, logits, labels, 3.0)
    loss = nc.CrossEntropy()
    expected = (
        loss.value(logits, labels),
        loss.log_value(logits, labels),
        loss.gradient(logits, labels),
        loss.scaled_gradient(logits, labels, 3.0),
    )
    for found, like in zip(ours, expected, strict=True):
        np.testing.assert_allclose(found, like, rtol=rounding(), atol=rounding())


def test_an_overflowing_scale_leaves_the_gradient_finite():
    logits, labels = draw(2)
    scaled = evaluate(2.0, jnp.asarray(logits), labels, 1e7)[3]
    assert np.all(np.isfinite(scaled))


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_float32_logits_stay_float32_and_are_right(exponent):
    logits, labels = draw(3)
    logits = np.concatenate([logits, [[30.0, 0, 0, 1.0], [0, 90.0, 1.0, 0]]]).astype(np.float32)
    labels = np.append(labels, [0, 0])
    log_scale = np.float32(5.0)
    found = evaluate(jnp.asarray(exponent), jnp.asarray(logits), labels, log_scale)
    for i in range(len(labels)):
        log_exact, row = in_mpmath(logits[i], labels[i], exponent, float(log_scale))
        assert found[1].dtype == found[3].dtype == jnp.float32
        np.testing.assert_allclose(found[1][i], log_exact, rtol=1e-5, atol=1e-5)
        # The smallest numbers of float32, here times e^5, have fewer digits in float32, or are 0.
        np.testing.assert_allclose(found[3][i], row, rtol=rounding("float32", 1000), atol=1e-36)


@pytest.mark.parametrize("exponent", [0.5, 2.0])
def test_agrees_with_autograd_of_torch(exponent):
    torch = pytest.importorskip("torch")
    logits, labels = draw(4)
    z = torch.tensor(logits, requires_grad=True)
    log_p = torch.nn.functional.log_softmax(z, dim=1)[torch.arange(5), torch.tensor(labels)]
    losses = -((1 - log_p.exp()) ** exponent) * log_p
    losses.sum().backward()
    value, _, gradient, _ = evaluate(exponent, jnp.asarray(logits), labels)
    np.testing.assert_allclose(value, losses.detach().numpy(), rtol=rounding())
    np.testing.assert_allclose(gradient, z.grad.numpy(), atol=rounding())


def test_the_exponent_can_be_mapped_and_lanes_are_systems():
    logits, labels = draw(5)
    z = jnp.asarray(logits)
    exponents = jnp.array([0.0, 1.0, 3.0])
    mapped = jax.vmap(lambda g: nc.Focal(g).scaled_gradient(z, labels, 2.0))(exponents)
    lanes = jnp.stack([z, 5 * z, z - 1], axis=-1)
    for i, exponent in enumerate(exponents):
        loss = nc.Focal(float(exponent))
        np.testing.assert_allclose(mapped[i], loss.scaled_gradient(z, labels, 2.0), rtol=rounding())
        together = loss.scaled_gradient_of_lanes(lanes, labels, 2.0)
        alone = loss.scaled_gradient(lanes[..., i], labels, 2.0)
        np.testing.assert_allclose(together[..., i], alone, rtol=rounding(), atol=rounding())


@pytest.mark.parametrize(("gap", "log_scale"), [(900.0, 2.5 * 900.0), (-900.0, 0.0)])
def test_the_second_derivative_is_finite_in_both_modes(gap, log_scale):
    @jax.jit
    def both(z):
        def scaled(z):
            return nc.Focal(1.5).scaled_gradient(z, np.array([0]), log_scale)

        return jax.jacfwd(scaled)(z), jax.jacrev(scaled)(z)

    forward, reverse = both(jnp.array([[gap, 0.0, 1.0]]))
    assert np.all(np.isfinite(forward))
    assert np.max(np.abs(forward)) > 1e-3
    np.testing.assert_allclose(forward, reverse, rtol=rounding(), atol=rounding())


def ray_gap(classes, size, exponent, start, t):
    """The gap on the collapsed ray by SciPy: a' = 2√n K/(K−1) a ((1−p)^(γ+1) − γp(1−p)^γ log p)."""

    def rate(_, a):
        p = 1 / (1 + (classes - 1) * np.exp(-a))
        slope = (1 - p) ** (exponent + 1) - exponent * p * (1 - p) ** exponent * np.log(p)
        return 2 * math.sqrt(size) * classes / (classes - 1) * a * slope

    solution = scipy.integrate.solve_ivp(
        rate, (0, t), [start], method="DOP853", rtol=1e-13, atol=1e-13
    )
    return solution.y[0, -1]


@pytest.mark.parametrize(
    ("classes", "size", "exponent", "start", "t"),
    [(4, 1, 2.0, 1.0, 100.0), (3, 2, 0.5, 0.3, 30.0), (5, 3, 1.0, 2.0, 50.0)],
)
def test_the_flow_stays_on_the_ray_and_solves_its_scalar_equation(
    classes, size, exponent, start, t
):
    problem = nc.UnconstrainedFeatures(
        (size,) * classes, classes, loss=nc.Focal(exponent), reduction="sum"
    )
    state = nc.exact.collapsed_state(problem, start, key=jax.random.key(1))
    names = ("margin_min", "margin_mean")
    flow = nc.gradient_flow(problem, state, np.log1p([0.0, t]), rtol=1e-11, observe=names)
    expected = ray_gap(classes, size, exponent, start, t)
    for name in names:
        np.testing.assert_allclose(flow.observables[name][-1], expected, rtol=1e-9)
    if (classes, exponent) == (4, 2.0):
        assert abs(expected - 4.0317475562) < 1e-9


def test_the_flow_reaches_any_time_and_its_loss_reads_off_the_separation_value():
    problem = nc.UnconstrainedFeatures((2, 2, 2), 4, loss=nc.Focal(2.0), reduction="sum")
    assert not problem.comes_to_rest
    assert problem.largest_log_scale("float64") == np.inf
    log_time = np.array([0.0, 1e2, 1e3]) * math.log(10)
    names = ("log_objective", "margin_min", "balance_drift", "classifier_sum_drift")
    flow = nc.gradient_flow(problem, problem.init(jax.random.key(3)), log_time, observe=names)
    log_loss, gap = (np.asarray(flow.observables[name]) for name in names[:2])
    # V = √n (K−1): L t log t → V/(2(γ+1)), and the gap log t/(γ+1) less its log log t.
    value = math.sqrt(2) * 2 / (2 * 3)
    excess = log_loss[1:] + log_time[1:] + np.log(log_time[1:]) - math.log(value)
    # The approach is (log log t + const)/log t.
    assert np.all(np.abs(excess) < 2 * np.log(log_time[1:]) / log_time[1:])
    # The gap of a loss of N ((K−1) e^−a)^3 with this L, against its limit (log t)/(γ+1).
    late = log_time[1:]
    predicted = math.log(2) - (math.log(value / 6) - late - np.log(late)) / 3
    error = np.abs(gap[1:] - predicted)
    assert np.all(10 * error < np.abs(gap[1:] - late / 3))
    assert np.all(error < np.log(late) / late)
    assert np.all(np.asarray(flow.observables["classifier_sum_drift"]) < integration(1e-8))
    assert np.all(np.asarray(flow.observables["balance_drift"]) < 1e2 * integration(1e-8))


@pytest.mark.parametrize("exponent", [-1.0, float("inf")])
def test_an_exponent_out_of_range_is_refused_in_one_line(exponent):
    with pytest.raises(ValueError, match="exponent = ") as refused:
        nc.Focal(exponent)
    assert "\n" not in str(refused.value)
