"""Results of many runs along named axes, written part by part, in memory or on disk."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Bool, Int

from ..datasets import meanings, with_attributes
from .batches import NOT_RUN, BatchStore, Coordinates, StoredVariable, fill_value
from .replacement import check_replaceable, writing
from .stores import open_lazily

# Values of every axis, numbers or texts, by the name of the axis.
Labels = Mapping[str, Sequence]
# Indices along every axis.
Places = Sequence[Int[np.ndarray, " _"]]
# A function that returns the attributes of a data set, given the labels of its axes and the
# attributes that its store has already.
Describe = Callable[[Labels, Mapping[str, object]], Mapping[str, Any]]


class ResultVariable(NamedTuple):
    """A variable of a single result: its dims after the axes, their sizes, and its dtype."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Layout:
    """Axes and variables of results that are written part by part.

    Attributes:
        labels: values of every axis. The axes come first in every variable, in this order.
        variables: by name. The integer variable `result` is -1 where no result is written.
        chunk: number of results along every axis that one file of a store holds.
        long_names: of variables and axes, as for `variable_attributes`.
    """

    labels: Labels
    variables: Mapping[str, ResultVariable]
    chunk: tuple[int, ...]
    long_names: Mapping[str, str]

    def shape(self, labels: Labels) -> tuple[int, ...]:
        """Number of results along every axis; a store may have more labels than the layout."""
        return tuple(len(labels[name]) for name in self.labels)

    def dims(self, name: str) -> tuple[str, ...]:
        """All dims of a variable."""
        return (*self.labels, *self.variables[name].dims)

    def stored(self, labels: Labels) -> dict[str, StoredVariable]:
        """The variables of a store with these labels."""
        shape = self.shape(labels)
        return {
            name: StoredVariable(
                self.dims(name), (*shape, *of_one.shape), (*self.chunk, *of_one.shape), of_one.dtype
            )
            for name, of_one in self.variables.items()
        }


class InMemory:
    """Results as arrays in memory, which are lost with the process."""

    def __init__(self, layout: Layout, attributes: Mapping[str, Any]):
        self._layout, self._attributes = layout, attributes
        self._coordinates = _axis_coordinates(layout.labels)
        self._arrays = {
            name: np.full(variable.shape, fill_value(variable.dtype), variable.dtype)
            for name, variable in layout.stored(layout.labels).items()
        }

    def written(self) -> Bool[np.ndarray, "..."]:
        """Which results are written, along the axes."""
        return self._arrays["result"] != NOT_RUN

    def coordinate(self, name: str) -> np.ndarray | None:
        """Values of a coordinate; None before the first results."""
        return self._coordinates[name][1] if name in self._coordinates else None

    def write(
        self,
        places: Places,
        part: Mapping[str, np.ndarray],
        *,
        coordinates: Coordinates | None = None,
    ) -> None:
        """Store results; `coordinates` are those of the dims after the axes."""
        self._coordinates |= coordinates or {}
        for name, values in part.items():
            # Every combination of the indices, as in a store; NumPy would pair plain arrays.
            self._arrays[name][np.ix_(*places)] = values

    def dataset(self) -> xr.Dataset:
        """All results as a data set that shares their memory."""
        dataset = xr.Dataset(
            {name: (self._layout.dims(name), array) for name, array in self._arrays.items()},
            coords=self._coordinates,
            attrs=self._attributes,
        )
        codes = self._arrays["result"]
        # NOT_RUN is not a code of Diffrax, and has no message.
        dataset["result"].attrs.update(meanings(codes[codes != NOT_RUN]))
        return with_attributes(dataset, long_names=self._layout.long_names)


class OnDisk:
    """Results in a Zarr store, which may have more results than the layout names.

    Results of the store that are not in the layout stay there. Labels of the layout that are not in
    the store are added at the end of its axes. Create it by `results_at`, which holds the lock.
    """

    def __init__(
        self,
        layout: Layout,
        path: Path,
        describe: Describe,
        *,
        store: BatchStore | None = None,
    ):
        self._layout, self._path, self._describe, self._store = layout, path, describe, store
        names = list(layout.labels)
        # `_stored` are the labels of the store, `_labels` those that it has once it is extended.
        self._stored = None if store is None else {name: store.labels(name) for name in names}
        self._labels = _united(self._stored, layout.labels)

    @property
    def is_new(self) -> bool:
        """Whether there is no store yet that these results are written to."""
        return self._store is None

    def written(self) -> Bool[np.ndarray, "..."]:
        """Which results of the layout are written, along its axes."""
        if self._store is None or self._stored is None:
            return np.zeros(self._layout.shape(self._layout.labels), bool)
        # First along the axes of the extended store, of which the store is the beginning; then in
        # the order of the layout.
        written = np.zeros(self._layout.shape(self._labels), bool)
        written[tuple(slice(len(values)) for values in self._stored.values())] = (
            self._store.written()
        )
        return written[np.ix_(*_places(self._labels, self._layout.labels))]

    def coordinate(self, name: str) -> np.ndarray | None:
        """Values of a coordinate; None where there is no store yet."""
        return None if self._store is None else np.array(self._store.labels(name))

    def repair(self) -> None:
        """Complete what a killed process has left undone in the store, if there is one."""
        if self._store is not None:
            self._store.repair()

    def make_room(self, *, coordinates: Coordinates | None = None) -> None:
        """Create the store, or extend its axes; nothing if it has all labels already."""
        if self._store is not None and self._stored == self._labels:
            return
        axes, long_names = _axis_coordinates(self._labels), self._layout.long_names
        further = coordinates or {}
        if self._store is None:
            # With the labels of the whole store, which may be more than those of the layout.
            variables = self._layout.stored(self._labels)
            attributes = self._describe(self._labels, {})
            self._store = BatchStore.create(
                self._path, variables, {**axes, **further}, attributes, long_names=long_names
            )
        else:
            attributes = self._describe(self._labels, self._store.attributes)
            self._store = self._store.extended(axes, attributes, long_names=long_names)
        self._stored = self._labels

    def write(
        self,
        places: Places,
        part: Mapping[str, np.ndarray],
        *,
        coordinates: Coordinates | None = None,
    ) -> None:
        """Write results to disk; `coordinates` are those of the dims after the axes."""
        # Not before there is a result: a call that is refused or interrupted leaves the store as it
        # is.
        self.make_room(coordinates=coordinates)
        assert self._store is not None
        stored = _places(self._labels, self._layout.labels)
        region = [_as_slice(axis[chosen]) for axis, chosen in zip(stored, places, strict=True)]
        self._store.write(part, region)

    def dataset(self) -> xr.Dataset:
        """The results of the layout as a data set whose variables are read when they are used."""
        labels = self._layout.labels
        # In the order of the layout: Zarr lists variables in the order of the file system.
        dataset = open_lazily(self._path)[list(self._layout.variables)]
        stored = {name: dataset[name].values.tolist() for name in labels}
        places = zip(labels, _places(stored, labels), strict=True)
        # An axis with the same labels in the same order is not indexed, since that would slow down
        # reading.
        return dataset.isel({n: place for n, place in places if list(labels[n]) != stored[n]})


@contextlib.contextmanager
def results_at(
    path: Path,
    layout: Layout,
    describe: Describe,
    *,
    check: Callable[[BatchStore], None],
    resume: bool,
    is_complete: Callable[[OnDisk], bool] = lambda results: bool(np.all(results.written())),
) -> Iterator[OnDisk]:
    """Results in a store, with a lock that excludes other writers while results are missing.

    Nothing is written to a store that is complete, and its lock is not taken, so that the store may
    be on a read-only disk.

    Args:
        check: raises an error for a store of another configuration.
        resume: continue with a store at the path; False replaces it at the first write.
        is_complete: whether nothing is left to compute.

    Raises: what `check` raises; FileExistsError if the path holds something else than a store;
    RuntimeError if another process writes there; OSError if nothing can be written there.
    """

    def opened() -> OnDisk:
        check_replaceable(path)
        store = BatchStore(path) if resume and path.exists() else None
        if store is not None:
            check(store)
        return OnDisk(layout, path, describe, store=store)

    with contextlib.ExitStack() as stack:
        results = opened()
        if not is_complete(results):
            stack.enter_context(writing(path))
            # Opened again: another process may have written before this process held the lock.
            results = opened()
            results.repair()
        yield results


def _axis_coordinates(labels: Labels) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    return {name: ((name,), np.array(values)) for name, values in labels.items()}


def _united(stored: Labels | None, wanted: Labels) -> dict[str, list]:
    """Labels of the store, followed by the wanted labels that are not in the store."""
    # A dict, unlike a set, has its keys in the order of insertion.
    first = {name: [] for name in wanted} if stored is None else stored
    return {name: list(dict.fromkeys([*first[name], *wanted[name]])) for name in wanted}


def _places(labels: Labels, wanted: Labels) -> list[Int[np.ndarray, " _"]]:
    """Indices of the wanted labels among all labels, axis by axis."""
    # One dict for each axis: `list.index` would search a long axis once for every label.
    index = {name: {label: i for i, label in enumerate(labels[name])} for name in wanted}
    return [np.array([index[name][label] for label in wanted[name]]) for name in wanted]


def _as_slice(places: Int[np.ndarray, " _"]) -> slice | Int[np.ndarray, " _"]:
    """Consecutive indices as a slice, which Zarr writes faster."""
    first, last = places[0], places[-1]
    consecutive = np.array_equal(places, np.arange(first, first + len(places)))
    return slice(int(first), int(last) + 1) if consecutive else places
