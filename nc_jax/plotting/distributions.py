"""Figures of variables with a number for each sample: sorted margins and histograms."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ..trajectory import Trajectory
from .recordings import RecordedAxis, Runs, as_dataset, as_datasets, recorded_axis, samples
from .style import (
    COLUMN,
    LINE_STYLES,
    PaperFigure,
    draw_range,
    figure_legend,
    label_panel,
    number_text,
    paper,
    shades,
    y_label,
)
from .training import colors_and_styles, parts


@paper()
def sorted_margins_figure(runs: Runs) -> Figure:
    """Sorted margins of all samples at the end of runs, as Rangamani's figure 3.

    Args: `runs` with the variable `margins` over samples, such as the `data` of `cnn.train`, or
        several by name, or by pairs of names, as in `training_figure`.

    Returns: a Matplotlib `Figure`: means over runs in a band from the least to the largest.

    Raises: ValueError for what is no data set, or one without margins of samples.

    Example:
        >>> import xarray as xr
        >>> margins = (("epoch", "sample"), [[0.0, 0.0, 0.0], [2.0, -1.0, 1.0]])
        >>> data = xr.Dataset({"margins": margins}, {"epoch": [0, 1]})
        >>> [axes] = nc.plotting.sorted_margins_figure(data).axes
        >>> axes.lines[0].get_ydata()
        array([-1.,  1.,  2.])
    """
    named = as_datasets(runs)
    figure = PaperFigure(2.8, width=COLUMN)
    axes = figure.subplots()
    colors, styles = colors_and_styles(named)
    for name, data in named.items():
        margins = np.sort(samples(data, "margins")[:, -1])
        rank = np.linspace(0, 1, margins.shape[1])
        first, second = parts(name)
        style = LINE_STYLES[styles[second] % len(LINE_STYLES)]
        draw_range(axes, rank, margins, color=colors[first], ls=style)
    dim = recorded_axis(next(iter(named.values()))).dim
    label_panel(axes, f"At the last {dim}", "share of samples, by margin", "margin")
    figure_legend(
        figure,
        colors=colors if len(named) > 1 else {},
        styles={name: LINE_STYLES[i % len(LINE_STYLES)] for name, i in styles.items() if name},
    )
    return figure


@paper()
def histograms_figure(
    run: xr.Dataset | Trajectory, *, variable: str = "margins", num_rows: int = 8
) -> Figure:
    """How the distribution of a variable over samples changes, as Rangamani's figures 4 and 5.

    Args:
        run: a data set, of which the first run is drawn, or a trajectory.
        variable: one with a number for each sample.
        num_rows: largest number of histograms. They are those of the saves whose means come nearest
            to evenly spaced values.

    Returns: a Matplotlib `Figure`, one histogram above the other on one axis.

    Raises: ValueError for what is no data set, and for a variable that it lacks or that has one
        number at each save.

    Example:
        >>> import xarray as xr
        >>> margins = (("epoch", "sample"), [[0.0, 0.1], [0.4, 0.6], [1.0, 1.2]])
        >>> data = xr.Dataset({"margins": margins}, {"epoch": [0, 10, 20]})
        >>> figure = nc.plotting.histograms_figure(data, num_rows=2)
        >>> [axes.texts[0].get_text() for axes in figure.axes]
        ['epoch 0', 'epoch 20']
    """
    data = as_dataset(run)
    values, labels = samples(data, variable)[0], _labels(recorded_axis(data))
    # Saves after an early end are NaN.
    known = np.all(np.isfinite(values), axis=1)
    labels = [label for label, is_known in zip(labels, known, strict=True) if is_known]
    figure = _histograms(values[known], labels, num_rows)
    plural = {"time": "time", "step": "steps", "epoch": "epochs"}[recorded_axis(data).dim]
    title = f"{variable.replace('_', ' ').capitalize()} of the samples over {plural}"
    figure.suptitle(title)
    figure.axes[-1].set_xlabel(y_label(variable))
    return figure


def _labels(axis: RecordedAxis) -> list[str]:
    """A text for each save: its time, step or epoch."""
    prefix = {"time": "t =", "step": "step", "epoch": "epoch"}[axis.dim]
    form = ".3g" if axis.dim == "time" else ".0f"
    return [f"{prefix} {number_text(float(f'{value:{form}}'))}" for value in axis.values]


def _histograms(values: Float[np.ndarray, "T N"], labels: Sequence[str], count: int) -> Figure:
    """Histograms of up to `count` rows, chosen so that their mean is evenly spaced."""
    means = values.mean(axis=1)
    wanted = np.linspace(means[0], means[-1], count)
    chosen = np.unique([0, *np.abs(means[:, None] - wanted).argmin(axis=0), len(values) - 1])
    edges = np.linspace(values[chosen].min(), values[chosen].max(), 41)
    # Each histogram has a panel, since eight histograms in one panel would hide each other.
    figure = PaperFigure(0.8 + 0.42 * len(chosen), width=COLUMN)
    panels = figure.subplots(len(chosen), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    for axes, row, color in zip(panels, chosen, shades(len(chosen)), strict=True):
        axes.hist(values[row], edges, color=color)
        axes.set_yscale("log")
        # On a log axis that began at 1 a bar of one sample would have no height.
        axes.set_ylim(bottom=0.5)
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(True, which="major")
        axes.text(1.01, 0.5, labels[row], transform=axes.transAxes, va="center")
    figure.supylabel("number of samples", size="medium")
    return figure
