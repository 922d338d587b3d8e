"""Mixon's linearised system against its definition and as what the full flow tends to."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from tolerances import rounding

import nc_jax as nc


def random_state(problem, seed):
    rng = np.random.default_rng(seed)
    classes, dim = problem.num_classes, problem.feature_dim
    shapes = [(classes * problem.samples_per_class, dim), (classes, dim), (classes,)]
    return nc.LastLayer(*(jnp.asarray(rng.normal(size=shape)) for shape in shapes))


@eqx.filter_jit
def field_of(problem, state):
    return problem.vector_field(0.0, state, None)


@eqx.filter_jit
def moved_field(problem, origin, direction):
    """The field and its derivative along a direction."""
    return jax.jvp(lambda s: problem.vector_field(0.0, s, None), (origin,), (direction,))


SHAPES = [(3, 15, 3), (4, 2, 5), (2, 5, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@given(seed=st.integers(0, 2**32 - 1))
def test_field_is_that_of_theorem_2(shape, seed):
    problem, (num_classes, _, size) = nc.LinearizedMixon(*shape), shape
    state = random_state(problem, seed)
    # In the paper's shapes: H p x CN, W C x p.
    h, w, b = np.array(state.features).T, np.array(state.classifier), np.array(state.bias)
    residual = np.outer(b, np.ones(num_classes * size)) - np.kron(
        np.eye(num_classes), np.ones(size)
    )
    field = field_of(problem, state)
    close = {"rtol": 0, "atol": rounding() * 10 * np.abs(residual).sum()}
    np.testing.assert_allclose(field.features, (-w.T @ residual).T, **close)
    np.testing.assert_allclose(field.classifier, -residual @ h.T, **close)
    np.testing.assert_allclose(field.bias, -residual.sum(axis=1), **close)


@pytest.mark.parametrize("shape", SHAPES)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_linearized_field_is_the_derivative_of_the_full_flow_at_the_origin(shape, seed):
    linear, full = nc.LinearizedMixon(*shape), nc.mixon(*shape)
    state = random_state(linear, seed)
    nothing = jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape)), state)
    direction = nc.LastLayer(state.features, state.classifier, nothing.bias)
    origin = nc.LastLayer(nothing.features, nothing.classifier, state.bias)
    value, slope = moved_field(full, origin, direction)
    field = field_of(linear, state)
    close = {"rtol": 0, "atol": rounding() * 100}
    np.testing.assert_allclose(slope.features, field.features, **close)
    np.testing.assert_allclose(slope.classifier, field.classifier, **close)
    np.testing.assert_allclose(value.bias, field.bias, **close)


def risk_alone(state):
    return {"objective": nc.LinearizedMixon(3, 5, 2).objective(state)}


def test_the_linearized_flow_conserves_the_balance_and_records_the_risk_of_the_full_model():
    problem = nc.LinearizedMixon(3, 5, 2)
    start = problem.init(jax.random.key(1), norm=0.3)
    traj = nc.gradient_flow(
        problem, start, np.array([0.5, 1.0]), clock=nc.RealTime(), rtol=1e-10, observe=risk_alone
    )
    assert traj.observables["balance_drift"].max() < 30 * 1e-10 * np.exp(2 * np.sqrt(2))
    risk = nc.mixon(3, 5, 2).objective(traj.final)
    np.testing.assert_allclose(traj.observables["objective"][-1], risk, rtol=rounding())


def test_scaled_descent_is_scaled():
    problem = nc.LinearizedMixon(3, 4, 2)
    state = random_state(problem, 0)
    scaled = problem.scaled_descent(state, 2.0)
    for a, b in zip(jax.tree.leaves(scaled), jax.tree.leaves(problem.gradient(state)), strict=True):
        np.testing.assert_allclose(a, -np.exp(2.0) * b, rtol=rounding())


def test_the_linearized_model_has_the_attributes_of_the_full_model():
    problem = nc.LinearizedMixon(3, 15, 2)
    shape = (problem.num_classes, problem.feature_dim, problem.samples_per_class)
    assert shape == (3, 15, 2)
    np.testing.assert_array_equal(problem.labels, [0, 0, 1, 1, 2, 2])
    assert problem.largest_log_scale("float32") == np.log(np.finfo("float32").max)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 2), "num_classes = 1"),
        ((3, 0, 2), "feature_dim = 0"),
        ((3, 4, 0), "samples_per_class = 0"),
    ],
)
def test_bad_shapes_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        nc.LinearizedMixon(*shape)
