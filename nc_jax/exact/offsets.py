"""Geometry at a finite gap q: logits differ from q times the simplex-encoded labels by constants.

Late in a flow of cross-entropy without decay the margins of class k against class c are
s_kc = q − log λ_kc + O(1/q) with the multipliers λ of the limit (derived; not found in print). The
reason is that the residuals e^(−s_kc) must be proportional to λ_kc. Residuals at a minimum with
small decay have the same form. The direction of the state therefore differs from its limit by a
term of order 1/q, whose coefficient the class sizes determine.
"""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ..checks import check_integer, check_number, is_traced
from ..errors import ArgumentError
from ..measures.imbalance import label_factors
from ..precision import matmul, widened
from ..preconditions import check_ridge
from ..problems import UnconstrainedFeatures
from .powers import power_or_zero, singular_value_decomposition
from .seli import check_class_sizes


class OffsetGeometry(eqx.Module):
    """Predicted logits and Gram matrices of collapsed classes at a finite gap.

    Attributes:
        gap: q.
        logits: (K, K) X, the logits of each class as a row, of mean 0.
        classifier_gram: (K, K) WWᵀ of the last factor, a multiple of (XᵀDX)^(1/m), D = diag(n_k).
        mean_gram: (K, K) MMᵀ of the class means.

    Under vmap every array gains leading axes.

    Example: see `late_geometry`.

        >>> nc.exact.late_geometry((3, 1), 5.0).logits.shape
        (2, 2)
    """

    gap: Float[Array, "*batch"]
    logits: Float[Array, "*batch K K"]
    classifier_gram: Float[Array, "*batch K K"]
    mean_gram: Float[Array, "*batch K K"]


def late_geometry(
    class_sizes: Sequence[int], gap: Float[ArrayLike, ""], *, order: int = 2, depth: int = 2
) -> OffsetGeometry:
    """Logits and Gram matrices late in a flow of cross-entropy without decay (derived).

    The margins of class k are s_kc = q − log λ_kc − δ_kc/(λ_kc q) + O(1/q²) with the multipliers λ
    of `seli`. The constants δ follow from the flow at the next order in 1/q (see the code). From a
    collapsed start with WᵀW = HᵀH (balanced) and Σ_c w_c = 0 the Gram matrices are
    WWᵀ = (XᵀDX)^½ and MMᵀ = D^(−½)(D^½XXᵀD^½)^½D^(−½), X the logits and D = diag(n_k). From other
    starts the terms −log λ are the same, and the conserved WᵀW − HᵀH adds terms of order 1/q to the
    Gram matrices relative to their size.

    With m factors this is the state late in a flow to the simplex-encoded labels of
    `seli(depth=m)`, with their λ. The last factor has WWᵀ = (XᵀDX)^(1/m), and
    MMᵀ = D^(−½)(D^½XXᵀD^½)^(1/m)D^(−½).

    Args:
        class_sizes: samples n_k of each of K >= 2 classes.
        gap: q > 0, such as `late_gap(log_time, depth=m)`; a traced one is allowed.
        order: 1 leaves out the term with δ, 2 includes it.
        depth: m >= 2 factors of the logits.

    Returns: an `OffsetGeometry` with the dtype of the gap (float32 at least).

    Raises: ValueError for other class sizes, another order, depth < 2, a gap that is not positive,
    or one so small that the term of order 2 exceeds it. The expansion is accurate where log λ is
    small against q.

    Example: at t = 10^100 the ratio ‖w_1‖²/‖w_3‖² is not yet at its limit, 1.9952.

        >>> gap = nc.exact.late_gap(100 * np.log(10))
        >>> gram = nc.exact.late_geometry((10, 10, 1, 1), gap).classifier_gram
        >>> round(float(gram[0, 0] / gram[2, 2]), 4)
        2.0061
    """
    sizes = check_class_sizes(class_sizes)
    check_number("gap", gap, above_zero=True, scalar=True)
    check_integer("order", order, least=1, most=2)
    depth = check_integer("depth", depth, least=2)
    gap = widened(gap)

    # Write D^½P = UσVᵀ, D^½X = q D^½P + C and −D^½ ∂ℓ/∂X = e^(−q)(U σ^(2/m−1) Vᵀ + B/q), with
    # entries of B and C in the bases U and V. The equation of the product of balanced factors
    # (`problems.EndToEnd`) then has (D^½X)' = q' D^½P, q' = m q^(2−2/m) e^(−q), at the leading two
    # orders if the terms of order q^(1−2/m) cancel, which determines B.
    def change(constant: np.ndarray, singular: np.ndarray) -> np.ndarray:
        return _flow_change(constant, singular, depth)

    logits = _offset_logits(sizes, gap, order, change, depth)
    return _geometry(sizes, gap, logits, jnp.ones_like(gap), depth)


def ridge_geometry(problem: UnconstrainedFeatures, *, order: int = 2) -> OffsetGeometry:
    """Logits and Gram matrices of the minimum at small weight decay, for any class sizes (derived).

    With c = √(λ_W λ_H) and the loss scale s, the margins of class k against class c' are
    s_kc' = q − log λ_kc' − δ_kc'/(λ_kc' q) + O(1/q²) with q = log(s/c) and the multipliers λ of
    `seli`. For the mean loss q − log λ is −log(N c λ). The Gram matrix is
    WWᵀ = √(λ_H/λ_W) (XᵀDX)^½. For c → 0 the difference from the geometry of simplex-encoded labels
    falls only as 1/log(1/c).

    Args:
        problem: cross-entropy without bias, with decay of classifier and features, d >= K−1.
        order: 1 leaves out the term with δ, 2 includes it.

    Returns: an `OffsetGeometry` in JAX's default float.

    Raises: ValueError for another problem, d < K−1, another order, a decay c >= s, or one so large
    that the term of order 2 exceeds q.

    Example: the predicted ratio ‖w_1‖²/‖w_3‖². At the minimum it is 2.167, and for c → 0 1.995.

        >>> decay = nc.WeightDecay(classifier=1e-7, features=1e-7)
        >>> problem = nc.UnconstrainedFeatures((10, 10, 1, 1), 3, weight_decay=decay)
        >>> gram = nc.exact.ridge_geometry(problem).classifier_gram
        >>> round(float(gram[0, 0] / gram[2, 2]), 3)
        2.166
    """
    check_integer("order", order, least=1, most=2)
    classifier, features = check_ridge(problem)
    gap = jnp.log(problem.loss_scale / jnp.sqrt(classifier * features))
    # In the notation of `late_geometry`: at a minimum −D^½ ∂ℓ/∂X is c times the polar factor of
    # D^½X, which is UVᵀ + B/q with B_ij = (C − Cᵀ)_ij/(σ_i + σ_j).
    logits = _offset_logits(problem.class_sizes, gap, order, _ridge_change, 2)
    return _geometry(problem.class_sizes, gap, logits, jnp.sqrt(features / classifier), 2)


def _ridge_change(constant: np.ndarray, singular: np.ndarray) -> np.ndarray:
    """B_ij = (C − Cᵀ)_ij/(σ_i + σ_j); the last row is that of the singular value 0."""
    transposed = np.vstack([constant[:-1].T, np.zeros((1, len(singular)))])
    return (constant - transposed) / (np.append(singular, 0.0)[:, None] + singular[None])


def _flow_change(constant: np.ndarray, singular: np.ndarray, depth: int) -> np.ndarray:
    """B of `late_geometry`; −(C + Cᵀ)_ij/(σ_i + σ_j) for m = 2.

    To first order in C, (D^½XXᵀD^½)^a has the change [σ_i², σ_j²]^a (CAᵀ + ACᵀ)_ij, with the
    divided difference [x, y]^a = (x^a − y^a)/(x − y), and (XᵀDX)^b that with AᵀC + CᵀA. Here A = σ.
    """
    rank = len(singular)
    values = np.append(singular, 0.0)
    square = np.hstack([constant, np.zeros((rank + 1, 1))])  # D^½X has no part along 1.
    left = square * values[None] + values[:, None] * square.T
    right = (square * values[:, None] + square.T * values[None])[:rank, :rank]
    lead = singular ** (2 / depth - 1)
    total, weights = np.zeros((rank + 1, rank)), np.zeros((rank + 1, rank))
    for j in range(depth):
        a, b = (depth - 1 - j) / depth, j / depth
        total += (_divided_difference(values, a) * left)[:, :rank] * lead * singular ** (2 * b)
        total[:rank] += (singular ** (2 * a) * lead)[:, None] * (
            _divided_difference(singular, b) * right
        )
        weights += np.outer(values ** (2 * a), singular ** (2 * b))
    return -total / weights


def _divided_difference(values: np.ndarray, power: float) -> np.ndarray:
    """(σ_i^(2a) − σ_j^(2a))/(σ_i² − σ_j²), the derivative a σ^(2a−2) where σ_i = σ_j."""
    squares = values**2
    gaps = squares[:, None] - squares[None]
    close = np.abs(gaps) <= 1e-6 * np.maximum(squares[:, None], squares[None])
    ends = squares**power
    quotients = (ends[:, None] - ends[None]) / np.where(close, 1.0, gaps)
    middle = (squares[:, None] + squares[None]) / 2
    # The diagonal entry of the singular value 0 multiplies a zero.
    slopes = power * np.where(middle > 0, middle, 1.0) ** (power - 1)
    return np.where(close, slopes, quotients)


def _offset_logits(
    sizes: tuple[int, ...],
    gap: Float[Array, ""],
    order: int,
    change: Callable[[np.ndarray, np.ndarray], np.ndarray],
    depth: int,
) -> Float[Array, "K K"]:
    """X of the margins q − log λ − δ/(λq), without the term with δ for order 1.

    Args: `change` gives B (K, K−1) from C in the bases U and V, and σ (K−1,).
    """
    counts, num_classes = np.array(sizes, float), len(sizes)
    left, singular, right = label_factors(counts)
    wrong = ~np.eye(num_classes, dtype=bool)
    means = (right * singular[None] ** (2 / depth - 2)) @ right.T
    multipliers = np.where(wrong, -means, 1.0)
    projector = np.eye(num_classes) - 1 / num_classes
    # Rows of X have mean 0, hence X = −SP for the matrix S of margins, which is 0 at the class
    # itself.
    constant = np.log(multipliers) @ projector
    logits = gap * jnp.asarray(projector, gap.dtype) + jnp.asarray(constant, gap.dtype)
    if order == 1:
        return logits
    # The left singular vector of the singular value 0 of D^½P is D^(−½)1.
    null = (1 / np.sqrt(counts))[:, None] / np.sqrt(np.sum(1 / counts))
    basis = np.hstack([left, null])
    rotated = basis.T @ (np.sqrt(counts)[:, None] * constant) @ right
    delta = -(basis @ change(rotated, singular) @ right.T) / np.sqrt(counts)[:, None]
    correction = np.where(wrong, delta / multipliers, 0.0) @ projector
    least = float(np.sqrt(np.max(np.abs(correction))))
    if not is_traced(gap) and gap < least:
        raise ArgumentError(
            f"gap = {float(gap):.3g}: below {least:.3g} the term of order 2 exceeds the gap; give "
            "a larger one, such as that of a later time or a smaller decay, or order=1.",
            "gap",
        )
    return logits + jnp.asarray(correction, gap.dtype) / gap


def _geometry(
    sizes: tuple[int, ...],
    gap: Float[Array, ""],
    logits: Float[Array, "K K"],
    ratio: Float[Array, ""],
    depth: int,
) -> OffsetGeometry:
    """Gram matrices of the first and the last factor of the logits X, for m = 2 with
    WᵀW = ratio² HᵀH."""
    roots = jnp.asarray(np.sqrt(np.array(sizes, float)), gap.dtype)
    left, singular, right = singular_value_decomposition(roots[:, None] * logits)
    # The logits have rank K−1. Rounding leaves 1e-16 in the place of the last singular value.
    singular = singular.at[-1].set(0)
    means, squares = left / roots[:, None], power_or_zero(singular, 2 / depth)
    return OffsetGeometry(
        gap=gap,
        logits=logits,
        classifier_gram=ratio * matmul(right.T * squares[None], right),
        mean_gram=matmul(means * squares[None], means.T) / ratio,
    )
