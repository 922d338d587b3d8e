"""The figures that belong to one example each: what they draw of given data sets."""

import math

import matplotlib.colors
import numpy as np
import pytest
import xarray as xr
from figure_layout import check_layout, legend_texts, line_data, record_figures, titles
from figures.mixon_linear_phase import linear_phase_figure
from figures.rangamani_collapse import frames_figure
from figures.rangamani_norm_dynamics import (
    logistic_figure,
    margins_figure,
    norm_dynamics_figure,
    orders_figure,
    outputs_figure,
)
from figures.seed_sweep import uncollapsed_figure
from figures.ulpm_kkt import kkt_figure
from figures.ulpm_saddle import escape_figure
from figures.zhu_landscape import landscape_figure
from matplotlib.patches import Rectangle

import nc_jax as nc

LOG_TIMES = np.geomspace(0.1, 20 * math.log(10), 9)
MEDIAN = "median, 10th to 90th percentile"


@pytest.fixture(autouse=True)
def every_figure_has_a_good_layout(monkeypatch):
    figures = record_figures(monkeypatch)
    yield
    for figure in figures:
        check_layout(figure)


def flows(dims, coords=None, *, log_times=LOG_TIMES, **variables):
    """Runs over some axes and time with given arrays."""
    return xr.Dataset(
        {name: ((*dims, "time", "sample")[: np.ndim(v)], v) for name, v in variables.items()},
        {**(coords or {}), "log_time": ("time", log_times)},
    )


def hex_colors(axes):
    return [matplotlib.colors.to_hex(line.get_color()) for line in axes.lines]


def slopes(line):
    """Slopes of a line between its points on log scales."""
    x, y = np.log(line)
    return np.diff(y) / np.diff(x)


def test_linear_phase_shows_the_gap_and_the_bound():
    rng = np.random.default_rng(0)
    names = ("linear_gap", "deviation", "linear_deviation", "bound")
    values = {name: np.exp(rng.normal(size=(2, 3, 9))) for name in names}
    times = np.linspace(0, 8, 9)
    data = flows(("norm", "seed"), {"norm": [1e-2, 1e-4]}, log_times=np.log1p(times), **values)
    figure = linear_phase_figure(data, 0.1)
    left, right = figure.axes
    for i in range(2):
        for axes, name in ((left, "linear_gap"), (right, "deviation")):
            expected = [times, np.median(values[name][i], axis=0)]
            np.testing.assert_allclose(line_data(axes)[i], expected, atol=1e-12)
        assert hex_colors(left)[i] == hex_colors(right)[i]
    np.testing.assert_array_equal(line_data(left)[2][1], [0.1, 0.1])
    np.testing.assert_allclose(line_data(right)[3][1], np.median(values["bound"][0], axis=0))
    assert legend_texts(left) == ["hand-over, 0.1"]
    assert legend_texts(right) == ["linear solution", "its bound (theorem 2)"]
    assert legend_texts(figure) == ["ε = 0.01", "ε = 0.0001", MEDIAN]
    assert left.get_xlabel() == right.get_xlabel() == "time t"


def test_kkt_residuals_are_drawn_under_their_bounds():
    rng = np.random.default_rng(0)
    names = ("epsilon", "epsilon_bound", "delta", "delta_bound")
    values = {name: np.exp(rng.normal(size=(3, 9))) for name in names}
    values["epsilon_bound"][:, 0] = np.inf  # before separation
    values["max_margin_ratio"] = rng.uniform(0.1, 0.9, size=(3, 9))
    figure = kkt_figure(flows(("seed",), **values))
    assert titles(figure) == [
        "Stationarity", "Complementary slackness", "Distance from the largest margin"
    ]  # fmt: skip
    first, second, third = figure.axes
    decades = LOG_TIMES / math.log(10)
    for axes, name in ((first, "epsilon"), (second, "delta")):
        measured, bound = line_data(axes)
        np.testing.assert_allclose(measured, [decades, np.median(values[name], axis=0)])
        assert [line.get_linestyle() for line in axes.lines] == ["-", "--"]
        assert np.all(np.isfinite(bound))
    assert len(line_data(first)[1][0]) == 8
    missing = np.median(1 - values["max_margin_ratio"], axis=0)
    np.testing.assert_allclose(line_data(third)[0][1], missing)
    assert legend_texts(figure) == ["measured", "bound of lemma B.1", MEDIAN]
    assert third.get_xlabel() == "time t (log log scale)"


def test_escape_figure_shows_the_inverse_square_law_and_colours_slow_starts():
    times, eps = np.geomspace(1, 3e4, 50), [0.1, 0.01, 0.001]
    ratios = np.stack([np.linspace(0.75, end, 50) for end in (1.0, 0.9, 0.8)])
    left = np.array([30.0, 3000.0, np.nan])
    escapes = flows(("eps",), {"eps": eps}, log_times=times, max_margin_ratio=ratios)
    escapes = escapes.assign(leaving_log_time=("eps", left))
    gaussian = flows(("seed",), log_times=times, max_margin_ratio=ratios)
    curve, margins, law, starts = escape_figure(escapes, gaussian).axes
    alpha, loss = line_data(curve)[0]
    problem = nc.ulpm(4, 4, 1)
    for at in (0, 150, 200, 400):
        expected = problem.objective(nc.exact.example_3_1(alpha[at]))
        np.testing.assert_allclose(loss[at], expected, rtol=1e-12)
    # The parabola touches the curve at the saddle.
    x, y = line_data(curve)[1]
    near = np.abs(x) < 0.02
    np.testing.assert_allclose(y[near], np.interp(x[near], alpha, loss), rtol=1e-6)
    assert legend_texts(curve) == ["L(α)", "L(0) + L''(0)α²/2", "neural collapse"]
    np.testing.assert_array_equal([line[1] for line in line_data(margins)], ratios)
    assert legend_texts(margins) == ["from ε = 0.1", "from ε = 0.001"]
    measured, guide = line_data(law)
    np.testing.assert_allclose(measured, np.array([eps[:2], left[:2] / math.log(10)]))
    np.testing.assert_allclose(slopes(guide), -2)
    assert hex_colors(starts) == ["#767676", "#d1651a", "#d1651a"]
    assert legend_texts(starts) == ["others: 1", "below 0.97 at t = 10^10557: 2"]
    assert starts.get_title() == "(d) 3 Gaussian starts, d = K−1"


def test_curves_of_uncollapsed_shares_end_where_the_share_is_zero():
    shares = np.array([[[1, 0.5, 0.25, 0.0], [1, 1, 1, 1]], [[1, 1, 1, 1], [1, 1, 1, 0.5]]])
    decades = np.array([0.5, 1, 10, 100])
    data = xr.Dataset(
        {"uncollapsed": (("num_classes", "excess", "time"), shares)},
        {
            "num_classes": [3, 4], "excess": [-1, 0], "seed": np.arange(100),
            "log_time": ("time", decades * math.log(10)),
        },
    )  # fmt: skip
    figure = uncollapsed_figure(data)
    first, second = figure.axes
    assert titles(figure) == ["K = 3", "K = 4"]
    assert legend_texts(first) == ["d = 2", "d = 3"]
    assert legend_texts(second) == ["d = 3", "d = 4"]
    np.testing.assert_allclose(line_data(first)[0], [[1, 10], [0.5, 0.25]])
    np.testing.assert_array_equal(line_data(second)[0][1], np.ones(3))
    assert legend_texts(figure) == ["share, its interval of 95 % (Wilson)"]
    # Wilson's interval solves |p - share| = 1.96 sqrt(p (1 - p) / count) for p.
    ends = np.asarray(first.collections[0].get_paths()[0].vertices)
    at_ten = ends[np.isclose(ends[:, 0], 10), 1]
    assert len(set(at_ten)) == 2
    for end in at_ten:
        np.testing.assert_allclose((end - 0.25) ** 2, 1.96**2 * end * (1 - end) / 100)


def test_the_landscape_shows_spectra_points_and_profiles():
    rng = np.random.default_rng(0)
    excess, eigenvalue = np.exp(rng.normal(size=(2, 9))), rng.normal(size=(2, 9))
    steps = np.linspace(0, 1, 5)
    explicit = xr.Dataset(
        {
            "eigenvalue": (("name", "number"), [[0.0, 0.0, 1.0], [-1.0, 0.0, 1.0]]),
            "excess": (("name", "step"), [np.full(5, np.nan), 2 - steps]),
        },
        {"name": ["minimum", "saddle"], "step": steps},
    )
    found = xr.Dataset({"eigenvalue": ("point", [0.5, -1.0]), "excess": ("point", [0.0, 1.0])})
    paths = flows(("seed",), excess=excess, eigenvalue=eigenvalue)
    left, middle, right = landscape_figure(explicit, found, paths).axes
    offsets = [np.asarray(dots.get_offsets()) for dots in left.collections]
    np.testing.assert_allclose(offsets[0], [[0, 0], [1, 0]])  # two zeros are one dot, larger
    np.testing.assert_allclose(offsets[1][:, 0], [-1, 0, 1])
    sizes = np.asarray(left.collections[0].get_sizes())  # pyright: ignore
    assert sizes[0] == 2 * sizes[1]
    assert [text.get_text() for text in left.get_yticklabels()] == ["minimum", "saddle"]
    *ways, points, _zero = line_data(middle)
    np.testing.assert_array_equal(ways, np.stack([excess, eigenvalue], axis=1))
    np.testing.assert_array_equal(points, [[0.0, 1.0], [0.5, -1.0]])
    assert legend_texts(middle) == ["flows", "critical points found"]
    # The least loss is on the axis, although it is 0.
    assert middle.get_xlim()[0] < 0 < middle.transData.transform((0, 0))[0]
    [profile] = line_data(right)
    np.testing.assert_allclose(profile, [steps, 2 - steps])
    assert legend_texts(right) == ["saddle"]


def test_frames_show_the_range_of_cosines_and_each_run_in_a_style():
    rng = np.random.default_rng(0)
    cosines, variation = rng.uniform(-1, 1, (2, 9, 3)), np.exp(rng.normal(size=(2, 9)))
    run = flows(("seed",), cosines=cosines, ji_within_class_variation=variation)
    figure = frames_figure({"bias": run, "no bias": run}, 3)
    left, right = figure.axes
    times = np.expm1(LOG_TIMES)
    np.testing.assert_allclose(line_data(left)[0], [times, cosines.mean(axis=(0, 2))])
    [band, _] = left.collections
    ends = np.asarray(band.get_paths()[0].vertices)[:, 1]
    np.testing.assert_allclose([ends.min(), ends.max()], [cosines.min(), cosines.max()])
    np.testing.assert_allclose(line_data(right)[0][1], np.median(variation, axis=0))
    assert [line.get_linestyle() for line in right.lines] == ["-", "--"]
    np.testing.assert_array_equal(line_data(left)[2][1], [-0.5, -0.5])  # the simplex of 3
    assert [text.get_text() for text in left.texts] == ["simplex", "orthogonal frame"]
    assert legend_texts(figure) == ["bias", "no bias", "mean, least to largest", MEDIAN]


def test_norms_and_margins_have_a_row_a_decay_and_a_colour_a_start():
    rng = np.random.default_rng(0)
    names = {"norm": "norm ρ", "objective": "training loss", "test_error": "test error"}
    values = {name: rng.uniform(0.1, 1, (2, 2, 3, 9)) for name in names}
    values["margins"] = rng.normal(size=(2, 2, 3, 9, 7))
    coords = {"decay": [0.1, 0.0], "norm_at_start": [0.5, 1.0]}
    data = flows(("decay", "norm_at_start", "seed"), coords, **values)
    figure = norm_dynamics_figure(data)
    assert titles(figure) == ["λ = 0.1"] * 3 + ["λ = 0"] * 3
    assert [axes.get_ylabel() for axes in figure.axes] == [*names.values()] * 2
    for i, axes in enumerate(figure.axes):
        of_decay = values[list(names)[i % 3]][i // 3]
        for line, of_norm in zip(line_data(axes), of_decay, strict=True):
            np.testing.assert_allclose(line, [np.expm1(LOG_TIMES), np.median(of_norm, axis=0)])
        scales = ("log", "linear" if i % 3 == 2 else "log")
        assert (axes.get_xscale(), axes.get_yscale()) == scales
    assert legend_texts(figure) == ["start 0.5", "start 1", MEDIAN]
    margins = margins_figure(data)
    assert titles(margins) == ["At the end, λ = 0.1", "At the end, λ = 0"]
    last = np.sort(values["margins"][:, :, :, -1], axis=-1)
    for axes, of_decay in zip(margins.axes, last, strict=True):
        for line, of_norm in zip(line_data(axes), of_decay, strict=True):
            np.testing.assert_allclose(line, [np.arange(1, 8), of_norm.mean(axis=0)])


def test_outputs_are_histograms_of_margins_times_the_norm():
    rng = np.random.default_rng(0)
    outputs = np.sort(rng.normal(LOG_TIMES[:, None], 1, (9, 40)))
    norm = np.linspace(1, 3, 9)
    figure = outputs_figure(flows((), norm=norm, margins=outputs / norm[:, None]))
    bars = [[bar for bar in axes.patches if isinstance(bar, Rectangle)] for axes in figure.axes]
    assert all(sum(bar.get_height() for bar in row) == 40 for row in bars)
    edges = [bar.get_x() for bar in bars[0]]
    np.testing.assert_allclose(edges[0], outputs.min())
    np.testing.assert_allclose(bars[0][-1].get_x() + bars[0][-1].get_width(), outputs.max())
    assert all(list(line_data(axes)[0][0]) == [1, 1] for axes in figure.axes)
    assert figure.get_suptitle() == "Outputs of the samples over time"


def test_orders_are_fitted():
    rates = np.array([0.2, 0.1, 0.05, 0.025])
    data = xr.Dataset(
        {"distance": (("net", "curve", "rate"), [[3 * rates, rates**2]])},
        {"net": ["linear net"], "curve": ["flow", "equation"], "rate": rates},
        {"horizon": 4.0},
    )
    [axes] = orders_figure(data).axes
    assert legend_texts(axes) == ["flow: η$^{1.00}$", "equation: η$^{2.00}$"]
    np.testing.assert_array_equal(line_data(axes), [[rates, 3 * rates], [rates, rates**2]])
    assert axes.get_title() == "distance from descent at t = 4, linear net"


def test_the_closed_form_is_dotted():
    time = np.linspace(0, 1, 5)
    norm = np.array([[2 * time, 3 * time], [time, 4 * time]])
    chain = xr.Dataset(
        {
            "norm": (("layers", "start", "t"), norm),
            "exact_time": (("layers", "start", "point"), [[[0.5, 9.0], [0.25, 9.0]]] * 2),
            "exact_norm": (("layers", "start", "point"), [[[1.0, 1.0], [0.75, 1.0]]] * 2),
        },
        {"layers": [1, 2], "start": [0.0, 0.1], "t": time},
    )
    [axes] = logistic_figure(chain).axes
    lines = line_data(axes)
    np.testing.assert_array_equal(lines[:2], [[time, 2 * time], [time, 3 * time]])
    # Points beyond the end of the curves are left out.
    np.testing.assert_array_equal(lines[2], [[0.5, 0.25], [1.0, 0.75]])
    assert axes.lines[2].get_linestyle() == "None"
    assert legend_texts(axes) == ["L = 1", "L = 2", "closed form"]
