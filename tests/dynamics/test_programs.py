"""What a flow compiles, counted: operations in its programs, programs in a session."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation_counts import counted, lines_of
from tolerances import integration

import nc_jax as nc
from nc_jax.dynamics import program

PROBLEM = nc.ulpm(3, 4, 2)
START = PROBLEM.init(jax.random.key(0))
TIMES = nc.log_times(3, 4)


def marked(state):
    """Observables with an operation that no other part of a flow has."""
    return {"marked": jnp.sum(jax.lax.cbrt(state.features))}


def copies(lines):
    return sum("stablehlo.cbrt" in line for line in lines)


def flow_of(**options):
    return nc.Flow(PROBLEM, TIMES, **{"observe": marked, **options})


AT_REST = diffrax.Event(diffrax.steady_state_event(rtol=0.0, atol=1e-6))
SETTINGS = {
    "default": {},
    "states": {"save_states": True},
    "implicit": {"solver": diffrax.Kvaerno5()},
    "stabilised": {"solver": nc.RKC()},
    "event": {"event": AT_REST},
    "common steps": {"shared_steps": True},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_flow_observes_once_and_calls_nothing_on_the_host(name):
    lines = lines_of(flow_of(**SETTINGS[name]), START)
    assert copies(lines) == 1
    assert not any("callback" in line for line in lines)


@pytest.mark.parametrize("way", ["vmap", "batch", "jvp"])
def test_transformed_flows_observe_once_and_call_nothing_on_the_host(way):
    starts = jax.vmap(PROBLEM.init)(jax.random.split(jax.random.key(0), 2))
    flow = flow_of()
    ways = {
        "vmap": lambda: lines_of(jax.vmap(flow), starts),
        "batch": lambda: lines_of(flow.batch, starts),
        "jvp": lambda: lines_of(lambda x: jax.jvp(flow, (x,), (x,)), START),
    }
    lines = ways[way]()
    assert copies(lines) == (1 if way != "jvp" else copies(lines))
    assert not any("callback" in line for line in lines)


def test_the_pieces_of_a_run_observe_once_and_call_nothing_on_the_host():
    run = flow_of()._integration_in(np.dtype("float64"), lanes=False)
    progress, reference = program.begin(run, START)
    beginning = lines_of(lambda start: program.begin(run, start), START)
    piece = lines_of(
        lambda progress, saves: program.advance(
            run, progress, reference, None, saves, jnp.asarray(5)
        ),
        progress,
        jnp.asarray(TIMES),
    )
    assert copies(piece) == 1
    assert copies(beginning) == 0
    assert not any("callback" in line for line in [*beginning, *piece])


def decayed(decay):
    return nc.zhu(3, 4, 2, nc.WeightDecay(classifier=decay, features=decay, bias=decay))


def in_real_time(decay=1e-2, seed=0, norm=1.0, stop=3.0, num=4, **options):
    problem = decayed(decay)
    start = problem.init(jax.random.key(seed), norm)
    return nc.gradient_flow(
        problem,
        start,
        np.linspace(0, stop, num),
        clock=nc.RealTime(),
        observe=("margin_min",),
        **options,
    )


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"norm": 0.5},
        {"decay": 2e-2},
        {"stop": 7.0},
        {"rtol": 1e-5},
        {"atol": 1e-7},
        {"max_steps": 10_000},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_numbers_compile_nothing(change):
    in_real_time()
    with counted() as counts:
        changed = in_real_time(**change)
    assert counts.compiled == 0
    assert np.all(np.isfinite(changed.observables["margin_min"]))


def test_another_number_of_saves_compiles_no_flow():
    in_real_time(num=4)
    with counted() as counts:
        in_real_time(num=100)
    # The clock's times are as many.
    assert counts.compiled <= 1


def test_a_decay_that_is_an_argument_gives_the_flow_of_that_decay():
    # The margin at rest is larger for a smaller decay; a stale program would give the same.
    weak, strong = (
        in_real_time(decay=d, stop=200.0).observables["margin_min"][-1] for d in (1e-3, 1e-2)
    )
    assert weak > strong + 1


def test_a_flow_and_its_batch_are_functions_for_jit():
    starts = jax.tree.map(lambda leaf: leaf[None], START)
    flow = flow_of()
    expected = flow(START).observables["marked"]
    for found in (jax.jit(flow)(START), jax.jit(flow.batch)(starts)):
        np.testing.assert_allclose(
            np.reshape(found.observables["marked"], -1), expected, rtol=integration(1e-8)
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_steps": 0}, "max_steps = 0: give an integer >= 1"),
        (
            {"observe": "margin_min"},
            r"observe = 'margin_min': give a tuple of names, \('margin_min'",
        ),
        ({"min_step": -1.0}, "min_step = -1.0"),
    ],
    ids=["steps", "name", "least step"],
)
def test_invalid_flow_arguments_are_refused_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        flow_of(**change)
    assert "\n" not in str(caught.value)


def test_a_batch_with_an_event_is_refused_in_favour_of_vmap():
    starts = jax.tree.map(lambda leaf: leaf[None], START)
    with pytest.raises(ValueError, match=r"batch: .* the starts to jax.vmap\(flow\)"):
        flow_of(event=AT_REST).batch(starts)
