"""Search for critical points of every kind, minima or not, from many starts at once."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from ..checks import check_integer, check_number
from ..precision import matmul
from ..preconditions import check_unconstrained
from ..problems import UnconstrainedFeatures
from ..state import LastLayer
from .classification import Classification, classify
from .domains import OnSphere

# Starts in one batch. All lanes of a batch step until the last has converged. Small batches save
# such steps, and large batches save iterations of the loop over batches.
_BATCH = 32


class CriticalPoints(eqx.Module):
    """Distinct critical points, lowest first.

    Attributes:
        states: with leading axis M, one for each point.
        classification: result of `classify` for each point.
        objectives: (M,) losses of the points.
        counts: (M,) how many starts ended at each point.
        num_lost: how many starts ended elsewhere: at local minima of ‖∇L‖, or the step limit.

    Example:

        >>> problem = nc.UnconstrainedFeatures(
        ...     (1, 1), 1, weight_decay=nc.WeightDecay(classifier=0.1, features=0.1)
        ... )
        >>> keys = jax.random.split(jax.random.key(0), 16)
        >>> found = nc.landscape.find_critical_points(problem, keys, norm=1.0)
        >>> int(found.counts.sum()) + found.num_lost
        16
    """

    states: LastLayer
    classification: Classification
    objectives: Float[np.ndarray, " M"]
    counts: Int[np.ndarray, " M"]
    num_lost: int

    def __repr__(self) -> str:
        kinds = np.atleast_1d(self.classification.kind)
        found = [
            f"{kind} at {objective:.6g} from {count} starts"
            for kind, objective, count in zip(kinds, self.objectives, self.counts, strict=True)
        ]
        return f"CriticalPoints({'; '.join([*found, f'{self.num_lost} starts lost'])})"


def find_critical_points(
    problem: UnconstrainedFeatures,
    keys: Key[Array, " S"],
    *,
    radius: float | None = None,
    norm: Float[ArrayLike, ""] = 4.0,
    max_steps: int = 500,
    tolerance: float = 1e-5,
) -> CriticalPoints:
    """Critical points that Levenberg-Marquardt finds on ∇L = 0 from random starts, classified.

    The search minimises ‖∇L‖² and converges to saddles as well as to minima: an experiment on the
    claim "every critical point is a minimum or a strict saddle", for dimensions where the papers
    prove it and where they do not (d = K, d = K−1).

    Two ends count as one point if they agree in numbers that rotations of feature space and
    permutations of classes and samples do not change: loss, singular values, norms and products of
    the classifiers, norms of the features, and losses of the samples. Points with zero eigenvalues
    beyond those of symmetry lie on a continuum, and count as one point if they agree in the loss
    and in the number of these eigenvalues. Every step factors a matrix of the state's size, so that
    states of some hundred numbers are feasible. Do not call it under jit or vmap.

    Args:
        problem: with any loss and decay.
        keys: (S,) typed keys, one for each start.
        radius: ρ of the sphere ‖W‖² + ‖H‖² = ρ², for problems without weight decay, whose only
            critical points in the whole space have WH constant over the classes.
        norm: ‖W‖_F = ‖H‖_F of the starts. From small norms the search ends at the origin. If a
            `radius` is given, starts are scaled to the sphere afterwards.
        max_steps: of the search.
        tolerance: relative difference from which on two points count as different.

    Raises: ValueError for raw keys, numbers out of range, or a radius together with weight decay.

    Example: two classes on the line have the origin, a saddle, and one minimum.

        >>> problem = nc.UnconstrainedFeatures(
        ...     (1, 1), 1, weight_decay=nc.WeightDecay(classifier=0.1, features=0.1)
        ... )
        >>> keys = jax.random.split(jax.random.key(0), 16)
        >>> found = nc.landscape.find_critical_points(problem, keys, norm=1.0)
        >>> found.classification.kind.tolist()
        ['minimum', 'strict saddle']
    """
    check_unconstrained(problem)
    dtype = getattr(keys, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed or keys.ndim != 1 or keys.size == 0:
        raise ValueError("keys: give one dimension of typed keys, jax.random.split(key, num).")
    check_number("norm", norm, above_zero=True, scalar=True)
    check_number("tolerance", tolerance, scalar=True)
    max_steps = check_integer("max_steps", max_steps)
    if radius is not None:
        check_number("radius", radius, above_zero=True, scalar=True)
        if not problem.weight_decay.absent:
            raise ValueError(
                f"radius = {radius}: the sphere is for problems without weight decay; leave it out."
            )
    states, classes, signatures = _search_from_starts(
        problem, keys, radius, jnp.asarray(norm, float), max_steps
    )
    # NumPy on the host, since outside of jit JAX compiles each operation as a separate program.
    states, classes, signatures = jax.tree.map(np.array, (states, classes, signatures))
    critical = np.asarray(classes.kind) != "not critical"
    # Points on a continuum are compared by their loss and its dimension alone.
    beyond = (classes.nullity - classes.symmetries)[:, None]
    signatures[:, 1:] = np.where(beyond > 0, beyond, signatures[:, 1:])
    first, counts = _distinct(signatures, critical, tolerance)
    return CriticalPoints(
        states=jax.device_put(jax.tree.map(lambda leaf: leaf[first], states)),
        classification=jax.device_put(jax.tree.map(lambda leaf: leaf[first], classes)),
        objectives=signatures[first, 0],
        counts=counts,
        num_lost=int(np.sum(~critical)),
    )


@eqx.filter_jit
def _search_from_starts(
    problem: UnconstrainedFeatures,
    keys: Key[Array, " S"],
    radius: float | None,
    norm: Float[Array, ""],
    max_steps: int,
) -> tuple[LastLayer, Classification, Float[Array, "S numbers"]]:
    """End of each search, its classification and its signature, in one program."""
    solver = optimistix.LevenbergMarquardt(rtol=1e-12, atol=1e-14)
    if radius is None:
        domain, equations, rescaled = problem, problem.gradient, lambda state: state
    else:
        domain, equations, rescaled = _equations_on_sphere(problem, radius)

    def from_key(
        key: Key[Array, ""],
    ) -> tuple[LastLayer, Classification, Float[Array, " numbers"]]:
        start = rescaled(_aligned_start(problem, key, norm))
        found = optimistix.least_squares(
            lambda state, args: equations(state), solver, start, throw=False, max_steps=max_steps
        ).value
        # No error for a search that has failed: `classify` decides whether its end is critical.
        return found, classify(domain, found), _signature(problem, found)

    return jax.lax.map(from_key, keys, batch_size=_BATCH)


def _equations_on_sphere(
    problem: UnconstrainedFeatures, radius: float
) -> tuple[OnSphere, Callable[[LastLayer], LastLayer], Callable[[LastLayer], LastLayer]]:
    """The domain, the equations of its critical points, and the map of a start onto it."""
    sphere = OnSphere(problem)

    def equations(state: LastLayer) -> LastLayer:
        # The tangential gradient and the multiple of the state are orthogonal, so that their sum is
        # 0 only where both are 0.
        excess = state.squared_norm() / radius**2 - 1
        return optax.tree.add_scale(sphere.gradient(state, 0.0), excess, state)

    def rescaled(start: LastLayer) -> LastLayer:
        return optax.tree.scale(radius / jnp.sqrt(start.squared_norm()), start)

    return sphere, equations, rescaled


def _aligned_start(
    problem: UnconstrainedFeatures, key: Key[Array, ""], norm: Float[Array, ""]
) -> LastLayer:
    """A Gaussian start with features moved a random share towards their classifiers.

    From Gaussian starts alone the search mostly ends at points of low rank.
    """
    start = problem.init(key, norm)
    # A derived key, since `init` has drawn from `key`.
    share = jnp.sqrt(jax.random.uniform(jax.random.fold_in(key, 1), dtype=start.features.dtype))
    aligned = start.classifier[problem.labels]
    aligned = aligned * (norm / jnp.linalg.norm(aligned))
    features = share * aligned + (1 - share) * start.features
    return LastLayer(features, start.classifier, start.bias)


def _signature(problem: UnconstrainedFeatures, state: LastLayer) -> Float[Array, " numbers"]:
    """The loss, and numbers that rotations and permutations of classes do not change."""
    classifier, features = state.classifier, state.features
    # Sorted, so that the order of classes and samples does not matter.
    numbers = [
        problem.objective(state)[None],
        jnp.linalg.svd(classifier, compute_uv=False),
        jnp.linalg.svd(features, compute_uv=False),
        jnp.sort(matmul(classifier, classifier.T), axis=None),
        jnp.sort(jnp.linalg.norm(features, axis=1)),
        jnp.sort(problem.loss.value(state.logits(), problem.labels)),
    ]
    if state.bias is not None:
        # Minus the mean, since a constant may be added to a free bias.
        numbers.append(jnp.sort(state.bias - jnp.mean(state.bias)))
    return jnp.concatenate(numbers)


def _distinct(
    signatures: Float[np.ndarray, "S numbers"], critical: Bool[np.ndarray, " S"], tolerance: float
) -> tuple[Int[np.ndarray, " M"], Int[np.ndarray, " M"]]:
    """Index of the first end of each group of equal ends, lowest loss first, and group sizes."""
    # From the lowest loss on, so that the points are in this order too.
    first: list[int] = []
    counts: list[int] = []
    for i in np.argsort(signatures[:, 0], kind="stable"):
        if not critical[i]:
            continue
        # The tolerance is relative to the largest number, and absolute below 1.
        reach = tolerance * max(np.abs(signatures[i]).max(), 1)
        same = [
            m for m, j in enumerate(first) if np.abs(signatures[i] - signatures[j]).max() <= reach
        ]
        if same:
            counts[same[0]] += 1
        else:
            first.append(int(i))
            counts.append(1)
    return np.array(first, dtype=int), np.array(counts, dtype=int)
