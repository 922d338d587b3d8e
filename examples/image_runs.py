"""Code that the examples on CNNs share: flags, data, networks, the flow of the model, a table."""

import functools
import math
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import xarray as xr
from script import (
    Parser,
    add_dataset_flags,
    add_output_flags,
    check_seeds_and_stores,
    configure_jax,
    folder_name,
    refuse_to_run,
    table,
)

import nc_jax as nc

try:
    from flax import nnx

    from nc_jax import cnn, images
except ModuleNotFoundError as error:
    # `--help` too needs the package: its defaults are those of the networks.
    print(f'{Path(sys.argv[0]).name}: {error}; run pip install ".[cnn]"', file=sys.stderr)
    raise SystemExit(2) from None

NETWORKS = ("convnet", "vgg13", "resnet18", "resnet50")
STEMS = {"7x7": cnn.ImageNetStem(), "3x3": cnn.CIFARStem()}
# Explanations of the columns of the tables by variable; accuracies and losses need none.
MEANINGS = {
    "zhu_nc1": "spread within classes over that between them, tr(S_W S_B^+)/K",
    "papyan_nc1": "spread within classes over that between them, tr(S_W S_B^+)",
    "zhu_nc2": "distance of the classifiers' Gram matrix from a simplex frame's",
    "zhu_nc3": "distance of classifiers times class means from it",
    "zhu_nc4": "norm of the logits at the mean of all features",
    "ji_within_class_variation": "distance of features from their class mean over that from the "
    "mean of all",
    "ji_feature_cosine_gap": "mean |cosine + 1/(K-1)| of class means",
    "ji_self_duality": "mean distance between directions of class means and classifiers",
    "margin_min": "the smallest margin of a training image",
    "margin_mean": "mean margin over the training images",
    "norm_product": "product of the Frobenius norms of all weight matrices",
}  # fmt: skip


def add_flags(parser: Parser, out: str, **defaults: object) -> None:
    """Add the flags of a training; `defaults` replace the default values below by name.

    With the values below a training on digits collapses; with less decay it needs thousands of
    epochs.
    """
    settings = {
        "net": "convnet", "epochs": 200, "batch": 128, "rate": 0.02, "momentum": 0.9,
        "decay": 0.02, "schedule": "cosine", "seeds": 1, "width": 1.0, **defaults,
    }  # fmt: skip

    def add(name: str, help: str, **options: Any) -> None:
        help = f"{help} (%(default)s)"
        parser.add_argument(f"--{name}", default=settings.get(name), help=help, **options)

    add_dataset_flags(parser)
    parser.add_argument("--samples", type=int, default=defaults.get("samples"),
                        argument="samples_per_class",
                        help="training images of each class, the first of them "
                        f"({defaults.get('samples', 'all')})")  # fmt: skip
    add("net", "network", choices=NETWORKS)
    add("width", "factor of the channels of its layers", type=float)
    parser.add_argument("--d", type=int, argument="feature_dim",
                        help="feature dimension (that of the published network)")  # fmt: skip
    parser.add_argument("--stem", choices=tuple(STEMS),
                        help="stem of a ResNet (7x7; 3x3 for images under 28 pixels)")  # fmt: skip
    add("epochs", "passes over the images", type=int, argument="num_epochs")
    batch = settings["batch"]
    parser.add_argument("--batch", type=int, argument="batch_size",
                        help=f"images per step ({batch}, or all if there are fewer)")  # fmt: skip
    # `load` sets the batch size of a small data set, whose size is not known before.
    parser.set_defaults(largest_batch=batch)
    add("rate", "learning rate at the start", type=float)
    add("schedule", "schedule of the rate: constant, steps (divided by ten after each fifth of the "
        "epochs), or cosine", choices=("constant", "steps", "cosine"))  # fmt: skip
    add("momentum", "momentum of SGD", type=float)
    add("decay", "weight decay of all parameters", type=float, argument="weight_decay")
    add("seeds", "number of networks", type=int, argument="num_seeds")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random key (%(default)s)")
    parser.add_argument("--bf16", action="store_true",
                        help="compute in bfloat16, except metrics; for accelerators")  # fmt: skip
    parser.add_argument("--anew", action="store_true", argument="resume",
                        help="replace the results in OUT instead of resuming there")  # fmt: skip
    add_output_flags(parser, out)


def checked_flags(parser: Parser, arguments: list[str] | None) -> Namespace:
    """The checked flags. JAX is set to float64, in which metrics are then computed."""
    flags = parser.parse_args(arguments)
    configure_jax()
    flags.out = Path(flags.out)
    check_seeds_and_stores(parser, flags)
    for name in ("rate", "width"):
        if not 0 < getattr(flags, name) < math.inf:
            parser.error(f"--{name} {getattr(flags, name):g}: give a finite number > 0.")
    if not 0 <= flags.momentum < 1:
        parser.error(f"--momentum {flags.momentum:g}: give a number from 0 to below 1.")
    if not 0 <= flags.decay < math.inf:
        parser.error(f"--decay {flags.decay:g}: give a finite number >= 0.")
    if flags.d is not None and flags.d < 1:
        parser.error(f"--d {flags.d}: give an integer >= 1.")
    if flags.stem and not flags.net.startswith("resnet"):
        parser.error(
            f"--stem {flags.stem}: {flags.net} has no stem; give --net resnet18 or resnet50."
        )
    for name in ("epochs", "batch"):
        if getattr(flags, name) is not None and getattr(flags, name) < 1:
            parser.error(f"--{name} {getattr(flags, name)}: give an integer >= 1.")
    return flags


def load(
    parser: Parser, flags: Namespace, *, classes: Sequence[int] | None = None
) -> tuple[images.ImageSet, images.ImageSet]:
    """Normalised training and test images, of all classes or some; sets the batch size."""
    train, test = load_images(parser, flags, classes=classes)
    if flags.batch is None:
        flags.batch = min(flags.largest_batch, len(train.labels))
    if flags.batch > len(train.labels):
        parser.error(
            f"--batch {flags.batch}: give an integer up to {len(train.labels)}, the images."
        )
    return train, test


def load_images(
    parser: Parser, flags: Namespace, *, classes: Sequence[int] | None = None
) -> tuple[images.ImageSet, images.ImageSet]:
    """Normalised training and test images, of all classes or some."""
    try:
        train, test = (
            images.load(flags.dataset, split, folder=flags.folder, download=flags.download)
            for split in ("train", "test")
        )
        chosen = range(len(train.classes)) if classes is None else classes
        train = images.choose_classes(train, chosen, samples_per_class=flags.samples)
        test = images.choose_classes(test, chosen)
        train, test = images.normalize(train, test)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        parser.refuse(error)
    return train, test


def network(
    flags: Namespace, train: images.ImageSet, **options: object
) -> Callable[[nnx.Rngs], cnn.Network]:
    """The function that builds the network which the flags name; `options` are its arguments."""
    side, channels = train.images.shape[1], train.images.shape[3]
    common = {"dtype": jnp.bfloat16 if flags.bf16 else jnp.float32, **options}
    if flags.net == "convnet":
        widths = [max(1, round(base * flags.width)) for base in (32, 64, 128)]
        widths[-1] = widths[-1] if flags.d is None else flags.d
        if "feature_dim" in common:
            widths[-1] = common.pop("feature_dim")
        common["widths"] = tuple(widths)
        kind = cnn.ConvNet
    else:
        common = {"width": flags.width, "feature_dim": flags.d, **common}
        kind = cnn.VGG
        if flags.net != "vgg13":
            stem = STEMS[flags.stem or ("7x7" if side >= 28 else "3x3")]
            common |= {"depth": int(flags.net.removeprefix("resnet")), "stem": stem}
            kind = cnn.ResNet
    return functools.partial(_build, kind, channels, len(train.classes), common)


def _build(kind, channels: int, num_classes: int, options: dict, rngs: nnx.Rngs) -> cnn.Network:
    return kind(channels, num_classes, **options, rngs=rngs)


def train(
    parser: Parser,
    flags: Namespace,
    name: str,
    make: Callable[[nnx.Rngs], cnn.Network],
    data: tuple[images.ImageSet, images.ImageSet],
    optimizer: optax.GradientTransformation,
    **options: object,
) -> cnn.TrainedNetworks:
    """A training whose results are in a folder of OUT; an interrupted one resumes from there."""
    settings = {
        # The numbers of an optimiser are hidden in closures; as attributes they are compared, and a
        # difference is named, before a store is resumed.
        "attributes": {name: getattr(flags, name) for name in ("rate", "momentum", "schedule")},
        "num_epochs": flags.epochs, "batch_size": flags.batch, "weight_decay": flags.decay,
        "num_seeds": flags.seeds, "key": jax.random.key(flags.seed), **options,
    }  # fmt: skip
    print(f"{name}:", flush=True)
    try:
        return cnn.train(
            make, data[0], optimizer, test=data[1], path=flags.out / folder_name(name),
            resume=not flags.anew, **settings,
        )  # fmt: skip  # pyright: ignore[reportArgumentType]
    except (ValueError, RuntimeError, OSError) as error:
        parser.refuse(error)
    except nc.Interrupted as stopped:
        sys.exit(f"{parser.prog}: {stopped}")


def schedule(flags: Namespace, train: images.ImageSet, rate: float) -> optax.Schedule:
    """The schedule of the learning rate that the flags name; its first value is `rate`."""
    steps = steps_per_epoch(flags, train)
    if flags.schedule == "constant":
        return optax.constant_schedule(rate)
    if flags.schedule == "cosine":
        return optax.cosine_decay_schedule(rate, steps * flags.epochs)
    fifth = steps * max(1, flags.epochs // 5)
    return optax.exponential_decay(rate, fifth, 0.1, staircase=True)


def sgd(flags: Namespace, train: images.ImageSet) -> optax.GradientTransformation:
    """SGD with the momentum and the schedule of the flags."""
    return optax.sgd(schedule(flags, train, flags.rate), flags.momentum)


def steps_per_epoch(flags: Namespace, train: images.ImageSet) -> int:
    """Number of batches in an epoch."""
    return len(train.labels) // flags.batch


def model(run: cnn.TrainedNetworks, decay: float) -> nc.Trajectory:
    """The flow of the unconstrained-features model of a network, with time measured in epochs."""
    num_classes, feature_dim = run.network().head.classifier.shape
    return cnn.model_flow(
        run.data, cnn.model_of_network(num_classes, feature_dim, weight_decay=decay)
    )


def show(runs: Mapping[str, xr.Dataset], variables: Mapping[str, str]) -> str:
    """A table of medians over seeds at the last epoch, a row for each run.

    Args: `variables`: the name of a variable for each column, by the heading of the column.
    """
    rows = []
    for name, data in runs.items():
        last = data.isel(epoch=-1).median("seed", skipna=True)
        rows.append([name, *(_shown(heading, last[key]) for heading, key in variables.items())])
    meanings = {heading: MEANINGS.get(key, "") for heading, key in variables.items()}
    return table({"run": "medians over seeds at the last epoch", **meanings}, rows)


def _shown(heading: str, value: xr.DataArray) -> str:
    return f"{100 * float(value):.2f} %" if "accuracy" in heading else f"{float(value):.3g}"


if __name__ == "__main__":
    refuse_to_run(__file__)
