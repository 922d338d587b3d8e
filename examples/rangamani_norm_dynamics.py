"""Figures 2, 3, 4 and 10 of Rangamani et al.: norm, margins and weight decay of a deep ReLU net.

Integrates the flow of the paper's toy model, a ReLU net under the square loss in which a Lagrange
multiplier normalises every layer, on two classes of real images: start norms 0.01 to 10, with and
without weight decay, ten seeds each under one vmap. Prints the norm and the margins at the end and
how much they depend on the start. Then measures the distances between gradient descent, its
differential equation of second order and the flow. Saves the figures and the results.
"""

import math
import time
from argparse import Namespace
from functools import partial
from typing import TYPE_CHECKING

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from rangamani_data import add_data_flags, add_run_flags, checked_flags, load
from script import Parser, attributes_of, configure_jax, run_script, save_figures, table
from tqdm import tqdm

import nc_jax as nc
from nc_jax import storage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NORMS = [0.01, 0.1, 0.5, 1.0, 3.0, 5.0, 10.0]
OBSERVABLES = (
    "objective", "norm", "margins", "mean_margin", "margin_std", "equilibrium_norm",
    "interpolation_gap", "train_error", "test_error", "lemma_9_residual", "multipliers",
)  # fmt: skip
# Start norm of the run with decay whose outputs are drawn as histograms (figure 4 of the paper).
HISTOGRAM_NORM = 0.1
RATES = np.array([0.2, 0.1, 0.05, 0.025, 0.0125])
HORIZON = 4.0
# What descent is compared with: its equation from two initial velocities, and the flow.
CURVES = ("equation, x'(0) = -F", "equation, x'(0) = 0", "flow")


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags; with the defaults the script takes minutes on two cores."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add_data_flags(parser, [3, 8], 30)
    add("--norms", type=float, nargs="+", default=NORMS, help="start norms rho (0.01 to 10)")
    add("--decay", type=float, default=0.005,
        help="lambda of lambda rho^2, compared with 0 (%(default)g, half the paper's)")  # fmt: skip
    add("--time", type=float, default=400.0, help="end of the flow (%(default)g)")
    add("--rtol", type=float, default=1e-3, help="relative tolerance of the flow (%(default)g)")
    add("--rounding", type=float, default=1e-5,
        help="width over which the kink of ReLU is rounded (%(default)g)")  # fmt: skip
    add_run_flags(parser, 10, "starts for each norm", "results/rangamani_norm_dynamics")
    flags = checked_flags(parser, arguments, ("time", "rtol", "decay", "rounding"))
    if not all(0 < norm < math.inf for norm in flags.norms) or len(set(flags.norms)) < 2:
        parser.error(f"--norms {flags.norms}: give 2 or more finite numbers > 0.")
    return parser, flags


def build(data: tuple, flags: Namespace, decay, activation) -> nc.NormalizedReLUNet:
    """The toy model of section 3.4 of the paper on the two classes."""
    inputs, targets, test_inputs, test_targets = data
    return nc.NormalizedReLUNet(
        inputs,
        targets,
        flags.widths,
        parametrization=nc.problems.relu.Lagrange(),
        weight_decay=decay,
        activation=activation,
        test_inputs=test_inputs,
        test_targets=test_targets,
    )


def start_key(seed) -> jax.Array:
    """The key of a start; the start is the same alone and in a batch."""
    return jax.random.fold_in(jax.random.key(0), seed)


def run_flows(data: tuple, flags: Namespace) -> nc.Trajectory:
    """The flows from all starts, over (decay, norm, seed).

    The seeds of one start norm are one batch, and one compiled program serves all batches. Several
    norms are not one batch: each step of a batch takes as many stages as its stiffest lane, and the
    stiffness depends on the norm.
    """
    times = np.concatenate([[0.0], np.geomspace(0.1, flags.time, 120)])
    # With rounded kinks the field is smooth and RKC is accurate (docs/relu.md).
    activation = nc.SmoothReLU(width=flags.rounding)

    def run(decay, norm, seed) -> nc.Trajectory:
        problem = build(data, flags, decay, activation)
        start = problem.init(start_key(seed), norm)

        def observe(state: nc.Layers) -> dict[str, jax.Array]:
            observed = problem.observe(state)
            return {name: observed[name] for name in OBSERVABLES}

        return nc.gradient_flow(
            problem, start, times, clock=nc.RealTime(), solver=nc.RKC(), rtol=flags.rtol,
            atol=flags.rtol / 1000, observe=observe,
        )  # fmt: skip

    over_seeds = jax.jit(jax.vmap(run, (None, None, 0)))
    seeds = flags.seed + np.arange(flags.seeds)
    settings = [(decay, norm) for decay in (flags.decay, 0.0) for norm in flags.norms]
    runs = [
        jax.block_until_ready(over_seeds(jnp.asarray(decay), jnp.asarray(norm), seeds))
        for decay, norm in tqdm(settings, unit=" start norms", delay=2)
    ]
    shape = (2, len(flags.norms))
    return jax.tree.map(lambda *leaves: np.stack(leaves).reshape(*shape, *leaves[0].shape), *runs)


def ends(flags: Namespace, runs: nc.Trajectory, decay: int) -> str:
    """Table of medians over seeds at the end, a row for each start norm, with the range of ρ."""
    last = {name: np.asarray(values)[decay, :, :, -1] for name, values in runs.observables.items()}
    columns = {
        "start": "norm at the start", "rho": "norm at the end", "range": "of rho over seeds",
        "rho_eq": "equilibrium of eq. 11 for the margins at the end", "mean margin": "normalised",
        "std/mean": "of the margins", "gap": "mean of y - f(x)", "loss": "",
        "test err": "share of test images", "dead": "seeds whose net classifies no better than a "
        "constant, left out of the rest",
    }  # fmt: skip
    rows = []
    for i, norm in enumerate(flags.norms):
        # A net that classifies no better than a constant is dead: all its units output 0.
        alive = last["train_error"][i] < 0.25
        if not alive.any():
            rows.append([f"{norm:g}", *["-"] * 8, str(flags.seeds)])
            continue
        used = {name: values[i][alive] for name, values in last.items()}
        numbers = [np.median(used["equilibrium_norm"]), np.median(used["mean_margin"]),
                   np.median(used["margin_std"] / used["mean_margin"]),
                   np.median(used["interpolation_gap"]), np.median(used["objective"]),
                   np.median(used["test_error"])]  # fmt: skip
        low, high = used["norm"].min(), used["norm"].max()
        rows.append([f"{norm:g}", f"{np.median(used['norm']):.4f}", f"{low:.3f} to {high:.3f}",
                     *(f"{x:.4g}" for x in numbers), str(flags.seeds - alive.sum())])  # fmt: skip
    return table(columns, rows)


def memory_of_the_start(flags: Namespace, runs: nc.Trajectory, decay: int) -> str:
    """A sentence on how much the norm at the end differs between start norms and between seeds."""
    last = np.asarray(runs.observables["norm"])[decay, :, :, -1]
    alive = np.asarray(runs.observables["train_error"])[decay, :, :, -1] < 0.25
    medians = [np.median(of[ok]) for of, ok in zip(last, alive, strict=True) if ok.any()]
    within = [np.ptp(of[ok]) for of, ok in zip(last, alive, strict=True) if ok.any()]
    between = (max(medians) - min(medians)) / np.median(medians)
    return (
        f"end of rho: medians of the start norms differ by {between:.2%}, seeds of one norm by at "
        f"most {max(within) / np.median(medians):.2%}"
    )


def certificates(runs: nc.Trajectory) -> str:
    """Largest deviations, over all saves of all runs, from what the theory states."""
    recorded = {name: np.asarray(values) for name, values in runs.observables.items()}
    nu, loss = recorded["multipliers"], recorded["objective"]
    rise = np.max(np.diff(loss, axis=-1) / loss[..., :-1])
    return "\n".join([
        f"  ||V_k||^2 is off 1 by at most {recorded['direction_norms_drift'].max():.1e}",
        f"  lemma 9: at most {np.abs(recorded['lemma_9_residual']).max():.1e}",
        f"  nu_k differ over the layers by at most {np.max(np.ptp(nu, axis=-1)):.1e}",
        f"  largest rise of the loss from save to save: {max(rise, 0):.1e} of it",
    ])  # fmt: skip


def orders(data: tuple, flags: Namespace) -> xr.Dataset:
    """Distances at time HORIZON between descent and each of `CURVES`, over (net, curve, rate)."""
    # The flow and the equation are integrated with rounded kinks, for which adaptive steps are
    # reliable; descent uses the ReLU itself.
    nets = {
        "linear net": (build(data, flags, flags.decay, _identity),) * 2,
        "ReLU net": (
            build(data, flags, flags.decay, nc.SmoothReLU(width=flags.rounding)),
            build(data, flags, flags.decay, jax.nn.relu),
        ),
    }
    errors = {}
    for name, (flowing, descending) in nets.items():
        start = flowing.init(start_key(flags.seed), 1.0)
        flow = _at_horizon(flowing, start)
        equation = jax.jit(partial(_equation, flowing, start))
        found: dict[str, list[float]] = {curve: [] for curve in CURVES}
        for rate in RATES:
            descent = nc.gradient_descent(
                descending, start, optax.sgd(rate), round(HORIZON / rate),
                observe=lambda state: {"norm": state.norms[0]},
            ).final  # fmt: skip
            others = (equation(rate, 1.0), equation(rate, 0.0), flow)
            for curve, other in zip(CURVES, others, strict=True):
                found[curve].append(_distance(other, descent))
        errors[name] = found
    values = [list(found.values()) for found in errors.values()]
    return xr.Dataset(
        {"distance": (("net", "curve", "rate"), np.array(values))},
        {"net": list(errors), "curve": list(CURVES), "rate": RATES},
        {"horizon": HORIZON},
    )


def _identity(z: jax.Array) -> jax.Array:
    return z


def _at_horizon(problem, start):
    """The state at HORIZON, to rtol 1e-7."""
    return nc.gradient_flow(
        problem,
        start,
        np.array([HORIZON]),
        clock=nc.RealTime(),
        solver=diffrax.Tsit5(),
        rtol=1e-7,
        atol=1e-9,
        observe=lambda state: {},
    ).final


def _equation(problem: nc.NormalizedReLUNet, start: nc.Layers, rate, speed) -> nc.Layers:
    """The position at HORIZON by the equation of descent, with the initial velocity −speed·F."""
    equation = nc.GradientDescentODE(problem, rate)
    moving = equation.start(start)
    velocity = jax.tree.map(lambda v: speed * v, moving.velocity)
    return _at_horizon(equation, type(moving)(start, velocity)).position


def _distance(left: nc.Layers, right: nc.Layers) -> float:
    squares = jax.tree.map(lambda x, y: jnp.sum((x - y) ** 2), left, right)
    return math.sqrt(sum(jax.tree.leaves(squares)))


def show_orders(distances: xr.Dataset) -> str:
    """Tables by net: a row for each rate, and the fitted order below."""
    parts = []
    for net, values in zip(distances["net"].values, distances["distance"].values, strict=True):
        rows = [[f"{r:g}", *(f"{v[i]:.2e}" for v in values)] for i, r in enumerate(RATES)]
        fits = [np.polyfit(np.log(RATES), np.log(v), 1)[0] for v in values]
        rows.append(["order", *(f"{fit:.2f}" for fit in fits)])
        title = f"distance from descent at t = {HORIZON:g}, {net}"
        parts.append(f"{title}\n{table(['rate', *distances['curve'].values], rows)}")
    return "\n\n".join(parts)


def logistic() -> xr.Dataset:
    """Figure 10: equation 51 with Σ f̄ = √2 and Σ f̄² = 1, and points of its closed form.

    `norm`, over (layers, start, t), is integrated. `exact_time` and `exact_norm`, over (layers,
    start, point), are from the closed form.
    """
    times, starts = np.linspace(0.0, 3.0, 121), np.array([0.05, 0.3, 2.0])
    x = np.array([[1.0], [-1.0]]) / math.sqrt(2)
    depths = (1, 2, 3, 4)
    # The closed form gives the time at which a norm is reached, not the norm at a time.
    points = np.stack([s + (math.sqrt(2) - s) * np.linspace(0.03, 0.98, 9) for s in starts])
    curves, exact = [], []
    for layers in depths:
        # A chain of single units on two antipodal samples: the margins are 1/√2 at all times.
        problem = nc.NormalizedReLUNet(
            x, np.array([1.0, -1.0]), (1,) * (layers - 1),
            parametrization=nc.problems.relu.Polar(), reduction="sum", activation=_identity,
        )  # fmt: skip

        def run(norm, problem=problem, layers=layers) -> jax.Array:
            ones = tuple(jnp.ones((1, 1)) for _ in range(layers))
            start = nc.Layers(ones, jnp.full(layers, norm ** (1 / layers)))
            traj = nc.gradient_flow(
                problem, start, times, clock=nc.RealTime(), solver=diffrax.Tsit5(),
                observe=lambda state: {"norm": jnp.prod(state.norms)},
            )  # fmt: skip
            return traj.observables["norm"]

        curves.append(np.asarray(jax.jit(jax.vmap(run))(jnp.asarray(starts))))
        reached = [
            np.asarray(
                nc.exact.norm_time(
                    norms, start=start, alignment=math.sqrt(2), second_moment=1.0, num_layers=layers
                )
            )
            for norms, start in zip(points, starts, strict=True)
        ]
        exact.append(reached)
    by_start = ("layers", "start", "point")
    return xr.Dataset(
        {
            "norm": (("layers", "start", "t"), np.array(curves)),
            "exact_time": (by_start, np.array(exact)),
            "exact_norm": (by_start, np.broadcast_to(points, (len(depths), *points.shape))),
        },
        {"layers": list(depths), "start": starts, "t": times},
    )


def draw(flags: Namespace, flows: xr.Dataset, distances: xr.Dataset) -> "dict[str, Figure]":
    """The figures by name."""
    from figures import rangamani_norm_dynamics as figures

    nearest = int(np.argmin(np.abs(np.log(np.array(flags.norms) / HISTOGRAM_NORM))))
    return {
        "figure_2": figures.norm_dynamics_figure(flows),
        "figure_3": figures.margins_figure(flows),
        "figure_4": figures.outputs_figure(flows.isel(decay=0, norm_at_start=nearest, seed=0)),
        "figure_10": figures.logistic_figure(logistic()),
        "orders": figures.orders_figure(distances),
    }


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Run, print, save."""
    configure_jax()
    data = load(parser, flags)
    print(
        f"{flags.dataset}, classes {flags.classes[0]} and {flags.classes[1]}: {len(data[0])} "
        f"training and {len(data[2])} test samples; ReLU net {data[0].shape[1]}-"
        f"{'-'.join(map(str, flags.widths))}-1, square loss + lambda rho^2, normalised by Lagrange "
        "multipliers"
    )
    began = time.perf_counter()
    try:
        runs = run_flows(data, flags)
    except ValueError as error:
        parser.refuse(error)
    steps = np.asarray(runs.num_steps)
    print(f"{steps.size} flows to t = {flags.time:g}: {time.perf_counter() - began:.1f} s with "
          f"compilation, {steps.min()} to {steps.max()} steps")  # fmt: skip
    failed = int(np.sum(~np.asarray(runs.succeeded)))
    if failed:
        print(f"{failed} of them did not reach it: raise --rounding or --rtol")
    for i, decay in enumerate((flags.decay, 0.0)):
        print(f"\nlambda = {decay:g}: medians over seeds at the end ('dead': left out)")
        print(ends(flags, runs, i))
        print(memory_of_the_start(flags, runs, i))
    print(f"\ncertificates\n{certificates(runs)}")
    dims = {"margins": ["sample"], "multipliers": ["layer"]}
    flows = storage.to_dataset(
        runs, attributes=attributes_of(flags), runs=("decay", "norm_at_start", "seed"), dims=dims
    )
    flows = flows.assign_coords(
        decay=[flags.decay, 0.0], norm_at_start=flags.norms,
        seed=flags.seed + np.arange(flags.seeds),
    )  # fmt: skip
    storage.save(flows, flags.out / "flow.zarr")
    distances = orders(data, flags)
    print(f"\n{show_orders(distances)}")
    save_figures(flags, lambda: draw(flags, flows, distances), saved=["flow.zarr"])


if __name__ == "__main__":
    main()
