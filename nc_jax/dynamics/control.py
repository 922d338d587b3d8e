"""Step-size control of a flow: the default, or a controller of Diffrax that a caller gives."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jaxtyping import Array, ArrayLike, Float, PyTree

from ..checks import check_kind, check_number, is_traced, shown
from ..errors import ArgumentError
from ..problems import AbstractProblem
from .fused import worst_lane

# Defaults of (rtol, atol). Float32 has 7 digits: with a tolerance below 1e-5 the step size would
# follow rounding errors.
DEFAULT_TOLERANCES = {"float64": (1e-8, 1e-10), "float32": (1e-5, 1e-7)}
# A norm of the error of a step.
Norm = Callable[[PyTree], Float[Array, ""]]
_EXAMPLE = "diffrax.PIDController(rtol=1e-8, atol=1e-10)"


class PrescribedSteps(diffrax.AbstractStepSizeController):
    """The steps of `diffrax.StepTo`, without a host callback in the program.

    `diffrax.StepTo` checks its times by a callback, and JAX stores no program with a callback in
    its persistent cache. For this class `check_controller` checks the times before the run.
    """

    times: Float[Array, " n"]

    def wrap(self, direction):
        """The controller: a flow runs forwards in time."""
        del direction
        return self

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        """The end of the first step, and the index of the end of the second."""
        del terms, t0, t1, y0, dt0, args, func, error_order
        return self.times[1], jnp.asarray(2)

    def adapt_step_size(
        self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state
    ):
        """Accept each step, and end the next at the next time."""
        del t0, y0, y1_candidate, args, y_error, error_order
        # After the last time JAX clamps the index; the run has then reached its last save time.
        following = self.times[controller_state]
        return True, t1, following, False, controller_state + 1, diffrax.RESULTS.successful


def check_controller(
    controller: object,
    solver: diffrax.AbstractSolver,
    save_at: ArrayLike,
    replaced: dict[str, object],
) -> None:
    """Raise ValueError for a controller that a flow, its solver or its save times cannot have.

    Args: `replaced` are the settings of the default control, by name, that the caller gave together
    with the controller.
    """
    check_kind("stepsize_controller", controller, diffrax.AbstractStepSizeController, _EXAMPLE)
    for name, value in replaced.items():
        raise ValueError(
            f"{name} = {shown(value)} with a stepsize_controller: leave {name} out, and give the "
            "controller its rtol, atol and dtmin."
        )
    if isinstance(controller, diffrax.ConstantStepSize):
        raise ValueError(
            f"stepsize_controller = {controller}: a flow has no dt0 to be its step; give "
            "diffrax.StepTo(jax.numpy.linspace(0, save_at[-1], num_steps + 1))."
        )
    if isinstance(controller, diffrax.StepTo):
        _check_steps(controller.ts, save_at)
    if isinstance(controller, diffrax.AbstractAdaptiveStepSizeController):
        check_number("stepsize_controller.rtol", controller.rtol, above_zero=True, scalar=True)
        check_number("stepsize_controller.atol", controller.atol, scalar=True)
    elif isinstance(solver, diffrax.AbstractImplicitSolver) and _lacks_tolerances(solver):
        raise ValueError(
            f"stepsize_controller = {shown(controller)} has no tolerances for the root finder of "
            f"{type(solver).__name__}: give {_EXAMPLE}, or a root_finder with rtol, atol and norm."
        )


def check_solver(solver: object, controller: object) -> None:
    """Raise ValueError for a solver without the error estimate that adaptive control needs."""
    check_kind("solver", solver, diffrax.AbstractSolver, "diffrax.Tsit5()")
    adaptive = controller is None or isinstance(
        controller, diffrax.AbstractAdaptiveStepSizeController
    )
    if adaptive and not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise ValueError(
            f"solver = {shown(solver)} estimates no error: give one that does, such as "
            "diffrax.Tsit5(), or a stepsize_controller of fixed steps, diffrax.StepTo(times)."
        )


def check_jumps(problem: AbstractProblem, controller: object, min_step: float) -> None:
    """Raise ValueError for adaptive steps without a smallest step where the field jumps."""
    if problem.has_jumps and controller is None and min_step == 0:
        raise ValueError(
            f"problem: the field of {type(problem).__name__} jumps, and adaptive steps would "
            "shrink without end; give solver=diffrax.Euler() and stepsize_controller="
            "diffrax.StepTo(jax.numpy.linspace(0, save_at[-1], num_steps + 1)), or a min_step."
        )


def check_rtol(rtol: Any, dtype: np.dtype) -> None:
    """Raise ValueError for a tolerance that this dtype cannot hold; a traced tolerance passes."""
    # Rounding changes a state by some eps in each step: a smaller tolerance would measure that.
    smallest = 10 * np.finfo(dtype).eps
    if not is_traced(rtol) and rtol < smallest:
        raise ArgumentError(
            f"rtol = {rtol:g}: {dtype.name} holds {smallest:.1e} or more; raise rtol"
            + (" or use float64." if dtype == np.float32 else "."),
            "rtol",
        )


def has_common_steps(controller: object) -> bool:
    """Whether all runs of a batch can take the steps that such a controller chooses.

    This holds if its steps depend on the runs by the norm of the error alone: `with_norm_of`
    replaces that norm by the largest norm over the runs.
    """
    # The exact types: a subclass may choose its steps by more than the norm.
    if isinstance(controller, diffrax.ClipStepSizeController):
        return has_common_steps(controller.controller)
    return type(controller) in (type(None), diffrax.PIDController, diffrax.StepTo)


def default_controller(
    solver: diffrax.AbstractSolver,
    *,
    rtol: float | Float[Array, ""] | None,
    atol: float | Float[Array, ""] | None,
    min_step: float,
    dtype: np.dtype,
) -> diffrax.PIDController:
    """Integral control, or the control coefficients that the solver declares (`step_control`).

    Every number that may change is an array, since arrays are arguments of the program.

    Raises: ValueError for a tolerance that the dtype cannot hold.
    """
    default_rtol, default_atol = DEFAULT_TOLERANCES[dtype.name]
    rtol = default_rtol if rtol is None else rtol
    check_rtol(rtol, dtype)
    return diffrax.PIDController(
        rtol=jnp.asarray(rtol, dtype),
        atol=jnp.asarray(default_atol if atol is None else atol, dtype),
        # Without a smallest step, a finite state whose field is NaN shrinks its steps for ever.
        dtmin=jnp.asarray(max(min_step, np.finfo(dtype).tiny), dtype),
        # True accepts a step of the smallest size; False ends the run there without success.
        force_dtmin=min_step > 0,
        **getattr(solver, "step_control", {}),
    )


def given_controller(
    controller: diffrax.AbstractStepSizeController, stop: Float[Array, ""]
) -> diffrax.AbstractStepSizeController:
    """A caller's controller with its floats as arrays of the dtype of the flow's last save time.

    Arrays are arguments of the program: another value compiles nothing.

    Raises: ValueError for a tolerance that the dtype cannot hold.
    """
    dtype = stop.dtype
    if isinstance(controller, diffrax.AbstractAdaptiveStepSizeController):
        check_rtol(controller.rtol, dtype)

    if isinstance(controller, diffrax.StepTo):
        # The last time is the last save time to the bit: a rounding error below it, the run would
        # not reach its end.
        return PrescribedSteps(jnp.asarray(controller.ts, dtype).at[-1].set(stop))

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, float):
            # A zero stays a float: Diffrax then leaves out the term that it multiplies.
            return leaf if leaf == 0 else jnp.asarray(leaf, dtype)
        is_array = isinstance(leaf, (np.ndarray, jax.Array))
        floating = is_array and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, dtype) if floating else leaf

    # `diffeqsolve` would call `wrap` with the direction of time, which is forwards in every flow.
    return jax.tree.map(convert, controller).wrap(1)


def with_norm_of(
    controller: diffrax.AbstractStepSizeController, *, lanes: bool, shared_steps: bool
) -> diffrax.AbstractStepSizeController:
    """The controller with a norm that is never NaN; for common steps the norm of the worst run.

    Args: `lanes` for a batch along the last axis, `shared_steps` for runs under a vmap.
    """
    if isinstance(controller, diffrax.ClipStepSizeController):
        inner = with_norm_of(controller.controller, lanes=lanes, shared_steps=shared_steps)
        return eqx.tree_at(lambda clip: clip.controller, controller, inner)
    if not isinstance(controller, diffrax.PIDController):
        return controller
    norm = _worst_lane if lanes else _worst_run if shared_steps else _finite
    # `eqx.Partial`, since two objects of `functools.partial` with the same content are different
    # static values, and jit would compile twice.
    guarded = eqx.Partial(norm, controller.norm)
    return eqx.tree_at(lambda control: control.norm, controller, guarded)


def _check_steps(times: Float[Array, " n"], save_at: ArrayLike) -> None:
    """Raise ValueError unless the prescribed times increase from 0 to the last save time."""
    if is_traced(times) or is_traced(save_at):
        return
    steps, last = np.asarray(times), float(np.asarray(save_at)[-1])
    # Times in float32 agree to rounding only; `given_controller` then sets the last one exactly.
    if steps[0] != 0 or not np.isclose(steps[-1], last, rtol=1e-6, atol=0):
        raise ValueError(
            f"stepsize_controller: StepTo runs from {steps[0]:g} to {steps[-1]:g}, the flow from 0 "
            f"to {last:g}, the last save time; give times from 0 to there."
        )
    if not np.all(np.diff(steps) > 0):
        at = int(np.argmin(np.diff(steps) > 0))
        raise ValueError(
            f"stepsize_controller: the times of StepTo do not increase at index {at + 1}: "
            f"{steps[at]:g} then {steps[at + 1]:g}; give strictly increasing times."
        )


def _lacks_tolerances(solver: diffrax.AbstractImplicitSolver) -> bool:
    """Whether the caller left the tolerances of the root finder to the step-size control."""
    # Diffrax then has a placeholder in their place, which is no number.
    return not eqx.is_array_like(getattr(solver.root_finder, "rtol", 0.0))


def _finite(norm: Norm, error: PyTree) -> Float[Array, ""]:
    """A norm with infinity in the place of NaN: a step into overflow is retried at a fifth.

    Diffrax's controller turns a NaN error into a NaN step size, and every later step is NaN.
    """
    # The error itself has no NaN here, but scaled by an infinite state it is infinity / infinity.
    size = norm(error)
    return jnp.where(jnp.isnan(size), jnp.inf, size)


def _worst_lane(norm: Norm, error: PyTree) -> Float[Array, ""]:
    """The largest norm over the lanes of a batch, which lie along the last axis."""
    if norm is optimistix.rms_norm:
        return _finite(worst_lane, error)
    return _finite(lambda error: jnp.max(jax.vmap(norm, -1)(error)), error)


def _worst_run(norm: Norm, error: PyTree) -> Float[Array, ""]:
    """The largest norm over the runs of all vmaps in progress; the result has no batch axis.

    The step size that follows from it is thus common to all runs. The step size needs the error and
    not its derivative, so that a derivative of the run does not pass through the norm.
    """
    return eqxi.unvmap_max(jax.lax.stop_gradient(_finite(norm, error)))
