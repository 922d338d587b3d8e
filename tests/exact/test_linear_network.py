"""The normalised flow of a linear network of two layers."""

import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
from exact.linear_nets import SAMPLE, antipodal, norm_of, output_of
from jax.flatten_util import ravel_pytree
from tolerances import integration, rounding

import nc_jax as nc

KEY = jax.random.key(6)


def nothing(state):
    return {}


def flow(problem, start, times, rtol=1e-11):
    """States at the times, each the end of its own run: between steps Dopri8 interpolates."""
    ends = [
        nc.gradient_flow(
            problem,
            start,
            np.array([time]),
            clock=nc.RealTime(),
            solver=diffrax.Dopri8(),
            rtol=rtol,
            atol=rtol / 100,
            observe=nothing,
            save_states=True,
        ).states
        for time in times
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *ends)


LINEAR = antipodal()


# Starts with f > 0 and f < 0, from below and from above interpolation.
STARTS = {"below": (1, 0.1), "negative output": (7, 1.0), "above": (8, 4.0)}


PATH = eqx.filter_jit(nc.exact.linear_path)


LIMIT = eqx.filter_jit(nc.exact.linear_limit)


TIME = eqx.filter_jit(nc.exact.linear_time)


def start_of(name):
    seed, norm = STARTS[name]
    return LINEAR.init(jax.random.key(seed), norm)


def test_the_outputs_of_the_starts_agree_with_their_names():
    outputs = {name: float(output_of(start_of(name))) for name in STARTS}
    assert 0 < outputs["below"] < 1 / 0.1
    assert outputs["negative output"] < 0
    assert outputs["above"] > 1 / 4.0


@jax.jit
def rates(start, share, limit):
    """The velocity in s of the path at a share of the way, and that of the problem."""

    def path(s):
        return nc.exact.linear_path(start, SAMPLE, s)

    state, rate = jax.jvp(path, (share * limit,), (jnp.ones_like(limit),))
    norm = norm_of(state)
    speed = 1 / (2 * norm * (1 - norm * output_of(state)))
    return ravel_pytree(rate)[0], speed * ravel_pytree(LINEAR.scaled_descent(state, 0.0))[0]


@pytest.mark.parametrize("name", STARTS)
def test_the_linear_path_solves_the_flow(name):
    start = start_of(name)
    shares = jnp.array([0.0, 0.2, 0.7, 0.95])
    limit = LIMIT(start, SAMPLE)
    for share in shares:
        rate, expected = rates(start, share, limit)
        tolerance = rounding() * np.abs(expected).max() / (1 - share)
        np.testing.assert_allclose(rate, expected, rtol=0, atol=tolerance)
    first = jax.tree.map(lambda leaf: leaf[0], PATH(start, SAMPLE, shares * limit))
    np.testing.assert_allclose(
        ravel_pytree(first)[0], ravel_pytree(start)[0], rtol=0, atol=rounding()
    )


@pytest.mark.parametrize("name", STARTS)
def test_the_flow_of_the_problem_is_on_the_linear_path(name):
    start = start_of(name)
    limit = LIMIT(start, SAMPLE)
    progress = jnp.array([0.1, 0.4, 0.8, 0.99]) * limit
    times = TIME(start, SAMPLE, progress)
    states = flow(LINEAR, start, times)
    expected = PATH(start, SAMPLE, progress)
    for leaf, exact in zip(jax.tree.leaves(states), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, exact, rtol=0, atol=integration(1e-11))


@pytest.mark.parametrize("name", STARTS)
def test_the_linear_time_is_the_integral(name):
    start = start_of(name)
    limit = LIMIT(start, SAMPLE)
    growing = (np.asarray(start.matrices[1][0]) + start.matrices[0] @ SAMPLE) / 2
    fading = (np.asarray(start.matrices[1][0]) - start.matrices[0] @ SAMPLE) / 2
    growing, fading, first = np.asarray(growing), np.asarray(fading), float(norm_of(start))

    def integrand(s):
        b, p = (np.exp(s) * growing + sign * np.exp(-s) * fading for sign in (1, -1))
        norm = math.sqrt(first**2 + math.log(b @ b))
        return 1 / (2 * norm * (1 - norm * (b @ p) / (b @ b)))

    for share in (0.3, 0.99):
        expected, _ = scipy.integrate.quad(
            integrand, 0, share * float(limit), epsabs=0, epsrel=1e-12, limit=200
        )
        found = TIME(start, SAMPLE, share * limit)
        np.testing.assert_allclose(found, expected, rtol=rounding() / (1 - share))
    assert TIME(start, SAMPLE, limit) == np.inf


def test_without_decay_the_norm_at_the_end_depends_on_the_start():
    directions = LINEAR.init(jax.random.key(1), 1.0).matrices

    def end(norm):
        start = nc.Layers(directions, norm[None])
        state = nc.exact.linear_path(start, SAMPLE, nc.exact.linear_limit(start, SAMPLE))
        return norm_of(state), output_of(state)

    end_and_slope = jax.jit(lambda norm: jax.jvp(end, (norm,), (jnp.ones(()),)))
    norms = []
    for first in (0.01, 1.0, 3.0, 10.0):
        (norm, output), (slope, _) = end_and_slope(jnp.asarray(first))
        np.testing.assert_allclose(norm * output, 1, rtol=rounding())
        norms.append(float(norm))
        step = 1e-4 * first
        above, below = (end_and_slope(jnp.asarray(first + x))[0][0] for x in (step, -step))
        # Central differences: of second order in the step, and divided by it.
        np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=1e-6)
    assert np.all(np.diff(norms) > 0.1)
    # A long run of the problem ends there.
    start = nc.Layers(directions, jnp.array([1.0]))
    last = flow(LINEAR, start, [20.0])
    np.testing.assert_allclose(norm_of(last)[0], norms[1], rtol=integration(1e-11))


def test_an_aligned_start_needs_its_norm_alone():
    # f = 1 throughout: ρ² = ρ₀² + 2s and ρ = 1 at rest, also from far above.
    unit, axis = jnp.eye(4)[0], jnp.eye(3)[0]
    for norm in (0.2, 3.0, 30.0):
        start = nc.Layers((jnp.outer(unit, axis), unit[None]), jnp.array([norm]))
        limit = LIMIT(start, axis)
        np.testing.assert_allclose(limit, (1 - norm**2) / 2, rtol=rounding())
        half = 0.5 * limit
        middle = PATH(start, axis, half)
        np.testing.assert_allclose(norm_of(middle), math.sqrt(norm**2 + 2 * half), rtol=rounding())
        # ρ' = 2(1 − ρ).
        time = TIME(start, axis, half)
        expected = nc.exact.normalized_norm(
            time, start=norm, mean_margin=1.0, second_moment=1.0, decay=0.0
        )
        np.testing.assert_allclose(norm_of(middle), expected, rtol=rounding())


def test_a_norm_that_falls_to_0_first_is_nan_under_a_trace():
    start = nc.Layers(start_of("negative output").matrices, jnp.array([0.1]))
    assert jnp.isnan(LIMIT(start, SAMPLE))
    with pytest.raises(ValueError, match=r"start: norm 0.1 falls to 0"):
        nc.exact.linear_limit(start, SAMPLE)


START = LINEAR.init(KEY)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.exact.linear_limit(START, 0.5 * SAMPLE), "sample has norm 0.5: scale it"),
        (lambda: nc.exact.linear_limit(START, SAMPLE[:2]), "sample has 2 entries .* reads 3"),
        (
            lambda: nc.exact.linear_limit(nc.Layers(START.matrices), SAMPLE),
            "start has matrices of shapes .* norms None: give one norm",
        ),
        (
            lambda: nc.exact.linear_limit(
                nc.Layers((2 * START.matrices[0], START.matrices[1]), START.norms), SAMPLE
            ),
            "start: V_1 has norm 2: scale it to 1",
        ),
    ],
)
def test_what_has_no_closed_form_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
