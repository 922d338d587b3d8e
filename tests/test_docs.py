"""The code blocks of the documentation run as they stand, and the tests it names exist."""

import importlib
import importlib.util
import re
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize(
    "page", ["README.md", "docs/cnn.md", "docs/extending.md", "docs/landscape.md", "docs/sweeps.md"]
)
def test_code_blocks_run(page, capsys):
    blocks = BLOCK.findall((ROOT / page).read_text())
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {})
    assert jax.config.values["jax_enable_x64"]


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
