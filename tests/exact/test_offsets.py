"""Geometry at a finite gap: the flow and the ridge path against their predicted corrections."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
from exact.late_flows import class_rows, late_flow, margins_of, relative_grams
from jax.flatten_util import ravel_pytree
from tolerances import integration, rounding

import nc_jax as nc

STEP = (10, 10, 1, 1)
LATE = np.array([97.8, 295.5, 1000 * math.log(10)])


@pytest.fixture(scope="module")
def step_run():
    """The flow of STEP from its simplex-encoded labels at gap 1, with the state at t = 100."""
    start = nc.exact.seli(STEP).state(3)
    return late_flow(STEP, start, np.array([math.log1p(100), *LATE]), rtol=1e-11)


def test_reference_run_at_time_100(step_run):
    _, gram, _ = class_rows(step_run.states, STEP)
    loss = np.exp(np.asarray(step_run.observables["log_objective"]))[0]
    np.testing.assert_allclose(gram[0, 0, 0], 22.0730085968, rtol=0, atol=2e-9)
    np.testing.assert_allclose(gram[0, 2, 2], 9.2755974943, rtol=0, atol=2e-9)
    np.testing.assert_allclose(loss, 0.003898803231, rtol=0, atol=2e-12)


def test_reference_run_at_late_times(step_run):
    logits, gram, _ = class_rows(step_run.states, STEP)
    log_loss = np.asarray(step_run.observables["log_objective"])[1:3]
    np.testing.assert_allclose(
        np.exp(log_loss + LATE[:2]) * LATE[:2], [3.0504, 3.1722], rtol=0, atol=6e-5
    )
    np.testing.assert_allclose(gram[2, 0, 0] / gram[2, 2, 2], 2.003762, rtol=0, atol=2e-6)
    log_multipliers = np.log(margins_of(-nc.exact.seli(STEP).multipliers))
    margins = margins_of(logits)[1:3]
    raw, corrected = np.ptp(margins, axis=1), np.ptp(margins + log_multipliers, axis=1)
    np.testing.assert_allclose(raw[1], 2.0526, rtol=0, atol=6e-5)
    np.testing.assert_allclose(corrected, [0.0620, 0.0197], rtol=0, atol=6e-5)
    assert np.all(corrected < 7 / LATE[:2])


def test_reference_prediction_of_first_order():
    gap = nc.exact.late_gap(295.5)
    gram = nc.exact.late_geometry(STEP, gap, order=1).classifier_gram
    np.testing.assert_allclose(gram[0, 0] / gram[2, 2], 2.003653, rtol=0, atol=2e-6)


def test_the_loss_identifies_the_value(step_run):
    value = nc.exact.seli(STEP).value
    log_loss = np.asarray(step_run.observables["log_objective"])[1:]
    error = log_loss - np.asarray(nc.exact.late_loss(value, LATE))
    assert np.all(np.abs(error) < 2.2 / LATE)
    # 2 L t log t is several times farther from V.
    crude = log_loss + LATE + np.log(2 * LATE) - math.log(value)
    assert np.all(np.abs(crude) > 2.5 * np.abs(error))


@pytest.mark.parametrize("sizes", [STEP, (5, 2, 1), (40, 3, 3, 1), (300, 1, 1)])
def test_the_flow_has_the_predicted_correction_and_not_yet_the_limit(sizes):
    times = np.log(10) * np.array([100.0, 1000.0])
    seli = nc.exact.seli(sizes)
    run = late_flow(sizes, seli.state(len(sizes) - 1), times)
    logits, *grams = class_rows(run.states, sizes)
    measured = relative_grams(*grams)
    limit = relative_grams(seli.classifier_gram, seli.mean_gram)
    for i, log_time in enumerate(times):
        gap = nc.exact.late_gap(log_time)
        distance = np.linalg.norm(measured[i] - limit)
        # The distance is of the size of 1/q, and what the orders leave out of 1/q² and 1/q³.
        for order, share, missing in ((1, 0.1, 30 / gap), (2, 0.02, 300 / gap**2)):
            found = nc.exact.late_geometry(sizes, gap, order=order)
            predicted = relative_grams(found.classifier_gram, found.mean_gram)
            assert np.linalg.norm(measured[i] - predicted) < share * distance
            assert np.abs(logits[i] - found.logits).max() < missing


@pytest.mark.parametrize(("sizes", "log_time"), [(STEP, 70.85), ((100, 100, 1, 1), 84.69)])
def test_imbalance_hardly_delays_the_time_to_one_per_cent(sizes, log_time):
    # Log times at which the prediction is 1 % from its limit; without imbalance it is 0 throughout.
    seli = nc.exact.seli(sizes)
    run = late_flow(sizes, seli.state(3), np.array([1.0, log_time]), rtol=1e-8)
    _, gram, _ = class_rows(run.states, sizes)
    found = nc.exact.late_geometry(sizes, nc.exact.late_gap(log_time))
    limit, predicted, measured = np.moveaxis(
        relative_grams(seli.classifier_gram, found.classifier_gram, gram[1]), -1, 0
    )
    size = np.linalg.norm(limit)
    np.testing.assert_allclose(np.linalg.norm(predicted - limit) / size, 0.01, rtol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(measured - limit) / size, 0.01, rtol=0.02)


def test_the_flow_has_the_predicted_correction_at_10_to_the_10000():
    sizes, log_time = (20, 4, 1), 1e4 * math.log(10)
    seli = nc.exact.seli(sizes)
    run = late_flow(sizes, seli.state(2), np.array([1.0, log_time]), rtol=1e-8)
    _, *grams = class_rows(run.states, sizes)
    measured = relative_grams(*grams)[1]
    found = nc.exact.late_geometry(sizes, nc.exact.late_gap(log_time))
    error = np.linalg.norm(measured - relative_grams(found.classifier_gram, found.mean_gram))
    distance = np.linalg.norm(measured - relative_grams(seli.classifier_gram, seli.mean_gram))
    assert 1e-6 < error + distance < 1e-3
    assert error < distance / 10


@pytest.mark.parametrize("dim", [3, 5])
def test_offsets_do_not_depend_on_the_start(dim):
    # Gaussian starts are not balanced, and their samples of one class differ. Until log t = 300
    # some margins are still 20 off; then all runs have the offsets of the balanced one.
    problem = nc.UnconstrainedFeatures(STEP, dim, reduction="sum")
    log_time = 1000 * math.log(10)
    starts = jax.vmap(problem.init)(jax.random.split(jax.random.key(0), 4))
    flow = nc.Flow(problem, np.array([1.0, log_time]), observe=("logit_offset_spread",))
    spreads = np.asarray(flow.batch(starts).observables["logit_offset_spread"])[:, -1]
    predicted = margins_of(
        np.asarray(nc.exact.late_geometry(STEP, nc.exact.late_gap(log_time)).logits)
    )
    offsets = predicted + np.log(margins_of(-nc.exact.seli(STEP).multipliers))
    assert np.all(spreads < 7 / log_time)
    np.testing.assert_allclose(spreads, np.ptp(offsets), rtol=0.01)


@pytest.mark.parametrize(("sizes", "dim"), [((6, 3, 1), 4), ((5, 5, 2, 1), 2)])
def test_collapsed_flow_is_that_of_one_row_for_each_class(sizes, dim):
    # W' = −GᵀDM and M' = −GW with G = softmax(MWᵀ) − I, integrated by SciPy.
    classes, counts = len(sizes), np.array(sizes, float)
    w, m = np.random.default_rng(1).normal(size=(2, classes, dim))

    def field(t, x):
        w, m = x.reshape(2, classes, dim)
        g = scipy.special.softmax(m @ w.T, axis=1) - np.eye(classes)
        return -np.stack([g.T @ (counts[:, None] * m), g @ w]).ravel()

    found = scipy.integrate.solve_ivp(
        field, (0, 50), np.stack([w, m]).ravel(), "DOP853", rtol=1e-12, atol=1e-12
    )
    expected_w, expected_m = found.y[:, -1].reshape(2, classes, dim)
    start = nc.LastLayer(jnp.asarray(np.repeat(m, sizes, axis=0)), jnp.asarray(w))
    run = late_flow(sizes, start, np.array([0.5, math.log1p(50)]))
    tolerance = integration(1e-10) * np.abs(expected_w).max()
    np.testing.assert_allclose(run.final.classifier, expected_w, rtol=0, atol=tolerance)
    expected = np.repeat(expected_m, sizes, axis=0)
    np.testing.assert_allclose(run.final.features, expected, rtol=0, atol=tolerance)


def ridge_problem(sizes, decay, reduction: Literal["mean", "sum"] = "mean", ratio=1.0):
    weight_decay = nc.WeightDecay(classifier=decay * ratio, features=decay / ratio)
    return nc.UnconstrainedFeatures(
        sizes, len(sizes), reduction=reduction, weight_decay=weight_decay
    )


def ridge_minimum(problem):
    """The minimum by iterating s_kc = −log(c b_kc/s) + log p_kk, b off the polar factor of D^½X."""
    counts = np.array(problem.class_sizes, float)
    decay, wrong = problem.weight_decay, ~np.eye(len(counts), dtype=bool)
    strength = math.sqrt(decay.classifier * decay.features) / problem.loss_scale
    root = np.sqrt(counts)[:, None]
    logits = np.eye(len(counts)) - 1 / len(counts)
    for _ in range(200):
        left, _, right = np.linalg.svd(root * logits)
        polar = (left[:, :-1] @ right[:-1]) / root
        probabilities = np.where(wrong, -strength * polar, 0)
        margins = np.log1p(-probabilities.sum(1))[:, None] - np.log(
            np.where(wrong, probabilities, 1)
        )
        margins = np.where(wrong, margins, 0)
        logits = margins.mean(1)[:, None] - margins
    left, singular, right = np.linalg.svd(root * logits)
    factors = np.sqrt(singular[:-1]), (decay.features / decay.classifier) ** 0.25
    classifier = right[:-1].T * factors[0] * factors[1]
    means = left[:, :-1] / root * factors[0] / factors[1]
    pad = ((0, 0), (0, 1))
    state = nc.LastLayer(
        jnp.asarray(np.pad(np.repeat(means, problem.class_sizes, 0), pad)),
        jnp.asarray(np.pad(classifier, pad)),
    )
    # Every critical point with d >= K whose residual has spectral norm c is a global minimum; here
    # the residual is c times a polar factor, so that it is enough that the gradient vanishes.
    gradient = np.abs(ravel_pytree(problem.gradient(state))[0]).max()
    assert gradient < rounding() * decay.classifier * np.sqrt(singular[0])
    return logits, state


@pytest.mark.parametrize(
    ("decay", "error", "ratio"),
    [(1e-4, 0.167, 2.317), (1e-7, 0.102, 2.167), (1e-10, 0.0738, 2.112)],
)
def test_reference_of_the_ridge_path(decay, error, ratio):
    problem = ridge_problem(STEP, decay)
    logits, state = ridge_minimum(problem)
    predicted = nc.exact.ridge_geometry(problem, order=1).logits
    largest = np.abs(margins_of(logits) - margins_of(np.asarray(predicted))).max()
    np.testing.assert_allclose(largest, error, rtol=0, atol=6e-4)
    norms = np.sum(np.asarray(state.classifier) ** 2, axis=1)
    np.testing.assert_allclose(norms[0] / norms[2], ratio, rtol=0, atol=6e-4)


@pytest.mark.parametrize("sizes", [STEP, (9, 4, 1), (100, 3, 2, 2)])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_ridge_path_has_the_predicted_correction(sizes, reduction):
    limit = nc.exact.seli(sizes)
    for decay in (1e-8, 1e-12):
        problem = ridge_problem(sizes, decay, reduction, ratio=3.0)
        logits, state = ridge_minimum(problem)
        gram = np.asarray(state.classifier @ state.classifier.T)
        found = nc.exact.ridge_geometry(problem)
        assert np.abs(found.logits - logits).max() < 30 / found.gap**2
        np.testing.assert_allclose(found.classifier_gram, gram, rtol=0, atol=0.1)
        first = nc.exact.ridge_geometry(problem, order=1).classifier_gram
        measured, second, first, far = np.moveaxis(
            relative_grams(gram, found.classifier_gram, first, limit.classifier_gram), -1, 0
        )
        distance = np.linalg.norm(measured - far)
        assert np.linalg.norm(measured - second) < distance / 10
        assert np.linalg.norm(measured - second) < np.linalg.norm(measured - first)


def test_geometry_is_traced_batched_and_in_float32():
    gaps = jnp.array([20.0, 300.0], jnp.float32)
    many = jax.jit(jax.vmap(lambda q: nc.exact.late_geometry((5, 2, 1), q)))(gaps)
    assert {leaf.dtype for leaf in jax.tree.leaves(many)} == {jnp.dtype("float32")}
    one = nc.exact.late_geometry((5, 2, 1), 300.0)
    single = rounding("float32")
    np.testing.assert_allclose(many.logits[1], one.logits, rtol=0, atol=300 * single)
    np.testing.assert_allclose(
        many.classifier_gram[1], one.classifier_gram, rtol=0, atol=300 * single
    )

    def ratio(decay):
        gram = nc.exact.ridge_geometry(ridge_problem((5, 2, 1), decay)).classifier_gram
        return gram[0, 0] / gram[2, 2]

    decays = jnp.array([1e-4, 1e-8])
    np.testing.assert_allclose(jax.vmap(ratio)(decays)[1], ratio(1e-8), rtol=rounding())


def test_grams_are_those_of_the_logits():
    sizes = (7, 2, 2)
    found = nc.exact.late_geometry(sizes, 15.0)
    weighted = np.sqrt(np.array(sizes))[:, None] * np.asarray(found.logits)
    gram = np.asarray(found.classifier_gram)
    np.testing.assert_allclose(gram @ gram, weighted.T @ weighted, rtol=rounding(operations=1000))
    means = np.sqrt(np.outer(sizes, sizes)) * np.asarray(found.mean_gram)
    # Entries of the null direction are rounding errors.
    np.testing.assert_allclose(means @ means, weighted @ weighted.T, atol=1e3 * rounding())
    np.testing.assert_allclose(np.sum(found.logits, axis=1), 0, atol=rounding())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.exact.late_geometry((3, 1), 0.0), "gap = 0"),
        (lambda: nc.exact.late_geometry((3, 1), 1.0, order=3), "order = 3"),
        (lambda: nc.exact.late_geometry((3,), 1.0), r"class_sizes = \(3,\)"),
        (lambda: nc.exact.ridge_geometry(nc.ulpm(3, 4, 1)), "weight decay classifier = 0"),
        (lambda: nc.exact.ridge_geometry(nc.zhu(3, 1, 1, 1e-3)), "bias"),
        (lambda: nc.exact.ridge_geometry(nc.mixon(3, 4, 1)), "CrossEntropy"),
        (
            lambda: nc.exact.ridge_geometry(
                nc.UnconstrainedFeatures((3, 1), 2, class_weights=(1.0, 2.0))
            ),
            "class_weights",
        ),
        (lambda: nc.exact.ridge_geometry(ridge_problem((3, 1), 0.3)), "far below the scale 0.25"),
    ],
)
def test_what_has_no_prediction_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
