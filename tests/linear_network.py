"""A network without convolutions, which compiles fast and has gradients in one line of NumPy."""

import jax
import jax.numpy as jnp
from flax import nnx

from nc_jax import cnn
from nc_jax.cnn.layers import Head

NUM_CLASSES, SIDE, DIM = 3, 2, 4


class TwoLayers(cnn.Network):
    """Features Kᵀx of the pixels x of an image of SIDE x SIDE."""

    def __init__(self, etf=False, *, rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (SIDE**2, DIM), jnp.float32))
        super().__init__(jnp.float32, Head(DIM, NUM_CLASSES, etf=etf, rngs=rngs))

    def features(self, images, train):
        return (images.reshape(-1, SIDE**2) @ self.kernel[...])[:, None, None, :]


def two_layers(rngs):
    return TwoLayers(rngs=rngs)


def two_layers_with_a_fixed_classifier(rngs):
    return TwoLayers(etf=True, rngs=rngs)
