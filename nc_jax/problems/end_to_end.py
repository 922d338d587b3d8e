"""The product of all factors of a deep linear net from a balanced start, as one equation."""

from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from ..checks import check_integer, check_number
from ..errors import ArgumentError
from ..geometry import above_rounding
from ..losses import CrossEntropy, Loss, check_loss
from ..measures import Invariant
from ..precision import largest_exponent, matmul, weak_scalar
from ..starts import checked_norm, gaussian_direction
from .base import AbstractProblem, check_shapes
from .penalties import log_with_penalty
from .reduction import check_reduction, loss_scale_of
from .unconstrained.sizes import check_sizes


class EndToEnd(AbstractProblem):
    """X' = −Σ_{j<m} (XXᵀ)^((m−1−j)/m) R (XᵀX)^(j/m) − mλX, for X = D^½ Z of collapsed logits Z.

    This is the flow of the product of m factors from a balanced start, in which every two
    neighbouring factors have W_{l+1}ᵀW_{l+1} = W_l W_lᵀ (after Arora, Cohen and Hazan 2018; derived
    for classes of unequal sizes). Z (K, K) has the logits of a class as a row, D = diag(n_k),
    R = s D^½ ∂ℓ/∂Z, with the loss scale s, and λ is the decay of every factor. The equation has no
    factors and no widths. The flow of a `DeepUnconstrainedFeatures` of any widths >= K, from a
    balanced start with equal features in each class, has these logits, so that each of the two
    integrations tests the other.

    The powers are taken in a singular value decomposition of X, in which singular values below the
    rounding error of the largest one are replaced by 0. The root of order m of a rounding error ε
    would otherwise be of order ε^(1/m). The exact flow preserves the rank of X. An integration
    preserves it to its tolerance, and modes that this error excites grow as others do.

    Args:
        class_sizes: samples of each class.
        depth: m >= 2, the number of factors.
        loss: as for `UnconstrainedFeatures`.
        reduction: "mean" or "sum".
        weight_decay: λ, one number for all factors: other decays do not preserve the balance.

    Raises: ValueError for fewer than 2 classes, an empty class, depth < 2, an unknown reduction, a
    loss of another kind, or a decay that is negative or not finite.

    Example: the loss of logits of 0 is log 3.

        >>> problem = nc.problems.EndToEnd((3, 2, 2), depth=3)
        >>> start = problem.init(jax.random.key(0), norm=0.0)
        >>> round(float(problem.objective(start)), 6)
        1.098612
    """

    class_sizes: tuple[int, ...] = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    loss: Loss
    reduction: Literal["mean", "sum"] = eqx.field(static=True)
    weight_decay: float | Float[Array, ""]

    def __init__(
        self,
        class_sizes: Sequence[int],
        depth: int,
        *,
        loss: Loss = CrossEntropy(),
        reduction: Literal["mean", "sum"] = "mean",
        weight_decay: float | Float[Array, ""] = 0.0,
    ):
        self.class_sizes = check_sizes("class_sizes", class_sizes)
        if self.num_classes < 2:
            message = f"class_sizes = {self.class_sizes}: collapse needs 2 or more classes."
            raise ArgumentError(message, "class_sizes")
        self.depth = check_integer("depth", depth, least=2)
        check_loss(loss, self.num_classes, self.num_classes)
        self.loss = loss
        check_reduction(reduction)
        self.reduction = reduction
        check_number("weight_decay", weight_decay, scalar=True)
        self.weight_decay = weak_scalar(weight_decay)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_sizes)

    @property
    def loss_scale(self) -> float:
        """s in L = s Σ ℓ: 1/N for the mean, 1 for the sum."""
        return loss_scale_of(self.reduction, sum(self.class_sizes))

    def init(
        self, key: Key[Array, ""], norm: Float[ArrayLike, ""] = 1.0, *, dtype: DTypeLike = float
    ) -> Float[Array, "K K"]:
        """A Gaussian X of ‖X‖_F = norm.

        Raises: ValueError for a raw (untyped) key or a norm that is negative or not finite.
        """
        scale = checked_norm(key, norm, dtype)
        return gaussian_direction(key, (self.num_classes, self.num_classes), scale)

    def state_of(self, logits: Float[Array, "K K"]) -> Float[Array, "K K"]:
        """X = D^½ Z of the logits Z of each class, a row for each."""
        return logits * self._roots(logits.dtype)

    def logits(self, state: Float[Array, "K K"]) -> Float[Array, "K K"]:
        """Z = D^(−½) X, the logits of each class as a row."""
        check_shapes(self, state, name="state")
        return state / self._roots(state.dtype)

    def objective(self, state: Float[Array, "K K"]) -> Float[Array, ""]:
        """s Σ_k n_k ℓ(z_k, k) + λ (m/2) Σσ^(2/m), σ the singular values of X; scalar."""
        losses = self.loss.value(self.logits(state), self._classes)
        data = self.loss_scale * jnp.sum(self._counts(losses.dtype) * losses)
        return data if self._undecayed else data + self.weight_decay * self._penalty(state)

    def log_objective(self, state: Float[Array, "K K"]) -> Float[Array, ""]:
        """log of `objective`, finite where that underflows."""
        losses = self.loss.log_value(self.logits(state), self._classes)
        data = jax.nn.logsumexp(losses + jnp.log(self.loss_scale * self._counts(losses.dtype)))
        if self._undecayed:
            return data
        return log_with_penalty(data, self.weight_decay * self._penalty(state))

    def gradient(self, state: Float[Array, "K K"]) -> Float[Array, "K K"]:
        """Minus the field; the gradient of the objective in no Euclidean metric."""
        return -self.scaled_descent(state, 0.0)

    def scaled_descent(
        self, state: Float[Array, "K K"], log_scale: Float[ArrayLike, ""]
    ) -> Float[Array, "K K"]:
        """e^log_scale times the field, with the exponents of the loss added before `exp`."""
        total = log_scale + np.log(self.loss_scale).item()
        slope = self.loss.scaled_gradient(self.logits(state), self._classes, total)
        residual = self._roots(state.dtype) * slope
        left, singular, right = jnp.linalg.svd(state)
        noise = ~above_rounding(singular, state.shape)
        singular = jnp.where(noise, 0, singular)
        # In the bases of X the powers are diagonal: entry (i, k) of the residual has the weight
        # Σ_j σ_i^(2(m−1−j)/m) σ_k^(2j/m), with 0⁰ = 1 for the power 0, which is the identity.
        powers = jnp.stack([singular ** (2 * j / self.depth) for j in range(self.depth)])
        weights = matmul(powers[::-1].T, powers)
        inner = weights * matmul(matmul(left.T, residual), right.T)
        descent = -matmul(matmul(left, inner), right)
        if self._undecayed:  # e^log_scale may be infinite, and 0 times infinity is NaN.
            return descent
        return descent - jnp.exp(log_scale) * self.depth * self.weight_decay * state

    def observe(self, state: Float[Array, "K K"]) -> dict[str, Float[Array, "..."]]:
        """`objective`, `log_objective`, `margin_min` and `logit_singular_values` (K,) of X."""
        logits = self.logits(state)
        others = jnp.where(jnp.eye(self.num_classes, dtype=bool), -jnp.inf, logits)
        return {
            "objective": self.objective(state),
            "log_objective": self.log_objective(state),
            "margin_min": jnp.min(jnp.diag(logits) - jnp.max(others, axis=1)),
            "logit_singular_values": jnp.linalg.svd(state, compute_uv=False),
        }

    def invariants(self, state: Float[Array, "K K"]) -> dict[str, Invariant]:
        """None: the balance of the factors is built into the equation."""
        return {}

    @property
    def is_gradient_flow(self) -> bool:
        """False: the metric of the flow depends on X."""
        return False

    @property
    def comes_to_rest(self) -> bool:
        """False for a loss that is `finite_at_any_scale`, without decay."""
        return not (self.loss.finite_at_any_scale and self._undecayed)

    def largest_log_scale(self, dtype: DTypeLike) -> float:
        """Infinite for a flow that does not come to rest, else log of the largest number."""
        return largest_exponent(dtype) if self.comes_to_rest else np.inf

    def state_shapes(self) -> jax.ShapeDtypeStruct:
        """The shape (K, K)."""
        return jax.ShapeDtypeStruct((self.num_classes,) * 2, jnp.result_type(float))

    @property
    def _undecayed(self) -> bool:
        """Whether λ is known to be 0."""
        return isinstance(self.weight_decay, float) and self.weight_decay == 0

    @property
    def _classes(self) -> np.ndarray:
        return np.arange(self.num_classes, dtype=np.int32)

    def _counts(self, dtype: DTypeLike) -> Float[Array, " K"]:
        return jnp.asarray(np.array(self.class_sizes), dtype)

    def _roots(self, dtype: DTypeLike) -> Float[Array, "K 1"]:
        return jnp.sqrt(self._counts(dtype))[:, None]

    def _penalty(self, state: Float[Array, "K K"]) -> Float[Array, ""]:
        """(m/2) Σσ^(2/m), the least ½Σ‖factors‖² of X."""
        singular = jnp.linalg.svd(state, compute_uv=False)
        return self.depth / 2 * jnp.sum(singular ** (2 / self.depth))
