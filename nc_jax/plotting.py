"""Figures of trajectories. Reads observables only, never a problem."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, StrMethodFormatter
from numpy.typing import ArrayLike, NDArray

from .trajectory import Trajectory

# Label, colour, line width. The classifier is drawn thin on top, since the two curves may coincide.
_MEANS = ("class means", "#1f6fb4", 2.6)
_CLASSIFIER = ("classifier", "#d1651a", 1.2)

# Ji's figure 2: title of each panel with its observables.
_PANELS: tuple[tuple[str, dict[str, tuple[str, str, float]]], ...] = (
    (
        "(a) Variation of the norms",
        {"ji_feature_norm_variation": _MEANS, "ji_classifier_norm_variation": _CLASSIFIER},
    ),
    ("(b) Within-class variation", {"ji_within_class_variation": ("features", "#1f6fb4", 1.8)}),
    (
        "(c) Cosines between pairs",
        {"ji_feature_cosine_gap": _MEANS, "ji_classifier_cosine_gap": _CLASSIFIER},
    ),
    ("(d) Self-duality", {"ji_self_duality": ("means against classifier", "#4a4a4a", 1.8)}),
)
_LINE_STYLES = ("-", "--", ":", "-.")

# Measures of a training by panel: Ji's (figures 3 to 8), Zhu's (figures 3 to 5).
JI_PANELS = {
    "Variation of the norms": ("ji_feature_norm_variation", "ji_classifier_norm_variation"),
    "Within-class variation": ("ji_within_class_variation",),
    "Cosines between pairs": ("ji_feature_cosine_gap", "ji_classifier_cosine_gap"),
    "Self-duality": ("ji_self_duality",),
}
ZHU_PANELS = {f"NC{i}": (f"zhu_nc{i}",) for i in (1, 2, 3, 4)}

# Mixon's figures 1 and 2.
_STRONG_PANELS = (
    ("(SNC1) ‖WWᵀ − √n(I − 11ᵀ/K)‖", "mixon_snc1"),
    ("(SNC2) ‖H − (W⊗1)ᵀ/√n‖/‖H‖", "mixon_snc2"),
    ("(SNC3) ‖b − 1/K‖", "mixon_snc3"),
    ("‖Z − Π_S Z‖/‖Z‖", "mixon_distance_to_s"),
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
    # A layout engine would measure every text three times; here all sizes are known.
    figure = Figure(figsize=(15, 3.9))
    figure.subplots_adjust(left=0.036, right=0.991, bottom=0.128, top=0.94, wspace=0.187)
    for axes, (title, curves) in zip(figure.subplots(1, 4), _PANELS, strict=True):
        for (run, trajectory), style in zip(runs.items(), cycle(_LINE_STYLES), strict=False):
            for name, (label, color, width) in curves.items():
                label = f"{label}, {run}" if len(runs) > 1 else label
                decades = _decades(trajectory)
                shown = decades >= math.log10(2)
                values = np.asarray(trajectory.observables[name])[..., shown]
                _draw(axes, decades[shown], values, label=label, color=color, lw=width, ls=style)
        # Both curves of a panel share their slope.
        name = next(iter(curves))
        if slopes and name in slopes:
            _draw_guide(axes, next(iter(runs.values())), name, slopes[name])
        _label_times(axes, title)
        axes.legend(frameon=False, fontsize=8, loc="lower left")
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
    figure = Figure(figsize=(15, 4.1), layout="constrained")
    panels, colors = figure.subplots(1, 4), _shades(len(norms))
    times = {run: np.expm1(trajectory.common_log_time()) for run, trajectory in runs.items()}
    long = max(time[-1] for time in times.values()) > _LONG
    for axes, (title, name) in zip(panels, _STRONG_PANELS, strict=True):
        for (run, trajectory), style in zip(runs.items(), cycle(_LINE_STYLES), strict=False):
            shown = times[run] > 0 if long else slice(None)
            values = np.asarray(trajectory.observables[name])[..., shown]
            for of_norm, color in zip(values, colors, strict=True):
                _draw(axes, times[run][shown], of_norm, color=color, ls=style, lw=1.4)
        if long:
            axes.set_xscale("log")
        _finish(axes, title, "time t")
    # Colours are norms and line styles runs.
    entries = [Line2D([], [], color=color) for color in colors]
    entries += [Line2D([], [], color="black", ls=ls) for _, ls in zip(runs, cycle(_LINE_STYLES))]
    labels = [*(f"ε = {norm:g}" for norm in norms), *runs]
    figure.legend(entries, labels, loc="outside right center", frameon=False, fontsize=9)
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
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    time, seen = np.expm1(runs.common_log_time()), runs.observables
    for i, (norm, color) in enumerate(zip(norms, _shades(len(norms)), strict=True)):
        _draw(left, time, seen["linear_gap"][i], color=color, label=f"ε = {norm:g}")
        _draw(right, time, seen["deviation"][i], color=color)
    _draw(right, time, seen["linear_deviation"][0], color="black", label="of the linear solution")
    _draw(right, time, seen["bound"][0], color="black", ls="--", label="its bound")
    left.axhline(threshold, color="black", ls=":", lw=1.2)
    _finish(left, "‖flow − linear solution‖ / ‖linear solution‖", "time t")
    _finish(right, "‖U(t) − e^(√n t) Π_T U₀‖ / ε", "time t")
    # What counts is where the flow passes the bound, not how far it goes.
    right.set_ylim(0.5 * np.nanmin(seen["linear_deviation"]), 100 * np.nanmax(seen["bound"]))
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8)
    return figure


def kkt_figure(runs: Trajectory) -> Figure:
    """How nearly a flow's direction is a KKT point, with the bounds of Ji's lemma B.1, over time.

    Args: `runs`, one or a batch over one axis, with the observables `epsilon`, `delta`, their
    `_bound`s, and `max_margin_ratio`.

    Returns: a Matplotlib `Figure` of three panels on log log time; medians in bands.

    Example: `kkt_figure(runs).savefig("kkt.png")`.
    """
    figure = Figure(figsize=(13, 3.9), layout="constrained")
    decades = _decades(runs)
    # Infinite until a start is separated: a gap in the curve.
    seen = {k: np.where(np.isfinite(v), v, np.nan) for k, v in runs.observables.items()}
    panels = figure.subplots(1, 3)
    for axes, name, title in zip(
        panels, ("epsilon", "delta"), ("ε = ‖θ − Σλ∇s‖", "δ = Σλ(s − 1)"), strict=False
    ):
        _draw(axes, decades, seen[name], color="#1f6fb4", label="measured", lw=1.8)
        bound = seen[f"{name}_bound"]
        _draw(axes, decades, bound, color="#4a4a4a", label="bound of lemma B.1", ls="--")
        _label_times(axes, title)
        axes.legend(frameon=False, fontsize=8)
    _draw(panels[2], decades, 1 - seen["max_margin_ratio"], color="#1f6fb4", lw=1.8)
    _label_times(panels[2], "1 − q_min/(largest at its norm)")
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
    figure = Figure(figsize=(16, 3.9), layout="constrained")
    curve, margins, times, starts = figure.subplots(1, 4)
    curve.plot(alpha, loss, color="#1f6fb4", lw=1.8, label="L(α)")
    start = np.interp(0.0, alpha, loss)
    near = np.abs(alpha) < 0.45
    parabola = start + curvature / 2 * alpha[near] ** 2
    curve.plot(alpha[near], parabola, ":", color="black", lw=1.2, label="L(0) + L''(0)α²/2")
    curve.plot([-0.5, 0.5], np.interp([-0.5, 0.5], alpha, loss), "o", color="#d1651a",
               label="neural collapse")  # fmt: skip
    _finish_linear(curve, "(a) Loss along example 3.1's curve", "α")
    decades = _decades(runs)
    curves = np.asarray(runs.observables["max_margin_ratio"])
    for seen, color in zip(curves, _shades(len(eps)), strict=True):
        margins.plot(decades, seen, color=color, lw=1.4)
    span = f"ε = {eps.max():.3g} (dark) to {eps.min():.3g}" if len(eps) > 1 else f"ε = {eps[0]:.3g}"
    _finish_linear(margins, f"(b) Margin over the largest, {span}", "time t (log log scale)")
    known = np.isfinite(left)
    times.loglog(eps[known], left[known] / math.log(10), "o", color="#1f6fb4", label="measured")
    if known.any():
        last = int(np.flatnonzero(known)[np.argmin(eps[known])])
        law = left[last] / math.log(10) * (eps / eps[last]) ** -2.0
        times.loglog(eps, law, ":", color="black", lw=1.2, label="ε⁻²")
    times.set_ylabel("log10 t")
    _finish_linear(times, "(c) When it has left", "distance ε at the start")
    ratios = np.asarray(gaussian.observables["max_margin_ratio"])
    decades = _decades(gaussian)
    slow = ratios[:, np.abs(decades - min(1e4, decades[-1])).argmin()] < 0.97
    shown = decades >= 1
    for seen, is_slow in zip(ratios, slow, strict=True):
        style = {"color": "#d1651a", "lw": 1.3} if is_slow else {"color": "#9a9a9a", "lw": 0.4}
        starts.plot(decades[shown], seen[shown], **style)
    _finish_linear(
        starts, f"(d) {len(ratios)} Gaussian starts, d = K−1: {slow.sum()} slow (orange)", "time t"
    )
    for axes in (margins, starts):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(_time_label))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(0.7, 1.01)
    margins.set_xlim(left=1)
    for axes in (curve, times):
        axes.legend(frameon=False, fontsize=8)
    return figure


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
        found: (M,) `gradient_norm`, `eigenvalue` (the smallest) and `excess` (loss over the least)
            of the critical points found.
        flows: over (seed,) with the observables `gradient_norm` and `eigenvalue`.
        steps, profiles: (S,) steps along the explicit escape direction of each point, and the
            loss there over the least.

    Returns: a Matplotlib `Figure` of three panels.

    Example: see `examples/zhu_landscape.py`.
    """
    figure = Figure(figsize=(16, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for row, values in enumerate(spectra.values()):
        rounded, counts = np.unique(np.round(values, 9), return_counts=True)
        colors = np.where(
            rounded < -1e-8, "#d1651a", np.where(rounded > 1e-8, "#1f6fb4", "#4a4a4a")
        )
        left.scatter(rounded, np.full(rounded.size, row), s=12 * counts, c=list(colors), alpha=0.6)
    left.set_yticks(range(len(spectra)), list(spectra))
    left.invert_yaxis()
    left.set_xscale("symlog", linthresh=1e-2)
    left.margins(x=0.1, y=0.12)
    _finish_linear(left, "Eigenvalues of the Hessian (area: multiplicity)", "eigenvalue")
    # Gradients that are zero to rounding have no place on a log axis.
    floor = 1e-17
    for gradient, eigenvalue in zip(
        np.asarray(flows.observables["gradient_norm"]),
        np.asarray(flows.observables["eigenvalue"]),
        strict=True,
    ):
        middle.plot(np.maximum(gradient, floor), eigenvalue, ".-", color="#9a9a9a", ms=3, lw=0.5)
    points = middle.scatter(
        np.maximum(np.asarray(found["gradient_norm"]), floor), np.asarray(found["eigenvalue"]),
        c=np.asarray(found["excess"]), cmap="viridis", s=36, zorder=3, edgecolors="black",
        linewidths=0.4,
    )  # fmt: skip
    figure.colorbar(points, ax=middle).set_label("loss above the least", rotation=270, labelpad=14)
    middle.axhline(0, color="black", lw=0.8)
    middle.set_xscale("log")
    middle.set_ylabel("smallest eigenvalue off the symmetries")
    _finish_linear(middle, "Critical points found (dots), flows (grey)", "gradient norm")
    for (name, values), color in zip(profiles.items(), _shades(len(profiles)), strict=True):
        right.plot(steps, values, label=name, color=color, lw=1.6)
    right.set_yscale("log")
    _finish_linear(right, "Loss above the least, along the escape direction", "step")
    if profiles:
        right.legend(frameon=False, fontsize=8)
    return figure


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
    figure = Figure(figsize=(14, 3.6 * len(runs)), layout="constrained")
    panels, colors = figure.subplots(len(runs), 3, squeeze=False), _shades(len(norms))
    titles = {"norm": "norm ρ", "objective": "training loss", "test_error": "test error"}
    for row, (name, run) in zip(panels, runs.items(), strict=True):
        time = np.expm1(run.common_log_time())
        shown = time > 0
        for axes, (observable, title) in zip(row, titles.items(), strict=True):
            values = np.asarray(run.observables[observable])[..., shown]
            for of_norm, color in zip(values, colors, strict=True):
                _draw(axes, time[shown], of_norm, color=color, lw=1.4)
            axes.set_xscale("log")
            if observable == "test_error":
                _finish_linear(axes, f"{title}, {name}", "time t")
            else:
                _finish(axes, f"{title}, {name}", "time t")
    entries = [Line2D([], [], color=color) for color in colors]
    labels = [f"start {norm:g}" for norm in norms]
    figure.legend(entries, labels, loc="outside right center", frameon=False, fontsize=9)
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
    figure = Figure(figsize=(5.5 * len(runs), 4.2), layout="constrained")
    panels = figure.subplots(1, len(runs), squeeze=False, sharey=True)[0]
    for axes, (name, run) in zip(panels, runs.items(), strict=True):
        margins = np.sort(np.asarray(run.observables["margins"])[:, :, -1], axis=-1)
        for of_norm, color, norm in zip(margins, _shades(len(norms)), norms, strict=True):
            rank = np.arange(1, margins.shape[-1] + 1)
            low, high = of_norm.min(axis=0), of_norm.max(axis=0)
            axes.fill_between(rank, low, high, color=color, alpha=0.2, linewidth=0)
            axes.plot(rank, of_norm.mean(axis=0), color=color, lw=1.4, label=f"start {norm:g}")
        _finish_linear(axes, f"margins y f_V(x) at the end, {name}", "sample, by margin")
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def margin_histograms_figure(run: Trajectory, num_times: int = 8) -> Figure:
    """How the distribution of the outputs y f(x) moves over time, as Rangamani's figure 4.

    Args: `run`, one of no batch, with the observables `margins` (time, sample) and `norm`, whose
    product is drawn at up to `num_times` of the saves, its mean evenly spaced.

    Returns: a Matplotlib `Figure`.

    Example: `margin_histograms_figure(traj).savefig("histograms.png")`.
    """
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes, time = figure.subplots(), np.expm1(run.common_log_time())
    outputs = np.asarray(run.observables["margins"]) * np.asarray(run.observables["norm"])[:, None]
    _draw_histograms(axes, outputs, [f"t = {at:.3g}" for at in time], num_times)
    axes.axvline(1, color="black", lw=0.8, ls=":")
    _finish_linear(axes, "outputs y f(x) of the training samples", "y f(x)")
    axes.legend(frameon=False, fontsize=8)
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
    _finish_linear(axes, "norm ρ with the margins held fixed (eq. 51)", "time t")
    axes.legend(frameon=False, fontsize=8)
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
            axes.loglog(rates, values, "o-", color=color, lw=1.4, label=f"{name}: η^{order:.2f}")
        _finish(axes, title, "learning rate η")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axes.legend(frameon=False, fontsize=8)
    return figure


def frames_figure(runs: Mapping[str, Trajectory], num_classes: int) -> Figure:
    """Cosines between all pairs of classifiers over time, and the within-class variation.

    Args: `runs`, over (seed,), by name, with the observables `cosines` (seed, time, pair) and
    `ji_within_class_variation`; `num_classes` gives the simplex's cosine −1/(C−1).

    Returns: a Matplotlib `Figure` of two panels: means over pairs and seeds in a band from the
    least to the largest cosine; medians of the variation.

    Example: see `examples/rangamani_collapse.py`.
    """
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, run), color in zip(runs.items(), _shades(len(runs)), strict=True):
        time = np.expm1(run.common_log_time())
        shown = time > 0
        cosines = np.moveaxis(np.asarray(run.observables["cosines"])[:, shown], 1, 0)
        cosines = cosines.reshape(shown.sum(), -1)
        low, high = cosines.min(axis=1), cosines.max(axis=1)
        left.fill_between(time[shown], low, high, color=color, alpha=0.15, linewidth=0)
        left.plot(time[shown], cosines.mean(axis=1), color=color, lw=1.6, label=name)
        variation = np.asarray(run.observables["ji_within_class_variation"])[:, shown]
        _draw(right, time[shown], variation, color=color, lw=1.6, label=name)
    simplex = -1 / (num_classes - 1)
    for cosine, label in ((simplex, "simplex"), (0.0, "orthogonal frame")):
        left.axhline(cosine, color="black", lw=0.9, ls=":")
        left.text(
            0.01, cosine, label, fontsize=8, va="bottom", transform=left.get_yaxis_transform()
        )
    _finish_linear(left, "cosines between classifiers", "time t")
    _finish(right, "within-class variation of the features", "time t")
    for axes in (left, right):
        axes.set_xscale("log")
    right.legend(frameon=False, fontsize=8)
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
            low, high = _wilson_interval(share, num_runs)
            axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
            axes.plot(x, share, color=color, lw=1.8, label=name)
        _label_times(axes, title)
        axes.set_yscale("log")
        axes.set_xlim(1, decades[-1])
        axes.set_ylim(0.5 / num_runs, 1.3)
        axes.legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("share of starts not collapsed")
    return figure


def training_figure(
    runs: Mapping[str, xr.Dataset],
    panels: Mapping[str, Sequence[str]],
    models: Mapping[str, Trajectory] | None = None,
) -> Figure:
    """What was recorded of trainings against epochs, as Ji's figures 3 to 8 and Zhu's 3 to 5.

    Args:
        runs: data of `cnn.train` by name, one colour each; over seeds the median is drawn in a band
            from the 10th to the 90th percentile.
        panels: variables by title, one line style each: `JI_PANELS`, `ZHU_PANELS`. Accuracies are
            drawn on a linear scale, margins on one that is linear from −1 to 1, all else on a
            logarithmic one.
        models: flows by the name of their run, with log(1 + epoch) as their time, drawn dotted in
            its colour; those of no run in black. Variables that a flow lacks are left out.

    Returns: a Matplotlib `Figure`; epoch 0 is left out.

    Example: `training_figure({"ResNet18": run.data}, ZHU_PANELS).savefig("collapse.png")`.
    """
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.9 * columns, 3.7 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    names = [*runs, *(name for name in models or {} if name not in runs)]
    colors = dict(zip(runs, _shades(len(runs)), strict=True))
    last = max(int(data["epoch"].values[-1]) for data in runs.values())
    for axes, (title, variables) in zip(grid, panels.items(), strict=False):
        for name in names:
            color = colors.get(name, "black")
            for variable, style in zip(variables, cycle(_LINE_STYLES[:2]), strict=False):
                if name in runs:
                    data = runs[name]
                    shown = data["epoch"].values > 0
                    values = data[variable].transpose("seed", "epoch").values[:, shown]
                    epochs = data["epoch"].values[shown].astype(float)
                    _draw(axes, epochs, values, color=color, ls=style, lw=1.5)
                if models and name in models and variable in models[name].observables:
                    _draw_model(axes, models[name], variable, last, color=color, lw=1.2)
        if all(variable.endswith("accuracy") for variable in variables):
            _finish_linear(axes, title, "epoch")
        elif all(variable.startswith("margin") for variable in variables):
            _finish_linear(axes, title, "epoch")
            axes.set_yscale("symlog", linthresh=1)
        else:
            _finish(axes, title, "epoch")
        _label_epochs(axes)
        _name_variables(axes, variables)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    _name_runs(figure, colors, models or {})
    return figure


def sorted_margins_figure(runs: Mapping[str, xr.Dataset]) -> Figure:
    """Sorted margins of the training samples at the last epoch, as Rangamani's figure 3.

    Args: `runs`, data of `cnn.train` by name.

    Returns: a Matplotlib `Figure`: means over seeds in a band from the least to the largest.

    Example: `sorted_margins_figure({"decay": run.data}).savefig("margins.png")`.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, data), color in zip(runs.items(), _shades(len(runs)), strict=True):
        margins = np.sort(data["margins"].isel(epoch=-1).transpose("seed", "sample").values)
        rank = np.linspace(0, 1, margins.shape[1])
        low, high = margins.min(axis=0), margins.max(axis=0)
        axes.fill_between(rank, low, high, color=color, alpha=0.2, linewidth=0)
        axes.plot(rank, margins.mean(axis=0), color=color, lw=1.4, label=name)
    _finish_linear(axes, "margins at the end", "share of samples, by margin")
    axes.legend(frameon=False, fontsize=8)
    return figure


def training_histograms_figure(data: xr.Dataset, num_epochs: int = 8) -> Figure:
    """How the distribution of the margins moves in a training, as Rangamani's figures 4 and 5.

    Args: `data` of `cnn.train`, of which the first seed is drawn, at up to `num_epochs` epochs
        between which the mean margin moves alike.

    Returns: a Matplotlib `Figure`.

    Example: `training_histograms_figure(run.data).savefig("histograms.png")`.
    """
    margins = data["margins"].isel(seed=0).transpose("epoch", "sample").values
    epochs = data["epoch"].values
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    _draw_histograms(axes, margins, [f"epoch {epoch}" for epoch in epochs], num_epochs)
    _finish_linear(axes, "margins of the training samples", "margin")
    axes.legend(frameon=False, fontsize=8)
    return figure


def _draw_model(axes: Axes, model: Trajectory, variable: str, last: int, **style: Any) -> None:
    """From epoch 1 to the last one of any run."""
    epochs = np.expm1(model.common_log_time())
    shown = (epochs >= 1) & (epochs <= last)
    values = np.asarray(model.observables[variable])[..., shown]
    _draw(axes, epochs[shown], values, ls=":", **style)


def _name_variables(axes: Axes, variables: Sequence[str]) -> None:
    """Which line style is which variable, where there are several."""
    if len(variables) > 1:
        styles = [Line2D([], [], color="#4a4a4a", ls=style) for style in _LINE_STYLES[:2]]
        labels = [variable.removeprefix("ji_").replace("_", " ") for variable in variables]
        axes.legend(styles[: len(labels)], labels, frameon=False, fontsize=7, loc="best")


def _name_runs(figure: Figure, colors: Mapping[str, Any], models: Mapping[str, Trajectory]) -> None:
    """Which colour is which run, below all panels."""
    lines = [Line2D([], [], color=color) for color in colors.values()]
    labels = list(colors)
    if models:
        lines.append(Line2D([], [], color="#4a4a4a", ls=":"))
        labels.append("model's flow")
    columns = min(len(labels), 4 * len(figure.axes))
    figure.legend(lines, labels, frameon=False, loc="outside lower center", ncols=columns)


def _wilson_interval(
    share: NDArray[np.floating], count: int
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Interval of 95 % for a probability of which a share was seen in so many trials."""
    z2 = 1.96**2 / count
    centre, half = share + z2 / 2, np.sqrt(z2 * (share * (1 - share) + z2 / 4))
    return (centre - half) / (1 + z2), (centre + half) / (1 + z2)


def _draw_histograms(
    axes: Axes, values: NDArray[np.floating], labels: Sequence[str], count: int
) -> None:
    """Histograms of (T, N) values at up to `count` of the rows, their mean evenly spaced."""
    means = values.mean(axis=1)
    wanted = np.linspace(means[0], means[-1], count)
    chosen = np.unique([0, *np.abs(means[:, None] - wanted).argmin(axis=0), len(values) - 1])
    edges = np.linspace(values[chosen].min(), values[chosen].max(), 41)
    colors = colormaps["plasma"](np.linspace(0, 0.93, len(chosen)))
    for at, color in zip(chosen, colors, strict=True):
        axes.hist(values[at], edges, color=color, alpha=0.75, label=labels[at])
    axes.set_yscale("log")
    axes.set_ylabel("samples")


def _shades(count: int) -> NDArray[np.floating]:
    """Colours from dark to light for an ordered family of curves."""
    return colormaps["viridis"](np.linspace(0, 0.9, count))


def _draw(axes: Axes, x: NDArray[np.floating], values: ArrayLike, **style: Any) -> None:
    """A curve of (T,) values; of a batch (runs, T) the median in its band."""
    values = np.asarray(values)
    if values.ndim > 1:
        # Where every run has ended there is no median.
        known = np.any(np.isfinite(values), axis=0)
        x, (low, values, high) = x[known], np.nanpercentile(values[:, known], [10, 50, 90], axis=0)
        axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
    axes.plot(x, values, **style)


def _decades(trajectory: Trajectory) -> NDArray[np.floating]:
    """log10(1 + t) of the saves; one time axis, whatever the batch."""
    return trajectory.common_log_time() / math.log(10)


def _draw_guide(axes: Axes, trajectory: Trajectory, name: str, slope: float) -> None:
    decades = _decades(trajectory)
    values = np.asarray(trajectory.observables[name])
    end = np.nanmedian(values.reshape(-1, values.shape[-1])[:, -1])
    span = decades[decades >= max(math.sqrt(decades[-1]), 1)]
    if span.size < 2 or not end > 0:
        return
    power = {-1.0: "1/log t", -0.5: "1/√(log t)"}.get(slope, f"(log t)^{slope:g}")
    guide = 2 * end * (span / span[-1]) ** slope
    axes.plot(span, guide, ":", color="black", label=power, linewidth=1.2)


def _label_times(axes: Axes, title: str) -> None:
    """Log scale of log10 t, whose ticks read as times."""
    axes.set_xscale("log")
    _finish(axes, title, "time t (log log scale)")
    axes.xaxis.set_major_formatter(FuncFormatter(_time_label))
    axes.xaxis.set_minor_locator(NullLocator())


def _label_epochs(axes: Axes) -> None:
    """Log scale with labels even where it covers less than a decade."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _finish(axes: Axes, title: str, time: str) -> None:
    # Measures that are identically zero, as at K = 2, have no logarithm.
    if any(np.any(np.asarray(line.get_ydata()) > 0) for line in axes.lines):
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        if high > 10 * low:
            # They are empty, and measured all the same.
            axes.tick_params(which="minor", labelleft=False)
    _finish_linear(axes, title, time)


def _finish_linear(axes: Axes, title: str, label: str) -> None:
    # With a height given Matplotlib does not search for one above all ticks.
    axes.set_title(title, fontsize=10, y=1.0)
    axes.set_xlabel(label)
    axes.grid(True, which="major", alpha=0.25)


def _time_label(decades: float, _position: object = None) -> str:
    """10^x for ticks at x = 1, 10, 100, ...; from 10^(10^4) on as a tower, which is shorter."""
    power = math.log10(decades)
    tower = power >= 4 and power == round(power)
    return f"$10^{{10^{power:g}}}$" if tower else f"$10^{{{decades:g}}}$"
