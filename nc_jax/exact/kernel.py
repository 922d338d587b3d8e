"""Features with a constant kernel Θ of the samples: rates at the origin, and the square loss.

Features that are equal within classes, H = YM with one-hot labels Y, have the flow
M' = −κ ∂L/∂M with the kernel κ = D⁻¹YᵀΘYD⁻¹ of the class means, D = diag(n_k), if ΘY is constant
within classes.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from ..checks import check_key, check_number
from ..errors import ArgumentError
from ..geometry import contrasts
from ..precision import matmul
from ..preconditions import check_kernel, check_kernel_square_loss
from ..problems import KernelFeatures
from ..state import LastLayer
from .linearized import at_times

# ΘY counts as constant within classes up to this share of its size.
_RELATIVE = 1e-6


def kernel_rates(problem: KernelFeatures) -> Float[np.ndarray, " R"]:
    """Rates at which the flow leaves W = H = 0, descending (derived).

    Their squares μ are the eigenvalues of RᵀΘR with R = −∂L/∂Z at the origin: sYP for
    cross-entropy, K−1 of them, and sY for the square loss, with the loss scale s. For one sample in
    each class, the sum and cross-entropy they are √eig(PΘP). A start of norm ε learns a contrast of
    the rate √μ at the time log(1/ε)/√μ + O(1), so that a kernel of super-classes is learned coarse
    contrasts first. For such kernels a fine contrast keeps its rate while the classes of a
    super-class have equal logits.

    Raises: ValueError for another problem or another loss, or a problem with a bias.

    Example: four classes in two super-classes; one coarse contrast and two fine ones.

        >>> kernel = nc.problems.ClassKernel.superclasses((2, 2), 1.0, 0.6, 0.1)
        >>> problem = nc.KernelFeatures((1,) * 4, 3, kernel=kernel, reduction="sum")
        >>> (nc.exact.kernel_rates(problem) ** 2).round(6).tolist()
        [1.4, 0.4, 0.4]
    """
    check_kernel(problem, inverse=False)
    if problem.bias:
        raise ValueError("problem has a bias: the rates are known without one; give bias=False.")
    num_classes = problem.num_classes
    basis = contrasts(num_classes).T if problem.loss.is_cross_entropy else np.eye(num_classes)
    rows = basis[problem.labels]
    values = np.linalg.eigvalsh(rows.T @ kernel_product(problem, rows))[::-1]
    return problem.loss_scale * np.sqrt(np.maximum(values, 0.0))


def kernel_square_flow(
    problem: KernelFeatures,
    start: Float[ArrayLike, " R"] | Sequence[float],
    time: Float[ArrayLike, "*times"],
    *,
    key: Key[Array, ""] | None = None,
) -> LastLayer:
    """The flow of the square loss from a collapsed start aligned with the kernel, at times t.

    Let κ be the kernel of the means of classes of n samples, with eigenvalues κ_j, descending, and
    eigenvectors v_j. A start with WWᵀ = Σ σ_j² v_j v_jᵀ and WᵀW = HᵀΘ⁻¹H stays of this form, and

        σ_j²(t) = κ_j^(−½) / (1 + (κ_j^(−½)/σ_j²(0) − 1) e^(−2 s n √κ_j t)),

    with the loss scale s (Seleznova et al. 2023 for a block kernel, where κ_j = μ_c/n; derived for
    others). Without bias there are K modes. With a bias, b = 1/K is constant and the K−1 modes are
    contrasts of classes.

    Args:
        problem: squared error, classes of one size, and ΘY constant within classes.
        start: σ_j²(0) > 0, K of them without a bias, and K−1 with one.
        time: t of any shape, not log(1 + t).
        key: rotates the states at random; None gives a fixed orientation.

    Returns: states with the axes of t in front, in JAX's default float.

    Raises: ValueError for another problem, another number of values, a κ of which 1 is no
    eigenvector if there is a bias, or too few dimensions.

    Example: with a block kernel all contrasts of three classes of three samples have κ_j = 4.2/3.

        >>> kernel = nc.problems.BlockKernel(3.0, 1.2, 0.4)
        >>> problem = nc.KernelFeatures(
        ...     (3, 3, 3), 2, kernel=kernel, loss=nc.SquaredError(), bias=True
        ... )
        >>> state = nc.exact.kernel_square_flow(problem, [0.01, 0.02], 1e6)
        >>> round(float(jnp.sum(state.classifier**2)) / 2, 6), round(np.sqrt(3 / 4.2).item(), 6)
        (0.845154, 0.845154)
    """
    count = check_kernel_square_loss(problem)
    values, vectors = _class_modes(problem)
    check_number("start", start, above_zero=True)
    if np.shape(start) != values.shape:
        raise ArgumentError(
            f"start has shape {np.shape(start)}: give {len(values)} numbers > 0, one of each mode.",
            "start",
        )
    dtype, num_classes = jnp.result_type(float), problem.num_classes
    roots, start, modes = (jnp.asarray(x, dtype) for x in (np.sqrt(values), start, vectors))
    rate = 2 * problem.loss_scale * count * roots
    orientation = frame(len(values), problem.feature_dim, key, dtype)
    bias = jnp.full(num_classes, 1 / num_classes, dtype) if problem.bias else None

    def solution(time: Float[Array, ""]) -> LastLayer:
        squares = 1 / (roots * (1 + (1 / (roots * start) - 1) * jnp.exp(-rate * time)))
        classifier = matmul(modes * jnp.sqrt(squares)[None], orientation)
        means = matmul(modes * (roots * jnp.sqrt(squares))[None], orientation)
        return LastLayer(means[problem.labels], classifier, bias)

    return at_times(solution, time, solution(jnp.zeros((), dtype)))


def kernel_product(
    problem: KernelFeatures, rows: Float[np.ndarray, "N R"]
) -> Float[np.ndarray, "N R"]:
    """Θ times rows, as numbers also where the call is traced."""
    with jax.ensure_compile_time_eval():
        image = problem.kernel.product(jnp.asarray(rows, float), problem.class_sizes)
        return np.asarray(image, float)


def kernel_solution(
    problem: KernelFeatures, rows: Float[np.ndarray, "N R"]
) -> Float[np.ndarray, "N R"]:
    """Θ⁻¹ times rows, as numbers also where the call is traced."""
    with jax.ensure_compile_time_eval():
        return np.asarray(problem.solve(jnp.asarray(rows, float)), float)


def class_means(
    problem: KernelFeatures, rows: Float[np.ndarray, "N R"]
) -> Float[np.ndarray, "K R"]:
    """Means of rows over the samples of each class."""
    members = problem.labels == np.arange(problem.num_classes)[:, None]
    return members @ rows / np.array(problem.class_sizes)[:, None]


def _class_modes(problem: KernelFeatures) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, descending, and eigenvectors of κ; on the contrasts if there is a bias."""
    num_classes, labels = problem.num_classes, problem.labels
    image = kernel_product(problem, np.eye(num_classes)[labels])
    kernel = class_means(problem, image) / problem.class_sizes[0]
    size = np.linalg.norm(image)
    if np.linalg.norm(image - problem.class_sizes[0] * kernel[labels]) > _RELATIVE * size:
        raise ValueError(
            "kernel maps features that are equal within classes to others: give a BlockKernel or "
            "a ClassKernel."
        )
    if not problem.bias:
        values, vectors = np.linalg.eigh(kernel)
        return values[::-1], vectors[:, ::-1]
    basis = contrasts(num_classes)
    mixing = basis @ kernel @ np.ones(num_classes)
    if np.linalg.norm(mixing) > _RELATIVE * np.linalg.norm(kernel):
        raise ValueError(
            "kernel: the sums of the rows of the class kernel differ, so that a bias of 1/K is not "
            "constant; give equal sums, or bias=False."
        )
    values, vectors = np.linalg.eigh(basis @ kernel @ basis.T)
    return values[::-1], (basis.T @ vectors)[:, ::-1]


def frame(
    rank: int, feature_dim: int, key: Key[Array, ""] | None, dtype: DTypeLike
) -> Float[Array, "R d"]:
    """Orthonormal rows in d dimensions, fixed or random."""
    if key is None:
        return jnp.eye(rank, feature_dim, dtype=dtype)
    check_key(key)
    return jax.random.orthogonal(key, feature_dim, dtype=dtype)[:rank]
