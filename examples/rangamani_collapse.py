"""Theorems 3 and 11 of Rangamani et al.: the frame at a quasi-interpolating critical point.

As printed their hypothesis is empty: without a bias no critical point interpolates symmetrically.
With a free bias or centred targets it holds exactly on the unconstrained-features model under the
square loss, and in a deep ReLU net as far as that net interpolates symmetrically; bias-free, the
model has an orthogonal frame in the place of the simplex. Flows of all of them from Gaussian starts
to rest, on several classes of real images, measured against the formulas at the measured gap.
"""

import time
from argparse import Namespace

import jax
import jax.numpy as jnp
import numpy as np
from rangamani_data import add_data_flags, add_run_flags, checked_flags, load
from script import Parser, configure_jax, folder_name, run_script, save_figure, table

import nc_jax as nc
from nc_jax import storage

SEEN = ("objective", "ji_within_class_variation", "ji_self_duality", "zhu_nc1")


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """Flags, with a setting that takes minutes on two cores as defaults."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add_data_flags(parser, [0, 1, 2], 20)
    add("--decay", type=float, default=0.004,
        help="lambda of (sum |y - f|^2 + lambda |W|^2 of each layer)/2 (%(default)g)")  # fmt: skip
    add("--time", type=float, default=1500.0, help="end of the flows (%(default)g)")
    add("--rtol", type=float, default=1e-4, help="their relative tolerance (%(default)g)")
    add_run_flags(parser, 5, "starts of each", "results/rangamani_collapse")
    return parser, checked_flags(parser, arguments, ("time", "rtol", "decay"))


def build(data: tuple, flags: Namespace) -> dict[str, nc.problems.AbstractProblem]:
    """The models, with and without what makes up for the bias."""
    inputs, one_hot = data[:2]
    classes = one_hot.shape[1]
    sizes = (len(one_hot) // classes,) * classes
    decay = nc.WeightDecay(classifier=flags.decay, features=flags.decay)

    def features(bias: bool) -> nc.UnconstrainedFeatures:
        return nc.UnconstrainedFeatures(
            sizes, max(flags.widths), nc.SquaredError(), "sum", bias, decay
        )

    def net(targets, normalization, decay_on) -> nc.NormalizedReLUNet:
        return nc.NormalizedReLUNet(
            inputs, targets, flags.widths, normalization, reduction="sum",
            weight_decay=flags.decay, decay_on=decay_on, activation=nc.SmoothReLU(1e-5),
        )  # fmt: skip

    return {
        "features, bias": features(True),
        "net, centred": net(one_hot - 1 / classes, "none", "layers"),
        "net, centred, WN": net(one_hot - 1 / classes, "weight", "norm"),
        "features, no bias": features(False),
        "net, one-hot": net(one_hot, "none", "layers"),
    }


def last_layer(problem, state) -> nc.LastLayer:
    """The last layer of either kind of state."""
    return state if isinstance(state, nc.LastLayer) else problem.last_layer(state)


def outputs_and_targets(problem, state) -> tuple[jax.Array, jax.Array]:
    """Scores (N, C) and one-hot targets, centred where the model's are."""
    scores = last_layer(problem, state).logits()
    if isinstance(problem, nc.NormalizedReLUNet):
        return scores, jnp.asarray(problem.targets)
    return scores, jax.nn.one_hot(problem.labels, problem.num_classes, dtype=scores.dtype)


def observe(problem, state) -> dict[str, jax.Array]:
    """Collapse, and the cosines of all pairs of classifiers."""
    layer = last_layer(problem, state)
    seen = nc.metrics.collapse_metrics(layer, problem.labels)
    pairs = np.triu_indices(layer.classifier.shape[0], 1)
    return {
        "objective": problem.objective(state),
        **{name: seen[name] for name in SEEN[1:]},
        "cosines": nc.geometry.cosines(layer.classifier)[pairs],
    }


def run_flow(problem, flags: Namespace) -> nc.Trajectory:
    """The flow from every seed."""
    times = np.concatenate([[0.0], np.geomspace(1e-2, flags.time, 80)])

    def run(seed) -> nc.Trajectory:
        start = problem.init(jax.random.fold_in(jax.random.key(0), seed))
        return nc.gradient_flow(
            problem, start, times, nc.RealTime(), nc.RKC(), rtol=flags.rtol,
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
    """One end against the formulas at its gap: of theorem 3 (11 for weight normalisation), or of
    the orthogonal frame.
    """
    layer = last_layer(problem, state)
    outputs, targets = (np.asarray(x) for x in outputs_and_targets(problem, state))
    labels, rows = np.asarray(problem.labels), np.asarray(layer.classifier)
    classes, size = rows.shape[0], len(labels) // rows.shape[0]
    missed = targets - outputs
    gap = float(np.mean(missed[np.arange(len(labels)), labels]))
    means = np.stack([np.asarray(layer.features)[labels == c].mean(axis=0) for c in range(classes)])
    beside = -gap / (classes - 1) if is_simplex(problem) else 0.0
    assumed = np.where(np.arange(classes) == labels[:, None], gap, beside)
    if is_simplex(problem):
        form = nc.exact.simplex_geometry(gap, decay, classes, size)
        inner, means = form.inner_product, means - means.mean(axis=0)
    else:
        form, inner = nc.exact.orthogonal_geometry(gap, decay, classes, size), 0.0
    factor, row = form.classifier_over_means, form.squared_norm
    if getattr(problem, "normalization", None) == "weight":
        last, norm = state.norms[-1], jnp.prod(state.norms)
        unit = nc.exact.normalized_geometry(gap, norm, classes, size)
        # For rows of ρ_L V_L over features of the layers below, which have their own norms.
        factor = unit.direction_over_means * last**2 / norm
        row, inner = unit.squared_norm * last**2, unit.inner_product * last**2
    gram, off = rows @ rows.T, ~np.eye(classes, dtype=bool)
    return {
        "gap": gap,
        "uneven": float(np.abs(missed - assumed).max()),
        "row": float(np.mean(np.diag(gram))),
        "row, theory": float(row),
        "inner": float(np.mean(gram[off])),
        "inner, theory": float(inner),
        "cosine": float(np.mean(np.asarray(nc.geometry.cosines(layer.classifier))[off])),
        "cosine, theory": float(form.cosine),
        "means": float(np.linalg.norm(rows - float(factor) * means) / np.linalg.norm(rows)),
    }


def show(found: dict[str, list[dict[str, float]]]) -> str:
    """A row for each model: medians over seeds, measured and (after a slash) as the theory says."""
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
        parser.error(str(error))
    for name, problem in problems.items():
        began = time.perf_counter()
        try:
            runs[name] = run_flow(problem, flags)
        except ValueError as error:
            parser.error(str(error))
        print(f"{name}: {time.perf_counter() - began:.1f} s with compilation")
        failed = int(np.sum(~np.asarray(runs[name].succeeded)))
        if failed:
            print(f"{failed} of {flags.seeds} runs did not reach the end: raise --rtol")
        finals = [jax.tree.map(lambda x, i=i: x[i], runs[name].final) for i in range(flags.seeds)]
        found[name] = [measure(problem, final, flags.decay) for final in finals]
    print("\nmedians over seeds at the end, theory at the measured gap")
    print(show(found))
    attributes = {name: str(value) for name, value in vars(flags).items()}
    saved = []
    for name, run in runs.items():
        store = f"{folder_name(name)}.zarr"
        dataset = storage.to_dataset(run, attributes, dims={"cosines": ["pair"]})
        seeds = flags.seed + np.arange(flags.seeds)
        storage.save(dataset.assign_coords(seed=seeds), flags.out / store)
        saved.append(store)
    if not flags.no_plot:
        from nc_jax import plotting

        figure = plotting.frames_figure(runs, len(flags.classes))
        saved.append(save_figure(flags, figure, "rangamani_collapse"))
    print(f"\nsaved in {flags.out}: {', '.join(saved)}")


if __name__ == "__main__":
    main()
