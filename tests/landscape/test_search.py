import jax
import jax.numpy as jnp
import numpy as np
import pytest
from landscape_points import DECAY, flat, gradient, objective, origin, saddles

import nc_jax as nc
from nc_jax import landscape


def keys(num):
    return jax.random.split(jax.random.key(0), num)


@pytest.mark.parametrize("dim", [2, 3, 5])
def test_no_spurious_minimum_is_found_whatever_the_dimension(dim):
    # d = K-1 and d = K included, of which the paper says nothing.
    problem = nc.zhu(3, dim, 2, DECAY)
    found = landscape.find_critical_points(problem, keys(64))
    assert found.counts.sum() + found.num_lost == 64
    least = float(nc.exact.regularized_minimum(problem))
    kinds = dict(zip(found.objectives, found.classification.kind, strict=True))
    minima = [value for value, kind in kinds.items() if kind == "minimum"]
    np.testing.assert_allclose(minima, [least], rtol=0, atol=1e-10)
    assert set(found.classification.kind) == {"minimum", "strict saddle"}
    # Each is critical, and the certificate agrees with the classification.
    states = jax.tree.map(np.asarray, found.states)
    for i, kind in enumerate(found.classification.kind):
        state = jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf[i]), states)
        assert np.abs(flat(gradient(problem, state))).max() < 1e-8
        assert landscape.global_certificate(problem, state).holds(1e-8) == (kind == "minimum")
    # The explicit ones are among them.
    for state in [origin(problem), *saddles(problem).values()]:
        value = float(objective(problem, state))
        assert np.abs(found.objectives - value).min() < 1e-8


def test_on_the_sphere_collapse_is_the_only_minimum_found():
    problem, radius = nc.ulpm(3, 2, 2), 3.0
    found = landscape.find_critical_points(problem, keys(64), radius=radius)
    leaves = (found.states.features, found.states.classifier)
    norms = sum(np.sum(np.square(leaf), axis=(1, 2)) for leaf in leaves)
    np.testing.assert_allclose(norms, radius**2, rtol=1e-8)
    minima = found.objectives[np.asarray(found.classification.kind) == "minimum"]
    least, _ = nc.exact.sphere_optimum(problem, radius)
    np.testing.assert_allclose(minima, [float(least)], atol=1e-10)
    # All of WH constant over the classes is one family, of loss N log K.
    top = np.abs(found.objectives - 6 * np.log(3)) < 1e-8
    assert top.sum() == 1


def test_rotations_and_relabelling_do_not_make_new_points():
    problem = nc.zhu(4, 4, 2, DECAY)
    # Started at turned and relabelled copies of one saddle.
    state = nc.exact.subset_saddle(problem, 2)
    assert state.bias is not None
    order = np.array([2, 0, 3, 1])
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(4, 4)))[0]
    samples = (2 * order[:, None] + np.array([1, 0])).ravel()
    turned = (np.asarray(state.features)[samples], np.asarray(state.classifier)[order])
    features, classifier = (jnp.asarray(rows @ rotation) for rows in turned)
    copy = nc.LastLayer(features, classifier, jnp.asarray(np.asarray(state.bias)[order]))

    class Started(nc.UnconstrainedFeatures):
        def init(self, key, norm=1.0, *, dtype=float):
            first = jax.random.bernoulli(key)
            return jax.tree.map(lambda a, b: jnp.where(first, a, b), state, copy)

    twin = Started(
        problem.class_sizes,
        4,
        loss=problem.loss,
        reduction=problem.reduction,
        bias=True,
        weight_decay=problem.weight_decay,
    )
    found = landscape.find_critical_points(twin, keys(8))
    assert list(found.counts) == [8]
    assert list(found.classification.kind) == ["strict saddle"]


def test_starts_that_reach_no_critical_point_are_counted():
    found = landscape.find_critical_points(nc.zhu(3, 3, 1, DECAY), keys(5), max_steps=2)
    assert found.num_lost == 5
    assert found.counts.size == found.objectives.size == 0


def test_invalid_radii_are_refused():
    problem = nc.ulpm(3, 2, 1)
    with pytest.raises(ValueError, match="radius = 0"):
        landscape.find_critical_points(problem, keys(2), radius=0.0)
    with pytest.raises(ValueError, match="without weight decay; leave it out"):
        landscape.find_critical_points(nc.zhu(3, 3, 2, DECAY), keys(2), radius=1.0)
