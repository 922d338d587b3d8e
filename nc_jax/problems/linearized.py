"""Mixon's model near the origin: the partially decoupled system of theorem 2."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int, Key
from numpy import ndarray

from ..checks import check_integer
from ..measures import Invariant
from ..state import LastLayer
from .base import AbstractProblem, check_shapes
from .unconstrained import UnconstrainedFeatures, mixon


class LinearizedMixon(AbstractProblem):
    """Mixon's flow with the residual A = WH + b1ᵀ − I⊗1ᵀ replaced by Ã = b1ᵀ − I⊗1ᵀ.

    H' = −WᵀÃ, W' = −ÃHᵀ, b' = −Ã1 (Mixon, theorem 2). The system is linear in (H, W), its
    coefficients depend on b alone, and it is close to the flow of the full model while WH is small.
    The flow descends no function: `objective` is the risk R of the full model, and `gradient` is
    minus the field. Like the full flow, it conserves WᵀW − HᵀH. (H, W) grows as e^(√n t), and
    overflows in float64 at √n t = 709. `exact.linearized_solution` is its closed form.

    Args: as for `mixon`; `full` is that model.

    Raises: ValueError for fewer than 2 classes, an empty class or feature_dim < 1.

    Example: near the origin the field is that of the full model.

        >>> problem = nc.LinearizedMixon(3, 4, 2)
        >>> start = problem.init(jax.random.key(0), norm=1e-4)
        >>> gap = jax.tree.map(jnp.subtract, problem.gradient(start), problem.full.gradient(start))
        >>> bool(jnp.linalg.norm(gap.features) < 1e-7)  # of third order in the norm
        True
    """

    full: UnconstrainedFeatures

    # Whether the flow is that of theorem 2, with its closed form.
    is_linearized_mixon: ClassVar[bool] = True

    # Without "objective": theorem 2 is about the field, which descends no function.
    _claims: ClassVar[tuple[str, ...]] = ("is_linearized_mixon",)
    _formulas: ClassVar[tuple[str, ...]] = ("labels", "gradient", "scaled_descent")

    def __init__(self, num_classes: int, feature_dim: int, samples_per_class: int):
        # Theorem 2 needs classes of one size, where `mixon` allows one size for each class.
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
        *,
        dtype: DTypeLike = float,
    ) -> LastLayer:
        """Gaussian directions scaled to ‖W‖_F = ‖H‖_F = norm, bias 0: that of the full model."""
        return self.full.init(key, norm, dtype=dtype)

    def objective(self, state: LastLayer) -> Float[Array, ""]:
        """R(H, W, b) of the full model, scalar."""
        return self.full.objective(state)

    def gradient(self, state: LastLayer) -> LastLayer:
        """(WᵀÃ, ÃHᵀ, Ã1): ∇R with the part WH of the residual left out."""
        check_shapes(self.full, state, name="state")
        assert state.bias is not None
        # Ã is the residual of the full model for logits that consist of the bias alone.
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
        """`balance`, as for the full model: any residual conserves it."""
        return self.full.invariants(state)

    @property
    def is_gradient_flow(self) -> bool:
        """False: the field is the gradient of no function."""
        # b changes the velocity of (H, W), and (H, W) do not change that of b: the Jacobian of the
        # field is not symmetric.
        return False

    def largest_log_scale(self, dtype: DTypeLike) -> float:
        """Log of the dtype's largest number."""
        return self.full.largest_log_scale(dtype)
