"""Figure of `seed_sweep.py`: the share of starts that have not collapsed, over time."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from nc_jax.plotting import recorded_axis
from nc_jax.plotting.style import (
    LOG_LOG,
    WILSON,
    PaperFigure,
    figure_legend,
    fill_band,
    label_log_panel,
    panel_legend,
    paper,
    shades,
)


@paper()
def uncollapsed_figure(sweep: xr.Dataset) -> Figure:
    """Share of starts that have not collapsed over time, both on log scales.

    Args: `sweep` with `uncollapsed` over (num_classes, excess, time), where d = K + excess, and the
        dimension `seed`, whose size sets the band: Wilson's interval of 95 %.

    Returns: a Matplotlib `Figure` with a panel for each K, from t = 10 on; a curve ends where all
        starts have collapsed.
    """
    classes, excess = sweep["num_classes"].values, sweep["excess"].values
    num_runs, axis = sweep.sizes["seed"], recorded_axis(sweep)
    shares = sweep["uncollapsed"].transpose("num_classes", "excess", "time").values
    figure = PaperFigure(2.8)
    grid = figure.subplots(1, len(classes), sharey=True, squeeze=False)[0]
    decades = LOG_LOG.positions(axis)
    for axes, num_classes, of_classes in zip(grid, classes, shares, strict=True):
        for more, share, color in zip(excess, of_classes, shades(len(excess)), strict=True):
            # The logarithmic axis of shares cannot show 0.
            drawn = (decades >= 1) & (share > 0)
            x, left = decades[drawn], share[drawn]
            low, high = wilson_interval(left, num_runs)
            fill_band(axes, x, low, high, color=color, meaning=WILSON)
            axes.plot(x, left, color=color, label=f"d = {num_classes + more}")
        title = f"K = {num_classes}"
        label_log_panel(axes, title, LOG_LOG.label(axis), "share of starts not collapsed")
        LOG_LOG.apply(axes)
        axes.label_outer()
        axes.set_yscale("log")
        axes.set_xlim(1, decades[-1])
        # The smallest share is that of one start, 1 / num_runs.
        axes.set_ylim(0.5 / num_runs, 1.3)
        panel_legend(axes)
    figure_legend(figure)
    return figure


def wilson_interval(share: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval of 95 % for the probability of an event, by its share of `count` trials."""
    z2 = 1.96**2 / count
    centre, half = share + z2 / 2, np.sqrt(z2 * (share * (1 - share) + z2 / 4))
    return (centre - half) / (1 + z2), (centre + half) / (1 + z2)
