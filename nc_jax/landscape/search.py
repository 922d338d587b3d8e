"""Search for critical points of every kind, minima or not, from many starts at once."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from ..checks import check_integer, check_number
from ..precision import matmul
from ..problems import UnconstrainedFeatures, check_unconstrained
from ..state import LastLayer
from .classification import Classification, classify
from .hessian import sphere_gradient

# Starts in one batch: all lanes step until the last has converged.
_BATCH = 32


class CriticalPoints(eqx.Module):
    """Distinct critical points, lowest first.

    Attributes:
        states: with leading axis M, one for each point.
        classification: of each, from `classify`.
        objectives: (M,) their losses.
        counts: (M,) how many starts ended at each.
        num_lost: starts that ended at none: local minima of ‖∇L‖, or the step limit.
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
    radius: float | None = None,
    norm: Float[ArrayLike, ""] = 4.0,
    max_steps: int = 500,
    tolerance: float = 1e-5,
) -> CriticalPoints:
    """Critical points that Levenberg-Marquardt finds on ∇L = 0 from random starts, classified.

    It minimises ‖∇L‖² and so is drawn to saddles as much as to minima: an experiment that tests
    "every critical point is a minimum or a strict saddle" where the papers prove it and where they
    do not (d = K, d = K−1). Ends are told apart by what rotations of feature space and relabelling
    of classes and samples leave alone: loss, singular values, norms and products of the
    classifiers, norms of the features, losses of the samples. Two points that agree in all of these
    would count as one, and so do points of one loss with one number of zero eigenvalues beyond
    those of symmetry, which lie on a continuum. Every step factors a matrix of the state's size,
    so this is for states of some hundred numbers.

    Args:
        keys: (S,) typed keys, one a start.
        radius: ρ of the sphere ‖W‖² + ‖H‖² = ρ², for problems without weight decay, whose only
            critical points in the whole space have WH constant over the classes.
        norm: ‖W‖_F = ‖H‖_F of the starts; small ones end at the origin. On a sphere it is given.
        max_steps: of the search.
        tolerance: relative difference that tells two points apart.

    Not to be called under jit or vmap.

    Raises: ValueError for raw keys, numbers out of range, or a radius that comes with weight decay.

    Example: `find_critical_points(zhu(3, 3, 2, 5e-3), jax.random.split(jax.random.key(0), 64))`.
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
    states, classes, marks = _search(problem, keys, radius, jnp.asarray(norm, float), max_steps)
    # On the host: each operation by itself would be a program of its own.
    states, classes, marks = jax.tree.map(np.array, (states, classes, marks))
    critical = np.asarray(classes.kind) != "not critical"
    # Of points on a continuum the loss counts, and its dimension.
    beyond = (classes.nullity - classes.symmetries)[:, None]
    marks[:, 1:] = np.where(beyond > 0, beyond, marks[:, 1:])
    first, counts = _distinct(marks, critical, tolerance)
    return CriticalPoints(
        states=jax.device_put(jax.tree.map(lambda leaf: leaf[first], states)),
        classification=jax.device_put(jax.tree.map(lambda leaf: leaf[first], classes)),
        objectives=marks[first, 0],
        counts=counts,
        num_lost=int(np.sum(~critical)),
    )


@eqx.filter_jit
def _search(
    problem: UnconstrainedFeatures,
    keys: Key[Array, " S"],
    radius: float | None,
    norm: Float[Array, ""],
    max_steps: int,
) -> tuple[LastLayer, Classification, Float[Array, "S marks"]]:
    solver = optimistix.LevenbergMarquardt(rtol=1e-12, atol=1e-14)

    def residual(state: LastLayer, args: None) -> LastLayer:
        del args
        if radius is None:
            return problem.gradient(state)
        # Tangential and radial equation at once, being orthogonal.
        excess = state.squared_norm() / radius**2 - 1
        return optax.tree.add_scale(sphere_gradient(problem, state)[0], excess, state)

    def from_key(key: Key[Array, ""]) -> tuple[LastLayer, Classification, Float[Array, " marks"]]:
        start = _leaning_start(problem, key, norm)
        if radius is not None:
            start = optax.tree.scale(radius / jnp.sqrt(start.squared_norm()), start)
        found = optimistix.least_squares(
            residual, solver, start, throw=False, max_steps=max_steps
        ).value
        return found, classify(problem, found, radius is not None), _marks(problem, found)

    return jax.lax.map(from_key, keys, batch_size=_BATCH)


def _leaning_start(
    problem: UnconstrainedFeatures, key: Key[Array, ""], norm: Float[Array, ""]
) -> LastLayer:
    """A Gaussian start whose features lean towards the classifiers of their classes.

    By a random share: of Gaussian starts alone most end at points of low rank.
    """
    start = problem.init(key, norm)
    share = jnp.sqrt(jax.random.uniform(jax.random.fold_in(key, 1), dtype=start.features.dtype))
    aligned = start.classifier[problem.labels]
    aligned = aligned * (norm / jnp.linalg.norm(aligned))
    features = share * aligned + (1 - share) * start.features
    return LastLayer(features, start.classifier, start.bias)


def _marks(problem: UnconstrainedFeatures, state: LastLayer) -> Float[Array, " marks"]:
    """Numbers that rotations of feature space and relabelling leave alone, the loss first."""
    classifier, features = state.classifier, state.features
    marks = [
        problem.objective(state)[None],
        jnp.linalg.svd(classifier, compute_uv=False),
        jnp.linalg.svd(features, compute_uv=False),
        jnp.sort(matmul(classifier, classifier.T), axis=None),
        jnp.sort(jnp.linalg.norm(features, axis=1)),
        jnp.sort(problem.loss.value(state.logits(), problem.labels)),
    ]
    if state.bias is not None:
        # Only differences count, where the bias is free.
        marks.append(jnp.sort(state.bias - jnp.mean(state.bias)))
    return jnp.concatenate(marks)


def _distinct(
    marks: Float[np.ndarray, "S marks"], critical: Bool[np.ndarray, " S"], tolerance: float
) -> tuple[Int[np.ndarray, " M"], Int[np.ndarray, " M"]]:
    """Indices of the first of each group of ends that agree, lowest first, and their sizes."""
    first: list[int] = []
    counts: list[int] = []
    for i in np.argsort(marks[:, 0], kind="stable"):
        if not critical[i]:
            continue
        reach = tolerance * max(np.abs(marks[i]).max(), 1)
        same = [m for m, j in enumerate(first) if np.abs(marks[i] - marks[j]).max() <= reach]
        if same:
            counts[same[0]] += 1
        else:
            first.append(int(i))
            counts.append(1)
    return np.array(first, dtype=int), np.array(counts, dtype=int)
