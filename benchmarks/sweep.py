"""Time sweeps over seeds by nc_jax and by other tools, at equal measured accuracy.

K = 5 classes, d = 20, n = 10 samples a class, the flow of the summed cross-entropy to t = 10^5 from
the same Gaussian starts. Each tool is timed at the loosest tolerance of a list at which the errors
of its final states are at most 1e-6 of their norms, for all of the checked seeds. Compilation is
timed separately. Then: the cost of a seed by the number of seeds, by K and by d, and the rate of
the vector field's products as a share of the machine's rate for one large matrix product.
"""

import argparse
import dataclasses
import functools
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

# There is a worker process for each core, so that OpenBLAS needs no threads. The variable is read
# when NumPy is loaded, and is therefore set before the imports.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np
from peers.ulpm_batches import DECADES, gradsolve, scipy, torchdiffeq, torchode, vmapped_diffrax
from peers.ulpm_model import FEATURE_DIM, NUM_CLASSES, SAMPLES_PER_CLASS
from reporting import (
    Parser,
    add_json,
    machine,
    parse_with_json,
    positive,
    report_to_json,
    seconds,
    version,
)
from reports.sweep import ERROR, show
from tqdm import tqdm

import nc_jax as nc
from nc_jax.sweeps.plan import make_plan
from nc_jax.sweeps.programs import BatchPrograms

# Tolerances that are tried, the loosest first; atol is rtol/100.
LADDER = [m * 10.0**-e for e in (4, 5, 6, 7, 8) for m in (1, 0.7, 0.5, 0.4, 0.3, 0.2, 0.14)]
PROBLEM = nc.ulpm(NUM_CLASSES, FEATURE_DIM, SAMPLES_PER_CLASS)


def starts(seeds: np.ndarray) -> np.ndarray:
    """Flat starts of seeds, features first; the same bits as the starts of `nc.sweep`."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), seeds)
    states = jax.jit(jax.vmap(PROBLEM.init))(keys)
    flat = [np.asarray(x).reshape(len(seeds), -1) for x in (states.features, states.classifier)]
    return np.concatenate(flat, axis=1)


def last_state(state: nc.LastLayer) -> dict[str, jax.Array]:
    """The state itself, flat."""
    return {"state": jnp.concatenate([state.features.ravel(), state.classifier.ravel()])}


def sweep(shared_steps: bool, *, observed: bool = False) -> Callable[[float], Callable[..., dict]]:
    """A function of rtol; it returns a function from a number of seeds to the outputs of a sweep.

    The first call of the latter compiles.
    """

    def at(rtol: float) -> Callable[..., dict]:
        flow = nc.Flow(
            PROBLEM, nc.log_times(DECADES, 6 if observed else 1), rtol=rtol, atol=rtol / 100,
            observe=None if observed else last_state,
        )  # fmt: skip
        return batches_of(
            flow if shared_steps else lambda key: flow(PROBLEM.init(key), throw=False)
        )

    return at


def batches_of(run: Callable, *, settings: dict | None = None) -> Callable[..., dict]:
    """A function from a number of seeds to the outputs of all batches of a sweep.

    Each program is compiled once.
    """
    # `nc.sweep` would compile in every call, and this benchmark times compilation separately.
    programs: dict[int, tuple] = {}

    def outputs_of(num_seeds: int) -> dict:
        if num_seeds not in programs:
            plan = make_plan(
                run,
                num_seeds,
                seeds=None,
                grid={},
                key=jax.random.key(0),
                batch_size=None,
                mesh=None,
            )
            programs[num_seeds] = plan, BatchPrograms(plan)
        plan, compiled = programs[num_seeds]
        parts = [
            compiled.compute(cell, plan.seeds[places]).variables for cell, places in plan.batches()
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return outputs_of


@dataclasses.dataclass(frozen=True)
class Way:
    """A row of the comparison: a function of rtol that returns a solver.

    The solver takes start states, or, if `takes_states` is False, the number of seeds.
    """

    name: str
    of_rtol: Callable[[float], Callable]
    takes_states: bool = True

    def call(self, rtol: float, seeds: np.ndarray, states: np.ndarray) -> Callable[[], np.ndarray]:
        """A run over these seeds, giving their final states."""
        solve = self.of_rtol(rtol)
        if self.takes_states:
            return lambda: solve(states)
        return lambda: solve(len(seeds))["state"][:, -1]


def ways(pool: ProcessPoolExecutor, quick: bool) -> Iterator[Way]:
    """Every tool that is installed; with `quick` one way of each."""
    yield Way("SciPy RK45, log time, all cores", scipy(pool, "RK45", True))
    if not quick:
        yield Way("SciPy RK45, real time, all cores", scipy(pool, "RK45", False))
        yield Way("SciPy DOP853, log time, all cores", scipy(pool, "DOP853", True))
    if version("torch") and version("torchdiffeq"):
        yield Way("torchdiffeq dopri5, batches of 256", torchdiffeq(256))
    if version("torchode"):
        yield Way("torchode Tsit5, batches of 256", torchode(256))
    for batch in (64,) if quick else (16, 64, 256):
        yield Way(f"vmap over Diffrax Tsit5, batches of {batch}", vmapped_diffrax(batch))
    if version("gradsolve"):
        yield Way("gradsolve tsit5_replay, batches of 64", gradsolve("tsit5_replay", 64))
    yield Way("nc_jax sweep, separate steps", sweep(False), takes_states=False)
    yield Way("nc_jax sweep, shared steps", sweep(True), takes_states=False)


def compare(
    way: Way, ladder: Sequence[float], seeds: int, repeats: int, reference: np.ndarray
) -> dict:
    """Time of a way at the loosest tolerance that reaches the wanted error."""
    checked = np.arange(len(reference))
    states = starts(checked)
    size = np.linalg.norm(reference, axis=1)

    def error_of(ends: np.ndarray) -> float:
        return float(np.max(np.linalg.norm(ends[checked] - reference, axis=1) / size))

    # The last tolerance needs no trial: the error is measured again on the timed run, since larger
    # batches may take other steps.
    tried = (r for r in ladder[:-1] if error_of(way.call(r, checked, states)()) <= ERROR)
    rtol = next(tried, ladder[-1])
    numbers = np.arange(seeds)
    run = way.call(rtol, numbers, starts(numbers))
    first, ends = seconds(run)
    error = error_of(ends)
    if error > ERROR:
        return {"way": way.name, "rtol": rtol, "error": error, "rate": None, "compile": None}
    took = statistics.median(seconds(run)[0] for _ in range(repeats))
    return {
        "way": way.name, "rtol": rtol, "error": error, "rate": seeds / took,
        "compile": max(first - took, 0.0),
    }  # fmt: skip


def seed_scaling(rtol: float, counts: Sequence[int], repeats: int) -> Iterator[dict]:
    """The cost of a seed by their number."""
    outputs_of = sweep(True)(rtol)
    for count in counts:
        call = functools.partial(outputs_of, count)
        first, _ = seconds(call)
        # A run of many seeds is not repeated, since it is an average already.
        took = min(seconds(call)[0] for _ in range(repeats if count < 50_000 else 1))
        yield {"seeds": count, "seconds": took, "first": first, "per_seed": took / count}


def cost_of_a_seed(outputs_of: Callable[[int], dict], budget: float) -> dict:
    """Seconds and steps of a seed, measured on as many seeds as the budget of seconds allows."""
    outputs_of(1)
    took, outputs = seconds(functools.partial(outputs_of, 1))
    count = 1
    # Enough seeds to fill the batches, but at most a quarter of the budget, since they run twice.
    if took < budget / 16:
        count = min(int(budget / 4 / took), 2048)
        outputs_of(count)
        took, outputs = seconds(functools.partial(outputs_of, count))
    steps = float(np.mean(outputs["num_steps"]))
    return {"seeds": count, "per_seed": took / count, "steps": steps}


def size_scaling(rtol: float, sizes: Sequence[tuple[int, int]], budget: float) -> Iterator[dict]:
    """Seeds a second by K and d, on as many seeds as fit the budget of seconds."""
    for num_classes, feature_dim in sizes:
        problem = nc.ulpm(num_classes, feature_dim, SAMPLES_PER_CLASS)

        flow = nc.Flow(
            problem, nc.log_times(DECADES, 1), rtol=rtol, atol=rtol / 100,
            observe=lambda state: {"norm": state.squared_norm()},
        )  # fmt: skip
        yield {"K": num_classes, "d": feature_dim, **cost_of_a_seed(batches_of(flow), budget)}


def product_rate(size: int, dtype: str) -> float:
    """Floating-point operations a second of a square matrix product."""
    left = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(lambda x: x @ x)
    jax.block_until_ready(product(left))
    took = min(seconds(lambda: jax.block_until_ready(product(left)))[0] for _ in range(5))
    return 2 * size**3 / took


def repeatedly(call: Callable[[], object], repeats: int) -> None:
    """Call a function several times and wait once for the last result."""
    result = None
    for _ in range(repeats):
        result = call()
    jax.block_until_ready(result)


def field_rates(sizes: Sequence[tuple[int, int]], dtype: str, square: int) -> Iterator[dict]:
    """The field's rate of multiply-adds in its three products, as a share of a square product's."""
    peak = product_rate(square, dtype)
    for num_classes, feature_dim in sizes:
        problem = nc.ulpm(num_classes, feature_dim, SAMPLES_PER_CLASS)
        state = problem.init(jax.random.key(0), dtype=dtype)
        field = jax.jit(problem.scaled_descent)
        scale = jnp.asarray(3.0, dtype)
        jax.block_until_ready(field(state, scale))
        # Three products of N K d multiply-adds, each two operations.
        work = 6 * problem.num_samples * num_classes * feature_dim
        repeats = max(5, int(2e9 / work))
        several = functools.partial(repeatedly, functools.partial(field, state, scale), repeats)
        took = min(seconds(several)[0] for _ in range(3)) / repeats
        yield {
            "K": num_classes, "d": feature_dim, "dtype": dtype, "seconds": took,
            "rate": work / took, "share": work / took / peak, "square": square, "peak": peak,
        }  # fmt: skip


def measure(options: argparse.Namespace) -> dict:
    """Measure all tables."""
    place = machine()
    quick = options.quick
    with ProcessPoolExecutor(
        os.cpu_count(), mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        # The reference is an independent solver of order 8 at 1e-12.
        exact = scipy(pool, "DOP853", True)(1e-12)
        reference = exact(starts(np.arange(16 if quick else 64)))
        rows = []
        for way in tqdm(list(ways(pool, quick)), unit="way"):
            # One tolerance, since each compiles; it is accurate enough for all ways.
            ladder = [1e-7] if quick else LADDER
            rows.append(compare(way, ladder, options.seeds, 1 if quick else 3, reference))
    best = next(row for row in rows if row["way"] == "nc_jax sweep, shared steps")
    rtol = best["rtol"]
    observed = sweep(True, observed=True)(rtol)
    observed(options.seeds)
    took = statistics.median(
        seconds(lambda: observed(options.seeds))[0] for _ in range(1 if quick else 3)
    )
    rows.append({
        "way": "the same, every measure 6 times", "rtol": rtol, "error": best["error"],
        "rate": options.seeds / took, "compile": None,
    })  # fmt: skip
    counts = [1, 16, 64] if quick else [1, 16, 64, 256, 1024, 4096, 16384, 100_000]
    sizes = [(5, 5)] if quick else [
        (5, 5), (5, 20), (5, 100), (10, 20), (20, 20), (20, 100), (50, 50), (100, 100), (300, 300),
        (1000, 512),
    ]  # fmt: skip
    shapes = [(20, 20), (100, 100)] if quick else [
        (5, 20), (20, 20), (100, 100), (300, 300), (1000, 512),
    ]  # fmt: skip
    return {
        "machine": place,
        "seeds": options.seeds,
        "rows": rows,
        "by_seeds": list(tqdm(seed_scaling(rtol, counts, 1 if quick else 3), total=len(counts))),
        "by_size": list(tqdm(size_scaling(rtol, sizes, 1 if quick else 12), total=len(sizes))),
        "field": [
            row
            for dtype in ("float64", "float32")
            for row in field_rates(shapes, dtype, 512 if quick else 4096)
        ],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=positive, help="of the comparison (default 2048; with --quick 64)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few seeds and sizes, one tolerance, once each"
    )
    add_json(parser, "results/sweep_benchmark.json")
    options = parse_with_json(parser, arguments)
    options.seeds = options.seeds or (64 if options.quick else 2048)
    jax.config.update("jax_enable_x64", True)
    report_to_json(options, measure, show)


if __name__ == "__main__":
    main()
