"""Kinds of points: minimum, strict saddle, degenerate, or not critical."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from ..checks import check_number
from ..display import named, summary
from ..precision import matmul, widened
from ..problems import AbstractProblem, check_shapes
from .domains import AbstractDomain, OnSphere, domain_of
from .hessian import flat_hessian, matrix_of
from .lanczos import Vector, VectorMap, lanczos, safe_norm
from .symmetries import onto_orbit, orbit_dimension

KINDS = ("minimum", "strict saddle", "degenerate", "not critical")
_MINIMUM, _SADDLE, _DEGENERATE, _NOT_CRITICAL = range(4)
# States of more numbers than this are classified by Lanczos, since all eigenvalues of the dense
# matrix would take seconds.
DENSE_LIMIT = 1500


class Classification(eqx.Module):
    """Result of `classify`; under vmap every array gains leading axes.

    Attributes:
        code: index into `KINDS`; `kind` is its name (under jit or vmap use the code).
        gradient_norm: ‖∇L‖, on a sphere the norm of its tangential part.
        eigenvalue: smallest eigenvalue of the Hessian off the symmetry orbit.
        eigenvector: its unit eigenvector.
        residual: ‖∇²L v − θv‖ of this pair (θ, v).
        escape_direction: unit direction that lowers L: the eigenvector at a strict saddle, −∇L
            where the point is not critical, NaN for the other kinds.
        symmetries: dimension of the symmetry orbit, whose zero eigenvalues do not count.
        nullity, index: numbers of zero eigenvalues, those of the orbit included, and of negative
            ones; −1 for states classified by Lanczos, which finds the smallest pair only.
        scale: ‖∇²L‖₂, to which all thresholds are relative.

    Example: fields of a batch have leading axes.

        >>> problem = nc.zhu(3, 2, 2, 5e-3)
        >>> states = jax.vmap(problem.init)(jax.random.split(jax.random.key(0), 2))
        >>> found = jax.vmap(lambda state: nc.landscape.classify(problem, state))(states)
        >>> found.kind.tolist(), found.eigenvalue.shape
        (['not critical', 'not critical'], (2,))
    """

    code: Int[Array, "*batch"]
    gradient_norm: Float[Array, "*batch"]
    eigenvalue: Float[Array, "*batch"]
    eigenvector: PyTree
    residual: Float[Array, "*batch"]
    escape_direction: PyTree
    symmetries: Int[Array, "*batch"]
    nullity: Int[Array, "*batch"]
    index: Int[Array, "*batch"]
    scale: Float[Array, "*batch"]

    def __repr__(self) -> str:
        return summary(self, kind=named(self.code, KINDS), code=None)

    @property
    def kind(self) -> str | np.ndarray:
        """Name of the kind; an array of names for a batch."""
        names = np.array(KINDS)[np.asarray(self.code)]
        return str(names) if names.ndim == 0 else names


class _Smallest(NamedTuple):
    """Smallest eigenpair off the symmetry orbit, and counts of eigenvalues where all are known."""

    value: Float[Array, ""]
    vector: Vector
    residual: Float[Array, ""]
    scale: Float[Array, ""]
    certain: Bool[Array, ""]  # that no eigenvalue is smaller
    nullity: Int[Array, ""]
    num_negative: Int[Array, ""]


@jax.debug_nans(False)  # NaN is a result: there is no escape direction at a minimum.
@eqx.filter_jit
def classify(
    problem: AbstractProblem | OnSphere,
    state: PyTree,
    *,
    log_scale: Float[ArrayLike, ""] = 0.0,
    tolerance: float | None = None,
) -> Classification:
    """Classify a state by its gradient and the smallest eigenvalue of its Hessian.

    With ε the tolerance and σ = ‖∇²L‖₂, a state is *not critical* if ‖∇L‖ > εσ max(‖x‖, 1); else a
    *strict saddle* if the smallest eigenvalue is below −εσ, a *minimum* if the smallest off the
    symmetry orbit is above εσ (nondegenerate, and so isolated up to symmetry), and *degenerate* if
    neither holds: second derivatives cannot decide. Minima that fill more than an orbit, as for the
    square loss without decay, are degenerate in this sense; `global_certificate` can still prove
    them global.

    States of up to 1500 numbers are classified by all eigenvalues of the dense matrix, larger ones
    by Lanczos with the symmetry directions projected out. A search that does not converge within
    its limits, and finds no negative eigenvalue, gives *degenerate*. States with NaN, and on a
    sphere the zero state, are not critical.

    Args:
        problem: of `OnSphere(problem)` the state is classified as a point of ‖W‖² + ‖H‖² = ρ², as
            in Ji's theorems 3.3 and 3.4.
        state: of the problem, whose rows are class by class; `problem_for` sorts the features of a
            network. Half precision is converted to float32.
        log_scale: s for e^s L, for states whose loss underflows.
        tolerance: ε; None means 1e-7 in float64 and 1e-3 in float32.

    Raises: ValueError for a state of another shape, a sphere with a state that is no `LastLayer`, a
    problem whose flow is not −∇L without constraints, or a tolerance that is not above 0.

    Example: the origin of a model with weak decay is a saddle.

        >>> problem = nc.zhu(3, 2, 2, 5e-3)
        >>> origin = jax.tree.map(jnp.zeros_like, problem.init(jax.random.key(0)))
        >>> found = nc.landscape.classify(problem, origin)
        >>> found.kind, int(found.index)
        ('strict saddle', 4)
    """
    domain = domain_of(problem)
    check_shapes(domain.problem, state, name="state")
    if tolerance is not None:
        check_number("tolerance", tolerance, above_zero=True, scalar=True)
    state = widened(state)
    flat, unravel = ravel_pytree(state)
    if tolerance is None:
        tolerance = 1e-7 if flat.dtype == jnp.float64 else 1e-3
    gradient = domain.gradient(state, log_scale)
    symmetries = orbit_dimension(domain, state)
    smallest = _smallest_dense if flat.size <= DENSE_LIMIT else _smallest_by_lanczos
    found = smallest(domain, state, log_scale, tolerance)
    value, threshold = found.value, tolerance * found.scale
    gradient_norm = safe_norm(gradient)
    # False for NaN: such states are not critical.
    critical = gradient_norm <= threshold * jnp.maximum(safe_norm(flat), 1)
    # A Ritz value may be above the smallest eigenvalue by as much as its residual.
    code = jnp.select(
        [~critical, value < -threshold, found.certain & (value - found.residual > threshold)],
        [_NOT_CRITICAL, _SADDLE, _MINIMUM],
        _DEGENERATE,
    )
    # The sign of an eigenvector is arbitrary. It is chosen so that the loss does not increase to
    # first order either, where the gradient is not exactly 0.
    flat_gradient, _ = ravel_pytree(gradient)
    vector = jnp.where(jnp.vdot(found.vector, flat_gradient) > 0, -found.vector, found.vector)
    length = jnp.where(gradient_norm > 0, gradient_norm, 1)
    escape = jnp.select(
        [code == _NOT_CRITICAL, code == _SADDLE], [-flat_gradient / length, vector], jnp.nan
    )
    return Classification(
        code=code,
        gradient_norm=gradient_norm,
        eigenvalue=found.value,
        eigenvector=unravel(vector),
        residual=found.residual,
        escape_direction=unravel(escape),
        symmetries=symmetries,
        nullity=found.nullity,
        index=found.num_negative,
        scale=found.scale,
    )


def _smallest_dense(
    domain: AbstractDomain, state: PyTree, log_scale: Float[ArrayLike, ""], tolerance: float
) -> _Smallest:
    """The smallest eigenpair off the orbit, and counts, from all eigenvalues of the matrix."""
    apply, project = _off_symmetries(domain, state, log_scale)
    hessian = matrix_of(apply, state)
    size = len(hessian)
    projection = jax.vmap(project)(jnp.eye(size, dtype=hessian.dtype))
    excluded = jnp.eye(size, dtype=hessian.dtype) - projection
    # The Frobenius norm is at least ‖∇²L‖₂, so that this shift moves the eigenvalues of the
    # excluded directions to the end of the ascending order.
    shift = 2 * safe_norm(hessian)
    values, vectors = jnp.linalg.eigh(
        matmul(matmul(projection, hessian), projection) + shift * excluded
    )
    symmetries = orbit_dimension(domain, state)
    counted = jnp.arange(size) < size - symmetries - domain.codimension
    scale = jnp.max(jnp.where(counted, jnp.abs(values), 0))
    null = counted & (jnp.abs(values) <= tolerance * scale)
    vector = vectors[:, 0]
    return _Smallest(
        value=values[0],
        vector=vector,
        residual=safe_norm(matmul(hessian, vector) - values[0] * vector),
        scale=scale,
        certain=jnp.array(True),
        nullity=jnp.sum(null) + symmetries,
        num_negative=jnp.sum(counted & (values < -tolerance * scale)),
    )


def _smallest_by_lanczos(
    domain: AbstractDomain, state: PyTree, log_scale: Float[ArrayLike, ""], tolerance: float
) -> _Smallest:
    """The smallest eigenpair from a Lanczos search off the symmetry orbit."""
    apply, project = _off_symmetries(domain, state, log_scale)
    flat, _ = ravel_pytree(state)
    # The residual has to be well below the threshold, since `classify` subtracts it from the value.
    # The key is fixed, so that a state has one classification.
    found = lanczos(
        apply, project, flat,
        num=1, rtol=tolerance / 10, basis_size=32, max_restarts=300, key=jax.random.key(0),
    )  # fmt: skip
    unknown = jnp.array(-1)
    return _Smallest(
        value=found.values[0],
        vector=found.vectors[0],
        residual=found.residuals[0],
        scale=found.norm,
        certain=found.converged,
        nullity=unknown,
        num_negative=unknown,
    )


def _off_symmetries(
    domain: AbstractDomain, state: PyTree, log_scale: Float[ArrayLike, ""]
) -> tuple[VectorMap, VectorMap]:
    """The Hessian on flat vectors, and the projection off the symmetry orbit within the domain.

    The projections off the orbit and onto the tangent space commute, since the orbit lies in the
    domain.
    """
    apply, onto_domain = flat_hessian(domain, state, log_scale)
    unravel = ravel_pytree(state)[1]

    def project(vector: Vector) -> Vector:
        along_orbit = onto_orbit(domain, state, unravel(vector))
        return onto_domain(vector - ravel_pytree(along_orbit)[0])

    return apply, project
