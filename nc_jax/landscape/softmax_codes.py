"""A second-order certificate that a softmax code is a local maximum of the smallest margin."""

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Real

from ..checks import check_arrays, check_matrix, check_number, is_traced
from ..display import summary
from ..errors import ArgumentError

# Multipliers above this are positive. The linear programme has a tolerance of 1e-9.
_POSITIVE = 1e-7


class CodeCertificate(eqx.Module):
    """Multipliers and second derivatives of the smallest margin at a code: see `code_certificate`.

    Attributes:
        value: the smallest margin t = min_{k, j≠k} ⟨w_k − w_j, h_k⟩.
        active: (K, K) which margins are within the tolerance of t.
        multipliers: (K, K) λ_kj >= 0 of the active margins, with sum 1; NaN if there are none.
        stationarity: largest entry of the tangential part of Σ λ_kj ∇⟨w_k − w_j, h_k⟩.
        curvatures: eigenvalues, largest first, of the Riemannian Hessian of Σ λ_kj ⟨w_k − w_j, h_k⟩
            on the directions in which no margin with λ_kj > 0 changes to first order.
        rotations: dimension of the orbit of rotations, along which the curvature is 0.
        tolerance: the argument of `code_certificate`.

    Example: the certificate holds at an octahedron.

        >>> code = nc.exact.softmax_code(6, 3)
        >>> found = nc.landscape.code_certificate(code.directions)
        >>> found.holds, found.rotations, int(found.active.sum())
        (True, 3, 24)
    """

    value: float
    active: Bool[np.ndarray, "K K"]
    multipliers: Float[np.ndarray, "K K"]
    stationarity: float
    curvatures: Float[np.ndarray, " m"]
    rotations: int
    tolerance: float

    def __repr__(self) -> str:
        return summary(self, holds=self.holds)

    @property
    def holds(self) -> bool:
        """Whether the code is proved to be a local maximum, isolated up to rotations.

        False proves nothing: a code with a row that can move without a change of the value has
        further zero curvatures, and may still be optimal.
        """
        flat = np.abs(self.curvatures) <= self.tolerance
        rises = self.curvatures > self.tolerance
        stationary = self.stationarity <= self.tolerance  # False for NaN
        return bool(stationary and not rises.any() and np.sum(flat) == self.rotations)


def code_certificate(
    classifier: Real[Array, "K d"],
    features: Real[Array, "K d"] | None = None,
    *,
    tolerance: float = 1e-7,
) -> CodeCertificate:
    """Whether unit rows W and H are a strict local maximum of the smallest margin (derived).

    The problem is max t subject to ⟨w_k − w_j, h_k⟩ >= t for all j ≠ k, over unit rows. The
    certificate is its second-order sufficient condition up to rotations: multipliers λ >= 0 of the
    active margins with Σ λ_kj = 1 and a vanishing tangential gradient of the Lagrangian
    Σ λ_kj ⟨w_k − w_j, h_k⟩. Its Riemannian Hessian must be negative on the directions that change
    no margin with λ_kj > 0 to first order, except along rotations. Multipliers of degenerate codes
    are not unique. The certificate takes those of the linear programme max Σ min(λ_kj, 1/(2m)) with
    m active margins, which have few zeros. With more zeros fewer margins restrict the directions,
    and the condition could fail although another choice of λ proves the maximum.

    Computed in NumPy and SciPy, not under jit. The matrices have (2Kd)² entries.

    Args:
        classifier: (K, d) rows w_k, which are divided by their norms.
        features: (K, d) rows h_k; None for h_k = w_k.
        tolerance: margins within this absolute distance of the smallest one count as active;
            gradients, curvatures and relative singular values up to it count as zero. Give about
            1e-5 for codes in float32.

    Raises: ValueError for arrays of other shapes, a row that is 0, or traced arrays.

    Example: a code that is perturbed has no certificate.

        >>> rows = nc.exact.softmax_code(6, 3).directions
        >>> nc.landscape.code_certificate(rows.at[0, 1].add(1e-3)).holds
        False
    """
    unit_w = _unit_rows("classifier", classifier)
    unit_h = unit_w if features is None else _unit_rows("features", features)
    if unit_w.shape != unit_h.shape:
        raise ArgumentError(
            f"features have shape {unit_h.shape} and the classifier {unit_w.shape}: give one "
            "feature for each class.",
            "features",
        )
    check_number("tolerance", tolerance, above_zero=True, scalar=True)
    classes = len(unit_w)
    margins = np.sum(unit_h * unit_w, axis=1, keepdims=True) - unit_h @ unit_w.T
    margins[np.diag_indices(classes)] = np.inf
    value = float(margins.min())
    active = margins <= value + tolerance
    rows = np.concatenate([unit_h, unit_w])
    gradients = _tangential(rows, _margin_gradients(unit_h, unit_w, active))
    weights = _interior_multipliers(gradients, tolerance)
    multipliers = np.zeros((classes, classes))
    multipliers[active] = weights
    binding = gradients[weights > _POSITIVE]
    return CodeCertificate(
        value=value,
        active=active,
        multipliers=multipliers,
        stationarity=float(np.abs(weights @ gradients).max()),
        curvatures=_curvatures(rows, multipliers, binding, tolerance),
        rotations=_rotations(rows),
        tolerance=float(tolerance),
    )


def _unit_rows(name: str, rows: Real[Array, "K d"]) -> np.ndarray:
    check_arrays(name, rows, numbers=True)
    check_matrix(name, rows, "(K, d)")
    if is_traced(rows):
        raise ArgumentError(
            f"{name} is traced: the certificate needs numbers; call it outside of jax.jit.", name
        )
    units = np.asarray(rows, float)
    lengths = np.linalg.norm(units, axis=1, keepdims=True)
    if not np.all(lengths > 0):
        row = int(np.argmin(lengths > 0))
        raise ArgumentError(
            f"row {row} of {name} is {'0' if lengths[row] == 0 else 'NaN'}: give rows with a "
            "direction.",
            name,
        )
    return units / lengths


def _margin_gradients(unit_h: np.ndarray, unit_w: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Gradients (m, 2K, d) of the active ⟨w_k − w_j, h_k⟩ in the rows of H, then of W."""
    of, against = np.nonzero(active)
    classes, pairs = len(unit_w), np.arange(len(of))
    gradients = np.zeros((len(of), 2 * classes, unit_w.shape[1]))
    gradients[pairs, of] = unit_w[of] - unit_w[against]
    gradients[pairs, classes + of] = unit_h[of]
    gradients[pairs, classes + against] = -unit_h[of]
    return gradients


def _tangential(rows: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Directions (m, 2K, d) without their parts along the rows, as flat vectors (m, 2Kd)."""
    along = np.sum(directions * rows, axis=2, keepdims=True) * rows
    return (directions - along).reshape(len(directions), -1)


def _interior_multipliers(gradients: np.ndarray, tolerance: float) -> np.ndarray:
    """Multipliers with sum 1 and no gradient of the Lagrangian, as many above 0 as possible."""
    from scipy.optimize import linprog  # A dependency of JAX, which takes 0.2 s to import.

    count = len(gradients)
    # An orthonormal basis of the equations: their rows are dependent, by the rotations at least.
    left, sizes, _ = np.linalg.svd(gradients, full_matrices=False)
    equations = left[:, sizes > tolerance * sizes[0]].T
    # Variables λ and s: s <= λ and s <= 1/(2m), and the sum of s is maximised.
    none = np.zeros((len(equations), count))
    total = np.concatenate([np.ones(count), np.zeros(count)])
    found = linprog(
        -np.concatenate([np.zeros(count), np.ones(count)]),
        A_ub=np.hstack([-np.eye(count), np.eye(count)]),
        b_ub=np.zeros(count),
        A_eq=np.vstack([np.hstack([equations, none]), total]),
        b_eq=np.append(np.zeros(len(equations)), 1.0),
        bounds=[(0, None)] * count + [(None, 1 / (2 * count))] * count,
        options={"primal_feasibility_tolerance": 1e-9},
    )
    return found.x[:count] if found.success else np.full(count, np.nan)


def _curvatures(
    rows: np.ndarray, multipliers: np.ndarray, binding: np.ndarray, tolerance: float
) -> np.ndarray:
    """Eigenvalues of the Hessian of the Lagrangian on directions orthogonal to the gradients.

    Args: `binding` are the gradients of the margins with positive multipliers.
    """
    from scipy.linalg import null_space

    classes, dim = len(multipliers), rows.shape[1]
    if np.isnan(multipliers).any():
        return np.full(1, np.nan)
    # The Lagrangian is Σ B_kj ⟨h_k, w_j⟩, with −λ off the diagonal and rows that sum to 0.
    bilinear = np.diag(multipliers.sum(axis=1)) - multipliers
    swapped = np.zeros((2 * classes, 2 * classes))
    swapped[:classes, classes:] = bilinear
    swapped[classes:, :classes] = bilinear.T
    # On a sphere the second derivative along a great circle has the radial slope subtracted.
    radial = np.sum(rows * (swapped @ rows), axis=1)
    hessian = np.kron(swapped - np.diag(radial), np.eye(dim))
    normals = np.zeros((len(rows), rows.size))
    for i, row in enumerate(rows):
        normals[i, i * dim : (i + 1) * dim] = row
    free = null_space(np.vstack([normals, binding]), rcond=tolerance)
    return np.linalg.eigvalsh(free.T @ hessian @ free)[::-1]


def _rotations(rows: np.ndarray) -> int:
    """Dimension of the orbit of rotations, r(2d − r − 1)/2 for rows of rank r."""
    rank, dim = int(np.linalg.matrix_rank(rows)), rows.shape[1]
    return rank * (2 * dim - rank - 1) // 2
