"""The pages to start from: the glossary has every name that users meet; the citation is right."""

import ast
import importlib
import re
import tomllib
from pathlib import Path

import pytest

import nc_jax as nc

ROOT = Path(__file__).parent.parent
GLOSSARY = ROOT / "docs" / "start" / "glossary.md"
CITE = ROOT / "docs" / "start" / "cite.md"
CITATION = ROOT / "CITATION.cff"


def terms():
    """The terms of the glossary: lines at the left margin of its directive, without backticks."""
    body = re.search(r"^```\{glossary\}\n(.*?)^```", GLOSSARY.read_text(), re.DOTALL | re.MULTILINE)
    assert body is not None
    lines = [line for line in body[1].splitlines() if line and not line.startswith((" ", ":"))]
    return [line.replace("`", "") for line in lines]


def columns_of(script):
    """Headings of the tables of an example: keys of the dicts that it gives to `table`."""
    found = set()
    for node in ast.walk(ast.parse(script.read_text())):
        table = None
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and re.search("(?i)meaning|column", target.id):
                table = node.value
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "table":
            table = node.args[0]
        if isinstance(table, ast.Dict):
            found |= {str(key.value).strip() for key in table.keys if isinstance(key, ast.Constant)}
    return found


@pytest.mark.parametrize(
    "script", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem
)
def test_the_glossary_has_every_column_of_the_examples(script):
    assert sorted(columns_of(script) - set(terms())) == []


def test_columns_are_found_in_the_examples():
    assert {"of bound", "within", "drift"} <= columns_of(ROOT / "examples" / "ulpm_flow.py")
    assert {"eps", "power", "growth"} <= columns_of(ROOT / "examples" / "ulpm_saddle.py")


def test_the_glossary_has_every_variable_of_a_data_set_of_flows():
    described = importlib.import_module("nc_jax.attributes")._LONG_NAMES
    known = {term.lower() for term in terms()}
    assert sorted({*nc.metrics.EQUATIONS, *described} - known) == []


def test_the_glossary_has_each_term_once():
    assert len(terms()) == len({term.lower() for term in terms()})


def test_terms_that_pages_refer_to_are_in_the_glossary():
    known = {term.lower() for term in terms()}
    for page in (ROOT / "docs").rglob("*.md"):
        used = re.findall(r"\{term\}`(?:[^`<]*<)?([^`>]+)>?`", page.read_text())
        assert {term.lower() for term in used} <= known, page


def test_the_citation_names_the_title_and_the_version_of_the_package():
    citation, page = CITATION.read_text(), CITE.read_text()
    title = re.search(r'^title: "(.*)"$', citation, re.MULTILINE)
    assert title is not None
    bibtex = re.search(r"^```bibtex\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert bibtex is not None
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [nc.__version__]
    assert re.findall(r"version *= \{(.*)\},", bibtex[1]) == [nc.__version__]
    plain = re.sub(r"[\\{}]", "", bibtex[1])
    assert f"title   = {title[1]}," in plain
    assert "author  = The nc_jax developers," in plain


def test_the_ten_lines_are_those_of_the_readme():
    block = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
    pages = (ROOT / "README.md", ROOT / "docs" / "start" / "ten_lines.md")
    readme, explained = (block.search(page.read_text()) for page in pages)
    assert readme is not None
    assert explained is not None
    assert readme[1] == explained[1]


def test_an_address_of_the_project_is_the_same_wherever_it_is_stated():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    address = project.get("urls", {}).get("Repository")
    stated = re.findall(
        r"^(?:repository-code|url): \"?([^\"\n]*)", CITATION.read_text(), re.MULTILINE
    )
    in_bibtex = re.findall(r"^ *url *= \{(.*)\}", CITE.read_text(), re.MULTILINE)
    expected = [] if address is None else [address]
    assert stated == in_bibtex == expected
