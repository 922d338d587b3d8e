"""Collapse of held-out features around the class means of training data."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..measures import Measure, Statistics
from ..measures.classical import cdnv, papyan_nc1
from ..measures.fit import accuracy, accuracy_by_class, ncc_accuracy, ncc_accuracy_by_class
from .measuring import as_result, classifier_of, evaluate, first_pass, second_pass
from .passes import Moments, centers_of, to_statistics
from .reading import Samples, read
from .results import Measures

_NCC = "share of the {kind} samples with argmin_c ‖h_i − μ_c‖ = y_i, μ_c of the training data"
_ACCURACY = "share of the {kind} samples with argmax_c z_ic = y_i"
_GALANTI = "(Galanti, György, Hutter 2022)"


def held_out(
    features: Any,
    labels: Any,
    test_features: Any,
    test_labels: Any,
    classifier: Any = None,
    bias: Any = None,
    *,
    batch_size: int | None = None,
) -> Measures:
    """Collapse of held-out features: around their own means, and around those of training data.

    With class means μ_c, covariance Σ_B and M of the training data, the result has, for the
    training data (`train_`) and the held-out data (`test_`):

    - `ncc_accuracy`, `ncc_accuracy_by_class`: argmin_c ‖h_i − μ_c‖ = y_i (Galanti, György, Hutter
      2022);
    - `nc1`: tr(Σ⁺_B mean_i (h_i − μ_{y_i})(h_i − μ_{y_i})ᵀ). That of the held-out data is 0 only
      where they collapse to the means of the training data: the strong test collapse of Hui,
      Belkin, Nakkiran 2022;
    - `cdnv`: with the class means and variances of the samples themselves. That of the held-out
      data is 0 where each class collapses to any point: weak test collapse;
    - `accuracy`, `accuracy_by_class`: of the classifier, where it is given;

    and `test_mean_shift`: mean_c ‖μ_c^test − μ_c‖² / mean_c ‖M_c‖².

    Args:
        features, labels: of the training data, as in `measure`.
        test_features, test_labels: of the held-out data; each class must have a sample.
        classifier: (K, d) or None.
        bias: (K,) or None.
        batch_size: samples that are computed at once.

    Returns: a dict of floats and arrays like that of `measure`; `counts` are of the training data.

    Raises: ValueError as `measure`, for data that can be read only once or that change between two
        passes, or for held-out labels without a sample of each class of the training data.

    Example: one of four held-out samples is nearer to the mean of the other class.

        >>> features, labels = np.array([[1.0], [3.0], [-1.0], [-3.0]]), ["a", "a", "b", "b"]
        >>> test_features = np.array([[1.0], [-0.5], [-2.0], [-4.0]])
        >>> found = nc.metrics.held_out(features, labels, test_features, labels)
        >>> found["train_ncc_accuracy"], found["test_ncc_accuracy"]
        (1.0, 0.75)
        >>> round(found["train_nc1"], 6), round(found["test_nc1"], 6)
        (0.25, 0.703125)
    """
    classifier, bias = classifier_of(classifier, bias)
    train = read(features, labels, classifier=classifier, batch_size=batch_size)
    moments = _moments_of(train)
    names = tuple(train.classes.names)
    test = read(
        test_features, test_labels, classifier=classifier, class_names=names, batch_size=batch_size,
        prefix="test_", source="the classes of the training data",
    )  # fmt: skip
    test_moments = _moments_of(test)
    if test_moments.pivots.shape != moments.pivots.shape:
        raise ValueError(
            f"test_features have {test_moments.pivots.shape[1]} columns, and features "
            f"{moments.pivots.shape[1]}: give features of one layer."
        )
    needed = ["center_errors", "whitened", *(() if classifier is None else ("correct",))]
    centers = centers_of(moments, needed, classifier=classifier, bias=bias)
    train_statistics = to_statistics(moments, second_pass(train, moments, centers, needed))
    of_test_samples = second_pass(test, test_moments, centers, needed)
    test_statistics = to_statistics(test_moments, of_test_samples)
    given = classifier is not None
    of_train = _measures_of("train", with_classifier=given)
    of_test = [*_measures_of("test", with_classifier=given), _mean_shift(train_statistics)]
    values = evaluate(of_train, train_statistics) | evaluate(of_test, test_statistics)
    return as_result(values, [*of_train, *of_test], train_statistics, names)


def _moments_of(samples: Samples) -> Moments:
    if not samples.rereadable:
        raise ValueError(
            f"{samples.name}: an iterator can be read once, and two passes are needed: give a "
            "list of batches, a DataLoader, or a function that returns a new iterator."
        )
    moments, _ = first_pass(samples, (), None, None, covariance=False)
    return moments


def _measures_of(kind: str, *, with_classifier: bool) -> list[Measure]:
    """Measures of training data or of held-out data, whose sums are around training means."""
    which = {"train": "training", "test": "held-out"}[kind]
    around = "around μ_c, with Σ_B, of the training data"
    nc1 = f"tr(Σ_W Σ_B⁺), Σ_W of the {which} samples {around} (Hui, Belkin, Nakkiran 2022)"
    spread = f"`cdnv` of the {which} samples with their own class means {_GALANTI}"
    ncc = _NCC.format(kind=which)
    table: list[tuple[str, str, Callable[[Statistics], Any], tuple[str, ...]]] = [
        ("ncc_accuracy", f"{ncc} {_GALANTI}", ncc_accuracy, ()),
        ("ncc_accuracy_by_class", f"{ncc}, by class", ncc_accuracy_by_class, ("class",)),
        ("nc1", nc1, papyan_nc1, ()),
        ("cdnv", spread, cdnv, ()),
    ]
    if with_classifier:
        equation = _ACCURACY.format(kind=which)
        table.append(("accuracy", equation, accuracy, ()))
        table.append(("accuracy_by_class", f"{equation}, by class", accuracy_by_class, ("class",)))
    return [
        Measure(f"{kind}_{name}", equation, compute, dims=dims)
        for name, equation, compute, dims in table
    ]


def _mean_shift(train: Statistics) -> Measure:
    """Distance of held-out class means from those of the training data."""

    def compute(test: Statistics) -> np.floating:
        shift = (test.origin - train.origin) + (test.means - train.means)
        return np.sum(shift**2) / np.sum(train.centered**2)

    equation = "mean_c ‖μ_c^test − μ_c‖² / mean_c ‖M_c‖², M_c of the training data"
    return Measure("test_mean_shift", equation, compute)
