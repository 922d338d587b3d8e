"""Shapes and flows that the tests of Mixon's closed forms share."""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

# (K, d, n); d < K-1, d = K-1 and n = 1 among them.
SHAPES = [(3, 15, 3), (4, 2, 5), (2, 5, 3), (3, 2, 1)]


SEEDS = st.integers(0, 2**32 - 1)


def flat(states, axes=0):
    """States with so many leading axes as rows of numbers."""
    leaves = jax.tree.leaves(states)
    return np.concatenate([np.reshape(leaf, (*leaf.shape[:axes], -1)) for leaf in leaves], axis=-1)


def no_observables(state):
    return {}


@functools.cache
def value_rate_and_field(closed_form, problem_of, shape):
    """(start, t) -> a closed form, its derivative in t and the field there; compiled once."""
    problem = problem_of(*shape)

    def compute(start, t):
        value, rate = jax.jvp(lambda t: closed_form(problem, start, t), (t,), (jnp.ones(()),))
        return value, rate, problem.vector_field(0.0, value, None)

    return jax.jit(compute)


def check_shapes_and_dtypes(solution, problem, start):
    """Assert that a state of K=3, d=4, n=2 has the axes of time and the dtype of its start."""
    times = np.linspace(0, 1, 6).reshape(2, 3)
    # Tracing gives shapes and dtypes without a compilation.
    state = jax.eval_shape(lambda start: solution(problem, start, times), start)
    shapes = [leaf.shape for leaf in jax.tree.leaves(state)]
    assert shapes == [(2, 3, 6, 4), (2, 3, 3, 4), (2, 3, 3)]
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {np.dtype("float32")}
    at_one = jax.eval_shape(lambda start: solution(problem, start, 1), start)
    assert at_one.classifier.shape == (3, 4)
