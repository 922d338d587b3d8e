"""Figures of trajectories. Reads observables only, never a problem."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    StrMethodFormatter,
)
from matplotlib.transforms import ScaledTranslation
from numpy.typing import ArrayLike, NDArray

from .checks import check_kind, shown
from .trajectory import Trajectory

_BLUE, _ORANGE, _GREY = "#1f6fb4", "#d1651a", "#767676"
# Label, colour, line width. The classifier is drawn thin on top, since the two curves may coincide.
_MEANS = ("class means", _BLUE, 2.6)
_CLASSIFIER = ("classifier", _ORANGE, 1.2)

# Ji's figure 2: title of each panel with its observables.
_PANELS: tuple[tuple[str, dict[str, tuple[str, str, float]]], ...] = (
    (
        "(a) Variation of the norms",
        {"ji_feature_norm_variation": _MEANS, "ji_classifier_norm_variation": _CLASSIFIER},
    ),
    ("(b) Within-class variation", {"ji_within_class_variation": ("features", _BLUE, 1.8)}),
    (
        "(c) Cosines between pairs",
        {"ji_feature_cosine_gap": _MEANS, "ji_classifier_cosine_gap": _CLASSIFIER},
    ),
    ("(d) Self-duality", {"ji_self_duality": ("means against classifier", "#4a4a4a", 1.8)}),
)
_LINE_STYLES: tuple[str, ...] = ("-", "--", ":", "-.")
_MODEL_STYLES: tuple[str, ...] = (":", "-.")
# Trainings by one name, or by one for the colour and one for the line style.
Trainings = Mapping[str, xr.Dataset] | Mapping[tuple[str, str], xr.Dataset]
_RATIO = "margin / largest of its norm"
# Begins the labels of bands; Matplotlib's legends leave out what begins with an underscore.
_BAND = "_band:"
# What a curve in a band is; the legend of a figure with such bands says so.
_PERCENTILES = "median, 10th to 90th percentile"
_RANGE = "mean, least to largest"
_WILSON = "share, its interval of 95 % (Wilson)"

# Measures of a training by panel: Ji's (figures 3 to 8), Zhu's (figures 3 to 5).
JI_PANELS = {
    "Variation of the norms": ("ji_feature_norm_variation", "ji_classifier_norm_variation"),
    "Within-class variation": ("ji_within_class_variation",),
    "Cosines between pairs": ("ji_feature_cosine_gap", "ji_classifier_cosine_gap"),
    "Self-duality": ("ji_self_duality",),
}
ZHU_PANELS = {f"NC{i}": (f"zhu_nc{i}",) for i in (1, 2, 3, 4)}

# Labels of y axes; of other variables their names in words.
_LABELS = {
    "ji_feature_norm_variation": "std / mean of the norms",
    "ji_classifier_norm_variation": "std / mean of the norms",
    "ji_within_class_variation": "distance to class mean / mean of all",
    "ji_feature_cosine_gap": "mean of |cosine + 1/(K−1)|",
    "ji_classifier_cosine_gap": "mean of |cosine + 1/(K−1)|",
    "ji_self_duality": "mean distance of the directions",
    "zhu_nc1": r"tr($\Sigma_W\Sigma_B^+$)/K",
    "zhu_nc2": r"‖WWᵀ/‖WWᵀ‖$_F$ − E‖$_F$",
    "zhu_nc3": r"‖WMᵀ/‖WMᵀ‖$_F$ − E‖$_F$",
    "zhu_nc4": r"‖Wμ$_G$ + b‖",
    "papyan_nc1": r"tr($\Sigma_W\Sigma_B^+$)",
    "papyan_classifier_equinorm": "std / mean of the norms",
    "papyan_ncc_mismatch": "share of samples that disagree",
    "mixon_snc1": r"‖WWᵀ − √n(I − 11ᵀ/K)‖$_F$",
    "mixon_snc2": r"‖H − (W⊗1)ᵀ/√n‖$_F$ / ‖H‖$_F$",
    "mixon_snc3": "‖b − 1/K‖",
    "mixon_distance_to_s": r"‖Z − Π$_S$Z‖ / ‖Z‖",
    "norm_product": "norm ρ",
    "margin_min": "smallest margin",
}

# Mixon's figures 1 and 2.
_STRONG_PANELS = (
    ("(SNC1) Frame of the classifiers", "mixon_snc1"),
    ("(SNC2) Features against classifiers", "mixon_snc2"),
    ("(SNC3) Bias", "mixon_snc3"),
    ("Distance from the subspace S", "mixon_distance_to_s"),
)
# Beyond, a linear axis of time would hide where a flow leaves the origin.
_LONG = 1000.0


def collapse_figure(
    runs: Mapping[str, Trajectory], slopes: Mapping[str, float] | None = None
) -> Figure:
    """Ji's four measures of collapse over log log time, laid out as the paper's figure 2.

    Args:
        runs: trajectories by name, drawn with one line style each, all on one axis of t. Under
            one vmap axis the median over runs is drawn in a band from the 10th to the 90th
            percentile.
        slopes: exponent p of a dotted guide (log t)^p by observable, drawn through the end of the
            first run.

    Returns: a Matplotlib `Figure`; times below 1 are left out.

    Example: `collapse_figure({"flow": traj}).savefig("collapse.png")`.
    """
    _check_runs(runs)
    figure = Figure(figsize=(16, 4.2 + 0.2 * len(runs)), layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(1, 4), _PANELS, strict=True):
        for (run, trajectory), style in zip(runs.items(), cycle(_LINE_STYLES), strict=False):
            for name, (label, color, width) in curves.items():
                label = f"{label}, {run}" if len(runs) > 1 else label
                decades = _decades(trajectory)
                shown = decades >= math.log10(2)
                values = np.asarray(trajectory.recorded(name))[..., shown]
                _draw(axes, decades[shown], values, label=label, color=color, lw=width, ls=style)
        # Both curves of a panel share their slope.
        name = next(iter(curves))
        if slopes and name in slopes:
            _draw_guide(axes, next(iter(runs.values())), name, slopes[name])
        _label_times(axes, title, _LABELS[name])
        _name_curves(axes)
    _name_runs(figure)
    return figure


def strong_collapse_figure(
    runs: Mapping[str, Trajectory], norms: Sequence[float] | NDArray[np.floating]
) -> Figure:
    """Errors of strong collapse and distance from S over time, as Mixon's figures 1 and 2.

    Args:
        runs: trajectories by name over (norm, seed), drawn with one line style each, a colour a
            start norm: the median over seeds in a band from the 10th to the 90th percentile.
        norms: (M,) start norms.

    Returns: a Matplotlib `Figure`; time is on a log axis if it passes 1000.

    Example: `strong_collapse_figure({"flow": runs}, [1.0, 0.1]).savefig("collapse.png")`.
    """
    _check_runs(runs)
    figure = Figure(figsize=(16, 4.4), layout="constrained")
    panels, colors = figure.subplots(1, 4), _shades(len(norms))
    times = {run: np.expm1(trajectory.common_log_time()) for run, trajectory in runs.items()}
    long = max(time[-1] for time in times.values()) > _LONG
    for axes, (title, name) in zip(panels, _STRONG_PANELS, strict=True):
        for (run, trajectory), style in zip(runs.items(), cycle(_LINE_STYLES), strict=False):
            shown = times[run] > 0 if long else slice(None)
            values = np.asarray(trajectory.recorded(name))[..., shown]
            for of_norm, color in zip(values, colors, strict=True):
                _draw(axes, times[run][shown], of_norm, color=color, ls=style, lw=1.4)
        if long:
            axes.set_xscale("log")
        _finish(axes, title, "time t", _label_of(name))
    _name_runs(
        figure,
        {f"ε = {norm:g}": color for norm, color in zip(norms, colors, strict=True)},
        dict(zip(runs, cycle(_LINE_STYLES), strict=False)),
    )
    return figure


def linear_phase_figure(
    runs: Trajectory, norms: Sequence[float] | NDArray[np.floating], threshold: float
) -> Figure:
    """How long the linear solution of Mixon's theorem 2 shadows the flow, by start norm.

    Args:
        runs: trajectories over (norm, seed) with the observables `linear_gap`, `deviation`,
            `linear_deviation` and `bound`, the last three over ε.
        norms: (M,) start norms ε.
        threshold: of `linear_gap`, drawn as a line.

    Returns: a Matplotlib `Figure` of two panels, medians in bands as in `strong_collapse_figure`.

    Example: `linear_phase_figure(runs, [1e-2, 1e-4], 0.1).savefig("linear.png")`.
    """
    check_kind("runs", runs, Trajectory, "what gradient_flow(...) returns")
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = ("linear_gap", "deviation", "linear_deviation", "bound")
    time, values = np.expm1(runs.common_log_time()), {name: runs.recorded(name) for name in names}
    colors = _shades(len(norms))
    for i, color in enumerate(colors):
        _draw(left, time, values["linear_gap"][i], color=color)
        _draw(right, time, values["deviation"][i], color=color)
    linear = values["linear_deviation"][0]
    _draw(right, time, linear, color="black", ls="--", label="linear solution")
    _draw(right, time, values["bound"][0], color="black", ls=":", label="its bound (theorem 2)")
    left.axhline(threshold, color="black", ls=":", lw=1.2, label=f"hand-over, {threshold:g}")
    _finish(
        left,
        "Flow against linear solution",
        "time t",
        "‖flow − linear solution‖ / ‖linear solution‖",
    )
    _finish(right, "Distance from the growing part alone", "time t", "‖U(t) − e^(√n t) Π_T U₀‖ / ε")
    # What counts is where the flow passes the bound, not how far it goes.
    right.set_ylim(0.5 * np.nanmin(linear), 100 * np.nanmax(values["bound"]))
    for axes in (left, right):
        _name_curves(axes)
    _name_runs(figure, {f"ε = {norm:g}": c for norm, c in zip(norms, colors, strict=True)})
    return figure


def kkt_figure(runs: Trajectory) -> Figure:
    """How nearly a flow's direction is a KKT point, with the bounds of Ji's lemma B.1, over time.

    Args: `runs`, one or a batch over one axis, with the observables `epsilon`, `delta`, their
    `_bound`s, and `max_margin_ratio`.

    Returns: a Matplotlib `Figure` of three panels on log log time; medians in bands.

    Example: `kkt_figure(runs).savefig("kkt.png")`.
    """
    check_kind("runs", runs, Trajectory, "what gradient_flow(...) returns")
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    decades = _decades(runs)
    # Infinite until a start is separated: a gap in the curve.
    names = ("epsilon", "epsilon_bound", "delta", "delta_bound", "max_margin_ratio")
    recorded = {name: np.asarray(runs.recorded(name)) for name in names}
    finite = {k: np.where(np.isfinite(v), v, np.nan) for k, v in recorded.items()}
    panels = figure.subplots(1, 3)
    for axes, name, title, label in zip(
        panels, ("epsilon", "delta"), ("Stationarity", "Complementary slackness"),
        ("ε = ‖θ − Σλ∇s‖", "δ = Σλ(s − 1)"), strict=False,
    ):  # fmt: skip
        _draw(axes, decades, finite[name], color=_BLUE, lw=1.8)
        _draw(axes, decades, finite[f"{name}_bound"], color="#4a4a4a", ls="--")
        _label_times(axes, title, label)
    _draw(panels[2], decades, 1 - finite["max_margin_ratio"], color=_BLUE, lw=1.8)
    _label_times(panels[2], "Distance from the largest margin", "1 − q_min/(largest at its norm)")
    bound = Line2D([], [], color="#4a4a4a", ls="--")
    _explain(figure, {"measured": Line2D([], [], color=_BLUE), "bound of lemma B.1": bound})
    return figure


def escape_figure(
    alpha: NDArray[np.floating],
    loss: NDArray[np.floating],
    curvature: float,
    runs: Trajectory,
    eps: NDArray[np.floating],
    left: NDArray[np.floating],
    gaussian: Trajectory,
) -> Figure:
    """How the flow leaves the saddle of Ji's example 3.1, and starts that stay near others.

    Args:
        alpha, loss: (A,) the loss along the paper's curve.
        curvature: L''(0).
        runs: flows over (eps,) with the observable `max_margin_ratio`.
        eps, left: (E,) their distances at the start, and log t at which they left (NaN: not yet).
        gaussian: flows over (seed,) of Gaussian starts, with the same observable.

    Returns: a Matplotlib `Figure` of four panels.

    Example: see `examples/ulpm_saddle.py`.
    """
    figure = Figure(figsize=(16, 4.3), layout="constrained")
    curve, margins, times, starts = figure.subplots(1, 4)
    _draw_saddle(curve, alpha, loss, curvature)
    decades, colors = _decades(runs), _shades(len(eps))
    curves = np.asarray(runs.recorded("max_margin_ratio"))
    named = {int(np.argmax(eps)), int(np.argmin(eps))}
    for i, (values, color) in enumerate(zip(curves, colors, strict=True)):
        label = f"from ε = {eps[i]:.3g}" if i in named else None
        margins.plot(decades, values, color=color, lw=1.4, label=label)
    _finish_linear(margins, "(b) Margin on the way", "time t (log log scale)", _RATIO)
    known = np.isfinite(left)
    times.loglog(eps[known], left[known] / math.log(10), "o", color=_BLUE, label="measured")
    if known.any():
        last = int(np.flatnonzero(known)[np.argmin(eps[known])])
        law = left[last] / math.log(10) * (eps / eps[last]) ** -2.0
        times.loglog(eps, law, ":", color="black", lw=1.2, label="ε⁻²")
    _finish_linear(times, "(c) When it has left", "distance ε at the start", "log₁₀ t")
    _draw_slow_starts(starts, gaussian)
    for axes in (margins, starts):
        _scale_times(axes)
        axes.set_ylim(0.7, 1.01)
    margins.set_xlim(left=1)
    for axes in figure.axes:
        _name_curves(axes)
    return figure


def _draw_saddle(
    axes: Axes, alpha: NDArray[np.floating], loss: NDArray[np.floating], curvature: float
) -> None:
    """The loss along the curve through the saddle, with its parabola and the two collapses."""
    axes.plot(alpha, loss, color=_BLUE, lw=1.8, label="L(α)")
    start = np.interp(0.0, alpha, loss)
    near = np.abs(alpha) < 0.45
    parabola = start + curvature / 2 * alpha[near] ** 2
    axes.plot(alpha[near], parabola, ":", color="black", lw=1.2, label="L(0) + L''(0)α²/2")
    collapsed = np.array([-0.5, 0.5])
    axes.plot(collapsed, np.interp(collapsed, alpha, loss), "o", color=_ORANGE,
              label="neural collapse")  # fmt: skip
    _finish_linear(axes, "(a) Loss along example 3.1's curve", "α", "loss L")


def _draw_slow_starts(axes: Axes, runs: Trajectory) -> None:
    """Margins from Gaussian starts, those apart that are slow."""
    ratios, decades = np.asarray(runs.recorded("max_margin_ratio")), _decades(runs)
    at = int(np.abs(decades - min(1e4, decades[-1])).argmin())
    slow, shown = ratios[:, at] < 0.97, decades >= 1
    end = f"t = 10^{decades[at]:.0f}"
    labels = {True: f"below 0.97 at {end}: {slow.sum()}", False: f"others: {(~slow).sum()}"}
    styles = {True: {"color": _ORANGE, "lw": 1.3}, False: {"color": _GREY, "lw": 0.5}}
    for values, is_slow in zip(ratios, slow.tolist(), strict=True):
        axes.plot(decades[shown], values[shown], label=labels.pop(is_slow, None), **styles[is_slow])
    title = f"(d) {len(ratios)} Gaussian starts, d = K−1"
    _finish_linear(axes, title, "time t (log log scale)", _RATIO)


def landscape_figure(
    spectra: Mapping[str, NDArray[np.floating]],
    found: Mapping[str, ArrayLike],
    flows: Trajectory,
    steps: NDArray[np.floating],
    profiles: Mapping[str, NDArray[np.floating]],
) -> Figure:
    """Spectra at critical points, the points found among what flows see, and the ways out.

    Args:
        spectra: (n,) eigenvalues of the Hessian by point.
        found: (M,) `eigenvalue` (the smallest) and `excess` (loss over the least) of the critical
            points found.
        flows: over (seed,) with the observables `eigenvalue` and `excess`.
        steps, profiles: (S,) steps along the explicit escape direction of each point, and the
            loss there over the least.

    Returns: a Matplotlib `Figure` of three panels.

    Example: see `examples/zhu_landscape.py`.
    """
    figure = Figure(figsize=(16, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for row, values in enumerate(spectra.values()):
        rounded, counts = np.unique(np.round(values, 9), return_counts=True)
        colors = np.where(rounded < -1e-8, _ORANGE, np.where(rounded > 1e-8, _BLUE, "#4a4a4a"))
        left.scatter(rounded, np.full(rounded.size, row), s=12 * counts, c=list(colors), alpha=0.6)
    left.set_yticks(range(len(spectra)), list(spectra))
    left.invert_yaxis()
    left.set_xscale("symlog", linthresh=1e-2)
    left.margins(x=0.1, y=0.12)
    title = "Eigenvalues of the Hessian (area: multiplicity)"
    _finish_linear(left, title, "eigenvalue", "critical point")
    _draw_search(middle, found, flows)
    for (name, values), color in zip(profiles.items(), _shades(len(profiles)), strict=True):
        right.plot(steps, values, label=name, color=color, lw=1.6)
    right.set_yscale("log")
    _finish_linear(right, "Loss along the escape direction", "step", "loss above the least")
    for axes in (middle, right):
        _name_curves(axes)
    return figure


def _draw_search(axes: Axes, found: Mapping[str, ArrayLike], flows: Trajectory) -> None:
    """Smallest eigenvalue against the loss, along flows and of the critical points found."""
    excess, eigenvalues = (np.asarray(flows.recorded(x)) for x in ("excess", "eigenvalue"))
    for i, (x, y) in enumerate(zip(excess, eigenvalues, strict=True)):
        axes.plot(x, y, ".-", color=_GREY, ms=3, lw=0.5, label=None if i else "flows")
    axes.plot(
        np.asarray(found["excess"]), np.asarray(found["eigenvalue"]), "o", color=_ORANGE, ms=7,
        mec="black", mew=0.5, label="critical points found",
    )  # fmt: skip
    axes.axhline(0, color="black", lw=0.8)
    axes.set_xscale("symlog", linthresh=1e-2)
    # Losses are over the least: the negative half of such a scale would be empty.
    axes.set_xlim(left=-2e-3)
    label = "smallest eigenvalue off the symmetries"
    _finish_linear(axes, "Critical points and flows", "loss above the least", label)


def norm_dynamics_figure(
    runs: Mapping[str, Trajectory], norms: Sequence[float] | NDArray[np.floating]
) -> Figure:
    """ρ, training loss and test error over time by start norm, as Rangamani's figure 2.

    Args:
        runs: trajectories over (norm, seed) by name, a row each, with the observables `norm`,
            `objective` and `test_error`.
        norms: (M,) start norms.

    Returns: a Matplotlib `Figure` on a log axis of time; medians in bands as in
    `strong_collapse_figure`.

    Example: `norm_dynamics_figure({"λ = 0": runs}, [0.01, 1.0]).savefig("norms.png")`.
    """
    _check_runs(runs)
    figure = Figure(figsize=(14, 3.6 * len(runs)), layout="constrained")
    panels, colors = figure.subplots(len(runs), 3, squeeze=False), _shades(len(norms))
    titles = {"norm": "norm ρ", "objective": "training loss", "test_error": "test error"}
    for row, (name, run) in zip(panels, runs.items(), strict=True):
        time = np.expm1(run.common_log_time())
        shown = time > 0
        for axes, (observable, title) in zip(row, titles.items(), strict=True):
            values = np.asarray(run.recorded(observable))[..., shown]
            for of_norm, color in zip(values, colors, strict=True):
                _draw(axes, time[shown], of_norm, color=color, lw=1.4)
            axes.set_xscale("log")
            if observable == "test_error":
                _finish_linear(axes, name, "time t", title)
            else:
                _finish(axes, name, "time t", title)
    _name_runs(figure, {f"start {norm:g}": c for norm, c in zip(norms, colors, strict=True)})
    return figure


def margins_figure(
    runs: Mapping[str, Trajectory], norms: Sequence[float] | NDArray[np.floating]
) -> Figure:
    """Sorted margins f̄_n at the end of the runs by start norm, as Rangamani's figure 3.

    Args: as `norm_dynamics_figure`, with the observable `margins` of (norm, seed, time, sample).

    Returns: a Matplotlib `Figure` with a panel for each run: means over seeds in a band from the
    least to the largest.

    Example: `margins_figure({"λ = 0": runs}, [0.01, 1.0]).savefig("margins.png")`.
    """
    _check_runs(runs)
    figure = Figure(figsize=(5.5 * len(runs), 4.2), layout="constrained")
    panels = figure.subplots(1, len(runs), squeeze=False, sharey=True)[0]
    colors = _shades(len(norms))
    for axes, (name, run) in zip(panels, runs.items(), strict=True):
        margins = np.sort(np.asarray(run.recorded("margins"))[:, :, -1], axis=-1)
        rank = np.arange(1, margins.shape[-1] + 1)
        for of_norm, color in zip(margins, colors, strict=True):
            _draw_range(axes, rank, of_norm, color=color, lw=1.4)
        _finish_linear(axes, f"At the end, {name}", "sample, by margin", "margin y $f_V(x)$")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.label_outer()
    _name_runs(figure, {f"start {norm:g}": c for norm, c in zip(norms, colors, strict=True)})
    return figure


def margin_histograms_figure(run: Trajectory, num_times: int = 8) -> Figure:
    """How the distribution of the outputs y f(x) moves over time, as Rangamani's figure 4.

    Args: `run`, one of no batch, with the observables `margins` (time, sample) and `norm`, whose
    product is drawn at up to `num_times` of the saves, its mean evenly spaced.

    Returns: a Matplotlib `Figure`.

    Example: `margin_histograms_figure(traj).savefig("histograms.png")`.
    """
    time = np.expm1(run.common_log_time())
    outputs = np.asarray(run.recorded("margins")) * np.asarray(run.recorded("norm"))[:, None]
    figure = _histograms(outputs, [f"t = {at:.3g}" for at in time], num_times)
    for axes in figure.axes:
        axes.axvline(1, color="black", lw=0.8, ls=":")
    figure.suptitle("Outputs of the training samples over time", fontsize=10)
    figure.axes[-1].set_xlabel("y f(x), 1 where the sample is interpolated (dotted)")
    return figure


def logistic_figure(
    time: NDArray[np.floating],
    norms: Mapping[str, NDArray[np.floating]],
    exact: Mapping[str, NDArray[np.floating]],
) -> Figure:
    """ρ with frozen margins, as Rangamani's figure 10.

    Args: `time` (T,); `norms`, integrated, (S, T) of S starts by name; `exact`, points of the
    closed form, (S, 2, P) times and norms by the same name.

    Returns: a Matplotlib `Figure`: integrated curves with the closed form as dots on them.

    Example: see `examples/rangamani_norm_dynamics.py`.
    """
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, curves), color in zip(norms.items(), _shades(len(norms)), strict=True):
        axes.plot(time, curves.T, color=color, lw=1.6)
        axes.plot([], [], color=color, lw=1.6, label=name)
        for at, points in exact[name]:
            shown = at <= time[-1]
            axes.plot(at[shown], points[shown], ".", color=color, ms=6)
    axes.plot([], [], ".", color="black", label="closed form")
    _finish_linear(axes, "Margins held fixed (eq. 51)", "time t", "norm ρ")
    _name_curves(axes)
    return figure


def orders_figure(
    rates: NDArray[np.floating], errors: Mapping[str, Mapping[str, NDArray[np.floating]]]
) -> Figure:
    """Distances between descent, its differential equation and the flow over the learning rate.

    Args: `rates` (R,); `errors` (R,) by curve, in panels by name.

    Returns: a Matplotlib `Figure`; the order of each curve, fitted over all rates, in the legend.

    Example: see `examples/rangamani_norm_dynamics.py`.
    """
    figure = Figure(figsize=(5.5 * len(errors), 4.2), layout="constrained")
    panels = figure.subplots(1, len(errors), squeeze=False)[0]
    for axes, (title, curves) in zip(panels, errors.items(), strict=True):
        for (name, values), color in zip(curves.items(), _shades(len(curves)), strict=True):
            order = np.polyfit(np.log(rates), np.log(values), 1)[0]
            axes.loglog(
                rates, values, "o-", color=color, lw=1.4, label=f"{name}: η$^{{{order:.2f}}}$"
            )
        _finish(axes, title, "learning rate η", "distance of the states")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
        _name_curves(axes)
    return figure


def frames_figure(runs: Mapping[str, Trajectory], num_classes: int) -> Figure:
    """Cosines between all pairs of classifiers over time, and the within-class variation.

    Args: `runs`, over (seed,), by name, with the observables `cosines` (seed, time, pair) and
    `ji_within_class_variation`; `num_classes` gives the simplex's cosine −1/(C−1).

    Returns: a Matplotlib `Figure` of two panels: means over pairs and seeds in a band from the
    least to the largest cosine; medians of the variation.

    Example: see `examples/rangamani_collapse.py`.
    """
    _check_runs(runs)
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    # Two runs of one course would hide each other, were both drawn solid.
    colors, styles = _shades(len(runs)), [_LINE_STYLES[i % 4] for i in range(len(runs))]
    for run, color, style in zip(runs.values(), colors, styles, strict=True):
        time = np.expm1(run.common_log_time())
        shown = time > 0
        cosines = np.moveaxis(np.asarray(run.recorded("cosines"))[:, shown], 1, 0)
        cosines = cosines.reshape(shown.sum(), -1)
        _draw_range(left, time[shown], cosines.T, color=color, ls=style, lw=1.6)
        variation = np.asarray(run.recorded("ji_within_class_variation"))[:, shown]
        _draw(right, time[shown], variation, color=color, ls=style, lw=1.6)
    simplex = -1 / (num_classes - 1)
    for cosine, label in ((simplex, "simplex"), (0.0, "orthogonal frame")):
        left.axhline(cosine, color="black", lw=0.9, ls=":")
        left.text(
            0.01, cosine, label, fontsize=8, va="bottom", transform=left.get_yaxis_transform()
        )
    _finish_linear(left, "Pairs of classifiers", "time t", "cosine")
    label = _LABELS["ji_within_class_variation"]
    _finish(right, "Within-class variation of the features", "time t", label)
    for axes in (left, right):
        axes.set_xscale("log")
    lines = (Line2D([], [], color=c, ls=ls) for c, ls in zip(colors, styles, strict=True))
    _explain(figure, dict(zip(runs, lines, strict=True)))
    return figure


def uncollapsed_figure(
    log_time: NDArray[np.floating],
    panels: Mapping[str, Mapping[str, NDArray[np.floating]]],
    num_runs: int,
) -> Figure:
    """Share of starts that have yet to collapse over time, both on log scales.

    Args:
        log_time: (T,) log(1 + t); times below 10 are left out.
        panels: curves (T,) by name, in order, of each panel by its title.
        num_runs: starts of a curve; sets its band, the Wilson interval of 95 %.

    Returns: a Matplotlib `Figure`. A curve ends where no start is left.

    Example: see `examples/seed_sweep.py`.
    """
    figure = Figure(figsize=(0.8 + 4.4 * len(panels), 3.9), layout="constrained")
    decades = log_time / math.log(10)
    shown = decades >= 1
    for axes, (title, curves) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        for (name, share), color in zip(curves.items(), _shades(len(curves)), strict=True):
            left = shown & (share > 0)
            x, share = decades[left], share[left]
            _fill(axes, x, *_wilson_interval(share, num_runs), color, _WILSON)
            axes.plot(x, share, color=color, lw=1.8, label=name)
        _label_times(axes, title, "share of starts not collapsed")
        axes.label_outer()
        axes.set_yscale("log")
        axes.set_xlim(1, decades[-1])
        axes.set_ylim(0.5 / num_runs, 1.3)
        _name_curves(axes)
    _name_runs(figure)
    return figure


def training_figure(
    runs: Trainings,
    panels: Mapping[str, Sequence[str]],
    models: Mapping[str, Trajectory] | None = None,
) -> Figure:
    """What was recorded of trainings against epochs, as Ji's figures 3 to 8 and Zhu's 3 to 5.

    Args:
        runs: data of `cnn.train` by name, one colour each; over seeds the median is drawn in a band
            from the 10th to the 90th percentile. Names may be pairs, such as a start and a decay:
            the first part has a colour, the second a line style.
        panels: variables by title, one line style each: `JI_PANELS`, `ZHU_PANELS`. Accuracies are
            drawn on a linear scale, margins too unless they pass 10, all else on a logarithmic one.
        models: flows by the name of their run, with log(1 + epoch) as their time, drawn in its
            colour, dotted, and dash-dotted for the second variable of a panel; those of no run in
            black. Variables that a flow lacks are left out.

    Returns: a Matplotlib `Figure`; epoch 0 is left out.

    Example: `training_figure({"ResNet18": run.data}, ZHU_PANELS).savefig("collapse.png")`.
    """
    models = models or {}
    columns = len(panels) if len(panels) <= 4 else min(4, -(-len(panels) // 2))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.1 * columns, 3.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    colors, styles = _two_part_styles(runs)
    last = max(int(data["epoch"].values[-1]) for data in runs.values())
    for axes, (title, variables) in zip(grid, panels.items(), strict=False):
        for i, variable in enumerate(variables):
            for name, data in runs.items():
                first, second = _parts(name)
                style = _LINE_STYLES[(styles[second] * len(variables) + i) % len(_LINE_STYLES)]
                _draw_training(axes, data, variable, color=colors[first], ls=style, lw=1.5)
            for name, model in models.items():
                if variable in model.observables:
                    style = _MODEL_STYLES[i % len(_MODEL_STYLES)]
                    color = colors.get(name, "black")
                    _draw_model(axes, model, variable, last, color=color, ls=style, lw=1.4)
        _scale_measures(axes, title, variables)
        _label_epochs(axes)
        _name_variables(axes, variables, models)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    named = {name: _LINE_STYLES[i] for name, i in styles.items() if name}
    _name_runs(figure, colors, named | ({"model's flow": _MODEL_STYLES[0]} if models else {}))
    return figure


def sorted_margins_figure(runs: Trainings) -> Figure:
    """Sorted margins of the training samples at the last epoch, as Rangamani's figure 3.

    Args: `runs`, data of `cnn.train` by name, or by pairs of names, as in `training_figure`.

    Returns: a Matplotlib `Figure`: means over seeds in a band from the least to the largest.

    Example: `sorted_margins_figure({"decay": run.data}).savefig("margins.png")`.
    """
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    colors, styles = _two_part_styles(runs)
    for name, data in runs.items():
        margins = np.sort(data["margins"].isel(epoch=-1).transpose("seed", "sample").values)
        rank = np.linspace(0, 1, margins.shape[1])
        first, second = _parts(name)
        style = _LINE_STYLES[styles[second] % len(_LINE_STYLES)]
        _draw_range(axes, rank, margins, color=colors[first], ls=style, lw=1.4)
    _finish_linear(axes, "At the last epoch", "share of samples, by margin", "margin")
    _name_runs(figure, colors, {name: _LINE_STYLES[i] for name, i in styles.items() if name})
    return figure


def training_histograms_figure(data: xr.Dataset, num_epochs: int = 8) -> Figure:
    """How the distribution of the margins moves in a training, as Rangamani's figures 4 and 5.

    Args: `data` of `cnn.train`, of which the first seed is drawn, at up to `num_epochs` epochs
        between which the mean margin moves alike.

    Returns: a Matplotlib `Figure`.

    Example: `training_histograms_figure(run.data).savefig("histograms.png")`.
    """
    margins = data["margins"].isel(seed=0).transpose("epoch", "sample").values
    figure = _histograms(margins, [f"epoch {epoch}" for epoch in data["epoch"].values], num_epochs)
    figure.suptitle("Margins of the training samples over epochs", fontsize=10)
    figure.axes[-1].set_xlabel("margin")
    return figure


def _check_runs(runs: object) -> None:
    """Raise ValueError for what is no dict of trajectories."""
    trajectories = runs.values() if isinstance(runs, Mapping) else [None]
    if not runs or not all(isinstance(run, Trajectory) for run in trajectories):
        raise ValueError(
            f"runs = {shown(runs)}: give trajectories by name, {{'flow': trajectory}}."
        )


def _parts(name: str | tuple[str, str]) -> tuple[str, str]:
    return (name, "") if isinstance(name, str) else name


def _two_part_styles(
    names: Iterable[str | tuple[str, str]],
) -> tuple[dict[str, NDArray[np.floating]], dict[str, int]]:
    """A colour for each first part of names, the number of a line style for each second part."""
    first, second = (list(dict.fromkeys(parts)) for parts in zip(*map(_parts, names), strict=True))
    return dict(zip(first, _shades(len(first)), strict=True)), {n: i for i, n in enumerate(second)}


def _draw_training(axes: Axes, data: xr.Dataset, variable: str, **style: Any) -> None:
    """From epoch 1 on, since epoch 0 has no place on a log axis."""
    shown = data["epoch"].values > 0
    values = data[variable].transpose("seed", "epoch").values[:, shown]
    _draw(axes, data["epoch"].values[shown].astype(float), values, **style)


def _draw_model(axes: Axes, model: Trajectory, variable: str, last: int, **style: Any) -> None:
    """From epoch 1 to the last one of any run."""
    epochs = np.expm1(model.common_log_time())
    shown = (epochs >= 1) & (epochs <= last)
    values = np.asarray(model.recorded(variable))[..., shown]
    _draw(axes, epochs[shown], values, **style)


def _scale_measures(axes: Axes, title: str, variables: Sequence[str]) -> None:
    """Title, labels and the scale of the y axis, which the variables decide."""
    label = _label_of(variables[0])
    if all(variable.endswith("mismatch") for variable in variables):
        _finish_linear(axes, title, "epoch", label)
        # Shares of 0 have a place there.
        axes.set_yscale("symlog", linthresh=1e-3)
        axes.set_ylim(0, 1.5)
    elif all(variable.endswith("accuracy") for variable in variables):
        _finish_linear(axes, title, "epoch", "accuracy")
    elif all(variable.startswith("margin") for variable in variables):
        _finish_linear(axes, title, "epoch", label)
        if max(map(abs, axes.get_ylim())) > 10:
            axes.set_yscale("symlog", linthresh=1)
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        _finish(axes, title, "epoch", label)


def _name_variables(axes: Axes, variables: Sequence[str], models: Mapping[str, Trajectory]) -> None:
    """Which line style is which variable, where there are several."""
    if len(variables) == 1:
        return
    words = [variable.removeprefix("ji_").replace("_", " ") for variable in variables]
    styles = dict(zip(words, _LINE_STYLES, strict=False))
    for variable, word, style in zip(variables, words, cycle(_MODEL_STYLES), strict=False):
        if any(variable in model.observables for model in models.values()):
            styles[f"{word}, model"] = style
    lines = [Line2D([], [], color="#4a4a4a", ls=style) for style in styles.values()]
    _name_curves(axes, lines, list(styles))


def _name_runs(
    figure: Figure,
    colors: Mapping[str, Any] = MappingProxyType({}),
    styles: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Which colour and which line style is which run, and what bands are, below all panels."""
    _explain(
        figure,
        {
            **{name: Line2D([], [], color=color) for name, color in colors.items()},
            **{name: Line2D([], [], color="#4a4a4a", ls=style) for name, style in styles.items()},
        },
    )


def _explain(figure: Figure, entries: Mapping[str, Line2D]) -> None:
    """Legend of the whole figure, below all panels: some lines, and what its bands are."""
    labels = (str(artist.get_label()) for axes in figure.axes for artist in axes.collections)
    meanings = sorted({x.removeprefix(_BAND) for x in labels if x.startswith(_BAND)})
    found: dict[str, Artist | tuple[Artist, ...]] = {**entries}
    for meaning in meanings:
        band, line = Patch(color=_GREY, alpha=0.3, linewidth=0), Line2D([], [], color=_GREY, lw=1.5)
        found[meaning] = (band, line)
    if found:
        # Columns are as wide as their widest entry: 0.065 inches a letter, and the line.
        columns = int(figure.get_figwidth() / (0.065 * max(map(len, found)) + 0.6))
        figure.legend(
            list(found.values()), list(found), frameon=False, fontsize=9,  # pyright: ignore[reportArgumentType]
            loc="outside lower center", ncols=max(1, min(columns, len(found))),
        )  # fmt: skip


def _wilson_interval(
    share: NDArray[np.floating], count: int
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Interval of 95 % for a probability of which a share was seen in so many trials."""
    z2 = 1.96**2 / count
    centre, half = share + z2 / 2, np.sqrt(z2 * (share * (1 - share) + z2 / 4))
    return (centre - half) / (1 + z2), (centre + half) / (1 + z2)


def _histograms(values: NDArray[np.floating], labels: Sequence[str], count: int) -> Figure:
    """Histograms of (T, N) values at up to `count` of the rows, their mean evenly spaced.

    One above the other on one axis, since eight in one panel hide each other.
    """
    means = values.mean(axis=1)
    wanted = np.linspace(means[0], means[-1], count)
    chosen = np.unique([0, *np.abs(means[:, None] - wanted).argmin(axis=0), len(values) - 1])
    edges = np.linspace(values[chosen].min(), values[chosen].max(), 41)
    figure = Figure(figsize=(8, 1 + 0.7 * len(chosen)), layout="constrained")
    panels = figure.subplots(len(chosen), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    colors = _shades(len(chosen))
    for axes, at, color in zip(panels, chosen, colors, strict=True):
        axes.hist(values[at], edges, color=color)
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5)
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(True, which="major", alpha=0.25)
        axes.text(1.01, 0.5, labels[at], transform=axes.transAxes, va="center", fontsize=9)
    figure.supylabel("samples", fontsize=10)
    return figure


def _shades(count: int) -> NDArray[np.floating]:
    """Colours from dark to light for an ordered family of curves.

    The lightest has a contrast of 3 with white, the least that WCAG 2 asks of graphics.
    """
    return colormaps["plasma"](np.linspace(0, 0.64, count))


def _label_of(name: str) -> str:
    """Label of the y axis of a variable."""
    return _LABELS.get(name, name.replace("_", " "))


def _fill(
    axes: Axes, x: ArrayLike, low: ArrayLike, high: ArrayLike, color: Any, meaning: str
) -> None:
    """A band, with what it means for the figure's legend."""
    band = axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)  # pyright: ignore[reportArgumentType]
    band.set_label(f"{_BAND}{meaning}")


def _draw(axes: Axes, x: NDArray[np.floating], values: ArrayLike, **style: Any) -> None:
    """A curve of (T,) values; of a batch (runs, T) the median in its band."""
    values = np.asarray(values)
    if values.ndim > 1:
        # Where every run has ended there is no median.
        many, known = len(values) > 1, np.any(np.isfinite(values), axis=0)
        x, (low, values, high) = x[known], np.nanpercentile(values[:, known], [10, 50, 90], axis=0)
        if many:
            _fill(axes, x, low, high, style["color"], _PERCENTILES)
    axes.plot(x, values, **style)


def _draw_range(
    axes: Axes, x: NDArray[np.number], values: NDArray[np.floating], **style: Any
) -> None:
    """The mean of (runs, T) values in a band from the least to the largest."""
    if len(values) > 1:
        _fill(axes, x, values.min(axis=0), values.max(axis=0), style["color"], _RANGE)
    axes.plot(x, values.mean(axis=0), **style)


def _name_curves(
    axes: Axes, lines: Sequence[Line2D] | None = None, labels: Sequence[str] | None = None
) -> None:
    """Legend of the labelled curves, or of the given lines, below the label of the x axis.

    Inside of the axes it would hide data, and Matplotlib's search for a free place there,
    `loc="best"`, takes seconds where there are many curves.
    """
    if lines is None or labels is None:
        entries = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    else:
        entries = dict(zip(labels, lines, strict=True))
    if not entries:
        return
    figure = axes.get_figure(root=True)
    assert figure is not None
    below = axes.transAxes + ScaledTranslation(0, -0.52, figure.dpi_scale_trans)
    axes.legend(
        list(entries.values()), list(entries), frameon=False, fontsize=8, loc="upper center",
        ncols=2, borderaxespad=0,
        bbox_to_anchor=(0.5, 0), bbox_transform=below,
    )  # fmt: skip


def _decades(trajectory: Trajectory) -> NDArray[np.floating]:
    """log10(1 + t) of the saves; one time axis, whatever the batch."""
    return trajectory.common_log_time() / math.log(10)


def _draw_guide(axes: Axes, trajectory: Trajectory, name: str, slope: float) -> None:
    decades = _decades(trajectory)
    values = np.asarray(trajectory.recorded(name))
    end = np.nanmedian(values.reshape(-1, values.shape[-1])[:, -1])
    span = decades[decades >= max(math.sqrt(decades[-1]), 1)]
    if span.size < 2 or not end > 0:
        return
    power = {-1.0: "1/log t", -0.5: "1/√(log t)"}.get(slope, f"(log t)^{slope:g}")
    guide = 2 * end * (span / span[-1]) ** slope
    axes.plot(span, guide, ":", color="black", label=power, linewidth=1.2)


def _scale_times(axes: Axes) -> None:
    """Log scale of log10 t, whose ticks read as times."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(_time_label))
    axes.xaxis.set_minor_locator(NullLocator())


def _label_times(axes: Axes, title: str, label: str) -> None:
    """A panel over log log time; `label` is that of the y axis."""
    _finish(axes, title, "time t (log log scale)", label)
    _scale_times(axes)


def _label_epochs(axes: Axes) -> None:
    """Log scale with labels even where it covers less than a decade."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _finish(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Title, labels, and a log scale of values where there are any above 0."""
    # Measures that are identically zero, as at K = 2, have no logarithm.
    if any(np.any(np.asarray(line.get_ydata()) > 0) for line in axes.lines):
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        if high < 50 * low:
            # With powers of ten alone there would be one label, or none.
            subs = (1, 2, 3, 5) if high < 10 * low else (1, 2, 5)
            axes.yaxis.set_major_locator(LogLocator(subs=subs))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        # Minor ticks have no labels here, and take a third of the time that a figure takes.
        axes.yaxis.set_minor_locator(NullLocator())
    _finish_linear(axes, title, x_label, y_label)


def _finish_linear(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    # With a height given Matplotlib does not search for one above all ticks.
    axes.set_title(title, fontsize=10, y=1.0)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(True, which="major", alpha=0.25)


def _time_label(decades: float, _position: object = None) -> str:
    """10^x for ticks at x = 1, 10, 100, ...; from 10^(10^4) on as a tower, which is shorter."""
    power = math.log10(decades)
    tower = power >= 4 and power == round(power)
    return f"$10^{{10^{power:g}}}$" if tower else f"$10^{{{decades:g}}}$"
