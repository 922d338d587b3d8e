"""Time nc_jax on the unconstrained layer-peeled model, and other tools that can compute the same.

All rows have one start and one size: K = 5 classes, d = 20, n = 10 samples a class. The descent is
the published run of 10^5 steps at rate 5 on the mean cross-entropy. The flow is that of the summed
loss to the time that corresponds to these steps, t = 5 * 10^5 / 50 = 10^4.
"""

import argparse
import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from peers.ulpm_model import FEATURE_DIM, NUM_CLASSES, SAMPLES_PER_CLASS, flatten
from peers.ulpm_runs import (
    ATOL,
    RATE,
    RTOL,
    FinalState,
    Setup,
    numpy_descent,
    scan_descent,
    scipy_flow,
    torch_descent,
    torch_flow,
)
from reporting import Parser, add_json, machine, parse_with_json, positive, seconds
from reports.ulpm import SLOW, Row, show
from tqdm import tqdm

import nc_jax

FULL_STEPS, QUICK_STEPS, PROBE_STEPS = 100_000, 2_000, 2_000
ROOT = Path(__file__).resolve().parent.parent

# One object for all rows, because nc_jax compiles anew for every optimizer object.
SGD = optax.sgd(RATE)

# XLA passes every small product to a pool of threads, which costs more than the product. These
# options turn the pool off for one function. Above about N K d = 20 000 they make products slower.
SMALL_CPU_OPTIONS = {
    "xla_cpu_multi_thread_eigen": False,
    "xla_cpu_experimental_ynn_fusion_type": "",
    "xla_cpu_prefer_vector_width": 512,
}


def start_state(setup: Setup, dtype: str) -> nc_jax.LastLayer:
    """The start as a state of nc_jax."""
    return nc_jax.LastLayer(
        jnp.asarray(setup.features, dtype), jnp.asarray(setup.classifier, dtype)
    )


def nc_jax_descent(
    setup: Setup,
    dtype: str,
    *,
    saves: int | None = 1,
    options: dict[str, bool | str | int] | None = None,
) -> Callable[[], FinalState]:
    """`nc_jax.gradient_descent`, with all observables at its end.

    `saves=None` records them at nc_jax's default steps instead.
    """
    problem = nc_jax.ulpm(NUM_CLASSES, FEATURE_DIM, SAMPLES_PER_CLASS, reduction="mean")
    start = start_state(setup, dtype)
    save_steps = None if saves is None else np.array([setup.num_steps])

    def descend(start: nc_jax.LastLayer) -> nc_jax.Trajectory:
        return nc_jax.gradient_descent(problem, start, SGD, setup.num_steps, save_steps=save_steps)

    call = descend if options is None else jax.jit(descend, compiler_options=options)

    def run() -> FinalState:
        final = jax.block_until_ready(call(start)).final
        return FinalState(np.asarray(final.features), np.asarray(final.classifier))

    return run


def nc_jax_flow(
    setup: Setup,
    dtype: str,
    clock: nc_jax.AbstractClock,
    *,
    solver: diffrax.AbstractSolver | None = None,
    saves: int = 1,
    stop_log10: float | None = None,
    rtol: float = RTOL,
    atol: float = ATOL,
) -> Callable[[], FinalState]:
    """`nc_jax.gradient_flow`, by default with Tsit5; all observables are recorded at every save."""
    problem = nc_jax.ulpm(NUM_CLASSES, FEATURE_DIM, SAMPLES_PER_CLASS)
    start = start_state(setup, dtype)
    save_at = nc_jax.log_times(np.log10(setup.horizon) if stop_log10 is None else stop_log10, saves)
    # `save_at` is in the coordinate of the clock, and `log_times` is in that of `LogTime`.
    if isinstance(clock, nc_jax.RealTime):
        save_at = np.expm1(save_at)
    if isinstance(clock, nc_jax.LogLogTime):
        save_at = np.log1p(save_at)
    solver = diffrax.Tsit5() if solver is None else solver

    def run() -> FinalState:
        trajectory = jax.block_until_ready(
            nc_jax.gradient_flow(
                problem, start, save_at, clock=clock, solver=solver, rtol=rtol, atol=atol
            )
        )
        final = trajectory.final
        weights = np.asarray(final.features), np.asarray(final.classifier)
        return FinalState(*weights, int(trajectory.num_steps))

    return run


@dataclasses.dataclass(frozen=True)
class Case:
    """A row: the function that builds its run, and whether the run compiles.

    The group determines the error that is measured.
    """

    group: str
    name: str
    dtype: str
    build: Callable[[Setup, str], Callable[[], FinalState]]
    compiles: bool = False


DESCENT, FLOW, COLD = "descent", "flow", "cold start"
FAR, FARTHEST = "flow to t = 10^1000", "flow to t = 10^(10^6)"
REAL, LOG = nc_jax.RealTime(), nc_jax.LogTime()
default_saves = functools.partial(nc_jax_descent, saves=None)
tuned_descent = functools.partial(nc_jax_descent, options=SMALL_CPU_OPTIONS)
rk45 = functools.partial(scipy_flow, method="RK45")
rk45_log = functools.partial(scipy_flow, method="RK45", in_log_time=True)
dop853 = functools.partial(scipy_flow, method="DOP853")
real_flow = functools.partial(nc_jax_flow, clock=REAL)
log_flow = functools.partial(nc_jax_flow, clock=LOG)
log_flow_101 = functools.partial(nc_jax_flow, clock=LOG, saves=101)
rk45_far = functools.partial(rk45_log, stop_log10=1000.0)
far = functools.partial(nc_jax_flow, clock=LOG, saves=201, stop_log10=1000.0)
far_tight = functools.partial(far, rtol=1e-8, atol=1e-10)
farthest = functools.partial(
    nc_jax_flow, clock=nc_jax.LogLogTime(), solver=nc_jax.RKC(), stop_log10=1e6
)
farthest_loose = functools.partial(farthest, rtol=1e-4, atol=1e-6)

TORCH, NUMPY, NC_JAX = "PyTorch autograd, SGD", "NumPy, gradient by hand", "nc_jax descent"
TUNED = "nc_jax descent, XLA options"
NC_JAX_FLOW, TORCH_FLOW = "nc_jax flow, log time", "torchdiffeq dopri5, real time"
SCIPY_FLOW, NC_JAX_RKC = "SciPy RK45, real time", "nc_jax RKC, log-log time"
CASES = (
    Case(DESCENT, TORCH, "float32", torch_descent),
    Case(DESCENT, TORCH, "float64", torch_descent),
    Case(DESCENT, NUMPY, "float64", numpy_descent),
    Case(DESCENT, "JAX grad in lax.scan", "float32", scan_descent, compiles=True),
    Case(DESCENT, "JAX grad in lax.scan", "float64", scan_descent, compiles=True),
    Case(DESCENT, NC_JAX, "float32", nc_jax_descent, compiles=True),
    Case(DESCENT, NC_JAX, "float64", nc_jax_descent, compiles=True),
    Case(DESCENT, TUNED, "float32", tuned_descent, compiles=True),
    Case(DESCENT, TUNED, "float64", tuned_descent, compiles=True),
    Case(DESCENT, "nc_jax descent, default saves", "float64", default_saves, compiles=True),
    Case(FLOW, SCIPY_FLOW, "float64", rk45),
    Case(FLOW, "SciPy DOP853, real time", "float64", dop853),
    Case(FLOW, "SciPy RK45, log time by hand", "float64", rk45_log),
    Case(FLOW, TORCH_FLOW, "float64", torch_flow),
    Case(FLOW, "nc_jax flow, real time", "float64", real_flow, compiles=True),
    Case(FLOW, NC_JAX_FLOW, "float64", log_flow, compiles=True),
    Case(FLOW, "nc_jax flow, log time, 101 saves", "float64", log_flow_101, compiles=True),
    Case(FAR, "SciPy RK45, log time by hand", "float64", rk45_far),
    Case(FAR, "nc_jax flow, log time, 201 saves", "float64", far, compiles=True),
    Case(FAR, "nc_jax flow, the same, rtol 1e-8", "float64", far_tight, compiles=True),
    Case(FARTHEST, f"{NC_JAX_RKC}, rtol 1e-4", "float64", farthest_loose, compiles=True),
    Case(FARTHEST, f"{NC_JAX_RKC}, rtol 1e-6", "float64", farthest, compiles=True),
)

EXAMPLE = "examples/ulpm_flow.py, whole"
IMPORT, IMPORT_PEERS = "import nc_jax", "import jax, equinox, diffrax"


# Measuring


def measure(case: Case, setup: Setup) -> tuple[Row, FinalState | None]:
    """Time a case: the first call alone if it is slow, else the median of later calls."""
    row = Row(case.group, case.name, case.dtype)
    try:
        run = case.build(setup, case.dtype)
    except ImportError as error:
        row.note = f"skipped: {error.name} is not installed"
        return row, None
    first, result = seconds(run)
    # The first call of a slow case that compiles nothing is a measurement already.
    times = [first]
    if case.compiles or first < SLOW:
        times = [seconds(run)[0]]
        repeats = setup.repeats if times[0] < SLOW else 1
        times += [seconds(run)[0] for _ in range(repeats - 1)]
    row.run_s, row.repeats = statistics.median(times), len(times)
    # Noise can make the difference negative where little is compiled.
    row.compile_s = max(first - row.run_s, 0.0) if case.compiles else None
    row.steps, row.evals = result.steps, result.evals
    if case.group == DESCENT:
        row.steps = setup.num_steps
        row.us_per_step = 1e6 * row.run_s / setup.num_steps
    return row, result


def fastest_threads(setup: Setup) -> dict[str, dict[int, float]]:
    """PyTorch's microseconds a step by dtype and number of threads: one, and PyTorch's default."""
    try:
        import torch
    except ImportError:
        return {}
    steps = min(PROBE_STEPS, 1 + setup.num_steps // 4)
    # More threads are slower for products of this size; PyTorch is timed with the faster choice.
    choices = sorted({1, torch.get_num_threads()})
    probed = {}
    for dtype in ("float32", "float64"):
        probed[dtype] = {}
        for threads in choices:
            trial = dataclasses.replace(setup, num_steps=steps, threads={dtype: threads})
            run = torch_descent(trial, dtype)
            # The first run warms up and does not count.
            run()
            best = min(seconds(run)[0] for _ in range(3))
            probed[dtype][threads] = 1e6 * best / steps
    return probed


def cold_start(rounds: int) -> list[Row]:
    """Time whole processes in turns, so that a change of the machine's speed affects all alike.

    The first of several rounds reads the files into memory and does not count.
    """
    script = ROOT / "examples" / "ulpm_flow.py"
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--K {NUM_CLASSES} --d {FEATURE_DIM} --no-plot --out {folder}".split()
        commands = {
            EXAMPLE: [str(script), *flags],
            IMPORT: ["-c", IMPORT],
            IMPORT_PEERS: ["-c", IMPORT_PEERS],
        }
        rows = {name: Row(COLD, name) for name in commands}
        if rounds == 1 or not script.exists():
            rows[EXAMPLE].note = "skipped: " + ("--quick" if script.exists() else "no such script")
            del commands[EXAMPLE]
        times = {name: [] for name in commands}
        for _ in tqdm(range(rounds), desc="cold start", unit="round", disable=None):
            for name, command in list(commands.items()):
                start = time.perf_counter()
                # Without the cache of programs, since a cold start compiles.
                done = subprocess.run(
                    [sys.executable, *command], cwd=ROOT, capture_output=True, text=True,
                    env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "0"},
                )  # fmt: skip
                times[name].append(time.perf_counter() - start)
                if done.returncode:
                    reason = (done.stderr.strip() or "no message").splitlines()[-1]
                    rows[name].note = f"failed with exit code {done.returncode}: {reason}"
                    del commands[name]
    for name in commands:
        warm = times[name][1:] or times[name]
        rows[name].run_s, rows[name].repeats = statistics.median(warm), len(warm)
    return list(rows.values())


# Errors and ratios


def flow_reference(setup: Setup) -> np.ndarray | None:
    """Final state of the flow at rtol 1e-12, from SciPy; None without SciPy."""
    try:
        run = scipy_flow(setup, "float64", "DOP853", in_log_time=True, rtol=1e-12, atol=1e-14)
    except ImportError:
        return None
    result = run()
    return flatten(result.features, result.classifier)


def invariant_drift(run: FinalState, setup: Setup) -> float:
    """Largest change of what the flow conserves, WᵀW − HᵀH and Σ_c w_c, relative to its terms."""
    features, classifier = setup.features, setup.classifier
    balance = run.classifier.T @ run.classifier - run.features.T @ run.features
    balance -= classifier.T @ classifier - features.T @ features
    balance /= np.sum(features**2) + np.sum(classifier**2)
    total = np.sum(run.classifier - classifier, axis=0) / np.linalg.norm(classifier)
    return float(max(np.linalg.norm(balance), np.linalg.norm(total)))


def add_errors(measured: Sequence[tuple[Row, FinalState | None]], setup: Setup) -> None:
    """Fill the error column; `reports.ulpm.METHOD` defines the errors."""
    exact = flow_reference(setup)
    descended = next(r for row, r in measured if row.name == NUMPY)
    assert descended is not None
    reference = flatten(descended.features, descended.classifier)
    for row, result in measured:
        if result is None:
            continue
        final = flatten(result.features, result.classifier).astype(float)
        if row.group == DESCENT:
            row.error = float(np.max(np.abs(final - reference)))
            row.error_kind = "ref" if row.name == NUMPY else "abs"
        elif row.group == FLOW and exact is not None:
            row.error = float(np.linalg.norm(final - exact) / np.linalg.norm(exact))
            row.error_kind = "rel"
        elif row.group in (FAR, FARTHEST):
            row.error, row.error_kind = invariant_drift(result, setup), "drift"


def run_time(rows: Sequence[Row], name: str, *, dtype: str = "") -> float | None:
    """Run time of a row by name, None if it was skipped."""
    return next(r.run_s for r in rows if r.name == name and (not dtype or r.dtype == dtype))


def compare(rows: Sequence[Row]) -> dict[str, float]:
    """Fill the x column; return ratios of run times, without those of skipped rows."""
    loop = run_time(rows, TORCH, dtype="float32")
    for row in rows:
        if loop and row.run_s and row.group in (DESCENT, FLOW):
            row.x = loop / row.run_s
    flow = run_time(rows, NC_JAX_FLOW)
    pairs = {
        f"{dtype} descent: PyTorch loop / {name}": (
            run_time(rows, TORCH, dtype=dtype),
            run_time(rows, name, dtype=dtype),
        )
        for name in (NC_JAX, TUNED)
        for dtype in ("float32", "float64")
    }
    compiled = next(r for r in rows if r.name == NC_JAX and r.dtype == "float32")
    first_call = (compiled.compile_s or 0.0) + (compiled.run_s or 0.0)
    pairs |= {
        "float32 descent: PyTorch loop / nc_jax with compilation": (loop, first_call),
        "PyTorch loop (float32) / nc_jax flow in log time": (loop, flow),
        "torchdiffeq / nc_jax flow in log time": (run_time(rows, TORCH_FLOW), flow),
        "SciPy RK45 / nc_jax flow in log time": (run_time(rows, SCIPY_FLOW), flow),
        f"{IMPORT} / {IMPORT_PEERS}": (run_time(rows, IMPORT), run_time(rows, IMPORT_PEERS)),
    }
    return {name: top / bottom for name, (top, bottom) in pairs.items() if top and bottom}


# Command line


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, and create the folder of the JSON file before minutes are spent."""
    parser = Parser(
        description=__doc__,
        epilog="Examples: `python benchmarks/ulpm.py` (three minutes); `python benchmarks/ulpm.py "
        "--quick` (half a minute, few repeats). PyTorch, torchdiffeq and SciPy come with "
        "`pip install nc_jax[bench]`; rows that lack theirs are skipped. Leave the machine "
        "otherwise idle.",
    )
    parser.add_argument(
        "--steps",
        type=positive,
        help=f"descent steps; the flow's horizon follows (default {FULL_STEPS}, as published)",
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_STEPS} steps and fewer repeats"
    )
    add_json(parser, "results/benchmark_ulpm.json")
    options = parse_with_json(parser, arguments)
    options.steps = options.steps or (QUICK_STEPS if options.quick else FULL_STEPS)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every row, print the table, write the JSON file."""
    options = parse(arguments)
    jax.config.update("jax_enable_x64", True)
    place = machine()  # before the run, which is part of the load average after it
    problem = nc_jax.ulpm(NUM_CLASSES, FEATURE_DIM, SAMPLES_PER_CLASS)
    start = problem.init(jax.random.fold_in(jax.random.key(0), 0))
    setup = Setup(
        np.asarray(start.features),
        np.asarray(start.classifier),
        num_steps=options.steps,
        repeats=2 if options.quick else 7,
    )
    probed = fastest_threads(setup)
    threads = {dtype: min(tried, key=tried.__getitem__) for dtype, tried in probed.items()}
    setup = dataclasses.replace(setup, threads=threads)
    bar = tqdm(CASES, unit="row", disable=None)
    measured = []
    for case in bar:
        bar.set_description(case.name)
        measured.append(measure(case, setup))
    add_errors(measured, setup)
    rows = [row for row, _ in measured] + cold_start(rounds=1 if options.quick else 6)
    facts = {
        "machine": place,
        "num_steps": setup.num_steps,
        "horizon": setup.horizon,
        "torch_us_per_step_by_threads": probed,
        "torch_threads": threads,
        "ratios": compare(rows),
    }
    print(show(rows, facts, setup))
    facts["rows"] = [dataclasses.asdict(row) for row in rows]
    options.json.write_text(json.dumps(facts, indent=2) + "\n")
    print(f"\nwrote {options.json}")


if __name__ == "__main__":
    main()
