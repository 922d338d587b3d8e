"""Figure of `few_dimensions.py`: levels of V over starts, and codes in three dimensions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.spatial import ConvexHull

import nc_jax as nc
from nc_jax.plotting.style import (
    BLUE,
    DARK,
    GREEN,
    GREY,
    ORANGE,
    PaperFigure,
    figure_legend,
    label_panel,
    paper,
)

BIPYRAMID = 7 + 5**0.5


@paper()
def few_dimensions_figure(runs: Sequence[xr.Dataset], codes: Mapping[int, nc.LastLayer]) -> Figure:
    """Sorted V of all starts over the least known value, and the code of each K in d = 3.

    Args:
        runs: one data set for each K, with `separation_value` (feature_dim, seed, time).
        codes: for each K a state with one sample a class in three dimensions.

    Returns: a Matplotlib `Figure` of two rows of panels, one column for each K.
    """
    figure = PaperFigure(4.4)
    grid = figure.add_gridspec(2, len(runs), height_ratios=(1, 1.05))
    first: Axes | None = None
    for column, data in enumerate(runs):
        axes = figure.add_subplot(grid[0, column], sharey=first)
        first = first or axes
        _draw_levels(axes, data)
        axes.tick_params(labelleft=first is axes)
        drawn: Any = figure.add_subplot(grid[1, column], projection="3d")
        _draw_code(drawn, codes[data.attrs["num_classes"]])
    assert first is not None
    first.set_ylabel("V / least known V")
    lines = {
        "runs, sorted": Line2D([], [], color=BLUE, marker="o", ms=3, ls=""),
        "least known": Line2D([], [], color=DARK),
        "V = K (triangle and pair)": Line2D([], [], color=ORANGE, ls="--"),
    }
    if any(data.attrs["num_classes"] == 7 for data in runs):
        lines["pentagonal bipyramid"] = Line2D([], [], color=ORANGE, ls=":")
    lines |= {
        "class means": Line2D([], [], color=GREEN, marker="o", ls=""),
        "classifiers": Line2D([], [], color=ORANGE, marker="x", mew=1.2, ls=""),
    }
    figure_legend(figure, lines=lines)
    return figure


def _draw_levels(axes: Axes, data: xr.Dataset) -> None:
    classes, dims = data.attrs["num_classes"], data["feature_dim"].values.tolist()
    for dim in dims:
        known = nc.exact.separation_value(classes, dim).value
        values = np.sort(data["separation_value"].sel(feature_dim=dim).isel(time=-1).values)
        x = dim + 0.8 * ((np.arange(len(values)) + 0.5) / len(values) - 0.5)
        ends = np.array([dim - 0.45, dim + 0.45])
        axes.plot(ends, [1, 1], color=DARK)
        if classes / 2 < dim:
            axes.plot(ends, [classes / known] * 2, color=ORANGE, ls="--")
        if (classes, dim) == (7, 3):
            axes.plot(ends, [BIPYRAMID / known] * 2, color=ORANGE, ls=":")
        axes.plot(x, values / known, color=BLUE, marker="o", ms=2, ls="")
    label_panel(axes, f"K = {classes}", "feature dimension d", "")
    axes.set_xticks(dims)


def _draw_code(axes: Any, code: nc.LastLayer) -> None:
    means, classifier = np.asarray(code.features), np.asarray(code.classifier)
    # In the principal axes of the class means, so that codes of all K are drawn from similar sides.
    principal = np.linalg.svd(means)[2].T
    means, classifier = means @ principal, classifier @ principal
    for mean in means:
        axes.plot(*np.stack([0 * mean, mean]).T, color=GREY, lw=0.3)
    for ends in _edges(means):
        axes.plot(*means[ends].T, color=GREY, lw=0.8)
    axes.plot(*means.T, color=GREEN, marker="o", ls="", ms=3.5)
    axes.plot(*classifier.T, color=ORANGE, marker="x", ls="", ms=4.5, mew=1.2)
    value = float(code.squared_norm()) / 2
    axes.set_title(f"least V, d = 3: {value:.4f}", y=1.0)
    reach = max(np.abs(means).max(), np.abs(classifier).max())
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), zlim=(-reach, reach))
    axes.set_box_aspect((1, 1, 1), zoom=1.45)
    axes.view_init(elev=22, azim=-64)
    axes.set_axis_off()


def _edges(points: np.ndarray) -> list[list[int]]:
    """Edges of the convex hull, without diagonals of faces that lie in one plane."""
    hull = ConvexHull(points)
    edges = []
    for i, (simplex, neighbours) in enumerate(zip(hull.simplices, hull.neighbors, strict=True)):
        for corner, j in enumerate(neighbours):
            # Normals of a run that has not converged differ by a few degrees.
            flat = hull.equations[i, :3] @ hull.equations[j, :3] > 0.99
            if i < j and not flat:
                edges.append(np.delete(simplex, corner).tolist())
    return edges
