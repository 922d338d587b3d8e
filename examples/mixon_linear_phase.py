"""How long the linear phase of Mixon, Parshall and Pi lasts: theorem 2 against the exact flow.

Near the origin the flow is nearly that of a linear system, whose exact solution grows as
exp(sqrt(n) t) in the part of the start in the subspace T. This script integrates the flow from
Gaussian starts of decreasing norm, many seeds for each norm under one jit and vmap. It prints the
time at which the flow departs from the linear solution (hand-over), the time at which it exceeds
the bound of theorem 2, and the slopes of both times in log(1/norm). The flow departs by its cubic
term, whose share of the field is (norm * exp(sqrt(n) t))^2, so the hand-over grows as
log(1/norm)/sqrt(n). The bound is proportional to the norm, so the flow exceeds it after two thirds
of that time.
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
from script import Parser, configure_jax, run_script, save_figures

import nc_jax as nc

FIGURE = "mixon_linear_phase"


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags; the defaults are those of the paper's figures."""
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
    """The exact flow from every start, with its distances from theorem 2 as observables."""
    # 1.5 times as long as the flow takes to leave the origin from the smallest start, plus 2.
    times = np.linspace(0, 2 + 1.5 * math.log1p(1 / min(flags.norms)) / math.sqrt(flags.n), 201)

    def run(start, norm) -> nc.Trajectory:
        # atol is absolute and therefore in proportion to the start. States are saved to be compared
        # with theorem 2, and are dropped afterwards.
        flow = nc.gradient_flow(
            linear.full, start, times, clock=nc.RealTime(), solver=diffrax.Dopri8(),
            rtol=1e-12, atol=1e-12 * norm, observe=lambda state: {}, save_states=True,
        )  # fmt: skip
        assert flow.states is not None
        distances = compare(linear, start, norm, jnp.asarray(times), flow.states)
        return dataclasses.replace(flow, observables=distances, states=None)

    return over_starts(flags, linear.full, run)


def compare(
    linear: nc.LinearizedMixon, start: nc.LastLayer, norm, times: jax.Array, states: nc.LastLayer
) -> dict[str, jax.Array]:
    """(T,) distances of the flow from the solutions of theorem 2.

    `linear_gap` is relative to the linear solution; the others are divided by the start norm.
    """
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
    """||(H, W) - (H', W')||, without the bias."""
    return jnp.sqrt(jax.tree.map(jnp.subtract, state, other).squared_norm())


def first_passage(times: np.ndarray, values: np.ndarray, level: float | np.ndarray) -> np.ndarray:
    """Times at which (..., T) values first exceed a level, NaN if never.

    Between saves the logarithm of the values is interpolated linearly.
    """
    excess = np.log(values) - np.log(level)
    above = excess > 0
    # The first index above, but at least 1, so that there is an index before it.
    at = np.maximum(above.argmax(axis=-1), 1)[..., None]
    before, after = (np.take_along_axis(excess, i, -1)[..., 0] for i in (at - 1, at))
    share = before / (before - after)
    passed = times[at[..., 0] - 1] + share * (times[at] - times[at - 1])[..., 0]
    return np.where(above.any(axis=-1), passed, np.nan)


def show(flags: Namespace, runs: nc.Trajectory) -> str:
    """Table of the two times by start norm, and their slopes in log(1/norm)."""
    times = np.expm1(runs.common_log_time())
    recorded = {name: np.asarray(values) for name, values in runs.observables.items()}
    left = first_passage(times, recorded["linear_gap"], flags.gap)
    # At the start the deviation is below the bound.
    passed = first_passage(times, recorded["deviation"], recorded["bound"])
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
        parser.refuse(error)
    print(f"flow and linear solution: {time.perf_counter() - began:.1f} s with compilation")
    print("medians over seeds; slope: of the times in log(1/norm)")
    print(show(flags, runs))
    data = store(flags, "flow", runs)

    def draw():
        from figures.mixon_linear_phase import linear_phase_figure

        return {FIGURE: linear_phase_figure(data, flags.gap)}

    save_figures(flags, draw, saved=["flow.zarr"])


if __name__ == "__main__":
    main()
