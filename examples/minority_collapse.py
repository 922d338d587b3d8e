"""Minority collapse: which classes have equal classifiers, at the minimum and along flows.

1. With weight decay, at the minimum: mean cross-entropy with decay lambda on classifiers and
features, for KA majority classes of R*n samples and KB minority classes of n. The minority
classifiers coincide if and only if n <= N^2 lambda^2. With the loss weighted by 1/class size the
majority classifiers coincide, if and only if K^2 R n lambda^2 >= 1, K = KA + KB. Computes the
cosine between two classifiers of a group at the minimum for a grid of R and lambda, and the exact
thresholds, and integrates flows for lambda below and above them.

2. Without weight decay, along flows of the summed loss from a start of norm eps: differences of
classifiers reach order 1 (are learned) at t = log(1/eps)/sqrt(n_A) for the majority classes, of n_A
samples, and at log(1/eps)/sqrt(n_B) for the minority classes. Between these times the minority
classifiers nearly coincide; their distance tends to 0 with eps. Compares the times with the
prediction.

Prints two tables, and saves two figures and the results.
"""

import math
import time
from argparse import Namespace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from script import (
    Parser,
    add_output_flags,
    check_seed,
    configure_jax,
    run_script,
    save_results,
    table,
)
from transient_collapse import NORMS, show_transient, transient_flows

import nc_jax as nc

if TYPE_CHECKING:
    import xarray as xr

FIGURE = "minority_collapse"
TRANSIENT_FIGURE = "minority_transient"
# Flows are integrated at these multiples of the threshold. Closer to it they converge slowly.
FACTORS = (0.4, 0.7, 1.3, 1.6)
# End of the flows, in units of 1/lambda.
RELAXATION_TIMES = 60.0


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--majority", type=int, default=3, help="number KA of majority classes (%(default)s)")
    add("--minority", type=int, default=3, help="number KB of minority classes (%(default)s)")
    add("--n", type=int, default=2, help="samples of a minority class (%(default)s)")
    add("--imbalance", type=float, default=100.0,
        help="largest R = majority size/minority size of the grid (%(default)g)")  # fmt: skip
    add("--grid", type=int, default=81, help="grid points for R and for lambda (%(default)s)")
    add("--flow-imbalance", type=int, default=8, help="R of the flows (%(default)s)")
    add(
        "--transient-imbalance",
        type=int,
        default=16,
        help="R of the flows without decay, with one sample of each minority class (%(default)s)",
    )
    add(
        "--starts",
        type=int,
        default=4,
        help="starts of each norm of the flows without decay (%(default)s)",
    )
    add("--seed", type=int, default=0, help="seed of the starts with decay (%(default)s)")
    add_output_flags(parser, "results/minority_collapse")
    return parser, parser.parse_args(arguments)


def check(parser: Parser, flags: Namespace) -> None:
    """Refuse flags that the package would not refuse."""
    for name in ("majority", "minority"):
        if not 2 <= getattr(flags, name) <= 50:
            parser.error(f"--{name} {getattr(flags, name)}: give an integer from 2 to 50.")
    if not 1 <= flags.n <= 10_000:
        parser.error(f"--n {flags.n}: give an integer from 1 to 10000.")
    if not 2 <= flags.imbalance <= 1e6:
        parser.error(f"--imbalance {flags.imbalance:g}: give a number from 2 to 1e6.")
    if not 2 <= flags.grid <= 400:
        parser.error(f"--grid {flags.grid}: give an integer from 2 to 400.")
    if not 2 <= flags.flow_imbalance <= 100:
        parser.error(f"--flow-imbalance {flags.flow_imbalance}: give an integer from 2 to 100.")
    ratio = flags.transient_imbalance
    if not 4 <= ratio <= 400:
        parser.error(f"--transient-imbalance {ratio}: give an integer from 4 to 400.")
    if not 1 <= flags.starts <= 1000:
        parser.error(f"--starts {flags.starts}: give an integer from 1 to 1000.")
    check_seed(parser, flags)


def thresholds(flags: Namespace, imbalance: np.ndarray) -> dict[str, np.ndarray]:
    """Least lambda at which minority classifiers, or majority ones (weighted loss), coincide."""
    classes = flags.majority + flags.minority
    samples = flags.n * (flags.majority * imbalance + flags.minority)
    return {
        "mean loss": math.sqrt(flags.n) / samples,
        "weighted by class": 1 / (classes * np.sqrt(flags.n * imbalance)),
    }


def cosine(classifier: jax.Array) -> jax.Array:
    """Between the first two classifiers; NaN where they are 0."""
    return jnp.sum(classifier[0] * classifier[1]) / jnp.sum(classifier[0] ** 2)


def cosines_at_minimum(flags: Namespace, imbalance: jax.Array, decay: jax.Array) -> jax.Array:
    """Cosines of the group that merges, for the mean loss and for the weighted one."""
    majority, minority = flags.majority, flags.minority
    # The minimum depends on class sizes only through the weights of a class in loss and decay. The
    # model has sizes 2 and 1 and such weights for every R: other sizes would need a compilation
    # each, and weights are arguments of one program.
    sizes = (2,) * majority + (1,) * minority
    share = jnp.array([1.0] * majority + [0.0] * minority)
    counts = flags.n * (share * imbalance + 1 - share)
    samples = jnp.sum(counts)
    per_sample = counts / jnp.array(sizes, float)
    found = []
    for weights in (jnp.ones(len(sizes)), samples / (len(sizes) * counts)):
        problem = nc.UnconstrainedFeatures(
            sizes, len(sizes), reduction="sum", class_weights=weights * per_sample / samples,
            weight_decay=nc.WeightDecay(classifier=decay, features=decay * per_sample),
        )  # fmt: skip
        classifier = nc.exact.minority_minimizer(problem).classifier
        found.append(cosine(classifier[:majority] if found else classifier[majority:]))
    return jnp.stack(found)


def compute_map(flags: Namespace) -> "xr.Dataset":
    """Cosines over imbalance and decay, with the thresholds."""
    import xarray as xr

    imbalance = np.geomspace(1.001, flags.imbalance, flags.grid)
    lines = thresholds(flags, imbalance)
    ends = np.concatenate(list(lines.values()))
    decays = np.geomspace(ends.min() / 3, 2 * ends.max(), flags.grid)
    over_both = jax.vmap(jax.vmap(cosines_at_minimum, (None, None, 0)), (None, 0, None))
    found = jax.jit(lambda r, decay: over_both(flags, r, decay))(
        jnp.asarray(imbalance), jnp.asarray(decays)
    )
    return xr.Dataset(
        {
            "cosine": (("imbalance", "decay", "loss"), np.asarray(found)),
            "threshold": (("loss", "imbalance"), np.stack(list(lines.values()))),
        },
        {"imbalance": imbalance, "decay": decays, "loss": list(lines)},
    )


def integrate(flags: Namespace) -> "xr.Dataset":
    """Flows from Gaussian starts at several multiples of the thresholds."""
    import xarray as xr

    ratio, majority = flags.flow_imbalance, flags.majority
    sizes = np.array([flags.n * ratio] * majority + [flags.n] * flags.minority)
    lines = thresholds(flags, np.array(float(ratio)))
    start_key = jax.random.key(flags.seed)
    measured, predicted, decays = np.empty((3, 2, len(FACTORS)))
    for i, line in enumerate(lines.values()):
        weights = np.ones(sizes.size) if i == 0 else sizes.sum() / (sizes.size * sizes)
        for j, factor in enumerate(FACTORS):
            decay = factor * float(line)
            problem = nc.UnconstrainedFeatures(
                sizes.tolist(), sizes.size, class_weights=jnp.asarray(weights),
                weight_decay=nc.WeightDecay(classifier=decay, features=decay),
            )  # fmt: skip
            flow = nc.gradient_flow(
                problem, problem.init(start_key), np.array([1.0, RELAXATION_TIMES / decay]),
                clock=nc.RealTime(), observe=("objective",), progress=False,
            )  # fmt: skip
            classifiers = flow.final.classifier, nc.exact.minority_minimizer(problem).classifier
            group = slice(majority) if i else slice(majority, None)
            measured[i, j], predicted[i, j] = (float(cosine(w[group])) for w in classifiers)
            decays[i, j] = decay
    return xr.Dataset(
        {
            "measured": (("loss", "factor"), measured),
            "predicted": (("loss", "factor"), predicted),
            "decay": (("loss", "factor"), decays),
        },
        {"loss": list(lines), "factor": list(FACTORS), "imbalance": float(ratio)},
    )


def show(flows: "xr.Dataset") -> str:
    """Table of the flows."""
    rows = []
    for loss in flows["loss"].values:
        chosen = flows.sel(loss=loss)
        for factor in flows["factor"].values:
            at = chosen.sel(factor=factor)
            rows.append(
                [str(loss), f"{factor:g}", f"{float(at['decay']):.4g}"]
                + [f"{float(at[name]):.8f}" for name in ("measured", "predicted")]
            )
    columns = {
        "loss": "", "lambda/threshold": "", "lambda": "",
        "measured": "cosine between two classifiers of the group at the end of the flow: of the "
        "minority for the mean loss, of the majority for the weighted one",
        "predicted": "at the minimum in closed form: 1 for lambda above the threshold, nan where "
        "the classifiers are 0",
    }  # fmt: skip
    return table(columns, rows)


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Run, print, save."""
    configure_jax()
    check(parser, flags)
    print("The first run compiles for a few seconds.", flush=True)
    began = time.perf_counter()
    minima, flows = compute_map(flags), integrate(flags)
    print(
        f"{2 * flags.grid**2} minima and {flows['measured'].size} flows at R = "
        f"{flags.flow_imbalance}: {time.perf_counter() - began:.1f} s"
    )
    print(show(flows))

    began = time.perf_counter()
    sizes = [flags.transient_imbalance] * flags.majority + [1] * flags.minority
    transient = transient_flows(sizes, len(sizes) + 1, seeds=flags.starts)
    print(
        f"\n{len(NORMS) * flags.starts} flows without decay at R = {flags.transient_imbalance}: "
        f"{time.perf_counter() - began:.1f} s; medians over starts"
    )
    print(show_transient(transient))

    def draw():
        from figures.minority_collapse import phase_figure
        from figures.transient_collapse import transient_figure

        return {
            FIGURE: phase_figure(minima, flows),
            TRANSIENT_FIGURE: transient_figure(transient),
        }

    save_results(flags, {"minima": minima, "flows": flows, "transient": transient}, draw)


if __name__ == "__main__":
    main()
