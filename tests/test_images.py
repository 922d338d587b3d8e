import gzip
import struct
import sys

import numpy as np
import pytest
from hypothesis import given, strategies as st

from nc_jax import images

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 4)).astype(np.uint8)
LABELS = np.array([0, 1, 2, 1, 0, 1], np.uint8)


def idx(array, magic=None):
    """An IDX file written by its definition."""
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return (bytes([0, 0, 8, array.ndim]) if magic is None else magic) + shape + array.tobytes()


@pytest.fixture
def pair(tmp_path):
    (tmp_path / "images").write_bytes(idx(PIXELS))
    (tmp_path / "labels").write_bytes(gzip.compress(idx(LABELS)))
    return tmp_path / "images", tmp_path / "labels"


def test_a_pair_of_files_compressed_or_not_is_what_was_written(pair):
    found = images.load_idx(pair[0], pair[1], "abc")
    np.testing.assert_array_equal(np.round(found.images * 255), PIXELS)
    np.testing.assert_array_equal(found.labels, LABELS)
    assert found.classes == ("a", "b", "c")
    assert (found.images.dtype, found.labels.dtype) == (np.float32, np.int32)
    assert found.images.min() >= 0
    assert found.images.max() <= 1


COMPRESSED = gzip.compress(idx(PIXELS))
DAMAGED = {
    "cut short": (idx(PIXELS)[:-1], "has 71 bytes after its header, which says 6 x 3 x 4 = 72"),
    "too long": (idx(PIXELS) + b"\0", "has 73 bytes"),
    "cut in the header": (idx(PIXELS)[:10], "ends in its header, after 10 of 16"),
    "empty": (b"", "begins with nothing"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(80), "begins with 89 50 4e 47"),
    "of floats": (idx(PIXELS, bytes([0, 0, 13, 3])), "begins with 00 00 0d 03"),
    "of no value": (bytes([0, 0, 8, 1, 0, 0, 0, 0]), "has no values"),
    "of no axis": (bytes([0, 0, 8, 0]), "begins with 00 00 08 00"),
    "a header of terabytes": (bytes([0, 0, 8, 3]) + b"\xff" * 12, "has 0 bytes after its header"),
    "compressed, cut short": (COMPRESSED[:-9], "damaged gzip file"),
    "compressed, changed": (COMPRESSED[:20] + b"\xff\xff" + COMPRESSED[22:], "damaged gzip file"),
    "compressed, its check changed": (COMPRESSED[:-8] + bytes(8), "damaged gzip file"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_or_foreign_file_is_named_in_one_line(tmp_path, content, message):
    path = tmp_path / "t10k"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        images.read_idx(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_files_that_do_not_belong_together_are_refused(pair, tmp_path):
    (tmp_path / "five").write_bytes(idx(LABELS[:5]))
    with pytest.raises(ValueError, match=r"shape \(6, 3, 4\) with labels of shape \(5,\)"):
        images.load_idx(pair[0], tmp_path / "five", "abc")
    with pytest.raises(ValueError, match="labels of shape"):
        images.load_idx(pair[1], pair[0], "abc")
    with pytest.raises(ValueError, match="labels go to 2 with 2 classes"):
        images.load_idx(pair[0], pair[1], "ab")


def test_fashion_mnist_is_known_by_its_checksum(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no train-images-idx3-ubyte or .*dataset-fashion"):
        images.load_fashion_mnist(folder=tmp_path)
    # Another set in the same format, under the published names.
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(PIXELS))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS))
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte: SHA-256") as error:
        images.load_fashion_mnist("test", tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("split", "each"), [("train", 6000), ("test", 1000)])
def test_fashion_mnist_where_debian_puts_it(split, each):
    try:
        found = images.load_fashion_mnist(split)
    except FileNotFoundError:
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    assert found.images.shape == (10 * each, 28, 28)
    assert np.all(np.bincount(found.labels) == each)
    assert found.classes[found.labels[0]] == "Ankle boot"


def test_digits_are_those_of_scikit_learn_in_two_parts():
    datasets = pytest.importorskip("sklearn.datasets")
    pixels, labels = datasets.load_digits(return_X_y=True)
    parts = [images.load_digits(split) for split in ("train", "test")]
    np.testing.assert_array_equal(parts[1].images.reshape(-1, 64) * 16, pixels[4::5])
    both = np.concatenate([part.images.reshape(-1, 64) * 16 for part in parts])
    assert sorted(map(tuple, both)) == sorted(map(tuple, pixels))
    np.testing.assert_array_equal(parts[1].labels, labels[4::5])


def test_without_scikit_learn_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'nc_jax\[images\]'"):
        images.load_digits()


SET = images.ImageSet(PIXELS.astype(np.float32) / 255, LABELS.astype(np.int32), ("a", "b", "c"))


def test_every_cut_and_every_changed_byte_of_a_compressed_file_is_seen(tmp_path):
    path, messages = tmp_path / "images", []
    for at in range(2, len(COMPRESSED)):
        changed = COMPRESSED[:at] + bytes([COMPRESSED[at] ^ 0x10]) + COMPRESSED[at + 1 :]
        for content in (COMPRESSED[:at], changed):
            path.write_bytes(content)
            try:
                found = images.read_idx(path)
            except ValueError as error:
                messages.append(str(error))
                continue
            # The time and the system of compression say nothing of the content.
            assert content is changed
            assert at < 10
            np.testing.assert_array_equal(found, PIXELS)
    assert len(messages) > len(COMPRESSED)
    assert not any("\n" in message for message in messages)


def test_inputs_without_a_norm_are_refused():
    for inputs in (np.zeros((2, 3)), np.full((1, 2), np.nan)):
        with pytest.raises(ValueError, match="the largest norm is"):
            images.unit_ball(inputs)


def test_classes_are_chosen_in_order():
    inputs, targets = images.two_classes(SET, 1, 0)
    rows = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(targets, [1, -1, -1, 1, -1])
    np.testing.assert_allclose(inputs, PIXELS[rows].reshape(5, 12) / 255, rtol=1e-6)
    inputs, targets = images.two_classes(SET, 0, 1, 4)
    np.testing.assert_array_equal(targets, [-1, 1, 1, -1])
    inputs, one_hot = images.several_classes(SET, (2, 0, 1), 1)
    np.testing.assert_array_equal(one_hot, [[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    np.testing.assert_allclose(inputs[2], PIXELS[2].ravel() / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: images.two_classes(SET, 0, 3), "class 3: no image is of it; give one of 0..2"),
        (lambda: images.two_classes(SET, 1, 1), "give one or more, each once"),
        (lambda: images.two_classes(SET, 0, 1, 3), "num_samples = 3: give an even number"),
        (lambda: images.two_classes(SET, 0, 1, 6), "3 samples of class 0: it has 2"),
        (lambda: images.several_classes(SET, (0, 1), 0), "0 samples of class 0"),
    ],
)
def test_choices_that_cannot_be_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_the_unit_ball_is_just_filled(seed, scale):
    rng = np.random.default_rng(seed)
    parts = [scale * rng.normal(size=(n, 4)) for n in (3, 5)]
    scaled = images.unit_ball(*parts)
    assert abs(max(np.linalg.norm(x, axis=1).max() for x in scaled) - 1) < 1e-12
    for part, found in zip(parts, scaled, strict=True):
        np.testing.assert_allclose(found * part[0, 0], part * found[0, 0], rtol=1e-12)
