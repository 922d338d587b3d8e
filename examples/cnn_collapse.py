"""Neural collapse of a CNN on real images, compared with the flow of the model that explains it.

Trains a network by SGD, evaluates the features of the whole training set at log-spaced epochs, and
draws the four measures of Ji et al. (their figures 1 and 3 to 8), NC1 and the accuracy with the
flow of the unconstrained-features model of as many classes and dimensions. The results are in OUT;
the same command resumes a training that was interrupted. With the defaults the digits of
scikit-learn collapse in about a minute. For other images the defaults of rate, momentum, decay and
schedule are those of the paper: 0.01, 0.3, none, constant. Its runs are --dataset mnist or
fashion-mnist, --net resnet18 or vgg13.
"""

from argparse import Namespace

from image_runs import (
    add_flags,
    checked_flags,
    load,
    model,
    network,
    sgd,
    show,
    steps_per_epoch,
    train,
)
from script import Parser, run_script, save_figure

JI = {"rate": 0.01, "momentum": 0.3, "decay": 0.0, "schedule": "constant"}
COLUMNS = {
    "train accuracy": "train_accuracy", "test accuracy": "test_accuracy", "loss": "train_loss",
    "NC1": "zhu_nc1", "within class": "ji_within_class_variation",
    "cosines": "ji_feature_cosine_gap", "self-duality": "ji_self_duality", "margin": "margin_min",
}  # fmt: skip


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags; for other images than digits the settings of the paper are the defaults."""
    parser = Parser(description=__doc__)
    add_flags(parser, "results/cnn_collapse")
    # Parsed twice: the defaults of the other flags depend on the data set.
    known, _ = parser.parse_known_args(arguments)
    if known.dataset != "digits":
        parser.set_defaults(**JI)
    return parser, checked_flags(parser, arguments)


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Train, print, save."""
    data = load(parser, flags)
    steps = steps_per_epoch(flags, data[0])
    print(
        f"{flags.net} on {len(data[0].labels)} images of {flags.dataset}, {steps} steps an epoch. "
        "Compilation comes first.",
        flush=True,
    )
    make = network(flags, data[0])
    optimizer = sgd(flags, data[0])
    training = train(parser, flags, "run", make, data, optimizer)
    print(show({flags.net: training.data}, COLUMNS))
    if not flags.no_plot:
        from nc_jax import plotting

        predicted = model(training, flags.decay)
        panels = {
            **plotting.JI_PANELS, "NC1 (Zhu)": ("zhu_nc1",), "Training loss": ("train_loss",),
            "Accuracy": ("train_accuracy", "test_accuracy"),
            "NC4 (Papyan)": ("papyan_ncc_mismatch",),
        }  # fmt: skip
        name = f"{flags.net}, {flags.dataset}"
        figure = plotting.training_figure({name: training.data}, panels, models={name: predicted})
        print(f"figure: {flags.out / save_figure(flags, figure, 'cnn_collapse')}")
    print(f"results: {flags.out / 'run' / 'results.zarr'}")


if __name__ == "__main__":
    main()
