"""What decides a run, as text: kept with its results, and compared before they are gone on with."""

import functools
import hashlib
import inspect
import re
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

# Values longer than this are described by their beginning and a digest.
_LONGEST_DESCRIPTION = 300
# What may differ when a run goes on.
_FREE = ("python", "device", "devices")


def described(value: object) -> str:
    """A value as text, the same in every process, on one line."""
    if isinstance(value, str):
        return value
    return " ".join(re.sub(r" at 0x[0-9a-f]+", "", repr(value)).split())


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
    told = {
        f"{name}.{key}": short(value)
        for key, value in sorted(values.items())
        if not (inspect.ismodule(value) or inspect.isroutine(value) or inspect.isclass(value))
    }
    return {name: f"{call.__module__}.{call.__qualname__}", **told}


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


def check_same(
    path: Path,
    kind: str,
    stored: Mapping[str, object],
    mine: Mapping[str, object],
    advice: str = "Give another path, or resume=False to write in its place.",
) -> None:
    """Refuse to go on with results of another configuration, and say what differs.

    Args: `kind` of results and `advice`, for the message. A "program" that is there is the digest
    of all code.

    Raises: ValueError.
    """
    if "program" not in stored or stored.get("kind") != mine.get("kind"):
        raise ValueError(f"{path} holds no {kind}. {advice}")
    keys = sorted((stored.keys() | mine.keys()) - set(_FREE))
    differing = [key for key in keys if stored.get(key) != mine.get(key)]
    # What the program was made of says it better.
    told = [key for key in differing if key != "program"] or differing
    if told:
        raise ValueError(
            f"{path} holds another {kind}: "
            + "; ".join(f"{key} = {stored.get(key)} there, {mine.get(key)} here" for key in told)
            + f". {advice}"
        )
