"""The Gauss-Newton matrix of a classifier divided by classes: what its outliers are made of."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from ..checks import check_arrays
from ..display import summary
from ..errors import ArgumentError
from ..landscape import GaussNewtonOf, HessianOf
from ..losses import Loss
from ..precision import matmul
from .curvature import Logits, Parameters, WeightedLoss


class ClassShares(eqx.Module):
    """Result of `class_shares`: vᵀGv of each direction v, and the four parts that add up to it.

    Attributes:
        total: (m,) vᵀ G v; of a unit eigenvector the eigenvalue.
        classes: (m,) vᵀ G_class v, of the means over samples and other classes.
        cross_classes: (m,) vᵀ G_cross v, of the means over samples, relative to those of `classes`.
        within: (m,) vᵀ G_within v, of the samples, relative to their means.
        labels: (m,) vᵀ G_label v, of the gradients towards the label itself.

    Example: see `class_shares`.

        >>> from nc_jax import cnn
        >>> cnn.ClassShares(*jnp.array([[4.0], [2.0], [1.0], [1.0], [0.0]])).shares.tolist()
        [[0.5, 0.25, 0.25, 0.0]]
    """

    total: Float[Array, " m"]
    classes: Float[Array, " m"]
    cross_classes: Float[Array, " m"]
    within: Float[Array, " m"]
    labels: Float[Array, " m"]

    def __repr__(self) -> str:
        return summary(self)

    @property
    def shares(self) -> Float[Array, "m 4"]:
        """The four parts, in the order of the attributes, over the total."""
        parts = jnp.stack([self.classes, self.cross_classes, self.within, self.labels], axis=-1)
        return parts / self.total[:, None]


class ClassEigenvalues(eqx.Module):
    """Result of `class_eigenvalues`: nonzero eigenvalues of two parts, in descending order.

    Attributes:
        classes: (K,) of G_class.
        cross_classes: (K(K−2),) of G_cross.

    Example: see `class_eigenvalues`.

        >>> from nc_jax import cnn
        >>> cnn.ClassEigenvalues(jnp.ones(3), jnp.zeros(3))
        ClassEigenvalues(classes=f64[3], cross_classes=f64[3])
    """

    classes: Float[Array, " K"]
    cross_classes: Float[Array, " pairs"]

    def __repr__(self) -> str:
        return summary(self)


def class_shares(
    curvature: HessianOf | GaussNewtonOf, parameters: Parameters, vectors: Parameters
) -> ClassShares:
    """Divide vᵀGv, for given directions v, into the parts of the Gauss-Newton matrix G by class.

    G = Σ_{i,c'} w_{i,c'} g_{i,c'} g_{i,c'}ᵀ, where g_{i,c'} = J_iᵀ(p_i − e_{c'}) is the gradient of
    sample i as if its label were c', and w_{i,c'} = p_{i,c'}/N (Papyan 2020, cross-entropy with
    p = softmax(z)). Under the square loss g_{i,c'} = J_iᵀ e_{c'} and w_{i,c'} = 1/N. For samples i
    of class c and c' ≠ c let g_{c,c'} be the weighted means over i, K(K−1) in number, and g_c their
    weighted means over c', K in number. Then G = G_class + G_cross + G_within + G_label:

    - G_class = Σ_c w_c g_c g_cᵀ, of rank K at most, whose eigenvalues are the largest outliers;
    - G_cross = Σ_{c,c'≠c} w_{c,c'} (g_{c,c'} − g_c)(g_{c,c'} − g_c)ᵀ, of rank K(K−2) at most, the
      other outliers, about K² in number;
    - G_within = Σ_{i,c'≠y_i} w_{i,c'} (g_{i,c'} − g_{y_i,c'})(g_{i,c'} − g_{y_i,c'})ᵀ, the bulk;
    - G_label = Σ_i w_{i,y_i} g_{i,y_i} g_{i,y_i}ᵀ, small under cross-entropy after training.

    A direction needs one forward derivative of the logits; no gradient g is formed.

    Args:
        curvature: of `curvature_for(..., kind="gauss_newton")`, without `train`, under
            `CrossEntropy` or `SquaredError`.
        parameters: the parameters that `curvature_for` returned.
        vectors: directions, such as `extreme_eigenpairs(...).vectors`: arrays like the parameters
            with an axis of directions in front.

    Raises: ValueError for another curvature, or vectors of other names or shapes.

    Example: the parts of the two largest eigenvalues.

        >>> from nc_jax import cnn, images
        >>> from flax import nnx
        >>> network = cnn.ConvNet(1, 2, widths=(3,), dtype=jnp.float64, rngs=nnx.Rngs(0))
        >>> data = images.ImageSet(np.eye(4).reshape(4, 2, 2, 1), np.arange(4) % 2, ("a", "b"))
        >>> curvature, parameters = cnn.curvature_for(
        ...     network, data, kind="gauss_newton", dtype=jnp.float64
        ... )
        >>> found = nc.landscape.extreme_eigenpairs(curvature, parameters, num=2, end="largest")
        >>> parts = cnn.class_shares(curvature, parameters, found.vectors)
        >>> bool(jnp.allclose(parts.total, found.values))
        True
        >>> bool(jnp.allclose(jnp.sum(parts.shares, axis=1), 1))
        True
    """
    outputs, loss = _checked(curvature)
    check_arrays("vectors", vectors)
    for name, array in parameters.items():
        shape = np.shape(vectors[name]) if name in vectors else None
        if shape is None or shape[1:] != array.shape:
            raise ArgumentError(
                f"vectors have {name} of shape {shape} where the parameters have {array.shape}: "
                "give the same names, with an axis of directions in front.",
                "vectors",
            )
    chosen = {name: vectors[name] for name in parameters}
    return _class_shares(outputs, loss, curvature.batches, parameters, chosen)


def class_eigenvalues(
    curvature: HessianOf | GaussNewtonOf, parameters: Parameters
) -> ClassEigenvalues:
    """Nonzero eigenvalues of G_class and G_cross, the parts of `class_shares` that are outliers.

    They are those of the K x K and K² x K² matrices of products of √w_c g_c and of
    √w_{c,c'} (g_{c,c'} − g_c). The K² mean gradients are summed batch by batch, which costs K
    gradients of the loss. The memory is that of K² times the parameters.

    Args and errors: as `class_shares`. Do not call it under jit or vmap.

    Example:
        >>> from nc_jax import cnn, images
        >>> from flax import nnx
        >>> network = cnn.ConvNet(1, 2, widths=(3,), rngs=nnx.Rngs(0))
        >>> data = images.ImageSet(np.eye(4).reshape(4, 2, 2, 1), np.arange(4) % 2, ("a", "b"))
        >>> curvature, parameters = cnn.curvature_for(network, data, kind="gauss_newton")
        >>> found = cnn.class_eigenvalues(curvature, parameters)
        >>> found.classes.shape, found.cross_classes.shape
        ((2,), (0,))
    """
    outputs, loss = _checked(curvature)
    return _class_eigenvalues(outputs, loss, _by_class(curvature.batches), parameters)


def _checked(curvature: object) -> tuple[Logits, Loss]:
    """The logits and the loss of a Gauss-Newton matrix whose parts are defined."""
    if not isinstance(curvature, GaussNewtonOf) or not isinstance(curvature.outputs, Logits):
        raise ArgumentError(
            f"curvature is of type {type(curvature).__name__}: give that of "
            "cnn.curvature_for(network, data, kind='gauss_newton').",
            "curvature",
        )
    assert isinstance(curvature.loss, WeightedLoss)
    loss = curvature.loss.loss
    if curvature.outputs.train:
        raise ArgumentError(
            "curvature is one with train = True, where a logit depends on all images: give "
            "train=False.",
            "curvature",
        )
    if not (loss.is_cross_entropy or loss.is_squared_error):
        raise ArgumentError(
            f"curvature has the loss {type(loss).__name__}: its parts by class are defined for "
            "CrossEntropy and SquaredError.",
            "curvature",
        )
    return curvature.outputs, loss


def _factors(
    loss: Loss, logits: Float[Array, "B K"]
) -> tuple[Float[Array, "B K"], Float[Array, "B K"]]:
    """Numbers w and p with ∇²ℓ = Σ_c w_c (p − e_c)(p − e_c)ᵀ: the softmax twice, or 1 and 0."""
    if loss.is_cross_entropy:
        softmax = jax.nn.softmax(logits, axis=1)
        return softmax, softmax
    return jnp.ones_like(logits), jnp.zeros_like(logits)


@eqx.filter_jit
def _class_shares(
    outputs: Logits, loss: Loss, batches: tuple[Array, ...], parameters: Parameters,
    vectors: Parameters,
) -> ClassShares:  # fmt: skip
    labels = batches[1].reshape(-1)

    def products(
        vector: Parameters, batch: tuple[Array, ...]
    ) -> tuple[Float[Array, "B K"], Float[Array, "B K"]]:
        """Weights w_{i,c'} and products ⟨g_{i,c'}, v⟩ of a batch."""
        logits, change = jax.jvp(lambda at: outputs(at, *batch), (parameters,), (vector,))
        weights, softmax = _factors(loss, logits)
        along = jnp.sum(softmax * change, axis=1, keepdims=True) - change
        return batch[2][:, None] * weights, along

    def parts(vector: Parameters) -> tuple[Float[Array, ""], ...]:
        weights, along = jax.lax.map(lambda batch: products(vector, batch), batches)
        num_classes = weights.shape[-1]
        return _parts(weights.reshape(-1, num_classes), along.reshape(-1, num_classes), labels)

    return ClassShares(*jax.lax.map(parts, vectors))


def _parts(
    weights: Float[Array, "N K"], along: Float[Array, "N K"], labels: Int[Array, " N"]
) -> tuple[Float[Array, ""], ...]:
    """The weighted sum of squares of numbers, and its parts by class and by pair of classes."""
    num_classes = weights.shape[1]
    members = jax.nn.one_hot(labels, num_classes, dtype=weights.dtype)
    means = _Means(matmul(members.T, weights), matmul(members.T, weights * along))
    others = 1 - members
    spread = along - means.of_pairs[labels]
    return (
        jnp.sum(weights * along**2),
        jnp.sum(means.class_weights * means.of_classes**2),
        jnp.sum(means.pair_weights * means.relative**2),
        jnp.sum(others * weights * spread**2),
        jnp.sum(members * weights * along**2),
    )


class _Means:
    """Weighted means of numbers or vectors by pair (c, c') of classes, and by class over c' ≠ c.

    Attributes:
        pair_weights: (K, K) sums w_{c,c'} of weights, 0 on the diagonal.
        class_weights: (K,) w_c, their sums over c'.
        of_pairs: (K, K, ...) means over the samples.
        of_classes: (K, ...) means of these over c' ≠ c.
        relative: (K, K, ...) their differences.
    """

    def __init__(self, weights: Float[Array, "K K"], sums: Float[Array, "K K *P"]):
        off_diagonal = 1 - jnp.eye(len(weights), dtype=weights.dtype)
        self.pair_weights = weights * off_diagonal
        self.class_weights = jnp.sum(self.pair_weights, axis=1)
        self.of_pairs = _divided(sums, weights)
        over_others = jnp.einsum(
            "cd,cd...->c...", off_diagonal, sums, precision=jax.lax.Precision.HIGHEST
        )
        self.of_classes = _divided(over_others, self.class_weights)
        self.relative = self.of_pairs - self.of_classes[:, None]


def _divided(sums: Float[Array, "..."], weights: Float[Array, "..."]) -> Float[Array, "..."]:
    """Sums over their weights; 0 where a weight is 0, as after underflow."""
    weights = weights.reshape(weights.shape + (1,) * (sums.ndim - weights.ndim))
    return jnp.where(weights > 0, sums / jnp.where(weights > 0, weights, 1), 0)


class _ClassBatches(NamedTuple):
    """Batches of samples of one class each."""

    classes: Int[Array, " batches"]
    samples: tuple[Array, ...]


def _by_class(batches: tuple[Array, ...]) -> _ClassBatches:
    """The samples of batches, in batches of the same size whose samples are all of one class."""
    size = batches[0].shape[1]
    flat = [np.asarray(array).reshape(-1, *array.shape[2:]) for array in batches]
    labels, weights = flat[1], flat[2]
    classes, rows = [], []
    for label in np.unique(labels):
        members = np.flatnonzero((labels == label) & (weights > 0))
        for first in range(0, len(members), size):
            chunk = members[first : first + size]
            classes.append(label)
            # −1 marks padding, which has the weight 0 below.
            rows.append(np.pad(chunk, (0, size - len(chunk)), constant_values=-1))
    table = np.stack(rows)
    images, labels, weights = (array[table] for array in flat)
    weights = np.where(table >= 0, weights, 0)
    return _ClassBatches(jnp.asarray(classes), jax.device_put((images, labels, weights)))


@eqx.filter_jit
def _class_eigenvalues(
    outputs: Logits, loss: Loss, batches: _ClassBatches, parameters: Parameters
) -> ClassEigenvalues:
    flat, _ = ravel_pytree(parameters)
    first = jax.tree.map(lambda array: array[0], batches.samples)
    num_classes = jax.eval_shape(outputs, parameters, *first).shape[1]

    def add(totals: tuple[Array, Array], batch: _ClassBatches) -> tuple[tuple[Array, Array], None]:
        logits, pull = jax.vjp(lambda at: outputs(at, *batch.samples), parameters)
        shares, softmax = _factors(loss, logits)
        weights = batch.samples[2][:, None] * shares
        sums = _pulled(pull, weights, softmax)
        total_weights, total_sums = totals
        return (
            total_weights.at[batch.classes].add(jnp.sum(weights, axis=0)),
            total_sums.at[batch.classes].add(sums),
        ), None

    pairs = (num_classes, num_classes)
    none = jnp.zeros(pairs, flat.dtype), jnp.zeros((*pairs, flat.size), flat.dtype)
    (weights, sums), _ = jax.lax.scan(add, none, batches)
    means = _Means(weights, sums)
    of_classes = jnp.sqrt(means.class_weights)[:, None] * means.of_classes
    of_pairs = (jnp.sqrt(means.pair_weights)[..., None] * means.relative).reshape(-1, flat.size)
    return ClassEigenvalues(
        classes=_squared_singular_values(of_classes),
        # The K vectors of a class are dependent: one is 0, and the weighted sum of the others is 0.
        cross_classes=_squared_singular_values(of_pairs)[: num_classes * (num_classes - 2)],
    )


def _pulled(
    pull: Callable[[Array], PyTree], weights: Float[Array, "B K"], softmax: Float[Array, "B K"]
) -> Float[Array, "K P"]:
    """Σ_i w_{i,c'} J_iᵀ(p_i − e_{c'}) for each c', one after another."""

    def towards(label: Int[Array, ""]) -> Float[Array, " P"]:
        at_label = jax.nn.one_hot(label, softmax.shape[1], dtype=softmax.dtype)
        cotangent = weights[:, label, None] * (softmax - at_label)
        return ravel_pytree(pull(cotangent)[0])[0]

    return jax.lax.map(towards, jnp.arange(softmax.shape[1]))


def _squared_singular_values(rows: Float[Array, "m P"]) -> Float[Array, " m"]:
    """Eigenvalues of the matrix Σ r rᵀ over rows r, largest first, from their products."""
    return jnp.maximum(jnp.linalg.eigvalsh(matmul(rows, rows.T))[::-1], 0)
