"""A run on disk: a Zarr store that holds its results so far and all that it needs to resume."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from .. import storage
from ..configuration import check_same, described_call, digest, digest_of_programs, short
from ..paths import local_path
from ..trajectory import Trajectory
from .pieces import Computed, integrate_here
from .program import Run

_KIND = "flow"
# Seconds between checkpoints, and the share of the time that writing them may take.
_SECONDS, _SHARE = 5.0, 0.05


class Checkpoints:
    """The checkpoint of a run at a path, each written whole in the place of the one before."""

    def __init__(self, path: Path, attributes: Mapping[str, str], finished: bool):
        self.path, self.finished, self._attributes = path, finished, attributes
        self._last, self._cost = time.monotonic(), 0.0

    def load(self, like: Computed) -> Computed:
        """What is stored, with the structure of a run of which nothing is computed; else that."""
        if not self.path.exists():
            return like
        stored = storage.arrays(self.path)
        leaves, structure = jax.tree.flatten(like)
        return jax.tree.unflatten(structure, [stored[f"{i:03}"] for i in range(len(leaves))])

    def is_due(self) -> bool:
        """Whether a checkpoint is worth its time."""
        return time.monotonic() - self._last > max(_SECONDS, self._cost / _SHARE)

    def save(self, computed: Computed, trajectory: Trajectory, finished: bool) -> None:
        """Write what is computed."""
        began = time.monotonic()
        joined = jax.tree.map(lambda *parts: np.concatenate(parts), *computed.records)
        leaves = jax.tree.leaves(computed._replace(records=(joined,)))
        dataset = storage.to_dataset(trajectory, self._attributes)
        if not finished:
            dataset["result"] = (), np.asarray(storage.NOT_RUN), {}
        arrays = {f"{i:03}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        storage.save(dataset, self.path, arrays)
        self._last, self._cost = time.monotonic(), time.monotonic() - began


@contextlib.contextmanager
def checkpoints_at(
    path: str | os.PathLike[str], configuration: Mapping[str, str]
) -> Iterator[Checkpoints]:
    """Checkpoints at a path that no other process writes to at the same time.

    Nothing is written to a store that has a finished run, which may thus be read-only.

    Raises: ValueError if the path holds another run; FileExistsError if it is no Zarr store;
    RuntimeError if another process writes there; OSError if nothing can be written there.
    """
    where = local_path(path)
    with contextlib.ExitStack() as stack:
        if not _is_finished(where, configuration):
            stack.enter_context(storage.writing(where))
        # Another process may have written until now.
        yield Checkpoints(where, configuration, _is_finished(where, configuration))


def _is_finished(path: Path, configuration: Mapping[str, str]) -> bool:
    """Whether this run is there to its end; refuses another."""
    storage.check_replaceable(path)
    if not path.exists():
        return False
    mine = {**configuration, **storage.provenance()}
    advice = "Give another path, or remove the store."
    check_same(path, _KIND, storage.attributes(path), mine, advice)
    return int(storage.open_lazily(path)["result"]) != storage.NOT_RUN


def configuration(
    flow: Mapping[str, object], run: Run, start: PyTree, data: PyTree
) -> dict[str, str]:
    """All that decides a run's result, as text, and a digest of its program."""
    described = {}
    for name, value in flow.items():
        if value is None:
            continue
        call = name == "observe" and callable(value)
        described |= described_call(name, value, set()) if call else {name: short(value)}
    arrays = {"problem_arrays": run.problem, "start": start, "data": data}
    digests = {name: _digest_of_arrays(tree) for name, tree in arrays.items()}
    return {"kind": _KIND, **described, **digests, "program": _digest_of_program(run, start, data)}


def _digest_of_program(run: Run, start: PyTree, data: PyTree) -> str:
    arrays, rest = eqx.partition((run, start, data), eqx.is_array)

    def program(arrays: PyTree) -> PyTree:
        return eqx.filter(integrate_here(*eqx.combine(arrays, rest)), eqx.is_array)

    return digest_of_programs([jax.jit(program).trace(arrays)])


def _digest_of_arrays(tree: PyTree) -> str:
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    return digest(b"".join(np.asarray(leaf).tobytes() for leaf in leaves))
