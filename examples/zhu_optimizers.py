"""Neural collapse with three optimisers: SGD, Adam and L-BFGS (Zhu et al., figure 3).

Trains one network with each optimiser and one weight decay. The rates of SGD and Adam fall; L-BFGS
takes large batches and a line search with strong Wolfe conditions. Draws NC1 to NC4 with the flow
of Zhu's model (their eq. 3), dotted, on the clock of SGD. The paper's setting on other images:
--dataset fashion-mnist --net resnet18 --epochs 200 --rate 0.05 --decay 5e-4 --schedule steps.
"""

from argparse import Namespace

import optax
from image_runs import add_flags, checked_flags, load, model, network, schedule, sgd, show, train
from script import Parser, run_script, save_figure

COLUMNS = {
    "train accuracy": "train_accuracy", "test accuracy": "test_accuracy", "loss": "train_loss",
    "NC1": "zhu_nc1", "NC2": "zhu_nc2", "NC3": "zhu_nc3", "NC4": "zhu_nc4",
}  # fmt: skip
# Batch size of L-BFGS, as in the paper: L-BFGS estimates the curvature from gradients of batches.
LARGE_BATCH = 2048


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    add_flags(parser, "results/zhu_optimizers")
    add = parser.add_argument
    add("--adam-rate", type=float, default=0.001, help="learning rate of Adam (%(default)s)")
    add("--lbfgs-epochs", type=int, default=300, help="epochs of L-BFGS (%(default)s)")
    flags = checked_flags(parser, arguments)
    if not 0 < flags.adam_rate < 1:
        parser.error(f"--adam-rate {flags.adam_rate:g}: give a number between 0 and 1.")
    if flags.lbfgs_epochs < 1:
        parser.error(f"--lbfgs-epochs {flags.lbfgs_epochs}: give an integer >= 1.")
    return parser, flags


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Train, print, save."""
    data = load(parser, flags)
    make = network(flags, data[0])
    large = None if len(data[0].labels) <= LARGE_BATCH else LARGE_BATCH
    optimizers = {
        "SGD": (sgd(flags, data[0]), {}),
        "Adam": (
            optax.adam(schedule(flags, data[0], flags.adam_rate)),
            {"attributes": {"adam_rate": flags.adam_rate, "schedule": flags.schedule}},
        ),
        "L-BFGS": (
            optax.lbfgs(memory_size=10),
            {"batch_size": large, "num_epochs": flags.lbfgs_epochs, "attributes": {}},
        ),
    }
    runs = {
        name: train(parser, flags, name, make, data, optimizer, **options)
        for name, (optimizer, options) in optimizers.items()
    }
    datasets = {name: run.data for name, run in runs.items()}
    print(show(datasets, COLUMNS))
    if not flags.no_plot:
        from nc_jax import plotting

        predicted = model(runs["SGD"], flags.decay)
        figure = plotting.training_figure(
            datasets, plotting.ZHU_PANELS, models={"Zhu's model": predicted}
        )
        print(f"figure: {flags.out / save_figure(flags, figure, 'zhu_optimizers')}")


if __name__ == "__main__":
    main()
