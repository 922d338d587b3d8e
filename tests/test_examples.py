"""The example scripts, run as a user runs them."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import diffrax
import jax
import mixon_linear_phase
import mixon_strong_collapse
import numpy as np
import pytest
import rangamani_collapse
import rangamani_norm_dynamics
import script
import seed_sweep
import torch_loop
import tqdm
import ulpm_flow
import ulpm_kkt
import ulpm_saddle
import zhu_landscape
from figure_layout import check_saved_figures, legend_texts, line_data, titles
from tolerances import integration

import nc_jax as nc
from nc_jax import storage
from nc_jax.errors import ArgumentError

EXAMPLES = Path(__file__).parent.parent / "examples"
# Modules that the examples share.
HELPERS = {"image_runs", "mixon_starts", "rangamani_data", "script"}
SCRIPTS = sorted({path.stem for path in EXAMPLES.glob("*.py")} - HELPERS)


@pytest.fixture(autouse=True)
def figures(monkeypatch):
    """The figures that a script saves, by file name; each is checked to have a good layout."""
    return check_saved_figures(monkeypatch)


def test_the_flow_example_prints_its_table_and_saves_its_results(tmp_path, capsys, figures):
    ulpm_flow.main(["--K", "3", "--d", "4", "--n", "2", "--decades", "20", "--out", str(tmp_path)])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    header = next(line for line in lines if "loss" in line and "drift" in line)
    assert header.split()[:4] == ["t", "loss", "margin", "of"]
    assert "1.00e+20" in [line.split()[0] for line in lines if line.strip()]
    # Below the table stands what its columns mean.
    below = printed.out[printed.out.index("1.00e+20") :]
    for column in ("of bound", "norms H", "within", "cos W", "duality", "drift"):
        assert f"{column}: " in below.replace("\n", " ")
    assert printed.err == ""  # bars are for terminals
    flow = storage.load(tmp_path / "flow.zarr")
    assert (tmp_path / "ulpm_flow.png").read_bytes().startswith(b"\x89PNG")
    duality = figures["ulpm_flow.png"].axes[3]
    assert duality.get_title() == "(d) Self-duality"
    assert legend_texts(duality) == ["means against classifier", "1/log t"]
    x, y = line_data(duality)[0]
    log_time = flow["log_time"].values
    drawn = log_time > np.log(1.999)
    np.testing.assert_allclose(x, log_time[drawn] / np.log(10))
    np.testing.assert_array_equal(y, flow["ji_self_duality"].values[drawn])
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
    printed = capsys.readouterr().out
    assert "medians over seeds" in printed
    assert "Its drift is no rounding error" in printed


def test_strong_collapse_is_tabulated_and_saved_by_norm_and_seed(tmp_path, capsys, figures):
    # With a descent that diverges, which must not take the flow with it.
    mixon_strong_collapse.main(
        "--K 3 --d 4 --n 2 --norms 0.1 0.01 0.001 --seeds 3 --seed 5 "
        f"--rate 0.7 --steps 60 --out {tmp_path}".split()
    )
    printed = capsys.readouterr()
    assert "descent to step 60 of gd at rate 0.7" in printed.out
    assert "9 of 9 runs did not reach it: lower --rate" in printed.out
    assert printed.err == ""
    flow, descent = (storage.load(tmp_path / f"{run}.zarr") for run in ("flow", "descent"))
    figure = figures["mixon_strong_collapse.png"]
    assert titles(figure)[0] == "(SNC1) Frame of the classifiers"
    assert legend_texts(figure)[:5] == [
        "norm = 0.1", "norm = 0.01", "norm = 0.001", "flow", "gd, t = rate * step"
    ]  # fmt: skip
    # A colour for each norm, the medians over seeds of the flow before those of the descent.
    lines = line_data(figure.axes[0])
    assert len(lines) == 6
    np.testing.assert_allclose(lines[2][1], flow["mixon_snc1"].sel(norm=0.001).median("seed"))
    assert flow["mixon_snc1"].dims == ("norm", "seed", "time")
    assert list(flow["seed"]) == [5, 6, 7]
    np.testing.assert_allclose(np.expm1(descent["log_time"][-1]), 42, rtol=1e-12)
    # What the table's row of powers says.
    powers = [line.split() for line in printed.out.splitlines() if "power  " in line]
    last = np.log(flow["mixon_snc1"].isel(time=-1))
    fitted = np.median(np.polyfit(np.log(flow["norm"]), last, 1)[0])
    assert [row[1] for row in powers] == [f"{fitted:.3f}", "-"]
    assert abs(fitted - 2) < 0.1


def test_each_optimizer_has_its_rate_and_enough_steps(tmp_path):
    flags = ["--optimizer", "adam", "--out", str(tmp_path)]
    _, parsed = mixon_strong_collapse.parse(flags)
    assert (parsed.rate, parsed.steps) == (0.01, 3000)


@pytest.mark.slow
def test_a_long_run_of_strong_collapse_is_implicit(tmp_path, capsys):
    mixon_strong_collapse.main(
        f"--K 2 --d 2 --n 1 --norms 0.1 --seeds 2 --time 2000 --steps 9 --out {tmp_path}".split()
    )
    assert "power  " not in capsys.readouterr().out  # one norm has no slope
    flow = storage.load(tmp_path / "flow.zarr")
    assert flow.attrs["rtol"] == "1e-06"
    assert flow["objective"].isel(time=-1).max() < 1e-12


def test_the_linear_phase_lasts_as_log_of_the_norm(tmp_path, capsys):
    mixon_linear_phase.main(f"--norms 1e-2 1e-3 1e-4 --seeds 4 --no-plot --out {tmp_path}".split())
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    [slope], [theory] = ([row for row in rows if row[:1] == [name]] for name in ("slope", "theory"))
    assert theory[1:] == [f"{1 / np.sqrt(3):.3f}", f"{2 / 3 / np.sqrt(3):.3f}"]
    np.testing.assert_allclose([float(x) for x in slope[1:]], [0.577, 0.385], atol=0.005)
    flow = storage.load(tmp_path / "flow.zarr")
    assert np.all(flow["linear_deviation"] <= flow["bound"])
    assert not (tmp_path / "mixon_linear_phase.png").exists()


@pytest.mark.slow
def test_the_saddle_is_left_at_the_inverse_square_of_the_distance(tmp_path, capsys, figures):
    ulpm_saddle.main(
        f"--eps 0.03 0.01 --decades 3000 --K 3 --n 1 --seeds 4 --out {tmp_path}".split()
    )
    printed = capsys.readouterr().out
    assert "a strict saddle of its sphere: smallest eigenvalue -0.181568" in printed
    assert "direction of theorem 3.4 (null vector): curvature -0.181568" in printed
    rows = [line.split() for line in printed.splitlines()]
    [row] = [row for row in rows if row[:1] == ["0.01"]]
    # eps^2 log t, its power between the two, and the margin at the end.
    assert abs(float(row[2]) - 0.306) < 2e-3
    assert abs(float(row[3]) + 2) < 0.05
    assert float(row[4]) > 0.94
    escape = storage.load(tmp_path / "escape.zarr")
    measured = line_data(figures["ulpm_saddle.png"].axes[2])[0]
    decades = escape["leaving_log_time"] / np.log(10)
    np.testing.assert_allclose(measured, [[0.03, 0.01], decades])
    np.testing.assert_allclose(0.01**2 * decades[1] * np.log(10), float(row[2]), atol=5e-5)
    assert list(escape["eps"]) == [0.03, 0.01]
    assert storage.load(tmp_path / "gaussian.zarr")["max_margin_ratio"].dims == ("seed", "time")


def test_kkt_residuals_are_tabulated_with_their_bounds(tmp_path, capsys, figures):
    ulpm_kkt.main(f"--K 3 --d 4 --n 2 --seeds 2 --decades 100 --out {tmp_path}".split())
    printed = capsys.readouterr().out
    assert "saves with loss < log 2: True" in printed
    last = next(line.split() for line in printed.splitlines() if "1.00e+100" in line)
    assert float(last[1]) <= float(last[2]) < 0.2
    power = next(line.split() for line in printed.splitlines() if line.split()[:1] == ["power"])
    assert abs(float(power[1]) + 0.5) < 0.1
    flow = storage.load(tmp_path / "flow.zarr")
    assert np.all(flow["delta"] <= flow["delta_bound"])
    measured = line_data(figures["ulpm_kkt.png"].axes[1])[0][1]
    np.testing.assert_allclose(measured, flow["delta"].median("seed"))


@pytest.mark.slow
def test_norms_with_decay_forget_their_start(tmp_path, capsys, monkeypatch, figures):
    monkeypatch.setattr(rangamani_norm_dynamics, "RATES", np.array([0.4, 0.2, 0.1, 0.05]))
    monkeypatch.setattr(rangamani_norm_dynamics, "HORIZON", 2.0)
    rangamani_norm_dynamics.main(
        "--samples 4 --widths 4 --norms 0.5 8 --seeds 2 --decay 0.02 --time 150 "
        f"--out {tmp_path}".split()
    )
    printed = capsys.readouterr().out
    assert "digits, classes 3 and 8: 8 training" in printed
    ends = [line for line in printed.splitlines() if line.startswith("end of rho")]
    apart = [float(line.split("differ by ")[1].split("%")[0]) for line in ends]
    assert apart[0] < 0.5 < 10 < apart[1]  # with decay, and without
    orders = [line.split()[1:] for line in printed.splitlines() if line.split()[:1] == ["order"]]
    np.testing.assert_allclose(np.array(orders[0], float), [2, 1, 1], atol=0.15)  # no kinks
    flow = storage.load(tmp_path / "flow.zarr")
    assert flow["norm"].dims == ("decay", "norm_at_start", "seed", "time")
    assert flow["margins"].dims[-1] == "sample"
    assert float(np.abs(flow["lemma_9_residual"]).max()) < 1e-13
    names = ("figure_2", "figure_3", "figure_4", "figure_10", "orders")
    assert list(figures) == [f"{name}.png" for name in names]
    assert titles(figures["figure_2.png"]) == ["λ = 0.02"] * 3 + ["λ = 0"] * 3
    ends = line_data(figures["figure_2.png"].axes[3])
    np.testing.assert_allclose(
        [line[1][-1] for line in ends], flow["norm"].sel(decay=0).isel(time=-1).median("seed")
    )
    # The closed form lies on the integrated curves.
    [chain] = figures["figure_10.png"].axes
    curves, points = line_data(chain)[:3], line_data(chain)[3]
    distances = [np.abs(np.interp(points[0], *curve) - points[1]) for curve in curves]
    np.testing.assert_allclose(np.min(distances, axis=0), 0, atol=1e-3)
    fitted = [text.split("{")[1][:4] for text in legend_texts(figures["orders.png"].axes[0])]
    assert fitted == orders[0]


@pytest.mark.slow
def test_the_repaired_theorem_holds_on_features_and_nearly_in_a_net(tmp_path, capsys, figures):
    rangamani_collapse.main(f"--samples 5 --seeds 2 --time 1000 --out {tmp_path}".split())
    rows = {}
    for line in capsys.readouterr().out.splitlines():
        if line.lstrip().startswith(("features", "net")) and " / " in line:
            name, numbers = line[:17].strip(), line[17:].replace("/", " ").split()
            rows[name] = [float(x) for x in numbers]
    for name in ("features, bias", "features, no bias"):
        _, uneven, row, row_theory, inner, inner_theory, cosine, cosine_theory, off = rows[name]
        assert uneven < 1e-5
        np.testing.assert_allclose([row, inner], [row_theory, inner_theory], atol=2e-3)
        np.testing.assert_allclose(cosine, cosine_theory, atol=1e-3)
        assert off < 1e-2
    gap, uneven, row, row_theory, *_, cosine, cosine_theory, _ = rows["net, centred"]
    # The mean square of what is uneven is what (34) leaves out.
    assert abs(row / row_theory - 1) < uneven**2 / gap + 1e-3
    np.testing.assert_allclose(cosine, cosine_theory, atol=0.02)
    figure = figures["rangamani_collapse.png"]
    assert legend_texts(figure)[:5] == list(rows)
    cosines = line_data(figure.axes[0])
    np.testing.assert_allclose([cosines[0][1][-1], cosines[3][1][-1]], [-0.5, 0], atol=1e-3)


@pytest.mark.slow
def test_the_landscape_has_one_minimum(tmp_path, capsys, figures):
    zhu_landscape.main(f"--K 3 --d 2 --n 1 --starts 32 --flows 2 --out {tmp_path}".split())
    printed = capsys.readouterr().out
    assert "points above the least loss that are no strict saddle: 0" in printed
    rows = [line.split() for line in printed.splitlines()]
    assert [row[0] for row in rows if "minimum" in row[2:3]] == ["0.000000"]
    assert "strict saddle" in printed
    points = storage.load(tmp_path / "points.zarr")
    assert int(points["count"].sum()) == 32
    spectra, search, profiles = figures["zhu_landscape.png"].axes
    assert [text.get_text() for text in spectra.get_yticklabels()][:2] == ["minimum", "origin"]
    found = line_data(search)[2]  # after two flows
    np.testing.assert_array_equal(found, [points["excess"], points["eigenvalue"]])
    # Along an escape direction the loss falls.
    assert all(line[1].min() < line[1][0] for line in line_data(profiles))


def test_past_the_threshold_the_landscape_has_the_origin_only():
    assert list(zhu_landscape.explicit_points(nc.zhu(2, 1, 1, 0.6))) == ["origin"]
    names = list(zhu_landscape.explicit_points(nc.zhu(2, 1, 1, 0.4)))
    assert names == ["minimum", "origin"]


def test_a_seed_sweep_counts_collapsed_runs_and_resumes(tmp_path, capsys, figures):
    flags = f"--K 3 --d 2 3 --n 1 --seeds 24 --decades 12 --out {tmp_path}".split()
    seed_sweep.main(flags)
    first = capsys.readouterr().out
    margins = storage.load(tmp_path / "seed_sweep.zarr")["max_margin_ratio"]
    assert margins.dims == ("num_classes", "excess", "seed", "time")
    # Another solver, each run by itself: the ratio is q_min over its bound, at most 1.
    for excess in (-1, 0):
        problem = nc.ulpm(3, 3 + excess, 1)
        single = nc.gradient_flow(
            problem, problem.init(jax.random.fold_in(jax.random.key(0), 5)), nc.log_times(12, 1),
            rtol=1e-8, solver=diffrax.Dopri8(), observe=("max_margin_ratio",),
        )  # fmt: skip
        expected = single.observables["max_margin_ratio"][-1]
        found = margins.sel(num_classes=3, excess=excess, seed=5)[-1]
        np.testing.assert_allclose(found, expected, rtol=integration(1e-5))
    assert np.all(margins < 1)
    share = np.mean(margins.sel(num_classes=3, excess=-1)[:, -1] < 0.95)
    row = next(line for line in first.splitlines() if line.split()[:2] == ["3", "2"])
    assert row.split()[-2] == f"{share.item():.4f}"
    [panel] = figures["seed_sweep.png"].axes
    assert panel.get_title() == "K = 3"
    assert legend_texts(panel) == ["d = 2", "d = 3"]
    if share > 0:
        np.testing.assert_allclose(line_data(panel)[0][1][-1], share)
    seed_sweep.main(flags)
    assert capsys.readouterr().out.split("\n\n")[1:] == first.split("\n\n")[1:]
    with pytest.raises(SystemExit):
        seed_sweep.main([*flags, "--rtol", "1e-6"])
    error = capsys.readouterr().err
    assert ": --out, --anew: " in error
    assert "run.rtol = 1e-05 there, 1e-06 here. Give another path, or resume=False" in error


def test_the_share_of_uncollapsed_runs_leaves_out_failed_runs_and_has_its_exponent():
    margins = np.array([[0.9, 0.96], [0.5, 0.5], [0.8, np.nan]])
    np.testing.assert_allclose(seed_sweep.uncollapsed(margins, 0.95), [1, 0.5])
    log_time = np.geomspace(20, 2000, 60)
    fraction = 0.9 * (log_time / 20) ** -0.5
    assert seed_sweep.exponent(log_time, fraction, 1000) == "-0.50"
    # Of a hundred starts the last twenty are left too soon for a fit.
    assert seed_sweep.exponent(log_time, fraction, 25) == "-"


def test_a_loop_in_pytorch_is_measured_by_layer(tmp_path, capsys, figures):
    pytest.importorskip("torch")
    # The second call replaces the rows of the first.
    for epochs in (3, 2):
        torch_loop.main(f"--epochs {epochs} --batch 128 --out {tmp_path}".split())
    printed = capsys.readouterr().out
    data = storage.load(tmp_path / "torch_loop.zarr")
    assert data["epoch"].values.tolist() == [1, 2]
    assert data["layer"].values.tolist() == ["pool1", "pool2", "classifier"]
    rows = {line[:12].strip(): line.split()[2:] for line in printed.splitlines()}
    # Of the last layer all features are those of one network; features of a layer are separated
    # better than those of the layers before.
    assert [row[0] for row in map(rows.get, torch_loop.DEPTH.values()) if row] == ["16", "32", "64"]
    shares = [float(rows[word][3]) for word in torch_loop.DEPTH.values()]
    assert shares == sorted(shares)
    assert 0.9 < shares[-1] <= 1
    by_epoch, by_depth = figures["torch_loop_epochs.png"], figures["torch_loop_depth.png"]
    assert titles(by_epoch)[0] == titles(by_depth)[0] == "NC1 (Zhu)"
    nc1 = data["zhu_nc1"].transpose("layer", "epoch").values
    for line, values in zip(line_data(by_epoch.axes[0]), nc1, strict=True):
        np.testing.assert_array_equal(line, [[1, 2], values])
    for line, values in zip(line_data(by_depth.axes[0]), nc1.T, strict=True):
        np.testing.assert_array_equal(line[1], values)
    # NC2 is a measure of the classifier, and has one curve.
    [nc2] = line_data(by_epoch.axes[3])
    np.testing.assert_array_equal(nc2[1], data["zhu_nc2"].sel(layer="classifier"))


def test_without_pytorch_its_example_ends_with_the_command_that_installs_it(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as ended:
        torch_loop.main(["--out", str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("PyTorch is not installed: pip install torch\n")


def test_without_scikit_learn_the_loop_ends_with_the_command_that_installs_it(
    tmp_path, capsys, monkeypatch
):
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SystemExit) as ended:
        torch_loop.main(["--out", str(tmp_path)])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.endswith("load_digits needs scikit-learn: pip install 'nc_jax[images]'\n")
    assert error.count("\n") == 1


def test_first_passage_is_where_the_curve_crosses():
    times = np.linspace(0, 4, 9)
    values = np.exp([2, 3, -1])[:, None] * np.exp(times) * np.exp([-4.2])
    passed = mixon_linear_phase.first_passage(times, values, 1.0)
    np.testing.assert_allclose(passed[:2], [2.2, 1.2], rtol=1e-12)
    assert np.isnan(passed[2])


@pytest.mark.parametrize(
    ("example", "flags", "message"),
    [
        (ulpm_flow, "--K 1", "--K: num_classes = 1"),
        (ulpm_flow, "--d 0", "--d: feature_dim = 0: give an integer >= 1"),
        (ulpm_flow, "--n 0", "--n: samples_per_class = 0: give an integer >= 1"),
        (ulpm_flow, "--solver Euler", "invalid choice: 'Euler' (choose from"),
        (ulpm_flow, "--rtol 1e-20", "--rtol: rtol = 1e-20"),
        (ulpm_flow, "--dtype float32 --rtol 1e-9", "use float64"),
        (ulpm_flow, "--norm nan", "--norm nan: give a finite number > 0"),
        (ulpm_flow, "--norm 0", "--norm 0: give a finite number > 0"),
        (ulpm_flow, "--seed -1", "--seed -1: give an integer from 0"),
        (ulpm_flow, "--seeds 0", "--seeds 0: give an integer >= 1"),
        (ulpm_flow, "--decades -1", "--decades -1"),
        (ulpm_flow, "--sed 3", "unrecognized arguments: --sed 3"),
        (ulpm_flow, "--out /dev/null/x", "cannot write to /dev/null/x"),
        (mixon_strong_collapse, "--norms 0", "--norms 0: give numbers from 1e-8 to 10"),
        (mixon_strong_collapse, "--norms 1 nan", "--norms nan: give numbers"),
        (mixon_strong_collapse, "--norms 1 1", "--norms 1 1: give each once"),
        (mixon_strong_collapse, "--time 0", "--time 0: give a number above 0"),
        (mixon_strong_collapse, "--rate -1", "--rate -1: give a finite number > 0"),
        (mixon_strong_collapse, "--rate inf", "--rate inf"),
        (mixon_strong_collapse, "--steps 0", "--steps 0: give an integer >= 1"),
        (mixon_strong_collapse, "--rtol 0", "rtol = 0"),
        (mixon_strong_collapse, "--rtol 1e-20", "--rtol: rtol = 1e-20"),
        (mixon_strong_collapse, "--optimizer sgd", "invalid choice: 'sgd' (choose from"),
        (mixon_strong_collapse, "--K 1", "--K: num_classes = 1"),
        (mixon_strong_collapse, "--seeds 0", "--seeds 0"),
        (mixon_linear_phase, "--n 0", "--n: samples_per_class = 0: give an integer"),
        (mixon_linear_phase, "--gap 1", "--gap 1: give a number between 0 and 1"),
        (mixon_linear_phase, "--norms -1", "--norms -1"),
        (mixon_linear_phase, "--seed -1", "--seed -1"),
        (ulpm_saddle, "--eps 0.5", "--eps 0.5: give numbers from 1e-6 to below 0.5"),
        (ulpm_saddle, "--eps 0.1 0.1", "--eps: give each distance once"),
        (ulpm_saddle, "--decades 1", "--decades 1: give a number from 10"),
        (ulpm_saddle, "--seeds 0", "--seeds 0"),
        (ulpm_saddle, "--rtol 10", "--rtol 10: give a number from 1e-12"),
        (ulpm_kkt, "--rtol 1", "--rtol 1: give a number up to 0.01"),
        (ulpm_saddle, "--K 1", "--K: num_classes = 1"),
        (ulpm_kkt, "--decades 1e5", "--decades 100000: give a number from 1 to 1e4"),
        (ulpm_kkt, "--seeds 0", "--seeds 0"),
        (ulpm_kkt, "--K 1", "--K: num_classes = 1"),
        (ulpm_kkt, "--rtol 1e-20", "--rtol: rtol = 1e-20"),
        (rangamani_norm_dynamics, "--norms 1", "--norms [1.0]: give 2 or more"),
        (rangamani_norm_dynamics, "--decay 0", "--decay 0: give a finite number > 0"),
        (rangamani_norm_dynamics, "--time nan", "--time nan: give a finite number > 0"),
        (rangamani_norm_dynamics, "--rtol 1e-20", "--rtol: rtol = 1e-20"),
        (rangamani_norm_dynamics, "--samples 0", "num_samples = 0: give an integer >= 1"),
        (rangamani_norm_dynamics, "--samples 900", "--samples: 900 samples of class 3: it has"),
        (rangamani_norm_dynamics, "--data digits", "unrecognized arguments: --data digits"),
        (rangamani_norm_dynamics, "--dataset imagenet", "invalid choice: 'imagenet'"),
        (ulpm_flow, "--format jpg", "invalid choice: 'jpg' (choose from"),
        (ulpm_flow, "--quiet --K 1", "--K: num_classes = 1"),
        (rangamani_norm_dynamics, "--classes 3 3", "classes = [3, 3]: give one or more, each"),
        (rangamani_norm_dynamics, "--classes 3 11", "classes[1] = 11: give an integer from 0 to 9"),
        (rangamani_norm_dynamics, "--widths 0", "--widths: widths[0] = 0: give an integer"),
        (rangamani_norm_dynamics, "--dataset Fashion-MNIST --folder x", "x: no train-images-idx3"),
        (rangamani_norm_dynamics, "--seeds 0", "--seeds 0"),
        (rangamani_collapse, "--samples 900", "--samples: 900 samples of class 0"),
        (rangamani_collapse, "--widths 4 0", "--widths: widths[1] = 0: give an integer"),
        (rangamani_collapse, "--decay inf", "--decay inf: give a finite number > 0"),
        (zhu_landscape, "--decay 0", "--decay 0: give a number from 1e-5 to 1"),
        (zhu_landscape, "--bias-decay -1", "--bias-decay -1: give a number from 0"),
        (zhu_landscape, "--d 1", "feature_dim = 1"),
        (zhu_landscape, "--K 10 --d 20 --n 10", "a state of 2210 numbers; up to 600"),
        (seed_sweep, "--K 5 --d 3", "--d 3: give integers >= K-1 = 4"),
        (seed_sweep, "--K 4 5 --d 4", "--d: give it with one --K"),
        (seed_sweep, "--K 2", "--K 2: give integers >= 3"),
        (seed_sweep, "--K 5 5", "--K 5 5: give each once"),
        (seed_sweep, "--seeds 0", "--seeds 0: give an integer from 1"),
        (seed_sweep, "--share 1", "--share 1: give a number from 0.5"),
        (zhu_landscape, "--starts 0", "--starts 0: give an integer from 1"),
    ],
)
def test_a_bad_flag_is_one_line_and_exit_2(example, flags, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        example.main(flags.split())
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize("flags", ["--decades 0.5", "--K 2 --d 1 --n 1 --decades 3"])
def test_the_smallest_cases_draw_their_figure(flags, tmp_path, figures):
    # Less than a decade of time; measures that are identically zero.
    # The model of the first test here, whose programs this one shares.
    ulpm_flow.main(["--K", "3", "--d", "4", "--n", "2", *flags.split(), "--out", str(tmp_path)])
    flow = storage.load(tmp_path / "flow.zarr")
    for axes, name in zip(
        figures["ulpm_flow.png"].axes[1::2], ("within_class_variation", "self_duality"), strict=True
    ):
        values = flow[f"ji_{name}"].values[flow["log_time"].values > np.log(1.999)]
        np.testing.assert_array_equal(line_data(axes)[0][1], values)


@pytest.mark.parametrize("name", SCRIPTS)
def test_all_examples_have_the_same_names_for_common_flags(name, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(name).main(["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for flag in ("--out", "--no-plot", "--format {png,pdf,svg}", "--quiet"):
        assert flag in text
    assert text.isascii()  # whatever a terminal can show
    assert "--data " not in text
    assert ("--dataset" in text) == ("--folder" in text) == ("--samples" in text)
    assert "--samples" not in text or "training images of each class" in text


def test_quiet_prints_nothing_and_a_format_is_that_of_the_figure(tmp_path, capsys):
    # The model of the first test here, whose programs this one shares.
    flags = f"--K 3 --d 4 --n 2 --decades 20 --quiet --format pdf --out {tmp_path}"
    ulpm_flow.main(flags.split())
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""
    assert (tmp_path / "ulpm_flow.pdf").read_bytes().startswith(b"%PDF")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flow.zarr", "ulpm_flow.pdf"]


def test_an_error_of_the_library_begins_with_the_flags_of_its_arguments(capsys):
    parser = script.Parser(description="test")
    parser.add_argument("--K", type=int, argument="num_classes")
    parser.add_argument("--out")
    parser.add_argument("--rtol")
    for error, message in [
        (ArgumentError("num_classes = 1: give 2 or more.", "num_classes"), "--K: num_classes = 1"),
        (ArgumentError("rtol = 2, atol = 1: no.", "rtol", "atol"), "--rtol: rtol = 2, atol = 1"),
        (ArgumentError("widths[0] = 0: no.", "widths[0]"), "widths[0] = 0: no."),
        (ValueError("no such file"), "no such file"),
    ]:
        with pytest.raises(SystemExit) as ended:
            parser.refuse(error)
        assert ended.value.code == 2
        text = capsys.readouterr().err
        assert text.split(": ", 1)[1].startswith(message)
        assert text.count("\n") == 1


def test_quiet_silences_bars_too(capsys):
    parser = script.Parser(description="test")
    script.add_output_flags(parser)
    with script.output(parser.parse_args(["--quiet"])):
        print("printed")
        for _ in tqdm.tqdm(range(2)):
            pass
        with pytest.raises(SystemExit):
            parser.error("what is wrong")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.endswith(": what is wrong\n")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("name", sorted(HELPERS))
def test_a_module_that_is_no_script_says_so(name):
    with pytest.raises(SystemExit) as ended:
        script.refuse_to_run(str(EXAMPLES / f"{name}.py"))
    message = str(ended.value)
    assert message.startswith(f"{name}.py: is a module that the examples share; run one of ")
    assert message.split("run one of ")[1].split(", ") == [f"{script}.py" for script in SCRIPTS]
    # All of them end so.
    assert (EXAMPLES / f"{name}.py").read_text().endswith("    refuse_to_run(__file__)\n")


def test_a_helper_module_run_as_a_script_ends_with_a_line():
    result = subprocess.run(
        [sys.executable, "script.py"], cwd=EXAMPLES, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "ulpm_flow.py" in result.stderr


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("fixed ETF, d = K", "fixed_ETF_d_K"),
        ("100 % random", "100_percent_random"),
        ("start 0.1, decay 1e-05", "start_0.1_decay_1e-05"),
        ("L-BFGS", "L-BFGS"),
        ("net, centred, WN", "net_centred_WN"),
        ("λ = 0.5", "lambda_0.5"),
        ("a/b\\c: *?<>|d", "a_b_c_d"),
    ],
)
def test_names_of_folders_have_no_spaces_or_special_characters(title, name):
    assert script.folder_name(title) == name


def test_a_table_says_what_its_columns_mean():
    columns = {"t": "", "of bound": "margin over the largest", "drift": "change " * 40}
    lines = script.table(columns, [["1", "0.5", "1e-9"]]).splitlines()
    assert lines[0].split() == ["t", "of", "bound", "drift"]
    assert set(lines[1]) == {"-"}
    assert (
        " ".join(lines[3:]) == f"of bound: margin over the largest; drift: {'change ' * 40}".strip()
    )
    assert max(map(len, lines)) <= 100
    assert script.table(["t"], [["1"]]).splitlines() == ["t", "-", "1"]


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
