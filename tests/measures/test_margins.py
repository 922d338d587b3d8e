import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, strategies as st
from tolerances import rounding

import nc_jax as nc
from nc_jax import metrics
from nc_jax.geometry import simplex_etf
from nc_jax.metrics import max_margin

sample_margins = eqx.filter_jit(metrics.sample_margins)
margin_metrics = eqx.filter_jit(metrics.margin_metrics)
gamma_tilde = eqx.filter_jit(metrics.gamma_tilde)


@eqx.filter_jit
def log_summed_loss(state, labels):
    return jax.nn.logsumexp(nc.CrossEntropy().log_value(state.logits(), labels))


SEEDS = st.integers(0, 2**32 - 1)
# K, n, d.
SHAPES = [(2, 1, 1), (3, 4, 2), (4, 2, 7)]


def collapsed_point(num_classes, n, dim, size=1.0):
    """W a simplex ETF and h_i = w_{y_i}/√n, which has ‖W‖_F = ‖H‖_F."""
    labels = np.repeat(np.arange(num_classes), n)
    classifier = size * simplex_etf(num_classes, dim)
    return nc.LastLayer(classifier[labels] / np.sqrt(n).item(), classifier), labels


def perturbed(state, seed, amount):
    rng = np.random.default_rng(seed)
    return nc.LastLayer(
        state.features + amount * rng.normal(size=state.features.shape),
        state.classifier + amount * rng.normal(size=state.classifier.shape),
    )


@given(seed=SEEDS, shape=st.sampled_from(SHAPES))
def test_margins_are_the_lead_of_the_label_over_the_best_other_class(seed, shape):
    num_classes, n, dim = shape
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, size=num_classes * n)
    h, w = rng.normal(size=(len(labels), dim)), rng.normal(size=(num_classes, dim))
    b = rng.normal(size=num_classes)
    expected = []
    for x, y in zip(h, labels, strict=True):
        scores = [float(np.sum(w[c] * x) + b[c]) for c in range(num_classes)]
        expected.append(scores[y] - max(scores[c] for c in range(num_classes) if c != y))
    state = nc.LastLayer(jnp.asarray(h), jnp.asarray(w), jnp.asarray(b))
    margins = sample_margins(state, labels)
    np.testing.assert_allclose(margins, expected, rtol=0, atol=rounding())

    found = margin_metrics(state, labels)
    squared_norm = np.sum(h**2) + np.sum(w**2)
    assert set(found) == {"margin_min", "margin_mean", "squared_norm", "normalized_margin"}
    np.testing.assert_allclose(found["margin_min"], min(expected), atol=rounding())
    np.testing.assert_allclose(found["margin_mean"], np.mean(expected), atol=rounding())
    np.testing.assert_allclose(found["squared_norm"], squared_norm, rtol=rounding())
    np.testing.assert_allclose(
        found["normalized_margin"], min(expected) / squared_norm, atol=rounding()
    )


def test_margins_of_float32_states_are_float32():
    state, labels = collapsed_point(3, 2, 2)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), state)
    found = margin_metrics(single, labels)
    assert {value.dtype for value in found.values()} == {jnp.dtype("float32")}
    assert max_margin(found["squared_norm"], 3, 2).dtype == jnp.float32
    assert gamma_tilde(jnp.float32(-3.0), found["squared_norm"]).dtype == jnp.float32


@given(
    seed=SEEDS,
    shape=st.sampled_from(SHAPES),
    amount=st.sampled_from([1e-8, 1e-4, 1e-2, 0.3, 100.0]),
)
def test_no_state_exceeds_the_max_margin(seed, shape, amount):
    """From states near the collapsed point, where it is attained, to random ones."""
    state, labels = collapsed_point(*shape)
    state = perturbed(state, seed, amount)
    margin = float(jnp.min(sample_margins(state, labels)))
    bound = float(max_margin(state.squared_norm(), shape[0], shape[1]))
    assert margin <= bound * (1 + rounding())


@pytest.mark.parametrize("size", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_max_margin_is_attained_at_collapse(shape, size):
    state, labels = collapsed_point(*shape, size=size)
    bound = max_margin(state.squared_norm(), shape[0], shape[1])
    # Each margin is K/(K-1) ‖w‖²/√n by the angles of the frame, the bound by theorem 3.1.
    closed_form = shape[0] / (shape[0] - 1) * size**2 / np.sqrt(shape[1])
    np.testing.assert_allclose(bound, closed_form, rtol=rounding())
    np.testing.assert_allclose(sample_margins(state, labels), closed_form, rtol=rounding())


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_unequal_norms_or_an_offset_miss_the_max_margin(ratio):
    state, labels = collapsed_point(3, 4, 2)
    for missed in (
        nc.LastLayer(ratio * state.features, state.classifier),
        nc.LastLayer(state.features + ratio, state.classifier),
    ):
        margin = jnp.min(sample_margins(missed, labels))
        assert margin < 0.9 * max_margin(missed.squared_norm(), 3, 4)


def test_max_margin_takes_a_batch_of_norms():
    bounds = max_margin(jnp.array([0.0, 1.0, 8.0]), 3, 4)
    np.testing.assert_allclose(bounds, [0, 1 / 8, 1], rtol=rounding())


def gamma_tilde_in_mpmath(log_loss: float, squared_norm: float) -> float:
    with mpmath.workdps(50):
        log_expm1 = mpmath.log(mpmath.expm1(mpmath.exp(mpmath.mpf(log_loss))))
        return float(-log_expm1 / squared_norm)


@given(log_loss=st.floats(-5000, 5), squared_norm=st.floats(0.1, 1e4))
def test_gamma_tilde_is_right_at_any_loss(log_loss, squared_norm):
    found = gamma_tilde(jnp.asarray(log_loss), jnp.asarray(squared_norm))
    expected = gamma_tilde_in_mpmath(log_loss, squared_norm)
    # Near L = log 2 the numerator is a sum of numbers near 1 that vanishes.
    np.testing.assert_allclose(found, expected, rtol=rounding(), atol=rounding() / squared_norm)


@pytest.mark.parametrize(
    "log_loss", [-745.2, -40.0, -36.05, -36.04, -1e-9, 0.0, 1e-9, np.log(np.log(2)), 3.0, 30.0]
)
def test_gamma_tilde_is_right_where_its_branches_meet(log_loss):
    expected = gamma_tilde_in_mpmath(log_loss, 2.0)
    found = gamma_tilde(jnp.asarray(log_loss), jnp.asarray(2.0))
    # e^(log L) magnifies the rounding of log L by log L itself.
    tolerance = rounding(operations=100 * (1 + int(abs(log_loss))))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=rounding())


def test_gamma_tilde_of_float32_losses_is_right_to_float32():
    log_losses = jnp.array([-300.0, -16.0, -15.9, -1.0, 2.0], jnp.float32)
    found = gamma_tilde(log_losses, jnp.full(5, 2.0, jnp.float32))
    expected = [gamma_tilde_in_mpmath(float(x), 2.0) for x in log_losses]
    np.testing.assert_allclose(found, expected, rtol=rounding("float32"))


@given(seed=SEEDS, size=st.sampled_from([1.0, 4.0, 50.0]), amount=st.sampled_from([0.0, 0.02, 0.2]))
def test_gamma_tilde_lies_just_below_the_normalized_margin(seed, size, amount):
    """(B.8): γ̃ρ² <= q_min; and e^L − 1 <= (1 + (K−1) e^−q_min)^N − 1 bounds it from below."""
    num_classes, n = 3, 4
    state, labels = collapsed_point(num_classes, n, 2)
    state = perturbed(state, seed, amount)
    state = nc.LastLayer(size * state.features, size * state.classifier)
    margin = float(jnp.min(sample_margins(state, labels)))
    squared_norm = float(state.squared_norm())
    log_loss = log_summed_loss(state, labels)
    found = float(gamma_tilde(log_loss, state.squared_norm())) * squared_norm
    slack = rounding() * (1 + abs(margin))
    assert found <= margin + slack
    samples = num_classes * n
    with mpmath.workdps(50):
        against = (num_classes - 1) * mpmath.exp(-mpmath.mpf(margin))
        lower = float(-mpmath.log(mpmath.expm1(samples * mpmath.log1p(against))))
    assert found >= lower - slack
