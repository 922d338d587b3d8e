"""States and flat vectors that the tests of the landscape share."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import nc_jax as nc

DECAY = nc.WeightDecay(5e-3, 8e-3, 1e-2)
FREE = nc.WeightDecay(5e-3, 8e-3, 0.0)


def random_state(problem, seed, norm=2.0):
    """Gaussian, with a bias that is not zero."""
    state = problem.init(jax.random.fold_in(jax.random.key(7), seed), norm)
    if state.bias is None:
        return state
    bias = jax.random.normal(jax.random.key(seed), state.bias.shape)
    return nc.LastLayer(state.features, state.classifier, bias)


def origin(problem):
    """The state of zeros."""
    return jax.tree.map(jnp.zeros_like, problem.init(jax.random.key(0)))


def saddles(problem, radius=None):
    """Every explicit saddle of a problem by name, each turned by a key of its own."""
    found, classes = {}, problem.num_classes
    key = jax.random.key(11)
    for groups in range(2, classes):
        if classes % groups == 0:
            found[f"grouped {groups}"] = nc.exact.grouped_saddle(problem, groups, radius, key)
    if classes % 2 == 0 and classes > 2:
        found["paired"] = nc.exact.paired_saddle(problem, radius, key)
    for active in range(2, classes):
        found[f"subset {active}"] = nc.exact.subset_saddle(problem, active, radius, key)
    return found


def flat(state):
    """All numbers of a state as a NumPy vector."""
    return np.asarray(ravel_pytree(state)[0])


def moved(state, direction, step):
    """The state a step along a direction."""
    return jax.tree.map(lambda x, d: x + step * d, state, direction)


def on_circle(state, direction, angle):
    """The state turned by an angle towards a unit tangent direction, at the same norm."""
    radius = np.sqrt(float(state.squared_norm()))
    return jax.tree.map(
        lambda x, d: np.cos(angle) * x + radius * np.sin(angle) * d, state, direction
    )
