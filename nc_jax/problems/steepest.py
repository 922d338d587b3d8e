"""Steepest descent in another norm than the Euclidean one: sign descent, and Muon idealised."""

from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key, PyTree

from ..checks import check_number, is_traced
from ..measures import Invariant
from ..precision import largest_exponent, matmul, weak_scalar
from .base import AbstractProblem, check_problem

Problem = TypeVar("Problem", bound=AbstractProblem)


@runtime_checkable
class _HasLogObjective(Protocol):
    def log_objective(self, state: Any) -> Float[Array, ""]:
        """log L."""
        ...


class _SteepestFlow(AbstractProblem, Generic[Problem]):
    """A flow along a direction that depends on ∂L/∂x but not on its size; see the subclasses."""

    has_jumps: ClassVar[bool] = True

    problem: Problem

    def __init__(self, problem: Problem):
        check_problem(problem)
        if not problem.is_gradient_flow:
            raise ValueError(
                f"problem is of type {type(problem).__name__} with is_gradient_flow = False: give "
                "a problem without constraints whose flow is -grad L, as UnconstrainedFeatures."
            )
        self.problem = problem

    def init(self, key: Key[Array, ""]) -> PyTree:
        """A random start of the problem."""
        return self.problem.init(key)

    def objective(self, state: PyTree) -> Float[Array, ""]:
        """L of the problem."""
        return self.problem.objective(state)

    def gradient(self, state: PyTree) -> PyTree:
        """Minus the direction of the flow, so that descent at rate η takes Euler steps of η."""
        return jax.tree.map(jnp.negative, self._direction(state))

    def scaled_descent(self, state: PyTree, log_scale: Float[ArrayLike, ""]) -> PyTree:
        """e^log_scale times the direction."""
        scale = jnp.exp(log_scale)
        return jax.tree.map(lambda leaf: scale * leaf, self._direction(state))

    def observe(self, state: PyTree) -> dict[str, Float[Array, "..."]]:
        """The observables of the problem."""
        return self.problem.observe(state)

    def invariants(self, state: PyTree) -> dict[str, Invariant]:
        """None."""
        del state
        return {}

    @property
    def is_gradient_flow(self) -> bool:
        """False: the flow descends L in another norm, and its linearisation is no Hessian."""
        return False

    def largest_log_scale(self, dtype: DTypeLike) -> float:
        """Log of the dtype's largest number."""
        return largest_exponent(dtype)

    def _direction(self, state: PyTree) -> PyTree:
        return jax.tree.map(self._direction_of, self._descent(state))

    def _direction_of(self, descent: Float[Array, "..."]) -> Float[Array, "..."]:
        """The direction of one array of the state, from −∂L/∂x times any number > 0."""
        raise NotImplementedError

    def _descent(self, state: PyTree) -> PyTree:
        """−∂L/∂x times a positive number, of order 1 where the flow has no limit."""
        problem, log_scale = self.problem, 0.0
        if isinstance(problem, _HasLogObjective) and not problem.comes_to_rest:
            # Without decay, ∂L/∂x is of the order of L, which underflows. At rest it is 0.
            log_scale = -problem.log_objective(state)
        return problem.scaled_descent(state, log_scale)


class SignFlow(_SteepestFlow[Problem]):
    """x' = −sign ∂L/∂x for every number x of the state: steepest descent in the maximum norm.

    Euler steps of length η are sign descent, `optax.sign_sgd(η)`. Adam with a small rate takes
    nearly the same steps as long as gradients do not change much within its memory.

    The direction does not depend on the size of the gradient, so that a clock of log t has no
    advantage: integrate in `RealTime()`. Where a derivative is 0 the direction jumps: give fixed
    steps, whose error is proportional to their length. A state at a jump, such as a minimum,
    alternates between its two sides within one step. For losses without a limit, such as
    cross-entropy without decay, the gradient is computed in log space: its sign is right where the
    gradient underflows. A derivative that is 1e-300 of the loss or less counts as 0.

    The state and the observables are those of the problem. There is no invariant.

    Args:
        problem: any problem without constraints whose flow is −∇L, such as
            `UnconstrainedFeatures` or `FreeFeatures`.

    Raises: ValueError for a problem with `is_gradient_flow = False`.

    Example: every number moves by the time that has passed.

        >>> problem = nc.ulpm(3, 4, 2)
        >>> start, times = problem.init(jax.random.key(0)), np.array([0.01])
        >>> steps = diffrax.StepTo(jnp.linspace(0, times[-1], 11))
        >>> flow = nc.Flow(
        ...     nc.problems.SignFlow(problem), times, clock=nc.RealTime(),
        ...     solver=diffrax.Euler(), stepsize_controller=steps, observe=("objective",),
        ... )
        >>> moved = flow(start).final.classifier - start.classifier
        >>> round(float(jnp.abs(moved).max()), 6)
        0.01
    """

    def _direction_of(self, descent: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.sign(descent)


class SpectralFlow(_SteepestFlow[Problem]):
    """X' = polar(−∂L/∂X) for every matrix X of the state: Muon idealised (Jordan et al. 2024).

    polar(USVᵀ) = UVᵀ over the singular values that are not 0: steepest descent in the spectral
    norm. A vector, such as a bias, counts as a matrix of one column: its direction is the
    normalised gradient. Euler steps of length η are Muon at rate η with exact orthogonalisation,
    without momentum and without a factor for the shape.

    Singular values up to `cut` times the largest count as 0. They are those of directions without a
    gradient, such as the sum of the classifiers, and rounding alone decides their singular vectors.
    The smallest `cut` is the rounding error of the dtype times the longer side of the matrix.

    Integrate in `RealTime()` with fixed steps, as `SignFlow`: the direction jumps where a singular
    value crosses 0. The gradient is computed in log space where the flow has no limit. The state
    and the observables are those of the problem. `classifier_sum` is conserved, to the rounding
    error divided by the least ratio of singular values that are not cut, for a loss and a problem
    whose gradient flow conserves it; there is no other invariant.

    Args:
        problem: a problem without constraints whose flow is −∇L and whose state has matrices and
            vectors only, such as `UnconstrainedFeatures` or `FreeFeatures`.
        cut: in [0, 1), relative to the largest singular value.

    Raises: ValueError for a problem with `is_gradient_flow = False`, a state with an array of
    another shape, or another cut.

    Example: all contrasts of the classifier grow at rate 1, those of small classes too.

        >>> problem = nc.UnconstrainedFeatures((9, 9, 1, 1), 5, reduction="sum")
        >>> start, times = problem.init(jax.random.key(0), 1e-6), np.array([0.2])
        >>> steps = diffrax.StepTo(jnp.linspace(0, times[-1], 201))
        >>> flow = nc.Flow(
        ...     nc.problems.SpectralFlow(problem), times, clock=nc.RealTime(),
        ...     solver=diffrax.Euler(), stepsize_controller=steps, observe=("objective",),
        ... )
        >>> rows = flow(start).final.classifier
        >>> contrasts = [nc.geometry.center(rows[:2]), nc.geometry.center(rows[2:])]
        >>> [round(float(jnp.linalg.norm(c)), 2) for c in contrasts]
        [0.2, 0.2]
    """

    cut: float | Float[Array, ""]

    def __init__(self, problem: Problem, cut: float | Float[Array, ""] = 1e-9):
        super().__init__(problem)
        check_number("cut", cut, scalar=True)
        if not is_traced(cut) and cut >= 1:
            raise ValueError(f"cut = {cut}: give a number in [0, 1), such as 1e-9.")
        self.cut = weak_scalar(cut)
        for leaf in jax.tree.leaves(problem.state_shapes()):
            if leaf.ndim not in (1, 2):
                raise ValueError(
                    f"problem: its state has an array of shape {leaf.shape}; give a problem whose "
                    "state has matrices and vectors only, or SignFlow(problem)."
                )

    def invariants(self, state: PyTree) -> dict[str, Invariant]:
        """`classifier_sum` where the gradient flow of the problem conserves it."""
        of_flow = self.problem.invariants(state)
        # The columns of a polar factor are combinations of those of the gradient, whose columns sum
        # to 0. With a decay the gradient has a part that does not.
        return {
            name: invariant
            for name, invariant in of_flow.items()
            if name == "classifier_sum" and _is_zero(invariant.rate)
        }

    def _direction_of(self, descent: Float[Array, "..."]) -> Float[Array, "..."]:
        matrix = descent if descent.ndim == 2 else descent[:, None]
        return _polar(matrix, self.cut).reshape(descent.shape)


def _polar(matrix: Float[Array, "n m"], cut: Float[ArrayLike, ""]) -> Float[Array, "n m"]:
    """UVᵀ of the singular value decomposition, over singular values above cut times the largest."""
    # Singular vectors do not depend on the scale, and squares within the decomposition underflow.
    size = jnp.max(jnp.abs(matrix))
    matrix = matrix / jnp.where(size > 0, size, 1)
    # Not by the eigenvalues of the Gram matrix, which is faster, and squares the relative cut that
    # rounding allows.
    left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
    least = jnp.maximum(cut, max(matrix.shape) * jnp.finfo(matrix.dtype).eps.item())
    not_zero = values > least.astype(matrix.dtype) * values[0]
    return matmul(left * not_zero.astype(matrix.dtype)[None], right)


def _is_zero(rate: object) -> bool:
    """Whether a rate is the number 0; an array may be traced, and counts as another number."""
    return isinstance(rate, (int, float)) and rate == 0
