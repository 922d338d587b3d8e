"""Pages of the built site, read without a browser: the ids and the addresses of each."""

import functools
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

# Attributes that name a file which the browser loads with the page.
_LOADED = {"src", "data", "poster"}
_LOADED_BY_LINK = {"stylesheet", "icon", "preload", "manifest", "modulepreload"}


class Address(NamedTuple):
    """An address in a page, and whether the browser asks for it without a click."""

    text: str
    is_loaded: bool


class Page(HTMLParser):
    """The ids of a page, its addresses, and the tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[Address] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record what the start of an element has."""
        values = {name: value or "" for name, value in attrs}
        self.tags.append((tag, values))
        self.ids += [values["id"]] if "id" in values else []
        # Old pages of other tools have anchors with a name.
        self.ids += [values["name"]] if tag == "a" and "name" in values else []
        for name, value in values.items():
            if name in _LOADED:
                self.addresses.append(Address(value, True))
            elif name == "href":
                kinds = set(values.get("rel", "").split())
                is_loaded = tag == "link" and bool(kinds & _LOADED_BY_LINK)
                self.addresses.append(Address(value, is_loaded))
            elif name == "srcset":
                files = (part.split()[0] for part in value.split(","))
                self.addresses += [Address(file, True) for file in files]


@functools.cache
def read_page(path: Path) -> Page:
    """The page of a file."""
    return Page(path.read_text(encoding="utf-8"))


def pages_of(site: Path) -> list[str]:
    """Addresses of all pages relative to the site, without the templates of themes."""
    paths = (path.relative_to(site) for path in sorted(site.rglob("*.html")))
    return [path.as_posix() for path in paths if path.parts[0] != "_static"]


def host_of(address: str) -> str:
    """The host that an address names; empty for one within the site."""
    return urlsplit(address).netloc


def fault_of(address: str, page: Path, site: Path) -> str | None:
    """Why an address within the site leads nowhere; None where it leads to a file and an id."""
    parts = urlsplit(address)
    if parts.scheme in ("data", "mailto", "javascript"):
        return None
    if parts.scheme:
        return f"an unknown scheme: {address}"
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    target = target / "index.html" if target.is_dir() else target
    if not target.is_relative_to(site.resolve()):
        return f"outside of the site: {address}"
    if not target.is_file():
        return f"no file: {address}"
    fragment = unquote(parts.fragment)
    if fragment and target.suffix == ".html" and fragment not in read_page(target).ids:
        return f"no element with this id: {address}"
    return None
