"""Flows of unequal classes to late times, which several tests share."""

import numpy as np

import nc_jax as nc


def late_flow(sizes, start, log_times, *, rtol=1e-10, **options):
    """States of the flow of summed cross-entropy, without bias and decay, at log(1+t)."""
    problem = nc.UnconstrainedFeatures(sizes, start.features.shape[1], reduction="sum")
    return nc.gradient_flow(
        problem, start, log_times, rtol=rtol, atol=rtol / 100, save_states=True,
        observe=("log_objective", "margin_min", "squared_norm"), **options,
    )  # fmt: skip


def class_rows(states, sizes):
    """Logits, WWᵀ and MMᵀ of the first sample of each class, each (T, K, K)."""
    first = np.cumsum([0, *sizes[:-1]])
    means, classifier = np.asarray(states.features)[:, first], np.asarray(states.classifier)
    across = classifier.swapaxes(1, 2)
    return means @ across, classifier @ across, means @ means.swapaxes(1, 2)


def margins_of(logits):
    """s_kc = z_kk − z_kc for c ≠ k, (..., K(K−1))."""
    gaps = np.diagonal(logits, axis1=-2, axis2=-1)[..., None] - logits
    return gaps[..., ~np.eye(gaps.shape[-1], dtype=bool)]


def relative_grams(*grams):
    """Gram matrices divided by their traces, side by side."""
    return np.stack([g / np.trace(g, axis1=-2, axis2=-1)[..., None, None] for g in grams], -1)
