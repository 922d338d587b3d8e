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
