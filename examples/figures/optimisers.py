"""Figure of `optimisers.py`: which optimisers collapse minority classes on the way."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nc_jax.plotting.style import (
    BLUE,
    DARK,
    GREEN,
    ORANGE,
    PaperFigure,
    draw_curve,
    figure_legend,
    label_log_panel,
    label_panel,
    paper,
    set_log_values,
)

# A flow and the optimisers that follow it have one colour.
_LINES: dict[str, dict[str, Any]] = {
    "gradient flow": {"color": BLUE, "ls": "-", "marker": "o"},
    "GD": {"color": BLUE, "ls": "--", "marker": "s"},
    "sign flow": {"color": ORANGE, "ls": "-", "marker": "o"},
    "sign descent": {"color": ORANGE, "ls": "--", "marker": "s"},
    "Adam": {"color": ORANGE, "ls": "-.", "marker": "^"},
    "spectral flow": {"color": GREEN, "ls": "-", "marker": "o"},
    "Muon": {"color": GREEN, "ls": "--", "marker": "s"},
}
# Earlier the start decides the cosines.
_FIRST = 0.1


@paper()
def optimisers_figure(data: xr.Dataset) -> Figure:
    """Cosine of minority classifiers over time for the largest R, and t_B/t_A over R with its laws.

    Args: `data` of `optimisers.compute`. Curves are medians over seeds, in bands of percentiles.

    Returns: a Matplotlib `Figure` of two panels.
    """
    figure = PaperFigure(3.4)
    cosines, ratios = figure.subplots(1, 2)
    largest = int(data["ratio"].values.max())
    _draw_cosines(cosines, data.sel(ratio=largest))
    title = f"Minority classifiers, R = {largest}"
    label_panel(cosines, title, "t/t_A (marker: t_B)", "smallest cosine of two classifiers")
    has_law = _draw_ratios(ratios, data)
    label_log_panel(ratios, "Minorities after majorities", "imbalance R", "t_B/t_A")
    lines = {name: Line2D([], [], **_LINES[name]) for name in data["optimizer"].values.tolist()}
    if has_law:
        lines["law for ε → 0"] = Line2D([], [], color=DARK, ls=":")
    figure_legend(figure, lines=lines)
    return figure


def _draw_cosines(axes: Axes, runs: xr.Dataset) -> None:
    """The cosine of every optimiser over t/t_A, with a dot at the median t_B."""
    ends = [1.0]
    for name in runs["optimizer"].values.tolist():
        run, line = runs.sel(optimizer=name), _LINES[name]
        majority, minority = run["learned_time"].median("seed").values
        x = run["t"].values / majority
        drawn = x >= _FIRST
        cosine = 1 - run["minority_cosine_gap"].values[:, drawn]
        draw_curve(axes, x[drawn], cosine, color=line["color"], ls=line["ls"])
        at = minority / majority
        if np.isfinite(at):
            height = np.interp(at, x[drawn], np.median(cosine, axis=0))
            axes.plot(at, height, color=line["color"], ls="", marker=line["marker"])
            ends.append(at)
    axes.set_xlim(_FIRST, 2 * max(ends))
    set_log_values(axes)


def _draw_ratios(axes: Axes, data: xr.Dataset) -> bool:
    """Measured t_B/t_A of every optimiser, and its law; whether any has a law."""
    drawn = set()
    for name in data["optimizer"].values.tolist():
        run, line = data.sel(optimizer=name), _LINES[name]
        stages = run["learned_time"].median("seed")
        ratio = (stages.sel(stage="minority") / stages.sel(stage="majority")).values
        axes.plot(run["ratio"].values, ratio, **line)
        law = run["law"].values
        # A flow and the optimisers that follow it share a law.
        if np.isfinite(law).all() and tuple(law) not in drawn:
            axes.plot(run["ratio"].values, law, color=DARK, ls=":")
            drawn.add(tuple(law))
    set_log_values(axes)
    return bool(drawn)
