"""Measures of collapse in NumPy, with sums over samples in extended precision, as a reference."""

import math

import numpy as np


def reference(
    features: np.ndarray, labels: np.ndarray, classifier: np.ndarray, bias: np.ndarray
) -> dict[str, float]:
    """Measures by the names of nc_jax; `np.longdouble` has 64 bits of mantissa on x86.

    Σ_B⁺ is applied by the singular vectors of the class means, so that no condition number is
    squared. Nearest class means are found with the global mean as origin.
    """
    wide = np.longdouble
    num_classes = len(classifier)
    means = np.stack([features[labels == c].mean(axis=0, dtype=wide) for c in range(num_classes)])
    global_mean = means.mean(axis=0)
    centered = (means - global_mean).astype(float)
    _, singular, right = np.linalg.svd(centered, full_matrices=False)
    kept = singular[: num_classes - 1]
    whitening = right[: num_classes - 1].T / kept * math.sqrt(num_classes)

    scatter, whitened, mismatches = np.zeros(num_classes, wide), wide(0), {"bias": 0, "none": 0}
    weights = classifier.astype(float)
    for label in range(num_classes):
        rows = features[labels == label].astype(wide)
        deviations = rows - means[label]
        scatter[label] = np.sum(deviations**2)
        whitened += np.sum(((deviations.astype(float) @ whitening) ** 2).astype(wide))
        nearness = (rows - global_mean).astype(float) @ centered.T - (centered**2).sum(axis=1) / 2
        logits = rows.astype(float) @ weights.T
        nearest = nearness.argmax(axis=1)
        mismatches["bias"] += np.sum(nearest != (logits + bias).argmax(axis=1))
        mismatches["none"] += np.sum(nearest != logits.argmax(axis=1))

    count, nc1 = len(features), float(whitened) / len(features)
    variances = (scatter / np.bincount(labels)).astype(float)
    differences = (means[:, None] - means[None]).astype(float)
    off = ~np.eye(num_classes, dtype=bool)
    pairs = (variances[:, None] + variances[None])[off] / (2 * (differences**2).sum(axis=2)[off])
    lengths, weight_lengths = _lengths(centered), _lengths(weights)
    duality = weights / np.linalg.norm(weights) - centered / np.linalg.norm(centered)
    measures = {
        "zhu_nc1": nc1 / num_classes,
        "papyan_nc1": nc1,
        "cdnv": pairs.mean(),
        "kothapalli_nc2": _distance_to_simplex(centered @ centered.T),
        "zhu_nc2": _distance_to_simplex(weights @ weights.T),
        "zhu_nc3": _distance_to_simplex(weights @ centered.T),
        "zhu_nc4": np.linalg.norm(weights @ global_mean.astype(float) + bias),
        "papyan_feature_equinorm": lengths.std(ddof=1) / lengths.mean(),
        "papyan_classifier_equinorm": weight_lengths.std(ddof=1) / weight_lengths.mean(),
        "ji_feature_cosine_gap": _cosine_gap(centered / lengths[:, None]),
        "papyan_classifier_cosine_gap": _cosine_gap(weights / weight_lengths[:, None]),
        "papyan_self_duality": np.sum(duality**2),
        "papyan_ncc_mismatch": mismatches["bias"] / count,
        "ncc_mismatch_no_bias": mismatches["none"] / count,
    }
    return {name: float(value) for name, value in measures.items()}


def _lengths(rows: np.ndarray) -> np.ndarray:
    return np.linalg.norm(rows, axis=1)


def _distance_to_simplex(matrix: np.ndarray) -> float:
    num_classes = len(matrix)
    target = (np.eye(num_classes) - 1 / num_classes) / math.sqrt(num_classes - 1)
    return float(np.linalg.norm(matrix / np.linalg.norm(matrix) - target))


def _cosine_gap(unit: np.ndarray) -> float:
    num_classes = len(unit)
    off = ~np.eye(num_classes, dtype=bool)
    return float(np.abs(unit @ unit.T + 1 / (num_classes - 1))[off].mean())
