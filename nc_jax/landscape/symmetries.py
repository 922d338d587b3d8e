"""Directions along which a problem cannot change: the tangent space of its symmetry group.

Z = WH is the same for (WQᵀ, QH) with any rotation Q of feature space. The orbit's tangent space
{(WA, HA): A skew}, in rows, lies in the kernel of every Hessian at a critical point; that many
zero eigenvalues say nothing of degeneracy. Without weight decay any invertible Q will do.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..losses import CrossEntropy, has_formulas_of
from ..precision import matmul, widened
from ..problems import (
    AbstractProblem,
    UnconstrainedFeatures,
    check_like,
    check_shapes,
    is_unconstrained,
)
from ..state import LastLayer

# Singular values of the state under this share of the largest count as zero.
_RANK = 1e-6


def project_onto_symmetries(
    problem: AbstractProblem, state: PyTree, direction: PyTree, on_sphere: bool = False
) -> PyTree:
    """Orthogonal projection onto the tangent space of the symmetry orbit through a state.

    That of rotations of feature space; of all invertible maps where there is no weight decay and no
    sphere; and of a bias along 1 under cross-entropy with λ_b = 0. The least-squares problem for A
    is a Sylvester equation, diagonal in the eigenvectors of WᵀW and HHᵀ: no basis of the orbit's
    d(d−1)/2 directions is formed.

    For problems that are no `UnconstrainedFeatures` nothing is known, and the result is zero.

    Raises: ValueError for a state or a direction of another shape.

    Example: `project_onto_symmetries(problem, state, direction)`.
    """
    check_shapes(problem, state, "state")
    check_like(state, direction, "direction", "the state", "give one for each of its arrays.")
    if not is_unconstrained(problem):
        return jax.tree.map(jnp.zeros_like, direction)
    state, direction = widened((state, direction))
    spectrum = _OrbitSpectrum(problem, state, on_sphere)
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
    bias = direction.bias
    if bias is not None:
        bias = jnp.full_like(bias, jnp.mean(bias) if _bias_shifts(problem) else 0)
    return LastLayer(
        features=matmul(state.features, generator),
        classifier=matmul(state.classifier, on_classifier),
        bias=bias,
    )


def symmetry_dimension(
    problem: AbstractProblem, state: PyTree, on_sphere: bool = False
) -> Int[Array, ""]:
    """Dimension of the orbit's tangent space, the rank of that projection.

    r(2d − r − 1)/2 under rotations for a state of rank r, plus 1 for a free bias: (K−1)(2d−K)/2 at
    Zhu's minimum. Singular values under 1e-6 of the largest (in float32
    √(10 d eps)) count as zero.
    """
    check_shapes(problem, state, "state")
    if not is_unconstrained(problem):
        return jnp.array(0)
    spectrum = _OrbitSpectrum(problem, state, on_sphere)
    moved = jnp.triu(spectrum.moved, 1) if spectrum.rigid else spectrum.moved
    return jnp.sum(moved) + int(_bias_shifts(problem))


class _OrbitSpectrum:
    """What the generators do to a state, in the eigenvectors of its Gram matrices."""

    def __init__(self, problem: UnconstrainedFeatures, state: LastLayer, on_sphere: bool):
        state = widened(state)
        self.rigid = on_sphere or not problem.weight_decay.absent
        of_features = matmul(state.features.T, state.features)
        of_classifier = matmul(state.classifier.T, state.classifier)
        if self.rigid:
            of_features = of_classifier = of_features + of_classifier
        left, self.left = jnp.linalg.eigh(of_features)
        right, self.right = jnp.linalg.eigh(of_classifier)
        self.stretch = left[:, None] + right[None]
        largest = jnp.maximum(left[-1], right[-1])
        # Gram matrices know squares to eps only, which in float32 is the coarser of the two.
        share = max(_RANK**2, 10 * len(left) * float(jnp.finfo(left.dtype).eps))
        self.moved: Bool[Array, "d d"] = self.stretch > share * largest

    def solve(self, target: Float[Array, "d d"]) -> Float[Array, "d d"]:
        """The least-norm A with HᵀH A + A WᵀW = target, or G in the place of both."""
        rotated = matmul(matmul(self.left.T, target), self.right)
        solved = jnp.where(self.moved, rotated / jnp.where(self.moved, self.stretch, 1), 0)
        return matmul(matmul(self.left, solved), self.right.T)


def bias_is_free(problem: UnconstrainedFeatures) -> bool:
    """Whether there is a bias, known not to be penalised."""
    decay = problem.weight_decay.bias
    return problem.bias and isinstance(decay, float) and decay == 0


def _bias_shifts(problem: UnconstrainedFeatures) -> bool:
    """Whether adding a constant to the bias changes nothing."""
    return bias_is_free(problem) and has_formulas_of(problem.loss, CrossEntropy)
