"""Collapse in motion: classes on a line, a triangle, a square, and at last a tetrahedron.

Integrates the exact flow of the unconstrained layer-peeled model (Ji et al., eq. 2.3) to
t = 10^DECADES from a start near nested saddles: all class means are in two groups, and much smaller
parts split the first group, then the second. While two classes share a place, the part that splits
them grows as e^(sqrt(n) t). Each split after the second is nearly along the direction of the one
before; with K = 4 the four classes are then corners of a square, the saddle of Ji's example 3.1,
which the flow leaves as a power of log t. All classes have the same cloud of features around their
means, and the classifier is rotated against the class means.

Prints a table of the saddles that the flow meets, and saves a movie as a page and as a GIF, a
figure of six frames, and the results.
"""

import math
import time
from argparse import Namespace
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.linalg import expm
from scipy.sparse.csgraph import connected_components
from script import (
    Parser,
    add_model_flags,
    add_output_flags,
    attributes_of,
    check_seed,
    configure_jax,
    number,
    run_script,
    save_figure,
    table,
)

import nc_jax as nc

if TYPE_CHECKING:
    import xarray as xr

FIGURE = "collapse_movie"
# Saves per run; a movie has fewer frames, and stages begin at saves.
SAVES = 600
FIRST_TIME = 0.015
# Names of stages with four classes, by their numbers of places and dimensions.
SHAPES = {(2, 1): "line", (3, 2): "triangle", (4, 2): "square", (4, 3): "tetrahedron"}
# Curves beside the movie, by title.
CURVES = {
    "within-class variation": "ji_within_class_variation",
    "loss of a sample": "sample_loss",
    "margin / largest": "max_margin_ratio",
}
OBSERVED = (
    "objective", "ji_within_class_variation", "ji_classifier_cosine_gap", "ji_self_duality",
    "max_margin_ratio", "balance_drift", "classifier_sum_drift",
)  # fmt: skip


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add_model_flags(parser, num_classes=4, feature_dim=3, samples_per_class=16)
    add("--seed", type=int, default=0,
        help="seed of the clouds of features and of the rotation (%(default)s)")  # fmt: skip
    add("--size", type=float, default=1.25,
        help="size of the two groups at the start, at which logits differ by 2 SIZE^2 "
        "(%(default)g)")  # fmt: skip
    add("--smallest", type=float, default=1e-12,
        help="size of the last split, relative to the two groups (%(default)g)")  # fmt: skip
    add("--tilt", type=float, default=0.15,
        help="share of a new direction in a split after the second (%(default)g)")  # fmt: skip
    add("--spread", type=float, default=0.3,
        help="standard deviation of the features around their means (%(default)g)")  # fmt: skip
    add("--decades", type=float, default=1e3, help="integrate to t = 10^DECADES (%(default)g)")
    add("--rtol", type=float, default=1e-6, help="relative tolerance (%(default)g)")
    add("--frames", type=int, default=84, help="frames of the movie (%(default)s)")
    add_output_flags(
        parser, "results/collapse_movie", contents="the movie, the figure and the results"
    )
    return parser, parser.parse_args(arguments)


def check(parser: Parser, flags: Namespace) -> None:
    """Refuse flags that the package would not refuse."""
    if flags.K < 3:
        parser.error(f"--K {flags.K}: give an integer >= 3.")
    if flags.d < 2:
        parser.error(f"--d {flags.d}: give an integer >= 2; more than 2 classes need a plane.")
    check_seed(parser, flags)
    if not 0.1 <= flags.size <= 10:
        parser.error(f"--size {flags.size:g}: give a number from 0.1 to 10.")
    if not 1e-14 <= flags.smallest <= 0.1:
        parser.error(f"--smallest {flags.smallest:g}: give a number from 1e-14 to 0.1.")
    if not 0 < flags.tilt <= 1:
        parser.error(f"--tilt {flags.tilt:g}: give a number above 0, at most 1.")
    if not 0 <= flags.spread <= 1:
        parser.error(f"--spread {flags.spread:g}: give a number from 0 to 1.")
    if not 10 <= flags.decades <= 1e6:
        parser.error(f"--decades {flags.decades:g}: give a number from 10 to 1e6.")
    if not 1e-12 <= flags.rtol <= 1e-2:
        parser.error(f"--rtol {flags.rtol:g}: give a number from 1e-12 to 0.01.")
    if flags.frames < 6:
        parser.error(f"--frames {flags.frames}: give an integer >= 6.")


def splits(num_classes: int) -> np.ndarray:
    """(K−1, K) rows 1 and −1 on the two halves of a group of classes: all classes, then parts."""
    groups, rows = [np.arange(num_classes)], []
    while len(rows) < num_classes - 1:
        largest = max(range(len(groups)), key=lambda i: len(groups[i]))
        left, right = np.array_split(groups[largest], 2)
        groups[largest : largest + 1] = [left, right]
        row = np.zeros(num_classes)
        # Means of the whole group stay where they are also where the halves differ in size.
        row[left], row[right] = 1, -len(left) / len(right)
        rows.append(row)
    return np.array(rows)


def start(flags: Namespace, problem: nc.UnconstrainedFeatures) -> nc.LastLayer:
    """A state near nested saddles, with ‖W‖_F near ‖H‖_F."""
    rows, dim = splits(flags.K), problem.feature_dim
    sizes = [1.0, *np.geomspace(0.04, flags.smallest, len(rows) - 1)]
    along = np.eye(len(rows), max(dim, len(rows)))
    for j in range(2, len(rows)):
        along[j] = math.sqrt(1 - flags.tilt**2) * along[j - 1] + flags.tilt * along[j]
    # In fewer than K−1 dimensions the last direction takes all further ones.
    along[:, dim - 1] = np.linalg.norm(along[:, dim - 1 :], axis=1)
    means = flags.size * rows.T @ (np.array(sizes)[:, None] * along[:, :dim])
    rng, root = np.random.default_rng(flags.seed), math.sqrt(problem.class_sizes[0])
    cloud = rng.normal(size=(problem.class_sizes[0], dim))
    cloud = flags.size * flags.spread * (cloud - cloud.mean(axis=0))
    skew = rng.normal(size=(dim, dim))
    skew = (skew - skew.T) / np.linalg.norm(skew - skew.T, 2)
    classifier = means @ expm(0.6 * skew)
    features = (means[:, None] + cloud).reshape(-1, dim)
    return nc.LastLayer(
        jnp.asarray(features / math.sqrt(root)), jnp.asarray(classifier * math.sqrt(root)), None
    )


def follow(flags: Namespace, problem: nc.UnconstrainedFeatures) -> nc.Trajectory:
    """The flow, saved even in log log t."""
    ends = np.log1p(FIRST_TIME), flags.decades * math.log(10)
    began = time.perf_counter()
    flow = nc.gradient_flow(
        problem,
        start(flags, problem),
        np.log1p(np.geomspace(*ends, SAVES)),
        clock=nc.LogLogTime(),
        solver=nc.RKC(),
        rtol=flags.rtol,
        # Well below the smallest part of the start, which grows by many orders of magnitude.
        atol=1e-3 * flags.rtol * flags.smallest,
        observe=OBSERVED,
        save_states=True,
    )
    print(
        f"flow of K={flags.K} d={flags.d} n={flags.n} to t = 10^{flags.decades:.10g}: "
        f"{int(flow.num_steps)} steps, {time.perf_counter() - began:.1f} s with compilation"
    )
    return flow


class Stage(NamedTuple):
    """A part of the run in which classes are at the same places.

    Attributes:
        name: words for the shape of the class means.
        first, end: saves at which it begins, and at which the next one does.
        slowest: save at which the directions of the class means change least.
        places: number of the place of each class.
        dims: dimensions that the class means span.
    """

    name: str
    first: int
    end: int
    slowest: int
    places: tuple[int, ...]
    dims: int


def directions(means: np.ndarray) -> np.ndarray:
    """(T, K, d) class means relative to their mean, with ‖M‖_F = 1."""
    centered = means - means.mean(axis=1, keepdims=True)
    return centered / np.linalg.norm(centered, axis=(1, 2), keepdims=True)


def shapes_of(means: np.ndarray) -> list[tuple[tuple[int, ...], int]]:
    """The place of each class, and the number of dimensions, of (T, K, d) class means at each save.

    Classes are at one place if they are linked by distances below half of the smallest one at the
    end. A dimension counts if its singular value is above half of that at the end.
    """
    unit = directions(means)
    distances = np.linalg.norm(unit[:, :, None] - unit[:, None], axis=-1)
    side = distances[-1][~np.eye(means.shape[1], dtype=bool)].min()
    singular = np.linalg.svd(unit, compute_uv=False)
    counted = singular[-1] > 1e-6
    dims = np.sum(singular[:, counted] > singular[-1, counted] / 2, axis=1)
    places = [tuple(connected_components(near)[1].tolist()) for near in distances < side / 2]
    return list(zip(places, dims.tolist(), strict=True))


def stages_of(means: np.ndarray) -> list[Stage]:
    """The shapes that (T, K, d) class means take, without those at fewer than 5 saves."""
    unit, shapes = directions(means), shapes_of(means)
    gram = unit @ unit.swapaxes(1, 2)
    speed = np.linalg.norm(np.gradient(gram, axis=0), axis=(1, 2))
    begins = [i for i in range(len(shapes)) if i == 0 or shapes[i] != shapes[i - 1]]
    stages = []
    for first, end in zip(begins, [*begins[1:], len(shapes)], strict=True):
        places, dims = shapes[first]
        if end - first >= 5:
            slowest = first + int(np.argmin(speed[first:end]))
            stages.append(Stage(name_of(places, dims), first, end, slowest, places, dims))
    return stages


def name_of(places: tuple[int, ...], dims: int) -> str:
    """Words for a shape."""
    count = len(set(places))
    if len(places) == 4 and (count, dims) in SHAPES:
        return SHAPES[count, dims]
    return f"{count} places in {dims} dimension{'s' if dims > 1 else ''}"


def limit_loss(stage: Stage) -> float:
    """Loss of a sample where norms are large: log m for each class whose place has m classes."""
    sizes = np.bincount(stage.places)
    return float(np.mean(np.log(sizes[list(stage.places)])))


def limit_margin(stage: Stage, problem: nc.UnconstrainedFeatures) -> float:
    """Margin over the largest at the critical point; NaN where it is not known in closed form."""
    classes = problem.num_classes
    if len(set(stage.places)) < classes:
        return 0.0
    if stage.dims == classes - 1:
        return 1.0
    if (classes, stage.dims) != (4, 2):
        return math.nan
    saddle = nc.exact.paired_saddle(problem, radius=1.0)
    smallest = nc.metrics.margin_metrics(saddle, problem.labels)["margin_min"]
    return float(smallest / nc.exact.max_margin_bound(problem, 1.0))


def stage_table(data: "xr.Dataset", stages: list[Stage], problem: nc.UnconstrainedFeatures) -> str:
    """Table of the stages: their times, and measures where the flow is slowest."""
    log_time = data["log_time"].values
    log10_t = (log_time + np.log(-np.expm1(-log_time))) / math.log(10)
    rows = []
    for stage in stages:
        at = data.isel(time=stage.slowest)
        margin = limit_margin(stage, problem)
        rows.append(
            [
                stage.name,
                "start" if stage.first == 0 else number(log10_t[stage.first]),
                "end" if stage.end == len(log10_t) else number(log10_t[stage.end]),
                number(log10_t[stage.slowest]),
                f"{float(at['sample_loss']):.4f}",
                f"{limit_loss(stage):.4f}",
                f"{float(at['max_margin_ratio']):.4f}",
                f"{margin:.4f}" if math.isfinite(margin) else "-",
                f"{float(at['ji_classifier_cosine_gap']):.4f}",
            ]
        )
    columns = {
        "stage": "shape of the class means", "from t": "", "to t": "",
        "slowest at t": "where their directions change least in log log t; the rest is there",
        "loss": "of a sample", "limit": "for norms that tend to infinity at these places, and on "
        "the right of the margin at the critical point",
        "margin": "the smallest over the largest of its norm", "limit ": "",
        "cos W": "mean |cosine + 1/(K-1)| of the classifiers, 0 at collapse",
    }  # fmt: skip
    return table(columns, rows)


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Run, print, save."""
    configure_jax()
    check(parser, flags)
    try:
        problem = nc.ulpm(flags.K, flags.d, flags.n)
        flow = follow(flags, problem)
    except ValueError as error:
        parser.refuse(error)
    data = store(flags, flow, problem)
    features = data["state_features"].values
    stages = stages_of(features.reshape(len(features), flags.K, flags.n, flags.d).mean(axis=2))
    print(f"\n{stage_table(data, stages, problem)}")
    drift = max(float(abs(data[name]).max()) for name in OBSERVED if name.endswith("_drift"))
    print(f"\nlargest drift of the invariants: {drift:.1e}")
    saved = [f"{FIGURE}.zarr"]
    if not flags.no_plot:
        saved += draw(flags, data, stages, problem)
    print(f"\nsaved in {flags.out}: {', '.join(saved)}")


def store(flags: Namespace, flow: nc.Trajectory, problem: nc.UnconstrainedFeatures) -> "xr.Dataset":
    """Save the run as a Zarr store; returns it."""
    from nc_jax import storage

    data = storage.to_dataset(flow, attributes=attributes_of(flags))
    data["sample_loss"] = data["objective"] / problem.num_samples
    data["sample_loss"].attrs = {"long_name": "mean loss of a sample", "units": "1"}
    storage.save(data, flags.out / f"{FIGURE}.zarr")
    return data


def draw(
    flags: Namespace, data: "xr.Dataset", stages: list[Stage], problem: nc.UnconstrainedFeatures
) -> list[str]:
    """Save the movie and the figure of six frames; returns the names of the files."""
    from figures.collapse_movie import sheet_figure

    from nc_jax.plotting import collapse_movie

    began = {stage.name: float(data["log_time"][stage.first]) for stage in stages}
    movie = collapse_movie(
        data, problem.labels, observables=CURVES, stages=began, frames=flags.frames
    )
    saved = [save_figure(flags, sheet_figure(movie.frames), FIGURE)]
    saved.append(movie.save(flags.out / f"{FIGURE}.gif").name)
    try:
        saved.append(movie.save(flags.out / f"{FIGURE}.html").name)
    except ModuleNotFoundError as error:
        print(f"no page: {error}")
    return saved


if __name__ == "__main__":
    main()
