"""Extreme eigenpairs of Hessians from Hessian-vector products."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, PyTree

from ..checks import check_integer, check_key, check_number
from ..display import summary
from ..precision import widened
from ..problems import AbstractProblem
from .curvature import AbstractCurvature
from .domains import curvature_of
from .hessian import flat_hessian
from .lanczos import lanczos


class Eigenpairs(eqx.Module):
    """Extreme eigenvalues of a Hessian, with their residuals.

    Attributes:
        values: (m,) the extreme one first.
        vectors: unit eigenvectors, states with leading axis m.
        residuals: (m,) ‖∇²L v − θv‖; the Hessian has an eigenvalue this close to each value.
        norm: largest absolute Ritz value of the search, an estimate of ‖∇²L‖₂ from below.
        converged: whether all residuals fell below the tolerance and a further search, from a
            random direction, found no eigenvalue beyond the last.
        num_products: how many Hessian-vector products were computed.

    Example:

        >>> problem = nc.ulpm(3, 2, 4)
        >>> origin = jax.tree.map(jnp.zeros_like, problem.init(jax.random.key(0)))
        >>> found = nc.landscape.extreme_eigenpairs(problem, origin, num=4)
        >>> bool(found.converged), found.vectors.classifier.shape
        (True, (4, 3, 2))
    """

    values: Float[Array, " m"]
    vectors: PyTree
    residuals: Float[Array, " m"]
    norm: Float[Array, ""]
    converged: Bool[Array, ""]
    num_products: Int[Array, ""]

    def __repr__(self) -> str:
        return summary(self)


def extreme_eigenpairs(
    problem: AbstractProblem | AbstractCurvature,
    state: PyTree,
    *,
    num: int = 1,
    end: Literal["smallest", "largest"] = "smallest",
    log_scale: Float[ArrayLike, ""] = 0.0,
    rtol: float | None = None,
    basis_size: int | None = None,
    max_restarts: int = 300,
    key: Key[Array, ""] | None = None,
) -> Eigenpairs:
    """The `num` smallest or largest eigenvalues of ∇²L at a state, by restarted Lanczos.

    Each vector of the Krylov basis is orthogonalised twice; a full basis is restarted from its best
    Ritz vectors (Wu and Simon 2000), so that memory is that of the basis. Repeated eigenvalues are
    returned with their multiplicity: a converged set is searched again from a random direction.

    Args:
        problem: of `OnSphere(problem)` the Riemannian Hessian, along the tangent space; or a
            curvature, such as `HessianOf(function)` or that of `cnn.curvature_for`.
        state: of the problem.
        num: how many pairs, at most the dimension of the tangent space.
        end: "smallest" or "largest".
        log_scale: s for e^s L.
        rtol: residual to reach, relative to the largest Ritz value; None means 4e-10 in float64 and
            2e-4 in float32 (10 eps^(2/3)). Relative errors of simple eigenvalues are of size rtol².
        basis_size: number of vectors in memory; None means 2 · `num` + 24.
        max_restarts: after which the search ends with `converged` False.
        key: of the random directions; None means `jax.random.key(0)`.

    Raises: ValueError for a state of another shape, or a `num`, `end`, `basis_size` or tolerance
    out of range.

    Example: at the origin of Ji's model the smallest eigenvalue is −√n, K−1 times d.

        >>> problem = nc.ulpm(3, 2, 4)
        >>> origin = jax.tree.map(jnp.zeros_like, problem.init(jax.random.key(0)))
        >>> found = nc.landscape.extreme_eigenpairs(problem, origin, num=4)
        >>> np.asarray(found.values).round(6).tolist()
        [-2.0, -2.0, -2.0, -2.0]
    """
    curvature = curvature_of(problem)
    curvature.check_state(state)
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(state))
    free = size - curvature.codimension
    num = check_integer("num", num, most=free)
    if end not in ("smallest", "largest"):
        raise ValueError(f"end = {end!r}: give 'smallest' or 'largest'.")
    if basis_size is not None:
        # Two more vectors than pairs: the Ritz vector after the last wanted one, which the test of
        # convergence needs, and one to search with.
        basis_size = check_integer("basis_size", basis_size, least=min(num + 2, free))
    # An orthonormal basis has at most as many vectors as the tangent space has dimensions.
    basis_size = min(2 * num + 24 if basis_size is None else basis_size, free)
    max_restarts = check_integer("max_restarts", max_restarts)
    check_number("log_scale", log_scale, scalar=True, signed=True)
    if rtol is not None:
        check_number("rtol", rtol, above_zero=True, scalar=True)
    if key is not None:
        check_key(key)
    # `log_scale` is an array, since Equinox compiles anew for every other Python float.
    return _extreme_eigenpairs(
        curvature, state, num, end == "largest", jnp.asarray(log_scale),
        rtol, basis_size, max_restarts, key,
    )  # fmt: skip


def sharpness(
    problem: AbstractProblem | AbstractCurvature,
    state: PyTree,
    *,
    log_scale: Float[ArrayLike, ""] = 0.0,
    key: Key[Array, ""] | None = None,
) -> Float[Array, ""]:
    """The largest eigenvalue λ_max of ∇²L at a state, to the default tolerance; NaN if not reached.

    Gradient descent at rate η is stable near a minimum while η < 2/λ_max; trainings by full batches
    often end at λ_max ≈ 2/η, the edge of stability (Cohen et al. 2021). `extreme_eigenpairs` gives
    the eigenvector and the residual too.

    Args and errors: as `extreme_eigenpairs`.

    Example: at the origin of Ji's model it is √n.

        >>> problem = nc.ulpm(3, 2, 4)
        >>> origin = jax.tree.map(jnp.zeros_like, problem.init(jax.random.key(0)))
        >>> round(float(nc.landscape.sharpness(problem, origin)), 6)
        2.0
    """
    found = extreme_eigenpairs(problem, state, end="largest", log_scale=log_scale, key=key)
    return jnp.where(found.converged, found.values[0], jnp.nan)


@eqx.filter_jit
def _extreme_eigenpairs(
    curvature: AbstractCurvature,
    state: PyTree,
    num: int,
    largest: bool,
    log_scale: Float[Array, ""],
    rtol: float | None,
    basis_size: int,
    max_restarts: int,
    key: Key[Array, ""] | None,
) -> Eigenpairs:
    state = widened(state)
    flat, unravel = ravel_pytree(state)
    apply, project = flat_hessian(curvature, state, log_scale.astype(flat.dtype))
    # The largest eigenvalues are the smallest of −∇²L.
    sign = -1 if largest else 1
    tolerance = 10 * np.finfo(flat.dtype).eps ** (2 / 3) if rtol is None else rtol
    found = lanczos(
        lambda v: sign * apply(v),
        project,
        flat,
        num=num,
        rtol=float(tolerance),
        basis_size=basis_size,
        max_restarts=max_restarts,
        key=jax.random.key(0) if key is None else key,
    )
    return Eigenpairs(
        values=sign * found.values,
        vectors=jax.vmap(unravel)(found.vectors),
        residuals=found.residuals,
        norm=found.norm,
        converged=found.converged,
        num_products=found.num_products,
    )
