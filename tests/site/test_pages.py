"""Every page in the browser: mathematics, figures, requests, errors, and 400 pixels of width."""

import contextlib
from dataclasses import dataclass

import pytest
from playwright.sync_api import TimeoutError

pytestmark = pytest.mark.site

NARROW = 400
# Text outside of code and of typeset equations that is TeX, or a link in Markdown.
RAW_TEX = r"""() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (node.parentElement.closest("pre, code, script, style, mjx-container")) continue;
    if (/\\[a-z]{2,}|\\\(|\\\[|\$\$|\\begin|\]\(/.test(node.data)) found.push(node.data.trim());
  }
  return found;
}"""
NOT_TYPESET = """() => [
  ...[...document.querySelectorAll(".math")]
    .filter((e) => !e.querySelector("mjx-container"))
    .map((e) => e.textContent),
  ...[...document.querySelectorAll("mjx-merror")].map((e) => e.dataset.mjxError),
]"""
EQUATIONS = "() => document.querySelectorAll('mjx-container').length"
WITHOUT_PICTURE = """async () => {
  const images = [...document.images];
  // Images further down load when they come into view.
  images.forEach((image) => { image.loading = "eager"; });
  await Promise.allSettled(images.map((image) => image.decode()));
  return images.filter((image) => image.naturalWidth === 0).map((image) => image.src);
}"""
# The elements that reach beyond the page or its text. The theme lets the text scroll as a whole,
# which counts as a page that does; tables and code scroll within themselves.
TOO_WIDE = """(width) => {
  const text = document.querySelector(".bd-article-container");
  const isWide = (e) => e && e.scrollWidth > Math.min(width, e.clientWidth) + 1;
  if (!isWide(document.documentElement) && !isWide(text)) return [];
  const scrolls = (e) =>
    e && e !== text && (getComputedStyle(e).overflowX !== "visible" || scrolls(e.parentElement));
  const wide = [...document.body.querySelectorAll("*")].filter(
    (e) => e.getBoundingClientRect().right > width + 1 && !scrolls(e.parentElement));
  return [document.documentElement.scrollWidth, text?.scrollWidth,
    ...wide.map((e) => `${e.tagName}.${e.className} ${e.textContent.trim().slice(0, 40)}`)];
}"""
IS_NARROW = "(width) => document.documentElement.scrollWidth <= width"
# Indices and exponents are smaller than their equation, as in print; in figures of Plotly they are
# elements `tspan`. Text without a size is the name of a link that covers a card.
TOO_SMALL = """() => {
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement;
    const text = node.data.trim(), size = parseFloat(getComputedStyle(element).fontSize);
    if (!text || !element.checkVisibility()) continue;
    if (element.closest("mjx-container, sub, sup, tspan")) continue;
    if (0 < size && size < 12) found.add(`${size} pixels: ${element.tagName} ${text}`);
  }
  return [...found];
}"""


@dataclass
class Visit:
    """What a page shows, asks for and reports."""

    equations: int
    raw_tex: list[str]
    not_typeset: list[str]
    without_picture: list[str]
    too_wide: list[str]
    too_small: list[str]
    outside: list[str]
    errors: list[str]


@pytest.fixture(scope="module")
def visit(page_path, address, shared_page, wait_for_mathematics):
    page, records = shared_page
    # What the previous address still loads ends here, so the records below are of this one alone.
    page.goto("about:blank")
    records.clear()
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(f"{address}{page_path}")
    wait_for_mathematics(page)
    found = {
        "equations": page.evaluate(EQUATIONS),
        "raw_tex": page.evaluate(RAW_TEX),
        "not_typeset": page.evaluate(NOT_TYPESET),
        "without_picture": page.evaluate(WITHOUT_PICTURE),
    }
    page.set_viewport_size({"width": NARROW, "height": 800})
    # Plotly draws its figures again in the new width.
    with contextlib.suppress(TimeoutError):
        page.wait_for_function(IS_NARROW, arg=NARROW, timeout=5000)
    found["too_wide"] = page.evaluate(TOO_WIDE, NARROW)
    found["too_small"] = page.evaluate(TOO_SMALL)
    return Visit(**found, outside=records.outside(), errors=list(records.errors))


def test_mathematics_is_rendered(visit):
    assert visit.not_typeset == []
    assert visit.raw_tex == []


def test_images_are_shown(visit):
    assert visit.without_picture == []


def test_no_other_host_is_asked_and_no_error_is_reported(visit):
    assert visit.outside == []
    assert visit.errors == []


def test_a_page_of_400_pixels_does_not_scroll_sideways(visit):
    assert visit.too_wide == []


def test_text_of_a_page_of_400_pixels_is_legible(visit):
    assert visit.too_small == []


@pytest.mark.parametrize("page_name", ["papers", "beyond", "measures", "reference/exact.seli"])
def test_pages_have_equations(page_name, open_page, wait_for_mathematics):
    with open_page(f"{page_name}.html") as (page, _):
        wait_for_mathematics(page)
        assert page.evaluate(EQUATIONS) > 10
