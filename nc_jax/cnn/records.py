"""What a training records: a row of observables for each saved epoch, and its last state."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr
from jaxtyping import Int

from ..configuration import check_same
from ..datasets import observable_dims
from ..dynamics import Interrupted
from ..storage.batches import BatchStore
from ..storage.results import InMemory, Layout, OnDisk, ResultVariable, results_at
from .checkpoints import TrainingCheckpoints
from .evaluation import EQUATIONS
from .training import TrainState

# Observables of one saved epoch by name, each with the axis of seeds in front.
Row = dict[str, np.ndarray]
ExampleRow = Mapping[str, jax.ShapeDtypeStruct]
# Names of the axes of an observable after (seed, epoch); other observables get numbered names.
_NAMED_DIMS = {"margins": ("sample",)}
# A folder of states is removed when a training is replaced. Its name must therefore not be one that
# a user's folder may have, such as "checkpoints".
RESULTS, STATES = "results.zarr", "results.states"


class Records:
    """Rows and checkpoints of a training, in memory or in a folder."""

    def __init__(
        self,
        rows: InMemory | OnDisk,
        checkpoints: TrainingCheckpoints | None,
        path: Path | None,
    ):
        self._rows, self._checkpoints, self._path = rows, checkpoints, path

    def resumed(self, start: TrainState) -> TrainState:
        """The last state that was saved; the start if there is none."""
        if self._checkpoints is None or self._checkpoints.latest() is None:
            return start
        return self._checkpoints.restore(start)

    def write(self, place: int, row: Row) -> None:
        """Store the observables of one epoch; `place` is its index along the axis `epoch`."""
        num_seeds = row["result"].shape[0]
        # An axis of one epoch after that of the seeds.
        part = {name: values[:, None] for name, values in row.items()}
        self._rows.write([np.arange(num_seeds), np.array([place])], part)

    def checkpoint(self, state: TrainState) -> None:
        """Save a state to resume from.

        Call it after the rows up to this state are written: a resumed training does not compute
        the rows of earlier epochs again.
        """
        if self._checkpoints is not None:
            self._checkpoints.save(int(state.epoch.max()), state)

    def interrupted(self) -> Interrupted:
        """The exception to raise after Ctrl-C; it contains the rows if they are only in memory."""
        if self._checkpoints is None:
            message = "interrupted: the exception's `data` is what was computed; path= saves it"
            data = self._rows.dataset() if self._rows.written().any() else None
            return Interrupted(message, data=data)
        epoch = self._checkpoints.latest()
        saved = "no epoch" if epoch is None else f"the state after epoch {epoch}"
        return Interrupted(f"interrupted: {saved} is saved; the same call resumes in {self._path}")

    def dataset(self) -> xr.Dataset:
        """All rows as a data set; rows on disk are read when they are used."""
        return self._rows.dataset()


@contextlib.contextmanager
def records(
    path: Path | None,
    *,
    resume: bool,
    example: ExampleRow,
    epochs: Int[np.ndarray, " T"],
    attributes: Mapping[str, Any],
) -> Iterator[Records]:
    """The records of a training; a lock prevents two processes from writing at the same time.

    Args:
        path: a folder, or None for memory.
        resume: continue with the training in the folder; False replaces it.
        example: shapes and dtypes of a row.
        epochs: at which rows are recorded.
        attributes: the configuration of the training, with `num_epochs`.
    """
    layout = _layout(example, epochs)
    if path is None:
        yield Records(InMemory(layout, attributes), None, None)
        return
    states = path / STATES

    def check(store: BatchStore) -> None:
        check_same(path, "training", store.attributes, attributes)

    def is_finished(rows: OnDisk) -> bool:
        # A finished training may be on a read-only disk: its states are opened without a lock and
        # without the clean-up of a killed process's files.
        if rows.is_new or not states.is_dir() or not np.all(rows.written()):
            return False
        return TrainingCheckpoints(states, read_only=True).latest() == attributes["num_epochs"]

    with results_at(
        path / RESULTS,
        layout,
        lambda labels, stored: attributes,
        check=check,
        resume=resume,
        is_complete=is_finished,
    ) as rows:
        if rows.is_new:
            # The states are removed before the store is created. In the other order a kill in
            # between would leave the states of another training beside the new store, and the next
            # call would resume from them.
            if states.exists():
                shutil.rmtree(states)
            rows.make_room()
        yield Records(rows, TrainingCheckpoints(states, read_only=is_finished(rows)), path)


def _layout(example: ExampleRow, epochs: Int[np.ndarray, " T"]) -> Layout:
    """Axes (seed, epoch). A chunk has all seeds of one epoch, so that an epoch writes one file."""
    num_seeds = example["result"].shape[0]
    variables = {}
    for name, like in example.items():
        shape = like.shape[1:]
        dims = _NAMED_DIMS.get(name, observable_dims(name, len(shape)))
        variables[name] = ResultVariable(dims, shape, like.dtype)
    labels = {"seed": range(num_seeds), "epoch": epochs.tolist()}
    return Layout(labels, variables, (num_seeds, 1), EQUATIONS)
