"""Figure of `minority_collapse.py`: where the classifiers of a group of classes coincide."""

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogFormatterSciNotation, NullLocator

from nc_jax.plotting.style import PaperFigure, figure_legend, label_panel, paper, set_log_values

# A black ring around the white one, so that points are visible on yellow and on violet.
_RING = [withStroke(linewidth=2, foreground="black")]
# A colour of the middle of the scale, for the legend.
_EXAMPLE = colormaps["viridis"](0.5)
_PANELS = {
    "mean loss": ("Minority classifiers, mean loss", "n = N²λ²"),
    "weighted by class": ("Majority classifiers, weighted loss", "K²Rnλ² = 1"),
}


@paper()
def phase_figure(minima: xr.Dataset, flows: xr.Dataset) -> Figure:
    """Cosine between two classifiers of a group at the minimum, over imbalance and decay.

    Args:
        minima: `cosine` (imbalance, decay, loss) and `threshold` (loss, imbalance).
        flows: `measured` and `decay` over (loss, factor), with the coordinate `imbalance`.

    Returns: a Matplotlib `Figure` of two panels. Cosines are missing where all classifiers of the
        group are 0.
    """
    figure = PaperFigure(3.1)
    panels = figure.subplots(1, 2)
    least = float(min(minima["cosine"].min(), flows["measured"].min()))
    handles = {}
    for axes, loss in zip(panels, minima["loss"].values, strict=True):
        chosen = minima.sel(loss=loss)
        x, y = chosen["imbalance"].values, chosen["decay"].values
        colors = {"cmap": "viridis", "vmin": least, "vmax": 1.0}
        axes.set_facecolor("0.85")
        mesh = axes.pcolormesh(x, y, chosen["cosine"].transpose("decay", "imbalance"), **colors)
        mesh.set_rasterized(True)
        (line,) = axes.plot(x, chosen["threshold"], color="black", lw=1.5)
        of_loss = flows.sel(loss=loss)
        at = np.full(of_loss.sizes["factor"], float(of_loss["imbalance"]))
        axes.scatter(
            at, of_loss["decay"], c=of_loss["measured"], s=22, edgecolors="white", linewidths=1,
            path_effects=_RING, **colors,
        )  # fmt: skip
        point = Line2D(
            [], [], ls="", marker="o", ms=5, mew=1, mec="white", mfc=_EXAMPLE, path_effects=_RING
        )
        handles = {"exact threshold": line, "end of a flow, in the colour of its cosine": point}
        set_log_values(axes)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatterSciNotation())
        axes.yaxis.set_minor_locator(NullLocator())
        title, condition = _PANELS[str(loss)]
        label_panel(axes, f"{title}\nmerged above {condition}", "imbalance R", "weight decay λ")
        axes.grid(False)
    bar = figure.colorbar(panels[0].collections[0], ax=panels)
    bar.set_label("cosine (grey: classifiers are 0)")
    figure_legend(figure, lines=handles)
    return figure
