"""Two passes over batches of features, in float64, with memory that does not grow with the samples.

The first pass gives counts, means and scatters of the classes; the second sums what depends on the
final means. Each batch is one compiled program, and all batches have one shape, since the last one
is padded by rows of the class −1.

Differences are formed before anything is summed. Each class has a pivot, its first sample, and the
program sums h − pivot: a difference of two floats that are close is exact, so that a spread of 1e-9
within a class, or an offset of 1e3 common to all features, costs no digit. The package computes
in float64 whatever JAX is set to (`jax.enable_x64` in these functions alone): features in float32
have rounding errors of their own size in float32 sums.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Num

from ..losses import CrossEntropy, SquaredError
from ..measures import Statistics, logit_margins
from ..measures.streaming import whitening_of

FROM_COVARIANCE = ("covariance", "whitened", "whitened_by_samples")
"""The keys of `SUMS` that a single pass gives, by `sums_from_covariance`."""
OF_CLASSIFIER = frozenset(
    {
        "mismatches", "correct", "cross_entropy", "squared_error", "margin", "margin_min",
        "cosine_margin", "cosine_margin_min", "centered_cosine_margin",
        "centered_cosine_margin_min",
    }
)  # fmt: skip
"""The keys of `SUMS` that need a classifier."""


class Batch(NamedTuple):
    """Rows of features and their classes.

    Attributes:
        features: (B, d), of any floating dtype.
        labels: (B,) classes 0..K−1; −1 for padding and rows that are left out.
    """

    features: Num[Array | np.ndarray, "B d"]
    labels: Integer[Array | np.ndarray, " B"]


class Moments(eqx.Module):
    """Counts, means and scatters of the samples so far.

    Attributes:
        counts: (K,).
        pivots: (K, d) the first sample of each class.
        offsets: (K, d) class means minus pivots.
        scatter: (K,) Σ ‖h_i − μ_c‖².
        covariance: (d, d) Σ (h_i − μ_{y_i})(h_i − μ_{y_i})ᵀ, or None where no measure needs it.
    """

    counts: Float[Array | np.ndarray, " K"]
    pivots: Float[Array | np.ndarray, "K d"]
    offsets: Float[Array | np.ndarray, "K d"]
    scatter: Float[Array | np.ndarray, " K"]
    covariance: Float[Array | np.ndarray, "d d"] | None


class Centers(eqx.Module):
    """What the second pass subtracts, projects on and compares with.

    Attributes:
        pivots, offsets: of `Moments`.
        origin: (d,) near all features.
        means: (K, d) class means minus `origin`.
        whitening: (d, r) Σ_B^{+½}, or None; `whitening_by_samples` likewise.
        classifier: (K, d) or None.
        bias: (K,) or None.
    """

    pivots: Float[Array | np.ndarray, "K d"]
    offsets: Float[Array | np.ndarray, "K d"]
    origin: Float[Array | np.ndarray, " d"]
    means: Float[Array | np.ndarray, "K d"]
    whitening: Float[Array | np.ndarray, "d r"] | None
    whitening_by_samples: Float[Array | np.ndarray, "d r"] | None
    classifier: Float[Array | np.ndarray, "K d"] | None
    bias: Float[Array | np.ndarray, " K"] | None


def no_moments(num_classes: int, dim: int, *, covariance: bool) -> Moments:
    """Moments of no samples."""
    # NumPy's zeros: each of JAX would be a further program.
    vector, matrix = np.zeros(num_classes), np.zeros((num_classes, dim))
    return Moments(vector, matrix, matrix, vector, np.zeros((dim, dim)) if covariance else None)


def add_moments(moments: Moments, batch: Batch) -> Moments:
    """Moments of the samples so far and of one batch (Chan, Golub, LeVeque 1983)."""
    with jax.enable_x64(True):
        return _add_moments(moments, *batch)


def moments_of(batches: Iterable[Batch], dim: int, *, covariance: bool) -> Moments:
    """Moments of all batches of one class, in one pass."""
    moments = no_moments(1, dim, covariance=covariance)
    for batch in batches:
        # JAX returns before it has computed: without this, batches that are read faster than
        # computed would fill the memory. One batch is read while another is computed.
        jax.block_until_ready(moments)
        moments = add_moments(moments, batch)
    return moments


def add_sums(
    sums: Mapping[str, Float[Array, "..."]] | None,
    batch: Batch,
    centers: Centers,
    names: Sequence[str],
) -> dict[str, Float[Array, "..."]]:
    """The sums so far (None before the first batch) plus those of a batch; keys of `SUMS`."""
    if sums is None:
        nothing = {name: np.inf if name.endswith("_min") else 0.0 for name in names}
        before: dict[str, Any] = {n: np.full(len(centers.means), x) for n, x in nothing.items()}
    else:
        before = dict(sums)
    with jax.enable_x64(True):
        return _add_sums(before, *batch, centers)


def sums_of(
    batches: Iterable[Batch], centers: Centers, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """The sums `names` of all batches around given centers, in one pass."""
    sums = None
    for batch in batches:
        jax.block_until_ready(sums)  # as in `moments_of`
        sums = add_sums(sums, batch, centers, names)
    return {name: np.asarray(value) for name, value in (sums or {}).items()}


def centers_of(
    moments: Moments,
    names: Sequence[str],
    *,
    classifier: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> Centers:
    """The centers of the second pass, from the moments of all samples."""
    origin, means = origin_and_means(moments)
    counts, scatter = np.asarray(moments.counts), np.asarray(moments.scatter)
    # Means have rounding errors relative to the deviations that they average.
    deviation = float(np.sqrt(np.max(scatter / np.maximum(counts, 1))))

    def around(weights: np.ndarray) -> np.ndarray:
        return whitening_of(means - weights @ means, weights, deviation)

    return Centers(
        np.asarray(moments.pivots),
        np.asarray(moments.offsets),
        origin,
        means,
        around(np.full(len(means), 1 / len(means))) if "whitened" in names else None,
        around(counts / counts.sum()) if "whitened_by_samples" in names else None,
        classifier,
        bias,
    )


def origin_and_means(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """The first pivot, (d,), and the class means minus it, (K, d)."""
    pivots, offsets = np.asarray(moments.pivots), np.asarray(moments.offsets)
    return pivots[0], (pivots - pivots[0]) + offsets


def to_statistics(
    moments: Moments,
    sums: Mapping[str, Any],
    *,
    classifier: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> Statistics:
    """What the measures are computed from: finished moments and sums, as arrays of NumPy."""
    origin, means = origin_and_means(moments)
    return Statistics(
        np.asarray(moments.counts), origin, means, np.asarray(moments.scatter),
        {name: np.asarray(value) for name, value in sums.items()},
        classifier=classifier, bias=bias,
    )  # fmt: skip


def sums_from_covariance(moments: Moments, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The sums `names` from the moments of one pass with a covariance, each over all classes.

    For samples that can be read once only. tr(Pᵀ C P) of the covariance C replaces the sum of
    ‖P(h − μ)‖², and loses the digits by which the scatter in other directions exceeds that in the
    directions of the class means: 4 of 16 where the variances differ by a factor 1e4.

    Raises: KeyError for a sum that no single pass gives: see `FROM_COVARIANCE`.
    """
    centers = centers_of(moments, names)
    projections = {
        "whitened": centers.whitening, "whitened_by_samples": centers.whitening_by_samples
    }  # fmt: skip
    covariance = np.asarray(moments.covariance)
    sums = {}
    for name in names:
        if name == "covariance":
            sums[name] = covariance
        else:
            projection = projections[name]
            sums[name] = np.asarray(np.sum(projection * (covariance @ projection)))
    return sums


@jax.jit
def _add_moments(moments: Moments, features: Array, labels: Array) -> Moments:
    num_classes = len(moments.counts)
    x, classes = _counted(features, labels, num_classes)
    first = jax.ops.segment_min(jnp.arange(len(x)), classes, num_classes + 1)[:-1]
    new = (moments.counts == 0) & (first < len(x))
    pivots = jnp.where(new[:, None], x[jnp.minimum(first, len(x) - 1)], moments.pivots)
    shifted = x - _rows(pivots, classes)
    counts = _class_sums(jnp.ones((len(x), 1)), classes, num_classes)[:, 0]
    means = _class_sums(shifted, classes, num_classes) / jnp.maximum(counts, 1)[:, None]
    deviations = shifted - _rows(means, classes)
    scatter = _class_sums(jnp.sum(deviations**2, axis=1)[:, None], classes, num_classes)[:, 0]
    total = jnp.maximum(moments.counts + counts, 1)
    delta, weight = means - moments.offsets, moments.counts * counts / total
    covariance = moments.covariance
    if covariance is not None:
        covariance += deviations.T @ deviations + (weight[:, None] * delta).T @ delta
    return Moments(
        moments.counts + counts,
        pivots,
        moments.offsets + delta * (counts / total)[:, None],
        moments.scatter + scatter + weight * jnp.sum(delta**2, axis=1),
        covariance,
    )


@jax.jit
def _add_sums(
    sums: dict[str, Array], features: Array, labels: Array, centers: Centers
) -> dict[str, Array]:
    num_classes = len(centers.means)
    x, classes = _counted(features, labels, num_classes)
    samples = _Samples(x, classes, centers)

    def added(name: str, total: Array) -> Array:
        values = getattr(samples, name.removesuffix("_min"))
        if name.endswith("_min"):
            smallest = jax.ops.segment_min(values, classes, num_classes + 1)[:-1]
            return jnp.minimum(total, smallest)
        return total + _class_sums(values[:, None], classes, num_classes)[:, 0]

    return {name: added(name, total) for name, total in sums.items()}


class _Samples:
    """What the second pass sums, of each sample of a batch; computed when it is first read."""

    def __init__(self, features: Array, classes: Array, centers: Centers) -> None:
        self.features, self.classes = features, classes
        # A sum is asked for only where the arrays that it needs are given.
        self.centers: Any = centers
        self.mean_of_means = jnp.mean(centers.means, axis=0)
        self.centered_means = centers.means - self.mean_of_means[None]

    @functools.cached_property
    def deviations(self) -> Array:
        pivots, offsets = self.centers.pivots, self.centers.offsets
        return (self.features - _rows(pivots, self.classes)) - _rows(offsets, self.classes)

    @functools.cached_property
    def from_global(self) -> Array:
        return (self.features - self.centers.origin[None]) - self.mean_of_means[None]

    @functools.cached_property
    def nearest(self) -> Array:
        # ½‖h‖² − ½‖h − μ_c‖² with the global mean as origin, which avoids cancellation.
        nearness = self.from_global @ self.centered_means.T
        nearness -= jnp.sum(self.centered_means**2, axis=1)[None] / 2
        return _largest(nearness)

    @functools.cached_property
    def products(self) -> Array:
        return self.features @ self.centers.classifier.T

    @functools.cached_property
    def logits(self) -> Array:
        bias = self.centers.bias
        return self.products if bias is None else self.products + bias[None]

    @functools.cached_property
    def within(self) -> Array:
        return jnp.linalg.norm(self.deviations, axis=1)

    @functools.cached_property
    def around_global(self) -> Array:
        return jnp.linalg.norm(self.from_global, axis=1)

    @functools.cached_property
    def whitened(self) -> Array:
        return jnp.sum((self.deviations @ self.centers.whitening) ** 2, axis=1)

    @functools.cached_property
    def whitened_by_samples(self) -> Array:
        return jnp.sum((self.deviations @ self.centers.whitening_by_samples) ** 2, axis=1)

    @functools.cached_property
    def center_errors(self) -> Array:
        return _differ(self.nearest, self.classes.astype(float))

    @functools.cached_property
    def mismatches(self) -> Array:
        return _differ(self.nearest, _largest(self.logits))

    @functools.cached_property
    def correct(self) -> Array:
        return 1 - _differ(_largest(self.logits), self.classes.astype(float))

    @functools.cached_property
    def cross_entropy(self) -> Array:
        return CrossEntropy().value(self.logits, self.classes)

    @functools.cached_property
    def squared_error(self) -> Array:
        return SquaredError().value(self.logits, self.classes)

    @functools.cached_property
    def margin(self) -> Array:
        return logit_margins(self.logits, self.classes)

    @functools.cached_property
    def cosine_margin(self) -> Array:
        cosines = _cosines(self.products, self.features, self.centers.classifier)
        return logit_margins(cosines, self.classes)

    @functools.cached_property
    def centered_cosine_margin(self) -> Array:
        classifier = self.centers.classifier
        centered = classifier - jnp.mean(classifier, axis=0, keepdims=True)
        cosines = _cosines(self.from_global @ centered.T, self.from_global, centered)
        return logit_margins(cosines, self.classes)


def _counted(features: Array, labels: Array, num_classes: int) -> tuple[Array, Array]:
    """Features in float64 and classes; rows that are left out are 0 and have a further class K.

    Their class is dropped after each sum. They are 0 because they may hold NaN.
    """
    left_out = labels < 0
    features = jnp.where(left_out[:, None], 0.0, features.astype(float))
    return features, jnp.where(left_out, num_classes, labels.astype(int))


def _rows(matrix: Array, classes: Array) -> Array:
    """The row of each sample's class; zeros for the class K of rows that are left out."""
    return matrix.at[classes].get(mode="fill", fill_value=0)


def _class_sums(values: Array, classes: Array, num_classes: int) -> Array:
    """Σ of the rows (B, m) of each class, (K, m)."""
    # A product with one-hot labels is faster for 10 classes and slower for 100. It would also carry
    # a NaN of one class into the sums of all.
    return jax.ops.segment_sum(values, classes, num_classes + 1)[:-1]


def _largest(scores: Array) -> Array:
    """Class of the largest score as a float; NaN where a score is not finite."""
    known = jnp.all(jnp.isfinite(scores), axis=1)
    return jnp.where(known, jnp.argmax(scores, axis=1).astype(float), jnp.nan)


def _differ(left: Array, right: Array) -> Array:
    """1 where two classes differ, 0 where they agree, NaN where one is NaN."""
    return jnp.where(jnp.isnan(left + right), jnp.nan, (left != right).astype(float))


def _cosines(products: Array, features: Array, classifier: Array) -> Array:
    """Products of features and classifiers, (B, K), over the lengths of both."""
    lengths = jnp.linalg.norm(features, axis=1)[:, None], jnp.linalg.norm(classifier, axis=1)[None]
    return products / lengths[0] / lengths[1]
