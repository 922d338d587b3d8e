"""Arithmetic that keeps the precision of its dtype on every device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def matmul(left: Float[Array, "..."], right: Float[Array, "..."]) -> Float[Array, "..."]:
    """Matrix product at the full precision of its dtype.

    Accelerators round float32 operands to 10 or even 7 bits by default, which would undo both the
    tolerance of an integration and the centring of deep collapse.
    """
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def weak_scalar(value: float | Float[Array, ""]) -> float | Float[Array, ""]:
    """NumPy's scalars are Python numbers to us: they must not promote a float32 state."""
    return value if isinstance(value, jax.Array) else float(value)
