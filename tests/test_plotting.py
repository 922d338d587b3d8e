import math

import equinox as eqx
import jax
import matplotlib.colors
import numpy as np
import pytest
import xarray as xr

import nc_jax as nc
from nc_jax import plotting

PROBLEM = nc.ulpm(3, 4, 2)
TIMES = nc.log_times(20, 9, start_log10=-1)


def run(seed):
    return nc.gradient_flow(PROBLEM, PROBLEM.init(jax.random.key(seed)), TIMES)


@pytest.fixture(scope="module")
def single():
    return run(0)


def test_panels_show_the_four_measures_on_log_log_time(single):
    figure = plotting.collapse_figure({"flow": single}, {"ji_self_duality": -1.0})
    assert len(figure.axes) == 4
    shown = np.asarray(single.log_time) / math.log(10) >= math.log10(2)
    for axes, name in zip(
        figure.axes,
        ["feature_norm_variation", "within_class_variation", "feature_cosine_gap", "self_duality"],
        strict=True,
    ):
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        line = axes.lines[0]
        np.testing.assert_allclose(
            np.asarray(line.get_xdata()), single.log_time[shown] / math.log(10)
        )
        np.testing.assert_array_equal(line.get_ydata(), single.observables[f"ji_{name}"][shown])
    guide = figure.axes[3].lines[-1]
    slope = np.diff(np.log(guide.get_ydata())) / np.diff(np.log(guide.get_xdata()))
    np.testing.assert_allclose(slope, -1)


def test_runs_differ_by_line_style_and_quantities_by_colour(single):
    figure = plotting.collapse_figure({"flow": single, "descent": single})
    lines = figure.axes[0].lines
    assert [line.get_linestyle() for line in lines] == ["-", "-", "--", "--"]
    colors = [matplotlib.colors.to_hex(line.get_color()) for line in lines]
    assert colors[0] == colors[2] != colors[1] == colors[3]
    assert lines[2].get_label() == "class means, descent"


def test_a_batch_is_drawn_as_its_median_in_a_band():
    batch = jax.jit(jax.vmap(run))(np.arange(5))
    figure = plotting.collapse_figure({"flow": batch})
    axes = figure.axes[1]
    values = np.asarray(batch.observables["ji_within_class_variation"])
    shown = TIMES / math.log(10) >= math.log10(2)
    np.testing.assert_allclose(
        np.asarray(axes.lines[0].get_ydata()), np.median(values, axis=0)[shown]
    )
    assert len(axes.collections) == 1


def test_figure_can_be_saved(single, tmp_path):
    plotting.collapse_figure({"flow": single}).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_ticks_read_as_times_however_far(single):
    axes = plotting.collapse_figure({"flow": single}).axes[0]
    label = axes.xaxis.get_major_formatter()
    assert [label(x) for x in (1, 1000, 3200, 10_000, 1e6)] == [
        "$10^{1}$", "$10^{1000}$", "$10^{3200}$", "$10^{10^4}$", "$10^{10^6}$"
    ]  # fmt: skip


STRONG = ("mixon_snc1", "mixon_snc2", "mixon_snc3", "mixon_distance_to_s")


def over_norms(single, times):
    """Runs over (2 norms, 3 seeds) with made-up errors."""
    rng = np.random.default_rng(0)
    shape = (2, 3, len(times))
    seen = {name: np.exp(rng.normal(size=shape)) for name in STRONG}
    log_time = np.broadcast_to(np.log1p(times), shape)
    return eqx.tree_at(lambda run: (run.log_time, run.observables), single, (log_time, seen))


def test_strong_collapse_has_a_colour_a_norm_and_a_style_a_run(single):
    times = np.linspace(0, 5, 6)
    runs = over_norms(single, times)
    # Runs that an event has ended: one of norm 1 after t = 3, all of norm 0.1 after t = 4.
    for values in runs.observables.values():
        values[0, 1, 4:] = values[1, :, 5:] = np.nan
    figure = plotting.strong_collapse_figure({"flow": runs, "gd": runs}, [1.0, 0.1])
    for axes, name in zip(figure.axes, STRONG, strict=True):
        for line, values in zip(axes.lines[:2], runs.observables[name], strict=True):
            drawn = np.isfinite(values).any(axis=0)
            np.testing.assert_allclose(np.asarray(line.get_xdata()), times[drawn], atol=1e-12)
            expected = np.nanmedian(values[:, drawn], axis=0)
            np.testing.assert_array_equal(np.asarray(line.get_ydata()), expected)
        assert [line.get_linestyle() for line in axes.lines] == ["-", "-", "--", "--"]
        assert axes.lines[0].get_color() == pytest.approx(axes.lines[2].get_color())
        assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["ε = 1", "ε = 0.1", "flow", "gd"]


def test_long_runs_of_strong_collapse_are_on_a_log_axis(single):
    runs = over_norms(single, np.array([0.0, 1e6]))
    axes = plotting.strong_collapse_figure({"flow": runs}, [1.0, 0.1]).axes[0]
    assert axes.get_xscale() == "log"
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_xdata()), 1e6)  # 0 has no place there


def test_linear_phase_shows_the_gap_and_the_bound(single):
    shape = (2, 3, TIMES.size)
    rng = np.random.default_rng(0)
    names = ("linear_gap", "deviation", "linear_deviation", "bound")
    seen = {name: np.exp(rng.normal(size=shape)) for name in names}
    runs = eqx.tree_at(lambda run: run.observables, single, seen)
    left, right = plotting.linear_phase_figure(runs, [1e-2, 1e-4], 0.1).axes
    for i, (gap, deviation) in enumerate(zip(left.lines[:2], right.lines[:2], strict=True)):
        median = np.median(runs.observables["linear_gap"][i], axis=0)
        np.testing.assert_array_equal(np.asarray(gap.get_ydata()), median)
        assert gap.get_color() == pytest.approx(deviation.get_color())
    assert list(np.asarray(left.lines[2].get_ydata())) == [0.1, 0.1]


def test_kkt_residuals_are_drawn_under_their_bounds(single):
    rng = np.random.default_rng(0)
    names = ("epsilon", "epsilon_bound", "delta", "delta_bound")
    seen = {name: np.exp(rng.normal(size=(3, TIMES.size))) for name in names}
    seen["epsilon_bound"][:, 0] = np.inf  # before separation
    seen["max_margin_ratio"] = rng.uniform(0.1, 0.9, size=(3, TIMES.size))
    log_time = np.broadcast_to(TIMES, (3, TIMES.size))
    runs = eqx.tree_at(lambda run: (run.log_time, run.observables), single, (log_time, seen))
    first, second, third = plotting.kkt_figure(runs).axes
    for axes, name in ((first, "epsilon"), (second, "delta")):
        measured, bound = axes.lines
        median = np.median(seen[name], axis=0)
        np.testing.assert_allclose(np.asarray(measured.get_ydata()), median)
        assert bound.get_linestyle() == "--"
        assert np.all(np.isfinite(np.asarray(bound.get_ydata())))
    assert np.size(first.lines[1].get_xdata()) == TIMES.size - 1
    ratio = np.median(1 - seen["max_margin_ratio"], axis=0)
    np.testing.assert_allclose(np.asarray(third.lines[0].get_ydata()), ratio)


def test_escapes_have_their_law_and_slow_starts_their_colour(single):
    times, eps = np.geomspace(1, 3e4, 50), np.array([0.1, 0.01, 0.001])
    log_time = np.broadcast_to(times, (3, 50))
    ratios = np.stack([np.linspace(0.75, end, 50) for end in (1.0, 0.9, 0.8)])
    seen = {"max_margin_ratio": ratios}
    runs = eqx.tree_at(lambda run: (run.log_time, run.observables), single, (log_time, seen))
    left = np.array([30.0, 3000.0, np.nan])
    alpha = np.linspace(-1, 1, 41)
    figure = plotting.escape_figure(alpha, alpha**4 - alpha**2, -2.0, runs, eps, left, runs)
    curve, margins, law, starts = figure.axes
    parabola = curve.lines[1]
    x, y = (np.asarray(data) for data in (parabola.get_xdata(), parabola.get_ydata()))
    np.testing.assert_allclose(y, -(x**2), atol=1e-12)
    assert len(margins.lines) == 3
    measured, guide = law.lines
    np.testing.assert_allclose(np.asarray(measured.get_ydata()), left[:2] / math.log(10))
    slope = np.diff(np.log(guide.get_ydata())) / np.diff(np.log(guide.get_xdata()))
    np.testing.assert_allclose(slope, -2)
    colors = [matplotlib.colors.to_hex(line.get_color()) for line in starts.lines]
    assert colors == ["#9a9a9a", "#d1651a", "#d1651a"]
    assert "2 slow" in starts.get_title()


def test_shares_of_the_uncollapsed_end_where_nobody_is_left():
    log_time = np.log(10.0) * np.array([0.5, 1, 10, 100])
    panels = {"K = 3": {"d = 2": np.array([1, 0.5, 0.25, 0.0])}, "K = 4": {"d = 3": np.ones(4)}}
    figure = plotting.uncollapsed_figure(log_time, panels, 100)
    first, second = figure.axes
    assert [axes.get_title() for axes in (first, second)] == list(panels)
    np.testing.assert_allclose(np.asarray(first.lines[0].get_xdata()), [1, 10])
    np.testing.assert_array_equal(first.lines[0].get_ydata(), [0.5, 0.25])
    np.testing.assert_array_equal(second.lines[0].get_ydata(), np.ones(3))
    # Wilson's interval solves |p - share| = 1.96 sqrt(p (1 - p) / count) for p.
    [band] = first.collections
    ends = np.asarray(band.get_paths()[0].vertices)
    for end in ends[np.isclose(ends[:, 0], 10), 1]:
        np.testing.assert_allclose((end - 0.25) ** 2, 1.96**2 * end * (1 - end) / 100)


def test_the_landscape_shows_spectra_points_and_profiles(single):
    log_time = np.broadcast_to(TIMES, (2, TIMES.size))
    rng = np.random.default_rng(0)
    seen = {
        "gradient_norm": np.exp(rng.normal(size=(2, TIMES.size))),
        "eigenvalue": rng.normal(size=(2, TIMES.size)),
    }
    flows = eqx.tree_at(lambda run: (run.log_time, run.observables), single, (log_time, seen))
    spectra = {"minimum": np.array([0.0, 0.0, 1.0]), "saddle": np.array([-1.0, 0.0, 1.0])}
    found = {"gradient_norm": [0.0, 1e-12], "eigenvalue": [0.5, -1.0], "excess": [0.0, 1.0]}
    steps = np.linspace(0, 1, 5)
    figure = plotting.landscape_figure(spectra, found, flows, steps, {"saddle": 2 - steps})
    left, middle, right = figure.axes[:3]
    offsets = [np.asarray(dots.get_offsets()) for dots in left.collections]
    np.testing.assert_allclose(offsets[0], [[0, 0], [1, 0]])  # two zeros are one dot, larger
    np.testing.assert_allclose(offsets[1][:, 0], [-1, 0, 1])
    sizes = np.asarray(left.collections[0].get_sizes())  # pyright: ignore
    assert sizes[0] == 2 * sizes[1]
    points = np.asarray(middle.collections[0].get_offsets())
    assert np.all(points[:, 0] > 0)  # 0 has no place on a log axis
    np.testing.assert_allclose(points[:, 1], found["eigenvalue"])
    np.testing.assert_allclose(np.asarray(right.lines[0].get_ydata()), 2 - steps)


EPOCHS = np.array([0, 1, 2, 4, 7])


def training(decay):
    """Two seeds as `cnn.train` records them: accuracies rise, the rest falls."""
    rng = np.random.default_rng(0)
    falling = np.exp(-decay * EPOCHS) * np.array([[1.0], [1.5]])
    margins = np.sort(rng.normal(EPOCHS[:, None], 1, (2, 5, 50)))
    names = ["zhu_nc1", "ji_feature_norm_variation", "ji_classifier_norm_variation"]
    return xr.Dataset(
        {
            **{name: (("seed", "epoch"), falling * (i + 1)) for i, name in enumerate(names)},
            "train_accuracy": (("seed", "epoch"), 1 - falling / 2),
            "margin_min": (("seed", "epoch"), margins.min(axis=-1)),
            "margins": (("seed", "epoch", "sample"), margins),
        },
        {"seed": [0, 1], "epoch": EPOCHS},
    )


def test_trainings_have_a_colour_each_and_variables_a_style(single):
    runs = {"slow": training(0.1), "fast": training(0.5)}
    panels = {
        "norms": ("ji_feature_norm_variation", "ji_classifier_norm_variation"),
        "NC1": ("zhu_nc1",), "accuracy": ("train_accuracy",), "margin": ("margin_min",),
    }  # fmt: skip
    figure = plotting.training_figure(runs, panels, {"slow": single, "free": single})
    norms, nc1, accuracy, margin = figure.axes
    # The model lacks accuracies alone; "free" is a model without a run.
    styles = [line.get_linestyle() for line in norms.lines]
    assert styles == ["-", ":", "--", ":", "-", "--", ":", ":"]
    slow, model, fast, free = nc1.lines
    # Epoch 0 has no place on a log axis; the median of two seeds is their mean.
    np.testing.assert_array_equal(slow.get_xdata(), EPOCHS[1:])
    np.testing.assert_allclose(
        np.asarray(slow.get_ydata()), runs["slow"]["zhu_nc1"].mean("seed")[1:]
    )
    epochs = np.expm1(single.log_time)
    np.testing.assert_allclose(np.asarray(model.get_xdata()), epochs[(epochs >= 1) & (epochs <= 7)])
    assert slow.get_color() is not fast.get_color()
    np.testing.assert_array_equal(slow.get_color(), model.get_color())
    assert free.get_color() == "black"
    assert (nc1.get_yscale(), accuracy.get_yscale()) == ("log", "linear")
    # A smallest margin below 0 is seen.
    assert margin.get_yscale() == "symlog"
    assert margin.get_ylim()[0] < np.asarray(margin.lines[0].get_ydata())[0] < 0
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["slow", "fast", "model's flow"]
    figure.draw_without_rendering()
    # Less than a decade has labels, and not one upon another.
    labels = [label.get_text() for label in nc1.get_xticklabels()]
    assert {"1", "2", "5"} <= set(labels)
    assert not nc1.get_xticklabels(minor=True)


def test_margins_of_a_training_are_sorted_and_shown_as_they_move():
    runs = {"slow": training(0.1), "fast": training(0.5)}
    [axes] = plotting.sorted_margins_figure(runs).axes
    for line, data in zip(axes.lines, runs.values(), strict=True):
        last = np.sort(data["margins"].values[:, -1])
        np.testing.assert_allclose(np.asarray(line.get_ydata()), last.mean(axis=0))
    [axes] = plotting.training_histograms_figure(runs["slow"], 3).axes
    assert axes.get_legend_handles_labels()[1] == ["epoch 0", "epoch 4", "epoch 7"]
    counts = [sum(bar.get_height() for bar in bars) for bars in axes.containers]
    assert counts == [50, 50, 50]
