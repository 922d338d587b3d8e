"""Rows of the tables of equations: their anchors, and what the search of the site finds."""

import json
import re
from pathlib import Path

import equation_rows
import pytest

pytestmark = pytest.mark.site

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("cell", "kind", "labels"),
    [
        ("(B.13)", "equation", ["(B.13)"]),
        ("(2.3), (3.2)", "equation", ["(2.3)", "(3.2)"]),
        ("(C.9)–(C.11)", "equation", ["(C.9)", "(C.10)", "(C.11)"]),
        ("(3)–(5), (44)", "equation", ["(3)", "(4)", "(5)", "(44)"]),
        ("flow after (2.3)", "equation", []),
        ("Thm 3.1 (closed form not printed)", "equation", ["Theorem 3.1"]),
        ("Def. A.2, Lemma B.1", "equation", ["Definition A.2", "Lemma B.1"]),
        ("Thm 3 (a)", "equation", ["Theorem 3 (a)"]),
        ("Thm 2, proof: E1±, E2±, E3", "equation", ["Theorem 2"]),
        ("E36–E38", "#", ["E36", "E37", "E38"]),
        ("E39, E58", "#", ["E39", "E58"]),
        ("(1) norms of centred class means", "measure", []),
    ],
)
def test_a_row_has_the_labels_that_its_parts_begin_with(cell, kind, labels):
    assert list(equation_rows.labels_of(cell, kind)) == labels


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The three pages of equations, built without the rest of the site."""
    from sphinx.application import Sphinx

    source = tmp_path_factory.mktemp("source")
    pages = ["papers", "beyond", "measures"]
    for page in pages:
        # Links to other pages would be reported as missing.
        text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", (DOCS / f"{page}.md").read_text())
        (source / f"{page}.md").write_text(text)
    (source / "index.md").write_text("# Index\n\n```{toctree}\n" + "\n".join(pages) + "\n```\n")
    settings = {"extensions": ["myst_parser", "equation_rows"], "myst_heading_anchors": 4}
    out = source / "out"
    Sphinx(source, None, out, source / "trees", "html", settings, status=None).build()
    return out


def entries_of(site):
    text = (site / "searchindex.js").read_text()
    index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    return {
        entry: [(index["docnames"][page], anchor, main) for page, anchor, main in found]
        for entry, found in index["indexentries"].items()
    }


def test_the_search_finds_an_equation_by_its_number(site):
    entries = entries_of(site)
    row = [("papers", "ji-b-13", True)]
    assert entries["(b.13)"] == entries["ji (b.13)"] == row
    assert ("papers", "zhu-theorem-3-1", True) in entries["theorem 3.1"]
    assert entries["self-duality"] == [("measures", "self_duality", True)]
    assert entries["e12"] == [("papers", "ji-e12", True)]


def test_every_entry_leads_to_a_row_and_no_anchor_occurs_twice(site):
    ids = {}
    for page in ("papers", "beyond", "measures"):
        found = re.findall(r' id="([^"]+)"', (site / f"{page}.html").read_text())
        assert len(found) == len(set(found)), page
        ids[page] = set(found)
    entries = entries_of(site)
    assert len(entries) > 500
    assert all(anchor in ids[page] for found in entries.values() for page, anchor, _ in found)
    assert "exact-late_gap" in ids["beyond"]


def test_rows_have_the_text_that_the_filter_searches(site):
    text = (site / "papers.html").read_text()
    assert re.search(r'<tr data-text="\(B\.13\) ½ dρ²/dt = [^"]*" class="[^"]*" id="ji-b-13"', text)
    assert text.count('class="filterable') + text.count("filterable docutils") >= 10
