"""Argument checks that know what a trace hides."""

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, DTypeLike


def is_traced(value: object) -> bool:
    """Whether the value is unknown now, being an argument of a jit, vmap or grad in progress."""
    return isinstance(value, jax.core.Tracer)


def check_number(name: str, value: ArrayLike, above_zero: bool = False) -> None:
    """Raise ValueError unless `value` is finite and >= 0 (or > 0); a traced value passes."""
    if is_traced(value):
        return
    numbers = np.asarray(value)
    allowed = np.isfinite(numbers) & (numbers > 0 if above_zero else numbers >= 0)
    if not np.all(allowed):
        first = numbers[~allowed][0]
        raise ValueError(f"{name} = {first}: give a finite number {'>' if above_zero else '>='} 0.")


def check_key(key: object) -> None:
    """Raise ValueError for a raw (untyped) key."""
    dtype = jnp.result_type(key)
    if not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise ValueError(f"key has dtype {dtype}: give a typed key, jax.random.key(seed).")


def check_dtype(dtype: DTypeLike) -> None:
    """Raise ValueError for a dtype that JAX's settings would silently replace."""
    if jax.dtypes.canonicalize_dtype(dtype) != np.dtype(dtype) and dtype is not float:
        raise ValueError(f"dtype = {np.dtype(dtype)}: set jax_enable_x64 to have it.")
