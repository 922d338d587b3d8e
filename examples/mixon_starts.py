"""Shared by the scripts on Mixon's model: flags, and runs over start norms and seeds."""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from script import (
    Parser,
    add_output_flags,
    attributes_of,
    check_seeds_and_stores,
    refuse_to_run,
    table,
)

import nc_jax as nc

if TYPE_CHECKING:
    import xarray as xr


def parser_of(description: str | None, norms: list[float], out: str) -> Parser:
    """The flags of the model, its starts and its results; the defaults are those of the paper."""
    parser = Parser(description=description)
    add = parser.add_argument
    add("--K", type=int, default=3, argument="num_classes",
        help="classes, the paper's C (%(default)s)")  # fmt: skip
    add("--d", type=int, default=15, argument="feature_dim",
        help="feature dimension, the paper's p (%(default)s)")  # fmt: skip
    add("--n", type=int, default=3, argument="samples_per_class",
        help="samples of each class, the paper's N (%(default)s)")  # fmt: skip
    listed = " ".join(f"{norm:g}" for norm in norms)
    add("--norms", type=float, nargs="+", default=norms, metavar="NORM",
        help=f"||W||_F = ||H||_F of the starts ({listed})")  # fmt: skip
    add("--seeds", type=int, default=100, help="number of starts of each norm (%(default)s)")
    add("--seed", type=int, default=0, help="number of the first start (%(default)s)")
    add_output_flags(parser, out)
    return parser


def check(parser: Parser, flags: Namespace) -> None:
    """Refuse flags that the package would refuse only after a long run, or not at all."""
    check_seeds_and_stores(parser, flags)
    for norm in flags.norms:
        # Below 1e-8 rounding decides what is measured; above 10 the flow becomes very stiff.
        if not 1e-8 <= norm <= 10:
            parser.error(f"--norms {norm:g}: give numbers from 1e-8 to 10.")
    if len(set(flags.norms)) < len(flags.norms):
        parser.error(f"--norms {' '.join(f'{norm:g}' for norm in flags.norms)}: give each once.")


def announce(flags: Namespace) -> None:
    """Print the setting before the first program is compiled."""
    print(
        f"Mixon's model: K={flags.K} d={flags.d} n={flags.n}, seeds {flags.seed} to "
        f"{flags.seed + flags.seeds - 1} of {len(flags.norms)} start norm(s). "
        "The first run compiles for a few seconds.",
        flush=True,
    )


def over_starts(
    flags: Namespace,
    problem: nc.UnconstrainedFeatures,
    run: Callable[[nc.LastLayer, jax.Array], nc.Trajectory],
) -> nc.Trajectory:
    """The runs `run(start, norm)` over (norm, seed).

    The starts of a seed have the same direction for all norms.
    """

    def from_seed(seed, norm) -> nc.Trajectory:
        key = jax.random.fold_in(jax.random.key(0), seed)
        return run(problem.init(key, norm), norm)

    seeds = np.arange(flags.seed, flags.seed + flags.seeds, dtype=np.uint32)
    over_both = jax.vmap(jax.vmap(from_seed, (0, None)), (None, 0))
    return jax.block_until_ready(jax.jit(over_both)(seeds, np.array(flags.norms)))


def store(flags: Namespace, name: str, runs: nc.Trajectory) -> "xr.Dataset":
    """Save runs over (norm, seed) as a Zarr store; returns their data set."""
    from nc_jax import storage

    labelled = storage.to_dataset(runs, attributes=attributes_of(flags), runs=("norm", "seed"))
    seeds = np.arange(flags.seed, flags.seed + flags.seeds)
    labelled = labelled.assign_coords(norm=flags.norms, seed=seeds)
    storage.save(labelled, flags.out / f"{name}.zarr")
    return labelled


def by_norm(
    flags: Namespace,
    columns: dict[str, np.ndarray],
    fits: Mapping[str, Sequence[np.ndarray | None]],
    meanings: Mapping[str, str],
) -> str:
    """Table of medians over seeds: a row for each norm, and below them a row for each fit.

    Args:
        columns: (norm, seed) arrays by heading.
        fits: by name, a (seed,) array or None for each column. The table shows the median of the
            array and its range in the row below. Values that are not finite are left out.
        meanings: what the columns mean, by heading.
    """
    rows = [
        [f"{norm:g}", *(summary(values[i], ".3g")[0] for values in columns.values())]
        for i, norm in enumerate(flags.norms)
    ]
    for name, fitted in fits.items():
        summaries = [("", "") if values is None else summary(values, ".3f") for values in fitted]
        rows.append([name, *(median for median, _ in summaries)])
        if any(spread for _, spread in summaries):
            rows.append(["", *(spread for _, spread in summaries)])
    return table({"norm": "", **{name: meanings.get(name, "") for name in columns}}, rows)


def summary(values: np.ndarray, form: str) -> tuple[str, str]:
    """Median and range of the finite values as text; the range of one value is empty."""
    values = values[np.isfinite(values)]
    if not values.size:
        return "-", ""
    spread = f"{values.min():{form}} to {values.max():{form}}" if values.size > 1 else ""
    return f"{np.median(values):{form}}", spread


def slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least-squares slope of (norm, seed) values over (norm,) ones, for each seed."""
    deviation = x - x.mean()
    # `np.polyfit` would fail for all seeds if one value is not finite; here its seed gets NaN.
    return deviation @ y / (deviation @ deviation)


if __name__ == "__main__":
    refuse_to_run(__file__)
