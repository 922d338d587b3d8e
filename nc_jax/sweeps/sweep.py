"""The sweep: plan the runs, compute the missing runs, store their results."""

import contextlib
import os
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
from .cells import RunFunction, RunOutputs
from .plan import Grid, Plan, make_plan
from .programs import BatchPrograms

if TYPE_CHECKING:
    import xarray as xr

    from .results import SweepResults


def sweep(
    run: RunFunction,
    num_seeds: int | None = None,
    *,
    seeds: Sequence[int] | Int[np.ndarray, " S"] | None = None,
    grid: Grid | None = None,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    path: str | os.PathLike[str] | None = None,
    resume: bool = True,
    progress: bool = True,
    key: Key[Array, ""] | None = None,
) -> "xr.Dataset":
    """Compute a run for every seed and every setting of a grid.

    Run i of a setting is `run(fold_in(key, i), **setting)`: its start is the same alone, in a batch
    of any size, and on any number of devices. Where `run` returns a `Flow` and a start, the runs of
    a block take their steps together (`Flow.batch`). This is several times faster than a `run` that
    returns a trajectory, which takes its steps alone. A run that fails is recorded, with NaN from
    the time of the failure on. If it ends its block, all runs of the block are computed again one
    by one.

    With `path`, batches are written as they are computed, each completely or not at all. The same
    call after a kill resumes there and ends in the same bytes. A call with more seeds, or other
    values of the same settings, adds them to the store: stored runs stay, and missing runs are
    computed. If all runs of a call are stored, the call writes nothing.

    Args:
        run: a function of a typed key, and of settings by name, that JAX traces. It returns
            (flow, start), (flow, start, data), a `Flow` whose starts are `flow.problem.init(key)`,
            or a `Trajectory`. `run` may also be a `Flow` instead of a function, without a grid.
        num_seeds: computes runs 0 to num_seeds − 1; or
        seeds: the numbers of the runs.
        grid: values of each setting. Floats are traced, so that all floats share one compilation;
            every other value is compiled by itself. Before the compilation, each setting is checked
            with the values of its floats.
        batch_size: number of runs computed and written at a time; None for about a thousand.
        mesh: devices that share a batch, also those of other hosts under `jax.distributed`; None
            for all. On a single CPU device each core computes a part of a batch.
        path: of a Zarr store for the results, visible to all hosts.
        resume: continue with the store at `path`; False replaces it.
        progress: show a progress bar on stderr, once the run has taken a second on a terminal or in
            a notebook, or a minute elsewhere.
        key: from `jax.random.key`; None for `jax.random.key(0)`.

    Returns: a data set with dims (*grid, seed, time), or (*grid, seed, step) of descents. It is in
    memory; with `path`, its variables are read from the store when they are used. Variables are
    those of `storage.to_dataset`: the observables; the arrays of saved states, such as
    `state_features`, if the flow has `save_states=True`; and, without time, `result` (0 where the
    run reached its end, else a code that its attributes explain), `num_steps` and `final_log_time`.
    `shared_steps` is True for runs that took common steps with their block. The configuration,
    versions and device are attributes.

    Raises: ValueError for arguments that do not define a sweep, a setting that `run` refuses, a
    flow that depends on the key, or a store of another configuration, with the attributes that
    differ; FileExistsError if `path` is no store; RuntimeError if another process is writing there;
    OSError if nothing can be written there; `Interrupted`, a KeyboardInterrupt, on Ctrl-C, with the
    number of runs that are saved.

    Example: two starts of each norm, all of which gradient descent separates more than at its
    start. (Flows are computed faster if `run` returns `(flow, start)`.)

        >>> problem, optimizer = nc.ulpm(3, 4, 2), optax.sgd(0.1)
        >>> def run(key, norm):
        ...     start = problem.init(key, norm=norm)
        ...     return nc.gradient_descent(problem, start, optimizer, 9, observe=("objective",))
        >>> data = nc.sweep(run, num_seeds=2, grid={"norm": [0.5, 1.0]}, progress=False)
        >>> data["objective"].dims
        ('norm', 'seed', 'step')
        >>> bool((data["objective"].sel(step=9) < data["objective"].sel(step=0)).all())
        True
    """
    # Imported here, since it loads xarray and Zarr.
    from .results import in_memory, on_disk

    key = jax.random.key(0) if key is None else key
    check_key(key)
    # Of several hosts one shows the bar.
    progress = progress and jax.process_index() == 0
    store = None if path is None else local_path(path)
    results = None
    try:
        plan = make_plan(
            run, num_seeds, seeds=seeds, grid=grid or {}, key=key, batch_size=batch_size, mesh=mesh
        )
        with contextlib.ExitStack() as stack:
            if store is None:
                results = in_memory(plan)
            else:
                results = stack.enter_context(on_disk(plan, store, resume))
            return _compute_missing(plan, results, progress)
    except KeyboardInterrupt:
        # `from None` leaves out the traceback of JAX, which is hundreds of lines.
        raise (nothing_computed() if results is None else results.interrupted()) from None


def _compute_missing(plan: Plan, results: "SweepResults", progress: bool) -> "xr.Dataset":
    """Compute and store the missing runs, batch by batch; return all runs as a data set."""
    written, failed = results.written(), 0
    done = int(written.sum())
    bar = Bar(written.size, "sweep", progress, initial=done, unit="run")
    with lasting_interrupts() as check_interrupt, bar, BatchPrograms(plan) as programs:
        for cell, places in plan.batches():
            # Python loses an interrupt that arrives in JAX's callback of the garbage collector.
            check_interrupt()
            missing = places[~written[cell.place][places]]
            if missing.size == 0:
                continue
            try:
                # Compiled before `compute`, so that the bar can name the compilation.
                with bar.doing("compiling"):
                    programs.prepare(cell)
                outputs = programs.compute(cell, plan.seeds[missing])
            except KeyboardInterrupt:
                bar.write("interrupted: waits for the batch in progress")
                raise
            _check_variables(plan, outputs)
            results.write(cell, missing, outputs)
            failed += int(np.sum(~outputs.succeeded))
            done += missing.size
            bar.show(done, **({"failed": failed} if failed else {}))
        dataset = results.dataset()
        if progress:
            bar.conclude(_closing_line(dataset))
    return dataset


def _check_variables(plan: Plan, outputs: RunOutputs) -> None:
    """Refuse variables that differ from those of the first setting: all are in one data set."""
    expected = {name: (like.shape, like.dtype) for name, like in plan.variables().items()}
    found = {name: (a.shape[1:], a.dtype) for name, a in outputs.variables.items()}
    differing = sorted(dict(expected.items() ^ found.items()))
    if differing:
        raise ValueError(
            f"run: {differing} are not the same in all settings; let `observe` give observables of "
            "one name, shape and dtype, or make a sweep for each setting."
        )


def _closing_line(dataset: "xr.Dataset") -> str:
    """The number of runs with each outcome, as a sentence."""
    result = dataset["result"]
    codes, counts = np.unique(result.values, return_counts=True)
    outcomes = [
        f"{count} {result.attrs[str(code)].rstrip('.') or 'reached their end'}"
        for code, count in zip(codes, counts, strict=True)
    ]
    return f"{result.size} runs: {'; '.join(outcomes)}."
