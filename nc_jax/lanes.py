"""Arithmetic of many small systems at once, each in one lane of the last axis.

With the batch on the first axis, a matrix product of S systems is S tiny products, each with the
overhead of a call. With the batch on the last axis it is a sum of vectors of length S, which
processors vectorise for any shape of the matrices.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

# The most terms of a sum that is written term by term, and the most numbers of the right factor of
# one lane. The right factor is read again for each row of the left one, and a larger factor does
# not fit into the first-level cache of a core. At 320 numbers matrix products are as fast, and
# beyond that faster (docs/sweeps.md).
_MOST_TERMS = 256


def is_small(*counts: int) -> bool:
    """Whether sums of so many terms, and right factors of so many numbers, are faster as terms."""
    return max(counts) <= _MOST_TERMS


def product(left: Float[Array, "I T S"], right: Float[Array, "T J S"]) -> Float[Array, "I J S"]:
    """Matrix product of each lane, written as a sum of T terms.

    Example: the product of every lane, here of two lanes of 1 x 2 and 2 x 1 matrices.

        >>> from nc_jax.lanes import product
        >>> product(jnp.ones((1, 2, 2)), jnp.array([[[1.0, 10.0]], [[2.0, 20.0]]])).tolist()
        [[[3.0, 30.0]]]
    """
    # Not `jnp.einsum`, which would compute one small matrix product for each lane.
    terms = [left[:, t, None] * right[None, t] for t in range(left.shape[1])]
    return functools.reduce(jnp.add, terms)


def reduce_classes(
    combine: Callable[[Array, Array], Array], scores: Float[Array, "N K *lanes"]
) -> Float[Array, "N 1 *lanes"]:
    """Sum (`jnp.add`) or maximum (`jnp.maximum`) over the second axis, which has size 1 afterwards.

    With lanes the reduction is written term by term, because XLA does not vectorise reductions over
    an axis before the last one on a CPU.
    """
    if scores.ndim > 2 and is_small(scores.shape[1]):
        columns = [scores[:, k : k + 1] for k in range(scores.shape[1])]
        return functools.reduce(combine, columns)
    reduce = jnp.max if combine is jnp.maximum else jnp.sum
    return reduce(scores, axis=1, keepdims=True)


@jax.custom_jvp
def formed(values: PyTree[Array], witness: Array) -> PyTree[Array]:
    """The values unchanged, computed once and written to memory at this point.

    XLA fuses the computation of an array into every operation that reads it, and so computes a sum
    of products again for each reader. `optimization_barrier` prevents this fusion, but not on a
    CPU, where XLA removes the barrier before it fuses. On a CPU the values pass through a loop that
    is never entered. The condition of the loop reads `witness`, so that the compiler cannot know
    that it is false.

    Args: `witness` is any array with one or more numbers that is computed before the values.
    """

    def loop(values: PyTree[Array], witness: Array) -> PyTree[Array]:
        first = witness[(0,) * witness.ndim]
        # Always false, since no number is both. XLA does not simplify this condition.
        enter = jnp.isnan(first) & jnp.isinf(first)
        # The body negates the values: XLA removes a loop that leaves its values unchanged.
        return jax.lax.while_loop(
            lambda carry: carry[0],
            lambda carry: (jnp.zeros_like(enter), jax.tree.map(jnp.negative, carry[1])),
            (enter, values),
        )[1]

    def barrier(values: PyTree[Array], witness: Array) -> PyTree[Array]:
        del witness
        return jax.lax.optimization_barrier(values)

    return jax.lax.platform_dependent(values, witness, cpu=loop, default=barrier)


@formed.defjvp
def _formed_jvp(
    primals: tuple[PyTree[Array], Array], tangents: tuple[PyTree[Array], Array]
) -> tuple[PyTree[Array], PyTree[Array]]:
    """The derivative of the identity, since a `while_loop` has no derivative in reverse mode."""
    return formed(*primals), tangents[0]
