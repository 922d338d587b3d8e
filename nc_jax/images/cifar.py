"""The two formats of CIFAR-10: pickles of Python 2, parsed as data, and binary records.

Unpickling a file can execute any code in it. This module executes only the few pickle instructions
that build a dict with an array, and refuses all others.
"""

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
# The names that the pickle of a NumPy array imports. NumPy 2 has renamed the module of the first.
_NAMES = {
    "numpy.core.multiarray._reconstruct": "array",
    "numpy._core.multiarray._reconstruct": "array",
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
}
# Instructions that build a dict of numbers, strings, lists and an array. CIFAR-10's files do not
# need STACK_GLOBAL and others of newer protocols. They are allowed, so that a newer pickle fails at
# the name that it imports, and the error shows this name.
_OPCODES = {
    "PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "MARK",
    "STOP", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG1",
    "SHORT_BINSTRING", "BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "EMPTY_DICT", "SETITEM",
    "SETITEMS", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2",
    "TUPLE3", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
}  # fmt: skip
# A batch has about ten tuples. A pickle can nest tuples a million deep, and the hash of such a
# tuple, as the key of a dict, overflows the stack of C and ends the process.
_MOST_TUPLES = 100


def parse_pickle(path: Path, content: bytes) -> Batch:
    """Images (N, 32, 32, 3) and labels (N,) of a file of the Python version.

    No object that the pickle names is imported or called.
    """
    match _as_data(path, content):
        case {
            b"data": _StandIn(
                name="array",
                # As NumPy pickles an array: version, shape, dtype, whether in Fortran order,
                # values.
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
            # The exact type, because bool is a subclass of int.
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
    """Images (N, 32, 32, 3) and labels (N,) of a file of the binary version."""
    if not content or len(content) % (1 + _PIXELS):
        raise ValueError(
            f"{path}: has {len(content)} bytes, and CIFAR-10's files records of {1 + _PIXELS}; "
            "download it again."
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
    """Images from rows that hold all red values, then all green, then all blue."""
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _as_data(path: Path, content: bytes) -> object:
    """The object in a pickle, with a `_StandIn` in place of each object of NumPy."""
    try:
        # Before it is loaded, since the unpickler itself would allocate and build what it reads.
        _check_opcodes(content)
        # Strings of Python 2 are bytes: pixels that are decoded as text would be wrong or an error.
        return _DataUnpickler(io.BytesIO(content), fix_imports=False, encoding="bytes").load()
    except Exception as error:  # for damaged bytes pickle may raise an exception of any type
        reason = textwrap.shorten(f"{error}" or type(error).__name__, 200, placeholder="…")
        raise ValueError(
            f"{path}: not a pickle of CIFAR-10 ({reason}); none of it was executed, give the "
            "published file."
        ) from None


def _check_opcodes(content: bytes) -> None:
    """Raise ValueError for a pickle with instructions that are not needed for images."""
    end, tuples = 0, 0
    for count, (opcode, argument, position) in enumerate(pickletools.genops(content)):
        if opcode.name not in _OPCODES:
            raise ValueError(f"its opcode {opcode.name} is not needed for images")
        # The unpickler allocates a table as long as the largest index: 32 GiB for an index of 2^32.
        # A memo index that Python writes is at most the number of opcodes before it.
        if opcode.name == "LONG_BINPUT" and not (isinstance(argument, int) and argument <= count):
            raise ValueError(f"it stores object {argument} after {count} opcodes")
        tuples += "TUPLE" in opcode.name
        if tuples > _MOST_TUPLES:
            raise ValueError(f"it has over {_MOST_TUPLES} tuples, where images need about ten")
        end = position or 0
    # The last instruction, STOP, is one byte.
    if end != len(content) - 1:
        raise ValueError(f"it has {len(content) - 1 - end} bytes after its end")


class _StandIn:
    """A NumPy object that a pickle names, or the result of calling it, stored as data.

    The unpickler calls it for the instruction REDUCE, and `__setstate__` for BUILD.
    """

    def __init__(self, name: str, args: tuple[object, ...] = ()) -> None:
        self.name = name
        self.args = args
        self.state: object = None

    def __call__(self, *args: object) -> "_StandIn":
        return _StandIn(self.name, args)

    def __setstate__(self, state: object) -> None:
        self.state = state


class _DataUnpickler(pickle.Unpickler):
    """An unpickler that resolves the names of an array to stand-ins and refuses all others."""

    def find_class(self, module_name: str, global_name: str, /) -> _StandIn:
        name = f"{module_name}.{global_name}"
        if name not in _NAMES:
            raise pickle.UnpicklingError(f"it names {name[:80]!r}, which is not needed for images")
        return _StandIn(_NAMES[name])

    def persistent_load(self, pid: object) -> None:
        raise pickle.UnpicklingError("it refers to an object outside of it")
