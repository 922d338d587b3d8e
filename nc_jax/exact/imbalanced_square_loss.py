"""The minimum of the square loss with decay for classes of unequal sizes (Dang et al. 2023).

Let all samples of a class have equal features, X (K, K) be the logits H Wᵀ with a row for each
class, and c = √(λ_W λ_H). The least objective over W and H with these logits is
s/2 ‖D^{1/2}(X + 1bᵀ − I)‖² + c ‖D^{1/2} X‖_* + λ_b/2 ‖b‖² with D = diag(n_k). At its minimum the
singular values of D^{1/2}X are those of D^{1/2}(I − 1bᵀ) minus c/s, or 0 where this is negative
(soft threshold). For balanced classes and a bias that is absent or free it is
`square_loss_minimizer`.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Key

from ..precision import matmul
from ..preconditions import bias_is_free, check_decayed_square_loss, check_squared_error_penalty
from ..problems import UnconstrainedFeatures
from ..state import LastLayer
from .powers import singular_value_decomposition
from .unequal import class_numbers, least_penalty_state


def imbalanced_square_minimizer(
    problem: UnconstrainedFeatures, *, key: Key[Array, ""] | None = None, dtype: DTypeLike = float
) -> LastLayer:
    """A global minimum of the square loss with decay, for any class sizes.

    - Without bias (Dang et al. 2023): orthogonal classifiers of unequal lengths,
      ‖w_k‖² = √(λ_H/λ_W) z_k and ‖h_k‖² = √(λ_W/λ_H) z_k/n_k with z_k = (√n_k − c/s)_+ and
      c = √(λ_W λ_H). w_k and h_k are 0 if and only if n_k <= λ_W λ_H/s², which is N² λ_W λ_H for
      the mean loss. For d < K only the d largest z_k remain, and all others are replaced by 0. For
      d >= K class weights and K numbers of λ_W and λ_H are allowed (derived):
      z_k = √n_k (1 − τ_k)_+ with the τ_k of `class_decay_ratios`.
    - With a free bias, λ_b = 0 (derived): b_k = n_k/N, Σ_i h_i = 0, and
      W Wᵀ = √(λ_H/λ_W) [(D − nnᵀ/N)^{1/2} − c/s]_+ with the vector n of the n_k; [·]_+ sets
      negative eigenvalues to 0.
    - With λ_b > 0 and balanced classes (derived), τ = c/(s√n), β = λ_b/(sN) and P = I − 11ᵀ/K: for
      λ_b up to `bias_decay_threshold` W and H are those of the free bias, a simplex ETF, and
      b_k = 1/(K(1 + β)). For larger λ_b
      b_k = τ/(Kβ), W Wᵀ = √(λ_H/λ_W) √n [(1 − τ) P + (1 − τ − τ/β) 11ᵀ/K].

    Args: `key` rotates the state at random; `dtype` of the state.

    Raises: ValueError for another loss, λ_W or λ_H that are 0, d < K−1 with a bias, a penalised
    bias with unequal sizes, or weights of classes with a bias or d < K.

    Example:

        >>> decay = nc.WeightDecay(classifier=0.01, features=0.013)
        >>> problem = nc.UnconstrainedFeatures(
        ...     (8, 4, 2, 1), 4, loss=nc.SquaredError(), weight_decay=decay
        ... )
        >>> state = nc.exact.imbalanced_square_minimizer(problem)
        >>> np.sum(np.asarray(state.classifier) ** 2, axis=1).round(6).tolist()
        [3.029903, 2.085351, 1.417452, 0.945175]
    """
    check_decayed_square_loss(problem)
    sizes = jnp.asarray(np.array(problem.class_sizes), dtype)
    count = len(sizes)
    numbers = class_numbers(problem, dtype)
    if not problem.bias:
        shares = jnp.maximum(1 - numbers.slopes / numbers.loss, 0)
        if problem.feature_dim < count:
            # The d largest singular values √n (1 − τ) remain; of equal ones the first classes.
            order = jnp.argsort(-shares * jnp.sqrt(sizes))
            shares = shares.at[order[problem.feature_dim :]].set(0)
        return least_penalty_state(problem, jnp.diag(shares), key=key)
    bias = _bias(problem, sizes)
    # The targets less the bias are D^{1/2} (I − 1bᵀ). A free bias makes their weighted mean 0. With
    # a penalised bias and classes of one size, the vector 1/√K is a singular vector of them.
    roots = jnp.sqrt(sizes)
    targets = roots[:, None] * (jnp.eye(count, dtype=dtype) - bias[None])
    left, singular, right = singular_value_decomposition(targets)
    threshold = numbers.slopes[0] / numbers.loss[0] * roots[0]
    shrunk = matmul(left * jnp.maximum(singular - threshold, 0)[None], right)
    return least_penalty_state(problem, shrunk / roots[:, None], bias, key=key)


def imbalanced_square_minimum(problem: UnconstrainedFeatures) -> Float[Array, ""]:
    """The value at `imbalanced_square_minimizer`.

    Without bias it is s Σ_k [(z_k − √n_k)²/2 + z_k c/s].

    Raises: as `imbalanced_square_minimizer`.

    Example:

        >>> decay = nc.WeightDecay(classifier=0.01, features=0.013)
        >>> problem = nc.UnconstrainedFeatures(
        ...     (8, 4, 2, 1), 4, loss=nc.SquaredError(), weight_decay=decay
        ... )
        >>> print(round(float(nc.exact.imbalanced_square_minimum(problem)), 10))
        0.0786788092
    """
    return problem.objective(imbalanced_square_minimizer(problem))


def bias_decay_threshold(problem: UnconstrainedFeatures) -> Float[Array, ""]:
    """λ_b* = sN τ/(1 − τ), τ = √(λ_W λ_H/n)/s: above it the minimum is no simplex frame (derived).

    For balanced square loss with a bias; the λ_b of the problem is not used. For the mean loss it
    is K c/(1 − K c) with c = √(n λ_W λ_H). Below it the decayed bias alone fits the mean of the
    targets. Above it the features fit a part of the mean too, and the cosine between classifiers
    rises from −1/(K−1) to 0 for λ_b → ∞. For τ >= 1 all is 0, and the threshold is ∞.

    Raises: ValueError for another loss, unbalanced classes, no bias, or λ_W or λ_H that are 0.

    Example:

        >>> decay = nc.WeightDecay(classifier=0.02, features=0.01, bias=1.0)
        >>> problem = nc.UnconstrainedFeatures(
        ...     (3,) * 4, 4, loss=nc.SquaredError(), bias=True, weight_decay=decay
        ... )
        >>> round(float(nc.exact.bias_decay_threshold(problem)), 10)
        0.1086223644
    """
    check_squared_error_penalty(problem)
    numbers = class_numbers(problem)
    ratio = numbers.slopes[0] / numbers.loss[0]
    finite = ratio < 1
    unit = problem.loss_scale * problem.num_samples
    return jnp.where(finite, unit * ratio / jnp.where(finite, 1 - ratio, 1), jnp.inf)


def _bias(problem: UnconstrainedFeatures, sizes: Float[Array, " K"]) -> Float[Array, " K"]:
    """The bias at the minimum."""
    samples = problem.num_samples
    if bias_is_free(problem):
        return sizes / samples
    # Stationarity in b is s r = λ_b b/N for the mean residual r. As long as the features do not fit
    # a part of the mean y = 1/K of the targets, r = y − b. At the minimum r is at most τ/K, because
    # the features fit what exceeds it; from the threshold on r = τ/K.
    unit = problem.loss_scale * samples
    decay = jnp.asarray(problem.weight_decay.bias, sizes.dtype)
    numbers = class_numbers(problem, sizes.dtype)
    ratio = numbers.slopes / numbers.loss
    alone = unit / (unit + decay)
    most = jnp.where(decay > 0, ratio * unit / jnp.where(decay > 0, decay, 1), jnp.inf)
    return jnp.minimum(alone, most) / problem.num_classes
