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
            since `value` may be zero.
        rate: of decay, per unit of the flow's time t; 0 for a conserved quantity.

    Example: the balance of two equal factors is 0, of terms of size ‖W‖² + ‖H‖² = 2.

        >>> state = nc.LastLayer(jnp.array([[1.0], [0.0]]), jnp.array([[1.0], [0.0]]))
        >>> invariant = nc.metrics.balance(state)
        >>> invariant.value.tolist(), float(invariant.scale)
        ([[0.0]], 2.0)
    """

    value: Float[Array, "..."]
    scale: Float[Array, ""]
    rate: Float[ArrayLike, ""] = 0.0


def balance(state: LastLayer, *, rate: Float[ArrayLike, ""] = 0.0) -> Invariant:
    """WᵀW − HHᵀ in the papers' notation, (d, d), conserved by the flow of every loss of WH.

    With decay λ on both factors it decays as e^(−2λt). It is implicit in Ji (C.9), and not printed
    in Mixon.

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


def drift(start: Invariant, now: Invariant, log_time: Float[ArrayLike, ""]) -> Float[Array, ""]:
    """‖I(t) − e^(−rate·t) I(0)‖ / scale(0), an error of the integration; absolute if scale(0) = 0.

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
    return jnp.linalg.norm(now.value - decay * start.value) / scale
