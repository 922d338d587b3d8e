"""Cross-entropy with m factors and decay on the ray of the simplex ETF, for classes of one size.

The logits aP of each class, P = I − 11ᵀ/K, have the gap a = z_y − z_j. With n samples in each
class, the scale s of the loss, N = Kn and Λ = (λ_1 ... λ_m)^(1/m), the least objective over factors
of these logits is

    f(a) = sN log(1 + (K−1)e^(−a)) + (m/2) Λ (K−1) (√n a)^(2/m),

stationary where a^(1−2/m)/(e^a + K − 1) = Λ n^(1/m)/(sN) (Zhu et al. 2021 for m = 2; Dang et al.
2023). For m > 2 the left side is 0 at a = 0 and has one maximum. The larger root is a minimum of f,
the smaller one a maximum, and so is a = 0 a minimum: the least value jumps to that of the origin.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Key

from ..checks import check_integer
from ..preconditions import check_deep_simplex
from ..problems import DeepFeatures, DeepUnconstrainedFeatures
from .deep_factors import mean_decay, state_on_ray
from .roots import falling_root


def deep_minimizer(
    problem: DeepUnconstrainedFeatures,
    *,
    key: Key[Array, ""] | None = None,
    dtype: DTypeLike = float,
) -> DeepFeatures:
    """The least point of cross-entropy with decay on the ray of the simplex ETF, or the origin.

    For m = 2 it is the global minimum (Zhu et al. 2021). For m > 2 it is a critical point, and need
    not be the global minimum: for m = 3 from K = 6 on, and for m >= 4 from K = 4 on, codes of lower
    rank have lower values at a small decay (Garrod and Keating 2024).

    Args: `key` rotates every layer at random; `dtype` of the state.

    Raises: ValueError for an activation, another loss, unequal classes, a width below K−1, or a λ
    that is 0.

    Example: the gap of the logits.

        >>> problem = nc.DeepUnconstrainedFeatures((2, 2, 2), (4, 4), weight_decay=0.01)
        >>> logits = nc.exact.deep_minimizer(problem).logits()
        >>> print(round(float(logits[0, 0] - logits[0, 1]), 10))
        4.8880963774
    """
    size = check_deep_simplex(problem)
    count = problem.num_classes
    gap, _ = _least_point(problem, size, dtype)
    projector = jnp.asarray(np.eye(count) - 1 / count, dtype)
    # At the origin the factors have the derivative 0, and gap^(1/m) an infinite one.
    present = gap > 0
    state = state_on_ray(
        projector,
        jnp.where(present, gap, 1),
        problem.class_sizes,
        problem.widths,
        weight_decay=problem.weight_decay,
        key=key,
    )
    return jax.tree.map(lambda factor: jnp.where(present, factor, 0), state)


def deep_minimum(problem: DeepUnconstrainedFeatures) -> Float[Array, ""]:
    """The value at `deep_minimizer`: the least f(a) on the ray of the simplex ETF, a = 0 included.

    f(a) = sN log(1 + (K−1)e^(−a)) + (m/2) Λ (K−1) (√n a)^(2/m) with the Λ of `deep_penalty`. The
    global minimum is at most this.

    Raises: as `deep_minimizer`.

    Example:

        >>> problem = nc.DeepUnconstrainedFeatures((2, 2, 2), (4, 4), weight_decay=0.01)
        >>> print(round(float(nc.exact.deep_minimum(problem)), 10))
        0.1238247674
    """
    return _least_point(problem, check_deep_simplex(problem), float)[1]


def deep_simplex_threshold(
    num_classes: int, samples_per_class: int, depth: int
) -> tuple[float, float]:
    """Λ/(sN) from which on the origin has a lower value than the simplex, and its gap there.

    Just below the threshold the simplex has the gap a* > 0 with
    log(1 + (K−1)e^(−a)) + (m/2)(K−1)a/(e^a + K − 1) = log K, which has one root, whatever n is
    (derived). For m = 3 and K = 3 it is log 4. For m = 2 the gap tends to 0 continuously, and the
    threshold is 1/(K√n). sN is 1 for the mean loss.

    Args:
        num_classes: K >= 2.
        samples_per_class: n.
        depth: m >= 2 factors.

    Returns: (Λ/(sN), a*), Python floats.

    Raises: ValueError for fewer than 2 classes, n < 1 or depth < 2.

    Example: three factors, and the gap log 4.

        >>> decay, gap = nc.exact.deep_simplex_threshold(3, 2, 3)
        >>> round(decay, 8), round(float(np.exp(gap)), 8)
        (0.14749951, 4.0)
    """
    classes = check_integer("num_classes", num_classes, least=2)
    size = check_integer("samples_per_class", samples_per_class)
    m = check_integer("depth", depth, least=2)
    if m == 2:
        return 1 / (classes * math.sqrt(size)), 0.0
    # With f'(a) = 0 solved for Λ, f(a) − f(0) rises from 0 at a = 0 and then falls: its slope has
    # the sign of (m − 2) − m a e^a/(e^a + K − 1), which falls. Beyond a = m log(mK) it is negative.
    with jax.ensure_compile_time_eval():
        gap = falling_root(
            lambda a: (
                jnp.log1p((classes - 1) * jnp.exp(-a))
                + m / 2 * (classes - 1) * a / (jnp.exp(a) + classes - 1)
                - math.log(classes)
            ),
            jnp.asarray(1e-6),
            jnp.asarray(m * math.log(m * classes)),
        ).item()
    decay = gap ** (1 - 2 / m) / (math.exp(gap) + classes - 1) / size ** (1 / m)
    return decay, gap


def _least_point(
    problem: DeepUnconstrainedFeatures, size: int, dtype: DTypeLike
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The gap of the least point, and its value."""
    classes, m = problem.num_classes, problem.depth
    decay = mean_decay(problem.weight_decay, jnp.zeros((), dtype))
    total = problem.loss_scale * problem.num_samples

    def pull(a: Float[Array, ""]) -> Float[Array, ""]:
        """e^a + K − 1 is divided by e^a, which may overflow."""
        return a ** (1 - 2 / m) * jnp.exp(-a) / (1 + (classes - 1) * jnp.exp(-a))

    def value(a: Float[Array, ""]) -> Float[Array, ""]:
        penalty = m / 2 * decay * (classes - 1) * (math.sqrt(size) * a) ** (2 / m)
        return total * jnp.log1p((classes - 1) * jnp.exp(-a)) + penalty

    ratio = decay * size ** (1 / m) / total
    # The maximum of `pull` is where (1 − 2/m)/a = e^a/(e^a + K − 1), below a = K(1 − 2/m).
    zero = jnp.zeros((), dtype)
    share = 1 - 2 / m
    summit = falling_root(
        lambda a: share * (1 + (classes - 1) * jnp.exp(-a)) - a, zero, zero + classes * share
    )
    # `pull` < ratio at the upper end, as a < e^(a/2): e^(−a/2) = ratio/2 or less.
    upper = summit + 2 * jnp.log1p(2 / ratio)
    gap = falling_root(lambda a: pull(a) - ratio, summit, upper)
    better = value(gap) < total * math.log(classes)
    return jnp.where(better, gap, 0), jnp.where(better, value(gap), total * math.log(classes))
