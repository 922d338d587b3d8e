"""Ji's landscape on the sphere: the largest margin and the least loss."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from exact.minimizers import lowest_of
from tolerances import integration, rounding

import nc_jax as nc

KEY = jax.random.key(4)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("shape", [(3, 4, 2), (4, 4, 1), (4, 3, 2)])
def test_the_optimum_on_the_sphere_is_what_lbfgs_finds_from_100_starts(shape):
    problem, radius = nc.ulpm(*shape), 3.0

    def on_sphere(state):
        factor = radius / jnp.sqrt(state.squared_norm())
        return problem.objective(jax.tree.map(lambda x: factor * x, state))

    least, state = nc.exact.sphere_optimum(problem, radius, key=KEY)
    found = lowest_of(on_sphere, problem, 100)
    assert np.all(found > least - 1e-8)
    assert np.mean(np.abs(found - least) < 1e-8) > 0.95
    np.testing.assert_allclose(state.squared_norm(), radius**2, rtol=rounding())
    np.testing.assert_allclose(problem.objective(state), least, rtol=rounding())


def test_too_few_dimensions_stay_above_the_optimum():
    # d >= K-1 is needed: K = 4, d = 2 at ρ = 3.
    problem = nc.ulpm(4, 2, 1)

    def on_sphere(state):
        factor = 3 / jnp.sqrt(state.squared_norm())
        return problem.objective(jax.tree.map(lambda x: factor * x, state))

    assert (
        lowest_of(on_sphere, problem, 20).min()
        > nc.exact.sphere_optimum(nc.ulpm(4, 3, 1), 3.0)[0] + 0.1
    )


@pytest.mark.parametrize("shape", [(2, 1, 1), (3, 2, 4), (4, 6, 2), (6, 5, 3)])
@pytest.mark.parametrize("radius", [0.1, 3.0, 20.0])
def test_the_margin_bound_is_attained_at_the_optimum_alone(shape, radius):
    problem = nc.ulpm(*shape)
    classes, _, size = shape
    bound = nc.exact.max_margin_bound(problem, radius)
    _, state = nc.exact.sphere_optimum(problem, radius)
    margin = nc.metrics.margin_metrics(state, problem.labels)["margin_min"]
    np.testing.assert_allclose(margin, bound, rtol=rounding())
    np.testing.assert_allclose(
        bound, radius**2 / (2 * (classes - 1) * math.sqrt(size)), rtol=rounding()
    )
    # Unequal norms, or a common offset of the features, fall short on the same sphere.
    for other in (
        nc.LastLayer(1.3 * state.features, state.classifier),
        nc.LastLayer(state.features + 0.3 * radius, state.classifier),
    ):
        ratio = radius / jnp.sqrt(other.squared_norm())
        other = jax.tree.map(lambda x, ratio=ratio: ratio * x, other)
        margin = nc.metrics.margin_metrics(other, problem.labels)["margin_min"]
        assert margin < bound * (1 - 1e-4)


def test_the_separation_problem_has_the_value_of_an_independent_solver():
    problem = nc.ulpm(3, 2, 2)
    value, state, multipliers = nc.exact.separation_optimum(problem, key=KEY)
    np.testing.assert_allclose(value, 2 * math.sqrt(2))
    np.testing.assert_allclose(state.squared_norm() / 2, value, rtol=rounding())
    wrong = problem.labels[:, None] != np.arange(3)

    def margins(vector):
        classifier, features = vector[:6].reshape(3, 2), vector[6:].reshape(6, 2)
        logits = features @ classifier.T
        return (logits[np.arange(6), problem.labels][:, None] - logits)[wrong] - 1

    best = min(
        scipy.optimize.minimize(
            lambda v: v @ v / 2, np.random.default_rng(seed).normal(size=18), jac=lambda v: v,
            constraints={"type": "ineq", "fun": margins}, method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        ).fun
        for seed in range(10)
    )  # fmt: skip
    np.testing.assert_allclose(best, value, rtol=1e-8)
    assert multipliers.shape == (6, 3)


def test_example_3_1_has_the_loss_and_curvature_of_its_closed_form():
    problem = nc.ulpm(4, 4, 1)
    for alpha in (0.0, 0.2, -0.5, 0.7):
        state = nc.exact.example_3_1(alpha)
        np.testing.assert_allclose(state.squared_norm(), 16, rtol=rounding())
        np.testing.assert_allclose(
            problem.objective(state), nc.exact.example_3_1_loss(alpha), rtol=rounding()
        )
    loss = nc.exact.example_3_1_loss
    # By autodiff of the closed form, and of the model itself.
    curvature = jax.grad(jax.grad(lambda a: problem.objective(nc.exact.example_3_1(a))))(0.0)
    np.testing.assert_allclose(curvature, nc.exact.EXAMPLE_3_1_CURVATURE, rtol=rounding())
    np.testing.assert_allclose(jax.grad(jax.grad(loss))(0.0), curvature, rtol=rounding())
    assert abs(jax.grad(loss)(0.0)) < rounding()
    # Half way is neural collapse, the least on the sphere.
    np.testing.assert_allclose(loss(0.5), nc.exact.sphere_optimum(problem, 4.0)[0], rtol=rounding())
    half = nc.exact.example_3_1(0.5)
    gram = half.classifier @ half.classifier.T
    np.testing.assert_allclose(gram, 2 * (4 * np.eye(4) - 1) / 3, atol=rounding())
    # Below its start up to |α| = 0.88144.
    assert loss(0.8814) < loss(0.0) < loss(0.8815)


def test_example_3_1_is_critical_with_its_multipliers():
    state = nc.exact.example_3_1()
    scaled = jax.tree.map(lambda x: x / math.sqrt(2), state)  # margin 1
    multipliers = np.asarray(nc.exact.example_3_1_multipliers())
    logits = np.asarray(scaled.logits())
    margins = np.diag(logits)[:, None] - logits
    assert margins[~np.eye(4, dtype=bool)].min() == pytest.approx(1)
    np.testing.assert_allclose(multipliers * (margins - 1), 0, atol=rounding())
    # W = Σ λ_ij (e_i - e_j) h_iᵀ, h_i = Σ_j λ_ij (w_i - w_j).
    balance = np.diag(multipliers.sum(axis=1)) - multipliers
    np.testing.assert_allclose(balance.T @ scaled.features, scaled.classifier, atol=rounding())
    np.testing.assert_allclose(balance @ scaled.classifier, scaled.features, atol=rounding())


def test_a_flow_from_example_3_1_stays_on_its_ray_and_follows_the_closed_form():
    problem = nc.ulpm(4, 4, 1)
    times = nc.log_times(1e4, 9, start_log10=0)
    flow = nc.gradient_flow(
        problem,
        nc.exact.example_3_1(),
        np.log1p(times),
        clock=nc.LogLogTime(),
        solver=nc.RKC(),
        rtol=1e-8,
        save_states=True,
    )
    shape = np.asarray(nc.exact.example_3_1().classifier)
    for name in ("classifier", "features"):
        states = np.asarray(getattr(flow.states, name))
        size = np.abs(states).max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(states / size, np.broadcast_to(shape, states.shape), atol=1e-12)
    # q' = 4q/(e^q + 1) is that of two classes.
    expected = nc.exact.collapsed_gap(nc.ulpm(2, 1, 1), 2.0, times)
    np.testing.assert_allclose(
        flow.observables["margin_min"], expected, rtol=10 * integration(1e-8)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.exact.max_margin_bound(nc.ulpm(3, 4, 1), -1.0), "radius = -1"),
        (lambda: nc.exact.max_margin_bound(nc.zhu(3, 4, 1, 0.1), 1.0), "problem has a bias"),
        (lambda: nc.exact.sphere_optimum(nc.ulpm(4, 2, 1), 1.0), "feature_dim = 2"),
        (
            lambda: nc.exact.sphere_optimum(nc.UnconstrainedFeatures((2, 3), 4), 1.0),
            r"class_sizes = \(2, 3\)",
        ),
        (
            lambda: nc.exact.sphere_optimum(
                nc.UnconstrainedFeatures((2, 2), 4, loss=nc.SquaredError()), 1.0
            ),
            "Ji's theorems are of cross-entropy without bias",
        ),
    ],
)
def test_what_has_no_closed_form_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
