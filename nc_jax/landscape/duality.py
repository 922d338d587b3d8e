"""Certificates of global optimality from the convex relaxation of unconstrained features.

With c = √(λ_W λ_H), L(W, H, b) >= g(WH, b) + c‖WH‖_* + λ_b/2 ‖b‖², a convex function of Z = WH,
with g the data term (Zhu, section 3; the nuclear norm is the least of (λ_W‖W‖² + λ_H‖H‖²)/2 over
the factors). Its Fenchel dual is max_U −g*(U) subject to ‖U‖₂ <= c, and any feasible U bounds every
state's loss from below. On the sphere ‖W‖² + ‖H‖² = ρ² the nuclear norm is at most ρ²/2, and the
dual is −g*(U) − ρ²/2 ‖U‖₂ without a constraint.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..display import summary
from ..geometry import membership
from ..precision import matmul, widened
from ..preconditions import (
    bias_is_free,
    check_convex_dual,
    check_undecayed,
)
from ..problems import UnconstrainedFeatures, check_shapes
from ..state import LastLayer
from .domains import OnSphere, domain_of


class GlobalCertificate(eqx.Module):
    """A lower bound on the loss of every state, from one state.

    Attributes:
        spectral_norm: ‖∂L/∂Z‖₂, the largest singular value of the residual.
        threshold: c = √(λ_W λ_H), or on the sphere max(−λ, 0), with ∇L = λ(W, H) + tangential
            part. A critical point is a global minimum if spectral_norm <= threshold, and for
            d >= K−1 under cross-entropy only then.
        lower_bound: no state (of this sphere) has a smaller loss.
        gap: loss of the state minus this bound. A gap of 0 proves that the state is a global
            minimum. A positive gap proves only that no state has a loss lower by more than the gap.
            Compare it with the loss, which may be tiny.

    Bound and gap are NaN where cross-entropy, which is positive, has underflowed to 0.

    Example: the bound from any state is below the minimum.

        >>> problem = nc.zhu(3, 4, 2, 5e-3)
        >>> state = problem.init(jax.random.key(0))
        >>> bound = nc.landscape.global_certificate(problem, state).lower_bound
        >>> bool(bound < nc.exact.regularized_minimum(problem))
        True
    """

    spectral_norm: Float[Array, "*batch"]
    threshold: Float[Array, "*batch"]
    lower_bound: Float[Array, "*batch"]
    gap: Float[Array, "*batch"]

    def __repr__(self) -> str:
        return summary(self)

    def holds(self, tolerance: float) -> Bool[Array, "*batch"]:
        """Whether no state has a loss lower by more than the tolerance; False for NaN."""
        return self.gap <= tolerance


@jax.debug_nans(False)  # NaN is a result: there is no bound for a loss that has underflowed.
@eqx.filter_jit
def global_certificate(
    problem: UnconstrainedFeatures | OnSphere, state: LastLayer
) -> GlobalCertificate:
    """Lower bound on the loss of all states from the dual point U = ∂L/∂Z of one state.

    U is scaled down to ‖U‖₂ <= c where it is larger. With an unpenalised bias, its sums over the
    samples are first shifted to 0, by the least shift for which each row remains the difference of
    a probability vector and a one-hot vector. The bound holds for any state and classes of any
    size. It is tight exactly at the minima of the convex problem, which the model attains for
    d >= K−1.

    Args:
        problem: `OnSphere(problem)` compares with the states of the same ‖W‖² + ‖H‖² (Ji, theorem
            3.3). A λ_b of 0 must be a number: for an array the bound is −∞.
        state: of the problem.

    Raises: ValueError for losses other than cross-entropy and squared error, and on the sphere for
    a problem with weight decay.

    Example:

        >>> problem = nc.zhu(3, 4, 2, 5e-3)
        >>> state = nc.exact.regularized_minimizer(problem)
        >>> bool(nc.landscape.global_certificate(problem, state).holds(1e-12))
        True
    """
    domain = domain_of(problem)
    model = domain.problem
    check_convex_dual(model)
    # For type checkers: the line above has refused other problems.
    assert isinstance(model, UnconstrainedFeatures)
    check_shapes(model, state, name="state")
    state = widened(state)
    residual = model.loss.gradient(state.logits(), model.labels)
    dual = _feasible_for_bias(model, residual)
    scale = model.loss_scale
    plain_norm, dual_norm = (scale * top_singular_pair(part)[0] for part in (residual, dual))
    # The nuclear norm of WH is penalised in the space, and bounded by ρ²/2 on the sphere.
    if isinstance(domain, OnSphere):
        threshold, bound = _bound_on_sphere(model, state, residual, dual, dual_norm)
    else:
        threshold, bound = _bound_in_space(model, dual, dual_norm)
    objective = model.objective(state)
    if model.loss.is_cross_entropy:
        bound = jnp.where(objective > 0, bound, jnp.nan)
    return GlobalCertificate(
        spectral_norm=plain_norm,
        threshold=threshold,
        lower_bound=bound,
        gap=objective - bound,
    )


def top_singular_pair(
    residual: Float[Array, "N K"],
) -> tuple[Float[Array, ""], Float[Array, " K"], Float[Array, " N"]]:
    """σ, u (K,) and v (N,) of the papers' G = residualᵀ: G v = σu; N may be large."""
    # The Gram matrix is (K, K), where an SVD of the residual would take N rows. It is formed in
    # units of the largest entry, since squares of residuals underflow.
    largest = jnp.max(jnp.abs(residual))
    unit = residual / jnp.where(largest > 0, largest, 1)
    squared, vectors = jnp.linalg.eigh(matmul(unit.T, unit))
    sigma, left = jnp.sqrt(jnp.maximum(squared[-1], 0)), vectors[:, -1]
    return largest * sigma, left, matmul(unit, left) / jnp.where(sigma > 0, sigma, 1)


def _bound_in_space(
    problem: UnconstrainedFeatures, dual: Float[Array, "N K"], dual_norm: Float[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """c = √(λ_W λ_H), and the bound from the dual point scaled down to the norm c."""
    decay, scale = problem.weight_decay, problem.loss_scale
    threshold = jnp.sqrt(jnp.asarray(decay.classifier * decay.features, dual.dtype))
    dual = dual * jnp.minimum(1, threshold / jnp.where(dual_norm > 0, dual_norm, 1))
    bound = -scale * _conjugate(problem, dual)
    if problem.bias and not bias_is_free(problem):
        # The minimum over b of λ_b/2 ‖b‖² + ⟨ΣU, b⟩, where ΣU sums over the samples.
        squared = jnp.sum((scale * jnp.sum(dual, axis=0)) ** 2)
        bound -= squared / (2 * jnp.asarray(decay.bias, bound.dtype))
    return threshold, bound


def _bound_on_sphere(
    problem: UnconstrainedFeatures,
    state: LastLayer,
    residual: Float[Array, "N K"],
    dual: Float[Array, "N K"],
    dual_norm: Float[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """max(−λ, 0), and the bound on the sphere through the state."""
    check_undecayed(problem)
    # λ = ⟨∇L, (W, H)⟩/ρ², where ⟨∇L, (W, H)⟩ = 2⟨∂L/∂Z, WH⟩, since WH is quadratic.
    scale, squared_norm = problem.loss_scale, state.squared_norm()
    without_bias = matmul(state.features, state.classifier.T)
    multiplier = 2 * scale * jnp.sum(residual * without_bias) / squared_norm
    bound = -scale * _conjugate(problem, dual) - squared_norm / 2 * dual_norm
    return jnp.maximum(-multiplier, 0), bound


def _conjugate(problem: UnconstrainedFeatures, dual: Float[Array, "N K"]) -> Float[Array, ""]:
    """Σ_i ℓ*(u_i): −entropy of u + y for cross-entropy, ½‖u‖² + ⟨u, y⟩ for squared error."""
    targets = membership(problem.labels, problem.num_classes).astype(dual.dtype)
    if problem.loss.is_squared_error:
        return jnp.sum(dual**2 / 2 + dual * targets)
    # Rounding errors may leave a probability below 0, whose logarithm would be NaN.
    probabilities = jnp.maximum(dual + targets, 0)
    # p log p, with log1p at the label, where p is close to 1 and log p would lose its digits.
    logs = jnp.where(targets > 0, jnp.log1p(jnp.maximum(dual, -1)), jnp.log(probabilities))
    return jnp.sum(jnp.where(probabilities > 0, probabilities * logs, 0))


def _feasible_for_bias(
    problem: UnconstrainedFeatures, residual: Float[Array, "N K"]
) -> Float[Array, "N K"]:
    """A dual point near the residual whose sums over samples are 0 if the bias is not penalised."""
    if not bias_is_free(problem):
        return residual
    if problem.loss.is_squared_error:
        return residual - jnp.mean(residual, axis=0, keepdims=True)
    targets = membership(problem.labels, problem.num_classes).astype(residual.dtype)
    sizes = jnp.asarray(np.array(problem.class_sizes), residual.dtype)
    # The residual is P − Y, with the probabilities P and the one-hot labels Y. It is replaced by
    # P' − Y with P' = (1 − β)P + β1qᵀ. The sums of 0 determine q, and β is the least number for
    # which q >= 0, so that the rows of P' are probabilities.
    excess = jnp.max(jnp.sum(residual, axis=0) / sizes)
    share = excess / (1 + excess)
    common = (share * sizes - (1 - share) * jnp.sum(residual, axis=0)) / problem.num_samples
    return (1 - share) * residual + common[None] - share * targets
