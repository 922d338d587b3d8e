"""A self-contained HTML page: everything that it needs is in the file, Plotly included."""

import html
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..paths import local_path

# A page may run the scripts and styles in its text, and draw images that they make. The browser
# refuses every request for anything else, so that no page can ask another host for a file.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)


@dataclass(frozen=True, repr=False)
class Page:
    """An HTML page that needs no other file and no network; a notebook shows it in its output.

    A page holds the script of Plotly, 5 MB, and so does a notebook for each page that it shows.

    Attributes:
        html: the text of the page.
        title: its title.
        height: of its frame in a notebook, in pixels.

    Example:

        >>> page = nc.plotting.Page("<!doctype html><title>empty</title>", title="empty")
        >>> page.save(folder / "empty.html").name
        'empty.html'
    """

    html: str
    title: str
    height: int = 800

    def __repr__(self) -> str:
        return f"Page({self.title!r}, {len(self.html) / 1e6:.1f} MB; save(path) writes it)"

    def _repr_html_(self) -> str:
        # `srcdoc` holds the page as an attribute: a link to a file would break when the notebook is
        # moved. Styles and scripts in the frame do not reach the notebook.
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" title="{html.escape(self.title)}" '
            f'style="width: 100%; height: {self.height}px; border: 0"></iframe>'
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page and return its path; the folder is created where there is none.

        Raises: ValueError for a URL or an empty path; OSError if nothing can be written there.
        """
        where = local_path(path)
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(self.html, encoding="utf-8")
        return where


def plotly_script() -> str:
    """The script of Plotly, to be put into a page.

    Raises: ModuleNotFoundError, which names the extra that installs Plotly.

    Example:

        >>> plotly_script().count("</script")
        0
    """
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is not installed, which draws the page: "
            'pip install "nc_jax[interactive]".',
            name=error.name,
        ) from None
    return get_plotlyjs()


def package_text(name: str) -> str:
    """The text of a file beside this one, such as a script."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def embedded(value: object) -> str:
    """A value as JSON that can stand in a script element of a page.

    Example:

        >>> embedded({"name": "</script>"})
        '{"name":"\\\\u003c/script>"}'
    """
    # A browser ends a script at the text "</script", in a string of JSON too.
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with a part in the place of each comment `<!-- {name} -->`.

    Example:

        >>> filled("<p><!-- {text} --></p>", {"text": "one"})
        '<p>one</p>'
    """
    # One pass, so that nothing is replaced within a part.
    return re.sub(r"<!-- \{(\w+)\} -->", lambda found: parts[found[1]], template)
