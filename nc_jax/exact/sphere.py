"""Ji's landscape on the sphere ‖W‖_F² + ‖H‖_F² = ρ²: the largest margin, the least loss.

Both belong to the collapsed points with ‖W‖_F = ‖H‖_F, and to them alone. Example 3.1 is the
paper's own point that is critical there without being one of them.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from ..checks import check_number
from ..losses import CrossEntropy, has_formulas_of
from ..metrics import max_margin
from ..precision import check_dtype, widened
from ..problems import UnconstrainedFeatures, check_unconstrained
from ..state import LastLayer
from .ulpm import class_size, collapsed_state

EXAMPLE_3_1_CURVATURE = 64 * (math.exp(-2) - 1) / (math.exp(2) + math.exp(-2) + 2)
"""L''(0) = −5.81 along the curve of example 3.1; printed is 16(e^−2 − 1), that of an inner sum."""


def max_margin_bound(
    problem: UnconstrainedFeatures, radius: Float[ArrayLike, "*batch"]
) -> Float[Array, "*batch"]:
    """Largest margin q_min on the sphere of this radius: ρ²/(2(K−1)√n) (Ji, theorem 3.1).

    Equality holds exactly at collapse with ‖W‖_F = ‖H‖_F, which needs d >= K−1.

    Raises: ValueError for unbalanced classes, a problem with a bias, or a negative radius.

    Example: `max_margin_bound(ulpm(5, 20, 10), 3.0)`.
    """
    size = _check_ulpm(problem, radius)
    return max_margin(widened(radius) ** 2, problem.num_classes, size)


def sphere_optimum(
    problem: UnconstrainedFeatures,
    radius: Float[ArrayLike, ""],
    key: Key[Array, ""] | None = None,
    dtype: DTypeLike = float,
) -> tuple[Float[Array, ""], LastLayer]:
    """Least loss on the sphere of this radius, and a point that has it (Ji, theorem 3.3).

    s·nK log(1 + (K−1) exp(−ρ²/(2√n(K−1)))), s = 1 for the summed loss, attained exactly at collapse
    with ‖W‖_F = ‖H‖_F. `key` turns the frame of the point at random.

    Raises: ValueError for unbalanced classes, d < K−1, a problem with bias, weight decay or another
    loss than cross-entropy, or a negative radius.

    Example: `value, state = sphere_optimum(ulpm(5, 20, 10), 3.0)`.
    """
    check_unconstrained(problem)
    check_number("radius", radius, scalar=True)
    if not has_formulas_of(problem.loss, CrossEntropy) or not problem.weight_decay.absent:
        raise ValueError(
            f"problem has {problem.loss} and {problem.weight_decay}: theorem 3.3 is of "
            "cross-entropy without decay, nc_jax.ulpm(num_classes, feature_dim, samples_per_class)."
        )
    gap = max_margin_bound(problem, jnp.asarray(radius, dtype))
    state = collapsed_state(problem, gap, key, dtype)
    odds = jnp.log(jnp.asarray(problem.num_classes - 1, gap.dtype)) - gap
    return problem.loss_scale * problem.num_samples * jax.nn.softplus(odds), state


def separation_optimum(
    problem: UnconstrainedFeatures, key: Key[Array, ""] | None = None, dtype: DTypeLike = float
) -> tuple[float, LastLayer, Float[Array, "N K"]]:
    """Least ½‖W‖² + ½‖H‖² with all s_kij >= 1, a point that has it, its multipliers (Ji, cor. 3.1).

    The value is (K−1)√n (twice that is printed), the point the collapsed one of gap 1, where all
    constraints are active with multipliers 1/(K√n), zero at the label.

    Raises: ValueError for unbalanced classes, d < K−1, or a problem with a bias.

    Example: `value, state, multipliers = separation_optimum(ulpm(5, 20, 10))`.
    """
    root, classes = math.sqrt(_check_ulpm(problem, 1.0)), problem.num_classes
    wrong = problem.labels[:, None] != np.arange(classes)
    multipliers = jnp.asarray(wrong / (classes * root), dtype)
    return (classes - 1) * root, collapsed_state(problem, 1.0, key, dtype), multipliers


def example_3_1(alpha: Float[ArrayLike, ""] = 0.0, dtype: DTypeLike = float) -> LastLayer:
    """The curve W(α) = H(α)ᵀ of Ji's example 3.1, a state of `ulpm(4, 4, 1)` with ρ² = 16.

    W(0) = blockdiag(B, B), B = [[1, −1], [−1, 1]]: critical on its sphere, margin 2, and no
    minimum; the loss falls along W(α) = (W(0) + αu1ᵀ)/√(1 + 2α²), u = (1, 1, −1, −1), down to
    collapse at α = ½. Times any factor W(0) stays critical, and the flow stays on its ray, where
    the margin is that of `collapsed_gap(ulpm(2, 1, 1), ...)`: both solve q' = 4q/(e^q + 1).

    Example: `example_3_1(0.5)` is collapsed.
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

    Example: `example_3_1_loss(0.5)` is 0.7573554, the least on the sphere.
    """
    check_number("alpha", alpha, signed=True)
    square = widened(alpha) ** 2
    partner, others = (4 * square - 2) / (1 + 2 * square), -4 * square / (1 + 2 * square)
    inner = jnp.exp(partner) + 2 * jnp.exp(others)
    return 4 * jnp.log1p(jnp.exp(jnp.asarray(-2.0, inner.dtype)) * inner)


def example_3_1_multipliers(dtype: DTypeLike = float) -> Float[Array, "4 4"]:
    """Multipliers λ_ij at `example_3_1()`/√2: ½ for classes of different pairs, else 0.

    Within the pairs they would be stationary too, but not complementary: there s = 2 > 1.

    Example: `example_3_1_multipliers()[0]` is (0, 0, ½, ½).
    """
    check_dtype(dtype)
    pair = np.array([0, 0, 1, 1])
    return jnp.asarray((pair[:, None] != pair) / 2, dtype)


def _check_ulpm(problem: UnconstrainedFeatures, radius: Float[ArrayLike, "*batch"]) -> int:
    """n, once the classes are balanced, the model bias-free and the radius a length."""
    check_unconstrained(problem)
    check_number("radius", radius)
    if problem.bias:
        raise ValueError("problem has a bias: Ji's theorems are of nc_jax.ulpm(...), without.")
    return class_size(problem)
