"""Minima of label smoothing and of the focal loss in closed form (derived).

With balanced classes and d >= K−1 both minima are collapsed: the rows w_k are a simplex ETF with a
logit gap a, ‖w_k‖² = a (K−1)/K √(λ_H n/λ_W), and every feature of class k is √(λ_W/(λ_H n)) w_k.

Proof. Let o = log Σ_{j≠y} e^(z_j − z_y) be the log-odds of a sample against its class, and
ā = mean_{j≠y} (z_y − z_j) its mean gap. The focal loss is an increasing function of o, and label
smoothing is one plus a positive multiple of ā. By Jensen's inequality o >= log(K−1) − ā. The loss
of a sample is therefore at least f(ā), where f is the loss of logits that all have the gap ā. The
penalty is at least √(λ_W λ_H) ‖Z‖_*, and this is at least √(λ_W λ_H) (K−1)/(K√n) Σ_i ā_i. The sum
of both bounds is a sum of functions of one ā_i each. The collapsed state attains its minimum.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Key

from ..losses import Focal, LabelSmoothing
from ..preconditions import check_dimension, check_focal, check_smoothed
from ..problems import UnconstrainedFeatures
from ..state import LastLayer
from .regularized import ratios_of, state_of_gap, value_of_gap
from .roots import falling_root


def smoothed_gap(problem: UnconstrainedFeatures) -> Float[Array, ""]:
    """a = log(K/(α + τ) − (K−1)), the logit gap at the minimum of label smoothing (derived).

    α is the smoothing, and τ = √(λ_W λ_H)/(s√n), which is K√(nλ_W λ_H) for the mean loss and 0
    without decay. The gap is that of cross-entropy with τ + α in the place of τ. For α + τ >= 1 it
    is 0, and the minimum is the origin.

    Args: `problem`, balanced label smoothing, with decay of W and H or without any.

    Raises: ValueError for another loss, unbalanced classes, d < K−1, or only one λ that is 0.

    Example: without decay the gap is log(K/α − (K−1)), which only α = 0 makes infinite.

        >>> problem = nc.UnconstrainedFeatures((3, 3, 3, 3), 4, loss=nc.LabelSmoothing(0.1))
        >>> float(nc.exact.smoothed_gap(problem)).__round__(10)
        3.6109179126
    """
    return _smoothed_gap(problem, check_smoothed(problem))


def smoothed_minimizer(
    problem: UnconstrainedFeatures, *, key: Key[Array, ""] | None = None, dtype: DTypeLike = float
) -> LastLayer:
    """A global minimum of label smoothing: collapsed, with the gap of `smoothed_gap` (derived).

    Without decay this is the minimum with ‖W‖_F = ‖H‖_F: all states with the same logits are
    minima.

    Args: as for `regularized_minimizer`.

    Raises: as `smoothed_gap`.

    Example:

        >>> decay = nc.WeightDecay(classifier=2e-3, features=3e-3)
        >>> problem = nc.UnconstrainedFeatures(
        ...     (3, 3, 3, 3), 4, loss=nc.LabelSmoothing(0.1), weight_decay=decay
        ... )
        >>> gradient = problem.gradient(nc.exact.smoothed_minimizer(problem))
        >>> bool(jnp.allclose(gradient.features, 0)), bool(jnp.allclose(gradient.classifier, 0))
        (True, True)
    """
    size = check_smoothed(problem)
    undecayed = problem.weight_decay.absent
    ratio = 1 / math.sqrt(size) if undecayed else ratios_of(problem, size).features
    return state_of_gap(problem, _smoothed_gap(problem, size), ratio, key=key, dtype=dtype)


def smoothed_minimum(problem: UnconstrainedFeatures) -> Float[Array, ""]:
    """Value at `smoothed_minimizer`: sN (log(1 + (K−1)e^−a) + αa(K−1)/K) + (K−1)√(nλ_W λ_H) a.

    Raises: as `smoothed_gap`.

    Example: without decay it is the entropy of the smoothed targets.

        >>> problem = nc.UnconstrainedFeatures((1, 1), 2, loss=nc.LabelSmoothing(0.5))
        >>> targets = np.array([0.75, 0.25])
        >>> bool(jnp.isclose(nc.exact.smoothed_minimum(problem), -targets @ np.log(targets)))
        True
    """
    size = check_smoothed(problem)
    return value_of_gap(problem, size, _smoothed_gap(problem, size))


def focal_gap(problem: UnconstrainedFeatures) -> Float[Array, ""]:
    """a = log((K−1)p/(1−p)), the logit gap at the minimum of the focal loss (derived).

    The probability p of the label is the largest root of
    D(p) = (1−p)^(γ+1) − γp(1−p)^γ log p = θ with θ = (K−1)/K τ and τ = √(λ_W λ_H)/(s√n), which is
    θ = (K−1)√(nλ_W λ_H) for the mean loss. D increases from 1 at p = 0 to one maximum, and then
    decreases to 0. Hence

    - for θ < 1 the root is unique, and the state is a global minimum. If the root is below 1/K the
      minimum is the origin, a = 0, which needs D(1/K) <= θ;
    - for θ >= 1 there may be two roots or none. The result is the point of lowest value among
      collapsed states, the largest root or the origin (a = 0). That it is the global minimum is a
      conjecture.

    Args: `problem`, balanced focal loss with decay of W and H.

    Raises: ValueError for another loss, unbalanced classes, d < K−1, or λ_W or λ_H that are 0.

    Example: for γ = 0 the gap is that of cross-entropy.

        >>> decay = nc.WeightDecay(classifier=2e-3, features=3e-3)
        >>> problem = nc.UnconstrainedFeatures(
        ...     (3, 3, 3, 3), 4, loss=nc.Focal(0.0), weight_decay=decay
        ... )
        >>> gap = np.log(1 / np.sqrt(3 * 2e-3 * 3e-3) - 3)
        >>> bool(jnp.isclose(nc.exact.focal_gap(problem), gap))
        True
    """
    return _focal_gap(problem, check_focal(problem))


def focal_minimizer(
    problem: UnconstrainedFeatures, *, key: Key[Array, ""] | None = None, dtype: DTypeLike = float
) -> LastLayer:
    """A minimum of the focal loss with decay: collapsed, with the gap of `focal_gap` (derived).

    Args: as for `regularized_minimizer`.

    Raises: as `focal_gap`, which states where the minimum is proved to be global.

    Example:

        >>> decay = nc.WeightDecay(classifier=2e-3, features=3e-3)
        >>> problem = nc.UnconstrainedFeatures(
        ...     (3, 3, 3, 3), 4, loss=nc.Focal(2.0), weight_decay=decay
        ... )
        >>> state = nc.exact.focal_minimizer(problem)
        >>> float(nc.metrics.sample_margins(state, problem.labels)[0]).__round__(8)
        2.71890211
    """
    size = check_focal(problem)
    ratio = ratios_of(problem, size).features
    return state_of_gap(problem, _focal_gap(problem, size), ratio, key=key, dtype=dtype)


def focal_minimum(problem: UnconstrainedFeatures) -> Float[Array, ""]:
    """Value at `focal_minimizer`: −sN (1−p)^γ log p + (K−1)√(nλ_W λ_H) a.

    Raises: as `focal_gap`.

    Example:

        >>> decay = nc.WeightDecay(classifier=2e-3, features=3e-3)
        >>> problem = nc.UnconstrainedFeatures(
        ...     (3, 3, 3, 3), 4, loss=nc.Focal(1.0), weight_decay=decay
        ... )
        >>> float(nc.exact.focal_minimum(problem)).__round__(10)
        0.0517387872
    """
    size = check_focal(problem)
    return value_of_gap(problem, size, _focal_gap(problem, size))


def _smoothed_gap(problem: UnconstrainedFeatures, size: int) -> Float[Array, ""]:
    classes = problem.num_classes
    check_dimension(problem, classes - 1)
    # For type checkers: the preconditions have refused other losses.
    assert isinstance(problem.loss, LabelSmoothing)
    threshold = jnp.asarray(problem.loss.smoothing, float)
    if not problem.weight_decay.absent:
        threshold += ratios_of(problem, size).threshold
    # A minimum in the place of a branch, so that the numbers may be traced.
    return jnp.log(classes / jnp.minimum(threshold, 1) - (classes - 1))


def _focal_gap(problem: UnconstrainedFeatures, size: int) -> Float[Array, ""]:
    classes, loss = problem.num_classes, problem.loss
    check_dimension(problem, classes - 1)
    assert isinstance(loss, Focal)
    exponent, log_classes = jnp.asarray(loss.exponent, float), math.log(classes - 1)
    log_level = jnp.log(ratios_of(problem, size).threshold * ((classes - 1) / classes))

    def log_slope(gap: Float[Array, ""]) -> Float[Array, ""]:
        """log D on the ray, where the log-odds are log(K−1) − a."""
        return loss.log_slope(log_classes - gap)

    # D is maximal at a p < e^−2, or at p = 0 for γ = 0. For larger p it decreases, so that the
    # largest root is there, if there is any. Only gaps a >= 0 are searched.
    start, end = jnp.zeros_like(log_level), jnp.full_like(log_level, log_classes)
    highest = falling_root(jax.grad(log_slope), start, end)
    # D <= (γ+1)(1−p)^(γ+1) and 1−p <= (K−1)e^−a.
    beyond = log_classes + (jnp.log1p(exponent) - log_level) / (exponent + 1)
    root = falling_root(
        lambda gap: log_slope(gap) - log_level, highest, jnp.maximum(beyond, highest)
    )
    value_at = lambda gap: value_of_gap(problem, size, gap)  # noqa: E731
    return jnp.where(value_at(root) < value_at(jnp.zeros_like(root)), root, 0)
