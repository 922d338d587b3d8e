"""Anchors, index entries and a filter for the rows of the tables of equations and measures.

A row of `papers.md` whose first cell begins with an equation number or the name of a theorem has
the anchors of all of them, such as `papers.html#ji-b-13`, and an entry of the index for each, which
the search finds. A row of `measures.md` has the name of its measure, and a row of `beyond.md` the
name of its symbol. Markdown links can use these anchors: `[(B.13)](papers.md#ji-b-13)`.
"""

import html
import itertools
import re
from collections.abc import Iterator

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.writers.html5 import HTML5Translator

# The headings of first columns of tables of equations. Others have numbers.
_EQUATIONS = ("equation", "#", "measure", "function", "function and key", "source")
# Smaller tables are read as a whole, and have no filter.
_FEWEST_ROWS = 5
_KINDS = {
    "Thm": "Theorem", "Theorem": "Theorem", "Lemma": "Lemma", "Def.": "Definition",
    "Cor.": "Corollary", "Corollary": "Corollary", "Example": "Example", "Remark": "Remark",
    "figure": "Figure", "section": "Section",
}  # fmt: skip
_THEOREM = re.compile(
    rf"({'|'.join(map(re.escape, _KINDS))}) ((?:[A-Z]\.)?\d+(?:\.\d+)*(?: \([a-z]\))?)"
)
# What is before, at and after a number that can be that of an end of a range.
_EQUATION = re.compile(r"(\((?:[A-Z]\.|\d+\.)?)(\d+)(\))")
_ERRATUM = re.compile(r"(E)(\d+)()")


class EquationRows(SphinxTransform):
    """Give the rows of the tables of three pages their anchors and their entries of the index."""

    # Before all others, which may replace the text of the cells.
    default_priority = 1

    def apply(self, **kwargs: object) -> None:
        """Add ids, entries, texts and classes to the tables of the document."""
        ids_of = {"papers": _ids_of_papers, "beyond": _ids_of_symbols, "measures": _ids_of_measures}
        find = ids_of.get(self.env.docname)
        if find is None:
            return
        for table in self.document.findall(nodes.table):
            header, *rows = table.findall(nodes.row)
            kind = header[0].astext()
            if kind in _EQUATIONS:
                table["classes"].append("equations")
                if len(rows) >= _FEWEST_ROWS:
                    table["classes"].append("filterable")
            for row in rows:
                row["text"] = " ".join(cell.astext() for cell in row)
                self._identify(row, *find(row, kind))

    def _identify(self, row: nodes.row, ids: list[str], entries: list[str]) -> None:
        """Give a row its anchors and entries; an anchor that an earlier row has gets a number."""
        cell = row[0]
        assert isinstance(cell, nodes.Element)
        for name in ids:
            numbers = itertools.chain([""], (f"-{i}" for i in itertools.count(2)))
            free = next(name + n for n in numbers if name + n not in self.document.ids)
            self.document.ids[free] = row
            if row["ids"]:
                # HTML elements have one id: further ones are those of empty spans.
                paragraph = cell[0]
                assert isinstance(paragraph, nodes.Element)
                paragraph.insert(0, nodes.inline(ids=[free]))
            else:
                row["ids"].append(free)
            # Where MyST finds the targets of links to another page.
            slugs = self.env.metadata[self.env.docname].setdefault("myst_slugs", {})
            slugs[free] = (0, free, cell.astext())
        if entries:
            at = row["ids"][0]
            index = addnodes.index(entries=[("single", e, at, "main", None) for e in entries])
            cell.insert(0, index)


def _ids_of_papers(row: nodes.row, kind: str) -> tuple[list[str], list[str]]:
    """Anchors and entries of the equations, theorems or errata that a first cell begins with."""
    labels = list(labels_of(row[0].astext(), kind))
    paper = _paper_of(row)
    ids = [f"{paper} {label}".lower() for label in labels]
    ids = [re.sub(r"\W+", "-", name).strip("-") for name in ids]
    return ids, [*labels, *(f"{paper} {label}" for label in labels)]


def _ids_of_symbols(row: nodes.row, kind: str) -> tuple[list[str], list[str]]:
    """The anchor of the first symbol of a row, such as `exact-late_gap`."""
    if kind != "equation":
        return [], []
    symbol = next((node.astext() for node in row[2].findall(nodes.literal)), "")
    name = re.sub(r"[^\w./].*", "", symbol).removeprefix("nc.")
    return [re.sub(r"\W+", "-", name.lower())] if name else [], []


def _ids_of_measures(row: nodes.row, kind: str) -> tuple[list[str], list[str]]:
    """The anchor of a measure, which is its name, and its entries: `self_duality`, self-duality."""
    names = [node.astext() for node in row[0].findall(nodes.literal)]
    names = [name for name in names if kind == "measure" and name.isidentifier()]
    return names, [*names, *(name.replace("_", "-") for name in names if "_" in name)]


def labels_of(cell: str, kind: str) -> Iterator[str]:
    """Equation numbers and theorems, or errata, of a cell: those with which its parts begin.

    Of equations `(C.9)–(C.11)` has three labels, and `flow after (2.3)` none; in a table of errata,
    whose kind is `#`, `E39, E58` has two.
    """
    pattern = {"equation": _EQUATION, "#": _ERRATUM}.get(kind)
    if pattern is None:
        return
    for part in cell.split(", "):
        theorem = _THEOREM.match(part)
        if theorem and kind == "equation":
            yield f"{_KINDS[theorem[1]]} {theorem[2]}"
        first, *others = (pattern.match(end) for end in part.split("–"))
        if first:
            last = next(filter(None, others), first)
            for number in range(int(first[2]), int(last[2]) + 1):
                yield f"{first[1]}{number}{first[3]}"


def _paper_of(row: nodes.row) -> str:
    """The first author of the paper, which is the first word of the section's title."""
    section: nodes.Element = row
    # The page is a section of the document, and a paper is a section of the page.
    while not isinstance(section.parent.parent, nodes.document):
        section = section.parent
        assert isinstance(section, nodes.Element)
    return re.split(r"\W", section[0].astext(), maxsplit=1)[0]


def _visit_row(translator: HTML5Translator, row: nodes.row) -> None:
    """Add the text of a row as it is written, which the filter searches."""
    HTML5Translator.visit_row(translator, row)
    if "text" in row:
        text = html.escape(row["text"])
        translator.body[-1] = translator.body[-1].replace("<tr", f'<tr data-text="{text}"', 1)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension to Sphinx."""
    app.add_transform(EquationRows)
    app.add_node(nodes.row, override=True, html=(_visit_row, None))
    app.add_js_file("filter_tables.js", loading_method="defer")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
