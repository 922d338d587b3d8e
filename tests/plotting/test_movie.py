"""The movie of a run: its positions in three dimensions, its frames and its files."""

import builtins
import json
import math
import re
from itertools import combinations

import jax
import matplotlib.colors
import numpy as np
import optax
import pytest
import xarray as xr
from figure_layout import CONTRAST, check_layout, contrast_with_white, overlap
from figures.collapse_movie import sheet_figure
from matplotlib import animation
from PIL import Image
from tolerances import rounding

import nc_jax as nc
from nc_jax import storage
from nc_jax.plotting import collapse_movie, style
from nc_jax.plotting.film import Film
from nc_jax.plotting.frames import axis_ticks, even_saves, power_of_ten
from nc_jax.plotting.scenes import (
    edges,
    marker_sizes,
    path,
    place_labels,
    principal_axes,
    scene,
    trails,
)

CURVES = {"within": "ji_within_class_variation", "angles": "ji_classifier_cosine_gap"}


def flow(num_classes=4, dim=3, decades=80.0, saves=24, **options):
    """A run whose saves are even in log log t."""
    problem = nc.ulpm(num_classes, dim, 2)
    save_at = np.log1p(np.geomspace(0.05, decades * math.log(10), saves))
    options = {"observe": tuple(CURVES.values()), "save_states": True, **options}
    start = problem.init(jax.random.key(1))
    run = nc.gradient_flow(problem, start, save_at, clock=nc.LogLogTime(), rtol=1e-6, **options)
    return problem, run


@pytest.fixture(scope="module")
def movie():
    problem, run = flow()
    stages = {"start": 0.0, "late": 10 * math.log(10)}
    return collapse_movie(run, problem.labels, observables=CURVES, stages=stages, frames=8)


def distances(points):
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def figure_of(page):
    """The figure in a page, as Plotly reads it."""
    [text] = re.findall(r"^const figure = (.*);$", page, flags=re.MULTILINE)
    return json.loads(text)


# Geometry.


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 12])
def test_share_of_the_principal_axes_is_that_of_the_largest_eigenvalues(dim):
    vectors = np.random.default_rng(dim).normal(size=(6, dim))
    axes = principal_axes(vectors)
    values = np.linalg.eigvalsh(vectors.T @ vectors)[::-1]
    np.testing.assert_allclose(axes.share, values[:3].sum() / values.sum(), rtol=rounding())
    held = np.sum((vectors @ axes.directions.T) ** 2) / np.sum(vectors**2)
    np.testing.assert_allclose(held, axes.share, rtol=rounding())
    # Directions beyond d are zero, so that the coordinates there are.
    assert np.all(axes.directions[dim:] == 0)


def test_in_three_dimensions_the_projection_is_a_rotation():
    for seed in range(8):
        vectors = np.random.default_rng(seed).normal(size=(5, 3))
        directions = principal_axes(vectors).directions
        np.testing.assert_allclose(directions @ directions.T, np.eye(3), atol=rounding())
        np.testing.assert_allclose(np.linalg.det(directions), 1, rtol=rounding())
        turned = distances(vectors @ directions.T)
        np.testing.assert_allclose(turned, distances(vectors), rtol=rounding())


def test_the_projection_does_not_depend_on_a_rotation_of_the_features():
    rng = np.random.default_rng(0)
    features, classifiers = rng.normal(size=(3, 8, 5)), rng.normal(size=(3, 4, 5))
    labels = np.repeat(np.arange(4), 2)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    one = scene(features, classifiers, labels)
    other = scene(features @ rotation, classifiers @ rotation, labels)
    for a, b in zip(one[:3], other[:3], strict=True):
        np.testing.assert_allclose(a, b, atol=rounding(operations=1000))


@pytest.mark.parametrize("dim", [3, 7])
def test_collapse_is_a_regular_tetrahedron_at_self_duality_in_any_dimension(dim):
    problem = nc.ulpm(4, dim, 3)
    state = nc.exact.collapsed_state(problem, 5.0, key=jax.random.key(2))
    features, classifier = np.asarray(state.features), np.asarray(state.classifier)
    at = scene(features[None], classifier[None], problem.labels)
    # The sides of a regular tetrahedron whose corners have the distance 1 from its centre.
    sides = distances(at.means[0])[np.triu_indices(4, 1)]
    np.testing.assert_allclose(sides, np.sqrt(8 / 3), rtol=rounding())
    np.testing.assert_allclose(at.classifiers, at.means, atol=rounding())
    np.testing.assert_allclose(at.features[0], at.means[0, problem.labels], atol=rounding())
    np.testing.assert_allclose(at.share, 1, rtol=rounding())


def test_five_classes_in_four_dimensions_show_three_quarters_of_the_simplex():
    state = nc.exact.collapsed_state(nc.ulpm(5, 4, 1), 3.0)
    features, classifier = np.asarray(state.features), np.asarray(state.classifier)
    at = scene(features[None], classifier[None], np.arange(5))
    np.testing.assert_allclose(at.share, 3 / 4, rtol=rounding())
    np.testing.assert_allclose(np.mean(np.sum(at.means[0] ** 2, axis=1)), 3 / 4, rtol=rounding())


def test_two_dimensions_have_no_third_coordinate():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 2)
    at = scene(rng.normal(size=(2, 6, 2)), rng.normal(size=(2, 3, 2)), labels)
    for points in at[:3]:
        assert np.all(points[..., 2] == 0)
        assert np.all(np.any(points[..., :2] != 0, axis=-1))
    assert at.share == pytest.approx(1)


def test_positions_are_relative_to_means_and_norms_of_each_frame():
    rng = np.random.default_rng(1)
    features, classifiers = rng.normal(size=(4, 9, 3)), rng.normal(size=(4, 3, 3))
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 2, 2])
    at = scene(features, classifiers, labels)
    scales = np.array([1.0, 1e-3, 1e6, 1e150])[:, None, None]
    shift = rng.normal(size=(4, 1, 3))
    other = scene(scales * (features + shift), 7 * scales * classifiers, labels)
    for a, b in zip(at[:3], other[:3], strict=True):
        np.testing.assert_allclose(a, b, atol=rounding(operations=1000))
    # The mean square over samples of a class, then over classes, is 1, and is that of the class
    # means plus that within the classes.
    squares = np.sum(at.features**2, axis=2)
    total = np.mean([squares[:, labels == k].mean(axis=1) for k in range(3)], axis=0)
    np.testing.assert_allclose(total, 1, rtol=rounding())
    within = np.sum((at.features - at.means[:, labels]) ** 2, axis=2)
    between = np.mean(np.sum(at.means**2, axis=2), axis=1)
    spread = np.mean([within[:, labels == k].mean(axis=1) for k in range(3)], axis=0)
    np.testing.assert_allclose(between + spread, 1, rtol=rounding())
    np.testing.assert_allclose(np.mean(np.sum(at.classifiers**2, axis=2), axis=1), 1)


def test_a_frame_where_all_points_agree_is_drawn_at_the_origin():
    features = np.stack([np.zeros((4, 3)), np.eye(4, 3)])
    at = scene(features, features, np.arange(4))
    assert np.all(at.means[0] == 0)
    assert np.all(np.isfinite(at.means[1]))


def test_lines_join_all_pairs_and_trails_end_at_their_frame():
    points = np.random.default_rng(0).normal(size=(5, 4, 3))
    lengths = np.linalg.norm(np.diff(edges(points[0]), axis=1)[:, 0], axis=1)
    np.testing.assert_allclose(lengths, distances(points[0])[np.triu_indices(4, 1)])
    line = path(edges(points[0]))
    assert np.isnan(line[2::3]).all()
    assert np.isfinite(line[0::3]).all()
    assert np.isfinite(line[1::3]).all()
    trail = trails(points, 3, 3)
    np.testing.assert_array_equal(trail, points[1:4].swapaxes(0, 1))
    np.testing.assert_array_equal(trails(points, 0, 3), np.repeat(points[0][:, None], 3, axis=1))


def test_classes_at_one_place_have_one_label_and_rings():
    points = np.array([[1.0, 0, 0], [1.0, 0, 0], [-1.0, 0, 0], [-1.0, 0.01, 0], [0, 2.0, 0]])
    assert place_labels(points) == ["1, 2", "", "3, 4", "", "5"]
    assert marker_sizes(points).tolist() == [1.5, 1, 1.5, 1, 1]
    many = marker_sizes(np.ones((9, 3)))
    assert many[0] == 2
    assert np.all(np.diff(many) < 0)


@pytest.mark.parametrize("kind", ["all", "deutan", "protan"])
def test_colors_of_four_classes_differ_also_without_red_and_green(kind):
    # The matrices of Machado, Oliveira and Fernandes (2009) for complete deficiency, in linear RGB.
    matrices = {
        "all": np.eye(3),
        "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    }
    colors = style.class_colors(4)
    rgb = np.array([matplotlib.colors.to_rgb(color) for color in colors])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    perceived = np.clip(linear @ np.array(matrices[kind]).T, 0, 1) ** (1 / 2.2)
    apart = distances(perceived)[np.triu_indices(4, 1)]
    assert apart.min() > 0.12, apart
    assert all(contrast_with_white(color) >= CONTRAST for color in style.class_colors(8))
    assert style.class_colors(9)[8] == style.class_colors(1)[0]


# Frames.


def test_the_sheet_of_frames_can_be_read_in_print(movie):
    check_layout(sheet_figure(movie.frames))


def test_frames_are_at_even_distances_of_log_log_time(movie):
    assert len(movie.frames.positions) == 8
    steps = np.diff(movie.frames.positions)
    # Saves are 1/23 of the axis apart, so that the nearest is within half of that.
    width = np.ptp(movie.frames.positions)
    assert np.all(np.abs(steps - width / 7) <= width / 23 + 1e-9)


def test_no_save_is_drawn_twice():
    problem, run = flow(saves=5)
    frames = collapse_movie(run, problem.labels, frames=40).frames
    assert len(frames.positions) == 5
    positions = np.array([-np.inf, 0.0, 0.1, 5.0, np.nan, 9.0])
    assert even_saves(positions, 10).tolist() == [1, 2, 3, 5]


def test_the_time_of_a_frame_is_a_power_of_ten():
    powers = [-3.2, 0.0, 5.0, 123.0, 1e6]
    log_time = np.logaddexp(0, np.array(powers) * math.log(10))
    axis = nc.plotting.RecordedAxis("time", np.full(5, np.inf), log_time)
    texts = [power_of_ten(axis, i) for i in range(5)]
    assert texts == ["−3.2", "0.0", "5.0", "123", "1000000"]
    steps = nc.plotting.RecordedAxis("step", np.array([0.0, 250.0]), np.log1p([0.0, 250.0]))
    assert power_of_ten(steps, 1) == "250"


def test_ticks_are_at_their_times():
    ticks = axis_ticks("time", np.array([-1.5, 6.5]))
    # log10(1 + 10^power), which is the power itself where 10^power is no float.
    expected = [power if power > 300 else np.log10(1 + 10.0**power) for power in ticks]
    np.testing.assert_allclose([10**at for at in ticks.values()], expected)
    assert 2 <= len(ticks) <= 4
    steps = axis_ticks("step", np.log10([1.0, 501.0]))
    assert list(steps) == [0, 1, 2]
    np.testing.assert_allclose(list(steps.values()), np.log10([2.0, 11.0, 101.0]))


def test_stages_have_letters_in_the_order_of_their_times():
    problem, run = flow(saves=12)
    last = float(run.log_time[-1])
    stages = {"late": 0.9 * last, "early": 0.0}
    frames = collapse_movie(run, problem.labels, stages=stages, frames=12).frames
    assert frames.stage(0) == "a: early"
    assert frames.stage(11) == "b: late"
    assert [mark[0] for mark in frames.marks()] == ["a", "b"]
    assert collapse_movie(run, problem.labels, frames=3).frames.stage(2) == ""


def test_curves_are_those_of_the_run(movie):
    problem, run = flow()
    data = storage.to_dataset(run)
    for title, name in CURVES.items():
        np.testing.assert_array_equal(movie.frames.curves[title], data[name].values)
    default = collapse_movie(data, problem.labels).frames
    assert list(default.curves) == ["within-class variation", "cosines of classifiers"]
    named = collapse_movie(data, problem.labels, observables=["ji_within_class_variation"]).frames
    assert list(named.curves) == ["within class variation"]


def test_a_descent_has_the_numbers_of_its_steps():
    problem = nc.ulpm(3, 2, 2)
    start = problem.init(jax.random.key(0))
    run = nc.gradient_descent(
        problem, start, optax.sgd(0.1), 50, observe=("ji_self_duality",), save_states=True
    )
    movie = collapse_movie(run, problem.labels, frames=5)
    assert movie.frames.axis.values[-1] == 50
    last = movie.still(-1)
    assert "step 50" in last.texts[0].get_text()
    assert last.axes[-1].get_xlabel() == "step (log scale)"


def test_many_features_are_thinned_out_over_all_classes():
    labels = np.repeat(np.arange(4), 500)
    features = np.random.default_rng(0).normal(size=(2, 2000, 3)) + np.eye(4, 3)[labels]
    data = xr.Dataset(
        {
            "state_features": (("time", "sample", "dim"), features),
            "state_classifier": (("time", "class", "dim"), np.ones((2, 1, 1)) * np.eye(4, 3)),
        },
        {"log_time": ("time", [1.0, 2.0])},
    )
    frames = collapse_movie(data, labels, frames=2).frames
    assert frames.scene.features.shape == (2, 400, 3)
    assert np.bincount(frames.scene.labels).min() >= 99
    # Positions are those in the whole set.
    whole = scene(features, data["state_classifier"].values, labels)
    np.testing.assert_array_equal(frames.scene.means, whole.means)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run, labels: collapse_movie(run, labels[:-1]), "labels have 7 entries for 8"),
        (lambda run, labels: collapse_movie(run, labels, frames=1), "frames = 1: give an integer"),
        (lambda run, labels: collapse_movie(run, labels, observables="NC1"), "observables = 'NC1'"),
        (lambda run, labels: collapse_movie(run, labels, observables=["nc1"]), "no variable of"),
        (
            lambda run, labels: collapse_movie(run.expand_dims(seed=2), labels),
            "several runs over seed; give one of them, such as run.isel(seed=0)",
        ),
        (
            lambda run, labels: collapse_movie(run.drop_vars("state_classifier"), labels),
            "has no state_classifier; give a run of a model of unconstrained features with save",
        ),
        (lambda run, labels: collapse_movie(run.isel(time=[3]), labels), "has 1 save with"),
        (lambda run, labels: collapse_movie(run, labels).save("movie.avi"), "'movie.avi': give a"),
        (lambda run, labels: collapse_movie(run, labels, frames=2).still(2), "frame = 2: give an"),
    ],
)
def test_a_wrong_call_is_refused_in_one_line(call, message):
    problem, run = flow(saves=6)
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        call(storage.to_dataset(run), problem.labels)
    assert "\n" not in str(refused.value)


def test_a_run_that_ended_early_is_drawn_up_to_its_end():
    problem, run = flow(saves=10)
    data = storage.to_dataset(run)
    cut = data.where(data["log_time"] < data["log_time"][6])
    frames = collapse_movie(cut, problem.labels, frames=10).frames
    assert len(frames.positions) == 6
    assert np.all(np.isfinite(frames.scene.means))


# Files.


def test_a_gif_has_every_frame_and_repeats(movie, tmp_path):
    with Image.open(movie.save(tmp_path / "movie.gif")) as image:
        assert getattr(image, "n_frames", 1) == 8
        assert image.info["loop"] == 0
        assert image.size == (800, 460)
        durations = []
        for i in range(8):
            image.seek(i)
            durations.append(image.info["duration"])
    assert durations == [80] * 7 + [1200]


def test_texts_of_a_frame_do_not_cover_each_other(movie):
    film = Film(movie.frames)
    for frame in (0, 7):
        film.draw(frame)
        film.figure.draw_without_rendering()
        [legend] = film.figure.legends
        labels = [axes.xaxis.label for axes in film.figure.axes[1:]]
        texts = [*film.figure.texts, *legend.get_texts(), *labels]
        shown = [text for text in texts if text.get_text()]
        for first, second in combinations(shown, 2):
            assert not overlap(first, second), (first.get_text(), second.get_text())
        for text in shown:
            box = text.get_window_extent()
            assert 0 <= box.x0 < box.x1 <= 800
            assert 0 <= box.y0 < box.y1 <= 460


def test_the_page_has_its_frames_and_asks_no_other_host(movie, tmp_path):
    page = movie.save(tmp_path / "movie.html").read_text(encoding="utf-8")
    for hook in ("collapse-movie", "collapse-movie-play", "collapse-movie-slider"):
        assert page.count(f'id="{hook}"') == 1
    assert not re.search(r"<(script|link|img|iframe)[^>]*\s(src|href)=\"(?!data:)", page)
    figure = figure_of(page)
    assert [frame["name"] for frame in figure["frames"]] == [str(i) for i in range(8)]
    first, last = figure["frames"][0], figure["frames"][-1]
    assert "a: start" in first["layout"]["title"]["text"]
    assert "b: late" in last["layout"]["title"]["text"]
    assert figure["layout"].get("sliders", []) == []
    titles = [text["text"] for text in figure["layout"]["annotations"]]
    assert "3 principal directions hold 100 %" in titles
    assert set(CURVES) <= set(titles)


def test_the_interactive_figure_has_the_positions_a_button_and_a_slider(movie):
    figure = movie.figure()
    assert [button.label for button in figure.layout.updatemenus[0].buttons] == ["Play", "Pause"]
    assert len(figure.layout.sliders[0].steps) == len(figure.frames) == 8
    for i, frame in enumerate(figure.frames):
        [means] = [trace for trace in frame.data if trace.name == "class mean"]
        [rows] = [trace for trace in frame.data if trace.name == "classifier"]
        for trace, points in (
            (means, movie.frames.scene.means),
            (rows, movie.frames.scene.classifiers),
        ):
            np.testing.assert_allclose(
                np.stack([trace.x, trace.y, trace.z], 1), points[i], atol=1e-6
            )
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert shown == ["class mean", "classifier", "feature", "class means at the end"]


def test_a_notebook_shows_the_page(movie):
    shown = movie._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert "collapse-movie-play" in shown
    assert "<script>" not in shown  # escaped in the attribute srcdoc


def test_without_plotly_a_line_names_the_extra(movie, monkeypatch, tmp_path):
    load = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.startswith("plotly"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return load(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    message = re.escape('pip install "nc_jax[interactive]"')
    with pytest.raises(ModuleNotFoundError, match=message):
        movie.save(tmp_path / "movie.html")
    assert not (tmp_path / "movie.html").exists()


def test_without_ffmpeg_an_mp4_ends_in_a_line(movie, monkeypatch, tmp_path):
    monkeypatch.setattr(animation.FFMpegWriter, "isAvailable", classmethod(lambda cls: False))
    with pytest.raises(RuntimeError, match="ffmpeg is not installed; save as"):
        movie.save(tmp_path / "movie.mp4")
