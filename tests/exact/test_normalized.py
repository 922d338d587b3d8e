"""The normalised model's minimum and spectrum, against autodiff, L-BFGS and the flow."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize
from tolerances import integration, rounding

import nc_jax as nc


def model(sizes, dim, tau, **options):
    return nc.NormalizedFeatures(sizes, dim, inverse_temperature=tau, **options)


REFERENCE = model((3,) * 4, 4, 2.5)

# K, n, d, τ: the guide's size first; then d > K−1, n = 1, K = 2 and 3, τ large and small.
SIZES = [
    (4, 3, 3, 2.5),
    (4, 3, 6, 2.5),
    (5, 1, 4, 3.0),
    (5, 2, 5, 0.3),
    (2, 3, 1, 1.5),
    (2, 1, 3, 2.0),
    (3, 2, 2, 4.0),
    (6, 2, 7, 9.0),
]


@eqx.filter_jit
def hessian_of_retracted(problem, state):
    """The Hessian of L(retract(x)) at unit rows, which is the Riemannian one off the normals.

    For unit x and a tangent direction v, x + sv divided by its norm is a curve with acceleration
    −‖v‖²x, that of the great circle; along a row itself the function is constant.
    """
    flat, unravel = ravel_pytree(state)
    hessian = jax.hessian(lambda x: problem.objective(problem.retract(unravel(x))))(flat)
    # Mixed terms of a tangent and a normal direction are those of the tangential gradient, 0 here.
    return hessian


def expanded(spectrum):
    return np.sort(np.repeat(np.asarray(spectrum.values), spectrum.multiplicities))


@pytest.mark.parametrize(("classes", "size", "dim", "tau"), SIZES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_spectrum_at_collapse_is_that_of_a_dense_hessian(classes, size, dim, tau, reduction):
    problem = model((size,) * classes, dim, tau, reduction=reduction)
    state = nc.exact.normalized_minimizer(problem, key=jax.random.key(1))
    spectrum = nc.exact.normalized_spectrum(problem)
    assert spectrum.multiplicities.sum() == (size * classes + classes) * dim
    hessian = np.asarray(hessian_of_retracted(problem, state))
    found = np.linalg.eigvalsh(hessian)
    np.testing.assert_allclose(found, expanded(spectrum), atol=rounding() * max(found[-1], 1))
    of_landscape = np.linalg.eigvalsh(nc.landscape.dense_hessian(problem, state))
    np.testing.assert_allclose(of_landscape, found, atol=rounding() * max(found[-1], 1))
    smallest = np.min(found[found > 1e-9 * max(found[-1], 1e-9)], initial=np.inf)
    np.testing.assert_allclose(spectrum.rate, smallest, rtol=1e-9)


def test_the_reference_numbers_of_four_classes_of_three_samples():
    assert f"{float(nc.exact.normalized_minimum(REFERENCE)):.10f}" == "0.1016735090"
    spectrum = nc.exact.normalized_spectrum(REFERENCE)
    assert f"{float(spectrum.rate):.12f}" == "0.026854324779"
    # τKb/N with b = 1/(e^(τK/(K−1)) + K−1).
    wrong = 1 / (np.exp(2.5 * 4 / 3) + 3)
    np.testing.assert_allclose(spectrum.rate, 2.5 * 4 * wrong / 12, rtol=rounding())


@pytest.mark.parametrize(("classes", "size"), [(4, 3), (6, 2), (8, 1)])
def test_the_slowest_mode_is_symmetric_below_a_threshold_of_the_inverse_temperature(classes, size):
    """τ = n(K−1)/(3n−1), where the determinant of the symmetric matrix minus K−1 changes sign."""
    threshold = size * (classes - 1) / (3 * size - 1)
    for factor, name in ((0.97, "symmetric, smaller"), (1.03, "features off the span")):
        problem = model((size,) * classes, classes, factor * threshold)
        spectrum = nc.exact.normalized_spectrum(problem)
        of = dict(zip(spectrum.names, np.asarray(spectrum.values), strict=True))
        assert spectrum.rate == of[name]


@pytest.mark.parametrize(("classes", "size", "dim", "tau"), [(3, 2, 2, 1.0), (4, 2, 4, 6.0)])
def test_the_minimum_is_what_lbfgs_finds(classes, size, dim, tau):
    problem = model((size,) * classes, dim, tau)
    least = float(nc.exact.normalized_minimum(problem))
    state = nc.exact.normalized_minimizer(problem)
    np.testing.assert_allclose(problem.objective(state), least, rtol=rounding())
    gradient = ravel_pytree(problem.gradient(state))[0]
    assert jnp.abs(gradient).max() < rounding()
    starts = [problem.init(key) for key in jax.random.split(jax.random.key(0), 12)]
    unravel = ravel_pytree(starts[0])[1]
    value = jax.jit(jax.value_and_grad(lambda x: problem.objective(problem.retract(unravel(x)))))
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 2000}
    flat = [ravel_pytree(start)[0] for start in starts]
    found = np.array(
        [minimize(value, x, jac=True, method="L-BFGS-B", options=options).fun for x in flat]
    )
    assert np.all(found > least - 1e-12)
    assert np.mean(found < least + 1e-8) >= 0.75  # the others stop at saddles


def test_the_minimum_and_the_rate_follow_a_traced_inverse_temperature():
    def both(tau):
        problem = model((2,) * 3, 3, tau)
        return nc.exact.normalized_minimum(problem), nc.exact.normalized_spectrum(problem).rate

    taus = jnp.array([0.5, 2.0, 300.0])
    minima, rates = jax.jit(jax.vmap(both))(taus)
    for tau, minimum, rate in zip(taus, minima, rates, strict=True):
        alone = both(float(tau))
        np.testing.assert_allclose((minimum, rate), alone, rtol=rounding())
    # At τ = 300 the loss is (K−1) e^(−450).
    np.testing.assert_allclose(jnp.log(minima[-1]), np.log(2) - 450, rtol=rounding())


@pytest.mark.parametrize(("classes", "size", "dim", "tau"), [(4, 3, 4, 2.5), (5, 1, 4, 1.0)])
def test_the_flow_approaches_its_limit_at_the_rate_of_the_spectrum(classes, size, dim, tau):
    """The slope of log ‖∇L‖, which falls as the distance; the second size has a rate below r."""
    problem = model((size,) * classes, dim, tau)
    rate = float(nc.exact.normalized_spectrum(problem).rate)
    start = nc.exact.normalized_minimizer(problem)
    noise = problem.init(jax.random.key(3))
    start = problem.retract(jax.tree.map(lambda x, y: x + 0.3 * y, start, noise))
    times = np.array([13.0, 15.0]) / rate
    traj = nc.gradient_flow(
        problem, start, times, clock=nc.RealTime(), rtol=1e-12, atol=1e-14,
        observe=lambda state: {"speed": jnp.log(ravel_norm(problem.gradient(state)))},
    )  # fmt: skip
    slope = np.diff(np.asarray(traj.observables["speed"]))[0] / np.diff(times)[0]
    np.testing.assert_allclose(-slope, rate, rtol=1e-3)


def ravel_norm(tree):
    return jnp.linalg.norm(ravel_pytree(tree)[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.exact.normalized_minimizer(model((2, 3), 2, 1.0)), "sizes"),
        (lambda: nc.exact.normalized_minimum(model((2,) * 4, 2, 1.0)), "feature_dim = 2"),
        (
            lambda: nc.exact.normalized_spectrum(model((2, 2), 2, 1.0, loss=nc.SquaredError())),
            "SquaredError",
        ),
    ],
)
def test_what_the_theorem_does_not_cover_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_float32_states_and_integration_tolerances_are_consistent():
    state = nc.exact.normalized_minimizer(REFERENCE, dtype=np.float32)
    assert state.features.dtype == np.float32
    least = float(nc.exact.normalized_minimum(REFERENCE))
    np.testing.assert_allclose(REFERENCE.objective(state), least, rtol=integration(1e-6))
