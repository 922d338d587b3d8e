"""The results of a sweep: labelled by setting and seed, in memory or in a store."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr
from jax.experimental import multihost_utils
from jaxtyping import Bool, Int

from ..configuration import check_same, described, described_call, short
from ..datasets import observable_dims, provenance
from ..dynamics import Interrupted
from ..storage.batches import BatchStore
from ..storage.results import InMemory, Labels, Layout, OnDisk, ResultVariable, results_at
from ..trajectory import variables_of
from .cells import Cell, RunOutputs
from .plan import Plan, are_numbers

# Attributes that may differ between calls that fill one store: a call may add seeds, or divide the
# work into other batches.
_FREE = frozenset({"seeds", "batch_size", "lanes"})


class SweepResults:
    """The runs of a plan, in memory or in a store. Host 0 alone writes a store; all hosts read it.

    Args: `path` of the store, None for memory.
    """

    def __init__(self, plan: Plan, results: InMemory | OnDisk, path: Path | None = None):
        self._plan, self._results, self._path = plan, results, path
        # Save times or steps, which are the same for all runs; None before the first batch.
        self._axis = results.coordinate(plan.example.axis.coordinate)

    def written(self) -> Bool[np.ndarray, "..."]:
        """Which runs are computed, along the axes of the plan."""
        # As host 0 reads it: hosts that compute other batches would wait for each other for ever.
        return np.asarray(_from_host_0(self._results.written()))

    def write(self, cell: Cell, places: Int[np.ndarray, " S"], outputs: RunOutputs) -> None:
        """Store the runs of a cell at some indices of the plan's seeds."""
        self._axis = _common_axis(self._axis, outputs.axis)
        if self._path is not None and jax.process_index() > 0:
            return
        # All runs of a batch are in one cell: its arrays get an axis of length 1 for every setting.
        in_grid = (None,) * len(cell.place)
        part = {name: values[in_grid] for name, values in outputs.variables.items()}
        dim, coordinate, _ = self._plan.example.axis
        self._results.write(
            [*(np.array([at]) for at in cell.place), places],
            part,
            coordinates={coordinate: ((dim,), self._axis)},
        )

    def dataset(self) -> xr.Dataset:
        """All runs of the plan."""
        # Hosts that do not write wait here until host 0 has written the last batch.
        _from_host_0(np.zeros(()))
        # The attributes of a store describe all of its runs; this data set has those of the plan.
        return self._results.dataset().assign_attrs(_described_labels(_labels(self._plan)))

    def interrupted(self) -> Interrupted:
        """The exception for Ctrl-C, with the runs so far where they are in memory."""
        # Not as host 0 reads it: Ctrl-C may interrupt one host alone, which would wait for others.
        written = self._results.written()
        count = f"interrupted: {written.sum()} of {written.size} runs are"
        if self._path is not None:
            return Interrupted(f"{count} saved; the same call resumes from {self._path}")
        return Interrupted(
            f"{count} computed, the exception's `data`; path= saves them",
            data=self._results.dataset() if written.any() else None,
        )


def in_memory(plan: Plan) -> SweepResults:
    """Results that are lost with the process."""
    attributes = _configuration(plan, _labels(plan))
    return SweepResults(plan, InMemory(_layout(plan), attributes))


@contextlib.contextmanager
def on_disk(plan: Plan, path: Path, resume: bool) -> Iterator[SweepResults]:
    """Results in a store, with a lock that excludes other writers while runs are missing.

    If no run is missing, nothing is written, so that the store may be read-only.
    """
    layout = _layout(plan)
    if jax.process_index() > 0:
        if not bool(_from_host_0(np.asarray(False))):
            raise RuntimeError(f"{path}: host 0 cannot write there; see its message.")
        # This host never writes, so that it needs no attributes of the store.
        yield SweepResults(plan, OnDisk(layout, path, lambda labels, stored: {}), path)
        return
    with contextlib.ExitStack() as stack:
        opened = False
        try:
            results = stack.enter_context(_store_at(plan, layout, path, resume))
            opened = True
        finally:
            # Other hosts wait for this message. Without it they would wait for ever after an error.
            _from_host_0(np.asarray(opened))
        yield SweepResults(plan, results, path)


def _store_at(
    plan: Plan, layout: Layout, path: Path, resume: bool
) -> contextlib.AbstractContextManager[OnDisk]:
    """The store of a sweep, with the digests of its programs as an attribute."""
    # One cell for each program: cells that differ in floats alone have the same program.
    programs = {cell.program_name: cell for cell in plan.cells}
    digests = {name: cell.program_digest(plan.seeds[0]) for name, cell in programs.items()}

    def describe(labels: Labels, stored: Mapping[str, object]) -> dict[str, Any]:
        # A store has the digests of earlier calls too, which may have had other settings.
        all_digests = {**json.loads(str(stored.get("program", "{}"))), **digests}
        return {**_configuration(plan, labels), "program": json.dumps(all_digests)}

    def check(store: BatchStore) -> None:
        _check_same_sweep(plan, path, store, digests)

    return results_at(path, layout, describe, check=check, resume=resume)


def _layout(plan: Plan) -> Layout:
    """Axes of the grid and the seeds; a chunk of a store is a batch of one cell."""
    along_axis, dim = variables_of(plan.example), plan.example.axis.dim
    variables = {}
    for name, like in plan.variables().items():
        dims = ()
        # Others, such as `result`, have one value for each run.
        if name in along_axis:
            dims = (dim, *observable_dims(name, len(like.shape) - 1))
        variables[name] = ResultVariable(dims, like.shape, like.dtype)
    # A chunk is a file, so that a killed process leaves a batch complete or not at all.
    chunk = (*(1 for _ in plan.grid), plan.batch_size)
    long_names = {name: f"{name}, a setting of the sweep" for name in plan.grid}
    return Layout(_labels(plan), variables, chunk, long_names)


def _labels(plan: Plan) -> dict[str, list]:
    """Values of each setting, numbers or texts, and the numbers of the seeds."""
    settings = {name: _as_labels(values) for name, values in plan.grid.items()}
    return {**settings, "seed": plan.seeds.tolist()}


def _as_labels(values: list) -> list:
    return values if are_numbers(values) else [described(value) for value in values]


def _check_same_sweep(
    plan: Plan, path: Path, store: BatchStore, digests: Mapping[str, str]
) -> None:
    """Refuse a store of another sweep.

    Seeds and values of the grid may differ, if the values of a setting are of the same kind:
    floats, other numbers, which are constants of the programs, or texts. Programs of the same
    settings must be equal.
    """
    # The attribute "program" has the digests of all settings. Only digests of settings that the
    # store and this call both have can be compared.
    stored, current = store.attributes, _configuration(plan, _labels(plan))
    stored_digests: dict[str, str] = {}
    if stored.get("kind") == current["kind"]:
        stored_digests = json.loads(str(stored["program"]))
    has_several = len({**stored_digests, **digests}) > 1
    for name in sorted(stored_digests.keys() & digests.keys()):
        if stored_digests[name] != digests[name]:
            shown = f"program of {name}" if has_several else "program"
            stored[shown], current[shown] = stored_digests[name], digests[name]
    free = {f"grid.{name}" for name, values in plan.grid.items() if _same_kind(store, name, values)}
    if "program" not in current:
        free |= {"program"}
    check_same(path, "sweep", stored, current, free=_FREE | free)


def _same_kind(store: BatchStore, name: str, values: list) -> bool:
    """Whether the values of a setting are of the same kind as those in a store."""
    if f"grid.{name}" not in store.attributes:
        return False
    # By the kind of NumPy's dtype: the labels of one axis are one array.
    return np.array(_as_labels(values)).dtype.kind == np.array(store.labels(name)).dtype.kind


def _from_host_0(value: np.ndarray) -> np.ndarray:
    """The value of host 0 on every host, once all hosts have called this function."""
    if jax.process_count() == 1:
        return value
    return multihost_utils.broadcast_one_to_all(value)


def _common_axis(known: np.ndarray | None, axis: np.ndarray) -> np.ndarray:
    """The save times or steps (T,) that all runs must share, from those of a batch (S, T).

    Args: `known` are those of earlier batches, None for the first batch.

    Raises: ValueError for a run with other save times or steps.
    """
    expected = axis[0] if known is None else known
    if np.any(axis != expected):
        raise ValueError(
            "run: saves are at other times for some seeds or settings; save all at the same."
        )
    return expected


def _configuration(plan: Plan, labels: Labels) -> dict[str, Any]:
    """All that decides the data, as attributes, for runs with these labels."""
    # A store has texts and numbers as attributes, and no key.
    key_data = np.asarray(jax.random.key_data(plan.key)).tolist()
    devices = jax.devices() if plan.mesh is None else plan.mesh.devices.ravel().tolist()
    variables = [
        f"{name} {like.dtype}{list(like.shape)}" for name, like in plan.variables().items()
    ]
    return {
        "kind": "sweep",
        **described_call("run", plan.run, set(plan.grid)),
        **_described_labels(labels),
        "dims": ", ".join(plan.axes),
        "variables": short(", ".join(variables)),
        "key": f"{jax.random.key_impl(plan.key)} {key_data}",
        "batch_size": plan.batch_size,
        "lanes": plan.lanes,
        "platform": devices[0].platform,
        **provenance(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
    }


def _described_labels(labels: Labels) -> dict[str, str]:
    """The settings and seeds of runs, as attributes."""
    grid = {f"grid.{name}": described(labels[name]) for name in labels if name != "seed"}
    seeds = list(labels["seed"])
    # A list of a hundred thousand numbers would be of no use in an attribute.
    from_0 = seeds == list(range(len(seeds)))
    return {**grid, "seeds": f"0 to {len(seeds) - 1}" if from_0 else short(seeds)}
