"""Samples of a ReLU net: checked inputs and targets, the classes that targets name, and margins."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from ...checks import check_number, is_traced
from ...geometry import split_at_label
from ...measures import logit_margins
from ...precision import widened

# Inputs that were scaled to norm 1 in float32 may exceed 1 by rounding errors.
_NORM_TOLERANCE = 1e-5


def check_samples(
    prefix: str, inputs: ArrayLike, targets: ArrayLike
) -> tuple[Float[Array, "N d"], Float[Array, "N C"]]:
    """Inputs (N, d) and targets (N, C) in a dtype to compute in; ValueError for others.

    Args: `prefix` precedes the names of both arguments in a message: "" for training samples, or
    "test_" for test samples, which need not have every class.
    """
    for name, values in (("inputs", inputs), ("targets", targets)):
        check_number(prefix + name, values, signed=True)
    shapes = np.shape(inputs), np.shape(targets)
    if len(shapes[0]) != 2 or len(shapes[1]) not in (1, 2) or shapes[0][0] != shapes[1][0]:
        raise ValueError(
            f"{prefix}inputs have shape {shapes[0]} and {prefix}targets {shapes[1]}: give (N, d) "
            "and (N,) or (N, C)."
        )
    if not is_traced(inputs):
        # In float64, because half precision does not resolve the tolerance.
        largest = float(np.max(np.linalg.norm(np.asarray(inputs, float), axis=1), initial=0.0))
        if not largest <= 1 + _NORM_TOLERANCE:
            raise ValueError(
                f"{prefix}inputs have norms up to {largest:g}: scale them to at most 1, as "
                "inputs / largest norm."
            )
    if not is_traced(targets):
        _check_targets(prefix, np.asarray(targets))
    x, y = widened(inputs), widened(targets)
    return x, y[:, None] if y.ndim == 1 else y


def classes_of(targets: Float[Array, "N C"]) -> Int[Array, " N"]:
    """The class of each sample, int32: 0 for −1, 1 for +1, or the column of the largest target."""
    if targets.shape[1] == 1:
        return (targets[:, 0] > 0).astype(jnp.int32)
    return jnp.argmax(targets, axis=1).astype(jnp.int32)


def output_margins(outputs: Float[Array, "N C"], labels: Int[Array, " N"]) -> Float[Array, " N"]:
    """Margins: y z of a single output z, else the output of the class minus the largest other."""
    if outputs.shape[1] == 1:
        return entry_of_class(outputs, labels)
    return logit_margins(outputs, labels)


def entry_of_class(values: Float[Array, "N C"], labels: Int[Array, " N"]) -> Float[Array, " N"]:
    """The entry of each row at its class; for a single column z the product y z with y = ±1."""
    if values.shape[1] == 1:
        return jnp.where(labels == 1, values[:, 0], -values[:, 0])
    return split_at_label(values, labels)[0]


def _check_targets(prefix: str, targets: np.ndarray) -> None:
    one_column = targets.ndim == 1 or targets.shape[1] == 1
    if one_column and not np.all(np.abs(targets) == 1):
        raise ValueError(
            f"{prefix}targets hold {targets[np.abs(targets) != 1][0]:g}: give ±1, or (N, C) with "
            "one column for each of 2 or more classes."
        )
    if not one_column:
        # NaN equals nothing, so that a row with a NaN has no largest target either.
        largest = np.sum(targets == np.max(targets, axis=1, keepdims=True), axis=1)
        if np.any(largest != 1):
            row = int(np.argmax(largest != 1))
            raise ValueError(
                f"{prefix}targets: row {row} = {targets[row].tolist()} has no single largest "
                "entry, which names the class; give one-hot rows."
            )
    # Test samples may lack a class; training on a class without samples is refused.
    present = np.unique(targets if one_column else np.argmax(targets, axis=1)).size
    wanted = 2 if one_column else targets.shape[1]
    if not prefix and present < wanted:
        raise ValueError(
            f"targets name {present} of {wanted} classes: every class needs 1 or more samples."
        )
