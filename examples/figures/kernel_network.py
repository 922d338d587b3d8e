"""Figure of `kernel_network.py`: a network, its kernel model, and what the model leaves out."""

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
    PURPLE,
    PaperFigure,
    figure_legend,
    label_log_panel,
    label_panel,
    panel_legend,
    paper,
    y_label,
)

# Line of each run: the network is solid, its models are dashed.
_LINES = {"network": (DARK, "-"), "class kernel": (ORANGE, "--"), "block kernel": (GREEN, "-.")}
# Width of the lines of the distances of features and of logits.
_WIDTHS = {"feature": 2.2, "logit": 0.9}
_PANELS = {
    "loss": ("(a) Training loss", "cross-entropy"),
    "cdnv": ("(b) Variation within classes", y_label("cdnv")),
    "ji_feature_cosine_gap": ("(c) Class means", y_label("ji_feature_cosine_gap")),
    "mean_norm": ("(d) Norm of class means", "norm, centred"),
}


@paper()
def kernel_figure(comparison: xr.Dataset, parts: xr.Dataset) -> Figure:
    """Measures of a network and of two models over time, and the parts of the kernel.

    Args:
        comparison: measures over (run, time), distances over (model, later), with the times `t`.
        parts: `share` and `fall` over (end, part).

    Returns: a Matplotlib `Figure` of six panels.
    """
    figure = PaperFigure(4.9)
    panels = figure.subplots(2, 3).flat
    times = comparison["t"].values[1:]
    for axes, (name, (title, label)) in zip(panels, _PANELS.items(), strict=False):
        for run, (color, style) in _LINES.items():
            values = comparison[name].sel(run=run).values[1:]
            axes.plot(times, values, color=color, ls=style)
        axes.set_xscale("log")
        label_log_panel(axes, title, "time t", label)
    _draw_distances(panels[4], comparison, times)
    _draw_parts(panels[5], parts)
    figure_legend(
        figure,
        lines={
            name if name == "network" else f"model, {name}": Line2D([], [], color=color, ls=style)
            for name, (color, style) in _LINES.items()
        },
    )
    return figure


def _draw_distances(axes: Axes, comparison: xr.Dataset, times: np.ndarray) -> None:
    """Distances of the models from the network, of features as thick lines and of logits."""
    for model in comparison["model"].values:
        color, style = _LINES[str(model)]
        for name, width in _WIDTHS.items():
            values = comparison[f"{name}_distance"].sel(model=model).values
            axes.plot(times, values, color=color, ls=style, lw=width)
    axes.set_xscale("log")
    axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
    label_panel(
        axes,
        "(e) Distance of the models",
        "time t",
        "over the distance of the\nnetwork from its start",
    )
    panel_legend(axes, lines={
        f"{name}s": Line2D([], [], color=DARK, ls="--", lw=width) for name, width in _WIDTHS.items()
    })  # fmt: skip


def _draw_parts(axes: Axes, parts: xr.Dataset) -> None:
    """Shares of the parts of the kernel in its squares, and in the fall of the loss."""
    names = [str(name) for name in parts["part"].values]
    places = np.arange(len(names))
    bars = {
        "squares, start": (parts["share"].sel(end="start"), DARK),
        "squares, end": (parts["share"].sel(end="end"), BLUE),
        "fall, start": (parts["fall"].sel(end="start"), PURPLE),
    }
    for row, (label, (values, color)) in enumerate(bars.items()):
        axes.barh(places + 0.27 * (row - 1), values.values, height=0.25, color=color, label=label)
    axes.axvline(0, color="black", lw=0.6)
    axes.set_yticks(places, [name.replace(" ", "\n", 1) for name in names])
    axes.invert_yaxis()
    label_panel(axes, "(f) Parts of the kernel", "share", "part")
    panel_legend(axes)
