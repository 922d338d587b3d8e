"""Figure of `ulpm_kkt.py`: how nearly the direction of a flow is a KKT point."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nc_jax.plotting import as_dataset, curves, recorded_axis
from nc_jax.plotting.style import (
    BLUE,
    DARK,
    LOG_LOG,
    PaperFigure,
    draw_curve,
    figure_legend,
    label_log_panel,
    paper,
)

_RESIDUALS = {
    "epsilon": ("Stationarity", "ε = ‖θ − Σλ∇s‖"),
    "delta": ("Complementary slackness", "δ = Σλ(s − 1)"),
}


@paper()
def kkt_figure(runs: xr.Dataset) -> Figure:
    """The residuals ε and δ with the bounds of Ji's lemma B.1, and the margin, over time.

    Args: `runs` with the variables `epsilon`, `epsilon_bound`, `delta`, `delta_bound` and
        `max_margin_ratio`; medians over seeds are drawn in bands.

    Returns: a Matplotlib `Figure` of three panels over log log time.
    """
    data = as_dataset(runs)
    axis = recorded_axis(data)
    figure = PaperFigure(2.6)
    *residuals, margin = figure.subplots(1, 3)
    for axes, (name, (title, label)) in zip(residuals, _RESIDUALS.items(), strict=True):
        x, bound = LOG_LOG.positions(axis), _finite(curves(data, f"{name}_bound"))
        draw_curve(axes, x, _finite(curves(data, name)), color=BLUE)
        draw_curve(axes, x, bound, color=DARK, ls="--")
        label_log_panel(axes, title, LOG_LOG.label(axis), label)
    missing = 1 - _finite(curves(data, "max_margin_ratio"))
    draw_curve(margin, LOG_LOG.positions(axis), missing, color=BLUE)
    title = "Distance from largest margin"
    label_log_panel(margin, title, LOG_LOG.label(axis), "1 − margin / largest")
    for axes in figure.axes:
        LOG_LOG.apply(axes)
    bound = Line2D([], [], color=DARK, ls="--")
    lines = {"measured": Line2D([], [], color=BLUE), "bound of lemma B.1": bound}
    figure_legend(figure, lines=lines)
    return figure


def _finite(values: np.ndarray) -> np.ndarray:
    """The values with NaN, a gap in the curve, in the place of infinite residuals.

    A residual is infinite while a start is not separated.
    """
    return np.where(np.isfinite(values), values, np.nan)
