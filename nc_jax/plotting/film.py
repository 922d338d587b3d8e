"""Movies by Matplotlib: a figure that draws one frame at a time, and files of all frames."""

from pathlib import Path
from typing import cast

import numpy as np
from matplotlib import animation
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator
from mpl_toolkits.mplot3d.art3d import Line3DCollection
from mpl_toolkits.mplot3d.axes3d import Axes3D
from PIL import Image

from ..interrupts import lasting_interrupts
from .frames import Frames, axis_label, axis_ticks, power_of_ten, share_text, value_range
from .scenes import edges, marker_sizes, place_labels, spokes, trails
from .style import BLUE, DARK, GREY, class_colors, number_text

# A frame lasts 80 ms and the last one 1.2 s. GIF stores multiples of 10 ms.
_MILLISECONDS, _LAST_MILLISECONDS = 80, 1200
# Width and height of a frame in inches, and its pixels for each inch.
_SIZE, _DPI = (8.0, 4.6), 100
# Fonts can be read when an image of 800 pixels is shown at 400.
_FONT, _LARGE = 13, 19
# Frames that a trail covers.
_TRAIL = 12
# Degrees of the camera: its height, its first direction, and its turn over the movie.
_HEIGHT, _FIRST, _TURN = 26, -80, 70
# Colours of a GIF. Few colours without dithering compress best; lines need only their shades.
_PALETTE = 160


class Film:
    """A figure that draws one frame of a movie at a time.

    Attributes: `figure`, of Matplotlib.

    Example:
        >>> from nc_jax.plotting import film
        >>> film.Film.__name__
        'Film'
    """

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self.figure = Figure(figsize=_SIZE, dpi=_DPI)
        FigureCanvasAgg(self.figure)
        width = 0.62 if frames.curves else 1.0
        self._scene = cast(
            Axes3D, self.figure.add_axes((0.0, 0.1, width, 0.82), projection="3d", label="scene")
        )
        self._time = self.figure.text(0.02, 0.915, "", fontsize=_LARGE)
        self._stage = self.figure.text(0.59, 0.915, "", fontsize=_FONT, ha="right", color=DARK)
        # Right of the first row of the legend, whose second row is longer.
        self.figure.text(0.6, 0.08, share_text(frames), fontsize=10, ha="right", color=DARK)
        # A title needs the same height above a panel, however low the panel is.
        space = max(0.5, 0.2 * len(frames.curves))
        grid = self.figure.add_gridspec(
            max(1, len(frames.curves)), 1, left=0.7, right=0.97, top=0.91, bottom=0.13, hspace=space
        )
        self._panels = [
            _Panel(self.figure.add_subplot(grid[i]), frames, title, is_last)
            for i, title in enumerate(frames.curves)
            for is_last in [i == len(frames.curves) - 1]
        ]
        scene_legend(self.figure, ncols=2)

    def draw(self, frame: int) -> None:
        """Draw a frame."""
        frames, last = self._frames, max(1, len(self._frames.positions) - 1)
        draw_scene(self._scene, frames, frame, turn=_TURN * frame / last)
        self._time.set_text(time_text(frames, frame))
        self._stage.set_text(frames.stage(frame))
        for panel in self._panels:
            panel.draw(frames.positions[frame])

    def image(self, frame: int) -> Image.Image:
        """A frame as an image."""
        self.draw(frame)
        canvas = cast(FigureCanvasAgg, self.figure.canvas)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


class _Panel:
    """One curve: grey over the whole run, dark up to the frame, with a dot at the frame."""

    def __init__(self, axes: Axes, frames: Frames, title: str, is_last: bool) -> None:
        self._x, self._y = frames.saves, frames.curves[title]
        axes.plot(self._x, self._y, color=GREY, lw=1)
        [self._past] = axes.plot([], [], color=BLUE, lw=2.4)
        [self._dot] = axes.plot([], [], "o", color=BLUE, ms=7)
        for letter, begin, middle in frames.marks():
            axes.axvline(begin, color=GREY, lw=1, ls=":")
            axes.text(middle, 0.97, letter, transform=axes.get_xaxis_transform(), ha="center",
                      va="top", fontsize=_FONT, color=DARK)  # fmt: skip
        axes.set_ylim(*value_range(self._y))
        axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
        # Matplotlib's formatter would put an offset or a power of ten at the end of the axis.
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value)))
        axes.set_title(title, fontsize=_FONT, loc="left", pad=4)
        axes.tick_params(labelsize=11)
        axes.margins(x=0.02)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        ticks = axis_ticks(frames.axis.dim, self._x)
        labels = [f"$10^{{{power}}}$" if is_last else "" for power in ticks]
        axes.set_xticks(list(ticks.values()), labels)
        if is_last:
            axes.set_xlabel(axis_label(frames.axis.dim), fontsize=_FONT)

    def draw(self, position: float) -> None:
        past = self._x <= position + 1e-9
        self._past.set_data(self._x[past], self._y[past])
        self._dot.set_data(self._x[past][-1:], self._y[past][-1:])


def draw_scene(axes: Axes3D, frames: Frames, frame: int, *, turn: float = 0) -> None:
    """Draw a frame in axes of three dimensions; `turn` moves the camera by degrees."""
    scene, colors = frames.scene, np.array(class_colors(frames.scene.means.shape[1]))
    means, classifiers = scene.means[frame], scene.classifiers[frame]
    axes.clear()
    axes.set_axis_off()
    # In the order in which they are added. By depth a marker would cover numbers of classes, and of
    # several markers at one place the largest could cover the others.
    axes.computed_zorder = False
    axes.add_collection3d(Line3DCollection(edges(scene.means[-1]), colors=GREY, lw=0.7, ls=":"))
    axes.add_collection3d(Line3DCollection(edges(means), colors=DARK, lw=1.1))
    axes.add_collection3d(
        Line3DCollection(trails(scene.means, frame, _TRAIL), colors=colors, lw=3, alpha=0.35)
    )
    axes.add_collection3d(Line3DCollection(spokes(means), colors=colors, lw=2))
    axes.add_collection3d(Line3DCollection(spokes(classifiers), colors=colors, lw=1.5, ls="--"))
    features = scene.features[frame]
    axes.scatter(*features.T, c=colors[scene.labels], s=9, depthshade=False, linewidths=0)
    areas = 110 * marker_sizes(means) ** 2
    axes.scatter(*means.T, c=colors, s=areas, depthshade=False, linewidths=0)  # pyright: ignore[reportArgumentType]
    axes.scatter(*classifiers.T, facecolors="none", edgecolors=colors, marker="D", s=110,
                 linewidths=1.8, depthshade=False)  # fmt: skip
    for (x, y, z), text in zip(1.22 * means, place_labels(means), strict=True):
        label = axes.text(x, y, z, text, fontsize=_FONT, ha="center", va="center")
        label.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    reach = scene.reach()
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), zlim=(-reach, reach))
    axes.set_box_aspect((1, 1, 1), zoom=1.6)  # pyright: ignore[reportArgumentType]
    axes.view_init(elev=_HEIGHT, azim=_FIRST + turn)


def time_text(frames: Frames, frame: int) -> str:
    """The time of a frame, t = 10^x, or the number of a step or epoch."""
    value = power_of_ten(frames.axis, frame)
    return f"$t = 10^{{{value}}}$" if frames.axis.dim == "time" else f"{frames.axis.dim} {value}"


def save_gif(frames: Frames, path: Path) -> None:
    """Write a GIF that repeats without end."""
    film, count = Film(frames), len(frames.positions)
    # With one palette a frame stores only what changed. It is that of several frames, since each
    # may hide the markers of some classes, or have no trails.
    several = [np.asarray(film.image(round(part * (count - 1)))) for part in (0.3, 0.4, 0.5, 1)]
    palette = Image.fromarray(np.vstack(several)).quantize(_PALETTE)
    none = Image.Dither.NONE
    images = []
    with lasting_interrupts() as check_interrupt:
        for i in range(count):
            check_interrupt()
            images.append(film.image(i).quantize(palette=palette, dither=none))
    durations = [_MILLISECONDS] * (count - 1) + [_LAST_MILLISECONDS]
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=False
    )


def save_mp4(frames: Frames, path: Path) -> None:
    """Write an mp4 by ffmpeg."""
    if not animation.FFMpegWriter.isAvailable():
        raise RuntimeError(f"{path}: ffmpeg is not installed; save as .gif or .html instead.")
    film, count = Film(frames), len(frames.positions)
    writer = animation.FFMpegWriter(fps=1000 / _MILLISECONDS)  # pyright: ignore[reportArgumentType]
    with writer.saving(film.figure, str(path), _DPI):
        for i in [*range(count), *[count - 1] * (_LAST_MILLISECONDS // _MILLISECONDS)]:
            film.draw(i)
            writer.grab_frame()


def scene_legend(figure: Figure, *, ncols: int) -> None:
    """Put a legend of what is drawn in a scene at the lower left of a figure."""
    lines = [
        Line2D([], [], color=DARK, ls="-", marker="o", label="class mean"),
        Line2D([], [], color=DARK, ls="--", marker="D", mfc="none", label="classifier"),
        Line2D([], [], color=DARK, ls="", marker="o", ms=3, label="feature"),
        Line2D([], [], color=GREY, ls=":", label="class means at the end"),
    ]
    figure.legend(
        handles=lines, loc="lower left", ncols=ncols, frameon=False, fontsize=11,
        bbox_to_anchor=(0.0, 0.0), columnspacing=1.0, handletextpad=0.4, borderaxespad=0.2,
    )  # fmt: skip
