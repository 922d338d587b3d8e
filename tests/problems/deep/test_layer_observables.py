"""Observables of the layers of a deep model, against the measures of one layer and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import rounding

import nc_jax as nc

KEY = jax.random.key(3)
Deep = nc.DeepUnconstrainedFeatures
# A width below K, and a class of one sample.
SIZES, WIDTHS = (3, 1, 2, 2), (5, 2, 6)


@pytest.mark.parametrize("activation", [None, nc.SmoothReLU(width=0.5)])
def test_every_layer_has_the_measures_of_its_features(activation):
    problem = Deep(SIZES, WIDTHS, activation=activation, weight_decay=0.1)
    state = problem.init(KEY, norm=3.0)
    observed = jax.jit(problem.observe)(state)
    names = {
        "layer_nc1": "zhu_nc1", "layer_nc2": "kothapalli_nc2", "layer_cdnv": "cdnv",
        "layer_effective_rank": "roy_effective_rank_class_means",
    }  # fmt: skip
    rows = np.asarray(state.features)
    for layer, weight in enumerate(state.weights):
        measured = nc.metrics.measure(rows, problem.labels, names=list(names.values()))
        for ours, theirs in names.items():
            np.testing.assert_allclose(
                observed[ours][layer], measured[theirs], rtol=1e-9, err_msg=f"{ours} {layer}"
            )
        singular = np.linalg.svd(weight, compute_uv=False)[:4]
        padded = np.pad(singular, (0, 4 - len(singular)))
        np.testing.assert_allclose(
            observed["layer_singular_values"][layer], padded, atol=rounding()
        )
        rows = rows @ np.asarray(weight).T
        rows = rows if activation is None else np.asarray(activation(jnp.asarray(rows)))
    norms = [np.linalg.norm(x) for x in (state.features, *state.weights)]
    np.testing.assert_allclose(observed["factor_norms"], norms, rtol=rounding())
    last = problem.last_layer(state)
    for name, value in nc.metrics.collapse_metrics(last, problem.labels).items():
        np.testing.assert_allclose(observed[name], value, rtol=1e-9, err_msg=name)


def test_self_duality_of_a_layer_is_that_with_the_remaining_product():
    problem = Deep(SIZES, WIDTHS)
    state, names = problem.init(KEY, norm=3.0), ("layer_nc3", "ji_self_duality")
    observed = jax.jit(lambda state: problem.observe_only(state, names))(state)
    rows, weights = state.features, state.weights
    for layer in range(3):
        remaining = np.linalg.multi_dot([np.eye(4), *reversed(weights[layer:])])
        found = nc.LastLayer(rows, jnp.asarray(remaining))
        np.testing.assert_allclose(found.logits(), state.logits(), atol=rounding(operations=1000))
        expected = nc.metrics.ji_self_duality(found, problem.labels)
        np.testing.assert_allclose(observed["layer_nc3"][layer], expected, rtol=1e-9)
        rows = rows @ weights[layer].T
    np.testing.assert_allclose(observed["layer_nc3"][-1], observed["ji_self_duality"], rtol=1e-9)
    assert "layer_nc3" not in Deep(SIZES, WIDTHS, activation=jax.nn.relu).observables()


def test_the_separation_value_is_half_the_squared_norms_at_margin_one():
    problem = Deep((2, 1), (2, 2))
    state, names = _collapsed(problem, gap=5.0), ("margin_min", "separation_value")
    observe = jax.jit(lambda state: problem.observe_only(state, names))
    observed = observe(state)
    scaled = jax.tree.map(lambda x: x / observed["margin_min"] ** (1 / 3), state)
    at_one = observe(scaled)
    np.testing.assert_allclose(at_one["margin_min"], 1.0, rtol=rounding())
    norms = sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(scaled))
    for found in (observed, at_one):
        np.testing.assert_allclose(found["separation_value"], norms / 2, rtol=rounding())
    # (m/2) Σ σ^(2/m) of the logits, because the factors are balanced.
    singular = np.linalg.svd(np.asarray(scaled.logits()), compute_uv=False)[0]
    np.testing.assert_allclose(norms / 2, 1.5 * singular ** (2 / 3), rtol=rounding())
    mistaken = jax.tree.map(jnp.negative, state)
    assert observe(mistaken)["separation_value"] == np.inf
    for other in (
        Deep((2, 1), (2, 2), weight_decay=0.1),
        Deep((2, 1), (2, 2), loss=nc.SquaredError()),
        Deep((2, 1), (2, 2), activation=jax.nn.relu),
    ):
        assert "separation_value" not in other.observables()


def _collapsed(problem, *, gap):
    """A balanced state of two classes with this margin for every sample."""
    logits = gap * (np.eye(2)[problem.labels] - 0.5)
    left, singular, right = np.linalg.svd(logits, full_matrices=False)
    root = np.diag(np.where(singular > 1e-9, singular, 0) ** (1 / 3))
    return nc.DeepFeatures(
        jnp.asarray(left @ root), (jnp.asarray(root), jnp.asarray(right.T @ root))
    )


def test_every_observable_has_an_equation():
    for activation in (None, jax.nn.relu):
        observables = Deep((2, 2), (3, 3), activation=activation).observables()
        assert [name for name, equation in observables.items() if not equation] == []
