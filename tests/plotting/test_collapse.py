import math

import jax
import matplotlib.colors
import numpy as np
import optax
import pytest
import xarray as xr
from figure_layout import check_layout, legend_texts, line_data, record_figures, titles
from tolerances import integration

import nc_jax as nc
from nc_jax import plotting, storage

PROBLEM = nc.ulpm(3, 4, 2)
TIMES = nc.log_times(20, 9, start_log10=-1)
DECADES = TIMES / math.log(10)
# A logarithmic axis of log10(1 + t) begins at t = 1.
DRAWN = math.log10(2) < DECADES
PANELS = [
    "(a) Variation of the norms", "(b) Within-class variation", "(c) Cosines between pairs",
    "(d) Self-duality",
]  # fmt: skip
MEASURES = [
    "ji_feature_norm_variation", "ji_within_class_variation", "ji_feature_cosine_gap",
    "ji_self_duality",
]  # fmt: skip
SNC = ("mixon_snc1", "mixon_snc2", "mixon_snc3", "mixon_distance_to_s")


@pytest.fixture(autouse=True)
def every_figure_has_a_good_layout(monkeypatch):
    figures = record_figures(monkeypatch)
    yield
    for figure in figures:
        check_layout(figure)


def run(key):
    return nc.gradient_flow(PROBLEM, PROBLEM.init(key), TIMES)


@pytest.fixture(scope="module")
def single():
    return run(jax.random.key(0))


@pytest.fixture(scope="module")
def descent():
    start, saves = PROBLEM.init(jax.random.key(0)), np.array([0, 1, 10, 40])
    return nc.gradient_descent(PROBLEM, start, optax.sgd(0.1), 40, save_steps=saves)


def test_panels_show_the_four_measures_on_log_log_time(single):
    figure = plotting.collapse_figure(single, slopes={"ji_self_duality": -1.0})
    assert titles(figure) == PANELS
    for axes, name in zip(figure.axes, MEASURES, strict=True):
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert axes.get_xlabel() == "time t (log log scale)"
        x, y = line_data(axes)[0]
        np.testing.assert_allclose(x, DECADES[DRAWN])
        np.testing.assert_array_equal(y, single.observables[name][DRAWN])
    assert figure.axes[0].get_ylabel() == "std / mean of the norms"
    assert legend_texts(figure.axes[0]) == ["class means", "classifier"]
    assert legend_texts(figure.axes[3]) == ["means against classifier", "1/log t"]
    guide = np.log(line_data(figure.axes[3])[-1])
    np.testing.assert_allclose(np.diff(guide[1]) / np.diff(guide[0]), -1)


def test_a_live_a_saved_and_a_swept_flow_give_one_figure(tmp_path):
    def setting(key):
        return nc.Flow(PROBLEM, TIMES), PROBLEM.init(key)

    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(np.arange(3))
    live = nc.Flow(PROBLEM, TIMES).batch(jax.vmap(PROBLEM.init)(keys))
    swept = nc.sweep(setting, 3, key=jax.random.key(0), path=tmp_path / "sweep.zarr")
    storage.save(live, tmp_path / "flow.zarr")
    expected = plotting.collapse_figure(live)
    for runs in (
        storage.to_dataset(live),
        storage.load(tmp_path / "flow.zarr"),
        swept,
        storage.load(tmp_path / "sweep.zarr"),
    ):
        figure = plotting.collapse_figure(runs)
        assert titles(figure) == titles(expected)
        assert legend_texts(figure) == ["median, 10th to 90th percentile"]
        for axes, other in zip(figure.axes, expected.axes, strict=True):
            assert axes.get_xlabel() == other.get_xlabel()
            for found, line in zip(line_data(axes), line_data(other), strict=True):
                np.testing.assert_allclose(found, line, rtol=integration(1e-8))
    for axes, name in zip(expected.axes, MEASURES, strict=True):
        median = np.median(live.observables[name], axis=0)[DRAWN]
        np.testing.assert_allclose(line_data(axes)[0], [DECADES[DRAWN], median])


def test_a_descent_is_drawn_over_its_steps(descent, tmp_path):
    storage.save(descent, tmp_path / "descent.zarr")
    figures = [
        plotting.collapse_figure({"SGD": each}, slopes={"ji_self_duality": -1.0})
        for each in (descent, storage.load(tmp_path / "descent.zarr"))
    ]
    for figure in figures:
        for axes, name in zip(figure.axes, MEASURES, strict=True):
            assert axes.get_xlabel() == "step"
            expected = [[1, 10, 40], descent.observables[name][1:]]
            np.testing.assert_array_equal(line_data(axes)[0], expected)


def test_a_descent_on_the_time_of_a_flow_is_drawn_with_it(single, descent):
    with pytest.raises(ValueError, match="'flow' over time, 'SGD' over step") as error:
        plotting.collapse_figure({"flow": single, "SGD": descent})
    assert "\n" not in str(error.value)
    scaled = descent.with_time_scaled(0.2)
    axes = plotting.collapse_figure({"flow": single, "SGD": scaled}).axes[3]
    np.testing.assert_allclose(line_data(axes)[1][0], np.log10([3, 9]))


def test_a_training_is_drawn_over_its_epochs():
    falling = ("epoch", [4.0, 2.0, 1.0])
    names = {name for panel in plotting.JI_PANELS.values() for name in panel}
    data = xr.Dataset(dict.fromkeys(names, falling), {"epoch": [0, 1, 2]})
    for axes in plotting.collapse_figure(data).axes:
        assert axes.get_xlabel() == "epoch"
        np.testing.assert_array_equal(line_data(axes)[0], [[1, 2], [2, 1]])


def test_runs_differ_by_line_style_and_quantities_by_colour(single):
    figure = plotting.collapse_figure({"flow": single, "descent": single})
    lines = figure.axes[0].lines
    assert [line.get_linestyle() for line in lines] == ["-", "-", "--", "--"]
    colors = [matplotlib.colors.to_hex(line.get_color()) for line in lines]
    assert colors[0] == colors[2] != colors[1] == colors[3]
    assert legend_texts(figure.axes[0]) == [
        "class means, flow", "classifier, flow", "class means, descent", "classifier, descent"
    ]  # fmt: skip


def test_the_median_of_a_grid_is_over_all_its_runs(single):
    data = storage.to_dataset(single)
    factors = xr.DataArray([[1.0, 2.0, 3.0], [4.0, 5.0, 60.0]], dims=("rate", "seed"))
    name = "ji_within_class_variation"
    grid = data.assign(
        {name: factors * data[name] for name in data.data_vars if "ji_" in str(name)}
    )
    axes = plotting.collapse_figure(grid).axes[1]
    np.testing.assert_allclose(line_data(axes)[0][1], 3.5 * data[name].values[DRAWN])
    [band] = axes.collections
    ends = np.asarray(band.get_paths()[0].vertices)[:, 1]
    # The 90th percentile of 1, 2, 3, 4, 5, 60 lies half way between the last two.
    np.testing.assert_allclose(ends.max(), 32.5 * data[name].values[DRAWN].max())


def test_tick_labels_are_powers_of_ten_at_any_time(single):
    axes = plotting.collapse_figure(single).axes[0]
    label = axes.xaxis.get_major_formatter()
    assert [label(x) for x in (1, 1000, 3200, 10_000, 1e6)] == [
        "$10^{1}$", "$10^{1000}$", "$10^{3200}$", r"$10^{10\,000}$", r"$10^{1\,000\,000}$"
    ]  # fmt: skip


def over_norms(times):
    """Runs over (2 norms, 3 seeds) with random errors."""
    rng = np.random.default_rng(0)
    shape = (2, 3, len(times))
    return xr.Dataset(
        {name: (("norm", "seed", "time"), np.exp(rng.normal(size=shape))) for name in SNC},
        {"norm": [1.0, 0.1], "seed": [0, 1, 2], "log_time": ("time", np.log1p(times))},
    )


def test_a_sweep_has_a_colour_a_value_and_a_style_a_run():
    times = np.linspace(0, 5, 6)
    data = over_norms(times)
    # Runs that an event has ended: one of norm 1 after t = 3, all of norm 0.1 after t = 4.
    for name in SNC:
        data[name].values[0, 1, 4:] = data[name].values[1, :, 5:] = np.nan
    runs = {"flow": data, "gd": data}
    figure = plotting.sweep_figure(runs, plotting.MIXON_PANELS, by="norm")
    assert titles(figure) == list(plotting.MIXON_PANELS)
    for axes, name in zip(figure.axes, SNC, strict=True):
        for line, values in zip(line_data(axes)[:2], data[name].values, strict=True):
            drawn = np.isfinite(values).any(axis=0)
            median = np.nanmedian(values[:, drawn], axis=0)
            np.testing.assert_allclose(line, [times[drawn], median], atol=1e-12)
        assert [line.get_linestyle() for line in axes.lines] == ["-", "-", "--", "--"]
        assert axes.lines[0].get_color() == pytest.approx(axes.lines[2].get_color())
        assert axes.lines[0].get_color() != pytest.approx(axes.lines[1].get_color())
        assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
        assert axes.get_xlabel() == "time t"
    assert figure.axes[2].get_ylabel() == "‖b − 1/K‖"
    assert legend_texts(figure) == [
        "norm = 1", "norm = 0.1", "flow", "gd", "median, 10th to 90th percentile"
    ]  # fmt: skip


def test_values_that_runs_share_have_one_colour():
    data = over_norms(np.linspace(0, 5, 6))
    runs = {"all": data, "small": data.isel(norm=[1])}
    figure = plotting.sweep_figure(runs, {"SNC1": ("mixon_snc1",)}, by="norm")
    large, small, again = figure.axes[0].lines
    assert small.get_color() == pytest.approx(again.get_color())
    assert large.get_color() != pytest.approx(again.get_color())
    assert legend_texts(figure)[:2] == ["norm = 1", "norm = 0.1"]


def test_several_variables_of_a_panel_are_in_its_legend():
    data = over_norms(np.linspace(0, 5, 6))
    panels = {"SNC1 and SNC2": ("mixon_snc1", "mixon_snc2"), "SNC3": ("mixon_snc3",)}
    [both, one] = plotting.sweep_figure(data, panels, by="norm").axes
    assert legend_texts(both) == ["mixon snc1", "mixon snc2"]
    assert legend_texts(one) == ["mixon snc3"]
    [both, _] = plotting.sweep_figure({"a": data, "b": data}, panels, by="norm").axes
    assert legend_texts(both) == [
        "mixon snc1, a", "mixon snc2, a", "mixon snc1, b", "mixon snc2, b"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("log_end", "scale", "label", "place"),
    [
        (math.log1p(1000.0), "linear", "time t", 1000.0),
        (math.log1p(1e6), "log", "time t", 1e6),
        (1000 * math.log(10), "log", "time t (log log scale)", 1000.0),
    ],
)
def test_long_runs_are_on_a_log_axis_and_longer_ones_on_a_log_log_axis(
    log_end, scale, label, place
):
    data = over_norms(np.array([0.0, 1.0])).assign_coords(log_time=("time", [0.0, log_end]))
    axes = plotting.sweep_figure(data, {"SNC1": ("mixon_snc1",)}, by="norm").axes[0]
    assert (axes.get_xscale(), axes.get_xlabel()) == (scale, label)
    x = line_data(axes)[0][0]
    np.testing.assert_allclose(x[-1], place)
    assert len(x) == (2 if scale == "linear" else 1)  # 0 has no place on a logarithm


def test_a_batch_over_two_axes_is_named_by_to_dataset():
    grid = jax.jit(jax.vmap(jax.vmap(run)))(jax.random.split(jax.random.key(0), (2, 2)))
    with pytest.raises(ValueError, match="the trajectory has batch shape"):
        plotting.collapse_figure(grid)
    data = storage.to_dataset(grid, runs=("norm", "seed"))
    [line, *_] = line_data(plotting.collapse_figure(data).axes[3])
    median = np.median(grid.observables["ji_self_duality"], axis=(0, 1))
    np.testing.assert_allclose(line[1], median[DRAWN])
