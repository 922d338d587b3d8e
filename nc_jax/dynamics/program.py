"""The compiled programs of a flow: its system of equations, its start, a piece of the way."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..metrics import Invariant
from ..problems import AbstractProblem, check_shapes
from ..trajectory import Trajectory, check_observed, drifts, is_nonfinite
from . import integrator
from .clock import AbstractClock
from .fused import in_lanes, worst_lane
from .integrator import Progress, System


class Run(eqx.Module):
    """A flow in the dtype of its start: numbers that may change are arrays, the rest is static.

    With `lanes` the state is a batch, stored along the last axis of its arrays.
    """

    problem: AbstractProblem
    save_at: Float[Array, " T"]
    clock: AbstractClock
    solver: diffrax.AbstractSolver
    rtol: Float[Array, ""]
    atol: Float[Array, ""]
    observe: Callable[..., dict[str, Array]] | tuple[str, ...] | None
    save_states: bool
    event: diffrax.Event | None
    max_steps: Int[Array, ""]
    min_step: Float[Array, ""]
    force_min_step: bool
    lanes: bool
    shared_steps: bool

    def system(self) -> System:
        """The equations and their integration, as the integrator takes them."""
        descent = self.problem.scaled_descent_lanes if self.lanes else self.problem.scaled_descent
        control = getattr(self.solver, "step_control", {})
        controller = diffrax.PIDController(
            self.rtol, self.atol, norm=self._error_norm(), dtmin=self.min_step,
            force_dtmin=self.force_min_step, **control,
        )  # fmt: skip
        return System(
            field=lambda u, state: descent(state, self.clock.log_rate(u)),
            solver=in_lanes(self.solver) if self.lanes else _completed(self.solver, controller),
            controller=controller,
            stop=self.save_at[-1],
            event=self.event,
            is_nonfinite=_any_nonfinite if self.shared_steps else is_nonfinite,
        )

    def _error_norm(self) -> Callable[[PyTree], Float[Array, ""]]:
        """Norm of a step's error that accepts or rejects it."""
        if self.lanes:
            return functools.partial(_finite, worst_lane)
        if self.shared_steps:
            return _norm_of_worst_run
        return functools.partial(_finite, optimistix.rms_norm)

    def record(
        self, u: Float[Array, ""], state: PyTree, reference: dict[str, Invariant], data: PyTree
    ) -> "Record":
        """What is recorded of a state."""
        drift = drifts(reference, self.problem.invariants(state), self.clock.log_time(u))
        observed = observed_by(self.observe, self.problem, state, drift, data)
        return Record.of(observed, state if self.save_states else None, self.save_at.dtype)


def observed_by(
    observe: Callable[..., dict[str, Array]] | tuple[str, ...] | None,
    problem: AbstractProblem,
    state: PyTree,
    drift: dict[str, Array],
    data: PyTree = None,
) -> dict[str, Array]:
    """What a run records of a state: what `observe` asks for, and the drift of invariants.

    With names, drift only where it is named.
    """
    if isinstance(observe, tuple):
        names = tuple(name for name in observe if name not in drift)
        return {
            **(problem.observe_only(state, names) if names else {}),
            **{name: drift[name] for name in observe if name in drift},
        }
    call: Callable[..., dict[str, Array]] = observe or problem.observe
    return {**check_observed(call(state) if data is None else call(state, data)), **drift}


# On the host the same classes hold arrays of NumPy.
Saved = Array | np.ndarray


class Record(eqx.Module):
    """Observables of a state, scalars in one array, and the state where it is saved.

    In one array, since each array that a loop fills is a copy that has to be compiled.
    """

    scalars: Float[Saved, "*batch n"]
    names: tuple[str, ...] = eqx.field(static=True)
    arrays: dict[str, Float[Saved, "..."]]
    state: PyTree

    @staticmethod
    def of(observed: dict[str, Array], state: PyTree, dtype: Any) -> "Record":
        """Pack observables, cast to one dtype."""
        cast = {name: jnp.asarray(value, dtype) for name, value in observed.items()}
        scalars = {name: value for name, value in cast.items() if value.ndim == 0}
        return Record(
            scalars=jnp.stack([*scalars.values()]) if scalars else jnp.zeros(0, dtype),
            names=tuple(scalars),
            arrays={name: value for name, value in cast.items() if value.ndim > 0},
            state=state,
        )

    def observables(self) -> dict[str, Saved]:
        """By name, each with the batch axes in front."""
        columns = zip(self.names, range(len(self.names)), strict=True)
        return {**{name: self.scalars[..., i] for name, i in columns}, **self.arrays}


class Ending(NamedTuple):
    """The end of a run that takes no further step: time in the clock's coordinate, state, outcome.

    `over` says whether it is the end in any case; `reached` is the end of the last accepted step.
    """

    time: Float[Saved, ""]
    state: PyTree
    result: diffrax.RESULTS
    num_steps: Int[Saved, ""]
    reached: Float[Saved, ""]
    over: Bool[Saved, ""]


def begin(run: Run, start: PyTree) -> tuple[Progress, dict[str, Invariant]]:
    """The run before its first step, and its invariants then."""
    invariants = run.problem.invariants
    if run.lanes:
        check_shapes(run.problem, jax.tree.map(lambda leaf: leaf[0], start))
        reference = jax.vmap(invariants)(start)
        start = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), start)
    else:
        check_shapes(run.problem, start)
        reference = invariants(start)
    return integrator.begin(run.system(), start), reference


def advance(
    run: Run,
    progress: Progress,
    reference: dict[str, Invariant],
    data: PyTree,
    save_at: Float[Array, " T"],
    step_limit: Int[Array, ""],
) -> tuple[Progress, Record, Ending]:
    """Go on to the last of these save times, or to this many steps since the start.

    Returns the progress, the records (T, ...), NaN at times that are not reached, and where the run
    would end now.
    """
    system = run.system()

    def record(u: Float[Array, ""], state: PyTree) -> Record:
        if not run.lanes:
            return run.record(u, state, reference, data)
        lanes = jax.vmap(run.record, (None, -1, 0, 0))
        return lanes(u, state, reference, data)

    progress, records = integrator.advance(
        system, progress, save_at, jnp.minimum(step_limit, run.max_steps), record
    )
    time, state, result = integrator.final(system, progress)
    if run.lanes:
        state = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), state)
    over = ~integrator.continues(system, progress, run.max_steps)
    ending = Ending(time, state, result, progress.num_steps, progress.time, over)
    return progress, records, ending


def trajectory_of(
    run: Run,
    records: Record,
    ending: Ending,
    to_jax: Callable[[PyTree], PyTree] = lambda arrays: arrays,
) -> Trajectory:
    """What a run leaves; (T, ...) records of a batch become (S, T, ...).

    Takes arrays of JAX, or of NumPy, of which `to_jax` makes arrays of JAX once they are sorted:
    outside of a program every operation on these would be compiled by itself.
    """
    if run.event is not None and run.event.root_finder is not None:
        # A root may lie before save times of the same step.
        records = jax.tree.map(lambda saved: _until(saved, run.save_at <= ending.time), records)
    saved = records.observables(), records.state
    if run.lanes:
        saved = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), saved)
    observables, states, final, num_steps, result, time = to_jax(
        (*saved, ending.state, ending.num_steps, ending.result, ending.time)
    )
    common = run.clock.log_time(run.save_at), run.clock.log_time(time), result, num_steps
    if run.lanes:
        size = jax.tree.leaves(final)[0].shape[:1]
        common = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, size + leaf.shape), common)
    log_time, final_log_time, result, num_steps = common
    return Trajectory(
        log_time=log_time,
        observables=observables,
        final=final,
        final_log_time=final_log_time,
        states=states,
        result=result,
        num_steps=num_steps,
        shared_steps=run.shared_steps,
    )


def _until(saved: Saved, reached: Bool[Array, " T"]) -> Array:
    return jnp.where(reached.reshape(-1, *[1] * (saved.ndim - 1)), saved, jnp.nan)


def _completed(
    solver: diffrax.AbstractSolver, controller: diffrax.PIDController
) -> diffrax.AbstractSolver:
    """The solver with the settings that `diffrax.diffeqsolve` would fill in."""
    if getattr(solver, "scan_kind", "") is None:
        # As for `diffrax.ForwardMode`: the default loop over the stages serves reverse mode.
        solver = eqx.tree_at(lambda s: s.scan_kind, solver, "lax", is_leaf=lambda x: x is None)
    if not isinstance(solver, diffrax.AbstractImplicitSolver):
        return solver

    def tolerances(finder: Any) -> tuple:
        return finder.rtol, finder.atol, finder.norm

    given = tolerances(solver.root_finder)
    # A placeholder stands for those of the step-size control.
    filled = [
        value if eqx.is_array_like(value) or callable(value) else default
        for value, default in zip(given, tolerances(controller), strict=True)
    ]
    return eqx.tree_at(lambda solver: tolerances(solver.root_finder), solver, filled)


def _finite(norm: Callable[[PyTree], Array], error: PyTree) -> Float[Array, ""]:
    """A norm with NaN read as infinity: a step into overflow is then retried at a fifth.

    Diffrax's controller turns a NaN error into a NaN step, from which it never returns.
    """
    size = norm(error)
    return jnp.where(jnp.isnan(size), jnp.inf, size)


def _norm_of_worst_run(error: PyTree) -> Float[Array, ""]:
    """The largest norm over the runs of all vmaps in progress, which has no batch axis itself.

    A step size that follows it is common to all runs. Control reads the error, not its derivative.
    """
    return eqxi.unvmap_max(jax.lax.stop_gradient(_finite(optimistix.rms_norm, error)))


def _any_nonfinite(state: PyTree) -> Bool[Array, ""]:
    """Whether any run of all vmaps in progress has a state that is NaN or infinite."""
    return eqxi.unvmap_any(is_nonfinite(state))
