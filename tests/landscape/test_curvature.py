"""Curvatures of functions that are no problems."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from tolerances import rounding

import nc_jax as nc
from nc_jax import landscape

ROWS = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)))  # 3 batches of 4 samples
STATE = {
    "scale": jnp.asarray(np.random.default_rng(1).normal(size=5)),
    "shift": jnp.asarray([0.3, -0.7]),
}


def outputs(state, rows):
    """Two numbers for each row, of degree two in the state."""
    along = rows @ state["scale"]
    return jnp.stack([along * state["shift"][0], along**2 + state["shift"][1]], axis=1)


def loss(values, rows):
    return jnp.sum(jnp.log1p(values**2))


def function(state, rows):
    return loss(outputs(state, rows), rows)


HESSIAN = landscape.HessianOf(function, (ROWS,))
GAUSS_NEWTON = landscape.GaussNewtonOf(outputs, loss, (ROWS,))


def vector(state):
    return ravel_pytree(state)[0]


def expected(kind):
    """The dense matrix, from JAX's second derivatives of the function of all rows."""
    flat, unravel = ravel_pytree(STATE)
    rows = ROWS.reshape(-1, 5)
    if kind == "hessian":
        return np.asarray(jax.hessian(lambda x: function(unravel(x), rows))(flat))
    jacobian = jax.jacobian(lambda x: outputs(unravel(x), rows).ravel())(flat)
    values = outputs(STATE, rows)
    of_loss = jax.hessian(lambda z: loss(z.reshape(values.shape), rows))(values.ravel())
    return np.asarray(jacobian.T @ of_loss @ jacobian)


@pytest.mark.parametrize(("kind", "curvature"), [("hessian", HESSIAN), ("gn", GAUSS_NEWTON)])
def test_products_and_matrices_are_those_of_second_derivatives(kind, curvature):
    matrix = expected(kind)
    scale = np.abs(matrix).max()
    found = landscape.dense_hessian(curvature, STATE)
    np.testing.assert_allclose(found, matrix, rtol=0, atol=rounding() * scale)
    direction = jax.tree.map(lambda x: x + 1, STATE)
    product = landscape.hessian_vector_product(curvature, STATE, direction)
    np.testing.assert_allclose(
        vector(product), matrix @ vector(direction), rtol=0, atol=10 * rounding() * scale
    )
    values = np.linalg.eigvalsh(matrix)
    largest = landscape.extreme_eigenpairs(curvature, STATE, num=3, end="largest")
    np.testing.assert_allclose(largest.values, values[::-1][:3], rtol=0, atol=1e-8 * scale)
    smallest = landscape.extreme_eigenpairs(curvature, STATE, num=2)
    np.testing.assert_allclose(smallest.values, values[:2], rtol=0, atol=1e-8 * scale)
    sharpness = landscape.sharpness(curvature, STATE)
    np.testing.assert_allclose(sharpness, values[-1], rtol=0, atol=1e-8 * scale)


@pytest.mark.parametrize(
    "of",
    [
        lambda batches: landscape.HessianOf(function, batches),
        lambda batches: landscape.GaussNewtonOf(outputs, loss, batches),
    ],
    ids=["hessian", "gn"],
)
def test_batches_do_not_change_the_sum(of):
    direction = jax.tree.map(lambda x: x**2, STATE)
    found = [
        landscape.hessian_vector_product(of((ROWS.reshape(-1, size, 5),)), STATE, direction)
        for size in (1, 2, 6, 12)
    ]
    for product in found[1:]:
        np.testing.assert_allclose(vector(product), vector(found[0]), rtol=rounding())


def test_a_function_of_the_state_alone_needs_no_batches():
    curvature = landscape.HessianOf(lambda x: jnp.sum(x**4) / 12)
    state = jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(landscape.dense_hessian(curvature, state), np.diag(state**2))
    found = landscape.extreme_eigenpairs(curvature, state, num=3)
    np.testing.assert_allclose(found.values, [1, 4, 9], atol=1e-8)


def test_a_problem_and_its_objective_have_the_same_spectrum():
    problem = nc.zhu(3, 4, 2, 5e-3)
    state = problem.init(jax.random.key(0))
    curvature = landscape.HessianOf(problem.objective)
    np.testing.assert_allclose(
        landscape.dense_hessian(curvature, state),
        landscape.dense_hessian(problem, state),
        rtol=0,
        atol=rounding(),
    )
    scaled = landscape.dense_hessian(curvature, state, log_scale=np.log(3.0))
    expected = 3 * landscape.dense_hessian(problem, state)
    np.testing.assert_allclose(scaled, expected, rtol=0, atol=rounding())


def test_trace_is_that_of_the_matrix_within_its_error():
    matrix = expected("hessian")
    found = landscape.spectral_density(HESSIAN, STATE, jax.random.key(0), num_probes=200)
    # Four standard errors of a mean over 200 seeded probes.
    assert abs(float(found.trace) - np.trace(matrix)) < 4 * float(found.trace_error)
    # For Gaussian probes scaled to length 1 in n dimensions the variance of vᵀAv is 2(n ‖A‖² −
    # (tr A)²)/(n²(n + 2)); n times its root over √200 is the standard error.
    size = len(matrix)
    variance = 2 * (size * np.sum(matrix**2) - np.trace(matrix) ** 2) / (size + 2)
    np.testing.assert_allclose(found.trace_error, np.sqrt(variance / 200), rtol=0.2)


def test_sharpness_of_a_search_without_an_end_is_nan(monkeypatch):
    rows = jnp.asarray(np.random.default_rng(2).normal(size=(1, 200, 60)))
    curvature = landscape.HessianOf(lambda x, rows: jnp.sum((rows @ x) ** 2), (rows,))
    cut = landscape.extreme_eigenpairs(
        curvature, jnp.zeros(60), end="largest", max_restarts=1, basis_size=4
    )
    assert not cut.converged
    monkeypatch.setattr(landscape.eigenpairs, "extreme_eigenpairs", lambda *_, **__: cut)
    assert np.isnan(landscape.sharpness(curvature, jnp.zeros(60)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: landscape.HessianOf(function, (ROWS, ROWS[:2])),
            r"batches have arrays of shapes \(3, 4, 5\), \(2, 4, 5\): give the same number",
        ),
        (lambda: landscape.HessianOf(function, (jnp.zeros(()),)), r"arrays of shapes \(\)"),
        (lambda: landscape.HessianOf(function, (jnp.zeros((0, 2)),)), r"1 or more"),
        (
            lambda: landscape.dense_hessian(landscape.HessianOf(lambda x: x), jnp.ones(2)),
            r"function returns an array of shape \(2,\) and dtype float64: return one real number",
        ),
        (
            lambda: landscape.dense_hessian(
                landscape.GaussNewtonOf(lambda x: x, lambda z: z), jnp.ones(2)
            ),
            "loss returns an array of shape",
        ),
        (lambda: landscape.sharpness(HESSIAN, {}), "state has no arrays"),
        (lambda: landscape.sharpness(HESSIAN, {"scale": "a"}), "state: .* is of type"),
        (
            lambda: landscape.hessian_vector_product(HESSIAN, STATE, jnp.ones(7)),
            "direction is of type",
        ),
    ],
)
def test_invalid_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
