import math

import jax
import matplotlib.colors
import numpy as np
import pytest

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
    batch = jax.vmap(run)(np.arange(5))
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
