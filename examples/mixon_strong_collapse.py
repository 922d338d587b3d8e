"""Figures 1 and 2 of Mixon, Parshall and Pi: strong neural collapse from small starts.

Integrates the flow Z' = -dR/dZ of the summed square loss with bias from Gaussian starts with
||W||_F = ||H||_F = norm and b = 0, many seeds for each norm under one jit and vmap, and runs an
optimiser from the same starts. Prints the errors of strong collapse and the distance from the
invariant subspace S at the end, fits the powers of the norm with which they fall, and saves the
figure and the results.
"""

import math
import time
from argparse import Namespace

import diffrax
import jax
import numpy as np
import optax
from mixon_starts import announce, by_norm, check, over_starts, parser_of, slopes, store
from script import Parser, configure_jax, run_script, save_figures

import nc_jax as nc

# Optimisers with their default rates. Gradient descent is unstable from the rate 2/(Kn + sqrt n)
# on, which is 0.19 for the default K and n.
OPTIMIZERS = {
    "gd": (optax.sgd, 0.1),
    "momentum": (lambda rate: optax.sgd(rate, momentum=0.9), 0.05),
    "nesterov": (lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True), 0.05),
    "adam": (optax.adam, 0.01),
    "rmsprop": (optax.rmsprop, 0.01),
    "adagrad": (optax.adagrad, 0.1),
}
MEASURES = {
    "mixon_snc1": "SNC1",
    "mixon_snc2": "SNC2",
    "mixon_snc3": "SNC3",
    "mixon_distance_to_s": "from S",
}
# Beyond this time the solver is implicit: the slowest modes move at a rate of about norm^2, and
# only an implicit solver can follow them to any time in few steps.
LONG = 1e3
FIGURE = "mixon_strong_collapse"
# What the columns of the table mean.
MEANINGS = {
    "risk R": "the loss", "SNC1": "|WW' - sqrt(n) (I - 11'/K)|",
    "SNC2": "|H - (W x 1)'/sqrt(n)| / |H|", "SNC3": "|b - 1/K|",
    "from S": "distance from the invariant subspace S over the norm",
}  # fmt: skip


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags; the defaults are those of the paper."""
    norms = [1, 0.1, 0.01, 1e-3, 1e-4]
    parser = parser_of(__doc__, norms, "results/mixon_strong_collapse")
    add = parser.add_argument
    add("--time", type=float, default=30.0,
        help="end of the flow (%(default)g); the limit is reached at about 100/norm^2. "
        "Beyond 1000 by an implicit solver, minutes for 100 seeds")  # fmt: skip
    add("--rtol", type=float,
        help="relative tolerance of the flow (1e-11; of the implicit solver 1e-6)")  # fmt: skip
    add(
        "--optimizer",
        choices=OPTIMIZERS,
        default="gd",
        help="optimiser of descent (%(default)s)",
    )
    add("--rate", type=float, help="learning rate (gd, adagrad 0.1; momentum, nesterov 0.05; "
        "adam, rmsprop 0.01)")  # fmt: skip
    add("--steps", type=int, help="number of its steps (those with rate * steps = 30)")
    flags = parser.parse_args(arguments)
    # Near rest an explicit solver excites stiff modes off S up to its tolerance, while the measured
    # errors fall as norm^2. It therefore needs a tight rtol; an implicit solver damps these modes.
    if flags.rtol is None:
        flags.rtol = 1e-6 if flags.time > LONG else 1e-11
    flags.rate = OPTIMIZERS[flags.optimizer][1] if flags.rate is None else flags.rate
    if not 0 < flags.time <= 1e14:
        parser.error(f"--time {flags.time:g}: give a number above 0, up to 1e14.")
    if not 0 < flags.rate < math.inf:
        parser.error(f"--rate {flags.rate:g}: give a finite number > 0.")
    flags.steps = math.ceil(30 / flags.rate) if flags.steps is None else flags.steps
    if flags.steps < 1:
        parser.error(f"--steps {flags.steps}: give an integer >= 1.")
    return parser, flags


def observe(problem: nc.UnconstrainedFeatures, state: nc.LastLayer) -> dict[str, jax.Array]:
    """The risk and the errors of strong collapse."""
    metrics = nc.metrics.collapse_metrics(state, problem.labels)
    return {"objective": problem.objective(state), **{name: metrics[name] for name in MEASURES}}


def run_flow(flags: Namespace, problem: nc.UnconstrainedFeatures) -> nc.Trajectory:
    """The exact flow from every start."""
    far = flags.time > LONG
    solver = diffrax.Kvaerno5() if far else diffrax.Dopri8()
    times = np.geomspace(0.1, flags.time, 200) if far else np.linspace(0, flags.time, 241)

    def run(start, norm) -> nc.Trajectory:
        # atol is absolute. The part of the state off S that never vanishes has the size of the
        # start, so that atol is chosen far below that size.
        return nc.gradient_flow(
            problem, start, times, clock=nc.RealTime(), solver=solver,
            rtol=flags.rtol, atol=flags.rtol * norm / 100, observe=lambda s: observe(problem, s),
        )  # fmt: skip

    return over_starts(flags, problem, run)


def run_descent(flags: Namespace, problem: nc.UnconstrainedFeatures) -> nc.Trajectory:
    """Descent from the same starts, at times rate * step."""
    optimizer = OPTIMIZERS[flags.optimizer][0](flags.rate)
    saves = np.unique(np.linspace(0, flags.steps, 241).astype(int))

    def run(start, norm) -> nc.Trajectory:
        del norm
        descent = nc.gradient_descent(
            problem,
            start,
            optimizer,
            flags.steps,
            save_steps=saves,
            observe=lambda s: observe(problem, s),
        )
        return descent.with_time_scaled(flags.rate)

    return over_starts(flags, problem, run)


def show(flags: Namespace, runs: nc.Trajectory) -> str:
    """Table of medians over seeds at the end, and of the powers of the norm."""
    last = {name: np.asarray(values)[..., -1] for name, values in runs.observables.items()}
    columns = {"risk R": last["objective"]}
    columns |= {title: last[name] for name, title in MEASURES.items()}
    # The powers are those of the limit of small norms.
    small = np.array(flags.norms) <= 0.1
    if small.sum() < 2:
        return by_norm(flags, columns, {}, MEANINGS)
    log_norms = np.log(np.array(flags.norms)[small])
    fits = [slopes(log_norms, np.log(last[name][small])) for name in MEASURES]
    return by_norm(flags, columns, {"power": [None, *fits]}, MEANINGS)


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Run, print, save."""
    configure_jax()
    check(parser, flags)
    announce(flags)
    if flags.d < flags.K - 1:
        print(f"d = {flags.d} < K - 1 = {flags.K - 1}: too few dimensions for strong collapse")
    runs, data = {}, {}
    for name, integrate in (("flow", run_flow), ("descent", run_descent)):
        began = time.perf_counter()
        try:
            runs[name] = integrate(flags, nc.mixon(flags.K, flags.d, flags.n))
        except ValueError as error:
            parser.refuse(error)
        end = f"t = {flags.time:g}"
        if name == "descent":
            end = f"step {flags.steps} of {flags.optimizer} at rate {flags.rate:g}"
            end += f" (rate * step = {flags.rate * flags.steps:g})"
        print(f"\n{name} to {end}: {time.perf_counter() - began:.1f} s with compilation")
        failed = int(np.sum(~np.asarray(runs[name].succeeded)))
        if failed:
            advice = "raise --rtol" if name == "flow" else "lower --rate"
            print(f"{failed} of {runs[name].succeeded.size} runs did not reach it: {advice}")
        print("medians over seeds at the end; powers of the norm over those <= 0.1, with range")
        print(show(flags, runs[name]))
        data[name] = store(flags, name, runs[name])

    def draw():
        named = {"flow": data["flow"], f"{flags.optimizer}, t = rate * step": data["descent"]}
        return {FIGURE: nc.plotting.sweep_figure(named, nc.plotting.MIXON_PANELS, by="norm")}

    save_figures(flags, draw, saved=[f"{name}.zarr" for name in data])


if __name__ == "__main__":
    main()
