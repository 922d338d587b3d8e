"""The movie of the gallery plays in its page, and its slider moves the class means."""

import numpy as np
import pytest

pytestmark = pytest.mark.site

PAGE = "gallery/collapse_movie.html"
# The class means that are drawn now, as rows (class, coordinate).
MEANS = """() => {
  const traces = document.getElementById("collapse-movie")._fullData;
  const means = traces.find((t) => t.name === "class mean" && t.mode === "markers");
  return ["x", "y", "z"].map((axis) => Array.from(means[axis]));
}"""


@pytest.fixture
def movie(open_page):
    """The page of the gallery, the frame of the movie in it, and the records of both."""
    with open_page(PAGE, viewport={"width": 1280, "height": 900}) as (page, records):
        element = page.locator("iframe.gallery-frame")
        element.scroll_into_view_if_needed()
        frame = element.element_handle().content_frame()
        # Software draws the scene, which takes seconds.
        frame.wait_for_selector("#collapse-movie[data-ready=true]", timeout=180_000)
        yield page, frame, records


def means(frame):
    return np.array(frame.evaluate(MEANS)).T


def show(frame, index):
    """Move the slider as a reader does, and wait until the frame is drawn."""
    slider = frame.locator("#collapse-movie-slider")
    slider.fill(str(index))
    frame.wait_for_selector(f"#collapse-movie[data-frame='{index}']", timeout=60_000)


def test_the_slider_moves_the_class_means_onto_the_tetrahedron(movie):
    _, frame, records = movie
    last = int(frame.get_attribute("#collapse-movie-slider", "max"))
    assert last >= 30
    drawn = []
    for index in (0, last // 2, last):
        show(frame, index)
        drawn.append(means(frame))
    assert all(each.shape == (4, 3) for each in drawn)
    assert np.abs(drawn[0] - drawn[1]).max() > 0.01
    assert np.abs(drawn[1] - drawn[2]).max() > 0.01
    # At the end the six edges have nearly one length, and at the start they have not.
    assert spread_of_edges(drawn[-1]) < 0.05 < spread_of_edges(drawn[0])
    assert records.outside() == records.errors == []


def spread_of_edges(points):
    lengths = [np.linalg.norm(p - q) for i, p in enumerate(points) for q in points[:i]]
    return (max(lengths) - min(lengths)) / max(lengths)


def test_the_button_plays_and_pauses_the_movie(movie):
    _, frame, records = movie
    button = frame.locator("#collapse-movie-play")
    before = means(frame)
    button.click()
    assert button.inner_text() == "Pause"
    frame.wait_for_function(
        "() => Number(document.getElementById('collapse-movie').dataset.frame) >= 3",
        timeout=120_000,
    )
    button.click()
    assert button.inner_text() == "Play"
    assert np.abs(means(frame) - before).max() > 0
    frame.page.wait_for_timeout(1000)  # the frame that is being drawn
    at = frame.input_value("#collapse-movie-slider")
    frame.page.wait_for_timeout(1000)
    assert frame.input_value("#collapse-movie-slider") == at
    assert records.outside() == records.errors == []


def test_the_slider_follows_the_keyboard(movie):
    _, frame, _ = movie
    frame.focus("#collapse-movie-slider")
    frame.page.keyboard.press("End")
    last = frame.get_attribute("#collapse-movie-slider", "max")
    frame.wait_for_selector(f"#collapse-movie[data-frame='{last}']", timeout=60_000)
