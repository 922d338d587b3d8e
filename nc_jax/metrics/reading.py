"""Features and labels, of arrays or of an iterable, as batches of one padded shape.

A batch has the dtype of its array; the compiled program converts it to float64.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ..checks import check_integer, shown
from .arrays import check_features, is_on_disk, labels_of, rows_of, slice_of
from .labelling import Classes
from .passes import Batch

# Numbers in a batch by default. On a CPU a batch of 4 MiB in float64 stays in the caches, which is
# four times as fast as one of 32 MiB; an accelerator wants few large batches.
_BATCH_ON_CPU, _BATCH = 1 << 19, 1 << 24
_FEWEST_ROWS = 128
# Labels on disk that are read at a time.
_LABELS = 1 << 20


class Samples:
    """Samples that can be read in batches, twice or once.

    Attributes:
        batches: a function without arguments that returns an iterator over `Batch`es of one shape.
        classes: the classes of the labels; of an iterable they are complete after the first pass.
        rereadable: whether `batches` can be called again.
        name: of the argument with the features, for messages.
    """

    def __init__(
        self,
        batches: Callable[[], Iterator[Batch]],
        classes: Classes,
        *,
        rereadable: bool = True,
        name: str = "features",
    ) -> None:
        self.batches, self.classes, self.rereadable = batches, classes, rereadable
        self.name = name


def read(
    features: Any,
    labels: Any = None,
    *,
    classifier: np.ndarray | None = None,
    class_names: Sequence[Any] | None = None,
    ignore_index: Any = None,
    to_features: Callable[[Any], Any] | None = None,
    batch_size: int | None = None,
    prefix: str = "",
    source: str = "class_names",
) -> Samples:
    """Samples of arrays (N, d) and labels, or of an iterable of batches (features, labels).

    Args: those of `measure`. `classifier`, (K, d), fixes the numbers of classes and of features.
        For messages: `prefix` comes before the names of the arguments features and labels, and
        `source` says where `class_names` come from.

    Raises: ValueError for data of another shape or kind.
    """
    if batch_size is not None:
        check_integer("batch_size", batch_size)
    rows = None if classifier is None else len(classifier)
    classes = Classes(
        class_names, rows=rows, ignore_index=ignore_index, source=source, argument=f"{prefix}labels"
    )
    if to_features is not None and not callable(to_features):
        raise ValueError(
            f"to_features = {shown(to_features)}: give a function from the inputs of a batch to "
            "features (B, d)."
        )
    if labels is None:
        return _read_batches(features, classes, classifier, to_features, batch_size, prefix)
    if to_features is not None:
        raise ValueError(
            "to_features is for an iterable of batches (images, labels): give the features of all "
            "images, or the iterable without labels."
        )
    return _read_arrays(features, labels, classes, classifier, batch_size, prefix)


def _read_arrays(
    features: Any,
    labels: Any,
    classes: Classes,
    classifier: np.ndarray | None,
    batch_size: int | None,
    prefix: str,
) -> Samples:
    name, of_labels = f"{prefix}features", f"{prefix}labels"
    rows, labels = rows_of(name, features), labels_of(labels, of_labels)
    dim = check_features(name, rows)
    count = rows.shape[0]
    if len(labels) != count:
        fix = "give one label for each"
        if len(labels) == dim:
            fix = f"{name} of shape {tuple(rows.shape)} are (d, N); give {name}.T, (N, d)"
        raise ValueError(f"{of_labels} have {len(labels)} entries for {count} samples: {fix}.")
    check_classifier(classifier, dim)
    codes_of = scan(labels, classes)
    size = batch_size or batch_rows(count, dim)

    def batches() -> Iterator[Batch]:
        for start in range(0, count, size):
            stop = min(start + size, count)
            # The last batch starts earlier, so that it has the shape of the others: the rows that
            # were read before are left out of it.
            begin = max(stop - size, 0)
            codes = codes_of(begin, stop)
            codes[: start - begin] = -1
            yield padded(slice_of(rows, begin, stop), codes, size)

    return Samples(batches, classes, name=name)


def scan(labels: Any, classes: Classes) -> Callable[[int, int], np.ndarray]:
    """Collect and count the classes; returns a function that gives the codes of rows."""
    if not is_on_disk(labels):
        codes = classes.encode(labels)
        classes.count(codes)
        place = np.argsort(classes.settle()).astype(codes.dtype)
        sorted_codes = np.where(codes < 0, codes, place[codes])
        return lambda start, stop: sorted_codes[start:stop].copy()
    for start in range(0, len(labels), _LABELS):
        classes.count(classes.encode(labels[start : start + _LABELS], start))
    classes.settle()
    return lambda start, stop: classes.encode(labels[start:stop], start)


def _read_batches(
    batches: Any,
    classes: Classes,
    classifier: np.ndarray | None,
    to_features: Callable[[Any], Any] | None,
    batch_size: int | None,
    prefix: str,
) -> Samples:
    name, of_labels = f"{prefix}features", f"{prefix}labels"
    begin, rereadable = _opened(batches, prefix)

    def pieces() -> Iterator[tuple[Any, np.ndarray]]:
        classes.restart()
        count = 0
        for number, batch in enumerate(_checked(begin(), name)):
            inputs, labels = pair_of(batch, number)
            rows = rows_of(name, inputs if to_features is None else _mapped(to_features, inputs))
            check_classifier(classifier, check_features(name, rows))
            labels = labels_of(labels, of_labels)
            if len(labels) != len(rows):
                raise ValueError(
                    f"batch {number} has {len(labels)} {of_labels} for {len(rows)} samples: give "
                    "one label for each."
                )
            codes = classes.encode(labels, count)
            classes.count(codes)
            count += len(codes)
            # Copied before the next batch is read: a loader may use its arrays again.
            yield np.asarray(slice_of(rows, 0, len(codes))), codes

    return Samples(
        lambda: _regrouped(pieces(), batch_size, name), classes, rereadable=rereadable, name=name
    )


def _mapped(to_features: Callable[[Any], Any], inputs: Any) -> Any:
    """The features that a user's function returned, of one layer."""
    features = to_features(inputs)
    if isinstance(features, Mapping):
        raise ValueError(
            f"to_features returned a dict of the layers {', '.join(map(repr, features))}: return "
            "the features (B, d) of one of them, or call metrics.measure_layers for all."
        )
    if features is None:
        raise ValueError("to_features returned None: return the features (B, d) of the batch.")
    return features


def _checked(batches: Any, name: str) -> Iterable[Any]:
    """What a user's function returned, which must be an iterable."""
    if not isinstance(batches, Iterable):
        raise ValueError(
            f"{name}(): returned {shown(batches)}: give a function without arguments that "
            "returns an iterator over batches (features, labels)."
        )
    return batches


def _opened(batches: Any, prefix: str) -> tuple[Callable[[], Any], bool]:
    """A function that starts a pass over batches, and whether it can be called again."""
    if hasattr(batches, "shape"):
        raise ValueError(
            f"{prefix}labels are missing for {prefix}features of shape {tuple(batches.shape)}: "
            f"give labels (N,), or an iterable of batches (features, labels) as {prefix}features."
        )
    if isinstance(batches, Iterable):
        return lambda: batches, not isinstance(batches, Iterator)
    if callable(batches):
        return batches, True
    raise ValueError(
        f"{prefix}features = {shown(batches)}: give an array (N, d) and labels, or an iterable of "
        "batches (features, labels), such as a DataLoader."
    )


def pair_of(batch: Any, number: int) -> tuple[Any, Any]:
    """Features and labels of one batch of an iterable."""
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    parts = f" of {len(batch)} parts" if isinstance(batch, (tuple, list, dict)) else ""
    raise ValueError(
        f"batch {number} is a {type(batch).__name__}{parts}: give pairs (features, labels), such "
        'as by the function lambda: ((b["features"], b["labels"]) for b in loader).'
    )


class _Buffer:
    """Rows of a batch that is filled piece by piece."""

    def __init__(self, size: int, rows: np.ndarray) -> None:
        """Args: `rows` have the number of columns and the dtype."""
        self.features = np.empty((size, rows.shape[1]), rows.dtype)
        self.labels = np.empty(size, np.int32)
        self.filled = 0

    def add(self, rows: np.ndarray, codes: np.ndarray) -> int:
        """Copy as many rows as there is place for; returns their number."""
        place = slice(self.filled, min(self.filled + len(codes), len(self.labels)))
        count = place.stop - place.start
        self.features[place], self.labels[place] = rows[:count], codes[:count]
        self.filled = place.stop
        return count


def _regrouped(
    pieces: Iterable[tuple[np.ndarray, np.ndarray]], batch_size: int | None, name: str
) -> Iterator[Batch]:
    """Batches of one shape from pieces of any sizes; a single batch has a power of two as size."""
    buffer, single = None, True
    for rows, codes in pieces:
        if buffer is None:
            buffer = _Buffer(batch_size or batch_rows(None, rows.shape[1]), rows)
        known = buffer.features
        if (rows.shape[1], rows.dtype) != (known.shape[1], known.dtype):
            raise ValueError(
                f"{name} of the batches have {known.shape[1]} columns of {known.dtype} and "
                f"{rows.shape[1]} of {rows.dtype}: give one number and one dtype."
            )
        taken = 0
        while taken < len(codes):
            taken += buffer.add(rows[taken:], codes[taken:])
            if buffer.filled == len(buffer.labels):
                yield Batch(buffer.features, buffer.labels)
                # Another buffer, since the program may still read this one.
                buffer, single = _Buffer(buffer.filled, rows), False
    if buffer is not None and buffer.filled:
        size = len(buffer.labels)
        size = min(size, _power_of_two(buffer.filled)) if single else size
        yield padded(buffer.features[: buffer.filled], buffer.labels[: buffer.filled], size)


def check_classifier(classifier: np.ndarray | None, dim: int) -> None:
    """Raise ValueError unless the classifier has one column for each of `dim` features."""
    if classifier is None or classifier.shape[1] == dim:
        return
    fix = "give a row of d weights for each class"
    if classifier.shape[0] == dim:
        fix = "it is (d, K); give classifier.T, (K, d)"
    raise ValueError(f"classifier has shape {classifier.shape} for {dim} features: {fix}.")


def batch_rows(count: int | None, dim: int) -> int:
    """Rows of a batch: a power of two, so that sets of similar sizes share one program.

    Args: `count` is the number of samples, or None where it is not known.
    """
    numbers = _BATCH_ON_CPU if jax.default_backend() == "cpu" else _BATCH
    most = _power_of_two(numbers // dim)
    return most if count is None else min(_power_of_two(count), most)


def _power_of_two(count: int) -> int:
    """The next power of two, at least `_FEWEST_ROWS`."""
    return 1 << (max(count, _FEWEST_ROWS) - 1).bit_length()


def padded(features: Any, labels: np.ndarray, size: int) -> Batch:
    """A batch of `size` rows; those added have the class −1."""
    missing = size - len(labels)
    if missing:
        features = np.pad(np.asarray(features), ((0, missing), (0, 0)))
        labels = np.pad(labels, (0, missing), constant_values=-1)
    return Batch(features, labels)
