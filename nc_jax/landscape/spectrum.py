"""Spectra of Hessians without the matrix: extreme eigenpairs and the density of eigenvalues.

Both rest on one Lanczos step with full reorthogonalisation. matfree has such a decomposition, but
without restarts, so that its memory grows with accuracy and it sees a repeated eigenvalue once;
where the Krylov space is exhausted, as it is within six steps at symmetric critical points, it goes
on with normalised rounding errors, or with 0/0. Its estimator holds the bases of all probes at
once.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, PyTree

from ..checks import check_integer, check_key, check_number
from ..display import summary
from ..precision import matmul, widened
from ..problems import AbstractProblem, check_shapes
from .hessian import hessian_operator, project_onto_tangent, safe_norm

Vector = Float[Array, " n"]
Apply = Callable[[Vector], Vector]


class Eigenpairs(eqx.Module):
    """Extreme eigenvalues of a Hessian with what they are worth.

    Attributes:
        values: (m,) the extreme one first.
        vectors: unit eigenvectors, states with leading axis m.
        residuals: (m,) ‖∇²L v − θv‖, evaluated; an eigenvalue lies within that of each value.
        norm: largest absolute Ritz value met, an estimate of ‖∇²L‖₂ from below.
        converged: whether all residuals came under the tolerance and a further search, from a
            random direction, found no eigenvalue beyond the last.
        num_products: Hessian-vector products taken.
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
    problem: AbstractProblem,
    state: PyTree,
    num: int = 1,
    end: Literal["smallest", "largest"] = "smallest",
    on_sphere: bool = False,
    log_scale: Float[ArrayLike, ""] = 0.0,
    rtol: float | None = None,
    basis_size: int | None = None,
    max_restarts: int = 300,
    key: Key[Array, ""] | None = None,
) -> Eigenpairs:
    """The `num` smallest or largest eigenvalues of ∇²L at a state, by restarted Lanczos.

    A Krylov basis is kept orthogonal by projecting twice, and restarted from its best Ritz vectors
    when full (Wu and Simon 2000), so that memory is that of the basis. Repeated eigenvalues come as
    often as they are: a converged set is searched again from a random direction.

    Args:
        on_sphere: the Riemannian Hessian on ‖W‖² + ‖H‖² = ρ², along the tangent space.
        log_scale: s of e^s L.
        rtol: residual to reach, relative to the largest Ritz value; None means 4e-10 in float64
            and 2e-4 in float32 (10 eps^(2/3)). Errors in simple eigenvalues are its square.
        basis_size: vectors in memory; None means 24 more than twice `num`.
        max_restarts: after which the search is given up, with `converged` False.
        key: of the random directions; None means `jax.random.key(0)`.

    Raises: ValueError for a state of another shape, or a `num`, `end`, `basis_size` or tolerance
    that cannot be.

    Example: `extreme_eigenpairs(problem, state, 3).values`.
    """
    check_shapes(problem, state, "state")
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(state))
    free = size - 1 if on_sphere else size
    num = check_integer("num", num, most=free)
    if end not in ("smallest", "largest"):
        raise ValueError(f"end = {end!r}: give 'smallest' or 'largest'.")
    if basis_size is not None:
        # At least two vectors more than are wanted.
        basis_size = check_integer("basis_size", basis_size, least=min(num + 2, free))
    basis_size = min(2 * num + 24 if basis_size is None else basis_size, free)
    max_restarts = check_integer("max_restarts", max_restarts)
    check_number("log_scale", log_scale, scalar=True, signed=True)
    if rtol is not None:
        check_number("rtol", rtol, above_zero=True, scalar=True)
    if key is not None:
        check_key(key)
    return _extreme_eigenpairs(
        problem, state, num, end == "largest", on_sphere, jnp.asarray(log_scale),
        rtol, basis_size, max_restarts, key,
    )  # fmt: skip


@eqx.filter_jit
def _extreme_eigenpairs(
    problem: AbstractProblem,
    state: PyTree,
    num: int,
    largest: bool,
    on_sphere: bool,
    log_scale: Float[Array, ""],
    rtol: float | None,
    basis_size: int,
    max_restarts: int,
    key: Key[Array, ""] | None,
) -> Eigenpairs:
    state = widened(state)
    flat, unravel = ravel_pytree(state)
    apply, project = flat_operator(problem, state, on_sphere, log_scale.astype(flat.dtype))
    sign = -1 if largest else 1
    tolerance = 10 * np.finfo(flat.dtype).eps ** (2 / 3) if rtol is None else rtol
    found = lanczos(
        lambda v: sign * apply(v),
        project,
        num,
        flat,
        float(tolerance),
        basis_size,
        max_restarts,
        jax.random.key(0) if key is None else key,
    )
    return Eigenpairs(
        values=sign * found.values,
        vectors=jax.vmap(unravel)(found.vectors),
        residuals=found.residuals,
        norm=found.norm,
        converged=found.converged,
        num_products=found.num_products,
    )


def flat_operator(
    problem: AbstractProblem, state: PyTree, on_sphere: bool, log_scale: Float[ArrayLike, ""]
) -> tuple[Apply, Apply]:
    """The Hessian on flat vectors, and the projection onto the space it is meant on."""
    unravel = ravel_pytree(state)[1]
    product = hessian_operator(problem, state, on_sphere, log_scale)

    def project(vector: Vector) -> Vector:
        if not on_sphere:
            return vector
        return ravel_pytree(project_onto_tangent(state, unravel(vector)))[0]

    return lambda vector: ravel_pytree(product(unravel(vector)))[0], project


class _Search(NamedTuple):
    """A restarted Lanczos search between two restarts."""

    basis: Float[Array, "m n"]
    following: Vector  # the vector after the filled rows of the basis
    projected: Float[Array, "m m"]
    filled: Int[Array, ""]
    settled_values: Float[Array, " num"]  # when the wanted pairs were last found settled
    norm: Float[Array, ""]
    done: Bool[Array, ""]
    num_products: Int[Array, ""]
    restarts: Int[Array, ""]


def lanczos(
    apply: Apply,
    project: Apply,
    num: int,
    like: Vector,
    rtol: float,
    basis_size: int,
    max_restarts: int,
    key: Key[Array, ""],
) -> Eigenpairs:
    """Smallest `num` eigenpairs of `apply` on the range of `project`, which it must not leave."""
    first_key, key = jax.random.split(key)
    start = _Search(
        basis=jnp.zeros((basis_size, like.size), like.dtype),
        following=random_direction(project, like, first_key),
        projected=jnp.zeros((basis_size, basis_size), like.dtype),
        filled=jnp.array(0),
        settled_values=jnp.full(num, jnp.inf, like.dtype),
        norm=jnp.zeros((), like.dtype),
        done=jnp.array(False),
        num_products=jnp.array(num),  # which the residuals take in the end
        restarts=jnp.array(0),
    )
    found = jax.lax.while_loop(
        lambda search: ~search.done & (search.restarts < max_restarts),
        lambda search: _cycle(apply, project, rtol, key, search),
        start,
    )
    values, vectors = jnp.diag(found.projected)[:num], found.basis[:num]
    residuals = jax.lax.map(
        lambda pair: safe_norm(project(apply(pair[1])) - pair[0] * pair[1]), (values, vectors)
    )
    return Eigenpairs(values, vectors, residuals, found.norm, found.done, found.num_products)


def _cycle(
    apply: Apply, project: Apply, rtol: float, key: Key[Array, ""], search: _Search
) -> _Search:
    """Fill the basis, and restart it from its best Ritz vectors."""
    basis_size, num = len(search.basis), len(search.settled_values)
    # Ritz vectors kept beyond those asked for make the last of these converge sooner.
    kept = num + (basis_size - num) // 3
    step_key, search_key = jax.random.split(jax.random.fold_in(key, search.restarts))
    basis, residual, projected, length = expand(
        apply, project, search.basis, search.following, search.projected, search.filled, step_key
    )
    values, rotation = ritz(projected)
    norm = jnp.maximum(search.norm, jnp.max(jnp.abs(values)))
    bounds = length * jnp.abs(rotation[-1])
    after = min(num, basis_size - 1)  # the pair after the last wanted
    # It has to be known, or known to lie above, lest it be a copy that is still on its way.
    above = values[after] - bounds[after] >= values[num - 1] - rtol * norm
    settled = jnp.all(bounds[:num] <= rtol * norm) & (above | (bounds[after] <= rtol * norm))
    unchanged = jnp.all(jnp.abs(values[:num] - search.settled_values) <= rtol * norm)
    # A copy of a repeated eigenvalue is invisible to the Krylov space of one vector. Where the
    # wanted pairs have settled, a random direction is searched next: if they come out the same,
    # nothing was missed.
    filled = jnp.where(settled, num, kept)
    rotated = matmul(rotation[:, :kept].T, basis)
    basis = jax.lax.dynamic_update_slice(basis, rotated, (0, 0))
    fresh, _ = orthogonalize(basis, random_direction(project, residual, search_key), filled)
    return _Search(
        basis=basis,
        following=jnp.where(settled, fresh / jnp.linalg.norm(fresh), residual),
        projected=jnp.diag(jnp.where(jnp.arange(basis_size) < filled, values, 0)),
        filled=filled,
        settled_values=jnp.where(settled, values[:num], search.settled_values),
        norm=norm,
        done=settled & unchanged,
        num_products=search.num_products + basis_size - search.filled,
        restarts=search.restarts + 1,
    )


def expand(
    apply: Apply,
    project: Apply,
    basis: Float[Array, "m n"],
    following: Vector,
    projected: Float[Array, "m m"],
    filled: Int[ArrayLike, ""],
    key: Key[Array, ""],
) -> tuple[Float[Array, "m n"], Vector, Float[Array, "m m"], Float[Array, ""]]:
    """Fill an orthonormal basis V from row `filled` on, with `following` first, by Lanczos steps.

    The upper triangle of `projected` receives V A Vᵀ. Returns the basis, the direction of the last
    residual, `projected`, and that residual's length. The basis is read by products alone, since
    XLA copies what a `cond` or a slice reads while it is updated.
    """

    def step(j, carry):
        basis, following, projected, _ = carry
        basis = basis.at[j].set(following)
        image, overlaps = orthogonalize(basis, project(apply(following)), j + 1)
        # An exhausted Krylov space leaves rounding errors; a random direction goes on from there.
        largest = jnp.maximum(jnp.max(jnp.abs(projected)), jnp.max(jnp.abs(overlaps)))
        length = safe_norm(image)  # of the size of the Hessian, whose square may be no float
        exhausted = length <= 100 * jnp.finfo(image.dtype).eps * largest
        image = jax.lax.cond(
            exhausted,
            lambda image: random_direction(project, image, jax.random.fold_in(key, j)),
            lambda image: image / length,
            image,
        )
        # Twice is enough (Parlett 1998), and once for a random direction. A short image is largely
        # rounding errors, which leave the range of `project`.
        image, again = orthogonalize(basis, project(image), j + 1)
        length = jnp.where(exhausted, 0, length)
        projected = projected.at[:, j].set(overlaps + length * again)
        remaining = jnp.linalg.norm(image)
        # Zero where the rows span everything.
        image = jnp.where(remaining > 1e-8, image / remaining, 0)
        return basis, image, projected, length * remaining

    none = jnp.zeros((), basis.dtype)
    start = (basis, following, projected, none)
    return jax.lax.fori_loop(filled, len(projected), step, start)


def ritz(projected: Float[Array, "m m"]) -> tuple[Float[Array, " m"], Float[Array, "m m"]]:
    """Eigenvalues, ascending, and eigenvectors, in columns, of the matrix with this upper half."""
    return jnp.linalg.eigh(projected, UPLO="U", symmetrize_input=False)


def orthogonalize(
    basis: Float[Array, "m n"], vector: Vector, filled: Int[ArrayLike, ""]
) -> tuple[Vector, Float[Array, " m"]]:
    """The vector less its parts along the first `filled` rows, and those parts."""
    overlaps = jnp.where(jnp.arange(len(basis)) < filled, matmul(basis, vector), 0)
    return vector - matmul(overlaps, basis), overlaps


def random_direction(project: Apply, like: Vector, key: Key[Array, ""]) -> Vector:
    """A uniformly random unit vector in the range of `project`."""
    gaussian = project(jax.random.normal(key, like.shape, like.dtype))
    return gaussian / jnp.linalg.norm(gaussian)


class SpectralDensity(eqx.Module):
    """Density of the eigenvalues of a Hessian, smoothed by a Gaussian, with error bars.

    Attributes:
        grid: (G,) eigenvalues x.
        density: (G,) (1/n) Σ_i N(x; θ_i, width), of integral 1.
        standard_error: (G,) of the mean over probes.
        nodes, weights: (P, m) Ritz values of each probe and their shares of it: the mean over
            probes of Σ_k weights f(nodes) estimates (1/n) Σ_i f(θ_i).
    """

    grid: Float[Array, " G"]
    density: Float[Array, " G"]
    standard_error: Float[Array, " G"]
    nodes: Float[Array, "P m"]
    weights: Float[Array, "P m"]


def spectral_density(
    problem: AbstractProblem,
    state: PyTree,
    key: Key[Array, ""],
    num_probes: int = 16,
    num_steps: int = 48,
    width: Float[ArrayLike, ""] | None = None,
    num_points: int = 401,
    on_sphere: bool = False,
    log_scale: Float[ArrayLike, ""] = 0.0,
) -> SpectralDensity:
    """How the eigenvalues of ∇²L at a state are spread, by stochastic Lanczos quadrature.

    Each probe is a random unit vector, whose measure over the eigenvalues Lanczos replaces by
    `num_steps` nodes with the same moments (Ubaru, Chen and Saad 2017). Probes go one after
    another, so that memory is that of one basis.

    Args:
        num_probes: error bars fall as its root, and as that of the dimension.
        num_steps: of Lanczos; at most the dimension are taken.
        width: of the Gaussian; None means a hundredth of the range of the nodes.
        on_sphere: the Riemannian Hessian on the tangent space of ‖W‖² + ‖H‖² = ρ².
        log_scale: s of e^s L.

    Raises: ValueError for a state of another shape, a raw key, fewer than 2 probes, or no steps.

    Example: `spectral_density(problem, state, jax.random.key(0)).density`.
    """
    check_shapes(problem, state, "state")
    check_key(key)
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(state)) - (1 if on_sphere else 0)
    # Error bars need two probes.
    num_probes = check_integer("num_probes", num_probes, least=2)
    num_steps = check_integer("num_steps", num_steps)
    num_points = check_integer("num_points", num_points)
    check_number("log_scale", log_scale, scalar=True, signed=True)
    if width is not None:
        check_number("width", width, above_zero=True, scalar=True)
    return _spectral_density(
        problem, state, key, num_probes, min(num_steps, size),
        None if width is None else jnp.asarray(width), num_points, on_sphere,
        jnp.asarray(log_scale),
    )  # fmt: skip


@eqx.filter_jit
def _spectral_density(
    problem: AbstractProblem,
    state: PyTree,
    key: Key[Array, ""],
    num_probes: int,
    num_steps: int,
    width: Float[Array, ""] | None,
    num_points: int,
    on_sphere: bool,
    log_scale: Float[Array, ""],
) -> SpectralDensity:
    nodes, weights = _quadrature(problem, state, key, num_probes, num_steps, on_sphere, log_scale)
    low, high = jnp.min(nodes), jnp.max(nodes)
    if width is None:
        # All eigenvalues may be one.
        width = jnp.maximum((high - low) / 100, 1e-3 * jnp.maximum(jnp.abs(low), jnp.abs(high)))
    width = jnp.asarray(width, nodes.dtype)
    width = jnp.where(width > 0, width, 1)  # all eigenvalues may be 0
    grid = jnp.linspace(low - 4 * width, high + 4 * width, num_points)

    def smooth(nodes: Float[Array, " m"], weights: Float[Array, " m"]) -> Float[Array, " G"]:
        distances = (grid[:, None] - nodes[None]) / width
        return matmul(jnp.exp(-(distances**2) / 2), weights)

    # In units of the Gaussian's peak: of a tiny Hessian its square may be no float.
    each = jax.vmap(smooth)(nodes, weights)
    peak = 1 / (np.sqrt(2 * np.pi).item() * width)
    error = jnp.std(each, axis=0, ddof=1) / np.sqrt(num_probes).item()
    return SpectralDensity(grid, peak * jnp.mean(each, axis=0), peak * error, nodes, weights)


def _quadrature(
    problem: AbstractProblem,
    state: PyTree,
    key: Key[Array, ""],
    num_probes: int,
    num_steps: int,
    on_sphere: bool,
    log_scale: Float[Array, ""],
) -> tuple[Float[Array, "P m"], Float[Array, "P m"]]:
    state = widened(state)
    flat, _ = ravel_pytree(state)
    apply, project = flat_operator(problem, state, on_sphere, log_scale.astype(flat.dtype))

    def measure(key: Key[Array, ""]) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        start_key, key = jax.random.split(key)
        basis = jnp.zeros((num_steps, flat.size), flat.dtype)
        empty = jnp.zeros((num_steps, num_steps), flat.dtype)
        probe = random_direction(project, flat, start_key)
        _, _, projected, _ = expand(apply, project, basis, probe, empty, 0, key)
        values, rotation = ritz(projected)
        return values, rotation[0] ** 2

    return jax.lax.map(measure, jax.random.split(key, num_probes))
