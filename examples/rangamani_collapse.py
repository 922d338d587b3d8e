"""Theorems 3 and 11 of Rangamani et al.: the frame at a quasi-interpolating critical point.

The hypothesis of the theorems as printed is empty: without a bias no critical point interpolates
symmetrically. With a free bias or centred targets the theorems hold exactly for the
unconstrained-features model under the square loss, and for a deep ReLU net to the extent that the
net interpolates symmetrically. Without a bias the classifiers of the model form an orthogonal frame
instead of a simplex. This script integrates the flows of all these models from Gaussian starts to
rest, on several classes of real images, and compares their ends with the formulas at the measured
interpolation gap.
"""

import time
from argparse import Namespace

import jax
import jax.numpy as jnp
import numpy as np
from rangamani_data import add_data_flags, add_run_flags, checked_flags, load
from script import Parser, configure_jax, folder_name, run_script, save_results, table

import nc_jax as nc
from nc_jax.problems import relu

MEASURES = ("objective", "ji_within_class_variation", "ji_self_duality", "zhu_nc1")


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags; with the defaults the script takes minutes on two cores."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add_data_flags(parser, [0, 1, 2], 20)
    add("--decay", type=float, default=0.004,
        help="lambda of (sum |y - f|^2 + lambda |W|^2 of each layer)/2 (%(default)g)")  # fmt: skip
    add("--time", type=float, default=1500.0, help="end of the flows (%(default)g)")
    add("--rtol", type=float, default=1e-4, help="relative tolerance of the flows (%(default)g)")
    add_run_flags(parser, 5, "starts of each", "results/rangamani_collapse")
    return parser, checked_flags(parser, arguments, ("time", "rtol", "decay"))


def build(data: tuple, flags: Namespace) -> dict[str, nc.problems.AbstractProblem]:
    """The models by name: some have a bias or centred targets, others neither."""
    inputs, one_hot = data[:2]
    classes = one_hot.shape[1]
    sizes = (len(one_hot) // classes,) * classes
    decay = nc.WeightDecay(classifier=flags.decay, features=flags.decay)

    def features(bias: bool) -> nc.UnconstrainedFeatures:
        return nc.UnconstrainedFeatures(
            sizes,
            max(flags.widths),
            loss=nc.SquaredError(),
            reduction="sum",
            bias=bias,
            weight_decay=decay,
        )

    def net(targets, parametrization, decay_on) -> nc.NormalizedReLUNet:
        # With rounded kinks the field is smooth and RKC is accurate (docs/relu.md).
        return nc.NormalizedReLUNet(
            inputs, targets, flags.widths, parametrization=parametrization, reduction="sum",
            weight_decay=flags.decay, decay_on=decay_on, activation=nc.SmoothReLU(width=1e-5),
        )  # fmt: skip

    return {
        "features, bias": features(True),
        "net, centred": net(one_hot - 1 / classes, relu.Cartesian(), relu.EachLayer()),
        "net, centred, WN": net(
            one_hot - 1 / classes, relu.WeightNormalization(), relu.WholeNorm()
        ),
        "features, no bias": features(False),
        "net, one-hot": net(one_hot, relu.Cartesian(), relu.EachLayer()),
    }


def last_layer(problem, state) -> nc.LastLayer:
    """The last layer of a state of either kind of problem."""
    return state if isinstance(state, nc.LastLayer) else problem.last_layer(state)


def outputs_and_targets(problem, state) -> tuple[jax.Array, jax.Array]:
    """Outputs (N, C) and targets of a model: one-hot, or centred if the model's are."""
    scores = last_layer(problem, state).logits()
    if isinstance(problem, nc.NormalizedReLUNet):
        return scores, jnp.asarray(problem.targets)
    return scores, jax.nn.one_hot(problem.labels, problem.num_classes, dtype=scores.dtype)


def observe(problem, state) -> dict[str, jax.Array]:
    """Measures of collapse, and the cosines of all pairs of classifiers."""
    layer = last_layer(problem, state)
    metrics = nc.metrics.collapse_metrics(layer, problem.labels)
    pairs = np.triu_indices(layer.classifier.shape[0], 1)
    return {
        "objective": problem.objective(state),
        **{name: metrics[name] for name in MEASURES[1:]},
        "cosines": nc.geometry.cosines(layer.classifier)[pairs],
    }


def run_flow(problem, flags: Namespace) -> nc.Trajectory:
    """The flow from every seed."""
    times = np.concatenate([[0.0], np.geomspace(1e-2, flags.time, 80)])

    def run(seed) -> nc.Trajectory:
        start = problem.init(jax.random.fold_in(jax.random.key(0), seed))
        return nc.gradient_flow(
            problem, start, times, clock=nc.RealTime(), solver=nc.RKC(), rtol=flags.rtol,
            atol=flags.rtol / 1000, observe=lambda state: observe(problem, state),
        )  # fmt: skip

    seeds = flags.seed + np.arange(flags.seeds)
    return jax.block_until_ready(jax.jit(jax.vmap(run))(seeds))


def is_simplex(problem) -> bool:
    """Whether a bias, or centred targets, allow symmetric quasi-interpolation."""
    if isinstance(problem, nc.UnconstrainedFeatures):
        return problem.bias
    return bool(np.allclose(np.sum(problem.targets, axis=1), 0))


def measure(problem, state, decay: float) -> dict[str, float]:
    """The end of one run, compared with the formulas for its measured interpolation gap.

    The formulas are those of theorem 3; of theorem 11 for weight normalisation; and of the
    orthogonal frame for models without a bias or centred targets.
    """
    layer = last_layer(problem, state)
    outputs, targets = (np.asarray(x) for x in outputs_and_targets(problem, state))
    labels, rows = np.asarray(problem.labels), np.asarray(layer.classifier)
    classes, size = rows.shape[0], len(labels) // rows.shape[0]
    errors = targets - outputs
    gap = float(np.mean(errors[np.arange(len(labels)), labels]))
    means = np.stack([np.asarray(layer.features)[labels == c].mean(axis=0) for c in range(classes)])
    # Symmetric interpolation: one error at the true class, one at all others, of sum zero.
    other_gap = -gap / (classes - 1) if is_simplex(problem) else 0.0
    assumed = np.where(np.arange(classes) == labels[:, None], gap, other_gap)
    if is_simplex(problem):
        form = nc.exact.simplex_geometry(gap, decay, classes, size)
        inner, means = form.inner_product, means - means.mean(axis=0)
    else:
        form, inner = nc.exact.orthogonal_geometry(gap, decay, classes, size), 0.0
    factor, row = form.classifier_over_means, form.squared_norm
    scheme = getattr(problem, "parametrization", None)
    if isinstance(scheme, relu.WeightNormalization):
        last, norm = state.norms[-1], jnp.prod(state.norms)
        unit = nc.exact.normalized_geometry(gap, norm, classes, size)
        # The formulas are for V_L and normalised features. The rows here are those of ρ_L V_L, and
        # the features contain the norms of the layers below as a factor.
        factor = unit.direction_over_means * last**2 / norm
        row, inner = unit.squared_norm * last**2, unit.inner_product * last**2
    gram, off = rows @ rows.T, ~np.eye(classes, dtype=bool)
    return {
        "gap": gap,
        "uneven": float(np.abs(errors - assumed).max()),
        "row": float(np.mean(np.diag(gram))),
        "row, theory": float(row),
        "inner": float(np.mean(gram[off])),
        "inner, theory": float(inner),
        "cosine": float(np.mean(np.asarray(nc.geometry.cosines(layer.classifier))[off])),
        "cosine, theory": float(form.cosine),
        "means": float(np.linalg.norm(rows - float(factor) * means) / np.linalg.norm(rows)),
    }


def show(found: dict[str, list[dict[str, float]]]) -> str:
    """Table of medians over seeds, a row for each model: measured value / value of the theory."""
    columns = {
        "model": "", "gap": "mean of target less output at the true class",
        "uneven by": "largest deviation of an output from symmetric interpolation at that gap",
        "|W^c|^2 / (34)": "squared norm of a classifier, measured / by the equation",
        "<W^c, W^c'> / (36)": "inner product of two", "cosine / theory": "of two",
        "off (33)": "relative distance of classifiers from multiples of the class means",
    }  # fmt: skip
    rows = []
    for name, ends in found.items():
        of = {key: float(np.median([end[key] for end in ends])) for key in ends[0]}
        both = [f"{of[k]:.4f} / {of[f'{k}, theory']:.4f}" for k in ("row", "inner", "cosine")]
        rows.append([name, f"{of['gap']:.5f}", f"{of['uneven']:.1e}", *both, f"{of['means']:.1e}"])
    return table(columns, rows)


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Run, print, save."""
    configure_jax()
    data = load(parser, flags)
    size = data[0].shape[1]
    print(
        f"{flags.dataset}, classes {flags.classes}, {len(data[0])} samples; ReLU net {size}-"
        f"{'-'.join(map(str, flags.widths))}-{len(flags.classes)} and unconstrained features"
    )
    runs, found = {}, {}
    try:
        problems = build(data, flags)
    except ValueError as error:
        parser.refuse(error)
    for name, problem in problems.items():
        began = time.perf_counter()
        try:
            runs[name] = run_flow(problem, flags)
        except ValueError as error:
            parser.refuse(error)
        print(f"{name}: {time.perf_counter() - began:.1f} s with compilation")
        failed = int(np.sum(~np.asarray(runs[name].succeeded)))
        if failed:
            print(f"{failed} of {flags.seeds} runs did not reach the end: raise --rtol")
        finals = [jax.tree.map(lambda x, i=i: x[i], runs[name].final) for i in range(flags.seeds)]
        found[name] = [measure(problem, final, flags.decay) for final in finals]
    print("\nmedians over seeds at the end, theory at the measured gap")
    print(show(found))
    seeds = flags.seed + np.arange(flags.seeds)
    flows = {
        name: nc.storage.to_dataset(run, dims={"cosines": ["pair"]}).assign_coords(seed=seeds)
        for name, run in runs.items()
    }

    def draw():
        from figures.rangamani_collapse import frames_figure

        return {"rangamani_collapse": frames_figure(flows, len(flags.classes))}

    save_results(flags, {folder_name(name): flow for name, flow in flows.items()}, draw)


if __name__ == "__main__":
    main()
