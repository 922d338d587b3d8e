"""What lanes and stacked states share: each is held to the plain path, one state at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tolerances import rounding

import nc_jax as nc
from nc_jax.lanes import formed, product, reduce_classes

LANES = 5
# Compilation is what these cost: few shapes, all from this list.
FEW = settings(max_examples=5)


class Logistic(nc.losses.Loss):
    """Σ_j softplus(∓z_j), − at the label: a user's loss, which knows nothing of lanes."""

    def value(self, logits, labels):
        return jnp.sum(jax.nn.softplus(-self._signs(logits, labels) * logits), axis=1)

    def gradient(self, logits, labels):
        signs = self._signs(logits, labels)
        return -signs * jax.nn.sigmoid(-signs * logits)

    def _signs(self, logits, labels):
        return 2 * jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype) - 1


DECAY = nc.WeightDecay(classifier=0.1, features=jnp.asarray(0.2), bias=0.3)
PROBLEMS = {
    "ulpm": nc.ulpm(3, 4, 2),
    "mixon": nc.mixon(3, 5, 2),
    "zhu": nc.zhu(3, 4, 2, DECAY),
    "unequal classes": nc.UnconstrainedFeatures(
        (1, 4, 2), 2, loss=nc.SquaredError(), reduction="mean"
    ),
    "unequal classes, bias, sum": nc.UnconstrainedFeatures(
        (1, 4, 2), 3, reduction="sum", bias=True, weight_decay=DECAY
    ),
    "a loss without lanes": nc.UnconstrainedFeatures((2, 1, 3), 4, loss=Logistic(), bias=True),
    "linearized": nc.LinearizedMixon(3, 5, 2),
    "net": nc.NormalizedReLUNet(
        np.eye(3)[[0, 1, 2, 0]] / 2, np.array([1.0, -1.0, 1.0, -1.0]), (4, 3), weight_decay=0.02
    ),
}


def normal(seed, *shape, scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=shape)


def random_states(problem):
    """Starts beside each other, moved so that no bias is 0."""
    keys = jax.random.split(jax.random.key(3), LANES)
    states = jax.vmap(problem.init, out_axes=-1)(keys, 2 * jnp.ones(LANES))
    leaves, structure = jax.tree.flatten(states)
    moved = [x + 0.5 * normal(i, *x.shape) for i, x in enumerate(leaves)]
    return jax.tree.unflatten(structure, moved)


def assert_same_to_rounding(found, expected, operations=100):
    """Relative to the largest entry of each leaf, since sums of other order cancel otherwise."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        tolerance = rounding(one.dtype, operations) * np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


@FEW
@given(st.sampled_from([(1, 1, 1), (3, 2, 4), (2, 7, 1)]), st.sampled_from([1, LANES]))
def test_product_is_the_matrix_product_of_each_lane(shape, lanes):
    rows, terms, columns = shape
    left, right = normal(0, rows, terms, lanes), normal(1, terms, columns, lanes)
    found = jax.jit(product)(left, right)
    assert_same_to_rounding(found, np.einsum("its,tjs->ijs", left, right))


@pytest.mark.parametrize("shape", [(4, 3), (4, 300), (4, 3, LANES), (2, 300, 3), (2, 3, 2, 4)])
@pytest.mark.parametrize(("combine", "oracle"), [(jnp.add, np.sum), (jnp.maximum, np.max)])
def test_reduce_classes_is_over_classes_alone(shape, combine, oracle):
    scores = normal(2, *shape)
    found = reduce_classes(combine, jnp.asarray(scores))
    assert_same_to_rounding(found, oracle(scores, axis=1, keepdims=True), 300)


def test_a_largest_class_may_be_infinite_or_unknown():
    scores = np.array([[1.0, np.inf, -np.inf], [np.nan, 0.0, 1.0], [-np.inf, -np.inf, -np.inf]])
    found = reduce_classes(jnp.maximum, jnp.asarray(scores)[..., None])
    np.testing.assert_array_equal(found[..., 0], np.max(scores, axis=1, keepdims=True))


SPECIAL = np.array([[1.5, -0.0, np.nan], [np.inf, -np.inf, 1e-310]])


@pytest.mark.parametrize("witness", [0.0, np.nan, np.inf, -np.inf])
def test_formed_preserves_every_value(witness):
    values = {"a": jnp.asarray(SPECIAL), "b": jnp.arange(3.0, dtype="float32")}
    found = jax.jit(formed)(values, jnp.full((2, 2), witness))
    assert (found["a"].dtype, found["b"].dtype) == ("float64", "float32")
    np.testing.assert_array_equal(found["a"], SPECIAL)
    np.testing.assert_array_equal(np.signbit(found["a"]), np.signbit(SPECIAL))
    np.testing.assert_array_equal(found["b"], [0, 1, 2])


def test_formed_is_the_identity_lane_by_lane_whatever_the_witnesses():
    values, witnesses = normal(4, 4, 3), jnp.asarray([[0.0], [np.nan], [np.inf], [1.0]])
    found = jax.jit(jax.vmap(formed))(jnp.asarray(values), witnesses)
    np.testing.assert_array_equal(found, values)


def test_a_derivative_passes_formed_and_none_comes_from_the_witness():
    def function(x, w):
        return jnp.sin(formed(x**2, w))

    x, w = (jnp.asarray(normal(i, 3)) for i in (5, 6))
    value, slope = jax.jit(lambda x, w: jax.jvp(function, (x, w), (jnp.ones(3), jnp.ones(3))))(x, w)
    np.testing.assert_allclose(value, np.sin(x**2), rtol=rounding())
    np.testing.assert_allclose(slope, 2 * x * np.cos(x**2), rtol=rounding())


@pytest.mark.usefixtures("optimized")
def test_the_compiler_keeps_what_forms_an_array():
    # One exponential for both readers, in a kernel that is not theirs.
    def program(x):
        y = formed(jnp.exp(x), x)
        return jnp.sum(y[:, None] * y)

    compiled = jax.jit(program).lower(jnp.ones(7)).compile()
    assert jax.default_backend() != "cpu" or " while(" in str(compiled.as_text())


@pytest.mark.parametrize("name", PROBLEMS)
def test_scaled_descent_of_lanes_equals_that_of_each_state(name):
    problem, states = PROBLEMS[name], random_states(PROBLEMS[name])

    @jax.jit
    def both(states, log_scale):
        def plain(state):
            return problem.scaled_descent(state, log_scale)

        return problem.scaled_descent_lanes(states, log_scale), jax.vmap(plain, -1, -1)(states)

    for log_scale in (0.0, 3.0):
        assert_same_to_rounding(*both(states, log_scale))


def test_products_of_large_lanes_are_taken_one_by_one(monkeypatch):
    problem, states = PROBLEMS["zhu"], random_states(PROBLEMS["zhu"])
    expected = jax.jit(lambda states: problem.scaled_descent_lanes(states, 1.0))(states)
    monkeypatch.setattr("nc_jax.lanes._MOST_TERMS", 5)
    monkeypatch.setattr("nc_jax.problems.unconstrained.model.product", None)  # fails if called
    found = jax.jit(lambda states: problem.scaled_descent_lanes(states, 1.0))(states)
    assert_same_to_rounding(found, expected)


def scaled_residual(logits, labels, log_scale):
    """e^s (P − Y) over axis 1 in float64, exponents summed before `exp`, the label by the others'.

    P_j = e^(z_j − z_max) / Σ_k e^(z_k − z_max).
    """
    logits = np.asarray(logits, "float64")
    labels = np.reshape(labels, (-1, *[1] * (logits.ndim - 1)))
    below = logits - np.max(logits, axis=1, keepdims=True)
    log_total = np.log(np.sum(np.exp(below), axis=1, keepdims=True))
    at_label = _at(labels, logits.shape)
    rows = np.exp(np.where(at_label, -np.inf, log_scale + below - log_total))
    return rows - at_label * np.sum(rows, axis=1, keepdims=True)


def residual_slope(logits, labels, log_scale, direction):
    """Derivative of `scaled_residual`: e^s P_j (v_j − Σ_k P_k v_k), the label by the others'."""
    residual = scaled_residual(logits, labels, log_scale)
    labels = np.reshape(labels, (-1, *[1] * (residual.ndim - 1)))
    at_label = _at(labels, residual.shape)
    direction_at_label = np.sum(at_label * direction, axis=1, keepdims=True)
    # Σ_k P_k v_k = v_y + Σ_k (P − Y)_k v_k: no 1 to lose a small P beside.
    mean = direction_at_label + np.sum(
        np.exp(-log_scale) * residual * direction, axis=1, keepdims=True
    )
    rows = np.where(at_label, 0, residual * (direction - mean))
    return rows - at_label * np.sum(rows, axis=1, keepdims=True)


def _at(labels, shape):
    classes = np.arange(shape[1]).reshape(1, -1, *[1] * (len(shape) - 2))
    return np.broadcast_to(classes == labels, shape)


# Logits by lanes, (N, K, S), with the scale: three samples of classes 0, 2, 1.
LABELS = np.array([0, 2, 1], np.int32)
_LABEL_GAP = 1000.0 * _at(LABELS[:, None, None], (3, 3, LANES))
CASES = {
    "usual": (normal(7, 3, 3, LANES, scale=3.0), 2.0),
    "small scale": (normal(8, 3, 3, LANES, scale=3.0), -20.0),
    "ties": (np.full((3, 3, LANES), 7.0), 1.5),
    "ties of zeros": (np.zeros((3, 3, LANES)), 0.0),
    "margins of 1000": (normal(9, 3, 3, LANES) + _LABEL_GAP, 1000.0),
    "wrong by 1000": (normal(10, 3, 3, LANES) - _LABEL_GAP, -3.0),
}


@jax.jit
def residual_and_slope(logits, log_scale, direction):
    def residual(logits):
        return nc.CrossEntropy().scaled_gradient(logits, LABELS, log_scale)

    return jax.jvp(residual, (logits,), (direction,))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_the_scaled_residual_and_its_derivative_are_the_closed_forms(name, dtype):
    logits, log_scale = CASES[name]
    logits, direction = logits.astype(dtype), normal(11, *logits.shape).astype(dtype)
    found = residual_and_slope(logits, jnp.asarray(log_scale, dtype), direction)
    expected = (
        scaled_residual(logits, LABELS, log_scale),
        residual_slope(logits, LABELS, log_scale, np.asarray(direction, "float64")),
    )
    # The exponents, up to 1000 each, are rounded at their own size; the slope is a difference of
    # numbers of the residual's size.
    operations = 100 + 4 * int(np.abs(logits).max() + abs(log_scale))
    sizes = np.max(np.abs(expected[0]), axis=1, keepdims=True)
    assert np.all(sizes > 0)
    for one, exact in zip(found, expected, strict=True):
        assert one.dtype == dtype
        difference = (np.asarray(one, "float64") - exact) / sizes
        np.testing.assert_allclose(difference, 0, atol=rounding(dtype, operations))


def test_a_vanishing_scale_gives_zeros():
    logits, _ = CASES["usual"]
    for found in residual_and_slope(logits, jnp.asarray(-1000.0), logits):
        np.testing.assert_array_equal(found, np.zeros(logits.shape))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_derivative_is_that_of_the_gradient_times_the_scale(dtype):
    logits = CASES["usual"][0][..., 0].astype(dtype)
    direction = normal(12, 3, 3).astype(dtype)
    _, found = residual_and_slope(logits, jnp.asarray(2.0, dtype), direction)
    jacobian = jax.jit(jax.jacfwd(lambda z: nc.CrossEntropy().gradient(z, LABELS)))(logits)
    expected = np.exp(2.0) * np.einsum("ijkl,kl->ij", jacobian, direction)
    assert_same_to_rounding(found, expected.astype(dtype))


@pytest.mark.parametrize("sizes", [(1, 4, 2), (2, 2, 2)], ids=["rows left over", "none left over"])
@pytest.mark.parametrize("bias", [False, True])
def test_the_gradient_in_parts_is_that_of_the_objective(monkeypatch, sizes, bias):
    problem = nc.UnconstrainedFeatures(sizes, 4, bias=bias)
    state = jax.tree.map(lambda x: x[..., 0], random_states(problem))
    expected = jax.jit(jax.grad(problem.objective))(state)
    # 21 or 18 logits, 7 at a time: 3 parts of 2 samples.
    monkeypatch.setattr("nc_jax.problems.unconstrained.gradients._LOGITS_AT_ONCE", 7)
    assert "scan" in str(jax.make_jaxpr(problem.gradient)(state))
    found = jax.jit(lambda state: (problem.gradient(state), problem.scaled_descent(state, 2.0)))
    gradient, descent = found(state)
    assert_same_to_rounding(gradient, expected)
    assert_same_to_rounding(descent, jax.tree.map(lambda x: -np.exp(2.0) * x, expected))
