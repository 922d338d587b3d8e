"""Arithmetic of many small systems beside each other: one lane each, lanes along the last axis.

A batch axis in front turns every product into thousands of tiny ones, each with the overhead of a
call. With lanes last the same products are sums of vectors, which vectorise whatever the shapes.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

# Longest sum that is written out, and most numbers of a lane's right factor, which is read anew for
# each row of the left: more than these leave a core's nearest cache. Measured in docs/sweeps.md.
_MOST_TERMS = 256


def is_small(*counts: int) -> bool:
    """Whether sums of so many terms, or over factors of so many numbers, are better written out."""
    return max(counts) <= _MOST_TERMS


def product(left: Float[Array, "I T S"], right: Float[Array, "T J S"]) -> Float[Array, "I J S"]:
    """Matrix product of each lane, written out as a sum over T."""
    terms = [left[:, t, None] * right[None, t] for t in range(left.shape[1])]
    return functools.reduce(jnp.add, terms)


def reduce_classes(
    combine: Callable[[Array, Array], Array], scores: Float[Array, "N K *lanes"]
) -> Float[Array, "N 1 *lanes"]:
    """Sum (`jnp.add`) or largest (`jnp.maximum`) over the second axis, which stays with size 1.

    Written out where lanes follow, since XLA's reductions over an axis that is not the last are
    not vectorised on a CPU.
    """
    if scores.ndim > 2 and is_small(scores.shape[1]):
        columns = [scores[:, k : k + 1] for k in range(scores.shape[1])]
        return functools.reduce(combine, columns)
    reduce = jnp.max if combine is jnp.maximum else jnp.sum
    return reduce(scores, axis=1, keepdims=True)


@jax.custom_jvp
def formed(values: PyTree[Array], witness: Array) -> PyTree[Array]:
    """The values themselves, formed in memory here and nowhere else.

    XLA fuses what makes an array into all who read it, which for a sum of products means to form
    it anew for each of them. `optimization_barrier` forbids that, but not on a CPU, where XLA drops
    it before it fuses; a loop that is never entered is kept. `witness`, any array computed before,
    decides on that at run time, so that no compiler can.
    """

    def loop(values: PyTree[Array], witness: Array) -> PyTree[Array]:
        first = witness[(0,) * witness.ndim]
        enter = jnp.isnan(first) & jnp.isinf(first)
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
    """The identity's; a loop has no derivative in reverse."""
    return formed(*primals), tangents[0]
