"""Features of all kinds that measures must be accurate for, and singular values in 50 digits."""

import mpmath
import numpy as np

DIGITS = 50

# Name: sizes of the classes, d, spread within the classes, offset of all features.
_KINDS = {
    "balanced": ((4, 4, 4), 5, 1.0, 0.0),
    "unequal classes": ((3, 7, 1, 5), 6, 1.0, 0.0),
    "deep collapse": ((3, 6, 4, 5), 5, 1e-9, 0.0),
    "far from the origin": ((3, 6, 4), 4, 1.0, 1e3),
    "deep collapse far from the origin": ((4, 5, 6), 4, 1e-6, 1e3),
    "more classes than dimensions": ((2, 3, 4, 2, 3, 4), 3, 0.5, 0.0),
    "fewer samples than dimensions": ((2, 2, 1), 9, 0.7, 0.0),
    "one sample a class": ((1, 1, 1, 1), 6, 1.0, 0.0),
}
KINDS = tuple(_KINDS)


def feature_set(kind, seed=0):
    """Features, labels in any order, classifier and bias."""
    sizes, dim, spread, offset = _KINDS[kind]
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    means = rng.normal(size=(len(sizes), dim))
    features = offset + means[labels] + spread * rng.normal(size=(len(labels), dim))
    return features, labels, rng.normal(size=means.shape), rng.normal(size=len(sizes))


def centred(matrix):
    """A matrix of mpmath minus the mean of its rows."""
    ones = mpmath.ones(matrix.rows, 1)
    return matrix - ones * (ones.T * matrix) / matrix.rows


def class_means(features, labels):
    """Class means in mpmath."""
    exact = mpmath.matrix(features.tolist())
    members = mpmath.matrix((labels[:, None] == np.unique(labels)[None]).astype(int).tolist())
    sums = members.T * exact
    counts = np.bincount(labels)
    return mpmath.matrix(
        [[sums[c, j] / int(counts[c]) for j in range(sums.cols)] for c in range(sums.rows)]
    )


def singular_values(matrix):
    """Singular values in mpmath that are above 0 in its precision, largest first."""
    wide = matrix if matrix.rows >= matrix.cols else matrix.T
    found = list(mpmath.svd_r(wide, compute_uv=False))
    return [value for value in found if value > found[0] * mpmath.mpf(10) ** (10 - DIGITS)]


def pseudo_inverse(matrix):
    """A⁺ in mpmath."""
    if matrix.rows < matrix.cols:
        return pseudo_inverse(matrix.T).T
    left, singular, right = mpmath.svd_r(matrix)
    floor = singular[0] * mpmath.mpf(10) ** (10 - DIGITS)
    inverse = [1 / value if value > floor else mpmath.mpf(0) for value in singular]
    return right.T * mpmath.diag(inverse) * left.T
