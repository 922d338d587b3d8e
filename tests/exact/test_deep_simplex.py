"""Cross-entropy with m factors on the ray of the simplex: its minimum, threshold and flow."""

import math
from typing import Any

import jax
import mpmath
import numpy as np
import pytest
import scipy.optimize
from exact import deep_search
from tolerances import integration, rounding

import nc_jax as nc

KEY = jax.random.key(7)


def deep(classes, size, widths, decay: Any = 0.0, **options):
    return nc.DeepUnconstrainedFeatures((size,) * classes, widths, weight_decay=decay, **options)


def gap_of(problem):
    logits = nc.exact.deep_minimizer(problem).logits()
    return float(logits[0, 0] - logits[0, 1])


def test_reference_of_three_factors():
    problem = deep(3, 2, (4, 4), 0.01)
    np.testing.assert_allclose(gap_of(problem), 4.8880963774, rtol=0, atol=5.1e-11)
    value = nc.exact.deep_minimum(problem)
    np.testing.assert_allclose(value, 0.1238247674, rtol=0, atol=5.1e-11)


def ray(problem, gap):
    """The objective on the ray, written independently for the mean loss."""
    classes, size, m = problem.num_classes, problem.class_sizes[0], problem.depth
    decay = np.prod(np.array(problem.weight_decay)) ** (1 / m)
    penalty = m / 2 * decay * (classes - 1) * (np.sqrt(size) * gap) ** (2 / m)
    return np.log1p((classes - 1) * np.exp(-gap)) + penalty


@pytest.mark.parametrize(
    ("classes", "size", "widths", "decay"),
    [
        (4, 3, (3, 6), (0.02, 0.005, 0.01)),
        (3, 1, (2, 2, 3), (0.01, 0.02, 0.01, 0.03)),
        (2, 5, (4, 1, 2, 2), (0.02,) * 5),
        (5, 2, (4,), (0.01, 0.02)),
        (3, 2, (3, 3), (0.5,) * 3),
    ],
)
def test_the_value_is_the_least_on_the_ray_and_a_critical_point(classes, size, widths, decay):
    problem = deep(classes, size, widths, decay)
    grid = np.linspace(0, 20, 20_001)
    around = grid[np.argmin(ray(problem, grid))]
    best = scipy.optimize.minimize_scalar(
        lambda a: ray(problem, a), bounds=(max(around - 0.1, 0), around + 0.1), method="bounded",
        options={"xatol": 1e-12},
    )  # fmt: skip
    value, state = nc.exact.deep_minimum(problem), nc.exact.deep_minimizer(problem, key=KEY)
    least = min(ray(problem, best.x), ray(problem, 0.0))  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_allclose(value, least, rtol=1e-10)
    np.testing.assert_allclose(jax.jit(problem.objective)(state), value, rtol=rounding())
    slope = jax.jit(problem.gradient)(state).factors()
    assert max(np.abs(factor).max() for factor in slope) < rounding()
    # Descents from beside it return: a local minimum.
    rng, x = np.random.default_rng(0), deep_search.vector_of(state)
    starts = [x + 0.01 * rng.normal(size=x.size) for _ in range(2)]
    found = deep_search.descents(
        problem.class_sizes, widths, problem.weight_decay, deep_search.cross_entropy, starts=starts
    )
    np.testing.assert_allclose(found, float(value), rtol=1e-8)


@pytest.mark.parametrize(("classes", "size", "depth"), [(3, 2, 3), (5, 4, 4), (2, 1, 6)])
def test_the_origin_takes_over_at_the_threshold_by_a_jump(classes, size, depth):
    decay, gap = nc.exact.deep_simplex_threshold(classes, size, depth)
    widths = (classes,) * (depth - 1)
    below, at, above = (
        deep(classes, size, widths, share * decay) for share in (0.97, 1 - 1e-9, 1.03)
    )
    assert gap_of(below) > gap
    np.testing.assert_allclose(gap_of(at), gap, rtol=1e-6)
    assert gap_of(above) == 0
    np.testing.assert_allclose(nc.exact.deep_minimum(above), math.log(classes), rtol=rounding())
    assert float(nc.exact.deep_minimum(below)) < math.log(classes) * (1 - 1e-4)
    if (classes, size, depth) == (3, 2, 3):
        np.testing.assert_allclose(decay, 0.14749951, rtol=0, atol=5.1e-9)
        np.testing.assert_allclose(gap, math.log(4), rtol=rounding())


def test_two_factors_have_the_minimum_and_the_threshold_of_zhu():
    plain = nc.UnconstrainedFeatures(
        (3,) * 4, 3, weight_decay=nc.WeightDecay(features=0.01, classifier=0.02)
    )
    problem = deep(4, 3, (3,), (0.01, 0.02))
    expected = nc.exact.regularized_minimum(plain)
    np.testing.assert_allclose(nc.exact.deep_minimum(problem), expected, rtol=rounding())
    decay, gap = nc.exact.deep_simplex_threshold(4, 3, 2)
    assert gap == 0
    assert gap_of(deep(4, 3, (3,), 0.97 * decay)) > 0.01
    assert gap_of(deep(4, 3, (3,), 1.03 * decay)) == 0


def test_a_code_of_lower_rank_has_a_lower_value_than_the_simplex_at_depth_four():
    # The square of four classes; the value of the simplex is no global minimum there.
    problem = deep(4, 1, (4, 4, 4), 1e-4)
    square = nc.exact.paired_code((1,) * 4, depth=4)
    scale = gap_of(problem)
    state = nc.exact.factored_state(scale * square.logits, (1,) * 4, (4, 4, 4))
    assert float(problem.objective(state)) < float(nc.exact.deep_minimum(problem)) - 1e-5


def reference_gap(problem, start, log_time):
    """The root of its equation by the confluent hypergeometric function with 60 digits."""
    classes, size, m = problem.num_classes, problem.class_sizes[0], problem.depth
    with mpmath.workdps(60):
        k = 1 - mpmath.mpf(2) / m
        rate = m * classes * mpmath.mpf(size) ** (1 - mpmath.mpf(1) / m) * problem.loss_scale
        target = rate * mpmath.expm1(mpmath.mpf(log_time))

        def passed(a):
            return -(a**-k) / k * (mpmath.hyp1f1(-k, 1 - k, a) + classes - 1)

        def excess(a):
            elapsed = passed(a) - passed(mpmath.mpf(start))
            return mpmath.log(elapsed) - mpmath.log(target)

        ends = (mpmath.mpf(start) * (1 + mpmath.mpf(10) ** -25), start + log_time + 60)
        return float(mpmath.findroot(excess, ends, solver="anderson", maxsteps=300, verify=False))


@pytest.mark.parametrize(("widths", "reduction"), [((3, 3), "sum"), ((4, 3, 5), "mean")])
def test_the_gap_solves_its_equation_at_any_time(widths, reduction):
    problem = deep(4, 3, widths, reduction=reduction)
    times = np.array([0.01, 2.0, 40.0, 60.0, 230.0, 2e4])
    expected = [reference_gap(problem, 0.3, u) for u in times]
    found = nc.exact.deep_collapsed_gap(problem, 0.3, times)
    np.testing.assert_allclose(found, expected, rtol=rounding())
    assert float(nc.exact.deep_collapsed_gap(problem, 0.3, 0.0)) == pytest.approx(0.3, rel=1e-15)


def test_references_of_the_gap_and_two_factors():
    printed = {(4,): 7.9496143513, (4, 4): 9.3644688911, (4, 4, 4): 10.2103199214}
    for widths, gap in printed.items():
        problem = deep(3, 2, widths, reduction="sum")
        found = nc.exact.deep_collapsed_gap(problem, 1.0, np.log1p(50.0))
        np.testing.assert_allclose(found, gap, rtol=0, atol=5.1e-11)
    times = np.array([1.0, 50.0, 1e4])
    flat = nc.exact.collapsed_gap(nc.ulpm(3, 4, 2), 0.5, times)
    problem = deep(3, 2, (4,), reduction="sum")
    np.testing.assert_array_equal(nc.exact.deep_collapsed_gap(problem, 0.5, times), flat)


@pytest.mark.parametrize("widths", [(3, 5), (4, 3, 4)])
def test_the_flow_has_the_gap_up_to_a_googol(widths):
    problem = deep(4, 2, widths)
    seli = nc.exact.seli((2,) * 4, depth=len(widths) + 1)
    start = seli.deep_state(widths, gap=0.5, key=KEY)
    times = np.log(10) * np.array([1.0, 100.0])
    run = nc.gradient_flow(problem, start, times, rtol=1e-10, atol=1e-12)
    gaps = nc.exact.deep_collapsed_gap(problem, 0.5, run.log_time)
    found = run.observables["margin_min"]
    np.testing.assert_allclose(found, gaps, rtol=integration(1e-10))
    # Of the loss: log(1 + (K − 1) e^(−a)) is its tail.
    expected = math.log(3) - float(gaps[-1])
    np.testing.assert_allclose(run.observables["log_objective"][-1], expected, rtol=1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.exact.deep_minimum(deep(3, 2, (4, 1), 0.1)), r"widths = \(4, 1\)"),
        (lambda: nc.exact.deep_minimum(deep(3, 2, (4, 4))), r"weight_decay\[0\] = 0"),
        (lambda: nc.exact.deep_collapsed_gap(deep(3, 2, (4,), 0.1), 1.0, 1.0), "without decay"),
        (lambda: nc.exact.deep_collapsed_gap(deep(3, 2, (4, 4)), 0.0, 1.0), "start_gap = 0"),
        (lambda: nc.exact.deep_simplex_threshold(1, 2, 3), "num_classes = 1"),
        (
            lambda: nc.exact.deep_minimum(
                nc.DeepUnconstrainedFeatures((2, 1), (3, 3), weight_decay=0.1)
            ),
            "classes of one size",
        ),
    ],
)
def test_what_has_no_ray_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
