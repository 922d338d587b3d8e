"""Figures of measures of several layers, of a deep model and of a network."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from types import MappingProxyType

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..checks import shown
from .panels import check_panels, label_measures, panel_grid
from .recordings import Name, Runs, as_datasets, recorded_axis, text_of
from .style import (
    EPOCHS,
    LINE_STYLES,
    LOG,
    LOG_LOG,
    AxisScale,
    draw_curve,
    figure_legend,
    label_panel,
    paper,
    shades,
    y_label,
)

# By the title of a panel: the observable of a deep model, and the measure of a network's layers.
LAYER_PANELS: Mapping[str, Sequence[str]] = MappingProxyType({
    "Variation within classes": ("layer_nc1", "zhu_nc1"),
    "Class-distance variance": ("layer_cdnv", "cdnv"),
    "Effective rank": ("layer_effective_rank", "roy_effective_rank_class_means"),
    "Singular values": ("layer_singular_values",),
})  # fmt: skip
# The dim of layers, in the data sets of models and of networks.
_LAYER = "layer"
# Times up to this are on a logarithmic axis. Of later times it would show the end alone, as logits
# grow with log t: they are on a log log axis.
_LATEST_LOG = 20 * math.log(10)


@paper()
def layers_figure(runs: Runs, panels: Mapping[str, Sequence[str]] | None = None) -> Figure:
    """Measures of each layer along runs: which layers collapse first.

    A layer has a colour, from dark (first) to light (last), and a run a line style. A variable with
    an axis after that of layers, such as singular values, has a curve for each entry, and of
    several runs a panel for each. The time axis is logarithmic, beyond t = 10^20 log log. Of a
    batch of runs the median is drawn in a band from the 10th to the 90th percentile.

    Args:
        runs: a data set with the dim `layer`, or several by name: of flows of
            `DeepUnconstrainedFeatures`, or of a `metrics.Monitor` that measures several layers.
        panels: variables by title; of each panel the first variable that a run has is drawn. None
            takes those panels of `LAYER_PANELS` of which every run has a variable.

    Raises: ValueError for what is no data set, for a run that has no variable of a panel, and for
    a variable without the dim `layer`.

    Example: two layers of a network by epoch.
        >>> import xarray as xr
        >>> values = ("epoch", "layer"), [[4.0, 2.0], [2.0, 1.0], [2.0, 0.5]]
        >>> data = xr.Dataset({"cdnv": values}, {"epoch": [1, 2, 3], "layer": ["hidden", "last"]})
        >>> figure = nc.plotting.layers_figure(data)
        >>> [axes.get_title() for axes in figure.axes]
        ['Class-distance variance']
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['hidden', 'last']
    """
    named = as_datasets(runs)
    chosen = _default_panels(named) if panels is None else panels
    check_panels(chosen)
    drawn = _runs_by_panel(named, chosen)
    figure, grid = panel_grid({title: [*variables.values()] for title, variables in drawn.items()})
    names = list(dict.fromkeys(name for data in named.values() for name in _layer_names(data)))
    colors = dict(zip(names, shades(len(names)), strict=True))
    scale, first = _scale_of(named), next(iter(named.values()))
    styles = dict(zip(named, cycle(LINE_STYLES), strict=False))
    for axes, (title, variables) in zip(grid, drawn.items(), strict=True):
        for run, variable in variables.items():
            _draw_layers(axes, named[run], variable, scale, colors, styles[run])
        _label(axes, title, scale.label(recorded_axis(first)), [*variables.values()])
        scale.apply(axes)
    runs_by_style = {text_of(run): style for run, style in styles.items()}
    figure_legend(figure, colors=colors, styles=runs_by_style if len(named) > 1 else {})
    return figure


def _runs_by_panel(
    named: Mapping[Name, xr.Dataset], panels: Mapping[str, Sequence[str]]
) -> dict[str, dict[Name, str]]:
    """The variable of each run by the title of its panel.

    A variable with several entries of each layer has a panel for each run: in one panel its lines
    for one run would have the colours of those for the others.
    """
    found = {}
    for title, variables in panels.items():
        of_runs = {run: _variable_of(data, variables, run) for run, data in named.items()}
        several = any(_entries(named[run], name) for run, name in of_runs.items())
        if several and len(named) > 1:
            found |= {f"{title}, {text_of(run)}": {run: name} for run, name in of_runs.items()}
        else:
            found[title] = of_runs
    return found


def _default_panels(named: Mapping[Name, xr.Dataset]) -> dict[str, Sequence[str]]:
    """The panels of `LAYER_PANELS` of which every run has a variable over layers."""
    panels = {
        title: variables
        for title, variables in LAYER_PANELS.items()
        if all(any(_has_layers(data, name) for name in variables) for data in named.values())
    }
    if not panels:
        known = ", ".join(name for variables in LAYER_PANELS.values() for name in variables)
        raise ValueError(
            f"runs have no variable over {_LAYER} in common: give runs that have recorded one of "
            f"{known}, or `panels`."
        )
    return panels


def _has_layers(data: xr.Dataset, name: str) -> bool:
    return name in data.data_vars and _LAYER in data[name].dims


def _variable_of(data: xr.Dataset, variables: Sequence[str], run: Name) -> str:
    """The first of some variables that a run has, over layers."""
    found = [name for name in variables if name in data.data_vars]
    if not found:
        raise ValueError(
            f"runs[{run!r}] has none of {', '.join(variables)}: give variables of the data set, "
            f"{', '.join(map(str, data.data_vars)) or 'which has none'}."
        )
    if _LAYER not in data[found[0]].dims:
        raise ValueError(
            f"{found[0]!r} has dimensions {', '.join(map(str, data[found[0]].dims))}: give a "
            f"variable over {_LAYER}."
        )
    return found[0]


def _layer_names(data: xr.Dataset) -> list[str]:
    """The names of the layers, or numbers from 1 where the data set has no names."""
    if _LAYER not in data.dims:
        raise ValueError(
            f"data set with dimensions {shown(tuple(data.dims))}: give one with the dimension "
            f"{_LAYER}, such as that of a metrics.Monitor of several layers."
        )
    if _LAYER in data.coords:
        return [str(name) for name in data[_LAYER].values.tolist()]
    return [f"layer {i + 1}" for i in range(data.sizes[_LAYER])]


def _scale_of(named: Mapping[Name, xr.Dataset]) -> AxisScale:
    """The scale of the axis along which the runs were recorded."""
    axes_of_runs = [recorded_axis(data) for data in named.values()]
    if axes_of_runs[0].dim == "epoch":
        return EPOCHS
    return LOG if max(axis.log_values[-1] for axis in axes_of_runs) <= _LATEST_LOG else LOG_LOG


def _draw_layers(
    axes: Axes,
    data: xr.Dataset,
    variable: str,
    scale: AxisScale,
    colors: Mapping[str, Float[np.ndarray, "4"]],
    style: str,
) -> None:
    """A curve for each layer, and for each entry of what a variable has of a layer."""
    axis, values = recorded_axis(data), _of_layers(data, variable)
    width = 1.3 if values.shape[-1] == 1 else 0.9
    for name, of_layer in zip(_layer_names(data), np.moveaxis(values, 2, 0), strict=True):
        for of_entry in np.moveaxis(of_layer, -1, 0):
            x, drawn = scale.select(axis, of_entry)
            draw_curve(axes, x, drawn, color=colors[name], ls=style, lw=width)


def _of_layers(data: xr.Dataset, variable: str) -> Float[np.ndarray, "runs T layers entries"]:
    """A variable with the axes of runs as one axis, and those after the layers as one axis."""
    dim, dims = recorded_axis(data).dim, [str(dim) for dim in data[variable].dims]
    entries = _entries(data, variable)
    along = data[variable].transpose(..., dim, _LAYER, *entries).values
    runs = dims.index(dim) - (dims.index(_LAYER) < dims.index(dim))
    saves, layers = along.shape[runs : runs + 2]
    return along.reshape(-1, saves, layers, math.prod(along.shape[runs + 2 :]))


def _entries(data: xr.Dataset, variable: str) -> list[str]:
    """The dims of a variable after time that are not those of layers."""
    dim, dims = recorded_axis(data).dim, [str(dim) for dim in data[variable].dims]
    return [each for each in dims[dims.index(dim) :] if each not in (dim, _LAYER)]


def _label(axes: Axes, title: str, x_label: str, variables: Sequence[str]) -> None:
    """Title and labels; ranks, which are between 1 and K, are on a linear axis."""
    if all("rank" in variable for variable in variables):
        label_panel(axes, title, x_label, y_label(variables[0]))
    else:
        label_measures(axes, title, x_label, variables)
