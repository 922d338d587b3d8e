"""A classifier that is not learned: a fixed simplex frame, and d = K (Zhu et al., figure 5).

Trains a network three times: with a learned classifier, with the classifier fixed to a simplex ETF,
and with the fixed classifier and as many feature dimensions as classes. Counts the parameters that
this saves, and draws NC1, NC3 and the accuracies. The paper's setting on other images: --dataset
fashion-mnist --net resnet50 --augment --rate 0.05 --decay 5e-4 --schedule steps.
"""

from argparse import Namespace

import jax
from image_runs import add_flags, checked_flags, load, network, sgd, show, train
from script import Parser, run_script, save_figure

from nc_jax import cnn

COLUMNS = {
    "train accuracy": "train_accuracy", "test accuracy": "test_accuracy", "loss": "train_loss",
    "NC1": "zhu_nc1", "NC2": "zhu_nc2", "NC3": "zhu_nc3",
}  # fmt: skip


def parameters(run: cnn.TrainedNetworks) -> int:
    """Number of parameters that one network of a training learns."""
    # The first axis of each array is that of the seeds.
    return sum(leaf[0].size for leaf in jax.tree.leaves(run.state.params))


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    add_flags(parser, "results/zhu_fixed_etf")
    parser.add_argument("--augment", action="store_true", help="crop and mirror images at random")
    flags = checked_flags(parser, arguments)
    if flags.d is not None:
        parser.error(f"--d {flags.d}: leave it out; this script uses that of the network, and K.")
    return parser, flags


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Train, print, save."""
    data = load(parser, flags)
    num_classes = len(data[0].classes)
    heads = {
        "learned": {}, "fixed ETF": {"etf": True},
        "fixed ETF, d = K": {"etf": True, "feature_dim": num_classes},
    }  # fmt: skip
    optimizer = sgd(flags, data[0])
    runs = {
        name: train(
            parser, flags, name, network(flags, data[0], **options), data, optimizer,
            augment=cnn.crop_and_flip if flags.augment else None,
        )
        for name, options in heads.items()
    }  # fmt: skip
    datasets = {name: run.data for name, run in runs.items()}
    print(show(datasets, COLUMNS))
    learned = parameters(runs["learned"])
    for name, run in runs.items():
        count = parameters(run)
        print(f"{name}: {count} parameters, {100 * (1 - count / learned):.2f} % fewer")
    if not flags.no_plot:
        from nc_jax import plotting

        panels = {
            "NC1": ("zhu_nc1",), "NC3": ("zhu_nc3",), "Training accuracy": ("train_accuracy",),
            "Test accuracy": ("test_accuracy",),
        }  # fmt: skip
        figure = plotting.training_figure(datasets, panels)
        print(f"figure: {flags.out / save_figure(flags, figure, 'zhu_fixed_etf')}")


if __name__ == "__main__":
    main()
