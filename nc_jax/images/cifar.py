"""CIFAR-10's two formats: pickles written by Python 2, read as data only, and binary records."""

import io
import pickle
import pickletools
import textwrap
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

Batch = tuple[UInt8[np.ndarray, "N 32 32 3"], UInt8[np.ndarray, " N"]]

_PIXELS = 3 * 32 * 32
_CLASSES = 10
# All that an array of NumPy is pickled with. Older and newer NumPy name the first differently.
_NAMES = {
    "numpy.core.multiarray._reconstruct": "array",
    "numpy._core.multiarray._reconstruct": "array",
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
}
# What a dict of numbers, strings, lists and an array needs. STACK_GLOBAL and its kin are there so
# that a newer pickle is refused by the name it asks for, not by its opcode.
_OPCODES = {
    "PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "MARK",
    "STOP", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG1",
    "SHORT_BINSTRING", "BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "EMPTY_DICT", "SETITEM",
    "SETITEMS", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2",
    "TUPLE3", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
}  # fmt: skip
# A batch has about ten. The hash of a tuple nested a million deep overflows the stack of C.
_MOST_TUPLES = 100


def parse_pickle(path: Path, content: bytes) -> Batch:
    """Images (N, 32, 32, 3) and labels (N,) of a batch of the Python version.

    Nothing that a pickle names is imported or called.
    """
    match _as_data(path, content):
        case {
            b"data": _StandIn(
                name="array",
                state=(
                    int(),
                    (int(count), int(width)),
                    _StandIn(name="dtype", args=(b"u1", *_)),
                    bool(by_columns),
                    bytes(pixels),
                ),
            ),
            b"labels": list(labels),
        } if (
            width == _PIXELS
            and len(pixels) == width * count
            and len(labels) == count > 0
            and all(type(label) is int and 0 <= label < _CLASSES for label in labels)
        ):
            rows = np.frombuffer(pixels, np.uint8).reshape(
                count, width, order="F" if by_columns else "C"
            )
            return _channels_last(rows), np.array(labels, np.uint8)
    raise ValueError(
        f"{path}: its pickle holds no batch: b'data', (N, {_PIXELS}) of uint8, with b'labels', N "
        f"numbers from 0 to {_CLASSES - 1}; give CIFAR-10's published file."
    )


def parse_records(path: Path, content: bytes) -> Batch:
    """Images (N, 32, 32, 3) and labels (N,) of a batch of the binary version."""
    if not content or len(content) % (1 + _PIXELS):
        raise ValueError(
            f"{path}: has {len(content)} bytes, and CIFAR-10's files records of {1 + _PIXELS}; "
            "fetch it again."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + _PIXELS)
    labels = records[:, 0]
    if labels.max() >= _CLASSES:
        raise ValueError(
            f"{path}: has label {labels.max()}, and CIFAR-10's go to {_CLASSES - 1}; give the "
            "published file."
        )
    return _channels_last(records[:, 1:]), labels


def _channels_last(rows: UInt8[np.ndarray, "N _"]) -> UInt8[np.ndarray, "N 32 32 3"]:
    """Rows hold all of red, then green, then blue."""
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _as_data(path: Path, content: bytes) -> object:
    """What a pickle holds, with stand-ins for its array; only what the tables allow is followed."""
    try:
        _check_opcodes(content)
        return _DataUnpickler(io.BytesIO(content), fix_imports=False, encoding="bytes").load()
    except Exception as error:  # pickle documents no end to what damaged bytes may raise
        reason = textwrap.shorten(f"{error}" or type(error).__name__, 200, placeholder="…")
        raise ValueError(
            f"{path}: not a pickle of CIFAR-10 ({reason}); nothing of it was run, give the "
            "published file."
        ) from None


def _check_opcodes(content: bytes) -> None:
    """Raise ValueError for a pickle that could do more than fail, read without following it."""
    end, tuples = 0, 0
    for count, (opcode, argument, position) in enumerate(pickletools.genops(content)):
        if opcode.name not in _OPCODES:
            raise ValueError(f"its opcode {opcode.name} is none that images need")
        # The table of a memo is as long as its largest index: 2^32 would take 32 GiB.
        if opcode.name == "LONG_BINPUT" and not (isinstance(argument, int) and argument <= count):
            raise ValueError(f"it stores object {argument} after {count} opcodes")
        tuples += "TUPLE" in opcode.name
        if tuples > _MOST_TUPLES:
            raise ValueError(f"it has over {_MOST_TUPLES} tuples, where images need about ten")
        end = position or 0
    if end != len(content) - 1:
        raise ValueError(f"it goes on for {len(content) - 1 - end} bytes after its end")


class _StandIn:
    """Something of NumPy's in a pickle, or the result of its call, kept as data: nothing runs."""

    def __init__(self, name: str, args: tuple[object, ...] = ()) -> None:
        self.name = name
        self.args = args
        self.state: object = None

    def __call__(self, *args: object) -> "_StandIn":
        return _StandIn(self.name, args)

    def __setstate__(self, state: object) -> None:
        self.state = state


class _DataUnpickler(pickle.Unpickler):
    """Gives stand-ins for the names of an array, and refuses every other name."""

    def find_class(self, module_name: str, global_name: str, /) -> _StandIn:
        name = f"{module_name}.{global_name}"
        if name not in _NAMES:
            raise pickle.UnpicklingError(f"it names {name[:80]!r}, which images have no need of")
        return _StandIn(_NAMES[name])

    def persistent_load(self, pid: object) -> None:
        raise pickle.UnpicklingError("it refers to an object outside of it")
