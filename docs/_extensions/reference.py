"""Sphinx extension: pages of the reference, one for each module that defines public names.

A name is documented under the shortest name by which users call it: `nc_jax.exact.seli`, not
`nc_jax.exact.seli.seli`, which is where it is defined. Docstrings are plain text with backticks
around names, and no reStructuredText; `plain_text` escapes what reStructuredText would read as
markup.
"""

import functools
import importlib
import inspect
import re
from pathlib import Path

from gallery_uses import uses
from public_names import NAMESPACES, is_hidden, pages
from sphinx.application import Sphinx

_LINK_OF_SOURCE = re.compile(r"(?P<page>reference/[\w.]+)\.html#(?P<name>[\w.]+)")
# Such as `<jax._src.custom_derivatives.custom_jvp object at 0x7f>`.
_NO_EXPRESSION = re.compile(r"<[A-Za-z_][^<>]*>")
_MARKUP = re.compile(r"(?P<code>``[^`]+``|`[^`]+`)|[\\*|]|_(?![^\W_])")
# The union that `Float[ArrayLike, "N"]` stands for, and the class that `Array` is.
_ARRAY_LIKE = re.compile(
    r"(\w+)\[(?:\w+\.)*Array, ('[^']*')\] \| ~?(?:\w+\.)*\1\[(?:\w+\.)*ndarray, \2\]"
    r"(?: \| ~?(?:numpy\.)?(?:number|bool_?|int|float|complex)\b)*"
)
_ARRAY = re.compile(r"\b(?:\w+\.)+Array\b")
# A line or description that begins with one letter or number and a dot would be a list.
_LIST = re.compile(r"(^\s*|: )([A-Za-z]|\d+)(?=[.)](?:\s|$))")
_LABEL = re.compile(r"^(Args|Raises|Returns|Example|Attributes): (?=\S)")


def plain_text(lines: list[str]) -> list[str]:
    """Lines of a docstring with everything escaped that reStructuredText would read as markup.

    Examples, which begin with `>>>` and end with an empty line, stay as they are. Labels such as
    `Raises:` with a text on the same line become bold.
    """
    escaped, is_example = [], False
    for line in lines:
        is_example = line.lstrip().startswith(">>>") or (is_example and line.strip() != "")
        escaped.append(line if is_example else _LABEL.sub(r"**\1:** ", _escape(line)))
    return escaped


def _escape(line: str) -> str:
    def escaped(match: re.Match) -> str:
        if not match["code"]:
            return "\\" + match[0]
        # Markup begins and ends beside a space or certain marks; "\\ ", which is shown as nothing,
        # separates it from all others, such as the plural of `Array`s.
        before, after = line[: match.start()][-1:], line[match.end() :][:1]
        start, end = ("\\ " if beside.strip() else "" for beside in (before, after))
        return f"{start}{match['code']}{end}"

    return _LIST.sub(r"\1\2\\", _MARKUP.sub(escaped, line))


def _write_pages(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "reference"
    folder.mkdir(exist_ok=True)
    written = {}
    for namespace, by_home in pages().items():
        names = []
        for home, objects in by_home.items():
            part = home.removeprefix(f"{NAMESPACES[namespace]}.").removeprefix("nc_jax.")
            name = f"{namespace or 'nc'}.{part}"
            written[name] = _module_page(home, objects)
            names.append(name)
        written[f"index_{namespace or 'nc_jax'}"] = _namespace_page(namespace, by_home, names)
    written["index"] = _index_page()
    for old in folder.glob("*.rst"):
        if old.stem not in written:
            old.unlink()
    for name, text in written.items():
        path = folder / f"{name}.rst"
        # Sphinx reads again what is newer than its last build.
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _heading(title: str, line: str = "=") -> list[str]:
    return [title, line * len(title), ""]


def _title(docstring: str) -> str:
    """The first sentence of a module's docstring, up to a colon or a bracket."""
    return plain_text([re.split(r"[.:](?:\s|$)| \(", docstring)[0]])[0].replace("`", "")


def _module_page(home: str, objects: list[tuple[str, object]]) -> str:
    text = inspect.getdoc(importlib.import_module(home)) or ""
    lines = [*_heading(_title(text)), *plain_text(text.splitlines()), ""]
    for name, value in objects:
        if inspect.isclass(value):
            lines += [f".. autoclass:: {name}", "   :members:", "   :show-inheritance:"]
            # The fields of a named tuple are described by the section `Attributes` alone.
            fields = getattr(value, "_fields", ())
            lines += [f"   :exclude-members: {', '.join(fields)}"] if fields else []
            # Members of bases without a page are described here, up to the first base with one.
            shown = [base.__name__ for base in value.__mro__[1:] if not is_hidden(base)]
            if any(map(is_hidden, value.__mro__)):
                lines.append(f"   :inherited-members: {', '.join(shown)}")
            lines.append("")
        else:
            lines += [f".. autofunction:: {name}", ""]
    return "\n".join(lines)


def _namespace_page(namespace: str, by_home: dict, names: list[str]) -> str:
    module_name = NAMESPACES[namespace]
    short = f"nc.{namespace}" if namespace else "nc"
    text = inspect.getdoc(importlib.import_module(module_name)) or ""
    lines = [*_heading(short), *plain_text(text.splitlines()), ""]
    lines += [".. list-table::", "   :widths: 40 60", ""]
    for objects in by_home.values():
        for name, value in objects:
            summary = (inspect.getdoc(value) or "").partition("\n\n")[0].replace("\n", " ")
            link = f":py:obj:`{name.removeprefix(f'{module_name}.')} <{name}>`"
            lines += [f"   * - {link}", f"     - {plain_text([summary])[0]}"]
    lines += ["", ".. toctree::", "   :hidden:", "", *(f"   {name}" for name in names), ""]
    return "\n".join(lines)


def _index_page() -> str:
    lines = [*_heading("Reference")]
    lines += ["Every public name, from its docstring. ``import nc_jax as nc``.", ""]
    lines += [".. toctree::", "   :maxdepth: 1", ""]
    lines += [f"   index_{namespace or 'nc_jax'}" for namespace in NAMESPACES]
    return "\n".join([*lines, ""])


def _read_docstring(app, what, name, value, options, lines: list[str]) -> None:
    lines[:] = plain_text(lines)


def _add_examples(app, what, name, value, options, lines: list[str]) -> None:
    """End the text of a function or class with links to the examples that use it."""
    if what in ("class", "function"):
        links = [f":doc:`/gallery/{example}`" for example in uses(name)]
        lines += ["", f"**Used in:** {', '.join(links)}.", ""] if links else []


def _name_documented_bases(app, name, value, options, bases: list[type]) -> None:
    """Name the bases of a base that has no page in its place."""
    while hidden := [base for base in bases if is_hidden(base)]:
        position = bases.index(hidden[0])
        bases[position : position + 1] = hidden[0].__bases__


@functools.cache
def _documented_types() -> dict[str, str]:
    """Names under which classes are documented, by the names of where they are defined."""
    return {
        f"{value.__module__}.{value.__qualname__}": name
        for by_home in pages().values()
        for objects in by_home.values()
        for name, value in objects
        if inspect.isclass(value)
    }


def _link_type(app, env, node, content):
    """Link a type, which annotations name by where it is defined, to where it is documented."""
    target = node.get("reftarget")
    name = _documented_types().get(target)
    if name is None:
        # A type that is not public has no page: its name stays as text.
        return content if target.startswith("nc_jax.") else None
    node["reftarget"] = name
    domain = env.get_domain("py")
    return domain.resolve_xref(env, env.docname, app.builder, "obj", name, node, content)


def _shorten_signature(app, what, name, value, options, signature, returned):
    """Write `Float[ArrayLike, "N"]` and `Array` for what they stand for.

    A default that is no expression becomes `...`, since Sphinx reads no types beside it.
    """
    texts = (signature and _NO_EXPRESSION.sub("...", signature), returned)
    short = [text and _ARRAY_LIKE.sub(r"\1[ArrayLike, \2]", text) for text in texts]
    return tuple(text and _ARRAY.sub("Array", text) for text in short)


def _correct_links_of_sources(app, pagename, templatename, context, doctree) -> None:
    """Lead the links of pages of sources to names: viewcode gives all of a page the first prefix.

    `Exponential`, in the same module as an object of `nc_jax`, is then `nc_jax.Exponential` there,
    and `nc_jax.losses.Exponential` in the reference.
    """
    if not pagename.startswith("_modules/"):
        return
    objects = app.env.get_domain("py").objects

    def corrected(match: re.Match) -> str:
        parts = match["name"].split(".")
        for start in range(len(parts)):
            end = "." + ".".join(parts[start:])
            for name, entry in objects.items():
                if entry.docname == match["page"] and f".{name}".endswith(end):
                    return f"{match['page']}.html#{name}"
        return match[0]

    context["body"] = _LINK_OF_SOURCE.sub(corrected, context["body"])


def _correct_signatures(app, pagename, templatename, context, doctree) -> None:
    """Say that the lines of a long signature are no definitions: Sphinx writes them as a list."""
    if "body" in context:
        lines = '<dl>\n<dd><em class="sig-param">'
        context["body"] = context["body"].replace(
            lines, lines.replace("dl", 'dl role="presentation"')
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx reads its sources, and escape docstrings before napoleon."""
    app.connect("builder-inited", _write_pages)
    app.connect("autodoc-process-signature", _shorten_signature)
    app.connect("autodoc-process-bases", _name_documented_bases)
    app.connect("missing-reference", _link_type)
    app.connect("html-page-context", _correct_links_of_sources)
    app.connect("html-page-context", _correct_signatures)
    app.connect("autodoc-process-docstring", _read_docstring, priority=400)
    # After napoleon, which would take the line for a part of the last section.
    app.connect("autodoc-process-docstring", _add_examples, priority=600)
    return {"parallel_read_safe": True}
