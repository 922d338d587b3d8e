"""The page of the documentation on measures has every measure, with its equation."""

import re
from pathlib import Path

import nc_jax as nc

PAGE = Path(__file__).parents[2] / "docs" / "measures.md"
HEADER = "| measure | equation and source | elsewhere | where theirs differs |"


def rows() -> list[list[str]]:
    """Cells of the rows of all tables of measures."""
    found = []
    for table in PAGE.read_text().split(HEADER)[1:]:
        lines = table.split("\n\n")[0].strip().splitlines()[1:]
        found += [re.split(r" (?<!\\)\| ", line.strip("|").strip()) for line in lines]
    return found


def test_the_page_has_every_measure_once_with_its_equation():
    found = {cells[0].strip("`"): cells[1].replace("\\|", "|") for cells in rows()}
    assert len(found) == len(rows())
    assert found == {name: measure.equation for name, measure in nc.metrics.MEASURES.items()}


def test_each_measure_says_who_else_has_it_or_that_nobody_has():
    for name, *rest in rows():
        assert len(rest) == 3, name
        assert all(rest), name
