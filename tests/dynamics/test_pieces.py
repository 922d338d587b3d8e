"""A run in pieces under a host loop: the same bits wherever it is divided, nothing is lost."""

import os
import signal
import subprocess
import sys
import time

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest
from store_files import files_of
from tolerances import rounding

import nc_jax as nc
from nc_jax import storage
from nc_jax.dynamics import pieces

PROBLEM = nc.ulpm(3, 4, 2)
START = PROBLEM.init(jax.random.key(0))
# More save times than one piece takes, some of them within a step.
TIMES = np.concatenate([[0.0], nc.log_times(30, 150)])


def margins(state):
    logits = state.logits()
    return {"margin": jnp.min(logits), "logits": logits}


FLOW = nc.Flow(PROBLEM, TIMES, observe=margins, save_states=True)


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def assert_same_to_rounding(found, expected):
    """Each of some hundred steps passes on how sums are rounded."""
    tolerance = rounding(operations=10_000)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def in_pieces_of(monkeypatch, num_steps):
    """Give every piece so many steps."""
    following = pieces._Pieces.next
    monkeypatch.setattr(pieces._Pieces, "first_steps", lambda self: num_steps)
    monkeypatch.setattr(
        pieces._Pieces, "next", lambda self, computed, _: following(self, computed, num_steps)
    )


@pytest.mark.parametrize("num_steps", [1, 7])
def test_a_run_has_the_same_bits_wherever_it_is_divided(monkeypatch, num_steps):
    whole = FLOW(START)
    in_pieces_of(monkeypatch, num_steps)
    assert_same_bits(FLOW(START), whole)


def test_a_run_in_pieces_equals_the_run_of_one_jit():
    # Save for rounding: a loop of another length is compiled otherwise.
    assert_same_to_rounding(FLOW(START), jax.jit(lambda start: FLOW(start))(START))


def test_a_batch_in_pieces_is_the_batch_of_a_jit(monkeypatch):
    starts = jax.vmap(PROBLEM.init)(jax.random.split(jax.random.key(0), 3))
    in_pieces_of(monkeypatch, 3)
    found = FLOW.batch(starts)
    expected = jax.jit(lambda starts: FLOW.batch(starts))(starts)
    assert_same_to_rounding(found, expected)


def level(t, y, args, **kwargs):
    return jnp.min(nc.metrics.sample_margins(y, PROBLEM.labels)) - 2.0


def test_an_event_within_a_piece_ends_the_run_at_its_root(monkeypatch):
    event = diffrax.Event(level, optimistix.Newton(rtol=1e-10, atol=1e-10), direction=True)
    flow = nc.Flow(PROBLEM, TIMES, observe=margins, event=event)
    in_pieces_of(monkeypatch, 2)
    traj = flow(START)
    assert traj.result == diffrax.RESULTS.event_occurred
    np.testing.assert_allclose(level(0, traj.final, None), 0, atol=1e-8)
    np.testing.assert_array_equal(
        np.isfinite(traj.observables["margin"]), float(traj.final_log_time) >= TIMES
    )
    assert_same_to_rounding(traj, jax.jit(lambda start: flow(start))(START))


def test_the_step_limit_ends_a_run_at_that_step():
    traj = nc.Flow(PROBLEM, TIMES, observe=margins, max_steps=20)(START, throw=False)
    assert traj.num_steps == 20
    assert not traj.succeeded
    recorded = np.isfinite(traj.observables["margin"])
    np.testing.assert_array_equal(recorded, float(traj.final_log_time) >= TIMES)
    whole = FLOW(START).observables["margin"]
    np.testing.assert_array_equal(traj.observables["margin"][recorded], whole[recorded])


def interrupt_after(monkeypatch, count):
    """Raise, as Ctrl-C does, in the place of a later piece."""
    following, calls = pieces._Pieces.next, iter(range(count))
    monkeypatch.setattr(pieces._Pieces, "first_steps", lambda self: 0)

    def next_piece(self, computed, _):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return following(self, computed, 5)

    monkeypatch.setattr(pieces._Pieces, "next", next_piece)


@pytest.mark.parametrize("count", [0, 3])
def test_ctrl_c_gives_what_was_computed(monkeypatch, count):
    whole = FLOW(START)
    interrupt_after(monkeypatch, count)
    with pytest.raises(nc.Interrupted, match="`trajectory` has the computed part") as caught:
        FLOW(START)
    traj = caught.value.trajectory
    assert traj is not None
    assert traj.num_steps == 5 * count
    assert not traj.succeeded
    recorded = np.isfinite(traj.observables["margin"])
    assert recorded.any() == (count > 0)
    np.testing.assert_array_equal(recorded, (float(traj.final_log_time) >= TIMES) & (count > 0))
    np.testing.assert_array_equal(
        traj.observables["margin"][recorded], whole.observables["margin"][recorded]
    )


@pytest.mark.parametrize("count", [0, 3])
def test_ctrl_c_in_a_batch_names_the_time_of_its_runs(monkeypatch, count):
    starts = jax.vmap(PROBLEM.init)(jax.random.split(jax.random.key(1), 3))
    interrupt_after(monkeypatch, count)
    with pytest.raises(nc.Interrupted, match=r"interrupted at log\(1\+t\) = [\d.]+;") as caught:
        FLOW.batch(starts)
    assert caught.value.trajectory is not None
    assert "\n" not in str(caught.value)


def test_an_interrupted_run_resumes_to_the_same_bytes(monkeypatch, tmp_path):
    whole = FLOW(START, path=tmp_path / "whole")
    with monkeypatch.context() as context:
        interrupt_after(context, 3)
        with pytest.raises(nc.Interrupted, match="the same call resumes from"):
            FLOW(START, path=tmp_path / "ended")
    assert storage.load(tmp_path / "ended")["result"] == storage.NOT_RUN
    assert_same_bits(FLOW(START, path=tmp_path / "ended"), whole)
    assert files_of(tmp_path / "ended") == files_of(tmp_path / "whole")


def test_a_finished_run_is_read_and_not_computed(monkeypatch, tmp_path):
    whole = FLOW(START, path=tmp_path / "a")
    monkeypatch.setattr(pieces._Pieces, "next", None)
    assert_same_bits(FLOW(START, path=tmp_path / "a"), whole)
    data = storage.load(tmp_path / "a")
    np.testing.assert_array_equal(data["margin"], whole.observables["margin"])
    assert data["result"] == 0
    assert storage.NOT_RUN != 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rtol": 1e-6}, "rtol = None there, 1e-06 here"),
        ({"save_at": TIMES[:-1]}, "save_at = float64"),
        ({"max_steps": 7}, "max_steps = 1000000 there, 7 here"),
        ({"problem": nc.ulpm(3, 4, 2, reduction="mean")}, "problem = "),
    ],
    ids=["rtol", "times", "steps", "problem"],
)
def test_a_store_of_another_run_is_refused_with_what_differs(tmp_path, change, message):
    setting = {"problem": PROBLEM, "save_at": TIMES, "observe": margins}
    nc.Flow(**setting)(START, path=tmp_path / "a")
    with pytest.raises(ValueError, match="holds another flow") as caught:
        nc.Flow(**{**setting, **change})(START, path=tmp_path / "a", throw=False)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_store_of_another_start_is_refused(tmp_path):
    FLOW(START, path=tmp_path / "a")
    with pytest.raises(ValueError, match="holds another flow: start = "):
        FLOW(PROBLEM.init(jax.random.key(1)), path=tmp_path / "a")


def test_a_folder_that_is_no_zarr_store_is_not_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    with pytest.raises(FileExistsError, match="not a Zarr store"):
        FLOW(START, path=tmp_path / "thesis")


def test_a_path_inside_of_a_program_is_refused(tmp_path):
    with pytest.raises(ValueError, match="under jit, vmap or a derivative writes nothing"):
        jax.jit(lambda start: FLOW(start, path=tmp_path / "a"))(START)


LONG = """
import signal, sys, jax, numpy as np
# A process in the background of a script ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)
jax.config.update("jax_enable_x64", True)
import nc_jax as nc
from nc_jax.dynamics import pieces
following, count = pieces._Pieces.next, iter(range(10))
def next_piece(self, computed, num_steps):
    if next(count, None) == 5:
        print("runs", flush=True)
    return following(self, computed, num_steps)
pieces._Pieces.next = next_piece
problem = nc.ulpm(3, 4, 2)
flow = nc.Flow(problem, nc.log_times(1e7, 50), observe=("margin_min",), max_steps=10**9)
try:
    flow(problem.init(jax.random.key(0)))
except nc.Interrupted as stopped:
    print("steps", stopped.trajectory.num_steps, stopped, flush=True)
    sys.exit(130)
"""


def test_ctrl_c_stops_a_long_run_within_a_second():
    # Hours of steps. The machine may be busy: the bound on the wait is loose, the outcome is not.
    process = subprocess.Popen(
        [sys.executable, "-c", LONG], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    # Five pieces are done: it runs, and steps by the second.
    assert process.stdout.readline() == "runs\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert int(out.split()[1]) > 0
    assert "Traceback" not in err


KILLED = """
import sys, jax
jax.config.update("jax_enable_x64", True)
import nc_jax as nc
from nc_jax.dynamics import checkpoints
checkpoints._SECONDS, checkpoints._SHARE = 0.0, 1.0
problem = nc.ulpm(3, 4, 2)
flow = nc.Flow(problem, nc.log_times(3000, 40), observe=("margin_min",), rtol=1e-9)
flow(problem.init(jax.random.key(0)), path=sys.argv[1])
"""


@pytest.mark.slow
def test_kills_at_any_moment_lose_nothing(tmp_path):
    def begin(name):
        return subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / name)])

    assert begin("whole").wait() == 0
    rng, kills = np.random.default_rng(0), 0
    for _ in range(8):
        process = begin("killed")
        try:
            process.wait(timeout=rng.uniform(3, 6))
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills > 0
    assert begin("killed").wait() == 0
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
