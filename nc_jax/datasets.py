"""Labelled results in memory: `xarray.Dataset`s of runs, and the states in them."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import diffrax
import jax
import numpy as np
import xarray as xr
from jaxtyping import PyTree

from .measures import EQUATIONS
from .trajectory import Trajectory, state_names, variables_of
from .version import __version__

# `long_name` of variables and coordinates that are no observables; `EQUATIONS` has observables.
_LONG_NAMES = {
    "log_time": "log(1 + t), t the time of the flow",
    "step": "steps of gradient descent",
    "epoch": "epochs of training",
    "seed": "number that is folded into the random key of a run",
    "result": "outcome of the run by code, 0 for a run that reached its end",
    "num_steps": "steps taken, of a flow with rejected ones",
    "final_log_time": "log(1 + t) of the last state",
    "shared_steps": "whether the runs of a batch took common steps",
}
# Packages besides this one whose version can change the numbers of a run.
_PACKAGES = ("jax", "jaxlib", "equinox", "diffrax", "optax", "numpy")


def provenance() -> dict[str, str]:
    """Versions of Python and of the packages that compute the numbers, and JAX's first device.

    Example:

        >>> nc.storage.provenance()["version_nc_jax"] == nc.__version__
        True
    """
    # Not from package metadata, which a checkout that is not installed does not have.
    versions = {"version_nc_jax": __version__}
    versions |= {f"version_{name}": version(name) for name in _PACKAGES}
    return {**versions, "python": platform.python_version(), "device": str(jax.devices()[0])}


def variable_attributes(
    name: str, *, long_names: Mapping[str, str] | None = None
) -> dict[str, str]:
    """CF attributes of a variable or coordinate: its `long_name`, and "1" as its `units`.

    Every recorded quantity is dimensionless. The long name of an observable is its equation.

    Args: `long_names` are those of further variables, which are neither in `metrics.EQUATIONS` nor
    in the table of this module. A name without a long name becomes its long name, with spaces in
    the place of underscores.

    Example:

        >>> from nc_jax import storage
        >>> storage.variable_attributes("zhu_nc4")
        {'long_name': '‖W μ_G + b‖₂ (Zhu, section 4)', 'units': '1'}
    """
    known = {**EQUATIONS, **_LONG_NAMES, **(long_names or {})}
    # `or`: an empty long name counts as none.
    return {"long_name": known.get(name) or name.replace("_", " "), "units": "1"}


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
    return described


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
            the default names are `margins_dim_0`, ...

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
    """Default names of the axes that an observable has after time; ArviZ names them so."""
    return tuple(f"{name}_dim_{i}" for i in range(further))


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
