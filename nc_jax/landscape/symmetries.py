"""Directions along which the objective is constant: the tangent space of the symmetry orbit.

Z = WH is the same for (WQᵀ, QH) with any rotation Q of feature space. The tangent space of the
orbit, {(WA, HA): A skew} in rows, lies in the kernel of the Hessian at every critical point. The
zero eigenvalues in these directions are no sign of degeneracy. Without weight decay, and off a
sphere, every invertible map of feature space is a symmetry: (W A⁻ᵀ, HA) in rows.
"""

from typing import TypeGuard

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..precision import matmul, widened
from ..preconditions import bias_shifts_freely
from ..problems import (
    AbstractProblem,
    DeepUnconstrainedFeatures,
    check_shapes,
    has_free_features,
    is_normalized,
)
from ..state import LastLayer
from .domains import AbstractDomain, OnSphere, check_direction, domain_of
from .layer_symmetries import LayerOrbit

# Singular values of the state below this share of the largest count as zero.
_RANK = 1e-6


def project_onto_symmetries(
    problem: AbstractProblem | OnSphere, state: PyTree, direction: PyTree
) -> PyTree:
    """Orthogonal projection onto the tangent space of the symmetry orbit through a state.

    The symmetries are the rotations of feature space or, without weight decay and off a sphere, all
    its invertible maps. Under cross-entropy with λ_b = 0 there is one more: the same number added
    to every entry of the bias. The least-squares problem for A is a Sylvester equation, diagonal in
    the eigenvectors of WᵀW and HᵀH, so that no basis of the d(d−1)/2 directions is formed.

    For `NormalizedFeatures` the symmetries are the rotations. For `DeepUnconstrainedFeatures` they
    are such maps of the features and of every hidden layer, without an activation; with one, of the
    features alone. For other problems the result is zero.

    Args: `problem`, or `OnSphere(problem)`; `direction` a tree like the state.

    Raises: ValueError for a state or a direction of another shape.

    Example: the derivative of a rotation is equal to its projection.

        >>> problem = nc.zhu(3, 2, 1, 5e-3)
        >>> state, skew = problem.init(jax.random.key(0)), jnp.array([[0.0, 1.0], [-1.0, 0.0]])
        >>> turn = nc.LastLayer(state.features @ skew, state.classifier @ skew, 0 * state.bias)
        >>> found = nc.landscape.project_onto_symmetries(problem, state, turn)
        >>> bool(jnp.allclose(found.features, turn.features))
        True
    """
    domain = domain_of(problem)
    check_shapes(domain.problem, state, name="state")
    check_direction(state, direction)
    return onto_orbit(domain, state, direction)


def onto_orbit(domain: AbstractDomain, state: PyTree, direction: PyTree) -> PyTree:
    """`project_onto_symmetries` of a state and a direction that are checked."""
    problem = domain.problem
    if _is_deep(problem):
        return LayerOrbit(problem, state).project(direction)
    if not _has_known_symmetries(problem):
        return jax.tree.map(jnp.zeros_like, direction)
    state, direction = widened((state, direction))
    spectrum = _OrbitSpectrum(domain, state)
    against_features = matmul(state.features.T, direction.features)
    against_classifier = matmul(state.classifier.T, direction.classifier)
    if spectrum.rigid:
        # min over skew A of ‖dH − HA‖² + ‖dW − WA‖²: GA + AG = X − Xᵀ, G = HᵀH + WᵀW.
        asymmetry = against_features + against_classifier
        generator = spectrum.solve(asymmetry - asymmetry.T)
        on_classifier = generator
    else:
        # min over A of ‖dH − HA‖² + ‖dW + WAᵀ‖²: HᵀH A + A WᵀW = HᵀdH − dWᵀW.
        generator = spectrum.solve(against_features - against_classifier.T)
        on_classifier = -generator.T
    # The bias has the symmetry of a common shift, or none: its mean in every entry, or 0.
    bias = direction.bias
    if bias is not None:
        bias = jnp.full_like(bias, jnp.mean(bias) if _bias_shifts(problem) else 0)
    return LastLayer(
        features=matmul(state.features, generator),
        classifier=matmul(state.classifier, on_classifier),
        bias=bias,
    )


def symmetry_dimension(problem: AbstractProblem | OnSphere, state: PyTree) -> Int[Array, ""]:
    """Dimension of the symmetry orbit, the rank of `project_onto_symmetries`.

    Under rotations it is r(2d − r − 1)/2 for a state of rank r, plus 1 for a free bias:
    (K−1)(2d−K)/2 at Zhu's minimum. Singular values below 1e-6 of the largest (in float32
    √(10 d eps)) count as zero.

    Raises: ValueError for a state of another shape.

    Example:

        >>> problem = nc.zhu(3, 4, 2, 5e-3)
        >>> state = nc.exact.regularized_minimizer(problem)
        >>> int(nc.landscape.symmetry_dimension(problem, state))
        5
    """
    domain = domain_of(problem)
    check_shapes(domain.problem, state, name="state")
    return orbit_dimension(domain, state)


def orbit_dimension(domain: AbstractDomain, state: PyTree) -> Int[Array, ""]:
    """`symmetry_dimension` of a state that is checked."""
    problem = domain.problem
    if _is_deep(problem):
        return LayerOrbit(problem, state).dimension
    if not _has_known_symmetries(problem):
        return jnp.array(0)
    spectrum = _OrbitSpectrum(domain, state)
    # A skew generator has free entries above the diagonal only.
    moved = jnp.triu(spectrum.moved, 1) if spectrum.rigid else spectrum.moved
    return jnp.sum(moved) + int(_bias_shifts(problem))


def _is_deep(problem: AbstractProblem) -> TypeGuard[DeepUnconstrainedFeatures]:
    return isinstance(problem, DeepUnconstrainedFeatures) and problem.is_deep


def _has_known_symmetries(problem: AbstractProblem) -> bool:
    return has_free_features(problem) or is_normalized(problem)


def _bias_shifts(problem: AbstractProblem) -> bool:
    return has_free_features(problem) and bias_shifts_freely(problem)


class _OrbitSpectrum:
    """How far generators of symmetries move a state, in the eigenvectors of its Gram matrices.

    Attributes:
        rigid: whether rotations are the only maps of feature space that do not change L.
        stretch: (d, d) squared length by which each generator moves the state.
        moved: (d, d) where `stretch` is above rounding.
    """

    def __init__(self, domain: AbstractDomain, state: LastLayer):
        state = widened(state)
        problem = domain.problem
        decayed = has_free_features(problem) and not problem.weight_decay.absent
        self.rigid = domain.fixes_norm or decayed
        of_features = matmul(state.features.T, state.features)
        of_classifier = matmul(state.classifier.T, state.classifier)
        if self.rigid:
            of_features = of_classifier = of_features + of_classifier
        left, self.left = jnp.linalg.eigh(of_features)
        right, self.right = jnp.linalg.eigh(of_classifier)
        self.stretch = left[:, None] + right[None]
        largest = jnp.maximum(left[-1], right[-1])
        # Eigenvalues of Gram matrices are squared singular values, with rounding errors of some
        # eps. In float32 these errors are above _RANK².
        share = max(_RANK**2, 10 * len(left) * float(jnp.finfo(left.dtype).eps))
        self.moved: Bool[Array, "d d"] = self.stretch > share * largest

    def solve(self, target: Float[Array, "d d"]) -> Float[Array, "d d"]:
        """The least-norm A with HᵀH A + A WᵀW = target, with G for both Gram matrices if rigid."""
        rotated = matmul(matmul(self.left.T, target), self.right)
        solved = jnp.where(self.moved, rotated / jnp.where(self.moved, self.stretch, 1), 0)
        return matmul(matmul(self.left, solved), self.right.T)
