import ast
import math
from pathlib import Path

import equinox as eqx
import jax
import matplotlib.colors
import numpy as np
import pytest
import xarray as xr
from figure_layout import CONTRAST, check_layout, contrast_with_white
from matplotlib.patches import Rectangle

import nc_jax as nc
from nc_jax import plotting

PROBLEM = nc.ulpm(3, 4, 2)
TIMES = nc.log_times(20, 9, start_log10=-1)


@pytest.fixture(autouse=True)
def every_figure_has_a_good_layout(monkeypatch):
    figures, make = [], plotting.Figure

    def record(*args, **kwargs):
        figures.append(make(*args, **kwargs))
        return figures[-1]

    monkeypatch.setattr(plotting, "Figure", record)
    yield
    for figure in figures:
        check_layout(figure)


def legend_calls():
    """Calls of `legend` in the package and its scripts, by file and line."""
    root = Path(__file__).parent.parent
    for folder in ("nc_jax", "examples", "benchmarks", "docs"):
        for path in sorted((root / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "legend":
                    yield f"{path.relative_to(root)}:{node.lineno}", node


def test_no_legend_is_placed_by_a_search():
    # loc="best", which is the default, takes seconds on a slow machine, and then warns.
    calls = dict(legend_calls())
    assert calls
    for place, call in calls.items():
        given = [keyword.value for keyword in call.keywords if keyword.arg == "loc"]
        assert [place for loc in given if ast.literal_eval(loc) in ("best", 0)] == []
        assert given, f"{place}: the default is to search"


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
    assert [text.get_text() for text in legend.get_texts()] == [
        "ε = 1", "ε = 0.1", "flow", "gd", "median, 10th to 90th percentile"
    ]  # fmt: skip


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
    assert colors == ["#767676", "#d1651a", "#d1651a"]
    legend = starts.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["others: 1", "below 0.97 at t = 10^10557: 2"]


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
        "excess": np.exp(rng.normal(size=(2, TIMES.size))),
        "eigenvalue": rng.normal(size=(2, TIMES.size)),
    }
    flows = eqx.tree_at(lambda run: (run.log_time, run.observables), single, (log_time, seen))
    spectra = {"minimum": np.array([0.0, 0.0, 1.0]), "saddle": np.array([-1.0, 0.0, 1.0])}
    found = {"eigenvalue": [0.5, -1.0], "excess": [0.0, 1.0]}
    steps = np.linspace(0, 1, 5)
    figure = plotting.landscape_figure(spectra, found, flows, steps, {"saddle": 2 - steps})
    left, middle, right = figure.axes[:3]
    offsets = [np.asarray(dots.get_offsets()) for dots in left.collections]
    np.testing.assert_allclose(offsets[0], [[0, 0], [1, 0]])  # two zeros are one dot, larger
    np.testing.assert_allclose(offsets[1][:, 0], [-1, 0, 1])
    sizes = np.asarray(left.collections[0].get_sizes())  # pyright: ignore
    assert sizes[0] == 2 * sizes[1]
    *ways, points, _zero = middle.lines
    for way, x, y in zip(ways, seen["excess"], seen["eigenvalue"], strict=True):
        np.testing.assert_array_equal(np.asarray(way.get_data()), [x, y])
    np.testing.assert_array_equal(
        np.asarray(points.get_data()), [found["excess"], found["eigenvalue"]]
    )
    # The least loss is on the axis, although it is 0.
    assert middle.get_xlim()[0] < 0 < middle.transData.transform((0, 0))[0]
    np.testing.assert_allclose(np.asarray(right.lines[0].get_ydata()), 2 - steps)


def over_seeds(single, observables):
    """Runs over (2 seeds) with the given observables at TIMES."""
    log_time = np.broadcast_to(TIMES, (2, TIMES.size))
    return eqx.tree_at(lambda run: (run.log_time, run.observables), single, (log_time, observables))


def test_frames_show_the_range_of_cosines_and_each_run_in_a_style(single):
    rng = np.random.default_rng(0)
    cosines = rng.uniform(-1, 1, (2, TIMES.size, 3))
    variation = np.exp(rng.normal(size=(2, TIMES.size)))
    run = over_seeds(single, {"cosines": cosines, "ji_within_class_variation": variation})
    figure = plotting.frames_figure({"bias": run, "no bias": run}, 3)
    left, right = figure.axes
    np.testing.assert_allclose(np.asarray(left.lines[0].get_ydata()), cosines.mean(axis=(0, 2)))
    [band, _] = left.collections
    ends = np.asarray(band.get_paths()[0].vertices)[:, 1]
    np.testing.assert_allclose([ends.min(), ends.max()], [cosines.min(), cosines.max()])
    assert [line.get_linestyle() for line in right.lines] == ["-", "--"]
    assert list(np.asarray(left.lines[2].get_ydata())) == [-0.5, -0.5]  # the simplex of 3


def test_norms_and_margins_have_a_colour_a_start(single):
    rng = np.random.default_rng(0)
    shape = (2, 3, TIMES.size)
    names = ("norm", "objective", "test_error")
    values = {name: rng.uniform(0.1, 1, shape) for name in names}
    values["margins"] = rng.normal(size=(*shape, 7))
    log_time = np.broadcast_to(TIMES, shape)
    run = eqx.tree_at(lambda run: (run.log_time, run.observables), single, (log_time, values))
    figure = plotting.norm_dynamics_figure({"λ = 0.1": run, "λ = 0": run}, [0.1, 1.0])
    assert len(figure.axes) == 6
    for axes, name in zip(figure.axes[:3], names, strict=True):
        for line, of_norm in zip(axes.lines, values[name], strict=True):
            np.testing.assert_allclose(np.asarray(line.get_ydata()), np.median(of_norm, axis=0))
    margins = plotting.margins_figure({"λ = 0": run}, [0.1, 1.0])
    last = np.sort(values["margins"][:, :, -1], axis=-1)
    for line, of_norm in zip(margins.axes[0].lines, last, strict=True):
        np.testing.assert_allclose(np.asarray(line.get_ydata()), of_norm.mean(axis=0))


def test_outputs_are_histograms_of_margins_times_the_norm(single):
    rng = np.random.default_rng(0)
    outputs = np.sort(rng.normal(TIMES[:, None], 1, (TIMES.size, 40)))
    norm = np.linspace(1, 3, TIMES.size)
    values = {"norm": norm, "margins": outputs / norm[:, None]}
    run = eqx.tree_at(lambda run: run.observables, single, values)
    rows = plotting.margin_histograms_figure(run, 3).axes
    assert len(rows) == 3
    assert all(sum(bar.get_height() for bar in axes.patches) == 40 for axes in rows)  # pyright: ignore[reportAttributeAccessIssue]


def test_orders_are_fitted_and_the_closed_form_is_dotted():
    rates = np.array([0.2, 0.1, 0.05, 0.025])
    figure = plotting.orders_figure(rates, {"net": {"flow": 3 * rates, "equation": rates**2}})
    legend = figure.axes[0].get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["flow: η$^{1.00}$", "equation: η$^{2.00}$"]
    time = np.linspace(0, 1, 5)
    exact = {"L = 1": np.stack([[time, 2 * time]])}
    [axes] = plotting.logistic_figure(time, {"L = 1": 2 * time[None]}, exact).axes
    points = next(line for line in axes.lines if line.get_linestyle() == "None")
    np.testing.assert_allclose(np.asarray(points.get_data()), [time, 2 * time])


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
    # Features and classifiers are two styles in a network and two more in a model.
    assert styles == ["-", "-", ":", ":", "--", "--", "-.", "-."]
    legend = norms.get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [
        "feature norm variation", "classifier norm variation", "feature norm variation, model",
        "classifier norm variation, model",
    ]  # fmt: skip
    slow, fast, model, free = nc1.lines
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
    # A smallest margin below 0 has its place, on a linear scale where all are small.
    assert margin.get_yscale() == "linear"
    assert margin.get_ylim()[0] < np.asarray(margin.lines[0].get_ydata())[0] < 0
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "slow", "fast", "model's flow", "median, 10th to 90th percentile"
    ]  # fmt: skip
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
    rows = plotting.training_histograms_figure(runs["slow"], 3).axes
    assert [axes.texts[0].get_text() for axes in rows] == ["epoch 0", "epoch 4", "epoch 7"]
    bars = [[bar for bar in axes.patches if isinstance(bar, Rectangle)] for axes in rows]
    counts = [[bar.get_height() for bar in row] for row in bars]
    edges = [*(bar.get_x() for bar in bars[0]), np.inf]
    for found, epoch in zip(counts, (0, 3, 4), strict=True):
        values = runs["slow"]["margins"].values[0, epoch]
        assert sum(found) == 50
        # Rounding of edges may move a sample to the next bar.
        expected = np.histogram(values, edges)[0]
        assert np.abs(np.array(found) - expected).sum() <= 2


@pytest.mark.parametrize("scale", [0.01, 1.0, 1000.0])
def test_ticks_of_margins_can_be_read_whatever_their_size(scale):
    data = training(0.1)
    margin = xr.DataArray(scale * np.array([[-1.0, -0.9, 0.1, 0.5, 1.0]]), dims=("seed", "epoch"))
    data = data.isel(seed=[0]).assign(margin_min=margin)
    figure = plotting.training_figure({"run": data}, {"margin": ("margin_min",)})
    [axes] = figure.axes
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    labels = [
        text.get_text() for text in axes.get_yticklabels() if low <= text.get_position()[1] <= high
    ]
    assert 3 <= len([label for label in labels if label]) <= 12
    values = [float(label.replace("−", "-")) for label in labels]
    assert values == sorted(values)
    assert all(len(label) <= 7 for label in labels)


def test_two_parts_of_a_name_are_colour_and_line_style():
    # Three starts with decay and without are three colours, not six.
    runs = {
        (f"start {i}", f"decay {j}"): training(0.1 * (i + j)) for i in (1, 2, 3) for j in (0, 1)
    }
    figure = plotting.training_figure(runs, {"NC1": ("zhu_nc1",)})
    margins = plotting.sorted_margins_figure(runs)
    for lines in (figure.axes[0].lines, margins.axes[0].lines):
        drawn = [
            (matplotlib.colors.to_hex(line.get_color()), line.get_linestyle()) for line in lines
        ]
        assert len(set(drawn)) == 6
        assert [color for color, _ in drawn] == [c for c in colors_of_names(3) for _ in range(2)]
        assert [style for _, style in drawn] == ["-", "--"] * 3
    entries = ["start 1", "start 2", "start 3", "decay 0", "decay 1"]
    for drawn in (figure, margins):
        [legend] = drawn.legends
        assert [text.get_text() for text in legend.get_texts()][:5] == entries


def colors_of_names(count):
    """The colours of three names that are strings."""
    figure = plotting.sorted_margins_figure({f"{i}": training(0.1) for i in range(count)})
    return [matplotlib.colors.to_hex(line.get_color()) for line in figure.axes[0].lines]


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_families_of_curves_can_be_told_from_the_paper_and_from_each_other(count):
    colors = plotting._shades(count)
    assert min(contrast_with_white(color) for color in colors) >= CONTRAST
    apart = np.linalg.norm(np.diff(colors[:, :3], axis=0), axis=1)
    assert count > 7 or np.all(apart > 0.1)
