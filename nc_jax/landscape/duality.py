"""Global optimality, proved for one state: the convex counterpart of unconstrained features.

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
from ..losses import CrossEntropy, SquaredError, has_formulas_of
from ..precision import matmul, widened
from ..problems import UnconstrainedFeatures, check_shapes, check_unconstrained
from ..state import LastLayer
from .symmetries import bias_is_free


class GlobalCertificate(eqx.Module):
    """A lower bound on the loss of every state, from one state.

    Attributes:
        spectral_norm: ‖∂L/∂Z‖₂, the largest singular value of the residual.
        threshold: c = √(λ_W λ_H), or on the sphere −λ (0 where that is negative), with
            ∇L = λ(W, H) + tangential part. A critical point is a global minimum if
            spectral_norm <= threshold, and for d >= K−1 under cross-entropy only then.
        lower_bound: no state (of this sphere) has a smaller loss.
        gap: loss of the state minus that; 0 proves it a global minimum, a positive one proves
            nothing but that no state is lower by more. Hold it against the loss itself, which may
            be tiny.

    Bound and gap are NaN where a loss of cross-entropy has underflowed to 0, which it never is.
    """

    spectral_norm: Float[Array, "*batch"]
    threshold: Float[Array, "*batch"]
    lower_bound: Float[Array, "*batch"]
    gap: Float[Array, "*batch"]

    def __repr__(self) -> str:
        return summary(self)

    def holds(self, tolerance: float) -> Bool[Array, "*batch"]:
        """Whether no state is lower by more than this, in units of the loss; False for NaN."""
        return self.gap <= tolerance


@jax.debug_nans(False)  # Some of its results are NaN where there is none.
@eqx.filter_jit
def global_certificate(
    problem: UnconstrainedFeatures, state: LastLayer, on_sphere: bool = False
) -> GlobalCertificate:
    """Bound the loss of all states from below by the dual point U = ∂L/∂Z of this one.

    U is scaled down to ‖U‖₂ <= c where it is not; with an unpenalised bias its sums over the
    samples are first brought to 0, by the least shift that leaves probabilities probabilities.
    Holds for any state and classes of any size, and is tight exactly at the minima of the convex
    problem, which d >= K−1 puts within reach.

    Args: `on_sphere` compares with the states of the same ‖W‖² + ‖H‖² (Ji, theorem 3.3). A λ_b of 0
    is to be a number: given as an array it bounds nothing (−∞).

    Raises: ValueError for losses other than cross-entropy and squared error, and on the sphere for
    a problem with weight decay.

    Example: `global_certificate(problem, state).holds(1e-10)`.
    """
    check_unconstrained(problem)
    if not any(has_formulas_of(problem.loss, kind) for kind in (CrossEntropy, SquaredError)):
        raise ValueError(
            f"problem has {problem.loss}: the dual is known for CrossEntropy() and SquaredError()."
        )
    check_shapes(problem, state, "state")
    state = widened(state)
    decay = problem.weight_decay
    if on_sphere and not decay.absent:
        raise ValueError(
            "on_sphere: the problem has weight decay; leave on_sphere out, or the decay."
        )
    residual = problem.loss.gradient(state.logits(), problem.labels)
    dual = _feasible_for_bias(problem, residual)
    scale = problem.loss_scale
    plain_norm, dual_norm = (scale * top_singular_pair(part)[0] for part in (residual, dual))
    if on_sphere:
        product = matmul(state.features, state.classifier.T)  # logits without the bias
        multiplier = 2 * scale * jnp.sum(residual * product) / state.squared_norm()
        threshold = jnp.maximum(-multiplier, 0)
        bound = -scale * _conjugate(problem, dual) - state.squared_norm() / 2 * dual_norm
    else:
        threshold = jnp.sqrt(jnp.asarray(decay.classifier * decay.features, residual.dtype))
        dual = dual * jnp.minimum(1, threshold / jnp.where(dual_norm > 0, dual_norm, 1))
        bound = -scale * _conjugate(problem, dual)
        if problem.bias and not bias_is_free(problem):
            # min over b of λ_b/2 ‖b‖² + ⟨ΣU, b⟩.
            squared = jnp.sum((scale * jnp.sum(dual, axis=0)) ** 2)
            bound -= squared / (2 * jnp.asarray(decay.bias, bound.dtype))
    objective = problem.objective(state)
    if has_formulas_of(problem.loss, CrossEntropy):
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
    # In units of the largest entry, since squares underflow long before the residual does.
    largest = jnp.max(jnp.abs(residual))
    unit = residual / jnp.where(largest > 0, largest, 1)
    squared, vectors = jnp.linalg.eigh(matmul(unit.T, unit))
    sigma, left = jnp.sqrt(jnp.maximum(squared[-1], 0)), vectors[:, -1]
    return largest * sigma, left, matmul(unit, left) / jnp.where(sigma > 0, sigma, 1)


def _conjugate(problem: UnconstrainedFeatures, dual: Float[Array, "N K"]) -> Float[Array, ""]:
    """Σ_i ℓ*(u_i): −entropy of u + y for cross-entropy, ½‖u‖² + ⟨u, y⟩ for squared error."""
    targets = membership(problem.labels, problem.num_classes).astype(dual.dtype)
    if has_formulas_of(problem.loss, SquaredError):
        return jnp.sum(dual**2 / 2 + dual * targets)
    probabilities = jnp.maximum(dual + targets, 0)
    # p log p, with log1p at the label, where p is near 1.
    logs = jnp.where(targets > 0, jnp.log1p(jnp.maximum(dual, -1)), jnp.log(probabilities))
    return jnp.sum(jnp.where(probabilities > 0, probabilities * logs, 0))


def _feasible_for_bias(
    problem: UnconstrainedFeatures, residual: Float[Array, "N K"]
) -> Float[Array, "N K"]:
    """A dual point near the residual whose sums over samples are 0 if the bias is not penalised."""
    if not bias_is_free(problem):
        return residual
    if has_formulas_of(problem.loss, SquaredError):
        return residual - jnp.mean(residual, axis=0, keepdims=True)
    targets = membership(problem.labels, problem.num_classes).astype(residual.dtype)
    sizes = jnp.asarray(np.array(problem.class_sizes), residual.dtype)
    # P' = (1 − β)P + β1qᵀ with the least β for which q, fixed by the column sums, is >= 0.
    excess = jnp.max(jnp.sum(residual, axis=0) / sizes)
    share = excess / (1 + excess)
    common = (share * sizes - (1 - share) * jnp.sum(residual, axis=0)) / problem.num_samples
    return (1 - share) * residual + common[None] - share * targets
