"""Measure the imports, compilation and runs of a first and of a second process.

Each case is a child process of this script. It runs twice with one cache folder, which
`cache_programs` configures as for users: the first process compiles, the second loads. Phases are
events of JAX, so that every entry point is measured in the same way. Then the whole process of
`examples/ulpm_flow.py` is compared with one that only has the same imports.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
IMPORTS = "import jax, equinox, diffrax, optax, xarray, zarr, matplotlib"
PHASES = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
    "/jax/compilation_cache/cache_retrieval_time_sec": "load",
}
HIT = "/jax/compilation_cache/cache_hits"
METHOD = """CPU and wall seconds of a process: imports, set-up (data, start), first and second call.
trace, lower, compile, load: wall seconds of set-up and first call; run: the rest of the first call.
programs: compiled + loaded. Process 1 fills the cache folder, process 2 shares it."""
K, D, N, RTOL, ATOL = 5, 20, 10, 1e-8, 1e-10


# A case is a generator. Up to its first `yield` it imports, up to its second it sets up; the second
# yields the call. `measure_here` times each part. Hence the imports inside of functions.


def jax_and_nc() -> tuple[Any, Any]:
    """The modules, set to float64 and to a cache of programs."""
    import jax

    import nc_jax

    jax.config.update("jax_enable_x64", True)
    nc_jax.cache_programs()
    return jax, nc_jax


def flow() -> Iterator[Any]:
    """The default flow to t = 10^1000."""
    jax, nc = jax_and_nc()
    yield
    problem, times = nc.ulpm(K, D, N), nc.log_times(1000, 201)
    start = problem.init(jax.random.key(0))
    yield lambda: nc.gradient_flow(problem, start, times)


def sweep() -> Iterator[Any]:
    """64 seeds to t = 10^5."""
    _, nc = jax_and_nc()
    yield
    problem, times = nc.ulpm(K, D, N), nc.log_times(5, 21)
    flow = nc.Flow(problem, times)
    yield lambda: nc.sweep(flow, num_seeds=64, progress=False)


def train() -> Iterator[Any]:
    """Two epochs of a small network on digits."""
    jax_and_nc()
    import optax

    from nc_jax import cnn, images

    yield
    digits = images.normalize(images.load("digits"), images.load("digits", "test"))
    optimizer = optax.sgd(0.02, 0.9)

    def network(rngs: Any) -> cnn.Network:
        return cnn.ConvNet(1, 10, rngs=rngs)

    yield lambda: cnn.train(network, digits[0], optimizer, 2, test=digits[1], progress=False)


def classify() -> Iterator[Any]:
    """The kind of a point."""
    jax, nc = jax_and_nc()
    yield
    problem = nc.zhu(3, 3, 2, 5e-3)
    state = problem.init(jax.random.key(0))
    yield lambda: nc.landscape.classify(problem, state)


def find_critical_points() -> Iterator[Any]:
    """Critical points from 64 starts."""
    jax, nc = jax_and_nc()
    yield
    problem, keys = nc.zhu(3, 3, 2, 5e-3), jax.random.split(jax.random.key(0), 64)
    yield lambda: nc.landscape.find_critical_points(problem, keys)


def plain_diffrax() -> Iterator[Any]:
    """The flow to t = 10^1000 by `diffeqsolve`: states alone, no observable."""
    import diffrax
    import jax
    import numpy as np
    from peers.ulpm_model import gaussian_start, jax_log_field

    jax.config.update("jax_enable_x64", True)
    # As `cache_programs` does: by default JAX stores only programs that compile for a second or
    # more.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

    @jax.jit
    def solve(start: Any, times: Any) -> Any:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(jax_log_field), diffrax.Tsit5(), 0.0, times[-1], None, start,
            saveat=diffrax.SaveAt(ts=times), max_steps=1_000_000,
            stepsize_controller=diffrax.PIDController(RTOL, ATOL),
        ).ys  # fmt: skip

    yield
    log10_t = np.linspace(-2, 1000, 201)
    times = np.logaddexp(0, log10_t * np.log(10))
    yield lambda: solve(gaussian_start(), times)


def scipy_flow() -> Iterator[Any]:
    """The flow to t = 10^5 by `solve_ivp`, without JAX."""
    import numpy as np
    from peers.ulpm_model import gaussian_start, log_field
    from scipy.integrate import solve_ivp

    yield
    times = np.log1p(np.logspace(-2, 5, 201))
    start, span = gaussian_start(), (0.0, times[-1])
    yield lambda: solve_ivp(log_field, span, start, t_eval=times, rtol=RTOL, atol=ATOL).y


CASES: dict[str, Callable[[], Iterator[Any]]] = {
    "flow": flow, "sweep": sweep, "cnn.train": train, "landscape.classify": classify,
    "landscape.find_critical_points": find_critical_points, "Diffrax": plain_diffrax,
    "SciPy to 10^5": scipy_flow,
}  # fmt: skip
QUICK = ("landscape.classify", "SciPy to 10^5")


class Phases:
    """Wall seconds of JAX's phases, and the number of programs compiled and loaded."""

    def __init__(self):
        self.spans: dict[str, list[tuple[float, float]]] = {phase: [] for phase in PHASES.values()}
        self.counts = Counter()

    def listen(self) -> None:
        """Record events from now on. A case that uses JAX has imported it before this call."""
        if "jax" in sys.modules:
            from jax import monitoring

            monitoring.register_event_duration_secs_listener(self._took)
            monitoring.register_event_listener(self._happened)

    def _took(self, event: str, duration_secs: float, **_: Any) -> None:
        if event in PHASES:
            now = time.perf_counter()
            self.spans[PHASES[event]].append((now - duration_secs, now))

    def _happened(self, event: str, **_: Any) -> None:
        self.counts[event] += 1

    def seconds(self) -> dict[str, float]:
        """Seconds by phase, without double counting.

        A trace can contain traces and can be part of a lowering; a load is part of a compilation.
        """
        took = {phase: union(spans) for phase, spans in self.spans.items()}
        took["trace"] = union(self.spans["trace"] + self.spans["lower"]) - took["lower"]
        took["compile"] -= took["load"]
        return took

    def programs(self) -> tuple[int, int]:
        """Numbers of programs compiled and loaded; JAX reports a load as a compilation too."""
        return len(self.spans["compile"]) - self.counts[HIT], self.counts[HIT]


def union(spans: Sequence[tuple[float, float]]) -> float:
    """Length of a union of intervals."""
    total, reached = 0.0, -float("inf")
    for begin, end in sorted(spans):
        total += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return total


def timed(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The result of a call, after its computation has ended, and its CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = call()
    if "jax" in sys.modules:
        import jax

        jax.block_until_ready(result)
    return result, {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def measure_here(name: str) -> dict[str, Any]:
    """Measure a case in this process."""
    began, phases = time.process_time(), Phases()
    case = CASES[name]()
    _, imports = timed(lambda: next(case))
    imports["cpu"] += began  # of the interpreter
    phases.listen()
    call, preparation = timed(lambda: next(case))
    # Phases of the set-up, which are subtracted where the first call's `run` is computed.
    before = sum(phases.seconds().values())
    _, first = timed(call)
    took, programs = phases.seconds(), phases.programs()
    _, second = timed(call)
    took["run"] = max(first["wall"] - (sum(took.values()) - before), 0.0)
    return {
        "import": imports, "set-up": preparation, "first": first, "second": second,
        "phases": took, "compiled": programs[0], "loaded": programs[1],
    }  # fmt: skip


def process(command: Sequence[str], cache: str) -> tuple[str, float, float]:
    """Run a process; returns its output, its CPU and its wall seconds."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache, "PYTHONWARNINGS": "ignore"}
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    # CPU seconds of children that have ended; processes run one after another.
    before, wall = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True
    )
    after = os.times()
    if done.returncode:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        raise SystemExit(f"{command[0]} failed with exit code {done.returncode}: {reason}")
    cpu = after.children_user - before.children_user
    cpu += after.children_system - before.children_system
    return done.stdout, cpu, time.perf_counter() - wall


def measure(name: str) -> list[dict[str, Any]]:
    """A case in two processes with one cache folder."""
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for number in (1, 2):
            output, cpu, wall = process([__file__, "--child", name], cache)
            row = json.loads(output.splitlines()[-1])
            rows.append({"case": name, "process": number, **row, "cpu": cpu, "wall": wall})
    return rows


def measure_script(rounds: int) -> dict[str, Any]:
    """CPU seconds of the example and of its imports alone, in turns.

    The first round compiles and is reported separately; later ones enter a median.
    """
    with tempfile.TemporaryDirectory() as folder:
        cache, out = f"{folder}/cache", f"{folder}/out"
        script = [str(ROOT / "examples" / "ulpm_flow.py"), "--K", "5", "--d", "20", "--out", out]
        times = [(process(script, cache)[1], process(["-c", IMPORTS], cache)[1])
                 for _ in range(rounds + 1)]  # fmt: skip
    first, *later = times
    example, imports = (statistics.median(column) for column in zip(*later, strict=True))
    return {
        "first_cpu": first[0], "second_cpu": example, "imports_cpu": imports, "rounds": rounds,
        "first_ratio": first[0] / imports, "ratio": example / imports,
    }  # fmt: skip


def show(rows: list[dict[str, Any]]) -> str:
    """Two lines for each case."""
    pairs, phases = ("import", "set-up", "first", "second"), ("trace", "lower", "compile", "load")
    titles = [*(f"{pair} cpu/wall" for pair in pairs), *phases, "run", "programs", "process cpu"]
    widths = [max(len(title), 6) for title in titles]
    header = f"{'case':31} {'#':1} " + " ".join(map(str.rjust, titles, widths))
    lines = [header, "-" * len(header)]
    for row in rows:
        cells = [f"{row[pair]['cpu']:.2f}/{row[pair]['wall']:.2f}" for pair in pairs]
        cells += [f"{row['phases'][phase]:.2f}" for phase in (*phases, "run")]
        cells += [f"{row['compiled']}+{row['loaded']}", f"{row['cpu']:.2f}"]
        lines.append(
            f"{row['case']:31} {row['process']} " + " ".join(map(str.rjust, cells, widths))
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON file."""
    if arguments is None and sys.argv[1:2] == ["--child"]:
        # The parent reads JSON from stdout, where a case must not print.
        with contextlib.redirect_stdout(io.StringIO()):
            row = measure_here(sys.argv[2])
        print(json.dumps(row))
        return
    # Imported here, since `reporting` imports JAX, and children measure the import of JAX.
    from reporting import Parser, add_json, machine, parse_with_json, show_machine

    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=list(CASES), help="default: all")
    parser.add_argument("--quick", action="store_true", help="two small cases, one round")
    add_json(parser, "results/benchmark_startup.json")
    options = parse_with_json(parser, arguments)
    place = machine()
    print("\n".join([*show_machine(place), "", METHOD, ""]), flush=True)
    names = options.case or (QUICK if options.quick else CASES)
    rows = [row for name in names for row in measure(name)]
    print(show(rows), flush=True)
    script = measure_script(1 if options.quick else 5)
    print(
        f"\nexamples/ulpm_flow.py, CPU: first process {script['first_cpu']:.2f} s, later ones "
        f"{script['second_cpu']:.2f} s, imports alone {script['imports_cpu']:.2f} s: "
        f"{script['first_ratio']:.2f} and {script['ratio']:.2f} times the imports"
    )
    report = {"machine": place, "rows": rows, "script": script}
    options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
