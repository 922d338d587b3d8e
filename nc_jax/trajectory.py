"""The result of a run: observables along time or steps, the final state, the outcome."""

import dataclasses
import html
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path
from jaxtyping import Array, Bool, Float, Int, PyTree

from .attributes import variable_attributes
from .checks import check_number, close_to, is_traced
from .display import Text, counted, outcomes, summary
from .notebook import Described, log_time_text, results_html, sizes_text, values_text


class Axis(NamedTuple):
    """The axis along which a run records: its names in a data set, and its values, (*batch, T).

    A flow has the dim `time` with the coordinate `log_time`, since t itself overflows; a descent
    has the dim and coordinate `step`.

    Example:

        >>> problem = nc.ulpm(3, 4, 2)
        >>> start = problem.init(jax.random.key(0))
        >>> traj = nc.gradient_descent(problem, start, optax.sgd(0.1), 3, observe=("margin_min",))
        >>> traj.axis.dim, traj.axis.values.tolist()
        ('step', [0, 1, 2, 3])
    """

    dim: str
    coordinate: str
    values: Float[Array | np.ndarray, "*batch T"] | Int[Array | np.ndarray, "*batch T"]

    def common_values(self) -> np.ndarray:
        """The (T,) values that all runs of a batch share, as a NumPy array.

        Raises: ValueError if the runs were saved at different times or steps.
        """
        # Nested vmaps give several batch axes: all of them in one.
        rows = np.asarray(self.values).reshape(-1, self.values.shape[-1])
        if np.any(rows != rows[0]):
            raise ValueError(
                f"{self.coordinate} differs between the runs of this batch: take one run at a "
                "time, jax.tree.map(lambda leaf: leaf[i], trajectory)."
            )
        return rows[0]


class Trajectory(eqx.Module):
    """A recorded run of a flow or of gradient descent.

    Attributes:
        log_time: (T,) log(1 + t) at the saves; of a descent log(1 + step).
        observables: dict of (T,) arrays, NaN after the end of a run that stopped early; (T, …) for
            an observable that is an array, such as the margins of all samples.
        final: state at the end of the run.
        final_log_time: log(1 + t) of `final`, less than that of the last save if the run stopped
            early.
        states: states at the saves, leaves with leading axis T, if they were requested.
        result: one of `diffrax.RESULTS`; `diffrax.RESULTS[traj.result]` is its message, empty for
            success. `nonfinite` marks a state that became NaN or infinite, `event_occurred` a run
            that the caller's event ended.
        num_steps: number of steps, rejected ones included.
        shared_steps: whether the run is one of a batch with common steps.
        steps: (T,) integers, the steps of a descent at the saves; None for a flow, whose axis is
            time.

    Under vmap every array gains leading axes, `log_time` and `steps` too.

    Example:

        >>> problem = nc.ulpm(3, 4, 2)
        >>> flow = nc.Flow(problem, nc.log_times(2, 3), observe=("margin_min",))
        >>> traj = flow(problem.init(jax.random.key(0)))
        >>> traj.observables["margin_min"].shape, bool(traj.succeeded), traj.steps is None
        ((3,), True, True)
    """

    log_time: Float[Array, "*batch T"]
    observables: dict[str, Float[Array, "..."]]
    final: PyTree
    final_log_time: Float[Array, "*batch"]
    states: PyTree | None
    result: diffrax.RESULTS
    num_steps: Int[Array, "*batch"]
    shared_steps: bool = eqx.field(static=True, default=False)
    steps: Int[Array, "*batch T"] | None = None

    def __repr__(self) -> str:
        shapes = {np.shape(value) for value in self.observables.values()}
        shape = f" of shape {shapes.pop()}" if len(shapes) == 1 else ""
        names = list(self.observables)
        more = f", and {len(names) - 5} more" if len(names) > 6 else ""
        listed = ", ".join(names[:5] if more else names)
        observables = Text(f"{len(names)}{shape}: {listed}{more}" if names else "none")
        return summary(self, result=self._outcome(), observables=observables)

    def _repr_html_(self) -> str:
        text = f"<pre>{html.escape(repr(self))}</pre>"
        counts = self._messages()
        if counts is None or is_traced(self.log_time):
            return text
        dim, coordinate, _ = self.axis
        num_axes = self.log_time.ndim - 1
        runs = ["run"] if num_axes == 1 else [f"run_{i}" for i in range(num_axes)]
        along = variables_of(self)
        ends = {"num_steps": self.num_steps, "final_log_time": self.final_log_time}
        sizes = dict(zip([*runs, dim], self.log_time.shape, strict=True))
        return results_html(
            f"{outcomes(counts)}; sizes: {sizes_text(sizes)}",
            {
                "Coordinates": [_described(coordinate, *self._saves(runs), dim)],
                "Variables": [_described(name, value, runs, dim) for name, value in along.items()],
                "Ends of the runs": [_described(name, value, runs) for name, value in ends.items()],
            },
            {"As text": text},
        )

    def _saves(self, runs: list[str]) -> tuple[np.ndarray, list[str]]:
        """The times or steps of the saves, and the names of their axes before the last."""
        try:
            return self.axis.common_values(), []
        except ValueError:  # they differ between the runs
            return np.asarray(self.axis.values), runs

    def _messages(self) -> dict[str, int] | None:
        """How many runs ended with each message of `diffrax.RESULTS`; None if it is traced."""
        # An item of `diffrax.RESULTS` is a tree with one leaf, the code.
        code = jax.tree.leaves(self.result)[0]
        if is_traced(code):
            return None
        values, counts = np.unique(np.asarray(code), return_counts=True)
        items = [jax.tree.map(lambda _, value=v: np.asarray(value), self.result) for v in values]
        return {_message(i): int(n) for i, n in zip(items, counts, strict=True)}

    def _outcome(self) -> str | None:
        """The outcome; of a batch, the number of runs with each outcome; None if it is traced."""
        messages = self._messages()
        if messages is None:
            return None
        names = [m or "succeeded" for m, count in messages.items() for _ in range(count)]
        return names[0] if self.log_time.ndim == 1 else counted(names)

    @property
    def succeeded(self) -> Bool[Array, "*batch"]:
        """Whether the run reached its last save time, or the caller's event."""
        ended = self.result == diffrax.RESULTS.event_occurred
        return ended | (self.result == diffrax.RESULTS.successful)

    def recorded(self, name: str) -> Float[Array | np.ndarray, "..."]:
        """The observable of this name, (*batch, T, …).

        Raises: ValueError, with the names that are recorded, for any other name.
        """
        if name not in self.observables:
            raise ValueError(
                f"{name!r} was not recorded.{close_to(name, self.observables)} This run has "
                f"{', '.join(self.observables) or 'no observables'}."
            )
        return self.observables[name]

    @property
    def axis(self) -> Axis:
        """The axis of the observables: time for a flow, steps for a descent."""
        if self.steps is None:
            return Axis("time", "log_time", self.log_time)
        return Axis("step", "step", self.steps)

    def common_log_time(self) -> Float[np.ndarray, " T"]:
        """The (T,) values of `log_time` that all runs of a batch share, as a NumPy array.

        Raises: ValueError if the runs were saved at different times.
        """
        return Axis("time", "log_time", self.log_time).common_values()

    def with_time_scaled(self, factor: float) -> "Trajectory":
        """The same run with its time t multiplied, as log(1 + factor·t).

        Use it for a descent on the time axis of the flow: k steps at rate η on a mean loss are time
        ηk/N of the summed loss. The result has no `steps`. Each t must be below the largest number
        of the dtype, since it is computed from log(1 + t).

        Raises: ValueError for a factor that is no finite number above 0.

        Example:

            >>> problem = nc.ulpm(3, 4, 2, reduction="mean")
            >>> start, rate = problem.init(jax.random.key(0)), 0.6
            >>> traj = nc.gradient_descent(problem, start, optax.sgd(rate), 10, observe=("cdnv",))
            >>> scaled = traj.with_time_scaled(rate / problem.num_samples)
            >>> round(float(jnp.expm1(scaled.final_log_time)), 6)  # 10 steps, 6 samples
            1.0
        """
        check_number("factor", factor, above_zero=True, scalar=True)
        times = (self.log_time, self.final_log_time)
        scaled = tuple(jnp.log1p(float(factor) * jnp.expm1(time)) for time in times)
        return dataclasses.replace(self, log_time=scaled[0], final_log_time=scaled[1], steps=None)

    def decay_exponent(self, name: str, from_log_time: float) -> Float[Array, "*batch"]:
        """Slope of log(observable) against log(log(1+t)) by least squares, after a given time.

        An observable that falls as (log t)^p gives p. Saves with `log_time >= from_log_time` are
        used; fewer than two give NaN.

        Raises: ValueError for a name that was not recorded, or a time that is no number.

        Example:

            >>> problem = nc.ulpm(3, 4, 2)
            >>> flow = nc.Flow(problem, nc.log_times(200, 21), observe=("ji_self_duality",))
            >>> traj = flow(problem.init(jax.random.key(0)))
            >>> exponent = traj.decay_exponent("ji_self_duality", 50 * np.log(10))
            >>> round(float(exponent), 1)  # falls as 1/log t
            -1.0
        """
        check_number("from_log_time", from_log_time, scalar=True, signed=True)
        return _slope(self.log_time, self.recorded(name), jnp.asarray(float(from_log_time)))


@jax.jit
def _slope(
    log_time: Float[Array, "*batch T"], values: Float[Array, "*batch T"], since: Float[Array, ""]
) -> Float[Array, "*batch"]:
    """Slope of log(values) against log(log_time) by least squares, from `since` on."""
    # Weight 0 for saves before that time, and for t = 0, where log(log(1 + t)) is -inf. Leaving
    # them out instead would give arrays whose shape depends on values, which JAX cannot compile.
    used = ((log_time >= since) & (log_time > 0)).astype(log_time.dtype)
    # 1 has logarithm 0: weight 0 times -inf or NaN would be NaN.
    x = jnp.log(jnp.where(used > 0, log_time, 1))
    y = jnp.log(jnp.where(used > 0, values, 1))
    # The mean of y is not subtracted, since the deviations of x sum to zero. With fewer than two
    # saves the slope is 0/0, NaN.
    deviation = used * (x - jnp.sum(x, axis=-1, keepdims=True) / jnp.sum(used, -1, keepdims=True))
    return jnp.sum(deviation * y, axis=-1) / jnp.sum(deviation**2, axis=-1)


def _described(
    name: str, values: Array | np.ndarray, runs: list[str], dim: str | None = None
) -> Described:
    """The row of an array in a notebook."""
    numbers, along = np.asarray(values), [*runs, dim] if dim else runs
    dims = [*along, *(f"{name}_dim_{i}" for i in range(numbers.ndim - len(along)))]
    in_words = log_time_text if name == "log_time" else values_text
    attributes = variable_attributes(name)
    return Described(
        name, attributes["long_name"], attributes["units"], ", ".join(filter(None, dims)),
        in_words(numbers, axis=len(runs) if dim else None),
    )  # fmt: skip


def _message(result: diffrax.RESULTS) -> str:
    """The message of a result; of a run with too many steps, where its cause is named too."""
    message = diffrax.RESULTS[result]
    if bool(result == diffrax.RESULTS.max_steps_reached):
        # A trajectory knows neither problem nor clock. The error of the run names the cause.
        message += " The error of the run, without throw=False, names the probable cause."
    return message


def state_names(state: PyTree) -> list[str]:
    """Names of a state's arrays as variables of a data set, such as `state_features`."""
    # A state that is one array has an empty path, and the name `state`.
    paths = [path for path, _ in tree_leaves_with_path(state)]
    return ["_".join(filter(None, ("state", keystr(p, simple=True, separator="_")))) for p in paths]


def variables_of(trajectory: Trajectory) -> dict[str, Any]:
    """Variables of a data set along the axis of a run: observables, and the arrays of saved states.

    Raises: ValueError for an observable with the name of a state's array.
    """
    names, leaves = state_names(trajectory.states), jax.tree.leaves(trajectory.states)
    states = dict(zip(names, leaves, strict=True))
    taken = sorted(states.keys() & trajectory.observables.keys())
    if taken:
        raise ValueError(f"observe: the name {taken[0]!r} is that of a saved state; give another.")
    return {**trajectory.observables, **states}
