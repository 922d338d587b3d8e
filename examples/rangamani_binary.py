"""Norm, margins and collapse of a CNN under the square loss (Rangamani et al., figures 2 to 17).

Trains the paper's ConvNet on two classes, its weight matrices started at several Frobenius norms,
with and without weight decay and with several seeds, and then with decay on labels of which a share
is random. Draws the product of norms, the loss and the test accuracy by epoch (figures 2 and 14 to
17), sorted margins (3), histograms of margins (4), NC1 and NC2 (6), and all by the share of random
labels (11, 13). The paper's setting on other images: --dataset fashion-mnist --classes 2 4 --norms
0.01 0.1 0.5 1 3 5 10 --seeds 10 --epochs 1000 --batch 128 --rate 0.01 --decay 0.01.
"""

import math
from argparse import Namespace
from collections.abc import Mapping
from typing import TypeVar

import xarray as xr
from image_runs import add_flags, checked_flags, load, network, sgd, show, train
from script import Parser, run_script, save_figure

import nc_jax as nc
from nc_jax import images

Name = TypeVar("Name", str, tuple[str, str])
COLUMNS = {
    "norm product": "norm_product", "loss": "train_loss", "train accuracy": "train_accuracy",
    "test accuracy": "test_accuracy", "margin": "margin_mean", "NC1": "papyan_nc1",
}  # fmt: skip


def runs_of(
    parser, flags, data, settings: Mapping[Name, tuple[float, float, float]]
) -> dict[Name, xr.Dataset]:
    """The data sets of trainings by name; a setting is (start norm, decay, share random labels)."""
    found = {}
    optimizer = sgd(flags, data[0])
    for name, (norm, decay, share) in settings.items():
        train_set = images.random_labels(data[0], share, flags.seed) if share else data[0]
        found[name] = train(
            parser, flags, title(name), network(flags, train_set, weight_norm=norm),
            (train_set, data[1]), optimizer,
            loss=nc.SquaredError(), weight_decay=decay,
        ).data  # fmt: skip
    return found


def title(name: str | tuple[str, str]) -> str:
    """A name of one or two parts as one text."""
    return name if isinstance(name, str) else ", ".join(name)


def check(parser: Parser, flags) -> None:
    """Refuse flags that the package would not refuse."""
    if flags.net != "convnet":
        parser.error(f"--net {flags.net}: the paper's is convnet; give that or none.")
    for name in ("norms", "shares"):
        values = getattr(flags, name)
        if len(set(values)) < len(values):
            parser.error(f"--{name} {' '.join(map(str, values))}: give each once.")
    if not all(0 < norm < math.inf for norm in flags.norms):
        parser.error(f"--norms {flags.norms}: give finite numbers > 0.")
    if not all(0 < share <= 1 for share in flags.shares):
        parser.error(f"--shares {flags.shares}: give numbers above 0, up to 1.")
    if flags.decay == 0:
        parser.error("--decay 0: give a number > 0; runs without decay are added in any case.")


def draw(flags, by_norm, by_share) -> None:
    """Save all figures."""
    from nc_jax import plotting

    panels = {
        "Product of norms ρ": ("norm_product",), "Training loss": ("train_loss",),
        "Test accuracy": ("test_accuracy",), "NC1 (Papyan)": ("papyan_nc1",),
        # NC2 is drawn for the classifiers alone: two centred class means always have equal norms.
        "NC2: norms of classifiers": ("papyan_classifier_equinorm",),
        "Smallest margin": ("margin_min",),
    }  # fmt: skip
    figures = {
        "norms": plotting.training_figure(by_norm, panels),
        "margins": plotting.sorted_margins_figure(by_norm),
        "histograms": plotting.histograms_figure(next(iter(by_norm.values()))),
        "random_labels": plotting.training_figure(by_share, panels),
    }
    for name, figure in figures.items():
        print(f"figure: {flags.out / save_figure(flags, figure, f'rangamani_{name}')}")


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    add_flags(parser, "results/rangamani_binary", batch=32, seeds=3, schedule="constant")
    add = parser.add_argument
    add(
        "--classes",
        type=int,
        nargs=2,
        default=[3, 8],
        help="the two classes (3 8)",
    )
    add("--norms", type=float, nargs="+", default=[0.1, 1.0, 5.0],
        help="Frobenius norms of the weight matrices at the start (0.1 1 5)")  # fmt: skip
    add("--shares", type=float, nargs="+", default=[0.2, 1.0],
        help="shares of random labels, for runs of the first norm (0.2 1)")  # fmt: skip
    flags = checked_flags(parser, arguments)
    check(parser, flags)
    return parser, flags


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Train, print, save."""
    data = load(parser, flags, classes=flags.classes)
    data = images.within_unit_ball(*data)
    # Names have 15 digits, so that norms and shares that are close have different names and
    # folders.
    by_norm = runs_of(parser, flags, data, {
        (f"start {norm:.15g}", f"decay {decay:g}"): (norm, decay, 0.0)
        for decay in (flags.decay, 0.0) for norm in flags.norms
    })  # fmt: skip
    by_share = runs_of(parser, flags, data, {
        f"{100 * share:.15g} % random": (flags.norms[0], flags.decay, share)
        for share in flags.shares
    })  # fmt: skip
    titled = {title(name): data for name, data in by_norm.items()}
    print(show({**titled, **by_share}, COLUMNS))
    if not flags.no_plot:
        true_labels = next(iter(by_norm.values()))
        draw(flags, by_norm, {"true labels": true_labels, **by_share})


if __name__ == "__main__":
    main()
