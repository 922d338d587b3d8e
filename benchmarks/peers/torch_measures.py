"""Measures of collapse as three public repositories compute them, in two passes with PyTorch.

Each class has the formulas and the order of operations that a repository publishes, on batches of
features instead of images. Sums over samples are products of matrices where the original has a
loop over single samples (tding1) or forms the outer products of a batch (neuralcollapse), so that
times are those of the formulas and not of Python. All names of measures are those of nc_jax.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
import torch


class Data(NamedTuple):
    """Features (N, d) with labels (N,), a classifier (K, d) and its bias (K,)."""

    features: torch.Tensor
    labels: torch.Tensor
    classifier: torch.Tensor
    bias: torch.Tensor

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Features and labels in batches, as a loader gives them."""
        return zip(self.features.split(size), self.labels.split(size), strict=True)


def rhubarbwu(data: Data, size: int) -> dict[str, float]:
    """The accumulators of https://github.com/rhubarbwu/neural-collapse and its measures.

    One pass for class means, one for Σ_W (d, d), variances of classes and agreement of the
    classifier, without bias, with the nearest class mean. Σ_B is inverted as a (d, d) matrix.
    """
    classifier, num_classes = data.classifier, len(data.classifier)
    dim = classifier.shape[1]
    totals = classifier.new_zeros(num_classes, dim)
    counts = classifier.new_zeros(num_classes)
    for features, labels in data.batches(size):
        members = (labels[:, None] == torch.arange(num_classes)).to(features.dtype)
        counts += members.sum(dim=0)
        totals += members.T @ features
    means = totals / counts[:, None]
    centered = means - means.mean(dim=0)

    covariance = classifier.new_zeros(dim, dim)
    variances = classifier.new_zeros(num_classes)
    agreements = 0
    for features, labels in data.batches(size):
        members = (labels[:, None] == torch.arange(num_classes)).to(features.dtype)
        deviations = features - means[labels]
        covariance += deviations.T @ deviations
        variances += (members.T @ deviations**2).sum(dim=1)
        lengths = features.norm(dim=1)[:, None] ** 2 + means.norm(dim=1)[None] ** 2
        nearest = (lengths - 2 * features @ means.T).argmin(dim=1)
        agreements += int((nearest == (features @ classifier.T).argmax(dim=1)).sum())
    covariance /= len(data.features)

    between = centered.T @ centered / num_classes
    inverse = torch.linalg.pinv(between)
    differences = means[:, None] - means[None]
    distances = (differences**2).sum(dim=2)
    variances = variances / counts
    pairs = (variances[:, None] + variances[None]) / 2 / distances
    upper = torch.triu_indices(num_classes, num_classes, 1)
    return {
        "zhu_nc1": float(torch.trace(inverse @ covariance)) / num_classes,
        "cdnv": float(pairs[upper[0], upper[1]].mean()),
        "kothapalli_nc2": _distance_to_simplex(centered @ centered.T),
        "zhu_nc3": _distance_to_simplex(classifier @ centered.T),
        "ncc_mismatch_no_bias": 1 - agreements / len(data.features),
    }


def tding1(data: Data, size: int) -> dict[str, float]:
    """`validate_NC.py` of https://github.com/tding1/Neural-Collapse, the code of Zhu et al.

    The global mean is that of all samples. Σ_B is inverted by SciPy as a (d, d) matrix.
    """
    classifier, num_classes = data.classifier, len(data.classifier)
    dim = classifier.shape[1]
    sample_mean = classifier.new_zeros(dim)
    means = classifier.new_zeros(num_classes, dim)
    for features, labels in data.batches(size):
        sample_mean += features.sum(dim=0)
        means.index_add_(0, labels, features)
    sample_mean /= len(data.features)
    means /= torch.bincount(data.labels, minlength=num_classes)[:, None]

    covariance = classifier.new_zeros(dim, dim)
    for features, labels in data.batches(size):
        deviations = features - means[labels]
        covariance += deviations.T @ deviations
    covariance /= len(data.features)

    centered = means - sample_mean
    between = (centered.T @ centered / num_classes).numpy()
    return {
        "zhu_nc1": float(np.trace(covariance.numpy() @ scipy.linalg.pinv(between))) / num_classes,
        "zhu_nc2": _distance_to_simplex(classifier @ classifier.T),
        "zhu_nc3": _distance_to_simplex(classifier @ centered.T),
        "zhu_nc4": float((classifier @ sample_mean + data.bias).norm()),
    }


def neuralcollapse(data: Data, size: int) -> dict[str, float]:
    """The notebook of https://github.com/neuralcollapse/neuralcollapse (Papyan, Han, Donoho).

    The pseudo-inverse of Σ_B has K − 1 singular vectors, from SciPy's sparse solver.
    """
    classifier, num_classes = data.classifier, len(data.classifier)
    dim = classifier.shape[1]
    means = classifier.new_zeros(num_classes, dim)
    for features, labels in data.batches(size):
        for label in range(num_classes):
            means[label] += features[labels == label].sum(dim=0)
    means /= torch.bincount(data.labels, minlength=num_classes)[:, None]

    covariance = classifier.new_zeros(dim, dim)
    mismatches = 0
    for features, labels in data.batches(size):
        for label in range(num_classes):
            rows = features[labels == label]
            deviations = rows - means[label]
            covariance += deviations.T @ deviations
            predicted = (rows @ classifier.T + data.bias).argmax(dim=1)
            mismatches += int((torch.cdist(rows, means).argmin(dim=1) != predicted).sum())
    covariance /= len(data.features)

    centered = means - means.mean(dim=0)
    between = (centered.T @ centered / num_classes).numpy()
    found = scipy.sparse.linalg.svds(between, k=num_classes - 1)
    vectors, values = np.asarray(found[0]), np.asarray(found[1])
    inverse = vectors / values @ vectors.T
    lengths, classifier_lengths = centered.norm(dim=1), classifier.norm(dim=1)
    gap = classifier / classifier.norm() - centered / centered.norm()
    return {
        "zhu_nc1": float(np.trace(covariance.numpy() @ inverse)) / num_classes,
        "papyan_feature_equinorm": float(lengths.std() / lengths.mean()),
        "papyan_classifier_equinorm": float(classifier_lengths.std() / classifier_lengths.mean()),
        "ji_feature_cosine_gap": _cosine_gap(centered / lengths[:, None]),
        "papyan_classifier_cosine_gap": _cosine_gap(classifier / classifier_lengths[:, None]),
        "papyan_self_duality": float(gap.norm() ** 2),
        "papyan_ncc_mismatch": mismatches / len(data.features),
    }


def _distance_to_simplex(matrix: torch.Tensor) -> float:
    """‖A/‖A‖_F − E‖_F of a matrix A."""
    num_classes = len(matrix)
    projector = torch.eye(num_classes, dtype=matrix.dtype) - 1 / num_classes
    return float((matrix / matrix.norm() - projector / math.sqrt(num_classes - 1)).norm())


def _cosine_gap(unit: torch.Tensor) -> float:
    """Mean distance of the cosines of rows of length 1 from those of a simplex."""
    num_classes = len(unit)
    gaps = unit @ unit.T + 1 / (num_classes - 1)
    gaps.fill_diagonal_(0)
    return float(gaps.abs().sum()) / (num_classes * (num_classes - 1))


PEERS: dict[str, Callable[[Data, int], dict[str, float]]] = {
    "rhubarbwu": rhubarbwu, "tding1": tding1, "neuralcollapse": neuralcollapse
}  # fmt: skip
