"""Theorem 3.2 of Ji et al. in numbers: the direction of the flow tends to a KKT point.

Integrates the exact flow of the unconstrained layer-peeled model (eq. 2.3) to t = 10^DECADES. At
every save it evaluates the multipliers of lemma B.1 and the residuals eps (stationarity) and delta
(complementary slackness) of the KKT conditions of the minimum-norm separation problem (3.1), and
compares them with the bounds of the lemma. Prints a table, and saves a figure and the results.
"""

import math
import time
from argparse import Namespace

import jax
import numpy as np
from script import (
    Parser,
    add_model_flags,
    add_output_flags,
    check_seeds_and_stores,
    configure_jax,
    nearest,
    number,
    run_script,
    save_results,
    table,
)

import nc_jax as nc

MEASURES = ("epsilon", "epsilon_bound", "delta", "delta_bound", "max_margin_ratio")
FIGURE = "ulpm_kkt"
# What the columns of the table mean.
MEANINGS = {
    "t": "", "eps": "norm of theta - sum lambda grad s, which is 0 at a KKT point",
    "eps bound": "lemma B.1's", "delta": "sum lambda (s - 1), which is 0 there too",
    "delta bound": "lemma B.1's", "margin": "the smallest over the largest that its norm allows",
}  # fmt: skip


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add_model_flags(parser, num_classes=5, feature_dim=20, samples_per_class=10)
    add("--seed", type=int, default=0, help="number of the first start (%(default)s)")
    add("--seeds", type=int, default=16, help="number of starts (%(default)s)")
    add("--decades", type=float, default=1000.0, help="integrate to t = 10^DECADES (%(default)g)")
    add("--rtol", type=float, help="relative tolerance (1e-8)")
    add_output_flags(parser, "results/ulpm_kkt")
    return parser, parser.parse_args(arguments)


def run_flow(flags: Namespace) -> nc.Trajectory:
    """Flows of all starts with their KKT certificates."""
    problem = nc.ulpm(flags.K, flags.d, flags.n)
    stop = np.logaddexp(0, flags.decades * math.log(10))
    times = np.geomspace(min(1.0, stop / 2), stop, 200)

    def observe(state: nc.LastLayer) -> dict[str, jax.Array]:
        found = nc.landscape.kkt_certificate(problem, state)
        residuals = {name: getattr(found, name) for name in MEASURES[:-1]}
        return {**residuals, "max_margin_ratio": problem.observe(state)["max_margin_ratio"]}

    def start(seed) -> nc.LastLayer:
        return problem.init(jax.random.fold_in(jax.random.key(0), seed))

    began = time.perf_counter()
    seeds = np.arange(flags.seed, flags.seed + flags.seeds, dtype=np.uint32)
    starts = jax.jit(jax.vmap(start))(seeds)
    flow = nc.Flow(problem, times, rtol=flags.rtol, observe=observe).batch(starts)
    print(
        f"{flags.seeds} flows to t = 10^{flags.decades:.10g}: {np.max(flow.num_steps)} steps, "
        f"{time.perf_counter() - began:.1f} s with compilation"
    )
    return flow


def show(flow: nc.Trajectory, flags: Namespace) -> str:
    """Table of medians over seeds at a few times, and of powers of log t over its last decade."""
    times = flow.common_log_time()
    wanted = np.array([0.3, 1, 3, 10, 30, 100, 300, 1000, 3000]) * math.log(10)
    rows = []
    for i in nearest(times, np.append(wanted[wanted < times[-1]], times[-1])):
        # log t = log(e^u − 1), written so that e^u does not overflow.
        log10_t = float(times[i] + math.log(-math.expm1(-times[i]))) / math.log(10)
        # A residual or bound is infinite while a start is not separated or its loss is above log 2.
        medians = [np.median(np.asarray(flow.observables[name])[:, i]) for name in MEASURES]
        rows.append([number(log10_t), *(f"{median:.3g}" for median in medians)])
    since = flags.decades / 10 * math.log(10)
    powers = [np.median(flow.decay_exponent(name, since)) for name in MEASURES[:-1]]
    rows.append(["power", *(f"{p:.3f}" if np.isfinite(p) else "-" for p in powers), ""])
    return table(MEANINGS, rows)


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Run, print, save."""
    configure_jax()
    check_seeds_and_stores(parser, flags)
    if not 1 <= flags.decades <= 1e4:
        parser.error(f"--decades {flags.decades:g}: give a number from 1 to 1e4.")
    if flags.rtol is not None and flags.rtol > 1e-2:
        parser.error(f"--rtol {flags.rtol:g}: give a number up to 0.01.")
    print("The first run compiles for a few seconds.", flush=True)
    if flags.d < flags.K - 1:
        print(f"d = {flags.d} < K - 1 = {flags.K - 1}: too few dimensions for collapse")
    try:
        flow = run_flow(flags)
    except ValueError as error:
        parser.refuse(error)
    print("medians over seeds; power: of log t, over the last tenfold of log t")
    print(show(flow, flags))
    recorded = flow.observables
    bounded = np.isfinite(recorded["epsilon_bound"])
    # The bound of epsilon is sharp late in the flow, so that rounding may exceed it.
    within = recorded["epsilon"] <= recorded["epsilon_bound"] * (1 + 1e-9)
    within &= recorded["delta"] <= recorded["delta_bound"]
    holds = bool(np.all(within[bounded]))
    print(f"the lemma's bounds hold at all {bounded.sum()} saves with loss < log 2: {holds}")

    data = nc.storage.to_dataset(flow)

    def draw():
        from figures.ulpm_kkt import kkt_figure

        return {FIGURE: kkt_figure(data)}

    save_results(flags, {"flow": data}, draw)


if __name__ == "__main__":
    main()
