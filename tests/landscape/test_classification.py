import functools
import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from landscape_points import (
    DECAY,
    FREE,
    flat,
    gradient,
    minimizer,
    moved,
    objective,
    origin,
    random_state,
    saddles,
    stacked,
)  # fmt: skip
from tolerances import rounding

import nc_jax as nc
from nc_jax import landscape
from nc_jax.landscape import OnSphere, classification

ZHU = nc.zhu(4, 6, 3, FREE)
# The shape of ZHU among them, since equal shapes share programs.
SHAPES = [(4, 6, 3), (4, 4, 1), (3, 2, 2)]


def orbit_generators(problem, state, rigid):
    """Tangents of all one-parameter symmetries, in rows, written out one by one."""
    dim, rows = problem.feature_dim, []
    for i in range(dim):
        for j in range(dim):
            generator = np.zeros((dim, dim))
            generator[i, j] += 1
            if rigid:
                generator[j, i] -= 1
            features = state.features @ generator
            classifier = state.classifier @ (generator if rigid else -generator.T)
            bias = np.zeros(problem.num_classes) if problem.bias else np.zeros(0)
            rows.append(np.concatenate([np.ravel(features), np.ravel(classifier), bias]))
    free_bias = problem.bias and problem.weight_decay.bias == 0
    if free_bias and isinstance(problem.loss, nc.CrossEntropy):
        shift = np.zeros_like(rows[0])
        shift[-problem.num_classes :] = 1
        rows.append(shift)
    return np.stack(rows)


@eqx.filter_jit
def on_orbit(problem, state, direction):
    """The projection onto the orbit, and its rank."""
    return (
        landscape.project_onto_symmetries(problem, state, direction),
        landscape.symmetry_dimension(problem, state),
    )


@pytest.mark.parametrize(
    ("problem", "on_sphere"),
    [
        (nc.zhu(3, 4, 2, FREE), False),
        (nc.zhu(3, 4, 2, DECAY), False),
        (nc.ulpm(3, 4, 2), True),
        (nc.ulpm(3, 4, 2), False),  # all invertible maps
        (nc.mixon(3, 2, 2), False),
    ],
)
@pytest.mark.parametrize("deficient", [False, True])
def test_projection_onto_the_orbit_is_that_of_least_squares(problem, on_sphere, deficient):
    state = random_state(problem, 0)
    if deficient:  # of rank one
        state = nc.LastLayer(
            jnp.asarray(np.outer(state.features[:, 0], state.classifier[0])),
            jnp.asarray(np.outer(state.classifier[:, 0], state.classifier[0])),
            state.bias,
        )
    rigid = on_sphere or not problem.weight_decay.absent
    generators = orbit_generators(problem, state, rigid)
    expected = np.linalg.pinv(generators, rcond=1e-10) @ generators
    direction = random_state(problem, 1)
    found, dimension = on_orbit(OnSphere(problem) if on_sphere else problem, state, direction)
    tolerance = 1000 * rounding() * float(np.linalg.norm(flat(direction)))
    image = expected @ flat(direction)
    np.testing.assert_allclose(flat(found), image, rtol=0, atol=tolerance)
    rank = np.linalg.matrix_rank(generators, tol=1e-8)
    assert dimension == rank


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decay", [FREE, DECAY])
def test_the_minimum_is_one_with_the_nullity_of_theory(shape, decay):
    classes, dim, size = shape
    problem = nc.zhu(classes, dim, size, decay)
    found = landscape.classify(problem, minimizer(problem))
    assert found.kind == "minimum"
    nullity = (classes - 1) * (2 * dim - classes) // 2 + (decay is FREE)
    assert found.nullity == found.symmetries == nullity == nc.exact.minimum_nullity(problem)
    assert found.index == 0
    assert np.all(np.isnan(flat(found.escape_direction)))


def on_the_sphere(problem, state, log_scale=0.0):
    """With the scale as an argument of the program, which one of another scale then shares."""
    return landscape.classify(OnSphere(problem), state, log_scale=jnp.asarray(log_scale))


@pytest.mark.parametrize("shape", SHAPES)
def test_on_the_sphere_collapse_is_the_minimum(shape):
    problem = nc.ulpm(*shape)
    _, state = nc.exact.sphere_optimum(problem, 3.0, key=jax.random.key(1))
    found = on_the_sphere(problem, state)
    assert found.kind == "minimum"
    classes, dim, _ = shape
    assert found.nullity == found.symmetries == (classes - 1) * (2 * dim - classes) // 2


@pytest.mark.parametrize("decay", [FREE, DECAY])
def test_origin_has_the_eigenvalues_of_the_formula(decay):
    for shape in [(4, 6, 3), (3, 2, 2)]:
        problem = nc.zhu(shape[0], shape[1], shape[2], decay)
        values, counts = nc.exact.origin_eigenvalues(problem)
        expected = np.sort(np.repeat(values, counts))
        spectrum = np.linalg.eigvalsh(landscape.dense_hessian(problem, origin(problem)))
        np.testing.assert_allclose(spectrum, expected, rtol=0, atol=rounding())
        found = landscape.classify(problem, origin(problem))
        assert found.kind == "strict saddle"
        np.testing.assert_allclose(found.eigenvalue, values[0], rtol=rounding())
        assert found.index == counts[0] == shape[1] * (shape[0] - 1)


@pytest.mark.parametrize("problem", [ZHU, nc.zhu(6, 5, 1, DECAY)])
def test_every_saddle_built_is_a_strict_one(problem):
    for name, state in saddles(problem).items():
        found = landscape.classify(problem, state)
        assert found.kind == "strict saddle", name
        assert found.index > 0
        assert found.residual < rounding() * found.scale
        lower = objective(problem, moved(state, found.escape_direction, 1e-2))
        assert lower < objective(problem, state)


@pytest.mark.parametrize("problem", [nc.ulpm(4, 3, 1), nc.ulpm(6, 7, 2)])
def test_every_saddle_on_the_sphere_is_a_strict_one(problem):
    for name, state in saddles(problem, radius=3.0).items():
        assert on_the_sphere(problem, state).kind == "strict saddle", name


def test_past_the_threshold_the_origin_is_the_minimum():
    # Right at it the second derivative is zero.
    for decay, kind in ((0.999, "strict saddle"), (1.001, "minimum"), (1, "degenerate")):
        # An array is an argument of the program, which all three share.
        shared = jnp.asarray(decay / (3 * np.sqrt(2)))
        problem = nc.zhu(3, 4, 2, nc.WeightDecay(classifier=shared, features=shared, bias=shared))
        assert landscape.classify(problem, origin(problem)).kind == kind


def test_states_near_a_minimum_are_minima_only_within_rounding():
    state = minimizer(ZHU)
    direction = random_state(ZHU, 3, norm=1.0)
    near = landscape.classify(ZHU, moved(state, direction, 1e-4))
    assert near.kind == "not critical"
    # The way out is then that of the gradient.
    slope = flat(gradient(ZHU, moved(state, direction, 1e-4)))
    np.testing.assert_allclose(
        flat(near.escape_direction), -slope / np.linalg.norm(slope), atol=rounding()
    )
    assert landscape.classify(ZHU, moved(state, direction, 1e-12)).kind == "minimum"


def test_minima_that_fill_more_than_an_orbit_are_degenerate():
    problem = nc.mixon(3, 5, 2)
    state = nc.exact.strong_collapse(problem, key=jax.random.key(0))
    found = landscape.classify(problem, state)
    assert found.kind == "degenerate"
    # The logits may not move: (K+N)d + K unknowns, N(K-1) + K independent equations.
    assert found.nullity == (3 + 6) * 5 - 6 * 2 > found.symmetries
    assert landscape.global_certificate(problem, state).holds(1e-12)


def test_large_states_are_classified_without_the_matrix(monkeypatch):
    problem = nc.zhu(4, 6, 3, DECAY)
    points = {
        "minimum": minimizer(problem),
        "saddle": saddles(problem)["grouped 2"],
        "random": random_state(problem, 0),
    }
    dense = {name: landscape.classify(problem, state) for name, state in points.items()}
    monkeypatch.setattr(classification, "DENSE_LIMIT", 10)
    # A program of its own, lest one compiled for the other limit is taken.
    by_lanczos = eqx.filter_jit(functools.partial(inspect.unwrap(landscape.classify), problem))
    for name, state in points.items():
        found = by_lanczos(state)
        assert found.kind == dense[name].kind
        assert (found.index, found.nullity) == (-1, -1)
        np.testing.assert_allclose(found.eigenvalue, dense[name].eigenvalue, atol=1e-8)
        np.testing.assert_allclose(found.scale, dense[name].scale, rtol=1e-3)
        assert found.symmetries == dense[name].symmetries


@pytest.mark.parametrize("shape", [(4, 6, 3), (4, 20, 1)])
def test_float32_states_are_classified_as_float64_ones(shape):
    problem = nc.zhu(
        shape[0], shape[1], shape[2], nc.WeightDecay(classifier=0.02, features=0.02, bias=0.01)
    )
    points = {
        "minimum": minimizer(problem),
        "strict saddle": saddles(problem)["grouped 2"],
    }
    for kind, state in points.items():
        double = landscape.classify(problem, state)
        single = landscape.classify(problem, jax.tree.map(lambda x: x.astype("float32"), state))
        assert single.kind == double.kind == kind
        assert single.symmetries == double.symmetries
        assert single.index == double.index
        assert single.eigenvalue.dtype == jnp.float32
        np.testing.assert_allclose(single.eigenvalue, double.eigenvalue, atol=1e-5)


def test_nan_states_and_the_origin_of_a_sphere_are_not_critical():
    broken = jax.tree.map(lambda x: jnp.asarray(np.where(x > 0, x, np.nan)), random_state(ZHU, 0))
    assert landscape.classify(ZHU, broken).kind == "not critical"
    problem = nc.ulpm(3, 2, 2)
    assert on_the_sphere(problem, origin(problem)).kind == "not critical"


def test_a_batch_has_an_array_of_kinds():
    states = stacked([minimizer(ZHU), origin(ZHU), random_state(ZHU, 0)])
    found = jax.jit(jax.vmap(lambda state: landscape.classify(ZHU, state)))(states)
    assert list(found.kind) == ["minimum", "strict saddle", "not critical"]


def test_states_whose_loss_underflows_are_classified_at_a_scale():
    problem = nc.ulpm(4, 4, 1)
    far = jax.tree.map(lambda x: jnp.asarray(40 * np.asarray(x)), nc.exact.example_3_1())
    # q = 3200.
    assert on_the_sphere(problem, far, 3200.0).kind == "strict saddle"
    optimum = nc.exact.collapsed_state(problem, 3200.0)
    assert on_the_sphere(problem, optimum, 3200.0).kind == "minimum"
    # In the whole space it is not critical: the flow goes on outwards.
    assert landscape.classify(problem, optimum, log_scale=3200.0).kind == "not critical"


def test_a_problem_of_another_kind_has_no_known_symmetry():
    class Saddle(nc.problems.AbstractProblem):
        def init(self, key):
            return jax.random.normal(key, (3,))

        def objective(self, state):
            return jnp.sum(jnp.array([1.0, 2.0, -3.0]) * state**2) / 2

        def gradient(self, state):
            return jnp.array([1.0, 2.0, -3.0]) * state

        def scaled_descent(self, state, log_scale):
            return -jnp.exp(log_scale) * self.gradient(state)

        def observe(self, state):
            return {}

        def invariants(self, state):
            return {}

        def largest_log_scale(self, dtype):
            return 700.0

    found = landscape.classify(Saddle(), jnp.zeros(3))
    assert found.kind == "strict saddle"
    np.testing.assert_allclose(found.eigenvalue, -3, rtol=rounding())
    np.testing.assert_allclose(np.abs(found.escape_direction), [0, 0, 1], atol=rounding())
