"""The logarithm of a loss with a penalty, also where the penalty is 0."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def log_with_penalty(log_loss: Float[Array, ""], penalty: Float[Array, ""]) -> Float[Array, ""]:
    """log(e^log_loss + penalty) for a penalty >= 0.

    λ may be an array that is 0. The chain rule has 0 times infinity there, from the logarithm of
    the penalty, which is NaN.

    Example: the derivative by the penalty is 1/loss at the penalty 0.

        >>> from nc_jax.problems.penalties import log_with_penalty
        >>> slope = jax.grad(log_with_penalty, argnums=1)(jnp.log(4.0), jnp.zeros(()))
        >>> round(float(slope), 6)
        0.25
    """
    return jnp.logaddexp(log_loss, jnp.log(penalty))


@log_with_penalty.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    total = log_with_penalty(*primals)
    of_loss, of_penalty = tangents
    # At most the largest float: infinity times the derivative 0 of the penalty would be NaN.
    inverse = jnp.exp(jnp.minimum(-total, jnp.log(jnp.finfo(total.dtype).max) - 1))
    return total, jnp.exp(primals[0] - total) * of_loss + inverse * of_penalty
