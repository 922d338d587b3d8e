"""Downloads, from a server on this machine."""

import functools
import gzip
import hashlib
import io
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import numpy as np
import pytest
from image_files import cifar_pickle, idx

from nc_jax import images
from nc_jax.images import sets
from nc_jax.images.published import PUBLISHED

pytest.importorskip("pooch")
FILES = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder and keeps what was asked for."""

    def __init__(self, *args, requests, **kwargs):
        self.requests = requests
        super().__init__(*args, **kwargs)

    def do_GET(self):
        self.requests.append(self.path.lstrip("/"))
        super().do_GET()

    def log_message(self, format, *args):
        pass


class Published(NamedTuple):
    folder: object
    address: str
    requests: list


@pytest.fixture
def published(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    folder, requests = tmp_path / "published", []
    folder.mkdir()
    handler = functools.partial(Handler, directory=str(folder), requests=requests)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Published(folder, f"http://127.0.0.1:{server.server_port}/", requests)
        server.shutdown()
        thread.join()


def publish(monkeypatch, published, name, files, members=()):
    for file, content in files.items():
        (published.folder / file).write_bytes(content)
    sums = {file: hashlib.md5(content).hexdigest() for file, content in files.items()}
    source = PUBLISHED[name]._replace(addresses=(published.address,), files=sums, members=members)
    monkeypatch.setitem(PUBLISHED, name, source)


@pytest.fixture
def mnist(published, monkeypatch):
    """A set of two images under the names of MNIST, and known for MNIST."""
    contents = [idx(np.ones((2, 28, 28), np.uint8)), idx(np.arange(2, dtype=np.uint8))]
    sums = [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in contents]
    names = [file.removesuffix(".gz") for file in FILES]
    known = PUBLISHED["mnist"]._replace(contents=dict(zip(names, sums, strict=True)))
    monkeypatch.setitem(PUBLISHED, "mnist", known)
    files = {file: gzip.compress(content) for file, content in zip(FILES, contents, strict=True)}
    publish(monkeypatch, published, "mnist", files)
    return published


def refused(call):
    with pytest.raises(OSError, match="by hand into") as error:
        call()
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_missing_files_are_downloaded_once(mnist, tmp_path):
    folder = tmp_path / "new" / "folder"
    for _ in range(2):
        found = images.load("mnist", "test", folder=folder, download=True)
        assert found.images.shape == (2, 28, 28)
        assert mnist.requests == list(FILES)
    assert sorted(path.name for path in folder.iterdir()) == list(FILES)
    assert len(images.load("mnist", "test", folder=folder).labels) == 2


def test_without_a_folder_files_go_to_the_cache_of_the_user(mnist, tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)
    assert len(images.load("mnist", "test", download=True).labels) == 2
    assert (tmp_path / "cache" / "nc_jax" / "mnist" / FILES[0]).is_file()


def test_files_compressed_anew_or_not_at_all_are_left_alone(mnist, tmp_path):
    content = gzip.decompress((mnist.folder / FILES[0]).read_bytes())
    (tmp_path / FILES[0].removesuffix(".gz")).write_bytes(content)
    again = gzip.compress(gzip.decompress((mnist.folder / FILES[1]).read_bytes()), 1, mtime=5)
    (tmp_path / FILES[1]).write_bytes(again)
    images.load("mnist", "test", folder=tmp_path, download=True)
    assert mnist.requests == []
    assert (tmp_path / FILES[1]).read_bytes() == again


def test_a_damaged_file_is_fetched_anew(mnist, tmp_path):
    images.load("mnist", "test", folder=tmp_path, download=True)
    (tmp_path / FILES[1]).write_bytes((mnist.folder / FILES[1]).read_bytes()[:-3])
    with pytest.raises(ValueError, match="damaged gzip file"):
        images.load("mnist", "test", folder=tmp_path)
    images.load("mnist", "test", folder=tmp_path, download=True)
    assert mnist.requests == [*FILES, FILES[1]]


def test_a_damaged_file_that_hides_a_downloaded_one_is_named(mnist, tmp_path):
    damaged = tmp_path / FILES[0].removesuffix(".gz")
    damaged.write_bytes(gzip.decompress((mnist.folder / FILES[0]).read_bytes())[:-3])
    with pytest.raises(ValueError, match="It hides the downloaded file: remove it") as error:
        images.load("mnist", "test", folder=tmp_path, download=True)
    assert str(error.value).startswith(f"{damaged}: ")
    assert len(str(error.value).splitlines()) == 1
    damaged.unlink()
    assert len(images.load("mnist", "test", folder=tmp_path).labels) == 2


def test_a_file_of_another_checksum_is_refused_and_not_stored(mnist, tmp_path):
    (mnist.folder / FILES[0]).write_bytes(b"a page that wants a login")
    folder = tmp_path / "data"
    message = refused(lambda: images.load("mnist", "test", folder=folder, download=True))
    assert message.startswith(f"{mnist.address}{FILES[0]}: MD5 hash of downloaded file")
    assert message.endswith(f"; download {FILES[0]} by hand into {folder}.")
    assert list(folder.iterdir()) == []


def test_a_file_that_the_server_lacks_is_refused(mnist, tmp_path):
    (mnist.folder / FILES[1]).unlink()
    message = refused(lambda: images.load("mnist", "test", folder=tmp_path / "data", download=True))
    assert f"{mnist.address}{FILES[1]}: 404 " in message
    assert [path.name for path in (tmp_path / "data").iterdir()] == [FILES[0]]


def test_addresses_are_tried_in_turn(mnist, tmp_path, monkeypatch):
    # Nothing listens on port 9 of this machine, and the second address has no such folder.
    dead = ("http://127.0.0.1:9/", f"{mnist.address}none/")
    source = PUBLISHED["mnist"]
    monkeypatch.setitem(PUBLISHED, "mnist", source._replace(addresses=(*dead, mnist.address)))
    assert len(images.load("mnist", "test", folder=tmp_path, download=True).labels) == 2
    monkeypatch.setitem(PUBLISHED, "mnist", source._replace(addresses=dead))
    message = refused(lambda: images.load("mnist", "test", folder=tmp_path / "data", download=True))
    assert all(f"{address}{FILES[0]}: " in message for address in dead)
    assert "Connection refused" in message


def test_fashion_mnist_that_is_installed_is_not_asked_for(published, tmp_path, monkeypatch):
    publish(monkeypatch, published, "fashion-mnist", {})
    monkeypatch.setattr(sets, "_FASHION_MNIST_FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="install Debian's package"):
        images.load("fashion-mnist", "test", download=True)
    assert published.requests == []


def archive(files):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as written:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            written.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def cifar10(published, monkeypatch):
    """An archive of two images a batch, with more in it than what is unpacked."""
    rows = np.random.default_rng(0).integers(0, 256, (2, 3072)).astype(np.uint8)
    members = PUBLISHED["cifar10"].members
    files = {m: cifar_pickle(rows, [i, 9 - i]) for i, m in enumerate(members)}
    sums = {
        m.split("/")[1]: f"md5:{hashlib.md5(content).hexdigest()}" for m, content in files.items()
    }
    monkeypatch.setitem(PUBLISHED, "cifar10", PUBLISHED["cifar10"]._replace(contents=sums))
    more = {"../outside": b"", "cifar-10-batches-py/readme.html": b""}
    content = {"cifar-10-python.tar.gz": archive(files | more)}
    publish(monkeypatch, published, "cifar10", content, members)
    return published


def test_of_the_archive_of_cifar10_its_batches_alone_are_unpacked(cifar10, tmp_path):
    folder = tmp_path / "data"
    train = images.load("cifar10", "train", folder=folder, download=True)
    test = images.load("cifar10", "test", folder=folder, download=True)
    np.testing.assert_array_equal(train.labels, [0, 9, 1, 8, 2, 7, 3, 6, 4, 5])
    np.testing.assert_array_equal(test.labels, [5, 4])
    assert cifar10.requests == ["cifar-10-python.tar.gz"]
    unpacked = {path.name for path in (folder / "cifar-10-batches-py").iterdir()}
    assert unpacked == {*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"}
    assert not (tmp_path / "outside").exists()


def test_an_unpacking_that_was_cut_short_is_done_again_without_a_request(cifar10, tmp_path):
    images.load("cifar10", "test", folder=tmp_path, download=True)
    batch = tmp_path / "cifar-10-batches-py" / "test_batch"
    batch.write_bytes(batch.read_bytes()[:-100])
    images.load("cifar10", "test", folder=tmp_path, download=True)
    assert cifar10.requests == ["cifar-10-python.tar.gz"]


def test_fetched_files_of_every_set_are_those_that_are_read():
    for name in ("mnist", "fashion-mnist", "kmnist"):
        assert len(PUBLISHED[name].files) == 4
        assert set(FILES) < set(PUBLISHED[name].files)
        assert set(PUBLISHED[name].contents) <= {
            f.removesuffix(".gz") for f in PUBLISHED[name].files
        }
    unpacked = {member.split("/")[1] for member in PUBLISHED["cifar10"].members}
    assert unpacked == set(PUBLISHED["cifar10"].contents)
