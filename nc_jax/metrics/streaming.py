"""Per-class statistics of features, in batches of any size and order.

Two passes suffice for every collapse metric: the first merges class means and scatters batch by
batch (`class_moments`, `merge_moments`), the second, knowing the means, sums what is not a moment
(`spread`, `merge_spreads`). No (d, d) covariance is formed: `zhu_nc1` needs the within-class
scatter in the K−1 directions of the class means only, where a full covariance would lose it to
rounding as soon as the spread elsewhere is larger.

A row whose label is outside 0..K−1 is left out, so a last batch may be padded with label −1.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Integer

from ..geometry import above_rounding, center, membership
from ..precision import matmul
from ..state import LastLayer

# Rotations take less time than LAPACK up to 10 classes and up to three times as much at 32, which
# the other cores, idle beside a call of LAPACK's, make up for.
_MOST_CLASSES = 20
# 3 to 11 are made up to 10 classes, 36 at worst at 32 of means graded over twenty decades.
_MOST_SWEEPS = 50


class ClassMoments(eqx.Module):
    """Count, mean and summed squared deviation ‖h − μ_c‖² of each class.

    Shapes: `counts` (K,), `means` (K, d), `scatter` (K,), all in the features' dtype.
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
    features: Float[Array, "B d"], labels: Integer[ArrayLike, " B"], num_classes: int
) -> ClassMoments:
    """Moments of one batch; centred before they are squared."""
    members = membership(labels, num_classes).astype(features.dtype)
    counts = jnp.sum(members, axis=0)
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
    features: Float[Array, "B d"],
    labels: Integer[ArrayLike, " B"],
    moments: ClassMoments,
    classifier: Float[Array, "K d"],
    bias: Float[Array, " K"] | None = None,
) -> Spread:
    """Second-pass sums of one batch around the final class means."""
    num_classes = moments.means.shape[0]
    members = membership(labels, num_classes).astype(features.dtype)
    counted = jnp.sum(members, axis=1)
    means = class_means(moments)
    global_mean = jnp.mean(means, axis=0)
    centered_means = center(means)
    deviations = features - matmul(members, means)
    from_global = features - global_mean

    # ‖h − μ_c‖² less the part every class shares, centred so that far-off means cancel nothing.
    distances = jnp.sum(centered_means**2, axis=1) - 2 * matmul(from_global, centered_means.T)
    scores = LastLayer(features, classifier, bias).logits()
    mismatch = jnp.argmin(distances, axis=1) != jnp.argmax(scores, axis=1)
    # NaN has no nearest mean; two argmins of NaN would agree.
    known = jnp.all(jnp.isfinite(distances + scores), axis=1)
    mismatch = jnp.where(known, mismatch.astype(features.dtype), jnp.nan)

    whitened = matmul(deviations, _whitening(centered_means))
    return Spread(
        within=jnp.sum(counted * jnp.linalg.norm(deviations, axis=1)),
        around_global=jnp.sum(counted * jnp.linalg.norm(from_global, axis=1)),
        whitened=jnp.sum(counted[:, None] * whitened**2),
        mismatches=jnp.sum(jnp.where(counted > 0, mismatch, 0)),
        count=jnp.sum(counted),
    )


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
    return rows.T * (inverse * jnp.sqrt(jnp.asarray(num_classes, scale.dtype)) / scale)


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
    return centered_means[1:] - along / (root**2 + root)


def _orthogonal_rows(matrix: Float[Array, "r d"]) -> Float[Array, "r d"]:
    """Rows s_i v_iᵀ of Uᵀ N for N = U S Vᵀ, in any order, by one-sided Jacobi rotations.

    In place of LAPACK, whose calls XLA's CPU runtime can neither batch nor, safely, run two at a
    time. A sweep meets every pair of rows once, in rounds of disjoint pairs as in a tournament.
    """
    num_rows = matrix.shape[0]
    # Below this a row, of a matrix with an entry of 1, is rounding and need not be orthogonal.
    floor = jnp.finfo(matrix.dtype).eps * max(matrix.shape)
    size = max(num_rows + num_rows % 2, 4)
    matrix = jnp.pad(matrix, ((0, size - num_rows), (0, 0)))

    def play(state: tuple[Array, ...], _: None) -> tuple[tuple[Array, ...], None]:
        x, y, turned = state
        a, b, c = jnp.sum(x * x, axis=1), jnp.sum(y * y, axis=1), jnp.sum(x * y, axis=1)
        turned |= jnp.any(c**2 > floor**2 * jnp.maximum(a, floor**2) * jnp.maximum(b, floor**2))
        # tan θ of the smaller angle, from tan 2θ = 2c/(b − a).
        gap = b - a
        below = jnp.abs(gap) + jnp.sqrt(gap**2 + 4 * c**2)
        tan = jnp.where(gap < 0, -2 * c, 2 * c) / jnp.where(below == 0, 1, below)
        cos = 1 / jnp.sqrt(1 + tan**2)
        x, y = cos[:, None] * (x - tan[:, None] * y), cos[:, None] * (tan[:, None] * x + y)
        # The first stays, all others move on by one seat.
        seated = jnp.concatenate([x[:1], y[:1], x[1:-1]]), jnp.concatenate([y[1:], x[-1:]])
        return (*seated, turned), None

    def sweep(state: tuple[Array, ...]) -> tuple[Array, ...]:
        x, y, _, count = state
        rested, _ = jax.lax.scan(play, (x, y, jnp.asarray(False)), length=size - 1, unroll=3)
        return (*rested, count + 1)

    start = (matrix[: size // 2], matrix[size // 2 :], jnp.asarray(True), jnp.asarray(0))
    x, y, *_ = jax.lax.while_loop(lambda s: s[2] & (s[3] < _MOST_SWEEPS), sweep, start)
    return jnp.concatenate([x, y])[:num_rows]
