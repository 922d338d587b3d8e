"""Measures of neural collapse, every published variant under a separate name.

Papers use one name for different quantities ('NC1' differs by a factor K, 'NC4' means two things).
Therefore each key starts with the paper that defines it. M_c = μ_c − μ_G are class means centred by their
mean, w̃_c = w_c − mean_c w_c, E = (I − 11ᵀ/K)/√(K−1).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Integer, Real

from ..checks import check_matrix, is_traced
from ..geometry import (
    center,
    common_class_size,
    off_diagonal_mean,
    simplex_gram,
    squared_distances,
)
from ..labels import check_labels
from ..precision import matmul, widened
from ..state import LastLayer, check_last_layer
from .streaming import ClassMoments, Spread, class_means, class_moments, spread


def collapse_metrics(
    state: LastLayer, labels: Integer[ArrayLike, " N"]
) -> dict[str, Float[Array, ""]]:
    """Every collapse metric of a state, as scalars in its dtype, or float32 for half precision.

    The keys are the names of the functions in `metrics.single`, which have the equations and
    sources; `metrics.EQUATIONS` has them in one table.

    The `mixon_*` keys need classes of one size n. They are present if `labels` is a concrete array
    with balanced classes, and absent if it is not balanced or traced. A ratio of two zeros is NaN;
    the pseudo-inverse of Σ_B = 0 is 0, so that NC1 of coinciding means is 0.

    Args:
        state: features (N, d), classifier (K, d) and bias (K,) or None.
        labels: (N,) integers in 0..K−1, in any order.

    Raises: ValueError for other concrete labels, or a class without samples. Traced labels are
    checked for shape and dtype only, and a class without samples gives NaN.

    Example: a batch of states; entries that are not returned are neither compiled nor computed.

        >>> problem, keys = nc.ulpm(3, 4, 2), jax.random.split(jax.random.key(0), 5)
        >>> @jax.jit
        ... @jax.vmap
        ... def measure(key):
        ...     measures = nc.metrics.collapse_metrics(problem.init(key), problem.labels)
        ...     return measures["zhu_nc2"], measures["cdnv"]
        >>> [values.shape for values in measure(keys)]
        [(5,), (5,)]
    """
    state, labels, balanced = _checked_arguments(state, labels)
    return _from_arrays(state, labels, balanced)


def collapse_metric(
    name: str, state: LastLayer, labels: Integer[ArrayLike, " N"]
) -> Float[Array, ""]:
    """One entry of `collapse_metrics`, compiled without the operations of the others."""
    state, labels, balanced = _checked_arguments(state, labels)
    if name.startswith("mixon_") and not balanced:
        sizes = (
            "traced"
            if is_traced(labels)
            else f"of class sizes {np.bincount(np.asarray(labels)).tolist()}"
        )
        raise ValueError(f"labels are {sizes}: {name} needs concrete labels, of equal class sizes.")
    return _one_of(name, state, labels, balanced)


# The name is static, so that XLA removes the operations of the other metrics.
@functools.partial(jax.jit, static_argnums=(0, 3))
def _one_of(
    name: str, state: LastLayer, labels: Integer[Array, " N"], balanced: bool
) -> Float[Array, ""]:
    return _from_arrays(state, labels, balanced)[name]


def _checked_arguments(
    state: LastLayer, labels: Integer[ArrayLike, " N"]
) -> tuple[LastLayer, Integer[Array | np.ndarray, " N"], bool]:
    """State and labels to compute with, and whether the labels are concrete and balanced."""
    check_last_layer(state)
    state, num_classes = widened(state), state.classifier.shape[0]
    if num_classes < 2:
        raise ValueError(
            "state: the classifier has 1 row, for 1 class: collapse needs 2 or more classes; a "
            "single output z is read as the logits (-z/2, z/2)."
        )
    labels = check_labels(labels, num_classes, len(state.features), every_class=True)
    # Of traced labels the class sizes are unknown, and which keys a dict has cannot depend on them.
    balanced = not is_traced(labels) and common_class_size(labels, num_classes) is not None
    return state, labels, balanced


def _from_arrays(
    state: LastLayer, labels: Integer[Array | np.ndarray, " N"], balanced: bool
) -> dict[str, Float[Array, ""]]:
    """The metrics of a state, all its samples at once."""
    moments = class_moments(state.features, labels, state.classifier.shape[0])
    sums = spread(state.features, labels, moments, state.classifier, bias=state.bias)
    return collapse_from_statistics(
        moments, sums, state.classifier, bias=state.bias, balanced=balanced
    )


def collapse_from_statistics(
    moments: ClassMoments,
    sums: Spread,
    classifier: Real[Array, "K d"],
    *,
    bias: Real[Array, " K"] | None = None,
    balanced: bool = False,
) -> dict[str, Float[Array, ""]]:
    """The metrics of `collapse_metrics` from streamed statistics: see `metrics.streaming`.

    Args:
        moments: merged over all batches.
        sums: merged over all batches, around the means of `moments`.
        classifier: (K, d).
        bias: (K,) or None.
        balanced: whether all classes have one size, which adds the `mixon_*` keys.

    Raises: ValueError for `balanced` with concrete counts that differ.

    Example: two batches give the metrics of all samples, in the memory of one batch.

        >>> problem = nc.ulpm(3, 4, 2)
        >>> state, labels = problem.init(jax.random.key(0)), problem.labels
        >>> @jax.jit
        ... def streamed(batches, classifier):
        ...     first, second = (nc.metrics.class_moments(h, y, 3) for h, y in batches)
        ...     moments = nc.metrics.merge_moments(first, second)
        ...     parts = (nc.metrics.spread(h, y, moments, classifier) for h, y in batches)
        ...     sums = nc.metrics.merge_spreads(*parts)
        ...     return nc.metrics.collapse_from_statistics(moments, sums, classifier)["cdnv"]
        >>> batches = [(state.features[i::2], labels[i::2]) for i in (0, 1)]
        >>> found = streamed(batches, state.classifier)
        >>> bool(jnp.allclose(found, nc.metrics.cdnv(state, labels)))
        True
    """
    check_matrix("classifier", classifier, "(K, d)")
    moments, sums, classifier, bias = widened((moments, sums, classifier, bias))
    if balanced and not is_traced(moments.counts):
        counts = np.asarray(moments.counts)
        if np.any(counts != counts[0]):
            raise ValueError(
                f"balanced = True: classes have {counts.astype(int).tolist()} samples; leave it out."
            )
    means = class_means(moments)
    centered = center(means)
    # Norms and cosines of three sets of vectors at once: fewer operations to compile.
    vectors = jnp.stack([centered, center(classifier), classifier])
    norms = jnp.linalg.norm(vectors, axis=2)
    grams = matmul(vectors, vectors.swapaxes(1, 2))
    metrics = {
        **_variability(moments, sums, centered),
        **_equal_norms(norms),
        # Without a guard: the cosine of a zero vector is NaN.
        **_equal_angles(grams / (norms[:, :, None] * norms[:, None])),
        **_self_duality(vectors, norms),
        "zhu_nc2": _distance_to_simplex(grams[2]),
        "zhu_nc3": _distance_to_simplex(matmul(classifier, centered.T)),
        "zhu_nc4": _offset(classifier, jnp.mean(means, axis=0), bias),
    }
    if balanced:
        metrics |= _mixon(moments, classifier, bias, grams[2])
    return metrics


def _variability(
    moments: ClassMoments, sums: Spread, means: Float[Array, "K d"]
) -> dict[str, Float[Array, ""]]:
    """Variability of features around their class means."""
    nc1 = sums.whitened / sums.count
    variances = moments.scatter / moments.counts
    pairs = (variances[:, None] + variances[None]) / (2 * squared_distances(means))
    return {
        "ji_within_class_variation": sums.within / sums.around_global,
        "zhu_nc1": nc1 / means.shape[0],
        "papyan_nc1": nc1,
        "papyan_ncc_mismatch": sums.mismatches / sums.count,
        "cdnv": off_diagonal_mean(pairs),
    }


def _equal_norms(norms: Float[Array, "3 K"]) -> dict[str, Float[Array, ""]]:
    """Deviations of norms from their mean: of M_c, w̃_c and w_c."""
    num_classes = norms.shape[1]
    average = jnp.mean(norms, axis=1, keepdims=True)
    # jnp.std handles complex numbers too, and takes twice as many operations.
    deviations = jnp.sqrt(jnp.mean((norms - average) ** 2, axis=1))
    means, centered, uncentered = deviations / average[:, 0]
    # A Python float by `.item()`: NumPy's scalar is a float64, which would promote float32.
    unbiased = np.sqrt(num_classes / (num_classes - 1)).item()
    return {
        "ji_feature_norm_variation": means,
        "ji_classifier_norm_variation": centered,
        "papyan_feature_equinorm": unbiased * means,
        "papyan_classifier_equinorm": unbiased * uncentered,
    }


def _equal_angles(cosines: Float[Array, "3 K K"]) -> dict[str, Float[Array, ""]]:
    """Deviations of cosines from those of a simplex: between M_c, between w̃_c, between w_c."""
    gaps = jnp.abs(cosines + 1 / (cosines.shape[1] - 1))
    means, centered, uncentered = off_diagonal_mean(gaps)
    return {
        "ji_feature_cosine_gap": means,
        "ji_classifier_cosine_gap": centered,
        "papyan_classifier_cosine_gap": uncentered,
    }


def _self_duality(
    vectors: Float[Array, "3 K d"], norms: Float[Array, "3 K"]
) -> dict[str, Float[Array, ""]]:
    """Distances of classifiers from class means, both scaled to norm 1.

    Ji scales each row, with centred classifiers. Papyan scales the matrices, with uncentred ones.
    """
    means, centered, uncentered = vectors
    each = means / norms[0, :, None] - centered / norms[1, :, None]
    together = uncentered / jnp.linalg.norm(norms[2]) - means / jnp.linalg.norm(norms[0])
    return {
        "ji_self_duality": jnp.mean(jnp.linalg.norm(each, axis=1)),
        "papyan_self_duality": jnp.sum(together**2),
    }


def _offset(
    classifier: Float[Array, "K d"],
    global_mean: Float[Array, " d"],
    bias: Float[Array, " K"] | None,
) -> Float[Array, ""]:
    """Norm of the logits at the global mean."""
    logits = matmul(classifier, global_mean)
    return jnp.linalg.norm(logits if bias is None else logits + bias)


def _mixon(
    moments: ClassMoments,
    classifier: Float[Array, "K d"],
    bias: Float[Array, " K"] | None,
    gram: Float[Array, "K K"],
) -> dict[str, Float[Array, ""]]:
    """Strong-collapse errors (Mixon, SNC1-3 and figure 2), from class means and scatters alone."""
    num_classes = classifier.shape[0]
    bias = jnp.zeros(num_classes, classifier.dtype) if bias is None else bias
    # The classes are balanced, so that each count is n.
    root = jnp.sqrt(moments.counts[0])
    target = root * (jnp.eye(num_classes, dtype=gram.dtype) - 1 / num_classes)
    # On S the class means are W/√n, so that √n times the means is the W that the features imply.
    implied, scatter = root * moments.means, jnp.sum(moments.scatter)
    terms = jnp.stack([implied, classifier, implied - classifier])
    features, weights, gap = jnp.sum(terms**2, axis=(1, 2))
    # Π_S replaces both the implied and the actual W by the centred average of the two. That removes
    # half of their difference from each, and the mean over the classes from their average.
    shared = num_classes * jnp.sum(jnp.mean(implied + classifier, axis=0) ** 2)
    off_s = scatter + (gap + shared) / 2 + jnp.sum((bias - jnp.mean(bias)) ** 2)
    return {
        "mixon_snc1": jnp.linalg.norm(gram - target),
        "mixon_snc2": jnp.sqrt((scatter + gap) / (scatter + features)),
        "mixon_snc3": jnp.linalg.norm(bias - 1 / num_classes),
        "mixon_distance_to_s": jnp.sqrt(off_s / (scatter + features + weights + jnp.sum(bias**2))),
    }


def _distance_to_simplex(matrix: Float[Array, "K K"]) -> Float[Array, ""]:
    """‖A/‖A‖_F − E‖_F of a matrix A."""
    target = simplex_gram(matrix.shape[0], dtype=matrix.dtype)
    return jnp.linalg.norm(matrix / jnp.linalg.norm(matrix) - target)
