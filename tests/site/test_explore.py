"""The page that explores a data set, in a browser: what is chosen is drawn, from the file alone."""

import csv
import io

import numpy as np
import pytest
import xarray as xr

from nc_jax import plotting

pytestmark = pytest.mark.site

LOG_TIME = np.log(10) * np.array([0.01, 1.0, 10.0, 100.0, 1000.0])
RNG = np.random.default_rng(0)
# Down to e^−460, far below the least float32.
LOSS = np.exp(-115.0 * np.arange(5) - RNG.random((2, 20, 5)))
MARGIN = np.cumsum(RNG.normal(size=(2, 20, 5)), axis=-1)
DATA = xr.Dataset(
    {
        "loss": (("norm", "seed", "time"), LOSS, {"long_name": "mean of ℓ(z_i, y_i)"}),
        "margin": (("norm", "seed", "time"), MARGIN, {"long_name": "min_i q_i", "units": "1"}),
        "window": (("time",), np.arange(1.0, 6.0)),
        "result": (("norm", "seed"), np.zeros((2, 20), int), {"0": ""}),
    },
    {"norm": [0.5, 1.0], "seed": np.arange(20) + 100, "log_time": ("time", LOG_TIME)},
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("explore") / "page.html"
    plotting.explore(DATA, path)
    return path.as_uri()


@pytest.fixture
def page(browser, file):
    """The page in a window of its own; a request for anything else, or an error, fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page, problems = context.new_page(), []
    page.on("request", lambda request: problems.append(request.url))
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(file)
    assert problems.pop(0) == file
    yield page
    context.close()
    assert not [each for each in problems if not each.startswith(("blob:", file))]


def drawn(page, panel=0):
    """The y values of the lines of a panel that are not edges of a band."""
    traces = page.evaluate(
        "i => document.querySelectorAll('.plot')[i].data.map(t => [t.line.width, t.y])", panel
    )
    return [np.array(y, float) for width, y in traces if width]


def choose(page, **choices):
    for name, value in choices.items():
        page.select_option(f"select[name='{name.replace('at_', 'at.')}']", value)


def test_the_page_opens_with_medians_and_bands_of_two_observables(page):
    assert page.title() == "40 runs over time"
    assert page.inner_text("#outcome") == "40 runs, all succeeded; sizes: norm 2 × seed 20 × time 5"
    assert page.locator("figcaption").all_inner_texts() == [
        "loss: mean of ℓ(z_i, y_i)", "margin: min_i q_i",
    ]  # fmt: skip
    assert page.locator("#legend li").all_inner_texts() == ["norm = 0.5", "norm = 1.0"]
    # A save at t < 1 has no place on a log log axis.
    np.testing.assert_allclose(drawn(page), np.median(LOSS, axis=1)[:, 1:], rtol=1e-12)
    np.testing.assert_allclose(drawn(page, 1), np.median(MARGIN, axis=1)[:, 1:], rtol=1e-12)
    low = page.evaluate("document.querySelectorAll('.plot')[1].data[0].y")
    np.testing.assert_allclose(low, np.percentile(MARGIN[0], 10, axis=0)[1:], rtol=1e-12)


def test_what_underflows_float32_is_drawn_on_a_logarithmic_axis(page):
    layout = page.evaluate("document.querySelector('.plot')._fullLayout.yaxis")
    assert layout["type"] == "log"
    assert layout["range"][0] < -195
    assert drawn(page)[0].min() < 1e-190


def test_an_observable_and_a_seed_that_are_chosen_are_drawn(page):
    before = drawn(page)
    page.uncheck("input[value=loss]")
    choose(page, runs="one", run="107", at_norm="1.0", x="linear")
    [curve] = drawn(page)
    # t = 10^1000 has no place on a linear axis.
    np.testing.assert_array_equal(curve, MARGIN[1, 7, :4])
    assert not np.array_equal(curve, before[0])
    choose(page, run="103")
    np.testing.assert_array_equal(drawn(page)[0], MARGIN[1, 3, :4])
    assert "Not on this axis of time: 1 of 5 saves" in page.inner_text("#notes")
    [row] = page.locator("#last tbody tr").all_inner_texts()
    assert row.split("\t")[:2] == ["margin", "1.0"]
    assert float(row.split("\t")[2]) == pytest.approx(MARGIN[1, 3, -1], rel=1e-4)


def test_all_seeds_are_lines_whose_hover_names_seed_and_settings(page):
    choose(page, runs="lines", at_norm="0.5", x="log")
    np.testing.assert_array_equal(drawn(page), LOSS[0])
    x, hover = page.evaluate("(({x, hovertemplate}) => [x, hovertemplate])"
                             "(document.querySelector('.plot').data[3])")  # fmt: skip
    np.testing.assert_allclose(x[1:], [0.954242509439, 10, 100, 1000])  # t = 10 − 1, 10^10, …
    assert "seed 103" in hover
    assert "norm = 0.5" in hover


def test_a_variable_without_a_dim_is_drawn_once(page):
    page.check("input[value=window]")
    assert len(drawn(page, 2)) == 1


def test_observables_share_a_panel_with_a_line_style_each(page):
    choose(page, layout="overlay")
    assert page.locator(".plot").count() == 1
    dashes = page.evaluate("document.querySelector('.plot').data.map(t => t.line.dash ?? '')")
    assert set(dashes) - {""} == {"solid", "dash"}
    assert "loss, norm = 0.5" in page.locator("#legend li").all_inner_texts()


def test_the_address_holds_the_view(page, browser, file):
    page.uncheck("input[value=loss]")
    choose(page, runs="one", run="105", at_norm="1.0", x="log", scale="linear")
    other = browser.new_page()
    other.goto(page.url)
    np.testing.assert_array_equal(drawn(other), drawn(page))
    assert other.locator("select[name=run]").input_value() == "105"
    other.close()
    # An address of an earlier page, with names that this page does not have, has the defaults.
    page.goto(f"{file}#y=gone&at.norm=7&runs=one&run=107")
    assert page.locator("select[name='at.norm']").input_value() == "each"
    np.testing.assert_array_equal(drawn(page)[0], LOSS[0, 7, 1:])


def test_the_drawn_data_are_a_csv_file_with_every_digit(page):
    choose(page, runs="lines")
    page.uncheck("input[value=margin]")
    with page.expect_download() as download:
        page.click("#download")
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert list(rows[0]) == ["observable", "norm", "run", "log_time", "time", "value"]
    values = np.array([float(row["value"]) for row in rows]).reshape(LOSS.shape)
    np.testing.assert_array_equal(values, LOSS)
    assert {row["run"] for row in rows} == {f"seed {seed}" for seed in DATA["seed"].values}
    np.testing.assert_array_equal([float(row["log_time"]) for row in rows[:5]], LOG_TIME)
    assert [float(row["time"]) for row in rows[3:5]] == [pytest.approx(1e100), np.inf]


def test_every_choice_can_be_made_with_the_keyboard(page):
    page.locator("input[value=loss]").focus()
    page.keyboard.press("Space")
    assert page.locator(".plot").count() == 1
    reached = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.name"))
    assert {"at.norm", "runs", "x", "scale"} <= reached
    page.locator("select[name=runs]").focus()
    page.keyboard.press("ArrowDown")
    assert page.locator("select[name=runs]").input_value() == "lines"


def test_the_page_fits_a_telephone(browser, file):
    narrow = browser.new_page(viewport={"width": 400, "height": 800})
    narrow.goto(file)
    assert narrow.evaluate("document.documentElement.scrollWidth") == 400
    assert not narrow.locator("#controls").is_visible()
    narrow.click("summary >> text=Choices")
    assert narrow.locator("#controls").is_visible()
    assert narrow.evaluate("document.documentElement.scrollWidth") == 400
    narrow.close()


def test_a_notebook_shows_the_page_in_a_frame(browser, tmp_path):
    frame = tmp_path / "notebook.html"
    frame.write_text(plotting.explore(DATA)._repr_html_(), encoding="utf-8")
    notebook = browser.new_page()
    notebook.goto(frame.as_uri())
    inside = notebook.frame_locator("iframe")
    inside.locator("select[name=runs]").select_option("lines")
    assert inside.locator(".plot").count() == 2
    notebook.close()


def test_repeated_entries_and_names_with_markup_are_drawn_as_they_are(browser, tmp_path):
    grid = DATA.rename(loss="<i>a&lt;b</i>")[["<i>a&lt;b</i>"]]
    data = xr.concat([grid, grid * 2], dim="norm")
    path = plotting.explore(data).save(tmp_path / "page.html")
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.goto(path.as_uri())
    labels = ["0.5 (1)", "1.0 (1)", "0.5 (2)", "1.0 (2)"]
    assert page.locator("#legend li").all_inner_texts() == [f"norm = {label}" for label in labels]
    title = page.locator(".ytitle").first
    assert title.text_content() == "<i>a&lt;b</i> [1]"
    choose(page, at_norm="0.5 (2)")
    low = np.median(2 * LOSS[0], axis=0)[1:]
    np.testing.assert_allclose(drawn(page), [low], rtol=1e-12)
    context.close()
