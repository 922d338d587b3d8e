"""Figures at the size at which they are printed: widths, sizes of fonts, and vector formats."""

import contextlib
from collections.abc import Iterator
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

# Widths in inches of one column and of the text of a page with two columns.
COLUMN, PAGE = 3.4, 7.0

# Sizes of fonts in points, at the widths above. Exponents and subscripts have 0.7 times the size of
# their text, the ratio of TeX.
RC: dict[str, Any] = {
    "figure.figsize": (COLUMN, 2.5),
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 8,
    "figure.titlesize": 9,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.handletextpad": 0.6,
    "legend.columnspacing": 1.4,
    "legend.labelspacing": 0.35,
    "axes.linewidth": 0.7,
    "axes.titlepad": 4,
    "axes.labelpad": 2.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.25,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    # A tick has its value: no offset and no power of ten at the end of the axis.
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-99, 99),
    # Text remains text: TrueType fonts in PDF (journals refuse Type 3), text elements in SVG.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "savefig.dpi": 200,
}


@contextlib.contextmanager
def paper() -> Iterator[None]:
    """Sizes and formats of this style, inside of a `with` block or of a function it decorates.

    Settings of Matplotlib outside of it do not change. A new figure is one column wide; figures
    are saved with text as text.

    Example:
        >>> import matplotlib
        >>> from matplotlib.figure import Figure
        >>> from nc_jax.plotting import style
        >>> with style.paper():
        ...     matplotlib.rcParams["svg.fonttype"], float(Figure().get_figwidth())
        ('none', 3.4)
        >>> matplotlib.rcParams["svg.fonttype"]
        'path'
    """
    with rc_context(RC):  # pyright: ignore[reportArgumentType]
        yield


class PaperFigure(Figure):
    """A Matplotlib figure of a printed width, which is drawn and saved in this style everywhere.

    Matplotlib reads some settings when a figure is saved, such as the type of its fonts; outside of
    `paper` those would be the user's.

    Args:
        height: in inches.
        width: in inches, `PAGE` or `COLUMN`.

    Example:
        >>> from nc_jax.plotting import style
        >>> figure = style.PaperFigure(2.4, width=style.COLUMN)
        >>> figure.subplots().set_xlabel("epoch").get_fontsize()
        8.0
    """

    def __init__(self, height: float, *, width: float = PAGE) -> None:
        with paper():
            super().__init__(figsize=(width, height), layout="constrained")

    def add_subplot(self, *args: Any, **kwargs: Any) -> Any:
        """Add axes, as a Matplotlib figure does, in this style."""
        with paper():
            return super().add_subplot(*args, **kwargs)

    def draw(self, renderer: Any) -> None:
        """Draw the figure, as a Matplotlib figure does, in this style."""
        with paper():
            super().draw(renderer)

    def savefig(self, *args: Any, **kwargs: Any) -> None:
        """Save the figure, as a Matplotlib figure does, in this style."""
        with paper():
            super().savefig(*args, **kwargs)
