"""Per-class statistics of features, in batches of any size and order.

Two passes suffice for every collapse metric: the first merges class means and scatters batch by
batch (`class_moments`, `merge_moments`), the second, knowing the means, sums what is not a moment
(`spread`, `merge_spreads`). No (d, d) covariance is formed: `zhu_nc1` needs the within-class
scatter in the K−1 directions of the class means only, where a full covariance would lose it to
rounding as soon as the spread elsewhere is larger.

A row with the label `ignore_index`, −1 by default, is left out, so that a last batch may be padded.
Other labels outside 0..K−1 are refused where they are concrete; traced ones are left out too.
"""

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

# Rotations take less time than LAPACK up to 10 classes and up to three times as much at 32, which
# the other cores, idle beside a call of LAPACK's, make up for.
_MOST_CLASSES = 20
# 3 to 11 are made up to 10 classes, 36 at worst at 32 of means graded over twenty decades.
_MOST_SWEEPS = 50


class ClassMoments(eqx.Module):
    """Count, mean and summed squared deviation ‖h − μ_c‖² of each class.

    Shapes: `counts` (K,), `means` (K, d), `scatter` (K,), all in the features' dtype, or in float32
    for half precision.
    """

    counts: Float[Array, " K"]
    means: Float[Array, "K d"]
    scatter: Float[Array, " K"]


class Spread(eqx.Module):
    """Sums over samples that need the final class means; all scalars.

    `within`: Σ ‖h_i − μ_{y_i}‖; `around_global`: Σ ‖h_i − μ_G‖; `whitened`: Σ ‖Σ_B^{+½}(h_i −
    μ_{y_i})‖²; `mismatches`: samples whose nearest class mean is not their largest logit; `count`.
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
    """Moments of one batch; centred before they are squared.

    Args:
        labels: (B,) integers in 0..K−1, in any order; not every class has to be there.
        ignore_index: label of the rows to be left out, such as PyTorch's −100; None for none.

    Raises: ValueError for labels that are not so; under tracing for their shape and dtype.

    Example: `class_moments(features, labels, 10)`.
    """
    check_matrix("features", features, "(B, d)")
    num_classes = check_integer("num_classes", num_classes)
    features = widened(features)
    labels = check_labels(labels, num_classes, len(features), ignore_index=ignore_index)
    members = membership(labels, num_classes).astype(features.dtype)
    # Sums over samples are products here and below: for a CPU XLA makes a call of a product, of a
    # sum of more than 32 terms three kernels to compile.
    counts = matmul(jnp.sum(members, axis=1), members)
    # A class without samples in this batch has no mean; zero stands in, with weight 0 in merges.
    means = matmul(members.T, features) / jnp.maximum(counts, 1)[:, None]
    deviations = features - matmul(members, means)
    scatter = matmul(members.T, jnp.sum(deviations**2, axis=1))
    return ClassMoments(counts, means, scatter)


def merge_moments(left: ClassMoments, right: ClassMoments) -> ClassMoments:
    """Moments of two batches together (Chan, Golub, LeVeque 1983): no E[h²] − μ² anywhere."""
    counts = left.counts + right.counts
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
    bias: Real[Array, " K"] | None = None,
    *,
    ignore_index: int | None = -1,
) -> Spread:
    """Second-pass sums of one batch around the final class means.

    Labels and errors: as for `class_moments`.
    """
    check_matrix("features", features, "(B, d)")
    check_matrix("classifier", classifier, "(K, d)")
    features, moments, classifier, bias = widened((features, moments, classifier, bias))
    num_classes = moments.means.shape[0]
    labels = check_labels(labels, num_classes, len(features), ignore_index=ignore_index)
    members = membership(labels, num_classes).astype(features.dtype)
    counted = jnp.sum(members, axis=1)
    # A class without samples has no sample that deviates from its mean, here zero.
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
    # Apart from those above, so that without NC1 nothing of the whitening is computed.
    whitened = matmul(deviations, _whitening(centered_means))
    return Spread(
        within=within,
        around_global=around_global,
        whitened=jnp.sum(matmul(counted, whitened**2)),
        mismatches=mismatches,
        count=count,
    )


def _mismatches(
    from_global: Float[Array, "B d"],
    centered_means: Float[Array, "K d"],
    logits: Float[Array, "B K"],
) -> Float[Array, " B"]:
    """1 where the nearest class mean is not the largest logit, else 0; NaN where either is."""
    # ½‖h‖² − ½‖h − μ_c‖², both from the global mean, so that far-off means cancel nothing.
    nearness = matmul(from_global, centered_means.T) - jnp.sum(centered_means**2, axis=1)[None] / 2
    scores = jnp.stack([nearness, logits])
    nearest, predicted = jnp.argmax(scores, axis=2)
    # NaN has no nearest mean; two argmaxes of NaN would agree.
    known = jnp.all(jnp.isfinite(scores), axis=(0, 2))
    return jnp.where(known, (nearest != predicted).astype(logits.dtype), jnp.nan)


def merge_spreads(left: Spread, right: Spread) -> Spread:
    """Sums of two batches together."""
    return Spread(
        within=left.within + right.within,
        around_global=left.around_global + right.around_global,
        whitened=left.whitened + right.whitened,
        mismatches=left.mismatches + right.mismatches,
        count=left.count + right.count,
    )


@jax.custom_jvp
def _whitening(centered_means: Float[Array, "K d"]) -> Float[Array, "d r"]:
    """Σ_B^{+½} up to a rotation: Σ_B = MᵀM/K for the (K, d) centred means M."""
    num_classes = centered_means.shape[0]
    # Norms are squared below: at entries of at most 1 they can neither overflow nor all underflow.
    scale = jnp.max(jnp.abs(centered_means))
    scale = jnp.where(scale == 0, 1, scale)
    contrasts = _contrasts(centered_means / scale)
    if num_classes > _MOST_CLASSES:
        _, singular, right = jnp.linalg.svd(contrasts, full_matrices=False)
        rows = singular[:, None] * right
    else:
        rows = _orthogonal_rows(contrasts)
        singular = jnp.linalg.norm(rows, axis=1)
    kept = above_rounding(singular, centered_means.shape)
    inverse = jnp.where(kept, 1 / jnp.where(kept, singular, 1) ** 2, 0)
    lengths = inverse * jnp.sqrt(jnp.asarray(num_classes, scale.dtype)) / scale
    return rows.T * lengths[None]


@_whitening.defjvp
def _whitening_jvp(
    primals: tuple[Float[Array, "K d"]], tangents: tuple[Float[Array, "K d"]]
) -> tuple[Float[Array, "d r"], Float[Array, "d r"]]:
    """dP = −P dM P + PPᵀ dMᵀ(I − MP) + (I − PM) dMᵀ PᵀP, in a basis that does not turn with M.

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


def _contrasts(centered_means: Float[Array, "K d"]) -> Float[Array, "r d"]:
    """Rows 2..K of (I − 2uuᵀ/‖u‖²) M, u = 1 + √K e₁: r = K−1 rows N with NᵀN = MᵀM.

    The reflection takes 1 to −√K e₁, so the row left out is 1ᵀM. That is the rounding of the global
    mean, which no threshold relative to M can tell from signal when features sit far from 0.
    """
    root = jnp.sqrt(jnp.asarray(centered_means.shape[0], centered_means.dtype))
    along = jnp.sum(centered_means, axis=0) + root * centered_means[0]
    return centered_means[1:] - along[None] / (root**2 + root)


@jax.jit  # Once for a shape: a loop outside jit would compile anew at every call.
def _orthogonal_rows(matrix: Float[Array, "r d"]) -> Float[Array, "r d"]:
    """Rows s_i v_iᵀ of Uᵀ N for N = U S Vᵀ, in any order, by one-sided Jacobi rotations.

    In place of LAPACK, whose calls XLA's CPU runtime can neither batch nor, safely, run two at a
    time. Rounds of disjoint pairs as in a tournament: in a sweep of r − 1 every pair meets once.
    """
    num_rows, dim = matrix.shape
    # Below this a row, of a matrix with an entry of 1, is rounding and need not be orthogonal.
    floor = jnp.finfo(matrix.dtype).eps * max(matrix.shape)
    # An odd number takes a row of zeros, in the first seat, whose row stays there.
    padding = num_rows % 2
    half = (num_rows + padding) // 2
    sweep = 2 * half - 1
    # All others move on by one seat: to the end of the first half and back along the second.
    circle = np.r_[1:half, 2 * half - 1 : half - 1 : -1]
    seats = np.arange(2 * half)
    seats[circle] = np.roll(circle, 1)

    def play(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        """Turn row i of the first half against row i of the second until they are orthogonal."""
        rows, at_rest, rounds = state
        (a, c), (_, b) = jnp.sum(rows[:, None] * rows[None], axis=3)
        turned = jnp.any(c**2 > floor**2 * jnp.maximum(a, floor**2) * jnp.maximum(b, floor**2))
        # tan θ of the smaller angle, from tan 2θ = 2c/(b − a).
        gap = b - a
        below = jnp.abs(gap) + jnp.sqrt(gap**2 + 4 * c**2)
        tan = jnp.where(gap < 0, -2 * c, 2 * c) / jnp.where(below == 0, 1, below)
        cos = 1 / jnp.sqrt(1 + tan**2)
        rows = cos[None, :, None] * (rows + jnp.stack([-tan, tan])[..., None] * rows[::-1])
        rows = rows.reshape(-1, dim)[seats].reshape(rows.shape)
        return rows, jnp.where(turned, 0, at_rest + 1), rounds + 1

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        _, at_rest, rounds = state
        return (at_rest < sweep) & (rounds < _MOST_SWEEPS * sweep)

    padded = jnp.pad(matrix, ((padding, 0), (0, 0))).reshape(2, half, dim)
    rows, *_ = jax.lax.while_loop(unfinished, play, (padded, jnp.asarray(0), jnp.asarray(0)))
    return rows.reshape(-1, dim)[padding:]
