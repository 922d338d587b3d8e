"""Minority collapse: thresholds, the minimum as four numbers, and its state."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from exact.minimizers import lowest_with_bounds
from jax.flatten_util import ravel_pytree
from tolerances import integration, rounding

import nc_jax as nc


def step(majority, minority, dim=None, *, decays=(1e-3, 2e-3), **settings):
    """K_A classes of n_A samples and K_B of n_B: each argument is (classes, samples)."""
    sizes = (majority[1],) * majority[0] + (minority[1],) * minority[0]
    decay = nc.WeightDecay(classifier=decays[0], features=decays[1])
    dim = len(sizes) if dim is None else dim
    return nc.UnconstrainedFeatures(sizes, dim, weight_decay=decay, **settings)


def cosines(classifier, classes):
    """Smallest cosine between the classifiers of some classes."""
    chosen = np.asarray(classifier)[classes]
    unit = chosen / np.linalg.norm(chosen, axis=1, keepdims=True)
    return float(np.min(unit @ unit.T))


def test_the_four_numbers_of_the_reference():
    minimum = nc.exact.minority_minimum(step((3, 40), (4, 5)))
    np.testing.assert_allclose(float(minimum.value), 0.2071790743, atol=6e-11)
    expected = (5.679751, 4.067035, 2.431178, 2.848112)
    np.testing.assert_allclose(np.array(minimum[:4]), expected, atol=6e-7)


PROBLEMS = {
    "reference": step((3, 40), (4, 5)),
    "d = K - 1": step((2, 6), (3, 2), 4, decays=(0.02, 0.03)),
    "minorities first": nc.UnconstrainedFeatures(
        (2, 7, 2, 7), 5, weight_decay=nc.WeightDecay(classifier=0.02, features=0.01)
    ),
    "minorities merged": step((2, 9), (3, 1), decays=(0.09, 0.05)),
    "one majority class": step((1, 9), (3, 2), decays=(0.03, 0.02)),
    "one minority class": step((3, 9), (1, 2), decays=(0.03, 0.02)),
    # c/s lies between the singular values √n_A and √(n_A n_B K/(...)) of the contrasts.
    "majority alone": step((2, 16), (2, 1), decays=(0.105, 0.105)),
    "all zero": step((2, 3), (2, 2), decays=(0.5, 0.5)),
    "summed": step((2, 5), (3, 2), decays=(0.5, 0.4), reduction="sum"),
    "weights": step((2, 6), (3, 2), decays=(0.02, 0.03), class_weights=(0.4, 0.4, 1.7, 1.7, 1.7)),
    "decay of each class": nc.UnconstrainedFeatures(
        (6, 6, 2, 2), 4,
        weight_decay=nc.WeightDecay(classifier=0.05, features=(0.03, 0.03, 0.09, 0.09)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_minimum_is_what_lbfgs_finds(name):
    problem = PROBLEMS[name]
    minimum = nc.exact.minority_minimum(problem)
    found, _ = lowest_with_bounds(problem.objective, problem.init(jax.random.key(0)), 2)
    np.testing.assert_allclose(found, float(minimum.value), atol=1e-9)
    state = nc.exact.minority_minimizer(problem, key=jax.random.key(1))
    np.testing.assert_allclose(problem.objective(state), minimum.value, rtol=rounding())
    assert np.abs(ravel_pytree(problem.gradient(state))[0]).max() < 1e-13


def test_a_state_beside_the_minimum_is_not_critical():
    problem = PROBLEMS["reference"]
    state = nc.exact.minority_minimizer(problem)
    moved = nc.LastLayer(state.features, state.classifier.at[0, 0].add(1e-4))
    assert np.abs(ravel_pytree(problem.gradient(moved))[0]).max() > 1e-8
    assert problem.objective(moved) > problem.objective(state)


def test_cases_with_a_contrast_of_zero_are_among_those_tested():
    minima = {name: nc.exact.minority_minimum(problem) for name, problem in PROBLEMS.items()}
    assert minima["minorities merged"].minority_contrast == 0
    assert minima["minorities merged"].majority_offset > 0
    only = minima["majority alone"]
    assert only.majority_contrast > 0
    assert only.minority_contrast == only.majority_offset == only.minority_offset == 0
    assert all(number == 0 for number in minima["all zero"][:4])


@pytest.mark.parametrize("factor", [0.97, 1.03])
@pytest.mark.parametrize(
    ("problem", "num_majority"),
    [(step((2, 20), (3, 2)), 2), (step((3, 12), (2, 3)), 3), (step((2, 9), (2, 4), bias=True), 2)],
)
def test_minorities_merge_exactly_at_the_threshold(problem, num_majority, factor):
    # The decays are scaled such that every τ² of the minority is the factor.
    smallest, samples = problem.class_sizes[-1], problem.num_samples
    decay = math.sqrt(factor * smallest) / samples
    problem = nc.UnconstrainedFeatures(
        problem.class_sizes, problem.feature_dim, bias=problem.bias,
        weight_decay=nc.WeightDecay(classifier=2 * decay, features=decay / 2),
    )  # fmt: skip
    ratio = nc.exact.class_decay_ratios(problem)[-1]
    np.testing.assert_allclose(ratio, math.sqrt(factor), rtol=rounding())
    _, state = lowest_with_bounds(problem.objective, problem.init(jax.random.key(0)), 2)
    spread = np.ptp(np.asarray(state.classifier)[num_majority:], axis=0).max()
    assert (spread < 1e-3) == (factor > 1)
    assert spread < 1e-3 or spread > 3e-2
    if not problem.bias:
        contrast = nc.exact.minority_minimum(problem).minority_contrast
        assert (contrast == 0) == (factor > 1)


def test_the_imbalance_at_the_threshold():
    found = nc.exact.minority_threshold(5, 5, 500, decay_product=5e-4**2)
    np.testing.assert_allclose(found, 16.88854382, atol=6e-9)
    # At R0 the ratio of the minority is 1, where R0·n_B is an integer here.
    product = 1 / (2 * 16 * 25)  # √(n_B λ_W λ_H) = 1/20 and R0 = (20 − 2)/3 = 6
    np.testing.assert_allclose(
        nc.exact.minority_threshold(3, 2, 2, decay_product=product), 6, rtol=rounding()
    )
    problem = step((3, 12), (2, 2), decays=(product, 1.0))
    np.testing.assert_allclose(nc.exact.class_decay_ratios(problem)[-1], 1, rtol=rounding())


def test_thresholds_can_be_swept():
    products = jnp.array([1e-8, 1e-6])
    one_by_one = [nc.exact.minority_threshold(2, 3, 4, decay_product=x) for x in (1e-8, 1e-6)]
    swept = jax.vmap(lambda x: nc.exact.minority_threshold(2, 3, 4, decay_product=x))(products)
    np.testing.assert_allclose(swept, one_by_one, rtol=rounding())


def test_the_minimum_can_be_swept_over_the_decay():
    def value(decay):
        decay = nc.WeightDecay(classifier=decay, features=decay)
        problem = nc.UnconstrainedFeatures((8, 8, 2, 2), 4, weight_decay=decay)
        state = nc.exact.minority_minimizer(problem)
        return nc.exact.minority_minimum(problem).value, problem.objective(state)

    minimum, objective = jax.jit(jax.vmap(value))(jnp.geomspace(1e-6, 0.3, 9))
    np.testing.assert_allclose(minimum, objective, rtol=rounding())


def test_float32_is_accurate_to_its_rounding():
    problem = PROBLEMS["reference"]
    state = nc.exact.minority_minimizer(problem, dtype="float32")
    assert state.features.dtype == state.classifier.dtype == jnp.float32
    value = nc.exact.minority_minimum(problem).value
    np.testing.assert_allclose(problem.objective(state), value, rtol=rounding("float32"))


# The layer-peeled model, which has constraints in the place of a decay.

REFERENCES = {
    (5, 5, 1.0, 5.0): 12.192447,
    (3, 7, 1.0, 5.0): 245.496931,
    (7, 3, 1.0, 5.0): 4.000467,
    (5, 5, 1.0, 10.0): 81.102206,
}


@pytest.mark.parametrize("setting", REFERENCES)
def test_the_threshold_of_the_layer_peeled_model(setting):
    majority, minority, of_classifier, of_features = setting
    found = nc.exact.layer_peeled_threshold(
        majority, minority, classifier_energy=of_classifier, feature_energy=of_features
    )
    np.testing.assert_allclose(found, REFERENCES[setting], atol=6e-7)


def layer_peeled_minimum(counts, imbalance, energy):
    """Classifier of the layer-peeled model by SLSQP, with ‖W‖² <= KE and ‖M‖² <= KE."""
    majority, minority = counts
    classes = majority + minority
    weights = np.array([imbalance] * majority + [1.0] * minority)
    weights /= weights.sum()
    shape = (2, classes, classes)

    def value(flat):
        classifier, means = flat.reshape(shape)
        log_p = jax.nn.log_softmax(means @ classifier.T)
        return -jnp.sum(weights * jnp.diag(log_p))

    both = jax.jit(jax.value_and_grad(value))
    constraints = [
        {"type": "ineq", "fun": lambda v, i=i: classes * energy - np.sum(v.reshape(shape)[i] ** 2),
         "jac": lambda v, i=i: np.concatenate(
             [(-2 if i == j else 0) * part.ravel() for j, part in enumerate(v.reshape(shape))])}
        for i in range(2)
    ]  # fmt: skip
    start = np.random.default_rng(0).normal(size=shape).ravel()
    found = scipy.optimize.minimize(
        lambda v: tuple(map(np.asarray, both(v))), start,
        jac=True, constraints=constraints, method="SLSQP", options={"maxiter": 2000, "ftol": 1e-14},
    )  # fmt: skip
    return found.x.reshape(shape)[0]


@pytest.mark.parametrize("factor", [0.97, 1.03])
@pytest.mark.parametrize(("counts", "energy"), [((2, 2), 2.0), ((3, 2), 1.5)])
def test_the_layer_peeled_model_collapses_from_its_threshold_on(counts, energy, factor):
    # √(E_W E_H) is all that matters: E_W = E_H = energy here.
    threshold = nc.exact.layer_peeled_threshold(
        *counts, classifier_energy=energy, feature_energy=energy
    )
    classifier = layer_peeled_minimum(counts, factor * threshold, energy)
    cosine = cosines(classifier, slice(counts[0], None))
    assert (cosine > 1 - 1e-5) == (factor > 1)
    assert cosine > 1 - 1e-5 or cosine < 0.999


def test_a_decay_over_the_class_size_gives_the_layer_peeled_model():
    # Collapse iff s n_B <= √(λ_W λ), with λ_H,k = λ/n_k.
    sizes = np.array([30, 30, 3, 3])
    for factor in (0.97, 1.03):
        scale = factor * sizes[-1] / sizes.sum()
        problem = nc.UnconstrainedFeatures(
            sizes.tolist(),
            4,
            weight_decay=nc.WeightDecay(classifier=scale, features=scale / sizes),
        )
        ratios = np.asarray(nc.exact.class_decay_ratios(problem))
        np.testing.assert_allclose(ratios, factor * np.array([0.1, 0.1, 1, 1]), rtol=rounding())
        contrast = nc.exact.minority_minimum(problem).minority_contrast
        assert (contrast == 0) == (factor > 1)


# What weights of the loss do to the threshold.


@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_balancing_weights_merge_the_majority_first(factor):
    # ω_k = N/(K n_k): τ_k = K √(n_k λ_W λ_H), which is largest for the majority.
    sizes = np.array([12, 12, 2, 2])
    decay = math.sqrt(factor / 12) / 4
    problem = nc.UnconstrainedFeatures(
        sizes.tolist(), 4, class_weights=sizes.sum() / (4 * sizes),
        weight_decay=nc.WeightDecay(classifier=decay, features=decay),
    )  # fmt: skip
    _, state = lowest_with_bounds(problem.objective, problem.init(jax.random.key(0)), 2)
    spread = [
        np.ptp(np.asarray(state.classifier)[part], axis=0).max()
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert (spread[0] < 1e-3) == (factor > 1)
    assert spread[1] > 0.1
    minimum = nc.exact.minority_minimum(problem)
    assert (minimum.majority_contrast == 0) == (factor > 1)
    assert minimum.minority_contrast > 0


def test_weights_and_decays_that_give_all_classes_one_ratio():
    sizes = np.array([12, 12, 2, 2])
    uniform = nc.WeightDecay(classifier=0.01, features=0.01)
    by_weights = nc.UnconstrainedFeatures(
        sizes.tolist(),
        4,
        class_weights=np.sqrt(sizes.sum() / (4 * sizes)),
        weight_decay=uniform,
    )
    by_decay = nc.UnconstrainedFeatures(
        sizes.tolist(),
        4,
        weight_decay=nc.WeightDecay(classifier=0.01, features=1e-3 * sizes),
    )
    for problem in (by_weights, by_decay):
        ratios = np.asarray(nc.exact.class_decay_ratios(problem))
        np.testing.assert_allclose(ratios, ratios[0], rtol=rounding())


def test_the_flow_reaches_the_minimum_with_and_without_merged_minorities():
    for decays in ((0.03, 0.03), (0.12, 0.12)):
        problem = step((2, 9), (2, 1), decays=decays)
        start = problem.init(jax.random.key(2))
        flow = nc.gradient_flow(
            problem, start, np.array([1.0, 600.0]), clock=nc.RealTime(), rtol=1e-9,
            observe=("objective",),
        )  # fmt: skip
        minimum = nc.exact.minority_minimum(problem)
        np.testing.assert_allclose(
            flow.observables["objective"][-1], minimum.value, rtol=integration(1e-9)
        )
        expected = nc.exact.minority_minimizer(problem)
        gram = flow.final.classifier @ flow.final.classifier.T
        np.testing.assert_allclose(gram, expected.classifier @ expected.classifier.T, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.exact.minority_minimum(nc.zhu(3, 4, 2, 5e-3)), "problem has a bias"),
        (lambda: nc.exact.minority_minimum(step((2, 3), (2, 3))), "give classes of two sizes"),
        (lambda: nc.exact.minority_minimum(step((2, 3), (2, 1), 2)), "feature_dim = 2: .* 3 dim"),
        (lambda: nc.exact.minority_minimum(nc.ulpm(3, 4, (2, 2, 1))), "classifier = 0"),
        (
            lambda: nc.exact.minority_minimum(step((1, 3), (2, 1), class_weights=(1, 1, 2))),
            "class_weights: numbers of the classes of 1 samples differ",
        ),
        (lambda: nc.exact.minority_threshold(2, 1, 3, decay_product=1e-3), "num_minority = 1"),
    ],
)
def test_what_has_no_closed_form_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_the_ratio_decides_for_any_other_classes():
    # Groups of equal classes among three sizes: (5, 5), (2, 2) and a single class.
    sizes = (5, 5, 2, 2, 9)
    for factor, group in itertools.product((0.97, 1.03), ((0, 1), (2, 3))):
        decay = math.sqrt(factor * sizes[group[0]]) / sum(sizes)
        problem = nc.UnconstrainedFeatures(
            sizes, 5, weight_decay=nc.WeightDecay(classifier=decay, features=decay)
        )
        _, state = lowest_with_bounds(problem.objective, problem.init(jax.random.key(0)), 2)
        spread = np.ptp(np.asarray(state.classifier)[list(group)], axis=0).max()
        assert (spread < 1e-3) == (factor > 1)
