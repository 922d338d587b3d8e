"""Common steps of a batch against runs with steps of their own, and against Diffrax's solvers."""

import functools

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import integration, rounding, second_order_integration

import nc_jax as nc
from nc_jax.dynamics.fused import FusedRungeKutta

RTOL = 1e-7
PROBLEM = nc.ulpm(3, 4, 2)
TIMES = np.concatenate([[0.0], nc.log_times(4, 3)])
KEYS = jax.random.split(jax.random.key(0), 3)
NORMS = np.array([0.5, 1.0, 3.0])


def observe(state):
    return {"margin": jnp.min(state.logits()), "classifier": state.classifier}


def flow(start, shared=True, problem=PROBLEM, times=TIMES, **options):
    return nc.gradient_flow(
        problem, start, times, rtol=RTOL, atol=1e-2 * RTOL, observe=observe, throw=False,
        shared_steps=shared, **options,
    )  # fmt: skip


def run(key, norm, **options):
    return flow(PROBLEM.init(key, norm), **options)


STARTS = jax.jit(jax.vmap(PROBLEM.init))(KEYS, NORMS)
# Compiled whole: a vmap outside of jit compiles what surrounds the run operation by operation.
COMMON = jax.jit(jax.vmap(functools.partial(flow, save_states=True)))


@functools.cache
def shared_steps():
    return COMMON(STARTS)


def scaled(factor, **options):
    return jax.vmap(functools.partial(run, **options))(KEYS, factor * NORMS)


@functools.cache
def separate_runs_and_slopes():
    """Runs with separate steps, and their derivative by the logarithm of the start's norm."""
    separate = functools.partial(scaled, shared=False, save_states=True)
    return jax.jit(lambda factor: jax.jvp(separate, (factor,), (1.0,)))(1.0)


def assert_same(found, expected, tolerance):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def test_lanes_with_common_steps_equal_runs_with_separate_steps():
    shared, (separate, _) = shared_steps(), separate_runs_and_slopes()
    assert np.all(shared.succeeded)
    np.testing.assert_array_equal(shared.log_time, separate.log_time)
    for name in ("observables", "final", "states", "final_log_time"):
        assert_same(getattr(shared, name), getattr(separate, name), integration(RTOL))


def test_common_steps_are_counted_and_marked():
    shared, (separate, _) = shared_steps(), separate_runs_and_slopes()
    assert shared.shared_steps is True
    assert separate.shared_steps is False
    assert len(set(separate.num_steps.tolist())) > 1
    assert len(set(shared.num_steps.tolist())) == 1
    # A lane that could take longer steps takes those of the others.
    assert shared.num_steps[0] > separate.num_steps.min()


def test_a_run_outside_of_vmap_takes_the_steps_of_a_separate_run():
    single, (separate, _) = run(KEYS[0], NORMS[0]), separate_runs_and_slopes()
    assert single.shared_steps is True
    assert single.num_steps == separate.num_steps[0]
    expected = jax.tree.map(lambda leaf: leaf[0], (separate.observables, separate.final))
    # Each of some hundred steps passes on how products are rounded.
    assert_same((single.observables, single.final), expected, rounding(operations=10_000))


def test_a_leaf_may_be_common_to_all_lanes():
    features, whole = STARTS.features[1], functools.partial(flow, save_states=True)
    common = jax.jit(jax.vmap(lambda classifier: whole(nc.LastLayer(features, classifier))))
    repeated = eqx.tree_at(lambda s: s.features, STARTS, jnp.stack([features] * len(KEYS)))
    found, expected = common(STARTS.classifier), COMMON(repeated)
    assert_same(found.states, expected.states, rounding(operations=10_000))


def test_rkc_takes_common_steps_in_log_log_time():
    one = functools.partial(flow, times=np.log1p(TIMES), clock=nc.LogLogTime(), solver=nc.RKC())
    stabilised = jax.jit(jax.vmap(one))(STARTS)
    assert np.all(stabilised.succeeded)
    assert len(set(stabilised.num_steps.tolist())) == 1
    tolerance = second_order_integration(RTOL)
    assert_same(stabilised.observables, separate_runs_and_slopes()[0].observables, tolerance)


def distance_from_its_start(start):
    common = jnp.full((4,), 0.5)

    def observe(state):
        moved = state.features - start.features
        return {"distance": jnp.linalg.norm(moved), "along": jnp.sum(moved @ common)}

    return nc.gradient_flow(
        PROBLEM, start, TIMES, rtol=RTOL, observe=observe, shared_steps=True
    ).observables


def test_observables_may_depend_on_values_that_differ_between_lanes():
    found = jax.jit(jax.vmap(distance_from_its_start))(STARTS)
    separate, _ = separate_runs_and_slopes()
    moved = np.asarray(separate.states.features) - np.asarray(STARTS.features)[:, None]
    expected = {
        "distance": np.sqrt(np.sum(moved**2, axis=(2, 3))),
        "along": 0.5 * np.sum(moved, axis=(2, 3)),
    }
    assert np.ptp(found["distance"][:, -1]) > 0.1
    for name, values in expected.items():
        assert_same(found[name], values, integration(RTOL))


def slope_of_a_run(key, norm):
    return jax.jvp(lambda factor: run(key, factor * norm).observables, (1.0,), (1.0,))[1]


def slope_of_a_batch(keys, norms):
    del keys, norms
    return jax.jvp(lambda factor: scaled(factor).observables, (1.0,), (1.0,))[1]


@pytest.mark.parametrize("slopes", [slope_of_a_batch, jax.vmap(slope_of_a_run)])
def test_a_derivative_passes_common_steps(slopes):
    _, expected = separate_runs_and_slopes()
    assert_same(jax.jit(slopes)(KEYS, NORMS), expected.observables, integration(RTOL))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"event": diffrax.Event(diffrax.steady_state_event(rtol=0, atol=1e-6))},
            "shared_steps = True: an event ends runs one by one; give shared_steps=False.",
        ),
        (
            {"solver": diffrax.Kvaerno5()},
            "is neither an explicit Runge-Kutta solver nor RKC(); give one, or shared_steps=False.",
        ),
    ],
    ids=["event", "implicit"],
)
@pytest.mark.parametrize("batched", [False, True])
def test_events_and_implicit_solvers_refuse_common_steps_in_one_line(options, message, batched):
    one = functools.partial(run, **options)
    with pytest.raises(ValueError, match="shared_steps = True") as caught:
        jax.vmap(one)(KEYS, NORMS) if batched else one(KEYS[0], NORMS[0])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def flow_with_decay(decay, shared=True):
    problem = nc.zhu(3, 4, 2, nc.WeightDecay(classifier=decay, features=decay, bias=0.0))
    return flow(
        problem.init(KEYS[0]), problem=problem, times=np.array([1.0]), clock=nc.RealTime(),
        shared=shared,
    )  # fmt: skip


def test_runs_that_differ_in_their_problem_take_common_steps():
    decays = np.array([0.1, 0.2])
    found = jax.jit(jax.vmap(flow_with_decay))(decays)
    assert len(set(found.num_steps.tolist())) == 1
    expected = jax.jit(jax.vmap(functools.partial(flow_with_decay, shared=False)))(decays)
    assert_same(found.observables, expected.observables, integration(RTOL))


@jax.jit
def batched(starts):
    flow = nc.Flow(PROBLEM, TIMES, rtol=RTOL, atol=1e-2 * RTOL, observe=observe, save_states=True)
    return flow.batch(starts)


def test_a_batch_equals_the_runs_with_separate_steps():
    separate, _ = separate_runs_and_slopes()
    found = batched(STARTS)
    assert found.shared_steps is True
    assert len(set(found.num_steps.tolist())) == 1
    for name in ("observables", "final", "states", "final_log_time", "log_time"):
        assert_same(getattr(found, name), getattr(separate, name), integration(RTOL))


def test_data_differ_between_the_runs_of_a_batch():
    starts, shifts = STARTS, jnp.arange(3.0)
    moved = nc.Flow(
        PROBLEM, TIMES, observe=lambda state, shift: {"shifted": shift + 0 * state.squared_norm()}
    )
    found = moved.batch(starts, shifts).observables["shifted"]
    np.testing.assert_array_equal(found, jnp.broadcast_to(shifts[:, None], (3, TIMES.size)))
    single = moved(jax.tree.map(lambda leaf: leaf[0], starts), shifts[2]).observables["shifted"]
    np.testing.assert_array_equal(single, 2.0)


def test_a_run_that_fails_ends_its_batch():
    batch = batched(jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), STARTS))
    assert not np.any(batch.succeeded)
    assert np.all(np.isnan(batch.observables["margin"]))


SOLVERS = [diffrax.Tsit5(), diffrax.Dopri5(), diffrax.Dopri8(), diffrax.Bosh3(), diffrax.Heun()]


def pendulum(t, y, args):
    """A damped, driven pendulum, from some starts: nonlinear and dependent on time."""
    del args
    angle, speed = y
    return jnp.stack([speed, 0.3 * jnp.cos(t) - jnp.sin(angle) - speed / 10])


@eqx.filter_jit
def solve(solver, dt0, rtol, atol, smallest_factor, largest_factor):
    # Saves are between steps: they come of the dense output.
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(pendulum), solver, 0.0, 4.0, dt0, jnp.asarray([[1.0, 2.0], [0.0, 1.0]]),
        saveat=diffrax.SaveAt(ts=jnp.linspace(0, 4, 12)), adjoint=diffrax.ForwardMode(),
        stepsize_controller=diffrax.PIDController(
            rtol, atol, factormin=smallest_factor, factormax=largest_factor
        ),
    )  # fmt: skip
    return solution.ys, solution.stats["num_accepted_steps"], solution.stats["num_steps"]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_fused_stages_are_those_of_the_solver(solver):
    def both(solver):
        # Steps of one length have a tolerance that all meet, and no other factor than 1: numbers
        # alone, so that one program has both.
        constant = solve(solver, *map(np.asarray, (0.23, 1e9, 1e9, 1.0, 1.0)))
        return constant, solve(solver, *map(np.asarray, (3.0, 1e-6, 1e-8, 0.2, 10.0)))

    found, expected = both(FusedRungeKutta(solver)), both(solver)
    constant, adaptive = found
    assert constant[1] == 18
    assert constant[2] == 18
    assert adaptive[1] < adaptive[2]  # the first is too long
    # Some dozen to some thousand steps of up to 14 stages each.
    assert_same(found, expected, rounding(operations=10_000))


def test_fused_stages_converge_with_the_order_of_the_solver():
    # y' = −y to t = 4. The estimate of the order is off by the next term, of half its size.
    solver, term = FusedRungeKutta(diffrax.Bosh3()), diffrax.ODETerm(lambda t, y, args: -y)
    errors = []
    for steps in (64, 128):
        solution = diffrax.diffeqsolve(term, solver, 0.0, 4.0, 4.0 / steps, jnp.ones(()))
        assert solution.ys is not None
        errors.append(abs(solution.ys[0] - np.exp(-4.0)))
    assert 2.9 < np.log2(errors[0] / errors[1]) < 3.1
