"""Figure of `collapse_movie.py`: six frames of the movie side by side."""

from typing import cast

import numpy as np
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.axes3d import Axes3D

from nc_jax.plotting import style
from nc_jax.plotting.film import draw_scene, scene_legend, time_text
from nc_jax.plotting.frames import Frames

_COUNT = 6


@style.paper()
def sheet_figure(frames: Frames) -> Figure:
    """Six frames: one of each stage, half way through it, and others at even distances.

    Args: `frames`, those of a movie.

    Returns: a Matplotlib `Figure` of six panels.
    """
    # Matplotlib accepts "none", which its stubs do not list.
    figure = Figure(figsize=(style.PAGE, 5.2), layout="none")  # pyright: ignore[reportArgumentType]
    chosen = sheet_frames(frames)
    panels = figure.subplots(2, 3, subplot_kw={"projection": "3d"}).flat
    for panel, i in zip(panels, chosen, strict=False):
        axes = cast(Axes3D, panel)
        draw_scene(axes, frames, i)
        axes.set_title("   ".join(filter(None, [time_text(frames, i), frames.stage(i)])))
    figure.subplots_adjust(left=0, right=1, bottom=0.08, top=0.9, wspace=0, hspace=0.12)
    scene_legend(figure, ncols=4)
    return figure


def sheet_frames(frames: Frames) -> list[int]:
    """Indices of six frames in order, the first, the last and the middle of each stage included."""
    positions = frames.positions
    begins = np.searchsorted(positions, list(frames.stages.values())).tolist()
    ends = [*begins[1:], len(positions)]
    middles = [(first + end - 1) // 2 for first, end in zip(begins, ends, strict=True)]
    chosen = dict.fromkeys([0, len(positions) - 1, *middles])
    spread = np.linspace(0, len(positions) - 1, _COUNT).astype(int).tolist()
    for i in spread:
        if len(chosen) < _COUNT:
            chosen[i] = None
    return sorted(list(chosen)[:_COUNT])
