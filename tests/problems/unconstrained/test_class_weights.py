"""Weights of classes: of the loss, and of the decay."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from tolerances import integration, rounding

import nc_jax as nc

SIZES, WEIGHTS = (3, 1, 2), (0.5, 2.0, 1.25)
OF_CLASSIFIER, OF_FEATURES = (0.1, 0.3, 0.2), (0.05, 0.2, 0.4)


def weighted(loss: nc.losses.Loss = nc.CrossEntropy(), **settings):
    decay = nc.WeightDecay(classifier=OF_CLASSIFIER, features=OF_FEATURES, bias=0.1)
    return nc.UnconstrainedFeatures(
        SIZES, 4, loss=loss, bias=True, weight_decay=decay, class_weights=WEIGHTS, **settings
    )


PROBLEMS = {
    "cross-entropy": weighted(),
    "square loss, summed": weighted(nc.SquaredError(), reduction="sum"),
    "no decay": nc.UnconstrainedFeatures(SIZES, 4, class_weights=WEIGHTS),
    # More logits than are formed at one time: the gradient is summed over parts of the samples.
    "many samples": nc.UnconstrainedFeatures((400_000, 200_001), 2, class_weights=(0.5, 2.0)),
}


def by_hand(problem, state):
    """The objective as its equation says, sample by sample."""
    labels = problem.labels
    logits = state.features @ state.classifier.T
    logits = logits if state.bias is None else logits + state.bias
    weights = np.asarray(problem.class_weights)[labels]
    total = problem.loss_scale * jnp.sum(weights * problem.loss.value(logits, labels))
    if problem.weight_decay.absent:
        return total
    of_samples = np.asarray(OF_FEATURES)[labels][:, None]
    total += jnp.sum(np.asarray(OF_CLASSIFIER)[:, None] * state.classifier**2) / 2
    total += jnp.sum(of_samples * state.features**2) / 2
    assert state.bias is not None
    return total + 0.1 * jnp.sum(state.bias**2) / 2


def assert_close(found, expected, operations=100):
    found, expected = ravel_pytree(found)[0], ravel_pytree(expected)[0]
    size = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=rounding(operations=operations) * size)


@pytest.mark.parametrize("name", PROBLEMS)
def test_objective_and_gradient_are_those_of_the_equation(name):
    problem = PROBLEMS[name]
    state = problem.init(jax.random.key(0), norm=3.0)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: by_hand(problem, x)))(state)
    many = problem.num_samples
    np.testing.assert_allclose(jax.jit(problem.objective)(state), value, rtol=rounding())
    log_value = jax.jit(problem.log_objective)(state)
    np.testing.assert_allclose(log_value, np.log(value), rtol=0, atol=rounding())
    assert_close(jax.jit(problem.gradient)(state), gradient, operations=100 + many)
    scaled = jax.jit(problem.scaled_descent)(state, 2.0)
    minus = jax.tree.map(lambda leaf: -np.exp(2.0) * leaf, gradient)
    assert_close(scaled, minus, operations=100 + many)


@pytest.mark.parametrize("name", ["cross-entropy", "square loss, summed", "no decay"])
def test_lanes_have_the_field_of_each_state(name):
    problem = PROBLEMS[name]
    keys = jax.random.split(jax.random.key(1), 5)
    states = jax.vmap(problem.init)(keys)
    one_by_one = jax.jit(jax.vmap(lambda state: problem.scaled_descent(state, 1.0)))(states)
    last = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), states)
    lanes = jax.jit(lambda states: problem.scaled_descent_lanes(states, 1.0))(last)
    assert_close(jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), lanes), one_by_one)


def test_equal_numbers_are_one_number():
    state = weighted().init(jax.random.key(0))
    same = nc.WeightDecay(classifier=(0.1,) * 3, features=np.full(3, 0.2), bias=0.3)
    several = nc.UnconstrainedFeatures(
        SIZES, 4, bias=True, weight_decay=same, class_weights=jnp.ones(3)
    )
    decay = nc.WeightDecay(classifier=0.1, features=0.2, bias=0.3)
    one = nc.UnconstrainedFeatures(SIZES, 4, bias=True, weight_decay=decay)
    np.testing.assert_allclose(several.objective(state), one.objective(state), rtol=rounding())
    assert_close(several.gradient(state), one.gradient(state))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_state_decides_the_dtype(dtype):
    problem = weighted()
    state = problem.init(jax.random.key(0), dtype=dtype)
    computed = (
        problem.objective(state), problem.log_objective(state), problem.gradient(state),
        problem.scaled_descent(state, 1.0),
    )  # fmt: skip
    assert {leaf.dtype for leaf in jax.tree.leaves(computed)} == {jnp.dtype(dtype)}


def test_log_loss_is_finite_where_the_loss_underflows():
    problem = nc.UnconstrainedFeatures((2, 2, 2), 4, reduction="sum", class_weights=WEIGHTS)
    state = nc.exact.collapsed_state(nc.ulpm(3, 4, 2), gap=4000.0)
    expected = np.log(2 * sum(WEIGHTS)) + np.log(2) - 4000
    np.testing.assert_allclose(problem.log_objective(state), expected, rtol=rounding())
    # −dL/dh_i = ω_k e^(−gap) Σ_j (w_k − w_j) = 3 ω_k e^(−gap) w_k, as the classifiers sum to 0.
    descent = problem.scaled_descent(state, 4000.0)
    expected = 3 * (np.array(WEIGHTS)[:, None] * state.classifier)[problem.labels]
    tolerance = rounding(operations=20_000) * np.abs(expected).max()
    np.testing.assert_allclose(descent.features, expected, rtol=0, atol=tolerance)


def test_other_numbers_need_no_new_program():
    compiled = []

    @eqx.filter_jit
    def value(problem, state):
        compiled.append(1)
        return problem.objective(state)

    state = weighted().init(jax.random.key(0))
    for factor in (1.0, 2.0):
        # Arrays of JAX are arguments of a program.
        decay = nc.WeightDecay(
            classifier=factor * jnp.array(OF_CLASSIFIER), features=jnp.array(OF_FEATURES)
        )
        weights = factor * jnp.array(WEIGHTS)
        problem = nc.UnconstrainedFeatures(
            SIZES, 4, bias=True, weight_decay=decay, class_weights=weights
        )
        value(problem, state)
    assert len(compiled) == 1


def test_plain_numbers_above_zero_are_arguments_of_flows_and_descents():
    compiled = []

    @eqx.filter_jit
    def value(problem, state):
        compiled.append(1)
        return problem.objective(state)

    state = weighted().init(jax.random.key(0))
    found = []
    for number in (0.5, 2.0):
        decay = nc.WeightDecay(classifier=(0.0, number, 0.1), features=0.2)
        problem = nc.UnconstrainedFeatures(
            SIZES, 4, bias=True, weight_decay=decay, class_weights=(1.0, number, 2.0)
        )
        converted = nc.problems.weakly_typed(problem)
        assert isinstance(converted, nc.UnconstrainedFeatures)
        # A zero stays a number, so that its term is left out of the program.
        assert converted.weight_decay.classifier[0] == 0.0
        assert isinstance(converted.weight_decay.classifier[0], float)
        found.append(float(value(converted, state)))
        np.testing.assert_allclose(found[-1], problem.objective(state), rtol=rounding())
    assert len(compiled) == 1
    assert found[0] != found[1]
    absent = nc.WeightDecay(classifier=(0.0, 0.0, 0.0))
    assert absent.absent
    assert not nc.UnconstrainedFeatures(SIZES, 4, weight_decay=absent).comes_to_rest


def test_traced_numbers_among_plain_ones():
    state = weighted().init(jax.random.key(0))

    def value(number):
        decay = nc.WeightDecay(classifier=0.1, features=(0.1, number, 0.2))
        problem = nc.UnconstrainedFeatures(
            SIZES, 4, bias=True, weight_decay=decay, class_weights=[1.0, number, 1.0]
        )
        return problem.objective(state)

    swept = jax.jit(jax.vmap(value))(jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(swept, [value(0.5), value(1.0)], rtol=rounding())


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"class_weights": WEIGHTS}, {"balance", "classifier_sum"}),
        ({"weight_decay": nc.WeightDecay(classifier=0.1, features=0.1), "class_weights": WEIGHTS},
         {"balance", "classifier_sum"}),
        ({"weight_decay": nc.WeightDecay(classifier=0.1, features=OF_FEATURES)},
         {"classifier_sum"}),
        ({"weight_decay": nc.WeightDecay(classifier=OF_CLASSIFIER, features=0.1)}, set()),
        ({"weight_decay": nc.WeightDecay(features=OF_FEATURES, classifier=OF_FEATURES)}, set()),
    ],
)  # fmt: skip
def test_invariants_hold_along_the_flow_and_the_others_are_left_out(settings, names):
    problem = nc.UnconstrainedFeatures(SIZES, 4, reduction="sum", **settings)
    start = problem.init(jax.random.key(2))
    assert set(problem.invariants(start)) == names
    flow = nc.gradient_flow(problem, start, np.array([0.5, 2.0]), clock=nc.RealTime(), rtol=1e-9)
    assert set(flow.observables) == set(problem.observables())
    for name in names:
        assert np.all(flow.observables[f"{name}_drift"] < integration(1e-9))
    assert not {"gamma_tilde", "max_margin_ratio"} & set(flow.observables)


def test_flow_descent_and_sweep_take_the_weights():
    problem = weighted()
    start = problem.init(jax.random.key(3))
    flow = nc.gradient_flow(problem, start, np.array([1.0]), clock=nc.RealTime(), rtol=1e-10)
    euler = start
    field = jax.jit(lambda x: problem.vector_field(0.0, x, None))
    for _ in range(200):
        euler = jax.tree.map(lambda x, v: x + v / 200, euler, field(euler))
    distance = ravel_pytree(jax.tree.map(jnp.subtract, flow.final, euler))[0]
    assert 0 < np.abs(distance).max() < 5e-3  # of first order in the step 1/200
    descent = nc.gradient_descent(problem, start, optax.sgd(1 / 200), 200)
    assert_close(descent.final, euler)
    batch = nc.Flow(problem, np.array([1.0]), clock=nc.RealTime(), rtol=1e-10).batch(
        jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), start)
    )
    np.testing.assert_allclose(
        batch.final.classifier[1], flow.final.classifier, rtol=0, atol=integration(1e-10)
    )


def test_a_store_of_other_weights_is_not_resumed(tmp_path):
    start = weighted().init(jax.random.key(0))

    def run(weights):
        problem = nc.UnconstrainedFeatures(SIZES, 4, bias=True, class_weights=weights)
        flow = nc.Flow(problem, np.array([1.0, 2.0]), observe=("objective",))
        return flow(start, path=tmp_path / "flow.zarr")

    run(WEIGHTS)
    run(WEIGHTS)
    with pytest.raises(ValueError, match="holds another flow: problem = "):
        run((0.5, 2.0, 1.5))


def test_problem_for_takes_the_weights():
    problem = weighted()
    state = problem.init(jax.random.key(0))
    order = np.array([5, 0, 3, 1, 2, 4])
    shuffled = nc.LastLayer(state.features[order], state.classifier, state.bias)
    found, restored = nc.problem_for(
        shuffled, problem.labels[order], weight_decay=problem.weight_decay, class_weights=WEIGHTS
    )
    assert found == problem
    np.testing.assert_allclose(found.objective(restored), problem.objective(state), rtol=rounding())


MINIMISERS = [
    nc.exact.regularized_minimum,
    nc.exact.origin_eigenvalues,
    nc.exact.collapsed_state,
    lambda problem: nc.landscape.global_certificate(problem, problem.init(jax.random.key(0))),
    lambda problem: nc.landscape.escape_direction(problem, problem.init(jax.random.key(0))),
    lambda problem: nc.landscape.kkt_certificate(problem, problem.init(jax.random.key(0))),
]


@pytest.mark.parametrize("theorem", MINIMISERS)
def test_theorems_of_one_weight_refuse_in_one_line(theorem):
    uniform = nc.WeightDecay(classifier=0.1, features=0.1)
    per_class = nc.WeightDecay(classifier=0.1, features=(0.1, 0.1, 0.1))
    for decay, weights, message in (
        (uniform, (1.0, 1.0, 1.0), "problem has class_weights"),
        (per_class, None, "weight decay has a number for each class"),
    ):
        problem = nc.UnconstrainedFeatures((2, 2, 2), 4, weight_decay=decay, class_weights=weights)
        with pytest.raises(ValueError, match=message) as refused:
            theorem(problem) if theorem is not nc.exact.collapsed_state else theorem(problem, 1.0)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nc.WeightDecay(classifier=(0.1, -0.2)), r"weight decay classifier\[1\] = -0.2"),
        (
            lambda: nc.UnconstrainedFeatures(SIZES, 4, class_weights=(1.0, 1.0)),
            "class_weights has 2 numbers and class_sizes 3",
        ),
        (
            lambda: nc.UnconstrainedFeatures(
                SIZES, 4, weight_decay=nc.WeightDecay(features=np.ones(8))
            ),
            "weight decay features has 8 numbers and class_sizes 3",
        ),
        (
            lambda: nc.UnconstrainedFeatures(SIZES, 4, class_weights=(1.0, 0.0, 1.0)),
            r"class_weights\[1\] = 0.0: give a finite number > 0",
        ),
        (
            lambda: nc.WeightDecay(features=(1.0, 2.0)).penalty(nc.ulpm(2, 2, 1).init(
                jax.random.key(0))),
            "give labels",
        ),
    ],
)  # fmt: skip
def test_bad_weights_are_one_line_that_names_the_value(build, message):
    with pytest.raises(ValueError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)
