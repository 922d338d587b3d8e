"""Figure of `superclasses.py`: coarse contrasts before fine ones, and cosines at late times."""

import math

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nc_jax.plotting.style import (
    BLUE,
    DARK,
    ORANGE,
    PaperFigure,
    draw_curve,
    figure_legend,
    label_log_panel,
    label_panel,
    number_text,
    panel_legend,
    paper,
    set_log_log_time,
    shades,
)

_COLORS = (BLUE, ORANGE)


@paper()
def superclasses_figure(stages: xr.Dataset, late: xr.Dataset) -> Figure:
    """Contrasts over time, times of learning, and cosines of classifiers and of class means.

    Args:
        stages: `contrast` over (norm, stage, seed, save), `learned_time` over (norm, stage, seed),
            `predicted_time` over (norm, stage), with the coordinates `rate` and `scaled_time`.
        late: `measured` and `predicted` over (time, object, pair) and `limit` over (object, pair).

    Returns: a Matplotlib `Figure` of four panels.
    """
    figure = PaperFigure(5.6)
    contrasts, times, classifiers, means = figure.subplots(2, 2).flat
    norms, colors = stages["norm"].values, shades(stages.sizes["norm"])
    x = stages["scaled_time"].values
    for i, color in enumerate(colors):
        for j, style in enumerate(("-", "--")):
            curves = stages["contrast"].isel(norm=i, stage=j).values
            draw_curve(contrasts, x, curves, color=color, ls=style)
    for rate in stages["rate"].values:
        contrasts.axvline(1 / rate, color=DARK, ls=":", lw=1.2)
    label_log_panel(contrasts, "(a) Contrasts of classifiers", "t / log(1/ε)", "norm")
    _draw_times(times, stages)
    _draw_cosines(classifiers, late.isel(object=0))
    label_panel(classifiers, "(c) Classifiers", "time t (log log scale)", "cosine")
    _draw_cosines(means, late.isel(object=1))
    label_panel(means, "(d) Class means", "time t (log log scale)", "cosine")
    figure_legend(
        figure,
        colors={f"ε = {number_text(norm)}": c for norm, c in zip(norms, colors, strict=True)},
        styles={"super-classes": "-", "classes within them": "--", "1/√μ": ":"},
    )
    return figure


def _draw_times(axes: Axes, stages: xr.Dataset) -> None:
    """Measured times as dots, and lines of the predicted slope through the last of them."""
    units = np.log(1 / stages["norm"].values)
    last = units.argmax()
    lines = {}
    for j, color in enumerate(_COLORS):
        measured = stages["learned_time"].median("seed").values[:, j]
        predicted = stages["predicted_time"].values[:, j]
        axes.plot(units, measured, "o", color=color)
        axes.plot(units, predicted - predicted[last] + measured[last], color=color)
        name, square = ("super-classes", "classes")[j], stages["rate"].values[j] ** 2
        lines[f"{name}, slope 1/√{square:.3g}"] = Line2D([], [], color=color, marker="o")
    axes.set_ylim(bottom=0)
    label_panel(axes, "(b) Time of learning", "log(1/ε)", "time t")
    panel_legend(axes, lines=lines)


def _draw_cosines(axes: Axes, late: xr.Dataset) -> None:
    """Cosines of two pairs of classes: measured, predicted and in the limit."""
    decades = late["log_time"].values / math.log(10)
    lines = {}
    for j, color in enumerate(_COLORS):
        pair = late.isel(pair=j)
        axes.plot(decades, pair["measured"].values, color=color)
        axes.plot(decades, pair["predicted"].values, color=DARK, ls="--", lw=0.9)
        axes.axhline(pair["limit"].item(), color=color, ls=":", lw=0.9)
        lines[str(late["pair"].values[j])] = Line2D([], [], color=color)
    lines["predicted at t"] = Line2D([], [], color=DARK, ls="--", lw=0.9)
    lines["limit"] = Line2D([], [], color=DARK, ls=":", lw=0.9)
    set_log_log_time(axes)
    panel_legend(axes, lines=lines)
