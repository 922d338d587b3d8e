"""Features of one or several layers: `measure_layers`, and the moments that `Monitor` sums too."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..checks import check_integer, is_traced, shown
from ..errors import ArgumentError
from ..measures import Measure
from .arrays import check_features, labels_of, rows_of
from .labelling import Classes, numbered
from .measuring import as_result, check_counts, choose, evaluate, sums_needed
from .passes import (
    Batch,
    Moments,
    add_moments,
    add_sums,
    centers_of,
    no_moments,
    to_statistics,
)
from .reading import pair_of
from .recording import Measured
from .results import WITH_CLASSIFIER, Measures

# Name of a layer that is given without a name.
UNNAMED = ""
# Largest d of a (d, d) covariance in float64: 2 GiB.
_LARGEST_COVARIANCE = 1 << 14
# The sum that the first pass gives; all others are summed in the second.
_FIRST_PASS = "covariance"


class LayerMoments:
    """Counts, means and scatters of each layer, of all batches since the start.

    Attributes:
        classes: names of the classes, and how labels name them.
        moments: by layer, in the order of the first batch; empty before it.
    """

    def __init__(self, classes: Classes, *, covariance: bool) -> None:
        self.classes, self._covariance = classes, covariance
        self._rows, self._dims = 0, {}
        self.moments: dict[str, Moments] = {}

    def reset(self) -> None:
        """Forget all samples; layers and widths must stay the same."""
        self.moments = {}
        self.classes.restart()

    def add(self, features: Any, labels: Any) -> None:
        """Add one batch; the computation may still run when this returns."""
        for layer, batch in self.batches(features, labels).items():
            if layer not in self.moments:
                num_classes, dim = len(self.classes.names), self._dims[layer]
                moments = no_moments(num_classes, dim, covariance=self._covariance)
                self.moments[layer] = moments
            self.moments[layer] = add_moments(self.moments[layer], batch)

    def batches(self, features: Any, labels: Any) -> dict[str, Batch]:
        """One batch as padded arrays by layer; ValueError for what does not fit to those before."""
        given = dict(features) if isinstance(features, Mapping) else {UNNAMED: features}
        if not given:
            raise ValueError("features have no layer: give the features (N, d) of one or more.")
        arrays = {layer: _matrix(layer, values) for layer, values in given.items()}
        self._check(arrays)
        count = len(next(iter(arrays.values())))
        codes = self.classes.encode(labels_of(labels))
        if len(codes) != count:
            raise ValueError(
                f"labels have {len(codes)} entries for {count} samples: give one label for each."
            )
        # Not before the labels are accepted: a refused batch fixes no width.
        self._dims = {layer: values.shape[1] for layer, values in arrays.items()}
        self.classes.count(codes)
        # Batches of all sizes up to the largest one so far share one program.
        self._rows = max(self._rows, 1 << (count - 1).bit_length())
        padded = np.full(self._rows, -1, np.int32)
        padded[:count] = codes
        return {layer: Batch(_padded(rows, self._rows), padded) for layer, rows in arrays.items()}

    def _check(self, arrays: Mapping[str, Any]) -> None:
        """Refuse other layers, widths and numbers of rows than those before."""
        if self._dims and list(arrays) != list(self._dims):
            raise ValueError(
                f"features are {_layers(arrays)}, and those before {_layers(self._dims)}: give the "
                "same layers in the same order."
            )
        if len({len(values) for values in arrays.values()}) > 1:
            sizes = ", ".join(f"{len(values)} in {layer!r}" for layer, values in arrays.items())
            raise ValueError(f"features have {sizes}: give as many samples in every layer.")
        for layer, values in arrays.items():
            name, dim = _name(layer), values.shape[1]
            if self._dims.get(layer, dim) != dim:
                raise ValueError(
                    f"{name} have {dim} columns, those before {self._dims[layer]}: give one width."
                )
            if self._covariance and dim > _LARGEST_COVARIANCE:
                raise ValueError(
                    f"{name} have {dim} columns: their covariance takes {dim**2 * 8 / 2**30:.0f} "
                    "GiB; average over positions, or give `names` of measures that need none."
                )


def classes_of(num_classes: int, class_names: Sequence[Any] | None, ignore_index: Any) -> Classes:
    """The classes 0..K−1, or those of K names.

    Raises: ValueError unless K is an integer from 2 on, with as many names, if any.
    """
    num_classes = check_integer("num_classes", num_classes, least=2)
    if class_names is None:
        return numbered(num_classes, ignore_index=ignore_index)
    # Names as a store has them in its attributes.
    names = np.asarray(class_names).tolist()
    if len(names) != num_classes:
        raise ArgumentError(
            f"class_names: {len(names)} names for {num_classes} classes; give one for each.",
            "class_names",
        )
    return Classes(names, ignore_index=ignore_index)


class Head(NamedTuple):
    """Classifier (K, d) and bias (K,) of a layer, in float64; None where there is none."""

    classifier: np.ndarray | None
    bias: np.ndarray | None


def heads_of(moments: Mapping[str, Moments], classifier: Any, bias: Any) -> dict[str, Head]:
    """The head of each layer: the given one of the last layer, and none of the others.

    Raises: ValueError unless classifier and bias have the shapes (K, d) and (K,).
    """
    if classifier is None and bias is not None:
        raise ValueError("bias without a classifier: give both, or neither.")
    heads = {layer: Head(None, None) for layer in moments}
    if classifier is None:
        return heads
    *_, last = moments
    shape = moments[last].pivots.shape
    weights = np.asarray(rows_of("classifier", classifier)).astype(float)
    offsets = None if bias is None else np.asarray(rows_of("bias", bias)).astype(float)
    if weights.shape != shape:
        advice = "; a kernel (d, K) is transposed, kernel.T" if weights.T.shape == shape else ""
        raise ValueError(
            f"classifier has shape {weights.shape}: give {shape}, a row for each class and a "
            f"column for each feature of the last layer{advice}."
        )
    if offsets is not None and offsets.shape != shape[:1]:
        raise ValueError(f"bias has shape {offsets.shape}: give {shape[:1]}, one for each class.")
    return {**heads, last: Head(weights, offsets)}


def applicable(
    measures: Sequence[Measure], moments: Moments, head: Head, *, named: bool
) -> list[Measure]:
    """The measures that can be computed of a layer.

    Raises: ValueError for one that cannot, if they were `named`.
    """
    counts, chosen = np.asarray(moments.counts), []
    for measure in measures:
        lacks = ""
        if head.classifier is None and WITH_CLASSIFIER & set(measure.needs):
            lacks = "a classifier: give classifier (K, d), and bias where there is one"
        elif "balanced" in measure.needs and np.ptp(counts) > 0:
            sizes = f"{counts.min():.0f} to {counts.max():.0f}"
            lacks = f"classes of one size, and there are {sizes} samples: leave it out of `names`"
        if not lacks:
            chosen.append(measure)
        elif named:
            raise ValueError(f"names: {measure.name} needs {lacks}.")
    return chosen


def measures_of(
    chosen: Sequence[Measure],
    moments: Moments,
    sums: Mapping[str, Any],
    head: Head,
    class_names: Sequence[Any],
) -> Measures:
    """The values of measures of one layer, from its moments and further sums over samples.

    NaN where features or classifier are not finite: NumPy's singular values would raise an error.
    """
    statistics = to_statistics(moments, sums, **head._asdict())
    values: dict[str, float | np.ndarray] = {m.name: np.nan for m in chosen if not m.dims}
    if is_finite(moments, head):
        values = evaluate(chosen, statistics)
    return as_result(values, chosen, statistics, class_names)


def is_finite(moments: Moments, head: Head) -> bool:
    """Whether no statistic of a layer is infinite or NaN."""
    arrays = (moments.scatter, moments.offsets, moments.pivots, *head)
    return all(np.all(np.isfinite(array)) for array in arrays if array is not None)


def measure_layers(
    batches: Iterable[Any],
    to_features: Callable[[Any], Any],
    classifier: Any = None,
    bias: Any = None,
    *,
    num_classes: int,
    names: Sequence[str | Measure] | str | None = None,
    class_names: Sequence[Any] | None = None,
    ignore_index: Any = None,
) -> Measured:
    """Measures of the features of several layers of a network, over all batches of a loader.

    Two passes, in which `to_features` is called for every batch: the second sums what depends on
    the class means of the first, such as distances from them. No features are stored, so that the
    memory does not grow with the samples.

    Args:
        batches: pairs of inputs and labels, such as a `DataLoader` or a list. Both passes must give
            the same samples, in any order: without random augmentation and without `drop_last`.
        to_features: function from the inputs of a batch to the features (N, d) of each layer by
            name, the last layer of the network last; or to the features of one layer. Arrays of
            NumPy, JAX or PyTorch.
        classifier: (K, d) of the last layer, and `bias` (K,); None leaves out the measures that
            need them. Other layers have no measures of a classifier.
        num_classes: K.
        names, class_names, ignore_index: as in `measure`.

    Returns: a dict of `Measures` by layer; of one layer without a name its `Measures`. `record` of
    a `Monitor` adds them to its data set.

    Raises: ValueError for batches that can be read once only or that change between the passes,
    for labels out of range, for a class without samples, and for a classifier of another shape.
    Features that are not finite give numbers that are NaN, as those of a `Monitor` do.

    Example: the within-class variation of inputs and of a hidden layer.

        >>> layers = lambda x: {"inputs": x, "hidden": np.maximum(x, 0)}
        >>> x = np.array([[-3.0, 1.0], [-1.0, 1.0], [-1.0, 2.0], [3.0, 2.0]])
        >>> batches = [(x[:2], np.array([0, 0])), (x[2:], np.array([1, 1]))]
        >>> values = nc.metrics.measure_layers(batches, layers, num_classes=2)
        >>> [round(values[layer]["ji_within_class_variation"], 2) for layer in values]
        [0.8, 0.6]
    """
    classes = classes_of(num_classes, class_names, ignore_index)
    if not isinstance(batches, Iterable) or isinstance(batches, Iterator):
        raise ValueError(
            f"batches = {shown(batches)}: give pairs of inputs and labels that can be read twice, "
            "such as a list or a DataLoader."
        )
    if not callable(to_features):
        raise ValueError(
            f"to_features = {shown(to_features)}: give a function from the inputs of a batch to "
            "features (N, d), or to a dict of them by layer."
        )
    wanted = choose(names, classifier is not None)
    samples = LayerMoments(classes, covariance=_FIRST_PASS in sums_needed(wanted))
    for inputs, labels in _pairs(batches):
        samples.add(to_features(inputs), labels)
    if not samples.moments:
        raise ValueError("batches are empty: give one pair of inputs and labels or more.")
    classes.settle()
    heads = heads_of(samples.moments, classifier, bias)
    *_, last = heads
    is_named = names is not None and names != "all"
    chosen = {
        layer: applicable(wanted, moments, heads[layer], named=is_named and layer == last)
        for layer, moments in samples.moments.items()
    }
    sums = _second_pass(to_features, batches, samples, chosen, heads)
    measured = {
        layer: measures_of(chosen[layer], moments, sums[layer], heads[layer], classes.names)
        for layer, moments in samples.moments.items()
    }
    return measured.get(UNNAMED, measured)


def _pairs(batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Inputs and labels of each batch."""
    return (pair_of(batch, number) for number, batch in enumerate(batches))


def _second_pass(
    to_features: Callable[[Any], Any],
    batches: Iterable[Any],
    samples: LayerMoments,
    chosen: Mapping[str, Sequence[Measure]],
    heads: Mapping[str, Head],
) -> dict[str, dict[str, Any]]:
    """All sums that the measures of each layer need, by layer."""
    second = {
        layer: [name for name in sums_needed(measures) if name != _FIRST_PASS]
        for layer, measures in chosen.items()
        # `measures_of` gives NaN for other layers, whose means cannot be whitened.
        if is_finite(samples.moments[layer], heads[layer])
    }
    sums: dict[str, dict[str, Any]] = {layer: {} for layer in chosen}
    second = {layer: names for layer, names in second.items() if names}
    if second:
        centers = {
            layer: centers_of(samples.moments[layer], names, **heads[layer]._asdict())
            for layer, names in second.items()
        }
        first = samples.classes.counts
        samples.classes.restart()
        for inputs, labels in _pairs(batches):
            by_layer = samples.batches(to_features(inputs), labels)
            for layer, names in second.items():
                before = sums[layer] or None
                sums[layer] = add_sums(before, by_layer[layer], centers[layer], names)
        check_counts("batches", first, samples.classes.counts)
    for layer, moments in samples.moments.items():
        if moments.covariance is not None:
            sums[layer] = {**sums[layer], _FIRST_PASS: moments.covariance}
    return sums


def _name(layer: str) -> str:
    return f"features[{layer!r}]" if layer else "features"


def _layers(names: Iterable[str]) -> str:
    """Layers as text for a message."""
    names = list(names)
    return (
        "one array" if names == [UNNAMED] else f"a dict of the layers {', '.join(map(repr, names))}"
    )


def _matrix(layer: str, values: Any) -> Any:
    """Features (N, d) as an array of NumPy or JAX."""
    name = _name(layer)
    if is_traced(values):
        raise ValueError(
            f"{name} are traced by jit, vmap or grad: return them from the compiled function, and "
            "give their values."
        )
    # An array of JAX stays one: the conversion would wait for its computation.
    rows = values if isinstance(values, jax.Array) else rows_of(name, values)
    check_features(name, rows)
    return rows


def _padded(features: Any, rows: int) -> Any:
    """A copy with so many rows.

    A copy in every case: the computation may still run when the caller changes its array in place.
    """
    if isinstance(features, jax.Array):
        return jnp.pad(features, ((0, rows - len(features)), (0, 0)))
    values = np.asarray(features)
    # JAX has neither the other byte order nor more than 64 bits.
    dtype = values.dtype.newbyteorder("=") if values.dtype.itemsize <= 8 else float
    padded = np.zeros((rows, values.shape[1]), dtype)
    padded[: len(values)] = values
    return padded
