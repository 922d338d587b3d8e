"""Samples that are not of the training distribution: their mean, and scores that detect them."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checks import check_integer, check_number
from ..geometry import split_at_label
from ..measures import Measure, Statistics
from .arrays import check_real, rows_of
from .measuring import as_result, classifier_of, evaluate, statistics_of
from .passes import Batch, moments_of, origin_and_means
from .reading import read
from .results import Measures
from .unlabelled import array_of, row_batches

_NECO = "(Ben Ammar et al. 2024)"
_SCORES = {
    "neco": f"‖P h‖/‖h‖, P on the first principal components of the training features {_NECO}",
    "neco_standardized": (
        "‖P x‖/‖x‖, x = features minus their mean over their standard deviation, of each "
        f"coordinate, P as in `neco` for them {_NECO}, code"
    ),
    "msp": "max_c softmax(z)_c (Hendrycks, Gimpel 2017)",
    "max_logit": "max_c z_c (Hendrycks et al. 2022)",
    "energy": "log Σ_c exp z_c (Liu et al. 2020)",
}
_RECALL = 0.95


class _Detector(NamedTuple):
    """What the scores compare a sample with: components of the training data, and the classifier.

    Attributes:
        origin, mean: (d,) a point near the features, and their mean minus it.
        components: (d, k) the first principal components.
        deviations: (d,) standard deviation of each coordinate, 1 where it is 0.
        standardized: (d, k) the first principal components of the standardised features.
        classifier: (K, d) or None.
        bias: (K,) or None.
    """

    origin: Float[np.ndarray, " d"]
    mean: Float[np.ndarray, " d"]
    components: Float[np.ndarray, "d k"]
    deviations: Float[np.ndarray, " d"]
    standardized: Float[np.ndarray, "d k"]
    classifier: Float[np.ndarray, "K d"] | None
    bias: Float[np.ndarray, " K"] | None


def out_of_distribution(
    features: Any,
    labels: Any,
    other_features: Any,
    classifier: Any = None,
    bias: Any = None,
    *,
    test_features: Any = None,
    components: int | None = None,
    batch_size: int | None = None,
) -> Measures:
    """NC5 of features out of the training distribution, and how well scores detect them.

    - `ammar_nc5`: mean_c |cos(μ_c, μ_other)|, not centred, and `ammar_nc5_by_class`; 0 where the
      mean of the other features is orthogonal to every class mean (Ben Ammar et al. 2024).
    - For each score, `NAME_auroc` and `NAME_fpr95`: the area under the ROC curve, and the share of
      other samples with a score at least as high as 95 % of those of the distribution.

    Scores are large in the distribution. `neco` is ‖P h‖/‖h‖ with the projection P onto the first k
    principal components of the training features (Ben Ammar et al. 2024, eq. 6). In their code
    features are standardised first, coordinate by coordinate, which is `neco_standardized`; for
    some architectures the paper multiplies by the largest logit, which is left out here. With a
    classifier, logits z give `msp`, max_c softmax(z)_c (Hendrycks, Gimpel 2017), `max_logit`,
    max_c z_c (Hendrycks et al. 2022), and `energy`, log Σ_c exp z_c (Liu et al. 2020). `msp` is
    ranked by the sum of the other probabilities, which does not round to 1.

    Args:
        features, labels: of the training data, as in `measure`.
        other_features: (M, d), an array of any format of `measure`, in memory or on disk.
        classifier: (K, d) or None.
        bias: (K,) or None.
        test_features: (N', d) held-out samples of the distribution, whose scores are compared with
            those of the other samples. None compares the training features themselves.
        components: k, K−1 by default, and d at most. The paper chooses it by experiment.
        batch_size: samples that are computed at once.

    Returns: a dict of floats and arrays like that of `measure`.

    Raises: ValueError as `measure`, and for features of different numbers of columns, or
        `components` below 1 or above d.

    Example: collapsed features along two axes, and others along the third.

        >>> features, labels = np.eye(3)[[0, 0, 1, 1]], np.array([0, 0, 1, 1])
        >>> other = np.array([[0.0, 0.0, 2.0], [0.1, -0.1, 1.0]])
        >>> found = nc.metrics.out_of_distribution(features, labels, other)
        >>> round(found["ammar_nc5"], 4), found["neco_auroc"], found["neco_fpr95"]
        (0.0333, 1.0, 0.0)
    """
    classifier, bias = classifier_of(classifier, bias)
    samples = read(features, labels, classifier=classifier, batch_size=batch_size)
    if test_features is None and not samples.rereadable:
        raise ValueError(
            "features: an iterator can be read once, and its scores need a second pass: give "
            "test_features, a list of batches, or a function that returns a new iterator."
        )
    statistics = statistics_of(samples, ["covariance"])
    other = _of_dim("other_features", other_features, statistics.dim)
    if components is not None:
        check_integer("components", components, most=statistics.dim)
    number = min(components or statistics.num_classes - 1, statistics.dim)
    detector = _detector(statistics, number, classifier, bias)
    inside = samples.batches()
    if test_features is not None:
        tested = _of_dim("test_features", test_features, statistics.dim)
        inside = _finite("test_features", row_batches(tested, batch_size=batch_size))
    scores = _scores(inside, detector)
    others = _finite("other_features", row_batches(other, batch_size=batch_size))
    other_scores = _scores(others, detector)
    mean = _mean_of(row_batches(other, batch_size=batch_size), statistics.dim)
    measures = [*_nc5(mean), *_detections(scores, other_scores)]
    values = evaluate(measures, statistics)
    return as_result(values, measures, statistics, samples.classes.names)


def auroc(scores: Any, other_scores: Any) -> float:
    """P(s > s') + P(s = s')/2 of a score s of the distribution and another s'.

    This is the area under the ROC curve (Mann, Whitney 1947).

    Args:
        scores: (N,) of samples of the distribution.
        other_scores: (M,) of other samples.

    Returns: from 0 to 1; NaN where a score is NaN.

    Raises: ValueError for no scores, more axes than one, or anything but real numbers.

    Example: of four pairs two are in the right order, and one is a tie.

        >>> nc.metrics.auroc(np.array([1.0, 3.0]), np.array([1.0, 2.0]))
        0.625
    """
    scores, other_scores = _checked(scores, "scores"), _checked(other_scores, "other_scores")
    if np.isnan(scores).any() or np.isnan(other_scores).any():
        return math.nan
    ordered = np.sort(other_scores)
    below = np.searchsorted(ordered, scores, side="left")
    up_to = np.searchsorted(ordered, scores, side="right")
    # Sums of integers, which are exact.
    return float((np.sum(below) + np.sum(up_to)) / (2 * len(scores) * len(ordered)))


def false_positive_rate(scores: Any, other_scores: Any, *, recall: float = _RECALL) -> float:
    """Share of other samples that reach the threshold which a share `recall` of scores reaches.

    The threshold t is the largest with P(s >= t) >= recall; the result is P(s' >= t). At a recall
    of 0.95 this is FPR95 (Liang, Li, Srikant 2018).

    Args:
        scores: (N,) of samples of the distribution.
        other_scores: (M,) of other samples.
        recall: above 0, and 1 at most.

    Returns: from 0 to 1; NaN where a score is NaN.

    Raises: ValueError for scores that `auroc` refuses, or another recall.

    Example: half of the scores reach 3, and one of four others.

        >>> scores, others = np.array([1.0, 3.0]), np.array([0.0, 1.0, 2.0, 3.0])
        >>> nc.metrics.false_positive_rate(scores, others, recall=0.5)
        0.25
        >>> nc.metrics.false_positive_rate(scores, others)
        0.75
    """
    scores, other_scores = _checked(scores, "scores"), _checked(other_scores, "other_scores")
    check_number("recall", recall, above_zero=True, scalar=True)
    if recall > 1:
        raise ValueError(f"recall = {recall}: give a share above 0 and up to 1, such as 0.95.")
    if np.isnan(scores).any() or np.isnan(other_scores).any():
        return math.nan
    # The least number whose share, as a float, reaches the recall. `ceil` may be one too high.
    needed = math.ceil(recall * len(scores))
    needed -= (needed - 1) / len(scores) >= recall
    threshold = np.sort(scores)[len(scores) - needed]
    return float(np.mean(other_scores >= threshold))


def _checked(scores: Any, name: str) -> np.ndarray:
    """The scores as an array of NumPy."""
    array = np.asarray(rows_of(name, scores))
    check_real(name, array.dtype)
    if array.ndim != 1 or not len(array):
        raise ValueError(
            f"{name} have shape {array.shape}: give the score of each sample, (N,), of one sample "
            "or more."
        )
    return array


def _of_dim(name: str, values: Any, dim: int) -> Any:
    """Rows with `dim` columns, in memory or on disk."""
    rows = array_of(name, values)
    if rows.shape[1] != dim:
        raise ValueError(
            f"{name} have {rows.shape[1]} columns, and features {dim}: give features of one layer."
        )
    return rows


def _finite(name: str, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches; ValueError for one with numbers that are not finite, of which no rank exists."""
    for batch in batches:
        if not np.isfinite(np.asarray(batch.features)).all():
            raise ValueError(
                f"{name} have NaN or infinities: give finite features, such as the rows "
                f"np.isfinite({name}).all(axis=1)."
            )
        yield batch


def _detector(
    s: Statistics, number: int, classifier: np.ndarray | None, bias: np.ndarray | None
) -> _Detector:
    """The scores' detector, with `number` principal components of the training features."""
    rows = np.sqrt(s.counts)[:, None] * s.centered_by_samples
    scatter = s.sums["covariance"] + rows.T @ rows
    deviations = np.sqrt(np.diagonal(scatter) / s.count)
    deviations = np.where(deviations == 0, 1, deviations)
    # `eigh` sorts by size, smallest first.
    components, standardized = (
        np.linalg.eigh(matrix)[1][:, ::-1][:, :number]
        for matrix in (scatter, scatter / np.outer(deviations, deviations))
    )
    return _Detector(
        s.origin, s.sample_mean, components, deviations, standardized, classifier, bias
    )


def _scores(batches: Iterable[Batch], detector: _Detector) -> dict[str, np.ndarray]:
    """The scores of all samples by name, in memory."""
    parts = []
    with jax.enable_x64(True):
        for batch in batches:
            found = jax.device_get(_scores_of(batch.features, detector))
            counted = np.asarray(batch.labels) >= 0
            parts.append({name: values[counted] for name, values in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@jax.jit
def _scores_of(features: Array, detector: _Detector) -> dict[str, Array]:
    x = features.astype(float)
    centred = (x - detector.origin[None]) - detector.mean[None]
    scores = {
        "neco": _projected_share(x, detector.components),
        "neco_standardized": _projected_share(
            centred / detector.deviations[None], detector.standardized
        ),
    }
    if detector.classifier is None:
        return scores
    logits = x @ detector.classifier.T
    if detector.bias is not None:
        logits = logits + detector.bias[None]
    largest = jnp.max(logits, axis=1)
    _, others = split_at_label(logits, jnp.argmax(logits, axis=1))
    # max softmax = 1/(1 + S) falls with S = Σ of exp(z_j − max z) over all others. Close to 1 it
    # would be rounded, and many samples would have one value.
    scores["msp"] = largest - jax.nn.logsumexp(others, axis=1)
    scores["max_logit"] = largest
    scores["energy"] = jax.nn.logsumexp(logits, axis=1)
    return scores


def _projected_share(features: Array, components: Array | np.ndarray) -> Array:
    """‖P h‖/‖h‖ of each row."""
    return jnp.linalg.norm(features @ components, axis=1) / jnp.linalg.norm(features, axis=1)


def _mean_of(batches: Iterable[Batch], dim: int) -> Float[np.ndarray, " d"]:
    """Mean of all rows."""
    moments = moments_of(batches, dim, covariance=False)
    # A difference of infinities is NaN without a warning.
    with np.errstate(all="ignore"):
        origin, (mean,) = origin_and_means(moments)
        return origin + mean


def _nc5(other_mean: Float[np.ndarray, " d"]) -> list[Measure]:
    """NC5, and its terms by class."""

    def by_class(s: Statistics) -> np.ndarray:
        means = s.origin + s.means
        norms = np.linalg.norm(means, axis=1) * np.linalg.norm(other_mean)
        return np.abs(means @ other_mean) / norms

    equation = "|cos(μ_c, μ_other)|, μ_other the mean of the other features, not centred"
    return [
        Measure("ammar_nc5", f"mean_c {equation} {_NECO}", lambda s: np.mean(by_class(s))),
        Measure("ammar_nc5_by_class", f"{equation} {_NECO}", by_class, dims=("class",)),
    ]


def _detections(
    scores: dict[str, np.ndarray], other_scores: dict[str, np.ndarray]
) -> list[Measure]:
    """AUROC and FPR95 of each score."""
    measures = []
    for name in (name for name in _SCORES if name in scores):
        for key, what, rate in (
            ("auroc", "area under the ROC curve", auroc),
            ("fpr95", "false positives at a recall of 95 %", false_positive_rate),
        ):
            pair = scores[name], other_scores[name]
            measures.append(
                Measure(
                    f"{name}_{key}",
                    f"{what} of the score {_SCORES[name]}",
                    lambda _, rate=rate, pair=pair: rate(*pair),
                )
            )
    return measures
