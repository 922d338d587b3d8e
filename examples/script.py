"""What the example scripts share: flags, one-line errors, settings of JAX, numbers and tables."""

import argparse
import math
from pathlib import Path
from typing import NoReturn

import numpy as np


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one line and exit 2."""

    def error(self, message: str) -> NoReturn:
        """Print the message alone; argparse would print the usage above it."""
        self.exit(2, f"{self.prog}: {message}\n")


def writable_folder(text: str) -> Path:
    """An output folder, made now, so that a long run does not end in an error."""
    path = Path(text)
    if not text:
        raise argparse.ArgumentTypeError("empty: give the name of a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"cannot write to {text} ({error.strerror}): give a folder you can write to"
        ) from None
    return path


def configure_jax() -> None:
    """Compute in float64, and store compiled programs, so that the next run loads them."""
    import jax

    import nc_jax

    jax.config.update("jax_enable_x64", True)
    nc_jax.cache_programs()


def check_seeds_and_stores(parser: Parser, flags: argparse.Namespace) -> None:
    """Refuse seeds that are none, or that a key cannot hold, and files where stores will be."""
    if flags.seeds < 1:
        parser.error(f"--seeds {flags.seeds}: give an integer >= 1.")
    if not 0 <= flags.seed < 2**32 - flags.seeds:
        parser.error(f"--seed {flags.seed}: give an integer from 0 to 4294967295 - SEEDS.")
    for store in ("flow.zarr", "descent.zarr"):
        if (flags.out / store).is_file():
            parser.error(f"--out {flags.out}: {store} there is a file; give another folder.")


def number(log10_value: float) -> str:
    """A positive number given by its log10, readable far outside the range of floats."""
    if not math.isfinite(log10_value):
        return "0" if log10_value < 0 else str(log10_value)
    if -3 <= log10_value < 4:
        return f"{10**log10_value:.4g}"
    # Rounded before it is split, or 10^3 less a rounding error would read 10.00e+2.
    exponent = math.floor(log10_value + 0.002)
    return f"{max(1.0, 10 ** (log10_value - exponent)):.2f}e{exponent:+d}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Right-aligned columns with a rule under the header."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    top = "  ".join(cell.rjust(w) for cell, w in zip(header, widths, strict=True))
    return "\n".join([top, "-" * len(top), *lines])


def nearest(grid: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Indices of the grid's entries nearest to the wanted ones, without repeats."""
    return np.unique(np.abs(np.asarray(grid)[:, None] - wanted).argmin(axis=0))
