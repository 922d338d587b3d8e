"""Shared by the scripts on Rangamani et al.: flags, and two or more classes of an image set."""

import math
from argparse import Namespace
from pathlib import Path

import numpy as np
from script import (
    Parser,
    add_dataset_flags,
    add_output_flags,
    check_seeds_and_stores,
    refuse_to_run,
)

from nc_jax import images


def add_data_flags(parser: Parser, classes: list[int], samples: int) -> None:
    """`--dataset`, `--folder`, `--download`, `--classes` and `--samples`."""
    add = parser.add_argument
    listed = " ".join(map(str, classes))
    add_dataset_flags(parser)
    add("--classes", type=int, nargs=len(classes), default=classes,
        help=f"classes of the images ({listed})")  # fmt: skip
    add("--samples", type=int, default=samples, argument="samples_per_class",
        help="training images of each class, the first of them (%(default)d)")  # fmt: skip


def add_run_flags(parser: Parser, seeds: int, starts: str, out: str) -> None:
    """`--widths`, `--seeds` (whose help text is `starts`), `--seed` and the flags of the output."""
    add = parser.add_argument
    add("--widths", type=int, nargs="+", default=[16, 16], help="hidden layers (16 16)")
    add("--seeds", type=int, default=seeds, help=f"{starts} (%(default)d)")
    add("--seed", type=int, default=0, help="number of the first start (%(default)d)")
    add_output_flags(parser, out)


def checked_flags(
    parser: Parser, arguments: list[str] | None, above_zero: tuple[str, ...]
) -> Namespace:
    """The parsed flags.

    The flags in `above_zero` must be finite and positive, the seeds must fit a random key, and no
    file may be in the place of a store in OUT.
    """
    flags = parser.parse_args(arguments)
    flags.out = Path(flags.out)
    for name in above_zero:
        if not 0 < getattr(flags, name) < math.inf:
            parser.error(f"--{name} {getattr(flags, name):g}: give a finite number > 0.")
    check_seeds_and_stores(parser, flags)
    return flags


def load(parser: Parser, flags: Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training inputs and targets, test inputs and targets.

    Targets are ±1 for two classes and one-hot for more.
    """
    try:
        parts = []
        for split in ("train", "test"):
            found = images.load(flags.dataset, split, folder=flags.folder, download=flags.download)
            each = flags.samples if split == "train" else None
            if len(flags.classes) == 2:
                # `two_classes` counts the images of both classes together.
                negative, positive = flags.classes
                both = None if each is None else 2 * each
                parts.append(images.two_classes(found, negative, positive, num_samples=both))
            else:
                parts.append(images.several_classes(found, flags.classes, samples_per_class=each))
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        parser.refuse(error)
    (inputs, targets), (test_inputs, test_targets) = parts
    inputs, test_inputs = images.unit_ball(inputs, test_inputs)
    return inputs, targets, test_inputs, test_targets


if __name__ == "__main__":
    refuse_to_run(__file__)
