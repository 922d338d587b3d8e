"""The time stepper: solvers and step-size control of Diffrax in a loop from save time to save time.

`diffrax.diffeqsolve` was used before. It checks save times inside of the program by host callbacks,
which keep a program out of JAX's persistent cache, and holds what is saved three times, which was
two thirds of a flow's compilation. Here the observables stand once in the program, in a scan over
the save times. The scan's carry is all that a run needs to continue, so that a host loop can divide
a run into pieces. To save the states first and observe them afterwards was rejected: memory would
grow with the states, or the observables would have to be computed in pieces all the same.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

Time = Float[Array, ""]


class System(NamedTuple):
    """An ordinary differential equation y' = field(u, y) from u = 0, and how it is integrated.

    `is_nonfinite` says of a state whether it ends the run; `stop` is the end of the interval.
    """

    field: Callable[[Time, PyTree], PyTree]
    solver: diffrax.AbstractSolver
    controller: diffrax.PIDController
    stop: Time
    event: diffrax.Event | None
    is_nonfinite: Callable[[PyTree], Bool[Array, ""]]

    @property
    def terms(self) -> diffrax.ODETerm:
        """The field with Diffrax's signature."""
        return diffrax.ODETerm(lambda u, y, args: self.field(jnp.asarray(u), y))

    @property
    def error_order(self) -> Any:
        """Order of the solver's error estimate."""
        order = self.solver.error_order(self.terms)
        assert order is not None
        return order


class Step(NamedTuple):
    """The last step that was tried: its ends, and the data of its dense output.

    Read only right after a step that was accepted, since that is what reaches a save time.
    """

    start: Time
    stop: Time
    dense: PyTree


class Progress(NamedTuple):
    """All that an integration needs to go on.

    `state` holds at `time`; `next_time` is the end of the step to be tried; `event_values` are
    those of the event's conditions at `time`.
    """

    state: PyTree
    time: Time
    next_time: Time
    solver_state: PyTree
    controller_state: PyTree
    step: Step
    event_values: PyTree
    num_steps: Int[Array, ""]
    result: diffrax.RESULTS


def begin(system: System, start: PyTree) -> Progress:
    """An integration before its first step."""
    solver, terms = system.solver, system.terms
    zero = jnp.zeros_like(system.stop)
    first, controller_state = system.controller.init(
        terms, zero, system.stop, start, None, None, solver.func, system.error_order
    )
    first = jnp.minimum(first, system.stop)
    solver_state = solver.init(terms, zero, first, start, None)
    _, _, dense, *_ = eqx.filter_eval_shape(
        solver.step, terms, zero, first, start, None, solver_state, False
    )
    values = _event_values(system, zero, start)
    occurred = _any([value for value in jax.tree.leaves(values) if _is_boolean(value)])
    return jax.tree.map(
        jnp.asarray,
        Progress(
            state=start,
            time=zero,
            next_time=first,
            solver_state=solver_state,
            controller_state=controller_state,
            step=Step(zero, first, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), dense)),
            event_values=values,
            num_steps=jnp.asarray(0),
            result=_ended(system.is_nonfinite(start), occurred, _SUCCESSFUL),
        ),
    )


def advance(
    system: System,
    progress: Progress,
    save_at: Float[Array, " T"],
    step_limit: Int[Array, ""],
    record: Callable[[Time, PyTree], PyTree],
) -> tuple[Progress, PyTree]:
    """Integrate to the last save time, or to `step_limit` steps since the start.

    Returns what `record` gives at each save time, stacked along a leading axis. It is NaN (0 where
    it is no float) at times that are not reached, infinite ones among them.
    """
    # Under a jit `record` is traced once, for its shapes and for its values.
    record = jax.jit(record)
    like = jax.eval_shape(record, system.stop, progress.state)

    def not_reached() -> PyTree:
        return jax.tree.map(lambda x: jnp.full(x.shape, _blank(x.dtype), x.dtype), like)

    def to_next_save(progress: Progress, save: Time) -> tuple[Progress, PyTree]:
        progress = jax.lax.while_loop(
            lambda progress: continues(system, progress, step_limit, save),
            lambda progress: _step(system, progress),
            progress,
        )
        last = _interpolation(system, progress.step)
        row = jax.lax.cond(
            # At time 0 no step has been accepted, and there is nothing to interpolate.
            (save <= progress.time) & (progress.time > 0),
            lambda: record(save, last.evaluate(save)),
            not_reached,
        )
        return progress, row

    return jax.lax.scan(to_next_save, progress, save_at)


def final(system: System, progress: Progress) -> tuple[Time, PyTree, diffrax.RESULTS]:
    """Time and state at the end of a run, and how it ended.

    The end is that of the last step, or for an event with a root finder the root within that step.
    """
    unfinished = (progress.time < system.stop) & (progress.result == diffrax.RESULTS.successful)
    reached = diffrax.RESULTS.max_steps_reached
    result = diffrax.RESULTS.where(unfinished, reached, progress.result)  # pyright: ignore[reportArgumentType]
    if system.event is None or system.event.root_finder is None:
        return progress.time, progress.state, result
    return jax.lax.cond(
        result == diffrax.RESULTS.event_occurred,
        lambda: _root(system, progress, result),
        lambda: (progress.time, progress.state, result),
    )


def continues(
    system: System,
    progress: Progress,
    step_limit: Int[Array, ""],
    save: Time | float = math.inf,
) -> Bool[Array, ""]:
    """Whether another step is to be taken, to reach a save time if one is given."""
    # The save at time 0 is read off the first step like any other.
    short = (progress.time < jnp.minimum(save, system.stop)) | (progress.time == 0)
    fine = progress.result == diffrax.RESULTS.successful
    return short & fine & (progress.num_steps < step_limit)


def _step(system: System, progress: Progress) -> Progress:
    """Try one step, and accept or reject it, as `diffrax.diffeqsolve` does."""
    solver, controller = system.solver, system.controller
    state, error, dense, solver_state, solver_result = solver.step(
        system.terms,
        progress.time,
        progress.next_time,
        progress.state,
        None,
        progress.solver_state,
        False,
    )
    # Infinite, so that a step which leaves the domain of the field is rejected.
    error = jax.tree.map(lambda x: jnp.where(jnp.isnan(x), jnp.inf, x), error)
    accept, time, next_time, _, controller_state, result = controller.adapt_step_size(
        progress.time,
        progress.next_time,
        progress.state,
        state,
        None,
        error,
        system.error_order,
        progress.controller_state,
    )

    def accepted(new: PyTree, old: PyTree) -> PyTree:
        return jax.tree.map(lambda new, old: jnp.where(accept, new, old), new, old)

    time, next_time = jnp.minimum(time, system.stop), jnp.asarray(next_time)
    state = accepted(state, progress.state)
    solver_result = diffrax.RESULTS.where(accept, solver_result, _SUCCESSFUL)
    result = diffrax.RESULTS.where(
        solver_result == diffrax.RESULTS.successful, result, solver_result
    )
    values = _event_values(system, time, state)
    occurred = _occurred(system.event, progress.event_values, values)
    next_time = _clipped(time, next_time, system.stop, accept)
    # Below the spacing of floats a step has no length, or after a rejection the same as before: it
    # would be tried for ever.
    same = (next_time <= time) | (~jnp.asarray(accept) & (next_time >= progress.next_time))
    stuck = same & (time < system.stop) & (result == diffrax.RESULTS.successful)
    too_short = diffrax.RESULTS.dt_min_reached
    result = diffrax.RESULTS.where(stuck, too_short, result)  # pyright: ignore[reportArgumentType]
    return Progress(
        state=state,
        time=time,
        next_time=next_time,
        solver_state=accepted(solver_state, progress.solver_state),
        controller_state=controller_state,
        step=Step(progress.time, progress.next_time, dense),
        event_values=values,
        num_steps=progress.num_steps + 1,
        result=_ended(system.is_nonfinite(state), _any(jax.tree.leaves(occurred)), result),
    )


def _clipped(time: Time, next_time: Time, stop: Time, accept: Bool[ArrayLike, ""]) -> Time:
    """The end of the next step, which is the stop where it would come within rounding of it."""
    nearly = stop * (1 - 100 * jnp.finfo(stop.dtype).eps)
    # After a rejection the whole rest would be tried again: half of it then.
    clipped = jnp.where(accept, stop, time + (stop - time) / 2)
    return jnp.where(next_time > nearly, clipped, next_time)


def _interpolation(system: System, step: Step) -> diffrax.AbstractLocalInterpolation:
    """Dense output within a step."""
    return system.solver.interpolation_cls(t0=step.start, t1=step.stop, **step.dense)


_SUCCESSFUL: diffrax.RESULTS = diffrax.RESULTS.successful  # pyright: ignore[reportAssignmentType]


def _ended(
    nonfinite: Bool[Array, ""], event: Bool[Array, ""] | bool, result: diffrax.RESULTS
) -> diffrax.RESULTS:
    """A non-finite state before an event, an event before what the solver reports."""
    codes = diffrax.RESULTS
    if event is not False:
        result = codes.where(event, codes.event_occurred, result)  # pyright: ignore[reportArgumentType]
    return codes.where(nonfinite, codes.nonfinite, result)  # pyright: ignore[reportArgumentType]


def _blank(dtype: np.dtype) -> float:
    """What stands in the place of a value that was not recorded."""
    return math.nan if jnp.issubdtype(dtype, jnp.inexact) else 0


def _event_values(system: System, time: Time, state: PyTree) -> PyTree:
    """Value of each condition of the event."""
    if system.event is None:
        return None

    def value(condition: Callable[..., Array]) -> Array:
        return jnp.asarray(
            condition(
                time,
                state,
                None,
                terms=system.terms,
                solver=system.solver,
                t0=jnp.zeros_like(system.stop),
                t1=system.stop,
                dt0=None,
                saveat=None,
                stepsize_controller=system.controller,
                max_steps=None,
            )
        )

    return jax.tree.map(value, system.event.cond_fn, is_leaf=callable)


def _is_boolean(value: Array) -> bool:
    return value.dtype == bool


def _occurred(event: diffrax.Event | None, before: PyTree, after: PyTree) -> PyTree:
    """Which conditions end the run: those that are true, or whose value has changed its sign."""
    if event is None:
        return None
    leaves, structure = jax.tree.flatten(after)
    # None, a direction, is a leaf.
    directions = jax.tree.leaves(event.direction, is_leaf=lambda x: x is None)
    ended = []
    for old, new, upwards in zip(jax.tree.leaves(before), leaves, directions, strict=True):
        if _is_boolean(new):
            ended.append(new)
        elif upwards is None:
            ended.append(jnp.sign(old) != jnp.sign(new))
        elif upwards:
            ended.append((old <= 0) & (new > 0))
        else:
            ended.append((old > 0) & (new <= 0))
    return jax.tree.unflatten(structure, ended)


def _any(conditions: list[Bool[Array, ""]]) -> Bool[Array, ""] | bool:
    return jnp.any(jnp.stack(conditions)) if conditions else False


def _root(
    system: System, progress: Progress, result: diffrax.RESULTS
) -> tuple[Time, PyTree, diffrax.RESULTS]:
    """Time and state at the root of the condition that ended the run, within its last step."""
    assert system.event is not None
    assert system.event.root_finder is not None
    step = progress.step
    last = _interpolation(system, step)
    before = _event_values(system, step.start, last.evaluate(step.start))
    occurred = jax.tree.leaves(_occurred(system.event, before, progress.event_values))

    def residual(time: Time, args: None) -> Array:
        values = jax.tree.leaves(_event_values(system, time, last.evaluate(time)))
        # A condition without a sign is met at the end of the step; the first that is met counts.
        value = step.stop - time
        for met, here in reversed(list(zip(occurred, values, strict=True))):
            value = jnp.where(met, step.stop - time if _is_boolean(here) else here, value)
        return value

    root = optimistix.root_find(
        residual,
        system.event.root_finder,
        step.stop,
        options={"lower": step.start, "upper": step.stop},
        throw=False,
    )
    found = root.result == optimistix.RESULTS.successful
    failed = diffrax.RESULTS.promote(root.result)
    return root.value, last.evaluate(root.value), diffrax.RESULTS.where(found, result, failed)
