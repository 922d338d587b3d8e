"""States and flat vectors that the tests of the landscape share.

Random states and moves are made by NumPy: each operation of JAX outside of a jit is a program.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import nc_jax as nc

DECAY = nc.WeightDecay(classifier=5e-3, features=8e-3, bias=1e-2)
FREE = nc.WeightDecay(classifier=5e-3, features=8e-3, bias=0.0)


@eqx.filter_jit
def objective(problem, state):
    return problem.objective(state)


@eqx.filter_jit
def gradient(problem, state):
    return problem.gradient(state)


def of_shape(problem, leaf):
    """A state whose leaves are made from their shapes."""
    classes, dim = problem.num_classes, problem.feature_dim
    shapes = [(problem.num_samples, dim), (classes, dim), (classes,)][: 2 + problem.bias]
    return nc.LastLayer(*(jnp.asarray(leaf(shape)) for shape in shapes))


def random_state(problem, seed, norm=2.0):
    """Gaussian, ‖W‖_F = ‖H‖_F = norm, with a bias that is not zero."""
    rng = np.random.default_rng([7, seed])

    def drawn(shape):
        values = rng.normal(size=shape)
        return norm * values / np.linalg.norm(values) if len(shape) == 2 else values

    return of_shape(problem, drawn)


def origin(problem):
    """The state of zeros."""
    return of_shape(problem, np.zeros)


@functools.cache
def minimizer(problem, seed=1):
    """A global minimum, turned by a key."""
    return nc.exact.regularized_minimizer(problem, key=jax.random.key(seed))


@functools.cache
def saddles(problem, radius=None):
    """Every explicit saddle of a problem by name, each turned by a key of its own."""
    found, classes = {}, problem.num_classes
    key = jax.random.key(11)
    for groups in range(2, classes):
        if classes % groups == 0:
            found[f"grouped {groups}"] = nc.exact.grouped_saddle(
                problem, groups, radius=radius, key=key
            )
    if classes % 2 == 0 and classes > 2:
        found["paired"] = nc.exact.paired_saddle(problem, radius=radius, key=key)
    for active in range(2, classes):
        found[f"subset {active}"] = nc.exact.subset_saddle(problem, active, radius=radius, key=key)
    return found


def flat(state):
    """All numbers of a state as a NumPy vector."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state)])


def stacked(states):
    """The states as a batch."""
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *states)


def moved(state, direction, step):
    """The state a step along a direction."""
    return jax.tree.map(lambda x, d: jnp.asarray(np.asarray(x) + step * d), state, direction)


def on_circle(state, direction, angle):
    """The state turned by an angle towards a unit tangent direction, at the same norm."""
    radius = np.sqrt(np.sum(np.square(state.features)) + np.sum(np.square(state.classifier)))
    return jax.tree.map(
        lambda x, d: jnp.asarray(np.cos(angle) * np.asarray(x) + radius * np.sin(angle) * d),
        state, direction,
    )  # fmt: skip
