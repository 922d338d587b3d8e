"""A page to explore the curves of a sweep, a training or a run in a browser."""

import base64
import html
import math
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from ..checks import shown
from ..datasets import outcome, result_codes
from ..trajectory import Trajectory
from .page import POLICY, Page, embedded, filled, package_text, plotly_script
from .recordings import AXIS_LABELS, RecordedAxis, as_dataset, recorded_axis, variable
from .style import LINEAR, LOG, scale_for

# Bytes of the observables of a page. Base64 makes a third more of them.
_LIMIT = 32_000_000
# Entries of a list of settings or classes in which a reader can find one.
_CHOICES = 1000


def explore(
    dataset: xr.Dataset | Trajectory,
    path: str | os.PathLike[str] | None = None,
    *,
    observables: Sequence[str] | None = None,
    title: str | None = None,
) -> Page:
    """A page on which observables, settings and seeds are chosen, and their curves drawn.

    The page is one HTML file that needs no network. It draws curves of all seeds, of one seed, or
    the median in a band from the 10th to the 90th percentile, on linear, log or log log axes; lists
    the last values; and gives the drawn numbers as CSV. The address of the page holds all choices,
    so that a link shows the same view.

    Args:
        dataset: of a flow, a descent, a sweep or a training, over time, step or epoch; a
            `Trajectory` is converted by `storage.to_dataset`.
        path: of a file to write the page to, besides returning it.
        observables: names of the variables on the page; the first two are drawn when it opens. None
            for all variables over the recorded axis whose further dims have coordinates. This
            leaves out states and the margins of samples; the page names what is left out.
        title: of the page.

    Raises: ValueError for what is no data set of runs, a name that is no variable, or more than 32
    MB of numbers; ModuleNotFoundError without Plotly (`pip install "nc_jax[interactive]"`).

    Example: a sweep of two norms of the start.

        >>> problem = nc.ulpm(3, 4, 2)
        >>> flow = nc.Flow(problem, nc.log_times(10, 5), observe=("zhu_nc1", "margin_min"))
        >>> run = lambda key, norm: (flow, problem.init(key, norm=norm))
        >>> data = nc.sweep(run, 3, grid={"norm": [0.5, 1.0]}, progress=False)
        >>> page = nc.plotting.explore(data, folder / "sweep.html")
        >>> page.title, (folder / "sweep.html").is_file()
        ('6 runs over time', True)
    """
    if title is not None and not isinstance(title, str):
        raise ValueError(f"title = {shown(title)}: give a text, such as 'One start'.")
    data = as_dataset(dataset, argument="dataset")
    # xarray allows names that are no texts, such as 0; a page has texts alone.
    data = data.rename({name: str(name) for name in data if not isinstance(name, str)})
    axis = recorded_axis(data)
    names = _names(data, axis, observables)
    _check_size(data, axis, names)
    title = title or _title(data, axis)
    sizes = " × ".join(f"{dim} {size}" for dim, size in data.sizes.items())
    content = {
        "title": title,
        "outcome": "; ".join(filter(None, (outcome(data), f"sizes: {sizes}"))),
        "axis": _axis(data, axis),
        "runs": _dimension(data, runs) if (runs := _run_dim(data)) else None,
        "dimensions": [_dimension(data, dim) for dim in _dimensions(data, axis, names)],
        "variables": [_packed(data, axis, name) for name in names],
        "left_out": [name for name in _recorded(data, axis) if name not in names],
    }
    page = Page(_html(content, data), title=title)
    if path is not None:
        page.save(path)
    return page


def _html(content: dict[str, Any], data: xr.Dataset) -> str:
    """The page: its text, styles, data and scripts."""
    text = {name: html.escape(str(value)) for name, value in data.attrs.items()}
    rows = [
        f'<tr><th scope="row">{html.escape(str(name))}</th><td>{value}</td></tr>'
        for name, value in text.items()
    ]
    return filled(
        package_text("explore.html"),
        {
            "policy": POLICY,
            "title": html.escape(content["title"]),
            "attributes": "\n".join(rows),
            "data": embedded(content),
            "plotly": plotly_script(),
            "curves": package_text("explore_curves.js"),
            "script": package_text("explore.js"),
        },
    )


def _title(data: xr.Dataset, axis: RecordedAxis) -> str:
    """How many runs there are, where the data set says it, and over what."""
    codes = result_codes(data)
    if codes is None:
        return f"Runs over {axis.dim}"
    return f"{codes.size} run{'' if codes.size == 1 else 's'} over {axis.dim}"


def _run_dim(data: xr.Dataset) -> str | None:
    """The dim of the runs of a setting: the seeds, or the runs of a batch; None for one run."""
    if "seed" in data.dims:
        return "seed"
    # The axes of a batch have no coordinates, unlike the settings of a sweep.
    of_runs = data["result"].dims if "result" in data else ()
    unnamed = [str(dim) for dim in of_runs if dim not in data.coords]
    return unnamed[-1] if unnamed else None


def _recorded(data: xr.Dataset, axis: RecordedAxis) -> list[str]:
    """Variables over the recorded axis that are real numbers, in alphabetical order."""
    # Sorted, since Zarr lists variables in the order of the file system.
    return sorted(
        str(name)
        for name, values in data.data_vars.items()
        if axis.dim in values.dims and values.dtype.kind in "fiub"
    )


def _further(data: xr.Dataset, axis: RecordedAxis, name: str) -> list[str]:
    """Dims of a variable besides the recorded axis and that of the runs: one entry is chosen."""
    return [str(dim) for dim in data[name].dims if dim not in (axis.dim, _run_dim(data))]


def _dimensions(data: xr.Dataset, axis: RecordedAxis, names: Sequence[str]) -> list[str]:
    """All dims of which an entry is chosen."""
    return list(dict.fromkeys(dim for name in names for dim in _further(data, axis, name)))


def _names(data: xr.Dataset, axis: RecordedAxis, observables: Sequence[str] | None) -> list[str]:
    """The variables of the page."""
    recorded = _recorded(data, axis)
    if observables is None:
        # Axes without names for their entries are those of samples, and of the arrays of a state: a
        # reader of the page could not tell what entry 17 is.
        names = [name for name in recorded if data.coords.keys() >= {*_further(data, axis, name)}]
        if not recorded:
            raise ValueError(
                f"dataset: has no variables over {axis.dim}; give one with a variable of real "
                f"numbers over {axis.dim}."
            )
        if not names:
            raise ValueError(
                f"dataset: no variable over {axis.dim} has coordinates for all of its dims; give "
                f"observables, of {', '.join(recorded)}."
            )
        return names
    is_list = isinstance(observables, Sequence) and not isinstance(observables, str)
    if not is_list or not observables:
        raise ValueError(f"observables = {shown(observables)}: give names, such as ('zhu_nc1',).")
    for name in observables:
        if name not in recorded:
            dims = ", ".join(map(str, variable(data, name).dims)) or "none"
            raise ValueError(
                f"observables: {name!r} has dtype {data[name].dtype} and dims {dims}; give a "
                f"variable of real numbers over {axis.dim}."
            )
    return list(dict.fromkeys(observables))


def _check_size(data: xr.Dataset, axis: RecordedAxis, names: Sequence[str]) -> None:
    """Refuse data with which a browser would take long."""
    size = sum(data[name].nbytes for name in names)
    if size > _LIMIT:
        stride = math.ceil(size / _LIMIT)
        raise ValueError(
            f"dataset: the observables have {size / 1e6:.0f} MB, and a page holds "
            f"{_LIMIT / 1e6:.0f}; give fewer, observables={tuple(names[:1])!r}, or fewer saves, "
            f"dataset.isel({axis.dim}=slice(None, None, {stride}))."
        )
    for dim in _dimensions(data, axis, names):
        if data.sizes[dim] > _CHOICES:
            raise ValueError(
                f"dataset: has {data.sizes[dim]} entries along {dim}, of which a page lists "
                f"{_CHOICES}; select some, dataset.isel({dim}=[0, 1])."
            )


def _axis(data: xr.Dataset, axis: RecordedAxis) -> dict[str, Any]:
    """The recorded axis: t itself may overflow, so that log(1 + t) is given."""
    scale = scale_for([axis])
    return {
        "dim": axis.dim,
        "label": AXIS_LABELS[axis.dim],
        "scale": "linear" if scale is LINEAR else "log" if scale is LOG else "loglog",
        **_base64(axis.log_values if axis.dim == "time" else axis.values),
    }


def _dimension(data: xr.Dataset, dim: str) -> dict[str, Any]:
    """The entries of a dim as texts."""
    # As texts, because JSON has no NaN, and a float32 of 0.1 would be 0.10000000149 in it.
    values = data[dim].values if dim in data.coords else np.arange(data.sizes[dim])
    return {
        "name": dim,
        "meaning": str(data[dim].attrs.get("long_name", dim)),
        "labels": _distinct([str(value) for value in values]),
    }


def _distinct(labels: Sequence[str]) -> list[str]:
    """The labels, with a number behind each that occurs more than once, as "0.5 (2)"."""
    # The page knows an entry by its label. Two sweeps that are concatenated have repeated ones.
    counts, taken = Counter(labels), set(labels)
    distinct = []
    for i, label in enumerate(labels):
        if counts[label] > 1:
            number = labels[: i + 1].count(label)
            while (numbered := f"{label} ({number})") in taken:
                number += 1
            taken.add(numbered)
            label = numbered
        distinct.append(label)
    return distinct


def _packed(data: xr.Dataset, axis: RecordedAxis, name: str) -> dict[str, Any]:
    """A variable: its dims, the runs and the recorded axis last, and its numbers."""
    further = _further(data, axis, name)
    last = [dim for dim in (_run_dim(data), axis.dim) if dim in data[name].dims]
    values = data[name].transpose(*further, *last)
    return {
        "name": name,
        "meaning": str(values.attrs.get("long_name", "")),
        "unit": str(values.attrs.get("units", "1")),
        "dims": [str(dim) for dim in values.dims],
        "shape": list(values.shape),
        **_base64(values.values),
    }


def _base64(values: np.ndarray) -> dict[str, str]:
    """Numbers as base64 of little-endian floats of 8 bytes, or of 4 where they have 4.

    All as float32 would take half of the space, and lose what a logarithmic axis shows: losses of
    e^−230 underflow in it, and 1 − 1e-9 is 1.
    """
    kind = "<f4" if values.dtype == np.float32 else "<f8"
    raw = np.ascontiguousarray(values, kind).tobytes()
    return {"type": kind, "values": base64.b64encode(raw).decode("ascii")}
