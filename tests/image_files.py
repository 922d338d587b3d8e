"""Writers of the formats that image sets are published in, by their definitions."""

import struct


def idx(array, magic=None):
    """An IDX file of unsigned bytes."""
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return (bytes([0, 0, 8, array.ndim]) if magic is None else magic) + shape + array.tobytes()


def cifar_records(rows, labels):
    """A batch of CIFAR-10's binary version."""
    return b"".join(bytes([label]) + row.tobytes() for row, label in zip(rows, labels, strict=True))


def cifar_pickle(rows, labels, by_columns=False):
    """A batch of CIFAR-10's Python version: a dict in protocol 2, as cPickle writes it."""
    memo = iter(range(1, 1000))
    pixels = rows.tobytes("F" if by_columns else "C")
    dtype = (
        _global("numpy", "dtype", memo) + _str(b"u1", memo) + b"K\x00K\x01\x87" + _put(memo) + b"R"
    )
    dtype += _put(memo) + b"(K\x03" + _str(b"|", memo) + b"NNN" + 2 * b"J\xff\xff\xff\xff"
    dtype += b"K\x00t" + _put(memo) + b"b"
    shape = _int(rows.shape[0]) + _int(rows.shape[1]) + b"\x86" + _put(memo)
    array = _global("numpy.core.multiarray", "_reconstruct", memo)
    array += _global("numpy", "ndarray", memo) + b"K\x00\x85" + _put(memo) + _str(b"b", memo)
    array += b"\x87" + _put(memo) + b"R" + _put(memo)
    array += b"(K\x01" + shape + dtype + (b"\x88" if by_columns else b"\x89")
    array += b"T" + struct.pack("<I", len(pixels)) + pixels + b"t" + _put(memo) + b"b"
    numbers = b"]" + _put(memo) + b"(" + b"".join(map(_int, labels)) + b"e"
    entries = _str(b"batch_label", memo) + _str(b"training batch 1 of 5", memo)
    entries += _str(b"labels", memo) + numbers + _str(b"data", memo) + array
    return b"\x80\x02}" + _put(memo) + b"(" + entries + b"u."


def _put(memo):
    index = next(memo)
    return b"q" + bytes([index]) if index < 256 else b"r" + struct.pack("<I", index)


def _str(value, memo):
    return b"U" + bytes([len(value)]) + value + _put(memo)


def _int(value):
    if 0 <= value < 256:
        return b"K" + bytes([value])
    return (
        b"M" + struct.pack("<H", value) if 0 <= value < 65536 else b"J" + struct.pack("<i", value)
    )


def _global(module, name, memo):
    return f"c{module}\n{name}\n".encode() + _put(memo)
