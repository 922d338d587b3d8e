"""The documentation's code runs, its tables are those of the benchmarks, its tests exist."""

import datetime
import importlib
import importlib.util
import json
import re
from pathlib import Path

import doc_tables
import jax
import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


PAGES = [path for path in doc_tables.PAGES if BLOCK.search(path.read_text())]
COMMAND = re.compile(r"python examples/(\w+)\.py((?: --[\w-]+(?: [\w.-]+)*)*)")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_code_blocks_run(page, capsys):
    text = page.read_text()
    if "import torch" in text:
        pytest.importorskip("torch")  # in no extra: most builds are for GPUs
    for block in BLOCK.findall(text):
        exec(compile(block, page.name, "exec"), {})
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
    drawn = [figure for saved in figures.COMMANDS.values() for figure in saved.values()]
    assert sorted(drawn) == sorted(path.stem for path in (ROOT / "docs").glob("*.png"))
    text = "".join(path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
    assert all(f"{figure}.png)" in text for figure in drawn)
    # The commands are ones that their examples take.
    monkeypatch.chdir(tmp_path)
    for command in figures.COMMANDS:
        name, *flags = command.split()
        importlib.import_module(name).parse(flags)
    figures.main(["--list", "ulpm_flow_far"])
    listed = "ulpm_flow_far: python examples/ulpm_flow.py --seeds 16 --decades 1000000\n"
    assert capsys.readouterr().out == listed


def test_every_file_that_a_page_links_to_exists():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        targets = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
        missing = [target for target in targets if not (page.parent / target).exists()]
        assert missing == [], page.name


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


def test_every_test_that_papers_md_names_exists():
    text = (ROOT / "docs" / "papers.md").read_text()
    sources = {str(p.relative_to(ROOT / "tests")): p.read_text() for p in ROOT.rglob("test_*.py")}
    files = set(re.findall(r"`([\w/]*test_\w+\.py)", text))
    assert files <= set(sources)
    named = re.findall(r"`([\w/]*)(?:…|\w+\.py)::(test_\w+)", text)
    assert len(named) > 10
    for folder, name in named:
        found = [f for f, source in sources.items() if f.startswith(folder) and name in source]
        assert found, f"{folder}::{name}"


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
    report = json.loads((doc_tables.RESULTS / "sweep.json").read_text())
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
