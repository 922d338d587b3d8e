"""A run on disk: a Zarr store that holds its results so far and all that it needs to resume."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from .. import storage
from ..configuration import check_same, described_call, digest, short
from ..trajectory import Trajectory
from .pieces import Computed, integrate_here
from .program import Run

_KIND = "flow"
# Seconds between checkpoints, and the share of the time that writing them may take.
_SECONDS, _SHARE = 5.0, 0.05


class Checkpoints:
    """The checkpoint of a run at a path, each written whole in the place of the one before."""

    def __init__(self, path: Path, attributes: Mapping[str, str]):
        self.path, self._attributes = path, attributes
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

    Raises: ValueError if the path holds another run; FileExistsError if it is no Zarr store;
    RuntimeError if another process writes there.
    """
    where = Path(path).expanduser()
    storage.check_replaceable(where)
    with storage.writing(where):
        if where.exists():
            mine = {**configuration, **storage.provenance()}
            advice = "Give another path, or remove the store."
            check_same(where, _KIND, storage.attributes(where), mine, advice)
        yield Checkpoints(where, configuration)


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
    jit: Any = integrate_here
    program = jit.lower(run, start, data).as_text()
    return {"kind": _KIND, **described, **digests, "program": digest(program.encode())}


def _digest_of_arrays(tree: PyTree) -> str:
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    return digest(b"".join(np.asarray(leaf).tobytes() for leaf in leaves))
