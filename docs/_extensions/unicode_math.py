"""Sphinx extension: equations in plain Unicode are rendered by MathJax; see `tex`.

A paragraph that is indented, and has an equation in it, is a displayed equation. So is a fenced
block of the language `math` in Markdown. Headings, code, links and signatures stay as they are.
"""

import re

from ancestors import is_within
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from tex import Part, find, to_tex

_NOT_IN = (
    nodes.FixedTextElement, nodes.field_name, nodes.literal, nodes.math, nodes.raw, nodes.reference,
    nodes.term, nodes.title, addnodes.desc_signature, addnodes.pending_xref, nodes.comment,
    addnodes.index, addnodes.literal_strong,
    addnodes.literal_emphasis, nodes.system_message, nodes.image,
)  # fmt: skip


class EquationsInUnicode(SphinxTransform):
    """Replace equations in texts by nodes of mathematics."""

    # Before Sphinx's smart quotes (750), which would change primes.
    default_priority = 740

    def apply(self, **kwargs: object) -> None:
        """Convert displayed equations first, and then the equations within texts."""
        for quote in list(self.document.findall(nodes.block_quote)):
            if len(quote) == 1 and _is_display(quote[0]):
                quote.replace_self(_display(quote.astext()))
        for block in list(self.document.findall(nodes.literal_block)):
            if block.get("language") == "math":
                block.replace_self(_display(block.astext()))
        for text in list(self.document.findall(nodes.Text)):
            if not is_within(text, _NOT_IN):
                _replace(text)


def _is_display(node: nodes.Node) -> bool:
    text = node.astext()
    is_plain = isinstance(node, nodes.paragraph) and all(
        isinstance(child, nodes.Text) for child in node
    )
    in_equations = sum(len(part.text) for part in find(text) if part.is_math)
    return is_plain and in_equations > 0.4 * len(text)


def _display(text: str) -> nodes.math_block:
    """A displayed equation; three spaces separate equations that stand on one line."""
    rows = []
    for line in text.strip().splitlines():
        equations = re.split(r"\s{3,}", line.strip())
        # Pages are 75 letters wide, and phones 40.
        separator = r" \qquad " if len(line) < 60 else r" \\ "
        rows.append(separator.join(map(_with_words, equations)))
    tex = r" \\ ".join(rows)
    if r" \\ " in tex:
        tex = rf"\begin{{gathered}}{tex}\end{{gathered}}"
    # The attributes that Sphinx's writers expect.
    return nodes.math_block("", tex, nowrap=False, number=None, label=None)


def _with_words(text: str) -> str:
    """TeX of an equation that may have words in it."""
    return "".join(
        to_tex(part.text) if part.is_math else rf"\text{{{part.text}}}" for part in find(text)
    )


def _replace(text: nodes.Text) -> None:
    parts = find(text.astext())
    if any(part.is_math for part in parts):
        text.parent.replace(text, [_node(part) for part in parts])


def _node(part: Part) -> nodes.Node:
    if not part.is_math:
        return nodes.Text(part.text)
    tex = to_tex(part.text)
    return nodes.math(tex, tex)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the transform."""
    app.add_transform(EquationsInUnicode)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
