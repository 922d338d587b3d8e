"""Legends below panels and below figures, where they hide no data."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from matplotlib import rcParams
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.textpath import text_to_path
from matplotlib.transforms import ScaledTranslation

from .palette import DARK, GREY

# Prefix of the labels of bands. Matplotlib's legends omit labels that begin with an underscore, so
# that bands are listed by `figure_legend` alone.
BAND_PREFIX = "_band:"


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
    place = axes.get_subplotspec()
    share = len(place.colspan) / place.get_gridspec().ncols if place else 1.0
    # Below ticks and label, whose height is that of their letters, whatever that of the axes. At 8
    # points they take 0.43 inches.
    inches = 0.43 * float(axes.xaxis.label.get_fontsize()) / 8
    below = axes.transAxes + ScaledTranslation(0, -inches, figure.dpi_scale_trans)
    axes.legend(
        list(lines.values()), list(lines), loc="upper center", borderaxespad=0, borderpad=0,
        ncols=_columns(lines, share * figure.get_figwidth()), bbox_to_anchor=(0.5, 0),
        bbox_transform=below,
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
    figure.legend(
        list(entries.values()), list(entries), loc="outside lower center",  # pyright: ignore[reportArgumentType]
        ncols=_columns(entries, figure.get_figwidth()),
    )  # fmt: skip


def _columns(labels: Iterable[str], width: float) -> int:
    """How many columns of these labels a legend has room for in a width in inches."""
    font = FontProperties(size=rcParams["legend.fontsize"])
    points = [text_to_path.get_text_width_height_descent(x, font, "$" in x)[0] for x in labels]
    size = font.get_size_in_points()
    line = (rcParams["legend.handlelength"] + rcParams["legend.handletextpad"]) * size
    gap = rcParams["legend.columnspacing"] * size
    # All columns get the width of the widest entry.
    columns = int((72 * width + gap) / (max(points) + line + gap))
    return max(1, min(columns, len(points)))


def _band_meanings(figure: Figure) -> list[str]:
    """What the bands of a figure mean, each once, in alphabetical order."""
    labels = (str(artist.get_label()) for axes in figure.axes for artist in axes.collections)
    return sorted({x.removeprefix(BAND_PREFIX) for x in labels if x.startswith(BAND_PREFIX)})
