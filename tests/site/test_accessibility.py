"""Pages of each kind pass the rules of axe for WCAG 2, levels A and AA, in both themes."""

import pytest
from axe_playwright_python.sync_playwright import Axe

pytestmark = pytest.mark.site

PAGES = [
    "index.html", "start/ten_lines.html", "start/glossary.html", "guides/first_hour.html",
    "tutorials/ji_figure_2.html", "gallery/index.html", "gallery/ulpm_flow.html",
    "gallery/collapse_movie.html", "reference/index.html", "reference/exact.seli.html",
    "papers.html", "measures.html", "results.html", "search.html?q=margin",
]  # fmt: skip
RULES = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]},
    "resultTypes": ["violations"],
}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("page_name", PAGES)
def test_pages_pass_the_rules_of_axe(page_name, theme, open_page, wait_for_mathematics):
    with open_page(page_name, color_scheme=theme) as (page, records):
        wait_for_mathematics(page)
        if page_name.startswith("search"):
            page.wait_for_selector("#search-results li")
        assert page.evaluate("() => document.documentElement.dataset.theme") == theme
        results = Axe().run(page, options=RULES)
        assert results.violations_count == 0, results.generate_report()
        assert records.outside() == []


def test_the_movie_passes_the_rules_of_axe(open_page):
    # In a page of its own, since the rules of a page do not reach what it embeds.
    with open_page("gallery/interactive/collapse_movie-collapse_movie.html") as (page, _):
        page.wait_for_selector("#collapse-movie[data-ready=true]")
        results = Axe().run(page, options=RULES)
        assert results.violations_count == 0, results.generate_report()


def test_the_reader_can_choose_a_theme(open_page):
    with open_page("index.html", color_scheme="light") as (page, _):
        theme = "() => document.documentElement.dataset.theme"
        for chosen in ("dark", "light"):
            page.locator(".theme-switch-button:visible").first.click()
            page.locator(f".theme-change-button[data-mode={chosen}]:visible").first.click()
            assert page.evaluate(theme) == chosen
            page.reload()
            assert page.evaluate(theme) == chosen
