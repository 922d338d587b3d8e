"""The example scripts, run as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import script
import ulpm_flow

from nc_jax import storage

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_flow_example_prints_its_table_and_saves_its_results(tmp_path, capsys):
    ulpm_flow.main(["--K", "3", "--d", "4", "--n", "2", "--decades", "20", "--out", str(tmp_path)])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    header = next(line for line in lines if "loss" in line and "drift" in line)
    assert header.split()[:4] == ["t", "loss", "margin", "of"]
    assert "1.00e+20" in [line.split()[0] for line in lines if line.strip()]
    assert "100.00%" in printed.err  # the progress bar
    assert (tmp_path / "ulpm_flow.png").stat().st_size > 10_000
    flow = storage.load(tmp_path / "flow.zarr")
    assert flow.attrs["K"] == "3"
    assert flow["objective"][-1] < flow["objective"][0]


def test_beyond_ten_to_the_ten_thousand_the_stabilised_solver_is_taken(tmp_path, capsys):
    ulpm_flow.main(
        f"--K 3 --d 4 --n 2 --decades 1000000 --rtol 1e-4 --no-plot --out {tmp_path}".split()
    )
    printed = capsys.readouterr().out
    assert "RKC" in printed.splitlines()[0]
    assert "flow to t = 10^1000000" in printed
    assert "1.00e+1000000" in printed
    flow = storage.load(tmp_path / "flow.zarr")
    assert flow.attrs["solver"] == "RKC"
    # L t log t tends to √n (K-1)/2.
    last = flow.isel(time=-1)
    log_time = float(last["log_time"])
    ratio = float(last["log_objective"]) + log_time + np.log(log_time) - np.log(np.sqrt(2))
    assert abs(ratio) < 1e-3


def test_descent_is_put_on_the_time_of_the_flow_and_seeds_make_bands(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ulpm_flow, "DESCENT_STEPS", 300)
    ulpm_flow.main(
        "--K 3 --d 4 --n 2 --decades 3 --gd --seeds 3 --dtype float32 --solver Dopri5 --rtol 1e-5 "
        f"--no-plot --out {tmp_path}".split()
    )
    flow, descent = (storage.load(tmp_path / f"{run}.zarr") for run in ("flow", "descent"))
    assert flow["objective"].dims == descent["objective"].dims == ("seed", "time")
    assert flow["objective"].dtype == np.float32
    np.testing.assert_allclose(np.expm1(descent["log_time"][-1]), 5 * 300 / 6, rtol=1e-5)
    assert not (tmp_path / "ulpm_flow.png").exists()
    assert "medians over seeds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--K 1", "num_classes = 1"),
        ("--d 0", "feature_dim = 0"),
        ("--n 0", "every class needs 1"),
        ("--solver Euler", "invalid choice: 'Euler' (choose from"),
        ("--rtol 1e-20", "rtol = 1e-20"),
        ("--dtype float32 --rtol 1e-9", "use float64"),
        ("--norm nan", "--norm nan: give a finite number > 0"),
        ("--norm 0", "--norm 0: give a finite number > 0"),
        ("--seed -1", "--seed -1: give an integer from 0"),
        ("--seeds 0", "--seeds 0: give an integer >= 1"),
        ("--decades -1", "--decades -1"),
        ("--sed 3", "unrecognized arguments: --sed 3"),
        ("--out /dev/null/x", "cannot write to /dev/null/x"),
    ],
)
def test_a_bad_flag_is_one_line_and_exit_2(flags, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        ulpm_flow.main(flags.split())
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize("flags", ["--decades 0.5", "--K 2 --d 1 --n 1 --decades 3"])
def test_the_smallest_cases_draw_their_figure(flags, tmp_path):
    # Less than a decade of time; measures that are identically zero.
    ulpm_flow.main(["--K", "3", "--d", "3", "--n", "1", *flags.split(), "--out", str(tmp_path)])
    assert (tmp_path / "ulpm_flow.png").stat().st_size > 10_000


def test_help_names_every_default():
    result = subprocess.run(
        [sys.executable, "ulpm_flow.py", "--help"],
        cwd=EXAMPLES, capture_output=True, text=True, check=True,
        env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    for flag in ("--K", "--decades", "--gd", "--seeds", "--norm", "--rtol", "--no-plot"):
        assert flag in result.stdout
    assert "default None" not in result.stdout


@pytest.mark.parametrize(
    ("log10_value", "text"),
    [
        (0.0, "1"), (2.0, "100"), (5.0, "1.00e+5"), (-12.3, "5.01e-13"), (1000.0, "1.00e+1000"),
        (999.9999999999, "1.00e+1000"), (-1e6, "1.00e-1000000"), (-np.inf, "0"),
    ],
)  # fmt: skip
def test_numbers_outside_the_range_of_floats_are_readable(log10_value, text):
    assert script.number(log10_value) == text
