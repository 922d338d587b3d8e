"""One way to read a path."""

import os
from pathlib import Path

import pytest

from nc_jax.paths import local_path


class InBytes(os.PathLike):
    def __fspath__(self):
        return b"a"


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize("kind", [str, Path])
def test_a_tilde_is_the_home_folder(home, kind):
    assert local_path(kind("~/a.zarr")) == home / "a.zarr"
    assert local_path(kind("~")) == home
    assert local_path(kind("a/~/b")) == Path("a/~/b")
    assert local_path(kind("a~")) == Path("a~")


def test_a_folder_named_with_a_tilde_can_be_given(home):
    here = local_path("./~x")
    assert here == Path.cwd() / "~x"
    assert local_path(here) == here


@pytest.mark.parametrize(
    "path",
    [
        "lr=0.1",
        "run:1/a.zarr",
        "C:/data/a.zarr",
        "C:\\data",
        "a b.zarr",
        "ü.zarr",
        "../a",
        "/a:b/c",
    ],
)
def test_paths_without_a_tilde_are_unchanged(home, path):
    assert local_path(path) == Path(path)
    assert local_path(local_path(path)) == Path(path)


@pytest.mark.parametrize(
    "path",
    [
        "s3://bucket/run.zarr", "S3://bucket/run.zarr", "gs://b/c", "file:///tmp/a", "memory://a",
        "https://host/a.zarr", "simplecache::s3://bucket/a", Path("s3://bucket/run.zarr"),
    ],
)  # fmt: skip
def test_urls_are_refused(path):
    with pytest.raises(ValueError, match=r"folder = .*: is a URL") as caught:
        local_path(path, name="folder")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "not empty"),
        ("a\0b", "null byte"),
        (InBytes(), "give a path as text"),
        ("~nobody-of-this-name/a", "no such home"),
    ],
)
def test_invalid_paths_are_refused(path, message):
    with pytest.raises(ValueError, match=message):
        local_path(path)


def test_the_home_is_read_as_the_system_reads_it(home):
    assert os.fspath(local_path("~/a/b")) == os.path.expanduser("~/a/b")
