"""Late times of cross-entropy for features with a constant kernel Θ of the samples.

With H = Θ^½A the flow of `KernelFeatures` is the gradient flow of a model with the factors A and W
and the logits Z = Θ^½AWᵀ. Theorems for free features then hold with A in the place of H. The
separation problem becomes min ‖Θ^(−½)Z‖_* over logits with margins z_y − z_c >= 1 (derived). Let Y
be the one-hot labels and P = I − 11ᵀ/K. The simplex-encoded labels Z = YP are its optimum if the
wrong classes have positive multipliers λ_ic = −(Θ⁻¹Y S^(+½))_ic, with S = P YᵀΘ⁻¹Y P. Then

    WWᵀ = S^½,   MMᵀ = S^(+½) for the class means M,   MWᵀ = P,   V = tr S^½.

For Θ_ij = C_{y_i y_j} + s δ_ij, YᵀΘ⁻¹Y is the inverse of the kernel κ = C + sD⁻¹ of the class
means, D = diag(n_k). Where κ commutes with P, S^(+½) is (PκP)^½: all logits become symmetric, and
the features and the classifier keep the structure of the kernel.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from ..checks import check_integer, check_number, is_traced
from ..display import summary
from ..errors import ArgumentError
from ..geometry import contrasts
from ..precision import check_dtype, matmul, widened
from ..preconditions import check_kernel_limit
from ..problems import KernelFeatures
from ..state import LastLayer
from .kernel import class_means, frame, kernel_product, kernel_solution
from .offsets import OffsetGeometry


class KernelLimit(eqx.Module):
    """Simplex-encoded labels with a kernel: a candidate for the limit of the flow.

    Attributes:
        classifier_gram: (K, K) WWᵀ = S^½ at margin 1, S = P YᵀΘ⁻¹Y P.
        mean_gram: (K, K) MMᵀ = S^(+½) of the class means.
        multipliers: (N, K) λ_ic of sample i and the wrong class c, 0 at its class.
        singular_values: (K−1,) σ of Θ^(−½)YP, descending.
        value: V = Σσ, the value ½‖W‖² + ½ tr HᵀΘ⁻¹H of these logits.
        smallest_multiplier: min λ_ic; above 0 the candidate is the only optimum.
        spectral_norm: ‖Θ^½B‖₂ of the dual variable B_ic = −λ_ic, 1 up to rounding.

    All arrays are in float64, of NumPy.

    Example: see `kernel_limit`.

        >>> kernel = nc.problems.BlockKernel(2.0, 1.0, 0.0)
        >>> limit = nc.exact.kernel_limit(nc.KernelFeatures((1, 1), 2, kernel=kernel))
        >>> limit.classifier_gram.round(6).tolist()
        [[0.353553, -0.353553], [-0.353553, 0.353553]]
    """

    problem: KernelFeatures
    classifier_gram: Float[np.ndarray, "K K"]
    mean_gram: Float[np.ndarray, "K K"]
    multipliers: Float[np.ndarray, "N K"]
    singular_values: Float[np.ndarray, " K-1"]
    value: float
    smallest_multiplier: float
    spectral_norm: float

    def __repr__(self) -> str:
        return summary(self, holds=self.holds)

    @property
    def holds(self) -> bool:
        """Whether the logits YP are the only optimum: λ > 0 and ‖Θ^½B‖₂ <= 1 (weak duality)."""
        return self.smallest_multiplier > 0 and self.spectral_norm <= 1 + 1e-8

    def state(
        self,
        gap: Float[ArrayLike, ""] = 1.0,
        *,
        key: Key[Array, ""] | None = None,
        dtype: DTypeLike = float,
    ) -> LastLayer:
        """Collapsed state with WᵀW = HᵀΘ⁻¹H, whose margins all equal the gap.

        Args:
            gap: q = z_y − z_c >= 0.
            key: rotates the state at random; None gives a fixed orientation.
            dtype: of the state.

        Raises: ValueError for a gap that is negative or not finite.

        Example: its invariant is 0.

            >>> kernel = nc.problems.BlockKernel(2.0, 1.0, 0.5)
            >>> problem = nc.KernelFeatures((3, 1, 1), 2, kernel=kernel)
            >>> state = nc.exact.kernel_limit(problem).state(5.0)
            >>> bool(problem.observe(state)["kernel_balance_norm"] < 1e-12)
            True
        """
        check_number("gap", gap, scalar=True)
        check_dtype(dtype)
        values, vectors = np.linalg.eigh(self.classifier_gram)
        # The first eigenvalue is that of the vector 1, which is 0.
        singular, right = values[1:], vectors[:, 1:]
        root = jnp.sqrt(jnp.asarray(gap, dtype))
        classifier, means = (
            root * jnp.asarray(right * singular[None] ** power, dtype) for power in (0.5, -0.5)
        )
        orientation = frame(len(singular), self.problem.feature_dim, key, dtype)
        features = matmul(means, orientation)[self.problem.labels]
        return LastLayer(features, matmul(classifier, orientation))


def kernel_limit(problem: KernelFeatures) -> KernelLimit:
    """Simplex-encoded labels YP for a kernel, with the certificate of their optimality (derived).

    Flows of cross-entropy without decay converge in direction to critical points of the separation
    problem min ‖Θ^(−½)Z‖_*. If `holds` is True, YP is its only optimum. The multipliers are
    positive for every Θ = sI (see `seli`). For other kernels they may be negative: the optimum then
    has larger margins than 1, and no closed form is known.

    The loss of a flow is that of `late_loss` with the `value`.

    Raises: ValueError for another problem, a kernel without an inverse, another loss than
    cross-entropy, a bias, or d < K−1.

    Example: cosines of classifiers within and across the super-classes.

        >>> kernel = nc.problems.ClassKernel.superclasses((2, 2), 1.0, 0.6, 0.1)
        >>> limit = nc.exact.kernel_limit(nc.KernelFeatures((1,) * 4, 3, kernel=kernel))
        >>> (limit.classifier_gram / limit.classifier_gram[0, 0])[0].round(6).tolist()
        [1.0, -0.578207, -0.210897, -0.210897]
        >>> limit.holds
        True
    """
    check_kernel_limit(problem)
    labels, num_classes = problem.labels, problem.num_classes
    basis = contrasts(num_classes)
    solved = kernel_solution(problem, basis.T[labels])
    values, vectors = np.linalg.eigh(basis.T[labels].T @ solved)
    singular, right = np.sqrt(values), basis.T @ vectors
    inverse = (vectors / singular[None]) @ vectors.T
    dual = solved @ inverse @ basis
    image = kernel_product(problem, dual)
    wrong = labels[:, None] != np.arange(num_classes)
    return KernelLimit(
        problem=problem,
        classifier_gram=(right * singular[None]) @ right.T,
        mean_gram=(right / singular[None]) @ right.T,
        multipliers=np.where(wrong, -dual, 0.0),
        singular_values=singular[::-1],
        value=float(np.sum(singular)),
        smallest_multiplier=float(np.min(-dual[wrong])),
        spectral_norm=float(np.sqrt(np.linalg.eigvalsh(dual.T @ image)[-1])),
    )


def kernel_late_geometry(
    problem: KernelFeatures, gap: Float[ArrayLike, ""], *, order: int = 2
) -> OffsetGeometry:
    """Logits and Gram matrices late in a flow of cross-entropy with a kernel (derived).

    As `late_geometry`: the margins are s_ic = q − log λ_ic − δ_ic/(λ_ic q) + O(1/q²) with the
    multipliers λ of `kernel_limit`. From a start with WᵀW = HᵀΘ⁻¹H and Σ_c w_c = 0 the Gram matrix
    is WWᵀ = (XᵀΘ⁻¹X)^½ for the logits X, and H = X(XᵀΘ⁻¹X)^(+¼) up to a rotation.

    Args:
        problem: cross-entropy, with a kernel whose `kernel_limit(problem).holds`.
        gap: q > 0, such as `late_gap(log_time, loss_scale=problem.loss_scale)`; a traced one is
            allowed.
        order: 1 leaves out the term with δ, 2 includes it.

    Returns: an `OffsetGeometry` with the dtype of the gap, whose `logits` are the means over the
    samples of each class.

    Raises: as `kernel_limit`, and ValueError for multipliers that are not positive, another order,
    or a gap that is not positive or so small that the term of order 2 exceeds it.

    Example: at t = 10^130 the cosine within a super-class is not yet at its limit, −0.5782.

        >>> kernel = nc.problems.ClassKernel.superclasses((2, 2), 1.0, 0.6, 0.1)
        >>> problem = nc.KernelFeatures((1,) * 4, 3, kernel=kernel, reduction="sum")
        >>> gap = nc.exact.late_gap(130 * np.log(10))
        >>> gram = nc.exact.kernel_late_geometry(problem, gap).classifier_gram
        >>> round(float(gram[0, 1] / gram[0, 0]), 4)
        -0.576
    """
    check_kernel_limit(problem)
    check_number("gap", gap, above_zero=True, scalar=True)
    check_integer("order", order, least=1, most=2)
    limit = kernel_limit(problem)
    if not limit.holds:
        raise ValueError(
            f"kernel has the multiplier {limit.smallest_multiplier:.3g}: the offsets are known "
            "where all are positive, kernel_limit(problem).holds; give such a kernel."
        )
    gap = widened(gap)
    basis = contrasts(problem.num_classes)
    first, constant, correction = _offsets(problem, limit)
    least = float(np.sqrt(np.max(np.abs(correction))))
    if order == 2 and not is_traced(gap) and gap < least:
        raise ArgumentError(
            f"gap = {float(gap):.3g}: below {least:.3g} the term of order 2 exceeds the gap; give "
            "a larger one, such as that of a later time, or order=1.",
            "gap",
        )
    terms = [first, constant, correction][: order + 1]
    powers = [gap, jnp.ones_like(gap), 1 / gap][: order + 1]
    # XᵀΘ⁻¹X is a sum over products of two terms, which do not depend on the gap.
    solved = [kernel_solution(problem, term @ basis.T) for term in terms]
    num_classes = problem.num_classes
    inner = jnp.zeros((num_classes - 1, num_classes - 1), gap.dtype)
    means = jnp.zeros((num_classes, num_classes), gap.dtype)
    for left, power in zip(terms, powers, strict=True):
        means += power * jnp.asarray(class_means(problem, left), gap.dtype)
        for right, other in zip(solved, powers, strict=True):
            inner += power * other * jnp.asarray((left @ basis.T).T @ right, gap.dtype)
    # The rank K−1 is known, so that no eigenvalue 0 is inverted.
    values, vectors = jnp.linalg.eigh((inner + inner.T) / 2)
    vectors = matmul(jnp.asarray(basis.T, gap.dtype), vectors)
    features = matmul(means, vectors)
    return OffsetGeometry(
        gap=gap,
        logits=means,
        classifier_gram=matmul(vectors * jnp.sqrt(values)[None], vectors.T),
        mean_gram=matmul(features / jnp.sqrt(values)[None], features.T),
    )


def _offsets(problem: KernelFeatures, limit: KernelLimit) -> tuple[np.ndarray, ...]:
    """Terms (N, K) of the logits X = q YP + C + D/q of all samples, with rows of mean 0.

    Write Θ^(−½)YP = UσVᵀ, Θ^(−½)X = qΘ^(−½)YP + C and −Θ^½ ∂L/∂X = e^(−q)(UVᵀ + B/q). As in
    `late_geometry`, B_ij = −(C + Cᵀ)_ij/(σ_i + σ_j) in the bases U and V; on the complement of U,
    σ_i and Cᵀ are 0. Here Θ^(−½)U and Θ^(−½)C are computed, by Θ⁻¹.
    """
    labels, num_classes = problem.labels, problem.num_classes
    projector = np.eye(num_classes) - 1 / num_classes
    wrong = labels[:, None] != np.arange(num_classes)
    multipliers = np.where(wrong, limit.multipliers, 1.0)
    constant = np.log(multipliers) @ projector
    values, vectors = np.linalg.eigh(limit.classifier_gram)
    singular, right = values[1:], vectors[:, 1:]
    left = kernel_solution(problem, right[labels]) / singular[None]
    rotated = left.T @ constant @ right
    inside = -(rotated + rotated.T) / (singular[:, None] + singular[None])
    outside = -(kernel_solution(problem, constant @ right) - left @ rotated) / singular[None]
    delta = -(left @ inside + outside) @ right.T
    correction = np.where(wrong, delta / multipliers, 0.0) @ projector
    return projector[labels], constant, correction
