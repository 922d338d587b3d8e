"""Mixon's subspace S in closed form (theorem 3), and what the full flow does beside it."""

import diffrax
import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from exact.mixon_flows import (
    SEEDS,
    SHAPES,
    check_shapes_and_dtypes,
    flat,
    no_observables,
    value_rate_and_field,
)
from hypothesis import given, strategies as st
from tolerances import rounding

import nc_jax as nc
from nc_jax.geometry import project_onto_S


@eqx.filter_jit
def strong_errors(problem, state):
    """Errors of strong collapse and distance from S of a state, or of states along an axis."""

    def errors(state):
        metrics = nc.metrics.collapse_metrics(state, problem.labels)
        return {name: value for name, value in metrics.items() if name.startswith("mixon")}

    return errors(state) if state.classifier.ndim == 2 else jax.vmap(errors)(state)


# The closed forms, compiled once for a shape; one operation after the other, each is a program.
SUBSPACE_SOLUTION = eqx.filter_jit(nc.exact.subspace_solution)


def subspace_solution(problem, start, t):
    return SUBSPACE_SOLUTION(problem, start, np.asarray(t, float))


@eqx.filter_jit
def limit_and_risk(problem, start):
    """The limit of a start on S, and the objective there."""
    limit = nc.exact.subspace_limit(problem, start)
    return limit, problem.objective(limit)


@eqx.filter_jit
def drawn_on_s(problem, seed, norm, rank, bias):
    state = project_onto_S(problem.init(jax.random.key(seed), norm), problem.labels)
    left, singular, right = jnp.linalg.svd(state.classifier, full_matrices=False)
    classifier = (left * jnp.where(jnp.arange(singular.size) < rank, singular, 0)) @ right
    features = classifier[problem.labels] / np.sqrt(problem.class_sizes[0])
    state = nc.LastLayer(features, classifier, jnp.full(problem.num_classes, bias))
    return project_onto_S(state, problem.labels)


def on_s(problem, seed, norm=1.0, rank=None, bias=0.0):
    """Random point of S, its classifier cut to a rank."""
    rank = problem.num_classes - 1 if rank is None else rank
    numbers = np.asarray(norm, float), np.asarray(rank), np.asarray(bias, float)
    return drawn_on_s(problem, np.asarray(seed), *numbers)


@pytest.mark.parametrize("shape", SHAPES)
@given(seed=SEEDS, t=st.floats(0, 3), norm=st.sampled_from([1e-3, 1.0, 6.0]), bias=st.floats(-2, 2))
def test_solution_on_s_solves_the_full_equation(shape, seed, t, norm, bias):
    # Norm 6 starts with singular values beyond n^(1/4), which fall.
    problem = nc.mixon(*shape)
    start = on_s(problem, seed, norm, bias=bias)
    compute = value_rate_and_field(nc.exact.subspace_solution, nc.mixon, shape)
    value, rate, field = compute(start, jnp.asarray(t))
    scale = np.abs(flat(value)).max() ** 3 + 10 * problem.num_samples
    np.testing.assert_allclose(flat(rate), flat(field), rtol=0, atol=rounding() * scale)
    # The Gram matrix moves by itself: G' = 2√N G - 2G².
    gram = value.classifier @ value.classifier.T
    moved = rate.classifier @ value.classifier.T
    expected = 2 * np.sqrt(shape[2]) * gram - 2 * gram @ gram
    atol = rounding() * (1 + np.abs(gram).max() ** 2) * 10
    np.testing.assert_allclose(moved + moved.T, expected, rtol=0, atol=atol)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(
    ("solver", "rtol"),
    [(nc.RKC(), 1e-12), pytest.param(diffrax.Kvaerno5(), 1e-10, marks=pytest.mark.slow)],
)
def test_flow_from_s_stays_on_s_and_is_the_closed_form(solver, rtol):
    # To t = 200, long after it has come to rest: these solvers damp what rounding puts off S.
    problem = nc.mixon(3, 15, 3)
    start, times = on_s(problem, 1, 0.01, bias=-0.7), np.linspace(0, 200, 201)
    traj = nc.gradient_flow(
        problem, start, times, clock=nc.RealTime(), solver=solver, rtol=rtol, atol=1e-4 * rtol,
        observe=no_observables, save_states=True,
    )  # fmt: skip
    # The start is on S to a rounding or two, which grow with the flow until it bends.
    errors = strong_errors(problem, traj.states)
    assert errors["mixon_distance_to_s"].max() < rounding(operations=300)
    expected = flat(subspace_solution(problem, start, times), 1)
    error = np.linalg.norm(flat(traj.states, 1) - expected, axis=1)
    assert np.all(error <= 1e-8 * np.linalg.norm(expected, axis=1))


def test_an_explicit_solver_stays_on_s_to_rounding_until_rest():
    problem = nc.mixon(3, 15, 3)
    start, times = on_s(problem, 1, 0.01), np.linspace(0, 200, 801)
    at_rest = diffrax.Event(diffrax.steady_state_event(rtol=0.0, atol=1e-4))
    traj = nc.gradient_flow(
        problem, start, times, clock=nc.RealTime(), rtol=1e-10, atol=1e-14,
        observe=no_observables, save_states=True, event=at_rest,
    )  # fmt: skip
    errors = strong_errors(problem, traj.states)
    reached = np.isfinite(errors["mixon_snc1"])
    assert 20 < reached.sum() < 80
    assert errors["mixon_distance_to_s"][reached].max() < rounding()
    expected = flat(subspace_solution(problem, start, times), 1)[reached]
    error = np.linalg.norm(flat(traj.states, 1)[reached] - expected, axis=1)
    assert np.all(error <= 1e-8 * np.linalg.norm(expected, axis=1))


@pytest.mark.parametrize("shape", [(3, 15, 3), (4, 3, 2), (2, 1, 1)])
@given(seed=SEEDS, norm=st.sampled_from([1e-8, 1.0, 30.0]))
def test_limit_of_full_rank_is_strong_collapse(shape, seed, norm):
    problem = nc.mixon(*shape)
    limit, risk = limit_and_risk(problem, on_s(problem, seed, norm))
    # SNC1 is a distance of matrices of norm √(n(K − 1)); the others are relative, or of norm 1.
    size = np.sqrt(shape[2] * (shape[0] - 1))
    assert np.max(list(strong_errors(problem, limit).values())) < rounding() * size
    assert risk < rounding()


@pytest.mark.parametrize(("shape", "rank"), [((4, 3, 2), 2), ((3, 15, 3), 1), ((4, 2, 5), 2)])
def test_the_limit_of_a_rank_deficient_start_is_its_projection(shape, rank):
    # √N(I - Π), Π the projection onto ker W0ᵀ; d < K-1 leaves no other rank.
    problem = nc.mixon(*shape)
    start = on_s(problem, 2, 1.0, rank)
    limit, _ = limit_and_risk(problem, start)
    basis = np.linalg.svd(np.array(start.classifier))[0][:, :rank]
    gram = np.array(limit.classifier) @ np.array(limit.classifier).T
    expected = np.sqrt(shape[2]) * basis @ basis.T
    np.testing.assert_allclose(gram, expected, rtol=0, atol=rounding())
    assert strong_errors(problem, limit)["mixon_snc1"] > 1
    # The closed form gets there however late it is asked.
    late = subspace_solution(problem, start, 1e6)
    np.testing.assert_allclose(flat(late), flat(limit), rtol=0, atol=rounding())


def test_the_flow_of_a_rank_deficient_start_is_the_closed_form_until_rounding_errors_grow():
    # Until rounding errors in the kernel have grown by e^(√N t): at t = 8 to 2e-16 · 1e6.
    problem = nc.mixon(3, 15, 3)
    start = on_s(problem, 2, 1.0, rank=1)
    traj = nc.gradient_flow(
        problem, start, np.array([8.0]), clock=nc.RealTime(), solver=diffrax.Dopri8(), rtol=1e-10,
        observe=no_observables,
    )  # fmt: skip
    expected = flat(subspace_solution(problem, start, 8.0))
    np.testing.assert_allclose(flat(traj.final), expected, rtol=0, atol=1e-8)


def test_solution_at_the_ends_of_time_and_of_the_floats():
    problem = nc.mixon(3, 4, 2)
    start = on_s(problem, 0, 1.0, bias=0.1)
    at_zero = subspace_solution(problem, start, 0.0)
    np.testing.assert_allclose(flat(at_zero), flat(start), rtol=0, atol=rounding())
    limit, _ = limit_and_risk(problem, start)
    late = subspace_solution(problem, start, 1e300)
    np.testing.assert_allclose(flat(late), flat(limit), rtol=0, atol=rounding())
    tiny = on_s(problem, 0, 1e-200)
    for state in (tiny, subspace_solution(problem, tiny, 0)):
        assert 1e-201 < np.abs(state.classifier).max() < 1e-199
    # e^(√2 t) has made 1e-200 a share of the whole: σ(t)²/√n = 1/(1 + (√n/σ₀² - 1)e^(-2√n t)).
    sigma = np.linalg.svd(np.array(tiny.classifier) * 1e200)[1][:2]
    t = 325.0
    now = subspace_solution(problem, tiny, t).classifier
    log_ratio = np.log(np.sqrt(2)) - 2 * np.log(sigma) + 400 * np.log(10) - 2 * np.sqrt(2) * t
    expected = np.sqrt(np.sqrt(2) / (1 + np.exp(log_ratio)))
    np.testing.assert_allclose(np.linalg.svd(np.array(now))[1][:2], expected, rtol=1e-10)
    origin = jax.tree.map(jnp.zeros_like, start)
    assert np.all(subspace_solution(problem, origin, 5.0).classifier == 0)


@eqx.filter_jit
def risk_and_lemma_4(problem, state):
    return problem.objective(state), nc.exact.subspace_objective(problem, state)


@pytest.mark.parametrize("shape", SHAPES)
@given(seed=SEEDS, bias=st.floats(-3, 3))
def test_the_risk_on_s_is_that_of_lemma_4(shape, seed, bias):
    problem = nc.mixon(*shape)
    state = on_s(problem, seed, 2.0, bias=bias)
    risk, by_lemma = risk_and_lemma_4(problem, state)
    np.testing.assert_allclose(by_lemma, risk, rtol=rounding(), atol=rounding())


@eqx.filter_jit
def collapse_with_its_measures(problem, key):
    state = nc.exact.strong_collapse(problem, key=key)
    metrics = nc.metrics.collapse_metrics(state, problem.labels)
    return state, problem.objective(state), problem.gradient(state), metrics


@pytest.mark.parametrize("shape", [(3, 15, 3), (4, 3, 2), (2, 1, 1), (7, 8, 4)])
def test_strong_collapse_is_a_minimum_with_neural_collapse(shape):
    # Lemma 1, with the norm of the means corrected: ‖μ_c‖² = (1 - 1/C)/√N.
    problem, (num_classes, _, size) = nc.mixon(*shape), shape
    state, risk, gradient, metrics = collapse_with_its_measures(problem, jax.random.key(0))
    assert risk < rounding()
    np.testing.assert_allclose(flat(gradient), 0, atol=rounding())
    for name in ("mixon_snc1", "mixon_snc2", "mixon_snc3", "mixon_distance_to_s"):
        assert metrics[name] < rounding(), name
    for name in ("zhu_nc1", "zhu_nc2", "zhu_nc3", "papyan_self_duality", "papyan_ncc_mismatch"):
        assert metrics[name] < rounding(), name
    share = 1 - 1 / num_classes
    norms = jnp.sum(state.features**2, axis=1), jnp.sum(state.classifier**2, axis=1)
    np.testing.assert_allclose(norms[0], share / np.sqrt(size), rtol=rounding())
    np.testing.assert_allclose(norms[1], share * np.sqrt(size), rtol=rounding())


def test_strong_collapse_is_turned_by_its_key():
    problem = nc.mixon(3, 15, 3)
    one, two = (collapse_with_its_measures(problem, jax.random.key(i))[0] for i in (0, 1))
    assert jnp.abs(one.classifier - two.classifier).max() > 0.1
    narrow = jax.eval_shape(lambda: nc.exact.strong_collapse(problem, dtype="float32"))
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {np.dtype("float32")}


def test_shapes_and_dtypes_follow_time_and_state():
    problem = nc.mixon(3, 4, 2)
    start = problem.init(jax.random.key(0), dtype="float32")
    check_shapes_and_dtypes(nc.exact.subspace_solution, problem, start)


OFF_S = nc.mixon(3, 4, 2).init(jax.random.key(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: nc.exact.subspace_limit(nc.mixon(3, 5, 2), OFF_S),
            r"where the problem has \(6, 5\) and \(3, 5\)",
        ),
        (
            # Whose squares are no floats.
            lambda: nc.exact.subspace_limit(
                nc.mixon(3, 4, 2), jax.tree.map(lambda leaf: 1e-200 * leaf, OFF_S)
            ),
            r"lies off S by 0\.\d",
        ),
        (
            lambda: nc.exact.subspace_solution(nc.mixon(3, 4, 2), OFF_S, 1.0),
            r"state: lies off S by 0\.\d+ of its norm",
        ),
        (lambda: nc.exact.subspace_limit(nc.mixon(3, 4, 2), OFF_S), "lies off S by"),
        (lambda: nc.exact.subspace_objective(nc.mixon(3, 4, 2), OFF_S), "lies off S by"),
        (
            lambda: nc.exact.subspace_limit(
                nc.mixon(3, 4, 2), nc.LastLayer(OFF_S.features, OFF_S.classifier)
            ),
            "state: has no bias",
        ),
        (
            lambda: nc.exact.subspace_solution(
                nc.UnconstrainedFeatures(
                    (1, 2), 3, loss=nc.SquaredError(), reduction="sum", bias=True
                ),
                OFF_S,
                1.0,
            ),
            r"class_sizes = \(1, 2\): the closed form needs classes of one size",
        ),
        (
            lambda: nc.exact.strong_collapse(nc.ulpm(3, 4, 2)),
            "CrossEntropy, reduction 'sum', bias False",
        ),
        (
            lambda: nc.exact.strong_collapse(
                nc.UnconstrainedFeatures(
                    (2, 2), 3, loss=nc.SquaredError(), reduction="mean", bias=True
                )
            ),
            "give nc_jax.mixon",
        ),
        (lambda: nc.exact.strong_collapse(nc.mixon(4, 2, 2)), "feature_dim = 2"),
    ],
)
def test_what_the_theory_does_not_cover_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_traced_start_off_s_gives_nan():
    problem = nc.mixon(3, 4, 2)
    off = jax.jit(lambda state: nc.exact.subspace_solution(problem, state, 1.0))(OFF_S)
    assert np.all(np.isnan(off.classifier))
    start = on_s(problem, 0)
    traced = jax.jit(lambda state: nc.exact.subspace_solution(problem, state, 1.0))(start)
    expected = nc.exact.subspace_solution(problem, start, 1.0)
    np.testing.assert_allclose(flat(traced), flat(expected), rtol=0, atol=rounding())


@pytest.fixture(scope="module")
def ends_of_small_starts():
    """Errors of strong collapse at t = 30 over (norm, seed), norms 1e-2 to 1e-4."""
    problem, norms = nc.mixon(3, 15, 3), np.array([1e-2, 1e-3, 1e-4])

    # One after the other: the program is that of the test above.
    def run(seed, norm):
        start = problem.init(jax.random.fold_in(jax.random.key(0), seed), norm)
        return nc.gradient_flow(
            problem,
            start,
            np.array([30.0]),
            clock=nc.RealTime(),
            solver=diffrax.Dopri8(),
            rtol=1e-11,
            atol=1e-13 * norm,
            observe=no_observables,
        ).final

    ends = [run(seed, norm) for norm in norms for seed in range(8)]
    errors = strong_errors(problem, jax.tree.map(lambda *leaves: jnp.stack(leaves), *ends))
    return norms, {name: np.reshape(values, (3, 8)) for name, values in errors.items()}


@pytest.mark.parametrize(
    ("name", "power"),
    [("mixon_snc1", 2), ("mixon_snc2", 1), ("mixon_snc3", 1), ("mixon_distance_to_s", 1)],
)
def test_errors_of_strong_collapse_fall_as_powers_of_the_start(ends_of_small_starts, name, power):
    norms, errors = ends_of_small_starts
    values = np.log(errors[name])
    fitted = np.polyfit(np.log(norms), values, 1)[0]
    np.testing.assert_allclose(fitted, power, atol=0.02)


@pytest.mark.usefixtures("optimized")  # the program is that of the flow on S
def test_the_slow_tail_ends_where_the_conserved_balance_predicts():
    # At rest but for 1ᵀA, what moves is a = Wᵀ1/√K and the deviations D (d x N) of the features
    # from their class means, both off the row space of the centred W: a' = -DDᵀa, D' = -aaᵀD. That
    # keeps aaᵀ - DDᵀ, and ends with Dᵀa = 0: ‖a‖² at its positive eigenvalue, ‖D‖² at minus the
    # sum of the others.
    problem, norm = nc.mixon(3, 15, 3), 1e-2
    traj = nc.gradient_flow(
        problem, problem.init(jax.random.key(0), norm), np.array([30.0, 3e6]), clock=nc.RealTime(),
        solver=nc.RKC(), rtol=1e-8, atol=1e-12, observe=no_observables, save_states=True,
    )  # fmt: skip

    def off_rows(state):
        classifier, features = np.array(state.classifier), np.array(state.features)
        rows = np.linalg.svd(classifier - classifier.mean(axis=0))[2][:2]
        off = np.eye(15) - rows.T @ rows
        means = features.reshape(3, 3, 15).mean(axis=1)
        return off @ classifier.sum(axis=0) / np.sqrt(3), (features - means[problem.labels]) @ off

    shared, deviations = off_rows(jax.tree.map(lambda leaf: leaf[0], traj.states))
    conserved = np.linalg.eigvalsh(np.outer(shared, shared) - deviations.T @ deviations)
    last_shared, last_deviations = off_rows(traj.final)
    # To first order in the start.
    np.testing.assert_allclose(last_shared @ last_shared, conserved[-1], rtol=norm**2)
    np.testing.assert_allclose(
        np.sum(last_deviations**2), -conserved[conserved < 0].sum(), rtol=norm**2
    )
    assert shared @ shared > 1.02 * conserved[-1]  # it has moved
    assert np.linalg.norm(last_deviations @ last_shared) < 1e-3 * conserved[-1]
