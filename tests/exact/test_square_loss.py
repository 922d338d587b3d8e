"""The collapsed minimum of the square loss (theorems 3 and 11)."""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax.flatten_util import ravel_pytree
from tolerances import rounding

import nc_jax as nc

KEY = jax.random.key(6)


def square_loss(
    classes, dim, size, reduction: Literal["mean", "sum"] = "sum", bias=True, decays=(0.2, 0.3)
):
    return nc.UnconstrainedFeatures(
        (size,) * classes,
        dim,
        loss=nc.SquaredError(),
        reduction=reduction,
        bias=bias,
        weight_decay=nc.WeightDecay(
            **dict(zip(("classifier", "features", "bias"), decays, strict=False))
        ),
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
    state = nc.exact.square_loss_minimizer(problem, key=KEY)
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
    at_label = np.eye(classes, dtype=bool)[problem.labels]
    gap = 1 - logits[at_label].mean()
    # ε is a difference of numbers near 1, and what it gives vanishes with the margin.
    tolerance = rounding() / gap / (1 - gap * classes / (classes - 1))
    # Assumption 1.
    np.testing.assert_allclose(logits[at_label], 1 - gap, rtol=rounding())
    np.testing.assert_allclose(logits[~at_label], gap / (classes - 1), rtol=0, atol=rounding())
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
    state = nc.exact.square_loss_minimizer(problem, key=KEY)
    gap = check_theorem_3(problem, state)
    tau = math.sqrt(decays[0] * decays[1] / size)
    np.testing.assert_allclose(gap, (classes - 1) / classes * tau, rtol=rounding() / tau)


def test_the_minimum_has_neural_collapse_by_every_metric():
    problem = MINIMA["bias, d = K - 1, mean"]
    metrics = metrics_of(problem, nc.exact.square_loss_minimizer(problem, key=KEY))
    for key in (
        "ji_feature_norm_variation", "ji_classifier_norm_variation", "ji_within_class_variation",
        "ji_feature_cosine_gap", "ji_classifier_cosine_gap", "ji_self_duality",
        "zhu_nc1", "zhu_nc2", "zhu_nc3", "papyan_classifier_cosine_gap",
        "papyan_ncc_mismatch", "mixon_snc3",
    ):  # fmt: skip
        assert abs(metrics[key]) < rounding(), key


@pytest.mark.parametrize("name", COLLAPSED)
def test_the_minimum_has_the_geometry_of_theorem_11(name):
    problem = MINIMA[name]
    state = nc.exact.square_loss_minimizer(problem, key=KEY)
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
    state = nc.exact.square_loss_minimizer(problem, key=KEY)
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
    state = nc.exact.square_loss_minimizer(problem, key=KEY)
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
    metrics = metrics_of(problem, nc.exact.square_loss_minimizer(problem, key=KEY))
    for key in ("ji_feature_cosine_gap", "ji_classifier_cosine_gap", "ji_within_class_variation"):
        assert abs(metrics[key]) < rounding(), key
    found = nc.exact.orthogonal_geometry(0.1, 0.1, 3, 4)  # the same for every gap
    np.testing.assert_allclose(
        metrics["papyan_self_duality"], found.self_duality**2, rtol=rounding()
    )
    np.testing.assert_allclose(metrics["papyan_classifier_cosine_gap"], 1 / 2, rtol=rounding())


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.exact.simplex_geometry(0.7, 0.1, 3, 2), "gap = 0.7: .* below 0.666667"),
        (lambda: nc.exact.simplex_geometry(0.1, 0.1, 1, 2), "num_classes = 1"),
        (lambda: nc.exact.normalized_geometry(0.1, 0.0, 3, 2), "norm = 0.0"),
        (lambda: nc.exact.orthogonal_geometry(1.0, 0.1, 3, 2), "gap = 1.0: .* below 1"),
        (lambda: nc.exact.square_loss_gap(nc.zhu(3, 4, 2, 0.1)), "that of SquaredError"),
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
                    (2, 3),
                    4,
                    loss=nc.SquaredError(),
                    weight_decay=nc.WeightDecay(classifier=0.1, features=0.1),
                )
            ),
            r"class_sizes = \(2, 3\)",
        ),
    ],
)
def test_what_has_no_closed_form_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
