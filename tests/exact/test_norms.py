"""Norms and margins of the square loss in closed form."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
from exact.linear_nets import SAMPLE, antipodal, identity, norm_of, output_of
from hypothesis import given, strategies as st
from jax.flatten_util import ravel_pytree
from tolerances import rounding

import nc_jax as nc


@jax.jit
def logistic(time, start, alignment, second_moment):
    """ρ and ρ' at the time, and ρ at the start and long after."""

    def norm(t):
        return nc.exact.logistic_norm(
            t, start=start, alignment=alignment, second_moment=second_moment
        )

    return *jax.jvp(norm, (time,), (jnp.ones(()),)), norm(0 * time), norm(1e300 + time)


@given(
    start=st.floats(1e-3, 10), alignment=st.floats(0.1, 10), second_moment=st.floats(0.1, 10),
    time=st.floats(0, 100),
)  # fmt: skip
def test_the_logistic_norm_solves_equation_51(start, alignment, second_moment, time):
    value, rate, first, last = logistic(time, start, alignment, second_moment)
    expected = 4 * value * (alignment - second_moment * value)
    # Both terms of the right side cancel at the limit, and e^(−4At) rounds 4At.
    assert abs(rate - expected) < rounding() * 4 * value * (alignment + second_moment * value)
    assert first == pytest.approx(start, rel=rounding())
    limit = alignment / second_moment
    assert min(start, limit) <= value * (1 + rounding())
    assert value <= max(start, limit) * (1 + rounding())
    assert last == pytest.approx(limit, rel=rounding())


@pytest.mark.parametrize("layers", range(1, 7))
def test_the_time_to_a_norm_is_the_integral_of_equation_51(layers):
    norm_time = jax.jit(nc.exact.norm_time, static_argnames="num_layers")
    for start, alignment, second in ((0.05, 2.0, 1.5), (1.5, 1.0, 2.0)):
        limit = alignment / second
        norms = start + (limit - start) * np.array([-0.02, 0.0, 0.02, 0.5, 0.99])

        def speed(rho, alignment=alignment, second=second):
            return 2 * layers * rho ** (2 - 2 / layers) * (alignment - second * rho)

        def elapsed(norm, start=start, speed=speed):
            return scipy.integrate.quad(
                lambda rho: 1 / speed(rho), start, norm, epsabs=0, epsrel=1e-12, limit=200
            )[0]

        *times, at_limit, beyond = norm_time(
            np.append(norms, [limit, 1.1 * limit - 0.1 * start]),
            start=start,
            alignment=alignment,
            second_moment=second,
            num_layers=layers,
        )
        # Terms of size u^(2−L)/A are subtracted, u the smaller of the ends.
        size = min(start, limit) ** (min(2 - layers, 0) / layers) / alignment
        expected = [elapsed(norm) for norm in norms]
        np.testing.assert_allclose(times, expected, rtol=rounding(), atol=rounding() * size)
        assert at_limit == np.inf
        assert np.isnan(beyond)
        if layers == 2:
            again = nc.exact.logistic_norm(
                jnp.stack(times[1:]), start=start, alignment=alignment, second_moment=second
            )
            np.testing.assert_allclose(again, norms[1:], rtol=rounding())


@pytest.mark.parametrize("layers", [1, 4])
def test_the_norm_of_a_deep_linear_net_moves_at_the_speed_of_norm_time(layers):
    # One unit a layer: f̄ = 0.5 whatever the weights, A = 2 · 0.5 and B = 2 · 0.25.
    problem = nc.NormalizedReLUNet(
        np.array([[0.5], [-0.5]]), np.array([1.0, -1.0]), (1,) * (layers - 1),
        parametrization=nc.problems.relu.Cartesian(),
        reduction="sum", activation=identity,
    )  # fmt: skip

    @jax.jit
    def both(norm):
        weight = norm ** (1 / layers)
        state = nc.Layers((jnp.full((1, 1), weight),) * layers)
        speeds = jnp.stack(problem.scaled_descent(state, 0.0).matrices)
        seconds = jax.jvp(
            lambda norm: nc.exact.norm_time(
                norm, start=0.1, alignment=1.0, second_moment=0.5, num_layers=layers
            ),
            (norm,),
            (jnp.ones(()),),
        )[1]
        return norm / weight * jnp.sum(speeds), 1 / seconds

    for norm in (0.1, 0.3, 1.9):
        found, expected = both(jnp.asarray(norm))
        np.testing.assert_allclose(found, expected, rtol=rounding())


def test_a_normalised_net_relaxes_with_its_decay():
    # The norm equation of the problem itself, for margins of either sign.
    problem = antipodal(weight_decay=0.3)

    @jax.jit
    def both(state, time):
        margin = output_of(state)

        def norm_at(t):
            return nc.exact.normalized_norm(
                t, start=norm_of(state), mean_margin=margin, second_moment=margin**2, decay=0.3
            )

        norm, rate = jax.jvp(norm_at, (time,), (jnp.ones(()),))
        return norm, rate, problem.scaled_descent(nc.Layers(state.matrices, norm[None]), 0.0)

    for seed in (7, 8):
        norm, rate, field = both(problem.init(jax.random.key(seed), 0.7), jnp.zeros(()))
        np.testing.assert_allclose(norm, 0.7, rtol=rounding())
        np.testing.assert_allclose(norm_of(field), rate, rtol=rounding())
    # An aligned net, f = 1, stays so, and is at every time where the closed form has it.
    unit = jnp.array([0.6, 0.0, 0.0, -0.8])
    start = nc.Layers((jnp.outer(unit, jnp.asarray(SAMPLE)), unit[None]), jnp.array([3.0]))
    for time in (0.0, 0.5, 2.0, 20.0):
        norm, rate, field = both(start, jnp.asarray(time))
        assert abs(norm_of(field) - rate) < rounding()
        assert jnp.abs(ravel_pytree(field.matrices)[0]).max() < rounding()
    np.testing.assert_allclose(norm, 1 / 1.3, rtol=rounding())


@given(
    smallest=st.floats(0.5, 10), decay=st.floats(1e-3, 1), samples=st.integers(2, 20),
    data=st.data(), reduction=st.sampled_from(["mean", "sum"]),
)  # fmt: skip
def test_lemma_2_is_the_minimum_over_the_norm(smallest, decay, samples, data, reduction):
    stuck = data.draw(st.integers(1, samples))
    found = nc.exact.stuck_margins(smallest, decay, samples, stuck, reduction=reduction)
    scale = 1 / samples if reduction == "mean" else 1.0

    def loss(rho):
        margins = np.where(np.arange(samples) < stuck, 1 / smallest, 1 / rho)
        return scale * np.sum((1 - rho * margins) ** 2) + decay * rho**2

    place, least, *_ = scipy.optimize.brent(
        loss, brack=(0.1 * smallest, 0.9 * smallest), tol=1e-12, full_output=True
    )
    np.testing.assert_allclose(found.objective, least, rtol=rounding())
    # A minimum is flat: its place is known to the square root of the rounding.
    np.testing.assert_allclose(found.norm, place, rtol=10 * math.sqrt(rounding(operations=1)))
    np.testing.assert_allclose(found.gap, 1 - found.norm / smallest, rtol=0, atol=rounding())
    apart = 1 / found.norm - 1 / smallest if stuck < samples else 0.0
    # 1/ρ may be far above 1/ρ₀.
    np.testing.assert_allclose(found.margin_difference, apart, rtol=0, atol=rounding() / place)
    if stuck < samples:
        equal = nc.exact.stuck_margins(smallest, decay, samples, samples, reduction=reduction)
        assert found.objective < equal.objective


def test_lemma_2_corrects_the_printed_gap():
    # E47: at λ = 0.02, ρ₀ = 3, N = 12 of the summed loss 0.0148, where λρ₀ is 0.06.
    found = nc.exact.stuck_margins(3.0, 0.02, 12, 12, reduction="sum")
    np.testing.assert_allclose(found.gap, 0.18 / 12.18, rtol=rounding())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_stuck_margins_give_a_critical_point_of_a_net_and_its_objective(reduction):
    # One layer that reads x = ±0.5 has f̄ = 0.5, so ρ₀ = 2.
    problem = nc.NormalizedReLUNet(
        np.array([[0.5], [-0.5]]), np.array([1.0, -1.0]), (), reduction=reduction, weight_decay=0.3
    )
    found = nc.exact.stuck_margins(2.0, 0.3, 2, 2, reduction=reduction)
    state = nc.Layers((jnp.ones((1, 1)),), found.norm[None])
    np.testing.assert_allclose(problem.objective(state), found.objective, rtol=rounding())
    assert jnp.abs(ravel_pytree(problem.gradient(state))[0]).max() < rounding()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: nc.exact.logistic_norm(-1.0, start=1.0, alignment=1.0, second_moment=1.0),
            "time = -1.0",
        ),
        (
            lambda: nc.exact.logistic_norm(1.0, start=0.0, alignment=1.0, second_moment=1.0),
            "start = 0.0: .* > 0",
        ),
        (
            lambda: nc.exact.norm_time(
                1.0, start=1.0, alignment=-1.0, second_moment=1.0, num_layers=2
            ),
            "alignment = -1.0",
        ),
        (
            lambda: nc.exact.norm_time(
                1.0, start=1.0, alignment=1.0, second_moment=1.0, num_layers=0
            ),
            "num_layers = 0",
        ),
        (
            lambda: nc.exact.normalized_norm(
                1.0, start=1.0, mean_margin=1.0, second_moment=0.0, decay=0.1
            ),
            "second_moment = 0.0",
        ),
        (lambda: nc.exact.stuck_margins(1.0, 0.1, 3, 4), "num_stuck = 4: .* from 1 to 3"),
    ],
)
def test_what_has_no_closed_form_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
