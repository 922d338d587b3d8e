"""Write the tables of the documentation from the numbers of the benchmarks.

A benchmark stores its numbers by `python benchmarks/NAME.py --json benchmarks/results/NAME.json`.
In a page of the documentation a table is between the lines `<!-- table: NAME -->` and
`<!-- end of table -->`, and `python benchmarks/doc_tables.py` replaces what is between them. Each
table begins with the machine and the date of its numbers. `--check` changes nothing and fails if a
page differs from what would be written.
"""

import argparse
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from reporting import show_ratio, show_time
from reports import deep_starts, landscape, metrics, relu, solvers

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
# The written pages. Those of the gallery and the reference are generated when the site is built.
FOLDERS = ("docs", "docs/start", "docs/guides")
PAGES = (ROOT / "README.md", *(p for f in FOLDERS for p in sorted((ROOT / f).glob("*.md"))))
REGION = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

Report = dict[str, Any]


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; cells are converted by `str`."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def with_note(name: str, row: Report) -> str:
    """A row's name with its note in brackets, if it has one."""
    return f"{name} ({row['note']})" if row.get("note") else name


def ulpm_table(report: Report) -> str:
    """Descent and flow relative to the PyTorch loop, one row for each dtype."""
    rows = [
        (
            row["group"], with_note(row["name"], row), row["dtype"], show_time(row["run_s"]),
            show_time(row["compile_s"]), "–" if row["error"] is None else f"{row['error']:.0e}",
            "–" if row.get("x") is None else show_ratio(row["x"]),
        )
        for row in report["rows"]
        if row["run_s"] is not None and row["group"] != "cold start"
    ]  # fmt: skip
    header = "task", "way", "dtype", "run", "compile", "error", "against the PyTorch loop"
    return markdown(header, list(without_repetition(rows)))


def without_repetition(rows: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Leave the first cell of a row empty where it is that of the row above."""
    above = None
    for row in rows:
        yield (("" if row[0] == above else row[0]), *row[1:])
        above = row[0]


def solvers_tables(report: Report) -> str:
    """A table for each problem and horizon."""
    # `groupby` joins adjacent rows only, and a benchmark writes the rows of a block together.
    blocks = itertools.groupby(report["rows"], key=lambda row: (row["block"], row["decades"]))
    return "\n\n".join(solvers.show(list(rows)) for _, rows in blocks)


def landscape_table(report: Report) -> str:
    """The smallest eigenvalue of states of several sizes."""
    setups = itertools.groupby(report["rows"], key=lambda row: row["setup"])
    lines = [line for _, rows in setups for line in landscape.show_rows(list(rows))]
    return "\n".join([*landscape.HEADER, *lines])


def relu_table(report: Report) -> str:
    """Integrators of a flow with kinks."""
    return relu.show_rows(report["rows"])


def sweep_table(report: Report) -> str:
    """Seeds a second by tool, at equal error."""
    rows = [
        (
            with_note(row["way"], row), f"{row['rtol']:.0e}", f"{row['error']:.1e}",
            "–" if row["rate"] is None else f"{row['rate']:.4g}",
        )
        for row in report["rows"]
    ]  # fmt: skip
    return markdown(("way", "rtol", "error", "seeds a second"), rows)


def sweep_sizes_table(report: Report) -> str:
    """The cost of a seed by the size of the model."""
    rows = [
        (row["K"], row["d"], show_time(row["per_seed"]), f"{row['steps']:.0f}")
        for row in report["by_size"]
    ]
    return markdown(("K", "d", "a seed", "steps"), rows)


def deep_starts_table(report: Report) -> str:
    """The time of a start by depth, and its ratio to that of `UnconstrainedFeatures`."""
    return markdown(deep_starts.HEADER, [deep_starts.cells(row) for row in report["rows"]])


def cnn_table(report: Report) -> str:
    """Images a second in float32, a row for each network."""
    ways = {
        "nc_jax": "nc_jax", "PyTorch, channels last": "PyTorch, channels last",
        "PyTorch, channels first": "PyTorch, channels first",
        "PyTorch compiled": "PyTorch, channels last, compiled",
        "Flax, step by step": "Flax, lax convolutions, step by step",
    }  # fmt: skip
    rows = []
    for network, group in itertools.groupby(report["training"], key=lambda row: row["network"]):
        rates = {row["way"]: row["rate"] for row in group if row["dtype"] == "float32"}
        best = max(rate for way, rate in rates.items() if way.startswith("PyTorch"))
        cells = [f"{rates[way]:.0f}" if rates.get(way) else "–" for way in ways.values()]
        rows.append((network, *cells, f"{rates['nc_jax'] / best:.2f}"))
    return markdown(("network", *ways, "of the best PyTorch"), rows)


def metrics_table(report: Report) -> str:
    """Times and errors of the measures of features."""
    return metrics.show_rows(report["rows"])


# By the name of a table: the file of its numbers, and the function that writes it.
TABLES: dict[str, tuple[str, Callable[[Report], str]]] = {
    "ulpm": ("ulpm", ulpm_table),
    "solvers": ("solvers", solvers_tables),
    "landscape": ("landscape", landscape_table),
    "relu": ("relu", relu_table),
    "sweep": ("sweep", sweep_table),
    "sweep-sizes": ("sweep", sweep_sizes_table),
    "deep-starts": ("deep_starts", deep_starts_table),
    "cnn": ("cnn", cnn_table),
    "metrics": ("metrics", metrics_table),
}


def table(name: str) -> str:
    """A table below the line that says where, when and with which versions it was measured."""
    if name not in TABLES:
        raise SystemExit(f"table {name!r}: give one of {', '.join(TABLES)}.")
    source, write = TABLES[name]
    report = json.loads((RESULTS / f"{source}.json").read_text())
    place = report["machine"]
    packages = "".join(f", {name} {it}" for name, it in place["packages"].items() if it)
    caption = f"{place['cpu']}, {place['cores']} cores, {place['date'][:10]}{packages}:"
    return f"{caption}\n\n{write(report)}"


def with_tables(text: str) -> str:
    """A page with all of its tables written anew."""
    return REGION.sub(lambda found: f"{found[1]}{table(found[2])}\n{found[3]}", text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Rewrite the pages, or check them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="fail where a page differs")
    options = parser.parse_args(arguments)
    different = [page for page in PAGES if with_tables(page.read_text()) != page.read_text()]
    for page in different:
        print(f"{page.relative_to(ROOT)} {'differs' if options.check else 'written'}")
        if not options.check:
            page.write_text(with_tables(page.read_text()))
    if options.check and different:
        sys.exit(1)


if __name__ == "__main__":
    main()
