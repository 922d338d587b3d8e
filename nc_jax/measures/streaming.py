"""Per-class statistics of features, in batches of any size and order.

Two passes over the data give every collapse metric. The first pass computes class means and
scatters of each batch (`class_moments`, `merge_moments`). The second pass sums, over samples, the
quantities that depend on the final means (`spread`, `merge_spreads`). No (d, d) covariance is
formed: `zhu_nc1` needs the within-class scatter in the K−1 directions of the class means only, and
a full covariance would lose it to rounding where the scatter in other directions is larger.

A row with the label `ignore_index`, −1 by default, is left out, so that a last batch may be padded.
A concrete label that is neither this nor in 0..K−1 is an error; rows with such traced labels are
left out.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Integer, Real

from ..checks import check_integer, check_matrix
from ..geometry import above_rounding, membership
from ..labels import check_labels
from ..precision import matmul, widened
from ..state import LastLayer
from .statistics import contrasts_of

# Above this number of classes singular vectors are computed by LAPACK, not by rotations. Rotations
# are faster up to 10 classes, and take three times as long at 32. Beyond 20 LAPACK is faster,
# although it uses one core and rotations use all.
_MOST_CLASSES = 20
# Up to 10 classes need 3 to 11 sweeps. The worst case found needs 36, for 32 classes whose means
# spread over twenty orders of magnitude.
_MOST_SWEEPS = 50


class ClassMoments(eqx.Module):
    """Count, mean and summed squared deviation ‖h − μ_c‖² of each class.

    Attributes:
        counts: (K,) samples of each class, as floats.
        means: (K, d).
        scatter: (K,).

    All have the dtype of the features, float32 for half precision.

    Example:

        >>> features = jnp.array([[1.0], [3.0], [5.0]])
        >>> nc.metrics.class_moments(features, jnp.array([0, 0, 1]), 2).scatter.tolist()
        [2.0, 0.0]
    """

    counts: Float[Array, " K"]
    means: Float[Array, "K d"]
    scatter: Float[Array, " K"]


class Spread(eqx.Module):
    """Sums over samples that depend on the final class means; all scalars.

    Attributes:
        within: Σ ‖h_i − μ_{y_i}‖.
        around_global: Σ ‖h_i − μ_G‖.
        whitened: Σ ‖Σ_B^{+½}(h_i − μ_{y_i})‖².
        mismatches: samples whose nearest class mean and largest logit name different classes.
        count: samples.

    Example: see `spread`.

        >>> sorted(nc.metrics.Spread.__dataclass_fields__)
        ['around_global', 'count', 'mismatches', 'whitened', 'within']
    """

    within: Float[Array, ""]
    around_global: Float[Array, ""]
    whitened: Float[Array, ""]
    mismatches: Float[Array, ""]
    count: Float[Array, ""]


def class_moments(
    features: Real[Array, "B d"],
    labels: Integer[ArrayLike, " B"],
    num_classes: int,
    *,
    ignore_index: int | None = -1,
) -> ClassMoments:
    """Moments of one batch, with features centred before they are squared.

    Args:
        features: (B, d).
        labels: (B,) integers in 0..K−1, in any order; a batch need not have all classes.
        num_classes: K.
        ignore_index: label of the rows to leave out, such as PyTorch's −100; None for none.

    Raises: ValueError for other labels; traced ones are checked for shape and dtype.

    Example: the row with the label −1 pads the batch.

        >>> features = jnp.array([[1.0], [3.0], [100.0]])
        >>> moments = nc.metrics.class_moments(features, jnp.array([0, 0, -1]), 2)
        >>> moments.counts.tolist(), moments.means.tolist()
        ([2.0, 0.0], [[2.0], [0.0]])
    """
    check_matrix("features", features, "(B, d)")
    num_classes = check_integer("num_classes", num_classes)
    features = widened(features)
    labels = check_labels(labels, num_classes, len(features), ignore_index=ignore_index)
    return _moments_of(features, jnp.asarray(labels), num_classes)


# A jit here and in `_spread_of`, so that a loop outside of jit compiles once for each shape.
@functools.partial(jax.jit, static_argnums=2)
def _moments_of(
    features: Float[Array, "B d"], labels: Integer[Array, " B"], num_classes: int
) -> ClassMoments:
    members = membership(labels, num_classes).astype(features.dtype)
    # Sums over samples are written as matrix products, here and below: on a CPU XLA compiles a
    # product to one call, but a sum of more than 32 terms to three kernels.
    counts = matmul(jnp.sum(members, axis=1), members)
    # A class without samples in this batch has no mean; its zero has weight 0 in `merge_moments`.
    means = matmul(members.T, features) / jnp.maximum(counts, 1)[:, None]
    deviations = features - matmul(members, means)
    scatter = matmul(members.T, jnp.sum(deviations**2, axis=1))
    return ClassMoments(counts, means, scatter)


def merge_moments(left: ClassMoments, right: ClassMoments) -> ClassMoments:
    """Moments of the union of two batches (Chan, Golub, LeVeque 1983).

    No difference E[h²] − μ² is formed, which would lose a small scatter to rounding.

    Example:

        >>> one, two = (
        ...     nc.metrics.class_moments(jnp.array([[h]]), jnp.array([0]), 2) for h in (1.0, 3.0)
        ... )
        >>> merged = nc.metrics.merge_moments(one, two)
        >>> merged.means.tolist(), merged.scatter.tolist()
        ([[2.0], [0.0]], [2.0, 0.0])
    """
    counts = left.counts + right.counts
    # A class without samples in either batch has zero means, which 0/0 would turn into NaN.
    total = jnp.maximum(counts, 1)
    delta = right.means - left.means
    means = left.means + delta * (right.counts / total)[:, None]
    between = jnp.sum(delta**2, axis=1) * left.counts * right.counts / total
    return ClassMoments(counts, means, left.scatter + right.scatter + between)


def class_means(moments: ClassMoments) -> Float[Array, "K d"]:
    """Final class means; NaN for a class without samples, which has none."""
    return jnp.where(moments.counts[:, None] > 0, moments.means, jnp.nan)


def spread(
    features: Real[Array, "B d"],
    labels: Integer[ArrayLike, " B"],
    moments: ClassMoments,
    classifier: Real[Array, "K d"],
    *,
    bias: Real[Array, " K"] | None = None,
    whitening: Float[Array, "d r"] | None = None,
    ignore_index: int | None = -1,
) -> Spread:
    """Sums of one batch around the final class means, in a second pass over the data.

    Args:
        features, labels, ignore_index: as for `class_moments`.
        moments: of all batches.
        classifier: (K, d).
        bias: (K,) or None.
        whitening: `whitening(moments)`, computed once for all batches; None computes it here.

    Raises: as `class_moments`.

    Example:

        >>> features, labels = jnp.array([[1.5], [0.5], [-1.0]]), jnp.array([0, 0, 1])
        >>> moments = nc.metrics.class_moments(features, labels, 2)
        >>> classifier = jnp.array([[1.0], [-1.0]])
        >>> found = nc.metrics.spread(features, labels, moments, classifier)
        >>> float(found.within), float(found.mismatches), float(found.count)
        (1.0, 0.0, 3.0)
    """
    check_matrix("features", features, "(B, d)")
    check_matrix("classifier", classifier, "(K, d)")
    features, moments, classifier, bias = widened((features, moments, classifier, bias))
    num_classes = moments.means.shape[0]
    labels = check_labels(labels, num_classes, len(features), ignore_index=ignore_index)
    return _spread_of(features, jnp.asarray(labels), moments, classifier, bias, whitening)


@jax.jit
def _spread_of(
    features: Float[Array, "B d"],
    labels: Integer[Array, " B"],
    moments: ClassMoments,
    classifier: Float[Array, "K d"],
    bias: Float[Array, " K"] | None,
    whitening: Float[Array, "d r"] | None,
) -> Spread:
    members = membership(labels, moments.means.shape[0]).astype(features.dtype)
    counted = jnp.sum(members, axis=1)
    # From `moments.means` and not `class_means`: the NaN of a class without samples would spread to
    # all samples in the product.
    deviations = features - matmul(members, moments.means)
    means = class_means(moments)
    global_mean = jnp.mean(means, axis=0, keepdims=True)
    centered_means, from_global = means - global_mean, features - global_mean

    per_sample = [
        jnp.linalg.norm(deviations, axis=1),
        jnp.linalg.norm(from_global, axis=1),
        _mismatches(from_global, centered_means, LastLayer(features, classifier, bias).logits()),
        jnp.ones_like(counted),
    ]
    within, around_global, mismatches, count = matmul(counted, jnp.stack(per_sample, axis=1))
    # Separate from the sums above, so that XLA removes the whitening where NC1 is not used.
    if whitening is None:
        whitening = _whitening(centered_means)
    whitened = matmul(deviations, whitening)
    return Spread(
        within=within,
        around_global=around_global,
        whitened=jnp.sum(matmul(counted, whitened**2)),
        mismatches=mismatches,
        count=count,
    )


def whitening(moments: ClassMoments) -> Float[Array, "d r"]:
    """Σ_B^{+½} up to a rotation, (d, r), which `spread` takes so that NC1 needs it only once.

    Example: tr(Σ_W Σ_B⁺) is the mean of ‖P(h_i − μ_{y_i})‖² for the whitening P.

        >>> features, labels = jnp.array([[1.5], [0.5], [-1.0]]), jnp.array([0, 0, 1])
        >>> moments = nc.metrics.class_moments(features, labels, 2)
        >>> round(abs(float(nc.metrics.whitening(moments)[0, 0])), 6)
        1.0
    """
    means = class_means(widened(moments))
    return _whitening(means - jnp.mean(means, axis=0, keepdims=True))


def _mismatches(
    from_global: Float[Array, "B d"],
    centered_means: Float[Array, "K d"],
    logits: Float[Array, "B K"],
) -> Float[Array, " B"]:
    """1 where nearest class mean and largest logit have different classes, else 0, or NaN."""
    # ½‖h‖² − ½‖h − μ_c‖² with the global mean as origin, which avoids cancellation far from 0.
    nearness = matmul(from_global, centered_means.T) - jnp.sum(centered_means**2, axis=1)[None] / 2
    scores = jnp.stack([nearness, logits])
    nearest, predicted = jnp.argmax(scores, axis=2)
    # For two rows of NaN argmax gives class 0 both times, which would count as a match.
    known = jnp.all(jnp.isfinite(scores), axis=(0, 2))
    return jnp.where(known, (nearest != predicted).astype(logits.dtype), jnp.nan)


def merge_spreads(left: Spread, right: Spread) -> Spread:
    """Sums of the union of two batches.

    Example:

        >>> part = nc.metrics.Spread(*jnp.arange(5.0))
        >>> float(nc.metrics.merge_spreads(part, part).count)
        8.0
    """
    return Spread(
        within=left.within + right.within,
        around_global=left.around_global + right.around_global,
        whitened=left.whitened + right.whitened,
        mismatches=left.mismatches + right.mismatches,
        count=left.count + right.count,
    )


def whitening_of(
    vectors: Float[np.ndarray, "K d"], weights: Float[np.ndarray, " K"], scale: float
) -> Float[np.ndarray, "d r"]:
    """Σ^{+½} up to a rotation for Σ = VᵀV/K, by NumPy: the whitening of a finished first pass.

    Singular values that are rounding errors have the pseudo-inverse 0.

    Args:
        vectors: V, vectors minus their mean of these weights.
        weights: of the mean; one direction of the rows has its rounding errors: see `contrasts_of`.
        scale: size of the numbers whose means the vectors are.
    """
    _, singular, right = np.linalg.svd(contrasts_of(vectors, weights), full_matrices=False)
    largest = max(singular.max(initial=0), scale)
    threshold = np.finfo(vectors.dtype).eps * max(vectors.shape) * largest
    inverse = np.divide(1, singular, out=np.zeros_like(singular), where=singular > threshold)
    return right.T * (inverse * np.sqrt(len(vectors)))


@jax.custom_jvp
def _whitening(centered_means: Float[Array, "K d"]) -> Float[Array, "d r"]:
    """Σ_B^{+½} up to a rotation: Σ_B = MᵀM/K for the (K, d) centred means M.

    The derivative is explicit, since singular vectors have none at collapse.
    """
    num_classes = centered_means.shape[0]
    # Squares of norms are formed below. With a largest entry of 1 they do not overflow, and do not
    # all underflow.
    scale = jnp.max(jnp.abs(centered_means))
    scale = jnp.where(scale == 0, 1, scale)
    contrasts = contrasts_of(centered_means / scale)
    if num_classes > _MOST_CLASSES:
        _, singular, right = jnp.linalg.svd(contrasts, full_matrices=False)
        rows = singular[:, None] * right
    else:
        rows = _orthogonal_rows(contrasts)
        singular = jnp.linalg.norm(rows, axis=1)
    # Rows are σ vᵀ, so that division by σ² leaves vᵀ/σ. Singular values that are rounding errors
    # have the pseudo-inverse 0.
    above = above_rounding(singular, centered_means.shape)
    inverse = jnp.where(above, 1 / jnp.where(above, singular, 1) ** 2, 0)
    lengths = inverse * jnp.sqrt(jnp.asarray(num_classes, scale.dtype)) / scale
    return rows.T * lengths[None]


@_whitening.defjvp
def _whitening_jvp(
    primals: tuple[Float[Array, "K d"]], tangents: tuple[Float[Array, "K d"]]
) -> tuple[Float[Array, "d r"], Float[Array, "d r"]]:
    """dP = −P dM P + PPᵀ dMᵀ(I − MP) + (I − PM) dMᵀ PᵀP, in a basis that is constant in M.

    P = M⁺ at constant rank (Golub, Pereyra 1973). Singular vectors have no derivative where
    singular values coincide, as they all do at collapse; M⁺ has.
    """
    (means,), (change,) = primals, tangents
    whitening = _whitening(means)
    basis = matmul(means, whitening) / means.shape[0]
    turned = matmul(basis.T, change)
    outside = turned.T - matmul(whitening, matmul(basis.T, matmul(means, turned.T)))
    within = matmul(whitening, matmul(turned, whitening))
    return whitening, matmul(outside, matmul(whitening.T, whitening)) - within


@jax.jit  # One compilation for each shape: outside of jit, a loop compiles anew in every call.
def _orthogonal_rows(matrix: Float[Array, "r d"]) -> Float[Array, "r d"]:
    """Rows s_i v_iᵀ of Uᵀ N for N = U S Vᵀ, in any order, by one-sided Jacobi rotations.

    In the place of LAPACK, whose calls XLA's CPU runtime cannot batch, and cannot safely run two at
    a time. A round rotates disjoint pairs of rows, in the round-robin order: every pair occurs once
    in a sweep of r − 1 rounds (of r rounds for an odd r).
    """
    num_rows, dim = matrix.shape
    # The largest entry is about 1, so that a row shorter than this is a rounding error, which need
    # not be orthogonal to others.
    floor = jnp.finfo(matrix.dtype).eps * max(matrix.shape)
    # An odd number of rows is padded by a row of zeros in the first place, which never moves.
    padding = num_rows % 2
    half = (num_rows + padding) // 2
    sweep = 2 * half - 1
    # All other rows move by one place in a circle: to the end of the first half, and back along the
    # second half.
    circle = np.r_[1:half, 2 * half - 1 : half - 1 : -1]
    order = np.arange(2 * half)
    order[circle] = np.roll(circle, 1)

    def rotate_pairs(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        """Rotate row i of the first half and row i of the second half to be orthogonal."""
        rows, unchanged, rounds = state
        # Squared lengths a and b of the two rows of each pair, and their product c.
        (a, c), (_, b) = jnp.sum(rows[:, None] * rows[None], axis=3)
        # Whether a cosine c/√(ab) is above rounding; a row shorter than `floor` has that length.
        turned = jnp.any(c**2 > floor**2 * jnp.maximum(a, floor**2) * jnp.maximum(b, floor**2))
        # tan θ of the smaller angle, from tan 2θ = 2c/(b − a).
        gap = b - a
        below = jnp.abs(gap) + jnp.sqrt(gap**2 + 4 * c**2)
        tan = jnp.where(gap < 0, -2 * c, 2 * c) / jnp.where(below == 0, 1, below)
        cos = 1 / jnp.sqrt(1 + tan**2)
        rows = cos[None, :, None] * (rows + jnp.stack([-tan, tan])[..., None] * rows[::-1])
        rows = rows.reshape(-1, dim)[order].reshape(rows.shape)
        return rows, jnp.where(turned, 0, unchanged + 1), rounds + 1

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        # A whole sweep without a rotation means that all pairs are orthogonal.
        _, unchanged, rounds = state
        return (unchanged < sweep) & (rounds < _MOST_SWEEPS * sweep)

    padded = jnp.pad(matrix, ((padding, 0), (0, 0))).reshape(2, half, dim)
    rows, *_ = jax.lax.while_loop(
        unfinished, rotate_pairs, (padded, jnp.asarray(0), jnp.asarray(0))
    )
    return rows.reshape(-1, dim)[padding:]
