"""States at many times: checks, dtypes and axes of the closed forms of Mixon's flows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from ..checks import check_number
from ..precision import widened
from ..problems import UnconstrainedFeatures
from ..state import LastLayer, check_last_layer


def nan_where(condition: Bool[Array, ""], state: LastLayer) -> LastLayer:
    """The state, or NaN in all its arrays if the condition holds.

    For hypotheses of theorems that a traced state violates, since traced code cannot raise.
    """
    return jax.tree.map(lambda leaf: jnp.where(condition, jnp.nan, leaf), state)


def at_times(
    solution: Callable[[Float[Array, ""]], LastLayer],
    t: Float[ArrayLike, "*times"],
    like: LastLayer,
) -> LastLayer:
    """States at all times, in the dtype of `like`, with the leading axes of `t`."""
    t = times_of(t, like)
    # `vmap` takes one axis, so that times of any shape are flattened first.
    states = jax.vmap(solution)(t.reshape(-1))
    return jax.tree.map(lambda leaf: leaf.reshape(*t.shape, *leaf.shape[1:]), states)


def times_of(t: Float[ArrayLike, "*times"], state: LastLayer) -> Float[Array, "*times"]:
    """Times in the dtype of a state, checked to be finite and >= 0."""
    check_number("t", t)
    return jnp.asarray(t, state.classifier.dtype)


def checked_state(problem: UnconstrainedFeatures, state: LastLayer) -> LastLayer:
    """The state in a dtype to compute in; ValueError if it has other shapes than the problem."""
    check_last_layer(state)
    shapes = state.features.shape, state.classifier.shape
    dim = problem.feature_dim
    wanted = (problem.num_samples, dim), (problem.num_classes, dim)
    if shapes != wanted:
        raise ValueError(
            f"state: features and classifier of shapes {shapes[0]} and {shapes[1]} where the "
            f"problem has {wanted[0]} and {wanted[1]}; pass a state like problem.init(key)."
        )
    return widened(state)
