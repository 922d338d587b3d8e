"""Access of figures to data sets of runs: their recorded axis and their variables."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from ..checks import close_to, shown
from ..datasets import to_dataset
from ..trajectory import Trajectory

# A name, or one for the colour and one for the line style.
Name = str | tuple[str, str]
# Types that a figure of several runs accepts: one run without a name, or runs by name.
Runs = (
    xr.Dataset
    | Trajectory
    | Mapping[str, xr.Dataset | Trajectory]
    | Mapping[tuple[str, str], xr.Dataset | Trajectory]
)
# Labels of the recorded axis in figures, by its dimension.
AXIS_LABELS = {"time": "time t", "step": "step", "epoch": "epoch"}


class RecordedAxis(NamedTuple):
    """The axis along which runs were recorded.

    Attributes:
        dim: "time" of flows, "step" of descents, "epoch" of trainings.
        values: (T,) t, infinite beyond the range of floats, or the numbers of steps or epochs.
        log_values: (T,) log(1 + value), finite everywhere.

    Example:
        >>> nc.plotting.RecordedAxis("step", np.array([0.0, 9.0]), np.log([1.0, 10.0])).dim
        'step'
    """

    dim: str
    values: Float[np.ndarray, " T"]
    log_values: Float[np.ndarray, " T"]


def as_dataset(run: object, *, argument: str = "run") -> xr.Dataset:
    """The data set of one run; a `Trajectory` is converted by `nc_jax.storage.to_dataset`.

    Saves that are not in the order of time, step or epoch are sorted.

    Args: `argument` is the name of the parameter, for the message.

    Raises: ValueError for what is neither, or a data set without dimension time, step or epoch.

    Example:
        >>> problem = nc.ulpm(3, 4, 2)
        >>> flow = nc.gradient_flow(problem, problem.init(jax.random.key(0)), np.array([0.0, 1.0]))
        >>> dict(nc.plotting.as_dataset(flow).sizes)
        {'time': 2}
    """
    if isinstance(run, Trajectory):
        return to_dataset(run)
    if not isinstance(run, xr.Dataset):
        raise ValueError(
            f"{argument} = {shown(run)}: give an xarray.Dataset (of a training its `data`, of a "
            "store storage.load(path)) or a Trajectory."
        )
    axis = recorded_axis(run)
    if axis.values.size == 0:
        raise ValueError(
            f"{argument}: has no saves along {axis.dim}; give a data set with one or more."
        )
    if np.any(np.diff(axis.log_values) < 0):
        return run.isel({axis.dim: np.argsort(axis.log_values, kind="stable")})
    return run


def as_datasets(runs: Runs) -> dict[Name, xr.Dataset]:
    """The data sets of several runs by name; one run given alone is named "run".

    Raises: ValueError for what is no data set, trajectory or mapping of these, and for runs that
    were recorded along different axes.

    Example:
        >>> import xarray as xr
        >>> data = xr.Dataset({"loss": ("epoch", [1.0, 0.5])}, {"epoch": [0, 1]})
        >>> list(as_datasets({"SGD": data}))
        ['SGD']
    """
    # This check comes before the one for mappings, since a data set is a mapping too.
    if isinstance(runs, (xr.Dataset, Trajectory)):
        return {"run": as_dataset(runs)}
    if not isinstance(runs, Mapping) or not runs:
        raise ValueError(
            f"runs = {shown(runs)}: give an xarray.Dataset (of a training its `data`, of a store "
            "storage.load(path)) or a Trajectory, or several by name, {'flow': dataset}."
        )
    named = {name: as_dataset(run, argument=f"runs[{name!r}]") for name, run in runs.items()}
    dims = {name: recorded_axis(data).dim for name, data in named.items()}
    if len(set(dims.values())) > 1:
        listed = ", ".join(f"{name!r} over {dim}" for name, dim in dims.items())
        raise ValueError(
            f"runs = {{{listed}}}: give runs over one axis; with_time_scaled(rate) puts a descent "
            "on the time of a flow."
        )
    return named


def text_of(name: Name) -> str:
    """A name of one or two parts as one text.

    Example:
        >>> text_of(("start 1", "decay 0"))
        'start 1, decay 0'
    """
    return name if isinstance(name, str) else ", ".join(name)


def recorded_axis(data: xr.Dataset) -> RecordedAxis:
    """The axis along which a data set was recorded.

    Raises: ValueError where there is no dimension time, step or epoch, or time without the
    coordinate log_time = log(1 + t).

    Example:
        >>> import xarray as xr
        >>> data = xr.Dataset({"loss": ("epoch", [1.0, 0.5])}, {"epoch": [0, 1]})
        >>> nc.plotting.recorded_axis(data).values
        array([0., 1.])
    """
    for dim in AXIS_LABELS:
        if dim in data.dims:
            break
    else:
        dims = ", ".join(map(str, data.dims)) or "none"
        raise ValueError(
            f"data set with dimensions {dims}: give one with time, step or epoch, such as "
            "storage.to_dataset(trajectory)."
        )
    coordinate = "log_time" if dim == "time" else dim
    if coordinate not in data.coords:
        raise ValueError(
            f"data set over {dim} without coordinate {coordinate}: assign it, as "
            "storage.to_dataset(trajectory) does."
        )
    recorded = np.asarray(data[coordinate].values, dtype=float)
    if dim != "time":
        return RecordedAxis(dim, recorded, np.log1p(recorded))
    with np.errstate(over="ignore"):  # t = 10^1000 is infinite as a float
        return RecordedAxis(dim, np.expm1(recorded), recorded)


def variable(data: xr.Dataset, name: str) -> xr.DataArray:
    """A variable of a data set; ValueError that lists the variables for any other name."""
    if name not in data.data_vars:
        names = [str(known) for known in data.data_vars]
        raise ValueError(
            f"{name!r} is no variable of the data set.{close_to(name, names)} It has "
            f"{', '.join(names) or 'none'}."
        )
    return data[name]


def curves(data: xr.Dataset, name: str) -> Float[np.ndarray, "runs T"]:
    """A variable along the recorded axis, one row for each run, whatever the axes of the runs.

    Raises: ValueError for a name that is no variable, or one that was not recorded over the axis.

    Example:
        >>> import xarray as xr
        >>> values = [[1.0, 0.5], [2.0, 1.0]]
        >>> data = xr.Dataset({"loss": (("seed", "epoch"), values)}, {"epoch": [0, 1]})
        >>> nc.plotting.curves(data, "loss").shape
        (2, 2)
    """
    dim, values = recorded_axis(data).dim, variable(data, name)
    if dim not in values.dims:
        raise ValueError(
            f"{name!r} has dimensions {', '.join(map(str, values.dims)) or 'none'}: give a "
            f"variable over {dim}."
        )
    # All axes of runs become one; a single run becomes one row.
    along = values.transpose(..., dim).values
    return along.reshape(-1, along.shape[-1])


def samples(data: xr.Dataset, name: str) -> Float[np.ndarray, "runs T N"]:
    """A variable whose last dimension is that of the samples, with the axes of runs as one axis.

    Raises: ValueError for a name that is no variable, or one without a dimension of samples.
    """
    dim, values = recorded_axis(data).dim, variable(data, name)
    dims = [str(each) for each in values.dims]
    if dim not in dims or dims[-1] == dim:
        raise ValueError(
            f"{name!r} has dimensions {', '.join(dims) or 'none'}: give a variable over {dim} and "
            "samples, such as the margins of a training."
        )
    along = values.transpose(..., dim, dims[-1]).values
    return along.reshape(-1, *along.shape[-2:])
