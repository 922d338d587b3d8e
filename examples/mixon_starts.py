"""What the scripts on Mixon's model share: flags, and starts over norms and seeds under one jit."""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from script import (
    Parser,
    add_output_flags,
    check_seeds_and_stores,
    refuse_to_run,
    table,
    writable_folder,
)

import nc_jax as nc


def parser_of(description: str | None, norms: list[float], out: str) -> Parser:
    """Flags of the model, its starts and its results, with the paper's setting as defaults."""
    parser = Parser(description)
    add = parser.add_argument
    add("--K", type=int, default=3, help="classes, the paper's C (%(default)s)")
    add("--d", type=int, default=15, help="feature dimension, the paper's p (%(default)s)")
    add("--n", type=int, default=3, help="samples of each class, the paper's N (%(default)s)")
    listed = " ".join(f"{norm:g}" for norm in norms)
    add("--norms", type=float, nargs="+", default=norms, metavar="NORM",
        help=f"||W||_F = ||H||_F of the starts ({listed})")  # fmt: skip
    add("--seeds", type=int, default=100, help="starts of each norm (%(default)s)")
    add("--seed", type=int, default=0, help="the first (%(default)s)")
    add("--out", type=writable_folder, default=out, help="folder (%(default)s)")
    add_output_flags(parser)
    return parser


def check(parser: Parser, flags: Namespace) -> None:
    """Refuse what the package cannot judge before hours of work."""
    check_seeds_and_stores(parser, flags)
    for norm in flags.norms:
        # Below, rounding decides what is measured; above, the flow is ever stiffer.
        if not 1e-8 <= norm <= 10:
            parser.error(f"--norms {norm:g}: give numbers from 1e-8 to 10.")
    if len(set(flags.norms)) < len(flags.norms):
        parser.error(f"--norms {' '.join(f'{norm:g}' for norm in flags.norms)}: give each once.")


def announce(flags: Namespace) -> None:
    """Say what is about to run, and why nothing shows at first."""
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
    """`run(start, norm)` over (norm, seed); a seed's direction is the same for every norm."""

    def from_seed(seed, norm) -> nc.Trajectory:
        key = jax.random.fold_in(jax.random.key(0), seed)
        return run(problem.init(key, norm), norm)

    seeds = np.arange(flags.seed, flags.seed + flags.seeds, dtype=np.uint32)
    over_both = jax.vmap(jax.vmap(from_seed, (0, None)), (None, 0))
    return jax.block_until_ready(jax.jit(over_both)(seeds, np.array(flags.norms)))


def store(flags: Namespace, name: str, runs: nc.Trajectory) -> None:
    """Runs over (norm, seed) as a Zarr store."""
    from nc_jax import storage

    settings = {flag: str(value) for flag, value in vars(flags).items()}
    labelled = storage.to_dataset(runs, settings, ("norm", "seed"))
    seeds = np.arange(flags.seed, flags.seed + flags.seeds)
    labelled = labelled.assign_coords(norm=flags.norms, seed=seeds)
    storage.save(labelled, flags.out / f"{name}.zarr")


def by_norm(
    flags: Namespace,
    columns: dict[str, np.ndarray],
    fits: Mapping[str, Sequence[np.ndarray | None]],
    meanings: Mapping[str, str],
) -> str:
    """Medians over seeds of (norm, seed) arrays, a row a norm, above named rows of fits.

    A fit has a (seed,) array, or None, for each column, shown as median over range. What is not
    finite is left out. `meanings` are those of the columns.
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
    """Median and range of the finite values; no range of one."""
    values = values[np.isfinite(values)]
    if not values.size:
        return "-", ""
    spread = f"{values.min():{form}} to {values.max():{form}}" if values.size > 1 else ""
    return f"{np.median(values):{form}}", spread


def slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least-squares slope of (norm, seed) values over (norm,) ones, for each seed."""
    deviation = x - x.mean()
    # Not polyfit, which fails for all seeds where one is not finite.
    return deviation @ y / (deviation @ deviation)


if __name__ == "__main__":
    refuse_to_run(__file__)
