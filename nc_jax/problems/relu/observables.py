"""Norms, margins and interpolation of a net, from its outputs."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ...geometry import membership
from .samples import classes_of, entry_of_class, output_margins


def norms_and_margins(
    outputs: Float[Array, "N C"],
    targets: Float[Array, "N C"],
    labels: Int[Array, " N"],
    *,
    layer_norms: Float[Array, " L"],
    alignment: Float[Array, " N"],
    normalized: Float[Array, "N C"],
) -> dict[str, Float[Array, "..."]]:
    """Observables of a `NormalizedReLUNet` that follow from norms, outputs and targets.

    Args: `layer_norms` ρ_k, `alignment` ⟨y_n, f_n⟩/ρ and `normalized` f_n/ρ of each sample.
    """
    norm = jnp.prod(layer_norms)
    margins = output_margins(outputs, labels)
    gap = jnp.mean(entry_of_class(targets - outputs, labels))
    spread = jnp.max(jnp.abs(outputs - _interpolating_outputs(targets, labels, gap)))
    return {
        "norm": norm,
        "layer_norms": layer_norms,
        "margins": margins / norm,
        "mean_margin": jnp.mean(alignment),
        "second_moment": jnp.mean(jnp.sum(normalized**2, axis=1)),
        "margin_std": jnp.std(alignment),
        "interpolation_gap": gap,
        "interpolation_spread": spread,
        "train_error": _share_wrong(margins),
    }


def classification_error(
    outputs: Float[Array, "N C"], targets: Float[Array, "N C"]
) -> Float[Array, ""]:
    """Share of the samples that are classified wrongly."""
    return _share_wrong(output_margins(outputs, classes_of(targets)))


def _share_wrong(margins: Float[Array, " N"]) -> Float[Array, ""]:
    # A tie of two classes has the margin 0 and counts as wrong.
    # So does NaN, of which `margins <= 0` is false.
    return jnp.mean((~(margins > 0)).astype(margins.dtype))


def _interpolating_outputs(
    targets: Float[Array, "N C"], labels: Int[Array, " N"], gap: Float[Array, ""]
) -> Float[Array, "N C"]:
    """Outputs of assumption 1: targets lower by ε at the class, higher by ε/(C−1) elsewhere.

    A single output is y(1 − ε). It stands for two classes with the targets ±½ and the gap ε/2,
    whose outputs are half as large.
    """
    num_outputs = targets.shape[1]
    if num_outputs == 1:
        return targets * (1 - gap)
    others = gap / (num_outputs - 1)
    return targets + jnp.where(membership(labels, num_outputs), -gap, others)
