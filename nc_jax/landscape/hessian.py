"""Hessians of an objective: products, dense matrices, and operators on flat vectors."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import ArrayLike, Float, PyTree

from ..precision import widened
from ..problems import AbstractProblem
from .curvature import AbstractCurvature
from .domains import check_direction, curvature_of
from .lanczos import Vector, VectorMap


@eqx.filter_jit
def hessian_vector_product(
    problem: AbstractProblem | AbstractCurvature,
    state: PyTree,
    direction: PyTree,
    *,
    log_scale: Float[ArrayLike, ""] = 0.0,
) -> PyTree:
    """∇²L(x)·D; of `OnSphere(problem)` the Riemannian Hessian; of a curvature its product.

    The memory is that of a few states. States of half precision are converted to float32, here and
    in all of `nc_jax.landscape`.

    Args: `log_scale` s for e^s L. Returns a tree like the state.

    Raises: ValueError for a state or a direction of another shape, a problem whose flow is not −∇L
    without constraints, or a sphere with a state that is no `LastLayer`.

    Example: at the origin of Ji's model the Hessian maps (H, W) to minus (W⊗1ₙ, class sums of H).

        >>> problem = nc.ulpm(2, 1, 1)
        >>> origin = nc.LastLayer(jnp.zeros((2, 1)), jnp.zeros((2, 1)))
        >>> along = nc.LastLayer(jnp.array([[1.0], [-1.0]]), jnp.zeros((2, 1)))
        >>> nc.landscape.hessian_vector_product(problem, origin, along).classifier.tolist()
        [[-1.0], [1.0]]
    """
    curvature = curvature_of(problem)
    curvature.check_state(state)
    check_direction(state, direction)
    state, direction = widened((state, direction))
    return curvature.hessian(state, log_scale)(direction)


@eqx.filter_jit
def dense_hessian(
    problem: AbstractProblem | AbstractCurvature,
    state: PyTree,
    *,
    log_scale: Float[ArrayLike, ""] = 0.0,
) -> Float[jax.Array, "n n"]:
    """The Hessian as a symmetric matrix, in the order of `jax.flatten_util.ravel_pytree(state)`.

    The order is features, classifier, bias, each row by row. On a sphere the matrix has one more
    eigenvalue 0, along the state. For states of up to some thousand numbers n.

    Args and errors: as `hessian_vector_product`.

    Example:

        >>> origin = nc.LastLayer(jnp.zeros((2, 1)), jnp.zeros((2, 1)))
        >>> hessian = nc.landscape.dense_hessian(nc.ulpm(2, 1, 1), origin)
        >>> (np.linalg.eigvalsh(hessian).round(6) + 0.0).tolist()
        [-1.0, 0.0, 0.0, 1.0]
    """
    curvature = curvature_of(problem)
    curvature.check_state(state)
    return dense_matrix(curvature, widened(state), log_scale)


def dense_matrix(
    curvature: AbstractCurvature, state: PyTree, log_scale: Float[ArrayLike, ""]
) -> Float[jax.Array, "n n"]:
    """`dense_hessian` at a state that is checked and in a dtype to compute in."""
    return matrix_of(flat_hessian(curvature, state, log_scale)[0], state)


def matrix_of(apply: VectorMap, state: PyTree) -> Float[jax.Array, "n n"]:
    """The matrix of a symmetric map of flat vectors of the size and dtype of a state."""
    flat, _ = ravel_pytree(state)
    rows = jax.vmap(apply)(jnp.eye(flat.size, dtype=flat.dtype))
    # The products are symmetric to rounding only, and LAPACK would read one triangle of them.
    return (rows + rows.T) / 2


def flat_hessian(
    curvature: AbstractCurvature, state: PyTree, log_scale: Float[ArrayLike, ""]
) -> tuple[VectorMap, VectorMap]:
    """The Hessian on flat vectors, and the projection onto the subspace on which it acts."""
    unravel = ravel_pytree(state)[1]
    product = curvature.hessian(state, log_scale)

    def apply(vector: Vector) -> Vector:
        return ravel_pytree(product(unravel(vector)))[0]

    def project(vector: Vector) -> Vector:
        if curvature.codimension == 0:
            return vector  # The general case below would add operations that change nothing.
        return ravel_pytree(curvature.project(state, unravel(vector)))[0]

    return apply, project
