"""Exact laws of the spectral flow and of sign flow, against flows and an independent loop."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies
from tolerances import rounding

import nc_jax as nc
from nc_jax.problems import SpectralFlow

KEY = jax.random.key(0)
STEP = (16, 16, 16, 1, 1, 1)


def polar(matrix):
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return (left * (values > 1e-9 * values[0])) @ right


def loop(sizes, factors, step, num_steps, *, direction=polar, loss="cross-entropy"):
    """States (W_1 Hᵀ as a list of factors, features first) after each Euler step, in NumPy."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    targets = np.eye(len(sizes))[labels]
    states = [factors]
    for _ in range(num_steps):
        # products[l] is H W_1ᵀ … W_lᵀ.
        products = [factors[0]]
        for weight in factors[1:]:
            products.append(products[-1] @ weight.T)
        logits = products[-1]
        residual = targets - logits
        if loss == "cross-entropy":
            shares = np.exp(logits - logits.max(axis=1, keepdims=True))
            residual = targets - shares / shares.sum(axis=1, keepdims=True)
        moves = []
        for product, weight in zip(products[-2::-1], factors[:0:-1], strict=True):
            moves.append(direction(residual.T @ product))
            residual = residual @ weight
        moves = [direction(residual), *moves[::-1]]
        factors = [x + step * move for x, move in zip(factors, moves, strict=True)]
        states.append(factors)
    return states


def gaussian(sizes, widths, norm, seed=0):
    """Gaussian factors of one norm: (N, d_0), (d_1, d_0), …, (K, d_last)."""
    rng = np.random.default_rng(seed)
    rows = [sum(sizes), *widths[1:], len(sizes)]
    columns = [widths[0], *widths]
    drawn = [rng.normal(size=shape) for shape in zip(rows, columns, strict=True)]
    return [norm * x / np.linalg.norm(x) for x in drawn]


def contrasts(sizes, classifier):
    """Norms of the centred classifiers of each size, the largest first."""
    groups = [np.array(sizes) == size for size in sorted(set(sizes), reverse=True)]
    return [np.linalg.norm(classifier[g] - classifier[g].mean(axis=0)) for g in groups]


@pytest.mark.parametrize("ratio", [2, 16, 300])
@pytest.mark.parametrize("norm", [1e-3, 1e-8])
def test_contrasts_reach_a_level_at_a_time_without_start_norm_and_imbalance(norm, ratio):
    sizes, step = (ratio,) * 3 + (1,) * 3, 2e-3
    states = loop(sizes, gaussian(sizes, (7,), norm), step, 130)
    found = np.array([contrasts(sizes, state[1]) for state in states])
    stages = nc.exact.spectral_stage_times(sizes, 0.3)
    assert stages.sizes == (ratio, 1)
    # The reference number.
    np.testing.assert_allclose(stages.times, 0.2121, atol=5e-5)
    for column, predicted in zip(found.T, stages.times, strict=True):
        measured = np.interp(0.3, column, step * np.arange(len(column)))
        assert abs(measured - predicted) < 2 * step + 2 * norm


@pytest.mark.parametrize("sizes", [STEP, (9, 9, 4, 4, 4, 1, 1), (8, 8, 3, 1, 1, 1, 1)])
def test_contrasts_grow_at_one_rate_long_after_the_classes_are_learned(sizes):
    """Error of the first steps only, proportional to their length; a single class may have a size.

    Until t = 2, where all samples are fitted.
    """
    errors = []
    for step in (0.01, 0.005):
        num_steps = round(2 / step)
        state = loop(sizes, gaussian(sizes, (8,), 1e-6), step, num_steps)[-1]
        assert (state[0] @ state[1].T).argmax(axis=1).tolist() == list(
            np.repeat(np.arange(len(sizes)), sizes)
        )
        found = [x for x in contrasts(sizes, state[1]) if x > 0]
        rates = nc.exact.spectral_stage_times(sizes, 1.0).rates
        errors.append(np.abs(np.array(found) - 2 * rates).max())
    assert errors[0] < 0.03
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("sizes", [(4, 4, 4), (16, 4, 1), (9, 2)])
def test_the_flow_from_an_aligned_start_is_the_mode_of_the_square_loss(sizes):
    """From W = √z₀ I and H the unit vectors of the classes; the error is proportional to steps."""
    problem = nc.UnconstrainedFeatures(sizes, len(sizes), loss=nc.SquaredError(), reduction="sum")
    roots = np.sqrt(sizes)
    units = np.eye(len(sizes))[problem.labels] / roots[problem.labels][:, None]
    start = nc.LastLayer(jnp.asarray(0.3 * units), 0.3 * jnp.eye(len(sizes)))
    step = 1 / 256
    flow = nc.Flow(
        SpectralFlow(problem), np.array([0.5, 1.0, 1.5]), clock=nc.RealTime(),
        solver=diffrax.Euler(), observe=lambda state: {"modes": jnp.diag(units.T @ state.logits())},
        stepsize_controller=diffrax.StepTo(jnp.linspace(0, 1.5, round(1.5 / step) + 1)),
    )  # fmt: skip
    recorded = flow(start).observables["modes"]
    for stop, modes in zip((0.5, 1.0, 1.5), recorded, strict=True):
        exact = [float(nc.exact.spectral_mode(stop, root, start=0.09)) for root in roots]
        # A mode that has reached its target alternates by the last step of both factors.
        np.testing.assert_allclose(modes, exact, atol=5 * step)
        fitted = [float(nc.exact.spectral_mode_time(root, start=0.09)) for root in roots]
        for mode, root, time in zip(modes, roots, fitted, strict=True):
            assert time == pytest.approx(root**0.5 - 0.3)
            assert (abs(mode - root) < 5 * step) == (stop > time)


def test_equal_classes_have_a_closed_form_at_all_times():
    """a = (√a₀ + t/n^(1/4))², z = √n a; the direction is constant, and one Euler step is exact."""
    problem = nc.ulpm(4, 5, 3)
    flow, start = SpectralFlow(problem), nc.exact.collapsed_state(problem, 0.5, key=KEY)
    unit = flow.scaled_descent(start, 0.0)
    for time in (2.0, 100.0):
        mode = nc.exact.spectral_mode(time, start=np.sqrt(3) * 0.5)
        expected = nc.exact.collapsed_state(problem, mode / np.sqrt(3), key=KEY)
        moved = jax.tree.map(lambda x, v, time=time: x + time * v, start, unit)
        # At the later time the gap is above 1000, where the gradient, e^−1000, underflows.
        far = jax.tree.leaves(flow.scaled_descent(expected, 0.0))
        assert (time == 2.0) or problem.objective(expected) == 0
        pairs = zip(
            *map(jax.tree.leaves, (moved, expected)), far, jax.tree.leaves(unit), strict=True
        )
        for found, exact, later, at_start in pairs:
            np.testing.assert_allclose(found, exact, atol=100 * rounding())
            np.testing.assert_allclose(later, at_start, atol=100 * rounding())


@pytest.mark.parametrize("depth", [3, 4])
def test_modes_of_several_factors_have_the_power_of_the_depth(depth):
    sizes, roots = (9, 4, 1), np.array([3.0, 2, 1])
    units = np.eye(3)[np.repeat(np.arange(3), sizes)] / np.repeat(roots, sizes)[:, None]
    start = [0.2 * units] + [0.2 * np.eye(3)] * (depth - 1)
    step = 1e-3
    states = loop(sizes, start, step, 1100, loss="square")
    for stop in (300, 1100):
        features, *weights = states[stop]
        modes = np.diag(units.T @ np.linalg.multi_dot([features, *(w.T for w in weights)]))
        exact = [
            float(nc.exact.spectral_mode(stop * step, root, start=0.2**depth, depth=depth))
            for root in roots
        ]
        np.testing.assert_allclose(modes, exact, atol=15 * depth * step)
    # Only after a small start does the last layer of any depth have contrasts of rate 1.
    sizes = (6, 6, 1, 1)
    state = loop(sizes, gaussian(sizes, (5,) * (depth - 1), 1e-6), step, 400)[-1]
    np.testing.assert_allclose(contrasts(sizes, state[-1]), 0.4, atol=20 * step)


@given(start=strategies.floats(0, 2), time=strategies.floats(0, 3), depth=strategies.integers(2, 6))
@settings(max_examples=25, deadline=None)
def test_the_mode_is_the_inverse_of_its_time_and_solves_its_equation(start, time, depth):
    mode = nc.exact.spectral_mode(time, start=start, depth=depth)
    again = nc.exact.spectral_mode_time(mode, start=start, depth=depth)
    np.testing.assert_allclose(again, time, rtol=rounding(), atol=1e-9)
    if time > 0.01:
        # z' = m z^(1 − 1/m): every factor z^(1/m) grows at rate 1.
        slope = jax.grad(lambda t: nc.exact.spectral_mode(t, start=start, depth=depth))(time)
        np.testing.assert_allclose(slope, depth * mode ** (1 - 1 / depth), rtol=rounding())


@pytest.mark.parametrize(("majorities", "minorities"), [(3, 2), (3, 3), (5, 2)])
def test_sign_flow_merges_minorities_above_its_threshold_alone(majorities, minorities):
    """The largest distance of minority classifiers over starts, with steps far below the start."""
    threshold = nc.exact.sign_threshold(majorities, minorities)
    gaps = {}
    for ratio in (threshold - 1, threshold + 1):
        sizes = (ratio,) * majorities + (1,) * minorities
        found = []
        for seed in range(4):
            start = gaussian(sizes, (6,), 1e-3, seed)
            rows = loop(sizes, start, 1e-5, 1500, direction=np.sign)[-1][1][majorities:]
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            found.append(1 - (rows @ rows.T).min())
        gaps[ratio] = np.median(found)
    assert gaps[threshold - 1] > 0.1
    assert gaps[threshold + 1] < 0.01


def test_closed_forms_have_the_dtype_of_their_argument_and_no_host_values_under_jit():
    single = jnp.float32(0.5)
    assert nc.exact.spectral_mode(single, 4.0).dtype == jnp.float32
    assert nc.exact.spectral_mode_time(single).dtype == jnp.float32
    traced = eqx.filter_jit(lambda t, z: nc.exact.spectral_mode(t, z, start=z / 9))
    np.testing.assert_allclose(traced(1.0, 9.0), 4.0)
