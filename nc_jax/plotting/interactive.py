"""Movies by Plotly: an interactive figure, and a page that needs no other file and no network."""

import html
import json
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from .frames import Frames, axis_label, axis_ticks, power_of_ten, share_text, value_range
from .page import Page, embedded, filled, package_text, plotly_script
from .scenes import edges, marker_sizes, path, place_labels, spokes, trails
from .style import BLUE, DARK, GREY, class_colors

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Id of the figure in the page; its button and its slider have the ids `{PLOT_ID}-play` and
# `{PLOT_ID}-slider`.
PLOT_ID = "collapse-movie"
# Milliseconds between frames.
_PAUSE = 80
_TRAIL = 12
_EYE = {"x": 0.35, "y": -1.35, "z": 0.65}


def plotly_movie(frames: Frames) -> "Figure":
    """The figure with all frames, a play button and a slider."""
    plotly = _graph_objects()
    each = [_moving_traces(frames, i) for i in range(len(frames.positions))]
    figure = plotly.Figure(
        [*each[0], *_static_traces(frames)],
        _layout(frames),
        frames=[
            {
                "name": str(i),
                "data": traces,
                "traces": list(range(len(traces))),
                "layout": {
                    "title": {"text": _title(frames, i)},
                    "scene": {"annotations": _class_numbers(frames, i)},
                },
            }
            for i, traces in enumerate(each)
        ],
    )
    return figure


def movie_page(frames: Frames) -> Page:
    """A page with the figure, with a play button and a slider that a keyboard can operate."""
    figure = plotly_movie(frames)
    # The controls of the figure are replaced by elements of HTML, which a keyboard reaches.
    figure.layout.updatemenus, figure.layout.sliders = (), ()
    settings = {
        "times": [_plain_time(frames, i) for i in range(len(frames.positions))],
        "pause": _PAUSE,
        "wide": _domains(len(frames.curves), is_wide=True),
        "narrow": _domains(len(frames.curves), is_wide=False),
    }
    parts = {
        "plot_id": PLOT_ID,
        "settings": embedded(settings),
        "figure": embedded(json.loads(str(figure.to_json()))),
        "plotly": plotly_script(),
    }
    text = filled(package_text("movie.html"), parts)
    return Page(text, title="Collapse in motion", height=680)


def _graph_objects() -> ModuleType:
    try:
        import plotly.graph_objects
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'plotly is not installed, which draws the page: pip install "nc_jax[interactive]".'
        ) from None
    return plotly.graph_objects


def _moving_traces(frames: Frames, frame: int) -> list[dict[str, Any]]:
    """The traces that change from frame to frame."""
    scene = frames.scene
    means, classifiers = scene.means[frame], scene.classifiers[frame]
    colors = class_colors(len(means))
    lines = [color for color in colors for _ in range(3)]
    trail = trails(scene.means, frame, _TRAIL)
    sizes = 11 * marker_sizes(means)
    return [
        _trace(path(edges(means)), mode="lines", line={"color": DARK, "width": 2}),
        _trace(path(trail), mode="lines", opacity=0.4,
               line={"color": [c for c in colors for _ in range(_TRAIL + 1)], "width": 7}),
        _trace(scene.features[frame], mode="markers", legendgroup="feature",
               marker={"color": [colors[k] for k in scene.labels], "size": 3}),
        _trace(path(spokes(means)), mode="lines", line={"color": lines, "width": 5},
               legendgroup="class mean"),
        _trace(means, mode="markers", legendgroup="class mean", name="class mean",
               marker={"color": colors, "size": sizes, "opacity": 1, "line": {"width": 0}}),
        _trace(path(spokes(classifiers)), mode="lines", legendgroup="classifier",
               line={"color": lines, "width": 4, "dash": "dash"}),
        _trace(classifiers, mode="markers", legendgroup="classifier", name="classifier",
               marker={"color": colors, "size": 10, "symbol": "diamond-open"}),
        *[_dot(frames, frame, i) for i in range(len(frames.curves))],
    ]  # fmt: skip


def _class_numbers(frames: Frames, frame: int) -> list[dict[str, Any]]:
    """Numbers of the classes, beside their means."""
    # Annotations, since Plotly draws a text of a trace that changes in a wrong size.
    means = frames.scene.means[frame]
    return [
        {
            "x": x,
            "y": y,
            "z": z,
            "text": text,
            "showarrow": False,
            "font": {"size": 18},
            "bgcolor": "rgba(255, 255, 255, 0.6)",
            "borderpad": 0,
        }
        for (x, y, z), text in zip((1.25 * means).tolist(), place_labels(means), strict=True)
    ]


def _legend_traces() -> list[dict[str, Any]]:
    """Traces without points, for the legend: others have one colour for each class."""
    nowhere = np.full((1, 3), np.nan)
    return [
        _trace(nowhere, mode="lines+markers", name="class mean", legendgroup="class mean",
               marker={"color": DARK, "size": 9}, line={"color": DARK}, showlegend=True),
        _trace(nowhere, mode="lines+markers", name="classifier", legendgroup="classifier",
               marker={"color": DARK, "size": 9, "symbol": "diamond-open"},
               line={"color": DARK, "dash": "dash"}, showlegend=True),
        _trace(nowhere, mode="markers", name="feature", legendgroup="feature",
               marker={"color": DARK, "size": 4}, showlegend=True),
    ]  # fmt: skip


def _static_traces(frames: Frames) -> list[dict[str, Any]]:
    """The shape at the end, and the curves."""
    traces = [
        *_legend_traces(),
        _trace(path(edges(frames.scene.means[-1])), mode="lines", name="class means at the end",
               line={"color": GREY, "width": 1.5, "dash": "dot"}, showlegend=True),
    ]  # fmt: skip
    for i, values in enumerate(frames.curves.values()):
        traces.append(
            {
                "type": "scatter", "x": _single(frames.saves), "y": _single(values),
                "mode": "lines", "line": {"color": BLUE, "width": 2}, "showlegend": False,
                "hoverinfo": "y", **_axes(i),
            }
        )  # fmt: skip
    return traces


def _trace(points: Float[np.ndarray, "P 3"], **properties: Any) -> dict[str, Any]:
    x, y, z = _single(points.T)
    return {
        "type": "scatter3d",
        "x": x,
        "y": y,
        "z": z,
        "hoverinfo": "skip",
        "showlegend": False,
        **properties,
    }


def _dot(frames: Frames, frame: int, panel: int) -> dict[str, Any]:
    """The point of a curve at a frame."""
    values = list(frames.curves.values())[panel]
    at = int(np.abs(frames.saves - frames.positions[frame]).argmin())
    return {
        "type": "scatter", "x": [float(frames.saves[at])], "y": [float(values[at])],
        "mode": "markers", "marker": {"color": BLUE, "size": 10}, "showlegend": False,
        "cliponaxis": False,
        "hoverinfo": "y", **_axes(panel),
    }  # fmt: skip


def _axes(panel: int) -> dict[str, str]:
    """Names of the axes of a panel, as traces refer to them."""
    number = "" if panel == 0 else str(panel + 1)
    return {"xaxis": f"x{number}", "yaxis": f"y{number}"}


def _single(values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """In float32, which halves a page, with NaN for infinities."""
    return np.where(np.isfinite(values), values, np.nan).astype(np.float32)


def _layout(frames: Frames) -> dict[str, Any]:
    reach = frames.scene.reach()
    hidden = {"visible": False, "range": [-reach, reach]}
    scene = {
        "xaxis": hidden, "yaxis": hidden, "zaxis": hidden, "aspectmode": "manual",
        # In an orthographic projection the distance of the camera has no effect.
        "aspectratio": dict.fromkeys("xyz", 1.7), "annotations": _class_numbers(frames, 0),
        "camera": {"eye": _EYE, "projection": {"type": "orthographic"}},
    }  # fmt: skip
    layout: dict[str, Any] = {
        "template": "none",
        "title": {"text": _title(frames, 0), "x": 0.01, "xanchor": "left", "font": {"size": 22}},
        "scene": scene,
        "margin": {"l": 10, "r": 10, "t": 60, "b": 60},
        "legend": {
            "orientation": "h", "x": 0, "y": -0.02, "yanchor": "top"
        },
        "annotations": [
            {"text": share_text(frames), "xref": "paper", "yref": "paper", "x": 0, "y": 1,
             "xanchor": "left", "yanchor": "bottom", "showarrow": False}
        ],
        "shapes": [],
        "updatemenus": [_play_button()],
        "sliders": [_slider(frames)],
    }  # fmt: skip
    for i, title in enumerate(frames.curves):
        names, number = _axes(i), "" if i == 0 else str(i + 1)
        is_last = i == len(frames.curves) - 1
        layout[f"xaxis{number}"] = _time_axis(frames, is_last) | {"anchor": names["yaxis"]}
        layout[f"yaxis{number}"] = {
            "anchor": names["xaxis"],
            "nticks": 4,
            # Each tick has its value: no offset, and six digits at most.
            "tickformat": ".6~g",
            "zeroline": False,
            "range": value_range(frames.curves[title]),
        }
        layout["annotations"] += _panel_texts(frames, title, names)
        layout["shapes"] += [
            {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "xref": names["xaxis"],
             "yref": f"{names['yaxis']} domain", "line": {"color": GREY, "width": 1, "dash": "dot"}}
            for at in frames.stages.values()
        ]  # fmt: skip
    for key, value in _domains(len(frames.curves), is_wide=True).items():
        axis, name = key.split(".")
        layout[axis][name] = value
    return layout


def _panel_texts(frames: Frames, title: str, axes: dict[str, str]) -> list[dict[str, Any]]:
    """The title of a panel, and the letters of the stages."""
    xref, yref = axes["xaxis"], f"{axes['yaxis']} domain"
    texts = [
        {"text": _plain(title), "xref": f"{xref} domain", "yref": yref, "x": 0, "y": 1.02,
         "xanchor": "left", "yanchor": "bottom", "showarrow": False, "font": {"size": 15}}
    ]  # fmt: skip
    for letter, _, middle in frames.marks():
        texts.append(
            {"text": letter, "xref": xref, "yref": yref, "x": middle, "y": 1, "xanchor": "center",
             "yanchor": "top", "showarrow": False, "font": {"size": 15}}
        )  # fmt: skip
    return texts


def _time_axis(frames: Frames, is_last: bool) -> dict[str, Any]:
    """The x axis of a panel; only the last one has labels."""
    low, high = frames.saves[0], frames.saves[-1]
    margin = 0.03 * (high - low)
    axis: dict[str, Any] = {"zeroline": False, "range": [low - margin, high + margin]}
    ticks = axis_ticks(frames.axis.dim, frames.saves)
    texts = [f"10<sup>{power}</sup>" if is_last else "" for power in ticks]
    axis |= {"tickvals": list(ticks.values()), "ticktext": texts}
    if is_last:
        axis["title"] = {"text": axis_label(frames.axis.dim), "standoff": 8}
    return axis


def _domains(panels: int, *, is_wide: bool) -> dict[str, Any]:
    """Where scene and curves are: side by side, or the curves below on a narrow page."""
    x, y = ([0.68, 1.0], [0.08, 0.96]) if is_wide else ([0.1, 0.98], [0.06, 0.4])
    # Without curves the scene has the whole width and height.
    scene = {
        "x": [0.0, 0.62 if is_wide and panels else 1.0],
        "y": [0.48 if panels and not is_wide else 0.0, 1.0],
    }
    domains: dict[str, Any] = {"scene.domain": scene}
    height = (y[1] - y[0]) / max(1, panels)
    for i in range(panels):
        number, top = "" if i == 0 else str(i + 1), y[1] - i * height
        domains[f"xaxis{number}.domain"] = x
        domains[f"yaxis{number}.domain"] = [top - 0.65 * height, top]
    return domains


def _play_button() -> dict[str, Any]:
    play = {"frame": {"duration": _PAUSE, "redraw": True}, "transition": {"duration": 0},
            "fromcurrent": True}  # fmt: skip
    return {
        "type": "buttons", "direction": "left", "x": 0, "y": -0.12, "xanchor": "left",
        "yanchor": "top", "buttons": [
            {"label": "Play", "method": "animate", "args": [None, play]},
            {"label": "Pause", "method": "animate", "args": [[None], _at_once()]},
        ],
    }  # fmt: skip


def _slider(frames: Frames) -> dict[str, Any]:
    steps = [
        {"label": _plain_time(frames, i), "method": "animate", "args": [[str(i)], _at_once()]}
        for i in range(len(frames.positions))
    ]
    return {"steps": steps, "x": 0.2, "len": 0.8, "y": -0.1, "currentvalue": {"visible": False}}


def _at_once() -> dict[str, Any]:
    return {
        "mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}
    }  # fmt: skip


def _title(frames: Frames, frame: int) -> str:
    value = power_of_ten(frames.axis, frame)
    time = f"t = 10<sup>{value}</sup>" if frames.axis.dim == "time" else _plain_time(frames, frame)
    return f"{time}   {_plain(frames.stage(frame))}"


def _plain(text: str) -> str:
    """A text in which Plotly finds no HTML: it would read a name in angle brackets as a tag."""
    return html.escape(text, quote=False)


def _plain_time(frames: Frames, frame: int) -> str:
    value = power_of_ten(frames.axis, frame)
    return f"t = 10^{value}" if frames.axis.dim == "time" else f"{frames.axis.dim} {value}"
