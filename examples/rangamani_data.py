"""What the examples on Rangamani et al. share: two or more classes of an image set, as flags."""

import math
from argparse import Namespace
from pathlib import Path

import numpy as np
from script import Parser, check_seeds_and_stores, writable_folder

from nc_jax import images

SETS = ("digits", "fashion-mnist")


def add_data_flags(parser: Parser, classes: list[int], samples: int) -> None:
    """`--data`, `--folder`, `--classes` and `--samples`."""
    add = parser.add_argument
    listed = " ".join(map(str, classes))
    add("--data", choices=SETS, default="digits",
        help="digits, of scikit-learn, or fashion-mnist, from disk (%(default)s)")  # fmt: skip
    add("--folder", type=Path, help="of the IDX files of fashion-mnist, where Debian's package "
        "dataset-fashion-mnist is not installed")  # fmt: skip
    add("--classes", type=int, nargs=len(classes), default=classes,
        help=f"classes told apart ({listed})")  # fmt: skip
    add("--samples", type=int, default=samples,
        help="training samples of all classes together (%(default)d)")  # fmt: skip


def add_run_flags(parser: Parser, seeds: int, starts: str, out: str) -> None:
    """`--widths`, `--seeds`, `--seed`, `--no-plot` and `--out`; `starts` says what seeds count."""
    add = parser.add_argument
    add("--widths", type=int, nargs="+", default=[16, 16], help="of the hidden layers (16 16)")
    add("--seeds", type=int, default=seeds, help=f"{starts} (%(default)d)")
    add("--seed", type=int, default=0, help="number of the first start (%(default)d)")
    add("--no-plot", action="store_true", help="save no figure")
    add("--out", type=writable_folder, default=out,
        help="folder for results and figures (%(default)s)")  # fmt: skip


def parse_flags(
    parser: Parser, arguments: list[str] | None, above_zero: tuple[str, ...]
) -> Namespace:
    """The flags, with what both examples check: those named are above 0, seeds are seeds."""
    flags = parser.parse_args(arguments)
    flags.out = Path(flags.out)
    for name in above_zero:
        if not 0 < getattr(flags, name) < math.inf:
            parser.error(f"--{name} {getattr(flags, name):g}: give a finite number > 0.")
    check_seeds_and_stores(parser, flags)
    return flags


def load(parser: Parser, flags: Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training inputs and targets, test inputs and targets; ±1 for two classes, else one-hot."""
    try:
        parts = []
        for split in ("train", "test"):
            if flags.data == "digits":
                found = images.load_digits(split)
            else:
                found = images.load_fashion_mnist(split, flags.folder)
            count = flags.samples if split == "train" else None
            if len(flags.classes) == 2:
                negative, positive = flags.classes
                parts.append(images.two_classes(found, negative, positive, count))
            else:
                each = None if count is None else count // len(flags.classes)
                parts.append(images.several_classes(found, flags.classes, each))
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))
    (inputs, targets), (test_inputs, test_targets) = parts
    inputs, test_inputs = images.unit_ball(inputs, test_inputs)
    return inputs, targets, test_inputs, test_targets
