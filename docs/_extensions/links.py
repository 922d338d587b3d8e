"""Sphinx extension: links to the reference, and to pages that stand outside of `docs`.

A public name in backticks becomes a link: `exact.seli`, `nc.exact.seli`, `Flow.batch` and `ulpm`
are found, and a name that several objects have stays as it is. Links to CONTRIBUTING.md and
CHANGELOG.md, which stand beside the README, lead to the pages of the site that include them.
"""

import re
from collections import defaultdict
from pathlib import Path

from ancestors import is_within
from docutils import nodes
from public_names import NAMESPACES
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode


class LinksOfNames(SphinxPostTransform):
    """Wrap each literal that names a documented object in a link."""

    default_priority = 400

    def run(self, **kwargs: object) -> None:
        """Replace the literals of a page."""
        objects = self.env.domains.python_domain.objects
        by_end = _by_end(objects)
        for literal in list(self.document.findall(nodes.literal)):
            if is_within(literal, (nodes.reference, nodes.title)):
                continue
            name = _full_name(literal.astext(), by_end)
            if name is None:
                continue
            entry = objects[name]
            link = make_refnode(
                self.app.builder, self.env.docname, entry.docname, entry.node_id,
                literal.deepcopy(), name,
            )  # fmt: skip
            literal.replace_self(link)


def _by_end(objects) -> dict[str, set[str]]:
    """Full names of objects by each of their ends: `a.b.c`, `b.c`, `c`."""
    by_end = defaultdict(set)
    for name in objects:
        parts = name.split(".")
        for start in range(len(parts)):
            by_end[".".join(parts[start:])].add(name)
    return by_end


def _full_name(text: str, by_end: dict[str, set[str]]) -> str | None:
    name = text.removesuffix("()").removeprefix("nc_jax.").removeprefix("nc.")
    # A name of `nc` may be written with the module that has it too, such as `losses.Focal`.
    module, _, last = name.rpartition(".")
    at_top = by_end.get(f"nc_jax.{last}") if module in NAMESPACES else None
    names = by_end.get(f"nc_jax.{name}") or by_end.get(name) or at_top or set()
    return next(iter(names)) if len(names) == 1 else None


def _link_included(text: str) -> str:
    return re.sub(
        r"\]\((?:\.\./)?(CONTRIBUTING|CHANGELOG)\.md", lambda m: f"](/{m[1].lower()}.md", text
    )


def _read_source(app: Sphinx, docname: str, source: list[str]) -> None:
    source[0] = _link_included(source[0])


def _read_included(app: Sphinx, path: Path, docname: str, source: list[str]) -> None:
    source[0] = _link_included(source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the transform and the events."""
    app.add_post_transform(LinksOfNames)
    app.connect("source-read", _read_source)
    app.connect("include-read", _read_included)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
