"""The dtypes of computations, and arithmetic with their full precision on every device."""

from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, PyTree

# NumPy's float64 scalars are among them, because `np.float64` is a subclass of `float`.
_PYTHON_NUMBERS = (bool, int, float)


def matmul(left: Float[Array, "..."], right: Float[Array, "..."]) -> Float[Array, "..."]:
    """Matrix product with the full precision of its dtype.

    By default accelerators round the significands of float32 operands to 10 or 7 bits. Errors of
    that size exceed the tolerance of an integration, and the spread within classes of a collapsed
    state.
    """
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def weak_scalar(value: float | Float[Array, ""]) -> float | Float[Array, ""]:
    """A scalar that does not promote a float32 state: NumPy's scalars become Python floats."""
    return value if isinstance(value, jax.Array) else float(value)


def largest_exponent(dtype: DTypeLike) -> float:
    """The log of the largest number of a dtype."""
    return np.log(np.finfo(dtype).max).item()


@overload
def widened(arrays: ArrayLike) -> Array: ...
@overload
def widened(arrays: PyTree) -> Any: ...
def widened(arrays: PyTree) -> Any:
    """The arrays of a pytree, all converted to one dtype that is precise enough to compute in.

    Every measure, loss and function of the landscape converts its arguments by this rule. Arrays of
    float16, bfloat16 and narrower dtypes count as float32. Integers and booleans count as JAX's
    default float (float64 where x64 is on). Python numbers take the dtype of the arrays. All arrays
    are converted to the widest of these dtypes. Arrays that are all float32, or all float64, are
    returned unchanged.

    Half precision is converted before it is squared or summed: the largest float16 is 65504, and a
    sum of bfloat16 numbers near 1 does not grow beyond 256.

    Raises: ValueError for complex numbers and other dtypes that are no real numbers.

    Example:

        >>> from nc_jax.precision import widened
        >>> widened(jnp.ones(3, jnp.bfloat16)).dtype
        dtype('float32')
    """
    leaves, structure = jax.tree.flatten(arrays)
    # Explicit and not by promotion in the operations, which is refused where promotion is strict.
    dtypes = [_wide(leaf) for leaf in leaves if not isinstance(leaf, _PYTHON_NUMBERS)]
    default = jnp.result_type(float)
    dtype = max(dtypes, key=lambda dtype: dtype.itemsize, default=default)
    return jax.tree.unflatten(structure, [_converted(leaf, dtype) for leaf in leaves])


def check_dtype(dtype: DTypeLike) -> None:
    """Raise ValueError unless states can have this dtype: float32, or float64 where JAX has it."""
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = repr(dtype)
    if name not in ("float32", "float64"):
        raise ValueError(
            f"dtype = {name}: give float32 or float64, which flows and closed forms compute in."
        )
    # `float` is JAX's default float, which is float32 where x64 is off.
    if jax.dtypes.canonicalize_dtype(dtype) != np.dtype(dtype) and dtype is not float:
        raise ValueError(f"dtype = {name}: set jax_enable_x64 to have it.")


def _wide(array: ArrayLike) -> np.dtype:
    """The dtype in which an array is computed where no wider one is present."""
    try:
        dtype = jnp.result_type(array)
    except TypeError:
        kind = type(array)
        raise ValueError(
            f"an array is of type {kind.__module__}.{kind.__name__} and dtype "
            f"{getattr(array, 'dtype', None)}: give real numbers in an array of NumPy or JAX."
        ) from None
    if jnp.issubdtype(dtype, jnp.floating):
        return dtype if dtype.itemsize >= 4 else jnp.dtype(jnp.float32)
    if jnp.issubdtype(dtype, jnp.integer) or dtype == np.dtype(bool):
        return jnp.result_type(float)
    raise ValueError(f"dtype {dtype}: give real numbers, such as float32 or float64.")


def _converted(array: ArrayLike, dtype: np.dtype) -> Float[Array, "..."]:
    # Returned as it is where the dtype is right, so that the program of a caller does not change.
    if isinstance(array, jax.Array) and array.dtype == dtype:
        return array
    return jnp.asarray(array, dtype)
