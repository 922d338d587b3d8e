"""Progress bars: what is written to a terminal, and what to a file."""

import io
import time
from contextlib import redirect_stderr

import pytest

from nc_jax import progress
from nc_jax.progress import Bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def quick(monkeypatch):
    """A bar that is due after a hundredth of the time."""
    monkeypatch.setattr(progress, "_QUIET_SECONDS", 0.01)
    monkeypatch.setattr(progress, "_FILE_SECONDS", 0.1)


@pytest.mark.usefixtures("quick")
def test_a_bar_says_that_it_compiles_while_it_compiles():
    with redirect_stderr(Terminal()) as stderr, Bar(4, "sweep", True, unit="run") as bar:
        with bar.doing("compiling"):
            time.sleep(0.1)
            assert "sweep, compiling:   0%" in stderr.getvalue()
        before = len(stderr.getvalue())
        time.sleep(0.11)  # tqdm draws ten times a second
        bar.show(2, failed=1)
    after = stderr.getvalue()[before:]
    assert "sweep:  50%" in after
    assert "failed=1" in after
    assert "compiling" not in after


@pytest.mark.usefixtures("quick")
def test_a_file_gets_a_line_once_in_a_while():
    stderr = io.StringIO()
    with redirect_stderr(stderr), Bar(100, "sweep", True) as bar, bar.doing("compiling"):
        began = time.monotonic()
        for done in range(1, 101):
            bar.show(done)
            time.sleep(0.003)
        allowed = (time.monotonic() - began) / 0.1 + 2  # and one at the end
    drawn = stderr.getvalue().count("sweep:")
    assert 1 <= drawn <= allowed
    assert "compiling" not in stderr.getvalue()


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_a_short_run_writes_nothing(stream):
    stderr = stream()
    with redirect_stderr(stderr), Bar(2, "flow", True) as bar, bar.doing("compiling"):
        bar.show(1)
        bar.show(2)
    assert stderr.getvalue() == ""


@pytest.mark.usefixtures("quick")
def test_the_last_line_is_printed_where_the_bar_has_appeared():
    with redirect_stderr(Terminal()) as stderr, Bar(2, "sweep", True) as bar:
        bar.conclude("too early")
        time.sleep(0.02)
        bar.show(2)
        bar.conclude("2 runs, 0 failed")
    assert "too early" not in stderr.getvalue()
    assert "2 runs, 0 failed\n" in stderr.getvalue()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_a_bar_that_is_not_wanted_writes_nothing(stream):
    stderr = stream()
    with redirect_stderr(stderr), Bar(2, "flow", False) as bar, bar.doing("compiling"):
        time.sleep(0.15)
        bar.show(2)
        bar.write("a line")
        bar.conclude("a last line")
    assert stderr.getvalue() == ""
