"""Figure of `losses.py`: gap, collapse and loss along the flows of several losses."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from nc_jax.plotting import as_dataset, curves, recorded_axis
from nc_jax.plotting.style import (
    DARK,
    LOG_LOG,
    PaperFigure,
    draw_curve,
    family_colors,
    figure_legend,
    label_log_panel,
    label_panel,
    paper,
    y_label,
)

_VARIATION = "ji_within_class_variation"
_PANELS = {
    "margin_min": ("(a) Logit gap", "smallest $z_y - z_j$"),
    _VARIATION: ("(b) Within-class variation", y_label(_VARIATION)),
    "zhu_nc2": ("(c) Classifiers against a simplex", y_label("zhu_nc2")),
}
_STYLES = ("-", "--", "-.", ":")
_MARKER: dict[str, Any] = {"ls": "", "marker": "o", "ms": 3.5, "mfc": "none"}


@paper()
def losses_figure(flows: Mapping[str, xr.Dataset]) -> Figure:
    """The flows of several losses from one start: gap, within-class variation, NC2 and late loss.

    Args: `flows` by the name of the loss, each with the variables `margin_min`, `predicted_gap`,
        `ji_within_class_variation` and `zhu_nc2`, and where the flow does not converge `log_share`,
        the logarithm of L t log t divided by its limit.

    Returns: a Matplotlib `Figure` of four panels over log log time.
    """
    figure = PaperFigure(5.2)
    *panels, late = figure.subplots(2, 2).flat
    lines, colors = {}, family_colors(list(flows))
    for i, ((name, runs), color) in enumerate(zip(flows.items(), colors, strict=True)):
        data, style = as_dataset(runs), _STYLES[i % len(_STYLES)]
        line, axis = {"color": color, "ls": style, "lw": 1.3}, recorded_axis(data)
        for axes, variable in zip(panels, _PANELS, strict=True):
            draw_curve(axes, *LOG_LOG.select(axis, curves(data, variable)), **line)
        x, predicted = LOG_LOG.select(axis, curves(data, "predicted_gap"))
        known = np.flatnonzero(np.isfinite(predicted[0]))[::10]
        panels[0].plot(
            x[known], predicted[0, known], color=color, ls="", marker="o", ms=3.5, mfc="none"
        )
        if "log_share" in data:
            x, share = LOG_LOG.select(axis, np.exp(curves(data, "log_share")))
            draw_curve(late, x, share, **line)
        lines[name] = Line2D([], [], color=color, ls=style, lw=1.3)
    for axes, (title, label) in zip(panels, _PANELS.values(), strict=True):
        label_log_panel(axes, title, "time t (log log scale)", label)
    # Gaps are negative while samples are classified wrongly.
    panels[0].set_ylim(bottom=0.1)
    label_panel(late, "(d) Loss of flows that do not converge", "time t (log log scale)", "")
    late.set_ylabel("L t log t / limit V/(2(γ+1))")
    late.axhline(1, color=DARK, lw=0.8)
    late.set_ylim(0, 1.2)
    for axes in figure.axes:
        LOG_LOG.apply(axes)
        axes.xaxis.set_minor_locator(NullLocator())
    lines["predicted gap"] = Line2D([], [], color=DARK, **_MARKER)
    figure_legend(figure, lines=lines)
    return figure
