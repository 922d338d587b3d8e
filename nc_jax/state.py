"""The state that models evolve and metrics read: features and a last layer."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from .checks import check_arrays, check_kind
from .precision import matmul, widened


class LastLayer(eqx.Module):
    """Features of the last layer and the linear classifier on them.

    Rows are samples and classes, as in machine-learning code. The papers' H (d x N) is
    `features.T`, and their W (K x d) is `classifier`.

    All arrays of a flow or a descent have one dtype, float32 or float64, in which everything is
    computed. Measures, losses and the landscape also take other dtypes, such as the float16 and
    bfloat16 of mixed-precision training. They convert these by `precision.widened`, and compute in
    float32 at least.

    Attributes:
        features: (N, d).
        classifier: (K, d).
        bias: (K,), or None for a model without a bias.

    Example: the logits are features times classifierᵀ.

        >>> state = nc.LastLayer(features=jnp.array([[1.0, 2.0]]), classifier=jnp.eye(2))
        >>> state.logits().tolist()
        [[1.0, 2.0]]
    """

    features: Real[Array, "N d"]
    classifier: Real[Array, "K d"]
    bias: Real[Array, " K"] | None = None

    def logits(self) -> Float[Array, "N K"]:
        """Class scores z = H Wᵀ + b, shape (N, K): the transpose of the papers' WH + b 1ᵀ."""
        state = widened(self)
        scores = matmul(state.features, state.classifier.T)
        # `[None]`, because JAX may be set to refuse operands of different rank.
        return scores if state.bias is None else scores + state.bias[None]

    def pull_back(self, residual: Float[Array, "N K"]) -> "LastLayer":
        """Gradient of a function f of the logits, from R = ∂f/∂Z of shape (N, K): (RW, RᵀH, Rᵀ1).

        The products are written by hand: reverse-mode differentiation would add further kernels,
        which take longer than the products.
        """
        state, residual = widened((self, residual))
        return LastLayer(
            features=matmul(residual, state.classifier),
            classifier=matmul(residual.T, state.features),
            bias=None if self.bias is None else jnp.sum(residual, axis=0),
        )

    def squared_norm(self) -> Float[Array, ""]:
        """ρ² = ‖W‖_F² + ‖H‖_F² (Ji, section 3); the bias is not part of it."""
        state = widened(self)
        return jnp.sum(state.features**2) + jnp.sum(state.classifier**2)


def check_last_layer(state: object, *, name: str = "state") -> None:
    """Raise ValueError unless this is one `LastLayer`, with shapes (N, d), (K, d) and (K,)."""
    check_kind(name, state, LastLayer, "problem.init(key) or LastLayer(features, classifier)")
    assert isinstance(state, LastLayer)  # For type checkers: `check_kind` has refused other types.
    check_arrays(name, state)
    features, classifier = np.shape(state.features), np.shape(state.classifier)
    if len(features) != 2 or len(classifier) != 2 or features[1] != classifier[1]:
        raise ValueError(
            f"{name}: features have shape {features} and the classifier {classifier}; give rows of "
            "samples and of classes, (N, d) and (K, d), and a batch of states under jax.vmap."
        )
    if state.bias is not None and np.shape(state.bias) != classifier[:1]:
        raise ValueError(
            f"{name}: bias has shape {np.shape(state.bias)} where the classifier has "
            f"{classifier[0]} rows; give {classifier[:1]}."
        )
