"""Names and folders of image sets as people have them, with tiny files in each layout."""

import gzip
import hashlib
import shutil
from typing import Any

import numpy as np
import pytest
from image_files import cifar_pickle, cifar_records, idx

from nc_jax import images
from nc_jax.images import layouts
from nc_jax.images.published import PUBLISHED

RNG = np.random.default_rng(0)
ARRAYS = {
    f"{split}-{kind}": array
    for split in ("train", "t10k")
    for kind, array in (
        ("images-idx3-ubyte", RNG.integers(0, 256, (20, 28, 28)).astype(np.uint8)),
        ("labels-idx1-ubyte", RNG.permutation(np.arange(20) % 10).astype(np.uint8)),
    )
}
TABLES = ("mnist", "fashion-mnist")


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("MNIST", "mnist"),
        ("FashionMNIST", "fashion-mnist"),
        ("Fashion-MNIST", "fashion-mnist"),
        ("fashion_mnist", "fashion-mnist"),
        ("Fashion MNIST", "fashion-mnist"),
        ("FMNIST", "fashion-mnist"),
        ("KMNIST", "kmnist"),
        ("Kuzushiji-MNIST", "kmnist"),
        ("CIFAR-10", "cifar10"),
        ("CIFAR10", "cifar10"),
        ("cifar_10", "cifar10"),
        ("MNIST-5000", "mnist-5000"),
        ("Digits", "digits"),
        ("CIFAR-100", "CIFAR-100"),
        ("EMNIST", "EMNIST"),
        ("", ""),
    ],
)
def test_names_are_read_as_papers_write_them(written, name):
    assert images.standard_name(written) == name
    if name in images.NAMES:
        assert images.standard_name(name) == name


def test_an_unknown_name_is_refused_as_given():
    with pytest.raises(ValueError, match="name = 'CIFAR-100': give one of digits, mnist-5000"):
        images.load("CIFAR-100")


@pytest.fixture
def published(monkeypatch):
    """The tiny files count as the published ones of MNIST and Fashion-MNIST."""
    sums = {
        name: f"sha256:{hashlib.sha256(idx(array)).hexdigest()}" for name, array in ARRAYS.items()
    }
    for name in TABLES:
        monkeypatch.setitem(PUBLISHED, name, PUBLISHED[name]._replace(contents=sums))


def write(folder, rename=lambda name: name, compress=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in ARRAYS.items():
        path = folder / rename(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(idx(array)) if compress else idx(array))
    return folder


def dotted(name):
    return name.replace("-idx", ".idx")


LAYOUTS = {
    "as published": lambda root: write(root, lambda name: f"{name}.gz", compress=True),
    "torchvision's root": lambda root: write(root / "{title}" / "raw"),
    "torchvision's root, compressed": lambda root: write(
        root / "{title}" / "raw", lambda name: f"{name}.gz", compress=True
    ),
    "Keras's folder": lambda root: write(root / "{name}", lambda name: f"{name}.gz", compress=True),
    "dots": lambda root: write(root, dotted),
    "dots below a folder": lambda root: write(root / "{name}", dotted),
    "a folder for each file": lambda root: write(root, lambda name: f"{name}/{name}"),
    "a dotted folder for each file": lambda root: write(
        root, lambda name: f"{dotted(name)}/{dotted(name)}"
    ),
}
TITLES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}


@pytest.mark.parametrize("name", TITLES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_idx_files_are_found_in_all_common_layouts(tmp_path, published, layout, name):
    LAYOUTS[layout](tmp_path)
    for path in tmp_path.iterdir():
        if path.name.startswith("{"):
            path.rename(tmp_path / path.name.format(name=name, title=TITLES[name]))
    splits: dict[images.Split, str] = {"train": "train", "test": "t10k"}
    for split, prefix in splits.items():
        found = images.load(TITLES[name], split, folder=tmp_path)
        pixels = ARRAYS[f"{prefix}-images-idx3-ubyte"].astype(np.float32) / 255
        np.testing.assert_array_equal(found.images, pixels)
        np.testing.assert_array_equal(found.labels, ARRAYS[f"{prefix}-labels-idx1-ubyte"])


@pytest.mark.parametrize("folder", ["FashionMNIST", "FashionMNIST/raw"])
def test_folders_within_a_layout_may_be_given(tmp_path, published, folder):
    write(tmp_path / "FashionMNIST" / "raw")
    assert len(images.load("fashion-mnist", "test", folder=tmp_path / folder).labels) == 20


def test_of_several_sets_in_one_root_the_one_that_was_asked_for_is_read(tmp_path, published):
    # Without a checksum only the folder tells KMNIST from the rest.
    blank, labels = np.zeros((10_000, 28, 28), np.uint8), (np.arange(10_000) % 10).astype(np.uint8)
    write(tmp_path / "MNIST" / "raw")
    write(tmp_path)
    kmnist = tmp_path / "KMNIST" / "raw"
    kmnist.mkdir(parents=True)
    (kmnist / "t10k-images-idx3-ubyte").write_bytes(idx(blank))
    (kmnist / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
    assert len(images.load("kmnist", "test", folder=tmp_path).labels) == 10_000
    assert len(images.load("mnist", "test", folder=tmp_path).labels) == 20
    shutil.rmtree(kmnist)
    with pytest.raises(ValueError, match="is a file of MNIST; give the one of KMNIST") as error:
        images.load("kmnist", "test", folder=tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", ["", "mnist", "mnist.npz"])
def test_the_npz_of_keras_is_read(tmp_path, published, place):
    folder = tmp_path / place if place == "mnist" else tmp_path
    folder.mkdir(exist_ok=True)
    keys = {"train-images-idx3-ubyte": "x_train", "train-labels-idx1-ubyte": "y_train",
            "t10k-images-idx3-ubyte": "x_test", "t10k-labels-idx1-ubyte": "y_test"}  # fmt: skip
    arrays: dict[str, Any] = {key: ARRAYS[name] for name, key in keys.items()}
    np.savez(folder / "mnist.npz", **arrays)
    found = images.load(
        "mnist", "test", folder=tmp_path / "mnist.npz" if "." in place else tmp_path
    )
    np.testing.assert_array_equal(found.labels, ARRAYS["t10k-labels-idx1-ubyte"])
    # Its content is held against the checksums all the same.
    np.savez(folder / "mnist.npz", **{key: array[::-1] for key, array in arrays.items()})
    with pytest.raises(ValueError, match=r"mnist\.npz: SHA-256 of its content is"):
        images.load("mnist", "test", folder=tmp_path)


def test_the_npz_files_of_kmnist_are_read(tmp_path):
    pixels = RNG.integers(0, 2, (10_000, 28, 28)).astype(np.uint8)
    labels = RNG.permutation(np.arange(10_000) % 10).astype(np.uint8)
    np.savez(tmp_path / "kmnist-test-imgs.npz", pixels)
    np.savez(tmp_path / "kmnist-test-labels.npz", labels)
    found = images.load("KMNIST", "test", folder=tmp_path)
    np.testing.assert_array_equal(found.images, pixels.astype(np.float32) / 255)
    np.testing.assert_array_equal(found.labels, labels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no array x_test can be read from it"),
        (b"PK\x03\x04 and no more", "no array x_test can be read from it"),
        (np.zeros(3, np.uint8), "no array x_test can be read from it"),
        ({"x_train": np.zeros(3, np.uint8)}, "no array x_test can be read from it"),
        ({"x_test": np.array([{}])}, "no array x_test can be read from it"),
        ({"x_test": np.zeros((2, 28, 28))}, r"x_test is float64 of shape \(2, 28, 28\); give the"),
        ({"x_test": np.zeros((2, 28), np.uint8)}, r"x_test is uint8 of shape \(2, 28\)"),
    ],
)
def test_invalid_npz_files_are_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "mnist.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        with path.open("wb") as file:
            np.save(file, content)
    else:
        np.savez(path, **content)
    with pytest.raises(ValueError, match=message) as error:
        images.load("mnist", "test", folder=tmp_path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


ROWS = RNG.integers(0, 256, (10, 3072)).astype(np.uint8)
LABELS = [3, 0, 9, 3, 1, 2, 8, 7, 6, 5]


@pytest.mark.parametrize(
    "place",
    ["", "cifar-10-batches-py", "CIFAR10", "cifar-10-python/cifar-10-batches-py", "a[b]/*/"],
)
def test_cifar10_is_found_up_to_two_folders_deeper(tmp_path, monkeypatch, place):
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    content = cifar_pickle(ROWS, LABELS)
    (folder / "test_batch").write_bytes(content)
    sums = {"test_batch": f"md5:{hashlib.md5(content).hexdigest()}"}
    monkeypatch.setitem(PUBLISHED, "cifar10", PUBLISHED["cifar10"]._replace(contents=sums))
    found = images.load("CIFAR-10", "test", folder=tmp_path)
    np.testing.assert_array_equal(found.labels, LABELS)
    # What lies deeper is not taken for what is given.
    deeper = tmp_path / "deeper"
    (deeper / "x" / "y").mkdir(parents=True)
    folder.rename(deeper / "x" / "y" / "z") if place else None
    with pytest.raises(FileNotFoundError, match="nor up to two folders deeper"):
        images.load("cifar10", "test", folder=deeper)


def test_the_python_version_comes_before_the_binary_one(tmp_path):
    binary, python = tmp_path / "cifar-10-batches-bin", tmp_path / "z" / "cifar-10-batches-py"
    binary.mkdir()
    (binary / "test_batch.bin").write_bytes(cifar_records(ROWS, LABELS))
    assert layouts.find_cifar10(tmp_path, ("test_batch",)) == [binary / "test_batch.bin"]
    for folder in (python, tmp_path / "cifar-10-batches-py"):
        folder.mkdir(parents=True)
        (folder / "test_batch").write_bytes(cifar_pickle(ROWS, LABELS))
    expected = [tmp_path / "cifar-10-batches-py" / "test_batch"]
    assert layouts.find_cifar10(tmp_path, ("test_batch",)) == expected


def test_an_archive_that_was_not_unpacked_is_named(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"unpack cifar-10-python\.tar\.gz") as error:
        images.load("cifar10", "test", folder=tmp_path)
    assert "\n" not in str(error.value)
