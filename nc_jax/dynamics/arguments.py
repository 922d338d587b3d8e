"""Checks of what a flow is given, before anything is compiled, and advice where a run fails."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ..checks import check_number, is_traced
from ..problems import AbstractProblem
from .clock import AbstractClock, LogLogTime, RealTime

# Defaults of (rtol, atol). Float32 holds 7 digits: a tolerance below 1e-5 spends its steps on
# rounding errors.
DEFAULT_TOLERANCES = {"float64": (1e-8, 1e-10), "float32": (1e-5, 1e-7)}


def check_kind(name: str, value: object, kind: type, example: str) -> None:
    """Raise ValueError unless `value` is an instance of `kind`."""
    if not isinstance(value, kind):
        raise ValueError(
            f"{name} = {value!r}: give an instance of {kind.__name__}, such as {example}."
        )


def check_tolerances(
    rtol: float | Float[Array, ""], atol: float | Float[Array, ""], dtype: np.dtype
) -> None:
    """Raise ValueError for a tolerance that this dtype cannot hold; a traced one passes."""
    smallest = 10 * np.finfo(dtype).eps
    if not is_traced(rtol) and not (np.isfinite(rtol) and rtol >= smallest):
        raise ValueError(
            f"rtol = {rtol:g}: {dtype.name} holds {smallest:.1e} or more; raise rtol"
            + (" or use float64." if dtype == np.float32 else ".")
        )
    check_number("atol", atol)


def check_save_at(
    problem: AbstractProblem, save_at: ArrayLike, clock: AbstractClock, dtype: np.dtype
) -> None:
    """Raise ValueError for times that do not increase, or that clock, dtype or problem forbid."""
    shape = np.shape(save_at)
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(f"save_at has shape {shape}: give a one-dimensional array of times.")
    if is_traced(save_at):
        return
    # Judged in the state's dtype, in which close times may coincide.
    times = np.asarray(save_at).astype(dtype)
    if not np.all(np.isfinite(times)):
        raise ValueError("save_at holds NaN or infinity: give finite times.")
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
    _check_scale(problem, times[-1], clock, dtype)


def _check_scale(
    problem: AbstractProblem, stop: np.floating, clock: AbstractClock, dtype: np.dtype
) -> None:
    """Raise ValueError if dt/du at the last save time is more than floats or the problem hold."""
    with jax.ensure_compile_time_eval():  # a jit in progress would trace even constants
        log_scale = float(clock.log_rate(jnp.asarray(stop)))
    if not np.isfinite(log_scale):
        raise ValueError(
            f"save_at ends at u = {stop:g}, where {clock} overflows {dtype.name}: give times "
            "in its coordinate, such as numpy.log1p(log_times(...)) for LogLogTime()."
        )
    # Cross-entropy's field holds e^(log scale − margin): the difference of two such numbers counts.
    resolution = log_scale * np.finfo(dtype).eps
    if resolution > 0.01:
        raise ValueError(
            f"save_at ends at log(dt/du) = {log_scale:g}, which {dtype.name} holds to "
            f"{resolution:.1g} only: end earlier"
            + (", or use float64." if dtype == np.float32 else ".")
        )
    if log_scale > problem.largest_log_scale(dtype):
        raise ValueError(
            f"save_at ends at log(dt/du) = {log_scale:g}, beyond the "
            f"{problem.largest_log_scale(dtype):.0f} that this loss or its weight decay can be "
            f"scaled by in {dtype.name}; end earlier, or use CrossEntropy without decay (and close "
            "over the problem where it is an argument of a jit, which hides that its decay is 0)."
        )


def check_common_steps(
    solver: diffrax.AbstractSolver, event: diffrax.Event | None, where: str, instead: str
) -> None:
    """Raise ValueError for what cannot take common steps.

    Args: `where` they were asked for, and what to do `instead`, for the message.
    """
    if event is not None:
        raise ValueError(f"{where}: an event ends runs one by one; give {instead}.")
    if not (isinstance(solver, diffrax.AbstractERK) or is_stabilised(solver)):
        raise ValueError(
            f"{where}: {solver!r} is neither an explicit Runge-Kutta solver nor RKC(); give one, "
            f"or {instead}."
        )


def is_stabilised(solver: diffrax.AbstractSolver) -> bool:
    """Whether the solver is explicit and stabilised for stiff systems, as its class declares."""
    return getattr(solver, "stabilised", False)


def advice(problem: AbstractProblem, clock: AbstractClock, solver: diffrax.AbstractSolver) -> str:
    """What to change where a run of this problem stops early."""
    if problem.comes_to_rest and not isinstance(clock, RealTime):
        return f"In {clock} this flow is ever stiffer: end earlier or use RealTime(). "
    stiff = is_stabilised(solver) or isinstance(solver, diffrax.AbstractImplicitSolver)
    if isinstance(clock, LogLogTime) and not stiff:
        return "LogLogTime() is ever stiffer: give it solver=nc_jax.RKC(). "
    return ""
