"""Time nc_jax on the unconstrained layer-peeled model, beside the tools one would use without it.

Every row starts from one state and goes to one horizon: K = 5 classes, d = 20, n = 10 samples a
class, the published run of 10^5 descent steps at rate 5 on the mean cross-entropy, and the flow
of the summed loss to the time that those steps amount to, t = 5 * 10^5 / 50 = 10^4.
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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from reporting import (
    Parser,
    add_json,
    machine,
    parse_with_json,
    positive,
    seconds,
    show_machine,
    show_ratio,
    show_time,
)
from tqdm import tqdm

import nc_jax

NUM_CLASSES, FEATURE_DIM, SAMPLES_PER_CLASS = 5, 20, 10
NUM_SAMPLES = NUM_CLASSES * SAMPLES_PER_CLASS
RATE = 5.0
FULL_STEPS, QUICK_STEPS, PROBE_STEPS = 100_000, 2_000, 2_000
RTOL, ATOL = 1e-6, 1e-8
SLOW = 5.0  # seconds after which a run is not repeated
ROOT = Path(__file__).resolve().parent.parent

# Made once: nc_jax compiles anew for every optimizer object.
SGD = optax.sgd(RATE)

# XLA hands every small product to a thread pool, which costs more than the product itself. A user
# may switch that off for a function of theirs; past about N K d = 20 000 it slows products down.
SMALL_CPU_OPTIONS = {
    "xla_cpu_multi_thread_eigen": False,
    "xla_cpu_experimental_ynn_fusion_type": "",
    "xla_cpu_prefer_vector_width": 512,
}


class Run(NamedTuple):
    """What one run hands back: the final state, and what the solver says of its work."""

    features: np.ndarray
    classifier: np.ndarray
    steps: int | None = None
    evals: int | None = None


@dataclasses.dataclass(frozen=True)
class Setup:
    """What all rows share: start (float64), descent steps, repeats, PyTorch threads by dtype."""

    features: np.ndarray
    classifier: np.ndarray
    num_steps: int
    repeats: int
    threads: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def horizon(self) -> float:
        """Time of the summed loss's flow that the descent amounts to."""
        return RATE * self.num_steps / NUM_SAMPLES

    def layer(self, dtype: str) -> nc_jax.LastLayer:
        """Start as nc_jax takes it."""
        return nc_jax.LastLayer(
            jnp.asarray(self.features, dtype), jnp.asarray(self.classifier, dtype)
        )


LABELS = np.repeat(np.arange(NUM_CLASSES), SAMPLES_PER_CLASS)
ONE_HOT = np.eye(NUM_CLASSES)[LABELS]


# Descent: each function returns a callable that makes one run.


def torch_descent(setup: Setup, dtype: str) -> Callable[[], Run]:
    """The training loop that the literature uses: autograd and `torch.optim.SGD`."""
    import torch
    import torch.nn.functional as F

    labels = torch.from_numpy(LABELS)

    def run() -> Run:
        torch.set_num_threads(setup.threads.get(dtype, torch.get_num_threads()))
        features, classifier = (
            torch.nn.Parameter(torch.tensor(x, dtype=getattr(torch, dtype)))
            for x in (setup.features, setup.classifier)
        )
        optimizer = torch.optim.SGD([features, classifier], lr=RATE)
        for _ in range(setup.num_steps):
            optimizer.zero_grad()
            loss = F.cross_entropy(features @ classifier.T, labels)
            loss.backward()
            optimizer.step()
        return Run(features.detach().numpy(), classifier.detach().numpy())

    return run


def numpy_residual(features: np.ndarray, classifier: np.ndarray) -> np.ndarray:
    """softmax − onehot, shape (N, K)."""
    logits = features @ classifier.T
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) - ONE_HOT


def numpy_descent(setup: Setup, dtype: str) -> Callable[[], Run]:
    """NumPy with the gradient worked out by hand."""

    def run() -> Run:
        features, classifier = setup.features.astype(dtype), setup.classifier.astype(dtype)
        for _ in range(setup.num_steps):
            step = (RATE / NUM_SAMPLES) * numpy_residual(features, classifier)
            features, classifier = features - step @ classifier, classifier - step.T @ features
        return Run(features, classifier)

    return run


def scan_descent(setup: Setup, dtype: str) -> Callable[[], Run]:
    """JAX without nc_jax: `jax.grad` of the loss inside `jax.lax.scan`."""

    def loss(weights):
        features, classifier = weights
        log_softmax = jax.nn.log_softmax(features @ classifier.T)
        return -jnp.mean(log_softmax[np.arange(NUM_SAMPLES), LABELS])

    @jax.jit
    def descend(weights):
        def step(weights, _):
            slope = jax.grad(loss)(weights)
            return jax.tree.map(lambda x, dx: x - RATE * dx, weights, slope), None

        return jax.lax.scan(step, weights, length=setup.num_steps)[0]

    start = jnp.asarray(setup.features, dtype), jnp.asarray(setup.classifier, dtype)

    def run() -> Run:
        features, classifier = descend(start)
        return Run(np.asarray(features), np.asarray(classifier))

    return run


def nc_jax_descent(
    setup: Setup,
    dtype: str,
    saves: int | None = 1,
    options: dict[str, bool | str | int] | None = None,
) -> Callable[[], Run]:
    """`nc_jax.gradient_descent`, with all observables at the last step, or at nc_jax's default."""
    problem = nc_jax.ulpm(NUM_CLASSES, FEATURE_DIM, SAMPLES_PER_CLASS, "mean")
    start = setup.layer(dtype)
    save_steps = None if saves is None else np.array([setup.num_steps])

    def descend(start: nc_jax.LastLayer) -> nc_jax.Trajectory:
        return nc_jax.gradient_descent(problem, start, SGD, setup.num_steps, save_steps)

    call = descend if options is None else jax.jit(descend, compiler_options=options)

    def run() -> Run:
        final = jax.block_until_ready(call(start)).final
        return Run(np.asarray(final.features), np.asarray(final.classifier))

    return run


# Flow of the summed loss: x' = −∇L.


def flatten(features: np.ndarray, classifier: np.ndarray) -> np.ndarray:
    """(N d + K d,) vector, as SciPy takes it."""
    return np.concatenate([features.ravel(), classifier.ravel()])


def split(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of `flatten`."""
    cut = NUM_SAMPLES * FEATURE_DIM
    return flat[:cut].reshape(-1, FEATURE_DIM), flat[cut:].reshape(-1, FEATURE_DIM)


def real_field(t: float, flat: np.ndarray) -> np.ndarray:
    """−∇L in real time."""
    del t
    features, classifier = split(flat)
    residual = numpy_residual(features, classifier)
    return flatten(-residual @ classifier, -residual.T @ features)


def log_field(u: float, flat: np.ndarray) -> np.ndarray:
    """−∇L e^u in u = log(1 + t), with exponents summed before `exp`, so that it never overflows."""
    features, classifier = split(flat)
    logits = features @ classifier.T
    peak = logits.max(axis=1, keepdims=True)
    normalizer = peak + np.log(np.exp(logits - peak).sum(axis=1, keepdims=True))
    # Capped, as nc_jax does: a trial step far too long must fail with a number, not with NaN.
    others = np.exp(np.minimum(u + logits - normalizer, 350.0)) * (1 - ONE_HOT)
    # The label's entry is minus the sum of the others: no digits are lost to 1 − p.
    residual = others - others.sum(axis=1, keepdims=True) * ONE_HOT
    return flatten(-residual @ classifier, -residual.T @ features)


def scipy_flow(
    setup: Setup,
    dtype: str,
    method: str,
    in_log_time: bool = False,
    stop_log10: float | None = None,
    rtol: float = RTOL,
    atol: float = ATOL,
) -> Callable[[], Run]:
    """`scipy.integrate.solve_ivp` on a NumPy field."""
    from scipy.integrate import solve_ivp

    field, end = real_field, setup.horizon
    if in_log_time:
        log10_t = np.log10(setup.horizon) if stop_log10 is None else stop_log10
        field, end = log_field, np.logaddexp(0.0, log10_t * np.log(10))
    start = flatten(setup.features, setup.classifier).astype(dtype)

    def run() -> Run:
        solution = solve_ivp(field, (0.0, end), start, method, rtol=rtol, atol=atol)
        assert solution.success, solution.message
        return Run(*split(solution.y[:, -1]), solution.t.size - 1, solution.nfev)

    return run


def torch_flow(setup: Setup, dtype: str) -> Callable[[], Run]:
    """`torchdiffeq.odeint`, dopri5, on a field written by hand in PyTorch."""
    import torch
    import torchdiffeq

    kind = getattr(torch, dtype)
    one_hot = torch.tensor(ONE_HOT, dtype=kind)
    start = tuple(torch.tensor(x, dtype=kind) for x in (setup.features, setup.classifier))
    times = torch.tensor([0.0, setup.horizon], dtype=kind)
    evals = 0

    def field(t, state):
        nonlocal evals
        evals += 1
        features, classifier = state
        residual = torch.softmax(features @ classifier.T, 1) - one_hot
        return -residual @ classifier, -residual.T @ features

    def run() -> Run:
        nonlocal evals
        evals = 0
        torch.set_num_threads(setup.threads.get(dtype, torch.get_num_threads()))
        with torch.no_grad():
            solution = torchdiffeq.odeint(
                field, start, times, rtol=RTOL, atol=ATOL, method="dopri5"
            )
        return Run(*(x[-1].numpy() for x in solution), evals=evals)

    return run


def nc_jax_flow(
    setup: Setup,
    dtype: str,
    clock: nc_jax.RealTime | nc_jax.LogTime,
    saves: int = 1,
    stop_log10: float | None = None,
    rtol: float = RTOL,
    atol: float = ATOL,
) -> Callable[[], Run]:
    """`nc_jax.gradient_flow` with Tsit5; all observables at every save."""
    problem = nc_jax.ulpm(NUM_CLASSES, FEATURE_DIM, SAMPLES_PER_CLASS)
    start = setup.layer(dtype)
    save_at = nc_jax.log_times(np.log10(setup.horizon) if stop_log10 is None else stop_log10, saves)
    if isinstance(clock, nc_jax.RealTime):
        save_at = np.expm1(save_at)

    def run() -> Run:
        trajectory = jax.block_until_ready(
            nc_jax.gradient_flow(problem, start, save_at, clock, rtol=rtol, atol=atol)
        )
        final = trajectory.final
        weights = np.asarray(final.features), np.asarray(final.classifier)
        return Run(*weights, int(trajectory.num_steps))

    return run


@dataclasses.dataclass(frozen=True)
class Case:
    """A row: how to build its run, whether it compiles, and what its error column holds."""

    group: str
    name: str
    dtype: str
    build: Callable[[Setup, str], Callable[[], Run]]
    compiles: bool = False


DESCENT, FLOW, FAR, COLD = "descent", "flow", "flow to t = 10^1000", "cold start"
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

TORCH, NUMPY, NC_JAX = "PyTorch autograd, SGD", "NumPy, gradient by hand", "nc_jax descent"
TUNED = "nc_jax descent, XLA options"
NC_JAX_FLOW, TORCH_FLOW = "nc_jax flow, log time", "torchdiffeq dopri5, real time"
SCIPY_FLOW = "SciPy RK45, real time"
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
)

EXAMPLE = "examples/ulpm_flow.py, whole"
IMPORT, IMPORT_PEERS = "import nc_jax", "import jax, equinox, diffrax"


@dataclasses.dataclass
class Row:
    """One line of the table; None where a column does not apply."""

    group: str
    name: str
    dtype: str = ""
    compile_s: float | None = None
    run_s: float | None = None
    repeats: int = 0
    steps: int | None = None
    evals: int | None = None
    us_per_step: float | None = None
    error: float | None = None
    error_kind: str = ""
    x: float | None = None
    note: str = ""


# Measuring


def measure(case: Case, setup: Setup) -> tuple[Row, Run | None]:
    """Time a case: the first call alone where that is slow, else the median of later ones."""
    row = Row(case.group, case.name, case.dtype)
    try:
        run = case.build(setup, case.dtype)
    except ImportError as error:
        row.note = f"skipped: {error.name} is not installed"
        return row, None
    first, result = seconds(run)
    times = [first]
    if case.compiles or first < SLOW:
        times = [seconds(run)[0]]
        repeats = setup.repeats if times[0] < SLOW else 1
        times += [seconds(run)[0] for _ in range(repeats - 1)]
    row.run_s, row.repeats = statistics.median(times), len(times)
    row.compile_s = max(first - row.run_s, 0.0) if case.compiles else None
    row.steps, row.evals = result.steps, result.evals
    if case.group == DESCENT:
        row.steps = setup.num_steps
        row.us_per_step = 1e6 * row.run_s / setup.num_steps
    return row, result


def fastest_threads(setup: Setup) -> dict[str, dict[int, float]]:
    """PyTorch's microseconds a step, by dtype and threads: one, and its default."""
    try:
        import torch
    except ImportError:
        return {}
    steps = min(PROBE_STEPS, 1 + setup.num_steps // 4)
    choices = sorted({1, torch.get_num_threads()})
    probed = {}
    for dtype in ("float32", "float64"):
        probed[dtype] = {}
        for threads in choices:
            trial = dataclasses.replace(setup, num_steps=steps, threads={dtype: threads})
            run = torch_descent(trial, dtype)
            run()
            best = min(seconds(run)[0] for _ in range(3))
            probed[dtype][threads] = 1e6 * best / steps
    return probed


def cold_start(rounds: int) -> list[Row]:
    """Whole processes, interleaved so that a drift of the machine's speed falls on all alike.

    The first of several rounds warms the file cache and does not count.
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


# Judging


def flow_reference(setup: Setup) -> np.ndarray | None:
    """Final state of the flow at rtol 1e-12, from SciPy; None without SciPy."""
    try:
        run = scipy_flow(setup, "float64", "DOP853", True, rtol=1e-12, atol=1e-14)
    except ImportError:
        return None
    result = run()
    return flatten(result.features, result.classifier)


def invariant_drift(run: Run, setup: Setup) -> float:
    """Largest change of what the flow keeps, WᵀW − HᵀH and Σ_c w_c, relative to its terms."""
    features, classifier = setup.features, setup.classifier
    balance = run.classifier.T @ run.classifier - run.features.T @ run.features
    balance -= classifier.T @ classifier - features.T @ features
    balance /= np.sum(features**2) + np.sum(classifier**2)
    total = np.sum(run.classifier - classifier, axis=0) / np.linalg.norm(classifier)
    return float(max(np.linalg.norm(balance), np.linalg.norm(total)))


def add_errors(measured: Sequence[tuple[Row, Run | None]], setup: Setup) -> None:
    """Fill the error column: see `METHOD`."""
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
        elif row.group == FAR:
            row.error, row.error_kind = invariant_drift(result, setup), "drift"


def run_time(rows: Sequence[Row], name: str, dtype: str = "") -> float | None:
    """Run time of a row by name, None if it was skipped."""
    return next(r.run_s for r in rows if r.name == name and (not dtype or r.dtype == dtype))


def compare(rows: Sequence[Row]) -> dict[str, float]:
    """Fill the x column; return the ratios that matter, without those that lack a side."""
    loop = run_time(rows, TORCH, "float32")
    for row in rows:
        if loop and row.run_s and row.group in (DESCENT, FLOW):
            row.x = loop / row.run_s
    flow = run_time(rows, NC_JAX_FLOW)
    pairs = {
        f"{dtype} descent: PyTorch loop / {name}": (
            run_time(rows, TORCH, dtype),
            run_time(rows, name, dtype),
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


# Reporting


METHOD = """\
start      one draw, norm 1, float64, cast for float32 rows; every descent row makes all {steps:,}
           steps (nothing is extrapolated), every flow row runs to t = {horizon:g}
compile    first call minus run, ~0 where the row above compiled the same
           run: median of `reps` later calls (1 where a call takes over {slow:g} s, and then the
           first one where nothing compiles)
saves      nc_jax records all its observables: at the end, at 101 saves ("default saves" and
           "101 saves"), at 201 on the way to 10^1000; the others record nothing
tolerance  rtol {rtol:g}, atol {atol:g} unless the name says otherwise (rtol 1e-8: atol 1e-10)
steps      of a solver, rejected ones included for nc_jax; evals: of the field, where counted
error      abs: largest difference of the final state from the NumPy float64 descent (ref)
           rel: ||difference|| / ||reference|| of the final (W, H); reference: DOP853, rtol 1e-12
           drift: largest relative change of an invariant from start to end. 10^1000 is beyond
           any float: a solver gets there only in log time, with the field formed in log space
x          run time of the PyTorch float32 loop over that of the row
"""


def show_row(row: Row) -> str:
    """One aligned line."""
    name = f"{row.name:<34}{row.dtype:<9}"
    if row.run_s is None:
        return f"{name}{row.note}"
    error = "-" if row.error is None else f"{row.error:.1e} {row.error_kind}"
    cells = (
        f"{show_time(row.compile_s):>9}",
        f"{show_time(row.run_s):>9}",
        f"{row.repeats:>5}",
        f"{row.us_per_step:>8.3g}" if row.us_per_step else f"{'-':>8}",
        f"{row.steps:>8}" if row.steps else f"{'-':>8}",
        f"{row.evals:>6}" if row.evals else f"{'-':>6}",
        f"{error:>14}",
        f"{show_ratio(row.x):>7}",
    )
    return name + "".join(cells)


def report(rows: Sequence[Row], facts: dict, setup: Setup) -> str:
    """The printed table."""
    place = facts["machine"]
    lines = show_machine(place)
    for dtype, probed in facts["torch_us_per_step_by_threads"].items():
        tried = ", ".join(f"{us:.0f} us a step with {n}" for n, us in probed.items())
        lines.append(
            f"PyTorch {dtype}: {setup.threads[dtype]} thread(s), the fastest of a trial: {tried}"
        )
    method = METHOD.format(
        steps=setup.num_steps, horizon=setup.horizon, slow=SLOW, rtol=RTOL, atol=ATOL
    )
    header = f"{'':<34}{'dtype':<9}{'compile':>9}{'run':>9}{'reps':>5}{'us/step':>8}{'steps':>8}"
    lines += ["", method, f"{header}{'evals':>6}{'error':>14}{'x':>7}"]
    for group in dict.fromkeys(row.group for row in rows):
        lines.append(f"-- {group}")
        lines += [show_row(row) for row in rows if row.group == group]
    lines += ["", "ratios of run times"]
    lines += [f"  {name:<60}{show_ratio(ratio):>9}" for name, ratio in facts["ratios"].items()]
    return "\n".join(lines)


# Command line


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, and make the folder of the JSON file before minutes are spent."""
    parser = Parser(
        description=__doc__,
        epilog="Examples: `python benchmarks/ulpm.py` (three minutes); `python benchmarks/ulpm.py "
        "--quick` (half a minute, for a look). PyTorch, torchdiffeq and SciPy come with "
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
    place = machine()  # before the run, whose own load does not count
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
    print(report(rows, facts, setup))
    facts["rows"] = [dataclasses.asdict(row) for row in rows]
    options.json.write_text(json.dumps(facts, indent=2) + "\n")
    print(f"\nwrote {options.json}")


if __name__ == "__main__":
    main()
