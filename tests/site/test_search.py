"""The search finds names, measures and numbers of equations, and its links lead to them."""

from urllib.parse import quote, unquote, urlsplit

import pytest
from site_pages import read_page

pytestmark = pytest.mark.site

RESULTS = "#search-results ul.search li > a"
# Of a query the page and the start of the id to which one of the first three results leads.
EXPECTED = {
    "gradient_flow": ("reference/nc.", "nc_jax.gradient_flow"),
    "self-duality": ("measures.html", "self_duality"),
    "(B.13)": ("papers.html", "ji-b-13"),
    "seli": ("reference/exact.", "nc_jax.exact.seli"),
    "zhu_nc1": ("", "zhu_nc1"),
}


def first_results(page):
    page.wait_for_function("() => Search.status?.textContent.match(/found|match/)")
    links = page.query_selector_all(RESULTS)
    return [urlsplit(link.evaluate("link => link.href")) for link in links[:3]]


@pytest.mark.parametrize("query", EXPECTED)
@pytest.mark.parametrize("way", ["address", "dialog"])
def test_the_search_finds(query, way, open_page, site):
    start = f"search.html?q={quote(query)}" if way == "address" else "index.html"
    with open_page(start) as (page, records):
        if way == "dialog":
            page.locator(".search-button__button:visible").first.click()
            page.locator("#pst-search-dialog input[type=search]").fill(query)
            page.keyboard.press("Enter")
            page.wait_for_url("**/search.html?q=*")
        results = first_results(page)
        assert results, "no results"
        where, identifier = EXPECTED[query]
        for result in results:
            path, fragment = result.path.removeprefix("/"), unquote(result.fragment)
            found = path.startswith(where) and fragment.startswith(identifier)
            if found:
                assert fragment in read_page(site / path).ids
                break
        else:
            pytest.fail(f"{query}: {[f'{r.path}#{r.fragment}' for r in results]}")
        assert records.outside() == records.errors == []


def test_the_search_of_nonsense_finds_nothing(open_page):
    with open_page("search.html?q=qwertzuiop") as (page, _):
        assert first_results(page) == []
