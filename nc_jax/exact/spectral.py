"""Exact flow X' = polar(−∂L/∂X) from a small start (Muon idealised), and a law of sign descent.

No decay, no bias. Along the spectral flow every singular mode of a product of m factors, with
singular value z, has factors that grow at the same rate 1 while the residual in the mode is above 0
(derived). A mode with equal factors therefore has z^(1/m)' = 1, whatever the loss, its scale and
the class sizes are:

    z(t) = (z₀^(1/m) + t)^m.

With the square loss the mode stops at its target √n_k, at t_k = n_k^(1/(2m)) − z₀^(1/m): small
classes are fitted first. With cross-entropy the residual never vanishes. For groups of classes of
equal sizes the contrasts within a group of K_g classes are K_g − 1 modes with z = √n_g a, where a
is the gap z_y − z_j within the group.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ..checks import check_integer, check_known, check_number, is_traced
from ..precision import widened
from ..problems import check_sizes
from .stages import Stages


def spectral_mode(
    time: Float[ArrayLike, "*times"],
    target: Float[ArrayLike, ""] | None = None,
    *,
    start: Float[ArrayLike, ""] = 0.0,
    depth: int = 2,
) -> Float[Array, "*times"]:
    """z(t) = min((z₀^(1/m) + t)^m, target), a singular value of the logits (derived).

    Exact for a mode whose m factors are equal at the start, and to O(ε) for a start of norm ε.

    Args:
        time: t >= 0 of any shape; not log(1 + t), and the same for the sum and the mean.
        target: at which the residual of the mode is 0: √n_k for class k and the square loss, None
            for cross-entropy.
        start: z₀ >= 0, at most the target.
        depth: m, the number of factors of the logits; 2 for `UnconstrainedFeatures`.

    Returns: z with the shape and dtype of `time` (float32 at least).

    Raises: ValueError for a negative number, a start above the target, or a depth below 2.

    Example: classes of 16 and of 1 samples with the square loss.

        >>> times = np.array([0.5, 1.0, 2.0, 3.0])
        >>> [nc.exact.spectral_mode(times, np.sqrt(n)).tolist() for n in (16, 1)]
        [[0.25, 1.0, 4.0, 4.0], [0.25, 1.0, 1.0, 1.0]]
    """
    check_number("time", time)
    _check_mode(start, depth)
    if target is not None:
        check_number("target", target, scalar=True)
        if not is_traced(target) and not is_traced(start) and np.asarray(target) < start:
            raise ValueError(f"target = {target} with start = {start}: give a target >= start.")
    time = widened(jnp.asarray(time))
    mode = (jnp.asarray(start, time.dtype) ** (1 / depth) + time) ** depth
    return mode if target is None else jnp.minimum(mode, jnp.asarray(target, time.dtype))


def spectral_mode_time(
    value: Float[ArrayLike, "*values"],
    *,
    start: Float[ArrayLike, ""] = 0.0,
    depth: int = 2,
) -> Float[Array, "*values"]:
    """t = z^(1/m) − z₀^(1/m), the time at which a mode reaches a value z (derived).

    With the square loss class k is fitted at the time of √n_k, which is n_k^(1/4) from a small
    start. With cross-entropy the gap within a group of classes of n samples is a at the time of
    √n a, so that small classes reach a gap first.

    Args:
        value: z >= 0 of any shape; below the start the time is negative.
        start, depth: as in `spectral_mode`.

    Returns: t with the shape and dtype of `value` (float32 at least).

    Raises: ValueError for a negative number or a depth below 2.

    Example: classes of 1 sample are fitted in half of the time of classes of 16.

        >>> nc.exact.spectral_mode_time(np.sqrt([16.0, 1.0])).tolist()
        [2.0, 1.0]
    """
    check_number("value", value)
    _check_mode(start, depth)
    value = widened(jnp.asarray(value))
    return value ** (1 / depth) - jnp.asarray(start, value.dtype) ** (1 / depth)


def spectral_stage_times(class_sizes: Sequence[int], contrast: float | Float[Array, ""]) -> Stages:
    """Times at which the spectral flow learns the classes of each size (derived).

    The contrast of a group of K_g classes of one size is the norm of their classifiers minus the
    mean of these. It has K_g − 1 singular values that all grow at rate 1, so that the contrast is
    √(K_g − 1) t, up to the norm ε of the start. The time therefore depends neither on ε nor on the
    number of samples, and there is no transient minority collapse: compare `stage_times`. The law
    holds at all times for cross-entropy, and for the square loss until the classes are fitted, at
    t = n^(1/4).

    Args:
        class_sizes: samples of each class.
        contrast: the norm at which a group counts as learned, above 0.

    Returns: `Stages` in the order of the sizes, largest first, with the rates √(K_g − 1).

    Raises: ValueError for sizes that are no integers >= 1, if no two classes have the same size, or
    for a contrast that is not above 0 or traced.

    Example: three classes of 16 and three of 1 at a contrast of 0.3.

        >>> nc.exact.spectral_stage_times((16, 16, 16, 1, 1, 1), 0.3).times.round(4).tolist()
        [0.2121, 0.2121]
    """
    sizes = check_sizes("class_sizes", class_sizes)
    check_number("contrast", contrast, above_zero=True, scalar=True)
    check_known("contrast", contrast, "the result, an array of NumPy,")
    distinct, counts = np.unique(sizes, return_counts=True)
    distinct, counts = distinct[counts > 1][::-1], counts[counts > 1][::-1]
    if not len(distinct):
        raise ValueError(
            f"class_sizes = {tuple(class_sizes)}: give two classes of one size, or more; the "
            "time is known for the differences of such classes."
        )
    rates = np.sqrt(counts - 1.0)
    return Stages(tuple(distinct.tolist()), rates, float(contrast) / rates)


def sign_threshold(majorities: int, minorities: int) -> int:
    """K_A + 2K_B − 2: the size ratio above which sign flow merges minorities for a while (derived).

    For cross-entropy, an odd number K_A of classes of n_A samples and K_B classes of n_B < n_A.
    While logits are small, every coordinate of classifier k is s_k t with a sign s_k, and class k
    keeps its sign if s_k = sign(n_k s_k − Σ_j n_j s_j/K). For odd K_A the signs of the majorities
    have a sum S_A other than 0 in every coordinate. A minority class keeps the sign of S_A if
    n_B > (n_A |S_A| + n_B s_k S_B)/K, where s_k S_B >= 2 − K_B, the case in which all other
    minorities have the other sign. If n_A > (K_A + 2K_B − 2) n_B, then no minority keeps it: all
    have the sign of −S_A, so that their classifiers coincide up to the start until the majorities
    are learned, a transient minority collapse, as along the gradient flow. For even K_A there are
    coordinates with S_A = 0, which keep minorities apart for a while.

    The law is that of the flow: steps have to be shorter than the entries of the start. Longer
    steps alternate around 0 in some coordinates, in which two minority classes can then differ.

    Raises: ValueError for an even K_A, or fewer than two minority classes.

    Example: three classes of each size merge the minorities if the ratio of sizes is above 7.

        >>> nc.exact.sign_threshold(3, 3)
        7
    """
    check_integer("majorities", majorities)
    check_integer("minorities", minorities, least=2)
    if majorities % 2 == 0:
        raise ValueError(
            f"majorities = {majorities}: give an odd number; an even number has no threshold."
        )
    return majorities + 2 * minorities - 2


def _check_mode(start: Float[ArrayLike, ""], depth: int) -> None:
    check_number("start", start, scalar=True)
    check_integer("depth", depth, least=2)
