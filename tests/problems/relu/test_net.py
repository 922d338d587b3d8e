import math
from typing import NamedTuple

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from tolerances import rounding

import nc_jax as nc
from nc_jax.problems import relu

LAGRANGE, WEIGHT, PRACTICE = relu.Lagrange(), relu.WeightNormalization(), relu.UsualPractice()
CARTESIAN, POLAR = relu.Cartesian(), relu.Polar()
WHOLE_NORM, EACH_LAYER = relu.WholeNorm(), relu.EachLayer()
SCHEMES = {
    "lagrange": LAGRANGE,
    "weight": WEIGHT,
    "practice": PRACTICE,
    "cartesian": CARTESIAN,
    "polar": POLAR,
}
DECAYS = {"norm": WHOLE_NORM, "layers": EACH_LAYER}
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(6, 5))
INPUTS /= np.linalg.norm(INPUTS, axis=1).max()
SIGNS = np.array([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
ONE_HOT = np.eye(3)[[0, 1, 2, 1, 0, 2]]


def net(
    parametrization: relu.AbstractParametrization,
    decay_on: relu.AbstractDecayTarget = WHOLE_NORM,
    targets=SIGNS,
    **options,
) -> nc.NormalizedReLUNet:
    options = {"widths": (4, 3), "weight_decay": 0.03, **options}
    return nc.NormalizedReLUNet(
        INPUTS, targets, parametrization=parametrization, decay_on=decay_on, **options
    )


PROBLEMS = {
    **{
        f"{scheme} {target}": net(SCHEMES[scheme], DECAYS[target])
        for scheme in SCHEMES
        for target in DECAYS
    },
    "three classes, sum": net(LAGRANGE, targets=ONE_HOT, reduction="sum"),
    "three classes, layers": net(CARTESIAN, EACH_LAYER, ONE_HOT - 1 / 3),
    "exponential": net(LAGRANGE, loss=nc.Exponential()),
    "exponential weight": net(WEIGHT, loss=nc.Exponential(), reduction="sum"),
    "one layer": net(POLAR, widths=()),
}


class Slopes(NamedTuple):
    """What is compared with each other, in one program for each problem."""

    field: nc.Layers
    autodiff: nc.Layers
    scaled_descent: nc.Layers


def slopes_of(problem):
    def slopes(state):
        autodiff = jax.grad(lambda state: problem.objective(state))(state)
        return Slopes(problem.gradient(state), autodiff, problem.scaled_descent(state, 3.0))

    return jax.jit(slopes)


SLOPES = {name: slopes_of(problem) for name, problem in PROBLEMS.items()}


@eqx.filter_jit
def observe(problem, state):
    return problem.observe(state)


@eqx.filter_jit
def objective(problem, state):
    return problem.objective(state)


@eqx.filter_jit
def descent_of(problem, state, log_scale: jax.Array | float = 0.0):
    return problem.scaled_descent(state, log_scale)


@eqx.filter_jit
def outputs_of(problem, state, inputs):
    return problem.outputs(state, inputs)


def start_of(problem, seed=0, norm=1.3):
    """A random state as `init` has it, with unequal norms where there are several.

    Made by NumPy: each operation of JAX outside of a jit is a program.
    """
    rng = np.random.default_rng([1, seed])
    scheme, num_layers = problem.parametrization, problem.num_layers
    sizes = (problem.inputs.shape[1], *problem.widths, problem.num_outputs)
    drawn = [rng.normal(size=shape) for shape in zip(sizes[1:], sizes[:-1], strict=True)]
    lengths, factors = np.ones(num_layers), np.linspace(0.8, 1.2, num_layers)
    if scheme == CARTESIAN:
        lengths = norm * factors
    if scheme == PRACTICE:
        lengths[-1] = norm
    matrices = tuple(
        jnp.asarray(length * matrix / np.linalg.norm(matrix))
        for length, matrix in zip(lengths, drawn, strict=True)
    )
    norms = None
    if scheme == LAGRANGE:
        norms = jnp.asarray(np.array([norm]))
    if scheme in (WEIGHT, POLAR):
        norms = jnp.asarray(norm * factors)
    return nc.Layers(matrices, norms)


def descent_on_host(problem, state):
    return jax.tree.map(np.asarray, descent_of(problem, state))


def norms_of(state):
    assert state.norms is not None
    return state.norms


def flat(state):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state)])


def tangent(gradient, matrix):
    return gradient - np.sum(gradient * matrix) * matrix


def riemannian(problem, state, gradient):
    """∇L in the metric of each scheme: flat, but ρ_k² on the spheres of the polar variables."""
    if problem.parametrization == CARTESIAN:
        return gradient
    turned = [tangent(g, v) for g, v in zip(gradient.matrices, state.matrices, strict=True)]
    if problem.parametrization == PRACTICE:
        return [*turned[:-1], gradient.matrices[-1]]
    if problem.parametrization == POLAR:
        turned = [t / rho**2 for t, rho in zip(turned, state.norms, strict=True)]
    return [*turned, gradient.norms]


@pytest.mark.parametrize("name", PROBLEMS)
@given(seed=st.integers(0, 10_000), norm=st.floats(0.1, 3))
def test_the_field_is_the_gradient_in_the_metric_of_each_scheme(name, seed, norm):
    problem = PROBLEMS[name]
    state = start_of(problem, seed, norm)
    slopes = SLOPES[name](state)
    on_host = jax.tree.map(np.asarray, (state, slopes.autodiff))
    expected = flat(riemannian(problem, *on_host))
    tolerance = rounding() * max(np.abs(expected).max(), norm)
    np.testing.assert_allclose(flat(slopes.field), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", PROBLEMS)
def test_scaled_descent_is_minus_the_scaled_field(name):
    state = start_of(PROBLEMS[name])
    slopes = SLOPES[name](state)
    expected = -math.exp(3) * flat(slopes.field)
    tolerance = rounding() * np.abs(expected).max()
    np.testing.assert_allclose(flat(slopes.scaled_descent), expected, rtol=0, atol=tolerance)


def moments(problem, state):
    """f̄ (N,), and the derivative of each f̄_n in each V_k, by autodiff through the unit net."""
    return jax.tree.map(np.asarray, compiled_moments(problem, nc.Layers(state.matrices)))


@eqx.filter_jit
def compiled_moments(problem, unit):
    def margins(unit):
        return jnp.asarray(SIGNS) * problem.outputs(unit, jnp.asarray(INPUTS))[:, 0]

    return margins(unit), jax.jacrev(margins)(unit).matrices


def test_the_normalised_flow_is_that_of_equations_6_to_10():
    problem, decay = PROBLEMS["lagrange norm"], 0.03
    state = start_of(problem)
    [rho] = norms_of(state)
    f, slopes = moments(problem, state)
    descent = descent_on_host(problem, state)
    mu, second = np.mean(f), np.mean(f**2)
    np.testing.assert_allclose(
        norms_of(descent)[0], 2 * np.mean((1 - rho * f) * f) - 2 * decay * rho
    )
    np.testing.assert_allclose(norms_of(descent)[0], 2 * (mu - rho * (second + decay)))
    mu_rate = 0.0
    for v, slope, found in zip(state.matrices, slopes, descent.matrices, strict=True):
        along = slope - v * f[:, None, None]
        expected = 2 * rho * np.mean((1 - rho * f)[:, None, None] * along, axis=0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=rounding())
        d_mu = np.mean(slope, axis=0)
        d_second = np.mean(2 * f[:, None, None] * slope, axis=0)
        # Equation 9, corrected (E28).
        terms = 2 * rho * d_mu - rho**2 * d_second - 2 * rho * mu * v + 2 * rho**2 * second * v
        np.testing.assert_allclose(found, terms, rtol=0, atol=rounding())
        mu_rate += 2 * rho * np.sum(d_mu**2) - rho**2 * np.sum(d_mu * d_second)
    # Equation 10, corrected (E29): μ' with L = 3 layers.
    mu_rate += 2 * 3 * (rho**2 * mu * second - rho * mu**2)
    actual = sum(
        np.sum(np.mean(s, axis=0) * v) for s, v in zip(slopes, descent.matrices, strict=True)
    )
    np.testing.assert_allclose(actual, mu_rate, rtol=0, atol=rounding())


def test_the_unnormalised_flow_in_polar_variables_is_that_of_equations_15_16_46_and_47():
    problem = net(POLAR, weight_decay=0.0, reduction="sum")
    for norms in (np.array([0.8, 1.1, 1.3]), np.full(3, 1.2)):
        state = nc.Layers(start_of(problem).matrices, jnp.asarray(norms))
        rho = np.prod(norms)
        f, slopes = moments(problem, state)
        descent = descent_on_host(problem, state)
        pull = np.sum(f) - rho * np.sum(f**2)
        np.testing.assert_allclose(norms_of(descent), 2 * rho / norms * pull)
        for k, (v, slope) in enumerate(zip(state.matrices, slopes, strict=True)):
            turn = np.sum((1 - rho * f)[:, None, None] * (slope - v * f[:, None, None]), axis=0)
            expected = 2 * rho / norms[k] ** 2 * turn
            np.testing.assert_allclose(descent.matrices[k], expected, rtol=0, atol=rounding())
        if np.ptp(norms) == 0:  # (15), and (16) with its sign corrected (E34)
            rho_rate = np.sum(rho / norms * norms_of(descent))
            np.testing.assert_allclose(rho_rate, 2 * 3 * rho ** (4 / 3) * pull)
            np.testing.assert_allclose(
                descent.matrices[0],
                2 * rho ** (1 / 3) * turn_of(problem, state, 0),
                atol=rounding(),
            )


def turn_of(problem, state, layer):
    f, slopes = moments(problem, state)
    rho = np.prod(norms_of(state))
    along = slopes[layer] - state.matrices[layer] * f[:, None, None]
    return np.sum((1 - rho * f)[:, None, None] * along, axis=0)


def test_usual_practice_is_that_of_equations_69_to_71():
    problem, decay = net(PRACTICE, EACH_LAYER, reduction="sum"), 0.03
    state = start_of(problem)
    f, slopes = moments(problem, state)  # here g itself, W_L being part of it
    descent = descent_on_host(problem, state)
    for w, slope, found in zip(state.matrices[:-1], slopes, descent.matrices, strict=False):
        expected = 2 * np.sum((1 - f)[:, None, None] * (slope - w * f[:, None, None]), axis=0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=rounding())
    last = 2 * np.sum((1 - f)[:, None, None] * slopes[-1], axis=0) - 2 * decay * state.matrices[-1]
    np.testing.assert_allclose(descent.matrices[-1], last, rtol=0, atol=rounding())
    # ν_k without the spurious ρ (E40).
    multipliers = eqx.filter_jit(problem.multipliers)(state)
    np.testing.assert_allclose(multipliers, np.sum((1 - f) * f) - decay)
    # And not the flow of (6) and (7), as the paper has it: its V_L turns ρ² times as fast.
    rho = np.linalg.norm(state.matrices[-1])
    directions = (*state.matrices[:-1], jnp.asarray(np.asarray(state.matrices[-1]) / rho))
    toy = net(LAGRANGE, reduction="sum")
    lagrange = descent_on_host(toy, nc.Layers(directions, jnp.asarray([rho])))
    turning = tangent(descent.matrices[-1], directions[-1]) / rho
    np.testing.assert_allclose(lagrange.matrices[-1], rho**2 * turning, rtol=0, atol=rounding())
    np.testing.assert_allclose(lagrange.matrices[0], descent.matrices[0], rtol=0, atol=rounding())
    np.testing.assert_allclose(norms_of(lagrange)[0], np.sum(descent.matrices[-1] * directions[-1]))


def test_the_last_layer_of_several_classes_turns_as_in_equation_74():
    # Appendix J.1 with ρ_k = 1 below the last layer, which is Lagrange's. Half the paper's loss has
    # half our λ; both fields are then half of ours.
    problem = PROBLEMS["three classes, sum"]
    state = start_of(problem)
    [rho] = norms_of(state)
    h = np.asarray(eqx.filter_jit(problem.features)(state, jnp.asarray(INPUTS)))
    last, rho = np.asarray(state.matrices[-1]), float(rho)
    f = h @ last.T
    residual = ONE_HOT - rho * f
    expected = rho * (residual.T @ h - np.sum(residual * f) * last)
    found = descent_on_host(problem, state).matrices[-1]
    np.testing.assert_allclose(found / 2, expected, rtol=0, atol=rounding())


def test_the_exponential_flow_is_that_of_appendix_j2():
    problem = PROBLEMS["exponential"]
    state = start_of(problem)
    [rho] = norms_of(state)
    f, slopes = moments(problem, state)
    descent = descent_on_host(problem, state)
    weight = np.exp(-rho * f)
    np.testing.assert_allclose(norms_of(descent)[0], np.mean(weight * f) - 2 * 0.03 * rho)
    for v, slope, found in zip(state.matrices, slopes, descent.matrices, strict=True):
        full = rho * np.mean(weight[:, None, None] * slope, axis=0)
        np.testing.assert_allclose(found, tangent(full, v), rtol=0, atol=rounding())


def test_equal_terms_of_equation_81_do_not_make_equal_margins():
    # E53: each sample by itself is at rest in ρ = 5, at margins 0.1 and 0.351.
    margins = np.array([0.1, 0.351286])
    decay = 0.1 * math.exp(-0.5) / 10
    problem = nc.NormalizedReLUNet(
        np.array([[0.1], [-0.351286]]), SIGNS[:2], (), loss=nc.Exponential(), weight_decay=decay
    )
    state = nc.Layers((jnp.asarray([[1.0]]),), jnp.asarray([5.0]))
    np.testing.assert_allclose(observe(problem, state)["margins"], margins)

    @jax.jit
    def field_of(sample):
        return problem.on_samples(sample).gradient(state)

    for sample in (0, 1):
        field = field_of(jnp.asarray([sample]))
        assert abs(norms_of(field)[0]) < 1e-6 * decay * 10


@pytest.mark.parametrize("name", ["cartesian layers", "lagrange norm", "three classes, layers"])
def test_lemma_6_every_layer_has_the_output_along_itself(name):
    problem, state = PROBLEMS[name], start_of(PROBLEMS[name])
    inputs = jnp.asarray(INPUTS)

    @jax.jit
    def differentiated(state):
        weights = nc.Layers(state.weights())
        jacobian = jax.jacrev(lambda layers: problem.outputs(layers, inputs))(weights)
        return weights, problem.outputs(weights, inputs), jacobian

    weights, outputs, jacobian = jax.tree.map(np.asarray, differentiated(state))
    for slope, weight in zip(jacobian.matrices, weights.matrices, strict=True):
        along = np.einsum("ncij,ij->nc", slope, weight)
        np.testing.assert_allclose(along, outputs, rtol=0, atol=rounding())
    # Margins of the unit net are within 1, of either sign (E26).
    assert np.all(np.abs(outputs) <= np.prod([np.linalg.norm(w) for w in weights.matrices]))


LEMMA_9 = ("lagrange norm", "lagrange layers", "three classes, sum")


@eqx.filter_jit
def observables_and_outputs(problem, state):
    return problem.observe(state), problem.outputs(state, jnp.asarray(INPUTS))


@pytest.mark.parametrize("name", LEMMA_9)
@given(seed=st.integers(0, 10_000), norm=st.floats(-10, 10).filter(lambda x: abs(x) > 0.01))
def test_lemma_9_holds_at_every_state_and_the_multipliers_are_equal(name, seed, norm):
    # ρ may pass through 0 along a flow; a start has none below it.
    state = start_of(PROBLEMS[name], seed, abs(norm))
    state = nc.Layers(state.matrices, jnp.asarray(np.sign(norm) * norms_of(state)))
    observed, outputs = jax.tree.map(np.asarray, observables_and_outputs(PROBLEMS[name], state))
    size = (
        float(observed["objective"])
        + 2 * abs(float(observed["mean_margin"] * observed["norm"])) * 6
    )
    assert abs(observed["lemma_9_residual"]) < rounding() * size
    nu = np.asarray(observed["multipliers"])
    assert nu.shape == (3,)
    np.testing.assert_allclose(nu, nu[0], rtol=0, atol=rounding() * size)
    # Equation 5: the mean of ρf̄(1 − ρf̄), over all outputs.
    targets = np.asarray(PROBLEMS[name].targets)
    expected = PROBLEMS[name].loss_scale * np.sum(outputs * (targets - outputs))
    np.testing.assert_allclose(nu[0], expected, rtol=0, atol=rounding() * size)


@eqx.filter_jit
def last_layer_and_metrics(problem, state):
    layer, labels = problem.last_layer(state), problem.labels
    margins = nc.metrics.sample_margins(layer, labels)
    return layer, margins, nc.metrics.collapse_metrics(layer, labels)


def test_observables_have_the_values_of_their_definitions():
    problem = net(LAGRANGE, test_inputs=-INPUTS, test_targets=SIGNS)
    state = start_of(problem)
    observed, [rho] = observe(problem, state), np.asarray(norms_of(state))
    f = SIGNS * np.asarray(outputs_of(problem, state, jnp.asarray(INPUTS)))[:, 0] / rho
    of_tests = np.asarray(outputs_of(problem, state, jnp.asarray(-INPUTS)))[:, 0]
    for name, expected in {
        "norm": rho, "layer_norms": [1, 1, rho], "margins": f, "mean_margin": f.mean(),
        "second_moment": (f**2).mean(), "margin_std": f.std(), "train_error": np.mean(f <= 0),
        "equilibrium_norm": f.sum() / (6 * 0.03 + (f**2).sum()),  # (11) with N (E30)
        "interpolation_gap": 1 - rho * f.mean(),
        "interpolation_spread": rho * np.abs(f - f.mean()).max(),
        "log_objective": np.log(objective(problem, state)),
        "test_error": np.mean(SIGNS * of_tests <= 0),
    }.items():  # fmt: skip
        np.testing.assert_allclose(observed[name], expected, atol=rounding(), err_msg=name)
    # The last layer of two classes has the margin y z, and the metrics are those of its parts.
    layer, margins, measured = last_layer_and_metrics(problem, state)
    assert layer.classifier.shape == (2, 3)
    np.testing.assert_allclose(margins, rho * f)
    assert observed["zhu_nc1"] == measured["zhu_nc1"]


def test_the_gap_of_several_classes_is_that_of_assumption_1():
    for targets in (ONE_HOT, ONE_HOT - 1 / 3):
        problem = nc.NormalizedReLUNet(np.eye(6), targets, (), parametrization=CARTESIAN)
        # One linear layer on orthonormal inputs has any outputs: those of assumption 1.
        quasi = np.where(ONE_HOT == 1, 1 - 0.2, 0.2 / 2) - ONE_HOT + targets
        observed = jax.tree.map(np.asarray, observe(problem, nc.Layers((jnp.asarray(quasi.T),))))
        np.testing.assert_allclose(observed["interpolation_gap"], 0.2)
        np.testing.assert_allclose(observed["interpolation_spread"], 0.0, atol=rounding())
        np.testing.assert_allclose(observed["margins"] * observed["norm"], 1 - 3 / 2 * 0.2)
        assert np.all(np.asarray(problem.labels) == np.argmax(ONE_HOT, axis=1))


def test_the_exponential_loss_is_scaled_in_log_space():
    problem = net(CARTESIAN, loss=nc.Exponential(), weight_decay=0.0, widths=())
    state = nc.Layers((5000 * jnp.ones((1, 5)),))
    outputs = SIGNS * np.asarray(outputs_of(problem, state, jnp.asarray(INPUTS)))[:, 0]
    # Scaled by the largest exponent, the sample of the least margin alone is left.
    descent = descent_of(problem, state, jnp.asarray(outputs.min() + math.log(6)))
    worst = outputs.argmin()
    np.testing.assert_allclose(
        descent.matrices[0][0], SIGNS[worst] * INPUTS[worst], rtol=rounding(operations=10_000)
    )
    # Past the largest float too, where λ = 0 must not meet infinity.
    far = nc.Layers((1e6 * jnp.ones((1, 5)),))
    outputs_far = SIGNS * np.asarray(outputs_of(problem, far, jnp.asarray(INPUTS)))[:, 0]
    assert outputs_far.max() > 1000
    field = descent_of(problem, far, jnp.asarray(outputs_far.max()))
    assert np.all(np.isfinite(field.matrices[0]))
    assert problem.largest_log_scale(np.float64) == np.inf
    assert np.isfinite(net(CARTESIAN).largest_log_scale(np.float64))
    np.testing.assert_allclose(
        eqx.filter_jit(problem.log_objective)(state), np.logaddexp.reduce(-outputs) - math.log(6)
    )


class Quartic(nc.losses.TargetLoss):
    """Σ (z − y)⁴: a loss of a user, of which the paper says nothing."""

    def value(self, outputs, targets):
        return jnp.sum((outputs - targets) ** 4, axis=1)

    def log_value(self, outputs, targets):
        return jnp.log(self.value(outputs, targets))

    def scaled_gradient(self, outputs, targets, log_scale):
        return 4 * jnp.exp(log_scale) * (outputs - targets) ** 3


def test_a_loss_of_a_user_is_descended_and_has_no_theory_of_the_square_loss():
    problem = net(CARTESIAN, loss=Quartic(), targets=ONE_HOT)
    slopes = slopes_of(problem)(start_of(problem))
    np.testing.assert_allclose(flat(slopes.field), flat(slopes.autodiff), rtol=0, atol=rounding())
    assert "equilibrium_norm" in net(CARTESIAN).observables()
    assert "equilibrium_norm" not in problem.observables()


@pytest.mark.parametrize("name", PROBLEMS)
def test_float32_stays_float32(name):
    problem = PROBLEMS[name]
    state = problem.init(jax.random.key(0), 0.5, dtype=jnp.float32)
    traced = jax.eval_shape(lambda s: (problem.gradient(s), problem.observe(s)), state)
    assert {value.dtype for value in jax.tree.leaves(traced)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("parametrization", SCHEMES.values(), ids=SCHEMES)
def test_starts_have_the_norm_asked_for_and_retraction_keeps_them(parametrization):
    problem = net(parametrization)
    state = problem.init(jax.random.key(3), 0.7)
    norms = np.sqrt([np.sum(np.square(w)) for w in state.weights()])
    ones = (1, 1, 0.7) if parametrization in (LAGRANGE, PRACTICE) else (0.7, 0.7, 0.7)
    np.testing.assert_allclose(norms, ones)
    np.testing.assert_allclose(flat(problem.retract(state)), flat(state), rtol=rounding())
    if parametrization == LAGRANGE:
        blown = nc.Layers(tuple(2 * v for v in state.matrices), state.norms)
        np.testing.assert_allclose(flat(problem.retract(blown)), flat(state), rtol=rounding())
    other = problem.init(jax.random.key(4), 0.7)
    assert not np.allclose(flat(other), flat(state))


@pytest.mark.parametrize("name", ["lagrange norm", "weight norm", "polar layers"])
def test_a_direction_off_its_sphere_is_pulled_back_whatever_the_sign_of_the_norm(name):
    state = start_of(PROBLEMS[name])
    for factor, sign in ((0.9, 1), (1.1, 1), (0.9, -1), (1.1, -1)):
        matrices = tuple(jnp.asarray(factor * np.asarray(v)) for v in state.matrices)
        off = nc.Layers(matrices, jnp.asarray(sign * np.asarray(norms_of(state))))
        for v, field in zip(off.matrices, SLOPES[name](off).field.matrices, strict=True):
            assert np.sign(np.sum(v * field)) == np.sign(factor - 1)


def test_a_net_of_norm_0_classifies_nothing():
    problem = net(LAGRANGE, test_inputs=INPUTS, test_targets=SIGNS)
    observed = observe(problem, problem.init(jax.random.key(0), 0.0))
    assert observed["train_error"] == observed["test_error"] == 1


def test_on_samples_is_the_problem_of_these_samples_alone():
    part = np.array([4, 1, 3])
    whole, problem = net(CARTESIAN), net(CARTESIAN).on_samples(jnp.asarray(part))
    alone = nc.NormalizedReLUNet(
        INPUTS[part], SIGNS[part], (4, 3), parametrization=CARTESIAN, weight_decay=0.03
    )
    state = start_of(whole)
    of_part = jax.jit(lambda state: problem.objective(state))(state)
    np.testing.assert_allclose(of_part, objective(alone, state), rtol=rounding())


def test_samples_may_be_swept_under_vmap():
    labels = jnp.asarray(np.stack([SIGNS, -SIGNS, np.roll(SIGNS, 1)]))
    state = start_of(net(CARTESIAN))
    losses = jax.jit(jax.vmap(lambda y: net(CARTESIAN, targets=y).objective(state)))(labels)
    for loss, y in zip(np.asarray(losses), np.asarray(labels), strict=True):
        np.testing.assert_allclose(
            loss, objective(net(CARTESIAN, targets=y), state), rtol=rounding()
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": 2 * INPUTS}, "inputs have norms up to 2: scale them to at most 1"),
        ({"targets": np.arange(6.0)}, "targets hold 0: give ±1"),
        ({"targets": np.ones(6)}, "targets name 1 of 2 classes"),
        ({"targets": ONE_HOT[[0, 1, 0, 1, 0, 1]]}, "targets name 2 of 3 classes"),
        ({"targets": 7 * SIGNS[:, None]}, "targets hold 7: give ±1"),
        ({"widths": (4, 0)}, r"widths\[1\] = 0: give an integer >= 1"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0: give a finite number >= 0"),
        ({"targets": ONE_HOT, "loss": nc.Exponential()}, "Exponential.. with 3 outputs"),
        ({"test_inputs": INPUTS}, "test_inputs without test_targets"),
    ],
)  # fmt: skip
def test_invalid_arguments_are_refused_in_one_line(change, message):
    arguments = {"inputs": INPUTS, "targets": SIGNS, "widths": (4,), **change}
    with pytest.raises(ValueError, match=message) as error:
        nc.NormalizedReLUNet(**arguments)
    assert "\n" not in str(error.value)
