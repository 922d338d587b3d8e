from itertools import combinations

import numpy as np
import pytest
from figure_layout import (
    APART,
    CONES,
    CONTRAST,
    check_layout,
    contrast_with_white,
    lab,
    legend_texts,
    line_data,
)
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nc_jax.plotting import style

X = np.array([1.0, 2.0, 3.0])


@pytest.fixture
def axes():
    return Figure(layout="constrained").subplots()


@pytest.mark.parametrize("count", [1, 2, 5, 7, 8, 40])
def test_shades_contrast_with_white_and_with_each_other(count):
    colors = style.shades(count)
    assert min(contrast_with_white(color) for color in colors) >= CONTRAST
    for cones in CONES.values():
        perceived = np.array([lab(color, cones) for color in colors])
        apart = np.linalg.norm(np.diff(perceived, axis=0), axis=1)
        assert count > 8 or np.all(apart >= APART)


def test_categories_differ_for_all_readers():
    assert min(contrast_with_white(color) for color in style.CATEGORIES) >= CONTRAST
    for cones in CONES.values():
        for first, second in combinations(style.CATEGORIES, 2):
            assert np.linalg.norm(lab(first, cones) - lab(second, cones)) >= APART


def test_names_with_numbers_are_an_ordered_family():
    np.testing.assert_array_equal(style.family_colors([1, 2.5, 4]), style.shades(3))
    names = ["SGD", "Adam", "L-BFGS"]
    assert [to_hex(x) for x in style.family_colors(names)] == list(style.CATEGORIES[:3])
    np.testing.assert_array_equal(style.family_colors(list("abcdef")), style.shades(6))


@pytest.mark.parametrize(
    ("value", "text"), [(1e-9, "10⁻⁹"), (2.5e20, "2.5·10²⁰"), (-0.001, "-0.001"), (64, "64")]
)
def test_powers_of_ten_are_written_as_such(value, text):
    assert style.number_text(value) == text


def test_a_batch_is_its_median_in_a_band_that_the_legend_explains(axes):
    values = np.array([[1.0, 2.0, np.nan], [3.0, np.nan, np.nan], [8.0, 4.0, np.nan]])
    style.draw_curve(axes, X, values, color=style.BLUE)
    # The last save, at which every run has ended, has no median.
    [line] = line_data(axes)
    np.testing.assert_array_equal(line, [[1, 2], [3, 3]])
    [band] = axes.collections
    ends = np.asarray(band.get_paths()[0].vertices)
    np.testing.assert_allclose(ends[:, 1].max(), np.percentile([1, 3, 8], 90))
    style.figure_legend(axes.figure)
    assert legend_texts(axes.figure) == ["median, 10th to 90th percentile"]


def test_one_run_has_no_band(axes):
    style.draw_curve(axes, X, X[None], color=style.BLUE)
    style.draw_range(axes, X, X[None], color=style.BLUE)
    assert len(axes.collections) == 0
    style.figure_legend(axes.figure)
    assert axes.figure.legends == []


def test_the_range_leaves_out_runs_that_stopped_early(axes):
    values = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0], [9.0, np.nan, np.nan]])
    style.draw_range(axes, X, values, color=style.BLUE)
    np.testing.assert_array_equal(line_data(axes)[0], [X, [2, 3, 4]])
    style.draw_range(axes, X, values[2:], color=style.BLUE)
    assert len(axes.lines) == 1


def test_values_above_zero_have_a_logarithmic_axis(axes):
    axes.plot(X, 0 * X)
    style.label_log_panel(axes, "zero", "t", "y")
    assert axes.get_yscale() == "linear"
    axes.plot(X, 2 * X)
    style.label_log_panel(axes, "title", "time t", "std")
    assert axes.get_yscale() == "log"
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("title", "time t", "std")
    axes.figure.draw_without_rendering()
    # Less than a decade has more labels than one power of ten.
    assert len([text for text in axes.get_yticklabels() if text.get_text()]) >= 3


def test_a_legend_of_colours_styles_and_lines_stands_outside_of_the_panels(axes):
    axes.plot(X, X, color=style.ORANGE, label="flow")
    style.label_panel(axes, "title", "t", "y")
    style.panel_legend(axes)
    style.figure_legend(
        axes.figure,
        colors={"d = 3": style.BLUE},
        styles={"descent": "--"},
        lines={"bound": Line2D([], [], color=style.DARK, ls=":")},
    )
    assert legend_texts(axes) == ["flow"]
    assert legend_texts(axes.figure) == ["d = 3", "descent", "bound"]
    [legend] = axes.figure.legends
    lines = [line for line in legend.legend_handles if isinstance(line, Line2D)]
    assert [to_hex(line.get_color()) for line in lines] == [style.BLUE, style.DARK, style.DARK]
    assert [line.get_linestyle() for line in lines] == ["-", "--", ":"]
    check_layout(axes.figure)


def test_the_public_names_of_colours_can_be_read_on_paper():
    for color in (style.BLUE, style.ORANGE, style.GREY, style.DARK):
        assert contrast_with_white(color) >= CONTRAST
