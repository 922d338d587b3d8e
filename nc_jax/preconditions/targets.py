"""Preconditions of theorems on free features whose samples have a row of targets."""

import numpy as np

from ..checks import is_traced
from ..problems import FreeFeatures
from .free import bias_is_free, check_decays


def check_pick_all_labels(problem: FreeFeatures) -> dict[int, int]:
    """Require label sets that are balanced within each multiplicity, and decay of W and H.

    Balanced means that among the samples with m labels every label, and every pair of labels,
    occurs equally often (Li et al. 2023 require every set equally often, which implies this).

    Returns: the number of samples with m labels, by m.
    """
    _check_targets(problem)
    if not problem.loss.is_pick_all_labels:
        raise ValueError(f"problem has {problem.loss}: this is the minimum of PickAllLabels().")
    if is_traced(problem.targets):
        raise ValueError(
            "targets are traced: the closed form needs values; create them outside of jit."
        )
    check_decays(problem)
    targets = np.asarray(problem.targets)
    multiplicities = targets.sum(axis=1).astype(int)
    counts = {}
    for m in np.unique(multiplicities).tolist():
        rows = targets[multiplicities == m]
        together = rows.T @ rows
        once, pairs = np.diag(together), together[~np.eye(len(together), dtype=bool)]
        if np.any(once != once[0]) or np.any(pairs != pairs[0]):
            raise ValueError(
                f"targets: among the samples with {m} labels some labels, or pairs of labels, "
                "occur more often than others; the closed form needs all of them equally often."
            )
        counts[m] = len(rows)
    return counts


def check_regression(problem: FreeFeatures) -> None:
    """Require half the squared distance with decay of W and H, and no decay of a bias."""
    _check_targets(problem)
    if not problem.loss.is_half_squared_distance:
        raise ValueError(
            f"problem has {problem.loss}: this is the minimum of HalfSquaredDistance()."
        )
    check_decays(problem)
    if problem.bias and not bias_is_free(problem):
        decay = problem.weight_decay.bias
        raise ValueError(f"weight decay bias = {decay}: the closed form is for a free one, 0.")


def _check_targets(problem: object) -> None:
    if not isinstance(problem, FreeFeatures) or not problem.has_free_features:
        raise ValueError(
            f"problem is of type {type(problem).__name__}: give a problems.FreeFeatures(targets, "
            "feature_dim, loss=...)."
        )
