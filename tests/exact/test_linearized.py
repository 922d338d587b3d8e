"""Mixon's linear phase in closed form (theorem 2)."""

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


def dense(linear_map, like):
    """Matrix of a linear map of (H, W)."""
    vector, unravel = jax.flatten_util.ravel_pytree(like)
    flattened = lambda x: jax.flatten_util.ravel_pytree(linear_map(unravel(x)))[0]  # noqa: E731
    return jax.jacfwd(flattened)(vector)


def coefficient(problem, t):
    """L_t of theorem 2: the linear field in (H, W) at b(t), as a map."""
    bias = jnp.full(problem.num_classes, -jnp.expm1(-problem.labels.size * t) / problem.num_classes)

    def apply(u):
        field = problem.vector_field(0.0, nc.LastLayer(u.features, u.classifier, bias), None)
        return nc.LastLayer(field.features, field.classifier)

    return apply


@eqx.filter_jit
def projections_and_coefficients(problem, times):
    """Matrices of the eigenspaces' projections; of L_t at the times, with the eigenvalues there."""
    spaces, zero = nc.exact.linearized_eigenspaces(problem), zero_of(problem)
    matrices = {name: dense(space.project, zero) for name, space in spaces.items()}
    coefficients = jax.vmap(lambda t: dense(coefficient(problem, t), zero))(times)
    return matrices, coefficients, {name: s.eigenvalue(times) for name, s in spaces.items()}


LINEARIZED_SOLUTION = eqx.filter_jit(nc.exact.linearized_solution)


def linearized_solution(problem, start, t):
    return LINEARIZED_SOLUTION(problem, start, np.asarray(t, float))


def zero_of(problem):
    start = problem.init(jax.random.key(0))
    return nc.LastLayer(0 * start.features, 0 * start.classifier)


@pytest.mark.parametrize("shape", SHAPES)
def test_eigenspaces_split_the_space_and_diagonalise_the_coefficient(shape):
    problem = nc.LinearizedMixon(*shape)
    classes, dim, size = shape
    spaces = nc.exact.linearized_eigenspaces(problem)
    dimensions = {name: space.dimension for name, space in spaces.items()}
    one, three = dim * (classes - 1), dim * classes * (size - 1)
    assert dimensions == {"E1+": one, "E1-": one, "E2+": dim, "E2-": dim, "E3": three}
    times = np.array([0.0, 0.05, 2.0])
    matrices, *at_times = jax.tree.map(np.asarray, projections_and_coefficients(problem, times))
    identity = np.eye(dim * classes * (size + 1))
    close = {"rtol": 0, "atol": rounding()}
    np.testing.assert_allclose(sum(matrices.values()), identity, **close)
    for name, matrix in matrices.items():
        np.testing.assert_allclose(matrix, matrix.T, **close)
        assert round(np.trace(matrix)) == dimensions[name]
        for other in matrices:
            expected = matrix if other == name else 0 * matrix
            np.testing.assert_allclose(matrix @ matrices[other], expected, **close)
    for coefficients, values in zip(
        at_times[0], np.stack([at_times[1][name] for name in spaces], axis=1), strict=True
    ):
        for name, eigenvalue in zip(spaces, values, strict=True):
            applied = coefficients @ matrices[name]
            np.testing.assert_allclose(applied, eigenvalue * matrices[name], **close)
        expected = np.repeat(values, list(dimensions.values()))
        np.testing.assert_allclose(np.linalg.eigvalsh(coefficients), np.sort(expected), **close)


def test_eigenvalues_of_the_paper_coincide_at_time_zero():
    # So that 'distinct eigenvalues' fails there; orthogonality does not.
    spaces = nc.exact.linearized_eigenspaces(nc.LinearizedMixon(3, 4, 2))
    assert spaces["E1+"].eigenvalue(jnp.zeros(())) == spaces["E2+"].eigenvalue(jnp.zeros(()))


@pytest.mark.parametrize("shape", SHAPES)
@given(seed=SEEDS, t=st.floats(0, 3))
def test_linear_solution_solves_its_equation(shape, seed, t):
    start = nc.LinearizedMixon(*shape).init(jax.random.key(seed))
    compute = value_rate_and_field(nc.exact.linearized_solution, nc.LinearizedMixon, shape)
    value, rate, field = compute(start, jnp.asarray(t))
    scale = np.abs(flat(field)).max() + np.abs(flat(value)).max()
    np.testing.assert_allclose(flat(rate), flat(field), rtol=0, atol=rounding() * scale)


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_linear_system_by_diffrax_is_the_exact_solution(shape):
    problem = nc.LinearizedMixon(*shape)
    start, times = problem.init(jax.random.key(3), norm=1e-3), np.linspace(0, 8, 9)
    traj = nc.gradient_flow(
        problem, start, times, clock=nc.RealTime(), solver=diffrax.Dopri8(), rtol=1e-11, atol=1e-16,
        observe=no_observables, save_states=True,
    )  # fmt: skip
    expected = flat(linearized_solution(problem, start, times), 1)
    error = np.linalg.norm(flat(traj.states, 1) - expected, axis=1)
    assert np.all(error <= 1e-8 * np.linalg.norm(expected, axis=1))
    assert np.all(error[0] <= rounding() * np.linalg.norm(expected[0]))


@pytest.mark.parametrize("shape", SHAPES)
def test_bound_of_theorem_2_holds_on_1000_starts(shape):
    problem = nc.LinearizedMixon(*shape)
    times = np.array([0.0, 0.01, 0.1, 0.3, 1.0, 3.0, 100.0])

    def both_sides(seed):
        start = problem.init(jax.random.fold_in(jax.random.key(0), seed))
        deviation, bound = nc.exact.linearized_bound(problem, start, times)
        # The left side as printed, which loses digits to e^(√n t).
        solution = nc.exact.linearized_solution(problem, start, times)
        growing = nc.exact.linearized_eigenspaces(problem)["E1+"].project(start)

        def printed(t, now):
            growth = jnp.exp(np.sqrt(problem.samples_per_class) * t)
            gap = jax.tree.map(lambda a, b: a - growth * b, now, growing)
            return jnp.sqrt(gap.squared_norm())

        return deviation, bound, jax.vmap(printed)(jnp.asarray(times), solution)

    deviation, bound, printed = jax.jit(jax.vmap(both_sides))(np.arange(1000))
    ratio = np.asarray(deviation / bound[:, None])
    assert np.all(ratio <= 1)
    np.testing.assert_allclose(printed[:, :6], deviation[:, :6], rtol=rounding() * np.exp(8))


@pytest.mark.parametrize("shape", SHAPES)
def test_bound_of_theorem_2_is_attained_by_a_start_in_e2(shape):
    problem = nc.LinearizedMixon(*shape)
    spaces = nc.exact.linearized_eigenspaces(problem)
    start = spaces["E2+"].project(problem.init(jax.random.key(1)))
    deviation, bound = nc.exact.linearized_bound(problem, start, 100.0)
    np.testing.assert_allclose(deviation, bound, rtol=rounding())


def test_the_display_before_the_bound_leaves_out_e3():
    # Paper: dev² = e^(-2√N t)‖Π1-‖² + f+²‖Π2+‖² + f-²‖Π2-‖²; the part in E3 stays for good.
    problem = nc.LinearizedMixon(3, 4, 2)
    spaces = nc.exact.linearized_eigenspaces(problem)
    start = spaces["E3"].project(problem.init(jax.random.key(0)))
    deviation, _ = nc.exact.linearized_bound(problem, start, 1.0)
    np.testing.assert_allclose(deviation, jnp.sqrt(start.squared_norm()), rtol=rounding())


def test_a_part_that_is_absent_stays_absent_when_its_growth_overflows():
    problem = nc.LinearizedMixon(3, 4, 2)
    origin = jax.tree.map(jnp.zeros_like, problem.init(jax.random.key(0)))
    late = linearized_solution(problem, origin, 1e6)
    np.testing.assert_array_equal(late.features, 0)
    np.testing.assert_allclose(jax.tree.leaves(late)[-1], 1 / 3, rtol=rounding())


def test_shapes_and_dtypes_follow_time_and_state():
    problem = nc.LinearizedMixon(3, 4, 2)
    start = problem.init(jax.random.key(0), dtype="float32")
    check_shapes_and_dtypes(nc.exact.linearized_solution, problem, start)


OFF_S = nc.mixon(3, 4, 2).init(jax.random.key(0))


BIASED = nc.LastLayer(OFF_S.features, OFF_S.classifier, jnp.ones(3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: nc.exact.linearized_solution(nc.LinearizedMixon(3, 4, 2), BIASED, 1.0),
            "bias of norm 1.73 where theorem 2 starts at 0",
        ),
        (
            lambda: nc.exact.linearized_bound(nc.LinearizedMixon(3, 4, 2), OFF_S, -1.0),
            "t = -1.0: give a finite number >= 0",
        ),
        (
            lambda: nc.exact.linearized_solution(
                nc.LinearizedMixon(3, 4, 2), OFF_S, np.linspace(3, -3, 50)
            ),
            "t = -0.0612",
        ),
        (
            lambda: nc.exact.linearized_solution(nc.LinearizedMixon(3, 4, 3), OFF_S, 1.0),
            r"shapes \(6, 4\) and \(3, 4\) where the problem has \(9, 4\) and \(3, 4\)",
        ),
    ],
)
def test_what_the_theory_does_not_cover_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_traced_start_with_a_bias_gives_nan():
    problem = nc.LinearizedMixon(3, 4, 2)
    biased = jax.jit(lambda state: nc.exact.linearized_solution(problem, state, 1.0))(BIASED)
    assert np.all(np.isnan(biased.classifier))


def test_the_flow_near_the_origin_shadows_the_linear_solution():
    # It leaves by the cubic term, a share (ε e^(√n t))² of the whole: ten times the start at a
    # time log(10)/√n earlier is as far away.
    problem, linear = nc.mixon(3, 15, 3), nc.LinearizedMixon(3, 15, 3)
    gaps = []
    for norm in (1e-3, 1e-4):
        start = problem.init(jax.random.key(5), norm)
        t = np.log(0.03 / norm) / np.sqrt(3)
        final = nc.gradient_flow(
            problem, start, np.array([t]), clock=nc.RealTime(), solver=diffrax.Dopri8(), rtol=1e-11,
            atol=1e-13 * norm, observe=no_observables,
        ).final  # fmt: skip
        expected = linearized_solution(linear, start, t)
        gap = jax.tree.map(jnp.subtract, final, expected)
        gaps.append(jnp.sqrt(gap.squared_norm() / expected.squared_norm()))
    assert 1e-5 < gaps[1] < 1e-3
    np.testing.assert_allclose(gaps[0], gaps[1], rtol=0.05)
