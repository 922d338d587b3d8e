"""Super-classes in a model whose features move by a kernel: coarse before fine, and what stays.

Two samples i, j have the kernel gd if they are of one class, gs if their classes are in one
super-class, and g0 otherwise. The features of cross-entropy without decay move by
H' = -Theta dL/dH. With mu the eigenvalues of P Theta P (P subtracts the mean over classes), a start
of norm eps learns the differences of super-classes, of the larger mu, at t = log(1/eps)/sqrt(mu),
and those of the classes within a super-class later, by the same formula.

Late in the flow all logits become symmetric, as without a kernel, but features and classifiers do
not: the cosines of their directions tend to those of (P Theta P)^(1/2) and its pseudo-inverse. The
script prints and draws both: times of learning, and cosines as measured, as predicted at that time,
and in the limit. There is one sample in each class; more samples act like a kernel of the class
means.
"""

import math
import time
from argparse import Namespace

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from script import (
    Parser,
    add_output_flags,
    configure_jax,
    number,
    run_script,
    save_results,
    table,
)
from transient_collapse import NORMS, first_time, from_small_starts, slope_of

import nc_jax as nc

FIGURE = "superclasses"
STAGES = ("coarse", "fine")
PAIRS = ("one super-class", "two super-classes")
OBJECTS = ("classifiers", "class means")
# For smaller log t the prediction is not accurate.
PREDICTED_FROM = 20.0


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--groups", type=int, default=2, help="super-classes (%(default)s)")
    add("--classes", type=int, default=2, help="classes of each super-class (%(default)s)")
    add("--gd", type=float, default=1.0, help="kernel within a class (%(default)g)")
    add("--gs", type=float, default=0.6, help="kernel within a super-class (%(default)g)")
    add("--g0", type=float, default=0.1, help="kernel across super-classes (%(default)g)")
    add("--seeds", type=int, default=4, help="small starts of each norm (%(default)s)")
    add("--decades", type=float, default=300.0, help="integrate to t = 10^DECADES (%(default)g)")
    add_output_flags(parser, "results/superclasses")
    return parser, parser.parse_args(arguments)


def check(parser: Parser, flags: Namespace) -> None:
    """Refuse flags that the package would not refuse."""
    for name in ("groups", "classes"):
        if getattr(flags, name) < 2:
            parser.error(f"--{name} {getattr(flags, name)}: give an integer >= 2.")
    if flags.seeds < 1:
        parser.error(f"--seeds {flags.seeds}: give an integer >= 1.")
    if not flags.gd > flags.gs > flags.g0:
        given = f"--gd {flags.gd:g} --gs {flags.gs:g} --g0 {flags.g0:g}"
        parser.error(f"{given}: give gd > gs > g0, so that classes of a super-class are similar.")
    if not 20 <= flags.decades <= 1e4:
        parser.error(f"--decades {flags.decades:g}: give a number from 20 to 1e4.")


def model(flags: Namespace) -> nc.KernelFeatures:
    """The model with one sample in each class."""
    sizes = (flags.classes,) * flags.groups
    kernel = nc.problems.ClassKernel.superclasses(sizes, flags.gd, flags.gs, flags.g0)
    count = flags.groups * flags.classes
    return nc.KernelFeatures((1,) * count, count, kernel=kernel, reduction="sum")


def run_stages(flags: Namespace, problem: nc.KernelFeatures) -> xr.Dataset:
    """Flows from small starts of every norm, and the times at which they learn the contrasts."""
    rates = nc.exact.kernel_rates(problem)[[0, -1]]
    # Times in units of log(1/eps), in which the stages of all norms are at the same places.
    scaled = np.linspace(0, 1.6 / rates[-1], 241)

    def observe(state: nc.LastLayer) -> dict[str, jax.Array]:
        rows = nc.geometry.center(state.classifier)
        means = rows.reshape(flags.groups, flags.classes, -1).mean(axis=1, keepdims=True)
        spread = rows.reshape(flags.groups, flags.classes, -1) - means
        size = math.sqrt(flags.classes)
        return {"coarse": size * jnp.linalg.norm(means), "fine": jnp.linalg.norm(spread)}

    found = from_small_starts(problem, scaled, norms=NORMS, seeds=flags.seeds, observe=observe)
    curves = np.stack([found[name] for name in STAGES], axis=1)
    units = np.log(1 / np.array(NORMS))
    return xr.Dataset(
        {
            "contrast": (("norm", "stage", "seed", "save"), curves),
            "learned_time": (
                ("norm", "stage", "seed"), units[:, None, None] * first_time(scaled, curves)
            ),
            "predicted_time": (("norm", "stage"), units[:, None] / rates),
        },
        {
            "norm": list(NORMS), "stage": list(STAGES), "rate": ("stage", rates),
            "scaled_time": ("save", scaled),
        },
    )  # fmt: skip


def cosines(gram: np.ndarray, classes: int) -> np.ndarray:
    """Cosines of two classes of one super-class and of two, (..., 2), from Gram matrices."""
    norms = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
    pairs = gram[..., 0, :] / (norms[..., :1] * norms)
    return pairs[..., [1, classes]]


def run_late(flags: Namespace, problem: nc.KernelFeatures) -> xr.Dataset:
    """The flow to late times, with the cosines that are predicted for its save times."""
    limit = nc.exact.kernel_limit(problem)
    if not limit.holds:
        raise ValueError(
            f"kernel has the multiplier {limit.smallest_multiplier:.3g}: the limit is known where "
            "all are positive; give other numbers."
        )
    times = np.geomspace(1.0, flags.decades * math.log(10), 100)
    # The start is balanced and has the geometry of the limit.
    run = nc.gradient_flow(
        problem, limit.state(1.0), times, rtol=1e-9, save_states=True, observe=("log_objective",)
    )
    assert run.states is not None
    classifier, features = (
        np.asarray(rows) for rows in (run.states.classifier, run.states.features)
    )
    features = features - features.mean(axis=1, keepdims=True)
    grams = [rows @ rows.swapaxes(1, 2) for rows in (classifier, features)]
    measured = np.stack([cosines(gram, flags.classes) for gram in grams], axis=1)
    gaps, late = nc.exact.late_gap(times), times >= PREDICTED_FROM
    found = jax.vmap(lambda gap: nc.exact.kernel_late_geometry(problem, gap))(gaps[late])
    predicted = np.full_like(measured, np.nan)
    for i, gram in enumerate((found.classifier_gram, found.mean_gram)):
        predicted[late, i] = cosines(np.asarray(gram), flags.classes)
    ends = [cosines(gram, flags.classes) for gram in (limit.classifier_gram, limit.mean_gram)]
    dims = ("time", "object", "pair")
    return xr.Dataset(
        {
            "measured": (dims, measured), "predicted": (dims, predicted),
            "limit": (dims[1:], np.stack(ends)),
            "value_from_loss": (
                "time", np.exp(np.asarray(run.observables["log_objective"] + gaps))
            ),
            "value": limit.value,
        },
        {"log_time": ("time", times), "object": list(OBJECTS), "pair": list(PAIRS)},
    )  # fmt: skip


def show_stages(stages: xr.Dataset) -> str:
    """Table of measured and predicted times by start norm, and their slopes in log(1/eps)."""
    norms = stages["norm"].values
    learned = stages["learned_time"].median("seed").values
    times = np.stack([learned, stages["predicted_time"].values], axis=-1).reshape(len(norms), 4)
    rows = [
        [f"{norm:g}", *(f"{time:.3f}" for time in row)]
        for norm, row in zip(norms, times, strict=True)
    ]
    rows.append(["slope", *(f"{slope_of(norms, column):.4f}" for column in times.T)])
    coarse, fine = stages["rate"].values ** 2
    return table(
        {
            "eps": "norm of W and of H at the start", "t coarse": "super-classes learned",
            f"log(1/eps)/sqrt({coarse:.4g})": "", "t fine": "classes within them learned",
            f"log(1/eps)/sqrt({fine:.4g})": "",
        },
        rows,
    )  # fmt: skip


def show_late(late: xr.Dataset) -> str:
    """Table of cosines at the end of the run."""
    end, rows = late.isel(time=-1), []
    for kind in OBJECTS:
        for pair in PAIRS:
            chosen = end.sel(object=kind, pair=pair)
            numbers = [chosen[name].item() for name in ("measured", "predicted", "limit")]
            rows.append([f"{kind}, {pair}", *(f"{number:.6f}" for number in numbers)])
    return table(
        {
            "cosine of": "", "measured": "at the end of the flow",
            "predicted": "for the same time", "limit": "for t to infinity",
        },
        rows,
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Run, print, save."""
    configure_jax()
    check(parser, flags)
    print("The first run compiles for a few seconds.", flush=True)
    began = time.perf_counter()
    try:
        problem = model(flags)
        late = run_late(flags, problem)
    except ValueError as error:
        parser.refuse(error)
    print(f"late flow: to t = {number(flags.decades)}", flush=True)
    stages = run_stages(flags, problem)
    print(f"{time.perf_counter() - began:.1f} s with compilation\n")
    print(show_stages(stages))
    print(show_late(late))
    print(
        f"V by the loss: {late['value_from_loss'].values[-1]:.6g}, of the limit: "
        f"{late['value'].item():.6g}; without a kernel both cosines are "
        f"{-1 / (problem.num_classes - 1):.4f}"
    )

    def draw():
        from figures.superclasses import superclasses_figure

        return {FIGURE: superclasses_figure(stages, late)}

    save_results(flags, {"flow": late, "stages": stages}, draw)


if __name__ == "__main__":
    main()
