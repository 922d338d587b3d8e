"""Parts of every benchmark: description of the machine, timing, formatting, common flags."""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import jax

from nc_jax.paths import local_path

# A table warns if the load average before the run was above this. An idle system has up to half a
# core of load.
BUSY = 0.5
PACKAGES = (
    "nc_jax", "jax", "diffrax", "optax", "numpy", "scipy", "torch", "torchdiffeq", "torchode",
    "gradsolve",
)  # fmt: skip
T = TypeVar("T")


def seconds(run: Callable[[], T]) -> tuple[float, T]:
    """Wall time of one run in seconds, and its result."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def version(package: str) -> str | None:
    """The installed version of a package; None without it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, object]:
    """The machine, its load, the versions of packages and the time."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "jax_backend": jax.default_backend(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def show_machine(place: dict) -> list[str]:
    """Lines with the machine, its load, the date and the versions of packages."""
    versions = ", ".join(f"{k} {v}" for k, v in place["packages"].items() if v)
    load = "unknown" if place["load_average"] is None else f"{place['load_average']:.1f}"
    lines = [
        f"{place['cpu']}, {place['cores']} cores, load before the run {load}; {place['date']}",
        f"jax on {place['jax_backend']}, {versions}",
    ]
    if place["load_average"] is None or place["load_average"] > BUSY:
        lines.append("BUSY: other processes were running, so times and ratios are not reliable")
    return lines


def show_time(value: float | None) -> str:
    """Seconds with a unit, three digits."""
    if value is None:
        return "–"
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def show_ratio(value: float | None) -> str:
    """A ratio such as 48x or 0.97x: three digits, without an exponent."""
    if value is None:
        return "–"
    return f"{value:.3g}x" if value < 1000 else f"{value:.0f}x"


class Parser(argparse.ArgumentParser):
    """A parser that prints one line for a bad flag, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def positive(text: str) -> int:
    """Integer >= 1, for argparse."""
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} given, an integer >= 1 needed")
    return value


def add_json(parser: Parser, default: str) -> None:
    """Add the flag `--json`, the path of the file to which the numbers are written."""
    parser.add_argument(
        "--json",
        type=local_path,
        default=Path(default),
        metavar="PATH",
        help="file for the numbers (default %(default)s; missing folders are created)",
    )


def parse_with_json(parser: Parser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; an unusable JSON path fails here, not after minutes of measuring."""
    options = parser.parse_args(arguments)
    try:
        options.json.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--json {options.json}: {error.strerror}")
    if options.json.is_dir():
        parser.error(f"--json {options.json}: is a folder, name a file")
    return options


def report_to_json(
    options: argparse.Namespace,
    measure: Callable[[argparse.Namespace], T],
    show: Callable[[T], str],
) -> None:
    """Measure, write the numbers to `options.json`, and print them with the time this took."""
    took, report = seconds(lambda: measure(options))
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(show(report))
    print(f"\n{took:.0f} s; numbers in {options.json}", file=sys.stderr)
