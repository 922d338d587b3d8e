"""Figure of `ulpm_saddle.py`: how the flow leaves the saddle of Ji's example 3.1."""

import math

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import nc_jax as nc
from nc_jax.plotting import curves, recorded_axis
from nc_jax.plotting.style import (
    BLUE,
    GREY,
    LOG_LOG,
    ORANGE,
    PaperFigure,
    label_panel,
    panel_legend,
    paper,
    set_log_log_time,
    shades,
)

_RATIO = "margin / largest of its norm"
# Gaussian starts below this share of the largest margin at t = 10^10000 are drawn as slow.
_SLOW, _SLOW_DECADES = 0.97, 1e4


@paper()
def escape_figure(escapes: xr.Dataset, gaussian: xr.Dataset) -> Figure:
    """The loss around the saddle, flows that leave it and when, and Gaussian starts.

    Args:
        escapes: flows over (eps, time) from points at the distances `eps` from the saddle, with
            `max_margin_ratio` and with `leaving_log_time` over eps, log t at which a flow has left
            the saddle, NaN where it has not.
        gaussian: flows over (seed, time) with `max_margin_ratio`.

    Returns: a Matplotlib `Figure` of four panels.
    """
    figure = PaperFigure(5.4)
    curve, margins, times, starts = figure.subplots(2, 2).flat
    _draw_saddle(curve)
    _draw_escapes(margins, escapes)
    _draw_leaving_times(times, escapes)
    _draw_gaussian_starts(starts, gaussian)
    for axes in (margins, starts):
        set_log_log_time(axes)
        axes.set_ylim(0.7, 1.01)
    margins.set_xlim(left=1)
    for axes in figure.axes:
        panel_legend(axes)
    return figure


def _draw_saddle(axes: Axes) -> None:
    """The loss along the curve through the saddle, with its parabola and the two collapses."""
    alpha = np.linspace(-1, 1, 401)
    loss = np.asarray(nc.exact.example_3_1_loss(alpha))
    axes.plot(alpha, loss, color=BLUE, lw=1.3, label="L(α)")
    start = np.interp(0.0, alpha, loss)
    near = np.abs(alpha) < 0.45
    parabola = start + nc.exact.EXAMPLE_3_1_CURVATURE / 2 * alpha[near] ** 2
    axes.plot(alpha[near], parabola, ":", color="black", lw=1.2, label="L(0) + L''(0)α²/2")
    collapsed = np.array([-0.5, 0.5])
    axes.plot(collapsed, np.interp(collapsed, alpha, loss), "o", color=ORANGE,
              label="neural collapse")  # fmt: skip
    label_panel(axes, "(a) Loss along example 3.1's curve", "α", "loss L")


def _draw_escapes(axes: Axes, escapes: xr.Dataset) -> None:
    """The margin along the flow from each distance."""
    eps, axis = escapes["eps"].values, recorded_axis(escapes)
    # The legend has the largest and the smallest distance; the shades order those in between.
    named = {int(np.argmax(eps)), int(np.argmin(eps))}
    ratios = curves(escapes, "max_margin_ratio")
    for i, (values, color) in enumerate(zip(ratios, shades(len(eps)), strict=True)):
        label = f"from ε = {eps[i]:.3g}" if i in named else None
        axes.plot(LOG_LOG.positions(axis), values, color=color, lw=1.1, label=label)
    label_panel(axes, "(b) Margin on the way", LOG_LOG.label(axis), _RATIO)


def _draw_leaving_times(axes: Axes, escapes: xr.Dataset) -> None:
    """log10 t at which the flows left, and the power ε^-2 through the last of them."""
    eps, decades = escapes["eps"].values, escapes["leaving_log_time"].values / math.log(10)
    known = np.isfinite(decades)
    axes.loglog(eps[known], decades[known], "o", color=BLUE, label="measured")
    if known.any():
        last = int(np.flatnonzero(known)[np.argmin(eps[known])])
        law = decades[last] * (eps / eps[last]) ** -2.0
        axes.loglog(eps, law, ":", color="black", lw=1.2, label="ε⁻²")
    label_panel(axes, "(c) When it has left", "distance ε at the start", "log₁₀ t")


def _draw_gaussian_starts(axes: Axes, gaussian: xr.Dataset) -> None:
    """Margins from Gaussian starts, the slow ones in another colour."""
    ratios, axis = curves(gaussian, "max_margin_ratio"), recorded_axis(gaussian)
    decades = LOG_LOG.positions(axis)
    at = int(np.abs(decades - min(_SLOW_DECADES, decades[-1])).argmin())
    slow, drawn = ratios[:, at] < _SLOW, decades >= 1
    end = f"$t = 10^{{{decades[at]:.0f}}}$"
    labels = {True: f"below {_SLOW:g} at {end}: {slow.sum()}", False: f"others: {(~slow).sum()}"}
    styles = {True: {"color": ORANGE, "lw": 1.1}, False: {"color": GREY, "lw": 0.4}}
    # The first curve of each kind has the label, so that the legend has one entry for each kind.
    for values, is_slow in zip(ratios, slow.tolist(), strict=True):
        axes.plot(decades[drawn], values[drawn], label=labels.pop(is_slow, None), **styles[is_slow])
    title = f"(d) {len(ratios)} Gaussian starts, d = K−1"
    label_panel(axes, title, LOG_LOG.label(axis), _RATIO)
