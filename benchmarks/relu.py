"""Compare integrators of the flow of a ReLU net, which slides along the kinks of its activation.

One net on two digits (64-8-8-1, 40 samples, square loss with decay, Lagrange normalisation) from
one start. The reference is the flow with the kinks rounded over 1e-8 at a tight tolerance. The
table has the errors of the outputs on the test images, of ρ, and of ‖V_k‖ = 1, the number of steps,
and the time without compilation. Counted are also the kinks that samples cross: an integrator that
locates kinks would have to stop at each of them.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from reporting import Parser, add_json, machine, parse_with_json, seconds
from reports.relu import show
from scipy.integrate import solve_ivp

import nc_jax as nc
from nc_jax import images

# Number of evaluations after which SciPy's run is ended, since it would take hours.
GIVEN_UP = 300_000


class _GivenUpError(Exception):
    pass


def nothing(state) -> dict:
    """No observables. One function for all runs, since a run compiles again for another one."""
    return {}


def build(activation=jax.nn.relu) -> nc.NormalizedReLUNet:
    """The net on its two digits, with an activation."""
    train, test = (images.load_digits(split) for split in ("train", "test"))
    inputs, targets = images.two_classes(train, 3, 8, num_samples=40)
    test_inputs, test_targets = images.two_classes(test, 3, 8)
    inputs, test_inputs = images.unit_ball(inputs, test_inputs)
    return nc.NormalizedReLUNet(
        inputs, targets, (8, 8), weight_decay=1e-3, activation=activation,
        test_inputs=test_inputs, test_targets=test_targets,
    )  # fmt: skip


def flow(
    problem, start, end, *, solver=nc.RKC(), rtol=1e-4, min_step=0.0, saves=1, max_steps=300_000
):
    """A flow that records nothing but its states."""
    return nc.gradient_flow(
        problem,
        start,
        np.linspace(end / saves, end, saves),
        clock=nc.RealTime(),
        solver=solver,
        rtol=rtol,
        atol=rtol / 100,
        observe=nothing,
        min_step=min_step,
        save_states=saves > 1,
        throw=False,
        max_steps=max_steps,
    )


def by_scipy(problem, start, end, rtol):
    """SciPy's RK45 on the same field."""
    flat, unravel = ravel_pytree(start)
    field = jax.jit(lambda x: ravel_pytree(problem.scaled_descent(unravel(x), 0.0))[0])
    count = 0

    def counted(t, x):
        nonlocal count
        count += 1
        if count > GIVEN_UP:
            raise _GivenUpError
        return np.asarray(field(x))

    try:
        found = solve_ivp(counted, (0, end), np.asarray(flat), rtol=rtol, atol=rtol / 100)
    except _GivenUpError:
        return None, count
    return unravel(jnp.asarray(found.y[:, -1])), count


def ways(relu, start, end, quick: bool) -> dict[str, Callable[[], tuple[Any, int]]]:
    """Calls by name, each of which returns the final state (None if it failed) and the steps."""

    def flow_of(problem, solver, rtol, **options):
        def run():
            found = flow(problem, start, end, solver=solver, rtol=rtol, **options)
            steps = int(jax.block_until_ready(found.num_steps))
            return (found.final if bool(found.succeeded) else None), steps

        return run

    def descent(rate):
        optimizer, steps = optax.sgd(rate), round(end / rate)

        def run():
            found = nc.gradient_descent(
                relu, start, optimizer, steps, save_steps=np.array([1]), observe=nothing
            )
            return jax.block_until_ready(found.final), steps

        return run

    table = {
        "Tsit5, adaptive, rtol 1e-4": flow_of(relu, diffrax.Tsit5(), 1e-4),
        "Tsit5, adaptive, rtol 1e-6": flow_of(relu, diffrax.Tsit5(), 1e-6),
        "Tsit5, rtol 1e-6, min_step 0.01": flow_of(relu, diffrax.Tsit5(), 1e-6, min_step=0.01),
        "Heun, rtol 1e-6, min_step 0.01": flow_of(relu, diffrax.Heun(), 1e-6, min_step=0.01),
        "RKC, rtol 1e-4, min_step 0.1": flow_of(relu, nc.RKC(), 1e-4, min_step=0.1),
        "RKC, rtol 1e-4, min_step 0.01": flow_of(relu, nc.RKC(), 1e-4, min_step=0.01),
        "descent, rate 0.1": descent(0.1),
        "descent, rate 0.01": descent(0.01),
        "descent, rate 0.001": descent(0.001),
    }
    for width in (1e-3, 1e-4, 1e-5, 1e-6):
        rounded = build(nc.SmoothReLU(width=width))
        table[f"rounded {width:g}, RKC, rtol 1e-3"] = flow_of(rounded, nc.RKC(), 1e-3)
        table[f"rounded {width:g}, RKC, rtol 1e-5"] = flow_of(rounded, nc.RKC(), 1e-5)
    rounded = build(nc.SmoothReLU(width=1e-5))
    table["rounded 1e-05, Tsit5, rtol 1e-5"] = flow_of(rounded, diffrax.Tsit5(), 1e-5)
    if not quick:
        table["rounded 0.001, Kvaerno3, rtol 1e-4"] = flow_of(
            build(nc.SmoothReLU(width=1e-3)), diffrax.Kvaerno3(), 1e-4, max_steps=3000
        )
        table["SciPy RK45, rtol 1e-6"] = lambda: by_scipy(relu, start, end, 1e-6)
    return table


def crossings(rounded, start, end) -> dict[str, int]:
    """Changes of sign of preactivations between 4000 saves, and how many are 0 at the end."""
    states = flow(rounded, start, end, saves=4000, rtol=1e-5).states

    @jax.jit
    @jax.vmap
    def preactivations(state: nc.Layers):
        first = rounded.inputs @ state.matrices[0].T
        second = rounded.activation(first) @ state.matrices[1].T
        return jnp.stack([first, second])

    values = np.asarray(preactivations(states))
    # Relative to the largest preactivation; the kinks are rounded, so that none is exactly 0.
    at_rest = np.abs(values[-1]) < 1e-5 * np.abs(values[-1]).max()
    # A unit whose weights have vanished has preactivation 0 for all samples. It is left out, since
    # it does not slide along a kink.
    at_rest &= ~np.all(at_rest, axis=1, keepdims=True)
    return {
        "kinks": int(at_rest.size),
        "sign changes": int(np.sum(np.diff(np.sign(values), axis=0) != 0)),
        "at rest on a kink": int(np.sum(at_rest)),
    }


def measure(quick: bool) -> dict[str, Any]:
    """Compare every way with the reference."""
    relu, end = build(), 10.0 if quick else 50.0
    start = relu.init(jax.random.key(3), 1.0)
    assert relu.test_inputs is not None
    inputs = relu.test_inputs
    truth = flow(build(nc.SmoothReLU(width=1e-8)), start, end, rtol=1e-6 if quick else 1e-7).final
    expected = relu.outputs(truth, inputs)
    rows = []
    for name, run in ways(relu, start, end, quick).items():
        # A first run compiles. SciPy's run takes too long to be repeated.
        if "SciPy" not in name:
            run()
        time, (state, steps) = seconds(run)
        row: dict[str, Any] = {
            "way": name,
            "time": time,
            "steps": steps,
            "finished": state is not None,
        }
        if state is not None:
            difference = relu.outputs(state, inputs) - expected
            norms = [float(jnp.sum(v**2)) for v in state.matrices]
            row |= {
                "output_error": float(np.abs(difference).max()),
                "norm_error": abs(float(state.norms[0] / truth.norms[0]) - 1),
                "direction_error": max(abs(norm - 1) for norm in norms),
            }
        rows.append(row)
    counts = crossings(build(nc.SmoothReLU(width=1e-6)), start, end)
    return {"machine": machine(), "end": end, "largest": float(np.abs(expected).max()),
            "crossings": counts, "rows": rows}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write JSON, print the table."""
    parser = Parser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a shorter flow and fewer ways")
    add_json(parser, "results/relu.json")
    options = parse_with_json(parser, arguments)
    jax.config.update("jax_enable_x64", True)
    nc.cache_programs()
    report = measure(options.quick)
    options.json.write_text(json.dumps(report, indent=2))
    print(show(report))


if __name__ == "__main__":
    main()
