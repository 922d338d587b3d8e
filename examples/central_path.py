"""The central path of Han, Papyan and Donoho in numbers: whitened features, and the square loss.

Integrates the renormalised flow: features with covariance I within the classes follow the gradient
of the square loss of the least-squares classifier. Compares the singular values of their class
means with the closed form, and measures how NC1 falls as t^(-1/2) and NC2 as 1/t. Then integrates
Mixon's model, where the classifier is free, and splits its loss into L_NC1 + L_NC2/3 + L_perp: the
last is the distance from the central path. Prints tables, and saves a figure and the results.
"""

import math
import time
from argparse import Namespace

import jax
import jax.numpy as jnp
import numpy as np
from script import (
    Parser,
    add_model_flags,
    add_output_flags,
    check_seeds_and_stores,
    configure_jax,
    nearest,
    number,
    run_script,
    save_results,
    table,
)

import nc_jax as nc

FIGURE = "central_path"
PATH_COLUMNS = {
    "t": "", "omega": "mean singular value of the whitened centred class means",
    "error": "largest relative error of a singular value, against the closed form",
    "NC1 sqrt t": "tr(Sigma_W Sigma_B^+)/K times sqrt t",
    "predicted": "NC1 sqrt t by the closed form",
    "NC2 t": "(largest - smallest singular value)/largest, times t",
    "law": "limit of NC2 t: the largest difference of the constants of motion, divided by 4",
}  # fmt: skip
PART_COLUMNS = {
    "time": "t of the summed loss", "loss": "mean square loss",
    "NC1": "L_NC1, from the spread within classes",
    "NC2/3": "L_NC2/3, from the class means", "perp": "L_perp, the distance from the central path",
    "sum error": "relative difference of the sum of the three parts from the loss",
}  # fmt: skip


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add_model_flags(parser, num_classes=4, feature_dim=8, samples_per_class=6)
    add("--norm", type=float, default=2.0,
        help="||M||_F of the whitened class means at the start (%(default)g)")  # fmt: skip
    add("--seed", type=int, default=0, help="number of the first start (%(default)s)")
    add("--seeds", type=int, default=16, help="number of starts (%(default)s)")
    add("--decades", type=float, default=8.0,
        help="integrate the renormalised flow to t = 10^DECADES (%(default)g)")  # fmt: skip
    add("--time", type=float, default=6.0,
        help="integrate Mixon's model to this t (%(default)g)")  # fmt: skip
    add("--rtol", type=float, default=1e-10, help="relative tolerance (%(default)g)")
    add_output_flags(parser, "results/central_path")
    return parser, parser.parse_args(arguments)


def check(parser: Parser, flags: Namespace) -> None:
    """Refuse flags that the package would refuse only after a long run, or not at all."""
    check_seeds_and_stores(parser, flags)
    # Above 10^16 the relative differences of singular values are rounding errors.
    if not 1 <= flags.decades <= 16:
        parser.error(f"--decades {flags.decades:g}: give a number from 1 to 16.")
    if not 0.1 <= flags.time <= 100:
        parser.error(f"--time {flags.time:g}: give a number from 0.1 to 100.")
    if not 0.01 <= flags.norm <= 100:
        parser.error(f"--norm {flags.norm:g}: give a number from 0.01 to 100.")
    if not 1e-12 <= flags.rtol <= 1e-2:
        parser.error(f"--rtol {flags.rtol:g}: give a number from 1e-12 to 0.01.")


def starts_of(flags: Namespace, problem, norm: float):
    """Starts of all seeds."""
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(0), seed))(
        np.arange(flags.seed, flags.seed + flags.seeds, dtype=np.uint32)
    )
    return jax.vmap(lambda key: problem.init(key, norm))(keys)


def run_central_path(flags: Namespace) -> nc.Trajectory:
    """The renormalised flows, with singular values of the closed form as `exact_values`."""
    problem = nc.problems.CentralPath((flags.n,) * flags.K, flags.d)
    starts = starts_of(flags, problem, flags.norm)
    first = jax.vmap(lambda state: problem.observe_only(state, ("singular_values",)))(starts)
    times = nc.log_times(flags.decades, 120)
    names = ("singular_values", "zhu_nc1", "zhu_nc2", "han_loss_nc1", "han_loss_nc23")
    began = time.perf_counter()
    flow = nc.Flow(
        problem, times, rtol=flags.rtol, atol=flags.rtol / 100, observe=(*names, "objective")
    ).batch(starts)
    print(
        f"{flags.seeds} renormalised flows to t = 10^{flags.decades:g}: {np.max(flow.num_steps)} "
        f"steps, {time.perf_counter() - began:.1f} s with compilation"
    )
    values = first["singular_values"][:, None]
    exact = nc.exact.central_path(values, jnp.asarray(times)[None, :, None], flags.K, flags.n)
    flow.observables["exact_values"] = exact
    return flow


def constants(flags: Namespace, values: np.ndarray) -> np.ndarray:
    """n [K^2 log w + K w^2 + w^4/4] of each singular value w, which is t plus a constant."""
    terms = flags.K**2 * np.log(values) + flags.K * values**2 + values**4 / 4
    return flags.n * terms


def central_path_table(flags: Namespace, flow: nc.Trajectory) -> str:
    """Measured and predicted singular values, NC1 and NC2 at whole decades, medians over seeds."""
    measured, exact = (
        np.asarray(flow.observables[name]) for name in ("singular_values", "exact_values")
    )
    # Where d < K - 1 the last singular values are 0 at all times.
    modes = min(flags.K - 1, flags.d)
    measured, exact = measured[..., :modes], exact[..., :modes]
    laws = np.ptp(constants(flags, exact[:, 0]), axis=-1) / 4
    rows = []
    wanted = np.log1p(10.0 ** np.arange(0, flags.decades + 0.5, 2))
    for i in nearest(flow.common_log_time(), wanted):
        t = math.expm1(flow.common_log_time()[i])
        spread = np.ptp(measured[:, i], axis=-1) / np.max(measured[:, i], axis=-1)
        nc1 = np.asarray(flow.observables["zhu_nc1"])[:, i]
        by_law = np.sum(1 / exact[:, i] ** 2, axis=-1)
        rows.append(
            [
                number(math.log10(t)),
                f"{np.median(np.mean(measured[:, i], axis=-1)):.6g}",
                f"{np.max(np.abs(measured[:, i] / exact[:, i] - 1)):.1e}",
                *(f"{np.median(nc1s) * math.sqrt(t):.5g}" for nc1s in (nc1, by_law)),
                f"{np.median(spread * t):.5g}",
                f"{np.median(laws):.5g}",
            ]
        )
    limit = modes * math.sqrt(flags.n) / 2
    rows.append(["limit", "", "", "", f"{limit:.5g}", "", ""])
    return table(PATH_COLUMNS, rows)


def run_mixon(flags: Namespace) -> nc.Trajectory:
    """Flows of Mixon's model with the parts of their square loss."""
    problem = nc.mixon(flags.K, flags.d, flags.n)

    def observe(state: nc.LastLayer) -> dict[str, jax.Array]:
        parts = nc.metrics.square_loss_parts(state, problem.labels)
        loss = problem.objective(state) / problem.num_samples
        return {"loss": loss, "nc1": parts.nc1, "nc23": parts.nc23, "perp": parts.perp}

    began = time.perf_counter()
    flow = nc.Flow(
        problem,
        np.linspace(0, flags.time, 121),
        clock=nc.RealTime(),
        rtol=flags.rtol,
        atol=flags.rtol / 100,
        observe=observe,
    ).batch(starts_of(flags, problem, 0.1))
    print(
        f"{flags.seeds} flows of Mixon's model to t = {flags.time:g}: {np.max(flow.num_steps)} "
        f"steps, {time.perf_counter() - began:.1f} s with compilation"
    )
    return flow


def parts_table(flags: Namespace, flow: nc.Trajectory) -> str:
    """The loss and its parts at seven times, medians over seeds."""
    found = {name: np.asarray(values) for name, values in flow.observables.items()}
    rows = []
    for i in np.linspace(0, 120, 7).astype(int):
        parts = [found[name][:, i] for name in ("nc1", "nc23", "perp")]
        error = np.max(np.abs(sum(parts) / found["loss"][:, i] - 1))
        medians = [f"{np.median(values):.3g}" for values in (found["loss"][:, i], *parts)]
        rows.append([f"{i * flags.time / 120:g}", *medians, f"{error:.0e}"])
    return table(PART_COLUMNS, rows)


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Run, print, save."""
    configure_jax()
    check(parser, flags)
    print("The first run compiles for a few seconds.", flush=True)
    try:
        flow = run_central_path(flags)
        print("renormalised flow, medians over seeds:")
        print(central_path_table(flags, flow))
        print()
        mixon = run_mixon(flags)
    except ValueError as error:
        parser.refuse(error)
    print("parts of the square loss of Mixon's model, medians over seeds:")
    print(parts_table(flags, mixon))

    data = {name: nc.storage.to_dataset(x) for name, x in (("flow", flow), ("mixon", mixon))}

    def draw():
        from figures.central_path import central_path_figure

        return {FIGURE: central_path_figure(data["flow"], data["mixon"])}

    save_results(flags, data, draw)


if __name__ == "__main__":
    main()
