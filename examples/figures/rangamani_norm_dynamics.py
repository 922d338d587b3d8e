"""Figures of `rangamani_norm_dynamics.py`: norms, margins, the logistic equation and descent."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from nc_jax.plotting import curves, histograms_figure, recorded_axis
from nc_jax.plotting.style import (
    COLUMN,
    LOG,
    PaperFigure,
    draw_curve,
    draw_range,
    figure_legend,
    label_log_panel,
    label_panel,
    panel_legend,
    paper,
    shades,
)

_TITLES = {"norm": "norm ρ", "objective": "training loss", "test_error": "test error"}


@paper()
def norm_dynamics_figure(flows: xr.Dataset) -> Figure:
    """ρ, training loss and test error over time by start norm, as Rangamani's figure 2.

    Args: `flows` over (decay, norm_at_start, seed, time) with `norm`, `objective` and
        `test_error`; medians over seeds are drawn in bands.

    Returns: a Matplotlib `Figure` with a row of panels for each decay, on a log axis of time.
    """
    decays, axis = flows["decay"].values, recorded_axis(flows)
    figure = PaperFigure(0.5 + 2.1 * len(decays))
    grid, colors = figure.subplots(len(decays), 3, squeeze=False), _colors_of_starts(flows)
    for i, row in enumerate(grid):
        for axes, (variable, label) in zip(row, _TITLES.items(), strict=True):
            for j, color in enumerate(colors.values()):
                values = curves(flows.isel(decay=i, norm_at_start=j), variable)
                x, values = LOG.select(axis, values)
                draw_curve(axes, x, values, color=color)
            LOG.apply(axes)
            # The test error can be 0, which a logarithmic axis cannot show.
            set_labels = label_panel if variable == "test_error" else label_log_panel
            set_labels(axes, f"λ = {decays[i]:g}", LOG.label(axis), label)
    figure_legend(figure, colors=colors)
    return figure


@paper()
def margins_figure(flows: xr.Dataset) -> Figure:
    """Sorted margins f̄_n at the end of the flows by start norm, as Rangamani's figure 3.

    Args: `flows` over (decay, norm_at_start, seed, time, sample) with `margins`.

    Returns: a Matplotlib `Figure` with a panel for each decay: means over seeds in a band from the
        least to the largest.
    """
    decays, colors = flows["decay"].values, _colors_of_starts(flows)
    figure = PaperFigure(3.0)
    ends = flows["margins"].isel(time=-1).transpose("decay", "norm_at_start", "seed", "sample")
    margins = np.sort(ends.values, axis=-1)
    rank = np.arange(1, margins.shape[-1] + 1)
    grid = figure.subplots(1, len(decays), squeeze=False, sharey=True)[0]
    for axes, decay, of_decay in zip(grid, decays, margins, strict=True):
        for of_start, color in zip(of_decay, colors.values(), strict=True):
            draw_range(axes, rank, of_start, color=color)
        title = f"At the end, λ = {decay:g}"
        label_panel(axes, title, "sample, by margin", "margin y $f_V(x)$")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.label_outer()
    figure_legend(figure, colors=colors)
    return figure


def _colors_of_starts(flows: xr.Dataset) -> dict[str, np.ndarray]:
    norms = flows["norm_at_start"].values
    return {f"start {n:g}": c for n, c in zip(norms, shades(len(norms)), strict=True)}


@paper()
def outputs_figure(flow: xr.Dataset) -> Figure:
    """How the distribution of the outputs y f(x) changes over time, as Rangamani's figure 4.

    Args: `flow`, one run, with `margins` over (time, sample) and `norm`; outputs are the product.

    Returns: a Matplotlib `Figure` of up to eight histograms.
    """
    outputs = (flow["margins"] * flow["norm"]).transpose("time", ...)
    figure = histograms_figure(flow.assign(outputs=outputs), variable="outputs")
    for axes in figure.axes:
        axes.axvline(1, color="black", lw=0.8, ls=":")
    figure.axes[-1].set_xlabel("y f(x); dotted: 1, sample interpolated")
    return figure


@paper()
def logistic_figure(chain: xr.Dataset) -> Figure:
    """ρ with frozen margins, as Rangamani's figure 10.

    Args: `chain` with `norm` over (layers, start, t), integrated, and points of the closed form,
        `exact_time` and `exact_norm` over (layers, start, point).

    Returns: a Matplotlib `Figure`: integrated curves with the closed form as dots on them.
    """
    figure = PaperFigure(3.0, width=COLUMN)
    axes, layers, time = figure.subplots(), chain["layers"].values, chain["t"].values
    for i, color in enumerate(shades(len(layers))):
        of_depth = chain.isel(layers=i)
        lines = axes.plot(time, of_depth["norm"].transpose("t", "start").values, color=color)
        # One entry in the legend for the curves from all starts.
        lines[0].set_label(f"L = {layers[i]}")
        at, points = of_depth["exact_time"].values.ravel(), of_depth["exact_norm"].values.ravel()
        drawn = at <= time[-1]
        axes.plot(at[drawn], points[drawn], ".", color=color, ms=4)
    axes.plot([], [], ".", color="black", label="closed form")
    label_panel(axes, "Margins held fixed (eq. 51)", "time t", "norm ρ")
    panel_legend(axes)
    return figure


@paper()
def orders_figure(distances: xr.Dataset) -> Figure:
    """Distances between descent, its differential equation and the flow over the learning rate.

    Args: `distances` with `distance` over (net, curve, rate) and the attribute `horizon`.

    Returns: a Matplotlib `Figure`; the order of each curve, fitted over all rates, in the legend.
    """
    nets, rates = distances["net"].values, distances["rate"].values
    names = distances["curve"].values
    figure = PaperFigure(3.2)
    grid = figure.subplots(1, len(nets), squeeze=False)[0]
    values = distances["distance"].transpose("net", "curve", "rate").values
    for axes, net, of_net in zip(grid, nets, values, strict=True):
        for name, of_curve, color in zip(names, of_net, shades(len(names)), strict=True):
            order = np.polyfit(np.log(rates), np.log(of_curve), 1)[0]
            label = f"{name}: η$^{{{order:.2f}}}$"
            axes.loglog(rates, of_curve, "o-", color=color, label=label)
        title = f"{net}, t = {distances.attrs['horizon']:g}"
        label_log_panel(axes, title, "learning rate η", "distance from descent")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
        panel_legend(axes)
    return figure
