"""Results as text: their numbers and outcomes, with shapes in the place of arrays."""

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
    """A field's text, which stands in a summary without quotes."""

    def __repr__(self) -> str:
        return str(self)


def summary(result: object, /, **first: object) -> str:
    """`Type(field=value, …)` of a dataclass: scalars as numbers, arrays as dtype and shape.

    Args: fields to put `first`, in the place of those of the same name; None leaves a field out.
    """
    assert dataclasses.is_dataclass(result)
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    values = {**first, **{name: value for name, value in fields.items() if name not in first}}
    parts = [f"{name}={_brief(value)}" for name, value in values.items() if value is not None]
    name = type(result).__name__
    line = f"{name}({', '.join(parts)})"
    if len(line) <= _WIDTH and "\n" not in line:
        return line
    body = ",\n".join(parts).replace("\n", "\n  ")
    return f"{name}(\n  {body}\n)"


def named(code: Int[Array, "*batch"], names: Sequence[str]) -> str | None:
    """The name of a code, of a batch how many have each name; None where it is traced."""
    if is_traced(code):
        return None
    found = np.array(names)[np.asarray(code)]
    if found.ndim == 0:
        return str(found)
    return counted(found.ravel().tolist())


def counted(names: Sequence[str]) -> Text:
    """How often each name occurs, the most frequent first."""
    counts = collections.Counter(names).most_common()
    return Text(", ".join(f"{count} {name}" for name, count in counts) or "none")


def _brief(value: object) -> str:
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        if is_traced(value) or value.ndim > 0:
            return eqx.tree_pformat(value)
        value = value.item()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Text) or dataclasses.is_dataclass(value):
        return repr(value)
    return eqx.tree_pformat(value)
