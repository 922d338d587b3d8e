"""Ctrl-C in an example script."""

import argparse

import pytest
import script


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("message", ["", "interrupted before the first result"])
def test_an_interrupted_script_ends_in_one_line_with_code_130(capsys, message, quiet):
    def run(parser, flags):
        raise KeyboardInterrupt(*filter(None, [message]))

    def parse(arguments):
        return script.Parser(), argparse.Namespace(quiet=quiet)

    with pytest.raises(SystemExit) as ended:
        script.run_script(parse, run, [])
    assert ended.value.code == 130
    [line] = capsys.readouterr().err.strip().splitlines()
    assert (message or "interrupted; files") in line
    assert "Traceback" not in line
