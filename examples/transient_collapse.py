"""Shared by the scripts on unequal classes: flows from small starts, without weight decay.

Differences between majority classes, of n_A samples, grow to order 1 (are learned) at
t = log(1/eps)/sqrt(n_A), and those between minority classes at t = log(1/eps)/sqrt(n_B), with eps
the norm of the start and t of the summed loss. Between these times the classifiers of the minority
classes nearly coincide: a temporary minority collapse.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from script import refuse_to_run, table

import nc_jax as nc

if TYPE_CHECKING:
    import xarray as xr

# ||contrast|| at which a group of classes counts as learned. Another level moves all times by a
# constant, not the slopes.
LEARNED = 0.5
NORMS = (1e-3, 1e-5, 1e-7, 1e-9)


def transient_flows(
    class_sizes: Sequence[int],
    feature_dim: int,
    *,
    norms: Sequence[float] = NORMS,
    seeds: int = 4,
    loss: nc.losses.Loss = nc.CrossEntropy(),
) -> "xr.Dataset":
    """Flows of the summed loss from starts of every norm, and the times at which they learn.

    Args:
        class_sizes: of two different sizes, each of at least two classes.
        feature_dim: d > K, so that feature directions remain that the majority classes do not use.
        norms: the norms eps of the starts, at least two.
        seeds: starts of each norm.
        loss: `nc.CrossEntropy()` or `nc.SquaredError()`.

    Returns: over (norm, seed, save), with the coordinate `scaled_time` = t/log(1/eps) of the saves:
    `majority_contrast` and `minority_contrast`, the norms of the classifiers of a group minus their
    mean, and `minority_cosine_gap`, 1 minus the smallest cosine of two minority classifiers. Over
    (norm, seed, stage): `learned_time`, when a contrast reaches 0.5. Over (norm, stage):
    `predicted_time`, from `exact.stage_times`. Over (norm, seed): `middle_cosine_gap`, in the
    middle between the two times.
    """
    import xarray as xr

    problem = nc.UnconstrainedFeatures(class_sizes, feature_dim, loss=loss, reduction="sum")
    stages = [nc.exact.stage_times(class_sizes, math.log(norm), loss=loss) for norm in norms]
    if len(stages[0].sizes) != 2:
        raise ValueError(
            f"class_sizes = {tuple(class_sizes)}: give two sizes, of two classes each or more."
        )
    # Times in units of log(1/eps), in which the stages of all norms are at the same places.
    scaled = np.linspace(0, 1.6 / stages[0].rates[-1], 321)
    observe = contrasts_of(problem, stages[0].sizes)
    curves = from_small_starts(problem, scaled, norms=norms, seeds=seeds, observe=observe)
    units = np.log(1 / np.array(norms))
    learned = units[:, None, None] * np.stack(
        [first_time(scaled, curves[f"{group}_contrast"]) for group in ("majority", "minority")], -1
    )
    middle = learned.mean(axis=-1) / units[:, None]
    at_middle = np.exp(_interpolated(middle, scaled, np.log(curves["minority_cosine_gap"])))
    return xr.Dataset(
        {
            **{name: (("norm", "seed", "save"), values) for name, values in curves.items()},
            "learned_time": (("norm", "seed", "stage"), learned),
            "predicted_time": (("norm", "stage"), np.stack([s.times for s in stages])),
            "middle_cosine_gap": (("norm", "seed"), at_middle),
        },
        {
            "norm": list(norms), "seed": np.arange(seeds), "stage": ["majority", "minority"],
            "scaled_time": ("save", scaled), "class_size": ("stage", list(stages[0].sizes)),
        },
        {"loss": type(loss).__name__, "class_sizes": list(class_sizes), "feature_dim": feature_dim},
    )  # fmt: skip


def from_small_starts(
    problem: nc.UnconstrainedFeatures | nc.KernelFeatures,
    scaled: np.ndarray,
    *,
    norms: Sequence[float],
    seeds: int,
    observe: Callable[[nc.LastLayer], dict[str, jax.Array]],
) -> dict[str, np.ndarray]:
    """Observables over (norm, seed, save) of flows from starts of every norm eps.

    Args: `scaled`, the save times divided by log(1/eps).
    """
    keys = jnp.stack([jax.random.fold_in(jax.random.key(0), seed) for seed in range(seeds)])
    recorded = []
    for norm in norms:
        starts = jax.vmap(problem.init, (0, None))(keys, norm)
        # atol is absolute, and the start is small.
        flow = nc.Flow(
            problem, scaled * math.log(1 / norm), clock=nc.RealTime(),
            rtol=1e-8, atol=1e-10 * norm, observe=observe,
        )  # fmt: skip
        recorded.append(flow.batch(starts).observables)
    return {name: np.stack([np.asarray(r[name]) for r in recorded]) for name in recorded[0]}


def contrasts_of(problem: nc.UnconstrainedFeatures, sizes: tuple[int, ...]):
    """Observables of a state: norms of the contrasts within both groups, and the cosine gap."""
    groups = [np.flatnonzero(np.array(problem.class_sizes) == size) for size in sizes]

    def observe(state: nc.LastLayer) -> dict[str, jax.Array]:
        large, small = (state.classifier[group] for group in groups)
        return {
            "majority_contrast": jnp.linalg.norm(nc.geometry.center(large)),
            "minority_contrast": jnp.linalg.norm(nc.geometry.center(small)),
            "minority_cosine_gap": 1 - jnp.min(nc.geometry.cosines(small)),
        }

    return observe


def first_time(times: np.ndarray, values: np.ndarray, level: float = LEARNED) -> np.ndarray:
    """Times at which (..., T) values first reach a level, NaN if never.

    Between saves the logarithm of the values is interpolated linearly.
    """
    logs = np.log(np.maximum.accumulate(values, axis=-1))
    reached = [
        np.interp(math.log(level), row, times, right=np.nan) for row in logs.reshape(-1, len(times))
    ]
    return np.reshape(reached, values.shape[:-1])


def show_transient(data: "xr.Dataset") -> str:
    """Table of measured and predicted times by start norm, and their slopes in log(1/eps)."""
    medians, norms = data.median("seed"), data["norm"].values
    # Measured and predicted times of the majorities, then of the minorities.
    times = np.stack([medians["learned_time"].values, medians["predicted_time"].values], axis=-1)
    times, gaps = times.reshape(len(norms), 4), medians["middle_cosine_gap"].values
    rows = [
        [f"{norm:g}", *(f"{time:.3f}" for time in row), f"{gap:.2e}"]
        for norm, row, gap in zip(norms, times, gaps, strict=True)
    ]
    slopes = [slope_of(norms, column) for column in times.T]
    power = -slope_of(norms, np.log(gaps))
    rows.append(["slope", *(f"{slope:.5f}" for slope in slopes), f"{power:.3f}"])
    large, small = data["class_size"].values
    return table(
        {
            "eps": "norm of W and of H at the start", "t_A": f"majorities of {large} learned",
            "log(1/eps)/sqrt(n_A)": "", "t_B": f"minorities of {small} learned",
            "log(1/eps)/sqrt(n_B)": "",
            "1 - cos": "of two minority classifiers, halfway between; its power of eps tends to "
            f"1 - sqrt(n_B/n_A) = {predicted_power(data):.3f} with cross-entropy",
        },
        rows,
    )  # fmt: skip


def slope_of(norms: np.ndarray, values: np.ndarray) -> float:
    """Slope of values in log(1/eps), between the two smallest norms."""
    order = np.argsort(norms)
    (near, far), logs = values[order[:2]], np.log(1 / norms[order[:2]])
    return float((near - far) / (logs[0] - logs[1]))


def predicted_power(data: "xr.Dataset") -> float:
    """1 − √(n_B/n_A), the power of eps with which minority classifiers coincide halfway."""
    large, small = data["class_size"].values
    return 1 - math.sqrt(small / large)


def _interpolated(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(R, S) values of (R, S, T) curves over x, each at one place."""
    values = [
        np.interp(a, x, row) for a, row in zip(at.ravel(), y.reshape(-1, len(x)), strict=True)
    ]
    return np.reshape(values, at.shape)


if __name__ == "__main__":
    refuse_to_run(__file__)
