"""The gallery: its table, the runs of its examples, its pages, and which names examples use."""

import dataclasses
import importlib
import json
import re

import gallery_pages
import gallery_runs
import pytest
from gallery_runs import Entry, FailedExampleError, Result
from gallery_uses import names_used, programs, uses
from PIL import Image

ENTRIES = {entry.name: entry for entry in gallery_runs.read_entries()}
STORED = {path.stem for path in (gallery_runs.ROOT / "docs").glob("*.png")}


def entry_of(name: str = "ulpm_flow", **changes: object) -> Entry:
    return dataclasses.replace(ENTRIES[name], **changes)


def result_in(folder, entry: Entry, **changes: object) -> Result:
    """A result as a run would give it, with plain files."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in entry.figures:
        Image.new("RGBA", (900, 300), (255, 0, 0, 128)).save(folder / file)
    for file in entry.interactive:
        (folder / file).write_text("<p>figure</p>")
    result = Result(seconds=12.3, cores=4, printed="a table\n```\n", folder=folder)
    return dataclasses.replace(result, **changes)


def test_every_program_has_an_entry_and_every_entry_a_program():
    assert sorted(ENTRIES) == programs()


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_has_flags_that_its_example_accepts_and_texts(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    entry = ENTRIES[name]
    importlib.import_module(name).parse(entry.flags.split())
    assert entry.title
    assert entry.group
    assert entry.read.count(". ") + entry.read.count(".\n") >= 2
    assert entry.figures
    # Figures of the documentation that the page shows too are described.
    for flags, figures in gallery_pages.stored_figures(name):
        if flags != entry.flags or entry.needs:
            assert set(figures) <= set(entry.figures)
    for description in [*entry.figures.values(), *entry.interactive.values()]:
        assert len(description.split()) >= 4
        assert "\n" not in description


def test_a_page_has_figures_time_text_output_and_source(tmp_path):
    entry = entry_of(flags="--K 3")
    text = gallery_pages.page(entry, result_in(tmp_path, entry))
    assert f"---\n\n# {entry.title}\n" in text
    assert "$ python examples/ulpm_flow.py --K 3\n" in text
    assert "**12 s**" in text
    assert "4 cores" in text
    assert "smaller than the defaults" in text
    assert "With the defaults: `python examples/ulpm_flow.py`" in text
    assert "```{image} images/ulpm_flow-ulpm_flow.png\n:alt: Four panels" in text
    assert entry.read.strip() in text
    # The printed text may have fences too.
    assert "````text\na table\n```\n````" in text
    assert "{literalinclude} ../../examples/ulpm_flow.py" in text
    assert "{download}`examples/ulpm_flow.py <../../examples/ulpm_flow.py>`" in text
    assert "`nc.ulpm`" in text
    # What docs/figures.py draws with other flags is shown with its command.
    for stored in ("ulpm_flow", "ulpm_flow_far"):
        assert f"```{{image}} ../{stored}.png" in text
    assert "`python examples/ulpm_flow.py --gd --seeds 16`" in text


def test_stored_figures_of_the_same_settings_are_not_shown_again(tmp_path):
    entry = entry_of("losses", flags="")
    text = gallery_pages.page(entry, result_in(tmp_path, entry))
    assert "These are the default settings." in text
    assert "../losses.png" not in text
    smaller = entry_of("losses", flags="--K 3")
    text = gallery_pages.page(smaller, result_in(tmp_path, smaller))
    assert "## With the default settings" in text
    assert "../losses.png" in text


def test_an_example_without_its_package_is_not_run_and_shows_the_stored_figures(tmp_path):
    entry = entry_of("torch_loop", needs="torch")
    absent = dataclasses.replace(entry, needs="a_package_that_nobody_has")
    assert not gallery_runs.can_run(absent)
    assert gallery_runs.results_of([absent], tmp_path) == {}
    text = gallery_pages.page(entry, None)
    assert "Not run in this build: it needs PyTorch." in text
    assert "../torch_loop_depth.png" in text
    assert "images/torch_loop-" not in text
    assert "Printed output" not in text
    assert gallery_pages.still_of(entry, None).stem in STORED


def test_interactive_files_are_embedded_with_a_title_and_a_link(tmp_path):
    entry = entry_of(interactive={"movie.html": 'Means & "classifiers"'})
    result = result_in(tmp_path / "run", entry)
    gallery_pages.write_pages([entry], {entry.name: result}, tmp_path / "gallery")
    text = (tmp_path / "gallery" / "ulpm_flow.md").read_text()
    [address] = re.findall(r'<iframe [^>]*src="([^"]*)"', text)
    assert (tmp_path / "gallery" / address).read_text() == "<p>figure</p>"
    assert 'title="Means &amp; &quot;classifiers&quot;"' in text
    assert 'loading="lazy"' in text
    assert f'<a href="{address}">' in text


def test_the_index_has_a_card_and_a_thumbnail_for_each_entry(tmp_path):
    entries = [entry_of("ulpm_flow"), entry_of("losses"), entry_of("torch_loop")]
    results = {
        entry.name: result_in(tmp_path / entry.name, entry, seconds=90.0) for entry in entries[:2]
    }
    gallery_pages.write_pages(entries, results, tmp_path / "gallery")
    index = (tmp_path / "gallery" / "index.md").read_text()
    assert "its 2 runs took 3.0 minutes in all" in index
    assert "not run in this build" in index
    for entry in entries:
        assert f":link: {entry.name}\n" in index
        assert f"## {entry.group}\n" in index
        with Image.open(tmp_path / "gallery" / gallery_pages.thumbnail_of(entry)) as thumbnail:
            assert thumbnail.width <= 400
            assert thumbnail.mode == "RGB"
            assert thumbnail.height == gallery_pages.THUMBNAIL[1]
    # Cards of one group are in columns; one card alone has the width of the page and the figure.
    assert "::::{grid} 1 2 3 3" in index
    one = gallery_pages.index(entries[:1], results)
    assert "::::{grid} 1\n" in one
    figure = gallery_pages.shown_file(entries[0], next(iter(entries[0].figures)))
    assert f":img-top: {figure}\n" in one
    # A page that has not changed is not written again, since Sphinx would read it again.
    page = tmp_path / "gallery" / "losses.md"
    before = page.stat().st_mtime_ns
    gallery_pages.write_pages(entries, results, tmp_path / "gallery")
    assert page.stat().st_mtime_ns == before


def test_text_of_docstrings_is_no_markup():
    assert gallery_pages._escaped("||W||_F = *norm* of [W], $5 <b>") == (
        r"\|\|W\|\|\_F = \*norm\* of \[W\], \$5 \<b\>"
    )


def test_an_example_is_run_once_and_its_figures_exist(tmp_path):
    entry = entry_of("measure_features")
    result = gallery_runs.results_of([entry], tmp_path)[entry.name]
    for file in entry.files:
        assert (result.folder / file).stat().st_size > 0
    assert result.seconds > 0
    # It runs with its default folder, so that it prints what a user sees.
    assert "results/measure_features" in result.printed
    record = result.folder / "result.json"
    record.write_text(json.dumps({"seconds": 1.0, "cores": 1, "printed": "stored"}))
    assert gallery_runs.results_of([entry], tmp_path)[entry.name].printed == "stored"
    assert gallery_runs.key_of(entry) != gallery_runs.key_of(entry_of(entry.name, flags="--quiet"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flags": "--K 1"}, "exit status 2: ulpm_flow.py: --K: num_classes = 1"),
        ({"flags": "--help"}, "did not write ulpm_flow.png, which gallery.toml names."),
    ],
)
def test_an_example_that_fails_gives_one_line(changes, message, tmp_path):
    with pytest.raises(FailedExampleError) as caught:
        gallery_runs.results_of([entry_of(**changes)], tmp_path)
    text = str(caught.value)
    assert text.startswith(f"python examples/ulpm_flow.py {changes['flags']}: {message}")
    assert "\n" not in text
    assert not list(tmp_path.glob("*/*/result.json"))


@pytest.mark.parametrize("name", ["nc.exact.seli", "nc_jax.exact.seli", "exact.seli"])
def test_a_name_is_found_however_it_is_written(name):
    # The example calls nc.exact.seli, and its figure imports nothing of the kind.
    assert uses(name) == ["seli_flow"]


def test_uses_of_names_methods_and_imports():
    # `from nc_jax.losses import Loss`, and the attribute nc.Loss, are one class.
    assert uses("nc.Loss") == uses("nc.losses.Loss")
    assert "losses" in uses("nc.Loss")
    # Only a module beside the script, or the module of its figure, has the name.
    assert "zhu_optimizers" in uses("nc.cnn.train")
    assert "ulpm_kkt" in uses("nc.plotting.style.figure_legend")
    assert "losses" in uses("UnconstrainedFeatures.init")
    assert uses("nc.UnconstrainedFeatures.no_such_method") == []
    assert uses("nc.no_such_name") == []
    assert "nc.exact.seli" in names_used("seli_flow")
    assert not any(name.startswith("nc.plotting.style") for name in names_used("ulpm_kkt"))
