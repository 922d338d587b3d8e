"""Aligned modes of the square loss against the hypergeometric function and flows."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, strategies as st
from tolerances import integration, rounding

import nc_jax as nc

SIZES = (5, 2, 1)
ROOTS = np.sqrt(SIZES)
# At t = 1.2 from 0.1, by an independent computation.
PRINTED = {
    2: [2.0332369877, 0.9812846442, 0.5505208650],
    3: [2.2122115084, 1.0582179780, 0.5048515194],
    4: [2.2349887290, 1.2121762457, 0.5351942549],
    6: [2.2360676193, 1.3948042190, 0.7068535657],
}


def hypergeometric_time(start, end, target, depth):
    """[F(z₀) − F(z)]/m with F(z) = z^(−k)/(k y) ₂F₁(1, −k; 1−k; z/y), k = 1 − 2/m."""
    with mpmath.workdps(40):
        y, k = mpmath.mpf(target), 1 - mpmath.mpf(2) / depth

        def primitive(z):
            z = mpmath.mpf(z)
            if depth == 2:
                return -mpmath.log(z / (y - z)) / y
            return z**-k / (k * y) * mpmath.hyp2f1(1, -k, 1 - k, z / y)

        return float((primitive(start) - primitive(end)) / depth)


@pytest.mark.parametrize("depth", PRINTED)
def test_references(depth):
    found = nc.exact.aligned_mode(1.2, 0.1, ROOTS, depth)
    np.testing.assert_allclose(found, PRINTED[depth], rtol=0, atol=5.1e-11)


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 8])
def test_times_are_those_of_the_hypergeometric_function(depth):
    starts, ends = np.array([1e-9, 1e-3, 0.1, 0.5, 1.2]), np.array([1e-8, 0.02, 1.0, 1.2999, 1.25])
    expected = [hypergeometric_time(a, b, 1.3, depth) for a, b in zip(starts, ends, strict=True)]
    found = nc.exact.aligned_mode_time(starts, ends, 1.3, depth)
    np.testing.assert_allclose(found, expected, rtol=20 * rounding())


@given(
    depth=st.integers(2, 7),
    start=st.floats(1e-4, 0.9),
    target=st.floats(1.0, 10.0),
    time=st.floats(0.0, 3.0),
)
def test_time_inverts_the_mode(depth, start, target, time):
    end = float(nc.exact.aligned_mode(time, start, target, depth))
    assert start * (1 - rounding()) <= end <= target
    if end < target * (1 - 1e-6):
        found = float(nc.exact.aligned_mode_time(start, end, target, depth)) if end > start else 0.0
        # The time has the rounding error of both ends, relative to the time to leave them.
        slope = depth * end ** (2 - 2 / depth) * (target - end)
        first = start ** (2 / depth - 1) / target
        assert abs(found - time) < 100 * rounding() * (end / slope + first + time)


@pytest.mark.parametrize("widths", [(3,), (3, 4), (5, 3, 4)])
def test_the_flow_of_the_deep_net_has_the_modes(widths):
    problem = nc.DeepUnconstrainedFeatures(SIZES, widths, loss=nc.SquaredError(), reduction="sum")
    start = nc.exact.factored_state(np.diag(0.1 / ROOTS), SIZES, widths)
    run = nc.gradient_flow(
        problem, start, np.array([1.2]), clock=nc.RealTime(), rtol=1e-11, atol=1e-12
    )
    found = np.diag(np.asarray(run.final.logits())[[0, 5, 7]]) * ROOTS
    expected = nc.exact.aligned_mode(1.2, 0.1, ROOTS, problem.depth)
    np.testing.assert_allclose(found, expected, rtol=integration(1e-11))


@pytest.mark.parametrize("depth", [2, 3, 4, 6])
def test_plateaus_have_the_length_of_the_stages_and_their_ratio(depth):
    sizes, corrections = (16, 4), []
    for log_norm in (-3.0, -6.0):
        stages = nc.exact.stage_times(sizes, log_norm, loss=nc.SquaredError(), depth=depth)
        start, ends = np.exp(depth * log_norm), np.sqrt(sizes) / 2
        times = nc.exact.aligned_mode_time(start, ends, np.sqrt(sizes), depth)
        np.testing.assert_allclose(stages.times[1] / stages.times[0], 2, rtol=rounding())
        corrections.append(np.abs(times / stages.times - 1).max())
    # O(1) of log(1/ε) for two factors, and a power of ε for more.
    assert corrections[1] < (0.6 if depth == 2 else 0.1) * corrections[0]
    assert corrections[1] < (0.4 if depth == 2 else 0.02)


def test_cross_entropy_learns_contrasts_of_small_classes_at_the_time_of_their_size():
    # All contrasts start with the singular value ε in each of three factors.
    sizes, found = (16, 16, 1, 1), []
    problem = nc.problems.EndToEnd(sizes, 3, reduction="sum")
    left, _, right = np.linalg.svd(np.sqrt(sizes)[:, None] * nc.exact.seli(sizes).logits)
    norms = np.array([0.1, 0.03])
    contrast = np.array([0, 0, 1, -1]) / np.sqrt(2)
    for norm in norms:
        last = nc.exact.stage_times(sizes, np.log(norm), depth=3).times[-1]
        times = np.linspace(0, 1.5 * last, 300)
        start = norm**3 * (left[:, :3] @ right[:3])
        observe = lambda x: {"size": jnp.asarray(contrast) @ x @ jnp.asarray(contrast)}  # noqa: E731
        run = nc.gradient_flow(
            problem, jnp.asarray(start), times, clock=nc.RealTime(), rtol=1e-8, atol=1e-10,
            observe=observe,
        )  # fmt: skip
        found.append(np.interp(0.2, np.asarray(run.observables["size"]), times))
    predicted = [nc.exact.stage_times(sizes, np.log(norm), depth=3).times[-1] for norm in norms]
    np.testing.assert_allclose(np.diff(found), np.diff(predicted), rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.exact.aligned_mode(1.0, 2.0, 1.0, 3), "start = 2.0: give a number between 0"),
        (lambda: nc.exact.aligned_mode(1.0, 0.0, 1.0, 3), "start = 0"),
        (lambda: nc.exact.aligned_mode(-1.0, 0.1, 1.0, 3), "t = -1"),
        (lambda: nc.exact.aligned_mode_time(0.1, 1.0, 1.0, 3), "end = 1.0"),
        (lambda: nc.exact.aligned_mode_time(0.1, 0.5, 1.0, 1), "depth = 1"),
        (
            lambda: nc.exact.stage_times((2, 1), -800.0, loss=nc.SquaredError(), depth=3),
            "overflow; give a number >= -700",
        ),
    ],
)
def test_what_has_no_mode_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("depth", "start"), [(3, 1e-60), (4, 1e-40), (6, 1e-30)])
def test_the_mode_of_a_very_small_start_is_known_to_rounding(depth, start):
    """On the plateau z^(−k) falls linearly, to relative order z/y."""
    k, shares = 1 - 2 / depth, np.array([0.5, 0.9])
    times = shares * start**-k / (depth * k)
    found = nc.exact.aligned_mode(times, start, 1.0, depth)
    np.testing.assert_allclose(found, start * (1 - shares) ** (-1 / k), rtol=1e-12)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_derivatives_of_the_mode_are_those_of_its_equation(depth):
    def rate(z):
        return depth * z ** (2 - 2 / depth) * (2 - z)

    for time in (0.1, 0.7):
        mode = nc.exact.aligned_mode(time, 0.3, 2.0, depth)
        by_time, by_start = jax.grad(
            lambda t, z, m=depth: nc.exact.aligned_mode(t, z, 2.0, m), argnums=(0, 1)
        )(time, 0.3)
        np.testing.assert_allclose(by_time, rate(mode), rtol=1e-11)
        # Two solutions of an autonomous equation differ by a shift of time.
        np.testing.assert_allclose(by_start, rate(mode) / rate(0.3), rtol=1e-11)
