"""The kernel of a network's features by class, for the model `KernelFeatures`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, DTypeLike, Float, Key

from ..checks import check_integer, check_key, check_kind
from ..display import summary
from ..errors import ArgumentError
from ..geometry import membership
from ..images import ImageSet
from ..precision import matmul
from ..problems import BlockKernel, ClassKernel
from .curvature import Logits, Parameters, batches_of, outputs_of
from .features import check_weights
from .networks import Network


class FeatureKernel(eqx.Module):
    """Result of `feature_kernel`: means of the kernel Θ of a network's features.

    Attributes:
        class_sizes: images of each class.
        same_sample: (K,) means of Θ_ii over the images of each class.
        classes: (K, K) means of Θ_ij over images i ≠ j of two classes, or of one on the diagonal.

    Example: see `feature_kernel`.

        >>> from nc_jax import cnn
        >>> found = cnn.FeatureKernel((2, 2), jnp.array([3.0, 5.0]), jnp.array([[1.0, 0], [0, 1]]))
        >>> found.block_kernel()
        BlockKernel(same_sample=4.0, same_class=1.0, other_class=0.0)
    """

    class_sizes: tuple[int, ...] = eqx.field(static=True)
    same_sample: Float[Array, " K"]
    classes: Float[Array, "K K"]

    def __repr__(self) -> str:
        return summary(self)

    def class_kernel(self) -> ClassKernel:
        """Θ_ij = C_{y_i y_j} + s_{y_i} δ_ij with the means as entries.

        It is the mean of the network's kernel over permutations of the images of each class, and
        hence positive semidefinite for as many images, or fewer.
        """
        matrix, same = (np.asarray(x, float) for x in (self.classes, self.same_sample))
        return ClassKernel((matrix + matrix.T) / 2, same - np.diag(matrix))

    def block_kernel(self) -> BlockKernel:
        """kd, kc and kn: the means of the entries over classes, and over pairs of classes."""
        matrix = np.asarray(self.classes, float)
        within = float(np.mean(np.diag(matrix)))
        count = len(matrix)
        across = float((matrix.sum() - np.trace(matrix)) / (count * (count - 1)))
        return BlockKernel(float(np.mean(self.same_sample)), within, across)


def feature_kernel(
    network: Network,
    data: ImageSet,
    *,
    num_directions: int | None = None,
    key: Key[Array, ""] | None = None,
    batch_size: int = 16,
    dtype: DTypeLike | None = None,
) -> FeatureKernel:
    """Means by class of Θ_ij = (1/d) Σ_a ⟨∂h_ia/∂θ, ∂h_ja/∂θ⟩, the kernel of the features.

    θ are all parameters below the last layer, and batch normalisation uses its running statistics.
    In gradient flow the features of the network move as h_i' = −Σ_j Θ_ij ∂L/∂h_j, if the products
    of the derivatives of different features a ≠ b are 0, and those of one feature are the same for
    all a (as in Seleznova et al. 2023). `KernelFeatures` is the model with the means of Θ over
    images of each class. Θ belongs to one set of parameters, and changes in training.

    A derivative is computed for each image and each feature; sums of them over the images of each
    class give the means. Memory holds as many gradients as `batch_size` plus the number of classes.

    Args:
        network: a network, such as `cnn.train(...).network()`. It is not changed.
        data: images (N, H, W, C) with labels in 0..K−1, two images of each class or more.
        num_directions: None for all d features, or a number of random combinations of them with
            signs ±1, whose mean estimates Θ without bias.
        key: of the signs; None for `jax.random.key(0)`.
        batch_size: images whose gradients are in memory at a time.
        dtype: float32 or float64; None for that of the parameters.

    Raises: ValueError for arguments of other kinds, a class with fewer than two images, or a count
    below 1.

    Example: the model of a network on 16 images.

        >>> from nc_jax import cnn, images
        >>> from flax import nnx
        >>> network = cnn.ConvNet(1, 2, widths=(3,), rngs=nnx.Rngs(0))
        >>> data = images.ImageSet(np.eye(16).reshape(16, 4, 4, 1), np.arange(16) % 2, ("a", "b"))
        >>> found = cnn.feature_kernel(network, data)
        >>> found
        FeatureKernel(class_sizes=(8, 8), same_sample=f32[2], classes=f32[2,2])
        >>> nc.KernelFeatures(found.class_sizes, 3, kernel=found.class_kernel()).num_samples
        16
    """
    check_weights(network)
    check_kind("data", data, ImageSet, "images.load('digits')")
    check_integer("batch_size", batch_size)
    outputs, every = outputs_of(network, dtype=dtype, train=False)
    head = {name: array for name, array in every.items() if name.startswith("head.")}
    parameters = {name: array for name, array in every.items() if name not in head}
    if not parameters:
        raise ArgumentError("network has no parameters below its last layer: give one.", "network")
    dtype = next(iter(parameters.values())).dtype
    batches = batches_of(network, data, batch_size, dtype)
    num_classes, feature_dim = network.head.classifier[...].shape
    sizes = np.bincount(np.asarray(data.labels), minlength=num_classes)
    if sizes.min() < 2:
        raise ArgumentError(
            f"data has {sizes.min()} images of class {sizes.argmin()}: give two images of each "
            "class or more.",
            "data",
        )
    directions = _directions(feature_dim, num_directions, key, dtype)
    squares, products = _sums(outputs.with_fixed(head), batches, parameters, directions)
    counts = jnp.asarray(sizes, dtype)
    pairs = counts[:, None] * counts[None] - jnp.diag(counts)
    return FeatureKernel(
        class_sizes=tuple(sizes.tolist()),
        same_sample=squares / counts,
        classes=(products - jnp.diag(squares)) / pairs,
    )


def _directions(
    feature_dim: int, count: int | None, key: Key[Array, ""] | None, dtype: DTypeLike
) -> Float[Array, "R d"]:
    """Rows whose outer products have the sum I/d, exactly or in the mean."""
    if count is None:
        return jnp.eye(feature_dim, dtype=dtype) / np.sqrt(feature_dim).item()
    check_integer("num_directions", count)
    key = jax.random.key(0) if key is None else key
    check_key(key)
    signs = jax.random.rademacher(key, (count, feature_dim), dtype=dtype)
    return signs / np.sqrt(count * feature_dim).item()


@eqx.filter_jit
def _sums(
    outputs: Logits,
    batches: tuple[Array, Array, Array],
    parameters: Parameters,
    directions: Float[Array, "R d"],
) -> tuple[Float[Array, " K"], Float[Array, "K K"]]:
    """Sums over the images of each class of Θ_ii, and over pairs of images of Θ_ij."""
    flat, _ = ravel_pytree(parameters)
    num_classes = outputs.last_layer(parameters, batches[0][0]).classifier.shape[0]

    def gradient(direction: Array, image: Array) -> Float[Array, " P"]:
        def value(at: Parameters) -> Float[Array, ""]:
            return jnp.dot(outputs.last_layer(at, image[None]).features[0], direction)

        return ravel_pytree(jax.grad(value)(parameters))[0]

    def add_direction(totals: tuple[Array, Array], direction: Array):
        def add_batch(carry: tuple[Array, Array], batch: tuple[Array, Array, Array]):
            squares, sums = carry
            images, labels, weights = batch
            gradients = jax.vmap(gradient, (None, 0))(direction, images)
            # Padding has the weight 0.
            members = membership(labels, num_classes).T & (weights > 0)[None]
            members = members.astype(gradients.dtype)
            squares += matmul(members, jnp.sum(gradients**2, axis=1))
            return (squares, sums + matmul(members, gradients)), None

        none = jnp.zeros(num_classes, flat.dtype), jnp.zeros((num_classes, flat.size), flat.dtype)
        (squares, sums), _ = jax.lax.scan(add_batch, none, batches)
        return (totals[0] + squares, totals[1] + matmul(sums, sums.T)), None

    none = jnp.zeros(num_classes, flat.dtype), jnp.zeros((num_classes,) * 2, flat.dtype)
    return jax.lax.scan(add_direction, none, directions)[0]
