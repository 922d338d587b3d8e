"""Factors of least norm of given logits: the penalty and the balanced states of a deep linear net.

Z = H W_1ᵀ ... W_Lᵀ has m = L + 1 factors with decays λ_1, ..., λ_m, that of the features first, and
Λ = (λ_1 ... λ_m)^(1/m). The least Σ_i λ_i/2 ‖factor i‖² of a matrix Z with the singular values σ is
(m/2) Λ Σσ^(2/m). It is attained where all factors share singular vectors and
λ_{i+1} W_{i+1}ᵀW_{i+1} = λ_i W_i W_iᵀ, i.e. factor i has the singular values (Λ/λ_i)^½ σ^(1/m).
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key

from ..checks import check_arrays, check_key, check_number, is_traced
from ..errors import ArgumentError
from ..precision import matmul, widened
from ..problems import DeepFeatures, check_sizes
from ..problems.classed import labels_of
from ..problems.deep import decays_of, widths_of
from .powers import power_or_zero

# Numbers of factors: one λ for each, that of the features first.
Decays = Sequence[float | Float[Array, ""]] | Float[Array, " m"] | Float[np.ndarray, " m"]


def deep_penalty(
    singular_values: Float[ArrayLike, "*batch r"], weight_decay: Decays
) -> Float[Array, "*batch"]:
    """(m/2) (λ_1 ... λ_m)^(1/m) Σσ^(2/m), the least Σ_i λ_i/2 ‖factor i‖² of m factors.

    For m = 2 it is the nuclear norm times √(λ_W λ_H). For m > 2 it is not convex in the product,
    and prefers products of low rank. The bound Σσ^(2/m) <= (1/m) Σ_i ‖factor i‖² of factors with
    λ = 1 is the inequality of Schatten norms (proved; Shang et al. 2016).

    Args:
        singular_values: σ >= 0 of Z (N, K); those of collapsed logits X (K, K) of each class are
            the singular values of D^½X with D = diag(n_k).
        weight_decay: m >= 2 numbers λ_i >= 0, one for each factor.

    Returns: the penalty, in the dtype of the singular values (float32 at least).

    The derivative in a σ that is 0 counts as 0 for m > 2, where it is infinite: such a σ stays 0.

    Raises: ValueError for fewer than 2 decays, or numbers that are negative or not finite.

    Example: three factors of the simplex of four classes at margin 1, whose three σ are 1.

        >>> print(round(float(nc.exact.deep_penalty(np.ones(3), (0.1, 0.1, 0.1))), 12))
        0.45
    """
    check_number("singular_values", singular_values)
    singular = widened(singular_values)
    rates = decays_of(weight_decay)
    depth = len(rates)
    powers = singular if depth == 2 else power_or_zero(singular, 2 / depth)
    total = mean_decay(rates, singular) * jnp.sum(powers, axis=-1)
    return depth / 2 * total


def factored_state(
    logits: Float[ArrayLike, "K K"],
    class_sizes: Sequence[int],
    widths: Sequence[int],
    *,
    weight_decay: Decays | float | None = None,
    key: Key[Array, ""] | None = None,
) -> DeepFeatures:
    """The collapsed state of least penalty, hence balanced, with these logits of each class.

    With D^½X = UσVᵀ for the logits X and D = diag(n_k), the class means are D^(−½)U σ^(1/m) Q_0ᵀ,
    the layers Q_l σ^(1/m) Q_{l−1}ᵀ and the last one V σ^(1/m) Q_{L−1}ᵀ, each times (Λ/λ_i)^½, with
    matrices Q_l of orthonormal columns. For equal decays W_{l+1}ᵀW_{l+1} = W_l W_lᵀ and
    W_1ᵀW_1 = HᵀH.

    Args:
        logits: X, a row for each class, of rank min(widths) at most; may be traced. The state has
            derivatives in logits whose singular values D^½X differ, and NaN where two are equal.
        class_sizes: n_k, the number of equal features of each class.
        widths: (d_0, ..., d_{L−1}), as for `DeepUnconstrainedFeatures`.
        weight_decay: m numbers λ_i > 0 of the factors, that of the features first. One number for
            all, or None, stands for equal ones, whose value does not change the state.
        key: draws the Q_l at random; None takes the first columns of the identity. All entries of
            the factors of diagonal logits >= 0 are then >= 0, so that ReLU changes nothing.

    Returns: a `DeepFeatures` in the dtype of the logits (float32 at least).

    Raises: ValueError for logits of another shape, or of a higher rank than the smallest width
    (traced ones of a higher rank lose their smallest singular values), widths that are no integers
    >= 1, or decays that are not positive.

    Example: equal margins of 3, from three factors.

        >>> state = nc.exact.factored_state(3 * nc.exact.seli((2, 1, 1)).logits, (2, 1, 1), (4, 2))
        >>> state.logits()[0].round(6).tolist(), [weight.shape for weight in state.weights]
        ([2.0, -1.0, -1.0], [(2, 4), (3, 2)])
    """
    check_arrays("logits", logits)
    sizes, widths = check_sizes("class_sizes", class_sizes), widths_of(widths)
    logits, depth, count = widened(logits), len(widths) + 1, len(sizes)
    if logits.shape != (count, count):
        raise ArgumentError(
            f"logits have shape {logits.shape}: give ({count}, {count}), a row for each class.",
            "logits",
        )
    # A state of finite size needs a decay of every factor.
    rates = decays_of(1.0 if weight_decay is None else weight_decay, depth, above_zero=True)
    roots = jnp.sqrt(jnp.asarray(np.array(sizes), logits.dtype))[:, None]
    left, singular, right = jnp.linalg.svd(roots * logits, full_matrices=False)
    # The signs of a decomposition are arbitrary. These make the factors of diagonal logits >= 0.
    largest = jnp.argmax(jnp.abs(right), axis=1, keepdims=True)
    signs = jnp.sign(jnp.take_along_axis(right, largest, axis=1))
    left, right = left * signs.T, right * signs
    # Rounding leaves 1e-16 in the place of 0, and its root of order m would be a large error.
    noise = 10 * count * jnp.finfo(logits.dtype).eps * singular[0]
    singular = jnp.where(singular > noise, singular, 0)
    rank = min(*widths, count)
    if rank < count and not is_traced(singular) and singular[rank] > 0:
        raise ArgumentError(
            f"widths = {widths}: the logits have rank {int(jnp.sum(singular > 0))}; give no "
            "smaller width.",
            "widths",
        )
    return state_of_modes(
        left[:, :rank], singular[:rank], right[:rank].T, sizes, widths, rates=rates, key=key
    )


def state_of_modes(
    left: Float[Array, "K r"],
    singular: Float[Array, " r"],
    right: Float[Array, "K r"],
    class_sizes: tuple[int, ...],
    widths: tuple[int, ...],
    *,
    rates: tuple[float | Float[Array, ""], ...],
    key: Key[Array, ""] | None,
) -> DeepFeatures:
    """`factored_state` from a decomposition D^½X = UσVᵀ, with arguments that are checked."""
    roots = jnp.sqrt(jnp.asarray(np.array(class_sizes), singular.dtype))[:, None]
    modes = power_or_zero(singular, 1 / len(rates))
    scales = [jnp.sqrt(mean_decay(rates, singular) / rate) for rate in _arrays(rates, singular)]
    frames = _frames(widths, len(singular), key, singular)
    means = scales[0] * matmul(left * modes[None], frames[0].T) / roots
    ends = [*frames[1:], right]
    weights = [
        scale * matmul(end * modes[None], frame.T)
        for scale, frame, end in zip(scales[1:], frames, ends, strict=True)
    ]
    return DeepFeatures(means[labels_of(class_sizes)], tuple(weights))


def state_on_ray(
    logits: Float[ArrayLike, "K K"],
    gap: Float[ArrayLike, ""],
    class_sizes: Sequence[int],
    widths: Sequence[int],
    *,
    weight_decay: Decays | None = None,
    key: Key[Array, ""] | None = None,
) -> DeepFeatures:
    """`factored_state` of the gap times known logits.

    All m factors grow as gap^(1/m). The decomposition is that of the logits alone: its derivatives
    would be NaN at equal singular values, such as those of a simplex.
    """
    state = factored_state(logits, class_sizes, widths, weight_decay=weight_decay, key=key)
    growth = jnp.asarray(gap, state.features.dtype) ** (1 / (len(widths) + 1))
    return jax.tree.map(lambda factor: factor * growth, state)


def mean_decay(
    rates: tuple[float | Float[Array, ""], ...], like: Float[Array, "..."]
) -> Float[Array, ""]:
    """Λ = (λ_1 ... λ_m)^(1/m) in the dtype of an array."""
    # Root by root: the product of many small decays would underflow.
    roots = [rate ** (1 / len(rates)) for rate in _arrays(rates, like)]
    return math.prod(roots, start=jnp.ones((), like.dtype))


def _arrays(
    rates: tuple[float | Float[Array, ""], ...], like: Float[Array, "..."]
) -> list[Float[Array, ""]]:
    return [jnp.asarray(rate, like.dtype) for rate in rates]


def _frames(
    widths: tuple[int, ...], rank: int, key: Key[Array, ""] | None, like: Float[Array, "..."]
) -> list[Float[Array, "_ r"]]:
    """A matrix with r orthonormal columns for each width."""
    if key is None:
        return [jnp.eye(width, rank, dtype=like.dtype) for width in widths]
    check_key(key)
    keys = jax.random.split(key, len(widths))
    return [
        jax.random.orthogonal(key, width, dtype=like.dtype)[:, :rank]
        for key, width in zip(keys, widths, strict=True)
    ]
