"""Example 3.1 of Ji et al.: a saddle of the margin problem, and how slowly the flow leaves it.

Draws the loss along the paper's curve through the saddle, and integrates the exact flow of K=4, n=1
from points at distances EPS from the saddle along that curve. Measures when each flow leaves the
saddle (log t grows as EPS^-2) and where it ends. Then integrates the unconstrained layer-peeled
model (eq. 2.3) at d = K-1 from Gaussian starts, a few of which stay near other saddles beyond
t = 10^1000. Prints tables, and saves a figure and the results.
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
    configure_jax,
    number,
    run_script,
    save_results,
    table,
)

import nc_jax as nc

if TYPE_CHECKING:
    pass

EXAMPLE = nc.ulpm(4, 4, 1)
# The margin divided by the largest is 3/4 at the saddle and 1 at collapse. A flow counts as having
# left the saddle from the middle between these on.
LEFT_RATIO = 0.875
# log10 of the times in the table of the Gaussian starts. Their flows end at the last one, since
# hundreds of flows to 10^(10^6) would take minutes.
SHOWN = (10.0, 100.0, 1e3, 1e4)
FIGURE = "ulpm_saddle"


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--eps", type=float, nargs="+", default=np.geomspace(0.3, 1e-3, 11).tolist(),
        metavar="EPS", help="distances from the saddle along its curve (0.3 to 1e-3)")  # fmt: skip
    add("--decades", type=float, default=1e6, help="integrate to t = 10^DECADES (%(default)g)")
    add("--rtol", type=float, default=1e-6, help="relative tolerance (%(default)g)")
    add("--K", type=int, default=5, argument="num_classes",
        help="classes of the Gaussian starts (%(default)s)")  # fmt: skip
    add("--n", type=int, default=10, argument="samples_per_class",
        help="samples of each class of the Gaussian starts (%(default)s)")  # fmt: skip
    add("--seeds", type=int, default=256, help="number of Gaussian starts (%(default)s)")
    add_output_flags(parser, "results/ulpm_saddle")
    return parser, parser.parse_args(arguments)


def check(parser: Parser, flags: Namespace) -> None:
    """Refuse flags that the package would not refuse."""
    for eps in flags.eps:
        if not 1e-6 <= eps < 0.5:
            parser.error(f"--eps {eps:g}: give numbers from 1e-6 to below 0.5, which is collapse.")
    if len(set(flags.eps)) < len(flags.eps):
        parser.error("--eps: give each distance once.")
    if not 10 <= flags.decades <= 1e8:
        parser.error(f"--decades {flags.decades:g}: give a number from 10 to 1e8.")
    if not 1e-12 <= flags.rtol <= 1e-2:
        parser.error(f"--rtol {flags.rtol:g}: give a number from 1e-12 to 0.01.")
    if flags.seeds < 1:
        parser.error(f"--seeds {flags.seeds}: give an integer >= 1.")


def follow(
    flags: Namespace, problem: nc.UnconstrainedFeatures, starts, decades: float, saves: int
) -> nc.Trajectory:
    """Flows of a batch of starts to t = 10^decades, saved even in log log t."""
    log10_t = np.geomspace(0.1, decades, saves)
    # The times of the table are added, so that the table need not interpolate.
    log10_t = np.unique(np.append(log10_t, [d for d in SHOWN if d <= decades]))
    times = np.log1p(np.logaddexp(0, log10_t * math.log(10)))

    def observe(state: nc.LastLayer) -> dict[str, jax.Array]:
        margins = nc.metrics.margin_metrics(state, problem.labels)
        bound = nc.exact.max_margin_bound(problem, jnp.sqrt(margins["squared_norm"]))
        # The (K−1)-th singular value vanishes at saddles, whose rank is K−2, and not at collapse.
        singular = jnp.linalg.svd(state.classifier, compute_uv=False)
        return {
            "max_margin_ratio": margins["margin_min"] / bound,
            "smallest_singular": singular[problem.num_classes - 2]
            / jnp.sqrt(margins["squared_norm"]),
        }

    flow = nc.Flow(
        problem,
        times,
        clock=nc.LogLogTime(),
        solver=nc.RKC(),
        rtol=flags.rtol,
        atol=flags.rtol / 100,
        observe=observe,
    )
    began = time.perf_counter()
    runs = flow.batch(starts, throw=False)
    size = runs.num_steps.size
    print(
        f"{size} flows to t = 10^{decades:.10g}: {np.max(runs.num_steps)} steps, "
        f"{time.perf_counter() - began:.1f} s with compilation"
    )
    failed = size - int(np.sum(runs.succeeded))
    if failed:
        print(f"{failed} of {size} flows stopped early: raise --rtol or lower --decades")
    return runs


def leaving_times(runs: nc.Trajectory, ratio: float) -> np.ndarray:
    """(runs,) log t when the margin first exceeds a share of its bound, NaN if it never does."""
    # Saves are evenly spaced in log log t, in which the margin is interpolated.
    log_time = np.log(runs.common_log_time())

    def first(values: np.ndarray) -> float:
        i = int(np.argmax(values > ratio))
        if not values[i] > ratio:
            return math.nan
        if i == 0:
            return math.exp(log_time[0])
        return math.exp(np.interp(ratio, values[i - 1 : i + 1], log_time[i - 1 : i + 1]))

    return np.array([first(values) for values in np.asarray(runs.observables["max_margin_ratio"])])


def escape_table(flags: Namespace, runs: nc.Trajectory, left: np.ndarray) -> str:
    """Table of the flows: leaving time, EPS^2 log t, local power of EPS, state at the end."""
    eps, rows = np.array(flags.eps), []
    for i, (distance, log_time) in enumerate(zip(eps, left, strict=True)):
        state = jax.tree.map(lambda leaf, i=i: leaf[i], runs.final)
        metrics = nc.metrics.collapse_metrics(state, EXAMPLE.labels)
        power = math.nan
        if i:
            power = math.log(log_time / left[i - 1]) / math.log(distance / eps[i - 1])
        rows.append(
            [
                f"{distance:.3g}",
                number(log_time / math.log(10)) if math.isfinite(log_time) else "not yet",
                f"{distance**2 * log_time:.4f}",
                f"{power:.3f}" if math.isfinite(power) else "-",
                f"{float(runs.observables['max_margin_ratio'][i, -1]):.6f}",
                f"{float(metrics['ji_classifier_cosine_gap']):.1e}",
            ]
        )
    columns = {
        "eps": "distance from the saddle at the start",
        "leaves at t": f"margin passes {LEFT_RATIO} of the largest", "eps^2 log t": "",
        "power": "of eps with which log t grows, between this row and the one above",
        "margin": "at the end, over the largest",
        "cos W": "mean |cosine + 1/(K-1)| of classifiers at the end, 0 at collapse",
    }  # fmt: skip
    return table(columns, rows)


def slow_table(runs: nc.Trajectory) -> str:
    """Table of the Gaussian starts that end below 0.97 of the largest margin."""
    decades = runs.common_log_time() / math.log(10)
    ratios = np.asarray(runs.observables["max_margin_ratio"])
    singular = np.asarray(runs.observables["smallest_singular"])
    shown = [int(np.abs(decades - d).argmin()) for d in SHOWN if d <= 1.01 * decades[-1]]
    rows = []
    for seed in np.flatnonzero(ratios[:, -1] < 0.97):
        growth = "-"
        if len(shown) > 2:
            change = np.log(singular[seed, shown[2]] / singular[seed, shown[1]])
            growth = f"{change / np.log(decades[shown[2]] / decades[shown[1]]):.2f}"
        rows.append([str(seed), *(f"{ratios[seed, i]:.4f}" for i in shown), growth])
    columns = {
        "seed": "", **{f"10^{decades[i]:.0f}": "" for i in shown},
        "growth": "power of log t of the smallest singular value over the norm, 10^100 to 10^1000; "
        "the rest: margin over the largest, by t",
    }  # fmt: skip
    return table(columns, rows) if rows else "none"


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Run, print, save."""
    configure_jax()
    check(parser, flags)
    try:
        model = nc.ulpm(flags.K, flags.K - 1, flags.n)
        show_saddle()
        print(f"\nflows from distance eps, which leave where the margin passes {LEFT_RATIO}:")
        starts = jax.vmap(nc.exact.example_3_1)(jnp.asarray(flags.eps))
        runs = follow(flags, EXAMPLE, starts, flags.decades, 400)
        left = leaving_times(runs, LEFT_RATIO)
        print(escape_table(flags, runs, left))
        print(f"\nGaussian starts, K={flags.K} d={flags.K - 1} n={flags.n}, still below 0.97:")
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(np.arange(flags.seeds))
        decades = min(flags.decades, SHOWN[-1])
        gaussian = follow(flags, model, jax.vmap(model.init)(keys), decades, 60)
    except ValueError as error:
        parser.refuse(error)
    print(slow_table(gaussian))
    escape = nc.storage.to_dataset(runs, runs=("eps",)).assign_coords(eps=flags.eps)
    escape = escape.assign(leaving_log_time=("eps", left))
    others = nc.storage.to_dataset(gaussian)

    def draw():
        from figures.ulpm_saddle import escape_figure

        return {FIGURE: escape_figure(escape, others)}

    save_results(flags, {"escape": escape, "gaussian": others}, draw)


def show_saddle() -> None:
    """Print the saddle's curvature by closed form and autodiff, and its class by `nc.landscape`."""
    state = nc.exact.example_3_1()
    by_autodiff = jax.grad(jax.grad(lambda a: EXAMPLE.objective(nc.exact.example_3_1(a))))(0.0)
    found = nc.landscape.classify(nc.landscape.OnSphere(EXAMPLE), state)
    way = nc.landscape.tangent_descent_direction(EXAMPLE, state)
    reach = nc.landscape.descent_range(nc.landscape.OnSphere(EXAMPLE), state, way.direction)
    least, _ = nc.exact.sphere_optimum(EXAMPLE, 4.0)
    print(
        f"example 3.1: L = {EXAMPLE.objective(state):.7f}, least on its sphere {least:.7f}\n"
        f"  L''(0) along the curve: {nc.exact.EXAMPLE_3_1_CURVATURE:.9f}, "
        f"by autodiff {by_autodiff:.9f}\n"
        f"  a {found.kind} of its sphere: smallest eigenvalue {found.eigenvalue:.6f}, "
        f"{found.index} negative, {found.nullity} zero of which {found.symmetries} by symmetry\n"
        f"  direction of theorem 3.4 ({way.case}): curvature {way.curvature:.6f}, "
        f"loss lower up to an angle of {reach:.3f}"
    )


if __name__ == "__main__":
    main()
