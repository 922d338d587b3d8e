"""KKT residuals of a rescaled state in Ji's minimum-norm separation problem (theorem 3.2, app. B).

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
from ..measures import gamma_tilde
from ..precision import widened
from ..preconditions import check_homogeneous
from ..problems import UnconstrainedFeatures, check_shapes
from ..state import LastLayer
from .domains import project_onto_tangent


class KKTCertificate(eqx.Module):
    """A feasible point of (3.1) with multipliers, and its residuals in the KKT conditions.

    Attributes:
        point: θ/√q_min, which fulfils all constraints s >= 1, one of them with equality.
        multipliers: (N, K) λ_kij >= 0, zero at the label.
        epsilon: ‖θ − Σ λ ∇s‖ at the point.
        delta: Σ λ (s − 1) at the point, an upper bound of every term.
        epsilon_bound, delta_bound: upper bounds of lemma B.1, √(2(1−β)/γ̃) and
            KN(K−1)/(2e γ̃ q_min), with β = cos(θ, −∇L); infinite unless the summed L < log 2.

    All are infinite, and point and multipliers NaN, where a sample is not separated (q_min <= 0).
    Under vmap every array gains leading axes.

    Example: at collapse all multipliers of wrong classes are 1/(K√n).

        >>> problem = nc.ulpm(3, 4, 4)
        >>> state = nc.exact.collapsed_state(problem, gap=1.0)
        >>> found = nc.landscape.kkt_certificate(problem, state)
        >>> np.asarray(found.multipliers[0]).round(6).tolist()
        [0.0, 0.166667, 0.166667]
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


@jax.debug_nans(False)  # NaN is a result: a state that separates no classes has no point.
@eqx.filter_jit
def kkt_certificate(problem: UnconstrainedFeatures, state: LastLayer) -> KKTCertificate:
    """The certificate of Ji's lemma B.1, with the multipliers λ_kij = (ρ/‖∇L‖) w_kij.

    w_kij = e^(−s_kij)/(1 + Σ_l e^(−s_kil)) is the probability of the wrong class j. Weights and
    gradient are formed at a common scale in log space, so that states whose loss has underflowed
    have a certificate too. Along the flow both ε and δ tend to 0 (theorem 3.2), ε slowly: 1 − β is
    of size 1/log t.

    Raises: ValueError for a loss other than cross-entropy, or a problem with bias or weight decay.

    Example: a collapsed state is a KKT point, also where its loss has underflowed.

        >>> problem = nc.ulpm(3, 4, 2)
        >>> state = nc.exact.collapsed_state(problem, gap=1e4)
        >>> found = nc.landscape.kkt_certificate(problem, state)
        >>> bool(found.holds(epsilon=1e-10, delta=1e-10))
        True
    """
    check_homogeneous(problem)
    check_shapes(problem, state, name="state")
    state = widened(state)
    logits, labels = state.logits(), problem.labels
    at_label, others = split_at_label(logits, labels)
    margins = at_label[:, None] - others  # s_kij, infinite at the label
    smallest = jnp.min(margins)
    # Weights and gradient have the common factor e^q_min, so that they do not underflow. It cancels
    # in λ.
    residual = problem.loss.scaled_gradient(logits, labels, smallest)
    descent = state.pull_back(-residual)
    squared_norm = state.squared_norm()
    ratio = jnp.sqrt(squared_norm) / optax.tree.norm(descent)  # ρ/‖∇L‖
    multipliers = ratio * jnp.where(membership(labels, problem.num_classes), 0, residual)

    root = jnp.sqrt(jnp.where(smallest > 0, smallest, jnp.nan))
    point = LastLayer(state.features / root, state.classifier / root)
    # θ − Σ λ ∇s, where Σ λ ∇s is minus the pull-back of the residuals.
    stationary = optax.tree.add_scale(point, ratio, point.pull_back(residual))
    # At the label the margin is infinite and λ is 0, whose product would be NaN.
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
    """1 − β, β = cos(θ, −∇L), from the tangential part, so that it is accurate for β near 1."""
    tangential = project_onto_tangent(state, descent)
    squared_sine = optax.tree.norm(tangential, squared=True) / optax.tree.norm(
        descent, squared=True
    )
    # 1 − cos = sin²/(1 + cos). The difference itself would cancel for β near 1.
    cosine = optax.tree.vdot(state, descent) / (
        jnp.sqrt(state.squared_norm()) * optax.tree.norm(descent)
    )
    return jnp.where(cosine > 0, squared_sine / (1 + cosine), 1 - cosine)
