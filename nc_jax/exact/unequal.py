"""Classes of unequal sizes with decay: computations that the closed forms of their minima share.

If all samples of class k have one feature h_k, class k has the weight α_k = s ω_k n_k in the loss,
and h_k has the decay λ_H,k n_k. ω_k is the class weight, and s the scale of the loss. The least
penalty over W and H with the logits X (K, K), a row for each class, is the nuclear norm
‖Λ_H^{1/2} X Λ_W^{1/2}‖_* with the diagonal matrices Λ_H of λ_H,k n_k and Λ_W of λ_W,k.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Key

from ..precision import matmul
from ..preconditions import check_class_ratios, check_decayed_classes
from ..problems import UnconstrainedFeatures
from ..state import LastLayer
from .powers import power_or_zero, singular_value_decomposition


class ClassNumbers(NamedTuple):
    """Numbers (K,) of the classes that their minimum depends on.

    Attributes:
        loss: α_k = s ω_k n_k.
        classifier: λ_W,k.
        features: n_k λ_H,k.
    """

    loss: Float[Array, " K"]
    classifier: Float[Array, " K"]
    features: Float[Array, " K"]

    @property
    def slopes(self) -> Float[Array, " K"]:
        """κ_k = √(n_k λ_W,k λ_H,k), the penalty if the one nonzero logit is X_kk = 1."""
        return jnp.sqrt(self.classifier * self.features)


def class_numbers(problem: UnconstrainedFeatures, dtype: DTypeLike = float) -> ClassNumbers:
    """The numbers of a problem whose λ_W and λ_H are positive."""
    check_decayed_classes(problem)
    sizes = jnp.asarray(np.array(problem.class_sizes), dtype)
    decay, weights = problem.weight_decay, problem.class_weights
    weights = jnp.ones(len(sizes), dtype) if weights is None else jnp.asarray(weights, dtype)
    return ClassNumbers(
        loss=problem.loss_scale * weights * sizes,
        classifier=jnp.broadcast_to(jnp.asarray(decay.classifier, dtype), sizes.shape),
        features=jnp.asarray(decay.features, dtype) * sizes,
    )


def class_decay_ratios(problem: UnconstrainedFeatures) -> Float[Array, " K"]:
    """τ_k = √(λ_W,k λ_H,k/n_k)/(s ω_k): equal classes merge at the minimum iff τ_k >= 1 (derived).

    - Cross-entropy: classes of equal n, ω and λ have equal classifiers and equal mean features at
      the minimum if and only if τ >= 1, whatever the other classes and the bias are. The reason:
      the objective is convex in the logits. Per unit of a contrast between these classes the
      penalty rises by κ = τα, and the loss falls by at most α, with equality where their logits are
      equal (α and κ as in `ClassNumbers`). For a class that is alone in its n, ω and λ, τ_k = 1 is
      no threshold: its margin can fall below 0 although it merges with no class. Compute the
      minimum.
    - Square loss without bias: the classifier and the features of class k are 0 if and only if
      τ_k >= 1.

    For the mean loss without weights τ_k >= 1 says n_k <= N² λ_W λ_H: as the decay grows, small
    classes merge first. Weights ω_k = N/(K n_k), by which all classes count equally, give
    τ_k = K √(n_k λ_W λ_H): the LARGE classes merge first. Weights ω_k = √(N/(K n_k)), or a decay
    λ_H,k proportional to n_k, give all classes one τ. With λ_H,k = λ/n_k the condition is
    n_k <= N √(λ_W λ).

    Raises: ValueError for another loss, or λ_W or λ_H that are 0.

    Example: the classes of one sample merge, and the others do not.

        >>> decay = nc.WeightDecay(classifier=0.1, features=0.1)
        >>> problem = nc.UnconstrainedFeatures((9, 9, 1, 1), 4, weight_decay=decay)
        >>> np.asarray(nc.exact.class_decay_ratios(problem)).round(6).tolist()
        [0.666667, 0.666667, 2.0, 2.0]
    """
    check_class_ratios(problem)
    numbers = class_numbers(problem)
    return numbers.slopes / numbers.loss


def least_penalty_state(
    problem: UnconstrainedFeatures,
    logits: Float[Array, "K K"],
    bias: Float[Array, " K"] | None = None,
    *,
    key: Key[Array, ""] | None = None,
) -> LastLayer:
    """The collapsed state of least penalty with these logits H Wᵀ of each class (rows).

    Args: `logits` of rank d at most; `key` rotates the state at random.
    """
    numbers = class_numbers(problem, logits.dtype)
    rows, columns = jnp.sqrt(numbers.features)[:, None], jnp.sqrt(numbers.classifier)[:, None]
    left, singular, right = singular_value_decomposition(rows * logits * columns.T)
    # Rounding leaves 1e-16 in the place of 0, and its square root 1e-8 would be too large an error.
    noise = 10 * len(singular) * jnp.finfo(singular.dtype).eps * singular[0]
    singular = jnp.where(singular > noise, singular, 0)
    # Singular values decrease: for d < K the last ones, which are 0, are left out.
    dim = min(problem.feature_dim, problem.num_classes)
    root = power_or_zero(singular[:dim], 0.5)[None]
    pad = ((0, 0), (0, problem.feature_dim - dim))
    means = jnp.pad(left[:, :dim] * root / rows, pad)
    classifier = jnp.pad(right.T[:, :dim] * root / columns, pad)
    if key is not None:
        rotation = jax.random.orthogonal(key, problem.feature_dim, dtype=logits.dtype)
        means, classifier = matmul(means, rotation), matmul(classifier, rotation)
    return LastLayer(means[problem.labels], classifier, bias)
