"""Markdown tables of `benchmarks/solvers.py`."""

from collections.abc import Sequence
from typing import Any

from reporting import show_time


def show(rows: Sequence[dict[str, Any]]) -> str:
    """The table of a block, below its title."""
    lines = [
        f"{rows[0]['block']}, to t = 10^{rows[0]['decades']:.10g}\n",
        "| solver, clock | rtol | steps | evaluations | run | state | measures | drift |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        error = "–" if row["measure_error"] is None else f"{row['measure_error']:.0e}"
        lines.append(
            f"| {row['way']} | {row['rtol']:.0e} | {row['steps']} | {row['evals'] or '–'} | "
            f"{show_time(row['run_s'])} | {row['state_error']:.0e} | {error} | {row['drift']:.0e} |"
        )
    return "\n".join(lines)
