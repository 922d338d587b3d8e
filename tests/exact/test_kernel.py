"""Closed forms for features with a kernel, against flows, SLSQP and reference numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from dense_kernels import dense_block, dense_classes, random_class_kernel
from hypothesis import given, settings, strategies as st
from jax.flatten_util import ravel_pytree
from tolerances import integration, rounding

import nc_jax as nc
from nc_jax.problems import BlockKernel, ClassKernel, LinearOperator

KEY = jax.random.key(0)
BLOCK = BlockKernel(3.0, 1.2, 0.4)
GROUPS = ClassKernel.superclasses((2, 2), 1.0, 0.6, 0.1)
# Super-classes of two sizes, with several samples and a part within classes.
UNEVEN = ClassKernel.superclasses((3, 2), 1.0, 0.5, 0.2, diagonal=0.3)


def summed(sizes, kernel, **options):
    dim = options.pop("feature_dim", len(sizes) - 1)
    return nc.KernelFeatures(sizes, dim, kernel=kernel, reduction="sum", **options)


def cosines(gram):
    norms = np.sqrt(np.diag(gram))
    return np.asarray(gram) / norms[:, None] / norms


def integrate(problem, start, log_times, *, rtol=1e-10):
    return nc.gradient_flow(
        problem, start, log_times, rtol=rtol, atol=rtol / 100, save_states=True,
        observe=("log_objective",),
    )  # fmt: skip


def test_reference_run_of_the_square_loss():
    problem = summed((3, 3, 3), BLOCK, feature_dim=4, loss=nc.SquaredError(), bias=True)
    classifier = jnp.array([[0.5, 0, 0.1, 0], [0, 0.4, 0, 0.2], [0.1, 0.1, 0.3, 0]])
    steps = jnp.arange(-4.0, 5.0)[:, None] * jnp.array([[1.0, -1.0, 1.0, -1.0]])
    start = nc.LastLayer(0.3 * classifier[problem.labels] + 0.05 * steps, classifier, jnp.zeros(3))
    final = integrate(problem, start, np.log1p([0.0, 1.0])).final
    found = jnp.sum(final.classifier**2), jnp.sum(final.features**2), problem.objective(final)
    np.testing.assert_allclose(found, [2.0967002055, 7.4542656644, 0.0034612465], atol=6e-11)


def test_reference_numbers_of_super_classes():
    problem = summed((1,) * 4, GROUPS)
    rates = nc.exact.kernel_rates(problem)
    np.testing.assert_allclose(1 / rates[[0, 1]], [0.8452, 1.5811], atol=5e-5)
    limit = nc.exact.kernel_limit(problem)
    assert limit.holds
    found = cosines(limit.classifier_gram)[0, [1, 2]], cosines(limit.mean_gram)[0, [1, 2]]
    np.testing.assert_allclose(found[0], [-0.57820656, -0.21089672], atol=5e-9)
    np.testing.assert_allclose(found[1], [-0.03337045, -0.48331477], atol=5e-9)


@pytest.mark.parametrize("loss", [nc.CrossEntropy(), nc.SquaredError()])
def test_rates_are_eigenvalues_of_the_linear_flow_at_the_origin(loss):
    sizes = (3, 1, 2)
    problem = nc.KernelFeatures(sizes, 1, kernel=random_class_kernel(sizes, 5), loss=loss)
    origin = jax.tree.map(jnp.zeros_like, problem.init(KEY))
    flat, unravel = ravel_pytree(origin)

    def field(vector):
        return ravel_pytree(problem.scaled_descent(unravel(vector), 0.0))[0]

    values = np.sort(np.linalg.eigvals(jax.jacobian(field)(flat)).real)[::-1]
    rates = nc.exact.kernel_rates(problem)
    np.testing.assert_allclose(values[: len(rates)], rates, rtol=1e-7)
    assert len(rates) == (2 if loss.is_cross_entropy else 3)


@pytest.mark.parametrize("bias", [True, False])
def test_the_aligned_flow_of_the_square_loss(bias):
    sizes, num_classes = (2,) * 4, 4
    kernel = ClassKernel.superclasses((2, 2), 1.0, 0.6, 0.1, diagonal=0.2)
    problem = nc.KernelFeatures(sizes, 4, kernel=kernel, loss=nc.SquaredError(), bias=bias)
    values = np.linspace(0.05, 0.2, num_classes - bias)
    times = np.array([0.0, 1.0, 4.0, 20.0])
    exact = nc.exact.kernel_square_flow(problem, values, times, key=KEY)
    start = jax.tree.map(lambda leaf: leaf[0], exact)
    assert problem.observe(start)["kernel_balance_norm"] < rounding()
    flow = integrate(problem, start, np.log1p(times))
    for found, expected in zip(jax.tree.leaves(flow.states), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(found, expected, atol=integration(1e-10))


def test_the_aligned_flow_of_a_block_kernel_is_the_formula_of_the_guide():
    problem = summed((3, 3, 3), BLOCK, feature_dim=2, loss=nc.SquaredError(), bias=True)
    size, mean_eigenvalue, first, time = 3, 4.2, 0.04, 0.7
    state = nc.exact.kernel_square_flow(problem, [first, first], time)
    final = np.sqrt(size / mean_eigenvalue)
    decay = np.exp(-2 * np.sqrt(size * mean_eigenvalue) * time)
    expected = final / (1 + (final / first - 1) * decay)
    gram = np.asarray(state.classifier @ state.classifier.T)
    np.testing.assert_allclose(gram, expected * (np.eye(3) - 1 / 3), atol=rounding())


def test_cross_entropy_on_a_simplex_is_that_of_free_features_in_another_time():
    """q' = 2s√(n μ_c) K q/(e^q + K−1): the gap of free features at the time √μ_c t."""
    problem = nc.KernelFeatures((3,) * 3, 2, kernel=BLOCK)
    start = nc.exact.kernel_limit(problem).state(0.5)
    log_times = np.array([0.0, 3.0, 30.0, 300.0 * np.log(10)])
    flow = integrate(problem, start, log_times)
    assert flow.states is not None
    found = flow.states.features @ flow.states.classifier.swapaxes(1, 2)
    gaps = found[:, 0, 0] - found[:, 0, 1]
    plain = nc.UnconstrainedFeatures((3,) * 3, 2)
    # log(1 + √μ_c t) from log(1 + t), for t >= e^3.
    late = log_times[1:]
    scaled = np.logaddexp(0.0, np.log(4.2) / 2 + late + np.log(-np.expm1(-late)))
    expected = [nc.exact.collapsed_gap(plain, 0.5, time) for time in scaled]
    np.testing.assert_allclose(gaps[1:], expected, rtol=1e-8)


def test_a_limit_of_the_identity_is_seli():
    sizes = (4, 2, 1)
    seli = nc.exact.seli(sizes)
    limit = nc.exact.kernel_limit(summed(sizes, BlockKernel(1.0, 0.0, 0.0)))
    np.testing.assert_allclose(limit.classifier_gram, seli.classifier_gram, atol=rounding())
    np.testing.assert_allclose(limit.mean_gram, seli.mean_gram, atol=rounding())
    first = [0, 4, 6]
    np.testing.assert_allclose(limit.multipliers[first], seli.multipliers, atol=rounding())
    assert limit.value == pytest.approx(2.997859313845, abs=1e-11)
    gap = 30.0
    found = nc.exact.kernel_late_geometry(limit.problem, gap)
    expected = nc.exact.late_geometry(sizes, gap)
    for name in ("logits", "classifier_gram", "mean_gram"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), atol=rounding() * gap
        )


@settings(max_examples=12, deadline=None)
@given(sizes=st.lists(st.integers(1, 3), min_size=2, max_size=4), seed=st.integers(0, 999))
def test_the_limit_is_optimal_where_its_multipliers_are_positive(sizes, seed):
    """Formulas against a dense Θ: KKT point and weak duality, for any symmetric kernel."""
    sizes = tuple(sizes)
    kernel = random_class_kernel(sizes, seed)
    problem = summed(sizes, kernel)
    limit = nc.exact.kernel_limit(problem)
    theta = dense_classes(sizes, kernel.matrix, kernel.diagonal)
    values, vectors = np.linalg.eigh(theta)
    root = (vectors * np.sqrt(values)) @ vectors.T
    projector = np.eye(len(sizes)) - 1 / len(sizes)
    logits = projector[problem.labels]
    nuclear = np.linalg.norm(np.linalg.solve(root, logits), "nuc")
    scale = np.linalg.cond(theta)
    assert limit.value == pytest.approx(nuclear, rel=rounding() * scale)
    # Sums of multipliers and value agree: no duality gap, whatever the signs are.
    assert np.sum(limit.multipliers) == pytest.approx(nuclear, rel=rounding() * scale)
    dual = -limit.multipliers
    dual[np.arange(len(dual)), problem.labels] = -dual.sum(axis=1)
    assert np.linalg.norm(root @ dual, 2) <= 1 + rounding() * scale
    state = limit.state(2.0, key=KEY)
    np.testing.assert_allclose(state.logits(), 2.0 * logits, atol=rounding() * scale)
    # H = ΘBW of the KKT conditions.
    expected = theta @ dual @ np.asarray(state.classifier)
    np.testing.assert_allclose(state.features, expected, atol=rounding() * scale)


def least_value(theta, labels, num_classes, seed):
    """½‖W‖² + ½‖A‖² with all margins >= 1, by SLSQP from a random start, A = Θ^(−½)H."""
    values, vectors = np.linalg.eigh(theta)
    root, dim = (vectors * np.sqrt(values)) @ vectors.T, num_classes
    shape, rows = (len(labels), dim), len(labels) * dim
    wrong = labels[:, None] != np.arange(num_classes)

    def margins(flat):
        logits = root @ flat[:rows].reshape(shape) @ flat[rows:].reshape(num_classes, dim).T
        return (logits[np.arange(len(labels)), labels][:, None] - logits)[wrong] - 1

    start = np.random.default_rng(seed).normal(size=rows + num_classes * dim)
    found = scipy.optimize.minimize(
        lambda x: x @ x / 2, start, jac=lambda x: x, method="SLSQP",
        constraints={"type": "ineq", "fun": margins}, options={"maxiter": 300, "ftol": 1e-13},
    )  # fmt: skip
    # Status 8: rounding hides any further descent, which depends on the processor.
    assert found.status in (0, 8)
    assert margins(found.x).min() > -1e-9
    return found.fun


@pytest.mark.parametrize(
    ("sizes", "kernel"), [((2, 1, 1), BLOCK), ((1,) * 4, GROUPS), ((2, 1, 1, 1, 1), UNEVEN)]
)
def test_the_value_is_that_of_slsqp(sizes, kernel):
    limit = nc.exact.kernel_limit(summed(sizes, kernel))
    assert limit.holds
    if isinstance(kernel, BlockKernel):
        theta = dense_block(sizes, 3.0, 1.2, 0.4)
    else:
        theta = dense_classes(sizes, kernel.matrix, kernel.diagonal)
    found = least_value(theta, limit.problem.labels, len(sizes), 0)
    assert found == pytest.approx(limit.value, rel=1e-7)


def test_where_a_multiplier_is_negative_another_point_is_better():
    # Classes on a ring, similar to their neighbours.
    steps = np.subtract.outer(np.arange(4), np.arange(4)) % 4
    matrix = np.array([1.0, 0.4, -0.1, 0.4])[steps]
    problem = summed((1,) * 4, ClassKernel(matrix))
    limit = nc.exact.kernel_limit(problem)
    assert not limit.holds
    assert least_value(matrix, problem.labels, 4, 0) < limit.value - 1e-4
    with pytest.raises(ValueError, match="all are positive"):
        nc.exact.kernel_late_geometry(problem, 50.0)


def ultrametric(size, rng, base=0.0):
    """A random ultrametric kernel: similarities grow along a random binary tree."""
    if size == 1:
        return np.full((1, 1), base + rng.exponential())
    cut = int(rng.integers(1, size))
    matrix = np.full((size, size), base)
    for part in (slice(0, cut), slice(cut, size)):
        step = rng.exponential() * rng.choice([0.01, 1.0, 10.0])
        matrix[part, part] = ultrametric(part.stop - part.start, rng, base + step)
    return matrix


def test_multipliers_of_ultrametric_kernels_are_positive():
    rng = np.random.default_rng(0)
    for _ in range(20):
        kernel = ClassKernel(ultrametric(int(rng.integers(3, 7)), rng))
        assert nc.exact.kernel_limit(summed((1,) * len(kernel.matrix), kernel)).holds


@pytest.mark.parametrize(
    ("sizes", "kernel"), [((1,) * 4, GROUPS), ((4, 1, 2, 1, 1), UNEVEN), ((5, 1, 1), BLOCK)]
)
def test_late_flows_have_the_predicted_geometry(sizes, kernel):
    """Ten times closer than the limit at t = 10^130, and 50 times at 10^600."""
    problem = summed(sizes, kernel)
    limit = nc.exact.kernel_limit(problem)
    log_times = np.log(10) * np.array([0.0, 130.0, 600.0])
    flow = integrate(problem, limit.state(1.0), log_times, rtol=1e-9)
    first = np.cumsum([0, *sizes[:-1]])
    for i, closer in ((1, 10), (2, 50)):
        state = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), flow.states)
        means = state.features[first]
        gap = nc.exact.late_gap(log_times[i])
        predicted = nc.exact.kernel_late_geometry(problem, gap)
        grams = [
            (state.classifier @ state.classifier.T, predicted.classifier_gram,
             limit.classifier_gram),
            (means @ means.T, predicted.mean_gram, limit.mean_gram),
        ]  # fmt: skip
        for found, near, far in grams:
            found, near, far = (gram / np.trace(gram) for gram in (found, near, far))
            assert closer * np.linalg.norm(found - near) < np.linalg.norm(found - far)
        # Margins, order by order.
        logits = means @ state.classifier.T
        errors = [
            np.ptp(logits - logits.mean(axis=1, keepdims=True) - np.asarray(
                nc.exact.kernel_late_geometry(problem, gap, order=order).logits
            ))
            for order in (1, 2)
        ]  # fmt: skip
        assert errors[1] < errors[0] / 5
        log_loss = float(flow.observables["log_objective"][i])
        expected = float(nc.exact.late_loss(limit.value, log_times[i]))
        assert log_loss == pytest.approx(expected, abs=10 / log_times[i])


def test_offsets_do_not_depend_on_the_start():
    problem = summed((1,) * 4, GROUPS)
    limit = nc.exact.kernel_limit(problem)
    log_time = 300 * np.log(10)
    flow = integrate(problem, problem.init(KEY), np.array([0.0, log_time]), rtol=1e-8)
    logits = np.asarray(flow.final.logits())
    wrong = ~np.eye(4, dtype=bool)
    margins = (np.diag(logits)[:, None] - logits)[wrong]
    spread = np.ptp(margins + np.log(limit.multipliers[wrong]))
    assert spread < 10 / log_time < np.ptp(np.log(limit.multipliers[wrong])) / 10


def test_a_dense_operator_gives_the_limit_of_its_class_kernel():
    sizes = (2, 1, 3)
    kernel = random_class_kernel(sizes, 2)
    theta = jnp.asarray(dense_classes(sizes, kernel.matrix, kernel.diagonal))
    operator = LinearOperator(lambda rows: theta @ rows, lambda rows: jnp.linalg.solve(theta, rows))
    found, expected = (nc.exact.kernel_limit(summed(sizes, k)) for k in (operator, kernel))
    np.testing.assert_allclose(found.classifier_gram, expected.classifier_gram, rtol=1e-10)
    np.testing.assert_allclose(found.multipliers, expected.multipliers, atol=1e-10)


def test_an_operator_that_is_constant_on_no_class_has_collapsed_features_in_the_limit():
    sizes = (2, 1, 2)
    root = np.random.default_rng(4).normal(size=(5, 5)) / 4
    theta = jnp.asarray(np.eye(5) + root @ root.T)
    operator = LinearOperator(lambda rows: theta @ rows, lambda rows: jnp.linalg.solve(theta, rows))
    problem = summed(sizes, operator)
    limit = nc.exact.kernel_limit(problem)
    assert limit.holds
    assert least_value(theta, problem.labels, 3, 1) == pytest.approx(limit.value, rel=1e-7)
    with pytest.raises(ValueError, match="equal within classes"):
        nc.exact.kernel_square_flow(
            nc.KernelFeatures((2, 2), 2, kernel=LinearOperator(
                lambda rows: theta[:4, :4] @ rows,
                lambda rows: jnp.linalg.solve(theta[:4, :4], rows),
            ), loss=nc.SquaredError()), [0.1, 0.1], 1.0,
        )  # fmt: skip


def test_closed_forms_with_a_known_kernel_under_jit():
    gap = 100.0
    problem = summed((3, 2, 1), BLOCK)
    found = jax.jit(lambda q: nc.exact.kernel_late_geometry(problem, q).classifier_gram)(gap)
    exact = nc.exact.kernel_late_geometry(problem, gap).classifier_gram
    np.testing.assert_allclose(found, exact, rtol=rounding())
    square = summed((3, 3), BLOCK, feature_dim=2, loss=nc.SquaredError())
    start = [0.1, 0.2]
    flow = jax.jit(lambda t: nc.exact.kernel_square_flow(square, start, t).classifier)(1.0)
    exact = nc.exact.kernel_square_flow(square, start, 1.0).classifier
    np.testing.assert_allclose(flow, exact, rtol=rounding())


def test_a_traced_kernel_is_refused():
    problem = summed((3, 2, 1), ClassKernel(np.eye(3), 1.0))
    with pytest.raises(ValueError, match="problem has traced numbers"):
        jax.jit(lambda p: jnp.asarray(nc.exact.kernel_limit(p).value))(problem)
