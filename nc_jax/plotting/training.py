"""Figures of trainings: measures by epoch, with the flow of the unconstrained-features model."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..trajectory import Trajectory
from .panels import label_measures, panel_grid, words
from .recordings import Name, Runs, as_dataset, as_datasets, curves, recorded_axis
from .style import (
    DARK,
    EPOCHS,
    LINE_STYLES,
    draw_curve,
    family_colors,
    figure_legend,
    panel_legend,
    paper,
)

_MODEL_STYLES: tuple[str, ...] = (":", "-.")


@paper()
def training_figure(
    runs: Runs,
    panels: Mapping[str, Sequence[str]],
    *,
    models: Mapping[str, xr.Dataset | Trajectory] = MappingProxyType({}),
) -> Figure:
    """Measures of trainings by epoch, as Ji's figures 3 to 8 and Zhu's 3 to 5.

    Args:
        runs: the `data` of one `cnn.train`, or of several by name, one colour each. The median
            over seeds is drawn in a band from the 10th to the 90th percentile. Names may be pairs,
            such as a start and a decay: the first part determines the colour, the second the line
            style.
        panels: variables by title, one line style each: `JI_PANELS`, `ZHU_PANELS`. Accuracies are
            drawn on a linear scale, margins too unless they exceed 10, all others on a logarithmic
            one.
        models: flows by name, with epochs as their time. A flow with the name of a run has its
            colour, others are black. The first variable of a panel is dotted, the second
            dash-dotted. A variable that a flow lacks is left out.

    Returns: a Matplotlib `Figure` with a logarithmic axis of epochs, which omits epoch 0.

    Raises: ValueError for what is no data set, and for a variable that a run lacks.

    Example:
        >>> import xarray as xr
        >>> loss = ("epoch", [2.0, 1.0, 0.5])
        >>> data = xr.Dataset({"train_loss": loss}, {"epoch": [0, 1, 2]})
        >>> figure = nc.plotting.training_figure({"SGD": data}, {"Loss": ("train_loss",)})
        >>> [axes] = figure.axes
        >>> axes.get_title(), axes.get_xlabel(), axes.lines[0].get_ydata()
        ('Loss', 'epoch', array([1. , 0.5]))
    """
    named = as_datasets(runs)
    flows = {name: as_dataset(flow, argument=f"models[{name!r}]") for name, flow in models.items()}
    figure, grid = panel_grid(panels)
    colors, styles = colors_and_styles(named)
    first_run = recorded_axis(next(iter(named.values())))
    # Flows may end far beyond the trainings, where they would stretch the axis of epochs.
    last = max(recorded_axis(data).values[-1] for data in named.values())
    for axes, (title, variables) in zip(grid, panels.items(), strict=True):
        for i, variable in enumerate(variables):
            for name, data in named.items():
                first, second = parts(name)
                # The first variable of every panel has the styles of the legend of names.
                style = _style(styles[second] + i * len(styles))
                x, values = EPOCHS.select(recorded_axis(data), curves(data, variable))
                draw_curve(axes, x, values, color=colors[first], ls=style)
            for name, flow in flows.items():
                if variable in flow:
                    _draw_model(axes, flow, variable, last, i, colors.get(name, "black"))
        label_measures(axes, title, EPOCHS.label(first_run), variables)
        EPOCHS.apply(axes)
        if len(variables) > 1:
            panel_legend(axes, lines=_lines(variables, flows, styles))
    named_styles = {name: _style(i) for name, i in styles.items() if name}
    model_style = {"model's flow": _MODEL_STYLES[0]} if flows else {}
    figure_legend(figure, colors=colors, styles=named_styles | model_style)
    return figure


def parts(name: Name) -> tuple[str, str]:
    """The parts of a name for the colour and for the line style; the latter is empty if missing.

    Example:
        >>> parts("SGD"), parts(("start 1", "decay 0"))
        (('SGD', ''), ('start 1', 'decay 0'))
    """
    return (name, "") if isinstance(name, str) else name


def colors_and_styles(
    names: Iterable[Name],
) -> tuple[dict[str, Float[np.ndarray, "4"]], dict[str, int]]:
    """A colour for each first part of names, and the number of a line style for each second part.

    Example:
        >>> colors_and_styles([("start 1", "decay 0"), ("start 1", "decay 1")])[1]
        {'decay 0': 0, 'decay 1': 1}
    """
    first, second = (list(dict.fromkeys(each)) for each in zip(*map(parts, names), strict=True))
    return dict(zip(first, family_colors(first), strict=True)), {n: i for i, n in enumerate(second)}


def _draw_model(
    axes: Axes, flow: xr.Dataset, variable: str, last: float, number: int, color: object
) -> None:
    """The flow of a model from epoch 1 to the last epoch of any run."""
    epochs, values = recorded_axis(flow).values, curves(flow, variable)
    drawn = (epochs >= 1) & (epochs <= last)
    style = _MODEL_STYLES[number % len(_MODEL_STYLES)]
    draw_curve(axes, epochs[drawn], values[:, drawn], color=color, ls=style)


def _style(number: int) -> str:
    """The line style of this number; more numbers than styles take them in turn."""
    return LINE_STYLES[number % len(LINE_STYLES)]


def _lines(
    variables: Sequence[str], flows: Mapping[str, xr.Dataset], parts_of_names: Mapping[str, int]
) -> dict[str, Line2D]:
    """Lines for the legend of a panel with several variables, of networks and of models.

    Those of networks are listed for each of the second parts of names.
    """
    styles = {}
    for i, variable in enumerate(variables):
        for name, number in parts_of_names.items():
            label = f"{words(variable)}, {name}" if name else words(variable)
            styles[label] = _style(number + i * len(parts_of_names))
    for i, variable in enumerate(variables):
        if any(variable in flow for flow in flows.values()):
            styles[f"{words(variable)}, model"] = _MODEL_STYLES[i % len(_MODEL_STYLES)]
    return {name: Line2D([], [], color=DARK, ls=style) for name, style in styles.items()}
