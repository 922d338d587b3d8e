"""The frames of a movie: which saves of a run are drawn, with positions, times and curves."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import ArrayLike, Float, Int, Integer

from ..checks import check_number, shown
from ..labels import check_labels
from .panels import words
from .recordings import AXIS_LABELS, RecordedAxis, curves, recorded_axis
from .scenes import Scene, scene

# Stages have letters on the curves, where their names would not fit.
LETTERS = "abcdefghijklmnopqrstuvwxyz"
_STATES = ("state_features", "state_classifier")
# Curves of a movie whose observables are not given: title by variable.
_OBSERVABLES = {
    "within-class variation": "ji_within_class_variation",
    "cosines of classifiers": "ji_classifier_cosine_gap",
    "self-duality": "ji_self_duality",
}
# Powers of ten of the times and of the steps at which the axis may have a tick.
_TIMES = (-4, -3, -2, -1, 0, 1, 10, 100, 1000, 10**4, 10**5, 10**6, 10**7)
_STEPS = tuple(range(9))
# More curves than this would have titles over the ticks of their neighbours.
_MOST_CURVES = 5
# At most this many features are drawn: a page stores each of them in each frame.
_MOST_FEATURES = 400


class Frames(NamedTuple):
    """What a movie draws.

    Attributes:
        scene: positions at the frames.
        axis: the recorded axis at the frames.
        curves: by title, (S,) values at all saves of the run.
        saves: (S,) positions of all saves on the axis of times.
        stages: position on the axis of times at which each stage begins, by name, in order.
    """

    scene: Scene
    axis: RecordedAxis
    curves: dict[str, Float[np.ndarray, " S"]]
    saves: Float[np.ndarray, " S"]
    stages: dict[str, float]

    @property
    def positions(self) -> Float[np.ndarray, " T"]:
        """Positions of the frames on the axis of times."""
        return axis_positions(self.axis)

    def stage(self, frame: int) -> str:
        """Letter and name of the last stage that has begun at a frame, or an empty text."""
        names = [f"{letter}: {name}" for letter, name in zip(LETTERS, self.stages, strict=False)]
        begun = sum(at <= self.positions[frame] + 1e-9 for at in self.stages.values())
        return names[begun - 1] if begun else ""

    def marks(self) -> list[tuple[str, float, float]]:
        """Letter of each stage, the position at which it begins, and that of its middle."""
        begins = list(self.stages.values())
        ends = [*begins[1:], float(self.saves[-1])]
        return [
            (letter, at, (at + end) / 2)
            for letter, at, end in zip(LETTERS, begins, ends, strict=False)
        ]


def frames_of(
    data: xr.Dataset,
    labels: Integer[ArrayLike, " N"],
    *,
    observables: Sequence[str] | Mapping[str, str] | None,
    stages: Mapping[str, float],
    count: int,
) -> Frames:
    """The frames of a run; `count` saves at even distances on the axis of times."""
    features, classifiers = _states(data)
    labels = np.asarray(
        check_labels(labels, classifiers.shape[1], features.shape[1], every_class=True)
    )
    axis = recorded_axis(data)
    saves = axis_positions(axis)
    # t = 0 is at −∞, and a run that ended early has NaN from then on.
    usable = np.isfinite(saves)
    for arrays in (features, classifiers):
        usable &= np.isfinite(arrays).all(axis=(1, 2))
    if usable.sum() < 2:
        after = " after t = 0" if axis.dim == "time" else ""
        raise ValueError(
            f"run: has {usable.sum()} save{'' if usable.sum() == 1 else 's'} with a finite state"
            f"{after}; give a run with 2 or more."
        )
    chosen = even_saves(np.where(usable, saves, np.nan), count)
    every = np.arange(len(labels))
    drawn = every[np.unique(np.linspace(0, len(every) - 1, _MOST_FEATURES).astype(int))]
    positions = scene(features[chosen], classifiers[chosen], labels)
    return Frames(
        positions._replace(features=positions.features[:, drawn], labels=labels[drawn]),
        RecordedAxis(axis.dim, axis.values[chosen], axis.log_values[chosen]),
        {
            title: _curve(data, name, axis.dim)[usable]
            for title, name in _titles(data, observables, axis.dim).items()
        },
        saves[usable],
        _stage_positions(stages, axis.dim, saves[usable][0]),
    )


def axis_positions(axis: RecordedAxis) -> Float[np.ndarray, " T"]:
    """Positions on the axis of times: log10 log10(1 + t) of a flow, log10(1 + step) of others.

    Example:
        >>> from nc_jax.plotting.frames import axis_positions
        >>> log_time = np.log([1.0, 10.0, 1e10])
        >>> axis_positions(nc.plotting.RecordedAxis("time", np.expm1(log_time), log_time))
        array([-inf,   0.,   1.])
    """
    return _positions(axis.dim, axis.log_values)


def _positions(dim: str, log_values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Positions on the axis of times of log(1 + t), or of log(1 + step)."""
    decades = log_values / math.log(10)
    if dim != "time":
        return decades
    with np.errstate(divide="ignore"):  # t = 0 is at −∞
        return np.log10(decades)


def even_saves(positions: Float[np.ndarray, " S"], count: int) -> Int[np.ndarray, " T"]:
    """Indices of the saves nearest to `count` even positions, each once; t = 0 at −∞ is left out.

    Example:
        >>> from nc_jax.plotting.frames import even_saves
        >>> even_saves(np.array([-np.inf, 0.0, 0.1, 0.2, 3.0]), 3).tolist()
        [1, 3, 4]
    """
    known = np.flatnonzero(np.isfinite(positions))
    wanted = np.linspace(positions[known[0]], positions[known[-1]], count)
    nearest = np.abs(positions[known][:, None] - wanted).argmin(axis=0)
    return known[np.unique(nearest)]


def power_of_ten(axis: RecordedAxis, frame: int) -> str:
    """The power of ten of the time of a frame, t = 10^x, or the number of a step or epoch.

    Example:
        >>> from nc_jax.plotting.frames import power_of_ten
        >>> log_time = np.array([np.log1p(0.1), 1e4 * np.log(10)])
        >>> axis = nc.plotting.RecordedAxis("time", np.array([0.1, np.inf]), log_time)
        >>> power_of_ten(axis, 0), power_of_ten(axis, 1)
        ('−1.0', '10000')
    """
    if axis.dim != "time":
        return f"{axis.values[frame]:g}"
    log_value = axis.log_values[frame]
    # log t = log(1 + t) + log(1 − e^(−log(1 + t))).
    power = (log_value + math.log(-math.expm1(-log_value))) / math.log(10)
    return (f"{power:.1f}" if abs(power) < 9.95 else f"{power:.0f}").replace("-", "−")


def axis_ticks(dim: str, positions: Float[np.ndarray, " S"], *, most: int = 4) -> dict[int, float]:
    """Positions of ticks of the axis of times, by the power of ten of their time or step.

    Example:
        >>> from nc_jax.plotting.frames import axis_ticks
        >>> list(axis_ticks("time", np.array([-1.5, 3.0])))
        [0, 10, 1000]
    """
    powers = _TIMES if dim == "time" else _STEPS
    logs = np.logaddexp(0, np.array(powers) * math.log(10))
    at = dict(zip(powers, _positions(dim, logs).tolist(), strict=True))
    low, high = positions.min() - 1e-9, positions.max() + 1e-9
    inside = {power: place for power, place in at.items() if low <= place <= high}
    # Every second or third from the last one on, where there are many.
    step = max(1, -(-len(inside) // most))
    return dict(list(inside.items())[::-1][::step][::-1])


def axis_label(dim: str) -> str:
    """Label of the axis of times.

    Example:
        >>> from nc_jax.plotting.frames import axis_label
        >>> axis_label("step")
        'step (log scale)'
    """
    return f"{AXIS_LABELS[dim]} ({'log log' if dim == 'time' else 'log'} scale)"


def _states(
    data: xr.Dataset,
) -> tuple[Float[np.ndarray, "S N d"], Float[np.ndarray, "S K d"]]:
    """Saved features and classifiers of one run."""
    missing = [name for name in _STATES if name not in data]
    if missing:
        raise ValueError(
            f"run: has no {', '.join(missing)}; give a run of a model of unconstrained features "
            "with save_states=True."
        )
    features, classifiers = (data[name] for name in _STATES)
    if features.ndim != 3:
        axes = ", ".join(map(str, features.dims[:-3]))
        raise ValueError(
            f"run: has several runs over {axes}; give one of them, such as "
            f"run.isel({features.dims[0]}=0), with run = nc.storage.to_dataset(trajectory) of a "
            "Trajectory."
        )
    return features.values, classifiers.values


def _curve(data: xr.Dataset, name: str, dim: str) -> Float[np.ndarray, " S"]:
    """The values of a variable at all saves of one run."""
    values = curves(data, name)
    # `curves` puts the entries of all further axes into rows, each of which would be a run here.
    if (dims := data[name].dims) != (dim,):
        raise ValueError(
            f"observables: {name!r} has dimensions {', '.join(map(str, dims))}; give a variable "
            f"over {dim} alone, such as its mean over the other dimensions."
        )
    return values[0]


def _titles(
    data: xr.Dataset, observables: Sequence[str] | Mapping[str, str] | None, dim: str
) -> dict[str, str]:
    """Variables of the curves by title."""
    if observables is None:
        known = {title: name for title, name in _OBSERVABLES.items() if name in data}
        over_axis = [
            str(name)
            for name, values in data.data_vars.items()
            if values.dims == (dim,) and values.dtype.kind in "fiu"
        ]
        # Sorted, since Zarr lists variables in the order of the file system.
        return known or {words(name): name for name in sorted(over_axis)[:3]}
    if isinstance(observables, str) or not isinstance(observables, (Mapping, Sequence)):
        raise ValueError(
            f"observables = {shown(observables)}: give names of variables, or variables by title, "
            "such as {'margin': 'margin_min'}."
        )
    if len(observables) > _MOST_CURVES:
        raise ValueError(
            f"observables: has {len(observables)} names, of which a movie has room for "
            f"{_MOST_CURVES}; give fewer."
        )
    if isinstance(observables, Mapping):
        return dict(observables)
    return {words(name): name for name in observables}


def _stage_positions(stages: Mapping[str, float], dim: str, first: float) -> dict[str, float]:
    """Positions on the axis of times at which stages begin, in order, from the first save on."""
    if not isinstance(stages, Mapping):
        raise ValueError(
            f"stages = {shown(stages)}: give log(1 + t) at which each begins by name, such as "
            "{'square': 2.3}."
        )
    if len(stages) > len(LETTERS):
        raise ValueError(
            f"stages: has {len(stages)} names, of which a movie has letters for {len(LETTERS)}; "
            "give fewer."
        )
    for name, at in stages.items():
        check_number(f"stages[{name!r}]", at, scalar=True)
    positions = _positions(dim, np.array(list(stages.values()), float))
    begins = np.maximum(positions, first).tolist()
    return dict(sorted(zip(stages, begins, strict=True), key=lambda stage: stage[1]))


def value_range(values: Float[np.ndarray, " S"]) -> tuple[float, float]:
    """Limits of the axis of a curve, with a place for the letters of stages above it.

    Values that agree to four digits are drawn as a level line: ticks between them would differ in
    digits for which there is no place.

    Example:
        >>> from nc_jax.plotting.frames import value_range
        >>> value_range(np.array([0.0, np.nan, 1.0]))
        (-0.0625, 1.375)
    """
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    size = max(abs(low), abs(high))
    span = high - low if high - low > 1e-4 * size else size or 1.0
    return low - span / 16, high + 3 * span / 8


def share_text(frames: Frames) -> str:
    """Which share of the class means at the end the three dimensions of the scene hold."""
    return f"3 principal directions hold {100 * frames.scene.share:.3g} %"
