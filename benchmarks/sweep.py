"""Time sweeps over seeds beside the tools one would use without nc_jax, at equal measured accuracy.

K = 5 classes, d = 20, n = 10 samples a class, the flow of the summed cross-entropy to t = 10^5 from
the same Gaussian starts for all. Each way is given the loosest tolerance of a ladder at which its
final states are right to 1e-6 of their norm, for the worst of the checked seeds, and is then timed,
compilation apart. Then: how the cost of a seed depends on their number, on K and on d, and which
share of the machine's rate of matrix products the vector field reaches.
"""

import argparse
import dataclasses
import functools
import importlib
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

# For the worker processes, which have a core each; read when NumPy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
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
    version,
)
from tqdm import tqdm

import nc_jax as nc
from nc_jax.sweeps.plan import make_plan
from nc_jax.sweeps.programs import Programs

NUM_CLASSES, FEATURE_DIM, SAMPLES_PER_CLASS = 5, 20, 10
NUM_SAMPLES = NUM_CLASSES * SAMPLES_PER_CLASS
CUT = NUM_SAMPLES * FEATURE_DIM
DECADES = 5.0
STOP = float(np.log1p(10**DECADES))
ERROR = 1e-6
# Tolerances that are tried, the loosest first; atol is a hundredth.
LADDER = [m * 10.0**-e for e in (4, 5, 6, 7, 8) for m in (1, 0.7, 0.5, 0.4, 0.3, 0.2, 0.14)]
LABELS = np.repeat(np.arange(NUM_CLASSES), SAMPLES_PER_CLASS)
ONE_HOT = np.eye(NUM_CLASSES)[LABELS]
PROBLEM = nc.ulpm(NUM_CLASSES, FEATURE_DIM, SAMPLES_PER_CLASS)

# States (S, dim) at the end, from states (S, dim) at the start.
Solve = Callable[[np.ndarray], np.ndarray]


def starts(seeds: np.ndarray) -> np.ndarray:
    """Flat starts of seeds, features first: those that a sweep makes."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), seeds)
    made = jax.jit(jax.vmap(PROBLEM.init))(keys)
    flat = [np.asarray(x).reshape(len(seeds), -1) for x in (made.features, made.classifier)]
    return np.concatenate(flat, axis=1)


# SciPy, in NumPy's words.


def numpy_log_field(u: float, flat: np.ndarray) -> np.ndarray:
    """The field in u = log(1 + t), exponents summed before `exp`."""
    features, classifier = flat[:CUT].reshape(-1, FEATURE_DIM), flat[CUT:].reshape(-1, FEATURE_DIM)
    logits = features @ classifier.T
    logits -= logits.max(axis=1, keepdims=True)
    normalizer = np.log(np.exp(logits).sum(axis=1, keepdims=True))
    others = np.exp(np.minimum(u + logits - normalizer, 350.0)) * (1 - ONE_HOT)
    residual = others - others.sum(axis=1, keepdims=True) * ONE_HOT
    return -np.concatenate([(residual @ classifier).ravel(), (residual.T @ features).ravel()])


def numpy_real_field(t: float, flat: np.ndarray) -> np.ndarray:
    """The field in real time."""
    del t
    features, classifier = flat[:CUT].reshape(-1, FEATURE_DIM), flat[CUT:].reshape(-1, FEATURE_DIM)
    logits = features @ classifier.T
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    residual = weights / weights.sum(axis=1, keepdims=True) - ONE_HOT
    return -np.concatenate([(residual @ classifier).ravel(), (residual.T @ features).ravel()])


def scipy_one(task: tuple[np.ndarray, str, bool, float, float]) -> np.ndarray:
    """The final state of one start, in a worker process."""
    from scipy.integrate import solve_ivp

    start, method, in_log_time, rtol, atol = task
    field, stop = (numpy_log_field, STOP) if in_log_time else (numpy_real_field, 10**DECADES)
    return solve_ivp(field, (0.0, stop), start, method, rtol=rtol, atol=atol).y[:, -1]


def scipy(pool: ProcessPoolExecutor, method: str, in_log_time: bool) -> Callable[[float], Solve]:
    """`solve_ivp` on all cores."""

    def at(rtol: float) -> Solve:
        def solve(states: np.ndarray) -> np.ndarray:
            tasks = [(state, method, in_log_time, rtol, rtol / 100) for state in states]
            return np.array(list(pool.map(scipy_one, tasks, chunksize=16)))

        return solve

    return at


# PyTorch, batch first as its users have it.


def torch_log_field():
    """(u, flat (B, dim)) -> slope; u of shape () or (B,)."""
    import torch

    one_hot = torch.tensor(ONE_HOT)

    def field(u, flat):
        features = flat[:, :CUT].reshape(-1, NUM_SAMPLES, FEATURE_DIM)
        classifier = flat[:, CUT:].reshape(-1, NUM_CLASSES, FEATURE_DIM)
        logits = features @ classifier.mT
        exponents = u.reshape(-1, 1, 1) + torch.log_softmax(logits, dim=2)
        others = torch.exp(exponents.clamp(max=350.0)) * (1 - one_hot)
        residual = others - others.sum(2, keepdim=True) * one_hot
        slopes = residual @ classifier, residual.mT @ features
        return -torch.cat([slope.flatten(1) for slope in slopes], 1)

    return field


def torchdiffeq(batch: int) -> Callable[[float], Solve]:
    """`torchdiffeq.odeint`, dopri5: the batch is one system with one error norm."""
    import torch
    import torchdiffeq

    field, times = torch_log_field(), torch.tensor([0.0, STOP], dtype=torch.float64)

    def at(rtol: float) -> Solve:
        def one_batch(states: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                ends = torchdiffeq.odeint(
                    field, torch.from_numpy(states), times, rtol=rtol, atol=rtol / 100
                )
            return np.asarray(ends[-1])

        return in_batches(one_batch, batch)

    return at


def torchode(batch: int) -> Callable[[float], Solve]:
    """torchode's Tsit5, each lane with steps of its own."""
    import torch

    to = importlib.import_module("torchode")
    term = to.ODETerm(torch_log_field())

    def at(rtol: float) -> Solve:
        controller = to.IntegralController(atol=rtol / 100, rtol=rtol, term=term)
        adjoint = to.AutoDiffAdjoint(to.Tsit5(term=term), controller)

        def one_batch(states: np.ndarray) -> np.ndarray:
            count = len(states)
            problem = to.InitialValueProblem(
                y0=torch.from_numpy(states),
                t_start=torch.zeros(count, dtype=torch.float64),
                t_end=torch.full((count,), STOP, dtype=torch.float64),
            )
            with torch.no_grad():
                return adjoint.solve(problem).ys[:, -1].numpy()

        return in_batches(one_batch, batch)

    return at


# JAX without nc_jax.


def jax_log_field(u, flat, args):
    """The field of one flat state in u = log(1 + t), as one would write it."""
    del args
    features, classifier = flat[:CUT].reshape(-1, FEATURE_DIM), flat[CUT:].reshape(-1, FEATURE_DIM)
    exponents = u + jax.nn.log_softmax(features @ classifier.T)
    others = jnp.exp(jnp.minimum(exponents, 350.0)) * (1 - ONE_HOT)
    residual = others - jnp.sum(others, axis=1, keepdims=True) * ONE_HOT
    return -jnp.concatenate([(residual @ classifier).ravel(), (residual.T @ features).ravel()])


def vmapped_diffrax(batch: int) -> Callable[[float], Solve]:
    """`jax.jit(jax.vmap(diffeqsolve))`."""

    @jax.jit
    def ends(states, rtol):
        def one(state):
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(jax_log_field), diffrax.Tsit5(), 0.0, STOP, None, state,
                stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol / 100),
                max_steps=None, adjoint=diffrax.DirectAdjoint(),
            )  # fmt: skip
            assert solution.ys is not None
            return solution.ys[0]

        return jax.vmap(one)(states)

    return lambda rtol: in_batches(lambda states: np.asarray(ends(states, rtol)), batch)


class GradsolveProblem:
    """The flow as gradsolve takes it."""

    name, dim, t0, t1, is_stiff = "ulpm", CUT + NUM_CLASSES * FEATURE_DIM, 0.0, STOP, False

    def f_jax(self, t, y, params):
        """The field."""
        return jax_log_field(t, y, params)


def gradsolve(engine: str, batch: int) -> Callable[[float], Solve]:
    """`gradsolve.solve` with a general engine; its fused ones are for a few variables and a GPU."""
    gs = importlib.import_module("gradsolve")

    def at(rtol: float) -> Solve:
        def one_batch(states: np.ndarray) -> np.ndarray:
            return gs.solve(
                GradsolveProblem(), states, np.zeros((len(states), 1)), engine=engine, rtol=rtol,
                atol=rtol / 100, device=jax.default_backend(),
            ).y_final  # fmt: skip

        return in_batches(one_batch, batch)

    return at


def in_batches(solve: Solve, batch: int) -> Solve:
    """A solve in portions of at most `batch` states."""

    def whole(states: np.ndarray) -> np.ndarray:
        cuts = range(0, len(states), batch)
        return np.concatenate([solve(states[first : first + batch]) for first in cuts])

    return whole


# nc_jax.


def last_state(state: nc.LastLayer) -> dict[str, jax.Array]:
    """The state itself, flat."""
    return {"state": jnp.concatenate([state.features.ravel(), state.classifier.ravel()])}


def sweep(shared_steps: bool, observed: bool = False) -> Callable[[float], Callable[..., dict]]:
    """(rtol) -> (number of seeds) -> what a sweep's batches leave; compiled in the first call."""

    def at(rtol: float) -> Callable[..., dict]:
        flow = nc.Flow(
            PROBLEM, nc.log_times(DECADES, 6 if observed else 1), rtol=rtol, atol=rtol / 100,
            observe=None if observed else last_state,
        )  # fmt: skip
        return batches_of(
            flow if shared_steps else lambda key: flow(PROBLEM.init(key), throw=False)
        )

    return at


def batches_of(run: Callable, settings: dict | None = None) -> Callable[..., dict]:
    """(number of seeds) -> outputs, all batches of a sweep through programs that are kept."""
    programs: dict[int, tuple] = {}

    def made(num_seeds: int) -> dict:
        if num_seeds not in programs:
            plan = make_plan(run, num_seeds, None, {}, jax.random.key(0), None, None)
            programs[num_seeds] = plan, Programs(plan)
        plan, compiled = programs[num_seeds]
        parts = [
            compiled.compute(setting, plan.seeds[region[-1]]) for setting, region in plan.batches()
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return made


@dataclasses.dataclass(frozen=True)
class Way:
    """A row of the comparison."""

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
    """All that is installed; with `quick` one of each tool."""
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
    yield Way("nc_jax sweep, own steps", sweep(False), takes_states=False)
    yield Way("nc_jax sweep, shared steps", sweep(True), takes_states=False)


def compare(
    way: Way, ladder: Sequence[float], seeds: int, repeats: int, reference: np.ndarray
) -> dict:
    """The loosest tolerance that is right to the wanted error, and the time it takes."""
    checked = np.arange(len(reference))
    states = starts(checked)
    size = np.linalg.norm(reference, axis=1)
    rtol, error = float("nan"), float("inf")
    for rtol in ladder:
        ends = way.call(rtol, checked, states)()
        error = float(np.max(np.linalg.norm(ends - reference, axis=1) / size))
        if error <= ERROR:
            break
    else:
        return {"way": way.name, "rtol": rtol, "error": error, "rate": None, "compile": None}
    numbers = np.arange(seeds)
    run = way.call(rtol, numbers, starts(numbers))
    first, ends = seconds(run)
    error = float(np.max(np.linalg.norm(ends[checked] - reference, axis=1) / size))
    took = statistics.median(seconds(run)[0] for _ in range(repeats))
    return {
        "way": way.name, "rtol": rtol, "error": error, "rate": seeds / took,
        "compile": max(first - took, 0.0),
    }  # fmt: skip


def seed_scaling(rtol: float, counts: Sequence[int], repeats: int) -> Iterator[dict]:
    """The cost of a seed by their number."""
    made = sweep(True)(rtol)
    for count in counts:
        call = functools.partial(made, count)
        first, _ = seconds(call)
        took = min(seconds(call)[0] for _ in range(repeats if count < 50_000 else 1))
        yield {"seeds": count, "seconds": took, "first": first, "per_seed": took / count}


def cost_of_a_seed(made: Callable[[int], dict], budget: float) -> dict:
    """Seconds and steps of a seed, on as many as the budget of seconds allows."""
    made(1)
    took, outputs = seconds(functools.partial(made, 1))
    count = 1
    if took < budget / 16:
        count = min(int(budget / 4 / took), 2048)
        made(count)
        took, outputs = seconds(functools.partial(made, count))
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
    """A call several times, without a wait between."""
    made = None
    for _ in range(repeats):
        made = call()
    jax.block_until_ready(made)


def field_rates(sizes: Sequence[tuple[int, int]], dtype: str, square: int) -> Iterator[dict]:
    """The field's rate of multiply-adds in its three products, as a share of a square product's."""
    peak = product_rate(square, dtype)
    for num_classes, feature_dim in sizes:
        problem = nc.ulpm(num_classes, feature_dim, SAMPLES_PER_CLASS)
        state = problem.init(jax.random.key(0), dtype=dtype)
        field = jax.jit(problem.scaled_descent)
        scale = jnp.asarray(3.0, dtype)
        jax.block_until_ready(field(state, scale))
        work = 6 * problem.num_samples * num_classes * feature_dim
        repeats = max(5, int(2e9 / work))
        several = functools.partial(repeatedly, functools.partial(field, state, scale), repeats)
        took = min(seconds(several)[0] for _ in range(3)) / repeats
        yield {
            "K": num_classes, "d": feature_dim, "dtype": dtype, "seconds": took,
            "rate": work / took, "share": work / took / peak, "square": square, "peak": peak,
        }  # fmt: skip


def measure(options: argparse.Namespace) -> dict:
    """All rows."""
    place = machine()
    quick = options.quick
    with ProcessPoolExecutor(
        os.cpu_count(), mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        exact = scipy(pool, "DOP853", True)(1e-12)
        reference = exact(starts(np.arange(16 if quick else 64)))
        rows = []
        for way in tqdm(list(ways(pool, quick)), unit="way"):
            ladder = LADDER[::4] if quick else LADDER
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


def show(report: dict) -> str:
    """The tables."""
    rows = {row["way"]: row["rate"] for row in report["rows"]}
    fastest = {
        name: max((rate for way, rate in rows.items() if name in way and rate), default=None)
        for name in ("SciPy", "vmap")
    }
    lines = [*show_machine(report["machine"]), ""]
    lines.append(
        f"K=5 d=20 n=10 to t = 10^5, {report['seeds']} seeds, final states right to {ERROR:g}"
    )
    lines.append(
        f"{'way':38} {'rtol':>6} {'error':>8} {'seeds/s':>8} {'compile':>8} "
        f"{'of SciPy':>9} {'of vmap':>8}"
    )
    for row in report["rows"]:
        rate = row["rate"]
        ratios = [show_ratio(rate and best and rate / best) for best in fastest.values()]
        lines.append(
            f"{row['way']:38} {row['rtol']:6.0e} {row['error']:8.1e} "
            f"{'missed' if rate is None else f'{rate:.4g}':>8} {show_time(row['compile']):>8} "
            f"{ratios[0]:>9} {ratios[1]:>8}"
        )
    lines += ["", f"{'seeds':>7} {'run':>9} {'a seed':>9} {'with compilation':>17}"]
    for row in report["by_seeds"]:
        lines.append(
            f"{row['seeds']:7} {show_time(row['seconds']):>9} {show_time(row['per_seed']):>9} "
            f"{show_time(row['first']):>17}"
        )
    lines += ["", f"{'K':>5} {'d':>5} {'seeds':>6} {'a seed':>9} {'steps':>6}"]
    for row in report["by_size"]:
        lines.append(
            f"{row['K']:5} {row['d']:5} {row['seeds']:6} {show_time(row['per_seed']):>9} "
            f"{row['steps']:6.0f}"
        )
    lines += [
        "",
        f"{'K':>5} {'d':>5} {'field of one state':>24} {'GFlop/s':>8} {'of a product':>13}",
    ]
    for row in report["field"]:
        lines.append(
            f"{row['K']:5} {row['d']:5} {row['dtype'] + ' ' + show_time(row['seconds']):>24} "
            f"{row['rate'] / 1e9:8.3g} {row['share']:13.0%}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=positive, help="of the comparison (default 2048; with --quick 64)"
    )
    parser.add_argument("--quick", action="store_true", help="few seeds and sizes, once each")
    add_json(parser, "results/sweep_benchmark.json")
    options = parse_with_json(parser, arguments)
    options.seeds = options.seeds or (64 if options.quick else 2048)
    jax.config.update("jax_enable_x64", True)
    began = time.perf_counter()
    report = measure(options)
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(show(report))
    print(f"\n{time.perf_counter() - began:.0f} s; numbers in {options.json}", file=sys.stderr)


if __name__ == "__main__":
    main()
