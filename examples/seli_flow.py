"""Collapse of unequal classes along the flow of cross-entropy.

Half of the K classes have R * n samples, the others n. Without weight decay the classifiers and
class means converge in direction to the geometry of the simplex-encoded labels (SELI) of
Thrampoulidis et al. 2022, but the difference falls only as 1/log t. It is predicted: the margins
differ from each other by the logarithms of the multipliers of the limit. For each imbalance R the
script prints norms and angles as measured, as predicted at that time, and in the limit, and the
value V of the separation problem that follows from the loss of the run. It saves a figure and the
results.

One row for each class is enough, since equal features of a class stay equal. With features
multiplied by sqrt(n_k), the loss of the n_k samples of class k is n_k CE(z/sqrt(n_k)). This flow
has the same W, and the same conserved W'W - H'H.
"""

import math
import time
from argparse import Namespace

import jax.numpy as jnp
import numpy as np
import xarray as xr
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

FIGURE = "seli_flow"
# For smaller log t the gap is not much larger than the offsets, and the prediction is not accurate.
PREDICTED_FROM = 20.0
QUANTITIES = ("norm_ratio", "majority_angle", "minority_angle")
# What the columns of the table mean.
MEANINGS = {
    "R": "samples of a large class over those of a small one",
    "norms": "|w|^2 of a large class divided by that of a small one",
    "predicted": "for the same time", "limit": "for t to infinity",
    "angle": "between the classifiers of two small classes, in degrees",
    "angle pred.": "its prediction for the same time", "angle limit": "its limit",
    "V(loss)": "L e^q with Ei(q) = 2t", "V": "value of the separation problem",
    "gain": "distance of WW'/tr(WW') from its limit, divided by that from the prediction",
}  # fmt: skip


class ClassRows(nc.losses.Loss):
    """n_k CE(z/sqrt(n_k)) of one row for each class: cross-entropy of n_k samples of class k."""

    finite_at_any_scale = True
    shift_invariant = True

    sizes: np.ndarray | jnp.ndarray

    def _scaled(self, logits, labels):
        sizes = jnp.asarray(self.sizes, logits.dtype)[labels]
        return sizes, logits / jnp.sqrt(sizes)[:, None]

    def value(self, logits, labels):
        """The loss of the samples of each class, (K,)."""
        sizes, scaled = self._scaled(logits, labels)
        return sizes * nc.CrossEntropy().value(scaled, labels)

    def log_value(self, logits, labels):
        """Its logarithm, in log space."""
        sizes, scaled = self._scaled(logits, labels)
        return jnp.log(sizes) + nc.CrossEntropy().log_value(scaled, labels)

    def scaled_gradient(self, logits, labels, log_scale):
        """Its gradient times e^log_scale, in log space."""
        sizes, scaled = self._scaled(logits, labels)
        gradient = nc.CrossEntropy().scaled_gradient(scaled, labels, log_scale)
        return jnp.sqrt(sizes)[:, None] * gradient


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--K", type=int, default=4, help="classes, an even number from 4 on (%(default)s)")
    add("--n", type=int, default=1, help="samples of a small class (%(default)s)")
    add("--ratios", type=int, nargs="+", default=[1, 10, 100, 1000, 10_000],
        help="imbalances R (1 10 100 1000 10000)")  # fmt: skip
    add("--decades", type=float, default=1000.0, help="integrate to t = 10^DECADES (%(default)g)")
    add("--rtol", type=float, default=1e-9, help="relative tolerance (%(default)g)")
    add_output_flags(parser, "results/seli_flow")
    return parser, parser.parse_args(arguments)


def check(parser: Parser, flags: Namespace) -> None:
    """Refuse flags that the package would not refuse."""
    if flags.K < 4 or flags.K % 2:
        parser.error(f"--K {flags.K}: give an even number from 4 on, such as 4 or 10.")
    if flags.n < 1:
        parser.error(f"--n {flags.n}: give an integer >= 1.")
    if min(flags.ratios) < 1 or len(set(flags.ratios)) < len(flags.ratios):
        given = " ".join(map(str, flags.ratios))
        parser.error(f"--ratios {given}: give integers >= 1, each once.")
    if not 20 <= flags.decades <= 1e4:
        parser.error(f"--decades {flags.decades:g}: give a number from 20 to 1e4.")


def geometry(classifier_gram: np.ndarray) -> np.ndarray:
    """The `QUANTITIES` of Gram matrices (..., K, K), shape (..., 3)."""
    half = classifier_gram.shape[-1] // 2
    squares = np.diagonal(classifier_gram, axis1=-2, axis2=-1)

    def angle(i: int, j: int) -> np.ndarray:
        norms = np.sqrt(squares[..., i] * squares[..., j])
        return np.degrees(np.arccos(classifier_gram[..., i, j] / norms))

    ratio = squares[..., 0] / squares[..., half]
    return np.stack([ratio, angle(0, 1), angle(half, half + 1)], axis=-1)


def relative(gram: np.ndarray) -> np.ndarray:
    """Gram matrices divided by their traces."""
    return gram / np.trace(gram, axis1=-2, axis2=-1)[..., None, None]


def run_flow(flags: Namespace, ratio: int) -> xr.Dataset:
    """The flow of one imbalance, with the predictions at its save times."""
    half, stop = flags.K // 2, flags.decades * math.log(10)
    sizes = (flags.n * ratio,) * half + (flags.n,) * half
    seli = nc.exact.seli(sizes)
    times = np.geomspace(1.0, stop, 120)
    problem = nc.UnconstrainedFeatures(
        (1,) * flags.K, flags.K - 1, loss=ClassRows(np.array(sizes, float)), reduction="sum"
    )
    # The start is balanced and has the SELI geometry, which is also the limit for t to infinity.
    start = nc.LastLayer(*first_rows(seli, sizes))
    run = nc.gradient_flow(
        problem, start, times, rtol=flags.rtol, save_states=True, observe=("log_objective",)
    )
    assert run.states is not None
    rows = np.asarray(run.states.classifier)
    gram = rows @ rows.swapaxes(1, 2)
    gaps = np.asarray(nc.exact.late_gap(times))
    predicted = np.full_like(gram, np.nan)
    for i in np.flatnonzero(times >= PREDICTED_FROM):
        predicted[i] = nc.exact.late_geometry(sizes, gaps[i]).classifier_gram
    log_loss = np.asarray(run.observables["log_objective"])

    def distance(other: np.ndarray) -> np.ndarray:
        return np.linalg.norm(relative(gram) - relative(other), axis=(1, 2))

    data = {
        "measured": (("time", "quantity"), geometry(gram)),
        "predicted": (("time", "quantity"), geometry(predicted)),
        "limit": ("quantity", geometry(seli.classifier_gram)),
        "distance_from_limit": ("time", distance(seli.classifier_gram)),
        "distance_from_prediction": ("time", distance(predicted)),
        "value_crude": (
            "time", np.asarray(nc.metrics.separation_value_from_loss(log_loss, times))
        ),
        "value_from_loss": ("time", np.exp(log_loss + gaps)),
        "value": seli.value,
    }  # fmt: skip
    coords = {"log_time": ("time", times), "quantity": list(QUANTITIES)}
    return xr.Dataset(data, coords)


def first_rows(seli: nc.exact.Seli, sizes: tuple[int, ...]) -> tuple[jnp.ndarray, jnp.ndarray]:
    """Rows sqrt(n_k) h_k and w_k of the collapsed state at gap 1."""
    state = seli.state(len(sizes) - 1)
    first = np.cumsum([0, *sizes[:-1]])
    features = jnp.sqrt(jnp.asarray(sizes, float))[:, None] * state.features[first]
    return features, state.classifier


def show(runs: xr.Dataset) -> str:
    """Table of norms, angles and values at the end of each run."""
    end, rows = runs.isel(time=-1), []
    for ratio in end["ratio"].values:
        run = end.sel(ratio=ratio)
        cells = [str(ratio)]
        for quantity in ("norm_ratio", "minority_angle"):
            chosen = run.sel(quantity=quantity)
            cells += [f"{chosen[x].item():.6g}" for x in ("measured", "predicted", "limit")]
        cells += [f"{run[name].item():.6g}" for name in ("value_from_loss", "value")]
        far, near = (run[f"distance_from_{x}"].item() for x in ("limit", "prediction"))
        # At R = 1 both distances are rounding errors.
        cells.append(f"{far / near:.0f}" if far > 1e-9 else "-")
        rows.append(cells)
    return table(MEANINGS, rows)


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Run, print, save."""
    configure_jax()
    check(parser, flags)
    print("The first run compiles for a few seconds.", flush=True)
    began = time.perf_counter()
    found: list[xr.Dataset] = []
    for ratio in flags.ratios:
        try:
            found.append(run_flow(flags, ratio))
        except ValueError as error:
            parser.refuse(error)
        print(f"R = {ratio}: to t = {number(flags.decades)}", flush=True)
    runs = xr.concat(found, xr.Variable("ratio", flags.ratios))
    assert isinstance(runs, xr.Dataset)  # For type checkers.
    print(f"{len(found)} flows, {time.perf_counter() - began:.1f} s with compilation")
    print(show(runs))

    def draw():
        from figures.seli_flow import seli_figure

        return {FIGURE: seli_figure(runs)}

    save_results(flags, {"flow": runs}, draw)


if __name__ == "__main__":
    main()
