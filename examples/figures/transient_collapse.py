"""Figure of `minority_collapse.py`: minority classes that coincide for a while without decay."""

import numpy as np
import xarray as xr
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
    shades,
)

_X_LABEL = "t / log(1/ε)"


@paper()
def transient_figure(data: xr.Dataset) -> Figure:
    """Contrasts within both groups over time, the minority's cosine gap, and times of learning.

    Args: `data` of `transient_collapse.transient_flows`. Curves are medians over seeds, in bands of
        percentiles.

    Returns: a Matplotlib `Figure` of three panels.
    """
    figure = PaperFigure(3.1)
    contrasts, cosines, stages = figure.subplots(1, 3)
    norms, colors = data["norm"].values, shades(data.sizes["norm"])
    x = data["scaled_time"].values
    for i, color in enumerate(colors):
        run = data.isel(norm=i)
        draw_curve(contrasts, x, run["majority_contrast"].values, color=color)
        draw_curve(contrasts, x, run["minority_contrast"].values, color=color, ls="--")
        draw_curve(cosines, x, run["minority_cosine_gap"].values, color=color)
    large, small = (int(size) for size in data["class_size"].values)
    for axes in (contrasts, cosines):
        for size in (large, small):
            axes.axvline(1 / np.sqrt(size), color=DARK, ls=":", lw=1.2)
            axes.annotate(
                f"1/√{size}", (1 / np.sqrt(size), 0.02), xycoords=("data", "axes fraction"),
                xytext=(3, 0), textcoords="offset points", color=DARK,
            )  # fmt: skip
    label_log_panel(contrasts, "Classifiers minus group mean", _X_LABEL, "norm")
    title = "Minority classifiers"
    label_log_panel(cosines, title, _X_LABEL, "1 − smallest cosine")
    _draw_stage_times(stages, data)
    figure_legend(
        figure,
        colors={f"ε = {number_text(norm)}": c for norm, c in zip(norms, colors, strict=True)},
        styles={
            f"majorities, n = {large}": "-", f"minorities, n = {small}": "--",
            "predicted time": ":",
        },
    )  # fmt: skip
    return figure


def _draw_stage_times(axes, data: xr.Dataset) -> None:
    """Measured times as dots, and lines of the predicted slope through the last of them."""
    units = np.log(1 / data["norm"].values)
    last = units.argmax()
    lines = {}
    for j, color in enumerate((BLUE, ORANGE)):
        measured = data["learned_time"].median("seed").values[:, j]
        predicted = data["predicted_time"].values[:, j]
        name, size = data["stage"].values[j], int(data["class_size"].values[j])
        axes.plot(units, measured, "o", color=color)
        axes.plot(units, predicted - predicted[last] + measured[last], color=color)
        lines[f"{name}, line: slope 1/√{size}"] = Line2D([], [], color=color, marker="o")
    axes.set_ylim(bottom=0)
    label_panel(axes, "Time of learning", "log(1/ε)", "time t")
    panel_legend(axes, lines=lines)
