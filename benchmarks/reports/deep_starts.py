"""Text table of `benchmarks/deep_starts.py`."""

from collections.abc import Sequence
from typing import Any

from reporting import show_machine, show_ratio, show_time

ERROR = 1e-6  # relative error of final states that every row must reach
HEADER = "model", "rtol", "error", "steps", "compile", "run", "a start", "of m = 2"


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """The entries of a row, in the order of `HEADER`."""
    error = f"{row['error']:.1e}"
    if row["run"] is None:  # no tolerance of the list is accurate enough
        return (row["way"], f"{row['rtol']:.0e}", error, "–", "–", "missed", "–", "–")
    return (
        row["way"], f"{row['rtol']:.0e}", error, f"{row['steps']:.0f}", show_time(row["compile"]),
        show_time(row["run"]), show_time(row["run"] / row["starts"]), show_ratio(row["ratio"]),
    )  # fmt: skip


def show(report: dict[str, Any]) -> str:
    """The printed report."""
    rows: Sequence[tuple[str, ...]] = [HEADER, *map(cells, report["rows"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    return "\n".join([
        *show_machine(report["machine"]), "",
        f"K=5 d=10 n=4 to t = 10^5, {report['starts']} starts, final states right to {ERROR:g}; "
        f"{report['repeats']} turns",
        *("  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)) for row in rows),
    ])  # fmt: skip
