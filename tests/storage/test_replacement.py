"""Where stores lie: names beside one another, paths that cannot be written, homes and URLs."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import jax
import numpy as np
import pytest
import xarray as xr

import nc_jax as nc
from nc_jax import images, storage
from nc_jax.storage import replacement
from nc_jax.storage.replacement import replacing

# Beginnings of one another, patterns of one another, names of hidden and of temporary files.
NAMES = [
    "lr_0", "lr_0.1", "lr_0.1.b", "lr_0.", "lr_*", "lr_?", "lr_[01]", "lr_0.lock", ".lr_0.lock",
    ".lr_0.1", ".lr_0.abcdefgh", "a", ".a", "..a", "a b", "ä", "-a", "a.zarr", ".a.nc_jax",
]  # fmt: skip

# Takes and gives back the right to write each of the stores, and cleans up beside it, for ever.
NEIGHBOUR = """
import sys
from pathlib import Path
from nc_jax import storage
names = sys.argv[2:]
print("runs", flush=True)
while True:
    for name in names:
        with storage.writing(Path(sys.argv[1], name)):
            pass
"""


def numbers(value: float) -> xr.Dataset:
    return xr.Dataset({"a": ("time", np.full(3, value))})


def test_a_process_that_cleans_up_leaves_its_neighbours_alone(tmp_path):
    # Of the same names too: what a process still writes is not removed.
    command = [sys.executable, "-c", NEIGHBOUR, str(tmp_path), *NAMES]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"runs\n"
        for value in range(2):
            for name in NAMES:
                storage.save(numbers(value), tmp_path / name)
                assert storage.load(tmp_path / name)["a"][0] == value
        assert process.poll() is None, process.communicate()[1].decode()
    finally:
        process.kill()
        process.communicate()
    assert all(storage.is_store(tmp_path / name) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_store_leaves_behind_is_removed_for_it_alone(tmp_path, name):
    others = [other for other in NAMES if other != name]
    for each in NAMES:
        (tmp_path / f".{each}.nc_jax-killed00" / "fresh").mkdir(parents=True)
    with storage.writing(tmp_path / name):
        pass
    left = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert left == {f".{other}.nc_jax-killed00" for other in others}


def test_folders_of_others_beside_a_store_are_never_removed(tmp_path):
    for folder in (".a.backup", ".a.abcdefgh", ".a.nc_jax-", ".a.nc_jax-x.y", "a.nc_jax-abcdefgh"):
        (tmp_path / folder).mkdir()
    before = set(os.listdir(tmp_path))
    storage.save(numbers(0.0), tmp_path / "a")
    with storage.writing(tmp_path / "a"):
        pass
    assert before <= set(os.listdir(tmp_path))


def test_a_store_that_is_being_written_is_no_remainder(tmp_path):
    with replacing(tmp_path / "a") as fresh:
        with storage.writing(tmp_path / "a"):
            assert fresh.parent.exists()
        numbers(1.0).to_zarr(fresh, consolidated=False)
    assert storage.load(tmp_path / "a")["a"][0] == 1.0


def test_a_replacement_that_was_killed_halfway_is_completed(tmp_path):
    storage.save(numbers(0.0), tmp_path / "a")
    scratch = tmp_path / ".a.nc_jax-killed00"
    scratch.mkdir()
    (tmp_path / "a").rename(scratch / "stale")
    storage.save(numbers(1.0), tmp_path / "b")
    (tmp_path / "b").rename(scratch / "fresh")
    with storage.writing(tmp_path / "a"):
        pass
    assert storage.load(tmp_path / "a")["a"][0] == 1.0
    assert not scratch.exists()


def test_concurrent_saves_to_one_path_leave_one_whole_store(tmp_path):
    def save_often(value):
        for _ in range(4):
            storage.save(numbers(value), tmp_path / "a")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(save_often, range(3)))
    assert os.listdir(tmp_path) == ["a"]
    assert storage.load(tmp_path / "a")["a"].values.tolist() in [3 * [value] for value in range(3)]


def test_a_store_that_another_process_replaces_during_the_check_is_no_error(tmp_path, monkeypatch):
    path, fresh = tmp_path / "a", tmp_path / "fresh"
    storage.save(numbers(0.0), path)
    storage.save(numbers(1.0), fresh)
    is_store = replacement.is_store

    def is_store_between_two_renames(asked):
        if asked != path or not fresh.exists():
            return is_store(asked)
        path.rename(tmp_path / "stale")
        found = is_store(asked)
        fresh.rename(path)
        return found

    monkeypatch.setattr(replacement, "is_store", is_store_between_two_renames)
    storage.save(numbers(2.0), path)
    assert not fresh.exists()
    assert storage.load(path)["a"][0] == 2.0


@pytest.mark.parametrize("moment", ["before", "during", "after"])
def test_a_writer_whose_folder_another_process_removes_takes_a_new_one(
    tmp_path, monkeypatch, moment
):
    """Until it is locked, a folder looks like that of a killed process."""
    removed = []

    class LockOfARemovedFolder(filelock.FileLock):
        def __enter__(self):
            locked = super().__enter__() if moment == "after" else self
            if not removed:
                removed.append(Path(self.lock_file).parent)
                shutil.rmtree(removed[0])
                if moment == "during":
                    raise FileExistsError  # of a mkdir that found the folder and then did not
            return locked if moment == "after" else super().__enter__()

    monkeypatch.setattr(filelock, "FileLock", LockOfARemovedFolder)
    storage.save(numbers(1.0), tmp_path / "a")
    assert len(removed) == 1
    assert os.listdir(tmp_path) == ["a"]
    assert storage.load(tmp_path / "a")["a"][0] == 1.0


@pytest.mark.parametrize("error", [FileNotFoundError, FileExistsError])
def test_a_folder_that_another_process_removes_first_is_no_error(tmp_path, monkeypatch, error):
    (tmp_path / ".a.nc_jax-killed00" / "fresh").mkdir(parents=True)

    class LockOfAVanishedFolder(filelock.FileLock):
        def __enter__(self):
            if "killed" in self.lock_file:
                raise error
            return super().__enter__()

    monkeypatch.setattr(filelock, "FileLock", LockOfAVanishedFolder)
    storage.save(numbers(1.0), tmp_path / "a")
    assert storage.load(tmp_path / "a")["a"][0] == 1.0


def test_names_of_temporary_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="are reserved for temporary files; give another"):
        storage.save(numbers(0.0), tmp_path / ".a.nc_jax-abcdefgh")


def test_a_link_to_a_store_leads_to_the_store(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "disk" / "store")
    for value in range(2):
        storage.save(numbers(value), tmp_path / "a")
        assert (tmp_path / "a").is_symlink()
        assert storage.load(tmp_path / "disk" / "store")["a"][0] == value
    with (
        storage.writing(tmp_path / "a"),
        pytest.raises(RuntimeError, match="another process is writing there"),
        storage.writing(tmp_path / "disk" / "store"),
    ):
        pass


PROBLEM = nc.ulpm(3, 4, 2)
START = PROBLEM.init(jax.random.key(0))
FLOW = nc.Flow(PROBLEM, np.array([0.0, 1.0]), observe=("margin_min",))


def sweep(path):
    return nc.sweep(FLOW, 2, path=path, progress=False)


def save(path):
    storage.save(numbers(0.0), path)


def flow(path):
    return FLOW(START, path=path, progress=False)


WRITERS = pytest.mark.parametrize("write", [save, flow, sweep])


@WRITERS
@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("/proc/x.zarr", "No such file or directory"),
        ("/proc/self/x/y.zarr", "No such file or directory"),
        ("{file}/x.zarr", "Not a directory"),
        ("{folder}/" + "x" * 300, "File name too long"),
    ],
)
def test_the_system_says_why_a_path_cannot_be_written(tmp_path, write, place, reason):
    if place.startswith("/proc") and not os.path.isdir("/proc/self"):
        pytest.skip("no /proc")
    (tmp_path / "file").write_text("text")
    path = place.format(file=tmp_path / "file", folder=tmp_path)
    with pytest.raises(OSError, match=reason) as caught:
        write(path)
    assert caught.value.filename == path
    assert "\n" not in str(caught.value)


@WRITERS
@pytest.mark.parametrize("path", ["s3://bucket/run.zarr", "memory://a", "file:///tmp/a.zarr"])
def test_urls_are_refused_before_anything_is_written(tmp_path, monkeypatch, write, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"path = .*: is a URL"):
        write(path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("read", [storage.load, storage.arrays, storage.attributes])
def test_urls_are_refused_by_readers(read):
    with pytest.raises(ValueError, match=r"path = .*: is a URL"):
        read("s3://bucket/run.zarr")


@WRITERS
def test_a_tilde_is_the_home_folder_for_writers_and_readers(tmp_path, monkeypatch, write):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write("~/results/a.zarr")
    assert storage.is_store(tmp_path / "home" / "results" / "a.zarr")
    assert storage.load("~/results/a.zarr").identical(
        storage.load(tmp_path / "home" / "results" / "a.zarr")
    )
    assert (
        storage.attributes("~/results/a.zarr").items()
        >= storage.load("~/results/a.zarr").attrs.items()
    )
    assert os.listdir(tmp_path / "here") == []
    assert os.listdir(tmp_path / "home") == ["results"]


def test_image_sets_and_programs_are_read_from_the_same_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("mnist", "kmnist", "fashion-mnist", "cifar10"):
        with pytest.raises(FileNotFoundError, match=str(tmp_path / "data")):
            images.load(name, folder="~/data")
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "data")):
        images.read_idx("~/data/train-labels-idx1-ubyte")
    with pytest.raises(ValueError, match=r"folder = .*: is a URL"):
        images.load("mnist", folder="s3://bucket/mnist")
    with pytest.raises(ValueError, match=r"folder = .*: is a URL"):
        nc.cache_programs("s3://bucket/programs")


def test_a_store_within_a_store_is_refused_since_it_would_be_replaced_with_it(tmp_path):
    outer, inner = tmp_path / "outer", tmp_path / "outer" / "deep" / "inner"
    storage.save(numbers(1.0), outer)
    problem = nc.ulpm(3, 4, 2)
    flow = nc.Flow(problem, np.array([1.0]), observe=("margin_min",))
    for write in (
        lambda: storage.save(numbers(2.0), inner),
        lambda: nc.sweep(flow, 2, path=inner),
        lambda: flow(problem.init(jax.random.key(0)), path=inner),
    ):
        with pytest.raises(FileExistsError, match=r"inner lies within the Zarr store .*outer"):
            write()
    assert sorted(path.name for path in tmp_path.iterdir() if "lock" not in path.name) == ["outer"]
    assert storage.load(outer).identical(numbers(1.0))
