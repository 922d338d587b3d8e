"""Linear CKA, the similarity of two sets of features of the same samples."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .unlabelled import Scatter, pair_batches, paired_arrays, scatter_of

_NAMES = ("features", "other_features")


def cka(
    features: Any,
    other_features: Any,
    *,
    debiased: bool = False,
    batch_size: int | None = None,
) -> float:
    """Linear centred kernel alignment ‖XᵀY‖_F²/(‖XᵀX‖_F ‖YᵀY‖_F) of two sets of features.

    X and Y are the features minus their means (Kornblith, Norouzi, Lee, Hinton 2019). It is 1 for
    sets that are equal up to rotation, scale and shift, and 0 for uncorrelated ones. Of few samples
    in many dimensions it is near 1 for any sets; `debiased` replaces each of the three terms by the
    unbiased estimate of HSIC (Song et al. 2012):

        ‖XᵀY‖_F² − N/(N−2) Σ_i ‖x_i‖² ‖y_i‖² + Σ_i ‖x_i‖² Σ_i ‖y_i‖² / ((N−1)(N−2)),

    which may be negative. Samples are read in batches, once, or twice for `debiased`, and no (N, N)
    matrix is formed.

    Args:
        features: (N, d), in any format of `measure`, in memory or on disk.
        other_features: (N, d'), of the same samples in the same order.
        debiased: whether to use the unbiased estimates, which need 4 samples or more.
        batch_size: samples that are computed at once.

    Returns: a float; NaN where a set has no variance.

    Raises: ValueError for arrays of different lengths or other shapes, or too few samples.

    Example: a rotation by a right angle, a scale and a shift.

        >>> features = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0], [1.0, 1.0], [2.0, 0.0]])
        >>> turned = 7 - 2 * features[:, ::-1]
        >>> round(nc.metrics.cka(features, turned), 12)
        1.0
        >>> round(nc.metrics.cka(features, features[:, :1], debiased=True), 6)
        0.845154
    """
    left, right = paired_arrays(_NAMES, (features, other_features))
    if debiased and left.shape[0] < 4:
        raise ValueError(
            f"features have {left.shape[0]} samples: the unbiased estimate of HSIC needs 4 or more."
        )
    scatter = scatter_of(_NAMES, left, right, batch_size=batch_size)
    if not debiased:
        return linear_alignment(scatter)
    squares = _sums_of_squares(left, right, scatter, batch_size)
    traces = np.trace(scatter.left), np.trace(scatter.right)
    cross, of_left, of_right = (
        _unbiased(block, squares[i, j], traces[i] * traces[j], scatter.samples)
        for block, i, j in ((scatter.cross, 0, 1), (scatter.left, 0, 0), (scatter.right, 1, 1))
    )
    with np.errstate(all="ignore"):
        return float(cross / (np.sqrt(of_left) * np.sqrt(of_right)))


def linear_alignment(scatter: Scatter) -> float:
    """`cka` of finished sums, without the correction of its bias."""
    norm = np.linalg.norm
    with np.errstate(all="ignore"):
        return float(norm(scatter.cross) ** 2 / (norm(scatter.left) * norm(scatter.right)))


def _unbiased(block: np.ndarray, squares: float, traces: float, count: int) -> np.floating:
    """N(N−3) times the unbiased estimate of HSIC."""
    return np.sum(block**2) - count / (count - 2) * squares + traces / ((count - 1) * (count - 2))


def _sums_of_squares(left: Any, right: Any, scatter: Scatter, batch_size: int | None) -> np.ndarray:
    """Σ_i a_i b_i of the squared norms of x_i − x̄ and y_i − ȳ, (2, 2)."""
    dim = left.shape[1]
    total = np.zeros((2, 2))
    with jax.enable_x64(True):
        for batch in pair_batches(left, right, batch_size=batch_size):
            found = _products(batch.features, batch.labels, scatter.origin, scatter.mean, dim)
            total += np.asarray(found)
    return total


@jax.jit
def _products(rows: Array, labels: Array, origin: Array, mean: Array, dim: Array) -> Array:
    """Σ_i a_i b_i of a batch, (2, 2), where the first `dim` columns of the rows are x."""
    squares = ((rows - origin[None]) - mean[None]) ** 2
    of_left = jnp.arange(rows.shape[1]) < dim
    sides = jnp.stack([of_left, ~of_left], axis=1).astype(float)
    norms = jnp.where(labels[:, None] < 0, 0, squares @ sides)
    return norms.T @ norms
