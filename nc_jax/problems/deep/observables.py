"""Observables and invariants of the layers of a deep model."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ...measures import MEASURES, Invariant, Statistics, class_moments, spread
from ...precision import matmul
from ..unconstrained.decay import common_decay
from .decay import Decays
from .state import DeepFeatures

# The measure of `nc_jax.measures` that each observable of the inputs of a layer is.
_OF_FEATURES = {
    "layer_nc1": "zhu_nc1",
    "layer_nc2": "kothapalli_nc2",
    "layer_cdnv": "cdnv",
    "layer_effective_rank": "roy_effective_rank_class_means",
}
# With the remaining product of a linear net as the classifier.
_OF_PRODUCTS = {"layer_nc3": "ji_self_duality"}


def layer_measures(
    features: Sequence[Float[Array, "N _"]],
    labels: Int[np.ndarray, " N"],
    num_classes: int,
    *,
    classifiers: Sequence[Float[Array, "K _"]] | None,
) -> dict[str, Float[Array, " L"]]:
    """The measures of the inputs of every layer, by name.

    Args: `classifiers` with which the inputs of every layer have the logits of the net, where there
    are such: without them `layer_nc3` is left out.
    """
    names = _OF_FEATURES if classifiers is None else {**_OF_FEATURES, **_OF_PRODUCTS}
    columns = {name: [] for name in names}
    for position, rows in enumerate(features):
        moments = class_moments(rows, labels, num_classes)
        # The measures of features do not depend on the classifier. The means only fill its place.
        classifier = moments.means if classifiers is None else classifiers[position]
        sums = {"whitened": spread(rows, labels, moments, classifier).whitened}
        origin = jnp.zeros_like(moments.means[0])
        statistics = Statistics(
            moments.counts, origin, moments.means, moments.scatter, sums, classifier=classifier
        )
        with jax.default_matmul_precision("highest"):
            for name, measure in names.items():
                columns[name].append(MEASURES[measure].compute(statistics))
    return {name: jnp.stack(values) for name, values in columns.items()}


def singular_values(
    weights: Sequence[Float[Array, "_ _"]], num_classes: int
) -> Float[Array, "L K"]:
    """The K largest singular values of every matrix, with zeros where a matrix has fewer."""
    rows = []
    for weight in weights:
        found = jnp.linalg.svd(weight, compute_uv=False)[:num_classes]
        rows.append(jnp.pad(found, (0, num_classes - found.size)))
    return jnp.stack(rows)


def neighbour_balance(state: DeepFeatures, decays: Decays, *, units_alone: bool) -> Invariant:
    """W_1ᵀW_1 − HᵀH and W_{l+1}ᵀW_{l+1} − W_l W_lᵀ, padded to one width (L, w, w).

    Args: `units_alone` leaves only the diagonals of all pairs but the first, which the activation
    leaves conserved.
    """
    features, *weights = state.factors()
    width = max(weight.shape[1] for weight in weights)
    values, scales, rates = [], [], []
    # Hᵀ has the shape of a matrix before W_1, with the samples as its inputs.
    factors = itertools.pairwise([features.T, *weights])
    pairs = zip(factors, itertools.pairwise(decays), strict=True)
    for position, ((before, after), (rate, next_rate)) in enumerate(pairs):
        if units_alone and position > 0:
            value = jnp.diag(jnp.sum(after**2, axis=0) - jnp.sum(before**2, axis=1))
        else:
            value = matmul(after.T, after) - matmul(before, before.T)
        values.append(jnp.pad(value, (0, width - after.shape[1])))
        scales.append(jnp.sum(before**2) + jnp.sum(after**2))
        rates.append(jnp.asarray(2 * common_decay(rate, next_rate), features.dtype))
    return Invariant(jnp.stack(values), jnp.stack(scales), jnp.stack(rates))
