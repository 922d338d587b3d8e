"""Kernels Θ_ij = C_{y_i y_j} + s_{y_i} δ_ij, which act through sums over classes.

They are never formed as N x N matrices. With one-hot labels Y and D = diag(n_k), on vectors that
are constant within classes Θ YX = Y(diag(s) + CD)X. On vectors whose sums over each class are 0,
Θ multiplies the entries of class k by s_k.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

from ...checks import check_number, is_traced, shown
from ...errors import ArgumentError
from ...precision import matmul, weak_scalar
from ..classed import labels_of
from ..unconstrained.sizes import check_sizes
from .base import AbstractKernel

# Eigenvalues below this share of the largest one count as 0, and below minus it as negative.
_RELATIVE = 1e-12


class BlockKernel(AbstractKernel):
    """Θ_ij = kd for i = j, kc for samples of one class, kn for others (Seleznova et al. 2023).

    Θ = (kd − kc) I + (kc − kn) YYᵀ + kn 11ᵀ with one-hot labels Y, applied as three means: of each
    sample, of its class and of all samples. For classes of n samples its eigenvalues are
    μ_s = kd − kc within classes, μ_c = μ_s + n(kc − kn) between classes, and
    μ_g = μ_c + N kn for the mean of all samples. Classes of any sizes are allowed.

    Args:
        same_sample: kd.
        same_class: kc.
        other_class: kn.

    Raises: ValueError for a number that is not finite. A problem refuses a kernel that is not
    positive semidefinite for its class sizes.

    Example: the eigenvalues for three classes of three samples.

        >>> kernel = nc.problems.BlockKernel(3.0, 1.2, 0.4)
        >>> rows = jnp.array([[1.0], [-1.0], [0.0]] + [[0.0]] * 6)
        >>> np.asarray(kernel.product(rows, (3, 3, 3)))[:3, 0].round(6).tolist()
        [1.8, -1.8, 0.0]
        >>> np.asarray(kernel.product(jnp.ones((9, 1)), (3, 3, 3)))[0].round(6).tolist()
        [7.8]
    """

    same_sample: float | Float[Array, ""]
    same_class: float | Float[Array, ""]
    other_class: float | Float[Array, ""]

    def __init__(
        self,
        same_sample: float | Float[Array, ""],
        same_class: float | Float[Array, ""],
        other_class: float | Float[Array, ""],
    ):
        names = ("same_sample", "same_class", "other_class")
        for name, value in zip(names, (same_sample, same_class, other_class), strict=True):
            check_number(name, value, scalar=True, signed=True)
            setattr(self, name, weak_scalar(value))

    def product(
        self, rows: Float[Array, "N *axes"], class_sizes: tuple[int, ...]
    ) -> Float[Array, "N *axes"]:
        """Θ times the rows, from their sums over each class and over all samples."""
        sample, within, across = self._parts(rows)
        sums = class_sums(rows, class_sizes)
        of_classes = within * sums + across * jnp.sum(sums, axis=0, keepdims=True)
        return sample * rows + of_classes[labels_of(class_sizes)]

    def solution(
        self, rows: Float[Array, "N *axes"], class_sizes: tuple[int, ...]
    ) -> Float[Array, "N *axes"]:
        """Θ⁻¹ times the rows, by a system of K equations for the class means."""
        sample, within, across = self._parts(rows)
        count = len(class_sizes)
        matrix = within * jnp.eye(count, dtype=rows.dtype) + across
        return _solution(matrix, jnp.full(count, sample), rows, class_sizes)

    def check(self, class_sizes: tuple[int, ...]) -> bool:
        """Raise ValueError where Θ has a negative eigenvalue; return whether all are positive."""
        numbers = (self.same_sample, self.same_class, self.other_class)
        if any(is_traced(number) for number in numbers):
            return False
        own, within, across = (float(number) for number in numbers)
        count = len(class_sizes)
        matrix = np.full((count, count), across) + (within - across) * np.eye(count)
        return _check_spectrum(matrix, np.full(count, own - within), class_sizes)

    def _parts(self, rows: Float[Array, "N *axes"]) -> tuple[Array, Array, Array]:
        """kd − kc, kc − kn and kn, in the dtype of the rows."""
        own, within, across = (
            jnp.asarray(number, rows.dtype)
            for number in (self.same_sample, self.same_class, self.other_class)
        )
        return own - within, within - across, across


class ClassKernel(AbstractKernel):
    """Θ_ij = C_{y_i y_j} + s_{y_i} δ_ij, from a kernel C of the classes (derived).

    For one sample in each class Θ is C + diag(s). For collapsed features H = YM, with class means
    M, the flow is M' = −κ ∂L/∂M with the kernel κ = C + diag(s_k/n_k) of the class means. For s = 0
    the deviations of features from their class means are constant, and Θ has no inverse if a class
    has two samples or more.

    Args:
        matrix: (K, K) symmetric C.
        diagonal: s, one number or one for each class.

    Raises: ValueError for a matrix that is not square, symmetric and finite, or another number of
    diagonal entries than classes. A problem refuses a kernel that is not positive semidefinite for
    its class sizes.

    Example: four classes in two super-classes.

        >>> kernel = nc.problems.ClassKernel.superclasses((2, 2), 1.0, 0.6, 0.1)
        >>> kernel.matrix[0].tolist()
        [1.0, 0.6, 0.1, 0.1]
        >>> contrast = jnp.array([[1.0], [-1.0], [0.0], [0.0]])
        >>> np.asarray(kernel.product(contrast, (1, 1, 1, 1)))[:, 0].round(6).tolist()
        [0.4, -0.4, 0.0, 0.0]
    """

    matrix: Float[Array, "K K"]
    diagonal: Float[Array, " K"]

    def __init__(self, matrix: Real[ArrayLike, "K K"], diagonal: Any = 0.0):
        check_number("matrix", matrix, signed=True)
        shape = np.shape(matrix)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ArgumentError(
                f"matrix has shape {shape}: give (K, K), a row for each class.", "matrix"
            )
        if not is_traced(matrix) and not np.allclose(matrix, np.transpose(matrix), rtol=1e-9):
            raise ArgumentError("matrix is not symmetric: give (C + Cᵀ)/2.", "matrix")
        check_number("diagonal", diagonal, signed=True)
        if np.shape(diagonal) not in ((), shape[:1]):
            raise ArgumentError(
                f"diagonal has shape {np.shape(diagonal)} and matrix {shape}: give one number, or "
                "one for each class.",
                "diagonal",
            )
        # Concrete also where the kernel is created in traced code: `check` reads the numbers.
        with jax.ensure_compile_time_eval():
            self.matrix = jnp.asarray(matrix, float)
            self.diagonal = jnp.broadcast_to(jnp.asarray(diagonal, float), shape[:1])

    @classmethod
    def superclasses(
        cls,
        groups: Sequence[int],
        same_class: float,
        same_group: float,
        other_group: float,
        *,
        diagonal: float = 0.0,
    ) -> "ClassKernel":
        """A kernel of classes in groups: gd on the diagonal, gs within a group, g0 across groups.

        Args:
            groups: number of classes of each group; class 0 is in the first group.
            same_class, same_group, other_group: gd, gs and g0.
            diagonal: s, added for i = j.

        Raises: ValueError for a group without classes, or a number that is not finite.

        Example:

            >>> nc.problems.ClassKernel.superclasses((2, 1), 1.0, 0.5, 0.0).matrix.tolist()
            [[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]]
        """
        if isinstance(groups, str) or np.ndim(groups) != 1 or len(groups) == 0:
            raise ArgumentError(
                f"groups = {shown(groups)}: give the number of classes of each group, as (2, 2).",
                "groups",
            )
        sizes = check_sizes("groups", groups)
        names = ("same_class", "same_group", "other_group")
        for name, value in zip(names, (same_class, same_group, other_group), strict=True):
            check_number(name, value, signed=True, scalar=True)
        group = labels_of(sizes)
        matrix = np.where(group[:, None] == group[None], float(same_group), float(other_group))
        np.fill_diagonal(matrix, same_class)
        return cls(matrix, diagonal)

    def product(
        self, rows: Float[Array, "N *axes"], class_sizes: tuple[int, ...]
    ) -> Float[Array, "N *axes"]:
        """Θ times the rows: C times their sums over each class, and s times the rows."""
        matrix, diagonal = (jnp.asarray(x, rows.dtype) for x in (self.matrix, self.diagonal))
        sums = class_sums(rows, class_sizes)
        of_classes = matmul(matrix, sums.reshape(len(sums), -1)).reshape(sums.shape)
        labels = labels_of(class_sizes)
        return _column(diagonal[labels], rows) * rows + of_classes[labels]

    def solution(
        self, rows: Float[Array, "N *axes"], class_sizes: tuple[int, ...]
    ) -> Float[Array, "N *axes"]:
        """Θ⁻¹ times the rows, by a system of K equations for the class means."""
        matrix, diagonal = (jnp.asarray(x, rows.dtype) for x in (self.matrix, self.diagonal))
        return _solution(matrix, diagonal, rows, class_sizes)

    def check(self, class_sizes: tuple[int, ...]) -> bool:
        """Raise ValueError where Θ has a negative eigenvalue; return whether all are positive."""
        if len(self.matrix) != len(class_sizes):
            raise ArgumentError(
                f"kernel has a matrix of {len(self.matrix)} classes and class_sizes "
                f"{len(class_sizes)}: give one row for each class.",
                "kernel",
            )
        if is_traced(self.matrix) or is_traced(self.diagonal):
            return False
        return _check_spectrum(np.asarray(self.matrix), np.asarray(self.diagonal), class_sizes)


def class_sums(
    rows: Float[Array, "N *axes"], class_sizes: tuple[int, ...]
) -> Float[Array, "K *axes"]:
    """Sums of rows over each class."""
    if len(set(class_sizes)) == 1:
        # Faster than a sum by index, which classes of several sizes need.
        return jnp.sum(rows.reshape(len(class_sizes), class_sizes[0], *rows.shape[1:]), axis=1)
    return jax.ops.segment_sum(
        rows, labels_of(class_sizes), len(class_sizes), indices_are_sorted=True
    )


def _solution(
    matrix: Float[Array, "K K"],
    diagonal: Float[Array, " K"],
    rows: Float[Array, "N *axes"],
    class_sizes: tuple[int, ...],
) -> Float[Array, "N *axes"]:
    """Θ⁻¹ times the rows for Θ = YCYᵀ + diag(s): deviations from class means over s, plus YX.

    Θ YX = Y(diag(s) + CD)X is to be YM for the class means M, hence X = D⁻¹κ⁻¹M with the symmetric
    κ = C + diag(s/n).
    """
    sizes = jnp.asarray(np.array(class_sizes, float), rows.dtype)
    means = class_sums(rows, class_sizes) / _column(sizes, rows)
    kernel = matrix + jnp.diag(diagonal / sizes)
    flat = jnp.linalg.solve(kernel, means.reshape(len(means), -1))
    inner = flat.reshape(means.shape) / _column(sizes, rows)
    if max(class_sizes) == 1:
        return inner  # There are no deviations, and s may be 0.
    labels = labels_of(class_sizes)
    # A class of one sample has no deviation, and its s may be 0 or below.
    inverse = np.array(class_sizes)[labels] > 1
    share = jnp.where(inverse, 1 / jnp.where(inverse, diagonal[labels], 1), 0)
    return _column(share, rows) * (rows - means[labels]) + inner[labels]


def _column(values: Float[ArrayLike, " M"], rows: Float[Array, "N *axes"]) -> Float[Array, "M ..."]:
    """Values as a column that broadcasts against rows, in their dtype."""
    return jnp.asarray(values, rows.dtype).reshape(-1, *(1,) * (rows.ndim - 1))


def _check_spectrum(
    matrix: Float[np.ndarray, "K K"],
    diagonal: Float[np.ndarray, " K"],
    class_sizes: tuple[int, ...],
) -> bool:
    """Raise ValueError where C + diag(s) of samples has a negative eigenvalue.

    Returns: whether all are positive.
    """
    sizes = np.array(class_sizes, float)
    roots = np.sqrt(sizes)
    # Similar to diag(s) + CD, which Θ is on vectors that are constant within classes.
    between = np.linalg.eigvalsh(np.diag(diagonal) + roots[:, None] * matrix * roots)
    within = diagonal[sizes > 1]
    values = np.append(between, within)
    limit = _RELATIVE * np.max(np.abs(values))
    if np.min(values) < -limit:
        raise ArgumentError(
            f"kernel has the eigenvalue {np.min(values):.3g} for class_sizes = {class_sizes}: give "
            "a positive semidefinite one, such as BlockKernel(kd, kc, kn) with kd >= kc >= kn >= "
            "0.",
            "kernel",
        )
    return bool(np.min(values) > limit)
