"""What the examples on CNNs share: flags, data, networks, the model's prediction, a table."""

import functools
import math
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from flax import nnx
from script import (
    Parser,
    add_dataset_flags,
    add_output_flags,
    check_seeds_and_stores,
    configure_jax,
    folder_name,
    refuse_to_run,
    table,
    writable_folder,
)

import nc_jax as nc
from nc_jax import cnn, images

NETWORKS = ("convnet", "vgg13", "resnet18", "resnet50")
# What the columns of the tables mean, by variable; accuracies and losses say it themselves.
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
    "margin_min": "the smallest of the training samples",
    "margin_mean": "mean over the training samples",
    "norm_product": "of the Frobenius norms of all weight matrices",
}  # fmt: skip
# Samples of a class in the model's flow: more cost time and change little but the clock. And the
# log10 of the time it is followed to.
MODEL_SAMPLES, MODEL_TIME = 10, 4


def add_flags(parser: Parser, out: str, **defaults: object) -> None:
    """Flags of a training; `defaults` by name where a script has its own.

    Of those here digits collapse: without so much decay they take thousands of epochs.
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
                        help="training images of each class, the first of them "
                        f"({defaults.get('samples', 'all')})")  # fmt: skip
    add("net", "network", choices=NETWORKS)
    add("width", "multiplies the channels of its layers", type=float)
    parser.add_argument("--d", type=int, help="feature dimension (the network's own)")
    parser.add_argument("--stem", choices=("7x7", "3x3"),
                        help="of a ResNet (7x7, of images under 28 pixels 3x3)")  # fmt: skip
    add("epochs", "passes over the images", type=int)
    batch = settings["batch"]
    parser.add_argument("--batch", type=int,
                        help=f"images a step ({batch}, or all where there are fewer)")  # fmt: skip
    parser.set_defaults(largest_batch=batch)
    add("rate", "learning rate at the start", type=float)
    add("schedule", "how it falls: never, tenfold after every fifth of the epochs, as a cosine",
        choices=("constant", "steps", "cosine"))  # fmt: skip
    add("momentum", "of SGD", type=float)
    add("decay", "weight decay of all parameters", type=float)
    add("seeds", "networks trained side by side", type=int)
    parser.add_argument("--seed", type=int, default=0, help="of the random key (%(default)s)")
    parser.add_argument("--bf16", action="store_true",
                        help="compute in bfloat16, on accelerators; metrics do not")  # fmt: skip
    parser.add_argument("--out", type=writable_folder, default=out,
                        help="folder for results and figures (%(default)s)")  # fmt: skip
    parser.add_argument("--anew", action="store_true",
                        help="replace the results in OUT instead of going on there")  # fmt: skip
    add_output_flags(parser)


def checked_flags(parser: Parser, arguments: list[str] | None) -> Namespace:
    """The flags, checked; JAX set to float64, in which metrics are then taken."""
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
            f"--stem {flags.stem}: of --net resnet18 and resnet50, and not of {flags.net}."
        )
    for name in ("epochs", "batch"):
        if getattr(flags, name) is not None and getattr(flags, name) < 1:
            parser.error(f"--{name} {getattr(flags, name)}: give an integer >= 1.")
    return flags


def load(
    parser: Parser, flags: Namespace, classes: Sequence[int] | None = None
) -> tuple[images.ImageSet, images.ImageSet]:
    """Training and test images, of some classes, with the mean and spread of channels taken out."""
    try:
        train, test = (
            images.load(flags.dataset, split, flags.folder, flags.download)
            for split in ("train", "test")
        )
        chosen = range(len(train.classes)) if classes is None else classes
        train = images.choose_classes(train, chosen, flags.samples)
        test = images.choose_classes(test, chosen)
        train, test = images.normalize(train, test)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        parser.error(str(error))
    if flags.batch is None:
        flags.batch = min(flags.largest_batch, len(train.labels))
    if flags.batch > len(train.labels):
        parser.error(
            f"--batch {flags.batch}: give an integer up to {len(train.labels)}, the images."
        )
    return train, test


def network(
    flags: Namespace, train: images.ImageSet, **options: object
) -> Callable[[nnx.Rngs], cnn.Network]:
    """The network that the flags name, for these images; `options` go to it too."""
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
            stem = flags.stem or ("7x7" if side >= 28 else "3x3")
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
) -> cnn.Run:
    """A training in a folder of OUT, which resumes there where it was ended."""
    settings = {
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
        # The training speaks of its arguments, which are flags here.
        told = str(error).replace("another path, or resume=False", "another --out, or --anew")
        parser.error(told)
    except nc.Interrupted as stopped:
        sys.exit(f"{parser.prog}: {stopped}")


def schedule(flags: Namespace, train: images.ImageSet, rate: float) -> optax.Schedule:
    """How the learning rate falls, by the flag, from `rate`."""
    steps = steps_per_epoch(flags, train)
    if flags.schedule == "constant":
        return optax.constant_schedule(rate)
    if flags.schedule == "cosine":
        return optax.cosine_decay_schedule(rate, steps * flags.epochs)
    fifth = steps * max(1, flags.epochs // 5)
    return optax.exponential_decay(rate, fifth, 0.1, staircase=True)


def sgd(flags: Namespace, train: images.ImageSet) -> optax.GradientTransformation:
    """SGD with the momentum and the falling rate of the flags."""
    return optax.sgd(schedule(flags, train, flags.rate), flags.momentum)


def steps_per_epoch(flags: Namespace, train: images.ImageSet) -> int:
    """Batches of an epoch."""
    return len(train.labels) // flags.batch


def model(run: xr.Dataset, shape: tuple[int, ...], decay: float) -> nc.Trajectory:
    """The flow of the unconstrained-features model of (K, d) on the clock of a run.

    Ji's model without decay, else Zhu's, with λ for the classifier and, since a network's features
    are not penalised one by one, λ/N for features; no bias. Features move freely there, so epochs
    say nothing of its time: that at which the nearest class mean decides as the classifier does, on
    all samples, is laid onto the epoch at which the network's does. Eight starts.
    """
    num_classes, feature_dim = shape
    count = MODEL_SAMPLES * num_classes
    problem = nc.UnconstrainedFeatures(
        (MODEL_SAMPLES,) * num_classes, feature_dim,
        weight_decay=nc.WeightDecay(classifier=decay, features=decay / count),
    )  # fmt: skip
    save_at = nc.log_times(MODEL_TIME, 201)

    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(0), seed))(jnp.arange(8))
    flows = nc.Flow(problem, save_at, rtol=1e-6).batch(jax.vmap(problem.init)(keys), throw=False)
    mismatch = np.median(np.asarray(flows.observables["papyan_ncc_mismatch"]), axis=0)
    of_run = run["papyan_ncc_mismatch"].median("seed").values
    epoch = run["epoch"].values[_first_zero(of_run)]
    return flows.with_time_scaled(max(epoch, 1) / math.expm1(save_at[_first_zero(mismatch)]))


def _first_zero(values: np.ndarray) -> int:
    """Where there is none, the last place."""
    zero = np.flatnonzero(values == 0)
    return int(zero[0]) if zero.size else len(values) - 1


def show(runs: Mapping[str, xr.Dataset], variables: Mapping[str, str]) -> str:
    """A row for each run with medians over seeds at its last epoch; `variables` by heading."""
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
