"""Mixon's linear phase near the origin in closed form (theorem 2).

Near the origin the flow is that of `LinearizedMixon`, which splits into five eigenspaces. Times are
t, not log(1 + t), in units of the summed loss.
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ..checks import is_traced
from ..geometry import project_onto_T
from ..preconditions import check_linearized_mixon
from ..problems import LinearizedMixon
from ..state import LastLayer
from .states import at_times, checked_state, nan_where, times_of


class Eigenspace(eqx.Module):
    """An eigenspace of the linear system U' = L_t U, U = (H, W), of Mixon's theorem 2.

    Attributes:
        dimension: over the reals.
        rate: eigenvalue at t = 0.
        fading: rate at which the eigenvalue decays; 0 for a constant one.
        project: state -> its orthogonal projection, with zero bias where there is one.

    Example: components in E1+ grow as e^(√n t).

        >>> space = nc.exact.linearized_eigenspaces(nc.LinearizedMixon(3, 4, 4))["E1+"]
        >>> round(float(space.growth(jnp.array(0.5))), 6)  # e^(2 · 0.5)
        2.718282
    """

    # Static, since an eigenspace depends on the problem only, and `growth` branches on `fading`.
    dimension: int = eqx.field(static=True)
    rate: float = eqx.field(static=True)
    fading: float = eqx.field(static=True)
    project: Callable[[LastLayer], LastLayer] = eqx.field(static=True)

    def eigenvalue(self, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """Eigenvalue of L_t at time t."""
        return self.rate * jnp.exp(-self.fading * t)

    def growth(self, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """exp(∫₀ᵗ eigenvalue), the factor by which a component has grown at time t."""
        # A constant eigenvalue is a separate case, since the quotient would be 0/0.
        elapsed = -jnp.expm1(-self.fading * t) / self.fading if self.fading else t
        return jnp.exp(self.rate * elapsed)


def linearized_eigenspaces(problem: LinearizedMixon) -> dict[str, Eigenspace]:
    """The five orthogonal eigenspaces of theorem 2, which together span all (H, W).

    | key | members | dimension | eigenvalue |
    |---|---|---|---|
    | `E1+`, `E1-` | H = ±(W⊗1_n)ᵀ/√n, 1ᵀW = 0 | d(K−1) each | ±√n |
    | `E2+`, `E2-` | H = ±z1ᵀ, W = √n 1zᵀ | d each | ±√n e^(−Knt) |
    | `E3` | class sums of H zero, W = 0 | dK(n−1) | 0 |

    `E1+` is the subspace T of the paper. Only the component in T grows without bound. At t = 0 the
    eigenvalues of `E1±` and `E2±` coincide, so that the paper's 'distinct eigenvalues' cannot
    separate these spaces; their orthogonality does.

    Raises: ValueError for a problem of another type, or a subclass with another field.

    Example:

        >>> spaces = nc.exact.linearized_eigenspaces(nc.LinearizedMixon(3, 4, 2))
        >>> {name: space.dimension for name, space in spaces.items()}
        {'E1+': 8, 'E1-': 8, 'E2+': 4, 'E2-': 4, 'E3': 12}
    """
    check_linearized_mixon(problem)
    classes, size, dim = problem.num_classes, problem.samples_per_class, problem.feature_dim
    root, labels = math.sqrt(size), problem.labels
    one, fading = dim * (classes - 1), float(classes * size)

    def on_t(state: LastLayer) -> LastLayer:
        return project_onto_T(state, labels)

    # E1− and E2− are the reflections of E1+ and E2+ in H. So are the projections onto them.
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

    The component in T grows as e^(√n t), and overflows past √n t = 709 (88 in float32).

    Args:
        problem: of the linear system.
        state0: start (H, W), with zero bias.
        t: times of the summed loss, finite and >= 0, of any shape.

    Returns: a state whose leaves have the leading axes of `t`.

    Raises: ValueError for a bias other than 0 (a traced one gives NaN), a state of another shape,
    or a negative time.

    Example:

        >>> problem = nc.LinearizedMixon(3, 4, 2)
        >>> start = problem.init(jax.random.key(0), norm=1e-3)
        >>> nc.exact.linearized_solution(problem, start, jnp.linspace(0, 5, 51)).classifier.shape
        (51, 3, 4)
    """
    spaces = linearized_eigenspaces(problem).values()
    start = _with_zero_bias(problem, state0)
    parts = [(space, space.project(start)) for space in spaces]
    classes, bias_rate = problem.num_classes, problem.num_classes * problem.samples_per_class

    def grow(factor: Float[Array, ""], part: LastLayer) -> LastLayer:
        # A component that is 0 stays 0 where its factor has overflowed: 0 · ∞ would be NaN.
        return jax.tree.map(lambda leaf: jnp.where(leaf == 0, 0, factor * leaf), part)

    def solution(t: Float[Array, ""]) -> LastLayer:
        grown = [grow(space.growth(t), part) for space, part in parts]
        features, classifier = jax.tree.leaves(jax.tree.map(lambda *x: sum(x), *grown))
        # The equation b' = −Ã1 does not contain (H, W), so that the bias has a separate solution.
        bias = jnp.full(classes, -jnp.expm1(-bias_rate * t) / classes)
        return LastLayer(features, classifier, bias)

    return at_times(solution, t, start)


def linearized_bound(
    problem: LinearizedMixon, state0: LastLayer, t: Float[ArrayLike, "*times"]
) -> tuple[Float[Array, "*times"], Float[Array, ""]]:
    """Both sides of theorem 2: ‖U(t) − e^(√n t) Π_T U₀‖ <= e^(1/(K√n)) ‖Π_{T^⊥} U₀‖.

    The left side is the norm of the parts in the four other eigenspaces, E3 included, which the
    paper's last display leaves out. The part in T is left out before it grows, and not subtracted
    afterwards, so that the left side is right where e^(√n t) overflows.

    Args and errors: those of `linearized_solution`.

    Returns: the left side with the shape of `t`, and the right side.

    Example:

        >>> problem = nc.LinearizedMixon(3, 4, 2)
        >>> start = problem.init(jax.random.key(0), norm=1e-3)
        >>> deviation, bound = nc.exact.linearized_bound(problem, start, jnp.array([0.0, 1e3]))
        >>> (deviation <= bound).tolist()
        [True, True]
    """
    spaces = linearized_eigenspaces(problem)
    start = _with_zero_bias(problem, state0)
    t = times_of(t, start)
    others = [(s.growth(t), s.project(start)) for key, s in spaces.items() if key != "E1+"]
    # The eigenspaces are orthogonal, so that squared norms add.
    deviation = sum(growth**2 * part.squared_norm() for growth, part in others)
    off_t = sum(part.squared_norm() for _, part in others)
    root = math.sqrt(problem.samples_per_class)
    return jnp.sqrt(deviation), math.exp(1 / (problem.num_classes * root)) * jnp.sqrt(off_t)


def _mirror(state: LastLayer) -> LastLayer:
    """(−H, W), a reflection that exchanges E1+ with E1−, and E2+ with E2−."""
    return LastLayer(-state.features, state.classifier, state.bias)


def _common_part(state: LastLayer) -> LastLayer:
    """Projection onto E2+: every feature is replaced by z, and every classifier by √n z.

    Least squares gives z = (mean classifier + √n · mean feature)/(2√n).
    """
    size = state.features.shape[0] / state.classifier.shape[0]
    shared = jnp.mean(state.classifier, 0) + math.sqrt(size) * jnp.mean(state.features, 0)
    return LastLayer(
        features=jnp.broadcast_to(shared / (2 * math.sqrt(size)), state.features.shape),
        classifier=jnp.broadcast_to(shared / 2, state.classifier.shape),
        bias=None if state.bias is None else jnp.zeros_like(state.bias),
    )


def _within_part(state: LastLayer, size: int) -> LastLayer:
    """Projection onto E3: features minus their class means; samples are sorted by class."""
    by_class = state.features.reshape(-1, size, state.features.shape[1])
    deviations = by_class - jnp.mean(by_class, axis=1, keepdims=True)
    return LastLayer(
        features=deviations.reshape(state.features.shape),
        classifier=jnp.zeros_like(state.classifier),
        bias=None if state.bias is None else jnp.zeros_like(state.bias),
    )


def _with_zero_bias(problem: LinearizedMixon, state: LastLayer) -> LastLayer:
    """(H, W) of a start with zero bias; NaN if a traced bias is not zero."""
    state = checked_state(problem.full, state)
    if state.bias is None:
        return state
    biased = jnp.any(state.bias != 0)
    if not is_traced(biased) and bool(biased):
        raise ValueError(
            f"state0: bias of norm {jnp.linalg.norm(state.bias):.3g} where theorem 2 starts at 0; "
            "set the bias to zero."
        )
    return nan_where(biased, LastLayer(state.features, state.classifier))
