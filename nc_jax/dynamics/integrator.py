"""The integrator: solvers and step-size control of Diffrax in a loop over the save times.

`diffrax.diffeqsolve` is not used, for two reasons. It checks save times inside of the program by
host callbacks, and JAX stores no program with a callback in its persistent cache. It also has the
code of the observables three times in the program, which was two thirds of a flow's compilation.
Here the observables appear once in the program, in a scan over the save times. The carry of the
scan is all that a run needs to continue, so that a loop on the host can divide a run into pieces.
The alternative, to save states first and to observe them afterwards, was rejected: memory would
grow with the number of states, or the observables would have to be computed in pieces as well.
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
    """An ordinary differential equation y' = field(u, y) on [0, stop], and how it is integrated.

    `is_nonfinite` is a function of a state: True ends the run as `nonfinite`.
    """

    field: Callable[[Time, PyTree], PyTree]
    solver: diffrax.AbstractSolver
    controller: diffrax.AbstractStepSizeController
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
    """The last step that was tried, accepted or not: its ends, and the data of its dense output.

    The dense output of a rejected step is stored too, but never evaluated: it is evaluated at save
    times that the run has reached, and then the last step is an accepted one.
    """

    start: Time
    stop: Time
    dense: PyTree


class Progress(NamedTuple):
    """All that an integration needs to continue.

    `state` is the state at `time`, the end of the last accepted step; `next_time` is the end of the
    step to be tried; `event_values` are the values of the event's conditions at `time`.
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
    """The progress of an integration before its first step."""
    solver, terms = system.solver, system.terms
    zero = jnp.zeros_like(system.stop)
    first, controller_state = system.controller.init(
        terms, zero, system.stop, start, None, None, _early(solver.func), system.error_order
    )
    # The first step of a controller may end beyond the run.
    first = jnp.minimum(first, system.stop)
    solver_state = solver.init(terms, zero, first, start, None)
    # Shapes alone, without a step: the carry of a loop has the same arrays from the beginning.
    _, _, dense, *_ = eqx.filter_eval_shape(
        solver.step, terms, zero, first, start, None, solver_state, False
    )
    values = _event_values(system, zero, start)
    # At the start only a Boolean condition can hold: a number has not changed its sign yet.
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


def _early(func: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The function of a solver at times of 1 at most, for the choice of the first step.

    The choice tries a step of Euler's method, which is long where the field is small. In log log
    time the scale dt/du there may be infinite, and the first step would be the smallest number:
    300 steps would pass before the run has moved.
    """
    return lambda terms, time, state, args: func(terms, jnp.minimum(time, 1), state, args)


def advance(
    system: System,
    progress: Progress,
    save_at: Float[Array, " T"],
    step_limit: Int[Array, ""],
    record: Callable[[Time, PyTree], PyTree],
) -> tuple[Progress, PyTree]:
    """Integrate to the last save time, or to `step_limit` steps since the start.

    Returns the progress, and the results of `record` at the save times, stacked along a leading
    axis. At save times that are not reached, such as infinite ones, floats are NaN and others 0.
    """
    # With this jit JAX traces `record` once, for the shapes as well as for the values.
    record = jax.jit(record)
    like = jax.eval_shape(record, system.stop, progress.state)

    def not_reached() -> PyTree:
        return jax.tree.map(lambda x: jnp.full(x.shape, _blank(x.dtype), x.dtype), like)

    def to_next_save(progress: Progress, save: Time) -> tuple[Progress, PyTree]:
        progress = jax.lax.while_loop(
            lambda progress: continues(system, progress, step_limit, save=save),
            lambda progress: _step(system, progress),
            progress,
        )
        last = _interpolation(system, progress.step)
        # A condition and not a selection: outside of vmap, `record` runs only where it is needed.
        row = jax.lax.cond(
            # At time 0 no step has been accepted, and there is nothing to interpolate.
            (save <= progress.time) & (progress.time > 0),
            lambda: record(save, last.evaluate(save)),
            not_reached,
        )
        return progress, row

    return jax.lax.scan(to_next_save, progress, save_at)


def final(system: System, progress: Progress) -> tuple[Time, PyTree, diffrax.RESULTS]:
    """Time and state at the end of a run, and its outcome.

    The run ends with the last step, or, for an event with a root finder, at the root within it.
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
    *,
    save: Time | float = math.inf,
) -> Bool[Array, ""]:
    """Whether another step is to be tried: before the end of the run, or before `save` if given."""
    # A save at time 0 is interpolated within the first step, as other saves are within theirs: it
    # needs one step.
    short = (progress.time < jnp.minimum(save, system.stop)) | (progress.time == 0)
    fine = progress.result == diffrax.RESULTS.successful
    return short & fine & (progress.num_steps < step_limit)


def _step(system: System, progress: Progress) -> Progress:
    """Try one step, and accept or reject it, as `diffrax.diffeqsolve` does."""
    solver, controller = system.solver, system.controller
    # None are the `args` of the field, False is `made_jump`: the field has no jumps.
    state, error, dense, solver_state, solver_result = solver.step(
        system.terms,
        progress.time,
        progress.next_time,
        progress.state,
        None,
        progress.solver_state,
        False,
    )
    # A step that leaves the domain of the field has a NaN error. An infinite error rejects it, and
    # the controller shortens the step; with NaN the next step size would be NaN.
    error = jax.tree.map(lambda x: jnp.where(jnp.isnan(x), jnp.inf, x), error)
    accept, time, next_time, made_jump, controller_state, result = controller.adapt_step_size(
        progress.time,
        progress.next_time,
        progress.state,
        state,
        None,
        error,
        system.error_order,
        progress.controller_state,
    )
    _refuse_jumps(controller, made_jump)

    def accepted(new: PyTree, old: PyTree) -> PyTree:
        # `accept` is the Python value True for prescribed steps.
        return jax.tree.map(lambda new, old: jnp.where(accept, new, old), new, old)

    # Like `diffrax.diffeqsolve`, which bounds the time that a controller returns.
    time, next_time = jnp.minimum(time, system.stop), jnp.asarray(next_time)
    state = accepted(state, progress.state)
    # A rejected step is tried again, so that a failure of the solver in it does not count.
    solver_result = diffrax.RESULTS.where(accept, solver_result, _SUCCESSFUL)
    result = diffrax.RESULTS.where(
        solver_result == diffrax.RESULTS.successful, result, solver_result
    )
    values = _event_values(system, time, state)
    occurred = _occurred(system.event, progress.event_values, values)
    next_time = _clipped(time, next_time, system.stop, accept)
    # A step shorter than the spacing of floats ends where it starts, or after a rejection where the
    # rejected step ended. It would be tried without end.
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


def _refuse_jumps(controller: diffrax.AbstractStepSizeController, made_jump: object) -> None:
    """Raise ValueError for a controller that reports jumps of the field to the solver."""
    # After a jump a solver must evaluate the field again. That would be a branch in the programs of
    # all flows.
    if made_jump is not False:
        raise ValueError(
            f"stepsize_controller = {type(controller).__name__} with jumps of the field: the field "
            "of a flow is continuous in time; leave jump_ts out, or give them as step_ts."
        )


def _clipped(time: Time, next_time: Time, stop: Time, accept: Bool[ArrayLike, ""]) -> Time:
    """The end of the next step: the stop, where the step would end beyond it or just before it."""
    # Without these 100 spacings of floats the last step could be so short that rounding errors
    # spoil its dense output.
    nearly = stop * (1 - 100 * jnp.finfo(stop.dtype).eps)
    # After a rejection the step to the stop may be the rejected step: half of it is tried.
    clipped = jnp.where(accept, stop, time + (stop - time) / 2)
    return jnp.where(next_time > nearly, clipped, next_time)


def _interpolation(system: System, step: Step) -> diffrax.AbstractLocalInterpolation:
    """Dense output within a step."""
    return system.solver.interpolation_cls(t0=step.start, t1=step.stop, **step.dense)


_SUCCESSFUL: diffrax.RESULTS = diffrax.RESULTS.successful  # pyright: ignore[reportAssignmentType]


def _ended(
    nonfinite: Bool[Array, ""], event: Bool[Array, ""] | bool, result: diffrax.RESULTS
) -> diffrax.RESULTS:
    """The outcome: a non-finite state precedes an event, an event the result of the solver."""
    codes = diffrax.RESULTS
    # Without an event the program has no selection for it.
    if event is not False:
        result = codes.where(event, codes.event_occurred, result)  # pyright: ignore[reportArgumentType]
    return codes.where(nonfinite, codes.nonfinite, result)  # pyright: ignore[reportArgumentType]


def _blank(dtype: np.dtype) -> float:
    """The placeholder of a value that was not recorded."""
    return math.nan if jnp.issubdtype(dtype, jnp.inexact) else 0


def _event_values(system: System, time: Time, state: PyTree) -> PyTree:
    """Value of each condition of the event, which is called as `diffrax.diffeqsolve` calls it."""
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
    """Which conditions end the run: those that are true, or whose value has changed sign."""
    if event is None:
        return None
    leaves, structure = jax.tree.flatten(after)
    # A direction may be None, which JAX takes for an empty tree unless it is declared a leaf.
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
    """Whether any condition holds; the Python value False, known to the trace, if there is none."""
    return jnp.any(jnp.stack(conditions)) if conditions else False


def _root(
    system: System, progress: Progress, result: diffrax.RESULTS
) -> tuple[Time, PyTree, diffrax.RESULTS]:
    """Time and state at the root of the condition that ended the run, within its last step."""
    assert system.event is not None
    assert system.event.root_finder is not None
    step = progress.step
    last = _interpolation(system, step)
    # `progress.event_values` are those at the end of the step; those at its start are gone.
    before = _event_values(system, step.start, last.evaluate(step.start))
    occurred = jax.tree.leaves(_occurred(system.event, before, progress.event_values))

    def residual(time: Time, args: None) -> Array:
        values = jax.tree.leaves(_event_values(system, time, last.evaluate(time)))
        # A Boolean condition has its root at the end of the step. If several conditions are met,
        # the first in the order of the tree is used: the loop overwrites `value` from the last
        # condition to the first.
        value = step.stop - time
        for met, here in reversed(list(zip(occurred, values, strict=True))):
            value = jnp.where(met, step.stop - time if _is_boolean(here) else here, value)
        return value

    # Without `throw`: a failure of the root finder becomes the result of this run alone, and an
    # error inside of a program would end all runs of a batch.
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
