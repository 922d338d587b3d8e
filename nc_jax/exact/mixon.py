"""Exact solutions of Mixon's model: the linear phase near the origin, and the subspace S.

Near the origin the flow is that of `LinearizedMixon`, which splits into five eigenspaces (theorem
2). On S = {H = (W⊗1_n)ᵀ/√n, 1ᵀW = 0, b ∈ span 1} the full flow moves the singular values of W and
the mean of b alone, each by itself (theorem 3). Times are t itself, in units of the summed loss.
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix
from jaxtyping import Array, ArrayLike, Bool, DTypeLike, Float, Key

from ..capabilities import is_unchanged
from ..checks import check_number, is_traced
from ..geometry import above_rounding, center, project_onto_S, project_onto_T
from ..losses import SquaredError, has_formulas_of
from ..precision import matmul, widened
from ..problems import LinearizedMixon, UnconstrainedFeatures, is_unconstrained
from ..state import LastLayer, check_last_layer
from .ulpm import class_size, collapsed_state

# Share of a state that may lie off S, in units of eps: what rounding leaves after a long flow.
_OFF_S = 1000
_GIVE_MIXON = "give nc_jax.mixon(num_classes, feature_dim, samples_per_class)."


class Eigenspace(eqx.Module):
    """An eigenspace of the linear system U' = L_t U, U = (H, W), of Mixon's theorem 2.

    Attributes:
        dimension: over the reals.
        rate: its eigenvalue at t = 0.
        fading: rate at which the eigenvalue itself decays; 0 for a constant one.
        project: state -> its orthogonal projection, with zero bias where there is one.
    """

    dimension: int = eqx.field(static=True)
    rate: float = eqx.field(static=True)
    fading: float = eqx.field(static=True)
    project: Callable[[LastLayer], LastLayer] = eqx.field(static=True)

    def eigenvalue(self, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """Of L_t at time t."""
        return self.rate * jnp.exp(-self.fading * t)

    def growth(self, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """exp(∫₀ᵗ eigenvalue), by which a component has grown at time t."""
        elapsed = -jnp.expm1(-self.fading * t) / self.fading if self.fading else t
        return jnp.exp(self.rate * elapsed)


def linearized_eigenspaces(problem: LinearizedMixon) -> dict[str, Eigenspace]:
    """The five orthogonal eigenspaces of theorem 2, which together span all (H, W).

    | key | members | dimension | eigenvalue |
    |---|---|---|---|
    | `E1+`, `E1-` | H = ±(W⊗1_n)ᵀ/√n, 1ᵀW = 0 | d(K−1) each | ±√n |
    | `E2+`, `E2-` | H = ±z1ᵀ, W = √n 1zᵀ | d each | ±√n e^(−Knt) |
    | `E3` | class sums of H zero, W = 0 | dK(n−1) | 0 |

    `E1+` is T, whose part alone grows without bound. At t = 0 the eigenvalues of `E1±` and `E2±`
    coincide: it is their orthogonality, not the paper's 'distinct eigenvalues', that splits them.

    Raises: ValueError for a problem of another type, or a subclass with another field.

    Example: `linearized_eigenspaces(problem)["E1+"].project(start)`.
    """
    if not is_unchanged(problem, LinearizedMixon, ("labels", "gradient", "scaled_descent")):
        raise ValueError(
            f"problem is of type {type(problem).__name__}: "
            "give nc_jax.LinearizedMixon(num_classes, feature_dim, samples_per_class)."
        )
    classes, size, dim = problem.num_classes, problem.samples_per_class, problem.feature_dim
    root, labels = math.sqrt(size), problem.labels
    one, fading = dim * (classes - 1), float(classes * size)

    def on_t(state: LastLayer) -> LastLayer:
        return project_onto_T(state, labels)

    return {
        "E1+": Eigenspace(one, root, 0.0, on_t),
        "E1-": Eigenspace(one, -root, 0.0, lambda state: _mirror(on_t(_mirror(state)))),
        "E2+": Eigenspace(dim, root, fading, _common_part),
        "E2-": Eigenspace(dim, -root, fading, lambda state: _mirror(_common_part(_mirror(state)))),
        "E3": Eigenspace(dim * classes * (size - 1), 0.0, 0.0, lambda s: _within_part(s, size)),
    }


def linearized_solution(
    problem: LinearizedMixon, state0: LastLayer, t: Float[ArrayLike, "*times"]
) -> LastLayer:
    """U(t) = Σ_E growth_E(t) Π_E U₀ and b(t) = (1 − e^(−Knt))/K · 1 (Mixon, theorem 2).

    The part in T grows as e^(√n t), and overflows past √n t = 709 (88 in float32).

    Args: `problem` a `LinearizedMixon`; `state0` with zero bias; `t` finite and >= 0, of any shape.
    Returns a state whose leaves have the leading axes of `t`.

    Raises: ValueError for a bias other than 0 (a traced one gives NaN), a state of another shape,
    or a negative time.

    Example: `linearized_solution(problem, start, jnp.linspace(0, 5, 51)).classifier`, (51, K, d).
    """
    spaces = linearized_eigenspaces(problem).values()
    start = _without_bias(problem, state0)
    parts = [(space, space.project(start)) for space in spaces]
    classes, bias_rate = problem.num_classes, problem.num_classes * problem.samples_per_class

    def grow(factor: Float[Array, ""], part: LastLayer) -> LastLayer:
        # A factor that has overflowed leaves a part that is absent absent.
        return jax.tree.map(lambda leaf: jnp.where(leaf == 0, 0, factor * leaf), part)

    def solution(t: Float[Array, ""]) -> LastLayer:
        grown = [grow(space.growth(t), part) for space, part in parts]
        features, classifier = jax.tree.leaves(jax.tree.map(lambda *x: sum(x), *grown))
        bias = jnp.full(classes, -jnp.expm1(-bias_rate * t) / classes)
        return LastLayer(features, classifier, bias)

    return _at_times(solution, t, start)


def linearized_bound(
    problem: LinearizedMixon, state0: LastLayer, t: Float[ArrayLike, "*times"]
) -> tuple[Float[Array, "*times"], Float[Array, ""]]:
    """Both sides of theorem 2: ‖U(t) − e^(√n t) Π_T U₀‖ <= e^(1/(K√n)) ‖Π_{T^⊥} U₀‖.

    The left side is summed from the four other eigenspaces, E3 included, which the paper's last
    display leaves out; nothing large is subtracted, so it holds where e^(√n t) overflows.

    Args and errors: those of `linearized_solution`. Returns the left side (*times) and the right.

    Example: `deviation, bound = linearized_bound(problem, start, jnp.linspace(0, 5, 51))`.
    """
    spaces = linearized_eigenspaces(problem)
    start = _without_bias(problem, state0)
    t = _times(t, start)
    others = [(s.growth(t), s.project(start)) for key, s in spaces.items() if key != "E1+"]
    deviation = sum(growth**2 * part.squared_norm() for growth, part in others)
    off_t = sum(part.squared_norm() for _, part in others)
    root = math.sqrt(problem.samples_per_class)
    return jnp.sqrt(deviation), math.exp(1 / (problem.num_classes * root)) * jnp.sqrt(off_t)


def subspace_solution(
    problem: UnconstrainedFeatures, state0: LastLayer, t: Float[ArrayLike, "*times"]
) -> LastLayer:
    """The full flow from a start on S, in closed form (Mixon, theorem 3 b).

    Singular vectors of W stand still; σ² is logistic, σ(t)² = √n/(1 + (√n/σ₀² − 1)e^(−2√n t)), and
    b(t) = (1 − αe^(−Knt))/K · 1 with α = 1 − K mean(b₀). A σ₀ that is zero to rounding counts as
    zero and stays there: e^(√n t) would turn rounding errors into classes by √n t = 37, in an
    integration as well as here.

    Args: `problem` of `mixon`; `state0` on S; `t` finite and >= 0, of any shape (for its limit see
    `subspace_limit`). Returns a state whose leaves have the leading axes of `t`.

    Raises: ValueError for a start off S (a traced one gives NaN), a problem that is not `mixon`'s,
    or a negative time.

    Example: `subspace_solution(problem, project_onto_S(start, problem.labels), 3.0)`.
    """
    start, mean_bias = _on_s(problem, state0)
    left, singular, right = _decompose(start.classifier)
    root = math.sqrt(problem.class_sizes[0])
    share = jnp.where(singular > 0, singular, 1) / math.sqrt(root)  # of the limit n^(1/4)

    def solution(t: Float[Array, ""]) -> LastLayer:
        # In units of the larger of the two, squares of 1e-200 neither vanish nor divide.
        shrunk = jnp.exp(-root * t)
        unit = jax.lax.stop_gradient(jnp.maximum(shrunk, share))
        squared = (shrunk / unit) ** 2 - (share / unit) ** 2 * jnp.expm1(-2 * root * t)
        now = jnp.where(singular > 0, singular / unit / jnp.sqrt(squared), 0)
        gap = (1 - problem.num_classes * mean_bias) * jnp.exp(-problem.num_samples * t)
        return _state_on_s(problem, matmul(left * now[None], right), 1 - gap)

    return _at_times(solution, t, start)


def subspace_limit(problem: UnconstrainedFeatures, state0: LastLayer) -> LastLayer:
    """Where the flow from a start on S ends: W = n^(1/4) U Vᵀ of W₀, b = 1/K (Mixon, theorem 3 c).

    WWᵀ = √n(I − Π) with Π the projection onto ker W₀ᵀ: strong collapse if rank W₀ = K−1, the most
    it can be on S. Rank is counted as in `subspace_solution`.

    Raises: ValueError for a start off S (a traced one gives NaN), or a problem that is not
    `mixon`'s.

    Example: `subspace_limit(problem, project_onto_S(start, problem.labels))`.
    """
    start, _ = _on_s(problem, state0)
    left, singular, right = _decompose(start.classifier)
    limit = jnp.where(singular > 0, problem.class_sizes[0] ** 0.25, 0 * singular)
    return _state_on_s(problem, matmul(left * limit[None], right), jnp.ones_like(singular[0]))


def subspace_objective(problem: UnconstrainedFeatures, state: LastLayer) -> Float[Array, ""]:
    """R = ½‖WWᵀ − √n(I − 11ᵀ/K)‖_F² + (Kn/2)‖b − 1/K‖² of a state on S (Mixon, lemma 4).

    On S the risk measures the distance from strong collapse, (SNC1) and (SNC3).

    Raises: ValueError for a state off S (a traced one gives NaN), or a problem that is not
    `mixon`'s.

    Example: `subspace_objective(problem, start) - problem.objective(start)` is 0 to rounding.
    """
    state, mean_bias = _on_s(problem, state)
    classes, root = problem.num_classes, math.sqrt(problem.class_sizes[0])
    gram = matmul(state.classifier, state.classifier.T)
    target = root * center(jnp.eye(classes, dtype=gram.dtype))
    off_bias = classes * (mean_bias - 1 / classes) ** 2
    return (jnp.sum((gram - target) ** 2) + problem.num_samples * off_bias) / 2


def strong_collapse(
    problem: UnconstrainedFeatures, key: Key[Array, ""] | None = None, dtype: DTypeLike = float
) -> LastLayer:
    """A strongly collapsed point (SNC1-3), turned at random by `key` (Mixon, section 2).

    It is the collapsed state of logit gap 1 with b = 1/K: a global minimum with R = 0 (lemma 1).
    There ‖w_c‖² = √n(1 − 1/K) and ‖μ_c‖² = (1 − 1/K)/√n.

    Raises: ValueError for a problem that is not `mixon`'s, or d < K−1.

    Example: `strong_collapse(mixon(3, 15, 3), jax.random.key(0))`.
    """
    _check_mixon(problem)
    state = collapsed_state(problem, 1.0, key, dtype)
    bias = jnp.full(problem.num_classes, 1 / problem.num_classes, dtype)
    return LastLayer(state.features, state.classifier, bias)


def _mirror(state: LastLayer) -> LastLayer:
    """(−H, W), which swaps E1+ with E1− and E2+ with E2−."""
    return LastLayer(-state.features, state.classifier, state.bias)


def _common_part(state: LastLayer) -> LastLayer:
    """Projection onto E2+: what all classifiers share, matched with what all features share."""
    size = state.features.shape[0] / state.classifier.shape[0]
    shared = jnp.mean(state.classifier, 0) + math.sqrt(size) * jnp.mean(state.features, 0)
    return LastLayer(
        features=jnp.broadcast_to(shared / (2 * math.sqrt(size)), state.features.shape),
        classifier=jnp.broadcast_to(shared / 2, state.classifier.shape),
        bias=None if state.bias is None else jnp.zeros_like(state.bias),
    )


def _within_part(state: LastLayer, size: int) -> LastLayer:
    """Projection onto E3: features less their class means; samples are class-major."""
    by_class = state.features.reshape(-1, size, state.features.shape[1])
    deviations = by_class - jnp.mean(by_class, axis=1, keepdims=True)
    return LastLayer(
        features=deviations.reshape(state.features.shape),
        classifier=jnp.zeros_like(state.classifier),
        bias=None if state.bias is None else jnp.zeros_like(state.bias),
    )


def _without_bias(problem: LinearizedMixon, state: LastLayer) -> LastLayer:
    """(H, W) of a start of this problem whose bias is zero."""
    state = _checked(problem.full, state)
    if state.bias is None:
        return state
    biased = jnp.any(state.bias != 0)
    if not is_traced(biased) and bool(biased):
        raise ValueError(
            f"state0: bias of norm {jnp.linalg.norm(state.bias):.3g} where theorem 2 starts at 0; "
            "set the bias to zero."
        )
    return _nan_where(biased, LastLayer(state.features, state.classifier))


def _on_s(problem: UnconstrainedFeatures, state: LastLayer) -> tuple[LastLayer, Float[Array, ""]]:
    """The state less its rounding errors off S, and its mean bias; off S beyond them is refused."""
    _check_mixon(problem)
    state = _checked(problem, state)
    if state.bias is None:
        raise ValueError("state: has no bias; give one like problem.init(key).")
    projected = project_onto_S(state, problem.labels)
    # In units of the largest entry, whose square may not be a float.
    largest = optimistix.max_norm(state)
    unit = jnp.where(largest > 0, largest, 1)
    whole, off = (
        optimistix.two_norm(jax.tree.map(lambda leaf: leaf / unit, part))
        for part in (state, jax.tree.map(jnp.subtract, state, projected))
    )
    distance = off / jnp.maximum(whole, 1)  # the zero state is on S
    allowed = _OFF_S * jnp.finfo(distance.dtype).eps
    if not is_traced(distance) and not distance <= allowed:
        raise ValueError(
            f"state: lies off S by {distance:.3g} of its norm, where {allowed:.1g} is allowed; "
            "start from nc_jax.geometry.project_onto_S(state, problem.labels)."
        )
    return _nan_where(distance > allowed, projected), jnp.mean(state.bias)


def _nan_where(condition: Bool[Array, ""], state: LastLayer) -> LastLayer:
    return jax.tree.map(lambda leaf: jnp.where(condition, jnp.nan, leaf), state)


def _state_on_s(
    problem: UnconstrainedFeatures, classifier: Float[Array, "K d"], bias_sum: Float[Array, ""]
) -> LastLayer:
    """The state on S with this classifier and b = bias_sum/K · 1."""
    means = classifier / math.sqrt(problem.class_sizes[0])
    bias = jnp.full(problem.num_classes, bias_sum / problem.num_classes)
    return LastLayer(means[problem.labels], classifier, bias)


def _decompose(
    classifier: Float[Array, "K d"],
) -> tuple[Float[Array, "K r"], Float[Array, " r"], Float[Array, "r d"]]:
    """U, σ, Vᵀ of W₀ with the σ that are rounding errors set to zero."""
    left, singular, right = jnp.linalg.svd(classifier, full_matrices=False)
    return left, jnp.where(above_rounding(singular, classifier.shape), singular, 0), right


def _at_times(
    solution: Callable[[Float[Array, ""]], LastLayer],
    t: Float[ArrayLike, "*times"],
    like: LastLayer,
) -> LastLayer:
    """States at all times, in the dtype of `like`, with the leading axes of `t`."""
    t = _times(t, like)
    states = jax.vmap(solution)(t.reshape(-1))
    return jax.tree.map(lambda leaf: leaf.reshape(*t.shape, *leaf.shape[1:]), states)


def _times(t: Float[ArrayLike, "*times"], state: LastLayer) -> Float[Array, "*times"]:
    check_number("t", t)
    return jnp.asarray(t, state.classifier.dtype)


def _check_mixon(problem: UnconstrainedFeatures) -> None:
    """Refuse a problem that is not Mixon's, or whose classes differ in size."""
    if not is_unconstrained(problem):
        raise ValueError(f"problem is of type {type(problem).__name__}: {_GIVE_MIXON}")
    squared, decays = has_formulas_of(problem.loss, SquaredError), not problem.weight_decay.absent
    if not (squared and problem.reduction == "sum" and problem.bias) or decays:
        raise ValueError(
            f"problem has {type(problem.loss).__name__}, reduction {problem.reduction!r}, "
            f"bias {problem.bias}, weight decay {decays}: {_GIVE_MIXON}"
        )
    class_size(problem)


def _checked(problem: UnconstrainedFeatures, state: LastLayer) -> LastLayer:
    """The state in a dtype to compute in; ValueError for what is no state of the problem."""
    check_last_layer(state)
    shapes = state.features.shape, state.classifier.shape
    dim = problem.feature_dim
    wanted = (problem.num_samples, dim), (problem.num_classes, dim)
    if shapes != wanted:
        raise ValueError(
            f"state: features and classifier of shapes {shapes[0]} and {shapes[1]} where the "
            f"problem has {wanted[0]} and {wanted[1]}; pass a state like problem.init(key)."
        )
    return widened(state)
