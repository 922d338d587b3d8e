"""Labels in the formats that people have, as codes 0..K−1 with the names of the classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..checks import check_unmasked, close_to

# Labels up to this value are translated by a table with one entry for each; others are sorted.
_LARGEST_TABLE = 1 << 16
_FEWEST_CLASSES = 16
# The source of classes of which only the number is given.
_NUMBERED = "the classes"


class Classes:
    """The classes of labels, and their codes 0..K−1.

    Where the names are not known, they are collected from the labels in the order in which they
    occur, until `settle` sorts them.

    Attributes:
        names: names of the classes 0..K−1: integers or strings.
        known: whether all names are known.
        counts: samples of each class so far, in the order of `names`.
    """

    def __init__(
        self,
        names: Sequence[Any] | None = None,
        *,
        rows: int | None = None,
        ignore_index: Any = None,
        source: str = "class_names",
        argument: str = "labels",
    ) -> None:
        """Args: `rows` are those of a classifier.

        For messages: `source` is where `names` come from, and `argument` the name of the labels.
        """
        self.known, self.names, self.counts = False, [], np.zeros(0, np.int64)
        self._rows, self._ignored, self._source = rows, ignore_index, ""
        self._argument = argument
        self._codes: dict[Any, int] = {}
        if names is not None:
            self._declare(names, source)
            if not any(isinstance(name, int) for name in names):
                # Integer labels count the names.
                self._codes |= {code: code for code in range(len(self.names))}

    @property
    def capacity(self) -> int:
        """Number of classes to compute with: K, or a power of two above those found so far."""
        if self.known:
            return len(self.names)
        return self._rows or 1 << (max(len(self.names), _FEWEST_CLASSES) - 1).bit_length()

    def encode(self, labels: Any, first_row: int = 0) -> np.ndarray:
        """Codes (B,) of labels, −1 for those that are left out; `first_row` is for messages."""
        values, declared = values_of(labels, first_row, name=self._argument)
        if not self.known:
            if declared is not None:
                self._declare(declared, "the classes of the labels")
            elif self._rows is not None and values.dtype.kind in "iu":
                self._declare(range(self._rows), "the rows of the classifier")
        table, positions = _distinct(values)
        if table == [-1, 1] and self._ignored != -1:
            raise ValueError(
                f"{self._argument} are -1 and 1: give the classes 0 and 1, such as "
                f"{self._argument} > 0."
            )
        codes = np.empty(len(table), np.int32)
        for place, name in enumerate(table):
            code = -1 if name == self._ignored else self._codes.get(name)
            if code is None:
                code = self._new(name, first_row + int(np.argmax(values == name)))
            codes[place] = code
        return codes[positions]

    def count(self, codes: np.ndarray) -> None:
        """Add the samples of a batch to `counts`."""
        counts = np.bincount(codes[codes >= 0], minlength=len(self.names))
        counts[: len(self.counts)] += self.counts
        self.counts = counts

    def settle(self) -> np.ndarray:
        """End the collection: sort the names, and return their codes so far in the new order.

        Raises: ValueError for a class without samples, fewer than two classes, or another number of
        classes than the classifier has.
        """
        order = np.arange(len(self.names))
        if not self.known:
            if len({type(name) for name in self.names}) > 1:
                raise ValueError(
                    f"{self._argument} hold {listed(self.names)}: give integers or strings, of "
                    "one kind."
                )
            order = np.array(sorted(order, key=lambda code: self.names[code]), int)
            counts = self.counts[order]
            self._declare([self.names[code] for code in order], "the classes of the first pass")
            self.counts = counts
        self._check_counts()
        return order

    def restart(self) -> None:
        """Set the counts to 0, for another pass."""
        self.counts = np.zeros(len(self.names), np.int64)

    def _declare(self, names: Sequence[Any], source: str) -> None:
        self.names, self.known, self._source = list(names), True, source
        self._codes = {name: code for code, name in enumerate(self.names)}
        if len(self._codes) < len(self.names):
            raise ValueError(f"{source} {listed(self.names)} have repeats: give each class once.")
        if self._rows not in (None, len(self.names)):
            raise ValueError(
                f"{self._argument} have {len(self.names)} classes, {listed(self.names)}, and the "
                f"classifier has {self._rows} rows: give class_names, a name for each row in "
                "their order."
            )
        self.counts = np.zeros(len(self.names), np.int64)

    def _new(self, name: Any, row: int) -> int:
        negative = isinstance(name, int) and name < 0
        if self.known or negative:
            advice = self._advice(name, negative)
            raise ValueError(f"{self._argument} hold {name!r} in row {row}: {advice}")
        self._codes[name] = len(self.names)
        self.names.append(name)
        return self._codes[name]

    def _advice(self, name: Any, negative: bool) -> str:
        """What to give in the place of a label that names no class."""
        if negative:
            return f"classes are integers >= 0; to leave such rows out give ignore_index={name}."
        if self._source in ("the rows of the classifier", _NUMBERED):
            accepted = f"give integers in 0..{len(self.names) - 1}, {self._source}"
            if name == len(self.names):
                return f"{accepted}; where they count from 1, subtract 1."
            return f"{accepted}, or class_names, a name for each of them in their order."
        close = close_to(name, map(str, self.names))
        return f"give one of {self._source}, {listed(self.names)}.{close}"

    def _check_counts(self) -> None:
        if not self.counts.sum():
            raise ValueError(f"{self._argument}: there are no samples; give some of each class.")
        missing = np.flatnonzero(self.counts == 0).tolist()
        if missing:
            others = "leave these classes out everywhere"
            if self._rows is not None:
                others = (
                    f"drop their rows of the classifier, np.delete(classifier, [{listed(missing)}],"
                    " axis=0), and of the bias, and give class_names of the others"
                )
            raise ValueError(
                f"{self._argument}: no samples of {listed([self.names[code] for code in missing])} "
                f"among {self._source} {listed(self.names)} (counts "
                f"{listed(self.counts.tolist())}): give samples of each, or {others}."
            )
        if len(self.names) == 1:
            raise ValueError(
                f"{self._argument}: all {self.counts[0]} samples are of class {self.names[0]!r}; "
                "measures of collapse compare two classes or more."
            )


def numbered(num_classes: int, *, ignore_index: Any = None) -> Classes:
    """The classes 0..K−1, of which the user gives the number K."""
    return Classes(range(num_classes), ignore_index=ignore_index, source=_NUMBERED)


def values_of(
    labels: Any, first_row: int = 0, *, name: str = "labels"
) -> tuple[np.ndarray, Sequence[Any] | None]:
    """Labels as integers or strings (N,), and the classes where the format names all of them.

    Args:
        labels: in the memory of the host: NumPy, lists, pandas, xarray. One-hot rows name a class
            for each column, a categorical of pandas all of its categories.
        first_row: number of the first row, for messages.
        name: of the argument, for messages.

    Raises: ValueError for labels of another shape or kind, or a label that is missing.
    """
    check_unmasked(name, labels)
    categorical = getattr(labels, "values", labels)
    if hasattr(categorical, "categories") and hasattr(categorical, "codes"):
        names = np.asarray(categorical.categories)
        codes = np.asarray(categorical.codes)
        _refuse_missing(codes < 0, first_row, name)
        names = _one_kind(names, 0, name)
        return names[codes], names.tolist()
    array = np.asarray(labels.to_numpy() if hasattr(labels, "to_numpy") else labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2:
        return _from_one_hot(array, first_row, name), range(array.shape[1])
    if array.ndim != 1:
        raise ValueError(
            f"{name} have shape {array.shape}: give the class of each sample, (N,), or one-hot "
            "rows (N, K)."
        )
    return _one_kind(array, first_row, name), None


def _one_kind(array: np.ndarray, first_row: int, name: str) -> np.ndarray:
    """Integers or strings from an array of any dtype that holds such values."""
    if array.dtype.kind == "O" or array.dtype.kind == "T":
        array = _from_objects(array.astype(object), first_row, name)
    if array.dtype.kind == "S":
        array = np.strings.decode(array, "utf-8")
    if array.dtype.kind == "b":
        array = array.astype(np.int64)
    if array.dtype.kind in "iuU":
        return array
    # bfloat16 of ml_dtypes has the kind "V".
    if array.dtype.kind == "f" or array.dtype.name in ("bfloat16", "float16"):
        floats = array.astype(float)
        _refuse_missing(np.isnan(floats), first_row, name)
        # Floats from 2^53 on are rounded integers.
        whole = (floats == np.floor(floats)) & (np.abs(floats) < 2**53)
        if not whole.all():
            row = int(np.argmin(whole))
            raise ValueError(
                f"{name} hold {floats[row]:g} in row {first_row + row}: give classes as integers "
                "or strings."
            )
        return floats.astype(np.int64)
    raise ValueError(f"{name} have dtype {array.dtype}: give classes as integers or strings.")


def _from_objects(array: np.ndarray, first_row: int, name: str) -> np.ndarray:
    """An array of Python's strings, bytes or numbers in a dtype of its own."""
    _refuse_missing(np.array([_is_missing(value) for value in array], bool), first_row, name)
    for kinds in (str, bytes, (bool, int, float, np.number, np.bool)):
        if all(isinstance(value, kinds) for value in array):
            return np.array(array.tolist())
    kinds = sorted({type(value).__name__ for value in array})
    raise ValueError(f"{name} hold {', '.join(kinds)}: give integers or strings, of one kind.")


def _from_one_hot(array: np.ndarray, first_row: int, name: str) -> np.ndarray:
    """Classes of rows with one 1 and zeros."""
    if array.dtype.kind not in "biufV":
        raise ValueError(
            f"{name} have shape {array.shape} and dtype {array.dtype}: give the class of each "
            "sample, (N,)."
        )
    numbers = array.astype(float)
    allowed = np.all((numbers == 0) | (numbers == 1), axis=1) & (np.sum(numbers, axis=1) == 1)
    if not allowed.all():
        row = int(np.argmin(allowed))
        raise ValueError(
            f"{name} have shape {array.shape}, and row {first_row + row} is no one-hot row: give "
            f"the class of each sample, (N,), such as np.argmax({name}, axis=1) of probabilities."
        )
    return np.argmax(numbers, axis=1)


def _refuse_missing(missing: np.ndarray, first_row: int, name: str) -> None:
    if missing.any():
        raise ValueError(
            f"{name}: {int(missing.sum())} samples have no label, the first in row "
            f"{first_row + int(np.argmax(missing))}: leave them out, such as by ~{name}.isna()."
        )


def _is_missing(value: object) -> bool:
    """None, a float NaN, or the NA of pandas, which has no truth value."""
    nan = isinstance(value, float) and value != value
    return value is None or nan or type(value).__name__ in ("NAType", "NaTType")


def _distinct(values: np.ndarray) -> tuple[list[Any], np.ndarray]:
    """The distinct values, and for each label the position of its value among them."""
    if values.dtype.kind in "iu" and len(values):
        least, most = int(values.min()), int(values.max())
        if most - least < _LARGEST_TABLE and most < 2**63:
            shifted = values.astype(np.int64) - least
            present = np.bincount(shifted) > 0
            found = np.flatnonzero(present)
            return (found + least).tolist(), (np.cumsum(present) - 1)[shifted]
    found, positions = np.unique(values, return_inverse=True)
    return found.tolist(), positions.reshape(-1)


def listed(values: Sequence[Any]) -> str:
    """The first eight values."""
    texts = [repr(value) for value in values[:8]]
    return ", ".join(texts) + (", ..." if len(values) > 8 else "")
