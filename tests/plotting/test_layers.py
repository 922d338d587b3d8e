"""Figures of several layers, of a deep model and of a network."""

import math

import jax
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
from matplotlib.colors import to_hex
from tolerances import rounding

import nc_jax as nc
from nc_jax import metrics, plotting

TIMES = np.geomspace(1e-2, 1e8, 12)


@pytest.fixture(autouse=True)
def every_figure_has_a_good_layout(monkeypatch):
    figures = record_figures(monkeypatch)
    yield
    # A call that is refused leaves a figure whose panels are empty.
    for figure in (each for each in figures if "" not in titles(each)):
        check_layout(figure)
        check_vector(figure)


def model(layers=3, *, log_times=None, rate=1.0):
    """What a flow of a deep model records: NC1, CDNV, ranks, and two singular values a layer."""
    log_times = np.log1p(TIMES) if log_times is None else log_times
    falling = np.exp(-rate * np.outer(np.log1p(log_times), 0.3 + np.arange(layers)))
    singular = np.stack([1 / falling, 0.5 + 0 * falling], axis=-1)
    return xr.Dataset(
        {
            "layer_nc1": (("time", "layer"), 2 * falling),
            "layer_cdnv": (("time", "layer"), falling),
            "layer_effective_rank": (("time", "layer"), 2 + falling),
            "layer_singular_values": (("time", "layer", "singular_value"), singular),
        },
        {"log_time": ("time", log_times)},
    )


def network(epochs=4):
    """What a `Monitor` records of two layers, the second of which collapses faster."""
    monitor, rng = metrics.Monitor(num_classes=3), np.random.default_rng(0)
    labels = np.arange(60) % 3
    for epoch in range(1, epochs + 1):
        noise = rng.normal(size=(60, 4)) / 2**epoch
        means = np.eye(3, 4)[labels]
        monitor.update({"hidden": means + 4 * noise, "last": means + noise}, labels)
        monitor.result(np.eye(3, 4), epoch=epoch)
    return monitor.dataset


def test_a_layer_has_a_colour_and_a_singular_value_a_curve():
    data = model()
    figure = plotting.layers_figure(data)
    assert titles(figure) == list(plotting.LAYER_PANELS)
    nc1, cdnv, rank, singular = figure.axes
    assert legend_texts(figure) == ["layer 1", "layer 2", "layer 3"]
    for axes, name in ((nc1, "layer_nc1"), (cdnv, "layer_cdnv"), (rank, "layer_effective_rank")):
        assert axes.get_xlabel() == "time t"
        assert axes.get_xscale() == "log"
        for drawn, values in zip(line_data(axes), data[name].values.T, strict=True):
            np.testing.assert_allclose(drawn, [TIMES, values])
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "log", "linear", "log"]
    expected = data["layer_singular_values"].values.transpose(1, 2, 0).reshape(6, -1)
    np.testing.assert_array_equal([y for _, y in line_data(singular)], expected)
    colors = [to_hex(line.get_color()) for line in singular.lines]
    assert colors == [to_hex(line.get_color()) for line in nc1.lines for _ in range(2)]
    assert len(set(colors)) == 3


def test_runs_have_a_style_each_and_layers_of_one_name_a_colour():
    runs = {"linear": model(2), "ReLU": model(3, rate=0.5)}
    figure = plotting.layers_figure(runs, {"NC1": ("layer_nc1",)})
    [axes] = figure.axes
    assert [line.get_linestyle() for line in axes.lines] == ["-", "-", "--", "--", "--"]
    colors = [to_hex(line.get_color()) for line in axes.lines]
    assert colors[:2] == colors[2:4]
    assert legend_texts(figure) == ["layer 1", "layer 2", "layer 3", "linear", "ReLU"]


def test_singular_values_of_several_runs_have_a_panel_each():
    figure = plotting.layers_figure({"linear": model(2), "ReLU": model(2, rate=0.5)})
    *shared, linear, relu = (axes for axes in figure.axes if axes.axison)
    assert titles(figure)[-2:] == ["Singular values, linear", "Singular values, ReLU"]
    assert [len(axes.lines) for axes in shared] == [4, 4, 4]
    assert [line.get_linestyle() for line in linear.lines] == ["-"] * 4
    assert [line.get_linestyle() for line in relu.lines] == ["--"] * 4


def test_times_beyond_the_range_of_floats_are_on_a_log_log_axis():
    figure = plotting.layers_figure(model(log_times=np.geomspace(0.1, 1000 * math.log(10), 9)))
    assert {axes.get_xlabel() for axes in figure.axes} == {"time t (log log scale)"}


def test_the_data_of_a_monitor_is_drawn_by_epoch_with_the_names_of_its_layers():
    data = network()
    figure = plotting.layers_figure(data)
    # A `Monitor` records no effective ranks and no singular values.
    assert titles(figure) == ["Variation within classes", "Class-distance variance"]
    assert {axes.get_xlabel() for axes in figure.axes} == {"epoch"}
    assert legend_texts(figure) == ["hidden", "last"]
    for axes, name in zip(figure.axes, ("zhu_nc1", "cdnv"), strict=True):
        for (x, y), layer in zip(line_data(axes), ("hidden", "last"), strict=True):
            np.testing.assert_array_equal(x, data["epoch"])
            np.testing.assert_allclose(y, data[name].sel(layer=layer))


def test_a_panel_draws_one_measure_of_a_model_and_of_a_network():
    problem = nc.DeepUnconstrainedFeatures((3, 3, 3), (5, 4), activation=jax.nn.relu)
    state = problem.init(jax.random.key(0), norm=2.0)
    features = {str(i): x.features for i, x in enumerate(problem.layers(state))}
    pairs = [pair for pair in plotting.LAYER_PANELS.values() if len(pair) == 2]
    measured = metrics.measure_layers(
        [(np.arange(9), problem.labels)],
        lambda rows: {layer: np.asarray(x)[rows] for layer, x in features.items()},
        num_classes=3, names=[name for _, name in pairs],
    )  # fmt: skip
    monitor = metrics.Monitor(num_classes=3)
    monitor.record(measured, epoch=1)
    observed = problem.observe_only(state, [name for name, _ in pairs])
    for of_model, of_network in pairs:
        assert monitor.dataset[of_network].dims == ("epoch", "layer")
        np.testing.assert_allclose(
            observed[of_model], monitor.dataset[of_network][0], rtol=rounding(operations=10_000)
        )
    assert titles(plotting.layers_figure(monitor.dataset)) == [*plotting.LAYER_PANELS][:3]


@pytest.mark.parametrize("dims", [("seed", "time", "layer"), ("seed", "layer", "time")])
def test_a_batch_of_runs_is_its_median_whatever_the_order_of_dims(dims):
    runs = [model(), model(rate=2.0), model(rate=4.0)]
    data = xr.concat(runs, dim="seed")
    data = data.assign({name: data[name].transpose(*dims, ...) for name in data.data_vars})
    figure = plotting.layers_figure(data)
    for axes, name in zip(figure.axes, ("layer_nc1", "layer_cdnv"), strict=False):
        for i, (_, y) in enumerate(line_data(axes)):
            np.testing.assert_allclose(y, runs[1][name].values[:, i])
    singular = line_data(figure.axes[-1])
    expected = runs[1]["layer_singular_values"].values[:, 2, 1]
    np.testing.assert_allclose(singular[5][1], expected)
    assert legend_texts(figure)[-1] == "median, 10th to 90th percentile"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: plotting.layers_figure(model().isel(layer=0)),
            "runs have no variable over layer in common: give runs that have recorded one of",
        ),
        (
            lambda: plotting.layers_figure({"a": model()}, {"NC1": ("zhu_nc1",)}),
            "runs['a'] has none of zhu_nc1: give variables of the data set, layer_nc1, ",
        ),
        (
            lambda: plotting.layers_figure(
                model().assign(loss=("time", TIMES)), {"loss": ("loss",)}
            ),
            "'loss' has dimensions time: give a variable over layer.",
        ),
        (
            lambda: plotting.layers_figure(model(), {"NC1": "layer_nc1"}),
            "panels['NC1'] = 'layer_nc1': give a tuple of variables",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
