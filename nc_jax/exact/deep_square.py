"""The minimum of the square loss with m factors and decay, for classes of any sizes.

Without a bias the singular values z of Z decouple (Dang et al. 2023; Tirer and Bruna 2022 for three
factors and classes of one size): with y_k = √n_k, the scale s of the loss and
Λ = (λ_1 ... λ_m)^(1/m), the least objective over factors with Z = Y diag(z_k/y_k) is

    Σ_k [ s (z_k − y_k)²/2 + (m/2) Λ z_k^(2/m) ],   stationary where (y − z) z^(1−2/m) = Λ/s.

For m > 2 the left side vanishes at z = 0 and at z = y and has one maximum, at y(m−2)/(2m−2). The
larger root is a local minimum, the smaller one a maximum, and z = 0 always a local minimum: the
minimum jumps to 0 as the decay grows, and is not continuous as for m = 2.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from ..checks import check_integer, check_number
from ..precision import widened
from ..preconditions import check_deep_square, check_equal_decays
from ..problems import DeepFeatures, DeepUnconstrainedFeatures
from .deep_factors import deep_penalty, mean_decay, state_of_modes
from .roots import falling_root


def deep_square_threshold(target: Float[ArrayLike, "*shape"], depth: int) -> Float[Array, "*shape"]:
    """Λ/s from which on a class with y = √n has z = 0 at the minimum (derived).

    y^(2−2/m) (m−2)^(1−2/m)/(m−1)^(2−2/m), where z jumps to 0 from y(m−2)/(m−1). For m = 2 it is y,
    and z tends to 0 continuously. Λ = (λ_1 ... λ_m)^(1/m), and Λ/s is NΛ for the mean loss.

    Args:
        target: y > 0, such as √n_k.
        depth: m >= 2 factors.

    Raises: ValueError for a target that is not positive, or depth < 2.

    Example: in deeper nets a class of 4 samples dies at a smaller decay.

        >>> [round(float(nc.exact.deep_square_threshold(2.0, m)), 4) for m in (2, 3, 4)]
        [2.0, 1.0, 0.7698]
    """
    check_number("target", target, above_zero=True)
    m = check_integer("depth", depth, least=2)
    target = widened(target)
    # For m = 2 the factor (m−2)^(1−2/m) is 0⁰ = 1.
    factor = (m - 2.0) ** (1 - 2 / m) / (m - 1.0) ** (2 - 2 / m)
    return factor * target ** (2 - 2 / m)


def deep_square_minimizer(
    problem: DeepUnconstrainedFeatures,
    *,
    key: Key[Array, ""] | None = None,
    dtype: DTypeLike = float,
) -> DeepFeatures:
    """A global minimum of the square loss with a decay of every factor, for any sizes and widths.

    Classes have orthogonal features in every layer. z_k is the larger root of
    (y − z) z^(1−2/m) = Λ/s below the threshold of `deep_square_threshold`, and 0 from it on. With a
    smallest width d < K only the d largest classes remain. This is the minimum, since
    ‖Z − Y‖ >= ‖σ(Z) − σ(Y)‖ (von Neumann), and the decrease of the objective grows with y.

    With `key=None` all entries of the factors are nonnegative. The state is then one of a net with
    ReLU too, with the same objective; for such a net it need not be the minimum.

    Args: `key` rotates every layer at random; `dtype` of the state.

    Raises: ValueError for an activation, another loss, or a λ that is 0.

    Example: the smallest of three classes is 0.

        >>> problem = nc.DeepUnconstrainedFeatures(
        ...     (6, 3, 1), (4, 4), loss=nc.SquaredError(), weight_decay=0.05
        ... )
        >>> state = nc.exact.deep_square_minimizer(problem)
        >>> jnp.diag(state.logits()[np.array([0, 6, 9])]).round(4).tolist()
        [0.8395, 0.7335, 0.0]
    """
    check_deep_square(problem)
    values, rank = _values(problem, dtype), min(*problem.widths, problem.num_classes)
    # The singular vectors are unit vectors. A decomposition would have no derivative where classes
    # have one size.
    order = jnp.argsort(-values)[:rank]
    axes = jnp.eye(problem.num_classes, dtype=values.dtype)[:, order]
    return state_of_modes(
        axes,
        values[order],
        axes,
        problem.class_sizes,
        problem.widths,
        rates=problem.weight_decay,
        key=key,
    )


def deep_square_minimum(problem: DeepUnconstrainedFeatures) -> Float[Array, ""]:
    """The value at `deep_square_minimizer`: s Σ_k (z_k − √n_k)²/2 + (m/2) Λ Σ_k z_k^(2/m).

    With ReLU between the layers the minimum can be lower: for (1, 1, 1, 1), four layers of width 12
    and λ = 0.003 a descent reaches 0.029317, where this is 0.029927 (measured).

    Raises: as `deep_square_minimizer`.

    Example:

        >>> problem = nc.DeepUnconstrainedFeatures(
        ...     (6, 3, 1), (4, 4), loss=nc.SquaredError(), weight_decay=(0.02, 0.03, 0.025)
        ... )
        >>> print(round(float(nc.exact.deep_square_minimum(problem)), 10))
        0.1502918764
    """
    check_deep_square(problem)
    values = _values(problem, float)
    roots = jnp.asarray(np.sqrt(problem.class_sizes))
    data = problem.loss_scale * jnp.sum((values - roots) ** 2) / 2
    return data + deep_penalty(values, problem.weight_decay)


def deep_square_basin(problem: DeepUnconstrainedFeatures) -> Float[Array, " K"]:
    """Edges z of the basins of 0, for each class: the smaller root of (y − z) z^(1−2/m) = Λ/s.

    The singular value z of an aligned, balanced mode (see `aligned_mode`) moves by
    z' = m z^(2−2/m) (s(y − z) − λ z^(2/m−1)). From below the edge it falls to 0, from above it
    rises or falls to the larger root (derived). For m > 2 the origin is a strict local minimum, its
    Hessian λI, and small starts end there. For m = 2 the edge is 0 for λ < sy. Where there is no
    root every start ends at 0, and the edge is ∞.

    Args: `problem` as for `deep_square_minimizer`, with one λ for all factors.

    Raises: ValueError for an activation, another loss, a λ that is 0, or decays that differ.

    Example: the mode of one sample ends at 0 from every start.

        >>> problem = nc.DeepUnconstrainedFeatures(
        ...     (6, 3, 1), (4, 4), loss=nc.SquaredError(), weight_decay=0.05
        ... )
        >>> np.asarray(nc.exact.deep_square_basin(problem)).round(4).tolist()
        [0.0086, 0.0251, inf]
    """
    check_deep_square(problem)
    check_equal_decays(problem)
    targets, ratio = _targets_and_ratio(problem, float)
    summit = _summit(targets, problem.depth)
    edge = falling_root(
        lambda z: ratio - _pull(z, targets, problem.depth), jnp.zeros_like(targets), summit
    )
    return jnp.where(_pull(summit, targets, problem.depth) > ratio, edge, jnp.inf)


def _values(problem: DeepUnconstrainedFeatures, dtype: DTypeLike) -> Float[Array, " K"]:
    """z_k of every class at the minimum."""
    targets, ratio = _targets_and_ratio(problem, dtype)
    roots = falling_root(
        lambda z: _pull(z, targets, problem.depth) - ratio,
        _summit(targets, problem.depth),
        targets,
    )
    alive = ratio < deep_square_threshold(targets, problem.depth)
    # The largest classes: at least as many as classes where no width is below K.
    order = np.argsort(-np.array(problem.class_sizes), kind="stable")
    used = np.isin(np.arange(len(order)), order[: min(problem.widths)])
    return jnp.where(alive & jnp.asarray(used), roots, 0)


def _targets_and_ratio(
    problem: DeepUnconstrainedFeatures, dtype: DTypeLike
) -> tuple[Float[Array, " K"], Float[Array, ""]]:
    """y_k = √n_k and Λ/s."""
    targets = jnp.sqrt(jnp.asarray(np.array(problem.class_sizes), dtype))
    return targets, mean_decay(problem.weight_decay, targets) / problem.loss_scale


def _pull(z: Float[Array, " K"], targets: Float[Array, " K"], depth: int) -> Float[Array, " K"]:
    """(y − z) z^(1−2/m), which is Λ/s at a critical point."""
    return (targets - z) * z ** (1 - 2 / depth)


def _summit(targets: Float[Array, " K"], depth: int) -> Float[Array, " K"]:
    """The z > 0 at which `_pull` is largest, 0 for m = 2."""
    return targets * ((depth - 2) / (2 * depth - 2))
