"""The compiled programs of a sweep, each of which computes a batch of runs."""

import math
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from ..compilation import cpu_options
from .cells import Cell, FloatArguments, RunOutputs
from .plan import Plan

# (seeds (parts, blocks, lanes), floats) -> outputs, one for each part or one for all parts.
BatchProgram = Callable[[np.ndarray, FloatArguments], list[RunOutputs]]


class BatchPrograms:
    """The programs of a plan, each compiled once for the cells that share it.

    A batch has parts, one for each device of the mesh, or without a mesh one for each core of a
    CPU: XLA runs a program of small operations on one core, so that each core runs a program from a
    separate thread. A part has blocks, which are computed one after another, and a block has lanes,
    which are stepped together.
    """

    def __init__(self, plan: Plan):
        self._plan = plan
        self._batches: dict[str, BatchProgram] = {}
        # Programs of one run, each with the `map` that calls it.
        self._singles: dict[str, tuple[Callable, Callable]] = {}
        on_cores = plan.mesh is None and jax.default_backend() == "cpu"
        self._pool = ThreadPoolExecutor(_num_cores() if on_cores else 1)
        blocks = -(-plan.batch_size // plan.lanes)
        parts = (
            min(_num_cores() if on_cores else 1, blocks) if plan.mesh is None else plan.mesh.size
        )
        self._shape = (parts, -(-blocks // parts), plan.lanes)

    def __enter__(self) -> "BatchPrograms":
        return self

    def __exit__(self, *error) -> None:
        # This waits for the parts in progress. Programs of theirs and of the next sweep, running at
        # the same time, could wait for each other.
        self._pool.shutdown(cancel_futures=True)

    def prepare(self, cell: Cell) -> None:
        """Compile the program of a cell, unless it is compiled already."""
        if cell.program_name not in self._batches:
            self._batches[cell.program_name] = self._compile(cell)

    def compute(self, cell: Cell, seeds: Int[np.ndarray, " S"]) -> RunOutputs:
        """Outputs of a batch, with leading axis S; runs that failed in a block run again alone."""
        # A compiled program has one shape. A smaller batch is padded with its last seed, and the
        # outputs of the padding are dropped below.
        padded = np.pad(seeds, (0, math.prod(self._shape) - seeds.size), mode="edge")
        self.prepare(cell)
        parts = self._batches[cell.program_name](padded.reshape(self._shape), cell.floats)
        joined = jax.tree.map(lambda *parts: np.concatenate(parts), *parts)
        outputs = jax.tree.map(lambda a: a.reshape(-1, *a.shape[3:])[: seeds.size], joined)
        shared = outputs.variables["shared_steps"]
        # A block of one lane takes the steps that the run takes alone: it would fail again. In
        # place, so that `outputs` has the new values.
        shared &= self._plan.lanes > 1
        failed = np.flatnonzero(shared & ~outputs.succeeded)
        for at, single in zip(failed, self._alone(cell, seeds[failed]), strict=True):
            for values, value in zip(*map(jax.tree.leaves, (outputs, single)), strict=True):
                values[at] = value
        shared[failed] = False
        return outputs

    def _compile(self, cell: Cell) -> BatchProgram:
        mesh, floats = self._plan.mesh, cell.floats
        batch = _batch_of(self._plan, cell)
        # Vectors as wide as those of the processor; LLVM prefers half the width.
        options = cpu_options(xla_cpu_prefer_vector_width=512)
        # Without a mesh the program computes one part; with a mesh another program computes all
        # parts at once.
        example = np.zeros((1, *self._shape[1:]), np.int64)
        lowered = jax.jit(batch, compiler_options=options).lower(example, floats)
        one_by_one = _must_run_alone(lowered.as_text()) and jax.process_count() == 1
        if mesh is None or one_by_one:
            program = lowered.compile()
            # XLA releases Python's lock while a program runs, so that threads run it on all cores.
            each = map if one_by_one else self._pool.map
            return lambda seeds, floats: list(
                each(lambda part: _to_host(program(part, floats)), seeds[:, None])
            )
        over = PartitionSpec(mesh.axis_names)
        sharding = NamedSharding(mesh, over)
        spread = jax.shard_map(
            batch, mesh=mesh, in_specs=(over, PartitionSpec()), out_specs=over, check_vma=False
        )

        def place(seeds: np.ndarray) -> Array:
            # From a callback, since a host can only place data on devices of that host.
            return jax.make_array_from_callback(seeds.shape, sharding, seeds.__getitem__)

        spread = jax.jit(spread, compiler_options=options)
        program = spread.lower(place(np.zeros(self._shape, np.int64)), floats).compile()
        return lambda seeds, floats: [_to_host(program(place(seeds), floats))]

    def _alone(self, cell: Cell, seeds: Int[np.ndarray, " S"]) -> Iterable[RunOutputs]:
        """Outputs of runs that take their steps alone, on all cores where that cannot deadlock."""
        if seeds.size == 0:
            return []
        name, floats = cell.program_name, cell.floats
        # Compiled at the first failure, since most sweeps have none.
        if name not in self._singles:
            lowered = jax.jit(cell.outputs).lower(seeds[0], floats)
            each = map if _must_run_alone(lowered.as_text()) else self._pool.map
            self._singles[name] = lowered.compile(), each
        program, each = self._singles[name]
        return each(lambda seed: jax.tree.map(np.asarray, program(seed, floats)), seeds)


def block_of_runs(plan: Plan, cell: Cell) -> Callable[..., RunOutputs]:
    """(seeds (S,), floats of the cell) -> outputs with leading axis S."""
    if plan.common_steps:
        return cell.outputs_with_common_steps
    return jax.vmap(cell.outputs, (0, None))


def _batch_of(plan: Plan, cell: Cell) -> Callable:
    """A function of seeds (parts, blocks, lanes): blocks one after another, lanes together."""
    block = block_of_runs(plan, cell)

    def batch(seeds: Int[Array, "P B S"], floats: FloatArguments) -> RunOutputs:
        blocks = seeds.reshape(-1, seeds.shape[-1])
        flat = jax.lax.map(lambda seeds: block(seeds, floats), blocks)
        return jax.tree.map(lambda leaf: leaf.reshape(*seeds.shape[:2], *leaf.shape[1:]), flat)

    return batch


def _must_run_alone(program: str) -> bool:
    """Whether XLA's CPU runtime may deadlock when this program runs at the same time as another.

    Calls of libraries, such as LAPACK's singular value decomposition, wait for threads of the pool
    on which they run. Two such programs at a time, on two cores or on two virtual devices, have
    been observed to wait for ever (jaxlib 0.10.2, batches of 64).
    """
    calls = re.search(r"custom_call @|stablehlo\.fft", program)
    return jax.default_backend() == "cpu" and calls is not None


def _to_host(outputs: RunOutputs) -> RunOutputs:
    """Outputs as arrays of NumPy; each host gets the outputs of all hosts."""
    if jax.process_count() > 1:
        outputs = multihost_utils.process_allgather(outputs, tiled=True)
    return jax.tree.map(np.asarray, outputs)


def _num_cores() -> int:
    """Number of cores that this process may use, which may be fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
