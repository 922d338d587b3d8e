"""Figures of flows, descents and sweeps over them."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import cycle

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .panels import label_measures, panel_grid, words
from .recordings import Name, Runs, as_datasets, curves, recorded_axis, text_of
from .style import (
    BLUE,
    DARK,
    LINE_STYLES,
    LOG,
    LOG_LOG,
    ORANGE,
    PaperFigure,
    draw_curve,
    family_colors,
    figure_legend,
    label_log_panel,
    number_text,
    panel_legend,
    paper,
    scale_for,
    y_label,
)

# Label, colour, line width. The curve of the classifier is thinner and drawn last, on top, since
# the two curves may coincide.
_MEANS = ("class means", BLUE, 2.4)
_CLASSIFIER = ("classifier", ORANGE, 1.0)

# Ji's figure 2: title of each panel with its variables.
_PANELS: dict[str, dict[str, tuple[str, str, float]]] = {
    "(a) Variation of the norms": {
        "ji_feature_norm_variation": _MEANS,
        "ji_classifier_norm_variation": _CLASSIFIER,
    },
    "(b) Within-class variation": {"ji_within_class_variation": ("features", BLUE, 1.3)},
    "(c) Cosines between pairs": {
        "ji_feature_cosine_gap": _MEANS,
        "ji_classifier_cosine_gap": _CLASSIFIER,
    },
    "(d) Self-duality": {"ji_self_duality": ("means against classifier", DARK, 1.3)},
}


@paper()
def collapse_figure(runs: Runs, *, slopes: Mapping[str, float] | None = None) -> Figure:
    """Ji's four measures of collapse along runs, the panels of figure 2 of the paper.

    Flows are drawn over log log time, from t = 1 on; descents and trainings over the logarithm of
    their steps or epochs.

    Args:
        runs: a data set or trajectory, or several by name, which are drawn with one line style
            each. For a batch of runs, such as a sweep, the median over all runs is drawn in a band
            from the 10th to the 90th percentile.
        slopes: exponents p by variable. For each of them a dotted line with the slope of
            (log t)^p is drawn above the end of the first run's curve.

    Raises: ValueError for what is no data set, for a data set that lacks a measure, and for runs
        over different axes.

    Example:
        >>> problem = nc.ulpm(3, 4, 2)
        >>> start = problem.init(jax.random.key(0))
        >>> flow = nc.gradient_flow(problem, start, nc.log_times(3, 3))
        >>> figure = nc.plotting.collapse_figure(flow)
        >>> [axes.get_title() for axes in figure.axes]
        ['(a) Variation of the norms', '(b) Within-class variation', '(c) Cosines between pairs',
         '(d) Self-duality']
        >>> figure.axes[0].get_xlabel()
        'time t (log log scale)'
    """
    named = as_datasets(runs)
    figure = PaperFigure(4.8 + 0.3 * len(named))
    first = next(iter(named.values()))
    scale = LOG_LOG if recorded_axis(first).dim == "time" else LOG
    for axes, (title, variables) in zip(figure.subplots(2, 2).flat, _PANELS.items(), strict=True):
        for (run, data), style in zip(named.items(), cycle(LINE_STYLES), strict=False):
            for variable, (label, color, width) in variables.items():
                x, values = scale.select(recorded_axis(data), curves(data, variable))
                label = f"{label}, {text_of(run)}" if len(named) > 1 else label
                draw_curve(axes, x, values, label=label, color=color, lw=width, ls=style)
        # The exponent of the first variable serves for both curves of a panel: they fall alike.
        variable = next(iter(variables))
        if slopes and variable in slopes:
            _draw_guide(axes, first, variable, slopes[variable])
        label_log_panel(axes, title, scale.label(recorded_axis(first)), y_label(variable))
        scale.apply(axes)
        panel_legend(axes)
    figure_legend(figure)
    return figure


def _draw_guide(axes: Axes, data: xr.Dataset, variable: str, slope: float) -> None:
    """A dotted power of log(1 + t), over the last half of log log t.

    At its end it is at twice the median over the runs.
    """
    axis = recorded_axis(data)
    decades, values = axis.log_values / math.log(10), curves(data, variable)
    # Runs that stopped early have no value at the end.
    ends = values[np.isfinite(values[:, -1]), -1]
    # The square root of the number of decades is half way in its logarithm.
    used = decades >= max(math.sqrt(decades[-1]), 1)
    if used.sum() < 2 or not ends.size or not np.median(ends) > 0:
        return
    word = "t" if axis.dim == "time" else axis.dim
    logs = {-1.0: f"1/log {word}", -0.5: f"1/√(log {word})"}
    guide = 2 * np.median(ends) * (decades[used] / decades[-1]) ** slope
    x = decades[used] if axis.dim == "time" else axis.values[used]
    label = logs.get(slope, f"(log {word})^{slope:g}")
    axes.plot(x, guide, ":", color="black", label=label, linewidth=1.1)


@paper()
def sweep_figure(runs: Runs, panels: Mapping[str, Sequence[str]], *, by: str) -> Figure:
    """Measures along the runs of a sweep, with a colour for each value of a swept coordinate.

    A line is the median over all other axes of the sweep, such as its seeds; a band covers the 10th
    to the 90th percentile. The time axis shows t if the runs end by t = 1000, log t if they end by
    10^300, and log log t otherwise.

    Args:
        runs: a data set of a sweep, or several by name, which have one line style each.
        panels: a mapping from the title of a panel to the variables drawn in it, such as
            `MIXON_PANELS`, `JI_PANELS` and `ZHU_PANELS`.
        by: a dimension with a coordinate, such as "norm"; its values are the legend.

    Raises: ValueError if `runs` is no data set, or if it lacks a variable or the dimension `by`.

    Example:
        >>> def run(key, norm):
        ...     problem = nc.mixon(3, 4, 2)
        ...     flow = nc.Flow(problem, np.array([1.0, 2.0]), clock=nc.RealTime())
        ...     return flow, problem.init(key, norm)
        >>> data = nc.sweep(run, 2, grid={"norm": [0.1, 0.2]})
        >>> figure = nc.plotting.sweep_figure(data, nc.plotting.MIXON_PANELS, by="norm")
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['norm = 0.1', 'norm = 0.2', 'median, 10th to 90th percentile']
    """
    named, (figure, grid) = as_datasets(runs), panel_grid(panels)
    # Values that occur in several runs have one colour; the dict removes their repetitions.
    values = list(dict.fromkeys(v for data in named.values() for v in _coordinate(data, by)))
    colors = dict(zip(values, family_colors(values), strict=True))
    recorded = [recorded_axis(data) for data in named.values()]
    scale = scale_for(recorded)
    # If each panel has one variable, a line style means the same run in all panels, and one legend
    # of the figure names the runs. Otherwise each panel needs a legend.
    one_each = all(len(variables) == 1 for variables in panels.values())
    for axes, (title, variables) in zip(grid, panels.items(), strict=True):
        styles = _styles(named, variables)
        for (run, variable), style in styles.items():
            data = named[run]
            for i, value in enumerate(_coordinate(data, by)):
                each = curves(data.isel({by: i}), variable)
                x, drawn = scale.select(recorded_axis(data), each)
                draw_curve(axes, x, drawn, color=colors[value], ls=style)
        scale.apply(axes)
        label_measures(axes, title, scale.label(recorded[0]), variables)
        if not one_each:
            panel_legend(axes, lines=_lines(styles, len(named) > 1))
    names = list(map(text_of, named))
    figure_legend(
        figure,
        colors={f"{by} = {_shown(value)}": color for value, color in colors.items()},
        styles=dict(zip(names, cycle(LINE_STYLES), strict=False)) if one_each and names[1:] else {},
    )
    return figure


def _styles(runs: Iterable[Name], variables: Sequence[str]) -> dict[tuple[Name, str], str]:
    """A line style for each pair of a run and a variable of one panel."""
    pairs = [(run, variable) for run in runs for variable in variables]
    return dict(zip(pairs, cycle(LINE_STYLES), strict=False))


def _lines(styles: Mapping[tuple[Name, str], str], several: bool) -> dict[str, Line2D]:
    """Lines for the legend of a panel: by variable, and by run where there are several runs."""
    lines = {}
    for (run, variable), style in styles.items():
        label = f"{words(variable)}, {text_of(run)}" if several else words(variable)
        lines[label] = Line2D([], [], color=DARK, ls=style)
    return lines


def _coordinate(data: xr.Dataset, by: str) -> list[Hashable]:
    """The values of a swept coordinate; ValueError for what is no axis of the sweep."""
    if by not in data.dims or by not in data.coords:
        swept = [str(dim) for dim in data.dims if dim in data.coords]
        raise ValueError(
            f"by = {by!r}: give a dimension of the data set that has a coordinate; it has "
            f"{', '.join(swept) or 'none'}."
        )
    return data[by].values.tolist()


def _shown(value: Hashable) -> str:
    return number_text(value) if isinstance(value, float) else str(value)
