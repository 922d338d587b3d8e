"""Weight decay of an unconstrained-features model."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from ...checks import check_number, is_traced
from ...precision import weak_scalar, widened
from ...state import LastLayer
from ..penalties import log_with_penalty
from .sizes import OfClasses, is_of_classes, numbers_of_classes


class WeightDecay(eqx.Module):
    """Penalty λ_W/2 ‖W‖_F² + λ_H/2 ‖H‖_F² + λ_b/2 ‖b‖² (Zhu, eq. 3); not divided by N.

    A Python number becomes part of the compiled program. A scalar array is an argument of the
    program: λ can be swept under `jax.vmap`, and changed without a new compilation.

    λ_W and λ_H may have a number for each class: Σ_k λ_W,k/2 ‖w_k‖² + Σ_i λ_H,y_i/2 ‖h_i‖². Like
    one Python number, a tuple of them is part of the program; an array (K,) is an argument of it.
    Functions whose theorem assumes one λ_W and one λ_H refuse K numbers, also if all are equal.

    Attributes:
        classifier, features, bias: λ_W, λ_H and λ_b.

    Raises: ValueError for a λ that is negative or not finite, or for K numbers of λ_b.

    Example:

        >>> decay = nc.WeightDecay(classifier=0.1, features=0.1)
        >>> state = nc.LastLayer(features=jnp.ones((3, 2)), classifier=jnp.ones((3, 2)))
        >>> decay.balanced, round(float(decay.penalty(state)), 6)
        (True, 0.6)

    The penalty 0.1/2 Σ_k (1/n_k) Σ_i ‖h_ki‖² for classes with 4 and 1 samples, as in the model of
    Fang et al. (2021):

        >>> nc.WeightDecay(classifier=0.1, features=(0.1 / 4, 0.1)).per_class
        True
    """

    # `float | Float[Array, ""]`, or a result of `numbers_of_classes`. The type is not a union, as
    # every formula for one λ would have to narrow it; `preconditions.check_uniform` checks it.
    classifier: Any
    features: Any
    bias: float | Float[Array, ""]
    _created_balanced: bool = eqx.field(static=True, repr=False)

    def __init__(
        self,
        *,
        classifier: float | Float[Array, ""] | OfClasses = 0.0,
        features: float | Float[Array, ""] | OfClasses = 0.0,
        bias: float | Float[Array, ""] = 0.0,
    ):
        check_number("weight decay bias", bias, scalar=True)
        self.classifier = _one_or_several("weight decay classifier", classifier)
        self.features = _one_or_several("weight decay features", features)
        self.bias = weak_scalar(bias)
        # A tracer that is passed twice is one object here, and two objects after this module has
        # become an argument of a jit.
        self._created_balanced = not self.per_class and known_equal(
            self.classifier, self.features, created_equal=False
        )

    @property
    def balanced(self) -> bool:
        """Whether λ_W = λ_H is known; False for K numbers.

        Known numbers are compared. Of two traced ones it is what was known when the object was
        created: `eqx.tree_at` may have replaced them, and `common` is NaN where they differ.
        """
        created_balanced = self._created_balanced
        return not self.per_class and known_equal(
            self.classifier, self.features, created_equal=created_balanced
        )

    @property
    def common(self) -> float | Float[Array, ""]:
        """λ_W = λ_H as one number; NaN where they differ."""
        return common_decay(self.classifier, self.features)

    @property
    def per_class(self) -> bool:
        """Whether λ_W or λ_H has a number for each class."""
        return is_of_classes(self.classifier) or is_of_classes(self.features)

    @property
    def absent(self) -> bool:
        """Whether every λ is known to be 0.

        This is a property and not a field, because `eqx.tree_at` may replace a λ.
        """
        # An array counts as present even if it is 0: under jit its value is unknown.
        decays = jax.tree.leaves((self.classifier, self.features, self.bias))
        return all(isinstance(x, float) and x == 0 for x in decays)

    def penalty(
        self, state: LastLayer, labels: Int[np.ndarray, " N"] | None = None
    ) -> Float[Array, ""]:
        """λ_W/2 ‖W‖² + λ_H/2 ‖H‖² + λ_b/2 ‖b‖² of a state.

        Args: `labels`, the class of each sample, are needed if λ_H has K numbers.
        """
        state = widened(state)
        penalty = _weighted_sum(self.classifier, state.classifier)
        penalty += _weighted_sum(self._of_samples(labels), state.features)
        if state.bias is not None:
            penalty += self.bias * jnp.sum(state.bias**2)
        return penalty / 2

    def add_to_gradient(
        self,
        gradient: LastLayer,
        state: LastLayer,
        scale: Float[ArrayLike, ""],
        labels: Int[np.ndarray, " N"] | None = None,
    ) -> LastLayer:
        """A gradient plus `scale` times the gradient of the penalty at a state.

        Axes after the first two of the arrays of a state may be lanes. `labels` as for `penalty`.
        """
        if self.absent:
            return gradient
        leaves, structure = jax.tree.flatten(widened(state))
        # In the order of the fields of `LastLayer`. A state without a bias has two leaves.
        rates = [self._of_samples(labels), self.classifier, self.bias][: len(leaves)]
        decays = [
            scale * of_rows(rate, leaf) * leaf for rate, leaf in zip(rates, leaves, strict=True)
        ]
        return jax.tree.map(jnp.add, gradient, jax.tree.unflatten(structure, decays))

    def _of_samples(self, labels: Int[np.ndarray, " N"] | None) -> float | Float[Array, "..."]:
        """λ_H, or λ_H of each sample where it has a number for each class."""
        if not is_of_classes(self.features):
            return self.features
        if labels is None:
            raise ValueError(
                "weight decay features has a number for each class: give labels, the class of "
                "each sample."
            )
        return jnp.asarray(self.features, float)[labels]


def log_with_decay(
    decay: WeightDecay,
    log_data: Float[Array, ""],
    state: LastLayer,
    labels: Int[np.ndarray, " N"] | None = None,
) -> Float[Array, ""]:
    """The log of e^log_data plus the penalty, finite where the data term underflows."""
    if decay.absent:
        return log_data
    return log_with_penalty(log_data, decay.penalty(state, labels))


def descent_of(
    decay: WeightDecay,
    gradient: LastLayer,
    state: LastLayer,
    log_scale: Float[ArrayLike, ""],
    labels: Int[np.ndarray, " N"] | None = None,
) -> LastLayer:
    """Minus the gradient of the data term, scaled already, and of the penalty, scaled here."""
    # Without a decay the scale may overflow to infinity, and infinity times 0 is NaN.
    scale = 1.0 if decay.absent else jnp.exp(log_scale)
    return jax.tree.map(jnp.negative, decay.add_to_gradient(gradient, state, scale, labels))


def known_equal(first: Any, second: Any, *, created_equal: bool) -> bool:
    """Whether two λ are known to be equal; of two traced ones it is `created_equal`.

    A Python number and an array count as different: under `eqx.filter_jit` one is known and the
    other traced, and the answer must be the same there.
    """
    if first is second:
        return True
    traced = is_traced(first), is_traced(second)
    if any(traced):
        return created_equal and all(traced)
    # By NumPy: under jit `==` of two known arrays of JAX would be traced.
    return isinstance(first, float) == isinstance(second, float) and np.array_equal(first, second)


def common_decay(
    first: float | Float[Array, ""], second: float | Float[Array, ""]
) -> float | Float[Array, ""]:
    """The first of two λ where they are equal, else NaN."""
    if isinstance(first, float) and isinstance(second, float):
        return first if first == second else math.nan
    # Compared in one dtype, as the two may have been given in different ones.
    equal = jnp.asarray(first, float) == jnp.asarray(second, float)
    return jnp.where(equal, first, jnp.nan)


def of_rows(numbers: Any, rows: Float[Array, "R *axes"]) -> float | Float[Array, "..."]:
    """A number for each row in a shape and dtype that multiply the rows; one number unchanged."""
    if not is_of_classes(numbers):
        return numbers
    return jnp.asarray(numbers, rows.dtype).reshape(-1, *[1] * (rows.ndim - 1))


def _weighted_sum(rate: Any, rows: Float[Array, "R d"]) -> Float[Array, ""]:
    """Σ_r rate_r ‖row_r‖²."""
    if not is_of_classes(rate):
        return rate * jnp.sum(rows**2)
    return jnp.sum(of_rows(rate, rows) * rows**2)


def _one_or_several(name: str, value: Any) -> float | Float[Array, "..."] | tuple[Any, ...]:
    """A λ as `weak_scalar` returns it, or K of them."""
    if is_of_classes(value):
        return numbers_of_classes(name, value)
    check_number(name, value)
    return weak_scalar(value)
