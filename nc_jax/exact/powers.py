"""Powers and singular values with finite derivatives at the origin and between equal classes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..precision import matmul


def power_or_zero(base: Float[Array, "*shape"], exponent: float) -> Float[Array, "*shape"]:
    """base^exponent for base >= 0, with the derivative 0 where the base is 0.

    A minimum that is at the origin for an interval of decays has the base 0 and the derivative 0
    there, where the chain rule has infinity times 0.

    Example:

        >>> from nc_jax.exact.powers import power_or_zero
        >>> float(jax.grad(lambda x: power_or_zero(jnp.maximum(x - 1, 0), 0.5))(0.25))
        0.0
    """
    positive = base > 0
    return jnp.where(positive, jnp.where(positive, base, 1) ** exponent, 0)


@jax.custom_jvp
def singular_value_decomposition(
    matrix: Float[Array, "K K"],
) -> tuple[Float[Array, "K K"], Float[Array, " K"], Float[Array, "K K"]]:
    """U, σ and Vᵀ, whose derivative leaves out rotations between equal singular values.

    Classes of one size have equal singular values, and a parameter that is the same for all of them
    does not rotate their singular vectors. The derivative of `jnp.linalg.svd` is NaN there. Do not
    use it for a parameter that separates equal singular values: its singular vectors have no
    derivative.

    Example: a multiple of the identity.

        >>> from nc_jax.exact.powers import singular_value_decomposition
        >>> singular = lambda x: singular_value_decomposition(x * jnp.eye(2))[1]
        >>> jax.jacfwd(singular)(3.0).tolist()
        [1.0, 1.0]
    """
    left, singular, right = jnp.linalg.svd(matrix)
    return left, singular, right


@singular_value_decomposition.defjvp
def _(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
    left, singular, right = singular_value_decomposition(*primals)
    change = matmul(matmul(left.T, tangents[0]), right.T)
    squares = singular**2
    gaps = squares[None] - squares[:, None]
    # Rounding leaves relative differences of 1e-15 in the place of 0.
    apart = jnp.abs(gaps) > 1e4 * jnp.finfo(gaps.dtype).eps * squares[0]
    inverse = jnp.where(apart, 1 / jnp.where(apart, gaps, 1), 0)
    of_left = inverse * (change * singular[None] + singular[:, None] * change.T)
    of_right = inverse * (singular[:, None] * change + change.T * singular[None])
    rotated = matmul(left, of_left), jnp.diagonal(change), matmul(of_right.T, right)
    return (left, singular, right), rotated
