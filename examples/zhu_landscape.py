"""The landscape of Zhu et al.'s regularised model (eq. 3): minimum, saddles and gradient flows.

Searches critical points from many random starts, classifies them as minima or saddles, evaluates
the certificate of a global minimum, and compares them with the closed forms. Then classifies the
states along gradient flows. Prints a table, and saves the results and a figure: the spectrum at
each explicit point, the smallest eigenvalue against the loss of the points found and along the
flows, and the loss along each explicit escape direction.
"""

import time
from argparse import Namespace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from script import (
    Parser,
    add_model_flags,
    add_output_flags,
    check_seed,
    configure_jax,
    run_script,
    save_results,
    table,
)

import nc_jax as nc

if TYPE_CHECKING:
    import xarray as xr

FIGURE = "zhu_landscape"
# The search factors a matrix of the state's size at every step.
LARGEST = 600


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add_model_flags(parser, num_classes=4, feature_dim=4, samples_per_class=2)
    add("--decay", type=float, default=5e-3, help="weight decay lambda of W and H (%(default)g)")
    add("--bias-decay", type=float, default=0.0, help="weight decay of the bias (%(default)g)")
    add("--starts", type=int, default=256, help="number of starts of the search (%(default)s)")
    add("--flows", type=int, default=8, help="number of gradient flows (%(default)s)")
    add("--seed", type=int, default=0, help="seed of the random key (%(default)s)")
    add_output_flags(parser, "results/zhu_landscape")
    return parser, parser.parse_args(arguments)


def check(parser: Parser, flags: Namespace) -> None:
    """Refuse flags that the package would not refuse."""
    for name in ("starts", "flows"):
        if not 1 <= getattr(flags, name) <= 100_000:
            parser.error(f"--{name} {getattr(flags, name)}: give an integer from 1 to 100000.")
    check_seed(parser, flags)
    # An eigenvalue counts as zero relative to the largest one. Far outside of this range the
    # smallest eigenvalues that matter would count as zero too.
    if not 1e-5 <= flags.decay <= 1:
        parser.error(f"--decay {flags.decay:g}: give a number from 1e-5 to 1.")
    if not 0 <= flags.bias_decay <= 1:
        parser.error(f"--bias-decay {flags.bias_decay:g}: give a number from 0 to 1.")
    size = flags.d * flags.K * (flags.n + 1) + flags.K
    if size > LARGEST:
        parser.error(f"--K, --d, --n: a state of {size} numbers; up to {LARGEST} are searched.")


def explicit_points(problem: nc.UnconstrainedFeatures) -> dict[str, nc.LastLayer]:
    """The critical points with a closed form, by name.

    If the decay is so large that the origin is the minimum, it is the only one.
    """
    key = jax.random.key(1)
    points = {"origin": jax.tree.map(jnp.zeros_like, problem.init(key))}
    if nc.landscape.classify(problem, points["origin"]).kind != "strict saddle":
        return points
    points = {"minimum": nc.exact.regularized_minimizer(problem, key=key), **points}
    classes, dim = problem.num_classes, problem.feature_dim
    for groups in range(2, classes):
        if classes % groups == 0:
            points[f"{groups} groups"] = nc.exact.grouped_saddle(problem, groups, key=key)
    if classes % 2 == 0 and 2 < classes <= 2 * dim:
        points["pairs"] = nc.exact.paired_saddle(problem, key=key)
    for active in range(2, classes):
        points[f"{active} of {classes}"] = nc.exact.subset_saddle(problem, active, key=key)
    return points


def show_found(
    problem: nc.UnconstrainedFeatures,
    found: nc.landscape.CriticalPoints,
    points: dict[str, nc.LastLayer],
) -> str:
    """Table of the critical points found, with the name of those that have a closed form."""
    least = float(nc.exact.regularized_minimum(problem))
    certificates = jax.vmap(lambda state: nc.landscape.global_certificate(problem, state))(
        found.states
    )
    names = {name: float(problem.objective(state)) for name, state in points.items()}
    classified, rows = found.classification, []
    for i, loss in enumerate(found.objectives):
        # A point is identified with a closed form by its loss.
        named = [name for name, value in names.items() if abs(value - loss) < 1e-8]
        ratio = certificates.spectral_norm[i] / certificates.threshold[i]
        rows.append(
            [
                f"{abs(loss - least):.6f}",
                str(found.counts[i]),
                classified.kind[i],
                ", ".join(named) or "-",
                f"{classified.eigenvalue[i]:.5f}",
                str(classified.index[i]),
                f"{classified.nullity[i]} ({classified.symmetries[i]})",
                f"{ratio:.3f}",
                f"{certificates.gap[i]:.1e}",
            ]
        )
    columns = {
        "L - least": "loss over the least", "ends": "starts that end there", "kind": "",
        "explicit": "its closed form's name", "smallest": "eigenvalue of the Hessian off the "
        "symmetries", "index": "number of negative eigenvalues",
        "zero (symm.)": "zero eigenvalues, those by symmetry", "|G|/c": "norm of the gradient by "
        "logits over the certificate's threshold, up to 1 at a global minimum",
        "gap": "certified distance from the least loss",
    }  # fmt: skip
    return table(columns, rows)


def follow(flags: Namespace, problem: nc.UnconstrainedFeatures) -> nc.Trajectory:
    """Gradient flows from small starts, with the class of the state as observables."""

    least = nc.exact.regularized_minimum(problem)

    def observe(state: nc.LastLayer) -> dict[str, jax.Array]:
        classified = nc.landscape.classify(problem, state)
        return {
            "excess": problem.objective(state) - least,
            "gradient_norm": classified.gradient_norm,
            "eigenvalue": classified.eigenvalue,
        }

    times = np.geomspace(1, 20 / flags.decay, 120)
    flow = nc.Flow(problem, times, clock=nc.RealTime(), solver=nc.RKC(), rtol=1e-6, observe=observe)
    # Other random numbers than those of the search.
    keys = jax.random.split(jax.random.key(flags.seed + 1), flags.flows)
    return flow.batch(jax.vmap(lambda key: problem.init(key, 0.1))(keys))


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Run, print, save."""
    configure_jax()
    check(parser, flags)
    try:
        decay = nc.WeightDecay(classifier=flags.decay, features=flags.decay, bias=flags.bias_decay)
        problem = nc.zhu(flags.K, flags.d, flags.n, decay)
        points = explicit_points(problem)
    except ValueError as error:
        parser.refuse(error)
    print(
        f"Zhu eq. 3: K={flags.K} d={flags.d} n={flags.n}, decay {flags.decay:g}, of the bias "
        f"{flags.bias_decay:g}; least loss {nc.exact.regularized_minimum(problem):.8f}",
        flush=True,
    )
    began = time.perf_counter()
    keys = jax.random.split(jax.random.key(flags.seed), flags.starts)
    found = nc.landscape.find_critical_points(problem, keys)
    print(
        f"{len(found.counts)} distinct critical points from {flags.starts} starts "
        f"({found.num_lost} ended at none), {time.perf_counter() - began:.1f} s with compilation"
    )
    print(show_found(problem, found, points))
    kinds = list(np.atleast_1d(found.classification.kind))
    above = found.objectives > float(nc.exact.regularized_minimum(problem)) + 1e-8
    spurious = sum(kind != "strict saddle" for kind, high in zip(kinds, above, strict=True) if high)
    print(f"points above the least loss that are no strict saddle: {spurious}\n")
    flows = follow(flags, problem)
    excess = np.asarray(flows.observables["excess"])[:, -1]
    print(
        f"{flags.flows} flows to t = {20 / flags.decay:g} end {excess.max():.1e} above it at most"
    )
    data = {"points": dataset_of(problem, found), "flows": nc.storage.to_dataset(flows)}

    def draw():
        from figures.zhu_landscape import landscape_figure

        return {FIGURE: landscape_figure(describe(problem, points), data["points"], data["flows"])}

    save_results(flags, data, draw)


def dataset_of(
    problem: nc.UnconstrainedFeatures, found: nc.landscape.CriticalPoints
) -> "xr.Dataset":
    """The points found, over `point`."""
    import xarray as xr

    classified = found.classification
    columns = {
        "objective": found.objectives,
        "excess": found.objectives - float(nc.exact.regularized_minimum(problem)),
        "count": found.counts, "kind": classified.code,
        "gradient_norm": classified.gradient_norm, "eigenvalue": classified.eigenvalue,
        "index": classified.index, "nullity": classified.nullity,
        "symmetries": classified.symmetries,
    }  # fmt: skip
    return xr.Dataset(
        {name: ("point", np.asarray(values)) for name, values in columns.items()},
        attrs={**nc.storage.provenance(), "kinds": ", ".join(nc.landscape.KINDS)},
    )


def describe(problem: nc.UnconstrainedFeatures, points: dict[str, nc.LastLayer]) -> "xr.Dataset":
    """The spectrum at each explicit point, and the loss along its escape direction.

    `eigenvalue` is over (name, number), `excess` over (name, step), NaN for a point without an
    explicit escape direction.
    """
    import xarray as xr

    least, steps = float(nc.exact.regularized_minimum(problem)), np.linspace(0, 6, 241)
    spectra, profiles = [], []
    for state in points.values():
        spectra.append(np.linalg.eigvalsh(nc.landscape.dense_hessian(problem, state)))
        way = nc.landscape.escape_direction(problem, state)
        if way.case != "null vector":
            profiles.append(np.full(steps.shape, np.nan))
            continue
        moved = jax.vmap(
            lambda step, state=state, way=way: problem.objective(
                jax.tree.map(lambda x, d: x + step * d, state, way.direction)
            )
        )(steps)
        profiles.append(np.asarray(moved) - least)
    return xr.Dataset(
        {"eigenvalue": (("name", "number"), spectra), "excess": (("name", "step"), profiles)},
        {"name": list(points), "step": steps},
    )


if __name__ == "__main__":
    main()
