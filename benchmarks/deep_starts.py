"""Time sweeps of deep unconstrained features beside `UnconstrainedFeatures`, at equal error.

K = 5 classes, n = 4 samples a class, all widths 10; the flow of the summed cross-entropy to t =
10^5 from Gaussian starts, with m = 2, 3 and 4 factors. Each model is timed at the loosest tolerance
of a list at which the final states of the checked starts differ from those of SciPy (DOP853 at
1e-12) by at most 1e-6 of their norm. Compilation is timed apart. The models take turns, so that a
change of the machine's speed affects all of them alike; a ratio is the median over the turns.
"""

import argparse
import bisect
import functools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from peers.deep_model import final_states
from peers.ulpm_batches import DECADES
from reporting import Parser, add_json, machine, parse_with_json, positive, report_to_json, seconds
from reports.deep_starts import ERROR, show
from sweep import LADDER, batches_of
from tqdm import tqdm

import nc_jax as nc

SIZES, WIDTH = (4,) * 5, 10
BASE = "m = 2, UnconstrainedFeatures"


def problems() -> dict[str, Any]:
    """The models by name, the one that the others are compared with first."""
    deep = functools.partial(nc.DeepUnconstrainedFeatures, SIZES, reduction="sum")
    return {
        BASE: nc.ulpm(len(SIZES), WIDTH, SIZES[0]),
        **{
            f"m = {m}, DeepUnconstrainedFeatures": deep(widths=(WIDTH,) * (m - 1))
            for m in (2, 3, 4)
        },
    }


def last_state(state: Any) -> dict[str, jax.Array]:
    """The state itself, flat."""
    return {"state": jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(state)])}


def sweep(problem: Any, rtol: float) -> Callable[[int], dict]:
    """A function from a number of starts to the outputs of their sweep; its first call compiles."""
    flow = nc.Flow(
        problem, nc.log_times(DECADES, 1), rtol=rtol, atol=rtol / 100, observe=last_state
    )
    return batches_of(flow)


def reference(problem: Any, count: int) -> np.ndarray:
    """Final states (count, dim) of SciPy, from the starts of a sweep."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), np.arange(count))
    states = jax.jit(jax.vmap(problem.init))(keys)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(states)]
    starts = np.concatenate([leaf.reshape(count, -1) for leaf in leaves], axis=1)
    shapes = [leaf.shape[1:] for leaf in leaves]
    return final_states(starts, shapes, problem.labels)


def relative_error(ends: np.ndarray, exact: np.ndarray) -> float:
    """The largest distance of final states, relative to their norms."""
    return np.max(np.linalg.norm(ends - exact, axis=1) / np.linalg.norm(exact, axis=1)).item()


def tuned(problem: Any, ladder: Sequence[float], exact: np.ndarray) -> tuple[float, float]:
    """The loosest tolerance that reaches the wanted error, or the last, with its error."""

    @functools.cache
    def error(place: int) -> float:
        ends = sweep(problem, ladder[place])(len(exact))["state"][:, -1]
        return relative_error(ends, exact)

    # Bisection, since every tolerance compiles; errors fall with the tolerance.
    places = range(len(ladder) - 1)
    place = bisect.bisect_left(places, True, key=lambda i: error(i) <= ERROR)
    return ladder[place], error(place)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Rows of all models."""
    place, models, rows = machine(), problems(), {}
    runs: dict[str, Callable[[], dict]] = {}
    for name, problem in tqdm(models.items(), unit="model", desc="tolerances"):
        exact = reference(problem, options.checked)
        rtol, error = tuned(problem, options.ladder, exact)
        row = {"way": name, "rtol": rtol, "starts": options.starts, "run": None}
        rows[name] = row | {"error": error}
        if error > ERROR:
            continue
        runs[name] = functools.partial(sweep(problem, rtol), options.starts)
        first, found = seconds(runs[name])
        # The timed run has larger batches, which may take other steps.
        rows[name] |= {
            "first": first, "steps": float(np.mean(found["num_steps"])),
            "error": relative_error(found["state"][: options.checked, -1], exact),
        }  # fmt: skip
    if BASE not in runs:
        raise SystemExit(f"{BASE}: reaches no error of {ERROR:g}, so that there are no ratios")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for name in tqdm([*runs] * options.repeats, unit="sweep", desc="turns"):
        times[name].append(seconds(runs[name])[0])
    for name, took in times.items():
        ratios = [one / base for one, base in zip(took, times[BASE], strict=True)]
        run = statistics.median(took)
        rows[name] |= {
            "run": run, "compile": max(rows[name]["first"] - run, 0.0), "times": took,
            "ratio": statistics.median(ratios), "ratios": [min(ratios), max(ratios)],
        }  # fmt: skip
    return {
        "machine": place, "starts": options.starts, "repeats": options.repeats,
        "rows": list(rows.values()),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--starts", type=positive, help="of a sweep (default 4096; with --quick 128)"
    )
    parser.add_argument("--repeats", type=positive, help="turns (default 5; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="few starts, one tolerance, one turn")
    add_json(parser, "results/deep_starts.json")
    options = parse_with_json(parser, arguments)
    options.starts = options.starts or (128 if options.quick else 4096)
    options.repeats = options.repeats or (1 if options.quick else 5)
    options.checked, options.ladder = (4, [1e-6]) if options.quick else (32, LADDER)
    jax.config.update("jax_enable_x64", True)
    report_to_json(options, measure, show)


if __name__ == "__main__":
    main()
