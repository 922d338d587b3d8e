"""Collapse layer by layer: measures of every layer of a deep model along its flow.

Integrates the flow of cross-entropy of free features H with further matrices on them, Z = H W_1'
... W_L', as it is (linear), and with a ReLU after every matrix but the last. Layer l has the inputs
H W_1' ... W_(l-1)' and the matrix W_l. One sees which layers collapse first, in how many dimensions
the class means of a layer lie, and that without ReLU all matrices come to have the same singular
values: W_(l+1)' W_(l+1) - W_l W_l' is conserved while the matrices grow. Prints a table with a row
for each layer, and saves a figure and the results.

The ReLU is rounded over a small width, which a solver follows to its tolerance. A net with ReLU can
rest where some units are off for all samples of a class. The rounded one leaves at a time of order
1/width, which says nothing of the ReLU: compare two widths by --rounding.
"""

import math
import time
from argparse import Namespace

import jax
import numpy as np
import xarray as xr
from script import (
    Parser,
    add_output_flags,
    check_seed,
    configure_jax,
    number,
    run_script,
    save_results,
    table,
)

import nc_jax as nc

NETS = ("linear", "relu")
OBSERVED = (
    "log_objective", "margin_min", "layer_nc1", "layer_nc2", "layer_cdnv", "layer_effective_rank",
    "layer_singular_values",
)  # fmt: skip
# A layer counts as collapsed from the time on at which its CDNV falls below this.
COLLAPSED = 0.1
SAVES = 150
# Decades of a flow without weight decay, and with it. The latter comes to rest, and each further
# decade is stiffer: more than REST take minutes.
DECADES, DECAYED_DECADES, REST = 100.0, 8.0, 12.0
MEANINGS = {
    "net": "", "layer": "1 has the features as inputs, each other one those of the layer before",
    "d": "dimension of its inputs", "NC1": "spread within classes over that of their means",
    "CDNV": "the same, from the distances of pairs of means",
    "effective rank": "dimension of the class means",
    "t(CDNV)": f"time from which on its CDNV is below {COLLAPSED:g}",
    "singular values": "the K largest of its matrix",
}  # fmt: skip


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--K", type=int, default=4, help="classes (%(default)s)")
    add("--n", type=int, default=5, argument="class_sizes", help="samples a class (%(default)s)")
    add("--widths", type=int, nargs="+", default=[8, 8, 8],
        help="dimension of the features and of every hidden layer (8 8 8)")  # fmt: skip
    add("--activation", nargs="+", default=[*NETS], choices=NETS,
        help="nets: without activation, with ReLU (linear relu)")  # fmt: skip
    add("--rounding", type=float, default=1e-5,
        help="width over which the ReLU is rounded (%(default)g)")  # fmt: skip
    add("--norm", type=float, default=2.0,
        help="norm of the features and of every matrix at the start (%(default)g)")  # fmt: skip
    add("--seed", type=int, default=0, help="number of the start (%(default)s)")
    add(
        "--decay",
        type=float,
        default=0.0,
        argument="weight_decay",
        help="weight decay of features and matrices (%(default)g)",
    )
    add("--decades", type=float,
        help=f"integrate to t = 10^DECADES ({DECADES:g}; {DECAYED_DECADES:g} with weight decay, "
        "where the flow comes to rest)")  # fmt: skip
    add_output_flags(parser, "results/layers")
    flags = parser.parse_args(arguments)
    if flags.decades is None:
        flags.decades = DECAYED_DECADES if flags.decay else DECADES
    return parser, flags


def check(parser: Parser, flags: Namespace) -> None:
    """Refuse flags that the package would not refuse."""
    if flags.K < 2:
        parser.error(f"--K {flags.K}: give an integer >= 2.")
    if not 0 < flags.norm < math.inf:
        parser.error(f"--norm {flags.norm:g}: give a number > 0; at 0 the flow does not move.")
    if "relu" in flags.activation and not 0 < flags.rounding < math.inf:
        parser.error(f"--rounding {flags.rounding:g}: give a number > 0.")
    if not 1 <= flags.decades <= 1e4:
        parser.error(f"--decades {flags.decades:g}: give a number from 1 to 1e4.")
    if flags.decay and flags.decades > REST:
        parser.error(f"--decades {flags.decades:g}: give at most {REST:g} with weight decay.")
    if len(set(flags.activation)) < len(flags.activation):
        parser.error(f"--activation {' '.join(flags.activation)}: give each once.")
    check_seed(parser, flags)


def run_flow(flags: Namespace, name: str) -> xr.Dataset:
    """The flow of one net, from the start that all nets share."""
    activation = nc.SmoothReLU(width=flags.rounding) if name == "relu" else None
    # A rounded ReLU is stiff, and so is a flow at rest: a stabilised solver needs far fewer steps
    # (docs/relu.md).
    stiff = name == "relu" or flags.decay > 0
    rtol, solver = (1e-4, nc.RKC()) if stiff else (1e-7, None)
    problem = nc.DeepUnconstrainedFeatures(
        (flags.n,) * flags.K, flags.widths, activation=activation, weight_decay=flags.decay
    )
    start = problem.init(jax.random.fold_in(jax.random.key(0), flags.seed), norm=flags.norm)
    times = np.geomspace(0.1, flags.decades * math.log(10), SAVES)
    run = nc.gradient_flow(problem, start, times, observe=OBSERVED, rtol=rtol, solver=solver)
    data = nc.storage.to_dataset(run)
    layers = [f"layer {i + 1}" for i in range(len(flags.widths))]
    return data.assign_coords(layer=layers, width=("layer", flags.widths))


def collapse_time(data: xr.Dataset) -> float:
    """log10 of the time from which on the CDNV of a layer is below `COLLAPSED`; NaN for none."""
    above = np.flatnonzero(~(data["layer_cdnv"].values < COLLAPSED))
    first = above[-1] + 1 if above.size else 0
    return float(data["log_time"][first]) / math.log(10) if first < data.sizes["time"] else math.nan


def show(runs: dict[str, xr.Dataset]) -> str:
    """Table of the measures of every layer at the end of each run."""
    rows = []
    for name, data in runs.items():
        for layer in data["layer"].values:
            found = data.sel(layer=layer)
            end, decades = found.isel(time=-1), collapse_time(found)
            values = [f"{end[x].item():.3g}" for x in ("layer_nc1", "layer_cdnv")]
            singular = " ".join(f"{x:.3g}" for x in end["layer_singular_values"].values)
            rows.append([
                name, layer.removeprefix("layer "), str(end["width"].item()), *values,
                f"{end['layer_effective_rank'].item():.3f}",
                "-" if math.isnan(decades) else number(decades), singular,
            ])  # fmt: skip
    return table(MEANINGS, rows)


def spread_of_largest(data: xr.Dataset) -> np.ndarray:
    """Largest over smallest σ_1 of the matrices minus 1, at every save."""
    largest = data["layer_singular_values"].values[..., 0]
    return largest.max(axis=-1) / largest.min(axis=-1) - 1


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Run, print, save."""
    configure_jax()
    check(parser, flags)
    print("The first run compiles for several seconds.", flush=True)
    began, runs = time.perf_counter(), {}
    for name in flags.activation:
        try:
            runs[name] = run_flow(flags, name)
        except (ValueError, RuntimeError) as error:
            parser.refuse(error)
        steps = runs[name]["num_steps"].item()
        print(f"{name}: to t = {number(flags.decades)} in {steps} steps", flush=True)
    print(f"{len(runs)} flows, {time.perf_counter() - began:.1f} s with compilation\n")
    print(show(runs))
    for name, data in runs.items():
        first, last = spread_of_largest(data)[[0, -1]]
        print(f"{name}: largest singular values of the matrices within {first:.2g} of each other "
              f"at the start, {last:.2g} at the end")  # fmt: skip

    save_results(flags, runs, lambda: {"layers": nc.plotting.layers_figure(runs)})


if __name__ == "__main__":
    main()
