"""The renormalised flow of Han, Papyan and Donoho (2022) on the central path, in closed form.

On the central path the classifier is at all times the least-squares classifier of the features X,
and X is whitened: its covariance within classes is Σ_W(X) = I. The flow of the least-squares loss
on this set changes the class means alone. For K classes of n samples the singular vectors of the
centred means are constant, and each singular value ω obeys

    ω' = ω/(n (K + ω²)²), hence n [K² log ω + K ω² + ω⁴/4] = t + constant,

with the loss ½ mean_i ‖W h_i + b − e_{y_i}‖². For the summed loss replace t by Nt. Late in the flow
ω ~ (4t/n)^(1/4), and the difference of two singular values, relative to either, is c/(4t), with the
difference c of their constants.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ..checks import check_integer, check_number
from ..precision import widened
from ..problems.central_path import class_contrasts
from .roots import falling_root


def central_path(
    start: Float[ArrayLike, "*modes"],
    log_time: Float[ArrayLike, "*times"],
    num_classes: int,
    samples_per_class: int,
) -> Float[Array, "*shape"]:
    """Singular values ω(t) of the whitened centred class means along the central path.

    The root of n [K² log(ω/ω₀) + K (ω² − ω₀²) + (ω⁴ − ω₀⁴)/4] = t (Han, Papyan, Donoho 2022; the
    constants are derived here), found in log space by bisection to rounding. A singular value 0
    stays 0.

    Args:
        start: ω₀ >= 0, the singular values at t = 0.
        log_time: log(1 + t), with t in units of the loss ½ mean_i ‖W h_i + b − e_{y_i}‖². It is
            broadcast against `start`.
        num_classes: K.
        samples_per_class: n.

    Returns: ω(t) in the dtype of the arguments (float32 at least), in the shape to which `start`
    and `log_time` broadcast; ∞ where it exceeds the largest float, in float64 from
    log t = 2840 + log n on.

    Raises: ValueError for a negative number, fewer than 2 classes or an empty class.

    Example: at late times ω grows as t^(1/4).

        >>> log_time = np.log1p(np.array([1e6, 1e10]))
        >>> np.round(np.asarray(nc.exact.central_path(1.0, log_time, 4, 6)), 4).tolist()
        [28.4326, 285.73]
    """
    check_number("start", start)
    check_number("log_time", log_time)
    classes = check_integer("num_classes", num_classes, least=2)
    log_size = math.log(check_integer("samples_per_class", samples_per_class))
    start, log_time = jnp.broadcast_arrays(*widened((start, log_time)))
    # Positive, so that the logarithm of a zero is finite; the last line multiplies by the start.
    log_start = jnp.log(jnp.where(start > 0, start, 1))
    # log t = u + log(1 − e^−u) for u = log(1 + t). At t = 0 any other time, since log 0 has no
    # derivative.
    is_later = log_time > 0
    later = jnp.where(is_later, log_time, 1)
    log_target = later + jnp.log(-jnp.expm1(-later)) - log_size

    def log_elapsed(growth: Float[Array, "..."]) -> Float[Array, "..."]:
        # A sum of positive terms in y = log(ω/ω₀), in which nothing cancels.
        return jnp.logaddexp(
            2 * math.log(classes) + jnp.log(growth),
            jnp.logaddexp(
                math.log(classes) + 2 * log_start + _log_expm1(2 * growth),
                4 * log_start - math.log(4) + _log_expm1(4 * growth),
            ),
        )

    # The sum is at least each of its terms K² y and ω₀⁴ (e^(4y) − 1)/4, so that either term bounds
    # the root y from above. The bound of the first may be infinite.
    by_quartic = jax.nn.softplus(log_target + math.log(4) - 4 * log_start) / 4
    upper = jnp.minimum(by_quartic, jnp.exp(log_target - 2 * math.log(classes)))

    growth = falling_root(lambda y: log_target - log_elapsed(y), jnp.zeros_like(upper), upper)
    # To first order (K + ω₀²)² y = t/n, which is exact at t = 0.
    first_order = jnp.where(is_later, 0, log_time) * math.exp(-log_size) / (classes + start**2) ** 2
    growth = jnp.where(is_later, growth, first_order)
    # Multiplied by e^(y/2) twice, since e^y may overflow for a small ω₀ where ω₀ e^y does not.
    half = jnp.exp(growth / 2)
    return start * half * half


def central_path_loss(
    singular_values: Float[ArrayLike, "*shape modes"], num_classes: int
) -> Float[Array, "*shape"]:
    """Least-squares loss ½ Σ_j 1/(K + ω_j²) of balanced whitened features (derived).

    Its parts are L_NC1 = ½ Σ ω_j²/(K + ω_j²)² and L_NC2/3 = ½ Σ K/(K + ω_j²)², and L_⊥ = 0.

    Args:
        singular_values: all K−1 of the centred class means, on the last axis, zeros among them.
        num_classes: K.

    Raises: ValueError for another number of singular values, or negative ones.

    Example: where all means coincide, the best prediction is 1/K, with the loss (K−1)/(2K).

        >>> round(float(nc.exact.central_path_loss(np.zeros(3), 4)), 6)
        0.375
    """
    classes = check_integer("num_classes", num_classes, least=2)
    check_number("singular_values", singular_values)
    if np.shape(singular_values)[-1:] != (classes - 1,):
        raise ValueError(
            f"singular_values has shape {np.shape(singular_values)}: give all {classes - 1} values "
            "of the centred means on the last axis, also those that are 0."
        )
    return jnp.sum(1 / (classes + widened(singular_values) ** 2), axis=-1) / 2


def central_path_gram(class_sizes: tuple[int, ...] | list[int]) -> Float[np.ndarray, "K K"]:
    """Limit of M Mᵀ/√t along the central path, M the whitened means minus the mean of all samples.

    2/√N · D^(-½) (Q D Q)^½ D^(-½) with D = diag(p), p_c = n_c/N, and the projection Q = I − √p √pᵀ.
    For classes of one size this is 2/√n (I − 11ᵀ/K), a simplex ETF, by the closed form. For other
    sizes it is no ETF: it is the fixed point of the late flow (derived), and flows from random
    starts tend to it (measured, not proved). The next term of M Mᵀ, of order 1, is
    −2 D^(-½) Q D^(-½). Flows need d >= K−1 dimensions to reach it.

    Raises: ValueError for sizes that are no integers >= 1, or fewer than 2 classes.

    Example:

        >>> nc.exact.central_path_gram((4, 4)).round(6).tolist()
        [[0.5, -0.5], [-0.5, 0.5]]
    """
    contrasts, shares = class_contrasts(class_sizes)
    # The contrasts are an orthonormal basis of the complement of √p, on which the matrix has full
    # rank: the square root of a zero eigenvalue would be the root of a rounding error.
    values, vectors = np.linalg.eigh((contrasts.T * shares) @ contrasts)
    root = contrasts @ (vectors * values**0.25)
    scaled = root / np.sqrt(shares)[:, None]
    return 2 / math.sqrt(sum(class_sizes)) * scaled @ scaled.T


def _log_expm1(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(e^x − 1) for x >= 0, without overflow."""
    return x + jnp.log(-jnp.expm1(-x))
