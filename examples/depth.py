"""Which code a flow of a deep linear net ends in, by depth, classes, width and start norm.

Integrates summed cross-entropy without decay over m factors (free features and m - 1 matrices, one
sample of each class) from Gaussian factors of Frobenius norm NORM to t = 10^DECADES. Each flow
tends in direction to a KKT point of min (1/2) sum |factor|^2 with all margins >= 1: a code, with
the value S = sum sigma^(2/m) of its logits at margin 1. For two factors the simplex ETF, S = K-1,
is the least. For more factors it remains a local minimum, and codes of lower rank have smaller S.
The S of a run, (1/m) sum |factor|^2 / q^(2/m) with q its smallest margin, is compared with those of
the codes that are known. No run may end below the least: the script checks this, and prints seed
and certificate of such a run. Prints a table, and saves a figure and the results.
"""

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

FIGURE = "depth"
# What the columns of the table mean.
MEANINGS = {
    "K": "classes", "m": "factors", "width": "of every layer",
    "norm": "of every factor at the start",
    "least code": "the known code of least S", "least S": "its S",
    "least": "and median, largest: S of the runs at the end", "median": "", "largest": "",
    "runs end in": "runs x code with their singular values; 'between codes' for the others",
}  # fmt: skip


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--K", type=int, nargs="+", default=[4, 6], metavar="K",
        help="numbers of classes from 3 to 8 (4 6)")  # fmt: skip
    add("--m", type=int, nargs="+", default=[3, 4], metavar="M",
        help="numbers of factors >= 2 (3 4)")  # fmt: skip
    add("--width", type=int, nargs="+", default=[0], metavar="WIDTH",
        help="widths of all layers, 0 for K (0)")  # fmt: skip
    add("--norm", type=float, nargs="+", default=[0.2, 2.0], metavar="NORM",
        help="Frobenius norms of every factor at the start (0.2 2)")  # fmt: skip
    add("--seeds", type=int, default=6, help="starts of each setting (%(default)s)")
    add("--decades", type=float, default=1e5, help="integrate to t = 10^DECADES (%(default)g)")
    add_output_flags(parser, "results/depth")
    return parser, parser.parse_args(arguments)


def run_cell(flags: Namespace, classes: int, depth: int, width: int) -> "xr.Dataset":
    """The ends of flows over (norm, seed): S, singular values at margin 1, number of the code."""
    import xarray as xr

    problem = nc.DeepUnconstrainedFeatures((1,) * classes, (width,) * (depth - 1), reduction="sum")

    def observe(state: nc.DeepFeatures) -> dict[str, jax.Array]:
        logits = state.logits()
        margins = jnp.diagonal(logits)[:, None] - logits
        smallest = jnp.min(margins, where=~np.eye(classes, dtype=bool), initial=jnp.inf)
        return {
            "margin_min": smallest,
            "squared_norm": jnp.sum(state.squared_norms()),
            "singular_values": jnp.linalg.svd(logits, compute_uv=False) / smallest,
        }

    @jax.jit
    def start(norm: jax.Array, seed: jax.Array) -> nc.DeepFeatures:
        return problem.init(jax.random.fold_in(jax.random.key(0), seed), norm)

    seeds, norms = np.arange(flags.seeds, dtype=np.uint32), np.array(flags.norm)
    runs = np.repeat(norms, len(seeds)), np.tile(seeds, len(norms))
    stop = np.log1p(nc.log_times(flags.decades, 1))
    began = time.perf_counter()
    flow = nc.Flow(
        problem, stop, clock=nc.LogLogTime(), solver=nc.RKC(), rtol=1e-4, atol=1e-6, observe=observe
    )
    # One by one and not as a batch: a run that stays at a saddle needs thousands of stages for each
    # step, which a batch would take for all runs. The program of a batch also has the products of
    # all factors as sums of terms, and for 6 factors and 8 classes it compiles for minutes.
    single = [flow(start(*run)) for run in zip(*runs, strict=True)]
    ends = jax.tree.map(lambda *leaves: np.stack(leaves), *single)
    print(
        f"K = {classes}, m = {depth}, width {width}: {len(runs[0])} flows to t = "
        f"10^{flags.decades:.10g}, {time.perf_counter() - began:.1f} s with compilation",
        flush=True,
    )
    last = {name: np.asarray(values)[:, -1] for name, values in ends.observables.items()}
    # A run that does not separate the classes yet has no S.
    smallest = np.where(last["margin_min"] > 0, last["margin_min"], np.nan)
    values = last["squared_norm"] / depth / smallest ** (2 / depth)
    singular = np.zeros((len(values), 8))
    singular[:, :classes] = last["singular_values"]
    check_values(problem, ends.final, values, runs)
    codes = nc.exact.deep_codes(classes, depth, width=width)
    found = [code_of(codes, *run) for run in zip(values, singular, strict=True)]
    shape = len(norms), len(seeds)
    return xr.Dataset(
        {
            "singular_sum": (("norm", "seed"), values.reshape(shape)),
            "singular_values": (("norm", "seed", "mode"), singular.reshape(*shape, 8)),
            "code": (("norm", "seed"), np.array(found).reshape(shape)),
        },
        {"norm": norms, "seed": seeds, "classes": classes, "depth": depth, "width": width},
    )


def code_of(codes: tuple[nc.exact.DeepCode, ...], value: float, singular: np.ndarray) -> int:
    """The number of the code in which a run with this S ends, and -1 for a run between codes.

    Codes of nearly equal S differ in their singular values, and both have to agree.
    """
    for number, code in enumerate(codes):
        expected = np.zeros(len(singular))
        expected[: code.rank] = code.singular_values
        far = np.max(np.abs(singular - expected)) / expected[0]
        if far < 0.1 and abs(value / code.singular_sum - 1) < 0.02:
            return number
    return -1


def check_values(
    problem: nc.DeepUnconstrainedFeatures,
    final: nc.DeepFeatures,
    values: np.ndarray,
    runs: tuple[np.ndarray, np.ndarray],
) -> None:
    """Print seed and certificate of each run that is below the least S that is known."""
    classes, depth = problem.num_classes, problem.depth
    least = nc.exact.deep_code(classes, depth, width=min(problem.widths)).singular_sum
    # The S of a state is at least that of a KKT point, whatever the error of the integration is.
    for i in np.flatnonzero(values < least * (1 - 1e-9)):
        state = jax.tree.map(lambda leaf, i=i: leaf[i], final)
        found = nc.landscape.separation_certificate(problem, state, tolerance=1e-2)
        print(
            f"BELOW the least S that is known, {least:.8f}: K = {classes}, m = {depth}, norm "
            f"{runs[0][i]:g}, seed {runs[1][i]} has {values[i]:.8f}; {found}"
        )


def rows(data: "xr.Dataset") -> list[list[str]]:
    """Rows of the table, one for each norm."""
    classes, depth, width = (int(data[name]) for name in ("classes", "depth", "width"))
    codes = nc.exact.deep_codes(classes, depth, width=width)
    found = []
    for norm in data["norm"].values.tolist():
        runs = data.sel(norm=norm)
        values, numbers = runs["singular_sum"].values, runs["code"].values
        counts = [
            f"{np.sum(numbers == number)} x {'between codes' if number < 0 else codes[number].name}"
            for number in [*range(len(codes)), -1]
            if np.any(numbers == number)
        ]
        found.append([
            str(classes), str(depth), str(width), f"{norm:g}",
            codes[0].name, f"{codes[0].singular_sum:.5f}",
            *(f"{pick(values):.5f}" for pick in (np.min, np.median, np.max)), ", ".join(counts),
        ])  # fmt: skip
    return found


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Run, print, save."""
    import xarray as xr

    configure_jax()
    check_flags(parser, flags)
    print("Each K, m and width compiles for some seconds.", flush=True)
    cells = [
        run_cell(flags, classes, depth, width)
        for classes in sorted(set(flags.K))
        for depth in sorted(set(flags.m))
        for width in sorted({width or classes for width in flags.width})
    ]
    print(table(MEANINGS, [row for cell in cells for row in rows(cell)]))
    # Without `coords` one that is equal in all cells would not get the dimension.
    data = xr.concat(cells, "cell", coords=["classes", "depth", "width"])
    least = [_least(cell) for cell in cells]
    below = np.sum(data["singular_sum"].values < np.array(least)[:, None, None] * (1 - 1e-9))
    print(f"runs below the least S that is known: {below}")

    def draw():
        from figures.depth import depth_figure

        return {FIGURE: depth_figure(data)}

    save_results(flags, {"runs": data}, draw)


def check_flags(parser: Parser, flags: Namespace) -> None:
    """Refuse flags for which codes, seeds or files are not possible."""
    for classes in flags.K:
        if not 3 <= classes <= 8:
            parser.error(f"--K {classes}: give integers from 3 to 8, for which codes are known.")
    for depth in flags.m:
        if depth < 2:
            parser.error(f"--m {depth}: give integers >= 2.")
    for width in flags.width:
        if width < 2 and width != 0:
            parser.error(f"--width {width}: give 0 for K, or integers >= 2.")
    for norm in flags.norm:
        if not norm > 0:
            parser.error(f"--norm {norm:g}: give numbers > 0; at 0 the flow does not move.")
    if not 1 <= flags.seeds < 2**32:
        parser.error(f"--seeds {flags.seeds}: give an integer >= 1.")
    if not 10 <= flags.decades <= 1e7:
        parser.error(f"--decades {flags.decades:g}: give a number from 10 to 1e7.")
    if (flags.out / "runs.zarr").is_file():
        parser.error(f"--out {flags.out}: runs.zarr there is a file.")


def _least(cell: "xr.Dataset") -> float:
    classes, depth, width = (int(cell[name]) for name in ("classes", "depth", "width"))
    return nc.exact.deep_code(classes, depth, width=width).singular_sum


if __name__ == "__main__":
    main()
