"""Features of one network on a set of images, for the measures of `nc_jax.metrics`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Float, PyTree, Real

from ..checks import check_arrays, check_kind
from ..errors import ArgumentError
from ..state import LastLayer
from .evaluation import layer_of, widened_layer
from .networks import Network


def last_layer(network: Network, images: Real[ArrayLike, "N H W C"]) -> LastLayer:
    """The last layer of a network on all images, computed batch by batch.

    Running statistics normalise the maps, as for the measures that `train` records. The network
    computes in its dtypes, at their full precision on accelerators too. The result is then
    converted to the widest float that JAX is set to, in which the measures are computed.

    Args:
        network: a network with weights, such as `from_torch(...)` or `trained.network()`.
        images: (N, H, W, C), scaled as in the training. Of a tensor of PyTorch (N, C, H, W) give
            `images.permute(0, 2, 3, 1).numpy()`.

    Returns: features (N, d) in the order of the images, classifier (K, d) and bias (K,) or None.

    Raises: ValueError for anything but a network, or images of another number of axes or none.

    Example:
        >>> from nc_jax import cnn
        >>> from flax import nnx
        >>> network = cnn.ConvNet(1, 2, widths=(3,), rngs=nnx.Rngs(0))
        >>> layer = cnn.last_layer(network, np.eye(4).reshape(4, 2, 2, 1))
        >>> layer
        LastLayer(features=f64[4,3], classifier=f64[2,3], bias=f64[2])
        >>> nc.metrics.zhu_nc1(layer, np.array([0, 1, 0, 1])).dtype
        dtype('float64')
    """
    check_weights(network)
    check_arrays("images", images)
    shape = np.shape(images)
    if len(shape) != 4 or 0 in shape:
        raise ArgumentError(f"images have shape {shape}: give one or more, (N, H, W, C).", "images")
    graph, state = nnx.split(network)
    return _last_layer(graph, nnx.to_pure_dict(state), jnp.asarray(images, network.dtype))


@functools.partial(jax.jit, static_argnums=0)
def _last_layer(
    graph: nnx.GraphDef[Network], state: PyTree, images: Float[Array, "N H W C"]
) -> LastLayer:
    # By default accelerators round the factors of a float32 product to fewer bits.
    with jax.default_matmul_precision("highest"):
        return widened_layer(layer_of(nnx.merge(graph, state), images))


def check_network(network: object) -> None:
    """Raise ValueError for anything but a network."""
    check_kind("network", network, Network, "cnn.ResNet(3, 10, rngs=flax.nnx.Rngs(0))")


def check_weights(network: object) -> None:
    """Raise ValueError for anything but a network with weights."""
    check_network(network)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(nnx.state(network))):
        raise ArgumentError(
            f"network = {type(network).__name__}(...) is the result of nnx.eval_shape and has no "
            "weights: give it those of a state dict by cnn.from_torch.",
            "network",
        )
