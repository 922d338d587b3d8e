"""Per-class statistics of features, in batches of any size and order.

Two passes suffice for every collapse metric: the first merges class means and scatters batch by
batch (`class_moments`, `merge_moments`), the second, knowing the means, sums what is not a moment
(`spread`, `merge_spreads`). No (d, d) covariance is formed: `zhu_nc1` needs the within-class
scatter in the K−1 directions of the class means only, where a full covariance would lose it to
rounding as soon as the spread elsewhere is larger.

A row whose label is outside 0..K−1 is left out, so a last batch may be padded with label −1.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Integer

from ..geometry import above_rounding, center, membership
from ..precision import matmul
from ..state import LastLayer


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


def _whitening(centered_means: Float[Array, "K d"]) -> Float[Array, "d r"]:
    """Σ_B^{+½} up to a rotation: Σ_B = MᵀM/K for the (K, d) centred means M."""
    num_classes = centered_means.shape[0]
    _, singular, right = jnp.linalg.svd(centered_means, full_matrices=False)
    # The rank is at most K−1. What is left of a K-th value is the rounding of the global mean,
    # which no threshold relative to M can tell from signal when features sit far from 0.
    singular, right = singular[: num_classes - 1], right[: num_classes - 1]
    kept = above_rounding(singular, centered_means.shape)
    inverse = jnp.where(kept, 1 / jnp.where(kept, singular, 1), 0)
    return right.T * (inverse * jnp.sqrt(jnp.asarray(num_classes, singular.dtype)))
