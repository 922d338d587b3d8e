"""What a run leaves behind: observables over time, the final state, how it ended."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path
from jaxtyping import Array, Bool, Float, Int, PyTree

from .checks import check_arrays, check_number, check_process, close_to, is_traced
from .display import Text, counted, summary
from .metrics import Invariant, drift
from .problems import AbstractProblem

Observe = Callable[[PyTree], dict[str, Float[Array, "..."]]]


class Trajectory(eqx.Module):
    """A recorded run.

    Attributes:
        log_time: (T,) log(1 + t) of the saves; for descent log(1 + step).
        observables: dict of (T,) arrays, NaN from where a run stopped early; (T, …) for an
            observable that is an array, such as the margins of all samples.
        final: state at the end of the run.
        final_log_time: log(1 + t) of `final`, before the last save if the run ended early.
        states: states at the saves, leaves with leading axis T, if they were asked for.
        result: one of `diffrax.RESULTS`; `diffrax.RESULTS[traj.result]` is its message, empty for
            success. `nonfinite` marks a state that became NaN or infinite, `event_occurred` a run
            that the caller's event ended.
        num_steps: steps taken, rejected ones included.
        shared_steps: whether they are those of a whole batch, where the run is one of a batch.

    Under vmap every array gains leading axes, `log_time` too.
    """

    log_time: Float[Array, "*batch T"]
    observables: dict[str, Float[Array, "..."]]
    final: PyTree
    final_log_time: Float[Array, "*batch"]
    states: PyTree | None
    result: diffrax.RESULTS
    num_steps: Int[Array, "*batch"]
    shared_steps: bool = eqx.field(static=True, default=False)

    def __repr__(self) -> str:
        shapes = {np.shape(value) for value in self.observables.values()}
        shape = f" of shape {shapes.pop()}" if len(shapes) == 1 else ""
        names = list(self.observables)
        more = f", and {len(names) - 5} more" if len(names) > 6 else ""
        listed = ", ".join(names[:5] if more else names)
        observables = Text(f"{len(names)}{shape}: {listed}{more}" if names else "none")
        return summary(self, result=self._outcome(), observables=observables)

    def _outcome(self) -> str | None:
        """How the run ended, or how many of a batch did so; None where that is traced."""
        code = jax.tree.leaves(self.result)[0]
        if is_traced(code):
            return None
        outcomes = []
        for value in np.ravel(code):
            result = jax.tree.map(lambda _, value=value: np.asarray(value), self.result)
            outcomes.append(diffrax.RESULTS[result] or "succeeded")
        return outcomes[0] if np.ndim(code) == 0 else counted(outcomes)

    @property
    def succeeded(self) -> Bool[Array, "*batch"]:
        """Whether the run reached its end, or the caller's event."""
        ended = self.result == diffrax.RESULTS.event_occurred
        return ended | (self.result == diffrax.RESULTS.successful)

    def recorded(self, name: str) -> Float[Array | np.ndarray, "..."]:
        """The observable of this name; ValueError that lists what there is for any other."""
        if name not in self.observables:
            raise ValueError(
                f"{name!r} was not recorded.{close_to(name, self.observables)} This run has "
                f"{', '.join(self.observables) or 'no observables'}."
            )
        return self.observables[name]

    def common_log_time(self) -> Float[np.ndarray, " T"]:
        """The one time axis of all runs of a batch, as a NumPy array.

        Raises: ValueError if the runs were saved at different times.
        """
        rows = np.asarray(self.log_time).reshape(-1, self.log_time.shape[-1])
        if np.any(rows != rows[0]):
            raise ValueError(
                "log_time differs between the runs of this batch: take one run at a time, "
                "jax.tree.map(lambda leaf: leaf[i], trajectory)."
            )
        return rows[0]

    def with_time_scaled(self, factor: float) -> "Trajectory":
        """The same run with its time t multiplied, as log(1 + factor·t).

        Puts descent on the flow's axis: k steps at rate η on a mean loss are time ηk/N of the
        summed loss. For times within the dtype's range.

        Raises: ValueError for a factor that is no finite number above 0.

        Example: `gradient_descent(...).with_time_scaled(rate / problem.num_samples)`.
        """
        check_number("factor", factor, above_zero=True, scalar=True)
        times = (self.log_time, self.final_log_time)
        scaled = tuple(jnp.log1p(float(factor) * jnp.expm1(time)) for time in times)
        return eqx.tree_at(lambda run: (run.log_time, run.final_log_time), self, scaled)

    def decay_exponent(self, name: str, from_log_time: float) -> Float[Array, "*batch"]:
        """Slope of log(observable) against log(log(1+t)) by least squares, from a time on.

        An observable that falls as (log t)^p gives p. Saves at `log_time >= from_log_time` count;
        fewer than two give NaN.

        Raises: ValueError for a name that was not recorded, or a time that is no number.

        Example: `traj.decay_exponent("ji_self_duality", 100 * math.log(10))`.
        """
        check_number("from_log_time", from_log_time, scalar=True, signed=True)
        return _slope(self.log_time, self.recorded(name), jnp.asarray(float(from_log_time)))


@jax.jit
def _slope(
    log_time: Float[Array, "*batch T"], values: Float[Array, "*batch T"], since: Float[Array, ""]
) -> Float[Array, "*batch"]:
    """Slope of log(values) against log(log_time) by least squares, from a time on."""
    # At t = 0 there is no logarithm of log(1 + t).
    used = ((log_time >= since) & (log_time > 0)).astype(log_time.dtype)
    x = jnp.log(jnp.where(used > 0, log_time, 1))
    y = jnp.log(jnp.where(used > 0, values, 1))
    deviation = used * (x - jnp.sum(x, axis=-1, keepdims=True) / jnp.sum(used, -1, keepdims=True))
    return jnp.sum(deviation * y, axis=-1) / jnp.sum(deviation**2, axis=-1)


def state_names(state: PyTree) -> list[str]:
    """Names of a state's arrays as variables of a data set: `state_features`, `state_classifier`.

    Example: `state_names(problem.init(key))`.
    """
    paths = [path for path, _ in tree_leaves_with_path(state)]
    return ["_".join(filter(None, ("state", keystr(p, simple=True, separator="_")))) for p in paths]


def recorded(trajectory: Trajectory) -> dict[str, Any]:
    """All that is recorded over time: observables, and states by their names if they are saved.

    Raises: ValueError for an observable with the name of a state's array.
    """
    names, leaves = state_names(trajectory.states), jax.tree.leaves(trajectory.states)
    states = dict(zip(names, leaves, strict=True))
    taken = sorted(states.keys() & trajectory.observables.keys())
    if taken:
        raise ValueError(f"observe: the name {taken[0]!r} is that of a saved state; give another.")
    return {**trajectory.observables, **states}


def drifts(
    start: dict[str, Invariant], now: dict[str, Invariant], log_time: Float[Array, ""]
) -> dict[str, Float[Array, ""]]:
    """`{name}_drift` of every invariant, relative to its scale at the start."""
    return {f"{name}_drift": drift(start[name], now[name], log_time) for name in now}


def is_nonfinite(state: PyTree) -> Bool[Array, ""]:
    """Whether any entry of the state is NaN or infinite."""
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state)]
    return ~jnp.all(jnp.stack(finite))


def mark_nonfinite(
    occurred: Bool[Array, ""],
    result: diffrax.RESULTS = diffrax.RESULTS.successful,  # pyright: ignore[reportArgumentType]
) -> diffrax.RESULTS:
    """`nonfinite` where that occurred, else the given result."""
    nonfinite = diffrax.RESULTS.nonfinite
    return diffrax.RESULTS.where(occurred, nonfinite, result)  # pyright: ignore[reportArgumentType]


def check_start(state: PyTree) -> np.dtype:
    """Refuse a start that mixes dtypes or is known to hold NaN; a traced NaN ends in `result`.

    Returns the dtype, which the whole run follows.
    """
    check_process()
    like_init = "pass a state, such as problem.init(key)"
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
        if not is_traced(leaf) and not np.all(np.isfinite(leaf)):
            raise ValueError(
                f"start: {keystr(path).lstrip('.')} has {np.sum(~np.isfinite(leaf))} of "
                f"{np.size(leaf)} entries NaN or infinite; {like_init}."
            )
    return dtypes.pop()


def check_observed(observed: object) -> dict[str, Float[Array, "..."]]:
    """What an observer returned; ValueError unless it is a dict of real arrays by name."""
    if not isinstance(observed, Mapping):
        raise ValueError(
            f"observe returns a {type(observed).__name__}: return a dict of arrays by name, such "
            "as {'norm': jnp.linalg.norm(state.classifier)}."
        )
    for name, value in observed.items():
        if not isinstance(name, str):
            raise ValueError(f"observe returns the key {name!r}: give each observable a text.")
        number = isinstance(value, (int, float, np.ndarray, np.generic, jax.Array))
        dtype = jnp.result_type(value) if number else None
        if dtype is None or dtype.kind in "cOSUV":
            kind = f"dtype {dtype}" if number else f"type {type(value).__name__}"
            raise ValueError(
                f"observe returns {name!r} of {kind}: return an array of real numbers."
            )
    return dict(observed)


def time_text(log_time: float) -> str:
    """The t of log(1 + t), in words of a message."""
    decades = log_time / math.log(10)
    return f"t = {math.expm1(log_time):.6g}" if decades < 6 else f"t = 10^{decades:.6g}"


def finish(
    trajectory: Trajectory, throw: bool, advice: str = "", timed: bool = False
) -> Trajectory:
    """Raise what ended a concrete run early, if `throw`; a traced run keeps it in `result`.

    Raised here, outside the compiled function, since Equinox's runtime errors inside it would take
    a whole batch down with one lane and bury the message under a traceback of the runtime.

    Args: `advice` for the message; `timed`, whether the message names the time of the end.
    """
    succeeded = trajectory.succeeded
    if not throw or is_traced(succeeded) or bool(np.all(succeeded)):
        return trajectory
    failed = np.flatnonzero(~np.asarray(succeeded))
    first = jax.tree.map(lambda leaf: np.asarray(np.ravel(leaf)[failed[0]]), trajectory.result)
    what = "run" if succeeded.ndim == 0 else f"{failed.size} of {succeeded.size} runs"
    end = float(np.ravel(trajectory.final_log_time)[failed[0]])
    where = f" at {time_text(end)}" if timed and np.isfinite(end) else ""
    dtype = trajectory.final_log_time.dtype
    message = diffrax.RESULTS[first]
    if bool(first == diffrax.RESULTS.dt_min_reached):
        advice = ""
        message = (
            f"There the step fell below the spacing of {dtype.name}, as where the solution grows "
            "beyond all bounds in finite time or the field jumps."
        )
    raise RuntimeError(
        f"{what} failed{where} after {np.max(trajectory.num_steps)} steps: {message} "
        f"{advice}Pass throw=False to get the part that was computed."
    )
