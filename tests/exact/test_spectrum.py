"""Every eigenvalue of the Hessian at the collapsed minimum."""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from tolerances import rounding

import nc_jax as nc

KEY = jax.random.key(3)


def decayed(
    classes: int,
    size: int,
    dim: int,
    decays: tuple[float, ...],
    reduction: Literal["mean", "sum"] = "mean",
    *,
    bias: bool = False,
    loss: nc.losses.Loss = nc.CrossEntropy(),
):
    names = "classifier", "features", "bias"
    return nc.UnconstrainedFeatures(
        (size,) * classes, dim, loss=loss, reduction=reduction, bias=bias,
        weight_decay=nc.WeightDecay(**dict(zip(names, decays, strict=False))),
    )  # fmt: skip


def minimizer(problem):
    square = problem.loss.is_squared_error
    of = nc.exact.square_loss_minimizer if square else nc.exact.regularized_minimizer
    return of(problem, key=KEY)


@eqx.filter_jit
def second_derivatives(problem):
    """The matrix of second derivatives of the objective at the minimum, by autodiff."""
    flat, unravel = ravel_pytree(minimizer(problem))
    return jax.hessian(lambda v: problem.objective(unravel(v)))(flat)


def block_of(problem, hessian, part):
    """The whole matrix, or its block of W; numbers are in the order features, W, bias."""
    if part == "all":
        return hessian
    first = problem.num_samples * problem.feature_dim
    rows = slice(first, first + problem.num_classes * problem.feature_dim)
    return hessian[rows, rows]


spectrum_of = eqx.filter_jit(nc.exact.minimum_spectrum)


SQUARE = nc.SquaredError()
CASES = {
    # Sizes and λ of an independent computation, with its largest and its smallest eigenvalue > 0.
    "K=5 n=3 d=6": decayed(5, 3, 6, (2e-3, 3e-3)),
    "K=4 n=2 d=4": decayed(4, 2, 4, (5e-3, 2e-3)),
    "K=3 n=2 d=2": decayed(3, 2, 2, (0.01, 0.01)),
    "K=2, d = K-1": decayed(2, 3, 1, (0.02, 0.05)),
    "K=2, d > K": decayed(2, 1, 4, (0.02, 0.05)),
    "K=3, n=1": decayed(3, 1, 4, (0.02, 0.05)),
    "K=6, sum": decayed(6, 2, 5, (0.1, 0.3), "sum"),
    "near the threshold": decayed(4, 2, 3, (0.17, 0.17)),
    "bias": decayed(4, 2, 5, (5e-3, 2e-3, 0.03), bias=True),
    "free bias": decayed(5, 2, 4, (5e-3, 2e-3, 0.0), bias=True),
    "free bias, sum": decayed(3, 3, 2, (0.2, 0.1, 0.0), "sum", bias=True),
    "bias, K=2": decayed(2, 2, 2, (0.05, 0.02, 0.01), bias=True),
    "square": decayed(3, 2, 5, (0.02, 0.03), loss=SQUARE),
    "square, d = K": decayed(4, 3, 4, (0.02, 0.01), loss=SQUARE),
    "square, sum": decayed(2, 3, 3, (0.2, 0.5), "sum", loss=SQUARE),
    "square, bias": decayed(4, 2, 5, (0.02, 0.01, 0.0), bias=True, loss=SQUARE),
    "square, bias, sum, K=2": decayed(2, 3, 1, (0.2, 0.1, 0.0), "sum", bias=True, loss=SQUARE),
    "square, bias, K=3": decayed(3, 1, 2, (0.02, 0.01, 0.0), bias=True, loss=SQUARE),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_table_is_the_spectrum_of_the_matrix_of_second_derivatives(name):
    problem = CASES[name]
    hessian = np.asarray(second_derivatives(problem))
    for part in ("all", "classifier"):
        dense = np.linalg.eigvalsh(block_of(problem, hessian, part))
        spectrum = spectrum_of(problem, part=part)
        np.testing.assert_allclose(
            spectrum.eigenvalues, dense, rtol=0, atol=rounding(operations=1000) * dense.max()
        )
        assert all(count > 0 for count in spectrum.multiplicities)
        assert sum(spectrum.multiplicities) == len(dense)
    spectrum = spectrum_of(problem)
    # Rows that are 0 by symmetry are so to the last bit, and no others are.
    assert np.sum(np.asarray(spectrum.eigenvalues) == 0) == spectrum.nullity
    if problem.loss.is_cross_entropy:
        assert spectrum.nullity == nc.exact.minimum_nullity(problem)
    values = np.linalg.eigvalsh(hessian)
    np.testing.assert_allclose(spectrum.rate, values[values > 1e-9 * values[-1]][0], rtol=1e-9)


def test_beside_the_minimum_the_spectrum_is_another():
    problem = CASES["K=4 n=2 d=4"]
    state = jax.tree.map(lambda leaf: 1.01 * leaf, minimizer(problem))
    beside = np.linalg.eigvalsh(nc.landscape.dense_hessian(problem, state))
    assert np.abs(beside - spectrum_of(problem).eigenvalues).max() > 1e-3 * beside.max()


@pytest.mark.parametrize(
    ("name", "smallest", "largest"),
    [
        ("K=5 n=3 d=6", 0.002, 0.027008430738),
        ("K=4 n=2 d=4", 0.002, 0.038775807532),
        ("K=3 n=2 d=2", 0.01, 0.082205296974),
    ],
)
def test_the_ends_of_the_spectrum_are_those_of_an_independent_computation(name, smallest, largest):
    spectrum = spectrum_of(CASES[name])
    np.testing.assert_allclose(spectrum.rate, smallest, rtol=rounding())
    np.testing.assert_allclose(spectrum.eigenvalues[-1], largest, rtol=0, atol=1e-12)
    assert spectrum.nullity == nc.exact.minimum_nullity(CASES[name])


def test_outliers_of_the_classifier_are_those_of_an_independent_computation():
    problem = CASES["K=5 n=3 d=6"]
    spectrum = spectrum_of(problem, part="classifier")
    values = np.asarray(spectrum.values) - problem.weight_decay.classifier
    np.testing.assert_allclose(
        values, [0.010706081564, 0.008574106492, 0.002178181275, 0], rtol=0, atol=1e-12
    )
    assert spectrum.multiplicities == (1, 4, 11, 14)  # 1, K−1, K² − 3K + 1, Kd − (K−1)²


@pytest.mark.parametrize("decay", [1e-2, 1e-4, 1e-8])
def test_outliers_of_the_classifier_stand_out_by_the_number_of_classes(decay):
    # The ratio is 1 + (1 − τ)(K−1) of the largest, and tends to K as the decay vanishes.
    problem = decayed(6, 1, 5, (decay, decay))
    values = np.asarray(spectrum_of(problem, part="classifier").values) - decay
    threshold = 6 * decay
    np.testing.assert_allclose(values[0] / values[2], 1 + (1 - threshold) * 5, rtol=1e-6)
    np.testing.assert_allclose(values[1] / values[2], 1 + (1 - threshold) * 4, rtol=1e-6)


def test_the_square_loss_has_the_value_of_an_independent_computation():
    problem = decayed(3, 2, 5, (0.02, 0.03), loss=SQUARE)
    np.testing.assert_allclose(spectrum_of(problem).values[1], 0.047750891557, rtol=0, atol=1e-12)


def test_the_spectrum_of_32_640_numbers_is_that_of_lanczos_and_of_the_density():
    problem = decayed(10, 50, 64, (2e-3, 3e-3))
    state, spectrum = minimizer(problem), spectrum_of(problem)
    values, counts = np.asarray(spectrum.values), np.array(spectrum.multiplicities)
    assert counts.sum() == 32_640
    largest = nc.landscape.extreme_eigenpairs(problem, state, num=3, end="largest")
    assert largest.converged
    np.testing.assert_allclose(largest.values, spectrum.eigenvalues[-3:][::-1], rtol=1e-8)
    found = nc.landscape.classify(problem, state)
    assert found.kind == "minimum"
    assert found.symmetries == spectrum.nullity == nc.exact.minimum_nullity(problem)
    np.testing.assert_allclose(found.eigenvalue, spectrum.rate, rtol=1e-6)
    density = nc.landscape.spectral_density(
        problem, state, KEY, num_probes=16, num_steps=40, num_points=3
    )
    # The Krylov space of a probe has one vector for each different eigenvalue: its nodes are these.
    nodes, weights = np.asarray(density.nodes), np.asarray(density.weights)
    distance = np.abs(nodes[:, :, None] - values)
    assert np.max(np.where(weights > 1e-12, distance.min(axis=2), 0)) < 1e-7 * values.max()
    for value in np.unique(values.round(12)):
        share = counts[np.abs(values - value) < 1e-9].sum() / counts.sum()
        weight = np.sum(np.where(np.abs(nodes - value) < 1e-8, weights, 0), axis=1)
        # Of a share p a random vector of n numbers has p ± √(2p(1−p)/n).
        error = math.sqrt(2 * share * (1 - share) / counts.sum() / len(weight))
        assert abs(weight.mean() - share) < 4 * error
    total = np.sum(values * counts)
    assert abs(density.trace - total) < 4 * density.trace_error


@pytest.mark.parametrize("name", ["K=4 n=2 d=4", "free bias", "square", "K=2, d > K"])
def test_classification_counts_what_the_table_has(name):
    problem = CASES[name]
    found = nc.landscape.classify(problem, minimizer(problem))
    spectrum = spectrum_of(problem)
    assert found.kind == "minimum"
    assert (int(found.index), int(found.nullity)) == (0, spectrum.nullity)
    np.testing.assert_allclose(found.eigenvalue, spectrum.rate, rtol=1e-8)
    np.testing.assert_allclose(found.scale, spectrum.eigenvalues[-1], rtol=1e-8)


def slopes_of_the_gradient(problem, start, times):
    """Slopes of −log ‖∇L‖ in t along a flow, between the times."""

    def observe(state):
        return {"norm": jnp.linalg.norm(ravel_pytree(problem.gradient(state))[0])}

    traj = nc.gradient_flow(
        problem, start, times, clock=nc.RealTime(), rtol=1e-10, atol=1e-14, observe=observe
    )
    return -np.diff(np.log(traj.observables["norm"])) / np.diff(times)


# The decay of a sum of classifiers is slowest, or that of a shift of features.
@pytest.mark.parametrize("decays", [(0.05, 0.08), (0.09, 0.04)])
def test_a_flow_reaches_the_minimum_at_the_rate_of_the_table(decays):
    problem = decayed(3, 2, 3, decays)
    rate = float(spectrum_of(problem).rate)
    assert rate == min(decays)
    slopes = slopes_of_the_gradient(problem, problem.init(KEY), np.linspace(8, 12, 3) / rate)
    np.testing.assert_allclose(slopes, rate, rtol=1e-3)


def at_share_of_the_threshold(share, classes=4, size=2, dim=3):
    # τ = K√n λ of the mean loss.
    decay = share / (classes * math.sqrt(size))
    return decayed(classes, size, dim, (decay, decay))


def test_near_the_threshold_a_flow_slows_down_as_the_table_says():
    problem = at_share_of_the_threshold(0.97)
    spectrum = spectrum_of(problem)
    rate = float(spectrum.rate)
    assert rate < 0.1 * problem.weight_decay.classifier
    state = minimizer(problem)
    slowest = nc.landscape.classify(problem, state).eigenvector
    start = jax.tree.map(lambda x, v: x + 1e-5 * v, state, slowest)
    slopes = slopes_of_the_gradient(problem, start, np.linspace(0, 4, 3) / rate)
    np.testing.assert_allclose(slopes, rate, rtol=1e-3)


def test_the_rate_vanishes_at_the_threshold_and_the_table_ends_there():
    # √(λ_W λ_H) is the rate at which τ changes; the ratio to it falls to 0 linearly.
    rates = [float(spectrum_of(at_share_of_the_threshold(1 - gap)).rate) for gap in (1e-2, 1e-3)]
    np.testing.assert_allclose(rates[0] / rates[1], 10, rtol=0.05)
    with pytest.raises(ValueError, match="below 1 there are critical points"):
        nc.exact.minimum_spectrum(at_share_of_the_threshold(1.03))
    # There the minimum is the origin, whose smallest eigenvalue is above 0.
    values, _ = nc.exact.origin_eigenvalues(at_share_of_the_threshold(1.03))
    assert values[0] > 0
    assert nc.exact.origin_eigenvalues(at_share_of_the_threshold(0.97))[0][0] < 0


def test_the_spectrum_follows_a_traced_decay():
    def values(decay):
        problem = nc.zhu(3, 4, 2, nc.WeightDecay(classifier=decay, features=decay, bias=decay))
        spectrum = nc.exact.minimum_spectrum(problem)
        return spectrum.values, spectrum.rate

    decays = jnp.array([1e-3, 1e-2, 0.2, 0.3])
    found, rates = jax.jit(jax.vmap(values))(decays)
    for decay, row, rate in zip(decays[:3], found, rates, strict=False):
        expected, slowest = values(float(decay))
        np.testing.assert_allclose(row, expected, rtol=1e-9)
        np.testing.assert_allclose(rate, slowest, rtol=1e-9)
    # √2·3·λ >= 1 from λ = 0.236 on: there is no collapsed minimum.
    assert np.all(np.isnan(found[3][:2]))
    slope = jax.grad(lambda decay: values(decay)[0][0])(0.01)
    near = [float(values(0.01 + step)[0][0]) for step in (-1e-5, 1e-5)]
    np.testing.assert_allclose(slope, (near[1] - near[0]) / 2e-5, rtol=1e-6)


def test_float32_decays_give_a_float32_spectrum():
    decay = jnp.asarray(5e-3, "float32")
    problem = nc.zhu(3, 4, 2, nc.WeightDecay(classifier=decay, features=decay, bias=decay))
    values = nc.exact.minimum_spectrum(problem).values
    assert values.dtype == np.float32
    expected = nc.exact.minimum_spectrum(nc.zhu(3, 4, 2, 5e-3)).values
    np.testing.assert_allclose(values, expected, rtol=0, atol=rounding("float32"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.exact.minimum_spectrum(nc.ulpm(3, 4, 1)), "weight decay classifier = 0"),
        (lambda: nc.exact.minimum_spectrum(nc.zhu(4, 2, 1, 5e-3)), "feature_dim = 2: .* 3 dim"),
        (
            lambda: nc.exact.minimum_spectrum(decayed(4, 2, 3, (0.02, 0.01), loss=SQUARE)),
            "feature_dim = 3: .* 4 dim",
        ),
        (
            lambda: nc.exact.minimum_spectrum(
                decayed(3, 2, 3, (0.02, 0.01, 0.1), bias=True, loss=SQUARE)
            ),
            "weight decay bias = 0.1: the closed form is for a free one",
        ),
        (
            lambda: nc.exact.minimum_spectrum(decayed(3, 2, 3, (0.9, 0.9), loss=SQUARE)),
            "below 1 there are critical points",
        ),
    ],
)
def test_what_the_table_does_not_cover_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
