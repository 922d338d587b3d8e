"""Softmax codes: unit classifiers with the largest smallest margin (Jiang et al. 2024).

They are the limits of minima of `NormalizedFeatures` for an inverse temperature τ → ∞. The value of
a code (w_k) is min_k dist(w_k, conv{w_j: j ≠ k}), which is the largest
min_{k, j≠k} ⟨w_k − w_j, h_k⟩ over unit rows h_k (Jiang et al. 2024). `metrics.jiang_gnc2` measures
it.
"""

import functools
import importlib.resources
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float

from ..checks import check_integer
from ..errors import ArgumentError
from ..geometry import simplex_etf
from ..precision import check_dtype

# Most classes of which the package has a code, by dimension.
_MOST = {3: 24, 4: 16}


class SoftmaxCode(NamedTuple):
    """A code of unit rows, its value, and whether it is proved optimal.

    Attributes:
        directions: (K, d) unit rows w_k. With h_k = w_k all margins ⟨w_k − w_j, h_k⟩ are at least
            `value`.
        value: min_k dist(w_k, conv{w_j: j ≠ k}).
        evidence: "proved" for an optimal code, "best found" for the best of a numerical search.

    Example:

        >>> code = nc.exact.softmax_code(12, 3)
        >>> round(code.value, 6), code.evidence
        (0.552786, 'best found')
    """

    directions: Float[Array, "K d"]
    value: float
    evidence: Literal["proved", "best found"]


def softmax_code(num_classes: int, feature_dim: int, *, dtype: DTypeLike = float) -> SoftmaxCode:
    """The best known softmax code of K unit rows in d dimensions (Jiang et al. 2024).

    | sizes | code | value | evidence |
    |---|---|---|---|
    | K <= d+1 | simplex ETF | K/(K−1) | proved |
    | d = 2 | regular polygon | 1 − cos(2π/K) | proved |
    | d+2 <= K <= 2d | simplex of 2d−K+2 rows and K−d−1 antipodal pairs, orthogonal | 1 | proved |
    | d = 3, K <= 24 | solution of Tammes's problem | 1 − cos θ, θ the smallest angle | best found |
    | d = 4, K <= 16 | the same in four dimensions | 1 − cos θ | best found |

    The code of the third row is not unique: every subset of K >= d+2 points of a cross-polytope has
    the value 1 too. The codes of d = 3 are the best of a search over W and H separately, and
    those of d = 4 the best of a search with H = W (conjecture: they are optimal). All have H = W.
    Those of d = 3 agree with the best known solutions of Tammes's problem, which maximises the
    smallest angle; codes of 7 to 14 and of 24 points are proved optimal for that problem.

    Args:
        num_classes: K, 2 or more.
        feature_dim: d.
        dtype: dtype of the directions.

    Raises: ValueError for sizes of which no code is known: K > 24 for d = 3, K > 16 for d = 4,
    K > 2d for d >= 5, and K > 2 for d = 1, where two of three rows coincide.

    Example: five classes in the plane form a regular pentagon.

        >>> code = nc.exact.softmax_code(5, 2)
        >>> bool(np.isclose(code.value, 1 - np.cos(2 * np.pi / 5))), code.evidence
        (True, 'proved')
    """
    classes = check_integer("num_classes", num_classes, least=2)
    dim = check_integer("feature_dim", feature_dim)
    check_dtype(dtype)
    if classes <= dim + 1:
        directions, value = _simplex(classes, dim), classes / (classes - 1)
    elif dim == 2:
        angles = 2 * np.pi * np.arange(classes) / classes
        directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        # 1 − cos x = 2 sin²(x/2), which does not cancel for many classes.
        value = 2 * math.sin(math.pi / classes) ** 2
    elif classes <= 2 * dim:
        directions, value = _simplex_and_pairs(classes, dim), 1.0
    elif classes <= _MOST.get(dim, 0):
        directions = _table(dim)[classes]
        cosines = directions @ directions.T
        value = float(1 - np.max(cosines[~np.eye(classes, dtype=bool)]))
        return SoftmaxCode(jnp.asarray(directions, dtype), value, "best found")
    else:
        raise ArgumentError(
            f"num_classes = {classes} in {dim} dimensions: codes are known for K <= 2d, for d = 2, "
            f"for d = 3 and K <= {_MOST[3]}, and for d = 4 and K <= {_MOST[4]}.",
            "num_classes",
            "feature_dim",
        )
    return SoftmaxCode(jnp.asarray(directions, dtype), value, "proved")


def _simplex(classes: int, dim: int) -> np.ndarray:
    # Without this context the frame would be traced under jit, and NumPy needs values.
    with jax.ensure_compile_time_eval():
        frame = np.array(simplex_etf(classes, dim))
    return frame / np.linalg.norm(frame, axis=1, keepdims=True)


def _simplex_and_pairs(classes: int, dim: int) -> np.ndarray:
    """A simplex and antipodal pairs in orthogonal subspaces, which together fill the space."""
    pairs = classes - dim - 1
    directions = np.zeros((classes, dim))
    alone = classes - 2 * pairs
    directions[:alone, : alone - 1] = _simplex(alone, alone - 1)
    for pair in range(pairs):
        directions[alone + 2 * pair : alone + 2 * pair + 2, alone - 1 + pair] = 1, -1
    return directions


@functools.cache
def _table(dim: int) -> dict[int, np.ndarray]:
    """Codes in three or four dimensions by the number of classes, to rounding in float64."""
    package = importlib.resources.files("nc_jax.exact")
    with (
        (package / "data" / f"softmax_codes_{dim}d.npz").open("rb") as file,
        np.load(file) as codes,
    ):
        return {int(name): codes[name] for name in codes.files}
