"""Exact gradient flow by Diffrax, in any clock."""

import functools
from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree

from ..checks import check_number, is_traced
from ..metrics import Invariant
from ..problems import AbstractProblem, check_shapes
from .clock import AbstractClock, LogLogTime, LogTime, RealTime
from .rkc import RKC
from .side_by_side import in_lanes, worst_lane
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
    shared_steps: bool = False,
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
        shared_steps: under `jax.vmap`, the inner of several, all runs take the same steps, those
            that the worst of them needs, with states side by side: several times faster for models
            of a few thousand numbers, as of use in `sweep`. Only the start may differ between the
            runs, and one that fails ends the batch. Outside of vmap it changes nothing. For
            explicit Runge-Kutta solvers and `RKC()`, without an event.

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
    if shared_steps:
        _check_shared(solver, event)
    _check_tolerances(rtol, atol, dtype)
    check_number("min_step", min_step)
    _check_save_at(problem, save_at, clock, dtype)
    controller = diffrax.PIDController(
        jnp.asarray(rtol, dtype),
        jnp.asarray(atol, dtype),
        norm=_finite_rms_norm,
        # A finite state whose field is NaN would shrink its steps for ever.
        dtmin=jnp.asarray(max(min_step, np.finfo(dtype).tiny), dtype),
        force_dtmin=min_step > 0,
        **(_RKC_CONTROL if isinstance(solver, RKC) else {}),
    )
    run = _Run(
        problem, jnp.asarray(save_at, dtype), clock, solver, controller,
        problem.observe if observe is None else observe, save_states, event, max_steps,
        progress_meter,
    )  # fmt: skip
    trajectory = _integrate(run, state, shared_steps)
    comes_to_rest = np.isfinite(problem.largest_log_scale(dtype))
    suited = isinstance(solver, (RKC, diffrax.AbstractImplicitSolver))
    advice = ""
    if comes_to_rest and not isinstance(clock, RealTime):
        advice = f"In {clock} this flow is ever stiffer: end earlier or use RealTime(). "
    elif isinstance(clock, LogLogTime) and not suited:
        advice = "LogLogTime() is ever stiffer: give it solver=nc_jax.RKC(). "
    return finish(trajectory, throw, advice)


@eqx.filter_jit
def _integrate(run: "_Run", state: PyTree, shared_steps: bool) -> Trajectory:
    check_shapes(run.problem, state)
    return _in_step(run, state) if shared_steps else _alone(run, state)


class _Run(eqx.Module):
    """All of a flow but its start."""

    problem: AbstractProblem
    save_at: Float[Array, " T"]
    clock: AbstractClock
    solver: diffrax.AbstractSolver
    controller: diffrax.PIDController
    observe: Observe
    save_states: bool
    event: diffrax.Event | None
    max_steps: int
    progress_meter: diffrax.AbstractProgressMeter

    def record(
        self, u: Float[Array, ""], state: PyTree, kept_at_start: dict[str, Invariant]
    ) -> tuple[dict[str, Array], PyTree | None]:
        """What is saved of a state: observables with the invariants' drift, the state if wanted."""
        kept = drifts(kept_at_start, self.problem.invariants(state), self.clock.log_time(u))
        seen = {k: jnp.asarray(v, self.save_at.dtype) for k, v in self.observe(state).items()}
        return {**seen, **kept}, state if self.save_states else None


def _in_step(run: _Run, state: PyTree) -> Trajectory:
    """A run that takes common steps with all lanes of a vmap, and its own outside of one."""
    # What `observe` closes over, such as the start itself, may differ between lanes too.
    observe = eqx.filter_closure_convert(run.observe, state)
    seen, observe = eqx.partition(observe, eqx.is_array)
    arrays, static = eqx.partition(run, eqx.is_array)
    # Flat lists, since a derivative of `custom_vmap` fails where a tree has None in it.
    shared, shared_tree = jax.tree.flatten(arrays)
    own, own_tree = jax.tree.flatten((state, seen))
    outputs: list[PyTree] = []

    def flat(trajectory: Trajectory) -> list[Array]:
        leaves, tree = jax.tree.flatten(trajectory)
        outputs.append(tree)
        return leaves

    def whole(shared: list[Array]) -> _Run:
        return eqx.combine(jax.tree.unflatten(shared_tree, shared), static)

    @jax.custom_batching.custom_vmap
    def solve(shared, own):
        state, seen = jax.tree.unflatten(own_tree, own)
        run = eqx.tree_at(lambda run: run.observe, whole(shared), eqx.combine(seen, observe))
        return flat(_alone(run, state, shared_steps=True))

    @solve.def_vmap
    def solve_batch(size, batched, shared, own):
        if any(batched[0]):
            raise ValueError(
                "shared_steps = True: only the start may differ between the runs of a batch, not "
                "the problem, the save times or the tolerances; give shared_steps=False."
            )
        states, seen = jax.tree.unflatten(own_tree, own)
        states_differ, seen_differs = jax.tree.unflatten(own_tree, batched[1])
        states = jax.tree.map(
            lambda leaf, differs: leaf if differs else jnp.broadcast_to(leaf, (size, *leaf.shape)),
            states, states_differ,
        )  # fmt: skip
        # Data that all lanes look at are not copied for each.
        axes = jax.tree.map(lambda differs: 0 if differs else None, seen_differs)

        def observe_lane(state: PyTree, seen: PyTree) -> dict[str, Array]:
            return eqx.combine(seen, observe)(state)

        batch = flat(_side_by_side(whole(shared), states, observe_lane, seen, axes))
        return batch, [True] * len(batch)

    leaves = solve(shared, own)
    return jax.tree.unflatten(outputs[0], leaves)


def _alone(run: _Run, state: PyTree, shared_steps: bool = False) -> Trajectory:
    kept_at_start = run.problem.invariants(state)

    def field(u, state, args):
        del args
        return run.problem.scaled_descent(state, run.clock.log_rate(u))

    def record(u, state, args):
        del args
        return run.record(u, state, kept_at_start)

    solution = _solve(run, state, field, record)
    return _trajectory(run, solution, shared_steps)


def _side_by_side(
    run: _Run,
    states: PyTree,
    observe_lane: Callable[[PyTree, PyTree], dict[str, Array]],
    seen: PyTree,
    axes: PyTree,
) -> Trajectory:
    """Runs from starts along the leading axis, with the steps that the worst of them needs.

    `observe_lane` takes a state and what its lane's observables are made of besides, which are
    `seen`, with lanes along these axes.
    """
    kept_at_start = jax.vmap(run.problem.invariants)(states)

    def field(u, states, args):
        del args
        return run.problem.scaled_descent_lanes(states, run.clock.log_rate(u))

    def record(u, states, args):
        del args
        return jax.vmap(record_lane, (-1, 0, axes, None))(states, kept_at_start, seen, u)

    def record_lane(state, kept, seen, u):
        own = eqx.tree_at(lambda run: run.observe, run, lambda state: observe_lane(state, seen))
        return own.record(u, state, kept)

    run = eqx.tree_at(
        lambda run: (run.solver, run.controller.norm),
        run,
        (in_lanes(run.solver), _finite_worst_lane),
    )
    lanes = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), states)
    solution = _solve(run, lanes, field, record)
    assert solution.ys is not None
    saved, final = solution.ys
    # Saves come first in what is saved, lanes in a batch.
    saved = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), saved)
    final = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), final)

    def of_lane(saved: PyTree, final: PyTree) -> Trajectory:
        own = eqx.tree_at(lambda solution: solution.ys, solution, (saved, final))
        return _trajectory(run, own, shared_steps=True)

    return jax.vmap(of_lane)(saved, final)


def _solve(
    run: _Run, state: PyTree, field: Callable[..., PyTree], record: Callable[..., PyTree]
) -> diffrax.Solution:
    """What `record` gives at the save times, then the state at the end.

    A single save time stands twice: with one, XLA sees that every save is at the same, and makes it
    in every step.
    """
    save_at = jnp.repeat(run.save_at, 2) if run.save_at.size == 1 else run.save_at
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        run.solver,
        t0=jnp.zeros((), run.save_at.dtype),
        t1=run.save_at[-1],
        dt0=None,
        y0=state,
        saveat=diffrax.SaveAt(
            subs=[diffrax.SubSaveAt(ts=save_at, fn=record), diffrax.SubSaveAt(t1=True)]
        ),
        stepsize_controller=run.controller,
        event=_ended_by(run.event),
        max_steps=run.max_steps,
        throw=False,
        adjoint=diffrax.ForwardMode(),
        progress_meter=run.progress_meter,
    )
    count = run.save_at.size
    return eqx.tree_at(
        lambda solution: (solution.ts[0], solution.ys[0]),
        solution,
        replace_fn=lambda saved: jax.tree.map(lambda leaf: leaf[:count], saved),
    )


def _trajectory(run: _Run, solution: diffrax.Solution, shared_steps: bool) -> Trajectory:
    assert solution.ys is not None
    assert solution.ts is not None
    assert solution.event_mask is not None
    (observables, states), final = solution.ys
    # Diffrax leaves infinity where a run that stopped early has not saved.
    reached = jnp.isfinite(solution.ts[0])

    def mask(saved: Array) -> Array:
        return jnp.where(reached.reshape(-1, *[1] * (saved.ndim - 1)), saved, jnp.nan)

    return Trajectory(
        log_time=run.clock.log_time(run.save_at),
        observables=jax.tree.map(mask, observables),
        final=jax.tree.map(lambda leaf: leaf[0], final),
        final_log_time=run.clock.log_time(solution.ts[1][0]),
        states=jax.tree.map(mask, states),
        result=mark_nonfinite(solution.event_mask[0], solution.result),
        num_steps=jnp.asarray(solution.stats["num_steps"]),
        shared_steps=shared_steps,
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


def _finite(norm: Callable[[PyTree], Array], error: PyTree) -> Float[Array, ""]:
    """A norm with NaN read as infinity: a step into overflow is then retried at a fifth.

    Diffrax's controller turns a NaN error into a NaN step, from which it never returns.
    """
    size = norm(error)
    return jnp.where(jnp.isnan(size), jnp.inf, size)


# Made once, since every new one compiles anew.
_finite_rms_norm = functools.partial(_finite, optimistix.rms_norm)
_finite_worst_lane = functools.partial(_finite, worst_lane)


def _check_shared(solver: diffrax.AbstractSolver, event: diffrax.Event | None) -> None:
    if event is not None:
        raise ValueError(
            "shared_steps = True: an event ends runs one by one; give shared_steps=False."
        )
    if not isinstance(solver, (diffrax.AbstractERK, RKC)):
        raise ValueError(
            f"shared_steps = True: {solver!r} is neither an explicit Runge-Kutta solver nor RKC(); "
            "give one, or shared_steps=False."
        )


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
