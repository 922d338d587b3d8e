"""Sweeps that are killed, that several processes share, and that several devices share."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from store_files import assert_same_files, files_of
from tolerances import rounding

from nc_jax import storage

SEEDS, BATCH, KILLS = 120, 4, 20
PROGRAM = Path(__file__).with_name("sweep_process.py")


def start(path, *arguments):
    command = [sys.executable, str(PROGRAM), str(path), *map(str, arguments)]
    # What the first process has compiled serves the others.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(path.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | cache
    )


def finish(process):
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return out


def written_runs(path):
    """A store as any reader sees it, and which runs it holds; none where there is no store."""
    dataset = storage.load(path) if storage.is_store(path) else xr.Dataset()
    if not dataset:
        return dataset, np.zeros((2, SEEDS), bool)
    return dataset, dataset["result"].values != storage.NOT_RUN


def wait_for_a_batch(process, path):
    """Until a process has written something new, or has ended."""
    results = path / "result"
    before = len(list(results.rglob("*")))
    while process.poll() is None and len(list(results.rglob("*"))) == before:
        time.sleep(0.01)


@pytest.mark.slow
def test_twenty_kills_lose_nothing_that_was_written(tmp_path):
    size = "--seeds", SEEDS, "--batch-size", BATCH
    finish(start(tmp_path / "whole", *size))
    whole, _ = written_runs(tmp_path / "whole")
    files = files_of(tmp_path / "whole")
    path, random = tmp_path / "killed", np.random.default_rng(0)
    before = np.zeros((2, SEEDS), bool)
    kills = partly = ended = 0
    while kills < KILLS:
        process = start(path, *size)
        assert process.stdout is not None
        process.stdout.readline()
        # By turns at any moment, which on a busy machine is one before the writing, and within it.
        if kills % 2:
            wait_for_a_batch(process, path)
            time.sleep(random.uniform(0, 1))
        else:
            time.sleep(random.uniform(0, 4))
        process.kill()
        process.communicate()
        kills += process.returncode != 0
        dataset, written = written_runs(path)
        assert np.all(written[before])
        for name in dataset.data_vars:
            stored = dataset[name].values[written]
            np.testing.assert_array_equal(stored, whole[name].values[written])
        partly += 0 < written.sum() < written.size
        before = written
        if written.all():
            ended += 1
            finish(start(path, *size))
            assert_same_files(path, files)
            shutil.rmtree(path)
            before = np.zeros((2, SEEDS), bool)
    finish(start(path, *size))
    assert_same_files(path, files)
    # Else the kills fell before or after the writing, and showed nothing.
    assert partly >= KILLS // 4, (partly, ended)


def differences(one, other):
    """Largest difference of any variable, relative to its size; whole numbers must agree."""
    for name in one.data_vars:
        if one[name].dtype.kind != "f":
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    return max(
        np.max(np.abs(one[name].values - other[name].values)) / np.max(np.abs(one[name].values))
        for name in one.data_vars
        if one[name].dtype.kind == "f"
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweeps") / "alone"
    finish(start(path, "--seeds", 40, "--batch-size", 20))
    return storage.load(path)


@pytest.mark.slow
def test_two_devices_give_the_data_of_one(tmp_path, alone):
    out = finish(start(tmp_path / "two", "--seeds", 40, "--batch-size", 20, "--devices", 2))
    assert "started 2" in out
    assert differences(alone, storage.load(tmp_path / "two")) < rounding(operations=1000)


@pytest.mark.slow
def test_two_processes_give_the_data_of_one(tmp_path, alone):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    both = [
        start(tmp_path / "two", "--seeds", 40, "--batch-size", 20, "--process", i, "--port", port)
        for i in range(2)
    ]
    for process in both:
        assert "started 2" in finish(process)
    for name in ("two", "two.0", "two.1"):
        found = storage.load(tmp_path / name)
        assert differences(alone, found) < rounding(operations=1000)
