"""What holds for the layout of every figure, whatever is drawn in it."""

from itertools import combinations
from pathlib import Path

import matplotlib.colors
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Matplotlib's code for the location "best", which it also takes where none is given.
BEST = 0
# The least contrast that WCAG 2 asks of graphics.
CONTRAST = 3


def check_layout(figure: Figure) -> None:
    """Every panel has labels and lines that can be read, and no text or legend covers another."""
    figure.draw_without_rendering()
    panels = [axes for axes in figure.axes if axes.axison and axes.get_label() != "<colorbar>"]
    for axes in panels:
        check_labels(figure, axes)
        check_legends(figure, axes)
        for line in axes.lines:
            contrast = contrast_with_white(line.get_color())
            assert contrast >= CONTRAST, f"{named(axes)}: {line.get_color()} is too pale"
    titles = [axes.title for axes in figure.axes if axes.get_title()]
    for first, second in combinations(titles, 2):
        assert not overlap(first, second), f"{first.get_text()!r} covers {second.get_text()!r}"
    whole = figure.bbox
    for text in [*titles, *(axes.yaxis.label for axes in panels)]:
        box = text.get_window_extent()
        inside = box.x0 >= whole.x0 - 1 and box.x1 <= whole.x1 + 1
        assert inside and box.y0 >= -1 and box.y1 <= whole.y1 + 1, f"{text.get_text()!r} is cut off"  # noqa: PT018


def check_saved_figures(monkeypatch) -> dict[str, Figure]:
    """Check the layout of every figure before it is saved; returns the figures by file name."""
    save, saved = Figure.savefig, {}

    def check_and_save(figure: Figure, path, **kwargs) -> None:
        check_layout(figure)
        save(figure, path, **kwargs)
        saved[Path(path).name] = figure

    monkeypatch.setattr(Figure, "savefig", check_and_save)
    return saved


def record_figures(monkeypatch) -> list[Figure]:
    """All figures that are created from now on, in a list that grows."""
    create, figures = Figure.__init__, []

    def create_and_record(figure: Figure, *args, **kwargs) -> None:
        create(figure, *args, **kwargs)
        figures.append(figure)

    monkeypatch.setattr(Figure, "__init__", create_and_record)
    return figures


def line_data(axes: Axes) -> list[np.ndarray]:
    """The (2, points) data of every line of a panel."""
    return [np.asarray(line.get_data()) for line in axes.lines]


def legend_texts(owner: Axes | Figure) -> list[str]:
    """Entries of the legend of a panel, or of the one legend of a figure."""
    if isinstance(owner, Figure):
        [legend] = owner.legends
    else:
        legend = owner.get_legend()
        assert legend is not None, f"{named(owner)} has no legend"
    return [text.get_text() for text in legend.get_texts()]


def titles(figure: Figure) -> list[str]:
    """Titles of all panels that are drawn."""
    return [axes.get_title() for axes in figure.axes if axes.axison]


def check_labels(figure: Figure, axes: Axes) -> None:
    """Both axes have labels: theirs, the figure's, or those of a panel that shares the axis."""
    column = figure.get_supxlabel() or any(is_shared(axes, other, "x") for other in figure.axes)
    row = figure.get_supylabel() or any(is_shared(axes, other, "y") for other in figure.axes)
    assert axes.get_xlabel() or column, f"{named(axes)}: its x axis has no label"
    assert axes.get_ylabel() or row, f"{named(axes)}: its y axis has no label"
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        ticks = [
            tick.label1
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            if low <= tick.get_loc() <= high
            and tick.label1.get_visible()
            and tick.label1.get_text()
        ]
        for first, second in combinations(ticks, 2):
            pair = f"{first.get_text()!r} and {second.get_text()!r}"
            assert not overlap(first, second), f"{named(axes)}: ticks {pair} overlap"
        for tick in ticks:
            assert len(tick.get_text().replace("mathdefault", "")) <= 20, tick.get_text()


def is_shared(axes: Axes, other: Axes, direction: str) -> bool:
    """Whether another panel has this one's axis, with a label."""
    if direction == "x":
        return bool(axes.get_shared_x_axes().joined(axes, other) and other.get_xlabel())
    return bool(axes.get_shared_y_axes().joined(axes, other) and other.get_ylabel())


def check_legends(figure: Figure, axes: Axes) -> None:
    """Every legend has a fixed place outside of the axes, where it hides no data."""
    for legend in (*figure.legends, axes.get_legend()):
        if legend is None:
            continue
        assert legend._loc != BEST, "a legend's place depends on how fast it is found"  # pyright: ignore[reportAttributeAccessIssue]
        assert not overlap(legend, axes.patch), f"a legend hides data of {named(axes)}"
    entries = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    for artist in axes.collections:
        meaning = str(artist.get_label())
        if meaning.startswith("_band:"):
            assert meaning.removeprefix("_band:") in entries, f"{named(axes)}: a band without words"


def contrast_with_white(color) -> float:
    """The contrast ratio of WCAG 2."""
    rgb = np.array(matplotlib.colors.to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return 1.05 / (float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)


def overlap(first, second) -> bool:
    """Whether two artists cover each other by more than a pixel."""
    a, b = (artist.get_window_extent() for artist in (first, second))
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return width > 1 and height > 1


def named(axes: Axes) -> str:
    return axes.get_title() or axes.get_ylabel() or "a panel without a title"
