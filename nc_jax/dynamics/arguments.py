"""Checks of the arguments of a run before compilation, and advice for a run that fails."""

import math

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path
from jaxtyping import ArrayLike, PyTree

from ..checks import check_arrays, check_number, check_process, is_traced
from ..problems import AbstractProblem, check_shapes
from .clock import AbstractClock, LogLogTime, LogTime, RealTime
from .control import has_common_steps
from .outcome import time_text
from .stiff import stiff_solver

# Accepted distance of a start from its constraints, relative to its largest entry: errors of a flow
# with a loose tolerance are smaller.
_LARGEST_VIOLATION = 1e-3


def check_start(state: PyTree) -> np.dtype:
    """Raise ValueError for a start that mixes dtypes or holds NaN, and return its dtype.

    The whole run is computed in that dtype. The values of a traced start are not known here: a NaN
    in it ends the run with the result `nonfinite`.
    """
    # First, since JAX deadlocks in a forked process at the first operation on an array.
    check_process()
    like_init = "give a state, such as problem.init(key)"
    if isinstance(state, AbstractProblem) or not jax.tree.leaves(state):
        raise ValueError(f"start is of type {type(state).__name__}: {like_init}.")
    check_arrays("start", state)
    dtypes = {jnp.result_type(leaf) for leaf in jax.tree.leaves(state)}
    if len(dtypes) > 1 or dtypes.isdisjoint({jnp.dtype("float32"), jnp.dtype("float64")}):
        raise ValueError(
            f"start: dtypes {sorted(map(str, dtypes))}; give one of float32 or float64 for all "
            "leaves (float64 needs jax_enable_x64)."
        )
    for path, leaf in tree_leaves_with_path(state):
        # By NumPy on the host: a JAX operation would compile a program for each shape.
        if not is_traced(leaf) and not np.all(np.isfinite(leaf)):
            raise ValueError(
                f"start: {keystr(path).lstrip('.') or 'it'} has {np.sum(~np.isfinite(leaf))} of "
                f"{np.size(leaf)} entries NaN or infinite; {like_init}."
            )
    return dtypes.pop()


def check_constraints(problem: AbstractProblem, start: PyTree, *, lanes: bool) -> None:
    """Raise ValueError for a start that does not fulfil the constraints of the problem.

    A flow moves along its constraints, and a violation at the start would remain: its invariants
    would be conserved, and its objective could end below the minimum. Traced starts are not
    checked. Rounding errors, and errors of an earlier flow, are accepted.
    """
    free = type(problem).retract is AbstractProblem.retract
    if free or any(map(is_traced, jax.tree.leaves((problem, start)))):
        return
    first = jax.tree.map(lambda leaf: leaf[0], start) if lanes else start
    check_shapes(problem, first)
    nearest = (jax.vmap(problem.retract) if lanes else problem.retract)(start)
    leaves = tree_leaves_with_path(start)
    for (path, leaf), other in zip(leaves, jax.tree.leaves(nearest), strict=True):
        distance = np.max(np.abs(np.asarray(leaf) - np.asarray(other)), initial=0.0)
        # Also True for a NaN, such as that of a row 0, which has no direction.
        if not distance <= _LARGEST_VIOLATION * np.max(np.abs(other), initial=0.0):
            raise ValueError(
                f"start: {keystr(path).lstrip('.') or 'its array'} differs by {distance:.2g} from "
                f"the constraints of {type(problem).__name__}: give problem.retract(start)."
            )


def check_times(save_at: ArrayLike, *, dtype: np.dtype = np.dtype("float64")) -> None:
    """Raise ValueError for times that do not increase in this dtype; traced times pass."""
    check_number("save_at", save_at, signed=True)
    shape = np.shape(save_at)
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(f"save_at has shape {shape}: give a one-dimensional array of times.")
    if is_traced(save_at):
        return
    # Compared in the dtype of the state, in which close times may coincide.
    times = np.asarray(save_at).astype(dtype)
    if times[0] < 0 or times[-1] <= 0:
        raise ValueError(
            f"save_at runs from {times[0]:g} to {times[-1]:g}: start at 0 or later and end after 0."
        )
    steps = np.diff(times)
    if np.any(steps <= 0):
        at = int(np.argmax(steps <= 0))
        raise ValueError(
            f"save_at does not increase at index {at + 1}: {times[at]:g} then {times[at + 1]:g} "
            f"in {dtype.name}; give strictly increasing times."
        )


def check_save_at(
    problem: AbstractProblem, save_at: ArrayLike, clock: AbstractClock, dtype: np.dtype
) -> None:
    """Raise ValueError for save times that do not increase, or that the run cannot reach.

    The dtype or the problem may not represent the scale dt/du of the field at the last save time.
    """
    check_times(save_at, dtype=dtype)
    if not is_traced(save_at):
        # The last time alone: in the clocks of the package dt/du is nowhere larger.
        _check_scale(problem, np.asarray(save_at).astype(dtype)[-1], clock, dtype)


def check_starts(starts: PyTree, data: PyTree) -> None:
    """Raise ValueError for a batch whose starts and data differ in their leading axis."""
    check_arrays("starts", starts)
    check_arrays("data", data)
    size = None
    for name, tree in (("starts", starts), ("data", data)):
        for path, leaf in tree_leaves_with_path(tree):
            where = f"{name}: {keystr(path).lstrip('.')}" if path else name
            shape = np.shape(leaf)
            if not shape or shape[0] == 0:
                raise ValueError(
                    f"{where} has shape {shape}: give one or more starts along a leading axis, as "
                    "jax.vmap(problem.init)(keys) does, with data for each."
                )
            size = shape[0] if size is None else size
            if shape[0] != size:
                raise ValueError(
                    f"{where} has shape {shape} in a batch of {size} starts: give every array a "
                    f"leading axis of {size}."
                )


def _check_scale(
    problem: AbstractProblem, stop: np.floating, clock: AbstractClock, dtype: np.dtype
) -> None:
    """Raise ValueError if dt/du at the last save time exceeds what the dtype or problem allows."""
    # Within a jit even operations on constants are traced, and a traced value has no float.
    with jax.ensure_compile_time_eval():
        log_scale = float(clock.log_rate(jnp.asarray(stop)))
    if not np.isfinite(log_scale):
        raise ValueError(
            f"save_at ends at u = {stop:g}, where dt/du of {clock} overflows {dtype.name}: give "
            "times in its coordinate, such as numpy.log1p(log_times(...)) for LogLogTime()."
        )
    # Cross-entropy's field contains e^(log scale − margin), a difference of two large numbers: the
    # absolute error of the log scale is a relative error of the field.
    resolution = log_scale * np.finfo(dtype).eps
    if resolution > 0.01:
        raise ValueError(
            f"save_at ends at log(dt/du) = {log_scale:g}, which {dtype.name} resolves to "
            f"{resolution:.1g} only: end earlier"
            + (", or use float64. " if dtype == np.float32 else ". ")
            + _end_of(clock, stop).rstrip()
        )
    limit = problem.largest_log_scale(dtype)
    if log_scale > limit and problem.is_stiff_in_log_time:
        # Rounded down, so that the time of the message is accepted.
        decade = 10.0 ** math.floor(limit / math.log(10))
        latest = math.floor(math.exp(limit) / decade) * decade
        raise ValueError(
            f"save_at ends at log(dt/du) = {log_scale:g}, which exceeds {limit:.1f}: beyond, the "
            f"relaxing modes of this problem are below the rounding of {dtype.name}; end earlier, "
            f"in LogTime() at t = {latest:.0e} at the latest"
            + (", or use float64. " if dtype == np.float32 else ". ")
            + _end_of(clock, stop).rstrip()
        )
    if log_scale > limit:
        raise ValueError(
            f"save_at ends at log(dt/du) = {log_scale:g}, which exceeds "
            f"{limit:.0f}, the limit of {dtype.name} for a flow that "
            "comes to rest; end earlier. Free features with CrossEntropy or Focal and without "
            "decay have no such limit (close over the problem where it is an argument of a jit, "
            "which hides that its decay is 0). " + _end_of(clock, stop).rstrip()
        )


def check_common_steps(
    solver: diffrax.AbstractSolver,
    event: diffrax.Event | None,
    controller: diffrax.AbstractStepSizeController | None,
    *,
    where: str,
    instead: str,
) -> None:
    """Raise ValueError for a solver, an event or a controller that excludes common steps.

    Args: parts of the message: `where` names the argument or function that requests common steps,
    and `instead` says what to do without them.
    """
    # Common steps end for all runs at once, and an event would end them at different times.
    if event is not None:
        raise ValueError(f"{where}: an event ends runs one by one; give {instead}.")
    if not (isinstance(solver, diffrax.AbstractERK) or is_stabilised(solver)):
        raise ValueError(
            f"{where}: {type(solver).__name__}() is neither an explicit Runge-Kutta solver nor "
            f"RKC(); give one, or {instead}."
        )
    if not has_common_steps(controller):
        raise ValueError(
            f"{where}: a stepsize_controller {type(controller).__name__} may choose steps by more "
            f"than the norm of the error; give a diffrax.PIDController, or {instead}."
        )


def default_solver(problem: AbstractProblem, clock: AbstractClock) -> diffrax.AbstractSolver:
    """The solver of a flow whose caller names none."""
    stiff = problem.is_stiff_in_log_time and not isinstance(clock, RealTime)
    return stiff_solver() if stiff else diffrax.Tsit5()


def check_stiffness(
    problem: AbstractProblem, clock: AbstractClock, solver: diffrax.AbstractSolver
) -> None:
    """Raise ValueError for an explicit solver of a problem that is stiff in this clock."""
    if isinstance(clock, RealTime) or not problem.is_stiff_in_log_time or suits_stiffness(solver):
        return
    raise ValueError(
        f"solver = {type(solver).__name__}() in {clock}: some modes of this problem relax at a "
        "rate that grows as t in log t, and an explicit solver needs about t steps; leave the "
        "solver out, which takes an implicit one, or give nc_jax.RKC() or RealTime()."
    )


def suits_stiffness(solver: diffrax.AbstractSolver) -> bool:
    """Whether a solver is implicit or stabilised."""
    return is_stabilised(solver) or isinstance(solver, diffrax.AbstractImplicitSolver)


def is_stabilised(solver: diffrax.AbstractSolver) -> bool:
    """Whether the class of the solver declares it explicit and stabilised for stiff systems."""
    return getattr(solver, "stabilised", False)


def advice(
    problem: AbstractProblem,
    clock: AbstractClock,
    solver: diffrax.AbstractSolver,
    save_at: ArrayLike,
    result: diffrax.RESULTS,
) -> str:
    """The part of the error message that says what to change after a run has stopped early."""
    codes = diffrax.RESULTS
    slow, stuck = bool(result == codes.max_steps_reached), bool(result == codes.dt_min_reached)
    remedy = problem.remedy_of_jumps if slow or stuck else ""
    jumps = (
        f"Probable cause: the field jumps, and step control halves its steps there; {remedy}. "
        if remedy
        else ""
    )
    return jumps if stuck else jumps + _advice_on_clock(problem, clock, solver, save_at, slow)


def _advice_on_clock(
    problem: AbstractProblem,
    clock: AbstractClock,
    solver: diffrax.AbstractSolver,
    save_at: ArrayLike,
    slow: bool,
) -> str:
    """Another clock or solver, where these may be the cause; `slow`: the run had too many steps."""
    last = None if is_traced(save_at) else np.asarray(save_at)[-1]
    end = "" if last is None else _end_of(clock, last)
    explicit = not suits_stiffness(solver)
    if problem.comes_to_rest and not isinstance(clock, RealTime):
        # At rest the Jacobian no longer changes, and dt/du multiplies it by a factor that grows.
        return f"In {clock} this flow is ever stiffer: end earlier or use RealTime(). {end}"
    if problem.is_stiff_in_log_time and isinstance(clock, RealTime):
        return "In RealTime() this flow needs about t steps: give LogTime(), with log(1 + t). "
    if isinstance(clock, LogLogTime) and explicit:
        return f"LogLogTime() is ever stiffer: give it solver=nc_jax.RKC(). {end}"
    if slow and explicit and isinstance(clock, RealTime) and problem.comes_to_rest:
        return (
            f"{type(solver).__name__}() takes a step for each unit of the fastest time scale: end "
            "earlier, or give solver=nc_jax.RKC(). "
        )
    if slow and explicit and isinstance(clock, LogTime):
        return (
            "Late times need a step for some units of log t: give LogLogTime(), with "
            f"log(1 + log(1 + t)), and solver=nc_jax.RKC(). {end}"
        )
    return end


def _end_of(clock: AbstractClock, stop: np.floating) -> str:
    """The last save time as t, for a caller who gave t instead of the clock's coordinate."""
    if isinstance(clock, RealTime):
        return ""  # the coordinate is t
    with jax.ensure_compile_time_eval():
        last = float(clock.log_time(jnp.asarray(stop, float)))
    coordinate = {LogTime: "numpy.log1p(t)", LogLogTime: "numpy.log1p(numpy.log1p(t))"}
    given = coordinate.get(type(clock), "their coordinate")
    return (
        f"The save times end at {time_text(last)}; if that is not intended, give times t to "
        f"RealTime(), or {given} to {clock}. "
    )
