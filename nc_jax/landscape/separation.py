"""Local minima of the separation problem: second-order certificate of a code.

The problem is min ½Σ‖factors‖² with all s_ic = z_{y_i} − z_c >= 1 (c ≠ y_i) for the logits
Z = A_0 A_1 ... A_{m−1} of m factors: A_0 = H, A_1 = Wᵀ for features and a classifier (m = 2; Ji,
3.1), and A_0 = H, A_l = W_lᵀ for a deep linear net. Let λ be multipliers of a KKT point, and B
(N, K) the matrix with −λ_ic for c ≠ y_i and rows that sum to 0. Stationarity is
A_l = (A_0...A_{l−1})ᵀ B (A_{l+1}...A_{m−1})ᵀ for all l; for two factors W = BᵀH and H = BW. The
Hessian of the Lagrangian is I − ∂²⟨B, Z⟩. Its block of the entries [a, b] of A_k and [c, d] of A_l,
k < l, is −M[b, c] (R Bᵀ P)[d, a] with the products P before A_k, M between both and R behind A_l. A
KKT point is a local minimum, strict up to rotations, if this
matrix is positive on all directions that are orthogonal to the gradients of the constraints with
λ > 0, except along rotations of the layers (sufficient condition of second order, Nocedal, Wright,
theorem 12.6).
"""

import functools
import itertools

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from ..checks import check_number, is_traced
from ..display import summary
from ..precision import widened
from ..preconditions import check_deep_homogeneous, check_homogeneous
from ..problems import (
    DeepFeatures,
    DeepUnconstrainedFeatures,
    UnconstrainedFeatures,
    check_shapes,
)
from ..state import LastLayer

# Added to the bounds of linear programs, so that rounding does not make them infeasible.
_SLACK = 1e-9
# Multipliers below this share of their mean count as 0.
_SMALLEST = 1e-4


class SeparationCertificate(eqx.Module):
    """A feasible point of the separation problem with multipliers, and its Lagrangian Hessian.

    Attributes:
        point: the state divided by q_min^(1/m), which fulfils all constraints s >= 1.
        value: ½Σ‖factors‖² of the point.
        multipliers: (N, K) λ >= 0, zero at the label and for constraints that are not active.
        epsilon: ‖θ − Σ λ ∇s‖ of the point θ.
        delta: Σ λ (s − 1).
        eigenvalues: of the Lagrangian Hessian on the directions that are orthogonal to the
            gradients of all constraints with λ > 0; ascending.
        symmetries: dimension of the orbit of rotations, the sum of r(2d − r − 1)/2 over all layers
            of d dimensions, in which the two factors have the rank r.
        tolerance: the one that was used.

    Example: the regular pentagon is a local minimum. Its one rotation is the eigenvalue 0.

        >>> problem = nc.ulpm(5, 2, 1)
        >>> _, state = nc.exact.polygon(problem)
        >>> found = nc.landscape.separation_certificate(problem, state)
        >>> found.holds, found.symmetries, round(found.value, 6)
        (True, 1, 7.236068)
    """

    point: LastLayer | DeepFeatures
    value: float
    multipliers: Float[np.ndarray, "N K"]
    epsilon: float
    delta: float
    eigenvalues: Float[np.ndarray, " m"]
    symmetries: int
    tolerance: float

    def __repr__(self) -> str:
        return summary(self, holds=self.holds, is_kkt=self.is_kkt)

    @property
    def is_kkt(self) -> bool:
        """Whether the point is stationary: epsilon <= tolerance · ‖θ‖."""
        return self.epsilon <= self.tolerance * (2 * self.value) ** 0.5

    @property
    def holds(self) -> bool:
        """Whether the point is a KKT point and a local minimum that is strict up to rotations."""
        flat = np.sum(self.eigenvalues <= self.tolerance)
        negative = np.any(self.eigenvalues < -self.tolerance)
        return bool(self.is_kkt and not negative and flat == self.symmetries)


def separation_certificate(
    problem: UnconstrainedFeatures | DeepUnconstrainedFeatures,
    state: LastLayer | DeepFeatures,
    *,
    tolerance: float | None = None,
) -> SeparationCertificate:
    """Certificate that a state, divided by q_min^(1/m), is a local minimum of separation.

    Multipliers of a degenerate code are not unique. The certificate solves a linear program for
    each entry, which makes this entry largest, and takes the mean of the solutions. Nonnegative
    least squares would return multipliers with more zeros than necessary. The constraints with
    λ = 0 are left out of the condition, and it could fail although another choice of λ proves the
    minimum.

    The condition is sufficient and not necessary. For two factors and d >= K−1 `global_certificate`
    proves more. For d < K−1 there is no certificate of a global minimum: the convex bound is that
    of d = K−1. For more than two factors the problem is not convex in any dimension.

    A function of NumPy and SciPy for single states, not for use under jit or vmap; its time grows
    as the cube of the number of entries of all factors.

    Args:
        problem: cross-entropy without bias and decay, of free features or of a deep linear net;
            classes of any sizes.
        state: one that separates all samples.
        tolerance: constraints with s_kij <= (1 + tolerance) q_min count as active. The same number
            is the threshold for the residual, the eigenvalues, and the singular values of the
            gradients. None means 1e-6 in float64 and 1e-3 in float32. For the state of a flow at
            time t give about 1/√log t: active margins are q − log λ with q ~ log t, a relative
            difference of 1/log t, and the conserved mean classifier is 1/√log t of the state in
            norm (m = 2). `holds` then suggests, but does not prove, a local minimum near the
            direction of the state.

    Raises: ValueError for another loss than cross-entropy, a bias or decay, an activation, a state
        of another shape, a traced state, or one that does not separate all samples.

    Example: a triangle and a pair are a KKT point for K = 5, d = 3, but no minimum. The simplex is
    a local minimum at every depth.

        >>> triangle, pair = nc.geometry.simplex_etf(3, 2), jnp.array([[1.0], [-1.0]])
        >>> rows = jax.scipy.linalg.block_diag(triangle, pair)
        >>> state = nc.LastLayer(rows, rows)
        >>> found = nc.landscape.separation_certificate(nc.ulpm(5, 3, 1), state)
        >>> found.is_kkt, found.holds, round(found.value, 6)
        (True, False, 5.0)
        >>> problem = nc.DeepUnconstrainedFeatures((1,) * 4, (3, 3, 3))
        >>> simplex = nc.exact.deep_codes(4, 4)[1]
        >>> found = nc.landscape.separation_certificate(problem, simplex.deep_state(problem.widths))
        >>> found.holds, round(found.value, 6), found.symmetries
        (True, 6.0, 9)
    """
    if isinstance(problem, DeepUnconstrainedFeatures):
        check_deep_homogeneous(problem)
    else:
        check_homogeneous(problem)
    check_shapes(problem, state, name="state")
    if any(map(is_traced, jax.tree.leaves(state))):
        raise ValueError("state is traced: linear programs need numbers; call it outside of jit.")
    state = widened(state)
    if tolerance is None:
        tolerance = 1e-6 if state.features.dtype == np.float64 else 1e-3
    check_number("tolerance", tolerance, above_zero=True, scalar=True)
    factors, margins, smallest = _feasible_point(_factors(state), problem.labels)
    wrong = problem.labels[:, None] != np.arange(problem.num_classes)
    active = wrong & (margins <= 1 + tolerance)
    gradients = _constraint_gradients(factors, active, problem.labels)
    theta = np.concatenate([factor.ravel() for factor in factors])
    found = _multipliers(gradients, theta, tolerance)
    # The sign of a multiplier of the size of the residual is not known. To treat a positive one as
    # 0 makes the condition only stronger.
    positive = found > max(tolerance, _SMALLEST) * np.mean(found)
    multipliers = np.zeros(margins.shape)
    multipliers[active] = found
    slack = np.where(active, margins - 1, 0.0)
    lagrangian = _lagrangian_hessian(multipliers, factors, problem.labels)
    free = _null_space(gradients[positive], tolerance)
    root = smallest ** (1 / len(factors))
    return SeparationCertificate(
        point=jax.tree.map(lambda leaf: leaf / root, state),
        value=float(theta @ theta) / 2,
        multipliers=multipliers,
        epsilon=float(np.linalg.norm(theta - gradients.T @ found)),
        delta=float(np.sum(multipliers * slack)),
        eigenvalues=np.linalg.eigvalsh(free.T @ lagrangian @ free),
        symmetries=_symmetries(factors, tolerance),
        tolerance=float(tolerance),
    )


def _factors(state: LastLayer | DeepFeatures) -> list[Float[np.ndarray, "_ _"]]:
    """A_0, A_1, ..., whose product is the logits."""
    weights = state.weights if isinstance(state, DeepFeatures) else (state.classifier,)
    return [np.asarray(state.features, float), *(np.asarray(weight, float).T for weight in weights)]


def _feasible_point(
    factors: list[Float[np.ndarray, "_ _"]], labels: Int[np.ndarray, " N"]
) -> tuple[list[Float[np.ndarray, "_ _"]], Float[np.ndarray, "N K"], float]:
    """The factors divided by q_min^(1/m), their s_ic with 0 at the label, and q_min."""
    logits = functools.reduce(np.matmul, factors)
    margins = logits[np.arange(len(logits)), labels][:, None] - logits
    smallest = margins[labels[:, None] != np.arange(logits.shape[1])].min()
    if not smallest > 0:
        raise ValueError(
            f"state has the smallest margin {smallest:.3g}: give one that separates all samples, "
            "such as the final state of a longer flow."
        )
    root = smallest ** (1 / len(factors))
    return [factor / root for factor in factors], margins / smallest, smallest.item()


def _product(
    factors: list[Float[np.ndarray, "_ _"]], first: int, stop: int
) -> Float[np.ndarray, "_ _"]:
    """A_first ... A_{stop−1}, the identity if there is none."""
    rows = factors[first].shape[0] if first < len(factors) else factors[-1].shape[1]
    return functools.reduce(np.matmul, factors[first:stop], np.eye(rows))


def _constraint_gradients(
    factors: list[Float[np.ndarray, "_ _"]],
    active: Bool[np.ndarray, "N K"],
    labels: Int[np.ndarray, " N"],
) -> Float[np.ndarray, "c p"]:
    """∇s_ic of the active constraints, as rows in the order A_0, A_1, ..."""
    samples, others = np.nonzero(active)
    blocks = []
    for i in range(len(factors)):
        before, behind = _product(factors, 0, i), _product(factors, i + 1, len(factors))
        right = behind[:, labels[samples]] - behind[:, others]
        block = before[samples][:, :, None] * right.T[:, None, :]
        blocks.append(block.reshape(len(samples), -1))
    return np.concatenate(blocks, axis=1)


def _symmetries(factors: list[Float[np.ndarray, "_ _"]], tolerance: float) -> int:
    """Dimension of the orbit of rotations of all layers."""
    total = 0
    for before, behind in itertools.pairwise(factors):
        rank = int(np.linalg.matrix_rank(np.concatenate([before, behind.T]), rtol=tolerance))
        total += rank * (2 * before.shape[1] - rank - 1) // 2
    return total


def _multipliers(
    gradients: Float[np.ndarray, "m p"], theta: Float[np.ndarray, " p"], tolerance: float
) -> Float[np.ndarray, " m"]:
    """λ >= 0 with θ = Σλ∇s in which an entry is 0 only if it is 0 in all such λ.

    The mean of solutions that each make one entry largest. Where no λ >= 0 solves the equation, the
    result has a residual.
    """
    left, singular, right = np.linalg.svd(gradients)
    rank = int(np.sum(singular > tolerance * singular[0]))
    # All solutions of least squares are `particular` + `kernel` y.
    particular = left[:, :rank] @ (right[:rank] @ theta / singular[:rank])
    kernel = left[:, rank:]
    count, width = kernel.shape
    if not width:
        return np.maximum(particular, 0)
    # In the variables (y, u): the least u with λ >= −u in every entry, which is 0 at a KKT point.
    least = _minimum(
        np.append(np.zeros(width), 1.0), np.insert(-kernel, width, -1.0, axis=1), particular
    )
    # Σλ = ‖θ‖²/m at a KKT point of m factors, since ‖θ‖² = Σ λ ⟨θ, ∇s⟩ = m Σ λ s: ½‖θ‖² at most.
    small = _SMALLEST * (theta @ theta / 2) / count
    rows = np.concatenate([-kernel, kernel])
    bound = np.concatenate([particular + max(least[-1], 0), theta @ theta / 2 - particular])
    largest: list[np.ndarray] = []
    for i in range(count):
        # An entry that is positive already needs no program.
        if not largest or (particular + kernel @ np.mean(largest, axis=0))[i] < small:
            largest.append(_minimum(-kernel[i], rows, bound))
    return np.maximum(particular + kernel @ np.mean(largest, axis=0), 0)


def _minimum(
    objective: Float[np.ndarray, " r"],
    rows: Float[np.ndarray, "q r"],
    bound: Float[np.ndarray, " q"],
) -> Float[np.ndarray, " r"]:
    """The x of least objective·x with rows·x <= bound."""
    from scipy.optimize import linprog  # A dependency of JAX, which takes 0.2 s to import.

    found = linprog(objective, A_ub=rows, b_ub=bound + _SLACK, bounds=(None, None))
    if found.x is None:
        raise RuntimeError(f"the linear program of the multipliers has failed: {found.message}")
    return found.x


def _lagrangian_hessian(
    multipliers: Float[np.ndarray, "N K"],
    factors: list[Float[np.ndarray, "_ _"]],
    labels: Int[np.ndarray, " N"],
) -> Float[np.ndarray, "p p"]:
    """I − ∂²⟨B, Z⟩ in the order A_0, A_1, ..."""
    matrix = -multipliers
    matrix[np.arange(len(labels)), labels] = multipliers.sum(axis=1)
    ends = np.cumsum([0, *(factor.size for factor in factors)])
    hessian = np.eye(ends[-1])
    for i, j in itertools.combinations(range(len(factors)), 2):
        around = _product(factors, j + 1, len(factors)) @ matrix.T @ _product(factors, 0, i)
        block = np.einsum("bc,da->abcd", _product(factors, i + 1, j), around)
        rows, columns = slice(*ends[i : i + 2]), slice(*ends[j : j + 2])
        hessian[rows, columns] = -block.reshape(factors[i].size, factors[j].size)
        hessian[columns, rows] = hessian[rows, columns].T
    return hessian


def _null_space(rows: Float[np.ndarray, "m p"], tolerance: float) -> Float[np.ndarray, "p q"]:
    """Orthonormal columns orthogonal to all rows; singular values below tolerance count as 0."""
    if not len(rows):
        return np.eye(rows.shape[1])
    from scipy.linalg import null_space  # A dependency of JAX, which takes 0.2 s to import.

    return null_space(rows, rcond=tolerance)
