"""Exact gradient flow in any clock, as a value: all of a run but its start."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from ..checks import check_integer, check_kind, check_number, shown
from ..problems import AbstractProblem, check_problem, check_shapes, weakly_typed
from ..trajectory import Trajectory, check_start, finish
from .arguments import (
    DEFAULT_TOLERANCES,
    advice,
    check_common_steps,
    check_observe,
    check_observer,
    check_rtol,
    check_save_at,
    check_starts,
    check_times,
)
from .clock import AbstractClock, LogTime
from .pieces import integrate_here, integrate_in_pieces, is_staged
from .program import Run

# A function of a state, or of a state and the run's data; or names of `problem.observe`.
Observe = Callable[..., dict[str, Float[Array, "..."]]] | tuple[str, ...]


class Flow(eqx.Module):
    """A gradient flow x' = −∇L(x) from t = 0, without its start.

    In a clock u the field is (dt/du)(−∇L), formed in log space where the loss allows it; with
    cross-entropy t = 10^1000 and beyond is an ordinary input. Only observables are recorded unless
    states are asked for, so memory grows with what is saved. Computation follows the dtype of the
    start. Derivatives of a run are taken in forward mode (`jax.jvp`, `jax.jacfwd`).

    `flow(start)` is one run, `flow.batch(starts)` many with common steps; both give a `Trajectory`.
    A run outside of jit is computed in pieces of a tenth of a second by one compiled program: it
    shows a progress bar after a second, ends within a second of Ctrl-C, and with `path` it resumes
    after a kill. Under jit, vmap or a derivative the same steps are part of the caller's program.

    What compiles anew: another structure or shape of the problem or the state, another clock,
    solver, event or observer, `save_states`, `shared_steps`, a weight decay of zero instead of a
    positive one. Nothing is compiled for another start, tolerance, horizon, number of saves
    (outside of jit), step limit, or another value of a number above zero in the problem, such as a
    decay.

    Args:
        problem: gives the field, the observables and the invariants.
        save_at: (T,) increasing values >= 0 of the clock's coordinate; the last ends the run.
        clock: `LogTime()` (save_at in log(1+t)), `LogLogTime()` (save_at in log(1 + log(1+t))) or
            `RealTime()` (save_at in t). A flow that comes to rest (square loss, weight decay) is
            ever stiffer in log time: give it `RealTime()`.
        solver: any adaptive Diffrax ODE solver, explicit or implicit, or `RKC()`, for stiff flows:
            `LogLogTime()`, and long runs to rest. docs/solvers.md compares them.
        rtol, atol: of the PID step control; None gives 1e-8, 1e-10 in float64 and 1e-5, 1e-7 in
            float32. For a start of norm ε take atol well below ε·rtol.
        observe: names of observables, such as `("ji_self_duality", "margin_min")`, of which only
            these are compiled (`problem.observables()` lists all with their equations); or a
            function state -> dict of arrays; None records all of `problem.observe`. The drift of
            each invariant is added as `{name}_drift`, with names only where it is named. A function
            takes (state, data) where the run is given data.
        save_states: record the states at the save times too.
        event: ends the run early with success, as
            `diffrax.Event(diffrax.steady_state_event(rtol=0, atol=1e-6))` does once the RMS of
            dx/du is below 1e-6: at rest, and at a saddle that a tiny start has yet to leave. An
            explicit solver at rest still moves by its tolerance: stay well above that, and below
            the speed of what is not rest, such as a slow tail. What is saved after the event is
            NaN; `final_log_time` is the time of the event. Define it once: a new one compiles anew.
        max_steps: steps after which the run is given up.
        min_step: least step in the clock's coordinate, taken whatever its error. Where the field
            jumps, as at the kinks of a ReLU, step control would go on halving: this bounds the
            work, at an error of about min_step times the jump for each crossing.
        shared_steps: under `jax.vmap` (all axes together) the runs take the same steps, those that
            the worst of them needs; a run that fails ends the batch. Outside of vmap it changes
            nothing. `batch` does the same several times faster for small models. For explicit
            Runge-Kutta solvers and `RKC()`, without an event.

    Raises: ValueError for what is no problem, adaptive solver, clock or event, save times that do
    not increase, a tolerance that is no number above 0, names that the problem does not observe, a
    step limit that is no integer above 0, a minimal step that is negative, or shared steps with a
    solver or an event that cannot have them.

    Example:

        problem = ulpm(5, 20, 10)
        flow = Flow(problem, log_times(1000, 201), observe=("ji_self_duality",))
        flow(problem.init(jax.random.key(0))).observables["ji_self_duality"]
    """

    problem: AbstractProblem
    save_at: Float[ArrayLike, " T"]
    clock: AbstractClock
    solver: diffrax.AbstractSolver
    rtol: float | Float[Array, ""] | None
    atol: float | Float[Array, ""] | None
    observe: Observe | None
    save_states: bool
    event: diffrax.Event | None
    max_steps: int
    min_step: float
    shared_steps: bool

    def __init__(
        self,
        problem: AbstractProblem,
        save_at: Float[ArrayLike, " T"],
        clock: AbstractClock = LogTime(),
        solver: diffrax.AbstractSolver = diffrax.Tsit5(),
        *,
        rtol: float | Float[Array, ""] | None = None,
        atol: float | Float[Array, ""] | None = None,
        observe: Callable[..., dict[str, Float[Array, "..."]]] | Sequence[str] | None = None,
        save_states: bool = False,
        event: diffrax.Event | None = None,
        max_steps: int = 1_000_000,
        min_step: float = 0.0,
        shared_steps: bool = False,
    ):
        check_problem(problem)
        check_times(save_at)
        check_kind("solver", solver, diffrax.AbstractSolver, "diffrax.Tsit5()")
        if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
            raise ValueError(
                f"solver = {shown(solver)} estimates no error: give one that does, such as "
                "diffrax.Tsit5()."
            )
        check_kind("clock", clock, AbstractClock, "nc_jax.LogTime()")
        if event is not None:
            steady = "diffrax.Event(diffrax.steady_state_event(rtol=0, atol=1e-6))"
            check_kind("event", event, diffrax.Event, steady)
        if shared_steps:
            check_common_steps(solver, event, "shared_steps = True", "shared_steps=False")
        for name, value in (("rtol", rtol), ("atol", atol)):
            if value is not None:
                check_number(name, value, above_zero=name == "rtol", scalar=True)
        check_number("min_step", min_step, scalar=True)
        check_kind("save_states", save_states, (bool, np.bool_), "True")
        check_observe(observe, problem)
        self.problem = problem
        self.save_at = save_at
        self.clock = clock
        self.solver = solver
        self.rtol = rtol
        self.atol = atol
        self.observe = observe if observe is None or callable(observe) else tuple(observe)
        self.save_states = save_states
        self.event = event
        self.max_steps = check_integer("max_steps", max_steps)
        self.min_step = min_step
        self.shared_steps = shared_steps

    # By identity, so that `jax.jit(flow)` works, which hashes a function: arrays have no hash.
    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __call__(
        self,
        start: PyTree,
        data: PyTree = None,
        *,
        throw: bool = True,
        progress: bool = True,
        path: str | os.PathLike[str] | None = None,
    ) -> Trajectory:
        """Run from a start.

        Args:
            start: state at t = 0.
            data: arrays that the observer takes besides the state; None calls it with the state
                alone.
            throw: raise if the run stops early. Inside jit or vmap nothing is raised: the outcome
                is in `result`.
            progress: show a bar once a run outside of jit takes a second on a terminal or in a
                notebook, a minute elsewhere.
            path: of a Zarr store for the result, for a run outside of jit. A checkpoint is written
                every five seconds; a run that is killed resumes from the last, to the same bytes,
                and one that is finished is read. `storage.load(path)` gives the labelled data set.

        Returns: a `Trajectory` with `log_time` in log(1 + t).

        Raises: ValueError for save times that do not increase, a tolerance below what the dtype can
        hold, a non-finite start or one of another shape, times that the clock or the dtype cannot
        resolve, a clock that scales this problem's field past the largest float, or a store of
        another run; RuntimeError if the run stops early and `throw` is set; `Interrupted`, a
        KeyboardInterrupt, on Ctrl-C, with the trajectory so far as its attribute.

        Example: `flow(problem.init(jax.random.key(0)), path="flow.zarr")`.
        """
        return self._run(start, data, False, throw, progress, path)

    def batch(
        self,
        starts: PyTree,
        data: PyTree = None,
        *,
        throw: bool = True,
        progress: bool = True,
    ) -> Trajectory:
        """Run from starts along a leading axis, with the steps that the worst of them needs.

        States are stored with the batch along the last axis, so that small products vectorise:
        several times faster than `jax.vmap` for models of a few thousand numbers. A run that fails
        ends the batch. For explicit Runge-Kutta solvers and `RKC()`, without an event.

        Args: `data` has the same leading axis, an entry for each start; the rest is as for a single
        run.

        Raises: as for a single run.

        Example: `flow.batch(jax.vmap(problem.init)(jax.random.split(key, 64)))`.
        """
        instead = "the starts to jax.vmap(flow), or in a sweep return flow(start)"
        check_common_steps(self.solver, self.event, "batch", instead)
        check_starts(starts, data)
        return self._run(starts, data, True, throw, progress, None)

    def check(self, start: PyTree, data: PyTree = None) -> None:
        """Raise what a call with this start and data would raise before it computes anything.

        Raises: as `flow(start, data)`.

        Example: `flow.check(problem.init(key))`.
        """
        self._checked_run(start, data, False)
        check_shapes(self.problem, start)

    def _run(
        self,
        start: PyTree,
        data: PyTree,
        lanes: bool,
        throw: bool,
        progress: bool,
        path: str | os.PathLike[str] | None,
    ) -> Trajectory:
        run = self._checked_run(start, data, lanes)
        if is_staged((run, start, data)):
            if path is not None:
                raise ValueError(
                    f"path = {path}: a run under jit, vmap or a derivative writes nothing; call "
                    "the flow outside of them, or use sweep(path=...)."
                )
            trajectory = integrate_here(run, start, data)
        else:
            trajectory = integrate_in_pieces(run, start, data, progress, path, vars(self))
        hint = advice(self.problem, self.clock, self.solver, self.save_at)
        return finish(trajectory, throw, hint, timed=True)

    def _checked_run(self, start: PyTree, data: PyTree, lanes: bool) -> Run:
        """The run in the dtype of its start, once both and the data are checked."""
        run = self._run_in(check_start(start), lanes)
        check_observer(self.observe, start, data)
        return run

    def _run_in(self, dtype: np.dtype, lanes: bool) -> Run:
        """The run in this dtype, with every number that may change as an array."""
        default_rtol, default_atol = DEFAULT_TOLERANCES[dtype.name]
        rtol = default_rtol if self.rtol is None else self.rtol
        atol = default_atol if self.atol is None else self.atol
        check_rtol(rtol, dtype)
        check_save_at(self.problem, self.save_at, self.clock, dtype)
        return Run(
            problem=weakly_typed(self.problem),
            save_at=jnp.asarray(self.save_at, dtype),
            clock=self.clock,
            solver=self.solver,
            rtol=jnp.asarray(rtol, dtype),
            atol=jnp.asarray(atol, dtype),
            observe=self.observe,
            save_states=self.save_states,
            event=self.event,
            max_steps=jnp.asarray(min(self.max_steps, jnp.iinfo(jnp.result_type(int)).max)),
            # Without a smallest step, a finite state whose field is NaN shrinks its steps for ever.
            min_step=jnp.asarray(max(self.min_step, np.finfo(dtype).tiny), dtype),
            force_min_step=self.min_step > 0,
            lanes=lanes,
            shared_steps=self.shared_steps or lanes,
        )


def gradient_flow(
    problem: AbstractProblem,
    state: PyTree,
    save_at: Float[ArrayLike, " T"],
    clock: AbstractClock = LogTime(),
    solver: diffrax.AbstractSolver = diffrax.Tsit5(),
    rtol: float | Float[Array, ""] | None = None,
    atol: float | Float[Array, ""] | None = None,
    observe: Callable[..., dict[str, Float[Array, "..."]]] | Sequence[str] | None = None,
    save_states: bool = False,
    throw: bool = True,
    event: diffrax.Event | None = None,
    max_steps: int = 1_000_000,
    progress: bool = True,
    min_step: float = 0.0,
    shared_steps: bool = False,
    path: str | os.PathLike[str] | None = None,
) -> Trajectory:
    """Integrate x' = −∇L(x) from t = 0 and record observables: `Flow(problem, …)(state)`.

    Args: those of `Flow`, and `throw`, `progress` and `path` of its call.

    Returns: a `Trajectory` with `log_time` in log(1 + t).

    Raises: as `Flow` and its call.

    Example:

        problem = ulpm(5, 20, 10)
        start = problem.init(jax.random.key(0))
        traj = gradient_flow(problem, start, log_times(1000, 201))
        traj.observables["ji_self_duality"]
    """
    options: dict[str, Any] = {
        "rtol": rtol, "atol": atol, "observe": observe, "save_states": save_states,
        "event": event, "max_steps": max_steps, "min_step": min_step,
        "shared_steps": shared_steps,
    }  # fmt: skip
    flow = Flow(problem, save_at, clock, solver, **options)
    return flow(state, throw=throw, progress=progress, path=path)
