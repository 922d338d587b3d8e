"""Exact flow of one aligned mode of a balanced deep linear net under the square loss.

If all factors share singular vectors with the targets Y, and every mode has equal singular values
z^(1/m) in the m factors, the modes are independent (Saxe et al. 2014). For the summed loss, and a
target y = √n of the mode of a class with n samples, z' = m z^(2−2/m) (y − z). In x = z/y

    m y^(2−2/m) t = T(x) − T(x₀),   T' = 1/(x^(2−2/m) (1 − x)) = x^(−1−k) + x^(−k)/(1 − x)

with k = 1 − 2/m. The first term has an elementary primitive. So has the second one, by partial
fractions in v = x^(1/m) over the roots ω = e^(2πi/m) of unity:

    ∫₀ˣ x^(−k)/(1 − x) dx = ∫₀ᵛ m v/(1 − v^m) dv = −Σ_{r<m} Re[ω^(−2r) log(1 − ω^r v)].

T is −₂F₁(1, −k; 1−k; x) x^(−k)/k (derived). The series of this function converges slowly next to
x = 1, where the sum of logarithms is accurate.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ..checks import check_integer, check_number, is_traced
from ..errors import ArgumentError
from ..precision import widened
from .roots import falling_root


def aligned_mode(
    t: Float[ArrayLike, "*#shape"],
    start: Float[ArrayLike, "*#shape"],
    target: Float[ArrayLike, "*#shape"],
    depth: int,
) -> Float[Array, "*shape"]:
    """z(t) of z' = m z^(2−2/m) (y − z), z(0) = z₀ (Saxe et al. 2014 for m = 2; derived).

    z is a singular value of the logits Z along the flow of the summed square loss from a balanced
    start whose factors share singular vectors with the targets. For m = 2 it is logistic. For m > 2
    it is the root of `aligned_mode_time`, by bisection to rounding. A start of all classes is
    `factored_state(diag(z₀/√n_k), class_sizes, widths)`, with y = √n_k.

    Args:
        t: times >= 0 in units of the summed loss, not log(1 + t).
        start: z₀ > 0, below the target.
        target: y, √n for the mode of a class of n samples.
        depth: m >= 2 factors.

    Returns: z in the common shape of the arguments (float32 at least).

    Raises: ValueError for a time that is negative, a start that is not between 0 and the target, or
    depth < 2.

    Example: classes of 5, 2 and 1 samples with four factors.

        >>> modes = nc.exact.aligned_mode(1.2, 0.1, np.sqrt([5.0, 2.0, 1.0]), 4)
        >>> modes.round(10).tolist()
        [2.234988729, 1.2121762457, 0.5351942549]
    """
    m = check_integer("depth", depth, least=2)
    check_number("t", t)
    _check_between(start, target)
    t, start, target = jnp.broadcast_arrays(*widened((t, start, target)))
    elapsed = m * target ** (2 - 2 / m) * t
    return target * jax.nn.sigmoid(_logit_after(elapsed, _logit(start, target), m))


def aligned_mode_time(
    start: Float[ArrayLike, "*#shape"],
    end: Float[ArrayLike, "*#shape"],
    target: Float[ArrayLike, "*#shape"],
    depth: int,
) -> Float[Array, "*shape"]:
    """Time from z₀ to z of z' = m z^(2−2/m) (y − z): [F(z₀) − F(z)]/m (derived).

    F(z) = z^(−k)/(k y) ₂F₁(1, −k; 1−k; z/y) with k = 1 − 2/m, here as a sum of m logarithms (see
    the module). From a small z₀ the time to half of the target is z₀^(−k)/(m k y) to leading order,
    and log(1/z₀)/(2y) for m = 2: a class of n samples is learned at a time proportional to 1/√n at
    every depth.

    Args: as `aligned_mode`, with z₀ and `end` z between 0 and y.

    Raises: ValueError for z₀ or z that are not between 0 and the target, or depth < 2.

    Example: the plateau of a deeper net is longer.

        >>> times = [nc.exact.aligned_mode_time(1e-3, 0.5, 1.0, m) for m in (2, 3, 4)]
        >>> [round(float(time), 2) for time in times]
        [3.45, 9.14, 15.53]
    """
    m = check_integer("depth", depth, least=2)
    _check_between(start, target)
    _check_between(end, target, name="end")
    start, end, target = jnp.broadcast_arrays(*widened((start, end, target)))
    first, last = (_passed(_logit(z, target), m) for z in (start, end))
    return (last - first) / (m * target ** (2 - 2 / m))


def _check_between(
    value: Float[ArrayLike, "..."], target: Float[ArrayLike, "..."], name: str = "start"
) -> None:
    """Require 0 < value < target."""
    check_number(name, value, above_zero=True)
    check_number("target", target, above_zero=True)
    if not (is_traced(value) or is_traced(target)):
        # By NumPy: under jit a comparison of known arrays of JAX would be traced.
        value, target = np.broadcast_arrays(*map(np.asarray, (value, target)))
        if not np.all(value < target):
            worst = np.argmax(value - target)
            raise ArgumentError(
                f"{name} = {value.ravel()[worst]}: give a number between 0 and the target "
                f"{target.ravel()[worst]}.",
                name,
            )


def _logit(value: Float[Array, "*shape"], target: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(x/(1 − x)) for x = z/y: both x and 1 − x have all digits in it."""
    return jnp.log(value / (target - value))


def _logit_after(
    elapsed: Float[Array, "*shape"], start: Float[Array, "*shape"], depth: int
) -> Float[Array, "*shape"]:
    """The logit of x at which T(x) − T(x₀) has this value."""
    first = _passed(start, depth)
    # T is up to x^(−k) from a small x₀ to x = ½, at which the logit is 0, and about the logit
    # beyond. One bracket for both would be so long that 80 halvings leave a coarse root.
    plateau = jnp.maximum(_passed(jnp.zeros_like(start), depth) - first, 0)
    is_beyond = elapsed > plateau
    lower = jnp.where(is_beyond, jnp.maximum(start, 0), start)
    # dT/d(logit) = x^(−k) >= 1, so that the logit grows by at most the time.
    upper = jnp.where(
        is_beyond,
        jnp.maximum(start, 0) + (elapsed - plateau),
        start + jnp.minimum(elapsed, jnp.maximum(-start, 0)),
    )

    return falling_root(lambda logit: elapsed - (_passed(logit, depth) - first), lower, upper)


def _passed(logit: Float[Array, "*shape"], depth: int) -> Float[Array, "*shape"]:
    """T(x), up to a constant: −x^(−k)/k, or log x for m = 2, plus −Σ Re[ω^(−2r) log(1 − ω^r v)]."""
    k = 1 - 2 / depth
    log_x = -jax.nn.softplus(-logit)
    v = jnp.exp(log_x / depth)
    total = log_x if depth == 2 else -jnp.exp(-k * log_x) / k
    # 1 − v from the logarithm of x, since v may be 1 to rounding.
    total = total - jnp.log(-jnp.expm1(log_x / depth))
    for r in range(1, depth):
        angle = 2 * math.pi * r / depth
        real, imaginary = 1 - v * math.cos(angle), -v * math.sin(angle)
        modulus = jnp.log(real**2 + imaginary**2) / 2
        phase = jnp.arctan2(imaginary, real)
        total = total - math.cos(2 * angle) * modulus - math.sin(2 * angle) * phase
    return total
