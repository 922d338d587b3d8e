"""An independent search for codes at depth: SciPy's L-BFGS on the entries of m factors."""

import itertools

import numpy as np
import scipy.optimize
import threadpoolctl


def singular_sum_of(start, *, penalty=10.0, rounds=12):
    """S = (1/m) Σ‖factors‖²/q^(2/m) of a local minimum of ½Σ‖factors‖² with all margins >= 1.

    An augmented Lagrangian: L-BFGS minimises ½Σ‖factors‖² + Σ max(λ + c(1 − s), 0)²/(2c), then λ
    becomes max(λ + c(1 − s), 0). The division by q makes each result the S of a feasible point,
    which no error of the search takes below the least S. Infinite where the search ends at 0.

    Args: `start` is (A_0, ..., A_{m−1}), with the logits A_0 ... A_{m−1}.
    """
    classes, depth = len(start[0]), len(start)
    wrong = ~np.eye(classes, dtype=bool)
    shapes, flat = [factor.shape for factor in start], np.concatenate([x.ravel() for x in start])
    cuts = np.cumsum([factor.size for factor in start])[:-1]
    multipliers = np.zeros((classes, classes))

    def products(flat):
        parts = zip(np.split(flat, cuts), shapes, strict=True)
        factors = [part.reshape(shape) for part, shape in parts]
        return factors, list(itertools.accumulate(factors, np.matmul))

    def active(logits):
        margins = np.diag(logits)[:, None] - logits
        return np.where(wrong, np.maximum(multipliers + penalty * (1 - margins), 0), 0)

    def lagrangian(flat):
        factors, prefixes = products(flat)
        forces = active(prefixes[-1])
        slope, gradients = forces - np.diag(forces.sum(axis=1)), []
        for i in range(depth - 1, 0, -1):
            gradients.append(prefixes[i - 1].T @ slope)
            slope = slope @ factors[i].T
        gradient = np.concatenate([x.ravel() for x in [slope, *reversed(gradients)]])
        return flat @ flat / 2 + np.sum(forces**2) / (2 * penalty), flat + gradient

    with threadpoolctl.threadpool_limits(1):
        for _ in range(rounds):
            flat = scipy.optimize.minimize(
                lagrangian, flat, jac=True, method="L-BFGS-B",
                options={"maxiter": 400, "maxcor": 20, "ftol": 1e-13, "gtol": 1e-9},
            ).x  # fmt: skip
            multipliers = active(products(flat)[1][-1])
    logits = products(flat)[1][-1]
    smallest = np.min((np.diag(logits)[:, None] - logits)[wrong])
    return flat @ flat / depth / smallest ** (2 / depth) if smallest > 0 else np.inf


def random_sums(classes, depth, count, *, width=None, seed=0):
    """S of local minima from Gaussian factors of widths K, or a smaller one, ascending."""
    rng, width = np.random.default_rng(seed), width or classes
    shapes = [(classes, width), *[(width, width)] * (depth - 2), (width, classes)]
    starts = [
        [1.5 / np.sqrt(width) * rng.normal(size=shape) for shape in shapes] for _ in range(count)
    ]
    return np.sort([singular_sum_of(start) for start in starts])
