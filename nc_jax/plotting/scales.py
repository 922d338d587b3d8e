"""Scales of the axis of times, steps or epochs, and what their ticks read."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, StrMethodFormatter

from .recordings import AXIS_LABELS, RecordedAxis


class AxisScale(NamedTuple):
    """How the axis of times, steps or epochs is drawn.

    Attributes:
        positions: function from a `RecordedAxis` to the positions of its saves on the axis.
        least: saves at smaller positions are left out.
        suffix: added to the label of the axis.
        apply: sets the scale of an axis and its ticks.
    """

    positions: Callable[[RecordedAxis], Float[np.ndarray, " T"]]
    least: float
    suffix: str
    apply: Callable[[Axes], None]

    def label(self, axis: RecordedAxis) -> str:
        """Label of the x axis."""
        return f"{AXIS_LABELS[axis.dim]}{self.suffix}"

    def select(
        self, axis: RecordedAxis, values: Float[np.ndarray, "runs T"]
    ) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, "runs S"]]:
        """Positions and values of the saves that can be drawn on the axis."""
        positions = self.positions(axis)
        drawn = positions >= self.least
        return positions[drawn], values[..., drawn]


def set_log_log_time(axes: Axes) -> None:
    """Set a logarithmic axis of log10 t, whose ticks read as times 10^1, 10^10, 10^100."""
    axes.set_xscale("log")
    if max(axes.get_xlim()) > 2e4:
        # Labels of many digits need the room of two decades.
        axes.xaxis.set_major_locator(LogLocator(numticks=4))
    axes.xaxis.set_major_formatter(FuncFormatter(_time_label))
    axes.xaxis.set_minor_locator(NullLocator())


def set_log_values(axes: Axes) -> None:
    """Set a logarithmic x axis with labels in plain digits, also where it covers under a decade."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    subs = (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 3 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _time_label(decades: float, _position: object = None) -> str:
    """10^x for ticks at x = 1, 10, 100, …, with the digits of x in groups of three.

    A power in the exponent would be printed at half of the size of the label.
    """
    exponent = f"{decades:,.0f}".replace(",", r"\,") if decades >= 1e4 else f"{decades:g}"
    return f"$10^{{{exponent}}}$"


# Scales of the axis of times, steps or epochs. A logarithmic axis cannot show 0. The positions of
# LOG_LOG are log10(1 + t), from log10(2), at t = 1, on; the tolerance of 1e-6 includes a save at t
# = 1 that rounding has moved below.
LINEAR = AxisScale(lambda axis: axis.values, -math.inf, "", lambda axes: None)
LOG = AxisScale(
    lambda axis: axis.values, np.finfo(float).tiny, "", lambda axes: axes.set_xscale("log")
)
EPOCHS = LOG._replace(apply=set_log_values)
LOG_LOG = AxisScale(
    lambda axis: axis.log_values / math.log(10),
    math.log10(2) - 1e-6,
    " (log log scale)",
    set_log_log_time,
)


def scale_for(axes_of_runs: Sequence[RecordedAxis]) -> AxisScale:
    """The scale for runs by their end: linear to 1000, logarithmic to 10^300, log log beyond.

    Example:
        >>> from nc_jax.plotting import style
        >>> axis = nc.plotting.RecordedAxis("time", np.array([0.0, 50.0]), np.log1p([0.0, 50.0]))
        >>> style.scale_for([axis]) is style.LINEAR
        True
    """
    end = max(axis.log_values[-1] for axis in axes_of_runs)
    # Beyond 1000 a linear axis would hide the time at which a flow leaves the origin.
    return LINEAR if end <= math.log1p(1000) else LOG if end <= 300 * math.log(10) else LOG_LOG
