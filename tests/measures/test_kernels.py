"""Kernel energies where their terms underflow, and their limits in the exponent."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from measures.definitions import DIGITS, Definitions, chord, mean, measured, variance
from tolerances import rounding

from nc_jax.geometry import simplex_etf
from nc_jax.measures import MEASURES, Statistics
from nc_jax.metrics import riesz_distance, riesz_log_energy, riesz_variation

EXPONENTS = [-2.0, -0.5, 1e-3, 1.0, 2.0, 510.0, 1e4]


def class_means(num_classes, dim, seed=0):
    return np.random.default_rng([seed, dim]).normal(size=(num_classes, dim))


def exact_chords(means):
    labels = np.arange(len(means))
    centered = Definitions(means, labels, means, np.zeros(len(means))).m
    return [chord(centered[c], centered[k]) for c in labels for k in labels[:c]]


@pytest.mark.parametrize("dim", [512, 4096])
def test_energies_in_many_dimensions(dim):
    means = class_means(4, dim)
    found = measured(means, np.arange(4), names=["wu_riesz_log_energy", "wu_riesz_variation"])
    with mp.workdps(DIGITS):
        powers = [x ** (2 - dim) for x in exact_chords(means)]
        expected = {
            "wu_riesz_log_energy": mp.log(mean(powers)),
            "wu_riesz_variation": mp.sqrt(variance(powers)) / mean(powers),
        }
    # The plain mean is 0 in float32, and for d = 4096 in float64, as for any arrangement.
    dtype = np.float32 if dim == 512 else np.float64
    assert not np.mean(np.array([float(x) for x in exact_chords(means)], dtype) ** (2 - dim))
    # Rounding errors of log δ grow by the factor d − 2.
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], float(value), rtol=rounding(operations=dim))


def test_energies_in_many_dimensions_in_float32():
    means = class_means(4, 512)
    names = ("wu_riesz_log_energy", "wu_riesz_variation", "liu_log_energy")
    expected = measured(means, np.arange(4), names=names)

    @jax.jit
    def energies(means):
        s = Statistics(jnp.ones(4), jnp.zeros(512), means, jnp.zeros(4))
        return {name: MEASURES[name].compute(s) for name in names}

    found = energies(jnp.asarray(means, jnp.float32))
    for name in names:
        tolerance = rounding("float32", operations=512)
        np.testing.assert_allclose(found[name], expected[name], rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("name", ["wu_riesz_log_energy", "wu_riesz_variation"])
def test_energies_in_many_dimensions_have_gradients(name):
    # Near a simplex, where every pair has a share in the energy.
    means = np.asarray(simplex_etf(4, 4096)) + 1e-4 * class_means(4, 4096)
    change = class_means(4, 4096, seed=1)

    @jax.jit
    def energy(means):
        s = Statistics(jnp.ones(4), jnp.zeros(4096), means, jnp.zeros(4))
        return MEASURES[name].compute(s)

    step = 3e-8
    numeric = (energy(means + step * change) - energy(means - step * change)) / (2 * step)
    slope = np.vdot(jax.grad(energy)(jnp.asarray(means)), change)
    # A central difference has two thirds of the digits, and s log δ is a number of size 1e3.
    np.testing.assert_allclose(slope, numeric, rtol=np.cbrt(rounding()))


@pytest.mark.parametrize("s", EXPONENTS)
def test_riesz_kernels_are_their_definitions(s):
    means = class_means(5, 3)
    measures = riesz_log_energy(s), riesz_distance(s), riesz_variation(s)
    found = list(measured(means, np.arange(5), names=measures).values())
    with mp.workdps(DIGITS):
        powers = [x ** mp.mpf(-s) for x in exact_chords(means)]
        expected = [
            mp.log(mean(powers)),
            mean(powers) ** (-1 / mp.mpf(s)),
            mp.sqrt(variance(powers)) / mean(powers),
        ]
    tolerance = rounding(operations=int(300 * max(abs(s), 1 / abs(s))))
    np.testing.assert_allclose(found, [float(x) for x in expected], rtol=tolerance)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1e3))
def test_distances_of_equal_energy_fall_with_the_exponent(seed, s):
    names = ["feature_distance_min", riesz_distance(2 * s), riesz_distance(s), "liu_log_energy"]
    names += [riesz_distance(-s)]
    found = measured(class_means(6, 3, seed), np.arange(6), names=names)
    least, higher, lower, log_energy, negative = found.values()
    geometric = np.exp(-log_energy)
    slack = 1 + rounding(operations=1000)
    assert least <= higher * slack
    assert higher <= lower * slack
    assert lower <= geometric * slack
    assert geometric <= negative * slack
    assert negative <= 2 * slack


def test_a_large_exponent_gives_the_least_distance():
    names = ["feature_distance_min", riesz_distance(1e6)]
    found = measured(class_means(6, 3), np.arange(6), names=names)
    least, limit = found.values()
    # The mean over 15 pairs is between the largest term and a 15th of it.
    np.testing.assert_allclose(limit, least, rtol=2 * np.log(15) / 1e6)


def test_class_means_in_one_direction_have_infinite_energy():
    means = np.array([[1.0, 0.0], [2.0, 0.0], [-3.0, 0.0]])
    names = ["liu_log_energy", riesz_log_energy(2), riesz_distance(2), "feature_distance_min"]
    found = measured(means, np.arange(3), names=names)
    assert list(found.values()) == [np.inf, np.inf, 0, 0]


@pytest.mark.parametrize("family", [riesz_log_energy, riesz_distance, riesz_variation])
@pytest.mark.parametrize("s", [0, 0.0, np.inf, np.nan])
def test_an_exponent_is_a_finite_number_but_zero(family, s):
    with pytest.raises(ValueError, match=r"^s .*give a (finite )?number"):
        family(s)
