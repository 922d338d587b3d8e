"""Statistics of values (K, K) over the pairs of different classes."""

import math

from .statistics import Array, Statistics


def off_diagonal(s: Statistics, values: Array, diagonal: float) -> Array:
    """The values of pairs c ≠ c', and one number for c = c'."""
    return s.xp.where(s.xp.eye(s.num_classes, dtype=bool), diagonal, values)


def min_over_pairs(s: Statistics, values: Array) -> Array:
    """Least value of the pairs c ≠ c'."""
    return s.xp.min(off_diagonal(s, values, math.inf))


def max_over_pairs(s: Statistics, values: Array) -> Array:
    """Largest value of the pairs c ≠ c'."""
    return s.xp.max(off_diagonal(s, values, -math.inf))


def variance_over_pairs(s: Statistics, values: Array) -> Array:
    """Variance of the values of the pairs c ≠ c', divided by the number of pairs."""
    return s.mean_over_pairs((values - s.mean_over_pairs(values)) ** 2)
