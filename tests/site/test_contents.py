"""The reference, the gallery, the notebooks and the blocks of code are complete."""

import json
import re
from pathlib import Path

import pytest
from gallery_runs import read_entries
from public_names import pages
from site_pages import pages_of, read_page

pytestmark = pytest.mark.site

EXAMPLES = [entry.name for entry in read_entries()]
TUTORIALS = ["ji_figure_2", "long_tail", "is_it_a_minimum"]


def test_the_reference_has_every_public_name_with_a_link_to_its_source(site):
    entries = {}
    for name in pages_of(site):
        if name.startswith("reference/"):
            html = (site / name).read_text()
            for identifier, rest in re.findall(
                r'<dt class="sig[^>]* id="([^"]+)">(.*?)</dt>', html, re.S
            ):
                entries[identifier] = re.search(r'href="([^"]*_modules/[^"]*)"', rest)
    public = [name for homes in pages().values() for found in homes.values() for name, _ in found]
    assert len(public) > 300
    assert [name for name in public if name not in entries] == []
    assert [name for name in public if not entries[name]] == []


def test_members_of_bases_without_a_page_are_described_with_their_classes(site):
    reference = "".join(path.read_text() for path in (site / "reference").glob("*.html"))
    for kind in ("NormalizedFeatures", "DeepUnconstrainedFeatures"):
        # Of the class itself, of its base without a page, and of the base of that.
        described = [f'id="nc_jax.{kind}.{name}"' in reference
                     for name in ("init", "num_classes", "vector_field")]  # fmt: skip
        assert described == [True, True, False]
    assert "AbstractLabelled" not in reference


def test_signatures_have_short_types(site):
    # Of a signature that it cannot read, Sphinx writes the text, with `~` before full names.
    for path in (site / "reference").glob("*.html"):
        signatures = re.findall(r'<dt class="sig.*?</dt>', path.read_text(), re.DOTALL)
        assert not [text for text in signatures if ">~" in text], path.name


def test_every_example_has_a_page_and_a_card(site):
    shown = {path.stem for path in (site / "gallery").glob("*.html")} - {"index"}
    assert shown == set(EXAMPLES)
    links = {address.text for address in read_page(site / "gallery" / "index.html").addresses}
    assert {f"{name}.html" for name in EXAMPLES} <= links


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_page_of_the_gallery_shows_its_figure_and_what_to_read_off_it(example, open_page):
    with open_page(f"gallery/{example}.html") as (page, _):
        widths = page.evaluate(
            "() => [...document.querySelectorAll('article img')].map((i) => i.naturalWidth)"
        )
        assert widths
        assert min(widths) >= 400
        text = page.inner_text("article")
        assert re.search(r"Run time: \d+ s in this build|Not run in this build: it needs", text)
        read = page.inner_text("section#what-to-read-off-it")
        assert len(read) > 200
        assert page.locator("article .highlight-console").first.is_visible()


def test_every_card_of_the_gallery_has_a_thumbnail(open_page):
    with open_page("gallery/index.html") as (page, _):
        loaded = page.evaluate(
            "() => [...document.querySelectorAll('article .sd-card img')]"
            ".map((i) => i.naturalWidth > 100 && i.alt.length > 20)"
        )
        assert loaded == [True] * len(EXAMPLES)


@pytest.mark.parametrize("tutorial", TUTORIALS)
def test_a_tutorial_has_its_notebook_with_outputs(tutorial, open_page):
    with open_page(f"tutorials/{tutorial}.html") as (page, _):
        link = page.locator(f"article a[href$='{tutorial}.ipynb']").first
        with page.expect_download() as download:
            link.click()
        notebook = json.loads(Path(download.value.path()).read_text())
        assert notebook["nbformat"] == 4
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        outputs = [output for cell in cells for output in cell["outputs"]]
        assert len(cells) >= 5
        assert any(
            "image/png" in out.get("data", {}) or "image/svg+xml" in out.get("data", {})
            for out in outputs
        )
        assert not any(output["output_type"] == "error" for output in outputs)
        # The same outputs are on the page.
        assert page.locator("article .cell_output img").count() >= 1


def test_blocks_of_code_have_a_button_that_copies_them(open_page, address):
    with open_page("start/ten_lines.html", permissions=["clipboard-read", "clipboard-write"]) as (
        page,
        _,
    ):
        block = page.locator("article div.highlight").first
        block.hover()
        block.locator("button.copybtn").click()
        copied = page.evaluate("() => navigator.clipboard.readText()")
        assert copied.strip() == block.locator("pre").inner_text().strip()


def test_names_in_the_text_lead_to_the_reference(site):
    links = [a.text for a in read_page(site / "extending.html").addresses]
    assert any(re.fullmatch(r"reference/nc\..*#nc_jax\.AbstractProblem", link) for link in links)
