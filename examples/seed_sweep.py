"""How many starts have yet to collapse at t = 10^10, 10^100, 10^1000, by feature dimension.

Integrates the exact flow of the unconstrained layer-peeled model (Ji eq. 2.3) from thousands of
Gaussian starts for each K and each d = K-1, K, K+1, K+2. Counts the starts whose smallest margin is
below a share of the largest margin that their norm allows (theorem 3.1), as it is near the saddles
of the margin problem. Prints a table, and saves a figure and the labelled results. The same command
resumes a sweep that was interrupted.
"""

import math
import sys
import time
from argparse import Namespace

import numpy as np
from script import (
    Parser,
    add_output_flags,
    configure_jax,
    nearest,
    run_script,
    save_figure,
    table,
)

import nc_jax as nc

# log10 of the times in the table.
SHOWN = (3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4)
# Number of runs in a batch, which takes seconds. An interrupted sweep loses one batch at most.
BATCH = 256
FIGURE, STORE, PAGE = "seed_sweep", "seed_sweep.zarr", "explore.html"


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--K", type=int, nargs="+", default=[3, 5, 8], help="numbers of classes (3 5 8)")
    add("--d", type=int, nargs="+", help="feature dimensions, with one K (K-1 to K+2 for each K)")
    add("--n", type=int, default=5, help="samples of each class (%(default)s)")
    add("--seeds", type=int, default=1024, help="number of starts for each K and d (%(default)s)")
    add("--decades", type=float, default=1000.0, help="integrate to t = 10^DECADES (%(default)g)")
    add("--share", type=float, default=0.95,
        help="share of the largest margin from which a start counts as collapsed (%(default)g)"
    )  # fmt: skip
    add("--rtol", type=float, default=1e-5, help="relative tolerance (%(default)g)")
    add("--anew", action="store_true", argument="resume",
        help="replace the results in OUT instead of resuming there")  # fmt: skip
    add("--explore", action="store_true",
        help="write a page on which the margins of all starts are explored, explore.html (needs "
        "Plotly)")  # fmt: skip
    add_output_flags(parser, "results/seed_sweep")
    return parser, parser.parse_args(arguments)


def check(parser: Parser, flags: Namespace) -> None:
    """Refuse flags that the package would not refuse."""
    for name in ("K", "d"):
        values = getattr(flags, name) or []
        if len(set(values)) < len(values):
            parser.error(f"--{name} {' '.join(map(str, values))}: give each once.")
    if min(flags.K) < 3:
        parser.error(f"--K {min(flags.K)}: give integers >= 3; two classes have no saddles.")
    if flags.d is not None:
        if len(flags.K) > 1:
            parser.error("--d: give it with one --K, or leave it out for K-1 to K+2 of each.")
        if min(flags.d) < flags.K[0] - 1:
            parser.error(
                f"--d {min(flags.d)}: give integers >= K-1 = {flags.K[0] - 1}; a simplex frame "
                "needs so many dimensions."
            )
    if flags.n < 1:
        parser.error(f"--n {flags.n}: give an integer >= 1.")
    if not 1 <= flags.seeds < 2**32:
        parser.error(f"--seeds {flags.seeds}: give an integer from 1 to 4294967295.")
    if not 1 < flags.decades <= 1e4:
        parser.error(f"--decades {flags.decades:g}: give a number above 1, up to 10000.")
    if not 0.5 <= flags.share <= 0.999:
        parser.error(f"--share {flags.share:g}: give a number from 0.5 to 0.999.")
    if not 1e-12 <= flags.rtol <= 1e-3:
        parser.error(f"--rtol {flags.rtol:g}: give a number from 1e-12 to 0.001.")
    if (flags.out / STORE).is_file():
        parser.error(f"--out {flags.out}: {STORE} there is a file; give another folder.")


def shown_decades(flags: Namespace) -> np.ndarray:
    """log10 of the times in the table; the last is the end of the runs."""
    return np.array([*(decades for decades in SHOWN if decades < flags.decades), flags.decades])


def sweep(flags: Namespace):
    """Margins of all starts, over (num_classes, excess, seed, time); excess is d − K."""
    # Values that `run` uses are stored with the results and compared when the sweep is resumed;
    # `flags` itself would include the output folder.
    samples, rtol = flags.n, flags.rtol
    shown = np.logaddexp(0, shown_decades(flags) * math.log(10))
    # The last time of the grid equals the last of the table up to rounding; it is left out.
    save_at = np.union1d(np.geomspace(math.log1p(1.0), shown[-1], 160)[:-1], shown)

    def run(key, num_classes: int, excess: int) -> tuple[nc.Flow, nc.LastLayer]:
        problem = nc.ulpm(num_classes, num_classes + excess, samples)
        flow = nc.Flow(problem, save_at, rtol=rtol, atol=rtol / 100, observe=("max_margin_ratio",))
        return flow, problem.init(key)

    excess = [-1, 0, 1, 2] if flags.d is None else [d - flags.K[0] for d in flags.d]
    return nc.sweep(
        run, flags.seeds, grid={"num_classes": flags.K, "excess": excess},
        batch_size=BATCH, path=flags.out / STORE, resume=not flags.anew,
    )  # fmt: skip


def uncollapsed(margins: np.ndarray, share: float) -> np.ndarray:
    """Share of runs with margins (…, seed, time) below `share`; NaN, failed runs, are omitted."""
    known = np.isfinite(margins)
    below = np.sum(known & (margins < share), axis=-2)
    return below / np.maximum(np.sum(known, axis=-2), 1)


def exponent(log_time: np.ndarray, fraction: np.ndarray, num_seeds: int) -> str:
    """Power of log t with which a fraction falls, fitted past t = 10^10.

    Times at which fewer than 20 starts are left are omitted, since their fraction is inaccurate.
    """
    used = (log_time > 10 * math.log(10)) & (fraction * num_seeds >= 20) & (fraction < 1)
    x, y = np.log(log_time[used]), np.log(fraction[used])
    if used.sum() < 10 or np.ptp(x) < math.log(3):
        return "-"
    return f"{np.polyfit(x, y, 1)[0]:.2f}"


def show(dataset, fractions: np.ndarray, decades: np.ndarray) -> str:
    """Table of the shares: a row for each K and d, a column for each of a few times."""
    log_time = dataset["log_time"].values
    at = nearest(log_time / math.log(10), decades)
    columns = {
        "K": "", "d": "", **{f"t=10^{shown:.10g}": "" for shown in decades},
        "~ (log t)^": "power of log t fitted past 10^10, where 20 starts or more are left",
    }  # fmt: skip
    rows = []
    for classes, by_excess in zip(dataset["num_classes"].values, fractions, strict=True):
        for excess, fraction in zip(dataset["excess"].values, by_excess, strict=True):
            shown = [f"{fraction[i]:.4f}" for i in at]
            power = exponent(log_time, fraction, dataset.sizes["seed"])
            rows.append([str(classes), str(classes + excess), *shown, power])
    return table(columns, rows)


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Run, print, save."""
    configure_jax()
    check(parser, flags)
    print(
        f"ULPM (Ji eq. 2.3): K={' '.join(map(str, flags.K))} n={flags.n}, {flags.seeds} starts for "
        f"each d to t = 10^{flags.decades:g}. Every K and d compiles for a few seconds.",
        flush=True,
    )
    began = time.perf_counter()
    try:
        dataset = sweep(flags)
    except (ValueError, RuntimeError, FileExistsError) as error:
        parser.refuse(error)
    except nc.Interrupted as stopped:
        sys.exit(f"{parser.prog}: {stopped}")
    print(f"{time.perf_counter() - began:.0f} s\n")
    margins = dataset["max_margin_ratio"].values
    fractions = uncollapsed(margins, flags.share)
    print(f"share of starts whose margin is below {flags.share:g} of the largest, by time")
    print(show(dataset, fractions, shown_decades(flags)))
    if not flags.no_plot:
        from figures.seed_sweep import uncollapsed_figure

        over = ("num_classes", "excess", "time")
        figure = uncollapsed_figure(dataset.assign(uncollapsed=(over, fractions)))
        print(f"\nfigure: {flags.out / save_figure(flags, figure, FIGURE)}")
    if flags.explore:
        try:
            nc.plotting.explore(dataset, flags.out / PAGE, title="Seed sweep of the ULPM")
        except (ModuleNotFoundError, ValueError) as error:  # no Plotly, or too many starts
            parser.refuse(error)
        print(f"page: {flags.out / PAGE}")
    print(f"results: {flags.out / STORE}")


if __name__ == "__main__":
    main()
