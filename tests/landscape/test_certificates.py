"""Certificates: KKT points of the margin problem, and global optimality by duality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, strategies as st
from jax.flatten_util import ravel_pytree
from landscape_points import DECAY, FREE, flat, moved, origin, random_state, saddles
from tolerances import rounding

import nc_jax as nc
from nc_jax import landscape

ULPM = nc.ulpm(4, 5, 3)
KKT = jax.jit(lambda state: landscape.kkt_certificate(ULPM, state))


def near_collapse(problem, seed, gap, distance):
    """A separated state at a distance from a collapsed one, relative to its norm."""
    state = nc.exact.collapsed_state(problem, gap, key=jax.random.key(seed))
    noise = random_state(problem, seed, norm=1.0)
    return moved(state, noise, distance * float(jnp.sqrt(state.squared_norm())))


def constraint_gradients(problem, state):
    """s_kij with its gradient at a state, by autodiff; only j other than the label."""

    def margins(state):
        logits = state.logits()
        at_label = logits[np.arange(problem.num_samples), problem.labels]
        return at_label[:, None] - logits

    return margins(state), jax.jacobian(margins)(state)


@given(seed=st.integers(0, 1000), gap=st.floats(3, 400), distance=st.floats(1e-3, 0.1))
def test_kkt_residuals_are_those_of_the_definition_and_under_the_bounds_of_lemma_b1(
    seed, gap, distance
):
    state = near_collapse(ULPM, seed, gap, distance)
    found = KKT(state)
    margins, gradients = constraint_gradients(ULPM, found.point)
    combined = jax.tree.map(
        lambda x, g: x - jnp.tensordot(found.multipliers, g, axes=2), found.point, gradients
    )
    np.testing.assert_allclose(found.epsilon, np.linalg.norm(flat(combined)), rtol=1e-6)
    wrong = ULPM.labels[:, None] != np.arange(4)
    slack = np.where(wrong, margins - 1, 0)
    assert np.all(np.asarray(found.multipliers) >= 0)
    assert np.all(np.asarray(found.multipliers)[~wrong] == 0)
    np.testing.assert_allclose(np.where(wrong, margins, 9).min(), 1, rtol=rounding())  # feasible
    np.testing.assert_allclose(found.delta, np.sum(found.multipliers * slack), rtol=1e-6, atol=1e-9)
    if jnp.isfinite(found.epsilon_bound):
        assert found.epsilon <= found.epsilon_bound * (1 + 1e-9)
        assert found.delta <= found.delta_bound
    assert found.holds(1.01 * float(found.epsilon), 1.01 * float(found.delta))
    assert not found.holds(0.99 * float(found.epsilon), 1.0)


@given(seed=st.integers(0, 1000), gap=st.floats(3, 600), distance=st.floats(1e-6, 0.1))
def test_kkt_residual_follows_from_the_angle_of_state_and_gradient(seed, gap, distance):
    # Lemma B.1: ‖θ - Σ λ ∇s‖² = 2(1 - β) ρ²/q_min, β the cosine of θ and -∇L.
    state = near_collapse(ULPM, seed, gap, distance)
    gradient = flat(ULPM.scaled_descent(state, gap))
    unit = gradient / np.linalg.norm(gradient) - flat(state) / np.linalg.norm(flat(state))
    margin = float(nc.metrics.margin_metrics(state, ULPM.labels)["margin_min"])
    # ‖a - b‖² = 2(1 - β) for unit vectors.
    expected = np.linalg.norm(unit) * np.linalg.norm(flat(state)) / np.sqrt(margin)
    np.testing.assert_allclose(KKT(state).epsilon, expected, rtol=1e-6)


def test_kkt_at_collapse_has_the_multipliers_of_corollary_3_1():
    value, state, multipliers = nc.exact.separation_optimum(ULPM, key=jax.random.key(0))
    for scale in (1.0, 30.0):  # a gap of 900, where the loss is 0 in floats beyond 745
        found = KKT(jax.tree.map(lambda x, s=scale: s * x, state))
        np.testing.assert_allclose(found.multipliers, multipliers, rtol=1e-9)
        np.testing.assert_allclose(found.point.squared_norm() / 2, value, rtol=rounding())
        # Logits of 900 are right to 900 roundings.
        assert found.epsilon < rounding(operations=10_000)
        assert found.delta < rounding(operations=10_000)


def test_kkt_holds_at_example_3_1_in_the_limit_and_not_beside_it():
    # Example 3.1 is a KKT point; its own multipliers tend to those of the paper as q grows.
    problem = nc.ulpm(4, 4, 1)
    ray = jax.tree.map(lambda x: 20 * x, nc.exact.example_3_1())
    found = landscape.kkt_certificate(problem, ray)
    np.testing.assert_allclose(
        found.multipliers, nc.exact.example_3_1_multipliers(), atol=rounding()
    )
    assert found.holds(1e-12, 1e-12)
    for alpha in (1e-3, 0.1):
        beside = jax.tree.map(lambda x: 20 * x, nc.exact.example_3_1(alpha))
        assert not landscape.kkt_certificate(problem, beside).holds(1e-4, 1e-4)


def test_kkt_residuals_are_infinite_without_separation():
    state = near_collapse(ULPM, 0, 5.0, 0.01)
    one_wrong = nc.LastLayer(state.features.at[0].multiply(-1), state.classifier)
    found = KKT(one_wrong)
    assert found.epsilon == found.delta == found.epsilon_bound == found.delta_bound == jnp.inf
    assert not found.holds(1e6, 1e6)
    # Separated, but with a loss above log 2: measured, without the bounds of the lemma.
    barely = KKT(near_collapse(ULPM, 0, 0.1, 0.0))
    assert jnp.isfinite(barely.epsilon)
    assert barely.epsilon_bound == jnp.inf


def test_kkt_residuals_fall_along_the_flow():
    def observe(state):
        found = landscape.kkt_certificate(ULPM, state)
        return {
            "epsilon": found.epsilon, "epsilon bound": found.epsilon_bound,
            "delta": found.delta, "delta bound": found.delta_bound,
        }  # fmt: skip

    flow = nc.gradient_flow(
        ULPM, ULPM.init(jax.random.key(3)), nc.log_times(1000, 5, start_log10=200), observe=observe
    )
    recorded = flow.observables
    for name in ("epsilon", "delta"):
        assert jnp.all(jnp.diff(recorded[name]) < 0)
        assert jnp.all(recorded[name] <= recorded[f"{name} bound"])
    assert jnp.all(
        recorded["epsilon"] > 0.9 * recorded["epsilon bound"]
    )  # the first bound is sharp
    # 1 - β is of size 1/log t.
    np.testing.assert_allclose(flow.decay_exponent("epsilon", 200 * np.log(10)), -0.5, atol=0.02)


@pytest.mark.parametrize("problem", [nc.zhu(3, 3, 1, 0.1), nc.mixon(3, 3, 1)])
def test_kkt_certificate_refuses_all_but_plain_cross_entropy(problem):
    with pytest.raises(ValueError, match="Ji's theorems are of cross-entropy without bias"):
        landscape.kkt_certificate(problem, random_state(problem, 0))


PENALISED = {
    "free bias": nc.zhu(4, 5, 3, FREE),
    "decayed bias": nc.zhu(4, 5, 3, DECAY),
    "no bias, summed": nc.UnconstrainedFeatures(
        (3, 3, 3, 3), 5, reduction="sum", weight_decay=nc.WeightDecay(classifier=0.1, features=0.2)
    ),
    "unbalanced": nc.UnconstrainedFeatures(
        (1, 5, 2), 3, bias=True, weight_decay=nc.WeightDecay(classifier=0.02, features=0.03)
    ),
    "squared error": nc.UnconstrainedFeatures(
        (2, 3, 2),
        3,
        loss=nc.SquaredError(),
        bias=True,
        weight_decay=nc.WeightDecay(classifier=0.02, features=0.03),
    ),
    "squared error, decayed bias": nc.UnconstrainedFeatures(
        (2, 3, 2),
        3,
        loss=nc.SquaredError(),
        bias=True,
        weight_decay=nc.WeightDecay(classifier=0.02, features=0.03, bias=0.1),
    ),
}
BOUND = {
    name: jax.jit(lambda state, problem=problem: landscape.global_certificate(problem, state))
    for name, problem in PENALISED.items()
}
LOSS = {name: jax.jit(problem.objective) for name, problem in PENALISED.items()}


@pytest.mark.parametrize("name", PENALISED)
@given(seeds=st.tuples(st.integers(0, 500), st.integers(0, 500)), norm=st.floats(0.05, 6))
def test_the_dual_bound_is_below_every_state(name, seeds, norm):
    problem = PENALISED[name]
    certificate = BOUND[name](random_state(problem, seeds[0], norm))
    other = random_state(problem, seeds[1], 6 - norm)
    assert certificate.lower_bound <= LOSS[name](other)
    assert certificate.lower_bound <= LOSS[name](origin(problem))
    assert certificate.gap >= -rounding()


@pytest.mark.parametrize("name", PENALISED)
def test_the_gap_closes_at_a_minimum_reached_by_an_independent_solver(name):
    problem = PENALISED[name]
    start, unravel = ravel_pytree(random_state(problem, 0, norm=1.0))
    value_and_gradient = jax.jit(jax.value_and_grad(lambda v: problem.objective(unravel(v))))
    found = scipy.optimize.minimize(
        lambda v: tuple(map(np.asarray, value_and_gradient(v))), start, jac=True,
        method="L-BFGS-B", options={"maxiter": 20_000, "ftol": 1e-16, "gtol": 1e-11},
    )  # fmt: skip
    minimum = unravel(jnp.asarray(found.x))
    # The gap is of first order in the distance that the solver leaves.
    assert BOUND[name](minimum).holds(1e-6)
    # A near miss does not deserve it: the bound cannot rise above the minimum.
    off = moved(minimum, random_state(problem, 1, norm=1.0), 0.05)
    assert not BOUND[name](off).holds(1e-4)
    assert BOUND[name](off).lower_bound <= found.fun + rounding()


def test_at_a_critical_point_the_spectral_norm_decides():
    problem = nc.zhu(4, 5, 3, FREE)
    minimum = landscape.global_certificate(problem, nc.exact.regularized_minimizer(problem))
    np.testing.assert_allclose(minimum.spectral_norm, minimum.threshold, rtol=rounding())
    assert minimum.holds(1e-14)
    for state in [origin(problem), *saddles(problem).values()]:
        certificate = landscape.global_certificate(problem, state)
        assert certificate.spectral_norm > 1.5 * certificate.threshold
        # Never above the minimum, which is below the saddle.
        minimum_value = float(nc.exact.regularized_minimum(problem))
        assert certificate.lower_bound <= minimum_value + 1e-14
        assert certificate.gap >= problem.objective(state) - minimum_value - 1e-14 > 1e-3


SPHERE = jax.jit(lambda state: landscape.global_certificate(landscape.OnSphere(ULPM), state))


@given(seed=st.integers(0, 1000), radius=st.floats(0.5, 8))
def test_on_the_sphere_the_bound_is_that_of_theorem_3_3(seed, radius):
    least, optimum = nc.exact.sphere_optimum(ULPM, radius, key=jax.random.key(seed))
    assert abs(SPHERE(optimum).gap) < 1e-12
    np.testing.assert_allclose(
        SPHERE(optimum).spectral_norm, SPHERE(optimum).threshold, rtol=rounding()
    )
    state = random_state(ULPM, seed)
    state = jax.tree.map(lambda x: x * radius / jnp.sqrt(state.squared_norm()), state)
    certificate = SPHERE(state)
    assert certificate.lower_bound <= least + 1e-12
    assert certificate.gap >= ULPM.objective(state) - least - 1e-12
    off = moved(optimum, state, 0.02)
    assert not SPHERE(off).holds(1e-7)


@pytest.mark.parametrize(("dtype", "gap"), [("float64", 600.0), ("float32", 60.0)])
def test_the_bound_stays_one_where_squares_underflow(dtype, gap):
    problem = nc.ulpm(4, 4, 1)
    saddle = jax.tree.map(lambda x: (np.sqrt(gap / 2) * x).astype(dtype), nc.exact.example_3_1())
    found = landscape.global_certificate(landscape.OnSphere(problem), saddle)
    assert not found.holds(0.0)
    assert found.lower_bound < problem.objective(saddle)
    np.testing.assert_allclose(found.spectral_norm / found.threshold, 2, rtol=1e-4)


def test_a_loss_that_has_underflowed_proves_nothing():
    saddle = nc.exact.paired_saddle(ULPM, radius=1000.0)
    assert ULPM.objective(saddle) == 0
    assert not SPHERE(saddle).holds(1.0)


def test_anti_collapse_is_no_minimum_though_the_norms_agree():
    state = nc.exact.collapsed_state(ULPM, 2.0)
    state = nc.LastLayer(-state.features, state.classifier)
    found = SPHERE(state)
    assert found.threshold == 0 < found.spectral_norm
    assert found.gap > 1


def test_a_certificate_on_a_sphere_refuses_weight_decay():
    with pytest.raises(ValueError, match="OnSphere: the problem has weight decay"):
        landscape.global_certificate(
            landscape.OnSphere(PENALISED["free bias"]), origin(PENALISED["free bias"])
        )
