"""Neural collapse on random labels, for networks of several widths (Zhu et al., figure 4).

A network that is wide enough fits random labels with zero training error, and its features collapse
as they do on true labels. Draws NC1 to NC3 and the training accuracy by width. The paper's setting
on other images: --dataset fashion-mnist --net resnet18 --samples 6000 --decay 1e-4 --rate 0.01
--batch 64 --schedule steps.
"""

import math
from argparse import Namespace

from image_runs import add_flags, checked_flags, load, network, sgd, show, train
from script import Parser, run_script, save_figure

from nc_jax import images

COLUMNS = {
    "train accuracy": "train_accuracy", "loss": "train_loss", "NC1": "zhu_nc1", "NC2": "zhu_nc2",
    "NC3": "zhu_nc3", "margin": "margin_min",
}  # fmt: skip


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    add_flags(parser, "results/zhu_random_labels", rate=0.05, decay=5e-4, epochs=300, samples=50)
    add = parser.add_argument
    add("--widths", type=float, nargs="+", default=[0.125, 0.25, 0.5, 1],
        help="widths of the network, which replace --width (0.125 0.25 0.5 1)")  # fmt: skip
    add("--share", type=float, default=1.0, help="share of labels that are random (%(default)g)")
    flags = checked_flags(parser, arguments)
    finite = all(0 < width < math.inf for width in flags.widths)
    if not finite or len(set(flags.widths)) < len(flags.widths):
        parser.error(f"--widths {flags.widths}: give finite numbers > 0, each once.")
    return parser, flags


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Train, print, save."""
    data = load(parser, flags)
    try:
        data = (images.random_labels(data[0], flags.share, flags.seed), data[1])
    except ValueError as error:
        parser.refuse(error)
    runs, optimizer = {}, sgd(flags, data[0])
    for width in flags.widths:
        # Names have 15 digits, so that widths that are close have different names and folders.
        make = network(Namespace(**{**vars(flags), "width": width}), data[0])
        runs[f"width {width:.15g}"] = train(
            parser, flags, f"width {width:.15g}", make, data, optimizer
        ).data
    print(show(runs, COLUMNS))
    if not flags.no_plot:
        from nc_jax import plotting

        panels = {
            **{title: plotting.ZHU_PANELS[title] for title in ("NC1", "NC2", "NC3")},
            "Training accuracy": ("train_accuracy",),
        }
        figure = plotting.training_figure(runs, panels)
        print(f"figure: {flags.out / save_figure(flags, figure, 'zhu_random_labels')}")


if __name__ == "__main__":
    main()
