"""Minima by SciPy, which the tests of closed forms share."""

import jax
import numpy as np
import scipy.optimize
from jax.flatten_util import ravel_pytree


def lowest_of(objective, problem, starts):
    """Least values that SciPy's L-BFGS reaches from Gaussian starts."""
    like, unravel = ravel_pytree(problem.init(jax.random.key(0)))
    value_and_gradient = jax.jit(jax.value_and_grad(lambda v: objective(unravel(v))))

    def run(seed):
        start = np.random.default_rng(seed).normal(size=like.size)
        found = scipy.optimize.minimize(
            lambda v: tuple(map(np.asarray, value_and_gradient(v))), start, jac=True,
            method="L-BFGS-B", options={"maxiter": 20_000, "ftol": 1e-16, "gtol": 1e-10},
        )  # fmt: skip
        return found.fun

    return np.array([run(seed) for seed in range(starts)])


def lowest_with_bounds(objective, like, starts, *, nonnegative=False):
    """The least value, and its state, that L-BFGS-B reaches from Gaussian starts.

    With `nonnegative` the entries of the features have the bound 0, and starts are |Gaussian|.
    """
    flat, unravel = ravel_pytree(like)
    # The features are the first leaf of a state.
    first = like.features.size if nonnegative else 0
    lower = np.where(np.arange(flat.size) < first, 0, -np.inf)
    value_and_gradient = jax.jit(jax.value_and_grad(lambda v: objective(unravel(v))))
    best = None
    for seed in range(starts):
        start = np.random.default_rng([7, seed]).normal(size=flat.size)
        start = np.where(np.isinf(lower), start, np.abs(start))
        found = scipy.optimize.minimize(
            lambda v: tuple(map(np.asarray, value_and_gradient(v))), start, jac=True,
            method="L-BFGS-B", bounds=[(low, None) for low in lower],
            options={"maxiter": 20_000, "maxfun": 50_000, "ftol": 1e-16, "gtol": 1e-10},
        )  # fmt: skip
        best = found if best is None or found.fun < best.fun else best
    assert best is not None
    return best.fun, unravel(best.x)
