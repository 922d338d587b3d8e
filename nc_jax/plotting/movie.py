"""Collapse in motion: a movie of one run, as a page, a GIF or an mp4."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import xarray as xr
from jaxtyping import ArrayLike, Integer
from matplotlib.figure import Figure

from ..checks import check_integer
from ..paths import local_path
from ..trajectory import Trajectory
from .film import Film, save_gif, save_mp4
from .frames import Frames, frames_of
from .interactive import movie_page, plotly_movie
from .recordings import as_dataset

if TYPE_CHECKING:
    import plotly.graph_objects

_SUFFIXES = (".html", ".gif", ".mp4")


class Movie:
    """A movie of one run, from `collapse_movie`.

    In a notebook it shows itself as the page that `save` writes as .html.

    Attributes: `frames`: positions, times, curves and stages that are drawn.

    Example:
        >>> problem = nc.ulpm(4, 3, 2)
        >>> start, save_at = problem.init(jax.random.key(0)), nc.log_times(100, 30)
        >>> flow = nc.gradient_flow(problem, start, save_at, save_states=True)
        >>> movie = nc.plotting.collapse_movie(flow, problem.labels)
        >>> movie.still(-1).savefig(folder / "last.png")
    """

    def __init__(self, frames: Frames) -> None:
        self.frames = frames

    def __repr__(self) -> str:
        return f"Movie({len(self.frames.positions)} frames; save(path) writes .html, .gif or .mp4)"

    def save(self, path: str | Path) -> Path:
        """Write the movie: a page for .html, an animation for .gif or .mp4; returns the path.

        The folder is created where there is none.

        The page needs no other file and no network. A GIF repeats without end. An mp4 is encoded by
        ffmpeg.

        Raises: ValueError for another suffix, ModuleNotFoundError for .html without Plotly,
        RuntimeError for .mp4 without ffmpeg.
        """
        file = local_path(path)
        suffix = file.suffix.lower()
        file.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".html":
            movie_page(self.frames).save(file)
        elif suffix == ".gif":
            save_gif(self.frames, file)
        elif suffix == ".mp4":
            save_mp4(self.frames, file)
        else:
            raise ValueError(
                f"path = {str(path)!r}: give a file name that ends in {', '.join(_SUFFIXES)}."
            )
        return file

    def figure(self) -> "plotly.graph_objects.Figure":
        """The movie as a figure of Plotly, with a play button and a slider.

        Raises: ModuleNotFoundError without Plotly.
        """
        return plotly_movie(self.frames)

    def still(self, frame: int) -> Figure:
        """One frame as a figure of Matplotlib; −1 is the last one."""
        count = len(self.frames.positions)
        frame = check_integer("frame", frame, least=-count, most=count - 1)
        film = Film(self.frames)
        film.draw(frame % count)
        return film.figure

    def _repr_html_(self) -> str:
        try:
            return movie_page(self.frames)._repr_html_()
        except ModuleNotFoundError as error:
            return f"<p>{html.escape(f'{self!r}; {error}')}</p>"


def collapse_movie(
    run: xr.Dataset | Trajectory,
    labels: Integer[ArrayLike, " N"],
    *,
    observables: Sequence[str] | Mapping[str, str] | None = None,
    stages: Mapping[str, float] = MappingProxyType({}),
    frames: int = 90,
) -> Movie:
    """Class means, classifiers and features of a run in three dimensions, with measures beside.

    Frames are the saves nearest to even distances in log log t of a flow, or in log(1 + step) of a
    descent; saves at even distances give as many frames as asked for. Positions are projected onto
    the three principal directions of the class means at the last frame; the share of their squared
    lengths that these hold is stated. For d = 3 the projection is a rotation. All points are
    relative to the mean of the class means, or of the classifiers, and are divided by norms, which
    diverge without weight decay:

        class means and features: √(mean of ‖h_i − μ_G‖² within each class, then over classes)
        classifiers: √(mean of ‖w_c − w_G‖² over classes)

    With neural collapse of balanced classes all of them are corners of one regular simplex.

    Args:
        run: one run with saved states (`save_states=True`) of a model of unconstrained features.
        labels: (N,) class of each sample.
        observables: variables of the curves, or variables by title; None for Ji's measures of
            within-class variation, cosines and self-duality, or for a run without these its first
            three variables over time in alphabetical order.
        stages: log(1 + t) at which each stage begins, by the name that is shown from then on.
        frames: number of frames at most.

    Raises: ValueError for a run without states, several runs, other labels, a name that is no
        variable over time alone, or more than 5 curves or 26 stages.

    Example:
        >>> problem = nc.ulpm(4, 3, 2)
        >>> start = problem.init(jax.random.key(0))
        >>> save_at = np.log1p(np.geomspace(0.1, 200, 50))  # even in log log t, to t = 10^86
        >>> flow = nc.gradient_flow(problem, start, save_at, clock=nc.LogLogTime(),
        ...                         save_states=True)
        >>> movie = nc.plotting.collapse_movie(flow, problem.labels, frames=10)
        >>> movie.save(folder / "movie.html").name
        'movie.html'
    """
    count = check_integer("frames", frames, least=2)
    data = as_dataset(run)
    return Movie(frames_of(data, labels, observables=observables, stages=stages, count=count))
