"""Figure 2 of Ji et al. from the exact gradient flow of the unconstrained layer-peeled model.

Integrates W' = -dL/dW, H' = -dL/dH of eq. 2.3 (summed cross-entropy, no decay) from a Gaussian
start to t = 10^DECADES, prints a table by decades of t, and saves the figure and the results.
"""

import math
import sys
import time
from argparse import Namespace

import diffrax
import jax
import numpy as np
import optax
from script import Parser, nearest, number, table, writable_folder

import nc_jax as nc

SOLVERS = ("Bosh3", "Dopri5", "Dopri8", "Kvaerno3", "Kvaerno4", "Kvaerno5", "Tsit5")
LEARNING_RATE, DESCENT_STEPS = 5.0, 100_000
# Observable, column, exponent of log t that the flow tends to. Ji reports -1 for all; within-class
# spread has -1/2 once d > K-1, since features orthogonal to all classifiers never move.
MEASURES = (
    ("ji_feature_norm_variation", "norms H", -1.0),
    ("ji_classifier_norm_variation", "norms W", -1.0),
    ("ji_within_class_variation", "within", -0.5),
    ("ji_feature_cosine_gap", "cos H", -1.0),
    ("ji_classifier_cosine_gap", "cos W", -1.0),
    ("ji_self_duality", "duality", -1.0),
)


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """Flags, with the paper's setting as defaults."""
    parser = Parser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--K", type=int, default=5, help="classes (%(default)s)")
    add("--d", type=int, default=20, help="feature dimension (%(default)s)")
    add("--n", type=int, default=10, help="samples of each class (%(default)s)")
    add("--norm", type=float, default=1.0, help="start's ||W||_F = ||H||_F (%(default)s)")
    add(
        "--seed",
        type=int,
        default=0,
        help="seed of the start, the first with --seeds (%(default)s)",
    )
    add(
        "--seeds",
        type=int,
        default=1,
        help="runs, under one jit and vmap; draws bands (%(default)s)",
    )
    add("--decades", type=float, default=1000.0, help="integrate to t = 10^DECADES (%(default)g)")
    add("--gd", action="store_true", help="add the paper's run: descent on the mean loss at rate 5")
    add("--dtype", choices=("float64", "float32"), default="float64", help="(%(default)s)")
    add("--solver", choices=SOLVERS, default="Tsit5", help="Diffrax solver (%(default)s)")
    add("--rtol", type=float, help="relative tolerance (1e-8; for float32 1e-5)")
    add("--out", type=writable_folder, default="results/ulpm_flow", help="folder (%(default)s)")
    add("--no-plot", action="store_true", help="save no figure")
    return parser, parser.parse_args(arguments)


def save_times(decades: float, dtype: str) -> np.ndarray:
    """Times as log(1+t): 0, whole decades to read off, and a grid even in log log t between."""
    stop = np.logaddexp(0, decades * math.log(10))
    grid = np.geomspace(min(math.log1p(0.1), stop / 2), stop, 200)
    return np.unique(
        np.concatenate([[0.0], grid, np.minimum(table_times(decades), stop)]).astype(dtype)
    )


def table_times(decades: float) -> np.ndarray:
    """Decades of t that the table shows, as log(1+t): 1, 2, 5 and their tenfolds."""
    powers = 10.0 ** np.arange(0, math.log10(max(decades, 1)) + 1)
    shown = np.outer(powers, [1, 2, 5]).ravel()
    log10_t = [0.0, *shown[shown < decades], decades]
    return np.logaddexp(0, np.array(log10_t) * math.log(10))


def run_flow(flags: Namespace, problem: nc.UnconstrainedFeatures, start) -> nc.Trajectory:
    """The flow of one start, or of a batch of them under one jit and vmap."""
    times = save_times(flags.decades, flags.dtype)

    def run(state: nc.LastLayer) -> nc.Trajectory:
        return nc.gradient_flow(
            problem, state, times, solver=getattr(diffrax, flags.solver)(), rtol=flags.rtol,
            atol=None if flags.rtol is None else flags.rtol / 100,
            progress_meter=diffrax.TqdmProgressMeter(),
        )  # fmt: skip

    return run(start) if flags.seeds == 1 else jax.jit(jax.vmap(run))(start)


def run_descent(flags: Namespace, start) -> nc.Trajectory:
    """The paper's descent from the same start, on the flow's time: t = rate * step / N."""
    problem = nc.ulpm(flags.K, flags.d, flags.n, reduction="mean")
    optimizer = optax.sgd(LEARNING_RATE)

    def run(state: nc.LastLayer) -> nc.Trajectory:
        descent = nc.gradient_descent(problem, state, optimizer, DESCENT_STEPS)
        return descent.with_time_scaled(LEARNING_RATE / problem.num_samples)

    return run(start) if flags.seeds == 1 else jax.jit(jax.vmap(run))(start)


def show(trajectory: nc.Trajectory, wanted: np.ndarray, samples: int = 1) -> str:
    """Table of a trajectory at the times nearest to the wanted ones; medians over seeds.

    `samples` is the N that a mean loss is multiplied by, so that all tables show summed losses.
    """
    times = np.asarray(trajectory.log_time).reshape(-1, trajectory.log_time.shape[-1])[0]
    seen = {k: np.atleast_2d(np.asarray(v)) for k, v in trajectory.observables.items()}
    median = {name: np.nanmedian(values, axis=0) for name, values in seen.items()}
    drift = np.max([seen[name].max(axis=0) for name in seen if name.endswith("_drift")], axis=0)
    header = ["t", "loss", "margin", "of bound", *(title for _, title, _ in MEASURES), "drift"]
    rows = []
    for i in nearest(times, wanted):
        u = float(times[i])
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
    return table(header, rows)


def show_exponents(trajectory: nc.Trajectory, decades: float) -> str:
    """Fitted exponents of log t over the last decade of log t beside the expected ones."""
    rows = []
    for name, title, expected in MEASURES:
        fitted = np.atleast_1d(trajectory.decay_exponent(name, decades / 10 * math.log(10)))
        spread = f"{fitted.min():.3f} to {fitted.max():.3f}" if fitted.size > 1 else ""
        rows.append([title, f"{np.median(fitted):.3f}", spread, f"{expected:g}"])
    return table(["measure", "exponent of log t", "over seeds", "expected"], rows)


def main(arguments: list[str] | None = None) -> None:
    """Run, print, save."""
    parser, flags = parse(arguments)
    jax.config.update("jax_enable_x64", True)
    if flags.seeds < 1:
        parser.error(f"--seeds {flags.seeds}: give an integer >= 1.")
    if not (math.isfinite(flags.decades) and flags.decades > 0):
        parser.error(f"--decades {flags.decades:g}: give a finite number > 0.")
    try:
        simulate(flags)
    except ValueError as error:
        parser.error(str(error))
    except RuntimeError as error:
        sys.exit(f"{parser.prog}: {error}")


def simulate(flags: Namespace) -> None:
    """Integrate, print the tables, save results and figure."""
    problem = nc.ulpm(flags.K, flags.d, flags.n)

    def draw(seed) -> nc.LastLayer:
        key = jax.random.fold_in(jax.random.key(0), seed)
        return problem.init(key, flags.norm, flags.dtype)

    seeds = flags.seed + np.arange(flags.seeds)
    start = draw(flags.seed) if flags.seeds == 1 else jax.vmap(draw)(seeds)
    print(
        f"ULPM (Ji eq. 2.3): K={flags.K} d={flags.d} n={flags.n}, start norm {flags.norm:g}, "
        f"seed {flags.seed}{f' to {seeds[-1]}' if flags.seeds > 1 else ''}, {flags.solver}, "
        f"{flags.dtype}. The first run compiles for a few seconds.",
        flush=True,
    )
    began = time.perf_counter()
    runs = {"flow": run_flow(flags, problem, start)}
    steps, seconds = np.max(runs["flow"].num_steps), time.perf_counter() - began
    print(f"flow to t = 10^{flags.decades:g}: {steps} steps, {seconds:.1f} s with compilation")
    report(flags, runs["flow"])
    if flags.gd:
        began = time.perf_counter()
        runs["descent"] = jax.block_until_ready(run_descent(flags, start))
        print(
            f"\ndescent on the mean loss at rate {LEARNING_RATE:g}: {DESCENT_STEPS} steps, "
            f"{time.perf_counter() - began:.1f} s with compilation. On the flow's clock, "
            "t = rate * step / N; losses are sums as above."
        )
        horizon = LEARNING_RATE * DESCENT_STEPS / problem.num_samples
        print(show(runs["descent"], table_times(math.log10(horizon)), problem.num_samples))
    save(flags, runs)


def report(flags: Namespace, flow: nc.Trajectory) -> None:
    """Tables of the flow."""
    failed = flags.seeds - int(np.sum(flow.succeeded))
    if failed:
        print(f"{failed} of {flags.seeds} runs stopped early; they are left out of the medians")
    if flags.seeds > 1:
        print("medians over seeds; the drift is the largest")
    print(show(flow, np.concatenate([[0.0], table_times(flags.decades)])))
    print(f"\nfits from t = 10^{flags.decades / 10:g} to 10^{flags.decades:g}:")
    print(show_exponents(flow, flags.decades))


def save(flags: Namespace, runs: dict[str, nc.Trajectory]) -> None:
    """Results as Zarr stores, and the figure."""
    from nc_jax import plotting, storage

    settings = {name: str(value) for name, value in vars(flags).items()}
    for name, trajectory in runs.items():
        storage.save(storage.to_dataset(trajectory, settings), flags.out / f"{name}.zarr")
    saved = [f"{name}.zarr" for name in runs]
    if not flags.no_plot:
        expected = {name: exponent for name, _, exponent in MEASURES}
        figure = plotting.collapse_figure(runs, slopes=expected)
        figure.savefig(flags.out / "ulpm_flow.png", dpi=130)
        saved.append("ulpm_flow.png")
    print(f"\nsaved in {flags.out}: {', '.join(saved)}")


if __name__ == "__main__":
    main()
