import matplotlib.colors
import numpy as np
import pytest
import xarray as xr
from figure_layout import check_layout, legend_texts, line_data, record_figures, titles
from trainings import EPOCHS, training

from nc_jax import plotting, storage

PANELS = {
    "norms": ("ji_feature_norm_variation", "ji_classifier_norm_variation"),
    "NC1": ("zhu_nc1",), "accuracy": ("train_accuracy",), "margin": ("margin_min",),
}  # fmt: skip
# Epochs of a model's flow, whose first time is below epoch 1 and last beyond the training.
MODEL_EPOCHS = np.array([0.5, 1.0, 2.5, 6.0, 90.0])


@pytest.fixture(autouse=True)
def every_figure_has_a_good_layout(monkeypatch):
    figures = record_figures(monkeypatch)
    yield figures
    for figure in figures:
        check_layout(figure)


def model():
    """A flow that lacks the accuracy of a training."""
    names = [name for variables in PANELS.values() for name in variables]
    falling = ("time", np.exp(-MODEL_EPOCHS / 9))
    data = xr.Dataset(dict.fromkeys(names, falling), {"log_time": ("time", np.log1p(MODEL_EPOCHS))})
    return data.drop_vars("train_accuracy")


def test_trainings_have_a_colour_each_and_variables_a_style():
    runs = {"slow": training(0.1), "fast": training(0.5)}
    # "free" is a model without a run.
    figure = plotting.training_figure(runs, PANELS, models={"slow": model(), "free": model()})
    assert titles(figure) == list(PANELS)
    norms, nc1, accuracy, margin = figure.axes
    # Features and classifiers are two styles in a network and two more in a model.
    styles = [line.get_linestyle() for line in norms.lines]
    assert styles == ["-", "-", ":", ":", "--", "--", "-.", "-."]
    assert legend_texts(norms) == [
        "feature norm variation", "classifier norm variation", "feature norm variation, model",
        "classifier norm variation, model",
    ]  # fmt: skip
    slow, fast, flow, free = nc1.lines
    # Epoch 0 has no place on a log axis; the median of two seeds is their mean.
    expected = [EPOCHS[1:], runs["slow"]["zhu_nc1"].mean("seed")[1:]]
    np.testing.assert_allclose(line_data(nc1)[0], expected)
    np.testing.assert_allclose(line_data(nc1)[2][0], [1, 2.5, 6])
    assert matplotlib.colors.to_hex(slow.get_color()) != matplotlib.colors.to_hex(fast.get_color())
    np.testing.assert_array_equal(slow.get_color(), flow.get_color())
    assert free.get_color() == "black"
    assert len(accuracy.lines) == 2
    assert [axes.get_yscale() for axes in (nc1, accuracy, margin)] == ["log", "linear", "linear"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["epoch"] * 4
    assert accuracy.get_ylabel() == "accuracy"
    # A smallest margin below 0 has its place, on a linear scale where all are small.
    assert margin.get_ylim()[0] < line_data(margin)[0][1][0] < 0
    assert legend_texts(figure) == [
        "slow",
        "fast",
        "model's flow",
        "median, 10th to 90th percentile",
    ]
    figure.draw_without_rendering()
    # Less than a decade has labels, and not one upon another.
    labels = [label.get_text() for label in nc1.get_xticklabels()]
    assert {"1", "2", "5"} <= set(labels)
    assert not nc1.get_xticklabels(minor=True)


def test_a_saved_training_gives_the_same_figure(tmp_path):
    storage.save(training(0.1), tmp_path / "results.zarr")
    found = plotting.training_figure(storage.load(tmp_path / "results.zarr"), PANELS)
    expected = plotting.training_figure(training(0.1), PANELS)
    for axes, other in zip(found.axes, expected.axes, strict=True):
        for line, same in zip(line_data(axes), line_data(other), strict=True):
            np.testing.assert_array_equal(line, same)
    assert legend_texts(found) == ["run", "median, 10th to 90th percentile"]


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


@pytest.mark.parametrize("ratio", [1.1, 1.3, 3.0, 8.0, 30.0])
def test_a_logarithmic_axis_of_any_length_has_several_labels(ratio):
    values = xr.DataArray(np.geomspace(0.9, 0.9 * ratio, 5)[None], dims=("seed", "epoch"))
    data = training(0.1).isel(seed=[0]).assign(zhu_nc3=values)
    figure = plotting.training_figure({"run": data}, {"NC3": ("zhu_nc3",)})
    [axes] = figure.axes
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    inside = [text for text in axes.get_yticklabels() if low <= text.get_position()[1] <= high]
    assert len([text for text in inside if text.get_text()]) >= 3


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
        assert legend_texts(drawn)[:5] == entries


def test_more_runs_than_line_styles_repeat_them_and_a_legend_has_those_of_the_first_variable(
    every_figure_has_a_good_layout,
):
    runs = {("start", f"decay {j}"): training(0.1) for j in range(5)}
    figure = plotting.training_figure(runs, {name: PANELS[name] for name in ("norms", "NC1")})
    norms, nc1 = ([line.get_linestyle() for line in axes.lines] for axes in figure.axes)
    assert nc1 == norms[:5] == ["-", "--", ":", "-.", "-"]
    legend = [line.get_linestyle() for line in figure.legends[0].get_lines()]
    assert legend[-6:-1] == nc1 or legend[-5:] == nc1
    # Five names share four styles, so that two entries look the same.
    every_figure_has_a_good_layout.clear()


def colors_of_names(count):
    """The colours of names that are strings."""
    figure = plotting.sorted_margins_figure({f"{i}": training(0.1) for i in range(count)})
    return [matplotlib.colors.to_hex(line.get_color()) for line in figure.axes[0].lines]
