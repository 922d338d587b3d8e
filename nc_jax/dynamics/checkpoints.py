"""Checkpoints of a flow: a Zarr store with the results so far and the arrays to resume from."""

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
from .program import Computed, Integration, integrate_here

_KIND = "flow"
# Seconds between checkpoints, and the largest fraction of the time that writing them may take:
# where a write is slow, checkpoints are less frequent.
_SECONDS, _SHARE = 5.0, 0.05


class Checkpoints:
    """The checkpoint of a run at a path; a new checkpoint replaces the old one atomically.

    `finished` says whether the store at the path has the run to its end.
    """

    def __init__(self, path: Path, attributes: Mapping[str, str], finished: bool):
        self.path, self.finished, self._attributes = path, finished, attributes
        # When the last checkpoint was written, and how many seconds the write took. The clock of
        # the system may be set back; a monotonic one is not.
        self._last, self._cost = time.monotonic(), 0.0

    def load(self, like: Computed) -> Computed:
        """The stored part of a run, in the structure of `like`; without a store, `like` itself."""
        if not self.path.exists():
            return like
        stored = storage.arrays(self.path)
        # Only the structure of `like` is used: a store has arrays, by their place in the tree.
        leaves, structure = jax.tree.flatten(like)
        return jax.tree.unflatten(structure, [stored[f"{i:03}"] for i in range(len(leaves))])

    def is_due(self) -> bool:
        """Whether enough time has passed since the last checkpoint to write another."""
        return time.monotonic() - self._last > max(_SECONDS, self._cost / _SHARE)

    def save(self, computed: Computed, trajectory: Trajectory, finished: bool) -> None:
        """Write the computed part of a run as the checkpoint."""
        began = time.monotonic()
        # As one record, whatever the number of pieces: `load` expects a fixed number of arrays.
        joined = jax.tree.map(lambda *parts: np.concatenate(parts), *computed.records)
        leaves = jax.tree.leaves(computed._replace(records=(joined,)))
        dataset = storage.to_dataset(trajectory, attributes=self._attributes)
        if not finished:
            # `to_dataset` wrote the code and the message of a run that ends here. The run has not
            # ended, so that both are replaced.
            dataset["result"] = (
                (),
                np.asarray(storage.NOT_RUN),
                storage.variable_attributes("result"),
            )
        arrays = {f"{i:03}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        storage.save(dataset, self.path, arrays=arrays)
        self._last, self._cost = time.monotonic(), time.monotonic() - began


@contextlib.contextmanager
def checkpoints_at(
    path: str | os.PathLike[str], configuration: Mapping[str, str]
) -> Iterator[Checkpoints]:
    """Checkpoints at a path, with a lock that excludes other writers until the run is finished.

    Nothing is written to the store of a finished run, so that it may be read-only.

    Raises: ValueError if the path has the store of another run; FileExistsError if it is no Zarr
    store;
    RuntimeError if another process writes there; OSError if nothing can be written there.
    """
    where = local_path(path)
    with contextlib.ExitStack() as stack:
        if not _is_finished(where, configuration):
            stack.enter_context(storage.writing(where))
        # Read again, since another process may have finished the run before the lock was taken.
        yield Checkpoints(where, configuration, _is_finished(where, configuration))


def _is_finished(path: Path, configuration: Mapping[str, str]) -> bool:
    """Whether the store has this run to its end.

    Raises: ValueError if the store has another run; FileExistsError if the path is no store.
    """
    storage.check_replaceable(path)
    if not path.exists():
        return False
    current = {**configuration, **storage.provenance()}
    advice = "Give another path, or remove the store."
    check_same(path, _KIND, storage.attributes(path), current, advice=advice)
    return int(storage.open_lazily(path)["result"]) != storage.NOT_RUN


def configuration(
    flow: Mapping[str, object], integration: Integration, start: PyTree, data: PyTree
) -> dict[str, str]:
    """All that decides a run's result, as text, with digests of its arrays and its program.

    Args: `flow` are the attributes of a `Flow` by name.
    """
    described = {}
    for name, value in flow.items():
        if value is None:
            continue
        # Of an observer the values that it closes over, since its text is the same for all values.
        call = name == "observe" and callable(value)
        described |= described_call(name, value, set()) if call else {name: short(value)}
    # The text of a problem or a controller has the shapes of its arrays but not their content.
    arrays = {
        "problem_arrays": integration.problem,
        "controller_arrays": integration.controller,
        "start": start,
        "data": data,
    }
    digests = {name: _digest_of_arrays(tree) for name, tree in arrays.items()}
    return {
        "kind": _KIND,
        **described,
        **digests,
        "program": _digest_of_program(integration, start, data),
    }


def _digest_of_program(integration: Integration, start: PyTree, data: PyTree) -> str:
    # Arrays are arguments of the traced program, so that their content is not in this digest.
    arrays, rest = eqx.partition((integration, start, data), eqx.is_array)

    def program(arrays: PyTree) -> PyTree:
        return eqx.filter(integrate_here(*eqx.combine(arrays, rest)), eqx.is_array)

    return digest_of_programs([jax.jit(program).trace(arrays)])


def _digest_of_arrays(tree: PyTree) -> str:
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    return digest(b"".join(np.asarray(leaf).tobytes() for leaf in leaves))
