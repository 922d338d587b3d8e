"""Movies and pages of runs that are empty, unsorted, repeated, failed or named in unusual ways."""

import base64
import builtins
import json
import re

import jax
import numpy as np
import optax
import pytest
import xarray as xr

import nc_jax as nc
from nc_jax import storage
from nc_jax.plotting import collapse_movie, explore
from nc_jax.plotting.film import Film
from nc_jax.plotting.frames import value_range
from nc_jax.plotting.interactive import plotly_movie

PROBLEM = nc.ulpm(3, 3, 2)
LABELS = PROBLEM.labels
OBSERVED = ("zhu_nc1", "margin_min", "objective", "zhu_nc2")


@pytest.fixture(scope="module")
def descent():
    """A run without Ji's measures."""
    start = PROBLEM.init(jax.random.key(0))
    run = nc.gradient_descent(PROBLEM, start, optax.sgd(0.1), 8, observe=OBSERVED, save_states=True)
    data = storage.to_dataset(run)
    return data.assign(margins=(("step", "sample"), np.ones((9, 6))))


def content(page):
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.html)
    return json.loads(text)


# Movies.


@pytest.mark.parametrize("name", ["state_features", "margins"])
def test_a_curve_is_a_variable_over_time_alone(descent, name):
    with pytest.raises(ValueError, match=f"'{name}' has dimensions step, .*over step alone") as e:
        collapse_movie(descent, LABELS, observables=(name,))
    assert "\n" not in str(e.value)


def test_a_save_with_a_classifier_that_is_not_finite_is_left_out(descent):
    data = descent.copy(deep=True)
    data["state_classifier"][{"step": slice(5, None)}] = np.nan
    frames = collapse_movie(data, LABELS).frames
    assert frames.axis.values.max() == 4
    assert np.isfinite(frames.scene.classifiers).all()
    data["state_classifier"][{"step": slice(1, None)}] = np.nan
    with pytest.raises(ValueError, match=r"has 1 save with a finite state; give"):
        collapse_movie(data, LABELS)


def test_saves_in_reverse_order_give_the_same_movie_and_page(descent):
    reverse = descent.isel(step=slice(None, None, -1))
    one, other = (collapse_movie(data, LABELS).frames for data in (descent, reverse))
    np.testing.assert_array_equal(one.axis.values, other.axis.values)
    np.testing.assert_array_equal(one.scene.means, other.scene.means)
    for title, values in one.curves.items():
        np.testing.assert_array_equal(values, other.curves[title])
    one, other = (content(explore(data)) for data in (descent, reverse))
    assert one["axis"] == other["axis"]
    assert one["variables"] == other["variables"]


def test_more_stages_or_curves_than_a_movie_has_place_for_are_refused(descent):
    stages = {f"s{i}": float(i) for i in range(27)}
    with pytest.raises(ValueError, match=r"stages: has 27 names, .* 26; give fewer"):
        collapse_movie(descent, LABELS, stages=stages)
    names = {f"curve {i}": "zhu_nc1" for i in range(6)}
    with pytest.raises(ValueError, match=r"observables: has 6 names, .* 5; give fewer"):
        collapse_movie(descent, LABELS, observables=names)


def test_several_runs_are_refused_with_a_call_that_a_trajectory_has():
    starts = jax.vmap(PROBLEM.init)(jax.random.split(jax.random.key(0), 2))
    times = np.array([0.0, 1.0, 2.0])
    batch = jax.vmap(lambda s: nc.gradient_flow(PROBLEM, s, times, save_states=True))(starts)
    with pytest.raises(ValueError, match=r"to_dataset\(trajectory\)"):
        collapse_movie(batch, LABELS)
    one = storage.to_dataset(batch).isel(seed=0)
    assert len(collapse_movie(one, LABELS).frames.positions) == 2


def test_a_run_without_the_default_curves_has_its_first_three(descent):
    assert list(collapse_movie(descent, LABELS).frames.curves) == [
        "margin min", "objective", "zhu nc1",
    ]  # fmt: skip
    without = descent.drop_vars([*OBSERVED, "margins"])
    frames = collapse_movie(without, LABELS).frames
    assert frames.curves == {}
    assert plotly_movie(frames).to_dict()["layout"]["scene"]["domain"]["x"] == [0, 1]
    [scene] = Film(frames).figure.axes
    assert scene.get_position(original=True).width == 1


@pytest.mark.parametrize(
    "values",
    [
        0.223268862 + 1e-10 * np.arange(9),
        0.69079478 * np.ones(9),
        3e-12 * np.arange(9),
        -1e7 * np.arange(9),
    ],
)
def test_each_tick_of_a_curve_has_its_value(descent, values):
    data = descent.assign(level=("step", values))
    frames = collapse_movie(data, LABELS, observables=("level",)).frames
    film = Film(frames)
    film.image(0)
    axis = film.figure.axes[1].yaxis
    low, high = value_range(values)
    ticks = [t for t in axis.get_majorticklocs() if low <= t <= high]
    texts = axis.get_major_formatter().format_ticks(ticks)
    assert axis.get_offset_text().get_text() == ""
    assert len(ticks) >= 2
    assert len(set(texts)) == len(texts)
    assert max(map(len, texts)) <= 9
    assert plotly_movie(frames).to_dict()["layout"]["yaxis"]["tickformat"] == ".6~g"


def test_titles_and_stages_are_no_markup_of_plotly(descent):
    movie = collapse_movie(
        descent, LABELS, observables={"<b>x</b>": "zhu_nc1"}, stages={"<i>y</i>": 0.0}
    )
    layout = movie.figure().to_dict()["layout"]
    assert "&lt;i&gt;y" in layout["title"]["text"]
    texts = [note["text"] for note in layout["annotations"]]
    assert "&lt;b&gt;x&lt;/b&gt;" in texts
    assert "<b>x</b>" not in texts


def test_the_page_of_a_movie_offers_no_button_that_sends_the_data(descent, tmp_path):
    page = collapse_movie(descent, LABELS, frames=2).save(tmp_path / "new" / "movie.html")
    text = page.read_text(encoding="utf-8")
    assert 'modeBarButtons: [["toImage", "resetCameraDefault3d"]]' in text


def test_a_movie_has_a_text_and_without_plotly_a_message_in_a_notebook(descent, monkeypatch):
    movie = collapse_movie(descent, LABELS, frames=2)
    assert repr(movie) == "Movie(2 frames; save(path) writes .html, .gif or .mp4)"
    known = builtins.__import__

    def without_plotly(name, *args, **kwargs):
        if name.startswith("plotly"):
            raise ModuleNotFoundError("No module named 'plotly'", name="plotly")
        return known(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_plotly)
    assert "nc_jax[interactive]" in movie._repr_html_()


# Pages and tables.


def test_entries_with_one_label_are_numbered():
    grid = xr.Dataset(
        {"loss": (("norm", "seed", "epoch"), np.arange(12.0).reshape(2, 2, 3))},
        {"norm": [0.5, 1.0], "seed": [0, 1], "epoch": [0, 1, 2]},
    )
    found = content(explore(xr.concat([grid, grid * 2], dim="norm")))
    [norm] = found["dimensions"]
    assert norm["labels"] == ["0.5 (1)", "1.0 (1)", "0.5 (2)", "1.0 (2)"]
    found = content(explore(xr.concat([grid, grid * 2], dim="seed")))
    assert found["runs"]["labels"] == ["0 (1)", "1 (1)", "0 (2)", "1 (2)"]
    named = grid.isel(norm=[0, 0, 0]).assign_coords(norm=["a (2)", "a", "a"])
    [norm] = content(explore(named))["dimensions"]
    assert len(set(norm["labels"])) == 3


def test_a_run_without_saves_has_a_table_and_no_page(descent):
    epochs = xr.Dataset(
        {"loss": ("epoch", [1.0, 0.5]), "result": ("epoch", [0, 0], {"0": ""})}, {"epoch": [0, 1]}
    )
    for data, dim in ((descent, "step"), (epochs, "epoch")):
        empty = nc.datasets.Dataset(data.data_vars, data.coords).isel({dim: []})
        assert f"{dim} 0" in empty._repr_html_()
        with pytest.raises(ValueError, match=f"dataset: has no saves along {dim}; give"):
            explore(empty)


def test_names_that_are_no_texts_have_rows_and_curves(descent):
    data = descent.rename(zhu_nc1=0)
    assert '<th scope="row">0</th>' in data._repr_html_() or ">0<" in data._repr_html_()
    named = {each["name"]: each for each in content(explore(data))["variables"]}
    values = np.frombuffer(base64.b64decode(named["0"]["values"]), named["0"]["type"])
    np.testing.assert_array_equal(values, descent["zhu_nc1"].values)


def test_no_runs_are_counted_as_0_runs(descent):
    batch = descent.expand_dims(seed=[0, 1]).isel(seed=[])
    assert content(explore(batch))["outcome"].startswith("0 runs; sizes: seed 0")


def test_a_data_set_without_variables_over_time_says_so():
    with pytest.raises(ValueError, match="dataset: has no variables over time; give") as error:
        explore(xr.Dataset({}, {"log_time": ("time", [0.0, 1.0])}))
    assert "\n" not in str(error.value)


def test_names_reach_plotly_without_markup(descent):
    script = explore(descent).html
    for part in ("plain(`${title} [${units}]`)", "plain(group.variable.name)", "plain(curve.run)"):
        assert part in script
