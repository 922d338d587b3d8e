"""Gradient flow in any clock. A `Flow` is a value that has all settings of a run but its start."""

import os
from collections.abc import Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from ..checks import check_integer, check_kind, check_number
from ..problems import AbstractProblem, check_problem, check_shapes, weakly_typed
from ..trajectory import Trajectory
from .arguments import (
    advice,
    check_common_steps,
    check_constraints,
    check_save_at,
    check_start,
    check_starts,
    check_stiffness,
    check_times,
    default_solver,
)
from .clock import AbstractClock, LogTime
from .control import (
    check_controller,
    check_jumps,
    check_solver,
    default_controller,
    given_controller,
)
from .observers import Observer, check_observe, check_observer
from .outcome import finish
from .pieces import integrate_in_pieces, is_staged
from .program import Integration, integrate_here


class Flow(eqx.Module):
    """A gradient flow x' = −∇L(x) from t = 0, as a value that is called with a start.

    In the coordinate u of a clock the field is (dt/du)(−∇L). Where the loss allows it, the field is
    computed in log space: with cross-entropy t = 10^1000 and beyond is an ordinary input.
    Observables are recorded at the save times, and states only on request, so that memory grows
    with the records and not with the number of steps. Computation follows the dtype of the start.

    `flow(start)` is one run and `flow.batch(starts)` many runs with common steps; both return a
    `Trajectory`. Outside of jit a run is computed by one compiled program in pieces of a tenth of
    a second: it shows a progress bar, ends within a second of Ctrl-C, and with `path` resumes after
    a kill. Under jit, vmap or a derivative the same steps are part of the caller's program.
    Derivatives are taken in forward mode (`jax.jvp`, `jax.jacfwd`); reverse mode raises
    RuntimeError.

    The flow is compiled again for another structure or shape of the problem or the state, another
    clock, solver, event or observer, another kind of step-size controller, another `save_states` or
    `shared_steps`, and for a weight decay of zero instead of a positive one. Nothing is compiled
    for another start, tolerance, horizon, number of saves (outside of jit) or step limit, for other
    numbers in a controller, or for another value of a number above zero in the problem, such as a
    decay.

    Args:
        problem: defines the field, the observables and the invariants.
        save_at: (T,) increasing values >= 0 of the clock's coordinate; the last ends the run.
        clock: `LogTime()` (save_at in log(1+t)), `LogLogTime()` (save_at in log(1 + log(1+t))) or
            `RealTime()` (save_at in t). A flow that comes to rest (square loss, weight decay)
            becomes stiffer with time in log time: integrate it in `RealTime()`.
        solver: any adaptive Diffrax ODE solver, explicit or implicit, or `RKC()` for stiff flows:
            those in `LogLogTime()`, and long runs to rest. docs/solvers.md compares them. None is
            `diffrax.Tsit5()`, but `stiff_solver()` for a problem that `is_stiff_in_log_time`, in a
            clock other than `RealTime()`, where an explicit solver is refused.
        rtol, atol: tolerances of the default step-size control, which is integral control, or
            proportional-integral control for `RKC()`. None means 1e-8, 1e-10 in float64 and 1e-5,
            1e-7 in float32. For a start of norm ε choose atol well below ε·rtol.
        observe: names of observables, such as `("ji_self_duality", "margin_min")`; of all
            observables only these are compiled (`problem.observables()` lists all names with their
            equations). Or a function that returns a dict of arrays; it is called with the state,
            and with (state, data) where the call has data. None records all of `problem.observe`.
            The drift of each invariant is recorded as `{name}_drift`; with names, only the drifts
            that are named.
        save_states: record the states at the save times too.
        event: ends the run early with success, as
            `diffrax.Event(diffrax.steady_state_event(rtol=0, atol=1e-6))` does once the RMS of
            dx/du is below 1e-6: at rest, and at a saddle that a tiny start has yet to leave. An
            explicit solver at rest still moves by its tolerance: choose a threshold well above
            that tolerance, and below the speed of a slow tail. Saves after the event are NaN, and
            `final_log_time` is the time of the event. Define an event once: for each new event
            object the flow is compiled again.
        max_steps: number of steps after which the run stops without success.
        min_step: smallest step in the clock's coordinate, accepted whatever its error. Where the
            field jumps, as at the kinks of a ReLU, step control would halve the step without end.
            The smallest step bounds the work; its error is about min_step times the jump for each
            crossing. `SignFlow` and `SpectralFlow` demand it, or fixed steps.
        stepsize_controller: any step-size controller of Diffrax, in place of the default control.
            It contains the tolerances and the smallest step (`dtmin`), so that rtol, atol and
            min_step are left out.
            `diffrax.StepTo(times)` prescribes the steps, for solvers without an error estimate too;
            `diffrax.ConstantStepSize()` is refused, since a flow has no `dt0`. Jumps of the field
            in time (`jump_ts`) are refused.
        shared_steps: under `jax.vmap` (all axes together) the runs take the same steps, those that
            the worst of them needs; a run that fails ends the batch. Outside of vmap it changes
            nothing. `batch` does the same several times faster for small models. For explicit
            Runge-Kutta solvers and `RKC()`, without an event, with a `diffrax.PIDController`
            (clipped or not) or `diffrax.StepTo`.

    Raises: ValueError for an argument of another kind, save times that do not increase, a tolerance
    or a step limit that is not above 0, a negative smallest step, names that the problem does not
    observe, a controller together with rtol, atol or min_step, adaptive steps without a smallest
    step for a problem that `has_jumps`, or shared steps with a solver, an event or a controller
    that cannot have them.

    Example:

        >>> problem = nc.ulpm(num_classes=3, feature_dim=4, samples_per_class=2)
        >>> flow = nc.Flow(problem, nc.log_times(4, 5), observe=("margin_min",))
        >>> traj = flow(problem.init(jax.random.key(0)))
        >>> traj.observables["margin_min"].shape, bool(traj.observables["margin_min"][-1] > 0)
        ((5,), True)

        Proportional-integral control:

        >>> control = diffrax.PIDController(rtol=1e-6, atol=1e-8, pcoeff=0.4, icoeff=0.3)
        >>> flow = nc.Flow(
        ...     problem, nc.log_times(4, 5), observe=("margin_min",), stepsize_controller=control
        ... )
        >>> flow(problem.init(jax.random.key(0))).observables["margin_min"].shape
        (5,)
    """

    problem: AbstractProblem
    save_at: Float[ArrayLike, " T"]
    clock: AbstractClock
    solver: diffrax.AbstractSolver
    rtol: float | Float[Array, ""] | None
    atol: float | Float[Array, ""] | None
    observe: Observer | tuple[str, ...] | None
    save_states: bool
    event: diffrax.Event | None
    max_steps: int
    min_step: float
    stepsize_controller: diffrax.AbstractStepSizeController | None
    shared_steps: bool

    def __init__(
        self,
        problem: AbstractProblem,
        save_at: Float[ArrayLike, " T"],
        *,
        clock: AbstractClock = LogTime(),
        solver: diffrax.AbstractSolver | None = None,
        rtol: float | Float[Array, ""] | None = None,
        atol: float | Float[Array, ""] | None = None,
        observe: Observer | Sequence[str] | None = None,
        save_states: bool = False,
        event: diffrax.Event | None = None,
        max_steps: int = 1_000_000,
        min_step: float = 0.0,
        stepsize_controller: diffrax.AbstractStepSizeController | None = None,
        shared_steps: bool = False,
    ):
        check_problem(problem)
        check_times(save_at)
        check_kind("clock", clock, AbstractClock, "nc_jax.LogTime()")
        if solver is None:
            solver = default_solver(problem, clock)
        check_solver(solver, stepsize_controller)
        check_stiffness(problem, clock, solver)
        if event is not None:
            steady = "diffrax.Event(diffrax.steady_state_event(rtol=0, atol=1e-6))"
            check_kind("event", event, diffrax.Event, steady)
        if shared_steps:
            check_common_steps(
                solver,
                event,
                stepsize_controller,
                where="shared_steps = True",
                instead="shared_steps=False",
            )
        for name, value in (("rtol", rtol), ("atol", atol)):
            if value is not None:
                check_number(name, value, above_zero=name == "rtol", scalar=True)
        check_number("min_step", min_step, scalar=True)
        if stepsize_controller is not None:
            settings = {"rtol": rtol, "atol": atol, "min_step": min_step or None}
            replaced = {name: value for name, value in settings.items() if value is not None}
            check_controller(stepsize_controller, solver, save_at, replaced)
        check_jumps(problem, stepsize_controller, min_step)
        check_kind("save_states", save_states, (bool, np.bool_), "True")
        check_observe(observe, problem)
        # `save_at`, tolerances and a controller stay as given: they become arrays in a call, where
        # the dtype of the start is known.
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
        self.stepsize_controller = stepsize_controller
        self.shared_steps = shared_steps

    # `jax.jit(flow)` hashes the function that it is given, and a flow holds arrays, which have no
    # hash: two flows are equal if they are one object.
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
        """Integrate from a start.

        Args:
            start: state at t = 0.
            data: arrays for the observer, which is called with (state, data); with None it is
                called with the state alone.
            throw: raise if the run stops early. Inside jit or vmap nothing is raised: the outcome
                is in `result`.
            progress: for a run outside of jit, show a progress bar on stderr, once the run has
                taken a second on a terminal or in a notebook, or a minute elsewhere.
            path: of a Zarr store for the result, for a run outside of jit. A checkpoint is written
                every five seconds. The same call resumes a run that was killed from the last
                checkpoint, to the same bytes, and reads one that is finished. `storage.load(path)`
                gives the labelled data set.

        Returns: a `Trajectory` with `log_time` in log(1 + t).

        Raises: ValueError for save times that do not increase, a tolerance below what the dtype can
        hold, a non-finite start or one of another shape, times that the clock or the dtype cannot
        resolve, a clock that scales this problem's field past the largest float, or a store of
        another run; RuntimeError if the run stops early and `throw` is set; `Interrupted`, a
        KeyboardInterrupt, on Ctrl-C, with the trajectory so far as its attribute.

        Example:

            >>> import tempfile
            >>> problem = nc.ulpm(3, 4, 2)
            >>> flow = nc.Flow(problem, nc.log_times(2, 3), observe=("margin_min",))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     traj = flow(problem.init(jax.random.key(0)), path=f"{folder}/flow.zarr")
            ...     dict(nc.storage.load(f"{folder}/flow.zarr").sizes)
            {'time': 3}
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
        """Integrate from starts along a leading axis, with the steps that the worst run needs.

        States are stored with the batch along the last axis, so that small products vectorise:
        several times faster than `jax.vmap` for models of a few thousand numbers. A run that fails
        ends the batch. For explicit Runge-Kutta solvers and `RKC()`, without an event.

        An implicit solver, such as the default of soft labels, solves an equation in the state of a
        run. Each run then takes its own steps, as under `jax.vmap(flow)`, and a run that fails ends
        alone. The batch is one program, without a progress bar, which Ctrl-C does not interrupt.

        Args:
            starts: states with a leading axis, one start for each run.
            data: arrays with the same leading axis, an entry for each start.
            throw, progress: as for a single run.

        Raises: as for a single run; ValueError for arrays with other leading axes, or a solver, an
        event or a controller that cannot have common steps.

        Example:

            >>> problem = nc.ulpm(3, 4, 2)
            >>> starts = jax.vmap(problem.init)(jax.random.split(jax.random.key(0), 8))
            >>> flow = nc.Flow(problem, nc.log_times(2, 3), observe=("margin_min",))
            >>> flow.batch(starts).observables["margin_min"].shape
            (8, 3)
        """
        if isinstance(self.solver, diffrax.AbstractImplicitSolver):
            check_starts(starts, data)
            return self._run_each(starts, data, throw)
        instead = "the starts to jax.vmap(flow), or in a sweep return flow(start)"
        check_common_steps(
            self.solver, self.event, self.stepsize_controller, where="batch", instead=instead
        )
        check_starts(starts, data)
        return self._run(starts, data, True, throw, progress, None)

    def check(self, start: PyTree, data: PyTree = None) -> None:
        """Check a start and data, as a call does before it computes anything.

        Raises: ValueError, as `flow(start, data)`.

        Example:

            >>> problem = nc.ulpm(3, 4, 2)
            >>> nc.Flow(problem, nc.log_times(2, 3)).check(problem.init(jax.random.key(0)))
        """
        self._checked_integration(start, data, False)
        # A call checks shapes while its program is traced, which costs later calls no time.
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
        integration = self._checked_integration(start, data, lanes)
        if is_staged((integration, start, data)):
            if path is not None:
                raise ValueError(
                    f"path = {path}: a run under jit, vmap or a derivative writes nothing; call "
                    "the flow outside of them, or use sweep(path=...)."
                )
            trajectory = integrate_here(integration, start, data)
        else:
            trajectory = integrate_in_pieces(
                integration, start, data, show_progress=progress, path=path, described=vars(self)
            )
        return self._finished(trajectory, throw)

    def _run_each(self, starts: PyTree, data: PyTree, throw: bool) -> Trajectory:
        """Runs with their own steps. In lanes a root finder would have all runs as its unknowns."""
        integration = self._integration_in(check_start(starts), False)
        check_constraints(self.problem, starts, lanes=True)
        check_observer(self.observe, starts, data)
        each = jax.vmap(lambda start, data: integrate_here(integration, start, data))
        return self._finished(each(starts, data), throw)

    def _finished(self, trajectory: Trajectory, throw: bool) -> Trajectory:
        def advise(result: diffrax.RESULTS) -> str:
            return advice(self.problem, self.clock, self.solver, self.save_at, result)

        return finish(trajectory, throw, advise=advise, timed=True)

    def _checked_integration(self, start: PyTree, data: PyTree, lanes: bool) -> Integration:
        """Check the run, its start and its data; the run in the dtype of the start."""
        integration = self._integration_in(check_start(start), lanes)
        check_constraints(self.problem, start, lanes=lanes)
        check_observer(self.observe, start, data)
        return integration

    def _integration_in(self, dtype: np.dtype, lanes: bool) -> Integration:
        """The run in this dtype, with every number that may change as an array."""
        check_save_at(self.problem, self.save_at, self.clock, dtype)
        save_at = jnp.asarray(self.save_at, dtype)
        given = self.stepsize_controller
        if given is None:
            controller = default_controller(
                self.solver, rtol=self.rtol, atol=self.atol, min_step=self.min_step, dtype=dtype
            )
            if self.problem.is_stiff_in_log_time:
                # The dense output of a long step leaves the slow manifold of the relaxing modes by
                # up to 100 rtol. Steps that end at the save times do not.
                controller = diffrax.ClipStepSizeController(controller, step_ts=save_at)
        else:
            controller = given_controller(given, save_at[-1])
        return Integration(
            # A Python float in the problem would be a constant of the program.
            problem=weakly_typed(self.problem),
            save_at=save_at,
            clock=self.clock,
            solver=self.solver,
            controller=controller,
            observe=self.observe,
            save_states=self.save_states,
            event=self.event,
            # Without x64, JAX's integers have 32 bits, and a larger limit would overflow.
            max_steps=jnp.asarray(min(self.max_steps, jnp.iinfo(jnp.result_type(int)).max)),
            lanes=lanes,
            shared_steps=self.shared_steps or lanes,
        )


def gradient_flow(
    problem: AbstractProblem,
    state: PyTree,
    save_at: Float[ArrayLike, " T"],
    *,
    clock: AbstractClock = LogTime(),
    solver: diffrax.AbstractSolver | None = None,
    rtol: float | Float[Array, ""] | None = None,
    atol: float | Float[Array, ""] | None = None,
    observe: Observer | Sequence[str] | None = None,
    save_states: bool = False,
    throw: bool = True,
    event: diffrax.Event | None = None,
    max_steps: int = 1_000_000,
    progress: bool = True,
    min_step: float = 0.0,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    shared_steps: bool = False,
    path: str | os.PathLike[str] | None = None,
) -> Trajectory:
    """Integrate x' = −∇L(x) from t = 0 and record observables: `Flow(problem, …)(state)`.

    Args: `save_at`, in the coordinate of the clock: log(1 + t) for `LogTime()`, the default, as
    `log_times` gives it; t for `RealTime()`. The other arguments are those of `Flow`, and `throw`,
    `progress` and `path` of its call.

    Returns: a `Trajectory` with `log_time` in log(1 + t).

    Raises: as `Flow` and its call.

    Example:

        >>> problem = nc.ulpm(num_classes=3, feature_dim=4, samples_per_class=2)
        >>> start = problem.init(jax.random.key(0))
        >>> traj = nc.gradient_flow(problem, start, nc.log_times(4, 5), observe=("margin_min",))
        >>> traj
        Trajectory(
          result='succeeded',
          observables=1 of shape (5,): margin_min,
          log_time=f64[5],
          ...
    """
    options: dict[str, Any] = {
        "rtol": rtol, "atol": atol, "observe": observe, "save_states": save_states,
        "event": event, "max_steps": max_steps, "min_step": min_step,
        "stepsize_controller": stepsize_controller, "shared_steps": shared_steps,
    }  # fmt: skip
    flow = Flow(problem, save_at, clock=clock, solver=solver, **options)
    return flow(state, throw=throw, progress=progress, path=path)
