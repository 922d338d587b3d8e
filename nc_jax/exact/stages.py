"""Times at which a flow from a small start learns classes of unequal sizes (saddle to saddle).

A flow learns a group of classes when the differences of their classifiers grow to order 1. There is
no weight decay and no bias. Times are t, not log(1 + t), in units of the summed loss. For the mean
loss divide rates by N, and multiply times by N.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from ..checks import check_integer, check_kind, check_known, check_number
from ..geometry import contrasts
from ..losses import CrossEntropy, Loss
from ..problems import check_sizes

# e to this power is a float, and so is a multiple of it.
_LARGEST_EXPONENT = 700.0


class Stages(NamedTuple):
    """The stages in which a flow from a small start learns the classes, in order of time.

    Attributes:
        sizes: (G,) samples of each class of a stage.
        rates: (G,) √size, for two factors the rate at which a stage grows from the start.
        times: (G,) log(1/ε)/√size, or ε^(2−m)/((m−2)√size) with m > 2 factors.

    Example: majorities of 16 are learned four times as early as minorities of 1.

        >>> stages = nc.exact.stage_times((16, 16, 1, 1), np.log(1e-6))
        >>> stages.sizes, stages.times.round(3).tolist()
        ((16, 1), [3.454, 13.816])
    """

    sizes: tuple[int, ...]
    rates: Float[np.ndarray, " G"]
    times: Float[np.ndarray, " G"]


def origin_rates(
    class_sizes: Sequence[int], *, loss: Loss = CrossEntropy()
) -> Float[np.ndarray, " R"]:
    """Rates at which the flow leaves W = H = 0: singular values of −∂L/∂Z there, descending.

    - Cross-entropy: the K−1 singular values of YP, P = I − 11ᵀ/K, the SEL matrix of Thrampoulidis
      et al. (2022). Their squares μ are the roots of Σ_k 1/(n_k − μ) = 0, together with each size
      that r classes share, r−1 times.
    - Square loss: the K singular values √n_k of the targets Y.

    Near the origin, and for a singular value σ with left and right singular vectors u and v, Hᵀu +
    Wᵀv grows as e^(σt) and Hᵀu − Wᵀv falls as e^(−σt), vectors of d numbers. For classes of one
    size these are the rates of `origin_eigenvalues`.

    Args: `loss` is `CrossEntropy()` or `SquaredError()`.

    Raises: ValueError for fewer than 2 classes, sizes that are no integers >= 1, or another loss.

    Example: two classes of 16 and two of 1.

        >>> nc.exact.origin_rates((16, 16, 1, 1)).round(6).tolist()  # √16, √8.5, √1
        [4.0, 2.915476, 1.0]
    """
    sizes = _checked(class_sizes, loss)
    if loss.is_squared_error:
        return np.sort(np.sqrt(sizes))[::-1]
    # In a basis of the contrasts, in which no singular value is 0 in theory.
    return np.linalg.svd(np.sqrt(sizes)[:, None] * contrasts(len(sizes)).T, compute_uv=False)


def stage_times(
    class_sizes: Sequence[int],
    log_norm: float | Float[Array, ""],
    *,
    loss: Loss = CrossEntropy(),
    depth: int = 2,
) -> Stages:
    """Times at which a flow from a start of norm ε learns the classes of each size (derived).

    t_n = log(1/ε)/√n + O(1) for the classes with n samples each. The slope in log(1/ε) is exact for
    ε → 0, and the constant depends on the start. Classes of n and n' samples are learned at times
    of ratio √(n'/n).

    - Cross-entropy: at t_n the flow learns the differences between classes of size n, if two or
      more classes have this size. As long as the logits of these classes are equal, the residual
      Y − softmax(Z) has the same contrast of them as the targets Y, whatever was learned before.
      The part of the contrast in feature directions that are not used yet therefore grows at the
      rate √n at all times before t_n. For two sizes n_A > n_B, the classes of n_B samples have
      nearly equal classifiers between t_A and t_B: a temporary minority collapse without weight
      decay. Halfway between t_A and t_B, 1 minus the cosine of two of these classifiers is of order
      ε^(1 − √(n_B/n_A)), up to powers of log(1/ε).
    - Square loss: every class k is learned independently of the others. For a balanced start
      `square_loss_flow` computes the exact flow.

    With m > 2 factors a mode of singular value ε in every factor grows as z' = m z^(2−2/m) √n from
    z = ε^m: there is no exponential growth, and t_n = ε^(2−m)/((m−2)√n) to leading order (derived).
    That is for balanced starts whose factors share singular vectors. From other starts every mode
    has another ε, and only starts of one ε have the ratio √(n'/n). `aligned_mode` has the exact
    flow of the square loss.

    Args:
        class_sizes: samples of each class.
        log_norm: log ε of a start with ‖W‖_F = ‖H‖_F = ε < 1, as the norm itself may underflow.
            For m > 2 it is the log of the singular value of a mode in each factor.
        loss: `CrossEntropy()` or `SquaredError()`.
        depth: m >= 2 factors.

    Raises: as `origin_rates`, and ValueError for log ε that is traced or not below 0, for a time
    beyond the largest float, or, for cross-entropy, if no two classes have the same size.

    Example:

        >>> nc.exact.stage_times((9, 4, 4), np.log(1e-3)).times.round(4).tolist()  # log(1e3)/2
        [3.4539]
        >>> loss = nc.SquaredError()
        >>> nc.exact.stage_times((9, 4, 4), np.log(1e-3), loss=loss).times.round(4).tolist()
        [2.3026, 3.4539]
        >>> stages = nc.exact.stage_times((9, 4, 4), np.log(1e-3), loss=loss, depth=3)
        >>> stages.times.round(4).tolist()
        [333.3333, 500.0]
    """
    sizes = _checked(class_sizes, loss)
    depth = check_integer("depth", depth, least=2)
    check_number("log_norm", log_norm, scalar=True, signed=True)
    check_known("log_norm", log_norm, "the result, an array of NumPy,")
    if not log_norm < 0:
        raise ValueError(f"log_norm = {log_norm}: give a number < 0, the logarithm of a norm < 1.")
    distinct, counts = np.unique(sizes, return_counts=True)
    if loss.is_cross_entropy:
        distinct = distinct[counts > 1]
    if not len(distinct):
        raise ValueError(
            f"class_sizes = {tuple(class_sizes)}: give two classes of one size, or more; the "
            "time is known for the differences of such classes."
        )
    distinct = distinct[::-1]
    rates = np.sqrt(distinct)
    return Stages(tuple(distinct.tolist()), rates, _plateau(float(log_norm), depth) / rates)


def _plateau(log_norm: float, depth: int) -> float:
    """∫ du/u^(m−1) from ε to ∞, or to 1 for m = 2, u = z^(1/m) the singular value of a factor."""
    if depth == 2:
        return -log_norm
    exponent = -(depth - 2) * log_norm
    if exponent > _LARGEST_EXPONENT:
        raise ValueError(
            f"log_norm = {log_norm}: times of order e^{exponent:.3g} overflow; give a number >= "
            f"{-_LARGEST_EXPONENT / (depth - 2):.3g}."
        )
    return np.exp(exponent).item() / (depth - 2)


def _checked(class_sizes: Sequence[int], loss: Loss) -> np.ndarray:
    sizes = check_sizes("class_sizes", class_sizes)
    if len(sizes) < 2:
        raise ValueError(f"class_sizes has {len(sizes)} class: give 2 or more.")
    check_kind("loss", loss, Loss, "CrossEntropy()")
    if not loss.is_cross_entropy and not loss.is_squared_error:
        raise ValueError(f"loss = {loss}: give CrossEntropy() or SquaredError().")
    return np.array(sizes)
