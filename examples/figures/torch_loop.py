"""Figures of `torch_loop.py`: measures of the layers of a network by epoch and by depth."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nc_jax import plotting
from nc_jax.plotting.style import (
    PaperFigure,
    figure_legend,
    label_log_panel,
    label_panel,
    paper,
    shades,
)

# Variables by the title of their panel.
PANELS = {
    "NC1 (Zhu)": ("zhu_nc1",), "CDNV": ("cdnv",),
    "Cosines between pairs": ("ji_feature_cosine_gap",),
    "NC2 (Zhu)": ("zhu_nc2",), "NC3 (Zhu)": ("zhu_nc3",), "NC4 (Zhu)": ("zhu_nc4",),
}  # fmt: skip


def epochs_figure(data: xr.Dataset, depth: Mapping[str, str]) -> Figure:
    """Measures of each layer by epoch, by the figure that draws the trainings of `cnn.train`.

    Args:
        data: with the dims (epoch, layer).
        depth: a word for each layer, in the order of the network.
    """
    runs = {word: data.sel(layer=layer) for layer, word in depth.items()}
    return plotting.training_figure(runs, PANELS)


@paper()
def depth_figure(data: xr.Dataset, depth: Mapping[str, str], ranks: Sequence[str]) -> Figure:
    """NC1, CDNV and ranks over the layers, a curve for each of some epochs.

    Args:
        data: with the dims (epoch, layer).
        depth: a word for each layer, in the order of the network.
        ranks: variables for the effective and the stable rank.
    """
    epochs = data["epoch"].values
    chosen = epochs[np.unique(np.geomspace(1, len(epochs), 5).round().astype(int)) - 1]
    colors = dict(zip(chosen.tolist(), shades(len(chosen)), strict=True))
    titles = {
        "zhu_nc1": "NC1 (Zhu)", "cdnv": "CDNV", ranks[0]: "Effective rank", ranks[1]: "Stable rank"
    }  # fmt: skip
    figure = PaperFigure(4.8)
    places = np.arange(len(depth))
    for axes, (name, title) in zip(figure.subplots(2, 2).flat, titles.items(), strict=True):
        for epoch, color in colors.items():
            values = data[name].sel(epoch=epoch, layer=list(depth)).values
            axes.plot(places, values, color=color, marker="o")
        if name in ranks:
            label_panel(axes, title, "layer", title.lower())
        else:
            label_log_panel(axes, title, "layer", plotting.style.y_label(name))
        axes.set_xticks(places, list(depth.values()))
    lines = {f"epoch {n}": Line2D([], [], color=c, marker="o") for n, c in colors.items()}
    figure_legend(figure, lines=lines)
    return figure
