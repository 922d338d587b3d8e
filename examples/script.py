"""Shared by the example scripts: flags, one-line errors, settings of JAX, tables and results."""

import argparse
import contextlib
import math
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

# Formats of saved figures.
FORMATS = ("png", "pdf", "svg")


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one line with exit code 2; flags cannot be abbreviated."""

    def __init__(self, *, description: str | None = None) -> None:
        # The flag that sets an argument of the library, by the name of the argument.
        self._flags: dict[str, str] = {}
        super().__init__(description=description, allow_abbrev=False)
        # The stream of errors, so that they are printed also while `output` redirects stderr.
        self._errors = sys.stderr

    def add_argument(self, *names: str, argument: str = "", **options: Any) -> argparse.Action:
        """Add a flag; `argument` is the name of the library's argument, if it differs."""
        action = super().add_argument(*names, **options)
        self._flags[argument or action.dest] = names[0]
        return action

    def refuse(self, error: Exception) -> NoReturn:
        """Exit with an error of the library as message.

        Before it are the flags that set the arguments which the error names.
        """
        arguments = getattr(error, "arguments", ())
        flags = [self._flags[argument] for argument in arguments if argument in self._flags]
        self.error(": ".join(filter(None, [", ".join(flags), str(error)])))

    def error(self, message: str) -> NoReturn:
        """Print the message alone; argparse would print the usage above it."""
        print(f"{self.prog}: {message}", file=self._errors)
        sys.exit(2)


def add_dataset_flags(parser: Parser) -> None:
    """`--dataset`, `--folder` and `--download`."""
    from nc_jax import images

    add = parser.add_argument
    add("--dataset", type=images.standard_name, choices=images.NAMES, default="digits",
        help="image set (%(default)s)")  # fmt: skip
    add("--folder", type=Path, help="folder with the files of the data set, if it needs one")
    add("--download", action="store_true",
        help="download the published files if they are not in the folder")  # fmt: skip


def add_model_flags(
    parser: Parser, *, num_classes: int, feature_dim: int, samples_per_class: int
) -> None:
    """`--K`, `--d` and `--n` of a model with balanced classes, with their defaults."""
    add = parser.add_argument
    add("--K", type=int, default=num_classes, argument="num_classes",
        help="classes (%(default)s)")  # fmt: skip
    add("--d", type=int, default=feature_dim, argument="feature_dim",
        help="feature dimension (%(default)s)")  # fmt: skip
    add("--n", type=int, default=samples_per_class, argument="samples_per_class",
        help="samples of each class (%(default)s)")  # fmt: skip


def add_output_flags(parser: Parser, out: str, *, contents: str = "results and figures") -> None:
    """`--out`, a folder for the contents, `--no-plot`, `--format` and `--quiet`."""
    add = parser.add_argument
    add("--out", type=writable_folder, default=out, argument="path",
        help=f"folder for {contents} (%(default)s)")  # fmt: skip
    add("--no-plot", action="store_true", help="save no figure")
    add("--format", choices=FORMATS, default="png", help="format of the figures (%(default)s)")
    add("--quiet", action="store_true", help="print only errors")


def run_script(
    parse: Callable[[list[str] | None], tuple[Parser, argparse.Namespace]],
    run: Callable[[Parser, argparse.Namespace], None],
    arguments: list[str] | None,
) -> None:
    """Parse the flags, then run; `--quiet` suppresses prints and progress bars.

    Ctrl-C ends a run with one line and the usual exit code 130. Stored results stay.
    """
    parser, flags = parse(arguments)
    try:
        with output(flags):
            run(parser, flags)
    except KeyboardInterrupt as interrupt:
        # The library's interrupts name what is saved; Python's have no message.
        saved = str(interrupt) or "interrupted; files that were written before are unchanged"
        print(f"\n{parser.prog}: {saved}", file=sys.stderr)
        sys.exit(130)


@contextlib.contextmanager
def output(flags: argparse.Namespace) -> Iterator[None]:
    """Suppress output and progress bars if `--quiet` is given; errors of a parser are printed."""
    with contextlib.ExitStack() as stack:
        if flags.quiet:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


def attributes_of(flags: argparse.Namespace) -> dict[str, str]:
    """The flags as texts, for the attributes of a data set."""
    return {flag: str(value) for flag, value in vars(flags).items()}


def save_results(
    flags: argparse.Namespace,
    results: "Mapping[str, xr.Dataset]",
    draw: Callable[[], "Mapping[str, Figure]"],
) -> None:
    """Save data sets and figures in OUT, and print the names of the files.

    Args:
        results: the data sets by the names of their stores, without ".zarr". They are saved with
            the flags as attributes.
        draw: returns the figures by the names of their files, without the ending. It is called
            after the data sets are saved, and not at all with `--no-plot`.
    """
    from nc_jax import storage

    for name, data in results.items():
        storage.save(data.assign_attrs(attributes_of(flags)), flags.out / f"{name}.zarr")
    save_figures(flags, draw, saved=[f"{name}.zarr" for name in results])


def save_figures(
    flags: argparse.Namespace, draw: Callable[[], "Mapping[str, Figure]"], *, saved: Sequence[str]
) -> None:
    """The last part of `save_results`, for scripts that save their results earlier.

    Args: `draw` as there; `saved`, the names of the files that are in OUT already.
    """
    figures = {} if flags.no_plot else draw()
    files = [*saved, *(save_figure(flags, figure, name) for name, figure in figures.items())]
    print(f"\nsaved in {flags.out}: {', '.join(files)}")


def save_figure(flags: argparse.Namespace, figure: "Figure", name: str) -> str:
    """Save a figure in OUT in the format that the flags give; returns its file name."""
    file = f"{name}.{flags.format}"
    figure.savefig(flags.out / file)
    return file


def folder_name(title: str) -> str:
    """A title as the name of a folder; other characters than letters, digits and .+- become "_".

    Example: `folder_name("fixed ETF, d = K")` is "fixed_ETF_d_K".
    """
    words = title.replace("%", "percent").replace("λ", "lambda")
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", words).strip("_")


def refuse_to_run(file: str) -> NoReturn:
    """Exit with a line that names the scripts; for a module that is not a script."""
    here = Path(file)
    scripts = sorted(path.name for path in here.parent.glob("*.py") if _is_script(path))
    sys.exit(f"{here.name}: is a module that the examples share; run one of {', '.join(scripts)}")


def _is_script(path: Path) -> bool:
    return "\ndef main(" in path.read_text(encoding="utf-8")


def writable_folder(text: str) -> Path:
    """An output folder, which is created and tested before the run and not at its end."""
    from nc_jax.paths import local_path

    if not text:
        raise argparse.ArgumentTypeError("empty: give the name of a folder")
    try:
        path = local_path(text, name="folder")
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
    """Compute in float64, and store compiled programs, which the next run then loads."""
    import jax

    import nc_jax

    jax.config.update("jax_enable_x64", True)
    nc_jax.cache_programs()


def check_seed(parser: Parser, flags: argparse.Namespace) -> None:
    """Refuse a seed that a random key cannot hold."""
    if not 0 <= flags.seed < 2**32:
        parser.error(f"--seed {flags.seed}: give an integer from 0 to 4294967295.")


def check_seeds_and_stores(parser: Parser, flags: argparse.Namespace) -> None:
    """Refuse seeds that a random key cannot hold, and files in the places of the stores."""
    if flags.seeds < 1:
        parser.error(f"--seeds {flags.seeds}: give an integer >= 1.")
    if not 0 <= flags.seed < 2**32 - flags.seeds:
        parser.error(f"--seed {flags.seed}: give an integer from 0 to 4294967295 - SEEDS.")
    for store in ("flow.zarr", "descent.zarr"):
        if (flags.out / store).is_file():
            parser.error(f"--out {flags.out}: {store} there is a file; give another folder.")


def number(log10_value: float) -> str:
    """A positive number as text, from its log10, which may be far outside the range of floats."""
    if not math.isfinite(log10_value):
        return "0" if log10_value < 0 else str(log10_value)
    if -3 <= log10_value < 4:
        return f"{10**log10_value:.4g}"
    # 0.002 is added before the exponent is split off: 10^3 less a rounding error would otherwise be
    # shown as 10.00e+2.
    exponent = math.floor(log10_value + 0.002)
    return f"{max(1.0, 10 ** (log10_value - exponent)):.2f}e{exponent:+d}"


def table(columns: Sequence[str] | Mapping[str, str], rows: list[list[str]]) -> str:
    """A table of right-aligned columns, with the meanings of the columns below.

    Args:
        columns: the headings, or a dict from headings to meanings; an empty meaning is left out.
        rows: the cells.
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
    """Indices of the entries of a grid that are nearest to the wanted values, without repeats."""
    return np.unique(np.abs(np.asarray(grid)[:, None] - wanted).argmin(axis=0))


if __name__ == "__main__":
    refuse_to_run(__file__)
