"""Compiled batches of runs."""

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
from .plan import (
    Floats,
    Plan,
    Setting,
    block_of_runs,
    floats_of,
    one_run,
    outputs_of,
    program_name,
)


class Programs:
    """The programs of a plan, compiled once for each setting that is no float.

    A batch is cut into parts, one a device of the mesh, or one a core of a CPU without one: XLA
    runs a program of small operations on one core, and another beside it on the next.
    """

    def __init__(self, plan: Plan):
        self._plan = plan
        self._batches: dict[str, Callable[[np.ndarray, Floats], list]] = {}
        self._singles: dict[str, tuple[Callable, Callable]] = {}
        on_cores = plan.mesh is None and jax.default_backend() == "cpu"
        self._pool = ThreadPoolExecutor(_cores() if on_cores else 1)
        blocks = -(-plan.batch_size // plan.lanes)
        parts = min(_cores() if on_cores else 1, blocks) if plan.mesh is None else plan.mesh.size
        self._shape = (parts, -(-blocks // parts), plan.lanes)

    def __enter__(self) -> "Programs":
        return self

    def __exit__(self, *error) -> None:
        # Waits for the parts in progress: a next sweep beside them could wait for them for ever.
        self._pool.shutdown(cancel_futures=True)

    def prepare(self, setting: Setting) -> None:
        """Compile what a batch of this setting needs, unless that is done."""
        name = program_name(setting)
        if name not in self._batches:
            self._batches[name] = self._compile(setting)

    def compute(self, setting: Setting, seeds: Int[np.ndarray, " S"]) -> dict[str, np.ndarray]:
        """What the runs of a batch leave, those that failed among common steps made again alone."""
        padded = np.pad(seeds, (0, math.prod(self._shape) - seeds.size), mode="edge")
        self.prepare(setting)
        made = self._batches[program_name(setting)](padded.reshape(self._shape), floats_of(setting))
        outputs = {key: np.concatenate([part[key] for part in made]) for key in made[0]}
        outputs = {k: v.reshape(-1, *v.shape[3:])[: seeds.size] for k, v in outputs.items()}
        outputs["shared_steps"] &= self._plan.lanes > 1
        failed = np.flatnonzero(outputs["shared_steps"] & ~outputs["succeeded"])
        for at, single in zip(failed, self._alone(setting, seeds[failed]), strict=True):
            for key, value in single.items():
                outputs[key][at] = value
        outputs["shared_steps"][failed] = False
        return outputs

    def _compile(self, setting: Setting) -> Callable[[np.ndarray, Floats], list]:
        """(seeds (parts, blocks, lanes), floats) -> outputs, part by part or of all together."""
        mesh, floats = self._plan.mesh, floats_of(setting)
        batch = _batch_of(self._plan, setting)
        # Vectors as wide as the processor has them; LLVM prefers half of that.
        options = cpu_options(xla_cpu_prefer_vector_width=512)
        example = np.zeros((1, *self._shape[1:]), np.int64)
        lowered = jax.jit(batch, compiler_options=options).lower(example, floats)
        one_by_one = _must_run_alone(lowered.as_text()) and jax.process_count() == 1
        if mesh is None or one_by_one:
            program = lowered.compile()
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
            return jax.make_array_from_callback(seeds.shape, sharding, seeds.__getitem__)

        spread = jax.jit(spread, compiler_options=options)
        program = spread.lower(place(np.zeros(self._shape, np.int64)), floats).compile()
        return lambda seeds, floats: [_to_host(program(place(seeds), floats))]

    def _alone(
        self, setting: Setting, seeds: Int[np.ndarray, " S"]
    ) -> Iterable[dict[str, np.ndarray]]:
        """What these runs leave one by one, on all cores where they may run beside each other."""
        if seeds.size == 0:
            return []
        name, floats = program_name(setting), floats_of(setting)
        if name not in self._singles:
            one = one_run(self._plan.run, self._plan.key, setting)
            lowered = jax.jit(lambda seed, floats: outputs_of(one(seed, floats))).lower(
                seeds[0], floats
            )
            each = map if _must_run_alone(lowered.as_text()) else self._pool.map
            self._singles[name] = lowered.compile(), each
        program, each = self._singles[name]
        return each(lambda seed: jax.tree.map(np.asarray, program(seed, floats)), seeds)


def _must_run_alone(program: str) -> bool:
    """Whether XLA's CPU runtime may wedge when it runs this beside another program.

    Calls into libraries, as LAPACK's of a singular value decomposition, wait for threads of the
    pool they run on. Two at a time, on two cores or on two virtual devices, have been seen to wait
    for ever (jaxlib 0.10.2, batches of 64).
    """
    calls = re.search(r"custom_call @|stablehlo\.fft", program)
    return jax.default_backend() == "cpu" and calls is not None


def _batch_of(plan: Plan, setting: Setting) -> Callable:
    """Runs of seeds (parts, blocks, lanes): blocks in turn, lanes beside each other."""
    block = block_of_runs(plan, setting)

    def batch(seeds: Int[Array, "P B S"], floats: Floats) -> dict[str, Array]:
        blocks = seeds.reshape(-1, seeds.shape[-1])
        flat = jax.lax.map(lambda seeds: block(seeds, floats), blocks)
        return jax.tree.map(lambda leaf: leaf.reshape(*seeds.shape[:2], *leaf.shape[1:]), flat)

    return batch


def _to_host(outputs: dict[str, Array]) -> dict[str, np.ndarray]:
    """Outputs as arrays of NumPy, those of all hosts on each of them."""
    if jax.process_count() > 1:
        outputs = multihost_utils.process_allgather(outputs, tiled=True)
    return jax.tree.map(np.asarray, outputs)


def _cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
