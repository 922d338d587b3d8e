import math

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from tolerances import rounding

import nc_jax as nc

PROBLEMS = {
    "ulpm": nc.ulpm(3, 4, 2),
    "ulpm mean": nc.ulpm(4, 3, 2, reduction="mean"),
    "mixon": nc.mixon(3, 5, 2),
    "zhu": nc.zhu(3, 4, 2, nc.WeightDecay(classifier=0.1, features=0.2, bias=0.3)),
    "unbalanced": nc.UnconstrainedFeatures(
        (1, 3, 2),
        2,
        loss=nc.SquaredError(),
        reduction="mean",
        bias=True,
        weight_decay=nc.WeightDecay(classifier=0.5),
    ),
}

# Compiled once: hypothesis calls these hundreds of times.
GRADIENT = {name: jax.jit(problem.gradient) for name, problem in PROBLEMS.items()}
AUTODIFF = {name: jax.jit(jax.grad(problem.objective)) for name, problem in PROBLEMS.items()}
SCALED = {name: jax.jit(problem.scaled_descent) for name, problem in PROBLEMS.items()}


def random_state(problem, seed, norm=3.0):
    """Gaussian, by NumPy: each operation of JAX outside of a jit is a program."""
    rng = np.random.default_rng([1, seed])
    classes, dim = problem.num_classes, problem.feature_dim
    drawn = [rng.normal(size=(rows, dim)) for rows in (problem.num_samples, classes)]
    leaves = [norm * matrix / np.linalg.norm(matrix) for matrix in drawn]
    if problem.bias:
        leaves.append(rng.normal(size=classes))
    return nc.LastLayer(*map(jnp.asarray, leaves))


@eqx.filter_jit
def objectives(problem, state):
    """The objective and its log."""
    return problem.objective(state), problem.log_objective(state)


def flat(state):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state)])


@pytest.mark.parametrize("name", PROBLEMS)
@given(seed=st.integers(0, 10_000), norm=st.floats(0.1, 10))
def test_gradient_is_that_of_the_objective(name, seed, norm):
    state = random_state(PROBLEMS[name], seed, norm)
    expected = flat(AUTODIFF[name](state))
    scale = np.abs(expected).max()
    tolerance = rounding() * scale
    np.testing.assert_allclose(flat(GRADIENT[name](state)), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", PROBLEMS)
def test_vector_field_goes_downhill(name):
    problem, state = PROBLEMS[name], random_state(PROBLEMS[name], 0)
    expected = -flat(AUTODIFF[name](state))
    field = flat(jax.jit(lambda state: problem.vector_field(0.0, state, None))(state))
    np.testing.assert_allclose(field, expected, rtol=0, atol=rounding() * np.abs(expected).max())


@pytest.mark.parametrize("name", PROBLEMS)
@given(seed=st.integers(0, 10_000), log_scale=st.floats(-20, 20))
def test_scaled_descent_is_minus_the_scaled_gradient(name, seed, log_scale):
    state = random_state(PROBLEMS[name], seed)
    expected = -math.exp(log_scale) * flat(GRADIENT[name](state))
    np.testing.assert_allclose(
        flat(SCALED[name](state, log_scale)),
        expected,
        rtol=0,
        atol=rounding() * np.abs(expected).max(),
    )


def test_scaled_descent_is_of_order_one_where_probabilities_underflow():
    # On the collapsed ray -dL/dW = K√n p w with p = 1/(e^q + K - 1) the wrong-class probability.
    problem = nc.ulpm(5, 20, 10)
    state = nc.exact.collapsed_state(problem, gap=5000.0)
    descent = jax.jit(problem.scaled_descent)(state, 5000.0)
    # Logits of 5000 are right to 5000 roundings, and so is the exponential of their difference.
    expected = 5 * math.sqrt(10) * np.asarray(state.classifier)
    size = np.abs(expected).max()
    np.testing.assert_allclose(
        descent.classifier, expected, rtol=0, atol=rounding(operations=20_000) * size
    )


def test_example_3_1_of_ji_is_radial():
    # Ji, example 3.1 with the denominator corrected: grad_W = grad_H = -2/(1+e²) W.
    block = np.array([[1.0, -1.0], [-1.0, 1.0]])
    w = np.kron(np.eye(2), block)
    gradient = jax.jit(nc.ulpm(4, 4, 1).gradient)(nc.LastLayer(jnp.asarray(w), jnp.asarray(w)))
    np.testing.assert_allclose(gradient.classifier, -2 / (1 + math.e**2) * w, atol=rounding())
    np.testing.assert_allclose(gradient.features, -2 / (1 + math.e**2) * w, atol=rounding())


@jax.jit
def residual_of(state):
    problem = PROBLEMS["ulpm mean"]
    return problem.loss.gradient(state.logits(), problem.labels)


@given(seed=st.integers(0, 10_000))
def test_residual_has_only_constants_in_its_kernel(seed):
    # Ji, (C.3): uᵀ ∂L/∂Z = 0 only for u in span(1).
    problem = PROBLEMS["ulpm mean"]
    state = random_state(problem, seed)
    residual = np.asarray(residual_of(state))
    singular = np.linalg.svd(residual, compute_uv=False)
    np.testing.assert_allclose(residual.sum(axis=1), 0, atol=rounding())
    assert singular[problem.num_classes - 2] > rounding() > singular[problem.num_classes - 1]


@pytest.mark.parametrize("name", PROBLEMS)
def test_log_objective_is_its_log(name):
    state = random_state(PROBLEMS[name], 3)
    plain, log = objectives(PROBLEMS[name], state)
    np.testing.assert_allclose(log, np.log(plain), rtol=rounding())


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_log_objective_is_exact_where_the_objective_underflows(reduction):
    problem = nc.ulpm(3, 4, 2, reduction=reduction)
    state = nc.exact.collapsed_state(problem, gap=4000.0)
    plain, log = objectives(problem, state)
    assert plain == 0
    samples = 6 if reduction == "sum" else 1
    expected = math.log(samples) + math.log(2) - 4000
    np.testing.assert_allclose(log, expected, rtol=rounding())


@given(seed=st.integers(0, 10_000), near=st.floats(0, 1), radius=st.floats(0.5, 50))
def test_no_state_of_this_norm_is_below_the_collapsed_one(seed, near, radius):
    # Ji, theorem 3.3: the least loss on ‖W‖² + ‖H‖² = R is nK log(1 + (K-1) e^(-R/(2√n(K-1)))).
    problem = nc.ulpm(3, 4, 2)
    bound = 6 * math.log1p(2 * math.exp(-radius / (2 * math.sqrt(2) * 2)))
    gap = radius / 2 * 3 / (2 * math.sqrt(2)) / 3  # ‖W‖² = R/2 = gap (K-1)√n
    collapsed = jax.tree.map(np.asarray, nc.exact.collapsed_state(problem, gap))
    np.testing.assert_allclose(np.sum(flat(collapsed) ** 2), radius, rtol=rounding())
    np.testing.assert_allclose(objectives(problem, collapsed)[0], bound, rtol=rounding())
    noise = jax.tree.map(np.asarray, random_state(problem, seed, norm=1.0))
    mixed = jax.tree.map(lambda a, b: (1 - near) * a + near * b, collapsed, noise)
    scale = np.sqrt(radius / np.sum(flat(mixed) ** 2))
    on_sphere = jax.tree.map(lambda leaf: scale * leaf, mixed)
    assert objectives(problem, on_sphere)[0] >= bound * (1 - rounding())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_start_has_the_norms_asked_for(dtype):
    problem = nc.UnconstrainedFeatures((3, 1, 2), 4, bias=True)
    state = problem.init(jax.random.key(0), norm=2.5, dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(dtype)}
    assert state.features.shape == (6, 4)
    for leaf in (state.features, state.classifier):
        np.testing.assert_allclose(jnp.linalg.norm(leaf), 2.5, rtol=rounding(dtype))
    np.testing.assert_array_equal(state.bias, np.zeros(3))
    np.testing.assert_array_equal(problem.labels, [0, 0, 0, 1, 2, 2])


def test_seed_is_the_same_alone_and_in_a_batch():
    problem, key = nc.ulpm(3, 4, 2), jax.random.key(5)
    batch = jax.vmap(lambda i: problem.init(jax.random.fold_in(key, i)))(np.arange(20))
    alone = problem.init(jax.random.fold_in(key, 17))
    np.testing.assert_array_equal(batch.features[17], alone.features)
    np.testing.assert_array_equal(batch.classifier[17], alone.classifier)


def test_observe_reports_the_margin_bound_attained_at_collapse():
    # Ji, theorem 3.1.
    problem = nc.ulpm(5, 20, 10)
    observed = jax.jit(problem.observe)(
        nc.exact.collapsed_state(problem, 3.0, key=jax.random.key(0))
    )
    np.testing.assert_allclose(observed["max_margin_ratio"], 1, rtol=rounding())
    np.testing.assert_allclose(observed["margin_min"], 3, rtol=rounding())
    assert all(value.shape == () for value in observed.values())


@pytest.mark.parametrize("sizes", [[3, 1, 2], (3, 1, 2), np.array([3, 1, 2])], ids=str)
def test_every_model_takes_one_size_for_each_class(sizes):
    decay = nc.WeightDecay(classifier=0.1, features=0.2)
    models = nc.ulpm(3, 4, sizes), nc.mixon(3, 4, sizes), nc.zhu(3, 4, sizes, decay)
    by_hand = [
        nc.UnconstrainedFeatures((3, 1, 2), 4, loss=nc.CrossEntropy(), reduction="sum"),
        nc.UnconstrainedFeatures((3, 1, 2), 4, loss=nc.SquaredError(), reduction="sum", bias=True),
        nc.UnconstrainedFeatures(
            (3, 1, 2), 4, loss=nc.CrossEntropy(), reduction="mean", bias=True, weight_decay=decay
        ),
    ]
    assert list(models) == by_hand
    np.testing.assert_array_equal(models[0].labels, [0, 0, 0, 1, 2, 2])
    assert nc.ulpm(3, 4, np.int64(2)) == nc.ulpm(3, 4, [2, 2, 2])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nc.ulpm(1, 4, 2), "num_classes = 1"),
        (lambda: nc.ulpm(3, 0, 2), "feature_dim = 0"),
        (lambda: nc.UnconstrainedFeatures((2, 0, 1), 4), r"class_sizes\[1\] = 0"),
        (lambda: nc.WeightDecay(classifier=-0.1), "weight decay classifier = -0.1"),
        (lambda: nc.WeightDecay(bias=math.nan), "weight decay bias = nan"),
        (lambda: nc.ulpm(3, 4, 2).init(jax.random.key(0), norm=-1.0), "norm = -1"),
    ],
)
def test_bad_setting_is_one_line_that_names_the_value(build, message):
    with pytest.raises(ValueError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_weight_decay_can_be_swept_under_vmap():
    def objective(decay):
        problem = nc.zhu(3, 4, 2, nc.WeightDecay(classifier=decay, features=decay))
        return problem.objective(random_state(problem, 0))

    state = random_state(nc.mixon(3, 4, 2), 0)
    swept = np.asarray(jax.jit(jax.vmap(objective))(jnp.asarray([0.0, 2.0])))
    np.testing.assert_allclose(swept[1] - swept[0], state.squared_norm(), rtol=rounding())


SEPARABLE = nc.ulpm(3, 4, 2)


def along_the_flow(state):
    """Loss, q_min, ρ² and γ̃ of a state with their time derivatives along the exact flow."""

    def quantities(state):
        log_loss, squared_norm = SEPARABLE.log_objective(state), state.squared_norm()
        gamma = nc.metrics.gamma_tilde(log_loss, squared_norm)
        return {"loss": jnp.exp(log_loss), "squared_norm": squared_norm, "gamma": gamma}

    return jax.jvp(quantities, (state,), (SEPARABLE.vector_field(0.0, state, None),))


ALONG_THE_FLOW = jax.jit(along_the_flow)


@given(seed=st.integers(0, 10_000), gap=st.floats(3, 40), noise=st.floats(0.01, 1))
def test_rates_of_lemma_b2_and_b3(seed, gap, noise):
    collapsed = nc.exact.collapsed_state(SEPARABLE, gap)
    direction = random_state(SEPARABLE, seed, norm=noise)
    state = jax.tree.map(lambda a, b: np.asarray(a) + np.asarray(b), collapsed, direction)
    value, rate = ALONG_THE_FLOW(state)
    hypothesis.assume(value["loss"] < math.log(2))
    theta, descent = flat(state), -flat(GRADIENT["ulpm"](state))
    logits = state.features @ state.classifier.T
    slack = logits[np.arange(6), SEPARABLE.labels][:, None] - logits
    # Remark 3.2: L < log 2 separates every sample.
    assert np.all(np.sort(slack, axis=1)[:, 1] > 0)
    # (B.13): ½ dρ²/dt = <θ, g> = 2 Σ w s with w = e^-s/(1 + Σ e^-s); here Σ e^0 at the label is 1.
    weights = np.exp(-slack) / np.exp(-slack).sum(axis=1, keepdims=True)
    radial = 2 * np.sum(weights * slack)
    np.testing.assert_allclose(rate["squared_norm"] / 2, radial, rtol=rounding(operations=1000))
    # Lemma B.3 with the 1/ρ² that the print lost: -dL/dt = ‖g‖² >= (½ dρ²/dt)²/ρ².
    speed = np.sum(descent**2)
    np.testing.assert_allclose(-rate["loss"], speed, rtol=rounding(operations=1000))
    assert speed >= radial**2 / value["squared_norm"] * (1 - rounding(operations=1000))
    # Lemma B.2: ρ² and γ̃ rise, the latter by (B.25) at 2(β^-2 - 1) dlog ρ/dt or more.
    assert rate["squared_norm"] > 0
    cosine_squared = (theta @ descent) ** 2 / (theta @ theta) / speed
    bound = (1 / cosine_squared - 1) * rate["squared_norm"] / value["squared_norm"]
    growth = rate["gamma"] / value["gamma"]
    assert growth >= bound - rounding(operations=1000) * rate["squared_norm"]


def test_products_keep_the_precision_of_their_dtype_on_accelerators():
    # By default those round float32 operands to 10 bits or fewer; a CPU cannot show it.
    problem = PROBLEMS["mixon"]
    state = problem.init(jax.random.key(0), dtype="float32")

    def everything(state):
        return problem.observe(state), problem.gradient(state), problem.scaled_descent(state, 1.0)

    program = str(jax.make_jaxpr(everything)(state))
    products = program.count("dot_general[")
    assert products > 10
    assert program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products


@pytest.mark.parametrize(("sizes", "dim"), [((2.7, 2.2), 3), ((2, 2), 3.9)])
def test_sizes_that_are_no_integers_are_refused(sizes, dim):
    with pytest.raises(Exception, match=r"float|int"):
        nc.UnconstrainedFeatures(sizes, dim)
