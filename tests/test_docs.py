"""The code blocks of the documentation run as they stand, and the tests it names exist."""

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
