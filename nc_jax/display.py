"""Results as text: scalars as numbers, and arrays as dtype and shape."""

import collections
import dataclasses
from collections.abc import Sequence

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
