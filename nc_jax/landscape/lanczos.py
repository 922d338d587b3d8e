"""Lanczos steps with full reorthogonalisation, and a restarted search for extreme eigenpairs.

The decomposition of matfree is not used. It has no restarts, so that its memory grows with
accuracy, and it finds a repeated eigenvalue once. At symmetric critical points the Krylov space is
exhausted within six steps; there it continues with normalised rounding errors, or with 0/0. Its
estimator of densities holds the bases of all probes at once.

Operators act on flat vectors; nothing here depends on problems or states.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import optimistix
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, PyTree

from ..precision import matmul

Vector = Float[Array, " n"]
VectorMap = Callable[[Vector], Vector]


class LanczosPairs(NamedTuple):
    """Smallest eigenpairs of an operator, with flat vectors; fields as those of `Eigenpairs`."""

    values: Float[Array, " m"]
    vectors: Float[Array, "m n"]
    residuals: Float[Array, " m"]
    norm: Float[Array, ""]
    converged: Bool[Array, ""]
    num_products: Int[Array, ""]


class _LanczosState(NamedTuple):
    """What a restarted Lanczos search carries from one restart to the next."""

    basis: Float[Array, "m n"]
    following: Vector  # the vector after the filled rows of the basis
    projected: Float[Array, "m m"]  # V A Vᵀ of the basis V, upper triangle
    filled: Int[Array, ""]
    converged_values: Float[Array, " num"]  # of the last search in which the wanted pairs converged
    norm: Float[Array, ""]  # largest Ritz value in size, an estimate of ‖A‖₂
    done: Bool[Array, ""]
    num_products: Int[Array, ""]
    restarts: Int[Array, ""]


def lanczos(
    apply: VectorMap,
    project: VectorMap,
    like: Vector,
    *,
    num: int,
    rtol: float,
    basis_size: int,
    max_restarts: int,
    key: Key[Array, ""],
) -> LanczosPairs:
    """Smallest eigenpairs of a symmetric operator, by Lanczos with thick restarts.

    Args:
        apply: the operator, which maps the range of `project` into itself.
        project: orthogonal projection onto the subspace to search.
        like: a vector of the size and dtype of those that `apply` takes.
        num: how many pairs.
        rtol: residual at which a pair has converged, relative to the norm of the operator.
        basis_size: vectors in memory.
        max_restarts: after which the search ends with `converged` False.
        key: of the random directions.
    """
    first_key, key = jax.random.split(key)
    start = _LanczosState(
        basis=jnp.zeros((basis_size, like.size), like.dtype),
        following=random_unit_vector(project, like, first_key),
        projected=jnp.zeros((basis_size, basis_size), like.dtype),
        filled=jnp.array(0),
        # Infinite, so that the first converged values are different and a second search follows.
        converged_values=jnp.full(num, jnp.inf, like.dtype),
        norm=jnp.zeros((), like.dtype),
        done=jnp.array(False),
        num_products=jnp.array(num),  # for the residuals at the end
        restarts=jnp.array(0),
    )
    found = jax.lax.while_loop(
        lambda search: ~search.done & (search.restarts < max_restarts),
        lambda search: _cycle(apply, project, rtol, key, search),
        start,
    )
    # After a restart the first rows of the basis are Ritz vectors, and `projected` is diagonal.
    values, vectors = jnp.diag(found.projected)[:num], found.basis[:num]
    # One product after another, since `vmap` would need the memory of all of them at once.
    residuals = jax.lax.map(
        lambda pair: safe_norm(project(apply(pair[1])) - pair[0] * pair[1]), (values, vectors)
    )
    return LanczosPairs(values, vectors, residuals, found.norm, found.done, found.num_products)


def _cycle(
    apply: VectorMap, project: VectorMap, rtol: float, key: Key[Array, ""], search: _LanczosState
) -> _LanczosState:
    """Fill the basis, and restart it from its best Ritz vectors."""
    basis_size, num = len(search.basis), len(search.converged_values)
    # More Ritz vectors than are wanted survive a restart: the last wanted pair converges sooner.
    surviving = num + (basis_size - num) // 3
    step_key, search_key = jax.random.split(jax.random.fold_in(key, search.restarts))
    basis, residual, projected, length = expand(
        apply,
        project,
        search.basis,
        search.following,
        projected=search.projected,
        filled=search.filled,
        key=step_key,
    )
    values, rotation = ritz(projected)
    norm = jnp.maximum(search.norm, jnp.max(jnp.abs(values)))
    # The residual norm of each Ritz pair: only the last row of the basis contributes.
    bounds = length * jnp.abs(rotation[-1])
    after = min(num, basis_size - 1)  # the pair after the last wanted
    # The next pair must have converged too, or be above the wanted ones. Otherwise it may be a copy
    # of a wanted eigenvalue that has not converged yet.
    above = values[after] - bounds[after] >= values[num - 1] - rtol * norm
    converged = jnp.all(bounds[:num] <= rtol * norm) & (above | (bounds[after] <= rtol * norm))
    unchanged = jnp.all(jnp.abs(values[:num] - search.converged_values) <= rtol * norm)
    # The Krylov space of one vector has only one eigenvector of a repeated eigenvalue. Once the
    # wanted pairs have converged, a random direction is searched: if they do not change, no copy
    # was missed.
    filled = jnp.where(converged, num, surviving)
    rotated = matmul(rotation[:, :surviving].T, basis)
    basis = jax.lax.dynamic_update_slice(basis, rotated, (0, 0))
    fresh, _ = orthogonalize(basis, random_unit_vector(project, residual, search_key), filled)
    return _LanczosState(
        basis=basis,
        following=jnp.where(converged, fresh / jnp.linalg.norm(fresh), residual),
        projected=jnp.diag(jnp.where(jnp.arange(basis_size) < filled, values, 0)),
        filled=filled,
        converged_values=jnp.where(converged, values[:num], search.converged_values),
        norm=norm,
        done=converged & unchanged,
        num_products=search.num_products + basis_size - search.filled,
        restarts=search.restarts + 1,
    )


def expand(
    apply: VectorMap,
    project: VectorMap,
    basis: Float[Array, "m n"],
    following: Vector,
    *,
    projected: Float[Array, "m m"],
    filled: Int[ArrayLike, ""],
    key: Key[Array, ""],
) -> tuple[Float[Array, "m n"], Vector, Float[Array, "m m"], Float[Array, ""]]:
    """Fill an orthonormal basis V from row `filled` on, with `following` first, by Lanczos steps.

    The upper triangle of `projected` receives V A Vᵀ. Returns the basis, the direction of the last
    residual, `projected`, and the length of that residual. Only products read the basis, since XLA
    copies an array that a `cond` or a slice reads while it is updated.
    """

    def step(j, carry):
        basis, following, projected, _ = carry
        basis = basis.at[j].set(following)
        image, overlaps = orthogonalize(basis, project(apply(following)), j + 1)
        # Once the Krylov space is exhausted the image consists of rounding errors, and a random
        # direction takes its place.
        largest = jnp.maximum(jnp.max(jnp.abs(projected)), jnp.max(jnp.abs(overlaps)))
        length = safe_norm(image)  # squares of a tiny Hessian underflow
        exhausted = length <= 100 * jnp.finfo(image.dtype).eps * largest
        image = jax.lax.cond(
            exhausted,
            lambda image: random_unit_vector(project, image, jax.random.fold_in(key, j)),
            lambda image: image / length,
            image,
        )
        # Two orthogonalisations are enough (Parlett 1998), and one for a random direction. In a
        # short image rounding errors are a large share, so that `project` is applied again.
        image, again = orthogonalize(basis, project(image), j + 1)
        length = jnp.where(exhausted, 0, length)
        projected = projected.at[:, j].set(overlaps + length * again)
        remaining = jnp.linalg.norm(image)
        # Zero once the rows span the whole space.
        image = jnp.where(remaining > 1e-8, image / remaining, 0)
        return basis, image, projected, length * remaining

    none = jnp.zeros((), basis.dtype)
    start = (basis, following, projected, none)
    return jax.lax.fori_loop(filled, len(projected), step, start)


def ritz(projected: Float[Array, "m m"]) -> tuple[Float[Array, " m"], Float[Array, "m m"]]:
    """Eigenvalues (ascending) and eigenvectors (columns) of the matrix with this upper triangle."""
    # The lower triangle is not filled, and symmetrising would average it with the upper one.
    return jnp.linalg.eigh(projected, UPLO="U", symmetrize_input=False)


def orthogonalize(
    basis: Float[Array, "m n"], vector: Vector, filled: Int[ArrayLike, ""]
) -> tuple[Vector, Float[Array, " m"]]:
    """The vector minus its components along the first `filled` rows, and those components."""
    overlaps = jnp.where(jnp.arange(len(basis)) < filled, matmul(basis, vector), 0)
    return vector - matmul(overlaps, basis), overlaps


def random_unit_vector(project: VectorMap, like: Vector, key: Key[Array, ""]) -> Vector:
    """A uniformly random unit vector in the range of `project`."""
    gaussian = project(jax.random.normal(key, like.shape, like.dtype))
    return gaussian / jnp.linalg.norm(gaussian)


def safe_norm(tree: PyTree) -> Float[Array, ""]:
    """‖x‖ in units of its largest entry, whose square may underflow or overflow."""
    largest = optimistix.max_norm(tree)
    unit = jnp.where(largest > 0, largest, 1)
    return largest * optax.tree.norm(jax.tree.map(lambda leaf: leaf / unit, tree))
