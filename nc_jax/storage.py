"""Labelled results on disk: xarray data sets in Zarr stores, written whole or not at all."""

import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import diffrax
import jax
import numpy as np
import xarray as xr

from .dynamics import Trajectory

_PACKAGES = ("nc_jax", "jax", "jaxlib", "equinox", "diffrax", "optax", "numpy")


def provenance() -> dict[str, str]:
    """Versions of the packages that decide the numbers, and the device they ran on."""
    versions = {f"version_{name}": version(name) for name in _PACKAGES}
    return {**versions, "python": platform.python_version(), "device": str(jax.devices()[0])}


def to_dataset(
    trajectory: Trajectory,
    attributes: Mapping[str, str | int | float] | None = None,
    runs: Sequence[str] = ("seed",),
    dims: Mapping[str, Sequence[str]] | None = None,
) -> xr.Dataset:
    """Observables of a run as an `xarray.Dataset` with dims (time), or (*runs, time) of a batch.

    `log_time` = log(1 + t) is a coordinate. `result` is 0 for a run that reached its end, and each
    code that occurs has its message among the attributes of `result`. `attributes` (the
    configuration, say) and `provenance()` become attributes.

    Args: `runs` names the axes of the batch, outermost vmap first; `dims` those of an observable
    that is an array, after time, as {"margins": ["sample"]}: `margins_dim_0` where it does not.

    Raises: ValueError for a batch or an observable with another number of axes, or a batch whose
    runs have times of their own.

    Example: `to_dataset(traj, {"K": 5, "d": 20})["ji_self_duality"].plot()`.
    """
    batch = trajectory.log_time.shape[:-1]
    runs = tuple(runs) if batch else ()
    if len(batch) != len(runs):
        raise ValueError(
            f"runs = {runs}: the trajectory has batch shape {batch}; give one name for each axis."
        )
    observed = {k: np.asarray(v) for k, v in trajectory.observables.items()}
    for name in dims or {}:
        if name not in observed:
            raise ValueError(f"dims[{name!r}]: no such observable; there are {sorted(observed)}.")
    return xr.Dataset(
        {
            **{k: (_dims(k, v, (*runs, "time"), dims or {}), v) for k, v in observed.items()},
            "result": (runs, *_meanings(trajectory.result)),
            "num_steps": (runs, np.asarray(trajectory.num_steps)),
            "final_log_time": (runs, np.asarray(trajectory.final_log_time)),
        },
        coords={"log_time": ("time", trajectory.common_log_time())},
        attrs={**(attributes or {}), **provenance()},
    )


def save(dataset: xr.Dataset, path: str | os.PathLike[str]) -> None:
    """Write a Zarr store at `path`, whole or not at all, replacing an earlier store there.

    Raises: FileExistsError if `path` holds something that is not a Zarr store; OSError if it
    cannot be written.

    Example: `save(to_dataset(traj), "results/flow.zarr")`.
    """
    path = Path(path)
    if path.exists() and not (path / "zarr.json").is_file():
        raise FileExistsError(f"{path} exists and is not a Zarr store: give another path.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # A store is a folder, and only a rename is atomic: write beside it, then move into place.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        fresh, stale = Path(scratch) / "fresh", Path(scratch) / "stale"
        dataset.to_zarr(fresh, mode="w-", consolidated=False)
        if path.exists():
            path.rename(stale)
        try:
            fresh.rename(path)
        except OSError:
            if stale.exists():
                stale.rename(path)
            raise


def load(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a store written by `save` into memory.

    Raises: FileNotFoundError if there is none.

    Example: `load("results/flow.zarr")["zhu_nc1"]`.
    """
    if not (Path(path) / "zarr.json").is_file():
        raise FileNotFoundError(f"{path}: no Zarr store there; give the path passed to save().")
    return xr.open_zarr(path, consolidated=False).load()


def _dims(
    name: str, values: np.ndarray, leading: tuple[str, ...], dims: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """All dimensions of an observable; those of its own as given, or as ArviZ would call them."""
    further = values.ndim - len(leading)
    own = tuple(dims.get(name, [f"{name}_dim_{i}" for i in range(further)]))
    if len(own) != further:
        raise ValueError(
            f"dims[{name!r}] = {list(own)}: {name} has {further} axes after time; name each."
        )
    return leading + own


def _meanings(result: diffrax.RESULTS) -> tuple[np.ndarray, dict[str, str]]:
    """Codes of the runs' results and, per code that occurs, its message.

    Codes, since Zarr's format for strings is not settled.
    """
    [leaf] = jax.tree.leaves(result)
    codes = np.asarray(leaf)
    items = {
        int(code): jax.tree.map(lambda _, c=code: np.asarray(c), result)
        for code in np.unique(codes)
    }
    return codes, {str(code): diffrax.RESULTS[item] for code, item in items.items()}
