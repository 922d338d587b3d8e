"""Closed forms of Rangamani's square-loss theory against quadrature, autodiff and the flow."""

import math
from typing import Literal

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
from hypothesis import given, settings, strategies as st
from jax.flatten_util import ravel_pytree
from tolerances import integration, rounding

import nc_jax as nc

KEY = jax.random.key(6)
SAMPLE = np.array([0.48, 0.64, 0.6])  # of norm 1


def identity(z):
    return z


def nothing(state):
    return {}


def flow(problem, start, times, rtol=1e-11):
    """States at the times, each the end of its own run: between steps Dopri8 interpolates."""
    ends = [
        nc.gradient_flow(
            problem, start, np.array([time]), nc.RealTime(), diffrax.Dopri8(), rtol=rtol,
            atol=rtol / 100, observe=nothing, save_states=True,
        ).states
        for time in times
    ]  # fmt: skip
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *ends)


# The norm under margins that stand still.


@jax.jit
def logistic(time, *coefficients):
    """ρ and ρ' at the time, and ρ at the start and long after."""

    def norm(t):
        return nc.exact.logistic_norm(t, *coefficients)

    return *jax.jvp(norm, (time,), (jnp.ones(()),)), norm(0 * time), norm(1e300 + time)


@given(
    start=st.floats(1e-3, 10), alignment=st.floats(0.1, 10), second_moment=st.floats(0.1, 10),
    time=st.floats(0, 100),
)  # fmt: skip
def test_the_logistic_norm_solves_equation_51(start, alignment, second_moment, time):
    value, rate, first, last = logistic(time, start, alignment, second_moment)
    expected = 4 * value * (alignment - second_moment * value)
    # Both terms of the right side cancel at the limit, and e^(−4At) rounds 4At.
    assert abs(rate - expected) < rounding() * 4 * value * (alignment + second_moment * value)
    assert first == pytest.approx(start, rel=rounding())
    limit = alignment / second_moment
    assert min(start, limit) <= value * (1 + rounding())
    assert value <= max(start, limit) * (1 + rounding())
    assert last == pytest.approx(limit, rel=rounding())


@pytest.mark.parametrize("layers", range(1, 7))
def test_the_time_to_a_norm_is_the_integral_of_equation_51(layers):
    norm_time = jax.jit(nc.exact.norm_time, static_argnums=4)
    for start, alignment, second in ((0.05, 2.0, 1.5), (1.5, 1.0, 2.0)):
        limit = alignment / second
        norms = start + (limit - start) * np.array([-0.02, 0.0, 0.02, 0.5, 0.99])

        def speed(rho, alignment=alignment, second=second):
            return 2 * layers * rho ** (2 - 2 / layers) * (alignment - second * rho)

        def elapsed(norm, start=start, speed=speed):
            return scipy.integrate.quad(
                lambda rho: 1 / speed(rho), start, norm, epsabs=0, epsrel=1e-12, limit=200
            )[0]

        *times, at_limit, beyond = norm_time(
            np.append(norms, [limit, 1.1 * limit - 0.1 * start]), start, alignment, second, layers
        )
        # Terms of size u^(2−L)/A are subtracted, u the smaller of the ends.
        size = min(start, limit) ** (min(2 - layers, 0) / layers) / alignment
        expected = [elapsed(norm) for norm in norms]
        np.testing.assert_allclose(times, expected, rtol=rounding(), atol=rounding() * size)
        assert at_limit == np.inf
        assert np.isnan(beyond)
        if layers == 2:
            again = nc.exact.logistic_norm(jnp.stack(times[1:]), start, alignment, second)
            np.testing.assert_allclose(again, norms[1:], rtol=rounding())


@pytest.mark.parametrize("layers", [1, 4])
def test_an_unnormalised_deep_linear_net_has_that_speed(layers):
    # One unit a layer: f̄ = 0.5 whatever the weights, A = 2 · 0.5 and B = 2 · 0.25.
    problem = nc.NormalizedReLUNet(
        np.array([[0.5], [-0.5]]), np.array([1.0, -1.0]), (1,) * (layers - 1), "none",
        reduction="sum", activation=identity,
    )  # fmt: skip

    @jax.jit
    def both(norm):
        weight = norm ** (1 / layers)
        state = nc.Layers((jnp.full((1, 1), weight),) * layers)
        speeds = jnp.stack(problem.scaled_descent(state, 0.0).matrices)
        seconds = jax.jvp(
            lambda norm: nc.exact.norm_time(norm, 0.1, 1.0, 0.5, layers),
            (norm,), (jnp.ones(()),),
        )[1]  # fmt: skip
        return norm / weight * jnp.sum(speeds), 1 / seconds

    for norm in (0.1, 0.3, 1.9):
        found, expected = both(jnp.asarray(norm))
        np.testing.assert_allclose(found, expected, rtol=rounding())


def test_a_normalised_net_relaxes_with_its_decay():
    # The norm equation of the problem itself, for margins of either sign.
    problem = antipodal(weight_decay=0.3)

    @jax.jit
    def both(state, time):
        margin = output_of(state)

        def norm_at(t):
            return nc.exact.normalized_norm(t, norm_of(state), margin, margin**2, 0.3)

        norm, rate = jax.jvp(norm_at, (time,), (jnp.ones(()),))
        return norm, rate, problem.scaled_descent(nc.Layers(state.matrices, norm[None]), 0.0)

    for seed in (7, 8):
        norm, rate, field = both(problem.init(jax.random.key(seed), 0.7), jnp.zeros(()))
        np.testing.assert_allclose(norm, 0.7, rtol=rounding())
        np.testing.assert_allclose(norm_of(field), rate, rtol=rounding())
    # An aligned net, f = 1, stays so, and is at every time where the closed form has it.
    unit = jnp.array([0.6, 0.0, 0.0, -0.8])
    start = nc.Layers((jnp.outer(unit, jnp.asarray(SAMPLE)), unit[None]), jnp.array([3.0]))
    for time in (0.0, 0.5, 2.0, 20.0):
        norm, rate, field = both(start, jnp.asarray(time))
        assert abs(norm_of(field) - rate) < rounding()
        assert jnp.abs(ravel_pytree(field.matrices)[0]).max() < rounding()
    np.testing.assert_allclose(norm, 1 / 1.3, rtol=rounding())


# Lemma 2.


@given(
    smallest=st.floats(0.5, 10), decay=st.floats(1e-3, 1), samples=st.integers(2, 20),
    data=st.data(), reduction=st.sampled_from(["mean", "sum"]),
)  # fmt: skip
def test_lemma_2_is_the_minimum_over_the_norm(smallest, decay, samples, data, reduction):
    stuck = data.draw(st.integers(1, samples))
    found = nc.exact.stuck_margins(smallest, decay, samples, stuck, reduction)
    scale = 1 / samples if reduction == "mean" else 1.0

    def loss(rho):
        margins = np.where(np.arange(samples) < stuck, 1 / smallest, 1 / rho)
        return scale * np.sum((1 - rho * margins) ** 2) + decay * rho**2

    place, least, *_ = scipy.optimize.brent(
        loss, brack=(0.1 * smallest, 0.9 * smallest), tol=1e-12, full_output=True
    )
    np.testing.assert_allclose(found.objective, least, rtol=rounding())
    # A minimum is flat: its place is known to the square root of the rounding.
    np.testing.assert_allclose(found.norm, place, rtol=10 * math.sqrt(rounding(operations=1)))
    np.testing.assert_allclose(found.gap, 1 - found.norm / smallest, rtol=0, atol=rounding())
    apart = 1 / found.norm - 1 / smallest if stuck < samples else 0.0
    # 1/ρ may be far above 1/ρ₀.
    np.testing.assert_allclose(found.margin_difference, apart, rtol=0, atol=rounding() / place)
    if stuck < samples:
        equal = nc.exact.stuck_margins(smallest, decay, samples, samples, reduction)
        assert found.objective < equal.objective


def test_lemma_2_corrects_the_printed_gap():
    # E47: at λ = 0.02, ρ₀ = 3, N = 12 of the summed loss 0.0148, where λρ₀ is 0.06.
    found = nc.exact.stuck_margins(3.0, 0.02, 12, 12, "sum")
    np.testing.assert_allclose(found.gap, 0.18 / 12.18, rtol=rounding())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_equal_margins_are_where_the_net_itself_is_least(reduction):
    # One layer that reads x = ±0.5 has f̄ = 0.5, so ρ₀ = 2.
    problem = nc.NormalizedReLUNet(
        np.array([[0.5], [-0.5]]), np.array([1.0, -1.0]), (), reduction=reduction, weight_decay=0.3
    )
    found = nc.exact.stuck_margins(2.0, 0.3, 2, 2, reduction)
    state = nc.Layers((jnp.ones((1, 1)),), found.norm[None])
    np.testing.assert_allclose(problem.objective(state), found.objective, rtol=rounding())
    assert jnp.abs(ravel_pytree(problem.gradient(state))[0]).max() < rounding()


# The collapsed minimum.


def square_loss(
    classes, dim, size, reduction: Literal["mean", "sum"] = "sum", bias=True, decays=(0.2, 0.3)
):
    return nc.UnconstrainedFeatures(
        (size,) * classes, dim, nc.SquaredError(), reduction, bias, nc.WeightDecay(*decays)
    )


MINIMA = {
    "bias": square_loss(3, 5, 4),
    "bias, d = K - 1, mean": square_loss(4, 3, 2, "mean", decays=(0.02, 0.01)),
    "bias, past the threshold": square_loss(2, 4, 2, decays=(3.0, 0.7)),
    "no bias": square_loss(3, 5, 4, bias=False),
    "no bias, d = K, mean": square_loss(4, 4, 2, "mean", False, (0.02, 0.01)),
    "no bias, past the threshold": square_loss(2, 4, 2, "mean", False, (1.0, 1.0)),
}
COLLAPSED = "bias", "bias, d = K - 1, mean"
ORTHOGONAL = "no bias", "no bias, d = K, mean"


def metrics_of(problem, state):
    return jax.jit(lambda state: nc.metrics.collapse_metrics(state, problem.labels))(state)


@eqx.filter_jit
def proof(problem):
    state = nc.exact.square_loss_minimizer(problem, KEY)
    certificate = nc.landscape.global_certificate(problem, state)
    gradient = ravel_pytree(problem.gradient(state))[0]
    return state, gradient, certificate.gap, problem.objective(state)


@pytest.mark.parametrize("name", MINIMA)
def test_the_square_loss_minimum_is_proved_by_duality(name):
    problem = MINIMA[name]
    state, gradient, above_bound, objective = proof(problem)
    assert jnp.abs(gradient).max() < rounding()
    assert abs(above_bound) < rounding() * objective
    # Half the squares of what the singular values √n lose, and the decay of what is left.
    decay, size = problem.weight_decay, problem.class_sizes[0]
    threshold = math.sqrt(decay.classifier * decay.features) / problem.loss_scale
    left = max(math.sqrt(size) - threshold, 0)
    values = problem.num_classes - problem.bias
    expected = values * ((math.sqrt(size) - left) ** 2 / 2 + threshold * left)
    np.testing.assert_allclose(objective, problem.loss_scale * expected, rtol=rounding())
    gap = 1 - np.asarray(state.logits())[0, 0]
    np.testing.assert_allclose(nc.exact.square_loss_gap(problem), gap, rtol=rounding())
    norms = [weight * np.sum(np.square(x)) for weight, x in (
        (decay.classifier, state.classifier), (decay.features, state.features)
    )]  # fmt: skip
    np.testing.assert_allclose(norms[0], norms[1], rtol=rounding())
    if "past" in name:
        assert norms == [0, 0]


def parts_of(problem, state):
    """Logits, W, class means, their mean, and λ as theorem 3 writes it, in NumPy."""
    features, classifier = np.asarray(state.features), np.asarray(state.classifier)
    means = features.reshape(problem.num_classes, -1, problem.feature_dim).mean(axis=1)
    logits = features @ classifier.T
    if state.bias is not None:
        logits = logits + np.asarray(state.bias)
    decay = float(problem.weight_decay.classifier) / problem.loss_scale
    return logits, classifier, means, means.mean(axis=0), decay


def check_theorem_3(problem, state):
    logits, classifier, means, center, decay = parts_of(problem, state)
    classes, size = problem.num_classes, problem.class_sizes[0]
    own = np.eye(classes, dtype=bool)[problem.labels]
    gap = 1 - logits[own].mean()
    # ε is a difference of numbers near 1, and what it gives vanishes with the margin.
    tolerance = rounding() / gap / (1 - gap * classes / (classes - 1))
    # Assumption 1.
    np.testing.assert_allclose(logits[own], 1 - gap, rtol=rounding())
    np.testing.assert_allclose(logits[~own], gap / (classes - 1), rtol=0, atol=rounding())
    found = nc.exact.simplex_geometry(gap, decay, classes, size)
    np.testing.assert_allclose(
        classifier, found.classifier_over_means * (means - center),
        rtol=0, atol=tolerance * np.abs(classifier).max(),
    )  # fmt: skip
    gram = classifier @ classifier.T
    expected = np.full((classes, classes), found.inner_product)
    np.fill_diagonal(expected, found.squared_norm)
    np.testing.assert_allclose(gram, expected, rtol=0, atol=tolerance * found.squared_norm)
    cosine = gram[0, 1] / math.sqrt(gram[0, 0] * gram[1, 1])
    np.testing.assert_allclose(cosine, found.cosine, rtol=rounding())
    np.testing.assert_allclose(logits[0, 0] - logits[0, 1], found.margin, rtol=0, atol=rounding())
    # Equation 35 needs the bias: W alone is orthogonal to the global mean.
    np.testing.assert_allclose(classifier @ center, 0, rtol=0, atol=rounding())
    mean_output = classifier @ center + np.asarray(state.bias)
    np.testing.assert_allclose(mean_output, found.mean_output, rtol=0, atol=rounding())
    return gap


@given(
    shape=st.sampled_from([(2, 1, 3), (3, 5, 4), (4, 3, 1)]),
    decays=st.tuples(st.floats(1e-3, 0.9), st.floats(1e-3, 0.9)),
    reduction=st.sampled_from(["mean", "sum"]),
)  # fmt: skip
@settings(max_examples=20)
def test_the_minimum_has_the_geometry_of_theorem_3(shape, decays, reduction):
    classes, dim, size = shape
    scale = 1 / (classes * size) if reduction == "mean" else 1.0
    decayed = scale * decays[0], scale * decays[1]
    problem = square_loss(classes, dim, size, reduction, decays=decayed)
    state = nc.exact.square_loss_minimizer(problem, KEY)
    gap = check_theorem_3(problem, state)
    tau = math.sqrt(decays[0] * decays[1] / size)
    np.testing.assert_allclose(gap, (classes - 1) / classes * tau, rtol=rounding() / tau)


def test_the_minimum_has_neural_collapse_by_every_metric():
    problem = MINIMA["bias, d = K - 1, mean"]
    seen = metrics_of(problem, nc.exact.square_loss_minimizer(problem, KEY))
    for key in (
        "ji_feature_norm_variation", "ji_classifier_norm_variation", "ji_within_class_variation",
        "ji_feature_cosine_gap", "ji_classifier_cosine_gap", "ji_self_duality",
        "zhu_nc1", "zhu_nc2", "zhu_nc3", "papyan_classifier_cosine_gap",
        "papyan_ncc_mismatch", "mixon_snc3",
    ):  # fmt: skip
        assert abs(seen[key]) < rounding(), key


@pytest.mark.parametrize("name", COLLAPSED)
def test_the_minimum_has_the_geometry_of_theorem_11(name):
    problem = MINIMA[name]
    state = nc.exact.square_loss_minimizer(problem, KEY)
    logits, classifier, means, center, decay = parts_of(problem, state)
    classes, size = problem.num_classes, problem.class_sizes[0]
    norm = float(np.linalg.norm(classifier))
    direction, bias = classifier / norm, np.asarray(state.bias)
    gap = 1 - logits[0, 0]
    found = nc.exact.normalized_geometry(gap, norm, classes, size)
    np.testing.assert_allclose(
        direction, found.direction_over_means * (means - center), rtol=0, atol=rounding()
    )
    expected = np.full((classes, classes), found.inner_product)
    np.fill_diagonal(expected, found.squared_norm)
    np.testing.assert_allclose(direction @ direction.T, expected, rtol=0, atol=rounding())
    np.testing.assert_allclose(direction @ center + bias / norm, found.mean_output, rtol=rounding())
    np.testing.assert_allclose(found.equilibrium_decay, decay, rtol=rounding())
    # The printed 1 − ε/(C−1) of equation 76 is another number (E52).
    printed = norm / ((classes - 1) * (1 - gap / (classes - 1)))
    assert abs(printed / found.direction_over_means - 1) > gap / 4

    # ρ' = 0 of the loss written out, at the decay that the geometry gives, and at it alone.
    targets = np.eye(classes)[problem.labels]

    def slope(decay):
        def loss(rho):
            outputs = np.asarray(state.features) @ (rho * direction.T) + bias
            return np.sum((outputs - targets) ** 2) / 2 + decay / 2 * rho**2

        # A parabola has exact central differences.
        return (loss(norm + 1) - loss(norm - 1)) / 2

    assert abs(slope(float(found.equilibrium_decay))) < rounding(operations=1000)
    assert slope(1.1 * float(found.equilibrium_decay)) > 1e-3


def test_theorem_11_is_a_rest_point_of_the_normalised_net_with_centred_targets():
    problem = square_loss(3, 4, 5, decays=(0.2, 3.0))
    state = nc.exact.square_loss_minimizer(problem, KEY)
    norm = jnp.linalg.norm(state.classifier)
    gap = nc.exact.square_loss_gap(problem)
    decay = nc.exact.normalized_geometry(gap, norm, 3, 5).equilibrium_decay
    # One layer on the features as given samples, which have norms below 1; its loss is twice ours.
    net = nc.NormalizedReLUNet(
        state.features, np.eye(3)[problem.labels] - 1 / 3, (), reduction="sum", weight_decay=decay
    )
    layer = nc.Layers((state.classifier / norm,), norm[None])
    gradient, objective = jax.jit(lambda s: (ravel_pytree(net.gradient(s))[0], net.objective(s)))(
        layer
    )
    assert jnp.abs(gradient).max() < rounding()
    np.testing.assert_allclose(objective, 2 * (
        problem.objective(state) - 3.0 / 2 * jnp.sum(state.features**2)
    ), rtol=rounding())  # fmt: skip


@pytest.mark.parametrize("name", ORTHOGONAL)
def test_without_a_bias_the_minimum_is_an_orthogonal_frame(name):
    problem = MINIMA[name]
    state = nc.exact.square_loss_minimizer(problem, KEY)
    logits, classifier, means, center, decay = parts_of(problem, state)
    classes, size = problem.num_classes, problem.class_sizes[0]
    gap = nc.exact.square_loss_gap(problem)
    found = nc.exact.orthogonal_geometry(gap, decay, classes, size)
    np.testing.assert_allclose(
        logits, float(found.margin) * np.eye(classes)[problem.labels], rtol=0, atol=rounding()
    )
    np.testing.assert_allclose(
        classifier, found.classifier_over_means * means, rtol=0, atol=rounding()
    )
    np.testing.assert_allclose(
        classifier @ classifier.T,
        float(found.squared_norm) * np.eye(classes),
        rtol=0,
        atol=rounding(),
    )
    assert found.cosine == 0
    centered = means - center
    gram = centered @ centered.T
    np.testing.assert_allclose(gram[0, 1] / gram[0, 0], found.centered_cosine, rtol=rounding())


def test_without_a_bias_the_classifier_alone_is_no_simplex():
    problem = MINIMA["no bias"]
    seen = metrics_of(problem, nc.exact.square_loss_minimizer(problem, KEY))
    for key in ("ji_feature_cosine_gap", "ji_classifier_cosine_gap", "ji_within_class_variation"):
        assert abs(seen[key]) < rounding(), key
    found = nc.exact.orthogonal_geometry(0.1, 0.1, 3, 4)  # the same for every gap
    np.testing.assert_allclose(seen["papyan_self_duality"], found.self_duality**2, rtol=rounding())
    np.testing.assert_allclose(seen["papyan_classifier_cosine_gap"], 1 / 2, rtol=rounding())


def test_without_a_bias_assumption_1_has_no_critical_point():
    # E49. Any state with outputs 1 − ε and ε/(C−1): features of full rank, W fitted to them.
    problem, gap = square_loss(3, 5, 1, bias=False), 0.1
    features = np.asarray(jax.random.normal(KEY, (3, 5)))
    outputs = np.full((3, 3), gap / 2) + (1 - 1.5 * gap) * np.eye(3)
    classifier = np.linalg.lstsq(features, outputs, rcond=None)[0].T
    state = nc.LastLayer(jnp.asarray(features), jnp.asarray(classifier))
    np.testing.assert_allclose(state.logits(), outputs, rtol=0, atol=rounding())
    # Residuals sum to 0 over classes, so the slope in W sums to λ Σ_c W^c, which outputs 1.
    summed = np.asarray(problem.gradient(state).classifier).sum(axis=0)
    decay = problem.weight_decay.classifier
    np.testing.assert_allclose(summed, decay * classifier.sum(axis=0), rtol=0, atol=rounding())
    np.testing.assert_allclose(features @ summed, decay, rtol=rounding(operations=1000))
    # What is critical without a bias sums to less: 1 − τ.
    minimum = nc.exact.square_loss_minimizer(problem)
    gap = nc.exact.square_loss_gap(problem)
    np.testing.assert_allclose(jnp.sum(minimum.logits(), axis=1), 1 - gap, rtol=rounding())


# The normalised linear net of two layers.


def antipodal(**options):
    return nc.NormalizedReLUNet(
        np.stack([SAMPLE, -SAMPLE]), np.array([1.0, -1.0]), (4,),
        activation=identity, **options,
    )  # fmt: skip


LINEAR = antipodal()
# Starts with f > 0 and f < 0, from below and from above interpolation.
STARTS = {"below": (1, 0.1), "negative output": (7, 1.0), "above": (8, 4.0)}
PATH = eqx.filter_jit(nc.exact.linear_path)
LIMIT = eqx.filter_jit(nc.exact.linear_limit)
TIME = eqx.filter_jit(nc.exact.linear_time)


def start_of(name):
    seed, norm = STARTS[name]
    return LINEAR.init(jax.random.key(seed), norm)


def output_of(state):
    return (state.matrices[1] @ state.matrices[0] @ SAMPLE)[..., 0]


def norm_of(state):
    assert state.norms is not None
    return state.norms[..., 0]


def test_the_starts_are_what_they_are_called():
    outputs = {name: float(output_of(start_of(name))) for name in STARTS}
    assert 0 < outputs["below"] < 1 / 0.1
    assert outputs["negative output"] < 0
    assert outputs["above"] > 1 / 4.0


@jax.jit
def rates(start, share, limit):
    """The velocity in s of the path at a share of the way, and that of the problem."""

    def path(s):
        return nc.exact.linear_path(start, SAMPLE, s)

    state, rate = jax.jvp(path, (share * limit,), (jnp.ones_like(limit),))
    norm = norm_of(state)
    speed = 1 / (2 * norm * (1 - norm * output_of(state)))
    return ravel_pytree(rate)[0], speed * ravel_pytree(LINEAR.scaled_descent(state, 0.0))[0]


@pytest.mark.parametrize("name", STARTS)
def test_the_linear_path_solves_the_flow(name):
    start = start_of(name)
    shares = jnp.array([0.0, 0.2, 0.7, 0.95])
    limit = LIMIT(start, SAMPLE)
    for share in shares:
        rate, expected = rates(start, share, limit)
        tolerance = rounding() * np.abs(expected).max() / (1 - share)
        np.testing.assert_allclose(rate, expected, rtol=0, atol=tolerance)
    first = jax.tree.map(lambda leaf: leaf[0], PATH(start, SAMPLE, shares * limit))
    np.testing.assert_allclose(
        ravel_pytree(first)[0], ravel_pytree(start)[0], rtol=0, atol=rounding()
    )


@pytest.mark.parametrize("name", STARTS)
def test_the_flow_of_the_problem_is_on_the_linear_path(name):
    start = start_of(name)
    limit = LIMIT(start, SAMPLE)
    progress = jnp.array([0.1, 0.4, 0.8, 0.99]) * limit
    times = TIME(start, SAMPLE, progress)
    states = flow(LINEAR, start, times)
    expected = PATH(start, SAMPLE, progress)
    for leaf, exact in zip(jax.tree.leaves(states), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, exact, rtol=0, atol=integration(1e-11))


@pytest.mark.parametrize("name", STARTS)
def test_the_linear_time_is_the_integral(name):
    start = start_of(name)
    limit = LIMIT(start, SAMPLE)
    growing = (np.asarray(start.matrices[1][0]) + start.matrices[0] @ SAMPLE) / 2
    fading = (np.asarray(start.matrices[1][0]) - start.matrices[0] @ SAMPLE) / 2
    growing, fading, first = np.asarray(growing), np.asarray(fading), float(norm_of(start))

    def integrand(s):
        b, p = (np.exp(s) * growing + sign * np.exp(-s) * fading for sign in (1, -1))
        norm = math.sqrt(first**2 + math.log(b @ b))
        return 1 / (2 * norm * (1 - norm * (b @ p) / (b @ b)))

    for share in (0.3, 0.99):
        expected, _ = scipy.integrate.quad(
            integrand, 0, share * float(limit), epsabs=0, epsrel=1e-12, limit=200
        )
        found = TIME(start, SAMPLE, share * limit)
        np.testing.assert_allclose(found, expected, rtol=rounding() / (1 - share))
    assert TIME(start, SAMPLE, limit) == np.inf


def test_without_decay_the_norm_at_the_end_depends_on_the_start():
    directions = LINEAR.init(jax.random.key(1), 1.0).matrices

    def end(norm):
        start = nc.Layers(directions, norm[None])
        state = nc.exact.linear_path(start, SAMPLE, nc.exact.linear_limit(start, SAMPLE))
        return norm_of(state), output_of(state)

    end_and_slope = jax.jit(lambda norm: jax.jvp(end, (norm,), (jnp.ones(()),)))
    norms = []
    for first in (0.01, 1.0, 3.0, 10.0):
        (norm, output), (slope, _) = end_and_slope(jnp.asarray(first))
        np.testing.assert_allclose(norm * output, 1, rtol=rounding())
        norms.append(float(norm))
        step = 1e-4 * first
        above, below = (end_and_slope(jnp.asarray(first + x))[0][0] for x in (step, -step))
        # Central differences: of second order in the step, and divided by it.
        np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=1e-6)
    assert np.all(np.diff(norms) > 0.1)
    # A long run of the problem ends there.
    start = nc.Layers(directions, jnp.array([1.0]))
    last = flow(LINEAR, start, [20.0])
    np.testing.assert_allclose(norm_of(last)[0], norms[1], rtol=integration(1e-11))


def test_an_aligned_start_needs_its_norm_alone():
    # f = 1 throughout: ρ² = ρ₀² + 2s and ρ = 1 at rest, also from far above.
    unit, axis = jnp.eye(4)[0], jnp.eye(3)[0]
    for norm in (0.2, 3.0, 30.0):
        start = nc.Layers((jnp.outer(unit, axis), unit[None]), jnp.array([norm]))
        limit = LIMIT(start, axis)
        np.testing.assert_allclose(limit, (1 - norm**2) / 2, rtol=rounding())
        half = 0.5 * limit
        middle = PATH(start, axis, half)
        np.testing.assert_allclose(norm_of(middle), math.sqrt(norm**2 + 2 * half), rtol=rounding())
        # ρ' = 2(1 − ρ).
        time = TIME(start, axis, half)
        expected = nc.exact.normalized_norm(time, norm, 1.0, 1.0, 0.0)
        np.testing.assert_allclose(norm_of(middle), expected, rtol=rounding())


def test_a_norm_that_falls_to_0_first_is_nan_under_a_trace():
    start = nc.Layers(start_of("negative output").matrices, jnp.array([0.1]))
    assert jnp.isnan(LIMIT(start, SAMPLE))
    with pytest.raises(ValueError, match=r"start: norm 0.1 falls to 0"):
        nc.exact.linear_limit(start, SAMPLE)


START = LINEAR.init(KEY)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.exact.logistic_norm(-1.0, 1.0, 1.0, 1.0), "time = -1.0"),
        (lambda: nc.exact.logistic_norm(1.0, 0.0, 1.0, 1.0), "start = 0.0: .* > 0"),
        (lambda: nc.exact.norm_time(1.0, 1.0, -1.0, 1.0, 2), "alignment = -1.0"),
        (lambda: nc.exact.norm_time(1.0, 1.0, 1.0, 1.0, 0), "num_layers = 0"),
        (lambda: nc.exact.normalized_norm(1.0, 1.0, 1.0, 0.0, 0.1), "second_moment = 0.0"),
        (lambda: nc.exact.stuck_margins(1.0, 0.1, 3, 4), "num_stuck = 4: .* from 1 to 3"),
        (lambda: nc.exact.simplex_geometry(0.7, 0.1, 3, 2), "gap = 0.7: .* below 0.666667"),
        (lambda: nc.exact.simplex_geometry(0.1, 0.1, 1, 2), "num_classes = 1"),
        (lambda: nc.exact.normalized_geometry(0.1, 0.0, 3, 2), "norm = 0.0"),
        (lambda: nc.exact.orthogonal_geometry(1.0, 0.1, 3, 2), "gap = 1.0: .* below 1"),
        (lambda: nc.exact.square_loss_gap(nc.zhu(3, 4, 2, 0.1)), "minimum of SquaredError"),
        (lambda: nc.exact.square_loss_gap(nc.mixon(3, 4, 2)), "weight decay classifier = 0.0"),
        (
            lambda: nc.exact.square_loss_gap(square_loss(3, 4, 2, decays=(0.1, 0.1, 0.1))),
            "weight decay bias = 0.1",
        ),
        (lambda: nc.exact.square_loss_gap(square_loss(4, 2, 2)), "feature_dim = 2: .* 3 dim"),
        (
            lambda: nc.exact.square_loss_minimizer(square_loss(4, 3, 2, bias=False)),
            "feature_dim = 3: .* 4 dim",
        ),
        (
            lambda: nc.exact.square_loss_gap(
                nc.UnconstrainedFeatures(
                    (2, 3), 4, nc.SquaredError(), weight_decay=nc.WeightDecay(0.1, 0.1)
                )
            ),
            r"class_sizes = \(2, 3\)",
        ),
        (lambda: nc.exact.linear_limit(START, 0.5 * SAMPLE), "sample has norm 0.5: scale it"),
        (lambda: nc.exact.linear_limit(START, SAMPLE[:2]), "sample has 2 entries .* reads 3"),
        (
            lambda: nc.exact.linear_limit(nc.Layers(START.matrices), SAMPLE),
            "start has matrices of shapes .* norms None: give one norm",
        ),
        (
            lambda: nc.exact.linear_limit(
                nc.Layers((2 * START.matrices[0], START.matrices[1]), START.norms), SAMPLE
            ),
            "start: V_1 has norm 2: scale it to 1",
        ),
    ],
)
def test_what_has_no_closed_form_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
