"""What a sweep runs, and in what portions."""

import dataclasses
import inspect
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh
from jaxtyping import Array, Int, Integer, Key, PyTree

from ..checks import shown
from ..configuration import described
from ..dynamics import Flow
from ..trajectory import Trajectory, recorded

# A run: a trajectory, or a flow with a start, or with a start and the data of its observer.
Outcome = Trajectory | Flow | tuple[Flow, PyTree] | tuple[Flow, PyTree, PyTree]
Run = Flow | Callable[..., Outcome]
Prepared = Trajectory | tuple[Flow, PyTree, PyTree]
Setting = dict[str, object]
Grid = Mapping[str, Sequence | np.ndarray | Array]
Floats = Mapping[str, float | Array]
T = TypeVar("T")

# Runs of a batch unless asked for otherwise: seconds of work, files of a useful size.
_BATCH_RUNS = 1024
# Bytes of states that are stepped together on a CPU: ten times that is the working set of a
# Runge-Kutta step, which a core's own cache must hold. docs/sweeps.md has the measurements.
_CPU_STATE_BYTES = 150_000
_MOST_LANES_CPU, _MOST_LANES_ACCELERATOR = 128, 1024

# What a run leaves besides its observables. The last three are no variables of a data set: the
# first of them is its coordinate.
_OWN = ("num_steps", "final_log_time", "shared_steps", "result", "log_time", "succeeded")
_NOT_KEPT = ("log_time", "succeeded")


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that decides what a sweep computes.

    `lanes` runs are stepped beside each other, whatever the devices, and `batch_size` of them are
    computed and written at a time. `mesh` is None for the cores of a single device. `example` is
    one run without its numbers. With `common_steps` runs are flows, and a block is `Flow.batch`.
    """

    run: Run
    key: Key[Array, ""]
    seeds: Int[np.ndarray, " S"]
    grid: dict[str, list]
    batch_size: int
    lanes: int
    mesh: Mesh | None
    example: Trajectory
    common_steps: bool

    @property
    def dims(self) -> tuple[str, ...]:
        """Dims of the data set, but time."""
        return (*self.grid, "seed")

    @property
    def shape(self) -> tuple[int, ...]:
        """Runs along these dims."""
        return (*map(len, self.grid.values()), self.seeds.size)

    def batches(self) -> Iterator[tuple[Setting, tuple[slice, ...]]]:
        """Setting and region of every batch."""
        for place, setting in _places(self.grid):
            for first in range(0, self.seeds.size, self.batch_size):
                seeds = slice(first, min(first + self.batch_size, self.seeds.size))
                yield setting, (*(slice(at, at + 1) for at in place), seeds)

    def variables(self) -> dict[str, jax.ShapeDtypeStruct]:
        """What is kept of one run, by name, `result` last."""
        return kept_of(jax.eval_shape(outputs_of, self.example))


def make_plan(
    run: Run,
    num_seeds: int | None,
    seeds: Sequence[int] | Integer[np.ndarray, " S"] | None,
    grid: Grid,
    key: Key[Array, ""],
    batch_size: int | None,
    mesh: Mesh | None,
) -> Plan:
    """The plan, once its parts are known to fit."""
    numbers, settings = _numbers(num_seeds, seeds), _settings(grid)
    if batch_size is not None:
        # More runs than there are would be made for nothing.
        batch_size = min(_count("batch_size", batch_size), numbers.size)
    if mesh is not None and not isinstance(mesh, Mesh):
        raise ValueError(f"mesh = {mesh}: give a jax.sharding.Mesh, or None for all devices.")
    first = {name: values[0] for name, values in settings.items()}
    example, is_flow = _example(run, key, first, numbers[0])
    _check_names(example, settings)
    _check_values(run, key, settings, numbers[0])
    if mesh is None and jax.device_count() > 1:
        mesh = Mesh(np.array(jax.devices()), ("seeds",), axis_types=(AxisType.Auto,))
    devices = 1 if mesh is None else mesh.size
    lanes = _lanes(example.final, batch_size or numbers.size)
    if batch_size is None:
        # Portions of equal size: the last would be filled up with runs that nobody asked for.
        portions = -(-numbers.size // max(_BATCH_RUNS, lanes * devices))
        batch_size = min(-(-numbers.size // (portions * lanes)) * lanes, numbers.size)
    return Plan(run, key, numbers, settings, batch_size, lanes, mesh, example, is_flow)


def _places(grid: dict[str, list]) -> Iterator[tuple[tuple[int, ...], Setting]]:
    """Each setting of a grid with its place along the axes."""
    for place in np.ndindex(*map(len, grid.values())):
        values = zip(grid.items(), place, strict=True)
        yield place, {name: among[at] for (name, among), at in values}


def prepared(run: Run, key: Key[Array, ""], setting: Setting) -> Callable[..., Prepared]:
    """(seed, floats of the setting) -> its run, or the flow that is to be run, start and data."""
    traced = floats_of(setting)
    compiled = {name: value for name, value in setting.items() if name not in traced}

    def prepare(seed: Int[Array, ""], floats: Floats) -> Prepared:
        own_key = jax.random.fold_in(key, seed)
        outcome = run if isinstance(run, Flow) else run(own_key, **compiled, **floats)
        if isinstance(outcome, Flow):
            return outcome, outcome.problem.init(own_key), None
        match outcome:
            case Trajectory():
                return outcome
            case (Flow() as flow, start):
                return flow, start, None
            case (Flow() as flow, start, data):
                return flow, start, data
        raise ValueError(
            f"run returns {type(outcome).__name__}: return one Trajectory, as gradient_flow does, "
            "a Flow, or a Flow with a start, (flow, start)."
        )

    return prepare


def one_run(run: Run, key: Key[Array, ""], setting: Setting) -> Callable[..., Trajectory]:
    """(seed, floats of the setting) -> its run, with the steps that it takes alone."""
    prepare = prepared(run, key, setting)

    def one(seed: Int[Array, ""], floats: Floats) -> Trajectory:
        outcome = prepare(seed, floats)
        if isinstance(outcome, tuple):
            flow, start, data = outcome
            return flow(start, data, throw=False)
        return outcome

    return one


def block_of_runs(plan: Plan, setting: Setting) -> Callable[..., dict[str, Array]]:
    """(seeds (S,), floats of the setting) -> what their runs leave, arrays with leading axis S."""
    if not plan.common_steps:
        one = one_run(plan.run, plan.key, setting)
        return jax.vmap(lambda seed, floats: outputs_of(one(seed, floats)), (0, None))
    # The flow must be the same for all seeds: where it depends on one, `None` is refused.
    axes = (None, eqx.if_array(0), eqx.if_array(0))
    prepare = eqx.filter_vmap(
        prepared(plan.run, plan.key, setting), in_axes=(0, None), out_axes=axes
    )

    def block(seeds: Int[Array, " S"], floats: Floats) -> dict[str, Array]:
        try:
            flow, starts, data = prepare(seeds, floats)
        except ValueError as error:
            if "out_axes" not in str(error):
                raise
            raise ValueError(
                "run: the flow depends on the key; let the start and the data alone depend on it, "
                "or return the trajectory, flow(start), which takes its steps alone."
            ) from error
        return jax.vmap(outputs_of)(flow.batch(starts, data, throw=False))

    return block


def floats_of(setting: Setting) -> Floats:
    """The floats of a setting, which a compiled program takes as arguments; all else is in it."""
    return {name: value for name, value in setting.items() if isinstance(value, float)}


def program_name(setting: Setting) -> str:
    """The same for all settings that differ in floats alone."""
    return described({**setting, **dict.fromkeys(floats_of(setting), float)})


def outputs_of(trajectory: Trajectory) -> dict[str, Array]:
    """What a run leaves."""
    [result] = jax.tree.leaves(trajectory.result)
    own = (
        trajectory.num_steps,
        trajectory.final_log_time,
        jnp.asarray(trajectory.shared_steps),
        result,
        trajectory.log_time,
        trajectory.succeeded,
    )
    return {**recorded(trajectory), **dict(zip(_OWN, own, strict=True))}


def kept_of(outputs: Mapping[str, T]) -> dict[str, T]:
    """The outputs that are variables of the data set."""
    return {name: values for name, values in outputs.items() if name not in _NOT_KEPT}


def _numbers(
    num_seeds: int | None, seeds: Sequence[int] | Integer[np.ndarray, " S"] | None
) -> Int[np.ndarray, " S"]:
    """Numbers of the runs."""
    if (num_seeds is None) == (seeds is None):
        raise ValueError(
            f"num_seeds = {num_seeds}, seeds = {seeds}: give one of them, such as num_seeds=100."
        )
    if num_seeds is not None:
        return np.arange(_count("num_seeds", num_seeds))
    numbers = np.asarray(seeds)
    if numbers.ndim != 1 or numbers.size == 0 or numbers.dtype.kind not in "iu":
        raise ValueError(f"seeds = {seeds}: give a list of integers, such as [0, 1, 2].")
    if numbers.min() < 0 or numbers.max() >= 1 << 32 or np.unique(numbers).size < numbers.size:
        raise ValueError(f"seeds = {seeds}: give different integers from 0 to 2^32 - 1.")
    return numbers.astype(np.int64)


def _count(name: str, value: object) -> int:
    """An integer >= 1."""
    try:
        count = operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        count = 0
    if count < 1:
        hint = ", or their numbers as seeds=" if name == "num_seeds" else ", or None"
        raise ValueError(f"{name} = {value}: give an integer >= 1{hint}.")
    return count


def _plain(value: object) -> object:
    """A number of NumPy or JAX as a number of Python."""
    is_array = isinstance(value, (np.generic, np.ndarray, jax.Array))
    return value.item() if is_array and value.ndim == 0 else value


def are_numbers(values: Sequence) -> bool:
    """Whether all are numbers, as opposed to labels."""
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def _settings(grid: Grid) -> dict[str, list]:
    """Values of each setting; numbers of which one is a float are floats all."""
    if not isinstance(grid, Mapping):
        raise ValueError(
            f"grid = {shown(grid)}: give a dict of lists by the names of settings, such as "
            "{'decay': [1e-3, 1e-2]}."
        )
    settings = {}
    for name, values in grid.items():
        if name in ("seed", "time", "key", *_OWN):
            raise ValueError(f"grid[{name!r}]: a sweep has its own {name}; rename the setting.")
        if isinstance(values, (str, set)) or not hasattr(values, "__iter__"):
            raise ValueError(f"grid[{name!r}] = {values!r}: give a list of values.")
        several = values.tolist() if isinstance(values, (np.ndarray, jax.Array)) else values
        listed: list[Any] = [_plain(value) for value in several]
        if are_numbers(listed) and any(isinstance(value, float) for value in listed):
            listed = [float(value) for value in listed]
        if any(isinstance(value, float) and math.isnan(value) for value in listed):
            raise ValueError(f"grid[{name!r}] = {listed}: give numbers in the place of NaN.")
        if not listed or len(set(map(described, listed))) < len(listed):
            raise ValueError(
                f"grid[{name!r}] = {listed}: give one or more different values; of those that read "
                "the same, as functions do, give names."
            )
        settings[name] = listed
    return settings


def _check_names(example: Trajectory, settings: dict[str, list]) -> None:
    """Refuse observables whose names a data set or a store cannot hold."""
    for name in recorded(example):
        if name in ("seed", "time", *_OWN, *settings) or "/" in name:
            raise ValueError(
                f"observe: the name {name!r} is taken by the sweep, or no name of a variable; "
                "give another."
            )


def _check_values(run: Run, key: Key[Array, ""], grid: dict[str, list], seed: np.int64) -> None:
    """Refuse settings that `run` refuses, before one of them is computed.

    A program has the floats of the grid as arguments, and a check of a traced value passes. So
    `run` is traced once for each setting with the floats as they are: no number is computed, which
    takes milliseconds.
    """
    for _, setting in _places(grid):
        prepare = prepared(run, key, setting)

        def check(seed: Int[Array, ""], floats: Floats, prepare: Callable = prepare) -> None:
            outcome = prepare(seed, floats)
            if isinstance(outcome, tuple):
                flow, start, data = outcome
                flow.check(start, data)

        try:
            eqx.filter_eval_shape(check, seed, floats_of(setting))
        except ValueError as error:
            raise ValueError(f"grid: run refuses {setting}: {error}") from error


def _example(
    run: Run, key: Key[Array, ""], setting: Setting, seed: np.int64
) -> tuple[Trajectory, bool]:
    """One run without its numbers, and whether it is a flow with a start."""
    _check_signature(run, key, setting)
    try:
        outcome = eqx.filter_eval_shape(prepared(run, key, setting), seed, floats_of(setting))
        # With traced floats, as in a program.
        example = jax.eval_shape(one_run(run, key, setting), seed, floats_of(setting))
    except TypeError as error:  # as all of JAX's errors about tracers
        if not floats_of(setting):
            raise
        raise ValueError(
            f"grid: floats are traced, and run fails with {sorted(floats_of(setting))} so "
            f"({str(error).splitlines()[0]}); where it needs plain numbers give integers, or texts "
            "and convert them in run."
        ) from error
    if example.log_time.ndim != 1:
        raise ValueError(
            f"run returns a Trajectory of batch shape {example.log_time.shape[:-1]}: return one "
            "run."
        )
    return example, isinstance(outcome, tuple)


def _check_signature(run: Run, key: Key[Array, ""], setting: Setting) -> None:
    """Refuse a function that does not take a key and the names of the grid."""
    if isinstance(run, Flow):
        if setting:
            raise ValueError(
                f"grid: a Flow takes no settings, and the grid has {sorted(setting)}; give a "
                "function run(key, **setting) that returns a Flow."
            )
        return
    if not callable(run):
        raise ValueError(f"run = {shown(run)}: give a function run(key, **setting), or a Flow.")
    try:
        inspect.signature(run).bind(key, **setting)
    except TypeError as error:
        raise ValueError(
            f"run: {error} when called with a key and {sorted(setting) or 'no setting'}; give "
            "run(key, **setting) that takes the names of the grid and no others."
        ) from None


def _lanes(state: PyTree[jax.ShapeDtypeStruct], runs: int) -> int:
    """Runs to be stepped beside each other: a power of two, the same for any number of devices."""
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    device = jax.devices()[0]
    if device.platform == "cpu":
        most = min(_CPU_STATE_BYTES // size, _MOST_LANES_CPU)
    else:
        # A step holds about forty states with its observables; half of the memory is left alone.
        memory = (device.memory_stats() or {}).get("bytes_limit", 1 << 34)
        most = min(memory // (2 * 40 * size), _MOST_LANES_ACCELERATOR)
    return 1 << (max(min(most, runs), 1).bit_length() - 1)
