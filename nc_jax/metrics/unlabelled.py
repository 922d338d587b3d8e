"""Batches of one array, or of two with the same samples, without labels."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ..checks import check_integer
from .arrays import check_features, rows_of, slice_of
from .passes import Batch, moments_of, origin_and_means
from .reading import batch_rows, padded


def array_of(name: str, values: Any) -> Any:
    """Rows (N, d) of real numbers, in memory or on disk.

    Raises: ValueError for values of another shape or kind, or no samples.
    """
    rows = rows_of(name, values)
    check_features(name, rows)
    if not rows.shape[0]:
        raise ValueError(
            f"{name} have shape {tuple(rows.shape)}: there are no samples; give one or more."
        )
    return rows


def paired_arrays(names: tuple[str, str], values: tuple[Any, Any]) -> tuple[Any, Any]:
    """Two arrays that have one row for each sample.

    Raises: ValueError for arrays of different lengths.
    """
    left, right = (array_of(name, x) for name, x in zip(names, values, strict=True))
    if left.shape[0] != right.shape[0]:
        raise ValueError(
            f"{names[1]} have {right.shape[0]} rows for {left.shape[0]} samples of {names[0]}: "
            "give one row for each sample, in one order."
        )
    return left, right


def row_batches(rows: Any, *, batch_size: int | None = None) -> Iterator[Batch]:
    """Batches of one shape, with the label 0, or −1 for padding."""
    count = rows.shape[0]
    size = _size(batch_size, count, rows.shape[1])
    for start in range(0, count, size):
        part = slice_of(rows, start, min(start + size, count))
        yield padded(part, np.zeros(len(part), np.int32), size)


def _size(batch_size: int | None, count: int, dim: int) -> int:
    """Rows of a batch; ValueError for a number that is no size."""
    return batch_rows(count, dim) if batch_size is None else check_integer("batch_size", batch_size)


class Scatter(NamedTuple):
    """Mean and scatter of the rows (x, y) of two arrays.

    Attributes:
        samples: N.
        origin: (d + m,) a point near the rows (x, y).
        mean: (d + m,) mean of the rows minus `origin`.
        left: Σ (x − x̄)(x − x̄)ᵀ.
        right: Σ (y − ȳ)(y − ȳ)ᵀ.
        cross: Σ (x − x̄)(y − ȳ)ᵀ.
    """

    samples: int
    origin: Float[np.ndarray, " both"]
    mean: Float[np.ndarray, " both"]
    left: Float[np.ndarray, "d d"]
    right: Float[np.ndarray, "m m"]
    cross: Float[np.ndarray, "d m"]


def pair_batches(left: Any, right: Any, *, batch_size: int | None = None) -> Iterator[Batch]:
    """Batches of the joined rows (x, y) in float64."""
    size = _size(batch_size, left.shape[0], left.shape[1] + right.shape[1])
    pairs = zip(
        row_batches(left, batch_size=size), row_batches(right, batch_size=size), strict=True
    )
    for x, y in pairs:
        rows = [np.asarray(part.features).astype(float) for part in (x, y)]
        yield Batch(np.concatenate(rows, axis=1), x.labels)


def scatter_of(
    names: tuple[str, str], left: Any, right: Any, *, batch_size: int | None = None
) -> Scatter:
    """Mean and scatter of pairs of rows in one pass; differences are formed before products.

    Raises: ValueError for rows that are not finite, of which NumPy decomposes no matrix.
    """
    dim = left.shape[1]
    pairs = pair_batches(left, right, batch_size=batch_size)
    moments = moments_of(pairs, dim + right.shape[1], covariance=True)
    # A difference of infinities is NaN without a warning.
    with np.errstate(all="ignore"):
        origin, (mean,) = origin_and_means(moments)
    scatter = np.asarray(moments.covariance)
    for name, part in zip(names, (scatter[:dim, :dim], scatter[dim:, dim:]), strict=True):
        if not np.isfinite(part).all():
            raise ValueError(
                f"{name} have NaN, infinities or numbers whose squares overflow: give finite rows, "
                f"such as those of np.isfinite({name}).all(axis=1), of both arrays."
            )
    return Scatter(
        int(left.shape[0]),
        origin,
        mean,
        scatter[:dim, :dim],
        scatter[dim:, dim:],
        scatter[:dim, dim:],
    )
