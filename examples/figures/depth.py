"""Figure of `depth.py`: in which code flows end, over depth and classes, and their values."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

import nc_jax as nc
from nc_jax.plotting.style import (
    BLUE,
    DARK,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    PaperFigure,
    figure_legend,
    label_panel,
    paper,
)

COLORS = {
    "simplex": BLUE,
    "pairs and singles": GREEN,
    "polygon": ORANGE,
    "other code": PURPLE,
    "between codes": GREY,
}


@paper()
def depth_figure(data: xr.Dataset) -> Figure:
    """Above, shares of the runs that end in each kind of code; below, their S over the least.

    Args:
        data: `singular_sum` and `code` over (cell, norm, seed), with the coordinates `classes`,
            `depth` and `width` of each cell.

    Returns: a Matplotlib `Figure` of two rows, one column for each width and start norm.
    """
    panels = [
        (width, norm, data.isel(cell=cells).sel(norm=norm))
        for width, cells in _cells_by_width(data).items()
        for norm in data["norm"].values.tolist()
    ]
    figure = PaperFigure(5.2)
    grid = figure.add_gridspec(2, len(panels), height_ratios=(1.2, 1))
    first: dict[int, Axes] = {}
    for column, (width, norm, runs) in enumerate(panels):
        for row, draw in enumerate((_draw_shares, _draw_values)):
            axes = figure.add_subplot(grid[row, column], sharey=first.get(row))
            draw(axes, runs)
            axes.set_xticks(sorted(set(data["depth"].values.tolist())))
            if row == 0:
                axes.set_title(f"start norm {norm:g}, {width}", y=1.0)
            if first.setdefault(row, axes) is not axes:
                axes.set_ylabel("")
                axes.tick_params(labelleft=False)
    lines = {
        name: Line2D([], [], color=color, marker="o", ls="", ms=5) for name, color in COLORS.items()
    }
    figure_legend(figure, lines=lines)
    return figure


def kind_of(data: xr.Dataset, number: int) -> str:
    """The kind of the code with this number in a cell, by which it is coloured."""
    if number < 0:
        return "between codes"
    code = _codes(data)[number]
    if code.name == "simplex":
        return "simplex"
    if code.rank == 2:
        return "polygon"
    without_block = code.name[0].isdigit() or code.name in ("octahedron", "cross polytope")
    return "pairs and singles" if without_block else "other code"


def _codes(cell: xr.Dataset) -> tuple[nc.exact.DeepCode, ...]:
    classes, depth, width = (int(cell[name]) for name in ("classes", "depth", "width"))
    return nc.exact.deep_codes(classes, depth, width=width)


def _cells_by_width(data: xr.Dataset) -> dict[str, np.ndarray]:
    """Positions of the cells of each width; one that is K in each cell is one width."""
    widths, classes = data["width"].values, data["classes"].values
    names = np.where(widths == classes, "width K", [f"width {width}" for width in widths])
    return {name: np.flatnonzero(names == name) for name in np.unique(names).tolist()}


def _draw_shares(axes: Axes, runs: xr.Dataset) -> None:
    """A bar of shares for each m and K above a strip in the colour of the code of least S."""
    for i in range(runs.sizes["cell"]):
        cell = runs.isel(cell=i)
        left, bottom = int(cell["depth"]) - 0.44, int(cell["classes"]) - 0.4
        kinds = [kind_of(cell, number) for number in cell["code"].values.tolist()]
        for kind, color in COLORS.items():
            share = 0.88 * kinds.count(kind) / len(kinds)
            if share:
                axes.add_patch(_rectangle(left, bottom + 0.22, share, 0.58, color))
                left += share
        left = int(cell["depth"]) - 0.44
        axes.add_patch(_rectangle(left, bottom, 0.88, 0.14, COLORS[kind_of(cell, 0)]))
    classes = sorted(set(runs["classes"].values.tolist()))
    depths = runs["depth"].values
    axes.set(xlim=(depths.min() - 0.6, depths.max() + 0.6))
    axes.set(ylim=(classes[0] - 0.6, classes[-1] + 0.6), yticks=classes)
    label_panel(axes, "", "factors m", "classes K\n(bar: shares of runs,\nstrip: code of least S)")
    axes.grid(False)


def _rectangle(left: float, bottom: float, width: float, height: float, color: str) -> Rectangle:
    return Rectangle((left, bottom), width, height, facecolor=color, edgecolor="none")


def _draw_values(axes: Axes, runs: xr.Dataset) -> None:
    """S of every run over the least S that is known, with the K of one m from left to right."""
    classes, depths = runs["classes"].values, runs["depth"].values
    ends = [depths.min() - 0.6, depths.max() + 0.6]
    axes.plot(ends, [1, 1], color=DARK, lw=0.8)
    step = 0.7 / max(np.ptp(classes), 1)
    for i in range(runs.sizes["cell"]):
        cell = runs.isel(cell=i)
        x = depths[i] + step * (classes[i] - (classes.min() + classes.max()) / 2)
        ratios = cell["singular_sum"].values / _codes(cell)[0].singular_sum
        kinds = np.array([kind_of(cell, number) for number in cell["code"].values.tolist()])
        for kind, color in COLORS.items():
            found = ratios[kinds == kind]
            if len(found):
                axes.plot(np.full(len(found), x), found, color=color, marker="o", ms=2.5, ls="")
    axes.set(xlim=ends)
    # The label of one panel of four is too narrow for these words.
    label_panel(axes, "", "factors m", "S / least S\n(K of one m grows\nfrom left to right)")
