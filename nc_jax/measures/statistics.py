"""The statistics of features that every measure of collapse is a function of."""

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from ..geometry import squared_distances

# An array of NumPy or of JAX. Both follow the array API standard, so that a formula is written once
# and runs in NumPy on the numbers of a finished pass, without compilation, and in JAX under jit.
Array = Any
# Positions in `Statistics.vectors`: M, W̃ and W.
MEANS, CENTERED, CLASSIFIER = 0, 1, 2

Result = TypeVar("Result")


class Statistics:
    """Counts, means and sums of each class, with the classifier where there is one.

    A measure is a function of a `Statistics`. It calls array functions through `xp`, the namespace
    of the arrays (NumPy or `jax.numpy`). Properties are computed when a measure first reads them.

    Attributes:
        counts: (K,) samples of each class, as floats.
        origin: (d,) a point near the features. Class means are relative to it, so that they are
            accurate where features are far from 0 and close to each other.
        means: (K, d) class means minus `origin`; NaN for a class without samples.
        scatter: (K,) Σ ‖h_i − μ_c‖² over the samples of each class.
        sums: further sums over samples, by name: see `SUMS`. "covariance" is (d, d); each other is
            a scalar, the sum over all samples, or has the classes as its axis.
        classifier: (K, d) or None.
        bias: (K,) or None.

    Example: class means of a line, and their squared distance.

        >>> from nc_jax.measures.statistics import Statistics
        >>> two = Statistics(np.ones(2), np.zeros(1), np.array([[1.0], [3.0]]), np.zeros(2))
        >>> two.centered.tolist(), two.squared_distances[0, 1].item()
        ([[-1.0], [1.0]], 4.0)
    """

    def __init__(
        self,
        counts: Array,
        origin: Array,
        means: Array,
        scatter: Array,
        sums: Mapping[str, Array] | None = None,
        *,
        classifier: Array | None = None,
        bias: Array | None = None,
    ) -> None:
        self.counts, self.origin, self.means, self.scatter = counts, origin, means, scatter
        self.sums = {} if sums is None else sums
        self.classifier, self.bias = classifier, bias
        self._stored: dict[Callable[[Statistics], Any], Any] = {}

    @property
    def xp(self) -> ModuleType | Any:
        """Namespace of the arrays: `numpy`, or `jax.numpy`."""
        return self.means.__array_namespace__()

    @property
    def num_classes(self) -> int:
        """K."""
        return self.means.shape[0]

    @property
    def dim(self) -> int:
        """d."""
        return self.means.shape[1]

    @cached_property
    def count(self) -> Array:
        """N, the number of samples."""
        return self.xp.sum(self.counts)

    def once(self, compute: Callable[["Statistics"], Result]) -> Result:
        """compute(self), which is stored for the other measures that call it."""
        if compute not in self._stored:
            self._stored[compute] = compute(self)
        return self._stored[compute]

    def total(self, name: str) -> Array:
        """One of `sums` over all samples, a scalar."""
        values = self.sums[name]
        return values if values.ndim == 0 else self.xp.sum(values)

    def logits_at(self, point: Array) -> Array:
        """W x + b at a point x of shape (d,), shape (K,); a missing bias counts as 0."""
        logits = self.classifier @ point
        return logits if self.bias is None else logits + self.bias

    @cached_property
    def uncentered(self) -> Array:
        """The class means μ_c themselves, shape (K, d)."""
        return self.origin[None] + self.means

    @cached_property
    def mean_of_means(self) -> Array:
        """μ_G minus `origin`, shape (d,)."""
        return self.xp.mean(self.means, axis=0)

    @cached_property
    def global_mean(self) -> Array:
        """μ_G, the mean of the class means, shape (d,)."""
        return self.origin + self.mean_of_means

    @cached_property
    def centered(self) -> Array:
        """M, rows M_c = μ_c − μ_G, shape (K, d)."""
        return self.means - self.mean_of_means[None]

    @cached_property
    def sample_mean(self) -> Array:
        """Mean of all samples minus `origin`, shape (d,); μ_G where classes have one size."""
        return (self.counts / self.count) @ self.means

    @cached_property
    def centered_by_samples(self) -> Array:
        """Rows μ_c − mean_i h_i, shape (K, d)."""
        return self.means - self.sample_mean[None]

    @cached_property
    def variances(self) -> Array:
        """v_c = mean_{y_i=c} ‖h_i − μ_c‖², shape (K,)."""
        return self.scatter / self.counts

    @cached_property
    def centered_classifier(self) -> Array:
        """Rows w̃_c = w_c − mean_c w_c, shape (K, d)."""
        return self.classifier - self.xp.mean(self.classifier, axis=0)[None]

    @cached_property
    def vectors(self) -> Array:
        """M, and W̃ and W where there is a classifier, stacked: (3, K, d), or (1, K, d).

        Norms and products of all are computed at once: fewer operations to compile.
        """
        if self.classifier is None:
            return self.centered[None]
        return self.xp.stack([self.centered, self.centered_classifier, self.classifier])

    @cached_property
    def norms(self) -> Array:
        """Norms of the rows of `vectors`, shape (3, K) or (1, K)."""
        return self.xp.sqrt(self.xp.sum(self.vectors**2, axis=2))

    @cached_property
    def grams(self) -> Array:
        """Products of the rows of each of `vectors`, shape (3, K, K) or (1, K, K)."""
        return self.vectors @ self.xp.matrix_transpose(self.vectors)

    @cached_property
    def cosines(self) -> Array:
        """Cosines between the rows of each of `vectors`; NaN where a row is zero."""
        return self.grams / (self.norms[:, :, None] * self.norms[:, None])

    @cached_property
    def squared_distances(self) -> Array:
        """‖μ_c − μ_c'‖², shape (K, K), with full relative precision."""
        in_numpy = isinstance(self.means, np.ndarray)
        return _squared_distances(self.means if in_numpy else self.centered)

    @cached_property
    def directions(self) -> Array:
        """Rows of `vectors` divided by their norms, shape (3, K, d) or (1, K, d)."""
        return self.vectors / self.norms[:, :, None]

    @cached_property
    def feature_chords(self) -> Array:
        """‖u_c − u_c'‖² of u_c = M_c/‖M_c‖, shape (K, K), with full relative precision."""
        return _squared_distances(self.directions[MEANS])

    @cached_property
    def classifier_chords(self) -> Array:
        """‖u_c − u_c'‖² of u_c = w_c/‖w_c‖, shape (K, K), with full relative precision."""
        return _squared_distances(self.directions[CLASSIFIER])

    @cached_property
    def feature_angles(self) -> Array:
        """Angles between the M_c, shape (K, K), in radians."""
        return _angles(self.directions[MEANS], self.feature_chords)

    @cached_property
    def classifier_angles(self) -> Array:
        """Angles between the w_c, shape (K, K), in radians."""
        return _angles(self.directions[CLASSIFIER], self.classifier_chords)

    @cached_property
    def within_given_rest(self) -> tuple[Array, Array, Array]:
        """Σ_W on the range of Σ_B, given all other directions: its diagonal, G and Λ.

        Σ_B = VΛVᵀ with orthonormal columns V. In the basis of V and its complement N, the Schur
        complement is G = VᵀΣ_W V − VᵀΣ_W N (NᵀΣ_W N)⁺ NᵀΣ_W V: the covariance in the directions V
        that no linear function of the other directions predicts. For an invertible Σ_W it is the
        inverse of VᵀΣ_W^{-1}V. Σ_W and Σ_B are never added, so that Σ_W may be singular, or smaller
        than Σ_B by any factor.

        Returns: the diagonal of VᵀΣ_W V, (r,), G, (r, r), and Λ, (r,), for r = min(d, K−1).
        Directions in which Λ is a rounding error have zeros in all three.
        """
        xp, most = self.xp, min(self.dim, self.num_classes - 1)
        # All d right vectors; for d <= K the reduced form has them too.
        full = self.dim > self.num_classes
        _, singular, right = xp.linalg.svd(self.centered, full_matrices=full)
        smallest = max(self.means.shape) * float(xp.finfo(singular.dtype).eps) * singular[0]
        between = xp.where(singular[:most] > smallest, singular[:most], 0.0)
        is_between = xp.concat([between > 0, xp.zeros(self.dim - most, dtype=bool)])
        within = right @ (self.sums["covariance"] / self.count) @ right.T
        inside = xp.where(is_between[:, None] & is_between[None], within, 0.0)
        outside = xp.where(is_between[:, None] | is_between[None], 0.0, within)
        across = xp.where(~is_between[:, None] & is_between[None], within, 0.0)
        variances, axes = xp.linalg.eigh(outside)
        above = variances > self.dim * float(xp.finfo(variances.dtype).eps) * variances[-1]
        roots = xp.where(above, 1 / xp.sqrt(xp.where(above, variances, 1.0)), 0.0)
        explained = roots[:, None] * (axes.T @ across)
        complement = inside - explained.T @ explained
        variances = xp.linalg.diagonal(inside)[:most]
        return variances, complement[:most, :most], between**2 / self.num_classes

    @cached_property
    def within_root(self) -> Array:
        """R of shape (d, d) with RᵀR = Σ_i (h_i − μ_{y_i})(h_i − μ_{y_i})ᵀ.

        Eigenvalues that are rounding errors count as 0. The rank of R is therefore the number of
        directions whose deviations are above √(d eps) of the largest.
        """
        values, vectors = self.xp.linalg.eigh(self.sums["covariance"])
        floor = self.dim * float(self.xp.finfo(values.dtype).eps) * values[-1]
        variances = self.xp.where(values > floor, values, 0.0)
        return self.xp.sqrt(variances)[:, None] * vectors.T

    def _root_around(self, means: Array) -> Array:
        """`within_root` above the rows √n_c means_c, shape (d+K, d)."""
        return self.xp.concat([self.within_root, self.xp.sqrt(self.counts)[:, None] * means])

    @cached_property
    def total_root(self) -> Array:
        """A of shape (d+K, d) with AᵀA = Σ_i (h_i − mean h)(h_i − mean h)ᵀ.

        Its singular values are those of the centred features. The sum AᵀA is not formed, in which
        deviations below √eps of the distances between classes would be lost.
        """
        return self._root_around(self.centered_by_samples)

    @cached_property
    def uncentered_root(self) -> Array:
        """A of shape (d+K, d) with AᵀA = Σ_i h_i h_iᵀ, as `total_root`."""
        return self._root_around(self.uncentered)

    @cached_property
    def contrasts(self) -> Array:
        """N of shape (K−1, d) with NᵀN = MᵀM: see `contrasts_of`."""
        return contrasts_of(self.centered)

    @cached_property
    def classifier_contrasts(self) -> Array:
        """`contrasts` of the centred classifiers, shape (K−1, d)."""
        return contrasts_of(self.centered_classifier)

    def above_rounding(self, singular: Array, matrix: Array) -> Array:
        """Whether singular values of a matrix are above its rounding errors."""
        eps = float(self.xp.finfo(singular.dtype).eps)
        return singular > max(matrix.shape) * eps * self.xp.max(singular, initial=0.0)

    def mean_over_pairs(self, values: Array) -> Array:
        """Mean over c ≠ c' of values (K, K), or of each matrix of a stack."""
        # Masked: to subtract the trace from the sum of all entries would leave the rounding errors
        # of a large diagonal.
        off = self.xp.where(self.xp.eye(self.num_classes, dtype=bool), 0.0, values)
        return self.xp.sum(off, axis=(-2, -1)) / (self.num_classes * (self.num_classes - 1))


def contrasts_of(rows: Array, weights: Array | None = None) -> Array:
    """N of shape (K−1, d) with NᵀN = RᵀR for rows R (K, d) whose weighted mean pᵀR is 0.

    The reflection that maps a = p/‖p‖ to −e₁ is I − uuᵀ/(1 + a₁) with u = a + e₁. Its first row is
    a multiple of pᵀR, which is 0 except for rounding errors of the mean, and is left out. For rows
    that are far from 0, or close to each other, these errors exceed a threshold relative to R, and
    would count as a further direction.

    Args: `weights` are p, (K,), all > 0; None for equal ones.
    """
    if weights is None:
        first = others = 1 / math.sqrt(len(rows))
        total = first * rows.sum(axis=0)
    else:
        axis = weights / rows.__array_namespace__().linalg.vector_norm(weights)
        first, others, total = axis[0], axis[1:, None], axis @ rows
    along = (total + rows[0]) / (1 + first)
    return rows[1:] - others * along[None]


def _squared_distances(points: Array) -> Array:
    """‖x_c − x_c'‖² between all rows, shape (K, K), with full relative precision."""
    if not isinstance(points, np.ndarray):
        return squared_distances(points)
    squares = np.sum(points**2, axis=1)
    total = squares[:, None] + squares[None]
    distances = total - 2 * points @ points.T
    # The difference loses the digits by which the total exceeds it. Of rows that are so close their
    # difference is squared; all differences at once may not fit into the memory, and take longer.
    close = distances < total / 10
    for row in range(len(points)):
        others = np.flatnonzero(close[row])
        distances[row, others] = np.sum((points[others] - points[row]) ** 2, axis=1)
    return distances


def _angles(units: Array, chords: Array) -> Array:
    """2 atan(‖u − u'‖/‖u + u'‖) of unit rows u, with ‖u − u'‖² given (Kahan).

    The arc cosine of ⟨u, u'⟩ would lose half of the digits of angles near 0 and π.
    """
    xp, count = units.__array_namespace__(), len(units)
    if isinstance(units, np.ndarray):
        sums = np.stack([np.sum((units + unit) ** 2, axis=1) for unit in units])
    else:
        sums = squared_distances(xp.concat([units, -units]))[:count, count:]
    return 2 * xp.arctan2(xp.sqrt(chords), xp.sqrt(sums))
