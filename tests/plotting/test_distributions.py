import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from figure_layout import check_layout, legend_texts, line_data, record_figures
from matplotlib.patches import Rectangle
from trainings import training

import nc_jax as nc
from nc_jax import plotting, storage


@pytest.fixture(autouse=True)
def every_figure_has_a_good_layout(monkeypatch):
    figures = record_figures(monkeypatch)
    yield
    for figure in figures:
        check_layout(figure)


def bars(axes):
    return [bar for bar in axes.patches if isinstance(bar, Rectangle)]


def test_margins_are_sorted_at_the_end_of_each_run():
    runs = {"slow": training(0.1), "fast": training(0.5)}
    figure = plotting.sorted_margins_figure(runs)
    [axes] = figure.axes
    for line, data in zip(line_data(axes), runs.values(), strict=True):
        last = np.sort(data["margins"].values[:, -1])
        np.testing.assert_allclose(line, [np.linspace(0, 1, 50), last.mean(axis=0)])
    assert axes.get_title() == "At the last epoch"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("share of samples, by margin", "margin")
    assert legend_texts(figure) == ["slow", "fast", "mean, least to largest"]


def test_margins_of_a_flow_are_sorted_live_and_saved(tmp_path):
    problem = nc.ulpm(3, 4, 2)

    def observe(state):
        logits = state.logits()
        right = jnp.take_along_axis(logits, problem.labels[:, None], 1)
        return {"margins": right[:, 0] - jnp.sort(logits, axis=1)[:, -1]}

    start = problem.init(jax.random.key(0))
    flow = nc.gradient_flow(problem, start, nc.log_times(2, 3), observe=observe)
    storage.save(flow, tmp_path / "flow.zarr")
    expected = np.sort(np.asarray(flow.observables["margins"])[-1])
    for run in (flow, storage.load(tmp_path / "flow.zarr")):
        [axes] = plotting.sorted_margins_figure(run).axes
        np.testing.assert_array_equal(line_data(axes)[0][1], expected)
        assert axes.get_title() == "At the last time"


def test_histograms_show_how_the_margins_of_the_first_seed_move():
    data = training(0.1)
    figure = plotting.histograms_figure(data, num_rows=3)
    rows = figure.axes
    assert [axes.texts[0].get_text() for axes in rows] == ["epoch 0", "epoch 4", "epoch 7"]
    assert figure.get_suptitle() == "Margins of the samples over epochs"
    assert (rows[-1].get_xlabel(), figure.get_supylabel()) == ("margin", "number of samples")
    edges = [*(bar.get_x() for bar in bars(rows[0])), np.inf]
    for axes, epoch in zip(rows, (0, 3, 4), strict=True):
        found = [bar.get_height() for bar in bars(axes)]
        values = data["margins"].values[0, epoch]
        assert sum(found) == 50
        # Rounding of edges may move a sample to the next bar.
        expected = np.histogram(values, edges)[0]
        assert np.abs(np.array(found) - expected).sum() <= 2


def test_histograms_of_a_flow_name_times_and_leave_out_what_was_not_reached():
    values = np.array([[0.0, 1.0], [4.0, 6.0], [np.nan, np.nan]])
    data = xr.Dataset(
        {"outputs": (("time", "sample"), values)}, {"log_time": ("time", np.log1p([0.0, 3.0, 9.0]))}
    )
    figure = plotting.histograms_figure(data, variable="outputs")
    assert [axes.texts[0].get_text() for axes in figure.axes] == ["t = 0", "t = 3"]
    assert figure.get_suptitle() == "Outputs of the samples over time"
    heights = [sum(bar.get_height() for bar in bars(axes)) for axes in figure.axes]
    assert heights == [2, 2]
