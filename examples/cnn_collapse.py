"""Collapse of a CNN on real images, beside the flow of the model that explains it.

Trains a network by SGD, looks at its features of the whole training set at log-spaced epochs, and
draws the four measures of Ji et al. (their figures 1 and 3 to 8), NC1 and the accuracy with the
flow of the unconstrained-features model of as many classes and dimensions. A training that was
ended goes on in OUT. The defaults collapse scikit-learn's digits in about a minute; of other images
rate, momentum, decay and schedule are the paper's: 0.01, 0.3, none, constant. Its runs are
--dataset mnist or fashion-mnist, --net resnet18 or vgg13.
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
    """Flags, of other images than digits with the paper's settings as defaults."""
    parser = Parser(__doc__)
    add_flags(parser, "results/cnn_collapse")
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
        "It compiles first.",
        flush=True,
    )
    make = network(flags, data[0])
    optimizer = sgd(flags, data[0])
    training = train(parser, flags, "run", make, data, optimizer)
    print(show({flags.net: training.data}, COLUMNS))
    if not flags.no_plot:
        from nc_jax import plotting

        classifier = training.network().head.classifier
        predicted = model(training.data, classifier.shape, flags.decay)
        panels = {
            **plotting.JI_PANELS, "NC1 (Zhu)": ("zhu_nc1",), "Training loss": ("train_loss",),
            "Accuracy": ("train_accuracy", "test_accuracy"),
            "NC4 (Papyan)": ("papyan_ncc_mismatch",),
        }  # fmt: skip
        name = f"{flags.net}, {flags.dataset}"
        figure = plotting.training_figure({name: training.data}, panels, {name: predicted})
        print(f"figure: {flags.out / save_figure(flags, figure, 'cnn_collapse')}")
    print(f"results: {flags.out / 'run' / 'results.zarr'}")


if __name__ == "__main__":
    main()
