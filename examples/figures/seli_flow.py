"""Figure of `seli_flow.py`: norms and angles of unequal classes over time, and their prediction."""

import math

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nc_jax.plotting.style import (
    DARK,
    LINE_STYLES,
    PaperFigure,
    figure_legend,
    label_log_panel,
    label_panel,
    panel_legend,
    paper,
    set_log_log_time,
    shades,
)

# Distances below this are rounding errors, as for classes of one size.
_LEAST = 1e-13
_TIME = "time t (log log scale)"
_FROM_PREDICTION = "distance_from_prediction"


@paper()
def seli_figure(runs: xr.Dataset) -> Figure:
    """Norm ratio, angle, distances from limit and prediction, and the value read off the loss.

    Args: `runs` over (ratio, time), with `measured`, `predicted` and `limit` over the quantities
        "norm_ratio" and "minority_angle", `distance_from_limit`, `distance_from_prediction`,
        `value_from_loss`, `value_crude` and `value`.

    Returns: a Matplotlib `Figure` of four panels over log log time.
    """
    figure = PaperFigure(5.4)
    norms, angles, distances, values = figure.subplots(2, 2).flat
    _draw_quantity(norms, runs.sel(quantity="norm_ratio"))
    label_log_panel(norms, "(a) Norms of classifiers", _TIME, "‖w‖² of a large / a small class")
    _draw_quantity(angles, runs.sel(quantity="minority_angle"))
    label_panel(angles, "(b) Angle of two small classes", _TIME, "angle of classifiers, degrees")
    names = {"from the limit": "distance_from_limit", "from the prediction at t": _FROM_PREDICTION}
    _draw(distances, runs, names)
    label_log_panel(distances, "(c) Distances", _TIME, "distance of WWᵀ/tr(WWᵀ)")
    relative = runs[["value_from_loss", "value_crude"]] / runs["value"]
    _draw(values, relative, {"V ≈ L $e^q$": "value_from_loss", "V ≈ 2Lt log t": "value_crude"})
    label_panel(values, "(d) V by the loss L at time t", _TIME, "V by the loss / V")
    values.set_ylim(0.75, 1.05)
    for axes in figure.axes:
        set_log_log_time(axes)
    figure_legend(figure, colors={f"R = {ratio}": color for ratio, color in _colors(runs).items()})
    return figure


def _colors(runs: xr.Dataset) -> dict[int, np.ndarray]:
    ratios = runs["ratio"].values.tolist()
    return dict(zip(ratios, shades(len(ratios)), strict=True))


def _decades(runs: xr.Dataset) -> np.ndarray:
    return runs["log_time"].values / math.log(10)


def _draw_quantity(axes: Axes, runs: xr.Dataset) -> None:
    """Measured and predicted curves, and the limit as a horizontal line."""
    _draw(axes, runs, {"measured": "measured", "predicted at t": "predicted"}, limit=":")
    for ratio, color in _colors(runs).items():
        axes.axhline(runs["limit"].sel(ratio=ratio).item(), color=color, ls=":", lw=0.9)


def _draw(axes: Axes, runs: xr.Dataset, names: dict[str, str], **others: str) -> None:
    """Variables by their names in the legend, in the colour of the imbalance.

    Each variable has a line style; `others` are the styles of further entries of the legend.
    """
    decades, styles = _decades(runs), dict(zip(names, LINE_STYLES, strict=False))
    for ratio, color in _colors(runs).items():
        for name, variable in names.items():
            values = runs[variable].sel(ratio=ratio).values
            drawn = values > _LEAST
            axes.plot(decades[drawn], values[drawn], color=color, ls=styles[name])
    entries = styles | others
    lines = {name: Line2D([], [], color=DARK, ls=style) for name, style in entries.items()}
    panel_legend(axes, lines=lines)
