"""Hessian and Gauss-Newton matrix of a network's mean loss over an image set, as products."""

import math
from collections.abc import Mapping
from typing import Any, Literal, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int, PyTree

from ..checks import check_integer, check_kind, close_to
from ..errors import ArgumentError
from ..images import ImageSet
from ..labels import check_labels
from ..landscape import GaussNewtonOf, HessianOf
from ..losses import CrossEntropy, Loss
from ..precision import check_dtype
from ..state import LastLayer
from .features import check_network, check_weights
from .networks import Network

# Parameters of a network by their names, such as "convolutions.0.kernel".
Parameters = dict[str, Float[Array, "..."]]
KINDS = ("hessian", "gauss_newton")


class Logits(eqx.Module):
    """Logits of a batch of images as a function of some of the parameters of a network.

    Attributes:
        graph: the network without its arrays.
        structure, names: structure of its parameters, and their names in this order.
        fixed: the parameters that are no argument.
        rest: its other variables, running statistics among them.
        train: whether batch normalisation uses the statistics of the batch.
    """

    # Its text would fill pages of a message.
    graph: nnx.GraphDef = eqx.field(static=True, repr=False)
    structure: Any = eqx.field(static=True, repr=False)
    names: tuple[str, ...] = eqx.field(static=True)
    fixed: Parameters
    rest: PyTree
    train: bool = eqx.field(static=True)

    def __call__(
        self,
        parameters: Parameters,
        images: Float[Array, "B H W C"],
        labels: Int[Array, " B"],
        weights: Float[Array, " B"],
    ) -> Float[Array, "B K"]:
        """Logits of the images; labels and weights are not used."""
        return self.last_layer(parameters, images).logits()

    def last_layer(self, parameters: Parameters, images: Float[Array, "B H W C"]) -> LastLayer:
        """Features, classifier and bias at these parameters."""
        every = {**self.fixed, **parameters}
        nested = jax.tree.unflatten(self.structure, [every[name] for name in self.names])
        return nnx.merge(self.graph, nested, self.rest)(images, train=self.train)

    def with_fixed(self, fixed: Parameters) -> "Logits":
        """The same function, with these parameters as constants."""
        return Logits(self.graph, self.structure, self.names, fixed, self.rest, self.train)


class WeightedLoss(eqx.Module):
    """Σ_i weight_i ℓ(z_i, y_i) of the logits of a batch."""

    loss: Loss

    def __call__(
        self,
        logits: Float[Array, "B K"],
        images: Float[Array, "B H W C"],
        labels: Int[Array, " B"],
        weights: Float[Array, " B"],
    ) -> Float[Array, ""]:
        """The sum; the images are not used."""
        return jnp.dot(weights, self.loss.value(logits, labels))


class _LossOfParameters(eqx.Module):
    """The loss of a batch as a function of the parameters."""

    outputs: Logits
    loss: WeightedLoss

    def __call__(self, parameters: Parameters, *batch: Array) -> Float[Array, ""]:
        return self.loss(self.outputs(parameters, *batch), *batch)


def layer_names(network: Network) -> tuple[str, ...]:
    """The names of the layers of a network that have trained parameters.

    `curvature_for` also takes the beginning of such a name, such as "blocks.3" or "convolutions",
    for all layers whose names begin with it.

    Raises: ValueError for what is no network.

    Example:
        >>> from nc_jax import cnn
        >>> from flax import nnx
        >>> cnn.layer_names(cnn.ConvNet(1, 10, widths=(4, 8), rngs=nnx.Rngs(0)))
        ('convolutions.0', 'convolutions.1', 'head')
    """
    check_network(network)
    names, _, _ = _named(nnx.to_pure_dict(nnx.state(network, nnx.Param)))
    return _layers(names)


def curvature_for(
    network: Network,
    data: ImageSet,
    *,
    loss: Loss = CrossEntropy(),
    kind: Literal["hessian", "gauss_newton"] = "hessian",
    layer: str | None = None,
    batch_size: int | None = 500,
    dtype: DTypeLike | None = None,
    train: bool = False,
) -> tuple[HessianOf | GaussNewtonOf, Parameters]:
    """The curvature of L(θ) = (1/N) Σ_i ℓ(z(x_i; θ), y_i), and the parameters θ of the network.

    The curvature takes the place of a problem in `landscape.extreme_eigenpairs`, `sharpness`,
    `spectral_density`, `hessian_vector_product` and `dense_hessian`, and the parameters that of a
    state. It is ∇²L or, of the kind "gauss_newton", (1/N) Σ_i J_iᵀ ∇²ℓ(z_i) J_i with J_i = ∂z_i/∂θ.
    No matrix is formed: a product costs about two gradients of L.

    By default batch normalisation uses the running statistics, which are constants of L: the logits
    of an image then depend on this image alone. L is the recorded `train_loss`, without weight
    decay. A decay λ of all parameters adds λ to every eigenvalue.

    Args:
        network: a trained network, such as `cnn.train(...).network()`. It is not changed.
        data: images (N, H, W, C) with labels in 0..K−1.
        loss: ℓ, a loss of the logits.
        kind: "hessian" or "gauss_newton".
        layer: name of a layer, of `layer_names`, or the beginning of names; the parameters are then
            those of these layers, and the curvature is the block of the matrix on its diagonal that
            belongs to them. None for all parameters.
        batch_size: images in memory at a time; it has no influence on the result but by rounding.
            None for all images at once.
        dtype: float32 or float64, in which everything is computed; None for that of the parameters.
        train: whether batch normalisation uses the mean and the variance of all images, of which L
            then depends; this needs `batch_size=None`.

    Returns: the curvature, and a dict of arrays by name, such as "convolutions.0.kernel".

    Raises: ValueError for arguments of other kinds, an unknown layer, labels that are no classes of
    the network, or `train` with a batch size.

    Example:
        >>> from nc_jax import cnn, images
        >>> from flax import nnx
        >>> network = cnn.ConvNet(1, 2, widths=(3,), rngs=nnx.Rngs(0))
        >>> data = images.ImageSet(np.eye(4).reshape(4, 2, 2, 1), np.arange(4) % 2, ("a", "b"))
        >>> curvature, parameters = cnn.curvature_for(network, data, kind="gauss_newton")
        >>> {name: array.shape for name, array in parameters.items()}
        {'convolutions.0.kernel': (3, 3, 1, 3), 'head.bias': (2,), 'head.classifier': (2, 3)}
        >>> found = nc.landscape.extreme_eigenpairs(curvature, parameters, num=2, end="largest")
        >>> bool(found.converged), found.vectors["head.bias"].shape
        (True, (2, 2))
    """
    check_weights(network)
    check_kind("data", data, ImageSet, "images.load('digits')")
    check_kind("loss", loss, Loss, "nc_jax.CrossEntropy()")
    if kind not in KINDS:
        raise ArgumentError(f"kind = {kind!r}: give one of {', '.join(map(repr, KINDS))}.", "kind")
    if batch_size is not None:
        batch_size = check_integer("batch_size", batch_size)
        if train:
            raise ArgumentError(
                f"batch_size = {batch_size} with train = True: give batch_size=None, since the "
                "statistics are those of all images.",
                "batch_size",
            )
    outputs, every = outputs_of(network, dtype=dtype, train=train)
    chosen = _chosen(outputs.names, layer)
    outputs = outputs.with_fixed({n: array for n, array in every.items() if n not in chosen})
    dtype = next(iter(every.values())).dtype
    batches = batches_of(network, data, batch_size, dtype)
    weighted = WeightedLoss(loss)
    parameters = {name: every[name] for name in chosen}
    if kind == "gauss_newton":
        return GaussNewtonOf(outputs, weighted, batches), parameters
    return HessianOf(_LossOfParameters(outputs, weighted), batches), parameters


def outputs_of(
    network: Network, *, dtype: DTypeLike | None, train: bool
) -> tuple[Logits, Parameters]:
    """A function of all parameters of a network, and these parameters, in one dtype."""
    params, rest = (
        nnx.to_pure_dict(part) for part in nnx.split(network, nnx.Param, ...)[1:]
    )  # fmt: skip
    names, arrays, structure = _named(params)
    dtype = _dtype_of(arrays, dtype)
    arrays, rest = jax.tree.map(lambda leaf: _in_dtype(leaf, dtype), (arrays, rest))
    graph = _graph_in_dtype(network, dtype)
    outputs = Logits(graph, structure, names, fixed={}, rest=rest, train=train)
    return outputs, dict(zip(names, arrays, strict=True))


def _named(params: Mapping) -> tuple[tuple[str, ...], list[Array], Any]:
    """Names and arrays of nested parameters, and their structure."""
    flat, structure = jax.tree_util.tree_flatten_with_path(params)
    names = tuple(".".join(str(key.key) for key in path) for path, _ in flat)
    return names, [leaf for _, leaf in flat], structure


def _layers(names: tuple[str, ...]) -> tuple[str, ...]:
    """The layers of parameters of these names."""
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in names))


def _chosen(names: tuple[str, ...], layer: str | None) -> tuple[str, ...]:
    """The names of the parameters of a layer, or of several whose names begin with `layer`."""
    if layer is None:
        return names
    chosen = tuple(name for name in names if name.startswith(f"{layer}."))
    if not chosen:
        layers = _layers(names)
        raise ArgumentError(
            f"layer = {layer!r} is no layer with parameters.{close_to(layer, layers)} Give one of "
            f"{', '.join(layers)}, or the beginning of their names before a dot.",
            "layer",
        )
    return chosen


def _dtype_of(arrays: list[Array], dtype: DTypeLike | None) -> np.dtype:
    """The dtype to compute in: the given one, or the widest of the parameters."""
    if dtype is not None:
        check_dtype(dtype)
        return jax.dtypes.canonicalize_dtype(dtype)
    return max((array.dtype for array in arrays), key=lambda dtype: dtype.itemsize)


def _in_dtype(leaf: Array, dtype: np.dtype) -> Array:
    """A floating array in another dtype; integers, such as counts, are left as they are."""
    return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _graph_in_dtype(network: Network, dtype: np.dtype) -> nnx.GraphDef:
    """The graph of a copy of the network whose layers compute in another dtype."""
    copy = nnx.clone(network)
    for _, module in nnx.iter_modules(copy):
        if getattr(module, "dtype", None) is not None:
            cast(Any, module).dtype = dtype
    return nnx.graphdef(copy)


def batches_of(
    network: Network, data: ImageSet, batch_size: int | None, dtype: np.dtype
) -> tuple[Array, Array, Array]:
    """Images, labels and weights in batches of one size: weights 1/N, and 0 for padding."""
    if np.ndim(data.images) != 4:
        raise ArgumentError(
            f"data: images of shape {np.shape(data.images)}; give (N, H, W, C), as "
            "images.normalize returns them.",
            "data",
        )
    count = len(data.images)
    num_classes = network.head.classifier[...].shape[0]
    labels = check_labels(data.labels, num_classes, count, name="data: labels")
    num_batches = 1 if batch_size is None else math.ceil(count / batch_size)
    # Batches as equal as possible, so that the padding is less than one image for each batch.
    size = math.ceil(count / num_batches)
    rows = np.minimum(np.arange(num_batches * size), count - 1).reshape(num_batches, size)
    weights = np.where(np.arange(num_batches * size) < count, 1 / count, 0)
    return (
        jnp.asarray(np.asarray(data.images)[rows], dtype),
        jnp.asarray(np.asarray(labels)[rows], jnp.int32),
        jnp.asarray(weights.reshape(num_batches, size), dtype),
    )
