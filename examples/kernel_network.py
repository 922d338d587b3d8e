"""A network beside its kernel model: what a constant kernel of the features predicts, and how long.

Trains a small ConvNet on images by gradient descent on all of them with a small step size; the time
is step size times step. At the start `cnn.feature_kernel` estimates the kernel Theta of its
features, the products of their derivatives by the weights below the last layer, as means by class.
The model `nc.KernelFeatures` moves free features by these means, H' = -Theta dL/dH, and the last
layer by W' = -dL/dW. It starts at the features and the last layer of the network. The class kernel
has one mean for each pair of classes, the block kernel three numbers.

The model leaves out how Theta differs within classes and between features, the products of
derivatives of two features, and every change of Theta. The script prints how large these parts are,
and how much of the fall of the loss each of them causes; then the measures of both, and until when
each measure of the model is within WITHIN of that of the network. Expect agreement in the loss and
in norms for a while, and none in the features of single images.

Batch normalisation has constant statistics, those of all images at the start: in the model too a
logit depends on the image and the parameters alone. There is no weight decay. With the defaults
everything takes about half a minute on two cores.
"""

import math
import textwrap
import time
from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

# Flax by way of `image_runs`, which says in one line that it is missing.
from image_runs import load_images, nnx
from jax.flatten_util import ravel_pytree
from script import (
    Parser,
    add_dataset_flags,
    add_output_flags,
    check_seed,
    configure_jax,
    nearest,
    run_script,
    save_results,
    table,
)

import nc_jax as nc
from nc_jax import cnn, images

FIGURE = "kernel_network"
LOSS = nc.CrossEntropy()
RUNS = ("network", "class kernel", "block kernel")
MODELS = RUNS[1:]
# Orthogonal parts of the kernel of all features, which add up to it.
PARTS = ("means by class", "within classes", "between features", "pairs of features")
MEASURES = {
    "loss": "mean cross-entropy",
    "cdnv": "variance within two classes over the squared distance of their means",
    "ji_feature_cosine_gap": "mean |cosine + 1/(K-1)| of class means, 0 for a simplex",
    "mean_norm": "norm of the centred class means",
    "classifier_norm": "norm of the centred classifiers",
}
HEADINGS = {
    "loss": "loss", "cdnv": "CDNV", "ji_feature_cosine_gap": "cosine gap",
    "mean_norm": "norm of means", "classifier_norm": "norm of W",
}  # fmt: skip
SAVES = 60
# Each pass of all images leaves 0.9 of the difference of the running statistics from theirs.
PASSES = 200
# Numbers in an array of 512 MiB in float32.
LARGEST = 2**27


class Training(NamedTuple):
    """A descent: its last layers over time, and the networks at its ends."""

    times: np.ndarray
    layers: nc.LastLayer
    first: cnn.Network
    last: cnn.Network


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    add_dataset_flags(parser)
    add = parser.add_argument
    add("--classes", type=int, nargs="+", default=[0, 1, 2], help="classes of the set (0 1 2)")
    add("--samples", type=int, default=20, argument="samples_per_class",
        help="training images of each class, the first of them (%(default)s)")  # fmt: skip
    add("--widths", type=int, nargs="+", default=[16, 32],
        help="channels of each convolution; the last are the features (16 32)")  # fmt: skip
    add("--no-bias", action="store_true", help="a last layer without a bias")
    add("--rate", type=float, default=0.01, help="step size (%(default)g)")
    add("--time", type=float, default=30.0, help="train until this time (%(default)g)")
    add("--within", type=float, default=0.2,
        help="relative difference up to which a model predicts (%(default)g)")  # fmt: skip
    add("--seed", type=int, default=0, help="seed of the weights (%(default)s)")
    add_output_flags(parser, f"results/{FIGURE}")
    return parser, parser.parse_args(arguments)


def check(parser: Parser, flags: Namespace) -> None:
    """Refuse flags that the package would not refuse."""
    if len(flags.classes) < 2:
        parser.error(f"--classes {flags.classes[0]}: give two or more.")
    if flags.samples < 2:
        parser.error(f"--samples {flags.samples}: give an integer >= 2, for pairs of one class.")
    for name in ("rate", "time", "within"):
        if not 0 < getattr(flags, name) < math.inf:
            parser.error(f"--{name} {getattr(flags, name):g}: give a finite number > 0.")
    if not 1 <= round(flags.time / flags.rate) <= 10**6:
        given = f"--time {flags.time:g} --rate {flags.rate:g}"
        parser.error(f"{given}: give numbers with 1 to 1000000 steps, time over rate.")
    check_seed(parser, flags)


def load(parser: Parser, flags: Namespace) -> images.ImageSet:
    """The normalised training images of the classes, sorted by class as in the model."""
    data, _ = load_images(parser, flags, classes=flags.classes)
    order = np.argsort(data.labels, kind="stable")
    return images.ImageSet(data.images[order], data.labels[order], data.classes)


def build(parser: Parser, flags: Namespace, data: images.ImageSet) -> cnn.Network:
    """The network at its start, with running statistics that are those of all images."""
    try:
        network = cnn.ConvNet(
            data.images.shape[3], len(data.classes), widths=tuple(flags.widths),
            bias=not flags.no_bias, rngs=nnx.Rngs(flags.seed),
        )  # fmt: skip
    except ValueError as error:
        parser.refuse(error)
    check_size(parser, flags, network, len(data.labels))
    pixels = jnp.asarray(data.images)
    forward = nnx.jit(lambda network: network(pixels, train=True))
    for _ in range(PASSES):
        forward(network)
    return network


def check_size(parser: Parser, flags: Namespace, network: cnn.Network, count: int) -> None:
    """Refuse a network whose kernel of all features does not fit in memory."""
    below = nnx.split(network, nnx.PathContains("head"), nnx.Param, ...)[2]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(below))
    rows = count * flags.widths[-1]
    if rows * max(rows, parameters) > LARGEST:
        widths = " ".join(map(str, flags.widths))
        parser.error(
            f"--samples {flags.samples} --widths {widths}: {rows} features have derivatives by "
            f"{parameters} weights; give smaller values, for a kernel that fits in memory."
        )


def train(flags: Namespace, network: cnn.Network, data: images.ImageSet) -> Training:
    """Gradient descent on all images, with its last layers at times that are even in log."""
    graph, parameters, rest = nnx.split(network, nnx.Param, ...)
    pixels, labels = jnp.asarray(data.images), jnp.asarray(data.labels)

    def objective(parameters: nnx.State) -> jax.Array:
        layer = nnx.merge(graph, parameters, rest)(pixels, train=False)
        return jnp.mean(LOSS.value(layer.logits(), labels))

    def step(_: int, parameters: nnx.State) -> nnx.State:
        gradient = jax.grad(objective)(parameters)
        return jax.tree.map(lambda leaf, slope: leaf - flags.rate * slope, parameters, gradient)

    @jax.jit
    def advance(parameters: nnx.State, count: int) -> nnx.State:
        return jax.lax.fori_loop(0, count, step, parameters)

    last = round(flags.time / flags.rate)
    steps = np.unique(np.append(0, np.geomspace(1, last, SAVES).round().astype(int)))
    networks = [network]
    for count in np.diff(steps):
        parameters = advance(parameters, int(count))
        networks.append(nnx.merge(graph, parameters, rest))
    layers = [cnn.last_layer(each, data.images) for each in networks]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    return Training(steps * flags.rate, stacked, network, networks[-1])


def measures(layer: nc.LastLayer, labels: np.ndarray) -> dict[str, jax.Array]:
    """The measures of a last layer, of a network or of a model."""
    num_classes, feature_dim = layer.classifier.shape
    means = jnp.mean(layer.features.reshape(num_classes, -1, feature_dim), axis=1)
    return {
        "loss": jnp.mean(LOSS.value(layer.logits(), labels)),
        "cdnv": nc.metrics.cdnv(layer, labels),
        "ji_feature_cosine_gap": nc.metrics.ji_feature_cosine_gap(layer, labels),
        "mean_norm": jnp.linalg.norm(nc.geometry.center(means)),
        "classifier_norm": jnp.linalg.norm(nc.geometry.center(layer.classifier)),
    }


def compare(training: Training, data: images.ImageSet, found: cnn.FeatureKernel) -> xr.Dataset:
    """Measures of the network and of both models, and how far the models are from it."""
    layers, labels = training.layers, data.labels
    start = jax.tree.map(lambda leaf: leaf[0], layers)

    def observe(layer: nc.LastLayer) -> dict[str, jax.Array]:
        return measures(layer, labels)

    recorded, states = [jax.jit(jax.vmap(observe))(layers)], []
    for kernel in (found.class_kernel(), found.block_kernel()):
        problem = nc.KernelFeatures(
            found.class_sizes, layers.classifier.shape[2], kernel=kernel, loss=LOSS,
            bias=start.bias is not None,
        )  # fmt: skip
        flow = nc.gradient_flow(
            problem, start, np.log1p(training.times), rtol=1e-7, observe=observe, save_states=True
        )
        recorded.append(flow.observables)
        states.append(flow.states)

    def distances(of: Callable[[nc.LastLayer], jax.Array]) -> list[np.ndarray]:
        reached = np.asarray(of(layers))
        moved = norms(reached - reached[:1])
        return [norms(np.asarray(of(state)) - reached)[1:] / moved[1:] for state in states]

    return xr.Dataset(
        {
            **{name: (("run", "time"), np.stack([run[name] for run in recorded]))
               for name in MEASURES},
            "feature_distance": (("model", "later"), distances(lambda layer: layer.features)),
            "logit_distance": (("model", "later"), distances(logits)),
        },
        {"t": ("time", training.times), "run": list(RUNS), "model": list(MODELS)},
    )  # fmt: skip


def logits(layers: nc.LastLayer) -> jax.Array:
    """Logits (T, N, K) of last layers over time."""
    return jax.vmap(nc.LastLayer.logits)(layers)


def norms(rows: np.ndarray) -> np.ndarray:
    """Frobenius norms (T,) of matrices (T, N, d)."""
    return np.sqrt(np.sum(rows**2, axis=(1, 2)))


def all_products(network: cnn.Network, data: images.ImageSet) -> np.ndarray:
    """Products of the derivatives of all features of all images, (N, d, N, d)."""
    graph, head, below, rest = nnx.split(network, nnx.PathContains("head"), nnx.Param, ...)
    flat, unravel = ravel_pytree(below)

    @jax.jit
    def products(pixels: jax.Array) -> jax.Array:
        def features(weights: jax.Array, image: jax.Array) -> jax.Array:
            network = nnx.merge(graph, head, unravel(weights), rest)
            return network(image[None], train=False).features[0]

        jacobian = jax.lax.map(lambda image: jax.jacrev(features)(flat, image), pixels)
        rows = jacobian.reshape(-1, flat.size)
        return jnp.matmul(rows, rows.T, precision="highest").reshape(*jacobian.shape[:2] * 2)

    return np.asarray(products(jnp.asarray(data.images)), float)


def parts_of_kernel(
    network: cnn.Network, data: images.ImageSet, found: cnn.FeatureKernel
) -> tuple[np.ndarray, np.ndarray]:
    """Shares of four parts of the kernel, which add up to 1: of its squares, and of the fall.

    The fall is that of the loss by the movement of the features, <g, Theta g> with g = dL/dH.
    """
    layer = cnn.last_layer(network, data.images)
    theta, dim = all_products(network, data), layer.features.shape[1]
    same = np.einsum("iaja->ija", theta)
    mean = same.mean(axis=2)
    identity = jnp.eye(len(mean))
    model = np.asarray(found.class_kernel().product(identity, found.class_sizes))
    problem = nc.UnconstrainedFeatures(
        found.class_sizes, dim, loss=LOSS, bias=layer.bias is not None
    )
    gradient = np.asarray(problem.gradient(layer).features)
    between = same - mean[..., None]
    pairs = theta.copy()
    np.einsum("iaja->ija", pairs)[...] = 0
    squares = [
        dim * np.sum(model**2), dim * np.sum((mean - model) ** 2), np.sum(between**2),
        np.sum(pairs**2),
    ]  # fmt: skip
    fall = [
        np.sum(gradient * (model @ gradient)), np.sum(gradient * ((mean - model) @ gradient)),
        np.einsum("ia,ija,ja", gradient, between, gradient),
        np.einsum("ia,iajb,jb", gradient, pairs, gradient, optimize=True),
    ]  # fmt: skip
    return (
        squares / np.sum(theta**2),
        fall / np.einsum("ia,iajb,jb", gradient, theta, gradient, optimize=True),
    )


def parts_data(
    networks: tuple[cnn.Network, cnn.Network],
    data: images.ImageSet,
    kernels: list[cnn.FeatureKernel],
) -> xr.Dataset:
    """Means by class, and the shares of the parts of the kernel, at the start and at the end."""
    found = [parts_of_kernel(*each) for each in zip(networks, [data] * 2, kernels, strict=True)]
    shares, falls = zip(*found, strict=True)
    matrices = np.stack([np.asarray(kernel.classes, float) for kernel in kernels])
    single = np.stack([np.asarray(kernel.same_sample, float) for kernel in kernels])
    return xr.Dataset(
        {
            "share": (("end", "part"), np.stack(shares)),
            "fall": (("end", "part"), np.stack(falls)),
            "class_kernel": (("end", "class", "other_class"), matrices),
            "same_sample": (("end", "class"), single),
        },
        {"end": ["start", "end"], "part": list(PARTS)},
    )


def predicted_until(comparison: xr.Dataset, name: str, within: float) -> np.ndarray:
    """For each model the index of the first save at which a measure differs; T if there is none."""
    values = comparison[name].values
    apart = ~(np.abs(values[1:] / values[0] - 1) <= within)
    return np.where(apart.any(axis=1), apart.argmax(axis=1), apart.shape[1])


def show_parts(parts: xr.Dataset) -> str:
    """Table of the parts of the kernel at the start and at the end."""
    rows = [
        [name, *(f"{100 * share:.1f} %" for key in ("share", "fall") for share in shares[key])]
        for name, shares in ((name, parts.sel(part=name)) for name in PARTS)
    ]
    return table(
        {
            "part of Theta": "", "squares": "share in the sum of the squared entries at the start",
            "at the end": "", "fall": "share in the rate at which the features lower the loss at "
            "the start", "fall at the end": "",
        },
        rows,
    )  # fmt: skip


def show_values(comparison: xr.Dataset) -> str:
    """Table of three measures over time, of the network and of both models."""
    times = comparison["t"].values
    chosen = nearest(times, np.append(0, np.geomspace(times[1], times[-1], 8)))
    names = list(HEADINGS)[:3]
    rows = [
        [f"{times[i]:.3g}", *(f"{value:.3g}" for name in names for value in comparison[name][:, i])]
        for i in chosen
    ]
    columns = {"t": "step size times step"}
    for name in names:
        columns |= {
            HEADINGS[name]: MEASURES[name],
            f"{HEADINGS[name]} C": "",
            f"{HEADINGS[name]} B": "",
        }
    columns |= {"loss C": "that of the model with the class kernel", "loss B": "block kernel"}
    return table(columns, rows)


def show_until(flags: Namespace, comparison: xr.Dataset) -> str:
    """Table of the times until which the models predict each measure, with the loss then."""
    times, loss = comparison["t"].values, comparison["loss"].values[0]
    rows = []
    for name, heading in HEADINGS.items():
        values = comparison[name].values
        row = [heading, *(f"{value:.3g}" for value in values[0, [0, -1]])]
        for end, index in zip(
            values[1:, -1], predicted_until(comparison, name, flags.within), strict=True
        ):
            until = ("end", "-") if index == len(times) else (times[index], loss[index])
            row += [f"{end:.3g}", *(x if isinstance(x, str) else f"{x:.3g}" for x in until)]
        rows.append(row)
    columns = {
        "measure": "", "start": "of network and models", "end": "of the network",
        "C end": "of the model with the class kernel",
        "C until": f"first time at which it differs by more than {100 * flags.within:g} %",
        "C loss": "of the network at this time", "B end": "block kernel", "B until": "",
        "B loss": "",
    }  # fmt: skip
    return table(columns, rows)


def show_ends(parts: xr.Dataset, comparison: xr.Dataset) -> str:
    """The change of the class kernel, and how far the models are from features and logits."""
    first, last = parts["class_kernel"].values
    change = np.linalg.norm(last - first) / np.linalg.norm(first)
    lines = [f"class kernel: its change from the start to the end has {change:.2f} of its norm"]
    for name in ("logit", "feature"):
        found = ", ".join(
            f"{early:.2f} and {late:.2f} ({model})"
            for (early, late), model in zip(
                comparison[f"{name}_distance"].values[:, [0, -1]], MODELS, strict=True
            )
        )
        lines.append(f"{name}s: distance of a model from the network over that of the network from "
                     f"its start, at first and at last {found}")  # fmt: skip
    return "\n".join("\n  ".join(textwrap.wrap(line, 98)) for line in lines)


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Train, estimate, integrate, print, save."""
    check(parser, flags)
    configure_jax()
    began = time.perf_counter()
    data = load(parser, flags)
    print("The first run compiles for several seconds.", flush=True)
    network = build(parser, flags, data)
    training = train(flags, network, data)
    print(f"network: {time.perf_counter() - began:.0f} s", flush=True)
    ends = (training.first, training.last)
    kernels = [cnn.feature_kernel(each, data) for each in ends]
    # After too large a step weights are NaN, or no unit is active, and then the kernel is 0.
    if not np.mean(kernels[-1].same_sample) > 0:
        parser.error(f"--rate {flags.rate:g}: the descent diverges; give a smaller step size.")
    parts = parts_data(ends, data, kernels)
    print(f"kernel at the start and at the end: {time.perf_counter() - began:.0f} s", flush=True)
    try:
        comparison = compare(training, data, kernels[0])
    except (ValueError, RuntimeError) as error:
        parser.refuse(error)
    print(f"{time.perf_counter() - began:.0f} s with the flows of the models\n")
    steep = [
        flags.rate * float(nc.landscape.sharpness(*cnn.curvature_for(each, data))) for each in ends
    ]
    print(
        f"step size times the largest eigenvalue of the Hessian: {steep[0]:.2g} at the start, "
        f"{steep[1]:.2g} at the end;\ndescent follows the flow where it is far below 2\n"
    )
    print(f"{show_parts(parts)}\n\n{show_values(comparison)}\n\n{show_until(flags, comparison)}\n")
    print(show_ends(parts, comparison))

    def draw():
        from figures.kernel_network import kernel_figure

        return {FIGURE: kernel_figure(comparison, parts)}

    save_results(flags, {FIGURE: xr.merge([comparison, parts])}, draw)


if __name__ == "__main__":
    main()
