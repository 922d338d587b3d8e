"""Codes: limits in direction of the flow without decay for d < K−1, where no simplex ETF exists.

The flow tends in direction to KKT points of min ½(‖W‖² + ‖H‖²) with all s_kij = (w_k − w_j)·h_ki
>= 1 (Ji, theorem 3.2, which has no condition on d). For d >= K−1 and classes of one size its
minimum is the simplex ETF. For d < K−1 this file has the points of least value that are known, and
a local minimum that is not global. Their logits Z = HWᵀ are in closed form or in a table; with
Z = U S Vᵀ the state is W = V S^{1/2}, H = U S^{1/2}. With n samples of each class features are
repeated, W is multiplied by n^{1/4} and H divided by it, and the value is √n times that for n = 1.

Optimality of these codes is a conjecture: searches from random starts for K <= 12 find them and
nothing below, and `landscape.separation_certificate` shows for each that it is a local minimum.
"""

import functools
import json
import math
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from ..checks import check_integer, check_key, check_number
from ..errors import ArgumentError
from ..precision import check_dtype, matmul
from ..preconditions import check_without_bias
from ..problems import UnconstrainedFeatures, check_sizes
from ..state import LastLayer
from .seli import seli
from .ulpm import simplex_point

# Classifier and features of one sample each, (K, r) both, of margin 1.
Rows = tuple[Float[np.ndarray, "K r"], Float[np.ndarray, "K r"]]

Evidence = Literal["proved", "conjecture", "best found"]


class SeparationValue(NamedTuple):
    """The least value of the separation problem, and how it is known.

    Attributes:
        value: V, or the least value found.
        evidence: "proved"; "conjecture" for a closed form below which no search has found a value;
            "best found" for the least value of a search from random starts.

    Example:

        >>> nc.exact.separation_value(4, 3)
        SeparationValue(value=3.0, evidence='proved')
    """

    value: float
    evidence: Evidence


def separation_value(
    class_sizes: int | tuple[int, ...] | list[int] | np.ndarray, feature_dim: int
) -> SeparationValue:
    """V = min ½(‖W‖² + ‖H‖²) with all margins (w_k − w_j)·h_ki >= 1, or the least value known.

    | d | V | evidence |
    |---|---|---|
    | d >= K−1 | tr (PDP)^{1/2}, D = diag(n_k), P = I − 11ᵀ/K | proved (Thrampoulidis et al. 2022) |
    | d = 2 | √n K/(1 − cos 2π/K) | conjecture: a regular polygon |
    | K/2 <= d <= K−2 | √n (K−1 + √(2(K−d)/K)) | conjecture: `pairs_and_singles` |
    | d = 3, K = 7 … 10 | a table | best found |

    A flow of the summed cross-entropy L without decay that tends in direction to a KKT point of
    value V has L t log t → V/2 (derived).

    Args:
        class_sizes: samples of each class; an integer K means one sample of each of K classes.
        feature_dim: d.

    Raises: ValueError where nothing is known: classes of different sizes with d < K−1, 3 < d < K/2,
        or d = 3 with K > 10; and for d = 1 with K > 2, where no state separates the classes.

    Example: five classes in three dimensions, 4 + 2/√5, and a simplex of three classes.

        >>> print(round(nc.exact.separation_value(5, 3).value, 10))
        4.894427191
        >>> print(round(nc.exact.separation_value((4, 4, 4), 2).value, 10))
        4.0
    """
    sizes = _sizes(class_sizes)
    classes, dim = len(sizes), check_integer("feature_dim", feature_dim)
    if dim >= classes - 1:
        return SeparationValue(_simplex_value(sizes), "proved")
    if len(set(sizes)) > 1:
        raise ValueError(
            f"class_sizes = {sizes}, feature_dim = {dim}: for classes of different sizes the value "
            f"is known from d = K - 1 = {classes - 1} dimensions on."
        )
    rows, evidence = _best_rows(classes, dim)
    return SeparationValue(math.sqrt(sizes[0]) * _value(rows), evidence)


def best_known_code(
    problem: UnconstrainedFeatures,
    *,
    gap: Float[ArrayLike, ""] = 1.0,
    key: Key[Array, ""] | None = None,
    dtype: DTypeLike = float,
) -> tuple[float, LastLayer]:
    """The state that has `separation_value`: simplex, polygon, pairs and singles, or table.

    Args:
        problem: classes of one size, no bias.
        gap: the smallest margin of the state.
        key: rotates the state at random.
        dtype: of the state.

    Returns: the value at margin 1, and the state. At another gap ½(‖W‖² + ‖H‖²) is gap times the
        value.

    Raises: ValueError as `separation_value`, for a bias, or a gap that is negative.

    Example: the best known code of eight classes in three dimensions is a square antiprism.

        >>> value, state = nc.exact.best_known_code(nc.ulpm(8, 3, 1))
        >>> print(round(value - 8, 10), round(float(state.squared_norm()) / 2 - 8, 10))
        2.8284271247 2.8284271247
    """
    size = check_without_bias(problem)
    classes, dim = problem.num_classes, problem.feature_dim
    if dim < classes - 1:
        return _code(problem, _best_rows(classes, dim)[0], gap, key, dtype)
    check_number("gap", gap, scalar=True)
    state = simplex_point(problem, size, gap, key=key, dtype=dtype)
    return (classes - 1) * math.sqrt(size), state


def pairs_and_singles(
    problem: UnconstrainedFeatures,
    *,
    gap: Float[ArrayLike, ""] = 1.0,
    key: Key[Array, ""] | None = None,
    dtype: DTypeLike = float,
) -> tuple[float, LastLayer]:
    """K−d antipodal pairs of classes and 2d−K single ones, for K/2 <= d <= K−2 (derived).

    A sample of a pair has the logit 1 at its class, −1 at the other class of the pair and 0
    elsewhere. The logits of a single class k are e_k − 1/K, with the unit vector e_k. The singular
    values of the logits are 2 (K−d times), 1 (2d−K−1 times) and √(2(K−d)/K), and V is
    K−1 + √(2(K−d)/K) for n = 1. That the code is a KKT point is derived; that its value is the
    least is a conjecture.

    W != H unless d = K/2: ‖W − H‖²/‖W‖² = 2 − 2 tr Z/V for n = 1. For d = K/2 there are no single
    classes, and the code is the cross polytope.

    Args and returns: those of `best_known_code`. Classes 0 and 1 are a pair, 2 and 3, and so on.

    Raises: ValueError for d outside of K/2 … K−2, unbalanced classes, a bias, or a negative gap.

    Example:

        >>> value, state = nc.exact.pairs_and_singles(nc.ulpm(5, 3, 1))
        >>> bool(np.isclose(value, 4 + 2 / np.sqrt(5)))
        True
        >>> difference = jnp.linalg.norm(state.classifier - state.features)
        >>> print(round(float(difference / jnp.linalg.norm(state.classifier)), 4))
        0.1964
    """
    check_without_bias(problem)
    classes, dim = problem.num_classes, problem.feature_dim
    if not classes / 2 <= dim <= classes - 2:
        raise ArgumentError(
            f"num_classes = {classes}, feature_dim = {dim}: pairs and singles need "
            "K/2 <= d <= K - 2.",
            "num_classes",
            "feature_dim",
        )
    return _code(problem, _pairs_and_singles(classes, dim), gap, key, dtype)


def polygon(
    problem: UnconstrainedFeatures,
    *,
    gap: Float[ArrayLike, ""] = 1.0,
    key: Key[Array, ""] | None = None,
    dtype: DTypeLike = float,
) -> tuple[float, LastLayer]:
    """Regular polygon, with V = √n K/(1 − cos 2π/K), and W = H for n = 1 (derived).

    For d = 2 it is the least value that searches find (conjecture: it is the least value); for
    K = 3 it is the simplex ETF.

    Args and returns: those of `best_known_code`, for d >= 2; the polygon is in the first two
    coordinates unless a key rotates it.

    Raises: ValueError for K < 3 or d < 2, unbalanced classes, a bias, or a negative gap.

    Example: a square, and six classes in the plane.

        >>> print(round(nc.exact.polygon(nc.ulpm(4, 2, 1))[0], 6))
        4.0
        >>> print(round(nc.exact.polygon(nc.ulpm(6, 2, 1))[0], 6))
        12.0
    """
    check_without_bias(problem)
    _check_code(problem, problem.num_classes >= 3, 2, "a polygon needs K >= 3 and d >= 2")
    return _code(problem, polygon_rows(problem.num_classes), gap, key, dtype)


def pentagonal_bipyramid(
    problem: UnconstrainedFeatures,
    *,
    gap: Float[ArrayLike, ""] = 1.0,
    key: Key[Array, ""] | None = None,
    dtype: DTypeLike = float,
) -> tuple[float, LastLayer]:
    """A local minimum that is not global for K = 7, d = 3: V = √n (7 + √5) (derived).

    The least known value is 8.840 for n = 1. The code is two opposite poles and a regular pentagon
    in the plane orthogonal to them, with W = H for n = 1. For d >= K−1 every local minimum is
    global (Ji, theorem 3.4); this code shows that this fails for d < K−1.

    Args and returns: those of `best_known_code`. Classes 0 and 1 are the poles.

    Raises: ValueError for K != 7 or d < 3, unbalanced classes, a bias, or a negative gap.

    Example:

        >>> problem = nc.ulpm(7, 3, 1)
        >>> value, state = nc.exact.pentagonal_bipyramid(problem)
        >>> print(round(value - 7, 6), round(nc.exact.separation_value(7, 3).value, 6))
        2.236068 8.840448
        >>> nc.landscape.separation_certificate(problem, state).holds
        True
    """
    check_without_bias(problem)
    _check_code(problem, problem.num_classes == 7, 3, "the bipyramid has K = 7 and d >= 3")
    pentagon = polygon_rows(5)[0]
    rows = np.zeros((7, 3))
    rows[:2, 0], rows[2:, 1:] = (1.0, -1.0), pentagon
    return _code(problem, (rows, rows), gap, key, dtype)


def _sizes(class_sizes: object) -> tuple[int, ...]:
    """The samples of each class; an integer is the number of classes."""
    if isinstance(class_sizes, (int, np.integer)):
        return (1,) * check_integer("class_sizes", class_sizes, least=2)
    sizes = check_sizes("class_sizes", class_sizes)
    if len(sizes) < 2:
        raise ValueError(f"class_sizes = {sizes}: give the sizes of 2 or more classes.")
    return sizes


def _simplex_value(sizes: tuple[int, ...]) -> float:
    """tr (PDP)^{1/2}, the nuclear norm of the logits e_y − 1/K of all samples."""
    if len(set(sizes)) == 1:
        return (len(sizes) - 1) * math.sqrt(sizes[0])
    return seli(sizes).value


def _best_rows(classes: int, dim: int) -> tuple[Rows, Evidence]:
    """The best known code for d < K−1 with one sample of each class, and how it is known."""
    if dim == 1:
        raise ArgumentError(
            f"num_classes = {classes}, feature_dim = 1: in one dimension no state separates more "
            "than 2 classes.",
            "num_classes",
            "feature_dim",
        )
    if dim == 2:
        return polygon_rows(classes), "conjecture"
    if classes <= 2 * dim:
        return _pairs_and_singles(classes, dim), "conjecture"
    if dim == 3 and classes in stored_rows():
        return stored_rows()[classes], "best found"
    raise ArgumentError(
        f"num_classes = {classes}, feature_dim = {dim}: the least value is known for d = 2, for "
        "K <= 2d, and for K <= 10 in d = 3.",
        "num_classes",
        "feature_dim",
    )


def polygon_rows(classes: int) -> Rows:
    """Regular polygon, W = H."""
    angles = 2 * np.pi * np.arange(classes) / classes
    # Unit vectors have the smallest margin 1 − cos 2π/K. The division makes it 1.
    rows = np.stack([np.cos(angles), np.sin(angles)], 1) / math.sqrt(1 - math.cos(angles[1]))
    return rows, rows


def _pairs_and_singles(classes: int, dim: int) -> Rows:
    pairs, singles = classes - dim, 2 * dim - classes
    classifier = np.kron(np.eye(pairs, dim), [[1.0], [-1.0]])
    if not singles:
        return classifier, classifier
    classifier, features = np.pad(classifier, ((0, singles), (0, 0))) * np.ones((2, 1, 1))
    # Rows e_k − 1/K of the single classes, X. XXᵀ = I − 11ᵀ/K, whose powers are known:
    # 1 − singles/K is its eigenvalue of the vector of ones, and all others are 1.
    logits = np.eye(singles, classes, 2 * pairs) - 1 / classes
    shift = (2 * pairs / classes) ** 0.25
    root = np.eye(singles) + (shift - 1) / singles
    inverse = np.eye(singles) + (1 / shift - 1) / singles
    classifier[:, pairs:] += logits.T @ inverse
    features[2 * pairs :, pairs:] = root
    return classifier, features


@functools.cache
def stored_rows() -> dict[int, Rows]:
    """Best codes found for d = 3 from 10 or more random starts each, solved to rounding."""
    return read_rows("separation_codes.json")


def read_rows(file: str) -> dict[int, Rows]:
    """Stored classifier and features by a number, such as that of the classes."""
    # The coordinates are stored, and not computed by a search in each process: a search may end in
    # another local minimum.
    stored = json.loads(Path(__file__).with_name(file).read_text())
    return {
        int(number): (np.array(code["classifier"]), np.array(code["features"]))
        for number, code in stored.items()
    }


def _value(rows: Rows) -> float:
    return sum(float(np.sum(part**2)) for part in rows) / 2


def _check_code(problem: UnconstrainedFeatures, exists: bool, least_dim: int, need: str) -> None:
    classes, dim = problem.num_classes, problem.feature_dim
    if not exists or dim < least_dim:
        raise ArgumentError(
            f"num_classes = {classes}, feature_dim = {dim}: {need}.", "num_classes", "feature_dim"
        )


def _code(
    problem: UnconstrainedFeatures,
    rows: Rows,
    gap: Float[ArrayLike, ""],
    key: Key[Array, ""] | None,
    dtype: DTypeLike,
) -> tuple[float, LastLayer]:
    """Value at margin 1, and state of a balanced problem, from one sample of each class."""
    check_number("gap", gap, scalar=True)
    check_dtype(dtype)
    size, dim = problem.class_sizes[0], problem.feature_dim
    padding = ((0, 0), (0, dim - rows[0].shape[1]))
    classifier, features = (jnp.asarray(np.pad(part, padding), dtype) for part in rows)
    if key is not None:
        check_key(key)
        rotation = jax.random.orthogonal(key, dim, dtype=dtype)
        classifier, features = matmul(classifier, rotation), matmul(features, rotation)
    scale, balance = jnp.sqrt(jnp.asarray(gap, dtype)), size**0.25
    state = LastLayer(
        features=jnp.repeat(scale * features / balance, size, axis=0),
        classifier=scale * classifier * balance,
    )
    return math.sqrt(size) * _value(rows), state
