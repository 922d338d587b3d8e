"""Checks of arguments, which leave out the values of traced arrays."""

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

from .errors import ArgumentError


def is_traced(value: object) -> bool:
    """Whether the value is an argument of a jit, vmap or grad in progress, and so unknown now."""
    return isinstance(value, jax.core.Tracer)


# The process in which a check was first called. A forked process inherits the value.
_process: int | None = None


def check_process() -> None:
    """Raise RuntimeError in a process that was forked after this package was used: JAX hangs there.

    A fork copies the calling thread only. JAX would wait for ever for its other threads.
    """
    global _process
    _process = _process or os.getpid()
    if os.getpid() != _process:
        raise RuntimeError(
            f"process {os.getpid()} was forked from {_process}, which uses JAX: JAX would hang "
            "here. Start processes by multiprocessing.get_context('spawn')."
        )


def shown(value: object) -> str:
    """A value as text for an error message, on one line of at most 80 characters."""
    # The `repr` of an array may have many lines.
    if isinstance(value, (np.ndarray, jax.Array)) and np.ndim(value) > 0:
        return f"{type(value).__name__} of shape {np.shape(value)} and dtype {value.dtype}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def close_to(name: object, names: Iterable[str]) -> str:
    """A sentence for an error message with similar names; empty where there are none."""
    close = difflib.get_close_matches(str(name), list(names))
    return f" Close to it: {', '.join(close)}." if close else ""


def check_kind(name: str, value: object, kind: type | tuple[type, ...], example: str) -> None:
    """Raise ValueError unless `value` is of a `kind`; the message names the first kind."""
    if not isinstance(value, kind):
        first = kind[0] if isinstance(kind, tuple) else kind
        raise ArgumentError(
            f"{name} = {shown(value)}: give an instance of {first.__name__}, such as {example}.",
            name,
        )


def check_integer(name: str, value: Any, *, least: int = 1, most: int | None = None) -> int:
    """The value as an int; ValueError unless it is an integer from `least` to `most`.

    Example:

        >>> from nc_jax.checks import check_integer
        >>> check_integer("num_classes", np.int64(3))
        3
        >>> check_integer("num_classes", 2.7)
        Traceback (most recent call last):
        nc_jax.errors.ArgumentError: num_classes = 2.7: give an integer >= 1.
    """
    try:
        # `index` refuses 2.7 and "2", which `int` would turn into 2.
        number = operator.index(value)
    except TypeError:
        if is_traced(value):
            raise  # The message of JAX says which function traces the value.
        number = None
    if number is None or number < least or (most is not None and number > most):
        accepted = f">= {least}" if most is None else f"from {least} to {most}"
        raise ArgumentError(f"{name} = {shown(value)}: give an integer {accepted}.", name)
    return number


def check_number(
    name: str,
    value: Any,
    *,
    above_zero: bool = False,
    scalar: bool = False,
    signed: bool = False,
) -> None:
    """Raise ValueError unless `value` is finite and >= 0, or > 0 (`above_zero`), or `signed`.

    `scalar` also refuses arrays with axes. The values of a traced array are not checked.
    """
    accepted = "" if signed else " > 0" if above_zero else " >= 0"
    advice = f"give a finite number{accepted}."
    if not is_traced(value):
        numbers = _real_numbers(value)
        if numbers is None:
            raise ArgumentError(f"{name} = {shown(value)}: {advice}", name)
        in_range = True if signed else numbers > 0 if above_zero else numbers >= 0
        allowed = np.isfinite(numbers) & in_range
        if not np.all(allowed):
            raise ArgumentError(f"{name} = {numbers[~allowed][0]}: {advice}", name)
    shape = np.shape(value)
    if scalar and shape != ():
        raise ArgumentError(
            f"{name} has shape {shape}: give one finite number{accepted}, and sweep under "
            "jax.vmap.",
            name,
        )


def check_known(name: str, value: object, what: str) -> None:
    """Raise ValueError for a traced value; `what` needs the value.

    Example:

        >>> from nc_jax.checks import check_known
        >>> jax.grad(lambda x: check_known("gap", x, "the rank"))(1.0)
        Traceback (most recent call last):
        nc_jax.errors.ArgumentError: gap is traced: the rank depends on its value; give a ...
    """
    if is_traced(value):
        raise ArgumentError(
            f"{name} is traced: {what} depends on its value; give a known one.", name
        )


def _real_numbers(value: object) -> np.ndarray | None:
    """The value as a NumPy array of real numbers, or None where it is anything else."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # Rows of different lengths, or a type unknown to NumPy.
        return None
    # `jnp.issubdtype` counts bfloat16 as a float, and that of NumPy does not. Booleans (kind "b")
    # are refused.
    real = jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.kind in "iu"
    return array if real else None


def check_key(key: Any, *, name: str = "key") -> None:
    """Raise ValueError unless this is one typed key."""
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
    """Raise ValueError unless every leaf is a NumPy or JAX array of numbers.

    Args: `numbers` allows Python's numbers too.
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
        # JAX's keys have a dtype that is no `np.dtype`.
        dtype = leaf.dtype
        if isinstance(dtype, np.dtype) and not dtype.isnative:
            raise ValueError(
                f"{where} has dtype {dtype.str}, in another byte order than this machine's: give "
                f".astype({dtype.newbyteorder('=').name!r}) of it."
            )
        # Objects, bytes, text, dates and differences of dates.
        if isinstance(dtype, np.dtype) and dtype.kind in "OSUMm":
            raise ValueError(f"{where} has dtype {dtype}: give an array of numbers.")


def check_unmasked(name: str, values: object) -> None:
    """Raise ValueError for a masked array, whose masked values JAX would use as numbers."""
    if isinstance(values, np.ma.MaskedArray):
        raise ValueError(
            f"{name} is a masked array: give an array of NumPy or JAX without the masked entries, "
            "and leave out their samples everywhere."
        )


def check_matrix(name: str, values: Any, axes: str) -> None:
    """Raise ValueError unless this is an array of numbers with two axes, such as "(N, d)"."""
    check_arrays(name, values)
    shape = np.shape(values)
    if len(shape) != 2:
        raise ValueError(f"{name} has shape {shape}: give two axes, {axes}.")
