"""The documentation's code runs, its tables are those of the benchmarks, its tests exist."""

import datetime
import importlib
import importlib.util
import json
import re
import shutil
from pathlib import Path

import doc_tables
import jax
import pytest

ROOT = Path(__file__).parent.parent
# A block of code, and the block of text below it where the page shows what the code prints.
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e[+-]?\d+)?")
# Relative difference of a number that a page shows from the number that its code prints: machines
# round differently, and pages show few digits.
SHOWN = 2e-3

PAGES = [path for path in doc_tables.PAGES if BLOCK.search(path.read_text())]
# The blocks of these pages continue each other; those of others are programs by themselves.
IN_ORDER = ("start", "guides")
COMMAND = re.compile(r"python examples/(\w+)\.py((?: --[\w-]+(?: [\w.-]+)*)*)")


def pattern_of(part):
    """The pattern of a part of a shown text: a number, white space, `...` for anything, itself."""
    if NUMBER.fullmatch(part):
        return f"({NUMBER.pattern})"
    if part == "...":
        return ".*?"
    return r"\s+" if part.isspace() else re.escape(part)


def check_printed(printed, shown):
    """Fail unless a printed text is the shown one up to rounding."""
    parts = re.split(rf"(\.\.\.|\s+|{NUMBER.pattern})", shown.strip())
    pattern = "".join(map(pattern_of, parts))
    found = re.fullmatch(pattern, printed.strip(), re.DOTALL)
    assert found, f"printed:\n{printed}\nshown:\n{shown}"
    wanted = [float(part) for part in parts if NUMBER.fullmatch(part)]
    assert [float(number) for number in found.groups()] == pytest.approx(wanted, rel=SHOWN), printed


def test_what_a_page_shows_is_compared_up_to_rounding():
    check_printed("a 0.99999 [1e-5\n  2]\n", "a 1.0 [1.0001e-5 2]")
    check_printed("7.3 s, all 4", "... s, all 4")
    for printed in ("a 1.01", "b 1.0", "a 1.0 2"):
        with pytest.raises(AssertionError):
            check_printed(printed, "a 1.0")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_code_blocks_run(page, capsys, monkeypatch, tmp_path):
    text = page.read_text()
    if "import torch" in text:
        pytest.importorskip("torch")  # in no extra: most builds are for GPUs
    monkeypatch.chdir(tmp_path)  # pages of start and guides save results in the working folder
    names = {}
    for code, shown in BLOCK.findall(text):
        capsys.readouterr()
        names = names if page.parent.name in IN_ORDER else {}
        exec(compile(code, page.name, "exec"), names)
        if shown:
            check_printed(capsys.readouterr().out, shown)
    assert jax.config.values["jax_enable_x64"]


def test_commands_of_pages_have_flags_that_their_examples_accept(monkeypatch, tmp_path):
    pages = [*doc_tables.PAGES, ROOT / "CONTRIBUTING.md"]
    commands = {found for page in pages for found in COMMAND.findall(page.read_text())}
    assert ("ulpm_flow", " --K 5 --d 20") in commands
    monkeypatch.chdir(tmp_path)
    for name, flags in sorted(commands):
        importlib.import_module(name).parse(flags.split())


def test_scripts_that_pages_name_exist():
    pages = [*doc_tables.PAGES, ROOT / "CONTRIBUTING.md"]
    names = {name for page in pages for name in re.findall(r"[\w/]+/\w+\.py", page.read_text())}
    roots = [ROOT, ROOT / "nc_jax", ROOT / "tests"]
    missing = [name for name in sorted(names) if not any((root / name).exists() for root in roots)]
    assert missing == []


def test_every_figure_has_its_command_and_its_place(capsys, monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("figures", ROOT / "docs" / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    saved = figures.COMMANDS.values()
    drawn = [figures.file_name(figure) for names in saved for figure in names.values()]
    images = [*(ROOT / "docs").glob("*.png"), *(ROOT / "docs").glob("*.gif")]
    assert sorted(drawn) == sorted(path.name for path in images)
    text = "".join(path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
    assert all(f"{figure})" in text for figure in drawn)
    # The commands are ones that their examples take.
    monkeypatch.chdir(tmp_path)
    for command in figures.COMMANDS:
        name, *flags = command.split()
        importlib.import_module(name).parse(flags)
    figures.main(["--list", "ulpm_flow_far"])
    listed = "ulpm_flow_far: python examples/ulpm_flow.py --seeds 16 --decades 1000000\n"
    assert capsys.readouterr().out == listed


def test_every_file_that_a_page_links_to_exists():
    for page in {*ROOT.glob("*.md"), *doc_tables.PAGES}:
        # The build of the site checks links to the pages that it generates.
        targets = re.findall(
            r"\]\(((?!\.\./(?:gallery|reference)/)[^)#:]+)(?:#[^)]*)?\)", page.read_text()
        )
        missing = [target for target in targets if not (page.parent / target).exists()]
        assert missing == [], page.name


def test_no_line_of_text_begins_with_a_percent_sign():
    # MyST reads it as a comment, and the text after it as another paragraph.
    for page in doc_tables.PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        assert not re.findall(r"^\s*%.*", text, re.MULTILINE), page.name


def test_the_commands_of_pre_commit_are_those_of_ci():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    entries = re.findall(r"entry: (.*)", hooks)
    script = (ROOT / ".ci" / "run").read_text()
    commands = [entry for entry in entries if not entry.startswith("python ")]
    assert commands == ["ruff check", "ruff format --check", "pyright"]
    assert all(command in script for command in commands)
    # The remaining hook is a test here: the tables of the documentation.
    assert set(entries) - set(commands) == {"python benchmarks/doc_tables.py --check"}
    assert "run: .ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


@pytest.mark.parametrize("page", ["papers.md", "beyond.md"])
def test_every_test_that_a_page_of_equations_names_exists(page):
    text = (ROOT / "docs" / page).read_text()
    sources = {str(p.relative_to(ROOT / "tests")): p.read_text() for p in ROOT.rglob("test_*.py")}
    files = set(re.findall(r"`([\w/]*test_\w+\.py)", text))
    assert files <= set(sources)
    named = re.findall(r"`([\w/]*)(?:…|\w+\.py)::(test_\w+)", text)
    assert len(named) > 10
    for folder, name in named:
        found = [f for f, source in sources.items() if f.startswith(folder) and name in source]
        assert found, f"{folder}::{name}"


def test_every_symbol_that_beyond_md_names_exists():
    text = (ROOT / "docs" / "beyond.md").read_text()
    prefixes = "exact|metrics|landscape|losses|problems|geometry"
    names = set(re.findall(rf"`(?:nc\.)?((?:{prefixes})\.\w+)", text))
    assert len(names) > 30
    missing = []
    for name in sorted(names):
        module, attribute = name.split(".")
        if not hasattr(importlib.import_module(f"nc_jax.{module}"), attribute):
            missing.append(name)
    assert missing == []


def test_tables_are_what_the_script_makes_from_the_numbers_of_the_benchmarks():
    names = []
    for page in doc_tables.PAGES:
        text = page.read_text()
        assert doc_tables.with_tables(text) == text, (
            f"{page.name}: run python benchmarks/doc_tables.py"
        )
        assert text.count("<!-- table:") == text.count("<!-- end of table -->")
        names += [found[1] for found in doc_tables.REGION.findall(text)]
    assert sorted(names) == sorted(doc_tables.TABLES)


def test_a_changed_number_changes_the_table_in_the_page(monkeypatch, tmp_path):
    shutil.copytree(doc_tables.RESULTS, tmp_path, dirs_exist_ok=True)
    report = json.loads((tmp_path / "sweep.json").read_text())
    report["rows"][0]["rate"] = 987654.0
    (tmp_path / "sweep.json").write_text(json.dumps(report))
    page = (ROOT / "docs" / "sweeps.md").read_text()
    monkeypatch.setattr(doc_tables, "RESULTS", tmp_path)
    assert "9.877e+05" in doc_tables.with_tables(page)


@pytest.mark.parametrize("path", sorted(doc_tables.RESULTS.glob("*.json")), ids=lambda p: p.stem)
def test_numbers_of_benchmarks_say_where_and_when_they_were_measured(path):
    machine = json.loads(path.read_text())["machine"]
    assert machine["cpu"]
    assert machine["cores"] >= 1
    datetime.date.fromisoformat(machine["date"][:10])
