"""Data sets in Zarr stores: save and load them, with further arrays beside the data set."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr
import zarr

from ..datasets import check_attributes, shown_with_equations, to_dataset
from ..paths import local_path
from ..trajectory import Trajectory
from .replacement import is_store, replacing

# Group of a store for arrays that are no variables of its data set.
_ARRAYS = "arrays"


def save(
    dataset: xr.Dataset | Trajectory,
    path: str | os.PathLike[str],
    *,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a Zarr store at `path`, complete or not at all, and replace an earlier store there.

    Args:
        dataset: a data set, or a `Trajectory`, which is saved as `to_dataset(trajectory)`.
        path: of the store; its folder is created where there is none.
        arrays: stored beside the data set, to be read by the function `arrays`; `load` ignores
            them.

    Raises: ValueError for a `dataset` that is none, a URL or a name that is reserved for temporary
    files; FileExistsError if `path` holds something that is not a Zarr store; OSError if the store
    cannot be written.

    Example:

        >>> problem = nc.ulpm(3, 4, 2)
        >>> start = problem.init(jax.random.key(0))
        >>> run = nc.gradient_descent(problem, start, optax.sgd(0.1), 2, observe=("margin_min",))
        >>> nc.storage.save(run, folder / "descent.zarr")
        >>> nc.storage.load(folder / "descent.zarr")["margin_min"].shape
        (3,)
    """
    if isinstance(dataset, Trajectory):
        dataset = to_dataset(dataset)
    if not isinstance(dataset, xr.Dataset):
        raise ValueError(
            f"dataset: is a {type(dataset).__name__}; give an xarray.Dataset or a Trajectory."
        )
    check_attributes(dataset.attrs)
    with replacing(local_path(path)) as fresh:
        # Not consolidated here: the arrays below are parts of the store too.
        _without_texts(dataset).to_zarr(fresh, mode="w-", consolidated=False)
        if arrays:
            group = open_group(fresh, "r+").create_group(_ARRAYS)
            for name, values in arrays.items():
                group.create_array(name, data=values)
        consolidate(fresh)


def load(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read the data set of a store into memory.

    Raises: FileNotFoundError if there is no store; ValueError for a URL.

    Example:

        >>> import xarray as xr
        >>> nc.storage.save(xr.Dataset({"loss": ("epoch", [2.0, 1.0])}), folder / "loss.zarr")
        >>> nc.storage.load(folder / "loss.zarr")["loss"].values
        array([2., 1.])
    """
    return open_lazily(path).load()


def open_lazily(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open the data set of a store; each variable is read from disk when it is used.

    Raises: FileNotFoundError if there is no store; ValueError for a URL.

    Example:

        >>> import xarray as xr
        >>> nc.storage.save(xr.Dataset({"loss": ("epoch", [2.0, 1.0])}), folder / "loss.zarr")
        >>> float(nc.storage.open_lazily(folder / "loss.zarr")["loss"][-1])
        1.0
    """
    where = local_path(path)
    if not is_store(where):
        raise FileNotFoundError(
            f"{where}: no Zarr store there; give the path of save(), or the `path` of a "
            "sweep, whose store begins with its first batch."
        )
    # `chunks=None` reads by indexing, without Dask. The consolidated copy of the metadata may be
    # older than the metadata.
    dataset = xr.open_zarr(where, chunks=None, consolidated=False)
    # A coordinate of texts has their indices as values, and the texts as an attribute.
    texts = {
        name: (coord.dims, np.array(coord.attrs["labels"])[coord.values], _without_labels(coord))
        for name, coord in dataset.coords.items()
        if "labels" in coord.attrs
    }
    return shown_with_equations(dataset.assign_coords(texts))


def arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the arrays that `save` stored beside a data set; an empty dict if there are none.

    Raises: FileNotFoundError if there is no store; ValueError for a URL.

    Example:

        >>> import xarray as xr
        >>> data = xr.Dataset({"loss": ("epoch", [2.0, 1.0])})
        >>> nc.storage.save(data, folder / "loss.zarr", arrays={"weights": np.ones(3)})
        >>> nc.storage.arrays(folder / "loss.zarr")["weights"]
        array([1., 1., 1.])
    """
    group = open_group(local_path(path), "r").get(_ARRAYS)
    if not isinstance(group, zarr.Group):
        return {}
    return {name: np.asarray(array[...]) for name, array in group.arrays()}


def attributes(path: str | os.PathLike[str]) -> Mapping[str, object]:
    """Read the attributes of a data set, without its variables.

    Raises: FileNotFoundError if there is no store; ValueError for a URL.

    Example:

        >>> import xarray as xr
        >>> nc.storage.save(xr.Dataset(attrs={"classes": 10}), folder / "empty.zarr")
        >>> nc.storage.attributes(folder / "empty.zarr")["classes"]
        10
    """
    return open_group(local_path(path), "r").attrs.asdict()


def open_group(path: Path, mode: Literal["r", "r+"]) -> zarr.Group:
    """Open a store by the metadata of its parts, since the consolidated copy may be older."""
    return zarr.open_group(path, mode=mode, use_consolidated=False)


def consolidate(path: Path) -> None:
    """Copy the metadata of all parts into one file, where `xarray.open_zarr` expects them."""
    # Zarr warns that its format 3 does not define this file yet; readers that do not know it ignore
    # it. The filter is not removed afterwards, since filters are common to all threads.
    warnings.filterwarnings("ignore", "Consolidated metadata")
    zarr.consolidate_metadata(path)


def _without_texts(dataset: xr.Dataset) -> xr.Dataset:
    """The data set with indices in place of each coordinate of texts, which are an attribute.

    Zarr's format for texts is not settled.
    """
    numbers = {
        name: (coord.dims, np.arange(coord.size), {**coord.attrs, "labels": coord.values.tolist()})
        for name, coord in dataset.coords.items()
        if coord.dtype.kind == "U" and coord.ndim == 1
    }
    return dataset.assign_coords(numbers)


def _without_labels(coord: xr.DataArray) -> dict[str, object]:
    return {name: value for name, value in coord.attrs.items() if name != "labels"}
