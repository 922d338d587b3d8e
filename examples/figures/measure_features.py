"""Figure of `measure_features.py`: class means, variances of classes, and pairs of classes."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nc_jax.plotting.style import BLUE, GREY, PaperFigure, label_panel, panel_legend, paper

# The most names of classes along an axis, and the longest of them.
_NAMES, _LETTERS = 12, 16


@paper()
def features_figure(data: xr.Dataset) -> Figure:
    """Cosines of class means, variances, the CDNV of each pair, and singular values of the means.

    Args: `data` has `feature_cosine_by_pair` and `cdnv_by_pair` over (class, other_class),
    `relative_variance_by_class` over (class), and `singular_values` over (k).

    Returns: a Matplotlib `Figure` of four panels.
    """
    figure = PaperFigure(6.4)
    (cosines, variances), (pairs, rank) = figure.subplots(2, 2)
    names = data["class"].values
    count = len(names)
    diagonal = np.eye(count, dtype=bool)
    label_panel(
        cosines, f"Cosines of class means (at collapse −{1 / (count - 1):.3g})", "class", "class"
    )
    off_diagonal = np.where(diagonal, np.nan, data["feature_cosine_by_pair"].values)
    heat_map(figure, cosines, off_diagonal, names, cmap="RdBu_r", vmin=-1, vmax=1)
    draw_bars(variances, data["relative_variance_by_class"].values, names)
    label_panel(
        variances, "Variance within classes (dotted: mean)", "class",
        "v$_c$ / ‖M$_c$‖²",
    )  # fmt: skip
    label_panel(pairs, "CDNV of pairs of classes (at collapse 0)", "class", "class")
    cdnv = np.where(diagonal, np.nan, data["cdnv_by_pair"].values)
    heat_map(figure, pairs, cdnv, names, cmap="viridis", **scale_of(cdnv))
    values = data["singular_values"].values
    rank.plot(np.arange(1, len(values) + 1), values, "o-", color=BLUE, label="measured")
    rank.axhline(1, color=GREY, ls=":", label="at collapse")
    rank.set_ylim(0, 1.05)
    rank.set_xlim(0.5, len(values) + 0.5)
    rank.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    label_panel(rank, "Singular values of centred class means", "k", "σ$_k$ / σ$_1$")
    panel_legend(rank)
    return figure


def heat_map(figure: Figure, axes: Axes, values: np.ndarray, names: np.ndarray, **image) -> None:
    """A matrix over pairs of classes with a scale of colours."""
    axes.grid(visible=False)
    drawn = axes.imshow(values, **image)
    figure.colorbar(drawn, ax=axes, shrink=0.85)
    for axis in (axes.xaxis, axes.yaxis):
        label_classes(axis, names)


def scale_of(values: np.ndarray) -> dict:
    """Colours from 0 to the largest value, or of a log scale for values of several decades."""
    return {"norm": LogNorm()} if is_wide(values) else {"vmin": 0}


def is_wide(values: np.ndarray) -> bool:
    """Whether positive values have a ratio above 30, so that a linear scale shows few of them."""
    finite = values[np.isfinite(values)]
    return len(finite) > 0 and 0 < np.min(finite) < np.max(finite) / 30


def draw_bars(axes: Axes, values: np.ndarray, names: np.ndarray) -> None:
    """A bar for each class, and a line at the mean."""
    axes.set_axisbelow(True)
    axes.bar(np.arange(len(values)), values, color=BLUE)
    axes.axhline(float(np.mean(values)), color=GREY, ls=":")
    if is_wide(values):
        axes.set_yscale("log")
    label_classes(axes.xaxis, names)


def label_classes(axis, names: np.ndarray) -> None:
    """Names of classes as ticks; of many classes every second, third, ... one."""
    places = np.arange(0, len(names), -(-len(names) // _NAMES))
    texts = [str(names[place]) for place in places]
    short = [text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…" for text in texts]
    upright = axis.axis_name == "x" and max(map(len, short)) > 2
    axis.set_ticks(places, short, rotation=90 if upright else 0)
