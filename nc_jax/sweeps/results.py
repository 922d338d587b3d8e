"""Where the results of a sweep go: memory, or a store that is filled batch by batch."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import xarray as xr
from jax.experimental import multihost_utils
from jaxtyping import Bool, Float, Int

from .. import storage
from ..configuration import check_same, described, described_call, digest_of_programs, short
from ..dynamics import Interrupted
from ..trajectory import recorded
from .plan import Plan, are_numbers, floats_of, kept_of, one_run, program_name

# Of every axis the values of the setting, as numbers or texts, or the numbers of the seeds.
Labels = dict[str, list]
# Places of runs along each axis of the plan.
Region = tuple[slice | Int[np.ndarray, " n"], ...]
# What may differ between calls that fill one store: they add to it, or divide the work otherwise.
_FREE = frozenset({"seeds", "batch_size", "lanes"})


class Results(Protocol):
    """What a sweep fills."""

    def written(self) -> Bool[np.ndarray, "..."]:
        """Which runs are there, by the dims of the data set."""
        ...

    def write(self, region: Region, outputs: dict[str, np.ndarray]) -> None:
        """Store the outputs of runs."""
        ...

    def dataset(self) -> xr.Dataset:
        """All runs of the plan."""
        ...

    def interrupted(self) -> Interrupted:
        """What Ctrl-C raises."""
        ...


class InMemory:
    """Results of a sweep without a path."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._log_time: np.ndarray | None = None
        self._arrays = {
            name: np.full((*plan.shape, *like.shape), storage.fill_value(like.dtype), like.dtype)
            for name, like in plan.variables().items()
        }

    def written(self) -> Bool[np.ndarray, "..."]:
        """Which runs are there."""
        return self._arrays["result"] != storage.NOT_RUN

    def write(self, region: Region, outputs: dict[str, np.ndarray]) -> None:
        """Store the outputs of runs."""
        self._log_time = _common_log_time(self._log_time, outputs["log_time"])
        for name, array in self._arrays.items():
            array[region] = outputs[name]

    def dataset(self) -> xr.Dataset:
        """All runs."""
        assert self._log_time is not None
        dataset = xr.Dataset(
            {name: (_dims(self._plan, name), array) for name, array in self._arrays.items()},
            coords={
                **_coordinates(_labels(self._plan)),
                "log_time": (("time",), self._log_time),
            },
            attrs=_configuration(self._plan, _labels(self._plan)),
        )
        codes = self._arrays["result"]
        dataset["result"].attrs = storage.meanings(codes[codes != storage.NOT_RUN])
        return dataset

    def interrupted(self) -> Interrupted:
        """What Ctrl-C raises, with the runs so far."""
        written = self.written()
        return Interrupted(
            f"interrupted: {written.sum()} of {written.size} runs are computed, the exception's "
            "`data`; path= saves them",
            data=self.dataset() if written.any() else None,
        )


class OnDisk:
    """Results in a store. Host 0 alone writes it; all read it at the end.

    The store may have other runs than the plan: what the plan lacks stays, what the store lacks is
    added at the end of its axes.
    """

    def __init__(self, plan: Plan, path: Path, resume: bool, programs: Mapping[str, str]):
        self._plan, self._path, self._programs = plan, path, dict(programs)
        self._store: storage.BatchStore | None = None
        self._stored: Labels | None = None
        self._log_time: np.ndarray | None = None
        self._labels = _labels(plan)
        if jax.process_index() > 0:
            return
        storage.check_replaceable(path)
        if resume and path.exists():
            self._store = storage.BatchStore(path)
            self._programs |= _check_same(plan, path, self._store, programs)
            self._stored = {name: self._store.labels(name) for name in self._labels}
            self._labels = _merged(self._stored, self._labels)
            self._log_time = self._store.log_time()

    def is_complete(self) -> bool:
        """Whether nothing is left to compute, for host 0."""
        return bool(np.all(self._written()))

    def remove_partial(self) -> None:
        """Remove what a killed process was about to write."""
        if self._store is not None:
            self._store.remove_partial()

    def written(self) -> Bool[np.ndarray, "..."]:
        """Which runs are there."""
        return np.asarray(_from_host_0(self._written()))

    def write(self, region: Region, outputs: dict[str, np.ndarray]) -> None:
        """Put the outputs of runs on disk, the first of them in a store that has room for all."""
        self._log_time = _common_log_time(self._log_time, outputs["log_time"])
        if jax.process_index() > 0:
            return
        if self._store is None or self._stored != self._labels:
            self._store, self._stored = self._with_room(self._log_time), self._labels
        alone = (None,) * (len(region) - 1)
        part = {name: values[alone] for name, values in kept_of(outputs).items()}
        places = zip(_places(self._labels, _labels(self._plan)), region, strict=True)
        self._store.write(part, tuple(_simplest(place[among]) for place, among in places))

    def dataset(self) -> xr.Dataset:
        """All runs of the plan, read where they are asked for."""
        _from_host_0(np.zeros(()))  # wait for it
        dataset = storage.open_lazily(self._path)[list(self._plan.variables())]
        labels = _labels(self._plan)
        stored = {name: dataset[name].values.tolist() for name in labels}
        places = zip(labels, _places(stored, labels), strict=True)
        chosen = {name: place for name, place in places if labels[name] != stored[name]}
        return dataset.isel(chosen).assign_attrs(_described_labels(labels))

    def interrupted(self) -> Interrupted:
        """What Ctrl-C raises."""
        written = self._written()
        return Interrupted(
            f"interrupted: {written.sum()} of {written.size} runs are saved; the same call resumes "
            f"from {self._path}"
        )

    def _written(self) -> Bool[np.ndarray, "..."]:
        if self._store is None or self._stored is None:
            return np.zeros(self._plan.shape, bool)
        there = np.zeros([len(values) for values in self._labels.values()], bool)
        there[tuple(slice(len(values)) for values in self._stored.values())] = self._store.written()
        return there[np.ix_(*_places(self._labels, _labels(self._plan)))]

    def _with_room(self, log_time: Float[np.ndarray, " T"]) -> storage.BatchStore:
        """A store with room for all runs, and with those that are there."""
        attributes = {
            **_configuration(self._plan, self._labels),
            "program": json.dumps(self._programs),
        }
        if self._store is not None:
            return self._store.extended(_coordinates(self._labels), attributes)
        empty = {name: _empty(self._plan, name) for name in self._plan.variables()}
        coords = {**_coordinates(self._labels), "log_time": (("time",), log_time)}
        return storage.BatchStore.create(self._path, empty, coords, attributes)


@contextlib.contextmanager
def on_disk(plan: Plan, path: Path, resume: bool) -> Iterator[OnDisk]:
    """Results at a path that nobody else may write at the same time.

    Where nothing is left to compute nothing is written, so that the store may be read-only.
    """
    if jax.process_index() > 0:
        if not bool(_from_host_0(np.asarray(False))):
            raise RuntimeError(f"{path}: host 0 cannot write there; see its message.")
        yield OnDisk(plan, path, resume, {})
        return
    with contextlib.ExitStack() as stack:
        opened = False
        try:
            programs = _digests_of_programs(plan)
            results = OnDisk(plan, path, resume, programs)
            if not results.is_complete():
                stack.enter_context(storage.writing(path))
                # Another process may have written until now.
                results = OnDisk(plan, path, resume, programs)
                results.remove_partial()
            opened = True
        finally:
            _from_host_0(np.asarray(opened))  # others would wait for the first batch for ever
        yield results


def _labels(plan: Plan) -> Labels:
    settings = {
        name: values if are_numbers(values) else [described(value) for value in values]
        for name, values in plan.grid.items()
    }
    return {**settings, "seed": plan.seeds.tolist()}


def _merged(stored: Labels, wanted: Labels) -> Labels:
    """What is stored, then what is wanted besides."""
    return {name: list(dict.fromkeys([*stored[name], *wanted[name]])) for name in wanted}


def _places(among: Labels, wanted: Labels) -> list[Int[np.ndarray, " n"]]:
    """Where the wanted labels are, axis by axis."""
    at = {name: {label: i for i, label in enumerate(among[name])} for name in wanted}
    return [np.array([at[name][label] for label in wanted[name]]) for name in wanted]


def _simplest(places: Int[np.ndarray, " n"]) -> slice | Int[np.ndarray, " n"]:
    """Neighbours as a slice, which is quicker to write."""
    first, last = places[0], places[-1]
    follow = np.array_equal(places, np.arange(first, first + len(places)))
    return slice(int(first), int(last) + 1) if follow else places


def _check_same(
    plan: Plan, path: Path, store: storage.BatchStore, programs: Mapping[str, str]
) -> dict[str, str]:
    """Refuse a store of another sweep; the digests of its programs.

    Seeds and values of the grid may be others, as long as values are of one kind: numbers that are
    compiled in, floats, or texts. Programs of the same settings must be the same.
    """
    stored, mine = store.attributes, _configuration(plan, _labels(plan))
    there: dict[str, str] = {}
    if stored.get("kind") == mine["kind"]:
        there = json.loads(str(stored["program"]))
    common = sorted(there.keys() & programs.keys())
    several = len({**there, **programs}) > 1
    names = {name: f"program of {name}" if several else "program" for name in common}
    stored |= {names[name]: there[name] for name in common if there[name] != programs[name]}
    mine |= {names[name]: programs[name] for name in common if there[name] != programs[name]}
    free = {f"grid.{name}" for name, values in plan.grid.items() if _same_kind(store, name, values)}
    if "program" not in mine:
        free |= {"program"}
    check_same(path, "sweep", stored, mine, free=_FREE | free)
    return there


def _same_kind(store: storage.BatchStore, name: str, values: list) -> bool:
    """Whether the values of a setting are of the kind of those in a store."""
    if f"grid.{name}" not in store.attributes:
        return False
    labels = values if are_numbers(values) else [described(value) for value in values]
    return np.array(labels).dtype.kind == np.array(store.labels(name)).dtype.kind


def _from_host_0(value: np.ndarray) -> np.ndarray:
    if jax.process_count() == 1:
        return value
    return multihost_utils.broadcast_one_to_all(value)


def _common_log_time(
    known: Float[np.ndarray, " T"] | None, log_time: Float[np.ndarray, "S T"]
) -> Float[np.ndarray, " T"]:
    """The time axis, which all runs must share."""
    expected = log_time[0] if known is None else known
    if np.any(log_time != expected):
        raise ValueError(
            "run: saves are at other times for some seeds or settings; save all at the same."
        )
    return expected


def _own_dims(plan: Plan, name: str) -> tuple[str, ...]:
    """Dims of a variable of one run."""
    over_time = recorded(plan.example)
    if name not in over_time:
        return ()
    return ("time", *storage.own_dims(name, len(over_time[name].shape) - 1))


def _dims(plan: Plan, name: str) -> tuple[str, ...]:
    return plan.dims + _own_dims(plan, name)


def _empty(plan: Plan, name: str) -> storage.Empty:
    like = plan.variables()[name]
    chunks = (*(1 for _ in plan.grid), plan.batch_size, *like.shape)
    return storage.Empty(_dims(plan, name), (*plan.shape, *like.shape), chunks, like.dtype)


def _coordinates(labels: Labels) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Labels of the axes of runs."""
    return {name: ((name,), np.array(values)) for name, values in labels.items()}


def _configuration(plan: Plan, labels: Labels) -> dict[str, Any]:
    """All that decides the data, as attributes, for runs with these labels."""
    key_data = np.asarray(jax.random.key_data(plan.key)).tolist()
    devices = jax.devices() if plan.mesh is None else plan.mesh.devices.ravel().tolist()
    variables = [
        f"{name} {like.dtype}{list(like.shape)}" for name, like in plan.variables().items()
    ]
    return {
        "kind": "sweep",
        **described_call("run", plan.run, set(plan.grid)),
        **_described_labels(labels),
        "dims": ", ".join(plan.dims),
        "variables": short(", ".join(variables)),
        "key": f"{jax.random.key_impl(plan.key)} {key_data}",
        "batch_size": plan.batch_size,
        "lanes": plan.lanes,
        "platform": devices[0].platform,
        **storage.provenance(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
    }


def _described_labels(labels: Labels) -> dict[str, str]:
    """What runs there are, as attributes."""
    grid = {f"grid.{name}": described(labels[name]) for name in labels if name != "seed"}
    seeds = labels["seed"]
    from_0 = seeds == list(range(len(seeds)))
    return {**grid, "seeds": f"0 to {len(seeds) - 1}" if from_0 else short(seeds)}


def _digests_of_programs(plan: Plan) -> dict[str, str]:
    """Of the compiler's input for a run of every setting: whatever code or constant is changed.

    The values that a run uses are described besides, so that a message can say what differs.
    """
    settings = {program_name(setting): setting for setting, _ in plan.batches()}
    return {
        name: digest_of_programs(
            [jax.jit(one_run(plan.run, plan.key, setting)).trace(plan.seeds[0], floats_of(setting))]
        )
        for name, setting in settings.items()
    }
