"""Half squared error of logits from one-hot labels."""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Integer, Real

from .base import Loss
from .logits import checked, one_hot


class SquaredError(Loss):
    """Half squared error ℓ(z, y) = ½‖z − onehot(y)‖² (Mixon, section 2; Zhu's MSE runs).

    Example:

        >>> nc.SquaredError().value(jnp.zeros((1, 3)), jnp.array([0])).tolist()
        [0.5]
    """

    is_squared_error: ClassVar[bool] = True
    accepts_lanes: ClassVar[bool] = True

    def value(
        self, logits: Real[Array, "N K"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, " N"]:
        """ℓ_i, shape (N,)."""
        return jnp.sum(self.gradient(logits, labels) ** 2, axis=1) / 2

    def gradient(
        self, logits: Real[Array, "N K *lanes"], labels: Integer[ArrayLike, " N"]
    ) -> Float[Array, "N K *lanes"]:
        """∂ℓ_i/∂z_i = z_i − onehot(y_i), shape of the logits.

        Axes after the classes are lanes: systems with the same labels.
        """
        logits, labels = checked(logits, labels)
        return logits - one_hot(logits, labels).astype(logits.dtype)
