"""The result of `measure`: values by name, with the classes and equations that they belong to."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import close_to, shown
from ..measures import MEASURES, Measure
from .passes import OF_CLASSIFIER

if TYPE_CHECKING:
    import xarray as xr

# Dims whose coordinates are the names of the classes.
_CLASS_DIMS = ("class", "other_class")
# A measure with one of these among its needs is of a classifier.
WITH_CLASSIFIER = frozenset({"classifier", *OF_CLASSIFIER})


class Measures(dict[str, float | np.ndarray]):
    """Values of measures by name: floats, and arrays of classes, of pairs or of singular values.

    The text of the result, `print(measures)`, is a table with an equation for each value.
    `json.dumps(measures, default=np.ndarray.tolist)` writes it as JSON.

    Attributes:
        class_names: names of the classes 0..K−1, in the order of the arrays' axes.
        counts: (K,) samples of each class.
        dim: d, the number of features.
        equations: formula and source by name.
        dims: names of the axes by name: (), ("class",), ("class", "other_class"), ...

    Example:

        >>> features = np.array([[1.0], [3.0], [-2.0]])
        >>> found = nc.metrics.measure(features, ["cat", "cat", "dog"], names=["cdnv"])
        >>> print(found)
        3 samples of 1 feature, 2 classes of 1 to 2 samples
        name    value  equation
        cdnv  0.03125  mean_{c≠c'} (v_c + v_c')/(2‖μ_c − μ_c'‖²), ...
        >>> found["cdnv"], found.class_names, found.counts.tolist()
        (0.03125, ('cat', 'dog'), [2, 1])
    """

    def __init__(
        self,
        values: Mapping[str, float | np.ndarray],
        measures: Mapping[str, Measure],
        *,
        class_names: tuple[Any, ...],
        counts: np.ndarray,
        dim: int,
    ) -> None:
        super().__init__(values)
        self.class_names, self.counts, self.dim = class_names, counts, dim
        self.equations = {name: measures[name].equation for name in values}
        self.dims = {name: measures[name].dims for name in values}

    def __missing__(self, name: object) -> float | np.ndarray:
        """Raise KeyError with the reason why there is no such value."""
        of_layer = [MEASURES[key] for key in self if key in MEASURES]
        if not of_layer or name not in MEASURES:
            raise KeyError(f"{shown(name)} is none of the values.{close_names(name, self)}")
        wanted = MEASURES[str(name)]
        given = any(WITH_CLASSIFIER & set(measure.needs) for measure in of_layer)
        if WITH_CLASSIFIER & set(wanted.needs) and not given:
            raise KeyError(
                f"{shown(name)} needs a classifier (K, d): give classifier beside the features."
            )
        raise KeyError(f"{shown(name)} was not computed: give it among names.")

    def to_dataset(self) -> "xr.Dataset":
        """The values as a `xarray.Dataset` with the names of the classes as coordinates.

        Axes of classes are `class` and `other_class`; the coordinate `samples` along `class` has
        the number of samples. Each variable has the attributes `long_name`, its equation, and
        `units`. xarray is imported here only.

        Example: one pair of classes by its names.

            >>> features, labels = np.array([[1.0], [3.0], [-2.0]]), ["cat", "cat", "dog"]
            >>> found = nc.metrics.measure(features, labels, names=["cdnv_by_pair"])
            >>> pairs = found.to_dataset()["cdnv_by_pair"]
            >>> float(pairs.sel({"class": "cat", "other_class": "dog"}))
            0.03125
        """
        import xarray as xr

        from ..datasets import provenance, with_attributes

        # Strings as objects: Zarr has a format for strings of any length only.
        strings = any(isinstance(name, str) for name in self.class_names)
        names = np.array(self.class_names, object if strings else None)
        coordinates = dict.fromkeys(_CLASS_DIMS, names)
        used = {dim for dims in self.dims.values() for dim in dims}
        coords: dict[str, Any] = {
            dim: (dim, values) for dim, values in coordinates.items() if dim in {"class", *used}
        }
        coords["samples"] = ("class", self.counts)
        data = xr.Dataset(
            {name: (self.dims[name], value) for name, value in self.items()},
            coords=coords,
            attrs={"feature_dim": self.dim, **provenance()},
        )
        return with_attributes(data, long_names={**_LONG_NAMES, **self.equations})

    def __str__(self) -> str:
        """A line on the samples, and a table of names, values and equations."""
        smallest, largest = int(self.counts.min()), int(self.counts.max())
        sizes = f"{smallest}" if smallest == largest else f"{smallest} to {largest}"
        title = (
            f"{_counted(int(self.counts.sum()), 'sample')} of {_counted(self.dim, 'feature')}, "
            f"{_counted(len(self.counts), 'class', 'classes')} of {sizes} "
            f"{'sample' if largest == 1 else 'samples'}"
        )
        rows = [("name", "value", "equation")]
        rows += [(name, _text(value), self.equations[name]) for name, value in self.items()]
        left, middle = (max(len(row[i]) for row in rows) for i in (0, 1))
        lines = [f"{a:<{left}}  {b:>{middle}}  {c}".rstrip() for a, b, c in rows]
        return "\n".join([title, *lines])

    __repr__ = __str__


_LONG_NAMES = {
    "class": "class",
    "other_class": "other class of a pair",
    "samples": "samples of the class",
}


def close_names(name: object, names: Iterable[str]) -> str:
    """A sentence for an error message: the names that contain this one in any case, or similar."""
    text, names = str(name).lower(), list(names)
    containing = sorted((other for other in names if text in other.lower()), key=len)[:4]
    return f" Close to it: {', '.join(containing)}." if containing else close_to(text, names)


def _counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _text(value: float | np.ndarray) -> str:
    """A number with four digits; for an array the range of its finite entries."""
    if np.ndim(value) == 0:
        return f"{float(value):.4g}"
    finite = np.asarray(value)[np.isfinite(value)]
    if not finite.size:
        return "NaN"
    least, most = f"{finite.min():.4g}", f"{finite.max():.4g}"
    return least if least == most else f"{least} to {most}"
