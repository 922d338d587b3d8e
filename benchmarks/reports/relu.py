"""Text and Markdown table of `benchmarks/relu.py`."""

from collections.abc import Sequence
from typing import Any

from reporting import show_machine, show_time


def show(report: dict[str, Any]) -> str:
    """The printed report."""
    counts = report["crossings"]
    lines = [
        *show_machine(report["machine"]),
        f"flow to t = {report['end']:g}, outputs up to {report['largest']:.2f}; of "
        f"{counts['kinks']} preactivations, {counts['at rest on a kink']} end on a kink; "
        f"{counts['sign changes']} sign changes on the way",
        "",
        show_rows(report["rows"]),
    ]
    return "\n".join(lines)


def show_rows(rows: Sequence[dict[str, Any]]) -> str:
    """The table."""
    lines = ["| way | steps | time | outputs | ρ | ‖V_k‖² |", "|---|---|---|---|---|---|"]
    for row in rows:
        errors = [
            f"{row[key]:.0e}" if row["finished"] else "–"
            for key in ("output_error", "norm_error", "direction_error")
        ]
        steps = str(row["steps"]) if row["finished"] else f"gave up after {row['steps']}"
        lines.append(
            f"| {row['way']} | {steps} | {show_time(row['time'])} | {' | '.join(errors)} |"
        )
    return "\n".join(lines)
