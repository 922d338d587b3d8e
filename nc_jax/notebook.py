"""Results in a notebook: a table of variables with their equations, units and values."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

# Neither colours nor backgrounds are set, so that the table suits light and dark notebooks. A
# notebook that is not trusted leaves the style out, and shows a plain table.
_STYLE = """<style>
div.nc-jax-results { overflow-x: auto; }
div.nc-jax-results table { border-collapse: collapse; margin: 0.5em 0; }
div.nc-jax-results table th, div.nc-jax-results table td {
  text-align: left; vertical-align: top; padding: 0.15em 1.2em 0.15em 0.3em; max-width: 45em;
}
div.nc-jax-results table thead th, div.nc-jax-results table th[colspan] {
  border-bottom: 1px solid currentColor;
}
div.nc-jax-results table td:nth-child(4) { white-space: nowrap; }
div.nc-jax-results table th[colspan] { padding-top: 0.7em; }
div.nc-jax-results summary { cursor: pointer; }
</style>"""


class Described(NamedTuple):
    """A row of the table: a variable, what it is, its unit, its dims, and its values in words."""

    name: str
    meaning: str
    unit: str
    dims: str
    values: str


def results_html(
    title: str,
    groups: Mapping[str, Sequence[Described]],
    folded: Mapping[str, str],
) -> str:
    """A title, a table with a part for each group, and texts in HTML that a click opens.

    Example:

        >>> row = Described("loss", "mean of ℓ", "1", "epoch", "2 → 1")
        >>> "<td>mean of ℓ</td>" in results_html("1 run", {"Variables": [row]}, {})
        True
    """
    heads = ("name", "equation or meaning", "unit", "dims", "values")
    parts = ["".join(f'<th scope="col">{head}</th>' for head in heads)]
    body = []
    for heading, rows in groups.items():
        body.append(f'<th colspan="{len(heads)}" scope="rowgroup">{html.escape(heading)}</th>')
        body += [_row(row) for row in rows]
    details = [
        f"<details><summary>{html.escape(name)}</summary>{text}</details>"
        for name, text in folded.items()
    ]
    return "\n".join(
        [
            f'<div class="nc-jax-results">{_STYLE}',
            f"<p><strong>{html.escape(title)}</strong></p>",
            f"<table><thead><tr>{parts[0]}</tr></thead>",
            "<tbody>",
            *(f"<tr>{cells}</tr>" for cells in body),
            "</tbody></table>",
            *details,
            "</div>",
        ]
    )


def pairs_html(pairs: Mapping[str, object]) -> str:
    """A table of names and values.

    Example:

        >>> pairs_html({"K": 3})
        '<table><tr><th scope="row">K</th><td>3</td></tr></table>'
    """
    rows = (
        f'<tr><th scope="row">{html.escape(str(name))}</th><td>{html.escape(str(value))}</td></tr>'
        for name, value in pairs.items()
    )
    return f"<table>{''.join(rows)}</table>"


def sizes_text(sizes: Mapping[str, int]) -> str:
    """Sizes of dims, such as "seed 16 × time 40".

    Example:

        >>> sizes_text({"seed": 16, "time": 40})
        'seed 16 × time 40'
    """
    return " × ".join(f"{dim} {size}" for dim, size in sizes.items())


def log_time_text(log_time: np.ndarray, *, axis: int | None = 0) -> str:
    """The values of log(1 + t), with the last t as a power of ten, since t may overflow.

    Example:

        >>> log_time_text(np.array([0.0, 230.2585]))
        '0 → 230.3, t to 10^100'
    """
    text = values_text(log_time, axis=axis)
    known = log_time[np.isfinite(log_time)]
    # Below t = 10 the power would tell less than log(1 + t).
    if known.size == 0 or known.max() < math.log(11):
        return text
    return f"{text}, t to 10^{known.max() / math.log(10):.4g}"


def values_text(values: np.ndarray, *, axis: int | None = None) -> str:
    """Values in words: from the first to the last along an axis of saves, or their range.

    With several values at each save, such as one for each run, the text gives their medians at the
    first and the last save, and the range at the last. NaN, after the end of a run, is left out.

    Args: `axis` is that of the saves; None where there is none.

    Example:

        >>> values_text(np.array([2.0, 1.0, 0.5]), axis=0)
        '2 → 0.5'
        >>> values_text(np.array([[2.0, 1.0], [4.0, 3.0]]), axis=1)
        'median 3 → 2; at the end 1 to 3'
        >>> values_text(np.array(["SGD", "Adam"]))
        'SGD, Adam'
    """
    if values.size == 0:
        return "none"
    if values.dtype.kind not in "fiub":
        return _listed([str(value) for value in values.ravel()[:7]], values.size)
    if values.dtype == bool:
        return f"{values.sum()} of {values.size} are true" if values.ndim else str(values)
    if axis is None and values.size <= 6:
        return _listed([_number(value) for value in values.ravel()], values.size)
    if axis is None:
        return _range(values)
    saves = np.moveaxis(values, axis, 0)
    if values.ndim == 1:
        known = saves[np.isfinite(saves)] if values.dtype.kind == "f" else saves
        if known.size == 0:
            return _number(saves[-1])
        ended = "" if math.isfinite(saves[-1]) else f", then {_number(saves[-1])}"
        return f"{_number(known[0])} → {_number(known[-1])}{ended}"
    first, last = (_median(save) for save in (saves[0], saves[-1]))
    return f"median {_number(first)} → {_number(last)}; at the end {_range(saves[-1])}"


def _row(row: Described) -> str:
    name, *cells = (html.escape(cell) for cell in row)
    return f'<th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in cells)


def _range(values: np.ndarray) -> str:
    """The least and the largest number, and how many are NaN."""
    known = values[~np.isnan(values)] if values.dtype.kind == "f" else values.ravel()
    if known.size == 0:
        return "NaN"
    least, most = _number(known.min()), _number(known.max())
    missing = values.size - known.size
    text = least if least == most else f"{least} to {most}"
    return f"{text} ({missing} of {values.size} NaN)" if missing else text


def _median(values: np.ndarray) -> float:
    known = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    return float(np.median(known)) if known.size else math.nan


def _number(value: float | np.number) -> str:
    text = str(value) if isinstance(value, (int, np.integer)) else f"{value:.4g}"
    # A browser may begin a new line after a hyphen, and not after a minus.
    return text.replace("-", "−")


def _listed(texts: list[str], size: int) -> str:
    """The first six of some texts."""
    unique = list(dict.fromkeys(texts))
    if size == len(texts) and len(unique) == 1:
        return unique[0]
    return ", ".join(texts[:6]) + (f", … ({size})" if size > 6 else "")
