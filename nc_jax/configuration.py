"""The configuration of a run as text, and the check that stored results have the same one."""

import functools
import hashlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from .errors import ArgumentError

# Longest text of an attribute, in characters. A longer text is cut, and a digest of the whole text
# is added.
_LONGEST_TEXT = 300
# Attributes that may differ when a run is resumed.
_FREE = frozenset({"python", "device", "devices"})
# The module of a class in the text of an object or a class. `described` leaves it out, since it is
# `__main__` where the same file is run as a script.
_MODULE = re.compile(r"(<(?:class ')?)(?:[\w<>]+\.)+(\w+)(?= object|'>)")


def described(value: object) -> str:
    """A value as text that is the same in every process, also if its module runs as a script.

    Example:

        >>> from nc_jax.configuration import described
        >>> described(object())
        '<object object>'
    """
    if isinstance(value, str):
        return value
    # Addresses in memory differ between processes.
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    return " ".join(_MODULE.sub(r"\1\2", text).split())


def described_call(name: str, call: object, settings: set[str]) -> dict[str, str]:
    """Describe a function by its name and by the values that it uses, each under its name.

    The values are those that the function closes over, globals, defaults, and the arguments of a
    `functools.partial`. Functions, classes and modules among them are left out: their code is in
    the digest of the program.

    Args: `name` is the first part of every key; `settings` are names of parameters whose values are
    described elsewhere.

    Example:

        >>> from nc_jax.configuration import described_call
        >>> def observe(state, factor=2.0):
        ...     return {"scaled": factor * state}
        >>> described_call("observe", observe, set())
        {'observe': 'observe', 'observe.factor': '2.0'}
    """
    if isinstance(call, functools.partial):
        arguments = {f"{name}.{i}": value for i, value in enumerate(call.args)}
        arguments |= {f"{name}.{key}": value for key, value in call.keywords.items()}
        # Defaults that the partial replaces are left out: they have no effect.
        inner = described_call(name, call.func, settings | set(call.keywords))
        return {**inner, **{key: short(value) for key, value in arguments.items()}}
    # `getclosurevars` reads functions that are written in Python, and no other callables.
    if not inspect.isfunction(call):
        return {name: short(call)}
    used = inspect.getclosurevars(call)
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(call).parameters.items()
        if parameter.default is not parameter.empty and key not in settings
    }
    values = {**used.globals, **used.nonlocals, **defaults}
    texts = {
        f"{name}.{key}": short(value)
        for key, value in sorted(values.items())
        if not (inspect.ismodule(value) or inspect.isroutine(value) or inspect.isclass(value))
    }
    # `__qualname__` has no module, which is `__main__` where the same file is run as a script.
    return {name: call.__qualname__, **texts}


def short(value: object) -> str:
    """A value as text of bounded length; arrays and long texts with a digest of their content.

    Example:

        >>> from nc_jax.configuration import short
        >>> short(np.zeros(3))
        'float64[3] 9d908ecfb6b256de'
    """
    # Not the text of an array, in which NumPy and JAX replace most entries by dots. A key has no
    # bytes, and its text is complete.
    if isinstance(value, (np.ndarray, jax.Array)) and not jnp.issubdtype(
        value.dtype, jax.dtypes.prng_key
    ):
        array = np.asarray(value)
        return f"{array.dtype}{list(array.shape)} {digest(array.tobytes())}"
    text = described(value)
    if len(text) <= _LONGEST_TEXT:
        return text
    return f"{text[:_LONGEST_TEXT]}... {digest(text.encode())}"


def digest(data: bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


def digest_of_programs(programs: Iterable[jax.stages.Traced]) -> str:
    """Digest of lowered programs: of their code and of the constants in them.

    Example:

        >>> from nc_jax.configuration import digest_of_programs
        >>> def digest_of(function):
        ...     return digest_of_programs([jax.jit(function).trace(np.zeros(3))])
        >>> digest_of(lambda x: x + 1.0) == digest_of(lambda y: y + 1.0)
        True
        >>> digest_of(lambda x: x + 1.0) == digest_of(lambda x: x + 2.0)
        False
    """
    parts = []
    for program in programs:
        parts.append(program.lower().as_text().encode())
        # With `jax_use_simplified_jaxpr_constants` JAX passes the values that a function closes
        # over as further arguments, and the text does not have them.
        parts += [_bytes_of(value) for value in _constants(program.jaxpr, set())]
    return digest(b"".join(parts))


def _constants(program: ClosedJaxpr | Jaxpr, visited: set[int]) -> Iterator[object]:
    """Constants of a program and of its inner programs, each program visited once."""
    # By identity: an inner program, such as the body of a loop, may occur in several equations.
    if id(program) in visited:
        return
    visited.add(id(program))
    if isinstance(program, ClosedJaxpr):
        yield from program.consts
        yield from _constants(program.jaxpr, visited)
        return
    for equation in program.eqns:
        yield from (atom.val for atom in equation.invars if isinstance(atom, Literal))
        inner = jax.tree.leaves(dict(equation.params), is_leaf=_is_program)
        for parameter in filter(_is_program, inner):
            yield from _constants(parameter, visited)
    yield from (atom.val for atom in program.outvars if isinstance(atom, Literal))


def _is_program(value: object) -> bool:
    return isinstance(value, (ClosedJaxpr, Jaxpr))


def _bytes_of(value: Any) -> bytes:
    """Dtype, shape and content of an array, a number or a key."""
    # The dtype and the shape too, since other arrays may have the same content as bytes.
    if jnp.issubdtype(jnp.result_type(value), jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    return f"{array.dtype}{array.shape}".encode() + array.tobytes()


def check_same(
    path: Path,
    kind: str,
    stored: Mapping[str, object],
    current: Mapping[str, object],
    *,
    advice: str = "Give another path, or resume=False to write in its place.",
    free: frozenset[str] = frozenset(),
) -> None:
    """Refuse to resume results of another configuration, and name the attributes that differ.

    Args:
        path: where the results are.
        kind: of the results, such as "sweep", for the message.
        stored: attributes of the results. Attributes without a "program", the digest of all code,
            are not those of a run.
        current: attributes that a new run would have.
        advice: last sentences of the message.
        free: attributes that may differ.

    Raises: ArgumentError, a ValueError, that names the arguments `path` and `resume`.

    Example:

        >>> from nc_jax.configuration import check_same
        >>> stored = {"program": "a1", "rtol": "1e-8"}
        >>> check_same(folder, "flow", stored, {"program": "b2", "rtol": "1e-6"})
        Traceback (most recent call last):
        nc_jax.errors.ArgumentError: ... holds another flow: rtol = 1e-8 there, 1e-6 here. ...
    """
    if "program" not in stored or stored.get("kind") != current.get("kind"):
        raise ArgumentError(f"{path} holds no {kind}. {advice}", "path", "resume")
    keys = sorted((stored.keys() | current.keys()) - _FREE - free)
    differing = [key for key in keys if stored.get(key) != current.get(key)]
    # A digest says that the programs differ, but not why. It is named if nothing else differs.
    named = [key for key in differing if not key.startswith("program")] or differing
    if named:
        pairs = [f"{key} = {stored.get(key)} there, {current.get(key)} here" for key in named]
        message = f"{path} holds another {kind}: {'; '.join(pairs)}. {advice}"
        raise ArgumentError(message, "path", "resume")
