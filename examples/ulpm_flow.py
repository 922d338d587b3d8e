"""Figure 2 of Ji et al. from the exact gradient flow of the unconstrained layer-peeled model.

Integrates W' = -dL/dW, H' = -dL/dH of eq. 2.3 (summed cross-entropy, no decay) from a Gaussian
start to t = 10^DECADES. Prints a table of the loss, the margin, the four measures of collapse and
the drift of the invariants by decades of t, fits the powers of log t with which the measures fall,
and saves the figure and the results. --gd adds the paper's gradient descent on the same time axis.
"""

import math
import sys
import time
from argparse import Namespace

import diffrax
import jax
import numpy as np
import optax
from script import (
    Parser,
    add_model_flags,
    add_output_flags,
    attributes_of,
    check_seeds_and_stores,
    configure_jax,
    nearest,
    number,
    run_script,
    save_figures,
    table,
)

import nc_jax as nc

SOLVERS = ("Bosh3", "Dopri5", "Dopri8", "Kvaerno3", "Kvaerno4", "Kvaerno5", "RKC", "Tsit5")
# Beyond 10^FAR the stabilised solver RKC is the fastest at any tolerance (docs/solvers.md).
FAR = 1e4
LEARNING_RATE, DESCENT_STEPS = 5.0, 100_000
FIGURE = "ulpm_flow"
# Observable, column, and the limit of the exponent of log t. Ji reports -1 for all measures. The
# within-class variation has -1/2 if d > K-1: the part of a feature that is orthogonal to all
# classifiers has no gradient and never changes.
MEASURES = (
    ("ji_feature_norm_variation", "norms H", -1.0),
    ("ji_classifier_norm_variation", "norms W", -1.0),
    ("ji_within_class_variation", "within", -0.5),
    ("ji_feature_cosine_gap", "cos H", -1.0),
    ("ji_classifier_cosine_gap", "cos W", -1.0),
    ("ji_self_duality", "duality", -1.0),
)
# What the columns of the tables mean.
MEANINGS = {
    "t": "", "loss": "summed over samples", "margin": "the smallest",
    "of bound": "margin over the largest that its norm allows (theorem 3.1)",
    "norms H": "std/mean of the norms of class means", "norms W": "of classifiers",
    "within": "distance of features from their class mean over that from the mean of all",
    "cos H": "mean |cosine + 1/(K-1)| of class means", "cos W": "of classifiers",
    "duality": "mean distance between directions of class means and classifiers",
    "drift": "largest relative change of a quantity that the exact flow conserves",
}  # fmt: skip


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags; the defaults are those of the paper."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add_model_flags(parser, num_classes=5, feature_dim=20, samples_per_class=10)
    add("--norm", type=float, default=1.0, help="||W||_F = ||H||_F of the start (%(default)s)")
    add("--seed", type=int, default=0, help="number of the (first) start (%(default)s)")
    add("--seeds", type=int, default=1, help="number of starts, drawn as bands (%(default)s)")
    add("--decades", type=float, default=1000.0, help="integrate to t = 10^DECADES (%(default)g)")
    add("--gd", action="store_true", help="add the paper's gradient descent on the mean loss")
    add("--dtype", choices=("float64", "float32"), default="float64",
        help="precision (%(default)s)")  # fmt: skip
    add("--solver", choices=SOLVERS,
        help="RKC in log log time, or a solver of Diffrax in log time (Tsit5; RKC past 10^10000)"
    )  # fmt: skip
    add("--rtol", type=float, help="relative tolerance (1e-8; for float32 1e-5)")
    add_output_flags(parser, "results/ulpm_flow")
    return parser, parser.parse_args(arguments)


def save_times(decades: float, dtype: str, clock: nc.LogTime | nc.LogLogTime) -> np.ndarray:
    """Save times in the clock's coordinate: 0, the times of the table, and a grid in log log t."""
    stop = np.logaddexp(0, decades * math.log(10))
    # From t = 0.1 on; for a very short run from half of its log time on.
    grid = np.geomspace(min(math.log1p(0.1), stop / 2), stop, 200)
    log_times = np.concatenate([[0.0], grid, np.minimum(table_times(decades), stop)])
    on_clock = np.log1p(log_times) if isinstance(clock, nc.LogLogTime) else log_times
    return np.unique(on_clock.astype(dtype))


def table_times(decades: float) -> np.ndarray:
    """log(1+t) of the times in the table: t = 10^x for x = 1, 2, 5, 10, 20, 50 and so on."""
    powers = 10.0 ** np.arange(0, math.log10(max(decades, 1)) + 1)
    shown = np.outer(powers, [1, 2, 5]).ravel()
    log10_t = [0.0, *shown[shown < decades], decades]
    return np.logaddexp(0, np.array(log10_t) * math.log(10))


def run_flow(flags: Namespace, problem: nc.UnconstrainedFeatures, start) -> nc.Trajectory:
    """The flow of one start, or of a batch of starts."""
    if flags.solver == "RKC":
        solver, clock = nc.RKC(), nc.LogLogTime()
    else:
        solver, clock = getattr(diffrax, flags.solver)(), nc.LogTime()
    times = save_times(flags.decades, flags.dtype, clock)
    last = f" to {flags.seed + flags.seeds - 1}" if flags.seeds > 1 else ""
    print(
        f"ULPM (Ji eq. 2.3): K={flags.K} d={flags.d} n={flags.n}, start norm {flags.norm:g}, "
        f"seed {flags.seed}{last}, {flags.solver}, {flags.dtype}. "
        "The first run compiles for a few seconds.",
        flush=True,
    )

    atol = None if flags.rtol is None else flags.rtol / 100
    flow = nc.Flow(problem, times, clock=clock, solver=solver, rtol=flags.rtol, atol=atol)
    began = time.perf_counter()
    if flags.seeds == 1:
        runs = flow(start)
    elif flags.solver.startswith("Kvaerno"):
        # `Flow.batch` takes common steps, which implicit solvers cannot.
        runs = jax.jit(jax.vmap(lambda start: flow(start)))(start)
    else:
        runs = flow.batch(start, throw=False)
    seconds, steps = time.perf_counter() - began, np.max(np.asarray(runs.num_steps))
    print(f"flow to t = 10^{flags.decades:.10g}: {steps} steps, {seconds:.1f} s with compilation")
    return runs


def run_descent(flags: Namespace, start) -> nc.Trajectory:
    """The paper's gradient descent from the same start, with t = rate * step / N as its time."""
    problem = nc.ulpm(flags.K, flags.d, flags.n, reduction="mean")
    optimizer = optax.sgd(LEARNING_RATE)

    def run(state: nc.LastLayer) -> nc.Trajectory:
        descent = nc.gradient_descent(problem, state, optimizer, DESCENT_STEPS)
        return descent.with_time_scaled(LEARNING_RATE / problem.num_samples)

    began = time.perf_counter()
    runs = jax.block_until_ready(run(start) if flags.seeds == 1 else jax.jit(jax.vmap(run))(start))
    print(
        f"\ndescent on the mean loss at rate {LEARNING_RATE:g}: {DESCENT_STEPS} steps, "
        f"{time.perf_counter() - began:.1f} s with compilation. On the flow's clock, "
        "t = rate * step / N; losses are sums as above. Its drift is no rounding error: steps of "
        "finite size do not conserve what the flow does, and the drift falls in proportion to the "
        "rate."
    )
    return runs


def largest_drift(trajectory: nc.Trajectory) -> np.ndarray:
    """Largest drift over invariants and seeds at each save, shape (T,)."""
    recorded = trajectory.observables
    drifts = [np.atleast_2d(recorded[name]) for name in recorded if name.endswith("_drift")]
    return np.nanmax(np.concatenate(drifts), axis=0)


def show(trajectory: nc.Trajectory, wanted: np.ndarray, *, samples: int = 1) -> str:
    """Table of medians over seeds at the saves nearest to the wanted log(1+t).

    Args: `samples` multiplies the loss: N for a mean loss, so that all tables show summed losses.
    """
    times = trajectory.common_log_time()
    recorded = {k: np.atleast_2d(np.asarray(v)) for k, v in trajectory.observables.items()}
    median = {name: np.nanmedian(values, axis=0) for name, values in recorded.items()}
    drift = largest_drift(trajectory)
    rows = []
    for i in nearest(times, wanted):
        u = float(times[i])
        # log t = log(e^u − 1), written so that e^u does not overflow.
        log10_t = (u + math.log(-math.expm1(-u))) / math.log(10) if u else -math.inf
        rows.append(
            [
                number(log10_t),
                number((median["log_objective"].item(i) + math.log(samples)) / math.log(10)),
                f"{median['margin_min'][i]:.4g}",
                f"{median['max_margin_ratio'][i]:.4f}",
                *(f"{median[name][i]:.3g}" for name, _, _ in MEASURES),
                f"{drift[i]:.1e}",
            ]
        )
    return table(MEANINGS, rows)


def expected_exponents(flags: Namespace) -> dict[str, float]:
    """The theory's exponent of each measure.

    There is none for d <= K-1, nor for K = 2, where measures are 0.
    """
    if flags.d <= flags.K - 1 or flags.K == 2:
        return {}
    return {name: exponent for name, _, exponent in MEASURES}


def show_exponents(trajectory: nc.Trajectory, flags: Namespace) -> str:
    """Table of the exponents of log t: fitted over the last decade of log t, and expected."""
    expected, rows = expected_exponents(flags), []
    for name, title, _ in MEASURES:
        fitted = np.atleast_1d(trajectory.decay_exponent(name, flags.decades / 10 * math.log(10)))
        fitted = fitted[np.isfinite(fitted)]
        spread = f"{fitted.min():.3f} to {fitted.max():.3f}" if fitted.size > 1 else ""
        middle = f"{np.median(fitted):.3f}" if fitted.size else "-"
        rows.append([title, middle, spread, f"{expected[name]:g}" if expected else "-"])
    return table(["measure", "exponent of log t", "over seeds", "expected"], rows)


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Run, print, save."""
    flags.solver = flags.solver or ("RKC" if flags.decades > FAR else "Tsit5")
    configure_jax()
    check(parser, flags)
    try:
        problem, start = model_and_start(flags)
        runs = {"flow": run_flow(flags, problem, start)}
    except ValueError as error:
        parser.refuse(error)
    except nc.Interrupted as stopped:
        if stopped.trajectory is None:
            sys.exit(f"{parser.prog}: {stopped}")
        store(flags, "flow", stopped.trajectory)
        sys.exit(f"{parser.prog}: {stopped}; saved in {flags.out}: flow.zarr")
    except RuntimeError as error:
        sys.exit(f"{parser.prog}: {error}")
    report(flags, runs["flow"])
    # Stored before the descent, which may fail.
    store(flags, "flow", runs["flow"])
    if flags.gd:
        try:
            runs["descent"] = run_descent(flags, start)
        except RuntimeError as error:
            sys.exit(f"{parser.prog}: {error}")
        horizon = math.log10(LEARNING_RATE * DESCENT_STEPS / problem.num_samples)
        print(show(runs["descent"], table_times(horizon), samples=problem.num_samples))
        store(flags, "descent", runs["descent"])

    def draw():
        return {FIGURE: nc.plotting.collapse_figure(runs, slopes=expected_exponents(flags))}

    save_figures(flags, draw, saved=[f"{name}.zarr" for name in runs])


def check(parser: Parser, flags: Namespace) -> None:
    """Refuse flags that the package would not refuse."""
    check_seeds_and_stores(parser, flags)
    if not 0 < flags.decades <= 1e9:
        parser.error(f"--decades {flags.decades:g}: give a number above 0, up to 1e9.")
    if not (math.isfinite(flags.norm) and flags.norm > 0):
        parser.error(f"--norm {flags.norm:g}: give a finite number > 0.")


def model_and_start(flags: Namespace) -> tuple[nc.UnconstrainedFeatures, nc.LastLayer]:
    """The model and its start, or a batch of starts."""
    problem = nc.ulpm(flags.K, flags.d, flags.n)

    def start(seed) -> nc.LastLayer:
        key = jax.random.fold_in(jax.random.key(0), seed)
        return problem.init(key, flags.norm, dtype=flags.dtype)

    seeds = np.arange(flags.seed, flags.seed + flags.seeds, dtype=np.uint32)
    # Under one jit the draw is one compiled program instead of a dozen.
    draws = jax.jit(start if flags.seeds == 1 else jax.vmap(start))
    return problem, draws(seeds[0] if flags.seeds == 1 else seeds)


def report(flags: Namespace, flow: nc.Trajectory) -> None:
    """Print the tables of the flow."""
    failed = flags.seeds - int(np.sum(np.asarray(flow.succeeded)))
    if failed:
        print(f"{failed} of {flags.seeds} runs stopped early and count up to where they stopped")
    if flags.seeds > 1:
        print("medians over seeds; the drift is the largest")
    print(show(flow, np.concatenate([[0.0], table_times(flags.decades)])))
    drift = np.nanmax(largest_drift(flow))
    if drift > 1e-3:
        print(f"the invariants drift by {drift:.0e}: lower --rtol, or use float64")
    print(f"\nfits from t = 10^{flags.decades / 10:.10g} to 10^{flags.decades:.10g}:")
    print(show_exponents(flow, flags))


def store(flags: Namespace, name: str, trajectory: nc.Trajectory) -> None:
    """Save a run as a Zarr store."""
    from nc_jax import storage

    storage.save(
        storage.to_dataset(trajectory, attributes=attributes_of(flags)), flags.out / f"{name}.zarr"
    )


if __name__ == "__main__":
    main()
