"""Labelled results on disk: xarray data sets in Zarr stores, written whole or not at all."""

import contextlib
import errno
import os
import platform
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import diffrax
import filelock
import jax
import numpy as np
import xarray as xr
import zarr
from jaxtyping import PyTree

from .paths import local_path
from .trajectory import Trajectory, recorded, state_names

# `result` of a run that has yet to be made, in a store that is being filled.
NOT_RUN = -1
# Group of a store for arrays that are no variables of its data set.
_ARRAYS = "arrays"
# Files beside a store `name`: `.name.nc_jax-lock`, and a folder `.name.nc_jax-` with eight random
# characters, none of them a dot. What precedes the last dot is thus the name of the one store that
# a file belongs to, and a store with such a name is refused.
_MARK = ".nc_jax-"
_RESERVED = re.compile(r"\..*\.nc_jax-[a-z0-9_]+", re.DOTALL)
_PACKAGES = ("nc_jax", "jax", "jaxlib", "equinox", "diffrax", "optax", "numpy")


def provenance() -> dict[str, str]:
    """Versions of the packages that decide the numbers, and the device they ran on."""
    versions = {f"version_{name}": version(name) for name in _PACKAGES}
    return {**versions, "python": platform.python_version(), "device": str(jax.devices()[0])}


def to_dataset(
    trajectory: Trajectory,
    attributes: Mapping[str, object] | None = None,
    runs: Sequence[str] = ("seed",),
    dims: Mapping[str, Sequence[str]] | None = None,
) -> xr.Dataset:
    """What a run recorded as an `xarray.Dataset` with dims (time), or (*runs, time) of a batch.

    Observables are variables, and saved states (`save_states=True`) by array, as `state_features`,
    which `states` puts together again. `log_time` = log(1 + t) is a coordinate. `result` is 0 for a
    run that reached its end, and each code that occurs has its message among the attributes of
    `result`. `attributes` (the configuration, say: texts, numbers and lists of them) and
    `provenance()` become attributes.

    Args: `runs` names the axes of the batch, outermost vmap first; `dims` those of an observable
    that is an array, after time, as {"margins": ["sample"]}: `margins_dim_0` where it does not.

    Raises: ValueError for a batch or an observable with another number of axes, a batch whose runs
    have different times, or an attribute that a store cannot hold.

    Example: `to_dataset(traj, {"K": 5, "d": 20})["ji_self_duality"].plot()`.
    """
    _check_attributes(attributes or {})
    batch = trajectory.log_time.shape[:-1]
    runs = tuple(runs) if batch else ()
    if len(batch) != len(runs):
        raise ValueError(
            f"runs = {runs}: the trajectory has batch shape {batch}; give one name for each axis."
        )
    observed = {k: np.asarray(v) for k, v in recorded(trajectory).items()}
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


def states(dataset: xr.Dataset, like: PyTree) -> PyTree:
    """The states in a data set of a run with `save_states=True`, with the structure of `like`.

    Arrays are those of NumPy, with the axes of the runs and of time in front.

    Raises: ValueError where the data set has no such states.

    Example: `states(load("flow.zarr"), problem.init(key)).features[-1]`.
    """
    names, structure = state_names(like), jax.tree.structure(like)
    missing = [name for name in names if name not in dataset]
    if missing:
        raise ValueError(
            f"dataset: has no {', '.join(missing)}; run with save_states=True, and give a state of "
            "the same structure."
        )
    return jax.tree.unflatten(structure, [dataset[name].values for name in names])


def save(
    dataset: xr.Dataset | Trajectory,
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a Zarr store at `path`, whole or not at all, replacing an earlier store there.

    Args: a `dataset` that is a `Trajectory` is saved as `to_dataset(trajectory)`. `arrays` are
    stored beside the data set, for the function `arrays`; `load` ignores them.

    Raises: ValueError for what is no data set, a URL or a name that the package uses for temporary
    files; FileExistsError if `path` holds something that is not a Zarr store; OSError if it cannot
    be written.

    Example: `save(to_dataset(traj), "results/flow.zarr")`.
    """
    if isinstance(dataset, Trajectory):
        dataset = to_dataset(dataset)
    if not isinstance(dataset, xr.Dataset):
        raise ValueError(
            f"dataset: is a {type(dataset).__name__}; give an xarray.Dataset or a Trajectory."
        )
    _check_attributes(dataset.attrs)
    with _replacing(local_path(path)) as fresh:
        dataset.to_zarr(fresh, mode="w-", consolidated=False)
        if arrays:
            group = _open(fresh, "r+").create_group(_ARRAYS)
            for name, values in arrays.items():
                group.create_array(name, data=values)
        _consolidate(fresh)


def arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays that were stored beside a data set; none if there are none."""
    group = _open(local_path(path), "r").get(_ARRAYS)
    if not isinstance(group, zarr.Group):
        return {}
    return {name: np.asarray(array[...]) for name, array in group.arrays()}


def attributes(path: str | os.PathLike[str]) -> Mapping[str, object]:
    """Attributes of the data set in a store."""
    return _open(local_path(path), "r").attrs.asdict()


def _open(path: Path, mode: Literal["r", "r+"]) -> zarr.Group:
    """A store by the metadata of its parts, which are newer than the copy of all for readers."""
    return zarr.open_group(path, mode=mode, use_consolidated=False)


def _consolidate(path: Path) -> None:
    """Copy the metadata of all parts into one file, where `xarray.open_zarr` expects them."""
    # No part of Zarr's format 3 yet, says Zarr; readers that do not know it ignore it. The filter
    # stays, since one that is removed again would be removed for other threads too.
    warnings.filterwarnings("ignore", "Consolidated metadata")
    zarr.consolidate_metadata(path)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path to write a store at, which takes the place of that at `path` once it is whole."""
    check_replaceable(path)
    target = _target(path)
    with _naming(path):
        _make_folder(target.parent)
        _remove_abandoned(target)
        # A store is a folder, and only a rename is atomic: write beside it, then move into place.
        prefix = f".{target.name}{_MARK}"
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix))
        # Held until the folder is gone: it says to other processes that the writer lives.
        with filelock.FileLock(scratch / "lock"):
            try:
                yield scratch / "fresh"
                _put_in_place(scratch, target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)


def _put_in_place(scratch: Path, target: Path) -> None:
    """Move `fresh` to where it belongs, what is there to `stale`; or leave what is there."""
    fresh, stale = scratch / "fresh", scratch / "stale"
    while True:
        if target.exists():
            with contextlib.suppress(FileNotFoundError):  # another process has moved it
                target.rename(stale)
        try:
            fresh.rename(target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                # Another process has put a store there in between: that is replaced too.
                shutil.rmtree(stale, ignore_errors=True)
                continue
            if stale.exists():
                stale.rename(target)
            raise
        return


def _remove_abandoned(target: Path) -> None:
    """Remove what killed processes left beside a store, once the store is where it belongs."""
    for scratch in target.parent.iterdir():
        belongs = scratch.name.rpartition(".")[0] == f".{target.name}"
        if not (belongs and _RESERVED.fullmatch(scratch.name) and scratch.is_dir()):
            continue
        # A writer that ends removes its folder itself.
        with contextlib.suppress(FileNotFoundError, filelock.Timeout):
            if not any(scratch.iterdir()):
                continue  # its writer has yet to lock it
            with filelock.FileLock(scratch / "lock", blocking=False):
                # Between the two renames of a replacement there is no store at its path.
                if not target.exists() and (scratch / "stale").exists():
                    (scratch / "fresh").rename(target)
                shutil.rmtree(scratch, ignore_errors=True)


def _target(path: Path) -> Path:
    """Where a store lies: links are followed, so that it has one name for all who write it."""
    target = Path(os.path.realpath(path))
    if _RESERVED.fullmatch(target.name):
        raise ValueError(f"path = {path}: names with '{_MARK}' are temporary; give another name.")
    return target


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raise errors of the system for the path that was given, instead of a file beside it."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(
            error.errno,
            f"cannot write there ({os.strerror(error.errno)}); give a path that can be written",
            str(path),
        ) from None


def check_replaceable(path: Path) -> None:
    """Refuse to write in the place of what is no store, and within a store."""
    for parent in path.absolute().parents:
        if is_store(parent):
            raise FileExistsError(
                f"{path} lies within the Zarr store {parent}, which is replaced as a whole: give a "
                "path outside of it."
            )
    if path.exists() and not is_store(path):
        raise FileExistsError(f"{path} exists and is not a Zarr store: give another path.")


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether there is a Zarr store at this path."""
    return (local_path(path) / "zarr.json").is_file()


class Empty(NamedTuple):
    """A variable of a store that is filled batch by batch: its dims, shape, chunks and dtype."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype


def fill_value(dtype: np.dtype) -> float | int | bool:
    """What stands for a result that is not there."""
    return {"f": np.nan, "i": NOT_RUN, "b": False}[dtype.kind]


class BatchStore:
    """A Zarr store that is filled a batch of runs at a time, each written whole or not at all.

    The `result` of runs is written last and says that they are there: where that is -1, what other
    variables may hold is not read and is written anew. A chunk is a file, so that of the runs that
    are written at a time those of a chunk are there or none. What is empty reads as NaN, -1 or
    False.
    """

    def __init__(self, path: Path):
        self._path, self._group = path, _open(path, "r+")

    def remove_partial(self) -> None:
        """Remove what a killed process was about to write; nobody else does while it is locked."""
        for partial in self._path.rglob("*.partial"):
            if partial.is_file():  # and no variable of such a name
                partial.unlink()

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
            _create_coordinates(group, coords)
            for name, (dims, shape, chunks, dtype) in variables.items():
                group.create_array(
                    name, shape=shape, chunks=chunks, dtype=dtype, fill_value=fill_value(dtype),
                    dimension_names=dims,
                )  # fmt: skip
            _consolidate(fresh)
        return BatchStore(path)

    def extended(
        self,
        coords: Mapping[str, tuple[tuple[str, ...], np.ndarray]],
        attributes: Mapping[str, str | int | float],
    ) -> "BatchStore":
        """The store with longer axes, whole or not at all; what is there stays at their beginning.

        Chunks stay as they are, so that a data set which was opened before still reads its runs.

        Args: `coords` of the axes that are longer; all `attributes`.
        """
        with _replacing(self._path) as fresh:
            shutil.copytree(self._path, fresh)
            group = _open(fresh, "r+")
            sizes = {dim: len(values) for (dim,), values in coords.values()}
            for name in coords:
                del group[name]
            for _, array in group.arrays():
                metadata: Any = array.metadata  # of format 3
                axes = zip(metadata.dimension_names, array.shape, strict=True)
                array.resize(tuple(sizes.get(dim, size) for dim, size in axes))
            _create_coordinates(group, coords)
            group.attrs.update(attributes)
            _consolidate(fresh)
        return BatchStore(self._path)

    def labels(self, name: str) -> list:
        """Values of a coordinate, numbers or texts."""
        array = self._array(name)
        texts = array.attrs.get("labels")
        return np.asarray(array[:] if texts is None else texts).tolist()

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
        region: tuple[slice | np.ndarray, ...],
    ) -> None:
        """Write some runs, by their places along each axis of `result`."""
        for name, values in part.items():
            if name != "result":
                self._array(name).oindex[region] = values
        result, told = self._array("result"), meanings(part["result"])
        if not told.keys() <= result.attrs.keys():
            result.attrs.update(told)
            _consolidate(self._path)
        result.oindex[region] = part["result"]

    def _array(self, name: str) -> zarr.Array:
        array = self._group[name]
        assert isinstance(array, zarr.Array)
        return array


class Checkpoints:
    """The last state of a run in a folder, by Orbax: each whole or not there, the one before gone.

    With `read_only` nothing is saved or removed.

    Raises: ModuleNotFoundError without Orbax.
    """

    def __init__(self, path: Path, read_only: bool = False):
        # Here, since it takes a second and brings TensorStore.
        try:
            from orbax import checkpoint
        except ModuleNotFoundError:
            raise ModuleNotFoundError("checkpoints need Orbax: pip install 'nc_jax[cnn]'") from None
        self._args = checkpoint.args
        # In this thread: a run ends with its last state on disk.
        options = checkpoint.CheckpointManagerOptions(
            max_to_keep=1, enable_async_checkpointing=False, cleanup_tmp_directories=not read_only,
            create=not read_only, read_only=read_only,
        )  # fmt: skip
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

    Raises: RuntimeError if another process holds it; OSError if nothing can be written there.
    """
    target = _target(path)
    lock = target.parent / f".{target.name}{_MARK}lock"
    with contextlib.ExitStack() as stack:
        with _naming(path):
            _make_folder(target.parent)
            # The lock itself takes some errors of the system for the lock of another process.
            lock.open("ab").close()
            try:
                stack.enter_context(filelock.FileLock(lock, blocking=False))
            except filelock.Timeout:
                raise RuntimeError(
                    f"{path}: another process is writing there; wait for it or give another path."
                ) from None
            _remove_abandoned(target)
        yield


def open_lazily(path: str | os.PathLike[str]) -> xr.Dataset:
    """A store as a data set whose variables are read when they are asked for.

    Raises: FileNotFoundError if there is none.
    """
    where = local_path(path)
    if not is_store(where):
        raise FileNotFoundError(f"{where}: no Zarr store there; give the path passed to save().")
    dataset = xr.open_zarr(where, chunks=None, consolidated=False)
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


def _check_attributes(attributes: Mapping) -> None:
    """Refuse attributes that a store cannot hold."""
    for name, value in attributes.items():
        plain = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
        if not isinstance(name, str) or not _is_json(plain):
            raise ValueError(
                f"attributes: {name!r} = {value!r} is a {type(value).__name__}; give texts, "
                "numbers or lists of them, such as str(value), by names that are texts."
            )


def _is_json(value: object) -> bool:
    """Whether a value is a text, a number, None, or a list or dict of such."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_json, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_is_json, value.values()))
    return value is None or isinstance(value, (str, int, float))


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


def _create_coordinates(
    group: zarr.Group, coords: Mapping[str, tuple[tuple[str, ...], np.ndarray]]
) -> None:
    for name, (dims, values) in coords.items():
        labels, values = _labels(values)
        group.create_array(name, data=values, dimension_names=dims, attributes=labels)


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
