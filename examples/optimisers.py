"""Which optimisers collapse minority classes on the way, without weight decay?

KA majority classes of R samples and KB minority classes of one sample, summed cross-entropy, and a
start of norm eps. A group of classes is learned when the differences of its classifiers have norm
0.5, at t_A for the majorities and t_B for the minorities.

Along the gradient flow t_B/t_A tends to sqrt(R) as eps falls, and in between the classifiers of the
minorities nearly coincide. Along the spectral flow, X' = U V' for the singular value decomposition
U S V' of minus the gradient (Muon idealised), t_A = 0.5/sqrt(KA - 1) and t_B = 0.5/sqrt(KB - 1)
whatever R and eps are, and the minorities never coincide. Sign flow merges them for R above
KA + 2 KB - 2 if KA is odd, but for a time that does not depend on eps. The script integrates the
three flows, and descends with Optax's SGD, sign SGD, Adam and Muon at a small rate. It prints a
table, and saves a figure and the results.
"""

import math
import time
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from script import (
    Parser,
    add_output_flags,
    configure_jax,
    run_script,
    save_results,
    table,
)
from transient_collapse import LEARNED, contrasts_of, first_time

import nc_jax as nc
from nc_jax.problems import SignFlow, SpectralFlow

if TYPE_CHECKING:
    import xarray as xr

FIGURE = "optimisers"
SAVES = 240


class Method(NamedTuple):
    """A way to descend, whose directions have a size that does not depend on the gradient.

    Attributes:
        optimizer: the transformation for a rate.
        stop: end of the runs in time, the number of steps times their rate.
        problem: what is descended.
        steps_per_rate: 1 for an optimiser; a flow takes shorter Euler steps.
    """

    optimizer: Callable[[float], optax.GradientTransformation]
    stop: float
    problem: Callable[[nc.UnconstrainedFeatures], nc.problems.AbstractProblem] = lambda p: p
    steps_per_rate: int = 1


METHODS = {
    "sign flow": Method(optax.sgd, 1.5, SignFlow, 8),
    "sign descent": Method(optax.sign_sgd, 1.5),
    "Adam": Method(optax.adam, 3.0),
    "spectral flow": Method(optax.sgd, 1.0, SpectralFlow, 2),
    "Muon": Method(optax.contrib.muon, 1.0),
}
# Two ways to follow the gradient, whose times grow with log(1/eps).
BY_GRADIENT = ("gradient flow", "GD")
ALL = (*BY_GRADIENT, *METHODS)


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--majority", type=int, default=3, help="number KA of majority classes (%(default)s)")
    add("--minority", type=int, default=3, help="number KB of minority classes (%(default)s)")
    add("--ratios", type=int, nargs="+", default=[4, 16, 64], help="values of R (4 16 64)")
    add("--optimizers", nargs="+", choices=ALL, default=ALL, metavar="NAME",
        help=f"of {', '.join(ALL)} (all)")  # fmt: skip
    add("--norm", type=float, default=1e-6, help="norm eps of the starts (%(default)g)")
    add("--rate", type=float, default=0.005, help="rate of the optimisers (%(default)g)")
    add("--starts", type=int, default=4, help="starts for each R (%(default)s)")
    add("--seed", type=int, default=0, help="seed of the first start (%(default)s)")
    add_output_flags(parser, "results/optimisers")
    return parser, parser.parse_args(arguments)


def check(parser: Parser, flags: Namespace) -> None:
    """Refuse flags that the package would not refuse."""
    for name in ("majority", "minority"):
        if not 2 <= getattr(flags, name) <= 50:
            parser.error(f"--{name} {getattr(flags, name)}: give an integer from 2 to 50.")
    for ratio in flags.ratios:
        if not 2 <= ratio <= 1000:
            parser.error(f"--ratios {ratio}: give integers from 2 to 1000.")
    if len(set(flags.ratios)) < len(flags.ratios):
        parser.error("--ratios: give each value once.")
    if not 0 < flags.norm <= 0.01:
        parser.error(f"--norm {flags.norm:g}: give a number above 0, up to 0.01.")
    if not 0 < flags.rate <= 0.02:
        parser.error(f"--rate {flags.rate:g}: give a number above 0, up to 0.02.")
    if not 1 <= flags.starts <= 1000:
        parser.error(f"--starts {flags.starts}: give an integer from 1 to 1000.")
    if not 0 <= flags.seed < 2**32 - flags.starts:
        parser.error(f"--seed {flags.seed}: give an integer from 0 to 4294967295 - STARTS.")


def runs_of(flags: Namespace, name: str, ratio: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Times of the saves, and the contrasts and the cosine gap over (start, save)."""
    sizes = (ratio,) * flags.majority + (1,) * flags.minority
    problem = nc.UnconstrainedFeatures(sizes, len(sizes) + 1, reduction="sum")
    observe = contrasts_of(problem, (ratio, 1))
    key = jax.random.key(flags.seed)
    keys = jnp.stack([jax.random.fold_in(key, i) for i in range(flags.starts)])
    starts = jax.vmap(problem.init, (0, None))(keys, flags.norm)
    if name in BY_GRADIENT:
        # Late enough for the minorities, whose contrast grows at rate 1.
        method = Method(optax.sgd, 1.7 * math.log(1 / flags.norm))
    else:
        method = METHODS[name]
    if name == "gradient flow":
        times = np.linspace(0, method.stop, SAVES + 1)
        flow = nc.Flow(
            problem, times, clock=nc.RealTime(), rtol=1e-7, atol=1e-9 * flags.norm, observe=observe
        )
        curves = flow.batch(starts, progress=False).observables
        return times, {curve: np.asarray(x) for curve, x in curves.items()}
    step = flags.rate / method.steps_per_rate
    every = math.ceil(method.stop / step / SAVES)
    saves = every * np.arange(SAVES + 1)
    descended, optimizer = method.problem(problem), method.optimizer(step)
    descend = jax.vmap(
        lambda start: (
            nc.gradient_descent(
                descended, start, optimizer, int(saves[-1]), save_steps=saves, observe=observe
            ).observables
        )
    )
    return step * saves, {curve: np.asarray(x) for curve, x in descend(starts).items()}


def compute(flags: Namespace) -> "xr.Dataset":
    """All runs, with the times at which both groups are learned, and the laws."""
    import xarray as xr

    methods, ratios = list(flags.optimizers), sorted(flags.ratios)
    found = [[runs_of(flags, name, ratio) for ratio in ratios] for name in methods]
    times = np.array([[run[0] for run in row] for row in found])
    curves = {
        name: np.array([[run[1][name] for run in row] for row in found])
        for name in ("majority_contrast", "minority_contrast", "minority_cosine_gap")
    }
    learned = np.array(
        [
            [[first_time(run[0], run[1][f"{group}_contrast"]) for run in row] for row in found]
            for group in ("majority", "minority")
        ]
    )
    return xr.Dataset(
        {
            "t": (("optimizer", "ratio", "save"), times),
            **{name: (("optimizer", "ratio", "seed", "save"), x) for name, x in curves.items()},
            "learned_time": (("stage", "optimizer", "ratio", "seed"), learned),
            "law": (("optimizer", "ratio"), [laws(flags, name, ratios) for name in methods]),
            "middle_cosine": (
                ("optimizer", "ratio", "seed"), _in_the_middle(times, curves, learned)
            ),
        },
        {
            "optimizer": methods, "ratio": ratios, "stage": ["majority", "minority"],
            "seed": flags.seed + np.arange(flags.starts),
        },
    )  # fmt: skip


def laws(flags: Namespace, name: str, ratios: list[int]) -> list[float]:
    """t_B/t_A of the gradient flow as eps tends to 0, and of the spectral flow; else NaN."""
    found = []
    for ratio in ratios:
        sizes = (ratio,) * flags.majority + (1,) * flags.minority
        if name in BY_GRADIENT:
            times = nc.exact.stage_times(sizes, math.log(flags.norm)).times
        elif name in ("spectral flow", "Muon"):
            times = nc.exact.spectral_stage_times(sizes, LEARNED).times
        else:
            times = np.array([1.0, np.nan])
        found.append(float(times[1] / times[0]))
    return found


def _in_the_middle(
    times: np.ndarray, curves: dict[str, np.ndarray], learned: np.ndarray
) -> np.ndarray:
    """The smallest cosine of two minority classifiers, halfway between t_A and t_B."""
    middle, gaps = learned.mean(axis=0), curves["minority_cosine_gap"]
    at = [
        [
            [np.interp(m, t, 1 - gap) for m, gap in zip(*of_ratio, strict=True)]
            for t, *of_ratio in zip(*of_method, strict=True)
        ]
        for of_method in zip(times, middle, gaps, strict=True)
    ]
    return np.array(at)


def show(data: "xr.Dataset") -> str:
    """Table of the times of learning, their ratio and its law, and the cosine halfway."""
    medians, rows = data.median("seed"), []
    for name in data["optimizer"].values:
        for ratio in data["ratio"].values:
            at = medians.sel(optimizer=name, ratio=ratio)
            first, second = at["learned_time"].values
            law = float(at["law"])
            rows.append(
                [str(name), str(ratio), f"{first:.4f}", f"{second:.4f}", f"{second / first:.3f}",
                 f"{law:.3f}" if math.isfinite(law) else "", f"{float(at['middle_cosine']):.5f}"]
            )  # fmt: skip
    columns = {
        "optimiser": "", "R": "samples of a majority class, of a minority class one",
        "t_A": "the majorities are learned", "t_B": "the minorities are learned", "t_B/t_A": "",
        "ratio law": "sqrt(R) for the gradient flow as eps falls, sqrt((KA-1)/(KB-1)) for the "
        "spectral flow",
        "minority cosine": "smallest cosine of two minority classifiers, halfway between the times",
    }  # fmt: skip
    return table(columns, rows)


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Run, print, save."""
    configure_jax()
    check(parser, flags)
    print("Each optimiser and R compiles for a second.", flush=True)
    began = time.perf_counter()
    data = compute(flags)
    number = data["learned_time"].size // 2
    print(f"{number} runs: {time.perf_counter() - began:.1f} s; medians over starts")
    print(show(data))
    if flags.majority % 2:
        bound = nc.exact.sign_threshold(flags.majority, flags.minority)
        print(f"\nsign flow merges the minorities for R > KA + 2 KB - 2 = {bound}")

    def draw():
        from figures.optimisers import optimisers_figure

        return {FIGURE: optimisers_figure(data)}

    save_results(flags, {"optimisers": data}, draw)


if __name__ == "__main__":
    main()
