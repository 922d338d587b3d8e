"""What a point is: minimum, strict saddle, degenerate, or not critical."""

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
from .hessian import dense_hessian, descent_at, safe_norm, sphere_gradient
from .spectrum import Apply, Vector, flat_operator, lanczos
from .symmetries import project_onto_symmetries, symmetry_dimension

KINDS = ("minimum", "strict saddle", "degenerate", "not critical")
_MINIMUM, _SADDLE, _DEGENERATE, _NOT_CRITICAL = range(4)
# States of more numbers than this are classified by Lanczos: the matrix takes seconds.
DENSE_LIMIT = 1500


class Classification(eqx.Module):
    """What `classify` found; under vmap every array gains leading axes.

    Attributes:
        code: index into `KINDS`; `kind` is its name (under jit or vmap use the code).
        gradient_norm: ‖∇L‖, on the sphere that of its tangential part.
        eigenvalue: smallest of the Hessian, symmetry directions aside.
        eigenvector: its unit eigenvector.
        residual: ‖∇²L v − θv‖ of that pair.
        escape_direction: unit direction that lowers L: the eigenvector at a strict saddle, −∇L
            where the point is not critical, NaN at the others.
        symmetries: dimension of the symmetry orbit, whose zero eigenvalues do not count.
        nullity, index: numbers of zero eigenvalues, those of the orbit included, and of negative
            ones; −1 where Lanczos has been used, which sees the smallest pair only.
        scale: ‖∇²L‖₂, to which all thresholds are relative.
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
    """Smallest eigenpair off the symmetries, and what all eigenvalues say if they are known."""

    value: Float[Array, ""]
    vector: Vector
    residual: Float[Array, ""]
    scale: Float[Array, ""]
    sure: Bool[Array, ""]  # that no eigenvalue is smaller
    nullity: Int[Array, ""]
    num_negative: Int[Array, ""]


@jax.debug_nans(False)  # Some of its results are NaN where there is none.
@eqx.filter_jit
def classify(
    problem: AbstractProblem,
    state: PyTree,
    on_sphere: bool = False,
    log_scale: Float[ArrayLike, ""] = 0.0,
    tolerance: float | None = None,
) -> Classification:
    """Tell what a state is from its gradient and the smallest eigenvalue of its Hessian.

    With ε the tolerance and σ = ‖∇²L‖₂, a state is *not critical* if ‖∇L‖ > εσ max(‖x‖, 1); else a
    *strict saddle* if the smallest eigenvalue is under −εσ, a *minimum* if the smallest off the
    symmetry orbit is over εσ (a nondegenerate one, and so isolated up to symmetry), and
    *degenerate* if it is neither: second derivatives cannot tell. Minima that fill more than an
    orbit, as those of the square loss without decay do, are degenerate in this sense;
    `global_certificate` can still prove them global.

    States of up to 1500 numbers are judged by all eigenvalues of the dense matrix, larger ones by
    Lanczos with the symmetry directions projected out; where that does not converge within its
    limits, and has found nothing negative, they are degenerate. NaN, and on the sphere the zero
    state, are not critical.

    Args:
        state: of the problem, whose rows are class by class; `problem_for` sorts the features of a
            network. Half precision is taken in float32.
        on_sphere: as a point of ‖W‖² + ‖H‖² = ρ², the stage of Ji's theorems 3.3 and 3.4.
        log_scale: s of e^s L, for states whose loss underflows.
        tolerance: ε; None means 1e-7 in float64 and 1e-3 in float32.

    Raises: ValueError for a state of another shape, `on_sphere` with one that is no `LastLayer`, or
    a tolerance that is not above 0.

    Example: `classify(problem, state).kind`.
    """
    check_shapes(problem, state, "state")
    if tolerance is not None:
        check_number("tolerance", tolerance, above_zero=True, scalar=True)
    state = widened(state)
    flat, unravel = ravel_pytree(state)
    if tolerance is None:
        tolerance = 1e-7 if flat.dtype == jnp.float64 else 1e-3
    if on_sphere:
        gradient, _ = sphere_gradient(problem, state, log_scale)
    else:
        gradient = jax.tree.map(jnp.negative, descent_at(problem, state, log_scale))
    symmetries = symmetry_dimension(problem, state, on_sphere)
    smallest = _smallest_dense if flat.size <= DENSE_LIMIT else _smallest_by_lanczos
    found = smallest(problem, state, on_sphere, log_scale, tolerance)
    value, threshold = found.value, tolerance * found.scale
    gradient_norm = safe_norm(gradient)
    critical = gradient_norm <= threshold * jnp.maximum(safe_norm(flat), 1)
    # A Ritz value is above the smallest eigenvalue, by as much as its residual.
    code = jnp.select(
        [~critical, value < -threshold, found.sure & (value - found.residual > threshold)],
        [_NOT_CRITICAL, _SADDLE, _MINIMUM],
        _DEGENERATE,
    )
    # An eigenvector goes both ways; take the one along which the gradient, if any, falls too.
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
    problem: AbstractProblem, state: PyTree, on_sphere: bool, log_scale: ArrayLike, tolerance: float
) -> _Smallest:
    hessian = dense_hessian(problem, state, on_sphere, log_scale)
    _, keep = _off_symmetries(problem, state, on_sphere, log_scale)
    size = len(hessian)
    kept = jax.vmap(keep)(jnp.eye(size, dtype=hessian.dtype))
    excluded = jnp.eye(size, dtype=hessian.dtype) - kept
    # What is excluded goes above all other eigenvalues.
    shift = 2 * safe_norm(hessian)
    values, vectors = jnp.linalg.eigh(matmul(matmul(kept, hessian), kept) + shift * excluded)
    symmetries = symmetry_dimension(problem, state, on_sphere)
    counted = jnp.arange(size) < size - symmetries - int(on_sphere)
    scale = jnp.max(jnp.where(counted, jnp.abs(values), 0))
    null = counted & (jnp.abs(values) <= tolerance * scale)
    vector = vectors[:, 0]
    return _Smallest(
        value=values[0],
        vector=vector,
        residual=safe_norm(matmul(hessian, vector) - values[0] * vector),
        scale=scale,
        sure=jnp.array(True),
        nullity=jnp.sum(null) + symmetries,
        num_negative=jnp.sum(counted & (values < -tolerance * scale)),
    )


def _smallest_by_lanczos(
    problem: AbstractProblem, state: PyTree, on_sphere: bool, log_scale: ArrayLike, tolerance: float
) -> _Smallest:
    apply, keep = _off_symmetries(problem, state, on_sphere, log_scale)
    flat, _ = ravel_pytree(state)
    found = lanczos(apply, keep, 1, flat, tolerance / 10, 32, 300, jax.random.key(0))
    unknown = jnp.array(-1)
    return _Smallest(
        value=found.values[0],
        vector=found.vectors[0],
        residual=found.residuals[0],
        scale=found.norm,
        sure=found.converged,
        nullity=unknown,
        num_negative=unknown,
    )


def _off_symmetries(
    problem: AbstractProblem, state: PyTree, on_sphere: bool, log_scale: ArrayLike
) -> tuple[Apply, Apply]:
    """The Hessian on flat vectors, and the projection off the orbit and the sphere's normal.

    The two commute, since a rotation leaves the sphere as it is.
    """
    apply, project = flat_operator(problem, state, on_sphere, log_scale)
    unravel = ravel_pytree(state)[1]

    def keep(vector: Vector) -> Vector:
        moved = project_onto_symmetries(problem, state, unravel(vector), on_sphere)
        return project(vector - ravel_pytree(moved)[0])

    return apply, keep
