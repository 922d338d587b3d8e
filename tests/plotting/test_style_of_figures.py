"""What every figure obeys in print, that the checks find a figure which breaks it, and vectors."""

import ast
import io
import math
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray as xr
from figure_layout import check_layout, check_vector, legend_texts
from figures.losses import losses_figure
from figures.measure_features import features_figure
from figures.network_spectrum import PART_COLORS, spectrum_figure
from figures.torch_loop import depth_figure, epochs_figure
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from trainings import training

from nc_jax import plotting
from nc_jax.plotting import style

ROOT = Path(__file__).parents[2]
LOG_TIMES = np.geomspace(0.1, 1e3 * math.log(10), 12)
RNG = np.random.default_rng(0)


def good_figure():
    """Two curves with a band, a legend and labels."""
    figure = style.PaperFigure(2.4, width=style.COLUMN)
    axes = figure.subplots()
    with style.paper():
        x = np.array([1.0, 2.0, 3.0])
        style.draw_curve(axes, x, np.stack([x, x + 1, x + 3]), color=style.BLUE, label="flow")
        axes.plot(x, x, color=style.ORANGE, ls="--", label="limit")
        style.label_panel(axes, "title", "time t", "loss")
        style.panel_legend(axes)
        style.figure_legend(figure)
    return figure, axes


def test_a_figure_in_this_style_passes():
    figure, _ = good_figure()
    check_layout(figure)
    check_vector(figure)


def two_entries(axes, first, second):
    axes.plot([1, 2], [1, 2], color=first, label="first")
    axes.plot([1, 2], [2, 3], color=second, label="second")
    style.panel_legend(axes)


BROKEN = {
    "no label": (lambda axes: axes.set_xlabel(""), "x axis has no label"),
    "small font": (lambda axes: axes.yaxis.label.set_fontsize(6), "'loss' is too small"),
    "small exponent": (lambda axes: axes.set_xlabel("$10^{10^4}$"), "glyphs of 3.9 points"),
    "wide figure": (lambda axes: axes.figure.set_figwidth(14), "is too small"),
    "offset": (
        lambda axes: (axes.ticklabel_format(useOffset=5.0, axis="y"), axes.set_ylim(1, 2)),
        "the ticks hide",
    ),
    "pale": (lambda axes: axes.plot([1, 2], [1, 2], color="#e69f00"), "too pale"),
    "red and green": (lambda axes: two_entries(axes, "#d02020", "#309820"), "with deuteranopia"),
    "red and dark green": (lambda axes: two_entries(axes, "#f02020", "#006820"), "with protanopia"),
    "same entries": (lambda axes: two_entries(axes, style.BLUE, style.BLUE), "with all cones"),
    "style": (lambda axes: axes.plot([1, 3], [2, 2], ls=":", color="black"), "':' is in no leg"),
    "marker": (lambda axes: axes.plot([1, 3], [2, 2], "v", color="black"), "'v' is in no legend"),
    "band": (
        lambda axes: axes.fill_between([1, 2], 0, 1).set_label("_band:something else"),
        "a band without words",
    ),
    "legend": (lambda axes: axes.legend(loc="upper left"), "hides data"),
    "ticks": (lambda axes: axes.set_xticks(np.linspace(1, 3, 30)), "overlap"),
    "text": (lambda axes: axes.text(0.5, 1, "title", transform=axes.transAxes), "overlap"),
    "cut off": (lambda axes: axes.figure.text(0.97, 0.5, "beyond"), "'beyond' is cut off"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_the_checks_find_what_a_figure_breaks(name):
    spoil, message = BROKEN[name]
    figure, axes = good_figure()
    spoil(axes)
    with pytest.raises(AssertionError, match=message):
        check_layout(figure)


def test_the_checks_find_texts_drawn_as_paths_and_large_images():
    figure, axes = Figure(), good_figure()[1]
    figure.subplots().set_title("title")
    with pytest.raises(AssertionError, match="'title' is not a text"):
        check_vector(figure)
    axes.imshow(RNG.uniform(size=(400, 400)), extent=(1, 3, 1, 6), aspect="auto")
    with pytest.raises(AssertionError, match="an image of"):
        check_vector(axes.figure)  # pyright: ignore[reportArgumentType]


def figure_functions():
    """Names of all functions of the package and of the examples that draw a figure."""
    folders = ROOT / "nc_jax" / "plotting", ROOT / "examples" / "figures"
    for path in [path for folder in folders for path in folder.glob("*.py")]:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.endswith("_figure"):
                yield node.name


def test_every_figure_is_drawn_by_a_test_that_checks_it():
    texts = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    checked = " ".join(text for text in texts if "check_layout(" in text)
    names = set(figure_functions())
    assert len(names) > 20
    assert [name for name in sorted(names) if f"{name}(" not in checked] == []


def flow(dims=(), coords=None, **variables):
    """Runs over some axes and time, with decreasing values that differ by run."""
    shape = [len(coords[dim]) if coords and dim in coords else 3 for dim in dims]
    values = np.exp(-np.sqrt(LOG_TIMES)) * RNG.uniform(1, 2, size=(*shape, 1))
    drawn = {name: ((*dims, "time"), values * scale) for name, scale in variables.items()}
    return xr.Dataset(drawn, {**(coords or {}), "log_time": ("time", LOG_TIMES)})


def measures(panels):
    return {name: 1 + i for i, name in enumerate(n for each in panels.values() for n in each)}


def package_figures():
    """Each figure of the package with small data."""
    ji, mixon = measures(plotting.JI_PANELS), measures(plotting.MIXON_PANELS)
    run, norms = flow(("seed",), **ji), {"norm": [1.0, 1e-2, 1e-5]}
    two = {"SGD": training(0.1), "L-BFGS": training(0.4)}
    slopes = {"ji_self_duality": -1.0, "ji_within_class_variation": -0.5}
    yield plotting.collapse_figure({"flow": run, "descent": flow(**ji)}, slopes=slopes)
    swept = flow(("norm", "seed"), norms, **mixon)
    yield plotting.sweep_figure({"flow": swept, "gd": swept}, plotting.MIXON_PANELS, by="norm")
    norms = ("ji_feature_norm_variation", "ji_classifier_norm_variation")
    names = {"norms": norms, "accuracy": ("train_accuracy",), "margin": ("margin_min",)}
    panels = names | {f"NC1, {i}": ("zhu_nc1",) for i in range(4)}
    yield plotting.training_figure(two, panels, models={"SGD": flow(zhu_nc1=1)})
    yield plotting.sorted_margins_figure(two)
    yield plotting.histograms_figure(two["SGD"])


def test_figures_of_the_package_whatever_the_users_settings():
    settings = {"font.size": 20, "svg.fonttype": "path", "axes.linewidth": 3, "legend.fontsize": 5}
    with matplotlib.rc_context(settings):  # pyright: ignore[reportArgumentType]
        before = dict(matplotlib.rcParams)
        for figure in package_figures():
            assert figure.get_figwidth() in (style.COLUMN, style.PAGE)
            check_layout(figure)
            check_vector(figure)
        assert dict(matplotlib.rcParams) == before


def test_a_pdf_has_truetype_fonts():
    figure, _ = good_figure()
    for save in (figure.savefig, Figure.savefig.__get__(figure)):
        file = io.BytesIO()
        save(file, format="pdf")
        is_truetype = b"/Type3" not in file.getvalue()
        assert is_truetype == (save == figure.savefig)


def test_losses_have_a_colour_and_a_style_each():
    names = ["cross-entropy", "focal, γ = 1", "label smoothing, α = 0.1", "squared error"]
    variables = ("margin_min", "predicted_gap", "ji_within_class_variation", "zhu_nc2")
    runs = {name: flow(**dict.fromkeys([*variables, "log_share"], i + 1)) for i, name in
            enumerate(names)}  # fmt: skip
    runs[names[-1]] = runs[names[-1]].drop_vars("log_share")
    figure = losses_figure(runs)
    assert legend_texts(figure) == [*names, "predicted gap"]
    check_layout(figure)
    check_vector(figure)


def test_measures_of_layers_by_epoch_and_depth():
    depth = {"first": "first block", "second": "second block", "third": "last layer"}
    names = ("zhu_nc1", "cdnv", "ji_feature_cosine_gap", "zhu_nc2", "zhu_nc3", "zhu_nc4")
    values = np.exp(-0.1 * np.arange(30))[:, None] * RNG.uniform(1, 3, size=(30, 3))
    variables = dict.fromkeys((*names, "effective", "stable"), (("epoch", "layer"), values))
    data = xr.Dataset(variables, {"epoch": np.arange(30), "layer": list(depth)})
    by_depth = depth_figure(data, depth, ("effective", "stable"))
    assert legend_texts(by_depth)[0] == "epoch 0"
    for figure in (by_depth, epochs_figure(data, depth)):
        check_layout(figure)
        check_vector(figure)


def test_spectra_and_measures_of_classes():
    kinds = {"kind": ["Hessian", "Gauss-Newton"], "part": list(PART_COLORS)}
    kinds["layer"] = ["all layers", "convolutions.0", "head"]
    largest = np.sort(RNG.uniform(1, 60, size=(2, 8)))[:, ::-1]
    grid = np.linspace(-10, 60, 200)
    spectrum = xr.Dataset(
        {
            "grid": (("kind", "point"), np.stack([grid, grid])),
            "density": (("kind", "point"), np.exp(-np.abs(np.stack([grid, grid + 1])) / 4)),
            "largest": (("kind", "number"), largest),
            "sharpness": (("kind", "layer"), RNG.uniform(1, 50, size=(2, 3))),
            "part_value": (("number", "part"), RNG.uniform(0, 9, size=(8, 4))),
            "class_value": ("c", largest[0, :3]), "cross_value": ("x", largest[0, 3:6]),
        },
        kinds,
    )  # fmt: skip
    pairs = ("class", "other_class")
    classes = xr.Dataset(
        {
            "feature_cosine_by_pair": (pairs, RNG.uniform(-0.3, 0.2, size=(10, 10))),
            "cdnv_by_pair": (pairs, RNG.uniform(0.01, 2, size=(10, 10))),
            "relative_variance_by_class": ("class", RNG.uniform(size=10)),
            "singular_values": ("k", np.linspace(1, 0.6, 9)),
        },
        {"class": [f"class {i}" for i in range(10)]},
    )
    for figure in (spectrum_figure(spectrum), features_figure(classes)):
        check_layout(figure)
        check_vector(figure)


def test_a_user_s_figure_in_this_style_passes():
    before = matplotlib.rcParams["font.size"]
    with style.paper():
        figure = Figure()
        axes = figure.subplots()
        axes.plot([1, 2], [1e-7, 2e-7], color=style.GREEN)
        axes.plot([1, 2], [2e-7, 3e-7], color=style.PURPLE)
        style.label_panel(axes, "title", "epoch", "loss")
        lines = {"a": Line2D([], [], color=style.GREEN), "b": Line2D([], [], color=style.PURPLE)}
        style.panel_legend(axes, lines=lines)
        check_layout(figure)
        check_vector(figure)
    assert figure.get_figwidth() == style.COLUMN
    assert matplotlib.rcParams["font.size"] == before
