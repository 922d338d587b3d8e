"""Gradient of a loss of logits in features, classifier and bias, for many samples."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ...state import LastLayer

# Most entries of the logits that exist at one time: a few megabytes, which fit into a cache.
_LOGITS_AT_ONCE = 1 << 20


def pull_back(
    state: LastLayer,
    labels: Int[np.ndarray, " N"] | Float[Array, "N K"],
    residual: Callable[[Float[Array, "B K"], Array], Float[Array, "B K"]],
) -> LastLayer:
    """Gradient in the state of a loss with residual ∂L/∂Z, computed from parts of the samples.

    Logits of many samples do not fit into the cache. Every operation of the residual would write
    and read them in memory, which takes as long as the matrix products.

    Args: `labels` (N,), or targets (N, K); `residual` of logits (B, K) and the labels or targets
    of their samples.
    """

    def gradient_of(features: Float[Array, "B d"], labels: Array) -> LastLayer:
        part = LastLayer(features, state.classifier, state.bias)
        return part.pull_back(residual(part.logits(), labels))

    num_samples, num_classes = state.features.shape[0], state.classifier.shape[0]
    num_parts = -(-num_samples * num_classes // _LOGITS_AT_ONCE)
    if num_parts == 1:
        return gradient_of(state.features, jnp.asarray(labels))
    # Rounded down, so that no part exceeds the limit.
    rows = num_samples // num_parts
    cut = num_parts * rows

    def add_part(total: tuple[Array, Array | None], samples: tuple[Array, Array]):
        gradient = gradient_of(*samples)
        last_layer = gradient.classifier, gradient.bias
        return jax.tree.map(jnp.add, total, last_layer), gradient.features

    # A scan needs parts of one size. The gradient of the remaining rows is the first term of the
    # sums. There may be no such rows, and the term is then 0.
    rest = gradient_of(state.features[cut:], jnp.asarray(labels[cut:]))
    parts = (
        state.features[:cut].reshape(num_parts, rows, -1),
        labels[:cut].reshape(num_parts, rows, *labels.shape[1:]),
    )
    (classifier, bias), features = jax.lax.scan(
        add_part, (rest.classifier, rest.bias), jax.tree.map(jnp.asarray, parts)
    )
    features = jnp.concatenate([features.reshape(cut, -1), rest.features])
    return LastLayer(features, classifier, bias)
