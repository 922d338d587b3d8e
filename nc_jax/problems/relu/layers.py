"""The state of a ReLU net: weights, or norms and directions; and a ReLU without kinks."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...checks import check_number


class SmoothReLU(eqx.Module):
    """(z + √(z² + w²))/2: a ReLU rounded over a width w, to be given as `activation`.

    The gradient of a net with this activation is smooth, where that of a ReLU net jumps at kinks. A
    stabilised solver then follows the flow with the accuracy of its tolerance, also where the flow
    of the ReLU net slides along a kink. The activation is homogeneous to O(w), and identities that
    need homogeneity hold to O(w). docs/relu.md has measurements.

    Raises: ValueError for a width that is not finite and above 0.

    Example:

        >>> nc.SmoothReLU(width=1e-3)(jnp.array([-1.0, 0.0, 1.0])).round(4).tolist()
        [0.0, 0.0005, 1.0]
    """

    width: float = eqx.field(default=1e-6, kw_only=True)

    def __check_init__(self):
        check_number("width", self.width, above_zero=True)

    def __call__(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """The activation of every entry, shape of z."""
        return (z + jnp.sqrt(z**2 + self.width**2)) / 2


class Layers(eqx.Module):
    """The state of a net: weights W_k, or norms and directions with W_k = ρ_k V_k.

    Attributes:
        matrices: W_k, or V_k where there are norms; the k-th is (outputs, inputs) of layer k.
        norms: (m,) ρ_k of the last m layers, where ρ_k = 1 for the other layers; None where the
            matrices are the W_k.

    Example:

        >>> state = nc.Layers((jnp.eye(2), jnp.ones((1, 2))), norms=jnp.array([3.0]))
        >>> [weight.tolist() for weight in state.weights()]
        [[[1.0, 0.0], [0.0, 1.0]], [[3.0, 3.0]]]
    """

    matrices: tuple[Float[Array, "_ _"], ...]
    norms: Float[Array, " m"] | None = None

    def radii(self) -> tuple[Float[Array, ""], ...]:
        """ρ_k of every layer, with which the matrices are multiplied."""
        one = jnp.ones((), self.matrices[0].dtype)
        given = () if self.norms is None else tuple(self.norms)
        return (one,) * (len(self.matrices) - len(given)) + given

    def weights(self) -> tuple[Float[Array, "_ _"], ...]:
        """W_k of every layer."""
        if self.norms is None:
            return self.matrices
        return tuple(rho * v for rho, v in zip(self.radii(), self.matrices, strict=True))

    def squared_norms(self) -> list[Float[Array, ""]]:
        """‖W_k‖_F² of every layer: ρ_k² where there are norms, with ‖V_k‖ taken as 1."""
        if self.norms is not None:
            return [rho**2 for rho in self.radii()]
        return [inner(weight, weight) for weight in self.matrices]


def inner(left: Float[Array, "m n"], right: Float[Array, "m n"]) -> Float[Array, ""]:
    """Σ_ij a_ij b_ij."""
    return jnp.sum(left * right)


def tangent(slope: Float[Array, "m n"], matrix: Float[Array, "m n"]) -> Float[Array, "m n"]:
    """The part of a slope along the sphere of the matrix, plus a term that pulls ‖V‖ to 1.

    In equation 7 this term is d‖V‖²/dt = 4ν(1 − ‖V‖²): it pulls the norm to 1 where ν > 0, and
    pushes it away where ν < 0. Here the term is proportional to the speed of V along the sphere, so
    that errors of an integration decay with the distance that V has covered. It is 0 at ‖V‖ = 1.
    """
    square = inner(matrix, matrix)
    # Divided by ‖V‖², so that the projection is exact where an integration has left the sphere.
    turn = slope - inner(slope, matrix) / square * matrix
    # The least normal number is added, because the square root has no derivative at 0.
    speed = jnp.sqrt(inner(turn, turn) + jnp.finfo(turn.dtype).tiny)
    return turn + speed * (square - 1) * matrix
