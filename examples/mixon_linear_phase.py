"""How long the linear phase of Mixon, Parshall and Pi lasts: theorem 2 beside the exact flow.

Near the origin the flow is that of a linear system, whose exact solution magnifies the part T of a
start as exp(sqrt(n) t). Integrates the flow from ever smaller Gaussian starts, many seeds for each
norm under one jit and vmap, and prints when it has left the linear solution (hand-over), when it
passes the theorem's bound, and how both times grow with log(1/norm). The flow leaves by its cubic
term, a share (norm * exp(sqrt(n) t))^2 of the whole: the first time grows as log(1/norm)/sqrt(n).
The bound is of size norm, so the flow is past it after two thirds of that.
"""

import dataclasses
import math
import time
from argparse import Namespace

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from mixon_starts import announce, by_norm, check, over_starts, parser_of, slopes, store
from script import Parser, configure_jax, run_script, save_figure

import nc_jax as nc

FIGURE = "mixon_linear_phase"


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """Flags, with the setting of the paper's figures as defaults."""
    norms = [0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6]
    parser = parser_of(__doc__, norms, "results/mixon_linear_phase")
    parser.add_argument(
        "--gap", type=float, default=0.1,
        help="relative distance from the linear solution at the hand-over (%(default)g)",
    )  # fmt: skip
    flags = parser.parse_args(arguments)
    if not 0 < flags.gap < 1:
        parser.error(f"--gap {flags.gap:g}: give a number between 0 and 1.")
    return parser, flags


def run_flow(flags: Namespace, linear: nc.LinearizedMixon) -> nc.Trajectory:
    """The exact flow from every start, with what theorem 2 says as observables."""
    # Half as long again as the smallest start takes to leave the origin.
    times = np.linspace(0, 2 + 1.5 * math.log1p(1 / min(flags.norms)) / math.sqrt(flags.n), 201)

    def run(start, norm) -> nc.Trajectory:
        flow = nc.gradient_flow(
            linear.full, start, times, nc.RealTime(), diffrax.Dopri8(),
            rtol=1e-12, atol=1e-12 * norm, observe=lambda state: {}, save_states=True,
        )  # fmt: skip
        assert flow.states is not None
        beside = compare(linear, start, norm, jnp.asarray(times), flow.states)
        return dataclasses.replace(flow, observables=beside, states=None)

    return over_starts(flags, linear.full, run)


def compare(
    linear: nc.LinearizedMixon, start: nc.LastLayer, norm, times: jax.Array, states: nc.LastLayer
) -> dict[str, jax.Array]:
    """(T,) distances of the flow from theorem 2: relative, and over the start's norm."""
    root = math.sqrt(linear.samples_per_class)
    part = nc.geometry.project_onto_T(start, linear.labels)

    def at_time(t, state):
        exact = nc.exact.linearized_solution(linear, start, t)
        growing = jax.tree.map(lambda leaf: jnp.exp(root * t) * leaf, part)
        gap = distance(state, exact) / jnp.sqrt(exact.squared_norm())
        return gap, distance(state, growing) / norm

    linear_gap, deviation = jax.vmap(at_time)(times, states)
    linear_deviation, bound = nc.exact.linearized_bound(linear, start, times)
    return {
        "linear_gap": linear_gap,
        "deviation": deviation,
        "linear_deviation": linear_deviation / norm,
        "bound": jnp.broadcast_to(bound / norm, times.shape),
    }


def distance(state: nc.LastLayer, other: nc.LastLayer) -> jax.Array:
    """||(H, W) - (H', W')||, whatever the bias."""
    return jnp.sqrt(jax.tree.map(jnp.subtract, state, other).squared_norm())


def first_passage(times: np.ndarray, values: np.ndarray, level: float | np.ndarray) -> np.ndarray:
    """When (..., T) values first pass a level, linear in log between saves; NaN if never."""
    excess = np.log(values) - np.log(level)
    above = excess > 0
    at = np.maximum(above.argmax(axis=-1), 1)[..., None]
    before, after = (np.take_along_axis(excess, i, -1)[..., 0] for i in (at - 1, at))
    share = before / (before - after)
    passed = times[at[..., 0] - 1] + share * (times[at] - times[at - 1])[..., 0]
    return np.where(above.any(axis=-1), passed, np.nan)


def show(flags: Namespace, runs: nc.Trajectory) -> str:
    """Times of hand-over and of passing the bound, and their slopes in log(1/norm)."""
    times = np.expm1(runs.common_log_time())
    seen = {name: np.asarray(values) for name, values in runs.observables.items()}
    left = first_passage(times, seen["linear_gap"], flags.gap)
    # At the start the bound holds with room to spare.
    passed = first_passage(times, seen["deviation"], seen["bound"])
    columns = {"hand-over": left, "passes bound": passed}
    meanings = {
        "hand-over": f"time at which the flow is {flags.gap:.0%} from the linear solution",
        "passes bound": "time at which it is further from the growing part than theorem 2's bound",
    }
    if len(flags.norms) < 2:
        return by_norm(flags, columns, {}, meanings)
    logs, root = np.log(1 / np.array(flags.norms)), math.sqrt(flags.n)
    fits = [slopes(logs, left), slopes(logs, passed)]
    theory = [np.array([1 / root]), np.array([2 / 3 / root])]
    return by_norm(flags, columns, {"slope": fits, "theory": theory}, meanings)


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Run, print, save."""
    configure_jax()
    check(parser, flags)
    announce(flags)
    began = time.perf_counter()
    try:
        runs = run_flow(flags, nc.LinearizedMixon(flags.K, flags.d, flags.n))
    except ValueError as error:
        parser.error(str(error))
    print(f"flow and linear solution: {time.perf_counter() - began:.1f} s with compilation")
    print("medians over seeds; slope: of the times in log(1/norm)")
    print(show(flags, runs))
    store(flags, "flow", runs)
    saved = ["flow.zarr"]
    if not flags.no_plot:
        from nc_jax import plotting

        figure = plotting.linear_phase_figure(runs, flags.norms, flags.gap)
        saved.append(save_figure(flags, figure, FIGURE))
    print(f"\nsaved in {flags.out}: {', '.join(saved)}")


if __name__ == "__main__":
    main()
