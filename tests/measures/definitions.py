"""Definitions of the measures of six modules, `variability` to `imbalance`.

They are written plainly in mpmath with 50 digits, one line of the papers after the other, from the
floats that features and classifier are. Cancellation and underflow cannot occur at these digits.
"""

from typing import Any

import mpmath as mp
import numpy as np

import nc_jax as nc

DIGITS = 50


class Definitions:
    """Class means, deviations and their statistics of features (N, d), exact to 50 digits."""

    def __init__(self, features, labels, classifier, bias):
        self.h, self.w, self.b = (_exact(a) for a in (features, classifier, bias))
        self.labels, self.classes = labels, range(len(classifier))
        self.num_classes, self.dim = np.shape(classifier)
        self.counts = [int(np.sum(labels == c)) for c in self.classes]
        self.mu = np.array([self.h[labels == c].sum(0) / self.counts[c] for c in self.classes])
        self.mu_g = self.mu.sum(0) / self.num_classes
        self.mu_s = self.h.sum(0) / len(self.h)
        self.m, self.m_s = self.mu - self.mu_g, self.mu - self.mu_s
        self.w_tilde = self.w - self.w.sum(0) / self.num_classes
        self.deviations = self.h - self.mu[labels]
        self.pairs = [(c, k) for c in self.classes for k in self.classes if c != k]
        self.v = [
            sum(norm(x) ** 2 for x in self.deviations[labels == c]) / self.counts[c]
            for c in self.classes
        ]

    @property
    def sigma_w(self):
        return self.deviations.T @ self.deviations / len(self.h)

    def sigma_b(self, rows):
        return rows.T @ rows / self.num_classes

    def over_pairs(self, function):
        return [function(c, k) for c, k in self.pairs]

    def by_pair(self, function):
        return np.array([[function(c, k) for k in self.classes] for c in self.classes])


def measured(features, labels, classifier=None, bias=None, *, names) -> dict[str, Any]:
    """`nc.metrics.measure`, without the distinction of floats and arrays among types."""
    return dict(nc.metrics.measure(features, labels, classifier, bias, names=names))


def _exact(array):
    return np.vectorize(lambda x: mp.mpf(float(x)), otypes=[object])(np.asarray(array))


def norm(vector):
    return mp.sqrt(sum(x * x for x in np.ravel(vector)))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def variance(values, ddof=0):
    average = mean(values)
    return sum((x - average) ** 2 for x in values) / (len(values) - ddof)


def cosine(x, y):
    return np.dot(x, y) / (norm(x) * norm(y))


def chord(x, y):
    """Distance of two vectors divided by their norms."""
    return norm(x / norm(x) - y / norm(y))


def eigen(matrix):
    """Eigenvalues, in ascending order, and eigenvectors of a symmetric matrix."""
    values, vectors = mp.eigsy(mp.matrix(matrix.tolist()))
    return np.array(list(values)), np.array(vectors.tolist(), object)


def pseudo_inverse(matrix):
    values, vectors = eigen(matrix)
    smallest = mp.mpf(10) ** (10 - DIGITS) * max(values)
    inverse = np.array([1 / x if x > smallest else mp.mpf(0) for x in values])
    return (vectors * inverse) @ vectors.T


def rank(matrix):
    values, _ = eigen(matrix)
    return sum(x > mp.mpf(10) ** (10 - DIGITS) * max(values) for x in values)


def simplex(num_classes):
    identity = np.array([[mp.mpf(c == k) for k in range(num_classes)] for c in range(num_classes)])
    return (identity - mp.mpf(1) / num_classes) / mp.sqrt(num_classes - 1)


def orthogonal(num_classes):
    return np.array(
        [[(c == k) / mp.sqrt(num_classes) for k in range(num_classes)] for c in range(num_classes)]
    )


def gram_gap(matrix, target):
    return norm(matrix / norm(matrix) - target)


def frame_distance(rows):
    """2 − 2⟨Y, PE⟩ at the best P, which is the polar factor of the centred Y (Procrustes)."""
    num_classes = len(rows)
    centered = rows - rows.sum(0) / num_classes
    values, _ = eigen(centered @ centered.T)
    nuclear = sum(mp.sqrt(max(x, mp.mpf(0))) for x in values)
    return 2 - 2 * nuclear / (norm(rows) * mp.sqrt(num_classes - 1))


def variability(t: Definitions):
    """Equations of `measures.variability`."""
    within, between = t.sigma_w, t.sigma_b(t.m)
    trace_w, trace_b = np.trace(within), np.trace(between)
    around = sum(norm(x - t.mu_s) ** 2 for x in t.h)
    inside = sum(norm(x) ** 2 for x in t.deviations)
    inverse = pseudo_inverse(between)
    by_class = [t.deviations[t.labels == c] for c in t.classes]
    total = pseudo_inverse(within + between) @ between
    return {
        "tirer_nc1": trace_w / trace_b,
        "within_share": inside / around,
        "between_share": 1 - inside / around,
        "papyan_nc1_by_class": [np.trace(d.T @ d @ inverse) / len(d) for d in by_class],
        "zhu_nc1_sample_mean": np.trace(within @ pseudo_inverse(t.sigma_b(t.m_s))) / t.num_classes,
        "within_class_variance_by_class": t.v,
        "relative_variance_by_class": [v / norm(m) ** 2 for v, m in zip(t.v, t.m, strict=True)],
        "wu_cdnv": mean(
            t.over_pairs(lambda c, k: (t.v[c] + t.v[k]) / (2 * norm(t.mu[c] - t.mu[k]) ** 4))
        ),
        "fisher_ratio": trace_b / trace_w if trace_w else mp.inf,
        "xu_vci": 1 - np.trace(total) / rank(between),
        **fisher(within, between),
    }


def fisher(within, between):
    """Largest eigenvalue and trace of Σ_W^{-1} Σ_B; ∞ where Σ_B leaves the range of Σ_W."""
    values, vectors = eigen(within)
    known = [
        x > mp.mpf(10) ** (10 - DIGITS) * max(max(values), mp.mpf(10) ** -DIGITS) for x in values
    ]
    outside = vectors[:, [not x for x in known]]
    if outside.size and norm(outside.T @ between) > mp.mpf(10) ** (10 - DIGITS) * norm(between):
        return {"fisher_ratio_max": mp.inf, "fisher_discriminant": mp.inf}
    whitening = vectors[:, known] / np.array([mp.sqrt(x) for x in values[known]])
    ratios, _ = eigen(whitening.T @ between @ whitening)
    return {"fisher_ratio_max": max(ratios), "fisher_discriminant": sum(ratios)}


def arrangement(t: Definitions):
    """Equations of `measures.arrangement`."""
    etf, frame = simplex(t.num_classes), orthogonal(t.num_classes)
    m, w = [norm(x) for x in t.m], [norm(x) for x in t.w]
    logs = [mp.log(x) for x in m]
    return {
        "kothapalli_nc2": gram_gap(t.m @ t.m.T, etf),
        "zhou_nc2": gram_gap(t.w_tilde @ t.w_tilde.T, etf),
        "tirer_nc2_orthogonal": gram_gap(t.mu @ t.mu.T, frame),
        "tirer_nc2_orthogonal_classifier": gram_gap(t.w @ t.w.T, frame),
        "feature_orthogonality_gap": mean(t.over_pairs(lambda c, k: abs(cosine(t.mu[c], t.mu[k])))),
        "classifier_orthogonality_gap": mean(
            t.over_pairs(lambda c, k: abs(cosine(t.w[c], t.w[k])))
        ),
        "markou_feature_etf_distance": frame_distance(t.m),
        "markou_classifier_etf_distance": frame_distance(t.w),
        "feature_norm_by_class": m,
        "classifier_norm_by_class": w,
        "feature_norm_min": min(m) / mean(m),
        "feature_norm_max": max(m) / mean(m),
        "classifier_norm_min": min(w) / mean(w),
        "classifier_norm_max": max(w) / mean(w),
        "log_norm_std": mp.sqrt(variance(logs)),
        "wu_equinorm": mp.sqrt(variance(logs)) / mean(logs),
    }


def angles(t: Definitions):
    """Equations of `measures.angles`."""
    m = t.over_pairs(lambda c, k: cosine(t.m[c], t.m[k]))
    w = t.over_pairs(lambda c, k: cosine(t.w[c], t.w[k]))
    tilde = t.over_pairs(lambda c, k: cosine(t.w_tilde[c], t.w_tilde[k]))
    # A cosine may exceed 1 by 1e-50.
    feature_angles, classifier_angles = ([mp.re(mp.acos(x)) for x in cosines] for cosines in (m, w))
    r = min(t.dim, t.num_classes - 1)
    bound = mp.sqrt(mp.mpf(t.num_classes - r) / (r * (t.num_classes - 1)))
    return {
        "papyan_feature_cosine_std": mp.sqrt(variance(m)),
        "papyan_classifier_cosine_std": mp.sqrt(variance(w)),
        "feature_cosine_by_pair": t.by_pair(lambda c, k: cosine(t.m[c], t.m[k])),
        "classifier_cosine_by_pair": t.by_pair(lambda c, k: cosine(t.w[c], t.w[k])),
        "feature_cosine_min": min(m),
        "feature_cosine_max": max(m),
        "classifier_cosine_min": min(w),
        "classifier_cosine_max": max(w),
        "feature_coherence": max(map(abs, m)),
        "classifier_coherence": max(map(abs, w)),
        "feature_welch_gap": max(map(abs, m)) - bound,
        "classifier_welch_gap": max(map(abs, tilde)) - bound,
        "feature_angle_min": min(feature_angles),
        "feature_angle_max": max(feature_angles),
        "feature_angle_std": mp.sqrt(variance(feature_angles)),
        "classifier_angle_min": min(classifier_angles),
        "classifier_angle_max": max(classifier_angles),
        "classifier_angle_std": mp.sqrt(variance(classifier_angles)),
    }


def kernels(t: Definitions):
    """Equations of `measures.kernels`."""
    m = t.over_pairs(lambda c, k: chord(t.m[c], t.m[k]))
    w = t.over_pairs(lambda c, k: chord(t.w[c], t.w[k]))
    riesz = [x ** (2 - t.dim) for x in m]
    return {
        "feature_distance_mean": mean(m),
        "feature_distance_variance": variance(m),
        "feature_distance_min": min(m),
        "classifier_distance_min": min(w),
        "feature_distance_by_pair": t.by_pair(lambda c, k: norm(t.mu[c] - t.mu[k])),
        "liu_log_energy": mean(-mp.log(x) for x in m),
        "liu_log_variance": variance([-mp.log(x) for x in m]),
        "liu_classifier_log_energy": mean(-mp.log(x) for x in w),
        "wu_riesz_log_energy": mp.log(mean(riesz)),
        "wu_riesz_variation": mp.sqrt(variance(riesz)) / mean(riesz),
    }


def balanced_parts(t: Definitions):
    """Distances of W and √n_c μ_c, of norm 1, from their balanced factors, and between these."""
    root = np.array([mp.sqrt(n) for n in t.counts])[:, None]
    w, m = t.w / norm(t.w), root * t.mu / norm(root * t.mu)
    centred = t.w_tilde / norm(t.w)
    u, s, v = (np.array(x.tolist()) for x in mp.svd_r(mp.matrix((m @ centred.T).tolist())))
    rank = min(t.num_classes, t.dim)
    s = np.array([mp.sqrt(x) if x > mp.mpf(10) ** -40 else mp.mpf(0) for x in s.ravel()[:rank]])
    of_m, of_w = u[:, :rank] * s, v.T[:, :rank] * s
    first, _, second = mp.svd_r(mp.matrix((of_w.T @ w + of_m.T @ m).tolist()))
    q = np.array((first * second).tolist())
    return norm(w - of_w @ q), norm(m - of_m @ q), norm(of_w - of_m) / norm(s)


def duality(t: Definitions):
    """Equations of `measures.duality`."""
    etf, frame = simplex(t.num_classes), orthogonal(t.num_classes)
    cosines = [cosine(t.w[c], t.m[c]) for c in t.classes]
    products = [np.dot(t.w[c], t.m[c]) for c in t.classes]
    classifier_part, feature_part, logit_part = balanced_parts(t)
    return {
        "zhu_nc3_sample_mean": gram_gap(t.w @ t.m_s.T, etf),
        "zhou_nc3": gram_gap(t.w_tilde @ t.m.T, etf),
        "zhou_nc3_sample_mean": gram_gap(t.w_tilde @ t.m_s.T, etf),
        "yaras_nc3": gram_gap(t.w @ t.mu.T, etf),
        "tirer_nc3_orthogonal": gram_gap(t.w @ t.mu.T, frame),
        "self_duality_by_class": [chord(t.w[c], t.m[c]) for c in t.classes],
        "self_duality": mean(chord(t.w[c], t.m[c]) for c in t.classes),
        "ji_self_duality_by_class": [chord(t.w_tilde[c], t.m[c]) for c in t.classes],
        "cosine_duality_by_class": cosines,
        "cosine_duality": mean(cosines),
        "jiang_gnc3": mean(1 - cosine(t.w[c], t.m_s[c]) for c in t.classes),
        "wu_uniform_duality": mp.sqrt(variance(cosines)) / mean(cosines),
        "duality_product_by_class": products,
        "wu_product_variance": variance(products, ddof=1),
        "self_duality_classifier_part": classifier_part,
        "self_duality_feature_part": feature_part,
        "self_duality_logit_part": logit_part,
        "zhu_nc4_sample_mean": norm(t.w @ t.mu_s + t.b),
        "zhu_nc4_no_bias": norm(t.w @ t.mu_g),
        "global_logit_by_class": t.w @ t.mu_g + t.b,
        "zhao_nc0": norm(t.w.sum(0)) ** 2 / t.num_classes,
        "nc0_share": norm(t.w.sum(0)) ** 2 / (t.num_classes * norm(t.w) ** 2),
    }


def imbalance(t: Definitions):
    """Equations of `measures.imbalance`."""
    projector = simplex(t.num_classes) * mp.sqrt(t.num_classes - 1)
    counts = np.array([mp.mpf(n) for n in t.counts])
    values, vectors = eigen(projector @ (counts[:, None] * projector))
    # The eigenvalue 0 of PDP is the first, and the vector 1 its direction.
    vectors, values = vectors[:, 1:], values[1:]
    roots = np.array([mp.sqrt(x) for x in values])

    def gap(gram, powers):
        reference = (vectors * powers) @ vectors.T
        return norm(gram / np.trace(gram) - reference / np.trace(reference))

    logits = (t.h @ t.w.T + t.b) @ projector
    target = projector[t.labels]
    size = np.sum(logits * target) / np.sum(target * target)
    return {
        "seli_classifier_gap": gap(t.w @ t.w.T, roots),
        "seli_mean_gap": gap(t.m @ t.m.T, 1 / roots),
        "seli_logit_gap": norm(logits - size * target) / norm(logits),
    }
