"""Geometry of class vectors: centring, angles, the simplex ETF, and the subspaces of collapse."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, DTypeLike, Float, Integer, Key, Real

from .checks import check_integer, check_key, is_traced
from .errors import ArgumentError
from .labels import check_labels, class_sizes
from .precision import check_dtype, matmul, widened
from .state import LastLayer, check_last_layer

# Most numbers in one array of the differences of all pairs of vectors: half a megabyte for each
# state. The limit is low because a batch has many states.
_DIFFERENCES_AT_ONCE = 1 << 16


def membership(labels: Integer[ArrayLike, " N"], num_classes: int) -> Bool[Array, "N K"]:
    """One-hot labels as booleans, shape (N, K); a label outside 0..K−1 gives a row of False.

    Example:

        >>> nc.geometry.membership(np.array([0, 2, -1]), 3).astype(int).tolist()
        [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    """
    labels = jnp.asarray(labels)
    if labels.dtype.itemsize < 4:
        # K may exceed the largest number of int8 or uint8.
        labels = labels.astype(jnp.int32)
    return labels[:, None] == jnp.arange(num_classes, dtype=labels.dtype)[None]


def split_at_label(
    logits: Float[Array, "N K"], labels: Integer[ArrayLike, " N"]
) -> tuple[Float[Array, " N"], Float[Array, "N K"]]:
    """z_y, shape (N,), and the logits with −∞ in the place of z_y, shape (N, K).

    Example:

        >>> logits, labels = jnp.array([[3.0, 1.0]]), np.array([0])
        >>> label_logits, others = nc.geometry.split_at_label(logits, labels)
        >>> label_logits.tolist(), others.tolist()
        ([3.0], [[-inf, 1.0]])
    """
    at_label = membership(labels, logits.shape[1])
    # A sum over a mask and not a gather, which XLA does not fuse with other operations.
    label_logits = jnp.sum(jnp.where(at_label, logits, 0), axis=1)
    return label_logits, jnp.where(at_label, -jnp.inf, logits)


def center(vectors: Real[Array, "K d"]) -> Float[Array, "K d"]:
    """Rows minus their mean: (I − 11ᵀ/K) X, shape (K, d).

    Example:

        >>> nc.geometry.center(jnp.array([[1.0, 0.0], [3.0, 4.0]])).tolist()
        [[-1.0, -2.0], [1.0, 2.0]]
    """
    vectors = widened(vectors)
    return vectors - jnp.mean(vectors, axis=0, keepdims=True)


@jax.jit  # A loop (`jax.lax.map`) outside of jit is compiled anew in every call.
def squared_distances(points: Real[Array, "K d"]) -> Float[Array, "K K"]:
    """‖x_c − x_c'‖² between all pairs of rows, shape (K, K), with full relative precision.

    Differences are squared. The formula ‖x‖² + ‖y‖² − 2⟨x, y⟩ of a Gram matrix would subtract
    numbers that almost agree where two rows almost agree.

    Example:

        >>> nc.geometry.squared_distances(jnp.eye(2)).tolist()
        [[0.0, 2.0], [2.0, 0.0]]
    """
    points = widened(points)

    def to_all(point: Float[Array, " d"]) -> Float[Array, " K"]:
        return jnp.sum((points - point[None]) ** 2, axis=1)

    # Differences of few vectors fit into one array. A loop computes those of one row at a time.
    if len(points) * points.size <= _DIFFERENCES_AT_ONCE:
        return jax.vmap(to_all)(points)
    return jax.lax.map(to_all, points)


def simplex_gram(num_classes: int, *, dtype: DTypeLike = float) -> Float[Array, "K K"]:
    """E = (I − 11ᵀ/K)/√(K−1), the Gram matrix of a simplex ETF scaled to Frobenius norm 1, (K, K).

    Raises: ValueError for fewer than 2 classes, or a dtype that is neither float32 nor float64.

    Example:

        >>> nc.geometry.simplex_gram(2).tolist()
        [[0.5, -0.5], [-0.5, 0.5]]
    """
    check_dtype(dtype)
    num_classes = check_integer("num_classes", num_classes, least=2)
    # Python floats, also that of `item`, do not promote a float32 array.
    projector = jnp.eye(num_classes, dtype=dtype) - 1 / num_classes
    return projector / np.sqrt(num_classes - 1).item()


def contrasts(num_classes: int) -> Float[np.ndarray, "R K"]:
    """Helmert's contrasts: an orthonormal basis of 1^⊥ as rows, (K−1, K), float64 of NumPy.

    Row k is (1, ..., 1, −k, 0, ...)/√(k(k+1)).

    Example:

        >>> nc.geometry.contrasts(2).round(6).tolist()
        [[0.707107, -0.707107]]
    """
    num_classes = check_integer("num_classes", num_classes, least=2)
    ranks = np.arange(1, num_classes)
    rows = np.tri(num_classes - 1, num_classes) - np.diag(ranks, 1)[:-1]
    return rows / np.sqrt(ranks * (ranks + 1))[:, None]


def simplex_etf(
    num_classes: int,
    feature_dim: int,
    *,
    key: Key[Array, ""] | None = None,
    dtype: DTypeLike = float,
) -> Float[Array, "K d"]:
    """Simplex equiangular tight frame with unit rows (Ji, definition 2.1).

    M Mᵀ = K/(K−1) (I − 11ᵀ/K). The paper takes M = √(K/(K−1)) (I − 11ᵀ/K) Qᵀ with Q of K
    orthonormal columns of length d, which needs d >= K. Here M = √(K/(K−1)) B, where the columns of
    B are an orthonormal basis of 1^⊥, so that d = K−1 suffices.

    Args: `key` rotates the frame at random in feature space; None places it in the first K−1
    coordinates.

    Returns: rows of norm 1, shape (num_classes, feature_dim).

    Raises: ValueError for fewer than 2 classes, feature_dim < num_classes − 1, a raw key, or a
    dtype that is neither float32 nor float64.

    Example: three unit vectors at angles of 120 degrees.

        >>> frame = nc.geometry.simplex_etf(3, 2)
        >>> nc.geometry.cosines(frame).round(6).tolist()
        [[1.0, -0.5, -0.5], [-0.5, 1.0, -0.5], [-0.5, -0.5, 1.0]]
    """
    num_classes = check_integer("num_classes", num_classes, least=2)
    feature_dim = check_integer("feature_dim", feature_dim)
    if key is not None:
        check_key(key)
    if feature_dim < num_classes - 1:
        raise ArgumentError(
            f"feature_dim = {feature_dim}: a simplex ETF of {num_classes} classes needs at least "
            f"num_classes - 1 = {num_classes - 1} dimensions.",
            "feature_dim",
        )
    check_dtype(dtype)
    # Computed in float64 by NumPy, so that a float32 frame is rounded only once.
    scale = np.sqrt(num_classes / (num_classes - 1))
    basis = jnp.asarray(scale * contrasts(num_classes).T, dtype=dtype)
    if key is None:
        return jnp.pad(basis, ((0, 0), (0, feature_dim - num_classes + 1)))
    rotation = jax.random.orthogonal(key, feature_dim, dtype=dtype)
    return matmul(basis, rotation[: num_classes - 1])


def off_diagonal_mean(matrix: Real[Array, "*stack K K"]) -> Float[Array, "*stack"]:
    """Mean of the entries c ≠ c' of a (K, K) matrix, or of each matrix of a stack.

    Example:

        >>> float(nc.geometry.off_diagonal_mean(jnp.array([[9.0, 1.0], [3.0, 9.0]])))
        2.0
    """
    matrix = widened(matrix)
    num_classes = matrix.shape[-1]
    # Masked: to subtract the trace from the sum of all entries would leave the rounding errors of a
    # large diagonal.
    off = jnp.where(jnp.eye(num_classes, dtype=bool), 0, matrix)
    return jnp.sum(off, axis=(-2, -1)) / (num_classes * (num_classes - 1))


def cosines(vectors: Real[Array, "K d"]) -> Float[Array, "K K"]:
    """Cosines between all pairs of rows, shape (K, K); NaN where a row is zero.

    Example:

        >>> nc.geometry.cosines(jnp.array([[2.0, 0.0], [0.0, 3.0]])).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    vectors = widened(vectors)
    unit = vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)
    return matmul(unit, unit.T)


def unit_rows(rows: Real[Array, "N d"]) -> Float[Array, "N d"]:
    """Rows divided by their norms, shape (N, d); NaN where a row is zero.

    Example:

        >>> nc.geometry.unit_rows(jnp.array([[0.0, -4.0], [2.0, 0.0]])).tolist()
        [[0.0, -1.0], [1.0, 0.0]]
    """
    rows = widened(rows)
    return rows / jnp.linalg.norm(rows, axis=1, keepdims=True)


def tangent_to_rows(
    rows: Float[Array, "N d"], direction: Float[Array, "N d"]
) -> Float[Array, "N d"]:
    """v_i − ⟨v_i, x_i⟩ x_i, the part of V that is tangent to the spheres of the unit rows X.

    Example: the part along a row is removed.

        >>> rows, direction = jnp.array([[1.0, 0.0]]), jnp.array([[5.0, 2.0]])
        >>> nc.geometry.tangent_to_rows(rows, direction).tolist()
        [[0.0, 2.0]]
    """
    return direction - jnp.sum(direction * rows, axis=1, keepdims=True) * rows


def above_rounding(singular: Real[Array, " r"], shape: tuple[int, ...]) -> Bool[Array, " r"]:
    """Whether each singular value of a matrix of this shape is larger than a rounding error.

    The threshold is eps · (longer side) · (largest singular value), as in `numpy.linalg`. The order
    of the values does not matter.

    Example:

        >>> nc.geometry.above_rounding(jnp.array([3.0, 1e-16]), (4, 2)).tolist()
        [True, False]
    """
    singular = widened(singular)
    return singular > jnp.finfo(singular.dtype).eps * max(shape) * jnp.max(singular, initial=0)


def common_class_size(labels: Integer[ArrayLike, " N"], num_classes: int) -> int | None:
    """The number of samples of every class, or None where classes differ; for concrete labels.

    Raises: ValueError for labels outside of 0..K−1, or a class without samples.

    Example:

        >>> nc.geometry.common_class_size(np.array([0, 1, 1, 0]), 2)
        2
    """
    check_labels(labels, num_classes, np.size(labels), every_class=True)
    sizes = class_sizes(labels, num_classes)
    return sizes[0] if len(set(sizes)) == 1 else None


def project_onto_T(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> LastLayer:
    """Orthogonal projection onto T = {H = (W⊗1_n)ᵀ/√n, 1ᵀW = 0} (Mixon, theorem 2).

    On T every feature is the row of W of its class, divided by √n. With the class sums S_c =
    Σ_{i in c} h_i, the projection has W = ½ (I − 11ᵀ/K)(W + S/√n). That needs one pass over the
    features and no linear system. The theorem has no condition on a bias. Here the bias is set to
    zero, so that T is a subspace of the states with a bias too.

    Args: `labels` (N,) concrete integers, in any order, with n samples of every class.

    Raises: ValueError for classes of different sizes, another number of features, or traced labels.

    Example: a projected state has no spread within the classes.

        >>> problem = nc.mixon(3, 4, 2)
        >>> state = problem.init(jax.random.key(0))
        >>> on_t = nc.geometry.project_onto_T(state, problem.labels)
        >>> bool(jnp.all(on_t.features[0] == on_t.features[1]))
        True
    """
    check_last_layer(state)
    state, num_classes = widened(state), state.classifier.shape[0]
    root = np.sqrt(_balanced_size(labels, num_classes, len(state.features))).item()
    sums = jax.ops.segment_sum(state.features, jnp.asarray(labels), num_classes)
    # Centred twice: where rows have a large common offset, the first time leaves a rounding error
    # relative to this offset.
    classifier = center(center(state.classifier + sums / root)) / 2
    bias = None if state.bias is None else jnp.zeros_like(state.bias)
    return LastLayer((classifier / root)[np.asarray(labels)], classifier, bias)


def project_onto_S(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> LastLayer:
    """Orthogonal projection onto S = T × {b in span 1}, invariant under the flow (Mixon, thm 3).

    The result of `project_onto_T`, with the bias replaced by its mean.

    Args: `labels` (N,) concrete integers, in any order, with n samples of every class.

    Raises: ValueError for classes of different sizes, another number of features, or traced labels.

    Example: a random start on S, where the velocity lies in S too.

        >>> problem = nc.mixon(3, 4, 2)
        >>> start = problem.init(jax.random.key(0))
        >>> on_s = nc.geometry.project_onto_S(start, problem.labels)
        >>> velocity = problem.scaled_descent(on_s, 0.0)
        >>> again = nc.geometry.project_onto_S(velocity, problem.labels)
        >>> bool(jnp.allclose(again.features, velocity.features))
        True
    """
    on_t = project_onto_T(state, labels)
    bias = widened(state).bias
    if bias is None:
        return on_t
    return LastLayer(on_t.features, on_t.classifier, jnp.full_like(bias, jnp.mean(bias)))


def _balanced_size(labels: Integer[ArrayLike, " N"], num_classes: int, num_samples: int) -> int:
    """The number of samples of every class; ValueError for traced labels or unequal classes."""
    labels = check_labels(labels, num_classes, num_samples, every_class=True)
    if is_traced(labels):
        raise ValueError("labels are traced: close over concrete labels, such as problem.labels.")
    sizes = class_sizes(labels, num_classes)
    if len(set(sizes)) > 1:
        raise ValueError(
            f"labels: the classes have {sizes} samples; the subspaces S and T need the same number "
            "of samples in every class."
        )
    return sizes[0]
