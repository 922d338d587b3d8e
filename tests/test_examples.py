"""The example scripts, run as a user runs them."""

import importlib
import math
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import central_path
import collapse_movie
import depth
import diffrax
import few_dimensions
import jax
import layers
import losses
import minority_collapse
import mixon_linear_phase
import mixon_strong_collapse
import numpy as np
import optimisers
import pytest
import rangamani_collapse
import rangamani_norm_dynamics
import script
import seed_sweep
import seli_flow
import superclasses
import torch_loop
import tqdm
import transient_collapse
import ulpm_flow
import ulpm_kkt
import ulpm_saddle
import xarray as xr
import zhu_landscape
from figure_layout import check_saved_figures, legend_texts, line_data, titles
from tolerances import integration

import nc_jax as nc
from nc_jax import storage
from nc_jax.errors import ArgumentError

EXAMPLES = Path(__file__).parent.parent / "examples"
# Modules that the examples share.
HELPERS = {"image_runs", "mixon_starts", "rangamani_data", "script", "transient_collapse"}
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


def test_the_movie_example_meets_a_line_a_triangle_and_a_square_on_its_way(
    tmp_path, capsys, figures
):
    collapse_movie.main(f"--n 4 --rtol 1e-4 --frames 6 --out {tmp_path}".split())
    printed = capsys.readouterr()
    rows = [line.split() for line in printed.out.splitlines()]
    stages = {row[0]: row for row in rows if row and row[0] in collapse_movie.SHAPES.values()}
    assert list(stages) == ["line", "triangle", "square", "tetrahedron"]
    # Each begins where the one before ends.
    times = [row[1:3] for row in stages.values()]
    assert times[0][0] == "start"
    assert times[-1][1] == "end"
    assert [end for _, end in times[:-1]] == [begin for begin, _ in times[1:]]
    # With two of four classes at one place a sample's loss is half of log 2 where norms are large.
    loss, limit, margin, limit_margin = (
        [float(row[i]) for row in stages.values()] for i in (4, 5, 6, 7)
    )
    np.testing.assert_allclose(limit, [np.log(2), np.log(2) / 2, 0, 0], atol=1e-4)
    assert abs(loss[1] - limit[1]) < 0.03
    # Ji's example 3.1 has 3/4 of the largest margin.
    assert limit_margin == [0, 0, 0.75, 1]
    assert abs(margin[2] - 0.75) < 0.03
    assert abs(margin[3] - 1) < 1e-3
    assert printed.err == ""
    data = storage.load(tmp_path / "collapse_movie.zarr")
    last = data["state_features"].values[-1].reshape(4, 4, 3).mean(axis=1)
    last -= last.mean(axis=0)
    sides = np.linalg.norm(last[:, None] - last[None], axis=-1)[np.triu_indices(4, 1)]
    np.testing.assert_allclose(sides, sides.mean(), rtol=1e-2)
    shown = [axes.get_title() for axes in figures["collapse_movie.png"].axes]
    assert len(shown) == 6
    assert shown[0].endswith("a: line")
    assert shown[-1].endswith("d: tetrahedron")
    assert (tmp_path / "collapse_movie.gif").read_bytes().startswith(b"GIF")
    assert 'id="collapse-movie-play"' in (tmp_path / "collapse_movie.html").read_text()


def test_splits_of_the_movie_example_are_orthogonal_and_keep_the_mean():
    for classes in (3, 4, 5, 7):
        rows = collapse_movie.splits(classes)
        assert rows.shape == (classes - 1, classes)
        np.testing.assert_allclose(rows @ np.ones(classes), 0, atol=1e-12)
        gram = rows @ rows.T
        np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-12)


@pytest.mark.parametrize("flags", ["--K 5 --d 2 --n 2", "--K 3 --d 4 --n 3"])
def test_the_movie_example_follows_other_numbers_of_classes(flags, tmp_path, capsys):
    collapse_movie.main(f"{flags} --decades 20 --rtol 1e-3 --no-plot --out {tmp_path}".split())
    assert "2 places in 1 dimension " in capsys.readouterr().out
    assert not (tmp_path / "collapse_movie.png").exists()


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


def test_unequal_classes_have_the_predicted_geometry_at_each_time(tmp_path, capsys, figures):
    seli_flow.main(f"--ratios 1 6 --n 2 --decades 100 --rtol 1e-8 --out {tmp_path}".split())
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    [row] = [row for row in rows if row[:1] == ["6"]]
    measured, predicted, limit = map(float, row[1:4])
    assert abs(measured - predicted) < abs(measured - limit) / 100
    # The error of the late law is 3/log t.
    assert abs(float(row[7]) / float(row[8]) - 1) < 3 / 230
    assert float(row[9]) > 100
    flow = storage.load(tmp_path / "flow.zarr")
    # The row of each class is the flow of all its samples.
    sizes = (12, 12, 2, 2)
    problem = nc.UnconstrainedFeatures(sizes, 3, reduction="sum")
    times = flow["log_time"].values[[0, -1]]
    start = nc.exact.seli(sizes).state(3)
    full = nc.gradient_flow(problem, start, times, observe=("log_objective",), save_states=True)
    assert full.states is not None
    classifier = np.asarray(full.states.classifier)
    expected = seli_flow.geometry(classifier @ classifier.swapaxes(1, 2))
    found = flow["measured"].sel(ratio=6)[[0, -1]]
    np.testing.assert_allclose(found, expected, rtol=integration(1e-8))
    drawn = line_data(figures["seli_flow.png"].axes[0])[2][1]
    np.testing.assert_allclose(drawn, flow["measured"].sel(ratio=6, quantity="norm_ratio"))


def test_super_classes_are_learned_first_and_stay(tmp_path, capsys, figures):
    superclasses.main(f"--seeds 2 --decades 130 --out {tmp_path}".split())
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    [slopes] = [row for row in rows if row[:1] == ["slope"]]
    coarse, expected, fine, expected_fine = map(float, slopes[1:])
    np.testing.assert_allclose([expected, expected_fine], [1.4**-0.5, 0.4**-0.5], atol=1e-4)
    np.testing.assert_allclose([coarse, fine], [expected, expected_fine], rtol=5e-4)
    late = storage.load(tmp_path / "flow.zarr")
    end = late.isel(time=-1)
    # The measured cosines of the guide at log t ~ 300, and ten times closer to the prediction.
    np.testing.assert_allclose(end["measured"][0], [-0.576, -0.212], atol=5e-4)
    np.testing.assert_allclose(end["measured"][1], [-0.030, -0.485], atol=5e-4)
    near, far = (np.abs(end["measured"] - end[name]) for name in ("predicted", "limit"))
    assert np.all(10 * near < far)
    drawn = line_data(figures["superclasses.png"].axes[2])[0][1]
    np.testing.assert_allclose(drawn, late["measured"][:, 0, 0])


def test_optimisers_that_collapse_minorities_differ_from_those_that_do_not(
    tmp_path, capsys, figures
):
    names = ["GD", "sign descent", "spectral flow"]
    flags = f"--ratios 12 --starts 1 --norm 1e-5 --rate 0.01 --out {tmp_path}".split()
    optimisers.main([*flags, "--optimizers", *names])
    printed = capsys.readouterr().out
    assert "R > KA + 2 KB - 2 = 7" in printed
    data = storage.load(tmp_path / "optimisers.zarr").isel(ratio=0, seed=0)
    ratio = data["learned_time"].sel(stage="minority") / data["learned_time"].sel(stage="majority")
    cosine = data["middle_cosine"]
    # √12 up to O(1/log(1/ε)); the rate of the contrasts, whatever R is, up to steps.
    np.testing.assert_allclose(data["law"], [12**0.5, np.nan, 1])
    assert abs(ratio.sel(optimizer="GD") / 12**0.5 - 1) < 0.1
    assert abs(ratio.sel(optimizer="spectral flow") - 1) < 0.05
    assert ratio.sel(optimizer="sign descent") > 2
    for name in names:
        collapses = name != "spectral flow"
        assert cosine.sel(optimizer=name) > 0.9 if collapses else cosine.sel(optimizer=name) < 0.3
        [row] = [line for line in printed.splitlines() if line.strip().startswith(f"{name}  12")]
        assert float(row.split()[-1]) == pytest.approx(float(cosine.sel(optimizer=name)), abs=1e-5)
    drawn = line_data(figures["optimisers.png"].axes[1])[0]
    np.testing.assert_allclose(drawn, [[12], [float(ratio.sel(optimizer="GD"))]])


def test_losses_have_the_gaps_that_theory_predicts(tmp_path, capsys, figures):
    losses.main(f"--K 3 --d 4 --n 2 --gammas 2 --decades 100 --out {tmp_path}".split())
    printed = capsys.readouterr().out
    rows = {name: next(line for line in printed.splitlines() if line.strip().startswith(name))
            for name in ("cross-entropy  ", "focal, γ = 2  ", "label smoothing, α = 0.1  ",
                         "squared error  ")}  # fmt: skip
    for name, row in rows.items():
        rests, end, gap, predicted, share = row[row.index(name.strip()) + len(name) :].split()[:5]
        if rests == "yes":
            assert (end, share) == ("1e3", "-")
            np.testing.assert_allclose(float(gap), float(predicted), rtol=1e-4)
        else:
            # The gap of the late loss is off by terms of order 1/log t, which is 0.004 here, and
            # its limit log t/(γ+1) by log log t.
            assert end == "1e100"
            assert abs(float(gap) - float(predicted)) < 0.1
            assert 0.9 < float(share) < 1
    data = storage.load(tmp_path / "focal_2.zarr")
    panel = figures["losses.png"].axes[0]
    assert panel.get_title() == "(a) Logit gap"
    drawn = line_data(panel)[2][1]  # after the curve and the predictions of cross-entropy
    np.testing.assert_array_equal(drawn, data["margin_min"].values[-len(drawn) :])


def test_layers_of_a_linear_net_come_to_share_their_singular_values(tmp_path, capsys, figures):
    flags = f"--K 3 --n 2 --widths 4 5 --decades 30 --rounding 1e-3 --out {tmp_path}"
    layers.main(flags.split())
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    linear, relu = (storage.load(tmp_path / f"{name}.zarr") for name in ("linear", "relu"))
    for data, name in ((linear, "linear"), (relu, "relu")):
        assert data["layer_nc1"].dims == ("time", "layer")
        end = data.isel(time=-1)
        for i, row in enumerate(row for row in rows if row[:1] == [name] and row[1].isdigit()):
            assert row[1:3] == [str(i + 1), str([4, 5][i])]
            found = [end[f"layer_{x}"].values[i] for x in ("nc1", "cdnv", "effective_rank")]
            np.testing.assert_allclose([float(x) for x in row[3:6]], found, rtol=5e-3)
            singular = end["layer_singular_values"].values[i]
            np.testing.assert_allclose([float(x) for x in row[7:10]], singular, rtol=5e-3)
    # W_2ᵀW_2 − W_1W_1ᵀ is conserved, so that squared singular values differ by at most its norm.
    problem = nc.DeepUnconstrainedFeatures((2, 2, 2), (4, 5))
    first, second = problem.init(jax.random.fold_in(jax.random.key(0), 0), norm=2.0).weights
    conserved = np.asarray(second.T @ second - first @ first.T)
    squares = linear["layer_singular_values"].values ** 2
    bound = np.linalg.norm(conserved, 2)
    assert np.all(np.abs(squares[:, 1] - squares[:, 0]) < bound * (1 + integration(1e-7)))
    assert layers.spread_of_largest(linear)[-1] < 0.2 * layers.spread_of_largest(linear)[0]
    panels = figures["layers.png"].axes
    assert [axes.get_title() for axes in panels[3:5]] == [
        "Singular values, linear", "Singular values, relu"
    ]  # fmt: skip
    drawn, values = line_data(panels[1])[3][1], relu["layer_cdnv"].values[:, 1]
    np.testing.assert_array_equal(drawn, values[-len(drawn) :])


def test_the_central_path_is_its_closed_form_and_the_loss_is_the_sum_of_its_parts(
    tmp_path, capsys, figures
):
    central_path.main(f"--K 3 --d 3 --n 4 --seeds 2 --rtol 1e-8 --time 2 --out {tmp_path}".split())
    printed = capsys.readouterr().out
    # At t = 10^8: the closed form, NC1 next to its limit, and the law of NC2.
    row = next(line.split() for line in printed.splitlines() if "1.00e+8" in line)
    assert float(row[2]) < integration(1e-8)
    assert float(row[3]) == pytest.approx(float(row[4]), rel=1e-3)
    assert float(row[3]) == pytest.approx(2, rel=1e-2)
    assert float(row[5]) == pytest.approx(float(row[6]), rel=1e-2)
    parts = printed[printed.index("sum error") :].splitlines()[2:9]
    assert max(float(line.split()[-1]) for line in parts) < 1e-9
    mixon = storage.load(tmp_path / "mixon.zarr")
    total = mixon["nc1"] + mixon["nc23"] + mixon["perp"]
    np.testing.assert_allclose(total, mixon["loss"], rtol=1e-9)
    figure = figures["central_path.png"]
    assert [title[:3] for title in titles(figure)] == ["(a)", "(b)", "(c)", "(d)"]
    flow = storage.load(tmp_path / "flow.zarr")
    np.testing.assert_allclose(line_data(figure.axes[0])[1][1], flow["singular_values"][0, :, 1])


def test_values_of_few_dimensions_stand_beside_the_least_that_are_known(tmp_path, capsys, figures):
    few_dimensions.main(f"--K 5 --seeds 3 --decades 100 --out {tmp_path}".split())
    printed = capsys.readouterr().out
    assert "runs below the least value that is known: 0" in printed
    pentagon, code = (
        next(line.split() for line in printed.splitlines() if line.split()[:2] == ["5", dim])
        for dim in "23"
    )
    assert pentagon[2:4] == ["7.236068", "conjecture"]
    assert pentagon[8:11] == ["3", "of", "3"]
    assert code[2] == "4.894427"
    assert code[12] == "0.1964"
    flow = storage.load(tmp_path / "flow_K5.zarr")
    assert flow["separation_value"].dims == ("feature_dim", "seed", "time")
    last = flow["separation_value"].isel(time=-1)
    np.testing.assert_allclose(last.sel(feature_dim=2), 7.2360679775, rtol=3 / 230)
    assert np.all(last.sel(feature_dim=3) > 4.8944)
    drawn = line_data(figures["few_dimensions.png"].axes[0])
    np.testing.assert_allclose(np.sort(last.sel(feature_dim=2)) / 7.2360679775, drawn[1][1])


def test_flows_of_four_factors_end_in_codes_of_the_table(tmp_path, capsys, figures):
    depth.main(f"--K 4 --m 4 --seeds 2 --norm 0.2 --decades 1000 --out {tmp_path}".split())
    printed = capsys.readouterr().out
    assert "runs below the least S that is known: 0" in printed
    row = next(line.split() for line in printed.splitlines() if line.split()[:2] == ["4", "4"])
    assert row[4:6] == ["square", "2.82843"]
    runs = storage.load(tmp_path / "runs.zarr")
    assert runs["singular_sum"].dims == ("cell", "norm", "seed")
    np.testing.assert_array_less(2.8284271, runs["singular_sum"])
    drawn = [line for line in figures["depth.png"].axes[1].lines if line.get_marker() == "o"]
    ratios = np.sort(np.concatenate([np.asarray(line.get_ydata()) for line in drawn]))
    np.testing.assert_allclose(ratios, np.sort(runs["singular_sum"].values.ravel()) / 8**0.5)


@pytest.mark.parametrize("shift", [0.0, 0.05])
def test_a_run_ends_in_the_code_with_its_singular_values(shift):
    codes = nc.exact.deep_codes(7, 4)
    for number, code in enumerate(codes):
        singular = np.zeros(8)
        singular[: code.rank] = code.singular_values * (1 + shift)
        value = np.sum(singular**0.5)
        assert depth.code_of(codes, value, singular) == (number if shift == 0 else -1)
    assert depth.code_of(codes, math.nan, np.full(8, math.nan)) == -1


def test_a_run_below_the_table_is_printed_with_its_seed_and_certificate(capsys):
    problem = nc.DeepUnconstrainedFeatures((1,) * 4, (4, 4, 4), reduction="sum")
    state = nc.exact.deep_code(4, 4).deep_state(problem.widths)
    batch = jax.tree.map(lambda leaf: leaf[None], state)
    depth.check_values(problem, batch, np.array([2.9]), (np.array([0.2]), np.array([7])))
    assert capsys.readouterr().out == ""
    depth.check_values(problem, batch, np.array([2.8]), (np.array([0.2]), np.array([7])))
    printed = capsys.readouterr().out
    assert "BELOW the least S that is known" in printed
    assert "seed 7" in printed
    assert "SeparationCertificate(" in printed


def test_a_run_at_the_saddle_is_not_one_at_the_least_known_value():
    # At t = 10^50 the share 3/log t, 2.6 %, reaches beyond the saddle V = 5, 2.2 % above.
    assert 4.95 > few_dimensions.largest_at_known(5, 4.894427, 50 * math.log(10)) > 4.94
    late = few_dimensions.largest_at_known(5, 4.894427, 1000 * math.log(10))
    np.testing.assert_allclose(late, 4.894427 * (1 + 3 / 2302.585), rtol=1e-6)
    assert few_dimensions.largest_at_known(6, 6.0, 300.0) == pytest.approx(6.06)


def test_minorities_merge_above_the_threshold_that_is_drawn(tmp_path, capsys, figures):
    minority_collapse.main(
        f"--majority 3 --minority 2 --n 1 --grid 9 --flow-imbalance 9 --transient-imbalance 9 "
        f"--starts 1 --out {tmp_path}".split()
    )
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if "loss " in line or "class " in line]
    rows = [row for row in rows if row[-1].count(".") == 1 and row[0] in ("mean", "weighted")]
    assert len(rows) == 2 * len(minority_collapse.FACTORS)
    for *_, factor, _decay, measured, predicted in rows:
        assert abs(float(measured) - float(predicted)) < 1e-5
        assert (float(predicted) > 1 - 1e-9) == (float(factor) > 1)
    minima = storage.load(tmp_path / "minima.zarr")
    merged = minima["cosine"] > 1 - 1e-9
    above = minima["decay"] > minima["threshold"]
    known = ~np.isnan(minima["cosine"])
    assert bool(((merged == above) | ~known).all())
    assert float(storage.load(tmp_path / "flows.zarr")["imbalance"]) == 9
    drawn = line_data(figures["minority_collapse.png"].axes[0])[0]
    np.testing.assert_allclose(drawn[1], minima["threshold"].sel(loss="mean loss"))
    # The second part: the slopes of the times in log(1/ε), measured and predicted, alternate.
    [slopes] = [row.split()[1:5] for row in printed.splitlines() if row.split()[:1] == ["slope"]]
    np.testing.assert_allclose(np.array(slopes, float), [1 / 3, 1 / 3, 1, 1], rtol=1e-3)
    assert "minority_transient.png" in figures


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
    seed_sweep.main([*flags, "--explore", "--no-plot"])
    assert f"page: {tmp_path / 'explore.html'}" in capsys.readouterr().out
    assert "max_margin_ratio" in (tmp_path / "explore.html").read_text()
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
        (central_path, "--decades 20", "--decades 20: give a number from 1 to 16"),
        (central_path, "--time 0", "--time 0: give a number from 0.1"),
        (central_path, "--norm 0", "--norm 0: give a number from 0.01"),
        (central_path, "--rtol 1", "--rtol 1: give a number from 1e-12"),
        (central_path, "--d 30", "--d: feature_dim = 30: N − K = 20 deviations"),
        (central_path, "--n 1 --d 1", "--d: feature_dim = 1: N − K = 0 deviations"),
        (depth, "--K 9", "--K 9: give integers from 3 to 8"),
        (depth, "--m 1", "--m 1: give integers >= 2"),
        (depth, "--width 1", "--width 1: give 0 for K, or integers >= 2"),
        (depth, "--norm 0", "--norm 0: give numbers > 0"),
        (depth, "--decades 1", "--decades 1: give a number from 10 to 1e7"),
        (depth, "--seeds 0", "--seeds 0: give an integer >= 1"),
        (few_dimensions, "--K 9", "--K 9: give integers from 5 to 8"),
        (few_dimensions, "--seeds 0", "--seeds 0: give an integer >= 1"),
        (few_dimensions, "--decades 1", "--decades 1: give a number from 10 to 1e4"),
        (few_dimensions, "--rtol 1e-20", "--rtol: rtol = 1e-20"),
        (ulpm_saddle, "--K 1", "--K: num_classes = 1"),
        (minority_collapse, "--transient-imbalance 2", "give an integer from 4 to 400"),
        (minority_collapse, "--starts 0", "--starts 0: give an integer from 1 to 1000"),
        (optimisers, "--ratios 1", "--ratios 1: give integers from 2 to 1000"),
        (optimisers, "--ratios 4 4", "--ratios: give each value once"),
        (optimisers, "--minority 1", "--minority 1: give an integer from 2 to 50"),
        (optimisers, "--norm 1", "--norm 1: give a number above 0, up to 0.01"),
        (optimisers, "--rate 0.1", "--rate 0.1: give a number above 0, up to 0.02"),
        (optimisers, "--optimizers SGD", "invalid choice: 'SGD'"),
        (seli_flow, "--K 3", "--K 3: give an even number from 4 on"),
        (seli_flow, "--n 0", "--n 0: give an integer >= 1"),
        (seli_flow, "--ratios 2 2", "--ratios 2 2: give integers >= 1, each once"),
        (seli_flow, "--decades 1", "--decades 1: give a number from 20"),
        (seli_flow, "--rtol 1e-20", "rtol = 1e-20"),
        (superclasses, "--groups 1", "--groups 1: give an integer >= 2"),
        (superclasses, "--seeds 0", "--seeds 0: give an integer >= 1"),
        (superclasses, "--gs 2", "give gd > gs > g0"),
        (superclasses, "--g0 -1", "kernel has the eigenvalue"),
        (superclasses, "--decades 1", "--decades 1: give a number from 20"),
        (losses, "--alpha 0", "--alpha 0: give a number above 0"),
        (losses, "--alpha 1", "--alpha: smoothing = 1.0: give a number >= 0 and below 1"),
        (losses, "--gammas -1", "--gammas: exponent = -1.0: give a finite number >= 0"),
        (losses, "--gammas 1 1", "--gammas 1 1: give each once"),
        (losses, "--K 5 --d 3", "--d 3: the predictions need d >= K - 1 = 4"),
        (losses, "--K 1", "--K: num_classes = 1"),
        (losses, "--decades 1", "--decades 1: give a number from 2"),
        (layers, "--K 1", "--K 1: give an integer >= 2"),
        (layers, "--n 0", "--n: class_sizes"),
        (layers, "--norm 0", "--norm 0: give a number > 0"),
        (layers, "--widths 4 0", "widths[1] = 0: give an integer"),
        (layers, "--decay -1", "--decay: weight_decay = -1.0: give a finite number >= 0"),
        (layers, "--rounding 0", "--rounding 0: give a number > 0"),
        (layers, "--decades 0.5", "--decades 0.5: give a number from 1 to 1e4"),
        (layers, "--decades 13 --decay 1", "--decades 13: give at most 12 with weight decay"),
        (layers, "--activation relu relu", "--activation relu relu: give each once"),
        (layers, "--seed -1", "--seed -1: give an integer from 0"),
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
        (minority_collapse, "--minority 1", "--minority 1: give an integer from 2 to 50"),
        (minority_collapse, "--n 0", "--n 0: give an integer from 1"),
        (minority_collapse, "--imbalance 1", "--imbalance 1: give a number from 2"),
        (minority_collapse, "--grid 1", "--grid 1: give an integer from 2"),
        (minority_collapse, "--flow-imbalance 1", "--flow-imbalance 1: give an integer"),
        (minority_collapse, "--seed -1", "--seed -1: give an integer from 0"),
        (zhu_landscape, "--decay 0", "--decay 0: give a number from 1e-5 to 1"),
        (zhu_landscape, "--bias-decay -1", "--bias-decay -1: give a number from 0"),
        (zhu_landscape, "--d 1", "feature_dim = 1"),
        (zhu_landscape, "--K 10 --d 20 --n 10", "a state of 2210 numbers; up to 600"),
        (seed_sweep, "--K 5 --d 3", "--d 3: give integers >= K-1 = 4"),
        (seed_sweep, "--K 4 5 --d 4", "--d: give it with one --K"),
        (seed_sweep, "--K 2", "--K 2: give integers >= 3"),
        (seed_sweep, "--K 5 5", "--K 5 5: give each once"),
        (seed_sweep, "--seeds 0", "--seeds 0: give an integer from 1"),
        (collapse_movie, "--K 2", "--K 2: give an integer >= 3"),
        (collapse_movie, "--d 1", "--d 1: give an integer >= 2"),
        (collapse_movie, "--smallest 0", "--smallest 0: give a number from 1e-14 to 0.1"),
        (collapse_movie, "--frames 5", "--frames 5: give an integer >= 6"),
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
    script.add_output_flags(parser, "results")
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


def test_minorities_that_coincide_for_a_while_are_tabulated_against_the_prediction():
    data = transient_collapse.transient_flows((9, 9, 1, 1), 7, norms=(1e-3, 1e-6), seeds=2)
    assert data["majority_contrast"].dims == ("norm", "seed", "save")
    learned = data["learned_time"].median("seed").values
    slopes = (learned[1] - learned[0]) / np.log(1e3)
    np.testing.assert_allclose(slopes, [1 / 3, 1], rtol=2e-3)
    assert np.all(data["middle_cosine_gap"].values < [[0.02], [2e-4]])
    rows = transient_collapse.show_transient(data).splitlines()
    assert [float(x) for x in rows[4].split()[1:4:2]] == pytest.approx(slopes, abs=1e-5)
    assert [float(x) for x in rows[4].split()[2:5:2]] == pytest.approx([1 / 3, 1], abs=1e-5)
    # 1 − 1/3, which the measured power tends to as ε → 0.
    assert "= 0.667" in " ".join(rows)
    assert float(rows[4].split()[5]) == pytest.approx(2 / 3, abs=0.1)
    with pytest.raises(ValueError, match="give two sizes, of two classes each or more"):
        transient_collapse.transient_flows((9, 9, 1), 7)


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


def test_results_are_saved_before_figures_with_the_flags_as_attributes(tmp_path, capsys):
    data, saved = xr.Dataset({"x": ("time", [1.0, 2.0])}), []
    flags = Namespace(out=tmp_path, format="pdf", no_plot=False, seed=3)

    figure: Any = SimpleNamespace(savefig=lambda path: path.write_text("drawn"))

    def draw():
        saved.append(storage.load(tmp_path / "flow.zarr"))
        return {"one": figure, "two": figure}

    script.save_results(flags, {"flow": data}, draw)
    assert capsys.readouterr().out == f"\nsaved in {tmp_path}: flow.zarr, one.pdf, two.pdf\n"
    assert saved[0].attrs == script.attributes_of(flags)
    assert "seed" not in data.attrs
    assert (tmp_path / "two.pdf").read_text() == "drawn"

    flags.no_plot = True
    script.save_results(flags, {"flow": data, "descent": data}, draw)
    assert capsys.readouterr().out == f"\nsaved in {tmp_path}: flow.zarr, descent.zarr\n"
    assert len(saved) == 1


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
