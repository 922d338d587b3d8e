"""The measures of Ji, Zhu, Papyan and Galanti with 50 digits, from their definitions.

Features are read as the decimal numbers that their floats are, so that a reference belongs to the
stored numbers and not to those that were rounded to them. Python's decimals are ten times as fast
as mpmath, which solves the linear systems.
"""

from decimal import Decimal, localcontext

import mpmath as mp
import numpy as np

DIGITS = 50


def exact(array) -> np.ndarray:
    """An array of floats of any width as an array of decimals, without rounding."""
    wide = np.asarray(array).astype(np.float64)
    return np.vectorize(lambda x: Decimal(float(x)), otypes=[object])(wide)


def norm(vector):
    return sum((entry * entry for entry in vector), Decimal(0)).sqrt()


def mean(values):
    values = list(values)
    return sum(values, Decimal(0)) / len(values)


def variation(norms, ddof: int = 0):
    average = mean(norms)
    variance = sum(((x - average) ** 2 for x in norms), Decimal(0)) / (len(norms) - ddof)
    return variance.sqrt() / average


def cosine_gap(vectors):
    num_classes = len(vectors)
    units = [v / norm(v) for v in vectors]
    total = sum(
        abs(np.dot(units[c], units[k]) + Decimal(1) / (num_classes - 1))
        for c in range(num_classes)
        for k in range(c)
    )
    return total / (num_classes * (num_classes - 1) // 2)


def distance_to_simplex(matrix):
    num_classes = len(matrix)
    matrix = matrix / norm(matrix.ravel())
    simplex = np.full((num_classes, num_classes), -Decimal(1) / num_classes, object)
    simplex += np.diag(np.full(num_classes, Decimal(1), object))
    return norm((matrix - simplex / Decimal(num_classes - 1).sqrt()).ravel())


def solve(matrix, right):
    to_mpf = np.vectorize(lambda x: mp.mpf(str(x)), otypes=[object])
    solution = mp.lu_solve(mp.matrix(to_mpf(matrix).tolist()), mp.matrix(to_mpf(right).tolist()))
    return np.array([Decimal(str(x)) for x in solution], object).reshape(right.shape)


def trace_of_ratio(deviations, centered):
    """tr(Σ_W Σ_B⁺) for class means that span min(d, K−1) dimensions."""
    num_classes, dim = centered.shape
    if dim < num_classes:
        between = centered.T @ centered / num_classes
        within = deviations.T @ deviations / len(deviations)
        columns = [solve(between, within[:, [k]])[k, 0] for k in range(dim)]
        return sum(columns)
    # d >= K: rows N with NᵀN = MᵀM by Helmert's contrasts, and M⁺M⁺ᵀ = Nᵀ(NNᵀ)⁻²N.
    contrasts = np.zeros((num_classes - 1, num_classes), object)
    for k in range(1, num_classes):
        contrasts[k - 1, :k] = 1 / Decimal(k * (k + 1)).sqrt()
        contrasts[k - 1, k] = -k / Decimal(k * (k + 1)).sqrt()
    rows = contrasts @ centered
    gram, projected = rows @ rows.T, rows @ deviations.T
    solved = np.hstack([solve(gram, projected[:, [i]]) for i in range(len(deviations))])
    return num_classes * sum(x * x for x in solved.ravel()) / len(deviations)


def references(features, labels, classifier, bias) -> dict:
    """Every measure by its definition."""
    with mp.workdps(DIGITS), localcontext() as context:
        context.prec = DIGITS
        h, w, b = exact(features), exact(classifier), exact(bias)
        num_classes = len(w)
        means = np.array(
            [h[labels == c].sum(axis=0) / int(np.sum(labels == c)) for c in range(num_classes)]
        )
        global_mean = means.sum(axis=0) / num_classes
        m, w_tilde = means - global_mean, w - w.sum(axis=0) / num_classes
        deviations, around = h - means[labels], h - global_mean
        variances = [
            sum(x * x for x in deviations[labels == c].ravel()) / int(np.sum(labels == c))
            for c in range(num_classes)
        ]
        nc1 = trace_of_ratio(deviations, m)
        norms = {
            name: [norm(v) for v in rows] for name, rows in [("m", m), ("t", w_tilde), ("w", w)]
        }
        whole_m, whole_w = norm(m.ravel()), norm(w.ravel())
        pairs = [
            (variances[c] + variances[k]) / (2 * sum((m[c] - m[k]) ** 2))
            for c in range(num_classes)
            for k in range(c)
        ]
        return {
            "ji_feature_norm_variation": variation(norms["m"]),
            "ji_classifier_norm_variation": variation(norms["t"]),
            "ji_within_class_variation": mean(map(norm, deviations)) / mean(map(norm, around)),
            "ji_feature_cosine_gap": cosine_gap(m),
            "ji_classifier_cosine_gap": cosine_gap(w_tilde),
            "ji_self_duality": mean(
                norm(m[c] / norms["m"][c] - w_tilde[c] / norms["t"][c]) for c in range(num_classes)
            ),
            "zhu_nc1": nc1 / num_classes,
            "zhu_nc2": distance_to_simplex(w @ w.T),
            "zhu_nc3": distance_to_simplex(w @ m.T),
            "zhu_nc4": norm(w @ global_mean + b),
            "papyan_nc1": nc1,
            "papyan_feature_equinorm": variation(norms["m"], ddof=1),
            "papyan_classifier_equinorm": variation(norms["w"], ddof=1),
            "papyan_classifier_cosine_gap": cosine_gap(w),
            "papyan_self_duality": sum(x * x for x in (w / whole_w - m / whole_m).ravel()),
            "cdnv": mean(pairs),
        }
