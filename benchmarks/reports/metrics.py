"""Text and Markdown table of `benchmarks/measure.py`."""

from collections.abc import Sequence
from typing import Any

from reporting import show_machine, show_time

# The measures whose errors the table has; of others the largest error is in the JSON file.
KEYS = ("import", "first", "second", "second_cpu")
NC1, GEOMETRY = "zhu_nc1", ("kothapalli_nc2", "ji_feature_cosine_gap", "zhu_nc3", "cdnv")


def show(report: dict[str, Any]) -> str:
    """The printed report."""
    rows = report["rows"]
    sizes = f"features ({rows[0]['N']}, {rows[0]['d']}) in float32, batches of {report['batch']}"
    return "\n".join([*show_machine(report["machine"]), sizes, "", show_rows(rows)])


def show_rows(rows: Sequence[dict[str, Any]]) -> str:
    """The table: times of one process, and errors of NC1 and of the class means' geometry."""
    lines = [
        "| K | way | import | first call | second call | CPU of the second | NC1, spread "
        "| NC1, collapsed | others, spread | others, collapsed |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = " | ".join(show_time(row[key]) for key in KEYS)
        found = [row["errors"][name] for name in ("spread", "collapsed")]
        nc1 = " | ".join(show_error(errors[NC1]) for errors in found)
        others = " | ".join(
            show_error(max(errors[name] for name in GEOMETRY if name in errors)) for errors in found
        )
        lines.append(f"| {row['K']} | {row['way']} | {times} | {nc1} | {others} |")
    return "\n".join(lines)


def show_error(value: float) -> str:
    """A relative error with one digit; 0 for none."""
    return "0" if value == 0 else f"{value:.0e}"
