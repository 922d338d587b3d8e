"""Style of figures: colours, line styles, bands, scales of axes, labels and legends.

They are public, so that a user's figures can have the same style as those of the package.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    StrMethodFormatter,
)
from matplotlib.transforms import ScaledTranslation
from numpy.typing import ArrayLike

from .recordings import AXIS_LABELS, RecordedAxis

BLUE, ORANGE, GREY, DARK = "#1f6fb4", "#d1651a", "#767676", "#4a4a4a"
LINE_STYLES: tuple[str, ...] = ("-", "--", ":", "-.")

# Prefix of the labels of bands. Matplotlib's legends omit labels that begin with an underscore, so
# that bands are listed by `figure_legend` alone.
BAND_PREFIX = "_band:"
# Texts that explain a curve with a band in the legend of a figure.
PERCENTILES = "median, 10th to 90th percentile"
RANGE = "mean, least to largest"
WILSON = "share, its interval of 95 % (Wilson)"

# Labels of y axes; a variable that is not listed is labelled with its name in words.
_LABELS = {
    "ji_feature_norm_variation": "std / mean of the norms",
    "ji_classifier_norm_variation": "std / mean of the norms",
    "ji_within_class_variation": "distance to class mean / mean of all",
    "ji_feature_cosine_gap": "mean of |cosine + 1/(K−1)|",
    "ji_classifier_cosine_gap": "mean of |cosine + 1/(K−1)|",
    "ji_self_duality": "mean distance of the directions",
    "zhu_nc1": r"tr($\Sigma_W\Sigma_B^+$)/K",
    "zhu_nc2": r"‖WWᵀ/‖WWᵀ‖$_F$ − E‖$_F$",
    "zhu_nc3": r"‖WMᵀ/‖WMᵀ‖$_F$ − E‖$_F$",
    "zhu_nc4": r"‖Wμ$_G$ + b‖",
    "papyan_nc1": r"tr($\Sigma_W\Sigma_B^+$)",
    "papyan_classifier_equinorm": "std / mean of the norms",
    "papyan_ncc_mismatch": "share of samples that disagree",
    "mixon_snc1": r"‖WWᵀ − √n(I − 11ᵀ/K)‖$_F$",
    "mixon_snc2": r"‖H − (W⊗1)ᵀ/√n‖$_F$ / ‖H‖$_F$",
    "mixon_snc3": "‖b − 1/K‖",
    "mixon_distance_to_s": r"‖Z − Π$_S$Z‖ / ‖Z‖",
    "norm_product": "norm ρ",
    "margin_min": "smallest margin",
    "margins": "margin",
}


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


def shades(count: int) -> Float[np.ndarray, "count 4"]:
    """Colours from dark to light for an ordered family of curves, as RGBA.

    Example:
        >>> from nc_jax.plotting import style
        >>> style.shades(3).shape
        (3, 4)
    """
    # The map is cut at 0.64, where its colour has a contrast of 3 with white, the least that the
    # guideline WCAG 2 demands of graphics.
    return colormaps["plasma"](np.linspace(0, 0.64, count))


def y_label(variable: str) -> str:
    """Label of the y axis for a variable: its formula, or its name in words.

    Example:
        >>> from nc_jax.plotting import style
        >>> style.y_label("mixon_snc3"), style.y_label("train_loss")
        ('‖b − 1/K‖', 'train loss')
    """
    return _LABELS.get(variable, variable.replace("_", " "))


def draw_curve(axes: Axes, x: ArrayLike, values: ArrayLike, **line: Any) -> None:
    """Draw (T,) values as a line, (runs, T) values as their median in a band of percentiles.

    Args: `line` holds properties of Matplotlib's `Line2D`, the colour among them.

    Example:
        >>> from nc_jax.plotting import style
        >>> from matplotlib.figure import Figure
        >>> axes = Figure().subplots()
        >>> style.draw_curve(axes, [1, 2], [[1, 2], [3, 4], [5, 9]], color=style.BLUE)
        >>> axes.lines[0].get_ydata()
        array([3., 4.])
    """
    x, values = np.asarray(x), np.asarray(values)
    if values.ndim > 1:
        # Saves at which all runs have ended are left out, since NumPy warns of a median of NaN
        # alone.
        known = np.any(np.isfinite(values), axis=0)
        # Measures of a classifier are NaN in all layers but the last: they have no curve there.
        if not known.any():
            return
        has_band = len(values) > 1
        x, (low, values, high) = x[known], np.nanpercentile(values[:, known], [10, 50, 90], axis=0)
        if has_band:
            fill_band(axes, x, low, high, color=line["color"], meaning=PERCENTILES)
    axes.plot(x, values, **line)


def draw_range(axes: Axes, x: ArrayLike, values: ArrayLike, **line: Any) -> None:
    """Draw the mean of (runs, T) values in a band from the least to the largest.

    Runs that stopped early, which hold NaN, are left out.

    Example:
        >>> from nc_jax.plotting import style
        >>> from matplotlib.figure import Figure
        >>> axes = Figure().subplots()
        >>> style.draw_range(axes, [0, 1], [[1.0, 2.0], [3.0, 6.0]], color=style.BLUE)
        >>> axes.lines[0].get_ydata()
        array([2., 4.])
    """
    values = np.asarray(values)
    values = values[np.all(np.isfinite(values), axis=1)]
    if len(values) == 0:
        return
    if len(values) > 1:
        fill_band(
            axes, x, values.min(axis=0), values.max(axis=0), color=line["color"], meaning=RANGE
        )
    axes.plot(x, values.mean(axis=0), **line)


def fill_band(
    axes: Axes, x: ArrayLike, low: ArrayLike, high: ArrayLike, *, color: Any, meaning: str
) -> None:
    """Fill a band around a curve; `meaning` is explained by `figure_legend`."""
    band = axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)  # pyright: ignore[reportArgumentType]
    band.set_label(f"{BAND_PREFIX}{meaning}")


def label_panel(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Set the title and the labels of both axes, with a grid."""
    # Without `y` Matplotlib searches for a height above all ticks, at every draw.
    axes.set_title(title, fontsize=10, y=1.0)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(True, which="major", alpha=0.25)


def label_log_panel(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Set title and labels, and a logarithmic y axis if any value drawn before is above 0."""
    # A measure that is identically zero, as several are at K = 2, cannot be drawn on such an axis.
    if any(np.any(np.asarray(line.get_ydata()) > 0) for line in axes.lines):
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        if high < 50 * low:
            # Labels at powers of ten alone would be one label, or none, on so short an axis. Below
            # a factor of 4 even 1, 2, 3 and 5 may leave one label, and even distances are taken.
            subs = (1, 2, 3, 5) if high < 10 * low else (1, 2, 5)
            locator = MaxNLocator(nbins=5) if high < 4 * low else LogLocator(subs=subs)
            axes.yaxis.set_major_locator(locator)
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        # Minor ticks would have no labels, and would take a third of the time of a figure.
        axes.yaxis.set_minor_locator(NullLocator())
    label_panel(axes, title, x_label, y_label)


def set_log_log_time(axes: Axes) -> None:
    """Set a logarithmic axis of log10 t, whose ticks read as times 10^1, 10^10, 10^100."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(_time_label))
    axes.xaxis.set_minor_locator(NullLocator())


def set_log_values(axes: Axes) -> None:
    """Set a logarithmic x axis with labels even where it covers less than a decade."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _time_label(decades: float, _position: object = None) -> str:
    """10^x for ticks at x = 1, 10, 100, …; from x = 10^4 on as 10^(10^4), which is shorter."""
    power = math.log10(decades)
    is_tower = power >= 4 and power == round(power)
    return f"$10^{{10^{power:g}}}$" if is_tower else f"$10^{{{decades:g}}}$"


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


def panel_legend(axes: Axes, *, lines: Mapping[str, Artist] | None = None) -> None:
    """Put a legend below the label of the x axis: of the labelled curves, or of given lines.

    Example:
        >>> from nc_jax.plotting import style
        >>> from matplotlib.figure import Figure
        >>> axes = Figure().subplots()
        >>> lines = axes.plot([1, 2], label="flow")
        >>> style.panel_legend(axes)
        >>> [text.get_text() for text in axes.get_legend().get_texts()]
        ['flow']
    """
    # Inside of the axes a legend would hide data, and Matplotlib's search for a free place there,
    # loc="best", takes seconds where there are many curves.
    if lines is None:
        # Handles and labels, reversed to pairs (label, handle).
        lines = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if not lines:
        return
    figure = axes.get_figure(root=True)
    assert figure is not None
    # 0.52 inches below the axes, whatever their height: ticks and label have a fixed size.
    below = axes.transAxes + ScaledTranslation(0, -0.52, figure.dpi_scale_trans)
    axes.legend(
        list(lines.values()), list(lines), frameon=False, fontsize=8, loc="upper center",
        ncols=2, borderaxespad=0, bbox_to_anchor=(0.5, 0), bbox_transform=below,
    )  # fmt: skip


def figure_legend(
    figure: Figure,
    *,
    colors: Mapping[str, Any] = MappingProxyType({}),
    styles: Mapping[str, str] = MappingProxyType({}),
    lines: Mapping[str, Artist] = MappingProxyType({}),
) -> None:
    """Put a legend below all panels: colours, line styles, lines, and the meanings of all bands.

    Example:
        >>> from nc_jax.plotting import style
        >>> from matplotlib.figure import Figure
        >>> figure = Figure(layout="constrained")
        >>> style.figure_legend(figure, colors={"d = 3": style.BLUE}, styles={"descent": "--"})
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['d = 3', 'descent']
    """
    entries: dict[str, Artist | tuple[Artist, ...]] = {
        **{name: Line2D([], [], color=color) for name, color in colors.items()},
        **{name: Line2D([], [], color=DARK, ls=style) for name, style in styles.items()},
        **lines,
    }
    for meaning in _band_meanings(figure):
        band, line = Patch(color=GREY, alpha=0.3, linewidth=0), Line2D([], [], color=GREY, lw=1.5)
        entries[meaning] = (band, line)
    if not entries:
        return
    # All columns get the width of the widest entry, estimated as 0.065 inches for each letter plus
    # 0.6 inches for the line.
    columns = int(figure.get_figwidth() / (0.065 * max(map(len, entries)) + 0.6))
    figure.legend(
        list(entries.values()), list(entries), frameon=False, fontsize=9,  # pyright: ignore[reportArgumentType]
        loc="outside lower center", ncols=max(1, min(columns, len(entries))),
    )  # fmt: skip


def _band_meanings(figure: Figure) -> list[str]:
    """What the bands of a figure mean, each once, in alphabetical order."""
    labels = (str(artist.get_label()) for axes in figure.axes for artist in axes.collections)
    return sorted({x.removeprefix(BAND_PREFIX) for x in labels if x.startswith(BAND_PREFIX)})
