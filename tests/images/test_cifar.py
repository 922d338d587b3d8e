"""CIFAR-10's formats, and pickles that want to do something."""

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from image_files import cifar_pickle, cifar_records

from nc_jax.images.cifar import parse_pickle, parse_records

PATH = Path("data_batch_1")
ROWS = np.random.default_rng(0).integers(0, 256, (4, 3072)).astype(np.uint8)
LABELS = [3, 0, 9, 3]
PICKLE = cifar_pickle(ROWS, LABELS)


def refused(parse, content):
    with pytest.raises(ValueError, match=r"^data_batch_1: ") as error:
        parse(PATH, content)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 500
    return str(error.value)


@given(st.integers(1, 5), st.integers(0, 1000), st.booleans())
def test_pickles_and_records_parse_to_the_written_pixels(count, seed, by_columns):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (count, 3072)).astype(np.uint8)
    labels = rng.integers(0, 10, count).tolist()
    # Pixel (row, column) of a colour is 32 row + column, and the colours come after each other.
    expected = np.stack([rows[:, c * 1024 : (c + 1) * 1024] for c in range(3)], -1)
    for pixels, found in (
        parse_pickle(PATH, cifar_pickle(rows, labels, by_columns)),
        parse_records(PATH, cifar_records(rows, labels)),
    ):
        np.testing.assert_array_equal(pixels.reshape(count, 1024, 3), expected)
        np.testing.assert_array_equal(found, labels)


def test_the_writer_of_pickles_writes_what_python_itself_reads():
    data = pickle.loads(PICKLE.replace(b"K\x00K\x01\x87", b"\x89\x88\x87"), encoding="bytes")
    np.testing.assert_array_equal(data[b"data"], ROWS)
    assert data[b"labels"] == LABELS


def test_a_whole_batch_is_read():
    rows = np.zeros((10_000, 3072), np.uint8)
    rows[:, 5] = 7
    pixels, labels = parse_pickle(PATH, cifar_pickle(rows, [1, 2] * 5000))
    assert pixels.shape == (10_000, 32, 32, 3)
    assert pixels[9_999, 0, 5].tolist() == [7, 0, 0]
    assert np.bincount(labels).tolist() == [0, 5000, 5000]


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


HARMFUL = {
    "a command": lambda sign: Calls(os.system, f"touch {sign}"),
    "an expression": lambda sign: Calls(eval, f"__import__('os').mkdir({str(sign)!r})"),
    "a method": lambda sign: Calls(sign.mkdir),
    "among the labels": lambda sign: {b"labels": [3, Calls(os.mkdir, str(sign))]},
    "of numpy": lambda sign: Calls(np.save, str(sign), 1),
    "in an array of objects": lambda sign: np.array([Calls(os.mkdir, str(sign))], object),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("pickled", HARMFUL.values(), ids=HARMFUL.keys())
def test_no_pickle_runs_anything(tmp_path, pickled, protocol):
    sign = tmp_path / "sign.npy"
    content = pickle.dumps(pickled(sign), protocol)
    message = refused(parse_pickle, content)
    assert "it names '" in message or "its opcode" in message
    assert "none of it was executed" in message
    assert not sign.exists()
    pickle.loads(content)
    assert sign.exists()


def crafted(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n"
FORBIDDEN = {
    "by name": (crafted(b"cos\nsystem\n(U\x02ida\x85R"), "names 'os.system'"),
    "by name, without a call": (crafted(b"cbuiltins\neval\n"), "names 'builtins.eval'"),
    "by names on the stack": (
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        "names 'os.system'",
    ),
    "a part of numpy": (crafted(b"cnumpy\nload\n"), "names 'numpy.load'"),
    "an attribute of an array": (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", "tofile'"),
    "an instance": (b"(ios\nsystem\n.", "opcode INST"),
    "an object": (b"(cos\nsystem\no.", "opcode OBJ"),
    "a new object": (crafted(b"cnumpy\nndarray\n)\x81"), "opcode NEWOBJ"),
    "an extension": (crafted(b"\x82\x01"), "opcode EXT1"),
    "outside, in text": (b"Peverything\n.", "opcode PERSID"),
    "outside": (crafted(b"K\x01Q"), "opcode BINPERSID"),
    "a long name": (crafted(b"c" + b"x" * 10_000 + b"\ny\n"), "names 'xxx"),
    "a name of lines": (b"\x80\x04\x8c\x03a\nb\x8c\x03\xe2\x80\xa8\x93.", r"names 'a\nb."),
    "a memo of 32 GiB": (crafted(b"Nr\xff\xff\xff\x7f"), "stores object 2147483647"),
    "tuples without end": (crafted(b"})" + b"\x85" * 2_000_000 + b"Ns"), "over 100 tuples"),
    "bytes of 2^62": (crafted(b"\x96" + struct.pack("<Q", 2**62)), "not a pickle of CIFAR-10"),
    "a text of 2^31": (crafted(b"T" + struct.pack("<I", 2**31 - 1)), "not a pickle of CIFAR-10"),
    "something after its end": (PICKLE + b"cos\nsystem\n.", "has 12 bytes after its end"),
    "nothing": (b"", "not a pickle of CIFAR-10"),
    "a picture": (b"\x89PNG\r\n\x1a\n", "not a pickle of CIFAR-10"),
}


@pytest.mark.parametrize(("content", "message"), FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_a_forbidden_pickle_is_named_in_one_line(content, message):
    assert message in refused(parse_pickle, content)


NO_BATCH = {
    "a list": crafted(b"]"),
    "labels alone": crafted(b"}U\x06labels]s"),
    "other pixels": cifar_pickle(ROWS[:, :3000], LABELS),
    "a label more": cifar_pickle(ROWS, [*LABELS, 0]),
    "label 10": cifar_pickle(ROWS, [10, 0, 9, 3]),
    "label -1": cifar_pickle(ROWS, [-1, 0, 9, 3]),
    "no image": cifar_pickle(ROWS[:0], []),
    "objects": PICKLE.replace(b"U\x02u1", b"U\x02O8"),
    "floats": PICKLE.replace(b"U\x02u1", b"U\x02f4"),
    "a shape of terabytes": PICKLE.replace(b"K\x04M\x00\x0c", b"J\xff\xff\xff\x7fM\x00\x0c"),
    "a shape below zero": PICKLE.replace(b"K\x04M\x00\x0c", b"J\xff\xff\xff\xffM\x00\x0c"),
    "no array but its name": crafted(b"}(U\x04data", ARRAY, b"U\x06labels]u"),
    "a call without a state": crafted(b"}(U\x04data", ARRAY, b")RU\x06labels]u"),
    "true for a label": PICKLE.replace(b"K\x03K\x00", b"\x88K\x00"),
}


@pytest.mark.parametrize("content", NO_BATCH.values(), ids=NO_BATCH.keys())
def test_a_pickle_of_something_else_is_refused(content):
    assert content != PICKLE
    assert "its pickle holds no batch" in refused(parse_pickle, content)


SMALL = cifar_pickle(np.full((1, 3072), 7, np.uint8), [3])
HEAD = [at for at in range(len(SMALL)) if SMALL[at : at + 2] != b"\x07\x07"]


def test_a_pickle_cut_anywhere_is_refused():
    for at in [*HEAD, len(SMALL) // 2]:
        refused(parse_pickle, SMALL[:at])


def parsed_or_refused(content):
    """Whether it is a batch of one image; the error is in one line if not."""
    try:
        pixels, labels = parse_pickle(PATH, content)
    except ValueError:
        refused(parse_pickle, content)
        return False
    assert pixels.shape == (1, 32, 32, 3)
    assert 0 <= labels[0] < 10
    return True


def test_a_pickle_with_any_bit_flipped_is_refused_or_still_a_batch():
    flipped = [
        SMALL[:at] + bytes([SMALL[at] ^ 1 << bit]) + SMALL[at + 1 :]
        for at in HEAD
        for bit in range(8)
    ]
    assert sum(map(parsed_or_refused, flipped)) < len(flipped) / 2


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 60))
def test_a_pickle_with_bytes_put_in_is_refused_or_still_a_batch(extra, at, skipped):
    parsed_or_refused(SMALL[:at] + extra + SMALL[at + skipped :])


RECORDS = cifar_records(ROWS, LABELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (RECORDS[:-1], "has 12291 bytes, and CIFAR-10's files records of 3073"),
        (RECORDS + b"\0", "has 12293 bytes"),
        (b"", "has 0 bytes"),
        (b"\x0a" + RECORDS[1:], "has label 10, and CIFAR-10's go to 9"),
    ],
)
def test_damaged_records_are_named_in_one_line(content, message):
    assert message in refused(parse_records, content)
