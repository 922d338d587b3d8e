"""The renormalised flow on the central path: its projection, its closed form and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import integration, rounding

import nc_jax as nc
from nc_jax.problems import CentralPath
from nc_jax.problems.central_path import class_contrasts

KEY = jax.random.key(11)
# Balanced and not, d = K−1, d > K and d < K−1.
MODELS = {
    "balanced": CentralPath((6,) * 4, 5),
    "d = K - 1": CentralPath((3,) * 3, 2),
    "d < K - 1": CentralPath((4,) * 4, 2),
    "unequal": CentralPath((3, 5, 2, 4), 4),
}
BALANCED = ["balanced", "d = K - 1", "d < K - 1"]


def covariance(problem, state):
    deviations = problem.split(state)[1]
    return deviations.T @ deviations / problem.num_samples


def least_squares(problem, state):
    """The least value of the square loss over W and b, by NumPy."""
    columns = np.concatenate([np.asarray(state), np.ones((problem.num_samples, 1))], axis=1)
    targets = np.eye(problem.num_classes)[problem.labels]
    solution = np.linalg.lstsq(columns, targets, rcond=None)[0]
    return np.sum((columns @ solution - targets) ** 2) / (2 * problem.num_samples)


@pytest.mark.parametrize("name", MODELS)
def test_the_objective_is_the_least_square_loss_at_any_features(name):
    problem = MODELS[name]
    for state in (problem.init(KEY, 2.0), jax.random.normal(KEY, problem.state_shapes().shape)):
        found = problem.objective(state)
        np.testing.assert_allclose(found, least_squares(problem, state), rtol=rounding())


@pytest.mark.parametrize("name", MODELS)
def test_starts_fulfil_the_constraint_and_retraction_is_the_nearest_point(name):
    problem = MODELS[name]
    eye = np.eye(problem.feature_dim)
    np.testing.assert_allclose(covariance(problem, problem.init(KEY)), eye, atol=rounding())
    given = jax.random.normal(KEY, problem.state_shapes().shape)
    nearest = problem.retract(given)
    np.testing.assert_allclose(covariance(problem, nearest), eye, atol=rounding())
    # The step to the nearest point is normal: E S with a symmetric S, and no part of the means.
    means, deviations = problem.split(nearest)
    step = given - nearest
    np.testing.assert_allclose(problem.split(given)[0], means, atol=rounding())
    factor = deviations.T @ step / problem.num_samples
    np.testing.assert_allclose(factor, factor.T, atol=rounding())
    np.testing.assert_allclose(deviations @ factor, step, atol=rounding())


@pytest.mark.parametrize("name", MODELS)
def test_the_velocity_is_the_projected_gradient(name):
    """The projection by least squares over a basis of the normal space, against the formula."""
    problem = MODELS[name]
    state = problem.init(KEY, 2.0)
    gradient = np.asarray(jax.jit(jax.grad(problem.objective))(state)).ravel()
    deviations = np.asarray(problem.split(state)[1])
    dim = problem.feature_dim
    normals = []
    for i in range(dim):
        for j in range(i, dim):
            symmetric = np.zeros((dim, dim))
            symmetric[i, j] = symmetric[j, i] = 1
            normals.append((deviations @ symmetric).ravel())
    basis, _ = np.linalg.qr(np.array(normals).T)
    tangent = gradient - basis @ (basis.T @ gradient)
    assert np.abs(tangent - gradient).max() > 1e-3  # the projection is not empty
    found = jax.jit(problem.gradient)(state)
    np.testing.assert_allclose(found.ravel(), tangent, atol=rounding())
    # Tangent: the derivative of Σ_W along the velocity is 0. No deviation moves.
    _, change = jax.jvp(jax.jit(lambda x: covariance(problem, x)), (state,), (found,))
    np.testing.assert_allclose(change, 0, atol=rounding())
    assert jnp.abs(problem.split(found)[1]).max() < rounding()
    scaled = jax.jit(problem.scaled_descent)(state, np.log(5.0))
    np.testing.assert_allclose(scaled, -5 * found, rtol=rounding(), atol=rounding())


def singular_parts(problem, state):
    """Singular values and both projectors of each mode of the whitened centred means."""
    means = np.asarray(problem.split(state)[0])
    left, singular, right = np.linalg.svd(means - means.mean(axis=0))
    modes = min(problem.num_classes - 1, problem.feature_dim)
    return (
        singular[:modes],
        [np.outer(left[:, j], left[:, j]) for j in range(modes)],
        [np.outer(right[j], right[j]) for j in range(modes)],
    )


@pytest.mark.parametrize("name", BALANCED)
def test_the_balanced_flow_is_the_closed_form_with_fixed_singular_vectors(name):
    problem, classes = MODELS[name], MODELS[name].num_classes
    start = problem.init(KEY, 3.0)
    first, left, right = singular_parts(problem, start)
    assert np.all(first[:-1] / first[1:] > 1.1)  # unequal modes
    flow = nc.Flow(problem, np.log1p([1.0, 1e3, 1e6]), rtol=1e-10, atol=1e-12)
    run = flow(start)
    exact = nc.exact.central_path(first, run.log_time[:, None], classes, problem.class_sizes[0])
    found = run.observables["singular_values"]
    np.testing.assert_allclose(found[:, : len(first)], exact, rtol=integration(1e-10))
    np.testing.assert_array_equal(found[:, len(first) :], 0)
    # Of the loss and its parts, and of NC1.
    missing = classes - 1 - len(first)
    modes = jnp.pad(exact, ((0, 0), (0, missing)))
    squares, bound = np.asarray(modes) ** 2, integration(1e-10)
    for key, value in {
        "objective": nc.exact.central_path_loss(modes, classes),
        "han_loss_nc1": np.sum(squares / (classes + squares) ** 2, axis=1) / 2,
        "han_loss_nc23": np.sum(classes / (classes + squares) ** 2, axis=1) / 2,
        "zhu_nc1": np.sum(1 / np.asarray(exact) ** 2, axis=1),
    }.items():
        np.testing.assert_allclose(run.observables[key], value, rtol=bound, err_msg=key)
    # Singular vectors of the end are those of the start; degenerate modes mix at a rate 1/gap.
    _, last_left, last_right = singular_parts(problem, run.final)
    gap = np.min(-np.diff(exact[-1])) / exact[-1, 0] if len(first) > 1 else 1.0
    for expected, got in zip([*left, *right], [*last_left, *last_right], strict=True):
        np.testing.assert_allclose(got, expected, atol=integration(1e-10) / gap)
    for key in ("deviations_drift", "sample_mean_drift"):
        assert np.all(run.observables[key] < rounding(operations=1000))


def test_the_constants_of_the_modes_are_conserved_in_real_time():
    """n [K² log ω + K ω² + ω⁴/4] − t of each mode, by a flow in the clock of t."""
    problem = MODELS["balanced"]
    times = np.array([0.1, 10.0, 200.0])
    flow = nc.Flow(
        problem, times, clock=nc.RealTime(), rtol=1e-10, atol=1e-12, observe=("singular_values",)
    )
    found = np.asarray(flow(problem.init(KEY)).observables["singular_values"])
    constants = 6 * (16 * np.log(found) + 4 * found**2 + found**4 / 4) - times[:, None]
    np.testing.assert_allclose(constants, constants[:1].repeat(3, axis=0), rtol=1e-8)


def test_an_unequal_flow_tends_to_its_limit_with_the_predicted_correction():
    """M Mᵀ = √t G − 2 D^(-½) Q D^(-½) + …, D = diag(n_c/N), from any start (derived)."""
    problem = MODELS["unequal"]
    flow = nc.Flow(problem, np.log1p([1e8]), rtol=1e-9, observe=("zhu_nc2",))
    run = flow(problem.init(KEY, 2.0))
    means = np.asarray(problem.split(run.final)[0])
    contrasts, shares = class_contrasts(problem.class_sizes)
    centred = means - shares @ means
    limit = 1e4 * nc.exact.central_path_gram(problem.class_sizes)
    scaled = contrasts / np.sqrt(shares)[:, None]
    predicted = limit - 2 * scaled @ scaled.T
    distance, missing = (
        np.linalg.norm(centred @ centred.T - gram) / np.linalg.norm(limit)
        for gram in (limit, predicted)
    )
    assert 10 * missing < distance < 0.01
    assert run.observables["zhu_nc2"][-1] > 0.05  # no simplex ETF


def test_modes_of_unequal_classes_that_are_aligned_have_a_closed_form_each():
    """With left vectors that are eigenvectors β of B: log s + s² + s⁴/4 = βt/N + constant."""
    sizes = (3, 5, 2, 4)
    problem = MODELS["unequal"]
    contrasts, shares = class_contrasts(sizes)
    values, vectors = np.linalg.eigh((contrasts.T * shares) @ contrasts)
    first = np.array([0.4, 1.0, 2.0])
    aligned = contrasts @ (vectors * first) @ np.eye(3, 4) / np.sqrt(shares)[:, None]
    deviations = problem.split(problem.init(KEY))[1]
    flow = nc.Flow(problem, np.log1p([1e4]), rtol=1e-10, atol=1e-12, observe=("objective",))
    run = flow(jnp.asarray(aligned)[problem.labels] + deviations)
    final = np.asarray(problem.split(run.final)[0])
    last = vectors.T @ contrasts.T @ (np.sqrt(shares)[:, None] * final)
    np.testing.assert_allclose(last[:, 3], 0, atol=rounding())
    np.testing.assert_allclose(last[:, :3] - np.diag(np.diag(last[:, :3])), 0, atol=1e-9)

    def constant(s):
        return np.log(s) + s**2 + s**4 / 4

    elapsed = constant(np.diag(last[:, :3])) - constant(first)
    np.testing.assert_allclose(elapsed, values * 1e4 / sum(sizes), rtol=1e-8)


def test_nc1_falls_as_the_root_and_nc2_as_the_inverse_of_time():
    problem = MODELS["balanced"]
    times = np.log1p([1e8, 1e10])
    flow = nc.Flow(problem, times, rtol=1e-11, atol=1e-13, observe=("zhu_nc1", "zhu_nc2"))
    run = flow(problem.init(KEY, 2.0))
    nc1, nc2 = (np.asarray(run.observables[name]) for name in ("zhu_nc1", "zhu_nc2"))
    # NC1 = Σ 1/ω_j² ~ (K−1) √n/(2 √t), NC2 a difference of singular values.
    np.testing.assert_allclose(nc1, 3 * np.sqrt(6) / (2 * np.array([1e4, 1e5])), rtol=2e-3)
    np.testing.assert_allclose(np.log10(nc2[0] / nc2[1]), 2, atol=0.01)


def test_the_class_means_are_exact_where_the_deviations_have_no_digits_left():
    """At t = 10^70 the means are of size 10^17, and deviations of size 1 are lost in the sum."""
    problem = MODELS["d = K - 1"]
    start = problem.init(KEY, 3.0)
    times = np.array([70 * np.log(10)])
    flow = nc.Flow(problem, times, rtol=1e-9, observe=("objective",))
    run = flow(start)
    exact = nc.exact.central_path(singular_parts(problem, start)[0], times[0], 3, 3)
    found = singular_parts(problem, run.final)[0]
    np.testing.assert_allclose(found, exact, rtol=integration(1e-9))


def test_a_start_in_float32_stays_in_float32():
    problem = MODELS["d = K - 1"]
    state = problem.init(KEY, dtype="float32")
    observed = jax.jit(problem.observe)(state)
    assert {value.dtype for value in observed.values()} == {np.dtype("float32")}
    assert problem.scaled_descent(state, 2.0).dtype == np.float32
    np.testing.assert_allclose(
        problem.objective(state), least_squares(problem, state), rtol=rounding("float32")
    )


def test_the_classifier_is_that_of_least_squares():
    problem = MODELS["unequal"]
    start = problem.init(KEY, 2.0)
    gap_of = jax.jit(lambda state: problem.observe(state)["within_covariance_gap"])
    assert gap_of(start) < rounding()
    assert gap_of(2 * start) == pytest.approx(3 * np.sqrt(4), rel=rounding())  # ‖4I − I‖
    layer = problem.last_layer(start)
    parts = nc.metrics.square_loss_parts(layer, problem.labels)
    assert parts.perp < rounding() ** 2
    np.testing.assert_allclose(sum(parts), problem.objective(layer.features), rtol=rounding())
