"""Pages of the gallery, as MyST Markdown, from entries and results of their runs."""

import ast
import functools
import importlib.util
import re
import shutil
from html import escape
from pathlib import Path

from gallery_runs import AT_A_TIME, ROOT, Entry, Result
from gallery_uses import EXAMPLES, names_used
from PIL import Image, ImageOps

INTERACTIVE = "interactive"
THUMBNAIL = (400, 270)
# Without the list of its headings on the right the page has more width for the figures.
WIDE = """---
html_theme.sidebar_secondary.remove: true
---"""
# A package without which an example is not run, as readers know it.
PACKAGES = {"torch": "PyTorch"}


def write_pages(entries: list[Entry], results: dict[str, Result], folder: Path) -> None:
    """Write a page for each entry, the index, and the images and HTML files that they show."""
    for entry in entries:
        result = results.get(entry.name)
        if result is not None:
            _copy_files(entry, result, folder)
        write_thumbnail(still_of(entry, result), folder / thumbnail_of(entry))
        _write(folder / f"{entry.name}.md", page(entry, result))
    _write(folder / "index.md", index(entries, results))


def page(entry: Entry, result: Result | None) -> str:
    """The page of an example; without a result, for one that this build did not run."""
    shown = _figures_of_run(entry) if result else ""
    blocks = [
        WIDE,
        f"# {entry.title}",
        _escaped(summary_of(entry.name)),
        _fenced("console", f"$ {entry.command}"),
        _run_time(entry, result),
        shown,
        "## What to read off it",
        entry.read.strip(),
        *_stored_figures(entry, result),
        "## Output and source",
        _dropdown("Printed output", _fenced("text", result.printed.rstrip())) if result else "",
        _dropdown(f"Source of examples/{entry.name}.py", _source(entry)),
        f"The file: {{download}}`examples/{entry.name}.py <../../examples/{entry.name}.py>`.",
        "## Functions used",
        ", ".join(f"`{name}`" for name in names_used(entry.name)),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def index(entries: list[Entry], results: dict[str, Result]) -> str:
    """The first page of the gallery: a card for each example, by group."""
    groups = list(dict.fromkeys(entry.group for entry in entries))
    blocks = ["# Gallery", _totals(results)]
    for group in groups:
        members = [entry for entry in entries if entry.group == group]
        # One card alone in a row of three would leave two places empty.
        alone = len(members) == 1
        cards = [card(entry, results.get(entry.name), wide=alone) for entry in members]
        columns = "1" if alone else "1 2 3 3"
        blocks += [
            f"## {group}",
            "\n".join([f"::::{{grid}} {columns}", ":gutter: 3", "", *cards, "::::"]),
        ]
    names = "\n".join(entry.name for entry in entries)
    blocks.append(f"```{{toctree}}\n:hidden:\n\n{names}\n```")
    return "\n\n".join(blocks) + "\n"


def card(entry: Entry, result: Result | None, *, wide: bool = False) -> str:
    """The card of an example: thumbnail, or the whole figure if wide; title, summary, run time."""
    first = next(iter(entry.figures))
    image = shown_file(entry, first) if wide and result else thumbnail_of(entry)
    time = f"{result.seconds:.0f} s" if result else "not run in this build"
    alt = next(iter(entry.figures.values()))
    return f""":::{{grid-item-card}} {entry.title}
:img-top: {image}
:img-alt: {alt}
:link: {entry.name}
:link-type: doc

{_escaped(summary_of(entry.name))}

`{entry.name}.py`, {time}
:::
"""


def still_of(entry: Entry, result: Result | None) -> Path:
    """The image of the thumbnail: the first figure of the run, or else the stored one."""
    first = next(iter(entry.figures))
    if result:
        return result.folder / first
    stored = [figures[first] for _, figures in stored_figures(entry.name)]
    return ROOT / "docs" / stored[0]


def write_thumbnail(image: Path, target: Path) -> None:
    """Write the image in the size that all cards have, on white.

    Of a wide image the left part is shown, since all of it would be too small to recognise.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(image) as opened:
        on_white = Image.alpha_composite(
            Image.new("RGBA", opened.size, "white"), opened.convert("RGBA")
        )
    plain, (width, height) = on_white.convert("RGB"), THUMBNAIL
    if plain.width / plain.height > width / height:
        ImageOps.fit(plain, THUMBNAIL, centering=(0, 0)).save(target)
    else:
        ImageOps.pad(plain, THUMBNAIL, color="white").save(target)


def thumbnail_of(entry: Entry) -> str:
    """The thumbnail of an entry, relative to the pages."""
    return f"images/{entry.name}-thumbnail.png"


def shown_file(entry: Entry, file: str) -> str:
    """The copy of a file of a run, relative to the pages."""
    return f"{INTERACTIVE if file in entry.interactive else 'images'}/{entry.name}-{file}"


def summary_of(name: str) -> str:
    """The first paragraph of an example's docstring, on one line."""
    tree = ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))
    return " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())


def stored_figures(name: str) -> list[tuple[str, dict[str, str]]]:
    """Flags and figures of docs/ that an example has drawn: files in docs/ by those in OUT."""
    return [
        (command.partition(" ")[2], {_file(saved): _file(to) for saved, to in figures.items()})
        for command, figures in _stored_commands().items()
        if command.partition(" ")[0] == name
    ]


def _file(figure: str) -> str:
    """The file of a figure of docs/figures.py, where names without a suffix are PNGs."""
    return figure if "." in figure else f"{figure}.png"


@functools.cache
def _stored_commands() -> dict[str, dict[str, str]]:
    spec = importlib.util.spec_from_file_location("figures", ROOT / "docs" / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.COMMANDS


def _run_time(entry: Entry, result: Result | None) -> str:
    if result is None:
        package = PACKAGES[entry.needs]
        return f"Not run in this build: it needs {package}. The figures are stored ones."
    time = (
        f"Run time: **{result.seconds:.0f} s** in this build, with compilation, on a machine of "
        f"{result.cores} cores on which {AT_A_TIME} examples run at a time."
    )
    if not entry.flags:
        return f"{time} These are the default settings."
    return (
        f"{time} The settings are smaller than the defaults, so that the site is built in minutes. "
        f"With the defaults: `python examples/{entry.name}.py`."
    )


def _figures_of_run(entry: Entry) -> str:
    frames = [_frame(entry, file, title) for file, title in entry.interactive.items()]
    images = [_image(shown_file(entry, file), alt) for file, alt in entry.figures.items()]
    return "\n\n".join([*frames, *images])


def _frame(entry: Entry, file: str, title: str) -> str:
    address = shown_file(entry, file)
    return f"""```{{raw}} html
<iframe class="gallery-frame" src="{address}" title="{escape(title)}" loading="lazy"></iframe>
<p><a href="{address}">Open the interactive figure alone, on a page</a></p>
```"""


def _stored_figures(entry: Entry, result: Result | None) -> list[str]:
    """Blocks with the figures of docs/ that were drawn with other settings than those of a run."""
    blocks: list[str] = []
    for flags, figures in stored_figures(entry.name):
        if result is not None and flags == entry.flags:
            continue
        heading = "## With other settings" if flags else "## With the default settings"
        if heading not in blocks:
            blocks.append(heading)
        command = " ".join(filter(None, ["python", f"examples/{entry.name}.py", flags]))
        blocks.append(f"Stored with the documentation, and drawn by `{command}`:")
        for saved, stored in figures.items():
            alt = entry.figures[saved]
            blocks.append(_image(f"../{stored}", f"{alt} Settings: {flags or 'the defaults'}."))
    return blocks


def _totals(results: dict[str, Result]) -> str:
    minutes = sum(result.seconds for result in results.values()) / 60
    cores = max(result.cores for result in results.values())
    return (
        "Each example is a program: `--help` explains its flags. Figures, run times and printed "
        f"texts are those of this build: its {len(results)} runs took {minutes:.1f} minutes in "
        f"all, {AT_A_TIME} at a time on a machine of {cores} cores. A figure is a link to its file."
    )


def _copy_files(entry: Entry, result: Result, folder: Path) -> None:
    for file in entry.files:
        target = folder / shown_file(entry, file)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(result.folder / file, target)


def _source(entry: Entry) -> str:
    return f"```{{literalinclude}} ../../examples/{entry.name}.py\n:language: python\n```"


def _image(address: str, alt: str) -> str:
    # An image with a width is a link to its file, where narrow screens show details.
    return (
        f"```{{image}} {address}\n:alt: {' '.join(alt.split())}\n:width: 100%\n"
        ":class: gallery-figure\n```"
    )


def _dropdown(title: str, content: str) -> str:
    return f"::::{{dropdown}} {title}\n{content}\n::::"


def _fenced(language: str, text: str) -> str:
    return f"````{language}\n{text}\n````"


def _escaped(text: str) -> str:
    """Text in which Markdown finds no markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|$~])", r"\\\1", text)


def _write(path: Path, text: str) -> None:
    """Write a page if it has changed, since Sphinx reads again what is newer than its store."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
