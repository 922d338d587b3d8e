"""The one state that every model evolves and every metric reads: features under a last layer."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .precision import matmul


class LastLayer(eqx.Module):
    """Last-layer features with the linear classifier that reads them.

    Rows are samples and classes, as ML code writes them: the papers' `H` (d x N) is
    `features.T`, their `W` (K x d) is `classifier`.

    Shapes: `features` (N, d), `classifier` (K, d), `bias` (K,) or None for a model without one.
    All arrays share one floating dtype, which every computation follows.

    Example: `LastLayer(features=jnp.ones((6, 2)), classifier=jnp.ones((3, 2)))`.
    """

    features: Float[Array, "N d"]
    classifier: Float[Array, "K d"]
    bias: Float[Array, " K"] | None = None

    def logits(self) -> Float[Array, "N K"]:
        """Class scores z = H Wᵀ + b, shape (N, K): the transpose of the papers' WH + b 1ᵀ."""
        scores = matmul(self.features, self.classifier.T)
        return scores if self.bias is None else scores + self.bias

    def pull_back(self, residual: Float[Array, "N K"]) -> "LastLayer":
        """Gradient of a function of the logits, given R = ∂f/∂Z of shape (N, K): (RW, RᵀH, Rᵀ1).

        Written out, since reverse-mode autodiff costs more kernels than the products themselves.
        """
        return LastLayer(
            features=matmul(residual, self.classifier),
            classifier=matmul(residual.T, self.features),
            bias=None if self.bias is None else jnp.sum(residual, axis=0),
        )

    def squared_norm(self) -> Float[Array, ""]:
        """ρ² = ‖W‖_F² + ‖H‖_F² (Ji, section 3); the bias is not part of it."""
        return jnp.sum(self.features**2) + jnp.sum(self.classifier**2)
