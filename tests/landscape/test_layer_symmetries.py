"""The symmetry orbit of a deep model: generators written out one by one, and kinds of points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from tolerances import rounding

import nc_jax as nc
from nc_jax import landscape

KEY = jax.random.key(0)
Deep = nc.DeepUnconstrainedFeatures
# By name: widths, decays, activation, and the spaces whose maps are symmetries, with whether they
# are rotations only.
CASES = {
    "decay": ((3, 2), 0.1, None, [(0, True), (1, True)]),
    "no decay": ((3, 2), 0.0, None, [(0, False), (1, False)]),
    "decay of the last layer": ((2, 3), (0.0, 0.0, 0.1), None, [(0, False), (1, True)]),
    "three layers": ((2, 2, 2), (0.0, 0.1, 0.0, 0.0), None, [(0, True), (1, True), (2, False)]),
    "relu": ((3, 2), 0.0, jax.nn.relu, [(0, False)]),
}


def generators(state, spaces):
    """Tangents of all one-parameter symmetries, in rows."""
    rows = []
    for space, rigid in spaces:
        size = state.weights[space].shape[1]
        for i, j in np.ndindex(size, size):
            generator = np.zeros((size, size))
            generator[i, j] += 1
            if rigid:
                generator[j, i] -= 1
            moved = [np.zeros(x.shape) for x in state.factors()]
            if space == 0:
                moved[0] = state.features @ generator
            else:
                moved[space] = generator.T @ state.weights[space - 1]
            moved[space + 1] = -state.weights[space] @ generator.T
            rows.append(np.concatenate([np.ravel(x) for x in moved]))
    return np.stack(rows)


@pytest.mark.parametrize("name", CASES)
def test_the_orbit_is_spanned_by_its_generators(name):
    widths, decays, activation, spaces = CASES[name]
    problem = Deep((2, 1, 1), widths, weight_decay=decays, activation=activation, reduction="sum")
    state = problem.init(KEY, norm=2.0)
    rows = generators(state, spaces)
    gradient = ravel_pytree(problem.gradient(state))[0]
    # The objective does not change along them.
    np.testing.assert_allclose(rows @ np.asarray(gradient), 0, atol=rounding())
    singular, right = np.linalg.svd(rows)[1:]
    rank = int(np.sum(singular > 1e-9 * singular[0]))
    assert landscape.symmetry_dimension(problem, state) == rank
    direction = problem.init(jax.random.key(1))
    flat = np.asarray(ravel_pytree(direction)[0])
    found = ravel_pytree(landscape.project_onto_symmetries(problem, state, direction))[0]
    np.testing.assert_allclose(found, right[:rank].T @ (right[:rank] @ flat), atol=1e-10)


def test_the_hessian_is_that_of_the_objective():
    for activation in (None, nc.SmoothReLU(width=0.5)):
        problem = Deep((2, 1), (2, 3), activation=activation, weight_decay=0.1)
        state = problem.init(KEY, norm=2.0)
        flat, unravel = ravel_pytree(state)
        expected = jax.jit(jax.hessian(lambda x, p=problem, u=unravel: p.objective(u(x))))(flat)
        found = landscape.dense_hessian(problem, state)
        np.testing.assert_allclose(found, expected, atol=rounding())


def test_a_collapsed_state_is_a_minimum_and_so_is_the_origin_of_three_factors():
    problem = Deep((2, 2, 2), (2, 2), weight_decay=0.02, reduction="sum")
    flow = nc.gradient_flow(
        problem, problem.init(jax.random.key(1), norm=2.0), np.log1p([0.0, 4000.0]),
        observe=("zhu_nc3",),
    )  # fmt: skip
    assert flow.observables["zhu_nc3"][-1] < 1e-6
    found = landscape.classify(problem, flow.final)
    # 1 rotation of each of the two planes.
    assert (found.kind, int(found.symmetries), int(found.nullity)) == ("minimum", 2, 2)
    origin = jax.tree.map(jnp.zeros_like, flow.final)
    at_origin = landscape.classify(problem, origin)
    # All second derivatives of the loss vanish: the Hessian is that of the decay.
    assert (at_origin.kind, int(at_origin.symmetries)) == ("minimum", 0)
    np.testing.assert_allclose(at_origin.eigenvalue, 0.02, rtol=rounding())
    without = landscape.classify(Deep((2, 2, 2), (2, 2)), origin)
    assert without.kind == "degenerate"
    # Two factors: the origin is a saddle.
    assert (
        landscape.classify(
            Deep((2, 2, 2), (2,), weight_decay=0.02),
            nc.DeepFeatures(origin.features, (jnp.zeros((3, 2)),)),
        ).kind
        == "strict saddle"
    )


def test_a_state_without_rank_has_no_orbit_and_large_ones_are_searched(monkeypatch):
    problem = Deep((2, 2, 2), (2, 2), weight_decay=0.02, reduction="sum")
    state = problem.init(jax.random.key(1), norm=2.0)
    dense = landscape.classify(problem, state)
    monkeypatch.setattr(landscape.classification, "DENSE_LIMIT", 1)
    jax.clear_caches()
    by_lanczos = landscape.classify(problem, state)
    assert by_lanczos.nullity == -1
    np.testing.assert_allclose(by_lanczos.eigenvalue, dense.eigenvalue, rtol=1e-6)
    assert dense.kind == by_lanczos.kind == "not critical"
