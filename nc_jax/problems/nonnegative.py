"""Free features with the constraint H >= 0, as after a ReLU (Dang et al. 2024)."""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from ..measures import Invariant, classifier_sum, column_balance
from ..state import LastLayer
from .base import check_shapes
from .unconstrained import UnconstrainedFeatures
from .unconstrained.sizes import is_of_classes


class NonnegativeFeatures(UnconstrainedFeatures):
    """`UnconstrainedFeatures` with the constraint H >= 0 on every entry of the features.

    The flow is the projected flow: an entry h = 0 stays at 0 while −∂L/∂h < 0, and leaves 0 once
    −∂L/∂h > 0. Its right-hand side jumps where an entry reaches 0. An integrator with step control
    finds that jump by shortening its step. It may end a step at a negative h of up to about a
    hundred times its tolerance, where the entry then stays. The gradient and the observables are
    therefore taken at max(H, 0), and `retract` gives the final state with H >= 0. The error is
    proportional to the tolerance, whatever the order of the solver. Every entry that reaches 0
    costs some rejected steps.

    All features of a class may become 0: they stay 0 while −∂L/∂h <= 0 in every entry. Flows with d
    near K may converge to such a point, which is no minimum.

    Descent is projected descent, whose `retract` is H → max(H, 0). The flow is no gradient flow in
    the coordinates of the state, so that functions of `nc_jax.landscape` refuse it. Theorems for
    `UnconstrainedFeatures` do not hold.

    Arguments and errors are those of `UnconstrainedFeatures`.

    Example: −∂L/∂h is negative for the first feature, which stays 0, and positive for the second.

        >>> problem = nc.problems.NonnegativeFeatures((1, 1), 1)
        >>> state = nc.LastLayer(jnp.zeros((2, 1)), jnp.array([[-1.0], [1.0]]))
        >>> problem.vector_field(0.0, state, None).features.tolist()
        [[0.0], [0.5]]
    """

    # A claim: the objective and its projected flow are those of the docstring of this class.
    has_nonnegative_features: ClassVar[bool] = True
    has_free_features: ClassVar[bool] = False

    _claims: ClassVar[tuple[str, ...]] = ("has_free_features", "has_nonnegative_features")
    _formulas: ClassVar[tuple[str, ...]] = (*UnconstrainedFeatures._formulas, "retract")

    # For type checkers, which expect one argument for each field of a subclass.
    __init__ = UnconstrainedFeatures.__init__

    def init(
        self, key: Key[Array, ""], norm: Float[ArrayLike, ""] = 1.0, *, dtype: DTypeLike = float
    ) -> LastLayer:
        """As `UnconstrainedFeatures.init`, with the absolute values of the features."""
        start = super().init(key, norm, dtype=dtype)
        return LastLayer(jnp.abs(start.features), start.classifier, start.bias)

    def retract(self, state: LastLayer) -> LastLayer:
        """The nearest state with H >= 0."""
        return LastLayer(jnp.maximum(state.features, 0), state.classifier, state.bias)

    def scaled_descent(self, state: LastLayer, log_scale: Float[ArrayLike, ""]) -> LastLayer:
        """e^log_scale times the projection of −∇L onto the directions that H >= 0 allows."""
        check_shapes(self, state, name="state")
        descent = super().scaled_descent(self.retract(state), log_scale)
        outward = (state.features <= 0) & (descent.features < 0)
        features = jnp.where(outward, 0, descent.features)
        return LastLayer(features, descent.classifier, descent.bias)

    @property
    def remedy_of_jumps(self) -> str:
        """Larger steps, where entries reach 0."""
        return "give larger rtol and atol, or a min_step"

    def observe(self, state: LastLayer) -> dict[str, Float[Array, ""]]:
        """As `UnconstrainedFeatures.observe`, of max(H, 0)."""
        return super().observe(self.retract(state))

    def invariants(self, state: LastLayer) -> dict[str, Invariant]:
        """`column_balance` if λ_W = λ_H, and `classifier_sum` as for free features.

        With H_j and W_j the columns of coordinate j, entries of H that the constraint holds at 0 do
        not contribute to d‖H_j‖²/dt. Hence ‖W_j‖² − ‖H_j‖² is conserved, or decays at the rate 2λ.
        Products of different columns are not conserved.
        """
        decay, state = self.weight_decay, self.retract(state)
        invariants = {}
        if decay.balanced:
            invariants["column_balance"] = column_balance(state, rate=2 * decay.common)
        if self.loss.shift_invariant and not is_of_classes(decay.classifier):
            invariants["classifier_sum"] = classifier_sum(state, rate=decay.classifier)
        return invariants
