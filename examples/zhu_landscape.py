"""The landscape of Zhu et al.'s regularised model (eq. 3): minimum, saddles, and what flows see.

Searches critical points from many random starts, tells minima from saddles with the global
certificate beside, compares with the closed forms, and follows gradient flows past them. Prints a
table, saves a figure: the spectrum at each explicit point, smallest eigenvalue against gradient
norm of the points found and along the flows, and the loss along each explicit escape direction.
"""

import time
from argparse import Namespace

import jax
import jax.numpy as jnp
import numpy as np
from script import (
    Parser,
    add_output_flags,
    configure_jax,
    run_script,
    save_figure,
    table,
    writable_folder,
)

import nc_jax as nc

FIGURE = "zhu_landscape"
# Critical points are found with a matrix of the state's size, factored at every step.
LARGEST = 600


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """Flags."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--K", type=int, default=4, help="classes (%(default)s)")
    add("--d", type=int, default=4, help="feature dimension (%(default)s)")
    add("--n", type=int, default=2, help="samples of each class (%(default)s)")
    add("--decay", type=float, default=5e-3, help="lambda of W and H (%(default)g)")
    add("--bias-decay", type=float, default=0.0, help="lambda of the bias (%(default)g)")
    add("--starts", type=int, default=256, help="of the search (%(default)s)")
    add("--flows", type=int, default=8, help="gradient flows (%(default)s)")
    add("--seed", type=int, default=0, help="of all starts (%(default)s)")
    add("--out", type=writable_folder, default="results/zhu_landscape", help="folder (%(default)s)")
    add_output_flags(parser)
    return parser, parser.parse_args(arguments)


def check(parser: Parser, flags: Namespace) -> None:
    """Refuse what only this script can judge."""
    for name in ("starts", "flows"):
        if not 1 <= getattr(flags, name) <= 100_000:
            parser.error(f"--{name} {getattr(flags, name)}: give an integer from 1 to 100000.")
    if not 0 <= flags.seed < 2**32:
        parser.error(f"--seed {flags.seed}: give an integer from 0 to 4294967295.")
    # Far outside, verdicts relative to the largest eigenvalue lose their meaning.
    if not 1e-5 <= flags.decay <= 1:
        parser.error(f"--decay {flags.decay:g}: give a number from 1e-5 to 1.")
    if not 0 <= flags.bias_decay <= 1:
        parser.error(f"--bias-decay {flags.bias_decay:g}: give a number from 0 to 1.")
    size = flags.d * flags.K * (flags.n + 1) + flags.K
    if size > LARGEST:
        parser.error(f"--K, --d, --n: a state of {size} numbers; up to {LARGEST} are searched.")


def explicit_points(problem: nc.UnconstrainedFeatures) -> dict[str, nc.LastLayer]:
    """The critical points that have a closed form, by name; the origin alone past the threshold."""
    key = jax.random.key(1)
    points = {"origin": jax.tree.map(jnp.zeros_like, problem.init(key))}
    if nc.landscape.classify(problem, points["origin"]).kind != "strict saddle":
        return points
    points = {"minimum": nc.exact.regularized_minimizer(problem, key), **points}
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
    """A row for each critical point found, named where it is an explicit one."""
    least = float(nc.exact.regularized_minimum(problem))
    certificates = jax.vmap(lambda state: nc.landscape.global_certificate(problem, state))(
        found.states
    )
    names = {name: float(problem.objective(state)) for name, state in points.items()}
    seen, rows = found.classification, []
    for i, loss in enumerate(found.objectives):
        named = [name for name, value in names.items() if abs(value - loss) < 1e-8]
        ratio = certificates.spectral_norm[i] / certificates.threshold[i]
        rows.append(
            [
                f"{abs(loss - least):.6f}",
                str(found.counts[i]),
                seen.kind[i],
                ", ".join(named) or "-",
                f"{seen.eigenvalue[i]:.5f}",
                str(seen.index[i]),
                f"{seen.nullity[i]} ({seen.symmetries[i]})",
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
    """Gradient flows from small starts, classified as they go."""

    least = nc.exact.regularized_minimum(problem)

    def observe(state: nc.LastLayer) -> dict[str, jax.Array]:
        seen = nc.landscape.classify(problem, state)
        return {
            "excess": problem.objective(state) - least,
            "gradient_norm": seen.gradient_norm,
            "eigenvalue": seen.eigenvalue,
        }

    times = np.geomspace(1, 20 / flags.decay, 120)
    flow = nc.Flow(problem, times, nc.RealTime(), nc.RKC(), rtol=1e-6, observe=observe)
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
        decay = nc.WeightDecay(flags.decay, flags.decay, flags.bias_decay)
        problem = nc.zhu(flags.K, flags.d, flags.n, decay)
        points = explicit_points(problem)
    except ValueError as error:
        parser.error(str(error))
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
    store(flags, found, flows)
    saved = ["points.zarr", "flows.zarr"]
    if not flags.no_plot:
        saved.append(draw(flags, problem, points, found, flows))
    print(f"\nsaved in {flags.out}: {', '.join(saved)}")


def store(flags: Namespace, found: nc.landscape.CriticalPoints, flows: nc.Trajectory) -> None:
    """The points found and the flows as Zarr stores."""
    import xarray as xr

    from nc_jax import storage

    settings = {flag: str(value) for flag, value in vars(flags).items()}
    seen = found.classification
    columns = {
        "objective": found.objectives, "count": found.counts, "kind": seen.code,
        "gradient_norm": seen.gradient_norm, "eigenvalue": seen.eigenvalue, "index": seen.index,
        "nullity": seen.nullity, "symmetries": seen.symmetries,
    }  # fmt: skip
    labelled = xr.Dataset(
        {name: ("point", np.asarray(values)) for name, values in columns.items()},
        attrs={**settings, **storage.provenance(), "kinds": ", ".join(nc.landscape.KINDS)},
    )
    storage.save(labelled, flags.out / "points.zarr")
    storage.save(storage.to_dataset(flows, settings), flags.out / "flows.zarr")


def draw(
    flags: Namespace,
    problem: nc.UnconstrainedFeatures,
    points: dict[str, nc.LastLayer],
    found: nc.landscape.CriticalPoints,
    flows: nc.Trajectory,
) -> str:
    """The three panels; returns the file name of the figure."""
    from nc_jax import plotting

    least = float(nc.exact.regularized_minimum(problem))
    spectra, profiles = {}, {}
    steps = np.linspace(0, 6, 241)
    for name, state in points.items():
        spectra[name] = np.linalg.eigvalsh(nc.landscape.dense_hessian(problem, state))
        way = nc.landscape.escape_direction(problem, state)
        if way.case == "null vector":
            moved = jax.vmap(
                lambda step, state=state, way=way: problem.objective(
                    jax.tree.map(lambda x, d: x + step * d, state, way.direction)
                )
            )(steps)
            profiles[name] = np.asarray(moved) - least
    seen = found.classification
    figure = plotting.landscape_figure(
        spectra,
        found={
            "eigenvalue": seen.eigenvalue, "excess": found.objectives - least,
        },
        flows=flows, steps=steps, profiles=profiles,
    )  # fmt: skip
    return save_figure(flags, figure, FIGURE)


if __name__ == "__main__":
    main()
