"""Sphinx extension: a page for each example, with its figures, run time and printed output.

At the start of a build it runs the examples of docs/gallery.toml and writes docs/gallery/.
"""

import shutil
from pathlib import Path
from typing import Any

from gallery_pages import INTERACTIVE, write_pages
from gallery_runs import AT_A_TIME, FailedExampleError, read_entries, results_of
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging

logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the extension to the start and the end of a build."""
    app.add_css_file("gallery.css")
    app.connect("builder-inited", write_gallery)
    app.connect("build-finished", copy_interactive)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_gallery(app: Sphinx) -> None:
    """Run the examples, and write the pages of the gallery; a failed example ends the build."""
    docs = Path(app.srcdir)
    entries = read_entries()
    logger.info("gallery: %d examples, %d at a time, some minutes", len(entries), AT_A_TIME)
    try:
        results = results_of(entries, docs / "_gallery_cache")
    except FailedExampleError as error:
        logger.info(error.details)
        raise ExtensionError(str(error)) from None
    write_pages(entries, results, docs / "gallery")


def copy_interactive(app: Sphinx, exception: Exception | None) -> None:
    """Copy the HTML files that pages embed, which Sphinx does not know, into the site."""
    source = Path(app.srcdir) / "gallery" / INTERACTIVE
    if exception is None and source.is_dir():
        shutil.copytree(source, Path(app.outdir) / "gallery" / INTERACTIVE, dirs_exist_ok=True)
