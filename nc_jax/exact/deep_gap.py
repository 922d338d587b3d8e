"""Exact flow of cross-entropy with m factors from a balanced start on the simplex ETF.

Such a start is `factored_state(gap * P, ...)` with P = I − 11ᵀ/K. The flow stays on the ray of
these states, and the logit gap a = z_y − z_j of the summed loss solves (derived)

    da/dt = m K n^(1−1/m) a^(2−2/m)/(e^a + K − 1).
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ..checks import check_number
from ..precision import widened
from ..preconditions import check_undecayed_deep_ray
from ..problems import DeepUnconstrainedFeatures
from .late import gap_after


def deep_collapsed_gap(
    problem: DeepUnconstrainedFeatures,
    start_gap: Float[ArrayLike, ""],
    log_time: Float[ArrayLike, "*times"],
) -> Float[Array, "*times"]:
    """Logit gap a at times given as log(1 + t), along the flow from a balanced simplex ETF.

    The root of ∫ (e^a + K − 1) a^(2/m−2) da = m K n^(1−1/m) s t from a₀ on, found in log space by
    bisection to rounding, for t up to e^(10^15). For m = 2 it is `collapsed_gap`. The start is
    `factored_state(start_gap * seli(class_sizes).logits, class_sizes, widths)`.

    Args:
        problem: balanced cross-entropy without weight decay, linear, of widths >= K−1.
        start_gap: a₀ > 0, the gap at t = 0.
        log_time: log(1 + t) of any shape, with t in units of the problem's loss.

    Returns: a with the shape and dtype of `log_time` (float32 at least).

    Raises: ValueError for another problem, or a start gap that is not positive.

    Example: deeper nets reach a larger gap, and log t in the end.

        >>> for widths in ((4,), (4, 4), (4, 4, 4)):
        ...     problem = nc.DeepUnconstrainedFeatures((2, 2, 2), widths, reduction="sum")
        ...     gap = nc.exact.deep_collapsed_gap(problem, 1.0, np.log1p([50.0, 1e300]))
        ...     print(gap.round(3).tolist())
        [7.95, 699.463]
        [9.364, 702.172]
        [10.21, 703.612]
    """
    size = check_undecayed_deep_ray(problem)
    check_number("start_gap", start_gap, above_zero=True, scalar=True)
    check_number("log_time", log_time)
    log_time = widened(log_time)
    start = jnp.asarray(start_gap, log_time.dtype)
    classes, m = problem.num_classes, problem.depth
    rate = math.log(m * classes * size ** (1 - 1 / m) * problem.loss_scale)
    return gap_after(log_time, rate, start, classes - 1, m)
