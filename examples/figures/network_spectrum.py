"""Figure of `network_spectrum.py`: densities, outliers by class, and sharpness by layer."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nc_jax.plotting.style import (
    BLUE,
    DARK,
    GREY,
    ORANGE,
    PaperFigure,
    label_panel,
    panel_legend,
    paper,
    set_log_values,
)

COLORS = {"Hessian": DARK, "Gauss-Newton": ORANGE}
# The density of one eigenvalue among 10^5 is above this share of the largest density.
_FLOOR = 2e-6
PART_COLORS = {"class": BLUE, "cross-class": ORANGE, "within": GREY, "label": "black"}


@paper()
def spectrum_figure(found: xr.Dataset) -> Figure:
    """Densities of the eigenvalues, the largest by their parts, and the largest of each layer.

    Args:
        found: over `kind` (Hessian, Gauss-Newton): `grid` and `density` (kind, point), `largest`
            (kind, number), `sharpness` (kind, layer); and of the Gauss-Newton matrix `part_value`
            (number, part), which add up to `largest`, `class_value` and `cross_value`, the
            eigenvalues of two parts.

    Returns: a Matplotlib `Figure` of three panels.
    """
    figure = PaperFigure(3.4)
    left, middle, right = figure.subplots(1, 3)
    _draw_densities(left, found)
    _draw_outliers(middle, found)
    _draw_layers(right, found)
    for axes in (left, middle, right):
        panel_legend(axes)
    return figure


def _draw_densities(axes: Axes, found: xr.Dataset) -> None:
    """Both densities on a log scale, with a tick below for each of the largest eigenvalues."""
    floor = _FLOOR * float(found["density"].max())
    for row, (kind, color) in enumerate(COLORS.items()):
        one = found.sel(kind=kind)
        density = one["density"].where(one["density"] > floor)
        axes.plot(one["grid"].values, density.values, color=color, lw=1.1, label=kind)
        height = np.full(one.sizes["number"], floor / 10 ** (0.3 + 0.5 * row))
        axes.plot(one["largest"].values, height, "|", color=color, ms=5)
    axes.set_yscale("log")
    label_panel(axes, "Density (ticks: the largest)", "eigenvalue", "density")


def _draw_outliers(axes: Axes, found: xr.Dataset) -> None:
    """The largest eigenvalues of the Gauss-Newton matrix as stacked bars of their parts."""
    numbers = np.arange(1, found.sizes["number"] + 1)
    below = np.zeros(len(numbers))
    for part, color in PART_COLORS.items():
        values = found["part_value"].sel(part=part).values
        axes.bar(numbers, values, bottom=below, width=0.85, color=color, label=part)
        below = below + values
    classes, cross = found["class_value"].values, found["cross_value"].values
    style = {"mec": "black", "mew": 0.6, "ms": 3, "lw": 0}
    after = np.arange(len(classes) + 1, len(classes) + len(cross) + 1)
    shown = after <= len(numbers)
    axes.plot(
        np.arange(1, len(classes) + 1), classes, "o", color=BLUE, label="of class means alone",
        **style,
    )  # fmt: skip
    axes.plot(
        after[shown], cross[shown], "s", color=ORANGE, label="of cross-class means alone", **style
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    label_panel(axes, "Largest of Gauss-Newton", "number", "eigenvalue, by part")


def _draw_layers(axes: Axes, found: xr.Dataset) -> None:
    """The largest eigenvalue of the block of each layer, and of the whole matrix."""
    layers = [str(layer) for layer in found["layer"].values]
    places = np.arange(len(layers))
    for row, (kind, color) in enumerate(COLORS.items()):
        values = found["sharpness"].sel(kind=kind).values
        axes.barh(places + 0.38 * (row - 0.5), values, height=0.36, color=color, label=kind)
    set_log_values(axes)
    axes.set_yticks(places, layers)
    axes.invert_yaxis()
    label_panel(axes, "Largest of each layer's block", "largest eigenvalue", "layer")
