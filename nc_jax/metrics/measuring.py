"""`measure`: all measures of features in any format."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ..checks import close_to, shown
from ..measures import MEASURES, SUMS, Measure, Statistics
from .arrays import check_real, rows_of
from .labelling import listed
from .passes import (
    FROM_COVARIANCE,
    Centers,
    Moments,
    add_moments,
    add_sums,
    centers_of,
    no_moments,
    sums_from_covariance,
    sums_of,
    to_statistics,
)
from .reading import Samples, read
from .results import WITH_CLASSIFIER, Measures, close_names

# Sums that need no class means, so that one pass is enough for them.
_OF_LOGITS = (
    "correct",
    "cross_entropy",
    "squared_error",
    "margin",
    "margin_min",
    "cosine_margin",
    "cosine_margin_min",
)


def measure(
    features: Any,
    labels: Any = None,
    classifier: Any = None,
    bias: Any = None,
    *,
    names: Sequence[str | Measure] | str | None = None,
    to_features: Callable[[Any], Any] | None = None,
    class_names: Sequence[Any] | None = None,
    ignore_index: Any = None,
    batch_size: int | None = None,
) -> Measures:
    """Measures of collapse of features (N, d) and, where given, of a classifier (K, d).

    Features are an array of NumPy, JAX, PyTorch, pandas or xarray, lists, or an array on disk: a
    memory map, or one of Zarr or h5py, which is read in slices. Or they are an iterable of batches
    (features, labels), such as a DataLoader; `to_features` maps its images to features. Everything
    is read twice, and summed in float64, whatever the dtype is; memory does not grow with N.

    An iterator, such as a generator, can be read once only. Measures that need two passes are then
    left out, and an error where they are named. Those that whiten features, such as `papyan_nc1`,
    come from the (d, d) covariance, which costs 2d² operations for each sample and loses 4 of 16
    digits where the variances of directions differ by a factor 1e4. To read twice, give a function
    that returns a new iterator. A DataLoader that augments its images gives two different sets: the
    means of the first pass are then not those of the second.

    Args:
        features: (N, d), or an iterable of batches, or a function that returns an iterator.
        labels: integers or strings (N,) or (N, 1), a categorical of pandas, or one-hot rows (N, K);
            None for an iterable.
        classifier: (K, d), or None for the measures of features only. Row c belongs to class c:
            integers count the rows, categories have their order, and other names are sorted.
        bias: (K,) or None.
        names: keys of `MEASURES`, or `Measure`s. None computes those that need no (d, d) matrix,
            "all" everything that applies.
        to_features: function from the first part of a batch, such as images, to features (B, d).
        class_names: names of the classes, in the order of the rows of the classifier.
        ignore_index: a label whose samples are left out, such as −1.
        batch_size: samples that are computed at once; by default 4 MiB of them in float64 on a CPU,
            and 128 MiB on an accelerator.

    Returns: a dict of floats and arrays, with `to_dataset`, and a table of equations as its text.

    Raises: ValueError for arrays of other shapes or kinds, numbers that are not finite, labels that
        are no class, a class without samples, or a measure that the data cannot give.

    Example: a class for each word, and features that have collapsed but for one sample.

        >>> features = np.array([[1.0, 0.0], [1.0, 0.2], [0.0, 1.0], [-1.0, -1.0]])
        >>> labels = ["cat", "cat", "dog", "bird"]
        >>> found = nc.metrics.measure(features, labels)
        >>> found.class_names, round(found["cdnv"], 5)
        (('bird', 'cat', 'dog'), 0.00124)
        >>> batches = lambda: ((features[i : i + 2], labels[i : i + 2]) for i in (0, 2))
        >>> abs(nc.metrics.measure(batches)["cdnv"] / found["cdnv"] - 1) < 1e-14
        True
    """
    classifier, bias = classifier_of(classifier, bias)
    samples = read(
        features,
        labels,
        classifier=classifier,
        class_names=class_names,
        ignore_index=ignore_index,
        to_features=to_features,
        batch_size=batch_size,
    )
    chosen = choose(names, classifier is not None, rereadable=samples.rereadable)
    statistics = statistics_of(samples, sums_needed(chosen), classifier, bias)
    chosen = _applicable(chosen, statistics, named=names not in (None, "all"))
    return as_result(evaluate(chosen, statistics), chosen, statistics, samples.classes.names)


def classifier_of(classifier: Any, bias: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Classifier and bias in float64."""
    if classifier is None:
        if bias is not None:
            raise ValueError("bias without a classifier: give both, or neither.")
        return None, None
    weights = np.asarray(rows_of("classifier", classifier))
    if weights.ndim != 2:
        raise ValueError(
            f"classifier has shape {weights.shape}: give two axes, (K, d), such as layer.weight."
        )
    _check_weights("classifier", weights)
    if len(weights) == 1:
        raise ValueError(
            "classifier has 1 row, of one output z for two classes: give those of the logits "
            "(-z/2, z/2), classifier = np.concatenate([-w, w]) / 2 and bias likewise."
        )
    if bias is None:
        return weights.astype(float), None
    offsets = np.asarray(rows_of("bias", bias))
    if offsets.shape == weights.shape[1:] != (len(weights),):
        raise ValueError(
            f"classifier has shape {weights.shape} and bias {offsets.shape}: give (K, d) and (K,), "
            "such as classifier.T where the classifier is (d, K)."
        )
    if offsets.shape != (len(weights),):
        raise ValueError(
            f"bias has shape {offsets.shape} for {len(weights)} rows of the classifier: give (K,)."
        )
    _check_weights("bias", offsets)
    return weights.astype(float), offsets.astype(float)


def _check_weights(name: str, weights: np.ndarray) -> None:
    """Raise ValueError unless these are finite real numbers."""
    check_real(name, weights.dtype)
    if not np.isfinite(weights.astype(float)).all():
        raise ValueError(f"{name} has NaN or infinities: give finite numbers.")


def choose(
    names: Sequence[str | Measure] | str | None, with_classifier: bool, *, rereadable: bool = True
) -> list[Measure]:
    """The measures of these names; where there are none, those that apply.

    Args: `rereadable` is whether the samples can be read twice.

    Raises: ValueError for a name that does not exist or is given twice, or a measure that needs a
    classifier or a second pass where there is none.
    """

    def lacking(measure: Measure) -> str:
        if not with_classifier and WITH_CLASSIFIER & set(measure.needs):
            return "a classifier (K, d): give it after the labels"
        if not rereadable and beyond_one_pass(measure, _OF_LOGITS):
            return (
                "two passes over the samples: give a list of batches, a DataLoader, or a function "
                "that returns a new iterator"
            )
        return ""

    if names is None or (isinstance(names, str) and names == "all"):
        wanted = [m for m in MEASURES.values() if names == "all" or m.default]
        return [m for m in wanted if not lacking(m)]
    if isinstance(names, (str, Measure)) or not isinstance(names, Iterable):
        raise ValueError(f'names = {shown(names)}: give a list of names, or "all".')
    chosen = [name if isinstance(name, Measure) else _registered(name) for name in names]
    if not chosen:
        raise ValueError("names = []: give one name or more, or None for the default measures.")
    keys = [measure.name for measure in chosen]
    for i, measure in enumerate(chosen):
        if measure.name in keys[:i]:
            raise ValueError(f"names: {measure.name} occurs twice; give each name once.")
        unknown = sorted(set(measure.needs) - {*SUMS, "classifier", "balanced"})
        if unknown:
            raise ValueError(
                f"names: {measure.name} needs {', '.join(unknown)}, and needs are keys of SUMS, "
                f'"classifier" and "balanced".{close_to(unknown[0], SUMS)}'
            )
    for reason in dict.fromkeys(filter(None, map(lacking, chosen))):
        without = ", ".join(m.name for m in chosen if lacking(m) == reason)
        raise ValueError(f"names: {without}: need {reason}.")
    return chosen


def beyond_one_pass(measure: Measure, also: Collection[str] = ()) -> list[str]:
    """What a measure needs and one pass over the samples does not give.

    Args: `also` are sums that the pass gives beside those of the covariance.
    """
    # Whitened sums come from the covariance of all classes, and not for each class.
    whole = {"covariance"} if measure.dims else FROM_COVARIANCE
    given = {"classifier", "balanced", *whole, *also}
    return [need for need in measure.needs if need not in given]


def _registered(name: object) -> Measure:
    if callable(name):
        function = getattr(name, "__name__", type(name).__name__)
        fix = f"give the Measure that it returns, such as {function}(2.0), or Measure(name, ...)"
        if function in MEASURES:
            fix = f'give its name, "{function}"'
        raise ValueError(f"names: {function} is a function: {fix}.")
    if not isinstance(name, str) or name not in MEASURES:
        raise ValueError(
            f"names: {shown(name)} is none of metrics.MEASURES.{close_names(name, MEASURES)}"
        )
    return MEASURES[name]


def _applicable(chosen: Sequence[Measure], statistics: Statistics, *, named: bool) -> list[Measure]:
    """Without the measures of classes of one size, where classes have several."""
    counts = np.asarray(statistics.counts)
    if np.all(counts == counts[0]):
        return list(chosen)
    wanting = [m.name for m in chosen if "balanced" in m.needs]
    if wanting and named:
        raise ValueError(
            f"names: {', '.join(wanting)}: need classes of one size, and there are classes of "
            f"{int(counts.min())} to {int(counts.max())} samples."
        )
    return [m for m in chosen if "balanced" not in m.needs]


def sums_needed(measures: Sequence[Measure]) -> tuple[str, ...]:
    """The keys of `SUMS` that these measures need, in one order, so that programs are shared."""
    return tuple(name for name in SUMS if any(name in m.needs for m in measures))


def statistics_of(
    samples: Samples,
    needed: Sequence[str],
    classifier: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> Statistics:
    """Statistics of all samples by one pass, or two where a sum needs the final means.

    Raises: ValueError for a class without samples, or a second pass of other labels than the first.
    """
    later = [name for name in needed if name != "covariance"]
    # Sums of logits alone need no second pass.
    single = not samples.rereadable or set(later) <= set(_OF_LOGITS)
    at_once = [name for name in later if single and name in _OF_LOGITS]
    later = [name for name in later if name not in at_once]
    covariance = "covariance" in needed or (single and len(later) > 0)
    moments, sums = first_pass(samples, at_once, classifier, bias, covariance=covariance)
    if later and single:
        sums |= sums_from_covariance(moments, later)
    elif later:
        centers = centers_of(moments, later, classifier=classifier, bias=bias)
        sums |= second_pass(samples, moments, centers, later)
    if "covariance" in needed:
        sums["covariance"] = moments.covariance
    return to_statistics(moments, sums, classifier=classifier, bias=bias)


def first_pass(
    samples: Samples,
    names: Sequence[str],
    classifier: np.ndarray | None,
    bias: np.ndarray | None,
    *,
    covariance: bool,
) -> tuple[Moments, dict[str, Any]]:
    """Moments of all samples, and sums that need no means; classes in their final order."""
    moments, sums, classes = None, None, samples.classes
    for batch in samples.batches():
        size, dim = classes.capacity, batch.features.shape[1]
        # JAX returns before it has computed: without this, batches that are read faster than
        # computed would fill the memory. One batch is read while another is computed.
        jax.block_until_ready(moments)
        if moments is None:
            moments = no_moments(size, dim, covariance=covariance)
        moments = add_moments(_with_capacity(moments, size), batch)
        if names:
            if not classes.known:
                raise ValueError(
                    "class_names are missing: of labels that are names, in an iterator that is "
                    "read once, give the names in the order of the rows of the classifier."
                )
            centers = _centers_without_means(moments, classifier, bias)
            sums = add_sums(sums, batch, centers, names)
    order = classes.settle()
    assert moments is not None  # `settle` refuses labels without samples.
    counts, pivots, offsets, scatter = (np.asarray(x)[order] for x in _of_classes(moments))
    moments = Moments(counts, pivots, offsets, scatter, moments.covariance)
    _check_finite(samples.name, moments, classes.names)
    return moments, dict(sums or {})


def _check_finite(name: str, moments: Moments, names: Sequence[Any]) -> None:
    """Raise ValueError for classes with NaN, of which NumPy decomposes no matrix."""
    finite = np.isfinite(moments.offsets).all(axis=1) & np.isfinite(moments.scatter)
    if not finite.all():
        wrong = listed([names[code] for code in np.flatnonzero(~finite).tolist()])
        raise ValueError(
            f"{name} of class {wrong} have NaN, infinities or numbers whose squares overflow: "
            f"give finite features, such as the rows np.isfinite({name}).all(axis=1)."
        )


def _centers_without_means(
    moments: Moments, classifier: np.ndarray | None, bias: np.ndarray | None
) -> Centers:
    pivots = np.zeros(moments.pivots.shape)
    return Centers(pivots, pivots, pivots[0], pivots, None, None, classifier, bias)


def _of_classes(moments: Moments) -> tuple[Any, Any, Any, Any]:
    """The arrays whose first axis has the classes."""
    return moments.counts, moments.pivots, moments.offsets, moments.scatter


def _with_capacity(moments: Moments, size: int) -> Moments:
    """The moments with further classes, which have no samples."""
    missing = size - len(moments.counts)
    if not missing:
        return moments
    counts, pivots, offsets, scatter = (
        np.pad(np.asarray(x), [(0, missing)] + [(0, 0)] * (x.ndim - 1))
        for x in _of_classes(moments)
    )
    return Moments(counts, pivots, offsets, scatter, moments.covariance)


def second_pass(
    samples: Samples,
    moments: Moments,
    centers: Centers,
    names: Sequence[str],
) -> dict[str, np.ndarray]:
    """Sums of samples around given centers; `moments` are those of the same samples.

    Raises: ValueError where the classes have other numbers of samples than in the first pass.
    """
    sums = sums_of(samples.batches(), centers, names)
    check_counts(samples.name, np.asarray(moments.counts).astype(int), samples.classes.counts)
    return sums


def check_counts(name: str, first: np.ndarray, second: np.ndarray) -> None:
    """Raise ValueError unless both passes have as many samples of each class.

    Args: `name` is that of the argument that was read twice.
    """
    if not np.array_equal(first, second):
        raise ValueError(
            f"{name}: the second pass has {second.tolist()} samples of the classes, and the first "
            f"{first.tolist()}: give batches that are the same each time."
        )


def evaluate(measures: Sequence[Measure], statistics: Statistics) -> dict[str, float | np.ndarray]:
    """Values of measures: floats, and arrays for those of classes and pairs."""
    values = {}
    # A ratio of two zeros is NaN without a warning.
    with np.errstate(all="ignore"):
        for chosen in measures:
            value = np.asarray(chosen.compute(statistics))
            values[chosen.name] = value if chosen.dims else float(value)
    return values


def as_result(
    values: Mapping[str, float | np.ndarray],
    measures: Iterable[Measure],
    statistics: Statistics,
    class_names: Sequence[Any],
) -> Measures:
    """The values with what is known of their measures and of the samples."""
    return Measures(
        values,
        {measure.name: measure for measure in measures},
        class_names=tuple(class_names),
        counts=np.asarray(statistics.counts).astype(int),
        dim=statistics.dim,
    )
