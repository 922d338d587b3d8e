"""Densities of the eigenvalues of Hessians from Hessian-vector products."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float, Key, PyTree

from ..checks import check_integer, check_key, check_number
from ..precision import matmul, widened
from ..problems import AbstractProblem
from .curvature import AbstractCurvature
from .domains import curvature_of
from .hessian import flat_hessian
from .lanczos import expand, random_unit_vector, ritz


class SpectralDensity(eqx.Module):
    """Density of the eigenvalues of a Hessian, smoothed by a Gaussian, with error bars.

    Attributes:
        grid: (G,) eigenvalues x.
        density: (G,) (1/n) Σ_i N(x; θ_i, width), with integral 1.
        standard_error: (G,) of the mean over probes.
        nodes, weights: (P, m) Ritz values and weights of each probe: the mean over probes of
            Σ_k weights f(nodes) estimates (1/n) Σ_i f(θ_i) for any function f.
        trace: estimate of Σ_i θ_i, n times the mean of vᵀ∇²L v over the probes v (Hutchinson 1989).
        trace_error: its standard error.

    Example: the density has integral 1.

        >>> problem = nc.ulpm(3, 2, 4)
        >>> origin = jax.tree.map(jnp.zeros_like, problem.init(jax.random.key(0)))
        >>> found = nc.landscape.spectral_density(problem, origin, jax.random.key(0))
        >>> round(float(jnp.trapezoid(found.density, found.grid)), 3)
        1.0
    """

    grid: Float[Array, " G"]
    density: Float[Array, " G"]
    standard_error: Float[Array, " G"]
    nodes: Float[Array, "P m"]
    weights: Float[Array, "P m"]
    trace: Float[Array, ""]
    trace_error: Float[Array, ""]


def spectral_density(
    problem: AbstractProblem | AbstractCurvature,
    state: PyTree,
    key: Key[Array, ""],
    *,
    num_probes: int = 16,
    num_steps: int = 48,
    width: Float[ArrayLike, ""] | None = None,
    num_points: int = 401,
    log_scale: Float[ArrayLike, ""] = 0.0,
) -> SpectralDensity:
    """Density of the eigenvalues of ∇²L at a state, by stochastic Lanczos quadrature.

    Each probe is a random unit vector. Its measure over the eigenvalues is replaced by a quadrature
    with `num_steps` nodes and the same moments (Ubaru, Chen and Saad 2017). Probes are computed one
    after another, so that memory is that of one basis.

    Args:
        problem: of `OnSphere(problem)` the Riemannian Hessian, on the tangent space; or a
            curvature, such as `HessianOf(function)` or that of `cnn.curvature_for`.
        state: of the problem.
        key: of the random probes.
        num_probes: standard errors fall as 1/√(num_probes · dimension).
        num_steps: Lanczos steps of each probe, at most the dimension.
        width: standard deviation of the Gaussian; None means a hundredth of the range of the nodes.
        num_points: G.
        log_scale: s for e^s L.

    Raises: ValueError for a state of another shape, a raw key, fewer than 2 probes, or no steps.

    Example: the trace of the Hessian is 0 at the origin of Ji's model.

        >>> problem = nc.ulpm(3, 2, 4)
        >>> origin = jax.tree.map(jnp.zeros_like, problem.init(jax.random.key(0)))
        >>> found = nc.landscape.spectral_density(problem, origin, jax.random.key(0))
        >>> float(found.nodes.min().round(6)), float(found.nodes.max().round(6))
        (-2.0, 2.0)
    """
    curvature = curvature_of(problem)
    curvature.check_state(state)
    check_key(key)
    size = _dimension(curvature, state)
    # A standard error needs two probes.
    num_probes = check_integer("num_probes", num_probes, least=2)
    num_steps = check_integer("num_steps", num_steps)
    num_points = check_integer("num_points", num_points)
    check_number("log_scale", log_scale, scalar=True, signed=True)
    if width is not None:
        check_number("width", width, above_zero=True, scalar=True)
    # Numbers are passed as arrays, since Equinox compiles anew for every other Python float.
    return _spectral_density(
        curvature, state, key, num_probes, min(num_steps, size),
        None if width is None else jnp.asarray(width), num_points, jnp.asarray(log_scale),
    )  # fmt: skip


@eqx.filter_jit
def _spectral_density(
    curvature: AbstractCurvature,
    state: PyTree,
    key: Key[Array, ""],
    num_probes: int,
    num_steps: int,
    width: Float[Array, ""] | None,
    num_points: int,
    log_scale: Float[Array, ""],
) -> SpectralDensity:
    nodes, weights = _quadrature(curvature, state, key, num_probes, num_steps, log_scale)
    low, high = jnp.min(nodes), jnp.max(nodes)
    if width is None:
        # The range is 0 if all eigenvalues are equal: their size then sets the width.
        width = jnp.maximum((high - low) / 100, 1e-3 * jnp.maximum(jnp.abs(low), jnp.abs(high)))
    width = jnp.asarray(width, nodes.dtype)
    width = jnp.where(width > 0, width, 1)  # where all eigenvalues are 0
    grid = jnp.linspace(low - 4 * width, high + 4 * width, num_points)

    def smooth(nodes: Float[Array, " m"], weights: Float[Array, " m"]) -> Float[Array, " G"]:
        distances = (grid[:, None] - nodes[None]) / width
        return matmul(jnp.exp(-(distances**2) / 2), weights)

    # In units of the Gaussian's peak, which is large for a tiny Hessian: the standard deviation
    # would square it, and overflow.
    each = jax.vmap(smooth)(nodes, weights)
    peak = 1 / (np.sqrt(2 * np.pi).item() * width)
    error = jnp.std(each, axis=0, ddof=1) / np.sqrt(num_probes).item()
    # The quadrature has the first moment vᵀ∇²L v of the probe v without an error.
    traces = _dimension(curvature, state) * jnp.sum(weights * nodes, axis=1)
    return SpectralDensity(
        grid=grid,
        density=peak * jnp.mean(each, axis=0),
        standard_error=peak * error,
        nodes=nodes,
        weights=weights,
        trace=jnp.mean(traces),
        trace_error=jnp.std(traces, ddof=1) / np.sqrt(num_probes).item(),
    )


def _dimension(curvature: AbstractCurvature, state: PyTree) -> int:
    """The number of eigenvalues."""
    return sum(np.size(leaf) for leaf in jax.tree.leaves(state)) - curvature.codimension


def _quadrature(
    curvature: AbstractCurvature,
    state: PyTree,
    key: Key[Array, ""],
    num_probes: int,
    num_steps: int,
    log_scale: Float[Array, ""],
) -> tuple[Float[Array, "P m"], Float[Array, "P m"]]:
    """Nodes and weights of each probe."""
    state = widened(state)
    flat, _ = ravel_pytree(state)
    apply, project = flat_hessian(curvature, state, log_scale.astype(flat.dtype))

    def measure(key: Key[Array, ""]) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        start_key, key = jax.random.split(key)
        basis = jnp.zeros((num_steps, flat.size), flat.dtype)
        empty = jnp.zeros((num_steps, num_steps), flat.dtype)
        probe = random_unit_vector(project, flat, start_key)
        _, _, projected, _ = expand(
            apply, project, basis, probe, projected=empty, filled=0, key=key
        )
        values, rotation = ritz(projected)
        # The weights of the Gauss quadrature: squared overlaps of the Ritz vectors with the probe.
        return values, rotation[0] ** 2

    return jax.lax.map(measure, jax.random.split(key, num_probes))
