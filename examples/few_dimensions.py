"""Limits of the flow without decay for d < K-1, where no simplex ETF exists.

Integrates the unconstrained layer-peeled model of Ji et al. (eq. 2.3, one sample of each class)
from Gaussian starts to t = 10^DECADES, for all d from 2 to K-2. Each flow tends in direction to a
KKT point of the separation problem: least (|W|^2 + |H|^2)/2 with all margins >= 1. The value
V = (|W|^2 + |H|^2)/(2 q_min) of a run, q_min its smallest margin, is compared with the least value
that is known: that of regular polygons (d = 2), of antipodal pairs and single classes (K <= 2d),
and of a table (d = 3). By default no run falls below these values, and many runs have a larger one.
Prints a table, and saves a figure and the results.
"""

import math
import time
from argparse import Namespace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from script import (
    Parser,
    add_output_flags,
    configure_jax,
    run_script,
    save_results,
    table,
)

import nc_jax as nc

if TYPE_CHECKING:
    import xarray as xr

FIGURE = "few_dimensions"
# What the columns of the table mean.
MEANINGS = {
    "K": "", "d": "",
    "known": "least V that is known",
    "evidence": "for the known value", "least": "V of the runs at the end", "median": "",
    "largest": "",
    "limit": "V for t to infinity of the run of least V, extrapolated from its norm and loss",
    "at known": "runs whose V is above the known one by a share of less than 3/log t, and nearer "
    "to it than to K",
    "|W-H|/|W|": "for the run of least V", "predicted": "|W-H|/|W| for the code of the known value",
    "minimum": "whether the second-order certificate of a local minimum holds for this run",
}  # fmt: skip


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--K", type=int, nargs="+", default=[5, 6, 7, 8], metavar="K",
        help="numbers of classes from 5 to 8 (5 6 7 8)")  # fmt: skip
    add("--seeds", type=int, default=16, help="number of starts (%(default)s)")
    add("--decades", type=float, default=1000.0, help="integrate to t = 10^DECADES (%(default)g)")
    add("--rtol", type=float, default=1e-6, help="relative tolerance (%(default)g)")
    add_output_flags(parser, "results/few_dimensions")
    return parser, parser.parse_args(arguments)


def observe(state: nc.LastLayer) -> dict[str, jax.Array]:
    """V, |W-H|/|W|, squared norm and log loss of a state with one sample of each class."""
    labels = np.arange(len(state.classifier))
    recorded = nc.metrics.margin_metrics(state, labels)
    difference = jnp.linalg.norm(state.classifier - state.features)
    return {
        "separation_value": recorded["squared_norm"] / (2 * recorded["margin_min"]),
        "duality_distance": difference / jnp.linalg.norm(state.classifier),
        "squared_norm": recorded["squared_norm"],
        "log_objective": nc.ulpm(len(labels), state.features.shape[1], 1).log_objective(state),
    }


def run_flows(flags: Namespace, classes: int) -> tuple["xr.Dataset", nc.LastLayer]:
    """Flows of K classes for all d, and their final states with the axes (d, seed).

    Starts in d dimensions are starts in K-2 dimensions whose other coordinates are 0. The flow
    leaves these at 0, so that one compiled program runs all d.
    """
    dims, seeds = np.arange(2, classes - 1), np.arange(flags.seeds, dtype=np.uint32)
    problem = nc.ulpm(classes, classes - 2, 1)

    def starts(dim: int) -> nc.LastLayer:
        def start(seed: jax.Array) -> nc.LastLayer:
            state = nc.ulpm(classes, dim, 1).init(jax.random.fold_in(jax.random.key(0), seed))
            return jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, 0), (0, classes - 2 - dim))), state)

        return jax.jit(jax.vmap(start))(seeds)

    began = time.perf_counter()
    every = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *map(starts, dims.tolist()))
    stop = flags.decades * math.log(10)
    times = np.geomspace(stop / 20, stop, 12)
    flow = nc.Flow(problem, times, rtol=flags.rtol, observe=observe).batch(every)
    print(
        f"K = {classes}: {len(dims) * len(seeds)} flows to t = 10^{flags.decades:.10g}, "
        f"{np.max(flow.num_steps)} steps, {time.perf_counter() - began:.1f} s with compilation",
        flush=True,
    )
    data = nc.storage.to_dataset(flow).rename(seed="run")
    runs = np.repeat(dims, len(seeds)), np.tile(seeds, len(dims))
    data = data.assign_coords(feature_dim=("run", runs[0]), seed=("run", runs[1]))
    data = data.set_index(run=("feature_dim", "seed")).unstack("run")
    data.attrs["num_classes"] = classes
    final = jax.tree.map(lambda x: x.reshape(len(dims), len(seeds), *x.shape[1:]), flow.final)
    return data.transpose("feature_dim", "seed", "time"), final


def best_run(data: "xr.Dataset", final: nc.LastLayer, dim: int) -> tuple[int, nc.LastLayer]:
    """The seed of least V in d dimensions, and its final state with margin 1."""
    last = data.sel(feature_dim=dim).isel(time=-1)
    seed = int(np.argmin(last["separation_value"].values))
    state = jax.tree.map(lambda leaf: leaf[dim - 2, seed, :, :dim], final)
    margins = nc.metrics.sample_margins(state, np.arange(len(state.classifier)))
    return seed, jax.tree.map(lambda leaf: leaf / jnp.sqrt(jnp.min(margins)), state)


def row(data: "xr.Dataset", final: nc.LastLayer, dim: int) -> list[str]:
    """One row of the table."""
    classes, log_time = data.attrs["num_classes"], float(data["log_time"][-1])
    problem, runs = nc.ulpm(classes, dim, 1), data.sel(feature_dim=dim)
    known = nc.exact.separation_value(classes, dim)
    _, code = nc.exact.best_known_code(problem)
    seed, state = best_run(data, final, dim)
    certificate = nc.landscape.separation_certificate(
        problem, state, tolerance=1 / math.sqrt(log_time)
    )
    values = runs["separation_value"].isel(time=-1).values
    # At a KKT point half of the squared norm grows by V for each unit of -log L.
    growth = runs.isel(seed=seed, time=[-4, -1]).diff("time").isel(time=0)
    limit = -float(growth["squared_norm"] / growth["log_objective"]) / 2
    distance = float(runs["duality_distance"].isel(seed=seed, time=-1))
    return [
        str(classes), str(dim), f"{known.value:.6f}", known.evidence,
        *(f"{pick(values):.6f}" for pick in (np.min, np.median, np.max)), f"{limit:.6f}",
        f"{np.sum(values < largest_at_known(classes, known.value, log_time))} of {len(values)}",
        f"{distance:.4f}", f"{float(observe(code)['duality_distance']):.4f}",
        "yes" if certificate.holds else "not yet",
    ]  # fmt: skip


def largest_at_known(classes: int, known: float, log_time: float) -> float:
    """The V below which a run counts as one at the known value.

    Early, 3/log t reaches beyond V = K, the value of a saddle (a triangle and a pair for K = 5, d =
    3). There the middle between both values is the end.
    """
    near = known * (1 + 3 / log_time)
    return min(near, (known + classes) / 2) if known < classes else near


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Run, print, save."""
    configure_jax()
    check_flags(parser, flags)
    print("Each number of classes compiles for a few seconds.", flush=True)
    try:
        runs = {classes: run_flows(flags, classes) for classes in sorted(set(flags.K))}
    except ValueError as error:
        parser.refuse(error)
    rows = [
        row(data, final, dim)
        for data, final in runs.values()
        for dim in data["feature_dim"].values.tolist()
    ]
    print(table(MEANINGS, rows))
    below = sum(int(np.sum(_excess(data) < 0)) for data, _ in runs.values())
    print(f"runs below the least value that is known: {below}")

    def draw():
        from figures.few_dimensions import few_dimensions_figure

        codes = {classes: best_run(data, final, 3)[1] for classes, (data, final) in runs.items()}
        return {FIGURE: few_dimensions_figure([data for data, _ in runs.values()], codes)}

    save_results(flags, {f"flow_K{classes}": data for classes, (data, _) in runs.items()}, draw)


def check_flags(parser: Parser, flags: Namespace) -> None:
    """Refuse flags for which codes, seeds or files are not possible."""
    for classes in flags.K:
        if not 5 <= classes <= 8:
            parser.error(f"--K {classes}: give integers from 5 to 8, for which all V are known.")
        if (flags.out / f"flow_K{classes}.zarr").is_file():
            parser.error(f"--out {flags.out}: flow_K{classes}.zarr there is a file.")
    if not 1 <= flags.seeds < 2**32:
        parser.error(f"--seeds {flags.seeds}: give an integer >= 1.")
    if not 10 <= flags.decades <= 1e4:
        parser.error(f"--decades {flags.decades:g}: give a number from 10 to 1e4.")


def _excess(data: "xr.Dataset") -> np.ndarray:
    """V at the end less the least value that is known, plus an allowance for rounding."""
    classes = data.attrs["num_classes"]
    dims = data["feature_dim"].values.tolist()
    known = np.array([nc.exact.separation_value(classes, dim).value for dim in dims])
    return data["separation_value"].isel(time=-1).values - known[:, None] + 1e-9


if __name__ == "__main__":
    main()
