"""Time the training of image networks beside PyTorch and plain Flax, at equal work, in one run.

Images a second over whole epochs of SGD with momentum and weight decay, in batches of 128 images of
noise that lie on the device; compilation apart. All start from the same weights: before a way is
timed, its loss and gradient on one batch are compared with those of the Flax network in float64.
Where float32 is off by more than 1e-4 (a ReLU at its kink is enough) the same way must be right in
float64, or it is not timed. The ways take turns, and the best time of each counts. Then: what a
look at all metrics costs beside an epoch, and ten seeds under one vmap (on a CPU one program that
takes them in turn) beside ten runs in a row.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

# PyTorch needs a share of an accelerator too; read when JAX first uses it.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from reporting import (
    Parser,
    add_json,
    machine,
    parse_with_json,
    positive,
    seconds,
    show_machine,
    show_ratio,
    show_time,
    version,
)
from tqdm import tqdm

from nc_jax import CrossEntropy
from nc_jax.cnn import VGG, ConvNet, Network, ResNet
from nc_jax.cnn.evaluation import last_layer
from nc_jax.cnn.layers import Conv
from nc_jax.cnn.runs import Programs
from nc_jax.cnn.training import Samples, Setting, TrainState, objective, step
from nc_jax.images import ImageSet

NO_TORCH = None
if TYPE_CHECKING:
    import torch
    from torch import nn
else:
    try:
        import torch
        from torch import nn
    except (ImportError, OSError) as problem:  # OSError: of CUDA's libraries
        torch = nn = None
        NO_TORCH = f"PyTorch left out: {problem}"

NUM_CLASSES = 10
RATE, MOMENTUM, DECAY = 0.01, 0.9, 5e-4
BUDGET = 60.0  # seconds of a way on a network after which it takes no more turns
ERROR = 1e-4  # of losses and gradients, relative; above it a way does other work
PARTS = ("training", "metrics", "seeds")
FLAX = "Flax, lax convolutions"
EAGER = "PyTorch, channels last"

Factory = Callable[[nnx.Rngs], Network]


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and its images; batches of an epoch on a CPU and on an accelerator."""

    make: Callable[..., Network]
    shape: tuple[int, int, int]
    batches: tuple[int, int]

    def little(self) -> "Case":
        """Few batches, few channels: for a test."""
        make = self.make if self.make is ConvNet else functools.partial(self.make, width=0.125)
        return Case(make, self.shape, (2, 2))

    def network(self, dtype: str) -> Factory:
        """From random numbers to a network."""
        return lambda rngs: self.make(
            self.shape[-1], NUM_CLASSES, dtype=jnp.dtype(dtype), rngs=rngs
        )


CASES = {
    "convnet-28": Case(ConvNet, (28, 28, 1), (10, 468)),
    "convnet-32": Case(ConvNet, (32, 32, 3), (10, 468)),
    "resnet18-28": Case(functools.partial(ResNet, stem="7x7"), (28, 28, 1), (3, 150)),
    "resnet18-32": Case(functools.partial(ResNet, stem="3x3"), (32, 32, 3), (2, 150)),
    "vgg13-32": Case(VGG, (32, 32, 3), (2, 150)),
}
USUAL = [name for name in CASES if not name.startswith("vgg")]


def noise(count: int, shape: tuple[int, int, int]) -> ImageSet:
    """Uniform noise in [−1, 1], the classes in turn."""
    values = np.random.default_rng(0).uniform(-1, 1, (count, *shape)).astype(np.float32)
    labels = (np.arange(count) % NUM_CLASSES).astype(np.int32)
    return ImageSet(values, labels, tuple("0123456789"))


@dataclasses.dataclass(frozen=True)
class Way:
    """A row of the comparison.

    `check` gives relative errors of loss and gradient on the first batch, from the first weights;
    `exactly` those of the same way in float64.
    """

    name: str
    dtype: str
    epoch: Callable[[], object]
    check: Callable[[], tuple[float, float]]
    exactly: Callable[[], tuple[float, float]]
    may_fail: bool = False


# nc_jax, and Flax with the convolution of XLA in its place.


class LaxConv(Conv):
    """The convolution as one would write it."""

    def __call__(self, images: jax.Array) -> jax.Array:
        """In the dtype of the images."""
        kernel = self.kernel[...].astype(images.dtype)
        padding = kernel.shape[0] // 2
        return jax.lax.conv_general_dilated(
            images, kernel, (self.stride, self.stride), ((padding, padding),) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip


def with_lax(network: Factory) -> Factory:
    """The same network with `LaxConv` throughout."""

    def made(rngs: nnx.Rngs) -> Network:
        net = network(rngs)
        for _, module in nnx.iter_modules(net):
            if type(module) is Conv:
                module.__class__ = LaxConv
        return net

    return made


class Training:
    """A network in training: its setting, its programs, its state.

    `begin` has a leading axis of seeds; where another training has it, it need not be compiled.
    """

    def __init__(
        self,
        network: Factory,
        data: ImageSet,
        batch: int,
        num_seeds: int = 1,
        begin: TrainState | None = None,
    ):
        optimizer = optax.with_extra_args_support(optax.sgd(RATE, MOMENTUM))
        self.setting = Setting(
            graph(network), optimizer, CrossEntropy(), DECAY, batch, None, len(data.labels)
        )
        self.programs = Programs(self.setting, network, data, None, num_seeds, jax.random.key(0))
        self.state = self.programs.start() if begin is None else jax.tree.map(jnp.copy, begin)
        # Of the first seed, kept: an epoch takes its state's place.
        self.first = jax.tree.map(lambda leaf: leaf[0], self.state)
        self.data = Samples(jnp.asarray(data.images), jnp.asarray(data.labels))

    def epoch(self) -> None:
        """One epoch as one program."""
        self.state, _ = self.programs.epoch(self.state)
        jax.block_until_ready(self.state)

    def steps(self) -> Callable[[], None]:
        """An epoch as the usual loop over a compiled step."""
        batch, count = self.setting.batch_size, self.setting.steps_per_epoch
        assert batch is not None
        state, random = jax.tree.map(jnp.copy, self.first), np.random.default_rng(0)

        @functools.partial(jax.jit, donate_argnums=0)
        def next_step(state: TrainState, data: Samples, rows: jax.Array):
            return step(self.setting, state, data.images[rows], data.labels[rows])

        def epoch() -> None:
            nonlocal state
            order = random.permutation(len(self.data.labels))[: count * batch]
            seen = []
            for rows in order.reshape(count, batch):
                state, values = next_step(state, self.data, rows)
                seen.append(values["loss"])
            jax.block_until_ready((state, seen))

        return epoch

    def loss_and_gradient(self, wide: Factory | None = None) -> tuple[float, Any]:
        """On the first batch at full precision, penalty and all; of `wide` in float64."""
        with jax.enable_x64(wide is not None), jax.default_matmul_precision("highest"):
            setting = self.setting if wide is None else self.setting._replace(graph=graph(wide))
            given = self.first.params, self.first.rest, Samples(*self.data)
            params, rest, data = given if wide is None else jax.tree.map(widened, given)
            batch = jax.tree.map(lambda leaf: leaf[: setting.batch_size], data)

            def of(params: Any, batch: Samples) -> jax.Array:
                return objective(setting, params, rest, *batch)[0]

            value, gradient = jax.jit(jax.value_and_grad(of))(params, batch)
        return float(value), jax.device_get(gradient)


def graph(network: Factory) -> nnx.GraphDef[Network]:
    """The network without its arrays."""
    return nnx.graphdef(nnx.eval_shape(lambda: network(nnx.Rngs(0))))


def widened(leaf: jax.Array) -> jax.Array:
    """In float64 where it is a float."""
    return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def distance(value: float, other: float) -> float:
    """Relative to the second."""
    return abs(value - other) / abs(other)


def apart(leaves: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """Norm of the difference of two gradients, relative to the second's."""
    pairs = list(zip(leaves, others, strict=True))
    missed = sum(float(np.sum((a - b) ** 2, dtype=np.float64)) for a, b in pairs)
    return (missed / sum(float(np.sum(b**2, dtype=np.float64)) for _, b in pairs)) ** 0.5


def jax_ways(
    case: Case, data: ImageSet, batch: int, dtypes: Sequence[str], whole: bool
) -> tuple[list[Way], Training, tuple[float, Any]]:
    """nc_jax and Flax by dtype; with the float32 Flax network, its loss and gradient in float64."""
    plain = Training(with_lax(case.network("float32")), data, batch)
    expected = plain.loss_and_gradient(with_lax(case.network("float64")))

    def check(training: Training, wide: Factory | None = None) -> tuple[float, float]:
        value, gradient = training.loss_and_gradient(wide)
        leaves = jax.tree.leaves(gradient), jax.tree.leaves(expected[1])
        return distance(value, expected[0]), apart(*leaves)

    begin = jax.tree.map(lambda leaf: leaf[None], plain.first)
    ways = []
    for dtype in dtypes:
        ours = Training(case.network(dtype), data, batch, begin=begin)
        theirs = plain if dtype == "float32" else Training(
            with_lax(case.network(dtype)), data, batch, begin=begin
        )  # fmt: skip
        right = (
            functools.partial(check, ours),
            functools.partial(check, ours, case.network("float64")),
        )
        ways.append(Way("nc_jax", dtype, ours.epoch, *right))
        wide = with_lax(case.network("float64"))
        right = functools.partial(check, theirs), functools.partial(check, theirs, wide)
        ways.append(Way(f"{FLAX}, step by step", dtype, theirs.steps(), *right))
        if whole:
            ways.append(Way(f"{FLAX}, whole epochs", dtype, theirs.epoch, *right))
    return ways, plain, expected


# PyTorch.


def to_torch(network: Network) -> "nn.Sequential":
    """The network with its weights, layer by layer."""

    def tensor(values: jax.Array) -> nn.Parameter:
        return nn.Parameter(torch.from_numpy(np.array(values)))

    def convolution(conv: Conv) -> nn.Conv2d:
        size, _, inputs, outputs = conv.kernel[...].shape
        made = nn.Conv2d(inputs, outputs, size, conv.stride, size // 2, bias=False)
        made.weight = tensor(conv.kernel[...].transpose(3, 2, 0, 1))
        return made

    def normalisation(norm: nnx.BatchNorm) -> nn.BatchNorm2d:
        made = nn.BatchNorm2d(norm.num_features, affine=norm.scale is not None)
        if norm.scale is not None and norm.bias is not None:
            made.weight, made.bias = tensor(norm.scale[...]), tensor(norm.bias[...])
        return made

    def linear(head: Any) -> nn.Linear:
        made = nn.Linear(*reversed(head.classifier[...].shape))
        made.weight, made.bias = tensor(head.classifier[...]), tensor(head.bias[...])
        return made

    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(network.head)]
    return nn.Sequential(*torch_body(network, convolution, normalisation), *tail)


def torch_body(
    network: Network, convolution: Callable[[Any], Any], normalisation: Callable[[Any], Any]
) -> Iterator[Any]:
    """Layers up to the last maps."""
    residual = torch_residual()

    def pair(conv: Any, norm: Any) -> tuple[Any, Any]:
        return convolution(conv), normalisation(norm)

    match network:
        case ConvNet():
            for conv, norm in zip(network.convolutions, network.norms, strict=True):
                first, last = pair(conv, norm)
                yield from (first, nn.ReLU(inplace=True), last)
        case VGG():
            for i, (conv, norm) in enumerate(zip(network.convolutions, network.norms, strict=True)):
                yield from (*pair(conv, norm), nn.ReLU(inplace=True))
                if i % 2:
                    yield nn.MaxPool2d(2, ceil_mode=True)
        case ResNet():
            yield from (*pair(network.stem, network.stem_norm), nn.ReLU(inplace=True))
            if network.pooled:
                yield nn.MaxPool2d(3, 2, 1)
            for block in network.blocks:
                layers = []
                for conv, norm in zip(block.layers, block.norms, strict=True):
                    layers += [*pair(conv, norm), nn.ReLU(inplace=True)]
                skip = nn.Identity() if block.skip is None else nn.Sequential(*pair(*block.skip))
                yield residual(nn.Sequential(*layers[:-1]), skip)


def torch_residual() -> type:
    """The class of blocks with a skip, which needs PyTorch to be written down."""

    class Residual(nn.Module):
        def __init__(self, body: Any, skip: Any):
            super().__init__()
            self.body, self.skip = body, skip

        def forward(self, images: Any) -> Any:
            return (self.body(images) + self.skip(images)).relu_()

    return Residual


class TorchTraining:
    """The same network and data in PyTorch, as its users train it."""

    def __init__(
        self,
        plain: Training,
        expected: tuple[float, Any],
        dtype: str,
        compiled: str | None,
        layout: Any,
    ):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.batch = plain.setting.batch_size or len(plain.data.labels)
        state, self.dtype = plain.first, dtype
        self.net = to_torch(nnx.merge(plain.setting.graph, state.params, state.rest))
        slope = to_torch(nnx.merge(plain.setting.graph, expected[1], state.rest))
        self.expected = expected[0], [leaf.detach().numpy() for leaf in slope.parameters()]
        self.layout = layout
        self.net.to(self.device, memory_format=layout)  # pyright: ignore
        self.start = {name: leaf.clone() for name, leaf in self.net.state_dict().items()}
        self.run: Any = self.net if compiled is None else torch.compile(self.net, mode=compiled)
        # NHWC in memory, which a transposed view makes channels last.
        images, labels = (torch.from_numpy(np.array(leaf)) for leaf in plain.data)
        self.images, self.labels = images.to(self.device), labels.long().to(self.device)
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), RATE, MOMENTUM, weight_decay=DECAY, fused=True
        )

    def backward(self, rows: Any) -> Any:
        """The loss of a batch, without decay, and the gradient in its place."""
        self.optimizer.zero_grad(set_to_none=True)
        half = self.dtype == "bfloat16"
        cast = torch.autocast(self.device, torch.bfloat16) if half else contextlib.nullcontext()
        images, labels = self.images[rows].permute(0, 3, 1, 2), self.labels[rows]
        images = images.contiguous(memory_format=self.layout)
        with cast:
            loss = nn.functional.cross_entropy(self.run(images), labels)
        loss.backward()
        return loss.detach()

    def epoch(self) -> float:
        """Its mean loss."""
        count = len(self.labels) // self.batch
        order = torch.randperm(len(self.labels), device=self.device)[: count * self.batch]
        total = torch.zeros((), device=self.device)
        for rows in order.reshape(count, self.batch):
            total += self.backward(rows)
            self.optimizer.step()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return float(total) / count

    def check(self) -> tuple[float, float]:
        """Errors of loss and gradient at the first weights, at full precision."""
        self.net.load_state_dict(self.start)
        with full_precision():
            loss = self.backward(torch.arange(self.batch, device=self.device))
        leaves, size = list(self.net.parameters()), 0.0
        gradient = []
        for leaf in leaves:
            assert leaf.grad is not None
            gradient.append((leaf.grad + DECAY * leaf.detach()).cpu().numpy())
            size += float((leaf.detach() ** 2).sum())
        value = float(loss) + DECAY / 2 * size
        return distance(value, self.expected[0]), apart(gradient, self.expected[1])

    def exactly(self) -> tuple[float, float]:
        """The same in float64, from the same numbers."""
        images = self.images
        self.net.double()
        self.images = images.double()
        errors = self.check()
        self.net.float()
        self.images = images
        return errors


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Float32 without TF32, which both libraries are timed with on a GPU, as JAX has it."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


def torch_ways(
    plain: Training, expected: tuple[float, Any], dtypes: Sequence[str], compiled: bool
) -> Iterator[Way]:
    """Eager; the same with channels first, and compiled, one way or two."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    last = torch.channels_last
    ways: list[tuple[str, Any, str | None]] = [(EAGER, last, None)]
    if compiled:
        ways += [
            ("PyTorch, channels first", torch.contiguous_format, None),
            (f"{EAGER}, compiled", last, "default"),
        ]
        if torch.cuda.is_available():
            ways.append((f"{EAGER}, CUDA graphs", last, "reduce-overhead"))
    for dtype in dtypes:
        for name, layout, mode in ways:
            training = TorchTraining(plain, expected, dtype, mode, layout)
            checks = training.check, training.exactly
            yield Way(name, dtype, training.epoch, *checks, may_fail=mode is not None)


# Measurements.


def measured(way: Way, row: dict[str, Any]) -> bool:
    """Fill in how long the first epoch takes and how right the way is; whether it may be timed."""
    try:
        row["first"] = seconds(way.epoch)[0]
        errors = row["loss_error"], row["gradient_error"] = way.check()
        if way.dtype == "float32" and max(errors) > ERROR:
            errors = way.exactly()
    except Exception as failure:  # what torch.compile raises is its own affair
        if not way.may_fail:
            raise
        row["failure"] = f"{type(failure).__name__}: {failure}".splitlines()[0]
        return False
    return way.dtype != "float32" or max(errors) <= ERROR


def compare(name: str, case: Case, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All ways on one network: checked, then timed in turns."""
    batch, batches = options.batch, options.batches or case.batches[accelerated()]
    dtypes = ["float32", "bfloat16"] if accelerated() else ["float32"]
    data = noise(batch * batches, case.shape)
    # On a CPU the loop over epochs slows XLA's convolutions down, ResNets to minutes a batch.
    whole = accelerated() or (case.make is ConvNet and not options.quick)
    ways, plain, expected = jax_ways(case, data, batch, dtypes, whole)
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
    """A look at everything that is recorded of a ConvNet, beside an epoch of it."""
    with jax.enable_x64(wide):
        case = Case(ConvNet, shape, (0, 0))
        training = Training(case.network("float32"), noise(count, shape), options.batch)

        @jax.jit
        def forward(state: TrainState, data: Samples):
            return last_layer(training.setting, state, data).features

        calls = {
            "epoch": training.epoch,
            "look": lambda: training.programs.look(training.state),
            "forward": lambda: jax.block_until_ready(forward(training.first, training.data)),
        }
        times = best_of(calls, options.repeats)
    statistics = "float64" if wide else "float32"
    return {
        "images": count, "shape": shape, "statistics": statistics, **times,
        "share": times["look"] / times["epoch"],
    }  # fmt: skip


def cost_of_seeds(
    count: int, shape: tuple[int, int, int], options: argparse.Namespace
) -> dict[str, Any]:
    """An epoch of all seeds side by side, and as many of one seed in a row."""
    network = Case(ConvNet, shape, (0, 0)).network("float32")
    data = noise(count, shape)
    every = Training(network, data, options.batch, options.seeds)
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
    """The best time of each call, compiled before, in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds(call)[0])
    return {name: min(taken) for name, taken in times.items()}


def accelerated() -> bool:
    """Whether JAX has more than a CPU."""
    return jax.default_backend() != "cpu"


def without_torch() -> str | None:
    """Why PyTorch is not timed, if it is not."""
    if torch is None:
        return NO_TORCH
    if torch.cuda.is_available() != accelerated():
        return f"PyTorch left out: JAX on {jax.default_backend()}, PyTorch {torch.__version__}"
    return None


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rows."""
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


# Tables.


def show_training(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A table for each network, with ratios of the same dtype.

    To PyTorch eager with channels last, to the best of PyTorch, to the best of Flax.
    """
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == network]
        yield ""
        yield f"{network}: {own[0]['batches']} batches of {own[0]['batch']}"
        yield (
            f"{'way':36} {'dtype':8} {'images/s':>9} {'of eager':>8} {'of PyTorch':>10} "
            f"{'of Flax':>8} {'compile':>8} {'loss error':>10} {'gradient':>8}"
        )
        for row in own:
            if row["failure"]:
                yield f"{row['way']:36} {row['dtype']:8} fails: {row['failure']:.60}"
                continue
            alike = [x for x in own if x["dtype"] == row["dtype"] and x["rate"]]
            bases = [
                max((x["rate"] for x in alike if x["way"].startswith(way)), default=None)
                for way in ("PyTorch", "Flax")
            ]
            eager = next((x["rate"] for x in alike if x["way"] == EAGER), None)
            rate, bases = row["rate"], [eager, *bases]
            ratios = [show_ratio(rate and base and rate / base) for base in bases]
            yield (
                f"{row['way']:36} {row['dtype']:8} "
                f"{'differs' if rate is None else f'{rate:.4g}':>9} {ratios[0]:>8} {ratios[1]:>10} "
                f"{ratios[2]:>8} {show_time(row['compile']):>8} {row['loss_error']:10.0e} "
                f"{row['gradient_error']:8.0e}"
            )


def show(report: dict[str, Any]) -> str:
    """The tables."""
    lines = show_machine(report["machine"])
    threads = f", PyTorch on {report['threads']} threads" if report["threads"] else ""
    lines.insert(2, f"device {report['device']}, flax {report['flax']}{threads}")
    if report["left_out"]:
        lines.append(report["left_out"])
    lines += show_training(report["training"])
    if report["metrics"]:
        lines += ["", "a look at all metrics of a ConvNet, statistics in the widest float"]
        lines.append(
            f"{'images':18} {'float':8} {'epoch':>8} {'look':>8} {'of an epoch':>11} {'forward':>8}"
        )
    for row in report["metrics"]:
        lines.append(
            f"{show_set(row):18} {row['statistics']:8} {show_time(row['epoch']):>8} "
            f"{show_time(row['look']):>8} {row['share']:11.0%} {show_time(row['forward']):>8}"
        )
    if report["seeds"]:
        lines += ["", f"an epoch of {report['seeds'][0]['seeds']} seeds of a ConvNet"]
        lines.append(f"{'images':18} {'in a row':>9} {'together':>9} {'gain':>6}")
    for row in report["seeds"]:
        lines.append(
            f"{show_set(row):18} {show_time(row['in_a_row']):>9} {show_time(row['together']):>9} "
            f"{show_ratio(row['gain']):>6}"
        )
    return "\n".join(lines)


def show_set(row: dict[str, Any]) -> str:
    """10000 of 28x28x1."""
    return f"{row['images']} of {'x'.join(map(str, row['shape']))}"


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
    parser.add_argument("--quick", action="store_true", help="little networks, few ways, one turn")
    add_json(parser, "results/cnn_benchmark.json")
    options = parse_with_json(parser, arguments)
    options.batch = options.batch or (32 if options.quick else 128)
    options.seeds = options.seeds or (3 if options.quick else 10)
    options.repeats = options.repeats or (1 if options.quick else 5)
    began = time.perf_counter()
    report = measure(options)
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(show(report))
    print(f"\n{time.perf_counter() - began:.0f} s; numbers in {options.json}", file=sys.stderr)


if __name__ == "__main__":
    main()
