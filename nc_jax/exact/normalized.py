"""The normalised model in closed form: its minimum, and all eigenvalues of its Hessian there.

For balanced classes and d >= K−1 the minimum over unit rows is neural collapse for every inverse
temperature τ (Yaras et al. 2022). The Hessian there commutes with permutations of the classes, with
permutations of the samples of a class and with rotations. On each irreducible representation of
these symmetries it is therefore a number, or a 2 × 2 matrix.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int, Key

from ..display import summary
from ..geometry import simplex_etf, unit_rows
from ..preconditions import check_cross_entropy, check_dimension
from ..problems import NormalizedFeatures, check_normalized
from ..state import LastLayer


def normalized_minimizer(
    problem: NormalizedFeatures, *, key: Key[Array, ""] | None = None, dtype: DTypeLike = float
) -> LastLayer:
    """A global minimum of the normalised model: a simplex ETF of unit rows, h_ki = w_k.

    It is the minimum for balanced cross-entropy and d >= K−1, up to rotations (Yaras et al. 2022).

    Args:
        problem: a `NormalizedFeatures`.
        key: rotates the simplex at random; None for no rotation.
        dtype: dtype of the state that is returned.

    Raises: ValueError for unbalanced classes, d < K−1, or another loss than cross-entropy.

    Example:

        >>> problem = nc.NormalizedFeatures((1, 1, 1), 2, inverse_temperature=2.0)
        >>> state = nc.exact.normalized_minimizer(problem)
        >>> float(jnp.linalg.norm(problem.gradient(state).features).round(6))
        0.0
    """
    _check(problem)
    frame = simplex_etf(problem.num_classes, problem.feature_dim, key=key, dtype=dtype)
    frame = unit_rows(frame)
    return LastLayer(frame[problem.labels], frame)


def normalized_minimum(problem: NormalizedFeatures) -> Float[Array, ""]:
    """Value at `normalized_minimizer`: sN log(1 + (K−1) e^(−τK/(K−1))), s the scale of the loss.

    Raises: as `normalized_minimizer`.

    Example:

        >>> problem = nc.NormalizedFeatures((3, 3, 3, 3), 3, inverse_temperature=2.5)
        >>> print(f"{float(nc.exact.normalized_minimum(problem)):.10f}")
        0.1016735090
    """
    _check(problem)
    classes = problem.num_classes
    gap = jnp.asarray(problem.inverse_temperature) * classes / (classes - 1)
    # As a softplus, which is accurate where e^(−gap) is below rounding.
    data = jax.nn.softplus(jnp.log(jnp.asarray(classes - 1, gap.dtype)) - gap)
    return problem.loss_scale * problem.num_samples * data


class NormalizedSpectrum(eqx.Module):
    """All eigenvalues of the Riemannian Hessian at the minimum of the normalised model.

    Attributes:
        values: (m,) eigenvalues, in the order of the table of `normalized_spectrum`; two of them
            may be equal.
        multiplicities: (m,) of each value, 0 for parts that do not exist for these sizes. Their
            sum is (N + K) d.
        names: (m,) of the part of the table to which each value belongs.

    Example:

        >>> problem = nc.NormalizedFeatures((1, 1, 1), 2, inverse_temperature=2.0)
        >>> found = nc.exact.normalized_spectrum(problem)
        >>> found.names[0], int(found.multiplicities[0]), int(found.multiplicities.sum())
        ('normal to the spheres', 6, 12)
    """

    values: Float[Array, " m"]
    multiplicities: Int[np.ndarray, " m"]
    names: tuple[str, ...] = eqx.field(static=True)

    def __repr__(self) -> str:
        return summary(self)

    @property
    def rate(self) -> Float[Array, ""]:
        """The smallest eigenvalue above 0: the rate of the flow near the minimum.

        Near the minimum the distance from it falls as e^(−rate·t) for almost every start, and
        L − min L as e^(−2 rate·t). Infinite for K = 2 and d = 1, where nothing moves.
        """
        # Zeros are excluded by their names, since other values may underflow to 0.
        counts = np.array([name not in _FLAT for name in self.names]) & (self.multiplicities > 0)
        return jnp.min(self.values[np.flatnonzero(counts)], initial=jnp.inf)


_FLAT = ("normal to the spheres", "rotations")


def normalized_spectrum(problem: NormalizedFeatures) -> NormalizedSpectrum:
    """All eigenvalues of the Riemannian Hessian at `normalized_minimizer` (derived).

    τ is the inverse temperature, s the scale of the loss, n the samples of each class,
    q = d−K+1 the dimensions orthogonal to the span of the simplex ("off the span"),
    b = 1/(e^(τK/(K−1)) + K−1) the probability of each wrong class, and r = sτKb (τKb/N for the mean
    loss):

    | eigenvalue | times |
    |---|---|
    | 0, normal to the spheres | N + K |
    | 0, rotations | d(d−1)/2 − q(q−1)/2 |
    | r, features off the span | (N−K+1)q |
    | nr, common shift of the classifiers off the span | q |
    | (n+1)r, contrasts off the span | (K−1)q |
    | r(1 + τ/(K−1)), within classes in the span | (N−K)(K−2) |
    | (n+1)r(1 + τ/(K−1)), antisymmetric | (K−1)(K−2)/2 |
    | r/(K−1) times the two eigenvalues of [[σ, δ√n], [δ√n, nσ]], symmetric | K(K−3)/2 each |
    | r/(K−1) times those of [[σ, ε√n], [ε√n, n(σ − τbK(K−2)/(K−1))]], standard | K−1 each |

    Here σ = τ+K−1, δ = τ−K+1 and ε = δ/(K−1). For K = 2 the parts in the span do not exist. The
    smallest eigenvalue above 0 is r only for d >= K and τ not too small: for K >= 4 the smaller
    symmetric one is below r exactly if τ < n(K−1)/(3n−1).

    Raises: as `normalized_minimizer`.

    Example: the linear rate of K = 4 classes of 3 samples in 4 dimensions is r.

        >>> problem = nc.NormalizedFeatures((3, 3, 3, 3), 4, inverse_temperature=2.5)
        >>> print(f"{float(nc.exact.normalized_spectrum(problem).rate):.12f}")
        0.026854324779
    """
    size = _check(problem)
    classes, total = problem.num_classes, problem.num_samples
    off, others = problem.feature_dim - classes + 1, classes - 1
    tau = jnp.asarray(problem.inverse_temperature)
    wrong = 1 / (jnp.exp(tau * classes / others) + others)
    slowest = problem.loss_scale * tau * classes * wrong
    steep = slowest * (1 + tau / others)
    zero = jnp.zeros_like(slowest)

    first = tau + others
    second = first - tau * wrong * classes * (classes - 2) / others
    symmetric = slowest / others * _eigenvalues(first, tau - others, first, size)
    standard = slowest / others * _eigenvalues(first, (tau - others) / others, second, size)
    in_span = int(classes > 2)
    pairs = classes * (classes - 3) // 2 * in_span
    parts = [
        ("normal to the spheres", zero, total + classes),
        ("rotations", zero, others * (classes - 2) // 2 + others * off),
        ("features off the span", slowest, (total - others) * off),
        ("common shift off the span", size * slowest, off),
        ("contrasts off the span", (size + 1) * slowest, others * off),
        ("within classes in the span", steep, (total - classes) * (classes - 2)),
        ("antisymmetric", (size + 1) * steep, others * (classes - 2) // 2),
        ("symmetric, smaller", symmetric[0], pairs),
        ("symmetric, larger", symmetric[1], pairs),
        ("standard, smaller", standard[0], others * in_span),
        ("standard, larger", standard[1], others * in_span),
    ]
    names, values, counts = zip(*parts, strict=True)
    return NormalizedSpectrum(jnp.stack(values), np.array(counts), names)


def _eigenvalues(
    features: Float[Array, ""], mixed: Float[Array, ""], classifier: Float[Array, ""], size: int
) -> Float[Array, " 2"]:
    """Eigenvalues of [[f, m√n], [m√n, nc]], the smaller first."""
    middle = (features + size * classifier) / 2
    determinant = size * (features * classifier - mixed**2)
    larger = middle + jnp.sqrt(middle**2 - determinant)
    # The smaller one from the product of both: a difference would cancel.
    return jnp.stack([determinant / larger, larger])


def _check(problem: NormalizedFeatures) -> int:
    """Refuse what the theorem does not cover; return n."""
    check_normalized(problem)
    check_dimension(problem.free, problem.num_classes - 1)
    return check_cross_entropy(problem.free)
