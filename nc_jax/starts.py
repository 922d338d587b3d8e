"""Random starts, with the same bits in every program."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int, Key

from .checks import check_key, check_number
from .lanes import formed
from .precision import check_dtype

# Matrices are drawn together in one loop, which compiles once, if the largest has at most this many
# numbers. Every pass of the loop takes the time of the largest matrix; for larger matrices that
# costs more than to compile a draw for each of them.
_DRAWN_TOGETHER = 1 << 13


def checked_norm(
    key: Key[Array, ""], norm: Float[ArrayLike, ""], dtype: DTypeLike, *, above_zero: bool = False
) -> Float[Array, ""]:
    """The norm of a random start in its dtype; ValueError for bad arguments of `init`.

    Args: `above_zero` refuses a norm of 0.
    """
    check_key(key)
    check_number("norm", norm, above_zero=above_zero, scalar=True)
    check_dtype(dtype)
    return jnp.asarray(norm, dtype)


def gaussian_direction(
    key: Key[Array, ""], shape: tuple[int, int], norm: Float[Array, ""]
) -> Float[Array, "rows columns"]:
    """A matrix of Gaussian numbers scaled to this Frobenius norm.

    Example:

        >>> from nc_jax.starts import gaussian_direction
        >>> matrix = gaussian_direction(jax.random.key(0), (3, 4), jnp.asarray(2.0))
        >>> matrix.shape, round(float(jnp.linalg.norm(matrix)), 6)
        ((3, 4), 2.0)
    """
    return gaussian_directions(key[None], (shape,), norm[None])[0]


@functools.partial(jax.jit, static_argnums=1)
def gaussian_directions(
    keys: Key[Array, " M"], shapes: tuple[tuple[int, int], ...], norms: Float[Array, " M"]
) -> tuple[Float[Array, "_ _"], ...]:
    """Gaussian matrices scaled to these Frobenius norms, with the same bits in any program.

    When a compiler fuses a start with the operations that read it, it may contract a product and a
    sum into one operation, change the order of a sum, and merge factors. Here `formed` separates
    the operations, and the sum of squares has a fixed order.

    Small matrices are drawn by one loop over arrays of the largest size, because each shape would
    need a compilation. The numbers are the same as without the loop: JAX's default generator
    gives a shorter array the first numbers of a longer one.

    Args: one key, shape and norm for each matrix.

    Returns: the matrices, in the dtype of the norms.
    """
    sizes = [math.prod(shape) for shape in shapes]
    if len(shapes) > 1 and max(sizes) > _DRAWN_TOGETHER:
        each = zip(keys, shapes, norms, strict=True)
        return tuple(gaussian_direction(key, shape, norm) for key, shape, norm in each)
    positions = jnp.arange(max(sizes))

    def draw(
        key: Key[Array, ""],
        size: Int[ArrayLike, ""],
        halves: Int[Array, " L"],
        norm: Float[Array, ""],
    ) -> Float[Array, " largest"]:
        normal = jax.random.normal(key, positions.shape, norm.dtype)
        # Each `formed` ends a fusion: without it the next operation could be contracted with this.
        gaussian = formed(jnp.where(positions < size, normal, 0), norm)
        squares = formed(gaussian**2, norm)
        length = formed(jnp.sqrt(_sum_of_pairs(squares, halves)), norm)
        return formed(gaussian * formed(norm / length, norm), norm)

    # `int` and the number of rows are explicit, because matrices of one number have no halves, and
    # an empty list would become an array of floats.
    data = keys, jnp.asarray(sizes), jnp.asarray(_halves(sizes), int).reshape(len(sizes), -1), norms
    if len(shapes) == 1:
        # No loop: XLA uses one core in a loop.
        return (draw(*jax.tree.map(lambda leaf: leaf[0], data)).reshape(shapes[0]),)
    # Not `jax.vmap`, under which each matrix reads its second halves by a gather: 5 times slower.
    rows = jax.lax.map(lambda data: draw(*data), data)
    return tuple(
        row[:size].reshape(shape) for row, size, shape in zip(rows, sizes, shapes, strict=True)
    )


@functools.partial(jax.jit, static_argnums=(1, 2))
def gaussian_unit_rows(
    key: Key[Array, ""], shape: tuple[int, int], dtype: DTypeLike
) -> Float[Array, "rows columns"]:
    """A matrix of independent rows, uniform on the unit sphere, with the same bits in any program.

    Example:

        >>> from nc_jax.starts import gaussian_unit_rows
        >>> rows = gaussian_unit_rows(jax.random.key(0), (3, 4), float)
        >>> np.linalg.norm(rows, axis=1).round(6).tolist()
        [1.0, 1.0, 1.0]
    """
    normal = jax.random.normal(key, shape, dtype)
    # As in `gaussian_directions`, each `formed` ends a fusion, and the order of the sum is fixed.
    squares = formed(normal**2, normal)
    halves = jnp.asarray(_halves([shape[1]])[0], int)
    totals = jax.vmap(_sum_of_pairs, (0, None))(squares, halves)
    return formed(normal / formed(jnp.sqrt(totals), normal)[:, None], normal)


def _halves(sizes: list[int]) -> list[list[int]]:
    """How many values remain after each step of `_sum_of_pairs`, one row for each size.

    Rows have the length that the largest size needs. Those of smaller sizes end in ones.
    """
    rows = [[] for _ in sizes]
    for row, left in zip(rows, sizes, strict=True):
        for _ in range((max(sizes) - 1).bit_length()):
            left = -(-left // 2)
            row.append(left)
    return rows


def _sum_of_pairs(values: Float[Array, " N"], halves: Int[Array, " L"]) -> Float[Array, ""]:
    """The sum in a fixed order: the second half is added to the first, until one value is left.

    The loop works on arrays of one size, since ten sizes would be ten programs to compile.
    """
    positions = jnp.arange(values.size)

    def add_second_half(values: Float[Array, " N"], half: Int[Array, ""]):
        # Values beyond the first half become 0, so that the last of an odd number of values adds 0.
        # Padded, because `dynamic_slice` moves a slice that would end beyond the array.
        second = jax.lax.dynamic_slice_in_dim(jnp.pad(values, (0, values.size)), half, values.size)
        return jnp.where(positions < half, values + second, 0), None

    return jax.lax.scan(add_second_half, values, halves)[0][0]
