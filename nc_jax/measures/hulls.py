"""One-against-rest distances of classifiers: generalised collapse of many classes (GNC2)."""

import numpy as np

from ..checks import is_traced
from .registry import measure_of
from .statistics import CLASSIFIER, Array, Statistics


def distance_to_hull(points: np.ndarray) -> float:
    """Distance of 0 from the convex hull of points (m, d); NaN where a point is not finite.

    For weights x ≥ 0 of any sum, ‖Σ_j x_j p_j‖² + (Σ_j x_j − 1)² is least at a multiple of the
    weights of the nearest point of the hull. This is a least-squares problem with x ≥ 0, which an
    active-set method (Lawson, Hanson 1974) solves exactly in finitely many steps.
    """
    from scipy.optimize import nnls  # A dependency of JAX, which takes 0.2 s to import.

    if not np.isfinite(points).all():
        return np.nan
    system = np.vstack([points.T, np.ones(len(points))])
    weights, _ = nnls(system, np.append(np.zeros(points.shape[1]), 1.0), maxiter=30 * len(points))
    return float(np.linalg.norm(weights @ points / weights.sum()))


@measure_of(
    "dist(ŵ_c, conv{ŵ_j: j ≠ c}), ŵ = w/‖w‖ (terms of jiang_gnc2)",
    needs=("classifier",), dims=("class",), default=False,
)  # fmt: skip
def jiang_gnc2_by_class(s: Statistics) -> Array:
    """K/(K−1) for each class of a simplex ETF. Not available under jax.jit."""
    if is_traced(s.classifier):
        raise ValueError(
            "classifier is traced: jiang_gnc2 needs numbers; call it outside of jax.jit."
        )
    units = np.asarray(s.directions[CLASSIFIER], float)
    hulls = [np.delete(units, c, axis=0) - unit for c, unit in enumerate(units)]
    return s.xp.asarray([distance_to_hull(points) for points in hulls], dtype=s.means.dtype)


@measure_of(
    "min_c dist(ŵ_c, conv{ŵ_j: j ≠ c}), ŵ = w/‖w‖ (Jiang et al. 2024)",
    needs=("classifier",), default=False,
)  # fmt: skip
def jiang_gnc2(s: Statistics) -> Array:
    """K/(K−1) for a simplex ETF, the largest possible; 0 where two directions ŵ coincide."""
    return s.xp.min(jiang_gnc2_by_class(s))
