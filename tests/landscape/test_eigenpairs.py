"""Extreme eigenpairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from landscape_points import DECAY, FREE, flat, minimizer, origin, random_state, stacked
from tolerances import rounding

import nc_jax as nc
from nc_jax import landscape

ZHU = nc.zhu(4, 6, 5, FREE)


def dense_end(problem, state, num, end):
    values = np.linalg.eigvalsh(landscape.dense_hessian(problem, state))
    if isinstance(problem, landscape.OnSphere):
        values = np.delete(values, np.abs(values).argmin())  # the normal
    return values[:num] if end == "smallest" else values[::-1][:num]


@pytest.mark.parametrize("end", ["smallest", "largest"])
@pytest.mark.parametrize("place", ["origin", "minimum", "random", "sphere"])
def test_extreme_eigenpairs_are_those_of_the_dense_matrix(place, end):
    # Multiplicities of 18 at the origin and of 13 at the minimum included.
    on_sphere = place == "sphere"
    problem = nc.ulpm(4, 6, 5) if on_sphere else ZHU
    domain = landscape.OnSphere(problem) if on_sphere else problem
    state = {
        "origin": lambda: origin(problem),
        "minimum": lambda: minimizer(problem),
        "random": lambda: random_state(problem, 1),
        "sphere": lambda: random_state(problem, 1),
    }[place]()
    num = 20 if place == "origin" else 4
    found = landscape.extreme_eigenpairs(domain, state, num=num, end=end)
    expected = dense_end(domain, state, num, end)
    assert found.converged
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-8)
    hessian = np.asarray(landscape.dense_hessian(domain, state))
    on_host = jax.tree.map(np.asarray, found.vectors)
    vectors = np.stack([flat(jax.tree.map(lambda x, i=i: x[i], on_host)) for i in range(num)])
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(num), atol=rounding())
    residuals = np.linalg.norm(
        vectors @ hessian - np.asarray(found.values)[:, None] * vectors, axis=1
    )
    np.testing.assert_allclose(found.residuals, residuals, rtol=1e-3, atol=rounding())
    # An eigenvalue lies within the residual of each value.
    assert np.all(np.abs(found.values - expected) <= found.residuals + rounding())


@pytest.mark.slow
def test_eigenvalues_of_two_thousand_variables_are_those_of_the_dense_matrix():
    problem = nc.zhu(10, 18, 10, DECAY)
    state = random_state(problem, 3, norm=6.0)
    assert flat(state).size == 1990
    expected = np.linalg.eigvalsh(landscape.dense_hessian(problem, state))
    smallest = landscape.extreme_eigenpairs(problem, state, num=5)
    largest = landscape.extreme_eigenpairs(problem, state, num=5, end="largest")
    assert smallest.converged
    assert largest.converged
    np.testing.assert_allclose(smallest.values, expected[:5], rtol=0, atol=1e-8)
    np.testing.assert_allclose(largest.values, expected[::-1][:5], rtol=0, atol=1e-8)


def test_a_small_basis_converges_with_more_products():
    state = random_state(ZHU, 4)
    small = landscape.extreme_eigenpairs(ZHU, state, num=1, basis_size=8)
    large = landscape.extreme_eigenpairs(ZHU, state, num=1)
    np.testing.assert_allclose(small.values, large.values, rtol=0, atol=1e-8)
    assert small.converged
    assert small.num_products > large.num_products


def test_a_search_cut_short_says_so_and_keeps_its_residual():
    state = random_state(ZHU, 4)
    cut = landscape.extreme_eigenpairs(ZHU, state, num=1, basis_size=4, max_restarts=2)
    assert not cut.converged
    error = abs(float(cut.values[0]) - dense_end(ZHU, state, 1, "smallest")[0])
    assert 1e-8 < error <= float(cut.residuals[0])


def test_all_eigenpairs_can_be_asked_for():
    problem = nc.ulpm(2, 2, 1)
    state = random_state(problem, 0)
    found = landscape.extreme_eigenpairs(problem, state, num=8)
    np.testing.assert_allclose(found.values, dense_end(problem, state, 8, "smallest"), atol=1e-12)


def test_memory_is_the_basis_and_a_dozen_vectors():
    problem = nc.zhu(10, 100, 99, DECAY)
    state = random_state(problem, 0)
    size = flat(state).size

    def run(state):
        return landscape.extreme_eigenpairs(problem, state, num=1, basis_size=24)

    memory = jax.jit(run).lower(state).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes / 8 / size < 24 + 16


def test_eigenpairs_under_vmap_are_those_of_single_states():
    states = [random_state(ZHU, seed) for seed in range(3)]
    search = jax.jit(jax.vmap(lambda s: landscape.extreme_eigenpairs(ZHU, s, num=2)))
    batch = search(stacked(states))
    for i, state in enumerate(states):
        expected = dense_end(ZHU, state, 2, "smallest")
        np.testing.assert_allclose(batch.values[i], expected, rtol=0, atol=1e-8)


def test_eigenpairs_of_float32_states_are_float32_and_converge_to_its_precision():
    state = jax.tree.map(lambda x: x.astype("float32"), random_state(ZHU, 1))
    found = landscape.extreme_eigenpairs(ZHU, state, num=2)
    assert found.values.dtype == jnp.float32
    assert found.converged
    np.testing.assert_allclose(
        found.values, dense_end(ZHU, random_state(ZHU, 1), 2, "smallest"), atol=1e-5
    )


def test_a_change_of_state_does_not_compile_anew():
    traces = []

    class Counting(nc.UnconstrainedFeatures):
        def scaled_descent(self, state, log_scale):
            traces.append(1)
            return super().scaled_descent(state, log_scale)

    problem = Counting(
        (2, 2, 2),
        3,
        loss=nc.CrossEntropy(),
        reduction="sum",
        bias=False,
        weight_decay=nc.WeightDecay(),
    )
    landscape.extreme_eigenpairs(problem, random_state(problem, 0))
    first = len(traces)
    landscape.extreme_eigenpairs(problem, random_state(problem, 1))
    assert len(traces) == first > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda s: landscape.extreme_eigenpairs(ZHU, s, num=0),
            "num = 0: give an integer from 1 to 148",
        ),
        (lambda s: landscape.extreme_eigenpairs(ZHU, s, num=149), "num = 149"),
        (
            lambda s: landscape.extreme_eigenpairs(ZHU, s, num=5, basis_size=5),
            "basis_size = 5: .* 7",
        ),
    ],
)
def test_invalid_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_state(ZHU, 0))
