"""Mixon's model near the origin: the partially decoupled system of theorem 2."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int, Key
from numpy import ndarray

from ..checks import check_integer
from ..metrics import Invariant
from ..state import LastLayer
from .base import AbstractProblem
from .unconstrained import UnconstrainedFeatures, mixon


class LinearizedMixon(AbstractProblem):
    """Mixon's flow with the residual A = WH + b1ᵀ − I⊗1ᵀ replaced by Ã = b1ᵀ − I⊗1ᵀ.

    H' = −WᵀÃ, W' = −ÃHᵀ, b' = −Ã1 (Mixon, theorem 2): linear in (H, W) with a coefficient that b
    alone moves, and close to the flow while WH is small. It descends no function: `objective` is
    the risk R of the full model along it, `gradient` minus its field. WᵀW − HHᵀ is conserved here
    too. (H, W) grows as e^(√n t), past the floats at √n t = 709.
    `exact.linearized_solution` has it in closed form.

    Args: as for `mixon`; `full` is that model.

    Raises: ValueError for fewer than 2 classes, an empty class or feature_dim < 1.

    Example:

        problem = LinearizedMixon(3, 15, 3)
        start = problem.init(jax.random.key(0), norm=1e-4)
        gradient_flow(problem, start, jnp.linspace(0, 5, 51), RealTime(), atol=1e-16)
    """

    full: UnconstrainedFeatures

    def __init__(self, num_classes: int, feature_dim: int, samples_per_class: int):
        # Theorem 2 is of classes of one size.
        check_integer("samples_per_class", samples_per_class)
        self.full = mixon(num_classes, feature_dim, samples_per_class)

    @property
    def num_classes(self) -> int:
        """K (the paper's C)."""
        return self.full.num_classes

    @property
    def feature_dim(self) -> int:
        """d (the paper's p)."""
        return self.full.feature_dim

    @property
    def samples_per_class(self) -> int:
        """n (the paper's N)."""
        return self.full.class_sizes[0]

    @property
    def labels(self) -> Int[ndarray, " N"]:
        """Class of each row of the features, (N,) int32, concrete under jit."""
        return self.full.labels

    def init(
        self,
        key: Key[Array, ""],
        norm: Float[ArrayLike, ""] = 1.0,
        dtype: DTypeLike = float,
    ) -> LastLayer:
        """Gaussian directions scaled to ‖W‖_F = ‖H‖_F = norm, bias 0: that of the full model."""
        return self.full.init(key, norm, dtype)

    def objective(self, state: LastLayer) -> Float[Array, ""]:
        """R(H, W, b) of the full model, scalar."""
        return self.full.objective(state)

    def gradient(self, state: LastLayer) -> LastLayer:
        """(WᵀÃ, ÃHᵀ, Ã1), which is ∇R without the part of the residual that is WH."""
        self.full.check_state(state)
        assert state.bias is not None
        logits = jnp.broadcast_to(state.bias, (self.full.num_samples, self.num_classes))
        return state.pull_back(self.full.loss.gradient(logits, self.labels))

    def scaled_descent(self, state: LastLayer, log_scale: Float[ArrayLike, ""]) -> LastLayer:
        """e^log_scale times the field."""
        scale = jnp.exp(log_scale)
        return jax.tree.map(lambda leaf: -scale * leaf, self.gradient(state))

    def observe(self, state: LastLayer) -> dict[str, Float[Array, ""]]:
        """What the full model observes."""
        return self.full.observe(state)

    def invariants(self, state: LastLayer) -> dict[str, Invariant]:
        """`balance`, as for the full model: it is conserved whatever the residual."""
        return self.full.invariants(state)

    def largest_log_scale(self, dtype: DTypeLike) -> float:
        """Log of the dtype's largest number."""
        return self.full.largest_log_scale(dtype)
