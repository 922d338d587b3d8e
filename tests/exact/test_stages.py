"""Rates at the origin, and the stages of flows from small starts with unequal classes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from tolerances import rounding

import nc_jax as nc

KEY = jax.random.key(0)
NORMS = np.array([1e-3, 1e-5, 1e-7, 1e-9])
# The class sizes of an independent computation, and others.
STEP, OTHER = (16, 16, 16, 1, 1, 1), (9, 9, 1, 1, 1)


def hessian_at_origin(sizes, loss):
    problem = nc.UnconstrainedFeatures(sizes, 1, loss=loss, reduction="sum")
    origin = jax.tree.map(jnp.zeros_like, problem.init(KEY))
    return np.linalg.eigvalsh(nc.landscape.dense_hessian(problem, origin))


@pytest.mark.parametrize("loss", [nc.CrossEntropy(), nc.SquaredError()])
@pytest.mark.parametrize("sizes", [STEP, (5, 2, 1), (4, 4, 4), (3, 7), (10, 3, 3, 2)])
def test_rates_are_minus_the_negative_eigenvalues_at_the_origin(sizes, loss):
    rates = nc.exact.origin_rates(sizes, loss=loss)
    values = hessian_at_origin(sizes, loss)
    np.testing.assert_allclose(-values[: len(rates)], rates, rtol=rounding())
    assert values[len(rates)] > -1e-12


def test_the_rates_of_step_classes_are_those_of_an_independent_computation():
    rates = nc.exact.origin_rates(STEP)
    np.testing.assert_allclose(rates, [4, 4, 2.91547595, 1, 1], rtol=0, atol=5e-9)
    # (K_A + K_B R)/K of the contrast between the groups, n = 1.
    np.testing.assert_allclose(rates[2], np.sqrt((3 + 3 * 16) / 6), rtol=rounding())


@pytest.mark.parametrize("sizes", [(5, 2, 1), (1_000_000, 30, 1), (8, 7, 3, 2)])
def test_squared_rates_of_unequal_sizes_are_the_roots_of_the_secular_equation(sizes):
    ordered = sorted(sizes, reverse=True)
    rates = nc.exact.origin_rates(sizes)
    for rate, above, below in zip(rates, ordered, ordered[1:], strict=False):
        with mpmath.workdps(30):
            # Multiplied by its poles, so that the root between two sizes is bracketed.
            def secular(mu):
                return sum(
                    mpmath.fprod(size - mu for j, size in enumerate(sizes) if j != i)
                    for i in range(len(sizes))
                )

            root = mpmath.findroot(secular, (below, above), solver="anderson", tol=1e-25)
        np.testing.assert_allclose(rate**2, float(root), rtol=rounding())


def groups_of(sizes):
    """The classes of each size, the largest first."""
    return [np.flatnonzero(np.array(sizes) == size) for size in sorted(set(sizes), reverse=True)]


@eqx.filter_jit
def observed(problem, start, times, tolerance):
    groups = groups_of(problem.class_sizes)

    def observe(state):
        rows = [state.classifier[group] for group in groups]
        contrasts = [jnp.linalg.norm(nc.geometry.center(of_size)) for of_size in rows]
        least = [jnp.min(nc.geometry.cosines(of_size)) for of_size in rows]
        return {"contrasts": jnp.stack(contrasts), "unequal": 1 - least[-1]}

    return nc.gradient_flow(
        problem, start, times, clock=nc.RealTime(), rtol=1e-8, atol=tolerance, observe=observe
    ).observables


def crossings(times, values, level=0.5):
    """Times at which rising values reach a level, between saves by their logarithms."""
    return np.interp(np.log(level), np.log(np.maximum.accumulate(values)), times)


def stages_of_flows(sizes, loss):
    """Of flows from the four norms: times of the stages, and 1 − cos of the smallest classes.

    The cosine is that in the middle of the last two times.
    """
    problem = nc.UnconstrainedFeatures(sizes, 10, loss=loss, reduction="sum")
    learned, unequal = [], []
    for norm in NORMS:
        last = nc.exact.stage_times(sizes, np.log(norm), loss=loss).times[-1]
        times = np.linspace(0, last + 6, 400)
        found = observed(problem, problem.init(KEY, norm), times, 1e-10 * norm)
        learned.append([crossings(times, row) for row in np.transpose(found["contrasts"])])
        middle = np.mean(learned[-1][-2:])
        unequal.append(np.exp(np.interp(middle, times, np.log(found["unequal"]))))
    return np.array(learned), np.array(unequal)


def slopes(values):
    """Slopes in log(1/ε) between neighbouring norms."""
    return (np.diff(values, axis=0).T / np.diff(np.log(1 / NORMS))).T


# Two sizes, and three.
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("sizes", [STEP, OTHER, (16, 16, 4, 4, 1, 1)])
def test_cross_entropy_learns_large_classes_first_and_minorities_coincide_before(sizes):
    learned, unequal = stages_of_flows(sizes, nc.CrossEntropy())
    rates = nc.exact.stage_times(sizes, -1.0).rates
    # With three sizes the slopes are approached more slowly.
    last = slopes(learned)[-1]
    np.testing.assert_allclose(last, 1 / rates, rtol=1e-3 if len(rates) == 2 else 3e-3)
    assert abs(last[-1] - 1) <= abs(slopes(learned)[0, -1] - 1)
    # The constants are of order 1.
    predicted = [nc.exact.stage_times(sizes, np.log(norm)).times for norm in NORMS]
    assert np.abs(learned - predicted).max() < 4
    # Transient minority collapse: 1 − cos falls as ε^(1 − √(n_B/n_A)), here ε^0.75 and ε^0.67, and
    # as ε^0.5 for classes of 4 and 1.
    power = -slopes(np.log(unequal))
    limit = 1 - rates[-1] / rates[-2]
    np.testing.assert_allclose(power[-1], limit, atol=0.02 if len(rates) == 2 else 0.04)
    assert abs(power[-1] - limit) < abs(power[0] - limit)
    if len(rates) == 2:
        assert np.all(unequal < [0.01, 1e-3, 1e-4, 1e-6])


@pytest.mark.usefixtures("optimized")
def test_the_square_loss_has_the_same_slopes():
    learned, _ = stages_of_flows(STEP, nc.SquaredError())
    np.testing.assert_allclose(slopes(learned), [[1 / 4, 1]] * 3, rtol=1e-3)


@pytest.mark.parametrize("sizes", [STEP, (5, 2, 1)])
def test_the_closed_form_of_the_square_loss_has_the_slopes(sizes):
    loss = nc.SquaredError()
    problem = nc.UnconstrainedFeatures(sizes, 8, loss=loss, reduction="sum")
    solve = eqx.filter_jit(lambda start, t: nc.exact.square_loss_flow(problem, start, t))
    distinct = sorted(set(sizes), reverse=True)
    times = []
    for norm in NORMS:
        stages = nc.exact.stage_times(sizes, np.log(norm), loss=loss)
        assert stages.sizes == tuple(distinct)
        grid = (np.linspace(-2, 4, 120)[:, None] + stages.times).T
        start = nc.exact.balanced_start(problem, KEY, norm)
        rows = np.asarray(solve(start, grid).classifier)
        found = [
            crossings(grid[i], np.linalg.norm(rows[i][:, group], axis=(1, 2)), size**0.25 / 2)
            for i, (size, group) in enumerate(zip(distinct, groups_of(sizes), strict=True))
        ]
        times.append(found)
    expected = np.broadcast_to(np.array(distinct) ** -0.5, (3, len(distinct)))
    np.testing.assert_allclose(slopes(np.array(times)), expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.exact.origin_rates((3,)), "class_sizes has 1 class: give 2 or more"),
        (lambda: nc.exact.stage_times((5, 2, 1), -1.0), r"\(5, 2, 1\): give two classes of one"),
        (lambda: nc.exact.stage_times((5, 5, 1), 0.0), "log_norm = 0.0: give a number < 0"),
    ],
)
def test_what_has_no_stages_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
