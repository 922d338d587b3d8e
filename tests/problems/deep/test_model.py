"""Deep unconstrained features: gradients, logarithms, lanes, capabilities, and m = 2."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax.flatten_util import ravel_pytree
from tolerances import integration, rounding

import nc_jax as nc
from nc_jax.problems import is_deep_linear

KEY = jax.random.key(0)
Deep = nc.DeepUnconstrainedFeatures
LOSSES = {
    "cross-entropy": nc.CrossEntropy(),
    "square": nc.SquaredError(),
    "smoothing": nc.LabelSmoothing(0.1),
    "focal": nc.Focal(2.0),
}
# Widths that differ, one below K, and a class of one sample.
SIZES, WIDTHS, DECAYS = (3, 1, 2), (4, 2, 5), (0.03, 0.0, 0.03, 0.05)
ACTIVATIONS = {"linear": None, "relu": jax.nn.relu, "smooth": nc.SmoothReLU(width=0.1)}


def logits_of(problem, state):
    """The logits by NumPy-like products from the features on."""
    rows = state.features
    for weight in state.weights[:-1]:
        rows = rows @ weight.T
        rows = rows if problem.activation is None else problem.activation(rows)
    return rows @ state.weights[-1].T


def objective_of(problem, state):
    """The equation of the class, without any of its code."""
    value = problem.loss_scale * jnp.sum(
        problem.loss.value(logits_of(problem, state), problem.labels)
    )
    factors = [state.features, *state.weights]
    for rate, factor in zip(problem.weight_decay, factors, strict=True):
        value += rate / 2 * jnp.sum(factor**2)
    return value


def assert_close(found, expected, *, atol):
    """Equal to `atol` times the largest entry, or times 1 where that is below 1."""
    for left, right in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert left.dtype == right.dtype
        largest = max(1, float(np.max(np.abs(right))))
        np.testing.assert_allclose(left, right, rtol=0, atol=atol * largest)


@eqx.filter_jit
def evaluate(problem, state):
    return (
        problem.gradient(state),
        jax.grad(lambda x: objective_of(problem, x))(state),
        problem.scaled_descent(state, 0.7),
        problem.objective(state),
        objective_of(problem, state),
        problem.log_objective(state),
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_gradient_descent_and_logarithm_are_those_of_the_equation(loss, activation):
    problem = Deep(
        SIZES, WIDTHS, loss=LOSSES[loss], activation=ACTIVATIONS[activation], weight_decay=DECAYS
    )
    state = problem.init(KEY, norm=2.0)
    gradient, by_autodiff, descent, value, expected, log_value = evaluate(problem, state)
    np.testing.assert_allclose([value, jnp.exp(log_value)], expected, rtol=rounding())
    assert_close(gradient, by_autodiff, atol=rounding())
    assert_close(descent, jax.tree.map(lambda x: -jnp.exp(0.7) * x, by_autodiff), atol=rounding())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_float32_states_are_computed_in_float32(activation):
    problem = Deep(SIZES, WIDTHS, activation=ACTIVATIONS[activation], weight_decay=DECAYS)
    state = problem.init(KEY, norm=2.0, dtype="float32")
    gradient, by_autodiff, descent, *_ = evaluate(problem, state)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((gradient, descent))} == {"float32"}
    assert_close(gradient, by_autodiff, atol=rounding("float32"))


@settings(max_examples=6)
@given(
    sizes=st.lists(st.integers(1, 3), min_size=2, max_size=4),
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    loss=st.sampled_from(sorted(LOSSES)),
    rectified=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_gradient_is_that_of_the_equation_for_all_shapes(sizes, widths, loss, rectified, seed):
    activation = jax.nn.relu if rectified else None
    problem = Deep(sizes, widths, loss=LOSSES[loss], activation=activation, weight_decay=0.1)
    state = problem.init(jax.random.key(seed), norm=2.0)
    gradient, by_autodiff, *_ = evaluate(problem, state)
    assert_close(gradient, by_autodiff, atol=rounding())


@pytest.mark.parametrize("loss", ["cross-entropy", "square"])
def test_two_factors_are_the_unconstrained_features_model(loss):
    kind, decay = LOSSES[loss], nc.WeightDecay(classifier=0.02, features=0.02)
    free = nc.UnconstrainedFeatures((2, 1, 3), 4, loss=kind, weight_decay=decay)
    problem = Deep((2, 1, 3), (4,), loss=kind, weight_decay=0.02)
    state = free.init(KEY, norm=2.0)
    deep = nc.DeepFeatures(state.features, (state.classifier,))
    np.testing.assert_array_equal(ravel_pytree(problem.init(KEY, 2.0))[0], ravel_pytree(deep)[0])
    assert problem.depth == 2
    ours, theirs = jax.jit(problem.observe)(deep), jax.jit(free.observe)(state)
    shared = set(ours) & set(theirs)
    assert set(theirs) - shared <= {"balance_norm", "gamma_tilde"}
    for name in shared:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=rounding(), atol=rounding())
    expected = nc.DeepFeatures(*_as_deep(free.gradient(state)))
    assert_close(problem.gradient(deep), expected, atol=rounding())
    invariants, balance = problem.invariants(deep), free.invariants(state)["balance"]
    neighbours = invariants["neighbour_balance"]
    np.testing.assert_array_equal(neighbours.value[0], balance.value)
    np.testing.assert_allclose(neighbours.scale[0], balance.scale, rtol=rounding())
    assert jnp.asarray(neighbours.rate)[0] == 0.04
    assert ("classifier_sum" in invariants) == kind.shift_invariant
    times = np.log1p([0.0, 1.0, 30.0])
    found, expected = (
        nc.gradient_flow(model, start, times, observe=("objective", "zhu_nc3"))
        for model, start in ((problem, deep), (free, state))
    )
    for name in ("objective", "zhu_nc3"):
        np.testing.assert_allclose(
            found.observables[name], expected.observables[name], rtol=rounding()
        )


def _as_deep(state):
    return state.features, (state.classifier,)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("decays", [0.0, DECAYS])
def test_lanes_are_the_states_of_a_vmap(activation, decays):
    problem = Deep(SIZES, WIDTHS, activation=ACTIVATIONS[activation], weight_decay=decays)
    states = jax.jit(jax.vmap(problem.init))(jax.random.split(KEY, 5))
    expected = jax.jit(jax.vmap(problem.scaled_descent, (0, None)))(states, 0.3)
    lanes = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), states)
    # Products of lanes are sums, and not calls of a matrix product.
    assert "dot_general" not in str(jax.make_jaxpr(problem.scaled_descent_lanes)(lanes, 0.3))
    found = jax.jit(problem.scaled_descent_lanes)(lanes, 0.3)
    assert_close(jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), found), expected, atol=rounding())


def test_large_models_have_the_lanes_of_a_vmap():
    problem = Deep((1, 1), (20, 20), activation=jax.nn.relu)
    lanes = jax.tree.map(lambda x: x[..., None], problem.init(KEY))
    assert "dot_general" in str(jax.make_jaxpr(problem.scaled_descent_lanes)(lanes, 0.3))


def test_a_decay_as_an_array_is_an_argument_of_the_program():
    traces = []

    @jax.jit
    def gradient(decays, state):
        traces.append(decays)
        return Deep(SIZES, WIDTHS, weight_decay=decays).gradient(state)

    state = Deep(SIZES, WIDTHS).init(KEY)
    for decays in (jnp.array([0.1, 0.2, 0.0, 0.3]), jnp.zeros(4)):
        expected = Deep(SIZES, WIDTHS, weight_decay=tuple(map(float, decays))).gradient(state)
        assert_close(gradient(decays, state), expected, atol=rounding())
    assert len(traces) == 1


def test_one_traced_decay_is_known_to_be_that_of_all_factors():
    @jax.jit
    def rates(decay):
        problem = Deep(SIZES, WIDTHS, weight_decay=decay)
        return problem.invariants(problem.init(KEY))["neighbour_balance"].rate

    np.testing.assert_allclose(rates(0.1), 0.2)


def test_factors_without_decay_are_left_out_of_the_program():
    problem = Deep(SIZES, WIDTHS, reduction="sum")
    state = problem.init(KEY)
    # e^1000 overflows: with a decay the descent would be infinite, and with a term 0 · ∞ NaN.
    assert np.all(np.isfinite(ravel_pytree(problem.scaled_descent(state, 700.0))[0]))
    assert not problem.comes_to_rest
    assert problem.largest_log_scale("float64") == np.inf
    assert Deep(SIZES, WIDTHS, weight_decay=(0.0, 0.0, 0.1, 0.0)).comes_to_rest


def test_layers_and_shapes_are_those_of_the_state():
    problem = Deep(SIZES, WIDTHS, activation=jax.nn.relu)
    state = problem.init(KEY)
    shapes = [(6, 4), (2, 4), (5, 2), (3, 5)]
    assert [x.shape for x in jax.tree.leaves(problem.state_shapes())] == shapes
    assert [x.shape for x in state.factors()] == shapes
    norms = [np.linalg.norm(x) for x in state.factors()]
    np.testing.assert_allclose(norms, 1.0, rtol=rounding())
    layers = problem.layers(state)
    assert [layer.features.shape for layer in layers] == [(6, 4), (6, 2), (6, 5)]
    last = problem.last_layer(state)
    assert_close(layers[-1], last, atol=0)
    np.testing.assert_allclose(last.logits(), logits_of(problem, state), atol=rounding())
    linear = Deep(SIZES, WIDTHS)
    np.testing.assert_allclose(state.logits(), logits_of(linear, state), atol=rounding())
    np.testing.assert_allclose(state.last_layer().logits(), state.logits(), atol=rounding())


def test_features_free_of_sign_are_not_activated():
    # One hidden layer: σ acts on H W_1ᵀ, and a negative feature counts.
    problem = Deep((1, 1), (1, 1), activation=jax.nn.relu)
    state = nc.DeepFeatures(
        jnp.array([[-1.0], [2.0]]), (-jnp.ones((1, 1)), jnp.array([[1.0], [-1.0]]))
    )
    np.testing.assert_array_equal(problem.last_layer(state).features, [[1.0], [0.0]])
    # At a preactivation of 0 the slope is 0, as in `NormalizedReLUNet`.
    at_kink = eqx.tree_at(lambda x: x.features, state, jnp.zeros((2, 1)))
    assert_close(problem.gradient(at_kink).features, jnp.zeros((2, 1)), atol=0)


def test_proofs_hold_for_the_linear_net_with_its_formulas():
    class Recording(Deep):
        # For type checkers, which expect one argument for each field of a subclass.
        __init__ = Deep.__init__

        def observe(self, state):
            return {"objective": self.objective(state)}

    class Other(Deep):
        __init__ = Deep.__init__

        def objective(self, state):
            return 2 * super().objective(state)

        def scaled_descent(self, state, log_scale):
            return super().scaled_descent(state, log_scale + np.log(2).item())

        def gradient(self, state):
            return jax.tree.map(jnp.negative, self.scaled_descent(state, 0.0))

    assert is_deep_linear(Deep(SIZES, WIDTHS))
    assert is_deep_linear(Recording(SIZES, WIDTHS))
    assert not is_deep_linear(Deep(SIZES, WIDTHS, activation=jax.nn.relu))
    # Without a hidden layer there is nothing to activate.
    assert is_deep_linear(Deep(SIZES, (4,), activation=jax.nn.relu))
    assert not is_deep_linear(nc.UnconstrainedFeatures(SIZES, 4))
    other = Other(SIZES, WIDTHS)
    assert not is_deep_linear(other)
    assert other.invariants(other.init(KEY)) == {}
    lanes = jax.tree.map(lambda x: x[..., None], other.init(KEY))
    expected = jax.tree.map(lambda x: x[..., None], other.scaled_descent(other.init(KEY), 0.2))
    assert_close(other.scaled_descent_lanes(lanes, 0.2), expected, atol=rounding())


@pytest.mark.parametrize(
    ("depth", "gap"), [(2, 7.9496143513), (3, 9.3644688911), (4, 10.2103199214)]
)
def test_a_flow_on_the_simplex_ray_has_the_gap_of_its_equation(depth, gap):
    # a' = m K n^(1−1/m) a^(2−2/m)/(e^a + K − 1) of the summed loss, solved by another program.
    num_classes, size = 3, 2
    problem = Deep((size,) * num_classes, (num_classes - 1,) * (depth - 1), reduction="sum")
    centred = np.linalg.svd(np.eye(num_classes) - 1 / num_classes)[0][:, :-1]
    root = np.sqrt(size) ** (1 / depth)
    hidden = itertools.repeat(jnp.asarray(root * np.eye(num_classes - 1)), depth - 2)
    features = jnp.asarray(root * centred[problem.labels] / np.sqrt(size))
    start = nc.DeepFeatures(features, (*hidden, jnp.asarray(root * centred)))
    np.testing.assert_allclose(problem.observe(start)["margin_min"], 1.0, rtol=rounding())
    flow = nc.gradient_flow(
        problem, start, np.log1p([0.0, 50.0]), rtol=1e-9, observe=("margin_min",)
    )
    np.testing.assert_allclose(flow.observables["margin_min"][-1], gap, rtol=integration(1e-9))
