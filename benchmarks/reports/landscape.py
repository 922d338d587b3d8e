"""Markdown tables of `benchmarks/landscape.py`."""

from collections.abc import Iterator, Sequence
from typing import Any

from reporting import show_ratio, show_time

LANCZOS = "nc_jax restarted Lanczos"
HEADER = (
    "| state | smallest eigenvalue by | products | compile | run | against Lanczos | error |",
    "|---|---|---|---|---|---|---|",
)


def show(rows: Sequence[dict[str, Any]]) -> str:
    """The table of one setup."""
    return "\n".join([*HEADER, *show_rows(rows)])


def show_rows(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Lines of one setup; only the first has its name."""
    lanczos = next(row["run_s"] for row in rows if row["way"] == LANCZOS)
    for place, row in enumerate(rows):
        error = "0" if row["error"] == 0 else f"{row['error']:.0e}"
        yield (
            f"| {row['setup'] if place == 0 else ''} | {row['way']} | {row['products'] or '–'} | "
            f"{show_time(row['compile_s'])} | {show_time(row['run_s'])} | "
            f"{show_ratio(row['run_s'] / lanczos)} | {error} |"
        )
