"""The minimum of cross-entropy with decay and features H >= 0, and the flow to it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from exact.minimizers import lowest_with_bounds
from jax.flatten_util import ravel_pytree
from tolerances import integration, rounding

import nc_jax as nc

Nonnegative = nc.problems.NonnegativeFeatures


def nonnegative(sizes, dim, decays=(2e-3, 2e-3), **settings):
    decay = nc.WeightDecay(classifier=decays[0], features=decays[1])
    return Nonnegative(sizes, dim, weight_decay=decay, **settings)


def test_the_minimum_of_the_reference():
    problem = nonnegative((20, 10, 5, 1), 4)
    np.testing.assert_allclose(nc.exact.nonnegative_minimum(problem), 0.1125668557, atol=6e-11)
    gaps = (5.35736777, 5.00492003, 4.64997978, 3.80915987)
    np.testing.assert_allclose(nc.exact.nonnegative_gaps(problem), gaps, atol=6e-9)
    dead = nonnegative((20, 10, 5, 1), 4, (0.028, 0.028))
    np.testing.assert_allclose(nc.exact.nonnegative_minimum(dead), 0.8322892165, atol=6e-11)
    assert nc.exact.nonnegative_gaps(dead)[-1] == 0 < nc.exact.nonnegative_gaps(dead)[-2]
    value = nc.exact.nonnegative_separation_value((4, 2, 1))
    np.testing.assert_allclose(value, 3.6041902812, atol=6e-11)


def test_norms_of_the_reference():
    problem = nonnegative((20, 10, 5, 1), 6, (2e-3, 3e-3))
    state = nc.exact.nonnegative_minimizer(problem)
    gaps, sizes = np.asarray(nc.exact.nonnegative_gaps(problem)), np.array([20, 10, 5, 1])
    means = np.asarray(state.features)[[0, 20, 30, 35]]
    squares = np.sqrt(2 / 3 * 3 / 4 / sizes) * gaps
    np.testing.assert_allclose(means @ means.T, np.diag(squares), atol=rounding(operations=1000))
    assert np.all(means >= 0)
    margins = nc.metrics.sample_margins(state, problem.labels)
    np.testing.assert_allclose(margins, gaps[problem.labels], rtol=rounding())


PROBLEMS = {
    "three sizes": nonnegative((5, 2, 1), 4, (0.02, 0.03)),
    "equal sizes": nonnegative((2, 2, 2), 3, (0.05, 0.04)),
    "a class at 0": nonnegative((7, 4, 1), 5, (0.09, 0.08)),
    "summed": nonnegative((3, 1), 3, (0.3, 0.4), reduction="sum"),
    "weights": Nonnegative(
        (4, 2, 1), 4, class_weights=(0.5, 1.0, 2.0),
        weight_decay=nc.WeightDecay(classifier=0.03, features=(0.02, 0.05, 0.03)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_minimum_is_what_lbfgs_with_bounds_finds(name):
    problem = PROBLEMS[name]
    least = float(nc.exact.nonnegative_minimum(problem))
    start = problem.init(jax.random.key(0))
    found, at = lowest_with_bounds(problem.objective, start, 5, nonnegative=True)
    np.testing.assert_allclose(found, least, atol=1e-9)
    assert np.all(np.asarray(at.features) >= 0)
    state = nc.exact.nonnegative_minimizer(problem)
    np.testing.assert_allclose(problem.objective(state), least, rtol=rounding())


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_state_fulfils_the_conditions_of_kkt_and_states_beside_it_do_not(name):
    problem = PROBLEMS[name]
    field = jax.jit(lambda state: problem.vector_field(0.0, state, None))
    state = nc.exact.nonnegative_minimizer(problem)
    assert np.abs(ravel_pytree(field(state))[0]).max() < rounding()
    # Multipliers ∂L/∂h >= 0 where h = 0. They are positive for classes that are alive.
    gradient = problem.gradient(state)
    multipliers = np.asarray(gradient.features)[np.asarray(state.features) == 0]
    assert np.all(multipliers >= -rounding())
    moved = nc.LastLayer(state.features.at[0, 0].add(1e-4), state.classifier)
    assert np.abs(ravel_pytree(field(moved))[0]).max() > 1e-7
    free = nc.UnconstrainedFeatures(
        problem.class_sizes, problem.feature_dim, reduction=problem.reduction,
        weight_decay=problem.weight_decay, class_weights=problem.class_weights,
    )  # fmt: skip
    # Without the constraint the same state is no minimum: the orthogonal means are its price.
    assert np.abs(ravel_pytree(free.gradient(state))[0]).max() > 1e-4


@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_a_class_vanishes_exactly_at_its_threshold(factor):
    # n_k <= N² λ_W λ_H K/(K−1), for the class of 2 samples.
    sizes = (7, 5, 2)
    decay = np.sqrt(factor * 2 * 2 / 3) / sum(sizes)
    problem = nonnegative(sizes, 4, (2 * decay, decay / 2))
    ratio = nc.exact.nonnegative_threshold(problem)[2]
    np.testing.assert_allclose(ratio, np.sqrt(factor), rtol=rounding())
    start = problem.init(jax.random.key(0))
    _, found = lowest_with_bounds(problem.objective, start, 6, nonnegative=True)
    norms = np.linalg.norm(np.asarray(found.features), axis=1)
    assert (norms[-1] < 1e-3) == (factor > 1)
    assert norms[-1] < 1e-3 or norms[-1] > 0.05
    # Features of either sign: the class merges at another threshold, and does not vanish.
    assert nc.exact.class_decay_ratios(nc.UnconstrainedFeatures(
        sizes, 4, weight_decay=problem.weight_decay))[2] < 0.9  # fmt: skip


def separation_by_slsqp(sizes, dim, lower, starts):
    """Least ½‖W‖² + ½ Σ n_k ‖m_k‖² with margins >= 1 and means >= lower."""
    classes = len(sizes)
    shape = (2, classes, dim)
    weights = np.stack([np.ones((classes, dim)), np.repeat(np.array(sizes), dim).reshape(-1, dim)])
    own, other = np.nonzero(~np.eye(classes, dtype=bool))

    def margins(flat):
        classifier, means = flat.reshape(shape)
        logits = means @ classifier.T
        return logits[own, own] - logits[own, other] - 1

    values = []
    for seed in range(starts):
        start = np.abs(np.random.default_rng(seed).normal(size=shape)).ravel()
        found = scipy.optimize.minimize(
            lambda v: np.sum(weights * v.reshape(shape) ** 2) / 2, start, method="SLSQP",
            constraints=[{"type": "ineq", "fun": margins}],
            bounds=[(None, None)] * (classes * dim) + [(lower, None)] * (classes * dim),
            options={"maxiter": 500, "ftol": 1e-13},
        )  # fmt: skip
        values += [found.fun] if found.success else []
    return min(values)


@pytest.mark.parametrize(("sizes", "dim"), [((4, 2, 1), 3), ((5, 1), 3), ((2, 3, 3), 4)])
def test_the_separation_value_is_that_of_slsqp(sizes, dim):
    value = nc.exact.nonnegative_separation_value(sizes)
    np.testing.assert_allclose(separation_by_slsqp(sizes, dim, 0.0, 6), value, rtol=1e-7)


def test_the_price_of_the_constraint():
    # Without H >= 0 the value is SELI's, the nuclear norm of D^{1/2} (I − 11ᵀ/K).
    sizes = np.array([4, 2, 1])
    free = np.linalg.norm(np.sqrt(sizes)[:, None] * (np.eye(3) - 1 / 3), "nuc")
    np.testing.assert_allclose(free, 2.9978593138, atol=6e-11)
    np.testing.assert_allclose(separation_by_slsqp((4, 2, 1), 3, None, 4), free, rtol=1e-7)
    assert nc.exact.nonnegative_separation_value((4, 2, 1)) > free


def limit_values(problem):
    """Values of all points at which a subset of the classes has no features, lowest first."""
    gaps = np.asarray(nc.exact.nonnegative_gaps(problem))
    classes = problem.num_classes
    weights = np.array(problem.class_sizes) / problem.num_samples
    decay = problem.weight_decay
    slopes = np.sqrt(np.array(problem.class_sizes) * decay.classifier * decay.features)
    slopes *= np.sqrt((classes - 1) / classes)
    alive = weights * np.log1p((classes - 1) * np.exp(-gaps)) + slopes * gaps
    dead = weights * np.log(classes)
    choices = np.stack(np.meshgrid(*[[0, 1]] * classes, indexing="ij"), -1).reshape(-1, classes)
    return np.sort(np.where(choices, dead, alive).sum(axis=1))


@pytest.mark.parametrize(("dim", "all_reach"), [(12, True), (3, False)])
def test_the_flow_from_nonnegative_starts_reaches_the_minimum(dim, all_reach):
    problem = nonnegative((3, 2, 1), dim, (0.02, 0.03))
    keys = jax.random.split(jax.random.key(0), 4)
    flow = nc.Flow(
        problem, np.array([1.0, 900.0]), clock=nc.RealTime(), rtol=1e-6, observe=("objective",)
    )
    ends = flow.batch(jax.vmap(problem.init)(keys)).observables["objective"][:, -1]
    least = float(nc.exact.nonnegative_minimum(problem))
    assert np.all(ends > least - rounding())
    # In few dimensions a class may lose all features, where the projected flow leaves them at 0.
    distances = np.abs(ends[:, None] - limit_values(problem)[None])
    assert np.all(distances.min(axis=1) < integration(1e-6))
    assert np.all(distances.argmin(axis=1) == 0) == all_reach


def test_entries_of_the_flow_are_nonnegative_to_the_tolerance():
    problem = nonnegative((3, 2, 1), 5, (0.02, 0.02))
    start = problem.init(jax.random.key(1))
    assert np.all(np.asarray(start.features) >= 0)
    for rtol in (1e-5, 1e-8):
        flow = nc.gradient_flow(
            problem, start, np.linspace(0.5, 40, 30), clock=nc.RealTime(), rtol=rtol,
            atol=rtol / 10, save_states=True,
        )  # fmt: skip
        assert flow.states is not None
        features = np.asarray(flow.states.features)
        # A jump of the field late in a step hardly changes the estimate of its error.
        assert np.min(features) > -10 * integration(rtol)
        # Many entries are at 0, to the tolerance.
        assert np.mean(features[-1] <= 0) > 0.3
        for name in ("column_balance_drift", "classifier_sum_drift"):
            assert np.max(flow.observables[name]) < integration(rtol)
        # The distance from an Euler method with a projection after each small step.
        if rtol == 1e-8:
            step = jax.jit(
                lambda x: problem.retract(
                    jax.tree.map(lambda a, b: a - 5e-4 * b, x, problem.gradient(x))
                )
            )
            euler = start
            for _ in range(2000):
                euler = step(euler)
            early = nc.gradient_flow(
                problem, start, np.array([0.5, 1.0]), clock=nc.RealTime(), rtol=rtol
            )
            difference = ravel_pytree(jax.tree.map(jnp.subtract, early.final, euler))[0]
            assert np.abs(difference).max() < 1e-3


def test_projected_descent_reaches_the_minimum():

    problem = nonnegative((3, 2, 1), 12, (0.02, 0.03))
    descent = nc.gradient_descent(
        problem, problem.init(jax.random.key(0)), optax.sgd(0.5), 4000, observe=("objective",)
    )
    assert np.all(np.asarray(descent.final.features) >= 0)
    least = nc.exact.nonnegative_minimum(problem)
    np.testing.assert_allclose(descent.observables["objective"][-1], least, rtol=1e-9)


def test_without_decay_the_loss_gives_the_separation_value():
    problem = Nonnegative((4, 2, 1), 12, reduction="sum")
    start = problem.init(jax.random.key(0), 3.0)
    flow = nc.gradient_flow(
        problem, start, np.linspace(1.0, 120.0, 5), rtol=1e-7, observe=("log_objective",)
    )
    log_time, log_loss = flow.log_time[-1], flow.observables["log_objective"][-1]
    value = nc.exact.nonnegative_separation_value((4, 2, 1))
    # log L = log V − q(t) with Ei(q) = 2t, whose e^q/q (1 + 1/q + 2/q²) is inverted here.
    q = scipy.optimize.brentq(
        lambda q: q - np.log(q) + np.log1p(1 / q + 2 / q**2) - np.log(2) - log_time, 1, 1000
    )
    predicted = abs(np.log(value) - q - log_loss)
    limit = abs(log_loss + log_time + np.log(log_time) - np.log(value / 2))
    assert predicted < 3 / log_time
    assert limit < 10 / log_time


def test_it_is_no_gradient_flow_and_claims_no_theorem_of_free_features():
    problem = nonnegative((2, 2), 3)
    assert not problem.is_gradient_flow
    assert not nc.problems.is_unconstrained(problem)
    state = problem.init(jax.random.key(0))
    assert set(problem.invariants(state)) == {"column_balance", "classifier_sum"}
    assert not {"gamma_tilde", "max_margin_ratio", "balance_norm"} & set(problem.observables())
    with pytest.raises(ValueError, match="is_gradient_flow = False"):
        nc.landscape.classify(problem, state)
    with pytest.raises(ValueError, match="give an UnconstrainedFeatures"):
        nc.exact.regularized_minimum(problem)


def test_a_subclass_with_another_field_has_no_closed_form():
    class Slowed(Nonnegative):
        def scaled_descent(self, state, log_scale):
            return super().scaled_descent(state, log_scale - 1)

    class Recorded(Nonnegative):
        def observe(self, state):
            return {**super().observe(state), "zeros": jnp.mean(state.features <= 0)}

    settings: dict = {"weight_decay": nc.WeightDecay(classifier=0.1, features=0.1)}
    assert nc.exact.nonnegative_minimum(Recorded((2, 1), 3, **settings)) > 0
    with pytest.raises(ValueError, match="problem is of type Slowed: give an nc_jax"):
        nc.exact.nonnegative_minimum(Slowed((2, 1), 3, **settings))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_states_and_fields_have_the_dtype_of_the_start(dtype):
    problem = nonnegative((2, 1), 3)
    state = problem.init(jax.random.key(0), dtype=dtype)
    computed = problem.scaled_descent(state, 0.0), problem.gradient(state), problem.retract(state)
    assert {leaf.dtype for leaf in jax.tree.leaves(computed)} == {jnp.dtype(dtype)}
    assert nc.exact.nonnegative_minimizer(problem, dtype=dtype).features.dtype == dtype


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.exact.nonnegative_minimum(Nonnegative((2, 1), 3)), "classifier = 0"),
        (lambda: nc.exact.nonnegative_minimum(nonnegative((2, 1, 1), 2)), "feature_dim = 2"),
        (lambda: nc.exact.nonnegative_minimum(nonnegative((2, 1), 2, bias=True)), "has a bias"),
        (lambda: nc.exact.nonnegative_separation_value((2,)), "give the samples of 2 or more"),
    ],
)
def test_what_has_no_closed_form_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
