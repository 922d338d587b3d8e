"""The tutorials are notebooks that can be read and downloaded; the build of the site runs them."""

import ast
import functools
import re
from pathlib import Path

import pytest

import nc_jax as nc

FOLDER = Path(__file__).parents[2] / "docs" / "tutorials"
PAGES = sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "index")
CELL = re.compile(r"^```\{code-cell\} ipython3\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Options of a cell: a block between lines of dashes, or lines such as `:tags: [hide-cell]`.
OPTIONS = re.compile(r"\A(?:---\n(.*?)^---\n|((?::\w+:[^\n]*\n)+))", re.DOTALL | re.MULTILINE)
# A figure of the package as the last expression of a cell.
DRAWN = re.compile(r"^(nc\.)?plotting\.\w+_figure\(", re.MULTILINE)
HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
    format_version: 0.13
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# """


def text_of(page: str) -> str:
    """The text of a tutorial."""
    return (FOLDER / f"{page}.md").read_text()


def cells(page: str) -> list[tuple[str, str]]:
    """Options and code of every cell; magics of IPython, such as %matplotlib, are left out."""
    found = []
    for text in CELL.findall(text_of(page)):
        options = OPTIONS.match(text)
        code = text[options.end() :] if options else text
        code = re.sub(r"^%.*$", "", code, flags=re.MULTILINE)
        found.append((options[0] if options else "", code))
    return found


def test_the_index_lists_every_tutorial_in_a_card_and_in_the_tree_of_pages():
    assert len(PAGES) == 3
    text = (FOLDER / "index.md").read_text()
    _, tree = text.split("```{toctree}")
    for page in PAGES:
        assert f":link: {page}\n" in text
        assert f"({page}.md)" in text
        assert f"\n{page}\n" in tree


@pytest.mark.parametrize("page", PAGES)
def test_a_tutorial_has_its_parts(page):
    text = text_of(page)
    assert text.startswith(HEADER)
    introduction, _ = text.split("```{code-cell}", 1)
    assert "**You will learn**" in introduction
    assert "**You need**" in introduction
    # The notebook with its outputs, and the text itself.
    assert f"{{nb-download}}`notebook with outputs <{page}.ipynb>`" in introduction
    assert f"{{download}}`text of the notebook <{page}.md>`" in introduction
    _, exercises = text.split("\n## Exercises\n")
    assert re.findall(r"^(\d)\. ", exercises, re.MULTILINE) == ["1", "2", "3"]
    assert exercises.count("*Hint:*") == 3


@pytest.mark.parametrize("page", PAGES)
def test_cells_are_python_and_store_what_they_compile(page):
    code = [code for _, code in cells(page)]
    assert text_of(page).count("```{code-cell}") == len(code) > 10
    for each in code:
        ast.parse(each)
    assert "nc.cache_programs()" in code[0]
    assert 'jax.config.update("jax_enable_x64", True)' in code[0]
    # A line that is wider would be cut off on the page.
    assert max(len(line) for each in code for line in each.splitlines()) <= 80


@pytest.mark.parametrize("page", PAGES)
def test_cells_name_functions_of_the_package(page):
    names = {name for _, code in cells(page) for name in re.findall(r"\bnc((?:\.\w+)+)", code)}
    assert len(names) > 5
    for name in sorted(names):
        functools.reduce(getattr, name.split(".")[1:], nc)


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_has_a_description(page):
    figures = 0
    for options, code in cells(page):
        last = code.rstrip().splitlines()[-1]
        is_figure = last == "figure" or bool(DRAWN.search(code))
        assert is_figure == ("image:\n    alt: " in options), code
        figures += is_figure
    assert figures >= 2


@pytest.mark.parametrize("page", PAGES)
def test_numbers_of_the_text_are_checked_by_cells(page):
    checks = [code for options, code in cells(page) if "hide-cell" in options]
    assert checks
    assert all("assert " in code for code in checks)
