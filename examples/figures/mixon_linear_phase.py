"""Figure of `mixon_linear_phase.py`: how long the linear solution follows the flow."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from nc_jax.plotting import curves, recorded_axis
from nc_jax.plotting.style import (
    LINEAR,
    PaperFigure,
    draw_curve,
    figure_legend,
    label_log_panel,
    number_text,
    panel_legend,
    paper,
    shades,
)


@paper()
def linear_phase_figure(flows: xr.Dataset, threshold: float) -> Figure:
    """The distance of the flow from the linear solution of Mixon's theorem 2, by start norm ε.

    Args:
        flows: over (norm, seed, time) with `linear_gap`, `deviation`, `linear_deviation` and
            `bound`, the last three over ε; medians over seeds are drawn in bands.
        threshold: the `linear_gap` at the hand-over, drawn as a line.

    Returns: a Matplotlib `Figure` of two panels.
    """
    figure = PaperFigure(3.0)
    left, right = figure.subplots(1, 2)
    axis, norms = recorded_axis(flows), flows["norm"].values
    time, colors = LINEAR.positions(axis), shades(len(norms))
    for i, color in enumerate(colors):
        of_norm = flows.isel(norm=i)
        draw_curve(left, time, curves(of_norm, "linear_gap"), color=color)
        draw_curve(right, time, curves(of_norm, "deviation"), color=color)
    # Divided by ε, the linear solution and its bound do not depend on the norm, so that those of
    # the first norm are drawn.
    first = flows.isel(norm=0)
    linear, bound = curves(first, "linear_deviation"), curves(first, "bound")
    draw_curve(right, time, linear, color="black", ls="--", label="linear solution")
    draw_curve(right, time, bound, color="black", ls=":", label="its bound (theorem 2)")
    left.axhline(threshold, color="black", ls=":", lw=1.2, label=f"hand-over, {threshold:g}")
    gap = "relative distance from linear solution"
    label_log_panel(left, "Flow against linear solution", LINEAR.label(axis), gap)
    deviation = r"‖U(t) − $e^{\sqrt{n}t}$Π$_T$U$_0$‖ / ε"
    title = "Distance from the growing part alone"
    label_log_panel(right, title, LINEAR.label(axis), deviation)
    # The distance at the end is cut off, so that the crossing of the flow and the bound is visible.
    right.set_ylim(0.5 * np.nanmin(linear), 100 * np.nanmax(bound))
    for axes in (left, right):
        panel_legend(axes)
    colors_of_norms = {f"ε = {number_text(norm)}": c for norm, c in zip(norms, colors, strict=True)}
    figure_legend(figure, colors=colors_of_norms)
    return figure
