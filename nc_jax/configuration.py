"""What decides a run, as text: kept with its results, and compared before they are gone on with."""

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

# Values longer than this are described by their beginning and a digest.
_LONGEST_DESCRIPTION = 300
# What may differ when a run goes on.
_FREE = frozenset({"python", "device", "devices"})


# The module of a class in the text of an object or a class: `__main__` in the script itself.
_MODULE = re.compile(r"(<(?:class ')?)(?:[\w<>]+\.)+(\w+)(?= object|'>)")


def described(value: object) -> str:
    """A value as text, the same in every process and for a module that is run as a script."""
    if isinstance(value, str):
        return value
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    return " ".join(_MODULE.sub(r"\1\2", text).split())


def described_call(name: str, call: object, settings: set[str]) -> dict[str, str]:
    """A function's name and the values it uses: those it closes over, globals, defaults, arguments.

    Args: `settings` are parameters whose values are described elsewhere.
    """
    if isinstance(call, functools.partial):
        given = {f"{name}.{i}": value for i, value in enumerate(call.args)}
        given |= {f"{name}.{key}": value for key, value in call.keywords.items()}
        inner = described_call(name, call.func, settings | set(call.keywords))
        return {**inner, **{key: short(value) for key, value in given.items()}}
    if not inspect.isfunction(call):
        return {name: short(call)}
    closed = inspect.getclosurevars(call)
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(call).parameters.items()
        if parameter.default is not parameter.empty and key not in settings
    }
    values = {**closed.globals, **closed.nonlocals, **defaults}
    texts = {
        f"{name}.{key}": short(value)
        for key, value in sorted(values.items())
        if not (inspect.ismodule(value) or inspect.isroutine(value) or inspect.isclass(value))
    }
    # Without the module, which is `__main__` where the same file is run as a script.
    return {name: call.__qualname__, **texts}


def short(value: object) -> str:
    """A value as text of bounded length; arrays and long values with a digest of all they hold."""
    if isinstance(value, (np.ndarray, jax.Array)) and not jnp.issubdtype(
        value.dtype, jax.dtypes.prng_key
    ):
        array = np.asarray(value)
        return f"{array.dtype}{list(array.shape)} {digest(array.tobytes())}"
    text = described(value)
    if len(text) <= _LONGEST_DESCRIPTION:
        return text
    return f"{text[:_LONGEST_DESCRIPTION]}... {digest(text.encode())}"


def digest(data: bytes) -> str:
    """The beginning of a SHA-256."""
    return hashlib.sha256(data).hexdigest()[:16]


def digest_of_programs(programs: Iterable[jax.stages.Traced]) -> str:
    """Of all that decides what programs compute from their arguments: code, and values in it.

    Values are hashed by themselves: with `jax_use_simplified_jaxpr_constants` JAX leaves those that
    a function closes over out of the text of a program, and passes them as further arguments.

    Example: `digest_of_programs([jax.jit(function).trace(jnp.zeros(3))])`.
    """
    parts = []
    for program in programs:
        parts.append(program.lower().as_text().encode())
        parts += [_bytes_of(value) for value in _constants(program.jaxpr, set())]
    return digest(b"".join(parts))


def _constants(program: ClosedJaxpr | Jaxpr, visited: set[int]) -> Iterator[object]:
    """Values that a program holds, those of its inner programs included, each program once."""
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
    """An array or a number with its type and shape, a key by its data."""
    if jnp.issubdtype(jnp.result_type(value), jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    return f"{array.dtype}{array.shape}".encode() + array.tobytes()


def check_same(
    path: Path,
    kind: str,
    stored: Mapping[str, object],
    mine: Mapping[str, object],
    advice: str = "Give another path, or resume=False to write in its place.",
    free: frozenset[str] = frozenset(),
) -> None:
    """Refuse to go on with results of another configuration, and say what differs.

    Args: `kind` of results and `advice`, for the message; `free` keys may differ. A "program" that
    is there is the digest of all code.

    Raises: ValueError.
    """
    if "program" not in stored or stored.get("kind") != mine.get("kind"):
        raise ValueError(f"{path} holds no {kind}. {advice}")
    keys = sorted((stored.keys() | mine.keys()) - _FREE - free)
    differing = [key for key in keys if stored.get(key) != mine.get(key)]
    # The values that a program uses name the difference better than its digest.
    named = [key for key in differing if not key.startswith("program")] or differing
    if named:
        raise ValueError(
            f"{path} holds another {kind}: "
            + "; ".join(f"{key} = {stored.get(key)} there, {mine.get(key)} here" for key in named)
            + f". {advice}"
        )
