"""Style of figures: printed sizes, colours, line styles, bands, scales, labels and legends.

They are public, so that a user's figures can have the same style as those of the package.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from numpy.typing import ArrayLike

from .legends import (
    BAND_PREFIX as BAND_PREFIX,
    figure_legend as figure_legend,
    panel_legend as panel_legend,
)
from .palette import (
    BLUE as BLUE,
    CATEGORIES as CATEGORIES,
    DARK as DARK,
    GREEN as GREEN,
    GREY as GREY,
    LINE_STYLES as LINE_STYLES,
    ORANGE as ORANGE,
    PURPLE as PURPLE,
    class_colors as class_colors,
    family_colors as family_colors,
    shades as shades,
)
from .paper import COLUMN as COLUMN, PAGE as PAGE, PaperFigure as PaperFigure, paper as paper
from .scales import (
    EPOCHS as EPOCHS,
    LINEAR as LINEAR,
    LOG as LOG,
    LOG_LOG as LOG_LOG,
    AxisScale as AxisScale,
    scale_for as scale_for,
    set_log_log_time as set_log_log_time,
    set_log_values as set_log_values,
)

# Texts that explain a curve with a band in the legend of a figure.
PERCENTILES = "median, 10th to 90th percentile"
RANGE = "mean, least to largest"
WILSON = "share, its interval of 95 % (Wilson)"

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

# Labels of y axes, in two lines where one would be longer than a low panel; a variable that is not
# listed is labelled with its name in words.
_LABELS = {
    "ji_feature_norm_variation": "std / mean of the norms",
    "ji_classifier_norm_variation": "std / mean of the norms",
    "ji_within_class_variation": "distance to class mean /\ndistance to global mean",
    "ji_feature_cosine_gap": "mean of\n|cosine + 1/(K−1)|",
    "ji_classifier_cosine_gap": "mean of\n|cosine + 1/(K−1)|",
    "ji_self_duality": "mean distance\nof the directions",
    "cdnv": "CDNV",
    "zhu_nc1": r"tr($\Sigma_W\Sigma_B^+$)/K",
    "zhu_nc2": r"‖WWᵀ/‖WWᵀ‖$_F$ − E‖$_F$",
    "zhu_nc3": r"‖WMᵀ/‖WMᵀ‖$_F$ − E‖$_F$",
    "zhu_nc4": r"‖Wμ$_G$ + b‖",
    "papyan_nc1": r"tr($\Sigma_W\Sigma_B^+$)",
    "papyan_classifier_equinorm": "std / mean of the norms",
    "papyan_ncc_mismatch": "share of samples\nthat disagree",
    "mixon_snc1": r"‖WWᵀ − √n(I − 11ᵀ/K)‖$_F$",
    "mixon_snc2": r"‖H − (W⊗1)ᵀ/√n‖$_F$ / ‖H‖$_F$",
    "mixon_snc3": "‖b − 1/K‖",
    "mixon_distance_to_s": r"‖Z − Π$_S$Z‖ / ‖Z‖",
    "norm_product": "norm ρ",
    "margin_min": "smallest margin",
    "margins": "margin",
    "layer_nc1": r"tr($\Sigma_W\Sigma_B^+$)/K",
    "layer_cdnv": "CDNV",
    "layer_effective_rank": "effective rank of\nthe class means",
    "layer_singular_values": "singular value",
}


def y_label(variable: str) -> str:
    """Label of the y axis for a variable: its formula, or its name in words.

    Example:
        >>> from nc_jax.plotting import style
        >>> style.y_label("mixon_snc3"), style.y_label("train_loss")
        ('‖b − 1/K‖', 'train loss')
    """
    return _LABELS.get(variable, variable.replace("_", " "))


def number_text(value: float) -> str:
    """A number for a legend, with a power of ten in superscripts where it has one.

    Example:
        >>> from nc_jax.plotting import style
        >>> style.number_text(0.25), style.number_text(1e-5), style.number_text(3e-7)
        ('0.25', '10⁻⁵', '3·10⁻⁷')
    """
    digits, _, power = f"{value:g}".partition("e")
    if not power:
        return digits
    ten = "10" + str(int(power)).translate(_SUPERSCRIPTS)
    return ten if digits == "1" else f"{digits}·{ten}"


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
    axes.set_title(title, y=1.0)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(True, which="major")


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
