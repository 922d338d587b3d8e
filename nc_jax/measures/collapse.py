"""Measures of collapse of a state, for flows: every published variant under a separate name.

Papers use one name for different quantities ('NC1' differs by a factor K, 'NC4' means two things).
Therefore each key starts with the paper that defines it, except `cdnv`. The formulas are in
`measures.classical`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Integer, Real

from ..checks import check_matrix, is_traced
from ..geometry import common_class_size
from ..labels import check_labels
from ..precision import widened
from ..state import LastLayer, check_last_layer
from .registry import MEASURES
from .statistics import Statistics
from .streaming import ClassMoments, Spread, class_means, class_moments, spread

# The measures of a state that flows record.
OF_BALANCED_CLASSES = ("mixon_snc1", "mixon_snc2", "mixon_snc3", "mixon_distance_to_s")
OF_ANY_CLASSES = (
    "ji_within_class_variation", "zhu_nc1", "papyan_nc1", "papyan_ncc_mismatch", "cdnv",
    "ji_feature_norm_variation", "ji_classifier_norm_variation",
    "papyan_feature_equinorm", "papyan_classifier_equinorm",
    "ji_feature_cosine_gap", "ji_classifier_cosine_gap", "papyan_classifier_cosine_gap",
    "ji_self_duality", "papyan_self_duality", "zhu_nc2", "zhu_nc3", "zhu_nc4",
)  # fmt: skip


def collapse_metrics(
    state: LastLayer, labels: Integer[ArrayLike, " N"]
) -> dict[str, Float[Array, ""]]:
    """Every collapse metric of a state, as scalars in its dtype, or float32 for half precision.

    Each key is also a function, such as `metrics.zhu_nc1`, that returns this entry alone.
    `metrics.EQUATIONS` has the equations and their sources.

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
    return _from_arrays(state, labels, balanced=balanced)


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
    return _from_arrays(state, labels, balanced=balanced)[name]


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


# A jit here and in the functions below, so that a call outside of jit costs as much as one inside:
# it compiles once for each shape.
@functools.partial(jax.jit, static_argnames="balanced")
def _from_arrays(
    state: LastLayer, labels: Integer[Array, " N"], balanced: bool
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
    """The metrics of `collapse_metrics` from statistics of batches: `class_moments` and `spread`.

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
        ...     once = nc.metrics.whitening(moments)
        ...     parts = (
        ...         nc.metrics.spread(h, y, moments, classifier, whitening=once) for h, y in batches
        ...     )
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
    return _evaluated(moments, sums, classifier, bias, balanced=balanced)


@functools.partial(jax.jit, static_argnames="balanced")
def _evaluated(
    moments: ClassMoments,
    sums: Spread,
    classifier: Float[Array, "K d"],
    bias: Float[Array, " K"] | None,
    balanced: bool,
) -> dict[str, Float[Array, ""]]:
    statistics = Statistics(
        moments.counts,
        jnp.zeros_like(moments.means[0]),
        class_means(moments),
        moments.scatter,
        {
            name: getattr(sums, name)
            for name in ("within", "around_global", "whitened", "mismatches")
        },
        classifier=classifier,
        bias=bias,
    )
    names = OF_ANY_CLASSES + (OF_BALANCED_CLASSES if balanced else ())
    with jax.default_matmul_precision("highest"):
        return {name: MEASURES[name].compute(statistics) for name in names}
