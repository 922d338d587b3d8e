"""Labelled results on disk: xarray data sets in Zarr stores, written whole or not at all."""

import contextlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import diffrax
import filelock
import jax
import numpy as np
import xarray as xr
import zarr
from jaxtyping import PyTree

from .trajectory import Trajectory

# `result` of a run that has yet to be made, in a store that is being filled.
NOT_RUN = -1
# Group of a store for arrays that are no variables of its data set.
_ARRAYS = "arrays"
_PACKAGES = ("nc_jax", "jax", "jaxlib", "equinox", "diffrax", "optax", "numpy")


def provenance() -> dict[str, str]:
    """Versions of the packages that decide the numbers, and the device they ran on."""
    versions = {f"version_{name}": version(name) for name in _PACKAGES}
    return {**versions, "python": platform.python_version(), "device": str(jax.devices()[0])}


def to_dataset(
    trajectory: Trajectory,
    attributes: Mapping[str, str | int | float] | None = None,
    runs: Sequence[str] = ("seed",),
    dims: Mapping[str, Sequence[str]] | None = None,
) -> xr.Dataset:
    """Observables of a run as an `xarray.Dataset` with dims (time), or (*runs, time) of a batch.

    `log_time` = log(1 + t) is a coordinate. `result` is 0 for a run that reached its end, and each
    code that occurs has its message among the attributes of `result`. `attributes` (the
    configuration, say) and `provenance()` become attributes.

    Args: `runs` names the axes of the batch, outermost vmap first; `dims` those of an observable
    that is an array, after time, as {"margins": ["sample"]}: `margins_dim_0` where it does not.

    Raises: ValueError for a batch or an observable with another number of axes, or a batch whose
    runs have times of their own.

    Example: `to_dataset(traj, {"K": 5, "d": 20})["ji_self_duality"].plot()`.
    """
    batch = trajectory.log_time.shape[:-1]
    runs = tuple(runs) if batch else ()
    if len(batch) != len(runs):
        raise ValueError(
            f"runs = {runs}: the trajectory has batch shape {batch}; give one name for each axis."
        )
    observed = {k: np.asarray(v) for k, v in trajectory.observables.items()}
    for name in dims or {}:
        if name not in observed:
            raise ValueError(f"dims[{name!r}]: no such observable; there are {sorted(observed)}.")
    return xr.Dataset(
        {
            **{k: (_dims(k, v, (*runs, "time"), dims or {}), v) for k, v in observed.items()},
            "result": (runs, *_meanings(trajectory.result)),
            "num_steps": (runs, np.asarray(trajectory.num_steps)),
            "final_log_time": (runs, np.asarray(trajectory.final_log_time)),
        },
        coords={"log_time": ("time", trajectory.common_log_time())},
        attrs={**(attributes or {}), **provenance()},
    )


def save(
    dataset: xr.Dataset,
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a Zarr store at `path`, whole or not at all, replacing an earlier store there.

    Args: `arrays` are stored beside the data set, for the function `arrays`; `load` ignores them.

    Raises: FileExistsError if `path` holds something that is not a Zarr store; OSError if it
    cannot be written.

    Example: `save(to_dataset(traj), "results/flow.zarr")`.
    """
    with _replacing(Path(path)) as fresh:
        dataset.to_zarr(fresh, mode="w-", consolidated=False)
        if arrays:
            group = zarr.open_group(fresh, mode="r+").create_group(_ARRAYS)
            for name, values in arrays.items():
                group.create_array(name, data=values)


def arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays that were stored beside a data set; none if there are none."""
    root = zarr.open_group(path, mode="r")
    group = root.get(_ARRAYS)
    if not isinstance(group, zarr.Group):
        return {}
    return {name: np.asarray(array[...]) for name, array in group.arrays()}


def attributes(path: str | os.PathLike[str]) -> Mapping[str, object]:
    """Attributes of the data set in a store."""
    return zarr.open_group(path, mode="r").attrs.asdict()


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path to write a store at, which takes the place of that at `path` once it is whole."""
    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A store is a folder, and only a rename is atomic: write beside it, then move into place.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        fresh, stale = Path(scratch) / "fresh", Path(scratch) / "stale"
        yield fresh
        if path.exists():
            path.rename(stale)
        try:
            fresh.rename(path)
        except OSError:
            if stale.exists():
                stale.rename(path)
            raise


def check_replaceable(path: Path) -> None:
    """Refuse to write in the place of what is no store."""
    if path.exists() and not is_store(path):
        raise FileExistsError(f"{path} exists and is not a Zarr store: give another path.")


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether there is a Zarr store at this path."""
    return (Path(path) / "zarr.json").is_file()


class Empty(NamedTuple):
    """A variable of a store that is filled batch by batch: its dims, shape, chunks and dtype."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype


class BatchStore:
    """A Zarr store that is filled a batch of runs at a time, each written whole or not at all.

    A batch covers whole chunks. Its `result` is written last and says that it is there: where that
    is -1, what other variables may hold is not read and is written anew. What is empty reads as
    NaN, -1 or False.
    """

    def __init__(self, path: Path):
        self._path, self._group = path, zarr.open_group(path, mode="r+")

    def remove_strays(self) -> None:
        """Remove what a killed process was about to write; nobody else does while it is locked."""
        for stray in self._path.rglob("*.partial"):
            stray.unlink()

    @staticmethod
    def create(
        path: Path,
        variables: Mapping[str, Empty],
        coords: Mapping[str, tuple[tuple[str, ...], np.ndarray]],
        attributes: Mapping[str, str | int | float],
    ) -> "BatchStore":
        """Put an empty store at `path`, whole or not at all, in the place of an earlier one."""
        with _replacing(path) as fresh:
            index = " ".join(name for name, (dims, _) in coords.items() if dims != (name,))
            group = zarr.create_group(fresh, attributes={**attributes, "coordinates": index})
            for name, (dims, values) in coords.items():
                labels, values = _labels(values)
                group.create_array(name, data=values, dimension_names=dims, attributes=labels)
            for name, (dims, shape, chunks, dtype) in variables.items():
                fill = {"f": np.nan, "i": -1, "b": False}[dtype.kind]
                group.create_array(
                    name, shape=shape, chunks=chunks, dtype=dtype, fill_value=fill,
                    dimension_names=dims,
                )  # fmt: skip
        return BatchStore(path)

    @property
    def attributes(self) -> dict[str, object]:
        """Those the store was created with."""
        return {k: v for k, v in self._group.attrs.asdict().items() if k != "coordinates"}

    def log_time(self) -> np.ndarray:
        """The time axis."""
        return np.asarray(self._array("log_time")[:])

    def written(self) -> np.ndarray:
        """Which runs are there, by the dims of `result`."""
        return np.asarray(self._array("result")[:]) != NOT_RUN

    def write(
        self,
        part: Mapping[str, np.ndarray],
        region: tuple[slice, ...],
    ) -> None:
        """Write the runs of a region of whole chunks."""
        for name, values in part.items():
            if name != "result":
                self._array(name)[region] = values
        result, told = self._array("result"), meanings(part["result"])
        if not told.keys() <= result.attrs.keys():
            result.attrs.update(told)
        result[region] = part["result"]

    def _array(self, name: str) -> zarr.Array:
        array = self._group[name]
        assert isinstance(array, zarr.Array)
        return array


class Checkpoints:
    """The last state of a run in a folder, by Orbax: each whole or not there, the one before gone.

    Raises: ModuleNotFoundError without Orbax.
    """

    def __init__(self, path: Path):
        # Here, since it takes a second and brings TensorStore.
        try:
            from orbax import checkpoint
        except ModuleNotFoundError:
            raise ModuleNotFoundError("checkpoints need Orbax: pip install 'nc_jax[cnn]'") from None
        self._args = checkpoint.args
        # In this thread: a run ends with its last state on disk.
        options = checkpoint.CheckpointManagerOptions(
            max_to_keep=1, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = checkpoint.CheckpointManager(path.absolute(), options=options)

    def latest(self) -> int | None:
        """Number of the state that is there."""
        return self._manager.latest_step()

    def save(self, number: int, state: PyTree) -> None:
        """Put a state in the place of the last one, once it is whole."""
        self._manager.save(number, args=self._args.StandardSave(state))

    def restore(self, like: PyTree) -> PyTree:
        """The state that is there, with the shapes and dtypes of another."""
        return self._manager.restore(self.latest(), args=self._args.StandardRestore(like))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Hold the right to write at `path`; the system takes it back from a process that is killed.

    Raises: RuntimeError if another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path.parent / f".{path.name}.lock", blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise RuntimeError(
            f"{path}: another process is writing there; wait for it or give another path."
        ) from None
    try:
        for scratch in path.parent.glob(f".{path.name}.*/"):  # of a process that was killed
            # Between the two renames of a replacement there is no store at the path.
            if not path.exists() and (scratch / "stale").exists():
                (scratch / "fresh").rename(path)
            shutil.rmtree(scratch)
        yield
    finally:
        lock.release()


def open_lazily(path: str | os.PathLike[str]) -> xr.Dataset:
    """A store as a data set whose variables are read when they are asked for.

    Raises: FileNotFoundError if there is none.
    """
    if not is_store(path):
        raise FileNotFoundError(f"{path}: no Zarr store there; give the path passed to save().")
    dataset = xr.open_zarr(path, chunks=None, consolidated=False)
    named = {
        name: np.array(coord.attrs["labels"])[coord.values]
        for name, coord in dataset.coords.items()
        if "labels" in coord.attrs
    }
    return dataset.assign_coords(named)


def load(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a store written by `save` into memory.

    Raises: FileNotFoundError if there is none.

    Example: `load("results/flow.zarr")["zhu_nc1"]`.
    """
    return open_lazily(path).load()


def _dims(
    name: str, values: np.ndarray, leading: tuple[str, ...], dims: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """All dimensions of an observable; those of its own as given, or as ArviZ would call them."""
    further = values.ndim - len(leading)
    own = tuple(dims.get(name, own_dims(name, further)))
    if len(own) != further:
        raise ValueError(
            f"dims[{name!r}] = {list(own)}: {name} has {further} axes after time; name each."
        )
    return leading + own


def own_dims(name: str, further: int) -> tuple[str, ...]:
    """Dims of an observable's own axes, which come after time."""
    return tuple(f"{name}_dim_{i}" for i in range(further))


def _labels(values: np.ndarray) -> tuple[dict, np.ndarray]:
    """Texts as an attribute and their numbers, since Zarr's format for texts is not settled."""
    if values.dtype.kind != "U":
        return {}, values
    return {"labels": values.tolist()}, np.arange(values.size)


def _meanings(result: diffrax.RESULTS) -> tuple[np.ndarray, dict[str, str]]:
    """Codes of the runs' results and, per code that occurs, its message.

    Codes, since Zarr's format for strings is not settled.
    """
    [leaf] = jax.tree.leaves(result)
    return np.asarray(leaf), meanings(np.asarray(leaf))


def meanings(codes: np.ndarray) -> dict[str, str]:
    """The message of each code of `diffrax.RESULTS` that occurs, empty for success."""
    example = diffrax.RESULTS.successful
    items = {
        int(code): jax.tree.map(lambda _, c=code: np.asarray(c), example)
        for code in np.unique(codes)
    }
    return {str(code): diffrax.RESULTS[item] for code, item in items.items()}
