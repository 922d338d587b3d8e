"""Quantities that a gradient flow keeps: certificates of an integration."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ..precision import matmul, widened
from ..state import LastLayer, check_last_layer


class Invariant(eqx.Module):
    """A quantity whose exact value along the flow is e^(−rate·t) times its value at the start.

    `value`: array of any shape; `scale`: the size of the terms whose difference or sum it is, so
    that drift is relative to something that is not zero by accident; `rate`: per unit of the
    flow's time t, zero where the quantity is conserved.
    """

    value: Float[Array, "..."]
    scale: Float[Array, ""]
    rate: Float[ArrayLike, ""] = 0.0


def balance(state: LastLayer, rate: Float[ArrayLike, ""] = 0.0) -> Invariant:
    """WᵀW − HHᵀ in the papers' notation, (d, d): kept by every flow of a loss of WH.

    With decay λ on both factors it falls as e^(−2λt); implicit in Ji (C.9), not printed in Mixon.
    """
    check_last_layer(state)
    state = widened(state)
    classifier, features = state.classifier, state.features
    return Invariant(
        value=matmul(classifier.T, classifier) - matmul(features.T, features),
        scale=state.squared_norm(),
        rate=rate,
    )


def classifier_sum(state: LastLayer, rate: Float[ArrayLike, ""] = 0.0) -> Invariant:
    """Σ_c w_c, (d,): kept by cross-entropy, whose residuals sum to zero over the classes.

    With decay λ on the classifier it falls as e^(−λt).
    """
    check_last_layer(state)
    classifier = widened(state.classifier)
    return Invariant(
        value=jnp.sum(classifier, axis=0),
        scale=jnp.linalg.norm(classifier),
        rate=rate,
    )


def drift(start: Invariant, now: Invariant, log_time: Float[ArrayLike, ""]) -> Float[Array, ""]:
    """‖I(t) − e^(−rate·t) I(0)‖ / scale(0), with t given as log(1+t); absolute if scale(0) = 0."""
    rate = jnp.asarray(now.rate, start.value.dtype)
    # t itself may overflow to infinity; a conserved quantity must not turn that into 0 · ∞.
    decay = jnp.where(rate == 0, 1, jnp.exp(-rate * jnp.expm1(log_time)))
    scale = jnp.where(start.scale == 0, 1, start.scale)
    return jnp.linalg.norm(now.value - decay * start.value) / scale
