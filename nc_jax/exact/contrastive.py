"""Minima of the supervised contrastive loss on the unit sphere, in closed form."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Key

from ..checks import check_kind
from ..errors import ArgumentError
from ..geometry import simplex_etf
from ..precision import check_dtype
from ..problems import ContrastiveFeatures


def contrastive_minimum(problem: ContrastiveFeatures) -> Float[Array, ""]:
    """Least value of the supervised contrastive loss of unit rows.

    log(n−1 + n(K−1) e^(−K/((K−1)τ))) for K classes of n samples and d >= K−1 (Graf et al. 2021).
    For features >= 0, d >= K and classes of any sizes Σ_k (n_k/N) log(n_k−1 + (N−n_k) e^(−1/τ))
    (Kini et al. 2023). The second follows in two lines (derived): with the mean s̄ of the n_k−1
    similarities s_p of a sample to its class, its loss is log(Σ_p e^((s_p−s̄)/τ) + Σ_a
    e^((s_a−s̄)/τ)), with a over the samples of other classes. The first sum is at least n_k−1 by
    Jensen's inequality, and s_a − s̄ >= −1.

    Raises: ValueError for classes of different sizes without `nonnegative`, or a feature_dim below
    K−1, or below K with `nonnegative`.

    Example:

        >>> problem = nc.problems.ContrastiveFeatures((3,) * 4, 3, temperature=0.5)
        >>> print(f"{nc.exact.contrastive_minimum(problem):.10f}")
        0.9652146246
    """
    _check(problem)
    classes, total = problem.num_classes, problem.num_samples
    temperature = jnp.asarray(problem.temperature)
    sizes = jnp.asarray(problem.class_sizes, temperature.dtype)
    # h_i·h_p − h_i·h_a for p of the class of i, and a of another class.
    contrast = 1.0 if problem.nonnegative else classes / (classes - 1)
    # In log space: the second term may underflow.
    others = jnp.log(total - sizes) - contrast / temperature
    return jnp.sum(sizes / total * jnp.logaddexp(jnp.log(sizes - 1), others))


def contrastive_minimizer(
    problem: ContrastiveFeatures, *, key: Key[Array, ""] | None = None, dtype: DTypeLike = float
) -> Float[Array, "N d"]:
    """Features of least loss: every feature at its class vector, (N, d).

    The class vectors are a simplex ETF (Graf et al. 2021), or with `nonnegative` an orthogonal
    frame, the first K unit vectors (Kini et al. 2023).

    Args:
        problem: the model.
        key: rotates the simplex, or permutes the axes of the orthogonal frame; None for neither.
        dtype: of the features.

    Raises: as `contrastive_minimum`.

    Example:

        >>> problem = nc.problems.ContrastiveFeatures((2, 3), 2, temperature=0.5, nonnegative=True)
        >>> nc.exact.contrastive_minimizer(problem).tolist()
        [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
    """
    _check(problem)
    check_dtype(dtype)
    classes, dim = problem.num_classes, problem.feature_dim
    if not problem.nonnegative:
        return simplex_etf(classes, dim, key=key, dtype=dtype)[problem.labels]
    axes = jnp.arange(dim) if key is None else jax.random.permutation(key, dim)
    return jnp.eye(dim, dtype=dtype)[axes[:classes]][problem.labels]


def contrastive_rate(problem: ContrastiveFeatures) -> Float[Array, ""]:
    """Rate of the flow's convergence to the simplex ETF: the least nonzero Hessian eigenvalue.

    The softmax probability that a sample gives to one sample of another class is
    η = e^(−c)/(n−1 + n(K−1)e^(−c)) with c = K/((K−1)τ). The rate is the least of (derived)

    - 2η/τ, if d >= K, of a common shift of all features out of their span;
    - 4η/((K−1)τ²), if K >= 4, of the cosines between classes, with the mean of all features at 0;
    - 2η(K−2)/((K−1)τ) + K(2η − n(K−2)η²)/((K−1)τ)², if K >= 3, of the mean in the span.

    Deviations within the classes fall at the rate 2n(η + δ)/(Nτ) or faster,
    δ = n(K−1)η/(n−1); this rate is above 2η/τ. For K = 2 and d = 1 the sphere has two points,
    nothing moves, and there is no rate.

    Returns: the rate, so that distances from the minimum fall as e^(−rate·t).

    Raises: as `contrastive_minimum`, and ValueError for `nonnegative`, or K = 2 with d = 1.

    Example:

        >>> problem = nc.problems.ContrastiveFeatures((3,) * 4, 5, temperature=0.5)
        >>> print(f"{nc.exact.contrastive_rate(problem):.10f}")
        0.1058653865
    """
    _check(problem)
    if problem.nonnegative:
        raise ArgumentError(
            "nonnegative = True: the rate is known without this constraint.", "nonnegative"
        )
    classes, size, temperature = (
        problem.num_classes, problem.class_sizes[0], jnp.asarray(problem.temperature)
    )  # fmt: skip
    other = jnp.exp(-classes / ((classes - 1) * temperature))
    other = other / (size - 1 + size * (classes - 1) * other)
    rates = []
    if problem.feature_dim >= classes:
        rates.append(2 * other / temperature)
    if classes >= 4:
        rates.append(4 * other / ((classes - 1) * temperature**2))
    if classes >= 3:
        curved = classes * (2 * other - size * (classes - 2) * other**2)
        linear = 2 * other * (classes - 2) / ((classes - 1) * temperature)
        rates.append(linear + curved / ((classes - 1) * temperature) ** 2)
    if not rates:
        raise ArgumentError(
            f"feature_dim = {problem.feature_dim}: two classes on a line cannot move; give 2 or "
            "more dimensions.",
            "feature_dim",
        )
    return jnp.min(jnp.stack(rates))


def _check(problem: object) -> None:
    """Refuse a problem whose least value is unknown."""
    example = "nc_jax.problems.ContrastiveFeatures((3, 3), 2, temperature=0.5)"
    check_kind("problem", problem, ContrastiveFeatures, example)
    assert isinstance(problem, ContrastiveFeatures)  # For type checkers.
    if not problem.nonnegative and len(set(problem.class_sizes)) > 1:
        raise ArgumentError(
            f"class_sizes = {problem.class_sizes}: without nonnegative=True the least value is "
            "known for classes of one size; give one size, or nonnegative=True.",
            "class_sizes",
        )
    least = problem.num_classes - (not problem.nonnegative)
    if problem.feature_dim < least:
        raise ArgumentError(
            f"feature_dim = {problem.feature_dim}: the least value is known for at least {least} "
            "dimensions.",
            "feature_dim",
        )
