"""An independent solver of the separation problem: SciPy's SLSQP on class means and classifiers."""

import numpy as np
import scipy.optimize
import threadpoolctl


def separate(sizes, dim, start):
    """The value of a local minimum of ½(‖W‖² + Σ n_k ‖m_k‖²) with (w_k − w_j)·m_k >= 1.

    Args: `start` is (W, √n M), of shape (2, K, d).

    Returns: the value; infinite where SLSQP ends at a point that violates a constraint.
    """
    roots, classes = np.sqrt(np.asarray(sizes, float)), len(sizes)
    label, other = np.nonzero(~np.eye(classes, dtype=bool))
    rows = np.arange(len(label))

    def margins(flat):
        classifier, means = flat.reshape(2, classes, dim)
        difference = classifier[label] - classifier[other]
        return np.sum(difference * means[label], axis=1) / roots[label] - 1

    def jacobian(flat):
        classifier, means = flat.reshape(2, classes, dim)
        gradients = np.zeros((len(rows), 2, classes, dim))
        gradients[rows, 0, label] = means[label]
        gradients[rows, 0, other] = -means[label]
        gradients[rows, 1, label] = classifier[label] - classifier[other]
        return gradients.reshape(len(rows), -1) / roots[label][:, None]

    # Threads of BLAS wait for each other: on busy cores they take 100 times as long as one.
    with threadpoolctl.threadpool_limits(1):
        found = scipy.optimize.minimize(
            lambda flat: flat @ flat / 2, np.ravel(start), jac=lambda flat: flat, method="SLSQP",
            constraints={"type": "ineq", "fun": margins, "jac": jacobian},
            options={"maxiter": 500, "ftol": 1e-13},
        )  # fmt: skip
    return found.fun if margins(found.x).min() > -1e-8 else np.inf


def random_values(sizes, dim, count, *, seed=0):
    """Values of local minima from Gaussian starts, ascending."""
    rng = np.random.default_rng(seed)
    starts = 1.5 * rng.normal(size=(count, 2, len(sizes), dim))
    return np.sort([separate(sizes, dim, start) for start in starts])
