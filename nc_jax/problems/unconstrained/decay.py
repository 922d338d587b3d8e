"""Weight decay of an unconstrained-features model."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ...checks import check_number, is_traced
from ...precision import weak_scalar, widened
from ...state import LastLayer


class WeightDecay(eqx.Module):
    """Penalty λ_W/2 ‖W‖_F² + λ_H/2 ‖H‖_F² + λ_b/2 ‖b‖² (Zhu, eq. 3); not divided by N.

    A Python number becomes part of the compiled program. A scalar array is an argument of the
    program: λ can be swept under `jax.vmap`, and changed without a new compilation.

    Attributes:
        classifier, features, bias: λ_W, λ_H and λ_b.
        balanced: whether λ_W = λ_H was known when the object was created.

    Raises: ValueError for a λ that is negative or not finite.

    Example:

        >>> decay = nc.WeightDecay(classifier=0.1, features=0.1)
        >>> state = nc.LastLayer(features=jnp.ones((3, 2)), classifier=jnp.ones((3, 2)))
        >>> decay.balanced, round(float(decay.penalty(state)), 6)
        (True, 0.6)
    """

    classifier: float | Float[Array, ""]
    features: float | Float[Array, ""]
    bias: float | Float[Array, ""]
    balanced: bool = eqx.field(static=True)

    def __init__(
        self,
        *,
        classifier: float | Float[Array, ""] = 0.0,
        features: float | Float[Array, ""] = 0.0,
        bias: float | Float[Array, ""] = 0.0,
    ):
        for name, value in (("classifier", classifier), ("features", features), ("bias", bias)):
            check_number(f"weight decay {name}", value, scalar=True)
        self.classifier = weak_scalar(classifier)
        self.features = weak_scalar(features)
        self.bias = weak_scalar(bias)
        # Compared here and not in the methods: a tracer that is passed twice is one object here,
        # and two objects after this module has become an argument of a jit.
        concrete = not (is_traced(classifier) or is_traced(features))
        self.balanced = classifier is features or (concrete and bool(classifier == features))

    @property
    def absent(self) -> bool:
        """Whether every λ is known to be 0.

        This is a property and not a field like `balanced`, because `eqx.tree_at` may replace a λ.
        """
        # An array counts as present even if it is 0: under jit its value is unknown.
        decays = (self.classifier, self.features, self.bias)
        return all(isinstance(x, float) and x == 0 for x in decays)

    def penalty(self, state: LastLayer) -> Float[Array, ""]:
        """λ_W/2 ‖W‖² + λ_H/2 ‖H‖² + λ_b/2 ‖b‖² of a state."""
        state = widened(state)
        penalty = self.classifier * jnp.sum(state.classifier**2)
        penalty += self.features * jnp.sum(state.features**2)
        if state.bias is not None:
            penalty += self.bias * jnp.sum(state.bias**2)
        return penalty / 2

    def add_to_gradient(
        self, gradient: LastLayer, state: LastLayer, scale: Float[ArrayLike, ""]
    ) -> LastLayer:
        """A gradient plus `scale` times the gradient of the penalty at a state."""
        if self.absent:
            return gradient
        leaves, structure = jax.tree.flatten(widened(state))
        # In the order of the fields of `LastLayer`. A state without a bias has two leaves.
        rates = [self.features, self.classifier, self.bias][: len(leaves)]
        decays = [scale * rate * leaf for rate, leaf in zip(rates, leaves, strict=True)]
        return jax.tree.map(jnp.add, gradient, jax.tree.unflatten(structure, decays))
