"""Starts and checks of the models whose state is a free last layer."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from ...checks import check_kind
from ...starts import checked_norm, gaussian_directions
from ...state import LastLayer
from ..reduction import check_reduction
from .decay import WeightDecay


def check_options(bias: object, weight_decay: object, reduction: object) -> None:
    """Raise ValueError for a bias, a weight decay or a reduction of another kind."""
    check_kind("bias", bias, (bool, np.bool_), "True")
    example = "WeightDecay(classifier=5e-4, features=5e-4)"
    check_kind("weight_decay", weight_decay, WeightDecay, example)
    check_reduction(reduction)


def gaussian_layer(
    key: Key[Array, ""],
    norm: Float[ArrayLike, ""],
    *,
    num_rows: tuple[int, int],
    feature_dim: int,
    bias: bool,
    dtype: DTypeLike,
) -> LastLayer:
    """Gaussian features and classifier of these numbers of rows, each of norm `norm`; bias 0."""
    scale = checked_norm(key, norm, dtype)
    shapes = tuple((count, feature_dim) for count in num_rows)
    features, classifier = gaussian_directions(jax.random.split(key), shapes, jnp.full(2, scale))
    return LastLayer(features, classifier, jnp.zeros(num_rows[1], scale.dtype) if bias else None)
