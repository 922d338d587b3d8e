"""Time the training of image networks by nc_jax, PyTorch and plain Flax, at equal work, in one run.

Measured are images a second over whole epochs of SGD with momentum and weight decay, in batches of
128 images of noise on the device, without compilation. All ways start from the same weights. Before
a way is timed, its loss and gradient on one batch are compared with those of the Flax network in
float64. If they are off by more than 1e-4 in float32 (a ReLU at its kink is enough), the same way
must be accurate in float64, or it is not timed. The ways take turns, and the best time of each
counts. Then: the cost of recording all metrics relative to an epoch, and of ten seeds under one
vmap (on a CPU one program that trains them one after another) relative to ten runs in a row.
"""

import argparse
import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

# By default JAX reserves most of an accelerator's memory, and PyTorch needs a share. JAX reads
# this variable when it first uses the device.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")

import jax
import jax.numpy as jnp
import numpy as np
from peers.flax_training import Factory, Training, Way, jax_ways
from reporting import (
    Parser,
    add_json,
    machine,
    parse_with_json,
    positive,
    report_to_json,
    seconds,
    version,
)
from reports.cnn import show
from tqdm import tqdm

from nc_jax.cnn import VGG, CIFARStem, ConvNet, ImageNetStem, Network, ResNet
from nc_jax.cnn.evaluation import last_layer
from nc_jax.cnn.training import Samples, TrainState
from nc_jax.images import ImageSet

NO_TORCH = None
if TYPE_CHECKING:
    import torch
    from peers.torch_training import torch_ways
else:
    try:
        import torch
        from peers.torch_training import torch_ways
    except (ImportError, OSError) as problem:  # OSError: CUDA's libraries cannot be loaded
        torch = None
        NO_TORCH = f"PyTorch left out: {problem}"

NUM_CLASSES = 10
# A way that has been timed for so many seconds on a network takes no more turns, since slow ones
# would take hours.
BUDGET = 60.0
# A way whose loss or gradient has a larger relative error computes something else.
ERROR = 1e-4
PARTS = ("training", "metrics", "seeds")


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, the shape of its images, and batches in an epoch: on a CPU, on an accelerator."""

    make: Callable[..., Network]
    shape: tuple[int, int, int]
    batches: tuple[int, int]

    def little(self) -> "Case":
        """The same case with few batches and few channels, for a test."""
        make = self.make if self.make is ConvNet else functools.partial(self.make, width=0.125)
        return Case(make, self.shape, (2, 2))

    def network(self, dtype: str) -> Factory:
        """The function that creates the network from random numbers."""
        return lambda rngs: self.make(
            self.shape[-1], NUM_CLASSES, dtype=jnp.dtype(dtype), rngs=rngs
        )


CASES = {
    "convnet-28": Case(ConvNet, (28, 28, 1), (10, 468)),
    "convnet-32": Case(ConvNet, (32, 32, 3), (10, 468)),
    "resnet18-28": Case(functools.partial(ResNet, stem=ImageNetStem()), (28, 28, 1), (3, 150)),
    "resnet18-32": Case(functools.partial(ResNet, stem=CIFARStem()), (32, 32, 3), (2, 150)),
    "vgg13-32": Case(VGG, (32, 32, 3), (2, 150)),
}
USUAL = [name for name in CASES if not name.startswith("vgg")]


def noise(count: int, shape: tuple[int, int, int]) -> ImageSet:
    """Uniform noise in [−1, 1], the classes in turn."""
    values = np.random.default_rng(0).uniform(-1, 1, (count, *shape)).astype(np.float32)
    labels = (np.arange(count) % NUM_CLASSES).astype(np.int32)
    return ImageSet(values, labels, tuple("0123456789"))


# Measurements.


def measured(way: Way, row: dict[str, Any]) -> bool:
    """Fill in the time of the first epoch and the errors; return whether the way may be timed."""
    try:
        row["first"] = seconds(way.epoch)[0]
        errors = row["loss_error"], row["gradient_error"] = way.check()
        # Rounding can move a ReLU across its kink, which changes the gradient by more than ERROR.
        # In float64 such a way is accurate; one that computes something else is not.
        if way.dtype == "float32" and max(errors) > ERROR:
            errors = way.exactly()
    except Exception as failure:  # torch.compile may raise anything
        if not way.may_fail:
            raise
        row["failure"] = f"{type(failure).__name__}: {failure}".splitlines()[0]
        return False
    return way.dtype != "float32" or max(errors) <= ERROR


def compare(name: str, case: Case, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Check all ways on one network, then time them in turns."""
    batch, batches = options.batch, options.batches or case.batches[accelerated()]
    dtypes = ["float32", "bfloat16"] if accelerated() else ["float32"]
    data = noise(batch * batches, case.shape)
    # On a CPU the loop over epochs slows XLA's convolutions down, ResNets to minutes a batch.
    whole = accelerated() or (case.make is ConvNet and not options.quick)
    ways, plain, expected = jax_ways(case.network, data, batch, dtypes, whole)
    if without_torch() is None:
        ways += torch_ways(plain, expected, dtypes, compiled=not options.quick)
    rows, timed = [], []
    for way in tqdm(ways, unit="way", desc=name):
        row: dict[str, Any] = {
            "network": name, "way": way.name, "dtype": way.dtype, "batch": batch,
            "batches": batches, "first": None, "seconds": None, "rate": None, "compile": None,
            "loss_error": None, "gradient_error": None, "failure": None, "times": [],
        }  # fmt: skip
        rows.append(row)
        if measured(way, row):
            timed.append((way, row))
    # The ways take turns, so that a change of the machine's speed affects all of them alike.
    for _ in tqdm(range(options.repeats), unit="round", desc=name):
        for way, row in timed:
            if sum(row["times"]) < BUDGET:
                row["times"].append(seconds(way.epoch)[0])
    for _, row in timed:
        best = min(row["times"])
        row |= {"seconds": best, "rate": batch * batches / best}
        row["compile"] = max(row["first"] - best, 0.0)
    return rows


def cost_of_metrics(
    count: int, shape: tuple[int, int, int], wide: bool, options: argparse.Namespace
) -> dict[str, Any]:
    """The cost of recording all metrics of a ConvNet, and of an epoch of training."""
    with jax.enable_x64(wide):
        case = Case(ConvNet, shape, (0, 0))
        training = Training(case.network("float32"), noise(count, shape), options.batch)

        @jax.jit
        def forward(state: TrainState, data: Samples):
            return last_layer(training.settings, state, data).features

        calls = {
            "epoch": training.epoch,
            "record": lambda: training.programs.record(training.state),
            "forward": lambda: jax.block_until_ready(forward(training.first, training.data)),
        }
        times = best_of(calls, options.repeats)
    statistics = "float64" if wide else "float32"
    return {
        "images": count, "shape": shape, "statistics": statistics, **times,
        "share": times["record"] / times["epoch"],
    }  # fmt: skip


def cost_of_seeds(
    count: int, shape: tuple[int, int, int], options: argparse.Namespace
) -> dict[str, Any]:
    """Time an epoch of all seeds in one program, and as many epochs of one seed in a row."""
    network = Case(ConvNet, shape, (0, 0)).network("float32")
    data = noise(count, shape)
    every = Training(network, data, options.batch, num_seeds=options.seeds)
    first = jax.tree.map(lambda leaf: leaf[:1], every.state)
    one = Training(network, data, options.batch, begin=first)

    def in_a_row() -> None:
        for _ in range(options.seeds):
            one.epoch()

    times = best_of({"in_a_row": in_a_row, "together": every.epoch}, options.repeats)
    return {
        "images": count, "shape": shape, "seeds": options.seeds, **times,
        "gain": times["in_a_row"] / times["together"],
    }  # fmt: skip


def best_of(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The best time of each call. A first call compiles; then the calls take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds(call)[0])
    return {name: min(taken) for name, taken in times.items()}


def accelerated() -> bool:
    """Whether JAX computes on an accelerator."""
    return jax.default_backend() != "cpu"


def without_torch() -> str | None:
    """Why PyTorch is not timed, or None."""
    if torch is None:
        return NO_TORCH
    # Both libraries must use the same kind of device: otherwise devices would be compared.
    if torch.cuda.is_available() != accelerated():
        return f"PyTorch left out: JAX on {jax.default_backend()}, PyTorch {torch.__version__}"
    return None


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all parts that are asked for."""
    place = machine()
    report: dict[str, Any] = {
        "machine": place,
        "device": jax.devices()[0].device_kind,
        "flax": version("flax"),
        "threads": None if torch is None else torch.get_num_threads(),
        "left_out": without_torch(),
        **{part: [] for part in PARTS},
    }
    if "training" in options.part:
        for name in options.network or (USUAL[:1] if options.quick else USUAL):
            case = CASES[name].little() if options.quick else CASES[name]
            report["training"] += compare(name, case, options)
    small = (256 if options.quick else 1437, (8, 8, 1))
    if "metrics" in options.part:
        report["metrics"] = [
            cost_of_metrics(count, shape, wide, options)
            for count, shape in ([small] if options.quick else [small, (10_000, (28, 28, 1))])
            for wide in ([True] if options.quick else [False, True])
        ]
    if "seeds" in options.part:
        large = (options.batch * (100 if accelerated() else 10), (28, 28, 1))
        report["seeds"] = [
            cost_of_seeds(count, shape, options)
            for count, shape in ([small] if options.quick else [small, large])
        ]
    return report


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument(
        "--network", nargs="+", choices=list(CASES), help=f"default: {', '.join(USUAL)}"
    )
    parser.add_argument("--batch", type=positive, help="images (default 128; with --quick 32)")
    parser.add_argument("--batches", type=positive, help="of an epoch (default by network)")
    parser.add_argument("--repeats", type=positive, help="turns (default 5; with --quick 1)")
    parser.add_argument("--seeds", type=positive, help="at once (default 10; with --quick 3)")
    parser.add_argument("--quick", action="store_true", help="small networks, few ways, one turn")
    add_json(parser, "results/cnn_benchmark.json")
    options = parse_with_json(parser, arguments)
    options.batch = options.batch or (32 if options.quick else 128)
    options.seeds = options.seeds or (3 if options.quick else 10)
    options.repeats = options.repeats or (1 if options.quick else 5)
    report_to_json(options, measure, show)


if __name__ == "__main__":
    main()
