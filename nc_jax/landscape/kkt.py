"""How nearly a state, rescaled, solves Ji's minimum-norm separation problem (theorem 3.2, app. B).

The problem (3.1) is min ½‖W‖² + ½‖H‖² subject to s_kij = (w_k − w_j)·h_ki >= 1. Its KKT conditions
are θ = Σ λ_kij ∇s_kij(θ), s >= 1, λ >= 0 and λ_kij (s_kij − 1) = 0.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from ..display import summary
from ..geometry import membership, split_at_label
from ..losses import CrossEntropy, has_formulas_of
from ..metrics import gamma_tilde
from ..precision import widened
from ..problems import UnconstrainedFeatures, check_shapes, check_unconstrained
from ..state import LastLayer
from .hessian import project_onto_tangent


class KKTCertificate(eqx.Module):
    """A feasible point of (3.1) with multipliers, and by how much it fails to be a KKT point.

    Attributes:
        point: θ/√q_min, which meets all constraints s >= 1, one of them with equality.
        multipliers: (N, K) λ_kij >= 0, zero at the label.
        epsilon: ‖θ − Σ λ ∇s‖ at the point, evaluated from the multipliers.
        delta: Σ λ (s − 1) at the point, evaluated; it bounds every term.
        epsilon_bound, delta_bound: those of lemma B.1, √(2(1−β)/γ̃) and KN(K−1)/(2e γ̃ q_min), with
            β = cos(θ, −∇L); infinite unless L < log 2 (summed).

    All are infinite, and point and multipliers NaN, where a sample is not separated (q_min <= 0).
    Under vmap every array gains leading axes.
    """

    point: LastLayer
    multipliers: Float[Array, "*batch N K"]
    epsilon: Float[Array, "*batch"]
    delta: Float[Array, "*batch"]
    epsilon_bound: Float[Array, "*batch"]
    delta_bound: Float[Array, "*batch"]

    def __repr__(self) -> str:
        return summary(self)

    def holds(self, epsilon: float, delta: float) -> Bool[Array, "*batch"]:
        """Whether the point is an (ε, δ)-KKT point with these multipliers (Ji, definition A.2)."""
        return (self.epsilon <= epsilon) & (self.delta <= delta)


@jax.debug_nans(False)  # Some of its results are NaN where there is none.
@eqx.filter_jit
def kkt_certificate(problem: UnconstrainedFeatures, state: LastLayer) -> KKTCertificate:
    """The certificate of Ji's lemma B.1, with the multipliers λ_kij = (ρ/‖∇L‖) w_kij made explicit.

    w_kij = e^(−s_kij)/(1 + Σ_l e^(−s_kil)) is the probability of the wrong class j. Weights and
    gradient are formed at a common scale in log space, so states whose loss has underflowed are as
    good as others. Along the flow both ε and δ tend to 0 (theorem 3.2), ε slowly: 1 − β is of
    size 1/log t.

    Raises: ValueError for a loss other than cross-entropy, or a problem with bias or weight decay.

    Example: `kkt_certificate(problem, traj.final).holds(0.1, 0.01)`.
    """
    check_homogeneous(problem)
    check_shapes(problem, state, "state")
    state = widened(state)
    logits, labels = state.logits(), problem.labels
    own, others = split_at_label(logits, labels)
    margins = own[:, None] - others  # s_kij, infinite at the label
    smallest = jnp.min(margins)
    # The common factor e^q_min cancels in λ.
    residual = problem.loss.scaled_gradient(logits, labels, smallest)
    descent = state.pull_back(-residual)
    squared_norm = state.squared_norm()
    unit = jnp.sqrt(squared_norm) / optax.tree.norm(descent)
    multipliers = unit * jnp.where(membership(labels, problem.num_classes), 0, residual)

    root = jnp.sqrt(jnp.where(smallest > 0, smallest, jnp.nan))
    point = LastLayer(state.features / root, state.classifier / root)
    stationary = optax.tree.add_scale(point, unit, point.pull_back(residual))
    slack = jnp.where(jnp.isfinite(margins), margins / smallest - 1, 0)

    gamma = gamma_tilde(problem.log_summed_loss(state), squared_norm)
    bounded = (gamma > 0) & (smallest > 0)
    epsilon_bound = jnp.sqrt(2 * one_minus_alignment(state, descent) / gamma)
    pairs = problem.num_samples * problem.num_classes * (problem.num_classes - 1)
    delta_bound = pairs / (2 * math.e * gamma * smallest)

    def or_infinite(known: Bool[Array, ""], value: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.where(known, value, jnp.inf)

    return KKTCertificate(
        point=point,
        multipliers=jnp.where(smallest > 0, multipliers, jnp.nan),
        epsilon=or_infinite(smallest > 0, optax.tree.norm(stationary)),
        delta=or_infinite(smallest > 0, jnp.sum(multipliers * slack)),
        epsilon_bound=or_infinite(bounded, epsilon_bound),
        delta_bound=or_infinite(bounded, delta_bound),
    )


def one_minus_alignment(state: LastLayer, descent: LastLayer) -> Float[Array, ""]:
    """1 − β, β = cos(θ, −∇L), from the tangential part: right where β is 1 to rounding."""
    tangential = project_onto_tangent(state, descent)
    squared_sine = optax.tree.norm(tangential, squared=True) / optax.tree.norm(
        descent, squared=True
    )
    cosine = optax.tree.vdot(state, descent) / (
        jnp.sqrt(state.squared_norm()) * optax.tree.norm(descent)
    )
    return jnp.where(cosine > 0, squared_sine / (1 + cosine), 1 - cosine)


def check_homogeneous(problem: UnconstrainedFeatures) -> None:
    """Refuse what is not cross-entropy of WH alone."""
    check_unconstrained(problem)
    plain = has_formulas_of(problem.loss, CrossEntropy) and problem.weight_decay.absent
    if problem.bias or not plain:
        raise ValueError(
            f"problem has {type(problem.loss).__name__}, bias {problem.bias}, weight decay "
            f"{not problem.weight_decay.absent}: Ji's theorems are of cross-entropy without bias "
            "and decay, nc_jax.ulpm(num_classes, feature_dim, samples_per_class)."
        )
