"""What the benchmarks share: where they ran, how long a call took, how figures are shown."""

import argparse
import datetime
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import jax

from nc_jax.paths import local_path

BUSY = 0.5  # load average before the run above which a table warns
PACKAGES = (
    "nc_jax", "jax", "diffrax", "optax", "numpy", "scipy", "torch", "torchdiffeq", "torchode",
    "gradsolve",
)  # fmt: skip
T = TypeVar("T")


def seconds(run: Callable[[], T]) -> tuple[float, T]:
    """Wall time of one run, and what it returned."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def version(package: str) -> str | None:
    """Installed version, None if absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, object]:
    """Where and when the numbers were taken."""
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
    """Lines that say where and with what a table was made."""
    versions = ", ".join(f"{k} {v}" for k, v in place["packages"].items() if v)
    load = "unknown" if place["load_average"] is None else f"{place['load_average']:.1f}"
    lines = [
        f"{place['cpu']}, {place['cores']} cores, load before the run {load}; {place['date']}",
        f"jax on {place['jax_backend']}, {versions}",
    ]
    if place["load_average"] is None or place["load_average"] > BUSY:
        lines.append("BUSY: other work was running, times and ratios are not to be relied on")
    return lines


def show_time(value: float | None) -> str:
    """Seconds with a unit, three digits."""
    if value is None:
        return "-"
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def show_ratio(value: float | None) -> str:
    """48x, or 0.97x: three digits, never an exponent."""
    if value is None:
        return "-"
    return f"{value:.3g}x" if value < 1000 else f"{value:.0f}x"


class Parser(argparse.ArgumentParser):
    """One line for a bad flag, instead of the usage and the line."""

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
    """The flag that says where the numbers go."""
    parser.add_argument(
        "--json",
        type=local_path,
        default=Path(default),
        metavar="PATH",
        help="where the numbers go (default %(default)s; folders are made)",
    )


def parse_with_json(parser: Parser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, and make the folder of the JSON file before minutes are spent."""
    options = parser.parse_args(arguments)
    try:
        options.json.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--json {options.json}: {error.strerror}")
    if options.json.is_dir():
        parser.error(f"--json {options.json}: is a folder, name a file")
    return options
