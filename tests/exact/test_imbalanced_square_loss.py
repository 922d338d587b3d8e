"""The minimum of the square loss with decay for unequal classes, and the decay of a bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact.minimizers import lowest_with_bounds
from jax.flatten_util import ravel_pytree
from tolerances import integration, rounding

import nc_jax as nc

REFERENCE = {"classifier": 0.01, "features": 0.013}


def square(sizes, dim, *, bias=False, decay=REFERENCE, **settings):
    return nc.UnconstrainedFeatures(
        sizes, dim, loss=nc.SquaredError(), bias=bias, weight_decay=nc.WeightDecay(**decay),
        **settings,
    )  # fmt: skip


def gram(state):
    return np.asarray(state.classifier @ state.classifier.T)


def test_orthogonal_frame_of_the_reference():
    problem = square((8, 4, 2, 1), 4)
    np.testing.assert_allclose(
        nc.exact.imbalanced_square_minimum(problem), 0.0786788092, atol=6e-11
    )
    state = nc.exact.imbalanced_square_minimizer(problem)
    expected = np.diag([3.02990310, 2.08535085, 1.41745155, 0.94517543])
    np.testing.assert_allclose(gram(state), expected, atol=6e-9)
    # M Mᵀ = √(λ_W/λ_H) diag(z_k/n_k) with z = √(λ_W/λ_H) ‖w_k‖².
    means = np.asarray(state.features)[[0, 8, 12, 14]]
    of_means = expected / 1.3 / np.array([8, 4, 2, 1])
    np.testing.assert_allclose(means @ means.T, of_means, atol=6e-9)
    two = nc.exact.imbalanced_square_minimum(square((8, 4, 2, 1), 2))
    np.testing.assert_allclose(two, 0.1531025395, atol=6e-11)


def test_free_bias_of_the_reference():
    problem = square((8, 4, 2, 1), 4, bias=True)
    np.testing.assert_allclose(
        nc.exact.imbalanced_square_minimum(problem), 0.0547103501, atol=6e-11
    )
    state = nc.exact.imbalanced_square_minimizer(problem)
    sizes = np.array([8, 4, 2, 1])
    assert state.bias is not None
    np.testing.assert_allclose(state.bias, sizes / 15, rtol=rounding())
    np.testing.assert_allclose(np.sum(state.features, axis=0), 0, atol=rounding())
    # The singular values of the centred targets, lowered by N c.
    sigma = np.array([2.36239324, 1.59875658, 1.09380478, 0])
    lowered = np.maximum(sigma - 15 * np.sqrt(0.01 * 0.013), 0)
    found = np.linalg.svd(gram(state), compute_uv=False)
    np.testing.assert_allclose(found, np.sqrt(1.3) * lowered, atol=1e-8)
    root_of = np.diag(sizes) - np.outer(sizes, sizes) / 15
    values, vectors = np.linalg.eigh(root_of)
    shrunk = np.maximum(np.sqrt(np.maximum(values, 0)) - 15 * np.sqrt(1.3e-4), 0)
    expected = np.sqrt(1.3) * (vectors * shrunk) @ vectors.T
    np.testing.assert_allclose(gram(state), expected, atol=1e-13)


@pytest.mark.parametrize(
    ("factor", "cosine"), [(0.5, -1 / 3), (1.0, -1 / 3), (1.01, -0.32894737), (3.0, -0.09090909)]
)
def test_bias_decay_of_the_reference(factor, cosine):
    threshold = nc.exact.bias_decay_threshold(
        square((3,) * 4, 4, bias=True, decay={"classifier": 0.02, "features": 0.01})
    )
    np.testing.assert_allclose(threshold, 0.1086223644, atol=6e-11)
    decay = {"classifier": 0.02, "features": 0.01, "bias": factor * float(threshold)}
    state = nc.exact.imbalanced_square_minimizer(square((3,) * 4, 4, bias=True, decay=decay))
    of_rows = gram(state)
    np.testing.assert_allclose(of_rows[0, 1] / of_rows[0, 0], cosine, atol=6e-9)
    b = 1 / (4 * (1 + decay["bias"])) if factor <= 1 else np.sqrt(3 * 2e-4) / decay["bias"]
    assert state.bias is not None
    np.testing.assert_allclose(state.bias, b, rtol=1e-12)


PROBLEMS = {
    "no bias": square((7, 3, 3, 1), 5, decay={"classifier": 0.03, "features": 0.02}),
    "a class at 0": square((9, 5, 1), 4, decay={"classifier": 0.1, "features": 0.09}),
    "d < K": square((7, 5, 3, 2), 2, decay={"classifier": 0.02, "features": 0.03}),
    "summed": square((2, 3, 1), 4, reduction="sum", decay={"classifier": 0.4, "features": 0.5}),
    "weights": square(
        (2, 3, 5), 3, class_weights=(2.0, 1.0, 0.3),
        decay={"classifier": (0.03, 0.01, 0.02), "features": (0.02, 0.06, 0.01)},
    ),
    "free bias": square((5, 2, 2), 2, bias=True, decay={"classifier": 0.03, "features": 0.05}),
    "free bias, one direction at 0": square(
        (9, 2, 1), 3, bias=True, decay={"classifier": 0.12, "features": 0.12}
    ),
    "penalised bias, below": square(
        (3, 3, 3), 4, bias=True, decay={"classifier": 0.05, "features": 0.04, "bias": 0.3}
    ),
    "penalised bias, above": square(
        (3, 3, 3), 4, bias=True, decay={"classifier": 0.05, "features": 0.04, "bias": 0.6}
    ),
    "penalised bias, all 0": square(
        (2, 2, 2), 4, bias=True, decay={"classifier": 0.4, "features": 0.4, "bias": 0.5}
    ),
    "penalised bias, summed": square(
        (2, 2, 2), 4, bias=True, reduction="sum",
        decay={"classifier": 0.4, "features": 0.4, "bias": 9.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_minimum_is_what_lbfgs_finds(name):
    problem = PROBLEMS[name]
    least = float(nc.exact.imbalanced_square_minimum(problem))
    # With d < K there are local minima: other sets of d classes.
    starts = 8 if problem.feature_dim < problem.num_classes - 1 else 2
    found, _ = lowest_with_bounds(problem.objective, problem.init(jax.random.key(0)), starts)
    np.testing.assert_allclose(found, least, atol=1e-10)
    state = nc.exact.imbalanced_square_minimizer(problem, key=jax.random.key(1))
    assert np.abs(ravel_pytree(problem.gradient(state))[0]).max() < 1e-13
    moved = nc.LastLayer(state.features, state.classifier.at[0, 0].add(1e-3), state.bias)
    assert problem.objective(moved) > least + 1e-10


def test_equal_classes_are_those_of_the_closed_form_of_rangamani():
    for bias in (False, True):
        problem = square((3, 3, 3), 3, bias=bias, decay={"classifier": 0.03, "features": 0.05})
        one = nc.exact.imbalanced_square_minimizer(problem)
        other = nc.exact.square_loss_minimizer(problem)
        np.testing.assert_allclose(gram(one), gram(other), atol=1e-13)
        np.testing.assert_allclose(one.logits(), other.logits(), atol=1e-13)


@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_a_class_vanishes_exactly_at_its_threshold(factor):
    # n_k <= N² λ_W λ_H for the class of 2 samples.
    sizes = (9, 5, 2)
    decay = np.sqrt(factor * 2) / sum(sizes)
    problem = square(sizes, 3, decay={"classifier": 2 * decay, "features": decay / 2})
    _, found = lowest_with_bounds(problem.objective, problem.init(jax.random.key(0)), 2)
    norms = np.sum(np.asarray(found.classifier) ** 2, axis=1)
    expected = np.diag(gram(nc.exact.imbalanced_square_minimizer(problem)))
    np.testing.assert_allclose(norms, expected, atol=1e-4)
    assert (expected[2] == 0) == (factor > 1)
    assert (nc.exact.class_decay_ratios(problem)[2] >= 1) == (factor > 1)


@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_the_decay_of_a_bias_breaks_the_simplex_at_its_threshold(factor):
    decay = {"classifier": 0.06, "features": 0.05}
    threshold = nc.exact.bias_decay_threshold(square((2,) * 3, 3, bias=True, decay=decay))
    decay["bias"] = factor * float(threshold)
    problem = square((2,) * 3, 3, bias=True, decay=decay)
    _, found = lowest_with_bounds(problem.objective, problem.init(jax.random.key(0)), 3)
    cosine = gram(found)[0, 1] / gram(found)[0, 0]
    if factor < 1:
        np.testing.assert_allclose(cosine, -1 / 2, atol=1e-3)
    else:
        expected = gram(nc.exact.imbalanced_square_minimizer(problem))
        np.testing.assert_allclose(cosine, expected[0, 1] / expected[0, 0], atol=1e-3)
        assert cosine > -0.495


@pytest.mark.parametrize("name", ["no bias", "free bias", "penalised bias, above", "weights"])
def test_the_flow_reaches_the_minimum(name):
    problem = PROBLEMS[name]
    start = problem.init(jax.random.key(3))
    flow = nc.gradient_flow(
        problem, start, np.array([1.0, 2000.0]), clock=nc.RealTime(), rtol=1e-9,
        observe=("objective",),
    )  # fmt: skip
    least = nc.exact.imbalanced_square_minimum(problem)
    np.testing.assert_allclose(flow.observables["objective"][-1], least, rtol=integration(1e-9))
    expected = gram(nc.exact.imbalanced_square_minimizer(problem))
    np.testing.assert_allclose(gram(flow.final), expected, atol=1e-5)


def test_the_minimum_can_be_swept():
    def value(decay):
        problem = square((5, 2, 2), 2, bias=True, decay={"classifier": decay, "features": decay})
        return nc.exact.imbalanced_square_minimum(problem)

    decays = jnp.array([1e-3, 0.05])
    one_by_one = [value(float(decay)) for decay in decays]
    np.testing.assert_allclose(jax.jit(jax.vmap(value))(decays), one_by_one, rtol=rounding())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.exact.imbalanced_square_minimum(nc.zhu(3, 4, 2, 0.1)), "SquaredError"),
        (lambda: nc.exact.imbalanced_square_minimum(nc.mixon(3, 4, 2)), "classifier = 0"),
        (
            lambda: nc.exact.imbalanced_square_minimum(
                square((2, 1), 3, bias=True, decay={**REFERENCE, "bias": 0.1})
            ),
            r"class_sizes = \(2, 1\) and weight decay bias = .*: a decay of the bias needs classes",
        ),
        (
            lambda: nc.exact.imbalanced_square_minimum(
                square((2, 1), 3, bias=True, class_weights=(1.0, 2.0))
            ),
            "problem has class_weights",
        ),
        (
            lambda: nc.exact.imbalanced_square_minimum(square((2, 1, 1), 1, bias=True)),
            "feature_dim = 1: .* 2 dim",
        ),
        (lambda: nc.exact.bias_decay_threshold(square((2, 2), 3)), "problem has no bias"),
    ],
)
def test_what_has_no_closed_form_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
