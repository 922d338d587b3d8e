"""Figure of `central_path.py`: the central path, and the parts of the square loss."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nc_jax.plotting import curves, recorded_axis
from nc_jax.plotting.style import (
    BLUE,
    DARK,
    LINEAR,
    LOG,
    ORANGE,
    PaperFigure,
    draw_curve,
    figure_legend,
    label_log_panel,
    panel_legend,
    paper,
    shades,
)

# Parts of the square loss, as Han et al. name them.
_NC1, _NC23, _PERP = "L$_{NC1}$", "L$_{NC2/3}$", "L$_⊥$"


@paper()
def central_path_figure(flow: xr.Dataset, mixon: xr.Dataset) -> Figure:
    """Singular values, collapse and loss of the renormalised flow, and the loss of Mixon's model.

    Args:
        flow: over (seed, time) with `singular_values` and `exact_values` of K−1 numbers, `zhu_nc1`,
            `han_loss_nc1` and `han_loss_nc23`.
        mixon: over (seed, time) with `loss` and its parts `nc1`, `nc23` and `perp`.

    Returns: a Matplotlib `Figure` of four panels; curves are medians over seeds, in bands of
        percentiles.
    """
    figure = PaperFigure(5.6)
    singular, collapse, path, free = figure.subplots(2, 2).flat
    time = recorded_axis(flow).values
    # Where d < K−1 the last singular values are 0 at all times.
    modes = int(np.count_nonzero(flow["exact_values"].values[0, 0]))
    measured, exact = (flow[n].values[..., :modes] for n in ("singular_values", "exact_values"))
    _draw_singular_values(singular, time, measured[0], exact[0])
    _draw_collapse(collapse, time, measured, curves(flow, "zhu_nc1"))
    parts = {_NC1: curves(flow, "han_loss_nc1"), _NC23: curves(flow, "han_loss_nc23")}
    title = "(c) Square loss on the central path"
    _draw_parts(path, title, LOG.label(recorded_axis(flow)), time, parts)
    for axes in (singular, collapse, path):
        axes.set_xscale("log")
    names = {_NC1: "nc1", _NC23: "nc23", _PERP: "perp"}
    parts = {label: curves(mixon, name) for label, name in names.items()}
    axis = recorded_axis(mixon)
    title = "(d) Square loss of Mixon's model"
    _draw_parts(free, title, LINEAR.label(axis), LINEAR.positions(axis), parts)
    for axes in figure.axes:
        panel_legend(axes)
    figure_legend(figure)
    return figure


def _draw_singular_values(
    axes: Axes, time: np.ndarray, measured: np.ndarray, exact: np.ndarray
) -> None:
    """Singular values of the first start, with the closed form and the power t^(1/4)."""
    modes = measured.shape[1]
    for j, color in enumerate(shades(modes)):
        axes.plot(time, measured[:, j], color=color, lw=2, label=f"flow, ω$_{j + 1}$")
    # Few points, so that the curves below remain visible.
    points = slice(None, None, max(1, len(time) // 15))
    for j in range(modes):
        closed = "closed form" if j == 0 else None
        axes.plot(time[points], exact[points, j], "o", color="black", ms=3, label=closed)
    law = exact[-1, 0] * (time / time[-1]) ** 0.25
    late = time > 1
    axes.plot(time[late], law[late], color=DARK, ls="--", lw=1, label="$t^{1/4}$")
    label_log_panel(axes, "(a) Singular values, first start", "time t", "singular value ω")


def _draw_collapse(axes: Axes, time: np.ndarray, measured: np.ndarray, nc1: np.ndarray) -> None:
    """NC1 and the relative spread of the singular values, with the powers −1/2 and −1."""
    largest = measured.max(axis=-1)
    spread = (largest - measured.min(axis=-1)) / largest
    for values, color, label, power in (
        (nc1, BLUE, "NC1: tr(Σ$_W$Σ$_B^+$)/K", -0.5),
        (spread, ORANGE, "NC2: spread of the ω$_j$", -1.0),
    ):
        draw_curve(axes, time, values, color=color, label=label)
        law = np.median(values[:, -1]) * (time / time[-1]) ** power
        late = time > 1
        name = "$t^{-1/2}$" if power == -0.5 else "1/t"
        style = ":" if power == -0.5 else "--"
        axes.plot(time[late], law[late], color=DARK, ls=style, lw=1.2, label=name)
    label_log_panel(axes, "(b) Collapse of the features", "time t", "measure of collapse")


def _draw_parts(
    axes: Axes, title: str, x_label: str, time: np.ndarray, parts: dict[str, np.ndarray]
) -> None:
    """The parts of the loss, each in a colour and a style."""
    styles = {_NC1: (BLUE, "-"), _NC23: (ORANGE, "--"), _PERP: (DARK, "-.")}
    for label, values in parts.items():
        color, style = styles[label]
        draw_curve(axes, time, values, color=color, ls=style, label=label)
    label_log_panel(axes, title, x_label, "part of the mean square loss")
