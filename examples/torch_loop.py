"""Neural collapse by layer in a plain PyTorch loop, measured while the network trains.

Trains a small convolutional network on the digits of scikit-learn by SGD with momentum 0.9 and a
cosine schedule. A `metrics.Monitor` gets the features of three layers from each batch, by forward
hooks, and adds a row of measures after each epoch to a data set on disk. After the last epoch
`metrics.measure_layers` reads all images twice, for measures that need the final class means, such
as the accuracy of the nearest class mean. Prints a table by layer and saves two figures: measures
by epoch, drawn as those of `cnn_collapse.py`, and measures by depth. With the defaults it takes
half a minute. PyTorch and scikit-learn are needed: pip install torch scikit-learn.
"""

import time
from argparse import Namespace
from typing import Any

import numpy as np
from script import (
    Parser,
    add_output_flags,
    configure_jax,
    run_script,
    save_figure,
    table,
)

from nc_jax import images, metrics

STORE = "torch_loop.zarr"
# Layers whose outputs, and whose inputs, are measured.
OUTPUTS, INPUTS = ("pool1", "pool2"), ("classifier",)
DEPTH = {"pool1": "first block", "pool2": "second block", "classifier": "last layer"}
RANKS = ("roy_effective_rank_features", "rudelson_stable_rank_features")
NAMES = ("zhu_nc1", "zhu_nc2", "zhu_nc3", "zhu_nc4", "cdnv", "ji_feature_cosine_gap", *RANKS)
COLUMNS = {
    "layer": "", "d": "features", "NC1": "tr(Σ_W Σ_B⁺)/K",
    "CDNV": "mean over pairs of classes of variance over squared distance",
    "nearest mean": "share of images whose nearest class mean is that of their class",
    "effective rank": "exp of the entropy of the singular values of the centred features",
    "stable rank": "squared Frobenius norm over squared spectral norm",
}  # fmt: skip


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--epochs", type=int, default=60, help="number of epochs (%(default)s)")
    add("--batch", type=int, default=64, help="images in a batch (%(default)s)")
    add("--rate", type=float, default=0.05, help="learning rate at the start (%(default)g)")
    add("--decay", type=float, default=5e-3, help="weight decay (%(default)g)")
    add("--seed", type=int, default=0, help="seed of weights and batches (%(default)s)")
    add_output_flags(
        parser, "results/torch_loop", contents="results and figures, in the place of those there"
    )
    return parser, parser.parse_args(arguments)


def check(parser: Parser, flags: Namespace) -> None:
    """Refuse flags that PyTorch would not refuse."""
    for name in ("epochs", "batch"):
        if getattr(flags, name) < 1:
            parser.error(f"--{name} {getattr(flags, name)}: give an integer >= 1.")
    for name in ("rate", "decay"):
        if not 0 <= getattr(flags, name) < np.inf:
            parser.error(f"--{name} {getattr(flags, name):g}: give a finite number >= 0.")
    if (flags.out / STORE).is_file():
        parser.error(f"--out {flags.out}: {STORE} there is a file; give another folder.")


def load_torch(parser: Parser) -> Any:
    """PyTorch, which no extra of the package installs."""
    try:
        import torch
    except ModuleNotFoundError:
        parser.error("PyTorch is not installed: pip install torch")
    return torch


def network(torch: Any) -> Any:
    """Two blocks of a convolution, a hidden layer and a classifier for images 8 × 8."""
    nn = torch.nn
    layers = {
        "conv1": nn.Conv2d(1, 16, 3, padding=1), "norm1": nn.BatchNorm2d(16),
        "relu1": nn.ReLU(), "pool1": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(16, 32, 3, padding=1), "norm2": nn.BatchNorm2d(32),
        "relu2": nn.ReLU(), "pool2": nn.MaxPool2d(2), "flatten": nn.Flatten(),
        "hidden": nn.Linear(128, 64), "norm3": nn.BatchNorm1d(64), "relu3": nn.ReLU(),
        "classifier": nn.Linear(64, 10),
    }  # fmt: skip
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model


def train(torch: Any, flags: Namespace, loader: Any, model: Any, monitor: metrics.Monitor) -> None:
    """A usual loop; the lines with `captured` and `monitor` are all that measures need."""
    optimizer = torch.optim.SGD(
        model.parameters(), lr=flags.rate, momentum=0.9, weight_decay=flags.decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, flags.epochs)
    with metrics.capture(model, OUTPUTS, inputs=INPUTS) as captured:
        for epoch in range(1, flags.epochs + 1):
            total, correct, count = 0.0, 0, 0
            for pixels, labels in loader:
                logits = model(pixels)
                loss = torch.nn.functional.cross_entropy(logits, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                monitor.update(captured.features(), labels)
                total += loss.item() * len(labels)
                correct += int((logits.argmax(1) == labels).sum())
                count += len(labels)
            schedule.step()
            values = monitor.result(
                model.classifier.weight, model.classifier.bias, epoch=epoch,
                train_loss=total / count, train_accuracy=correct / count,
            )  # fmt: skip
            if epoch == 1 or epoch % 10 == 0:
                nc1 = values["classifier"]["zhu_nc1"]
                print(f"epoch {epoch:4d}  loss {total / count:.3e}  NC1 {nc1:.3e}", flush=True)


def final_measures(torch: Any, model: Any, loader: Any) -> Any:
    """Measures by layer of all training images under the last weights, in two passes."""

    def to_features(pixels: Any) -> dict[str, Any]:
        with torch.no_grad():
            model(pixels)
        return captured.features()

    names = ("zhu_nc1", "cdnv", "ncc_accuracy", *RANKS)
    model.eval()
    with metrics.capture(model, OUTPUTS, inputs=INPUTS) as captured:
        return metrics.measure_layers(loader, to_features, num_classes=10, names=names)


def show(by_layer: Any) -> str:
    """Table of measures, a row for each layer."""
    rows = [
        [
            DEPTH[layer], str(found.dim), f"{found['zhu_nc1']:.3g}", f"{found['cdnv']:.3g}",
            f"{found['ncc_accuracy']:.4f}", *(f"{found[name]:.2f}" for name in RANKS),
        ]
        for layer, found in by_layer.items()
    ]  # fmt: skip
    return table(COLUMNS, rows)


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Train, print, save."""
    check(parser, flags)
    torch = load_torch(parser)
    configure_jax()
    torch.manual_seed(flags.seed)
    # One batch of this network is too small for several threads, which would wait for each other.
    torch.set_num_threads(1)
    try:
        data = images.load_digits()
    except ModuleNotFoundError as error:
        parser.refuse(error)
    # Images of PyTorch have their channel as the second axis.
    pixels = torch.tensor(np.array(data.images)[:, None])
    labels = torch.tensor(np.array(data.labels, np.int64))
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(pixels, labels), batch_size=flags.batch, shuffle=True
    )
    model = network(torch)
    try:
        monitor = metrics.Monitor(10, names=NAMES, path=flags.out / STORE)
    except (ValueError, FileExistsError) as error:
        parser.refuse(error)
    print(f"{len(labels)} digits, {len(loader)} steps an epoch.", flush=True)
    began = time.perf_counter()
    train(torch, flags, loader, model, monitor)
    print(f"{time.perf_counter() - began:.0f} s\n\nall images under the last weights")
    print(show(final_measures(torch, model, loader)))
    recorded = monitor.dataset
    if not flags.no_plot:
        from figures.torch_loop import depth_figure, epochs_figure

        by_epoch = save_figure(flags, epochs_figure(recorded, DEPTH), "torch_loop_epochs")
        by_depth = save_figure(flags, depth_figure(recorded, DEPTH, RANKS), "torch_loop_depth")
        print(f"\nfigures: {flags.out / by_epoch}, {flags.out / by_depth}")
    print(f"results: {flags.out / STORE}")


if __name__ == "__main__":
    main()
