import gzip

import numpy as np
import pytest
from image_files import idx

from nc_jax import images

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 4)).astype(np.uint8)
LABELS = np.array([0, 1, 2, 1, 0, 1], np.uint8)


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
    "cut short": (idx(PIXELS)[:-1], "has 71 bytes after a header that asks for 6 x 3 x 4 = 72"),
    "too long": (idx(PIXELS) + b"\0", "has 73 bytes"),
    "cut in the header": (idx(PIXELS)[:10], "ends in its header, after 10 of 16"),
    "empty": (b"", "begins with nothing"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(80), "begins with 89 50 4e 47"),
    "of floats": (idx(PIXELS, bytes([0, 0, 13, 3])), "begins with 00 00 0d 03"),
    "of no value": (bytes([0, 0, 8, 1, 0, 0, 0, 0]), "has no values"),
    "of no axis": (bytes([0, 0, 8, 0]), "begins with 00 00 08 00"),
    "a header of terabytes": (
        bytes([0, 0, 8, 3]) + b"\xff" * 12,
        "has 0 bytes after a header that asks for",
    ),
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


def test_every_cut_and_every_changed_byte_of_a_compressed_file_is_detected(tmp_path):
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
