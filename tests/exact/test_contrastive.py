"""Minima of the supervised contrastive loss, against L-BFGS, and the rate against the Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from tolerances import integration, rounding

import nc_jax as nc
from nc_jax.geometry import cosines, unit_rows
from nc_jax.problems import ContrastiveFeatures

KEY = jax.random.key(3)
MODELS = {
    "K = 4, d = K - 1": ContrastiveFeatures((3,) * 4, 3, temperature=0.5),
    "K = 3, d > K": ContrastiveFeatures((4,) * 3, 5, temperature=0.3),
    "K = 2, n = 2": ContrastiveFeatures((2, 2), 2, temperature=1.0),
    ">= 0, unequal": ContrastiveFeatures((6, 3, 2), 3, temperature=0.5, nonnegative=True),
    ">= 0, d > K": ContrastiveFeatures((2, 5, 2, 3), 6, temperature=0.8, nonnegative=True),
}


@pytest.mark.parametrize(
    ("problem", "value"),
    [("K = 4, d = K - 1", 0.9652146246), (">= 0, unequal", 1.3989839449)],
)
def test_the_least_value_is_that_of_the_closed_form(problem, value):
    assert abs(float(nc.exact.contrastive_minimum(MODELS[problem])) - value) < 1e-10


def least_values(problem, starts):
    """Values at which SciPy's L-BFGS-B ends, over rows of any norm, >= 0 if the problem is."""
    shape = problem.state_shapes().shape
    of_rows = jax.jit(
        jax.value_and_grad(lambda flat: problem.objective(unit_rows(flat.reshape(shape))))
    )

    def run(seed):
        start = np.asarray(problem.init(jax.random.key(seed))).ravel()
        return scipy.optimize.minimize(
            lambda flat: tuple(map(np.asarray, of_rows(flat))), start, jac=True,
            method="L-BFGS-B", bounds=[(0 if problem.nonnegative else None, None)] * start.size,
            options={"ftol": 1e-16, "gtol": 1e-9},
        ).fun  # fmt: skip

    return np.array([run(seed) for seed in range(starts)])


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", MODELS)
def test_lbfgs_from_many_starts_finds_the_least_value_and_none_below(name):
    problem = MODELS[name]
    least = float(nc.exact.contrastive_minimum(problem))
    found = least_values(problem, 8)
    assert np.all(found > least - 1e-12)
    assert np.min(found) < least + 1e-9
    assert np.mean(found < least + 1e-7) > 0.5
    state = nc.exact.contrastive_minimizer(problem, key=KEY)
    np.testing.assert_allclose(problem.objective(state), least, rtol=rounding())
    assert np.abs(problem.gradient(state)).max() < rounding()
    # A state beside the minimum is neither at rest nor as low.
    noise = 0.01 * jax.random.normal(KEY, state.shape)
    beside = problem.retract(state + noise)
    assert problem.objective(beside) > least + 1e-7
    assert jnp.abs(problem.gradient(beside)).max() > 1e-4


def test_class_vectors_are_a_simplex_or_an_orthogonal_frame():
    simplex = nc.exact.contrastive_minimizer(MODELS["K = 3, d > K"])[::4]
    np.testing.assert_allclose(cosines(simplex), 1.5 * np.eye(3) - 0.5, atol=rounding())
    problem = MODELS[">= 0, d > K"]
    state = nc.exact.contrastive_minimizer(problem, key=KEY)
    assert jnp.min(state) == 0
    assert problem.observe(state)["feature_orthogonality_gap"] == 0


def test_more_negative_features_are_better_and_a_wider_temperature_is_worse():
    """A constraint raises the least value, and so does a higher temperature."""
    free = ContrastiveFeatures((3, 3, 3), 3, temperature=0.5)
    constrained = ContrastiveFeatures((3, 3, 3), 3, temperature=0.5, nonnegative=True)
    assert nc.exact.contrastive_minimum(constrained) > nc.exact.contrastive_minimum(free)

    def least(temperature):
        return nc.exact.contrastive_minimum(
            ContrastiveFeatures((3, 3, 3), 3, temperature=temperature)
        )

    values = jax.jit(jax.vmap(least))(jnp.array([1e-3, 0.1, 1.0, 10.0]))
    assert np.all(np.diff(values) > 0)
    # All samples of the class have equal probability, and all others none.
    np.testing.assert_allclose(values[0], np.log(2), rtol=rounding())


@pytest.mark.parametrize(
    ("classes", "size", "dim", "temperature"),
    # The rate is the second, the third, and twice the first of its three expressions.
    [(4, 3, 3, 0.5), (3, 2, 2, 0.7), (2, 2, 3, 0.5), (4, 2, 4, 0.5)],
)
def test_the_rate_is_the_least_nonzero_eigenvalue_of_the_hessian(classes, size, dim, temperature):
    problem = ContrastiveFeatures((size,) * classes, dim, temperature=temperature)
    state = nc.exact.contrastive_minimizer(problem)
    shape = state.shape

    def of_any_rows(flat):
        return problem.objective(unit_rows(flat.reshape(shape)))

    eigenvalues = np.linalg.eigvalsh(jax.jit(jax.hessian(of_any_rows))(state.ravel()))
    # Of norms of the rows, and of rotations that move the simplex.
    zeros = size * classes + (classes - 1) * (2 * dim - classes) // 2
    assert np.abs(eigenvalues[:zeros]).max() < 1e-13
    rate = nc.exact.contrastive_rate(problem)
    np.testing.assert_allclose(eigenvalues[zeros], rate, rtol=1e-10)


def test_the_flow_comes_to_rest_at_the_rate():
    """From a random start, late enough that the faster modes have died out."""
    problem = MODELS["K = 4, d = K - 1"]
    least, rate = (
        float(of(problem)) for of in (nc.exact.contrastive_minimum, nc.exact.contrastive_rate)
    )
    times = np.array([8.0, 12.0]) / rate
    flow = nc.Flow(problem, times, clock=nc.RealTime(), rtol=1e-11, observe=("objective",))
    found = flow(problem.init(KEY)).observables["objective"] - least
    # The loss is quadratic at the minimum: its rate is twice that of distances.
    measured = np.log(found[0] / found[1]) / (times[1] - times[0])
    assert abs(measured / (2 * rate) - 1) < 0.02


@pytest.mark.parametrize("seed", range(3))
def test_the_projected_flow_reaches_the_orthogonal_frame_whatever_the_sizes(seed):
    problem = MODELS[">= 0, unequal"]
    flow = nc.Flow(problem, np.array([100.0, 200.0]), clock=nc.RealTime(), rtol=1e-7)
    run = flow(problem.init(jax.random.key(seed)))
    least = float(nc.exact.contrastive_minimum(problem))
    # Entries overshoot 0 by the tolerance before they stop.
    bound = integration(1e-7)
    assert float(jnp.min(run.final)) > -bound
    assert abs(run.observables["objective"][-1] - least) < bound
    assert run.observables["feature_orthogonality_gap"][-1] < bound
    assert run.observables["row_norms_drift"][-1] < bound
    repaired = problem.retract(run.final)
    assert jnp.min(repaired) >= 0
    assert least - rounding() < problem.objective(repaired) < least + bound


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: nc.exact.contrastive_minimum(ContrastiveFeatures((2, 3), 2, temperature=1.0)),
            r"class_sizes = \(2, 3\): without nonnegative=True",
        ),
        (
            lambda: nc.exact.contrastive_minimizer(
                ContrastiveFeatures((2, 2, 2), 1, temperature=1.0)
            ),
            "feature_dim = 1: .* 2 dimensions",
        ),
        (
            lambda: nc.exact.contrastive_minimum(
                ContrastiveFeatures((2, 3), 1, temperature=1.0, nonnegative=True)
            ),
            "feature_dim = 1: .* 2 dimensions",
        ),
        (lambda: nc.exact.contrastive_rate(MODELS[">= 0, d > K"]), "nonnegative = True"),
        (
            lambda: nc.exact.contrastive_rate(ContrastiveFeatures((2, 2), 1, temperature=1.0)),
            "two classes on a line cannot move",
        ),
    ],
)
def test_what_has_no_closed_form_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
