"""Labelled results in memory: `xarray.Dataset`s of runs, and the states in them."""

import platform
from collections.abc import Hashable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import diffrax
import jax
import numpy as np
import xarray as xr
from jaxtyping import PyTree

from .attributes import variable_attributes
from .display import outcomes
from .measures import DIMS
from .notebook import (
    Described,
    log_time_text,
    pairs_html,
    results_html,
    sizes_text,
    values_text,
)
from .trajectory import Trajectory, state_names, variables_of
from .version import __version__

# The attribute by which a data set of this package is known.
_MARK = "version_nc_jax"
# Dims along which runs are recorded.
_SAVES = ("time", "step", "epoch")
# Packages besides this one whose version can change the numbers of a run.
_PACKAGES = ("jax", "jaxlib", "equinox", "diffrax", "optax", "numpy")


class Dataset(xr.Dataset):
    """An `xarray.Dataset` of runs that a notebook shows with equations, units and values in sight.

    It differs from its base class in nothing else. The results of `sel`, `isel` and most methods
    are of this class too; those of `where` are not. Its name is that of the base class, so that its
    text is the same. `xarray.Dataset(data.data_vars, data.coords, data.attrs)` is one of the base
    class.

    Example:
        >>> problem = nc.ulpm(3, 4, 2)
        >>> start = problem.init(jax.random.key(0))
        >>> run = nc.gradient_descent(problem, start, optax.sgd(0.1), 2, observe=("margin_min",))
        >>> "q_min = min_i" in nc.storage.to_dataset(run)._repr_html_()
        True
    """

    # A subclass, because a notebook asks the class of an object for `_repr_html_`. A function that
    # IPython calls for each `xarray.Dataset` would change data sets of other packages, and would be
    # unknown to notebooks without IPython; an accessor, `data.nc`, would have to be asked for.
    # Without `__slots__` xarray would warn that the subclass accepts attributes by assignment.
    __slots__ = ()

    def _repr_html_(self) -> str:
        sizes = sizes_text({str(dim): size for dim, size in self.sizes.items()})
        title = "; ".join(filter(None, [outcome(self), f"sizes: {sizes}" if sizes else None]))
        groups = {
            "Coordinates": [_described(self, name) for name in self.coords],
            # Zarr lists variables in the order of the file system.
            "Variables": [_described(self, name) for name in sorted(self.data_vars, key=str)],
        }
        attributes = {str(name): value for name, value in self.attrs.items()}
        return results_html(
            title,
            {heading: rows for heading, rows in groups.items() if rows},
            {
                f"Configuration and versions ({len(attributes)} attributes)": pairs_html(
                    attributes
                ),
                "As xarray shows it": super()._repr_html_(),
            },
        )


def shown_with_equations(dataset: xr.Dataset) -> xr.Dataset:
    """The data set as a `Dataset`, if this package computed it; its variables are shared.

    A data set that a user built and stored is loaded as it was: `xarray.testing` compares types,
    and would find a difference.

    Example:
        >>> import xarray as xr
        >>> from nc_jax.datasets import Dataset, shown_with_equations
        >>> isinstance(shown_with_equations(xr.Dataset(attrs=nc.storage.provenance())), Dataset)
        True
    """
    if isinstance(dataset, Dataset) or _MARK not in dataset.attrs:
        return dataset
    # Variables and not arrays with coordinates, which xarray would compare with each other.
    variables = {name: dataset.variables[name] for name in dataset.data_vars}
    shown = Dataset(variables, dataset.coords, dataset.attrs)
    shown.encoding = dataset.encoding
    shown.set_close(dataset.close)
    return shown


def _described(dataset: xr.Dataset, name: Hashable) -> Described:
    """The row of a variable or coordinate in a notebook."""
    array, dims = dataset.variables[name], [str(dim) for dim in dataset.variables[name].dims]
    saves = next((dim for dim in _SAVES if dim in dims), None)
    if name == "result" and (words := outcome(dataset)) is not None:
        values = words
    # Variables on disk are not read, so that a data set of any size is shown at once. xarray has no
    # public name for this question, which its text of a data set asks too.
    elif not array._in_memory and name not in dataset.coords:
        unit, size = ("MB", 1e6) if array.nbytes >= 1e6 else ("kB", 1e3)
        values = f"on disk, {array.nbytes / size:.3g} {unit}; load() reads it"
    else:
        axis = None if saves is None else dims.index(saves)
        in_words = log_time_text if name == "log_time" else values_text
        values = in_words(array.values, axis=axis)
    attributes = {**variable_attributes(str(name)), **array.attrs}
    meaning, unit = (str(attributes[key]) for key in ("long_name", "units"))
    return Described(str(name), meaning, unit, ", ".join(dims), values)


def provenance() -> dict[str, str]:
    """Versions of Python and of the packages that compute the numbers, and JAX's first device.

    Example:
        >>> nc.storage.provenance()["version_nc_jax"] == nc.__version__
        True
    """
    # Not from package metadata, which a checkout that is not installed does not have.
    versions = {_MARK: __version__}
    versions |= {f"version_{name}": version(name) for name in _PACKAGES}
    return {**versions, "python": platform.python_version(), "device": str(jax.devices()[0])}


def with_attributes(
    dataset: xr.Dataset, *, long_names: Mapping[str, str] | None = None
) -> xr.Dataset:
    """The data set with `variable_attributes` on each variable and coordinate.

    Attributes that a variable has already stay as they are.

    Args: `long_names` as for `variable_attributes`.

    Example:
        >>> import xarray as xr
        >>> from nc_jax import storage
        >>> data = storage.with_attributes(xr.Dataset({"speed": ("epoch", [1.0, 2.0])}))
        >>> data["speed"].attrs["units"]
        '1'
    """
    # A shallow copy: attributes are new, arrays are shared.
    described = dataset.copy()
    for name, variable in described.variables.items():
        given = variable_attributes(str(name), long_names=long_names)
        described[name].attrs = {**given, **variable.attrs}
    return shown_with_equations(described)


def to_dataset(
    trajectory: Trajectory,
    *,
    attributes: Mapping[str, object] | None = None,
    runs: Sequence[str] = ("seed",),
    dims: Mapping[str, Sequence[str]] | None = None,
) -> xr.Dataset:
    """Convert a recorded run to an `xarray.Dataset`, for figures and stores.

    A flow has dims (time), or (*runs, time) of a batch, with the coordinate `log_time` = log(1 + t)
    along `time`; t itself would overflow. A descent has the dim and integer coordinate `step`
    instead. Variables are:

    - the observables;
    - the arrays of saved states (`save_states=True`), such as `state_features`, from which the
      function `states` restores the states;
    - `result`, 0 for a run that reached its end, with the message of each code as an attribute;
    - `num_steps`, and for a flow `final_log_time`.

    Each variable and coordinate has the attributes `long_name` and `units`. `attributes` and
    `provenance()` become attributes of the data set.

    Args:
        trajectory: one run, or a batch of runs with the same save times.
        attributes: the configuration, for instance: texts, numbers and lists of them.
        runs: names of the axes of the batch, outermost vmap first.
        dims: names of the axes that an observable has after time, such as {"margins": ["sample"]};
            the default names are `margins_dim_0`, ..., and `layer` for observables of layers.

    Raises: ValueError for a batch or an observable with another number of axes, a batch whose runs
    have different times, or an attribute that a store cannot hold.

    Example:
        >>> from nc_jax import storage
        >>> problem = nc.ulpm(3, 4, 2)
        >>> start, save_at = problem.init(jax.random.key(0)), np.array([0.0, 1.0])
        >>> traj = nc.gradient_flow(problem, start, save_at, observe=("margin_min",))
        >>> data = storage.to_dataset(traj, attributes={"K": 3})
        >>> data["margin_min"].dims, data["log_time"].values.tolist(), data.attrs["K"]
        (('time',), [0.0, 1.0], 3)
    """
    check_attributes(attributes or {})
    batch = trajectory.log_time.shape[:-1]
    runs = tuple(runs) if batch else ()
    if len(batch) != len(runs):
        raise ValueError(
            f"runs = {runs}: the trajectory has batch shape {batch}; give one name for each axis."
        )
    observed = {k: np.asarray(v) for k, v in variables_of(trajectory).items()}
    for name in dims or {}:
        if name not in observed:
            raise ValueError(f"dims[{name!r}]: no such observable; there are {sorted(observed)}.")
    axis = trajectory.axis
    variables: dict[str, Any] = {
        **{k: (_dims(k, v, (*runs, axis.dim), dims or {}), v) for k, v in observed.items()},
        "result": (runs, *_codes_and_messages(trajectory.result)),
        "num_steps": (runs, np.asarray(trajectory.num_steps)),
    }
    # A descent has no time: its last step is `num_steps`.
    if trajectory.steps is None:
        variables["final_log_time"] = runs, np.asarray(trajectory.final_log_time)
    return with_attributes(
        xr.Dataset(
            variables,
            coords={axis.coordinate: (axis.dim, axis.common_values())},
            attrs={**(attributes or {}), **provenance()},
        )
    )


def states(dataset: xr.Dataset, like: PyTree) -> PyTree:
    """Restore the states in a data set of a run with `save_states=True`.

    Args: `like` is a state of the same structure, such as `problem.init(key)`.

    Returns: a state of NumPy arrays. Their first axes are those of the runs, then time or steps.

    Raises: ValueError if the data set has no states of this structure.

    Example:
        >>> from nc_jax import storage
        >>> problem = nc.ulpm(3, 4, 2)
        >>> start = problem.init(jax.random.key(0))
        >>> traj = nc.gradient_descent(problem, start, optax.sgd(0.1), 5, save_states=True)
        >>> storage.states(storage.to_dataset(traj), start).features.shape
        (6, 6, 4)
    """
    names, structure = state_names(like), jax.tree.structure(like)
    missing = [name for name in names if name not in dataset]
    if missing:
        raise ValueError(
            f"dataset: has no {', '.join(missing)}; run with save_states=True, and give a state of "
            "the same structure."
        )
    return jax.tree.unflatten(structure, [dataset[name].values for name in names])


def outcome(dataset: xr.Dataset) -> str | None:
    """How many runs of a data set reached their end, in words; None where it does not say.

    Example:
        >>> import xarray as xr
        >>> from nc_jax.datasets import outcome
        >>> codes = ("seed", [0, 0, 1], {"0": "", "1": "The step limit was reached."})
        >>> outcome(xr.Dataset({"result": codes}))
        '3 runs: 2 succeeded, 1 failed (The step limit was reached)'
    """
    codes = result_codes(dataset)
    if codes is None:
        return None
    messages = {"-1": "not complete", **dataset["result"].attrs}
    values, counts = np.unique(codes, return_counts=True)
    texts = [str(messages.get(str(code), f"code {code}")) for code in values]
    return outcomes(dict(zip(texts, counts.tolist(), strict=True)))


def result_codes(dataset: xr.Dataset) -> np.ndarray | None:
    """The code of each run's result, at the last save of a training; None without them.

    Example:
        >>> import xarray as xr
        >>> from nc_jax.datasets import result_codes
        >>> result_codes(xr.Dataset({"result": (("seed", "epoch"), [[0, 0], [0, 1]])}))
        array([0, 1])
    """
    if "result" not in dataset or dataset["result"].dtype.kind != "i":
        return None
    # Indexed, since reading the variable itself would keep its values in memory, and another
    # process may be adding runs to its store.
    last = {dim: -1 for dim in _SAVES if dim in dataset["result"].dims}
    if any(dataset.sizes[dim] == 0 for dim in last):
        return None
    return dataset["result"].variable.isel(last)[...].values


def check_attributes(attributes: Mapping) -> None:
    """Refuse attributes that a store cannot hold."""
    for name, value in attributes.items():
        plain = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
        if not isinstance(name, str) or not _is_json(plain):
            raise ValueError(
                f"attributes: {name!r} = {value!r} is a {type(value).__name__}; give texts, "
                "numbers or lists of them, such as str(value), by names that are texts."
            )


def _is_json(value: object) -> bool:
    """Whether a value is a text, a number, None, or a list or dict of such values."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_json, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_is_json, value.values()))
    return value is None or isinstance(value, (str, int, float))


def _dims(
    name: str, values: np.ndarray, leading: tuple[str, ...], dims: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """All dims of an observable: the leading ones, then the given names or the default names."""
    further = values.ndim - len(leading)
    trailing = tuple(dims.get(name, observable_dims(name, further)))
    if len(trailing) != further:
        raise ValueError(
            f"dims[{name!r}] = {list(trailing)}: {name} has {further} axes after time; name each."
        )
    return leading + trailing


def observable_dims(name: str, further: int) -> tuple[str, ...]:
    """Names of the axes that an observable has after time: those of `DIMS`, else as in ArviZ.

    A user's observable may have one of these names and other axes.
    """
    known = DIMS.get(name, ())
    return known if len(known) == further else tuple(f"{name}_dim_{i}" for i in range(further))


def _codes_and_messages(result: diffrax.RESULTS) -> tuple[np.ndarray, dict[str, str]]:
    """Codes of the runs' results, and the message of each code that occurs."""
    # The variable has codes and not messages, since Zarr's format for strings is not settled.
    [leaf] = jax.tree.leaves(result)
    return np.asarray(leaf), meanings(np.asarray(leaf))


def meanings(codes: np.ndarray) -> dict[str, str]:
    """The message of each code of `diffrax.RESULTS` that occurs, empty for success."""
    # Only an item of the enumeration gives a message: any item with its one leaf replaced.
    example = diffrax.RESULTS.successful
    items = {
        int(code): jax.tree.map(lambda _, c=code: np.asarray(c), example)
        for code in np.unique(codes)
    }
    return {str(code): diffrax.RESULTS[item] for code, item in items.items()}
