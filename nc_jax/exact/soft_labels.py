"""Limit of free features with soft labels and no decay: supports, in-support logits, max-margin.

Targets are rows p_i of probabilities with supports S_i = {k : p_ik > 0}. The loss exceeds its
infimum Σ_i H(p_i) by Σ_i [−log P(S_i) + KL(p_i ‖ u_i)], u_i the softmax over S_i (Zhao et al.
2024). Late in the flow the logits are q L + C. The constants C have C_ik = log p_ik on S_i, and L
solves

    min ‖L‖_*  with  L_ik = L_ik' for k, k' in S_i,  and  L_ik − L_ij >= 1 for k in S_i, j off it.

The dual problem is max Σλ over B with ‖B‖₂ <= 1, rows of sum 0, and B_ij = −λ_ij <= 0 off S_i; on
S_i entries of B are free, since equalities have multipliers of either sign. V = ‖L‖_* is the least
½ρ² at margin 1. The multipliers of the equalities do no work along q L, so that Σλ = V and
q' = 2q e^(−q) as for class labels: `late_gap` and `late_loss` hold for the excess of the loss, with
C_ij = log λ_ij off S_i (derived).

Samples with equal supports have equal rows of L. n of them count as one row √n times as long.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, DTypeLike, Float, Real

from ..checks import check_integer, check_known, check_number, is_traced
from ..display import summary
from ..errors import ArgumentError
from ..losses import SoftCrossEntropy
from ..precision import check_dtype, widened
from ..state import LastLayer

# The closed form is taken where its duality gap, computed from its multipliers, is rounding.
_CLOSED = 1e-12
# The iteration ends at this relative duality gap, or without success after so many steps.
_SOLVED, _MOST_STEPS = 1e-9, 40_000
# Multipliers up to here, relative to the largest, count as 0: the iteration leaves such errors.
_ACTIVE = 1e-6
# Singular values of B above 1 − this count as 1; conditions weaker than this count as dependent.
_TOP = 1e-4


class SoftLabelLimit(eqx.Module):
    """Predicted limit of the logits; see `soft_label_limit`. Arrays are float64 of NumPy.

    Attributes:
        supports: (N, K) where p_ik > 0.
        in_support_logits: (N, K) log p_ik less its mean over S_i on S_i, 0 off it.
        max_margin: (N, K) L, with rows of sum 0.
        multipliers: (N, K) λ_ij >= 0 off the supports, 0 on them; Σλ bounds V from below.
        singular_values: of L, descending, those above rounding.
        value: V = ‖L‖_*.
        gap: ‖L‖_*/Σλ − 1, the relative duality gap: no feasible L has a norm below V/(1 + gap).
        is_closed_form: whether L = 1_S − |S|/K, which has margins 1 everywhere.
        is_unique: whether no other L has this norm. Otherwise V and the law of the loss hold, but
            each start may have its own direction.

    Example: see `soft_label_limit`.

        >>> nc.exact.soft_label_limit(np.array([[1.0, 0.0], [0.0, 1.0]])).max_margin.tolist()
        [[0.5, -0.5], [-0.5, 0.5]]
    """

    supports: Bool[np.ndarray, "N K"]
    in_support_logits: Float[np.ndarray, "N K"]
    max_margin: Float[np.ndarray, "N K"]
    multipliers: Float[np.ndarray, "N K"]
    singular_values: Float[np.ndarray, " r"]
    value: float
    gap: float
    is_closed_form: bool
    is_unique: bool

    def __repr__(self) -> str:
        return summary(self)

    def logits(
        self, gap: Float[ArrayLike, ""] = 1.0
    ) -> Float[np.ndarray, "N K"] | Float[Array, "N K"]:
        """q L + C at the gap q, with rows of sum 0: the logits up to O(1/q) late in a flow.

        C_ik is log p_ik on the support and log λ_ij off it. Where λ_ij = 0 the margin is above q by
        an amount that grows, and C_ij is 0. A gap that is an array of JAX, also a traced one, gives
        one.

        Example: two labels of three, in the ratio 3:1.

            >>> limit = nc.exact.soft_label_limit(np.array([[0.75, 0.25, 0.0]]))
            >>> logits = limit.logits(10.0)[0]
            >>> round(float(np.exp(logits[0] - logits[1])), 6)
            3.0
        """
        check_number("gap", gap, scalar=True)
        active = self.multipliers > _ACTIVE * self.multipliers.max()
        inside = np.where(self.supports, self._log_targets, 0.0)
        constants = inside + np.log(np.where(active, self.multipliers, 1.0))
        return gap * self.max_margin + constants - constants.mean(axis=1, keepdims=True)

    def state(
        self, feature_dim: int, gap: Float[ArrayLike, ""] = 1.0, *, dtype: DTypeLike = float
    ) -> LastLayer:
        """Balanced state, WᵀW = HᵀH, of the logits q L + C.

        Raises: ValueError for a gap that is negative or traced, or a feature_dim below the rank of
        the logits.

        Example: at a late time its excess loss is that of `late_loss`.

            >>> targets = np.array([[0.75, 0.25, 0.0], [0.0, 0.0, 1.0]])
            >>> limit = nc.exact.soft_label_limit(targets)
            >>> loss, state = nc.losses.SoftCrossEntropy(), limit.state(3, gap=50.0)
            >>> excess = float(jnp.sum(loss.excess(state.logits(), jnp.asarray(targets))))
            >>> print(round(np.log(excess), 6), round(np.log(limit.value) - 50, 6))
            -49.856159 -49.856159
        """
        check_integer("feature_dim", feature_dim)
        check_dtype(dtype)
        check_known("gap", gap, "the rank of the state")
        left, singular, right = np.linalg.svd(self.logits(np.asarray(gap)), full_matrices=False)
        rank = int(np.sum(singular > _rank_cut(singular, self.max_margin.shape)))
        if feature_dim < rank:
            raise ArgumentError(
                f"feature_dim = {feature_dim}: the logits of these targets have rank {rank}; give "
                f"at least {rank} dimensions.",
                "feature_dim",
            )
        roots = np.sqrt(singular[:rank])[None]
        frame = np.eye(rank, feature_dim)
        features, classifier = (left[:, :rank] * roots) @ frame, (right[:rank].T * roots) @ frame
        return LastLayer(jnp.asarray(features, dtype), jnp.asarray(classifier, dtype))

    def cosine(self, state: LastLayer) -> Float[Array, ""]:
        """Cosine of the logits of a state, with rows less their mean, and L; 1 at the limit.

        Works under jit, as part of an observer of a flow.

        Example:

            >>> limit = nc.exact.soft_label_limit(np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]))
            >>> round(float(limit.cosine(limit.state(3, gap=1e6))), 6)
            1.0
        """
        logits = widened(state).logits()
        centred = logits - jnp.mean(logits, axis=1, keepdims=True)
        direction = jnp.asarray(self.max_margin / np.linalg.norm(self.max_margin), centred.dtype)
        return jnp.sum(centred * direction) / jnp.linalg.norm(centred)

    @property
    def _log_targets(self) -> Float[np.ndarray, "N K"]:
        # The mean over the support is a shift of a row, which `logits` removes; what remains is
        # that Σ_S e^C = 1, as log P(S) of the offsets log λ requires.
        inside = np.where(self.supports, self.in_support_logits, -np.inf)
        return inside - np.log(np.sum(np.exp(inside), axis=1, keepdims=True))


def soft_label_limit(targets: Real[ArrayLike, "N K"]) -> SoftLabelLimit:
    """Limit of the logits of `FreeFeatures` with `SoftCrossEntropy`, without decay or bias.

    L is 1_S − |S|/K where its polar factor UVᵀ is <= 0 off the supports, which proves it (derived).
    Otherwise L is computed, to a duality gap of 1e-9, by Douglas-Rachford iterations between the
    nuclear norm and the margins. The flow reaches it if d is at least the rank of L, and L is the
    only optimum.

    Args: `targets` (N, K), rows of probabilities, of which at least one has an entry 0.

    Raises: ValueError for rows that are no probabilities, for targets without a 0, whose flow comes
    to rest at logits log p, for traced targets, or where the iteration does not reach the gap.

    Example: all pairs of 4 classes.

        >>> import itertools
        >>> targets = np.zeros((6, 4))
        >>> for row, pair in zip(targets, itertools.combinations(range(4), 2)):
        ...     row[list(pair)] = (0.7, 0.3)
        >>> limit = nc.exact.soft_label_limit(targets)
        >>> round(limit.value, 10), limit.singular_values.round(6).tolist(), limit.is_closed_form
        (4.2426406871, [1.414214, 1.414214, 1.414214], True)
    """
    probabilities = _checked(targets)
    supports = probabilities > 0
    inside = np.log(np.where(supports, probabilities, 1.0))
    means = np.sum(inside, axis=1, keepdims=True) / np.sum(supports, axis=1, keepdims=True)
    # One row for each support, √n times as long: the margins of the long rows are √n.
    patterns, groups, counts = np.unique(supports, axis=0, return_inverse=True, return_counts=True)
    groups, lengths = groups.reshape(-1), np.sqrt(counts)[:, None]
    solution = _closed_form(patterns, lengths)
    is_closed_form = solution.gap <= _CLOSED
    if not is_closed_form:
        solution = _solve(patterns, lengths)
    singular = np.linalg.svd(solution.logits, compute_uv=False)
    return SoftLabelLimit(
        supports=supports,
        in_support_logits=np.where(supports, inside - means, 0.0),
        max_margin=(solution.logits / lengths)[groups],
        multipliers=(np.where(patterns, 0.0, -solution.dual) / lengths)[groups],
        singular_values=singular[singular > _rank_cut(singular, supports.shape)],
        value=float(np.sum(singular)),
        gap=float(solution.gap),
        is_closed_form=bool(is_closed_form),
        is_unique=_is_unique(solution, patterns),
    )


class _Solution(NamedTuple):
    """Feasible logits and multipliers B of long rows, and their relative duality gap."""

    logits: Float[np.ndarray, "R K"]
    dual: Float[np.ndarray, "R K"]
    gap: float


def _checked(targets: Real[ArrayLike, "N K"]) -> Float[np.ndarray, "N K"]:
    """Targets as rows of sum 1, of which one has a 0."""
    if is_traced(targets):
        raise ArgumentError(
            "targets are traced: their zeros must be known; give an array.", "targets"
        )
    check_number("targets", targets, signed=True)
    known = np.asarray(targets, float)
    if known.ndim != 2:
        raise ArgumentError(
            f"targets have shape {known.shape}: give (N, K), a row for each sample.", "targets"
        )
    SoftCrossEntropy().check_targets(jnp.asarray(known, float))
    if np.all(known > 0):
        raise ArgumentError(
            "targets have no entry 0: the flow comes to rest at the logits log p, without a "
            "max-margin part; give rows with zeros.",
            "targets",
        )
    return known / known.sum(axis=1, keepdims=True)


def _closed_form(patterns: Bool[np.ndarray, "R K"], lengths: Float[np.ndarray, "R 1"]) -> _Solution:
    """Rows 1_S − |S|/K, with the multipliers that their polar factor UVᵀ gives."""
    logits = lengths * (patterns - patterns.mean(axis=1, keepdims=True))
    left, singular, right = np.linalg.svd(logits, full_matrices=False)
    kept = singular > _rank_cut(singular, logits.shape)
    return _certified(logits, left[:, kept] @ right[kept], patterns, lengths)


def _certified(
    logits: Float[np.ndarray, "R K"],
    dual: Float[np.ndarray, "R K"],
    patterns: Bool[np.ndarray, "R K"],
    lengths: Float[np.ndarray, "R 1"],
) -> _Solution:
    """Feasible logits with the dual point that is made of B: signs first, then rows, then norm."""
    feasible = np.where(patterns, dual, np.minimum(dual, 0.0))
    # Rows of sum 0 by equal changes on the support, whose entries are free.
    missing = feasible.sum(axis=1, keepdims=True) / patterns.sum(axis=1, keepdims=True)
    feasible = feasible - np.where(patterns, missing, 0.0)
    feasible = feasible / max(1.0, np.linalg.norm(feasible, 2))
    bound = float(np.sum(np.where(patterns, 0.0, -lengths * feasible)))
    norm = float(np.sum(np.linalg.svd(logits, compute_uv=False)))
    return _Solution(logits, feasible, norm / bound - 1 if bound > 0 else np.inf)


def _is_unique(solution: _Solution, patterns: Bool[np.ndarray, "R K"]) -> bool:
    """Whether the conditions of optimality, linear in S = Sᵀ with Z = U S Vᵀ, determine S.

    U and V are the singular vectors of B of the singular value 1. Every optimum Z has this form,
    with equal entries on the supports and margins 1 wherever λ > 0.
    """
    left, singular, right = np.linalg.svd(solution.dual, full_matrices=False)
    top = singular > 1 - _TOP
    outer = np.einsum("ia,bj->abij", left[:, top], right[top])
    first, second = np.triu_indices(int(top.sum()))
    symmetric = outer[first, second] + outer[second, first]
    active = ~patterns & (solution.dual < -_ACTIVE * np.max(-solution.dual[~patterns]))
    inside = np.sum(np.where(patterns, symmetric, 0.0), axis=2, keepdims=True)
    means = inside / patterns.sum(axis=1, keepdims=True)
    conditions = np.where(patterns | active, symmetric - means, 0.0).reshape(len(first), -1)
    return bool(np.linalg.matrix_rank(conditions, tol=_TOP) == len(first))


def _solve(patterns: Bool[np.ndarray, "R K"], lengths: Float[np.ndarray, "R 1"]) -> _Solution:
    """Douglas-Rachford iterations; the duality gap decides when they end."""
    solution = _closed_form(patterns, lengths)
    point = solution.logits
    threshold = np.linalg.norm(point, 2) / 2
    for step in range(_MOST_STEPS):
        left, singular, right = np.linalg.svd(point, full_matrices=False)
        shrunk = (left * np.maximum(singular - threshold, 0)[None]) @ right
        projected = _project(2 * shrunk - point, patterns, lengths)
        # (point − shrunk)/threshold is in the subdifferential of the norm at `shrunk`.
        dual = (point - shrunk) / threshold
        point = point + projected - shrunk
        if step % 20 == 0:
            # The mean of a row changes no margin, and adds to the norm.
            centred = projected - projected.mean(axis=1, keepdims=True)
            solution = _certified(centred, dual, patterns, lengths)
            if solution.gap <= _SOLVED:
                return solution
    raise ValueError(
        f"targets: the max-margin part has a duality gap of {solution.gap:.1e} after {_MOST_STEPS} "
        f"iterations, above {_SOLVED:g}; give fewer distinct supports."
    )


def _project(
    rows: Float[np.ndarray, "R K"],
    patterns: Bool[np.ndarray, "R K"],
    lengths: Float[np.ndarray, "R 1"],
) -> Float[np.ndarray, "R K"]:
    """Nearest rows that equal a on the support and at most a − length off it.

    a is the mean of the entries of the support and of those off it that exceed a − length, the
    latter raised by the length. Taken in descending order, the m largest are among these as long as
    the next one exceeds the mean.
    """
    raised = np.where(patterns, np.inf, rows + lengths)
    ordered = -np.sort(-raised, axis=1)
    inside = np.where(patterns, rows, 0.0).sum(axis=1, keepdims=True)
    # The entries of the support are the infinite ones, which come first.
    counts = np.arange(1, rows.shape[1] + 1)[None]
    sums = inside + np.cumsum(np.where(np.isinf(ordered), 0.0, ordered), axis=1)
    sizes = patterns.sum(axis=1, keepdims=True)
    means = np.where(counts >= sizes, sums / counts, -np.inf)
    # The mean over the m largest is greatest for the right m.
    level = means.max(axis=1, keepdims=True)
    return np.where(patterns, level, np.minimum(rows, level - lengths))


def _rank_cut(singular: Float[np.ndarray, " r"], shape: tuple[int, ...]) -> float:
    """Singular values up to here are rounding errors, or errors of the iteration."""
    return float(singular.max() * max(max(shape) * np.finfo(float).eps, 1e-8))
