"""Geometry of class vectors: centring, angles and the simplex equiangular tight frame."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, DTypeLike, Float, Integer, Key


def matmul(left: Float[Array, "..."], right: Float[Array, "..."]) -> Float[Array, "..."]:
    """Matrix product at the full precision of its dtype.

    Accelerators round float32 operands to 10 or even 7 bits by default, which would undo both the
    tolerance of an integration and the centring of deep collapse.
    """
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def membership(labels: Integer[ArrayLike, " N"], num_classes: int) -> Bool[Array, "N K"]:
    """One-hot labels as booleans, shape (N, K); a label outside 0..K−1 gives a row of False."""
    labels = jnp.asarray(labels)
    return labels[:, None] == jnp.arange(num_classes, dtype=labels.dtype)


def split_at_label(
    logits: Float[Array, "N K"], labels: Integer[ArrayLike, " N"]
) -> tuple[Float[Array, " N"], Float[Array, "N K"]]:
    """z_y, shape (N,), and the logits with −∞ in its place, shape (N, K)."""
    at_label = membership(labels, logits.shape[1])
    own = jnp.sum(jnp.where(at_label, logits, 0), axis=1)
    return own, jnp.where(at_label, -jnp.inf, logits)


def center(vectors: Float[Array, "K d"]) -> Float[Array, "K d"]:
    """Rows minus their mean: (I − 11ᵀ/K) X, shape (K, d)."""
    return vectors - jnp.mean(vectors, axis=0)


def simplex_gram(num_classes: int, dtype: DTypeLike = float) -> Float[Array, "K K"]:
    """E = (I − 11ᵀ/K)/√(K−1), the simplex ETF's Gram matrix at Frobenius norm 1, shape (K, K)."""
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

    Raises: ValueError for fewer than 2 classes or feature_dim < num_classes − 1.

    Example: `simplex_etf(3, 2)` gives three unit vectors at 120 degrees.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes = {num_classes}: a simplex ETF needs 2 or more classes.")
    if feature_dim < num_classes - 1:
        raise ValueError(
            f"feature_dim = {feature_dim}: a simplex ETF of {num_classes} classes needs at least "
            f"num_classes - 1 = {num_classes - 1} dimensions."
        )
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


def off_diagonal_mean(matrix: Float[Array, "K K"]) -> Float[Array, ""]:
    """Mean over the ordered pairs c ≠ c' of a (K, K) matrix."""
    num_classes = matrix.shape[0]
    off = jnp.where(jnp.eye(num_classes, dtype=bool), 0, matrix)
    return jnp.sum(off) / (num_classes * (num_classes - 1))


def cosines(vectors: Float[Array, "K d"]) -> Float[Array, "K K"]:
    """Cosines between all pairs of rows, shape (K, K); NaN where a row is zero."""
    unit = vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)
    return matmul(unit, unit.T)
