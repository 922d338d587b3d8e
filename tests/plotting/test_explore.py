"""The page that explores a data set: its numbers are those of the data set, and all are in it."""

import base64
import html
import json
import re
import sys

import jax
import numpy as np
import optax
import pytest
import xarray as xr

import nc_jax as nc
from nc_jax import plotting, storage
from nc_jax.plotting.page import plotly_script

TIMES = np.log1p(np.array([0.0, 1.0, 1e3, 1e300]))
LOSS = np.exp(-100.0 * np.arange(24)).reshape(2, 3, 4)  # to e^−2300, far below the float32
DATA = xr.Dataset(
    {
        "objective": (("norm", "seed", "time"), LOSS, {"long_name": "L", "units": "1"}),
        "single": (("time",), np.arange(4, dtype=np.float32) / 3),
        "margins": (("norm", "seed", "time", "sample"), np.ones((2, 3, 4, 5))),
        "result": (("norm", "seed"), np.zeros((2, 3), int), {"0": ""}),
    },
    {"norm": [0.5, 1.0], "seed": [0, 1, 7], "log_time": ("time", TIMES)},
    {"kind": "sweep", "note": "<b>&"},
)


def content(page):
    """The data of a page, as its script reads it."""
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.html)
    return json.loads(text)


def decoded(packed):
    return np.frombuffer(base64.b64decode(packed["values"]), packed["type"])


def variables(page):
    return {each["name"]: each for each in content(page)["variables"]}


def test_the_numbers_of_the_page_are_those_of_the_data_set():
    turned = DATA.transpose("time", "seed", "norm", "sample")
    for data in (DATA, turned):
        packed = variables(plotting.explore(data))["objective"]
        assert packed["dims"] == ["norm", "seed", "time"]
        np.testing.assert_array_equal(decoded(packed).reshape(packed["shape"]), LOSS)
    single = decoded(variables(plotting.explore(DATA))["single"])
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single, DATA["single"].values)
    np.testing.assert_array_equal(decoded(content(plotting.explore(DATA))["axis"]), TIMES)


def test_every_observable_and_setting_is_on_the_page():
    found = content(plotting.explore(DATA))
    [norm] = found["dimensions"]
    assert (norm["name"], norm["labels"]) == ("norm", ["0.5", "1.0"])
    assert found["runs"]["labels"] == ["0", "1", "7"]
    assert [each["name"] for each in found["variables"]] == ["objective", "single"]
    assert found["variables"][0]["meaning"] == "L"
    assert found["left_out"] == ["margins"]
    assert found["title"] == "6 runs over time"
    assert found["outcome"].startswith("6 runs, all succeeded; sizes: norm 2 × seed 3 × time 4")
    asked = content(plotting.explore(DATA, observables=["margins"], title="Two & three"))
    assert [dim["name"] for dim in asked["dimensions"]] == ["norm", "sample"]
    assert asked["title"] == "Two & three"


def test_the_page_asks_for_no_other_file():
    page = plotting.explore(DATA).html
    own = page.replace(plotly_script(), "")
    assert "http" not in own.replace('http-equiv="Content-Security-Policy"', "")
    assert not re.search(r"<(link|img|iframe)|<script[^>]*src|@import|url\(", own)
    # The browser refuses whatever the script of Plotly might ask for.
    assert "default-src 'none'" in own
    assert page.count(plotly_script()) == 1


def test_texts_of_a_user_are_no_markup_of_the_page():
    title = "</script><b>"
    name = "a</script><i>"
    data = DATA.rename(objective=name)
    page = plotting.explore(data, title=title)
    own = page.html.replace(plotly_script(), "")
    assert own.count("</script>") == own.count("<script")
    assert "<b>" not in own.replace("`<b>", "")
    assert "<td>&lt;b&gt;&amp;</td>" in own
    assert name in variables(page)
    assert content(page)["title"] == title
    assert html.escape(title) in own


def test_a_page_is_saved_and_shown_in_a_frame(tmp_path):
    path = tmp_path / "new" / "page.html"
    page = plotting.explore(DATA, path)
    assert path.read_text(encoding="utf-8") == page.html
    assert page.save(tmp_path / "again.html") == tmp_path / "again.html"
    frame = page._repr_html_()
    [source] = re.findall(r'srcdoc="([^"]*)"', frame)
    assert html.unescape(source) == page.html
    assert repr(page).startswith("Page('6 runs over time', ")
    assert len(repr(page)) < 100


PROBLEM = nc.ulpm(3, 4, 2)


def flow(key):
    run = nc.Flow(PROBLEM, nc.log_times(1000, 3), observe=("margin_min",))
    return run(PROBLEM.init(key))


def descent(key, **options):
    return nc.gradient_descent(
        PROBLEM, PROBLEM.init(key), optax.sgd(0.1), 3, observe=("margin_min",), **options
    )


def test_flows_descents_and_batches_are_explored_as_they_are():
    key = jax.random.key(0)
    one, steps = flow(key), descent(key, save_states=True)
    for run, scale in ((one, "loglog"), (steps, "linear")):
        found = content(plotting.explore(run))
        assert [each["name"] for each in found["variables"]] == ["margin_min"]
        assert found["axis"]["scale"] == scale
        assert found["runs"] is None
        assert found["title"].startswith("1 run over ")
        np.testing.assert_array_equal(decoded(found["variables"][0]), run.observables["margin_min"])
    np.testing.assert_array_equal(decoded(content(plotting.explore(steps))["axis"]), range(4))
    batch = jax.vmap(descent)(jax.random.split(key, 2))
    assert content(plotting.explore(batch))["runs"]["labels"] == ["0", "1"]
    # Axes of a batch have no coordinates; the last is that of the runs.
    named = storage.to_dataset(batch, runs=("start",))
    assert content(plotting.explore(named))["runs"]["name"] == "start"


def test_a_training_is_explored_by_layer_and_class():
    rng = np.random.default_rng(0)
    values = rng.random((3, 2, 2)).astype(np.float32)
    data = xr.Dataset(
        {"cdnv": (("epoch", "layer", "class"), values)},
        {"epoch": [0, 1, 5], "layer": ["first", "last"], "class": ["cat", "dog"]},
    )
    packed = variables(plotting.explore(data))["cdnv"]
    assert packed["dims"] == ["layer", "class", "epoch"]
    np.testing.assert_array_equal(
        decoded(packed).reshape(packed["shape"]), values.transpose(1, 2, 0)
    )


def test_variables_on_disk_are_explored(tmp_path):
    storage.save(DATA, tmp_path / "data.zarr")
    for read in (storage.load, storage.open_lazily):
        packed = variables(plotting.explore(read(tmp_path / "data.zarr")))["objective"]
        np.testing.assert_array_equal(decoded(packed), LOSS.ravel())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plotting.explore(DATA, observables="objective"), "observables = 'objective': g"),
        (lambda: plotting.explore(DATA, observables=()), "observables = (): give names"),
        (lambda: plotting.explore(DATA, observables=["objectiv"]), "Close to it: objective"),
        (
            lambda: plotting.explore(DATA, observables=["result"]),
            "observables: 'result' has dtype int64 and dims norm, seed; give a variable of real "
            "numbers over time.",
        ),
        (
            lambda: plotting.explore(DATA[["margins"]]),
            "dataset: no variable over time has coordinates for all of its dims; give "
            "observables, of margins.",
        ),
        (
            lambda: plotting.explore(_large(5_000_000, "seed")),
            "dataset: the observables have 80 MB, and a page holds 32; give fewer, "
            "observables=('loss',), or fewer saves, dataset.isel(epoch=slice(None, None, 3)).",
        ),
        (
            lambda: plotting.explore(_large(1001, "sample"), observables=["loss"]),
            "dataset: has 1001 entries along sample, of which a page lists 1000; select some, "
            "dataset.isel(sample=[0, 1]).",
        ),
        (lambda: plotting.explore(DATA, "https://example.org/page.html"), "is a URL"),
    ],
)
def test_what_cannot_be_explored_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        call()
    assert "\n" not in str(refused.value)


def _large(size, dim):
    # A view of one number, so that no memory is used.
    values = np.broadcast_to(1.0, (2, size))
    return xr.Dataset({"loss": (("epoch", dim), values)}, {"epoch": [0, 1]})


def test_without_plotly_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "nc_jax\[interactive\]"'):
        plotting.explore(DATA)
