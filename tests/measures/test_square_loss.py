"""Least-squares classifiers and the parts of the square loss, against independent solutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree
from tolerances import integration, rounding

import nc_jax as nc
from nc_jax.metrics import least_squares_layer, square_loss_parts

KEY = jax.random.key(2)
SIZES = {"balanced": (3, 3, 3), "unequal": (4, 2, 5, 1), "d > N": (2, 1, 2)}
DECAYS = [0.0, 1e-6, 0.03, 5.0]


def problem_of(kind, decay, **options):
    weight_decay = nc.WeightDecay(classifier=decay, bias=decay)
    return nc.UnconstrainedFeatures(
        SIZES[kind], 6, loss=nc.SquaredError(), bias=True, weight_decay=weight_decay, **options
    )


def state_of(problem, offset=0.3):
    """A random state with a bias and features whose mean is not 0."""
    state = problem.init(KEY, 2.0)
    bias = jax.random.normal(KEY, (problem.num_classes,))
    return nc.LastLayer(state.features + offset, state.classifier, bias)


def ridge(state, labels, decay):
    """W and b, and the three parts by the definition, from the normal equations in NumPy."""
    features, classes = np.asarray(state.features), len(state.classifier)
    number, targets = len(features), np.eye(classes)[labels]
    columns = np.concatenate([features, np.ones((number, 1))], axis=1)
    gram = columns.T @ columns / number + decay * np.eye(columns.shape[1])
    solution = np.linalg.pinv(gram, rcond=1e-13) @ columns.T @ targets / number
    weights, bias = solution[:-1].T, solution[-1]
    means = np.stack([features[labels == c].mean(axis=0) for c in range(classes)])[labels]
    within = (features - means).T @ (features - means) / number
    penalty = decay * (np.sum(weights**2) + np.sum(bias**2))
    gap = np.concatenate([state.classifier.T, state.bias[None]]) - solution
    return weights, bias, (
        (np.trace(weights @ within @ weights.T) + penalty) / 2,
        np.sum((means @ weights.T + bias - targets) ** 2) / (2 * number),
        np.trace(gap.T @ gram @ gap) / 2,
    )  # fmt: skip


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("kind", SIZES)
def test_the_parts_are_those_of_their_definitions_and_add_up_to_the_loss(kind, decay):
    problem = problem_of(kind, decay)
    state, labels = state_of(problem), problem.labels
    weights, bias, expected = ridge(state, labels, decay)
    parts_of = jax.jit(lambda state: square_loss_parts(state, labels, weight_decay=decay))
    parts = parts_of(state)
    np.testing.assert_allclose(sum(parts), jax.jit(problem.objective)(state), rtol=1e-14)
    # The normal equations square the condition number of the features.
    bound = 1e-9 if decay < 1e-3 else 1e-12
    np.testing.assert_allclose(parts, expected, rtol=bound, atol=1e-12)
    layer_of = jax.jit(
        lambda x: least_squares_layer(x, labels, problem.num_classes, weight_decay=decay)
    )
    fitted = layer_of(state.features)
    assert fitted.bias is not None
    if kind != "d > N" or decay > 0:
        np.testing.assert_allclose(fitted.classifier, weights, rtol=bound, atol=bound)
        np.testing.assert_allclose(fitted.bias, bias, rtol=bound, atol=bound)
    # It minimises: no part is left, and the gradient of the loss in W and b is 0.
    at_least = parts_of(fitted)
    assert at_least.perp < rounding()
    np.testing.assert_allclose(at_least[:2], parts[:2], rtol=1e-9, atol=rounding())
    gradient = jax.jit(problem.gradient)(fitted)
    assert gradient.bias is not None
    assert np.abs(gradient.classifier).max() < 100 * rounding()
    assert np.abs(gradient.bias).max() < 100 * rounding()


def test_the_formula_of_han_papyan_and_donoho():
    """W_LS = (1/K)(M − 1μ_Gᵀ/(1+l))(Σ_W + Σ_B + l/(1+l) μ_G μ_Gᵀ + lI)^(-1), balanced classes."""
    problem, decay = problem_of("balanced", 0.1), 0.1
    state = state_of(problem)
    features = np.asarray(state.features)
    means = features.reshape(3, 3, 6).mean(axis=1)
    mean = means.mean(axis=0)
    centred = features - mean
    shrunk = decay / (1 + decay) * np.outer(mean, mean) + decay * np.eye(6)
    total = centred.T @ centred / 9 + shrunk
    weights = (means - mean / (1 + decay)) @ np.linalg.inv(total) / 3
    bias = (1 / 3 - weights @ mean) / (1 + decay)
    found = least_squares_layer(state.features, problem.labels, 3, weight_decay=decay)
    assert found.bias is not None
    np.testing.assert_allclose(found.classifier, weights, rtol=1e-12)
    np.testing.assert_allclose(found.bias, bias, rtol=1e-12)


def test_without_decay_the_parts_are_the_measures_of_features():
    problem = problem_of("unequal", 0.0)
    state = state_of(problem)
    parts = square_loss_parts(state, problem.labels)
    measured = nc.metrics.measure(
        state.features, problem.labels, state.classifier, state.bias,
        names=("han_loss_nc1", "han_loss_nc23", "han_loss_perp"),
    )  # fmt: skip
    expected = [float(measured[f"han_loss_{part}"]) for part in parts._fields]
    np.testing.assert_allclose(parts, expected, rtol=1e-12)


def test_a_missing_bias_counts_as_zero_and_a_common_offset_costs_no_digit():
    problem = problem_of("unequal", 0.0)
    state = state_of(problem)
    without = nc.LastLayer(state.features, state.classifier)
    zero = nc.LastLayer(state.features, state.classifier, jnp.zeros(4))
    for decay in (0.0, 0.1):
        np.testing.assert_allclose(
            square_loss_parts(without, problem.labels, weight_decay=decay),
            square_loss_parts(zero, problem.labels, weight_decay=decay),
            rtol=rounding(),
        )
    shifted = state.features + 2.0**20  # exact in binary for most digits
    near = square_loss_parts(zero, problem.labels)
    far = square_loss_parts(nc.LastLayer(shifted, state.classifier), problem.labels)
    np.testing.assert_allclose(far[:2], near[:2], rtol=1e-7)


def test_compiled_with_a_traced_decay_and_over_a_batch_in_float32():
    problem = problem_of("unequal", 0.1)
    state, labels = state_of(problem), problem.labels

    @jax.jit
    @jax.vmap
    def parts_of(decay):
        return square_loss_parts(state, labels, weight_decay=decay)

    found = parts_of(jnp.array(DECAYS))
    for i, decay in enumerate(DECAYS):
        expected = square_loss_parts(state, labels, weight_decay=decay)
        np.testing.assert_allclose([part[i] for part in found], expected, rtol=1e-9, atol=1e-14)
    single = jax.tree.map(lambda leaf: leaf.astype("float32"), state)
    parts = square_loss_parts(single, labels, weight_decay=0.1)
    assert {part.dtype for part in parts} == {np.dtype("float32")}
    expected = square_loss_parts(state, labels, weight_decay=0.1)
    np.testing.assert_allclose(parts, expected, rtol=rounding("float32"))


def test_the_parts_add_up_along_a_flow():
    """Of Mixon's model, whose loss is the sum over samples."""
    problem = nc.mixon(3, 5, 4)

    def observe(state):
        parts = square_loss_parts(state, problem.labels)
        return {"loss": problem.objective(state) / 12, **parts._asdict()}

    flow = nc.Flow(
        problem, np.array([0.5, 2.0, 4.0, 6.0]), clock=nc.RealTime(), rtol=1e-9, observe=observe
    )
    found = flow(problem.init(KEY, 0.5)).observables
    total = found["nc1"] + found["nc23"] + found["perp"]
    np.testing.assert_allclose(total, found["loss"], rtol=1e-12, atol=1e-16)


def test_deviations_within_classes_obey_a_linear_equation_with_decaying_size():
    """E' = −E WᵀW for the summed square loss without decay, at every time of a flow."""
    problem = nc.UnconstrainedFeatures((9, 7, 8), 4, loss=nc.SquaredError(), reduction="sum")
    sums = np.eye(3)[problem.labels]
    averages = sums @ np.linalg.inv(sums.T @ sums) @ sums.T

    def deviations(features):
        return np.asarray(features) - averages @ np.asarray(features)

    start = problem.init(KEY, 1.5)
    flow = nc.Flow(
        problem, np.linspace(0.1, 2.0, 8), clock=nc.RealTime(), rtol=1e-10, save_states=True
    )
    states = flow(start).states
    first, sizes = deviations(start.features), []
    for i in range(8):
        state = jax.tree.map(lambda leaf, i=i: leaf[i], states)
        velocity = deviations(problem.scaled_descent(state, 0.0).features)
        now, classifier = deviations(state.features), np.asarray(state.classifier)
        np.testing.assert_allclose(velocity, -now @ classifier.T @ classifier, atol=rounding())
        # One matrix maps the deviations of all 24 samples at the start to those now.
        factor, *_ = np.linalg.lstsq(first, now, rcond=None)
        np.testing.assert_allclose(first @ factor, now, atol=integration(1e-10))
        sizes.append(np.linalg.norm(now))
        # Outside of the row space of W nothing moves.
        _, _, right = np.linalg.svd(classifier)
        np.testing.assert_allclose(velocity @ right[3:].T, 0, atol=rounding())
    assert np.all(np.diff(sizes) < 0)


def test_features_tied_to_a_start_have_the_deviations_of_the_closed_form():
    """+ (β/2)‖H − H₀‖²: E = β E₀ (WᵀW/N + (λ_H + β) I)^(-1) at a critical point (Tirer et al.)."""
    sizes, dim, tie, decay = (4, 3, 5), 4, 0.2, nc.WeightDecay(classifier=0.02, features=0.03)
    problem = nc.UnconstrainedFeatures(sizes, dim, loss=nc.SquaredError(), weight_decay=decay)
    start = problem.init(KEY, 3.0)
    flat, unravel = ravel_pytree(start)

    @jax.jit
    @jax.value_and_grad
    def tied(flat):
        state = unravel(flat)
        return problem.objective(state) + tie / 2 * jnp.sum((state.features - start.features) ** 2)

    found = scipy.optimize.minimize(
        lambda flat: tuple(map(np.asarray, tied(flat))), flat, jac=True, method="L-BFGS-B",
        options={"ftol": 0, "gtol": 1e-12, "maxiter": 5000},
    )  # fmt: skip
    state = unravel(jnp.asarray(found.x))
    averages = [features.mean(axis=0) for features in np.split(start.features, [4, 7])]
    first = start.features - np.repeat(averages, sizes, axis=0)
    averages = [features.mean(axis=0) for features in np.split(state.features, [4, 7])]
    last = state.features - np.repeat(averages, sizes, axis=0)
    matrix = state.classifier.T @ state.classifier / 12 + (0.03 + tie) * np.eye(dim)
    np.testing.assert_allclose(last, tie * first @ np.linalg.inv(matrix), atol=1e-8)
    assert np.linalg.norm(last) > 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, y: least_squares_layer(f, y, 2), "labels"),
        (lambda f, y: least_squares_layer(f, y, 3, weight_decay=-1.0), "weight_decay = -1.0"),
        (
            lambda f, y: square_loss_parts(nc.LastLayer(f, f[:3]), y, weight_decay=-1.0),
            "weight_decay = -1.0",
        ),
    ],
)
def test_bad_arguments_are_refused_in_one_line(call, message):
    problem = problem_of("balanced", 0.0)
    with pytest.raises(ValueError, match=message) as refused:
        call(problem.init(KEY).features, problem.labels)
    assert "\n" not in str(refused.value)
