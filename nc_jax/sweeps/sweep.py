"""The sweep: a plan, its programs, and where the results go."""

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key

from ..checks import check_key
from ..dynamics.pieces import nothing_computed
from ..interrupts import lasting_interrupts
from ..paths import local_path
from ..progress import Bar
from .plan import Grid, Plan, Run, kept_of, make_plan
from .programs import Programs

if TYPE_CHECKING:
    import xarray as xr

    from .results import Results


def sweep(
    run: Run,
    num_seeds: int | None = None,
    seeds: Sequence[int] | Int[np.ndarray, " S"] | None = None,
    grid: Grid | None = None,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    path: str | os.PathLike[str] | None = None,
    resume: bool = True,
    progress: bool = True,
    key: Key[Array, ""] | None = None,
) -> "xr.Dataset":
    """Make a run for every seed and every setting of a grid.

    Run i of a setting is `run(fold_in(key, i), **setting)`: the same start alone, in a batch of
    any size, and on any number of devices. Runs are compiled once for each setting that is no
    float. Where `run` returns a `Flow` and a start, the runs of a block take common steps
    (`Flow.batch`), several times faster than runs that are trajectories, which step alone. A
    run that fails is recorded, with NaN from where it failed; where one ends its block of common
    steps, all runs of the block are computed again one by one.

    With `path`, batches are written as they come, each whole or not at all. Called again, a sweep
    that was killed goes on from there, to the same bytes. A call with more seeds, or other values
    of the same settings, adds them to the store: what is there stays, what is missing is computed.
    A call that finds all its runs writes nothing.

    Args:
        run: from a typed key, and settings by name, to (flow, start), (flow, start, data), a `Flow`
            whose starts are `flow.problem.init(key)`, or a `Trajectory`; traced by JAX. Or a
            `Flow` itself, without a grid.
        num_seeds: makes runs 0 to num_seeds − 1; or
        seeds: their numbers.
        grid: values of each setting. Floats are traced, so that all share one compilation; all else
            is compiled for each value. Before that every setting is checked, with its floats as
            they are.
        batch_size: runs computed and written at a time; None for about a thousand.
        mesh: devices to spread a batch over, those of other hosts under `jax.distributed` included;
            None for all. On a single CPU device each core takes a part of a batch.
        path: of a Zarr store for the results, visible to all hosts.
        resume: go on with the store at `path`; False starts anew in its place.
        progress: show a bar, in a log file once a minute, and how the runs ended.
        key: from `jax.random.key`; None for `jax.random.key(0)`.

    Returns: a data set with dims (*grid, seed, time), in memory, or read from the store where it is
    asked for. Every observable is a variable; others, without time, are `result` (0 where the run
    reached its end, else a code that its attributes explain), `num_steps`, `final_log_time` and
    `shared_steps`, whether a run's steps were those of its block. The configuration, versions and
    device are attributes. Whole states are variables, such as `state_features`, where the flow has
    `save_states=True`; `storage.states` reads them.

    Raises: ValueError for arguments that make no sweep, a setting that `run` refuses, a flow that
    depends on the key, or a store of another configuration, with the keys that differ;
    FileExistsError if `path` is no store; RuntimeError if another process is writing there; OSError
    if nothing can be written there; `Interrupted`, a KeyboardInterrupt, on Ctrl-C, with the number
    of runs that are saved.

    Example:

        def run(key, feature_dim):
            problem = ulpm(5, feature_dim, 10)
            return Flow(problem, log_times(5, 21)), problem.init(key)

        data = sweep(run, num_seeds=1000, grid={"feature_dim": [4, 5, 6]}, path="dims.zarr")
        data["ji_self_duality"].mean("seed")
    """
    # Here, since it brings xarray and Zarr.
    from .results import InMemory, on_disk

    key = jax.random.key(0) if key is None else key
    check_key(key)
    progress = progress and jax.process_index() == 0
    where = None if path is None else local_path(path)
    results = None
    try:
        plan = make_plan(run, num_seeds, seeds, grid or {}, key, batch_size, mesh)
        with contextlib.ExitStack() as stack:
            if where is None:
                results = InMemory(plan)
            else:
                results = stack.enter_context(on_disk(plan, where, resume))
            _fill(plan, results, progress)
            dataset = results.dataset()
    except KeyboardInterrupt:
        # Without the traceback of JAX, which is hundreds of lines.
        raise (nothing_computed() if results is None else results.interrupted()) from None
    if progress:
        print(_closing_line(dataset), file=sys.stderr)
    return dataset


def _fill(plan: Plan, results: "Results", progress: bool) -> None:
    """Make the runs that are not there, and say how they ended."""
    written, failed = results.written(), 0
    done = int(written.sum())
    bar = Bar(written.size, "sweep", progress, done, unit="run")
    with lasting_interrupts() as check_interrupt, bar, Programs(plan) as programs:
        for setting, region in plan.batches():
            check_interrupt()
            missing = np.flatnonzero(~written[region])
            if missing.size:
                try:
                    with bar.doing("compiling"):
                        programs.prepare(setting)
                    outputs = programs.compute(setting, plan.seeds[region[-1]][missing])
                except KeyboardInterrupt:
                    bar.write("interrupted: waits for the batch in progress")
                    raise
                _check_alike(plan, outputs)
                results.write((*region[:-1], region[-1].start + missing), outputs)
                failed += int(np.sum(~outputs["succeeded"]))
                done += outputs["succeeded"].size
                bar.show(done, **({"failed": failed} if failed else {}))


def _check_alike(plan: Plan, outputs: dict[str, np.ndarray]) -> None:
    """Refuse observables that one data set cannot hold."""
    expected = {name: (like.shape, like.dtype) for name, like in plan.variables().items()}
    kept = kept_of(outputs).items()
    found = {name: (values.shape[1:], values.dtype) for name, values in kept}
    differing = sorted(dict(expected.items() ^ found.items()))
    if differing:
        raise ValueError(
            f"run: {differing} are not the same in all settings; let `observe` give observables of "
            "one name, shape and dtype, or make a sweep for each setting."
        )


def _closing_line(dataset: "xr.Dataset") -> str:
    """How many runs ended how."""
    result = dataset["result"]
    codes, counts = np.unique(result.values, return_counts=True)
    ended = [
        f"{count} {result.attrs[str(code)].rstrip('.') or 'reached their end'}"
        for code, count in zip(codes, counts, strict=True)
    ]
    return f"{result.size} runs: {'; '.join(ended)}."
