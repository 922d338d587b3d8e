"""Collapse of the features of a kernel, and the kernels of infinitely wide ReLU networks."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ..checks import check_integer, check_number
from .arrays import check_real, labels_of, rows_of
from .labelling import Classes
from .reading import scan
from .unlabelled import array_of

# Below this angle sin t − t cos t is summed as a series, whose error is t⁶/15120 of it.
_SMALL_ANGLE = 0.02
# Squared distances below this share of the squared norms are computed from differences.
_CLOSE = 0.01
# Numbers in such differences at a time.
_CHUNK = 1 << 22


def kernel_nc1(kernel: Any, labels: Any) -> float:
    """tr Σ_W / tr Σ_B of the features φ_i of a kernel, K_ij = ⟨φ_i, φ_j⟩.

    With Σ_W of the samples and Σ_B of the class means (Kothapalli, Tirer 2025), from the means
    s_cc' of the blocks of K:

        tr Σ_W = (1/N) Σ_i (K_ii − s_{y_i y_i}),   tr Σ_B = (1/K) Σ_c s_cc − (1/K²) Σ_cc' s_cc'.

    K = H Hᵀ gives the ratio of the features H. The result does not depend on the scale of the
    kernel, nor on a constant that is added to it. Their code is the same for classes of one size;
    for others it subtracts a mean over classes from one over samples, which may be negative.

    Args:
        kernel: (N, N), symmetric, in memory; it is copied in float64.
        labels: classes of the samples, as in `measure`.

    Returns: 0 where the features of every class coincide; infinite where all class means do.

    Raises: ValueError for a kernel of another shape, or labels that `measure` refuses.

    Example: the kernel of features on a line.

        >>> features = np.array([[1.0], [3.0], [-1.0], [-3.0]])
        >>> nc.metrics.kernel_nc1(features @ features.T, [0, 0, 1, 1])
        0.25
    """
    matrix = np.asarray(rows_of("kernel", kernel))
    check_real("kernel", matrix.dtype)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"kernel has shape {matrix.shape}: give a symmetric matrix (N, N), such as "
            "features @ features.T."
        )
    matrix = matrix.astype(float)
    labels, classes = labels_of(labels), Classes()
    if len(labels) != len(matrix):
        raise ValueError(
            f"labels have {len(labels)} entries for {len(matrix)} samples: give one label for each."
        )
    codes = scan(labels, classes)(0, len(labels))
    members = (codes[:, None] == np.arange(len(classes.names))).astype(float)
    members /= np.sum(members, axis=0)
    # Center the features at the mean of the class means, whose squared norm may be so large that
    # the differences of K would lose their digits. Rounding errors a_i of `rows` cancel: a_i + a_j,
    # added to K_ij, changes neither trace.
    rows = np.mean(matrix @ members, axis=1)
    matrix -= rows[:, None]
    matrix -= (rows - np.mean(rows @ members))[None]
    blocks = members.T @ matrix @ members
    within = np.mean(np.diagonal(matrix) - np.diagonal(blocks)[codes])
    between = np.mean(np.diagonal(blocks)) - np.mean(blocks)
    with np.errstate(all="ignore"):
        return float(within / between)


def nngp_kernel(
    inputs: Any, depth: int, *, weight_variance: float = 2.0, bias_variance: float = 0.0
) -> Float[np.ndarray, "N N"]:
    """Kernel of the Gaussian process that a ReLU network of infinite width is at the start.

    For inputs in d₀ dimensions and `depth` hidden layers (Lee et al. 2018; Cho, Saul 2009):

        K⁰ = σ_b² + σ_w² x·x'/d₀,   Kˡ = σ_b² + σ_w² √(K_xx K_x'x') (sin t + (π−t) cos t)/(2π),

    with the angle t, cos t = K_xx'/√(K_xx K_x'x') of the layer below. `kernel_nc1` of it is that of
    the last hidden features, since (Kˡ − σ_b²)/σ_w² is their kernel.

    Args:
        inputs: (N, d₀).
        depth: number of hidden layers, 0 or more.
        weight_variance: σ_w²; with 2 and without biases, K_xx is the same in all layers.
        bias_variance: σ_b².

    Returns: (N, N) in float64.

    Raises: ValueError for inputs of another shape, or other numbers.

    Example: two orthogonal inputs, whose outputs are correlated by 1/π.

        >>> nc.metrics.nngp_kernel(np.eye(2), 1).round(6).tolist()
        [[1.0, 0.31831], [0.31831, 1.0]]
    """
    *_, last = _layers(inputs, depth, weight_variance, bias_variance)
    return last.kernel


def ntk_kernel(
    inputs: Any, depth: int, *, weight_variance: float = 2.0, bias_variance: float = 0.0
) -> Float[np.ndarray, "N N"]:
    """Neural tangent kernel of a ReLU network of infinite width (Jacot, Gabriel, Hongler 2018).

    With the kernels Kˡ and angles t of `nngp_kernel`, where all weights and biases are trained:

        Θ⁰ = K⁰,   Θˡ = Kˡ + σ_w² Θˡ⁻¹ (π−t)/(2π).

    Args: those of `nngp_kernel`.

    Returns: (N, N) in float64.

    Raises: ValueError for inputs of another shape, or other numbers.

    Example: for one hidden layer the diagonal has twice the value of `nngp_kernel`.

        >>> nc.metrics.ntk_kernel(np.eye(2), 1).round(6).tolist()
        [[2.0, 0.31831], [0.31831, 2.0]]
    """
    first, *others = _layers(inputs, depth, weight_variance, bias_variance)
    tangent = first.kernel
    for layer in others:
        tangent = layer.kernel + weight_variance * tangent * (np.pi - layer.angle) / (2 * np.pi)
    return tangent


class _Layer(NamedTuple):
    """Kernel of a layer, and the angles of the layer below, both (N, N); 0 for the first."""

    kernel: Float[np.ndarray, "N N"]
    angle: Float[np.ndarray, "N N"]


def _layers(
    inputs: Any, depth: int, weight_variance: float, bias_variance: float
) -> Iterator[_Layer]:
    x = np.asarray(array_of("inputs", inputs)).astype(float)
    check_integer("depth", depth, least=0)
    check_number("weight_variance", weight_variance, above_zero=True, scalar=True)
    check_number("bias_variance", bias_variance, scalar=True)
    # Squared distances D = K_xx + K_x'x' − 2 K_xx' are computed beside the kernel. From the cosine
    # the angle of two inputs that are close would lose half of its digits.
    scale = weight_variance / x.shape[1]
    distances = scale * _squared_distances(x)
    squares = bias_variance + scale * np.sum(x**2, axis=1)
    kernel = bias_variance + scale * (x @ x.T)
    np.fill_diagonal(kernel, squares)
    yield _Layer(kernel, np.zeros_like(kernel))
    for _ in range(depth):
        lengths = np.sqrt(squares)
        products = np.outer(lengths, lengths)
        gaps = (lengths[:, None] - lengths) ** 2
        # 2 (1 − cos t); an input of length 0 has the angle 0 to all others.
        chords = np.divide(
            distances - gaps, products, out=np.zeros_like(products), where=products > 0
        )
        angle = 2 * np.arcsin(np.sqrt(np.clip(chords / 4, 0, 1)))
        # 1 − (sin t + (π−t) cos t)/π
        missing = 2 * np.sin(angle / 2) ** 2 - _sine_minus(angle) / np.pi
        distances = weight_variance / 2 * (gaps + 2 * products * missing)
        squares = bias_variance + weight_variance / 2 * squares
        kernel = bias_variance + weight_variance / 2 * products * (1 - missing)
        yield _Layer(kernel, angle)


def _squared_distances(x: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N N"]:
    """‖x − x'‖² with full relative precision: one matrix product, and differences where close."""
    centred = x - np.mean(x, axis=0)
    squares = np.sum(centred**2, axis=1)
    norms = squares[:, None] + squares
    distances = norms - 2 * centred @ centred.T
    rows, columns = np.nonzero(distances < _CLOSE * norms)
    size = max(_CHUNK // x.shape[1], 1)
    for start in range(0, len(rows), size):
        i, j = rows[start : start + size], columns[start : start + size]
        distances[i, j] = np.sum((x[i] - x[j]) ** 2, axis=1)
    return distances


def _sine_minus(t: np.ndarray) -> np.ndarray:
    """sin t − t cos t."""
    series = t**3 * (1 / 3 - t**2 / 30 + t**4 / 840)
    return np.where(t < _SMALL_ANGLE, series, np.sin(t) - t * np.cos(t))
