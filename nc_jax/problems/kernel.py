"""Free features whose flow is preconditioned by a constant kernel of the samples."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ..checks import check_kind
from ..losses import CrossEntropy, Loss
from ..measures import Invariant, classifier_sum, separation_of
from ..precision import matmul, widened
from ..state import LastLayer
from .kernels import AbstractKernel
from .unconstrained import UnconstrainedFeatures


class KernelFeatures(UnconstrainedFeatures):
    """Flow H' = −Θ ∂L/∂H, W' = −∂L/∂W, b' = −∂L/∂b with a constant kernel Θ of the samples.

    L is the objective of `UnconstrainedFeatures` without weight decay. In a network with the
    features h_i of sample i, Θ_ij stands for the products of their derivatives by the weights below
    the last layer, the neural tangent kernel of the features (Seleznova et al. 2023). With
    H = Θ^½A the flow is minus the gradient of L in the coordinates (A, W). Hence WᵀW − HᵀΘ⁻¹H is
    conserved for every loss of the logits. Without the kernel, Θ = I, this is the balance of
    `UnconstrainedFeatures`.

    The flow is no gradient flow in the coordinates (H, W) of the state, so that functions of
    `nc_jax.landscape` refuse it. `gradient` is (Θ ∂L/∂H, ∂L/∂W, ∂L/∂b), which descent follows too.
    Samples are sorted by class. Rows of H change within the range of Θ only: with a singular kernel
    a part of the start is constant, and there is no invariant of the features.

    Args:
        class_sizes, feature_dim, loss, reduction, bias: as for `UnconstrainedFeatures`.
        kernel: Θ, one of `problems.BlockKernel`, `ClassKernel` and `LinearOperator`.

    Raises: as `UnconstrainedFeatures`, and ValueError for a kernel of another kind, of other sizes,
    or with a negative eigenvalue.

    Example: a kernel that is larger within classes than across them.

        >>> kernel = nc.problems.BlockKernel(3.0, 1.2, 0.4)
        >>> problem = nc.KernelFeatures((3, 3, 3), 4, kernel=kernel)
        >>> flow = nc.gradient_flow(problem, problem.init(jax.random.key(0)), nc.log_times(20, 3))
        >>> bool(flow.observables["kernel_balance_drift"][-1] < 1e-6)
        True
    """

    kernel: AbstractKernel = eqx.field(kw_only=True)
    # Decided when the object is created, since under jit the numbers of the kernel are unknown.
    has_inverse: bool = eqx.field(static=True, kw_only=True)

    # A claim: the objective and its flow are those of the docstring of this class.
    has_kernel_features: ClassVar[bool] = True
    has_free_features: ClassVar[bool] = False

    _claims: ClassVar[tuple[str, ...]] = ("has_free_features", "has_kernel_features")

    def __init__(
        self,
        class_sizes: Sequence[int],
        feature_dim: int,
        *,
        kernel: AbstractKernel,
        loss: Loss = CrossEntropy(),
        reduction: Literal["mean", "sum"] = "mean",
        bias: bool = False,
    ):
        super().__init__(class_sizes, feature_dim, loss=loss, reduction=reduction, bias=bias)
        check_kind("kernel", kernel, AbstractKernel, "problems.BlockKernel(3.0, 1.2, 0.4)")
        self.kernel = kernel
        self.has_inverse = kernel.check(self.class_sizes)

    def gradient(self, state: LastLayer) -> LastLayer:
        """(Θ ∂L/∂H, ∂L/∂W, ∂L/∂b), the gradient that flow and descent follow."""
        return self._with_kernel(super().gradient(state))

    def scaled_descent(self, state: LastLayer, log_scale: Float[ArrayLike, ""]) -> LastLayer:
        """e^log_scale · (−Θ ∂L/∂H, −∂L/∂W, −∂L/∂b), of order 1 however small ∂L/∂Z is."""
        return self._with_kernel(super().scaled_descent(state, log_scale))

    def scaled_descent_lanes(self, states: LastLayer, log_scale: Float[ArrayLike, ""]) -> LastLayer:
        """`scaled_descent` of S states, the last axis, as for `UnconstrainedFeatures`."""
        if not (self.has_kernel_features and self.sums_over_lanes):
            return super().scaled_descent_lanes(states, log_scale)
        return self._with_kernel(self.descent_of_lanes(states, log_scale))

    def solve(self, rows: Float[Array, "N *axes"]) -> Float[Array, "N *axes"]:
        """Θ⁻¹ times rows of samples.

        Raises: ValueError for a kernel without an inverse.

        Example:

            >>> kernel = nc.problems.BlockKernel(3.0, 1.0, 1.0)
            >>> problem = nc.KernelFeatures((1, 1), 1, kernel=kernel)
            >>> problem.solve(jnp.array([[2.0], [-2.0]])).tolist()
            [[1.0], [-1.0]]
        """
        if not self.has_inverse:
            raise ValueError(
                "kernel has no inverse: give a positive definite one, such as BlockKernel(kd, kc, "
                "kn) with kd > kc, or a LinearOperator with a solve."
            )
        return self.kernel.solution(rows, self.class_sizes)

    def observe(self, state: LastLayer) -> dict[str, Float[Array, ""]]:
        """As `UnconstrainedFeatures.observe`, with what is known of the flow with a kernel.

        A kernel with an inverse adds `kernel_balance_norm` = ‖WᵀW − HᵀΘ⁻¹H‖_F and
        `kernel_alignment`, the cosine of these two matrices (Seleznova et al. 2023). Cross-entropy
        without bias then adds `kernel_separation_value`, half of ‖W‖² + tr HᵀΘ⁻¹H over the least
        margin.
        """
        observed = super().observe(state)
        if not (is_kernel_features(self) and self.has_inverse):
            return observed
        classifier, features = self._grams(state)
        product = jnp.sum(classifier * features)
        norms = jnp.linalg.norm(classifier) * jnp.linalg.norm(features)
        observed["kernel_alignment"] = product / norms
        if self.loss.is_cross_entropy and not self.bias:
            squared_norm = jnp.trace(classifier) + jnp.trace(features)
            margin = observed["margin_min"]
            observed["kernel_separation_value"] = separation_of(squared_norm, margin)
        return observed

    def invariants(self, state: LastLayer) -> dict[str, Invariant]:
        """`kernel_balance` WᵀW − HᵀΘ⁻¹H, and `classifier_sum` for a `shift_invariant` loss."""
        invariants = {}
        if not is_kernel_features(self):
            return invariants
        if self.has_inverse:
            classifier, features = self._grams(state)
            scale = jnp.trace(classifier) + jnp.trace(features)
            invariants["kernel_balance"] = Invariant(classifier - features, scale)
        if self.loss.shift_invariant:
            invariants["classifier_sum"] = classifier_sum(state)
        return invariants

    @property
    def is_gradient_flow(self) -> bool:
        """False: the flow is a gradient flow in (A, W) with H = Θ^½A, and not in (H, W)."""
        return False

    def _grams(self, state: LastLayer) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
        """WᵀW and HᵀΘ⁻¹H."""
        state = widened(state)
        classifier, features = state.classifier, state.features
        return matmul(classifier.T, classifier), matmul(features.T, self.solve(features))

    def _with_kernel(self, gradient: LastLayer) -> LastLayer:
        features = self.kernel.product(gradient.features, self.class_sizes)
        # In the order of the fields of `LastLayer`; axes may be lanes.
        leaves: list[Any] = jax.tree.leaves(gradient)
        return jax.tree.unflatten(jax.tree.structure(gradient), [features, *leaves[1:]])


def is_kernel_features(problem: object) -> TypeGuard[KernelFeatures]:
    """Whether a problem is a `KernelFeatures`, or of a subclass that replaces no formula of it.

    Example:

        >>> from nc_jax.problems import is_kernel_features
        >>> is_kernel_features(nc.ulpm(3, 4, 2))
        False
    """
    return isinstance(problem, KernelFeatures) and problem.has_kernel_features
