"""Derivatives of runs: forward mode against closed forms, reverse mode refused in one line."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilation_counts import lines_of
from tolerances import integration, rounding

import nc_jax as nc
from nc_jax.dynamics import descent as descent_module, program

# (H, W) follow a linear system: the derivative of the solution by the start, in a direction, is the
# solution that starts at the direction.
PROBLEM = nc.LinearizedMixon(3, 4, 2)
START, DIRECTION = (PROBLEM.init(jax.random.key(seed), 0.3) for seed in (0, 1))
TIMES = np.array([0.5, 1.0])
RTOL = 1e-9
SGD = optax.sgd(0.01)


def observe(state):
    return {"squared_norm": state.squared_norm()}


def flow_of(**options):
    return nc.Flow(
        PROBLEM, TIMES, clock=nc.RealTime(), rtol=RTOL, atol=1e-12, observe=observe, **options
    )


def flow(start):
    return flow_of(save_states=True)(start)


def common_steps(start):
    return flow_of(shared_steps=True)(start)


def batch(start):
    starts = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), start)
    return flow_of().batch(starts)


def function(start):
    return nc.gradient_flow(PROBLEM, start, TIMES, clock=nc.RealTime(), observe=observe)


def descent(start):
    return nc.gradient_descent(PROBLEM, start, SGD, 10, observe=observe)


RUNS = {f.__name__: f for f in (flow, common_steps, batch, function, descent)}


def final_norm(run, start):
    return jnp.sum(run(start).observables["squared_norm"])


def assert_refused(differentiate):
    with pytest.raises(
        RuntimeError, match=r"reverse mode .*: .* jax\.jvp or jax\.jacfwd"
    ) as caught:
        differentiate()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", RUNS)
def test_reverse_mode_names_forward_mode(name):
    norm = functools.partial(final_norm, RUNS[name])
    assert_refused(lambda: jax.grad(norm)(START))


@pytest.mark.parametrize("run", [flow, descent])
def test_reverse_mode_is_refused_in_every_transformation(run):
    norm = functools.partial(final_norm, run)
    starts = jax.tree.map(lambda leaf: leaf[None], START)
    assert_refused(lambda: jax.jit(jax.grad(norm))(START))
    assert_refused(lambda: jax.grad(jax.jit(norm))(START))
    assert_refused(lambda: jax.vmap(jax.grad(norm))(starts))
    assert_refused(lambda: jax.grad(lambda starts: jnp.sum(jax.vmap(norm)(starts)))(starts))
    assert_refused(lambda: jax.jacrev(lambda start: run(start).final)(START))
    assert_refused(lambda: jax.vjp(norm, START)[1](1.0))
    assert_refused(lambda: eqx.filter_grad(norm)(START))


def test_a_gradient_that_does_not_depend_on_the_run_passes():
    def loss(factor):
        return factor**2 + jax.lax.stop_gradient(final_norm(flow, START))

    assert jax.grad(loss)(3.0) == pytest.approx(6.0)


def test_the_derivative_of_a_linear_flow_is_the_flow_of_the_direction():
    traj, slope = jax.jvp(flow, (START,), (DIRECTION,))
    expected = nc.exact.linearized_solution(PROBLEM, DIRECTION, TIMES)
    for name in ("features", "classifier"):
        found, solution = getattr(slope.states, name), getattr(expected, name)
        size = np.max(np.abs(solution))
        np.testing.assert_allclose(found, solution, rtol=0, atol=integration(RTOL) * size)
    inner = sum(
        np.sum(np.asarray(getattr(traj.states, name) * getattr(expected, name)), (1, 2))
        for name in ("features", "classifier")
    )
    found = slope.observables["squared_norm"]
    np.testing.assert_allclose(found, 2 * inner, rtol=integration(RTOL))


def test_the_derivative_of_a_linear_descent_is_the_descent_of_the_direction():
    _, slope = jax.jvp(descent, (START,), (DIRECTION,))
    other = descent(DIRECTION).final
    for name in ("features", "classifier"):
        np.testing.assert_allclose(
            getattr(slope.final, name), getattr(other, name), rtol=rounding(operations=1000),
            atol=rounding(),
        )  # fmt: skip


@pytest.mark.parametrize("run", [flow, descent])
def test_the_refusal_adds_no_operation(run, monkeypatch):
    lines = lines_of(run, START)
    jax.clear_caches()
    for module in (program, descent_module):
        monkeypatch.setattr(module, "refuse_reverse_mode", lambda trajectory: trajectory)
    assert len(lines_of(run, START)) == len(lines)
