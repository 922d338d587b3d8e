"""Argument checks that know what a trace hides."""

import difflib
import operator
import os
from collections.abc import Iterable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path


def is_traced(value: object) -> bool:
    """Whether the value is unknown now, being an argument of a jit, vmap or grad in progress."""
    return isinstance(value, jax.core.Tracer)


_process: int | None = None


def check_process() -> None:
    """Raise RuntimeError in a process forked from one that used this package, where JAX hangs.

    A fork copies the calling thread alone, and JAX would wait for its others for ever.
    """
    global _process
    _process = _process or os.getpid()
    if os.getpid() != _process:
        raise RuntimeError(
            f"process {os.getpid()} was forked from {_process}, which uses JAX: JAX would hang "
            "here. Start processes by multiprocessing.get_context('spawn')."
        )


def shown(value: object) -> str:
    """A value as it stands in a message: on one line, and not longer than part of one."""
    if isinstance(value, (np.ndarray, jax.Array)) and np.ndim(value) > 0:
        return f"{type(value).__name__} of shape {np.shape(value)} and dtype {value.dtype}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def close_to(name: object, names: Iterable[str]) -> str:
    """A hint for a message: the names that this one may be meant for, if there are any."""
    close = difflib.get_close_matches(str(name), list(names))
    return f" Close to it: {', '.join(close)}." if close else ""


def check_kind(name: str, value: object, kind: type | tuple[type, ...], example: str) -> None:
    """Raise ValueError unless `value` is an instance of `kind`, or of the first of several."""
    if not isinstance(value, kind):
        first = kind[0] if isinstance(kind, tuple) else kind
        raise ValueError(
            f"{name} = {shown(value)}: give an instance of {first.__name__}, such as {example}."
        )


def check_integer(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """The value as an int; ValueError unless it is an integer from `least` to `most`."""
    try:
        # `index` refuses 2.7 and "2", which `int` would turn into 2.
        number = operator.index(value)
    except TypeError:
        if is_traced(value):
            raise  # JAX's message says where it became unknown
        number = None
    if number is None or number < least or (most is not None and number > most):
        accepted = f">= {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} = {shown(value)}: give an integer {accepted}.")
    return number


def check_number(
    name: str,
    value: Any,
    above_zero: bool = False,
    *,
    scalar: bool = False,
    signed: bool = False,
) -> None:
    """Raise ValueError unless `value` is finite and >= 0 (or > 0, or of any sign where `signed`).

    Where `scalar`, an array with axes is refused too. The value of a traced one passes.
    """
    accepted = "" if signed else " > 0" if above_zero else " >= 0"
    advice = f"give a finite number{accepted}."
    if not is_traced(value):
        numbers = _real_numbers(value)
        if numbers is None:
            raise ValueError(f"{name} = {shown(value)}: {advice}")
        in_range = True if signed else numbers > 0 if above_zero else numbers >= 0
        allowed = np.isfinite(numbers) & in_range
        if not np.all(allowed):
            raise ValueError(f"{name} = {numbers[~allowed][0]}: {advice}")
    shape = np.shape(value)
    if scalar and shape != ():
        raise ValueError(
            f"{name} has shape {shape}: give one finite number{accepted}, and sweep under jax.vmap."
        )


def _real_numbers(value: object) -> np.ndarray | None:
    """The value as an array of NumPy, or None where it holds something else than real numbers."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # rows of different lengths, or a type unknown to NumPy
        return None
    real = jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.kind in "iu"
    return array if real else None


def check_key(key: Any, name: str = "key") -> None:
    """Raise ValueError for what is no typed key, or more than one."""
    check_process()
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        what = f"is {shown(key)}" if dtype is None else f"has dtype {dtype}"
        raise ValueError(f"{name} {what}: give a typed key, jax.random.key(seed).")
    if np.shape(key) != ():
        raise ValueError(
            f"{name} has shape {np.shape(key)}: give one key, such as jax.random.key(seed), or "
            "call under jax.vmap."
        )


def check_arrays(name: str, tree: object, *, numbers: bool = False) -> None:
    """Raise ValueError for a leaf that is no array of numbers of NumPy or JAX.

    Python's numbers pass where `numbers` is True.
    """
    for path, leaf in tree_leaves_with_path(tree):
        where = f"{name}: {keystr(path).lstrip('.')}" if path else name
        if numbers and isinstance(leaf, (bool, int, float)):
            continue
        if not isinstance(leaf, (np.ndarray, np.generic, jax.Array)):
            raise ValueError(
                f"{where} is of type {type(leaf).__module__}.{type(leaf).__name__}: give an array "
                "of NumPy or JAX, such as jax.numpy.asarray(numpy.asarray(...))."
            )
        check_unmasked(where, leaf)
        dtype = leaf.dtype
        if isinstance(dtype, np.dtype) and not dtype.isnative:
            raise ValueError(
                f"{where} has dtype {dtype.str}, in another byte order than this machine's: give "
                f".astype({dtype.newbyteorder('=').name!r}) of it."
            )
        if isinstance(dtype, np.dtype) and dtype.kind in "OSUMm":
            raise ValueError(f"{where} has dtype {dtype}: give an array of numbers.")


def check_unmasked(name: str, values: object) -> None:
    """Raise ValueError for a masked array, whose hidden values would be computed with."""
    if isinstance(values, np.ma.MaskedArray):
        raise ValueError(
            f"{name} is a masked array: give an array of NumPy or JAX without the masked entries, "
            "and leave out their samples everywhere."
        )


def check_matrix(name: str, values: Any, axes: str) -> None:
    """Raise ValueError for what is no array of numbers with two axes, such as "(N, d)"."""
    check_arrays(name, values)
    shape = np.shape(values)
    if len(shape) != 2:
        raise ValueError(f"{name} has shape {shape}: give two axes, {axes}.")
