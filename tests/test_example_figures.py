"""The figures that belong to one example each: what they draw of given data sets."""

import math

import matplotlib.colors
import numpy as np
import pytest
import xarray as xr
from figure_layout import (
    check_layout,
    check_vector,
    legend_texts,
    line_data,
    record_figures,
    titles,
)
from figures.central_path import central_path_figure
from figures.depth import COLORS, depth_figure
from figures.few_dimensions import few_dimensions_figure
from figures.kernel_network import kernel_figure
from figures.minority_collapse import phase_figure
from figures.mixon_linear_phase import linear_phase_figure
from figures.optimisers import optimisers_figure
from figures.rangamani_collapse import frames_figure
from figures.rangamani_norm_dynamics import (
    logistic_figure,
    margins_figure,
    norm_dynamics_figure,
    orders_figure,
    outputs_figure,
)
from figures.seed_sweep import uncollapsed_figure
from figures.seli_flow import seli_figure
from figures.superclasses import superclasses_figure
from figures.transient_collapse import transient_figure
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
        check_vector(figure)


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


@pytest.mark.parametrize("modes", [1, 3])
def test_the_central_path_is_drawn_with_its_closed_form_and_laws(modes):
    times = np.log1p(np.geomspace(0.01, 1e8, 40))
    first = np.array([[0.5, 1.0, 2.0], [0.4, 0.9, 1.9]])[:, :modes]
    exact = nc.exact.central_path(first[:, None], times[None, :, None], modes + 1, 6)
    exact, runs = np.asarray(exact), ("seed",)
    rest = np.sum(1 / exact**2, axis=-1)
    flow = flows(runs, log_times=times, zhu_nc1=rest, han_loss_nc1=rest, han_loss_nc23=rest**2)
    for name in ("singular_values", "exact_values"):
        flow[name] = (("seed", "time", "mode"), exact)
    short = np.log1p(np.linspace(0, 6, 40))
    mixon = flows(runs, log_times=short, nc1=rest, nc23=rest**2, perp=rest)
    figure = central_path_figure(flow, mixon)
    singular, collapse, path, free = figure.axes
    assert len(line_data(singular)) == 2 * modes + 1
    # The closed form lies on the flow, and both end on the law t^(1/4).
    np.testing.assert_allclose(line_data(singular)[-1][1][-1], exact[0, -1, 0])
    np.testing.assert_allclose(slopes(line_data(singular)[-1]), 0.25)
    np.testing.assert_allclose(slopes(line_data(collapse)[1]), -0.5)
    assert legend_texts(path) == ["L$_{NC1}$", "L$_{NC2/3}$"]
    assert legend_texts(free) == ["L$_{NC1}$", "L$_{NC2/3}$", "L$_⊥$"]
    assert legend_texts(figure) == [MEDIAN]


@pytest.mark.parametrize("widths", [0, 3])
def test_shares_of_codes_and_values_over_the_least_are_drawn(widths):
    cells = [(classes, depth) for classes in (4, 5, 6) for depth in (2, 3, 4)]
    classes, depths = np.transpose(cells)
    rng = np.random.default_rng(0)
    code = rng.integers(-1, 2, size=(9, 2, 8))
    code[-1, 0] = [0, 0, 0, 0, 0, 1, 1, -1]
    values = rng.uniform(1, 1.4, size=code.shape)
    dims = ("cell", "norm", "seed")
    data = xr.Dataset(
        {"singular_sum": (dims, values), "code": (dims, code)},
        {"norm": [0.2, 2.0], "classes": ("cell", classes), "depth": ("cell", depths),
         "width": ("cell", np.where(classes == 4, 4, widths or classes))},
    )  # fmt: skip
    figure = depth_figure(data)
    first = ["width 3", "width K"] if widths else ["width K"]
    columns = [f"start norm {norm}, {width}" for width in first for norm in ("0.2", "2")]
    assert [axes.get_title() for axes in figure.axes[::2]] == columns
    assert legend_texts(figure) == list(COLORS)
    if not widths:
        shares, drawn = figure.axes[:2]
        # The bar of K = 6, m = 4, whose codes are octahedron and pairs, above its strip.
        boxes = [patch for patch in shares.patches if isinstance(patch, Rectangle)]
        green, grey, strip = boxes[-3:]
        np.testing.assert_allclose([green.get_width(), grey.get_width()], [0.77, 0.11])
        assert matplotlib.colors.to_hex(strip.get_facecolor()) == COLORS["pairs and singles"]
        least = [nc.exact.deep_code(*cell).singular_sum for cell in cells]
        ratios = np.sort((values[:, 0] / np.array(least)[:, None]).ravel())
        dots = [np.asarray(line.get_ydata()) for line in drawn.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(np.sort(np.concatenate(dots)), ratios)


def test_values_are_drawn_over_the_least_known_and_codes_with_their_edges():
    rng = np.random.default_rng(0)
    data = []
    for classes, dims in ((7, [2, 3, 4, 5]), (8, [2, 3, 4, 5, 6])):
        values = rng.uniform(7, 9, size=(len(dims), 4, 9))
        found = flows(("feature_dim", "seed"), {"feature_dim": dims}, separation_value=values)
        data.append(found.assign_attrs(num_classes=classes))
    codes = {k: nc.exact.best_known_code(nc.ulpm(k, 3, 1))[1] for k in (7, 8)}
    figure = few_dimensions_figure(data, codes)
    assert [axes.get_title() for axes in figure.axes] == [
        "K = 7", "least V, d = 3: 8.8404", "K = 8", "least V, d = 3: 10.8284"
    ]  # fmt: skip
    seven, first, _, antiprism = figure.axes
    known = [nc.exact.separation_value(7, dim).value for dim in (2, 3, 4, 5)]
    points = [line for line in seven.lines if line.get_marker() == "o"]
    for i, line in enumerate(points):
        expected = np.sort(data[0]["separation_value"].values[i, :, -1]) / known[i]
        np.testing.assert_allclose(np.asarray(line.get_ydata()), expected)
    # Twice 4 edges of the squares, 8 between them, and a spoke for each class.
    assert len(antiprism.lines) == 2 * 4 + 8 + 8 + 2
    assert len(first.lines) == 15 + 7 + 2
    assert "pentagonal bipyramid" in legend_texts(figure)


def test_the_phase_diagram_has_its_threshold_and_the_flows():
    losses, rng = ["mean loss", "weighted by class"], np.random.default_rng(0)
    imbalance, decay = np.geomspace(1, 100, 5), np.geomspace(1e-3, 1e-1, 4)
    cosines = rng.uniform(-0.5, 1, size=(5, 4, 2))
    cosines[0, -1] = np.nan  # where all classifiers are 0
    threshold = 0.1 / imbalance * np.array([[1.0], [0.5]])
    minima = xr.Dataset(
        {
            "cosine": (("imbalance", "decay", "loss"), cosines),
            "threshold": (("loss", "imbalance"), threshold),
        },
        {"imbalance": imbalance, "decay": decay, "loss": losses},
    )
    ends = rng.uniform(-0.5, 1, size=(2, 3))
    flows = xr.Dataset(
        {"measured": (("loss", "factor"), ends), "decay": (("loss", "factor"), np.abs(ends))},
        {"loss": losses, "imbalance": 8.0},
    )
    figure = phase_figure(minima, flows)
    for i, axes in enumerate(figure.axes[:2]):
        np.testing.assert_allclose(line_data(axes)[0], [imbalance, threshold[i]])
        drawn = [np.asarray(colored.get_array(), float) for colored in axes.collections]
        np.testing.assert_allclose(drawn[0], cosines[..., i].T)
        np.testing.assert_allclose(drawn[1], ends[i])
    assert legend_texts(figure) == [
        "exact threshold", "end of a flow, in the colour of its cosine"
    ]  # fmt: skip


def test_kkt_residuals_are_drawn_under_their_bounds():
    rng = np.random.default_rng(0)
    names = ("epsilon", "epsilon_bound", "delta", "delta_bound")
    values = {name: np.exp(rng.normal(size=(3, 9))) for name in names}
    values["epsilon_bound"][:, 0] = np.inf  # before separation
    values["max_margin_ratio"] = rng.uniform(0.1, 0.9, size=(3, 9))
    figure = kkt_figure(flows(("seed",), **values))
    assert titles(figure) == [
        "Stationarity", "Complementary slackness", "Distance from largest margin"
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


def test_seli_figure_shows_what_is_measured_predicted_and_the_limit():
    rng = np.random.default_rng(0)
    names = ("measured", "predicted")
    quantities = ["norm_ratio", "minority_angle"]
    dims = ("ratio", "time", "quantity")
    data = {name: (dims, 1 + rng.uniform(size=(2, 9, 2))) for name in names}
    data["predicted"][1][:, :3] = np.nan  # before there is a prediction
    curves = {
        f"distance_from_{x}": rng.uniform(1e-3, 1, size=(2, 9)) for x in ("limit", "prediction")
    }
    curves |= {x: rng.uniform(0.8, 1, size=(2, 9)) for x in ("value_from_loss", "value_crude")}
    runs = xr.Dataset(
        {
            **data,
            **{name: (("ratio", "time"), values) for name, values in curves.items()},
            "limit": (("ratio", "quantity"), np.array([[1.0, 60.0], [2.0, 50.0]])),
            "value": ("ratio", np.array([3.0, 6.0])),
        },
        {"ratio": [1, 10], "quantity": quantities, "log_time": ("time", LOG_TIMES)},
    )
    figure = seli_figure(runs)
    assert len(figure.axes) == 4
    norms = line_data(figure.axes[0])
    np.testing.assert_allclose(norms[0][1], data["measured"][1][0, :, 0])
    assert len(norms[1][1]) == 6
    np.testing.assert_allclose(np.asarray(figure.axes[1].lines[-1].get_ydata()), 50)
    relative = line_data(figure.axes[3])[2]
    np.testing.assert_allclose(relative[1], curves["value_from_loss"][1] / 6)
    assert legend_texts(figure) == ["R = 1", "R = 10"]
    norms, _, distances, values = figure.axes
    assert legend_texts(norms) == ["measured", "predicted at t", "limit"]
    assert legend_texts(distances) == ["from the limit", "from the prediction at t"]
    assert legend_texts(values) == ["V ≈ L $e^q$", "V ≈ 2Lt log t"]


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
    assert hex_colors(starts) == ["#767676", "#d55e00", "#d55e00"]
    assert legend_texts(starts) == ["others: 1", "below 0.97 at $t = 10^{10557}$: 2"]
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
    assert axes.get_title() == "linear net, t = 4"


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


def test_transient_collapse_shows_contrasts_cosines_and_times():
    rng = np.random.default_rng(0)
    names = ("majority_contrast", "minority_contrast", "minority_cosine_gap")
    values = {name: np.exp(rng.normal(size=(2, 3, 9))) for name in names}
    times = np.array([[2.0, 7.0], [4.0, 14.0]])
    scaled, norms = np.linspace(0, 1.6, 9), np.array([1e-2, 1e-4])
    data = xr.Dataset(
        {
            **{name: (("norm", "seed", "save"), values[name]) for name in names},
            "learned_time": (("norm", "seed", "stage"), np.repeat(times[:, None], 3, axis=1)),
            "predicted_time": (("norm", "stage"), np.log(1 / norms)[:, None] / [4, 1]),
        },
        {
            "norm": norms, "stage": ["majority", "minority"], "scaled_time": ("save", scaled),
            "class_size": ("stage", [16, 1]),
        },
    )  # fmt: skip
    figure = transient_figure(data)
    contrasts, cosines, stages = figure.axes
    for j, name in enumerate(names[:2]):
        for i in range(2):
            drawn = line_data(contrasts)[2 * i + j]
            np.testing.assert_allclose(drawn, [scaled, np.median(values[name][i], axis=0)])
    np.testing.assert_allclose(line_data(cosines)[1][1], np.median(values[names[2]][1], axis=0))
    # The predicted times, log(1/ε)/√16 and log(1/ε)/√1.
    assert [line[0][0] for line in line_data(cosines)[2:]] == [0.25, 1]
    for j in range(2):
        measured, line = line_data(stages)[2 * j : 2 * j + 2]
        np.testing.assert_allclose(measured, [np.log(1 / norms), times[:, j]])
        slope = np.diff(line[1]) / np.diff(line[0])
        np.testing.assert_allclose(slope, [0.25, 1][j])
        np.testing.assert_allclose(line[1][1], measured[1][1])
    assert legend_texts(figure) == [
        "ε = 0.01", "ε = 0.0001", "majorities, n = 16", "minorities, n = 1", "predicted time",
        MEDIAN,
    ]  # fmt: skip


def test_superclasses_shows_contrasts_times_and_cosines():
    rng = np.random.default_rng(0)
    norms, rates = np.array([1e-2, 1e-4]), np.array([2.0, 0.5])
    contrasts = np.exp(rng.normal(size=(2, 2, 3, 9)))
    predicted = np.log(1 / norms)[:, None] / rates
    stages = xr.Dataset(
        {
            "contrast": (("norm", "stage", "seed", "save"), contrasts),
            "learned_time": (("norm", "stage", "seed"), np.repeat(predicted[..., None] + 1, 3, 2)),
            "predicted_time": (("norm", "stage"), predicted),
        },
        {
            "norm": norms, "stage": ["coarse", "fine"], "rate": ("stage", rates),
            "scaled_time": ("save", np.linspace(0, 3, 9)),
        },
    )  # fmt: skip
    dims = ("time", "object", "pair")
    measured = rng.uniform(-1, 1, size=(9, 2, 2))
    late = xr.Dataset(
        {
            "measured": (dims, measured), "predicted": (dims, measured + 0.1),
            "limit": (dims[1:], rng.uniform(-1, 1, size=(2, 2))),
        },
        {
            "log_time": ("time", LOG_TIMES), "object": ["classifiers", "class means"],
            "pair": ["one super-class", "two super-classes"],
        },
    )  # fmt: skip
    figure = superclasses_figure(stages, late)
    curves, times, *cosines = figure.axes
    for i in range(2):
        for j in range(2):
            drawn = line_data(curves)[2 * i + j][1]
            np.testing.assert_allclose(drawn, np.median(contrasts[i, j], axis=0))
            found = line_data(cosines[i])
            np.testing.assert_allclose(found[3 * j][1], measured[:, i, j])
            np.testing.assert_allclose(found[3 * j + 1][1], measured[:, i, j] + 0.1)
            np.testing.assert_allclose(found[3 * j + 2][1], late["limit"][i, j])
        dots, line = line_data(times)[2 * i : 2 * i + 2]
        np.testing.assert_allclose(dots[1], predicted[:, i] + 1)
        np.testing.assert_allclose(np.diff(line[1]) / np.diff(line[0]), 1 / rates[i])


def test_a_network_and_its_models_are_drawn_with_distances_and_parts():
    rng, times = np.random.default_rng(0), np.append(0, np.geomspace(0.01, 30, 8))
    runs, models = ["network", "class kernel", "block kernel"], ["class kernel", "block kernel"]
    names = ("loss", "cdnv", "ji_feature_cosine_gap", "mean_norm")
    values = {name: np.exp(rng.normal(size=(3, 9))) for name in names}
    distances = {name: rng.uniform(0, 1.4, (2, 8)) for name in ("feature", "logit")}
    comparison = xr.Dataset(
        {
            **{name: (("run", "time"), value) for name, value in values.items()},
            **{f"{name}_distance": (("model", "later"), v) for name, v in distances.items()},
        },
        {"t": ("time", times), "run": runs, "model": models},
    )
    parts = ["means by class", "within classes", "between features", "pairs of features"]
    share, fall = rng.uniform(-0.4, 1.2, (2, 2, 4))
    dims = ("end", "part")
    data = xr.Dataset(
        {"share": (dims, share), "fall": (dims, fall)}, {"end": ["start", "end"], "part": parts}
    )
    figure = kernel_figure(comparison, data)
    *measures, apart, bars = figure.axes
    for axes, name in zip(measures, names, strict=True):
        for run in range(3):
            np.testing.assert_array_equal(line_data(axes)[run], [times[1:], values[name][run, 1:]])
        styles = [line.get_linestyle() for line in axes.lines]
        assert styles == ["-", "--", "-."]
    drawn = [line[1] for line in line_data(apart)]
    expected = [distances[name][model] for model in range(2) for name in ("feature", "logit")]
    np.testing.assert_array_equal(drawn, expected)
    assert legend_texts(apart) == ["features", "logits"]
    lengths = [
        patch.get_width()
        for container in bars.containers
        for patch in container.get_children()
        if isinstance(patch, Rectangle)
    ]
    np.testing.assert_allclose(lengths, [*share[0], *share[1], *fall[0]])
    assert legend_texts(bars) == ["squares, start", "squares, end", "fall, start"]


def test_optimisers_have_cosines_over_time_and_ratios_with_their_laws():
    names = ["GD", "Adam", "spectral flow"]
    rng, x = np.random.default_rng(0), np.linspace(0, 3, 31)
    learned = np.ones((2, 3, 2, 5))
    learned[1] = np.array([[2.0, 4.0], [3.0, 8.0], [1.0, 1.0]])[..., None]
    gaps = rng.uniform(0, 1, (3, 2, 5, 31))
    data = xr.Dataset(
        {
            "t": (("optimizer", "ratio", "save"), np.broadcast_to(x, (3, 2, 31))),
            "minority_cosine_gap": (("optimizer", "ratio", "seed", "save"), gaps),
            "learned_time": (("stage", "optimizer", "ratio", "seed"), learned),
            "law": (("optimizer", "ratio"), [[2, 4], [np.nan, np.nan], [1, 1]]),
        },
        {"optimizer": names, "ratio": [4, 16], "stage": ["majority", "minority"]},
    )
    figure = optimisers_figure(data)
    cosines, ratios = figure.axes
    assert cosines.get_title() == "Minority classifiers, R = 16"
    # Of the largest R, from a tenth of t_A on.
    np.testing.assert_allclose(
        line_data(cosines)[0], [x[1:], 1 - np.median(gaps[0, 1, :, 1:], axis=0)]
    )
    # A marker at t_B/t_A.
    assert [line[0].tolist() for line in line_data(cosines)[1::2]] == [[4.0], [8.0], [1.0]]
    drawn = [line[1].tolist() for line in line_data(ratios)]
    assert drawn == [[2, 4], [2, 4], [3, 8], [1, 1], [1, 1]]
    assert legend_texts(figure) == [*names, "law for ε → 0", MEDIAN]
