"""The dtypes that are computed in, and arithmetic that keeps their precision on every device."""

from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, PyTree

_PYTHON_NUMBERS = (bool, int, float)


def matmul(left: Float[Array, "..."], right: Float[Array, "..."]) -> Float[Array, "..."]:
    """Matrix product at the full precision of its dtype.

    Accelerators round float32 operands to 10 or even 7 bits by default, which would undo both the
    tolerance of an integration and the centring of deep collapse.
    """
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def weak_scalar(value: float | Float[Array, ""]) -> float | Float[Array, ""]:
    """NumPy's scalars are Python numbers to us: they must not promote a float32 state."""
    return value if isinstance(value, jax.Array) else float(value)


@overload
def widened(arrays: ArrayLike) -> Array: ...
@overload
def widened(arrays: PyTree) -> Any: ...
def widened(arrays: PyTree) -> Any:
    """The arrays of a pytree in one dtype that is precise enough to compute in.

    The rule for every measure, loss and function of the landscape. Arrays of float16, bfloat16 and
    narrower count as float32, integers and booleans as JAX's default float (float64 where x64 is
    on), and Python numbers take the dtype of the arrays. The widest of these is the dtype of all.
    Arrays that are all float32 or all float64 are returned as they are.

    Half precision is converted before anything is squared or summed: float16 ends at 65504, and a
    sum of bfloat16 numbers near 1 stops at 256.

    Raises: ValueError for complex numbers and other dtypes that are no real numbers.

    Example: `widened(jnp.ones(3, jnp.bfloat16)).dtype` is float32.
    """
    leaves, structure = jax.tree.flatten(arrays)
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
    if jax.dtypes.canonicalize_dtype(dtype) != np.dtype(dtype) and dtype is not float:
        raise ValueError(f"dtype = {name}: set jax_enable_x64 to have it.")


def _wide(array: ArrayLike) -> np.dtype:
    """The dtype that an array by itself is computed in."""
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
    # As it is where nothing changes, so that compiled programs do not depend on this function.
    if isinstance(array, jax.Array) and array.dtype == dtype:
        return array
    return jnp.asarray(array, dtype)
