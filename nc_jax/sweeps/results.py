"""Where the results of a sweep go: memory, or a store that is filled batch by batch."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import jax
import numpy as np
import xarray as xr
from jax.experimental import multihost_utils
from jaxtyping import Bool, Float

from .. import storage
from ..configuration import check_same, described, described_call, digest, short
from .plan import Plan, are_numbers, floats_of, kept_of, one_run, program_name


class Results(Protocol):
    """What a sweep fills."""

    def written(self) -> Bool[np.ndarray, "..."]:
        """Which runs are there, by the dims of the data set."""
        ...

    def write(self, region: tuple[slice, ...], outputs: dict[str, np.ndarray]) -> None:
        """Keep the outputs of a batch."""
        ...

    def dataset(self) -> xr.Dataset:
        """All runs."""
        ...


class InMemory:
    """Results of a sweep without a path."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._log_time: np.ndarray | None = None
        self._arrays = {
            name: np.empty((*plan.shape, *like.shape), like.dtype)
            for name, like in plan.variables().items()
        }

    def written(self) -> Bool[np.ndarray, "..."]:
        """None yet."""
        return np.zeros(self._plan.shape, bool)

    def write(self, region: tuple[slice, ...], outputs: dict[str, np.ndarray]) -> None:
        """Keep the outputs of a batch."""
        self._log_time = _common_log_time(self._log_time, outputs["log_time"])
        for name, array in self._arrays.items():
            array[region] = outputs[name]

    def dataset(self) -> xr.Dataset:
        """All runs."""
        assert self._log_time is not None
        dataset = xr.Dataset(
            {name: (_dims(self._plan, name), array) for name, array in self._arrays.items()},
            coords=_coordinates(self._plan, self._log_time),
            attrs=_configuration(self._plan),
        )
        dataset["result"].attrs = storage.meanings(self._arrays["result"])
        return dataset


class OnDisk:
    """Results in a store. Host 0 alone writes it; all read it at the end."""

    def __init__(self, plan: Plan, path: Path, resume: bool):
        self._plan, self._path = plan, path
        self._store: storage.BatchStore | None = None
        self._log_time: np.ndarray | None = None
        if jax.process_index() > 0:
            return
        storage.check_replaceable(path)
        self._attributes = {**_configuration(plan), "program": _digest_of_programs(plan)}
        if resume and path.exists():
            self._store = storage.BatchStore(path)
            check_same(path, "sweep", self._store.attributes, self._attributes)
            self._store.remove_strays()
            self._log_time = self._store.log_time()

    def written(self) -> Bool[np.ndarray, "..."]:
        """Which runs are there."""
        here = np.zeros(self._plan.shape, bool) if self._store is None else self._store.written()
        return np.asarray(_from_host_0(here))

    def write(self, region: tuple[slice, ...], outputs: dict[str, np.ndarray]) -> None:
        """Put the outputs of a batch on disk, in a new store with the first of them."""
        self._log_time = _common_log_time(self._log_time, outputs["log_time"])
        if jax.process_index() > 0:
            return
        if self._store is None:
            coords = _coordinates(self._plan, self._log_time)
            empty = {name: _empty(self._plan, name) for name in self._plan.variables()}
            self._store = storage.BatchStore.create(self._path, empty, coords, self._attributes)
        alone = (None,) * (len(region) - 1)
        part = {name: values[alone] for name, values in kept_of(outputs).items()}
        self._store.write(part, region)

    def dataset(self) -> xr.Dataset:
        """All runs, read where they are asked for."""
        _from_host_0(np.zeros(()))  # wait for it
        return storage.open_lazily(self._path)[list(self._plan.variables())]


@contextlib.contextmanager
def on_disk(plan: Plan, path: Path, resume: bool) -> Iterator[OnDisk]:
    """Results at a path that nobody else may write at the same time."""
    if jax.process_index() > 0:
        if not bool(_from_host_0(np.asarray(False))):
            raise RuntimeError(f"{path}: host 0 cannot write there; see its message.")
        yield OnDisk(plan, path, resume)
        return
    with contextlib.ExitStack() as stack:
        opened = False
        try:
            stack.enter_context(storage.writing(path))
            results = OnDisk(plan, path, resume)
            opened = True
        finally:
            _from_host_0(np.asarray(opened))  # others would wait for the first batch for ever
        yield results


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
    if name not in plan.example.observables:
        return ()
    return ("time", *storage.own_dims(name, len(plan.example.observables[name].shape) - 1))


def _dims(plan: Plan, name: str) -> tuple[str, ...]:
    return plan.dims + _own_dims(plan, name)


def _empty(plan: Plan, name: str) -> storage.Empty:
    like = plan.variables()[name]
    chunks = (*(1 for _ in plan.grid), plan.batch_size, *like.shape)
    return storage.Empty(_dims(plan, name), (*plan.shape, *like.shape), chunks, like.dtype)


def _coordinates(
    plan: Plan, log_time: Float[np.ndarray, " T"]
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Values of the settings, as numbers or texts, seeds and times."""
    settings = {}
    for name, values in plan.grid.items():
        labels = values if are_numbers(values) else [described(value) for value in values]
        settings[name] = (name,), np.array(labels)
    return {**settings, "seed": (("seed",), plan.seeds), "log_time": (("time",), log_time)}


def _configuration(plan: Plan) -> dict[str, str | int]:
    """All that decides the data, as attributes."""
    key_data = np.asarray(jax.random.key_data(plan.key)).tolist()
    seeds = plan.seeds.tolist()
    devices = jax.devices() if plan.mesh is None else plan.mesh.devices.ravel().tolist()
    return {
        **described_call("run", plan.run, set(plan.grid)),
        **{f"grid.{name}": described(values) for name, values in plan.grid.items()},
        "dims": ", ".join(plan.dims),
        "seeds": f"0 to {len(seeds) - 1}" if seeds == list(range(len(seeds))) else short(seeds),
        "key": f"{jax.random.key_impl(plan.key)} {key_data}",
        "batch_size": plan.batch_size,
        "lanes": plan.lanes,
        "platform": devices[0].platform,
        **storage.provenance(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
    }


def _digest_of_programs(plan: Plan) -> str:
    """Of the compiler's input for a run of every setting: whatever code or constant is changed.

    The values that a run uses are described besides, so that a message can say what differs.
    """
    settings = {program_name(setting): setting for setting, _ in plan.batches()}
    texts = [
        jax.jit(one_run(plan.run, plan.key, setting)).lower(plan.seeds[0], floats_of(setting))
        for setting in settings.values()
    ]
    return digest("".join(lowered.as_text() for lowered in texts).encode())
