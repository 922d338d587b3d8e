"""Every address in the pages leads somewhere, and what a page loads is in the site itself."""

import re

import pytest
from site_pages import fault_of, host_of, pages_of, read_page

pytestmark = pytest.mark.site

# Hosts of papers, of data and of packages that are named in texts. A new one is added by hand, so
# that a link to an unknown host is noticed.
HOSTS = {
    "arxiv.org", "doi.org", "openreview.net", "proceedings.mlr.press", "www.pnas.org",
    "docs.kidger.site", "docs.jax.dev", "docs.python.org", "docs.xarray.dev", "matplotlib.org",
    "plotly.com", "pytorch.org", "github.com",
}  # fmt: skip


def test_addresses_within_the_site_lead_to_a_file_and_an_element(page_path, site):
    page = site / page_path
    faults = {
        fault_of(a.text, page, site) for a in read_page(page).addresses if not host_of(a.text)
    }
    assert faults - {None} == set()


def test_a_page_loads_nothing_from_another_host(page_path, site):
    addresses = read_page(site / page_path).addresses
    assert [a.text for a in addresses if a.is_loaded and host_of(a.text)] == []


def test_links_to_other_hosts_are_to_papers_and_packages(site):
    linked = {
        host_of(address.text): f"{name}: {address.text}"
        for name in pages_of(site)
        for address in read_page(site / name).addresses
    }
    unknown = [text for host, text in linked.items() if host and host not in HOSTS]
    assert unknown == []


def test_style_sheets_load_nothing_from_another_host(site):
    sheets = list(site.rglob("*.css"))
    assert sheets
    loaded = re.compile(r"url\(\s*['\"]?(?:https?:)?//|@import[^;]*//")
    assert [sheet.name for sheet in sheets if loaded.search(sheet.read_text())] == []


def test_every_page_has_one_title_and_one_of_each_id(page_path, site):
    page = read_page(site / page_path)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("h1") == 1
    repeated = {found for found in page.ids if page.ids.count(found) > 1}
    assert repeated == set()
