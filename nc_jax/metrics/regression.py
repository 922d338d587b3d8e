"""Neural regression collapse: features of networks that are trained on continuous targets."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .arrays import check_real, rows_of
from .similarity import linear_alignment
from .unlabelled import Scatter, pair_batches, paired_arrays, scatter_of

_NAMES = ("features", "targets")


class _Maps(NamedTuple):
    """Linear maps of the features, of which the second pass sums the errors.

    Attributes:
        components: (d, k) the first principal components, k = min(m, d).
        fitted: (d, m) the best linear prediction, of `_least_squares`.
        weights: (m, d) or None.
        bias: (m,) or None.
        basis: (d, r) orthonormal columns in the span of the rows of `weights`, or None.
    """

    components: Float[np.ndarray, "d k"]
    fitted: Float[np.ndarray, "d m"]
    weights: Float[np.ndarray, "m d"] | None
    bias: Float[np.ndarray, " m"] | None
    basis: Float[np.ndarray, "d r"] | None


def regression_collapse(
    features: Any,
    targets: Any,
    classifier: Any = None,
    bias: Any = None,
    *,
    batch_size: int | None = None,
) -> dict[str, float]:
    """Collapse of the features h_i of a regression on m targets y_i, with predictions W h_i + b.

    Andriopoulos, Dong, Guo, Zhao, Ross 2024, with h̃ = h/‖h‖, and for the names that end in
    `_centered` h̃ = (h − mean h)/‖h − mean h‖:

    - `andriopoulos_nrc1`: mean_i ‖h̃_i − P h̃_i‖², P on the first m principal components;
    - `andriopoulos_nrc2`: the same with the projection onto the span of the rows of W;
    - `andriopoulos_nrc3`: min over t of ‖WWᵀ/‖WWᵀ‖_F − (S − tI)/‖S − tI‖_F‖_F², S the square root
      of the covariance of the targets, and t from 0 to its smallest eigenvalue.

    Rangamani, Unal 2026, of any layer:

    - `rangamani_nrc1`: share of the variance outside of the first m principal components;
    - `rangamani_nrc2`: linear CKA of features and targets, 1 at collapse;
    - `rangamani_nrc3`: mean cosine of the principal angles between the first m principal components
      and the first m right singular vectors of W, 1 at collapse;
    - `linear_error`: min over A, c of mean_i ‖A h_i + c − y_i‖², which their fourth condition
      compares with the error of the network; `error`, mean_i ‖W h_i + b − y_i‖², for the last one.

    Principal components are those of the centred features. For `linear_error`, directions in which
    the features vary by less than √(d eps) of the largest count as constant.

    Args:
        features: (N, d), in any format of `measure`, in memory or on disk.
        targets: (N, m), or (N,) for m = 1.
        classifier: W, (m, d), or None, which leaves out what needs it.
        bias: (m,) or None.
        batch_size: samples that are computed at once.

    Returns: a dict of floats. All but those named above are 0 at collapse.

    Raises: ValueError for arrays that do not fit.

    Example: features on the line that the weights span.

        >>> features = np.array([[1.0, 2.0], [3.0, 6.0], [-2.0, -4.0]])
        >>> weights = np.array([[1.0, 2.0]])
        >>> found = nc.metrics.regression_collapse(features, features @ weights.T, weights)
        >>> found["error"], round(found["andriopoulos_nrc2"], 12)
        (0.0, 0.0)
    """
    rows, targets = paired_arrays(_NAMES, (features, _columns(targets)))
    number, dim = targets.shape[1], rows.shape[1]
    weights, offset = _weights(classifier, bias, number, dim)
    scatter = scatter_of(_NAMES, rows, targets, batch_size=batch_size)
    variances, directions = np.linalg.eigh(scatter.left)
    components = directions[:, ::-1][:, :number]
    fitted = _least_squares(scatter, variances, directions)
    basis = None if weights is None else _row_basis(weights)
    with np.errstate(all="ignore"):
        maps = _Maps(components, fitted, weights, offset, basis)
        found = _means(rows, targets, scatter, maps, batch_size)
        found["rangamani_nrc1"] /= np.trace(scatter.left) / scatter.samples
        found["rangamani_nrc2"] = linear_alignment(scatter)
        if weights is not None:
            found["andriopoulos_nrc3"] = _gram_distance(weights, scatter.right / scatter.samples)
            found["rangamani_nrc3"] = _mean_cosine(components, weights, number)
    return {name: float(found[name]) for name in sorted(found)}


def _columns(targets: Any) -> Any:
    """Targets (N, m); one column of those without a second axis."""
    rows = rows_of("targets", targets)
    return np.asarray(rows)[:, None] if len(rows.shape) == 1 else rows


def _weights(
    classifier: Any, bias: Any, number: int, dim: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """W and b in float64, checked to fit."""
    if classifier is None:
        if bias is not None:
            raise ValueError("bias without a classifier: give both, or neither.")
        return None, None
    weights = np.asarray(rows_of("classifier", classifier))
    check_real("classifier", weights.dtype)
    if weights.shape != (number, dim):
        fix = f"give (m, d) = ({number}, {dim}), such as layer.weight"
        if weights.shape == (dim,) and number == 1:
            fix = f"it is one row of weights; give classifier[None], (1, {dim})"
        elif weights.shape == (dim, number):
            fix = "it is (d, m); give classifier.T, (m, d)"
        sizes = f"m = {number} target{'' if number == 1 else 's'} and d = {dim} features"
        raise ValueError(f"classifier has shape {weights.shape} for {sizes}: {fix}.")
    if bias is None:
        return weights.astype(float), None
    offset = np.asarray(rows_of("bias", bias))
    if offset.shape != (number,):
        raise ValueError(f"bias has shape {offset.shape} for m = {number}: give (m,).")
    check_real("bias", offset.dtype)
    return weights.astype(float), offset.astype(float)


def _row_basis(weights: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "d r"]:
    """Orthonormal columns in the span of the rows."""
    _, singular, right = np.linalg.svd(weights, full_matrices=False)
    floor = max(weights.shape) * np.finfo(float).eps * singular.max(initial=0)
    return right[singular > floor].T


def _least_squares(
    scatter: Scatter, variances: np.ndarray, directions: np.ndarray
) -> Float[np.ndarray, "d m"]:
    """A of the best linear prediction of centred targets from centred features."""
    floor = len(variances) * np.finfo(float).eps * variances[-1]
    inverse = np.divide(1, variances, out=np.zeros_like(variances), where=variances > floor)
    return directions @ (inverse[:, None] * (directions.T @ scatter.cross))


def _means(
    rows: Any, targets: Any, scatter: Scatter, maps: _Maps, batch_size: int | None
) -> dict[str, Any]:
    """Means over the samples in a second pass."""
    total = None
    with jax.enable_x64(True):
        for batch in pair_batches(rows, targets, batch_size=batch_size):
            found = _sums_of(batch.features, batch.labels, scatter.origin, scatter.mean, maps)
            total = found if total is None else jax.tree.map(jnp.add, total, found)
    return {name: np.float64(value) / scatter.samples for name, value in (total or {}).items()}


@jax.jit
def _sums_of(
    pairs: Array, labels: Array, origin: Array, mean: Array, maps: _Maps
) -> dict[str, Array]:
    dim = len(maps.components)
    centred = (pairs - origin[None]) - mean[None]
    h, y = pairs[:, :dim], pairs[:, dim:]
    h_centred, y_centred = centred[:, :dim], centred[:, dim:]

    def outside(vectors: Array, columns: Array | np.ndarray) -> Array:
        """‖h − P h‖² of each row, P the projection onto orthonormal columns."""
        return jnp.sum((vectors - (vectors @ columns) @ columns.T) ** 2, axis=1)

    def share_outside(vectors: Array, columns: Array | np.ndarray) -> Array:
        return outside(vectors, columns) / jnp.sum(vectors**2, axis=1)

    values = {
        "andriopoulos_nrc1": share_outside(h, maps.components),
        "andriopoulos_nrc1_centered": share_outside(h_centred, maps.components),
        "rangamani_nrc1": outside(h_centred, maps.components),
        "linear_error": jnp.sum((h_centred @ maps.fitted - y_centred) ** 2, axis=1),
    }
    if maps.weights is not None and maps.basis is not None:
        predictions = h @ maps.weights.T
        if maps.bias is not None:
            predictions = predictions + maps.bias[None]
        values |= {
            "andriopoulos_nrc2": share_outside(h, maps.basis),
            "andriopoulos_nrc2_centered": share_outside(h_centred, maps.basis),
            "error": jnp.sum((predictions - y) ** 2, axis=1),
        }
    return {name: jnp.sum(jnp.where(labels < 0, 0, value)) for name, value in values.items()}


def _gram_distance(
    weights: Float[np.ndarray, "m d"], covariance: Float[np.ndarray, "m m"]
) -> np.floating:
    """min over t of ‖A/‖A‖ − (S − tI)/‖S − tI‖‖², A = WWᵀ, S² = covariance.

    The cosine (⟨A, S⟩ − t tr A)/(‖A‖ ‖S − tI‖) has one stationary point, so that its maximum is
    there or at an end of the range of t.
    """
    gram = weights @ weights.T
    squares, directions = np.linalg.eigh(covariance)
    deviations = np.sqrt(np.maximum(squares, 0))
    root = (directions * deviations) @ directions.T
    product, trace, first = np.sum(gram * root), np.trace(gram), np.sum(deviations)
    second, most = np.sum(deviations**2), deviations[0]  # `eigh` sorts, smallest first
    stationary = (product * first - trace * second) / (product * len(gram) - trace * first)
    distances = []
    for t in (0.0, most, np.clip(stationary, 0, most)):
        shifted = root - t * np.eye(len(gram))
        gap = gram / np.linalg.norm(gram) - shifted / np.linalg.norm(shifted)
        distances.append(np.sum(gap**2))
    # S − tI is 0 at the end of the range where all deviations are equal, as for one target.
    return np.fmin.reduce(distances)


def _mean_cosine(
    components: Float[np.ndarray, "d m"], weights: Float[np.ndarray, "m d"], number: int
) -> np.floating:
    _, _, right = np.linalg.svd(weights, full_matrices=False)
    cosines = np.linalg.svd(components.T @ right[:number].T, compute_uv=False)
    return np.mean(np.minimum(cosines, 1))
