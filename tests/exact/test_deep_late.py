"""Late laws and simplex-encoded labels with m factors: value, offsets, correction and states."""

import itertools
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, strategies as st
from tolerances import rounding

import nc_jax as nc

STEP = (10, 10, 1, 1)


def reference_gap(log_time, start, tail, scale, depth):
    """The root of ∫ e^(kq) q^(2/m−2) dq = mst from q₀ on, by the confluent hypergeometric one."""
    with mpmath.workdps(50):
        share, tail = 1 - mpmath.mpf(2) / depth, mpmath.mpf(tail)
        target = depth * mpmath.mpf(scale) * mpmath.expm1(mpmath.mpf(log_time))

        def primitive(q):
            return -(q**-share) / share * mpmath.hyp1f1(-share, 1 - share, tail * q)

        def excess(q):
            return mpmath.log(primitive(q) - primitive(mpmath.mpf(start))) - mpmath.log(target)

        ends = (mpmath.mpf(start) * (1 + mpmath.mpf(10) ** -25), start + log_time / tail + 40)
        return float(mpmath.findroot(excess, ends, solver="anderson", maxsteps=300, verify=False))


@pytest.mark.parametrize(
    ("start", "tail", "scale", "depth"), [(1.0, 1.0, 1.0, 3), (0.3, 3.0, 1 / 22, 4), (5.0, 1, 1, 7)]
)
def test_gap_solves_its_equation(start, tail, scale, depth):
    times = np.array([3.0, 12.0, 47.0, 51.0, 700.0, 2e4])
    expected = [reference_gap(u, start, tail, scale, depth) for u in times]
    found = nc.exact.late_gap(times, start_gap=start, tail=tail, loss_scale=scale, depth=depth)
    np.testing.assert_allclose(found, expected, rtol=rounding())


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("tail", [1.0, 3.0])
def test_loss_times_a_power_of_log_t_tends_to_the_value(depth, tail):
    value, log_time = 6.5, np.log(10) * np.array([1e3, 1e6, 1e9])
    log_loss = nc.exact.late_loss(value, log_time, tail=tail, depth=depth)
    limit = math.log(2 * value / depth**2) - 2 / depth * math.log(tail)
    log_ratio = log_loss + log_time + (2 - 2 / depth) * np.log(log_time) - limit
    allowed = 4 * np.log(depth * log_time) / log_time + rounding() * log_time
    assert np.all(np.abs(log_ratio) < allowed)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_value_from_the_loss_tends_to_the_value(depth):
    log_time = np.log(10) * np.array([100.0, 1e4])
    log_loss = nc.exact.late_loss(6.5, log_time, depth=depth)
    found = nc.metrics.separation_value_from_loss(log_loss, log_time, depth=depth) / 6.5
    below = 1 - np.asarray(found)
    # m t = e^q q^(−p) (1 + p/q + ...) with p = 2 − 2/m, where the product has log t for q.
    p = 2 - 2 / depth
    share = p * (math.log(depth) + p * np.log(log_time) - 1) / log_time
    np.testing.assert_allclose(below, share, rtol=0.1)


def test_without_a_start_the_power_series_is_the_time():
    for depth in (3, 5):
        q = float(nc.exact.late_gap(20.0, depth=depth))
        k = 1 - 2 / depth
        series = -(q**-k) / k * float(mpmath.hyp1f1(-k, 1 - k, q))
        np.testing.assert_allclose(series, depth * math.expm1(20.0), rtol=rounding())


def test_the_late_law_is_right_on_the_exact_ray():
    for widths in ((3, 3), (3, 4, 5)):
        problem = nc.DeepUnconstrainedFeatures((6,) * 4, widths, reduction="sum")
        log_time = np.log(10) * np.array([20.0, 300.0, 1e5])
        gap = nc.exact.deep_collapsed_gap(problem, 0.5, log_time)
        seli = nc.exact.seli((6,) * 4, depth=problem.depth)
        late = nc.exact.late_loss(seli.value, log_time, depth=problem.depth)
        shift = np.log(24 * 3 / (2 * seli.value / problem.depth))
        error = math.log(24 * 3) - gap - late
        assert np.all(np.abs(error) < 2 * shift / log_time + rounding() * log_time)


def test_references_of_simplex_encoded_labels_with_m_factors():
    classifier = {2: 1.99524705, 3: 1.61321715, 4: 1.44077580, 8: 1.20603638}
    means = {2: 2.29152899, 3: 3.08706472, 4: 3.59322008, 8: 4.52507702}
    for depth in classifier:
        seli = nc.exact.seli(STEP, depth=depth)
        w, h = np.diag(seli.classifier_gram), np.diag(seli.mean_gram)
        np.testing.assert_allclose(w[0] / w[2], classifier[depth], rtol=0, atol=5.1e-9)
        np.testing.assert_allclose(h[2] / h[0], means[depth], rtol=0, atol=5.1e-9)
    for depth, value in ((3, 6.7113767427), (4, 8.0647027665)):
        found = nc.exact.seli((8, 4, 2, 1), depth=depth).value
        np.testing.assert_allclose(found, value, rtol=0, atol=5.1e-11)


SIZES = st.lists(st.integers(1, 1000), min_size=2, max_size=6).map(tuple)


@given(sizes=SIZES, depth=st.integers(2, 9))
def test_multipliers_are_positive_at_every_depth_and_sum_to_the_value(sizes, depth):
    seli = nc.exact.seli(sizes, depth=depth)
    off = ~np.eye(len(sizes), dtype=bool)
    assert np.all(seli.multipliers[off] > 0)
    total = np.sum(np.array(sizes)[:, None] * seli.multipliers)
    np.testing.assert_allclose(total, 2 * seli.value / depth, rtol=10 * rounding())


@pytest.mark.parametrize("widths", [(4,), (3, 5), (4, 3, 6)])
def test_the_deep_state_has_the_gap_the_grams_and_the_value(widths):
    depth, sizes = len(widths) + 1, (5, 2, 1, 1)
    seli = nc.exact.seli(sizes, depth=depth)
    state = seli.deep_state(widths, gap=3.0, key=jax.random.key(1))
    rows = np.repeat(3 * seli.logits, sizes, axis=0)
    np.testing.assert_allclose(state.logits(), rows, atol=rounding())
    norm = float(jnp.sum(state.squared_norms())) / 2
    np.testing.assert_allclose(norm, seli.value * 3 ** (2 / depth), rtol=rounding())
    last, means = state.weights[-1], state.features[np.array([0, 5, 7, 8])]
    power = 3 ** (2 / depth)
    np.testing.assert_allclose(last @ last.T, power * seli.classifier_gram, atol=rounding())
    np.testing.assert_allclose(means @ means.T, power * seli.mean_gram, atol=rounding())
    if depth == 2:
        np.testing.assert_allclose(seli.state(4, gap=3.0).logits(), rows, atol=rounding())


@pytest.mark.parametrize(("sizes", "depth"), [((5, 2, 1), 3), ((5, 2, 1), 4), (STEP, 3), (STEP, 4)])
def test_the_flow_has_the_predicted_correction_and_not_yet_the_limit(sizes, depth):
    # From beside the ray: for four factors the flow leaves simplex-encoded labels of margin 1.
    problem = nc.problems.EndToEnd(sizes, depth, reduction="sum")
    start = nc.exact.late_geometry(sizes, 60.0, depth=depth).logits
    log_time = np.array([100.0, 250.0])
    flow = nc.Flow(problem, log_time, rtol=1e-9, atol=1e-11, observe=lambda x: {"x": x})
    run = flow(problem.state_of(start))
    counts = np.array(sizes, float)
    for u, state, log_loss in zip(
        log_time, run.observables["x"], flow_losses(problem, run), strict=True
    ):
        gap = nc.exact.late_gap(u, depth=depth)
        logits, q = np.asarray(problem.logits(state)), float(gap)
        geometry = nc.exact.late_geometry(sizes, gap, depth=depth)
        first = nc.exact.late_geometry(sizes, gap, order=1, depth=depth)
        error = np.abs(logits - geometry.logits).max()
        assert error < 0.5 * np.abs(logits - first.logits).max()
        assert error * q**2 < 1000
        # Norms of the last classifiers: far closer to the prediction than to the limit.
        ratio = lambda gram: float(gram[0, 0] / gram[-1, -1])  # noqa: E731
        _, singular, right = np.linalg.svd(np.sqrt(counts)[:, None] * logits)
        gram = (right.T * singular ** (2 / depth)) @ right
        limit = ratio(nc.exact.seli(sizes, depth=depth).classifier_gram)
        assert abs(ratio(gram) - ratio(geometry.classifier_gram)) < 0.1 * abs(ratio(gram) - limit)
        # The loss identifies the value.
        value = nc.exact.seli(sizes, depth=depth).value
        assert abs(log_loss - nc.exact.late_loss(value, u, depth=depth)) < 4 / u


def flow_losses(problem, run):
    return [float(problem.log_objective(state)) for state in run.observables["x"]]


def test_a_net_that_starts_beside_has_the_offsets_whatever_its_balance():
    sizes, widths, log_time = STEP, (4, 6), 243.0
    seli = nc.exact.seli(sizes, depth=3)
    start = seli.deep_state(widths, gap=20.0, key=jax.random.key(1))
    keys = jax.random.split(jax.random.key(2), 3)
    leaves, structure = jax.tree.flatten(start)
    noisy = [x + 0.02 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    problem = nc.DeepUnconstrainedFeatures(sizes, widths, reduction="sum")
    run = nc.gradient_flow(
        problem, jax.tree.unflatten(structure, noisy), np.array([log_time]), rtol=1e-7
    )
    logits = np.asarray(run.final.logits())
    labels, rows = problem.labels, np.arange(len(logits))
    wrong = labels[:, None] != np.arange(len(sizes))
    margins = (logits[rows, labels][:, None] - logits)[wrong]
    shifted = margins + np.log(seli.multipliers[labels][wrong])
    assert np.ptp(margins) > 1.5
    assert np.ptp(shifted) < 0.1
    # Gram matrices are those of the logits at this time, up to the balance of the start.
    gap = nc.exact.late_gap(log_time, depth=3)
    geometry = nc.exact.late_geometry(sizes, gap, depth=3)
    last = run.final.weights[-1]
    found = np.asarray(last @ last.T)
    np.testing.assert_allclose(
        found / np.trace(found),
        geometry.classifier_gram / np.trace(geometry.classifier_gram),
        atol=5e-3,
    )


def test_offsets_of_two_factors_are_unchanged_and_grams_are_those_of_the_logits():
    plain, named = (nc.exact.late_geometry(STEP, 80.0, **options) for options in ({}, {"depth": 2}))
    np.testing.assert_array_equal(plain.logits, named.logits)
    geometry = nc.exact.late_geometry((5, 2, 1), 80.0, depth=4)
    state = nc.exact.factored_state(geometry.logits, (5, 2, 1), (3, 3, 3))
    last, means = state.weights[-1], state.features[np.array([0, 5, 7])]
    np.testing.assert_allclose(last @ last.T, geometry.classifier_gram, atol=30 * rounding())
    np.testing.assert_allclose(means @ means.T, geometry.mean_gram, atol=30 * rounding())


PAIRED = {
    (1, 1, 1, 1): 4,
    STEP: 4,
    (8, 4, 2, 1): 4,
    (100, 100, 1, 1): 3,
    (10,) * 3 + (1,) * 3: 3,
    (10,) * 4 + (1,) * 4: 3,
    (1,) * 6: 3,
}


@pytest.mark.parametrize(("sizes", "depth"), PAIRED.items())
def test_pairs_have_a_lower_value_from_the_depth_of_an_independent_computation(sizes, depth):
    assert nc.exact.pairing_depth(sizes) == depth


@pytest.mark.parametrize("sizes", [(4, 3, 2, 1), (9, 1, 1, 5, 2), (7, 7, 1, 1, 3, 2)])
@pytest.mark.parametrize("depth", [2, 3, 6])
def test_no_other_pairs_have_a_lower_value(sizes, depth):
    code = nc.exact.paired_code(sizes, depth=depth)
    weighted = np.sqrt(np.array(sizes, float))[:, None] * code.logits
    singular = np.linalg.svd(weighted, compute_uv=False)
    np.testing.assert_allclose(singular[: len(code.singular_values)], code.singular_values)
    assert np.all(singular[len(code.singular_values) :] < rounding())
    margins = np.diag(code.logits)[:, None] - code.logits
    off = ~np.eye(len(sizes), dtype=bool)
    np.testing.assert_allclose(np.unique(margins[off].round(12)), [1.0, 2.0])

    def value(order):
        pairs = [order[i : i + 2] for i in range(0, len(order), 2)]
        alone = 1 - 1 / len(sizes)
        squares = [
            2 * sum(sizes[k] for k in pair) if len(pair) == 2 else sizes[pair[0]] * alone
            for pair in pairs
        ]
        return depth / 2 * sum(square ** (1 / depth) for square in squares)

    least = min(value(order) for order in itertools.permutations(range(len(sizes))))
    np.testing.assert_allclose(code.value, least, rtol=rounding())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.exact.late_gap(1.0, depth=1), "depth = 1"),
        (lambda: nc.exact.late_geometry((2, 1), 9.0, depth=0), "depth = 0"),
        (
            lambda: nc.exact.seli((2, 1), depth=3).deep_state((2,)),
            r"widths = \(2,\): give 2 for 3 factors",
        ),
        (lambda: nc.exact.seli((2, 1, 1), depth=3).deep_state((2, 1)), r"widths = \(2, 1\)"),
        (lambda: nc.exact.paired_code((2, 1), depth=3), "give 3 or more classes"),
        (lambda: nc.exact.pairing_depth((2, 1, 1)), "give 4 or more classes"),
    ],
)
def test_what_does_not_exist_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_derivatives_of_the_gap_are_those_of_its_equation(depth):
    """Bisection alone gives others without a warning. At t = e^300 − 1 numbers overflow float32."""
    problem = nc.DeepUnconstrainedFeatures((2, 2, 2), (3,) * (depth - 1), reduction="sum")

    def gap_of(log_time, start):
        return nc.exact.deep_collapsed_gap(problem, start, log_time)

    def log_rate(gap):
        # log da/dt, with e^a + K − 1 = e^a (1 + 2e^−a).
        power = (2 - 2 / depth) * jnp.log(gap) - gap - jnp.log1p(2 * jnp.exp(-gap))
        return np.log(depth * 3 * 2 ** (1 - 1 / depth)) + power

    for log_time in (0.0, 2.0, 300.0):
        gap = gap_of(log_time, 0.7)
        by_time, by_start = jax.grad(gap_of, argnums=(0, 1))(log_time, 0.7)
        np.testing.assert_allclose(by_time, jnp.exp(log_rate(gap) + log_time), rtol=1e-11)
        np.testing.assert_allclose(by_start, jnp.exp(log_rate(gap) - log_rate(0.7)), rtol=1e-11)
        second = jax.grad(jax.grad(gap_of))(log_time, 0.7)
        slope = jax.grad(log_rate)(gap)
        np.testing.assert_allclose(second, by_time * (1 + slope * by_time), rtol=1e-9, atol=1e-9)


def test_derivatives_of_the_late_gap_by_the_scale_of_the_loss():
    """q depends on st alone."""
    by_time, by_scale = jax.grad(
        lambda u, s: nc.exact.late_gap(u, loss_scale=s, depth=3, tail=2.0), argnums=(0, 1)
    )(50.0, 0.25)
    np.testing.assert_allclose(by_scale, by_time / 0.25, rtol=1e-11)
