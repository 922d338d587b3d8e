"""Geometry of class vectors: centring, angles, the simplex ETF, and the subspaces of collapse."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, DTypeLike, Float, Integer, Key, Real

from .checks import check_integer, check_key, is_traced
from .labels import check_labels, class_sizes
from .precision import check_dtype, matmul, widened
from .state import LastLayer, check_last_layer

# Numbers that differences of all pairs of vectors may take at once: half a megabyte, of which a
# batch of states has one each.
_DIFFERENCES_AT_ONCE = 1 << 16


def membership(labels: Integer[ArrayLike, " N"], num_classes: int) -> Bool[Array, "N K"]:
    """One-hot labels as booleans, shape (N, K); a label outside 0..K−1 gives a row of False."""
    labels = jnp.asarray(labels)
    if labels.dtype.itemsize < 4:
        # There may be more classes than int8 or uint8 can count.
        labels = labels.astype(jnp.int32)
    return labels[:, None] == jnp.arange(num_classes, dtype=labels.dtype)[None]


def split_at_label(
    logits: Float[Array, "N K"], labels: Integer[ArrayLike, " N"]
) -> tuple[Float[Array, " N"], Float[Array, "N K"]]:
    """z_y, shape (N,), and the logits with −∞ in its place, shape (N, K)."""
    at_label = membership(labels, logits.shape[1])
    own = jnp.sum(jnp.where(at_label, logits, 0), axis=1)
    return own, jnp.where(at_label, -jnp.inf, logits)


def center(vectors: Real[Array, "K d"]) -> Float[Array, "K d"]:
    """Rows minus their mean: (I − 11ᵀ/K) X, shape (K, d)."""
    vectors = widened(vectors)
    return vectors - jnp.mean(vectors, axis=0, keepdims=True)


@jax.jit  # Once for a shape: a loop outside jit would compile anew at every call.
def squared_distances(points: Real[Array, "K d"]) -> Float[Array, "K K"]:
    """‖x_c − x_c'‖² between all pairs of rows, shape (K, K), also right for rows close together.

    By differences, since from the Gram matrix those of close rows would cancel.

    Example: `squared_distances(jnp.eye(2))` gives [[0, 2], [2, 0]].
    """
    points = widened(points)

    def to_all(point: Float[Array, " d"]) -> Float[Array, " K"]:
        return jnp.sum((points - point[None]) ** 2, axis=1)

    if len(points) * points.size <= _DIFFERENCES_AT_ONCE:
        return jax.vmap(to_all)(points)
    return jax.lax.map(to_all, points)


def simplex_gram(num_classes: int, dtype: DTypeLike = float) -> Float[Array, "K K"]:
    """E = (I − 11ᵀ/K)/√(K−1), the simplex ETF's Gram matrix at Frobenius norm 1, shape (K, K).

    Raises: ValueError for fewer than 2 classes, or a dtype that is neither float32 nor float64.
    """
    check_dtype(dtype)
    num_classes = check_integer("num_classes", num_classes, least=2)
    projector = jnp.eye(num_classes, dtype=dtype) - 1 / num_classes
    return projector / np.sqrt(num_classes - 1).item()


def simplex_etf(
    num_classes: int,
    feature_dim: int,
    key: Key[Array, ""] | None = None,
    dtype: DTypeLike = float,
) -> Float[Array, "K d"]:
    """Simplex equiangular tight frame with unit rows (Ji, definition 2.1).

    M Mᵀ = K/(K−1) (I − 11ᵀ/K). The paper's Q with d x K orthonormal columns needs d >= K, but the
    frame lives in K−1 dimensions: an orthonormal basis of 1^⊥ stands for Q here, so d = K−1 works.

    Args: `key` turns the frame by a random rotation of feature space; None leaves it in the first
    K−1 coordinates. Returns shape (num_classes, feature_dim).

    Raises: ValueError for fewer than 2 classes, feature_dim < num_classes − 1, a raw key, or a
    dtype that is neither float32 nor float64.

    Example: `simplex_etf(3, 2)` gives three unit vectors at 120 degrees.
    """
    num_classes = check_integer("num_classes", num_classes, least=2)
    feature_dim = check_integer("feature_dim", feature_dim)
    if key is not None:
        check_key(key)
    if feature_dim < num_classes - 1:
        raise ValueError(
            f"feature_dim = {feature_dim}: a simplex ETF of {num_classes} classes needs at least "
            f"num_classes - 1 = {num_classes - 1} dimensions."
        )
    check_dtype(dtype)
    # Helmert's contrasts: row k is (1, ..., 1, -k, 0, ...)/√(k(k+1)), orthonormal and ⟂ 1.
    ranks = np.arange(1, num_classes)
    contrasts = np.tri(num_classes - 1, num_classes) - np.diag(ranks, 1)[:-1]
    contrasts = contrasts / np.sqrt(ranks * (ranks + 1))[:, None]
    scale = np.sqrt(num_classes / (num_classes - 1))
    basis = jnp.asarray(scale * contrasts.T, dtype=dtype)
    if key is None:
        return jnp.pad(basis, ((0, 0), (0, feature_dim - num_classes + 1)))
    rotation = jax.random.orthogonal(key, feature_dim, dtype=dtype)
    return matmul(basis, rotation[: num_classes - 1])


def off_diagonal_mean(matrix: Real[Array, "*stack K K"]) -> Float[Array, "*stack"]:
    """Mean over the ordered pairs c ≠ c' of a (K, K) matrix, or of each of a stack of them."""
    matrix = widened(matrix)
    num_classes = matrix.shape[-1]
    off = jnp.where(jnp.eye(num_classes, dtype=bool), 0, matrix)
    return jnp.sum(off, axis=(-2, -1)) / (num_classes * (num_classes - 1))


def cosines(vectors: Real[Array, "K d"]) -> Float[Array, "K K"]:
    """Cosines between all pairs of rows, shape (K, K); NaN where a row is zero."""
    vectors = widened(vectors)
    unit = vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)
    return matmul(unit, unit.T)


def above_rounding(singular: Real[Array, " r"], shape: tuple[int, ...]) -> Bool[Array, " r"]:
    """Which singular values, in any order, of a matrix of this shape are not rounding errors."""
    singular = widened(singular)
    return singular > jnp.finfo(singular.dtype).eps * max(shape) * jnp.max(singular, initial=0)


def common_class_size(labels: Integer[ArrayLike, " N"], num_classes: int) -> int | None:
    """Samples of every class, or None where sizes differ; for concrete labels.

    Raises: ValueError for labels that are not of 0..K−1, or a class without samples.
    """
    check_labels(labels, num_classes, np.size(labels), every_class=True)
    sizes = class_sizes(labels, num_classes)
    return sizes[0] if len(set(sizes)) == 1 else None


def project_onto_T(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> LastLayer:
    """Orthogonal projection onto T = {H = (W⊗1_n)ᵀ/√n, 1ᵀW = 0} (Mixon, theorem 2).

    On T a feature is its class's row of W over √n. With the class sums S = Σ_{i in c} h_i the
    projection has W = ½ (I − 11ᵀ/K)(W + S/√n): one pass over the features, no linear system. T says
    nothing of a bias; here it is zero, so that T is a subspace of states with one too.

    Args: `labels` (N,) concrete integers, in any order, with n samples of every class.

    Raises: ValueError for classes of unequal size, another number of features, or traced labels.

    Example: `project_onto_T(state, problem.labels)`.
    """
    check_last_layer(state)
    state, num_classes = widened(state), state.classifier.shape[0]
    root = np.sqrt(_balanced_size(labels, num_classes, len(state.features))).item()
    sums = jax.ops.segment_sum(state.features, jnp.asarray(labels), num_classes)
    # Twice, since centring an offset far from 0 leaves a rounding error of its size.
    classifier = center(center(state.classifier + sums / root)) / 2
    bias = None if state.bias is None else jnp.zeros_like(state.bias)
    return LastLayer((classifier / root)[np.asarray(labels)], classifier, bias)


def project_onto_S(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> LastLayer:
    """Orthogonal projection onto S = T × {b in span 1}, which the flow never leaves (Mixon, thm 3).

    That of `project_onto_T` with the bias replaced by its mean.

    Args: `labels` (N,) concrete integers, in any order, with n samples of every class.

    Raises: ValueError for classes of unequal size, another number of features, or traced labels.

    Example: `project_onto_S(problem.init(key), problem.labels)` is a random start on S.
    """
    on_t = project_onto_T(state, labels)
    bias = widened(state).bias
    if bias is None:
        return on_t
    return LastLayer(on_t.features, on_t.classifier, jnp.full_like(bias, jnp.mean(bias)))


def _balanced_size(labels: Integer[ArrayLike, " N"], num_classes: int, num_samples: int) -> int:
    labels = check_labels(labels, num_classes, num_samples, every_class=True)
    if is_traced(labels):
        raise ValueError("labels are traced: close over concrete ones, such as problem.labels.")
    sizes = class_sizes(labels, num_classes)
    if len(set(sizes)) > 1:
        raise ValueError(
            f"labels: the classes have {sizes} samples; the subspaces S and T need every class to "
            "have as many."
        )
    return sizes[0]
