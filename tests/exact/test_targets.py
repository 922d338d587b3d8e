"""Minima of label sets and of regression, against L-BFGS, proximal steps and thresholds."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from exact.minimizers import lowest_of
from jax.flatten_util import ravel_pytree
from tolerances import rounding

import nc_jax as nc
from nc_jax import exact
from nc_jax.problems import FreeFeatures, label_sets

KEY = jax.random.key(2)
PICK, HALF = nc.losses.PickAllLabels(), nc.losses.HalfSquaredDistance()
# The (7, 3, 1) design: every label in three sets, every pair of labels in one.
FANO = [(0, 1, 2), (0, 3, 4), (0, 5, 6), (1, 3, 5), (1, 4, 6), (2, 3, 6), (2, 4, 5)]
PAIRS = list(itertools.combinations(range(4), 2))
SINGLES = [(k,) for k in range(4)]


def of_sets(sets, classes, dim, classifier=4e-3, features=3e-3, **options):
    decay = nc.WeightDecay(classifier=classifier, features=features)
    return FreeFeatures(label_sets(sets, classes), dim, loss=PICK, weight_decay=decay, **options)


def test_reference_of_singles_and_pairs():
    problem = of_sets(SINGLES * 3 + PAIRS * 2, 4, 4)
    state = exact.pick_all_labels_minimizer(problem)
    np.testing.assert_allclose(
        exact.pick_all_labels_minimum(problem), 0.8430345323, rtol=0, atol=6e-11
    )
    classifier = np.asarray(state.classifier)
    np.testing.assert_allclose(np.sum(classifier**2, axis=1), 7.635763, atol=6e-7)
    sums = np.asarray(problem.targets) @ classifier
    betas = np.sum(np.asarray(state.features) * sums, axis=1) / np.sum(sums**2, axis=1)
    np.testing.assert_allclose(betas[:12], 0.466898, atol=6e-7)
    np.testing.assert_allclose(betas[12:], 0.412114, atol=6e-7)
    np.testing.assert_allclose(state.features, betas[:, None] * sums, atol=rounding())


SETS = {
    "singles and pairs, d = K − 1": of_sets(SINGLES + PAIRS, 4, 3),
    "singles, pairs, triples, bias": of_sets(
        [(k,) for k in range(3)] * 2 + list(itertools.combinations(range(3), 2)), 3, 4, bias=True
    ),
    "pairs alone, sum": of_sets(PAIRS, 4, 5, 0.1, 0.2, reduction="sum"),
    "a design, not all triples": of_sets(FANO, 7, 6, 2e-2, 1e-2),
    "past the threshold": of_sets(SINGLES + PAIRS, 4, 3, 0.2, 0.2),
}


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", SETS)
def test_the_minimum_of_label_sets_is_what_lbfgs_finds(name):
    problem = SETS[name]
    least = exact.pick_all_labels_minimum(problem)
    found = lowest_of(problem.objective, problem, 3)
    assert np.all(found > least - 1e-9)
    assert np.mean(np.abs(found - least) < 1e-7) >= 0.5
    state = exact.pick_all_labels_minimizer(problem, key=KEY)
    np.testing.assert_allclose(problem.objective(state), least, rtol=rounding())
    assert jnp.abs(ravel_pytree(problem.gradient(state))[0]).max() < rounding()


def test_the_gaps_minimise_the_convex_function_of_the_gaps():
    # Independent of the equations that are solved: s Σ N_m m log(m + (K−m)e^−g) + c ‖Z(g)‖_*, with
    # singular values of Z by NumPy, minimised by SciPy.
    problem = of_sets(SINGLES * 2 + PAIRS, 4, 3, 1e-2, 2e-2)
    targets = np.asarray(problem.targets)
    counts = targets.sum(axis=1)

    def value(gaps):
        per_sample = np.where(counts == 1, gaps[0], gaps[1])
        logits = per_sample[:, None] * (targets - targets.mean(axis=1, keepdims=True))
        data = np.mean(counts * np.log(counts + (4 - counts) * np.exp(-per_sample)))
        return data + np.sqrt(1e-2 * 2e-2) * np.linalg.norm(logits, "nuc")

    best = scipy.optimize.minimize(value, [2.0, 2.0], method="Nelder-Mead", options={"xatol": 1e-9})
    np.testing.assert_allclose(exact.pick_all_labels_minimum(problem), best.fun, rtol=1e-10)
    observed = problem.observe(exact.pick_all_labels_minimizer(problem))
    np.testing.assert_allclose(observed["margin_min"], np.min(best.x), atol=1e-6)
    np.testing.assert_allclose(observed["label_sum_gap"], 0, atol=rounding())
    np.testing.assert_allclose(observed["zhu_nc2"], 0, atol=rounding())


def test_label_sets_vanish_from_the_threshold_on():
    # s² Σ N_m m(K−m)/(K(K−1)) = λ_W λ_H
    sets = SINGLES + PAIRS
    threshold = math.sqrt((4 * 1 * 3 + 6 * 2 * 2) / (4 * 3)) / len(sets)
    for share in (0.97, 1.03):
        problem = of_sets(sets, 4, 3, share * threshold, share * threshold)
        state = exact.pick_all_labels_minimizer(problem)
        assert (jnp.max(jnp.abs(state.classifier)) > 1e-3) == (share < 1)
        origin = jax.tree.map(jnp.zeros_like, state)
        kind = nc.landscape.classify(problem, origin).kind
        assert kind == ("strict saddle" if share < 1 else "minimum")


def test_label_sets_follow_a_traced_decay():
    def both(decay):
        decays = nc.WeightDecay(classifier=decay, features=3 * decay)
        problem = FreeFeatures(label_sets(SINGLES + PAIRS, 4), 3, loss=PICK, weight_decay=decays)
        state = exact.pick_all_labels_minimizer(problem)
        return exact.pick_all_labels_minimum(problem), problem.objective(state)

    closed, evaluated = jax.jit(jax.vmap(both))(jnp.array([1e-8, 1e-4, 1e-2, 0.3]))
    np.testing.assert_allclose(closed, evaluated, rtol=rounding())


REAL = np.array([[np.sin(i), np.cos(2 * i), i / 10] for i in range(10)])


def regression(targets, dim, classifier, features, **options):
    decay = nc.WeightDecay(classifier=classifier, features=features)
    return FreeFeatures(targets, dim, loss=HALF, weight_decay=decay, **options)


def test_reference_of_regression():
    # The decay of the paper's features is divided by the number of samples.
    problem = regression(REAL, 4, 0.2, 0.3 / 10, bias=True)
    state = exact.regression_minimizer(problem)
    np.testing.assert_allclose(exact.regression_minimum(problem), 0.3181330797, rtol=0, atol=6e-11)
    gram = np.asarray(state.classifier @ state.classifier.T)
    np.testing.assert_allclose(np.trace(gram), 1.1406653987, rtol=0, atol=6e-11)
    # WWᵀ = √(λ_H/λ_W) [Σ^(1/2) − √(λ_W λ_H) I]_+ in the paper's convention.
    squares, directions = np.linalg.eigh(np.cov(REAL.T, bias=True))
    lowered = np.maximum(np.sqrt(squares) - math.sqrt(0.2 * 0.3), 0)
    expected = math.sqrt(0.3 / 0.2) * (directions * lowered) @ directions.T
    np.testing.assert_allclose(gram, expected, atol=rounding())
    assert state.bias is not None
    np.testing.assert_allclose(state.bias, REAL.mean(axis=0), rtol=rounding())


WIDE = np.random.default_rng(5).normal(size=(6, 4)) @ np.diag([2.0, 1.0, 0.5, 0.1])
REGRESSIONS = {
    "bias, a direction below the threshold": regression(WIDE, 5, 0.03, 0.02, bias=True),
    "no bias, sum": regression(WIDE, 4, 0.3, 0.5, reduction="sum"),
    "fewer dimensions than targets": regression(WIDE, 2, 0.03, 0.02, bias=True),
    "one target": regression(REAL[:, :1], 3, 0.1, 0.05, bias=True),
    "fewer samples than targets": regression(WIDE[:3], 5, 0.05, 0.02),
    "past the threshold": regression(WIDE, 3, 2.0, 2.0, bias=True),
}


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", REGRESSIONS)
def test_the_minimum_of_regression_is_what_lbfgs_finds(name):
    problem = REGRESSIONS[name]
    least = exact.regression_minimum(problem)
    found = lowest_of(problem.objective, problem, 3)
    assert np.all(found > least - 1e-9)
    assert np.mean(np.abs(found - least) < 1e-7) >= 0.5
    state = exact.regression_minimizer(problem, key=KEY)
    np.testing.assert_allclose(problem.objective(state), least, rtol=rounding())
    assert jnp.abs(ravel_pytree(problem.gradient(state))[0]).max() < rounding()


def test_on_one_hot_targets_it_is_the_minimum_of_the_square_loss():
    decay = nc.WeightDecay(classifier=0.03, features=0.02)
    classes = nc.UnconstrainedFeatures(
        (2, 2, 2), 4, loss=nc.SquaredError(), weight_decay=decay, bias=True
    )
    problem = FreeFeatures(np.eye(3)[classes.labels], 4, loss=HALF, weight_decay=decay, bias=True)
    expected = classes.objective(exact.square_loss_minimizer(classes))
    np.testing.assert_allclose(exact.regression_minimum(problem), expected, rtol=rounding())


def test_directions_of_the_targets_vanish_from_the_threshold_on():
    # σ_j = √(λ_W λ_H)/s with σ = 2, 1, sum loss.
    for share in (0.97, 1.03):
        problem = regression(np.diag([2.0, 1.0]), 2, share, share, reduction="sum")
        state = exact.regression_minimizer(problem)
        rank = np.linalg.matrix_rank(np.asarray(state.classifier), tol=1e-3)
        assert rank == (2 if share < 1 else 1)
        assert nc.landscape.classify(problem, state).kind == "minimum"


def test_states_have_the_dtype_that_is_asked_for():
    for state in (
        exact.pick_all_labels_minimizer(SETS["singles and pairs, d = K − 1"], dtype="float32"),
        exact.regression_minimizer(REGRESSIONS["one target"], key=KEY, dtype="float32"),
    ):
        assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exact.regression_minimum(SETS["pairs alone, sum"]), "HalfSquaredDistance"),
        (lambda: exact.pick_all_labels_minimum(REGRESSIONS["one target"]), "PickAllLabels"),
        (
            lambda: exact.pick_all_labels_minimum(of_sets([*SINGLES, (0, 1)], 4, 3)),
            "with 2 labels some labels",
        ),
        (lambda: exact.pick_all_labels_minimum(of_sets(SINGLES, 4, 2)), "feature_dim = 2"),
        (lambda: exact.pick_all_labels_minimum(of_sets(SINGLES, 4, 3, 0.0)), "decay classifier"),
        (lambda: exact.regression_minimizer(regression(WIDE, 3, 0.1, 0.0)), "decay features"),
        (
            lambda: exact.regression_minimum(
                FreeFeatures(
                    WIDE, 3, loss=HALF, bias=True,
                    weight_decay=nc.WeightDecay(classifier=0.1, features=0.1, bias=0.1),
                )
            ),
            "weight decay bias = 0.1",
        ),
    ],
)  # fmt: skip
def test_what_has_no_closed_form_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
