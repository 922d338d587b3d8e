"""The minimum of the square loss with m factors against printed digits and independent descents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from exact import deep_search
from tolerances import integration, rounding

import nc_jax as nc

KEY = jax.random.key(5)


def deep(sizes, widths, decay, **options):
    return nc.DeepUnconstrainedFeatures(
        sizes, widths, loss=nc.SquaredError(), weight_decay=decay, **options
    )


def modes_of(problem, **options):
    state = nc.exact.deep_square_minimizer(problem, **options)
    first = np.cumsum([0, *problem.class_sizes[:-1]])
    return np.diag(np.asarray(state.logits())[first]) * np.sqrt(problem.class_sizes), state


@pytest.mark.parametrize(
    ("decay", "value", "modes"),
    [
        ((0.02, 0.03, 0.025), 0.1502918764, [2.26160501, 1.51743568, 0.72554175]),
        ((0.02, 0.03, 0.025, 0.02), 0.1756677604, [2.29500393, 1.54368551, 0.72517292]),
    ],
)
def test_references_with_decays_that_differ(decay, value, modes):
    problem = deep((6, 3, 1), (4, 5, 4)[: len(decay) - 1], decay)
    found, state = modes_of(problem)
    np.testing.assert_allclose(found, modes, rtol=0, atol=5.1e-9)
    minimum = nc.exact.deep_square_minimum(problem)
    np.testing.assert_allclose(minimum, value, rtol=0, atol=5.1e-11)
    np.testing.assert_allclose(problem.objective(state), minimum, rtol=rounding())
    largest = max(float(jnp.abs(leaf).max()) for leaf in problem.gradient(state).factors())
    assert largest < rounding()


def test_two_factors_have_the_minimum_of_the_imbalanced_square_loss():
    sizes, decays = (8, 4, 2, 1), (0.013, 0.01)
    flat = nc.UnconstrainedFeatures(
        sizes, 2, loss=nc.SquaredError(),
        weight_decay=nc.WeightDecay(features=decays[0], classifier=decays[1]),
    )  # fmt: skip
    found = nc.exact.deep_square_minimum(deep(sizes, (2,), decays))
    np.testing.assert_allclose(found, nc.exact.imbalanced_square_minimum(flat), rtol=rounding())


@pytest.mark.parametrize(
    ("sizes", "widths", "decay"),
    [
        ((6, 3, 1), (4, 4), (0.02, 0.03, 0.025)),
        ((5, 5, 2, 1), (4, 2), (0.03, 0.02, 0.02)),
        ((3, 2), (3, 2, 4), (0.04,) * 4),
        ((4, 1), (2, 3), (0.1,) * 3),
    ],
)
def test_no_independent_descent_ends_below_the_minimum_and_one_reaches_it(sizes, widths, decay):
    value = float(nc.exact.deep_square_minimum(deep(sizes, widths, decay)))
    starts = deep_search.gaussian_starts(sizes, widths, range(6), 0.8)
    found = deep_search.descents(sizes, widths, decay, deep_search.square_loss, starts=starts)
    assert np.all(found > value - 1e-9)
    np.testing.assert_allclose(np.min(found), value, atol=1e-8)


def test_thresholds_are_those_of_an_independent_computation():
    found = [float(nc.exact.deep_square_threshold(1.7, m)) for m in (2, 3, 4, 5)]
    np.testing.assert_allclose(found, [1.7, 0.80517800, 0.60326273, 0.49169415], atol=5.1e-9)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_class_dies_at_the_threshold_by_a_jump(depth):
    sizes, total = (7, 3), 10
    for k, size in enumerate(sizes):
        least = float(nc.exact.deep_square_threshold(np.sqrt(size), depth)) / total
        alive, dead = (
            modes_of(deep(sizes, (3,) * (depth - 1), share * least))[0][k] for share in (0.97, 1.03)
        )
        jump = np.sqrt(size) * (depth - 2) / (depth - 1)
        assert alive > max(jump, 0.02)
        assert dead == 0
    # Independent: the least of the scalar objective over a fine grid.
    z = np.linspace(0, 3, 300_001)
    for share in (0.97, 1.03):
        decay = share * float(nc.exact.deep_square_threshold(np.sqrt(7), depth)) / total
        scalar = (z - np.sqrt(7)) ** 2 / 2 / total + depth / 2 * decay * z ** (2 / depth)
        best = z[np.argmin(scalar)]
        found = modes_of(deep(sizes, (3,) * (depth - 1), decay))[0][0]
        np.testing.assert_allclose(found, best, atol=2e-5)


def test_starts_beside_the_edge_of_the_basin_end_at_zero_and_at_the_minimum():
    sizes, decay, widths = (6, 2), 0.04, (3, 4)
    problem = deep(sizes, widths, decay)
    edges = np.asarray(nc.exact.deep_square_basin(problem))
    modes, _ = modes_of(problem)
    flow = nc.Flow(problem, np.array([4000.0]), clock=nc.RealTime(), rtol=1e-8, atol=1e-10)
    for share in (0.97, 1.03):
        start = nc.exact.factored_state(np.diag(share * edges / np.sqrt(sizes)), sizes, widths)
        ends = np.linalg.svd(flow(start).final.logits(), compute_uv=False)
        expected = modes if share > 1 else 0 * modes
        np.testing.assert_allclose(ends, expected, atol=1e-6)
    at_edge = nc.exact.factored_state(np.diag(edges / np.sqrt(sizes)), sizes, widths)
    slope = problem.gradient(at_edge).factors()
    assert max(float(jnp.abs(factor).max()) for factor in slope) < integration(1e-12)


def test_the_origin_is_a_strict_minimum_with_three_factors():
    problem = deep((2, 1), (2, 2), (0.1, 0.2, 0.3))
    origin = jax.tree.map(jnp.zeros_like, problem.init(KEY))
    values = np.linalg.eigvalsh(nc.landscape.dense_hessian(problem, origin))
    np.testing.assert_allclose(np.unique(values.round(12)), [0.1, 0.2, 0.3])


# L = 4 layers on free features are five factors.
RELU = {
    ((2, 2), 3): (0.01, 0.0472819957),
    ((2, 2, 2), 3): (0.005, 0.0355156695),
    ((1, 1, 1, 1), 4): (0.003, 0.0299274744),
}


@pytest.mark.parametrize(("case", "printed"), RELU.items())
def test_collapse_is_a_state_of_a_relu_net_with_the_value_of_the_linear_net(case, printed):
    (sizes, layers), (decay, value) = case, printed
    widths = (12,) * layers
    linear = deep(sizes, widths, decay)
    state = nc.exact.deep_square_minimizer(linear)
    np.testing.assert_allclose(nc.exact.deep_square_minimum(linear), value, rtol=0, atol=5.1e-11)
    relu = deep(sizes, widths, decay, activation=jax.nn.relu)
    np.testing.assert_allclose(relu.objective(state), value, rtol=0, atol=5.1e-11)
    with pytest.raises(ValueError, match="without an activation"):
        nc.exact.deep_square_minimum(relu)


@pytest.mark.slow
def test_a_relu_net_of_four_layers_has_values_below_collapse():
    sizes, narrow, wide = (1, 1, 1, 1), (3, 6, 6, 6), (12,) * 4
    collapse = float(nc.exact.deep_square_minimum(deep(sizes, wide, 0.003)))
    # Gaussian starts of width 12 nearly always end in collapse. Narrow nets and nonnegative starts
    # find lower states, which are states of wide nets too, with units that are 0.
    starts = [np.abs(x) for x in deep_search.gaussian_starts(sizes, narrow, (4, 5), 0.6)]
    options = {"maxiter": 1500, "ftol": 1e-12}
    runs = [
        scipy.optimize.minimize(
            deep_search.objective, x, (sizes, narrow, (0.003,) * 5, deep_search.square_loss, True),
            jac=True, method="L-BFGS-B", options=options,
        )
        for x in starts
    ]  # fmt: skip
    best = min(runs, key=lambda run: run.fun)
    features, *weights = deep_search.split(best.x, deep_search.shapes_of(sizes, narrow))
    ends = (*wide, 4)
    shapes = [(4, 12), *zip(ends[1:], ends, strict=False)]
    padded = [
        jnp.asarray(np.pad(f, [(0, n - m) for n, m in zip(shape, f.shape, strict=True)]))
        for f, shape in zip([features, *weights], shapes, strict=True)
    ]
    relu = deep(sizes, wide, 0.003, activation=jax.nn.relu)
    value = float(relu.objective(nc.DeepFeatures(padded[0], tuple(padded[1:]))))
    np.testing.assert_allclose(value, best.fun, rtol=rounding())
    assert value < collapse - 4e-4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.exact.deep_square_threshold(0.0, 3), "target = 0"),
        (lambda: nc.exact.deep_square_threshold(1.0, 1), "depth = 1"),
        (lambda: nc.exact.deep_square_minimum(deep((2, 1), (3, 3), 0.0)), r"weight_decay\[0\] = 0"),
        (
            lambda: nc.exact.deep_square_minimum(
                nc.DeepUnconstrainedFeatures((2, 1), (3, 3), weight_decay=0.1)
            ),
            "CrossEntropy",
        ),
        (
            lambda: nc.exact.deep_square_basin(deep((2, 1), (3, 3), (0.1, 0.1, 0.2))),
            "one number for all factors",
        ),
    ],
)
def test_what_has_no_closed_form_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
