"""Results as text: scalars as numbers, and arrays as dtype and shape."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import diffrax
import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Int

from .checks import is_traced

_WIDTH = 88


class Text(str):
    """Text of a field, which `summary` prints without quotes."""

    def __repr__(self) -> str:
        return str(self)


def summary(result: object, /, **first: object) -> str:
    """`Type(field=value, …)` of a dataclass: scalars as numbers, arrays as dtype and shape.

    Args: `first` are fields to print before the others. They replace fields of the same name, and a
    value of None leaves a field out. `result` is positional only: a field may have the same name.
    """
    assert dataclasses.is_dataclass(result)
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    values = {**first, **{name: value for name, value in fields.items() if name not in first}}
    parts = [f"{name}={_brief(value)}" for name, value in values.items() if value is not None]
    name = type(result).__name__
    line = f"{name}({', '.join(parts)})"
    if len(line) <= _WIDTH and "\n" not in line:
        return line
    # A field that is itself a result on several lines is indented as a whole.
    body = ",\n".join(parts).replace("\n", "\n  ")
    return f"{name}(\n  {body}\n)"


def named(code: Int[Array, "*batch"], names: Sequence[str]) -> str | None:
    """The name of a code, or for a batch the number of codes with each name; None if traced."""
    if is_traced(code):
        return None
    found = np.array(names)[np.asarray(code)]
    if found.ndim == 0:
        return str(found)
    return counted(found.ravel().tolist())


def counted(names: Sequence[str]) -> Text:
    """How often each name occurs, with the most frequent first."""
    counts = collections.Counter(names).most_common()
    return Text(", ".join(f"{count} {name}" for name, count in counts) or "none")


def outcomes(counts: Mapping[str, int]) -> str:
    """Outcomes of runs in words, from the number of runs with each message; "" is success.

    Example:

        >>> outcomes({"": 16})
        '16 runs, all succeeded'
        >>> outcomes({"": 14, "The step limit was reached.": 2})
        '16 runs: 14 succeeded, 2 failed (The step limit was reached)'
    """
    total = sum(counts.values())
    runs = f"{total} run{'' if total == 1 else 's'}"
    if not counts:
        return runs
    texts = {message: _outcome(message.rstrip(".")) for message in counts}
    if len(counts) == 1:
        [text] = texts.values()
        return f"{runs}, {text if total == 1 else f'all {text}'}"
    return f"{runs}: " + ", ".join(f"{counts[m]} {text}" for m, text in texts.items())


def _outcome(message: str) -> str:
    if message in ("", "not complete"):
        return message or "succeeded"
    ended = message == diffrax.RESULTS[diffrax.RESULTS.event_occurred].rstrip(".")
    return "ended by an event" if ended else f"failed ({message})"


def _brief(value: object) -> str:
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        # The value of a traced scalar is unknown, so that `item` would fail.
        if is_traced(value) or value.ndim > 0:
            return eqx.tree_pformat(value)
        value = value.item()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Text) or dataclasses.is_dataclass(value):
        return repr(value)
    return eqx.tree_pformat(value)
