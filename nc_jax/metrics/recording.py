"""Rows of measures by epoch, in memory and in a store on disk."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_integer, shown
from ..errors import ArgumentError
from ..measures import MEASURES
from ..paths import local_path

if TYPE_CHECKING:
    import xarray as xr

# Dims of a data set that no variable may be named after.
_DIMS = ("epoch", "layer", "class", "other_class")
# Measures of one layer by name, and of several layers by layer and name.
Measured = Mapping[str, Any]


class Recording:
    """Rows of measures by epoch; with a path, each row is on disk when `append` returns.

    A store is replaced as a whole at each row, since only then is it complete at any time.

    Args:
        attributes: of the data set. A store with other ones is refused.
        class_names: of the classes 0..K−1.
        long_names: equations of measures that are not in `MEASURES`.
        path: of a Zarr store, or None. Rows that are there already are read.
    """

    def __init__(
        self,
        attributes: Mapping[str, Any],
        class_names: Sequence[Any],
        long_names: Mapping[str, str],
        path: str | os.PathLike[str] | None,
    ) -> None:
        self._attributes, self._class_names = attributes, class_names
        self._long_names = {**{m.name: m.equation for m in MEASURES.values()}, **long_names}
        self._rows: dict[int, dict[str, np.ndarray]] = {}
        self._dims: dict[str, tuple[str, ...]] = {}
        self.layers: tuple[str, ...] | None = None
        self._path = None if path is None else local_path(path)
        if self._path is not None:
            self._read()

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, epoch: int | None, measured: Measured, scalars: Mapping[str, Any]) -> None:
        """Add the row of an epoch, which replaces stored rows of this and later epochs.

        Args:
            epoch: number of the row; None for the last one plus 1.
            measured: values by name, or by layer and name.
            scalars: numbers of the whole network, such as a loss.
        """
        row, layers = _row_of(measured)
        given = _given_dims(measured)
        for name, value in scalars.items():
            if name in row or name in _DIMS:
                raise ValueError(f"{name} = {shown(value)}: is a name of the data set; rename it.")
            row[name] = np.asarray(_number(name, value))
        last = max(self._rows, default=0)
        epoch = last + 1 if epoch is None else check_integer("epoch", epoch, least=0)
        # A training that resumes from a checkpoint repeats epochs, and replaces their rows.
        earlier = {number: old for number, old in self._rows.items() if number < epoch}
        if earlier and layers != self.layers:
            raise ValueError(
                f"layers {_listed(layers)}: rows before have {_listed(self.layers)}; give the same "
                "layers in every epoch."
            )
        dims = {
            name: () if name in scalars else self._dims_of(name, row[name], layers, given.get(name))
            for name in row
        }
        self._check_shapes(earlier, row)
        before = self._rows, self._dims, self.layers
        self._rows, self._dims = {**earlier, epoch: row}, {**self._dims, **dims}
        self.layers = layers
        if self._path is not None:
            try:
                self._write(len(before[0]))
            except BaseException:
                # The rows stay those of the store, so that the call can be repeated.
                self._rows, self._dims, self.layers = before
                raise

    def dataset(self) -> "xr.Dataset":
        """All rows, with dims (epoch), (epoch, layer) and further ones of classes."""
        import xarray as xr

        from ..datasets import provenance, with_attributes

        epochs = sorted(self._rows)
        names = dict.fromkeys(name for epoch in epochs for name in self._rows[epoch])
        variables = {}
        for name in names:
            values = [self._rows[epoch].get(name) for epoch in epochs]
            variables[name] = (("epoch", *self._dims[name]), _stacked(values))
        found = {dim for name in names for dim in self._dims[name]}
        labels = {"layer": self.layers, "class": self._class_names}
        labels["other_class"] = self._class_names
        coords = {dim: np.array(labels[dim]) for dim in _DIMS[1:] if dim in found}
        dataset = xr.Dataset(
            variables,
            coords={"epoch": np.array(epochs, int), **coords},
            attrs={**self._attributes, "num_rows": len(epochs), **provenance()},
        )
        return with_attributes(dataset, long_names=self._long_names)

    def _dims_of(
        self,
        name: str,
        values: np.ndarray,
        layers: tuple[str, ...] | None,
        given: tuple[str, ...] | None,
    ) -> tuple[str, ...]:
        """Dims of a measure after `epoch`; by its shape where they are not given."""
        leading = () if layers is None else ("layer",)
        if given is not None:
            return (*leading, *given)
        shape = values.shape[len(leading) :]
        if all(size == len(self._class_names) for size in shape) and len(shape) <= 2:
            return (*leading, *("class", "other_class")[: len(shape)])
        return (*leading, *(f"{name}_dim_{i}" for i in range(len(shape))))

    def _check_shapes(
        self, earlier: Mapping[int, Mapping[str, np.ndarray]], row: Mapping[str, np.ndarray]
    ) -> None:
        for name, value in row.items():
            before = next((old[name].shape for old in earlier.values() if name in old), value.shape)
            if value.shape != before:
                raise ValueError(
                    f"{name} has shape {value.shape}: rows before have {before}; give another name."
                )

    def _read(self) -> None:
        """Read the rows of an earlier process; ArgumentError if they are of another kind."""
        from .. import storage

        assert self._path is not None
        storage.check_replaceable(self._path)
        if not storage.is_store(self._path):
            return
        stored = storage.load(self._path)
        for name, value in self._attributes.items():
            if stored.attrs.get(name) != value:
                raise ArgumentError(
                    f"{self._path} holds rows with {name} = {shown(stored.attrs.get(name))}, not "
                    f"{shown(value)}: give another path.",
                    "path",
                )
        self._dims = {str(name): _names(stored[name].dims[1:]) for name in stored.data_vars}
        self.layers = tuple(stored["layer"].values.tolist()) if "layer" in stored.dims else None
        for i, epoch in enumerate(stored["epoch"].values.tolist()):
            self._rows[epoch] = {n: np.asarray(stored[n].values[i]) for n in self._dims}

    def _write(self, count: int) -> None:
        """Replace the store, which must have the `count` rows of the last write."""
        from .. import storage

        assert self._path is not None
        with storage.writing(self._path):
            there = 0
            if storage.is_store(self._path):
                there = storage.attributes(self._path).get("num_rows")
            if there != count:
                raise RuntimeError(
                    f"{self._path} has {there} rows, not the {count} of this Monitor: another one "
                    "has written there; give each another path."
                )
            storage.save(self.dataset(), self._path)


def _row_of(measured: Measured) -> tuple[dict[str, np.ndarray], tuple[str, ...] | None]:
    """The values of a row by name, and the names of its layers, whose axis comes first."""
    if not isinstance(measured, Mapping):
        raise ValueError(
            f"measured = {shown(measured)}: give a dict of values by name, or by layer and name."
        )
    layers = list(measured.values())
    if not layers or not all(isinstance(layer, Mapping) for layer in layers):
        return {name: _array(name, value) for name, value in measured.items()}, None
    row = {}
    for name in dict.fromkeys(name for layer in layers for name in layer):
        given = [_array(name, layer[name]) if name in layer else None for layer in layers]
        row[name] = _stacked(given)
    return row, tuple(measured)


def _array(name: str, value: Any) -> np.ndarray:
    """The value of a measure as floats."""
    try:
        return np.asarray(value, float)
    except (TypeError, ValueError):
        raise ValueError(f"{name} = {shown(value)}: give a number, or an array of them.") from None


def _stacked(values: Sequence[np.ndarray | None]) -> np.ndarray:
    """The values along a new first axis, with NaN for those that are missing."""
    missing = np.full(next(value.shape for value in values if value is not None), np.nan)
    return np.stack([missing if value is None else value for value in values])


def _given_dims(measured: Measured) -> dict[str, tuple[str, ...]]:
    """The dims of measures that `Measures` have, or that are in the table of measures."""
    found = {name: measure.dims for name, measure in MEASURES.items()}
    for values in (measured, *measured.values()):
        found |= getattr(values, "dims", {})
    return found


def _number(name: str, value: Any) -> float:
    """A scalar of Python, NumPy, JAX or PyTorch as a float."""
    try:
        # PyTorch warns of the conversion of a tensor that requires a gradient.
        return float(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} = {shown(value)}: give one number.") from None


def _listed(layers: tuple[str, ...] | None) -> str:
    return "(one without a name)" if layers is None else ", ".join(layers)


def _names(dims: Sequence[Any]) -> tuple[str, ...]:
    return tuple(map(str, dims))
