"""Ji's landscape on the sphere ‖W‖_F² + ‖H‖_F² = ρ²: the largest margin, the least loss.

The collapsed points with ‖W‖_F = ‖H‖_F have both, and no other points do. The paper's example 3.1
is a point that is critical on its sphere without being collapsed.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from ..checks import check_number
from ..measures import max_margin
from ..precision import check_dtype, widened
from ..preconditions import check_balanced_homogeneous, check_without_bias
from ..problems import UnconstrainedFeatures
from ..state import LastLayer
from .ulpm import simplex_point

EXAMPLE_3_1_CURVATURE = 64 * (math.exp(-2) - 1) / (math.exp(2) + math.exp(-2) + 2)
"""L''(0) = −5.81 along the curve of example 3.1.

The paper prints 16(e^−2 − 1), the second derivative of a sum inside the logarithm of L.
"""


def max_margin_bound(
    problem: UnconstrainedFeatures, radius: Float[ArrayLike, "*batch"]
) -> Float[Array, "*batch"]:
    """Largest margin q_min on the sphere of this radius: ρ²/(2(K−1)√n) (Ji, theorem 3.1).

    Equality holds exactly at collapse with ‖W‖_F = ‖H‖_F, which needs d >= K−1.

    Args: `radius` ρ >= 0 of any shape. Returns the bound with this shape.

    Raises: ValueError for unbalanced classes, a problem with a bias, or a negative radius.

    Example:

        >>> float(nc.exact.max_margin_bound(nc.ulpm(3, 4, 4), 2.0))
        0.5
    """
    size = check_without_bias(problem)
    check_number("radius", radius)
    return max_margin(widened(radius) ** 2, problem.num_classes, size)


def sphere_optimum(
    problem: UnconstrainedFeatures,
    radius: Float[ArrayLike, ""],
    *,
    key: Key[Array, ""] | None = None,
    dtype: DTypeLike = float,
) -> tuple[Float[Array, ""], LastLayer]:
    """Least loss on the sphere of this radius, and a point that has it (Ji, theorem 3.3).

    s·nK log(1 + (K−1) exp(−ρ²/(2√n(K−1)))), s = 1 for the summed loss and 1/N for the mean,
    attained exactly at collapse with ‖W‖_F = ‖H‖_F.

    Args: `radius` ρ >= 0; `key` rotates the simplex of the point at random; `dtype` of the state.

    Returns: the loss and the state.

    Raises: ValueError for unbalanced classes, d < K−1, a problem with bias, weight decay or another
    loss than cross-entropy, or a negative radius.

    Example:

        >>> problem = nc.ulpm(3, 4, 2)
        >>> value, state = nc.exact.sphere_optimum(problem, 3.0)
        >>> print(round(float(value), 6), round(float(problem.objective(state)), 6))
        2.050667 2.050667
    """
    size = check_balanced_homogeneous(problem)
    check_number("radius", radius, scalar=True)
    squared_norm = jnp.asarray(radius, dtype) ** 2
    gap = max_margin(squared_norm, problem.num_classes, size)
    state = simplex_point(problem, size, gap, key=key, dtype=dtype)
    # log(1 + (K−1)e^(−gap)) as a softplus, which is accurate where e^(−gap) is below rounding.
    log_odds = jnp.log(jnp.asarray(problem.num_classes - 1, gap.dtype)) - gap
    return problem.loss_scale * problem.num_samples * jax.nn.softplus(log_odds), state


def separation_optimum(
    problem: UnconstrainedFeatures, *, key: Key[Array, ""] | None = None, dtype: DTypeLike = float
) -> tuple[float, LastLayer, Float[Array, "N K"]]:
    """Least ½‖W‖² + ½‖H‖² with all s_kij >= 1, with a point and its multipliers (Ji, cor. 3.1).

    The value is (K−1)√n (the paper prints twice that). The point is the collapsed one of gap 1,
    where all constraints s_kij = (w_k − w_j)·h_ki >= 1 are active.

    Args: `key` rotates the simplex of the point at random; `dtype` of the arrays.

    Returns: the value, the state, and the multipliers (N, K): 1/(K√n), and 0 at the label.

    Raises: ValueError for unbalanced classes, d < K−1, or a problem with a bias.

    Example:

        >>> value, state, multipliers = nc.exact.separation_optimum(nc.ulpm(3, 4, 4))
        >>> print(value, round(float(state.squared_norm()) / 2, 6))
        4.0 4.0
    """
    size, classes = check_without_bias(problem), problem.num_classes
    root = math.sqrt(size)
    wrong = problem.labels[:, None] != np.arange(classes)
    multipliers = jnp.asarray(wrong / (classes * root), dtype)
    return (
        (classes - 1) * root,
        simplex_point(problem, size, 1.0, key=key, dtype=dtype),
        multipliers,
    )


def example_3_1(alpha: Float[ArrayLike, ""] = 0.0, *, dtype: DTypeLike = float) -> LastLayer:
    """The curve W(α) = H(α)ᵀ of Ji's example 3.1, a state of `ulpm(4, 4, 1)` with ρ² = 16.

    W(0) = blockdiag(B, B), B = [[1, −1], [−1, 1]], is critical on its sphere with margin 2, and no
    minimum: the loss falls along W(α) = (W(0) + αu1ᵀ)/√(1 + 2α²), u = (1, 1, −1, −1), to collapse
    at α = ½. Every positive multiple of W(0) is critical too, and the flow stays on this ray, where
    the margin is that of `collapsed_gap(ulpm(2, 1, 1), ...)`: both solve q' = 4q/(e^q + 1).

    Raises: ValueError for an α that is no finite number.

    Example:

        >>> labels = nc.ulpm(4, 4, 1).labels
        >>> for alpha in (0.0, 0.5):
        ...     margins = nc.metrics.sample_margins(nc.exact.example_3_1(alpha), labels)
        ...     print(np.asarray(margins).round(6).tolist())
        [2.0, 2.0, 2.0, 2.0]
        [2.666667, 2.666667, 2.666667, 2.666667]
    """
    check_dtype(dtype)
    check_number("alpha", alpha, scalar=True, signed=True)
    alpha = jnp.asarray(alpha, dtype)
    block = np.array([[1.0, -1.0], [-1.0, 1.0]])
    start = jnp.asarray(np.kron(np.eye(2), block), dtype)
    across = jnp.asarray(np.array([[1.0], [1.0], [-1.0], [-1.0]]), dtype)
    classifier = (start + alpha * across) / jnp.sqrt(1 + 2 * alpha**2)
    return LastLayer(features=classifier, classifier=classifier)


def example_3_1_loss(alpha: Float[ArrayLike, "*batch"]) -> Float[Array, "*batch"]:
    """L(α) = 4 log(1 + f(α)/e²) along that curve, f = e^((4α²−2)/(1+2α²)) + 2e^(−4α²/(1+2α²)).

    L''(0) is `EXAMPLE_3_1_CURVATURE`; the loss is below L(0) for 0 < |α| < 0.88144.

    Args: `alpha` of any shape. Returns L with this shape.

    Example: at α = ½ the loss is the least on the sphere.

        >>> np.asarray(nc.exact.example_3_1_loss(jnp.array([0.0, 0.5]))).round(6).tolist()
        [1.015424, 0.757355]
        >>> round(float(nc.exact.sphere_optimum(nc.ulpm(4, 4, 1), 4.0)[0]), 6)
        0.757355
    """
    check_number("alpha", alpha, signed=True)
    square = widened(alpha) ** 2
    # 2 − s for the class of the same pair, and for each of the two others.
    partner, others = (4 * square - 2) / (1 + 2 * square), -4 * square / (1 + 2 * square)
    inner = jnp.exp(partner) + 2 * jnp.exp(others)
    # −2 in the dtype of α, since the exponential of a Python float has JAX's default dtype.
    return 4 * jnp.log1p(jnp.exp(jnp.asarray(-2.0, inner.dtype)) * inner)


def example_3_1_multipliers(dtype: DTypeLike = float) -> Float[Array, "4 4"]:
    """Multipliers λ_ij at `example_3_1()`/√2: ½ for classes of different pairs, else 0.

    Multipliers within the pairs would make the point stationary too, but would not be
    complementary: within a pair s = 2 > 1.

    Example:

        >>> nc.exact.example_3_1_multipliers()[0].tolist()
        [0.0, 0.0, 0.5, 0.5]
    """
    check_dtype(dtype)
    pair = np.array([0, 0, 1, 1])
    return jnp.asarray((pair[:, None] != pair) / 2, dtype)
