"""Exact gradient flow by Diffrax, in any clock."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree

from ..checks import check_number, is_traced
from ..problems import AbstractProblem, check_shapes
from .clock import AbstractClock, LogLogTime, LogTime, RealTime
from .rkc import RKC
from .trajectory import (
    Observe,
    Trajectory,
    check_start,
    drifts,
    finish,
    is_nonfinite,
    mark_nonfinite,
)

# Defaults of (rtol, atol). Float32 holds 7 digits: a tolerance below 1e-5 spends its steps on
# rounding errors.
DEFAULT_TOLERANCES = {"float64": (1e-8, 1e-10), "float32": (1e-5, 1e-7)}
# A rejected step of RKC wastes all its stages; PI control rejects a third as often. Other solvers
# keep to integral control, which takes a tenth fewer steps where accuracy limits them.
_RKC_CONTROL = {"pcoeff": 0.4, "icoeff": 0.3}


def gradient_flow(
    problem: AbstractProblem,
    state: PyTree,
    save_at: Float[ArrayLike, " T"],
    clock: AbstractClock = LogTime(),
    solver: diffrax.AbstractSolver = diffrax.Tsit5(),
    rtol: float | Float[Array, ""] | None = None,
    atol: float | Float[Array, ""] | None = None,
    observe: Observe | None = None,
    save_states: bool = False,
    throw: bool = True,
    event: diffrax.Event | None = None,
    max_steps: int = 1_000_000,
    progress_meter: diffrax.AbstractProgressMeter = diffrax.NoProgressMeter(),
    min_step: float = 0.0,
) -> Trajectory:
    """Integrate x' = −∇L(x) from t = 0 and record observables.

    In a clock u the field is (dt/du)(−∇L), formed in log space where the loss allows it; with
    cross-entropy t = 10^1000 and beyond is an ordinary input. Only observables are kept unless
    states are asked for, so memory grows with what is saved. Computation follows the state's
    dtype. Derivatives of a run are taken in forward mode (`jax.jvp`, `jax.jacfwd`).

    Args:
        problem: gives the field, the observables and the invariants.
        state: start at t = 0.
        save_at: (T,) increasing values >= 0 of the clock's coordinate; the last ends the run.
        clock: `LogTime()` (save_at in log(1+t)), `LogLogTime()` (save_at in log(1 + log(1+t))) or
            `RealTime()` (save_at in t). A flow that comes to rest (square loss, weight decay) is
            ever stiffer in log time: give it `RealTime()`.
        solver: any adaptive Diffrax ODE solver, explicit or implicit, or `RKC()`, for stiff flows:
            `LogLogTime()`, and long runs to rest. docs/solvers.md compares them.
        rtol, atol: of the PID step control; None gives 1e-8, 1e-10 in float64 and 1e-5, 1e-7 in
            float32. For a start of norm ε take atol well below ε·rtol.
        observe: state -> dict of scalars; None means `problem.observe`. The drift of each
            invariant is added as `{name}_drift`. A function defined once compiles once.
        save_states: keep the states at the save times too.
        throw: raise if the run stops early. Inside jit or vmap nothing is raised: the outcome is
            in `result`.
        event: ends the run early with success, as
            `diffrax.Event(diffrax.steady_state_event(rtol=0, atol=1e-6))` does once the RMS of
            dx/du is below 1e-6: at rest, and at a saddle that a tiny start has yet to leave. An
            explicit solver at rest still moves by its tolerance: keep well above that, and below
            the speed of what is not rest, such as a slow tail. What is saved after the event is
            NaN; `final_log_time` says when it was. Made once it compiles once.
        max_steps: steps after which the run is given up.
        progress_meter: such as `diffrax.TqdmProgressMeter()`.
        min_step: least step in the clock's coordinate, taken whatever its error. Where the field
            jumps, as at the kinks of a ReLU, step control would go on halving: this bounds the
            work, at an error of about min_step times the jump for each crossing.

    Returns: a `Trajectory` with `log_time` in log(1 + t).

    Raises: ValueError for what is no solver or clock, save times that do not increase, a tolerance
    below what the dtype can hold, a non-finite start, times that the clock or the dtype cannot
    resolve, or a clock that scales this problem's field past the largest float; RuntimeError if
    the run stops early and `throw` is set.

    Example:

        problem = ulpm(5, 20, 10)
        start = problem.init(jax.random.key(0))
        traj = gradient_flow(problem, start, log_times(1000, 201))
        traj.observables["ji_self_duality"]
    """
    dtype = check_start(state)
    default_rtol, default_atol = DEFAULT_TOLERANCES[dtype.name]
    rtol = default_rtol if rtol is None else rtol
    atol = default_atol if atol is None else atol
    _check_kind("solver", solver, diffrax.AbstractSolver, "diffrax.Tsit5()")
    _check_kind("clock", clock, AbstractClock, "nc_jax.LogTime()")
    if event is not None:
        _check_kind(
            "event",
            event,
            diffrax.Event,
            "diffrax.Event(diffrax.steady_state_event(rtol=0, atol=1e-6))",
        )
    _check_tolerances(rtol, atol, dtype)
    check_number("min_step", min_step)
    _check_save_at(problem, save_at, clock, dtype)
    trajectory = _integrate(
        problem, state, jnp.asarray(save_at, dtype), clock, solver,
        diffrax.PIDController(
            jnp.asarray(rtol, dtype),
            jnp.asarray(atol, dtype),
            norm=_finite_rms_norm,
            # A finite state whose field is NaN would shrink its steps for ever.
            dtmin=jnp.asarray(max(min_step, np.finfo(dtype).tiny), dtype),
            force_dtmin=min_step > 0,
            **(_RKC_CONTROL if isinstance(solver, RKC) else {}),
        ),
        problem.observe if observe is None else observe,
        save_states, event, max_steps, progress_meter,
    )  # fmt: skip
    comes_to_rest = np.isfinite(problem.largest_log_scale(dtype))
    suited = isinstance(solver, (RKC, diffrax.AbstractImplicitSolver))
    advice = ""
    if comes_to_rest and not isinstance(clock, RealTime):
        advice = f"In {clock} this flow is ever stiffer: end earlier or use RealTime(). "
    elif isinstance(clock, LogLogTime) and not suited:
        advice = "LogLogTime() is ever stiffer: give it solver=nc_jax.RKC(). "
    return finish(trajectory, throw, advice)


@eqx.filter_jit
def _integrate(
    problem: AbstractProblem,
    state: PyTree,
    save_at: Float[Array, " T"],
    clock: AbstractClock,
    solver: diffrax.AbstractSolver,
    controller: diffrax.AbstractStepSizeController,
    observe: Observe,
    save_states: bool,
    event: diffrax.Event | None,
    max_steps: int,
    progress_meter: diffrax.AbstractProgressMeter,
) -> Trajectory:
    check_shapes(problem, state)
    kept_at_start = problem.invariants(state)

    def field(u, state, args):
        del args
        return problem.scaled_descent(state, clock.log_rate(u))

    def record(u, state, args):
        del args
        kept = drifts(kept_at_start, problem.invariants(state), clock.log_time(u))
        seen = {k: jnp.asarray(v, save_at.dtype) for k, v in observe(state).items()}
        return {**seen, **kept}, state if save_states else None

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        solver,
        t0=jnp.zeros((), save_at.dtype),
        t1=save_at[-1],
        dt0=None,
        y0=state,
        saveat=diffrax.SaveAt(
            subs=[diffrax.SubSaveAt(ts=save_at, fn=record), diffrax.SubSaveAt(t1=True)]
        ),
        stepsize_controller=controller,
        event=_ended_by(event),
        max_steps=max_steps,
        throw=False,
        adjoint=diffrax.ForwardMode(),
        progress_meter=progress_meter,
    )
    assert solution.ys is not None
    assert solution.ts is not None
    assert solution.event_mask is not None
    (observables, states), final = solution.ys
    # Diffrax leaves infinity where a run that stopped early has not saved.
    reached = jnp.isfinite(solution.ts[0])

    def mask(saved: Array) -> Array:
        return jnp.where(reached.reshape(-1, *[1] * (saved.ndim - 1)), saved, jnp.nan)

    return Trajectory(
        log_time=clock.log_time(save_at),
        observables=jax.tree.map(mask, observables),
        final=jax.tree.map(lambda leaf: leaf[0], final),
        final_log_time=clock.log_time(solution.ts[1][0]),
        states=jax.tree.map(mask, states),
        result=mark_nonfinite(solution.event_mask[0], solution.result),
        num_steps=jnp.asarray(solution.stats["num_steps"]),
    )


def _ended_by(event: diffrax.Event | None) -> diffrax.Event:
    """The caller's event after our own, which comes first in the mask that tells which occurred."""
    if event is None:
        return diffrax.Event([_has_left_the_numbers])
    conditions = [_has_left_the_numbers, event.cond_fn]
    return diffrax.Event(conditions, event.root_finder, [None, event.direction])


def _has_left_the_numbers(t, y, args, **kwargs) -> Bool[Array, ""]:
    """Ends a lane at its first non-finite state, which would otherwise run to `max_steps`."""
    del t, args, kwargs  # names that Diffrax passes by keyword
    return is_nonfinite(y)


def _finite_rms_norm(error: PyTree) -> Float[Array, ""]:
    """RMS norm with NaN read as infinity: a step into overflow is then retried at a fifth.

    Diffrax's controller turns a NaN error into a NaN step, from which it never returns.
    """
    norm = optimistix.rms_norm(error)
    return jnp.where(jnp.isnan(norm), jnp.inf, norm)


def _check_kind(name: str, value: object, kind: type, example: str) -> None:
    if not isinstance(value, kind):
        raise ValueError(
            f"{name} = {value!r}: give an instance of {kind.__name__}, such as {example}."
        )


def _check_tolerances(
    rtol: float | Float[Array, ""], atol: float | Float[Array, ""], dtype: np.dtype
) -> None:
    smallest = 10 * np.finfo(dtype).eps
    if not is_traced(rtol) and not (np.isfinite(rtol) and rtol >= smallest):
        raise ValueError(
            f"rtol = {rtol:g}: {dtype.name} holds {smallest:.1e} or more; raise rtol"
            + (" or use float64." if dtype == np.float32 else ".")
        )
    check_number("atol", atol)


def _check_save_at(
    problem: AbstractProblem, save_at: ArrayLike, clock: AbstractClock, dtype: np.dtype
) -> None:
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
    with jax.ensure_compile_time_eval():  # a jit in progress would trace even constants
        log_scale = float(clock.log_rate(jnp.asarray(times[-1])))
    if not np.isfinite(log_scale):
        raise ValueError(
            f"save_at ends at u = {times[-1]:g}, where {clock} overflows {dtype.name}: give times "
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
