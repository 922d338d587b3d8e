"""The benchmarks run, and the results of the runs that they time agree."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.slow
def test_the_ulpm_benchmark_times_runs_whose_results_agree(tmp_path):
    pytest.importorskip("torch")
    target = tmp_path / "ulpm.json"
    command = [sys.executable, str(BENCHMARKS / "ulpm.py"), "--quick", "--json", str(target)]
    subprocess.run(command, check=True, capture_output=True)
    rows = json.loads(target.read_text())["rows"]
    errors = {(row["name"], row["dtype"]): row["error"] for row in rows if row["error"] is not None}
    assert errors["nc_jax descent", "float64"] < 1e-9
    assert errors["nc_jax flow, log time", "float64"] < 1e-5
    assert errors["torchdiffeq dopri5, real time", "float64"] < 1e-5


@pytest.mark.slow
def test_the_solver_benchmark_times_runs_whose_results_agree(tmp_path):
    target = tmp_path / "solvers.json"
    command = [sys.executable, str(BENCHMARKS / "solvers.py"), "--quick", "--json", str(target)]
    subprocess.run(command, check=True, capture_output=True)
    rows = json.loads(target.read_text())["rows"]
    assert len(rows) == 6
    for row in rows:
        assert row["state_error"] < 1e-3, row["way"]


@pytest.mark.slow
def test_the_landscape_benchmark_times_runs_whose_results_agree(tmp_path):
    target = tmp_path / "landscape.json"
    command = [sys.executable, str(BENCHMARKS / "landscape.py"), "--quick", "--json", str(target)]
    subprocess.run(command, check=True, capture_output=True)
    rows = json.loads(target.read_text())["rows"]
    assert {row["setup"].split(",")[0] for row in rows} == {"K=4 d=6 n=5", "K=6 d=10 n=6"}
    for row in rows:
        assert row["error"] > -1e-10, row["way"]  # bounds from above
        accurate = "power" not in row["way"]
        assert row["error"] < (1e-8 if accurate else 0.1), row["way"]


@pytest.mark.slow
def test_the_sweep_benchmark_times_runs_whose_results_agree(tmp_path):
    target = tmp_path / "sweep.json"
    command = [sys.executable, str(BENCHMARKS / "sweep.py"), "--quick", "--json", str(target)]
    subprocess.run(command, check=True, capture_output=True)
    report = json.loads(target.read_text())
    ways = [row["way"] for row in report["rows"]]
    assert any("SciPy" in way for way in ways)
    assert "nc_jax sweep, shared steps" in ways
    for row in report["rows"]:
        assert row["error"] <= 1e-6, row["way"]
    assert [row["seeds"] for row in report["by_seeds"]] == [1, 16, 64]


@pytest.mark.slow
def test_the_benchmark_of_deep_starts_times_runs_whose_results_agree(tmp_path):
    target = tmp_path / "deep_starts.json"
    command = [sys.executable, str(BENCHMARKS / "deep_starts.py"), "--quick", "--json", str(target)]
    subprocess.run(command, check=True, capture_output=True)
    rows = json.loads(target.read_text())["rows"]
    assert [row["way"][:5] for row in rows] == ["m = 2", "m = 2", "m = 3", "m = 4"]
    assert rows[0]["ratio"] == 1
    for row in rows:
        assert row["error"] <= 1e-6, row["way"]
        assert row["run"] > 0


@pytest.mark.slow
def test_the_startup_benchmark_loads_in_a_second_process_what_the_first_compiles(tmp_path):
    target = tmp_path / "startup.json"
    command = [sys.executable, str(BENCHMARKS / "startup.py"), "--quick", "--json", str(target)]
    environment = {name: value for name, value in os.environ.items() if "JAX_" not in name}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    report = json.loads(target.read_text())
    rows = {(row["case"], row["process"]): row for row in report["rows"]}
    first, second = (rows["landscape.classify", number] for number in (1, 2))
    assert first["compiled"] > 0
    assert (second["compiled"], second["loaded"]) == (0, first["compiled"])
    assert second["phases"]["compile"] < first["phases"]["compile"]
    assert rows["SciPy to 10^5", 1]["compiled"] == 0
    assert report["script"]["ratio"] > 1


@pytest.mark.slow
def test_the_cnn_benchmark_times_runs_whose_results_agree(tmp_path):
    pytest.importorskip("flax")
    target = tmp_path / "cnn.json"
    command = [sys.executable, str(BENCHMARKS / "cnn.py"), "--quick", "--json", str(target)]
    subprocess.run(command, check=True, capture_output=True)
    report = json.loads(target.read_text())
    ways = {row["way"].split(",")[0] for row in report["training"]}
    assert ways == {"nc_jax", "Flax"} | ({"PyTorch"} if report["left_out"] is None else set())
    for row in report["training"]:
        assert row["failure"] is None
        if row["dtype"] == "float32" and not row["way"].startswith("PyTorch"):
            assert row["loss_error"] < 1e-4, row["way"]
            assert row["gradient_error"] < 1e-4, row["way"]
        # None of what is wrong in float64.
        assert row["rate"] > 0, row["way"]
    assert [row["images"] for row in report["metrics"]] == [256]
    assert [row["seeds"] for row in report["seeds"]] == [3]


@pytest.mark.slow
def test_the_benchmark_of_measures_times_formulas_whose_values_agree(tmp_path):
    pytest.importorskip("torch")
    target = tmp_path / "metrics.json"
    command = [sys.executable, str(BENCHMARKS / "measure.py"), "--quick", "--json", str(target)]
    subprocess.run(command, check=True, capture_output=True)
    rows = json.loads(target.read_text())["rows"]
    assert {row["K"] for row in rows} == {10, 100}
    for row in rows:
        case = f"{row['way']}, K = {row['K']}"
        assert min(row["import"], row["first"], row["second"]) > 0, case
        accurate = "nc_jax" in row["way"] or "float64" in row["way"]
        assert max(row["errors"]["spread"].values()) < (1e-11 if accurate else 1e-3), case
        if "nc_jax" in row["way"]:
            assert max(row["errors"]["collapsed"].values()) < 1e-11, case
