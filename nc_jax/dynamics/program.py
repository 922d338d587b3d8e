"""The functions of a flow that are compiled: its beginning, a piece of it, its result."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..measures import Invariant
from ..problems import AbstractProblem, check_shapes
from ..trajectory import Trajectory
from . import integrator
from .clock import AbstractClock
from .control import with_norm_of
from .derivatives import refuse_reverse_mode
from .fused import in_lanes
from .integrator import Progress, System
from .observers import Observer, drifts, observed_by
from .outcome import is_nonfinite


class Integration(eqx.Module):
    """The arguments of a flow's programs: numbers that may change are arrays, the rest is static.

    Arrays have the dtype of the start. With `lanes` a state is a batch of states, stored along the
    last axis of its arrays. `max_steps` is the step limit of the run, `shared_steps` whether runs
    of a batch or a vmap take common steps.
    """

    problem: AbstractProblem
    save_at: Float[Array, " T"]
    clock: AbstractClock
    solver: diffrax.AbstractSolver
    controller: diffrax.AbstractStepSizeController
    observe: Observer | tuple[str, ...] | None
    save_states: bool
    event: diffrax.Event | None
    max_steps: Int[Array, ""]
    lanes: bool
    shared_steps: bool

    def system(self) -> System:
        """The differential equation with its solver and step-size control, for the integrator."""
        descent = self.problem.scaled_descent_lanes if self.lanes else self.problem.scaled_descent
        controller = with_norm_of(self.controller, lanes=self.lanes, shared_steps=self.shared_steps)
        return System(
            field=lambda u, state: descent(state, self.clock.log_rate(u)),
            solver=in_lanes(self.solver) if self.lanes else _configured(self.solver, controller),
            controller=controller,
            stop=self.save_at[-1],
            event=self.event,
            is_nonfinite=_any_nonfinite if self.shared_steps else is_nonfinite,
        )

    def record(
        self, u: Float[Array, ""], state: PyTree, reference: dict[str, Invariant], data: PyTree
    ) -> "Record":
        """The record of a state at u; `reference` are the invariants of the run at its start."""
        drift = drifts(reference, self.problem.invariants(state), self.clock.log_time(u))
        observed = observed_by(self.observe, self.problem, state, drift, data=data)
        return Record.of(observed, state if self.save_states else None, self.save_at.dtype)


# The same classes hold arrays of NumPy on the host and arrays of JAX in a program.
Saved = Array | np.ndarray


class Record(eqx.Module):
    """Observables of a state, with all scalars in one array, and the state if states are saved."""

    # One array for all scalars: each array that a loop fills is a copy operation to compile.
    scalars: Float[Saved, "*batch n"]
    names: tuple[str, ...] = eqx.field(static=True)
    arrays: dict[str, Float[Saved, "..."]]
    state: PyTree

    @staticmethod
    def of(observed: dict[str, Array], state: PyTree, dtype: Any) -> "Record":
        """Cast observables to one dtype and pack the scalars."""
        # A float dtype, also for counters and Booleans: NaN marks what is not recorded.
        cast = {name: jnp.asarray(value, dtype) for name, value in observed.items()}
        scalars = {name: value for name, value in cast.items() if value.ndim == 0}
        return Record(
            scalars=jnp.stack([*scalars.values()]) if scalars else jnp.zeros(0, dtype),
            names=tuple(scalars),
            arrays={name: value for name, value in cast.items() if value.ndim > 0},
            state=state,
        )

    def observables(self) -> dict[str, Saved]:
        """The observables by name, each with the batch axes in front."""
        columns = zip(self.names, range(len(self.names)), strict=True)
        return {**{name: self.scalars[..., i] for name, i in columns}, **self.arrays}


class Ending(NamedTuple):
    """The result of a run if it ended now: time in the clock's coordinate, state, outcome.

    `over` says whether the run has in fact ended. `reached` is the end of the last accepted step;
    it lies after `time` where an event ended the run within that step.
    """

    time: Float[Saved, ""]
    state: PyTree
    result: diffrax.RESULTS
    num_steps: Int[Saved, ""]
    reached: Float[Saved, ""]
    over: Bool[Saved, ""]


class Computed(NamedTuple):
    """The computed part of a run: its progress, the records of each piece, the result if it ended.

    Arrays are on the host, except those of `progress`: they are arguments of the next piece, and
    stay on the device.
    """

    progress: Progress
    records: tuple[Record, ...]
    ending: Ending

    @property
    def num_saves(self) -> int:
        """Number of save times that are recorded."""
        return sum(len(record.scalars) for record in self.records)


def begin(integration: Integration, start: PyTree) -> tuple[Progress, dict[str, Invariant]]:
    """The progress of a run before its first step, and the invariants at the start."""
    invariants = integration.problem.invariants
    if integration.lanes:
        check_shapes(integration.problem, jax.tree.map(lambda leaf: leaf[0], start))
        # Invariants have the batch in front, as records have; the state of the integrator has it on
        # the last axis, where operations on small arrays vectorise.
        reference = jax.vmap(invariants)(start)
        start = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), start)
    else:
        # While the program is traced, so that the check costs later calls no time.
        check_shapes(integration.problem, start)
        reference = invariants(start)
    return integrator.begin(integration.system(), start), reference


def advance(
    integration: Integration,
    progress: Progress,
    reference: dict[str, Invariant],
    data: PyTree,
    save_at: Float[Array, " T"],
    step_limit: Int[Array, ""],
) -> tuple[Progress, Record, Ending]:
    """Integrate to the last of these save times, or to `step_limit` steps since the start.

    Returns the progress, the records (T, ...), NaN at times that are not reached, and the result of
    the run if it ended now.
    """
    system = integration.system()

    def record(u: Float[Array, ""], state: PyTree) -> Record:
        if not integration.lanes:
            return integration.record(u, state, reference, data)
        lanes = jax.vmap(integration.record, (None, -1, 0, 0))
        return lanes(u, state, reference, data)

    progress, records = integrator.advance(
        system, progress, save_at, jnp.minimum(step_limit, integration.max_steps), record
    )
    time, state, result = integrator.final(system, progress)
    if integration.lanes:
        state = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), state)
    # By the limit of the run: the limit of a piece does not end the run.
    over = ~integrator.continues(system, progress, integration.max_steps)
    ending = Ending(time, state, result, progress.num_steps, progress.time, over)
    return progress, records, ending


def trajectory_of(
    integration: Integration,
    records: Record,
    ending: Ending,
    *,
    to_jax: Callable[[PyTree], PyTree] = lambda arrays: arrays,
) -> Trajectory:
    """The trajectory of a run; (T, ...) records of a batch become (S, T, ...).

    Args: `records` and `ending` have arrays of JAX within a program, and of NumPy outside of it,
    where each operation on an array of JAX would compile a program. `to_jax` converts arrays of
    NumPy to JAX at the end.
    """
    if integration.event is not None and integration.event.root_finder is not None:
        # The root of the event may lie before save times within the same step. These are recorded,
        # but lie after the end of the run.
        records = jax.tree.map(
            lambda saved: _until(saved, integration.save_at <= ending.time), records
        )
    saved = records.observables(), records.state
    if integration.lanes:
        saved = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), saved)
    # One call of `to_jax`, so that all arrays are transferred together.
    observables, states, final, num_steps, result, time = to_jax(
        (*saved, ending.state, ending.num_steps, ending.result, ending.time)
    )
    common = (
        integration.clock.log_time(integration.save_at),
        integration.clock.log_time(time),
        result,
        num_steps,
    )
    if integration.lanes:
        # Runs with common steps have one time, outcome and number of steps.
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
        shared_steps=integration.shared_steps,
    )


# A jit, since a vmap or a derivative outside of jit would run one operation after another.
@eqx.filter_jit
def integrate_here(integration: Integration, start: PyTree, data: PyTree) -> Trajectory:
    """The whole run as one program, or as part of the program that is being traced."""
    progress, reference = begin(integration, start)
    _, records, ending = advance(
        integration, progress, reference, data, integration.save_at, integration.max_steps
    )
    return refuse_reverse_mode(trajectory_of(integration, records, ending))


def _until(saved: Saved, reached: Bool[Array, " T"]) -> Array:
    """The records at save times that are reached, NaN at others; save times are the first axis."""
    return jnp.where(reached.reshape(-1, *[1] * (saved.ndim - 1)), saved, jnp.nan)


def _configured(
    solver: diffrax.AbstractSolver, controller: diffrax.AbstractStepSizeController
) -> diffrax.AbstractSolver:
    """The solver with the settings that `diffrax.diffeqsolve` would set before a run."""
    if getattr(solver, "scan_kind", "") is None:
        # As `diffrax.ForwardMode` does: the default loop over the stages has checkpoints for
        # reverse mode, which a flow refuses.
        solver = eqx.tree_at(lambda s: s.scan_kind, solver, "lax", is_leaf=lambda x: x is None)
    if not isinstance(solver, diffrax.AbstractImplicitSolver):
        return solver

    if not isinstance(controller, diffrax.AbstractAdaptiveStepSizeController):
        return solver

    def tolerances(finder: Any) -> tuple:
        return finder.rtol, finder.atol, finder.norm

    given = tolerances(solver.root_finder)
    # Diffrax has placeholders where the caller gave none: those of the step-size control replace
    # them.
    filled = [
        value if eqx.is_array_like(value) or callable(value) else default
        for value, default in zip(given, tolerances(controller), strict=True)
    ]
    return eqx.tree_at(lambda solver: tolerances(solver.root_finder), solver, filled)


def _any_nonfinite(state: PyTree) -> Bool[Array, ""]:
    """Whether any run of all vmaps in progress has a state that is NaN or infinite."""
    return eqxi.unvmap_any(is_nonfinite(state))
