"""Features with a kernel: products against dense matrices, the flow, its invariants and claims."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense_kernels import dense_block, dense_classes, dense_flow, random_class_kernel
from hypothesis import given, settings, strategies as st
from tolerances import integration, rounding

import nc_jax as nc
from nc_jax.problems import BlockKernel, ClassKernel, LinearOperator

KEY = jax.random.key(0)
OBSERVED = ("kernel_alignment", "kernel_balance_drift", "classifier_sum_drift")
BLOCK = BlockKernel(3.0, 1.2, 0.4)
SIZES = st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple)


def dense(kernel, sizes):
    if isinstance(kernel, BlockKernel):
        numbers = kernel.same_sample, kernel.same_class, kernel.other_class
        return dense_block(sizes, *(float(number) for number in numbers))
    return dense_classes(sizes, kernel.matrix, kernel.diagonal)


@settings(max_examples=12, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 99), block=st.booleans())
def test_products_and_solutions_are_those_of_the_dense_matrix(sizes, seed, block):
    rng = np.random.default_rng(seed)
    across, within, sample = np.cumsum(rng.uniform(0.1, 1.0, 3)).tolist()
    kernel = BlockKernel(sample, within, across) if block else random_class_kernel(sizes, seed)
    matrix, rows = dense(kernel, sizes), rng.normal(size=(sum(sizes), 2, 3))
    product = jax.jit(lambda rows: kernel.product(rows, sizes))(rows)
    np.testing.assert_allclose(
        product, np.einsum("ij,jab->iab", matrix, rows), atol=rounding() * np.abs(matrix).sum()
    )
    assert kernel.check(sizes)
    back = jax.jit(lambda rows: kernel.solution(rows, sizes))(product)
    np.testing.assert_allclose(back, rows, atol=rounding() * np.linalg.cond(matrix) * 10)


def test_eigenvalues_of_a_block_kernel_of_equal_classes():
    size, count, (own, within, across) = 3, 4, (3.0, 1.2, 0.4)
    sizes = (size,) * count
    found = np.linalg.eigvalsh(BLOCK.product(jnp.eye(size * count), sizes))
    mean = own - within + size * (within - across)
    total = mean + size * count * across
    expected = [own - within] * (count * (size - 1)) + [mean] * (count - 1) + [total]
    np.testing.assert_allclose(found, sorted(expected), rtol=rounding())
    assert mean == pytest.approx(4.2)


@pytest.mark.parametrize(
    ("kernel", "sizes", "inverse"),
    [
        (BlockKernel(1.0, 1.0, 0.5), (2, 2), False),
        (BlockKernel(1.0, 1.0, 0.5), (1, 1), True),
        (BlockKernel(1.0, 0.5, 0.5), (2, 1), True),
        (BlockKernel(1.0, 1.0, 1.0), (1, 1), False),
        (BlockKernel(1.0, 0.2, -0.2), (2, 2), True),
        (ClassKernel(np.eye(2)), (1, 1), True),
        (ClassKernel(np.eye(2)), (2, 1), False),
        (ClassKernel(np.zeros((2, 2)), 1.0), (2, 1), True),
        # A negative diagonal of a class of one sample, which has no deviations.
        (ClassKernel(2 * np.eye(2), np.array([1.0, -1.0])), (2, 1), True),
    ],
)
def test_a_kernel_has_an_inverse_where_its_dense_matrix_has_one(kernel, sizes, inverse):
    assert nc.KernelFeatures(sizes, 2, kernel=kernel).has_inverse == inverse
    assert (np.linalg.eigvalsh(dense(kernel, sizes))[0] > 1e-9) == inverse


@pytest.mark.parametrize(
    ("loss", "bias", "reduction"),
    [(nc.CrossEntropy(), False, "mean"), (nc.SquaredError(), True, "sum")],
)
def test_the_flow_is_that_of_a_dense_kernel_integrated_by_scipy(loss, bias, reduction):
    sizes, times = (3, 1, 2), np.array([0.0, 0.5, 3.0])
    kernel = random_class_kernel(sizes, 3) if bias else BLOCK
    problem = nc.KernelFeatures(sizes, 3, kernel=kernel, loss=loss, bias=bias, reduction=reduction)
    start = problem.init(KEY, 1.5)
    flow = nc.gradient_flow(
        problem, start, np.log1p(times), rtol=1e-10, atol=1e-12, save_states=True,
        observe=("kernel_balance_norm",),
    )  # fmt: skip
    expected = dense_flow(problem, dense(kernel, sizes), start, times)
    for i, state in enumerate(expected):
        for name, value in zip(("features", "classifier", "bias"), state, strict=True):
            found = getattr(flow.states, name)
            if found is not None:
                np.testing.assert_allclose(found[i], value, atol=integration(1e-10))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_invariants_are_conserved_to_late_times(dtype):
    sizes = (4, 2, 1)
    problem = nc.KernelFeatures(sizes, 3, kernel=random_class_kernel(sizes, 0), reduction="sum")
    start = problem.init(KEY, 1.0, dtype=dtype)
    rtol = 1e-9 if dtype == "float64" else 1e-5
    times = nc.log_times(300 if dtype == "float64" else 20, 5)
    flow = nc.gradient_flow(problem, start, times, rtol=rtol, observe=OBSERVED)
    for name in ("kernel_balance_drift", "classifier_sum_drift"):
        assert np.max(np.asarray(flow.observables[name])) < integration(rtol)
    assert flow.observables["kernel_alignment"].dtype == dtype


def test_the_velocity_is_the_kernel_times_the_gradient_and_free_of_underflow():
    sizes = (3, 1, 2)
    problem = nc.KernelFeatures(sizes, 3, kernel=BLOCK, bias=True)
    state = problem.init(KEY, 2.0)
    plain = jax.grad(problem.objective)(state)
    velocity = problem.scaled_descent(state, 0.0)
    expected = -dense(BLOCK, sizes) @ np.asarray(plain.features)
    np.testing.assert_allclose(velocity.features, expected, atol=rounding())
    np.testing.assert_allclose(velocity.classifier, -plain.classifier, atol=rounding())
    gradient = problem.gradient(state)
    np.testing.assert_allclose(gradient.features, -velocity.features, atol=rounding())
    # At margins of 1000 the gradient is 0 in floats, and the scaled one of order 1.
    far = nc.LastLayer(40.0 * jnp.eye(3)[problem.labels], 40.0 * jnp.eye(3), jnp.zeros(3))
    scaled = problem.scaled_descent(far, 1600.0)
    assert 1e-3 < float(jnp.linalg.norm(scaled.features)) < 1e3


@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 1, 2)])
def test_lanes_are_states(sizes):
    kernels = BLOCK, random_class_kernel(sizes, 1), LinearOperator(lambda rows: 2 * rows)
    for kernel in kernels:
        problem = nc.KernelFeatures(sizes, 3, kernel=kernel)
        states = jax.jit(jax.vmap(problem.init))(jax.random.split(KEY, 5))
        lanes = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), states)
        found = eqx.filter_jit(problem.scaled_descent_lanes)(lanes, 1.0)
        descent = jax.vmap(lambda s, p=problem: p.scaled_descent(s, 1.0), out_axes=-1)
        expected = jax.jit(descent)(states)
        for name in ("features", "classifier"):
            np.testing.assert_allclose(
                getattr(found, name), getattr(expected, name), atol=rounding()
            )


def test_the_identity_is_the_model_of_free_features():
    sizes = (2, 1, 3)
    free = nc.UnconstrainedFeatures(sizes, 3)
    problem = nc.KernelFeatures(sizes, 3, kernel=BlockKernel(1.0, 0.0, 0.0))
    state = problem.init(KEY)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, state, free.init(KEY)))
    found, expected = problem.scaled_descent(state, 0.5), free.scaled_descent(state, 0.5)
    np.testing.assert_allclose(found.features, expected.features, rtol=rounding())
    values = problem.observe(state), free.observe(state)
    np.testing.assert_allclose(
        values[0]["kernel_balance_norm"], values[1]["balance_norm"], rtol=rounding()
    )
    np.testing.assert_allclose(
        values[0]["kernel_separation_value"], values[1]["separation_value"], rtol=rounding()
    )


def test_a_batch_of_flows_is_a_flow_of_each():
    problem = nc.KernelFeatures((2, 2), 2, kernel=BLOCK)
    flow = nc.Flow(problem, nc.log_times(10, 3), observe=("margin_min",))
    starts = jax.vmap(problem.init)(jax.random.split(KEY, 2))
    batch = flow.batch(starts).observables["margin_min"]
    alone = flow(jax.tree.map(lambda leaf: leaf[1], starts)).observables["margin_min"]
    np.testing.assert_allclose(batch[1], alone, rtol=integration(1e-8))


def test_descent_follows_the_kernel():
    import optax

    problem = nc.KernelFeatures((2, 2), 2, kernel=BLOCK)
    start = problem.init(KEY)
    descent = nc.gradient_descent(problem, start, optax.sgd(0.1), 1, observe=("margin_min",))
    velocity = problem.scaled_descent(start, 0.0)
    expected = jax.tree.map(lambda a, b: a + 0.1 * b, start, velocity)
    np.testing.assert_allclose(descent.final.features, expected.features, rtol=rounding())


def test_claims():
    problem = nc.KernelFeatures((2, 2), 2, kernel=BLOCK)
    assert nc.problems.is_kernel_features(problem)
    assert not problem.is_gradient_flow
    assert not nc.problems.has_free_features(problem)
    state = problem.init(KEY)
    with pytest.raises(ValueError, match="is_gradient_flow = False"):
        nc.landscape.dense_hessian(problem, state)
    with pytest.raises(ValueError, match="KernelFeatures"):
        nc.exact.regularized_minimum(problem)

    class Other(nc.KernelFeatures):
        __init__ = nc.KernelFeatures.__init__

        def scaled_descent(self, state, log_scale):
            return jax.tree.map(jnp.zeros_like, state)

    other = Other((2, 2), 2, kernel=BLOCK)
    assert not nc.problems.is_kernel_features(other)
    assert other.invariants(state) == {}


def test_a_singular_kernel_has_no_invariant_of_the_features():
    problem = nc.KernelFeatures((2, 2), 2, kernel=ClassKernel(np.eye(2)))
    state = problem.init(KEY)
    assert set(problem.invariants(state)) == {"classifier_sum"}
    velocity = problem.scaled_descent(state, 0.0).features
    # Deviations from class means do not move.
    np.testing.assert_allclose(velocity[0], velocity[1], rtol=rounding())
