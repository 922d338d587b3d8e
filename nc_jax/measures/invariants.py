"""Quantities that a gradient flow conserves: certificates of an integration."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ..precision import matmul, widened
from ..state import LastLayer, check_last_layer


class Invariant(eqx.Module):
    """A quantity whose exact value along the flow is e^(−rate·t) times its value at the start.

    Attributes:
        value: array of any shape.
        scale: size of the terms whose sum or difference is `value`. Drift is relative to `scale`,
            since `value` may be zero. A scale with axes, the first ones of `value`, has one size
            for each part of the value, and each part has its own drift.
        rate: of decay, per unit of the flow's time t; 0 for a conserved quantity. One number, or
            one for each part.

    Example: the balance of two equal factors is 0, of terms of size ‖W‖² + ‖H‖² = 2.

        >>> state = nc.LastLayer(jnp.array([[1.0], [0.0]]), jnp.array([[1.0], [0.0]]))
        >>> invariant = nc.metrics.balance(state)
        >>> invariant.value.tolist(), float(invariant.scale)
        ([[0.0]], 2.0)
    """

    value: Float[Array, "..."]
    scale: Float[Array, "*parts"]
    rate: Float[ArrayLike, "*rates"] = 0.0


def balance(state: LastLayer, *, rate: Float[ArrayLike, ""] = 0.0) -> Invariant:
    """WᵀW − HᵀH, (d, d), with features as the rows of H: conserved for every loss of the logits.

    With decay λ on both factors it decays as e^(−2λt). It is implicit in Ji (C.9), where features
    are columns and it is WᵀW − HHᵀ, and not printed in Mixon.

    Args: `rate` is 2λ; 0 if there is no decay.

    Returns: an `Invariant` with the difference as its `value`.

    Raises: ValueError if the state is not a `LastLayer`.

    Example:

        >>> state = nc.LastLayer(jnp.array([[1.0], [1.0]]), jnp.array([[2.0], [1.0]]))
        >>> nc.metrics.balance(state).value.tolist()
        [[3.0]]
    """
    check_last_layer(state)
    state = widened(state)
    classifier, features = state.classifier, state.features
    return Invariant(
        value=matmul(classifier.T, classifier) - matmul(features.T, features),
        scale=state.squared_norm(),
        rate=rate,
    )


def column_balance(state: LastLayer, *, rate: Float[ArrayLike, ""] = 0.0) -> Invariant:
    """‖W_j‖² − ‖H_j‖² of every coordinate j, (d,), the diagonal of `balance` (derived).

    The projected flow with H >= 0 conserves it, since an entry that it holds at 0 does not
    contribute. With decay λ on both factors it decays as e^(−2λt).

    Args: `rate` is 2λ; 0 if there is no decay.

    Raises: ValueError if the state is not a `LastLayer`.

    Example:

        >>> state = nc.LastLayer(jnp.array([[1.0], [1.0]]), jnp.array([[2.0], [1.0]]))
        >>> nc.metrics.column_balance(state).value.tolist()
        [3.0]
    """
    check_last_layer(state)
    state = widened(state)
    return Invariant(
        value=jnp.sum(state.classifier**2, axis=0) - jnp.sum(state.features**2, axis=0),
        scale=state.squared_norm(),
        rate=rate,
    )


def classifier_sum(state: LastLayer, *, rate: Float[ArrayLike, ""] = 0.0) -> Invariant:
    """Σ_c w_c, shape (d,), which a flow conserves if ∂ℓ/∂z sums to 0 over the classes.

    That holds for losses that do not change when one number is added to all logits of a sample,
    such as cross-entropy. With decay λ on the classifier the sum decays as e^(−λt).

    Args: `rate` is λ; 0 if there is no decay.

    Returns: an `Invariant` with the sum as its `value`.

    Raises: ValueError if the state is not a `LastLayer`.

    Example:

        >>> state = nc.LastLayer(jnp.eye(2), jnp.array([[2.0, 0.0], [1.0, 1.0]]))
        >>> nc.metrics.classifier_sum(state).value.tolist()
        [3.0, 1.0]
    """
    check_last_layer(state)
    classifier = widened(state.classifier)
    return Invariant(
        value=jnp.sum(classifier, axis=0),
        scale=jnp.linalg.norm(classifier),
        rate=rate,
    )


def drift(
    start: Invariant, now: Invariant, log_time: Float[ArrayLike, ""]
) -> Float[Array, "*parts"]:
    """‖I(t) − e^(−rate·t) I(0)‖ / scale(0), an error of the integration; absolute if scale(0) = 0.

    One number, or one for each part of the invariant where its scale has axes.

    Args:
        start: the invariant at time 0.
        now: the invariant at time t, whose rate is taken.
        log_time: log(1 + t), a scalar.

    Example: a conserved sum that has changed from 3 to 3.3.

        >>> start = nc.metrics.Invariant(jnp.array([3.0]), jnp.array(3.0))
        >>> now = nc.metrics.Invariant(jnp.array([3.3]), jnp.array(3.0))
        >>> round(float(nc.metrics.drift(start, now, log_time=2.0)), 6)
        0.1
    """
    # In the dtype of the value, which a float64 rate would promote.
    rate = jnp.asarray(now.rate, start.value.dtype)
    # t = expm1(log_time) overflows at far horizons, where 0 · ∞ would be NaN for rate 0.
    decay = jnp.where(rate == 0, 1, jnp.exp(-rate * jnp.expm1(log_time)))
    scale = jnp.where(start.scale == 0, 1, start.scale)
    parts = start.scale.shape
    decay = jnp.broadcast_to(decay, parts)[..., None]
    # All axes of a part as one. A value that is one number has a part of one entry.
    then, later = (x.value.reshape(*parts, -1) for x in (start, now))
    return jnp.linalg.norm(later - decay * then, axis=-1) / scale
