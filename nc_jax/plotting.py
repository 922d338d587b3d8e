"""Figures of trajectories. Reads observables only, never a problem."""

import math
from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import NDArray

from .dynamics import Trajectory

# Label, colour, line width. The classifier is drawn thin on top, since the two curves may coincide.
_MEANS = ("class means", "#1f6fb4", 2.6)
_CLASSIFIER = ("classifier", "#d1651a", 1.2)

# Ji's figure 2: title of each panel with its observables.
_PANELS: tuple[tuple[str, dict[str, tuple[str, str, float]]], ...] = (
    (
        "(a) Variation of the norms",
        {"ji_feature_norm_variation": _MEANS, "ji_classifier_norm_variation": _CLASSIFIER},
    ),
    ("(b) Within-class variation", {"ji_within_class_variation": ("features", "#1f6fb4", 1.8)}),
    (
        "(c) Cosines between pairs",
        {"ji_feature_cosine_gap": _MEANS, "ji_classifier_cosine_gap": _CLASSIFIER},
    ),
    ("(d) Self-duality", {"ji_self_duality": ("means against classifier", "#4a4a4a", 1.8)}),
)
_LINE_STYLES = ("-", "--", ":", "-.")


def collapse_figure(
    runs: Mapping[str, Trajectory], slopes: Mapping[str, float] | None = None
) -> Figure:
    """Ji's four measures of collapse over log log time, laid out as the paper's figure 2.

    Args:
        runs: trajectories by name, drawn with one line style each, all on one axis of t. Under
            one vmap axis the median over runs is drawn in a band from the 10th to the 90th
            percentile.
        slopes: exponent p of a dotted guide (log t)^p by observable, drawn through the end of the
            first run.

    Returns: a Matplotlib `Figure`; times below 1 are left out.

    Example: `collapse_figure({"flow": traj}).savefig("collapse.png")`.
    """
    figure = Figure(figsize=(15, 3.9), layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(1, 4), _PANELS, strict=True):
        for (run, trajectory), style in zip(runs.items(), cycle(_LINE_STYLES), strict=False):
            for name, (label, color, width) in curves.items():
                label = f"{label}, {run}" if len(runs) > 1 else label
                _draw(axes, trajectory, name, label=label, color=color, lw=width, ls=style)
        # Both curves of a panel share their slope.
        name = next(iter(curves))
        if slopes and name in slopes:
            _draw_guide(axes, next(iter(runs.values())), name, slopes[name])
        _label_times(axes, title)
        axes.legend(frameon=False, fontsize=8, loc="lower left")
    return figure


def _decades(trajectory: Trajectory) -> NDArray[np.floating]:
    """log10(1 + t) of the saves; one time axis, whatever the batch."""
    return trajectory.common_log_time() / math.log(10)


def _draw(axes: Axes, trajectory: Trajectory, name: str, **style: Any) -> None:
    """A curve from t = 1 on; of a batch the median in its band."""
    decades, values = _decades(trajectory), np.asarray(trajectory.observables[name])
    shown = decades >= math.log10(2)
    decades, values = decades[shown], values[..., shown]
    if values.ndim > 1:
        low, values, high = np.nanpercentile(values, [10, 50, 90], axis=0)
        axes.fill_between(decades, low, high, color=style["color"], alpha=0.2, linewidth=0)
    axes.plot(decades, values, **style)


def _draw_guide(axes: Axes, trajectory: Trajectory, name: str, slope: float) -> None:
    decades = _decades(trajectory)
    values = np.asarray(trajectory.observables[name])
    end = np.nanmedian(values.reshape(-1, values.shape[-1])[:, -1])
    span = decades[decades >= max(math.sqrt(decades[-1]), 1)]
    if span.size < 2 or not end > 0:
        return
    power = {-1.0: "1/log t", -0.5: "1/√(log t)"}.get(slope, f"(log t)^{slope:g}")
    guide = 2 * end * (span / span[-1]) ** slope
    axes.plot(span, guide, ":", color="black", label=power, linewidth=1.2)


def _label_times(axes: Axes, title: str) -> None:
    """Log scale of log10 t, whose ticks read as times."""
    axes.set_title(title, fontsize=10)
    axes.set_xscale("log")
    # Measures that are identically zero, as at K = 2, have no logarithm.
    if any(np.any(np.asarray(line.get_ydata()) > 0) for line in axes.lines):
        axes.set_yscale("log")
    axes.set_xlabel("time t (log log scale)")
    axes.xaxis.set_major_formatter(FuncFormatter(_time_label))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(True, which="major", alpha=0.25)


def _time_label(decades: float, _position: object = None) -> str:
    """10^x for ticks at x = 1, 10, 100, ...; from 10^(10^4) on as a tower, which is shorter."""
    power = math.log10(decades)
    tower = power >= 4 and power == round(power)
    return f"$10^{{10^{power:g}}}$" if tower else f"$10^{{{decades:g}}}$"
