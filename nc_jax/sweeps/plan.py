"""The plan of a sweep: its runs, and the batches in which they are computed."""

import dataclasses
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from jaxtyping import Array, Int, Integer, Key, PyTree

from ..checks import check_integer, shown
from ..configuration import described
from ..dynamics import Flow
from ..trajectory import Trajectory, variables_of
from .cells import Cell, RunFunction, outputs_of

Grid = Mapping[str, Sequence | np.ndarray | Array]

# Number of runs of a batch if no `batch_size` is given. Such a batch is seconds of work, and a file
# of a useful size.
_BATCH_RUNS = 1024
# Bytes of the states that are stepped together on a CPU. The working set of a Runge-Kutta step is
# ten times as large, and must fit in the cache of a core. docs/sweeps.md has the measurements.
_CPU_STATE_BYTES = 150_000
# Largest numbers of runs that are stepped together, for small states.
_MOST_LANES_CPU, _MOST_LANES_ACCELERATOR = 128, 1024

# Names of dims, coordinates and variables of the data set of a sweep, which a setting or an
# observable cannot have.
_RESERVED = (
    "seed", "time", "log_time", "step", "num_steps", "final_log_time", "shared_steps", "result",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that decides what a sweep computes.

    Attributes:
        run: the user's function, or a flow.
        key: run i takes `fold_in(key, i)`.
        seeds: numbers i of the runs of every cell.
        grid: values of every setting.
        cells: one for every combination of values, in the order of `grid`.
        batch_size: number of runs that are computed and written at a time.
        lanes: number of runs that are stepped together, the same for any number of devices.
        mesh: devices that share a batch; None for the cores of a single device.
        example: one run as shapes and dtypes, without values.
        common_steps: whether `run` returns flows. Then a block of lanes is one `Flow.batch`.
    """

    run: RunFunction
    key: Key[Array, ""]
    seeds: Int[np.ndarray, " S"]
    grid: dict[str, list]
    cells: tuple[Cell, ...]
    batch_size: int
    lanes: int
    mesh: Mesh | None
    example: Trajectory
    common_steps: bool

    @property
    def axes(self) -> tuple[str, ...]:
        """Axes of the runs in the data set, which come before time or steps."""
        return (*self.grid, "seed")

    def batches(self) -> Iterator[tuple[Cell, Int[np.ndarray, " n"]]]:
        """Cell of every batch, and the indices of its runs in `seeds`."""
        for cell in self.cells:
            for first in range(0, self.seeds.size, self.batch_size):
                yield cell, np.arange(first, min(first + self.batch_size, self.seeds.size))

    def variables(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of every variable of one run, by name."""
        return jax.eval_shape(outputs_of, self.example).variables


def make_plan(
    run: RunFunction,
    num_seeds: int | None,
    *,
    seeds: Sequence[int] | Integer[np.ndarray, " S"] | None,
    grid: Grid,
    key: Key[Array, ""],
    batch_size: int | None,
    mesh: Mesh | None,
) -> Plan:
    """Check the arguments of a sweep, and plan it.

    Raises: ValueError for arguments that do not define a sweep, or a setting that `run` refuses.
    """
    numbers, settings = _seed_numbers(num_seeds, seeds), _settings(grid)
    if batch_size is not None:
        # A batch is padded to its full size: more runs than there are would be computed in vain.
        batch_size = min(check_integer("batch_size", batch_size), numbers.size)
    if mesh is not None and not isinstance(mesh, Mesh):
        raise ValueError(f"mesh = {mesh}: give a jax.sharding.Mesh, or None for all devices.")
    cells = tuple(_cells(run, key, settings))
    # All cells must have the variables of the first; `sweep` checks them as they are computed.
    example, is_flow = _example(cells[0], numbers[0])
    _check_names(example, settings)
    for cell in cells:
        cell.check(numbers[0])
    if mesh is None and jax.device_count() > 1:
        mesh = Mesh(np.array(jax.devices()), ("seeds",), axis_types=(AxisType.Auto,))
    devices = 1 if mesh is None else mesh.size
    # Independent of the number of devices, which thus does not decide which runs share steps.
    lanes = _num_lanes(example.final, batch_size or numbers.size)
    if batch_size is None:
        # Batches of equal size, since a smaller last batch would be padded to the size of the
        # others; of whole blocks where there are enough runs.
        num_batches = -(-numbers.size // max(_BATCH_RUNS, lanes * devices))
        batch_size = min(-(-numbers.size // (num_batches * lanes)) * lanes, numbers.size)
    return Plan(run, key, numbers, settings, cells, batch_size, lanes, mesh, example, is_flow)


def are_numbers(values: Sequence) -> bool:
    """Whether all values are numbers, as opposed to texts and other labels."""
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def _cells(run: RunFunction, key: Key[Array, ""], grid: Mapping[str, list]) -> Iterator[Cell]:
    """A cell for every combination of the values of a grid."""
    # Without settings `ndindex` yields one empty place, which is one cell.
    for place in np.ndindex(*map(len, grid.values())):
        chosen = zip(grid.items(), place, strict=True)
        yield Cell(run, key, place, {name: values[at] for (name, values), at in chosen})


def _seed_numbers(
    num_seeds: int | None, seeds: Sequence[int] | Integer[np.ndarray, " S"] | None
) -> Int[np.ndarray, " S"]:
    """The numbers of the runs, from the one of two arguments that is given."""
    if (num_seeds is None) == (seeds is None):
        raise ValueError(
            f"num_seeds = {num_seeds}, seeds = {seeds}: give one of them, such as num_seeds=100."
        )
    if num_seeds is not None:
        return np.arange(check_integer("num_seeds", num_seeds))
    numbers = np.asarray(seeds)
    if numbers.ndim != 1 or numbers.size == 0 or numbers.dtype.kind not in "iu":
        raise ValueError(f"seeds = {seeds}: give a list of integers, such as [0, 1, 2].")
    # `fold_in` takes an integer of 32 bits.
    if numbers.min() < 0 or numbers.max() >= 1 << 32 or np.unique(numbers).size < numbers.size:
        raise ValueError(f"seeds = {seeds}: give different integers from 0 to 2^32 - 1.")
    return numbers.astype(np.int64)


def _settings(grid: Grid) -> dict[str, list]:
    """Values of each setting as Python values; if one number is a float, all become floats."""
    if not isinstance(grid, Mapping):
        raise ValueError(
            f"grid = {shown(grid)}: give a dict of lists by the names of settings, such as "
            "{'decay': [1e-3, 1e-2]}."
        )
    settings = {}
    for name, values in grid.items():
        if name in (*_RESERVED, "key"):
            raise ValueError(
                f"grid[{name!r}]: the sweep itself uses the name {name}; rename the setting."
            )
        if isinstance(values, (str, set)) or not hasattr(values, "__iter__"):
            raise ValueError(f"grid[{name!r}] = {values!r}: give a list of values.")
        items = values.tolist() if isinstance(values, (np.ndarray, jax.Array)) else values
        listed: list[Any] = [_as_python_number(value) for value in items]
        if are_numbers(listed) and any(isinstance(value, float) for value in listed):
            listed = [float(value) for value in listed]
        # A label that is NaN is not equal to itself, and could not be found again in a store.
        if any(isinstance(value, float) and math.isnan(value) for value in listed):
            raise ValueError(f"grid[{name!r}] = {listed}: give numbers in the place of NaN.")
        # By their texts, which are the labels of values that are not numbers.
        if not listed or len(set(map(described, listed))) < len(listed):
            raise ValueError(
                f"grid[{name!r}] = {listed}: give one or more different values; give names "
                "in the place of values that read the same, such as functions."
            )
        settings[name] = listed
    return settings


def _as_python_number(value: object) -> object:
    """A scalar of NumPy or JAX as a Python number; any other value as it is."""
    is_array = isinstance(value, (np.generic, np.ndarray, jax.Array))
    return value.item() if is_array and value.ndim == 0 else value


def _check_names(example: Trajectory, settings: Mapping[str, list]) -> None:
    """Refuse observables whose names a data set or a store cannot have."""
    # A slash in a name would be a group of the store.
    for name in variables_of(example):
        if name in (*_RESERVED, *settings) or "/" in name:
            raise ValueError(
                f"observe: the name {name!r} is taken by the sweep, or no name of a variable; "
                "give another."
            )


def _example(cell: Cell, seed: np.integer) -> tuple[Trajectory, bool]:
    """One run as shapes and dtypes, and whether `run` returns a flow and not a trajectory."""
    _check_signature(cell)
    try:
        prepared = eqx.filter_eval_shape(cell.prepare, seed, cell.floats)
        # Here the floats are traced, as they are in the compiled program.
        example = jax.eval_shape(cell.trajectory, seed, cell.floats)
    except TypeError as error:  # errors of JAX about traced values are TypeErrors
        if not cell.floats:
            raise
        raise ValueError(
            f"grid: floats are traced, and run fails with traced {sorted(cell.floats)} "
            f"({str(error).splitlines()[0]}); where run needs plain numbers give integers, or "
            "texts and convert them in run."
        ) from error
    if example.log_time.ndim != 1:
        raise ValueError(
            f"run returns a Trajectory of batch shape {example.log_time.shape[:-1]}: return one "
            "run."
        )
    return example, not isinstance(prepared, Trajectory)


def _check_signature(cell: Cell) -> None:
    """Refuse a function whose parameters are not a key and the names of the grid."""
    run, setting = cell.run, cell.setting
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
        inspect.signature(run).bind(cell.key, **setting)
    except TypeError as error:
        raise ValueError(
            f"run: {error} when called with a key and {sorted(setting) or 'no setting'}; give "
            "run(key, **setting) that takes the names of the grid and no others."
        ) from None


def _num_lanes(state: PyTree[jax.ShapeDtypeStruct], num_runs: int) -> int:
    """Number of runs that are stepped together: a power of two, for any number of devices the same.

    Args: `state` has the shapes and dtypes of one run's state.
    """
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    device = jax.devices()[0]
    if device.platform == "cpu":
        most = min(_CPU_STATE_BYTES // size, _MOST_LANES_CPU)
    else:
        # A step holds about forty states with its observables; half of the memory stays free.
        memory = (device.memory_stats() or {}).get("bytes_limit", 1 << 34)
        most = min(memory // (2 * 40 * size), _MOST_LANES_ACCELERATOR)
    # The largest power of two that is not above the limits.
    return 1 << (max(min(most, num_runs), 1).bit_length() - 1)
