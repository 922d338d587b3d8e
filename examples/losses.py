"""Flows of several losses from one start: logit gaps, and collapse to a simplex.

Integrates the flow of the unconstrained-features model without weight decay for cross-entropy, the
focal loss, label smoothing and squared error. The flows of the first two do not converge: the logit
gap grows as log t/(gamma + 1), with gamma = 0 for cross-entropy, and the summed loss L falls so
that L t log t tends to V/(2(gamma + 1)), V = (K - 1) sqrt n. They are integrated to t = 10^DECADES.
Label smoothing converges to the gap log(K/alpha - (K - 1)), squared error to the gap 1. In these
limits the logits are predicted, but classifiers and features depend on the start and do not form a
simplex. Prints a table of measured and predicted gaps, and saves a figure and the results.
"""

import math
import time
from argparse import Namespace

import jax
import numpy as np
from script import (
    Parser,
    add_model_flags,
    add_output_flags,
    check_seed,
    configure_jax,
    folder_name,
    run_script,
    save_results,
    table,
)

import nc_jax as nc

OBSERVED = (
    "log_objective", "margin_min", "margin_mean", "ji_within_class_variation", "zhu_nc2",
)  # fmt: skip
# Time by which the flows that converge have converged.
REST = 1e3
MEANINGS = {
    "loss": "", "rests": "whether the flow converges", "t": "", "gap": "smallest z_y - z_j",
    "predicted": "log(K/alpha - (K - 1)) or 1 if it converges, else the gap for which "
    "L t log t = V/(2(gamma + 1))",
    "of limit": "L t log t divided by V/(2(gamma + 1))",
    "within": "within-class variation", "NC2": "distance of WW^T from that of a simplex",
}  # fmt: skip


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add_model_flags(parser, num_classes=4, feature_dim=6, samples_per_class=5)
    add("--alpha", type=float, default=0.1, argument="smoothing",
        help="smoothing of the labels, above 0 (%(default)g)")  # fmt: skip
    add("--gammas", type=float, nargs="+", default=[1.0, 2.0], argument="exponent",
        help="exponents of the focal loss (1 2)")  # fmt: skip
    add("--seed", type=int, default=0, help="number of the start (%(default)s)")
    add("--decades", type=float, default=300.0, help="integrate to t = 10^DECADES (%(default)g)")
    add_output_flags(parser, "results/losses")
    return parser, parser.parse_args(arguments)


def losses_of(flags: Namespace) -> dict[str, nc.Loss]:
    """The losses by the name that table and figure give them."""
    focal = {f"focal, γ = {gamma:g}": nc.Focal(gamma) for gamma in flags.gammas}
    return {
        "cross-entropy": nc.CrossEntropy(),
        **focal,
        f"label smoothing, α = {flags.alpha:g}": nc.LabelSmoothing(flags.alpha),
        "squared error": nc.SquaredError(),
    }


def problem_of(flags: Namespace, loss: nc.Loss) -> nc.UnconstrainedFeatures:
    """The model with summed loss."""
    sizes = (flags.n,) * flags.K
    return nc.UnconstrainedFeatures(sizes, flags.d, loss=loss, reduction="sum")


def run_flow(flags: Namespace, loss: nc.Loss) -> nc.Trajectory:
    """The flow of a loss from the start that all losses share."""
    problem = problem_of(flags, loss)
    stop = math.log1p(REST) if problem.comes_to_rest else flags.decades * math.log(10)
    start = problem.init(jax.random.fold_in(jax.random.key(0), flags.seed), norm=1.0)
    times = np.geomspace(0.05, stop, 120)
    return nc.gradient_flow(problem, start, times, rtol=1e-7, observe=OBSERVED)


def predicted_gap(flags: Namespace, loss: nc.Loss, log_time: np.ndarray) -> np.ndarray:
    """The gap in the limit, or for the loss L = V/(2(γ+1) t log t); NaN for log t below 3."""
    problem, classes = problem_of(flags, loss), flags.K
    late = np.where(log_time > 3, log_time, np.nan)
    if loss.is_label_smoothing:
        return float(nc.exact.smoothed_gap(problem)) + 0 * late
    if loss.is_squared_error:
        return 1 + 0 * late
    # A sample of gap a has the loss ((K−1)e^−a)^(γ+1), where this is small.
    power = tail_power(loss)
    log_loss = log_limit(flags, loss) - late - np.log(late)
    return math.log(classes - 1) - (log_loss - math.log(problem.num_samples)) / power


def tail_power(loss: nc.Loss) -> float:
    """γ + 1, the power of 1 − p with which a loss tends to 0."""
    return float(loss.exponent) + 1 if isinstance(loss, nc.Focal) else 1.0


def log_limit(flags: Namespace, loss: nc.Loss) -> float:
    """The log of V/(2(γ+1)), the limit of L t log t."""
    return math.log((flags.K - 1) * math.sqrt(flags.n) / (2 * tail_power(loss)))


def log_share(flags: Namespace, loss: nc.Loss, flow: nc.Trajectory) -> np.ndarray:
    """log(L t log t) minus its limit; NaN for log t below 1."""
    log_time = np.asarray(flow.log_time)
    late = np.where(log_time > 1, log_time, np.nan)
    log_loss = np.asarray(flow.observables["log_objective"])
    return log_loss + late + np.log(late) - log_limit(flags, loss)


def show(flags: Namespace, flows: dict[str, nc.Trajectory]) -> str:
    """Table of the last save of each flow."""
    rows = []
    for (name, loss), flow in zip(losses_of(flags).items(), flows.values(), strict=True):
        rests = problem_of(flags, loss).comes_to_rest
        last = {key: float(np.asarray(values)[-1]) for key, values in flow.observables.items()}
        end = float(flow.log_time[-1])
        share = "-" if rests else f"{math.exp(log_share(flags, loss, flow)[-1]):.4f}"
        rows.append([
            name, "yes" if rests else "no", f"1e{end / math.log(10):.3g}",
            f"{last['margin_min']:.6g}",
            f"{predicted_gap(flags, loss, np.array([end]))[0]:.6g}", share,
            f"{last['ji_within_class_variation']:.3g}", f"{last['zhu_nc2']:.3g}",
        ])  # fmt: skip
    return table(MEANINGS, rows)


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Run, print, save."""
    configure_jax()
    if not 2 <= flags.decades <= 1e4:
        parser.error(f"--decades {flags.decades:g}: give a number from 2 to 1e4.")
    if not flags.alpha > 0:
        parser.error(f"--alpha {flags.alpha:g}: give a number above 0, or the flow has no end.")
    if flags.d < flags.K - 1:
        parser.error(f"--d {flags.d}: the predictions need d >= K - 1 = {flags.K - 1}.")
    if len(set(flags.gammas)) < len(flags.gammas):
        parser.error(f"--gammas {' '.join(f'{g:g}' for g in flags.gammas)}: give each once.")
    check_seed(parser, flags)
    print("The first run compiles for a few seconds.", flush=True)
    flows, began = {}, time.perf_counter()
    try:
        for name, loss in losses_of(flags).items():
            flows[name] = run_flow(flags, loss)
            print(f"{name}: {int(flows[name].num_steps)} steps", flush=True)
    except ValueError as error:
        parser.refuse(error)
    print(f"{len(flows)} flows in {time.perf_counter() - began:.1f} s with compilation\n")
    print(show(flags, flows))

    data = {}
    for name, loss in losses_of(flags).items():
        flow = flows[name]
        log_time = np.asarray(flow.log_time)
        data[name] = nc.storage.to_dataset(flow)
        data[name]["predicted_gap"] = ("time", predicted_gap(flags, loss, log_time))
        if not problem_of(flags, loss).comes_to_rest:
            data[name]["log_share"] = ("time", log_share(flags, loss, flow))

    def draw():
        from figures.losses import losses_figure

        return {"losses": losses_figure(data)}

    save_results(flags, {folder_name(name): flow for name, flow in data.items()}, draw)


if __name__ == "__main__":
    main()
