"""Figure of `zhu_landscape.py`: spectra, critical points found, and escape directions."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import SymmetricalLogLocator

from nc_jax.plotting import curves
from nc_jax.plotting.style import (
    BLUE,
    DARK,
    GREY,
    ORANGE,
    PaperFigure,
    label_log_panel,
    label_panel,
    panel_legend,
    paper,
    shades,
)

# Eigenvalues closer to 0 than this are drawn as zero.
_ZERO = 1e-8


@paper()
def landscape_figure(explicit: xr.Dataset, found: xr.Dataset, flows: xr.Dataset) -> Figure:
    """Spectra at the explicit points, the critical points found with flows, and escape directions.

    Args:
        explicit: over `name`, the critical points with a closed form: `eigenvalue` (name, number)
            of the Hessian, and `excess` (name, step), the loss over the least along the escape
            direction of a point, NaN for points without one.
        found: over `point`, the critical points found: `eigenvalue`, the smallest, and `excess`.
        flows: over (seed, time) with `eigenvalue` and `excess`.

    Returns: a Matplotlib `Figure` of three panels.
    """
    figure = PaperFigure(3.0)
    left, middle, right = figure.subplots(1, 3)
    _draw_spectra(left, explicit)
    _draw_search(middle, found, flows)
    _draw_escapes(right, explicit)
    for axes in (middle, right):
        panel_legend(axes)
    return figure


def _draw_spectra(axes: Axes, explicit: xr.Dataset) -> None:
    """A row of eigenvalues for each point, drawn larger the more often they occur."""
    names = [str(name) for name in explicit["name"].values]
    for row, values in enumerate(explicit["eigenvalue"].values):
        rounded, counts = np.unique(np.round(values, 9), return_counts=True)
        colors = np.where(rounded < -_ZERO, ORANGE, np.where(rounded > _ZERO, BLUE, DARK))
        axes.scatter(rounded, np.full(rounded.size, row), s=5 * counts, c=list(colors), alpha=0.6)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    _set_symlog(axes)
    axes.margins(x=0.1, y=0.12)
    signs = {"negative": ORANGE, "zero": DARK, "positive": BLUE}
    panel_legend(
        axes, lines={s: Line2D([], [], color=c, marker="o", ls="") for s, c in signs.items()}
    )
    title = "Hessian (area: multiplicity)"
    label_panel(axes, title, "eigenvalue", "critical point")


def _draw_search(axes: Axes, found: xr.Dataset, flows: xr.Dataset) -> None:
    """Smallest eigenvalue against the loss, along flows and of the critical points found."""
    pairs = zip(curves(flows, "excess"), curves(flows, "eigenvalue"), strict=True)
    for i, (x, y) in enumerate(pairs):
        axes.plot(x, y, ".-", color=GREY, ms=2, lw=0.4, label=None if i else "flows")
    axes.plot(
        found["excess"].values, found["eigenvalue"].values, "o", color=ORANGE, ms=4.5, mec="black",
        mew=0.5, label="critical points found",
    )  # fmt: skip
    axes.axhline(0, color="black", lw=0.8)
    _set_symlog(axes)
    # The losses are differences from the least one, so that the negative half of a symlog axis
    # would be empty.
    axes.set_xlim(left=-2e-3)
    label = "smallest eigenvalue"
    label_panel(axes, "Critical points and flows", "loss above the least", label)


def _draw_escapes(axes: Axes, explicit: xr.Dataset) -> None:
    """The loss along the escape direction of each point that has one."""
    leaving = explicit["excess"].dropna("name", how="all")
    for values, color in zip(leaving, shades(leaving.sizes["name"]), strict=True):
        name = str(values["name"].values)
        axes.plot(explicit["step"].values, values.values, label=name, color=color)
    label_log_panel(axes, "Along the escape direction", "step", "loss above the least")


def _set_symlog(axes: Axes) -> None:
    """A logarithmic x axis on both sides of 0, with few enough labels for a narrow panel."""
    axes.set_xscale("symlog", linthresh=1e-2)
    locator = SymmetricalLogLocator(base=10, linthresh=1e-2)
    locator.set_params(numticks=4)
    axes.xaxis.set_major_locator(locator)
