"""Ctrl-C in sweeps and trainings: a message of one line names what is saved; no result is lost."""

import signal
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from store_files import files_of

import nc_jax as nc
from nc_jax import storage
from nc_jax.interrupts import lasting_interrupts
from nc_jax.sweeps.programs import BatchPrograms

OPTIMIZER = optax.sgd(0.1)
PROBLEM = nc.ulpm(3, 4, 2)


def run(key):
    return nc.gradient_descent(PROBLEM, PROBLEM.init(key), OPTIMIZER, 2, observe=observe)


def observe(state):
    return {"margin": jnp.min(state.logits())}


def sweep(**options):
    return nc.sweep(run, 6, batch_size=2, progress=False, **options)


def interrupt_after(monkeypatch, batches):
    """Raise, as Ctrl-C does, within a later batch."""
    compute, calls = BatchPrograms.compute, iter(range(batches))

    def compute_or_stop(self, cell, seeds):
        if next(calls, None) is None:
            try:
                raise RuntimeError("what was going on")
            except RuntimeError:
                raise KeyboardInterrupt from None
        return compute(self, cell, seeds)

    monkeypatch.setattr(BatchPrograms, "compute", compute_or_stop)


def assert_short(interrupted):
    """A traceback of the caller and of one function of the package, and a message of one line."""
    assert "\n" not in str(interrupted)
    text = "".join(traceback.format_exception(interrupted))
    assert text.count("Traceback") == 1
    # Type checks of the test session are frames of their own.
    frames = traceback.extract_tb(interrupted.__traceback__)
    files = [frame.filename for frame in frames if "jaxtyping" not in frame.filename]
    assert len([name for name in files if name != __file__]) == 1, text


def test_a_sweep_says_how_many_runs_are_saved_and_resumes(monkeypatch, tmp_path):
    with monkeypatch.context() as context:
        interrupt_after(context, 2)
        with pytest.raises(nc.Interrupted, match=r"4 of 6 runs are saved; the same call") as caught:
            sweep(path=tmp_path / "a")
    assert_short(caught.value)
    assert str(tmp_path / "a") in str(caught.value)
    assert caught.value.data is None
    assert np.sum(storage.load(tmp_path / "a")["result"] != storage.NOT_RUN) == 4
    sweep(path=tmp_path / "a")
    sweep(path=tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_sweep_in_memory_gives_the_runs_that_are_computed(monkeypatch):
    whole = sweep()
    with monkeypatch.context() as context:
        interrupt_after(context, 1)
        with pytest.raises(nc.Interrupted, match="2 of 6 runs are computed") as caught:
            sweep()
    assert_short(caught.value)
    part = caught.value.data
    assert part is not None
    np.testing.assert_array_equal(part["margin"][:2], whole["margin"][:2])
    assert np.all(np.isnan(part["margin"][2:]))
    np.testing.assert_array_equal(part["result"], [0, 0, -1, -1, -1, -1])
    interrupt_after(monkeypatch, 0)
    with pytest.raises(nc.Interrupted, match="0 of 6 runs") as caught:
        sweep()
    assert caught.value.data is None


def stop(*arguments):
    raise KeyboardInterrupt


def test_ctrl_c_while_a_sweep_or_a_flow_is_traced_is_one_line_too(monkeypatch):
    with pytest.raises(nc.Interrupted, match="before the first result") as caught:
        nc.sweep(stop, 2, progress=False)
    assert_short(caught.value)
    flow = nc.Flow(PROBLEM, np.array([1.0]), observe=stop)
    with pytest.raises(nc.Interrupted, match="before the first result") as caught:
        flow(PROBLEM.init(jax.random.key(0)))
    assert caught.value.trajectory is None
    assert "\n" not in str(caught.value)


def lose_an_interrupt():
    """Press Ctrl-C where the exception is lost, as in JAX's callback of the garbage collector."""
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        return
    raise AssertionError("Ctrl-C raised nothing")


@pytest.fixture
def interruptible():
    """Python's handler of Ctrl-C, also where the tests run in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_that_was_lost_is_raised_again():
    before = signal.getsignal(signal.SIGINT)
    with lasting_interrupts() as check_interrupt:
        check_interrupt()
        lose_an_interrupt()
        with pytest.raises(KeyboardInterrupt):
            check_interrupt()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_handler_of_the_user_is_left_alone():
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    try:
        with lasting_interrupts() as check_interrupt:
            signal.raise_signal(signal.SIGINT)
            check_interrupt()
    finally:
        signal.signal(signal.SIGINT, before)
    assert pressed == [1]


@pytest.mark.usefixtures("interruptible")
def test_a_sweep_ends_after_an_interrupt_that_was_lost(monkeypatch):
    compute, batches = BatchPrograms.compute, []

    def compute_and_lose(self, cell, seeds):
        batches.append(seeds)
        lose_an_interrupt()
        return compute(self, cell, seeds)

    monkeypatch.setattr(BatchPrograms, "compute", compute_and_lose)
    with pytest.raises(nc.Interrupted, match="2 of 6 runs"):
        sweep()
    assert len(batches) == 1
