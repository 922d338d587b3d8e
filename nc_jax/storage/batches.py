"""A Zarr store that is filled batch by batch, and whose axes can become longer."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr

from ..datasets import meanings, variable_attributes
from .replacement import replacing
from .stores import consolidate, open_group

# Value of `result` of a run that is not computed yet, in a store that is being filled. Codes of
# `diffrax.RESULTS` are 0 and above.
NOT_RUN = -1

# Dims and values of every coordinate, by name.
Coordinates = Mapping[str, tuple[tuple[str, ...], np.ndarray]]
# Indices along each axis of `result`.
Region = Sequence[slice | np.ndarray]


class StoredVariable(NamedTuple):
    """A variable of a batch store: its dims, shape, chunks and dtype."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype


def fill_value(dtype: np.dtype) -> float | int | bool:
    """The value of a variable where no result is written: NaN, -1 or False."""
    return {"f": np.nan, "i": NOT_RUN, "b": False}[dtype.kind]


class BatchStore:
    """A Zarr store that is filled a batch at a time, each batch complete or not at all.

    The variable `result` of a batch is written last and marks the batch as written. Where `result`
    is -1, a killed process may have left values in other variables: they are not read, and are
    written again. A chunk is a file, so that the runs of one chunk are all written or none. Where
    nothing was written, variables read as NaN, -1 or False.
    """

    def __init__(self, path: Path):
        self._path, self._group = path, open_group(path, "r+")

    @staticmethod
    def create(
        path: Path,
        variables: Mapping[str, StoredVariable],
        coordinates: Coordinates,
        attributes: Mapping[str, Any],
        *,
        long_names: Mapping[str, str] | None = None,
    ) -> "BatchStore":
        """Create an empty store at `path`, complete or not at all, and replace an earlier one.

        Args: `long_names` as for `variable_attributes`.
        """
        with replacing(path) as fresh:
            # xarray reads from this attribute which variables are coordinates, where a coordinate
            # has another name than its dim.
            index = " ".join(name for name, (dims, _) in coordinates.items() if dims != (name,))
            group = zarr.create_group(fresh, attributes={**attributes, "coordinates": index})
            _create_coordinates(group, coordinates, long_names)
            for name, (dims, shape, chunks, dtype) in variables.items():
                group.create_array(
                    name, shape=shape, chunks=chunks, dtype=dtype, fill_value=fill_value(dtype),
                    dimension_names=dims,
                    attributes={**variable_attributes(name, long_names=long_names)},
                )  # fmt: skip
            consolidate(fresh)
        return BatchStore(path)

    def extended(
        self,
        coordinates: Coordinates,
        attributes: Mapping[str, Any],
        *,
        long_names: Mapping[str, str] | None = None,
    ) -> "BatchStore":
        """The store with longer axes, complete or not at all; new places follow the old results.

        The size of chunks does not change, so that a data set that was opened before still reads
        its runs.

        Args: `coordinates` are those of the axes that become longer; `attributes` are all
        attributes of the longer store.
        """
        with replacing(self._path) as fresh:
            # A copy, since a process that is killed between two resizes in place would leave
            # variables of different lengths.
            shutil.copytree(self._path, fresh)
            group = open_group(fresh, "r+")
            sizes = {dim: len(values) for (dim,), values in coordinates.values()}
            # Coordinates are created again, since resizing does not extend texts: they are in an
            # attribute.
            for name in coordinates:
                del group[name]
            for _, array in group.arrays():
                metadata: Any = array.metadata  # of format 3
                axes = zip(metadata.dimension_names, array.shape, strict=True)
                array.resize(tuple(sizes.get(dim, size) for dim, size in axes))
            _create_coordinates(group, coordinates, long_names)
            group.attrs.update(attributes)
            consolidate(fresh)
        return BatchStore(self._path)

    def repair(self) -> None:
        """Complete what a killed process has left undone. Requires the lock of the store."""
        for partial in self._path.rglob("*.partial"):
            if partial.is_file():  # a variable whose name ends in .partial is a folder
                partial.unlink()
        # A process that is killed between the two writes of metadata in `write` leaves a message
        # that the consolidated copy lacks, and `write` would never copy it later.
        consolidate(self._path)

    @property
    def attributes(self) -> dict[str, object]:
        """The attributes that the store was created or extended with."""
        return {k: v for k, v in self._group.attrs.asdict().items() if k != "coordinates"}

    def labels(self, name: str) -> list:
        """Values of a coordinate: numbers or texts."""
        # `tolist` gives Python numbers, as the labels of a call are.
        array = self._array(name)
        texts = array.attrs.get("labels")
        return np.asarray(array[:] if texts is None else texts).tolist()

    def written(self) -> np.ndarray:
        """Which results are written, along the axes of `result`."""
        return np.asarray(self._array("result")[:]) != NOT_RUN

    def write(self, part: Mapping[str, np.ndarray], region: Region) -> None:
        """Write the results of a region, `result` last."""
        places = tuple(region)
        # `oindex` writes every combination of the indices along the axes.
        for name, values in part.items():
            if name != "result":
                self._array(name).oindex[places] = values
        result, messages = self._array("result"), meanings(part["result"])
        # Metadata are written only where a code occurs for the first time in the store. They are
        # written before the codes, so that no stored code lacks its message.
        if not messages.keys() <= result.attrs.keys():
            result.attrs.update(messages)
            consolidate(self._path)
        result.oindex[places] = part["result"]

    def _array(self, name: str) -> zarr.Array:
        array = self._group[name]
        assert isinstance(array, zarr.Array)
        return array


def _create_coordinates(
    group: zarr.Group, coordinates: Coordinates, long_names: Mapping[str, str] | None
) -> None:
    for name, (dims, values) in coordinates.items():
        labels, numbers = _texts_as_numbers(values)
        labels |= variable_attributes(name, long_names=long_names)
        group.create_array(name, data=numbers, dimension_names=dims, attributes=labels)


def _texts_as_numbers(values: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """An attribute with the texts, and their indices as values; numbers stay as they are.

    Zarr's format for texts is not settled.
    """
    if values.dtype.kind != "U":
        return {}, values
    return {"labels": values.tolist()}, np.arange(values.size)
