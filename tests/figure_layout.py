"""What holds for the layout of every figure, whatever is drawn in it."""

import io
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from xml.sax.saxutils import escape

import matplotlib.colors
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis, Tick
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.mathtext import MathTextParser
from matplotlib.patches import Patch
from matplotlib.text import Text
from mpl_toolkits.mplot3d.art3d import Text3D

from nc_jax.plotting import style

PARSER = MathTextParser("path")
BANDS = (style.PERCENTILES, style.RANGE, style.WILSON)

# Matplotlib's code for the location "best", which it also takes where none is given.
BEST = 0
# The least contrast that WCAG 2 asks of graphics.
CONTRAST = 3


# The least size in points of a text at the printed width, and of an exponent or a subscript, which
# has 0.7 times the size of its text.
TEXT, SCRIPT = 7, 4.9
# The least distance in CIELAB between two entries of a legend that differ in colour alone.
APART = 10
# Linear RGB as readers without green or red cones perceive it (Machado et al. 2009, severity 1).
CONES = {
    "all cones": np.eye(3),
    "deuteranopia": np.array([
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]),
    "protanopia": np.array([
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]),
}  # fmt: skip
# Linear RGB to XYZ over that of white (sRGB, D65).
XYZ = np.array([
    [0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]
]) / np.array([[0.9505], [1.0], [1.089]])  # fmt: skip
# Words by which a title or a label explains a line or a marker that no legend has.
WORDS = {"--": "dashed", ":": "dotted", "-.": "dash-dotted", "|": "ticks", "o": "dots"}


def check_layout(figure: Figure) -> None:
    """Every panel has labels, lines and texts that can be read in print, with any colour vision."""
    figure.draw_without_rendering()
    panels = [axes for axes in figure.axes if axes.axison and axes.get_label() != "<colorbar>"]
    for axes in panels:
        check_labels(figure, axes)
        check_legends(figure, axes)
        check_contrast(axes)
        check_lines_are_explained(figure, axes)
    check_offsets(figure)
    check_sizes(figure)
    check_texts_apart(figure)
    check_entries_apart(figure)


def check_contrast(axes: Axes) -> None:
    """Lines and bars have enough contrast with white."""
    bars = [bar for container in axes.containers for bar in container.get_children()]
    colors = [line.get_color() for line in axes.lines]
    colors += [bar.get_facecolor() for bar in bars if isinstance(bar, Patch)]
    for color in colors:
        assert contrast_with_white(color) >= CONTRAST, f"{named(axes)}: {color} is too pale"


def check_offsets(figure: Figure) -> None:
    """No axis has an offset or a power of ten at its end."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            offset = axis.get_offset_text().get_text()
            assert not offset, f"{named(axes)}: the ticks hide {offset!r} at the end of the axis"


def check_sizes(figure: Figure) -> None:
    """Fonts are large enough where the figure has the width of a page, or its own if less."""
    scale = min(1.0, style.PAGE / figure.get_figwidth())
    for text in visible_texts(figure):
        assert float(text.get_fontsize()) * scale >= TEXT - 1e-9, (
            f"{text.get_text()!r} is too small"
        )
        script = smallest_glyph(text) * scale
        assert script >= SCRIPT - 1e-9, f"{text.get_text()!r} has glyphs of {script:.1f} points"


def smallest_glyph(text: Text) -> float:
    """Size in points of the smallest letter of a text, in a formula that of its scripts."""
    if text.get_text().count("$") < 2:
        return float(text.get_fontsize())
    parsed = PARSER.parse(text.get_text(), dpi=72, prop=text.get_fontproperties())
    return min(size for _, size, *_ in parsed.glyphs)


def check_texts_apart(figure: Figure) -> None:
    """No text covers another or leaves the canvas."""
    texts = visible_texts(figure)
    boxes = np.array([text.get_window_extent().extents for text in texts])
    for text, box in zip(texts, boxes, strict=True):
        inside = np.all(box[:2] >= -1) and np.all(box[2:] <= np.array(figure.bbox.extents[2:]) + 1)
        assert inside, f"{text.get_text()!r} is cut off"
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    for i, j in np.argwhere(np.all(high - low > 1, axis=-1)):
        pair = f"{texts[i].get_text()!r} and {texts[j].get_text()!r}"
        assert i >= j, f"the texts {pair} overlap"


def visible_texts(figure: Figure) -> list[Text]:
    """Texts of a figure that was drawn, without ticks beyond the ends of an axis.

    Matplotlib projects a text in three dimensions while it draws it, and does not know its place
    otherwise.
    """
    hidden = {
        id(label)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        for label in (tick.label1, tick.label2)
        if not (axes.axison and axes.get_visible() and is_in_view(axis, tick))
    }
    return [
        text
        for text in figure.findobj(Text)
        if isinstance(text, Text) and text.get_visible() and text.get_text().strip()
        and not isinstance(text, Text3D)
        and id(text) not in hidden and not is_of_a_hidden_axis(text)
    ]  # fmt: skip


def is_in_view(axis: Axis, tick: Tick) -> bool:
    """Whether a tick is between the ends of its axis."""
    low, high = sorted(axis.get_view_interval())
    return bool(low <= tick.get_loc() <= high)


def is_of_a_hidden_axis(text: Text) -> bool:
    """Whether a text is a label of axes that are not drawn."""
    axes = text.axes
    if axes is None or axes.axison:
        return False
    return text not in [axes.title, *axes.texts]


def check_entries_apart(figure: Figure) -> None:
    """Entries of the legends that a panel has differ in style, or in colour for all readers."""
    for axes in figure.axes:
        legends = [legend for legend in (*figure.legends, axes.get_legend()) if legend is not None]
        listed = [(i, *entry) for i, legend in enumerate(legends) for entry in entries(legend)]
        for (i, name, first), (j, other, second) in combinations(listed, 2):
            # In dark grey, styles without a colour, a panel says more exactly what the figure says.
            is_refined = i != j and first[0] == second[0] == style.DARK
            if first[1:] != second[1:] or name == other or is_refined:
                continue
            for vision, cones in CONES.items():
                apart = np.linalg.norm(lab(first[0], cones) - lab(second[0], cones))
                message = f"{name!r} and {other!r} look the same with {vision}"
                assert apart >= APART, message


def entries(legend: Legend) -> Iterator[tuple[str, tuple]]:
    """Name, and colour, line style, marker and width of each line of a legend."""
    for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True):
        if isinstance(handle, Line2D):
            # The handle of a marker without line has the same style whatever its width.
            styles = handle.get_linestyle(), handle.get_marker(), round(handle.get_linewidth())
            yield text.get_text(), (to_hex(handle.get_color()), *styles)
        elif isinstance(handle, Patch) and text.get_text() not in BANDS:
            yield text.get_text(), (to_hex(handle.get_facecolor()), "patch")


def check_lines_are_explained(figure: Figure, axes: Axes) -> None:
    """Line styles and markers are in a legend, or a title, label or text has a word for them.

    A solid line without markers needs no entry, and neither does a panel of one kind of line.
    """
    legends = [legend for legend in (*figure.legends, axes.get_legend()) if legend is not None]
    handles = [x for legend in legends for x in legend.legend_handles if isinstance(x, Line2D)]
    known = {str(kind) for x in handles for kind in (x.get_linestyle(), x.get_marker())}
    kinds = {str(kind) for x in axes.lines for kind in (x.get_linestyle(), x.get_marker())}
    words = [axes.get_title(), axes.get_xlabel(), axes.get_ylabel(), figure.get_supxlabel()]
    words += [figure.axes[-1].get_xlabel(), *(text.get_text() for text in axes.texts)]
    for kind in kinds - known - {"-", "None", "none", "", " "}:
        # A text beside the line explains it too, where there is one for each such line.
        count = sum(kind in (line.get_linestyle(), line.get_marker()) for line in axes.lines)
        has_word = any(WORDS.get(str(kind), "?") in text for text in words)
        is_alone = not legends and count == len(axes.lines)
        is_named = 0 < count <= len(axes.texts)
        assert has_word or is_alone or is_named, f"{named(axes)}: {kind!r} is in no legend"


def check_vector(figure: Figure) -> None:
    """An SVG of the figure has its texts as texts, and no image of more than 100 kB."""
    file = io.StringIO()
    figure.savefig(file, format="svg")
    drawn = file.getvalue()
    for axes in figure.axes:
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            line = text.get_text().partition("\n")[0]
            if axes.axison and line and "$" not in line:
                assert f">{escape(line)}<" in drawn, f"{line!r} is not a text"
    largest = max((len(image) for image in re.findall(r'base64,[^"]*', drawn)), default=0)
    assert largest <= 133_000, f"an image of {largest} letters in base64"


def lab(color, cones: np.ndarray) -> np.ndarray:
    """A colour in CIELAB as a reader with these cones perceives it."""
    # Opaque colours of all entries: bands are lighter in the same way.
    rgb = XYZ @ np.clip(cones @ linear_rgb(color), 0, 1)
    f = np.where(rgb > 0.008856, np.cbrt(rgb), 7.787 * rgb + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def linear_rgb(color) -> np.ndarray:
    """The intensities of a colour of sRGB."""
    rgb = np.array(matplotlib.colors.to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


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
    luminance = float(linear_rgb(color) @ [0.2126, 0.7152, 0.0722])
    return 1.05 / (luminance + 0.05)


def overlap(first, second) -> bool:
    """Whether two artists cover each other by more than a pixel."""
    a, b = (artist.get_window_extent() for artist in (first, second))
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return width > 1 and height > 1


def named(axes: Axes) -> str:
    return axes.get_title() or axes.get_ylabel() or "a panel without a title"
