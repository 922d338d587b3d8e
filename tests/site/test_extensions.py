"""The extensions of docs/_extensions, on a project of a few lines and on generated texts."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import gallery
import pytest
from docutils import nodes
from docutils.core import publish_doctree
from docutils.parsers.rst import directives, roles
from gallery_runs import FailedExampleError
from hypothesis import given, strategies as st
from public_names import pages
from reference import plain_text
from sphinx.errors import ExtensionError

pytestmark = pytest.mark.site

EXTENSIONS = Path(__file__).parents[2] / "docs" / "_extensions"
CONF = f"""
import sys
sys.path.insert(0, {str(EXTENSIONS)!r})
root_doc = "toctree"
extensions = ["myst_parser", "sphinx.ext.mathjax", "sphinx.ext.autodoc", "links", "unicode_math"]
nitpicky = True
myst_enable_extensions = ["colon_fence"]
"""
INDEX = """
# The norm ‖W‖² of `ulpm`

The problem `ulpm`, also `nc.ulpm`, `nc_jax.ulpm` and `ulpm()`, has V = ½‖W‖² + ½‖H‖². The norm
`‖W‖²`, the option `save_states=True` and `unknown.name` stay; [a link to ‖W‖](other.md) stays.
Two objects have the name `shared`. See [how to contribute](../CONTRIBUTING.md).

> ‖W‖² = 2V

```math
W_k = Σ_i a_i h_i   b = 0
```

```python
norm_W = "‖W‖²"  # code stays
```

| equation | name |
| --- | --- |
| λ_W = 2q | `ulpm` |
"""
OBJECTS = """
# Other

```{eval-rst}
.. py:function:: nc_jax.ulpm(K, n, d)
.. py:function:: nc_jax.one.shared()
.. py:function:: nc_jax.two.shared()
```
"""
FILES = {
    "conf.py": CONF,
    "toctree.md": "# Pages\n\n```{toctree}\nindex\nother\ncontributing\n```\n",
    "index.md": INDEX,
    "other.md": OBJECTS,
    "contributing.md": "# Contributing\n",
}


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The page of a project with the extensions, in whose build a warning is an error."""
    source = tmp_path_factory.mktemp("docs")
    for name, text in FILES.items():
        (source / name).write_text(text)
    # In a process of its own, since packages of Sphinx give warnings of deprecation, which are
    # errors in tests.
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q"]
    done = subprocess.run(
        [*command, source, source / "site"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    page = (source / "site" / "index.html").read_text()
    return page[page.index('<div class="body"') :]


@pytest.mark.parametrize("name", ["ulpm", "nc.ulpm", "nc_jax.ulpm", "ulpm()"])
def test_a_name_in_backticks_leads_to_the_reference(html, name):
    text = html[html.index("<p>The problem") :]
    link = r'<a class="reference internal" href="other.html#nc_jax.ulpm"[^>]*>\s*<code[^>]*>'
    assert re.search(rf'{link}<span class="pre">{re.escape(name)}</span>', text)


@pytest.mark.parametrize("name", ["unknown.name", "shared", "save_states=True", "‖W‖²"])
def test_other_texts_in_backticks_stay(html, name):
    literal = f'<code class="docutils literal notranslate"><span class="pre">{name}</span></code>'
    before, _, _ = html.partition(literal)
    assert before != html
    # No link is open here.
    assert before.count("<a ") == before.count("</a>")


def test_headings_links_and_code_stay(html):
    (heading,) = re.findall(r"<h1>(.*?)<a ", html)
    assert heading.startswith("The norm ‖W‖² of <code")
    assert "a link to ‖W‖" in html
    assert '"‖W‖²"</span>' in html


def test_equations_of_texts_and_tables_become_mathematics(html):
    equations = re.findall(r'<span class="math notranslate nohighlight">\\\((.*?)\\\)</span>', html)
    assert equations == [r"V = \tfrac12 \|W\|^{2} + \tfrac12 \|H\|^{2}", r"λ_{W} = 2q"]


def test_indented_equations_and_blocks_of_mathematics_are_displayed(html):
    displayed = re.findall(r'<div class="math[^"]*">\s*\\\[(.*?)\\\]</div>', html, re.S)
    assert displayed == [r"\|W\|^{2} = 2V", r"W_{k} = \sum _{i} a_{i} h_{i} \qquad b = 0"]


def test_a_link_to_a_file_beside_the_readme_leads_to_its_page(html):
    assert re.search(r'href="contributing.html"', html)


# What reStructuredText reads as markup, between what docstrings have.
TEXTS = st.lists(
    st.sampled_from(
        ["*", "**", "_", "|", "\\", "a", "W_", "x", "`b`", "``c``", " ", "1", "ᵀ", "(", ")"]
    )
).map("".join)


SILENT = {"report_level": 5, "syntax_highlight": "none"}


@given(text=TEXTS)
def test_a_line_of_a_docstring_has_no_markup_but_backticks(text):
    # A word before, so that the line is a paragraph and no list.
    (line,) = plain_text([f"Then {text}"])
    # Without the roles and directives that a Sphinx of another test may have registered, which
    # need its environment.
    with (
        mock.patch.dict(vars(roles)["_roles"], clear=True),
        mock.patch.dict(vars(directives)["_directives"], clear=True),
    ):
        document = publish_doctree(f".. default-role:: code\n\n{line}", settings_overrides=SILENT)
    kinds = {type(node) for node in document.findall() if isinstance(node, nodes.Inline)}
    assert kinds <= {nodes.literal}, line
    # All characters but backticks are in the text.
    assert document.astext().split() == f"Then {text}".replace("`", "").split()


def test_examples_of_docstrings_stay_as_they_are():
    lines = ["The norm *W*.", "", ">>> a * b_", "[1, *]", "", "Then *c*."]
    assert plain_text(lines) == ["The norm \\*W\\*.", *lines[1:5], "Then \\*c\\*."]


def test_the_reference_has_each_object_once_under_the_name_of_users():
    found = [pair for homes in pages().values() for objects in homes.values() for pair in objects]
    names = [name for name, _ in found]
    assert len(names) == len(set(names)) == len({id(value) for _, value in found})
    assert {"nc_jax.gradient_flow", "nc_jax.exact.seli", "nc_jax.metrics.zhu_nc1"} <= set(names)


def test_a_failed_example_ends_the_build(monkeypatch, tmp_path):
    def fail(entries, cache):
        raise FailedExampleError("python examples/x.py: exit status 1: no", "Traceback")

    monkeypatch.setattr(gallery, "results_of", fail)
    app: Any = SimpleNamespace(srcdir=str(tmp_path))
    with pytest.raises(ExtensionError, match=r"^python examples/x.py: exit status 1: no$"):
        gallery.write_gallery(app)
