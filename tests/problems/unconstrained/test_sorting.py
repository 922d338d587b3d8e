"""Features in the order of a data set, and the model that they are a state of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from tolerances import rounding

import nc_jax as nc
from nc_jax import landscape, metrics

LOSSES = [nc.CrossEntropy(), nc.SquaredError()]


def objective_in_numpy(h, w, b, labels, loss, reduction, decay):
    """The loss of samples in any order, each with its label."""
    logits, rows = h @ w.T + b, np.arange(len(h))
    if isinstance(loss, nc.CrossEntropy):
        values = np.log(np.exp(logits).sum(axis=1)) - logits[rows, labels]
    else:
        values = np.sum((logits - np.eye(len(w))[labels]) ** 2, axis=1) / 2
    data = values.mean() if reduction == "mean" else values.sum()
    penalty = decay.features * np.sum(h**2) + decay.classifier * np.sum(w**2)
    return data + (penalty + decay.bias * np.sum(b**2)) / 2


@pytest.mark.parametrize("loss", LOSSES)
@given(seed=st.integers(0, 2**32 - 1), reduction=st.sampled_from(["mean", "sum"]))
def test_the_objective_is_that_of_each_sample_with_its_label(loss, seed, reduction):
    rng = np.random.default_rng(seed)
    labels = rng.permutation([0, 0, 0, 1, 2, 2, 2, 2])
    h, w, b = rng.normal(size=(8, 4)), rng.normal(size=(3, 4)), rng.normal(size=3)
    decay = nc.WeightDecay(classifier=0.1, features=0.2, bias=0.3)
    problem, state = nc.problem_for(
        nc.LastLayer(jnp.asarray(h), jnp.asarray(w), jnp.asarray(b)), labels,
        loss=loss, reduction=reduction, weight_decay=decay,
    )  # fmt: skip
    assert problem.class_sizes == (3, 1, 4)
    assert problem.bias
    expected = objective_in_numpy(h, w, b, labels, loss, reduction, decay)
    np.testing.assert_allclose(problem.objective(state), expected, rtol=rounding())
    # Samples of a class stay in their order.
    np.testing.assert_array_equal(
        state.features, np.concatenate([h[labels == c] for c in range(3)])
    )


def test_features_of_a_network_in_any_order_are_a_point_of_the_landscape():
    """The minimum with its samples shuffled, as a data set has them."""
    model = nc.zhu(3, 4, 2, 5e-3)
    minimum = nc.exact.regularized_minimizer(model, key=jax.random.key(0))
    order = np.random.default_rng(1).permutation(6)
    layer = nc.LastLayer(minimum.features[order], minimum.classifier, minimum.bias)
    labels = model.labels[order]
    decay = nc.WeightDecay(classifier=5e-3, features=5e-3, bias=5e-3)
    problem, state = nc.problem_for(layer, jnp.asarray(labels), weight_decay=decay)
    assert problem == model
    assert landscape.classify(problem, state).kind == "minimum"
    # Unsorted it is another point, and no error can say so.
    assert landscape.classify(model, layer).kind == "not critical"
    found = metrics.margin_metrics(state, problem.labels)["margin_min"]
    np.testing.assert_allclose(
        found, metrics.margin_metrics(layer, labels)["margin_min"], rtol=rounding()
    )


def test_a_state_of_half_precision_becomes_a_start():
    half = nc.LastLayer(jnp.ones((4, 2), jnp.float16), jnp.ones((2, 2), jnp.float16))
    problem, state = nc.problem_for(half, np.array([1, 0, 1, 0]))
    assert not problem.bias
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}


def test_states_of_a_batch_are_sorted_under_vmap():
    labels = np.array([1, 0, 1])
    rows = jnp.arange(6.0).reshape(2, 3, 1)
    states = jax.vmap(lambda h: nc.LastLayer(h, jnp.ones((2, 1))))(rows)
    found = jax.vmap(lambda state: nc.problem_for(state, labels)[1])(states)
    np.testing.assert_array_equal(found.features[..., 0], [[1, 0, 2], [4, 3, 5]])
