"""What the example scripts share: flags, one-line errors, settings of JAX, tables and figures."""

import argparse
import contextlib
import math
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of figures.
FORMATS = ("png", "pdf", "svg")


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one line and exit 2; flags are given in full."""

    def __init__(self, description: str | None = None) -> None:
        super().__init__(description=description, allow_abbrev=False)
        # Where errors go, also while `output` silences the rest.
        self._errors = sys.stderr

    def error(self, message: str) -> NoReturn:
        """Print the message alone; argparse would print the usage above it."""
        print(f"{self.prog}: {message}", file=self._errors)
        sys.exit(2)


def add_dataset_flags(parser: Parser) -> None:
    """`--dataset`, `--folder` and `--download`."""
    from nc_jax import images

    add = parser.add_argument
    add("--dataset", type=images.standard_name, choices=images.NAMES, default="digits",
        help="images (%(default)s)")  # fmt: skip
    add("--folder", type=Path, help="of the data set, where it needs one")
    add("--download", action="store_true",
        help="fetch its published files if they are not there")  # fmt: skip


def add_output_flags(parser: Parser) -> None:
    """`--no-plot`, `--format` and `--quiet`."""
    add = parser.add_argument
    add("--no-plot", action="store_true", help="save no figure")
    add("--format", choices=FORMATS, default="png", help="of the figures (%(default)s)")
    add("--quiet", action="store_true", help="print nothing but errors")


def run_script(
    parse: Callable[[list[str] | None], tuple[Parser, argparse.Namespace]],
    run: Callable[[Parser, argparse.Namespace], None],
    arguments: list[str] | None,
) -> None:
    """Parse the flags, then run, without prints and progress bars if `--quiet` is given."""
    parser, flags = parse(arguments)
    with output(flags):
        run(parser, flags)


@contextlib.contextmanager
def output(flags: argparse.Namespace) -> Iterator[None]:
    """Silence prints and progress bars if `--quiet` is given; a parser's errors are printed."""
    with contextlib.ExitStack() as stack:
        if flags.quiet:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


def save_figure(flags: argparse.Namespace, figure: "Figure", name: str) -> str:
    """Save a figure in OUT in the format of the flags; returns its file name."""
    file = f"{name}.{flags.format}"
    figure.savefig(flags.out / file, dpi=130)
    return file


def folder_name(title: str) -> str:
    """A title as the name of a folder: letters, digits, dots, signs and underscores.

    Example: `folder_name("fixed ETF, d = K")` is "fixed_ETF_d_K".
    """
    words = title.replace("%", "percent").replace("λ", "lambda")
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", words).strip("_")


def refuse_to_run(file: str) -> NoReturn:
    """End a module that is no script itself with a line that names the scripts."""
    here = Path(file)
    scripts = sorted(path.name for path in here.parent.glob("*.py") if _is_script(path))
    sys.exit(f"{here.name}: holds what the examples share; run one of {', '.join(scripts)}")


def _is_script(path: Path) -> bool:
    return "\ndef main(" in path.read_text(encoding="utf-8")


def writable_folder(text: str) -> Path:
    """An output folder, made now, so that a long run does not end in an error."""
    from nc_jax.paths import local_path

    if not text:
        raise argparse.ArgumentTypeError("empty: give the name of a folder")
    try:
        path = local_path(text, "folder")
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
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


def table(columns: Sequence[str] | Mapping[str, str], rows: list[list[str]]) -> str:
    """Right-aligned columns with a rule under the header, and below what the columns mean.

    Args: `columns`, their headings, or what each means by its heading, empty where it says so.
    """
    header = list(columns)
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    top = "  ".join(cell.rjust(w) for cell, w in zip(header, widths, strict=True))
    meanings = dict(columns) if isinstance(columns, Mapping) else {}
    text = "; ".join(f"{heading}: {meaning}" for heading, meaning in meanings.items() if meaning)
    below = textwrap.wrap(text, max(len(top), 100), break_on_hyphens=False)
    return "\n".join([top, "-" * len(top), *lines, *below])


def nearest(grid: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Indices of the grid's entries nearest to the wanted ones, without repeats."""
    return np.unique(np.abs(np.asarray(grid)[:, None] - wanted).argmin(axis=0))


if __name__ == "__main__":
    refuse_to_run(__file__)
