"""Compare solvers: time, evaluations and error by problem, horizon, tolerance and size.

Every row is one run of `gradient_flow` from one Gaussian start in float64 that saves its end only.
The rows of a block have one problem and one horizon. Their errors are differences from a reference,
which is a run at a tight tolerance.
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Sequence

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from reporting import (
    Parser,
    add_json,
    machine,
    parse_with_json,
    seconds,
    show_machine,
)  # fmt: skip
from reports.solvers import show
from tqdm import tqdm

import nc_jax as nc
from nc_jax.dynamics import AbstractClock
from nc_jax.problems import AbstractProblem

SLOW = 5.0  # seconds after which a run is not repeated
TINY, SMALL, LARGE = nc.ulpm(3, 4, 2), nc.ulpm(5, 20, 10), nc.ulpm(10, 64, 100)
DECAY, SQUARE = nc.zhu(5, 20, 10, 0.005), nc.mixon(5, 20, 10)
TINY_DECAY = nc.zhu(3, 4, 3, 0.005)


@dataclasses.dataclass(frozen=True)
class Way:
    """A solver and the clock in which it integrates."""

    name: str
    solver: diffrax.AbstractSolver
    clock: AbstractClock


TSIT5 = Way("Tsit5, LogTime", diffrax.Tsit5(), nc.LogTime())
DOPRI8 = Way("Dopri8, LogTime", diffrax.Dopri8(), nc.LogTime())
RKC = Way("RKC, LogLogTime", nc.RKC(), nc.LogLogTime())
KVAERNO5 = Way("Kvaerno5, LogLogTime", diffrax.Kvaerno5(), nc.LogLogTime())
REAL = tuple(
    Way(f"{type(solver).__name__}, RealTime", solver, nc.RealTime())
    for solver in (diffrax.Tsit5(), diffrax.Dopri8(), nc.RKC(), diffrax.Kvaerno5())
)


@dataclasses.dataclass(frozen=True)
class Block:
    """Runs of one problem to one horizon, t = 10^decades."""

    title: str
    problem: nc.UnconstrainedFeatures
    decades: float
    runs: tuple[tuple[Way, float], ...]  # with rtol
    reference: tuple[Way, float]


def cross(ways: Sequence[Way], rtols: Sequence[float]) -> tuple[tuple[Way, float], ...]:
    """Every way at every tolerance."""
    return tuple((way, rtol) for rtol in rtols for way in ways)


def blocks(quick: bool) -> list[Block]:
    """The blocks that are measured."""
    if quick:
        return [
            Block("ULPM, K=5 d=20 n=10", SMALL, 100, cross([TSIT5, RKC], [1e-4]), (DOPRI8, 1e-10)),
            # A state of 51 numbers, since Kvaerno5 factors a matrix of the state's size.
            Block("decay, K=3 d=4 n=3", TINY_DECAY, 2, cross(REAL, [1e-4]), (REAL[1], 1e-10)),
        ]
    rtols, fine, far = (1e-4, 1e-6, 1e-8), (DOPRI8, 1e-11), (TSIT5, 1e-9)
    small, large = "ULPM, K=5 d=20 n=10", "ULPM, K=10 d=64 n=100"
    near = cross([TSIT5, DOPRI8, RKC], rtols)
    found = [
        Block(small, SMALL, 4, near, fine),
        Block(small, SMALL, 1e3, near, fine),
        Block(small, SMALL, 1e4, near, fine),
        Block(small, SMALL, 1e5, (*cross([RKC], rtols), (TSIT5, 1e-6)), far),
        Block(small, SMALL, 1e6, cross([RKC], rtols), far),
        # Kvaerno5 factors a matrix of the state's size: 36 here; at 1100 it takes minutes.
        Block("ULPM, K=3 d=4 n=2", TINY, 1e3, cross([TSIT5, RKC, KVAERNO5], [1e-4, 1e-8]), fine),
    ]
    tsit5, dopri8, rkc, kvaerno5 = REAL
    for title, problem in (("decay", DECAY), ("square loss", SQUARE)):
        name, loose = f"{title}, K=5 d=20 n=10", (kvaerno5, 1e-4)
        for decades in (1, 3):
            rest = (*cross([tsit5, dopri8, rkc], [1e-4, 1e-8]), loose)
            found.append(Block(name, problem, decades, rest, (dopri8, 1e-11)))
        # The explicit solvers would take millions of steps.
        rest = (*cross([rkc], [1e-4, 1e-8]), loose)
        found.append(Block(name, problem, 6, rest, (kvaerno5, 1e-8)))
    found.append(Block(large, LARGE, 1e3, cross([TSIT5, RKC], [1e-4, 1e-6]), (TSIT5, 1e-8)))
    return found


@dataclasses.dataclass
class Row:
    """One line of the table; times in seconds."""

    block: str
    decades: float
    way: str
    rtol: float
    steps: int
    evals: int | None
    compile_s: float
    run_s: float
    state_error: float
    measure_error: float | None
    drift: float


class Counted(AbstractProblem):
    """A problem that counts the evaluations of its field while they run.

    A Jacobian-vector product of the field counts as one evaluation. All other methods are those of
    `problem`.
    """

    problem: nc.UnconstrainedFeatures
    tick: Callable[[], None]

    def scaled_descent(self, state, log_scale):
        """As the problem's."""
        # A counter in Python would count the traces, not the evaluations.
        jax.debug.callback(self.tick)
        return self.problem.scaled_descent(state, log_scale)

    def init(self, key):
        """As the problem's."""
        return self.problem.init(key)

    def objective(self, state):
        """As the problem's."""
        return self.problem.objective(state)

    def gradient(self, state):
        """As the problem's."""
        return self.problem.gradient(state)

    def observe(self, state):
        """As the problem's."""
        return self.problem.observe(state)

    def invariants(self, state):
        """As the problem's."""
        return self.problem.invariants(state)

    def largest_log_scale(self, dtype):
        """As the problem's."""
        return self.problem.largest_log_scale(dtype)


def nothing(state) -> dict:
    """No observables, so that only the drifts are recorded."""
    return {}


def save_at(clock: AbstractClock, decades: float) -> np.ndarray:
    """t = 10^decades in the clock's coordinate."""
    # log(1 + t), although t overflows.
    log_time = np.logaddexp(0, decades * math.log(10))
    if isinstance(clock, nc.RealTime):
        return np.expm1([log_time])
    return np.log1p([log_time]) if isinstance(clock, nc.LogLogTime) else np.array([log_time])


def run(problem: AbstractProblem, start, way: Way, decades: float, rtol: float) -> nc.Trajectory:
    """One run; returns when its computation has ended."""
    return jax.block_until_ready(
        nc.gradient_flow(
            problem,
            start,
            save_at(way.clock, decades),
            clock=way.clock,
            solver=way.solver,
            rtol=rtol,
            atol=rtol / 100,
            observe=nothing,
            max_steps=10_000_000,
        )
    )


def count(
    problem: nc.UnconstrainedFeatures, start, way: Way, decades: float, rtol: float
) -> int | None:
    """Evaluations of the field; None for implicit solvers, which form Jacobians.

    They are counted in a separate run, since the callbacks would slow the timed one down.
    """
    if isinstance(way.solver, diffrax.AbstractImplicitSolver):
        return None
    total = 0

    def tick() -> None:
        nonlocal total
        total += 1

    run(Counted(problem, tick), start, way, decades, rtol)
    # Callbacks may still run when the result is there.
    jax.effects_barrier()
    return total


def measures(problem: nc.UnconstrainedFeatures, state: nc.LastLayer) -> np.ndarray:
    """Ji's measures of collapse."""
    metrics = nc.metrics.collapse_metrics(state, problem.labels)
    return np.array([value for name, value in metrics.items() if name.startswith("ji_")])


def measure(block: Block, bar: tqdm) -> list[Row]:
    """All rows of a block."""
    problem = block.problem
    start = problem.init(jax.random.fold_in(jax.random.key(0), 0))
    way, rtol = block.reference
    bar.set_description(f"{block.title}, 10^{block.decades:g}: reference")
    reference = run(problem, start, way, block.decades, rtol).final
    rows = []
    for way, rtol in block.runs:
        bar.set_description(f"{block.title}, 10^{block.decades:g}: {way.name}")

        def once(way: Way = way, rtol: float = rtol) -> nc.Trajectory:
            return run(problem, start, way, block.decades, rtol)

        first, traj = seconds(once)
        second, _ = seconds(once)
        times = [second] + [seconds(once)[0] for _ in range(4 if second < SLOW else 0)]
        taken = statistics.median(times)
        gap = jax.tree.map(jnp.subtract, traj.final, reference)
        right = measures(problem, reference)
        of_measures = float(np.max(np.abs(measures(problem, traj.final) / right - 1)))
        drifts = [float(v[-1]) for name, v in traj.observables.items() if name.endswith("_drift")]
        rows.append(
            Row(
                block.title, block.decades, way.name, rtol, int(traj.num_steps),
                count(problem, start, way, block.decades, rtol),
                max(first - taken, 0.0), taken,
                float(jnp.sqrt(gap.squared_norm() / reference.squared_norm())),
                of_measures if np.isinf(problem.largest_log_scale("float64")) else None,
                max(drifts, default=math.nan),
            )
        )  # fmt: skip
        bar.update()
    return rows


METHOD = """\
run: median of 5 calls of the compiled flow (of 1 where it takes over 5 s); compilation is 2 to 5 s
evaluations: of the field, rejected steps included; a Jacobian-vector product counts as one;
not counted where Jacobians are formed
state: ||difference|| / ||reference|| of the final state; measures: largest relative error of Ji's
six; drift: largest change of an invariant, relative to the size of its terms at the start"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables, write the JSON file."""
    parser = Parser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two small blocks")
    add_json(parser, "results/benchmark_solvers.json")
    options = parse_with_json(parser, arguments)
    jax.config.update("jax_enable_x64", True)
    place = machine()
    todo = blocks(options.quick)
    print("\n".join([*show_machine(place), "", METHOD]), flush=True)
    rows = []
    with tqdm(total=sum(len(block.runs) for block in todo), unit="row", disable=None) as bar:
        for block in todo:
            found = measure(block, bar)
            rows += [dataclasses.asdict(row) for row in found]
            bar.write("\n" + show(rows[-len(found) :]))
            # Written after each block, so that an interrupted run leaves the blocks that it
            # measured.
            facts = {"machine": place, "rows": rows}
            options.json.write_text(json.dumps(facts, indent=2) + "\n")
    print(f"\nwrote {options.json}")


if __name__ == "__main__":
    main()
