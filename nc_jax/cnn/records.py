"""Where the results of a training go: memory, or a folder it can go on in after a kill."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import diffrax
import jax
import numpy as np
import xarray as xr
from jaxtyping import Int

from .. import storage
from ..configuration import check_same
from ..dynamics import Interrupted
from .training import TrainState

Row = dict[str, np.ndarray]
Example = Mapping[str, jax.ShapeDtypeStruct]
# Dims of an observable of one run at one epoch, beyond (seed, epoch).
_OWN_DIMS = {"margins": ("sample",)}
# Of states a name that nobody else would give: what lies there is replaced.
RESULTS, STATES = "results.zarr", "results.states"


@runtime_checkable
class Records(Protocol):
    """What a training fills, a row of observables (seed, ...) for each epoch of `epochs`."""

    def resumed(self, start: TrainState) -> TrainState:
        """The state to go on from."""
        ...

    def write(self, place: int, row: Row) -> None:
        """Keep what was observed at `epochs[place]`."""
        ...

    def checkpoint(self, state: TrainState) -> None:
        """Keep a state to go on from."""
        ...

    def interrupted(self) -> Interrupted:
        """What Ctrl-C raises."""
        ...

    def dataset(self) -> xr.Dataset:
        """All rows."""
        ...


class InMemory:
    """Results of a training without a path."""

    def __init__(
        self, example: Example, epochs: Int[np.ndarray, " T"], attributes: Mapping[str, Any]
    ):
        self._epochs, self._attributes = epochs, attributes
        self._arrays = {
            name: np.full(
                _with_epochs(like, len(epochs)), storage.fill_value(like.dtype), like.dtype
            )
            for name, like in example.items()
        }

    def resumed(self, start: TrainState) -> TrainState:
        """The start."""
        return start

    def write(self, place: int, row: Row) -> None:
        """Keep a row."""
        for name, values in row.items():
            self._arrays[name][:, place] = values

    def checkpoint(self, state: TrainState) -> None:
        """Nothing to do."""

    def interrupted(self) -> Interrupted:
        """What Ctrl-C raises, with all rows so far."""
        message = "interrupted: the exception's `data` is what was computed; path= saves it"
        return Interrupted(message, data=self.dataset())

    def dataset(self) -> xr.Dataset:
        """All rows."""
        coords = _coordinates(len(self._arrays["result"]), self._epochs)
        dataset = xr.Dataset(
            {name: (_dims(name, array.ndim), array) for name, array in self._arrays.items()},
            coords=coords,
            attrs=self._attributes,
        )
        dataset["result"].attrs = storage.meanings(self._arrays["result"])
        return dataset


class OnDisk:
    """Results in a Zarr store, and the last state beside it."""

    def __init__(
        self,
        path: Path,
        resume: bool,
        example: Example,
        epochs: Int[np.ndarray, " T"],
        attributes: Mapping[str, Any],
    ):
        self._path, self._results = path, path / RESULTS
        storage.check_replaceable(self._results)
        if resume and self._results.exists():
            self._store = _same_store(path, attributes)
            self._store.remove_partial()
        else:
            # States first: a store with those of another run beside it would be gone on with.
            if (path / STATES).exists():
                shutil.rmtree(path / STATES)
            empty = {name: _empty(name, like, len(epochs)) for name, like in example.items()}
            coords = _coordinates(example["result"].shape[0], epochs)
            self._store = storage.BatchStore.create(self._results, empty, coords, attributes)
        self._checkpoints = storage.Checkpoints(path / STATES)

    def resumed(self, start: TrainState) -> TrainState:
        """The last state that was kept, or the start."""
        return start if self._checkpoints.latest() is None else self._checkpoints.restore(start)

    def write(self, place: int, row: Row) -> None:
        """Keep a row."""
        part = {name: values[:, None] for name, values in row.items()}
        self._store.write(part, (slice(None), slice(place, place + 1)))

    def checkpoint(self, state: TrainState) -> None:
        """Keep a state, after the rows that led to it."""
        self._checkpoints.save(int(state.epoch.max()), state)

    def interrupted(self) -> Interrupted:
        """What Ctrl-C raises."""
        epoch = self._checkpoints.latest()
        saved = "no epoch" if epoch is None else f"the state after epoch {epoch}"
        return Interrupted(f"interrupted: {saved} is saved; the same call resumes in {self._path}")

    def dataset(self) -> xr.Dataset:
        """All rows, read where they are asked for."""
        return storage.open_lazily(self._results)


class Finished:
    """Results of a training that is over, on a disk that may be read-only."""

    def __init__(self, path: Path):
        self._results = path / RESULTS
        self._checkpoints = storage.Checkpoints(path / STATES, read_only=True)

    def resumed(self, start: TrainState) -> TrainState:
        """The last state."""
        return self._checkpoints.restore(start)

    def write(self, place: int, row: Row) -> None:
        """Never called."""

    def checkpoint(self, state: TrainState) -> None:
        """Never called."""

    def interrupted(self) -> Interrupted:
        """What Ctrl-C raises."""
        return Interrupted("interrupted: the training is finished and saved")

    def dataset(self) -> xr.Dataset:
        """All rows, read where they are asked for."""
        return storage.open_lazily(self._results)


@contextlib.contextmanager
def records(
    path: Path | None,
    resume: bool,
    example: Example,
    epochs: Int[np.ndarray, " T"],
    attributes: Mapping[str, Any],
) -> Iterator[Records]:
    """Results at a path that nobody else may write at the same time, or in memory."""
    if path is None:
        yield InMemory(example, epochs, attributes)
        return
    if resume and _is_finished(path, attributes):
        yield Finished(path)
        return
    with storage.writing(path / RESULTS):
        yield OnDisk(path, resume, example, epochs, attributes)


def _same_store(path: Path, attributes: Mapping[str, Any]) -> storage.BatchStore:
    """The store in a folder, which must be of this training."""
    store = storage.BatchStore(path / RESULTS)
    check_same(path, "training", store.attributes, attributes)
    return store


def _is_finished(path: Path, attributes: Mapping[str, Any]) -> bool:
    """Whether this training is there with its last state; refuses another."""
    if not storage.is_store(path / RESULTS) or not (path / STATES).is_dir():
        return False
    written = _same_store(path, attributes).written()
    latest = storage.Checkpoints(path / STATES, read_only=True).latest()
    return bool(np.all(written)) and latest == attributes["num_epochs"]


def with_result(row: Row) -> Row:
    """A row with the code of `diffrax.RESULTS` for each seed: whether its loss is a number."""
    codes = [_code(diffrax.RESULTS.successful), _code(diffrax.RESULTS.nonfinite)]
    failed = ~np.isfinite(row["train_loss"])
    return {**row, "result": np.where(failed, codes[1], codes[0]).astype(np.int32)}


def _code(result: Any) -> int:
    [leaf] = jax.tree.leaves(result)
    return int(leaf)


def _dims(name: str, count: int) -> tuple[str, ...]:
    return ("seed", "epoch", *_OWN_DIMS.get(name, storage.own_dims(name, count - 2)))


def _with_epochs(like: jax.ShapeDtypeStruct, num_epochs: int) -> tuple[int, ...]:
    seeds, *own = like.shape
    return (seeds, num_epochs, *own)


def _empty(name: str, like: jax.ShapeDtypeStruct, num_epochs: int) -> storage.Empty:
    shape, chunks = _with_epochs(like, num_epochs), _with_epochs(like, 1)
    return storage.Empty(_dims(name, len(shape)), shape, chunks, like.dtype)


def _coordinates(
    num_seeds: int, epochs: Int[np.ndarray, " T"]
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    return {"seed": (("seed",), np.arange(num_seeds)), "epoch": (("epoch",), epochs)}
